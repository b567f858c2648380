//! Disks that become full: what is refused before, and the way back.

use crate::stage::{Stage, TROUBLE, long};
use crate::support::*;
use crate::{quick, slow};
use framework::pdpix::block::Geometry;
use framework::pdpix::{Heap, Output, Rng, Seed, WallTime};
use kv_client::Value;
use kv_engine::command::find;
use kv_engine::engine::{Engine, Session};
use kv_engine::resp::Request;
use kv_server::{Durability, Load};
use libos_sim::DiskSettings;
use std::cell::{Cell, RefCell};
use std::io::Cursor;
use std::rc::Rc;
use std::time::Duration;

/// A disk is filled with data of which no second copy fits: what was acknowledged stays, and whoever deletes some of it can
/// write again, with and without a word to the cache of how much room there is.
#[test]
fn a_full_disk_is_no_dead_end() {
    for (cores, is_told) in [(1, true), (2, true), (1, false)] {
        let size = 4 << 20;
        let mut stage = Stage::new(cores, DiskSettings::new(size), |args| {
            args.log_len_max = size / 4;
            args.storage_len = if is_told { size } else { u64::MAX };
        });
        let mut kept = Vec::new();
        for number in 0..1000 {
            match stage.try_ask(&[b"SET", format!("key:{number}").as_bytes(), &long(number, 50_000)]) {
                Some(Value::Simple(_)) => kept.push(number),
                Some(Value::Error(text)) => {
                    assert!(text.starts_with(b"MISCONF"), "{}", text.escape_ascii());
                    break;
                }
                _ => {}
            }
        }
        assert!((20..500).contains(&kept.len()), "{} fit", kept.len());
        // Snapshots that do not fit are tried, and given up; a restart does not change that.
        stage.run(20_000);
        stage.restart();
        for number in &kept {
            let value = stage.ask(&format!("GET key:{number}"));
            assert_eq!(value.as_bytes(), Some(&long(*number, 50_000)[..]), "key:{number}");
        }
        if is_told {
            for number in kept.drain(10..) {
                assert_eq!(stage.ask(&format!("DEL key:{number}")), Value::Integer(1), "key:{number}");
            }
        } else {
            // The log is open again after the restart, and what it says of deleting is short.
            kept.clear();
            let _ = stage.try_ask(&[b"FLUSHALL"]);
        }
        stage.await_write("probe");
        stage.restart();
        assert_eq!(stage.ask("GET probe").as_bytes(), Some(&b"probe"[..]));
        let size = if cores == 1 && !is_told { 1 } else { kept.len() as i64 + 1 };
        assert_eq!(stage.ask("DBSIZE"), Value::Integer(size));
        stage.end();
    }
}

/// A disk of 4096 B blocks: each lone record takes one, and the log is made short before it has taken the disk.
#[test]
fn a_disk_of_large_blocks_is_not_filled_by_small_records() {
    let size = 4 << 20;
    let usual = DiskSettings::new(size);
    let geometry = Geometry { block_size: 4096, block_count: size / 4096, align: 4096, ..usual.geometry };
    let mut stage = Stage::new(1, DiskSettings { geometry, ..usual }, |args| {
        args.log_len_max = size / 4;
        (args.storage_len, args.storage_unit) = (size, 4096);
    });
    // It answers when it has loaded.
    stage.ask("GET key");
    // Three times what the disk has room for, one after the other.
    let to = stage.world.endpoint(stage.server, PORT);
    let replies: Rc<RefCell<Vec<Option<Value>>>> = Rc::default();
    let place = replies.clone();
    converse(&mut stage.world, "setter", move |task| async move {
        let mut kv = connected(&task, to).await;
        for number in 0..3000 {
            let reply = kv.call(&[b"SET", b"key", format!("value-{number}").as_bytes()]).await.ok();
            place.borrow_mut().push(reply);
        }
    });
    let begun = stage.world.now();
    while replies.borrow().len() < 3000 {
        stage.run(10);
        let refused = replies.borrow().iter().position(|reply| !matches!(reply, Some(Value::Simple(_))));
        assert_eq!(refused, None, "{:?}", replies.borrow().last());
        assert!(stage.world.now().since(begun) < Duration::from_secs(60), "no answer");
    }
    stage.restart();
    assert_eq!(stage.ask("GET key").as_bytes(), Some(&b"value-2999"[..]));
    stage.end();
}

/// Nobody has told the cache how large the disk is: a snapshot takes all there is, fails, and gives it back. So does one in
/// whose middle the power went.
#[test]
fn a_snapshot_that_does_not_fit_gives_its_space_back() {
    let mut stage = Stage::new(1, DiskSettings::new(4 << 20), |_| {});
    for number in 0..42 {
        stage.set_long(&format!("key:{number}"), number, 50_000);
    }
    for round in 0..3 {
        assert!(matches!(stage.ask("SAVE"), Value::Error(_)), "round {round}");
        stage.run(200);
    }
    stage.change_disks(slow);
    stage.ask("BGSAVE");
    stage.run(1500);
    stage.change_disks(quick);
    stage.restart();
    stage.ask("GET key:0");
    stage.run(200);
    for number in 42..54 {
        stage.set_long(&format!("key:{number}"), number, 50_000);
    }
    stage.restart();
    for number in 0..54 {
        assert_eq!(stage.ask(&format!("GET key:{number}")).as_bytes(), Some(&long(number, 50_000)[..]));
    }
    stage.end();
}

/// Asks the same again and again on one connection, with other words in the place of `{}`; how often it was taken before it was
/// refused for want of room.
fn repeat(stage: &mut Stage, line: &'static str, most: usize) -> usize {
    let to = stage.world.endpoint(stage.server, PORT);
    let taken: Rc<Cell<Option<usize>>> = Rc::default();
    let place = taken.clone();
    stage.asked += 1;
    converse(&mut stage.world, &format!("repeater {}", stage.asked), move |task| async move {
        let mut kv = connected(&task, to).await;
        for number in 0..most {
            let line = line.replace("{}", &number.to_string());
            let words: Vec<&[u8]> = line.split(' ').map(str::as_bytes).collect();
            match kv.call(&words).await.expect("an answer") {
                Value::Error(text) if text.starts_with(b"MISCONF") => return place.set(Some(number)),
                Value::Integer(_) => {}
                other => panic!("{other:?}"),
            }
        }
        place.set(Some(most));
    });
    for _ in 0..60_000 {
        if let Some(taken) = taken.get() {
            return taken;
        }
        stage.run(1);
    }
    panic!("no answer in a minute");
}

/// What does not let data grow is written down, too, and fills the disk as well: each kind of command stops while there is room
/// for the next, and who deletes enough, or all, can write again; before and after a restart.
#[test]
fn a_disk_is_not_filled_by_what_does_not_grow() {
    for restarts in [false, true] {
        let size = 4 << 20;
        let mut stage = Stage::new(1, DiskSettings::new(size), |args| {
            (args.log_len_max, args.storage_len) = (size / 4, size);
        });
        for number in 0..15 {
            let keys: Vec<String> = (0..100).map(|key| format!("small:{}", number * 100 + key)).collect();
            let pairs = keys.iter().flat_map(|key| [key.as_bytes(), b"value"]);
            let words: Vec<&[u8]> = std::iter::once(&b"MSET"[..]).chain(pairs).collect();
            assert!(matches!(stage.try_ask(&words), Some(Value::Simple(_))));
        }
        let mut number = 0;
        while let Some(Value::Simple(_)) =
            stage.try_ask(&[b"SET", format!("long:{number}").as_bytes(), &long(number, 50_000)])
        {
            number += 1;
        }
        stage.run(6000);
        let prolonged = repeat(&mut stage, "EXPIRE long:0 10000{}", 10_000);
        assert!((100..5000).contains(&prolonged), "{prolonged} were prolonged");
        if restarts {
            stage.restart();
            stage.ask("GET long:0");
        }
        assert_eq!(repeat(&mut stage, "PERSIST long:0", 1), 0, "there is no room for that");
        let deleted = repeat(&mut stage, "DEL small:{}", 10_000);
        assert!((100..1500).contains(&deleted), "{deleted} were deleted");
        if restarts {
            stage.restart();
        }
        // No snapshot of what is left fits.
        stage.run(11_000);
        assert!(matches!(stage.ask("DEL long:0"), Value::Error(_)), "{}", stage.info());
        assert!(matches!(stage.ask("FLUSHALL"), Value::Simple(_)));
        stage.await_write("probe");
        stage.restart();
        assert_eq!(stage.ask("DBSIZE"), Value::Integer(1));
        stage.end();
    }
}

/// Without a log nothing is short, however long the last snapshot is: nothing is refused, and nobody asks for another one.
#[test]
fn a_long_snapshot_without_a_log_refuses_nothing() {
    let size = 4 << 20;
    let mut stage = Stage::new(1, DiskSettings::new(size), |args| {
        (args.log_len_max, args.storage_len, args.durability) = (size / 4, size, Durability::None);
    });
    for number in 0..50 {
        stage.set_long(&format!("key:{number}"), number, 50_000);
    }
    assert!(matches!(stage.ask("SAVE"), Value::Simple(_)));
    for _ in 0..2 {
        stage.set_long("more", 1, 1000);
        stage.run(12_000);
        let info = stage.info();
        assert!(info.contains("bgsave_status:ok") && info.contains("write_status:ok"), "{info}");
        stage.set_long("more", 2, 1000);
        stage.restart();
        assert_eq!(stage.ask("DBSIZE"), Value::Integer(50));
    }
    assert!(matches!(stage.ask("SAVE"), Value::Error(_)), "there is no room beside the other");
    stage.end();
}

/// A file of which no second snapshot fits is refused with a sentence, and not taken in to be stuck with.
#[test]
fn an_import_too_long_for_its_disk_is_refused() {
    let file = {
        let heap = Heap::alone(16 << 20).unwrap();
        let mut engine = Engine::new((0, 1), heap.clone(), Seed::new(1), Rng::new(1));
        for number in 0..30 {
            let request = Request::of([b"SET", format!("key:{number}").as_bytes(), &long(number, 50_000)], &heap);
            let (request, mut out) = (request.unwrap(), Output::new(heap.clone()));
            engine.execute(find(&request).unwrap(), &request, Session::default(), WallTime::from_nanos(1), &mut out);
        }
        engine.save().unwrap().to_vec()
    };
    for (size, fits) in [(4 << 20, false), (6 << 20, true)] {
        let file = file.clone();
        let mut stage = Stage::new(1, DiskSettings::new(size), move |args| {
            let file = file.clone();
            (args.log_len_max, args.storage_len) = (size / 4, size);
            args.load =
                Some(Load::new(move |index| Ok((index == 0).then(|| Box::new(Cursor::new(file.clone())) as Box<_>))));
        });
        if fits {
            assert_eq!(stage.ask("DBSIZE"), Value::Integer(30));
            stage.await_write("probe");
        } else {
            stage.run(2000);
            let trouble = TROUBLE.with(|trouble| std::mem::take(&mut *trouble.borrow_mut()));
            assert!(trouble.iter().any(|why| why.contains("no second snapshot fits")), "{trouble:?}");
        }
        stage.end();
    }
}

/// A value that the room left would not hold is refused before anything of it is written, wherever its key lies; all else
/// goes on.
#[test]
fn a_value_longer_than_the_room_is_refused_and_the_log_goes_on() {
    for (cores, durability) in [(1, Durability::Always), (2, Durability::Always), (2, Durability::EverySecond)] {
        let size = 8 << 20;
        let mut stage = Stage::new(cores, DiskSettings::new(size), |args| {
            (args.storage_len, args.durability) = (size, durability);
        });
        for key in KEYS {
            let key = std::str::from_utf8(key).unwrap();
            stage.set_long(key, 1, 100_000);
            for len in [7_000_000, 20_000_000] {
                let reply = stage.try_ask(&[b"SET", key.as_bytes(), &long(2, len)]);
                let Some(Value::Error(text)) = &reply else { panic!("{len} bytes: {reply:?}") };
                assert!(text.starts_with(b"MISCONF"), "{}", text.escape_ascii());
            }
            // As before, and writable.
            assert_eq!(stage.ask(&format!("GET {key}")).as_bytes(), Some(&long(1, 100_000)[..]));
            stage.set_long(key, 3, 2000);
        }
        let info = stage.info();
        assert!(info.contains("aof_last_write_status:ok") && info.contains("rdb_saves:0"), "{info}");
        stage.run(1200);
        stage.restart();
        for key in KEYS {
            let key = std::str::from_utf8(key).unwrap();
            assert_eq!(stage.ask(&format!("GET {key}")).as_bytes(), Some(&long(3, 2000)[..]), "{key}");
        }
        stage.end();
    }
}
