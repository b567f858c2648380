//! The contract of a network: kernel sockets, our own stack over a frame device, verbs, the simulator.
//!
//! The rules that hold for every implementation, and why, are docs/contract.md §1 and §2. In short: `submit` refuses
//! before any effect, or is over at once, or ends in exactly one `Done`; completion is not release; `cancel` and
//! `close` only ask; a cancelled pop or accept takes nothing from its queue; nothing that was accepted for sending is
//! lost by `close`; a backend never calls up.

use std::net::SocketAddr;
use std::os::fd::RawFd;
use std::time::Duration;

use crate::completion::{Completions, Submitted};
use crate::error::Error;
use crate::sga::Sga;
use crate::time::Instant;

/// An address and a port. RDMA and simulated networks use IP addresses too.
pub type Endpoint = SocketAddr;

/// A backend's name for one of its queues. Not used for another before the backend has let go of the first.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Debug)]
pub struct Handle(pub u32);

/// The caller's name for an operation: the bits of its token. A backend keeps it and gives it back.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Debug)]
pub struct OpId(pub u64);

/// What kind of queue `open` makes.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum SocketKind {
    /// Bytes in order, connected (TCP).
    Stream,
    /// Messages that may be lost, each to an address (UDP).
    Datagram,
    /// Messages in order, connected (RDMA).
    Message,
}

/// An operation on a queue.
#[derive(Debug)]
pub enum Op {
    /// The next connection of a listener.
    Accept,
    /// To a listener.
    Connect(Endpoint),
    /// To the connected peer, or, on a datagram queue that was connected, to its default peer.
    Push(Sga),
    /// To an address, on a datagram queue.
    PushTo(Sga, Endpoint),
    /// What comes next.
    Pop {
        /// At most so many bytes. Not zero.
        len_max: usize,
    },
}

/// A property of a queue, with its value.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum SocketOption {
    /// Send small segments at once (default: yes).
    NoDelay(bool),
    /// Ask an idle peer after this time whether it is still there (default: never).
    KeepAlive(Option<Duration>),
    /// How long `close` goes on sending what was pushed; then, and at once if zero, it resets (default: 60 s).
    Linger(Duration),
    /// Other cores may bind the same endpoint, and connections are spread over them (default: no; before `bind`).
    Shared(bool),
    /// Bytes pinned by accepted pushes that the device has not let go of; beyond that a push waits (default: 1 MiB).
    SendBudget(usize),
    /// Bytes pinned by what has arrived and is not popped; beyond that the peer is made to wait (default: 1 MiB).
    ReceiveBudget(usize),
}

/// Asks for a property; the answer is the [`SocketOption`] of the same name.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[allow(missing_docs, reason = "see SocketOption")]
pub enum OptionName {
    NoDelay,
    KeepAlive,
    Linger,
    Shared,
    SendBudget,
    ReceiveBudget,
}

/// When a backend wants to be polled again, if nothing is submitted before.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Wake {
    /// Not later than this.
    pub deadline: Option<Instant>,
    /// And when this happens.
    pub on: WakeOn,
}

/// How an armed backend says that there is something to poll.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum WakeOn {
    /// There is something now: do not sleep.
    Now,
    /// This descriptor becomes readable. It stays open until the backend is dropped.
    Descriptor(RawFd),
    /// It cannot say. Sleep in short naps, and poll after each.
    Nap,
    /// Only the deadline, or a submission, can bring anything: the simulator steps it, or it has no queues.
    Nothing,
}

/// A network under one `LibOs`. Calls return at once.
pub trait Network {
    /// A new queue of this kind.
    ///
    /// # Errors
    /// `NotSupported`, `TooManyQueues`, `NoBuffers`, `NetworkDown`.
    fn open(&mut self, kind: SocketKind) -> Result<Handle, Error>;

    /// Changes a property.
    ///
    /// # Errors
    /// `NotSupported`, `InvalidArgument` (the value, or too late for it).
    fn set_option(&mut self, h: Handle, option: SocketOption) -> Result<(), Error>;

    /// Asks for a property.
    ///
    /// # Errors
    /// `NotSupported`.
    fn option(&self, h: Handle, name: OptionName) -> Result<SocketOption, Error>;

    /// Gives the queue a local endpoint (port 0: any), and says which it is.
    ///
    /// # Errors
    /// `InvalidArgument` (bound already), `AddressInUse`, `AddressNotAvailable`, `AddressFamily`, `PermissionDenied`.
    fn bind(&mut self, h: Handle, at: Endpoint) -> Result<Endpoint, Error>;

    /// Makes a bound stream queue a listener. `backlog` connections may wait to be accepted.
    ///
    /// # Errors
    /// `NotSupported` (not a stream or message queue), `InvalidArgument` (not bound, listening already, connected).
    fn listen(&mut self, h: Handle, backlog: u32) -> Result<(), Error>;

    /// The local endpoint.
    ///
    /// # Errors
    /// `InvalidArgument`: it has none yet.
    fn local(&self, h: Handle) -> Result<Endpoint, Error>;

    /// The peer's endpoint.
    ///
    /// # Errors
    /// `NotConnected`.
    fn peer(&self, h: Handle) -> Result<Endpoint, Error>;

    /// Begins an operation. `Err` refuses it, without effect and without a `Done`; an Sga in it is dropped.
    ///
    /// # Errors
    /// `InvalidArgument` (empty push, `len_max` of zero, accept on what does not listen), `NotSupported` (the call makes
    /// no sense for this kind: a push on a listener, `PushTo` on a stream), `NotConnected`, `AlreadyConnected`,
    /// `BrokenPipe` (push after `finish`), `EndOfStream` (pop after the pop of length zero), `MessageSize`, `NoBuffers`.
    fn submit(&mut self, h: Handle, op: OpId, what: Op) -> Result<Submitted, Error>;

    /// Asks for an end of a pending operation; its `Done` still comes out of `poll`. Ignored if it is not pending.
    fn cancel(&mut self, h: Handle, op: OpId);

    /// Ends our direction of a stream, after what was pushed.
    ///
    /// # Errors
    /// `NotSupported` (not a stream), `NotConnected`, `BrokenPipe` (finished already).
    fn finish(&mut self, h: Handle) -> Result<(), Error>;

    /// Gives the queue up: pending operations end `Canceled`, what was pushed is still sent.
    fn close(&mut self, h: Handle);

    /// Takes in what the device has and moves things on: a bounded amount of work, and at most `done.room()` ends.
    fn poll(&mut self, now: Instant, done: &mut Completions);

    /// Tells the device of everything submitted since the last time. Once a burst.
    fn flush(&mut self, now: Instant);

    /// Asks to be woken, once. The caller polls again before it sleeps.
    fn arm(&mut self, now: Instant) -> Wake;

    /// Closed handles whose buffers the device still holds. Zero, when everything was closed and has ended.
    fn zombies(&self) -> usize;
}
