//! The stack over a device, as a `Network`.

use std::collections::VecDeque;
use std::sync::Arc;

use pdpix::{
    Completions, Endpoint, Error, Handle, Heap, Instant, Network, Op, OpId, OptionName, Sga, SocketKind, SocketOption,
    Submitted, Wake, WakeOn,
};

use crate::Counters;
use crate::crossing::{Crossed, Crossing};
use crate::device::{Device, Frame, Received};
use crate::host::Host;
use crate::ip::IpSettings;
use crate::stack::Stack;
use crate::tcp::TcpSettings;

/// The most frames of a burst.
const BURST_MAX: usize = 64;
/// Packets to ourselves that one poll takes in.
const LOOPED_BURST: usize = 64;

/// How the stack of a core is set up.
#[derive(Clone, Debug)]
pub struct NetSettings {
    /// Addresses, routes, bounds.
    pub ip: IpSettings,
    /// TCP.
    pub tcp: TcpSettings,
    /// What initial sequence numbers, ports and cookies are made unpredictable with: from the system's randomness.
    pub secret: [u8; 16],
    /// All other chance.
    pub seed: u64,
    /// Bursts grow while there is a queue; else one frame at a time is taken (IX, OSDI'14, §4.2). Off: always a whole
    /// burst.
    pub adaptive_batching: bool,
}

impl Default for NetSettings {
    fn default() -> NetSettings {
        NetSettings {
            ip: IpSettings::default(),
            tcp: TcpSettings::default(),
            secret: [0; 16],
            seed: 0,
            adaptive_batching: true,
        }
    }
}

/// Our stack over a device.
pub struct NetNetwork {
    stack: Stack,
    device: Box<dyn Device>,
    received: VecDeque<Received>,
    burst: usize,
    adaptive: bool,
    /// The last burst was full.
    has_more: bool,
    down: bool,
    /// The link was lost, and may come back.
    has_lost_link: bool,
    /// The way to the other cores, if there are any.
    crossing: Option<Crossing>,
}

impl NetNetwork {
    /// A stack over `device`, with memory from `heap`, on a host of one core.
    pub fn new(device: Box<dyn Device>, heap: Heap, settings: NetSettings) -> NetNetwork {
        let host = Host::new(1, settings.secret, settings.seed);
        NetNetwork::over(device, heap, settings, (host, 0), None)
    }

    /// The same on a host of several cores, which share addresses and ports. Each has a stack of its own; frames are handed
    /// to the core that they belong to.
    pub fn sharing(device: Box<dyn Device>, heap: Heap, settings: NetSettings, crossing: Crossing) -> NetNetwork {
        let place = (crossing.host.clone(), crossing.core());
        NetNetwork::over(device, heap, settings, place, Some(crossing))
    }

    fn over(
        device: Box<dyn Device>,
        heap: Heap,
        settings: NetSettings,
        place: (Arc<Host>, usize),
        crossing: Option<Crossing>,
    ) -> NetNetwork {
        let adaptive = settings.adaptive_batching;
        NetNetwork {
            stack: Stack::new(settings, device.link(), heap, place),
            device,
            received: VecDeque::new(),
            burst: if adaptive { 1 } else { BURST_MAX },
            adaptive,
            has_more: false,
            down: false,
            has_lost_link: false,
            crossing,
        }
    }

    /// What was counted.
    pub fn counters(&self) -> Counters {
        self.stack.ip.counters
    }

    /// What the device counted.
    pub fn device_counters(&self) -> Vec<(&'static str, u64)> {
        self.device.counters()
    }

    /// What must hold between calls; for tests and the simulator.
    ///
    /// # Panics
    /// If it does not.
    pub fn check(&mut self) {
        self.stack.check();
    }

    #[inline]
    fn receive(&mut self, now: Instant, done: &mut Completions) {
        let mut count = 0;
        loop {
            // Most frames end nothing. So the room for ends says how many are taken at a time, not how many in all.
            let room = (self.burst - count).min(done.room().max(1));
            let taken = self.receive_some(now, room, done);
            count += taken;
            if taken < room || count == self.burst || done.room() == 0 {
                break;
            }
        }
        // A burst that was full says that there is a queue.
        self.has_more = count == self.burst && !self.down;
        if self.adaptive {
            self.burst = if self.has_more { (self.burst * 2).min(BURST_MAX) } else { (self.burst / 2).max(1) };
        }
    }

    /// Takes at most so many frames in, and says how many.
    #[inline]
    fn receive_some(&mut self, now: Instant, room: usize, done: &mut Completions) -> usize {
        match self.device.receive(now, &mut self.received, room) {
            Ok(()) => {}
            Err(Error::NetworkUnreachable) => self.has_lost_link = true,
            Err(_) => self.down = true,
        }
        let count = self.received.len();
        while let Some(frame) = self.received.pop_front() {
            match &mut self.crossing {
                None => self.stack.receive(frame, done),
                Some(crossing) => {
                    let what = Crossed::Received { verified: frame.verified, passes: 0 };
                    if let Some(frame) = crossing.steer(frame, what, &mut self.stack.ip.counters.crossing_lost) {
                        self.take_steered(frame, what, done);
                    }
                }
            }
        }
        count
    }
}

// Several cores.
impl NetNetwork {
    /// A frame that came to this core, perhaps after others. If it is about a connection that this one does not know, it goes
    /// on to the next, until it has been everywhere.
    fn take_steered(&mut self, frame: Received, what: Crossed, done: &mut Completions) {
        let is_looped = matches!(what, Crossed::Looped { .. });
        let Some((next, on)) = self.crossing.as_ref().and_then(|crossing| crossing.next(what)) else {
            return if is_looped { self.stack.receive_looped(frame, done) } else { self.stack.receive(frame, done) };
        };
        // What this core does know goes the short way.
        let frame = if is_looped { Err(frame) } else { self.stack.receive_predicted(frame, done) };
        let Err(frame) = frame else { return };
        let again = frame.buf.clone();
        if !self.stack.receive_or_pass(frame, is_looped, done)
            && let Some(crossing) = &mut self.crossing
        {
            let counters = &mut self.stack.ip.counters;
            counters.crossing_passed_on += 1;
            crossing.send(next, again, on, &mut counters.crossing_lost);
        }
    }

    /// What other cores have for this one.
    fn receive_crossed(&mut self, done: &mut Completions) {
        for _ in 0..BURST_MAX.min(done.room()) {
            let Some((buf, what)) = self.crossing.as_mut().and_then(Crossing::receive) else { return };
            match what {
                Crossed::Received { verified, .. } => self.take_steered(Received { buf, verified }, what, done),
                Crossed::Looped { .. } => self.take_steered(Received { buf, verified: true }, what, done),
                Crossed::ToSend if self.stack.ip.has_room() => self.stack.frames().push_back(Frame {
                    header: buf,
                    payload: Sga::new(),
                    checksum: None,
                    segment_size: 0,
                }),
                // A device that stands still does not fill this core's memory with what others send.
                Crossed::ToSend => self.stack.ip.counters.crossing_lost += 1,
            }
        }
    }

    /// Packets to ourselves: of this core, or of another one.
    fn receive_looped(&mut self, done: &mut Completions) {
        for _ in 0..LOOPED_BURST {
            let Some(frame) = self.stack.ip.take_looped() else { return };
            let what = Crossed::Looped { passes: 0 };
            match &mut self.crossing {
                None => self.stack.receive_looped(frame, done),
                Some(crossing) => {
                    if let Some(frame) = crossing.steer(frame, what, &mut self.stack.ip.counters.crossing_lost) {
                        self.take_steered(frame, what, done);
                    }
                }
            }
        }
    }

    /// Another core's device sends what this one has.
    fn send_through(&mut self, other: usize) {
        let Some(crossing) = &mut self.crossing else { return };
        while crossing.conduit.has_room(other)
            && let Some(frame) = self.stack.ip.outbound().pop_front()
        {
            // In one piece, as this core's device gathers nothing.
            crossing.send(other, frame.header, Crossed::ToSend, &mut self.stack.ip.counters.crossing_lost);
        }
    }
}

impl Network for NetNetwork {
    fn open(&mut self, kind: SocketKind) -> Result<Handle, Error> {
        if self.down {
            return Err(Error::NetworkDown);
        }
        self.stack.open(kind)
    }

    fn set_option(&mut self, h: Handle, option: SocketOption) -> Result<(), Error> {
        self.stack.set_option(h, option)
    }

    fn option(&self, h: Handle, name: OptionName) -> Result<SocketOption, Error> {
        self.stack.option(h, name)
    }

    fn bind(&mut self, h: Handle, at: Endpoint) -> Result<Endpoint, Error> {
        self.stack.bind(h, at)
    }

    fn listen(&mut self, h: Handle, backlog: u32) -> Result<(), Error> {
        self.stack.listen(h, backlog)
    }

    fn local(&self, h: Handle) -> Result<Endpoint, Error> {
        self.stack.local(h)
    }

    fn peer(&self, h: Handle) -> Result<Endpoint, Error> {
        self.stack.peer(h)
    }

    #[inline]
    fn submit(&mut self, h: Handle, op: OpId, what: Op) -> Result<Submitted, Error> {
        if self.down {
            return Ok(Submitted::Done(Err(Error::NetworkDown)));
        }
        self.stack.submit(h, op, what)
    }

    fn cancel(&mut self, h: Handle, op: OpId) {
        self.stack.cancel(h, op);
    }

    fn finish(&mut self, h: Handle) -> Result<(), Error> {
        self.stack.finish(h)
    }

    fn close(&mut self, h: Handle) {
        self.stack.close(h);
    }

    #[inline]
    fn poll(&mut self, now: Instant, done: &mut Completions) {
        self.stack.begin_poll(now, done);
        if !self.down {
            self.receive(now, done);
            if self.down {
                self.stack.fail(done);
            } else if std::mem::take(&mut self.has_lost_link) {
                self.stack.lose_link(done);
            }
        }
        if self.crossing.is_some() {
            self.receive_crossed(done);
        }
        if self.stack.ip.has_looped() {
            self.receive_looped(done);
        }
    }

    #[inline]
    fn flush(&mut self, now: Instant) {
        self.stack.flush(now);
        if let Some(other) = self.crossing.as_ref().and_then(|crossing| crossing.sends_through) {
            self.send_through(other);
        } else if !self.stack.frames().is_empty() {
            self.device.transmit(now, self.stack.frames());
        }
        self.device.flush(now);
        if let Some(crossing) = &mut self.crossing {
            crossing.conduit.flush();
        }
    }

    fn arm(&mut self, now: Instant) -> Wake {
        let deadline = self.stack.deadline().into_iter().chain(self.device.deadline()).min();
        let has_arrived = self.crossing.as_ref().is_some_and(|crossing| crossing.conduit.has_arrived());
        let on = if self.stack.has_work() || has_arrived || self.has_more {
            WakeOn::Now
        } else {
            match self.device.arm(now) {
                // Whoever frees memory does not tell us, and a device with a full ring may not either.
                _ if self.stack.is_blocked() || !self.stack.frames().is_empty() => WakeOn::Nap,
                on => on,
            }
        };
        Wake { deadline, on }
    }

    fn zombies(&self) -> usize {
        self.stack.zombies()
    }
}

impl Drop for NetNetwork {
    /// The core's process ends: whoever is connected is told, as far as the device takes it.
    fn drop(&mut self) {
        if self.down {
            return;
        }
        self.stack.abort_all();
        self.flush(self.stack.now());
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wrap::fake::Fake;

    #[test]
    fn frames_that_end_nothing_are_taken_by_the_burst_whatever_room_there_is_for_ends() {
        let mut device = Fake::new();
        (0..1000).for_each(|_| device.arrive(&[0xff; 60]));
        let heap = device.heap.clone();
        let mut net = NetNetwork::new(Box::new(device), heap.clone(), NetSettings::default());
        let before = heap.stats().pinned;
        let mut polls = 0;
        loop {
            let mut done = Completions::new();
            done.set_room(1);
            net.poll(Instant::ZERO, &mut done);
            net.flush(Instant::ZERO);
            polls += 1;
            if net.arm(Instant::ZERO).on != WakeOn::Now {
                break;
            }
        }
        assert!((1000 / BURST_MAX..40).contains(&polls), "{polls} polls");
        assert!(before > 0 && heap.stats().pinned == 0, "all of them");
    }
}
