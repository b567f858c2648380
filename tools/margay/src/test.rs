//! `margay test`: runs a world by its name, and says whether what its clients saw was right (docs/cluster-tests.md).

use std::fs::File;
use std::io::{BufReader, BufWriter};
use std::panic::catch_unwind;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Instant;

use anyhow::{Context, bail};
use clap::Args;
use cluster_tests::check::linearizable::Budget;
use cluster_tests::check::{Verdict, cache};
use cluster_tests::history::{History, Kind};
use cluster_tests::timeline;
use cluster_tests::worlds::namespaces::{client, remove_own};
use cluster_tests::worlds::{Means, Run, WORLDS, World};
use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};
use signal_hook::iterator::Signals;

/// All is as it must be.
const PASSED: i32 = 0;
/// The service did what it must not do, or did not do what it must.
const FAILED: i32 = 1;
/// Nothing was judged: a wrong name, a file that cannot be read, a world that cannot be made.
const UNUSABLE: i32 = 2;
/// It could not be found out.
const UNKNOWN: i32 = 3;

#[derive(Args)]
pub struct Arguments {
    /// Which world.
    #[arg(required_unless_present_any = ["list", "check"], value_name = "NAME")]
    name: Option<String>,
    /// What all chance is drawn from; drawn by chance itself if it is not given.
    #[arg(long, value_name = "N", value_parser = parse_seed)]
    seed: Option<u64>,
    /// So many runs, with this seed and those behind it. Histories of runs that pass are kept of one run only.
    #[arg(long, default_value_t = 1, value_name = "N")]
    count: u64,
    /// Print the names of all worlds.
    #[arg(long)]
    list: bool,
    /// Judge a history that was written before, and run nothing.
    #[arg(long, value_name = "FILE", conflicts_with_all = ["name", "seed", "count", "list"])]
    check: Option<PathBuf>,
    /// Where histories and pictures are written.
    #[arg(long, value_name = "DIR")]
    out: Option<PathBuf>,
}

/// What `margay test` tells the clients that it starts.
#[derive(Args)]
pub struct ClientArguments {
    /// What to do.
    order: String,
}

pub fn run_client(arguments: ClientArguments) -> anyhow::Result<i32> {
    client::run(&arguments.order)
}

pub fn run(arguments: Arguments) -> anyhow::Result<i32> {
    run_worlds(&arguments).or_else(|error| {
        eprintln!("margay: {error:#}");
        Ok(UNUSABLE)
    })
}

fn run_worlds(arguments: &Arguments) -> anyhow::Result<i32> {
    if arguments.list {
        WORLDS.iter().for_each(|world| println!("{:<12} {}", world.name, world.about));
        return Ok(PASSED);
    }
    let out = arguments.out.clone().unwrap_or_else(|| std::env::temp_dir().join("margay-test"));
    std::fs::create_dir_all(&out).with_context(|| format!("cannot make {}", out.display()))?;
    if let Some(path) = &arguments.check {
        return check(path, &out);
    }
    let name = arguments.name.as_deref().unwrap_or_default();
    let Some(world) = World::find(name) else {
        bail!("there is no world `{name}`; `margay test --list` has their names");
    };
    if let Some(reason) = world.is_missing() {
        println!("SKIP {name}: {reason}");
        return Ok(UNKNOWN);
    }
    if world.stage.has_processes() {
        clean_up_on_signals()?;
    }
    let means = Means { margay: std::env::current_exe().context("where this program is")?, revision: revision() };
    let first = arguments.seed.unwrap_or_else(any_seed);
    let mut worst = PASSED;
    for seed in (0..arguments.count).map(|i| first.wrapping_add(i)) {
        let code = run_one(world, seed, &means, &out, arguments.count == 1)?;
        // A failure is worse than not knowing.
        worst = if worst == FAILED || code == PASSED { worst } else { code };
    }
    Ok(worst)
}

/// A run that is interrupted leaves nothing behind.
fn clean_up_on_signals() -> anyhow::Result<()> {
    let mut signals = Signals::new([SIGINT, SIGTERM, SIGHUP])?;
    std::thread::spawn(move || {
        if let Some(signal) = signals.forever().next() {
            remove_own();
            std::process::exit(128 + signal);
        }
    });
    Ok(())
}

fn run_one(world: &'static World, seed: u64, means: &Means, out: &Path, keeps: bool) -> anyhow::Result<i32> {
    let started = Instant::now();
    let Ok(run) = catch_unwind(|| world.run(seed, means)) else {
        println!("{} seed {seed:#x}: FAILED: it panicked, see above", world.name);
        tell_again(world.name, seed);
        return Ok(FAILED);
    };
    let run = run.with_context(|| format!("{} seed {seed:#x}", world.name))?;
    let verdict = match (&run.stuck, &run.verdict) {
        (None, Verdict::Valid) => "valid",
        (Some(_), Verdict::Valid) => "STUCK",
        (_, Verdict::Invalid(_)) => "INVALID",
        (_, Verdict::Unknown(_)) => "unknown",
    };
    let took = started.elapsed().as_secs_f64();
    println!("{} seed {seed:#x}: {verdict}; {}, {took:.2} s", world.name, contents(&run.history));
    if keeps || !run.has_passed() {
        write(&run, &out.join(format!("{}-{seed:#x}", world.name)))?;
    }
    if run.has_passed() {
        return Ok(PASSED);
    }
    run.stuck.iter().for_each(|what| println!("{what}"));
    if run.verdict != Verdict::Valid {
        println!("{}", run.verdict);
    }
    tell_again(world.name, seed);
    Ok(code_of(&run.verdict, run.stuck.is_some()))
}

fn code_of(verdict: &Verdict, is_stuck: bool) -> i32 {
    match verdict {
        Verdict::Invalid(_) => FAILED,
        _ if is_stuck => FAILED,
        Verdict::Unknown(_) => UNKNOWN,
        Verdict::Valid => PASSED,
    }
}

fn tell_again(name: &str, seed: u64) {
    println!("to make this again: margay test {name} --seed {seed:#x}");
}

/// How much is in a history.
fn contents(history: &History) -> String {
    let operations = history.operations();
    let count = |kind| operations.iter().filter(|operation| operation.end == kind).count();
    let (ok, fail, info) = (count(Kind::Ok), count(Kind::Fail), count(Kind::Info));
    let faults = history.faults().len();
    format!("{} operations ({ok} ok, {fail} failed, {info} unknown), {faults} faults", operations.len())
}

/// Writes the history, and a picture if it is not as it must be.
fn write(run: &Run, path: &Path) -> anyhow::Result<()> {
    let history = path.with_extension("jsonl");
    let file = File::create(&history).with_context(|| format!("cannot write {}", history.display()))?;
    run.history.write(&mut BufWriter::new(file)).with_context(|| format!("cannot write {}", history.display()))?;
    println!("history: {}", history.display());
    if run.has_passed() {
        return Ok(());
    }
    draw(&run.history, &run.verdict, &path.with_extension("svg"))
}

fn draw(history: &History, verdict: &Verdict, path: &Path) -> anyhow::Result<()> {
    let violation = match verdict {
        Verdict::Invalid(violation) => Some(&**violation),
        _ => None,
    };
    std::fs::write(path, timeline::svg(history, violation))
        .with_context(|| format!("cannot write {}", path.display()))?;
    println!("picture: {}", path.display());
    Ok(())
}

/// Judges a file.
fn check(path: &Path, out: &Path) -> anyhow::Result<i32> {
    let file = File::open(path).with_context(|| format!("cannot read {}", path.display()))?;
    let history = History::read(BufReader::new(file)).with_context(|| path.display().to_string())?;
    let verdict = cache(&history, Budget::default());
    println!("{}; {verdict}", contents(&history));
    if verdict != Verdict::Valid {
        let name = path.file_stem().unwrap_or_default();
        draw(&history, &verdict, &out.join(name).with_extension("svg"))?;
    }
    Ok(code_of(&verdict, false))
}

fn parse_seed(text: &str) -> Result<u64, String> {
    let parsed = text.strip_prefix("0x").map_or_else(|| text.parse(), |digits| u64::from_str_radix(digits, 16));
    parsed.map_err(|_| "a number such as 42 or 0x2a".into())
}

/// A seed that nobody chose. Short, as somebody may have to type it.
fn any_seed() -> u64 {
    use std::hash::{BuildHasher, RandomState};
    RandomState::new().hash_one(0) >> 32
}

/// The version of the sources, as far as git knows it where this runs; else of this program.
fn revision() -> String {
    let described = Command::new("git").args(["describe", "--always", "--dirty", "--abbrev=12"]).output();
    let text = described.ok().filter(|output| output.status.success()).map(|output| output.stdout);
    let text = text.map(|bytes| String::from_utf8_lossy(&bytes).trim().to_string());
    text.unwrap_or_else(|| format!("margay {}", env!("CARGO_PKG_VERSION")))
}
