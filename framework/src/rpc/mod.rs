//! Calls over sessions: deadlines, retries that execute at most once, cancellation, and shedding of load.
//!
//! An actor that serves owns a [`Server`], one that calls a [`Client`]; both are plain state that the actor feeds with
//! what happens to it. A long conversation uses a [`Caller`].
//!
//! What a caller may rely on:
//! - A call ends exactly once: with an answer, or with a [`CallError`], not later than its deadline.
//! - With [`Retry::Safely`] it carries a key, and is sent again when the connection was lost. The server remembers the
//!   answers of keys: it executes a call at most once, as long as it is not restarted and the call is not repeated after
//!   [`ServerSettings::remember`].
//! - `CallError::Unknown` means that it may have been executed or not; all other errors of the server mean that it was
//!   not. A deadline that passes on the caller's side says nothing.
//! - A server that has too much to do answers `Overloaded` at once, before a queue grows.
//!
//! Wire: [`Framed`] values, [`ToServer`] and [`ToClient`].

mod caller;
mod client;
mod server;

use serde::{Deserialize, Serialize};

use crate::codec::Framed;

pub use caller::Caller;
pub use client::{Client, ClientSettings, Ended, Retry, Wrap};
pub use server::{Call, Heard, Server, ServerSettings};

/// The codec of a server's sessions.
pub type ServerCodec<Q, A> = Framed<ToServer<Q>, ToClient<A>>;
/// The codec of a client's session.
pub type ClientCodec<Q, A> = Framed<ToClient<A>, ToServer<Q>>;

/// Names a call of one client.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Debug, Serialize, Deserialize)]
pub struct CallId(pub u64);

/// Names a call among those of all clients, for as long as anybody remembers it.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Debug, Serialize, Deserialize)]
pub struct Key {
    /// Drawn at random by each client.
    pub client: u64,
    /// Counted by the client.
    pub call: u64,
}

/// What a client says.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub enum ToServer<Q> {
    /// Do this.
    Call {
        /// To know the answer by.
        id: CallId,
        /// If it may be repeated.
        key: Option<Key>,
        /// How long the caller will still wait, in microseconds. Clocks are not compared.
        timeout_us: u64,
        /// What.
        body: Q,
    },
    /// The answer is of no interest any more.
    Cancel(CallId),
}

/// What a server says.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub enum ToClient<A> {
    /// It was done.
    Answer(CallId, A),
    /// It was not.
    Refusal(CallId, Refusal),
}

/// Why a server did not execute a call.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub enum Refusal {
    /// It has too much to do.
    Overloaded,
    /// The deadline had passed before it was begun.
    Expired,
    /// The caller has cancelled it.
    Cancelled,
}

/// Why a call has no answer.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum CallError {
    /// The server did not execute it.
    Refused(Refusal),
    /// The deadline passed.
    TimedOut,
    /// The connection was lost, and the call may not be repeated: it may have been executed or not.
    Unknown,
    /// The caller has cancelled it.
    Cancelled,
    /// Too many calls are open at this client.
    TooMany,
}

impl std::fmt::Display for CallError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            CallError::Refused(Refusal::Overloaded) => "the server is overloaded",
            CallError::Refused(Refusal::Expired) => "the call came too late",
            CallError::Refused(Refusal::Cancelled) | CallError::Cancelled => "the call was cancelled",
            CallError::TimedOut => "the call timed out",
            CallError::Unknown => "the connection was lost during the call",
            CallError::TooMany => "too many calls are open",
        })
    }
}

impl std::error::Error for CallError {}

#[cfg(test)]
mod tests;
