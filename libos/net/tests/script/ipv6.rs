//! Scripts over IPv6 (`set ip 6`): what the peer sends is put into IPv6 packets, and what we send is checked and taken out
//! of them, so that the rest need not know.

use std::net::{IpAddr, Ipv6Addr};

use libos_net::wire::{Checksum, Protocol, pseudo_header};

use super::packet::{OUR_IP, OUR_MAC, PEER_IP, PEER_MAC};

pub const OUR_IP6: Ipv6Addr = Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 1);
pub const PEER_IP6: Ipv6Addr = Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 2);

/// Where a protocol has its checksum.
fn field(protocol: Protocol) -> usize {
    match protocol {
        Protocol::TCP => 16,
        Protocol::UDP => 6,
        _ => 2,
    }
}

fn sum(from: IpAddr, to: IpAddr, protocol: Protocol, payload: &mut [u8]) {
    let at = field(protocol);
    payload[at..at + 2].fill(0);
    let sum = pseudo_header(from, to, protocol, payload.len()).add(payload).finish();
    payload[at..at + 2].copy_from_slice(&sum.to_be_bytes());
}

fn header(from: Ipv6Addr, to: Ipv6Addr, protocol: Protocol, ecn: u8, hops: u8, len: usize) -> Vec<u8> {
    let mut ip = vec![0x60, ecn << 4, 0, 0];
    ip.extend((len as u16).to_be_bytes());
    ip.extend([protocol.0, hops]);
    ip.extend(from.octets());
    ip.extend(to.octets());
    ip
}

fn frame(protocol: Protocol, ecn: u8, mut payload: Vec<u8>) -> Vec<u8> {
    sum(PEER_IP6.into(), OUR_IP6.into(), protocol, &mut payload);
    let ip = header(PEER_IP6, OUR_IP6, protocol, ecn, 255, payload.len());
    [&OUR_MAC[..], &PEER_MAC, &[0x86, 0xdd], &ip, &payload].concat()
}

/// A frame of the peer's, as it would be over IPv6.
pub fn to_ipv6(v4: &[u8]) -> Vec<u8> {
    let (protocol, ecn, payload) = (Protocol(v4[23]), v4[15] & 3, v4[34..].to_vec());
    if protocol != Protocol::ICMP {
        return frame(protocol, ecn, payload);
    }
    // RFC 7915 §4.2: errors, which quote what we sent.
    let (kind, code) = match (payload[0], payload[1]) {
        (3, 4) => (2, 0),
        (3, 3) => (1, 4),
        (3, 0) => (1, 0),
        (3, 13) => (1, 1),
        (11, code) => (3, code),
        _ => (1, 3),
    };
    let mut icmp = vec![kind, code, 0, 0, 0, 0, payload[6], payload[7]];
    let (quoted, about) = (Protocol(payload[8 + 9]), &payload[8 + 20..]);
    icmp.extend(header(OUR_IP6, PEER_IP6, quoted, 0, 63, 1440));
    icmp.extend(about);
    frame(Protocol::ICMPV6, 0, icmp)
}

/// What we sent over IPv6.
pub enum Sent6 {
    /// As it would be over IPv4.
    Packet(Vec<u8>),
    /// We look for the peer; that is the answer.
    Solicitation(Vec<u8>),
    Other,
}

/// Takes a frame of ours apart, and checks it.
pub fn from_ipv6(frame: &[u8]) -> Result<Sent6, String> {
    let (ip, payload) = frame[14..].split_at_checked(40).ok_or("a short IPv6 packet")?;
    let protocol = Protocol(ip[6]);
    let address = |at: usize| Ipv6Addr::from(<[u8; 16]>::try_from(&ip[at..at + 16]).unwrap());
    let (source, destination) = (address(8), address(24));
    let len = usize::from(u16::from_be_bytes([ip[4], ip[5]]));
    let payload = payload.get(..len).ok_or("our IPv6 header is wrong")?;
    if protocol == Protocol::ICMPV6 && payload[0] == 135 && payload[8..24] == PEER_IP6.octets() {
        return Ok(Sent6::Solicitation(advertisement()));
    }
    if destination != PEER_IP6 {
        return Ok(Sent6::Other); // to groups, when the host appears
    }
    if !pseudo_header(source.into(), destination.into(), protocol, len).add(payload).is_right() {
        return Err("our checksum over IPv6 is wrong".into());
    }
    let (protocol, mut payload) = match (protocol, payload[0], payload[1]) {
        (Protocol::ICMPV6, 1, 4) => (Protocol::ICMP, vec![3, 3, 0, 0]),
        (Protocol::ICMPV6, ..) => return Ok(Sent6::Other),
        _ => (protocol, payload.to_vec()),
    };
    sum(OUR_IP.into(), PEER_IP.into(), protocol, &mut payload);
    let mut v4 = vec![0x45, ip[1] >> 4 & 3, 0, 0, 0, 0, 0x40, 0, 64, protocol.0, 0, 0];
    v4.extend(OUR_IP.octets());
    v4.extend(PEER_IP.octets());
    v4[2..4].copy_from_slice(&(20 + payload.len() as u16).to_be_bytes());
    let header_sum = Checksum::new().add(&v4).finish();
    v4[10..12].copy_from_slice(&header_sum.to_be_bytes());
    Ok(Sent6::Packet([&frame[..12], &[8, 0], &v4[..], &payload].concat()))
}

/// RFC 4861 §4.4, asked for.
fn advertisement() -> Vec<u8> {
    let mut icmp = vec![136, 0, 0, 0, 0x60, 0, 0, 0];
    icmp.extend(PEER_IP6.octets());
    icmp.extend([2, 1]);
    icmp.extend(PEER_MAC);
    frame(Protocol::ICMPV6, 0, icmp)
}
