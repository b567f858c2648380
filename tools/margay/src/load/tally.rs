//! What a core has counted, and what all of them have.

use std::collections::BTreeMap;
use std::time::Duration;

use hdrhistogram::Histogram;

/// Kinds of errors that are told apart; further ones are counted together.
const KINDS_MAX: usize = 32;

/// Counts of the requests that were due in the measured time: every one is answered, or an error.
#[derive(Clone, Debug)]
pub struct Tally {
    /// From when a request was due to its answer: nanoseconds.
    pub latency: Histogram<u64>,
    /// From when a request was due to when it was written: nanoseconds.
    pub lag: Histogram<u64>,
    /// Requests that were due.
    pub asked: u64,
    /// Of them, answered well.
    pub answered: u64,
    /// Answers that came within the measured time, whenever they were asked for.
    pub in_window: u64,
    /// GETs that found their key.
    pub found: u64,
    /// GETs that did not.
    pub missing: u64,
    /// Of what was asked, what went wrong, by kind.
    pub errors: BTreeMap<String, u64>,
    /// What went wrong outside of the measured requests, by kind.
    pub aside: BTreeMap<String, u64>,
    /// Connections made again.
    pub reconnects: u64,
    /// How long was measured.
    pub measured: Duration,
    /// It was interrupted, or could not begin.
    pub cut_short: bool,
}

impl Default for Tally {
    fn default() -> Tally {
        // Up to ten minutes, to three digits.
        let histogram = Histogram::new_with_bounds(1, 600_000_000_000, 3).expect("bounds of a histogram");
        Tally {
            latency: histogram.clone(),
            lag: histogram,
            asked: 0,
            answered: 0,
            in_window: 0,
            found: 0,
            missing: 0,
            errors: BTreeMap::new(),
            aside: BTreeMap::new(),
            reconnects: 0,
            measured: Duration::ZERO,
            cut_short: false,
        }
    }
}

/// Counts `many` of a kind.
pub fn count(kinds: &mut BTreeMap<String, u64>, kind: &str, many: u64) {
    if many == 0 {
        return;
    }
    let kind = if kinds.contains_key(kind) || kinds.len() < KINDS_MAX { kind } else { "other" };
    *kinds.entry(kind.to_owned()).or_default() += many;
}

impl Tally {
    /// Errors of all kinds.
    pub fn errors(&self) -> u64 {
        self.errors.values().sum()
    }

    /// Takes in what another core has counted.
    pub fn add(&mut self, other: &Tally) {
        // Same bounds: it cannot fail.
        self.latency.add(&other.latency).expect("histograms of the same bounds");
        self.lag.add(&other.lag).expect("histograms of the same bounds");
        self.asked += other.asked;
        self.answered += other.answered;
        self.in_window += other.in_window;
        self.found += other.found;
        self.missing += other.missing;
        self.reconnects += other.reconnects;
        other.errors.iter().for_each(|(kind, &many)| count(&mut self.errors, kind, many));
        other.aside.iter().for_each(|(kind, &many)| count(&mut self.aside, kind, many));
        self.measured = self.measured.max(other.measured);
        self.cut_short |= other.cut_short;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tallies_add_up() {
        let mut all = Tally::default();
        for core in 1..=2u64 {
            let mut one = Tally { asked: 10 * core, measured: Duration::from_secs(core), ..Tally::default() };
            one.latency.record(core * 1000).unwrap();
            count(&mut one.errors, "reset", core);
            all.add(&one);
        }
        assert_eq!((all.asked, all.latency.len(), all.errors(), all.measured), (30, 2, 3, Duration::from_secs(2)));
    }

    #[test]
    fn kinds_of_errors_are_bounded() {
        let mut kinds = BTreeMap::new();
        (0..100).for_each(|i| count(&mut kinds, &format!("kind {i}"), 2));
        assert_eq!((kinds.len(), kinds["other"]), (KINDS_MAX + 1, 2 * (100 - KINDS_MAX as u64)));
    }
}
