//! Every input that fuzzing keeps is run again, and many that are drawn by chance: fuzzing without nightly.

use std::fs;
use std::path::{Path, PathBuf};

use libos_journal::fuzzing::{self, TARGETS};
use pdpix::Rng;

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

/// `MARGAY_SEEDS=N` draws more.
#[test]
fn inputs_by_chance_run() {
    let count = std::env::var("MARGAY_SEEDS").map_or(1000, |count| count.parse().unwrap());
    for seed in 1..=count {
        let mut rng = Rng::new(seed);
        let mut input = vec![0; rng.range(1..=200) as usize];
        rng.fill(&mut input);
        let run = std::panic::catch_unwind(|| fuzzing::run("recovery", &input));
        assert!(run.is_ok(), "seed {seed}: {input:?}");
    }
}

#[test]
#[should_panic(expected = "there is no target")]
fn who_is_no_target_is_refused() {
    fuzzing::run("nobody", &[]);
}
