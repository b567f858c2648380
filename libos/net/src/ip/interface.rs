//! Addresses of ours, and which way others lie: on-link prefixes, routes, gateways (RFC 1122 §3.3.1).

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use pdpix::Error;
use smallvec::SmallVec;

use super::cidr::{Cidr, common_bits, is_link_local};
use crate::wire::Mac;

/// What an address is to us.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Kind {
    /// One of ours, loopback included.
    Own,
    /// Broadcast, or a multicast group.
    Group,
    /// Somebody else.
    Other,
}

/// Where a packet goes first.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Way {
    /// It stays here.
    Looped,
    /// To everybody at this link-layer address.
    Group(Mac),
    /// To this neighbour.
    Via(IpAddr),
}

/// Our side of the link.
pub(crate) struct Interface {
    /// Ours, the link-local one of IPv6 last.
    addresses: Vec<Cidr>,
    /// Networks, the longest prefix first; on-link ones have no gateway.
    routes: Vec<(Cidr, Option<IpAddr>)>,
    broadcasts: Vec<Ipv4Addr>,
    /// The router that announced itself, if no gateway of IPv6 was configured.
    announced: Option<IpAddr>,
}

impl Interface {
    pub(crate) fn new(addresses: &[Cidr], gateways: &[IpAddr], routes: &[(Cidr, IpAddr)], mac: Mac) -> Interface {
        let link_local = Cidr::new(link_local_of(mac).into(), 64).expect("64 bits fit");
        let mut own: Vec<Cidr> = Vec::new();
        for &cidr in addresses.iter().chain([&link_local]) {
            if own.iter().all(|other| other.address() != cidr.address()) {
                own.push(cidr);
            }
        }
        let everything = |gateway: IpAddr| {
            let all =
                if gateway.is_ipv4() { IpAddr::from(Ipv4Addr::UNSPECIFIED) } else { Ipv6Addr::UNSPECIFIED.into() };
            (Cidr::new(all, 0).expect("no bits fit"), Some(gateway))
        };
        let mut all: Vec<_> = own.iter().map(|&cidr| (cidr, None)).collect();
        all.extend(routes.iter().map(|&(cidr, gateway)| (cidr, Some(gateway))));
        all.extend(gateways.iter().map(|&gateway| everything(gateway)));
        // Stable: of two as long, what is on the link first, then as configured.
        all.sort_by_key(|(cidr, _)| std::cmp::Reverse(cidr.prefix_len()));
        let broadcasts = own.iter().filter_map(Cidr::broadcast).collect();
        Interface { addresses: own, routes: all, broadcasts, announced: None }
    }

    /// Ours, loopback not included.
    #[cfg(test)]
    pub(crate) fn addresses(&self) -> &[Cidr] {
        &self.addresses
    }

    /// Routers on the link that routes name.
    pub(crate) fn gateways(&self) -> impl Iterator<Item = IpAddr> {
        self.routes.iter().filter_map(|&(_, gateway)| gateway).chain(self.announced)
    }

    pub(crate) fn announced(&self) -> Option<IpAddr> {
        self.announced
    }

    /// A router of IPv6 announced itself, or is none any more. Says whether that changes anything.
    pub(crate) fn set_announced(&mut self, router: Option<IpAddr>) -> bool {
        let has_gateway = self
            .routes
            .iter()
            .any(|(cidr, gateway)| gateway.is_some() && cidr.prefix_len() == 0 && cidr.address().is_ipv6());
        let changes = !has_gateway && self.announced != router;
        if changes {
            self.announced = router;
        }
        changes
    }

    pub(crate) fn is_own(&self, ip: IpAddr) -> bool {
        ip.is_loopback() || self.addresses.iter().any(|own| own.address() == ip)
    }

    pub(crate) fn kind(&self, ip: IpAddr) -> Kind {
        if self.is_own(ip) {
            return Kind::Own;
        }
        let is_group = match ip {
            IpAddr::V4(ip) => ip.is_broadcast() || ip.is_multicast() || self.broadcasts.contains(&ip),
            IpAddr::V6(ip) => ip.is_multicast(),
        };
        if is_group { Kind::Group } else { Kind::Other }
    }

    /// Whether we listen to a group: everybody's, and the solicited-node groups of our addresses (RFC 1112 §4, RFC 4291
    /// §2.8). Nobody can join others yet.
    pub(crate) fn is_member(&self, group: IpAddr) -> bool {
        match group {
            IpAddr::V4(ip) if ip.is_multicast() => ip == Ipv4Addr::new(224, 0, 0, 1),
            IpAddr::V4(ip) => ip.is_broadcast() || self.broadcasts.contains(&ip),
            IpAddr::V6(ip) => {
                ip == ALL_NODES
                    || ip == INTERFACE_LOCAL_NODES
                    || self.addresses.iter().any(|own| match own.address() {
                        IpAddr::V6(own) => solicited_node(own) == ip,
                        IpAddr::V4(_) => false,
                    })
            }
        }
    }

    /// Whether a neighbour can have it: it is in a prefix of the link.
    pub(crate) fn is_on_link(&self, ip: IpAddr) -> bool {
        self.addresses.iter().any(|own| own.contains(ip))
    }

    /// RFC 1122 §3.3.1.1: the route of the longest prefix decides.
    pub(crate) fn way(&self, destination: IpAddr) -> Result<Way, Error> {
        match self.kind(destination) {
            Kind::Own => Ok(Way::Looped),
            Kind::Group => Ok(Way::Group(group_mac(destination))),
            Kind::Other if destination.is_unspecified() => Err(Error::NetworkUnreachable),
            Kind::Other => {
                let route = self.routes.iter().find(|(cidr, _)| cidr.contains(destination));
                let announced = self.announced.filter(|_| destination.is_ipv6()).map(Some);
                let gateway = route.map(|&(_, gateway)| gateway).or(announced).ok_or(Error::NetworkUnreachable)?;
                Ok(Way::Via(gateway.unwrap_or(destination)))
            }
        }
    }

    /// RFC 6724 §5 in the little that matters on one interface: the destination itself (rule 1), its scope (rule 2), the
    /// network that the packet leaves by, the longest common prefix (rule 8). RFC 1122 §3.3.4.3 for IPv4.
    pub(crate) fn source_for(&self, destination: IpAddr) -> Result<IpAddr, Error> {
        if destination.is_loopback() {
            return Ok(match destination {
                IpAddr::V4(_) => Ipv4Addr::LOCALHOST.into(),
                IpAddr::V6(_) => Ipv6Addr::LOCALHOST.into(),
            });
        }
        let hop = match self.way(destination)? {
            Way::Looped => return Ok(destination),
            Way::Via(hop) => hop,
            Way::Group(_) => destination,
        };
        let is_local = |ip: IpAddr| matches!(ip, IpAddr::V6(ip) if is_link_local(ip));
        let fits = |own: &&Cidr| {
            let ip = own.address();
            ip.is_ipv4() == destination.is_ipv4() && is_local(ip) == is_local(destination)
        };
        let merit =
            |own: &Cidr| (own.contains(destination), own.contains(hop), common_bits(own.address(), destination));
        // The first of the best: `max_by_key` would take the last one.
        let best = self.addresses.iter().rev().filter(fits).max_by_key(|own| merit(own));
        best.map(|own| own.address()).ok_or(Error::NetworkUnreachable)
    }

    /// Broadcast addresses of our networks.
    pub(crate) fn broadcasts(&self) -> &[Ipv4Addr] {
        &self.broadcasts
    }

    /// Addresses of IPv4 and IPv6 that receiving compares with first.
    pub(crate) fn first(&self) -> (Option<Ipv4Addr>, Option<Ipv6Addr>) {
        let mut first = (None, None);
        for own in &self.addresses {
            match own.address() {
                IpAddr::V4(ip) => first.0 = first.0.or(Some(ip)),
                IpAddr::V6(ip) => first.1 = first.1.or(Some(ip)),
            }
        }
        first
    }

    pub(crate) fn ipv4(&self) -> SmallVec<[Ipv4Addr; 4]> {
        let v4 = |own: &Cidr| if let IpAddr::V4(ip) = own.address() { Some(ip) } else { None };
        self.addresses.iter().filter_map(v4).collect()
    }

    pub(crate) fn ipv6(&self) -> SmallVec<[Ipv6Addr; 4]> {
        let v6 = |own: &Cidr| if let IpAddr::V6(ip) = own.address() { Some(ip) } else { None };
        self.addresses.iter().filter_map(v6).collect()
    }
}

/// ff02::1, everybody on the link.
pub(crate) const ALL_NODES: Ipv6Addr = Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, 0, 1);
/// ff02::2, all routers.
pub(crate) const ALL_ROUTERS: Ipv6Addr = Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, 0, 2);
const INTERFACE_LOCAL_NODES: Ipv6Addr = Ipv6Addr::new(0xff01, 0, 0, 0, 0, 0, 0, 1);

/// RFC 4291 Appendix A: fe80::/64 and the interface's modified EUI-64.
pub(crate) fn link_local_of(Mac([a, b, c, d, e, f]): Mac) -> Ipv6Addr {
    Ipv6Addr::from([0xfe, 0x80, 0, 0, 0, 0, 0, 0, a ^ 2, b, c, 0xff, 0xfe, d, e, f])
}

/// RFC 4291 §2.7.1: the group in which who has an address is asked for it.
pub(crate) fn solicited_node(ip: Ipv6Addr) -> Ipv6Addr {
    let [.., a, b, c] = ip.octets();
    Ipv6Addr::from([0xff, 2, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1, 0xff, a, b, c])
}

/// RFC 1112 §6.4, RFC 2464 §7; broadcast addresses go to everybody.
pub(crate) fn group_mac(group: IpAddr) -> Mac {
    match group {
        IpAddr::V4(ip) if ip.is_multicast() => {
            let [_, b, c, d] = ip.octets();
            Mac([0x01, 0x00, 0x5e, b & 0x7f, c, d])
        }
        IpAddr::V4(_) => Mac::BROADCAST,
        IpAddr::V6(ip) => {
            let [.., a, b, c, d] = ip.octets();
            Mac([0x33, 0x33, a, b, c, d])
        }
    }
}

#[cfg(test)]
mod tests;
