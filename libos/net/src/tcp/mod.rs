//! TCP (RFC 9293): so far the pieces of which a connection is made.

#![allow(dead_code, reason = "the connection that uses the pieces is not here yet")]

mod buf_deque;
mod congestion;
mod cookie;
mod isn;
mod prr;
mod reassembly;
mod receive_queue;
mod rtt;
mod send_queue;
mod seq;

pub use congestion::CongestionKind;
