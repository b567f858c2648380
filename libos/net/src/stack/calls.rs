//! What a user asks of a queue: the calls of the `Network` contract, but for those that move time on.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use pdpix::{Endpoint, Error, Handle, Op, OpId, OptionName, Outcome, Sga, SocketKind, SocketOption, Submitted};

use super::socket::{Push, Role, Socket};
use super::{Flow, Stack};
use crate::host::Transport;
use crate::tcp::{Ends, Fate, Fin, FlowKey, Listener, State, Tcb, initial_sequence, timestamp_offset};
use crate::udp::DatagramSocket;

/// Any address of the family of `like`.
fn any_like(like: Endpoint) -> Endpoint {
    let ip = if like.is_ipv6() { IpAddr::from(Ipv6Addr::UNSPECIFIED) } else { IpAddr::from(Ipv4Addr::UNSPECIFIED) };
    Endpoint::new(ip, 0)
}

/// This host, in the family of `like`.
fn loopback_like(like: Endpoint) -> IpAddr {
    if like.is_ipv6() { Ipv6Addr::LOCALHOST.into() } else { Ipv4Addr::LOCALHOST.into() }
}

fn transport_of(kind: SocketKind) -> Transport {
    if kind == SocketKind::Datagram { Transport::Udp } else { Transport::Tcp }
}

// Control path.
impl Stack {
    pub(crate) fn open(&mut self, kind: SocketKind) -> Result<Handle, Error> {
        if kind == SocketKind::Message {
            return Err(Error::NotSupported);
        }
        if self.sockets.len() >= self.settings.connections_max {
            return Err(Error::TooManyQueues);
        }
        Ok(Handle(self.sockets.insert(Socket::new(kind)) as u32))
    }

    fn at(&mut self, h: Handle) -> &mut Socket {
        &mut self.sockets[h.0 as usize]
    }

    pub(crate) fn set_option(&mut self, h: Handle, option: SocketOption) -> Result<(), Error> {
        let socket = self.at(h);
        let bound = socket.bound.is_some() || !matches!(socket.role, Role::Fresh);
        let kind = socket.kind;
        socket.options.set(option, kind, bound)?;
        let options = socket.options;
        if let SocketOption::ReceiveBudget(_) = option {
            socket.budget_is_set = true;
        }
        if let Role::Datagram(datagrams) = &mut socket.role {
            datagrams.options = options;
        }
        let Some(tcb) = socket.tcb() else { return Ok(()) };
        (tcb.no_delay, tcb.keep_alive) = (options.no_delay, options.keep_alive);
        match option {
            SocketOption::ReceiveBudget(budget) => {
                tcb.receive.set_budget(budget);
                tcb.receive.on_popped(tcb.mss); // the window may be larger now
            }
            // Pushes that wait may have room now: the next poll looks.
            SocketOption::SendBudget(_) => self.mark_blocked(h.0),
            _ => {}
        }
        self.mark_dirty(h.0);
        Ok(())
    }

    pub(crate) fn option(&self, h: Handle, name: OptionName) -> Result<SocketOption, Error> {
        let socket = &self.sockets[h.0 as usize];
        socket.options.get(name, socket.kind)
    }

    pub(crate) fn bind(&mut self, h: Handle, at: Endpoint) -> Result<Endpoint, Error> {
        let socket = &self.sockets[h.0 as usize];
        if socket.bound.is_some() || !matches!(socket.role, Role::Fresh) {
            return Err(Error::InvalidArgument);
        }
        if !(at.ip().is_unspecified() || self.ip.is_own(at.ip())) {
            return Err(Error::AddressNotAvailable);
        }
        let (kind, shared) = (socket.kind, socket.options.shared);
        let transport = transport_of(kind);
        let bound = self.host.bind(transport, at, shared, self.core)?;
        *self.bound.entry((transport, bound.port())).or_default() += 1;
        let socket = self.at(h);
        socket.bound = Some(bound);
        if kind == SocketKind::Datagram {
            let mut datagrams = DatagramSocket::new();
            (datagrams.local, datagrams.options) = (Some(bound), socket.options);
            socket.role = Role::Datagram(Box::new(datagrams));
            self.datagrams.entry(bound.port()).or_default().push(h.0);
        }
        Ok(bound)
    }

    /// A queue that was bound is gone.
    pub(super) fn unbind(&mut self, i: u32, bound: Endpoint) {
        let kind = self.sockets[i as usize].kind;
        let transport = transport_of(kind);
        let count = self.bound.entry((transport, bound.port())).or_insert(1);
        *count -= 1;
        let is_last = *count == 0;
        if is_last {
            self.bound.remove(&(transport, bound.port()));
        }
        self.host.unbind(transport, bound, self.core, is_last);
        let by_port = if kind == SocketKind::Datagram { &mut self.datagrams } else { &mut self.listeners };
        if let Some(all) = by_port.get_mut(&bound.port()) {
            all.retain(|other| *other != i);
            if all.is_empty() {
                by_port.remove(&bound.port());
            }
        }
    }

    pub(crate) fn listen(&mut self, h: Handle, backlog: u32) -> Result<(), Error> {
        let socket = self.at(h);
        if socket.kind != SocketKind::Stream {
            return Err(Error::NotSupported);
        }
        let (Some(bound), Role::Fresh) = (socket.bound, &socket.role) else { return Err(Error::InvalidArgument) };
        socket.role = Role::Listening(Box::new(Listener { backlog: backlog.max(1) as usize, ..Listener::default() }));
        self.listeners.entry(bound.port()).or_default().push(h.0);
        Ok(())
    }

    pub(crate) fn local(&self, h: Handle) -> Result<Endpoint, Error> {
        let socket = &self.sockets[h.0 as usize];
        match &socket.role {
            Role::Connecting(_, tcb) | Role::Connected(tcb) => Ok(tcb.ends.local),
            Role::Datagram(datagrams) => datagrams.local.ok_or(Error::InvalidArgument),
            Role::Dead => Err(Error::InvalidArgument),
            Role::Fresh | Role::Listening(_) => socket.bound.ok_or(Error::InvalidArgument),
        }
    }

    pub(crate) fn peer(&self, h: Handle) -> Result<Endpoint, Error> {
        match &self.sockets[h.0 as usize].role {
            Role::Connected(tcb) => Ok(tcb.ends.remote),
            Role::Datagram(datagrams) => datagrams.peer.ok_or(Error::NotConnected),
            _ => Err(Error::NotConnected),
        }
    }

    pub(crate) fn finish(&mut self, h: Handle) -> Result<(), Error> {
        let socket = self.at(h);
        match &mut socket.role {
            _ if socket.kind != SocketKind::Stream => return Err(Error::NotSupported),
            Role::Listening(_) => return Err(Error::NotSupported),
            Role::Connected(_) if socket.finishing => return Err(Error::BrokenPipe),
            Role::Connected(tcb) => {
                if tcb.fin != Fin::Open {
                    return Err(Error::BrokenPipe);
                }
                socket.finishing = true;
            }
            _ => return Err(Error::NotConnected),
        }
        self.finish_if_pushed(h.0);
        Ok(())
    }

    /// Our side ends once no push waits any more.
    pub(super) fn finish_if_pushed(&mut self, i: u32) {
        let socket = &mut self.sockets[i as usize];
        if socket.finishing
            && socket.pushes.is_empty()
            && let Some(tcb) = socket.tcb()
            && tcb.state != State::Closed
        {
            tcb.finish();
            self.mark_dirty(i);
        }
    }

    pub(crate) fn cancel(&mut self, h: Handle, op: OpId) {
        let Some(socket) = self.sockets.get_mut(h.0 as usize) else { return };
        let before = socket.waiting.len() + socket.pushes.len();
        socket.waiting.retain(|(waiting, _)| *waiting != op);
        socket.pushes.retain(|push| push.op != op);
        let mut ended = before != socket.waiting.len() + socket.pushes.len();
        match &mut socket.role {
            Role::Datagram(datagrams) => ended |= datagrams.cancel(op),
            Role::Connecting(connecting, _) if *connecting == op => {
                ended = true;
                self.give_up_connect(h.0);
            }
            _ => {}
        }
        if ended {
            self.ended.push_back((op, Err(Error::Canceled)));
        }
        self.finish_if_pushed(h.0);
    }

    /// An attempt to connect is over, whoever ends it: the queue is good for close only.
    fn give_up_connect(&mut self, i: u32) {
        self.with_tcb(i, |tcb, cx| tcb.abort(Error::Canceled, cx));
        self.forget_flow(i);
        self.sockets[i as usize].role = Role::Dead;
    }

    /// Its segments mean nothing any more.
    pub(super) fn forget_flow(&mut self, i: u32) {
        let Some(tcb) = self.sockets[i as usize].tcb() else { return };
        let key = FlowKey::of(&tcb.ends);
        if self.flows.get(&key) == Some(&Flow::Socket(i)) {
            self.flows.remove(&key);
        }
    }

    pub(crate) fn close(&mut self, h: Handle) {
        let i = h.0;
        let socket = self.at(h);
        let waiting = std::mem::take(&mut socket.waiting).into_iter().map(|(op, _)| op);
        let ops: Vec<OpId> =
            waiting.chain(std::mem::take(&mut socket.pushes).into_iter().map(|push| push.op)).collect();
        let ops: Vec<OpId> = ops.into_iter().chain(socket.take_unacknowledged()).collect();
        self.ended.extend(ops.into_iter().map(|op| (op, Err(Error::Canceled))));
        match &mut self.at(h).role {
            Role::Fresh | Role::Dead => self.release(i),
            Role::Datagram(datagrams) => {
                let ops: Vec<OpId> = datagrams.close().collect();
                self.ended.extend(ops.into_iter().map(|op| (op, Err(Error::Canceled))));
                self.release(i);
            }
            Role::Listening(listener) => {
                let ready = std::mem::take(&mut listener.ready);
                self.drop_embryos_of(i);
                for queue in ready {
                    self.with_tcb(queue.0, |tcb, cx| tcb.abort(Error::Canceled, cx));
                    self.forget_flow(queue.0);
                    self.release(queue.0);
                }
                self.release(i);
            }
            Role::Connecting(op, _) => {
                let op = *op;
                self.ended.push_back((op, Err(Error::Canceled)));
                self.give_up_connect(i);
                self.release(i);
            }
            Role::Connected(_) => self.close_connection(i),
        }
    }

    fn close_connection(&mut self, i: u32) {
        let socket = &mut self.sockets[i as usize];
        let linger = socket.options.linger;
        if socket.tcb().is_none_or(|tcb| tcb.state == State::Closed) {
            return self.release(i);
        }
        socket.closing = true;
        self.zombies += 1;
        match self.with_tcb(i, |tcb, cx| tcb.close(linger, cx)) {
            Some(Fate::Lives) => {
                if self.sockets[i as usize].tcb().is_some_and(|tcb| tcb.state == State::TimeWait) {
                    return self.retire(i);
                }
                self.mark_dirty(i);
            }
            _ => {
                self.forget_flow(i);
                self.release_if_closed(i);
            }
        }
    }
}

// Data path.
impl Stack {
    #[inline]
    pub(crate) fn submit(&mut self, h: Handle, op: OpId, what: Op) -> Result<Submitted, Error> {
        match what {
            Op::Pop { len_max } => self.submit_pop(h, op, len_max),
            Op::Push(sga) => self.submit_push(h, op, sga, None),
            Op::PushTo(sga, to) => self.submit_push(h, op, sga, Some(to)),
            Op::Accept => self.submit_accept(h, op),
            Op::Connect(to) => self.submit_connect(h, op, to),
        }
    }

    #[inline]
    fn submit_pop(&mut self, h: Handle, op: OpId, len_max: usize) -> Result<Submitted, Error> {
        if len_max == 0 {
            return Err(Error::InvalidArgument);
        }
        let now = self.now;
        let socket = self.at(h);
        match &mut socket.role {
            Role::Connected(_) => {}
            Role::Datagram(datagrams) => return datagrams.pop(op, len_max),
            Role::Listening(_) => return Err(Error::NotSupported),
            _ if socket.kind == SocketKind::Stream => return Err(Error::NotConnected),
            _ => return Err(Error::InvalidArgument),
        }
        if socket.ended {
            return Err(Error::EndOfStream);
        }
        if socket.waiting.is_empty()
            && let Some(result) = Self::read(socket, len_max, now)
        {
            if socket.tcb().is_some_and(|tcb| tcb.receive.is_due()) {
                self.mark_dirty(h.0);
            }
            return Ok(Submitted::Done(result));
        }
        socket.waiting.push_back((op, len_max));
        Ok(Submitted::Pending)
    }

    #[inline]
    fn submit_push(&mut self, h: Handle, op: OpId, sga: Sga, to: Option<Endpoint>) -> Result<Submitted, Error> {
        if sga.is_empty() {
            return Err(Error::InvalidArgument);
        }
        let socket = self.at(h);
        if socket.kind == SocketKind::Datagram {
            return self.submit_datagram(h, op, sga, to);
        }
        let (budget, waits, finishing) = (socket.options.send_budget, !socket.pushes.is_empty(), socket.finishing);
        let tcb = match &mut socket.role {
            _ if to.is_some() => return Err(Error::NotSupported),
            Role::Connected(tcb) => tcb,
            Role::Listening(_) => return Err(Error::NotSupported),
            _ => return Err(Error::NotConnected),
        };
        if finishing {
            return Err(Error::BrokenPipe);
        }
        if tcb.state == State::Closed {
            return Ok(Submitted::Done(Err(tcb.error.unwrap_or(Error::BrokenPipe))));
        }
        if waits || tcb.queue.pinned() >= budget {
            socket.pushes.push_back(Push { op, sga, to: None });
            return Ok(Submitted::Pending);
        }
        let len = sga.len();
        tcb.queue.push(sga);
        self.mark_dirty(h.0);
        if self.settings.push_is_acknowledged {
            self.at(h).note_unacknowledged(op, len);
            return Ok(Submitted::Pending);
        }
        Ok(Submitted::PUSHED)
    }

    fn submit_accept(&mut self, h: Handle, op: OpId) -> Result<Submitted, Error> {
        let socket = self.at(h);
        let Role::Listening(_) = socket.role else { return Err(Error::InvalidArgument) };
        if socket.waiting.is_empty()
            && let Some(accepted) = Self::next_ready(socket)
        {
            return Ok(Submitted::Done(Ok(self.accepted(accepted))));
        }
        socket.waiting.push_back((op, 0));
        Ok(Submitted::Pending)
    }

    fn submit_connect(&mut self, h: Handle, op: OpId, to: Endpoint) -> Result<Submitted, Error> {
        let socket = self.at(h);
        match &socket.role {
            Role::Fresh | Role::Datagram(_) => {}
            Role::Connected(_) | Role::Connecting(..) => return Err(Error::AlreadyConnected),
            Role::Listening(_) => return Err(Error::NotSupported),
            Role::Dead => return Err(Error::InvalidArgument),
        }
        if socket.bound.is_some_and(|bound| bound.is_ipv6() != to.is_ipv6()) {
            return Err(Error::AddressFamily);
        }
        if socket.kind == SocketKind::Datagram {
            return self.connect_datagrams(h, to);
        }
        match self.begin_connect(h, to) {
            Ok(tcb) => {
                let key = FlowKey::of(&tcb.ends);
                self.flows.insert(key, Flow::Socket(h.0));
                self.at(h).role = Role::Connecting(op, Box::new(tcb));
                self.mark_dirty(h.0);
                Ok(Submitted::Pending)
            }
            // No way there is a fault, and not the caller's.
            Err(fault @ (Error::NetworkUnreachable | Error::HostUnreachable)) => {
                self.at(h).role = Role::Dead;
                Ok(Submitted::Done(Err(fault)))
            }
            Err(refusal) => Err(refusal),
        }
    }

    fn begin_connect(&mut self, h: Handle, to: Endpoint) -> Result<Tcb, Error> {
        if to.port() == 0 || to.ip().is_multicast() {
            return Err(Error::InvalidArgument);
        }
        // RFC 1122 §4.2.3.7; who connects to any address means this host.
        let to = if to.ip().is_unspecified() { Endpoint::new(loopback_like(to), to.port()) } else { to };
        let bound = self.sockets[h.0 as usize].bound;
        let source = match bound.map(|bound| bound.ip()).filter(|ip| !ip.is_unspecified()) {
            Some(ip) => ip,
            None => self.ip.source_for(to.ip())?,
        };
        let path = self.ip.path(source, to.ip())?;
        let port = match bound {
            Some(bound) => bound.port(),
            None => {
                // RFC 6056: a port that nobody can guess, and that no connection to this peer has.
                let flows = &self.flows;
                let is_free = |port| !flows.contains_key(&FlowKey::new((source, port), (to.ip(), to.port())));
                self.host.connect(source, to, self.core, is_free)?
            }
        };
        let ends = Ends { local: Endpoint::new(source, port), remote: to };
        if self.flows.contains_key(&FlowKey::of(&ends)) {
            return Err(Error::AddressInUse);
        }
        let iss = initial_sequence(&self.secret, ends.local, ends.remote, self.now);
        let offset = timestamp_offset(&self.secret, source, to.ip());
        let mut tcb = Tcb::opening(ends, path, iss, offset, &mut self.cx());
        let socket = &self.sockets[h.0 as usize];
        (tcb.no_delay, tcb.keep_alive) = (socket.options.no_delay, socket.options.keep_alive);
        if socket.budget_is_set {
            tcb.receive.set_budget(socket.options.receive_budget);
        }
        Ok(tcb)
    }

    fn connect_datagrams(&mut self, h: Handle, to: Endpoint) -> Result<Submitted, Error> {
        if let Role::Fresh = self.at(h).role {
            self.bind(h, any_like(to))?;
        }
        let source = match self.ip.source_for(to.ip()) {
            Ok(source) => source,
            Err(fault) => return Ok(Submitted::Done(Err(fault))),
        };
        if let Role::Datagram(datagrams) = &mut self.at(h).role {
            datagrams.connect(Some(to));
            if let Some(local) = &mut datagrams.local
                && local.ip().is_unspecified()
            {
                local.set_ip(source);
            }
        }
        Ok(Submitted::Done(Ok(Outcome::Connected)))
    }

    fn submit_datagram(&mut self, h: Handle, op: OpId, sga: Sga, to: Option<Endpoint>) -> Result<Submitted, Error> {
        if let (Role::Fresh, Some(to)) = (&self.at(h).role, to) {
            if sga.len() > super::datagrams::DATAGRAM_MAX {
                return Err(Error::MessageSize);
            }
            self.bind(h, any_like(to))?;
        }
        self.push_datagram(h.0, op, sga, to)
    }
}
