//! A queue of a simulated network: what waits for it, what has arrived, what is unsent.
//!
//! Always: pops wait only when nothing is there for them; of a stream, `unsent` goes out in order, and a push that waits
//! in `pushes` has sent nothing. A fault stays: every operation after it ends with it.

use std::collections::VecDeque;

use pdpix::{Buf, Endpoint, Error, OpId, Popped, Rng, Sga, SocketKind, SocketOptions};

/// Names a socket for as long as it exists, and nobody afterwards.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct SocketId {
    /// The core's number in the world.
    pub(crate) core: usize,
    pub(crate) h: u32,
    pub(crate) serial: u64,
}

/// An end of a connection: which, and whether it is the one that connected (0) or that accepted (1).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct EndId {
    pub(crate) connection: u64,
    pub(crate) end: usize,
}

#[derive(Debug)]
pub(crate) enum Role {
    Fresh,
    Bound,
    /// With the connections that wait to be accepted.
    Listening {
        backlog: usize,
        queue: VecDeque<SocketId>,
    },
    Connecting(OpId, EndId),
    /// A connected stream, or (without an end) a datagram queue with a default peer.
    Connected(Option<EndId>),
    /// A connect that failed or was given up: good for `close` only.
    Dead,
}

/// How far our direction of a stream is ended.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Finish {
    Open,
    /// When everything unsent is acknowledged.
    Asked,
    Done,
}

pub(crate) struct Socket {
    pub(crate) id: SocketId,
    pub(crate) kind: SocketKind,
    pub(crate) role: Role,
    pub(crate) options: SocketOptions,
    pub(crate) local: Option<Endpoint>,
    pub(crate) peer: Option<Endpoint>,
    pub(crate) arrived: VecDeque<Buf>,
    pub(crate) datagrams: VecDeque<(Endpoint, Buf)>,
    pub(crate) arrived_pinned: usize,
    /// The peer has finished, after what has arrived.
    pub(crate) arrived_end: bool,
    /// The pop of length zero was given.
    pub(crate) ended: bool,
    pub(crate) fault: Option<Error>,
    /// Of a datagram queue: what came of an earlier datagram. Told once.
    pub(crate) unreachable: bool,
    /// Pops, or a listener's accepts, with the length they want.
    pub(crate) waiting: VecDeque<(OpId, usize)>,
    pub(crate) pushes: VecDeque<(OpId, Sga)>,
    pub(crate) unsent: VecDeque<Sga>,
    pub(crate) unsent_pinned: usize,
    pub(crate) finish: Finish,
    /// Closed by its user: it lingers.
    pub(crate) closing: bool,
}

impl Socket {
    pub(crate) fn new(id: SocketId, kind: SocketKind) -> Socket {
        Socket {
            id,
            kind,
            role: Role::Fresh,
            options: SocketOptions::default(),
            local: None,
            peer: None,
            arrived: VecDeque::new(),
            datagrams: VecDeque::new(),
            arrived_pinned: 0,
            arrived_end: false,
            ended: false,
            fault: None,
            unreachable: false,
            waiting: VecDeque::new(),
            pushes: VecDeque::new(),
            unsent: VecDeque::new(),
            unsent_pinned: 0,
            finish: Finish::Open,
            closing: false,
        }
    }

    pub(crate) fn is_stream(&self) -> bool {
        self.kind == SocketKind::Stream
    }

    /// The end of the connection that this is, or is to become.
    pub(crate) fn end(&self) -> Option<EndId> {
        match self.role {
            Role::Connected(end) => end,
            Role::Connecting(_, end) => Some(end),
            _ => None,
        }
    }

    /// Bytes that may still be sent to this socket. What it pins counts, not what it holds.
    pub(crate) fn window(&self) -> usize {
        self.options.receive_budget.saturating_sub(self.arrived_pinned)
    }

    pub(crate) fn unsent_len(&self) -> usize {
        self.unsent.iter().map(Sga::len).sum()
    }

    /// The first `len` bytes of what is unsent, as the device reads them: now, from the pushed buffers.
    pub(crate) fn peek_unsent(&self, len: usize) -> Vec<u8> {
        let mut bytes = vec![0; len];
        let mut done = 0;
        for sga in &self.unsent {
            done += sga.copy_to(0, &mut bytes[done..]);
            if done == len {
                break;
            }
        }
        debug_assert_eq!(done, len, "less is unsent than is under way");
        bytes
    }

    /// The first `len` bytes are acknowledged: the device lets go of them.
    pub(crate) fn release(&mut self, mut len: usize) {
        while len > 0
            && let Some(first) = self.unsent.front_mut()
        {
            self.unsent_pinned -= first.pinned();
            let count = first.len().min(len);
            len -= count;
            if count == first.len() {
                self.unsent.pop_front();
            } else {
                first.advance(count);
                self.unsent_pinned += first.pinned();
            }
        }
    }

    /// What there is for a pop, if there is anything.
    pub(crate) fn read(&mut self, len_max: usize, short_pops: f64, rng: &mut Rng) -> Option<Result<Popped, Error>> {
        if self.kind == SocketKind::Datagram {
            return self.read_datagram(len_max);
        }
        if self.arrived.is_empty() {
            return match self.fault {
                Some(fault) => Some(Err(fault)),
                None if self.arrived_end && std::mem::replace(&mut self.ended, true) => Some(Err(Error::EndOfStream)),
                None if self.arrived_end => Some(Ok(Popped::stream(Sga::new()))),
                None => None,
            };
        }
        let there: usize = self.arrived.iter().map(Buf::len).sum();
        let mut left = there.min(len_max);
        if rng.chance(short_pops) {
            left = rng.range(1..=left as u64) as usize;
        }
        let mut sga = Sga::new();
        while left > 0
            && let Some(mut buf) = self.arrived.pop_front()
        {
            if buf.len() > left {
                let front = buf.split_to(left);
                self.arrived.push_front(std::mem::replace(&mut buf, front));
            } else {
                self.arrived_pinned -= buf.pinned();
            }
            left -= buf.len();
            if let Err(buf) = sga.push(buf) {
                self.arrived_pinned += buf.pinned();
                self.arrived.push_front(buf);
                break;
            }
        }
        Some(Ok(Popped::stream(sga)))
    }

    fn read_datagram(&mut self, len_max: usize) -> Option<Result<Popped, Error>> {
        if std::mem::take(&mut self.unreachable) {
            return Some(Err(Error::ConnectionRefused));
        }
        let (from, mut buf) = self.datagrams.pop_front()?;
        self.arrived_pinned -= buf.pinned();
        let cut = buf.len() > len_max;
        buf.truncate(len_max.min(buf.len()));
        Some(Ok(Popped { sga: Sga::from(buf), from: Some(from), cut }))
    }

    /// The connection is lost: nothing more is sent. Gives the pushes that end with it.
    pub(crate) fn fail(&mut self, fault: Error) -> VecDeque<(OpId, Sga)> {
        self.fault.get_or_insert(fault);
        self.unsent.clear();
        self.unsent_pinned = 0;
        std::mem::take(&mut self.pushes)
    }

    /// What must hold between any two calls.
    pub(crate) fn check(&self) {
        let unsent: usize = self.unsent.iter().map(Sga::pinned).sum();
        assert_eq!(self.unsent_pinned, unsent, "{:?}: pinned by what is unsent", self.id);
        let has_something = !self.arrived.is_empty() || !self.datagrams.is_empty() || self.fault.is_some();
        assert!(self.waiting.is_empty() || !has_something, "{:?}: a pop waits, and there is something for it", self.id);
        assert!(self.fault.is_none() || self.pushes.is_empty(), "{:?}: a push waits for what is broken", self.id);
    }
}
