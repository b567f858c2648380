//! The cache on simulated disks that are slow, full, or fail for a moment, one scenario after the other: what was
//! acknowledged is there when it boots again, and it boots.

mod room;
mod stage;
#[path = "../support/mod.rs"]
mod support;

use std::cell::Cell;
use std::io::Cursor;
use std::rc::Rc;
use std::time::Duration;

use framework::pdpix::{Heap, Output, Rng, Seed, WallTime};
use kv_client::Value;
use kv_engine::command::find;
use kv_engine::engine::{Engine, Session};
use kv_engine::resp::Request;
use kv_engine::shard::shard_of;
use kv_server::{Durability, Load};
use libos_sim::DiskSettings;
use stage::{Stage, TROUBLE, keys_of, long};
use support::*;

#[test]
fn a_key_that_was_prolonged_lives_though_loading_takes_its_time() {
    let mut stage = Stage::new(1, DiskSettings::new(8 << 20), |_| {});
    stage.ask("SET lease held EX 2");
    stage.ask("SAVE");
    for _ in 0..4 {
        stage.run(1000);
        assert_eq!(stage.ask("EXPIRE lease 2"), Value::Integer(1));
    }
    // Several ticks go by between the snapshot and the log behind it.
    stage.change_disks(|disk| disk.latency = Duration::from_millis(150)..=Duration::from_millis(160));
    stage.ask("EXPIRE lease 60");
    stage.restart();
    assert_eq!(stage.ask("GET lease").as_bytes(), Some(&b"held"[..]));
    stage.end();
}

/// A disk on which nothing is over soon.
fn slow(disk: &mut DiskSettings) {
    disk.latency = Duration::from_millis(150)..=Duration::from_millis(160);
}

fn quick(disk: &mut DiskSettings) {
    disk.latency = DiskSettings::new(0).latency;
}

#[test]
fn a_snapshot_begun_before_the_log_failed_does_not_stand_for_it() {
    let mut stage = Stage::new(1, DiskSettings::new(4 << 20), |_| {});
    for number in 0..10 {
        stage.set_long("long", number, 50_000);
    }
    stage.change_disks(slow);
    stage.ask("BGSAVE");
    stage.run(5);
    // Many times what is left of the disk: each record is given its place, or refused, while the snapshot is written.
    let pipeline: Vec<Vec<u8>> = (0..100).map(|number| long(number, 50_000)).collect();
    stage.pour(&pipeline);
    stage.run(2000);
    stage.change_disks(quick);
    assert!(stage.info().contains("rdb_saves:"));
    stage.await_write("probe");
    assert!(stage.info().contains("aof_last_write_status:ok"));
    stage.restart();
    assert_eq!(stage.ask("GET probe").as_bytes(), Some(&b"probe"[..]));
    stage.end();
}

/// Pieces of one record are refused, others of it are not: what was acknowledged before is there, and it boots.
#[test]
fn a_long_record_that_does_not_fit_spoils_nothing() {
    for len in [70_000, 130_000, 400_000] {
        let mut stage = Stage::new(1, DiskSettings::new(4 << 20), |_| {});
        stage.set_long("kept", 1, 1000);
        let mut last = 0;
        for number in 1..80 {
            let reply = stage.try_ask(&[b"SET", b"long", &long(number, len)]);
            if !matches!(reply, Some(Value::Simple(_))) {
                break;
            }
            last = number;
        }
        assert!((2..79).contains(&last), "{last} of {len} bytes fit");
        // What is not whole is no hindrance where nothing can be written, and does not come back where it can.
        stage.is_read_only.set(true);
        stage.restart();
        assert_eq!(stage.ask("GET kept").as_bytes(), Some(&long(1, 1000)[..]));
        stage.is_read_only.set(false);
        stage.restart();
        assert_eq!(stage.ask("GET kept").as_bytes(), Some(&long(1, 1000)[..]));
        // The last one, or the one that was not answered.
        let found = bulk(&stage.ask("GET long")).to_vec();
        assert!(found == long(last, len) || found == long(last + 1, len), "{len} bytes: not what was written");
        stage.end();
    }
}

/// One shard cannot write its part: there is no such snapshot, and the one who waits for it is told.
#[test]
fn a_snapshot_that_fails_on_one_core_is_none() {
    let disks = [2 << 20, 16 << 20].map(DiskSettings::new).to_vec();
    let mut stage = Stage::on_disks(disks, |_| {});
    for number in 0..30 {
        stage.set_long(&format!("key:{number}"), number, 60_000);
    }
    let mut refused = 0;
    for _ in 0..4 {
        refused += usize::from(matches!(stage.ask("SAVE"), Value::Error(_)));
        stage.run(200);
    }
    assert_eq!(refused, 4, "there is no room for it");
    stage.restart();
    for number in 0..30 {
        assert_eq!(stage.ask(&format!("GET key:{number}")).as_bytes(), Some(&long(number, 60_000)[..]));
    }
    stage.end();
}

/// What is on the disk when it starts counts for whether it is time to make the log short.
#[test]
fn a_log_grows_long_over_several_runs() {
    let mut stage = Stage::new(1, DiskSettings::new(8 << 20), |args| args.log_len_max = 1 << 20);
    for run in 0..3 {
        for number in 0..8 {
            stage.set_long("key", number, 50_000);
        }
        stage.run(500);
        eprintln!("{}", stage.info());
        assert_eq!(stage.info().contains("rdb_saves:0"), run < 2, "run {run}: {}", stage.info());
        stage.restart();
    }
    stage.end();
}

/// A file of Redis's is loaded, and the power goes before all cores have kept their part: it is loaded again.
#[test]
fn an_import_that_was_cut_short_begins_again() {
    let file = {
        let heap = Heap::alone(8 << 20).unwrap();
        let mut engine = Engine::new((0, 1), heap.clone(), Seed::new(1), Rng::new(1));
        for key in KEYS {
            let request = Request::of([b"SET", key, key], &heap).unwrap();
            let mut out = Output::new(heap.clone());
            engine.execute(find(&request).unwrap(), &request, Session::default(), WallTime::from_nanos(1), &mut out);
        }
        engine.save().unwrap().to_vec()
    };
    let mut cut_short = 0;
    for millis in (0..3000).step_by(100) {
        let file = file.clone();
        let mut disks = vec![DiskSettings::new(8 << 20); 2];
        slow(&mut disks[1]);
        let mut stage = Stage::on_disks(disks, move |args| {
            let file = file.clone();
            args.load =
                Some(Load::new(move |index| Ok((index == 0).then(|| Box::new(Cursor::new(file.clone())) as Box<_>))));
        });
        stage.run(millis);
        stage.change_disks(quick);
        stage.restart();
        stage.run(10);
        for key in KEYS {
            assert_eq!(
                stage.ask(&format!("GET {}", key.escape_ascii())).as_bytes(),
                Some(key),
                "cut after {millis} ms"
            );
        }
        cut_short += usize::from(stage.info().contains("rdb_saves:1"));
        stage.end();
    }
    assert!((1..30).contains(&cut_short), "{cut_short} of 30 were cut short");
}

/// The disk stands still while much more is written than may be under way: who writes waits, nothing fails.
#[test]
fn a_disk_that_is_behind_holds_back_who_writes() {
    let mut stage = Stage::new(1, DiskSettings::new(128 << 20), |args| args.durability = Durability::EverySecond);
    stage.set_long("whole", 1, 4_000_000);
    stage.run(2000);
    stage.change_disks(slow);
    let values: Vec<Vec<u8>> = (0..90).map(|number| long(number, 600_000)).collect();
    stage.pour(&values);
    let most = stage.most_that_waits();
    assert!((15_000_000..36_000_000).contains(&most), "{most} bytes have waited");
    stage.change_disks(quick);
    stage.run(10_000);
    stage.restart();
    assert_eq!(stage.ask("GET poured").as_bytes(), Some(&values[89][..]));
    assert_eq!(stage.ask("GET whole").as_bytes(), Some(&long(1, 4_000_000)[..]));
    stage.end();
}

/// The file of one core is gone: it does not start, changes nothing, and does so when the file is back.
#[test]
fn a_core_without_its_data_is_told() {
    for has_snapshot in [false, true] {
        let mut stage = Stage::new(2, DiskSettings::new(4 << 20), |_| {});
        stage.ask("MSET a 1 b 2 c 3 d 4");
        if has_snapshot {
            stage.ask("SAVE");
        }
        stage.world.crash(stage.server);
        let disk = stage.world.disk(stage.server, 1);
        let contents = disk.contents();
        disk.damage(0, |bytes| bytes.fill(0));
        for _ in 0..2 {
            stage.world.restart(stage.server);
            stage.run(500);
            let trouble = TROUBLE.with(|trouble| std::mem::take(&mut *trouble.borrow_mut()));
            assert!(trouble.iter().any(|why| why.contains("there is nothing of core 1")), "{trouble:?}");
            stage.world.crash(stage.server);
        }
        disk.damage(0, |bytes| bytes.copy_from_slice(&contents));
        stage.world.restart(stage.server);
        let all = stage.ask("MGET a b c d");
        let all: Vec<&[u8]> = all.as_slice().unwrap().iter().map(bulk).collect();
        assert_eq!(all, [b"1", b"2", b"3", b"4"]);
        stage.end();
    }
}

/// An MSET that waits for a shard behind another one, of which a disk has lost a part: what is acknowledged of both is there
/// after a restart, and the one behind is not lost with the one before it.
#[test]
fn nothing_is_acknowledged_behind_a_command_that_one_log_has_lost() {
    for size in [10, 70_000] {
        let mut stage = Stage::new(3, DiskSettings::new(8 << 20), |_| {});
        let [a, b] = keys_of([0, 1], 3, "first");
        let [c, d] = keys_of([1, 2], 3, "second");
        stage.ask("MSET before 1 and 2 behind 3");
        stage.change_disks(|disk| disk.latency = Duration::from_millis(100)..=Duration::from_millis(101));
        // Its write ends as one that finds no blocks, when the other part is durable already.
        stage.world.disk(stage.server, 0).change(|disk| {
            disk.latency = Duration::from_millis(150)..=Duration::from_millis(151);
            disk.full = 1.0;
        });
        let value = long(1, size);
        let first = stage.begin_asking(&[b"MSET", a.as_bytes(), &value, b.as_bytes(), &value]);
        stage.run(20);
        let second = stage.begin_asking(&[b"MSET", c.as_bytes(), &value, d.as_bytes(), &value]);
        assert!(!matches!(stage.await_answer(&first), Some(Value::Simple(_))), "one log does not have it");
        let second = stage.await_answer(&second);
        let behind = stage.try_ask(&[b"SET", d.as_bytes(), b"behind"]);
        stage.change_disks(quick);
        stage.change_disks(|disk| disk.full = 0.0);
        stage.restart();
        if matches!(behind, Some(Value::Simple(_))) {
            assert_eq!(stage.ask(&format!("GET {d}")).as_bytes(), Some(&b"behind"[..]), "this was acknowledged");
        } else if matches!(second, Some(Value::Simple(_))) {
            let found = stage.ask(&format!("MGET {c} {d}"));
            let found: Vec<_> = found.as_slice().unwrap().iter().map(Value::as_bytes).collect();
            assert_eq!(found, [Some(&value[..]); 2], "this was acknowledged");
        }
        stage.await_write("probe");
        stage.end();
    }
}

/// The logs of all cores become long in the same moment, and each core asks for a snapshot: one is written, and those who were
/// told that there is one already have not spoilt it.
#[test]
fn snapshots_asked_for_in_one_moment_do_not_spoil_each_other() {
    for cores in [2, 3] {
        let mut stage = Stage::new(cores, DiskSettings::new(8 << 20), |args| args.log_len_max = 120_000);
        let keys = (0..cores).map(|shard| keys_of([shard], cores, "key")).collect::<Vec<_>>();
        let value = long(1, 50_000);
        for round in 1..=5 {
            for _ in 0..4 {
                let pairs = keys.iter().flat_map(|[key]| [key.as_bytes(), &value]);
                let words: Vec<&[u8]> = std::iter::once(&b"MSET"[..]).chain(pairs).collect();
                assert!(matches!(stage.try_ask(&words), Some(Value::Simple(_))));
            }
            stage.run(500);
            let info = stage.info();
            let saves = info.lines().find_map(|line| line.strip_prefix("rdb_saves:")).expect("a count");
            assert!(saves.trim().parse::<usize>().unwrap() >= round, "{cores} cores, round {round}: {info}");
            assert!(info.contains("bgsave_status:ok"), "{info}");
        }
        stage.restart();
        assert_eq!(stage.ask("DBSIZE"), Value::Integer(cores as i64));
        stage.end();
    }
}

/// The service is being stopped in the middle of a long snapshot: it does not wait for that.
#[test]
fn a_stop_does_not_wait_for_a_snapshot() {
    let mut stage = Stage::new(2, DiskSettings::new(16 << 20), |_| {});
    for number in 0..120 {
        stage.set_long(&format!("key:{number}"), number, 50_000);
    }
    stage.change_disks(slow);
    assert!(matches!(stage.ask("BGSAVE"), Value::Simple(_)));
    assert!(stage.stop(1500), "both cores have come to their end");
    stage.end();
}

/// Stopped at any moment of a snapshot, and started again: while its pieces are written, while it is noted, and while the
/// cores tell each other that it is whole.
#[test]
fn a_snapshot_in_which_the_service_is_stopped_costs_nothing() {
    let mut cut_short = 0;
    for seed in 0..18 {
        let (cores, mut rng) = (1 + seed as usize % 3, Rng::new(seed));
        let mut stage = Stage::new(cores, DiskSettings::new(8 << 20), |_| {});
        stage.change_disks(|disk| {
            disk.latency = Duration::from_micros(50)..=Duration::from_micros(200);
            disk.flush_latency = Duration::from_millis(2)..=Duration::from_millis(3);
        });
        for round in 0..20 {
            let written = format!("round {round}");
            for key in &KEYS[..4] {
                assert!(matches!(stage.try_ask(&[b"SET", key, written.as_bytes()]), Some(Value::Simple(_))));
            }
            assert!(matches!(stage.ask("BGSAVE"), Value::Simple(_)), "seed {seed}, round {round}");
            stage.world.run_for(Duration::from_micros(rng.below(16_000)));
            let info = stage.ask("INFO persistence");
            let info = String::from_utf8_lossy(info.as_bytes().unwrap());
            cut_short += u64::from(info.contains("rdb_bgsave_in_progress:1"));
            let later = [(); 3].map(|()| Duration::from_micros([0, 1, 10, 200][rng.below(4) as usize]));
            assert!(stage.stop_apart(&later, 200), "the cores do not end: seed {seed}, round {round}");
            stage.restart();
            for key in &KEYS[..4] {
                let value = stage.try_ask(&[b"GET", key]).unwrap();
                assert_eq!(value.as_bytes(), Some(written.as_bytes()), "seed {seed}, round {round}");
            }
        }
        stage.end();
    }
    assert!((60..340).contains(&cut_short), "{cut_short} of 360 snapshots were cut short");
}

/// What all cores have noted as whole is not passed over for nothing at all, if one of them has lost it.
#[test]
fn a_snapshot_that_was_whole_and_is_gone_is_told() {
    let mut stage = Stage::new(2, DiskSettings::new(8 << 20), |args| args.durability = Durability::None);
    for key in &KEYS[..4] {
        assert!(matches!(stage.try_ask(&[b"SET", key, b"held"]), Some(Value::Simple(_))));
    }
    assert!(matches!(stage.ask("SAVE"), Value::Simple(_)));
    stage.run(1000);
    stage.restart();
    assert_eq!(stage.try_ask(&[b"GET", KEYS[0]]).unwrap().as_bytes(), Some(&b"held"[..]));
    stage.lose_snapshots(1);
    stage.run(1000);
    let told = TROUBLE.with(|trouble| trouble.borrow().concat());
    assert!(told.contains("is not there any more on: 1"), "{told}");
    stage.end();
}

/// The time of day goes back by an hour: what was written down before is not younger than what is written down then, and a
/// key that has expired does not come back, neither at once nor from the log.
#[test]
fn time_that_goes_back_brings_nothing_back() {
    let mut stage = Stage::new(1, DiskSettings::new(8 << 20), |_| {});
    stage.ask("SET short held PX 500");
    stage.ask("SET long held EX 5000");
    stage.run(1000);
    assert_eq!(stage.ask("GET short"), Value::Null);
    stage.world.set_clocks_back(Duration::from_secs(3600));
    assert_eq!(stage.ask("GET short"), Value::Null);
    stage.ask("SET later held EX 100");
    assert_eq!(stage.ask("APPEND short x"), Value::Integer(1), "it is a new one");
    let left = |stage: &mut Stage, key: &str| match stage.ask(&format!("TTL {key}")) {
        Value::Integer(seconds) => seconds,
        other => panic!("{other:?}"),
    };
    for round in 0..2 {
        // By the cache's own time, which stands still meanwhile.
        assert!((99..=100).contains(&left(&mut stage, "later")), "round {round}");
        assert!((4990..=5000).contains(&left(&mut stage, "long")), "round {round}");
        assert_eq!(stage.ask("TTL short"), Value::Integer(-1), "round {round}");
        assert_eq!(stage.ask("GET short").as_bytes(), Some(&b"x"[..]), "round {round}");
        stage.restart();
    }
    stage.world.set_clocks_back(Duration::ZERO);
    stage.run(200_000);
    assert_eq!(stage.ask("GET later"), Value::Null);
    stage.end();
}

/// The service is asked to end: what was acknowledged last is written, on all cores, without `always`; the power goes
/// soon after.
#[test]
fn an_orderly_stop_keeps_the_last_writes_of_all_cores() {
    for cores in [1, 2, 3] {
        let mut stage = Stage::new(cores, DiskSettings::new(8 << 20), |args| args.durability = Durability::EverySecond);
        for round in 0..3 {
            for (index, key) in KEYS.iter().enumerate() {
                let value = format!("{round}:{index}");
                let reply = stage.try_ask(&[b"SET", key, value.as_bytes()]);
                assert!(matches!(reply, Some(Value::Simple(_))), "{reply:?}");
            }
            let mut joint: Vec<&[u8]> = vec![b"MSET"];
            KEYS.iter().take(3).for_each(|key| joint.extend([*key, b"together"]));
            assert!(matches!(stage.try_ask(&joint), Some(Value::Simple(_))));
            // Far sooner than anything would be written of itself.
            assert!(stage.stop(100), "{cores} cores do not end");
            stage.restart();
            for (index, key) in KEYS.iter().enumerate() {
                let value = if index < 3 { "together".to_owned() } else { format!("{round}:{index}") };
                assert_eq!(stage.try_ask(&[b"GET", key]).unwrap().as_bytes(), Some(value.as_bytes()), "{cores} cores");
            }
        }
        stage.end();
    }
}

/// The disk of the other core stands still: who writes there waits, by commands over several shards, too.
#[test]
fn a_disk_that_is_behind_holds_back_commands_over_several_cores() {
    let mut disks = vec![DiskSettings::new(128 << 20); 2];
    slow(&mut disks[1]);
    let mut stage = Stage::on_disks(disks, |args| args.durability = Durability::EverySecond);
    let on = |core: usize| {
        let key = KEYS.into_iter().find(|key| shard_of(key, 2) == core).unwrap();
        std::str::from_utf8(key).unwrap()
    };
    stage.ask("PING");
    let to = stage.world.endpoint(stage.server, PORT);
    let values: Rc<Vec<Vec<u8>>> = Rc::new((0..90).map(|number| long(number, 600_000)).collect());
    let theirs = values.clone();
    let answered = Rc::new(Cell::new(0));
    let count = answered.clone();
    converse(&mut stage.world, "writer", move |task| async move {
        let mut kv = connected(&task, to).await;
        for value in theirs.iter() {
            let reply = kv.call(&[b"MSET", on(0).as_bytes(), b"x", on(1).as_bytes(), value]).await;
            assert!(matches!(reply, Ok(Value::Simple(_))), "{reply:?}");
            count.set(count.get() + 1);
        }
    });
    let most = stage.most_that_waits();
    assert!((15_000_000..36_000_000).contains(&most), "{most} bytes have waited");
    assert!(answered.get() < 90, "nobody was held back");
    stage.change_disks(quick);
    stage.run(20_000);
    assert_eq!(answered.get(), 90);
    stage.restart();
    assert_eq!(stage.ask(&format!("GET {}", on(1))).as_bytes(), Some(&values[89][..]));
    stage.end();
}
