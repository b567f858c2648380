//! A queue of the stack: its kind, its options, who waits at it, and what it is now.

use std::collections::VecDeque;

use pdpix::{Endpoint, Instant, OpId, Sga, SocketKind, SocketOptions, TimerKey};

use crate::tcp::{Listener, Tcb};
use crate::udp::DatagramSocket;

/// A queue.
#[derive(Debug)]
pub(super) struct Socket {
    pub(super) kind: SocketKind,
    pub(super) options: SocketOptions,
    /// The user has said how much may be received: it does not grow by itself.
    pub(super) budget_is_set: bool,
    pub(super) role: Role,
    /// What it was bound to, if the user did that.
    pub(super) bound: Option<Endpoint>,
    /// Pops and accepts that wait, and how much a pop takes.
    pub(super) waiting: VecDeque<(OpId, usize)>,
    /// Pushes that wait for room.
    pub(super) pushes: VecDeque<Push>,
    /// Pushes that have started and are complete when they are acknowledged, each with how much was pushed up to its end.
    pub(super) unacknowledged: VecDeque<(OpId, u64)>,
    /// Bytes pushed so far, as far as they are counted for that.
    pub(super) pushed: u64,
    /// The end of the stream was told.
    pub(super) ended: bool,
    /// Our side is to end after the pushes that wait.
    pub(super) finishing: bool,
    /// The user has closed it.
    pub(super) closing: bool,
    /// It is in the list of those that have something to send.
    pub(super) dirty: bool,
    /// It is in the list of those that are served with the next poll.
    pub(super) blocked: bool,
    /// When the wheel will look at it.
    pub(super) armed: Option<(Instant, TimerKey)>,
}

/// A push that has not started.
#[derive(Debug)]
pub(super) struct Push {
    pub(super) op: OpId,
    pub(super) sga: Sga,
    pub(super) to: Option<Endpoint>,
}

/// What a queue is now.
#[derive(Debug)]
pub(super) enum Role {
    Fresh,
    Listening(Box<Listener>),
    Connecting(OpId, Box<Tcb>),
    /// Or was; its connection may be over, and what had arrived not popped yet.
    Connected(Box<Tcb>),
    Datagram(Box<DatagramSocket>),
    /// An attempt to connect failed: it is good for close only.
    Dead,
}

impl Socket {
    pub(super) fn new(kind: SocketKind) -> Socket {
        Socket {
            kind,
            options: SocketOptions::default(),
            budget_is_set: false,
            role: Role::Fresh,
            bound: None,
            waiting: VecDeque::new(),
            pushes: VecDeque::new(),
            unacknowledged: VecDeque::new(),
            pushed: 0,
            ended: false,
            finishing: false,
            closing: false,
            dirty: false,
            blocked: false,
            armed: None,
        }
    }

    /// Its connection, if it has one.
    #[inline]
    pub(super) fn tcb(&mut self) -> Option<&mut Tcb> {
        match &mut self.role {
            Role::Connecting(_, tcb) | Role::Connected(tcb) => Some(tcb),
            _ => None,
        }
    }
}
