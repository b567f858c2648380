//! Passive opens: what a listener keeps of connections before anybody accepts them (RFC 9293 §3.10.7.2, RFC 4987).
//!
//! A SYN makes an [`Embryo`], which holds no buffers; the acknowledgement of our SYN makes it a connection, which waits for
//! its accept. Past the bound of embryos a SYN is answered with a cookie, and remembered nowhere.
//! Bounds: `embryos_max` of a listener; `backlog` connections that wait, beyond which handshakes are not finished: the peer
//! tries again.

use std::collections::VecDeque;

use pdpix::{Handle, Instant, TimerKey};

use super::flow::FlowKey;
use super::seq::SeqNumber;
use super::tcb::{Agreed, Ends};
use crate::ip::Path;

/// What a listening queue has.
#[derive(Debug, Default)]
pub(crate) struct Listener {
    pub(crate) backlog: usize,
    /// Established, and not accepted.
    pub(crate) ready: VecDeque<Handle>,
    pub(crate) embryos: usize,
    /// The last cookie was sent then: only for a while after that an acknowledgement may be one's.
    pub(crate) cookie_at: Option<Instant>,
}

/// A connection in SYN-RECEIVED that came in through a listener.
#[derive(Debug)]
pub(crate) struct Embryo {
    pub(crate) listener: Handle,
    pub(crate) ends: Ends,
    pub(crate) path: Path,
    pub(crate) iss: SeqNumber,
    pub(crate) irs: SeqNumber,
    pub(crate) agreed: Agreed,
    pub(crate) stamp_offset: u32,
    /// Our SYN, ACK was sent so often, and last then.
    pub(crate) count: u8,
    pub(crate) sent_at: Instant,
    pub(crate) timer: Option<TimerKey>,
}

impl Embryo {
    pub(crate) fn key(&self) -> FlowKey {
        FlowKey::of(&self.ends)
    }
}

/// The end of a connection that nobody holds any more, in TIME-WAIT (RFC 9293 §3.6.1): enough to answer for it.
#[derive(Debug)]
pub(crate) struct TimeWait {
    pub(crate) ends: Ends,
    pub(crate) snd_nxt: SeqNumber,
    pub(crate) rcv_nxt: SeqNumber,
    /// TS.Recent (RFC 6191 §2), and what is added to our clock.
    pub(crate) stamps: Option<(u32, u32)>,
    pub(crate) until: Instant,
    pub(crate) timer: Option<TimerKey>,
}
