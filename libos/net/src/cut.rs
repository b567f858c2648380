//! A long TCP segment is cut up: which headers its parts have.
//!
//! Each part repeats the headers. It differs in its lengths, its sequence number, the number of its IPv4 packet (counted up),
//! and in flags: FIN and PSH are on the last one only, CWR on the first (RFC 3168 §6.1.2: it is said once).
//! Pure. This is what a network card, or the kernel, does with a frame that has a [`segment_size`](crate::Frame::segment_size).

use std::net::IpAddr;
use std::ops::Range;

use zerocopy::FromBytes;

use crate::device::ChecksumAt;
use crate::wire::{
    Checksum, ETHERNET_LEN, EtherType, EthernetHeader, Flags, IPV4_LEN, IPV6_LEN, Ipv4Header, Ipv6Header, Protocol,
    TCP_LEN, TcpHeader, pseudo_header,
};

/// Where the checksum is in a TCP header.
const CHECKSUM_FIELD: u16 = 16;

/// A long segment, to be cut up.
#[derive(Clone, Copy, Debug)]
pub struct Cut<'a> {
    /// Ethernet, IP and TCP headers.
    head: &'a [u8],
    /// Where the TCP header begins.
    tcp: usize,
    payload_len: usize,
    segment_size: usize,
}

impl<'a> Cut<'a> {
    /// A frame of `frame_len` bytes, of which `bytes` are at least the headers, in parts of `segment_size` bytes of payload.
    /// `None`: it is no TCP segment. Its lengths and sums are not looked at.
    pub fn new(bytes: &'a [u8], frame_len: usize, segment_size: usize) -> Option<Cut<'a>> {
        let (ethernet, rest) = EthernetHeader::ref_from_prefix(bytes).ok()?;
        let (ip_len, protocol) = match ethernet.ethertype {
            EtherType::IPV4 => {
                let (ip, _) = Ipv4Header::ref_from_prefix(rest).ok()?;
                (ip.header_len(), ip.protocol)
            }
            EtherType::IPV6 => (IPV6_LEN, Ipv6Header::ref_from_prefix(rest).ok()?.0.next_header),
            _ => return None,
        };
        let tcp = ETHERNET_LEN + ip_len;
        let (header, _) = TcpHeader::ref_from_prefix(bytes.get(tcp..)?).ok()?;
        let head_len = tcp + header.header_len();
        let is_whole = ip_len >= IPV4_LEN && header.header_len() >= TCP_LEN && protocol == Protocol::TCP;
        let payload_len = frame_len.checked_sub(head_len).filter(|_| is_whole && segment_size > 0)?;
        Some(Cut { head: bytes.get(..head_len)?, tcp, payload_len, segment_size })
    }

    pub(crate) fn flags(&self) -> Flags {
        TcpHeader::ref_from_prefix(&self.head[self.tcp..]).map_or(Flags(0), |(header, _)| header.flags)
    }

    /// Bytes of the headers.
    pub fn head_len(&self) -> usize {
        self.head.len()
    }

    /// How many parts there are.
    pub fn parts(&self) -> usize {
        self.payload_len.div_ceil(self.segment_size).max(1)
    }

    /// Which bytes of the payload a part has.
    pub fn payload(&self, part: usize) -> Range<usize> {
        let start = part * self.segment_size;
        start..(start + self.segment_size).min(self.payload_len)
    }

    /// Writes a part's headers. Its checksum is left to be filled in: the field holds the sum of the pseudo header.
    ///
    /// # Panics
    /// If `into` is not as long as the headers.
    pub fn write_head(&self, part: usize, into: &mut [u8]) -> ChecksumAt {
        into.copy_from_slice(self.head);
        let payload = self.payload(part);
        let transport_len = self.head.len() - self.tcp + payload.len();
        let [source, destination] = self.write_ip(&mut into[ETHERNET_LEN..self.tcp], part, transport_len);
        if let Ok((tcp, _)) = TcpHeader::mut_from_prefix(&mut into[self.tcp..]) {
            tcp.sequence.set(tcp.sequence.get().wrapping_add(payload.start as u32));
            if part + 1 < self.parts() {
                tcp.flags.0 &= !(Flags::FIN.0 | Flags::PSH.0);
            }
            if part > 0 {
                tcp.flags.0 &= !Flags::CWR.0;
            }
            tcp.checksum.set(pseudo_header(source, destination, Protocol::TCP, transport_len).partial());
        }
        ChecksumAt { start: self.tcp as u16, field: CHECKSUM_FIELD }
    }

    /// The lengths, the number and the sum of the IP header. Gives its addresses.
    fn write_ip(&self, header: &mut [u8], part: usize, transport_len: usize) -> [IpAddr; 2] {
        let ip_len = header.len();
        if header[0] >> 4 == 4
            && let Ok((ip, _)) = Ipv4Header::mut_from_prefix(header)
        {
            ip.total_len.set((ip_len + transport_len) as u16);
            ip.identification.set(ip.identification.get().wrapping_add(part as u16));
            ip.checksum.set(0);
            let addresses = [ip.source.into(), ip.destination.into()];
            let sum = Checksum::new().add(header).finish();
            header[10..12].copy_from_slice(&sum.to_be_bytes());
            return addresses;
        }
        match Ipv6Header::mut_from_prefix(header) {
            Ok((ip, _)) => {
                ip.payload_len.set(transport_len as u16);
                [ip.source.into(), ip.destination.into()]
            }
            Err(_) => unreachable!("`new` has seen that the header is there"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const FLAGS: Flags = Flags(Flags::ACK.0 | Flags::FIN.0 | Flags::PSH.0 | Flags::CWR.0 | Flags::ECE.0);

    /// The headers of a segment with an option of four bytes.
    fn head(ipv6: bool) -> Vec<u8> {
        let mut bytes = vec![2, 0, 0, 0, 0, 2, 2, 0, 0, 0, 0, 1];
        bytes.extend(if ipv6 { [0x86, 0xdd] } else { [8, 0] });
        if ipv6 {
            bytes.extend([0x60, 0x20, 0, 0, 0xaa, 0xaa, 6, 64]);
            bytes.extend([0xfd; 16]);
            bytes.extend([0xfe; 16]);
        } else {
            bytes.extend([0x45, 2, 0xaa, 0xaa, 0xff, 0xff, 0x40, 0, 64, 6, 0xaa, 0xaa, 10, 0, 0, 1, 10, 0, 0, 2]);
        }
        bytes.extend([0, 7, 0, 9, 0xff, 0xff, 0xff, 0xf0, 1, 2, 3, 4, 0x60, FLAGS.0, 0x12, 0x34, 0xaa, 0xaa, 0, 0]);
        bytes.extend([1, 1, 1, 1]);
        bytes
    }

    #[test]
    fn each_part_has_the_headers_that_it_would_have_had_by_itself() {
        let payload: Vec<u8> = (0..=255).cycle().take(2501).collect();
        for ipv6 in [false, true] {
            let head = head(ipv6);
            let cut = Cut::new(&head, head.len() + payload.len(), 1000).unwrap();
            let tcp = head.len() - 24;
            assert_eq!((cut.head_len(), cut.parts()), (head.len(), 3));
            let mut next = 0;
            for part in 0..3 {
                let range = cut.payload(part);
                assert_eq!(range.start, next);
                next = range.end;
                let mut bytes = vec![0; head.len()];
                assert_eq!(cut.write_head(part, &mut bytes), ChecksumAt { start: tcp as u16, field: 16 });
                let transport_len = 24 + range.len();
                let addresses: [IpAddr; 2] = if ipv6 {
                    let (ip, _) = Ipv6Header::ref_from_prefix(&bytes[14..]).unwrap();
                    assert_eq!(ip.payload_len.get() as usize, transport_len);
                    assert_eq!(bytes[14..18], head[14..18], "class and flow");
                    [ip.source.into(), ip.destination.into()]
                } else {
                    let (ip, _) = Ipv4Header::ref_from_prefix(&bytes[14..]).unwrap();
                    assert_eq!(ip.total_len.get() as usize, 20 + transport_len);
                    assert_eq!(ip.identification.get(), [0xffff, 0, 1][part]);
                    assert!(Checksum::new().add(&bytes[14..34]).is_right(), "the sum of the IP header");
                    assert_eq!((bytes[15], &bytes[20..24]), (2, &head[20..24]), "class, flags, hops and protocol");
                    [ip.source.into(), ip.destination.into()]
                };
                let (header, options) = TcpHeader::ref_from_prefix(&bytes[tcp..]).unwrap();
                assert_eq!(header.sequence.get(), 0xffff_fff0u32.wrapping_add(1000 * part as u32));
                let first = Flags::ACK.0 | Flags::ECE.0 | Flags::CWR.0;
                let middle = Flags::ACK.0 | Flags::ECE.0;
                assert_eq!(header.flags.0, [first, middle, middle | Flags::FIN.0 | Flags::PSH.0][part]);
                assert_eq!(bytes[tcp + 8..tcp + 13], head[tcp + 8..tcp + 13], "what it acknowledges, and its length");
                assert_eq!((header.window.get(), options), (0x1234, &[1, 1, 1, 1][..]));
                // Filled in as a device does it, the sum is right.
                bytes.extend(&payload[range]);
                let sum = Checksum::new().add(&bytes[tcp..]).finish();
                bytes[tcp + 16..tcp + 18].copy_from_slice(&sum.to_be_bytes());
                let pseudo = pseudo_header(addresses[0], addresses[1], Protocol::TCP, transport_len);
                assert!(pseudo.add(&bytes[tcp..]).is_right(), "{ipv6}, part {part}");
            }
            assert_eq!(next, payload.len());
        }
    }

    #[test]
    fn what_is_no_tcp_segment_is_not_cut() {
        let whole = head(false);
        assert!(Cut::new(&whole, whole.len(), 0).is_none(), "into nothing");
        assert_eq!(Cut::new(&whole, whole.len(), 10).unwrap().parts(), 1, "no payload");
        for len in 0..whole.len() {
            assert!(Cut::new(&whole[..len], 100, 10).is_none(), "{len}");
        }
        assert!(Cut::new(&whole, whole.len() - 1, 10).is_none(), "shorter than its headers");
        for (at, value) in [(12, 9), (14, 0x44), (23, 17), (46, 0x40)] {
            let mut other = head(false);
            other[at] = value;
            assert!(Cut::new(&other, 100, 10).is_none(), "byte {at}");
        }
    }
}
