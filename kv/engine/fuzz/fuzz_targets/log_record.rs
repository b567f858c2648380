#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| kv_engine::fuzzing::run("log_record", bytes));
