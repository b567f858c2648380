//! What a card does by itself: checksums are filled in and checked, long segments cut up.

use std::net::IpAddr;

use libos_net::wire::{
    Checksum, ETHERNET_LEN, EtherType, EthernetHeader, IPV4_LEN, IPV6_LEN, Ipv4Header, Ipv6Header, Protocol, TcpHeader,
    UDP_LEN, pseudo_header,
};
use libos_net::{ChecksumAt, Cut};
use zerocopy::FromBytes;

/// The field of a UDP checksum, from the start of the header: zero there means that there is none (RFC 768).
const UDP_FIELD: u16 = 6;

/// Completes a checksum of which only the pseudo header is there.
pub(super) fn fill_checksum(bytes: &mut [u8], at: ChecksumAt) {
    let (start, field) = (usize::from(at.start), usize::from(at.start + at.field));
    let sum = Checksum::new().add(&bytes[start..]).finish();
    let sum = if sum == 0 && at.field == UDP_FIELD { 0xffff } else { sum };
    bytes[field..field + 2].copy_from_slice(&sum.to_be_bytes());
}

/// An IP packet: who sent it to whom, what it carries, where that begins and ends in the frame.
struct Ip {
    source: IpAddr,
    destination: IpAddr,
    protocol: Protocol,
    start: usize,
    end: usize,
}

/// The IP packet of a frame: no fragment, without extensions, its header right.
fn ip(bytes: &[u8]) -> Option<Ip> {
    let (ethernet, rest) = EthernetHeader::ref_from_prefix(bytes).ok()?;
    let ip = match ethernet.ethertype {
        EtherType::IPV4 => {
            let (header, _) = Ipv4Header::ref_from_prefix(rest).ok()?;
            let (len, total) = (header.header_len(), usize::from(header.total_len.get()));
            let is_fragment = header.flags_fragment.get() & !Ipv4Header::DONT_FRAGMENT != 0;
            let sum = Checksum::new().add(rest.get(..len)?);
            if len < IPV4_LEN || total < len || is_fragment || !sum.is_right() {
                return None;
            }
            Ip {
                source: header.source.into(),
                destination: header.destination.into(),
                protocol: header.protocol,
                start: ETHERNET_LEN + len,
                end: ETHERNET_LEN + total,
            }
        }
        EtherType::IPV6 => {
            let (header, _) = Ipv6Header::ref_from_prefix(rest).ok()?;
            let start = ETHERNET_LEN + IPV6_LEN;
            Ip {
                source: header.source.into(),
                destination: header.destination.into(),
                protocol: header.next_header,
                start,
                end: start + usize::from(header.payload_len.get()),
            }
        }
        _ => return None,
    };
    (ip.end <= bytes.len()).then_some(ip)
}

/// Whether a frame is a packet of TCP or UDP whose checksums are all right.
pub(super) fn is_right(bytes: &[u8]) -> bool {
    let Some(ip) = ip(bytes) else { return false };
    let transport = &bytes[ip.start..ip.end];
    let has_sum = match ip.protocol {
        Protocol::TCP => transport.len() >= size_of::<TcpHeader>(),
        Protocol::UDP => transport.len() >= UDP_LEN && transport[6..8] != [0, 0],
        _ => false,
    };
    has_sum && pseudo_header(ip.source, ip.destination, ip.protocol, transport.len()).add(transport).is_right()
}

/// A long TCP segment as frames of at most `size` bytes of payload each, with all their checksums. What is none is nothing.
pub(super) fn segments(bytes: &[u8], size: usize) -> Vec<Vec<u8>> {
    let Some(cut) = Cut::new(bytes, bytes.len(), size) else { return Vec::new() };
    let (head_len, payload) = (cut.head_len(), &bytes[cut.head_len()..]);
    let part = |index| {
        let mut frame = vec![0; head_len];
        let checksum = cut.write_head(index, &mut frame);
        frame.extend_from_slice(&payload[cut.payload(index)]);
        fill_checksum(&mut frame, checksum);
        frame
    };
    (0..cut.parts()).map(part).collect()
}

#[cfg(test)]
mod tests {
    use libos_net::wire::Flags;

    use super::*;

    /// A TCP segment with nothing right in it but its addresses and lengths.
    fn tcp(ipv6: bool, payload: &[u8]) -> (Vec<u8>, usize) {
        let mut bytes = vec![2, 0, 0, 0, 0, 2, 2, 0, 0, 0, 0, 1];
        bytes.extend(if ipv6 { [0x86, 0xdd] } else { [8, 0] });
        if ipv6 {
            bytes.extend([0x60, 0, 0, 0]);
            bytes.extend((20 + payload.len() as u16).to_be_bytes());
            bytes.extend([6, 64]);
            bytes.extend([0xfd; 32]);
        } else {
            bytes.extend([0x45, 0]);
            bytes.extend((40 + payload.len() as u16).to_be_bytes());
            bytes.extend([0xff, 0xff, 0x40, 0, 64, 6, 0, 0, 10, 0, 0, 1, 10, 0, 0, 2]);
            let sum = Checksum::new().add(&bytes[14..34]).finish();
            bytes[24..26].copy_from_slice(&sum.to_be_bytes());
        }
        let start = bytes.len();
        let flags = Flags::ACK.with(Flags::FIN).with(Flags::PSH).with(Flags::CWR);
        bytes.extend([0, 7, 0, 9, 0xff, 0xff, 0xff, 0xf0, 0, 0, 0, 1, 0x50, flags.0, 1, 0, 0, 0, 0, 0]);
        bytes.extend(payload);
        (bytes, start)
    }

    fn addresses(ipv6: bool) -> [IpAddr; 2] {
        if ipv6 { [IpAddr::from([0xfd; 16]); 2] } else { [[10, 0, 0, 1].into(), [10, 0, 0, 2].into()] }
    }

    #[test]
    fn a_checksum_that_was_filled_in_is_right_and_a_flipped_bit_is_seen() {
        for ipv6 in [false, true] {
            let (mut bytes, start) = tcp(ipv6, b"odd");
            assert!(!is_right(&bytes));
            let [source, destination] = addresses(ipv6);
            let pseudo = pseudo_header(source, destination, Protocol::TCP, bytes.len() - start).partial();
            bytes[start + 16..start + 18].copy_from_slice(&pseudo.to_be_bytes());
            fill_checksum(&mut bytes, ChecksumAt { start: start as u16, field: 16 });
            assert!(is_right(&bytes), "{ipv6}");
            let first = if ipv6 { ETHERNET_LEN + 8 } else { ETHERNET_LEN };
            for bit in first * 8..bytes.len() * 8 {
                let mut flipped = bytes.clone();
                flipped[bit / 8] ^= 1 << (bit % 8);
                assert!(!is_right(&flipped), "bit {bit}");
            }
        }
    }

    #[test]
    fn a_long_segment_is_cut_into_frames_that_are_right_and_make_the_whole() {
        let payload: Vec<u8> = (0..=255).cycle().take(2500).collect();
        for ipv6 in [false, true] {
            let (bytes, start) = tcp(ipv6, &payload);
            let frames = segments(&bytes, 1000);
            assert_eq!(frames.iter().map(|frame| frame.len() - start - 20).collect::<Vec<_>>(), [1000, 1000, 500]);
            let mut whole: Vec<u8> = Vec::new();
            for (i, frame) in frames.iter().enumerate() {
                assert!(is_right(frame), "{ipv6}, {i}");
                let (header, part) = TcpHeader::ref_from_prefix(&frame[start..]).unwrap();
                assert_eq!(header.sequence.get(), 0xffff_fff0u32.wrapping_add(1000 * i as u32));
                let ends = Flags::FIN.with(Flags::PSH);
                let rest = header.flags.0 & !Flags::ACK.0;
                assert_eq!(rest, [Flags::CWR.0, 0, ends.0][i]);
                if !ipv6 {
                    assert_eq!(frame[18..20], [[0xff, 0xff], [0, 0], [0, 1]][i], "identification");
                }
                whole.extend(part);
            }
            assert_eq!(whole, payload);
        }
    }

    #[test]
    fn nonsense_is_neither_right_nor_cut() {
        for len in 0..60 {
            let (bytes, _) = tcp(len % 2 == 0, b"some");
            assert!(!is_right(&bytes[..len.min(bytes.len())]));
            assert!(segments(&vec![len as u8; len], 10).is_empty());
        }
    }
}
