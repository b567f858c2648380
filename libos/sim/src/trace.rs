//! What happened in a world, in order: the evidence that a run is a function of its seed.

use std::collections::VecDeque;
use std::fmt::Write;

use pdpix::Instant;

/// One thing that happened: on a core (by its number in the world), with two numbers that say more.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
struct Entry {
    at: Instant,
    core: usize,
    what: &'static str,
    first: u64,
    second: u64,
}

/// Entries that are kept when not all are.
const TAIL: usize = 200;

pub(crate) struct WorldTrace {
    entries: VecDeque<Entry>,
    keep: bool,
    count: u64,
    hash: u64,
}

impl WorldTrace {
    pub(crate) fn new(keep: bool) -> WorldTrace {
        WorldTrace { entries: VecDeque::new(), keep, count: 0, hash: 0xcbf2_9ce4_8422_2325 }
    }

    pub(crate) fn note(&mut self, at: Instant, core: usize, what: &'static str, first: u64, second: u64) {
        let mut mix = |word: u64| self.hash = (self.hash ^ word).wrapping_mul(0x0100_0000_01b3).rotate_left(23);
        [at.as_nanos(), core as u64, what.len() as u64, first, second].into_iter().for_each(&mut mix);
        what.bytes().for_each(|byte| mix(u64::from(byte)));
        self.count += 1;
        if !self.keep && self.entries.len() == TAIL {
            self.entries.pop_front();
        }
        self.entries.push_back(Entry { at, core, what, first, second });
    }

    /// A number that stands for everything that happened.
    pub(crate) fn fingerprint(&self) -> u64 {
        self.hash ^ self.count
    }

    /// The last entries, as lines.
    pub(crate) fn lines(&self, last: usize) -> String {
        let mut text = String::new();
        for entry in self.entries.iter().skip(self.entries.len().saturating_sub(last)) {
            let Entry { at, core, what, first, second } = entry;
            let _ = writeln!(text, "{at:?} core {core} {what} {first} {second}");
        }
        text
    }
}
