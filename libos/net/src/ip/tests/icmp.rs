//! RFC 792, RFC 1122 §3.2.2, RFC 4443.

use super::*;
use crate::ip::Unreachable;
use crate::wire::{icmpv4, icmpv6, pseudo_header};

const NOW: Instant = Instant::from_nanos(1_000_000_000);

/// A message with its checksum, as a frame from host 2 to host 1.
fn icmp_to(destination: &str, kind: u8, code: u8, rest: [u8; 4], data: &[u8]) -> Vec<u8> {
    let is_v4 = ip(destination).is_ipv4();
    let source = if is_v4 { "192.0.2.2" } else { "2001:db8::2" };
    let mut bytes = [&[kind, code, 0, 0], &rest[..], data].concat();
    let pseudo = match is_v4 {
        true => Checksum::new(),
        false => pseudo_header(ip(source), ip(destination), Protocol::ICMPV6, bytes.len()),
    };
    let sum = pseudo.add(&bytes).finish();
    bytes[2..4].copy_from_slice(&sum.to_be_bytes());
    match is_v4 {
        true => v4(Protocol::ICMP, source, destination, &bytes),
        false => v6(Protocol::ICMPV6, source, destination, 64, &bytes),
    }
}

/// What host 1 would have sent, from its IP header on.
fn ours(to: &str, protocol: Protocol) -> Vec<u8> {
    let mut a = host(1);
    introduce(&mut a, NOW);
    let (source, to) = (a.source_for(ip(to)).unwrap(), ip(to));
    let mut path = a.path(source, to).unwrap();
    let mut packet = a.begin(&mut path, protocol, Ecn::NotCapable, 1000, 1000).unwrap();
    packet.put(&[0, 7, 0, 9, 1, 2, 3, 4]);
    packet.put(&[0; 992]);
    a.send(&mut path, packet, Sga::new(), None, 0, NOW);
    sent(&mut a).remove(0)[ETHERNET_LEN..].to_vec()
}

fn notice(frame: &[u8]) -> Option<Notice> {
    match arrive(&mut host(1), frame, NOW) {
        Inbound::Notice(notice) => Some(notice),
        Inbound::Taken => None,
        other => panic!("{other:?}"),
    }
}

#[test]
fn echo_is_answered_with_the_same_data() {
    for (to, kind, reply, at) in
        [("192.0.2.1", icmpv4::ECHO, icmpv4::ECHO_REPLY, 34), ("2001:db8::1", icmpv6::ECHO, icmpv6::ECHO_REPLY, 54)]
    {
        let (mut a, mut b) = (host(1), host(2));
        introduce(&mut a, NOW);
        arrive(&mut a, &icmp_to(to, kind, 0, [0xab, 0xcd, 0, 5], b"payload"), NOW);
        let frame = sent(&mut a).remove(0);
        assert_eq!((frame[at], &frame[at + 4..]), (reply, &b"\xab\xcd\x00\x05payload"[..]));
        assert_eq!((a.counters.icmp_echoes, &frame[..6]), (1, &MAC_B.0[..]));
        arrive(&mut b, &frame, NOW);
        assert_eq!((b.counters.icmp_checksum, b.counters.icmp_ignored), (0, 1), "its checksums are right");
        // One with a wrong sum is not; neither is one to everybody, of IPv4.
        let mut wrong = icmp_to(to, kind, 0, [0; 4], b"payload");
        *wrong.last_mut().unwrap() ^= 1;
        arrive(&mut a, &wrong, NOW);
        assert_eq!((a.counters.icmp_checksum, a.outbound().len()), (1, 0));
    }
    let mut a = host(1);
    arrive(&mut a, &icmp_to("192.0.2.255", icmpv4::ECHO, 0, [0; 4], b"smurf"), NOW);
    assert_eq!((a.counters.icmp_ignored, a.outbound().len()), (1, 0));
}

#[test]
fn echoes_and_errors_are_limited() {
    let mut a = host(1);
    introduce(&mut a, NOW);
    for _ in 0..5000 {
        arrive(&mut a, &icmp_to("192.0.2.1", icmpv4::ECHO, 0, [0; 4], b"flood"), NOW);
        arrive(&mut a, &v4(Protocol(200), "192.0.2.2", "192.0.2.1", b"flood"), NOW);
        a.outbound().clear();
    }
    assert_eq!(a.counters.icmp_echoes + a.counters.icmp_errors_out + a.counters.icmp_limited, 10_000);
    assert!((250..1000).contains(&a.counters.icmp_echoes), "{}", a.counters.icmp_echoes);
    assert!((25..100).contains(&a.counters.icmp_errors_out), "{}", a.counters.icmp_errors_out);
}

#[test]
fn errors_about_our_packets_become_notices() {
    use NoticeKind::*;
    let quoted = ours("192.0.2.2", Protocol::TCP);
    for (kind, code, rest, expected) in [
        (icmpv4::UNREACHABLE, 0, [0; 4], NetworkUnreachable),
        (icmpv4::UNREACHABLE, 1, [0; 4], HostUnreachable),
        (icmpv4::UNREACHABLE, 2, [0; 4], ProtocolUnreachable),
        (icmpv4::UNREACHABLE, 3, [0; 4], PortUnreachable),
        (icmpv4::UNREACHABLE, 4, [0, 0, 0x03, 0xe8], TooBig { mtu: 1000 }),
        (icmpv4::UNREACHABLE, 4, [0; 4], TooBig { mtu: 1006 }), // the plateau below 1020
        (icmpv4::UNREACHABLE, 13, [0; 4], Prohibited),
        (icmpv4::TIME_EXCEEDED, 0, [0; 4], TimeExceeded),
        (icmpv4::PARAMETER_PROBLEM, 0, [0; 4], ParameterProblem),
    ] {
        let notice = notice(&icmp_to("192.0.2.1", kind, code, rest, &quoted[..28])).expect("eight bytes are enough");
        assert_eq!((notice.kind, notice.protocol), (expected, Protocol::TCP));
        assert_eq!((notice.source, notice.destination), (ip("192.0.2.1"), ip("192.0.2.2")));
        assert_eq!((notice.ports, notice.sequence), ((7, 9), Some(0x0102_0304)));
    }
    let quoted = ours("2001:db8::2", Protocol::UDP);
    for (kind, code, rest, expected) in [
        (icmpv6::UNREACHABLE, 0, [0; 4], NetworkUnreachable),
        (icmpv6::UNREACHABLE, 1, [0; 4], Prohibited),
        (icmpv6::UNREACHABLE, 3, [0; 4], HostUnreachable),
        (icmpv6::UNREACHABLE, 4, [0; 4], PortUnreachable),
        (icmpv6::TOO_BIG, 0, [0, 0, 5, 0], TooBig { mtu: 1280 }),
        (icmpv6::TIME_EXCEEDED, 0, [0; 4], TimeExceeded),
        (icmpv6::PARAMETER_PROBLEM, 1, [0, 0, 0, 6], ProtocolUnreachable),
        (icmpv6::PARAMETER_PROBLEM, 0, [0; 4], ParameterProblem),
    ] {
        let notice = notice(&icmp_to("2001:db8::1", kind, code, rest, &quoted)).expect("about a packet of ours");
        assert_eq!((notice.kind, notice.ports, notice.sequence), (expected, (7, 9), None));
    }
}

#[test]
fn errors_about_what_we_did_not_send_are_not_believed() {
    let quoted = ours("192.0.2.2", Protocol::TCP);
    let about = |quoted: &[u8]| notice(&icmp_to("192.0.2.1", icmpv4::UNREACHABLE, 3, [0; 4], quoted));
    assert!(about(&quoted).is_some());
    assert!(about(&quoted[..27]).is_none(), "seven bytes are not");
    assert!(about(&[]).is_none());
    let change = |at: usize, to: u8| {
        let mut quoted = quoted.clone();
        quoted[at] = to;
        about(&quoted)
    };
    assert!(change(15, 3).is_none(), "from another");
    assert!(change(7, 1).is_none(), "a fragment");
    assert!(change(9, 1).is_none(), "ICMP: we send no questions");
    assert!(change(0, 0x46).is_none(), "with options: we send none");
    assert!(change(0, 0x65).is_none(), "of another family");
    // To one of our addresses about a packet from another one.
    let two = settings(&["192.0.2.1/24", "192.0.2.5/24"]);
    let mut a = host_with(two, MAC_A, Offloads::NONE);
    let inbound = arrive(&mut a, &icmp_to("192.0.2.5", icmpv4::UNREACHABLE, 3, [0; 4], &quoted), NOW);
    assert!(matches!(inbound, Inbound::Taken) && a.counters.icmp_not_ours == 1);
}

#[test]
fn nobody_at_a_port_or_protocol_is_told_with_the_packet_unchanged() {
    let (mut a, mut b) = (host(1), host(2));
    introduce(&mut a, NOW);
    let frame = v4_with(Protocol(200), "192.0.2.2", "192.0.2.1", &[5; 900], |header| header.ttl = 3);
    arrive(&mut a, &frame, NOW);
    let error = sent(&mut a).remove(0);
    assert_eq!((error[34], error[35]), (icmpv4::UNREACHABLE, icmpv4::PROTOCOL));
    assert_eq!(error[42..], frame[14..14 + 548], "as much as 576 bytes hold");
    let frame = v6(Protocol::UDP, "2001:db8::2", "2001:db8::1", 9, &[5; 1400]);
    let inbound = arrive(&mut a, &frame, NOW);
    a.send_unreachable(udp(&inbound), Unreachable::Port, NOW);
    let error = sent(&mut a).remove(0);
    assert_eq!((error.len(), error[54], error[55]), (ETHERNET_LEN + 1280, icmpv6::UNREACHABLE, icmpv6::PORT));
    assert_eq!(error[62..], frame[14..14 + 1232]);
    arrive(&mut b, &error, NOW);
    assert_eq!((b.counters.icmp_checksum, a.counters.icmp_errors_out), (0, 2));
}

#[test]
fn no_error_is_sent_where_none_may_be() {
    let mut a = host(1);
    introduce(&mut a, NOW);
    let error = |quoted: &[u8]| [&[icmpv4::UNREACHABLE, 3, 0, 0, 0, 0, 0, 0], quoted].concat();
    for frame in [
        v4(Protocol::UDP, "192.0.2.2", "192.0.2.255", &[1; 20]), // to everybody
        v4(Protocol::UDP, "192.0.2.2", "224.0.0.1", &[1; 20]),   // to a group
        v6(Protocol::UDP, "2001:db8::2", "ff02::1", 64, &[1; 20]), // to a group
    ] {
        let inbound = arrive(&mut a, &frame, NOW);
        assert!(udp(&inbound).group);
        a.send_unreachable(udp(&inbound), Unreachable::Port, NOW);
    }
    for frame in [
        icmp_to("192.0.2.1", icmpv4::UNREACHABLE, 3, [0; 4], &error(&[])), // about an error
        icmp_to("2001:db8::1", 100, 0, [0; 4], &[]),                       // an unknown error
        v4_with(Protocol(200), "192.0.2.2", "192.0.2.1", &[1; 24], |header| header.flags_fragment.set(4)), // a fragment
    ] {
        arrive(&mut a, &frame, NOW);
    }
    assert_eq!((a.outbound().len(), a.counters.icmp_errors_out), (0, 0));
}

#[test]
fn a_learned_mtu_shortens_the_path_and_ages() {
    let mut a = host(1);
    let mut path = a.path(ip("192.0.2.1"), ip("192.0.2.2")).unwrap();
    let mut other = a.path(ip("192.0.2.1"), ip("192.0.2.3")).unwrap();
    assert_eq!(a.mtu(&mut path), 1500);
    a.learn_mtu(ip("192.0.2.2"), 1000, NOW);
    assert_eq!((a.mtu(&mut path), a.mtu(&mut other)), (1000, 1500));
    a.learn_mtu(ip("192.0.2.2"), 1400, NOW);
    a.learn_mtu(ip("192.0.2.2"), 10, NOW);
    assert_eq!(a.mtu(&mut path), 552);
    a.on_time(NOW + Duration::from_secs(599));
    assert_eq!(a.mtu(&mut path), 552);
    a.on_time(NOW + Duration::from_secs(600));
    assert_eq!(a.mtu(&mut path), 1500);
}
