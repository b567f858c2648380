//! One stack, and a peer that has gone mad: segments that are nearly right, calls in any order, time in any steps.
//!
//! Whatever happens: nothing panics, what must hold does (`check`), what we send is well formed and within what the peer
//! allowed, and when all queues are closed and time has passed, no memory is held.
//! `MARGAY_SEED=N` runs one seed, `MARGAY_SEEDS=N` so many.

#[allow(dead_code, reason = "scripts use the rest")]
#[path = "script/packet.rs"]
mod packet;
#[path = "script/port.rs"]
mod port;

use std::cell::RefCell;
use std::collections::{BTreeMap, VecDeque};
use std::net::Ipv4Addr;
use std::rc::Rc;
use std::time::Duration;

use libos_mem::Heap;
use libos_net::wire::{Checksum, Flags, Mac, Protocol, TcpOptions, Timestamps};
use libos_net::{Cidr, CongestionKind, IpSettings, Link, NetNetwork, NetSettings, Offloads, TcpSettings};
use packet::{OUR_IP, OUR_MAC, PEER_IP, Raw, Sent, icmp_frame, read, stream, udp_frame};
use pdpix::{
    Completions, Endpoint, Handle, Instant, Network, Op, OpId, Outcome, Rng, Sga, SocketKind, SocketOption, Submitted,
    WakeOn,
};
use port::{Port, Shared, arp_reply};

/// What a clever peer knows of a connection: all that we have said.
#[derive(Clone, Copy, Default)]
struct Heard {
    /// Behind the last that we sent.
    nxt: u32,
    /// What we acknowledged, and the window that we gave.
    ack: u32,
    win: u16,
    stamp: u32,
    /// What the peer has said: its last acknowledgement, and its clock.
    acked: u32,
    clock: u32,
}

struct Madhouse {
    rng: Rng,
    net: NetNetwork,
    heap: Heap,
    shared: Rc<RefCell<Shared>>,
    now: Instant,
    queues: Vec<Handle>,
    /// What waits, and at which queue.
    waiting: Vec<(OpId, Handle)>,
    next_op: u64,
    flows: BTreeMap<(u16, u16), Heard>,
    mss_max: usize,
}

const LISTENED: [u16; 2] = [80, 81];
const PEER_PORTS: u64 = 6;

impl Madhouse {
    fn new(seed: u64) -> Madhouse {
        Madhouse::with(seed, None, |_| ())
    }

    fn with(seed: u64, heap_len: Option<usize>, set: impl FnOnce(&mut TcpSettings)) -> Madhouse {
        let mut rng = Rng::new(seed);
        let heap = Heap::alone(heap_len.unwrap_or(64 << 20)).unwrap();
        let shared = Rc::new(RefCell::new(Shared { sent: VecDeque::new(), coming: VecDeque::new() }));
        let mut settings = NetSettings {
            ip: IpSettings { addresses: vec![Cidr::new(OUR_IP.into(), 24).unwrap()], ..IpSettings::default() },
            seed: rng.next_u64(),
            secret: [seed as u8; 16],
            adaptive_batching: rng.chance(0.5),
            ..NetSettings::default()
        };
        let tcp = &mut settings.tcp;
        tcp.congestion = [CongestionKind::NewReno, CongestionKind::Cubic, CongestionKind::Dctcp][rng.below(3) as usize];
        (tcp.sack, tcp.timestamps) = (rng.chance(0.7), rng.chance(0.5));
        (tcp.window_scaling, tcp.ecn) = (rng.chance(0.7), rng.chance(0.5));
        tcp.embryos_max = 1 + rng.below(4) as usize;
        tcp.time_waits_max = 1 + rng.below(4) as usize;
        tcp.receive_budget = 4096 << rng.below(6);
        tcp.receive_budget_max = tcp.receive_budget << rng.below(6);
        tcp.retries = 2 + rng.below(5) as u8;
        set(tcp);
        let mtu = [576, 1280, 1500, 9000][rng.below(4) as usize];
        let gathers = [1, 2, 16][rng.below(3) as usize];
        let link = Link { mac: Mac(OUR_MAC), mtu, offloads: Offloads { gathers, ..Offloads::NONE } };
        let port = Port { shared: shared.clone(), heap: heap.clone(), link };
        let net = NetNetwork::new(Box::new(port), heap.clone(), settings);
        let now = Instant::from_nanos(rng.below(1 << 50));
        let (queues, waiting, flows) = Default::default();
        Madhouse { rng, net, heap, shared, now, queues, waiting, next_op: 0, flows, mss_max: mtu - 40 }
    }

    fn turn(&mut self) -> bool {
        let mut done = Completions::new();
        done.set_room(1 + self.rng.below(8) as usize);
        self.net.poll(self.now, &mut done);
        while let Some(end) = done.pop() {
            self.ended(end.op, end.result.ok());
        }
        self.net.flush(self.now);
        self.net.check();
        let sent: Vec<_> = self.shared.borrow_mut().sent.drain(..).collect();
        let any = !sent.is_empty();
        sent.into_iter().for_each(|(_, frame)| self.hear(&frame));
        any
    }

    /// A turn without looking at every connection.
    fn quick(&mut self) {
        for _ in 0..3 {
            let mut done = Completions::new();
            done.set_room(8);
            self.net.poll(self.now, &mut done);
            self.net.flush(self.now);
            let sent: Vec<_> = self.shared.borrow_mut().sent.drain(..).collect();
            sent.into_iter().for_each(|(_, frame)| self.hear(&frame));
        }
    }

    fn ended(&mut self, op: OpId, outcome: Option<Outcome<Handle>>) {
        let before = self.waiting.len();
        self.waiting.retain(|(waiting, _)| *waiting != op);
        assert_eq!(before, self.waiting.len() + 1, "an operation ends once");
        if let Some(Outcome::Accepted { queue, .. }) = outcome {
            self.queues.push(queue);
        }
    }

    fn hear(&mut self, frame: &[u8]) {
        match read(frame).unwrap() {
            Sent::Arp { request: true, target } if target == PEER_IP.octets() => {
                self.shared.borrow_mut().coming.push_back(arp_reply());
            }
            Sent::Tcp(raw) => {
                assert!(raw.text.len() <= self.mss_max, "{raw} is longer than the link carries");
                assert!(raw.options.mss.is_none() || raw.flags.has(Flags::SYN), "{raw}");
                let heard = self.flows.entry((raw.ports.0, raw.ports.1)).or_default();
                let len = raw.text.len() as u32 + u32::from(raw.flags.any(Flags::SYN.with(Flags::FIN)));
                heard.nxt = raw.seq.wrapping_add(len);
                if raw.flags.has(Flags::ACK) {
                    (heard.ack, heard.win) = (raw.ack, raw.win);
                }
                heard.stamp = raw.options.timestamps.map_or(heard.stamp, |stamps| stamps.value);
            }
            _ => {}
        }
    }

    fn pass(&mut self, time: Duration) {
        let end = self.now + time;
        for turns in 0.. {
            assert!(turns < 100_000, "no end");
            let any = self.turn();
            let wake = self.net.arm(self.now);
            match wake.deadline {
                _ if any || wake.on == WakeOn::Now => {}
                Some(at) if at <= end => self.now = self.now.max(at),
                _ => break,
            }
        }
        self.now = end;
        self.turn();
    }

    /// A number near one that means something.
    fn near(&mut self, number: u32) -> u32 {
        match self.rng.below(12) {
            0..=6 => number,
            7 => number.wrapping_add(1),
            8 => number.wrapping_sub(1),
            9 => number.wrapping_add(self.rng.below(3000) as u32),
            10 => number.wrapping_sub(self.rng.below(3000) as u32),
            _ => self.rng.next_u64() as u32,
        }
    }

    fn flags(&mut self) -> Flags {
        let usual = [Flags::ACK; 8].into_iter().chain([
            Flags::ACK.with(Flags::PSH),
            Flags::ACK.with(Flags::FIN),
            Flags::ACK.with(Flags::FIN).with(Flags::PSH),
            Flags::SYN,
            Flags::SYN.with(Flags::ACK),
            Flags::SYN.with(Flags::ACK),
            Flags::ACK.with(Flags::ECE),
            Flags::ACK.with(Flags::CWR),
            Flags::RST,
            Flags::RST.with(Flags::ACK),
        ]);
        let usual: Vec<Flags> = usual.collect();
        if self.rng.chance(0.05) {
            Flags(self.rng.next_u64() as u8)
        } else {
            usual[self.rng.below(usual.len() as u64) as usize]
        }
    }

    fn segment(&mut self) -> Vec<u8> {
        let known: Vec<(u16, u16)> = self.flows.keys().copied().collect();
        let fresh = known.is_empty() || self.rng.chance(0.1);
        let ports = if fresh {
            (LISTENED[self.rng.below(2) as usize], 1000 + self.rng.below(PEER_PORTS) as u16)
        } else {
            known[self.rng.below(known.len() as u64) as usize]
        };
        let heard = self.flows.get(&ports).copied().unwrap_or_default();
        let flags = if fresh { Flags::SYN } else { self.flags() };
        let len = [0, 0, 0, 1, 100, 536, 1000, 1460][self.rng.below(8) as usize].min(self.mss_max);
        let clock = match self.rng.below(10) {
            0 => self.rng.next_u64() as u32,
            1 => heard.clock.wrapping_sub(self.rng.below(100) as u32),
            _ => heard.clock.wrapping_add(self.rng.below(20) as u32),
        };
        let stamps = self.rng.chance(0.5).then_some(Timestamps { value: clock, echo: heard.stamp });
        let blocks = if self.rng.chance(0.3) { self.rng.below(4) } else { 0 };
        let sack = (0..blocks).map(|_| {
            let left = heard.nxt.wrapping_sub(self.rng.below(20_000) as u32);
            (self.near(left), self.near(left.wrapping_add(1000)))
        });
        let sack = sack.collect();
        let syn = flags.has(Flags::SYN);
        let options = TcpOptions {
            mss: (syn && self.rng.chance(0.8)).then(|| [0, 1, 536, 1460, 65535][self.rng.below(5) as usize]),
            window_scale: (syn && self.rng.chance(0.5)).then(|| self.rng.below(16) as u8),
            sack_permitted: syn && self.rng.chance(0.7),
            timestamps: stamps,
            sack: if syn { Default::default() } else { sack },
        };
        let ack = if self.rng.chance(0.6) { heard.nxt } else { heard.acked };
        let raw = Raw {
            ports: (ports.1, ports.0),
            ecn: [0, 0, 2, 3][self.rng.below(4) as usize],
            seq: self.near(heard.ack),
            ack: self.near(ack),
            flags,
            win: [0, 1, 100, 1000, 65535][self.rng.below(5) as usize],
            urgent: self.rng.next_u64() as u16,
            options,
            text: stream(0, len as u64),
        };
        if let Some(heard) = self.flows.get_mut(&ports) {
            (heard.clock, heard.acked) = (clock, raw.ack);
        }
        raw.to_frame()
    }

    fn frame(&mut self) -> Vec<u8> {
        let mut frame = match self.rng.below(30) {
            0 => udp_frame((1000, 80), self.rng.below(200) as u32),
            1 => {
                let known: Vec<((u16, u16), u32)> =
                    self.flows.iter().map(|(ports, heard)| (*ports, heard.nxt)).collect();
                let (ports, nxt) = known.get(self.rng.below(9) as usize).copied().unwrap_or(((80, 1000), 7));
                let word = self.near(nxt.wrapping_sub(1));
                let (code, mtu) = (self.rng.below(16) as u8, self.rng.next_u64() as u16);
                icmp_frame(3, code, mtu, Protocol::TCP, ports, word)
            }
            _ => self.segment(),
        };
        if self.rng.chance(0.02) {
            let at = self.rng.below(frame.len() as u64) as usize;
            frame[at] ^= 1 << self.rng.below(8);
        }
        if self.rng.chance(0.02) {
            frame.truncate(self.rng.below(frame.len() as u64) as usize);
        }
        frame
    }

    fn submit(&mut self, h: Handle, what: Op) {
        self.next_op += 1;
        let op = OpId(self.next_op);
        match self.net.submit(h, op, what) {
            Ok(Submitted::Done(result)) => {
                self.waiting.push((op, h));
                self.ended(op, result.ok());
            }
            Ok(Submitted::Pending) => self.waiting.push((op, h)),
            Err(_) => {}
        }
    }

    fn call(&mut self) {
        let Some(h) = self.queues.get(self.rng.below(self.queues.len().max(1) as u64) as usize).copied() else {
            return self.open();
        };
        match self.rng.below(20) {
            0 | 1 => self.open(),
            2..=5 => self.submit(h, Op::Accept),
            6 => {
                let port = 1000 + self.rng.below(PEER_PORTS) as u16;
                self.submit(h, Op::Connect(Endpoint::new(PEER_IP.into(), port)));
            }
            7..=10 => {
                let len = [1, 100, 3000, 100_000][self.rng.below(4) as usize];
                if let Ok(sga) = Sga::copy(&self.heap, &stream(0, len)) {
                    self.submit(h, Op::Push(sga));
                }
            }
            11..=14 => {
                let len_max = [1, 100, 100_000][self.rng.below(3) as usize];
                self.submit(h, Op::Pop { len_max });
            }
            15 => _ = self.net.finish(h),
            16 if self.rng.chance(0.5) => self.close(h),
            17 => {
                if let Some(&(op, h)) = self.waiting.get(self.rng.below(8) as usize) {
                    self.net.cancel(h, op);
                }
            }
            _ => {
                let option = match self.rng.below(5) {
                    0 => SocketOption::NoDelay(self.rng.chance(0.5)),
                    1 => SocketOption::KeepAlive(self.rng.chance(0.5).then_some(Duration::from_secs(5))),
                    2 => SocketOption::Linger(Duration::from_secs(self.rng.below(3))),
                    3 => SocketOption::SendBudget(1 << self.rng.below(20)),
                    _ => SocketOption::ReceiveBudget(2048 << self.rng.below(10)),
                };
                _ = self.net.set_option(h, option);
            }
        }
    }

    fn open(&mut self) {
        let kind = if self.rng.chance(0.9) { SocketKind::Stream } else { SocketKind::Datagram };
        let Ok(h) = self.net.open(kind) else { return };
        self.queues.push(h);
        let port = LISTENED[self.rng.below(2) as usize];
        if self.rng.chance(0.6) && self.net.bind(h, Endpoint::new(Ipv4Addr::UNSPECIFIED.into(), port)).is_ok() {
            _ = self.net.listen(h, 1 + self.rng.below(3) as u32);
        }
    }

    fn close(&mut self, h: Handle) {
        self.net.close(h);
        self.queues.retain(|other| *other != h);
    }

    fn step(&mut self) {
        match self.rng.below(10) {
            0..=5 => {
                for _ in 0..=self.rng.below(3) {
                    let frame = self.frame();
                    self.shared.borrow_mut().coming.push_back(frame);
                }
                self.pass(Duration::ZERO);
            }
            6 | 7 => self.call(),
            _ => {
                let time = [0, 1, 20, 50, 300, 1000, 10_000, 100_000][self.rng.below(8) as usize];
                self.pass(Duration::from_millis(time));
            }
        }
        self.net.check();
    }

    fn end(&mut self) {
        for h in std::mem::take(&mut self.queues) {
            self.net.close(h);
        }
        // A listener may have accepted for an accept that had waited: its end is told yet.
        for _ in 0..4 {
            self.pass(Duration::from_secs(600));
            for h in std::mem::take(&mut self.queues) {
                self.net.close(h);
            }
        }
        self.pass(Duration::from_secs(3600));
        assert_eq!(self.waiting, [], "these never ended");
        assert_eq!(self.net.zombies(), 0, "connections that never end");
        assert_eq!(self.heap.stats().pinned, 0, "memory that nobody holds");
    }
}

/// The same with memory for nothing, from time to time: somebody else has it all.
#[test]
fn without_memory_it_holds_as_well() {
    let mut dropped = 0;
    for seed in seeds() {
        println!("MARGAY_SEED={seed}"); // shown if it fails
        let mut house = Madhouse::with(seed, Some(1 << 20), |_| ());
        let mut taken = Vec::new();
        for _ in 0..400 {
            match house.rng.below(12) {
                0 => {
                    let len = [64, 2048, 16384][house.rng.below(3) as usize];
                    taken.extend(std::iter::from_fn(|| house.heap.alloc(len).ok()));
                }
                1 | 2 => taken.clear(),
                _ => house.step(),
            }
        }
        drop(taken);
        house.end();
        dropped += house.net.counters().tcp_no_memory;
    }
    assert!(seeds().count() < 50 || dropped > 0, "no text was ever dropped for want of memory");
}

fn seeds() -> std::ops::Range<u64> {
    let of = |name: &str| std::env::var(name).ok().and_then(|value| value.parse().ok());
    match (of("MARGAY_SEED"), of("MARGAY_SEEDS")) {
        (Some(seed), _) => seed..seed + 1,
        (None, Some(count)) => 0..count,
        (None, None) => 0..200,
    }
}

#[test]
fn whatever_a_peer_does_the_machine_holds() {
    let mut seen = [0u64; 6];
    for seed in seeds() {
        println!("MARGAY_SEED={seed}"); // shown if it fails
        let mut house = Madhouse::new(seed);
        (0..400).for_each(|_| house.step());
        house.end();
        let counters = house.net.counters();
        let of = [
            counters.tcp_segments_resent,
            counters.tcp_out_of_order,
            counters.tcp_challenges,
            counters.tcp_cookies_sent,
            counters.tcp_resets_received,
            counters.tcp_outside_window,
        ];
        seen.iter_mut().zip(of).for_each(|(sum, value)| *sum += value);
    }
    // It is no test of much if the peer is turned away at the door.
    assert!(seeds().count() < 50 || seen.iter().all(|count| *count > 0), "{seen:?}");
}

/// How much this process has in memory.
fn resident() -> Option<usize> {
    let statm = std::fs::read_to_string("/proc/self/statm").ok()?;
    Some(statm.split(' ').nth(1)?.parse::<usize>().ok()? * 4096)
}

/// A hundred thousand peers come, say something, and stay. What each costs is bounded, and time goes on at no cost for those
/// who are idle.
#[test]
fn a_hundred_thousand_connections_in_bounded_memory() {
    const COUNT: u32 = 100_000;
    let mut house = Madhouse::with(7, None, |tcp| (tcp.embryos_max, tcp.receive_budget) = (1000, 1 << 16));
    let mut accepted = Vec::new();
    for port in LISTENED {
        let h = house.net.open(SocketKind::Stream).unwrap();
        house.net.bind(h, Endpoint::new(Ipv4Addr::UNSPECIFIED.into(), port)).unwrap();
        house.net.listen(h, 16).unwrap();
        house.queues.push(h);
    }
    let before = resident();
    for i in 0..COUNT {
        let ports = (LISTENED[(i % 2) as usize], 1000 + (i / 2) as u16);
        let say = |house: &mut Madhouse, flags, seq, ack, text: &[u8]| {
            let (ports, text) = ((ports.1, ports.0), text.to_vec());
            let raw =
                Raw { ports, ecn: 0, seq, ack, flags, win: 1000, urgent: 0, options: TcpOptions::default(), text };
            house.shared.borrow_mut().coming.push_back(raw.to_frame());
            house.quick();
        };
        say(&mut house, Flags::SYN, 0, 0, b"");
        let ack = house.flows[&ports].nxt;
        say(&mut house, Flags::ACK, 1, ack, b"hello");
        let listener = house.queues[(i % 2) as usize];
        match house.net.submit(listener, OpId(0), Op::Accept) {
            Ok(Submitted::Done(Ok(Outcome::Accepted { queue, .. }))) => accepted.push(queue),
            other => panic!("connection {i}: {other:?}"),
        }
    }
    // A few kilobytes each, and of the heap the five bytes that wait, in the smallest chunk there is.
    if let (Some(before), Some(after)) = (before, resident()) {
        let each = after.saturating_sub(before) / COUNT as usize;
        assert!(each < 4096, "{each} bytes each");
    }
    let pinned = house.heap.stats().pinned / COUNT as usize;
    assert!(pinned <= 256, "{pinned} bytes pinned each");
    for h in accepted {
        house.net.close(h); // unread text: they are reset
    }
    house.quick();
    house.end();
}

#[test]
fn a_segment_to_everybody_is_dropped() {
    let mut house = Madhouse::new(1);
    let h = house.net.open(SocketKind::Stream).unwrap();
    house.net.bind(h, Endpoint::new(Ipv4Addr::UNSPECIFIED.into(), 80)).unwrap();
    house.net.listen(h, 16).unwrap();
    house.queues.push(h);
    let (options, text) = (TcpOptions::default(), Vec::new());
    let raw = Raw { ports: (1000, 80), ecn: 0, seq: 0, ack: 0, flags: Flags::SYN, win: 1, urgent: 0, options, text };
    let mut frame = raw.to_frame();
    frame[..6].fill(0xff);
    frame[33] = 255; // 192.0.2.255
    frame[24..26].fill(0);
    let sum = Checksum::new().add(&frame[14..34]).finish();
    frame[24..26].copy_from_slice(&sum.to_be_bytes());
    house.shared.borrow_mut().coming.push_back(frame);
    house.pass(Duration::from_secs(1));
    assert_eq!((house.net.counters().tcp_to_group, house.flows.len()), (1, 0));
    house.end();
}
