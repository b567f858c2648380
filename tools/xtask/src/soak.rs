//! `cargo xtask soak`: the long forms of everything; writes docs/soak.md.

use anyhow::{Context, Result, bail};

use crate::command::{self, Show, cargo, shown};
use crate::machine::{Machine, between_markers};
use crate::report::{self, Ended, Part};
use crate::skips;
use crate::test::{ended, prepare_miri, ran_some};
use crate::workspace::Metadata;
use crate::{Options, fuzz, seeds};

const DOCUMENT: &str = "docs/soak.md";

/// A part of the soak.
struct Long {
    name: &'static str,
    about: &'static str,
    /// After `cargo`. `SIMULATED` stands for the crates with tests in the simulator.
    words: &'static str,
    environment: &'static [(&'static str, &'static str)],
    /// Builds in a folder of its own below the target folder, as its flags are others.
    target: Option<&'static str>,
    /// After `--`.
    passed_on: &'static [&'static str],
}

const PARTS: [Long; 10] = [
    Long {
        name: "tests",
        about: "all tests in their long forms (a gibibyte through each stream, 10,000 connections)",
        words: "test --locked --release --workspace --lib --bins --tests --no-fail-fast",
        environment: &[("MARGAY_LONG", "1"), ("QUICKCHECK_TESTS", "2000")],
        target: None,
        passed_on: &["--show-output"],
    },
    Long {
        name: "properties",
        about: "generated inputs of the pure cores, many of them",
        words: "test --locked --release -p pdpix -p framework -p kv-engine --lib",
        environment: &[("QUICKCHECK_TESTS", "100000"), ("QUICKCHECK_MAX_TESTS", "1000000")],
        target: None,
        passed_on: &["--show-output"],
    },
    Long {
        name: "seeds",
        about: "sweeps of the simulator",
        words: "test --locked --release --lib --bins --tests --no-fail-fast SIMULATED",
        environment: &[("MARGAY_LONG", "1"), ("MARGAY_SEEDS", "20000")],
        target: None,
        passed_on: &["--show-output"],
    },
    Long {
        name: "kernel",
        about: "our stack against the kernel's: a gibibyte each way, a dozen seeds of every faulty wire",
        words: "test --locked --release -p libos-xdp --test kernel_transfers --test kernel_faults --test kernel_paths",
        environment: &[("MARGAY_TEST_KERNEL", "long")],
        target: None,
        passed_on: &["--show-output", "--test-threads=1"],
    },
    Long {
        name: "memif",
        about: "100 million echoes over memif, or `MARGAY_ECHOES`: what is in use at the end is what was in use at the start",
        words: "test --locked --release -p libos-dpdk --test soak",
        environment: &[],
        target: None,
        passed_on: &["--show-output"],
    },
    Long {
        name: "power",
        about: "500 power cuts of a machine with each durability, and of its file system",
        words: "test --locked --release -p margay --test power_cut",
        environment: &[("MARGAY_CUTS", "500")],
        target: None,
        passed_on: &["--show-output", "--test-threads=1"],
    },
    Long {
        name: "loom-mem",
        about: "loans and return lists in every order (loom has no bound here; there is no longer form)",
        words: "test --locked --release -p libos-mem --test loom",
        environment: &[("RUSTFLAGS", "--cfg loom")],
        target: Some("loom"),
        passed_on: &["--show-output"],
    },
    Long {
        name: "loom-runtime",
        about: "rings, wakers and doorbells in every order (the same)",
        words: "test --locked --release -p libos-runtime --lib loom",
        environment: &[("RUSTFLAGS", "--cfg loom")],
        target: Some("loom"),
        passed_on: &["--show-output"],
    },
    Long {
        name: "miri",
        about: "unsafe code of libos-mem, interpreted, with several schedules",
        words: "+nightly miri test --locked -p libos-mem --lib",
        environment: &[("QUICKCHECK_TESTS", "20"), ("MIRIFLAGS", "-Zmiri-disable-isolation -Zmiri-many-seeds=0..8")],
        target: Some("miri"),
        passed_on: &[],
    },
    Long {
        name: "fuzz",
        about: "every fuzz target, ten minutes each (or `MARGAY_FUZZ_SECONDS`)",
        words: "+nightly fuzz run TARGET",
        environment: &[],
        target: None,
        passed_on: &[],
    },
];

pub fn run(options: &Options) -> Result<bool> {
    if options.list {
        PARTS.iter().for_each(|part| println!("{:<14} {}", part.name, part.about));
        return Ok(true);
    }
    if let Some(unknown) = options.names.iter().find(|name| PARTS.iter().all(|part| part.name != **name)) {
        bail!("there is no part `{unknown}`: see `cargo xtask soak --list`");
    }
    let machine = Machine::here();
    let metadata = Metadata::load()?;
    let simulated: Vec<String> = seeds::packages(&metadata).iter().map(|name| format!("-p {name}")).collect();
    let is_chosen = |part: &&Long| options.names.is_empty() || options.names.iter().any(|name| name == part.name);
    let (mut parts, mut rows) = (Vec::new(), Vec::new());
    for long in PARTS.iter().filter(is_chosen) {
        let mut command = cargo(&long.words.replace("SIMULATED", &simulated.join(" ")));
        command.envs(long.environment.iter().copied());
        if long.name == "memif" {
            command.env("MARGAY_ECHOES", std::env::var("MARGAY_ECHOES").unwrap_or("100000000".into()));
        }
        // Without the folder of this machine's.
        let command_shown = shown(&command);
        if let Some(folder) = long.target {
            command.arg("--target-dir").arg(metadata.target_folder.join(folder));
        }
        command.arg("--").args(long.passed_on);
        let part = Part::run(long.name, || match long.name {
            "fuzz" => fuzz::run(&metadata.target_folder),
            _ => do_part(long, &mut command),
        });
        rows.push(row(long, &part, &command_shown));
        parts.push(part);
    }
    let skipped: Vec<skips::Skip> = parts.iter().flat_map(|part| part.ended.skips.clone()).collect();
    let all_listed = skips::report(&skipped)?;
    print!("{}", report::table(&parts));
    write(&machine, &rows, &skipped)?;
    Ok(all_listed && !parts.iter().any(Part::has_failed))
}

fn do_part(long: &Long, command: &mut std::process::Command) -> Result<Ended> {
    if long.name == "miri"
        && let Err(reason) = prepare_miri()
    {
        return Ok(Ended::skipped("miri", reason));
    }
    let ran = command::run(command, Show::All)?;
    // A filter that fits nothing would pass.
    if ran.success && !ran_some(&ran.output) {
        return Ok(Ended::failed("no test was run"));
    }
    Ok(ended(ran, "see the log"))
}

fn row(long: &Long, part: &Part, command: &str) -> String {
    let (result, seconds) = (part.result().replace('|', "/"), part.took.as_secs());
    format!("| {} | {} | {result} | {seconds} | `{command}` |\n", long.name, long.about)
}

fn write(machine: &Machine, rows: &[String], skipped: &[skips::Skip]) -> Result<()> {
    let text = std::fs::read_to_string(DOCUMENT).context(DOCUMENT)?;
    let skipped: String = skipped.iter().map(|skip| format!("- Skipped: `{}`: {}\n", skip.name, skip.reason)).collect();
    let head = "| part | what | result | seconds | command |\n| --- | --- | --- | ---: | --- |\n";
    let generated = format!("{}\n{head}{}\n{skipped}", machine.markdown(), rows.concat());
    let text = between_markers(&text, "soak", &generated).with_context(|| format!("{DOCUMENT} has no markers"))?;
    std::fs::write(DOCUMENT, text).context(DOCUMENT)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_part_that_runs_no_test_has_failed() {
        let part = |script: &str| {
            let mut command = command::program("sh");
            do_part(&PARTS[2], command.args(["-c", script])).unwrap().verdict
        };
        assert_eq!(part("echo 'test result: ok. 2 passed; 0 failed'"), report::Verdict::Passed);
        assert!(matches!(part("echo 'test result: ok. 0 passed; 0 failed'"), report::Verdict::Failed(_)));
        assert!(matches!(part("exit 1"), report::Verdict::Failed(_)));
    }

    #[test]
    fn a_row_says_what_was_run_and_how_it_ended() {
        let part = Part { name: "seeds", ended: Ended::failed("a | b"), took: std::time::Duration::from_secs(61) };
        let row = row(&PARTS[2], &part, "cargo test sweep");
        assert_eq!(row, "| seeds | sweeps of the simulator | FAILED: a / b | 61 | `cargo test sweep` |\n");
    }
}
