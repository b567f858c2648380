//! Storage queues: logs on a block device, as a pure machine. Operations, completions of the device and `now` go in;
//! operations for the device, completions and deadlines come out.

#![forbid(unsafe_code)]

pub mod memory;
mod settings;
mod store;

pub use settings::{Format, Settings};
pub use store::Store;
