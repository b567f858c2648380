//! Neighbour discovery (RFC 4861), and what of RFC 4862 needs no router: detection of duplicate addresses.
//!
//! Always: nothing is believed that could have come over a router (hop limit 255, §7.1) or whose options do not add up.
//! Of router advertisements we take one thing: if no gateway of IPv6 is configured, the first router that offers itself is
//! the gateway, for as long as it says. Prefixes, MTUs and timers in them are ignored, and so are redirects: addresses and
//! routes are configuration.

use std::net::{IpAddr, Ipv6Addr};
use std::time::Duration;

use pdpix::{Instant, Sga};
use zerocopy::byteorder::network_endian::{U16, U32};
use zerocopy::{FromBytes, IntoBytes};

use super::cidr::is_link_local;
use super::interface::{ALL_NODES, ALL_ROUTERS, group_mac, solicited_node};
use super::neighbours::Event;
use super::{Ip, Packet};
use crate::wire::{
    ETHERNET_LEN, Ecn, EtherType, EthernetHeader, IcmpHeader, Ipv6Header, LinkAddressOption, Mac, NeighbourMessage,
    Protocol, RouterAdvertisement, SOURCE_LINK_ADDRESS, TARGET_LINK_ADDRESS, icmpv6, pseudo_header,
};

/// RFC 4861 §7.1: what crossed a router has less.
const HOP_LIMIT: u8 = 255;
/// Where an IPv6 header has it.
const HOP_LIMIT_AT: usize = 7;

impl Ip {
    pub(super) fn on_ndp(&mut self, packet: &Packet, kind: u8, now: Instant) {
        let has_come_far = packet.whole()[HOP_LIMIT_AT] != HOP_LIMIT;
        let code = packet.data()[1];
        let understood = match kind {
            _ if has_come_far || code != 0 => None,
            icmpv6::NEIGHBOUR_SOLICITATION => self.on_solicitation(packet, now),
            icmpv6::NEIGHBOUR_ADVERTISEMENT => self.on_advertisement(packet, now),
            _ => self.on_router(packet, now),
        };
        if understood.is_none() {
            self.counters.ndp_malformed += 1;
        }
    }

    /// §7.1.1, §7.2.3. `None`: to be dropped.
    fn on_solicitation(&mut self, packet: &Packet, now: Instant) -> Option<()> {
        let (message, options) = NeighbourMessage::ref_from_prefix(packet.data()).ok()?;
        let target = Ipv6Addr::from(message.target);
        let mac = LinkAddressOption::find(options, SOURCE_LINK_ADDRESS).ok()?;
        let IpAddr::V6(source) = packet.source else { return None };
        let is_detection = source.is_unspecified();
        let is_solicited_node = packet.destination == IpAddr::V6(solicited_node(target));
        if target.is_multicast() || is_detection && (mac.is_some() || !is_solicited_node) {
            return None;
        }
        if mac.is_some_and(|mac| !mac.is_unicast() || mac == self.link.mac) {
            return None;
        }
        if target.is_loopback() || !self.is_own(target.into()) {
            return Some(());
        }
        if is_detection {
            // RFC 4862 §5.4.3: somebody wants the address too.
            self.counters.ndp_conflict += u64::from(self.startup.is_tentative(target));
            if self.settings.answers {
                self.advertise(target, ALL_NODES, group_mac(ALL_NODES.into()), 0);
            }
            return Some(());
        }
        if let Some(mac) = mac.filter(|_| self.interface.is_on_link(packet.source)) {
            let learned = self.neighbours.hear(packet.source, mac, Event::Heard, true, now, &mut self.rng);
            self.take_learned(mac, learned);
        }
        if self.settings.answers {
            match mac.or_else(|| self.neighbours.find(packet.source).map(|(_, mac)| mac)) {
                Some(mac) => self.advertise(target, source, mac, NeighbourMessage::SOLICITED),
                None => self.advertise_to_stranger(target, source, now),
            }
        }
        Some(())
    }

    /// §7.1.2, §7.2.5.
    fn on_advertisement(&mut self, packet: &Packet, now: Instant) -> Option<()> {
        let (message, options) = NeighbourMessage::ref_from_prefix(packet.data()).ok()?;
        let (target, flags) = (Ipv6Addr::from(message.target), message.flags.get());
        let mac = LinkAddressOption::find(options, TARGET_LINK_ADDRESS).ok()?;
        let is_solicited = flags & NeighbourMessage::SOLICITED != 0;
        if target.is_multicast() || packet.group && is_solicited || mac.is_some_and(|mac| !mac.is_unicast()) {
            return None;
        }
        if self.is_own(target.into()) {
            // RFC 4862 §5.4.4: somebody has the address.
            self.counters.ndp_conflict += u64::from(mac != Some(self.link.mac));
            return Some(());
        }
        let target = IpAddr::from(target);
        // Without an option it speaks of the address that we know.
        let Some(mac) = mac.or_else(|| self.neighbours.find(target).map(|(_, mac)| mac)) else { return Some(()) };
        let overrides = flags & NeighbourMessage::OVERRIDE != 0;
        let event = match () {
            () if !overrides && self.neighbours.mac_differs(target, mac) => Event::Doubted,
            () if is_solicited => Event::Answer,
            () => Event::Heard,
        };
        let learned = self.neighbours.hear(target, mac, event, false, now, &mut self.rng);
        self.take_learned(mac, learned);
        Some(())
    }

    /// §6.1.2, §6.3.4.
    fn on_router(&mut self, packet: &Packet, now: Instant) -> Option<()> {
        let (message, options) = RouterAdvertisement::ref_from_prefix(packet.data()).ok()?;
        let mac = LinkAddressOption::find(options, SOURCE_LINK_ADDRESS).ok()?;
        let lifetime = message.lifetime.get();
        let IpAddr::V6(router) = packet.source else { return None };
        if !is_link_local(router) || mac.is_some_and(|mac| !mac.is_unicast()) {
            return None;
        }
        let known = self.interface.announced();
        if known.is_none_or(|known| known == packet.source) {
            let router = (lifetime > 0).then_some(packet.source);
            if self.interface.set_announced(router) {
                self.neighbours.routers = self.interface.gateways().collect();
                self.new_epoch();
            }
            if self.interface.announced().is_some() {
                self.startup.router_until(now + Duration::from_secs(lifetime.into()));
            }
        }
        if let Some(mac) = mac {
            let is_ours = self.interface.announced() == Some(packet.source);
            let learned = self.neighbours.hear(packet.source, mac, Event::Heard, is_ours, now, &mut self.rng);
            self.take_learned(mac, learned);
        }
        Some(())
    }

    /// §7.2.2: asks everybody who may have the address, or §7.3.3 one whom we know.
    pub(super) fn ask_ndp(&mut self, address: Ipv6Addr, to: Option<Mac>) {
        let Ok(IpAddr::V6(source)) = self.interface.source_for(address.into()) else { return };
        let group = solicited_node(address);
        let (mac, destination) = to.map_or_else(|| (group_mac(group.into()), group), |mac| (mac, address));
        let message = message(icmpv6::NEIGHBOUR_SOLICITATION, 0, address);
        self.send_ndp(mac, source, destination, &[message.as_bytes(), self.own_mac(SOURCE_LINK_ADDRESS).as_bytes()]);
    }

    /// RFC 4862 §5.4.2: asks for our own address, from nobody.
    pub(super) fn detect(&mut self, address: Ipv6Addr) {
        let group = solicited_node(address);
        let message = message(icmpv6::NEIGHBOUR_SOLICITATION, 0, address);
        self.send_ndp(group_mac(group.into()), Ipv6Addr::UNSPECIFIED, group, &[message.as_bytes()]);
    }

    /// §6.3.7: asks for routers.
    pub(super) fn solicit_routers(&mut self) {
        let Ok(IpAddr::V6(source)) = self.interface.source_for(ALL_ROUTERS.into()) else { return };
        let header = IcmpHeader { kind: icmpv6::ROUTER_SOLICITATION, code: 0, checksum: U16::ZERO, rest: [0; 4] };
        let mac = group_mac(ALL_ROUTERS.into());
        let own = self.own_mac(SOURCE_LINK_ADDRESS);
        self.send_ndp(mac, source, ALL_ROUTERS, &[header.as_bytes(), own.as_bytes()]);
    }

    /// §7.2.4.
    fn advertise(&mut self, target: Ipv6Addr, to: Ipv6Addr, mac: Mac, flags: u32) {
        let message = message(icmpv6::NEIGHBOUR_ADVERTISEMENT, flags | NeighbourMessage::OVERRIDE, target);
        self.send_ndp(mac, target, to, &[message.as_bytes(), self.own_mac(TARGET_LINK_ADDRESS).as_bytes()]);
    }

    /// The same, to one who has to be asked for first.
    fn advertise_to_stranger(&mut self, target: Ipv6Addr, to: Ipv6Addr, now: Instant) {
        let flags = NeighbourMessage::SOLICITED | NeighbourMessage::OVERRIDE;
        let (message, own) =
            (message(icmpv6::NEIGHBOUR_ADVERTISEMENT, flags, target), self.own_mac(TARGET_LINK_ADDRESS));
        let parts = [message.as_bytes(), own.as_bytes()];
        let len = parts.concat().len();
        let begun = self.path(target.into(), to.into()).and_then(|mut path| {
            let memory = self.begin(&mut path, Protocol::ICMPV6, Ecn::NotCapable, len, len)?;
            Ok((path, memory))
        });
        let Ok((mut path, mut memory)) = begun else { return self.counters.answers_dropped += 1 };
        memory[ETHERNET_LEN + HOP_LIMIT_AT] = HOP_LIMIT;
        parts.into_iter().for_each(|part| _ = memory.put(part));
        let sum = checksum(target, to, &parts);
        memory[path.head_len() + 2..][..2].copy_from_slice(&sum.to_be_bytes());
        self.send(&mut path, memory, Sga::new(), None, 0, now);
    }

    fn own_mac(&self, kind: u8) -> LinkAddressOption {
        LinkAddressOption { kind, len: 1, mac: self.link.mac }
    }

    fn send_ndp(&mut self, mac: Mac, source: Ipv6Addr, destination: Ipv6Addr, parts: &[&[u8]]) {
        let mut message = parts.concat();
        let sum = checksum(source, destination, parts);
        message[2..4].copy_from_slice(&sum.to_be_bytes());
        let ethernet = EthernetHeader { destination: mac, source: self.link.mac, ethertype: EtherType::IPV6 };
        let header = Ipv6Header {
            version_class_flow: (6 << 28).into(),
            payload_len: (message.len() as u16).into(),
            next_header: Protocol::ICMPV6,
            hop_limit: HOP_LIMIT,
            source: source.octets(),
            destination: destination.octets(),
        };
        self.send_answer(&[ethernet.as_bytes(), header.as_bytes(), &message]);
    }
}

fn message(kind: u8, flags: u32, target: Ipv6Addr) -> NeighbourMessage {
    NeighbourMessage { kind, code: 0, checksum: U16::ZERO, flags: U32::new(flags), target: target.octets() }
}

fn checksum(source: Ipv6Addr, destination: Ipv6Addr, parts: &[&[u8]]) -> u16 {
    let len = parts.iter().map(|part| part.len()).sum();
    let pseudo = pseudo_header(source.into(), destination.into(), Protocol::ICMPV6, len);
    pseudo.add_pieces(parts.iter().copied()).finish()
}
