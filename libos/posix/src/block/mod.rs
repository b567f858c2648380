//! Files, disks and memory as block devices.
//!
//! - [`open_disk`]: a file or a disk of the kernel's. It is preallocated, locked against a second process, opened with
//!   O_DIRECT where that is possible, and driven by io_uring; where io_uring is forbidden, by one thread of its own
//!   ([`DiskEngine`]). What had to be done without is said in [`OpenedDisk::notices`].
//! - [`MemoryDisk`]: memory that forgets when the process ends; for tests, and to measure what is above a device.
//!
//! Always: a `Done` of a flush means that the kernel has said so of the device's own cache too (fdatasync, or each write
//! with RWF_DSYNC); a buffer is not released before the kernel is done with it, and dropping a device waits for that; a
//! read's memory comes back also when it failed. An error that the kernel gives for a write or a flush is the
//! operation's result, once, and nothing is tried again: after a failed fdatasync the kernel marks pages clean that
//! never reached the disk.
//!
//! Sources: io_uring(7), open(2) on O_DIRECT, fallocate(2), fsync(2); Rebello et al., "Can Applications Recover from fsync
//! Failures?" (ATC'20). docs/storage.md has what was measured. Not here: what is written (libos/journal), NVMe without
//! the kernel (libos/spdk).

mod ffi;
mod memory;
mod open;
mod threaded;
mod transfer;
mod uring;

pub use memory::{MemoryBlock, MemoryDisk};
pub use open::{DiskEngine, DiskError, DiskSettings, Durable, OpenedDisk, open_disk};
