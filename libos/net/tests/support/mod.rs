//! Two stacks and a wire between them, in virtual time.

#![allow(dead_code, reason = "each test file uses a part of it")]

use std::cell::RefCell;
use std::collections::VecDeque;
use std::net::{IpAddr, Ipv4Addr};
use std::rc::Rc;
use std::time::Duration;

use libos_mem::Heap;
use libos_net::wire::Mac;
use libos_net::{Cidr, Cutting, Device, Frame, IpSettings, Link, NetNetwork, NetSettings, Offloads, Received};
use pdpix::{
    Completions, Done, Endpoint, Error, Handle, Instant, Network, Op, OpId, Outcome, Purpose, Rng, Sga, SocketKind,
    Submitted, WakeOn,
};

/// What a wire does to frames.
#[derive(Clone, Copy, Debug)]
pub struct Faults {
    pub latency: Duration,
    pub jitter: Duration,
    pub loss: f64,
    pub twice: f64,
    pub corrupted: f64,
    /// What may be is marked, as by a queue that grows (RFC 3168); of IPv4.
    pub marked: f64,
    /// Bytes a second; none: as many as there are.
    pub bandwidth: Option<u64>,
    /// Bytes that may wait for it.
    pub queue: usize,
    /// Longer frames vanish.
    pub len_max: usize,
}

impl Default for Faults {
    fn default() -> Faults {
        Faults {
            latency: Duration::from_micros(50),
            jitter: Duration::ZERO,
            loss: 0.0,
            twice: 0.0,
            corrupted: 0.0,
            marked: 0.0,
            bandwidth: None,
            queue: 256 << 10,
            len_max: usize::MAX,
        }
    }
}

struct OnTheWay {
    at: Instant,
    bytes: Vec<u8>,
}

/// One direction.
struct Line {
    faults: Faults,
    frames: VecDeque<OnTheWay>,
    /// The line is busy until then.
    busy: Instant,
    rng: Rng,
    sent: Vec<(Instant, Vec<u8>)>,
    keep: bool,
    side: usize,
}

impl Line {
    fn send(&mut self, now: Instant, bytes: Vec<u8>) {
        if self.keep {
            self.sent.push((now, bytes.clone()));
        }
        let f = self.faults;
        if std::env::var_os("MARGAY_SHOW_FRAMES").is_some() {
            println!("{:>14?} {} {}", now, if self.side == 0 { "A" } else { "B" }, describe(&bytes));
        }
        if bytes.len() > f.len_max || self.rng.chance(f.loss) {
            return;
        }
        let mut leaves = now;
        if let Some(bandwidth) = f.bandwidth {
            let waits = self.busy.since(now).as_secs_f64() * bandwidth as f64;
            if waits as usize > f.queue {
                return;
            }
            leaves = self.busy.max(now) + Duration::from_secs_f64(bytes.len() as f64 / bandwidth as f64);
            self.busy = leaves;
        }
        let times = if self.rng.chance(f.twice) { 2 } else { 1 };
        for _ in 0..times {
            let jitter = Duration::from_nanos(self.rng.below(f.jitter.as_nanos() as u64 + 1));
            let mut bytes = bytes.clone();
            if self.rng.chance(f.corrupted) {
                let at = self.rng.below(bytes.len() as u64) as usize;
                bytes[at] ^= 1 << self.rng.below(8);
            }
            // ECT(0) becomes CE: the header's sum is one less.
            if bytes[12..14] == [8, 0] && bytes[15] & 3 == 2 && self.rng.chance(f.marked) {
                bytes[15] |= 1;
                let sum = u16::from_be_bytes([bytes[24], bytes[25]]);
                let sum = if sum == 0 { 0xfffe } else { sum - 1 };
                bytes[24..26].copy_from_slice(&sum.to_be_bytes());
            }
            let at = leaves + f.latency + jitter;
            let place = self.frames.partition_point(|other| other.at <= at);
            self.frames.insert(place, OnTheWay { at, bytes });
        }
    }
}

/// One end of the wire.
pub struct Port {
    lines: Rc<RefCell<[Line; 2]>>,
    side: usize,
    heap: Heap,
    link: Link,
}

impl Device for Port {
    fn link(&self) -> Link {
        self.link
    }

    fn receive(&mut self, now: Instant, into: &mut VecDeque<Received>, room: usize) -> Result<(), Error> {
        let line = &mut self.lines.borrow_mut()[1 - self.side];
        for _ in 0..room {
            if line.frames.front().is_none_or(|frame| frame.at > now) {
                break;
            }
            let frame = line.frames.pop_front().unwrap();
            let Ok(mut buf) = self.heap.alloc_for(Purpose::Receive, 2048.max(frame.bytes.len())) else { continue };
            buf.put(&frame.bytes);
            into.push_back(Received { buf: buf.freeze(), verified: false });
        }
        Ok(())
    }

    fn transmit(&mut self, now: Instant, frames: &mut VecDeque<Frame>) {
        let line = &mut self.lines.borrow_mut()[self.side];
        for frame in frames.drain(..) {
            assert!(frame.pieces().count() <= self.link.offloads.gathers.max(1));
            assert!(frame.segment_size == 0 && frame.len() <= self.link.mtu + 14, "longer than the link carries");
            line.send(now, frame.to_vec());
        }
    }

    fn flush(&mut self, _: Instant) {}

    fn arm(&mut self, _: Instant) -> WakeOn {
        WakeOn::Nothing
    }

    fn deadline(&self) -> Option<Instant> {
        self.lines.borrow()[1 - self.side].frames.front().map(|frame| frame.at)
    }

    fn in_flight(&self) -> usize {
        0
    }
}

/// Two hosts: 10.0.0.1 and 10.0.0.2.
pub struct Pair {
    pub now: Instant,
    pub nets: [NetNetwork; 2],
    pub heaps: [Heap; 2],
    lines: Rc<RefCell<[Line; 2]>>,
    done: [VecDeque<Done>; 2],
    next_op: u64,
}

pub const A: usize = 0;
pub const B: usize = 1;

pub fn address(side: usize) -> IpAddr {
    IpAddr::V4(Ipv4Addr::new(10, 0, 0, side as u8 + 1))
}

/// Changes how a side is set up.
pub type SetUp = dyn Fn(usize, &mut NetSettings);

pub struct Options {
    pub seed: u64,
    pub faults: [Faults; 2],
    pub mtu: usize,
    pub gathers: usize,
    /// Whether each side's device cuts long segments up.
    pub cuts_up: bool,
    pub keep: bool,
    pub settings: Box<SetUp>,
}

impl Default for Options {
    fn default() -> Options {
        Options {
            seed: 1,
            faults: [Faults::default(); 2],
            mtu: 1500,
            gathers: 16,
            cuts_up: false,
            keep: false,
            settings: Box::new(|_, _| {}),
        }
    }
}

impl Pair {
    pub fn new(options: Options) -> Pair {
        let mut rng = Rng::new(options.seed);
        let mut line = |side: usize, faults| Line {
            side,
            faults,
            frames: VecDeque::new(),
            busy: Instant::ZERO,
            rng: rng.fork(),
            sent: Vec::new(),
            keep: options.keep,
        };
        let lines = Rc::new(RefCell::new([line(0, options.faults[0]), line(1, options.faults[1])]));
        let heaps = [(); 2].map(|()| Heap::alone(64 << 20).unwrap());
        let nets = [A, B].map(|side| {
            let link = Link {
                mac: Mac([2, 0, 0, 0, 0, side as u8 + 1]),
                mtu: options.mtu,
                offloads: Offloads { gathers: options.gathers, ..Offloads::NONE },
            };
            let port = Port { lines: lines.clone(), side, heap: heaps[side].clone(), link };
            let mut settings = NetSettings {
                ip: IpSettings { addresses: vec![Cidr::new(address(side), 24).unwrap()], ..IpSettings::default() },
                seed: rng.next_u64(),
                secret: [side as u8 + 7; 16],
                ..NetSettings::default()
            };
            (options.settings)(side, &mut settings);
            let device: Box<dyn Device> =
                if options.cuts_up { Box::new(Cutting::new(port, heaps[side].clone())) } else { Box::new(port) };
            NetNetwork::new(device, heaps[side].clone(), settings)
        });
        let now = Instant::from_nanos(1_000_000_000);
        let mut pair = Pair { now, nets, heaps, lines, done: Default::default(), next_op: 1 };
        pair.step();
        pair
    }

    pub fn set_faults(&self, side: usize, faults: Faults) {
        self.lines.borrow_mut()[side].faults = faults;
    }

    pub fn sent(&self, side: usize) -> Vec<(Instant, Vec<u8>)> {
        std::mem::take(&mut self.lines.borrow_mut()[side].sent)
    }

    /// Both sides once, at this time. False: nothing happened.
    pub fn step(&mut self) {
        for side in [A, B] {
            let mut done = Completions::new();
            done.set_room(64);
            self.nets[side].poll(self.now, &mut done);
            while let Some(end) = done.pop() {
                self.done[side].push_back(end);
            }
            self.nets[side].flush(self.now);
            self.nets[side].check();
        }
    }

    /// When something happens next.
    pub fn next(&mut self) -> Option<Instant> {
        let now = self.now;
        let wakes = self.nets.each_mut().map(|net| net.arm(now));
        if wakes.iter().any(|wake| !matches!(wake.on, WakeOn::Nothing | WakeOn::Nap)) {
            return Some(now);
        }
        // Who waits for memory looks again in a while.
        let nap = wakes.iter().any(|wake| wake.on == WakeOn::Nap).then(|| now + Duration::from_micros(200));
        wakes.iter().filter_map(|wake| wake.deadline).chain(nap).min()
    }

    /// Lets time pass until `done` says so, or `limit` is over. Gives whether it did.
    pub fn run(&mut self, limit: Duration, mut done: impl FnMut(&mut Pair) -> bool) -> bool {
        let end = self.now + limit;
        let mut turns = 0u64;
        loop {
            self.step();
            if done(self) {
                return true;
            }
            turns += 1;
            assert!(turns < 20_000_000, "no end");
            match self.next() {
                Some(at) if at <= end => self.now = at.max(self.now + Duration::from_nanos(1_000)),
                _ => {
                    self.now = end;
                    return false;
                }
            }
        }
    }

    pub fn run_for(&mut self, time: Duration) {
        self.run(time, |_| false);
    }

    fn op(&mut self) -> OpId {
        self.next_op += 1;
        OpId(self.next_op)
    }

    pub fn begin(&mut self, side: usize, h: Handle, what: Op) -> OpId {
        let op = self.op();
        match self.nets[side].submit(h, op, what).unwrap() {
            Submitted::Done(result) => self.done[side].push_back(Done { op, result }),
            Submitted::Pending => {}
        }
        op
    }

    pub fn take(&mut self, side: usize, op: OpId) -> Option<Result<Outcome<Handle>, Error>> {
        let place = self.done[side].iter().position(|done| done.op == op)?;
        self.done[side].remove(place).map(|done| done.result)
    }

    /// An operation that ended as it was submitted.
    pub fn put(&mut self, side: usize, op: OpId, result: Result<Outcome<Handle>, Error>) {
        self.done[side].push_back(Done { op, result });
    }

    pub fn wait(&mut self, side: usize, op: OpId, limit: Duration) -> Result<Outcome<Handle>, Error> {
        let mut result = None;
        self.run(limit, |pair| {
            result = pair.take(side, op);
            result.is_some()
        });
        result.unwrap_or_else(|| {
            panic!("operation {op:?} of side {side} did not end within {limit:?}: {:#?}", self.busy_counters())
        })
    }

    pub fn listen(&mut self, side: usize, port: u16) -> Handle {
        let h = self.nets[side].open(SocketKind::Stream).unwrap();
        self.nets[side].bind(h, Endpoint::new(Ipv4Addr::UNSPECIFIED.into(), port)).unwrap();
        self.nets[side].listen(h, 128).unwrap();
        h
    }

    /// A connection from A to B: both queues, and the listener's.
    pub fn connect(&mut self) -> (Handle, Handle, Handle) {
        let listener = self.listen(B, 7);
        let a = self.nets[A].open(SocketKind::Stream).unwrap();
        let connect = self.begin(A, a, Op::Connect(Endpoint::new(address(B), 7)));
        let accept = self.begin(B, listener, Op::Accept);
        let limit = Duration::from_secs(1200);
        self.wait(A, connect, limit).unwrap();
        let Ok(Outcome::Accepted { queue, .. }) = self.wait(B, accept, limit) else { panic!("no connection") };
        (a, queue, listener)
    }

    pub fn push(&mut self, side: usize, h: Handle, bytes: &[u8]) -> OpId {
        let sga = Sga::copy(&self.heaps[side], bytes).unwrap();
        self.begin(side, h, Op::Push(sga))
    }

    /// Pops until `len` bytes are there, or the stream ends.
    pub fn pop_all(&mut self, side: usize, h: Handle, len: usize, limit: Duration) -> Vec<u8> {
        let mut all = Vec::new();
        while all.len() < len {
            let op = self.begin(side, h, Op::Pop { len_max: len - all.len() });
            match self.wait(side, op, limit).unwrap() {
                Outcome::Popped(popped) if popped.sga.is_empty() => break,
                Outcome::Popped(popped) => all.extend(popped.sga.to_vec()),
                other => panic!("{other:?}"),
            }
        }
        all
    }

    /// Sends `data` one way and checks that it arrives; both sides go on meanwhile. Gives the time it took.
    pub fn transfer(
        &mut self,
        from: usize,
        of: Handle,
        to: usize,
        at: Handle,
        data: &[u8],
        limit: Duration,
    ) -> Duration {
        let start = self.now;
        let (mut sent, mut got) = (0, Vec::with_capacity(data.len()));
        let (mut push, mut pop): (Option<OpId>, Option<OpId>) = (None, None);
        let ok = self.run(limit, |pair| {
            for _ in 0..64 {
                if let Some(op) = push {
                    match pair.take(from, op) {
                        Some(result) => _ = result.expect("a push"),
                        None => break,
                    }
                    push = None;
                }
                if sent == data.len() {
                    break;
                }
                let len = (data.len() - sent).min(64 << 10);
                push = Some(pair.push(from, of, &data[sent..sent + len]));
                sent += len;
            }
            loop {
                match pop.take() {
                    None => {}
                    Some(op) => match pair.take(to, op) {
                        Some(Ok(Outcome::Popped(popped))) => got.extend(popped.sga.to_vec()),
                        Some(other) => panic!("a pop gave {other:?}"),
                        None => {
                            pop = Some(op);
                            break;
                        }
                    },
                }
                if got.len() == data.len() {
                    break;
                }
                pop = Some(pair.begin(to, at, Op::Pop { len_max: 1 << 20 }));
            }
            got.len() == data.len()
        });
        assert!(ok, "{} of {} bytes after {limit:?}; counters {:#?}", got.len(), data.len(), self.busy_counters());
        assert!(got == data, "the bytes differ");
        self.now.since(start)
    }

    pub fn busy_counters(&self) -> Vec<(usize, &'static str, u64)> {
        let of = |side: usize| self.nets[side].counters().iter().map(move |(name, value)| (side, name, value));
        of(A).chain(of(B)).filter(|(_, _, value)| *value > 0).collect()
    }

    /// Everything is closed: nothing is held.
    pub fn check_empty(&mut self) {
        self.run_for(Duration::from_secs(700));
        for side in [A, B] {
            assert_eq!(self.nets[side].zombies(), 0, "zombies of side {side}");
        }
        self.done = Default::default();
        for side in [A, B] {
            assert_eq!(self.heaps[side].stats().pinned, 0, "bytes pinned on side {side}");
        }
    }
}

/// Bytes that are not the same anywhere.
pub fn pattern(len: usize, seed: u64) -> Vec<u8> {
    let mut bytes = vec![0; len];
    Rng::new(seed).fill(&mut bytes);
    bytes
}

/// A frame as a person reads it, roughly as tcpdump writes it.
pub fn describe(bytes: &[u8]) -> String {
    let word = |at: usize| u32::from_be_bytes(bytes[at..at + 4].try_into().unwrap());
    match bytes.get(12..14) {
        Some([8, 6]) => format!("ARP {} {:?} -> {:?}", bytes[21], &bytes[28..32], &bytes[38..42]),
        Some([8, 0]) if bytes[23] == 6 => {
            let (ip, at) = (&bytes[14..], 34);
            let len = usize::from(u16::from_be_bytes([ip[2], ip[3]])) - 20 - usize::from(bytes[at + 12] >> 4) * 4;
            let flags = libos_net::wire::Flags(bytes[at + 13]);
            let (seq, ack) = (word(at + 4), word(at + 8));
            let window = u16::from_be_bytes([bytes[at + 14], bytes[at + 15]]);
            let header = usize::from(bytes[at + 12] >> 4) * 4;
            let options = libos_net::wire::TcpOptions::parse(&bytes[at + 20..at + header]);
            format!("[{flags:?}] seq {seq} ack {ack} win {window} len {len} {:?}", options.map(|options| options.sack))
        }
        Some(kind) => format!("{kind:02x?} {} B", bytes.len()),
        None => "short".to_string(),
    }
}
