#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| libos_journal::fuzzing::run("recovery", bytes));
