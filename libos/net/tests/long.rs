//! Long segments, which the device cuts up: whoever is at the other end sees what it would have seen of short ones.

mod support;

use std::time::Duration;

use libos_net::CongestionKind;
use pdpix::{Instant, Network, Rng, SocketOption};
use support::{A, B, Faults, Options, Pair, pattern};

const LONG: Duration = Duration::from_secs(3600);

/// What a frame says, without the number of its IP packet (and its sum), which a device counts up: nothing may be read out of
/// it (RFC 6864 §4.1).
fn what(frame: &(Instant, Vec<u8>)) -> (Instant, Vec<u8>) {
    let (at, mut bytes) = frame.clone();
    if bytes[12..14] == [8, 0] {
        bytes[18..20].fill(0);
        bytes[24..26].fill(0);
    }
    (at, bytes)
}

/// One way of using a connection, by seed. Gives all that A sent, and how many long segments its stack made.
fn session(seed: u64, loss: f64, cuts_up: bool) -> (Vec<(Instant, Vec<u8>)>, u64) {
    let mut rng = Rng::new(seed);
    let latency = Duration::from_micros(*[20, 400, 5_000].get(rng.below(3) as usize).unwrap());
    let kind = [CongestionKind::Cubic, CongestionKind::NewReno][rng.below(2) as usize];
    let (sack, stamps, ecn, small) = (rng.chance(0.8), rng.chance(0.7), rng.chance(0.3), rng.chance(0.3));
    let (mtu, gathers) = ([1500, 1280, 9000][rng.below(3) as usize], [16, 4, 1][rng.below(3) as usize]);
    let settings = move |_: usize, settings: &mut libos_net::NetSettings| {
        let tcp = &mut settings.tcp;
        (tcp.sack, tcp.timestamps, tcp.ecn, tcp.congestion) = (sack, stamps, ecn, kind);
        if small {
            (tcp.receive_budget, tcp.receive_budget_max) = (20_000, 20_000);
        }
    };
    let options =
        Options { seed, mtu, gathers, cuts_up, keep: true, settings: Box::new(settings), ..Options::default() };
    let mut pair = Pair::new(options);
    let (a, b, listener) = pair.connect();
    let faults = Faults { latency, loss, twice: loss / 4.0, jitter: latency / 5, marked: loss, ..Faults::default() };
    [A, B].into_iter().for_each(|side| pair.set_faults(side, faults));
    pair.nets[A].set_option(a, SocketOption::NoDelay(rng.chance(0.6))).unwrap();
    for round in 0..4 {
        let len = rng.range(1..=[600, 30_000, 200_000, 400_000][round]) as usize;
        let len = if loss > 0.05 { len / 8 + 1 } else { len };
        // Beside what the other side says.
        let answer = pattern(rng.below(20_000) as usize + 1, seed);
        pair.push(B, b, &answer);
        pair.transfer(A, a, B, b, &pattern(len, seed + round as u64), LONG);
        assert!(pair.pop_all(A, a, answer.len(), LONG) == answer);
        pair.run_for(Duration::from_millis(rng.below(400)));
    }
    // The FIN goes out with the last of the text.
    let mss = mtu - 40 - if stamps { 12 } else { 0 };
    let last = if rng.chance(0.5) { mss * rng.range(2..=6) as usize } else { rng.range(1..=30_000) as usize };
    let last = pattern(last, seed);
    pair.push(A, a, &last);
    pair.nets[A].finish(a).unwrap();
    assert!(pair.pop_all(B, b, usize::MAX, LONG) == last);
    pair.nets[A].close(a);
    pair.nets[B].close(b);
    pair.nets[B].close(listener);
    pair.run_for(Duration::from_secs(5));
    let sent = pair.sent(A).iter().map(what).collect();
    let long = pair.nets[A].counters().tcp_long_segments;
    pair.check_empty();
    (sent, long)
}

fn first_difference(short: &[(Instant, Vec<u8>)], long: &[(Instant, Vec<u8>)]) -> Option<String> {
    let i = (0..short.len().max(long.len())).find(|&i| short.get(i) != long.get(i))?;
    let of = |frames: &[(Instant, Vec<u8>)]| {
        frames.get(i).map_or("nothing".into(), |(at, bytes)| format!("{at:?} {}", support::describe(bytes)))
    };
    let bytes = |frames: &[(Instant, Vec<u8>)]| frames.get(i).map(|(_, bytes)| bytes.clone()).unwrap_or_default();
    let (was, is) = (bytes(short), bytes(long));
    let at: Vec<usize> = (0..was.len().min(is.len())).filter(|&at| was[at] != is[at]).take(8).collect();
    Some(format!("frame {i}: {}\n    instead of {}\n    bytes {at:?} differ", of(long), of(short)))
}

/// There are cards that drop what they are to cut into small pieces (`CUT_MIN`).
#[test]
fn small_segments_are_not_left_to_be_cut() {
    for (mtu, are_cut) in [(290, false), (600, true)] {
        let mut pair = Pair::new(Options { mtu, cuts_up: true, ..Options::default() });
        let (a, b, _) = pair.connect();
        pair.transfer(A, a, B, b, &pattern(100_000, 1), LONG);
        assert_eq!(pair.nets[A].counters().tcp_long_segments > 0, are_cut, "{mtu}");
    }
}

/// The same frames, byte for byte, at the same times: with and without losses, doubles and jitter, of all the ways in which
/// two sides may agree. Losses fall on single frames of what was one long segment.
#[test]
fn the_wire_is_the_same_as_without_them() {
    let mut all = 0;
    for seed in 0..120 {
        for loss in [0.0, 0.01, 0.1] {
            let (short, none) = session(seed, loss, false);
            let (long, some) = session(seed, loss, true);
            assert_eq!(none, 0);
            if let Some(difference) = first_difference(&short, &long) {
                panic!("seed {seed}, loss {loss}: {difference}");
            }
            all += some;
        }
    }
    assert!(all > 2_000, "{all} long segments");
}
