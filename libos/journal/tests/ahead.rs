//! What is held back, and what is written ahead: patience, and extents that nobody has written.

mod rig;

use std::time::Duration;

use libos_journal::memory::{Contents, MemoryDevice};
use libos_journal::{Format, Settings};
use libos_sim::{DiskSettings, SimDisk};
use pdpix::{BlockDevice, BlockDone, BlockOp, Error, Geometry, Instant, OpId, Outcome, Rng, Storage, Wake};
use rig::{Rig, record, small};

const MIB: usize = 1 << 20;

/// Who waits for nothing costs the device little; who is in a hurry does not wait for that, nor does another log.
#[test]
fn a_patient_log_is_flushed_when_it_is_time() {
    let patience = Duration::from_millis(200);
    let contents = Contents::new(256 * MIB);
    // Extents are long, so that none has to be added meanwhile: that takes flushes, too.
    let format = Format { extent_size: Some(16 << 20), ..Format::new(7) };
    let geometry = Geometry {
        block_size: 512,
        block_count: contents.bytes().len() as u64 / 512,
        write_unit: 8,
        transfer_max: 256,
        align: 4096,
        gathers: 1,
        volatile_cache: true,
        forces: false,
        discards: true,
    };
    let device = MemoryDevice::with_geometry(contents, geometry);
    let mut rig = Rig::over(Box::new(device), Settings { format: Some(format), ..small() });
    let (log, other) = (rig.log("patient"), rig.log("other"));
    rig.store.set_patience(log, patience);
    rig.put(other, b"both are there").unwrap();
    assert_eq!(rig.seek(log, u64::MAX), Ok(1));
    rig.pass(Duration::from_secs(1));
    let counted = |rig: &Rig| (rig.store.store_counters().batches, rig.store.store_counters().flushes);
    let (batches, flushes) = counted(&rig);
    // Pages that are full are written, and not flushed; what is not full is held back.
    let ops: Vec<_> = (0..10).map(|_| rig.append(log, &[7; 60_000]).unwrap()).collect();
    rig.settle();
    assert_eq!(counted(&rig), (batches + 4, flushes));
    rig.pass(patience - Duration::from_millis(1));
    assert_eq!(counted(&rig), (batches + 4, flushes));
    assert!(ops.iter().all(|&op| rig.ended(op).is_none()));
    let deadline = rig.arm().deadline.expect("it is to be woken");
    assert_eq!(deadline, rig.now + Duration::from_millis(1));
    // Then the rest is written, and all that was written before is flushed; the rest waits as long again.
    rig.pass(Duration::from_millis(1));
    assert_eq!(counted(&rig), (batches + 5, flushes + 1));
    assert!(ops[..8].iter().all(|&op| rig.ended(op).is_some()) && rig.ended(ops[9]).is_none());
    rig.pass(patience);
    assert_eq!(counted(&rig), (batches + 5, flushes + 2));
    // In a hurry, it is written and flushed at once; what comes later is not.
    let hurried = rig.append(log, b"now").unwrap();
    rig.store.hurry(log);
    assert!(matches!(rig.wait(hurried), Ok(Outcome::Appended { sequence: 11 })));
    let later = rig.append(log, b"later").unwrap();
    rig.settle();
    assert!(rig.ended(later).is_none());
    // Another log's flush is not held back.
    rig.put(other, b"at once").unwrap();
    assert!(rig.ended(later).is_none());
    // Much that waits for its flush is flushed, without a look at the time.
    let flushes = counted(&rig).1;
    let many: Vec<_> = (0..100).map(|_| (rig.append(log, &[7; 60_000]).unwrap(), rig.turn()).0).collect();
    rig.settle();
    let ended = many.iter().filter(|&&op| rig.ended(op).is_some()).count();
    assert!((60..100).contains(&ended), "{ended} of 100");
    assert!((2..=4).contains(&(counted(&rig).1 - flushes)), "{} flushes", counted(&rig).1 - flushes);
    // Nor does the end of the handle lose time.
    rig.store.close(log);
    rig.settle();
    assert!(many.iter().skip(ended).all(|&op| rig.ended(op).is_some()));
}

/// A log that always has something on its way, and is patient with it, does not keep another waiting.
#[test]
fn writes_that_nobody_waits_for_hold_nobody_up() {
    let mut disk = DiskSettings::new(64 << 20);
    let millisecond = Duration::from_millis(1);
    (disk.latency, disk.flush_latency) = (millisecond..=millisecond, millisecond..=millisecond);
    let disk = SimDisk::new(disk, Rng::new(1));
    let format = Format { extent_size: Some(8 << 20), ..Format::new(7) };
    let mut rig = Rig::over(Box::new(disk.device()), Settings { format: Some(format), ..small() });
    let (patient, log) = (rig.log("patient"), rig.log("log"));
    rig.store.set_patience(patient, Duration::from_secs(10));
    let ready = rig.append(log, b"both are there").unwrap();
    for _ in 0..100 {
        rig.now += millisecond;
        rig.turn();
    }
    assert!(rig.ended(ready).is_some());
    let mut waits = Vec::new();
    for turn in 0..300 {
        rig.append(patient, &[7; 60_000]).unwrap();
        rig.now += Duration::from_micros(250);
        rig.turn();
        if turn % 40 == 0 {
            waits.push((rig.append(log, b"now").unwrap(), rig.now, None));
        }
        for (op, since, took) in &mut waits {
            if took.is_none() && rig.ended(*op).is_some() {
                *took = Some(rig.now.since(*since));
            }
        }
        assert!(turn < 20 || disk.counters().writes > turn / 4, "the patient log writes all the time");
    }
    // A write and a flush, and one flush that may have been under way.
    let most = waits.iter().map(|(.., took)| took.unwrap_or(Duration::MAX)).max().unwrap();
    assert!(most <= 4 * millisecond, "{waits:?}");
}

/// A device that says that nobody has written it.
struct Fresh(MemoryDevice);

impl BlockDevice for Fresh {
    fn geometry(&self) -> Geometry {
        self.0.geometry()
    }

    fn unwritten(&self) -> Vec<std::ops::Range<u64>> {
        std::iter::once(0..self.geometry().block_count).collect()
    }

    fn submit(&mut self, op: OpId, what: BlockOp) -> Result<(), (Error, BlockOp)> {
        self.0.submit(op, what)
    }

    fn poll(&mut self, now: Instant, room: usize, done: &mut Vec<BlockDone>) {
        self.0.poll(now, room, done);
    }

    fn flush_submissions(&mut self, now: Instant) {
        self.0.flush_submissions(now);
    }

    fn arm(&mut self, now: Instant) -> Wake {
        self.0.arm(now)
    }
}

/// Zeros are written to what a log will get, a little ahead, and to nothing else.
#[test]
fn extents_that_nobody_has_written_are_written_before_a_log_gets_them() {
    let contents = Contents::new(64 * MIB);
    let (before, extent_size) = (0xEE, 256 << 10);
    contents.change(|bytes| bytes[32 * MIB..].fill(before));
    let unprepared =
        |contents: &Contents| contents.bytes()[32 * MIB..60 * MIB].iter().filter(|&&b| b == before).count();
    let format = Format { extent_size: Some(extent_size as u64), ..Format::new(7) };
    let over = |contents: &Contents| {
        let device = Fresh(MemoryDevice::new(contents.clone()));
        Rig::over(Box::new(device), Settings { format: Some(format), ..small() })
    };
    let mut rig = over(&contents);
    let log = rig.log("orders");
    // A little ahead: nothing of the second half yet.
    assert_eq!(rig.put(log, &record(1)), Ok(1));
    rig.settle();
    assert_eq!(unprepared(&contents), 28 * MIB);
    for number in 2..=200_000 {
        rig.append(log, &record(number)).unwrap();
        if number % 500 == 0 {
            rig.settle();
        }
    }
    let (left, used) = (unprepared(&contents), rig.store.store_counters().bytes as usize);
    println!("{used} bytes used, {left} unprepared");
    assert!(used > 28 * MIB && left > 16 * MIB && left < 27 * MIB, "{left} of the second half are left, {used} used");
    assert_eq!(rig.seek(log, 0), Ok(1));
    for number in 1..=200_000 {
        assert_eq!(rig.read(log).unwrap(), record(number), "{number}");
    }
    // Who comes later finds everything, though the device says again that nothing is there.
    let mut again = over(&contents);
    let log = again.log("orders");
    assert_eq!(again.read_all(log).len(), 200_000);
    // And the last extent can be had.
    let mut count = 0;
    while again.append(log, &[7; 100_000]).is_ok() {
        count += 1;
        again.settle();
    }
    // Two to an extent, of about 113 that were left.
    assert!(count > 210, "{count} fit");
}
