//! IPv4 (RFC 791) and IPv6 (RFC 8200) headers.

use zerocopy::byteorder::network_endian::{U16, U32};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

/// Bytes of an IPv4 header without options.
pub const IPV4_LEN: usize = size_of::<Ipv4Header>();
/// Bytes of an IPv6 header without extensions.
pub const IPV6_LEN: usize = size_of::<Ipv6Header>();

/// What a packet carries (IANA's protocol numbers).
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned)]
#[repr(transparent)]
pub struct Protocol(pub u8);

#[allow(missing_docs, reason = "IANA's names")]
impl Protocol {
    pub const HOP_BY_HOP: Protocol = Protocol(0);
    pub const ICMP: Protocol = Protocol(1);
    pub const TCP: Protocol = Protocol(6);
    pub const UDP: Protocol = Protocol(17);
    pub const IPV6_ROUTE: Protocol = Protocol(43);
    pub const IPV6_FRAGMENT: Protocol = Protocol(44);
    pub const ICMPV6: Protocol = Protocol(58);
    pub const IPV6_NO_NEXT: Protocol = Protocol(59);
    pub const IPV6_OPTIONS: Protocol = Protocol(60);
}

/// The two bits of explicit congestion notification (RFC 3168 §5).
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
#[repr(u8)]
pub enum Ecn {
    /// The transport does not take part.
    #[default]
    NotCapable = 0,
    /// It does: ECT(1).
    Capable1 = 1,
    /// It does: ECT(0), the usual one.
    Capable0 = 2,
    /// A router on the way was congested.
    Congested = 3,
}

impl Ecn {
    /// From the low bits of a traffic class.
    #[inline]
    pub const fn from_bits(traffic_class: u8) -> Ecn {
        match traffic_class & 3 {
            0 => Ecn::NotCapable,
            1 => Ecn::Capable1,
            2 => Ecn::Capable0,
            _ => Ecn::Congested,
        }
    }
}

/// The IPv4 header, up to its options.
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned)]
#[repr(C)]
#[allow(missing_docs, reason = "RFC 791's names")]
pub struct Ipv4Header {
    pub version_ihl: u8,
    pub traffic_class: u8,
    pub total_len: U16,
    pub identification: U16,
    pub flags_fragment: U16,
    pub ttl: u8,
    pub protocol: Protocol,
    pub checksum: U16,
    pub source: [u8; 4],
    pub destination: [u8; 4],
}

impl Ipv4Header {
    /// Don't fragment.
    pub const DONT_FRAGMENT: u16 = 0x4000;
    /// More fragments follow.
    pub const MORE_FRAGMENTS: u16 = 0x2000;
    /// The offset of a fragment, in units of 8 bytes.
    pub const FRAGMENT_OFFSET: u16 = 0x1fff;

    /// Bytes of the header, options included, as it says.
    #[inline]
    pub const fn header_len(&self) -> usize {
        (self.version_ihl & 0xf) as usize * 4
    }
}

/// The IPv6 header.
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned)]
#[repr(C)]
#[allow(missing_docs, reason = "RFC 8200's names")]
pub struct Ipv6Header {
    /// 4 bits of version, 8 of traffic class, 20 of flow label.
    pub version_class_flow: U32,
    pub payload_len: U16,
    pub next_header: Protocol,
    pub hop_limit: u8,
    pub source: [u8; 16],
    pub destination: [u8; 16],
}

impl Ipv6Header {
    /// The traffic class.
    #[inline]
    pub fn traffic_class(&self) -> u8 {
        (self.version_class_flow.get() >> 20) as u8
    }
}

const _: () = assert!(IPV4_LEN == 20 && IPV6_LEN == 40);
