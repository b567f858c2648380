//! Keys whose time comes, with a clock that the test holds. (What commands answer is compared in `against_redis`, where
//! time only passes by itself.)

use kv_engine::command::find;
use kv_engine::engine::{Engine, Session};
use kv_engine::resp::Request;
use libos_mem::{Plan, Reservation, Reserves, Source};
use pdpix::{Heap, Output, Rng, Seed, WallTime};

struct Clocked {
    heap: Heap,
    engine: Engine,
    millis: u64,
}

impl Clocked {
    fn new() -> Clocked {
        let plan = Plan { heaps: 1, heap_size: 64 << 20, reserves: Reserves::NONE, source: Source::Ordinary };
        let heap = Reservation::new(plan).expect("memory").heap(0).expect("the first heap");
        let engine = Engine::new((0, 1), heap.clone(), Seed::new(1), Rng::new(1));
        Clocked { heap, engine, millis: 1_700_000_000_000 }
    }

    fn now(&self) -> WallTime {
        WallTime::from_nanos(self.millis * 1_000_000)
    }

    fn run(&mut self, line: &str) -> String {
        let request = Request::of(line.split(' ').map(str::as_bytes), &self.heap).expect("memory");
        let mut out = Output::new(self.heap.clone());
        self.engine.execute(find(&request).expect("a command"), &request, Session::default(), self.now(), &mut out);
        String::from_utf8(out.take().expect("memory").to_vec()).expect("text")
    }
}

#[test]
fn a_key_is_there_until_its_time_is_past() {
    let mut clocked = Clocked::new();
    clocked.run("SET a 1 PX 100");
    clocked.millis += 100;
    assert_eq!(clocked.run("GET a"), "$1\r\n1\r\n", "during its last millisecond");
    assert_eq!(clocked.run("PTTL a"), ":0\r\n");
    clocked.millis += 1;
    for (line, expected) in [
        ("GET a", "$-1\r\n"),
        ("EXISTS a", ":0\r\n"),
        ("TTL a", ":-2\r\n"),
        ("DBSIZE", ":0\r\n"),
        ("KEYS *", "*0\r\n"),
        ("RANDOMKEY", "$-1\r\n"),
        ("APPEND a x", ":1\r\n"),
        ("TTL a", ":-1\r\n"),
    ] {
        assert_eq!(clocked.run(line), expected, "{line}");
    }
}

#[test]
fn what_nobody_looks_for_is_taken_out_in_its_order() {
    let mut clocked = Clocked::new();
    for n in 0..100 {
        clocked.run(&format!("SET key{n} {n} PX {}", 1000 + n * 10));
    }
    clocked.run("SET forever 1");
    assert_eq!(clocked.engine.expire_some(clocked.now(), 1000), 0, "none of them yet");
    let first = clocked.engine.next_expiry().expect("a time");
    assert_eq!(first.as_millis(), clocked.millis + 1001, "when the first one is past");
    clocked.millis += 1001;
    assert_eq!(clocked.engine.expire_some(clocked.now(), 1000), 1);
    assert_eq!(clocked.engine.size(0).keys, 100);
    clocked.millis += 490;
    assert_eq!(clocked.engine.expire_some(clocked.now(), 30), 30, "no more than it may");
    assert_eq!(clocked.engine.expire_some(clocked.now(), 1000), 19);
    assert_eq!(clocked.run("EXISTS key49 key50"), ":1\r\n");
    clocked.millis += 10_000;
    assert_eq!(clocked.engine.expire_some(clocked.now(), 1000), 50);
    assert_eq!((clocked.engine.size(0).keys, clocked.engine.size(0).expiring), (1, 0));
    assert_eq!(clocked.engine.next_expiry(), None);
    assert_eq!(clocked.engine.stats().expired, 100);
}

#[test]
fn an_expiry_goes_with_its_key_and_not_with_its_value() {
    let mut clocked = Clocked::new();
    clocked.run("SET a 1 PX 1000");
    clocked.run("RENAME a b");
    clocked.run("INCR b");
    assert_eq!(clocked.run("PTTL b"), ":1000\r\n");
    clocked.run("COPY b c");
    assert_eq!(clocked.run("PTTL c"), ":1000\r\n");
    clocked.run("SET b 2");
    assert_eq!(clocked.run("PTTL b"), ":-1\r\n");
    clocked.run("PERSIST c");
    assert_eq!(clocked.engine.next_expiry(), None);
    clocked.run("PEXPIRE b 500");
    clocked.run("DEL b");
    assert_eq!(clocked.engine.next_expiry(), None);
    clocked.run("SET a 1 PX 5");
    clocked.run("FLUSHDB");
    assert_eq!(clocked.engine.next_expiry(), None);
}

#[test]
fn a_large_value_that_expires_is_freed_piece_by_piece() {
    let mut clocked = Clocked::new();
    let members: Vec<String> = (0..20_000).map(|n| format!("member:{n}:of-a-large-set")).collect();
    for part in members.chunks(1000) {
        clocked.run(&format!("SADD large {}", part.join(" ")));
    }
    let pinned = clocked.heap.stats().pinned;
    clocked.run("PEXPIRE large 10");
    clocked.millis += 11;
    assert_eq!(clocked.engine.expire_some(clocked.now(), 10), 1);
    let mut steps = 0;
    while clocked.engine.free_some() {
        steps += 1;
    }
    assert!(steps > 10, "freed in {steps} steps");
    assert!(clocked.heap.stats().pinned < pinned / 10, "{} of {pinned} bytes are left", clocked.heap.stats().pinned);
}
