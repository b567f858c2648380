//! A token bucket for answers that strangers can cause (RFC 1122 §3.2.2, RFC 4443 §2.4(f)).
//!
//! What is left in it must not tell anybody what we answered to others: counting the answers to one's own packets would
//! tell which of somebody else's ports are open ("SAD DNS", CCS'20). So an answer costs nothing, one or two, by chance.

use std::time::Duration;

use pdpix::{Instant, Rng};

const SECOND: u64 = 1_000_000_000;

pub(crate) struct Limiter {
    per_second: u64,
    burst: i64,
    /// May be one below nothing.
    tokens: i64,
    refilled: Instant,
}

impl Limiter {
    /// At most about `per_second`, of which a twentieth may come at once.
    pub(crate) fn new(per_second: u32) -> Limiter {
        let burst = i64::from(per_second.div_ceil(20));
        Limiter { per_second: per_second.into(), burst, tokens: burst, refilled: Instant::ZERO }
    }

    /// Whether one more may go.
    pub(crate) fn take(&mut self, now: Instant, rng: &mut Rng) -> bool {
        // More than a second fills any bucket; and the product does not overflow.
        let nanos = now.since(self.refilled).as_nanos().min(SECOND.into()) as u64;
        let fresh = nanos * self.per_second / SECOND;
        if fresh > 0 {
            self.tokens = self.burst.min(self.tokens + fresh as i64);
            // What is left of a token's time counts for the next one.
            let spent = Duration::from_nanos(fresh * SECOND / self.per_second);
            self.refilled = if nanos < SECOND { self.refilled + spent } else { now };
        }
        if self.tokens <= 0 {
            return false;
        }
        self.tokens -= rng.below(3) as i64;
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_burst_passes_and_then_the_rate() {
        let (mut limiter, mut rng) = (Limiter::new(1000), Rng::new(3));
        let at_once = (0..10_000).filter(|_| limiter.take(Instant::ZERO, &mut rng)).count();
        assert!((25..=100).contains(&at_once), "{at_once} of a bucket of 50");
        let mut now = Instant::ZERO;
        let mut passed = 0;
        for _ in 0..100_000 {
            now += Duration::from_micros(100);
            passed += usize::from(limiter.take(now, &mut rng));
        }
        assert!((9_000..=11_000).contains(&passed), "{passed} in ten seconds");
    }

    #[test]
    fn what_is_left_depends_on_chance() {
        let burst = |seed| {
            let (mut limiter, mut rng) = (Limiter::new(1000), Rng::new(seed));
            (0..1000).filter(|_| limiter.take(Instant::ZERO, &mut rng)).count()
        };
        let counts: std::collections::BTreeSet<usize> = (0..20).map(burst).collect();
        assert!(counts.len() > 5, "one could count on {counts:?}");
    }

    #[test]
    fn nothing_a_second_is_nothing() {
        assert!(!Limiter::new(0).take(Instant::NEVER, &mut Rng::new(1)));
    }
}
