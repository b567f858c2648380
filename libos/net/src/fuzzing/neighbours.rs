//! Neighbours that come, move, lie and fall silent, and packets that wait for them; more of them than the table holds.
//!
//! Holds: the table's own rules; a packet goes to a link-layer address that its receiver has claimed; each packet is sent
//! once at most; when everything is over, no buffer is held.

use std::collections::BTreeSet;
use std::net::IpAddr;

use zerocopy::IntoBytes;
use zerocopy::byteorder::network_endian::{U16, U32};

use super::forge::{self, Header};
use super::frames::{HOST, V4, v6};
use super::{Script, pause};
use crate::wire::{
    ArpPacket, EtherType, LinkAddressOption, Mac, NeighbourMessage, Protocol, SOURCE_LINK_ADDRESS, TARGET_LINK_ADDRESS,
    icmpv6,
};
use crate::{FuzzedHost, IpLimits};

/// Of the table; there are sixteen peers.
const CAPACITY: usize = 5;

fn peer(byte: u8) -> IpAddr {
    let last = 2 + (byte & 7);
    if byte & 8 == 0 { [192, 0, 2, last].into() } else { [0x2001, 0xdb8, 0, 0, 0, 0, 0, last.into()].into() }
}

fn mac(byte: u8) -> Mac {
    Mac([2, 0, 0, 0, 1, byte & 0x1f])
}

pub(super) fn run(bytes: &[u8]) {
    let mut script = Script::new(bytes);
    let mut host = FuzzedHost::new(IpLimits { neighbours: CAPACITY, ..IpLimits::default() });
    let mut claimed: BTreeSet<(IpAddr, Mac)> = BTreeSet::new();
    let mut sent = BTreeSet::new();
    let mut count = 0u32;
    while !script.is_over() {
        let (event, whom) = (script.byte(), script.byte());
        match event % 8 {
            0 | 1 => {
                count += 1;
                host.send(peer(whom), &count.to_be_bytes(), event & 8 != 0);
            }
            2 => host.wait(pause(whom)),
            _ => {
                let of = mac(script.byte());
                if let Some(claimer) = claims(event, whom, of, &mut host, &mut script) {
                    claimed.insert((claimer, of));
                }
            }
        }
        host.check();
        look(&host.sent(), &claimed, &mut sent);
    }
    look(&host.settle(), &claimed, &mut sent);
    assert_eq!(host.pinned(), 0, "bytes pinned when everything is over");
}

/// A frame in which somebody says who it is. Gives what it says.
fn claims(event: u8, whom: u8, of: Mac, host: &mut FuzzedHost, script: &mut Script<'_>) -> Option<IpAddr> {
    let is_answer = event & 8 != 0;
    let ip = peer(whom);
    let frame = match ip {
        IpAddr::V4(ip) => {
            let operation = if is_answer { ArpPacket::REPLY } else { ArpPacket::REQUEST };
            // About the host, about itself (gratuitous), about others.
            let target = if event & 16 != 0 { ip.octets() } else { V4[usize::from(whom >> 4) % 2] };
            forge::arp(HOST, ArpPacket::new(operation, (of, ip.octets()), (HOST, target)))
        }
        IpAddr::V6(ip) => {
            let flags = u32::from(script.byte()) << 24;
            let target = if is_answer { ip.octets() } else { v6(0) };
            let (kind, option) = match is_answer {
                true => (icmpv6::NEIGHBOUR_ADVERTISEMENT, TARGET_LINK_ADDRESS),
                false => (icmpv6::NEIGHBOUR_SOLICITATION, SOURCE_LINK_ADDRESS),
            };
            let flags = if is_answer { flags } else { 0 };
            let message = NeighbourMessage { kind, code: 0, checksum: U16::ZERO, flags: U32::new(flags), target };
            let option = LinkAddressOption { kind: option, len: 1, mac: of };
            let mut header = Header::new(ip.into(), v6(0).into(), Protocol::ICMPV6);
            header.hop_limit = 255;
            let mut payload = [message.as_bytes(), option.as_bytes()].concat();
            forge::seal(&header, &mut payload, 2);
            forge::ip(HOST, of, header, &payload)
        }
    };
    host.receive(&frame, false);
    Some(ip)
}

/// Looks at what the host has sent.
fn look(frames: &[Vec<u8>], claimed: &BTreeSet<(IpAddr, Mac)>, sent: &mut BTreeSet<Vec<u8>>) {
    for frame in frames {
        let to = Mac(frame[..6].try_into().expect("six bytes"));
        let (ip, payload): (IpAddr, &[u8]) = match EtherType(U16::from_bytes([frame[12], frame[13]])) {
            EtherType::IPV4 => (<[u8; 4]>::try_from(&frame[30..34]).expect("four bytes").into(), &frame[34..]),
            EtherType::IPV6 => (<[u8; 16]>::try_from(&frame[38..54]).expect("sixteen bytes").into(), &frame[54..]),
            _ => continue,
        };
        assert!(to.is_group() || claimed.contains(&(ip, to)), "{ip} never said that it is {to}");
        if payload.len() == 4 {
            assert!(sent.insert(payload.to_vec()), "packet {payload:?} was sent twice");
        }
    }
}
