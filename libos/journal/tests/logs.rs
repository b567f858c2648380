//! What a log does, step by step, over a device in memory.

mod rig;

use std::time::Duration;

use libos_journal::Settings;
use libos_journal::memory::{Contents, MemoryDevice};
use libos_mem::CopyPath;
use pdpix::{BlockDevice, Error, Geometry, LogOp, OpenMode, Outcome, Storage};
use rig::{Rig, record, small};

const MIB: usize = 1 << 20;

#[test]
fn records_come_back_in_order_with_their_numbers() {
    let contents = Contents::new(8 * MIB);
    let mut rig = Rig::new(&contents, small());
    let log = rig.log("orders");
    for number in 1..=500 {
        assert_eq!(rig.put(log, &record(number)), Ok(number));
    }
    assert_eq!(rig.seek(log, 0), Ok(1));
    for number in 1..=500 {
        assert_eq!(rig.read(log).unwrap(), record(number), "{number}");
    }
    assert_eq!(rig.read(log).unwrap(), b"", "the end");
    assert_eq!(rig.put(log, b"later"), Ok(501));
    assert_eq!(rig.read(log).unwrap(), b"later", "the end is not for ever");
}

#[test]
fn the_next_process_finds_everything() {
    let contents = Contents::new(8 * MIB);
    for process in 0..5 {
        let mut rig = Rig::new(&contents, small());
        let log = rig.log("orders");
        assert_eq!(rig.seek(log, u64::MAX), Ok(process * 300 + 1));
        rig.seek(log, 0).unwrap();
        assert_eq!(rig.read_all(log), (1..=process * 300).map(record).collect::<Vec<_>>());
        for number in process * 300 + 1..=(process + 1) * 300 {
            rig.append(log, &record(number)).unwrap();
            if number % 7 == 0 {
                rig.turn();
            }
        }
        rig.settle();
    }
}

#[test]
fn seeks_go_anywhere() {
    let contents = Contents::new(8 * MIB);
    let mut rig = Rig::new(&contents, small());
    let log = rig.log("orders");
    for number in 1..=5000 {
        rig.append(log, &record(number)).unwrap();
        if number % 50 == 0 {
            rig.settle();
        }
    }
    rig.settle();
    let mut again = Rig::new(&contents, small());
    let theirs = again.log("orders");
    for (rig, log) in [(&mut rig, log), (&mut again, theirs)] {
        for step in 0..300u64 {
            let to = step * 7919 % 5000 + 1;
            assert_eq!(rig.seek(log, to), Ok(to));
            assert_eq!(rig.read(log).unwrap(), record(to));
        }
        assert_eq!(rig.seek(log, 5001), Ok(5001));
        assert_eq!(rig.read(log).unwrap(), b"");
    }
}

#[test]
fn truncation_frees_space_and_keeps_the_rest() {
    let contents = Contents::new(2 * MIB);
    let mut rig = Rig::new(&contents, small());
    let log = rig.log("ring");
    let payload = |number: u64| vec![number as u8; 3000];
    // Far more than the device holds.
    for number in 1..=4000 {
        assert_eq!(rig.put(log, &payload(number)), Ok(number), "{number}");
        if number % 100 == 0 {
            assert_eq!(rig.truncate(log, number - 20), Ok(number - 20));
        }
    }
    assert_eq!(rig.seek(log, 0), Ok(3980));
    for number in 3980..=4000 {
        assert_eq!(rig.read(log).unwrap(), payload(number));
    }
    assert_eq!(rig.truncate(log, 4002), Err(Error::InvalidArgument), "beyond the end");
    assert_eq!(rig.truncate(log, 5), Ok(3980), "done before");
    assert_eq!(rig.truncate(log, 4001), Ok(4001), "everything");
    assert_eq!(rig.put(log, b"goes on"), Ok(4001));
    rig.settle();
    let mut again = Rig::new(&contents, small());
    let log = again.log("ring");
    assert_eq!(again.read_all(log), [b"goes on"]);
}

#[test]
fn a_full_device_refuses_before_it_writes_and_goes_on_after_a_truncation() {
    let contents = Contents::new(2 * MIB);
    let mut rig = Rig::new(&contents, small());
    let log = rig.log("full");
    let mut count = 0;
    let refused = loop {
        match rig.append(log, &[7; 5000]) {
            Ok(op) => assert_eq!(
                rig.sequence(op),
                Ok({
                    count += 1;
                    count
                })
            ),
            Err(refused) => break refused,
        }
    };
    assert_eq!(refused, Error::NoSpace);
    assert!(count > 200, "{count} records of 5000 bytes in 2 MiB");
    assert_eq!(rig.append(log, &[7; 5000]).unwrap_err(), Error::NoSpace, "and again");
    assert_eq!(rig.truncate(log, count / 2), Ok(count / 2));
    rig.settle();
    assert_eq!(rig.put(log, b"room"), Ok(count + 1));
}

#[test]
fn logs_cannot_reach_each_other() {
    let contents = Contents::new(8 * MIB);
    let mut rig = Rig::new(&contents, small());
    let names: Vec<String> = (0..8).map(|i| format!("log {i}")).collect();
    let logs: Vec<_> = names.iter().map(|name| rig.log(name)).collect();
    for round in 0..200u64 {
        for (i, &log) in logs.iter().enumerate() {
            rig.append(log, &record(round * 8 + i as u64)).unwrap();
        }
        rig.turn();
    }
    rig.settle();
    rig.truncate(logs[3], 150).unwrap();
    let mut again = Rig::new(&contents, small());
    for (i, name) in names.iter().enumerate() {
        let log = again.open(name, OpenMode::Existing).unwrap();
        let from = if i == 3 { 149 } else { 0 };
        let expected: Vec<_> = (from..200).map(|round| record(round * 8 + i as u64)).collect();
        assert_eq!(again.read_all(log), expected, "{name}");
    }
}

#[test]
fn opening_says_what_is_wrong() {
    let contents = Contents::new(2 * MIB);
    let mut rig = Rig::new(&contents, small());
    rig.settle();
    assert_eq!(rig.open("none", OpenMode::Existing).unwrap_err(), Error::NotFound);
    let log = rig.open("one", OpenMode::New).unwrap();
    assert_eq!(rig.put(log, b"1"), Ok(1));
    assert_eq!(rig.open("one", OpenMode::New).unwrap_err(), Error::AlreadyExists);
    assert_eq!(rig.open("", OpenMode::New).unwrap_err(), Error::InvalidArgument);
    assert_eq!(rig.open(&"x".repeat(129), OpenMode::New).unwrap_err(), Error::InvalidArgument);
    for i in 1..16 {
        rig.open(&format!("more {i}"), OpenMode::New).unwrap();
    }
    assert_eq!(rig.open("too many", OpenMode::New).unwrap_err(), Error::NoSpace);
    rig.settle();

    // Before it is known which logs there are, the operations say it.
    let mut early = Rig::new(&contents, small());
    let none = early.open("none", OpenMode::Existing).unwrap();
    let one = early.open("one", OpenMode::Existing).unwrap();
    let (a, b) = (early.append(none, b"x").unwrap(), early.append(one, b"2").unwrap());
    assert_eq!(early.sequence(a), Err(Error::NotFound));
    assert_eq!(early.sequence(b), Ok(2));
    assert_eq!(early.append(none, b"x").unwrap_err(), Error::NotFound);

    let mut blank = Rig::new(&Contents::new(2 * MIB), Settings { format: None, ..small() });
    let log = blank.open("any", OpenMode::ExistingOrNew).unwrap();
    assert_eq!(blank.seek(log, 0), Err(Error::NotFound), "a blank device, and no leave to format it");
    let mut foreign = Rig::new(&Contents::of(vec![0xab; 2 * MIB]), small());
    let log = foreign.open("any", OpenMode::ExistingOrNew).unwrap();
    assert_eq!(foreign.seek(log, 0), Err(Error::Corrupt), "somebody else's data is not formatted over");
}

#[test]
fn a_reader_changes_nothing() {
    let contents = Contents::new(2 * MIB);
    let mut rig = Rig::new(&contents, small());
    let log = rig.log("orders");
    (1..=20).for_each(|number| assert_eq!(rig.put(log, &record(number)), Ok(number)));
    rig.settle();
    let before = contents.bytes().clone();
    let mut reader = Rig::new(&contents, small());
    let log = reader.open("orders", OpenMode::ReadOnly).unwrap();
    assert_eq!(reader.read_all(log).len(), 20);
    assert_eq!(reader.append(log, b"x").unwrap_err(), Error::ReadOnly);
    assert_eq!(reader.submit(log, LogOp::Truncate(3)).unwrap_err(), Error::ReadOnly);
    reader.pass(Duration::from_secs(10));
    assert!(*contents.bytes() == before);
}

#[test]
fn misuse_is_refused() {
    let contents = Contents::new(2 * MIB);
    let mut rig = Rig::new(&contents, small());
    let log = rig.log("orders");
    assert_eq!(rig.put(log, b"1"), Ok(1));
    assert_eq!(rig.append(log, b"").unwrap_err(), Error::InvalidArgument);
    assert_eq!(rig.submit(log, LogOp::Read { len_max: 0 }).unwrap_err(), Error::InvalidArgument);
    assert_eq!(rig.append(log, &vec![1; 65536 - 31]).unwrap_err(), Error::Overflow, "longer than an extent");
    assert_eq!(rig.put(log, &vec![1; 65536 - 32]), Ok(2), "just an extent");
    assert_eq!(rig.read(log).unwrap(), b"1");
    assert_eq!(rig.read(log).unwrap().len(), 65536 - 32);
}

#[test]
fn a_longer_record_is_cut_and_flagged() {
    let contents = Contents::new(2 * MIB);
    let mut rig = Rig::new(&contents, small());
    let log = rig.log("orders");
    rig.put(log, b"a long record").unwrap();
    rig.put(log, b"next").unwrap();
    let op = rig.submit(log, LogOp::Read { len_max: 6 }).unwrap();
    let Ok(Outcome::Popped(popped)) = rig.wait(op) else { panic!("no record") };
    assert_eq!((popped.sga.to_vec().as_slice(), popped.cut), (&b"a long"[..], true));
    assert_eq!(rig.read(log).unwrap(), b"next");
}

#[test]
fn what_waits_for_room_is_bounded_and_comes_in_order() {
    let contents = Contents::new(8 * MIB);
    let settings = Settings { budget: 64 << 10, waiting_max: 10, ..small() };
    let mut rig = Rig::new(&contents, settings);
    let log = rig.log("orders");
    rig.put(log, b"first").unwrap();
    let mut ops = Vec::new();
    let refused = loop {
        match rig.append(log, &[3; 4096]) {
            Ok(op) => ops.push(op),
            Err(refused) => break refused,
        }
    };
    assert_eq!(refused, Error::NoBuffers);
    assert!((20..30).contains(&ops.len()), "{} appends of 4 KiB in a budget of 64 KiB, and ten that wait", ops.len());
    for (i, op) in ops.into_iter().enumerate() {
        assert_eq!(rig.sequence(op), Ok(i as u64 + 2));
    }
}

#[test]
fn who_waits_can_cancel_and_who_is_under_way_cannot() {
    let contents = Contents::new(8 * MIB);
    let mut rig = Rig::new(&contents, Settings { budget: 16 << 10, ..small() });
    let log = rig.log("orders");
    rig.put(log, b"first").unwrap();
    let ops: Vec<_> = (0..8).map(|_| rig.append(log, &[3; 4096]).unwrap()).collect();
    rig.store.cancel(log, ops[0]);
    rig.store.cancel(log, ops[7]);
    assert_eq!(rig.sequence(ops[0]), Ok(2), "it was in its page");
    assert_eq!(rig.sequence(ops[7]), Err(Error::Canceled));
    assert_eq!(rig.sequence(ops[6]), Ok(8));
    assert_eq!(rig.put(log, b"last"), Ok(9));
}

#[test]
fn close_lets_appends_end_and_cancels_reads() {
    let contents = Contents::new(8 * MIB);
    let mut rig = Rig::new(&contents, small());
    let log = rig.log("orders");
    let append = rig.append(log, b"before it is ready").unwrap();
    let read = rig.submit(log, LogOp::Read { len_max: 10 }).unwrap();
    rig.store.close(log);
    assert_eq!(rig.store.zombies(), 1);
    assert!(matches!(rig.wait(read), Err(Error::Canceled)));
    assert_eq!(rig.sequence(append), Ok(1));
    assert_eq!(rig.store.zombies(), 0);
    assert_eq!(rig.append(log, b"x").unwrap_err(), Error::BadDescriptor);
}

#[test]
fn the_end_of_a_log_is_behind_what_a_closed_handle_has_under_way() {
    let contents = Contents::new(8 * MIB);
    let mut rig = Rig::over(device(&contents, 1), small());
    let log = rig.log("orders");
    rig.put(log, b"first").unwrap();
    let append = rig.append(log, b"under way").unwrap();
    rig.store.close(log);
    let again = rig.log("orders");
    assert_eq!(rig.seek(again, 0), Ok(1), "that is known");
    assert_eq!(rig.seek(again, u64::MAX), Ok(3));
    assert_eq!(rig.sequence(append), Ok(2));
    assert_eq!(rig.seek(again, u64::MAX), Ok(3));
}

fn device(contents: &Contents, gathers: u16) -> Box<MemoryDevice> {
    let geometry = Geometry {
        block_size: 512,
        block_count: contents.bytes().len() as u64 / 512,
        write_unit: 8,
        transfer_max: 128,
        align: 4096,
        gathers,
        volatile_cache: true,
        forces: false,
        discards: true,
    };
    Box::new(MemoryDevice::with_geometry(contents.clone(), geometry))
}

#[test]
fn a_busy_log_does_not_keep_another_waiting() {
    let contents = Contents::new(256 * MIB);
    let geometry = Geometry { transfer_max: 4096, ..device(&contents, 1).geometry() };
    let device = MemoryDevice::with_geometry(contents, geometry);
    let mut rig = Rig::over(Box::new(device), Settings { budget: 8 * MIB, ..small() });
    let [busy, other] = ["busy", "other"].map(|name| rig.log(name));
    rig.put(busy, b"ready").unwrap();
    rig.put(other, b"ready").unwrap();
    let value = vec![7; 100_000];
    let mut waits = None;
    for _ in 0..60 {
        for _ in 0..25 {
            rig.append(busy, &value).unwrap();
        }
        rig.turn();
        let op = *waits.get_or_insert_with(|| rig.append(other, b"small").unwrap());
        if let Some(ended) = rig.ended(op) {
            assert!(matches!(ended, Ok(Outcome::Appended { sequence: 2 })));
            return;
        }
    }
    panic!("it waits for a gap that there is not");
}

#[test]
fn large_values_are_copied_once_or_not_at_all() {
    for (gathers, copies) in [(1, 1), (64, 0)] {
        let contents = Contents::new(32 * MIB);
        let mut rig = Rig::over(device(&contents, gathers), small());
        let log = rig.log("values");
        rig.put(log, b"first").unwrap();
        let before = rig.heap.copied();
        let values: Vec<Vec<u8>> = (0..20).map(|i| vec![i as u8; 4096 + 100 * i]).collect();
        let ops: Vec<_> = values.iter().map(|value| rig.append(log, value).unwrap()).collect();
        for op in ops {
            rig.sequence(op).unwrap();
        }
        let bytes: usize = values.iter().map(Vec::len).sum();
        let copied = rig.heap.copied().since(before);
        assert_eq!(copied.on(CopyPath::Push), copies * bytes as u64, "{gathers} segments");
        let mut again = Rig::over(device(&contents, gathers), small());
        let log = again.log("values");
        again.seek(log, 2).unwrap();
        let before = again.heap.copied();
        assert_eq!(again.read_all(log), values);
        assert_eq!(again.heap.copied().since(before).total(), 0, "a pop copies nothing");
    }
}

#[test]
fn records_longer_than_a_transfer_are_written_in_parts() {
    for gathers in [1, 64] {
        let contents = Contents::new(64 * MIB);
        let mut rig = Rig::over(device(&contents, gathers), small());
        let log = rig.log("values");
        let value: Vec<u8> = (0..200_001u32).map(|i| (i * 7) as u8).collect();
        for number in 1..=30 {
            assert_eq!(rig.put(log, &value[number as usize..]), Ok(number));
        }
        let mut again = Rig::over(device(&contents, gathers), small());
        let log = again.log("values");
        for number in 1..=30 {
            assert_eq!(again.read(log).unwrap(), &value[number..]);
        }
    }
}

#[test]
fn all_that_wait_share_a_flush() {
    let contents = Contents::new(8 * MIB);
    let mut rig = Rig::over(device(&contents, 1), small());
    let log = rig.log("orders");
    rig.put(log, b"first").unwrap();
    let before = rig.store.store_counters();
    let ops: Vec<_> = (0..100).map(|number| rig.append(log, &record(number)).unwrap()).collect();
    for op in ops {
        rig.sequence(op).unwrap();
    }
    let after = rig.store.store_counters();
    assert_eq!((after.flushes - before.flushes, after.batches - before.batches), (1, 1));
}

#[test]
fn a_commit_is_held_back_no_longer_than_it_was_told() {
    let contents = Contents::new(8 * MIB);
    let delay = Duration::from_micros(500);
    let mut rig = Rig::over(device(&contents, 1), Settings { commit_delay: delay, ..small() });
    let log = rig.log("orders");
    let first = rig.append(log, b"first").unwrap();
    rig.settle();
    assert!(rig.ended(first).is_none());
    assert_eq!(rig.arm().deadline, Some(rig.now + delay));
    let second = rig.append(log, b"second").unwrap();
    rig.pass(delay - Duration::from_nanos(1));
    assert!(rig.ended(first).is_none());
    rig.pass(Duration::from_nanos(1));
    assert_eq!((rig.sequence(first), rig.sequence(second)), (Ok(1), Ok(2)));
}

#[test]
fn a_quiet_log_notes_how_far_it_is_durable() {
    let contents = Contents::new(8 * MIB);
    let mut rig = Rig::new(&contents, small());
    let log = rig.log("orders");
    rig.put(log, b"first").unwrap();
    rig.settle();
    let before = rig.store.store_counters().descriptors;
    let deadline = rig.arm().deadline.expect("it wants to be woken");
    rig.now = deadline;
    rig.settle();
    assert_eq!(rig.store.store_counters().descriptors, before + 2, "both copies, once");
    assert_eq!(rig.arm().deadline, None);
}

/// Takes all memory that there is.
fn hoard(rig: &Rig) -> Vec<pdpix::BufMut> {
    let mut hoard = Vec::new();
    for size in [256 << 10, 128 << 10, 64 << 10, 16 << 10, 4 << 10, 1 << 10, 512] {
        while let Ok(taken) = rig.heap.alloc_aligned(size, 512).or_else(|_| rig.heap.alloc(size)) {
            hoard.push(taken);
        }
    }
    hoard
}

#[test]
fn a_log_without_memory_waits_for_it_and_says_when_to_ask_again() {
    let contents = Contents::new(8 * MIB);
    let mut rig = Rig::new(&contents, small());
    let log = rig.log("orders");
    rig.put(log, b"first").unwrap();
    let big = vec![1; 40_000];
    let value = pdpix::Sga::copy(&rig.heap, &big).unwrap();
    let small_one = pdpix::Sga::copy(&rig.heap, b"second").unwrap();
    let hoard = hoard(&rig);
    let ops: Vec<_> = [value, small_one].into_iter().map(|sga| rig.submit(log, LogOp::Append(sga)).unwrap()).collect();
    for _ in 0..3 {
        (0..50).for_each(|_| rig.turn());
    }
    assert!(rig.arm().deadline.is_some_and(|at| at <= rig.now + Duration::from_millis(1)));
    drop(hoard);
    assert_eq!(ops.into_iter().map(|op| rig.sequence(op)).collect::<Vec<_>>(), [Ok(2), Ok(3)]);
}

#[test]
fn a_truncation_without_memory_waits_for_it_though_appends_go_on() {
    let contents = Contents::new(8 * MIB);
    let mut rig = Rig::new(&contents, small());
    let log = rig.log("orders");
    rig.put(log, b"first").unwrap();
    // The memory of the one lies beside the other's: nothing larger is free when it is.
    let [second, beside] = [(); 2].map(|()| pdpix::Sga::copy(&rig.heap, b"second").unwrap());
    let hoard = hoard(&rig);
    let append = rig.submit(log, LogOp::Append(second)).unwrap();
    let truncation = rig.submit(log, LogOp::Truncate(2)).unwrap();
    assert_eq!(rig.sequence(append), Ok(2), "its page was there");
    assert!(rig.arm().deadline.is_some_and(|at| at <= rig.now + Duration::from_millis(1)));
    drop((hoard, beside));
    assert_eq!(rig.sequence(truncation), Ok(2));
}

#[test]
fn what_the_process_before_left_unflushed_is_flushed_though_the_device_flushes_each_write() {
    let contents = Contents::new(8 * MIB);
    let mut rig = Rig::new(&contents, small());
    let log = rig.log("orders");
    rig.put(log, b"first").unwrap();
    assert_eq!(rig.store.store_counters().flushes, 1, "the first, and no other");
}

#[test]
fn a_device_that_is_blank_where_superblocks_are_and_not_behind_is_not_formatted() {
    let contents = Contents::new(8 * MIB);
    let mut rig = Rig::new(&contents, small());
    let log = rig.log("orders");
    rig.put(log, b"kept").unwrap();
    drop(rig);
    contents.change(|bytes| {
        bytes[..4096].fill(0);
        // The device has grown: the second superblock is not at its end.
        bytes.resize(16 * MIB, 0);
    });
    let before = contents.bytes().clone();
    let mut rig = Rig::new(&contents, small());
    let log = rig.log("orders");
    assert_eq!(rig.seek(log, 0), Err(Error::Corrupt));
    assert!(*contents.bytes() == before, "it was written to");
}
