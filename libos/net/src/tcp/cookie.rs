//! SYN cookies (RFC 4987 §3.6): a half-open connection in 32 bits that the peer keeps for us.
//!
//! A cookie is our initial sequence number. Under a mask (a keyed hash of both ends and the peer's sequence number, so
//! that nothing in it can be read or steered) lie a counter of minutes in 5 bits, which of eight segment sizes the peer
//! allows in 3, and a proof in 24: a keyed hash of all these, of the whole counter, and of the options below.
//! If the peer has timestamps, the low six bits of ours carry what its SYN said of window scaling, SACK and ECN; ours are
//! behind the clock by at most 63 ms then, never ahead. The proof covers them. Without timestamps these options are lost,
//! as they must be.
//!
//! Always: a cookie is good in the minute in which it was made and in the next one; a guess is right once in 2^28 (two of
//! 32 counters, 2^24 proofs; every size is possible). A bound of how often a guess may be tried is the line's rate; the
//! damage is one connection that was never asked for. Checking takes the same time for right and wrong ones.
//! Not here: when to use them (a full backlog), and that no cookie is asked for otherwise.

use std::net::SocketAddr;

use pdpix::Instant;

use super::seq::SeqNumber;
use crate::secret::{Domain, Secret};

/// How long the counter stays, in nanoseconds: a minute. A cookie is good for between one and two of them.
const COUNT_NS: u64 = 60_000_000_000;
/// In how many periods after that in which it was made a cookie is still good.
const AGE_MAX: u64 = 1;
/// The segment sizes that can be told, and common reasons for them: the least of RFC 9293 and of old links, IPv6's least,
/// tunnels, PPPoE, Ethernet with and without timestamps over IPv6 and IPv4, and jumbo frames.
const SIZES: [u16; 8] = [216, 536, 1220, 1300, 1400, 1440, 1460, 8960];
/// Bits of a timestamp that carry options.
const OPTION_BITS: u32 = 6;
const OPTION_MASK: u32 = (1 << OPTION_BITS) - 1;
const NO_SCALE: u8 = 15;

/// What a cookie keeps of a SYN's options, if the peer has timestamps.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub(crate) struct CookieOptions {
    /// The shift of the peer's windows, at most 14.
    pub(crate) window_scale: Option<u8>,
    pub(crate) sack_permitted: bool,
    pub(crate) ecn: bool,
}

/// What a right cookie tells.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Opened {
    /// The largest size of those that can be told that is not more than what the peer said.
    pub(crate) mss: u16,
    /// Nothing, if the peer has no timestamps.
    pub(crate) options: CookieOptions,
}

impl CookieOptions {
    fn bits(self) -> u32 {
        let scale = self.window_scale.map_or(NO_SCALE, |shift| shift.min(14));
        u32::from(scale) | u32::from(self.sack_permitted) << 4 | u32::from(self.ecn) << 5
    }

    fn from_bits(bits: u32) -> CookieOptions {
        let scale = (bits & 15) as u8;
        CookieOptions {
            window_scale: (scale != NO_SCALE).then_some(scale),
            sack_permitted: bits & 1 << 4 != 0,
            ecn: bits & 1 << 5 != 0,
        }
    }

    /// The timestamp for the SYN-ACK: the latest one, not after `timestamp`, that carries the options.
    pub(crate) fn write(self, timestamp: u32) -> u32 {
        let with = timestamp & !OPTION_MASK | self.bits();
        // Compared on the circle: the option bits may lie ahead of the clock's.
        if self.bits() > timestamp & OPTION_MASK { with.wrapping_sub(1 << OPTION_BITS) } else { with }
    }
}

/// The initial sequence number of a SYN-ACK for which nothing is kept. `options` are those that its timestamp carries;
/// `None`: it has no timestamp.
pub(crate) fn bake(
    secret: &Secret,
    local: SocketAddr,
    remote: SocketAddr,
    peer_isn: SeqNumber,
    mss: u16,
    options: Option<CookieOptions>,
    now: Instant,
) -> SeqNumber {
    let count = now.as_nanos() / COUNT_NS;
    let size = SIZES.iter().rposition(|size| *size <= mss).unwrap_or(0) as u32;
    let flow = Flow { secret, local, remote, peer_isn };
    let body = (count as u32 & 31) << 27 | size << 24 | flow.proof(count, size, options.map(CookieOptions::bits));
    flow.mask().add(body)
}

/// What an ACK that answers a cookie tells: `peer_isn` is its sequence number less one, `cookie` its acknowledgment less
/// one, `echoed` the timestamp of ours that it brings. `None`: we have not made it, or too long ago.
pub(crate) fn open(
    secret: &Secret,
    local: SocketAddr,
    remote: SocketAddr,
    peer_isn: SeqNumber,
    cookie: SeqNumber,
    echoed: Option<u32>,
    now: Instant,
) -> Option<Opened> {
    let flow = Flow { secret, local, remote, peer_isn };
    let body = cookie.get().wrapping_sub(flow.mask().get());
    let (counter, size) = (body >> 27, body >> 24 & 7);
    let present = now.as_nanos() / COUNT_NS;
    let age = u64::from((present as u32 & 31).wrapping_sub(counter) & 31);
    let bits = echoed.map(|timestamp| timestamp & OPTION_MASK);
    // The proof is worked out for whatever age, so that the time that this takes tells nothing.
    let wrong = flow.proof(present.wrapping_sub(age), size, bits) ^ body & 0xff_ffff;
    (wrong == 0 && age <= AGE_MAX.min(present))
        .then(|| Opened { mss: SIZES[size as usize], options: bits.map(CookieOptions::from_bits).unwrap_or_default() })
}

struct Flow<'a> {
    secret: &'a Secret,
    local: SocketAddr,
    remote: SocketAddr,
    peer_isn: SeqNumber,
}

impl Flow<'_> {
    fn mask(&self) -> SeqNumber {
        let isn = self.peer_isn.get().into();
        SeqNumber::new(self.secret.of_flow(Domain::CookieMask, self.local, self.remote, isn) as u32)
    }

    /// 24 bits.
    fn proof(&self, count: u64, size: u32, options: Option<u32>) -> u32 {
        let options = u64::from(options.unwrap_or(1 << OPTION_BITS));
        // The counter of minutes has 22 bits here: eight years.
        let more = u64::from(self.peer_isn.get()) << 32 | (count & 0x3f_ffff) << 10 | u64::from(size) << 7 | options;
        self.secret.of_flow(Domain::CookieProof, self.local, self.remote, more) as u32 & 0xff_ffff
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use quickcheck::{Arbitrary, Gen, quickcheck};

    use super::*;

    const SECRET: Secret = Secret::new([9; 16]);

    impl Arbitrary for CookieOptions {
        fn arbitrary(g: &mut Gen) -> CookieOptions {
            CookieOptions {
                window_scale: bool::arbitrary(g).then(|| u8::arbitrary(g) % 15),
                sack_permitted: bool::arbitrary(g),
                ecn: bool::arbitrary(g),
            }
        }
    }

    fn ends() -> (SocketAddr, SocketAddr) {
        ("10.0.0.1:6379".parse().unwrap(), "192.0.2.7:40000".parse().unwrap())
    }

    fn seconds(count: u64) -> Instant {
        Instant::ZERO + Duration::from_secs(count)
    }

    quickcheck! {
        fn what_was_baked_is_opened(isn: u32, mss: u16, options: Option<CookieOptions>, at: u32, age: u8, ts: u32) -> bool {
            let ((local, remote), isn, made) = (ends(), SeqNumber::new(isn), seconds(at.into()));
            let cookie = bake(&SECRET, local, remote, isn, mss, options, made);
            let echoed = options.map(|options| options.write(ts));
            let now = made + Duration::from_secs(u64::from(age) % 60);
            let opened = open(&SECRET, local, remote, isn, cookie, echoed, now).expect("a right one");
            assert_eq!(opened.options, options.unwrap_or_default());
            let next = SIZES.iter().find(|size| **size > opened.mss);
            (opened.mss <= mss || opened.mss == SIZES[0]) && next.is_none_or(|next| *next > mss)
        }

        /// RFC 7323 §5.3: timestamps never go back, nor ahead of the clock, whatever they carry.
        fn timestamps_with_options_are_just_behind_the_clock(options: CookieOptions, timestamp: u32) -> bool {
            let written = options.write(timestamp);
            timestamp.wrapping_sub(written) < 64 && CookieOptions::from_bits(written & OPTION_MASK) == options
        }

        fn any_change_is_noticed(isn: u32, flip: u8, which: u8) -> bool {
            let ((local, remote), isn, now) = (ends(), SeqNumber::new(isn), seconds(1000));
            let options = CookieOptions { window_scale: Some(7), sack_permitted: true, ecn: false };
            let cookie = bake(&SECRET, local, remote, isn, 1460, Some(options), now);
            let echoed = options.write(5_000_000);
            let bit = 1 << (flip % 32);
            let other = SocketAddr::new(remote.ip(), remote.port() ^ 1 << (flip % 16));
            let opened = match which % 5 {
                0 => open(&SECRET, local, remote, isn, SeqNumber::new(cookie.get() ^ bit), Some(echoed), now),
                1 => open(&SECRET, local, remote, SeqNumber::new(isn.get() ^ bit), cookie, Some(echoed), now),
                2 => open(&SECRET, local, other, isn, cookie, Some(echoed), now),
                3 => open(&SECRET, local, remote, isn, cookie, Some(echoed ^ 1 << (flip % 6)), now),
                _ => open(&SECRET, local, remote, isn, cookie, None, now),
            };
            opened.is_none()
        }
    }

    #[test]
    fn cookies_grow_old() {
        let ((local, remote), isn) = (ends(), SeqNumber::new(77));
        for at in [0, 30, 59, 60, 61, 119, 31 * 60, 32 * 60 + 5] {
            let cookie = bake(&SECRET, local, remote, isn, 1460, None, seconds(at));
            let is_good = |age| open(&SECRET, local, remote, isn, cookie, None, seconds(at + age)).is_some();
            assert!(is_good(0) && is_good(59), "made at {at}");
            // Two minutes later, and when the five bits of the counter come round again.
            assert!(!is_good(120) && !is_good(600) && !is_good(32 * 60) && !is_good(64 * 60), "made at {at}");
        }
        let made_later = bake(&SECRET, local, remote, isn, 1460, None, seconds(60));
        assert_eq!(open(&SECRET, local, remote, isn, made_later, None, seconds(0)), None, "from the future");
    }

    #[test]
    fn a_forger_needs_very_many_tries() {
        let ((local, remote), now) = (ends(), seconds(100_000));
        let mut rng = pdpix::Rng::new(4);
        let tries = 1_000_000;
        let lucky = (0..tries)
            .filter(|_| {
                let (isn, cookie) = (SeqNumber::new(rng.next_u64() as u32), SeqNumber::new(rng.next_u64() as u32));
                open(&SECRET, local, remote, isn, cookie, None, now).is_some()
            })
            .count();
        // 2^28 guesses for one: 0.004 are expected.
        assert_eq!(lucky, 0);
        // And nothing stays the same from cookie to cookie: the counter cannot be read.
        let cookies: Vec<u32> =
            (0..1024).map(|isn| bake(&SECRET, local, remote, SeqNumber::new(isn), 1460, None, now).get()).collect();
        for bit in 0..32 {
            let set = cookies.iter().filter(|cookie| *cookie >> bit & 1 == 1).count();
            assert!((412..612).contains(&set), "bit {bit} is set in {set} of 1024");
        }
    }
}
