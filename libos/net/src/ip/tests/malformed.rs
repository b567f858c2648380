//! Bytes that are not what they should be: counted, dropped, and never a panic.

use quickcheck::{Arbitrary, Gen, quickcheck};

use super::*;
use crate::wire::icmpv6;

const NOW: Instant = Instant::from_nanos(1_000_000_000);

/// What one frame counted.
fn counted(frame: &[u8]) -> Vec<(&'static str, u64)> {
    let mut a = host(1);
    assert!(matches!(arrive(&mut a, frame, NOW), Inbound::Taken), "{frame:02x?}");
    a.counters.iter().filter(|&(_, count)| count > 0).collect()
}

fn good() -> Vec<u8> {
    v4(Protocol::UDP, "192.0.2.2", "192.0.2.1", &[1; 20])
}

fn good_v6() -> Vec<u8> {
    v6(Protocol::UDP, "2001:db8::2", "2001:db8::1", 64, &[1; 20])
}

fn changed(mut frame: Vec<u8>, at: usize, to: u8) -> Vec<u8> {
    frame[at] = to;
    frame
}

#[test]
fn each_fault_has_its_counter() {
    let mut a = host(1);
    assert!(matches!(arrive(&mut a, &good(), NOW), Inbound::Udp(_)));
    assert!(matches!(arrive(&mut a, &good_v6(), NOW), Inbound::Udp(_)));
    let with = |change: fn(&mut Ipv4Header)| v4_with(Protocol::UDP, "192.0.2.2", "192.0.2.1", &[1; 20], change);
    let from = |source| v4(Protocol::UDP, source, "192.0.2.1", &[1; 20]);
    let from_v6 = |source| v6(Protocol::UDP, source, "2001:db8::1", 64, &[1; 20]);
    let broadcast = |mut frame: Vec<u8>| {
        frame[..6].fill(0xff);
        frame
    };
    for (frame, name) in [
        (good()[..13].to_vec(), "ethernet_short"),
        (vec![], "ethernet_short"),
        (changed(good(), 5, 0xc), "ethernet_not_ours"),
        (changed(good(), 13, 0x01), "ethernet_protocol"),
        (good()[..33].to_vec(), "ipv4_malformed"),
        (good()[..53].to_vec(), "ipv4_malformed"),
        (changed(good(), 14, 0x65), "ipv4_malformed"),
        (changed(good(), 14, 0x44), "ipv4_malformed"),
        (with(|header| header.total_len.set(19)), "ipv4_malformed"),
        (with(|header| header.version_ihl = 0x4f), "ipv4_malformed"),
        (changed(good(), 24, 0), "ipv4_checksum"),
        (from("0.1.2.3"), "ipv4_source"),
        (from("127.0.0.1"), "ipv4_source"),
        (from("224.0.0.1"), "ipv4_source"),
        (from("255.255.255.255"), "ipv4_source"),
        (from("192.0.2.255"), "ipv4_source"),
        (from("192.0.2.1"), "ipv4_source"),
        (v4(Protocol::UDP, "192.0.2.2", "192.0.2.9", &[1; 20]), "ipv4_not_ours"),
        (v4(Protocol::UDP, "192.0.2.2", "127.0.0.1", &[1; 20]), "ipv4_not_ours"),
        (v4(Protocol::UDP, "192.0.2.2", "224.0.0.5", &[1; 20]), "ipv4_not_ours"),
        (broadcast(good()), "ip_group_frame"),
        (broadcast(good_v6()), "ip_group_frame"),
        (good_v6()[..53].to_vec(), "ipv6_malformed"),
        (good_v6()[..73].to_vec(), "ipv6_malformed"),
        (changed(good_v6(), 14, 0x45), "ipv6_malformed"),
        (from_v6("ff02::1"), "ipv6_source"),
        (from_v6("::1"), "ipv6_source"),
        (from_v6("::ffff:192.0.2.2"), "ipv6_source"),
        (from_v6("2001:db8::1"), "ipv6_source"),
        (v6(Protocol::UDP, "2001:db8::2", "2001:db8::9", 64, &[1; 20]), "ipv6_not_ours"),
        (v6(Protocol::UDP, "2001:db8::2", "::1", 64, &[1; 20]), "ipv6_not_ours"),
        (v4(Protocol::ICMP, "192.0.2.2", "192.0.2.1", &[8; 7]), "icmp_malformed"),
        (v6(Protocol::ICMPV6, "2001:db8::2", "2001:db8::1", 64, &[8; 7]), "icmp_malformed"),
    ] {
        assert_eq!(counted(&frame), [(name, 1)], "{frame:02x?}");
    }
}

#[test]
fn options_of_ipv4_are_skipped() {
    let mut frame = v4_with(Protocol::UDP, "192.0.2.2", "192.0.2.1", &[0; 24], |header| header.version_ihl = 0x47);
    // The first eight bytes are options now, of which the checksum is not changed by zeros.
    frame.truncate(14 + 44);
    let mut a = host(1);
    let inbound = arrive(&mut a, &frame, NOW);
    assert_eq!(udp(&inbound).data().len(), 16);
}

#[test]
fn a_device_that_verified_is_believed() {
    let mut a = host(1);
    let buf = a.heap.copy(&changed(good(), 24, 0)).unwrap();
    assert!(matches!(a.receive(Received { buf, verified: true }, NOW), Inbound::Udp(packet) if packet.verified));
}

#[test]
fn extension_headers_are_skipped_or_refused() {
    let options = |next: Protocol, options: [u8; 6]| [&[next.0, 0], &options[..]].concat();
    let pad = [1, 4, 0, 0, 0, 0];
    let after = |first: Protocol, parts: &[Vec<u8>]| v6(first, "2001:db8::2", "2001:db8::1", 64, &parts.concat());
    let udp_header = vec![0, 7, 0, 9, 0, 8, 0, 0];
    let (hop, dst, route) = (Protocol::HOP_BY_HOP, Protocol::IPV6_OPTIONS, Protocol::IPV6_ROUTE);
    let routing = |kind: u8, left: u8| vec![Protocol::UDP.0, 0, kind, left, 0, 0, 0, 0];
    for frame in [
        after(hop, &[options(dst, pad), options(route, [0, 0, 0x1e, 2, 9, 9]), routing(0, 0), udp_header.clone()]),
        after(dst, &[options(Protocol::UDP, [0, 0, 0, 0, 0, 0]), udp_header.clone()]),
    ] {
        let inbound = arrive(&mut host(1), &frame, NOW);
        assert_eq!(udp(&inbound).data(), udp_header);
    }
    // Refused: what is sent about it, with a pointer into the packet.
    let refused = |frame: &[u8], counter: fn(&Counters) -> u64| {
        let mut a = host(1);
        introduce(&mut a, NOW);
        assert!(matches!(arrive(&mut a, frame, NOW), Inbound::Taken));
        assert_eq!(counter(&a.counters), 1, "{:?}", a.counters);
        let error = sent(&mut a).pop()?;
        assert_eq!(error[54], icmpv6::PARAMETER_PROBLEM);
        Some((error[55], u32::from_be_bytes(error[58..62].try_into().unwrap())))
    };
    let extension = |counters: &Counters| counters.ipv6_extension;
    let protocol = |counters: &Counters| counters.ip_protocol;
    let option = |kind| after(dst, &[options(Protocol::UDP, [kind, 4, 0, 0, 0, 0]), udp_header.clone()]);
    let many: Vec<Vec<u8>> = (0..9).map(|_| options(dst, pad)).collect();
    // RFC 5095: segments left in a routing header of type 0, or any other.
    assert_eq!(refused(&after(route, &[routing(0, 1), udp_header.clone()]), extension), Some((0, 42)));
    assert_eq!(refused(&after(route, &[routing(4, 1), udp_header.clone()]), extension), Some((0, 42)));
    // RFC 8200 §4.2: what an unknown option's highest bits say.
    assert_eq!(refused(&option(0x5e), extension), None);
    assert_eq!(refused(&option(0x9e), extension), Some((2, 42)));
    assert_eq!(refused(&option(0xde), extension), Some((2, 42)));
    assert_eq!(
        refused(&after(dst, &[options(Protocol::UDP, [5, 9, 0, 0, 0, 0])]), extension),
        None,
        "beyond its header"
    );
    assert_eq!(refused(&after(dst, &[vec![17, 9, 0, 0]]), extension), None, "cut short");
    assert_eq!(refused(&after(dst, &many), extension), None, "too many");
    // §4: a next header that nobody knows, and hop-by-hop options that are not the first.
    assert_eq!(refused(&after(Protocol(200), &[vec![0; 8]]), protocol), Some((1, 6)));
    assert_eq!(refused(&after(dst, &[options(Protocol(200), pad), vec![0; 8]]), protocol), Some((1, 40)));
    assert_eq!(refused(&after(dst, &[options(hop, pad), options(Protocol::UDP, pad)]), protocol), Some((1, 40)));
    assert!(matches!(arrive(&mut host(1), &after(Protocol::IPV6_NO_NEXT, &[]), NOW), Inbound::Taken));
}

/// A frame that is nearly right.
#[derive(Clone, Debug)]
struct Mutant(Vec<u8>);

impl Arbitrary for Mutant {
    fn arbitrary(g: &mut Gen) -> Mutant {
        let content: Vec<u8> = (0..g.size() % 100 + 8).map(|_| u8::arbitrary(g) & u8::arbitrary(g)).collect();
        let protocols = [0, 1, 6, 17, 43, 44, 58, 60];
        let protocol = Protocol(*g.choose(&protocols).unwrap());
        let bits = u16::arbitrary(g);
        let is_fragment = bool::arbitrary(g);
        let mut frame = match u8::arbitrary(g) % 3 {
            0 => v4_with(protocol, "192.0.2.2", "192.0.2.1", &content, |header| {
                header.flags_fragment.set(if is_fragment { bits & 0x2007 } else { 0 });
            }),
            1 => v6(protocol, "2001:db8::2", "2001:db8::1", 255, &content),
            _ => {
                let mut frame = v4(protocol, "192.0.2.2", "192.0.2.1", &content);
                frame[12..14].copy_from_slice(&[8, 6]);
                frame
            }
        };
        // ICMPv6 with its checksum right, so that what is behind it is looked at.
        if frame[12..14] == [0x86, 0xdd] && protocol == Protocol::ICMPV6 {
            frame[54] = *g.choose(&[1, 2, 3, 4, 128, 134, 135, 136, 137]).unwrap();
            frame[55..58].fill(0);
            let len = frame.len() - 54;
            let pseudo = crate::wire::pseudo_header(ip("2001:db8::2"), ip("2001:db8::1"), protocol, len);
            let sum = pseudo.add(&frame[54..]).finish();
            frame[56..58].copy_from_slice(&sum.to_be_bytes());
        }
        for _ in 0..u8::arbitrary(g) % 4 {
            let at = usize::arbitrary(g) % frame.len();
            frame[at] = u8::arbitrary(g);
        }
        if u8::arbitrary(g) % 4 == 0 {
            frame.truncate(usize::arbitrary(g) % (frame.len() + 1));
        }
        Mutant(frame)
    }
}

fn survives(frames: &[Vec<u8>]) -> bool {
    let mut a = host(1);
    let mut now = NOW;
    for frame in frames {
        let verified = frame.len() % 2 == 0;
        let buf = a.heap.copy(frame).unwrap();
        match a.receive(Received { buf, verified }, now) {
            Inbound::Udp(packet) | Inbound::Tcp(packet) => {
                a.send_unreachable(&packet, Unreachable::Port, now);
                assert!(packet.data().len() <= frame.len() * frames.len());
            }
            Inbound::Notice(notice) => assert!(a.is_own(notice.source)),
            Inbound::Taken => {}
        }
        a.neighbours.check();
        now += millis(700);
        a.on_time(now);
    }
    // When all has been given up, nothing is left.
    a.on_time(now + Duration::from_secs(100));
    for _ in 0..20 {
        now += Duration::from_secs(100);
        a.on_time(now);
    }
    a.outbound().clear();
    a.looped.clear();
    a.heap.stats().pinned == 0
}

quickcheck! {
    fn random_frames_do_no_harm(frames: Vec<Vec<u8>>) -> bool {
        survives(&frames)
    }

    fn nearly_right_frames_do_no_harm(frames: Vec<Mutant>) -> bool {
        let frames: Vec<Vec<u8>> = frames.into_iter().map(|Mutant(bytes)| bytes).collect();
        survives(&frames)
    }
}
