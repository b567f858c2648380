//! Frames made by hand: lengths and checksums right unless the script says otherwise, so that more than the first check is
//! reached.

use std::net::IpAddr;

use zerocopy::IntoBytes;

use crate::wire::{
    ArpPacket, Checksum, ETHERNET_LEN, EtherType, EthernetHeader, IPV4_LEN, IPV6_LEN, Ipv4Header, Ipv6Header, Mac,
    Protocol, pseudo_header,
};

/// Fields of an IP header that scripts change.
#[derive(Clone, Copy)]
pub(super) struct Header {
    pub(super) source: IpAddr,
    pub(super) destination: IpAddr,
    pub(super) protocol: Protocol,
    pub(super) traffic_class: u8,
    pub(super) hop_limit: u8,
    pub(super) identification: u16,
    pub(super) flags_fragment: u16,
}

impl Header {
    pub(super) fn new(source: IpAddr, destination: IpAddr, protocol: Protocol) -> Header {
        Header { source, destination, protocol, traffic_class: 0, hop_limit: 64, identification: 0, flags_fragment: 0 }
    }
}

pub(super) fn ethernet(destination: Mac, source: Mac, ethertype: EtherType, payload: &[u8]) -> Vec<u8> {
    [EthernetHeader { destination, source, ethertype }.as_bytes(), payload].concat()
}

pub(super) fn arp(to: Mac, packet: ArpPacket) -> Vec<u8> {
    ethernet(to, packet.sender_mac, EtherType::ARP, packet.as_bytes())
}

/// An IP packet in a frame.
pub(super) fn ip(to: Mac, from: Mac, header: Header, payload: &[u8]) -> Vec<u8> {
    match (header.source, header.destination) {
        (IpAddr::V4(source), IpAddr::V4(destination)) => {
            let mut of = Ipv4Header {
                version_ihl: 0x45,
                traffic_class: header.traffic_class,
                total_len: ((IPV4_LEN + payload.len()) as u16).into(),
                identification: header.identification.into(),
                flags_fragment: header.flags_fragment.into(),
                ttl: header.hop_limit,
                protocol: header.protocol,
                checksum: 0.into(),
                source: source.octets(),
                destination: destination.octets(),
            };
            of.checksum.set(Checksum::new().add(of.as_bytes()).finish());
            ethernet(to, from, EtherType::IPV4, &[of.as_bytes(), payload].concat())
        }
        (IpAddr::V6(source), IpAddr::V6(destination)) => {
            let of = Ipv6Header {
                version_class_flow: (6 << 28 | u32::from(header.traffic_class) << 20).into(),
                payload_len: (payload.len() as u16).into(),
                next_header: header.protocol,
                hop_limit: header.hop_limit,
                source: source.octets(),
                destination: destination.octets(),
            };
            ethernet(to, from, EtherType::IPV6, &[of.as_bytes(), payload].concat())
        }
        _ => unreachable!("scripts choose addresses of one family"),
    }
}

/// Fills in the checksum at `at`, with a pseudo header where the protocol has one.
pub(super) fn seal(header: &Header, payload: &mut [u8], at: usize) {
    let Some(field) = payload.get_mut(at..at + 2) else { return };
    field.fill(0);
    let sum = match header.protocol {
        Protocol::ICMP => Checksum::new(),
        protocol => pseudo_header(header.source, header.destination, protocol, payload.len()),
    };
    let sum = sum.add(payload).finish();
    payload[at..at + 2].copy_from_slice(&sum.to_be_bytes());
}

/// What an ICMP error quotes of a frame: its packet, as much as routers quote.
pub(super) fn quoted(frame: &[u8]) -> &[u8] {
    let packet = frame.get(ETHERNET_LEN..).unwrap_or_default();
    &packet[..packet.len().min(IPV6_LEN + 28)]
}

/// An ICMP error about a frame of `to`, from `from` or somebody on the way.
pub(super) fn icmp_error(
    to: Mac,
    from: Mac,
    header: Header,
    (kind, code): (u8, u8),
    word: u32,
    quote: &[u8],
) -> Vec<u8> {
    let mut payload = [&[kind, code, 0, 0], &word.to_be_bytes()[..], quote].concat();
    seal(&header, &mut payload, 2);
    ip(to, from, header, &payload)
}
