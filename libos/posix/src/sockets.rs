//! The contract over kernel sockets, whichever way they are waited for.
//!
//! First a direct non-blocking call, which often completes inside `submit`; what would block is left to the driver, and
//! is taken up when the socket becomes ready. Sockets that are ready stand in a list, and `poll` serves them in turn, as
//! far as there is room for what ends.

use std::collections::VecDeque;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::os::fd::OwnedFd;

use pdpix::{
    Completions, Endpoint, Error, Handle, Heap, Instant, Network, Op, OpId, OptionName, Outcome, Sga, SocketKind,
    SocketOption, Submitted, Wake, WakeOn,
};
use rustix::io::Errno;
use rustix::net::{AddressFamily, sockopt};
use slab::Slab;

use crate::driver::Driver;
use crate::setup::{apply_options, bind, make_family, new_socket, reset};
use crate::socket::{Finish, Read, Role, Sent, Socket, WaitingPush, endpoint, error};

type OpResult = Result<Outcome<Handle>, Error>;

/// All sockets, and which of them are to be served.
pub struct Table<D: Driver> {
    pub(crate) sockets: Slab<Socket<D>>,
    ready: VecDeque<Handle>,
    pub(crate) heap: Heap,
}

impl<D: Driver> Table<D> {
    /// The socket has something for those who wait, or room for what waits: to be served, if there is anybody.
    #[inline]
    pub(crate) fn make_ready_if_awaited(&mut self, h: Handle) {
        if let Some(socket) = self.sockets.get_mut(h.0 as usize)
            && (!socket.waiting.is_empty() || socket.is_awaited())
            && !std::mem::replace(&mut socket.is_ready, true)
        {
            self.ready.push_back(h);
        }
    }

    /// The same, whoever waits.
    #[inline]
    pub(crate) fn make_ready(&mut self, h: Handle) {
        if let Some(socket) = self.sockets.get_mut(h.0 as usize)
            && !std::mem::replace(&mut socket.is_ready, true)
        {
            self.ready.push_back(h);
        }
    }
}

/// Kernel sockets as a network.
pub struct KernelNetwork<D: Driver> {
    table: Table<D>,
    driver: D,
    /// Ends of operations that no socket has to be asked for: cancelled ones.
    ended: VecDeque<(OpId, OpResult)>,
    /// Sockets that had no memory to read into.
    starved: Vec<Handle>,
    /// Closed sockets that are not gone.
    zombies: Vec<Handle>,
}

impl<D: Driver> KernelNetwork<D> {
    pub(crate) fn over(driver: D, heap: Heap) -> KernelNetwork<D> {
        KernelNetwork {
            table: Table { sockets: Slab::new(), ready: VecDeque::new(), heap },
            driver,
            ended: VecDeque::new(),
            starved: Vec::new(),
            zombies: Vec::new(),
        }
    }

    /// The form of waiting.
    pub fn driver(&self) -> &D {
        &self.driver
    }

    fn get(&mut self, h: Handle) -> &mut Socket<D> {
        &mut self.table.sockets[h.0 as usize]
    }

    /// Makes a connection out of what a listener accepted. `None`: it was gone before we could look at it.
    fn adopt(&mut self, fd: OwnedFd) -> Result<Option<(Handle, Endpoint)>, Error> {
        let peer = match rustix::net::getpeername(&fd) {
            Ok(Some(peer)) => endpoint(&peer).ok_or(Error::AddressFamily)?,
            _ => return Ok(None),
        };
        let _ = sockopt::set_tcp_nodelay(&fd, true);
        let mut socket = Socket::new(fd, SocketKind::Stream, Role::Connected);
        let entry = self.table.sockets.vacant_entry();
        let h = Handle(entry.key() as u32);
        self.driver.watch(h, &mut socket)?;
        entry.insert(socket);
        Ok(Some((h, peer)))
    }

    fn accept(&mut self, h: Handle) -> Option<OpResult> {
        loop {
            let may_read = self.driver.may_read(&self.table.sockets[h.0 as usize]);
            let adopted = match self.get(h).accept(may_read) {
                Ok(None) => return None,
                Ok(Some(fd)) => self.adopt(fd),
                Err(error) => Err(error),
            };
            match adopted {
                Ok(None) => {}
                Ok(Some((queue, peer))) => return Some(Ok(Outcome::Accepted { queue, peer })),
                Err(error) => return Some(Err(error)),
            }
        }
    }

    #[inline]
    fn submit_accept(&mut self, h: Handle, op: OpId) -> Result<Submitted, Error> {
        if self.get(h).role != Role::Listening {
            return Err(Error::InvalidArgument);
        }
        if self.get(h).waiting.is_empty()
            && let Some(result) = self.accept(h)
        {
            return Ok(Submitted::Done(result));
        }
        let socket = &mut self.table.sockets[h.0 as usize];
        socket.waiting.push_back((op, 0));
        self.driver.want_read(h, socket);
        Ok(Submitted::Pending)
    }

    #[inline]
    fn submit_pop(&mut self, h: Handle, op: OpId, len_max: usize) -> Result<Submitted, Error> {
        if len_max == 0 {
            return Err(Error::InvalidArgument);
        }
        let socket = &mut self.table.sockets[h.0 as usize];
        match (socket.kind, socket.role) {
            (_, Role::Connected) => {}
            (_, Role::Listening) => return Err(Error::NotSupported),
            (SocketKind::Stream, _) => return Err(Error::NotConnected),
            // A datagram socket without an address can be sent to by nobody.
            (_, Role::Bound) => {}
            _ => return Err(Error::InvalidArgument),
        }
        if socket.ended {
            return Err(Error::EndOfStream);
        }
        if socket.waiting.is_empty() {
            let may_read = self.driver.may_read(socket);
            match socket.read(len_max, &self.table.heap, may_read) {
                Read::Popped(popped) => return Ok(Submitted::Done(Ok(Outcome::Popped(popped)))),
                Read::Fault(fault) => return Ok(Submitted::Done(Err(fault))),
                Read::Starved => self.starved.push(h),
                Read::Nothing => {}
            }
        }
        socket.waiting.push_back((op, len_max));
        self.driver.want_read(h, socket);
        Ok(Submitted::Pending)
    }

    #[inline]
    fn submit_push(&mut self, h: Handle, op: OpId, sga: Sga, to: Option<Endpoint>) -> Result<Submitted, Error> {
        if sga.is_empty() {
            return Err(Error::InvalidArgument);
        }
        let socket = &mut self.table.sockets[h.0 as usize];
        if socket.kind == SocketKind::Datagram {
            return self.submit_datagram(h, op, sga, to);
        }
        match socket.role {
            _ if to.is_some() => return Err(Error::NotSupported),
            Role::Connected => {}
            Role::Listening => return Err(Error::NotSupported),
            _ => return Err(Error::NotConnected),
        }
        if socket.finish != Finish::Open {
            return Err(Error::BrokenPipe);
        }
        if let Some(fault) = socket.fault {
            return Ok(Submitted::Done(Err(fault)));
        }
        if socket.pushes.is_empty() && socket.unsent.is_empty() && socket.writable && !self.driver.is_sending(socket) {
            let len = sga.len();
            if !self.driver.prefers_send(socket, len) {
                return Ok(match socket.send(&sga, None) {
                    Sent::Some(sent) if sent == len => Submitted::PUSHED,
                    Sent::Some(sent) => {
                        let mut rest = sga;
                        rest.advance(sent);
                        self.send_later(h, rest);
                        Submitted::PUSHED
                    }
                    Sent::WouldBlock => {
                        self.send_later(h, sga);
                        Submitted::PUSHED
                    }
                    Sent::Fault(fault) => {
                        socket.fail(fault);
                        Submitted::Done(Err(fault))
                    }
                });
            }
        }
        if !socket.pushes.is_empty() || socket.unsent_pinned >= socket.options.send_budget {
            socket.pushes.push_back(WaitingPush { op, sga, to: None });
            return Ok(Submitted::Pending);
        }
        self.send_later(h, sga);
        Ok(Submitted::PUSHED)
    }

    /// Accepted for sending: from now on it is ours to send.
    fn send_later(&mut self, h: Handle, sga: Sga) {
        let socket = &mut self.table.sockets[h.0 as usize];
        socket.unsent_pinned += sga.pinned();
        socket.unsent.push_back(sga);
        self.driver.want_write(h, socket);
    }

    fn submit_datagram(&mut self, h: Handle, op: OpId, sga: Sga, to: Option<Endpoint>) -> Result<Submitted, Error> {
        let socket = &mut self.table.sockets[h.0 as usize];
        match (socket.role, to) {
            (Role::Connected, _) | (Role::Bound, Some(_)) => {}
            (Role::Fresh, Some(to)) => self.bind_any(h, to)?,
            _ => return Err(Error::NotConnected),
        }
        let socket = &mut self.table.sockets[h.0 as usize];
        if socket.pushes.is_empty() && socket.writable {
            match socket.send(&sga, to) {
                Sent::Some(_) => return Ok(Submitted::PUSHED),
                // Longer than a datagram can be: refused. All else is what the network or an earlier datagram came to.
                Sent::Fault(Error::MessageSize) => return Err(Error::MessageSize),
                Sent::Fault(fault) => return Ok(Submitted::Done(Err(fault))),
                Sent::WouldBlock => {}
            }
        }
        socket.pushes.push_back(WaitingPush { op, sga, to });
        self.driver.want_write(h, socket);
        Ok(Submitted::Pending)
    }

    /// Gives a datagram socket an address of its own, from which `to` can be reached.
    #[cold]
    fn bind_any(&mut self, h: Handle, to: Endpoint) -> Result<(), Error> {
        let any = if to.is_ipv6() { IpAddr::from(Ipv6Addr::UNSPECIFIED) } else { IpAddr::from(Ipv4Addr::UNSPECIFIED) };
        self.bind(h, Endpoint::new(any, 0)).map(drop)
    }

    fn submit_connect(&mut self, h: Handle, op: OpId, to: Endpoint) -> Result<Submitted, Error> {
        let socket = &mut self.table.sockets[h.0 as usize];
        match (socket.kind, socket.role) {
            (_, Role::Fresh | Role::Bound) | (SocketKind::Datagram, Role::Connected) => {}
            (_, Role::Connected | Role::Connecting(_)) => return Err(Error::AlreadyConnected),
            (_, Role::Listening) => return Err(Error::NotSupported),
            (_, Role::Dead) => return Err(Error::InvalidArgument),
        }
        make_family(socket, to)?;
        match rustix::net::connect(&socket.fd, &to) {
            Ok(()) => {
                socket.role = Role::Connected;
                socket.readable = true;
                self.driver.watch(h, socket)?;
                Ok(Submitted::Done(Ok(Outcome::Connected)))
            }
            Err(Errno::INPROGRESS | Errno::INTR) => {
                socket.role = Role::Connecting(op);
                socket.writable = false;
                self.driver.watch(h, socket)?;
                self.driver.want_write(h, socket);
                Ok(Submitted::Pending)
            }
            Err(errno) => {
                socket.role = Role::Dead;
                Ok(Submitted::Done(Err(error(errno))))
            }
        }
    }

    /// Takes up what waits for a socket that is ready. False if there was no room for what ends.
    #[inline]
    fn serve(&mut self, h: Handle, now: Instant, done: &mut Completions) -> bool {
        let Some(socket) = self.table.sockets.get_mut(h.0 as usize) else { return true };
        socket.is_ready = false;
        if socket.has_writes() || socket.closing.is_some() || matches!(socket.role, Role::Connecting(_)) {
            return self.serve_all(h, now, done);
        }
        socket.waiting.is_empty() || self.serve_reads(h, done)
    }

    fn serve_all(&mut self, h: Handle, now: Instant, done: &mut Completions) -> bool {
        let socket = &mut self.table.sockets[h.0 as usize];
        if let Role::Connecting(op) = socket.role {
            if !socket.writable {
                return true; // only the descriptor was new
            }
            if done.room() == 0 {
                return false;
            }
            let failed = match sockopt::socket_error(&socket.fd) {
                Ok(Ok(())) => None,
                Ok(Err(errno)) | Err(errno) => Some(error(errno)),
            };
            socket.role = if failed.is_some() { Role::Dead } else { Role::Connected };
            let watched = if failed.is_none() { self.driver.watch(h, socket).err() } else { None };
            done.push(op, failed.or(watched).map_or(Ok(Outcome::Connected), Err));
        }
        self.serve_writes(h, done) && self.serve_reads(h, done) && self.serve_close(h, now)
    }

    fn serve_reads(&mut self, h: Handle, done: &mut Completions) -> bool {
        let socket = &mut self.table.sockets[h.0 as usize];
        if socket.role == Role::Listening {
            return self.serve_accepts(h, done);
        }
        while let Some(&(op, len_max)) = socket.waiting.front() {
            if done.room() == 0 {
                return false;
            }
            if socket.ended {
                done.push(op, Err(Error::EndOfStream));
            } else {
                let may_read = self.driver.may_read(socket);
                match socket.read(len_max, &self.table.heap, may_read) {
                    Read::Popped(popped) => done.push(op, Ok(Outcome::Popped(popped))),
                    Read::Fault(fault) => done.push(op, Err(fault)),
                    Read::Nothing => {
                        self.driver.want_read(h, socket);
                        break;
                    }
                    Read::Starved => {
                        self.starved.push(h);
                        break;
                    }
                }
            }
            socket.waiting.pop_front();
        }
        true
    }

    fn serve_accepts(&mut self, h: Handle, done: &mut Completions) -> bool {
        while let Some(&(op, _)) = self.get(h).waiting.front() {
            if done.room() == 0 {
                return false;
            }
            let Some(result) = self.accept(h) else {
                self.driver.want_read(h, &mut self.table.sockets[h.0 as usize]);
                break;
            };
            self.get(h).waiting.pop_front();
            done.push(op, result);
        }
        true
    }

    fn serve_writes(&mut self, h: Handle, done: &mut Completions) -> bool {
        let socket = &mut self.table.sockets[h.0 as usize];
        if !socket.unsent.is_empty() && !self.driver.is_sending(socket) {
            if !self.driver.prefers_send(socket, socket.unsent[0].len()) {
                socket.send_unsent();
            }
            if !socket.unsent.is_empty() {
                self.driver.want_write(h, socket);
            }
        }
        loop {
            let socket = &mut self.table.sockets[h.0 as usize];
            let Some(first) = socket.pushes.front() else { break };
            if done.room() == 0 {
                return false;
            }
            let op = first.op;
            let result = if let Some(fault) = socket.fault {
                socket.pushes.pop_front();
                Err(fault)
            } else if socket.is_stream() {
                if socket.unsent_pinned >= socket.options.send_budget {
                    break;
                }
                let push = socket.pushes.pop_front().expect("the first");
                self.send_later(h, push.sga);
                Ok(Outcome::Pushed)
            } else {
                if !socket.writable {
                    break;
                }
                let push = socket.pushes.pop_front().expect("the first");
                match socket.send(&push.sga, push.to) {
                    Sent::Some(_) => Ok(Outcome::Pushed),
                    Sent::Fault(fault) => Err(fault),
                    Sent::WouldBlock => {
                        socket.pushes.push_front(push);
                        self.driver.want_write(h, socket);
                        break;
                    }
                }
            };
            done.push(op, result);
        }
        let socket = &mut self.table.sockets[h.0 as usize];
        let sending = self.driver.is_sending(socket);
        socket.finish_if_sent(sending);
        true
    }

    /// A closed socket goes when everything is sent, or its time is over, and the kernel holds nothing of it.
    fn serve_close(&mut self, h: Handle, now: Instant) -> bool {
        let socket = &mut self.table.sockets[h.0 as usize];
        let Some(until) = socket.closing else { return true };
        let sending = !socket.unsent.is_empty() || self.driver.is_sending(socket) || self.driver.is_held(socket);
        if sending && socket.fault.is_none() {
            if now < until {
                return true;
            }
            // The peer did not take it in time: reset, so that it does not take what it got for everything.
            reset(&socket.fd);
            socket.fail(Error::TimedOut);
        }
        if self.driver.unwatch(h, socket) {
            if socket.unread {
                reset(&socket.fd);
            }
            self.table.sockets.remove(h.0 as usize);
            self.zombies.retain(|&zombie| zombie != h);
        }
        true
    }

    /// Those that linger: from now on, if they were just closed; and no longer, if it is over.
    fn linger(&mut self, now: Instant) {
        for i in 0..self.zombies.len() {
            let h = self.zombies[i];
            let socket = self.get(h);
            match socket.closing {
                Some(Instant::NEVER) => socket.closing = Some(now + socket.options.linger),
                Some(until) if now >= until => self.table.make_ready(h),
                _ => {}
            }
        }
    }
}

impl<D: Driver> Network for KernelNetwork<D> {
    fn open(&mut self, kind: SocketKind) -> Result<Handle, Error> {
        // The family is known when an address is; until then it is the one that nearly everybody means.
        let fd = new_socket(AddressFamily::INET, kind)?;
        Ok(Handle(self.table.sockets.insert(Socket::new(fd, kind, Role::Fresh)) as u32))
    }

    fn set_option(&mut self, h: Handle, option: SocketOption) -> Result<(), Error> {
        let socket = self.get(h);
        socket.options.set(option, socket.kind, socket.role != Role::Fresh)?;
        if let SocketOption::SendBudget(_) = option {
            self.table.make_ready_if_awaited(h); // pushes may fit now
            return Ok(());
        }
        apply_options(socket).map_err(error)
    }

    fn option(&self, h: Handle, name: OptionName) -> Result<SocketOption, Error> {
        let socket = &self.table.sockets[h.0 as usize];
        socket.options.get(name, socket.kind)
    }

    fn bind(&mut self, h: Handle, at: Endpoint) -> Result<Endpoint, Error> {
        let socket = &mut self.table.sockets[h.0 as usize];
        if socket.role != Role::Fresh {
            return Err(Error::InvalidArgument);
        }
        make_family(socket, at)?;
        bind(socket, at).map_err(error)?;
        socket.role = Role::Bound;
        if !socket.is_stream() {
            socket.readable = true;
            self.driver.watch(h, socket)?;
        }
        self.local(h)
    }

    fn listen(&mut self, h: Handle, backlog: u32) -> Result<(), Error> {
        let socket = &mut self.table.sockets[h.0 as usize];
        if !socket.is_stream() {
            return Err(Error::NotSupported);
        }
        if socket.role != Role::Bound {
            return Err(Error::InvalidArgument);
        }
        let backlog = i32::try_from(backlog.max(1)).unwrap_or(i32::MAX);
        // Its connections have it from the listener, and leave the port to the next one (see `bind`).
        sockopt::set_socket_reuseaddr(&socket.fd, true).map_err(error)?;
        rustix::net::listen(&socket.fd, backlog).map_err(error)?;
        socket.role = Role::Listening;
        socket.readable = true;
        self.driver.watch(h, socket)
    }

    fn local(&self, h: Handle) -> Result<Endpoint, Error> {
        let socket = &self.table.sockets[h.0 as usize];
        if matches!(socket.role, Role::Fresh | Role::Dead) {
            return Err(Error::InvalidArgument);
        }
        endpoint(&rustix::net::getsockname(&socket.fd).map_err(error)?).ok_or(Error::AddressFamily)
    }

    fn peer(&self, h: Handle) -> Result<Endpoint, Error> {
        let socket = &self.table.sockets[h.0 as usize];
        if socket.role != Role::Connected {
            return Err(Error::NotConnected);
        }
        let peer = rustix::net::getpeername(&socket.fd).map_err(error)?;
        peer.and_then(|peer| endpoint(&peer)).ok_or(Error::NotConnected)
    }

    #[inline]
    fn submit(&mut self, h: Handle, op: OpId, what: Op) -> Result<Submitted, Error> {
        match what {
            Op::Pop { len_max } => self.submit_pop(h, op, len_max),
            Op::Push(sga) => self.submit_push(h, op, sga, None),
            Op::PushTo(sga, to) => self.submit_push(h, op, sga, Some(to)),
            Op::Accept => self.submit_accept(h, op),
            Op::Connect(to) => self.submit_connect(h, op, to),
        }
    }

    fn cancel(&mut self, h: Handle, op: OpId) {
        let Some(socket) = self.table.sockets.get_mut(h.0 as usize) else { return };
        let before = socket.waiting.len() + socket.pushes.len();
        socket.waiting.retain(|(waiting, _)| *waiting != op);
        socket.pushes.retain(|push| push.op != op);
        let waited = before != socket.waiting.len() + socket.pushes.len();
        let connecting = socket.role == Role::Connecting(op);
        if connecting {
            socket.role = Role::Dead;
        }
        if waited || connecting {
            self.ended.push_back((op, Err(Error::Canceled)));
        }
    }

    fn finish(&mut self, h: Handle) -> Result<(), Error> {
        let socket = &mut self.table.sockets[h.0 as usize];
        match socket.role {
            _ if !socket.is_stream() => return Err(Error::NotSupported),
            Role::Connected => {}
            Role::Listening => return Err(Error::NotSupported),
            _ => return Err(Error::NotConnected),
        }
        if socket.finish != Finish::Open {
            return Err(Error::BrokenPipe);
        }
        socket.finish = Finish::Asked;
        let sending = self.driver.is_sending(socket);
        socket.finish_if_sent(sending);
        Ok(())
    }

    fn close(&mut self, h: Handle) {
        let socket = &mut self.table.sockets[h.0 as usize];
        let canceled = |op| (op, Err(Error::Canceled));
        self.ended.extend(std::mem::take(&mut socket.waiting).into_iter().map(|(op, _)| canceled(op)));
        self.ended.extend(std::mem::take(&mut socket.pushes).into_iter().map(|push| canceled(push.op)));
        if let Role::Connecting(op) = socket.role {
            self.ended.push_back(canceled(op));
            socket.role = Role::Dead;
        }
        if socket.options.linger.is_zero() && socket.role == Role::Connected && socket.is_stream() {
            reset(&socket.fd);
            socket.fail(Error::Canceled);
        }
        socket.unread = !socket.arrived.is_empty();
        socket.arrived.clear();
        socket.arrived_pinned = 0;
        socket.accepted.drain(..).for_each(|fd| reset(&fd));
        // Its time begins with the next poll, which knows what time it is: until then, for ever.
        socket.closing = Some(Instant::NEVER);
        self.zombies.push(h);
        self.serve_close(h, Instant::ZERO);
    }

    fn poll(&mut self, now: Instant, done: &mut Completions) {
        while done.room() > 0
            && let Some((op, result)) = self.ended.pop_front()
        {
            done.push(op, result);
        }
        if !self.table.sockets.is_empty() {
            self.driver.poll(&mut self.table);
        }
        if !self.starved.is_empty() {
            std::mem::take(&mut self.starved).into_iter().for_each(|h| self.table.make_ready(h));
        }
        if !self.zombies.is_empty() {
            self.linger(now);
        }
        for _ in 0..self.table.ready.len() {
            let Some(h) = self.table.ready.pop_front() else { break };
            if !self.serve(h, now, done) {
                // No room: it is the first to be served next time.
                if !std::mem::replace(&mut self.get(h).is_ready, true) {
                    self.table.ready.push_front(h);
                }
                break;
            }
        }
    }

    fn flush(&mut self, _: Instant) {
        // What the driver queued goes out with the next poll, which follows at once, or with `arm`.
    }

    fn arm(&mut self, _: Instant) -> Wake {
        let descriptor = self.driver.arm();
        let deadline = self.zombies.iter().filter_map(|h| self.table.sockets[h.0 as usize].closing).min();
        let on = if !self.ended.is_empty() || !self.table.ready.is_empty() || self.driver.has_events() {
            WakeOn::Now
        } else if !self.starved.is_empty() {
            WakeOn::Nap // whoever frees memory does not tell us
        } else {
            WakeOn::Descriptor(descriptor)
        };
        Wake { deadline, on }
    }

    fn zombies(&self) -> usize {
        self.zombies.len()
    }
}
