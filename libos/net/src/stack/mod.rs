//! The stack of one core: queues, and the connections, listeners and ports behind them. Frames and `now` in; frames,
//! completions and the next deadline out.
//!
//! - `calls.rs`: what a user asks of a queue. `acknowledged.rs`: the other rule of when a push is complete. `inbound.rs`: what
//!   packets lead to; `predicted.rs`: the short way of most of them. `passive.rs`: listeners, embryos, cookies, TIME-WAIT.
//!   `datagrams.rs`: UDP. `socket.rs`: a queue.
//!
//! Always: a connection is in `flows` exactly while segments of it mean something; a queue that was closed is a zombie until
//! its connection is over or in TIME-WAIT, which holds no buffers.
//! Bounds: `connections_max`, `embryos_max` a listener, `time_waits_max`; budgets of each queue.

mod acknowledged;
mod calls;
mod datagrams;
mod inbound;
mod passive;
mod predicted;
mod socket;

use std::collections::VecDeque;
use std::sync::Arc;

use pdpix::{Completions, Error, Handle, Heap, Instant, Map, OpId, Outcome, Rng, Seed, Wheel};
use slab::Slab;
use smallvec::SmallVec;

use crate::device::{Frame, Link, Received};
use crate::host::{Host, Transport};
use crate::ip::{Inbound, Ip};
use crate::network::NetSettings;
use crate::secret::Secret;
use crate::tcp::{Cx, Embryo, Fate, FlowKey, Output, State, Tcb, TcpSettings, TimeWait};
use socket::{Role, Socket};

type OpResult = Result<Outcome<Handle>, Error>;

/// What a segment's name leads to.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Flow {
    Socket(u32),
    Embryo(u32),
    TimeWait(u32),
}

/// Whom a timer is for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Timed {
    Socket(u32),
    Embryo(u32),
    TimeWait(u32),
}

/// See the module's head.
pub(crate) struct Stack {
    pub(crate) ip: Ip,
    settings: TcpSettings,
    now: Instant,
    sockets: Slab<Socket>,
    flows: Map<FlowKey, Flow>,
    embryos: Slab<Embryo>,
    time_waits: Slab<TimeWait>,
    /// By port: who listens there.
    listeners: Map<u16, SmallVec<[u32; 1]>>,
    /// By port: whose datagrams come there.
    datagrams: Map<u16, SmallVec<[u32; 1]>>,
    /// What all cores of the host share; and which of them this is.
    host: Arc<Host>,
    core: usize,
    /// Bindings of this core, by protocol and port.
    bound: Map<(Transport, u16), u32>,
    secret: Secret,
    wheel: Wheel<Timed>,
    /// Queues that have something to send.
    dirty: VecDeque<u32>,
    /// Ends of operations that there was no room for.
    ended: VecDeque<(OpId, OpResult)>,
    zombies: usize,
    /// While a segment is taken in that another core may know: whether it is to be passed on.
    passes_on: Option<bool>,
    /// Queues that are served with the next poll: who waits had no room among the ends, or the device none for a push.
    blocked: VecDeque<u32>,
}

impl Stack {
    pub(crate) fn new(settings: NetSettings, link: Link, heap: Heap, (host, core): (Arc<Host>, usize)) -> Stack {
        let NetSettings { ip, tcp: settings, secret, seed, .. } = settings;
        let secret = Secret::new(secret);
        let mut rng = Rng::new(seed);
        let maps = Seed::new(rng.next_u64());
        Stack {
            ip: Ip::new(ip, link, heap, maps.clone(), rng.fork()),
            settings,
            now: Instant::ZERO,
            sockets: Slab::new(),
            flows: maps.map(),
            embryos: Slab::new(),
            time_waits: Slab::new(),
            listeners: maps.map(),
            datagrams: maps.map(),
            host,
            core,
            bound: maps.map(),
            passes_on: None,
            secret,
            wheel: Wheel::new(Instant::ZERO),
            dirty: VecDeque::new(),
            ended: VecDeque::new(),
            zombies: 0,
            blocked: VecDeque::new(),
        }
    }

    fn cx(&mut self) -> Cx<'_> {
        Cx { ip: &mut self.ip, settings: &self.settings, now: self.now }
    }

    /// Calls something of a connection.
    #[inline]
    fn with_tcb<R>(&mut self, i: u32, call: impl FnOnce(&mut Tcb, &mut Cx<'_>) -> R) -> Option<R> {
        let Stack { ip, settings, now, sockets, .. } = self;
        let mut cx = Cx { ip, settings, now: *now };
        let tcb = sockets.get_mut(i as usize)?.tcb()?;
        Some(call(tcb, &mut cx))
    }

    /// Queues that are closed, and whose buffers are still held.
    pub(crate) fn zombies(&self) -> usize {
        self.zombies
    }

    #[inline]
    fn complete(&mut self, op: OpId, result: OpResult, done: &mut Completions) {
        if done.room() > 0 && self.ended.is_empty() {
            done.push(op, result);
        } else {
            self.ended.push_back((op, result));
        }
    }

    #[inline]
    fn mark_dirty(&mut self, i: u32) {
        let socket = &mut self.sockets[i as usize];
        if !socket.dirty {
            socket.dirty = true;
            self.dirty.push_back(i);
        }
    }

    fn mark_blocked(&mut self, i: u32) {
        let socket = &mut self.sockets[i as usize];
        if !socket.blocked {
            socket.blocked = true;
            self.blocked.push_back(i);
        }
    }
}

// Going on.
impl Stack {
    /// What ended before, and what time has brought.
    pub(crate) fn begin_poll(&mut self, now: Instant, done: &mut Completions) {
        self.now = now;
        while done.room() > 0
            && let Some((op, result)) = self.ended.pop_front()
        {
            done.push(op, result);
        }
        if self.ip.deadline().is_some_and(|at| at <= now) {
            for notice in self.ip.on_time(now) {
                self.on_notice(notice, done);
            }
        }
        if self.wheel.is_due(now) {
            while let Some(timed) = self.wheel.pop(now) {
                self.on_timer(timed, done);
            }
        }
        for _ in 0..self.blocked.len() {
            let Some(i) = self.blocked.pop_front() else { break };
            if let Some(socket) = self.sockets.get_mut(i as usize) {
                socket.blocked = false;
                self.serve_blocked(i, done);
            }
        }
    }

    /// A frame has arrived.
    #[inline]
    pub(crate) fn receive(&mut self, frame: Received, done: &mut Completions) {
        let Err(frame) = self.receive_predicted(frame, done) else { return };
        let Err(frame) = self.receive_predicted_datagram(frame, done) else { return };
        let inbound = self.ip.receive(frame, self.now);
        self.take(inbound, done);
    }

    #[inline]
    fn take(&mut self, inbound: Inbound, done: &mut Completions) {
        match inbound {
            Inbound::Tcp(packet) => self.on_tcp(packet, done),
            Inbound::Udp(packet) => self.on_udp(packet, done),
            Inbound::Notice(notice) => self.on_notice(notice, done),
            Inbound::Taken => {}
        }
    }

    /// The same, when other cores may know its connection. False: this one does not, and nothing was answered.
    pub(crate) fn receive_or_pass(&mut self, frame: Received, is_looped: bool, done: &mut Completions) -> bool {
        self.passes_on = Some(false);
        if is_looped {
            self.receive_looped(frame, done);
        } else {
            self.receive(frame, done);
        }
        self.passes_on.take() != Some(true)
    }

    /// A packet to ourselves.
    pub(crate) fn receive_looped(&mut self, frame: Received, done: &mut Completions) {
        let inbound = self.ip.receive_looped(frame, self.now);
        self.take(inbound, done);
    }

    /// Sends what is to be sent, as far as the device's queue has room, and sets timers.
    pub(crate) fn flush(&mut self, now: Instant) {
        self.now = now;
        for _ in 0..self.dirty.len() {
            let Some(i) = self.dirty.pop_front() else { break };
            let Some(socket) = self.sockets.get_mut(i as usize) else { continue };
            socket.dirty = false;
            match self.with_tcb(i, Tcb::output) {
                Some(Output::Done) => self.rearm(i),
                Some(Output::Blocked) => {
                    self.rearm(i);
                    self.mark_dirty(i);
                }
                None => {}
            }
        }
    }

    /// For the device.
    pub(crate) fn frames(&mut self) -> &mut VecDeque<Frame> {
        self.ip.outbound()
    }

    /// Whether there is something to do at once.
    pub(crate) fn has_work(&self) -> bool {
        !self.ended.is_empty() || self.ip.has_looped()
    }

    /// Whether something waits for the device to have room, or for memory.
    pub(crate) fn is_blocked(&self) -> bool {
        !self.dirty.is_empty() || !self.blocked.is_empty()
    }

    /// When to be polled by itself.
    pub(crate) fn deadline(&self) -> Option<Instant> {
        self.wheel.next_deadline().into_iter().chain(self.ip.deadline()).min()
    }

    /// Sees to it that the wheel looks at a connection in time. Mostly it will anyway: a deadline that moves away is found
    /// out when the old one comes.
    #[inline]
    fn rearm(&mut self, i: u32) {
        let socket = &mut self.sockets[i as usize];
        let armed = socket.armed;
        let Some(deadline) = socket.tcb().filter(|tcb| tcb.state != State::Closed).and_then(|tcb| tcb.deadline())
        else {
            return;
        };
        match armed {
            Some((armed, _)) if armed <= deadline => {}
            _ => self.arm_anew(i, deadline),
        }
    }

    fn arm_anew(&mut self, i: u32, deadline: Instant) {
        self.disarm(i);
        let key = self.wheel.insert(deadline, Timed::Socket(i));
        self.sockets[i as usize].armed = Some((deadline, key));
    }

    fn disarm(&mut self, i: u32) {
        if let Some((_, key)) = self.sockets[i as usize].armed.take() {
            self.wheel.cancel(key);
        }
    }

    fn on_timer(&mut self, timed: Timed, done: &mut Completions) {
        match timed {
            Timed::Socket(i) => {
                let socket = &mut self.sockets[i as usize];
                socket.armed = None;
                if socket.tcb().is_none_or(|tcb| tcb.state == State::Closed) {
                    return;
                }
                if let Some(fate) = self.with_tcb(i, Tcb::on_time) {
                    self.after(i, fate, done);
                }
            }
            Timed::Embryo(i) => self.on_embryo_timer(i),
            Timed::TimeWait(i) => self.on_time_wait_timer(i),
        }
    }

    /// What a connection's new state means for its queue.
    #[inline]
    fn after(&mut self, i: u32, fate: Fate, done: &mut Completions) {
        if fate == Fate::Over {
            return self.conclude(i, done);
        }
        if let Role::Connecting(..) = self.sockets[i as usize].role {
            self.check_connected(i, done);
        }
        self.serve_reads(i, done);
        if !self.sockets[i as usize].pushes.is_empty() {
            self.serve_pushes(i, done);
        }
        if !self.sockets[i as usize].unacknowledged.is_empty() {
            self.serve_acknowledged(i, done);
        }
        if self.sockets[i as usize].tcb().is_some_and(|tcb| tcb.state == State::TimeWait) {
            self.flush_one(i);
            return self.retire(i);
        }
        self.mark_dirty(i);
    }

    /// Sends what one connection has to send, before it goes.
    fn flush_one(&mut self, i: u32) {
        self.with_tcb(i, Tcb::output);
    }

    fn check_connected(&mut self, i: u32, done: &mut Completions) {
        let socket = &mut self.sockets[i as usize];
        if !matches!(&socket.role, Role::Connecting(_, tcb) if tcb.state.is_synchronized()) {
            return;
        }
        if let Role::Connecting(op, tcb) = std::mem::replace(&mut socket.role, Role::Dead) {
            socket.role = Role::Connected(tcb);
            self.complete(op, Ok(Outcome::Connected), done);
        }
    }

    /// A connection is over: who waits is told, and what had arrived can still be popped.
    #[cold]
    fn conclude(&mut self, i: u32, done: &mut Completions) {
        let socket = &mut self.sockets[i as usize];
        let Some(tcb) = socket.tcb() else { return };
        let error = tcb.error;
        self.disarm(i);
        self.forget_flow(i);
        let socket = &mut self.sockets[i as usize];
        if let Role::Connecting(..) = socket.role {
            if let Role::Connecting(op, _) = std::mem::replace(&mut socket.role, Role::Dead) {
                self.complete(op, Err(error.unwrap_or(Error::ConnectionRefused)), done);
            }
            return self.release_if_closed(i);
        }
        let pushes = std::mem::take(&mut socket.pushes);
        for push in pushes {
            self.complete(push.op, Err(error.unwrap_or(Error::BrokenPipe)), done);
        }
        self.conclude_unacknowledged(i, error, done);
        self.serve_reads(i, done);
        self.release_if_closed(i);
    }

    fn release_if_closed(&mut self, i: u32) {
        if self.sockets[i as usize].closing {
            self.zombies -= 1;
            self.release(i);
        }
    }

    /// Forgets a queue.
    fn release(&mut self, i: u32) {
        self.disarm(i);
        if let Some(bound) = self.sockets[i as usize].bound {
            self.unbind(i, bound);
        }
        self.sockets.remove(i as usize);
    }

    /// Pops that wait get what there is; or how it ended.
    #[inline]
    fn serve_reads(&mut self, i: u32, done: &mut Completions) {
        loop {
            let has_room = done.room() > 0 && self.ended.is_empty();
            let socket = &mut self.sockets[i as usize];
            let Some(&(op, len_max)) = socket.waiting.front() else { return };
            if !has_room {
                // What was popped must not be overtaken by what is popped next.
                return self.mark_blocked(i);
            }
            let Some(result) = Self::read(socket, len_max, self.settings.pop_in_one_piece, self.now) else { return };
            socket.waiting.pop_front();
            self.mark_dirty(i); // the window may be larger now
            self.complete(op, result, done);
        }
    }

    /// What a pop of this connection gives now.
    #[inline]
    fn read(socket: &mut Socket, len_max: usize, in_one_piece: bool, now: Instant) -> Option<OpResult> {
        let ended = socket.ended;
        let tcb = socket.tcb()?;
        if tcb.receive.has_text() {
            let rtt = tcb.recovery.round_trip_nanos();
            let sga = tcb.receive.pop(len_max, in_one_piece, now, rtt);
            tcb.receive.on_popped(tcb.mss);
            return Some(Ok(Outcome::Popped(pdpix::Popped::stream(sga))));
        }
        if tcb.receive.has_ended() {
            socket.ended = true;
            let result = if ended {
                Err(Error::EndOfStream)
            } else {
                Ok(Outcome::Popped(pdpix::Popped::stream(pdpix::Sga::new())))
            };
            return Some(result);
        }
        (tcb.state == State::Closed).then(|| Err(tcb.error.unwrap_or(Error::ConnectionReset)))
    }

    /// Pushes that wait are taken, as far as there is room.
    fn serve_pushes(&mut self, i: u32, done: &mut Completions) {
        loop {
            let socket = &mut self.sockets[i as usize];
            let budget = socket.options.send_budget;
            let Some(tcb) = socket.tcb() else { return };
            if tcb.queue.pinned() >= budget {
                return;
            }
            let Some(push) = socket.pushes.pop_front() else { return };
            let len = push.sga.len();
            if let Some(tcb) = socket.tcb() {
                tcb.queue.push(push.sga);
            }
            self.mark_dirty(i);
            if self.settings.push_is_acknowledged {
                self.sockets[i as usize].note_unacknowledged(push.op, len);
            } else {
                self.complete(push.op, Ok(Outcome::Pushed), done);
            }
            self.finish_if_pushed(i);
        }
    }

    /// The device is gone: all that waits is told, and every connection is over.
    pub(crate) fn fail(&mut self, done: &mut Completions) {
        let all: Vec<u32> = self.sockets.iter().map(|(i, _)| i as u32).collect();
        for i in all {
            let Some(socket) = self.sockets.get_mut(i as usize) else { continue };
            let waiting = std::mem::take(&mut socket.waiting).into_iter().map(|(op, _)| op);
            let pushes = std::mem::take(&mut socket.pushes).into_iter().map(|push| push.op);
            let mut ops: Vec<OpId> = waiting.chain(pushes).chain(socket.take_unacknowledged()).collect();
            if let Role::Datagram(datagrams) = &mut socket.role {
                ops.extend(datagrams.close());
            }
            ops.into_iter().for_each(|op| self.complete(op, Err(Error::NetworkDown), done));
            if let Some(fate) = self.with_tcb(i, |tcb, cx| tcb.abort(Error::NetworkDown, cx)) {
                self.after(i, fate, done);
            }
        }
        self.ip.outbound().clear();
    }

    /// Whoever is at the other end of the link has gone, perhaps not for ever: every connection is over, and whoever listens
    /// goes on.
    pub(crate) fn lose_link(&mut self, done: &mut Completions) {
        let all: Vec<u32> = self.sockets.iter().map(|(i, _)| i as u32).collect();
        for i in all {
            if let Some(fate) = self.with_tcb(i, |tcb, cx| tcb.abort(Error::NetworkDown, cx)) {
                self.after(i, fate, done);
            }
        }
        self.ip.outbound().clear();
    }

    /// The process ends: every connection is reset, and its ports are given back.
    pub(crate) fn abort_all(&mut self) {
        let all: Vec<u32> = self.sockets.iter().map(|(i, _)| i as u32).collect();
        for i in all {
            self.with_tcb(i, |tcb, cx| tcb.abort(Error::Canceled, cx));
            if let Some(bound) = self.sockets[i as usize].bound.take() {
                self.unbind(i, bound);
            }
        }
    }

    /// The time of the last call that had it.
    pub(crate) fn now(&self) -> Instant {
        self.now
    }

    /// What must hold, between calls.
    pub(crate) fn check(&mut self) {
        for (_, socket) in &mut self.sockets {
            if let Some(tcb) = socket.tcb() {
                tcb.check();
            }
        }
        let embryos: usize =
            self.sockets.iter().map(|(_, s)| if let Role::Listening(l) = &s.role { l.embryos } else { 0 }).sum();
        assert_eq!(embryos, self.embryos.len(), "embryos of listeners");
    }
}
