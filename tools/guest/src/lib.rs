//! For tests: a whole machine of its own, and a disk for it whose power can be cut.
//!
//! - [`disk::Disk`], a disk in memory that knows what a power cut may leave of it;
//! - [`nbd::Server`], which serves it to QEMU, or to any other client of network block devices;
//! - [`machine::Plan`], a machine under QEMU with the disks, modules and programs that a test gives it.
//!
//! What kill -9 of a process cannot show is shown here: the kernel that would have written what the process left behind is
//! gone, too. docs/testing.md says how it is used.

#![forbid(unsafe_code)]

pub mod cpio;
pub mod disk;
pub mod kernel;
pub mod machine;
pub mod nbd;
