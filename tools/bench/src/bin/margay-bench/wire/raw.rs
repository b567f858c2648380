//! A datagram of UDP in its frame, made without a stack.

use std::net::Ipv4Addr;

use libos_net::wire::{Checksum, EtherType, EthernetHeader, IPV4_LEN, Ipv4Header, Mac, Protocol, UDP_LEN, UdpHeader};

use super::{PORT, TEXT};

/// From port 7000, with text of zeros. IPv4 asks for no checksum of it.
pub(super) fn datagram(from_mac: Mac, to_mac: Mac, from: Ipv4Addr, to: Ipv4Addr) -> Vec<u8> {
    let ethernet = EthernetHeader { destination: to_mac, source: from_mac, ethertype: EtherType::IPV4 };
    let udp_len = (UDP_LEN + TEXT) as u16;
    let mut ip = Ipv4Header {
        version_ihl: 0x45,
        traffic_class: 0,
        total_len: (IPV4_LEN as u16 + udp_len).into(),
        identification: 0.into(),
        flags_fragment: 0.into(),
        ttl: 64,
        protocol: Protocol::UDP,
        checksum: 0.into(),
        source: from.octets(),
        destination: to.octets(),
    };
    let header = |ip: &Ipv4Header| -> Vec<u8> { zerocopy::IntoBytes::as_bytes(ip).to_vec() };
    ip.checksum = Checksum::new().add(&header(&ip)).finish().into();
    let udp = UdpHeader { source: 7000.into(), destination: PORT.into(), len: udp_len.into(), checksum: 0.into() };
    let parts: [&[u8]; 3] =
        [zerocopy::IntoBytes::as_bytes(&ethernet), &header(&ip), zerocopy::IntoBytes::as_bytes(&udp)];
    [&parts.concat()[..], &[0; TEXT]].concat()
}
