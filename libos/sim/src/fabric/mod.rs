//! What is between the cores of a world: all sockets and connections, what is on its way, and who cannot reach whom.
//!
//! One event queue, ordered by time and then by when it was scheduled. Every choice is drawn from one generator, and all
//! tables are ordered, so what happens is a function of the seed and of what the cores submit.

mod datagram;
mod ports;
pub(crate) mod socket;
mod stream;
mod submit;

use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet, BinaryHeap, VecDeque};
use std::net::IpAddr;
use std::ops::RangeInclusive;
use std::rc::Rc;
use std::time::Duration;

use pdpix::{Endpoint, Error, Handle, Heap, Instant, OpId, Outcome, Rng, Sga, SocketKind};
use slab::Slab;

use crate::settings::Settings;
use crate::trace::WorldTrace;
use ports::Ports;
use socket::{EndId, Role, Socket, SocketId};
use stream::Connection;

pub(crate) type OpResult = Result<Outcome<Handle>, Error>;

/// Something that will happen.
#[derive(Debug)]
enum Event {
    /// An end of an operation is due.
    Wake(usize),
    /// A connect reaches the server, its answer the client.
    Syn(u64),
    SynAck(u64),
    Refused(u64),
    /// What is under way from this end reaches the other one; and the news of that comes back.
    Deliver(EndId),
    Ack(EndId),
    /// A window has opened.
    Resume(EndId),
    /// This end is told that the connection is broken.
    Reset(EndId),
    LingerOver(SocketId),
    KeepAlive(SocketId, u32),
    Datagram {
        from: SocketId,
        source: Endpoint,
        to: Endpoint,
        data: Sga,
    },
    Unreachable(SocketId),
}

struct Timed {
    at: Instant,
    sequence: u64,
    event: Event,
}

impl Ord for Timed {
    /// The earliest is the greatest.
    fn cmp(&self, other: &Timed) -> std::cmp::Ordering {
        (other.at, other.sequence).cmp(&(self.at, self.sequence))
    }
}

impl PartialOrd for Timed {
    fn partial_cmp(&self, other: &Timed) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}

impl PartialEq for Timed {
    fn eq(&self, other: &Timed) -> bool {
        self.cmp(other).is_eq()
    }
}

impl Eq for Timed {}

/// A host as the network sees it.
struct HostNet {
    addresses: [IpAddr; 2],
    up: bool,
    ports: Ports,
}

/// An end of an operation that its core has not been told yet.
struct End {
    due: Instant,
    op: OpId,
    result: OpResult,
}

/// A core as the network sees it.
struct CoreNet {
    host: usize,
    /// The present incarnation, if it runs.
    incarnation: u64,
    heap: Option<Heap>,
    sockets: Slab<Socket>,
    zombies: usize,
    /// By the serial number of the socket, whether that still exists or not. In order for each.
    ends: BTreeMap<u64, VecDeque<End>>,
}

pub(crate) struct Fabric {
    pub(crate) settings: Settings,
    pub(crate) now: Instant,
    trace: Rc<RefCell<WorldTrace>>,
    rng: Rng,
    events: BinaryHeap<Timed>,
    sequence: u64,
    hosts: Vec<HostNet>,
    cores: Vec<CoreNet>,
    connections: BTreeMap<u64, Connection>,
    /// Nothing comes from the first to the second.
    cut: BTreeSet<(usize, usize)>,
    serial: u64,
    /// Cores that have something to poll.
    pub(crate) woken: BTreeSet<usize>,
}

// Hosts, and what is between them.
impl Fabric {
    pub(crate) fn new(settings: Settings, rng: Rng, trace: Rc<RefCell<WorldTrace>>) -> Fabric {
        Fabric {
            now: Instant::ZERO,
            trace,
            settings,
            rng,
            events: BinaryHeap::new(),
            sequence: 0,
            hosts: Vec::new(),
            cores: Vec::new(),
            connections: BTreeMap::new(),
            cut: BTreeSet::new(),
            serial: 0,
            woken: BTreeSet::new(),
        }
    }

    /// A host, up, at these addresses.
    pub(crate) fn add_host(&mut self, addresses: [IpAddr; 2]) -> usize {
        let first = 20_000 + self.rng.below(20_000) as u16;
        self.hosts.push(HostNet { addresses, up: true, ports: Ports::new(first) });
        self.hosts.len() - 1
    }

    pub(crate) fn add_core(&mut self, host: usize) -> usize {
        self.cores.push(CoreNet {
            host,
            incarnation: 0,
            heap: None,
            sockets: Slab::new(),
            zombies: 0,
            ends: BTreeMap::new(),
        });
        self.cores.len() - 1
    }

    /// A core begins to run. Gives the number of this incarnation.
    pub(crate) fn start_core(&mut self, core: usize, heap: Heap) -> u64 {
        self.serial += 1;
        let this = &mut self.cores[core];
        (this.heap, this.incarnation) = (Some(heap), self.serial);
        self.hosts[self.cores[core].host].up = true;
        self.serial
    }

    pub(crate) fn is_running(&self, core: usize, incarnation: u64) -> bool {
        self.cores[core].heap.is_some() && self.cores[core].incarnation == incarnation
    }

    /// A host stops, without a word to anybody.
    pub(crate) fn crash(&mut self, host: usize) {
        self.hosts[host].up = false;
        self.hosts[host].ports.clear();
        for core in 0..self.cores.len() {
            if self.cores[core].host == host {
                self.note(core, "crash", host as u64, 0);
                let this = &mut self.cores[core];
                (this.heap, this.zombies) = (None, 0);
                this.ends.clear();
                for socket in this.sockets.drain() {
                    if let Some(EndId { connection: number, end }) = socket.end()
                        && let Some(connection) = self.connections.get_mut(&number)
                    {
                        connection.lose(end);
                        if connection.is_over() {
                            self.connections.remove(&number);
                        }
                    }
                }
            }
        }
    }

    /// A core's process ends: its system closes what it had open, and resets what cannot be closed in an orderly way.
    pub(crate) fn end_core(&mut self, core: usize) {
        let ids: Vec<SocketId> = self.cores[core].sockets.iter().map(|(_, socket)| socket.id).collect();
        for id in ids {
            self.close(id);
            // Nobody is there to send what is left.
            self.abandon(id);
        }
        let this = &mut self.cores[core];
        (this.heap, this.zombies) = (None, 0);
        this.ends.clear();
    }

    /// What host `from` sends does not reach `to` any more, or does again.
    pub(crate) fn set_cut(&mut self, from: usize, to: usize, is_cut: bool) {
        if is_cut {
            self.cut.insert((from, to));
        } else {
            self.cut.remove(&(from, to));
        }
    }

    /// Breaks all connections between two hosts: both ends are told.
    pub(crate) fn reset_between(&mut self, a: usize, b: usize) -> usize {
        let between = |connection: &Connection| connection.hosts == [a, b] || connection.hosts == [b, a];
        let ids: Vec<u64> = self.connections.iter().filter(|(_, c)| between(c)).map(|(&id, _)| id).collect();
        for &connection in &ids {
            [0, 1].into_iter().for_each(|end| self.break_end(EndId { connection, end }, Error::ConnectionReset));
        }
        ids.len()
    }

    fn passes(&self, from: usize, to: usize) -> bool {
        !self.cut.contains(&(from, to)) && self.hosts[from].up && self.hosts[to].up
    }

    /// Who has this address, as seen from `host`.
    fn host_of(&self, host: usize, ip: IpAddr) -> Option<usize> {
        if ip.is_loopback() {
            return Some(host);
        }
        self.hosts.iter().position(|host| host.addresses.contains(&ip))
    }
}

// Time and chance.
impl Fabric {
    fn draw(&mut self, range: &RangeInclusive<Duration>) -> Duration {
        let nanos = range.start().as_nanos() as u64..=range.end().as_nanos() as u64;
        Duration::from_nanos(self.rng.range(nanos))
    }

    fn latency(&mut self, from: usize, to: usize) -> Duration {
        let range = if from == to { self.settings.latency_own.clone() } else { self.settings.latency.clone() };
        self.draw(&range)
    }

    fn schedule(&mut self, after: Duration, event: Event) {
        self.sequence += 1;
        self.events.push(Timed { at: self.now + after, sequence: self.sequence, event });
    }

    /// When the next thing happens.
    pub(crate) fn next_event(&self) -> Option<Instant> {
        self.events.peek().map(|timed| timed.at)
    }

    /// Does everything that is due.
    pub(crate) fn run_events(&mut self) {
        while self.next_event().is_some_and(|at| at <= self.now) {
            let Some(Timed { event, .. }) = self.events.pop() else { return };
            match event {
                Event::Wake(core) => _ = self.woken.insert(core),
                Event::Syn(connection) => self.on_syn(connection),
                Event::SynAck(connection) => self.on_syn_ack(connection),
                Event::Refused(connection) => self.on_refused(connection),
                Event::Deliver(end) => self.on_deliver(end),
                Event::Ack(end) => self.on_ack(end),
                Event::Resume(end) => self.on_resume(end),
                Event::Reset(end) => self.on_reset(end),
                Event::LingerOver(id) => self.on_linger_over(id),
                Event::KeepAlive(id, failures) => self.on_keep_alive(id, failures),
                Event::Datagram { from, source, to, data } => self.on_datagram(from, source, to, &data),
                Event::Unreachable(id) => self.on_unreachable(id),
            }
        }
    }

    pub(crate) fn note(&mut self, core: usize, what: &'static str, first: u64, second: u64) {
        self.trace.borrow_mut().note(self.now, core, what, first, second);
    }
}

// Sockets, and the ends of their operations.
impl Fabric {
    fn new_socket(&mut self, core: usize, kind: SocketKind) -> SocketId {
        self.serial += 1;
        let serial = self.serial;
        let entry = self.cores[core].sockets.vacant_entry();
        let id = SocketId { core, h: entry.key() as u32, serial };
        entry.insert(Socket::new(id, kind));
        id
    }

    fn get(&mut self, id: SocketId) -> Option<&mut Socket> {
        self.cores[id.core].sockets.get_mut(id.h as usize).filter(|socket| socket.id == id)
    }

    pub(crate) fn at(&mut self, core: usize, h: Handle) -> &mut Socket {
        &mut self.cores[core].sockets[h.0 as usize]
    }

    fn host(&self, id: SocketId) -> usize {
        self.cores[id.core].host
    }

    /// The socket is gone: its port is free, and nothing is told to it any more.
    fn remove(&mut self, id: SocketId) {
        let host = self.host(id);
        self.hosts[host].ports.unbind(id);
        let this = &mut self.cores[id.core];
        let socket = this.sockets.remove(id.h as usize);
        this.zombies -= usize::from(socket.closing);
        if let Some(EndId { connection, end }) = socket.end() {
            if let Some(connection) = self.connections.get_mut(&connection) {
                connection.ends[end] = None;
            }
            self.forget(connection);
        }
    }

    /// How much later than now an operation ends.
    fn lateness(&mut self) -> Duration {
        let (late, max) = (self.settings.late, self.settings.late_max);
        if late > 0.0 && self.rng.chance(late) { self.draw(&(Duration::ZERO..=max)) } else { Duration::ZERO }
    }

    /// An operation has ended; its core is told when it is due, after those of the same socket that ended before.
    fn end_op(&mut self, id: SocketId, op: OpId, result: OpResult, after: Duration) {
        let ends = self.cores[id.core].ends.entry(id.serial).or_default();
        let due = ends.back().map_or(Instant::ZERO, |last| last.due).max(self.now + after);
        ends.push_back(End { due, op, result });
        if due <= self.now {
            self.woken.insert(id.core);
        } else {
            self.schedule(due.since(self.now), Event::Wake(id.core));
        }
    }

    fn end_late(&mut self, id: SocketId, op: OpId, result: OpResult) {
        let after = self.lateness();
        self.end_op(id, op, result, after);
    }

    fn cancel_all(&mut self, id: SocketId, ops: impl IntoIterator<Item = OpId>) {
        ops.into_iter().for_each(|op| self.end_op(id, op, Err(Error::Canceled), Duration::ZERO));
    }

    /// The next end that `core` is to be told: of a queue chosen by chance.
    pub(crate) fn next_end(&mut self, core: usize) -> Option<(OpId, OpResult)> {
        let due = |ends: &VecDeque<End>| ends.front().is_some_and(|end| end.due <= self.now);
        let ready: Vec<u64> =
            self.cores[core].ends.iter().filter(|(_, ends)| due(ends)).map(|(&serial, _)| serial).collect();
        if ready.is_empty() {
            return None;
        }
        let serial = ready[self.rng.below(ready.len() as u64) as usize];
        let ends = self.cores[core].ends.get_mut(&serial)?;
        let End { op, result, .. } = ends.pop_front()?;
        if ends.is_empty() {
            self.cores[core].ends.remove(&serial);
        }
        let (what, len) = described(&result);
        self.note(core, what, op.0, len);
        Some((op, result))
    }

    /// Whether `core` is to be told something now.
    pub(crate) fn has_ends(&self, core: usize) -> bool {
        self.cores[core].ends.values().any(|ends| ends.front().is_some_and(|end| end.due <= self.now))
    }

    pub(crate) fn zombies(&self, core: usize) -> usize {
        self.cores[core].zombies
    }

    /// Gives the accepts that wait the connections that wait.
    fn serve_accepts(&mut self, listener: SocketId) {
        loop {
            let Some(socket) = self.get(listener) else { return };
            let Role::Listening { queue, .. } = &mut socket.role else { return };
            if queue.is_empty() || socket.waiting.is_empty() {
                return;
            }
            let (Some(accepted), Some((op, _))) = (queue.pop_front(), socket.waiting.pop_front()) else { return };
            let result = self.accepted(accepted);
            self.end_late(listener, op, result);
        }
    }

    fn accepted(&mut self, id: SocketId) -> OpResult {
        let peer = self.get(id).and_then(|socket| socket.peer).ok_or(Error::ConnectionAborted)?;
        Ok(Outcome::Accepted { queue: Handle(id.h), peer })
    }

    /// Gives the pops that wait what has arrived.
    fn serve_pops(&mut self, id: SocketId) {
        loop {
            let (short_pops, is_waited) =
                (self.settings.short_pops, self.get(id).map(|socket| !socket.waiting.is_empty()));
            if is_waited != Some(true) {
                return;
            }
            let Some(result) = self.read(id, short_pops) else { return };
            let Some((op, _)) = self.get(id).and_then(|socket| socket.waiting.pop_front()) else { return };
            self.end_late(id, op, result.map(Outcome::Popped));
        }
    }

    /// What there is for the first pop that waits.
    fn read(&mut self, id: SocketId, short_pops: f64) -> Option<Result<pdpix::Popped, Error>> {
        let socket = self.cores[id.core].sockets.get_mut(id.h as usize)?;
        let len_max = socket.waiting.front()?.1;
        let read = socket.read(len_max, short_pops, &mut self.rng);
        let end = socket.end();
        if read.is_some()
            && let Some(end) = end
        {
            self.window_opened(end);
        }
        read
    }
}

impl Fabric {
    /// What must hold between any two events.
    pub(crate) fn check(&self) {
        let sockets = self.cores.iter().flat_map(|core| core.sockets.iter().map(|(_, socket)| socket));
        for socket in sockets {
            socket.check();
            if let Some(EndId { connection, end }) = socket.end() {
                let known = self.connections.get(&connection).and_then(|connection| connection.ends[end]);
                assert_eq!(known, Some(socket.id), "its connection knows it");
            }
        }
        let forgotten = self.connections.iter().find(|(_, connection)| connection.is_over());
        assert!(forgotten.is_none(), "nobody is at either end, and it is still there: {forgotten:?}");
    }
}

/// For the trace.
fn described(result: &OpResult) -> (&'static str, u64) {
    match result {
        Ok(Outcome::Pushed) => ("pushed", 0),
        Ok(Outcome::Popped(popped)) => ("popped", popped.sga.len() as u64),
        Ok(Outcome::Accepted { queue, .. }) => ("accepted", u64::from(queue.0)),
        Ok(_) => ("connected", 0),
        Err(error) => ("failed", error.errno() as u64),
    }
}
