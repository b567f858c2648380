//! Bytes between our stack and the Linux kernel's over a good link: lengths, roles, devices, options on and off.

mod kernel;
mod link;

use std::time::Duration;

use kernel::*;
use libos_net::{LineSettings, Loss, NetSettings, TcpSettings};

const LENGTHS: [u64; 5] = [0, 1, 1448, 64 << 10, 1 << 20];

/// Every length each way, with us as the client and as the server.
fn every_length(is_v6: bool) -> Vec<Meeting> {
    let mut meetings = Vec::new();
    for role in [Role::Client, Role::Server] {
        for len in LENGTHS {
            meetings.extend([Meeting::new(role, len, 0), Meeting::new(role, 0, len), Meeting::new(role, len, len)]);
        }
    }
    meetings.iter_mut().for_each(|meeting| meeting.is_v6 = is_v6);
    meetings
}

fn lengths(test: &'static str, kind: Kind) {
    on_a_thread(move || {
        let Some((lab, mut host)) = Lab::open(test, Setup { kind, ..Setup::default() }) else { return };
        for is_v6 in [false, true] {
            for meetings in every_length(is_v6).chunks(10) {
                carry(&lab, &mut host, meetings, Duration::from_secs(20));
            }
        }
        let counters = host.counters();
        assert_eq!((counters.tcp_resets_sent, counters.tcp_checksum, counters.tcp_malformed), (0, 0, 0));
        let cuts_up = matches!(kind, Kind::Packet { offload: true } | Kind::Tap { offload: true });
        assert!(cuts_up == (counters.tcp_long_segments > 0), "{} long segments", counters.tcp_long_segments);
        host.end();
    });
}

#[test]
fn every_length_over_packet_sockets() {
    lengths("every_length_over_packet_sockets", Kind::Packet { offload: false });
}

#[test]
fn every_length_over_packet_sockets_with_offloads() {
    lengths("every_length_over_packet_sockets_with_offloads", Kind::Packet { offload: true });
}

#[test]
fn every_length_over_tap() {
    lengths("every_length_over_tap", Kind::Tap { offload: false });
}

#[test]
fn every_length_over_tap_with_offloads() {
    lengths("every_length_over_tap_with_offloads", Kind::Tap { offload: true });
}

#[test]
fn every_length_over_af_xdp() {
    lengths("every_length_over_af_xdp", Kind::Xsk);
}

#[test]
fn sixty_four_mebibytes_each_way() {
    on_a_thread_for(LONGEST * if is_long() { 10 } else { 1 }, || {
        let len = if is_long() { 1 << 30 } else { 64 << 20 };
        let Some((lab, mut host)) = Lab::open("sixty_four_mebibytes_each_way", Setup::default()) else { return };
        for (there, back) in [(len, 0), (0, len)] {
            carry(&lab, &mut host, &[Meeting::new(Role::Client, there, back)], LONGEST * 4);
        }
        host.end();
    });
}

/// Long segments both ways: the kernel takes ours whole, or cuts them up when its end of the link does not; and its own come
/// to us whole.
#[test]
fn long_segments_each_way() {
    on_a_thread_for(LONGEST * 2, || {
        for (kind, cuts) in [
            (Kind::Packet { offload: true }, false),
            (Kind::Packet { offload: true }, true),
            (Kind::Tap { offload: true }, false),
        ] {
            let test = format!("long_segments_each_way_{cuts}");
            let Some((lab, mut host)) = Lab::open(&test, Setup { kind, ..Setup::default() }) else { return };
            if cuts && !cut_before_the_wire(&lab.link.near) {
                println!("SKIP xdp/{test}: there is no ethtool in the path");
                continue;
            }
            for is_v6 in [false, true] {
                let meetings = [(16 << 20, 0), (0, 16 << 20), (4 << 20, 4 << 20)]
                    .map(|(there, back)| Meeting { is_v6, ..Meeting::new(Role::Client, there, back) });
                for meeting in meetings {
                    carry(&lab, &mut host, &[meeting], LONGEST);
                }
            }
            let counters = host.counters();
            let mean = counters.tcp_segments_sent / counters.tcp_long_segments.max(1);
            println!("{kind:?}, cut {cuts}: {} long segments, mean of all {mean}", counters.tcp_long_segments);
            assert!(counters.tcp_long_segments > 100, "{} long segments", counters.tcp_long_segments);
            // 20 MiB came each way of each family, of which the kernel makes at least 27,000 segments if it cuts them up.
            assert!(counters.tcp_segments_received < 27_000, "{} segments received", counters.tcp_segments_received);
            assert_eq!((counters.tcp_resets_sent, counters.tcp_checksum, counters.tcp_malformed), (0, 0, 0));
            host.end();
        }
    });
}

const LONGEST: Duration = Duration::from_secs(55);

/// Which options a side has.
#[derive(Clone, Copy, Debug)]
struct Side {
    timestamps: bool,
    sack: bool,
    window_scaling: bool,
    /// Asks for it. Who does not, takes part if asked.
    ecn: bool,
}

const ALL: Side = Side { timestamps: true, sack: true, window_scaling: true, ecn: true };
const USUAL: Side = Side { ecn: false, ..ALL };
const NONE: Side = Side { timestamps: false, sack: false, window_scaling: false, ecn: false };

/// Us, and the kernel.
const OPTIONS: [(Side, Side); 14] = [
    (ALL, ALL),
    (USUAL, USUAL),
    (NONE, NONE),
    (NONE, ALL),
    (ALL, NONE),
    (USUAL, ALL),
    (Side { sack: false, ..ALL }, ALL),
    (Side { timestamps: false, ..ALL }, ALL),
    (Side { window_scaling: false, ..ALL }, ALL),
    (ALL, USUAL),
    (ALL, Side { sack: false, ..ALL }),
    (ALL, Side { timestamps: false, ..ALL }),
    (ALL, Side { window_scaling: false, ..ALL }),
    (Side { sack: false, timestamps: false, ..ALL }, Side { window_scaling: false, ..ALL }),
];

/// What comes of it, when the first one of them is the client.
fn agreed(client: Side, server: Side) -> Agreed {
    Agreed {
        timestamps: client.timestamps && server.timestamps,
        sack: client.sack && server.sack,
        window_scaling: client.window_scaling && server.window_scaling,
        ecn: client.ecn,
    }
}

fn with_options(index: usize, us: Side, kernel: Side) {
    let line = LineSettings {
        latency: Duration::from_millis(2)..=Duration::from_millis(3),
        loss: Loss::Each(0.005),
        ..LineSettings::default()
    };
    let mut net = NetSettings::default();
    let Side { timestamps, sack, window_scaling, ecn } = us;
    net.tcp = TcpSettings { timestamps, sack, window_scaling, ecn, ..net.tcp };
    let digit = |on: bool| if on { "1" } else { "0" };
    let sysctls = vec![
        ("ipv4/tcp_timestamps", digit(kernel.timestamps)),
        ("ipv4/tcp_sack", digit(kernel.sack)),
        ("ipv4/tcp_window_scaling", digit(kernel.window_scaling)),
        ("ipv4/tcp_ecn", if kernel.ecn { "1" } else { "2" }),
    ];
    let setup = Setup { wire: Some([line.clone(), line]), seed: index as u64 + 100, sysctls, net, ..Setup::default() };
    let Some((lab, mut host)) = Lab::open("options", setup) else { return };
    let len = 300 << 10;
    let meetings = [Role::Client, Role::Server].map(|role| Meeting::new(role, len, len));
    let found = carry(&lab, &mut host, &meetings, LONGEST);
    assert_eq!(found, [agreed(us, kernel), agreed(kernel, us)], "{us:?}, the kernel {kernel:?}");
    host.end();
}

#[test]
fn options_on_and_off() {
    on_a_thread(|| {
        let cases: Vec<_> = OPTIONS.into_iter().enumerate().collect();
        each(cases, 4, |(index, (us, kernel))| with_options(index, us, kernel));
    });
}

#[test]
fn marks_of_congestion_slow_both_down_before_anything_is_lost() {
    on_a_thread(|| {
        let line = LineSettings {
            bandwidth: Some(100_000_000),
            mark_above: Some(30_000),
            latency: Duration::from_millis(2)..=Duration::from_millis(2),
            ..LineSettings::default()
        };
        let mut net = NetSettings::default();
        net.tcp.ecn = true;
        let sysctls = vec![("ipv4/tcp_ecn", "1")];
        let setup = Setup { wire: Some([line.clone(), line]), sysctls, net, ..Setup::default() };
        let Some((lab, mut host)) = Lab::open("marks", setup) else { return };
        let len = 4 << 20;
        let meetings = [Meeting::new(Role::Client, len, 0), Meeting::new(Role::Server, 0, len)];
        carry(&lab, &mut host, &meetings, LONGEST);
        let [there, back] = lab.wire().counters();
        assert!(there.marked > 0 && back.marked > 0, "{there:?} {back:?}");
        assert!(host.counters().tcp_congestion_experienced > 0);
        assert_eq!((there.dropped(), back.dropped(), host.counters().tcp_timeouts), (0, 0, 0));
        host.end();
    });
}
