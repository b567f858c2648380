//! The network of frames: interfaces of hosts, switches, and the lines between them.
//!
//! A frame that a [`SimDevice`] takes lies in the card's ring, with its buffers, until the card has read it (a seeded time);
//! then its bytes travel over [`Line`]s and through switches, and are written into memory of the receiving core's heap
//! when they arrive. So buffers never cross from host to host, and a sender's buffers are held exactly as long as a
//! card would.
//!
//! Always: events happen in the order of their times; every choice is drawn from one generator, so what happens is a
//! function of the seed and of what the cores transmit. Every frame is delivered, or on its way, or dropped under a name.
//! The trees of switches have no loops. Bounds: rings, and what lines hold. The cost of a frame is a few entries of one
//! binary heap; its bytes are copied twice, into memory that is used again.

mod card;
mod device;
mod port;
mod switch;

use std::cell::RefCell;
use std::cmp::Reverse;
use std::collections::{BTreeSet, BinaryHeap};
use std::rc::Rc;

use libos_net::wire::{EthernetHeader, Mac};
use libos_net::{Carried, Frame, Line, LineCounters, LineSettings};
use pdpix::{Instant, Rng};
use zerocopy::FromBytes;

use crate::trace::WorldTrace;
pub use device::SimDevice;
use port::Port;
pub use port::{Interface, PortCounters};
use switch::Switch;

/// Names a switch of a world.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub struct SwitchId(usize);

/// Names a line of a world: one direction between an interface or a switch and another one.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub struct LineId(usize);

/// Where the other end of an interface's cable is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Plug {
    /// Nowhere yet.
    Open,
    /// In a switch.
    Switch(SwitchId),
}

/// Bytes on their way.
pub(crate) struct Packet {
    bytes: Vec<u8>,
    /// The host that they come from.
    from: usize,
}

impl Carried for Packet {
    fn frame_len(&self) -> usize {
        self.bytes.len()
    }

    fn head(&self) -> &[u8] {
        &self.bytes
    }

    fn twin(&self) -> Option<Packet> {
        Some(Packet { bytes: self.bytes.clone(), ..*self })
    }

    fn changed(mut self, change: impl FnOnce(&mut [u8])) -> Option<Packet> {
        change(&mut self.bytes);
        Some(self)
    }

    fn cut(mut self, len: usize) -> Option<Packet> {
        self.bytes.truncate(len);
        Some(self)
    }
}

/// Where a line ends.
#[derive(Clone, Copy, Debug)]
enum Place {
    Port(usize),
    /// A switch, and which of its sockets.
    Switch(usize, usize),
}

struct Laid {
    line: Line<Packet>,
    to: Place,
    /// The earliest event that is scheduled for it.
    scheduled: Instant,
}

/// Something that will happen.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
enum Event {
    /// The card of this port has read a frame.
    Read(usize),
    /// A frame comes out of this line.
    Arrival(usize),
}

/// Memory of packets that is kept to be used again.
const SPARE_MAX: usize = 4096;

pub(crate) struct FrameNet {
    now: Instant,
    trace: Rc<RefCell<WorldTrace>>,
    rng: Rng,
    events: BinaryHeap<Reverse<(Instant, Event)>>,
    lines: Vec<Laid>,
    ports: Vec<Port>,
    switches: Vec<Switch>,
    /// Nothing comes from the first host to the second.
    cut: BTreeSet<(usize, usize)>,
    /// Cores (by their number in the world) that have something to receive, or room to transmit again.
    pub(crate) woken: Vec<usize>,
    spare: Vec<Vec<u8>>,
}

// Laying it out.
impl FrameNet {
    pub(crate) fn new(rng: Rng, trace: Rc<RefCell<WorldTrace>>) -> FrameNet {
        FrameNet {
            now: Instant::ZERO,
            trace,
            rng,
            events: BinaryHeap::new(),
            lines: Vec::new(),
            ports: Vec::new(),
            switches: Vec::new(),
            cut: BTreeSet::new(),
            woken: Vec::new(),
            spare: Vec::new(),
        }
    }

    pub(crate) fn add_switch(&mut self) -> SwitchId {
        self.switches.push(Switch::new(self.rng.next_u64()));
        SwitchId(self.switches.len() - 1)
    }

    /// An interface of a host, whose cores have these numbers.
    pub(crate) fn add_port(&mut self, host: usize, mac: Mac, cores: &[usize], interface: Interface) -> usize {
        let (plug, [out, back]) = (interface.plug, [interface.out.clone(), interface.back.clone()]);
        self.ports.push(Port::new(host, mac, cores, interface));
        let port = self.ports.len() - 1;
        if let Plug::Switch(SwitchId(switch)) = plug {
            let socket = self.switches[switch].add_socket();
            let out = self.lay(out, Place::Switch(switch, socket));
            let back = self.lay(back, Place::Port(port));
            self.switches[switch].plug(socket, back);
            self.ports[port].lines = Some([out, back]);
        }
        port
    }

    fn lay(&mut self, settings: LineSettings, to: Place) -> usize {
        let line = Line::new(settings, self.rng.fork());
        self.lines.push(Laid { line, to, scheduled: Instant::NEVER });
        self.lines.len() - 1
    }

    /// A cable between two interfaces that are open, of two lines: from the first to the second, and back.
    ///
    /// # Panics
    /// If one of them is plugged in already.
    pub(crate) fn join_ports(&mut self, a: usize, b: usize, settings: [LineSettings; 2]) {
        assert!(a != b && [a, b].iter().all(|&port| self.ports[port].lines.is_none()), "an interface has one cable");
        let [there, back] = settings;
        let (there, back) = (self.lay(there, Place::Port(b)), self.lay(back, Place::Port(a)));
        self.ports[a].lines = Some([there, back]);
        self.ports[b].lines = Some([back, there]);
    }

    /// A cable between two switches.
    ///
    /// # Panics
    /// If there is a way between them already: frames would go round for ever.
    pub(crate) fn join_switches(&mut self, a: SwitchId, b: SwitchId, settings: [LineSettings; 2]) {
        assert!(!self.is_way(a.0, b.0), "a loop of switches");
        let [there, back] = settings;
        let sockets = [a, b].map(|switch| self.switches[switch.0].add_socket());
        let there = self.lay(there, Place::Switch(b.0, sockets[1]));
        let back = self.lay(back, Place::Switch(a.0, sockets[0]));
        self.switches[a.0].plug(sockets[0], there);
        self.switches[b.0].plug(sockets[1], back);
    }

    fn is_way(&self, from: usize, to: usize) -> bool {
        let (mut reached, mut next) = (vec![from], 0);
        while let Some(&switch) = reached.get(next) {
            next += 1;
            for line in self.switches[switch].lines() {
                if let Place::Switch(other, _) = self.lines[line].to
                    && !reached.contains(&other)
                {
                    reached.push(other);
                }
            }
        }
        reached.contains(&to)
    }
}

// Time.
impl FrameNet {
    fn schedule(&mut self, at: Instant, event: Event) {
        self.events.push(Reverse((at, event)));
    }

    /// When the next thing happens.
    pub(crate) fn next_event(&self) -> Option<Instant> {
        self.events.peek().map(|Reverse((at, _))| *at)
    }

    /// Does everything that is due, in the order of its times.
    pub(crate) fn run_events(&mut self, now: Instant) {
        while let Some(&Reverse((at, event))) = self.events.peek()
            && at <= now
        {
            self.events.pop();
            self.now = at;
            match event {
                Event::Read(port) => self.on_read(port),
                Event::Arrival(line) => self.on_arrival(line),
            }
        }
        self.now = now;
    }

    /// A card has read frames out of its host's memory: the host has its buffers back.
    fn on_read(&mut self, port: usize) {
        while let Some(frame) = self.ports[port].take_read(self.now) {
            self.put_on_line(port, frame);
        }
        if let Some(next) = self.ports[port].next_read() {
            self.schedule(next, Event::Read(port));
        }
        for queue in &mut self.ports[port].queues {
            if std::mem::take(&mut queue.waits_for_room) {
                self.woken.push(queue.core);
            }
        }
    }

    fn put_on_line(&mut self, port: usize, frame: Frame) {
        let this = &self.ports[port];
        let (host, lines) = (this.host, this.lines);
        let mut bytes = self.spare.pop().unwrap_or_default();
        bytes.clear();
        frame.pieces().for_each(|piece| bytes.extend_from_slice(piece));
        let Some([out, _]) = lines else { return self.spare.push(bytes) };
        if frame.segment_size > 0 {
            for bytes in card::segments(&bytes, usize::from(frame.segment_size)) {
                self.lines[out].line.push(self.now, Packet { bytes, from: host });
            }
        } else {
            frame.checksum.into_iter().for_each(|at| card::fill_checksum(&mut bytes, at));
            self.lines[out].line.push(self.now, Packet { bytes, from: host });
        }
        self.expect(out);
    }

    /// Sees to it that a line is looked at when its next frame comes out.
    fn expect(&mut self, line: usize) {
        let laid = &mut self.lines[line];
        if let Some(due) = laid.line.deadline()
            && due < laid.scheduled
        {
            laid.scheduled = due;
            self.schedule(due, Event::Arrival(line));
        }
    }

    fn on_arrival(&mut self, line: usize) {
        let laid = &mut self.lines[line];
        if laid.scheduled <= self.now {
            laid.scheduled = Instant::NEVER;
        }
        let to = laid.to;
        while let Some(packet) = self.lines[line].line.pop(self.now) {
            match to {
                Place::Port(port) => self.deliver(port, packet),
                Place::Switch(switch, socket) => self.forward(switch, socket, packet),
            }
        }
        self.expect(line);
    }

    /// A switch passes a frame on: to where its destination was last heard of, else everywhere.
    fn forward(&mut self, switch: usize, socket: usize, packet: Packet) {
        let Ok((header, _)) = EthernetHeader::read_from_prefix(&packet.bytes) else {
            return self.recycle(packet); // cut off in its header
        };
        let this = &mut self.switches[switch];
        this.learn(header.source, socket);
        match this.line_to(header.destination) {
            Some(known) if known == socket => self.recycle(packet),
            Some(known) => self.push(self.switches[switch].line_of(known), packet),
            None => {
                let others: Vec<usize> = self.switches[switch].lines_but(socket).collect();
                for line in others {
                    self.push(line, Packet { bytes: packet.bytes.clone(), ..packet });
                }
                self.recycle(packet);
            }
        }
    }

    fn push(&mut self, line: usize, packet: Packet) {
        self.lines[line].line.push(self.now, packet);
        self.expect(line);
    }

    /// A card writes a frame into the memory of its host.
    fn deliver(&mut self, port: usize, packet: Packet) {
        let this = &mut self.ports[port];
        let is_cut = !self.cut.is_empty() && self.cut.contains(&(packet.from, this.host));
        let told = this.deliver(&packet.bytes, is_cut);
        let (core, what) = match told {
            Ok(core) => {
                self.woken.push(core);
                (core, "frame")
            }
            Err(dropped) => (usize::MAX, dropped),
        };
        let print = fingerprint(&packet.bytes);
        self.trace.borrow_mut().note(self.now, core, what, packet.bytes.len() as u64, print);
        self.recycle(packet);
    }

    fn recycle(&mut self, packet: Packet) {
        if self.spare.len() < SPARE_MAX {
            self.spare.push(packet.bytes);
        }
    }
}

/// The headers of a frame as a number.
fn fingerprint(bytes: &[u8]) -> u64 {
    let words = bytes[..bytes.len().min(80)].chunks_exact(8);
    words.fold(bytes.len() as u64, |print, word| {
        let word = u64::from_le_bytes([word[0], word[1], word[2], word[3], word[4], word[5], word[6], word[7]]);
        (print ^ word).wrapping_mul(0x9e37_79b9_7f4a_7c15).rotate_left(29)
    })
}

// What befalls it.
impl FrameNet {
    /// What host `from` sends does not reach `to` any more, or does again.
    pub(crate) fn set_cut(&mut self, from: usize, to: usize, is_cut: bool) {
        if is_cut {
            self.cut.insert((from, to));
        } else {
            self.cut.remove(&(from, to));
        }
    }

    /// All lines.
    pub(crate) fn lines(&self) -> impl Iterator<Item = LineId> + use<> {
        (0..self.lines.len()).map(LineId)
    }

    /// The line that a port sends on, and the one that it receives from.
    pub(crate) fn lines_of(&self, port: usize) -> Option<[LineId; 2]> {
        self.ports[port].lines.map(|lines| lines.map(LineId))
    }

    /// The line from one switch straight to another one.
    pub(crate) fn line_between(&self, from: SwitchId, to: SwitchId) -> Option<LineId> {
        let ends_there = |line: &usize| matches!(self.lines[*line].to, Place::Switch(switch, _) if switch == to.0);
        self.switches[from.0].lines().find(ends_there).map(LineId)
    }

    pub(crate) fn line(&self, id: LineId) -> &LineSettings {
        self.lines[id.0].line.settings()
    }

    pub(crate) fn set_line(&mut self, id: LineId, settings: LineSettings) {
        self.trace.borrow_mut().note(self.now, usize::MAX, "line", id.0 as u64, u64::from(settings.down));
        self.lines[id.0].line.set(settings);
    }

    /// Lines without faults, and nobody cut off.
    pub(crate) fn heal(&mut self) {
        self.cut.clear();
        for id in self.lines() {
            let healed = self.line(id).healed();
            self.set_line(id, healed);
        }
    }

    pub(crate) fn line_counters(&self, id: LineId) -> LineCounters {
        self.lines[id.0].line.counters()
    }

    pub(crate) fn port_counters(&self, port: usize) -> PortCounters {
        self.ports[port].counters
    }

    /// A host has crashed: what its card had not read is lost, and its memory is gone.
    pub(crate) fn crash(&mut self, port: usize) {
        self.ports[port].crash();
    }

    /// A card is pulled out: its host is told once.
    pub(crate) fn unplug(&mut self, port: usize) {
        self.ports[port].unplug();
        self.woken.extend(self.ports[port].queues.iter().map(|queue| queue.core));
    }

    /// The end of everything: no buffer is held any more.
    pub(crate) fn clear(&mut self) {
        self.ports.iter_mut().for_each(Port::crash);
        self.events.clear();
    }

    /// What must hold between any two events.
    pub(crate) fn check(&self) {
        self.ports.iter().for_each(Port::check);
        for laid in &self.lines {
            let due = laid.line.deadline().unwrap_or(Instant::NEVER);
            assert!(laid.scheduled <= due, "a line with a frame that nobody will look for");
        }
    }
}
