//! What fuzzers drive: a store that was well, changed as the input says, with checksums that are right again where the input
//! wants that. For libos/journal/fuzz, and for the test that runs its corpus.
//!
//! Whatever is on the device: nobody panics, nothing is read beyond it, and what the store gives out the inspector finds, too.

use libos_mem::Heap;
use pdpix::{Completions, Error, Handle, Instant, LogOp, OpId, OpenMode, Outcome, Sga, Storage, Submitted};

use crate::checksum::sum;
use crate::format::{
    DESCRIPTOR_LEN, Descriptor, ENTRY_LEN, HEADER_LEN, Layout, RECORD_ALIGN, RecordHeader, SUPERBLOCK_LEN,
};
use crate::inspect::{inspect, read_log};
use crate::memory::{Contents, MemoryDevice};
use crate::settings::{Format, Settings};
use crate::store::Store;

/// A target: its name, and what it does with an input.
pub type Target = (&'static str, fn(&[u8]));

/// All of them.
pub const TARGETS: &[Target] = &[("recovery", recovery)];

/// Runs one.
///
/// # Panics
/// If there is none of this name; if something is found.
pub fn run(target: &str, input: &[u8]) {
    let (_, run) =
        TARGETS.iter().find(|(name, _)| *name == target).unwrap_or_else(|| panic!("there is no target {target}"));
    run(input);
}

const SIZE: usize = 4096 + 2 * 2 * 4096 + 5 * 65536 + 4096;
const NAMES: [&str; 2] = ["a", "b"];

struct Driver {
    store: Store,
    heap: Heap,
    ops: u64,
}

impl Driver {
    fn new(contents: &Contents) -> Driver {
        let heap = Heap::alone(8 << 20).expect("8 MiB");
        let format = Format { store_id: 7, extent_size: Some(65536), logs_max: 2 };
        let settings =
            Settings { format: Some(format), read_ahead: 16 << 10, write_max: 16 << 10, ..Settings::default() };
        let store = Store::new(Box::new(MemoryDevice::new(contents.clone())), heap.clone(), settings);
        Driver { store, heap, ops: 0 }
    }

    /// The end of an operation. What takes so long that it must be stuck is `TimedOut`.
    fn run(&mut self, log: Handle, what: LogOp) -> Result<Outcome<Handle>, Error> {
        self.ops += 1;
        if let Submitted::Done(result) = self.store.submit(log, OpId(self.ops), what)? {
            return result;
        }
        for _ in 0..10_000 {
            let mut done = Completions::new();
            done.set_room(8);
            self.store.poll(Instant::ZERO, &mut done);
            self.store.flush(Instant::ZERO);
            if let Some(done) = done.pop() {
                return done.result;
            }
        }
        Err(Error::TimedOut)
    }

    fn append(&mut self, log: Handle, bytes: &[u8]) -> Result<Outcome<Handle>, Error> {
        let sga = Sga::copy(&self.heap, bytes)?;
        self.run(log, LogOp::Append(sga))
    }
}

/// A store with two logs of several batches, two epochs and a truncation.
fn well() -> Vec<u8> {
    let contents = Contents::new(SIZE);
    for epoch in 0..2u8 {
        let mut driver = Driver::new(&contents);
        for (i, name) in NAMES.iter().enumerate() {
            let log = driver.store.open(name, OpenMode::ExistingOrNew).expect("a log");
            for number in 0..20 {
                let _ = driver.append(log, &vec![number; 40 + 90 * i * number as usize]);
            }
            let _ = driver.run(log, LogOp::Truncate(5 + 5 * epoch as u64));
        }
    }
    contents.bytes().clone()
}

/// The input's numbers, one after the other; zeros at its end.
struct Input<'a>(&'a [u8]);

impl Input<'_> {
    fn byte(&mut self) -> u8 {
        self.0.split_off_first().copied().unwrap_or(0)
    }

    fn number(&mut self) -> usize {
        (self.byte() as usize) << 16 | (self.byte() as usize) << 8 | self.byte() as usize
    }
}

fn change(bytes: &mut [u8], input: &mut Input<'_>) {
    let seed = Layout { store_id: 7, ..Layout::decode(bytes).unwrap_or_else(|_| layout()) }.checksum_seed();
    match input.byte() % 6 {
        // One byte, anywhere.
        0 => bytes[input.number() % SIZE] = input.byte(),
        // A number in a header, a descriptor or a superblock.
        1 => {
            let at = input.number() % (SIZE / 4) * 4;
            let value = [0, 1, u32::MAX, 1 << 31, input.number() as u32][input.byte() as usize % 5];
            bytes[at..at + 4].copy_from_slice(&value.to_le_bytes());
        }
        // A misdirected write.
        2 => {
            let (from, to) = (input.number() % (SIZE / 512) * 512, input.number() % (SIZE / 512) * 512);
            let len = (512 << (input.byte() % 4)).min(SIZE - from.max(to));
            bytes.copy_within(from..from + len, to);
        }
        3 => {
            let at = [0, SIZE - 4096][input.byte() as usize % 2];
            let crc = crc32c::crc32c(&bytes[at..at + SUPERBLOCK_LEN - 4]);
            bytes[at + SUPERBLOCK_LEN - 4..at + SUPERBLOCK_LEN].copy_from_slice(&crc.to_le_bytes());
        }
        4 => {
            let at = 4096 + input.byte() as usize % 4 * 4096;
            let count = u32::from_le_bytes(bytes[at + 80..at + 84].try_into().expect("four bytes")) as usize;
            let end = DESCRIPTOR_LEN + count.min((4096 - DESCRIPTOR_LEN) / ENTRY_LEN) * ENTRY_LEN;
            let crc = crc32c::crc32c_append(seed, &bytes[at + 4..at + end]);
            bytes[at..at + 4].copy_from_slice(&crc.to_le_bytes());
        }
        _ => {
            let at = input.number() % ((SIZE - HEADER_LEN) / RECORD_ALIGN as usize) * RECORD_ALIGN as usize;
            let header: [u8; HEADER_LEN] = bytes[at..at + HEADER_LEN].try_into().expect("a header's bytes");
            if let Some((header, crc, _)) = RecordHeader::decode(&header, seed)
                && let Some(payload) = bytes.get(at + HEADER_LEN..at + HEADER_LEN + header.len as usize)
            {
                let crc = sum(crc, payload);
                bytes[at..at + 4].copy_from_slice(&crc.to_le_bytes());
            }
        }
    }
}

fn layout() -> Layout {
    Layout::decode(&well()).expect("a store that is well")
}

fn recovery(input: &[u8]) {
    static WELL: std::sync::OnceLock<Vec<u8>> = std::sync::OnceLock::new();
    let mut bytes = WELL.get_or_init(well).clone();
    let mut input = Input(input);
    let mut left = 40;
    while !input.0.is_empty() && left > 0 {
        change(&mut bytes, &mut input);
        left -= 1;
    }
    let found = inspect(&mut &bytes[..]);
    let mut records = Vec::new();
    for log in found.iter().flat_map(|found| &found.logs) {
        let layout = &found.as_ref().expect("it has logs").layout;
        let descriptor: &Descriptor = &log.descriptor;
        let _ = read_log(&mut &bytes[..], layout, descriptor, |record| {
            records.push((descriptor.name.clone(), record.header.sequence, record.payload.to_vec()));
        });
    }
    let contents = Contents::of(bytes);
    for _ in 0..2 {
        let mut driver = Driver::new(&contents);
        for name in NAMES {
            // Both copies of its descriptor made blank is a log that never was: a new one takes its place and its number.
            if !found.as_ref().is_ok_and(|found| found.logs.iter().any(|log| log.descriptor.name == name)) {
                continue;
            }
            let Ok(log) = driver.store.open(name, OpenMode::ExistingOrNew) else { continue };
            let Ok(Outcome::Sought { sequence: mut at }) = driver.run(log, LogOp::Seek(0)) else { continue };
            while let Ok(Outcome::Popped(popped)) = driver.run(log, LogOp::Read { len_max: usize::MAX }) {
                if popped.sga.is_empty() {
                    break;
                }
                let is_known = records.contains(&(name.to_string(), at, popped.sga.to_vec()));
                assert!(is_known, "log {name}: the store gives record {at}, and the inspector does not");
                at += 1;
            }
            if let Ok(Outcome::Appended { sequence }) = driver.append(log, b"after all that") {
                records.push((name.to_string(), sequence, b"after all that".to_vec()));
            }
            let _ = driver.run(log, LogOp::Truncate(at / 2));
        }
    }
}
