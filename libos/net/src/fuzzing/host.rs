//! Two hosts with the whole stack, and a wire between them that the script holds: a frame moves when it says so.
//!
//! Holds, after each event: the stack's own rules; an operation ends once, and only if it was pending; a pop of a stream
//! gives what was pushed at the other end, in order, unless the script has forged frames. When everything is closed and
//! enough time has passed: no operation is pending, no zombie and no buffer is left.

use std::cell::RefCell;
use std::collections::{BTreeMap, VecDeque};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::rc::Rc;
use std::time::Duration;

use pdpix::{
    Completions, Endpoint, Error, Handle, Heap, Instant, Network, Op, OpId, Outcome, Popped, Purpose, Sga, SocketKind,
    SocketOption, Submitted, Wake, WakeOn,
};

use crate::wire::Mac;
use crate::{Cidr, Device, Frame, IpSettings, Link, NetNetwork, NetSettings, Offloads, Received, TcpSettings};

pub(super) const HEAP: usize = 8 << 20;
/// Open queues of a host.
const QUEUES_MAX: usize = 12;
/// A run that is not over by then has no end: two hosts that answer each other for ever.
const TURNS_MAX: usize = 20_000;

pub(super) const A: usize = 0;
pub(super) const B: usize = 1;

pub(super) fn mac(side: usize) -> Mac {
    Mac([2, 0, 0, 0, 0, 0xa + side as u8])
}

pub(super) fn address(side: usize, is_v6: bool) -> IpAddr {
    let last = side as u8 + 1;
    match is_v6 {
        true => Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, last.into()).into(),
        false => Ipv4Addr::new(192, 0, 2, last).into(),
    }
}

/// What a stream has at a place.
fn content(from: u16, to: u16, at: u64) -> u8 {
    (at ^ at >> 8 ^ at >> 16).wrapping_mul(u64::from(from | 1)).wrapping_add(to.into()) as u8
}

/// A host's end of the wire.
#[derive(Default)]
struct Ends {
    arriving: VecDeque<Received>,
    sent: VecDeque<Vec<u8>>,
    /// Frames that it takes at a time.
    room: usize,
}

struct Port {
    ends: Rc<RefCell<Ends>>,
    link: Link,
}

impl Device for Port {
    fn link(&self) -> Link {
        self.link
    }

    fn receive(&mut self, _: Instant, into: &mut VecDeque<Received>, room: usize) -> Result<(), Error> {
        let arriving = &mut self.ends.borrow_mut().arriving;
        let count = room.min(arriving.len());
        into.extend(arriving.drain(..count));
        Ok(())
    }

    fn transmit(&mut self, _: Instant, frames: &mut VecDeque<Frame>) {
        let mut ends = self.ends.borrow_mut();
        let count = ends.room.min(frames.len());
        for frame in frames.drain(..count) {
            assert!(frame.pieces().count() <= self.link.offloads.gathers, "more pieces than the device gathers");
            assert!(frame.segment_size > 0 || frame.len() <= self.link.mtu + 14, "longer than the link carries");
            ends.sent.push_back(frame.to_vec());
        }
    }

    fn flush(&mut self, _: Instant) {}

    fn arm(&mut self, _: Instant) -> WakeOn {
        if self.ends.borrow().arriving.is_empty() { WakeOn::Nothing } else { WakeOn::Now }
    }

    fn in_flight(&self) -> usize {
        0
    }
}

/// An open queue.
pub(super) struct Queue {
    /// Never that of another.
    id: u64,
    pub(super) h: Handle,
    /// Bytes pushed, and seen.
    pushed: u64,
    pub(super) popped: u64,
    /// Pops in order, and what came of them.
    pops: VecDeque<(OpId, Option<Vec<u8>>)>,
}

pub(super) struct Host {
    pub(super) net: NetNetwork,
    pub(super) heap: Heap,
    ends: Rc<RefCell<Ends>>,
    pub(super) queues: Vec<Queue>,
    /// Operations that have not ended, and the queue of each.
    pending: BTreeMap<u64, u64>,
    /// Datagrams that were popped.
    pub(super) datagrams: Vec<Popped>,
    count: u64,
    room: usize,
    send_budget: usize,
    /// Nobody opens anything any more.
    closing: bool,
}

/// What a script says at its beginning.
pub(super) struct Setup {
    pub(super) tcp: TcpSettings,
    pub(super) mtu: usize,
    pub(super) offloads: Offloads,
    /// Ends of operations that a poll may give.
    pub(super) room: usize,
    /// Bytes beyond which pushes wait.
    pub(super) send_budget: usize,
}

impl Host {
    fn new(side: usize, setup: &Setup) -> Host {
        let heap = Heap::alone(HEAP).expect("memory for a small heap");
        let ends = Rc::new(RefCell::new(Ends { room: usize::MAX, ..Ends::default() }));
        let link = Link { mac: mac(side), mtu: setup.mtu, offloads: setup.offloads };
        let addresses = [(false, 24), (true, 64)].map(|(is_v6, len)| Cidr::new(address(side, is_v6), len));
        let settings = NetSettings {
            ip: IpSettings { addresses: addresses.into_iter().flatten().collect(), ..IpSettings::default() },
            tcp: setup.tcp,
            secret: [side as u8; 16],
            seed: side as u64,
            adaptive_batching: true,
        };
        let net = NetNetwork::new(Box::new(Port { ends: ends.clone(), link }), heap.clone(), settings);
        Host {
            net,
            heap,
            ends,
            queues: Vec::new(),
            pending: BTreeMap::new(),
            datagrams: Vec::new(),
            count: 0,
            room: setup.room,
            send_budget: setup.send_budget,
            closing: false,
        }
    }

    fn name(&mut self) -> u64 {
        self.count += 1;
        self.count
    }

    fn add(&mut self, h: Handle) {
        let id = self.name();
        self.queues.push(Queue { id, h, pushed: 0, popped: 0, pops: VecDeque::new() });
    }

    /// One more queue, the last; if there may be.
    pub(super) fn open(&mut self, kind: SocketKind) -> Option<Handle> {
        if self.queues.len() >= QUEUES_MAX {
            return None;
        }
        let h = self.net.open(kind).ok()?;
        // Whatever a listener accepts has it, too.
        self.net.set_option(h, SocketOption::SendBudget(self.send_budget)).expect("a budget");
        self.add(h);
        Some(h)
    }

    /// One of the queues.
    pub(super) fn chosen(&self, byte: u8) -> Option<usize> {
        (!self.queues.is_empty()).then(|| usize::from(byte) % self.queues.len())
    }

    pub(super) fn submit(&mut self, index: usize, what: Op, honest: bool) -> bool {
        let op = OpId(self.name());
        let queue = &mut self.queues[index];
        let (id, is_pop) = (queue.id, matches!(what, Op::Pop { .. }));
        let answer = self.net.submit(queue.h, op, what);
        if is_pop && answer.is_ok() {
            queue.pops.push_back((op, None));
        }
        match answer {
            Err(_) => return false,
            Ok(Submitted::Pending) => assert_eq!(self.pending.insert(op.0, id), None, "two operations of one name"),
            Ok(Submitted::Done(result)) => self.on_end(op, id, result, honest),
        }
        true
    }

    /// What a stream has next, and is pushed.
    pub(super) fn push(&mut self, index: usize, len: usize, honest: bool) {
        let queue = &self.queues[index];
        let (Ok(local), Ok(peer)) = (self.net.local(queue.h), self.net.peer(queue.h)) else { return };
        let start = queue.pushed;
        let bytes: Vec<u8> = (start..start + len as u64).map(|at| content(local.port(), peer.port(), at)).collect();
        let Ok(sga) = Sga::copy(&self.heap, &bytes) else { return };
        if self.submit(index, Op::Push(sga), honest)
            && let Some(queue) = self.queues.get_mut(index)
        {
            queue.pushed += len as u64;
        }
    }

    fn on_end(&mut self, op: OpId, id: u64, result: Result<Outcome<Handle>, Error>, honest: bool) {
        let index = self.queues.iter().position(|queue| queue.id == id);
        let pop = index.and_then(|index| {
            let pops = &mut self.queues[index].pops;
            let place = pops.iter().position(|(other, _)| *other == op)?;
            Some(&mut pops[place].1)
        });
        match result {
            Ok(Outcome::Accepted { queue, .. }) if self.closing => self.net.close(queue),
            Ok(Outcome::Accepted { queue, .. }) => self.add(queue),
            Ok(Outcome::Popped(popped)) if popped.from.is_some() => self.datagrams.push(popped),
            Ok(Outcome::Popped(popped)) => pop.into_iter().for_each(|pop| *pop = Some(popped.sga.to_vec())),
            _ => pop.into_iter().for_each(|pop| *pop = Some(Vec::new())),
        }
        if let Some(index) = index {
            self.compare(index, honest);
        }
    }

    /// Pops in their order with what was pushed.
    fn compare(&mut self, index: usize, honest: bool) {
        let queue = &mut self.queues[index];
        let ports = (self.net.local(queue.h), self.net.peer(queue.h));
        while let Some((_, Some(bytes))) = queue.pops.front() {
            if let (Ok(local), Ok(peer)) = ports
                && honest
            {
                let expected = |at: usize| content(peer.port(), local.port(), queue.popped + at as u64);
                let differs = bytes.iter().enumerate().find(|&(at, byte)| *byte != expected(at));
                assert_eq!(differs, None, "not what was pushed, {} bytes into the stream", queue.popped);
            }
            queue.popped += bytes.len() as u64;
            queue.pops.pop_front();
        }
    }

    /// Asks for the end of one of the operations. Pushes stay: what of them was sent is the stack's to know.
    pub(super) fn cancel(&mut self, byte: u8) {
        let is_push = |queue: &Queue, op: u64| !queue.pops.iter().any(|(pop, _)| pop.0 == op) && queue.pushed > 0;
        let find = |(op, id): (&u64, &u64)| {
            let queue = self.queues.iter().find(|queue| queue.id == *id)?;
            (!is_push(queue, *op)).then_some((queue.h, OpId(*op)))
        };
        let all: Vec<(Handle, OpId)> = self.pending.iter().filter_map(find).collect();
        if !all.is_empty() {
            let (h, op) = all[usize::from(byte) % all.len()];
            self.net.cancel(h, op);
        }
    }

    pub(super) fn close(&mut self, index: usize) {
        let queue = self.queues.remove(index);
        self.net.close(queue.h);
    }

    fn step(&mut self, now: Instant, honest: bool) {
        let mut done = Completions::new();
        done.set_room(self.room);
        self.net.poll(now, &mut done);
        while let Some(end) = done.pop() {
            let id = self.pending.remove(&end.op.0).expect("an end of what was not pending");
            self.on_end(end.op, id, end.result, honest);
        }
        self.net.flush(now);
        self.net.check();
    }
}

/// Both hosts and the wire.
pub(super) struct Pair {
    pub(super) now: Instant,
    pub(super) hosts: [Host; 2],
    /// Frames on their way, by who sent them.
    pub(super) wires: [VecDeque<Vec<u8>>; 2],
    /// The last frames that each has sent, the newest first.
    pub(super) seen: [VecDeque<Vec<u8>>; 2],
    /// No frame was forged yet.
    pub(super) honest: bool,
    believed: bool,
}

impl Pair {
    pub(super) fn new(setup: &Setup) -> Pair {
        let mut pair = Pair {
            now: Instant::from_nanos(1_000_000_000),
            hosts: [Host::new(A, setup), Host::new(B, setup)],
            wires: Default::default(),
            seen: Default::default(),
            honest: true,
            believed: setup.offloads.checksums,
        };
        pair.step();
        pair
    }

    /// Both hosts once. What they send is on the wire then.
    pub(super) fn step(&mut self) {
        for (side, host) in self.hosts.iter_mut().enumerate() {
            host.step(self.now, self.honest);
            let sent = std::mem::take(&mut host.ends.borrow_mut().sent);
            for frame in sent {
                self.seen[side].push_front(frame.clone());
                self.seen[side].truncate(8);
                self.wires[side].push_back(frame);
            }
        }
    }

    /// A frame of `from` arrives at the other one.
    pub(super) fn deliver(&mut self, from: usize) -> bool {
        let Some(frame) = self.wires[from].pop_front() else { return false };
        self.arrive(1 - from, &frame, self.believed);
        true
    }

    /// A frame arrives, wherever it comes from.
    pub(super) fn arrive(&mut self, to: usize, frame: &[u8], verified: bool) {
        let host = &self.hosts[to];
        let Ok(mut buf) = host.heap.alloc_for(Purpose::Receive, frame.len().max(2048)) else { return };
        buf.put(frame);
        host.ends.borrow_mut().arriving.push_back(Received { buf: buf.freeze(), verified });
    }

    /// So many frames a device takes at a time from now on.
    pub(super) fn set_room(&mut self, side: usize, room: usize) {
        self.hosts[side].ends.borrow_mut().room = room;
    }

    fn wakes(&mut self) -> [Wake; 2] {
        let now = self.now;
        self.hosts.each_mut().map(|host| host.net.arm(now))
    }

    /// Time passes until a host wants to be polled, but no longer than this.
    pub(super) fn pass(&mut self, limit: Duration) {
        let next = self.wakes().iter().filter_map(|wake| wake.deadline).min();
        self.now = next.unwrap_or(Instant::NEVER).min(self.now + limit).max(self.now);
    }

    /// Everything is closed, and the wire carries everything: in the end nothing is left.
    pub(super) fn finish(mut self) {
        for side in [A, B] {
            self.set_room(side, usize::MAX);
            let host = &mut self.hosts[side];
            host.closing = true;
            while !host.queues.is_empty() {
                host.close(0);
            }
        }
        let end = self.now + Duration::from_secs(1000);
        for turn in 0.. {
            assert!(turn < TURNS_MAX, "no end: the hosts answer each other for ever");
            let mut is_busy = false;
            for side in [A, B] {
                while self.deliver(side) {
                    is_busy = true;
                }
            }
            self.step();
            let wakes = self.wakes();
            is_busy |= wakes.iter().any(|wake| wake.on != WakeOn::Nothing);
            let next = wakes.iter().filter_map(|wake| wake.deadline).min();
            let soon = self.now + Duration::from_millis(1);
            self.now = if is_busy { soon } else { next.unwrap_or(Instant::NEVER).max(soon) };
            if self.now > end {
                break;
            }
        }
        for (side, host) in self.hosts.iter_mut().enumerate() {
            host.datagrams.clear();
            assert!(host.pending.is_empty(), "operations of side {side} that never end: {:?}", host.pending);
            assert_eq!(host.net.zombies(), 0, "zombies of side {side}");
            assert_eq!(host.heap.stats().pinned, 0, "bytes pinned on side {side}");
        }
    }
}

pub(super) fn endpoint(side: usize, is_v6: bool, port: u16) -> Endpoint {
    Endpoint::new(address(side, is_v6), port)
}
