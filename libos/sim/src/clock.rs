//! The clock of a host: the world's, from another origin. An instant of one host means nothing on another.

use std::cell::Cell;
use std::rc::Rc;
use std::time::Duration;

use libos_runtime::Clock;
use pdpix::{Instant, WallTime};

/// 2030-01-01: any fixed day, so that nothing depends on today.
const WALL_START: u64 = 1_893_456_000_000_000_000;

#[derive(Clone)]
pub(crate) struct HostClock {
    pub(crate) world: Rc<Cell<Instant>>,
    pub(crate) origin: Duration,
    /// So far is the time of day behind, everywhere.
    pub(crate) behind: Rc<Cell<Duration>>,
}

impl HostClock {
    /// What this host calls a moment of the world.
    pub(crate) fn of_world(&self, at: Instant) -> Instant {
        at + self.origin
    }

    /// When that is in the world.
    pub(crate) fn to_world(&self, at: Instant) -> Instant {
        if at == Instant::NEVER { at } else { at - self.origin }
    }
}

impl Clock for HostClock {
    fn now(&self) -> Instant {
        self.of_world(self.world.get())
    }

    fn wall(&self) -> WallTime {
        WallTime::from_nanos(WALL_START + self.world.get().as_nanos() - self.behind.get().as_nanos() as u64)
    }
}
