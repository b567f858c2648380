//! `margay bench`: what this machine gives, in about ten seconds.
//!
//! A first impression for whoever thinks of using it, with nothing installed and nothing left behind. Comparisons with
//! floors and with others' work are in docs/benchmarks.md.

use std::io::{IsTerminal, Write, stderr};

use clap::Args;
use margay_bench::served::{Served, echo_p50, get_rate, with};
use margay_bench::{hop, local};

#[derive(Args)]
pub struct Arguments {}

/// A line of the table.
struct Figure {
    what: &'static str,
    /// With its unit; or why there is none.
    value: String,
    means: &'static str,
}

/// Runs one measurement.
type Measure = fn() -> anyhow::Result<String>;

const ALL: [(&str, Measure, &str); 7] = [
    (
        "coroutine switch",
        || Ok(nanos(local::coroutine_switch().switch)),
        "What it takes to go from one conversation to the next: thousands of them fit on a core.",
    ),
    (
        "memory queue, push and pop",
        || Ok(nanos(local::memory_queue())),
        "Handing 64 B over inside a core, with both waits: the queue calls themselves.",
    ),
    (
        "alloc and free, 64 B",
        || Ok(nanos(local::alloc(64).0)),
        "Memory for one message from the core's own heap, and back.",
    ),
    (
        "core to core, one hop",
        || Ok(hop::hop().map_or("(needs two processors)".into(), |(hop, _)| nanos(hop))),
        "A message to an actor on another core; most of it is the processors' own traffic.",
    ),
    (
        "TCP echo, spinning",
        || echo("spin"),
        "Median round trip of 64 B on the loopback with `--idle spin`: the kernel's sockets, no waiting.",
    ),
    (
        "TCP echo, adaptive",
        || echo("adaptive"),
        "The same with the default, which gives the processor back when nothing comes.",
    ),
    (
        "kv GET, 64 in flight",
        || Ok(format!("{:.0} k/s", with(Served::Kv, "adaptive", |at| get_rate(at, 64, 4_000))? / 1e3)),
        "Reads of 64 B that one core answers to one connection; `margay load` measures more of it.",
    ),
];

pub fn run(_: Arguments) -> anyhow::Result<i32> {
    let mut figures = Vec::new();
    for (what, measure, means) in ALL {
        show(&format!("measuring: {what}"));
        // One that fails is no reason to keep the others back.
        let value = measure().unwrap_or_else(|error| format!("({error:#})"));
        figures.push(Figure { what, value, means });
    }
    show("");
    print!("{}", table(&figures));
    println!("\nOther work on this machine makes them larger: the least of several runs is closest to the truth.");
    let missing = figures.iter().filter(|figure| figure.value.starts_with('(')).count();
    Ok(i32::from(missing == figures.len()))
}

fn echo(policy: &str) -> anyhow::Result<String> {
    Ok(micros(with(Served::Echo, policy, |at| echo_p50(at, 64, 5_000, 30_000))?))
}

fn nanos(nanos: f64) -> String {
    format!("{nanos:.1} ns")
}

fn micros(nanos: f64) -> String {
    format!("{:.1} us", nanos / 1e3)
}

/// A line that is overwritten by the next one: on a terminal only.
fn show(text: &str) {
    if stderr().is_terminal() {
        let _ = write!(stderr(), "\r{text:<60}\r"); // a terminal that is gone is no reason to stop
    }
}

fn table(figures: &[Figure]) -> String {
    let width = |cell: fn(&Figure) -> &str| figures.iter().map(|figure| cell(figure).len()).max().unwrap_or(0);
    let (what, value) = (width(|figure| figure.what), width(|figure| &figure.value));
    let line = |figure: &Figure| format!("{:<what$}  {:>value$}  {}\n", figure.what, figure.value, figure.means);
    figures.iter().map(line).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_stand_below_each_other() {
        let figure = |what, value: &str| Figure { what, value: value.into(), means: "It means this." };
        let table = table(&[figure("short", "1.0 ns"), figure("somewhat longer", "100.0 us")]);
        let places: Vec<Option<usize>> = table.lines().map(|line| line.find("It means")).collect();
        assert!(places.len() == 2 && places[0].is_some() && places[0] == places[1], "{table}");
    }
}
