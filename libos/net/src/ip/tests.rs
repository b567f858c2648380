//! Two hosts back to back, and frames written by hand.

use std::time::Duration;

use pdpix::Sga;

use super::interface::group_mac;
use super::neighbours::State;
use super::*;
use crate::device::Offloads;
use crate::wire::{Checksum, ETHERNET_LEN, Ecn, EtherType, EthernetHeader, IPV4_LEN, Ipv4Header, Ipv6Header};
use zerocopy::{FromBytes, IntoBytes};

mod arp;
mod icmp;
mod malformed;
mod ndp;

pub(crate) const MAC_A: Mac = Mac([2, 0, 0, 0, 0, 0xa]);
pub(crate) const MAC_B: Mac = Mac([2, 0, 0, 0, 0, 0xb]);

pub(crate) fn seconds(seconds: u64) -> Instant {
    Instant::from_nanos(seconds * 1_000_000_000)
}

pub(crate) fn millis(millis: u64) -> Duration {
    Duration::from_millis(millis)
}

pub(crate) fn ip(text: &str) -> IpAddr {
    text.parse().unwrap()
}

pub(crate) fn settings(addresses: &[&str]) -> IpSettings {
    IpSettings { addresses: addresses.iter().map(|text| text.parse().unwrap()).collect(), ..IpSettings::default() }
}

pub(crate) fn host_with(settings: IpSettings, mac: Mac, offloads: Offloads) -> Ip {
    let link = Link { mac, mtu: 1500, offloads };
    Ip::new(settings, link, Heap::alone(8 << 20).unwrap(), Seed::new(7), Rng::new(7))
}

/// 192.0.2.1 and 2001:db8::1, or .2 and ::2.
pub(crate) fn host(last: u8) -> Ip {
    let addresses = [format!("192.0.2.{last}/24"), format!("2001:db8::{last}/64")];
    let mac = Mac([2, 0, 0, 0, 0, 9 + last]);
    host_with(settings(&addresses.each_ref().map(String::as_str)), mac, Offloads::NONE)
}

/// A frame as `to` receives it: in memory of its own heap.
pub(crate) fn arrive(to: &mut Ip, bytes: &[u8], now: Instant) -> Inbound {
    let buf = to.heap.copy(bytes).unwrap();
    to.receive(Received { buf, verified: false }, now)
}

/// All that a host has to send, as bytes.
pub(crate) fn sent(from: &mut Ip) -> Vec<Vec<u8>> {
    from.outbound().drain(..).map(|frame| frame.to_vec()).collect()
}

/// Moves frames both ways until there are none, and gives what reached the transports of `a` and of `b`.
pub(crate) fn exchange(a: &mut Ip, b: &mut Ip, now: Instant) -> (Vec<Inbound>, Vec<Inbound>) {
    let (mut to_a, mut to_b) = (Vec::new(), Vec::new());
    loop {
        let (from_a, from_b) = (sent(a), sent(b));
        if from_a.is_empty() && from_b.is_empty() {
            return (to_a, to_b);
        }
        to_b.extend(from_a.iter().map(|frame| arrive(b, frame, now)).filter(|i| !matches!(i, Inbound::Taken)));
        to_a.extend(from_b.iter().map(|frame| arrive(a, frame, now)).filter(|i| !matches!(i, Inbound::Taken)));
    }
}

/// Sends a packet of UDP's protocol number with any content.
pub(crate) fn send(from: &mut Ip, to: IpAddr, content: &[u8], now: Instant) -> Result<(), Error> {
    let source = from.source_for(to)?;
    let mut path = from.path(source, to)?;
    let mut packet = from.begin(&mut path, Protocol::UDP, Ecn::Capable0, content.len(), content.len())?;
    packet.put(content);
    from.send(&mut path, packet, Sga::new(), None, 0, now);
    Ok(())
}

pub(crate) fn udp(inbound: &Inbound) -> &Packet {
    match inbound {
        Inbound::Udp(packet) => packet,
        other => panic!("not a datagram: {other:?}"),
    }
}

#[test]
fn a_packet_waits_for_arp_and_arrives() {
    let (mut a, mut b) = (host(1), host(2));
    send(&mut a, ip("192.0.2.2"), b"hello", seconds(0)).unwrap();
    let (to_a, to_b) = exchange(&mut a, &mut b, seconds(0));
    assert!(to_a.is_empty());
    let packet = udp(&to_b[0]);
    assert_eq!((packet.source, packet.destination, packet.data()), (ip("192.0.2.1"), ip("192.0.2.2"), &b"hello"[..]));
    assert_eq!((packet.ecn, packet.group, packet.verified), (Ecn::Capable0, false, false));
    // The other way nobody has to be asked, as the request told.
    send(&mut b, ip("192.0.2.1"), b"you too", seconds(0)).unwrap();
    assert_eq!(b.outbound().len(), 1);
    let (to_a, _) = exchange(&mut a, &mut b, seconds(0));
    assert_eq!(udp(&to_a[0]).data(), b"you too");
}

#[test]
fn a_packet_to_ourselves_comes_back() {
    let mut a = host(1);
    for to in ["192.0.2.1", "127.0.0.1", "127.9.9.9", "::1", "2001:db8::1"] {
        send(&mut a, ip(to), b"me", seconds(0)).unwrap();
        let Some(Inbound::Udp(packet)) = a.receive_next_looped(seconds(0)) else { panic!("{to}") };
        assert_eq!((packet.destination, packet.data(), packet.verified), (ip(to), &b"me"[..], true));
    }
    assert!(a.outbound().is_empty() && !a.has_looped());
}

#[test]
fn padding_is_cut_off() {
    let (mut a, mut b) = (host(1), host(2));
    send(&mut a, ip("192.0.2.255"), b"x", seconds(0)).unwrap();
    let mut frame = sent(&mut a).remove(0);
    assert_eq!(frame.len(), ETHERNET_LEN + 21);
    frame.resize(60, 0xee);
    let inbound = arrive(&mut b, &frame, seconds(0));
    assert_eq!((udp(&inbound).data(), udp(&inbound).group), (&b"x"[..], true));
}

/// A frame to host 1 with an IPv4 packet, its header changed before its checksum is made.
pub(crate) fn v4_with(
    protocol: Protocol,
    source: &str,
    destination: &str,
    payload: &[u8],
    change: impl FnOnce(&mut Ipv4Header),
) -> Vec<u8> {
    let mut header = Ipv4Header {
        version_ihl: 0x45,
        traffic_class: 0,
        total_len: ((IPV4_LEN + payload.len()) as u16).into(),
        identification: 0.into(),
        flags_fragment: 0.into(),
        ttl: 64,
        protocol,
        checksum: 0.into(),
        source: source.parse::<Ipv4Addr>().unwrap().octets(),
        destination: destination.parse::<Ipv4Addr>().unwrap().octets(),
    };
    change(&mut header);
    header.checksum.set(Checksum::new().add(header.as_bytes()).finish());
    let to = match ip(destination) {
        group if group.is_multicast() || destination.ends_with(".255") => group_mac(group),
        _ => MAC_A,
    };
    let ethernet = EthernetHeader { destination: to, source: MAC_B, ethertype: EtherType::IPV4 };
    [ethernet.as_bytes(), header.as_bytes(), payload].concat()
}

pub(crate) fn v4(protocol: Protocol, source: &str, destination: &str, payload: &[u8]) -> Vec<u8> {
    v4_with(protocol, source, destination, payload, |_| {})
}

/// A frame to host 1 with an IPv6 packet.
pub(crate) fn v6(next: Protocol, source: &str, destination: &str, hop_limit: u8, payload: &[u8]) -> Vec<u8> {
    let header = Ipv6Header {
        version_class_flow: (6 << 28).into(),
        payload_len: (payload.len() as u16).into(),
        next_header: next,
        hop_limit,
        source: source.parse::<Ipv6Addr>().unwrap().octets(),
        destination: destination.parse::<Ipv6Addr>().unwrap().octets(),
    };
    let to = if ip(destination).is_multicast() { group_mac(ip(destination)) } else { MAC_A };
    let ethernet = EthernetHeader { destination: to, source: MAC_B, ethertype: EtherType::IPV6 };
    [ethernet.as_bytes(), header.as_bytes(), payload].concat()
}

/// Lets host 1 know host 2, of both families.
pub(crate) fn introduce(a: &mut Ip, now: Instant) {
    let mut b = host(2);
    for to in ["192.0.2.1", "2001:db8::1"] {
        send(&mut b, ip(to), b"hello", now).unwrap();
    }
    exchange(a, &mut b, now);
    for to in ["192.0.2.2", "2001:db8::2"] {
        send(a, ip(to), b"hello", now).unwrap();
    }
    exchange(a, &mut b, now);
}
