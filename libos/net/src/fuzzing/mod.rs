//! What fuzzers run, and `cargo test` over the corpus: one function a target. Bytes go in, and nothing is believed; a panic
//! says that something does not hold.
//!
//! Bytes are read as a script of events from the front ([`Script`]); what a script lacks at its end is zeros, so that every
//! input means something. The same bytes are the same run.

use std::time::Duration;

mod datagrams;
mod forge;
mod fragments;
mod frames;
mod host;
mod machine;
mod neighbours;
mod options;
mod script;

use script::Script;

/// A name, and what runs an input.
pub type Target = (&'static str, fn(&[u8]));

/// All targets: those of `libos/net/fuzz`.
pub const TARGETS: [Target; 7] = [
    ("tcp_options", options::run),
    ("text", options::run_text),
    ("ip_frame", frames::run),
    ("fragments", fragments::run),
    ("neighbours", neighbours::run),
    ("udp", datagrams::run),
    ("tcp_machine", machine::run),
];

/// Runs one input of a target.
///
/// # Panics
/// If something does not hold; or there is no such target.
pub fn run(name: &str, bytes: &[u8]) {
    let target = TARGETS.iter().find(|(other, _)| *other == name);
    target.unwrap_or_else(|| panic!("there is no target {name}")).1(bytes);
}

/// How long a script lets pass, by its byte.
fn pause(byte: u8) -> Duration {
    const MICROS: [u64; 16] = [
        1,
        10,
        100,
        1_000,
        5_000,
        40_000,
        200_000,
        500_000,
        1_000_000,
        3_000_000,
        6_000_000,
        15_000_000,
        31_000_000,
        61_000_000,
        200_000_000,
        700_000_000,
    ];
    Duration::from_micros(MICROS[usize::from(byte) % MICROS.len()])
}
