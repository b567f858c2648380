//! Every input that fuzzing keeps is run again: `kv/engine/fuzz/corpus`, a folder for each target.

use std::fs;
use std::path::{Path, PathBuf};

use kv_engine::fuzzing::{self, TARGETS};

/// Of one file, and of one folder: a corpus is kept minimised.
const LEN_MAX: u64 = 2048;
const FILES_MAX: usize = 60;

fn inputs(target: &str) -> Vec<PathBuf> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz/corpus").join(target);
    let entries = fs::read_dir(&folder).unwrap_or_else(|error| panic!("{}: {error}", folder.display()));
    let mut files: Vec<PathBuf> = entries.map(|entry| entry.unwrap().path()).collect();
    files.sort();
    files
}

#[test]
fn every_input_of_the_corpus_runs() {
    for (target, run) in TARGETS {
        let files = inputs(target);
        assert!(files.len() >= 5, "{target} has a corpus of {} files", files.len());
        for file in files {
            // If it fails, the name of the input is the last line.
            println!("{}", file.display());
            run(&fs::read(&file).unwrap());
        }
    }
}

#[test]
fn the_corpus_is_small() {
    for (target, _) in TARGETS {
        let files = inputs(target);
        assert!(files.len() <= FILES_MAX, "{target} has {} files: cargo fuzz cmin {target}", files.len());
        for file in files {
            assert!(file.metadata().unwrap().len() <= LEN_MAX, "{} is too long", file.display());
        }
    }
}

#[test]
fn each_target_has_a_program() {
    let manifest = fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz/Cargo.toml")).unwrap();
    let named = manifest.lines().filter_map(|line| line.strip_prefix("path = \"fuzz_targets/"));
    let mut named: Vec<&str> = named.filter_map(|name| name.strip_suffix(".rs\"")).collect();
    let mut targets: Vec<&str> = TARGETS.iter().map(|(name, _)| *name).collect();
    named.sort_unstable();
    targets.sort_unstable();
    assert_eq!(named, targets);
}

#[test]
#[should_panic(expected = "there is no target")]
fn who_is_no_target_is_refused() {
    fuzzing::run("nobody", &[]);
}
