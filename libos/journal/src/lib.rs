//! Storage queues: logs on a block device, as a pure machine. Operations, completions of the device and `now` go in;
//! operations for the device, completions and deadlines come out.
//!
//! - [`Store`] is a [`Storage`](pdpix::Storage) over a [`BlockDevice`](pdpix::BlockDevice): several logs, each in extents of
//!   its own. [`Settings`] say how it behaves, [`Format`] how a blank device is divided.
//! - [`mod@format`] is what lies on the device, byte by byte; docs/journal-format.md is its document.
//! - [`inspect`] reads a device from the outside, offline.
//! - [`memory::MemoryDevice`] is a device in memory.
//!
//! Always: what was acknowledged is durable, and is found again, as it was written, or its loss is told (`Corrupt`). A flush
//! that failed is never tried again. What was never acknowledged may be there after a crash, or not; nothing else is.
//!
//! Sources: Demikernel (SOSP'21), Cattree, for the queue; Arrakis (OSDI'14), for logs that cannot reach each other. XRP (OSDI'22), for chases. Not here: devices.

#![forbid(unsafe_code)]

mod chase;
mod checksum;
mod committing;
mod cursor;
mod descriptors;
pub mod format;
pub mod fuzzing;
pub mod inspect;
mod log;
pub mod memory;
mod mount;
mod placing;
mod preparing;
mod reader;
mod recovery;
mod settings;
mod store;
mod transfers;

pub use log::Counters;
pub use settings::{Format, Settings};
pub use store::Store;
