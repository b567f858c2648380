//! What happens when a handler panics.
//!
//! The actor is dropped, with its sessions and listeners; those who watch it are told; what is in its mailbox is counted
//! and lost. Then its supervisor starts a new incarnation, or does not. The state of the framework and the runtime is
//! never touched by a handler, so it can be trusted afterwards; a panic anywhere else ends the process.

use std::collections::VecDeque;
use std::time::Duration;

use pdpix::Instant;

/// How an actor is restarted.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Policy {
    /// So many restarts ...
    pub restarts_max: u32,
    /// ... within this time. Beyond that the actor stays down.
    pub within: Duration,
    /// The pause before the first restart; doubled by each one that follows within the time.
    pub pause: Duration,
    /// If it stays down, the service is of no use: stop it.
    pub essential: bool,
}

impl Policy {
    /// Never restarted.
    pub const NEVER: Policy =
        Policy { restarts_max: 0, within: Duration::ZERO, pause: Duration::ZERO, essential: false };

    /// Five times a minute, the first time at once; then the service stops.
    pub const ESSENTIAL: Policy =
        Policy { restarts_max: 5, within: Duration::from_secs(60), pause: Duration::from_millis(10), essential: true };
}

impl Default for Policy {
    /// Five times a minute; then it stays down.
    fn default() -> Policy {
        Policy { essential: false, ..Policy::ESSENTIAL }
    }
}

/// What to do about a panic.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Verdict {
    Restart { after: Duration },
    StayDown,
    StopService,
}

/// The panics of one actor, as far as they count.
#[derive(Default, Debug)]
pub(crate) struct Record {
    panics: VecDeque<Instant>,
}

impl Record {
    /// A handler has panicked at `now`.
    pub(crate) fn judge(&mut self, policy: &Policy, now: Instant) -> Verdict {
        while self.panics.front().is_some_and(|&then| now.since(then) > policy.within) {
            self.panics.pop_front();
        }
        let before = self.panics.len() as u32;
        if before >= policy.restarts_max {
            return if policy.essential { Verdict::StopService } else { Verdict::StayDown };
        }
        self.panics.push_back(now);
        let after = if before == 0 { Duration::ZERO } else { policy.pause * 2u32.saturating_pow(before - 1) };
        Verdict::Restart { after }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn restarts_come_slower_and_end_but_the_past_is_forgotten() {
        let policy = Policy {
            restarts_max: 3,
            within: Duration::from_secs(10),
            pause: Duration::from_millis(100),
            essential: false,
        };
        let mut record = Record::default();
        let at = |seconds: u64| Instant::from_nanos(seconds * 1_000_000_000);
        let restart = |millis| Verdict::Restart { after: Duration::from_millis(millis) };
        assert_eq!(record.judge(&policy, at(1)), restart(0));
        assert_eq!(record.judge(&policy, at(2)), restart(100));
        assert_eq!(record.judge(&policy, at(3)), restart(200));
        assert_eq!(record.judge(&policy, at(4)), Verdict::StayDown);
        assert_eq!(record.judge(&policy, at(12)), restart(200), "the first is more than ten seconds ago");
        assert_eq!(record.judge(&Policy { essential: true, ..policy }, at(12)), Verdict::StopService);
        assert_eq!(record.judge(&policy, at(100)), restart(0));
    }
}
