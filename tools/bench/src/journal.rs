//! A storage queue without a device: what an append takes of the processor. The device takes every write and flush at once,
//! and keeps nothing.

use std::collections::VecDeque;
use std::hint::black_box;

use libos_journal::{Format, Settings, Store};
use libos_mem::Heap;
use libos_runtime::{Core, CoreParts, IdlePolicy, KernelClock, LibOs, MeshKind, mesh};
use pdpix::{
    BlockDevice, BlockDone, BlockOp, Buf, Completions, Error, Geometry, Handle, Instant, LogOp, OpId, OpenMode, QToken,
    Qd, Sga, Storage, Wake, WakeOn,
};

use crate::local::reservation;
use crate::sampling::{median, nanos_each};

/// Appends that share a flush.
pub const BATCH: u64 = 64;

/// Reads nothing but zeros.
struct Nothing {
    done: VecDeque<BlockDone>,
}

impl BlockDevice for Nothing {
    fn geometry(&self) -> Geometry {
        Geometry {
            block_size: 4096,
            block_count: 1 << 28,
            write_unit: 1,
            transfer_max: 256,
            align: 4096,
            gathers: 1,
            volatile_cache: true,
            discards: false,
        }
    }

    fn submit(&mut self, op: OpId, what: BlockOp) -> Result<(), (Error, BlockOp)> {
        let read = match what {
            BlockOp::Read { mut into, .. } => {
                into.resize(into.capacity(), 0);
                Some(into)
            }
            _ => None,
        };
        self.done.push_back(BlockDone { op, result: Ok(()), read });
        Ok(())
    }

    fn poll(&mut self, _: Instant, room: usize, done: &mut Vec<BlockDone>) {
        done.extend(self.done.drain(..room.min(self.done.len())));
    }

    fn flush_submissions(&mut self, _: Instant) {}

    fn arm(&mut self, _: Instant) -> Wake {
        Wake { deadline: None, on: if self.done.is_empty() { WakeOn::Nothing } else { WakeOn::Now } }
    }
}

fn store(heap: &Heap) -> Store {
    let settings = Settings { format: Some(Format::new(1)), ..Settings::default() };
    Store::new(Box::new(Nothing { done: VecDeque::new() }), heap.clone(), settings)
}

/// A log at the contract, without the runtime.
pub struct Appends {
    store: Store,
    log: Handle,
    payload: Buf,
    done: Completions,
    appended: u64,
    truncated: u64,
}

impl Appends {
    /// Records of so many bytes.
    pub fn new(len: usize) -> Appends {
        let heap = reservation(1).heap(0).expect("the only core");
        let mut store = store(&heap);
        let payload = heap.copy(&vec![7; len]).expect("a record");
        let log = store.open("bench", OpenMode::ExistingOrNew).expect("a log");
        let mut appends = Appends { store, log, payload, done: Completions::new(), appended: 0, truncated: 0 };
        appends.round();
        appends
    }

    /// [`BATCH`] appends, from their submission to their ends.
    pub fn round(&mut self) {
        for i in 0..BATCH {
            let what = LogOp::Append(Sga::from(self.payload.clone()));
            black_box(self.store.submit(self.log, OpId(i), what)).expect("there is room");
        }
        let mut ended = 0;
        while ended < BATCH {
            self.store.flush(Instant::ZERO);
            self.done.set_room(BATCH as usize);
            self.store.poll(Instant::ZERO, &mut self.done);
            while let Some(done) = self.done.pop() {
                black_box(done.result).expect("it is durable");
                ended += 1;
            }
        }
        self.appended += BATCH;
        self.make_room();
    }

    /// So that the space never ends; rare.
    fn make_room(&mut self) {
        if self.appended - self.truncated > 10_000_000 {
            self.store.submit(self.log, OpId(BATCH), LogOp::Truncate(self.appended)).expect("a truncation");
            self.truncated = self.appended;
            let mut ended = false;
            while !ended {
                self.store.flush(Instant::ZERO);
                self.done.set_room(1);
                self.store.poll(Instant::ZERO, &mut self.done);
                ended = self.done.pop().is_some();
            }
        }
    }
}

/// The same by the calls of a library OS: push, and redeem its token.
pub struct Pushes {
    core: Core,
    qd: Qd,
    payload: Buf,
    tokens: Vec<QToken>,
}

impl Pushes {
    /// Records of so many bytes.
    pub fn new(len: usize) -> Pushes {
        let heap = reservation(1).heap(0).expect("the only core");
        let ports = mesh(1, MeshKind::Stepped).expect("no descriptors are needed").remove(0);
        let core = Core::new(CoreParts {
            storages: vec![("bench".into(), Box::new(store(&heap)))],
            idle: IdlePolicy::Stepped,
            ..CoreParts::new(heap.clone(), Box::new(KernelClock), ports)
        });
        let payload = heap.copy(&vec![7; len]).expect("a record");
        let qd = core.libos().open("bench", OpenMode::ExistingOrNew, None).expect("a log");
        let mut pushes = Pushes { core, qd, payload, tokens: Vec::new() };
        pushes.round();
        pushes
    }

    /// [`BATCH`] pushes, from their submission to the redemption of their tokens.
    pub fn round(&mut self) {
        let libos: &LibOs = self.core.libos();
        let push = |_| libos.push(self.qd, Sga::from(self.payload.clone())).expect("there is room");
        self.tokens.extend((0..BATCH).map(push));
        for qt in self.tokens.drain(..) {
            let completion = loop {
                match libos.try_redeem(qt).expect("a token") {
                    Some(completion) => break completion,
                    None => _ = self.core.step(),
                }
            };
            completion.sequence().expect("it is durable");
        }
    }
}

/// Nanoseconds of an append of so many bytes: at the contract, and through the library OS.
pub fn append(len: usize) -> (f64, f64) {
    let (mut appends, mut pushes) = (Appends::new(len), Pushes::new(len));
    let mut figures = [const { Vec::new() }; 2];
    for _ in 0..3000 {
        figures[0].push(nanos_each(BATCH, || appends.round()));
        figures[1].push(nanos_each(BATCH, || pushes.round()));
    }
    let [append, push] = figures.map(median);
    (append, push)
}
