//! Where a connection's sequence numbers and timestamps begin.
//!
//! RFC 6528 §3: ISN = M + F(local address and port, remote address and port, secret). M counts 4 µs, so that numbers of one
//! connection after another of the same two ends lie ahead of it (RFC 9293 §3.4.1); F is what nobody outside can guess.
//! RFC 7323 §5.4, §7.1: timestamps are milliseconds, with an offset for each pair of hosts; not for each connection, so that a peer
//! may still tell by them that a SYN is newer than its TIME-WAIT (RFC 6191).

use std::net::{IpAddr, SocketAddr};

use pdpix::Instant;

use super::seq::SeqNumber;
use crate::secret::{Domain, Secret};

const M_NS: u64 = 4_000;
const TIMESTAMP_NS: u64 = 1_000_000;

/// The first sequence number of a connection that begins now.
pub(crate) fn initial_sequence(secret: &Secret, local: SocketAddr, remote: SocketAddr, now: Instant) -> SeqNumber {
    if cfg!(margay_planted_bug = "isn_constant") {
        return SeqNumber::new(1);
    }
    let f = secret.of_flow(Domain::InitialSequence, local, remote, 0);
    SeqNumber::new(f as u32).add((now.as_nanos() / M_NS) as u32)
}

/// What is added to [`timestamp_clock`] for connections between two hosts.
pub(crate) fn timestamp_offset(secret: &Secret, local: IpAddr, remote: IpAddr) -> u32 {
    secret.of_hosts(Domain::TimestampOffset, local, remote) as u32
}

/// The clock of timestamps, before its offset: milliseconds.
#[inline]
pub(crate) const fn timestamp_clock(now: Instant) -> u32 {
    (now.as_nanos() / TIMESTAMP_NS) as u32
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    fn at(text: &str) -> SocketAddr {
        text.parse().unwrap()
    }

    #[test]
    fn the_next_connection_of_the_same_ends_lies_ahead() {
        let (secret, a, b) = (Secret::new([1; 16]), at("10.0.0.1:80"), at("10.0.0.2:5000"));
        let first = initial_sequence(&secret, a, b, Instant::ZERO);
        let later = initial_sequence(&secret, a, b, Instant::ZERO + Duration::from_secs(1));
        assert_eq!(later.since(first), 250_000, "4 µs each");
    }

    #[test]
    fn other_ends_and_other_secrets_begin_elsewhere() {
        let (secret, a) = (Secret::new([1; 16]), at("10.0.0.1:80"));
        let isn = |secret: &Secret, port| {
            initial_sequence(secret, a, SocketAddr::new(at("10.0.0.2:1").ip(), port), Instant::ZERO).get()
        };
        // Steps from port to port look like any numbers: every bit of them is set in about half.
        let steps: Vec<u32> = (1..1025).map(|port| isn(&secret, port + 1).wrapping_sub(isn(&secret, port))).collect();
        for bit in 0..32 {
            let set = steps.iter().filter(|step| *step >> bit & 1 == 1).count();
            assert!((412..612).contains(&set), "bit {bit} is set in {set} of 1024");
        }
        assert_ne!(isn(&secret, 1), isn(&Secret::new([2; 16]), 1));
    }

    #[test]
    fn timestamps_are_of_a_pair_of_hosts() {
        let (secret, a, b) = (Secret::new([1; 16]), at("10.0.0.1:80").ip(), at("10.0.0.2:80").ip());
        assert_ne!(timestamp_offset(&secret, a, b), timestamp_offset(&secret, b, a));
        assert_eq!(timestamp_clock(Instant::from_nanos(2_999_999)), 2);
    }
}
