//! Waiting for whatever ends next, without a list of tokens: what costs the same with ten thousand operations under way.

use std::time::Duration;

use pdpix::{Completion, Error, Instant};

use crate::libos::LibOs;

impl LibOs {
    /// When a wait of `timeout` that begins now ends, for [`LibOs::wait_next`].
    pub fn deadline_after(&self, timeout: Option<Duration>) -> Option<Instant> {
        timeout.map(|timeout| self.0.clock.now() + timeout)
    }

    /// Runs the core until an operation has ended whose token nobody waits for, and redeems that token; the one that has
    /// been complete for longest comes first. From the first call on the core keeps a list of them.
    ///
    /// # Errors
    /// `TimedOut` (at `deadline`), `Interrupted`, and `WouldDeadlock` from inside a coroutine.
    pub fn wait_next(&self, deadline: Option<Instant>) -> Result<Completion, Error> {
        if self.0.in_pass.get() {
            return Err(Error::WouldDeadlock);
        }
        loop {
            let mut tokens = self.0.tokens.borrow_mut();
            if let Some(qt) = tokens.take_collected() {
                return Ok(tokens.redeem(qt));
            }
            drop(tokens);
            self.check_interrupt()?;
            self.turn(deadline, || self.0.tokens.borrow().has_collected() || self.is_interrupted())?;
            let timed_out = deadline.is_some_and(|deadline| self.now() >= deadline);
            if timed_out && !self.0.tokens.borrow().has_collected() {
                return Err(Error::TimedOut);
            }
        }
    }
}
