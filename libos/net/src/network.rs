//! The stack over a device, as a `Network`.

use std::collections::VecDeque;

use pdpix::{
    Completions, Endpoint, Error, Handle, Heap, Instant, Network, Op, OpId, OptionName, SocketKind, SocketOption,
    Submitted, Wake, WakeOn,
};

use crate::Counters;
use crate::device::{Device, Received};
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
    down: bool,
}

impl NetNetwork {
    /// A stack over `device`, with memory from `heap`.
    pub fn new(device: Box<dyn Device>, heap: Heap, settings: NetSettings) -> NetNetwork {
        let NetSettings { ip, tcp, secret, seed, adaptive_batching } = settings;
        NetNetwork {
            stack: Stack::new(ip, tcp, device.link(), heap, secret, seed),
            device,
            received: VecDeque::new(),
            burst: if adaptive_batching { 1 } else { BURST_MAX },
            adaptive: adaptive_batching,
            down: false,
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
        let room = self.burst.min(done.room().max(1));
        if self.device.receive(now, &mut self.received, room).is_err() {
            self.down = true;
        }
        let count = self.received.len();
        while let Some(frame) = self.received.pop_front() {
            self.stack.receive(frame, done);
        }
        if self.adaptive {
            // A burst that was full says that there is a queue.
            self.burst = if count >= self.burst { (self.burst * 2).min(BURST_MAX) } else { (self.burst / 2).max(1) };
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
            }
        }
        self.stack.receive_looped(LOOPED_BURST, done);
    }

    #[inline]
    fn flush(&mut self, now: Instant) {
        self.stack.flush(now);
        if !self.stack.frames().is_empty() {
            self.device.transmit(now, self.stack.frames());
        }
        self.device.flush(now);
    }

    fn arm(&mut self, now: Instant) -> Wake {
        let deadline = self.stack.deadline().into_iter().chain(self.device.deadline()).min();
        let on = if self.stack.has_work() {
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
