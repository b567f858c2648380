//! The Internet checksum (RFC 1071), summed in the machine's own byte order (§2(B)) and 64 bits at a time (§2(C)): a carry
//! out of the highest bit is added at the lowest one, as 2^64 - 1 is a multiple of 2^16 - 1.

use std::net::IpAddr;

use super::Protocol;

/// A sum that is not folded yet. Pieces are added in order; only the last one may have an odd length.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Checksum(u64);

impl Checksum {
    /// Of nothing.
    #[inline]
    pub const fn new() -> Checksum {
        Checksum(0)
    }

    /// And these bytes, which begin at an even place.
    #[inline]
    #[must_use]
    #[allow(clippy::should_implement_trait, reason = "one of three ways to add")]
    pub fn add(self, bytes: &[u8]) -> Checksum {
        let (words, mut rest) = bytes.as_chunks();
        let mut sum = words.iter().fold(self, |sum, word| sum.plus(u64::from_ne_bytes(*word)));
        if let Some((word, more)) = rest.split_first_chunk() {
            (sum, rest) = (sum.plus(u32::from_ne_bytes(*word).into()), more);
        }
        if let Some((word, more)) = rest.split_first_chunk() {
            (sum, rest) = (sum.plus(u16::from_ne_bytes(*word).into()), more);
        }
        match rest {
            [last] => sum.plus(u16::from_ne_bytes([*last, 0]).into()),
            _ => sum,
        }
    }

    #[inline(always)]
    const fn plus(self, word: u64) -> Checksum {
        let (sum, carry) = self.0.overflowing_add(word);
        Checksum(sum + carry as u64)
    }

    /// And these pieces, which may lie at odd places.
    #[must_use]
    pub fn add_pieces<'a>(self, pieces: impl Iterator<Item = &'a [u8]>) -> Checksum {
        let (mut sum, mut odd) = (self, false);
        for piece in pieces {
            let part = Checksum::new().add(piece).fold();
            // §2(B): at an odd place the bytes of the sum are swapped.
            sum = sum.plus(u64::from(if odd { part.swap_bytes() } else { part }));
            odd ^= piece.len() % 2 == 1;
        }
        sum
    }

    /// And this number, as it is in network order.
    #[inline]
    #[must_use]
    pub const fn add_u16(self, value: u16) -> Checksum {
        self.plus(value.to_be() as u64)
    }

    #[inline]
    const fn fold(self) -> u16 {
        let sum = (self.0 & 0xffff_ffff) + (self.0 >> 32);
        let sum = (sum & 0xffff) + (sum >> 16 & 0xffff) + (sum >> 32);
        let sum = (sum & 0xffff) + (sum >> 16);
        ((sum & 0xffff) + (sum >> 16)) as u16
    }

    /// The folded sum, not complemented, as a number in the host's order: what a device wants to find in the field.
    #[inline]
    pub const fn partial(self) -> u16 {
        u16::from_be(self.fold())
    }

    /// What is written into the field, as a number in the host's order.
    #[inline]
    pub const fn finish(self) -> u16 {
        !self.partial()
    }

    /// Whether everything, the field included, adds up.
    #[inline]
    pub const fn is_right(self) -> bool {
        self.fold() == 0xffff
    }
}

/// The pseudo header that transport checksums begin with: RFC 9293 §3.1, RFC 8200 §8.1. `len` is that of the transport
/// header and its payload.
#[inline]
pub fn pseudo_header(source: IpAddr, destination: IpAddr, protocol: Protocol, len: usize) -> Checksum {
    let sum = match (source, destination) {
        (IpAddr::V4(source), IpAddr::V4(destination)) => {
            Checksum::new().add(&source.octets()).add(&destination.octets())
        }
        (IpAddr::V6(source), IpAddr::V6(destination)) => {
            Checksum::new().add(&source.octets()).add(&destination.octets())
        }
        _ => unreachable!("a packet is of one family"),
    };
    sum.add_u16(u16::from(protocol.0)).add_u16((len >> 16) as u16).add_u16(len as u16)
}

#[cfg(test)]
mod tests {
    use quickcheck::quickcheck;

    use super::*;

    /// The definition, byte by byte.
    fn naive(bytes: &[u8]) -> u16 {
        let mut sum = 0u32;
        for pair in bytes.chunks(2) {
            sum += u32::from(pair[0]) << 8 | pair.get(1).map_or(0, |&low| u32::from(low));
            sum = (sum & 0xffff) + (sum >> 16);
        }
        !(sum as u16)
    }

    quickcheck! {
        fn it_is_what_the_definition_says(bytes: Vec<u8>) -> bool {
            Checksum::new().add(&bytes).finish() == naive(&bytes)
        }

        fn pieces_at_odd_places_add_up(pieces: Vec<Vec<u8>>) -> bool {
            Checksum::new().add_pieces(pieces.iter().map(Vec::as_slice)).finish() == naive(&pieces.concat())
        }

        fn with_its_field_it_is_right(bytes: Vec<u8>) -> bool {
            let mut bytes = bytes;
            bytes.truncate(bytes.len() / 2 * 2);
            let sum = Checksum::new().add(&bytes).finish();
            bytes.is_empty() || Checksum::new().add(&bytes).add_u16(sum).is_right()
        }
    }

    /// RFC 1071 §3's example.
    #[test]
    fn the_example_of_the_rfc() {
        let bytes = [0x00, 0x01, 0xf2, 0x03, 0xf4, 0xf5, 0xf6, 0xf7];
        assert_eq!(Checksum::new().add(&bytes).partial(), 0xddf2);
    }

    #[test]
    fn the_longest_packet_does_not_overflow() {
        let bytes = vec![0xff; 65_535];
        assert_eq!(Checksum::new().add(&bytes).finish(), naive(&bytes));
    }
}
