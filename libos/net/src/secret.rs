//! Keyed hashes of addresses and ports, for everything that nobody outside may guess: initial sequence numbers, offsets of
//! timestamps, SYN cookies, ports.
//!
//! Always: each use has a domain of its own, so that what one shows tells nothing about another. SipHash-1-3 with 128 bits
//! of key: RFC 6528 §3 asks for a function that is hard to invert; Linux uses SipHash for the same things.

use std::hash::Hasher;
use std::net::{IpAddr, SocketAddr};

use siphasher::sip::SipHasher13;

/// The key of a core's secrets. Every core of a host has the same, so that each can check what another made.
#[derive(Clone, Copy)]
pub(crate) struct Secret([u8; 16]);

/// What a hash is for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(u8)]
pub(crate) enum Domain {
    InitialSequence,
    TimestampOffset,
    CookieMask,
    CookieProof,
    PortOffset,
    PortCounter,
}

impl Secret {
    /// From a key that nobody else knows: 128 random bits of the host, in the simulator of the world's seed.
    pub(crate) const fn new(key: [u8; 16]) -> Secret {
        Secret(key)
    }

    /// Of a connection's two ends, and something besides.
    pub(crate) fn of_flow(&self, domain: Domain, local: SocketAddr, remote: SocketAddr, more: u64) -> u64 {
        let mut hasher = self.hasher(domain);
        write_ip(&mut hasher, local.ip());
        write_ip(&mut hasher, remote.ip());
        hasher.write_u64(u64::from(local.port()) << 16 | u64::from(remote.port()));
        hasher.write_u64(more);
        hasher.finish()
    }

    /// Of two hosts.
    pub(crate) fn of_hosts(&self, domain: Domain, local: IpAddr, remote: IpAddr) -> u64 {
        let mut hasher = self.hasher(domain);
        write_ip(&mut hasher, local);
        write_ip(&mut hasher, remote);
        hasher.finish()
    }

    fn hasher(&self, domain: Domain) -> SipHasher13 {
        let mut hasher = SipHasher13::new_with_key(&self.0);
        hasher.write_u8(domain as u8);
        hasher
    }
}

/// An IPv4 address as the IPv6 one that stands for it (RFC 4291 §2.5.5.2): all have one length.
fn write_ip(hasher: &mut SipHasher13, ip: IpAddr) {
    let bits = match ip {
        IpAddr::V4(ip) => ip.to_ipv6_mapped().to_bits(),
        IpAddr::V6(ip) => ip.to_bits(),
    };
    hasher.write_u64((bits >> 64) as u64);
    hasher.write_u64(bits as u64);
}

impl std::fmt::Debug for Secret {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Secret(..)")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_part_of_what_is_hashed_counts() {
        let secret = Secret::new([7; 16]);
        let at = |text: &str| text.parse::<SocketAddr>().unwrap();
        let (a, b) = (at("10.0.0.1:80"), at("10.0.0.2:5000"));
        let mut hashes = vec![
            secret.of_flow(Domain::InitialSequence, a, b, 0),
            secret.of_flow(Domain::InitialSequence, b, a, 0),
            secret.of_flow(Domain::InitialSequence, a, b, 1),
            secret.of_flow(Domain::CookieProof, a, b, 0),
            secret.of_flow(Domain::InitialSequence, at("10.0.0.1:81"), b, 0),
            secret.of_flow(Domain::InitialSequence, a, at("10.0.0.2:5001"), 0),
            secret.of_flow(Domain::InitialSequence, a, at("10.0.0.3:5000"), 0),
            secret.of_flow(Domain::InitialSequence, a, at("[fd00::2]:5000"), 0),
            Secret::new([8; 16]).of_flow(Domain::InitialSequence, a, b, 0),
            secret.of_hosts(Domain::InitialSequence, a.ip(), b.ip()),
            secret.of_hosts(Domain::TimestampOffset, a.ip(), b.ip()),
        ];
        let count = hashes.len();
        hashes.sort_unstable();
        hashes.dedup();
        assert_eq!(hashes.len(), count);
        assert_eq!(format!("{secret:?}"), "Secret(..)");
    }

    #[test]
    fn it_is_siphash_1_3() {
        // Against the standard library's hasher, which is SipHash-1-3 with a key of zero.
        let mut oracle = std::collections::hash_map::DefaultHasher::new();
        let mut ours = Secret::new([0; 16]).hasher(Domain::CookieMask);
        oracle.write_u8(Domain::CookieMask as u8);
        for hasher in [&mut oracle as &mut dyn Hasher, &mut ours] {
            hasher.write(b"the same bytes");
        }
        assert_eq!(oracle.finish(), ours.finish());
    }
}
