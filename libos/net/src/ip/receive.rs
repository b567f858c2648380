//! Receiving: what a frame carries, checked before anybody believes it.
//!
//! The short way is a packet without options or extensions to the first address of its family: one comparison each for
//! what can be wrong, no hash, no allocation. All else, and all that is wrong, goes the long way, which counts.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use pdpix::{Buf, Instant};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

use super::icmp::Unreachable;
use super::interface::Kind;
use super::{Ip, Notice};
use crate::device::Received;
use crate::wire::{
    Checksum, ETHERNET_LEN, Ecn, EtherType, EthernetHeader, IPV4_LEN, IPV6_LEN, Ipv4Header, Ipv6Header, Protocol,
};

/// A packet for a transport.
#[derive(Debug)]
pub(crate) struct Packet {
    pub source: IpAddr,
    pub destination: IpAddr,
    pub ecn: Ecn,
    /// To a multicast group or to everybody.
    pub group: bool,
    /// Its checksums are known to be right.
    pub verified: bool,
    /// From the IP header on, padding cut off.
    whole: Buf,
    transport_at: u32,
    /// Put together of fragments.
    joined: bool,
}

impl Packet {
    /// The transport's header and what follows.
    #[inline]
    pub(crate) fn data(&self) -> &[u8] {
        &self.whole[self.transport_at as usize..]
    }

    /// The same, as a buffer that shares the frame's memory.
    #[inline]
    pub(crate) fn into_data(self) -> Buf {
        let mut data = self.whole;
        data.advance(self.transport_at as usize);
        data
    }

    /// From the IP header on, as errors quote it.
    pub(super) fn whole(&self) -> &[u8] {
        &self.whole
    }

    pub(super) fn whole_buf(&self) -> &Buf {
        &self.whole
    }

    /// Where [`Packet::data`] begins in it.
    pub(super) fn transport_at(&self) -> usize {
        self.transport_at as usize
    }

    /// A header of the chain was dealt with. There are as many bytes.
    pub(super) fn skip(&mut self, len: usize) {
        self.transport_at += len as u32;
    }

    pub(super) fn is_joined(&self) -> bool {
        self.joined
    }

    /// The packet whose first fragment this was, in memory of its own: an IP header, and the transport's from
    /// `transport_at` on.
    pub(super) fn join(&self, whole: Buf, transport_at: usize, ecn: Ecn) -> Packet {
        let (source, destination, group) = (self.source, self.destination, self.group);
        let transport_at = transport_at as u32;
        Packet { source, destination, ecn, group, verified: false, whole, transport_at, joined: true }
    }
}

/// A packet without anything special, where it lies in its frame: the transport's part is from `start` to `end`.
pub(crate) struct Plain {
    pub source: IpAddr,
    pub destination: IpAddr,
    pub protocol: Protocol,
    ecn: Ecn,
    pub start: usize,
    pub end: usize,
}

/// What a frame was.
#[derive(Debug)]
pub(crate) enum Inbound {
    Tcp(Packet),
    Udp(Packet),
    /// An error about something that we sent.
    Notice(Notice),
    /// Nothing for transports.
    Taken,
}

impl Ip {
    /// Takes a frame in.
    #[inline]
    pub(crate) fn receive(&mut self, frame: Received, now: Instant) -> Inbound {
        let Received { buf, verified } = frame;
        let Some(plain) = self.plain(&buf, verified) else {
            return self.receive_slowly(Received { buf, verified }, now);
        };
        let packet = Packet {
            source: plain.source,
            destination: plain.destination,
            ecn: plain.ecn,
            group: false,
            verified,
            whole: within(buf, plain.end - ETHERNET_LEN),
            transport_at: (plain.start - ETHERNET_LEN) as u32,
            joined: false,
        };
        self.dispatch(plain.protocol, packet, now)
    }

    /// The packet in a frame, if it has nothing that the long way would do anything about.
    #[inline(always)]
    pub(crate) fn plain(&self, frame: &[u8], verified: bool) -> Option<Plain> {
        if let Ok((plain, _)) = PlainV4::ref_from_prefix(frame)
            && self.is_plain_v4(plain, frame.len(), verified)
        {
            let ip = &plain.ip;
            return Some(Plain {
                source: Ipv4Addr::from(ip.source).into(),
                destination: Ipv4Addr::from(ip.destination).into(),
                protocol: ip.protocol,
                ecn: Ecn::from_bits(ip.traffic_class),
                start: ETHERNET_LEN + IPV4_LEN,
                end: ETHERNET_LEN + usize::from(ip.total_len.get()),
            });
        }
        let (plain, _) = PlainV6::ref_from_prefix(frame).ok()?;
        let ip = &plain.ip;
        let start = ETHERNET_LEN + IPV6_LEN;
        self.is_plain_v6(plain, frame.len()).then(|| Plain {
            source: Ipv6Addr::from(ip.source).into(),
            destination: Ipv6Addr::from(ip.destination).into(),
            protocol: ip.next_header,
            ecn: Ecn::from_bits(ip.traffic_class()),
            start,
            end: start + usize::from(ip.payload_len.get()),
        })
    }

    /// Whether a frame has nothing that the long way would do anything about: a packet of IPv4 without options, whole, to
    /// our only address, from somebody who can have sent it.
    #[inline(always)]
    pub(crate) fn is_plain_v4(&self, frame: &PlainV4, frame_len: usize, verified: bool) -> bool {
        let (ethernet, ip) = (&frame.ethernet, &frame.ip);
        let total_len = usize::from(ip.total_len.get());
        let in_parts = Ipv4Header::MORE_FRAGMENTS | Ipv4Header::FRAGMENT_OFFSET;
        let first = ip.source[0];
        ethernet.ethertype == EtherType::IPV4
            && ip.version_ihl == 0x45
            && ethernet.destination == self.link.mac
            && ip.destination == self.first_v4
            && ip.flags_fragment.get() & in_parts == 0
            && (IPV4_LEN..=frame_len - ETHERNET_LEN).contains(&total_len)
            && first.wrapping_sub(1) < 223
            && first != 127
            && ip.source != self.first_v4
            && ip.source != self.broadcast_v4.octets()
            && self.has_one_v4
            && (verified || Checksum::new().add(ip.as_bytes()).is_right())
    }

    /// The same of IPv6: from a global or unique local address (2000::/3, fc00::/7), to our first address.
    #[inline(always)]
    fn is_plain_v6(&self, frame: &PlainV6, frame_len: usize) -> bool {
        let (ethernet, ip) = (&frame.ethernet, &frame.ip);
        ethernet.ethertype == EtherType::IPV6
            && ip.version_class_flow.get() >> 28 == 6
            && ethernet.destination == self.link.mac
            && ip.destination == self.first_v6
            && usize::from(ip.payload_len.get()) <= frame_len - ETHERNET_LEN - IPV6_LEN
            && (ip.source[0] >> 5 == 1 || ip.source[0] >> 1 == 0x7e)
            && ip.source != self.first_v6
    }

    /// Takes a frame in that has something special, or is wrong.
    #[inline(never)]
    fn receive_slowly(&mut self, frame: Received, now: Instant) -> Inbound {
        let Ok((ethernet, _)) = EthernetHeader::ref_from_prefix(&frame.buf) else {
            self.counters.ethernet_short += 1;
            return Inbound::Taken;
        };
        let is_group = ethernet.destination != self.link.mac;
        if is_group && !ethernet.destination.is_group() {
            self.counters.ethernet_not_ours += 1;
            return Inbound::Taken;
        }
        match ethernet.ethertype {
            EtherType::IPV4 => self.receive_v4(frame, Link { is_group, is_looped: false }, now),
            EtherType::IPV6 => self.receive_v6(frame, Link { is_group, is_looped: false }, now),
            EtherType::ARP => self.receive_arp(&frame.buf, now),
            _ => {
                self.counters.ethernet_protocol += 1;
                Inbound::Taken
            }
        }
    }

    /// A packet that we sent to ourselves.
    pub(super) fn receive_from_ourselves(&mut self, frame: Received, now: Instant) -> Inbound {
        let link = Link { is_group: false, is_looped: true };
        match EthernetHeader::ref_from_prefix(&frame.buf) {
            Ok((ethernet, _)) if ethernet.ethertype == EtherType::IPV4 => self.receive_v4(frame, link, now),
            _ => self.receive_v6(frame, link, now),
        }
    }

    fn receive_v4(&mut self, frame: Received, link: Link, now: Instant) -> Inbound {
        let Received { mut buf, verified } = frame;
        buf.advance(ETHERNET_LEN);
        let Ok((header, _)) = Ipv4Header::ref_from_prefix(&buf) else { return self.malformed_v4() };
        let (header_len, total_len) = (header.header_len(), usize::from(header.total_len.get()));
        // RFC 1122 §3.2.1.1: of another version, discarded.
        if header.version_ihl >> 4 != 4 || header_len < IPV4_LEN || total_len < header_len || total_len > buf.len() {
            return self.malformed_v4();
        }
        // RFC 1122 §3.2.1.2. Options are skipped (§3.2.1.8: source routes are not followed by hosts).
        if !verified && !Checksum::new().add(&buf[..header_len]).is_right() {
            self.counters.ipv4_checksum += 1;
            return Inbound::Taken;
        }
        let (source, destination) = (Ipv4Addr::from(header.source), Ipv4Addr::from(header.destination));
        let (protocol, fragment) = (header.protocol, header.flags_fragment.get());
        let ecn = Ecn::from_bits(header.traffic_class);
        let Some(group) = self.admit(source.into(), destination.into(), link) else { return Inbound::Taken };
        // RFC 1122 §3.3.2: padding is cut off here.
        buf.truncate(total_len);
        let packet = Packet {
            source: source.into(),
            destination: destination.into(),
            ecn,
            group,
            verified,
            whole: buf,
            transport_at: header_len as u32,
            joined: false,
        };
        if fragment & (Ipv4Header::MORE_FRAGMENTS | Ipv4Header::FRAGMENT_OFFSET) != 0 {
            return self.on_fragment_v4(packet, protocol, now);
        }
        self.dispatch(protocol, packet, now)
    }

    fn receive_v6(&mut self, frame: Received, link: Link, now: Instant) -> Inbound {
        let Received { mut buf, verified } = frame;
        buf.advance(ETHERNET_LEN);
        let Ok((header, rest)) = Ipv6Header::ref_from_prefix(&buf) else { return self.malformed_v6() };
        let payload_len = usize::from(header.payload_len.get());
        if header.version_class_flow.get() >> 28 != 6 || payload_len > rest.len() {
            return self.malformed_v6();
        }
        let (source, destination) = (Ipv6Addr::from(header.source), Ipv6Addr::from(header.destination));
        let (protocol, ecn) = (header.next_header, Ecn::from_bits(header.traffic_class()));
        let Some(group) = self.admit(source.into(), destination.into(), link) else { return Inbound::Taken };
        buf.truncate(IPV6_LEN + payload_len);
        let packet = Packet {
            source: source.into(),
            destination: destination.into(),
            ecn,
            group,
            verified,
            whole: buf,
            transport_at: IPV6_LEN as u32,
            joined: false,
        };
        self.dispatch(protocol, packet, now)
    }

    /// Whether a packet that is not simply for our first address is for us, and whether it is a group's.
    fn admit(&mut self, source: IpAddr, destination: IpAddr, link: Link) -> Option<bool> {
        let is_v4 = source.is_ipv4();
        // RFC 1122 §3.2.1.3, RFC 4291 §2.5.2, §2.5.3, §2.7: no group, no broadcast, no loopback, not this network; and nobody
        // else has our addresses. Nobody at all only while detecting duplicates of IPv6.
        let is_wrong_source = !link.is_looped
            && match source {
                IpAddr::V4(ip) if ip.octets()[0] == 0 || ip.octets()[0] >= 224 => true,
                IpAddr::V6(ip) if ip.is_unspecified() => false,
                IpAddr::V6(ip) if ip.to_ipv4_mapped().is_some() => true,
                ip => self.interface.kind(ip) != Kind::Other,
            };
        if is_wrong_source {
            *(if is_v4 { &mut self.counters.ipv4_source } else { &mut self.counters.ipv6_source }) += 1;
            return None;
        }
        let group = match self.interface.kind(destination) {
            Kind::Own if destination.is_loopback() && !link.is_looped => None,
            // RFC 1122 §3.3.6: what is for one does not come in a frame for all.
            Kind::Own if link.is_group => {
                self.counters.ip_group_frame += 1;
                return None;
            }
            Kind::Own => Some(false),
            Kind::Group if self.interface.is_member(destination) => Some(true),
            Kind::Group | Kind::Other => None,
        };
        if group.is_none() {
            *(if is_v4 { &mut self.counters.ipv4_not_ours } else { &mut self.counters.ipv6_not_ours }) += 1;
        }
        group
    }

    /// To whom it belongs.
    #[inline]
    pub(super) fn dispatch(&mut self, protocol: Protocol, packet: Packet, now: Instant) -> Inbound {
        match protocol {
            Protocol::TCP => Inbound::Tcp(packet),
            Protocol::UDP => Inbound::Udp(packet),
            _ => self.dispatch_rest(protocol, packet, now),
        }
    }

    #[inline(never)]
    fn dispatch_rest(&mut self, protocol: Protocol, packet: Packet, now: Instant) -> Inbound {
        match packet.source {
            IpAddr::V4(_) if protocol == Protocol::ICMP => return self.on_icmp_v4(packet, now),
            IpAddr::V4(_) => {
                self.counters.ip_protocol += 1;
                self.send_unreachable(&packet, Unreachable::Protocol { at: 9 }, now);
            }
            IpAddr::V6(_) if protocol == Protocol::ICMPV6 => return self.on_icmp_v6(packet, now),
            IpAddr::V6(_) => return self.follow(protocol, packet, now),
        }
        Inbound::Taken
    }

    #[cold]
    fn malformed_v4(&mut self) -> Inbound {
        self.counters.ipv4_malformed += 1;
        Inbound::Taken
    }

    #[cold]
    fn malformed_v6(&mut self) -> Inbound {
        self.counters.ipv6_malformed += 1;
        Inbound::Taken
    }
}

/// A packet in its frame, without options.
#[derive(FromBytes, KnownLayout, Immutable, Unaligned)]
#[repr(C)]
pub(crate) struct PlainV4 {
    pub(crate) ethernet: EthernetHeader,
    pub(crate) ip: Ipv4Header,
}

/// The same of IPv6.
#[derive(FromBytes, KnownLayout, Immutable, Unaligned)]
#[repr(C)]
struct PlainV6 {
    ethernet: EthernetHeader,
    ip: Ipv6Header,
}

/// The packet of `len` bytes in a frame: padding is cut off here.
#[inline(always)]
fn within(mut frame: Buf, len: usize) -> Buf {
    frame.advance(ETHERNET_LEN);
    frame.truncate(len);
    frame
}

/// How a packet came.
#[derive(Clone, Copy)]
struct Link {
    /// In a frame to a group.
    is_group: bool,
    /// Not over the wire at all.
    is_looped: bool,
}
