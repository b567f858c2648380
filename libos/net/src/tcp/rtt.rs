//! The estimate of the round-trip time, and the retransmission timeout that follows from it.
//!
//! Always: `minimum ≤ rto ≤ maximum`; the timeout doubles with every time-out and falls back with the next sample, not
//! before (RFC 6298 §5.5, §5.7; Karn's algorithm). Which round trips may be samples is the caller's to know: those that a
//! timestamp measured, or those of a segment that was sent once.
//! Sources: RFC 6298; RFC 7323 appendix G for many samples a window; Linux for the least timeout.
//! Not here: RFC 6298 §5.1-5.6, when the timer runs.

use std::time::Duration;

use pdpix::Instant;

const NS: u64 = 1_000_000_000;

/// The bounds of the timeout.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct RtoBounds {
    /// The least that is added to the smoothed round trip. 200 ms, as Linux has it, and not the second of RFC 6298 §2.4:
    /// that second makes up for clocks of half a second, which we do not have, and for delayed acknowledgements, which
    /// are at most 200 ms in practice (RFC 9293 §3.8.6.3 allows 500 ms). It is added, and not a floor of the sum, so that
    /// an acknowledgement delayed by as much does not make a timeout spurious on a long path.
    pub(crate) minimum: Duration,
    /// The most, after doubling: 60 s, the least that RFC 6298 §2.5 allows, so that a healed network is soon noticed.
    pub(crate) maximum: Duration,
}

impl Default for RtoBounds {
    fn default() -> RtoBounds {
        RtoBounds { minimum: Duration::from_millis(200), maximum: Duration::from_secs(60) }
    }
}

/// How long the round trip takes, in nanoseconds.
#[derive(Clone, Debug)]
pub(crate) struct RttEstimator {
    /// Zero: no sample yet.
    srtt: u64,
    rttvar: u64,
    /// Before doubling.
    base: u64,
    minimum: u64,
    maximum: u64,
    backoffs: u8,
    least: WindowedMin,
}

impl RttEstimator {
    /// No sample yet: a second (RFC 6298 §2.1).
    pub(crate) fn new(bounds: RtoBounds) -> RttEstimator {
        let (minimum, maximum) = (bounds.minimum.as_nanos() as u64, bounds.maximum.as_nanos() as u64);
        debug_assert!(minimum <= maximum);
        RttEstimator {
            srtt: 0,
            rttvar: 0,
            base: NS.clamp(minimum, maximum),
            minimum,
            maximum,
            backoffs: 0,
            least: WindowedMin::NONE,
        }
    }

    /// The smoothed round trip. `None` before the first sample.
    #[inline]
    pub(crate) fn srtt(&self) -> Option<u64> {
        (self.srtt > 0).then_some(self.srtt)
    }

    /// How much round trips vary.
    #[inline]
    #[cfg(test)]
    pub(crate) fn rttvar(&self) -> u64 {
        self.rttvar
    }

    /// The shortest round trip of the last minutes: of the path without its queues. `None` before the first sample.
    #[inline]
    pub(crate) fn min_rtt(&self) -> Option<u64> {
        self.least.get()
    }

    /// The timeout, with its doublings.
    #[inline]
    pub(crate) fn rto(&self) -> u64 {
        self.base.checked_shl(u32::from(self.backoffs)).map_or(self.maximum, |rto| rto.min(self.maximum))
    }

    /// A round trip was measured. `expected` is how many samples a window brings: RFC 7323, appendix G, has it as
    /// ceiling(FlightSize / (2 * SMSS)); 1 if only one segment a window is timed.
    #[inline]
    pub(crate) fn sample(&mut self, rtt: u64, expected: u32, now: Instant) {
        let rtt = rtt.clamp(1, 1 << 40);
        self.least.add(rtt, now);
        self.backoffs = 0;
        if self.srtt == 0 {
            // RFC 6298 §2.2.
            (self.srtt, self.rttvar) = (rtt, rtt / 2);
        } else {
            // RFC 6298 §2.3: the variation first. The weights 1/4 and 1/8 are for one sample a window.
            let samples = i64::from(expected.max(1));
            let deviation = self.srtt.abs_diff(rtt) as i64;
            self.rttvar = self.rttvar.saturating_add_signed((deviation - self.rttvar as i64) / (4 * samples));
            self.srtt = self.srtt.saturating_add_signed((rtt as i64 - self.srtt as i64) / (8 * samples)).max(1);
        }
        self.base = (self.srtt + (4 * self.rttvar).max(self.minimum)).min(self.maximum);
    }

    /// The timer expired: the timeout doubles.
    pub(crate) fn back_off(&mut self) {
        if self.rto() < self.maximum && !cfg!(margay_planted_bug = "rto_never_backs_off") {
            self.backoffs += 1;
        }
    }

    /// RFC 6298 §5.7: the handshake's timer expired, so the timeout for data starts at 3 s at least, until a sample says
    /// better.
    pub(crate) fn on_handshake_timed_out(&mut self) {
        if self.srtt == 0 {
            self.base = self.base.max(3 * NS).min(self.maximum);
            self.backoffs = 0;
        }
    }
}

/// The least of the samples of the last two to four minutes: two halves, the older of which is forgotten at a time.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
struct WindowedMin {
    current: u64,
    previous: u64,
    since: Instant,
}

/// A path that has become longer is noticed after this, or after twice as much.
const HALF_WINDOW: Duration = Duration::from_secs(120);

impl WindowedMin {
    const NONE: WindowedMin = WindowedMin { current: u64::MAX, previous: u64::MAX, since: Instant::ZERO };

    #[inline]
    fn get(&self) -> Option<u64> {
        let least = self.current.min(self.previous);
        (least < u64::MAX).then_some(least)
    }

    #[inline]
    fn add(&mut self, sample: u64, now: Instant) {
        let age = now.since(self.since);
        if age >= HALF_WINDOW {
            self.previous = if age < 2 * HALF_WINDOW { self.current } else { u64::MAX };
            (self.current, self.since) = (u64::MAX, now);
        }
        self.current = self.current.min(sample);
    }
}

#[cfg(test)]
mod tests {
    use quickcheck::quickcheck;

    use super::*;

    const MS: u64 = 1_000_000;

    fn at(seconds: u64) -> Instant {
        Instant::from_nanos(seconds * NS)
    }

    fn estimator() -> RttEstimator {
        RttEstimator::new(RtoBounds::default())
    }

    #[test]
    fn the_first_samples_are_as_rfc_6298_works_them_out() {
        let bounds = RtoBounds { minimum: Duration::from_millis(1), maximum: Duration::from_secs(60) };
        let mut rtt = RttEstimator::new(bounds);
        assert_eq!((rtt.srtt(), rtt.min_rtt(), rtt.rto()), (None, None, NS));
        rtt.sample(100 * MS, 1, at(0));
        // SRTT = R, RTTVAR = R/2, RTO = R + 4 * R/2.
        assert_eq!((rtt.srtt(), rtt.rttvar(), rtt.rto()), (Some(100 * MS), 50 * MS, 300 * MS));
        rtt.sample(180 * MS, 1, at(0));
        // RTTVAR = 3/4 * 50 + 1/4 * 80 = 57.5; SRTT = 7/8 * 100 + 1/8 * 180 = 110; RTO = 110 + 230.
        assert_eq!((rtt.srtt(), rtt.rttvar(), rtt.rto()), (Some(110 * MS), 57_500_000, 340 * MS));
    }

    #[test]
    fn many_samples_a_window_weigh_as_one() {
        let (mut one, mut many) = (estimator(), estimator());
        one.sample(100 * MS, 1, at(0));
        many.sample(100 * MS, 1, at(0));
        for _ in 0..5 {
            one.sample(200 * MS, 1, at(0));
            (0..50).for_each(|_| many.sample(200 * MS, 50, at(0)));
        }
        let (one, many) = (one.srtt().unwrap(), many.srtt().unwrap());
        assert!(one.abs_diff(many) < 5 * MS, "{one} and {many}");
    }

    #[test]
    fn time_outs_double_up_to_the_maximum_and_a_sample_ends_that() {
        let mut rtt = estimator();
        rtt.sample(50 * MS, 1, at(0));
        let base = rtt.rto();
        assert_eq!(base, 250 * MS);
        let mut seen = Vec::new();
        for _ in 0..300 {
            rtt.back_off();
            seen.push(rtt.rto());
        }
        assert_eq!(seen[..3], [2 * base, 4 * base, 8 * base]);
        assert_eq!(seen[299], 60 * NS);
        rtt.sample(50 * MS, 1, at(100));
        assert!(rtt.rto() <= base);
    }

    #[test]
    fn a_handshake_that_timed_out_starts_at_three_seconds() {
        let mut rtt = estimator();
        rtt.back_off();
        rtt.on_handshake_timed_out();
        assert_eq!(rtt.rto(), 3 * NS);
        rtt.sample(20 * MS, 1, at(4));
        assert_eq!(rtt.rto(), 220 * MS);
        rtt.on_handshake_timed_out();
        assert_eq!(rtt.rto(), 220 * MS, "a sample knows better");
    }

    #[test]
    fn the_least_round_trip_is_forgotten_after_a_while() {
        let mut rtt = estimator();
        rtt.sample(10 * MS, 1, at(0));
        rtt.sample(30 * MS, 1, at(119));
        assert_eq!(rtt.min_rtt(), Some(10 * MS));
        rtt.sample(40 * MS, 1, at(121));
        assert_eq!(rtt.min_rtt(), Some(10 * MS));
        rtt.sample(35 * MS, 1, at(242));
        assert_eq!(rtt.min_rtt(), Some(35 * MS));
        rtt.sample(90 * MS, 1, at(10_000));
        assert_eq!(rtt.min_rtt(), Some(90 * MS), "after silence nothing old counts");
    }

    quickcheck! {
        /// Any samples: the timeout stays in its bounds and above the smoothed round trip, which stays among the samples.
        fn the_timeout_stays_in_its_bounds(samples: Vec<(u32, u8, bool)>) -> bool {
            let (mut rtt, mut least, mut most) = (estimator(), u64::MAX, 0);
            for (sample, expected, timed_out) in samples {
                let sample = u64::from(sample) + 1;
                rtt.sample(sample, expected.into(), at(0));
                if timed_out {
                    rtt.back_off();
                }
                (least, most) = (least.min(sample), most.max(sample));
                let (srtt, rto) = (rtt.srtt().unwrap(), rtt.rto());
                assert!(least <= srtt && srtt <= most && rtt.min_rtt() == Some(least));
                assert!((200 * MS..=60 * NS).contains(&rto) && (rto > srtt || rto == 60 * NS));
            }
            true
        }
    }
}
