//! The cases, by what they are about. Each function is one, named by the fact that it states.

pub mod cancel;
pub mod connections;
pub mod datagrams;
pub mod ends;
pub mod faults;
pub mod many;
pub mod memory_queues;
pub mod misuse;
pub mod pressure;
pub mod shared_port;
pub mod transfers;
pub mod waits;
