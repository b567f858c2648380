#![forbid(unsafe_code)]
//! The pure core of the cache.

pub mod blob;
pub mod command;
pub mod config;
pub mod connection;
pub mod data;
pub mod engine;
mod garbage;
pub mod glob;
pub mod info;
pub mod keyspace;
pub mod number;
pub mod object;
pub mod pack;
pub mod refusal;
pub mod resp;
pub mod shard;
pub mod table;
