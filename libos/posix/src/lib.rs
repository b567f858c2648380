//! What the kernel has: sockets, TCP and UDP over IPv4 and IPv6, without root and without raised limits; and files and
//! disks as block devices ([`block`]).
//!
//! - [`EpollNetwork`]: direct non-blocking calls, and epoll for what would block. Runs everywhere.
//! - [`UringNetwork`]: direct calls for sends; io_uring for what would block: multishot accept, multishot receive into
//!   provided buffers of our heap, sends (zero-copy above a threshold). Needs Linux 6.1, and a system that permits it.
//!
//! Both are one implementation of [`Network`](pdpix::Network) (`sockets`) over a `driver`. docs/posix.md says which
//! is the default, and what was measured.
//!
//! | call | here |
//! | --- | --- |
//! | `open(Message)` | `NotSupported` |
//! | all others | as in the contract |
//!
//! What the kernel decides, and not we: data that had arrived when the peer reset is lost (`recv` answers ECONNRESET at
//! once); closing a socket with unread data resets it; TIME-WAIT.
//!
//! Try it: `cargo run --release -p margay -- echo --backend epoll`, and in another shell `socat - TCP:127.0.0.1:7007`.

pub mod block;
mod driver;
mod epoll;
mod ffi;
mod setup;
mod socket;
mod sockets;
mod uring;

pub use epoll::{Epoll, EpollNetwork};
pub use uring::{Uring, UringNetwork, UringSettings};
