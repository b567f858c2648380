//! Every input that fuzzing keeps is run again, and many that are drawn by chance: fuzzing without nightly.

use libos_conformance::corpus::Corpus;
use libos_journal::fuzzing::{self, TARGETS};
use pdpix::Rng;

const CORPUS: Corpus = Corpus { crate_dir: env!("CARGO_MANIFEST_DIR"), targets: TARGETS };

#[test]
fn every_input_of_the_corpus_runs() {
    CORPUS.run();
}

#[test]
fn the_corpus_is_small() {
    CORPUS.assert_small();
}

#[test]
fn each_target_has_a_program() {
    CORPUS.assert_each_target_has_a_program();
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
