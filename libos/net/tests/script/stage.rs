//! Plays scripts: one stack, a peer that does as it is told, and virtual time.

mod calls;

use std::cell::RefCell;
use std::collections::{BTreeMap, VecDeque};
use std::fmt::Write as _;
use std::net::IpAddr;
use std::rc::Rc;
use std::time::Duration;

use libos_mem::Heap;
use libos_net::wire::{Flags, Mac, Protocol, TcpOptions, Timestamps};
use libos_net::{Cidr, CongestionKind, Cutting, Device, IpSettings, Link, NetNetwork, NetSettings, Offloads};
use pdpix::{Completions, Error, Handle, Instant, Network, OpId, Outcome, WakeOn};

use calls::default_end;

use super::ipv6::{OUR_IP6, PEER_IP6, Sent6, from_ipv6, to_ipv6};
use super::packet::{
    About, Echo, OUR_IP, OUR_MAC, Options, PEER_IP, Packet, Raw, Segment, Sent, icmp_frame, read, stream, stream_byte,
    udp_frame,
};
use super::parse::{Line, What};
use super::port::{Port, Shared, arp_reply};

pub const OUR_PORT: u16 = 8080;
pub const PEER_PORT: u16 = 40_000;
const TOLERANCE: Duration = Duration::from_millis(1);
/// The clock of the stack when scripts begin.
const START: Instant = Instant::from_nanos(1_000_000_000_000);
/// What an initial sequence number moves on by in 4 µs (RFC 6528 §3).
const ISN_TICK: Duration = Duration::from_micros(4);

type Result<T> = std::result::Result<T, String>;
type End = std::result::Result<Outcome<Handle>, Error>;

/// A connection, as the peer sees it.
#[derive(Clone, Copy, Default)]
struct Flow {
    our_port: u16,
    /// Our initial sequence number, once we have said.
    ours: Option<u32>,
    first_stamp: Option<u32>,
    last_stamp: u32,
}

struct Queue {
    handle: Handle,
    /// Bytes pushed, and popped.
    pushed: u64,
    popped: u64,
    /// Operations that wait, by the word for their end.
    waiting: VecDeque<(&'static str, OpId)>,
}

pub struct Stage {
    net: NetNetwork,
    heap: Heap,
    shared: Rc<RefCell<Shared>>,
    now: Instant,
    /// When the line before was due.
    base: Instant,
    start: Instant,
    peer_isn: u32,
    is_v6: bool,
    flows: BTreeMap<u16, Flow>,
    queues: BTreeMap<String, Queue>,
    ended: Vec<(OpId, End)>,
    next_op: u64,
    sent: VecDeque<(Instant, Sent)>,
    held: bool,
    log: String,
    /// Something that we sent is wrong in itself.
    wrong: Option<String>,
}

/// `on`, `off`.
fn switch(word: &str) -> bool {
    match word {
        "on" => true,
        "off" => false,
        other => panic!("{other} is neither on nor off"),
    }
}

fn seconds(word: &str) -> Duration {
    Duration::from_secs_f64(word.parse().unwrap_or_else(|_| panic!("{word} is no time")))
}

fn number<T: std::str::FromStr>(word: &str) -> T {
    word.parse().unwrap_or_else(|_| panic!("{word} is no number"))
}

impl Stage {
    /// A stack that was set up like this, whose neighbour is there. Its device may cut long segments up.
    pub fn new(settings: &[(String, String)], cuts_up: bool) -> Stage {
        let wanted = settings.iter().find(|(name, _)| name == "our_isn");
        let Some((_, isn)) = wanted else { return Stage::at(START, settings, cuts_up) };
        // Numbers are as good as random, but they go on with the clock: at the right time they are what is wanted.
        let mut probe = Stage::at(START, settings, cuts_up);
        let at_start = probe.isn_of_a_connection();
        let ticks = number::<u32>(isn).wrapping_sub(at_start);
        Stage::at(START + ISN_TICK * ticks, settings, cuts_up)
    }

    fn at(start: Instant, settings: &[(String, String)], cuts_up: bool) -> Stage {
        let heap = Heap::alone(64 << 20).unwrap();
        let shared = Rc::new(RefCell::new(Shared { sent: VecDeque::new(), coming: VecDeque::new() }));
        let mut net = NetSettings {
            ip: IpSettings { addresses: vec![Cidr::new(OUR_IP.into(), 24).unwrap()], ..IpSettings::default() },
            seed: 1,
            secret: [9; 16],
            adaptive_batching: false,
            ..NetSettings::default()
        };
        let (mut mtu, mut peer_isn, mut is_v6) = (1500, 0x1234_5678, false);
        for (name, value) in settings {
            let tcp = &mut net.tcp;
            match name.as_str() {
                "congestion" => {
                    tcp.congestion = match value.as_str() {
                        "new_reno" => CongestionKind::NewReno,
                        "cubic" => CongestionKind::Cubic,
                        "dctcp" => CongestionKind::Dctcp,
                        other => panic!("{other} is no congestion control"),
                    }
                }
                "pop_in_one_piece" => tcp.pop_in_one_piece = switch(value),
                "push_is_acknowledged" => tcp.push_is_acknowledged = switch(value),
                "sack" => tcp.sack = switch(value),
                "timestamps" => tcp.timestamps = switch(value),
                "window_scaling" => tcp.window_scaling = switch(value),
                "ecn" => tcp.ecn = switch(value),
                "receive_budget" => (tcp.receive_budget, tcp.receive_budget_max) = (number(value), number(value)),
                "rto_min" => tcp.rto_min = seconds(value),
                "syn_retries" => tcp.syn_retries = number(value),
                "retries" => tcp.retries = number(value),
                "embryos_max" => tcp.embryos_max = number(value),
                "time_waits_max" => tcp.time_waits_max = number(value),
                "mtu" => mtu = number(value),
                "ip" => is_v6 = value == "6",
                "peer_isn" => peer_isn = number(value),
                "our_isn" => {}
                other => panic!("there is no setting {other}"),
            }
        }
        if is_v6 {
            net.ip.addresses = vec![Cidr::new(OUR_IP6.into(), 64).unwrap()];
        }
        let link = Link { mac: Mac(OUR_MAC), mtu, offloads: Offloads { gathers: 16, ..Offloads::NONE } };
        let port = Port { shared: shared.clone(), heap: heap.clone(), link };
        let device: Box<dyn Device> = if cuts_up { Box::new(Cutting::new(port, heap.clone())) } else { Box::new(port) };
        let net = NetNetwork::new(device, heap.clone(), net);
        let mut stage = Stage {
            net,
            heap,
            shared,
            now: start - Duration::from_secs(60),
            base: start,
            start,
            peer_isn,
            is_v6,
            flows: BTreeMap::new(),
            queues: BTreeMap::new(),
            ended: Vec::new(),
            next_op: 0,
            sent: VecDeque::new(),
            held: false,
            log: String::new(),
            wrong: None,
        };
        // Whatever a host says when it appears.
        stage.run_to(start);
        stage
    }

    fn isn_of_a_connection(&mut self) -> u32 {
        self.call("listener", &["listen".into()]).unwrap();
        let segment = Segment {
            port: PEER_PORT,
            ecn: None,
            flags: Flags::SYN,
            seq: 0,
            len: 0,
            ack: None,
            win: None,
            urgent: None,
            options: None,
        };
        self.inject(&Packet::Tcp(segment));
        self.run_to(self.now);
        match self.sent.pop_front() {
            Some((_, Sent::Tcp(raw))) => raw.seq,
            other => panic!("no answer to a SYN: {other:?}"),
        }
    }

    pub fn frames_so_far(&self) -> &str {
        &self.log
    }

    fn note(&mut self, at: Instant, way: char, what: &str) {
        let time = at.since(self.start).as_secs_f64();
        _ = writeln!(self.log, "  {time:>12.6} {way} {what}");
    }
}

// Time.
impl Stage {
    /// One turn of the stack. True: something came of it.
    fn turn(&mut self) -> bool {
        let mut done = Completions::new();
        done.set_room(64);
        self.net.poll(self.now, &mut done);
        while let Some(end) = done.pop() {
            self.ended.push((end.op, end.result));
        }
        self.net.flush(self.now);
        self.net.check();
        let sent: Vec<_> = self.shared.borrow_mut().sent.drain(..).collect();
        let any = !sent.is_empty();
        sent.into_iter().for_each(|(at, frame)| self.take(at, &frame));
        any
    }

    /// A frame of ours.
    fn take(&mut self, at: Instant, frame: &[u8]) {
        let frame = match self.is_v6.then(|| from_ipv6(frame)) {
            None => frame.to_vec(),
            Some(Ok(Sent6::Packet(frame))) => frame,
            Some(Ok(Sent6::Solicitation(answer))) => return self.shared.borrow_mut().coming.push_back(answer),
            Some(Ok(Sent6::Other)) => return,
            Some(Err(complaint)) => {
                self.wrong.get_or_insert(complaint);
                return;
            }
        };
        let sent = match read(&frame) {
            Ok(sent) => sent,
            Err(complaint) => {
                self.wrong.get_or_insert(complaint);
                return;
            }
        };
        match &sent {
            Sent::Arp { request, target } => {
                if *request && *target == PEER_IP.octets() {
                    self.shared.borrow_mut().coming.push_back(arp_reply());
                }
                return;
            }
            Sent::Other => return,
            Sent::Tcp(raw) => {
                self.note_flow(raw);
                let relative = self.relative(raw);
                self.note(at, '>', &relative.to_string());
            }
            other => self.note(at, '>', &format!("{other:?}")),
        }
        self.sent.push_back((at, sent));
    }

    /// Lets everything happen that is due by `end`.
    fn run_to(&mut self, end: Instant) {
        self.run_until(end, |_| false);
    }

    fn run_until(&mut self, end: Instant, mut done: impl FnMut(&Stage) -> bool) {
        for turns in 0.. {
            assert!(turns < 1_000_000, "the stack is never done");
            let any = self.turn();
            if done(self) {
                return;
            }
            let wake = self.net.arm(self.now);
            if any || wake.on == WakeOn::Now {
                continue;
            }
            match wake.deadline {
                Some(at) if at <= end => self.now = self.now.max(at),
                _ => break,
            }
        }
        self.now = self.now.max(end);
    }
}

// Numbers.
impl Stage {
    fn flow(&self, port: u16) -> Flow {
        self.flows.get(&port).copied().unwrap_or(Flow { our_port: OUR_PORT, ..Flow::default() })
    }

    /// What a segment of ours says of its connection.
    fn note_flow(&mut self, raw: &Raw) {
        let mut flow = self.flow(raw.ports.1);
        flow.our_port = raw.ports.0;
        if raw.flags.has(Flags::SYN) {
            flow.ours = Some(raw.seq);
        }
        if let Some(stamps) = raw.options.timestamps {
            flow.first_stamp.get_or_insert(stamps.value);
            flow.last_stamp = stamps.value;
        }
        self.flows.insert(raw.ports.1, flow);
    }

    /// With numbers from the start of the connection.
    fn relative(&self, raw: &Raw) -> Raw {
        let flow = self.flow(raw.ports.1);
        let mut raw = raw.clone();
        // A reset for what nobody knows has the number zero.
        if !(raw.flags.has(Flags::RST) && raw.seq == 0) {
            raw.seq = raw.seq.wrapping_sub(flow.ours.unwrap_or(0));
        }
        if raw.flags.has(Flags::ACK) {
            raw.ack = raw.ack.wrapping_sub(self.peer_isn);
        }
        if let Some(stamps) = &mut raw.options.timestamps {
            stamps.value = stamps.value.wrapping_sub(flow.first_stamp.unwrap_or(0));
        }
        for (left, right) in &mut raw.options.sack {
            (*left, *right) = (left.wrapping_sub(self.peer_isn), right.wrapping_sub(self.peer_isn));
        }
        raw
    }

    fn absolute(&self, segment: &Segment) -> Raw {
        let flow = self.flow(segment.port);
        let ours = flow.ours.unwrap_or(0);
        let options = segment.options.clone().unwrap_or_default();
        let echo = |echo| match echo {
            Echo::Last => flow.last_stamp,
            Echo::Is(echo) => flow.first_stamp.map_or(echo, |first| first.wrapping_add(echo)),
            Echo::Any => panic!("the peer has to say which"),
        };
        let stamps = options.stamps.map(|(value, e)| Timestamps { value: value.expect("a value"), echo: echo(e) });
        let from = u64::from(if segment.flags.has(Flags::SYN) { segment.seq } else { segment.seq.wrapping_sub(1) });
        Raw {
            ports: (segment.port, flow.our_port),
            ecn: segment.ecn.unwrap_or(0),
            seq: self.peer_isn.wrapping_add(segment.seq),
            ack: segment.ack.map_or(0, |ack| ours.wrapping_add(ack)),
            flags: segment.flags,
            win: segment.win.unwrap_or(65_535),
            urgent: segment.urgent.unwrap_or(0),
            options: TcpOptions {
                mss: options.mss,
                window_scale: options.scale,
                sack_permitted: options.sack_permitted,
                timestamps: stamps,
                sack: options
                    .sack
                    .iter()
                    .map(|&(left, right)| (ours.wrapping_add(left), ours.wrapping_add(right)))
                    .collect(),
            },
            text: stream(from, segment.len.into()),
        }
    }
}

// Lines.
impl Stage {
    pub fn perform(&mut self, line: &Line) -> Result<()> {
        let from = self.base + line.after.0;
        let to = self.base + line.after.1.unwrap_or(line.after.0);
        match &line.what {
            What::Out(expected) => self.expect(expected, from, to)?,
            What::In(packet) => {
                self.come_to(from)?;
                self.inject(packet);
                if !self.held {
                    self.run_to(from);
                }
                self.base = from;
            }
            What::Call { queue, words, ends } => {
                self.come_to(from)?;
                // Calls come behind a poll, but for the one that may be the first thing of all.
                if words[0] != "connect" && !self.held {
                    self.turn();
                }
                let came = self.call(queue.as_deref().unwrap_or("q"), words)?;
                if !self.held {
                    self.run_to(from);
                }
                self.base = from;
                let default = default_end(&words[0]).to_string();
                let wanted = ends.as_ref().unwrap_or(&default);
                if came != *wanted {
                    return Err(format!("it ended with {came}, and {wanted} was expected"));
                }
            }
        }
        match self.wrong.take() {
            Some(wrong) => Err(wrong),
            None => Ok(()),
        }
    }

    /// Nothing may have been sent until then that no line expected.
    fn come_to(&mut self, at: Instant) -> Result<()> {
        if at > self.now {
            // What happens at that very time happens after the line.
            self.run_to(at - Duration::from_nanos(1));
            self.now = at;
        }
        match self.sent.front() {
            Some((at, sent)) => {
                let sent = self.describe(sent);
                Err(format!("no line expects what we sent at {:.6}: {sent}", at.since(self.start).as_secs_f64()))
            }
            None => Ok(()),
        }
    }

    pub fn finish(&mut self) -> Result<()> {
        self.come_to(self.now)
    }

    fn describe(&self, sent: &Sent) -> String {
        match sent {
            Sent::Tcp(raw) => self.relative(raw).to_string(),
            other => format!("{other:?}"),
        }
    }

    fn inject(&mut self, packet: &Packet) {
        let (frame, said) = match packet {
            Packet::Tcp(segment) => {
                let raw = self.absolute(segment);
                let mut relative = raw.clone();
                (relative.seq, relative.ack) = (segment.seq, segment.ack.unwrap_or(0));
                let ours = self.flow(segment.port).ours.unwrap_or(0);
                relative
                    .options
                    .sack
                    .iter_mut()
                    .for_each(|(l, r)| (*l, *r) = (l.wrapping_sub(ours), r.wrapping_sub(ours)));
                (raw.to_frame(), relative.to_string())
            }
            Packet::Udp { port, len } => (udp_frame((*port, OUR_PORT), *len), format!("udp ({len})")),
            Packet::Icmp { kind, code, mtu, about } => {
                let (protocol, ports, word) = match *about {
                    About::Tcp { port, seq } => {
                        let flow = self.flow(port);
                        (Protocol::TCP, (flow.our_port, port), flow.ours.unwrap_or(0).wrapping_add(seq))
                    }
                    About::Udp { port } => (Protocol::UDP, (OUR_PORT, port), 8 << 16),
                };
                (icmp_frame(*kind, *code, *mtu, protocol, ports, word), format!("icmp {kind} {code} mtu {mtu}"))
            }
        };
        self.note(self.now, '<', &said);
        let frame = if self.is_v6 { to_ipv6(&frame) } else { frame };
        self.shared.borrow_mut().coming.push_back(frame);
    }

    /// The peer's address.
    fn peer(&self) -> IpAddr {
        if self.is_v6 { PEER_IP6.into() } else { PEER_IP.into() }
    }

    fn expect(&mut self, expected: &Packet, from: Instant, to: Instant) -> Result<()> {
        if self.sent.is_empty() {
            self.run_until(to + TOLERANCE, |stage| !stage.sent.is_empty());
        }
        let Some((at, sent)) = self.sent.pop_front() else { return Err("we sent nothing".into()) };
        self.base = if from == to { from } else { at };
        let came = self.describe(&sent);
        let seconds = |at: Instant| at.since(self.start).as_secs_f64();
        self.compare(expected, &sent).map_err(|complaint| format!("{complaint}; came: {came}"))?;
        if at + TOLERANCE < from || at > to + TOLERANCE {
            return Err(format!("sent at {:.6}, and not at {:.6}: {came}", seconds(at), seconds(from)));
        }
        Ok(())
    }

    fn compare(&self, expected: &Packet, sent: &Sent) -> Result<()> {
        let same = |what: &str, wanted: &dyn std::fmt::Debug, is: &dyn std::fmt::Debug| {
            let (wanted, is) = (format!("{wanted:?}"), format!("{is:?}"));
            if wanted == is { Ok(()) } else { Err(format!("{what} is {is}, not {wanted}")) }
        };
        match (expected, sent) {
            (Packet::Tcp(wanted), Sent::Tcp(absolute)) => {
                let raw = self.relative(absolute);
                same("the port", &wanted.port, &raw.ports.1)?;
                same("the flags", &wanted.flags, &raw.flags)?;
                same("the first number", &wanted.seq, &raw.seq)?;
                same("the length", &wanted.len, &raw.text.len())?;
                same("the acknowledgement", &wanted.ack.unwrap_or(0), &raw.ack)?;
                same("the window", &wanted.win.unwrap_or(raw.win), &raw.win)?;
                same("the mark", &wanted.ecn.unwrap_or(raw.ecn), &raw.ecn)?;
                let from = u64::from(raw.seq.wrapping_sub(1));
                if raw.text.iter().zip(from..).any(|(byte, place)| *byte != stream_byte(place)) {
                    return Err("the text is another one".into());
                }
                match &wanted.options {
                    Some(options) => self.compare_options(options, &raw, absolute),
                    None => Ok(()),
                }
            }
            (Packet::Udp { port, len }, Sent::Udp { ports, text }) => {
                same("the port", port, &ports.1)?;
                same("the length", len, &text.len())
            }
            (Packet::Icmp { kind, code, .. }, Sent::Icmp { kind: is, code: other }) => {
                same("the error", &(kind, code), &(is, other))
            }
            _ => Err("another kind of packet".into()),
        }
    }

    fn compare_options(&self, wanted: &Options, raw: &Raw, absolute: &Raw) -> Result<()> {
        let is = &raw.options;
        let differ = |what: &str| Err(format!("the options differ: {what}"));
        if (wanted.mss.is_some() || !wanted.open) && wanted.mss != is.mss {
            return differ("mss");
        }
        if (wanted.scale.is_some() || !wanted.open) && wanted.scale != is.window_scale {
            return differ("wscale");
        }
        if (wanted.sack_permitted || !wanted.open) && wanted.sack_permitted != is.sack_permitted {
            return differ("sackOK");
        }
        let sack: Vec<(u32, u32)> = is.sack.to_vec();
        if (!wanted.sack.is_empty() || !wanted.open) && wanted.sack != sack {
            return differ("sack");
        }
        match (wanted.stamps, is.timestamps) {
            (None, None) => Ok(()),
            (None, Some(_)) if wanted.open => Ok(()),
            (Some((value, echo)), Some(stamps)) => {
                let echoed = absolute.options.timestamps.map(|stamps| stamps.echo);
                let is_right = match echo {
                    Echo::Is(echo) => echoed == Some(echo),
                    Echo::Any | Echo::Last => true,
                };
                if value.is_none_or(|value| value == stamps.value) && is_right { Ok(()) } else { differ("TS") }
            }
            _ => differ("TS"),
        }
    }
}
