//! `cargo xtask test`: everything that must pass, in order, and where the time went.

use anyhow::{Result, bail};

use crate::command::{self, Ran, Show, cargo};
use crate::packages::{self, is_root, succeeds};
use crate::report::{self, Ended, Part};
use crate::skips;
use crate::workspace::Metadata;
use crate::{Options, seeds, tidy};

/// A step of the run.
struct Step {
    name: &'static str,
    about: &'static str,
    run: fn(&Context) -> Result<Ended>,
}

/// What steps are told.
struct Context {
    seeds: u64,
    target: std::path::PathBuf,
}

const STEPS: [Step; 10] = [
    Step { name: "packages", about: "Debian packages that fuller tests need", run: |_| packages::run() },
    Step { name: "fmt", about: "the form of the source", run: |_| step(cargo("fmt --all --check -- --color never")) },
    Step {
        name: "clippy",
        about: "lints, as errors",
        run: |_| step(cargo("clippy --locked --workspace --all-targets --keep-going -- -D warnings")),
    },
    Step { name: "tidy", about: "what a compiler does not check", run: |_| tidy::step() },
    Step { name: "tests", about: "all tests", run: |_| tests() },
    Step { name: "doctests", about: "examples in the documentation", run: |_| step(documented()) },
    Step { name: "loom", about: "concurrent code in every order", run: loom },
    Step { name: "miri", about: "unsafe code of libos-mem, interpreted", run: miri },
    Step { name: "seeds", about: "a short sweep of the simulator", run: |context| seeds::sweep(context.seeds) },
    Step { name: "rustdoc", about: "the documentation, warnings as errors", run: rustdoc },
];

/// Seeds of a sweep, if nothing else is asked for.
const SEEDS: u64 = 200;

pub fn run(options: &Options) -> Result<bool> {
    if options.list {
        STEPS.iter().for_each(|step| println!("{:<10} {}", step.name, step.about));
        return Ok(true);
    }
    let chosen = choose(&options.names)?;
    let from_environment = std::env::var("MARGAY_SEEDS").ok().and_then(|seeds| seeds.parse().ok());
    let seeds = options.seeds.or(from_environment).unwrap_or(SEEDS);
    let context = Context { seeds, target: Metadata::load()?.target_folder };
    let mut parts: Vec<Part> = Vec::new();
    for step in chosen {
        parts.push(Part::run(step.name, || (step.run)(&context)));
        if options.fail_fast && parts.iter().any(Part::has_failed) {
            break;
        }
    }
    let mut skipped: Vec<skips::Skip> = parts.iter().flat_map(|part| part.ended.skips.clone()).collect();
    skipped.sort();
    skipped.dedup();
    let all_listed = skips::report(&skipped)?;
    print!("{}", report::table(&parts));
    let passed = all_listed && !parts.iter().any(Part::has_failed);
    println!("\n{}", if passed { "passed" } else { "FAILED" });
    Ok(passed)
}

fn choose(names: &[String]) -> Result<Vec<&'static Step>> {
    if names.is_empty() {
        return Ok(STEPS.iter().collect());
    }
    if let Some(unknown) = names.iter().find(|name| STEPS.iter().all(|step| step.name != **name)) {
        let known: Vec<&str> = STEPS.iter().map(|step| step.name).collect();
        bail!("there is no step `{unknown}`; there are {}", known.join(", "));
    }
    Ok(STEPS.iter().filter(|step| names.iter().any(|name| name == step.name)).collect())
}

/// What a command came to, as the end of a step.
pub fn ended(ran: Ran, why: &str) -> Ended {
    let ended = if ran.success { Ended::passed() } else { Ended::failed(why) };
    Ended { skips: ran.skips, ..ended }
}

fn step(mut command: std::process::Command) -> Result<Ended> {
    let ran = command::run(&mut command, Show::All)?;
    Ok(ended(ran, "see above"))
}

/// Whether cargo-nextest is installed.
pub fn has_nextest() -> bool {
    succeeds(&["cargo", "nextest", "--version"])
}

/// All tests; with what passing ones print, as skips are in it.
fn tests() -> Result<Ended> {
    if has_nextest() {
        let mut command = cargo("nextest run --locked --workspace --no-fail-fast --success-output final");
        command.args(["--status-level", "slow", "--final-status-level", "fail"]);
        return Ok(ended(command::run(&mut command, Show::UntilSummary)?, "see above"));
    }
    println!("  cargo-nextest is not installed (cargo install --locked cargo-nextest): cargo test does it, slower");
    step(cargo("test --locked --workspace --lib --bins --tests --no-fail-fast -- --show-output"))
}

fn documented() -> std::process::Command {
    cargo("test --locked --workspace --doc --no-fail-fast")
}

/// Every interleaving of what cores share: loans and return lists, and what the runtime builds on them.
fn loom(context: &Context) -> Result<Ended> {
    let target = context.target.join("loom");
    let mut all = Ended::passed();
    for words in ["test --locked -p libos-mem --test loom --release", "test --locked -p libos-runtime --lib --release"]
    {
        let mut command = cargo(words);
        command.arg("--target-dir").arg(&target);
        if words.contains("--lib") {
            command.arg("loom");
        }
        command.args(["--", "--show-output"]).env("RUSTFLAGS", "--cfg loom");
        let ran = command::run(&mut command, Show::All)?;
        // A filter that fits nothing, or a test file that compiles to nothing, would pass.
        if ran.success && !ran_some(&ran.output) {
            return Ok(Ended::failed(format!("no test was run by `cargo {words}`")));
        }
        let ended = ended(ran, "see above");
        if ended.verdict != report::Verdict::Passed {
            all.verdict = ended.verdict;
        }
        all.skips.extend(ended.skips);
    }
    Ok(all)
}

/// Whether libtest says that at least one test passed.
pub fn ran_some(output: &str) -> bool {
    let results = output.lines().filter_map(|line| line.trim().strip_prefix("test result: ok. "));
    results.filter_map(|rest| rest.split_whitespace().next()?.parse::<u64>().ok()).sum::<u64>() > 0
}

fn miri(context: &Context) -> Result<Ended> {
    if let Err(reason) = prepare_miri() {
        return Ok(Ended::skipped("miri", reason));
    }
    let mut command = cargo("+nightly miri test --locked -p libos-mem --lib");
    command.arg("--target-dir").arg(context.target.join("miri"));
    command.env("QUICKCHECK_TESTS", "3").env("MIRIFLAGS", "-Zmiri-disable-isolation");
    let ran = command::run(&mut command, Show::All)?;
    if ran.success && !ran_some(&ran.output) {
        return Ok(Ended::failed("no test was run"));
    }
    Ok(ended(ran, "see above"))
}

/// Finds Miri, or installs it where nobody minds: as root, or in continuous integration.
pub fn prepare_miri() -> Result<(), String> {
    let is_there = || {
        let sysroot = std::process::Command::new("rustc").args(["+nightly", "--print", "sysroot"]).output();
        let sysroot = sysroot.ok().filter(|output| output.status.success());
        let folder = sysroot.map(|output| String::from_utf8_lossy(&output.stdout).trim().to_string());
        let source = folder.map(|folder| std::path::Path::new(&folder).join("lib/rustlib/src/rust/library/std"));
        source.is_some_and(|source| source.exists()) && succeeds(&["cargo", "+nightly", "miri", "--version"])
    };
    if is_there() {
        return Ok(());
    }
    if is_root() || std::env::var_os("CI").is_some() {
        println!("  installing Miri");
        let install = ["toolchain", "install", "nightly", "--profile", "minimal", "-c", "miri", "-c", "rust-src"];
        let mut rustup = command::program("rustup");
        let _ = command::run(rustup.args(install), Show::All);
        if is_there() {
            return Ok(());
        }
    }
    Err("no nightly toolchain with miri and rust-src (rustup toolchain install nightly -c miri -c rust-src)".into())
}

fn rustdoc(_: &Context) -> Result<Ended> {
    let mut command = cargo("doc --locked --workspace --no-deps --document-private-items --keep-going");
    // The head of a module is written for who reads the source, and may name what is private.
    command.env("RUSTDOCFLAGS", "-D warnings -A rustdoc::private-intra-doc-links");
    step(command)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn steps_are_chosen_by_name_and_run_in_their_own_order() {
        let names = |words: &[&str]| choose(&words.iter().map(|w| w.to_string()).collect::<Vec<_>>());
        let chosen: Vec<&str> = names(&["tidy", "fmt"]).unwrap().iter().map(|step| step.name).collect();
        assert_eq!(chosen, ["fmt", "tidy"]);
        assert_eq!(names(&[]).unwrap().len(), STEPS.len());
        assert!(names(&["fnt"]).is_err());
    }

    #[test]
    fn a_run_of_no_tests_is_seen() {
        assert!(ran_some("test result: ok. 3 passed; 0 failed"));
        assert!(!ran_some("test result: ok. 0 passed; 0 failed; 9 filtered out\ntest result: ok. 0 passed"));
        assert!(!ran_some(""));
    }
}
