//! The power goes at any operation of the device, again and again over one disk: what was acknowledged is there, nothing is
//! there that was not written, and a disk that lies about its flushes is found out.
//!
//! The disk is the recording device of the behaviour suite (`libos_conformance::block::Recorder`): at the cut it keeps what
//! was flushed and a part of the rest, by lot, torn at sectors. `MARGAY_LONG=1` cuts 500 times.

use std::collections::BTreeMap;

use libos_conformance::block::{Recorder, RecorderSettings};
use libos_journal::{Format, Settings, Store};
use libos_mem::Heap;
use pdpix::{Completions, Error, Handle, Instant, LogOp, OpId, OpenMode, Outcome, Rng, Sga, Storage, Submitted};

const SIZE: usize = 2 << 20;
/// Appends under way at once.
const DEPTH: usize = 24;

/// What is known of the log from outside.
#[derive(Default)]
struct Books {
    acknowledged: BTreeMap<u64, Vec<u8>>,
    /// Sent in this life, in order, and not acknowledged.
    doubtful: BTreeMap<OpId, Vec<u8>>,
    /// The first record left, as far as that was acknowledged, and as far as it was asked for.
    first: u64,
    first_asked: u64,
}

/// How an operation ended.
type End = Result<Outcome<Handle>, Error>;

struct Life {
    store: Store,
    heap: Heap,
    log: Handle,
    now: Instant,
    ops: u64,
}

impl Life {
    fn over(disk: &Recorder) -> Life {
        let heap = Heap::alone(32 << 20).unwrap();
        let settings = Settings { format: Some(Format::new(0xc07)), ..Settings::default() };
        let mut store = Store::new(disk.device(), heap.clone(), settings);
        let log = store.open("log", OpenMode::ExistingOrNew).unwrap();
        Life { store, heap, log, now: Instant::from_nanos(1), ops: 0 }
    }

    /// Begins an operation: its end, if it is over at once.
    fn submit(&mut self, what: LogOp) -> (OpId, Result<Option<End>, Error>) {
        self.ops += 1;
        let op = OpId(self.ops);
        let submitted = self.store.submit(self.log, op, what);
        (
            op,
            submitted.map(|submitted| match submitted {
                Submitted::Done(result) => Some(result),
                Submitted::Pending => None,
            }),
        )
    }

    fn turn(&mut self) -> Vec<(OpId, End)> {
        let mut done = Completions::new();
        done.set_room(64);
        self.now += std::time::Duration::from_micros(20);
        self.store.poll(self.now, &mut done);
        self.store.flush(self.now);
        std::iter::from_fn(|| done.pop()).map(|done| (done.op, done.result)).collect()
    }

    /// Does one, however long it takes; `None` if the power goes.
    fn do_it(&mut self, what: LogOp, disk: &Recorder) -> Option<End> {
        let (op, begun) = self.submit(what);
        match begun {
            Err(error) => return Some(Err(error)),
            Ok(Some(result)) => return Some(result),
            Ok(None) => {}
        }
        for _ in 0..100_000 {
            if let Some((_, result)) = self.turn().into_iter().find(|(ended, _)| *ended == op) {
                return Some(result);
            }
            if disk.is_cut() {
                return None;
            }
        }
        panic!("an operation does not end");
    }

    /// All records that are left; `None` if the power goes.
    ///
    /// # Errors
    /// The log's.
    fn read_all(&mut self, disk: &Recorder) -> Option<Result<BTreeMap<u64, Vec<u8>>, Error>> {
        let mut next = match self.do_it(LogOp::Seek(0), disk)? {
            Ok(Outcome::Sought { sequence }) => sequence,
            Ok(other) => panic!("{other:?}"),
            Err(error) => return Some(Err(error)),
        };
        let mut found = BTreeMap::new();
        loop {
            match self.do_it(LogOp::Read { len_max: usize::MAX }, disk)? {
                Ok(Outcome::Popped(popped)) if popped.sga.is_empty() => return Some(Ok(found)),
                Ok(Outcome::Popped(popped)) => {
                    found.insert(next, popped.sga.to_vec());
                    next += 1;
                }
                Ok(other) => panic!("{other:?}"),
                Err(error) => return Some(Err(error)),
            }
        }
    }
}

fn record(number: u64, rng: &mut Rng) -> Vec<u8> {
    let mut bytes = format!("record {number} ").into_bytes();
    let len = bytes.len() + [0, 1, 40, 500, 3000, 9000][rng.below(6) as usize];
    bytes.resize(len, number as u8 | 1);
    bytes
}

/// Compares what is found after a cut with what is known. What was in doubt is decided by it.
///
/// # Errors
/// A sentence: what is wrong.
fn compare(books: &mut Books, found: BTreeMap<u64, Vec<u8>>) -> Result<(), String> {
    let first = found.keys().next().copied();
    for (number, record) in books.acknowledged.range(books.first_asked..) {
        if found.get(number) != Some(record) {
            return Err(format!("record {number} was acknowledged, and is not there"));
        }
    }
    if first.is_some_and(|first| first < books.first) {
        return Err(format!("record {first:?} was freed for good, and is back"));
    }
    for (at, (number, bytes)) in found.iter().enumerate() {
        if *number != first.unwrap_or(0) + at as u64 {
            return Err(format!("there is a gap before record {number}"));
        }
        match books.acknowledged.get(number) {
            Some(record) if record == bytes => {}
            Some(_) => return Err(format!("record {number} is another one")),
            // It was not acknowledged, and is there all the same: then it is one that was sent, once.
            None => match books.doubtful.iter().find(|(_, sent)| *sent == bytes).map(|(op, _)| *op) {
                Some(op) => _ = books.doubtful.remove(&op),
                None => return Err(format!("record {number} was never written")),
            },
        }
    }
    books.doubtful.clear();
    books.first = first.unwrap_or(books.first);
    books.first_asked = books.first;
    books.acknowledged = found;
    Ok(())
}

/// One life after the other over one disk, each ended by a cut.
///
/// # Errors
/// Which cut, and what was wrong after it.
fn cut(cuts: u32, seed: u64, ignores_flush: bool) -> Result<usize, String> {
    let mut rng = Rng::new(seed);
    let settings = |rng: &mut Rng| RecorderSettings {
        size: SIZE,
        seed: rng.next_u64(),
        // Some during recovery or formatting, most later.
        cut_after: Some(if rng.chance(0.2) { rng.range(1..=20) } else { rng.range(20..=400) }),
        forces: seed % 2 == 1,
        ignores_flush,
    };
    let mut image = vec![0; SIZE];
    let (mut books, mut appended, mut acknowledged) = (Books::default(), 0, 0);
    for number in 0..cuts {
        let failed = |why: String| Err(format!("seed {seed:#x}, cut {number}: {why}"));
        let disk = Recorder::over(image, settings(&mut rng));
        let mut life = Life::over(&disk);
        match life.read_all(&disk) {
            None => {} // cut before it was recovered: the next life looks
            Some(Err(error)) => return failed(format!("it cannot be read: {error}")),
            Some(Ok(found)) => {
                if let Err(why) = compare(&mut books, found) {
                    return failed(why);
                }
                acknowledged += live(&mut life, &disk, &mut books, &mut appended, &mut rng);
            }
        }
        drop(life);
        image = disk.cut();
    }
    Ok(acknowledged)
}

/// Appends and truncates until the power goes. How many records were acknowledged.
fn live(life: &mut Life, disk: &Recorder, books: &mut Books, appended: &mut u64, rng: &mut Rng) -> usize {
    let (mut acknowledged, mut truncating) = (0, None);
    for turn in 0..1_000_000 {
        assert!(turn < 999_999, "the power does not go");
        while books.doubtful.len() < DEPTH && rng.chance(0.7) {
            let bytes = record(*appended, rng);
            *appended += 1;
            let (op, begun) = life.submit(LogOp::Append(Sga::copy(&life.heap, &bytes).unwrap()));
            match begun {
                Ok(None) => _ = books.doubtful.insert(op, bytes),
                Err(Error::NoSpace | Error::NoBuffers) => break,
                other => panic!("an append ended as {other:?}"),
            }
        }
        let last = books.acknowledged.keys().last().copied().unwrap_or(0);
        let many = books.acknowledged.range(books.first_asked..).count() > 60;
        if truncating.is_none() && many && rng.chance(0.3) {
            let before = last - rng.below(40);
            let (op, begun) = life.submit(LogOp::Truncate(before));
            assert!(matches!(begun, Ok(None)), "a truncation ended as {begun:?}");
            books.first_asked = before;
            truncating = Some(op);
        }
        for (op, result) in life.turn() {
            match result {
                Ok(Outcome::Appended { sequence }) => {
                    let bytes = books.doubtful.remove(&op).expect("an append of ours");
                    books.acknowledged.insert(sequence, bytes);
                    acknowledged += 1;
                }
                Ok(Outcome::Truncated { sequence }) => {
                    assert_eq!(truncating.take(), Some(op));
                    books.first = sequence;
                }
                Err(Error::NoSpace) => _ = books.doubtful.remove(&op).expect("an append of ours"),
                other => panic!("{other:?}"),
            }
        }
        if disk.is_cut() {
            break;
        }
    }
    acknowledged
}

#[test]
fn what_was_acknowledged_is_there_after_each_cut() {
    let cuts = if std::env::var_os("MARGAY_LONG").is_some() { 500 } else { 60 };
    // Several disks, so that a log is young and old when it is cut.
    let mut acknowledged = 0;
    for seed in 0..4 {
        acknowledged += cut(cuts / 4, seed, false).unwrap_or_else(|why| panic!("{why}"));
    }
    assert!(acknowledged > cuts as usize * 5, "only {acknowledged} records were acknowledged in {cuts} lives");
    println!("{cuts} cuts, {acknowledged} records acknowledged");
}

#[test]
fn a_disk_that_does_not_flush_is_caught() {
    let caught = (0..4).filter(|seed| cut(20, *seed, true).is_err()).count();
    assert_eq!(caught, 4, "of four disks that ignore flushes");
}
