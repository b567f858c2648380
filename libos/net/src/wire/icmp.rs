//! ICMP (RFC 792) and ICMPv6 (RFC 4443): one layout, different numbers.

use zerocopy::byteorder::network_endian::U16;
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

/// Bytes of a header.
pub const ICMP_LEN: usize = size_of::<IcmpHeader>();

/// The header of a message.
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned)]
#[repr(C)]
pub struct IcmpHeader {
    /// The type; see [`icmpv4`] and [`icmpv6`].
    pub kind: u8,
    /// More closely.
    pub code: u8,
    /// ICMPv6: over the pseudo header as well.
    pub checksum: U16,
    /// Depends on the type: identifier and sequence number, an MTU, a pointer, nothing.
    pub rest: [u8; 4],
}

/// Types and codes of ICMP (RFC 792, RFC 1122 §3.2.2.1).
#[allow(missing_docs, reason = "names of the RFC")]
pub mod icmpv4 {
    pub const ECHO_REPLY: u8 = 0;
    pub const UNREACHABLE: u8 = 3;
    pub const ECHO: u8 = 8;
    pub const TIME_EXCEEDED: u8 = 11;
    pub const PARAMETER_PROBLEM: u8 = 12;

    pub const NET: u8 = 0;
    pub const HOST: u8 = 1;
    pub const PROTOCOL: u8 = 2;
    pub const PORT: u8 = 3;
    pub const TOO_BIG: u8 = 4;
    pub const REASSEMBLY: u8 = 1;
}

/// Types and codes of ICMPv6 (RFC 4443, RFC 4861).
#[allow(missing_docs, reason = "names of the RFC")]
pub mod icmpv6 {
    pub const UNREACHABLE: u8 = 1;
    pub const TOO_BIG: u8 = 2;
    pub const TIME_EXCEEDED: u8 = 3;
    pub const PARAMETER_PROBLEM: u8 = 4;
    pub const ECHO: u8 = 128;
    pub const ECHO_REPLY: u8 = 129;
    pub const ROUTER_SOLICITATION: u8 = 133;
    pub const ROUTER_ADVERTISEMENT: u8 = 134;
    pub const NEIGHBOUR_SOLICITATION: u8 = 135;
    pub const NEIGHBOUR_ADVERTISEMENT: u8 = 136;
    pub const REDIRECT: u8 = 137;

    pub const NO_ROUTE: u8 = 0;
    pub const PROHIBITED: u8 = 1;
    pub const ADDRESS: u8 = 3;
    pub const PORT: u8 = 4;
    pub const REASSEMBLY: u8 = 1;
    pub const ERRONEOUS_FIELD: u8 = 0;
    pub const UNKNOWN_NEXT_HEADER: u8 = 1;
    pub const UNKNOWN_OPTION: u8 = 2;
    pub const INCOMPLETE_CHAIN: u8 = 3;
}

const _: () = assert!(ICMP_LEN == 8);
