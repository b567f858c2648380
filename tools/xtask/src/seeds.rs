//! `cargo xtask seeds N`: the sweeps of the simulator over N seeds.
//!
//! A sweep is a test whose name contains `sweep`. It runs the seeds from 1 to `MARGAY_SEEDS`, and prints the command that
//! replays the one that failed.

use anyhow::{Context, Result};

use crate::Options;
use crate::command::{self, Show, cargo};
use crate::report::{Ended, Part};
use crate::test::{ended, has_nextest, ran_some};

pub fn run(options: &Options) -> Result<bool> {
    let named = options.names.first().map(|text| text.parse().with_context(|| format!("`{text}` is not a number")));
    let seeds = named.transpose()?.or(options.seeds).context("how many? `cargo xtask seeds 1000`")?;
    let part = Part::run("seeds", || sweep(seeds));
    println!("\nseeds {seeds}: {} in {:.1} s", part.result(), part.took.as_secs_f64());
    Ok(!part.has_failed())
}

/// Runs all sweeps.
pub fn sweep(seeds: u64) -> Result<Ended> {
    if has_nextest() {
        let mut command = cargo("nextest run --locked --workspace --no-fail-fast -E test(sweep)");
        command.args(["--success-output", "final", "--no-tests", "fail"]).env("MARGAY_SEEDS", seeds.to_string());
        return Ok(ended(command::run(&mut command, Show::UntilSummary)?, "see above; or there are no sweeps"));
    }
    let mut command = cargo("test --locked --workspace --lib --bins --tests --no-fail-fast sweep -- --show-output");
    let ran = command::run(command.env("MARGAY_SEEDS", seeds.to_string()), Show::All)?;
    if ran.success && !ran_some(&ran.output) {
        return Ok(Ended::failed("there are no sweeps"));
    }
    Ok(ended(ran, "see above"))
}
