//! Our own network: Ethernet, IP, UDP and TCP as a pure machine. Frames and `now` go in; frames, completions and the next
//! deadline come out. No clock, no system calls, no memory but the core's heap.
//!
//! - [`NetNetwork`]: the stack of one core over a device, as a [`Network`](pdpix::Network); on a host of several cores they
//!   share addresses and ports ([`Host`], [`Crossing`]).
//! - [`Device`]: the contract of what moves frames.
//! - [`wire`]: layouts of headers.
//! - [`Line`]: one direction of a wire with everything that can befall frames; [`Bridge`]: two of them between two devices.
//! - [`Pcap`], [`Faults`], [`Counted`], [`Cutting`]: devices around devices.
//!
//! Zero-copy both ways: a pushed `Buf` is referenced until it is acknowledged, and retransmitted from where it lies; a
//! received payload is a slice of the frame that it came in.

#![forbid(unsafe_code)]

mod bridge;
mod counters;
mod crossing;
mod cut;
mod device;
#[doc(hidden)]
pub mod fuzzing;
mod host;
mod ip;
mod line;
mod network;
mod ports;
mod secret;
mod stack;
mod tcp;
mod udp;
pub mod wire;
mod wrap;

pub use bridge::Bridge;
pub use counters::Counters;
pub use crossing::Crossing;
pub use cut::Cut;
pub use device::{ChecksumAt, Device, Frame, Link, NoDevice, Offloads, Received};
pub use host::{CORES_MAX, Host};
#[doc(hidden)]
pub use ip::FuzzedHost;
pub use ip::{Cidr, IpLimits, IpSettings};
pub use line::{Carried, Line, LineCounters, LineSettings, Loss};
pub use network::{NetNetwork, NetSettings};
pub use tcp::{CongestionKind, TcpSettings};
pub use wrap::{Counted, Cutting, FaultSettings, Faults, Pcap, Traffic};
