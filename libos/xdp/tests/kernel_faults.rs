//! Our stack and the Linux kernel's over a wire that loses, delays, reorders, duplicates and damages: a table of wires,
//! with us as the client and as the server, in both directions at once.
//!
//! A failure names its row and its seed; `MARGAY_TEST_PCAP=folder` writes down what went over our device.

mod kernel;
mod link;

use std::ops::RangeInclusive;
use std::time::Duration;

use kernel::*;
use libos_net::{CongestionKind, LineSettings, Loss, NetSettings};

const fn ms(from: u64, to: u64) -> RangeInclusive<Duration> {
    Duration::from_millis(from)..=Duration::from_millis(to)
}

fn lossy(loss: f64) -> LineSettings {
    LineSettings { loss: Loss::Each(loss), latency: ms(2, 3), ..LineSettings::default() }
}

/// A row: its name, the line each way, and the bytes each way.
struct Row(&'static str, LineSettings, u64);

const KIB: u64 = 1 << 10;
const MIB: u64 = 1 << 20;

fn rows() -> Vec<Row> {
    let good = || LineSettings { latency: ms(2, 3), ..LineSettings::default() };
    vec![
        Row("loss of 1 %", lossy(0.01), MIB),
        Row("loss of 3 %", lossy(0.03), 512 * KIB),
        Row("loss of 5 %", lossy(0.05), 256 * KIB),
        Row("loss of 10 %", lossy(0.1), 64 * KIB),
        Row("loss of 20 %", lossy(0.2), 48 * KIB),
        Row("loss of 30 %", lossy(0.3), 16 * KIB),
        Row(
            "loss in bursts",
            LineSettings { loss: Loss::Bursts { begins: 0.02, ends: 0.2, inside: 0.7, outside: 0.001 }, ..good() },
            256 * KIB,
        ),
        Row("a long way", LineSettings { latency: ms(50, 50), ..good() }, MIB),
        Row("jitter", LineSettings { latency: ms(1, 30), ..good() }, MIB),
        Row("reordering", LineSettings { strays: 0.05, stray_by: ms(1, 10), ..good() }, MIB),
        Row("much reordering", LineSettings { strays: 0.3, stray_by: ms(1, 20), ..good() }, 512 * KIB),
        Row("duplication", LineSettings { duplication: 0.2, ..good() }, MIB),
        Row("corruption", LineSettings { corruption: 0.02, ..good() }, 512 * KIB),
        Row("truncation", LineSettings { truncation: 0.02, ..good() }, 512 * KIB),
        Row(
            "a narrow line with a short queue",
            LineSettings { bandwidth: Some(20_000_000), queue_bytes: 30_000, ..good() },
            MIB,
        ),
        Row(
            "all of it",
            LineSettings {
                latency: ms(1, 10),
                loss: Loss::Each(0.03),
                duplication: 0.05,
                strays: 0.05,
                stray_by: ms(1, 20),
                corruption: 0.01,
                truncation: 0.01,
                bandwidth: Some(50_000_000),
                ..LineSettings::default()
            },
            256 * KIB,
        ),
    ]
}

/// What a row is run with besides: our congestion control, and whether the kernel has SACK.
const VARIANTS: [(CongestionKind, &str); 3] =
    [(CongestionKind::Cubic, "1"), (CongestionKind::NewReno, "1"), (CongestionKind::Cubic, "0")];

/// Runs a row: one connection of each role, in both directions, over IPv4 or IPv6 by turns.
/// With `offload`, the kernel at our end cuts our long segments up: what befalls them on the wire befalls their parts.
fn run(Row(name, line, len): &Row, seed: u64, congestion: CongestionKind, sack: &'static str, offload: bool) {
    let mut net = NetSettings::default();
    net.tcp.congestion = congestion;
    let good = LineSettings::default();
    let sysctls = vec![("ipv4/tcp_sack", sack)];
    let kind = Kind::Packet { offload };
    let setup = Setup { kind, wire: Some([good.clone(), good]), seed, sysctls, net, ..Setup::default() };
    let Some((lab, mut host)) = Lab::open("faults", setup) else { return };
    // Else the kernel's timeout, doubled after each loss in a row, may grow beyond our limit (Linux 6.15 has a bound).
    let _ = try_sysctl(&lab.link.far, "ipv4/tcp_rto_max_ms", "2000");
    // Neighbours are found first: a damaged answer to ARP would send everything astray for half a minute.
    let is_v6 = seed.is_multiple_of(2);
    let with = |meeting: Meeting| Meeting { is_v6, ..meeting };
    carry(&lab, &mut host, &[with(Meeting::new(Role::Client, 1, 1))], LIMIT);
    lab.wire().set([line.clone(), line.clone()]);
    let start = std::time::Instant::now();
    let meetings = [Meeting::new(Role::Client, *len, *len), Meeting::new(Role::Server, *len, *len)].map(with);
    carry(&lab, &mut host, &meetings, LIMIT);
    let took = start.elapsed();
    let [there, back] = lab.wire().counters();
    let counters = host.counters();
    println!(
        "{name}, seed {seed}, {congestion:?}, SACK {sack}: {took:.1?}; {} + {} frames dropped, {} resent by us, {} timeouts",
        there.dropped(),
        back.dropped(),
        counters.tcp_segments_resent,
        counters.tcp_timeouts
    );
    let faults = |counters: libos_net::LineCounters| {
        counters.dropped() + counters.strayed + counters.duplicated + counters.corrupted + counters.truncated
    };
    let is_harmless = *line == (LineSettings { latency: line.latency.clone(), ..LineSettings::default() });
    assert!(is_harmless || (faults(there) + faults(back) > 0), "{name} did nothing: {there:?} {back:?}");
    if line.corruption > 0.0 {
        let seen = counters.tcp_checksum + counters.ipv4_checksum + counters.ethernet_not_ours + counters.ipv6_not_ours;
        assert!(seen > 0, "damage was not seen: {:?}", host.busy_counters());
    }
    assert!(offload == (counters.tcp_long_segments > 0), "{name}: {} long segments", counters.tcp_long_segments);
    lab.wire().set([LineSettings::default(), LineSettings::default()]);
    host.end();
}

const LIMIT: Duration = Duration::from_secs(100);

#[test]
fn every_wire_is_survived() {
    let seeds = if is_long() { 12 } else { 1 };
    on_a_thread_for(LIMIT * 2 * seeds, move || {
        let rows = rows();
        let cases = (0..seeds as usize).flat_map(|round| (0..rows.len()).map(move |row| (round, row))).collect();
        each(cases, 6, |(round, row)| {
            let (congestion, sack) = VARIANTS[(row + round) % 3];
            run(&rows[row], (round * 100 + row + round % 2) as u64, congestion, sack, false);
        });
    });
}

/// Those rows where there is enough to send for long segments.
#[test]
fn every_wire_is_survived_by_the_parts_of_long_segments() {
    on_a_thread_for(LIMIT * 2, move || {
        let rows: Vec<Row> = rows().into_iter().filter(|row| row.2 >= 256 * KIB).collect();
        each((0..rows.len()).collect(), 6, |row| {
            let (congestion, sack) = VARIANTS[row % 3];
            run(&rows[row], 1000 + row as u64, congestion, sack, true);
        });
    });
}
