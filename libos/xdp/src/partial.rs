//! Transport checksums that were never filled in.
//!
//! A kernel that sends into a veth pair leaves them to whoever carries the frame out of the host; only the sum of the pseudo
//! header is there. Sockets of the kernel's are told so beside the frame, and XDP is not. But it can be seen: the field holds
//! exactly that sum. A frame that was damaged on a real link passes for such a one no more often than for a right one, once
//! in 65,536; what is neither is left for the stack to check.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use libos_net::wire::{
    EtherType, EthernetHeader, IPV4_LEN, Ipv4Header, Ipv6Header, Protocol, TcpHeader, UdpHeader, pseudo_header,
};
use zerocopy::FromBytes;

/// Whether the frame is of TCP or UDP, and has the sum of its pseudo header where its checksum should be.
pub(crate) fn is_left_out(frame: &[u8]) -> bool {
    field_and_sum(frame).is_some_and(|(field, sum)| field == sum)
}

fn field_and_sum(frame: &[u8]) -> Option<(u16, u16)> {
    let (ethernet, rest) = EthernetHeader::ref_from_prefix(frame).ok()?;
    let (source, destination, protocol, transport): (IpAddr, IpAddr, Protocol, &[u8]) = match ethernet.ethertype {
        EtherType::IPV4 => {
            let (ip, _) = Ipv4Header::ref_from_prefix(rest).ok()?;
            let is_whole = ip.flags_fragment.get() & (Ipv4Header::MORE_FRAGMENTS | Ipv4Header::FRAGMENT_OFFSET) == 0;
            let header_len = ip.header_len();
            let is_right = is_whole && header_len >= IPV4_LEN;
            let transport = rest.get(header_len..usize::from(ip.total_len.get())).filter(|_| is_right)?;
            (Ipv4Addr::from(ip.source).into(), Ipv4Addr::from(ip.destination).into(), ip.protocol, transport)
        }
        EtherType::IPV6 => {
            let (ip, rest) = Ipv6Header::ref_from_prefix(rest).ok()?;
            let transport = rest.get(..usize::from(ip.payload_len.get()))?;
            (Ipv6Addr::from(ip.source).into(), Ipv6Addr::from(ip.destination).into(), ip.next_header, transport)
        }
        _ => return None,
    };
    let field = match protocol {
        Protocol::TCP => TcpHeader::ref_from_prefix(transport).ok()?.0.checksum.get(),
        Protocol::UDP => UdpHeader::ref_from_prefix(transport).ok()?.0.checksum.get(),
        _ => return None,
    };
    Some((field, pseudo_header(source, destination, protocol, transport.len()).partial()))
}

#[cfg(test)]
mod tests {
    use libos_net::wire::{Checksum, Mac};
    use zerocopy::IntoBytes;

    use super::*;

    /// A datagram of five bytes, padded as short frames are, and where its checksum is.
    fn frame(checksum: impl Fn(u16, &[u8]) -> u16) -> Vec<u8> {
        let (source, destination) = (Ipv4Addr::new(10, 0, 0, 1), Ipv4Addr::new(10, 0, 0, 2));
        let ethernet =
            EthernetHeader { destination: Mac::default(), source: Mac::default(), ethertype: EtherType::IPV4 };
        let ip = Ipv4Header {
            version_ihl: 0x45,
            traffic_class: 0,
            total_len: 33.into(),
            identification: 0.into(),
            flags_fragment: 0.into(),
            ttl: 64,
            protocol: Protocol::UDP,
            checksum: 0.into(),
            source: source.octets(),
            destination: destination.octets(),
        };
        let mut udp = UdpHeader { source: 1.into(), destination: 2.into(), len: 13.into(), checksum: 0.into() };
        let sum = pseudo_header(source.into(), destination.into(), Protocol::UDP, 13).partial();
        let whole = [udp.as_bytes(), b"hello"].concat();
        udp.checksum = checksum(sum, &whole).into();
        [ethernet.as_bytes(), ip.as_bytes(), udp.as_bytes(), b"hello", &[0; 13]].concat()
    }

    #[test]
    fn what_was_left_out_is_told_from_what_is_right_or_wrong() {
        assert!(is_left_out(&frame(|pseudo, _| pseudo)));
        let right = |pseudo, whole: &[u8]| Checksum::new().add_u16(pseudo).add(whole).finish();
        assert!(!is_left_out(&frame(right)), "filled in");
        assert!(!is_left_out(&frame(|pseudo, _| pseudo ^ 1)), "wrong");
        assert!(!is_left_out(&frame(|_, _| 0)), "none");
    }

    #[test]
    fn whatever_is_cut_or_changed_is_read_without_harm() {
        let whole = frame(|pseudo, _| pseudo);
        for len in 0..whole.len() {
            assert!(len >= 47 || !is_left_out(&whole[..len]), "{len}");
        }
        for at in 12..42 {
            for value in 0..=255 {
                let mut changed = whole.clone();
                changed[at] = value;
                let _ = is_left_out(&changed);
            }
        }
        let mut fragment = whole;
        fragment[20] = 0x20;
        assert!(!is_left_out(&fragment), "the checksum of a fragment is not its own");
    }
}
