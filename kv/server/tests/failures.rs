//! The cache on simulated disks that are slow, full, or fail for a moment, one scenario after the other: what was
//! acknowledged is there when it boots again, and it boots.

mod support;

use std::cell::RefCell;
use std::rc::Rc;
use std::time::Duration;

use framework::System;
use framework::pdpix::{Sga, Storage};
use kv_client::Value;
use kv_server::{Durability, ServerArgs};
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
    asked: usize,
}

impl Stage {
    fn new(cores: usize, disk: DiskSettings, change: impl Fn(&mut ServerArgs)) -> Stage {
        TROUBLE.with(|trouble| trouble.borrow_mut().clear());
        let mut world = World::new(7, Settings::default());
        let mut args = ServerArgs::new("0.0.0.0:6379".parse().unwrap());
        (args.durability, args.has_storage) = (Durability::Always, true);
        args.on_trouble = |why| TROUBLE.with(|trouble| trouble.borrow_mut().push(why.to_owned()));
        change(&mut args);
        let storages = Box::new(|attached: AttachedDisks| {
            let device = attached.disks[attached.core.index].device();
            let settings =
                StoreSettings { format: Some(Format::new(u128::from(attached.seed))), ..StoreSettings::default() };
            let store = Store::new(Box::new(device), attached.heap, settings);
            vec![("disk".to_owned(), Box::new(store) as Box<dyn Storage>)]
        });
        let disks = vec![disk; cores];
        let server = world.add_host_with_disks(NetKind::Messages, disks, storages, "server", cores, move |libos| {
            kv_server::run(&System::new(libos), args.clone());
        });
        Stage { world, server, cores, asked: 0 }
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
            TROUBLE.with(|trouble| assert!(trouble.borrow().is_empty(), "the service has ended: {:?}", trouble.borrow()));
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
