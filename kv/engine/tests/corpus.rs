//! Every input that fuzzing keeps is run again: `kv/engine/fuzz/corpus`, a folder for each target.

use kv_engine::fuzzing::{self, TARGETS};
use libos_conformance::corpus::Corpus;

const CORPUS: Corpus = Corpus { crate_dir: env!("CARGO_MANIFEST_DIR"), targets: &TARGETS };

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

#[test]
#[should_panic(expected = "there is no target")]
fn who_is_no_target_is_refused() {
    fuzzing::run("nobody", &[]);
}
