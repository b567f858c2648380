//! `cargo xtask seeds N`: the sweeps of the simulator over N seeds.
//!
//! A sweep is a test that uses `libos_sim::sweep!`: it runs `MARGAY_SEEDS` worlds, and prints the command that makes the
//! one again that failed. All tests of the crates that use libos-sim are run; those that are no sweeps take no longer.

use anyhow::{Context, Result};

use crate::Options;
use crate::command::{self, Show, cargo};
use crate::report::{Ended, Part};
use crate::test::{ended, has_nextest, ran_some};
use crate::workspace::{Metadata, Package};

pub fn run(options: &Options) -> Result<bool> {
    let named = options.names.first().map(|text| text.parse().with_context(|| format!("`{text}` is not a number")));
    let seeds = named.transpose()?.or(options.seeds).context("how many? `cargo xtask seeds 1000`")?;
    let part = Part::run("seeds", || sweep(seeds));
    println!("\nseeds {seeds}: {} in {:.1} s", part.result(), part.took.as_secs_f64());
    Ok(!part.has_failed())
}

/// Runs all sweeps.
pub fn sweep(seeds: u64) -> Result<Ended> {
    let packages = packages(&Metadata::load()?);
    let (nextest, words) = match has_nextest() {
        true => (true, "nextest run --locked --no-fail-fast --success-output final --status-level slow"),
        false => (false, "test --locked --lib --bins --tests --no-fail-fast"),
    };
    let mut command = cargo(words);
    command.args(packages.iter().flat_map(|name| ["-p", name])).env("MARGAY_SEEDS", seeds.to_string());
    if nextest {
        return Ok(ended(command::run(command.args(["--no-tests", "fail"]), Show::UntilSummary)?, "see above"));
    }
    let ran = command::run(command.args(["--", "--show-output"]), Show::All)?;
    if ran.success && !ran_some(&ran.output) {
        return Ok(Ended::failed("no test was run"));
    }
    Ok(ended(ran, "see above"))
}

/// The crates with tests in the simulator.
pub fn packages(metadata: &Metadata) -> Vec<String> {
    let is_simulated = |package: &&Package| {
        package.name == SIMULATOR || package.dependencies.iter().any(|dependency| dependency.name == SIMULATOR)
    };
    metadata.ours().filter(is_simulated).map(|package| package.name.clone()).collect()
}

const SIMULATOR: &str = "libos-sim";

#[cfg(test)]
mod tests {
    use super::*;
    use crate::workspace::Dependency;

    #[test]
    fn crates_that_use_the_simulator_are_swept() {
        let package = |name: &str, to: &str| Package {
            name: name.into(),
            is_ours: true,
            dependencies: vec![Dependency { name: to.into(), is_dev: true }],
            ..Package::default()
        };
        let packages =
            vec![package("services", "libos-sim"), package("xtask", "anyhow"), package("libos-sim", "pdpix")];
        let metadata = Metadata { packages, target_folder: "/t".into() };
        assert_eq!(super::packages(&metadata), ["services", "libos-sim"]);
    }
}
