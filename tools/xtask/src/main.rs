//! `cargo xtask`: tests, tidiness, seeds, soak and benchmarks of the workspace.
//!
//! One file a task. What the continuous integration does is `cargo xtask test`, so that everybody can do it.

#![forbid(unsafe_code)]

mod bench;
mod command;
mod fuzz;
mod install;
mod machine;
mod packages;
mod planted;
mod report;
mod seeds;
mod skips;
mod soak;
mod test;
mod tidy;
mod workspace;

use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::{Result, bail};

const HELP: &str = "\
Tasks of the workspace.

Usage: cargo xtask <task> [options]

  test [step...]     Everything that must pass: all steps, or those named. Lists every skip at the end.
      --list         What steps there are.
      --fail-fast    Stop at the first step that fails.
      --seeds N      Seeds of the sweep (200, or MARGAY_SEEDS).
  tidy               Reads the source: arrows between crates, forbidden calls, licences, sizes, links.
      --fix          Lowers the limits in tools/xtask/ratchet.txt to what is needed, and fills documents with the code
                     that they show.
  seeds N            Sweeps of the simulator over N seeds.
  planted            Plants each bug that a test is known to catch, and sees that it does.
  soak [part...]     The long forms of everything; writes docs/soak.md.
      --list         What parts there are.
  bench [name...]    The benchmarks; writes docs/benchmarks.md.
      --list         What benchmarks there are.
      --rounds N     How often each program is run (3); the medians count.
  install            Builds margay and libdemikernel.so, and installs them with headers and manual pages.
      --prefix DIR   Where (also below DESTDIR, if that is set).
";

fn main() -> ExitCode {
    match run() {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("xtask: {error:#}");
            ExitCode::FAILURE
        }
    }
}

/// Whether the task's verdict is good.
fn run() -> Result<bool> {
    let options = Options::parse(lexopt::Parser::from_env())?;
    std::env::set_current_dir(workspace::root())?;
    match options.task.as_deref() {
        None => {
            print!("{HELP}");
            Ok(true)
        }
        Some("test") => test::run(&options),
        Some("tidy") => tidy::run(options.fix),
        Some("seeds") => seeds::run(&options),
        Some("planted") => planted::run(),
        Some("soak") => soak::run(&options),
        Some("bench") => bench::run(&options),
        Some("install") => install::run(&options),
        Some(other) => bail!("there is no task `{other}`: see `cargo xtask --help`"),
    }
}

/// What was asked for on the command line.
#[derive(Default)]
struct Options {
    task: Option<String>,
    /// What follows the task: steps, parts, names, or a number.
    names: Vec<String>,
    list: bool,
    fail_fast: bool,
    fix: bool,
    seeds: Option<u64>,
    rounds: Option<usize>,
    prefix: Option<PathBuf>,
}

impl Options {
    fn parse(mut parser: lexopt::Parser) -> Result<Options> {
        use lexopt::prelude::{Long, Short, Value, ValueExt};
        let mut options = Options::default();
        while let Some(argument) = parser.next()? {
            match argument {
                Value(word) if options.task.is_none() => options.task = Some(word.string()?),
                Value(word) => options.names.push(word.string()?),
                Long("list") => options.list = true,
                Long("fail-fast") => options.fail_fast = true,
                Long("fix") => options.fix = true,
                Long("seeds") => options.seeds = Some(parser.value()?.parse()?),
                Long("rounds") => options.rounds = Some(parser.value()?.parse()?),
                Long("prefix") => options.prefix = Some(parser.value()?.into()),
                Long("help") | Short('h') => options.task = None,
                other => return Err(other.unexpected().into()),
            }
            if options.task.is_none() {
                return Ok(Options::default());
            }
        }
        Ok(options)
    }
}
