//! Extension headers of IPv6 (RFC 8200 §4): skipped within bounds, refused where the RFC says so.

use pdpix::Instant;

use super::icmp::{IcmpError, Unreachable};
use super::{Inbound, Ip, Packet};
use crate::wire::{Protocol, icmpv6};

/// Extension headers in one packet. RFC 8504 §5.3 allows a limit.
const EXTENSIONS_MAX: usize = 8;
/// Options in one header (RFC 8504 §5.3 has 8 as the default for other than padding).
const OPTIONS_MAX: usize = 32;

/// Where the IP header names the next one.
const NEXT_HEADER: usize = 6;
/// Where the type of a routing header is in it, and how many segments are left.
const ROUTING_TYPE: usize = 2;
const SEGMENTS_LEFT: usize = 3;

/// What to do with a header.
enum Verdict {
    Skip,
    /// Drop the packet.
    Drop,
    /// Drop it, and tell its sender.
    Tell(IcmpError),
    /// The same, unless it went to a group.
    TellUnlessGroup(IcmpError),
}

impl Ip {
    /// Follows the chain from `next` on, whose field is at byte `named_at` of the packet.
    pub(super) fn follow(&mut self, next: Protocol, mut packet: Packet, now: Instant) -> Inbound {
        // Where the field is that named the next header: in the IP header, later at the start of the header before.
        let (mut next, mut named_at) = (next, NEXT_HEADER);
        for _ in 0..EXTENSIONS_MAX {
            let at = packet.transport_at();
            match next {
                Protocol::TCP | Protocol::UDP => return self.dispatch(next, packet, now),
                Protocol::ICMPV6 => return self.on_icmp_v6(packet, now),
                Protocol::IPV6_FRAGMENT => return self.on_fragment_v6(packet, now),
                Protocol::IPV6_NO_NEXT => return Inbound::Taken, // §4.7
                // §4.3: only at the start of the chain; elsewhere it is not recognised.
                Protocol::HOP_BY_HOP if named_at != NEXT_HEADER => break,
                Protocol::HOP_BY_HOP | Protocol::IPV6_OPTIONS | Protocol::IPV6_ROUTE => {}
                _ => break,
            }
            let data = packet.data();
            let len = data.get(1).map_or(usize::MAX, |&words| 8 * (usize::from(words) + 1));
            let Some(header) = data.get(..len) else { return self.refuse(&packet, Verdict::Drop, now) };
            let following = Protocol(header[0]);
            let verdict = if next == Protocol::IPV6_ROUTE { routing(header, at) } else { options(header, at) };
            if !matches!(verdict, Verdict::Skip) {
                return self.refuse(&packet, verdict, now);
            }
            (next, named_at) = (following, at);
            packet.skip(len);
        }
        let is_known = matches!(next, Protocol::IPV6_OPTIONS | Protocol::IPV6_ROUTE | Protocol::TCP | Protocol::UDP);
        if is_known {
            return self.refuse(&packet, Verdict::Drop, now); // the chain is too long
        }
        self.counters.ip_protocol += 1;
        self.send_unreachable(&packet, Unreachable::Protocol { at: named_at }, now);
        Inbound::Taken
    }

    fn refuse(&mut self, packet: &Packet, verdict: Verdict, now: Instant) -> Inbound {
        self.counters.ipv6_extension += 1;
        match verdict {
            Verdict::Tell(error) => self.send_error(packet, error, now),
            Verdict::TellUnlessGroup(error) if !packet.group => self.send_error(packet, error, now),
            _ => {}
        }
        Inbound::Taken
    }
}

/// RFC 8200 §4.4, RFC 5095 §3: we are no router, and type 0 is not recognised either.
fn routing(header: &[u8], at: usize) -> Verdict {
    if header[SEGMENTS_LEFT] == 0 {
        return Verdict::Skip;
    }
    Verdict::Tell(IcmpError::parameter_problem(icmpv6::ERRONEOUS_FIELD, at + ROUTING_TYPE))
}

/// RFC 8200 §4.2: we know padding; what to do with others is in the highest bits of their type.
fn options(header: &[u8], at: usize) -> Verdict {
    let mut offset = 2;
    for _ in 0..OPTIONS_MAX {
        let kind = match header.get(offset) {
            None => return Verdict::Skip,
            Some(0) => {
                offset += 1; // Pad1
                continue;
            }
            Some(&kind) => kind,
        };
        let Some(&len) = header.get(offset + 1) else { return Verdict::Drop };
        let end = offset + 2 + usize::from(len);
        if end > header.len() {
            return Verdict::Drop;
        }
        let unknown = IcmpError::parameter_problem(icmpv6::UNKNOWN_OPTION, at + offset);
        match kind >> 6 {
            0 => {}
            1 => return Verdict::Drop,
            2 => return Verdict::Tell(unknown),
            _ => return Verdict::TellUnlessGroup(unknown),
        }
        offset = end;
    }
    // RFC 8504 §5.3: so many options may be a reason to drop.
    if offset >= header.len() { Verdict::Skip } else { Verdict::Drop }
}
