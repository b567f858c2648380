//! An address and how much of it names its network (RFC 4632 §3.1).

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// `192.0.2.7/24`: an address of an interface, or, with the host's bits zero, a network.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct Cidr {
    address: IpAddr,
    prefix_len: u8,
}

impl Cidr {
    /// None if the prefix is longer than the address.
    pub fn new(address: IpAddr, prefix_len: u8) -> Option<Cidr> {
        (prefix_len <= bits(address)).then_some(Cidr { address, prefix_len })
    }

    /// The address, host's bits included.
    pub fn address(&self) -> IpAddr {
        self.address
    }

    /// Bits of the network's part.
    pub fn prefix_len(&self) -> u8 {
        self.prefix_len
    }

    /// Whether `ip` is of this network.
    pub fn contains(&self, ip: IpAddr) -> bool {
        self.address.is_ipv4() == ip.is_ipv4() && common_bits(self.address, ip) >= self.prefix_len
    }

    /// Everybody on this network (RFC 1122 §3.2.1.3(d)). A network of two addresses has none (RFC 3021 §2.1).
    pub fn broadcast(&self) -> Option<Ipv4Addr> {
        match self.address {
            IpAddr::V4(ip) if self.prefix_len <= 30 => {
                Some(Ipv4Addr::from_bits(ip.to_bits() | u32::MAX.checked_shr(self.prefix_len.into()).unwrap_or(0)))
            }
            _ => None,
        }
    }
}

fn bits(ip: IpAddr) -> u8 {
    if ip.is_ipv4() { 32 } else { 128 }
}

/// Leading bits that two addresses of one family share.
pub(crate) fn common_bits(a: IpAddr, b: IpAddr) -> u8 {
    let common = match (a, b) {
        (IpAddr::V4(a), IpAddr::V4(b)) => (a.to_bits() ^ b.to_bits()).leading_zeros(),
        (IpAddr::V6(a), IpAddr::V6(b)) => (a.to_bits() ^ b.to_bits()).leading_zeros(),
        _ => 0,
    };
    common as u8
}

/// Whether it is valid on one link only (RFC 4291 §2.5.6, RFC 4007 §4).
pub(crate) fn is_link_local(ip: Ipv6Addr) -> bool {
    ip.segments()[0] & 0xffc0 == 0xfe80 || ip.segments()[0] & 0xff0f == 0xff02
}

impl std::fmt::Display for Cidr {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}/{}", self.address, self.prefix_len)
    }
}

impl std::str::FromStr for Cidr {
    type Err = &'static str;

    /// `192.0.2.7/24`, `2001:db8::7/64`; without a length, the address alone.
    fn from_str(text: &str) -> Result<Cidr, Self::Err> {
        let (ip, len) = text.split_once('/').map_or((text, None), |(ip, len)| (ip, Some(len)));
        let ip: IpAddr = ip.parse().map_err(|_| "not an IP address before the slash")?;
        let Some(len) = len else { return Ok(Cidr { address: ip, prefix_len: bits(ip) }) };
        let is_number = !len.is_empty() && len.bytes().all(|byte| byte.is_ascii_digit());
        let len = len.parse().ok().filter(|_| is_number).ok_or("not a prefix length behind the slash")?;
        Cidr::new(ip, len).ok_or("a prefix longer than the address")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn cidr(text: &str) -> Cidr {
        text.parse().unwrap()
    }

    #[test]
    fn networks_are_read_and_printed() {
        for text in ["192.0.2.7/24", "0.0.0.0/0", "10.0.0.1/32", "2001:db8::7/64", "::/0", "fe80::1/128"] {
            assert_eq!(cidr(text).to_string(), text);
        }
        assert_eq!(cidr("10.0.0.1").prefix_len(), 32);
        for wrong in
            ["", "/", "10.0.0.1/", "10.0.0.1/33", "10.0.0.1/+8", "::1/129", "ten/8", "10.0.0.1/8/8", "10.0.0.1/256"]
        {
            assert!(wrong.parse::<Cidr>().is_err(), "{wrong}");
        }
    }

    #[test]
    fn a_network_contains_its_addresses() {
        for (network, ip, expected) in [
            ("192.0.2.7/24", "192.0.2.255", true),
            ("192.0.2.7/24", "192.0.3.0", false),
            ("0.0.0.0/0", "8.8.8.8", true),
            ("0.0.0.0/0", "::1", false),
            ("10.0.0.1/32", "10.0.0.1", true),
            ("10.0.0.1/32", "10.0.0.0", false),
            ("2001:db8::/33", "2001:db8:7fff::", true),
            ("2001:db8::/33", "2001:db8:8000::", false),
        ] {
            assert_eq!(cidr(network).contains(ip.parse().unwrap()), expected, "{ip} in {network}");
        }
    }

    #[test]
    fn networks_of_more_than_two_have_a_broadcast_address() {
        assert_eq!(cidr("192.0.2.7/24").broadcast(), Some(Ipv4Addr::new(192, 0, 2, 255)));
        assert_eq!(cidr("10.1.2.3/8").broadcast(), Some(Ipv4Addr::new(10, 255, 255, 255)));
        assert_eq!(cidr("10.1.2.4/30").broadcast(), Some(Ipv4Addr::new(10, 1, 2, 7)));
        assert_eq!((cidr("10.1.2.4/31").broadcast(), cidr("10.1.2.4/32").broadcast()), (None, None));
        assert_eq!(cidr("2001:db8::/64").broadcast(), None);
    }
}
