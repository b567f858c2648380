//! The data path: operations from their submission to their end.
//!
//! An operation on a socket goes to its network; one on a memory queue is done here. What is over at once has its token
//! complete from the start, or, for who asks by `begin_*`, none at all.

use pdpix::{Endpoint, Error, Handle, LogOp, Op, OpId, Outcome, Popped, QToken, Qd, Sga, SocketKind, Submitted};

use crate::counters::count;
use crate::libos::LibOs;
use crate::memory_queue::{Pushed, Taken};
use crate::mesh::{CoreMessage, QueueAddress};
use crate::queue::Kind;
use crate::token::{Ended, OpKind, OpResult, Waiter};
use crate::trace::Event;

/// How an operation began.
#[derive(Debug)]
pub enum Begun {
    /// It is over: this is its result, and there is no token.
    Done(Result<Outcome<Qd>, Error>),
    /// Its token.
    Pending(QToken),
}

/// Where a socket is, and what it is.
#[derive(Clone, Copy)]
struct SocketAt {
    network: u8,
    handle: Handle,
    socket: SocketKind,
}

impl LibOs {
    /// Takes the next connection of a listener.
    ///
    /// # Errors
    /// `BadDescriptor`, `NotSupported` (not a socket), `NoBuffers` (no token), and those of [`Network::submit`](pdpix::Network::submit).
    pub fn accept(&self, qd: Qd) -> Result<QToken, Error> {
        if self.0.returned.get() > 0
            && let Some(qt) = self.take_or_park(qd, OpKind::Accept, 0)?
        {
            return Ok(qt);
        }
        self.submit(qd, OpKind::Accept, 0, Op::Accept)
    }

    /// Connects to a listener.
    ///
    /// # Errors
    /// As [`LibOs::accept`].
    pub fn connect(&self, qd: Qd, to: Endpoint) -> Result<QToken, Error> {
        self.submit(qd, OpKind::Connect, 0, Op::Connect(to))
    }

    /// Hands `sga` over. What a complete push promises depends on the kind of queue (DESIGN §2).
    ///
    /// # Errors
    /// Refused without effect, `sga` dropped: `BadDescriptor`, `InvalidArgument` (it is empty), `NoBuffers` (no token,
    /// no memory), `BrokenPipe`, and those of [`Network::submit`](pdpix::Network::submit).
    #[inline]
    pub fn push(&self, qd: Qd, sga: Sga) -> Result<QToken, Error> {
        if sga.is_empty() {
            self.0.queues.borrow_mut().get(qd)?;
            return Err(Error::InvalidArgument);
        }
        count(&self.0.counters.pushes);
        let mut queues = self.0.queues.borrow_mut();
        match &mut queues.get(qd)?.kind {
            Kind::Memory(queue) => {
                let len = sga.len();
                let mut tokens = self.0.tokens.borrow_mut();
                tokens.reserve()?;
                match queue.push_at_once(sga, len) {
                    Ok(()) => {
                        let qt = tokens.issue_ended(qd, OpKind::Push, len, Ok(Outcome::Pushed))?;
                        self.note_ended(qt, qd, OpKind::Push, len, 0);
                        Ok(qt)
                    }
                    Err(sga) => {
                        drop((tokens, queues));
                        self.push_to_memory(qd, sga)
                    }
                }
            }
            Kind::Attached(attached) => {
                if attached.closed {
                    return Err(Error::BrokenPipe);
                }
                let carried = crate::carried::CarriedSga::new(sga)?;
                let qt = self.issue(qd, OpKind::Push, carried.len())?;
                attached.waiting.push_back((OpId(qt.raw()), carried));
                drop(queues);
                self.send_attached(qd);
                Ok(qt)
            }
            Kind::Socket { .. } => {
                drop(queues);
                let len = sga.len();
                self.submit(qd, OpKind::Push, len, Op::Push(sga))
            }
            Kind::Log { .. } => {
                drop(queues);
                let len = sga.len();
                self.submit_to_log(qd, OpKind::Push, len, LogOp::Append(sga))
            }
        }
    }

    #[cold]
    fn push_to_memory(&self, qd: Qd, sga: Sga) -> Result<QToken, Error> {
        let (len, next) = (sga.len(), self.0.tokens.borrow_mut().next()?);
        let mut queues = self.0.queues.borrow_mut();
        let Kind::Memory(queue) = &mut queues.get(qd)?.kind else { unreachable!("it is a memory queue") };
        let pushed = queue.push(OpId(next.raw()), sga)?;
        drop(queues);
        match pushed {
            Pushed::Waits => self.issue(qd, OpKind::Push, len),
            Pushed::Queued => self.issue_ended(qd, OpKind::Push, len, Ok(Outcome::Pushed)),
            Pushed::Handed(pop, popped) => {
                let qt = self.issue_ended(qd, OpKind::Push, len, Ok(Outcome::Pushed))?;
                self.complete(pop, Ok(Outcome::Popped(popped)));
                Ok(qt)
            }
        }
    }

    /// Hands `sga` over, to be sent to an address, on a datagram queue.
    ///
    /// # Errors
    /// As [`LibOs::push`].
    pub fn push_to(&self, qd: Qd, sga: Sga, to: Endpoint) -> Result<QToken, Error> {
        if sga.is_empty() {
            self.0.queues.borrow_mut().get(qd)?;
            return Err(Error::InvalidArgument);
        }
        count(&self.0.counters.pushes);
        let len = sga.len();
        self.submit(qd, OpKind::Push, len, Op::PushTo(sga, to))
    }

    /// Asks for what comes next: a message, or at most `len_max` bytes of a stream.
    ///
    /// # Errors
    /// `BadDescriptor`, `InvalidArgument` (`len_max` is zero), `EndOfStream`, `NoBuffers` (no token; or, on a memory
    /// queue, no memory for what came from another core), and those of [`Network::submit`](pdpix::Network::submit).
    #[inline]
    pub fn pop(&self, qd: Qd, len_max: usize) -> Result<QToken, Error> {
        if len_max == 0 {
            self.0.queues.borrow_mut().get(qd)?;
            return Err(Error::InvalidArgument);
        }
        count(&self.0.counters.pops);
        if self.0.returned.get() > 0
            && let Some(qt) = self.take_or_park(qd, OpKind::Pop, len_max)?
        {
            return Ok(qt);
        }
        let mut queues = self.0.queues.borrow_mut();
        match &mut queues.get(qd)?.kind {
            Kind::Memory(memory) => {
                let mut tokens = self.0.tokens.borrow_mut();
                tokens.reserve()?;
                match memory.take_at_once(len_max) {
                    Some(sga) => {
                        let popped = Ok(Outcome::Popped(Popped::stream(sga)));
                        let qt = tokens.issue_ended(qd, OpKind::Pop, len_max, popped)?;
                        self.note_ended(qt, qd, OpKind::Pop, len_max, 0);
                        Ok(qt)
                    }
                    None => {
                        drop((tokens, queues));
                        self.pop_from_memory(qd, len_max)
                    }
                }
            }
            Kind::Attached(_) => Err(Error::NotSupported),
            Kind::Socket { .. } => {
                drop(queues);
                self.submit(qd, OpKind::Pop, len_max, Op::Pop { len_max })
            }
            Kind::Log { .. } => {
                drop(queues);
                self.submit_to_log(qd, OpKind::Pop, len_max, LogOp::Read { len_max })
            }
        }
    }

    #[cold]
    fn pop_from_memory(&self, qd: Qd, len_max: usize) -> Result<QToken, Error> {
        let mut queues = self.0.queues.borrow_mut();
        let Kind::Memory(memory) = &mut queues.get(qd)?.kind else { unreachable!("it is a memory queue") };
        let Some(Taken { popped, credit }) = memory.take(len_max, &self.0.heap)? else {
            let qt = self.issue(qd, OpKind::Pop, len_max)?;
            memory.wait(OpId(qt.raw()), len_max);
            return Ok(qt);
        };
        let accepted = memory.accept_waiting();
        drop(queues);
        self.pay_back(accepted, credit);
        self.issue_ended(qd, OpKind::Pop, len_max, Ok(Outcome::Popped(popped)))
    }

    /// Pushes that waited for room in a memory queue are in it; an attached end gets its credit back.
    pub(crate) fn pay_back(&self, accepted: Vec<OpId>, credit: Option<(QueueAddress, usize)>) {
        accepted.into_iter().for_each(|op| self.complete(op, Ok(Outcome::Pushed)));
        if let Some((from, cost)) = credit {
            self.tell(from.core, CoreMessage::Credit { to: from.qd, cost });
        }
    }

    #[inline]
    fn submit(&self, qd: Qd, kind: OpKind, len: usize, what: Op) -> Result<QToken, Error> {
        let Kind::Socket { network, handle, socket } = self.0.queues.borrow_mut().get(qd)?.kind else {
            return Err(Error::NotSupported);
        };
        match self.begin(qd, SocketAt { network, handle, socket }, (kind, len, None), what)? {
            Begun::Pending(qt) => Ok(qt),
            Begun::Done(result) => self.issue_ended(qd, kind, len, result),
        }
    }

    /// Begins an operation on a socket. What is over at once needs no token, and is noted as `at_once`.
    #[inline(always)]
    fn begin(
        &self,
        qd: Qd,
        at: SocketAt,
        (kind, len, at_once): (OpKind, usize, Option<Event>),
        what: Op,
    ) -> Result<Begun, Error> {
        let (inner, SocketAt { network, handle, socket }) = (&*self.0, at);
        let qt = inner.tokens.borrow_mut().next()?;
        let submitted = inner.networks.borrow_mut()[network as usize].network.submit(handle, OpId(qt.raw()), what);
        match submitted {
            Err(refused) => Err(refused),
            Ok(Submitted::Pending) => {
                let issued = self.issue(qd, kind, len)?;
                debug_assert_eq!(issued, qt, "submit issued a token");
                Ok(Begun::Pending(qt))
            }
            Ok(Submitted::Done(result)) => {
                count(&inner.counters.completed_at_once);
                if let Some(event) = at_once {
                    self.note(event, u64::from(qd.raw()), len as u64);
                }
                match result {
                    Ok(Outcome::Pushed) => Ok(Begun::Done(Ok(Outcome::Pushed))),
                    result => Ok(Begun::Done(self.adopt(network, socket, result))),
                }
            }
        }
    }

    /// [`LibOs::push`], for who wants no token for what is over at once.
    ///
    /// # Errors
    /// As [`LibOs::push`].
    #[inline]
    pub fn begin_push(&self, qd: Qd, sga: Sga) -> Result<Begun, Error> {
        let Kind::Socket { network, handle, socket } = self.0.queues.borrow_mut().get(qd)?.kind else {
            return self.push(qd, sga).map(Begun::Pending);
        };
        let len = sga.len();
        if len == 0 {
            return Err(Error::InvalidArgument);
        }
        count(&self.0.counters.pushes);
        let at = SocketAt { network, handle, socket };
        self.begin(qd, at, (OpKind::Push, len, Some(Event::PushAtOnce)), Op::Push(sga))
    }

    /// [`LibOs::pop`], for who wants no token for what is over at once.
    ///
    /// # Errors
    /// As [`LibOs::pop`].
    #[inline]
    pub fn begin_pop(&self, qd: Qd, len_max: usize) -> Result<Begun, Error> {
        if self.0.returned.get() > 0 {
            return self.pop(qd, len_max).map(Begun::Pending);
        }
        let Kind::Socket { network, handle, socket } = self.0.queues.borrow_mut().get(qd)?.kind else {
            return self.pop(qd, len_max).map(Begun::Pending);
        };
        count(&self.0.counters.pops);
        let at = SocketAt { network, handle, socket };
        self.begin(qd, at, (OpKind::Pop, len_max, Some(Event::PopAtOnce)), Op::Pop { len_max })
    }

    #[inline(always)]
    pub(crate) fn issue(&self, qd: Qd, kind: OpKind, len: usize) -> Result<QToken, Error> {
        let qt = self.0.tokens.borrow_mut().issue(qd, kind, len)?;
        self.note_issued(qt, qd, kind, len);
        Ok(qt)
    }

    /// A token that is complete from the start. There is one: the caller has seen to that before it took the result.
    #[inline]
    pub(crate) fn issue_ended(&self, qd: Qd, kind: OpKind, len: usize, result: OpResult) -> Result<QToken, Error> {
        let errno = errno(&result);
        let qt = self.0.tokens.borrow_mut().issue_ended(qd, kind, len, result)?;
        self.note_ended(qt, qd, kind, len, errno);
        Ok(qt)
    }

    #[inline(always)]
    fn note_ended(&self, qt: QToken, qd: Qd, kind: OpKind, len: usize, errno: u64) {
        if self.0.trace.is_on() {
            self.note_issued_now(qt, qd, kind, len);
            self.note(Event::Done, qt.raw(), errno);
        }
    }

    #[inline(always)]
    fn note_issued(&self, qt: QToken, qd: Qd, kind: OpKind, len: usize) {
        if self.0.trace.is_on() {
            self.note_issued_now(qt, qd, kind, len);
        }
    }

    #[inline(never)]
    fn note_issued_now(&self, qt: QToken, qd: Qd, kind: OpKind, len: usize) {
        match kind {
            OpKind::Push => self.note(Event::Push, qt.raw(), len as u64),
            OpKind::Pop => self.note(Event::Pop, qt.raw(), len as u64),
            OpKind::Accept => self.note(Event::Accept, qt.raw(), u64::from(qd.raw())),
            OpKind::Connect => self.note(Event::Connect, qt.raw(), u64::from(qd.raw())),
            OpKind::Seek => self.note(Event::Seek, qt.raw(), len as u64),
            OpKind::Chase => self.note(Event::Chase, qt.raw(), len as u64),
            OpKind::Truncate => self.note(Event::Truncate, qt.raw(), len as u64),
        }
    }

    /// Gives an accepted handle a descriptor.
    #[inline]
    pub(crate) fn adopt(&self, network: u8, socket: SocketKind, result: Result<Outcome<Handle>, Error>) -> OpResult {
        Ok(match result? {
            Outcome::Accepted { queue, peer } => {
                Outcome::Accepted { queue: self.add_socket(network, queue, socket)?, peer }
            }
            Outcome::Pushed => Outcome::Pushed,
            Outcome::Popped(popped) => Outcome::Popped(popped),
            Outcome::Connected => Outcome::Connected,
            Outcome::Appended { sequence } => Outcome::Appended { sequence },
            Outcome::Old(old) => Outcome::Old(old),
            _ => return Err(Error::NotSupported),
        })
    }

    /// An operation of a network has ended.
    #[inline]
    pub(crate) fn complete_from(&self, network: u8, op: OpId, result: Result<Outcome<Handle>, Error>) {
        count(&self.0.counters.completed_later);
        match result {
            Ok(Outcome::Popped(popped)) => self.complete(op, Ok(Outcome::Popped(popped))),
            Ok(Outcome::Pushed) => self.complete(op, Ok(Outcome::Pushed)),
            other => self.complete(op, self.adopt_for(network, op, other)),
        }
    }

    #[cold]
    fn adopt_for(&self, network: u8, op: OpId, result: Result<Outcome<Handle>, Error>) -> OpResult {
        // An accept's queue may be closed by now; what it accepted is of the same kind.
        let (qd, _) = self.0.tokens.borrow().of_op(op);
        let socket = match self.0.queues.borrow_mut().get(qd).map(|queue| &queue.kind) {
            Ok(Kind::Socket { socket, .. }) => *socket,
            _ => SocketKind::Stream,
        };
        self.adopt(network, socket, result)
    }

    /// An operation has ended: its token is complete, and its one waiter woken.
    #[inline]
    pub(crate) fn complete(&self, op: OpId, result: OpResult) {
        if self.0.returned.get() == 0 {
            return self.complete_here(op, result);
        }
        if let Some(result) = self.intercept(op, result) {
            self.complete_here(op, result);
        }
    }

    /// The same for an end that is its user's.
    #[inline]
    pub(crate) fn complete_here(&self, op: OpId, result: OpResult) {
        self.note(Event::Done, op.0, errno(&result));
        let ended = self.0.tokens.borrow_mut().end(op, result);
        match ended {
            Ended::Complete(waiter) => self.notify(waiter),
            Ended::Abandoned(result) => self.discard(*result),
        }
    }

    #[inline]
    pub(crate) fn notify(&self, waiter: Waiter) {
        match waiter {
            Waiter::None => {}
            Waiter::Coroutine(place) => self.0.scheduler.wake(place),
            Waiter::Caller => self.0.caller_woken.set(true),
            Waiter::Foreign(waker) => waker.wake(),
        }
    }
}

#[inline(always)]
fn errno(result: &OpResult) -> u64 {
    match result {
        Ok(_) => 0,
        Err(error) => error.errno() as u64,
    }
}
