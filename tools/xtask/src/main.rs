//! Tests, tidiness, benchmarks, seeds and soak.
fn main() {}
