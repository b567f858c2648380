//! Frames through interfaces of the kernel's: TAP, AF_PACKET and AF_XDP, behind the [`Device`](libos_net::Device)
//! contract.
//!
//! | device | receive | transmit | in flight | takes |
//! | --- | --- | --- | --- | --- |
//! | [`Tap`] | one read a frame, into receive memory | one write a frame, gathers | never | CAP_NET_ADMIN |
//! | [`PacketSocket`] | a shared ring, copied (counted) | one call a burst, gathers | never | CAP_NET_RAW |
//!
//! docs/xdp.md says how to set each of them up, and what was measured.

mod counters;
mod error;
mod ffi;
mod interface;
mod packet;
mod tap;
mod vnet;

pub use error::OpenError;
pub use packet::{PacketSettings, PacketSocket};
pub use tap::{Tap, TapSettings};
