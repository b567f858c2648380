//! Our own network: Ethernet, IP, UDP and TCP as a pure machine. Frames and `now` go in; frames, completions and the next
//! deadline come out. No clock, no system calls, no memory but the core's heap.
//!
//! - [`Device`]: the contract of what moves frames.
//! - [`wire`]: layouts of headers.
//!
//! Zero-copy both ways: a pushed `Buf` is referenced until it is acknowledged, and retransmitted from where it lies; a
//! received payload is a slice of the frame that it came in.

#![forbid(unsafe_code)]

mod device;
#[allow(dead_code, reason = "the stack that uses them is not here yet")]
mod ports;
#[allow(dead_code, reason = "as above")]
mod secret;
mod tcp;
pub mod wire;

pub use device::{ChecksumAt, Device, Frame, Link, Offloads, Received};
pub use tcp::CongestionKind;
