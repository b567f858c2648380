//! A store that a test drives by hand: no runtime, no time but what the test says.

#![allow(dead_code, reason = "each test file uses a part")]

use std::collections::BTreeMap;
use std::time::Duration;

use libos_journal::memory::{Contents, MemoryDevice};
use libos_journal::{Format, Settings, Store};
use libos_mem::Heap;
use pdpix::{
    BlockDevice, Completions, Error, Handle, Instant, LogOp, OpId, OpenMode, Outcome, Sga, Storage, Submitted, Wake,
};

pub type Result<T> = std::result::Result<T, Error>;

pub struct Rig {
    pub store: Store,
    pub heap: Heap,
    pub now: Instant,
    next_op: u64,
    ended: BTreeMap<u64, Result<Outcome<Handle>>>,
}

/// Settings of a store in a small device.
pub fn small() -> Settings {
    Settings { format: Some(Format::new(0x5eed)), read_ahead: 32 << 10, ..Settings::default() }
}

pub fn heap() -> Heap {
    Heap::alone(64 << 20).unwrap()
}

impl Rig {
    pub fn over(device: Box<dyn BlockDevice>, settings: Settings) -> Rig {
        let heap = heap();
        let store = Store::new(device, heap.clone(), settings);
        Rig { store, heap, now: Instant::from_nanos(1), next_op: 1, ended: BTreeMap::new() }
    }

    pub fn new(contents: &Contents, settings: Settings) -> Rig {
        Rig::over(Box::new(MemoryDevice::new(contents.clone())), settings)
    }

    /// One pass.
    pub fn turn(&mut self) {
        let mut done = Completions::new();
        done.set_room(64);
        self.store.poll(self.now, &mut done);
        while let Some(done) = done.pop() {
            assert!(self.ended.insert(done.op.0, done.result).is_none(), "{:?} ended twice", done.op);
        }
        self.store.flush(self.now);
        self.store.check();
    }

    /// Until nothing is under way.
    pub fn settle(&mut self) {
        (0..200).for_each(|_| self.turn());
    }

    pub fn arm(&mut self) -> Wake {
        self.store.arm(self.now)
    }

    pub fn pass(&mut self, time: Duration) {
        self.now += time;
        self.settle();
    }

    pub fn open(&mut self, name: &str, mode: OpenMode) -> Result<Handle> {
        self.store.open(name, mode)
    }

    /// Opened, whatever it takes.
    pub fn log(&mut self, name: &str) -> Handle {
        self.open(name, OpenMode::ExistingOrNew).unwrap()
    }

    pub fn submit(&mut self, h: Handle, what: LogOp) -> Result<OpId> {
        let op = OpId(self.next_op);
        self.next_op += 1;
        if let Submitted::Done(result) = self.store.submit(h, op, what)? {
            self.ended.insert(op.0, result);
        }
        Ok(op)
    }

    pub fn append(&mut self, h: Handle, bytes: &[u8]) -> Result<OpId> {
        let sga = Sga::copy(&self.heap, bytes).unwrap();
        self.submit(h, LogOp::Append(sga))
    }

    pub fn ended(&mut self, op: OpId) -> Option<Result<Outcome<Handle>>> {
        self.ended.remove(&op.0)
    }

    pub fn wait(&mut self, op: OpId) -> Result<Outcome<Handle>> {
        for _ in 0..100_000 {
            if let Some(result) = self.ended(op) {
                return result;
            }
            self.turn();
        }
        panic!("{op:?} does not end");
    }

    pub fn sequence(&mut self, op: OpId) -> Result<u64> {
        match self.wait(op)? {
            Outcome::Appended { sequence } | Outcome::Sought { sequence } | Outcome::Truncated { sequence } => {
                Ok(sequence)
            }
            other => panic!("{other:?}"),
        }
    }

    /// Appends and waits: its number.
    pub fn put(&mut self, h: Handle, bytes: &[u8]) -> Result<u64> {
        let op = self.append(h, bytes)?;
        self.sequence(op)
    }

    /// The next record, or nothing at the end.
    pub fn read(&mut self, h: Handle) -> Result<Vec<u8>> {
        let op = self.submit(h, LogOp::Read { len_max: usize::MAX })?;
        match self.wait(op)? {
            Outcome::Popped(popped) => Ok(popped.sga.to_vec()),
            other => panic!("{other:?}"),
        }
    }

    pub fn seek(&mut self, h: Handle, sequence: u64) -> Result<u64> {
        let op = self.submit(h, LogOp::Seek(sequence))?;
        self.sequence(op)
    }

    pub fn truncate(&mut self, h: Handle, sequence: u64) -> Result<u64> {
        let op = self.submit(h, LogOp::Truncate(sequence))?;
        self.sequence(op)
    }

    /// All records from the cursor on.
    pub fn read_all(&mut self, h: Handle) -> Vec<Vec<u8>> {
        let mut all = Vec::new();
        loop {
            match self.read(h).unwrap() {
                record if record.is_empty() => return all,
                record => all.push(record),
            }
        }
    }
}

/// A record that says which it is, of a length that is its own.
pub fn record(number: u64) -> Vec<u8> {
    let len = 8 + (number * 7919 % 300) as usize;
    let mut bytes = number.to_le_bytes().to_vec();
    bytes.extend((8..len).map(|i| (number as usize * 31 + i) as u8));
    bytes
}
