//! ARP: who has an IPv4 address (RFC 826), and who says that he has ours (RFC 5227).

use std::collections::VecDeque;
use std::net::{IpAddr, Ipv4Addr};
use std::time::Duration;

use pdpix::{Instant, Purpose};
use zerocopy::{FromBytes, IntoBytes};

use super::icmp::notice_about;
use super::neighbours::{Due, Event, Parked};
use super::{Inbound, Ip, Notice, NoticeKind};
use crate::device::Frame;
use crate::wire::{ArpPacket, ETHERNET_LEN, EtherType, EthernetHeader, Mac};

/// RFC 5227 §1.1, DEFEND_INTERVAL.
const DEFEND_INTERVAL: Duration = Duration::from_secs(10);

impl Ip {
    pub(super) fn receive_arp(&mut self, frame: &[u8], now: Instant) -> Inbound {
        // What is not about IPv4 over Ethernet is none of our business; senders that cannot be are malformed.
        let arp = ArpPacket::ref_from_prefix(&frame[ETHERNET_LEN..]).ok().map(|(arp, _)| *arp);
        match arp.filter(|arp| arp.is_known() && arp.sender_mac.is_unicast()) {
            Some(arp) if arp.sender_mac == self.link.mac => {} // our own, come back
            Some(arp) => self.on_arp(&arp, now),
            None => self.counters.arp_malformed += 1,
        }
        Inbound::Taken
    }

    fn on_arp(&mut self, arp: &ArpPacket, now: Instant) {
        let (sender, target) = (Ipv4Addr::from(arp.sender), Ipv4Addr::from(arp.target));
        let is_for_us = self.has_ipv4(target);
        if self.has_ipv4(sender) {
            return self.on_arp_conflict(sender, now);
        }
        // RFC 5227 §2.1.1: a probe, from nobody. It is answered, and teaches nothing.
        if !sender.is_unspecified() {
            if !self.interface.is_on_link(sender.into())
                || self.interface.kind(sender.into()) != super::interface::Kind::Other
            {
                return self.counters.arp_malformed += 1;
            }
            self.learn_arp(arp, sender, is_for_us, now);
        }
        if arp.operation.get() == ArpPacket::REQUEST && is_for_us && self.settings.answers {
            let answer = ArpPacket::new(ArpPacket::REPLY, (self.link.mac, arp.target), (arp.sender_mac, arp.sender));
            self.send_arp(arp.sender_mac, &answer);
        }
    }

    /// RFC 826: who is known is brought up to date; who asks for us gets an entry. Nobody else does, so that the chatter
    /// of a link, or a liar's, does not fill the table.
    fn learn_arp(&mut self, arp: &ArpPacket, sender: Ipv4Addr, is_for_us: bool, now: Instant) {
        let is_reply = arp.operation.get() == ArpPacket::REPLY;
        let is_answer = is_reply && is_for_us && self.neighbours.is_asked(sender.into());
        let event = if is_answer { Event::Answer } else { Event::Heard };
        let is_welcome = is_for_us && !is_reply;
        let mac = arp.sender_mac;
        let learned = self.neighbours.hear(sender.into(), mac, event, is_welcome, now, &mut self.rng);
        self.take_learned(mac, learned);
    }

    /// RFC 5227 §2.4(b): the address is defended by one announcement, and not again for 10 s.
    fn on_arp_conflict(&mut self, address: Ipv4Addr, now: Instant) {
        self.counters.arp_conflict += 1;
        let is_due = self.defended.is_none_or(|at| now.since(at) >= DEFEND_INTERVAL);
        if self.settings.answers && is_due {
            self.defended = Some(now);
            self.announce_arp(address);
        }
    }

    /// RFC 5227 §2.3: a request for our own address.
    pub(super) fn announce_arp(&mut self, address: Ipv4Addr) {
        let own = (self.link.mac, address.octets());
        self.send_arp(Mac::BROADCAST, &ArpPacket::new(ArpPacket::REQUEST, own, (Mac::default(), address.octets())));
    }

    /// Asks everybody, or one whom we know whether he is still there.
    pub(super) fn ask_arp(&mut self, address: Ipv4Addr, to: Option<Mac>) {
        let Ok(IpAddr::V4(source)) = self.interface.source_for(address.into()) else { return };
        let own = (self.link.mac, source.octets());
        let request = ArpPacket::new(ArpPacket::REQUEST, own, (Mac::default(), address.octets()));
        self.send_arp(to.unwrap_or(Mac::BROADCAST), &request);
    }

    fn send_arp(&mut self, to: Mac, arp: &ArpPacket) {
        let ethernet = EthernetHeader { destination: to, source: self.link.mac, ethertype: EtherType::ARP };
        self.send_answer(&[ethernet.as_bytes(), arp.as_bytes()]);
    }

    /// Queues a frame of ours, unless there are too many already.
    pub(super) fn send_answer(&mut self, parts: &[&[u8]]) {
        let len = parts.iter().map(|part| part.len()).sum();
        match self.heap.alloc_for(Purpose::Header, len) {
            Ok(mut memory) if self.has_room() => {
                parts.iter().for_each(|part| _ = memory.put(part));
                let header = memory.freeze();
                self.outbound.push_back(Frame { header, payload: pdpix::Sga::new(), checksum: None, segment_size: 0 });
            }
            _ => self.counters.answers_dropped += 1,
        }
    }

    pub(super) fn has_ipv4(&self, ip: Ipv4Addr) -> bool {
        !ip.is_loopback() && self.interface.is_own(ip.into())
    }

    /// What a neighbour's timer wants.
    pub(super) fn on_neighbour_due(&mut self, due: Due, notices: &mut Vec<Notice>) {
        match due {
            Due::Ask(ask) => self.ask(ask),
            Due::Nothing => {}
            Due::Failed(parked) => {
                self.counters.neighbour_failed += 1;
                self.new_epoch();
                self.drop_parked(&parked, notices);
            }
        }
    }

    fn drop_parked(&mut self, parked: &VecDeque<Parked>, notices: &mut Vec<Notice>) {
        self.counters.parked_dropped += parked.len() as u64;
        let about = |packet: &Parked| notice_about(&packet.header[ETHERNET_LEN..], NoticeKind::HostUnreachable);
        notices.extend(parked.iter().filter_map(about));
    }
}
