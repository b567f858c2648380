#![forbid(unsafe_code)]
//! The pure core of the cache.

pub mod blob;
pub mod command;
pub mod data;
pub mod engine;
pub mod glob;
pub mod keyspace;
pub mod number;
pub mod object;
pub mod pack;
pub mod refusal;
pub mod resp;
pub mod table;
