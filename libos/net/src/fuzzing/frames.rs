//! Frames of any kind to the internet layer: as they come, or behind headers that are right.
//!
//! Holds: nothing panics; what is neither answered nor kept nor given to a transport was counted; when everything is over,
//! no buffer is held.

use std::net::IpAddr;

use super::forge::{self, Header};
use super::{Script, pause};
use crate::FuzzedHost;
use crate::wire::{EtherType, Mac, Protocol};

pub(super) const HOST: Mac = Mac([2, 0, 0, 0, 0, 0xa]);
pub(super) const PEER: Mac = Mac([2, 0, 0, 0, 0, 0xb]);

/// The host's, its peers', groups', and nobody's.
pub(super) const V4: [[u8; 4]; 8] = [
    [192, 0, 2, 1],
    [192, 0, 2, 2],
    [192, 0, 2, 3],
    [192, 0, 2, 255],
    [224, 0, 0, 1],
    [255, 255, 255, 255],
    [0, 0, 0, 0],
    [198, 51, 100, 7],
];

pub(super) fn v6(byte: u8) -> [u8; 16] {
    let all = ["2001:db8::1", "2001:db8::2", "fe80::ff:fe00:a", "fe80::b", "ff02::1", "ff02::1:ff00:1", "::", "::1"];
    let ip: std::net::Ipv6Addr = all[usize::from(byte) % all.len()].parse().expect("an address");
    ip.octets()
}

pub(super) fn run(bytes: &[u8]) {
    let mut script = Script::new(bytes);
    let mut host = FuzzedHost::default();
    let mut last = Vec::new();
    while !script.is_over() {
        let frame = match script.byte() {
            0 => {
                host.wait(pause(script.byte()));
                host.sent().pop().into_iter().for_each(|sent| last = sent);
                continue;
            }
            kind => frame(kind, &mut script, &last),
        };
        arrive(&mut host, &frame, script.byte() & 1 == 1);
        host.sent().pop().into_iter().for_each(|sent| last = sent);
        host.check();
    }
    host.settle();
    assert_eq!(host.pinned(), 0, "bytes pinned when everything is over");
}

fn frame(kind: u8, script: &mut Script<'_>, last: &[u8]) -> Vec<u8> {
    match kind % 8 {
        0 => script.string().to_vec(),
        1 => forge::ethernet(HOST, PEER, EtherType::ARP, script.string()),
        2 => forge::ethernet(Mac::BROADCAST, PEER, EtherType::ARP, script.string()),
        3 => of_ip(script, Protocol::ICMP, true),
        4 => of_ip(script, Protocol::ICMPV6, true),
        5 => of_ip(script, Protocol::UDP, false),
        6 => of_ip(script, Protocol::IPV6_FRAGMENT, false),
        _ => about(script, last),
    }
}

/// A packet of any protocol, to the host mostly. With a checksum that is right, if there is a place for it.
fn of_ip(script: &mut Script<'_>, usual: Protocol, sealed: bool) -> Vec<u8> {
    let (ends, how) = (script.byte(), script.byte());
    let (from, to) = (ends & 7, ends >> 3 & 7);
    let is_v6 = match usual {
        Protocol::ICMP => false,
        Protocol::ICMPV6 => true,
        _ => ends & 0x40 != 0,
    };
    let (source, destination): (IpAddr, IpAddr) = match is_v6 {
        true => (v6(from.wrapping_add(1)).into(), v6(to).into()),
        false => (V4[usize::from(from.wrapping_add(1)) % 8].into(), V4[usize::from(to)].into()),
    };
    let mut header = Header::new(source, destination, usual);
    if how & 1 != 0 {
        header.protocol = Protocol(script.byte());
    }
    // NDP wants 255.
    header.hop_limit = if how & 2 != 0 { script.byte() } else { 255 };
    if how & 4 != 0 {
        (header.traffic_class, header.identification, header.flags_fragment) =
            (script.byte(), script.byte().into(), script.word());
    }
    let mut payload = script.string().to_vec();
    if sealed && how & 8 == 0 {
        forge::seal(&header, &mut payload, 2);
    }
    let at = if how & 16 != 0 { Mac::BROADCAST } else { HOST };
    let mut frame = forge::ip(at, PEER, header, &payload);
    if how & 32 != 0 {
        // A flip, or an end cut off.
        let place = usize::from(script.byte());
        match frame.get_mut(place) {
            Some(byte) => *byte ^= script.byte(),
            None => frame.truncate(frame.len().saturating_sub(place & 0x1f)),
        }
    }
    frame
}

/// An ICMP error about what the host sent last.
fn about(script: &mut Script<'_>, last: &[u8]) -> Vec<u8> {
    let (kind, code, word) = (script.byte(), script.byte(), u32::from(script.word()));
    let header = match last.get(12..14) {
        Some([8, 0]) => Header::new(V4[1].into(), V4[0].into(), Protocol::ICMP),
        _ => Header::new(v6(1).into(), v6(0).into(), Protocol::ICMPV6),
    };
    let mut quote = forge::quoted(last).to_vec();
    if let Some(byte) = quote.get_mut(usize::from(script.byte())) {
        *byte ^= script.byte();
    }
    forge::icmp_error(HOST, PEER, header, (kind, code), word, &quote)
}

/// Neighbour discovery and ARP may be dropped in silence: RFC 4861 has what is of no use ignored.
fn may_be_silent(frame: &[u8]) -> bool {
    let is_arp = frame.get(12..14) == Some(&[8, 6]);
    let is_v6 = frame.get(12..14) == Some(&[0x86, 0xdd]);
    is_arp || is_v6
}

fn arrive(host: &mut FuzzedHost, frame: &[u8], verified: bool) {
    let (counters, pinned) = (host.counters(), host.pinned());
    let seen = host.receive(frame, verified);
    let (counted, kept) = (host.counters() != counters, host.pinned() > pinned);
    assert!(seen.is_some() || counted || kept || may_be_silent(frame), "dropped, and not counted: {frame:02x?}");
}
