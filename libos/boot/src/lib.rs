//! From a configuration to a library OS per core.
//!
//! - [`Settings`]: a TOML file, then the environment, then flags; unknown keys are refused with the nearest known one.
//! - [`launch()`]: reserves the memory, starts a thread per core, pins it, makes its networks and its storage, and runs a service on it;
//!   SIGINT and SIGTERM stop it in order.
//!
//! - [`core_here()`]: a core on the calling thread, for a program that has threads of its own.
//!
//! This is the only crate that names every backend; only tools, tests of clusters and the C interface name this one.

#![forbid(unsafe_code)]

mod dpdk;
mod frames;
mod here;
mod keys;
mod launch;
mod network;
mod settings;
mod spdk;
mod storage;

pub use dpdk::DpdkSettings;
pub use frames::FrameSettings;
pub use here::core_here;
pub use launch::{LaunchError, Launched, launch};
pub use network::{BackendKind, backends};
pub use settings::{
    CoreSettings, IdleSettings, MemorySettings, NetworkSettings, Settings, SettingsError, TraceSettings,
};
pub use spdk::SpdkSettings;
pub use storage::StorageSettings;
