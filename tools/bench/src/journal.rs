//! A storage queue without a device: what an append takes of the processor. The device takes every write and flush at once,
//! and keeps nothing.

use std::collections::VecDeque;
use std::hint::black_box;
use std::path::Path;

use libos_journal::memory::{Contents, MemoryDevice};
use libos_journal::{Format, Settings, Store};
use libos_mem::Heap;
use libos_posix::block::{DiskSettings, open_disk};
use libos_runtime::{Core, CoreParts, IdlePolicy, KernelClock, LibOs, MeshKind, mesh};
use pdpix::chase::{Comparison, Instruction, Program, REGISTERS};
use pdpix::{
    BlockDevice, BlockDone, BlockOp, Buf, Completion, Completions, Error, Geometry, Handle, Instant, LogOp, OpId,
    OpenMode, QToken, Qd, Sga, Storage, Wake, WakeOn,
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
            forces: false,
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

/// A list that lies on its log, in memory: each record names the one `STRIDE` before it.
pub struct Lists {
    core: Core,
    qd: Qd,
    last: u64,
    program: Program,
}

/// References that are followed to the end of a list.
pub const HOPS: u64 = 8;
const STRIDE: u64 = 997;

impl Lists {
    /// Of 100,000 records of 64 B.
    pub fn new() -> Lists {
        let heap = reservation(1).heap(0).expect("the only core");
        Lists::on(Box::new(MemoryDevice::new(Contents::new(32 << 20))), heap)
    }

    /// The same on any blank device of 32 MiB, for a core with this heap that never sleeps.
    pub fn on(device: Box<dyn BlockDevice>, heap: Heap) -> Lists {
        let ports = mesh(1, MeshKind::Stepped).expect("no descriptors are needed").remove(0);
        let settings = Settings { format: Some(Format::new(1)), ..Settings::default() };
        let store = Store::new(device, heap.clone(), settings);
        let core = Core::new(CoreParts {
            storages: vec![("bench".into(), Box::new(store))],
            idle: IdlePolicy::Stepped,
            ..CoreParts::new(heap, Box::new(KernelClock), ports)
        });
        let code = [
            Instruction::Load { to: 0, at: 0, index: None, width: 8 },
            Instruction::Set { to: 1, value: 0 },
            Instruction::JumpIf { comparison: Comparison::LessOrEqual, a: 2, b: 1, forward: 3 },
            Instruction::Set { to: 1, value: 1 },
            Instruction::Subtract { to: 2, value: 1 },
            Instruction::Follow { reference: 0 },
            Instruction::Take,
        ];
        let program = Program::verify(&code, HOPS as u32 + 1).expect("a right program");
        let qd = core.libos().open("bench", OpenMode::ExistingOrNew, None).expect("a log");
        let mut lists = Lists { core, qd, last: 0, program };
        let mut tokens = Vec::new();
        for number in 1..=100_000u64 {
            let mut record = [0; 64];
            record[..8].copy_from_slice(&number.saturating_sub(STRIDE).to_le_bytes());
            let sga = Sga::copy(lists.core.libos().heap(), &record).expect("64 bytes");
            tokens.push(lists.core.libos().push(lists.qd, sga).expect("there is room"));
            if tokens.len() as u64 == BATCH || number == 100_000 {
                tokens.drain(..).for_each(|qt| _ = lists.end(qt).sequence().expect("it is durable"));
            }
        }
        lists.last = 100_000;
        lists
    }

    fn end(&self, qt: QToken) -> Completion {
        loop {
            match self.core.libos().try_redeem(qt).expect("a token") {
                Some(completion) => return completion,
                None => _ = self.core.step(),
            }
        }
    }

    /// By one chase.
    pub fn chase(&self, from: u64) -> Sga {
        let mut registers = [0; REGISTERS];
        registers[2] = HOPS;
        let qt = self.core.libos().chase(self.qd, self.last - from, &self.program, registers).expect("a token");
        self.end(qt).popped().expect("it is there").sga
    }

    /// By a seek and a pop each.
    pub fn pops(&self, from: u64) -> Sga {
        let libos = self.core.libos();
        let mut at = self.last - from;
        for hop in 0..=HOPS {
            self.end(libos.seek(self.qd, at).expect("a token")).sequence().expect("it is there");
            let record = self.end(libos.pop(self.qd, 64).expect("a token")).popped().expect("it is there").sga;
            if hop == HOPS {
                return record;
            }
            let mut next = [0; 8];
            record.copy_to(0, &mut next);
            at = u64::from_le_bytes(next);
        }
        unreachable!("the last hop returns")
    }
}

impl Default for Lists {
    fn default() -> Lists {
        Lists::new()
    }
}

/// Microseconds of [`HOPS`] dependent reads in memory: by a chase, and by seeks and pops.
pub fn chase() -> (f64, f64) {
    both_ways(&Lists::new())
}

/// The same on a disk: in a new file at `path`, which is removed again.
///
/// # Errors
/// The disk's.
pub fn chase_on_disk(path: &Path) -> Result<(f64, f64), String> {
    let heap = reservation(1).heap(0).ok_or("no memory")?;
    let _ = std::fs::remove_file(path);
    let settings = DiskSettings { size: Some(32 << 20), prepare: true, ..DiskSettings::new(path) };
    let opened = open_disk(&settings, &heap).map_err(|error| error.to_string());
    let figures = opened.map(|opened| both_ways(&Lists::on(opened.device, heap)));
    let _ = std::fs::remove_file(path);
    figures
}

fn both_ways(lists: &Lists) -> (f64, f64) {
    let mut figures = [const { Vec::new() }; 2];
    for i in 0..500 {
        let from = i * 101 % 50_000;
        let mut found = [const { Vec::new() }; 2];
        // Microseconds: a thousandth of one lookup's nanoseconds.
        figures[0].push(nanos_each(1000, || found[0] = lists.chase(from).to_vec()));
        figures[1].push(nanos_each(1000, || found[1] = lists.pops(from).to_vec()));
        assert_eq!(found[0], found[1], "both find the same");
    }
    let [chase, pops] = figures.map(median);
    (chase, pops)
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
