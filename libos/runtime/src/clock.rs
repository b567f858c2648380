//! Where a core's time comes from. One reading a burst: `LibOs::now` is that of the present pass.

use pdpix::{Instant, WallTime};

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
        Instant::from_nanos(read(libc::CLOCK_MONOTONIC))
    }

    fn wall(&self) -> WallTime {
        WallTime::from_nanos(read(libc::CLOCK_REALTIME))
    }
}

/// Through libc and not through rustix, whose own search for the vDSO crashes where there is none (valgrind).
#[inline]
fn read(clock: libc::clockid_t) -> u64 {
    let mut time = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: a valid place to write to. It cannot fail for these two clocks.
    unsafe { libc::clock_gettime(clock, &mut time) };
    time.tv_sec as u64 * 1_000_000_000 + time.tv_nsec as u64
}
