//! Two of our stacks and a wire: whatever it does to frames, the bytes arrive.

mod support;

use std::time::Duration;

use pdpix::Network;
use support::{A, B, Faults, Options, Pair, pattern};

const LONG: Duration = Duration::from_secs(3600);

#[test]
fn a_clean_wire_carries_bytes_both_ways() {
    let mut pair = Pair::new(Options::default());
    let (a, b, listener) = pair.connect();
    let data = pattern(3 << 20, 1);
    let time = pair.transfer(A, a, B, b, &data, LONG);
    assert!(time < Duration::from_secs(1), "{time:?}");
    pair.transfer(B, b, A, a, &data, LONG);
    let counters = pair.nets[A].counters();
    assert_eq!((counters.tcp_segments_resent, counters.tcp_timeouts), (0, 0), "{:?}", pair.busy_counters());
    pair.nets[A].close(a);
    pair.nets[B].close(b);
    pair.nets[B].close(listener);
    pair.check_empty();
}

fn lossy(loss: f64, len: usize, seed: u64) -> Duration {
    let faults =
        Faults { latency: Duration::from_millis(5), jitter: Duration::from_micros(100), loss, ..Faults::default() };
    let mut pair = Pair::new(Options { seed, ..Options::default() });
    let (a, b, listener) = pair.connect();
    [A, B].into_iter().for_each(|side| pair.set_faults(side, faults));
    let time = pair.transfer(A, a, B, b, &pattern(len, seed), LONG);
    pair.nets[A].close(a);
    pair.nets[B].close(b);
    pair.nets[B].close(listener);
    pair.check_empty();
    time
}

#[test]
fn losses_are_made_up_for() {
    for seed in 0..200 {
        lossy(0.01, 1 << 20, seed);
        lossy(0.1, 200 << 10, seed);
        lossy(0.3, 30 << 10, seed);
    }
}
