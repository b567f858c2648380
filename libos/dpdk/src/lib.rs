//! Frames through DPDK ports, behind the [`Device`](libos_net::Device) contract.
//!
//! - [`Eal`]: DPDK's environment, once a process, and our reservation in its memory.
//! - [`Port`]: an Ethernet port, opened once and shared by the cores.
//! - [`Queue`]: a core's receive queue and transmit queue of it: the device.
//!
//! Receiving: the driver's buffers are chunks of receive memory of the core's heap; a frame received *is* such a chunk, and
//! another takes its place. Sending: headers and payload go to the driver as they lie, each held until the driver's callback
//! has marked it; what the ring refuses is kept, and sent before anything else.
//!
//! Setup, per port, and what was measured: docs/dpdk.md. To try it, with two shells of root:
//!
//! ```text
//! margay echo --backend dpdk --port net_memif0,role=server,socket=/run/margay.sock,socket-abstract=no --address 10.0.0.1/24
//! margay pingpong --backend dpdk --port net_memif0,role=client,socket=/run/margay.sock,socket-abstract=no \
//!     --address 10.0.0.2/24 10.0.0.1:7007
//! ```
//!
//! Where libdpdk or libclang was missing when this was built there is only [`is_built`], and what cannot be opened.

mod error;
mod settings;

#[cfg(has_dpdk)]
mod counters;
#[cfg(has_dpdk)]
mod driver;
#[cfg(has_dpdk)]
mod eal;
#[cfg(has_dpdk)]
mod ffi;
#[cfg(has_dpdk)]
mod gate;
#[cfg(has_dpdk)]
mod left_behind;
#[cfg(has_dpdk)]
mod port;
#[cfg(has_dpdk)]
mod queue;

#[cfg(not(has_dpdk))]
mod absent;

#[cfg(not(has_dpdk))]
pub use absent::{Eal, Port, Queue, ring_pair};
#[cfg(has_dpdk)]
pub use eal::{Eal, ring_pair};
pub use error::OpenError;
#[cfg(has_dpdk)]
pub use port::Port;
#[cfg(has_dpdk)]
pub use queue::Queue;
pub use settings::{EalSettings, PortSettings};

/// Whether this build has DPDK.
///
/// # Errors
/// Why it has not.
pub fn is_built() -> Result<(), &'static str> {
    match dpdk_sys::MISSING {
        None => Ok(()),
        Some(why) => Err(option_env!("MARGAY_DPDK_WHY").unwrap_or(why)),
    }
}
