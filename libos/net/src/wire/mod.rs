//! Layouts of headers, as `zerocopy` views of bytes: what stands where, and nothing about what it means.
//!
//! A header is read with `Header::ref_from_prefix(bytes)`, which checks the length and never panics; fields are in network
//! order and read with `.get()`. Whoever reads a header checks what its lengths say against what is there.

mod arp;
mod checksum;
mod ethernet;
mod icmp;
mod ip;
mod ndp;
mod tcp;
mod udp;

pub use arp::{ARP_LEN, ArpPacket};
pub use checksum::{Checksum, pseudo_header};
pub use ethernet::{ETHERNET_LEN, EtherType, EthernetHeader, Mac};
pub use icmp::{ICMP_LEN, IcmpHeader, icmpv4, icmpv6};
pub use ip::{Ecn, IPV4_LEN, IPV6_LEN, Ipv4Header, Ipv6Header, Protocol};
pub use ndp::{
    LinkAddressOption, Malformed, NeighbourMessage, RouterAdvertisement, SOURCE_LINK_ADDRESS, TARGET_LINK_ADDRESS,
};
pub use tcp::{
    Flags, SACK_BLOCKS_MAX, STAMPS_LEN, SackBlocks, TCP_LEN, TCP_OPTIONS_MAX, TcpHeader, TcpOptions, Timestamps,
};
pub use udp::{UDP_LEN, UdpHeader};
