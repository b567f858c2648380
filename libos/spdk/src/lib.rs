//! NVMe and SPDK's block devices, behind the [`BlockDevice`](pdpix::BlockDevice) contract.
//!
//! - [`Env`]: SPDK's environment, once a process: on the DPDK that the process has started, or on its own.
//! - [`Target`]: what is to be opened: an NVMe controller on the PCI bus, one over TCP, or a device of SPDK's block layer.
//! - [`open`]: the device. Each has a queue pair of its own (or a channel of the block layer's), polled by its core.
//!
//! Always: a buffer is held until SPDK has called back, or its queue pair is gone; callbacks run inside
//! [`poll`](pdpix::BlockDevice::poll) and only note what ended; a device that has failed, was removed, or does not answer in
//! time gives EIO for all that is under way and all that comes, and is not tried again.
//!
//! A device has no descriptor to sleep on. With nothing under way nothing is polled, but the block layer ten times a second;
//! else its core takes naps.
//!
//! ```text
//! margay wal --set storage.device=spdk:0000:03:00.0   # given to vfio-pci before (docs/spdk.md)
//! margay wal --set storage.device=spdk:tcp://10.0.0.5:4420/nqn.2016-06.io.spdk:cnode1
//! ```
//!
//! SPDK is found at run time: `spdk.library`, or where the linker looks. Sources: the NVM Express base specification 2.0;
//! SPDK's documentation of its NVMe driver and its block layer. Not here: what is written (libos/journal).

mod cache;
mod controller;
mod disk;
mod env;
mod error;
mod ffi;
mod target;
mod transfer;

pub use disk::{DiskSettings, Opened, SpdkDisk, open};
pub use env::{Env, EnvSettings, is_installed};
pub use error::OpenError;
pub use target::{Place, Target};
