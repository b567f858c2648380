//! The ports of one protocol: who has bound which, and which one an active open takes.
//!
//! A binding is of an address (or of all, the unspecified one) and a port. Two bindings of one port are in each other's way
//! if their addresses are the same, or one is that of all, unless both are shared.
//! An active open is no binding: a port may serve any number of connections, as long as they go to different remote ends.
//! The caller's table of connections knows that, and says it by `fits`; so does a core that wants only ports whose flows
//! come home to it.
//!
//! Ephemeral ports are chosen by RFC 6056's algorithm 4 (double hash): a keyed hash of the two ends gives where in the range
//! to begin, and one of 64 counters, chosen by another keyed hash, how far on: so a remote end cannot guess from its own
//! connections what port another gets, and a port is not used again for one remote end before the others were.
//! Bounds: at most as many bindings of a port as the caller has sockets; a choice tries each port of the range at most once.
//! Cost: one step if the range is not full, else on average range / free ports.

use std::net::{IpAddr, SocketAddr};
use std::ops::RangeInclusive;

use pdpix::{Endpoint, Error, Map, Seed};
use smallvec::SmallVec;

use crate::secret::{Domain, Secret};

/// Those that Linux takes, too; below are ports that services are configured with.
pub(crate) const EPHEMERAL: RangeInclusive<u16> = 32768..=60999;

/// How many counters there are (RFC 6056 §3.3.4: TABLE_LENGTH).
const COUNTERS: usize = 64;

/// The ports of one protocol.
#[derive(Debug)]
pub(crate) struct Ports {
    bound: Map<u16, SmallVec<[Binding; 1]>>,
    secret: Secret,
    counters: [u16; COUNTERS],
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
struct Binding {
    ip: IpAddr,
    shared: bool,
    /// Sockets that share it.
    count: u32,
}

impl Binding {
    fn covers(&self, ip: IpAddr) -> bool {
        self.ip.is_ipv4() == ip.is_ipv4() && (self.ip == ip || self.ip.is_unspecified() || ip.is_unspecified())
    }
}

impl Ports {
    /// Nothing bound.
    pub(crate) fn new(secret: Secret, seed: &Seed) -> Ports {
        Ports { bound: seed.map(), secret, counters: [0; COUNTERS] }
    }

    /// Binds, to a port of our choice for which `fits` if it is zero.
    ///
    /// # Errors
    /// `AddressInUse`.
    pub(crate) fn bind(
        &mut self,
        at: Endpoint,
        shared: bool,
        fits: impl FnMut(u16) -> bool,
    ) -> Result<Endpoint, Error> {
        let port = match at.port() {
            0 => self.choose(at.ip(), None, fits).ok_or(Error::AddressInUse)?,
            port => port,
        };
        let bindings = self.bound.entry(port).or_default();
        if bindings.iter().any(|other| other.covers(at.ip()) && !(shared && other.shared)) {
            return Err(Error::AddressInUse);
        }
        match bindings.iter_mut().find(|other| other.ip == at.ip()) {
            Some(same) => same.count += 1,
            None => bindings.push(Binding { ip: at.ip(), shared, count: 1 }),
        }
        Ok(Endpoint::new(at.ip(), port))
    }

    /// Gives a binding back.
    pub(crate) fn unbind(&mut self, at: Endpoint) {
        let Some(bindings) = self.bound.get_mut(&at.port()) else {
            debug_assert!(false, "{at} is not bound");
            return;
        };
        if let Some(place) = bindings.iter().position(|binding| binding.ip == at.ip()) {
            bindings[place].count -= 1;
            if bindings[place].count == 0 {
                bindings.swap_remove(place);
            }
        }
        if bindings.is_empty() {
            self.bound.remove(&at.port());
        }
    }

    /// A port for a connection from `local` to `remote`, which nobody has bound, and for which `fits`: no such connection is
    /// there yet, and its flow comes to this core.
    ///
    /// # Errors
    /// `AddressNotAvailable`: no port of the range is left.
    pub(crate) fn connect(
        &mut self,
        local: IpAddr,
        remote: Endpoint,
        fits: impl FnMut(u16) -> bool,
    ) -> Result<u16, Error> {
        self.choose(local, Some(remote), fits).ok_or(Error::AddressNotAvailable)
    }

    /// RFC 6056 §3.3.4.
    fn choose(&mut self, local: IpAddr, remote: Option<Endpoint>, mut fits: impl FnMut(u16) -> bool) -> Option<u16> {
        let local_end = SocketAddr::new(local, 0);
        let remote = remote.unwrap_or(local_end);
        let offset = self.secret.of_flow(Domain::PortOffset, local_end, remote, 0) as u32;
        let counter = self.secret.of_flow(Domain::PortCounter, local_end, remote, 0) as usize % COUNTERS;
        let range = u32::from(EPHEMERAL.end() - EPHEMERAL.start()) + 1;
        for _ in 0..range {
            let step = self.counters[counter];
            self.counters[counter] = ((u32::from(step) + 1) % range) as u16;
            let port = EPHEMERAL.start() + ((offset % range + u32::from(step)) % range) as u16;
            if !self.is_bound(local, port) && fits(port) {
                return Some(port);
            }
        }
        None
    }

    fn is_bound(&self, ip: IpAddr, port: u16) -> bool {
        self.bound.get(&port).is_some_and(|bindings| bindings.iter().any(|binding| binding.covers(ip)))
    }
}

#[cfg(test)]
mod tests {
    use std::collections::{HashMap, HashSet};

    use quickcheck::quickcheck;

    use super::*;

    fn ports(key: u8) -> Ports {
        Ports::new(Secret::new([key; 16]), &Seed::new(1))
    }

    fn at(text: &str) -> Endpoint {
        text.parse().unwrap()
    }

    fn any(_: u16) -> bool {
        true
    }

    quickcheck! {
        /// Against a list of bindings: any bindings and releases of few addresses and ports.
        fn bindings_conflict_as_said(ops: Vec<(u8, u8, u8, bool)>) -> bool {
            let mut ports = ports(1);
            let mut model: Vec<(Endpoint, bool)> = Vec::new();
            for (op, ip, port, shared) in ops {
                let ip = ["0.0.0.0", "10.0.0.1", "10.0.0.2"][ip as usize % 3].parse().unwrap();
                let at = Endpoint::new(ip, 80 + u16::from(port % 2));
                if op % 3 == 0 && !model.is_empty() {
                    let (gone, _) = model.swap_remove(op as usize % model.len());
                    ports.unbind(gone);
                } else {
                    let free = model.iter().all(|(other, other_shared)| {
                        let apart = other.port() != at.port()
                            || other.ip() != ip && !other.ip().is_unspecified() && !ip.is_unspecified();
                        apart || shared && *other_shared
                    });
                    let expected = if free { Ok(at) } else { Err(Error::AddressInUse) };
                    assert_eq!(ports.bind(at, shared, any), expected);
                    if free {
                        model.push((at, shared));
                    }
                }
            }
            model.drain(..).for_each(|(at, _)| ports.unbind(at));
            ports.bound.is_empty()
        }
    }

    #[test]
    fn a_port_for_each_remote_end_and_not_the_same_again_soon() {
        let (mut ports, local) = (ports(1), at("10.0.0.1:0").ip());
        let mut seen = HashSet::new();
        for _ in 0..28_232 {
            let port = ports.connect(local, at("10.0.0.2:80"), any).unwrap();
            assert!(EPHEMERAL.contains(&port) && seen.insert(port), "{port} again");
        }
        // They may all serve another remote end as well.
        assert!(ports.connect(local, at("10.0.0.3:80"), any).is_ok());
    }

    #[test]
    fn a_full_range_is_an_error_and_the_last_free_port_is_found() {
        let (mut ports, local, remote) = (ports(1), at("10.0.0.1:0").ip(), at("10.0.0.2:80"));
        assert_eq!(ports.connect(local, remote, |port| port == 60999), Ok(60999));
        assert_eq!(ports.connect(local, remote, |_| false), Err(Error::AddressNotAvailable));
        assert_eq!(ports.bind(Endpoint::new(local, 0), false, |_| false), Err(Error::AddressInUse));
    }

    #[test]
    fn with_28_000_in_use_a_choice_stays_cheap() {
        let (mut ports, local, remote) = (ports(1), at("10.0.0.1:0").ip(), at("10.0.0.2:80"));
        let mut used: Vec<u16> = Vec::new();
        let mut set = HashSet::new();
        while used.len() < 28_000 {
            used.push(ports.connect(local, remote, |port| !set.contains(&port)).unwrap());
            set.insert(used[used.len() - 1]);
        }
        // One closes somewhere, another is opened, many times.
        let (mut tries, mut rng) = (0u64, pdpix::Rng::new(3));
        for _ in 0..2_000 {
            let place = rng.below(28_000) as usize;
            set.remove(&used[place]);
            let port = ports.connect(local, remote, |port| {
                tries += 1;
                !set.contains(&port)
            });
            used[place] = port.unwrap();
            assert!(set.insert(used[place]));
        }
        assert!(tries / 2_000 < 250, "{} tries for each", tries / 2_000);
    }

    #[test]
    fn ports_come_home_where_they_are_asked_to() {
        let (mut ports, local, remote) = (ports(1), at("10.0.0.1:0").ip(), at("10.0.0.2:80"));
        (0..1000).for_each(|_| assert_eq!(ports.connect(local, remote, |port| port % 4 == 3).unwrap() % 4, 3));
    }

    #[test]
    fn what_is_bound_is_not_chosen() {
        let (mut ports, local) = (ports(1), at("10.0.0.1:0").ip());
        let mut mine: Vec<Endpoint> = (0..1000).map(|_| ports.bind(at("0.0.0.0:0"), true, any).unwrap()).collect();
        let bound: HashSet<u16> = mine.iter().map(Endpoint::port).collect();
        assert_eq!(bound.len(), 1000, "a chosen port is shared with nobody");
        for _ in 0..28_232 {
            assert!(!bound.contains(&ports.connect(local, at("10.0.0.2:80"), any).unwrap()));
        }
        mine.drain(..).for_each(|at| ports.unbind(at));
        assert!(ports.bound.is_empty());
    }

    #[test]
    fn where_it_begins_is_known_to_nobody_else() {
        let local = at("10.0.0.1:0").ip();
        let first = |key, remote: u16| ports(key).connect(local, Endpoint::new(local, remote), any).unwrap();
        // Neighbouring remote ports, or another key: steps all over the range.
        let mut steps: HashMap<u16, usize> = HashMap::new();
        for remote in 1..1000 {
            *steps.entry(first(1, remote + 1).wrapping_sub(first(1, remote))).or_default() += 1;
        }
        assert!(steps.values().max() < Some(&5) && first(1, 80) != first(2, 80));
    }
}
