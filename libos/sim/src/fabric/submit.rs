//! What a core asks of its network: the calls of the contract, for one socket each.

use std::collections::VecDeque;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::time::Duration;

use pdpix::{Endpoint, Error, Handle, Op, OpId, OptionName, Outcome, Sga, SocketKind, SocketOption, Submitted};

use crate::fabric::datagram::DATAGRAM_MAX;
use crate::fabric::socket::{Finish, Role, SocketId};
use crate::fabric::{Event, Fabric, OpResult};

fn unspecified(like: Endpoint) -> Endpoint {
    let ip = if like.is_ipv6() { IpAddr::from(Ipv6Addr::UNSPECIFIED) } else { IpAddr::from(Ipv4Addr::UNSPECIFIED) };
    Endpoint::new(ip, 0)
}

// Control path.
impl Fabric {
    pub(crate) fn open(&mut self, core: usize, kind: SocketKind) -> Result<Handle, Error> {
        if kind == SocketKind::Message {
            return Err(Error::NotSupported);
        }
        Ok(Handle(self.new_socket(core, kind).h))
    }

    pub(crate) fn set_option(&mut self, core: usize, h: Handle, option: SocketOption) -> Result<(), Error> {
        let socket = self.at(core, h);
        let (id, end, before) = (socket.id, socket.end(), socket.options);
        socket.options.set(option, socket.kind, !matches!(socket.role, Role::Fresh))?;
        match option {
            SocketOption::SendBudget(_) => self.accept_pushes(id),
            SocketOption::ReceiveBudget(_) => end.into_iter().for_each(|end| self.window_opened(end)),
            SocketOption::KeepAlive(Some(every)) if before.keep_alive.is_none() => {
                self.schedule(every, Event::KeepAlive(id, 0));
            }
            _ => {}
        }
        Ok(())
    }

    pub(crate) fn option(&mut self, core: usize, h: Handle, name: OptionName) -> Result<SocketOption, Error> {
        let socket = self.at(core, h);
        socket.options.get(name, socket.kind)
    }

    pub(crate) fn bind(&mut self, core: usize, h: Handle, at: Endpoint) -> Result<Endpoint, Error> {
        let host = self.cores[core].host;
        let socket = &mut self.cores[core].sockets[h.0 as usize];
        if !matches!(socket.role, Role::Fresh) {
            return Err(Error::InvalidArgument);
        }
        let this = &mut self.hosts[host];
        if !(this.addresses.contains(&at.ip()) || at.ip().is_unspecified() || at.ip().is_loopback()) {
            return Err(Error::AddressNotAvailable);
        }
        let bound = this.ports.bind(socket.id, socket.kind, at, socket.options.shared)?;
        (socket.role, socket.local) = (Role::Bound, Some(bound));
        Ok(bound)
    }

    pub(crate) fn listen(&mut self, core: usize, h: Handle, backlog: u32) -> Result<(), Error> {
        let socket = self.at(core, h);
        if !socket.is_stream() {
            return Err(Error::NotSupported);
        }
        if !matches!(socket.role, Role::Bound) {
            return Err(Error::InvalidArgument);
        }
        socket.role = Role::Listening { backlog: backlog.max(1) as usize, queue: VecDeque::new() };
        let (id, host) = (socket.id, self.cores[core].host);
        self.hosts[host].ports.listen(id);
        Ok(())
    }

    pub(crate) fn local(&mut self, core: usize, h: Handle) -> Result<Endpoint, Error> {
        let socket = self.at(core, h);
        if matches!(socket.role, Role::Dead) {
            return Err(Error::InvalidArgument);
        }
        socket.local.ok_or(Error::InvalidArgument)
    }

    pub(crate) fn peer(&mut self, core: usize, h: Handle) -> Result<Endpoint, Error> {
        let socket = self.at(core, h);
        if !matches!(socket.role, Role::Connected(_)) {
            return Err(Error::NotConnected);
        }
        socket.peer.ok_or(Error::NotConnected)
    }

    pub(crate) fn finish(&mut self, core: usize, h: Handle) -> Result<(), Error> {
        let socket = self.at(core, h);
        match socket.role {
            _ if !socket.is_stream() => return Err(Error::NotSupported),
            Role::Listening { .. } => return Err(Error::NotSupported),
            Role::Connected(Some(end)) if socket.finish == Finish::Open => {
                socket.finish = Finish::Asked;
                self.transmit(end);
            }
            Role::Connected(_) => return Err(Error::BrokenPipe),
            _ => return Err(Error::NotConnected),
        }
        Ok(())
    }

    pub(crate) fn cancel(&mut self, core: usize, h: Handle, op: OpId) {
        let Some(socket) = self.cores[core].sockets.get_mut(h.0 as usize) else { return };
        let (id, before) = (socket.id, socket.waiting.len() + socket.pushes.len());
        socket.waiting.retain(|(waiting, _)| *waiting != op);
        socket.pushes.retain(|(push, _)| *push != op);
        let mut ended = before != socket.waiting.len() + socket.pushes.len();
        if let Role::Connecting(connecting, end) = socket.role
            && connecting == op
        {
            socket.role = Role::Dead;
            self.give_up_connect(id, end);
            ended = true;
        }
        if ended {
            self.cancel_all(id, [op]);
        }
        // A finish may have waited for a push that is gone.
        self.get(id).and_then(|socket| socket.end()).into_iter().for_each(|end| self.transmit(end));
    }

    /// Closed by its user: what was accepted is still sent.
    pub(crate) fn close(&mut self, id: SocketId) {
        let Some(socket) = self.get(id).filter(|socket| !socket.closing) else { return };
        let waiting = std::mem::take(&mut socket.waiting).into_iter().map(|(op, _)| op);
        let ops: Vec<OpId> = waiting.chain(std::mem::take(&mut socket.pushes).into_iter().map(|(op, _)| op)).collect();
        let linger = socket.options.linger;
        let is_unread = !socket.arrived.is_empty();
        let is_broken = socket.fault.is_some();
        let role = std::mem::replace(&mut socket.role, Role::Dead);
        self.cancel_all(id, ops);
        match role {
            Role::Listening { queue, .. } => {
                self.remove(id);
                queue.into_iter().for_each(|nobodys| self.abort(nobodys));
            }
            Role::Connecting(op, end) => {
                self.give_up_connect(id, end);
                self.cancel_all(id, [op]);
                self.remove(id);
            }
            Role::Connected(Some(end)) => {
                let socket = self.get(id).expect("it is there");
                socket.role = Role::Connected(Some(end));
                if is_broken {
                    self.remove(id);
                } else if is_unread || linger.is_zero() {
                    self.abort(id);
                } else {
                    self.linger(id, linger);
                    self.transmit(end);
                }
            }
            _ => self.remove(id),
        }
    }

    fn linger(&mut self, id: SocketId, linger: Duration) {
        let Some(socket) = self.get(id) else { return };
        socket.closing = true;
        let is_over = socket.finish == Finish::Done;
        if socket.finish == Finish::Open {
            socket.finish = Finish::Asked;
        }
        self.cores[id.core].zombies += 1;
        if is_over {
            return self.remove(id);
        }
        self.schedule(linger, Event::LingerOver(id));
    }
}

// Data path.
impl Fabric {
    pub(crate) fn submit(&mut self, core: usize, h: Handle, op: OpId, what: Op) -> Result<Submitted, Error> {
        let id = self.at(core, h).id;
        let (name, len) = match &what {
            Op::Accept => ("accept", 0),
            Op::Connect(to) => ("connect", u64::from(to.port())),
            Op::Push(sga) | Op::PushTo(sga, _) => ("push", sga.len() as u64),
            Op::Pop { len_max } => ("pop", *len_max as u64),
        };
        self.note(core, name, op.0, len);
        match what {
            Op::Accept => self.submit_accept(id, op),
            Op::Connect(to) => self.submit_connect(id, op, to),
            Op::Pop { len_max } => self.submit_pop(id, op, len_max),
            Op::Push(sga) => self.submit_push(id, op, sga, None),
            Op::PushTo(sga, to) => self.submit_push(id, op, sga, Some(to)),
        }
    }

    /// Over: at once, or, by chance or because others of the queue are to end before, later.
    fn over(&mut self, id: SocketId, op: OpId, result: OpResult) -> Submitted {
        let after = self.lateness();
        if after.is_zero() && !self.cores[id.core].ends.contains_key(&id.serial) {
            return Submitted::Done(result);
        }
        self.end_op(id, op, result, after);
        Submitted::Pending
    }

    fn submit_accept(&mut self, id: SocketId, op: OpId) -> Result<Submitted, Error> {
        let socket = self.at(id.core, Handle(id.h));
        let Role::Listening { queue, .. } = &mut socket.role else { return Err(Error::InvalidArgument) };
        if socket.waiting.is_empty()
            && let Some(accepted) = queue.pop_front()
        {
            let result = self.accepted(accepted);
            return Ok(self.over(id, op, result));
        }
        socket.waiting.push_back((op, 0));
        Ok(Submitted::Pending)
    }

    fn submit_connect(&mut self, id: SocketId, op: OpId, to: Endpoint) -> Result<Submitted, Error> {
        let socket = self.at(id.core, Handle(id.h));
        match (socket.kind, &socket.role) {
            (_, Role::Fresh | Role::Bound) | (SocketKind::Datagram, Role::Connected(_)) => {}
            (_, Role::Connected(_) | Role::Connecting(..)) => return Err(Error::AlreadyConnected),
            (_, Role::Listening { .. }) => return Err(Error::NotSupported),
            (_, Role::Dead) => return Err(Error::InvalidArgument),
        }
        if socket.local.is_some_and(|local| local.is_ipv6() != to.is_ipv6()) {
            return Err(Error::AddressFamily);
        }
        if socket.local.is_none() {
            self.bind(id.core, Handle(id.h), unspecified(to))?;
        }
        let host = self.host(id);
        let local = self.at(id.core, Handle(id.h)).local.expect("it is bound");
        let from = self.source(host, local, to);
        let socket = self.at(id.core, Handle(id.h));
        (socket.local, socket.peer) = (Some(from), Some(to));
        if socket.kind == SocketKind::Datagram {
            socket.role = Role::Connected(None);
            return Ok(self.over(id, op, Ok(Outcome::Connected)));
        }
        let end = self.begin_connect(id, from, to);
        self.at(id.core, Handle(id.h)).role = Role::Connecting(op, end);
        Ok(Submitted::Pending)
    }

    fn submit_pop(&mut self, id: SocketId, op: OpId, len_max: usize) -> Result<Submitted, Error> {
        let (short_pops, undelivered) = (self.settings.short_pops, self.cores[id.core].ends.contains_key(&id.serial));
        let socket = self.at(id.core, Handle(id.h));
        match (socket.kind, &socket.role) {
            _ if len_max == 0 => return Err(Error::InvalidArgument),
            (_, Role::Connected(_)) | (SocketKind::Datagram, Role::Bound) => {}
            (_, Role::Listening { .. }) => return Err(Error::NotSupported),
            (SocketKind::Stream, _) => return Err(Error::NotConnected),
            _ => return Err(Error::InvalidArgument),
        }
        if socket.ended && !undelivered {
            return Err(Error::EndOfStream);
        }
        socket.waiting.push_back((op, len_max));
        if socket.waiting.len() == 1
            && let Some(result) = self.read(id, short_pops)
        {
            self.at(id.core, Handle(id.h)).waiting.pop_front();
            return Ok(self.over(id, op, result.map(Outcome::Popped)));
        }
        Ok(Submitted::Pending)
    }

    fn submit_push(&mut self, id: SocketId, op: OpId, sga: Sga, to: Option<Endpoint>) -> Result<Submitted, Error> {
        if sga.is_empty() {
            return Err(Error::InvalidArgument);
        }
        let socket = self.at(id.core, Handle(id.h));
        if socket.kind == SocketKind::Datagram {
            return self.submit_datagram(id, op, sga, to);
        }
        let end = match socket.role {
            _ if to.is_some() => return Err(Error::NotSupported),
            Role::Connected(Some(end)) => end,
            Role::Listening { .. } => return Err(Error::NotSupported),
            _ => return Err(Error::NotConnected),
        };
        if socket.finish != Finish::Open {
            return Err(Error::BrokenPipe);
        }
        if let Some(fault) = socket.fault {
            return Ok(self.over(id, op, Err(fault)));
        }
        if !socket.pushes.is_empty() || socket.unsent_pinned >= socket.options.send_budget {
            socket.pushes.push_back((op, sga));
            return Ok(Submitted::Pending);
        }
        socket.unsent_pinned += sga.pinned();
        socket.unsent.push_back(sga);
        self.transmit(end);
        Ok(self.over(id, op, Ok(Outcome::Pushed)))
    }

    fn submit_datagram(&mut self, id: SocketId, op: OpId, sga: Sga, to: Option<Endpoint>) -> Result<Submitted, Error> {
        let socket = self.at(id.core, Handle(id.h));
        let to = match (&socket.role, to) {
            (Role::Connected(_), None) => socket.peer.ok_or(Error::NotConnected)?,
            (_, Some(to)) => to,
            (_, None) => return Err(Error::NotConnected),
        };
        if sga.len() > DATAGRAM_MAX {
            return Err(Error::MessageSize);
        }
        if socket.local.is_some_and(|local| local.is_ipv6() != to.is_ipv6()) {
            return Err(Error::AddressFamily);
        }
        if std::mem::take(&mut socket.unreachable) {
            return Ok(self.over(id, op, Err(Error::ConnectionRefused)));
        }
        if socket.local.is_none() {
            self.bind(id.core, Handle(id.h), unspecified(to))?;
        }
        self.send_datagram(id, to, sga);
        Ok(self.over(id, op, Ok(Outcome::Pushed)))
    }
}
