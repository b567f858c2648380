//! An interface of a host: its card, with rings between it and the cores.
//!
//! Always: the card reads frames in the order in which they were given, each at its time. A ring that is full takes no
//! more to transmit, and loses what is received. Memory for what is received is the receiving core's; when it has none,
//! the frame is lost.

use std::collections::VecDeque;
use std::ops::RangeInclusive;
use std::time::Duration;

use libos_mem::{Heap, Purpose};
use libos_net::wire::{ETHERNET_LEN, EthernetHeader, Mac};
use libos_net::{Frame, LineSettings, Link, Offloads, Received};
use pdpix::{Instant, Rng};
use zerocopy::FromBytes;

use super::{Plug, card};

/// The nature of a host's interface.
#[derive(Clone, Debug)]
pub struct Interface {
    /// Where its cable goes.
    pub plug: Plug,
    /// Its line to what it is plugged into.
    pub out: LineSettings,
    /// And the one back.
    pub back: LineSettings,
    /// The longest IP packet.
    pub mtu: usize,
    /// What the card does by itself. All of it is simulated.
    pub offloads: Offloads,
    /// Frames that may have arrived and not been received, of each core.
    pub receive_ring: usize,
    /// Frames that the card may not have read yet, of all cores.
    pub transmit_ring: usize,
    /// How long it takes until the card has read a frame: so long, its buffers are the card's.
    pub read: RangeInclusive<Duration>,
}

impl Interface {
    /// Ten gigabits a second, half a megabyte of queue, no faults; a card that gathers, and does nothing else.
    pub fn plugged(plug: Plug) -> Interface {
        let line = LineSettings {
            latency: Duration::from_micros(5)..=Duration::from_micros(20),
            bandwidth: Some(10_000_000_000),
            queue_bytes: 512 * 1024,
            ..LineSettings::default()
        };
        Interface {
            plug,
            out: line.clone(),
            back: line,
            mtu: 1500,
            offloads: Offloads { gathers: 16, ..Offloads::NONE },
            receive_ring: 1024,
            transmit_ring: 256,
            read: Duration::from_nanos(300)..=Duration::from_micros(3),
        }
    }
}

/// What an interface has done, in frames.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
#[allow(missing_docs, reason = "the names say it")]
pub struct PortCounters {
    pub rx_frames: u64,
    pub rx_bytes: u64,
    /// Dropped: no core is there; the ring was full; there was no memory; it was for somebody else (a switch that does not
    /// know better sends it everywhere); its sender is cut off from this host; longer than the interface takes.
    pub rx_down: u64,
    pub rx_overrun: u64,
    pub rx_no_memory: u64,
    pub rx_not_ours: u64,
    pub rx_cut: u64,
    pub rx_too_long: u64,
    pub tx_frames: u64,
    pub tx_bytes: u64,
    /// Frames that were swallowed, as the card is gone.
    pub tx_down: u64,
    /// How often the ring was full.
    pub tx_full: u64,
}

impl PortCounters {
    /// By the names of [`libos_net::Device::counters`].
    pub fn named(&self) -> [(&'static str, u64); 13] {
        let dropped = self.rx_down + self.rx_overrun + self.rx_no_memory + self.rx_cut + self.rx_too_long;
        [
            ("rx_frames", self.rx_frames),
            ("rx_bytes", self.rx_bytes),
            ("rx_dropped", dropped),
            ("rx_down", self.rx_down),
            ("rx_overrun", self.rx_overrun),
            ("rx_no_memory", self.rx_no_memory),
            ("rx_not_ours", self.rx_not_ours),
            ("rx_cut", self.rx_cut),
            ("rx_too_long", self.rx_too_long),
            ("tx_frames", self.tx_frames),
            ("tx_bytes", self.tx_bytes),
            ("tx_down", self.tx_down),
            ("tx_full", self.tx_full),
        ]
    }
}

/// What a core has of an interface.
pub(super) struct Queue {
    /// The core's number in the world.
    pub(super) core: usize,
    /// The memory of the core, while one runs.
    heap: Option<Heap>,
    pub(super) incarnation: u64,
    arrived: VecDeque<Received>,
    /// It has not been told yet that the card is gone.
    is_to_be_told: bool,
    pub(super) waits_for_room: bool,
}

pub(super) struct Port {
    pub(super) host: usize,
    mac: Mac,
    interface: Interface,
    /// The line out, and the one that ends here.
    pub(super) lines: Option<[usize; 2]>,
    pub(super) queues: Vec<Queue>,
    /// What the card has to read, and when it will have.
    unread: VecDeque<(Instant, Frame)>,
    is_gone: bool,
    pub(super) counters: PortCounters,
}

impl Port {
    pub(super) fn new(host: usize, mac: Mac, cores: &[usize], interface: Interface) -> Port {
        let queue = |&core| Queue {
            core,
            heap: None,
            incarnation: 0,
            arrived: VecDeque::new(),
            is_to_be_told: false,
            waits_for_room: false,
        };
        Port {
            host,
            mac,
            interface,
            lines: None,
            queues: cores.iter().map(queue).collect(),
            unread: VecDeque::new(),
            is_gone: false,
            counters: PortCounters::default(),
        }
    }

    pub(super) fn link(&self) -> Link {
        Link { mac: self.mac, mtu: self.interface.mtu, offloads: self.interface.offloads }
    }

    /// A core begins to use its queue. Gives the number of its incarnation.
    pub(super) fn start(&mut self, queue: usize, heap: Heap) -> u64 {
        self.is_gone = false;
        let queue = &mut self.queues[queue];
        queue.heap = Some(heap);
        queue.incarnation += 1;
        queue.incarnation
    }

    pub(super) fn is_running(&self, queue: usize, incarnation: u64) -> bool {
        self.queues[queue].heap.is_some() && self.queues[queue].incarnation == incarnation
    }

    /// The core does not use its queue any more. What it has transmitted is still sent.
    pub(super) fn stop(&mut self, queue: usize) {
        let queue = &mut self.queues[queue];
        queue.arrived.clear();
        (queue.heap, queue.is_to_be_told, queue.waits_for_room) = (None, false, false);
    }

    pub(super) fn crash(&mut self) {
        self.unread.clear();
        (0..self.queues.len()).for_each(|queue| self.stop(queue));
    }

    pub(super) fn unplug(&mut self) {
        self.is_gone = true;
        self.counters.tx_down += self.unread.len() as u64;
        self.unread.clear();
        self.queues.iter_mut().for_each(|queue| queue.is_to_be_told = queue.heap.is_some());
    }

    /// Whether this queue has to be told that the card is gone. Once.
    pub(super) fn take_news(&mut self, queue: usize) -> bool {
        std::mem::take(&mut self.queues[queue].is_to_be_told)
    }
}

// Transmitting.
impl Port {
    /// Takes as many frames as there is room for. Says when the card has read the first, if it had nothing to read before.
    ///
    /// # Panics
    /// If a frame needs what the card does not do: that is a mistake of whoever sends it.
    pub(super) fn transmit(
        &mut self,
        now: Instant,
        queue: usize,
        frames: &mut VecDeque<Frame>,
        rng: &mut Rng,
    ) -> Option<Instant> {
        if self.is_gone {
            self.counters.tx_down += frames.len() as u64;
            frames.clear();
            return None;
        }
        let was_idle = self.unread.is_empty();
        let room = self.interface.transmit_ring - self.unread.len();
        let (from, to) = (self.interface.read.start().as_nanos() as u64, self.interface.read.end().as_nanos() as u64);
        let mut read = self.unread.back().map_or(now, |last| last.0);
        for frame in frames.drain(..room.min(frames.len())) {
            self.check_frame(&frame);
            read = read.max(now + Duration::from_nanos(if from == to { from } else { rng.range(from..=to) }));
            self.unread.push_back((read, frame));
        }
        if !frames.is_empty() {
            self.counters.tx_full += 1;
            self.queues[queue].waits_for_room = true;
        }
        if was_idle { self.next_read() } else { None }
    }

    fn check_frame(&self, frame: &Frame) {
        let Offloads { checksums, segments, gathers, .. } = self.interface.offloads;
        let pieces = frame.pieces().count();
        assert!(pieces <= gathers, "a frame in {pieces} pieces, for a card that gathers {gathers}");
        assert!(frame.checksum.is_none() || checksums, "a frame without its checksum, for a card that fills in none");
        let segment = usize::from(frame.segment_size);
        let longest = if segment > 0 { segments } else { Some(self.interface.mtu + ETHERNET_LEN) };
        let longest = longest.expect("a segment to be cut up, for a card that cuts none");
        let len = if segment > 0 { frame.payload.len() } else { frame.len() };
        assert!(
            (ETHERNET_LEN..=longest).contains(&frame.len()) || segment > 0 && len <= longest,
            "a frame of {len} bytes"
        );
    }

    /// The next frame that the card has read by `now`.
    pub(super) fn take_read(&mut self, now: Instant) -> Option<Frame> {
        let (read, _) = self.unread.front()?;
        if *read > now {
            return None;
        }
        let (_, frame) = self.unread.pop_front()?;
        self.counters.tx_frames += 1;
        self.counters.tx_bytes += frame.len() as u64;
        Some(frame)
    }

    pub(super) fn next_read(&self) -> Option<Instant> {
        self.unread.front().map(|(read, _)| *read)
    }

    /// Frames that the card has not read.
    pub(super) fn unread(&self) -> usize {
        self.unread.len()
    }
}

// Receiving.
impl Port {
    /// Writes a frame into memory of the core that is to have it. Says which core that is, or why there was none.
    pub(super) fn deliver(&mut self, bytes: &[u8], is_cut: bool) -> Result<usize, &'static str> {
        let counters = &mut self.counters;
        let mut drop = |counter: fn(&mut PortCounters) -> &mut u64, why| {
            *counter(counters) += 1;
            Err(why)
        };
        let Ok((header, _)) = EthernetHeader::read_from_prefix(bytes) else {
            return drop(|counters| &mut counters.rx_not_ours, "no header");
        };
        if header.destination != self.mac && !header.destination.is_group() {
            return drop(|counters| &mut counters.rx_not_ours, "not ours");
        }
        if is_cut {
            return drop(|counters| &mut counters.rx_cut, "cut");
        }
        if bytes.len() > self.interface.mtu + ETHERNET_LEN {
            return drop(|counters| &mut counters.rx_too_long, "too long");
        }
        let queue = &mut self.queues[steer(bytes)];
        let Some(heap) = queue.heap.as_ref().filter(|_| !self.is_gone) else {
            return drop(|counters| &mut counters.rx_down, "down");
        };
        if queue.arrived.len() >= self.interface.receive_ring {
            return drop(|counters| &mut counters.rx_overrun, "overrun");
        }
        let Ok(mut buf) = heap.alloc_for(Purpose::Receive, bytes.len()) else {
            return drop(|counters| &mut counters.rx_no_memory, "no memory");
        };
        buf.put(bytes);
        let verified = self.interface.offloads.verifies && card::is_right(bytes);
        queue.arrived.push_back(Received { buf: buf.freeze(), verified });
        counters.rx_frames += 1;
        counters.rx_bytes += bytes.len() as u64;
        Ok(queue.core)
    }

    pub(super) fn receive(&mut self, queue: usize, into: &mut VecDeque<Received>, room: usize) {
        let arrived = &mut self.queues[queue].arrived;
        into.extend(arrived.drain(..room.min(arrived.len())));
    }

    pub(super) fn has_arrived(&self, queue: usize) -> bool {
        !self.queues[queue].arrived.is_empty() || self.queues[queue].is_to_be_told
    }

    pub(super) fn check(&self) {
        assert!(self.unread.len() <= self.interface.transmit_ring, "a ring has its bound");
        for queue in &self.queues {
            assert!(queue.arrived.len() <= self.interface.receive_ring, "a ring has its bound");
            assert!(queue.heap.is_some() || queue.arrived.is_empty(), "frames for nobody");
        }
    }
}

/// Which core's queue a frame goes to. A card that does not steer: the first one's.
fn steer(_: &[u8]) -> usize {
    0
}
