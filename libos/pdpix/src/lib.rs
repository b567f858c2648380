//! PDPIX: the queue API, as types and contracts. Nothing here does I/O.
//!
//! A queue ([`Qd`]) takes a push or a pop and gives a ticket ([`QToken`]); the ticket is redeemed for a [`Completion`],
//! which carries the data itself. The library OS (`libos-runtime`) implements the calls over backends, and the backends
//! implement the contracts of this crate: [`Network`], [`Storage`], [`BlockDevice`], [`RemoteMemory`].
//! docs/contract.md walks each call through five backends and gives the reasons.
//!
//! Source: Demikernel (SOSP'21) §4. Where we differ (cancel, half-close, several networks, promises per kind of queue),
//! the item says so.

#![forbid(unsafe_code)]

pub mod block;
pub mod chase;
mod completion;
mod conduit;
mod error;
mod map;
mod network;
mod options;
pub mod remote;
mod rng;
mod sga;
pub mod storage;
mod stream;
mod time;
mod token;
mod wheel;

pub use block::{BlockDevice, BlockDone, BlockOp, Geometry};
pub use completion::{Completion, Completions, Done, Outcome, Popped, Submitted};
pub use conduit::Conduit;
pub use error::Error;
pub use map::{Map, Seed, Set};
pub use network::{Endpoint, Handle, Network, Op, OpId, OptionName, SocketKind, SocketOption, Wake, WakeOn};
pub use options::SocketOptions;
pub use remote::RemoteMemory;
pub use rng::Rng;
pub use sga::Sga;
pub use storage::{Damage, LogOp, OpenMode, Storage};
pub use stream::{Input, Output, OutputMark};
pub use time::{Instant, WallTime};
pub use token::{Generation, QToken, Qd};
pub use wheel::{TimerKey, Wheel};

pub use libos_mem::{Buf, BufMut, CopyPath, Exhausted, Heap, Purpose, Region};
