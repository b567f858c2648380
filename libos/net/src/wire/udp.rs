//! UDP (RFC 768).

use zerocopy::byteorder::network_endian::U16;
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

/// Bytes of a UDP header.
pub const UDP_LEN: usize = size_of::<UdpHeader>();

/// The header of a datagram.
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned)]
#[repr(C)]
#[allow(missing_docs, reason = "RFC 768's names")]
pub struct UdpHeader {
    pub source: U16,
    pub destination: U16,
    /// Of header and data.
    pub len: U16,
    /// Zero: there is none (IPv4 only).
    pub checksum: U16,
}
