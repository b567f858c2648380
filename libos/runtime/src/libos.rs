//! The library OS of one core, as its users see it: the calls of PDPIX.
//!
//! `LibOs` is a handle, cheap to clone, that stays on its core. `Core` (in `core.rs`) owns the state and runs the loop.
//! No call blocks but `wait*`, and those run the loop meanwhile.

use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::time::Duration;

use libos_mem::{BufMut, Heap};
use pdpix::{
    Completion, Completions, Endpoint, Error, Handle, Instant, Network, Op, OpId, OptionName, Outcome, Popped, QToken,
    Qd, Rng, Seed, Sga, SocketKind, SocketOption, Submitted, WallTime,
};

use crate::clock::Clock;
use crate::counters::{CounterReading, Counters, count};
use crate::idle::{Idle, IdlePolicy};
use crate::memory_queue::{MemoryQueue, Pushed, Taken};
use crate::mesh::{Attached, CoreMessage, Ports, QueueAddress};
use crate::parcel::Parcel;
use crate::queue::{Kind, Queue, QueueTable};
use crate::scheduler::Scheduler;
use crate::token::{Ended, OpKind, OpResult, TokenTable, Waiter};
use crate::trace::{Event, Trace};
use crate::wheel::Wheel;

/// How an operation began.
#[derive(Debug)]
pub enum Begun {
    /// It is over: this is its result, and there is no token.
    Done(Result<Outcome<Qd>, Error>),
    /// Its token.
    Pending(QToken),
}

/// What to do with messages from other cores that are not the runtime's own.
pub type CoreReceiver = Box<dyn FnMut(u8, Parcel)>;

pub(crate) struct NamedNetwork {
    pub(crate) name: String,
    pub(crate) network: Box<dyn Network>,
}

pub(crate) struct Inner {
    pub(crate) heap: Heap,
    pub(crate) clock: Box<dyn Clock>,
    pub(crate) now: Cell<Instant>,
    /// Read when first asked for in a pass.
    pub(crate) wall: Cell<Option<WallTime>>,
    /// A pass is under way: nobody may wait.
    pub(crate) in_pass: Cell<bool>,
    pub(crate) core: u8,
    pub(crate) cores: usize,
    pub(crate) scheduler: Scheduler,
    pub(crate) tokens: RefCell<TokenTable>,
    pub(crate) queues: RefCell<QueueTable>,
    pub(crate) networks: RefCell<Vec<NamedNetwork>>,
    pub(crate) completions: RefCell<Completions>,
    pub(crate) timers: RefCell<Wheel<Waiter>>,
    pub(crate) ports: RefCell<Ports>,
    /// Attached queues with pushes that found the ring full.
    pub(crate) stalled: RefCell<Vec<Qd>>,
    pub(crate) receiver: RefCell<Option<CoreReceiver>>,
    /// Queues that have returned results, or wait for them (`returned.rs`).
    pub(crate) returned: Cell<usize>,
    /// A token that a blocking `wait` waits for has ended.
    pub(crate) caller_woken: Cell<bool>,
    pub(crate) stop: Cell<bool>,
    pub(crate) burst: Cell<usize>,
    pub(crate) idle_policy: IdlePolicy,
    pub(crate) idle: Idle,
    pub(crate) rng: RefCell<Rng>,
    pub(crate) seed: Seed,
    pub(crate) counters: Counters,
    pub(crate) trace: Trace,
}

/// The library OS of the calling core. Clones are the same.
#[derive(Clone)]
pub struct LibOs(pub(crate) Rc<Inner>);

// Control path.
impl LibOs {
    /// A queue of this kind on the network called `on`, or on the first one.
    ///
    /// # Errors
    /// `NotFound` (no such network, or none at all), and those of [`Network::open`].
    pub fn socket(&self, kind: SocketKind, on: Option<&str>) -> Result<Qd, Error> {
        let mut networks = self.0.networks.borrow_mut();
        let index = match on {
            Some(name) => networks.iter().position(|n| n.name == name),
            None => (!networks.is_empty()).then_some(0),
        };
        let index = index.ok_or(Error::NotFound)?;
        let handle = networks[index].network.open(kind)?;
        drop(networks);
        self.add_socket(index as u8, handle, kind)
    }

    fn add_socket(&self, network: u8, handle: Handle, socket: SocketKind) -> Result<Qd, Error> {
        let added = self.0.queues.borrow_mut().add(Kind::Socket { network, handle, socket });
        match added {
            Ok(qd) => self.note(Event::Open, u64::from(qd.raw()), socket as u64),
            Err(_) => self.0.networks.borrow_mut()[network as usize].network.close(handle),
        }
        added
    }

    /// A memory queue of this core: a channel. Its budget is that of [`SocketOption::SendBudget`].
    ///
    /// # Errors
    /// `TooManyQueues`.
    pub fn queue(&self) -> Result<Qd, Error> {
        self.0.queues.borrow_mut().add(Kind::Memory(Box::new(MemoryQueue::new())))
    }

    /// Where the memory queue `qd` is, to be told to other cores of this host.
    ///
    /// # Errors
    /// `BadDescriptor`, `NotSupported` (not a memory queue).
    pub fn address_of(&self, qd: Qd) -> Result<QueueAddress, Error> {
        match &self.0.queues.borrow_mut().get(qd)?.kind {
            Kind::Memory(_) => Ok(QueueAddress { core: self.core(), qd }),
            _ => Err(Error::NotSupported),
        }
    }

    /// A queue whose pushes go to the memory queue at `address`, on whichever core that is. A push is complete when it
    /// is on its way; pushes beyond `budget` wait for the other side to pop.
    ///
    /// # Errors
    /// `TooManyQueues`, `AddressNotAvailable` (no such core).
    pub fn attach(&self, address: QueueAddress, budget: usize) -> Result<Qd, Error> {
        if address.core as usize >= self.cores() {
            return Err(Error::AddressNotAvailable);
        }
        self.0.queues.borrow_mut().add(Kind::Attached(Box::new(Attached::new(address, budget))))
    }

    /// See [`Network::bind`].
    ///
    /// # Errors
    /// `BadDescriptor`, `NotSupported` (not a socket), and those of [`Network::bind`].
    pub fn bind(&self, qd: Qd, at: Endpoint) -> Result<Endpoint, Error> {
        self.on_network(qd, |network, handle| network.bind(handle, at))
    }

    /// See [`Network::listen`].
    ///
    /// # Errors
    /// As [`LibOs::bind`], with those of [`Network::listen`].
    pub fn listen(&self, qd: Qd, backlog: u32) -> Result<(), Error> {
        self.on_network(qd, |network, handle| network.listen(handle, backlog))
    }

    /// Changes a property. Of a memory queue only the send budget can be changed.
    ///
    /// # Errors
    /// As [`LibOs::bind`], with those of [`Network::set_option`].
    pub fn set_option(&self, qd: Qd, option: SocketOption) -> Result<(), Error> {
        let mut queues = self.0.queues.borrow_mut();
        if let Kind::Memory(queue) = &mut queues.get(qd)?.kind {
            let accepted = match option {
                SocketOption::SendBudget(0) => return Err(Error::InvalidArgument),
                SocketOption::SendBudget(budget) => queue.set_budget(budget),
                _ => return Err(Error::NotSupported),
            };
            drop(queues);
            self.pay_back(accepted, None);
            return Ok(());
        }
        drop(queues);
        self.on_network(qd, |network, handle| network.set_option(handle, option))
    }

    /// Asks for a property.
    ///
    /// # Errors
    /// As [`LibOs::set_option`].
    pub fn option(&self, qd: Qd, name: OptionName) -> Result<SocketOption, Error> {
        if let Kind::Memory(queue) = &self.0.queues.borrow_mut().get(qd)?.kind {
            return match name {
                OptionName::SendBudget => Ok(SocketOption::SendBudget(queue.budget())),
                _ => Err(Error::NotSupported),
            };
        }
        self.on_network(qd, |network, handle| network.option(handle, name))
    }

    /// The local endpoint.
    ///
    /// # Errors
    /// As [`LibOs::bind`], with those of [`Network::local`].
    pub fn local(&self, qd: Qd) -> Result<Endpoint, Error> {
        self.on_network(qd, |network, handle| network.local(handle))
    }

    /// The peer's endpoint.
    ///
    /// # Errors
    /// As [`LibOs::bind`], with those of [`Network::peer`].
    pub fn peer(&self, qd: Qd) -> Result<Endpoint, Error> {
        self.on_network(qd, |network, handle| network.peer(handle))
    }

    /// Ends our direction, after what was pushed: the peer's pop of length zero.
    ///
    /// # Errors
    /// `BadDescriptor`, `NotSupported`, and those of [`Network::finish`].
    pub fn finish(&self, qd: Qd) -> Result<(), Error> {
        let mut queues = self.0.queues.borrow_mut();
        match &mut queues.get(qd)?.kind {
            Kind::Memory(queue) => {
                let ends = queue.finish()?;
                drop(queues);
                ends.into_iter().for_each(|(op, end)| self.complete(op, end.map(Outcome::Popped)));
                Ok(())
            }
            Kind::Attached(_) => Err(Error::NotSupported),
            &mut Kind::Socket { network, handle, .. } => {
                self.0.networks.borrow_mut()[network as usize].network.finish(handle)
            }
        }
    }

    /// Gives the queue up: what is pending ends `Canceled`, what was pushed to a socket is still sent.
    ///
    /// # Errors
    /// `BadDescriptor`, also for the second time.
    pub fn close(&self, qd: Qd) -> Result<(), Error> {
        let Queue { kind, returned } = self.0.queues.borrow_mut().remove(qd)?;
        self.note(Event::Close, u64::from(qd.raw()), 0);
        match kind {
            Kind::Socket { network, handle, .. } => {
                self.0.networks.borrow_mut()[network as usize].network.close(handle);
            }
            Kind::Memory(queue) => {
                let (ops, attached) = queue.close();
                ops.into_iter().for_each(|op| self.complete(op, Err(Error::Canceled)));
                attached.into_iter().for_each(|from| self.tell(from.core, CoreMessage::Closed { to: from.qd }));
            }
            Kind::Attached(attached) => {
                attached.waiting.into_iter().for_each(|(op, _)| self.complete(op, Err(Error::Canceled)));
            }
        }
        if let Some(returned) = returned {
            self.close_returned(*returned);
        }
        Ok(())
    }

    fn on_network<R>(
        &self,
        qd: Qd,
        call: impl FnOnce(&mut dyn Network, Handle) -> Result<R, Error>,
    ) -> Result<R, Error> {
        let Kind::Socket { network, handle, .. } = self.0.queues.borrow_mut().get(qd)?.kind else {
            return Err(Error::NotSupported);
        };
        call(&mut *self.0.networks.borrow_mut()[network as usize].network, handle)
    }
}

// Data path.
impl LibOs {
    /// Takes the next connection of a listener.
    ///
    /// # Errors
    /// `BadDescriptor`, `NotSupported` (not a socket), `NoBuffers` (no token), and those of [`Network::submit`].
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
    /// no memory), `BrokenPipe`, and those of [`Network::submit`].
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
                match queue.push_at_once(sga) {
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
    /// queue, no memory for what came from another core), and those of [`Network::submit`].
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
        match self.begin(qd, kind, len, what)? {
            Begun::Pending(qt) => Ok(qt),
            Begun::Done(result) => self.issue_ended(qd, kind, len, result),
        }
    }

    /// Begins an operation on a socket. What is over at once needs no token.
    #[inline(always)]
    fn begin(&self, qd: Qd, kind: OpKind, len: usize, what: Op) -> Result<Begun, Error> {
        let inner = &*self.0;
        let Kind::Socket { network, handle, socket } = inner.queues.borrow_mut().get(qd)?.kind else {
            return Err(Error::NotSupported);
        };
        let qt = inner.tokens.borrow_mut().next()?;
        let submitted = inner.networks.borrow_mut()[network as usize].network.submit(handle, OpId(qt.raw()), what)?;
        match submitted {
            Submitted::Pending => {
                let issued = self.issue(qd, kind, len)?;
                debug_assert_eq!(issued, qt, "submit issued a token");
                Ok(Begun::Pending(qt))
            }
            Submitted::Done(Ok(Outcome::Pushed)) => {
                count(&inner.counters.completed_at_once);
                Ok(Begun::Done(Ok(Outcome::Pushed)))
            }
            Submitted::Done(result) => {
                count(&inner.counters.completed_at_once);
                Ok(Begun::Done(self.adopt(network, socket, result)))
            }
        }
    }

    /// [`LibOs::push`], for who wants no token for what is over at once.
    ///
    /// # Errors
    /// As [`LibOs::push`].
    #[inline]
    pub fn begin_push(&self, qd: Qd, sga: Sga) -> Result<Begun, Error> {
        if !sga.is_empty() && matches!(self.0.queues.borrow_mut().get(qd)?.kind, Kind::Socket { .. }) {
            count(&self.0.counters.pushes);
            let len = sga.len();
            let begun = self.begin(qd, OpKind::Push, len, Op::Push(sga));
            if matches!(begun, Ok(Begun::Done(_))) {
                self.note(Event::PushAtOnce, u64::from(qd.raw()), len as u64);
            }
            return begun;
        }
        self.push(qd, sga).map(Begun::Pending)
    }

    /// [`LibOs::pop`], for who wants no token for what is over at once.
    ///
    /// # Errors
    /// As [`LibOs::pop`].
    #[inline]
    pub fn begin_pop(&self, qd: Qd, len_max: usize) -> Result<Begun, Error> {
        if self.0.returned.get() == 0 && matches!(self.0.queues.borrow_mut().get(qd)?.kind, Kind::Socket { .. }) {
            count(&self.0.counters.pops);
            let begun = self.begin(qd, OpKind::Pop, len_max, Op::Pop { len_max });
            if matches!(begun, Ok(Begun::Done(_))) {
                self.note(Event::PopAtOnce, u64::from(qd.raw()), len_max as u64);
            }
            return begun;
        }
        self.pop(qd, len_max).map(Begun::Pending)
    }

    #[inline]
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

    #[inline]
    fn note_ended(&self, qt: QToken, qd: Qd, kind: OpKind, len: usize, errno: u64) {
        self.note_issued(qt, qd, kind, len);
        self.note(Event::Done, qt.raw(), errno);
    }

    #[inline]
    fn note_issued(&self, qt: QToken, qd: Qd, kind: OpKind, len: usize) {
        match kind {
            OpKind::Push => self.note(Event::Push, qt.raw(), len as u64),
            OpKind::Pop => self.note(Event::Pop, qt.raw(), len as u64),
            OpKind::Accept => self.note(Event::Accept, qt.raw(), u64::from(qd.raw())),
            OpKind::Connect => self.note(Event::Connect, qt.raw(), u64::from(qd.raw())),
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
        let result = match result {
            Ok(Outcome::Popped(popped)) => Ok(Outcome::Popped(popped)),
            Ok(Outcome::Pushed) => Ok(Outcome::Pushed),
            other => self.adopt_for(network, op, other),
        };
        self.complete(op, result);
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
        let result = if self.0.returned.get() > 0 { self.intercept(op, result) } else { Some(result) };
        if let Some(result) = result {
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

// Tokens.
impl LibOs {
    /// Runs the core until the operation of `qt` has ended, or `timeout` has passed; then the token stays valid.
    ///
    /// # Errors
    /// `BadToken`, `StaleToken`, `TokenBusy`, `TimedOut`, and `WouldDeadlock` from inside a coroutine, or when nothing is
    /// left that could complete it.
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
        self.wait_any(&[qt], timeout).map(|(_, completion)| completion)
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
            // A complete one has no waiter to be registered.
            if !self.0.tokens.borrow_mut().is_complete(qt)?
                && let Err(busy) = self.0.tokens.borrow_mut().wait(qt, Waiter::Caller)
            {
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
            self.turn(deadline, || self.0.caller_woken.get())?;
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
                self.0.tokens.borrow_mut().wait(qt, Waiter::Caller)?;
                self.0.caller_woken.set(false);
                let deadline = timeout.map(|timeout| start + timeout);
                let turned = self.turn(deadline, || self.0.caller_woken.get());
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

    /// Closed sockets whose buffers a device still holds.
    pub fn zombies(&self) -> usize {
        self.0.networks.borrow().iter().map(|named| named.network.zombies()).sum()
    }
}

// Other cores.
impl LibOs {
    /// Sends a value to another core of this host. It arrives in order.
    ///
    /// # Errors
    /// The value back: too much is under way to that core, or there is no such core.
    #[inline]
    pub fn send_core<T: Send + 'static>(&self, to: u8, value: T) -> Result<(), T> {
        let sent = self.0.ports.borrow_mut().send(to, Parcel::new(value));
        match sent {
            Ok(()) => {
                count(&self.0.counters.core_sends);
                self.note(Event::CoreSend, u64::from(to), 0);
                Ok(())
            }
            Err(parcel) => Err(parcel.take().unwrap_or_else(|_| unreachable!("the value that was put in"))),
        }
    }

    /// Sends a value that delivers itself, as [`LibOs::send_core`] does; `unasked` is false for an answer, which is never
    /// refused.
    ///
    /// # Errors
    /// The parcel back, as in [`LibOs::send_core`].
    #[inline]
    pub fn send_parcel(&self, to: u8, parcel: Parcel, unasked: bool) -> Result<(), Parcel> {
        count(&self.0.counters.core_sends);
        self.note(Event::CoreSend, u64::from(to), u64::from(!unasked));
        let mut ports = self.0.ports.borrow_mut();
        if unasked {
            return ports.send(to, parcel);
        }
        ports.answer(to, parcel);
        Ok(())
    }

    /// Sends an answer to another core: what it has asked for, and made room for by bounding its questions. Never refused.
    #[inline]
    pub fn answer_core<T: Send + 'static>(&self, to: u8, value: T) {
        count(&self.0.counters.core_sends);
        self.note(Event::CoreSend, u64::from(to), 1);
        self.0.ports.borrow_mut().answer(to, Parcel::new(value));
    }

    /// Sets what receives messages of other cores. It runs on this core, between passes, and may call everything.
    pub fn on_core_message(&self, receiver: CoreReceiver) {
        *self.0.receiver.borrow_mut() = Some(receiver);
    }

    /// Messages of other cores: what is the runtime's own is done, the rest goes to the receiver.
    #[cold]
    pub(crate) fn take_core_messages(&self, burst: usize) -> usize {
        let cores = self.0.cores;
        let mut taken = 0;
        for from in 0..cores {
            let mut from_this = 0;
            while from_this < burst {
                let Some(parcel) = self.0.ports.borrow_mut().receive(from) else { break };
                from_this += 1;
                match parcel.take::<CoreMessage>() {
                    Ok(message) => self.on_own_core_message(message),
                    Err(parcel) => {
                        // Taken out while it runs, as it may call `on_core_message`.
                        let receiver = self.0.receiver.borrow_mut().take();
                        if let Some(mut receiver) = receiver {
                            receiver(from as u8, parcel);
                            self.0.receiver.borrow_mut().get_or_insert(receiver);
                        }
                    }
                }
            }
            if from_this > 0 {
                self.note(Event::CoreReceive, from as u64, from_this as u64);
                crate::counters::count_many(&self.0.counters.core_receives, from_this);
            }
            taken += from_this;
        }
        taken
    }

    /// An answer of the runtime's own. There is no ring from a core to itself.
    fn tell(&self, core: u8, message: CoreMessage) {
        if core == self.core() {
            self.on_own_core_message(message);
        } else {
            self.answer_core(core, message);
        }
    }

    fn on_own_core_message(&self, message: CoreMessage) {
        match message {
            CoreMessage::Push { to, from, carried } => {
                let mut queues = self.0.queues.borrow_mut();
                let Ok(Queue { kind: Kind::Memory(memory), .. }) = queues.get(to) else {
                    drop(queues);
                    return self.tell(from.core, CoreMessage::Closed { to: from.qd });
                };
                let heap = &self.0.heap;
                let pushed = memory.push_carried(carried, from, heap);
                let waited = pushed.map(|pop| pop.map(|(op, len_max)| (op, memory.take(len_max, heap))));
                drop(queues);
                match waited {
                    Ok(None) => {}
                    Ok(Some((op, Ok(Some(Taken { popped, credit, .. }))))) => {
                        self.complete(op, Ok(Outcome::Popped(popped)));
                        self.pay_back(Vec::new(), credit);
                    }
                    Ok(Some((_, Ok(None)))) => unreachable!("an element was just added"),
                    Ok(Some((op, Err(error)))) => self.complete(op, Err(error)),
                    Err(_) => self.tell(from.core, CoreMessage::Closed { to: from.qd }),
                }
            }
            CoreMessage::Credit { to, cost } => {
                if let Ok(Queue { kind: Kind::Attached(attached), .. }) = self.0.queues.borrow_mut().get(to) {
                    attached.credit += cost as isize;
                }
                self.send_attached(to);
            }
            CoreMessage::Closed { to } => {
                let mut queues = self.0.queues.borrow_mut();
                let Ok(Queue { kind: Kind::Attached(attached), .. }) = queues.get(to) else { return };
                attached.closed = true;
                let waiting = std::mem::take(&mut attached.waiting);
                drop(queues);
                waiting.into_iter().for_each(|(op, _)| self.complete(op, Err(Error::BrokenPipe)));
            }
        }
    }

    /// Sends what waits in an attached queue, as far as credit and ring allow.
    fn send_attached(&self, qd: Qd) {
        loop {
            let mut queues = self.0.queues.borrow_mut();
            let Ok(Queue { kind: Kind::Attached(attached), .. }) = queues.get(qd) else { return };
            if !attached.can_pay() {
                return;
            }
            let Some((op, carried)) = attached.waiting.pop_front() else { return };
            let (len, to) = (carried.len(), attached.to);
            let from = QueueAddress { core: self.core(), qd };
            if to.core == self.core() {
                attached.pay(len);
                drop(queues);
                self.on_own_core_message(CoreMessage::Push { to: to.qd, from, carried });
            } else {
                match self.send_core(to.core, CoreMessage::Push { to: to.qd, from, carried }) {
                    Ok(()) => attached.pay(len),
                    Err(CoreMessage::Push { carried, .. }) => {
                        attached.waiting.push_front((op, carried));
                        return self.0.stalled.borrow_mut().push(qd);
                    }
                    Err(_) => unreachable!("the message that was put in"),
                }
                drop(queues);
            }
            self.complete(op, Ok(Outcome::Pushed));
        }
    }

    /// Tries again what found a ring full.
    pub(crate) fn retry_stalled(&self) {
        let stalled = std::mem::take(&mut *self.0.stalled.borrow_mut());
        stalled.into_iter().for_each(|qd| self.send_attached(qd));
    }
}

// Memory, time, chance, and what a core knows of itself.
impl LibOs {
    /// Memory for `capacity` bytes that devices can reach.
    ///
    /// # Errors
    /// `NoBuffers`.
    pub fn alloc(&self, capacity: usize) -> Result<BufMut, Error> {
        Ok(self.0.heap.alloc(capacity)?)
    }

    /// The core's heap.
    pub fn heap(&self) -> &Heap {
        &self.0.heap
    }

    /// The number of this core.
    #[inline]
    pub fn core(&self) -> u8 {
        self.0.core
    }

    /// How many cores the host has.
    #[inline]
    pub fn cores(&self) -> usize {
        self.0.cores
    }

    /// The time of the present pass.
    #[inline]
    pub fn now(&self) -> Instant {
        self.0.now.get()
    }

    /// The time of day, of the present pass.
    #[inline]
    pub fn wall(&self) -> WallTime {
        self.0.wall.get().unwrap_or_else(|| {
            let wall = self.0.clock.wall();
            self.0.wall.set(Some(wall));
            wall
        })
    }

    /// The core's generator of random numbers, forked: the result is the caller's own.
    pub fn fork_rng(&self) -> Rng {
        self.0.rng.borrow_mut().fork()
    }

    /// The seed of this core's maps.
    pub fn seed(&self) -> &Seed {
        &self.0.seed
    }

    /// The counters.
    pub fn counters(&self) -> CounterReading {
        self.0.counters.switches.set(self.0.scheduler.switches.get());
        self.0.counters.read()
    }

    /// The trace ring.
    pub fn trace(&self) -> &Trace {
        &self.0.trace
    }

    /// Notes an event of the application's in the trace ring.
    pub fn mark(&self, first: u64, second: u64) {
        self.note(Event::Mark, first, second);
    }

    #[inline(always)]
    pub(crate) fn note(&self, event: Event, first: u64, second: u64) {
        self.0.trace.note(self.0.now.get(), event, first, second);
    }

    /// Makes `Core::run` return after this pass.
    pub fn stop(&self) {
        self.0.stop.set(true);
    }
}

impl std::fmt::Debug for LibOs {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "LibOs(core {}, {} queues, {} tokens)", self.core(), self.queues_in_use(), self.tokens_in_use())
    }
}

#[inline(always)]
fn errno(result: &OpResult) -> u64 {
    match result {
        Ok(_) => 0,
        Err(error) => error.errno() as u64,
    }
}
