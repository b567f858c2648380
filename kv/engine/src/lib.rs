#![forbid(unsafe_code)]
//! The pure core of the cache.
