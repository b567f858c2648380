//! How a thread that blocks in `wait*` is made to return by another one.

use pdpix::Error;

use crate::doorbell::Doorbell;
use crate::libos::LibOs;
use crate::sync::{Arc, AtomicBool, Ordering};

/// Ends the waits of one core, from any thread.
#[derive(Clone)]
pub struct Interrupter {
    asked: Arc<AtomicBool>,
    doorbell: Arc<Doorbell>,
}

impl Interrupter {
    /// The present `wait*` of the core returns `Interrupted`; if there is none, the next one that would block. Asking
    /// twice before it is seen is asking once.
    pub fn interrupt(&self) {
        self.asked.store(true, Ordering::Release);
        self.doorbell.ring();
    }
}

impl LibOs {
    /// What interrupts the waits of this core.
    pub fn interrupter(&self) -> Interrupter {
        Interrupter { asked: self.0.interrupted.clone(), doorbell: self.0.ports.borrow().doorbell().clone() }
    }

    #[inline]
    pub(crate) fn is_interrupted(&self) -> bool {
        self.0.interrupted.load(Ordering::Relaxed)
    }

    /// Takes note of an interruption, once.
    #[inline]
    pub(crate) fn check_interrupt(&self) -> Result<(), Error> {
        if self.is_interrupted() && self.0.interrupted.swap(false, Ordering::Acquire) {
            return Err(Error::Interrupted);
        }
        Ok(())
    }
}
