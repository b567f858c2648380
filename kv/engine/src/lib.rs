#![forbid(unsafe_code)]
//! The pure core of the cache.

pub mod blob;
pub mod glob;
pub mod number;
pub mod resp;
pub mod table;
