//! What our network stack takes for a segment or a datagram: prepared frames go in, and what it sends is dropped.
//!
//! Two stacks connect over a wire in memory; then the wire is cut, and what the peer sent last is sent again with other
//! numbers. Time moves by as much with each pass, so that the same happens in each run. Frames are prepared a burst at a
//! time, outside of what is measured, and lie in the cache, as a card's do that writes there.

mod noted;

use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::net::IpAddr;
use std::rc::Rc;
use std::time::Duration;

use libos_mem::Heap;
use libos_net::wire::{Checksum, ETHERNET_LEN, IPV4_LEN, Mac, Protocol, pseudo_header};
use libos_net::{Cidr, Device, Frame, IpSettings, Link, NetNetwork, NetSettings, Offloads, Received};
use libos_runtime::{Clock, Core, CoreParts, IdlePolicy, LibOs, MeshKind, mesh};
use pdpix::{
    Completions, Endpoint, Error, Handle, Instant, Network, Op, OpId, Outcome, Purpose, Sga, SocketKind, Submitted,
    WakeOn, WallTime,
};

use noted::{Noted, Span};

use crate::local::reservation;
use crate::sampling::median;

/// Connections, or sockets, that take turns.
pub const CONNECTIONS: usize = 1024;
/// Frames of a burst.
const BURST: usize = 64;
/// Connections that are made at a time: so many packets may wait until the peer's address is known.
const HANDSHAKES: usize = 16;
/// Bytes of a segment or a datagram.
const TEXT: usize = 64;
/// What a pass of a core takes, for its clock.
const PASS: Duration = Duration::from_micros(5);
const PORT: u16 = 7;
/// Where a frame of IPv4 without options has the checksum and the numbers of TCP.
const TCP_AT: usize = ETHERNET_LEN + IPV4_LEN;
const SEQUENCE_AT: usize = TCP_AT + 4;
const ACKNOWLEDGMENT_AT: usize = TCP_AT + 8;
const CHECKSUM_AT: usize = TCP_AT + 16;

/// The two ends of the wire.
const OURS: usize = 0;
const PEER: usize = 1;

/// What the device of the stack that is measured does about checksums.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Checksums {
    /// All.
    Device,
    /// Nothing: the stack sums.
    Software,
}

/// What is on the way to either end.
struct Wire {
    to: [VecDeque<Received>; 2],
    is_cut: bool,
}

/// One end.
struct End {
    wire: Rc<RefCell<Wire>>,
    side: usize,
    heaps: [Heap; 2],
    offloads: Offloads,
}

impl Device for End {
    fn link(&self) -> Link {
        Link { mac: Mac([2, 0, 0, 0, 0, self.side as u8 + 1]), mtu: 1500, offloads: self.offloads }
    }

    fn receive(&mut self, _: Instant, into: &mut VecDeque<Received>, room: usize) -> Result<(), Error> {
        let frames = &mut self.wire.borrow_mut().to[self.side];
        if into.is_empty() && frames.len() <= room {
            // Without touching them: they are "in hand" where measuring begins.
            std::mem::swap(into, frames);
        } else {
            let count = room.min(frames.len());
            into.extend(frames.drain(..count));
        }
        Ok(())
    }

    fn transmit(&mut self, _: Instant, frames: &mut VecDeque<Frame>) {
        let mut wire = self.wire.borrow_mut();
        let other = 1 - self.side;
        if !wire.is_cut {
            let received = |frame: &Frame| received(&self.heaps[other], &frame.to_vec(), true);
            wire.to[other].extend(frames.iter().map(received));
        }
        frames.clear();
    }

    fn flush(&mut self, _: Instant) {}

    fn arm(&mut self, _: Instant) -> WakeOn {
        WakeOn::Nothing
    }

    fn in_flight(&self) -> usize {
        0
    }
}

/// As a device receives: in a chunk that has room for any frame.
fn received(heap: &Heap, bytes: &[u8], verified: bool) -> Received {
    let mut memory = heap.alloc_for(Purpose::Receive, 2048).expect("memory for a burst");
    memory.put(bytes);
    Received { buf: memory.freeze(), verified }
}

fn address(side: usize) -> IpAddr {
    IpAddr::from([10, 0, 0, side as u8 + 1])
}

/// Both stacks, not connected yet.
struct Pair {
    wire: Rc<RefCell<Wire>>,
    heaps: [Heap; 2],
    ours: Rc<RefCell<NetNetwork>>,
    peer: Peer,
    checksums: Checksums,
}

impl Pair {
    fn new(checksums: Checksums) -> Pair {
        let reservation = reservation(2);
        let heaps = [OURS, PEER].map(|side| reservation.heap(side).expect("each once"));
        let wire = Rc::new(RefCell::new(Wire { to: Default::default(), is_cut: false }));
        let does = checksums == Checksums::Device;
        let stack = |side: usize, does: bool| {
            let offloads = Offloads { verifies: does, checksums: does, gathers: 16, ..Offloads::NONE };
            let end = End { wire: wire.clone(), side, heaps: heaps.clone(), offloads };
            let addresses = vec![Cidr::new(address(side), 24).expect("a prefix that fits")];
            let ip = IpSettings { addresses, ..IpSettings::default() };
            let settings = NetSettings { ip, adaptive_batching: false, ..NetSettings::default() };
            NetNetwork::new(Box::new(end), heaps[side].clone(), settings)
        };
        let (ours, peer) = (stack(OURS, does), stack(PEER, false));
        let peer = Peer::new(peer, &heaps[PEER]);
        Pair { wire, ours: Rc::new(RefCell::new(ours)), peer, heaps, checksums }
    }

    /// What is on the way to us.
    fn frames(&self) -> Vec<Vec<u8>> {
        self.wire.borrow().to[OURS].iter().map(|frame| frame.buf.to_vec()).collect()
    }

    /// Puts frames on the way to us.
    fn give(&self, templates: &[Vec<u8>]) {
        let verified = self.checksums == Checksums::Device;
        let frames = templates.iter().map(|bytes| received(&self.heaps[OURS], bytes, verified));
        self.wire.borrow_mut().to[OURS].extend(frames);
    }

    /// From now on nothing arrives but what is given.
    fn cut(&self) {
        self.wire.borrow_mut().is_cut = true;
        assert!(self.frames().is_empty(), "something is still on the way");
    }
}

/// The other host.
struct Peer {
    net: NetNetwork,
    heap: Heap,
    listener: Handle,
    accepted: Vec<Handle>,
}

const ACCEPT: OpId = OpId(1);
const OTHER: OpId = OpId(2);

impl Peer {
    fn new(mut net: NetNetwork, heap: &Heap) -> Peer {
        let listener = net.open(SocketKind::Stream).expect("a queue");
        net.bind(listener, Endpoint::new(address(PEER), PORT)).expect("a free port");
        net.listen(listener, CONNECTIONS as u32).expect("it is bound");
        assert!(matches!(net.submit(listener, ACCEPT, Op::Accept), Ok(Submitted::Pending)));
        Peer { net, heap: heap.clone(), listener, accepted: Vec::new() }
    }

    fn step(&mut self, now: Instant) {
        let mut done = Completions::new();
        done.set_room(2 * BURST);
        self.net.poll(now, &mut done);
        while let Some(end) = done.pop() {
            let mut next = (end.op == ACCEPT).then_some(end.result);
            while let Some(Ok(Outcome::Accepted { queue, .. })) = next {
                self.accepted.push(queue);
                next = match self.net.submit(self.listener, ACCEPT, Op::Accept).expect("it listens") {
                    Submitted::Done(result) => Some(result),
                    Submitted::Pending => None,
                };
            }
        }
        self.net.flush(now);
    }

    /// Sends something on each connection.
    fn push_each(&mut self, now: Instant) {
        for queue in self.accepted.clone() {
            let sga = Sga::copy(&self.heap, &[7; TEXT]).expect("memory");
            self.net.submit(queue, OTHER, Op::Push(sga)).expect("it is connected");
            self.net.flush(now);
        }
    }

    /// Sends a datagram to each port.
    fn push_to_each(&mut self, ports: &[u16], now: Instant) {
        let socket = self.net.open(SocketKind::Datagram).expect("a queue");
        for &port in ports {
            let sga = Sga::copy(&self.heap, &[7; TEXT]).expect("memory");
            let to = Endpoint::new(address(OURS), port);
            self.net.submit(socket, OTHER, Op::PushTo(sga, to)).expect("it is ours");
            self.net.flush(now);
        }
    }
}

/// A clock that goes on by a pass each time that it is read.
#[derive(Clone)]
struct Passes(Rc<Cell<Instant>>);

impl Passes {
    fn new() -> Passes {
        Passes(Rc::new(Cell::new(Instant::from_nanos(1_000_000_000))))
    }
}

impl Clock for Passes {
    fn now(&self) -> Instant {
        self.0.set(self.0.get() + PASS);
        self.0.get()
    }

    fn wall(&self) -> WallTime {
        WallTime::from_nanos(self.0.get().as_nanos())
    }
}

/// A core on which a coroutine waits at each connection, or at each port, for what is prepared.
pub struct Pops {
    pair: Pair,
    core: Core,
    span: Rc<Span>,
    kind: SocketKind,
    templates: Vec<Vec<u8>>,
    popped: Rc<Cell<u64>>,
    /// The burst that is next.
    at: usize,
}

impl Pops {
    /// Connected; nothing is on the way.
    pub fn new(kind: SocketKind, checksums: Checksums) -> Pops {
        let (pair, span, clock) = (Pair::new(checksums), Rc::new(Span::default()), Passes::new());
        let ports = mesh(1, MeshKind::Stepped).expect("no descriptors are needed").remove(0);
        let network = Noted { net: pair.ours.clone(), span: span.clone() };
        let core = Core::new(CoreParts {
            idle: IdlePolicy::Stepped,
            networks: vec![("net".into(), Box::new(network) as Box<dyn Network>)],
            ..CoreParts::new(pair.heaps[OURS].clone(), Box::new(clock.clone()), ports)
        });
        let mut pops = Pops { pair, core, span, kind, templates: Vec::new(), popped: Rc::default(), at: 0 };
        match kind {
            SocketKind::Stream => pops.connect(&clock),
            _ => pops.bind(&clock),
        }
        assert_eq!(pops.templates.len(), CONNECTIONS, "a frame for each");
        pops.pair.cut();
        // A long queue, so that the core's burst grows.
        (0..CONNECTIONS / BURST).for_each(|_| pops.prepare());
        pops.step_until_popped(CONNECTIONS);
        pops.span.taken.take();
        pops.popped.set(0);
        pops
    }

    fn connect(&mut self, clock: &Passes) {
        for _ in 0..CONNECTIONS / HANDSHAKES {
            (0..HANDSHAKES).for_each(|i| self.spawn(i as u16));
            self.settle(clock);
        }
        assert_eq!(self.pair.peer.accepted.len(), CONNECTIONS, "all are connected");
        self.pair.peer.push_each(clock.now());
        self.templates = self.pair.frames();
        // They arrive, so that the next ones are expected.
        self.settle(clock);
    }

    fn bind(&mut self, clock: &Passes) {
        let ports: Vec<u16> = (0..CONNECTIONS as u16).map(|i| 1000 + i).collect();
        ports.iter().for_each(|&port| self.spawn(port));
        self.settle(clock);
        // The neighbours get to know each other.
        self.pair.peer.push_to_each(&ports[..1], clock.now());
        self.settle(clock);
        self.pair.peer.push_to_each(&ports, clock.now());
        self.templates = self.pair.frames();
        self.settle(clock);
    }

    /// A coroutine that pops whatever comes.
    fn spawn(&self, port: u16) {
        let (libos, kind) = (self.core.libos().clone(), self.kind);
        let (span, count) = (self.span.clone(), self.popped.clone());
        self.core.libos().spawn(async move {
            let qd = libos.socket(kind, None).expect("a queue");
            if kind == SocketKind::Stream {
                let to = Endpoint::new(address(PEER), PORT);
                let connected = libos.redeem(libos.connect(qd, to).expect("a new queue")).await;
                connected.expect("a token of ours").done().expect("it is reached");
            } else {
                libos.bind(qd, Endpoint::new(address(OURS), port)).expect("a free port");
            }
            pop_all(&libos, qd, &span, &count).await;
        });
    }

    /// Both step until nothing is on the way.
    fn settle(&mut self, clock: &Passes) {
        for _ in 0..64 {
            self.core.step();
            self.pair.peer.step(clock.now());
        }
    }

    /// The next burst of frames, ready to be received.
    fn prepare(&mut self) {
        let burst = &mut self.templates[self.at..self.at + BURST];
        if self.kind == SocketKind::Stream {
            burst.iter_mut().for_each(|bytes| advance(bytes, SEQUENCE_AT, self.pair.checksums));
        }
        self.pair.give(burst);
        self.at = (self.at + BURST) % CONNECTIONS;
    }

    fn step_until_popped(&mut self, count: usize) {
        let before = self.popped.get();
        while self.popped.get() - before < count as u64 {
            self.core.step();
        }
    }

    /// One frame for each connection. Gives the nanoseconds of one, from the frame in hand to the coroutine runnable.
    pub fn round(&mut self) -> f64 {
        let mut taken = Duration::ZERO;
        for _ in 0..CONNECTIONS / BURST {
            self.prepare();
            self.step_until_popped(BURST);
            taken += self.span.taken.take();
        }
        taken.as_nanos() as f64 / CONNECTIONS as f64
    }
}

async fn pop_all(libos: &LibOs, qd: pdpix::Qd, span: &Span, count: &Cell<u64>) {
    loop {
        let popped = libos.redeem(libos.pop(qd, 4096).expect("it is open")).await.expect("a token of ours");
        span.end();
        let popped = popped.popped().expect("something has come");
        assert_eq!(popped.sga.len(), TEXT);
        count.set(count.get() + 1);
    }
}

/// The next segment of a connection: its number is so much higher.
fn advance(bytes: &mut [u8], at: usize, checksums: Checksums) {
    let number = u32::from_be_bytes([bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]]);
    bytes[at..at + 4].copy_from_slice(&number.wrapping_add(TEXT as u32).to_be_bytes());
    if checksums == Checksums::Software {
        bytes[CHECKSUM_AT..CHECKSUM_AT + 2].fill(0);
        let len = bytes.len() - TCP_AT;
        let sum: Checksum = pseudo_header(address(PEER), address(OURS), Protocol::TCP, len).add(&bytes[TCP_AT..]);
        bytes[CHECKSUM_AT..CHECKSUM_AT + 2].copy_from_slice(&sum.finish().to_be_bytes());
    }
}

/// Connections, or sockets, without a runtime above them, on which something is pushed.
pub struct Pushes {
    pair: Pair,
    clock: Passes,
    kind: SocketKind,
    queues: Vec<Handle>,
    /// The acknowledgements.
    templates: Vec<Vec<u8>>,
    /// The burst that is next.
    at: usize,
    done: Completions,
}

/// Nanoseconds.
#[derive(Clone, Copy, Debug)]
pub struct PushFigures {
    /// A push, and its share of the flush.
    pub push: f64,
    /// Taking in the acknowledgement of it.
    pub ack: f64,
}

impl Pushes {
    /// Connected; nothing is on the way.
    pub fn new(kind: SocketKind, checksums: Checksums) -> Pushes {
        let (pair, clock, done) = (Pair::new(checksums), Passes::new(), Completions::new());
        let (queues, templates) = (Vec::new(), Vec::new());
        let mut pushes = Pushes { pair, clock, kind, queues, templates, at: 0, done };
        for _ in 0..CONNECTIONS / HANDSHAKES {
            (0..HANDSHAKES).for_each(|_| pushes.open());
            pushes.settle();
        }
        for at in (0..CONNECTIONS).step_by(BURST) {
            pushes.submit(at);
            pushes.pair.ours.borrow_mut().flush(pushes.clock.now());
            if kind == SocketKind::Stream {
                pushes.pair.peer.step(pushes.clock.now());
                let acks = pushes.pair.frames();
                pushes.templates.extend(acks);
            }
            pushes.settle();
        }
        let acks = if kind == SocketKind::Stream { CONNECTIONS } else { 0 };
        assert_eq!(pushes.templates.len(), acks, "an acknowledgement of each");
        pushes.pair.cut();
        pushes
    }

    fn open(&mut self) {
        let mut ours = self.pair.ours.borrow_mut();
        let queue = ours.open(self.kind).expect("a queue");
        self.queues.push(queue);
        if self.kind == SocketKind::Stream {
            let to = Endpoint::new(address(PEER), PORT);
            assert!(matches!(ours.submit(queue, OTHER, Op::Connect(to)), Ok(Submitted::Pending)));
        }
    }

    fn settle(&mut self) {
        for _ in 0..16 {
            self.poll();
            self.pair.ours.borrow_mut().flush(self.clock.now());
            self.pair.peer.step(self.clock.now());
        }
    }

    fn poll(&mut self) {
        self.done.set_room(2 * BURST);
        self.pair.ours.borrow_mut().poll(self.clock.now(), &mut self.done);
        while let Some(end) = self.done.pop() {
            end.result.expect("it is reached");
        }
    }

    /// Pushes on a burst of connections, from the `at`-th on. Gives the nanoseconds of that.
    fn submit(&mut self, at: usize) -> Duration {
        let sga = |_| Sga::copy(&self.pair.heaps[OURS], &[7; TEXT]).expect("memory");
        let sgas: [Sga; BURST] = std::array::from_fn(sga);
        let start = std::time::Instant::now();
        let mut ours = self.pair.ours.borrow_mut();
        measured(|| {
            for (&queue, sga) in self.queues[at..at + BURST].iter().zip(sgas) {
                let op = match self.kind {
                    SocketKind::Stream => Op::Push(sga),
                    _ => Op::PushTo(sga, Endpoint::new(address(PEER), PORT)),
                };
                let submitted = ours.submit(queue, OTHER, op);
                assert!(matches!(submitted, Ok(Submitted::Done(Ok(Outcome::Pushed)))), "{submitted:?}");
            }
        });
        start.elapsed()
    }

    /// A push on each, and its acknowledgement.
    pub fn round(&mut self) -> PushFigures {
        let (mut push, mut ack) = (Duration::ZERO, Duration::ZERO);
        for _ in 0..CONNECTIONS / BURST {
            push += self.submit(self.at);
            let now = self.clock.now();
            let start = std::time::Instant::now();
            measured(|| self.pair.ours.borrow_mut().flush(now));
            push += start.elapsed();
            if self.kind == SocketKind::Stream {
                let burst = &mut self.templates[self.at..self.at + BURST];
                burst.iter_mut().for_each(|bytes| advance(bytes, ACKNOWLEDGMENT_AT, self.pair.checksums));
                self.pair.give(burst);
                self.done.set_room(BURST);
                let now = self.clock.now();
                let start = std::time::Instant::now();
                acknowledged(|| self.pair.ours.borrow_mut().poll(now, &mut self.done));
                ack += start.elapsed();
                self.pair.ours.borrow_mut().flush(now);
            }
            self.at = (self.at + BURST) % CONNECTIONS;
        }
        let each = |taken: Duration| taken.as_nanos() as f64 / CONNECTIONS as f64;
        PushFigures { push: each(push), ack: each(ack) }
    }

    /// Segments or datagrams that the stack has sent, as it counts.
    pub fn segments_sent(&self) -> u64 {
        self.pair.ours.borrow().counters().tcp_segments_sent
    }
}

/// What callgrind counts of a push: by this name.
#[inline(never)]
fn measured(call: impl FnOnce()) {
    call();
}

/// What callgrind counts of an acknowledgement.
#[inline(never)]
fn acknowledged(call: impl FnOnce()) {
    call();
}

const ROUNDS: usize = 200;

/// Nanoseconds from a frame in hand to its coroutine runnable.
pub fn pop(kind: SocketKind, checksums: Checksums) -> f64 {
    let mut pops = Pops::new(kind, checksums);
    (0..ROUNDS / 10).for_each(|_| _ = pops.round());
    median((0..ROUNDS).map(|_| pops.round()))
}

/// Nanoseconds of a push, and of its acknowledgement.
pub fn push(kind: SocketKind, checksums: Checksums) -> PushFigures {
    let mut pushes = Pushes::new(kind, checksums);
    (0..ROUNDS / 10).for_each(|_| _ = pushes.round());
    let figures: Vec<PushFigures> = (0..ROUNDS).map(|_| pushes.round()).collect();
    let of = |part: fn(&PushFigures) -> f64| median(figures.iter().map(part));
    PushFigures { push: of(|figures| figures.push), ack: of(|figures| figures.ack) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_round_pops_one_of_each() {
        for kind in [SocketKind::Stream, SocketKind::Datagram] {
            for checksums in [Checksums::Device, Checksums::Software] {
                let mut pops = Pops::new(kind, checksums);
                (0..20).for_each(|_| assert!(pops.round() > 0.0));
                assert_eq!(pops.popped.get(), 20 * CONNECTIONS as u64, "{kind:?}");
                assert_eq!(pops.pair.ours.borrow().counters().tcp_outside_window, 0);
            }
        }
    }

    #[test]
    fn each_push_is_a_segment() {
        let mut pushes = Pushes::new(SocketKind::Stream, Checksums::Device);
        let before = pushes.segments_sent();
        (0..20).for_each(|_| _ = pushes.round());
        assert_eq!(pushes.segments_sent() - before, 20 * CONNECTIONS as u64);
        assert_eq!(pushes.pair.ours.borrow().counters().tcp_segments_resent, 0);
        _ = Pushes::new(SocketKind::Datagram, Checksums::Device).round();
    }
}
