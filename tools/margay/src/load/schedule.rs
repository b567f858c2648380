//! When requests are due. An open loop: arrivals do not wait for answers.

use framework::pdpix::{Instant, Rng};

/// How arrivals are spread.
#[derive(Clone, Copy, PartialEq, Eq, Debug, clap::ValueEnum)]
pub enum Arrivals {
    /// As independent users send: gaps of any length, exponentially distributed.
    Poisson,
    /// Evenly.
    Fixed,
}

/// The arrivals of one core.
#[derive(Debug)]
pub struct Schedule {
    arrivals: Arrivals,
    start: Instant,
    gap_ns: f64,
    /// Nanoseconds from the start to the next arrival; a fraction, so that no rate is rounded.
    next_ns: f64,
}

impl Schedule {
    /// `rate` arrivals a second, more than zero, from `start` on.
    pub fn new(arrivals: Arrivals, rate: f64, start: Instant, rng: &mut Rng) -> Schedule {
        let mut schedule = Schedule { arrivals, start, gap_ns: 1e9 / rate, next_ns: 0.0 };
        if arrivals == Arrivals::Poisson {
            schedule.step(rng);
        }
        schedule
    }

    /// When the next one is due.
    pub fn next(&self) -> Instant {
        Instant::from_nanos(self.start.as_nanos().saturating_add(self.next_ns as u64))
    }

    /// Goes on to the one after it.
    pub fn step(&mut self, rng: &mut Rng) {
        self.next_ns += match self.arrivals {
            Arrivals::Fixed => self.gap_ns,
            Arrivals::Poisson => {
                // In (0, 1]: its logarithm is a number.
                let chance = ((rng.next_u64() >> 11) + 1) as f64 / (1u64 << 53) as f64;
                -chance.ln() * self.gap_ns
            }
        };
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn gaps(arrivals: Arrivals, rate: f64, count: usize) -> Vec<f64> {
        let mut rng = Rng::new(1);
        let mut schedule = Schedule::new(arrivals, rate, Instant::from_nanos(500), &mut rng);
        let mut at = schedule.next().as_nanos();
        let gap = |_| {
            schedule.step(&mut rng);
            let before = std::mem::replace(&mut at, schedule.next().as_nanos());
            (at - before) as f64
        };
        (0..count).map(gap).collect()
    }

    #[test]
    fn fixed_arrivals_are_evenly_spaced_and_no_rate_is_rounded() {
        let gaps = gaps(Arrivals::Fixed, 3e6, 3_000_000);
        assert!(gaps.iter().all(|gap| (333.0..=334.0).contains(gap)));
        assert!((gaps.iter().sum::<f64>() - 1e9).abs() <= 1.0, "three million make a second");
    }

    #[test]
    fn poisson_arrivals_have_the_mean_and_the_spread_of_an_exponential() {
        let gaps = gaps(Arrivals::Poisson, 10_000.0, 100_000);
        let mean = gaps.iter().sum::<f64>() / gaps.len() as f64;
        let variance = gaps.iter().map(|gap| (gap - mean).powi(2)).sum::<f64>() / gaps.len() as f64;
        assert!((mean / 100_000.0 - 1.0).abs() < 0.02, "mean {mean}");
        assert!((variance.sqrt() / mean - 1.0).abs() < 0.02, "deviation {}", variance.sqrt());
    }
}
