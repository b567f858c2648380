#![forbid(unsafe_code)]
//! The pure core of the cache.

pub mod glob;
pub mod number;
