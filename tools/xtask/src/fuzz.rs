//! Fuzzing, as a part of the soak: every target of every fuzz folder, for some minutes each.
//!
//! A fuzz folder is a workspace of its own, for it needs nightly; the product and its tests do not see it. What is found
//! goes to the target folder: the corpus that is checked in stays as it is until somebody runs `cargo fuzz cmin`.

use std::path::Path;

use anyhow::{Context, Result};

use crate::command::{self, Show, cargo};
use crate::packages::succeeds;
use crate::report::Ended;

/// Folders with a `Cargo.toml` of cargo-fuzz's kind.
const FOLDERS: [&str; 3] = ["libos/net/fuzz", "libos/journal/fuzz", "kv/engine/fuzz"];
/// How long each target is run, if `MARGAY_FUZZ_SECONDS` says nothing else.
const SECONDS: u64 = 600;

/// Fuzzes all targets, one after the other; all of them, though one fails.
pub fn run(target_folder: &Path) -> Result<Ended> {
    if !succeeds(&["cargo", "+nightly", "fuzz", "--version"]) {
        let reason = "no nightly toolchain, or no cargo-fuzz (cargo install --locked cargo-fuzz)";
        return Ok(Ended::skipped("fuzz", reason));
    }
    let seconds = std::env::var("MARGAY_FUZZ_SECONDS").ok();
    let seconds = seconds.map_or(Ok(SECONDS), |text| text.parse()).context("MARGAY_FUZZ_SECONDS is not a number")?;
    let mut failed = Vec::new();
    for folder in FOLDERS {
        for target in targets(folder)? {
            if !fuzz(folder, &target, seconds.max(1), target_folder)? {
                failed.push(target);
            }
        }
    }
    Ok(match failed.is_empty() {
        true => Ended::passed(),
        false => Ended::failed(format!("{}: see its `artifacts` folder", failed.join(", "))),
    })
}

/// The targets of a folder, from its manifest.
fn targets(folder: &str) -> Result<Vec<String>> {
    let path = Path::new(folder).join("Cargo.toml");
    let manifest = std::fs::read_to_string(&path).with_context(|| path.display().to_string())?;
    Ok(named(&manifest))
}

fn named(manifest: &str) -> Vec<String> {
    let paths = manifest.lines().filter_map(|line| line.strip_prefix("path = \"fuzz_targets/"));
    paths.filter_map(|name| Some(name.strip_suffix(".rs\"")?.to_string())).collect()
}

/// False: it found something.
fn fuzz(folder: &str, target: &str, seconds: u64, target_folder: &Path) -> Result<bool> {
    let found = target_folder.join("fuzz/corpus").join(target);
    std::fs::create_dir_all(&found).with_context(|| found.display().to_string())?;
    let mut command = cargo("+nightly fuzz run --target-dir");
    // The first folder is written to.
    command.arg(target_folder.join("fuzz")).arg(target).arg(found).arg(Path::new("corpus").join(target)).arg("--");
    command.current_dir(folder);
    command.args(["-max_len=2048", "-len_control=0", "-timeout=20"]).arg(format!("-max_total_time={seconds}"));
    Ok(command::run(&mut command, Show::All)?.success)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn targets_are_read_from_the_manifest() {
        let manifest = "[[bin]]\nname = \"a\"\npath = \"fuzz_targets/a.rs\"\n\n[[bin]]\npath = \"fuzz_targets/b.rs\"\n";
        assert_eq!(named(manifest), ["a", "b"]);
    }

    #[test]
    fn every_folder_has_targets_and_a_corpus_for_each() {
        for folder in FOLDERS {
            let folder = crate::workspace::root().join(folder);
            let targets = targets(&folder.display().to_string()).unwrap();
            assert!(!targets.is_empty(), "{}", folder.display());
            for target in targets {
                assert!(folder.join("corpus").join(&target).is_dir(), "{target} has no corpus");
            }
        }
    }
}
