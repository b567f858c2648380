//! `cargo xtask bench`: runs the benchmark programs and writes docs/benchmarks.md.
//!
//! A program prints lines `RESULT name value`, with or without a unit behind, for the figure and for its floor and its
//! peer, measured in the same run. Each program is run several times; the median of all lines of a name is its figure,
//! the least and the greatest are its spread. What a program cannot measure here it tells as `SKIP name: reason`. To add
//! a benchmark, add a [`Benchmark`] to [`BENCHMARKS`].

mod table;

use std::collections::BTreeMap;

use anyhow::{Context, Result, bail, ensure};

use crate::Options;
use crate::command::{self, Show, program};
use crate::machine::{Machine, between_markers};
use crate::skips::Skip;
use table::BENCHMARKS;

const DOCUMENT: &str = "docs/benchmarks.md";
const ROUNDS: usize = 3;

/// A row of the table.
#[derive(Clone, Copy, Debug)]
pub struct Benchmark {
    /// The name of its result, and what it is called on the command line.
    pub name: &'static str,
    /// What is measured, for the table.
    pub what: &'static str,
    pub unit: &'static str,
    /// The name of the result that says what the machine can do with nothing of ours in the way.
    pub floor: Option<&'static str>,
    /// The name of the result of what a user would take instead.
    pub peer: Option<&'static str>,
    pub target: Target,
    /// The program and its arguments. Rows with the same command share its runs.
    pub command: &'static [&'static str],
}

/// What a figure is to reach.
#[derive(Clone, Copy, PartialEq, Debug)]
#[allow(dead_code, reason = "the forms that a row may choose from")]
pub enum Target {
    AtMost(f64),
    AtLeast(f64),
    /// So much more than the floor.
    BeyondFloor(f64),
    /// So many times the floor.
    TimesFloor(f64),
    /// So many times the peer: a latency, where less is better.
    AtMostPeer(f64),
    /// So many times the peer: a rate, where more is better.
    AtLeastPeer(f64),
    /// Shown, and not judged.
    Shown,
}

/// The values of one name.
#[derive(Clone, PartialEq, Debug)]
struct Figure {
    median: f64,
    least: f64,
    greatest: f64,
}

/// What all programs have said.
#[derive(Clone, Default, Debug)]
struct Figures {
    of: BTreeMap<String, Figure>,
    skips: Vec<Skip>,
}

impl Figures {
    /// The figure of this name, or why there is none.
    ///
    /// # Errors
    /// Its program said neither.
    fn get(&self, name: &str) -> Result<Result<&Figure, &Skip>> {
        match self.of.get(name) {
            Some(figure) => Ok(Ok(figure)),
            // A skip stands for all names that begin with its own.
            None => {
                let skip = self.skips.iter().find(|skip| name.starts_with(&skip.name));
                skip.map(Err).with_context(|| format!("no line `RESULT {name} …` was printed"))
            }
        }
    }
}

pub fn run(options: &Options) -> Result<bool> {
    if options.list {
        BENCHMARKS.iter().for_each(|bench| println!("{:<24} {}", bench.name, bench.what));
        return Ok(true);
    }
    let chosen = choose(BENCHMARKS, &options.names)?;
    let rounds = options.rounds.unwrap_or(ROUNDS).max(1);
    let machine = Machine::here();
    let figures = measure(&chosen, rounds, Show::All)?;
    let (table, all_met) = table(&chosen, &figures)?;
    println!("\n{table}");
    if options.names.is_empty() {
        write(&machine, &table, &chosen, rounds)?;
        println!("written to {DOCUMENT}");
    } else {
        println!("{DOCUMENT} is written when all are run");
    }
    Ok(all_met)
}

fn choose<'a>(all: &'a [Benchmark], names: &[String]) -> Result<Vec<&'a Benchmark>> {
    if let Some(unknown) = names.iter().find(|name| all.iter().all(|bench| bench.name != **name)) {
        bail!("there is no benchmark `{unknown}`: see `cargo xtask bench --list`");
    }
    ensure!(!all.is_empty(), "there are no benchmarks yet");
    Ok(all.iter().filter(|bench| names.is_empty() || names.iter().any(|name| name == bench.name)).collect())
}

/// Runs each program `rounds` times, in turn, so that a slow minute of the machine does not fall on one of them alone.
fn measure(chosen: &[&Benchmark], rounds: usize, show: Show) -> Result<Figures> {
    let mut commands: Vec<&[&str]> = chosen.iter().map(|bench| bench.command).collect();
    let mut seen = Vec::new();
    commands.retain(|command| {
        !seen.contains(command) && {
            seen.push(*command);
            true
        }
    });
    let mut values: BTreeMap<String, Vec<f64>> = BTreeMap::new();
    let mut skips = Vec::new();
    for _ in 0..rounds {
        for words in &commands {
            let mut command = program(words[0]);
            let ran = command::run(command.args(&words[1..]), show)?;
            ensure!(ran.success, "`{}` failed", words.join(" "));
            for (name, value) in ran.output.lines().filter_map(result) {
                values.entry(name.to_string()).or_default().push(value);
            }
            skips.extend(ran.skips);
        }
    }
    Ok(Figures { of: values.into_iter().map(|(name, values)| (name, figure(values))).collect(), skips })
}

/// Reads `RESULT name value`.
fn result(line: &str) -> Option<(&str, f64)> {
    let mut words = line.trim().strip_prefix("RESULT ")?.split_whitespace();
    let (name, value) = (words.next()?, words.next()?.parse().ok()?);
    Some((name, value)).filter(|(_, value): &(&str, f64)| value.is_finite())
}

fn figure(mut values: Vec<f64>) -> Figure {
    values.sort_by(f64::total_cmp);
    let middle = values.len() / 2;
    let median = if values.len() % 2 == 1 { values[middle] } else { (values[middle - 1] + values[middle]) / 2.0 };
    Figure { median, least: values[0], greatest: values[values.len() - 1] }
}

/// The table, and whether every target is met.
fn table(chosen: &[&Benchmark], figures: &Figures) -> Result<(String, bool)> {
    let mut table = String::from("| what | figure | spread | floor | peer | target | met |\n");
    table += "| --- | ---: | ---: | ---: | ---: | --- | --- |\n";
    let mut all_met = true;
    for bench in chosen {
        // A program that says nothing is an error, not an empty row.
        let own = match figures.get(bench.name)? {
            Ok(own) => own,
            Err(skip) => {
                table += &format!("| {} | skipped: {} | | | | | |\n", bench.what, skip.reason);
                continue;
            }
        };
        let other = |name: Option<&str>| -> Result<(Option<f64>, bool)> {
            let found = name.map(|name| figures.get(name)).transpose()?;
            Ok((found.and_then(|found| Some(found.ok()?.median)), found.is_some_and(|found| found.is_err())))
        };
        let ((floor, no_floor), (peer, no_peer)) = (other(bench.floor)?, other(bench.peer)?);
        // What a row is to be compared with may be missing on this machine; then it is shown, and not judged.
        let met = if no_floor || no_peer { None } else { is_met(bench, own.median, floor, peer)? };
        all_met &= met != Some(false);
        table += &format!(
            "| {} | {} {} | {}–{} | {} | {} | {} | {} |\n",
            bench.what,
            digits(own.median),
            bench.unit,
            digits(own.least),
            digits(own.greatest),
            beside(own.median, floor),
            beside(own.median, peer),
            target(bench.target, bench.unit),
            met.map_or("", |met| if met { "yes" } else { "**no**" }),
        );
    }
    Ok((table, all_met))
}

fn is_met(bench: &Benchmark, own: f64, floor: Option<f64>, peer: Option<f64>) -> Result<Option<bool>> {
    let floor = || floor.with_context(|| format!("{}: its target needs a floor", bench.name));
    let peer = || peer.with_context(|| format!("{}: its target needs a peer", bench.name));
    Ok(Some(match bench.target {
        Target::Shown => return Ok(None),
        Target::AtMost(limit) => own <= limit,
        Target::AtLeast(limit) => own >= limit,
        Target::BeyondFloor(more) => own - floor()? <= more,
        Target::TimesFloor(times) => own <= floor()? * times,
        Target::AtMostPeer(times) => own <= peer()? * times,
        Target::AtLeastPeer(times) => own >= peer()? * times,
    }))
}

fn target(target: Target, unit: &str) -> String {
    match target {
        Target::Shown => String::new(),
        Target::AtMost(limit) => format!("≤ {} {unit}", digits(limit)),
        Target::AtLeast(limit) => format!("≥ {} {unit}", digits(limit)),
        Target::BeyondFloor(more) => format!("≤ floor + {} {unit}", digits(more)),
        Target::TimesFloor(times) => format!("≤ {times} × floor"),
        Target::AtMostPeer(times) => format!("≤ {} × peer", (times * 1000.0).round() / 1000.0),
        Target::AtLeastPeer(times) => format!("≥ {times} × peer"),
    }
}

/// Another figure, and the ratio to it.
fn beside(own: f64, other: Option<f64>) -> String {
    other.map_or(String::new(), |other| format!("{} ({:.2}×)", digits(other), own / other))
}

/// Three digits that count.
fn digits(value: f64) -> String {
    match value.abs() {
        size if size >= 100.0 || value == value.trunc() => format!("{value:.0}"),
        size if size >= 10.0 => format!("{value:.1}"),
        _ => format!("{value:.2}"),
    }
}

fn write(machine: &Machine, table: &str, chosen: &[&Benchmark], rounds: usize) -> Result<()> {
    let text = std::fs::read_to_string(DOCUMENT).context(DOCUMENT)?;
    let mut commands: Vec<String> = chosen.iter().map(|bench| format!("    {}\n", bench.command.join(" "))).collect();
    commands.dedup();
    let generated = format!(
        "{}- Runs of each program: {rounds}; medians\n\n{table}\nCommands:\n\n{}",
        machine.markdown(),
        commands.concat()
    );
    let text =
        between_markers(&text, "benchmarks", &generated).with_context(|| format!("{DOCUMENT} has no markers"))?;
    std::fs::write(DOCUMENT, text).context(DOCUMENT)
}

#[cfg(test)]
mod tests {
    use super::*;

    const SWITCH: Benchmark = Benchmark {
        name: "switch",
        what: "coroutine switch",
        unit: "ns",
        floor: Some("indirect_call"),
        peer: None,
        target: Target::BeyondFloor(6.0),
        command: &[
            "sh",
            "-c",
            "echo RESULT indirect_call 1.5 ns; echo RESULT switch 6.25 ns; echo RESULT switch 8.25 ns",
        ],
    };

    #[test]
    fn a_program_is_run_and_its_figures_stand_beside_its_floor() {
        let figures = measure(&[&SWITCH], 1, Show::Nothing).unwrap();
        assert_eq!(figures.of["switch"], Figure { median: 7.25, least: 6.25, greatest: 8.25 });
        let (table, all_met) = table(&[&SWITCH], &figures).unwrap();
        let row = "| coroutine switch | 7.25 ns | 6.25–8.25 | 1.50 (4.83×) |  | ≤ floor + 6 ns | yes |";
        assert!(all_met && table.contains(row), "{table}");
    }

    #[test]
    fn a_missing_program_and_a_missing_line_are_errors() {
        let missing = Benchmark { command: &["no-such-program-here"], ..SWITCH };
        assert!(measure(&[&missing], 1, Show::Nothing).is_err());
        let failing = Benchmark { command: &["sh", "-c", "echo RESULT switch 1 ns; exit 1"], ..SWITCH };
        assert!(measure(&[&failing], 1, Show::Nothing).is_err());
        let silent = Benchmark { command: &["true"], ..SWITCH };
        let figures = measure(&[&silent], 1, Show::Nothing).unwrap();
        assert!(table(&[&silent], &figures).is_err());
    }

    #[test]
    fn what_this_machine_cannot_show_is_told_and_not_judged() {
        let command =
            &["sh", "-c", "echo RESULT rate 7 ops/s; echo SKIP redis: it is not installed; echo SKIP hop: one CPU"];
        let rate = Benchmark {
            name: "rate",
            peer: Some("redis_rate"),
            floor: None,
            target: Target::AtLeastPeer(2.0),
            command,
            ..SWITCH
        };
        let hop = Benchmark { name: "hop_ns", floor: None, target: Target::AtMost(1.0), command, ..SWITCH };
        let figures = measure(&[&rate, &hop], 1, Show::Nothing).unwrap();
        let (table, all_met) = table(&[&rate, &hop], &figures).unwrap();
        assert!(all_met && table.contains("| 7 ns | 7–7 |  |  | ≥ 2 × peer |  |"), "{table}");
        assert!(table.contains("skipped: one CPU"), "{table}");
    }

    #[test]
    fn every_row_can_be_judged() {
        for row in BENCHMARKS {
            let needs_floor = matches!(row.target, Target::BeyondFloor(_) | Target::TimesFloor(_));
            let needs_peer = matches!(row.target, Target::AtMostPeer(_) | Target::AtLeastPeer(_));
            assert!((!needs_floor || row.floor.is_some()) && (!needs_peer || row.peer.is_some()), "{}", row.name);
            assert_eq!(BENCHMARKS.iter().filter(|other| other.name == row.name).count(), 1, "{}", row.name);
        }
    }

    #[test]
    fn a_target_that_is_not_met_is_told() {
        let rate = Benchmark { target: Target::AtLeastPeer(1.3), peer: Some("redis"), floor: None, ..SWITCH };
        assert_eq!(is_met(&rate, 129.0, None, Some(100.0)).unwrap(), Some(false));
        assert_eq!(is_met(&rate, 130.0, None, Some(100.0)).unwrap(), Some(true));
        assert!(is_met(&rate, 1.0, None, None).is_err(), "nothing to compare with");
        assert_eq!(
            is_met(&Benchmark { target: Target::TimesFloor(1.15), ..SWITCH }, 12.0, Some(10.0), None).unwrap(),
            Some(false)
        );
    }

    #[test]
    fn medians_are_of_all_lines_and_nonsense_is_no_line() {
        assert_eq!(figure(vec![9.0, 1.0, 2.0]).median, 2.0);
        assert_eq!(figure(vec![1.0, 2.0]).median, 1.5);
        assert_eq!(result("RESULT a 1.5 ns"), Some(("a", 1.5)));
        assert!(result("RESULT a").is_none() && result("RESULT a NaN").is_none() && result("x RESULT a 1").is_none());
    }
}
