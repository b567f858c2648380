use quickcheck::{Arbitrary, Gen, quickcheck};

use super::*;
use crate::ip::tests::{arrive, host, ip, seconds, sent, v4_with, v6};

const NOW: Instant = Instant::from_nanos(1);

/// What a fragment says: 8-byte units, and what it is filled with.
#[derive(Clone, Copy, Debug)]
struct Piece {
    start: u8,
    units: u8,
    is_last: bool,
    fill: u8,
}

impl Arbitrary for Piece {
    fn arbitrary(g: &mut Gen) -> Piece {
        let (start, units) = (u8::arbitrary(g) % 12, u8::arbitrary(g) % 4 + 1);
        // Mostly what honest senders send: content that depends on the place only.
        let fill = if u8::arbitrary(g) % 16 == 0 { 1 } else { 0 };
        Piece { start, units, is_last: u8::arbitrary(g) % 5 == 0, fill }
    }
}

impl Piece {
    fn range(&self) -> std::ops::Range<usize> {
        8 * usize::from(self.start)..8 * usize::from(self.start + self.units)
    }

    fn bytes(&self) -> Vec<u8> {
        self.range().map(|at| (at as u8) ^ self.fill).collect()
    }
}

/// The packet, byte by byte: what a table with all the time in the world would make of it.
#[derive(Default)]
struct Model {
    bytes: std::collections::BTreeMap<usize, u8>,
    ranges: Vec<std::ops::Range<usize>>,
    total: Option<usize>,
    broken: bool,
}

impl Model {
    fn add(&mut self, piece: Piece) -> Option<Vec<u8>> {
        let (range, bytes) = (piece.range(), piece.bytes());
        let is_there = |(at, byte): (usize, &u8)| self.bytes.get(&(range.start + at)) == Some(byte);
        if self.broken || self.ranges.contains(&range) && bytes.iter().enumerate().all(is_there) {
            return None;
        }
        let overlaps = range.clone().any(|at| self.bytes.contains_key(&at));
        let last = self.bytes.last_key_value().map_or(0, |(&at, _)| at + 1);
        let contradicts =
            self.total.is_some_and(|total| range.end > total || piece.is_last) || piece.is_last && last > range.end;
        if overlaps || contradicts {
            self.broken = true;
            return None;
        }
        if piece.is_last {
            self.total = Some(range.end);
        }
        self.bytes.extend(range.clone().zip(bytes));
        self.ranges.push(range);
        let whole = self.total == Some(self.bytes.len());
        whole.then(|| std::mem::take(self).bytes.into_values().collect())
    }
}

fn fragment_v4(id: u16, offset: usize, more: bool, payload: &[u8]) -> Vec<u8> {
    let bits = (offset / 8) as u16 | if more { Ipv4Header::MORE_FRAGMENTS } else { 0 };
    v4_with(Protocol::UDP, "192.0.2.2", "192.0.2.1", payload, |header| {
        header.identification.set(id);
        header.flags_fragment.set(bits);
    })
}

fn fragment_v6(id: u32, offset: usize, more: bool, next: Protocol, payload: &[u8]) -> Vec<u8> {
    let header = FragmentHeader {
        next_header: next,
        reserved: 0,
        offset_more: U16::new(offset as u16 | u16::from(more)),
        identification: id.into(),
    };
    let bytes = [header.as_bytes(), payload].concat();
    v6(Protocol::IPV6_FRAGMENT, "2001:db8::2", "2001:db8::1", 64, &bytes)
}

quickcheck! {
    /// Whatever the cuts and the order, and though each comes twice: a packet of an honest sender comes out once, whole.
    fn honest_fragments_come_together(payload: Vec<u8>, cuts: Vec<u8>, order: u64, is_v6: bool) -> bool {
        let payload: Vec<u8> = payload.into_iter().cycle().take(400).collect();
        let mut host = host(1);
        let mut ends: Vec<usize> = cuts.iter().map(|&cut| 8 * usize::from(cut % 49 + 1)).collect();
        ends.extend([8, payload.len()]);
        ends.sort_unstable();
        ends.dedup();
        let ends: Vec<usize> = ends.into_iter().filter(|&end| end <= payload.len()).collect();
        let starts = std::iter::once(0).chain(ends.iter().copied());
        let mut pieces: Vec<(usize, usize)> = starts.zip(ends.iter().copied()).collect();
        let mut rng = pdpix::Rng::new(order);
        for i in (1..pieces.len()).rev() {
            pieces.swap(i, rng.below(i as u64 + 1) as usize);
        }
        let mut came = Vec::new();
        for (i, &(start, end)) in pieces.iter().enumerate() {
            let (more, bytes) = (end < payload.len(), &payload[start..end]);
            let frame = match is_v6 {
                false => fragment_v4(7, start, more, bytes),
                true => fragment_v6(7, start, more, Protocol::UDP, bytes),
            };
            // The last one twice would begin another packet.
            for _ in 0..if i + 1 < pieces.len() { 2 } else { 1 } {
                match arrive(&mut host, &frame, NOW) {
                    Inbound::Udp(packet) => came.push(packet.data().to_vec()),
                    other => assert!(matches!(other, Inbound::Taken)),
                }
            }
        }
        let duplicates = host.counters.fragment_duplicate as usize;
        payload.is_empty() || came == [payload] && duplicates == pieces.len() - 1
    }

    /// In any order, twice, overlapping, contradicting: what comes out is what the model makes of it, and at the end
    /// nothing is pinned.
    fn it_is_what_the_model_says(pieces: Vec<Piece>, is_v6: bool) -> bool {
        let mut host = host(1);
        let mut model = Model::default();
        for piece in pieces {
            let (offset, bytes, more) = (piece.range().start, piece.bytes(), !piece.is_last);
            if offset == 0 && !more {
                continue; // not a fragment (RFC 6946)
            }
            let frame = match is_v6 {
                false => fragment_v4(7, offset, more, &bytes),
                true => fragment_v6(7, offset, more, Protocol::UDP, &bytes),
            };
            let inbound = arrive(&mut host, &frame, NOW);
            host.fragments.check();
            match (model.add(piece), inbound) {
                (None, Inbound::Taken) => {}
                (Some(expected), Inbound::Udp(packet)) => assert_eq!(packet.data(), expected),
                (expected, got) => panic!("{piece:?}: {got:?} and not {expected:?}"),
            }
        }
        // What is said about what did not come waits for its neighbour, in vain.
        (1000..1010).for_each(|second| _ = host.on_time(seconds(second)));
        host.outbound().clear();
        host.fragments.pinned == 0 && host.heap.stats().pinned == 0
    }
}

#[test]
fn a_long_datagram_comes_together_in_any_order() {
    let payload: Vec<u8> = (0..65_515u32).map(|i| (i % 253) as u8).collect();
    let mut host = host(1);
    let chunks: Vec<(usize, &[u8])> = payload.chunks(1480).enumerate().map(|(i, chunk)| (i * 1480, chunk)).collect();
    let last = chunks.len() - 1;
    let mut came = None;
    for i in (0..chunks.len()).map(|i| (i * 7 + 3) % chunks.len()) {
        let (offset, chunk) = chunks[i];
        match arrive(&mut host, &fragment_v4(9, offset, i != last, chunk), NOW) {
            Inbound::Udp(packet) => assert!(came.replace(packet).is_none()),
            Inbound::Taken => {}
            other => panic!("{other:?}"),
        }
    }
    let packet = came.expect("all fragments came");
    assert_eq!((packet.data(), packet.verified), (&payload[..], false));
    assert_eq!(host.heap.copied().on(CopyPath::Coalesce), payload.len() as u64, "one copy");
    assert_eq!((host.counters.fragment_reassembled, host.fragments.pinned), (1, 0));
    // One byte more than a packet can have.
    arrive(&mut host, &fragment_v4(9, 65_512, false, &[0; 4]), NOW);
    assert_eq!(host.counters.fragment_malformed, 1);
}

#[test]
fn an_overlap_loses_the_packet_and_what_else_comes_of_it() {
    let mut host = host(1);
    arrive(&mut host, &fragment_v4(7, 0, true, &[0; 16]), NOW);
    arrive(&mut host, &fragment_v4(7, 8, true, &[0; 16]), NOW);
    assert_eq!((host.counters.fragment_overlap, host.fragments.pinned), (1, 0));
    // RFC 5722 §4: those not yet received as well.
    assert!(matches!(arrive(&mut host, &fragment_v4(7, 0, true, &[0; 16]), NOW), Inbound::Taken));
    assert!(matches!(arrive(&mut host, &fragment_v4(7, 16, false, &[0; 16]), NOW), Inbound::Taken));
    assert_eq!((host.counters.fragment_overlap, host.counters.fragment_reassembled), (3, 0));
    host.on_time(seconds(100));
    assert!(matches!(arrive(&mut host, &fragment_v4(7, 0, true, &[0; 16]), NOW), Inbound::Taken));
    assert!(matches!(arrive(&mut host, &fragment_v4(7, 16, false, &[0; 16]), NOW), Inbound::Udp(_)), "forgiven");
}

#[test]
fn what_is_not_complete_in_time_is_given_up_and_told() {
    for is_v6 in [false, true] {
        let mut host = host(1);
        host.on_time(seconds(0));
        host.outbound().clear();
        let (first, timeout) = match is_v6 {
            false => (fragment_v4(7, 0, true, &[0; 16]), 30),
            true => (fragment_v6(7, 0, true, Protocol::UDP, &[0; 16]), 60),
        };
        // The neighbour is known, so that the answer can be seen.
        crate::ip::tests::introduce(&mut host, seconds(0));
        arrive(&mut host, &first, seconds(5));
        host.on_time(seconds(4 + timeout));
        assert_eq!(host.counters.fragment_timeout, 0);
        host.outbound().clear();
        host.on_time(seconds(5 + timeout));
        assert_eq!((host.counters.fragment_timeout, host.counters.icmp_errors_out), (1, 1));
        let sent = sent(&mut host);
        let (kind, at) = if is_v6 { (icmpv6::TIME_EXCEEDED, 54) } else { (icmpv4::TIME_EXCEEDED, 34) };
        assert_eq!(sent.iter().filter(|frame| frame.get(at..at + 2) == Some(&[kind, 1])).count(), 1);
        // A packet whose first fragment is missing goes in silence.
        let later =
            if is_v6 { fragment_v6(8, 16, true, Protocol::UDP, &[0; 16]) } else { fragment_v4(8, 16, true, &[0; 16]) };
        arrive(&mut host, &later, seconds(200));
        host.on_time(seconds(300));
        assert_eq!((host.counters.fragment_timeout, host.counters.icmp_errors_out), (2, 1));
    }
}

#[test]
fn there_are_bounds_of_packets_bytes_and_pieces() {
    let mut host = host(1);
    for id in 0..100 {
        arrive(&mut host, &fragment_v4(id, 0, true, &[0; 1000]), NOW);
        host.fragments.check();
    }
    assert_eq!((host.fragments.partial.len(), host.counters.fragment_evicted), (64, 36));
    host.fragments.pinned_max = 20_000;
    arrive(&mut host, &fragment_v4(1000, 0, true, &[0; 1000]), NOW);
    assert!(host.fragments.pinned <= 20_000 + 2048, "{}", host.fragments.pinned);
    // Tiny pieces.
    let mut host = crate::ip::tests::host(1);
    for piece in 0..PIECES_MAX + 1 {
        arrive(&mut host, &fragment_v4(1, 16 * piece, true, &[0; 8]), NOW);
    }
    assert_eq!((host.counters.fragment_malformed, host.fragments.pinned), (1, 0));
}

#[test]
fn nothing_hides_in_tiny_fragments() {
    let mut host = host(1);
    let tcp = |offset, payload: &[u8]| {
        let bits = (offset / 8) as u16 | Ipv4Header::MORE_FRAGMENTS;
        v4_with(Protocol::TCP, "192.0.2.2", "192.0.2.1", payload, |header| header.flags_fragment.set(bits))
    };
    arrive(&mut host, &tcp(0, &[0; 16]), NOW);
    arrive(&mut host, &tcp(8, &[0; 16]), NOW);
    assert_eq!(host.counters.fragment_malformed, 2);
    arrive(&mut host, &tcp(0, &[0; 24]), NOW);
    assert_eq!((host.counters.fragment_malformed, host.fragments.partial.len()), (2, 1));
    // RFC 7112: the chain of headers is whole in the first one; here an option header says that it is longer.
    arrive(&mut host, &fragment_v6(1, 0, true, Protocol::IPV6_OPTIONS, &[17, 3, 1, 4, 0, 0, 0, 0]), NOW);
    // Not a multiple of eight, empty, beyond the end.
    arrive(&mut host, &fragment_v6(1, 0, true, Protocol::UDP, &[0; 9]), NOW);
    arrive(&mut host, &fragment_v6(1, 8, false, Protocol::UDP, &[]), NOW);
    arrive(&mut host, &fragment_v6(1, 65_528, false, Protocol::UDP, &[0; 8]), NOW);
    assert_eq!(host.counters.fragment_malformed, 6);
}

#[test]
fn a_packet_in_one_fragment_has_nothing_to_do_with_others() {
    let mut host = host(1);
    arrive(&mut host, &fragment_v6(7, 0, true, Protocol::UDP, &[1; 16]), NOW);
    let Inbound::Udp(packet) = arrive(&mut host, &fragment_v6(7, 0, false, Protocol::UDP, &[2; 16]), NOW) else {
        panic!()
    };
    assert_eq!(packet.data(), [2; 16]);
    let Inbound::Udp(packet) = arrive(&mut host, &fragment_v6(7, 16, false, Protocol::UDP, &[1; 8]), NOW) else {
        panic!()
    };
    assert_eq!((packet.data(), packet.destination), (&[1; 24][..], ip("2001:db8::1")));
    // Fragments of fragments are refused.
    let inner =
        FragmentHeader { next_header: Protocol::UDP, reserved: 0, offset_more: U16::ZERO, identification: 1.into() };
    let nested = [inner.as_bytes(), &[0; 8]].concat();
    assert!(matches!(
        arrive(&mut host, &fragment_v6(8, 0, false, Protocol::IPV6_FRAGMENT, &nested), NOW),
        Inbound::Taken
    ));
    assert_eq!(host.counters.fragment_malformed, 1);
}

#[test]
fn a_mark_of_congestion_on_one_fragment_marks_the_packet() {
    let mut host = host(1);
    let marked = |offset: usize, more, ecn: Ecn| {
        let bits = (offset / 8) as u16 | if more { Ipv4Header::MORE_FRAGMENTS } else { 0 };
        v4_with(Protocol::UDP, "192.0.2.2", "192.0.2.1", &[0; 8], |header| {
            header.flags_fragment.set(bits);
            header.traffic_class = ecn as u8;
        })
    };
    arrive(&mut host, &marked(0, true, Ecn::Capable0), NOW);
    let Inbound::Udp(packet) = arrive(&mut host, &marked(8, false, Ecn::Congested), NOW) else { panic!() };
    assert_eq!(packet.ecn, Ecn::Congested);
}

#[test]
fn what_contradicts_the_end_loses_the_packet() {
    // Last at 16..24, and then one beyond: three pieces of eight bytes are not the 24 bytes that were announced.
    let mut host = host(1);
    for (offset, more) in [(0, true), (16, false), (32, true)] {
        assert!(matches!(arrive(&mut host, &fragment_v4(7, offset, more, &[0; 8]), NOW), Inbound::Taken));
    }
    assert_eq!((host.counters.fragment_malformed, host.counters.fragment_reassembled), (1, 0));
    // An end before what is there, and two ends.
    for (id, second) in [(8, 8), (9, 32)] {
        arrive(&mut host, &fragment_v4(id, 16, id == 8, &[0; 8]), NOW);
        arrive(&mut host, &fragment_v4(id, second, false, &[0; 8]), NOW);
    }
    assert_eq!((host.counters.fragment_malformed, host.counters.fragment_overlap), (3, 0));
    host.fragments.check();
}

#[test]
fn an_error_in_fragments_is_not_answered_by_an_error() {
    let mut host = host(1);
    crate::ip::tests::introduce(&mut host, seconds(0));
    let mut content = [0; 16];
    content[0] = icmpv4::UNREACHABLE;
    let more = |header: &mut Ipv4Header| header.flags_fragment.set(Ipv4Header::MORE_FRAGMENTS);
    arrive(&mut host, &v4_with(Protocol::ICMP, "192.0.2.2", "192.0.2.1", &content, more), seconds(1));
    content[0] = icmpv6::UNREACHABLE;
    arrive(&mut host, &fragment_v6(1, 0, true, Protocol::ICMPV6, &content), seconds(1));
    host.on_time(seconds(100));
    assert_eq!((host.counters.fragment_timeout, host.counters.icmp_errors_out), (2, 0));
    assert_eq!(host.counters.answers_dropped + host.counters.icmp_limited, 0, "nobody tried");
}
