#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| libos_net::fuzzing::run("tcp_machine", bytes));
