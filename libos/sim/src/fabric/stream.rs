//! Connections: how they are made, what is on its way in each direction, and how they end.
//!
//! In each direction one segment is under way at a time. It stays in the sender's buffers until it is acknowledged, and
//! is read from there when it is delivered, as a device would. What does not pass is sent again, later and later, until
//! the sender gives up. A segment for an end that is gone is answered by a reset.

use std::time::Duration;

use pdpix::{Endpoint, Error, Instant, Outcome, Purpose, SocketKind};

use crate::fabric::socket::{EndId, Finish, Role, Socket, SocketId};
use crate::fabric::{Event, Fabric};

/// What is under way from an end.
#[derive(Clone, Copy, Debug)]
struct Segment {
    /// None: it is the end of the stream.
    len: usize,
    delivered: bool,
    /// When it was sent for the first time.
    since: Instant,
    attempts: u32,
}

/// One direction.
#[derive(Default, Debug)]
struct Pipe {
    segment: Option<Segment>,
    /// The receiver has no room: it says so when it has.
    blocked: bool,
    /// A [`Event::Resume`] will come.
    paused: bool,
}

#[derive(Debug)]
pub(crate) struct Connection {
    pub(crate) ends: [Option<SocketId>; 2],
    pub(crate) hosts: [usize; 2],
    /// Where the client connected to, and from where.
    to: Endpoint,
    from: Endpoint,
    pipes: [Pipe; 2],
    since: Instant,
    attempts: u32,
}

impl Connection {
    /// An end is gone with its host, and with it what it had under way.
    pub(crate) fn lose(&mut self, end: usize) {
        self.ends[end] = None;
        self.pipes[end].segment = None;
    }

    /// Both ends are gone, and nothing is under way.
    pub(crate) fn is_over(&self) -> bool {
        self.ends == [None, None] && self.pipes.iter().all(|pipe| pipe.segment.is_none())
    }
}

// Setting up.
impl Fabric {
    pub(crate) fn begin_connect(&mut self, id: SocketId, from: Endpoint, to: Endpoint) -> EndId {
        self.serial += 1;
        let here = self.host(id);
        let there = self.host_of(here, to.ip());
        let connection = Connection {
            ends: [Some(id), None],
            hosts: [here, there.unwrap_or(here)],
            to,
            from,
            pipes: Default::default(),
            since: self.now,
            attempts: 0,
        };
        self.connections.insert(self.serial, connection);
        let after = self.latency(here, there.unwrap_or(here));
        self.schedule(after, Event::Syn(self.serial));
        EndId { connection: self.serial, end: 0 }
    }

    pub(crate) fn on_syn(&mut self, number: u64) {
        let Some(connection) = self.connections.get(&number) else { return };
        let &Connection { ends: [client, server], hosts: [here, there], to, from, .. } = connection;
        let Some(client) = client else {
            // Given up meanwhile.
            return self.break_end(EndId { connection: number, end: 1 }, Error::ConnectionReset);
        };
        if self.host_of(here, to.ip()).is_none() || !self.passes(here, there) {
            return self.retry_syn(number, client);
        }
        if server.is_none() {
            let Some(listener) = self.hosts[there].ports.find(SocketKind::Stream, to, from) else {
                let after = self.latency(there, here);
                return self.schedule(after, Event::Refused(number));
            };
            let Some(Socket { role: Role::Listening { backlog, queue }, .. }) = self.get(listener) else { return };
            if queue.len() >= *backlog {
                return self.retry_syn(number, client);
            }
            let id = self.new_socket(listener.core, SocketKind::Stream);
            let end = EndId { connection: number, end: 1 };
            let socket = self.get(id).expect("just made");
            (socket.role, socket.local, socket.peer) = (Role::Connected(Some(end)), Some(to), Some(from));
            self.connections.get_mut(&number).expect("it is there").ends[1] = Some(id);
            if let Some(Socket { role: Role::Listening { queue, .. }, .. }) = self.get(listener) {
                queue.push_back(id);
            }
            self.note(listener.core, "connection", number, u64::from(from.port()));
            self.serve_accepts(listener);
        }
        let after = self.latency(there, here);
        self.schedule(after, Event::SynAck(number));
    }

    fn retry_syn(&mut self, number: u64, client: SocketId) {
        let (retry, timeout, now) = (self.settings.retry, self.settings.connect_timeout, self.now);
        let Some(connection) = self.connections.get_mut(&number) else { return };
        if now.since(connection.since) >= timeout {
            return self.fail_connect(number, client, Error::TimedOut);
        }
        connection.attempts += 1;
        let after = backoff(retry, connection.attempts);
        self.schedule(after, Event::Syn(number));
    }

    pub(crate) fn on_refused(&mut self, number: u64) {
        let Some(&Connection { ends: [Some(client), _], hosts: [here, there], .. }) = self.connections.get(&number)
        else {
            return;
        };
        if !self.passes(there, here) {
            return self.retry_syn(number, client);
        }
        self.fail_connect(number, client, Error::ConnectionRefused);
    }

    fn fail_connect(&mut self, number: u64, client: SocketId, error: Error) {
        self.break_end(EndId { connection: number, end: 1 }, Error::ConnectionReset);
        self.connections.remove(&number);
        let Some(socket) = self.get(client) else { return };
        if let Role::Connecting(op, _) = std::mem::replace(&mut socket.role, Role::Dead) {
            self.end_late(client, op, Err(error));
        }
    }

    pub(crate) fn on_syn_ack(&mut self, number: u64) {
        let Some(&Connection { ends: [client, _], hosts: [here, there], .. }) = self.connections.get(&number) else {
            return;
        };
        match client {
            Some(client) if !self.passes(there, here) => self.retry_syn(number, client),
            Some(client) => self.establish(client),
            None => self.break_end(EndId { connection: number, end: 1 }, Error::ConnectionReset),
        }
    }

    /// The client knows that it is connected.
    fn establish(&mut self, client: SocketId) {
        let Some(socket) = self.get(client) else { return };
        if let Role::Connecting(op, end) = socket.role {
            socket.role = Role::Connected(Some(end));
            self.end_late(client, op, Ok(Outcome::Connected));
            self.transmit(end);
        }
    }

    /// A connect is given up by its user.
    pub(crate) fn give_up_connect(&mut self, id: SocketId, end: EndId) {
        let other = EndId { end: 1, ..end };
        let Some(connection) = self.connections.get_mut(&end.connection) else { return };
        connection.ends[0] = None;
        if connection.ends[1].is_some() {
            let [here, there] = connection.hosts;
            let after = self.latency(here, there);
            self.schedule(after, Event::Reset(other));
        }
        self.forget(end.connection);
        self.note(id.core, "connect given up", end.connection, 0);
    }
}

fn backoff(retry: Duration, attempts: u32) -> Duration {
    retry * (1 << attempts.saturating_sub(1).min(6))
}

// Carrying.
impl Fabric {
    /// Sends the next segment from an end, if there is one and it may.
    pub(crate) fn transmit(&mut self, end: EndId) {
        let Some(connection) = self.connections.get(&end.connection) else { return };
        let pipe = &connection.pipes[end.end];
        let (Some(id), None, false) = (connection.ends[end.end], pipe.segment, pipe.paused) else { return };
        let (receiver, hosts) = (connection.ends[1 - end.end], connection.hosts);
        let Some(socket) = self.get(id) else { return };
        let unsent = socket.unsent_len();
        let ends = socket.finish == Finish::Asked && unsent == 0 && socket.pushes.is_empty();
        if socket.fault.is_some() || !matches!(socket.role, Role::Connected(_)) || unsent == 0 && !ends {
            return;
        }
        let window = receiver.and_then(|id| self.get(id)).map_or(usize::MAX, |socket| socket.window());
        let (stalls, stall_max) = (self.settings.stalls, self.settings.stall_max);
        let (now, latency) = (self.now, self.latency(hosts[end.end], hosts[1 - end.end]));
        if unsent > 0 && window == 0 {
            return self.pipe(end, |pipe| pipe.blocked = true);
        }
        if unsent > 0 && self.rng.chance(stalls) {
            let after = self.draw(&(Duration::ZERO..=stall_max));
            self.schedule(after, Event::Resume(end));
            return self.pipe(end, |pipe| pipe.paused = true);
        }
        let len = if ends { 0 } else { self.segment_len().min(unsent).min(window) };
        self.pipe(end, |pipe| pipe.segment = Some(Segment { len, delivered: false, since: now, attempts: 0 }));
        self.schedule(latency, Event::Deliver(end));
    }

    fn pipe(&mut self, end: EndId, change: impl FnOnce(&mut Pipe)) {
        if let Some(connection) = self.connections.get_mut(&end.connection) {
            change(&mut connection.pipes[end.end]);
        }
    }

    /// Where the stream is cut: all orders of magnitude are as likely.
    fn segment_len(&mut self) -> usize {
        let bits = self.settings.segment_max.ilog2() as u64;
        let size = 1 << self.rng.range(0..=bits);
        (self.rng.range(size..=2 * size - 1) as usize).min(self.settings.segment_max)
    }

    pub(crate) fn on_resume(&mut self, end: EndId) {
        self.pipe(end, |pipe| (pipe.paused, pipe.blocked) = (false, false));
        self.transmit(end);
    }

    /// There may be room again at this end for what comes from the other.
    pub(crate) fn window_opened(&mut self, end: EndId) {
        let other = EndId { end: 1 - end.end, ..end };
        let Some(connection) = self.connections.get_mut(&end.connection) else { return };
        let hosts = connection.hosts;
        let pipe = &mut connection.pipes[other.end];
        if pipe.blocked && !pipe.paused {
            pipe.paused = true;
            let after = self.latency(hosts[end.end], hosts[other.end]);
            self.schedule(after, Event::Resume(other));
        }
    }

    pub(crate) fn on_deliver(&mut self, end: EndId) {
        let Some(connection) = self.connections.get(&end.connection) else { return };
        let Some(segment) = connection.pipes[end.end].segment else { return };
        let (sender, receiver) = (connection.ends[end.end], connection.ends[1 - end.end]);
        let (here, there) = (connection.hosts[end.end], connection.hosts[1 - end.end]);
        if segment.len > 0 && sender.is_none() {
            self.pipe(end, |pipe| pipe.segment = None);
            return self.forget(end.connection);
        }
        if !self.passes(here, there) {
            return self.retry(end);
        }
        if segment.len > 0 && self.rng.chance(self.settings.resets) {
            [0, 1].into_iter().for_each(|i| self.break_end(EndId { end: i, ..end }, Error::ConnectionReset));
            return;
        }
        if !segment.delivered {
            let Some(receiver) = receiver.filter(|&id| self.get(id).is_some_and(|s| s.fault.is_none())) else {
                return if segment.len > 0 { self.reset_later(end) } else { self.acknowledge(end) };
            };
            if segment.len > 0 && self.get(receiver).is_some_and(|socket| socket.closing) {
                // Nobody will read it (RFC 2525 2.17).
                self.reset_later(end);
                return self.remove(receiver);
            }
            self.establish(receiver);
            let bytes = sender.and_then(|id| self.get(id)).map(|socket| socket.peek_unsent(segment.len));
            if !self.arrive(receiver, &bytes.unwrap_or_default()) {
                return self.retry(end); // no memory there
            }
            self.pipe(end, |pipe| pipe.segment = Some(Segment { delivered: true, ..segment }));
            self.note(receiver.core, "arrives", end.connection, segment.len as u64);
            self.serve_pops(receiver);
        }
        self.acknowledge(end);
    }

    fn acknowledge(&mut self, end: EndId) {
        let Some(connection) = self.connections.get(&end.connection) else { return };
        let after = self.latency(connection.hosts[1 - end.end], connection.hosts[end.end]);
        self.schedule(after, Event::Ack(end));
    }

    /// Puts bytes into buffers of the receiver, cut at a place of its own; none are the end.
    fn arrive(&mut self, id: SocketId, bytes: &[u8]) -> bool {
        let Some(heap) = self.cores[id.core].heap.clone() else { return false };
        let at = if bytes.len() > 1 { self.rng.below(bytes.len() as u64) as usize } else { 0 };
        let (front, back) = bytes.split_at(at);
        let parts = [front, back].into_iter().filter(|part| !part.is_empty());
        let copied: Result<Vec<_>, _> = parts
            .map(|part| {
                let mut buf = heap.alloc_for(Purpose::Receive, part.len())?;
                buf.put(part);
                Ok::<_, libos_mem::Exhausted>(buf.freeze())
            })
            .collect();
        let (Ok(bufs), Some(socket)) = (copied, self.get(id)) else { return false };
        socket.arrived_end |= bytes.is_empty();
        for buf in bufs {
            socket.arrived_pinned += buf.pinned();
            socket.arrived.push_back(buf);
        }
        true
    }

    /// What did not pass is sent again.
    fn retry(&mut self, end: EndId) {
        let (retry, give_up, now) = (self.settings.retry, self.settings.give_up, self.now);
        let Some(connection) = self.connections.get_mut(&end.connection) else { return };
        let Some(segment) = &mut connection.pipes[end.end].segment else { return };
        if now.since(segment.since) >= give_up {
            return self.break_end(end, Error::TimedOut);
        }
        segment.attempts += 1;
        let after = backoff(retry, segment.attempts);
        self.schedule(after, Event::Deliver(end));
    }

    pub(crate) fn on_ack(&mut self, end: EndId) {
        let Some(connection) = self.connections.get_mut(&end.connection) else { return };
        let (here, there) = (connection.hosts[end.end], connection.hosts[1 - end.end]);
        let Some(segment) = connection.pipes[end.end].segment else { return };
        if !self.passes(there, here) {
            return self.retry(end);
        }
        self.pipe(end, |pipe| pipe.segment = None);
        let Some(id) = self.connections.get(&end.connection).and_then(|connection| connection.ends[end.end]) else {
            return self.forget(end.connection);
        };
        let Some(socket) = self.get(id) else { return };
        if segment.len == 0 {
            socket.finish = Finish::Done;
            if socket.closing {
                self.remove(id);
                self.forget(end.connection);
            }
            return;
        }
        socket.release(segment.len);
        self.accept_pushes(id);
        self.transmit(end);
    }

    /// Takes in the pushes that wait, as far as the budget goes.
    pub(crate) fn accept_pushes(&mut self, id: SocketId) {
        while let Some(socket) = self.get(id) {
            if socket.unsent_pinned >= socket.options.send_budget {
                return;
            }
            let Some((op, sga)) = socket.pushes.pop_front() else { return };
            socket.unsent_pinned += sga.pinned();
            socket.unsent.push_back(sga);
            self.end_late(id, op, Ok(Outcome::Pushed));
        }
    }

    /// Forgets a connection that is over.
    pub(crate) fn forget(&mut self, number: u64) {
        if self.connections.get(&number).is_some_and(Connection::is_over) {
            self.connections.remove(&number);
        }
    }
}

// Ending.
impl Fabric {
    /// The other end of `end` tells it that there is no connection.
    fn reset_later(&mut self, end: EndId) {
        let Some(connection) = self.connections.get_mut(&end.connection) else { return };
        connection.pipes[end.end].segment = None;
        let (here, there) = (connection.hosts[end.end], connection.hosts[1 - end.end]);
        let after = self.latency(there, here);
        self.schedule(after, Event::Reset(end));
    }

    pub(crate) fn on_reset(&mut self, end: EndId) {
        let Some(connection) = self.connections.get(&end.connection) else { return };
        let (here, there) = (connection.hosts[end.end], connection.hosts[1 - end.end]);
        if self.passes(there, here) {
            self.break_end(end, Error::ConnectionReset);
        } else if let Some(id) = connection.ends[end.end] {
            // It is lost; the next segment is answered again.
            self.transmit(end);
            self.note(id.core, "reset lost", end.connection, 0);
        }
    }

    /// This end learns that its connection is broken. What has arrived can still be popped.
    pub(crate) fn break_end(&mut self, end: EndId, fault: Error) {
        let Some(connection) = self.connections.get_mut(&end.connection) else { return };
        connection.pipes[end.end].segment = None;
        let Some(id) = connection.ends[end.end] else { return self.forget(end.connection) };
        let Some(socket) = self.get(id) else { return };
        if let Role::Connecting(..) = socket.role {
            return self.fail_connect(end.connection, id, fault);
        }
        let pushes = socket.fail(fault);
        let (closing, core) = (socket.closing, id.core);
        self.note(core, "broken", end.connection, fault.errno() as u64);
        pushes.into_iter().for_each(|(op, _)| self.end_late(id, op, Err(fault)));
        self.serve_pops(id);
        if closing {
            self.remove(id);
            self.forget(end.connection);
        }
    }

    /// Ends a connection from this end as one that is broken, and says so. The socket is gone.
    pub(crate) fn abort(&mut self, id: SocketId) {
        let end = self.get(id).and_then(|socket| socket.end());
        self.remove(id);
        let Some(EndId { connection, end }) = end else { return };
        if let Some(connection) = self.connections.get_mut(&connection) {
            connection.pipes[end].segment = None;
        }
        self.forget(connection);
        let other = EndId { connection, end: 1 - end };
        let Some(connection) = self.connections.get(&connection) else { return };
        let (here, there) = (connection.hosts[end], connection.hosts[1 - end]);
        let after = self.latency(here, there);
        self.schedule(after, Event::Reset(other));
    }

    /// Nobody is there any more to send what a closed socket has left: if that was only its end, it still goes out.
    pub(crate) fn abandon(&mut self, id: SocketId) {
        let Some(socket) = self.get(id) else { return };
        let (end, is_sent) = (socket.end(), socket.unsent.is_empty());
        match end {
            Some(end) if is_sent => {
                self.transmit(end);
                self.remove(id);
            }
            Some(_) => self.abort(id),
            None => self.remove(id),
        }
    }

    pub(crate) fn on_linger_over(&mut self, id: SocketId) {
        if self.get(id).is_some() {
            self.note(id.core, "linger over", u64::from(id.h), 0);
            self.abort(id);
        }
    }

    /// An idle connection is asked whether the peer is still there. Three times without an answer are enough.
    pub(crate) fn on_keep_alive(&mut self, id: SocketId, failures: u32) {
        let Some(socket) = self.get(id) else { return };
        let (Some(end), Some(every), None) = (socket.end(), socket.options.keep_alive, socket.fault) else { return };
        let Some(connection) = self.connections.get(&end.connection) else { return };
        let (here, there) = (connection.hosts[end.end], connection.hosts[1 - end.end]);
        let is_there = connection.ends[1 - end.end].is_some();
        match self.passes(here, there) && self.passes(there, here) {
            true if !is_there => self.break_end(end, Error::ConnectionReset),
            true => self.schedule(every, Event::KeepAlive(id, 0)),
            false if failures == 2 => self.break_end(end, Error::TimedOut),
            false => self.schedule(every / 3, Event::KeepAlive(id, failures + 1)),
        }
    }
}
