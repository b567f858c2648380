//! The internet layer: our addresses, who is on the link, and packets in and out. IPv4 (RFC 791, 1122), IPv6 (RFC 8200),
//! ARP (RFC 826, 5227), neighbour discovery (RFC 4861, 4862), ICMP (RFC 792, 4443), path MTU discovery (RFC 1191, 8201).
//!
//! - `cidr.rs`, `interface.rs`: addresses, routes, the choice of a source.
//! - `neighbours.rs`, `arp.rs`, `ndp.rs`: link-layer addresses.
//! - `path.rs`: sending. `receive.rs`: receiving. `fragments.rs`: putting together. `icmp.rs`: echo and errors.
//! - `path_mtu.rs`, `limiter.rs`, `startup.rs`: what we know of paths, how often we answer, announcements and detection.
//!
//! Always: every table is bounded; what is dropped is counted by name; nothing panics on any bytes. Pure: `now` is an
//! argument, chance is the core's generator. Our packets are never fragmented.

mod arp;
mod cidr;
mod extensions;
mod fragments;
mod fuzz;
mod icmp;
mod interface;
mod limiter;
mod ndp;
mod neighbours;
mod path;
mod path_mtu;
mod receive;
mod startup;
#[cfg(test)]
pub(crate) mod tests;

use std::collections::VecDeque;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use pdpix::{Error, Heap, Instant, Rng, Seed};

pub use cidr::Cidr;
#[doc(hidden)]
pub use fuzz::FuzzedHost;
pub(crate) use icmp::Unreachable;
pub(crate) use path::{HEADER_MEMORY_MAX, Path};
pub(crate) use receive::{Inbound, Packet, PlainV4};

use crate::Counters;
use crate::device::{Frame, Link, Received};
use crate::wire::{Mac, Protocol};
use fragments::Fragments;
use interface::Interface;
use limiter::Limiter;
use neighbours::{Learned, Neighbours};
use path_mtu::PathMtus;
use startup::Startup;

/// Packets to ourselves that may wait to be taken in.
const LOOPED_MAX: usize = 4096;
/// Of packets to ourselves.
const LOOPED_MTU: usize = 65_535;
/// Frames that may wait for the device: beyond that answers of our own (ARP, NDP, ICMP) are dropped, and who sends datagrams
/// is refused. TCP keeps to its windows.
const OUTBOUND_MAX: usize = 4096;

/// How a host is attached to its network.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct IpSettings {
    /// Addresses of the interface, with the prefixes that are on its link. A link-local address of IPv6, made of the
    /// link-layer address, is always there too (RFC 4291 Appendix A).
    pub addresses: Vec<Cidr>,
    /// Where packets go that no route fits: one of each family at most counts, the first.
    pub gateways: Vec<IpAddr>,
    /// Other networks and the routers to them.
    pub routes: Vec<(Cidr, IpAddr)>,
    /// The longest IP packet; not more than the device's.
    pub mtu: Option<usize>,
    /// Whether this core answers ARP, NDP and echo and announces addresses: one core of a host does.
    pub answers: bool,
    /// Bounds.
    pub limits: IpLimits,
}

impl Default for IpSettings {
    fn default() -> IpSettings {
        IpSettings {
            addresses: Vec::new(),
            gateways: Vec::new(),
            routes: Vec::new(),
            mtu: None,
            answers: true,
            limits: IpLimits::default(),
        }
    }
}

/// Bounds of the tables, and of what is answered.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct IpLimits {
    /// Neighbours.
    pub neighbours: usize,
    /// Destinations whose path MTU is remembered.
    pub path_mtus: usize,
    /// Packets in parts.
    pub partial_packets: usize,
    /// Bytes that their parts pin.
    pub partial_pinned: usize,
    /// ICMP errors sent in a second.
    pub errors_per_second: u32,
    /// Echo requests answered in a second.
    pub echoes_per_second: u32,
}

impl Default for IpLimits {
    fn default() -> IpLimits {
        IpLimits {
            neighbours: 1024,
            path_mtus: 4096,
            partial_packets: 64,
            partial_pinned: 1 << 20,
            errors_per_second: 1000,
            echoes_per_second: 10_000,
        }
    }
}

/// An error that the network told us about a packet of ours (RFC 1122 §3.2.2). Ports and sequence numbers are as quoted:
/// the transport compares them with what it has sent (RFC 5927 §4).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Notice {
    pub protocol: Protocol,
    /// Ours.
    pub source: IpAddr,
    /// The peer.
    pub destination: IpAddr,
    /// Ours and theirs.
    pub ports: (u16, u16),
    /// Of a TCP segment.
    pub sequence: Option<u32>,
    pub kind: NoticeKind,
}

/// What went wrong.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum NoticeKind {
    PortUnreachable,
    HostUnreachable,
    NetworkUnreachable,
    ProtocolUnreachable,
    Prohibited,
    /// And what would have been short enough.
    TooBig {
        mtu: usize,
    },
    TimeExceeded,
    ParameterProblem,
}

impl NoticeKind {
    /// As an operation's result.
    pub(crate) fn error(self) -> Error {
        match self {
            NoticeKind::PortUnreachable | NoticeKind::ProtocolUnreachable => Error::ConnectionRefused,
            NoticeKind::NetworkUnreachable => Error::NetworkUnreachable,
            NoticeKind::TooBig { .. } => Error::MessageSize,
            NoticeKind::HostUnreachable
            | NoticeKind::Prohibited
            | NoticeKind::TimeExceeded
            | NoticeKind::ParameterProblem => Error::HostUnreachable,
        }
    }
}

/// The first of both, if there are any. Deadlines are looked at in each pass, and for each segment: this is several times as
/// fast as the least of a list.
#[inline(always)]
pub(crate) fn earlier(one: Option<Instant>, other: Option<Instant>) -> Option<Instant> {
    match (one, other) {
        (Some(one), Some(other)) => Some(one.min(other)),
        (one, other) => one.or(other),
    }
}

/// The internet layer of one core.
pub(crate) struct Ip {
    // What every frame touches.
    link: Link,
    first_v4: [u8; 4],
    first_v6: [u8; 16],
    /// There is one address of IPv4, and this is its network's broadcast address (or nobody's).
    has_one_v4: bool,
    broadcast_v4: Ipv4Addr,
    mtu: usize,
    /// Changes whenever a path may have changed.
    epoch: u32,
    heap: Heap,
    neighbours: Neighbours,
    outbound: VecDeque<Frame>,
    pub(crate) counters: Counters,
    // The rest.
    interface: Interface,
    looped: VecDeque<Received>,
    path_mtus: PathMtus,
    fragments: Fragments,
    error_limit: Limiter,
    echo_limit: Limiter,
    startup: Startup,
    settings: IpSettings,
    rng: Rng,
    /// When we last defended an address (RFC 5227 §2.4).
    defended: Option<Instant>,
}

impl Ip {
    pub(crate) fn new(settings: IpSettings, link: Link, heap: Heap, seed: Seed, rng: Rng) -> Ip {
        let interface = Interface::new(&settings.addresses, &settings.gateways, &settings.routes, link.mac);
        let first = interface.first();
        let mut neighbours = Neighbours::new(settings.limits.neighbours, &seed);
        neighbours.routers = interface.gateways().collect();
        Ip {
            first_v4: first.0.unwrap_or(Ipv4Addr::UNSPECIFIED).octets(),
            first_v6: first.1.unwrap_or(Ipv6Addr::UNSPECIFIED).octets(),
            has_one_v4: interface.ipv4().len() == 1,
            broadcast_v4: interface.broadcasts().first().copied().unwrap_or(Ipv4Addr::BROADCAST),
            mtu: settings.mtu.map_or(link.mtu, |mtu| mtu.min(link.mtu)),
            epoch: 0,
            link,
            heap,
            neighbours,
            outbound: VecDeque::new(),
            counters: Counters::default(),
            interface,
            looped: VecDeque::new(),
            path_mtus: PathMtus::new(settings.limits.path_mtus, &seed),
            fragments: Fragments::new(settings.limits.partial_packets, settings.limits.partial_pinned),
            error_limit: Limiter::new(settings.limits.errors_per_second),
            echo_limit: Limiter::new(settings.limits.echoes_per_second),
            startup: Startup::new(),
            settings,
            rng,
            defended: None,
        }
    }

    /// A local address fit to talk to `destination`.
    ///
    /// # Errors
    /// `NetworkUnreachable`: no way there, or no address to go from.
    pub(crate) fn source_for(&self, destination: IpAddr) -> Result<IpAddr, Error> {
        self.interface.source_for(destination)
    }

    /// Whether it is one of ours, or a loopback address.
    pub(crate) fn is_own(&self, ip: IpAddr) -> bool {
        self.interface.is_own(ip)
    }

    /// The longest packet that the interface takes, whatever the path to a peer.
    pub(crate) fn interface_mtu(&self) -> usize {
        self.mtu
    }

    pub(crate) fn heap(&self) -> &Heap {
        &self.heap
    }

    /// Something that a path depends on has changed.
    fn new_epoch(&mut self) {
        self.epoch = self.epoch.wrapping_add(1);
    }

    /// Slots move when an entry goes.
    fn note_evictions(&mut self) {
        if self.neighbours.evicted != self.counters.neighbour_evicted {
            self.counters.neighbour_evicted = self.neighbours.evicted;
            self.counters.parked_dropped += std::mem::take(&mut self.neighbours.evicted_parked);
            self.new_epoch();
        }
    }

    /// Sends what waited for a neighbour, and has paths through it looked up anew.
    fn take_learned(&mut self, mac: Mac, learned: Learned) {
        self.note_evictions();
        if learned.changed {
            self.new_epoch();
        }
        for packet in learned.released {
            self.queue_to(mac, packet);
        }
    }

    /// An upper layer saw that what it sent on this path arrived (RFC 4861 §7.3.1).
    #[inline]
    pub(crate) fn confirm(&mut self, path: &Path, now: Instant) {
        if let Some((slot, next)) = path.neighbour() {
            self.neighbours.confirm(slot, next, now, &mut self.rng);
        }
    }

    /// An upper layer sends on this path, again and again, and nothing comes back.
    pub(crate) fn suspect(&mut self, path: &Path, now: Instant) {
        if let Some((slot, next)) = path.neighbour() {
            self.neighbours.suspect(slot, next, now);
        }
    }

    /// Takes a router's word that packets to `destination` may have `mtu` bytes at most, after the transport has believed
    /// it (RFC 1191 §6.2, RFC 8201 §5.2).
    pub(crate) fn learn_mtu(&mut self, destination: IpAddr, mtu: usize, now: Instant) {
        let current = self.path_mtus.get(destination).min(self.mtu);
        if self.path_mtus.learn(destination, mtu, current, now) {
            self.new_epoch();
        }
    }

    /// For the device.
    #[inline]
    pub(crate) fn outbound(&mut self) -> &mut VecDeque<Frame> {
        &mut self.outbound
    }

    /// Whether the device keeps up with what is sent.
    #[inline]
    pub(crate) fn has_room(&self) -> bool {
        self.outbound.len() < OUTBOUND_MAX
    }

    /// Whether packets to ourselves wait for [`Ip::receive_looped`].
    #[inline]
    pub(crate) fn has_looped(&self) -> bool {
        !self.looped.is_empty()
    }

    /// The next packet to ourselves.
    pub(crate) fn take_looped(&mut self) -> Option<Received> {
        self.looped.pop_front()
    }

    /// Both, for tests.
    #[cfg(test)]
    pub(crate) fn receive_next_looped(&mut self, now: Instant) -> Option<Inbound> {
        self.take_looped().map(|frame| self.receive_looped(frame, now))
    }

    /// Takes in a packet to ourselves, of this core's or of another one.
    pub(crate) fn receive_looped(&mut self, frame: Received, now: Instant) -> Inbound {
        self.receive_from_ourselves(frame, now)
    }

    /// When [`Ip::on_time`] wants to be called; the first time at once.
    pub(crate) fn deadline(&self) -> Option<Instant> {
        let soon = earlier(self.neighbours.deadline(), self.startup.deadline());
        earlier(soon, earlier(self.fragments.deadline(), self.path_mtus.deadline()))
    }

    /// Does what is due. What waited for neighbours that did not answer comes back as notices.
    pub(crate) fn on_time(&mut self, now: Instant) -> Vec<Notice> {
        let mut notices = Vec::new();
        while let Some(due) = self.neighbours.on_time(now) {
            self.on_neighbour_due(due, &mut notices);
        }
        if self.startup.deadline().is_some_and(|at| at <= now) {
            self.on_startup_time(now);
        }
        self.on_fragments_time(now);
        if self.path_mtus.on_time(now) {
            self.new_epoch();
        }
        notices
    }
}
