//! A long conversation as an `async fn`: it owns its queues, reaches actors by their mailboxes only, and has time and
//! chance from here.

use std::any::Any;
use std::cell::RefCell;
use std::future::Future;
use std::rc::Rc;
use std::task::{Poll, Waker};
use std::time::Duration;

use libos_runtime::{Coroutine, LibOs, Parcel};
use pdpix::{Endpoint, Error, Instant, Qd, Rng, Sga, SocketKind, WallTime};
use slab::Slab;

use crate::actor::{Actor, ActorId, Address, AskError, ReplyTo, Ticket};
use crate::carry::Carry;
use crate::effects::RemoteMail;
use crate::system::System;

/// What an `async fn` on a core has to do with the world.
#[derive(Clone)]
pub struct Task {
    system: System,
    rng: Rc<RefCell<Rng>>,
}

impl System {
    /// Starts a conversation.
    pub fn task<T: 'static, F: Future<Output = T> + 'static>(&self, body: impl FnOnce(Task) -> F) -> Coroutine<T> {
        let rng = Rc::new(RefCell::new(self.libos().fork_rng()));
        self.libos().spawn(body(Task { system: self.clone(), rng }))
    }
}

impl Task {
    /// The library OS of this core.
    pub fn libos(&self) -> &LibOs {
        self.system.libos()
    }

    /// The actors of this core.
    pub fn system(&self) -> &System {
        &self.system
    }

    /// Monotonic time.
    pub fn now(&self) -> Instant {
        self.libos().now()
    }

    /// The time of day.
    pub fn wall(&self) -> WallTime {
        self.libos().wall()
    }

    /// A random number below `bound`, which is not zero.
    pub fn below(&self, bound: u64) -> u64 {
        self.rng.borrow_mut().below(bound)
    }

    /// Waits.
    pub async fn sleep(&self, duration: Duration) {
        self.libos().sleep(duration).await;
    }

    /// The result of `future`, unless `duration` passes first.
    ///
    /// # Errors
    /// `TimedOut`.
    pub async fn timeout<T>(&self, duration: Duration, future: impl Future<Output = T>) -> Result<T, Error> {
        self.libos().timeout(duration, future).await
    }

    /// Connects a stream on the network called `on`, or the first one.
    ///
    /// # Errors
    /// Those of the network.
    pub async fn connect(&self, to: Endpoint, on: Option<&str>) -> Result<Stream, Error> {
        let libos = self.libos();
        let stream = Stream { qd: libos.socket(SocketKind::Stream, on)?, libos: libos.clone() };
        libos.redeem(libos.connect(stream.qd, to)?).await?.done()?;
        Ok(stream)
    }

    /// Sends a message to an actor, on whichever core.
    ///
    /// # Errors
    /// The message back: no room, or nobody, as far as that is known at once.
    pub fn send<B: Actor>(&self, to: Address<B>, message: B::Message) -> Result<(), B::Message> {
        self.system.send(to, message)
    }

    /// Asks an actor, on whichever core.
    ///
    /// # Errors
    /// [`AskError`].
    pub async fn ask<B: Actor, T: Carry>(
        &self,
        to: Address<B>,
        timeout: Duration,
        make: impl FnOnce(ReplyTo<T>) -> B::Message,
    ) -> Result<T, AskError> {
        let pending: Rc<Pending<T>> = Rc::new(Pending(RefCell::new((None, None))));
        let asker = ActorId { core: self.libos().core(), slot: TASK_SLOT, generation: 0 };
        let ticket = self.system.task_asks().borrow_mut().open(to.id(), pending.clone());
        let reply = ReplyTo { asker, ticket, deliver: deliver_answer::<T> };
        self.post(to, asker, ticket, make(reply))?;
        let answer = std::future::poll_fn(|cx| {
            let mut state = pending.0.borrow_mut();
            match state.0.take() {
                Some(result) => Poll::Ready(result),
                None => {
                    state.1 = Some(cx.waker().clone());
                    Poll::Pending
                }
            }
        });
        let answered = self.timeout(timeout, answer).await;
        self.system.task_asks().borrow_mut().close(ticket);
        answered.unwrap_or(Err(AskError::TimedOut))
    }

    fn post<B: Actor>(
        &self,
        to: Address<B>,
        asker: ActorId,
        ticket: Ticket,
        message: B::Message,
    ) -> Result<(), AskError> {
        let to = to.id();
        if to.core() == self.libos().core() {
            let cell = self.system.typed_cell::<B>(to).ok_or(AskError::Down)?;
            cell.send(message).map_err(|_| AskError::Busy)?;
            self.system.enqueue(cell);
            return Ok(());
        }
        let carried = message.carry().map_err(|_| AskError::Busy)?;
        let mail = RemoteMail::<B::Message> { to, from: asker, ticket: Some(ticket), carried };
        self.libos().send_parcel(to.core(), Parcel::delivering(mail), true).map_err(|_| AskError::Busy)
    }
}

/// The slot that stands for the tasks of a core where an asker is named.
pub(crate) const TASK_SLOT: u32 = u32::MAX;

/// Questions of tasks that are not answered yet.
#[derive(Default)]
pub(crate) struct TaskAsks {
    asks: Slab<(u32, ActorId, Rc<dyn AnyPending>)>,
    asked: u32,
}

impl TaskAsks {
    fn open(&mut self, to: ActorId, pending: Rc<dyn AnyPending>) -> Ticket {
        self.asked = self.asked.wrapping_add(1);
        let index = self.asks.insert((self.asked, to, pending));
        Ticket(u64::from(self.asked) << 32 | index as u64)
    }

    fn close(&mut self, ticket: Ticket) -> Option<Rc<dyn AnyPending>> {
        let (index, generation) = (ticket.0 as u32 as usize, (ticket.0 >> 32) as u32);
        let there = self.asks.get(index).is_some_and(|ask| ask.0 == generation);
        there.then(|| self.asks.remove(index).2)
    }

    pub(crate) fn fail(&mut self, ticket: Ticket, why: AskError) {
        if let Some(pending) = self.close(ticket) {
            pending.fail(why);
        }
    }

    pub(crate) fn fail_all_to(&mut self, dead: ActorId) {
        let failed = self.asks.iter().filter(|(_, ask)| ask.1 == dead);
        let failed: Vec<usize> = failed.map(|(index, _)| index).collect();
        failed.into_iter().for_each(|index| self.asks.remove(index).2.fail(AskError::Down));
    }
}

struct Pending<T>(RefCell<PendingState<T>>);

/// The answer, when it is there, and whom to wake.
type PendingState<T> = (Option<Result<T, AskError>>, Option<Waker>);

trait AnyPending {
    fn fail(&self, why: AskError);
    fn into_any(self: Rc<Self>) -> Rc<dyn Any>;
}

impl<T: 'static> Pending<T> {
    fn answer(&self, result: Result<T, AskError>) {
        let mut state = self.0.borrow_mut();
        state.0 = Some(result);
        if let Some(waker) = state.1.take() {
            waker.wake();
        }
    }
}

impl<T: 'static> AnyPending for Pending<T> {
    fn fail(&self, why: AskError) {
        self.answer(Err(why));
    }

    fn into_any(self: Rc<Self>) -> Rc<dyn Any> {
        self
    }
}

fn deliver_answer<T: 'static>(system: &System, _: ActorId, ticket: Ticket, result: Result<T, AskError>) {
    let pending = system.task_asks().borrow_mut().close(ticket);
    match pending.and_then(|pending| pending.into_any().downcast::<Pending<T>>().ok()) {
        Some(pending) => pending.answer(result),
        None => system.count_lost(),
    }
}

/// A connected stream, owned. Dropping it closes the queue: what was pushed is still sent.
pub struct Stream {
    libos: LibOs,
    qd: Qd,
}

impl Stream {
    /// Its descriptor.
    pub fn qd(&self) -> Qd {
        self.qd
    }

    /// The next bytes, at most `len_max`; empty at the end of the stream.
    ///
    /// # Errors
    /// Those of the network.
    pub async fn pop(&self, len_max: usize) -> Result<Sga, Error> {
        Ok(self.libos.redeem(self.libos.pop(self.qd, len_max)?).await?.popped()?.sga)
    }

    /// Hands bytes over to be sent; ends when they are accepted.
    ///
    /// # Errors
    /// Those of the network.
    pub async fn push(&self, sga: Sga) -> Result<(), Error> {
        self.libos.redeem(self.libos.push(self.qd, sga)?).await?.done()
    }

    /// Ends our direction.
    ///
    /// # Errors
    /// Those of the network.
    pub fn finish(&self) -> Result<(), Error> {
        self.libos.finish(self.qd)
    }
}

impl Drop for Stream {
    fn drop(&mut self) {
        let _ = self.libos.close(self.qd);
    }
}
