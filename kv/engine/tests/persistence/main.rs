//! What the engine writes down of itself, and what is made of that again: a log of records, and snapshots written while
//! the data goes on changing.
//!
//! Commands are generated as for the comparison with redis-server, with a clock that moves. `MARGAY_SEED` chooses the
//! first case, `MARGAY_LONG=1` runs for minutes.

mod world;

use std::time::{Duration, Instant};

use kv_differential::case;
use kv_differential::generate::{command, words};
use kv_engine::engine::{Engine, Limits};
use kv_engine::rdb::Reader;
use pdpix::{Heap, Rng, Seed, WallTime};
use world::{World, bytes};

fn heap() -> Heap {
    Heap::alone(256 << 20).expect("memory for a heap")
}

fn args(line: &str) -> Vec<Vec<u8>> {
    words(line)
}

/// For some seconds: each case with its seed.
fn cases(seconds: u64, mut case: impl FnMut(u64)) {
    let deadline = Instant::now() + Duration::from_secs(if case::is_long() { 120 } else { seconds });
    let first = case::first_seed();
    let mut count = 0;
    while Instant::now() < deadline || count == 0 {
        println!("MARGAY_SEED={:#x}", first + count);
        case(first + count);
        count += 1;
    }
    println!("{count} cases from MARGAY_SEED={first:#x}");
}

/// A generated command that concerns keys, the database that it is for, and perhaps some time that goes by.
fn next(rng: &mut Rng, world: &mut World) -> (Vec<Vec<u8>>, u8) {
    if rng.chance(0.05) {
        world.now += rng.below(200_000);
    }
    let mut args = command(rng);
    if rng.chance(0.01) {
        args = self::args(if rng.chance(0.5) { "SWAPDB 0 1" } else { "FLUSHDB" });
    }
    if rng.chance(0.02) {
        let elements = (0..3000).map(|n| format!(" {n} {n}x")).collect::<String>();
        let commands = ["RPUSH l1", "SADD t1", "ZADD z1", "HSET h1"];
        args = self::args(&format!("{}{elements}", commands[rng.below(4) as usize]));
    }
    (args, u8::from(rng.chance(0.2)))
}

#[test]
fn a_log_makes_the_same_data_again() {
    let heap = heap();
    cases(6, |seed| {
        let (mut rng, mut world) = (Rng::new(seed), World::new(1 + (seed % 3) as usize, &heap));
        world.keep_log();
        for _ in 0..100 {
            let (args, database) = next(&mut rng, &mut world);
            world.run(&args, database);
            let mut sent = Vec::new();
            while rng.chance(0.7) {
                let (args, database) = next(&mut rng, &mut world);
                sent.push((args, database, world.now));
            }
            world.run_sent(&sent);
            if rng.chance(0.3) {
                world.take_records();
            }
            if rng.chance(0.05) {
                let now = WallTime::from_nanos(world.now * 1_000_000);
                world.engines.iter_mut().for_each(|engine| _ = engine.expire_some(now, 5));
            }
        }
        world.take_records();
        for (shard, expected) in world.contents().into_iter().enumerate() {
            assert_eq!(world.recovered(shard, None, &world.records[shard], 1), expected, "shard {shard}");
        }
    });
}

/// What came together is written down as it came, once; each entry says what it must and no more.
#[test]
fn commands_that_came_together_are_written_down_together() {
    let heap = heap();
    let mut world = World::new(1, &heap);
    world.keep_log();
    let set = |number: usize, len: usize| (args(&format!("SET key:{number} {}", "v".repeat(len))), 0, 1_000_000);
    // Each is 35 bytes of protocol, 8 of it, and its value.
    let sent: Vec<_> = (10..26).map(|number| set(number, 64)).collect();
    world.run_sent(&sent);
    world.take_records();
    let (around, each) = (9 + 1 + 4 + 9, world.records[0][0].len());
    let came: usize = "*3\r\n$3\r\nSET\r\n$6\r\nkey:10\r\n$64\r\n\r\n".len() + 64;
    assert_eq!(each, around + 16 * came, "a time, one entry, and the end");
    // A read between does not end it, as it is not written down; another time does, and so does one that failed.
    let mut sent = vec![set(10, 1), (args("GET key:10"), 0, 1_000_000), set(11, 1)];
    sent.extend([(args("LPUSH key:10 x"), 0, 1_000_000), set(12, 1), (args("INCRBY n 5"), 0, 1_000_001)]);
    sent.push((args("SPOP none"), 0, 1_000_001));
    sent.push((args("SADD set a"), 0, 1_000_001));
    sent.push((args("SPOP set"), 0, 1_000_001));
    // Too long to be copied: it goes by reference, and what is behind it is written behind it.
    sent.extend([set(13, 5000), set(14, 1)]);
    world.run_sent(&sent);
    world.take_records();
    let expected = world.contents();
    assert_eq!(world.recovered(0, None, &world.records[0], 1), expected[0]);
    assert_eq!(expected[0].len(), 17, "{expected:?}");
}

#[test]
fn a_snapshot_is_the_data_at_one_moment_while_it_changes() {
    let heap = heap();
    cases(8, |seed| {
        let (mut rng, mut world) = (Rng::new(seed), World::new(1 + (seed % 2) as usize, &heap));
        world.keep_log();
        for _ in 0..200 {
            let (args, database) = next(&mut rng, &mut world);
            world.run(&args, database);
        }
        world.take_records();
        // The cut: whatever follows is in the log alone.
        let before = world.contents();
        let cut_at = world.now;
        let cut: Vec<usize> = world.records.iter().map(Vec::len).collect();
        world.engines.iter_mut().for_each(|engine| engine.begin_snapshot([("made-by", "test")]));
        let mut files = vec![Vec::new(); world.engines.len()];
        let mut written = vec![false; files.len()];
        while !written.iter().all(|&is| is) {
            for _ in 0..rng.below(4) {
                let (args, database) = next(&mut rng, &mut world);
                world.run(&args, database);
            }
            let now = WallTime::from_nanos(world.now * 1_000_000);
            for (shard, engine) in world.engines.iter_mut().enumerate() {
                if written[shard] {
                    continue;
                }
                engine.expire_some(now, 3);
                written[shard] = engine.snapshot_step(1 + rng.below(30) as usize).is_written;
                let taken =
                    if written[shard] { engine.end_snapshot().unwrap() } else { engine.take_snapshot().unwrap() };
                files[shard].extend(bytes(taken));
            }
        }
        for _ in 0..50 {
            let (args, database) = next(&mut rng, &mut world);
            world.run(&args, database);
        }
        world.take_records();
        let (after, now) = (world.contents(), world.now);
        for shard in 0..files.len() {
            world.now = cut_at;
            assert_eq!(world.recovered(shard, Some(&files[shard]), &[], 1), before[shard], "the cut of shard {shard}");
            world.now = now;
            let rest = &world.records[shard][cut[shard]..];
            let made = world.recovered(shard, Some(&files[shard]), rest, cut[shard] as u64 + 1);
            assert_eq!(made, after[shard], "snapshot and log of shard {shard}");
        }
    });
}

#[test]
fn a_record_out_of_turn_or_damaged_is_refused() {
    use kv_engine::log::LogError;
    let heap = heap();
    let mut world = World::new(1, &heap);
    world.keep_log();
    world.run(&args("SET a 1"), 0);
    world.take_records();
    let record = world.records[0][0].clone();
    let replay = |record: &[u8], last: u64| {
        let mut engine = Engine::new((0, 1), heap.clone(), Seed::new(1), Rng::new(1));
        engine.replay(record, last)
    };
    assert_eq!(replay(&record, 0), Ok(Some(1_000_000)));
    assert_eq!(replay(&record, 1), Err(LogError::Gap { expected: 2, found: 1 }));
    for len in 0..record.len() {
        assert!(replay(&record[..len], 0).is_err(), "{len} bytes of a record");
    }
    world.run(&args("INCR a"), 0);
    world.take_records();
    // On data that is not what it was.
    let mut engine = Engine::new((0, 1), heap.clone(), Seed::new(1), Rng::new(1));
    let mut other = World::new(1, &heap);
    other.keep_log();
    other.run(&args("SET a text"), 0);
    other.take_records();
    engine.replay(&other.records[0][0], 0).unwrap();
    assert!(matches!(engine.replay(&world.records[0][1], 1), Err(LogError::Refused(_))));
}

#[test]
fn what_waits_grows_by_keys_that_change_and_each_counts_once() {
    let heap = heap();
    let mut world = World::new(1, &heap);
    for n in 0..2000 {
        world.run(&args(&format!("SET key:{n} {}", "x".repeat(100))), 0);
    }
    world.engines[0].begin_snapshot([]);
    for round in 0..20 {
        for n in 0..500 {
            world.run(&args(&format!("SET key:{n} {round}")), 0);
        }
    }
    let progress = world.engines[0].snapshot_step(1);
    assert!((498..=500).contains(&progress.written_ahead), "{progress:?}");
    assert!(progress.waiting < 500 * 130, "{progress:?}");
    // A step is as long as was asked for: about as many keys.
    let taken = bytes(world.engines[0].take_snapshot().unwrap());
    assert!(taken.len() < 500 * 130 + 200);
    world.engines[0].snapshot_step(100);
    let step = bytes(world.engines[0].take_snapshot().unwrap()).len();
    assert!((60 * 110..200 * 130).contains(&step), "{step}");
}

#[test]
fn nothing_stays_pinned() {
    let heap = heap();
    let mut world = World::new(1, &heap);
    for n in 0..300 {
        world.run(&args(&format!("SET key:{n} {}", "x".repeat(3000))), 0);
    }
    world.run(&args(&format!("RPUSH l {}", "y ".repeat(3000))), 0);
    world.engines[0].begin_snapshot([]);
    world.engines[0].snapshot_step(50);
    world.run(&args("FLUSHALL"), 0);
    let pinned = heap.stats().pinned;
    assert!(pinned > 300 * 2500, "what was flushed is kept until it is written: {pinned}");
    while !world.engines[0].snapshot_step(1000).is_written {}
    drop(world.engines[0].end_snapshot().unwrap());
    while world.engines[0].free_some() {}
    drop(world);
    assert_eq!(heap.stats().pinned, 0);
}

/// A cache as full as it may be starts again from what it has kept; somebody else's file has to fit.
#[test]
fn a_full_cache_loads_its_own_snapshot() {
    let heap = heap();
    let mut world = World::new(1, &heap);
    for key in 0..1000 {
        world.run(&args(&format!("SET key:{key} {key}{}", "v".repeat(500))), 0);
    }
    let full = Limits { memory: Some(heap.stats().pinned / 2), spans_left: 1, bulk_len: 2, ..Limits::default() };
    world.engines[0].set_limits(full);
    world.engines[0].reload().expect("room for what was there");
    let file = bytes(world.engines[0].save().unwrap());
    for (now, is_loaded) in [(None, true), (Some(WallTime::from_nanos(1)), false)] {
        let mut engine = Engine::new((0, 1), heap.clone(), Seed::new(1), Rng::new(1));
        engine.set_limits(full);
        let mut reader = Reader::new();
        reader.feed(&file);
        reader.finish();
        let loaded = engine.load(&mut reader, |_| true, now, usize::MAX);
        assert_eq!(loaded.is_ok(), is_loaded, "{loaded:?}");
        assert_eq!(engine.size(0).keys == 1000, is_loaded);
    }
}

/// A step of a snapshot ends when it has written enough, however few elements that were.
#[test]
fn a_step_of_long_values_is_short() {
    let heap = heap();
    let mut world = World::new(1, &heap);
    let long = vec![b'v'; 100_000];
    for key in 0..300 {
        let key = format!("{key}").into_bytes();
        world.run(&[b"SET".to_vec(), key.clone(), long.clone()], 0);
        world.run(&[b"RPUSH".to_vec(), b"list".to_vec(), long.clone()], 1);
        world.run(&[b"HSET".to_vec(), b"hash".to_vec(), key, b"short".to_vec()], 1);
    }
    (0..500)
        .for_each(|field| _ = world.run(&[b"RPUSH".to_vec(), b"list".to_vec(), format!("{field}").into_bytes()], 1));
    world.engines[0].begin_snapshot([]);
    let (mut steps, mut most) = (0, 0);
    loop {
        let progress = world.engines[0].snapshot_step(1000);
        (steps, most) = (steps + 1, most.max(progress.waiting));
        if progress.is_written {
            break;
        }
        world.engines[0].take_snapshot().unwrap();
    }
    // What is looked at in one go before it is known to be long.
    assert!(most <= 33 * 100_000 + (512 << 10), "{most} bytes in one step");
    assert!((100..1000).contains(&steps), "{steps} steps");
}
