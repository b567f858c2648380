//! A write that is alone is forced, where the device can do that: no flush follows it.

mod rig;

use std::time::Duration;

use libos_journal::memory::{Contents, MemoryDevice};
use libos_journal::{Counters, Format, Settings};
use libos_sim::{DiskSettings, SimDisk};
use pdpix::{BlockDevice, Error, Rng, Storage};
use rig::{Rig, small};

const MIB: usize = 1 << 20;

/// Extents are long, so that none has to be added meanwhile: that takes flushes, too.
fn settings() -> Settings {
    Settings { format: Some(Format { extent_size: Some(4 << 20), ..Format::new(7) }), ..small() }
}

/// Over a device that can force a write, with two logs that are ready.
fn rig() -> (Rig, [pdpix::Handle; 2]) {
    let contents = Contents::new(64 * MIB);
    let mut geometry = MemoryDevice::new(contents.clone()).geometry();
    (geometry.volatile_cache, geometry.forces) = (true, true);
    let mut rig = Rig::over(Box::new(MemoryDevice::with_geometry(contents, geometry)), settings());
    let logs = ["one", "other"].map(|name| rig.log(name));
    for log in logs {
        rig.put(log, b"first").unwrap();
    }
    rig.pass(Duration::from_secs(1));
    (rig, logs)
}

/// Batches, flushes and forced writes since then.
fn since(rig: &Rig, before: Counters) -> [u64; 3] {
    let now = rig.store.store_counters();
    [now.batches - before.batches, now.flushes - before.flushes, now.forced - before.forced]
}

#[test]
fn a_write_that_is_alone_is_forced_and_no_flush_follows() {
    let (mut rig, [log, _]) = rig();
    let before = rig.store.store_counters();
    assert_eq!(rig.put(log, b"second"), Ok(2));
    assert_eq!(since(&rig, before), [1, 0, 1]);
    // What comes together is one write.
    let ops: Vec<_> = (0..50).map(|_| rig.append(log, b"one of many").unwrap()).collect();
    assert_eq!(ops.into_iter().map(|op| rig.sequence(op).unwrap()).max(), Some(52));
    assert_eq!(since(&rig, before), [2, 0, 2]);
}

#[test]
fn writes_that_can_share_a_flush_do() {
    let (mut rig, [log, other]) = rig();
    let before = rig.store.store_counters();
    let ops = [log, other].map(|log| rig.append(log, b"second").unwrap());
    assert_eq!(ops.map(|op| rig.sequence(op)), [Ok(2), Ok(2)]);
    assert_eq!(since(&rig, before), [2, 1, 0]);
    // And several of one log: this is longer than a page is.
    let ops: Vec<_> = (0..10).map(|_| rig.append(log, &[7; 60_000]).unwrap()).collect();
    ops.into_iter().for_each(|op| assert!(rig.sequence(op).is_ok()));
    let [batches, flushes, forced] = since(&rig, before);
    assert!(batches > 4 && flushes >= 2 && forced == 0, "{batches} batches, {flushes} flushes, {forced} forced");
}

#[test]
fn beside_what_no_flush_covers_nothing_is_forced() {
    let (mut rig, [patient, other]) = rig();
    rig.store.set_patience(patient, Duration::from_secs(1));
    let before = rig.store.store_counters();
    // Full pages go out; nobody waits for them.
    let held: Vec<_> = (0..10).map(|_| rig.append(patient, &[7; 60_000]).unwrap()).collect();
    rig.settle();
    let [written, flushes, forced] = since(&rig, before);
    assert!(written >= 2 && (flushes, forced) == (0, 0), "{written} batches, {flushes} flushes, {forced} forced");
    assert!(held.iter().all(|&op| rig.ended(op).is_none()));
    // The flush for the other log is for them, too.
    rig.put(other, b"second").unwrap();
    assert_eq!(since(&rig, before), [written + 1, 1, 0]);
    assert!(rig.ended(held[0]).is_some());
    rig.put(other, b"third").unwrap();
    assert_eq!(since(&rig, before), [written + 2, 1, 1]);
}

/// Those who append one after the other do not wait for each other's flushes, as long as they are few; and what wants a flush
/// gets one meanwhile.
#[test]
fn a_few_forced_writes_are_under_way_at_a_time() {
    let mut disk = DiskSettings::new(64 << 20);
    disk.geometry.forces = true;
    let millisecond = Duration::from_millis(1);
    (disk.latency, disk.flush_latency) = (millisecond..=millisecond, millisecond..=millisecond);
    let disk = SimDisk::new(disk, Rng::new(5));
    let format = Format { extent_size: Some(64 << 10), ..Format::new(7) };
    let mut rig = Rig::over(Box::new(disk.device()), Settings { format: Some(format), ..small() });
    let log = rig.log("log");
    rig.append(log, b"first").unwrap();
    let turn = |rig: &mut Rig| {
        rig.now += Duration::from_micros(20);
        rig.turn();
    };
    (0..100_000).for_each(|_| turn(&mut rig));
    let before = rig.store.store_counters();
    let mut ops = Vec::new();
    for number in 1..=7 {
        ops.push(rig.append(log, b"one by one").unwrap());
        turn(&mut rig);
        assert_eq!(since(&rig, before), [number.min(4), 0, number.min(4)], "after {number}");
    }
    // The other three are one write, and what comes while that is under way the next.
    (0..110).for_each(|_| turn(&mut rig));
    assert!(ops[..4].iter().all(|&op| rig.ended(op).is_some_and(|result| result.is_ok())));
    assert_eq!(since(&rig, before), [5, 0, 5]);
    // Always some under way; the log gets extents all the same, before it needs them, and nobody waits for that.
    let (grown, mut waits, mut longest) = (rig.store.store_counters().descriptors, Vec::new(), Duration::ZERO);
    for turns in 0..20_000 {
        if turns % 20 == 0 {
            waits.push((rig.append(log, &[7; 3000]).unwrap(), rig.now));
        }
        turn(&mut rig);
        while let Some(&(op, since)) = waits.first()
            && rig.ended(op).is_some()
        {
            longest = longest.max(rig.now.since(since));
            waits.remove(0);
        }
    }
    let grown = rig.store.store_counters().descriptors - grown;
    assert!(grown > 20 && longest < 6 * millisecond, "{grown} descriptors, {longest:?}");
}

/// What has failed may be the flush in it, and so what others had written: as for a flush, nothing is known of that.
#[test]
fn a_forced_write_that_fails_fails_all_logs() {
    let mut disk = DiskSettings::new(64 << 20);
    disk.geometry.forces = true;
    let disk = SimDisk::new(disk, Rng::new(3));
    let mut rig = Rig::over(Box::new(disk.device()), settings());
    let turn = |rig: &mut Rig| {
        rig.now += Duration::from_millis(1);
        rig.turn();
    };
    let [log, other] = ["one", "other"].map(|name| rig.log(name));
    let ready = [log, other].map(|log| rig.append(log, b"first").unwrap());
    (0..3000).for_each(|_| turn(&mut rig));
    assert!(ready.into_iter().all(|op| rig.ended(op).is_some_and(|result| result.is_ok())));
    assert!(rig.arm().deadline.is_none(), "nothing is to be done");
    disk.change(|disk| disk.flush_errors = 1.0);
    let before = disk.counters();
    let op = rig.append(log, b"second").unwrap();
    (0..3000).for_each(|_| turn(&mut rig));
    assert!(matches!(rig.ended(op), Some(Err(Error::Io))));
    let after = disk.counters();
    assert_eq!((after.flushes - before.flushes, after.forced - before.forced), (0, 1), "it was forced, not flushed");
    assert_eq!(rig.append(other, b"second"), Err(Error::Io));
}
