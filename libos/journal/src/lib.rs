//! Storage queues: logs on a block device, as a pure machine. Operations, completions of the device and `now` go in;
//! operations for the device, completions and deadlines come out.

#![forbid(unsafe_code)]

mod checksum;
mod cursor;
pub mod format;
pub mod fuzzing;
pub mod inspect;
mod log;
pub mod memory;
mod mount;
mod reader;
mod recovery;
mod settings;
mod store;

pub use log::Counters;
pub use settings::{Format, Settings};
pub use store::Store;
