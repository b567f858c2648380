//! Actors on PDPIX queues.
//!
//! An [`Actor`] owns its state. Its `handle` runs to its end and never blocks: what it checked stays true. All it does to
//! the world goes through its [`Outbox`], which also gives it time and chance; so the same value runs on a device, in the
//! simulator, and in the [`Harness`] without any library OS.
//!
//! - [`System`]: the actors of one core. [`Address`]: where a message goes; on another core as well ([`Carry`]).
//! - Bindings: [`Outbox::listen`] and [`Outbox::connect`] tie an actor to streams; each connection is a [`Session`] with a
//!   [`Codec`]. [`Outbox::bind_datagrams`] and [`System::bind_queue`] tie it to queues of messages. [`Outbox::open_log`]
//!   ties it to a log: what it appends is told to be durable, and replayed when it starts again.
//! - [`Policy`]: what happens when a handler panics. [`Task`]: a long conversation as an `async fn`.
//! - [`rpc`]: calls with deadlines, retries at most once, cancellation, and load shedding.
//!
//! Always: only `handle` is caught when it panics, and then the effects of that event are dropped whole. Mailboxes are
//! bounded: a message that does not fit comes back as [`Event::Refused`]; an answer always fits, as its place was
//! reserved by the question. Nothing reaches the dead: addresses carry a generation.
//!
//! docs/guide.md takes a reader from nothing to a tested actor. Not here: cluster view and leases.

#![forbid(unsafe_code)]

mod actor;
mod carry;
mod cell;
mod codec;
mod effects;
mod harness;
mod log;
mod message_queue;
mod outbox;
mod registry;
pub mod rpc;
mod session;
mod supervise;
mod system;
mod task;
mod turn;

pub use actor::{Actor, ActorId, Address, Answer, AskError, BindingId, Event, Refused, ReplyTo, Ticket, TimerId};
pub use carry::Carry;
pub use codec::{Codec, CodecError, Framed, Raw};
pub use harness::{Asked, Harness, Sent};
pub use log::{LogId, LogSettings, Record};
pub use message_queue::{Datagram, DatagramSettings};
pub use outbox::Outbox;
pub use session::{Closed, OnEnd, Session, SessionId, SessionSettings};
pub use supervise::Policy;
pub use system::{System, SystemStats};
pub use task::{Stream, Task};

pub use libos_runtime as runtime;
pub use pdpix;
