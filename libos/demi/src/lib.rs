//! `libdemikernel.so`: Demikernel's C interface over our library OS, so that programs written for it link unchanged.
//!
//! - `include/demi/*.h`: the headers. `abi.rs`: the same layouts on this side.
//! - `control.rs`, `data.rs`, `storage.rs`, `waits.rs`, `memory.rs`, `options.rs`: the calls, by header and kind.
//! - `thread.rs`: the library OS of the calling thread, and how every call enters it. `held.rs`: the buffers that the
//!   program holds. `here.rs`: finding the thread. `configuration.rs`, `yaml.rs`: LIBOS and CONFIG_PATH. `wakers.rs`: waking from another thread.
//!
//! Always: a call gives 0 or a positive errno, refuses what makes no sense before any effect, and never unwinds into C.
//! Tokens, descriptors and buffers are names that are looked up, never addresses that are followed; so a wild one is
//! refused. An address that the program hands over for us to read or write is trusted, as a system call could not.
//! A thread-local is allowed here, as the interface leaves no other way to know the core.
//!
//! Source: microsoft/demikernel, its headers and manual pages (docs/demikernel.md says where we differ); of the calls of
//! storage queues, which its open code no longer has, the paper (SOSP'21, table 2).

mod abi;
mod address;
mod configuration;
mod control;
mod data;
mod errno;
mod held;
mod here;
mod memory;
mod options;
mod storage;
mod thread;
mod waits;
mod wakers;
mod yaml;

pub use abi::{AcceptResult, Args, Damage, Opcode, QResult, QValue, SgArray, SgaSeg};
pub use control::{
    demi_bind, demi_close, demi_finish, demi_getpeername, demi_getsockname, demi_init, demi_listen, demi_queue,
    demi_socket,
};
pub use data::{demi_accept, demi_cancel, demi_connect, demi_pop, demi_pop_max, demi_push, demi_pushto, demi_pushv};
pub use memory::{demi_free, demi_getsender, demi_malloc, demi_sgaalloc, demi_sgafree};
pub use options::{demi_getsockopt, demi_setsockopt};
pub use storage::{demi_creat, demi_getdamage, demi_lseek, demi_open, demi_seek_to, demi_truncate, demi_truncate_to};
pub use thread::{InUse, Parked, in_use, leave};
pub use waits::{demi_wait, demi_wait_all, demi_wait_any, demi_wait_next_n};
pub use wakers::{demi_wake, demi_waker};
