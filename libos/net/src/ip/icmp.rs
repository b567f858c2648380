//! ICMP and ICMPv6: echo is answered, errors about what we sent become notices, and errors are sent (RFC 792, 1122 §3.2.2,
//! 4443).
//!
//! Always: no error about an error, about a packet to a group, about a fragment that is not the first, or to somebody who
//! is not a single host; and never more than the limit. Messages of other types are counted and ignored, redirects too.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use pdpix::{Instant, Sga};
use zerocopy::byteorder::network_endian::U16;
use zerocopy::{FromBytes, IntoBytes};

use super::path_mtu::plateau_below;
use super::{Inbound, Ip, Notice, NoticeKind, Packet};
use crate::wire::{
    Checksum, Ecn, ICMP_LEN, IPV4_LEN, IPV6_LEN, IcmpHeader, Ipv4Header, Ipv6Header, Protocol, icmpv4, icmpv6,
    pseudo_header,
};

/// RFC 1812 §4.3.2.3: an error of IPv4 has at most so many bytes, with its IP header.
const ERROR_LEN_MAX_V4: usize = 576;
/// RFC 4443 §2.4(c): the minimum MTU.
const ERROR_LEN_MAX_V6: usize = 1280;

/// Why a packet could not be delivered here.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Unreachable {
    /// Nobody is at that port.
    Port,
    /// Nobody speaks that protocol; the next header field that named it is so far in the packet.
    Protocol { at: usize },
}

/// An error to be sent.
#[derive(Clone, Copy)]
pub(super) struct IcmpError {
    pub kind: u8,
    pub code: u8,
    pub rest: [u8; 4],
}

impl IcmpError {
    pub(super) const fn new(kind: u8, code: u8) -> IcmpError {
        IcmpError { kind, code, rest: [0; 4] }
    }

    /// RFC 4443 §3.4.
    pub(super) fn parameter_problem(code: u8, pointer: usize) -> IcmpError {
        IcmpError { kind: icmpv6::PARAMETER_PROBLEM, code, rest: (pointer as u32).to_be_bytes() }
    }
}

impl Ip {
    pub(super) fn on_icmp_v4(&mut self, packet: Packet, now: Instant) -> Inbound {
        let Ok((header, _)) = IcmpHeader::ref_from_prefix(packet.data()) else {
            self.counters.icmp_malformed += 1;
            return Inbound::Taken;
        };
        let header = *header;
        // Devices that verify do not look at ICMP.
        if !Checksum::new().add(packet.data()).is_right() {
            self.counters.icmp_checksum += 1;
            return Inbound::Taken;
        }
        match header.kind {
            // RFC 1122 §3.2.2.6: echo to a group may be ignored.
            icmpv4::ECHO if !packet.group && self.settings.answers => self.echo(&packet, icmpv4::ECHO_REPLY, now),
            icmpv4::UNREACHABLE | icmpv4::TIME_EXCEEDED | icmpv4::PARAMETER_PROBLEM if !packet.group => {
                let kind = kind_v4(&header, &packet.data()[ICMP_LEN..]);
                return self.on_error(&packet, kind);
            }
            _ => self.counters.icmp_ignored += 1,
        }
        Inbound::Taken
    }

    pub(super) fn on_icmp_v6(&mut self, packet: Packet, now: Instant) -> Inbound {
        let data = packet.data();
        let Ok((header, _)) = IcmpHeader::ref_from_prefix(data) else {
            self.counters.icmp_malformed += 1;
            return Inbound::Taken;
        };
        let header = *header;
        if !pseudo_header(packet.source, packet.destination, Protocol::ICMPV6, data.len()).add(data).is_right() {
            self.counters.icmp_checksum += 1;
            return Inbound::Taken;
        }
        match header.kind {
            icmpv6::ECHO if !packet.source.is_unspecified() && self.settings.answers => {
                self.echo(&packet, icmpv6::ECHO_REPLY, now);
            }
            icmpv6::ROUTER_ADVERTISEMENT | icmpv6::NEIGHBOUR_SOLICITATION | icmpv6::NEIGHBOUR_ADVERTISEMENT => {
                self.on_ndp(&packet, header.kind, now);
            }
            icmpv6::UNREACHABLE | icmpv6::TOO_BIG | icmpv6::TIME_EXCEEDED | icmpv6::PARAMETER_PROBLEM
                if !packet.group =>
            {
                return self.on_error(&packet, kind_v6(&header));
            }
            _ => self.counters.icmp_ignored += 1,
        }
        Inbound::Taken
    }

    /// RFC 1122 §3.2.2.6, RFC 4443 §4.2: the same data back, from the address that was asked.
    fn echo(&mut self, request: &Packet, reply: u8, now: Instant) {
        if !self.echo_limit.take(now, &mut self.rng) {
            return self.counters.icmp_limited += 1;
        }
        let source = if request.group { self.source_for(request.source) } else { Ok(request.destination) };
        let data = request.data();
        let header =
            IcmpHeader { kind: reply, code: 0, checksum: U16::ZERO, rest: [data[4], data[5], data[6], data[7]] };
        let sent = source.is_ok_and(|source| self.send_icmp(source, request.source, header, &data[ICMP_LEN..], now));
        *(if sent { &mut self.counters.icmp_echoes } else { &mut self.counters.answers_dropped }) += 1;
    }

    /// One message of ours, copied together. Says whether it could be sent.
    fn send_icmp(&mut self, source: IpAddr, to: IpAddr, header: IcmpHeader, rest: &[u8], now: Instant) -> bool {
        let (len, is_v4) = (ICMP_LEN + rest.len(), to.is_ipv4());
        let protocol = if is_v4 { Protocol::ICMP } else { Protocol::ICMPV6 };
        if !self.has_room() {
            return false;
        }
        let Ok(mut path) = self.path(source, to) else { return false };
        if path.head_len() - crate::wire::ETHERNET_LEN + len > self.mtu(&mut path) {
            return false;
        }
        let Ok(mut message) = self.begin(&mut path, protocol, Ecn::NotCapable, len, len) else { return false };
        let start = message.len();
        message.put(header.as_bytes());
        message.put(rest);
        let pseudo = if is_v4 { Checksum::new() } else { pseudo_header(source, to, protocol, len) };
        let checksum = pseudo.add(&message[start..]).finish();
        message[start + 2..start + 4].copy_from_slice(&checksum.to_be_bytes());
        self.send(&mut path, message, Sga::new(), None, 0, now);
        true
    }

    /// An error about something that we are said to have sent.
    fn on_error(&mut self, packet: &Packet, kind: Option<NoticeKind>) -> Inbound {
        let quoted = &packet.data()[ICMP_LEN..];
        let about = kind.and_then(|kind| notice_about(quoted, kind));
        // It came to the address that the quoted packet went from: routers answer the sender.
        let ours = about.filter(|notice| notice.source == packet.destination && self.is_own(notice.source));
        let Some(notice) = ours else {
            self.counters.icmp_not_ours += 1;
            return Inbound::Taken;
        };
        self.counters.icmp_errors_in += 1;
        Inbound::Notice(notice)
    }

    /// Tells the sender of a packet that it could not be delivered.
    pub(crate) fn send_unreachable(&mut self, offending: &Packet, what: Unreachable, now: Instant) {
        let error = match (what, offending.source) {
            (Unreachable::Port, IpAddr::V4(_)) => IcmpError::new(icmpv4::UNREACHABLE, icmpv4::PORT),
            (Unreachable::Port, IpAddr::V6(_)) => IcmpError::new(icmpv6::UNREACHABLE, icmpv6::PORT),
            (Unreachable::Protocol { .. }, IpAddr::V4(_)) => IcmpError::new(icmpv4::UNREACHABLE, icmpv4::PROTOCOL),
            // RFC 8200 §4: a parameter problem that points at the field.
            (Unreachable::Protocol { at }, IpAddr::V6(_)) => {
                IcmpError::parameter_problem(icmpv6::UNKNOWN_NEXT_HEADER, at)
            }
        };
        self.send_error(offending, error, now);
    }

    /// Sends an error about a packet, if one may be sent about it, and there were not too many.
    pub(super) fn send_error(&mut self, offending: &Packet, error: IcmpError, now: Instant) {
        // RFC 4443 §2.4(e.3): even to a group, one that has to learn of an option that nobody knows.
        let is_for_groups = error.kind == icmpv6::PARAMETER_PROBLEM && error.code == icmpv6::UNKNOWN_OPTION;
        if offending.group && !(is_for_groups && offending.source.is_ipv6()) || !may_be_told(offending.whole()) {
            return;
        }
        if !self.error_limit.take(now, &mut self.rng) {
            return self.counters.icmp_limited += 1;
        }
        let source = if offending.group { self.source_for(offending.source) } else { Ok(offending.destination) };
        let quoted_max = match offending.source {
            IpAddr::V4(_) => ERROR_LEN_MAX_V4 - IPV4_LEN - ICMP_LEN,
            IpAddr::V6(_) => ERROR_LEN_MAX_V6 - IPV6_LEN - ICMP_LEN,
        };
        let quoted = &offending.whole()[..offending.whole().len().min(quoted_max)];
        let header = IcmpHeader { kind: error.kind, code: error.code, checksum: U16::ZERO, rest: error.rest };
        let sent = source.is_ok_and(|source| self.send_icmp(source, offending.source, header, quoted, now));
        *(if sent { &mut self.counters.icmp_errors_out } else { &mut self.counters.answers_dropped }) += 1;
    }
}

/// Whether an error may be sent about a packet, from what is in it: RFC 1122 §3.2.2, RFC 4443 §2.4(e).
fn may_be_told(packet: &[u8]) -> bool {
    if let Ok((header, _)) = Ipv4Header::ref_from_prefix(packet)
        && header.version_ihl >> 4 == 4
    {
        let is_first = header.flags_fragment.get() & Ipv4Header::FRAGMENT_OFFSET == 0;
        let kind = packet.get(header.header_len()).copied();
        // Of ICMP only queries, of which we know echo.
        return is_first && (header.protocol != Protocol::ICMP || kind == Some(icmpv4::ECHO));
    }
    let Ok((header, rest)) = Ipv6Header::ref_from_prefix(packet) else { return false };
    let source = Ipv6Addr::from(header.source);
    if source.is_unspecified() || source.is_multicast() {
        return false;
    }
    let (next, rest) = behind_extensions(header.next_header, rest);
    // Errors are types below 128; a chain that cannot be followed might carry one.
    next != Protocol::ICMPV6 || rest.first().is_some_and(|&kind| kind >= 128 && kind != icmpv6::REDIRECT)
}

/// What the chain of extension headers leads to, as far as it can be followed.
pub(super) fn behind_extensions(mut next: Protocol, mut rest: &[u8]) -> (Protocol, &[u8]) {
    while matches!(next, Protocol::HOP_BY_HOP | Protocol::IPV6_OPTIONS | Protocol::IPV6_ROUTE | Protocol::IPV6_FRAGMENT)
    {
        let &[following, words, ..] = rest else { break };
        let len = if next == Protocol::IPV6_FRAGMENT { 8 } else { 8 * (usize::from(words) + 1) };
        let Some(behind) = rest.get(len..) else { break };
        (next, rest) = (Protocol(following), behind);
    }
    (next, rest)
}

/// What an error about this IP packet says to the transport that sent it: nothing, if it is not a packet as we send them.
pub(super) fn notice_about(packet: &[u8], kind: NoticeKind) -> Option<Notice> {
    let (protocol, source, destination, rest) = match packet.first()? >> 4 {
        4 => {
            let (header, _) = Ipv4Header::ref_from_prefix(packet).ok()?;
            if header.header_len() != IPV4_LEN || header.flags_fragment.get() & Ipv4Header::FRAGMENT_OFFSET != 0 {
                return None;
            }
            let (source, destination) = (Ipv4Addr::from(header.source), Ipv4Addr::from(header.destination));
            (header.protocol, IpAddr::from(source), IpAddr::from(destination), &packet[IPV4_LEN..])
        }
        6 => {
            let (header, rest) = Ipv6Header::ref_from_prefix(packet).ok()?;
            let (source, destination) = (Ipv6Addr::from(header.source), Ipv6Addr::from(header.destination));
            (header.next_header, IpAddr::from(source), IpAddr::from(destination), rest)
        }
        _ => return None,
    };
    if !matches!(protocol, Protocol::TCP | Protocol::UDP) {
        return None;
    }
    // RFC 792: the first eight bytes are always there.
    let &[a, b, c, d, e, f, g, h] = rest.first_chunk::<8>()?;
    let ports = (u16::from_be_bytes([a, b]), u16::from_be_bytes([c, d]));
    let sequence = (protocol == Protocol::TCP).then(|| u32::from_be_bytes([e, f, g, h]));
    Some(Notice { protocol, source, destination, ports, sequence, kind })
}

/// RFC 1122 §3.2.2.1, RFC 1812 §5.2.7.1.
fn kind_v4(header: &IcmpHeader, quoted: &[u8]) -> Option<NoticeKind> {
    Some(match (header.kind, header.code) {
        (icmpv4::UNREACHABLE, 0 | 6 | 11) => NoticeKind::NetworkUnreachable,
        (icmpv4::UNREACHABLE, 1 | 5 | 7 | 8 | 12) => NoticeKind::HostUnreachable,
        (icmpv4::UNREACHABLE, icmpv4::PROTOCOL) => NoticeKind::ProtocolUnreachable,
        (icmpv4::UNREACHABLE, icmpv4::PORT) => NoticeKind::PortUnreachable,
        (icmpv4::UNREACHABLE, icmpv4::TOO_BIG) => {
            let (quoted, _) = Ipv4Header::ref_from_prefix(quoted).ok()?;
            // RFC 1191 §4: zero from a router that does not know how to say it.
            let mtu = match u16::from_be_bytes([header.rest[2], header.rest[3]]) {
                0 => plateau_below(quoted.total_len.get().into()),
                mtu => mtu.into(),
            };
            NoticeKind::TooBig { mtu }
        }
        (icmpv4::UNREACHABLE, 9 | 10 | 13 | 14 | 15) => NoticeKind::Prohibited,
        (icmpv4::TIME_EXCEEDED, _) => NoticeKind::TimeExceeded,
        (icmpv4::PARAMETER_PROBLEM, _) => NoticeKind::ParameterProblem,
        _ => return None,
    })
}

/// RFC 4443 §3.
fn kind_v6(header: &IcmpHeader) -> Option<NoticeKind> {
    Some(match (header.kind, header.code) {
        (icmpv6::UNREACHABLE, icmpv6::NO_ROUTE) => NoticeKind::NetworkUnreachable,
        (icmpv6::UNREACHABLE, icmpv6::PROHIBITED | 5 | 6) => NoticeKind::Prohibited,
        (icmpv6::UNREACHABLE, icmpv6::PORT) => NoticeKind::PortUnreachable,
        (icmpv6::UNREACHABLE, _) => NoticeKind::HostUnreachable,
        (icmpv6::TOO_BIG, _) => NoticeKind::TooBig { mtu: u32::from_be_bytes(header.rest) as usize },
        (icmpv6::TIME_EXCEEDED, _) => NoticeKind::TimeExceeded,
        (icmpv6::PARAMETER_PROBLEM, icmpv6::UNKNOWN_NEXT_HEADER) => NoticeKind::ProtocolUnreachable,
        (icmpv6::PARAMETER_PROBLEM, _) => NoticeKind::ParameterProblem,
        _ => return None,
    })
}
