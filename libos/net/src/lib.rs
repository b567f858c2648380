//! Our own network: Ethernet, IP, UDP and TCP as a pure machine. Frames and `now` go in; frames, completions and the next
//! deadline come out. No clock, no system calls, no memory but the core's heap.
//!
//! - [`Device`]: the contract of what moves frames.
//! - [`wire`]: layouts of headers.
//!
//! Zero-copy both ways: a pushed `Buf` is referenced until it is acknowledged, and retransmitted from where it lies; a
//! received payload is a slice of the frame that it came in.

#![forbid(unsafe_code)]

mod counters;
mod device;
#[allow(dead_code, reason = "the stack over it is being built")]
mod ip;
#[allow(dead_code, reason = "the stack over it is being built")]
mod udp;
pub mod wire;

pub use counters::Counters;
pub use device::{ChecksumAt, Device, Frame, Link, Offloads, Received};
#[doc(hidden)]
pub use ip::FuzzedHost;
pub use ip::{Cidr, IpLimits, IpSettings};
