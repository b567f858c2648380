//! Sockets of two hosts, and datagrams written by hand.

use pdpix::Handle;

use super::*;
use crate::device::Offloads;
use crate::ip::Inbound;
use crate::ip::tests::{MAC_A, arrive, exchange, host, host_with, ip, seconds, send as send_raw, sent, settings, udp};

const NOW: Instant = Instant::from_nanos(5_000_000_000);

fn socket(local: &str) -> DatagramSocket {
    DatagramSocket { local: Some(local.parse().unwrap()), ..DatagramSocket::new() }
}

fn push(socket: &mut DatagramSocket, ip: &mut Ip, bytes: &[u8], to: &str) -> Result<Submitted, Error> {
    let payload = Sga::copy(ip.heap(), bytes).unwrap();
    socket.push(ip, payload, Some(to.parse().unwrap()), NOW)
}

fn deliver(socket: &mut DatagramSocket, inbound: Vec<Inbound>, counters: &mut Counters) -> Vec<Done> {
    let mut done = Vec::new();
    for inbound in inbound {
        let Inbound::Udp(packet) = inbound else { panic!("{inbound:?}") };
        if let Some(header) = check(&packet, counters) {
            assert_eq!(Some(header.destination_port), socket.local.map(|local| local.port()));
            done.extend(socket.on_datagram(packet, header, counters));
        }
        socket.check();
    }
    done
}

fn unpack(result: Result<Outcome<Handle>, Error>) -> (Vec<u8>, Endpoint, bool) {
    match result {
        Ok(Outcome::Popped(popped)) => (popped.sga.to_vec(), popped.from.unwrap(), popped.cut),
        other => panic!("{other:?}"),
    }
}

fn now_popped(socket: &mut DatagramSocket, len_max: usize) -> (Vec<u8>, Endpoint, bool) {
    match socket.pop(OpId(99), len_max) {
        Ok(Submitted::Done(result)) => unpack(result),
        other => panic!("{other:?}"),
    }
}

#[test]
fn datagrams_pass_over_both_families_gathered_and_not() {
    for gathers in [1, 3] {
        for (a_at, b_at) in [("192.0.2.1:7", "192.0.2.2:9"), ("[2001:db8::1]:7", "[2001:db8::2]:9")] {
            let offloads = Offloads { gathers, ..Offloads::NONE };
            let mut a = host_with(settings(&["192.0.2.1/24", "2001:db8::1/64"]), MAC_A, offloads);
            let (mut b, mut counters) = (host(2), Counters::default());
            let (mut from, mut to) = (socket(a_at), socket(b_at));
            for len in [1, 2, 999, 1024, 1025, 1452] {
                let bytes: Vec<u8> = (0..len).map(|i| (i * 7) as u8).collect();
                assert!(matches!(push(&mut from, &mut a, &bytes, b_at), Ok(Submitted::Done(Ok(Outcome::Pushed)))));
                let (_, inbound) = exchange(&mut a, &mut b, NOW);
                assert!(deliver(&mut to, inbound, &mut counters).is_empty());
                assert_eq!(now_popped(&mut to, 2000), (bytes, a_at.parse().unwrap(), false), "{len} {gathers}");
            }
            let copied = a.heap().copied().on(CopyPath::Push);
            let expected = if gathers == 1 { 1 + 2 + 999 + 1024 + 1025 + 1452 } else { 1 + 2 + 999 + 1024 };
            assert_eq!((copied, counters), (expected, Counters::default()));
        }
    }
}

#[test]
fn a_waiting_pop_is_served_in_order_and_long_ones_are_cut() {
    let (mut a, mut b, mut counters) = (host(1), host(2), Counters::default());
    let (mut from, mut to) = (socket("192.0.2.1:7"), socket("0.0.0.0:9"));
    assert!(matches!(to.pop(OpId(1), 3), Ok(Submitted::Pending)));
    assert!(matches!(to.pop(OpId(2), 100), Ok(Submitted::Pending)));
    assert!(matches!(to.pop(OpId(3), 100), Ok(Submitted::Pending)));
    assert!(to.cancel(OpId(2)) && !to.cancel(OpId(2)));
    for bytes in [&b"first"[..], b"second"] {
        assert!(push(&mut from, &mut a, bytes, "192.0.2.2:9").is_ok());
    }
    let (_, inbound) = exchange(&mut a, &mut b, NOW);
    let mut done = deliver(&mut to, inbound, &mut counters);
    assert_eq!(done.iter().map(|done| done.op).collect::<Vec<_>>(), [OpId(1), OpId(3)]);
    let sender = "192.0.2.1:7".parse().unwrap();
    assert_eq!(unpack(done.pop().unwrap().result), (b"second".to_vec(), sender, false));
    assert_eq!(unpack(done.pop().unwrap().result), (b"fir".to_vec(), sender, true));
    assert!(matches!(to.pop(OpId(4), 100), Ok(Submitted::Pending)));
    assert_eq!(to.close().collect::<Vec<_>>(), [OpId(4)]);
}

#[test]
fn past_the_budget_the_newest_are_dropped_and_small_ones_are_copied() {
    let (mut a, mut b, mut counters) = (host(1), host(2), Counters::default());
    let (mut from, mut to) = (socket("192.0.2.1:7"), socket("0.0.0.0:9"));
    to.options.receive_budget = 1000;
    for i in 0..50u8 {
        assert!(push(&mut from, &mut a, &[i; 60], "192.0.2.2:9").is_ok());
        // As a device has them: short frames in long buffers.
        let (_, first) = exchange(&mut a, &mut b, NOW);
        drop(first);
        assert!(push(&mut from, &mut a, &[i; 60], "192.0.2.2:9").is_ok());
        for frame in sent(&mut a) {
            let mut long = b.heap().alloc(4000).unwrap();
            long.put(&frame);
            let inbound = b.receive(crate::Received { buf: long.freeze(), verified: false }, NOW);
            deliver(&mut to, vec![inbound], &mut counters);
        }
    }
    let fit = 1000 / 64;
    assert_eq!((to.arrived_pinned(), counters.udp_over_budget), (fit * 64, 50 - fit as u64));
    for i in 0..fit {
        assert_eq!(now_popped(&mut to, 100).0, [i as u8; 60]);
    }
    assert!(matches!(to.pop(OpId(1), 100), Ok(Submitted::Pending)), "the later ones are gone");
}

#[test]
fn one_datagram_passes_whatever_the_budget() {
    let (mut a, mut b, mut counters) = (host(1), host(2), Counters::default());
    let (mut from, mut to) = (socket("192.0.2.1:7"), socket("0.0.0.0:9"));
    to.options.receive_budget = 1;
    assert!(push(&mut from, &mut a, &[3; 1000], "192.0.2.2:9").is_ok());
    let (_, inbound) = exchange(&mut a, &mut b, NOW);
    deliver(&mut to, inbound, &mut counters);
    assert_eq!(now_popped(&mut to, 2000).0, [3; 1000]);
}

#[test]
fn what_does_not_fit_a_packet_is_refused() {
    let mut a = host(1);
    let mut from = socket("192.0.2.1:7");
    assert!(push(&mut from, &mut a, &[0; 1472], "192.0.2.2:9").is_ok());
    assert_eq!(push(&mut from, &mut a, &[0; 1473], "192.0.2.2:9").unwrap_err(), Error::MessageSize);
    a.learn_mtu(ip("192.0.2.2"), 1000, NOW);
    assert_eq!(push(&mut from, &mut a, &[0; 973], "192.0.2.2:9").unwrap_err(), Error::MessageSize);
    assert!(push(&mut from, &mut a, &[0; 972], "192.0.2.2:9").is_ok());
    assert_eq!(push(&mut from, &mut a, b"", "192.0.2.2:9").unwrap_err(), Error::InvalidArgument);
    assert_eq!(push(&mut from, &mut a, b"x", "192.0.2.2:0").unwrap_err(), Error::InvalidArgument);
    assert_eq!(push(&mut from, &mut a, b"x", "[::1]:9").unwrap_err(), Error::AddressFamily);
    let payload = Sga::copy(a.heap(), b"x").unwrap();
    assert_eq!(from.push(&mut a, payload, None, NOW).unwrap_err(), Error::NotConnected);
    let no_route = push(&mut from, &mut a, b"x", "203.0.113.1:9");
    assert!(matches!(no_route, Ok(Submitted::Done(Err(Error::NetworkUnreachable)))));
}

#[test]
fn the_longest_datagram_passes_to_ourselves() {
    let (mut a, mut counters) = (host(1), Counters::default());
    let (mut from, mut to) = (socket("0.0.0.0:7"), socket("0.0.0.0:9"));
    let bytes: Vec<u8> = (0..65_507u32).map(|i| (i % 251) as u8).collect();
    assert!(push(&mut from, &mut a, &bytes, "127.0.0.1:9").is_ok());
    assert_eq!(push(&mut from, &mut a, &[0; 65_508], "127.0.0.1:9").unwrap_err(), Error::MessageSize);
    let inbound = a.receive_next_looped(NOW).unwrap();
    deliver(&mut to, vec![inbound], &mut counters);
    assert_eq!(now_popped(&mut to, 1 << 17), (bytes, "127.0.0.1:7".parse().unwrap(), false));
}

#[test]
fn nobody_at_the_port_is_told_once_to_who_is_connected() {
    for (a_at, b_at) in [("192.0.2.1:7", "192.0.2.2:9"), ("[2001:db8::1]:7", "[2001:db8::2]:9")] {
        for waits in [false, true] {
            let (mut a, mut b) = (host(1), host(2));
            let (mut from, peer): (_, Endpoint) = (socket(a_at), b_at.parse().unwrap());
            from.connect(Some(peer));
            assert!(push(&mut from, &mut a, b"anybody?", b_at).is_ok());
            let (_, inbound) = exchange(&mut a, &mut b, NOW);
            refuse(&mut b, udp(&inbound[0]), NOW);
            let (mut back, _) = exchange(&mut a, &mut b, NOW);
            let Some(Inbound::Notice(notice)) = back.pop() else { panic!("no notice") };
            let told =
                (Endpoint::new(notice.source, notice.ports.0), Endpoint::new(notice.destination, notice.ports.1));
            assert_eq!((notice.kind, told), (NoticeKind::PortUnreachable, (a_at.parse().unwrap(), peer)));
            if waits {
                assert!(matches!(from.pop(OpId(1), 10), Ok(Submitted::Pending)));
                let done = from.on_notice(peer, notice.kind).unwrap();
                assert_eq!((done.op, done.result.unwrap_err()), (OpId(1), Error::ConnectionRefused));
            } else {
                assert!(from.on_notice("192.0.2.9:9".parse().unwrap(), notice.kind).is_none(), "another's");
                assert!(from.on_notice(peer, notice.kind).is_none());
                let result = from.pop(OpId(1), 10);
                assert!(matches!(result, Ok(Submitted::Done(Err(Error::ConnectionRefused)))), "{result:?}");
            }
            assert!(matches!(from.pop(OpId(2), 10), Ok(Submitted::Pending)), "once");
            assert!(matches!(push(&mut from, &mut a, b"again", b_at), Ok(Submitted::Done(Ok(_)))));
        }
    }
}

#[test]
fn the_short_way_ends_a_pop_for_what_is_its_sockets_own_only() {
    let (friend, stranger): (Endpoint, Endpoint) = ("10.0.0.2:9".parse().unwrap(), "10.0.0.3:9".parse().unwrap());
    let (here, elsewhere, other_family): (IpAddr, IpAddr, IpAddr) =
        ("10.0.0.1".parse().unwrap(), "10.0.0.9".parse().unwrap(), "fd00::1".parse().unwrap());
    let mut one = socket("10.0.0.1:7");
    assert_eq!(one.take_waiting(friend, here), None, "nobody waits");
    for op in 1..4 {
        assert!(matches!(one.pop(OpId(op), 100), Ok(Submitted::Pending)));
    }
    assert_eq!(one.take_waiting(friend, elsewhere), None);
    assert_eq!(one.take_waiting(friend, here), Some((OpId(1), 100)));
    one.connect(Some(friend));
    assert_eq!(one.take_waiting(stranger, here), None);
    assert_eq!(one.take_waiting(friend, here), Some((OpId(2), 100)));
    let mut any = socket("0.0.0.0:7");
    assert!(matches!(any.pop(OpId(1), 100), Ok(Submitted::Pending)));
    assert_eq!(any.take_waiting(friend, other_family), None);
    assert_eq!(any.take_waiting(friend, elsewhere), Some((OpId(1), 100)));
}

#[test]
fn a_stranger_is_not_heard_by_who_is_connected() {
    let (mut a, mut b, mut counters) = (host(1), host(2), Counters::default());
    let (mut peer, mut stranger, mut to) = (socket("192.0.2.1:7"), socket("192.0.2.1:8"), socket("192.0.2.2:9"));
    assert!(push(&mut stranger, &mut a, b"before", "192.0.2.2:9").is_ok());
    let (_, inbound) = exchange(&mut a, &mut b, NOW);
    deliver(&mut to, inbound, &mut counters);
    to.connect(Some("192.0.2.1:7".parse().unwrap()));
    to.check();
    assert!(push(&mut stranger, &mut a, b"after", "192.0.2.2:9").is_ok());
    assert!(push(&mut peer, &mut a, b"the peer's", "192.0.2.2:9").is_ok());
    let (_, inbound) = exchange(&mut a, &mut b, NOW);
    deliver(&mut to, inbound, &mut counters);
    assert_eq!(now_popped(&mut to, 100).0, b"the peer's");
    assert_eq!(counters.udp_stranger, 1);
}

/// A datagram with a header written by hand, as `b` receives it.
fn by_hand(header: [u16; 4], data: &[u8], is_ipv6: bool) -> (Option<Checked>, Counters) {
    let (mut a, mut b, mut counters) = (host(1), host(2), Counters::default());
    let bytes: Vec<u8> = header.iter().flat_map(|word| word.to_be_bytes()).chain(data.iter().copied()).collect();
    send_raw(&mut a, ip(if is_ipv6 { "2001:db8::2" } else { "192.0.2.2" }), &bytes, seconds(0)).unwrap();
    let (_, inbound) = exchange(&mut a, &mut b, seconds(0));
    (check(udp(&inbound[0]), &mut counters), counters)
}

#[test]
fn lengths_and_checksums_are_checked() {
    let right = pseudo_header(ip("192.0.2.1"), ip("192.0.2.2"), Protocol::UDP, 12)
        .add(&[0, 7, 0, 9, 0, 12, 0, 0, 1, 2, 3, 4])
        .finish();
    let accepted = Some(Checked { source_port: 7, destination_port: 9, len: 12 });
    assert_eq!(by_hand([7, 9, 12, right], &[1, 2, 3, 4], false), (accepted, Counters::default()));
    // Shorter than its packet: the rest is not part of it.
    assert_eq!(by_hand([7, 9, 12, right], &[1, 2, 3, 4, 5, 6], false).0, accepted);
    // None made: RFC 768 has it, RFC 8200 §8.1 has not.
    assert_eq!(by_hand([7, 9, 12, 0], &[1, 2, 3, 4], false).0, accepted);
    assert_eq!(by_hand([7, 9, 12, 0], &[1, 2, 3, 4], true).1.udp_checksum, 1);
    assert_eq!(by_hand([7, 9, 12, right ^ 1], &[1, 2, 3, 4], false).1.udp_checksum, 1);
    for len in [0, 7, 13, 0xffff] {
        assert_eq!(by_hand([7, 9, len, 0], &[1, 2, 3, 4], false).1.udp_malformed, 1, "{len}");
    }
    assert_eq!(by_hand([7, 0, 12, 0], &[1, 2, 3, 4], false).1.udp_malformed, 1);
}

#[test]
fn a_sum_of_zero_is_sent_as_ones() {
    // Find two bytes that make the sum zero.
    let (mut a, mut b) = (host(1), host(2));
    let mut from = socket("192.0.2.1:7");
    let sum =
        pseudo_header(ip("192.0.2.1"), ip("192.0.2.2"), Protocol::UDP, 10).add(&[0, 7, 0, 9, 0, 10, 0, 0]).finish();
    assert!(push(&mut from, &mut a, &sum.to_be_bytes(), "192.0.2.2:9").is_ok());
    let (_, inbound) = exchange(&mut a, &mut b, NOW);
    let packet = udp(&inbound[0]);
    assert_eq!(packet.data()[6..8], [0xff, 0xff]);
    assert!(check(packet, &mut Counters::default()).is_some());
}

#[test]
fn a_device_that_sums_gets_the_pseudo_headers_sum() {
    let offloads = Offloads { checksums: true, gathers: 2, ..Offloads::NONE };
    let mut a = host_with(settings(&["192.0.2.1/24"]), MAC_A, offloads);
    let (mut b, mut from) = (host(2), socket("192.0.2.1:7"));
    for len in [100, 1400] {
        assert!(push(&mut from, &mut a, &vec![5; len], "192.0.2.2:9").is_ok());
        exchange_arp(&mut a, &mut b);
        let frame = a.outbound().pop_front().unwrap();
        let at = frame.checksum.unwrap();
        let mut bytes = frame.to_vec();
        // What the device does.
        let sum = crate::wire::Checksum::new().add(&bytes[usize::from(at.start)..]).finish();
        bytes[usize::from(at.start + at.field)..][..2].copy_from_slice(&sum.to_be_bytes());
        let inbound = arrive(&mut b, &bytes, NOW);
        assert!(check(udp(&inbound), &mut Counters::default()).is_some(), "{len}");
    }
}

/// Lets `a` learn who `b` is, and keeps what it then has to send.
fn exchange_arp(a: &mut Ip, b: &mut Ip) {
    if a.outbound().iter().any(|frame| frame.header[12..14] == [8, 6]) {
        for frame in sent(a) {
            arrive(b, &frame, NOW);
        }
        for frame in sent(b) {
            arrive(a, &frame, NOW);
        }
    }
}

#[test]
fn a_device_that_does_not_keep_up_is_no_memory_leak() {
    let (mut a, mut b) = (host(1), host(2));
    let mut from = socket("192.0.2.1:7");
    assert!(push(&mut from, &mut a, b"x", "192.0.2.2:9").is_ok());
    exchange(&mut a, &mut b, NOW);
    let refused = (0..5000).find(|_| push(&mut from, &mut a, b"x", "192.0.2.2:9").is_err());
    assert_eq!((refused, a.outbound().len()), (Some(4096), 4096));
    assert_eq!(push(&mut from, &mut a, b"x", "192.0.2.2:9").unwrap_err(), Error::NoBuffers);
    a.outbound().clear();
    assert!(push(&mut from, &mut a, b"x", "192.0.2.2:9").is_ok());
}

#[test]
fn nobody_at_a_port_of_our_own_is_told_too() {
    for at in ["127.0.0.1:9", "[::1]:9", "192.0.2.1:9"] {
        let mut a = host(1);
        let peer: Endpoint = at.parse().unwrap();
        let mut from = socket(if peer.is_ipv4() { "0.0.0.0:7" } else { "[::]:7" });
        from.connect(Some(peer));
        assert!(push(&mut from, &mut a, b"anybody?", at).is_ok());
        let inbound = a.receive_next_looped(NOW).unwrap();
        refuse(&mut a, udp(&inbound), NOW);
        let Some(Inbound::Notice(notice)) = a.receive_next_looped(NOW) else { panic!("{at}: {:?}", a.counters) };
        assert_eq!((notice.kind, notice.destination, notice.ports), (NoticeKind::PortUnreachable, peer.ip(), (7, 9)));
        assert!(!a.has_looped() && a.outbound().is_empty());
    }
}
