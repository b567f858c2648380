//! Keyed hashes of addresses and ports, for everything that nobody outside may guess: initial sequence numbers, offsets of
//! timestamps, SYN cookies, ports.
//!
//! Always: each use has a domain of its own, so that what one shows tells nothing about another. SipHash-1-3 with 128 bits
//! of key: RFC 6528 §3 asks for a function that is hard to invert; Linux uses SipHash for the same things.

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
        let mut bytes = [0; 45];
        bytes[..33].copy_from_slice(&hosts(domain, local.ip(), remote.ip()));
        bytes[33..35].copy_from_slice(&local.port().to_be_bytes());
        bytes[35..37].copy_from_slice(&remote.port().to_be_bytes());
        bytes[37..].copy_from_slice(&more.to_be_bytes());
        self.hash(&bytes)
    }

    /// Of two hosts.
    pub(crate) fn of_hosts(&self, domain: Domain, local: IpAddr, remote: IpAddr) -> u64 {
        self.hash(&hosts(domain, local, remote))
    }

    fn hash(&self, bytes: &[u8]) -> u64 {
        SipHasher13::new_with_key(&self.0).hash(bytes)
    }
}

/// All have one length.
fn hosts(domain: Domain, local: IpAddr, remote: IpAddr) -> [u8; 33] {
    let mut bytes = [domain as u8; 33];
    bytes[1..17].copy_from_slice(&octets(local));
    bytes[17..].copy_from_slice(&octets(remote));
    bytes
}

/// An IPv4 address as the IPv6 one that stands for it (RFC 4291 §2.5.5.2).
fn octets(ip: IpAddr) -> [u8; 16] {
    match ip {
        IpAddr::V4(ip) => ip.to_ipv6_mapped().octets(),
        IpAddr::V6(ip) => ip.octets(),
    }
}

impl std::fmt::Debug for Secret {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Secret(..)")
    }
}

#[cfg(test)]
mod tests {
    use std::hash::Hasher;

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
        oracle.write(b"the same bytes");
        assert_eq!(oracle.finish(), Secret::new([0; 16]).hash(b"the same bytes"));
    }
}
