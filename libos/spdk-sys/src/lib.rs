//! The part of SPDK that we use: our own declarations, bound when a program asks for them ([`load`]).
//!
//! Nothing of SPDK is needed to build this, and one binary serves machines with and without it. What a header would have
//! told the compiler is checked otherwise: the library's interface numbers must be among those whose headers we compared
//! ([`RELEASES`]), and a test compares every layout and constant with the headers, where there are some.
//!
//! SPDK's shared libraries name no DPDK: they find its symbols among those of the process. So DPDK's libraries are made
//! visible first, from beside the one that the process has; and a SPDK that brings another DPDK along is refused.
//!
//! Sources: SPDK v24.09 to v26.05, `include/spdk/{env,env_dpdk,nvme,nvme_spec,bdev,thread,init,log}.h`. Not here: what the
//! calls mean, and who owns what (libos/spdk).

mod declarations;
mod library;

pub use declarations::*;
pub use library::{BdevLibrary, LoadError, RELEASES, Release, Spdk, load, load_bdev};
