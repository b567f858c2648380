//! ARP for IPv4 over Ethernet (RFC 826).

use zerocopy::byteorder::network_endian::U16;
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

use super::{EtherType, Mac};

/// Bytes of a packet.
pub const ARP_LEN: usize = size_of::<ArpPacket>();

/// A request or a reply.
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned)]
#[repr(C)]
pub struct ArpPacket {
    /// ar$hrd: 1 is Ethernet.
    pub hardware: U16,
    /// ar$pro: what is asked about.
    pub protocol: EtherType,
    /// ar$hln: 6.
    pub hardware_len: u8,
    /// ar$pln: 4.
    pub protocol_len: u8,
    /// ar$op.
    pub operation: U16,
    /// ar$sha.
    pub sender_mac: Mac,
    /// ar$spa.
    pub sender: [u8; 4],
    /// ar$tha.
    pub target_mac: Mac,
    /// ar$tpa.
    pub target: [u8; 4],
}

impl ArpPacket {
    /// Asks for an address.
    pub const REQUEST: u16 = 1;
    /// Answers.
    pub const REPLY: u16 = 2;

    /// With the fields that are always the same.
    pub fn new(operation: u16, sender: (Mac, [u8; 4]), target: (Mac, [u8; 4])) -> ArpPacket {
        ArpPacket {
            hardware: U16::new(1),
            protocol: EtherType::IPV4,
            hardware_len: 6,
            protocol_len: 4,
            operation: U16::new(operation),
            sender_mac: sender.0,
            sender: sender.1,
            target_mac: target.0,
            target: target.1,
        }
    }

    /// Whether it is about IPv4 over Ethernet, a request or a reply.
    pub fn is_known(&self) -> bool {
        self.hardware.get() == 1
            && self.protocol == EtherType::IPV4
            && (self.hardware_len, self.protocol_len) == (6, 4)
            && matches!(self.operation.get(), ArpPacket::REQUEST | ArpPacket::REPLY)
    }
}

const _: () = assert!(ARP_LEN == 28);
