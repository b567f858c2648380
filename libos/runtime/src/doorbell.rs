//! How a core is woken by other threads: by messages in its rings, and by wakers.
//!
//! The core says that it is about to sleep, looks once more, and sleeps; whoever gives it work writes the work, and then
//! looks whether it sleeps. Both sides have a full fence between their write and their look, so at least one of them
//! sees the other (Dekker): a wake-up is not lost, and a core that is awake costs its peers no system call.

use std::os::fd::{AsFd, AsRawFd, OwnedFd, RawFd};

use crate::sync::{Arc, AtomicBool, Ordering, fence};

/// One core's doorbell. Any thread may ring it.
pub struct Doorbell {
    sleeping: AtomicBool,
    /// A waker was called since the scheduler last looked.
    called: AtomicBool,
    /// Readable after a ring. The simulator's cores have none: they are stepped.
    event: Option<OwnedFd>,
}

impl Doorbell {
    /// A doorbell with a descriptor that a sleeping core waits on.
    ///
    /// # Errors
    /// The system's: no descriptor left.
    pub fn with_descriptor() -> std::io::Result<Arc<Doorbell>> {
        use rustix::event::{EventfdFlags, eventfd};
        let event = eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)?;
        Ok(Doorbell::new(Some(event)))
    }

    /// A doorbell for a core that is stepped and never sleeps.
    pub fn stepped() -> Arc<Doorbell> {
        let doorbell = Doorbell::new(None);
        doorbell.sleeping.store(true, Ordering::Relaxed);
        doorbell
    }

    /// Whether a stepped core's doorbell was rung since the last time: between two steps it always sleeps.
    pub(crate) fn take_rung(&self) -> bool {
        !self.sleeping.swap(true, Ordering::Relaxed)
    }

    fn new(event: Option<OwnedFd>) -> Arc<Doorbell> {
        Arc::new(Doorbell { sleeping: AtomicBool::new(false), called: AtomicBool::new(false), event })
    }

    /// The work is written: wakes the core if it sleeps.
    #[inline]
    pub fn ring(&self) {
        if !cfg!(margay_planted_bug = "lost_wakeup") {
            fence(Ordering::SeqCst);
        }
        if self.sleeping.load(Ordering::Relaxed) {
            self.wake();
        }
    }

    #[cold]
    fn wake(&self) {
        // One ring is enough: whoever takes the flag writes.
        if self.sleeping.swap(false, Ordering::Relaxed)
            && let Some(event) = &self.event
        {
            // It can only fail when the counter is full, and then the descriptor is readable.
            let _ = rustix::io::write(event, &1u64.to_ne_bytes());
        }
    }

    /// A waker has set a bit: the scheduler is to look, and to be woken for it.
    pub(crate) fn call(&self) {
        self.called.store(true, Ordering::Release);
        self.ring();
    }

    /// Whether a waker was called since the last time.
    #[inline]
    pub(crate) fn take_called(&self) -> bool {
        self.called.load(Ordering::Relaxed) && self.called.swap(false, Ordering::Acquire)
    }

    pub(crate) fn is_called(&self) -> bool {
        self.called.load(Ordering::Relaxed)
    }

    /// The core is about to sleep, and will look once more.
    pub(crate) fn lie_down(&self) {
        self.sleeping.store(true, Ordering::Relaxed);
        fence(Ordering::SeqCst);
    }

    /// The core is awake.
    pub(crate) fn get_up(&self) {
        self.sleeping.store(false, Ordering::Relaxed);
        if let Some(event) = &self.event {
            let _ = rustix::io::read(event.as_fd(), &mut [0u8; 8]);
        }
    }

    pub(crate) fn descriptor(&self) -> Option<RawFd> {
        self.event.as_ref().map(AsRawFd::as_raw_fd)
    }
}

#[cfg(all(test, loom))]
mod loom_tests {
    use super::*;
    use crate::sync::AtomicU64;

    /// Catches the planted bug `lost_wakeup`: a missing fence in `ring`.
    #[test]
    fn loom_a_ring_is_never_missed_by_a_core_that_goes_to_sleep() {
        loom::model(|| {
            let (bell, work) = (Doorbell::stepped(), Arc::new(AtomicU64::new(0)));
            let (their_bell, their_work) = (bell.clone(), work.clone());
            let worker = loom::thread::spawn(move || {
                their_work.store(1, Ordering::Relaxed);
                their_bell.ring();
            });
            bell.lie_down();
            let slept = work.load(Ordering::Relaxed) == 0;
            worker.join().unwrap();
            if slept {
                assert!(!bell.sleeping.load(Ordering::Relaxed), "it sleeps, there is work, and nobody woke it");
            }
        });
    }
}
