//! Where a core's time comes from. One reading a burst: `LibOs::now` is that of the present pass.

use pdpix::{Instant, WallTime};
use rustix::time::{ClockId, clock_gettime};

/// A host's clock.
pub trait Clock {
    /// Monotonic time.
    fn now(&self) -> Instant;
    /// Time of day.
    fn wall(&self) -> WallTime;
}

/// The kernel's clocks: `CLOCK_MONOTONIC` and `CLOCK_REALTIME`, through the vDSO (20 to 45 ns a reading).
#[derive(Clone, Copy, Debug, Default)]
pub struct KernelClock;

impl Clock for KernelClock {
    #[inline]
    fn now(&self) -> Instant {
        let time = clock_gettime(ClockId::Monotonic);
        Instant::from_nanos(time.tv_sec as u64 * 1_000_000_000 + time.tv_nsec as u64)
    }

    fn wall(&self) -> WallTime {
        let time = clock_gettime(ClockId::Realtime);
        WallTime::from_nanos(time.tv_sec as u64 * 1_000_000_000 + time.tv_nsec as u64)
    }
}
