//! `margay kv` is killed at random moments, and starts again from what it kept: everything that it acknowledged is there
//! with `always`, all but the last second with `everysec`, and never a value that nobody has written. Besides: a full disk, a
//! read-only one, and data of Redis's.
//!
//! kill -9 leaves what the kernel has: it says nothing of flushing. The simulator's disks do (kv/server/tests/durable.rs).
//! `MARGAY_SEED` chooses the moments, `MARGAY_LONG=1` kills 200 times.

mod kv_process;

use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::thread;
use std::time::{Duration, Instant};

use kv_differential::generate::words;
use kv_differential::{Peer, Redis, Reply, Subject, case};
use kv_process::numbers::{self, CLIENTS, Past, Writers, number};
use kv_process::{Form, Kv, margay_kv, run};
use pdpix::Rng;
use rustix::process::Signal;

/// A directory of our own, gone when it is dropped.
struct Dir(PathBuf);

impl Dir {
    fn new(name: &str) -> Dir {
        let dir = std::env::temp_dir().join(format!("margay-{name}-{}", std::process::id()));
        let _ = std::fs::remove_dir_all(&dir);
        std::fs::create_dir_all(&dir).expect("a directory");
        Dir(dir)
    }

    fn path(&self) -> &str {
        self.0.to_str().expect("a path that is text")
    }
}

impl Drop for Dir {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

fn start(form: &Form, dir: &Dir, more: &[&str]) -> Kv {
    let mut args = vec!["--dir", dir.path(), "--set", "storage.size=64MiB", "--set", "memory.size=256MiB"];
    args.extend(more);
    let kv = Kv::start(form, &args);
    await_loaded(&kv);
    kv
}

/// Until it answers as one that has its data.
fn await_loaded(kv: &Kv) {
    let deadline = Instant::now() + Duration::from_secs(20);
    loop {
        let mut peer = kv.connect();
        let reply = peer.ask(&words("PING")).expect("a reply");
        if reply.bytes() == b"PONG" {
            return;
        }
        assert!(reply.bytes().starts_with(b"LOADING"), "{reply:?}");
        assert!(Instant::now() < deadline, "it loads for ever");
        thread::sleep(Duration::from_millis(5));
    }
}

fn ask(peer: &mut Peer, line: &str) -> Reply {
    peer.ask(&words(line)).expect("a reply")
}

fn kill_again_and_again(durability: &str, kills: usize, seed: u64, may_lose: Duration) {
    let mut rng = Rng::new(seed);
    println!("MARGAY_SEED={seed:#x}");
    for cores in [1, 2] {
        let form = Form { backend: "epoll", cores };
        let dir = Dir::new(&format!("kill-{durability}-{cores}"));
        let mut state: [Past; CLIENTS] = Default::default();
        let (mut acknowledged, mut lost) = (0, 0);
        for kill in 0..kills {
            let mut kv = start(&form, &dir, &["--durability", durability]);
            let to = kv.address;
            let writers = Writers::start(&state, to);
            let saves = rng.chance(0.5);
            thread::sleep(Duration::from_millis(20 + rng.below(150)));
            if saves {
                ask(&mut kv.connect(), "BGSAVE");
                thread::sleep(Duration::from_millis(rng.below(30)));
            }
            let killed = Instant::now();
            kv.signal(Signal::KILL);
            kv.wait(Duration::from_secs(5)).expect("its end");
            let noted = writers.join();
            drop(kv);
            let kv = start(&form, &dir, &["--durability", durability]);
            let mut peer = kv.connect();
            for (index, noted) in noted.iter().enumerate() {
                let there = numbers::check(&mut peer, index, &noted.expected(killed, may_lose));
                let told = format!("kill {kill} of {durability} with {cores} cores: client {index}");
                let there = there.unwrap_or_else(|why| panic!("{told}: {why}"));
                acknowledged += noted.acknowledged.len();
                lost += noted.last().saturating_sub(*there.start());
                state[index] = noted.past.clone().then(there);
            }
            kv.stop();
        }
        assert!(acknowledged > kills * CLIENTS, "{acknowledged} writes in {kills} runs");
        println!("{durability}, {cores} cores: {kills} kills, {acknowledged} acknowledged, {lost} of them lost");
    }
}

fn kills() -> usize {
    if case::is_long() { 100 } else { 5 }
}

#[test]
fn what_was_acknowledged_is_there_after_a_kill() {
    kill_again_and_again("always", kills(), case::first_seed(), Duration::ZERO);
}

#[test]
fn with_everysec_a_kill_costs_a_second_at_most() {
    kill_again_and_again("everysec", kills(), case::first_seed() + 1, Duration::from_secs(1));
}

#[test]
fn a_full_disk_is_told_and_nothing_that_was_acknowledged_is_lost() {
    for cores in [1, 2] {
        let form = Form { backend: "epoll", cores };
        let dir = Dir::new(&format!("full-{cores}"));
        let small = ["--durability", "always", "--set", "storage.size=8MiB"];
        let kv = start(&form, &dir, &small);
        let mut peer = kv.connect();
        let value = "v".repeat(60_000);
        let mut acknowledged = Vec::new();
        let mut refused = None;
        for number in 0..2000 {
            match peer.ask(&words(&format!("SET key:{number} {number}:{value}"))) {
                Some(reply) if !reply.is_error() => acknowledged.push(number),
                // Whoever waited when it failed is not answered at all.
                None => peer = kv.connect(),
                Some(reply) => {
                    refused = Some(String::from_utf8_lossy(reply.bytes()).into_owned());
                    break;
                }
            }
        }
        let refused = refused.expect("a refusal");
        assert!(refused.starts_with("MISCONF Errors writing to the AOF file: "), "{refused}");
        assert!(acknowledged.len() > 20, "only {} fit", acknowledged.len());
        // It can be read, and says how it is.
        assert!(ask(&mut peer, "GET key:0").bytes().starts_with(b"0:v"));
        let info = String::from_utf8_lossy(ask(&mut peer, "INFO persistence").bytes()).into_owned();
        assert!(info.contains("aof_last_write_status:err"), "{info}");
        kv.signal(Signal::KILL);
        drop(kv);
        let kv = start(&form, &dir, &small);
        let mut peer = kv.connect();
        for number in &acknowledged {
            let reply = ask(&mut peer, &format!("GET key:{number}"));
            assert!(reply.bytes().starts_with(format!("{number}:v").as_bytes()), "key:{number} is lost");
        }
        println!("{cores} cores: {} values, then {refused}", acknowledged.len());
    }
}

#[test]
fn a_log_that_is_long_is_made_short_by_itself() {
    let form = Form { backend: "epoll", cores: 1 };
    let dir = Dir::new("short");
    let kv = start(&form, &dir, &["--durability", "everysec", "--set", "storage.size=16MiB"]);
    let mut peer = kv.connect();
    let value = "v".repeat(50_000);
    // Many times what fits: the same few keys again and again.
    for number in 0..900 {
        let reply = ask(&mut peer, &format!("SET key:{} {number}:{value}", number % 10));
        assert_eq!(reply.bytes(), b"OK", "write {number}");
        thread::sleep(Duration::from_millis(3));
    }
    let info = String::from_utf8_lossy(ask(&mut peer, "INFO persistence").bytes()).into_owned();
    assert!(info.contains("rdb_last_bgsave_status:ok") && !info.contains("rdb_saves:0"), "{info}");
    kv.stop();
    let kv = start(&form, &dir, &["--durability", "everysec", "--set", "storage.size=16MiB"]);
    assert!(ask(&mut kv.connect(), "GET key:9").bytes().starts_with(b"899:"), "stopped in order, nothing is lost");
}

#[test]
fn read_only_data_is_served_and_not_changed() {
    let form = Form { backend: "epoll", cores: 2 };
    let dir = Dir::new("read-only");
    let kv = start(&form, &dir, &["--durability", "always"]);
    assert_eq!(ask(&mut kv.connect(), "MSET a 1 b 2 c 3 d 4").bytes(), b"OK");
    kv.stop();
    let before = contents(&dir.0);
    let kv = start(&form, &dir, &["--durability", "always", "--set", "storage.read_only=true"]);
    let mut peer = kv.connect();
    let all: Vec<u64> = ask(&mut peer, "MGET a b c d").items().iter().map(number).collect();
    assert_eq!(all, [1, 2, 3, 4]);
    // The first may find out; then all are told.
    let refused = (0..20).find_map(|_| match peer.ask(&words("SET a 9")) {
        Some(reply) if reply.is_error() => Some(reply),
        Some(reply) => panic!("acknowledged: {reply:?}"),
        None => {
            peer = kv.connect();
            None
        }
    });
    let refused = refused.expect("a refusal");
    assert!(refused.bytes().starts_with(b"MISCONF"), "{refused:?}");
    kv.stop();
    assert!(contents(&dir.0) == before, "a file was changed");
}

fn contents(dir: &Path) -> Vec<(PathBuf, Vec<u8>)> {
    let files = std::fs::read_dir(dir).expect("a directory").map(|entry| entry.expect("a file").path());
    let mut all: Vec<_> = files.map(|path| (path.clone(), std::fs::read(&path).expect("a file"))).collect();
    all.sort();
    all
}

#[test]
fn data_moves_over_from_redis() {
    let Some(redis) = Redis::start() else {
        return println!("SKIP kv_load_of_redis: no redis-server of version 7.0");
    };
    let mut theirs = redis.connect();
    for line in ["MSET a 1 b 2 c 3", "RPUSH l x y z", "HSET h f v", "ZADD z 1.5 m", "SADD s 1 2", "SELECT 3", "SET d 4"]
    {
        assert!(!theirs.ask(&words(line)).expect("a reply").is_error());
    }
    assert_eq!(ask(&mut theirs, "SAVE").bytes(), b"OK");
    for cores in [1, 2] {
        let form = Form { backend: "epoll", cores };
        let dir = Dir::new(&format!("move-{cores}"));
        std::fs::write(dir.0.join("dump.rdb"), redis.saved()).expect("a file");
        for round in 0..2 {
            // The second time from our own snapshot, and the log behind it.
            let kv = start(&form, &dir, &["--durability", "always"]);
            let mut ours = kv.connect();
            let all: Vec<u64> = ask(&mut ours, "MGET a b c").items().iter().map(number).collect();
            assert_eq!(all, [1 + round, 2, 3]);
            assert_eq!(ask(&mut ours, "LRANGE l 0 -1").items().len(), 3);
            assert_eq!(ask(&mut ours, "ZSCORE z m").bytes(), b"1.5");
            assert_eq!(ask(&mut ours, "INCR a").integer(), Some(2 + round as i64));
            assert_eq!(ask(&mut ours, "SAVE").bytes(), b"OK");
            ask(&mut ours, "SELECT 3");
            assert_eq!(ask(&mut ours, "GET d").bytes(), b"4");
            kv.signal(Signal::KILL);
        }
        // With data there, a file that is asked for is refused.
        let mut command = margay_kv();
        let file = dir.0.join("dump.rdb");
        command.args(["--listen", "127.0.0.1:0", "--cores", &cores.to_string(), "--dir", dir.path(), "--load"]);
        command.arg(&file).args(["--set", "storage.size=64MiB", "--set", "memory.size=256MiB"]).stdin(Stdio::null());
        let (code, _, says) = run(&mut command, Duration::from_secs(10));
        assert!(code == Some(1) && says.contains("there is data already"), "{code:?} {says}");
    }
    ask(&mut theirs, "XADD e * f v");
    ask(&mut theirs, "SAVE");
    let dir = Dir::new("move-refused");
    let file = dir.0.join("theirs.rdb");
    std::fs::write(&file, redis.saved()).expect("a file");
    let mut command = margay_kv();
    command.args(["--listen", "127.0.0.1:0", "--load"]).arg(&file);
    let (code, output, says) = run(&mut command, Duration::from_secs(10));
    assert!(code == Some(1) && says.contains("key 'e' is a stream"), "{code:?} {says}");
    assert!(!output.contains("listening"), "{output}");
}

#[test]
fn other_numbers_of_cores_and_missing_places_are_told() {
    let dir = Dir::new("cores");
    let kv = start(&Form { backend: "epoll", cores: 2 }, &dir, &["--durability", "everysec"]);
    assert_eq!(ask(&mut kv.connect(), "SET a 1").bytes(), b"OK");
    kv.stop();
    let mut command = margay_kv();
    command.args(["--listen", "127.0.0.1:0", "--cores", "1", "--dir", dir.path()]);
    command.args(["--set", "storage.size=64MiB", "--set", "memory.size=256MiB"]);
    let (code, _, says) = run(&mut command, Duration::from_secs(10));
    assert!(code == Some(1) && says.contains("written with 2 cores"), "{code:?} {says}");
    assert!(says.contains("give --cores 2") && says.contains(DUMP), "{says}");
    let mut command = margay_kv();
    command.args(["--listen", "127.0.0.1:0", "--durability", "always"]);
    let (code, _, says) = run(&mut command, Duration::from_secs(10));
    assert!(code == Some(1) && says.contains("give a directory with --dir"), "{code:?} {says}");
}

/// As the refusal says it.
const DUMP: &str = "margay journal dump core-N.log --log kv.snapshots --raw";

/// The way that the refusal of another number of cores tells of.
#[test]
fn data_moves_to_another_number_of_cores() {
    for (from, to) in [(2, 3), (3, 1)] {
        let old = Dir::new(&format!("cores-{from}"));
        let mut kv = start(&Form { backend: "epoll", cores: from }, &old, &["--durability", "always"]);
        let mut peer = kv.connect();
        for i in 0..500 {
            assert_eq!(ask(&mut peer, &format!("SET key:{i} first:{i}")).bytes(), b"OK");
        }
        assert_eq!(ask(&mut peer, "SAVE").bytes(), b"OK");
        // What the first snapshot has otherwise, and what it has not.
        for i in 250..600 {
            assert_eq!(ask(&mut peer, &format!("SET key:{i} second:{i}")).bytes(), b"OK");
        }
        ask(&mut peer, "DEL key:0");
        ask(&mut peer, "RPUSH list a b c");
        assert_eq!(peer.ask(&words("SHUTDOWN SAVE")), None);
        assert_eq!(kv.wait(Duration::from_secs(20)).and_then(|status| status.code()), Some(0));
        let new = Dir::new(&format!("cores-{from}-{to}"));
        let mut more = vec!["--durability".to_owned(), "always".to_owned()];
        for core in 0..from {
            let words = DUMP.replace("core-N.log", &old.0.join(format!("core-{core}.log")).display().to_string());
            let dump = std::process::Command::new(env!("CARGO_BIN_EXE_margay"))
                .args(words.split_whitespace().skip(1))
                .output()
                .expect("margay to start");
            assert!(dump.status.success() && dump.stdout.starts_with(b"REDIS0010"), "{dump:?}");
            let file = old.0.join(format!("{core}.rdb"));
            std::fs::write(&file, dump.stdout).expect("a file");
            more.extend(["--load".to_owned(), file.display().to_string()]);
        }
        let form = Form { backend: "epoll", cores: to };
        let kv = start(&form, &new, &more.iter().map(String::as_str).collect::<Vec<_>>());
        assert_is_moved(&kv);
        kv.signal(Signal::KILL);
        drop(kv);
        // And it has become this directory's own.
        assert_is_moved(&start(&form, &new, &["--durability", "always"]));
    }
}

fn assert_is_moved(kv: &Kv) {
    let mut peer = kv.connect();
    assert_eq!(ask(&mut peer, "DBSIZE").integer(), Some(600), "599 strings and a list");
    for i in 1..600 {
        let value = if i < 250 { format!("first:{i}") } else { format!("second:{i}") };
        assert_eq!(ask(&mut peer, &format!("GET key:{i}")).bytes(), value.as_bytes(), "key:{i}");
    }
    assert_eq!(ask(&mut peer, "LRANGE list 0 -1").items().len(), 3);
}

#[test]
fn shutdown_saves_where_no_log_is_kept() {
    let form = Form { backend: "epoll", cores: 2 };
    let dir = Dir::new("none");
    let mut kv = start(&form, &dir, &["--durability", "none"]);
    let mut peer = kv.connect();
    assert_eq!(ask(&mut peer, "MSET a 1 b 2 c 3").bytes(), b"OK");
    assert!(ask(&mut peer, "WAITAOF 1 0 0").bytes().starts_with(b"ERR WAITAOF cannot be used"));
    assert_eq!(peer.ask(&words("SHUTDOWN")), None);
    assert_eq!(kv.wait(Duration::from_secs(10)).and_then(|status| status.code()), Some(0));
    let mut kv = start(&form, &dir, &["--durability", "none"]);
    let mut peer = kv.connect();
    let all: Vec<u64> = ask(&mut peer, "MGET a b c").items().iter().map(number).collect();
    assert_eq!(all, [1, 2, 3]);
    ask(&mut peer, "SET a 9");
    assert_eq!(peer.ask(&words("SHUTDOWN NOSAVE")), None);
    kv.wait(Duration::from_secs(10)).expect("its end");
    let kv = start(&form, &dir, &["--durability", "none"]);
    assert_eq!(number(&ask(&mut kv.connect(), "GET a")), 1);
}

#[test]
fn waitaof_waits_for_everysec() {
    let form = Form { backend: "epoll", cores: 2 };
    let dir = Dir::new("waitaof");
    let kv = start(&form, &dir, &["--durability", "everysec"]);
    let mut peer = kv.connect();
    for n in 0..20 {
        ask(&mut peer, &format!("SET key:{n} {n}"));
    }
    let waited: Vec<i64> = ask(&mut peer, "WAITAOF 1 0 5000").items().iter().filter_map(Reply::integer).collect();
    assert_eq!(waited, [1, 0]);
    // What it has waited for is there after a kill that comes at once.
    kv.signal(Signal::KILL);
    drop(kv);
    let kv = start(&form, &dir, &["--durability", "everysec"]);
    let mut peer = kv.connect();
    for n in 0..20 {
        assert_eq!(number(&ask(&mut peer, &format!("GET key:{n}"))), n);
    }
    // Replicas that there are not are waited for in vain.
    let began = Instant::now();
    let waited: Vec<i64> = ask(&mut peer, "WAITAOF 0 1 100").items().iter().filter_map(Reply::integer).collect();
    assert_eq!(waited, [1, 0]);
    assert!(began.elapsed() >= Duration::from_millis(90));
}
