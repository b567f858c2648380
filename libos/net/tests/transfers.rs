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

/// Without selective acknowledgements, after a timeout: what an acknowledgement of a part leaves is not lost once more, and
/// the timeout falls back although everything that is acknowledged was sent twice (timestamps tell of which sending it is).
/// Without the first the worst of these takes 277 s, without the second 1076 s; it is 51 s.
#[test]
fn timeouts_fall_back_without_selective_acknowledgements() {
    for seed in 0..40 {
        let faults = Faults {
            latency: Duration::from_millis(2),
            jitter: Duration::from_millis(1),
            bandwidth: Some(2_500_000),
            queue: 30_000,
            loss: 0.15,
            ..Faults::default()
        };
        let settings = Box::new(|_, settings: &mut libos_net::NetSettings| settings.tcp.sack = false);
        let mut pair = Pair::new(Options { seed, faults: [faults; 2], settings, ..Options::default() });
        let (a, b, _) = pair.connect();
        let time = pair.transfer(A, a, B, b, &pattern(200 << 10, seed), LONG);
        assert!(time < Duration::from_secs(100), "seed {seed}: {time:?}");
    }
}
