//! TCP (RFC 9293): connections, and what they are made of. `docs/tcp.md` has a row for each thing that it does.
//!
//! - `tcb.rs`: a connection; `tcb/arrival.rs`: what a segment does to it; `tcb/time.rs`: what time does. `send.rs`, `long.rs`: what goes out. `receive.rs`: what comes in, and the
//!   window. `recovery.rs`: losses and timers. `state.rs`: the diagram of states.
//! - `segment.rs`, `seq.rs`, `flow.rs`: a segment, its numbers, its connection's name.
//! - `send_queue.rs`, `receive_queue.rs`, `reassembly.rs`, `scoreboard.rs`: what is kept.
//! - `congestion/`, `prr.rs`, `rack.rs`, `rtt.rs`: how much, and for how long.
//! - `listener.rs`, `isn.rs`, `cookie.rs`: beginnings.

mod buf_deque;
mod congestion;
pub(crate) mod cookie;
mod flow;
mod isn;
mod listener;
mod long;
mod prr;
mod rack;
mod reassembly;
mod receive;
mod receive_queue;
mod recovery;
mod rtt;
mod scoreboard;
mod segment;
mod send;
mod send_queue;
mod seq;
mod settings;
mod state;
mod tcb;

pub use congestion::CongestionKind;
pub use settings::TcpSettings;

pub(crate) use cookie::CookieOptions;
pub(crate) use flow::FlowKey;
pub(crate) use isn::{initial_sequence, timestamp_clock, timestamp_offset};
pub(crate) use listener::{Embryo, Listener, TimeWait};
pub(crate) use segment::{Heard, Malformed, Segment};
pub(crate) use send::{OUTBOUND_MAX, Output, own_mss};
pub(crate) use seq::SeqNumber;
pub(crate) use state::State;
pub(crate) use tcb::{Agreed, CHALLENGE_GAP, Cx, Ends, Fate, Fin, Tcb};
