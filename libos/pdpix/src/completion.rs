//! What comes of an operation: between backend and runtime (`Done`), and between runtime and user (`Completion`).

use std::collections::VecDeque;

use crate::error::Error;
use crate::network::{Endpoint, Handle, OpId};
use crate::sga::Sga;
use crate::token::{QToken, Qd};

/// What a pop took out of its queue.
#[derive(Debug)]
pub struct Popped {
    /// The data. On a stream, empty says that the peer has finished.
    pub sga: Sga,
    /// Who sent it, on a datagram queue.
    pub from: Option<Endpoint>,
    /// The message was longer than the pop's `len_max`; the rest of it is gone.
    pub cut: bool,
}

impl Popped {
    /// Data of a stream.
    #[inline]
    pub fn stream(sga: Sga) -> Popped {
        Popped { sga, from: None, cut: false }
    }
}

/// How an operation succeeded. `Q` is what names an accepted queue: a [`Handle`] in a backend, a [`Qd`] above.
#[derive(Debug)]
#[non_exhaustive]
pub enum Outcome<Q> {
    /// The push is complete, in the sense of its kind of queue (DESIGN §2).
    Pushed,
    /// The pop's data.
    Popped(Popped),
    /// A new connection, owned by whoever holds this.
    Accepted {
        /// Its queue.
        queue: Q,
        /// Who connected.
        peer: Endpoint,
    },
    /// The stream is connected.
    Connected,
    /// The record is durable, under this number.
    Appended {
        /// Sequence number of the record.
        sequence: u64,
    },
    /// The cursor of a log stands before this record, which may not have been written yet.
    Sought {
        /// Its sequence number.
        sequence: u64,
    },
    /// This is the first record that the log keeps.
    Truncated {
        /// Its sequence number.
        sequence: u64,
    },
    /// What the remote word was before the atomic operation.
    Old(u64),
}

/// A backend's answer to `submit`, when it is not a refusal.
#[derive(Debug)]
pub enum Submitted {
    /// It is over already: this is its `Done`.
    Done(Result<Outcome<Handle>, Error>),
    /// Exactly one `Done` will come out of `poll`.
    Pending,
}

impl Submitted {
    /// Over, and well.
    pub const PUSHED: Submitted = Submitted::Done(Ok(Outcome::Pushed));
}

/// The end of an operation that was pending.
#[derive(Debug)]
pub struct Done {
    /// Which.
    pub op: OpId,
    /// What came of it.
    pub result: Result<Outcome<Handle>, Error>,
}

/// Where a backend's `poll` puts what ended: a list with a bound, the caller's burst.
#[derive(Debug, Default)]
pub struct Completions {
    list: VecDeque<Done>,
    room: usize,
}

impl Completions {
    /// With room for nothing.
    pub fn new() -> Completions {
        Completions::default()
    }

    /// Sets the room for the next burst.
    #[inline]
    pub fn set_room(&mut self, room: usize) {
        self.room = room;
    }

    /// How many more fit.
    #[inline]
    pub fn room(&self) -> usize {
        self.room
    }

    /// Adds the end of `op`. The backend checked for room.
    #[inline]
    pub fn push(&mut self, op: OpId, result: Result<Outcome<Handle>, Error>) {
        assert!(self.room > 0, "a backend gave more completions than there was room for");
        self.room -= 1;
        self.list.push_back(Done { op, result });
    }

    /// Takes the first.
    #[inline]
    pub fn pop(&mut self) -> Option<Done> {
        self.list.pop_front()
    }

    /// How many are there.
    pub fn len(&self) -> usize {
        self.list.len()
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.list.is_empty()
    }
}

/// What a redeemed token gives.
#[derive(Debug)]
pub struct Completion {
    /// The token, spent.
    pub qt: QToken,
    /// The queue of the operation. It may be closed by now.
    pub qd: Qd,
    /// What came of the operation.
    pub result: Result<Outcome<Qd>, Error>,
}

impl Completion {
    /// The data of a pop.
    ///
    /// # Errors
    /// The operation's; `InvalidArgument` if it was not a pop.
    #[inline]
    pub fn popped(self) -> Result<Popped, Error> {
        match self.result {
            Ok(Outcome::Popped(popped)) => Ok(popped),
            Ok(_) => Err(Error::InvalidArgument),
            Err(error) => Err(error),
        }
    }

    /// The queue and peer of an accept.
    ///
    /// # Errors
    /// The operation's; `InvalidArgument` if it was not an accept.
    pub fn accepted(self) -> Result<(Qd, Endpoint), Error> {
        match self.result? {
            Outcome::Accepted { queue, peer } => Ok((queue, peer)),
            _ => Err(Error::InvalidArgument),
        }
    }

    /// The number of the record that was appended, that the cursor stands before, or that is the first left.
    ///
    /// # Errors
    /// The operation's; `InvalidArgument` if it was none on a log that gives a number.
    pub fn sequence(self) -> Result<u64, Error> {
        match self.result? {
            Outcome::Appended { sequence } | Outcome::Sought { sequence } | Outcome::Truncated { sequence } => {
                Ok(sequence)
            }
            _ => Err(Error::InvalidArgument),
        }
    }

    /// That it succeeded, whatever it was: for pushes and connects.
    ///
    /// # Errors
    /// The operation's.
    #[inline]
    pub fn done(self) -> Result<(), Error> {
        match self.result {
            Ok(_) => Ok(()),
            Err(error) => Err(error),
        }
    }
}

const _: () = assert!(size_of::<Result<Outcome<Qd>, Error>>() <= 112);
