//! Commands over two shards when something is missing there: memory, or the way to a shard.
//! (What they answer otherwise is compared with Redis in `against_redis`.)

use std::collections::BTreeSet;

use kv_engine::command::find;
use kv_engine::engine::{Engine, Limits, Session};
use kv_engine::resp::Request;
use kv_engine::shard::{Answer, Conversation, Part, Plan, Step, plan, shard_of};
use libos_mem::{Plan as MemoryPlan, Reservation, Reserves, Source};
use pdpix::{Heap, Output, Rng, Seed, WallTime};

struct Pair {
    heap: Heap,
    engines: [Engine; 2],
    limits: Limits,
    now: WallTime,
}

const NOW: WallTime = WallTime::from_nanos(1_700_000_000_000_000_000);

impl Pair {
    fn new() -> Pair {
        let plan = MemoryPlan { heaps: 1, heap_size: 64 << 20, reserves: Reserves::NONE, source: Source::Ordinary };
        let heap = Reservation::new(plan).expect("memory").heap(0).expect("the first heap");
        let engine = |index| Engine::new((index, 2), heap.clone(), Seed::new(1), Rng::new(1));
        Pair { engines: [engine(0), engine(1)], heap, limits: Limits::default(), now: NOW }
    }

    fn set_limits(&mut self, limits: Limits) {
        self.limits = limits;
        self.engines.iter_mut().for_each(|engine| engine.set_limits(limits));
    }

    fn conversation(&self, line: &str) -> Conversation {
        let request = Request::of(line.split(' ').map(str::as_bytes), &self.heap).expect("memory");
        let command = find(&request).expect("a command");
        match plan(command, &request, Session::default(), 2) {
            Plan::Conversation(conversation) => *conversation,
            other => panic!("{line}: {other:?}"),
        }
    }

    /// Runs a command over both shards; `fail` says of each part whether it gets lost for want of memory.
    fn run_failing(&mut self, line: &str, mut fail: impl FnMut(usize, &Part) -> bool) -> (String, Conversation) {
        let mut conversation = self.conversation(line);
        let mut out = Output::new(self.heap.clone());
        let mut step = conversation.start(&mut out);
        while let Step::Ask(parts) = step {
            let ask = |(shard, part): (usize, Part)| {
                if fail(shard, &part) { Answer::Exhausted } else { self.engines[shard].carry_out(part, self.now) }
            };
            let answers = parts.into_iter().map(ask).collect();
            step = conversation.step(answers, &self.limits, self.now, &mut out);
        }
        (String::from_utf8(out.take().expect("memory").to_vec()).expect("text"), conversation)
    }

    fn run(&mut self, line: &str) -> String {
        self.run_failing(line, |_, _| false).0
    }
}

/// Two keys, the first on shard 0, the second on shard 1.
fn keys() -> [String; 2] {
    [0, 1]
        .map(|shard| (0..).map(|n| format!("key{n}")).find(|key| shard_of(key.as_bytes(), 2) == shard).expect("a key"))
}

const OOM: &str = "-OOM command not allowed when used memory > 'maxmemory'.\r\n";

#[test]
fn a_shard_without_memory_leaves_both_as_they_were() {
    let [a, b] = keys();
    let mut pair = Pair::new();
    assert_eq!(pair.run(&format!("MSET {a} 1 {b} 2")), "+OK\r\n");
    for line in [
        format!("MSET {a} 3 {b} 4"),
        format!("MSET {b} 3 {a} 4"),
        format!("RENAME {a} {b}"),
        format!("COPY {a} {b} REPLACE"),
    ] {
        for failing in 0..2 {
            let (reply, conversation) =
                pair.run_failing(&line, |shard, part| shard == failing && matches!(part, Part::Stage { .. }));
            // COPY changes only one of them.
            if reply == ":1\r\n" && line.starts_with("COPY") && failing == 0 {
                pair.run(&format!("MSET {a} 1 {b} 2"));
                continue;
            }
            assert_eq!(reply, OOM, "{line}");
            assert_eq!(conversation.error(), Some(&OOM.as_bytes()[1..OOM.len() - 2]));
            assert_eq!(pair.run(&format!("MGET {a} {b}")), "*2\r\n$1\r\n1\r\n$1\r\n2\r\n", "{line}");
        }
    }
}

#[test]
fn what_cannot_be_fetched_changes_nothing() {
    let [a, b] = keys();
    let mut pair = Pair::new();
    pair.run(&format!("MSET {a} 1 {b} 2"));
    for line in [
        format!("RENAME {a} {b}"),
        format!("MGET {a} {b}"),
        format!("SUNIONSTORE {a} {b}"),
        format!("MSETNX {a} 1 {b} 2"),
    ] {
        let (reply, _) = pair.run_failing(&line, |_, part| matches!(part, Part::Fetch { .. }));
        assert_eq!(reply, OOM, "{line}");
        assert_eq!(pair.run(&format!("MGET {a} {b}")), "*2\r\n$1\r\n1\r\n$1\r\n2\r\n", "{line}");
    }
}

#[test]
fn an_element_that_cannot_be_pushed_is_not_popped() {
    let [a, b] = keys();
    let mut pair = Pair::new();
    let session = Session::default();
    for (shard, line) in [(0, format!("RPUSH {a} x y")), (1, format!("RPUSH {b} z"))] {
        let request = Request::of(line.split(' ').map(str::as_bytes), &pair.heap).expect("memory");
        pair.engines[shard].carry_out(Part::Run { request, session, whole: true }, NOW);
    }
    let line = format!("LMOVE {a} {b} LEFT RIGHT");
    let is_push = |part: &Part| matches!(part, Part::Run { request, .. } if request.arg(0) == b"RPUSH");
    assert_eq!(pair.run_failing(&line, |_, part| is_push(part)).0, OOM);
    assert_eq!(pair.run(&line), "$1\r\nx\r\n");
    assert_eq!(pair.run(&line), "$1\r\ny\r\n");
    assert_eq!(pair.run(&line), "$-1\r\n", "the list went with its last element");
}

#[test]
fn above_maxmemory_only_what_may_grow_is_refused() {
    let [a, b] = keys();
    let mut pair = Pair::new();
    pair.run(&format!("MSET {a} 1 {b} 2"));
    pair.set_limits(Limits { memory: Some(1), ..Limits::default() });
    // Something of the heap is in use: the request itself.
    assert_eq!(pair.run(&format!("MSET {a} 3 {b} 4")), OOM);
    assert_eq!(pair.run(&format!("MGET {a} {b}")), "*2\r\n$1\r\n1\r\n$1\r\n2\r\n");
    assert_eq!(pair.run(&format!("RENAME {a} {b}")), "+OK\r\n");
    assert_eq!(pair.run(&format!("DEL {a} {b}")), ":1\r\n");
}

#[test]
fn names_of_many_keys_come_whole_and_any_of_them_by_chance() {
    let mut pair = Pair::new();
    let names: BTreeSet<String> = (0..5000).map(|n| format!("key:{n}:{}", "x".repeat(n % 100))).collect();
    let sets: Vec<String> = names.iter().map(|name| format!("{name} 1")).collect();
    assert_eq!(pair.run(&format!("MSET {}", sets.join(" "))), "+OK\r\n");
    assert_eq!(pair.run("DBSIZE"), ":5000\r\n");
    let reply = pair.run("KEYS *");
    let mut lines = reply.split("\r\n");
    assert_eq!(lines.next(), Some("*5000"));
    let lines: Vec<&str> = lines.collect();
    let told: BTreeSet<String> = lines.chunks_exact(2).map(|bulk| bulk[1].to_string()).collect();
    assert_eq!(told, names);
    let mut from = [0; 2];
    for millis in 0..400 {
        pair.now = WallTime::from_nanos(NOW.as_nanos() + millis * 1_000_000);
        let reply = pair.run("RANDOMKEY");
        let name = reply.split("\r\n").nth(1).expect("a bulk string");
        assert!(names.contains(name), "{name}");
        from[shard_of(name.as_bytes(), 2)] += 1;
    }
    assert!(from.iter().all(|&times| times > 130), "{from:?}");
    assert_eq!(pair.run("FLUSHALL"), "+OK\r\n");
    assert_eq!(pair.run("RANDOMKEY"), "$-1\r\n");
}

#[test]
fn a_command_is_counted_once() {
    let [a, b] = keys();
    let mut pair = Pair::new();
    pair.run(&format!("MSET {a} 1 {b} x"));
    pair.run(&format!("SUNION {a} {b}"));
    pair.run("DBSIZE");
    // By the server, which leads the conversation, and by no engine.
    assert_eq!(pair.engines.iter().map(|engine| engine.stats().commands).sum::<u64>(), 0);
    let request = Request::of([&b"INCR"[..], b.as_bytes()], &pair.heap).expect("memory");
    pair.engines[1].carry_out(Part::Run { request, session: Session::default(), whole: true }, NOW);
    assert_eq!(pair.engines[1].stats().commands, 1);
    assert_eq!(pair.engines[1].errors().total(), 1);
}
