//! Packets in fragments: cut anywhere, twice, in any order, overlapping, too many, never whole.
//!
//! Holds: what a transport sees is what one packet had, and ends where a last fragment of it ended; when everything is over,
//! no buffer is held.

use super::forge::{self, Header};
use super::frames::{HOST, PEER, V4, v6};
use super::{Script, pause};
use crate::wire::{Ipv4Header, Protocol};
use crate::{FuzzedHost, IpLimits};

/// Packets of each family.
const PACKETS: u8 = 8;

/// What a packet has at a place. In front, the header of a datagram without a checksum.
fn content(packet: u8, at: usize) -> u8 {
    match at {
        0..8 => 1,
        _ => (at ^ at >> 8).wrapping_mul(31).wrapping_add(usize::from(packet)) as u8,
    }
}

pub(super) fn run(bytes: &[u8]) {
    let mut script = Script::new(bytes);
    let limits = IpLimits { partial_packets: 4, partial_pinned: 64 << 10, ..IpLimits::default() };
    let mut host = FuzzedHost::new(limits);
    // Where last fragments of each packet ended.
    let mut ends = vec![Vec::new(); usize::from(PACKETS)];
    while !script.is_over() {
        let which = script.byte();
        if which == 0xff {
            host.wait(pause(script.byte()));
            host.sent();
            continue;
        }
        let packet = which % PACKETS;
        let (offset, units, how) = (usize::from(script.word() & 0x1fff) * 8, script.byte(), script.byte());
        let more = how & 1 == 0;
        let len = usize::from(units) * 8 + if how & 2 != 0 { usize::from(how >> 5) } else { 0 };
        let mut data: Vec<u8> = (offset..offset + len).map(|at| content(packet, at)).collect();
        if how & 4 != 0 {
            data.extend(script.string());
            ends[usize::from(packet)].clear(); // no longer known
            ends[usize::from(packet)].push(usize::MAX);
        }
        if !more {
            ends[usize::from(packet)].push(offset + data.len());
        }
        let is_lie = ends[usize::from(packet)].contains(&usize::MAX);
        let seen = host.receive(&fragment(packet, offset, more, &data, which & 0x40 != 0), false);
        host.check();
        host.sent();
        if let Some(seen) = seen
            && !is_lie
        {
            let known = &ends[usize::from(packet)];
            assert!(known.contains(&seen.len()), "{} bytes of packet {packet}, which ends at {known:?}", seen.len());
            let differs = seen.iter().enumerate().find(|&(at, byte)| *byte != content(packet, at));
            assert_eq!(differs, None, "packet {packet} came out as another one");
        }
    }
    host.settle();
    assert_eq!(host.pinned(), 0, "bytes pinned when everything is over");
}

fn fragment(packet: u8, offset: usize, more: bool, data: &[u8], is_v6: bool) -> Vec<u8> {
    let field = (offset / 8) as u16;
    if is_v6 {
        let header = Header::new(v6(1).into(), v6(0).into(), Protocol::IPV6_FRAGMENT);
        let extension = [&[Protocol::UDP.0, 0], &(field << 3 | u16::from(more)).to_be_bytes()[..], &[0, 0, 0, packet]];
        return forge::ip(HOST, PEER, header, &[&extension.concat(), data].concat());
    }
    let mut header = Header::new(V4[1].into(), V4[0].into(), Protocol::UDP);
    header.identification = packet.into();
    header.flags_fragment = field | if more { Ipv4Header::MORE_FRAGMENTS } else { 0 };
    forge::ip(HOST, PEER, header, data)
}
