//! Waiting for tokens, redeeming them, cancelling their operations, and giving them up.

use std::cell::RefMut;
use std::time::Duration;

use pdpix::{Completion, Error, OpId, Outcome, QToken, Qd};

use crate::libos::LibOs;
use crate::queue::Kind;
use crate::token::{TokenTable, Waiter};
use crate::trace::Event;

/// See [`LibOs::complete_in_place`].
pub struct InPlace<'a> {
    tokens: RefMut<'a, TokenTable>,
    index: usize,
}

impl InPlace<'_> {
    /// The queue, and what came of the operation.
    #[inline(always)]
    pub fn result(&mut self) -> Option<(Qd, &mut Result<Outcome<Qd>, Error>)> {
        self.tokens.complete_at(self.index)
    }

    /// Redeems the token. The user has taken of the result what is to be dropped: the rest is forgotten.
    #[inline(always)]
    pub fn redeem(mut self) {
        self.tokens.redeem_at(self.index);
    }
}

impl std::fmt::Debug for InPlace<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "InPlace({})", self.index)
    }
}

impl LibOs {
    /// Runs the core until the operation of `qt` has ended, or `timeout` has passed; then the token stays valid.
    ///
    /// # Errors
    /// `BadToken`, `StaleToken`, `TokenBusy`, `TimedOut`, `Interrupted` (by an [`Interrupter`](crate::Interrupter)), and
    /// `WouldDeadlock` from inside a coroutine, or when nothing is left that could complete it.
    #[inline]
    pub fn wait(&self, qt: QToken, timeout: Option<Duration>) -> Result<Completion, Error> {
        if !self.0.in_pass.get() {
            let mut tokens = self.0.tokens.borrow_mut();
            if tokens.is_complete(qt)? {
                return Ok(tokens.redeem(qt));
            }
        }
        self.wait_slowly(qt, timeout)
    }

    #[cold]
    fn wait_slowly(&self, qt: QToken, timeout: Option<Duration>) -> Result<Completion, Error> {
        self.wait_until_complete(qt, timeout)?;
        Ok(self.0.tokens.borrow_mut().redeem(qt))
    }

    /// The same without redeeming the token, which stays valid.
    ///
    /// # Errors
    /// As [`LibOs::wait`].
    pub fn wait_until_complete(&self, qt: QToken, timeout: Option<Duration>) -> Result<(), Error> {
        if self.0.in_pass.get() {
            return Err(Error::WouldDeadlock);
        }
        let mut tokens = self.0.tokens.borrow_mut();
        if tokens.is_complete(qt)? {
            return Ok(());
        }
        tokens.wait(qt, Waiter::Caller)?;
        drop(tokens);
        let result = self.turn_until_complete(qt, timeout);
        self.0.tokens.borrow_mut().unwait(qt);
        result
    }

    fn turn_until_complete(&self, qt: QToken, timeout: Option<Duration>) -> Result<(), Error> {
        let deadline = timeout.map(|timeout| self.0.clock.now() + timeout);
        loop {
            self.check_interrupt()?;
            self.0.caller_woken.set(false);
            self.turn(deadline, || self.0.caller_woken.get() || self.is_interrupted())?;
            if self.0.tokens.borrow_mut().is_complete(qt)? {
                return Ok(());
            }
            if deadline.is_some_and(|deadline| self.now() >= deadline) {
                return Err(Error::TimedOut);
            }
        }
    }

    /// Which of these tokens is the first whose operation has ended, if any has. Runs nothing.
    ///
    /// # Errors
    /// `BadToken`, `StaleToken`, of any of them.
    pub fn first_complete(&self, tokens: &[QToken]) -> Result<Option<usize>, Error> {
        self.0.tokens.borrow_mut().first_complete(tokens)
    }

    /// Runs the core until one of the operations has ended: gives its place in the list and its completion. The others
    /// stay valid.
    ///
    /// # Errors
    /// As [`LibOs::wait`]; `InvalidArgument` if the list is empty.
    pub fn wait_any(&self, tokens: &[QToken], timeout: Option<Duration>) -> Result<(usize, Completion), Error> {
        if self.0.in_pass.get() {
            return Err(Error::WouldDeadlock);
        }
        if tokens.is_empty() {
            return Err(Error::InvalidArgument);
        }
        for &qt in tokens {
            self.0.tokens.borrow_mut().is_complete(qt)?;
        }
        for (i, &qt) in tokens.iter().enumerate() {
            let mut table = self.0.tokens.borrow_mut();
            // A complete one has no waiter to be registered.
            let registered = if table.is_complete(qt)? { Ok(()) } else { table.wait(qt, Waiter::Caller) };
            drop(table);
            if let Err(busy) = registered {
                tokens[..i].iter().for_each(|&qt| self.0.tokens.borrow_mut().unwait(qt));
                return Err(busy);
            }
        }
        let result = self.wait_for_one(tokens, timeout);
        tokens.iter().for_each(|&qt| self.0.tokens.borrow_mut().unwait(qt));
        result
    }

    fn wait_for_one(&self, tokens: &[QToken], timeout: Option<Duration>) -> Result<(usize, Completion), Error> {
        let deadline = timeout.map(|timeout| self.0.clock.now() + timeout);
        loop {
            self.0.caller_woken.set(false);
            for (i, &qt) in tokens.iter().enumerate() {
                if let Some(completion) = self.try_redeem(qt)? {
                    return Ok((i, completion));
                }
            }
            self.check_interrupt()?;
            self.turn(deadline, || self.0.caller_woken.get() || self.is_interrupted())?;
            if deadline.is_some_and(|deadline| self.now() >= deadline) && !self.0.caller_woken.get() {
                return Err(Error::TimedOut);
            }
        }
    }

    /// Runs the core until all operations have ended: their completions, in the order of the list.
    ///
    /// # Errors
    /// As [`LibOs::wait_any`]; `InvalidArgument` also if a token is there twice. On `TimedOut` all tokens stay valid.
    pub fn wait_all(&self, tokens: &[QToken], timeout: Option<Duration>) -> Result<Vec<Completion>, Error> {
        if self.0.in_pass.get() {
            return Err(Error::WouldDeadlock);
        }
        if tokens.is_empty() || (1..tokens.len()).any(|i| tokens[..i].contains(&tokens[i])) {
            return Err(Error::InvalidArgument);
        }
        let start = self.0.clock.now();
        for &qt in tokens {
            self.0.tokens.borrow_mut().is_complete(qt)?;
        }
        for &qt in tokens {
            // Waits without redeeming, so that nothing is lost when a later one times out.
            while !self.0.tokens.borrow_mut().is_complete(qt)? {
                self.check_interrupt()?;
                self.0.tokens.borrow_mut().wait(qt, Waiter::Caller)?;
                self.0.caller_woken.set(false);
                let deadline = timeout.map(|timeout| start + timeout);
                let turned = self.turn(deadline, || self.0.caller_woken.get() || self.is_interrupted());
                self.0.tokens.borrow_mut().unwait(qt);
                turned?;
                if deadline.is_some_and(|deadline| self.now() >= deadline)
                    && !self.0.tokens.borrow_mut().is_complete(qt)?
                {
                    return Err(Error::TimedOut);
                }
            }
        }
        tokens.iter().map(|&qt| Ok(self.try_redeem(qt)?.expect("all are complete"))).collect()
    }

    /// Redeems a token if its operation has ended.
    ///
    /// # Errors
    /// `BadToken`, `StaleToken`.
    #[inline]
    pub fn try_redeem(&self, qt: QToken) -> Result<Option<Completion>, Error> {
        let mut tokens = self.0.tokens.borrow_mut();
        if tokens.is_complete(qt)? { Ok(Some(tokens.redeem(qt))) } else { Ok(None) }
    }

    /// An operation that has ended, with its result where it lies, for who wants it somewhere else than in a [`Completion`];
    /// `None`: it has not, or this is no token. Nothing else of this core is called meanwhile. Neither this nor what it gives
    /// panics.
    #[inline(always)]
    pub fn complete_in_place(&self, qt: QToken) -> Option<InPlace<'_>> {
        let tokens = self.0.tokens.try_borrow_mut().ok()?;
        if self.0.in_pass.get() {
            return None;
        }
        Some(InPlace { index: tokens.place_of_complete(qt)?, tokens })
    }

    /// Asks for the end of an operation. Its token completes with `Canceled`, or with its true result if that was first:
    /// it is still to be redeemed. A stream push that has started goes on.
    ///
    /// # Errors
    /// `BadToken`, `StaleToken`.
    pub fn cancel(&self, qt: QToken) -> Result<(), Error> {
        let qd = self.0.tokens.borrow_mut().queue_of(qt)?;
        if self.0.tokens.borrow_mut().ask_cancel(qt)? {
            self.cancel_operation(qd, qt);
        }
        Ok(())
    }

    /// Gives a token up: cancels its operation, and what that brings goes back to its queue.
    pub(crate) fn abandon(&self, qt: QToken) {
        let mut tokens = self.0.tokens.borrow_mut();
        let Ok(qd) = tokens.queue_of(qt) else { return };
        let sequence = tokens.sequence_of(OpId(qt.raw()));
        let abandoned = tokens.abandon(qt);
        drop(tokens);
        match abandoned {
            Ok(Some(completion)) => self.give_back(qd, sequence, completion.result),
            Ok(None) => self.give_up_pending(qd, qt),
            Err(_) => {}
        }
    }

    #[cold]
    pub(crate) fn cancel_operation(&self, qd: Qd, qt: QToken) {
        self.note(Event::Cancel, qt.raw(), 0);
        let op = OpId(qt.raw());
        if self.0.returned.get() > 0 && self.cancel_parked(qd, op) {
            return;
        }
        let mut queues = self.0.queues.borrow_mut();
        let Ok(queue) = queues.get(qd) else { return }; // closed: its end is on the way
        let waited = match &mut queue.kind {
            &mut Kind::Socket { network, handle, .. } => {
                drop(queues);
                return self.0.networks.borrow_mut()[network as usize].network.cancel(handle, op);
            }
            &mut Kind::Log { storage, handle } => {
                drop(queues);
                return self.0.storages.borrow_mut()[storage as usize].storage.cancel(handle, op);
            }
            Kind::Memory(memory) => memory.cancel(op),
            Kind::Attached(attached) => {
                let before = attached.waiting.len();
                attached.waiting.retain(|(waiting, _)| *waiting != op);
                before != attached.waiting.len()
            }
        };
        drop(queues);
        if waited {
            self.complete(op, Err(Error::Canceled));
        }
    }

    /// Operations between submission and redemption.
    pub fn tokens_in_use(&self) -> usize {
        self.0.tokens.borrow().used()
    }

    /// Queues that are not closed.
    pub fn queues_in_use(&self) -> usize {
        self.0.queues.borrow().len()
    }

    /// Closed sockets and logs whose buffers a device still holds.
    pub fn zombies(&self) -> usize {
        let networks: usize = self.0.networks.borrow().iter().map(|named| named.network.zombies()).sum();
        let storages: usize = self.0.storages.borrow().iter().map(|named| named.storage.zombies()).sum();
        networks + storages
    }
}
