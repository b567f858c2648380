//! Bytes between our stack and the Linux kernel's over a good link: lengths, roles, devices, options on and off.

mod kernel;
mod link;

use std::time::Duration;

use kernel::*;
use libos_net::{NetSettings, TcpSettings};
use pdpix::Network;

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
