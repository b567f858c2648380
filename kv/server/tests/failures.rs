//! The cache on simulated disks that are slow, full, or fail for a moment, one scenario after the other: what was
//! acknowledged is there when it boots again, and it boots.

mod support;

use std::cell::{Cell, RefCell};
use std::io::Cursor;
use std::rc::Rc;
use std::time::Duration;

use framework::System;
use framework::pdpix::block::Geometry;
use framework::pdpix::{Heap, Output, Rng, Seed, Sga, Storage, WallTime};
use kv_client::Value;
use kv_engine::command::find;
use kv_engine::engine::{Engine, Session};
use kv_engine::resp::Request;
use kv_server::{Durability, Load, ServerArgs};
use libos_journal::{Format, Settings as StoreSettings, Store};
use libos_sim::{AttachedDisks, DiskSettings, HostId, NetKind, Settings, World};
use support::*;

thread_local! {
    /// Why a service has ended of itself.
    static TROUBLE: RefCell<Vec<String>> = const { RefCell::new(Vec::new()) };
}

/// One server on disks of its own, and what is asked of it.
struct Stage {
    world: World,
    server: HostId,
    cores: usize,
    is_read_only: Rc<Cell<bool>>,
    asked: usize,
}

impl Stage {
    fn new(cores: usize, disk: DiskSettings, change: impl Fn(&mut ServerArgs)) -> Stage {
        Stage::on_disks(vec![disk; cores], change)
    }

    fn on_disks(disks: Vec<DiskSettings>, change: impl Fn(&mut ServerArgs)) -> Stage {
        let cores = disks.len();
        TROUBLE.with(|trouble| trouble.borrow_mut().clear());
        let mut world = World::new(7, Settings { heap_size: 96 << 20, ..Settings::default() });
        let mut args = ServerArgs::new("0.0.0.0:6379".parse().unwrap());
        (args.durability, args.has_storage) = (Durability::Always, true);
        args.on_trouble = |why| TROUBLE.with(|trouble| trouble.borrow_mut().push(why.to_owned()));
        change(&mut args);
        let is_read_only = Rc::new(Cell::new(false));
        let theirs = is_read_only.clone();
        let storages = Box::new(|attached: AttachedDisks| {
            let device = attached.disks[attached.core.index].device();
            let settings =
                StoreSettings { format: Some(Format::new(u128::from(attached.seed))), ..StoreSettings::default() };
            let store = Store::new(Box::new(device), attached.heap, settings);
            vec![("disk".to_owned(), Box::new(store) as Box<dyn Storage>)]
        });
        let server = world.add_host_with_disks(NetKind::Messages, disks, storages, "server", cores, move |libos| {
            let mut args = args.clone();
            args.is_read_only = theirs.get();
            kv_server::run(&System::new(libos), args);
        });
        Stage { world, server, cores, is_read_only, asked: 0 }
    }

    /// Asks until there is an answer that does not say that data is loaded; `None`: the connection has ended.
    fn try_ask(&mut self, args: &[&[u8]]) -> Option<Value> {
        let to = self.world.endpoint(self.server, PORT);
        let args: Vec<Vec<u8>> = args.iter().map(|arg| arg.to_vec()).collect();
        let answer: Rc<RefCell<Option<Option<Value>>>> = Rc::default();
        let place = answer.clone();
        self.asked += 1;
        converse(&mut self.world, &format!("asker {}", self.asked), move |task| async move {
            let args: Vec<&[u8]> = args.iter().map(Vec::as_slice).collect();
            loop {
                let mut kv = connected(&task, to).await;
                let value = kv.call(&args).await.ok();
                if !matches!(&value, Some(Value::Error(text)) if text.starts_with(b"LOADING")) {
                    *place.borrow_mut() = Some(value);
                    return;
                }
                task.sleep(Duration::from_millis(5)).await;
            }
        });
        for _ in 0..60_000 {
            if let Some(value) = answer.borrow_mut().take() {
                return value;
            }
            self.world.run_for(Duration::from_millis(1));
            TROUBLE
                .with(|trouble| assert!(trouble.borrow().is_empty(), "the service has ended: {:?}", trouble.borrow()));
        }
        panic!("no answer in a minute");
    }

    fn ask(&mut self, line: &str) -> Value {
        let words: Vec<&[u8]> = line.split(' ').map(str::as_bytes).collect();
        self.try_ask(&words).unwrap_or_else(|| panic!("`{line}`: the connection has ended"))
    }

    fn set_long(&mut self, key: &str, number: usize, len: usize) {
        let reply = self.try_ask(&[b"SET", key.as_bytes(), &long(number, len)]);
        assert!(matches!(reply, Some(Value::Simple(_))), "{reply:?}");
    }

    /// Sends `SET poured VALUE` for each of these in one go, without a look at what is answered.
    fn pour(&mut self, values: &[Vec<u8>]) {
        let to = self.world.endpoint(self.server, PORT);
        let mut bytes = Vec::new();
        for value in values {
            bytes.extend(format!("*3\r\n$3\r\nSET\r\n$6\r\npoured\r\n${}\r\n", value.len()).into_bytes());
            bytes.extend_from_slice(value);
            bytes.extend_from_slice(b"\r\n");
        }
        self.asked += 1;
        converse(&mut self.world, &format!("pourer {}", self.asked), move |task| async move {
            let stream = stream(&task, to).await;
            let heap = task.libos().heap().clone();
            for part in bytes.chunks(100_000) {
                if stream.push(Sga::copy(&heap, part).unwrap()).await.is_err() {
                    return;
                }
            }
            all_that_comes(&stream).await;
        });
    }

    /// Writes this until it is acknowledged.
    fn await_write(&mut self, key: &str) {
        for _ in 0..100 {
            if let Some(Value::Simple(_)) = self.try_ask(&[b"SET", key.as_bytes(), key.as_bytes()]) {
                return;
            }
            self.run(1000);
        }
        panic!("writes are never taken again: {}", self.info());
    }

    fn info(&mut self) -> String {
        String::from_utf8_lossy(bulk(&self.ask("INFO persistence"))).into_owned()
    }

    fn run(&mut self, millis: u64) {
        self.world.run_for(Duration::from_millis(millis));
    }

    fn restart(&mut self) {
        self.world.crash(self.server);
        self.run(3);
        self.world.restart(self.server);
    }

    fn change_disks(&mut self, change: impl Fn(&mut DiskSettings)) {
        for index in 0..self.cores {
            self.world.disk(self.server, index).change(&change);
        }
    }

    fn end(mut self) {
        self.world.crash(self.server);
        self.run(1000);
    }
}

/// A value that is its number's own.
fn long(number: usize, len: usize) -> Vec<u8> {
    let mut value = format!("{number}:").into_bytes();
    value.resize(len, b'v');
    value
}

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
    let mut most = 0;
    for _ in 0..60 {
        let info = stage.info();
        let pending = info.lines().find_map(|line| line.strip_prefix("aof_buffer_length:")).expect("a length");
        most = most.max(pending.trim().parse::<usize>().unwrap());
        assert!(info.contains("aof_last_write_status:ok"), "{info}");
        stage.run(20);
    }

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
