//! Our host: the stack over a device, stepped by the test's thread while it waits.

use std::collections::VecDeque;
use std::io::BufWriter;
use std::time::Duration;

use libos_mem::Heap;
use libos_net::{Counters, Device, NetNetwork, NetSettings, Pcap};
use pdpix::{
    Completions, Done, Endpoint, Error, Handle, Network, Op, OpId, Outcome, Popped, Sga, SocketKind, Submitted,
    WallTime,
};

use super::wire::sleep;
use crate::link::now;

/// How long anything may take, if nothing else is said.
pub const LIMIT: Duration = Duration::from_secs(40);

/// The stack, and what it has answered.
pub struct Host {
    pub net: NetNetwork,
    pub heap: Heap,
    done: VecDeque<Done>,
    next_op: u64,
    turns: u64,
}

impl Host {
    /// With MARGAY_TEST_PCAP, the name of a folder, every frame is written to a file there.
    pub fn new(test: &str, device: Box<dyn Device>, heap: Heap, settings: NetSettings) -> Host {
        let device: Box<dyn Device> = match std::env::var("MARGAY_TEST_PCAP") {
            Ok(folder) => {
                let file = format!("{folder}/{}-{}.pcapng", test.replace(':', "_"), settings.seed);
                let file = std::fs::File::create(&file).unwrap_or_else(|error| panic!("{file}: {error}"));
                Box::new(Pcap::new(device, BufWriter::new(file), 128, WallTime::from_nanos(0)))
            }
            Err(_) => device,
        };
        let net = NetNetwork::new(device, heap.clone(), settings);
        Host { net, heap, done: VecDeque::new(), next_op: 1, turns: 0 }
    }

    /// Once around. Says whether something ended.
    pub fn step(&mut self) -> bool {
        let mut done = Completions::new();
        done.set_room(64);
        self.net.poll(now(), &mut done);
        let ended = !done.is_empty();
        while let Some(end) = done.pop() {
            self.done.push_back(end);
        }
        self.net.flush(now());
        self.turns += 1;
        if self.turns.is_multiple_of(64) {
            self.net.check();
        }
        ended
    }

    /// Lives until `until` gives something, or the time is over.
    pub fn run<T>(&mut self, limit: Duration, mut until: impl FnMut(&mut Host) -> Option<T>) -> Option<T> {
        let end = now() + limit;
        loop {
            let busy = self.step();
            if let Some(it) = until(self) {
                self.net.flush(now());
                return Some(it);
            }
            if now() > end {
                return None;
            }
            if busy {
                continue;
            }
            self.net.flush(now());
            let wake = self.net.arm(now());
            if !self.step() {
                sleep(&[wake.on], wake.deadline);
            }
        }
    }

    /// As [`Host::run`], and it is an error if the time is over.
    pub fn until<T>(&mut self, what: &str, until: impl FnMut(&mut Host) -> Option<T>) -> T {
        let it = self.run(LIMIT, until);
        it.unwrap_or_else(|| panic!("{what} did not happen within {LIMIT:?}: {:?}", self.busy_counters()))
    }

    /// Lives for a while.
    pub fn live(&mut self, time: Duration) {
        self.run(time, |_| None::<()>);
    }

    pub fn counters(&self) -> Counters {
        self.net.counters()
    }

    /// Those that are not zero.
    pub fn busy_counters(&self) -> Vec<(&'static str, u64)> {
        let device = self.net.device_counters();
        self.counters().iter().chain(device).filter(|(_, value)| *value > 0).collect()
    }

    pub fn begin(&mut self, h: Handle, what: Op) -> Result<OpId, Error> {
        self.next_op += 1;
        let op = OpId(self.next_op);
        if let Submitted::Done(result) = self.net.submit(h, op, what)? {
            self.done.push_back(Done { op, result });
        }
        Ok(op)
    }

    /// What came of an operation, if it is over.
    pub fn take(&mut self, op: OpId) -> Option<Result<Outcome<Handle>, Error>> {
        let place = self.done.iter().position(|done| done.op == op)?;
        self.done.remove(place).map(|done| done.result)
    }

    pub fn wait(&mut self, op: OpId) -> Result<Outcome<Handle>, Error> {
        self.until("an operation's end", |host| host.take(op))
    }

    pub fn socket(&mut self, kind: SocketKind) -> Handle {
        self.net.open(kind).unwrap()
    }

    pub fn connect(&mut self, to: Endpoint) -> Result<Handle, Error> {
        let h = self.socket(SocketKind::Stream);
        let op = self.begin(h, Op::Connect(to))?;
        match self.wait(op) {
            Ok(_) => Ok(h),
            Err(error) => {
                self.net.close(h);
                Err(error)
            }
        }
    }

    /// A listener, and where it is.
    pub fn listen(&mut self, at: Endpoint) -> (Handle, Endpoint) {
        let h = self.socket(SocketKind::Stream);
        let at = self.net.bind(h, at).unwrap();
        self.net.listen(h, 128).unwrap();
        (h, at)
    }

    pub fn accept(&mut self, listener: Handle) -> Handle {
        let op = self.begin(listener, Op::Accept).unwrap();
        match self.wait(op) {
            Ok(Outcome::Accepted { queue, .. }) => queue,
            other => panic!("an accept gave {other:?}"),
        }
    }

    pub fn push(&mut self, h: Handle, bytes: &[u8]) -> Result<(), Error> {
        let sga = Sga::copy(&self.heap, bytes).unwrap();
        let op = self.begin(h, Op::Push(sga))?;
        self.wait(op).map(|_| ())
    }

    pub fn push_to(&mut self, h: Handle, bytes: &[u8], to: Endpoint) -> Result<(), Error> {
        let sga = Sga::copy(&self.heap, bytes).unwrap();
        let op = self.begin(h, Op::PushTo(sga, to))?;
        self.wait(op).map(|_| ())
    }

    pub fn pop(&mut self, h: Handle) -> Result<Popped, Error> {
        let op = self.begin(h, Op::Pop { len_max: 1 << 20 })?;
        match self.wait(op)? {
            Outcome::Popped(popped) => Ok(popped),
            other => panic!("a pop gave {other:?}"),
        }
    }

    /// Pops until there are so many bytes, or the stream ends.
    pub fn pop_all(&mut self, h: Handle, len: usize) -> Result<Vec<u8>, Error> {
        let mut all = Vec::new();
        while all.len() < len {
            let bytes = self.pop(h)?.sga.to_vec();
            if bytes.is_empty() {
                break;
            }
            all.extend(bytes);
        }
        Ok(all)
    }

    /// Everything was closed: it ends, and nothing is held.
    pub fn end(mut self) {
        let ended = self.run(LIMIT, |host| (host.net.zombies() == 0).then_some(()));
        assert!(ended.is_some(), "{} queues live on after their close", self.net.zombies());
        let Host { net, heap, done, .. } = self;
        drop((net, done));
        heap.reclaim();
        assert_eq!(heap.stats().pinned, 0, "bytes pinned by nobody");
    }
}
