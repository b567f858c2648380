//! The contract of storage queues: logs by name. docs/contract.md §5 has the reasons.

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
    /// For reading.
    ReadOnly,
}

/// An operation on a log.
#[derive(Debug)]
pub enum LogOp {
    /// Adds a record; done when it is durable, with its sequence number.
    Append(Sga),
    /// The record at the cursor, which moves on.
    Read {
        /// A longer record is cut, and flagged.
        len_max: usize,
    },
    /// Puts the cursor before this record.
    Seek(u64),
    /// Frees everything before this record.
    Truncate(u64),
}

/// Logs under one `LibOs`.
pub trait Storage {
    /// Opens a log. Recovery goes on behind it: operations wait for it, and fail with its error.
    ///
    /// # Errors
    /// `NotFound`, `AlreadyExists`, `NoSpace`, `ReadOnly`, `TooManyQueues`.
    fn open(&mut self, name: &str, mode: OpenMode) -> Result<Handle, Error>;

    /// Begins an operation, as in [`Network::submit`](crate::Network::submit).
    ///
    /// # Errors
    /// `InvalidArgument` (an empty append), `NoSpace` (before anything is written), `Overflow`, `ReadOnly`, `NoBuffers`.
    fn submit(&mut self, h: Handle, op: OpId, what: LogOp) -> Result<Submitted, Error>;

    /// Asks for an end. An append that is on its way to the device completes.
    fn cancel(&mut self, h: Handle, op: OpId);

    /// Gives the log up; what was appended becomes durable first.
    fn close(&mut self, h: Handle);

    /// As [`Network::poll`](crate::Network::poll).
    fn poll(&mut self, now: Instant, done: &mut Completions);

    /// As [`Network::flush`](crate::Network::flush). It is the doorbell, not durability.
    fn flush(&mut self, now: Instant);

    /// Asks to be woken, once.
    fn arm(&mut self, now: Instant) -> Wake;
}
