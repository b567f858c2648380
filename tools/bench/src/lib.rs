//! What can be measured of ours inside one process: the kernels of `margay bench` and of the benchmark programs.
//!
//! A figure is the median of many short batches: on a machine that is shared a batch may be interrupted, but not most of
//! them. Nothing is pinned but threads of this process, and these only while they measure.

#![forbid(unsafe_code)]

pub mod demi;
pub mod disk;
pub mod hop;
pub mod journal;
pub mod local;
pub mod sampling;
pub mod served;
pub mod simulated;
pub mod stack;
