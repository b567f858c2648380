//! One server on disks of its own, and how it is asked.

use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::time::Duration;

use framework::System;
use framework::pdpix::{Completions, Heap, Instant, LogOp, OpId, OpenMode, Outcome, Sga, Storage};
use kv_client::Value;
use kv_engine::shard::shard_of;
use kv_server::{Durability, ServerArgs};
use libos_journal::{Settings as StoreSettings, Store};
use libos_sim::{DiskSettings, HostId, NetKind, Settings, World};

use crate::support::*;

thread_local! {
    /// Why a service has ended of itself.
    pub static TROUBLE: RefCell<Vec<String>> = const { RefCell::new(Vec::new()) };
}

/// What was answered, once it was.
pub type Answer = Rc<RefCell<Option<Option<Value>>>>;

/// One server on disks of its own, and what is asked of it.
pub struct Stage {
    pub world: World,
    pub server: HostId,
    cores: usize,
    pub is_read_only: Rc<Cell<bool>>,
    /// Those of the cores that are up.
    pub systems: Rc<RefCell<Vec<System>>>,
    pub asked: usize,
}

impl Stage {
    pub fn new(cores: usize, disk: DiskSettings, change: impl Fn(&mut ServerArgs)) -> Stage {
        Stage::on_disks(vec![disk; cores], change)
    }

    pub fn on_disks(disks: Vec<DiskSettings>, change: impl Fn(&mut ServerArgs)) -> Stage {
        let cores = disks.len();
        TROUBLE.with(|trouble| trouble.borrow_mut().clear());
        let mut world = World::new(7, Settings { heap_size: 96 << 20, ..Settings::default() });
        let mut args = ServerArgs::new("0.0.0.0:6379".parse().unwrap());
        (args.durability, args.has_storage) = (Durability::Always, true);
        args.on_trouble = |why| TROUBLE.with(|trouble| trouble.borrow_mut().push(why.to_owned()));
        change(&mut args);
        let is_read_only = Rc::new(Cell::new(false));
        let theirs = is_read_only.clone();
        let systems: Rc<RefCell<Vec<System>>> = Rc::default();
        let booted = systems.clone();
        let server =
            world.add_host_with_disks(NetKind::Messages, disks, Box::new(journal), "server", cores, move |libos| {
                let mut args = args.clone();
                args.is_read_only = theirs.get();
                let system = System::new(libos);
                booted.borrow_mut().push(system.clone());
                kv_server::run(&system, args);
            });
        Stage { world, server, cores, is_read_only, systems, asked: 0 }
    }

    /// Begins to ask, on a connection of its own, until there is an answer that does not say that data is loaded; `None`: the
    /// connection has ended.
    pub fn begin_asking(&mut self, args: &[&[u8]]) -> Answer {
        let to = self.world.endpoint(self.server, PORT);
        let args: Vec<Vec<u8>> = args.iter().map(|arg| arg.to_vec()).collect();
        let answer = Answer::default();
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
        answer
    }

    pub fn await_answer(&mut self, answer: &Answer) -> Option<Value> {
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

    pub fn try_ask(&mut self, args: &[&[u8]]) -> Option<Value> {
        let answer = self.begin_asking(args);
        self.await_answer(&answer)
    }

    pub fn ask(&mut self, line: &str) -> Value {
        let words: Vec<&[u8]> = line.split(' ').map(str::as_bytes).collect();
        self.try_ask(&words).unwrap_or_else(|| panic!("`{line}`: the connection has ended"))
    }

    pub fn set_long(&mut self, key: &str, number: usize, len: usize) {
        let reply = self.try_ask(&[b"SET", key.as_bytes(), &long(number, len)]);
        assert!(matches!(reply, Some(Value::Simple(_))), "{reply:?}");
    }

    /// Sends `SET poured VALUE` for each of these in one go, without a look at what is answered.
    pub fn pour(&mut self, values: &[Vec<u8>]) {
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
    pub fn await_write(&mut self, key: &str) {
        for _ in 0..100 {
            if let Some(Value::Simple(_)) = self.try_ask(&[b"SET", key.as_bytes(), key.as_bytes()]) {
                return;
            }
            self.run(1000);
        }
        panic!("writes are never taken again: {}", self.info());
    }

    pub fn info(&mut self) -> String {
        String::from_utf8_lossy(bulk(&self.ask("INFO persistence"))).into_owned()
    }

    /// The most bytes that have waited for the log, in a little more than a second in which it is fine.
    pub fn most_that_waits(&mut self) -> usize {
        let waiting = (0..60).map(|_| {
            let info = self.info();
            assert!(info.contains("aof_last_write_status:ok"), "{info}");
            let waiting = info.lines().find_map(|line| line.strip_prefix("aof_buffer_length:")).expect("a length");
            self.run(20);
            waiting.trim().parse().expect("a number")
        });
        waiting.max().expect("sixty")
    }

    pub fn run(&mut self, millis: u64) {
        self.world.run_for(Duration::from_millis(millis));
    }

    /// As a process does that is asked to end; says whether it was done in so many milliseconds.
    pub fn stop(&mut self, millis: u64) -> bool {
        self.stop_apart(&[], millis)
    }

    /// The same; cores learn of it so much later.
    pub fn stop_apart(&mut self, later: &[Duration], millis: u64) -> bool {
        let ended = Rc::new(Cell::new(0));
        for (core, system) in self.systems.take().into_iter().enumerate() {
            let ended = ended.clone();
            let later = later.get(core).copied().unwrap_or_default();
            self.world.spawn(self.server.core(core), "stop", move |libos| async move {
                libos.sleep(later).await;
                system.drain(Duration::from_secs(5)).await;
                ended.set(ended.get() + 1);
            });
        }
        self.run(millis);
        ended.get() == self.cores
    }

    pub fn restart(&mut self) {
        self.systems.take();
        self.world.crash(self.server);
        self.run(3);
        self.world.restart(self.server);
    }

    /// The power goes; and the pieces of snapshots of this core are gone when it is started again.
    pub fn lose_snapshots(&mut self, core: usize) {
        self.systems.take();
        self.world.crash(self.server);
        let device = self.world.disk(self.server, core).device();
        let mut store = Store::new(Box::new(device), Heap::alone(32 << 20).unwrap(), StoreSettings::default());
        let (mut now, mut done) = (Instant::ZERO, Completions::new());
        let mut end_of = |store: &mut Store, log, op, what| {
            store.submit(log, OpId(op), what).unwrap();
            for _ in 0..10_000 {
                now += Duration::from_micros(100);
                store.flush(now);
                done.set_room(1);
                store.poll(now, &mut done);
                match done.pop().map(|done| done.result) {
                    Some(Ok(Outcome::Sought { sequence } | Outcome::Truncated { sequence })) => return sequence,
                    Some(other) => panic!("{other:?}"),
                    None => {}
                }
            }
            panic!("it does not end");
        };
        for (op, name) in [(1, "kv.snapshots.0"), (3, "kv.snapshots.1")] {
            let log = store.open(name, OpenMode::Existing).unwrap();
            let end = end_of(&mut store, log, op, LogOp::Seek(u64::MAX));
            if end > 1 {
                end_of(&mut store, log, op + 1, LogOp::Truncate(end));
            }
        }
        drop(store);
        self.world.restart(self.server);
    }

    pub fn change_disks(&mut self, change: impl Fn(&mut DiskSettings)) {
        for index in 0..self.cores {
            self.world.disk(self.server, index).change(&change);
        }
    }

    pub fn end(mut self) {
        self.systems.take();
        self.world.crash(self.server);
        self.run(1000);
    }
}

/// Keys of these shards, one each, that begin with this.
pub fn keys_of<const N: usize>(shards: [usize; N], of: usize, name: &str) -> [String; N] {
    let key_of = |shard| (0..).map(|n| format!("{name}{n}")).find(|key| shard_of(key.as_bytes(), of) == shard);
    shards.map(|shard| key_of(shard).expect("there is one"))
}

/// A value that is its number's own.
pub fn long(number: usize, len: usize) -> Vec<u8> {
    let mut value = format!("{number}:").into_bytes();
    value.resize(len, b'v');
    value
}
