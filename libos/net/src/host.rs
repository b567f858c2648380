//! What the cores of a host share of the network: who has which port, and therefore whose a packet is.
//!
//! A packet belongs to one core: of those that have bound its destination port, or of all if nobody has, the one that the
//! hash of its flow chooses. So a listener that several cores share gets each connection on one of them, and who connects
//! chooses a source port whose answers come home. What concerns everybody (ARP, neighbour discovery, ICMP, fragments) goes
//! to every core; one of them answers.
//!
//! Who has a port changes while connections live. Then a segment may come to a core that does not know its connection: it is
//! passed on from core to core, and only the last one says that there is no such connection.
//!
//! Always: ports are bound and given back under a lock; packets look at atomics only.
//! Bounds: 64 cores. Source: the dispatch of IX (OSDI'14) §4.4, and Affinity-Accept (EuroSys'12).

use std::hash::BuildHasher;
use std::net::IpAddr;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use pdpix::{Endpoint, Error, Seed};
use zerocopy::FromBytes;

use crate::ports::Ports;
use crate::secret::Secret;
use crate::tcp::FlowKey;
use crate::wire::{ETHERNET_LEN, EtherType, EthernetHeader, IPV4_LEN, IPV6_LEN, Ipv4Header, Ipv6Header, Protocol};

/// The most cores of a host.
pub const CORES_MAX: usize = 64;

/// Which protocol's ports.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub(crate) enum Transport {
    Tcp = 0,
    Udp = 1,
}

/// Whose a frame is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Steer {
    Core(usize),
    All,
}

/// See the module's head.
pub struct Host {
    cores: usize,
    seed: Seed,
    ports: Mutex<[Ports; 2]>,
    /// For each port of each protocol, a bit for each core that has bound it. None on a host of one core.
    owners: Vec<AtomicU64>,
}

impl Host {
    /// For so many cores. `secret` makes what others may not guess; `seed` is all other chance.
    ///
    /// # Panics
    /// If there are more than [`CORES_MAX`], or none.
    pub fn new(cores: usize, secret: [u8; 16], seed: u64) -> Arc<Host> {
        assert!((1..=CORES_MAX).contains(&cores), "a host of {cores} cores");
        let (secret, seed) = (Secret::new(secret), Seed::new(seed));
        let owners = if cores > 1 { (0..2 << 16).map(|_| AtomicU64::new(0)).collect() } else { Vec::new() };
        let ports = Mutex::new([Ports::new(secret, &seed), Ports::new(secret, &seed)]);
        Arc::new(Host { cores, seed, ports, owners })
    }

    /// How many cores it has.
    pub fn cores(&self) -> usize {
        self.cores
    }

    fn lock(&self) -> MutexGuard<'_, [Ports; 2]> {
        // Who panicked with the lock had not begun to change anything, or had ended.
        self.ports.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Binds a port for a core; see [`Ports::bind`].
    pub(crate) fn bind(
        &self,
        transport: Transport,
        at: Endpoint,
        shared: bool,
        core: usize,
    ) -> Result<Endpoint, Error> {
        let bound = self.lock()[transport as usize].bind(at, shared, |_| true)?;
        if let Some(owners) = self.owners.get(index(transport, bound.port())) {
            owners.fetch_or(1 << core, Ordering::Relaxed);
        }
        Ok(bound)
    }

    /// Gives it back. `is_last`: the core has no other binding of the port.
    pub(crate) fn unbind(&self, transport: Transport, at: Endpoint, core: usize, is_last: bool) {
        self.lock()[transport as usize].unbind(at);
        if is_last && let Some(owners) = self.owners.get(index(transport, at.port())) {
            owners.fetch_and(!(1 << core), Ordering::Relaxed);
        }
    }

    /// A source port for a connection of this core's, whose answers come to it; see [`Ports::connect`].
    pub(crate) fn connect(
        &self,
        local: IpAddr,
        remote: Endpoint,
        core: usize,
        mut is_free: impl FnMut(u16) -> bool,
    ) -> Result<u16, Error> {
        let comes_home = |port| self.core_of(Transport::Tcp, (local, port), (remote.ip(), remote.port())) == core;
        self.lock()[Transport::Tcp as usize].connect(local, remote, |port| comes_home(port) && is_free(port))
    }

    /// Whose the packets are that come to `local` from `remote`.
    pub(crate) fn core_of(&self, transport: Transport, local: (IpAddr, u16), remote: (IpAddr, u16)) -> usize {
        let Some(owners) = self.owners.get(index(transport, local.1)) else { return 0 };
        let owners = owners.load(Ordering::Relaxed);
        if owners.is_power_of_two() {
            return owners.trailing_zeros() as usize;
        }
        let hash = self.seed.hash_one(FlowKey::new(local, remote));
        if owners == 0 {
            return (hash % self.cores as u64) as usize;
        }
        let mut rest = owners;
        for _ in 0..hash % u64::from(owners.count_ones()) {
            rest &= rest - 1;
        }
        rest.trailing_zeros() as usize
    }

    /// Whose a frame is.
    pub(crate) fn steer(&self, frame: &[u8]) -> Steer {
        self.steer_packet(frame).unwrap_or(Steer::All)
    }

    fn steer_packet(&self, frame: &[u8]) -> Option<Steer> {
        let (ethernet, packet) = EthernetHeader::ref_from_prefix(frame).ok()?;
        let (protocol, source, destination, transport): (Protocol, IpAddr, IpAddr, &[u8]) = match ethernet.ethertype {
            EtherType::IPV4 => {
                let (header, _) = Ipv4Header::ref_from_prefix(packet).ok()?;
                if header.flags_fragment.get() & (Ipv4Header::MORE_FRAGMENTS | Ipv4Header::FRAGMENT_OFFSET) != 0 {
                    return None;
                }
                let transport = packet.get(header.header_len().max(IPV4_LEN)..)?;
                (header.protocol, header.source.into(), header.destination.into(), transport)
            }
            EtherType::IPV6 => {
                let (header, transport) = Ipv6Header::ref_from_prefix(packet).ok()?;
                (header.next_header, header.source.into(), header.destination.into(), transport)
            }
            _ => return None,
        };
        let kind = match protocol {
            Protocol::TCP => Transport::Tcp,
            Protocol::UDP => Transport::Udp,
            _ => return None,
        };
        let [a, b, c, d] = *transport.first_chunk()?;
        let (source_port, port) = (u16::from_be_bytes([a, b]), u16::from_be_bytes([c, d]));
        Some(Steer::Core(self.core_of(kind, (destination, port), (source, source_port))))
    }
}

fn index(transport: Transport, port: u16) -> usize {
    (transport as usize) << 16 | usize::from(port)
}

impl std::fmt::Debug for Host {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Host({} cores)", self.cores)
    }
}

const _: () = assert!(ETHERNET_LEN == 14 && IPV6_LEN == 40);

#[cfg(test)]
mod tests {
    use super::*;

    const A: IpAddr = IpAddr::V4(std::net::Ipv4Addr::new(10, 0, 0, 1));
    const B: IpAddr = IpAddr::V4(std::net::Ipv4Addr::new(10, 0, 0, 2));

    fn host(cores: usize) -> Arc<Host> {
        Host::new(cores, [7; 16], 3)
    }

    #[test]
    fn a_port_that_one_core_has_is_its_own() {
        let host = host(4);
        let at = host.bind(Transport::Tcp, Endpoint::new(A, 80), false, 2).unwrap();
        assert!((1..200).all(|port| host.core_of(Transport::Tcp, (A, 80), (B, port)) == 2));
        assert_eq!(host.bind(Transport::Tcp, Endpoint::new(A, 80), false, 1), Err(Error::AddressInUse), "of any core");
        host.unbind(Transport::Tcp, at, 2, true);
        let cores: Vec<usize> = (1..200).map(|port| host.core_of(Transport::Tcp, (A, 80), (B, port))).collect();
        assert!((0..4).all(|core| cores.contains(&core)), "spread, as nobody has it");
    }

    #[test]
    fn a_shared_port_is_spread_over_those_that_share_it() {
        let host = host(4);
        for core in [1, 3] {
            host.bind(Transport::Tcp, Endpoint::new(A, 80), true, core).unwrap();
        }
        let cores: Vec<usize> = (1..200).map(|port| host.core_of(Transport::Tcp, (A, 80), (B, port))).collect();
        assert!(cores.iter().all(|core| [1, 3].contains(core)) && cores.contains(&1) && cores.contains(&3));
    }

    #[test]
    fn answers_to_a_connection_come_home() {
        let host = host(3);
        for core in 0..3 {
            for _ in 0..50 {
                let port = host.connect(A, Endpoint::new(B, 80), core, |_| true).unwrap();
                assert_eq!(host.core_of(Transport::Tcp, (A, port), (B, 80)), core);
            }
        }
    }

    #[test]
    fn what_concerns_everybody_goes_to_everybody() {
        let host = host(2);
        for (ethertype, rest) in [([8, 6], &[0; 28][..]), ([8, 0], &[0x45; 10][..]), ([0x86, 0xdd], &[0x60; 39][..])] {
            let frame = [&[0; 12][..], &ethertype[..], rest].concat();
            assert_eq!(host.steer(&frame), Steer::All, "{ethertype:x?}");
        }
        let mut frame = [&[0; 12][..], &[8, 0, 0x45], &[0; 23], &[0, 80, 0, 80]].concat();
        frame[14 + 9] = 17;
        assert!(matches!(host.steer(&frame), Steer::Core(_)), "a datagram");
        frame[14 + 6] = 0x20;
        assert_eq!(host.steer(&frame), Steer::All, "a fragment of one");
    }
}
