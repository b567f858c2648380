//! RFC 826, RFC 5227.

use super::*;
use crate::wire::{ARP_LEN, ArpPacket};

/// A frame with an ARP packet.
fn arp(operation: u16, sender: (Mac, &str), target: (Mac, &str), to: Mac) -> Vec<u8> {
    let octets = |text: &str| text.parse::<Ipv4Addr>().unwrap().octets();
    let packet = ArpPacket::new(operation, (sender.0, octets(sender.1)), (target.0, octets(target.1)));
    let ethernet = EthernetHeader { destination: to, source: sender.0, ethertype: EtherType::ARP };
    [ethernet.as_bytes(), packet.as_bytes()].concat()
}

fn request(from: &str, whom: &str) -> Vec<u8> {
    arp(ArpPacket::REQUEST, (MAC_B, from), (Mac::default(), whom), Mac::BROADCAST)
}

/// Frames of ARP among what a host sends: to whom, operation, sender, target.
fn arps(host: &mut Ip) -> Vec<(Mac, u16, Ipv4Addr, Ipv4Addr)> {
    let frames = sent(host).into_iter().filter(|frame| frame[12..14] == [8, 6]);
    let read = |frame: Vec<u8>| {
        assert_eq!(frame.len(), ETHERNET_LEN + ARP_LEN);
        let arp = ArpPacket::ref_from_bytes(&frame[ETHERNET_LEN..]).unwrap();
        assert!(arp.is_known() && arp.sender_mac == MAC_A);
        (Mac(frame[..6].try_into().unwrap()), arp.operation.get(), arp.sender.into(), arp.target.into())
    };
    frames.map(read).collect()
}

const OWN: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 1);
const PEER: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 2);

#[test]
fn who_asks_for_us_is_answered_and_learned() {
    let mut a = host(1);
    arrive(&mut a, &request("192.0.2.2", "192.0.2.1"), seconds(1));
    assert_eq!(arps(&mut a), [(MAC_B, ArpPacket::REPLY, OWN, PEER)]);
    assert_eq!(a.neighbours.state(PEER.into(), seconds(1)), State::Stale);
    // Who asks for another is not our business.
    arrive(&mut a, &request("192.0.2.3", "192.0.2.4"), seconds(1));
    assert_eq!((arps(&mut a), a.neighbours.len()), (vec![], 1));
    // Another core of this host answers: this one learns.
    let mut quiet = host_with(IpSettings { answers: false, ..settings(&["192.0.2.1/24"]) }, MAC_A, Offloads::NONE);
    arrive(&mut quiet, &request("192.0.2.2", "192.0.2.1"), seconds(1));
    assert_eq!((arps(&mut quiet), quiet.neighbours.len()), (vec![], 1));
}

#[test]
fn nobody_is_learned_who_was_not_asked_or_cannot_be() {
    let mut a = host(1);
    let reply = |from, mac| arp(ArpPacket::REPLY, (mac, from), (MAC_A, "192.0.2.1"), MAC_A);
    for frame in [
        reply("192.0.2.2", MAC_B),            // not asked
        request("198.51.100.1", "192.0.2.1"), // not on the link
        request("192.0.2.255", "192.0.2.1"),  // everybody
        arp(ArpPacket::REQUEST, (Mac::BROADCAST, "192.0.2.2"), (MAC_A, "192.0.2.1"), MAC_A), // a group's
        arp(3, (MAC_B, "192.0.2.2"), (MAC_A, "192.0.2.1"), MAC_A), // RARP
        request("192.0.2.2", "192.0.2.1")[..40].to_vec(), // cut short
    ] {
        arrive(&mut a, &frame, seconds(1));
    }
    assert_eq!((a.neighbours.len(), a.counters.arp_malformed), (0, 5));
    // A probe (RFC 5227 §2.1.1) is answered, and teaches nothing.
    arrive(&mut a, &request("0.0.0.0", "192.0.2.1"), seconds(1));
    assert_eq!((arps(&mut a).len(), a.neighbours.len()), (1, 0));
}

#[test]
fn who_is_known_is_brought_up_to_date() {
    let (mut a, mut b) = (host(1), host(2));
    send(&mut a, PEER.into(), b"x", seconds(0)).unwrap();
    exchange(&mut a, &mut b, seconds(0));
    let moved = Mac([2, 0, 0, 0, 0, 0x99]);
    let announcement = arp(ArpPacket::REQUEST, (moved, "192.0.2.2"), (Mac::default(), "192.0.2.2"), Mac::BROADCAST);
    let mut path = a.path(OWN.into(), PEER.into()).unwrap();
    arrive(&mut a, &announcement, seconds(1));
    let packet = a.begin(&mut path, Protocol::UDP, Ecn::NotCapable, 0, 0).unwrap();
    a.send(&mut path, packet, Sga::new(), None, 0, seconds(1));
    assert_eq!(sent(&mut a)[0][..6], moved.0, "a path that was cached goes there too");
}

#[test]
fn addresses_are_announced_twice_at_the_start() {
    let mut a = host_with(settings(&["192.0.2.1/24", "10.0.0.1/8"]), MAC_A, Offloads::NONE);
    assert_eq!(a.deadline(), Some(Instant::ZERO));
    let announced = |address| (Mac::BROADCAST, ArpPacket::REQUEST, address, address);
    let both = [announced(OWN), announced(Ipv4Addr::new(10, 0, 0, 1))];
    for second in [7, 9] {
        a.on_time(seconds(second));
        assert_eq!(arps(&mut a), both);
        a.on_time(seconds(second + 1));
        assert_eq!(arps(&mut a), []);
    }
    (11..=30).for_each(|second| _ = a.on_time(seconds(second)));
    assert_eq!((arps(&mut a), a.deadline()), (vec![], None));
}

#[test]
fn our_address_is_defended_once_in_ten_seconds() {
    let mut a = host(1);
    let claim = || arp(ArpPacket::REQUEST, (MAC_B, "192.0.2.1"), (Mac::default(), "192.0.2.1"), Mac::BROADCAST);
    let defence = [(Mac::BROADCAST, ArpPacket::REQUEST, OWN, OWN)];
    for (second, defends) in [(1, true), (2, false), (10, false), (11, true)] {
        arrive(&mut a, &claim(), seconds(second));
        assert_eq!(arps(&mut a), if defends { &defence[..] } else { &[] }, "{second}");
    }
    assert_eq!((a.counters.arp_conflict, a.neighbours.len()), (4, 0));
    // Our own frame, come back from a bridge, is none.
    let own = arp(ArpPacket::REQUEST, (MAC_A, "192.0.2.1"), (Mac::default(), "192.0.2.1"), Mac::BROADCAST);
    arrive(&mut a, &own, seconds(50));
    assert_eq!(a.counters.arp_conflict, 4);
}

#[test]
fn what_waited_in_vain_comes_back_as_notices() {
    let mut a = host(1);
    a.on_time(seconds(0));
    let ports = [0, 7, 0, 9, 0, 8, 0, 0];
    for _ in 0..20 {
        send(&mut a, PEER.into(), &ports, seconds(1)).unwrap();
    }
    assert_eq!(a.counters.parked_overflow, 4);
    let mut notices = Vec::new();
    while notices.is_empty() {
        let next = a.deadline().expect("it is asked for");
        notices = a.on_time(next);
    }
    let notice = notices[0];
    assert_eq!((notices.len(), a.counters.parked_dropped, a.counters.neighbour_failed), (16, 16, 1));
    assert_eq!((notice.source, notice.destination, notice.ports), (OWN.into(), PEER.into(), (7, 9)));
    assert_eq!((notice.kind, notice.protocol, notice.sequence), (NoticeKind::HostUnreachable, Protocol::UDP, None));
    let asked = arps(&mut a).iter().filter(|(_, _, _, target)| *target == PEER).count();
    assert_eq!(asked, 3);
    assert_eq!(a.heap.stats().pinned, 0, "nothing is left");
}

#[test]
fn a_packet_to_another_network_goes_to_the_gateway() {
    let gateways = vec![PEER.into(), ip("fe80::ff:fe00:b")];
    let with = IpSettings { gateways, ..settings(&["192.0.2.1/24", "2001:db8::1/64"]) };
    let (mut a, mut b) = (host_with(with, MAC_A, Offloads::NONE), host(2));
    for to in ["203.0.113.9", "2606::9"] {
        send(&mut a, ip(to), b"x", seconds(1)).unwrap();
        exchange(&mut a, &mut b, seconds(1));
        send(&mut a, ip(to), b"x", seconds(1)).unwrap();
        let frame = sent(&mut a).remove(0);
        assert_eq!(frame[..6], MAC_B.0, "{to}");
    }
    assert_eq!((b.counters.ipv4_not_ours, b.counters.ipv6_not_ours), (1, 1), "it would have forwarded them");
    assert_eq!(send(&mut host(1), ip("203.0.113.9"), b"x", seconds(1)), Err(Error::NetworkUnreachable));
}
