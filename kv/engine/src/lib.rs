//! The pure core of Margay's cache: everything about a Redis-compatible server but sockets, cores and clocks.
//!
//! A server reads requests with a [`RequestParser`](resp::RequestParser), hands each to the
//! [`Connection`](connection::Connection) that it came by, asks [`shard::plan`] where it runs, and either gets the answer
//! from the connection, or has it carried out by the [`Engine`](engine::Engine) of one shard, or leads a
//! [`Conversation`](shard::Conversation) with the engines of several. Replies are written into a `pdpix::Output`.
//!
//! Always: time is an argument, chance comes from a seed, memory from one heap. A command that answers with an error has
//! changed nothing. What arrives from a client never panics and never takes more memory than it has sent, but for what
//! its commands store.
//! Source: redis-server 7.0.15, whose replies the tests compare with ours (`tests/against_redis`); README.md lists what is
//! supported and what is different. Not here: connections between machines, eviction, and
//! where files lie ([`rdb`], [`snapshot`] and [`log`] say what is in them).
#![forbid(unsafe_code)]

pub mod blob;
pub mod command;
pub mod config;
pub mod connection;
pub mod data;
pub mod engine;
#[doc(hidden)]
pub mod fuzzing;
mod garbage;
pub mod glob;
pub mod info;
pub mod keyspace;
pub mod log;
pub mod number;
pub mod object;
pub mod pack;
pub mod rdb;
pub mod refusal;
pub mod resp;
pub mod shard;
pub mod snapshot;
pub mod table;
