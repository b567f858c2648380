//! RFC 4861, RFC 4862 §5.4.

use super::*;
use crate::wire::{NeighbourMessage as Message, icmpv6};

const OWN: &str = "2001:db8::1";
const PEER: &str = "2001:db8::2";
const GROUP: &str = "ff02::1:ff00:1";
/// The link-local address of `MAC_B`.
const ROUTER: &str = "fe80::ff:fe00:b";

/// A message of ICMPv6 with its checksum, as a frame to host 1.
fn icmp(kind: u8, source: &str, destination: &str, hop_limit: u8, rest: &[u8]) -> Vec<u8> {
    let mut bytes = [&[kind, 0, 0, 0], rest].concat();
    let pseudo = crate::wire::pseudo_header(ip(source), ip(destination), Protocol::ICMPV6, bytes.len());
    let sum = pseudo.add(&bytes).finish();
    bytes[2..4].copy_from_slice(&sum.to_be_bytes());
    v6(Protocol::ICMPV6, source, destination, hop_limit, &bytes)
}

fn neighbour(
    kind: u8,
    flags: u32,
    source: &str,
    destination: &str,
    target: &str,
    option: Option<(u8, Mac)>,
) -> Vec<u8> {
    let mut rest = [&flags.to_be_bytes()[..], &target.parse::<Ipv6Addr>().unwrap().octets()].concat();
    if let Some((kind, mac)) = option {
        rest.extend([kind, 1]);
        rest.extend(mac.0);
    }
    icmp(kind, source, destination, 255, &rest)
}

fn solicitation(source: &str, destination: &str, option: Option<(u8, Mac)>) -> Vec<u8> {
    neighbour(icmpv6::NEIGHBOUR_SOLICITATION, 0, source, destination, OWN, option)
}

fn advertisement(flags: u32, mac: Mac) -> Vec<u8> {
    neighbour(icmpv6::NEIGHBOUR_ADVERTISEMENT, flags, PEER, OWN, PEER, Some((2, mac)))
}

/// Messages of ICMPv6 that a host sends: type, to which address, the rest.
fn messages(host: &mut Ip) -> Vec<(u8, IpAddr, Vec<u8>)> {
    let frames = sent(host).into_iter().filter(|frame| frame[12..14] == [0x86, 0xdd] && frame[20] == 58);
    let read = |frame: Vec<u8>| {
        assert_eq!(frame[21], 255, "the hop limit");
        let to: [u8; 16] = frame[38..54].try_into().unwrap();
        (frame[54], IpAddr::from(to), frame[58..].to_vec())
    };
    frames.map(read).collect()
}

#[test]
fn a_packet_waits_for_an_advertisement_and_arrives() {
    let (mut a, mut b) = (host(1), host(2));
    for (to, from) in [(PEER, OWN), (ROUTER, "fe80::ff:fe00:a")] {
        send(&mut a, ip(to), b"hello", seconds(0)).unwrap();
        let question = a.outbound().front().unwrap().to_vec();
        assert_eq!(question[..3], [0x33, 0x33, 0xff], "to the solicited-node group");
        let (_, to_b) = exchange(&mut a, &mut b, seconds(0));
        assert_eq!((udp(&to_b[0]).source, udp(&to_b[0]).data()), (ip(from), &b"hello"[..]));
        assert_eq!(a.neighbours.state(ip(to), seconds(0)), State::Reachable);
        assert_eq!(b.neighbours.state(ip(from), seconds(0)), State::Stale, "the question told, and proved nothing");
    }
    assert_eq!((a.counters, b.counters.ndp_malformed), (Counters::default(), 0));
}

#[test]
fn what_rfc_4861_tells_to_drop_is_dropped() {
    let far = {
        let mut rest = vec![0; 4];
        rest.extend(OWN.parse::<Ipv6Addr>().unwrap().octets());
        icmp(icmpv6::NEIGHBOUR_SOLICITATION, PEER, GROUP, 254, &rest)
    };
    let multicast_target = neighbour(icmpv6::NEIGHBOUR_SOLICITATION, 0, PEER, OWN, "ff02::1", None);
    let short = icmp(icmpv6::NEIGHBOUR_SOLICITATION, PEER, OWN, 255, &[0; 8]);
    let solicited_group = neighbour(icmpv6::NEIGHBOUR_ADVERTISEMENT, Message::SOLICITED, PEER, "ff02::1", PEER, None);
    let bad_option = {
        let mut rest = vec![0; 4];
        rest.extend(OWN.parse::<Ipv6Addr>().unwrap().octets());
        rest.extend([1, 0, 0, 0, 0, 0, 0, 0]);
        icmp(icmpv6::NEIGHBOUR_SOLICITATION, PEER, OWN, 255, &rest)
    };
    let all = [
        far,
        multicast_target,
        short,
        solicited_group,
        bad_option,
        solicitation("::", GROUP, Some((1, MAC_B))),
        solicitation("::", OWN, None),
        solicitation(PEER, OWN, Some((1, Mac::BROADCAST))),
    ];
    let mut a = host(1);
    for (i, frame) in all.iter().enumerate() {
        arrive(&mut a, frame, seconds(1));
        assert_eq!((a.counters.ndp_malformed, a.outbound().len()), (i as u64 + 1, 0), "{i}");
    }
    assert_eq!(a.neighbours.len(), 0);
    // With a wrong checksum it is no message at all.
    let mut frame = solicitation(PEER, OWN, None);
    *frame.last_mut().unwrap() ^= 1;
    arrive(&mut a, &frame, seconds(1));
    assert_eq!((a.counters.icmp_checksum, a.counters.ndp_malformed), (1, 8));
}

#[test]
fn a_solicitation_is_answered_also_if_its_sender_has_to_be_asked_for() {
    let mut a = host(1);
    arrive(&mut a, &solicitation(PEER, GROUP, Some((1, MAC_B))), seconds(1));
    let flags = (Message::SOLICITED | Message::OVERRIDE).to_be_bytes();
    let (kind, to, rest) = messages(&mut a).remove(0);
    assert_eq!((kind, to, &rest[..4]), (icmpv6::NEIGHBOUR_ADVERTISEMENT, ip(PEER), &flags[..]));
    assert_eq!(rest[20..], [&[2, 1], &MAC_A.0[..]].concat());
    // §4.3 allows a unicast one without the option.
    let (mut a, mut b) = (host(1), host(2));
    arrive(&mut a, &solicitation(PEER, OWN, None), seconds(1));
    let (question, ..) = messages(&mut a).remove(0);
    assert_eq!(question, icmpv6::NEIGHBOUR_SOLICITATION);
    arrive(&mut a, &advertisement(Message::SOLICITED | Message::OVERRIDE, MAC_B), seconds(1));
    let answer = a.outbound().front().unwrap().to_vec();
    assert_eq!((&answer[..6], answer[54]), (&MAC_B.0[..], icmpv6::NEIGHBOUR_ADVERTISEMENT));
    exchange(&mut a, &mut b, seconds(1));
    assert_eq!((b.counters.icmp_checksum, b.counters.ndp_malformed), (0, 0));
}

#[test]
fn advertisements_override_only_if_they_say_so() {
    let other = Mac([2, 0, 0, 0, 0, 0x77]);
    for (flags, mac, state, moves) in [
        (Message::SOLICITED, other, State::Stale, false),
        (Message::OVERRIDE, other, State::Stale, true),
        (Message::SOLICITED | Message::OVERRIDE, other, State::Reachable, true),
        (0, MAC_B, State::Reachable, false),
        (Message::SOLICITED, MAC_B, State::Reachable, false),
    ] {
        let mut a = host(1);
        introduce(&mut a, seconds(1));
        arrive(&mut a, &advertisement(Message::SOLICITED | Message::OVERRIDE, MAC_B), seconds(1));
        assert_eq!(a.neighbours.state(ip(PEER), seconds(1)), State::Reachable);
        arrive(&mut a, &advertisement(flags, mac), seconds(2));
        let known = a.neighbours.find(ip(PEER)).map(|(_, mac)| mac);
        let expected = (state, Some(if moves { other } else { MAC_B }));
        assert_eq!((a.neighbours.state(ip(PEER), seconds(2)), known), expected, "{flags:x}");
    }
    // Nobody asked, nobody is known.
    let mut a = host(1);
    arrive(&mut a, &advertisement(Message::SOLICITED | Message::OVERRIDE, MAC_B), seconds(1));
    assert_eq!(a.neighbours.len(), 0);
}

#[test]
fn duplicates_are_detected_and_counted_and_nobody_waits() {
    let mut a = host(1);
    a.on_time(seconds(1));
    let asked: Vec<IpAddr> =
        messages(&mut a).into_iter().filter(|(kind, ..)| *kind == 135).map(|(_, to, _)| to).collect();
    assert_eq!(asked, [ip(GROUP), ip("ff02::1:ff00:a")], "of the configured and of the link-local address");
    // Somebody has it.
    let claim =
        neighbour(icmpv6::NEIGHBOUR_ADVERTISEMENT, Message::OVERRIDE, OWN_BY_OTHER, "ff02::1", OWN, Some((2, MAC_B)));
    arrive(&mut a, &claim, seconds(1));
    assert_eq!(a.counters.ndp_conflict, 1);
    // Somebody wants it at the same time; later he is only told.
    arrive(&mut a, &solicitation("::", GROUP, None), seconds(1));
    assert_eq!(a.counters.ndp_conflict, 2);
    a.on_time(seconds(3));
    messages(&mut a);
    arrive(&mut a, &solicitation("::", GROUP, None), seconds(3));
    let (kind, to, rest) = messages(&mut a).remove(0);
    assert_eq!((kind, to, a.counters.ndp_conflict), (icmpv6::NEIGHBOUR_ADVERTISEMENT, ip("ff02::1"), 2));
    assert_eq!(rest[..4], Message::OVERRIDE.to_be_bytes());
    assert_eq!(a.source_for(ip(PEER)), Ok(ip(OWN)), "it is used all the same");
}

const OWN_BY_OTHER: &str = "fe80::bad";

#[test]
fn a_router_that_offers_itself_is_the_gateway_for_as_long_as_it_says() {
    let offer = |source, seconds: u16| {
        let mut rest = vec![64, 0];
        rest.extend(seconds.to_be_bytes());
        rest.extend([0; 8]);
        rest.extend([&[1, 1], &MAC_B.0[..]].concat());
        icmp(icmpv6::ROUTER_ADVERTISEMENT, source, "ff02::1", 255, &rest)
    };
    let mut a = host(1);
    a.on_time(seconds(1));
    assert!(messages(&mut a).iter().any(|(kind, to, _)| (*kind, *to) == (icmpv6::ROUTER_SOLICITATION, ip("ff02::2"))));
    assert_eq!(a.source_for(ip("2606::1")), Err(Error::NetworkUnreachable));
    arrive(&mut a, &offer("2001:db8::2", 1800), seconds(2));
    assert_eq!(a.counters.ndp_malformed, 1, "not from a link-local address");
    arrive(&mut a, &offer(ROUTER, 100), seconds(2));
    arrive(&mut a, &offer("fe80::2", 1800), seconds(3));
    send(&mut a, ip("2606::1"), b"x", seconds(3)).unwrap();
    let frame = sent(&mut a).pop().unwrap();
    assert_eq!(frame[..6], MAC_B.0, "by the first one, whose address it told");
    a.on_time(seconds(101));
    assert_eq!(a.source_for(ip("2606::1")), Ok(ip(OWN)));
    a.on_time(seconds(102));
    assert_eq!(a.source_for(ip("2606::1")), Err(Error::NetworkUnreachable), "its time is over");
    // It may also say that it is none any more.
    arrive(&mut a, &offer(ROUTER, 100), seconds(200));
    arrive(&mut a, &offer(ROUTER, 0), seconds(201));
    assert_eq!(a.source_for(ip("2606::1")), Err(Error::NetworkUnreachable));
    // Configuration comes first.
    let with = IpSettings { gateways: vec![ip("2001:db8::9")], ..settings(&["2001:db8::1/64"]) };
    let mut configured = host_with(with, MAC_A, Offloads::NONE);
    arrive(&mut configured, &offer(ROUTER, 100), seconds(1));
    assert_eq!(configured.interface.announced(), None);
}
