//! The contract of storage queues: logs by name. docs/contract.md §5 has the reasons.
//!
//! Records are numbered from 1, without gaps. A handle has a cursor of its own, which begins before the first record
//! that is left; several handles may have the same log.

use std::time::Duration;

use crate::chase::{Program, REGISTERS};
use crate::completion::{Completions, Submitted};
use crate::error::Error;
use crate::network::{Handle, OpId, Wake};
use crate::sga::Sga;
use crate::time::Instant;

/// How to open a log.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum OpenMode {
    /// It must exist.
    Existing,
    /// It must not exist.
    New,
    /// It is made if it does not exist.
    ExistingOrNew,
    /// It must exist; for reading alone, and nothing on the device is changed for it.
    ReadOnly,
}

/// An operation on a log.
#[derive(Debug)]
pub enum LogOp {
    /// Adds a record; done when it is durable, with its sequence number ([`Outcome::Appended`](crate::Outcome::Appended)).
    Append(Sga),
    /// The record at the cursor, which moves on ([`Outcome::Popped`](crate::Outcome::Popped)). At the end of what is
    /// durable it brings nothing: length zero, as no record is empty. What is appended later, later reads bring.
    Read {
        /// A longer record is cut, and flagged. Not zero.
        len_max: usize,
    },
    /// Puts the cursor before this record, or the first that is left, or the end: it says where
    /// ([`Outcome::Sought`](crate::Outcome::Sought)). So 0 is the beginning, and `u64::MAX` the end,
    /// which is known when what closed handles of the log have appended has ended.
    Seek(u64),
    /// Frees everything before this record; done when that is durable ([`Outcome::Truncated`](crate::Outcome::Truncated)).
    Truncate(u64),
    /// Follows references from record to record, and brings the one that the program takes
    /// ([`Outcome::Popped`](crate::Outcome::Popped)). Cursors stay where they are.
    Chase {
        /// The first record.
        start: u64,
        /// What leads from one to the next.
        program: Program,
        /// What is in its registers at first.
        registers: [u64; REGISTERS],
    },
}

/// Logs under one `LibOs`.
pub trait Storage {
    /// Opens a log. Recovery goes on behind it: operations wait for it, and fail with its error. Where it is not yet known
    /// which logs there are, `NotFound`, `AlreadyExists` and `NoSpace` come as the operations' errors, too.
    ///
    /// # Errors
    /// `NotFound`, `AlreadyExists`, `NoSpace`, `ReadOnly`, `TooManyQueues`, `InvalidArgument` (the name: empty, or too
    /// long).
    fn open(&mut self, name: &str, mode: OpenMode) -> Result<Handle, Error>;

    /// Begins an operation, as in [`Network::submit`](crate::Network::submit). The operations of a handle that concern its
    /// cursor are done in their order.
    ///
    /// # Errors
    /// `InvalidArgument` (an empty append), `NoSpace` (before anything is written), `Overflow` (longer than a record can
    /// be), `ReadOnly`, `NoBuffers` (too much waits already), `Io` (the log has failed). While the log is being recovered
    /// these come as the operation's result.
    ///
    /// The result of an operation may be `Io` (the log has failed for good, or this read), `Corrupt` (a durable record is
    /// damaged; [`Storage::damage`] says which), `NotFound` (the record at the cursor was truncated; a seek puts it elsewhere),
    /// `InvalidArgument` (a truncation beyond the end; a program that loads or follows what there is not), `Overflow` (a
    /// program that needs more steps than it has), `Canceled`. A chase on a log that is not yet recovered is refused with
    /// `NotSupported`.
    fn submit(&mut self, h: Handle, op: OpId, what: LogOp) -> Result<Submitted, Error>;

    /// Asks for an end. An append that is on its way to the device completes; a read that is cancelled takes nothing.
    fn cancel(&mut self, h: Handle, op: OpId);

    /// Gives the log up: reads end `Canceled`; what was appended becomes durable first, and ends as it does.
    fn close(&mut self, h: Handle);

    /// From now on what is appended to this log may be held back for so long before it is made durable, counted twice: until
    /// it is written, and until that is flushed. Whoever does not wait for each append saves the device most of its work. Zero,
    /// as it is at first: nothing is held back. A hint: a storage may ignore it.
    fn set_patience(&mut self, _h: Handle, _patience: Duration) {}

    /// What was appended so far is made durable now, whatever the patience.
    fn hurry(&mut self, _h: Handle) {}

    /// What is known of the damage that the log of this handle has met, if it has.
    fn damage(&self, h: Handle) -> Option<Damage>;

    /// As [`Network::poll`](crate::Network::poll).
    fn poll(&mut self, now: Instant, done: &mut Completions);

    /// As [`Network::flush`](crate::Network::flush). It is the doorbell, not durability.
    fn flush(&mut self, now: Instant);

    /// Asks to be woken, once.
    fn arm(&mut self, now: Instant) -> Wake;

    /// Closed handles with operations that have not ended. Zero, when everything was closed and has ended.
    fn zombies(&self) -> usize;

    /// What it has done, in numbers with names; for whoever wants to show them.
    fn counters(&self) -> Vec<(&'static str, u64)> {
        Vec::new()
    }
}

/// A durable record that cannot be read any more, and what goes with it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Damage {
    /// Byte on the device where it began.
    pub offset: u64,
    /// The first record that is lost.
    pub sequence: u64,
    /// How many are known to be lost at least. What follows them cannot be reached by reading on.
    pub lost: u64,
}
