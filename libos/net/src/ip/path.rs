//! Sending: a path to a destination with its headers ready, memory for a packet, and the queue of the device.

use std::net::IpAddr;

use pdpix::{BufMut, Error, Instant, Purpose, Sga};
use zerocopy::{FromBytes, IntoBytes};

use super::interface::Way;
use super::neighbours::{Ask, Parked, Sent};
use super::{Ip, LOOPED_MAX, LOOPED_MTU};
use crate::device::{ChecksumAt, Frame, Offloads, Received};
use crate::wire::{
    Checksum, ETHERNET_LEN, Ecn, EtherType, EthernetHeader, IPV4_LEN, IPV6_LEN, Ipv4Header, Ipv6Header, Mac, Protocol,
    pseudo_header,
};
use libos_mem::CopyPath;

/// RFC 1122 §3.2.1.7; RFC 1700's number.
const HOPS: u8 = 64;
/// The longest header and the longest piece that still comes from the reserve of headers.
pub(crate) const HEADER_MEMORY_MAX: usize = 512;
const HEAD_LEN_MAX: usize = ETHERNET_LEN + IPV6_LEN;

/// How packets between two addresses go: cached by who sends them, looked up anew when [`Ip`]'s epoch has changed.
#[derive(Clone, Debug)]
pub(crate) struct Path {
    source: IpAddr,
    destination: IpAddr,
    epoch: u32,
    mtu: u32,
    hop: Hop,
    /// Of the addresses, as transports sum them.
    addresses: Checksum,
    /// Ethernet and IP headers; what differs from packet to packet is zero.
    head: [u8; HEAD_LEN_MAX],
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Hop {
    Looped,
    /// A neighbour whose link-layer address is in the header, and its slot.
    Known(u32, IpAddr),
    /// One that has to be asked for.
    Unknown(IpAddr),
    Group,
}

impl Path {
    /// The peer's.
    #[inline]
    pub(crate) fn destination(&self) -> IpAddr {
        self.destination
    }

    /// Whether it ends at this host: checksums need not be filled in, and nothing is lost but by overflow.
    #[inline]
    pub(crate) fn is_looped(&self) -> bool {
        self.hop == Hop::Looped
    }

    /// What a transport's checksum begins with; `len` is that of its header and payload.
    #[inline]
    pub(crate) fn pseudo_header(&self, protocol: Protocol, len: usize) -> Checksum {
        self.addresses.add_u16(u16::from(protocol.0)).add_u16((len >> 16) as u16).add_u16(len as u16)
    }

    /// Bytes before the transport's header.
    #[inline]
    pub(crate) fn head_len(&self) -> usize {
        ETHERNET_LEN + self.ip_len()
    }

    /// The neighbour that it goes through, if that is known.
    #[inline]
    pub(super) fn neighbour(&self) -> Option<(u32, IpAddr)> {
        if let Hop::Known(slot, next) = self.hop { Some((slot, next)) } else { None }
    }

    #[inline]
    fn ip_len(&self) -> usize {
        if self.source.is_ipv4() { IPV4_LEN } else { IPV6_LEN }
    }
}

impl Ip {
    /// Where packets to one peer go.
    ///
    /// # Errors
    /// `NetworkUnreachable`: no route. `AddressFamily`: of two families. `AddressNotAvailable`: the source is not ours.
    pub(crate) fn path(&mut self, source: IpAddr, destination: IpAddr) -> Result<Path, Error> {
        if source.is_ipv4() != destination.is_ipv4() {
            return Err(Error::AddressFamily);
        }
        if !self.is_own(source) {
            return Err(Error::AddressNotAvailable);
        }
        let addresses = pseudo_header(source, destination, Protocol(0), 0);
        let (epoch, head) = (self.epoch.wrapping_sub(1), [0; HEAD_LEN_MAX]);
        let mut path = Path { source, destination, epoch, mtu: 0, hop: Hop::Looped, addresses, head };
        self.refresh(&mut path)?;
        Ok(path)
    }

    /// Bytes that an IP packet on this path may have.
    #[inline]
    pub(crate) fn mtu(&mut self, path: &mut Path) -> usize {
        if path.epoch != self.epoch {
            // A route that is gone is noticed when something is sent.
            _ = self.refresh(path);
        }
        path.mtu as usize
    }

    /// Whether the device fills in transport checksums on this path, or nobody looks at them.
    #[inline]
    pub(crate) fn fills_checksums(&self, path: &Path) -> bool {
        self.link.offloads.checksums || path.is_looped()
    }

    #[cold]
    fn refresh(&mut self, path: &mut Path) -> Result<(), Error> {
        let way = self.interface.way(path.destination)?;
        // RFC 1122 §3.2.1.3(g): loopback addresses do not leave the host.
        if path.source.is_loopback() && way != Way::Looped {
            return Err(Error::NetworkUnreachable);
        }
        let (hop, mac) = match way {
            Way::Looped => (Hop::Looped, self.link.mac),
            Way::Group(mac) => (Hop::Group, mac),
            Way::Via(next) => match self.neighbours.find(next) {
                Some((slot, mac)) => (Hop::Known(slot, next), mac),
                None => (Hop::Unknown(next), Mac::default()),
            },
        };
        let mtu = if hop == Hop::Looped { LOOPED_MTU } else { self.path_mtus.get(path.destination).min(self.mtu) };
        path.mtu = mtu as u32;
        path.hop = hop;
        let hops = if path.destination.is_multicast() { 1 } else { HOPS };
        path.head = head(self.link.mac, mac, path.source, path.destination, hops);
        path.epoch = self.epoch;
        Ok(())
    }

    /// Memory for a packet, with its Ethernet and IP headers written. The transport appends its own; `transport_len` is
    /// that and its payload, `head_len` how much of them will be put into this memory.
    ///
    /// # Errors
    /// `NoBuffers`; `MessageSize`: more than a packet can say; `NetworkUnreachable`: the route is gone.
    #[inline]
    pub(crate) fn begin(
        &mut self,
        path: &mut Path,
        protocol: Protocol,
        ecn: Ecn,
        transport_len: usize,
        head_len: usize,
    ) -> Result<BufMut, Error> {
        if path.epoch != self.epoch {
            self.refresh(path)?;
        }
        let purpose = if head_len <= HEADER_MEMORY_MAX { Purpose::Header } else { Purpose::App };
        if path.source.is_ipv4() {
            let total_len = u16::try_from(IPV4_LEN + transport_len).map_err(|_| Error::MessageSize)?;
            let mut memory = self.memory(purpose, ETHERNET_LEN + IPV4_LEN + head_len)?;
            memory.put(&path.head[..ETHERNET_LEN + IPV4_LEN]);
            if let Ok(header) = Ipv4Header::mut_from_bytes(&mut memory[ETHERNET_LEN..]) {
                header.traffic_class = ecn as u8;
                header.total_len.set(total_len);
                header.protocol = protocol;
                // The rest of the sum is in the field already.
                let sum = Checksum::new()
                    .add_u16(header.checksum.get())
                    .add_u16(u16::from(ecn as u8))
                    .add_u16(total_len)
                    .add_u16(u16::from(protocol.0));
                header.checksum.set(sum.finish());
            }
            Ok(memory)
        } else {
            let payload_len = u16::try_from(transport_len).map_err(|_| Error::MessageSize)?;
            let mut memory = self.memory(purpose, HEAD_LEN_MAX + head_len)?;
            memory.put(&path.head);
            if let Ok(header) = Ipv6Header::mut_from_bytes(&mut memory[ETHERNET_LEN..]) {
                header.version_class_flow.set(6 << 28 | (ecn as u32) << 20);
                header.payload_len.set(payload_len);
                header.next_header = protocol;
            }
            Ok(memory)
        }
    }

    #[inline]
    fn memory(&self, purpose: Purpose, len: usize) -> Result<BufMut, Error> {
        self.heap.alloc_for(purpose, len).map_err(|_| Error::NoBuffers)
    }

    /// Whether a frame in so many pieces, its header included, goes as it is.
    #[inline]
    pub(crate) fn gathers(&self, pieces: usize) -> bool {
        pieces <= self.link.offloads.gathers
    }

    /// In how many pieces a frame may lie, its header included.
    #[inline]
    pub(crate) fn gathers_max(&self) -> usize {
        self.link.offloads.gathers
    }

    /// The most text of a TCP segment that the device cuts up on this path. `None`: it cuts up none.
    #[inline]
    pub(crate) fn cuts_up(&self, path: &Path) -> Option<u32> {
        let Offloads { checksums, segments, .. } = self.link.offloads;
        segments.filter(|_| checksums && !path.is_looped()).map(|most| most as u32)
    }

    /// Queues a packet begun on this path. If the neighbour is not known, it waits for it.
    #[inline]
    pub(crate) fn send(
        &mut self,
        path: &mut Path,
        header: BufMut,
        payload: Sga,
        checksum: Option<ChecksumAt>,
        segment_size: u16,
        now: Instant,
    ) {
        if let Hop::Known(slot, _) = path.hop
            && path.epoch == self.epoch
            && self.neighbours.is_settled(slot, now)
        {
            return self.queue(Parked { header, payload, checksum, segment_size });
        }
        self.send_slowly(path, Parked { header, payload, checksum, segment_size }, now);
    }

    #[inline(never)]
    fn send_slowly(&mut self, path: &mut Path, packet: Parked, now: Instant) {
        if path.epoch != self.epoch && self.refresh(path).is_err() {
            return self.counters.tx_no_route += 1;
        }
        match path.hop {
            Hop::Looped => self.loop_back(packet),
            Hop::Group => self.queue(packet),
            Hop::Known(_, next) | Hop::Unknown(next) => match self.neighbours.send(next, packet, now) {
                Sent::To(mac, packet) => self.queue_to(mac, packet),
                Sent::Waits(ask, overflows) => {
                    self.counters.parked_overflow += u64::from(overflows);
                    if let Some(ask) = ask {
                        self.ask(ask);
                    }
                }
                Sent::Full => self.counters.neighbour_table_full += 1,
            },
        }
        self.note_evictions();
    }

    /// Asks for a neighbour.
    pub(super) fn ask(&mut self, ask: Ask) {
        match ask.address {
            IpAddr::V4(ip) => self.ask_arp(ip, ask.to),
            IpAddr::V6(ip) => self.ask_ndp(ip, ask.to),
        }
    }

    /// Queues a packet to a link-layer address that was not known when it was begun.
    pub(super) fn queue_to(&mut self, mac: Mac, mut packet: Parked) {
        packet.header[..6].copy_from_slice(&mac.0);
        self.queue(packet);
    }

    /// Into the device's queue.
    #[inline]
    pub(super) fn queue(&mut self, packet: Parked) {
        let Parked { header, payload, checksum, segment_size } = packet;
        if payload.segments().len() < self.link.offloads.gathers || payload.is_empty() {
            self.outbound.push_back(Frame { header: header.freeze(), payload, checksum, segment_size });
        } else {
            self.queue_linear(header, &payload, checksum, segment_size);
        }
    }

    /// In one piece, for a device that does not gather.
    #[cold]
    fn queue_linear(&mut self, header: BufMut, payload: &Sga, checksum: Option<ChecksumAt>, segment_size: u16) {
        let Some(linear) = self.linear(header, payload) else { return self.counters.tx_no_memory += 1 };
        self.counters.tx_linearised += 1;
        let header = linear.freeze();
        self.outbound.push_back(Frame { header, payload: Sga::new(), checksum, segment_size });
    }

    /// A packet to ourselves: a copy of it, as received.
    fn loop_back(&mut self, packet: Parked) {
        if self.looped.len() >= LOOPED_MAX {
            return self.counters.looped_overflow += 1;
        }
        let whole =
            if packet.payload.is_empty() { Some(packet.header) } else { self.linear(packet.header, &packet.payload) };
        let Some(whole) = whole else { return self.counters.tx_no_memory += 1 };
        self.looped.push_back(Received { buf: whole.freeze(), verified: true });
    }

    /// Header and payload in one piece, by a counted copy.
    fn linear(&mut self, mut header: BufMut, payload: &Sga) -> Option<BufMut> {
        let len = payload.len();
        self.heap.count_copied(CopyPath::Coalesce, len);
        if header.room() < len {
            let mut whole = self.heap.alloc_for(Purpose::App, header.len() + len).ok()?;
            whole.put(&header);
            header = whole;
        }
        payload.segments().iter().for_each(|piece| _ = header.put(piece));
        Some(header)
    }
}

/// Headers without what differs from packet to packet: of IPv4 the checksum field holds the sum of the rest.
fn head(from: Mac, to: Mac, source: IpAddr, destination: IpAddr, hops: u8) -> [u8; HEAD_LEN_MAX] {
    let mut bytes = [0; HEAD_LEN_MAX];
    let ethertype = if source.is_ipv4() { EtherType::IPV4 } else { EtherType::IPV6 };
    let ethernet = EthernetHeader { destination: to, source: from, ethertype };
    bytes[..ETHERNET_LEN].copy_from_slice(ethernet.as_bytes());
    match (source, destination) {
        (IpAddr::V4(source), IpAddr::V4(destination)) => {
            let mut header = Ipv4Header {
                version_ihl: 0x45,
                traffic_class: 0,
                total_len: 0.into(),
                // RFC 6864 §4.1: without meaning in a packet that may not be fragmented.
                identification: 0.into(),
                flags_fragment: Ipv4Header::DONT_FRAGMENT.into(),
                ttl: hops,
                protocol: Protocol(0),
                checksum: 0.into(),
                source: source.octets(),
                destination: destination.octets(),
            };
            header.checksum.set(Checksum::new().add(header.as_bytes()).partial());
            bytes[ETHERNET_LEN..ETHERNET_LEN + IPV4_LEN].copy_from_slice(header.as_bytes());
        }
        (IpAddr::V6(source), IpAddr::V6(destination)) => {
            let header = Ipv6Header {
                version_class_flow: (6 << 28).into(),
                payload_len: 0.into(),
                next_header: Protocol(0),
                hop_limit: hops,
                source: source.octets(),
                destination: destination.octets(),
            };
            bytes[ETHERNET_LEN..].copy_from_slice(header.as_bytes());
        }
        _ => unreachable!("`path` checked the families"),
    }
    bytes
}
