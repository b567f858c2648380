//! Ethernet II.

use zerocopy::byteorder::network_endian::U16;
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

/// Bytes of an Ethernet header.
pub const ETHERNET_LEN: usize = size_of::<EthernetHeader>();

/// The address of an interface on its link.
#[derive(
    Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Default, FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned,
)]
#[repr(transparent)]
pub struct Mac(pub [u8; 6]);

impl Mac {
    /// Everybody on the link.
    pub const BROADCAST: Mac = Mac([0xff; 6]);

    /// Whether it is the address of a group (broadcast included).
    #[inline]
    pub const fn is_group(self) -> bool {
        self.0[0] & 1 != 0
    }

    /// Whether an interface can have it: not a group, not all zero.
    pub const fn is_unicast(self) -> bool {
        !self.is_group() && !matches!(self.0, [0, 0, 0, 0, 0, 0])
    }
}

impl std::fmt::Display for Mac {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let [a, b, c, d, e, g] = self.0;
        write!(f, "{a:02x}:{b:02x}:{c:02x}:{d:02x}:{e:02x}:{g:02x}")
    }
}

impl std::fmt::Debug for Mac {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{self}")
    }
}

impl std::str::FromStr for Mac {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Mac, Self::Err> {
        let mut bytes = [0; 6];
        let mut parts = text.split(':');
        for byte in &mut bytes {
            let part = parts.next().filter(|part| part.len() == 2).ok_or("six pairs of digits, with colons")?;
            let digits = Some(part).filter(|part| part.bytes().all(|digit| digit.is_ascii_hexdigit()));
            *byte =
                u8::from_str_radix(digits.unwrap_or_default(), 16).map_err(|_| "a digit that is not hexadecimal")?;
        }
        if parts.next().is_some() { Err("more than six bytes") } else { Ok(Mac(bytes)) }
    }
}

/// What a frame carries.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned)]
#[repr(transparent)]
pub struct EtherType(pub U16);

#[allow(missing_docs, reason = "names of protocols")]
impl EtherType {
    pub const IPV4: EtherType = EtherType(U16::from_bytes([0x08, 0x00]));
    pub const ARP: EtherType = EtherType(U16::from_bytes([0x08, 0x06]));
    pub const IPV6: EtherType = EtherType(U16::from_bytes([0x86, 0xdd]));
}

/// The header of a frame.
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned)]
#[repr(C)]
#[allow(missing_docs, reason = "IEEE 802.3's names")]
pub struct EthernetHeader {
    pub destination: Mac,
    pub source: Mac,
    pub ethertype: EtherType,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_are_written_as_people_write_them() {
        let mac: Mac = "02:00:5e:10:00:ff".parse().unwrap();
        assert_eq!((mac, mac.to_string().as_str()), (Mac([2, 0, 0x5e, 0x10, 0, 0xff]), "02:00:5e:10:00:ff"));
        assert!(mac.is_unicast() && Mac::BROADCAST.is_group() && !Mac::default().is_unicast());
        for wrong in ["", "02:00:5e:10:00", "02:00:5e:10:00:ff:00", "2:0:5e:10:0:ff", "02:00:5e:10:00:fg"] {
            assert!(wrong.parse::<Mac>().is_err(), "{wrong}");
        }
    }
}
