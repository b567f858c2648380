//! Small services, each an actor and a function `run` that starts it on a core.
//!
//! - [`echo`]: gives back what it gets.
//! - [`relay`]: forwards datagrams to a target, and its answers back.
//! - [`pingpong`]: measures round trips to an echo.
//! - [`wal`]: a log that is durable when it says so.

#![forbid(unsafe_code)]

pub mod echo;
pub mod pingpong;
pub mod relay;
pub mod wal;
