//! What a core does when a pass found nothing: spin, let work gather for a few microseconds, or sleep.
//!
//! A core that sleeps until a descriptor is readable is woken by whoever sends to it, and both pay for that (an interrupt
//! to another processor; on a virtual machine an exit each, some 40 us). A core under load by many clients does better to
//! nap for a fixed short time, unasked: its clients go on without waking anyone, and their work is there when it looks
//! again. docs/idle.md has the measurements. A core with one client at a time spins first, as its next message is close.

use std::cell::Cell;
use std::os::fd::{BorrowedFd, RawFd};
use std::time::Duration;

use pdpix::Instant;
use rustix::event::{PollFd, PollFlags, Timespec, poll};

/// What to do when there is nothing to do.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum IdlePolicy {
    /// Go on polling: the core is ours.
    Spin,
    /// Poll on for a while, or nap when work comes in batches; then sleep until something happens.
    Adaptive(Patience),
    /// Return: the simulator steps the core.
    Stepped,
}

/// How long an adaptive core goes on polling before it sleeps.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Patience {
    /// Without any work for so long, it sleeps.
    pub spin: Duration,
    /// When work came in batches, it naps so long instead of spinning. Zero: never.
    pub gather: Duration,
}

impl Default for Patience {
    fn default() -> Patience {
        Patience { spin: Duration::from_micros(50), gather: Duration::from_micros(20) }
    }
}

impl Default for IdlePolicy {
    fn default() -> IdlePolicy {
        IdlePolicy::Adaptive(Patience::default())
    }
}

/// A device without a descriptor is looked at again after this, and then ever later.
const NAP_MIN: Duration = Duration::from_micros(20);
const NAP_MAX: Duration = Duration::from_millis(1);

/// This many operations ended in one pass: work comes in batches.
const BATCH_MIN: usize = 4;

/// What an adaptive core remembers between passes.
#[derive(Default)]
pub(crate) struct Idle {
    /// Since when there was nothing to do.
    since: Cell<Option<Instant>>,
    /// How large the last batch was; halved by each nap in vain.
    batch: Cell<usize>,
    nap: Cell<Duration>,
}

/// What to do now.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Rest {
    Spin,
    Gather(Duration),
    Sleep,
}

impl Idle {
    /// A pass ended `ended` operations, or was busy otherwise.
    #[inline]
    pub(crate) fn busy(&self, ended: usize) {
        self.since.set(None);
        self.nap.set(NAP_MIN);
        if ended > 0 {
            self.batch.set(ended);
        }
    }

    /// A pass found nothing, at `now`.
    pub(crate) fn rest(&self, now: Instant, patience: Patience) -> Rest {
        let since = self.since.get().unwrap_or(now);
        self.since.set(Some(since));
        if now.since(since) >= patience.spin {
            return Rest::Sleep;
        }
        if self.batch.get() >= BATCH_MIN && !patience.gather.is_zero() {
            self.batch.set(self.batch.get() / 2);
            return Rest::Gather(patience.gather);
        }
        Rest::Spin
    }

    /// How long to nap when a device cannot wake us.
    pub(crate) fn next_nap(&self) -> Duration {
        let nap = self.nap.get().max(NAP_MIN);
        self.nap.set((nap * 2).min(NAP_MAX));
        nap
    }
}

/// Sleeps until one of `descriptors` is readable or `timeout` has passed (`None`: for ever), as a core does. The descriptors
/// are those of backends (`WakeOn::Descriptor`) that outlive the call.
pub fn sleep(descriptors: &[RawFd], timeout: Option<Duration>) {
    let timeout = timeout.map(|t| Timespec { tv_sec: t.as_secs() as i64, tv_nsec: i64::from(t.subsec_nanos()) });
    let mut polled = [const { None }; DESCRIPTORS_MAX];
    for (slot, &descriptor) in polled.iter_mut().zip(descriptors) {
        // SAFETY: a backend's descriptor stays open until the backend is dropped, and a doorbell's until the core is;
        // neither happens during this call.
        let descriptor = unsafe { BorrowedFd::borrow_raw(descriptor) };
        *slot = Some(PollFd::from_borrowed_fd(descriptor, PollFlags::IN));
    }
    // The array of `PollFd`s wants no gaps; what is not used polls the first again.
    match descriptors.len() {
        0 => _ = poll(&mut [], timeout.as_ref()),
        count => {
            let first = polled[0].clone().expect("there is one");
            let mut polled = polled.map(|slot| slot.unwrap_or_else(|| first.clone()));
            // EINTR is as good as a wake-up: the caller polls its devices and comes back.
            let _ = poll(&mut polled[..count], timeout.as_ref());
        }
    }
}

/// Networks and doorbell of one core.
pub(crate) const DESCRIPTORS_MAX: usize = 16;

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;

    const PATIENCE: Patience = Patience { spin: Duration::from_micros(50), gather: Duration::from_micros(20) };

    fn at(micros: u64) -> Instant {
        Instant::from_nanos(micros * 1000)
    }

    #[test]
    fn single_messages_are_spun_for_and_batches_napped_for() {
        let idle = Idle::default();
        idle.busy(1);
        assert_eq!(idle.rest(at(0), PATIENCE), Rest::Spin);
        assert_eq!(idle.rest(at(49), PATIENCE), Rest::Spin);
        assert_eq!(idle.rest(at(50), PATIENCE), Rest::Sleep);
        idle.busy(10);
        assert_eq!(idle.rest(at(60), PATIENCE), Rest::Gather(PATIENCE.gather));
        assert_eq!(idle.rest(at(80), PATIENCE), Rest::Gather(PATIENCE.gather));
        assert_eq!(idle.rest(at(100), PATIENCE), Rest::Spin, "the naps were in vain");
        assert_eq!(idle.rest(at(110), PATIENCE), Rest::Sleep);
    }

    #[test]
    fn naps_grow_until_there_is_work() {
        let idle = Idle::default();
        let naps: Vec<_> = (0..8).map(|_| idle.next_nap().as_micros()).collect();
        assert_eq!(naps, [20, 40, 80, 160, 320, 640, 1000, 1000]);
        idle.busy(1);
        assert_eq!(idle.next_nap(), NAP_MIN);
    }

    #[test]
    #[cfg(not(miri))]
    fn sleep_ends_by_time_and_by_descriptor() {
        let start = std::time::Instant::now();
        sleep(&[], Some(Duration::from_millis(2)));
        assert!(start.elapsed() >= Duration::from_millis(2));
        let (reader, mut writer) = std::io::pipe().unwrap();
        std::io::Write::write_all(&mut writer, b"x").unwrap();
        sleep(&[std::os::fd::AsRawFd::as_raw_fd(&reader)], None);
    }
}
