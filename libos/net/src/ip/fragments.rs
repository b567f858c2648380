//! Packets that come in fragments (RFC 791 §3.2, RFC 815, RFC 8200 §4.5), put together by one counted copy.
//!
//! Always: at most `packets_max` packets in parts, `pinned_max` bytes pinned by them together, and [`PIECES_MAX`] parts
//! each; beyond that the oldest packet is given up. Pieces do not overlap: whoever sends overlapping ones loses the packet,
//! and what else comes of it (RFC 5722 §4); an exact duplicate is tolerated. The first fragment has the transport's header
//! whole (RFC 1858, RFC 3128, RFC 7112), so that nothing can hide in a later one.

use std::net::IpAddr;
use std::time::Duration;

use libos_mem::CopyPath;
use pdpix::{Buf, Heap, Instant, Purpose};
use zerocopy::byteorder::network_endian::{U16, U32};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

use super::icmp::{IcmpError, behind_extensions};
use super::{Inbound, Ip, Packet};
use crate::wire::{
    Checksum, Ecn, IPV4_LEN, IPV6_LEN, Ipv4Header, Ipv6Header, Protocol, TCP_LEN, UDP_LEN, icmpv4, icmpv6,
};

/// Enough for 64 KiB over links of 576 bytes.
const PIECES_MAX: usize = 128;
/// RFC 1122 §3.3.2 suggests 60 to 120 s; who waits so long has lost at today's rates (RFC 4963), and Linux has 30 s.
const TIMEOUT_V4: Duration = Duration::from_secs(30);
/// RFC 8200 §4.5.
const TIMEOUT_V6: Duration = Duration::from_secs(60);
/// What an IP packet can say that it has.
const LEN_MAX: usize = 65_535;

/// RFC 8200 §4.5.
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned)]
#[repr(C)]
struct FragmentHeader {
    next_header: Protocol,
    reserved: u8,
    /// In units of 8 bytes, in the high 13 bits; the lowest says that more follow.
    offset_more: U16,
    identification: U32,
}

const FRAGMENT_LEN: usize = size_of::<FragmentHeader>();

/// What fragments of one packet have in common (RFC 791: the protocol too).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
struct Key {
    source: IpAddr,
    destination: IpAddr,
    identification: u32,
    protocol: Protocol,
}

/// One that has arrived. Its payload is what `packet` has from `transport_at` on.
struct Fragment {
    key: Key,
    offset: usize,
    more: bool,
    /// What the packet carries.
    next: Protocol,
    packet: Packet,
}

/// A packet in parts.
struct Partial {
    key: Key,
    until: Instant,
    /// Sorted, not overlapping.
    pieces: Vec<(usize, Buf)>,
    /// Bytes of them.
    arrived: usize,
    pinned: usize,
    /// Bytes of the payload, once the last fragment is there.
    total: Option<usize>,
    /// The fragment at offset 0, and what the packet carries.
    first: Option<(Packet, Protocol)>,
    congested: bool,
    /// Fragments overlapped: nothing is kept, and nothing will come of it.
    broken: bool,
}

/// What came of one more fragment.
enum Added {
    Waits,
    Duplicate,
    Overlap,
    /// It contradicts the others about the length, or there are too many.
    Malformed,
    Complete(Partial),
}

pub(crate) struct Fragments {
    /// In the order of their first fragments.
    partial: Vec<Partial>,
    pinned: usize,
    packets_max: usize,
    pinned_max: usize,
}

impl Fragments {
    pub(crate) fn new(packets_max: usize, pinned_max: usize) -> Fragments {
        Fragments { partial: Vec::new(), pinned: 0, packets_max: packets_max.max(1), pinned_max }
    }

    pub(crate) fn deadline(&self) -> Option<Instant> {
        self.partial.iter().map(|partial| partial.until).min()
    }

    /// Adds one, and says how many packets were given up for it.
    fn add(&mut self, fragment: Fragment, now: Instant) -> (Added, u64) {
        let cost = fragment.packet.whole_buf().pinned();
        let mut evicted = 0;
        while !self.partial.is_empty() && self.pinned + cost > self.pinned_max {
            self.remove(0);
            evicted += 1;
        }
        let known = self.partial.iter().position(|partial| partial.key == fragment.key);
        let index = known.unwrap_or_else(|| {
            if self.partial.len() >= self.packets_max {
                self.remove(0);
                evicted += 1;
            }
            self.partial.push(Partial::new(fragment.key, now));
            self.partial.len() - 1
        });
        let partial = &mut self.partial[index];
        let before = partial.pinned;
        let added = partial.add(fragment, cost);
        self.pinned = self.pinned - before + partial.pinned;
        match added {
            Added::Waits if partial.is_complete() => (Added::Complete(self.remove(index)), evicted),
            added => (added, evicted),
        }
    }

    fn remove(&mut self, index: usize) -> Partial {
        let partial = self.partial.remove(index);
        self.pinned -= partial.pinned;
        partial
    }

    fn take_overdue(&mut self, now: Instant) -> Option<Partial> {
        let index = self.partial.iter().position(|partial| partial.until <= now)?;
        Some(self.remove(index))
    }

    #[cfg(test)]
    fn check(&self) {
        assert!(self.partial.len() <= self.packets_max, "more packets in parts than there may be");
        assert_eq!(self.pinned, self.partial.iter().map(|partial| partial.pinned).sum::<usize>(), "the sum of all");
        for partial in &self.partial {
            assert!(partial.pieces.len() <= PIECES_MAX, "too many pieces");
            assert!(partial.pieces.is_sorted_by(|a, b| a.0 + a.1.len() <= b.0), "pieces overlap");
            assert_eq!(partial.arrived, partial.pieces.iter().map(|(_, piece)| piece.len()).sum::<usize>());
        }
    }
}

impl Partial {
    fn new(key: Key, now: Instant) -> Partial {
        let until = now + if key.source.is_ipv4() { TIMEOUT_V4 } else { TIMEOUT_V6 };
        let (pieces, first, total) = (Vec::new(), None, None);
        Partial { key, until, pieces, arrived: 0, pinned: 0, total, first, congested: false, broken: false }
    }

    fn add(&mut self, fragment: Fragment, cost: usize) -> Added {
        if self.broken {
            return Added::Overlap;
        }
        let Fragment { offset, more, next, packet, .. } = fragment;
        let payload = packet.data();
        let end = offset + payload.len();
        let at = self.pieces.partition_point(|&(start, _)| start < offset);
        let before = at.checked_sub(1).map(|before| &self.pieces[before]);
        let behind = self.pieces.get(at);
        if behind.is_some_and(|(start, piece)| *start == offset && **piece == *payload) {
            return Added::Duplicate;
        }
        if before.is_some_and(|(start, piece)| start + piece.len() > offset)
            || behind.is_some_and(|&(start, _)| start < end)
        {
            return self.give_up(Added::Overlap);
        }
        let is_beyond = self.total.is_some_and(|total| end > total || !more && end != total);
        let is_short = !more && (behind.is_some() || self.total.is_some());
        if is_beyond || is_short || self.pieces.len() == PIECES_MAX {
            return self.give_up(Added::Malformed);
        }
        if !more {
            self.total = Some(end);
        }
        self.arrived += payload.len();
        self.pinned += cost;
        self.congested |= packet.ecn == Ecn::Congested;
        let mut piece = packet.whole_buf().clone();
        piece.advance(packet.transport_at());
        self.pieces.insert(at, (offset, piece));
        if offset == 0 {
            self.first = Some((packet, next));
        }
        Added::Waits
    }

    fn is_complete(&self) -> bool {
        self.total == Some(self.arrived)
    }

    /// Keeps nothing but the memory of it.
    fn give_up(&mut self, why: Added) -> Added {
        (self.pieces, self.first, self.arrived, self.pinned, self.broken) = (Vec::new(), None, 0, 0, true);
        why
    }

    /// One packet of all pieces, as if it had come whole, without the options and extensions of its fragments.
    fn join(&self, heap: &Heap) -> Option<(Protocol, Packet)> {
        let (first, next) = self.first.as_ref()?;
        let head_len = if first.source.is_ipv4() { IPV4_LEN } else { IPV6_LEN };
        let mut whole = heap.alloc_for(Purpose::Receive, head_len + self.arrived).ok()?;
        whole.put(&first.whole()[..head_len]);
        if let (IpAddr::V4(_), Ok(header)) = (first.source, Ipv4Header::mut_from_bytes(&mut whole[..])) {
            header.version_ihl = 0x45;
            header.total_len.set((head_len + self.arrived) as u16);
            header.flags_fragment = U16::ZERO;
            header.checksum = U16::ZERO;
            header.checksum.set(Checksum::new().add(header.as_bytes()).finish());
        } else if let Ok(header) = Ipv6Header::mut_from_bytes(&mut whole[..]) {
            header.payload_len.set(self.arrived as u16);
            header.next_header = *next;
        }
        heap.count_copied(CopyPath::Coalesce, self.arrived);
        self.pieces.iter().for_each(|(_, piece)| _ = whole.put(piece));
        // RFC 3168 §5.3: what a router marked stays marked.
        let ecn = if self.congested && first.ecn != Ecn::NotCapable { Ecn::Congested } else { first.ecn };
        Some((*next, first.join(whole.freeze(), head_len, ecn)))
    }
}

impl Ip {
    pub(super) fn on_fragment_v4(&mut self, packet: Packet, protocol: Protocol, now: Instant) -> Inbound {
        let Ok((header, _)) = Ipv4Header::ref_from_prefix(packet.whole()) else { return Inbound::Taken };
        let (bits, identification) = (header.flags_fragment.get(), u32::from(header.identification.get()));
        let (offset, more) =
            (8 * usize::from(bits & Ipv4Header::FRAGMENT_OFFSET), bits & Ipv4Header::MORE_FRAGMENTS != 0);
        let len = packet.data().len();
        // RFC 3128 §4: a TCP fragment at offset 1 could only replace what a first one said.
        let is_tiny = protocol == Protocol::TCP && offset == 8 || offset == 0 && len < header_len_min(protocol);
        if len == 0 || more && !len.is_multiple_of(8) || offset + len > LEN_MAX - IPV4_LEN || is_tiny {
            self.counters.fragment_malformed += 1;
            return Inbound::Taken;
        }
        let key = Key { source: packet.source, destination: packet.destination, identification, protocol };
        self.on_fragment(Fragment { key, offset, more, next: protocol, packet }, now)
    }

    pub(super) fn on_fragment_v6(&mut self, mut packet: Packet, now: Instant) -> Inbound {
        let at = packet.transport_at();
        let header = FragmentHeader::ref_from_prefix(packet.data()).ok().map(|(header, _)| *header);
        // One fragment header is enough.
        let Some(header) = header.filter(|_| !packet.is_joined()) else {
            self.counters.fragment_malformed += 1;
            return Inbound::Taken;
        };
        packet.skip(FRAGMENT_LEN);
        let (next, bits) = (header.next_header, header.offset_more.get());
        let (offset, more, len) = (usize::from(bits & !7), bits & 1 != 0, packet.data().len());
        let error = |code, pointer| Some(IcmpError::parameter_problem(code, pointer));
        let (is_wrong, error) = if more && !len.is_multiple_of(8) {
            (true, error(icmpv6::ERRONEOUS_FIELD, 4)) // at the payload length
        } else if offset + len > LEN_MAX {
            (true, error(icmpv6::ERRONEOUS_FIELD, at + 2)) // at the offset
        } else if offset == 0 && more && !has_whole_chain(next, packet.data()) {
            (true, error(icmpv6::INCOMPLETE_CHAIN, 0)) // RFC 7112 §5
        } else {
            (len == 0, None)
        };
        if is_wrong {
            self.counters.fragment_malformed += 1;
            error.into_iter().for_each(|error| self.send_error(&packet, error, now));
            return Inbound::Taken;
        }
        if offset == 0 && !more {
            // RFC 6946 §4: a packet in one fragment has nothing to do with others.
            let alone = packet.join(packet.whole_buf().clone(), packet.transport_at(), packet.ecn);
            return self.follow(next, alone, now);
        }
        let (source, destination) = (packet.source, packet.destination);
        let identification = header.identification.get();
        let key = Key { source, destination, identification, protocol: Protocol::IPV6_FRAGMENT };
        self.on_fragment(Fragment { key, offset, more, next, packet }, now)
    }

    fn on_fragment(&mut self, fragment: Fragment, now: Instant) -> Inbound {
        let (added, evicted) = self.fragments.add(fragment, now);
        self.counters.fragment_evicted += evicted;
        match added {
            Added::Waits => {}
            Added::Duplicate => self.counters.fragment_duplicate += 1,
            Added::Overlap => self.counters.fragment_overlap += 1,
            Added::Malformed => self.counters.fragment_malformed += 1,
            Added::Complete(partial) => match partial.join(&self.heap) {
                Some((next, packet)) => {
                    self.counters.fragment_reassembled += 1;
                    return self.dispatch(next, packet, now);
                }
                None => self.counters.fragment_evicted += 1,
            },
        }
        Inbound::Taken
    }

    /// Gives up what did not get complete in time, and tells the sender if its first fragment had come (RFC 792, RFC 1122
    /// §3.3.2, RFC 8200 §4.5).
    pub(super) fn on_fragments_time(&mut self, now: Instant) {
        while let Some(partial) = self.fragments.take_overdue(now) {
            if partial.broken {
                continue;
            }
            self.counters.fragment_timeout += 1;
            if let Some((first, _)) = &partial.first {
                let error = match first.source {
                    IpAddr::V4(_) => IcmpError::new(icmpv4::TIME_EXCEEDED, icmpv4::REASSEMBLY),
                    IpAddr::V6(_) => IcmpError::new(icmpv6::TIME_EXCEEDED, icmpv6::REASSEMBLY),
                };
                self.send_error(first, error, now);
            }
        }
    }
}

/// What a first fragment must have of its transport.
fn header_len_min(protocol: Protocol) -> usize {
    match protocol {
        Protocol::TCP => TCP_LEN,
        Protocol::UDP | Protocol::ICMP | Protocol::ICMPV6 => UDP_LEN,
        _ => 1,
    }
}

fn has_whole_chain(next: Protocol, data: &[u8]) -> bool {
    let (last, rest) = behind_extensions(next, data);
    let is_chain = matches!(last, Protocol::HOP_BY_HOP | Protocol::IPV6_OPTIONS | Protocol::IPV6_ROUTE);
    !is_chain && rest.len() >= header_len_min(last)
}

#[cfg(test)]
mod tests;
