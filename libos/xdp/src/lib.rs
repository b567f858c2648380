//! Frames through interfaces of the kernel's: TAP, AF_PACKET and AF_XDP, behind the [`Device`](libos_net::Device)
//! contract.
//!
//! | device | receive | transmit | in flight | takes |
//! | --- | --- | --- | --- | --- |
//! | [`Tap`] | one read a frame, into receive memory | one write a frame, gathers | never | CAP_NET_ADMIN |
//! | [`PacketSocket`] | a shared ring, copied (counted) | one call a burst, gathers | never | CAP_NET_RAW |
//! | [`Xsk`] | rings over our own memory | from where it lies, in one piece | until the completion ring | CAP_BPF, CAP_NET_ADMIN, CAP_NET_RAW, memlock |
//!
//! docs/xdp.md says how to set each of them up, and what was measured.

mod copies;
mod counters;
mod error;
mod ffi;
mod grant;
mod interface;
mod mac_text;
mod packet;
mod partial;
mod port;
mod queues;
mod rtnetlink;
mod steering;
mod tap;
mod vnet;
mod xsk;

pub use error::OpenError;
pub use grant::{Giver, Granted, Offer};
pub use packet::{PacketSettings, PacketSocket};
pub use port::{BusyPoll, CopyMode, Port, XskSettings};
pub use queues::Queues;
pub use steering::{PortRange, ProgramMode, Share, Transport, is_built};
pub use tap::{Tap, TapSettings};
pub use xsk::{MTU_MAX, Xsk};
