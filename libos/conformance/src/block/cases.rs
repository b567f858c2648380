//! The cases: what every block device does.

use std::collections::BTreeSet;

use pdpix::block::BlockOp;
use pdpix::{Error, Rng, Sga};

use super::Bench;
use crate::Pattern;

pub fn the_geometry_makes_sense(bench: &mut Bench) {
    let it = bench.geometry();
    assert!(it.block_size.is_power_of_two() && it.block_size >= 512, "{it:?}");
    assert!(it.block_count >= 128, "the suite wants a device of 128 blocks at least: {it:?}");
    assert!(it.write_unit >= 1 && it.transfer_max >= 1 && it.gathers >= 1, "{it:?}");
    assert!(it.align.is_power_of_two() && it.align <= 4096, "{it:?}");
}

pub fn what_was_written_is_read(bench: &mut Bench) {
    let it = bench.geometry();
    let blocks = it.block_count.min(256);
    let mut rng = Rng::new(0xb10c);
    let mut versions = vec![None; blocks as usize];
    for version in 1..=200u64 {
        let count = rng.range(1..=u64::from(it.transfer_max).min(16));
        let lba = rng.below(blocks - count + 1);
        if rng.chance(0.7) {
            let from = bench.blocks(Pattern::of(version), lba, count);
            bench.do_it(BlockOp::Write { lba, from, forced: false });
            versions[lba as usize..(lba + count) as usize].fill(Some(version));
        } else if let Some(version) = versions[lba as usize] {
            bench.expect(Pattern::of(version), lba, 1);
        }
        if rng.chance(0.1) {
            bench.do_it(BlockOp::Flush);
        }
    }
    assert!(versions.iter().filter(|version| version.is_some()).count() > 100, "the case wrote too little");
    for (lba, version) in versions.into_iter().enumerate() {
        if let Some(version) = version {
            bench.expect(Pattern::of(version), lba as u64, 1);
        }
    }
}

pub fn what_is_no_operation_of_this_device_is_refused_and_comes_back(bench: &mut Bench) {
    let it = bench.geometry();
    let one = |bench: &Bench| bench.blocks(Pattern::of(1), 0, 1);
    let mut wrong = vec![
        ("behind the end", BlockOp::Write { lba: it.block_count, from: one(bench), forced: false }),
        ("far behind the end", BlockOp::Write { lba: u64::MAX, from: one(bench), forced: false }),
        (
            "over the end",
            BlockOp::Write { lba: it.block_count - 1, from: bench.blocks(Pattern::of(1), 0, 2), forced: false },
        ),
        ("nothing", BlockOp::Write { lba: 0, from: Sga::new(), forced: false }),
        ("read behind the end", BlockOp::Read { lba: it.block_count, into: bench.alloc(1) }),
        ("discard of nothing", BlockOp::Discard { lba: 0, block_count: 0 }),
        ("discard over the end", BlockOp::Discard { lba: 1, block_count: it.block_count }),
        ("discard beyond all numbers", BlockOp::Discard { lba: 2, block_count: u64::MAX }),
    ];
    let mut half = bench.alloc(1);
    half.resize(bench.bytes(1) / 2, 7);
    wrong.push(("half a block", BlockOp::Write { lba: 0, from: Sga::from(half.freeze()), forced: false }));
    let mut used = bench.alloc(1);
    used.put(b"x");
    wrong.push(("a read into what is not empty", BlockOp::Read { lba: 0, into: used }));
    if it.align > 1 {
        let mut shifted = bench.alloc(2);
        shifted.resize(bench.bytes(1) + it.align as usize / 2, 7);
        let shifted = shifted.freeze().slice(it.align as usize / 2..);
        wrong.push((
            "an address that is not aligned",
            BlockOp::Write { lba: 0, from: Sga::from(shifted), forced: false },
        ));
    }
    if it.gathers < 64 {
        let mut many = Sga::new();
        for lba in 0..=u64::from(it.gathers) {
            many.append(bench.blocks(Pattern::of(1), lba, 1)).expect("room for a list");
        }
        wrong.push(("more segments than it gathers", BlockOp::Write { lba: 0, from: many, forced: false }));
    }
    if u64::from(it.transfer_max) < it.block_count && it.transfer_max <= 4096 {
        let long = bench.blocks(Pattern::of(1), 0, u64::from(it.transfer_max) + 1);
        wrong.push(("longer than a transfer can be", BlockOp::Write { lba: 0, from: long, forced: false }));
    }
    for (what, op) in wrong {
        let length = |op: &BlockOp| match op {
            BlockOp::Write { from, .. } => from.len(),
            BlockOp::Read { into, .. } => into.capacity(),
            _ => 0,
        };
        let submitted = length(&op);
        match bench.submit(op) {
            Ok(_) => panic!("{what} was not refused"),
            Err((error, back)) => {
                assert_eq!(error, Error::InvalidArgument, "{what}");
                assert_eq!(length(&back), submitted, "{what}: another operation came back");
            }
        }
    }
    bench.ring();
    assert_eq!(bench.poll(64), 0, "what was refused ended");
}

pub fn every_operation_ends_once_though_many_are_under_way(bench: &mut Bench) {
    let blocks = bench.geometry().block_count.min(128);
    let mut begun = BTreeSet::new();
    for round in 0..20u64 {
        for lba in (round % 4..blocks).step_by(4) {
            let from = bench.blocks(Pattern::of(round), lba, 1);
            match bench.submit(BlockOp::Write { lba, from, forced: false }) {
                Ok(op) => assert!(begun.insert(op)),
                // `Bench::poll` refuses ends that nobody waits for.
                Err((error, _)) => assert_eq!(error, Error::NoBuffers),
            }
        }
        for done in bench.wait_all() {
            assert!(begun.remove(&done.op), "{:?} ended twice", done.op);
            assert_eq!((done.result, done.read.is_none()), (Ok(()), true));
        }
        assert_eq!(begun, BTreeSet::new(), "not ended");
    }
}

pub fn poll_gives_no_more_than_there_is_room_for(bench: &mut Bench) {
    let mut begun = 0;
    for lba in 0..20 {
        let from = bench.blocks(Pattern::of(9), lba, 1);
        begun += usize::from(bench.submit(BlockOp::Write { lba, from, forced: false }).is_ok());
    }
    assert!(begun >= 8, "a queue of {begun} is too short for anybody");
    bench.ring();
    assert_eq!(bench.poll(0), 0);
    let mut ended = 0;
    while ended < begun {
        ended += bench.poll(3); // which checks it
        std::thread::yield_now();
    }
    assert_eq!(bench.wait_all().len(), begun);
}

pub fn a_full_queue_refuses_and_goes_on(bench: &mut Bench) {
    const BEYOND: usize = 20_000;
    let (blocks, mut begun) = (bench.geometry().block_count.min(128), 0);
    let one = bench.blocks(Pattern::of(0), 0, 1);
    let refused = loop {
        assert!(begun < BEYOND, "a device that takes everything has no bound");
        let segment = one.segments()[0].clone();
        match bench.submit(BlockOp::Write { lba: begun as u64 % blocks, from: Sga::from(segment), forced: false }) {
            Ok(_) => begun += 1,
            Err((error, op)) => {
                assert_eq!(error, Error::NoBuffers);
                break op;
            }
        }
    };
    assert_eq!(bench.wait_all().len(), begun);
    assert!(matches!(&refused, BlockOp::Write { from, .. } if from.len() == bench.bytes(1)));
    bench.do_it(refused);
}

pub fn it_wakes_also_when_something_came_with_the_last_look(bench: &mut Bench) {
    for round in 0..50 {
        for lba in 0..16 {
            let from = bench.blocks(Pattern::of(round), lba, 1);
            bench.begin(BlockOp::Write { lba, from, forced: false });
        }
        bench.ring();
        while bench.is_waiting() {
            bench.sleep_after(1);
            bench.poll(2);
        }
        assert_eq!(bench.wait_all().len(), 16);
    }
}

pub fn what_was_flushed_is_there_when_it_is_opened_again(bench: &mut Bench) {
    for lba in 0..32 {
        let from = bench.blocks(Pattern::of(3), lba, 1);
        bench.begin(BlockOp::Write { lba, from, forced: false });
        if lba % 8 == 7 {
            bench.wait_all().into_iter().for_each(|done| assert_eq!(done.result, Ok(())));
        }
    }
    bench.do_it(BlockOp::Flush);
    bench.reopen();
    bench.expect(Pattern::of(3), 0, 32);
}

pub fn dropping_it_waits_for_what_is_under_way(bench: &mut Bench) {
    let pinned = bench.heap().stats().pinned;
    for round in 0..10 {
        let (mut written, mut reads) = (0, 0);
        for lba in 0..64 {
            let from = bench.blocks(Pattern::of(round), lba, 1);
            written += u64::from(bench.submit(BlockOp::Write { lba, from, forced: false }).is_ok());
            let into = bench.alloc(1);
            reads += u64::from(bench.submit(BlockOp::Read { lba: 64 + lba, into }).is_ok());
        }
        assert!(written >= 4 && reads >= 4, "{written} writes and {reads} reads");
        bench.ring();
        bench.close();
        assert_eq!(bench.heap().stats().pinned, pinned, "round {round}: dropped, and memory is held");
        bench.reopen();
        // What the device was told of is done, now that it is gone: no write comes later, over newer ones.
        bench.expect(Pattern::of(round), 0, written.min(4));
    }
}

pub fn discarding_touches_nothing_else(bench: &mut Bench) {
    for lba in 0..48 {
        let from = bench.blocks(Pattern::of(5), lba, 1);
        bench.do_it(BlockOp::Write { lba, from, forced: false });
    }
    let discard = BlockOp::Discard { lba: 16, block_count: 16 };
    if !bench.geometry().discards {
        let (error, _) = bench.submit(discard).expect_err("it says that it discards nothing");
        assert_eq!(error, Error::NotSupported);
    } else {
        bench.do_it(discard);
    }
    bench.expect(Pattern::of(5), 0, 16);
    bench.expect(Pattern::of(5), 32, 16);
    let from = bench.blocks(Pattern::of(6), 16, 1);
    bench.do_it(BlockOp::Write { lba: 16, from, forced: false });
    bench.expect(Pattern::of(6), 16, 1);
}

pub fn a_write_may_lie_in_as_many_segments_as_it_says(bench: &mut Bench) {
    let it = bench.geometry();
    let pieces = usize::from(it.gathers).min(40);
    let whole = Pattern::of(11).bytes(0, bench.bytes(4));
    let mut from = Sga::new();
    if pieces == 1 {
        from = bench.blocks(Pattern::of(11), 0, 4);
    } else {
        // Odd lengths at odd addresses.
        let cut = whole.len() / pieces - 1;
        for piece in 0..pieces {
            let end = if piece + 1 == pieces { whole.len() } else { (piece + 1) * cut };
            let mut shifted = bench.heap().alloc(end - piece * cut + 8).expect("room");
            shifted.put(&[0xff; 8][..piece % 8]);
            shifted.put(&whole[piece * cut..end]);
            from.push(shifted.freeze().slice(piece % 8..)).expect("room for a list");
        }
    }
    assert_eq!(from.segments().len(), pieces);
    bench.do_it(BlockOp::Write { lba: 0, from, forced: false });
    bench.expect(Pattern::of(11), 0, 4);
}

/// Whether a forced write is durable is for those to see that cut the power.
pub fn a_write_is_forced_or_refused(bench: &mut Bench) {
    let from = bench.blocks(Pattern::of(21), 3, 2);
    let forced = BlockOp::Write { lba: 3, from, forced: true };
    if bench.geometry().forces {
        assert!(bench.geometry().volatile_cache, "what is forced where nothing is lost?");
        bench.do_it(forced);
        bench.expect(Pattern::of(21), 3, 2);
    } else {
        let (error, back) = bench.submit(forced).unwrap_err();
        assert_eq!(error, Error::NotSupported);
        assert!(matches!(&back, BlockOp::Write { lba: 3, from, forced: true } if from.len() == bench.bytes(2)));
    }
    // Others go on as before.
    let from = bench.blocks(Pattern::of(22), 3, 2);
    bench.do_it(BlockOp::Write { lba: 3, from, forced: false });
    bench.expect(Pattern::of(22), 3, 2);
}

pub fn the_first_and_the_last_block_are_blocks(bench: &mut Bench) {
    let last = bench.geometry().block_count - 1;
    for (version, lba) in [(1, 0), (2, last)] {
        let from = bench.blocks(Pattern::of(version), lba, 1);
        bench.do_it(BlockOp::Write { lba, from, forced: false });
    }
    bench.do_it(BlockOp::Flush);
    bench.expect(Pattern::of(1), 0, 1);
    bench.expect(Pattern::of(2), last, 1);
}

pub fn a_transfer_may_be_as_long_as_it_says(bench: &mut Bench) {
    let it = bench.geometry();
    let count = u64::from(it.transfer_max).min(it.block_count).min((4 << 20) / u64::from(it.block_size));
    let from = bench.blocks(Pattern::of(8), 0, count);
    bench.do_it(BlockOp::Write { lba: 0, from, forced: false });
    for lba in [0, count / 2, count - 1] {
        bench.expect(Pattern::of(8), lba, 1);
    }
    // And back in one piece: the size classes have chunks of just 64 KiB.
    let long = ((64 << 10) / u64::from(it.block_size)).min(count);
    let read = bench.alloc(long);
    assert_eq!(read.capacity(), bench.bytes(long));
    let read = bench.do_it(BlockOp::Read { lba: 0, into: read }).expect("its memory");
    assert_eq!(Pattern::of(8).check(0, &read), Ok(()));
}

pub fn a_read_that_fails_gives_its_memory_back(bench: &mut Bench) {
    let last = bench.geometry().block_count - 1;
    bench.break_it();
    let into = bench.alloc(1);
    let done = bench.try_do(BlockOp::Read { lba: last, into });
    assert_eq!(done.result, Err(Error::Io));
    let back = done.read.expect("its memory, though it failed");
    assert_eq!((back.len(), back.capacity()), (0, bench.bytes(1)), "what was not read looks as if it was");
}
