//! What an actor is, what it is told, and how others name it.

use std::any::Any;
use std::marker::PhantomData;

use pdpix::storage::Damage;
use pdpix::{Endpoint, Error};

use crate::carry::Carry;
use crate::log::{LogId, Record};
use crate::outbox::Outbox;
use crate::session::{Closed, SessionId};
use crate::system::System;

/// An actor owns its state. `handle` runs to its end and never blocks: what it checked stays true.
pub trait Actor: Sized + 'static {
    /// What others, and its own sessions, tell it.
    type Message: Carry;

    /// Something happened. Everything that is to be done about it goes into `out`.
    fn handle(&mut self, event: Event<Self::Message>, out: &mut Outbox<'_, Self>);
}

/// What an actor is told.
#[derive(Debug)]
#[non_exhaustive]
pub enum Event<M> {
    /// The first event of each incarnation.
    Started,
    /// From another actor, from a session's codec, or the answer to a question.
    Message(M),
    /// A connection was accepted or made.
    Opened {
        /// Its session.
        session: SessionId,
        /// Who is at the other end.
        peer: Endpoint,
    },
    /// The peer will send no more; the session goes on until it is closed (only with [`OnEnd::Tell`](crate::OnEnd)).
    PeerFinished(SessionId),
    /// The session is over. It is the last event about it.
    Closed {
        /// Which.
        session: SessionId,
        /// Why.
        why: Closed,
    },
    /// A listener is up.
    Listening {
        /// Which.
        binding: BindingId,
        /// Where: the port that was found, if any would do.
        at: Endpoint,
    },
    /// A listener could not be set up. (A connection that could not is `Closed`.)
    ListenFailed {
        /// Which.
        binding: BindingId,
        /// Why.
        error: Error,
    },
    /// A message that was sent did not fit into its receiver's mailbox, or there was nobody.
    Refused(Refused),
    /// A timer fired: the name that it was given.
    Timer(u64),
    /// A watched actor is there, for the first time or again.
    Up(ActorId),
    /// A watched actor is gone.
    Down(ActorId),
    /// A record that was in a log when it was opened.
    Record {
        /// Which log.
        log: LogId,
        /// The record.
        record: Record,
    },
    /// A log is open, and all that was in it was told.
    LogReady {
        /// Which log.
        log: LogId,
        /// The number of the first record that is left.
        first: u64,
        /// The number that the next one will have, as far as this actor has not appended any meanwhile.
        next: u64,
    },
    /// A log could not be opened, recovered or replayed.
    LogFailed {
        /// Which log.
        log: LogId,
        /// Why.
        error: Error,
        /// What is lost, if it is damaged.
        damage: Option<Damage>,
    },
    /// What was appended is durable; or it is not, or nobody knows.
    Durable {
        /// Which log.
        log: LogId,
        /// What [`Outbox::append`] gave.
        ticket: Ticket,
        /// The record's number. `NoSpace`, `Overflow` and `NoBuffers`: nothing was written. `Io`: the log has failed for
        /// good, and whether the record will be there after a restart is not known.
        result: Result<u64, Error>,
    },
    /// What was to be read of a log.
    Read {
        /// Which log.
        log: LogId,
        /// What [`Outbox::read_log`] gave.
        ticket: Ticket,
        /// The records; none at the end of what is durable.
        result: Result<Vec<Record>, Error>,
    },
    /// A log was truncated.
    Truncated {
        /// Which log.
        log: LogId,
        /// What [`Outbox::truncate_log`] gave.
        ticket: Ticket,
        /// The first record that is left.
        result: Result<u64, Error>,
    },
    /// The service is being stopped: the last chance to say something.
    Stopping,
}

/// Names one incarnation of an actor of this host.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ActorId {
    pub(crate) core: u8,
    pub(crate) slot: u32,
    pub(crate) generation: u32,
}

impl ActorId {
    /// Which core it lives on.
    pub fn core(self) -> u8 {
        self.core
    }

    /// The same, where it is known what kind of actor it is.
    pub fn typed<A: Actor>(self) -> Address<A> {
        Address { id: self, kind: PhantomData }
    }
}

impl std::fmt::Debug for ActorId {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "actor {}:{}.{}", self.core, self.slot, self.generation)
    }
}

/// Where messages for an `A` go. May be sent anywhere on the host. What is sent to a dead incarnation is refused.
pub struct Address<A> {
    id: ActorId,
    kind: PhantomData<fn(A)>,
}

impl<A> Address<A> {
    /// Without its type.
    pub fn id(self) -> ActorId {
        self.id
    }
}

impl<A> Clone for Address<A> {
    fn clone(&self) -> Address<A> {
        *self
    }
}

impl<A> Copy for Address<A> {}

impl<A> PartialEq for Address<A> {
    fn eq(&self, other: &Address<A>) -> bool {
        self.id == other.id
    }
}

impl<A> Eq for Address<A> {}

impl<A> std::fmt::Debug for Address<A> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.id.fmt(f)
    }
}

/// Names a listener, or a datagram binding, of an actor.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Debug)]
pub struct BindingId(pub(crate) u32);

/// Names a timer, to cancel it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct TimerId(pub(crate) libos_runtime::TimerKey);

/// Names a question, to know its answer by.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct Ticket(pub(crate) u64);

/// The answer to a question: comes as a message, so the asker's message is made from it.
#[derive(Debug)]
pub struct Answer<T> {
    /// What [`Outbox::ask`] gave.
    pub ticket: Ticket,
    /// The answer.
    pub result: Result<T, AskError>,
}

/// Why a question has no answer.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum AskError {
    /// Not in time.
    TimedOut,
    /// There is no such actor, or it died.
    Down,
    /// Its mailbox is full, too many questions are open, or there is no memory.
    Busy,
}

impl From<AskError> for Error {
    fn from(error: AskError) -> Error {
        match error {
            AskError::TimedOut => Error::TimedOut,
            AskError::Down => Error::HostUnreachable,
            AskError::Busy => Error::NoBuffers,
        }
    }
}

/// Where an answer goes: a part of a question's message. Dropped unanswered, the question times out.
pub struct ReplyTo<T> {
    pub(crate) asker: ActorId,
    pub(crate) ticket: Ticket,
    /// Delivers on the asker's core: it knows what the asker is.
    pub(crate) deliver: fn(&System, ActorId, Ticket, Result<T, AskError>),
}

impl<T> std::fmt::Debug for ReplyTo<T> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "ReplyTo({:?}, {:?})", self.asker, self.ticket)
    }
}

impl<T: 'static> Carry for ReplyTo<T> {
    type Carried = ReplyTo<T>;

    fn carry(self) -> Result<ReplyTo<T>, ReplyTo<T>> {
        Ok(self)
    }

    fn land(carried: ReplyTo<T>, _: &pdpix::Heap) -> Result<ReplyTo<T>, ReplyTo<T>> {
        Ok(carried)
    }
}

/// A message that came back.
pub struct Refused {
    /// Whom it was for.
    pub to: ActorId,
    message: Box<dyn Any>,
}

impl Refused {
    pub(crate) fn new<M: 'static>(to: ActorId, message: M) -> Refused {
        Refused { to, message: Box::new(message) }
    }

    /// The message, if it is an `M`.
    ///
    /// # Errors
    /// Itself back.
    pub fn take<M: 'static>(self) -> Result<M, Refused> {
        let to = self.to;
        self.message.downcast().map(|message| *message).map_err(|message| Refused { to, message })
    }
}

impl std::fmt::Debug for Refused {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Refused(by {:?})", self.to)
    }
}
