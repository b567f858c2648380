//! RDB files: those that a real redis-server wrote are loaded, those that we write a real redis-server loads, and what
//! cannot be loaded is refused by name before anything is. Without redis-server that part is skipped, and says so.

use kv_differential::generate::words;
use kv_differential::{Args, Peer, Redis, Reply, Subject};
use kv_engine::engine::Engine;
use kv_engine::fuzzing::contents;
use kv_engine::rdb::{RdbError, Reader};
use pdpix::{Heap, Rng, Seed, WallTime};

fn heap() -> Heap {
    Heap::alone(256 << 20).expect("memory for a heap")
}

fn engine(heap: &Heap) -> Engine {
    Engine::new((0, 1), heap.clone(), Seed::new(7), Rng::new(7))
}

fn redis(more: &[&str]) -> Option<Redis> {
    let redis = Redis::start_with(None, more);
    if redis.is_none() {
        println!("SKIP rdb_of_redis: no redis-server of version 7.0");
    }
    redis
}

/// Loads a file in pieces of this size.
fn load(engine: &mut Engine, file: &[u8], piece: usize) -> Result<(), RdbError> {
    let mut reader = Reader::new();
    for piece in file.chunks(piece) {
        reader.feed(piece);
        engine.load(&mut reader, |_| true, None, usize::MAX)?;
    }
    reader.finish();
    engine.load(&mut reader, |_| true, None, usize::MAX)?;
    assert!(reader.is_over());
    Ok(())
}

fn check(file: &[u8]) -> Result<bool, RdbError> {
    let mut reader = Reader::new();
    reader.feed(file);
    reader.finish();
    reader.check()
}

/// Commands whose values are kept, and so saved, in every form that there is.
fn commands() -> Vec<Args> {
    let mut lines: Vec<String> = vec![
        "SET empty-ish x".into(),
        "SET tiny 12".into(),
        "SET minus -129".into(),
        "SET int16 32000".into(),
        "SET int32 -2000000000".into(),
        "SET int64 9223372036854775807".into(),
        "SET leading 007".into(),
        "SET in-ms v PXAT 4102444800123".into(),
        "SET in-s v EXAT 4102444800".into(),
        format!("SET packed {}", "abcdefgh".repeat(100)),
        format!("SET long-length {}", "q".repeat(20_000)),
        "SETRANGE sparse 70000 end".into(),
        "SADD ints16 1 2 3 -5".into(),
        "SADD ints32 1 70000 -70000".into(),
        "SADD ints64 1 5000000000 -5000000000".into(),
        "SADD words a b c 17".into(),
        "HSET small a 1 b text c -70000 d 3.5".into(),
        "ZADD small-z 1 a 2.5 b -inf c inf d 1e300 e".into(),
        "RPUSH small-l 1 a -1 70000 -70000 5000000000 4095 -4096 8191 127 128".into(),
        format!("RPUSH with-long {} x", "e".repeat(9000)),
        format!("RPUSH mid {} {}", "m".repeat(63), "n".repeat(4000)),
        format!("HSET wide {} 1 k {}", "f".repeat(65), "v".repeat(5000)),
        format!("ZADD wide-z 1.25 {} 3 m", "z".repeat(65)),
    ];
    let many = |command: &str, with: &dyn Fn(usize) -> String| {
        format!("{command}{}", (0..1500).map(|n| format!(" {}", with(n))).collect::<String>())
    };
    lines.push(many("RPUSH many-l", &|n| format!("element-{n}")));
    lines.push(many("SADD many-ints", &|n| (n * 3).to_string()));
    lines.push(many("SADD many-s", &|n| format!("m{n}")));
    lines.push(many("HSET many-h", &|n| format!("f{n} {n}")));
    lines.push(many("ZADD many-z", &|n| format!("{n}.5 m{n}")));
    lines.push("SELECT 9".into());
    lines.push("SET elsewhere 1".into());
    lines.push("HSET elsewhere-h a 1".into());
    lines.push("PEXPIREAT elsewhere-h 4102444800000".into());
    lines.push("SELECT 0".into());
    lines.iter().map(|line| words(line)).collect()
}

/// What a server has, in the form of [`contents`].
fn told_by(peer: &mut Peer) -> std::collections::BTreeMap<(usize, Vec<u8>), String> {
    let mut all = std::collections::BTreeMap::new();
    let mut ask = |args: &[&[u8]]| peer.ask(&args.iter().map(|arg| arg.to_vec()).collect::<Vec<_>>()).expect("a reply");
    let text = |reply: &Reply| reply.bytes().escape_ascii().to_string();
    for database in 0..16usize {
        ask(&[b"SELECT", database.to_string().as_bytes()]);
        let keys: Vec<Vec<u8>> = ask(&[b"KEYS", b"*"]).items().iter().map(|key| key.bytes().to_vec()).collect();
        for key in keys {
            let kind = String::from_utf8_lossy(ask(&[b"TYPE", &key]).bytes()).into_owned();
            let list = |reply: Reply| reply.items().iter().map(text).collect::<Vec<_>>();
            let sorted = |mut items: Vec<String>| {
                items.sort_unstable();
                items
            };
            let elements = match kind.as_str() {
                "string" => vec![text(&ask(&[b"GET", &key]))],
                "list" => list(ask(&[b"LRANGE", &key, b"0", b"-1"])),
                "set" => sorted(list(ask(&[b"SMEMBERS", &key]))),
                "hash" => {
                    let pairs = list(ask(&[b"HGETALL", &key]));
                    sorted(pairs.chunks(2).map(|pair| format!("{}={}", pair[0], pair[1])).collect())
                }
                _ => {
                    let pairs = list(ask(&[b"ZRANGE", &key, b"0", b"-1", b"WITHSCORES"]));
                    let score = |text: &str| text.parse::<f64>().expect("a score").to_bits();
                    pairs.chunks(2).map(|pair| format!("{} {:x}", pair[0], score(&pair[1]))).collect()
                }
            };
            let expires = ask(&[b"PEXPIRETIME", &key]).integer().and_then(|time| u64::try_from(time).ok());
            all.insert((database, key), format!("{kind} {elements:?} {expires:?}"));
        }
    }
    all
}

/// Settings that choose each form of saving.
const FORMS: [&[&str]; 4] = [
    &[],
    &["--rdbcompression", "no", "--rdbchecksum", "no"],
    &["--hash-max-listpack-entries", "0", "--zset-max-listpack-entries", "0", "--set-max-intset-entries", "0"],
    &[
        "--list-max-listpack-size",
        "3",
        "--list-compress-depth",
        "1",
        "--maxmemory-policy",
        "allkeys-lru",
        "--maxmemory",
        "1gb",
    ],
];

#[test]
fn files_of_redis_are_loaded() {
    for form in FORMS {
        let Some(redis) = redis(form) else { return };
        let mut peer = redis.connect();
        for command in commands() {
            assert!(!peer.ask(&command).expect("a reply").is_error(), "{form:?} {:.60?}", command[0]);
        }
        assert_eq!(peer.ask(&words("SAVE")).expect("a reply").bytes(), b"OK");
        let (file, expected) = (redis.saved(), told_by(&mut peer));
        assert!(expected.len() >= commands().len() - 4, "{} keys", expected.len());
        assert_eq!(check(&file), Ok(true));
        for piece in [usize::MAX, 4096, 7] {
            let heap = heap();
            let mut engine = engine(&heap);
            load(&mut engine, &file, piece.min(file.len())).unwrap_or_else(|error| panic!("{form:?}: {error}"));
            let found = contents(&engine, WallTime::from_nanos(1));
            for (key, value) in &expected {
                assert_eq!(found.get(key), Some(value), "{form:?}: {}", key.1.escape_ascii());
            }
            assert_eq!(found.len(), expected.len());
        }
        println!("{form:?}: {} keys in {} bytes", expected.len(), file.len());
    }
}

#[test]
fn redis_loads_our_files() {
    let Some(redis) = redis(&[]) else { return };
    let heap = heap();
    let mut engine = engine(&heap);
    let now = WallTime::from_nanos(1_700_000_000_000_000_000);
    let mut database = 0;
    for args in commands() {
        if args[0] == b"SELECT" {
            database = std::str::from_utf8(&args[1]).unwrap().parse().unwrap();
            continue;
        }
        let request = kv_engine::resp::Request::of(args.iter().map(Vec::as_slice), &heap).unwrap();
        let command = kv_engine::command::find(&request).unwrap();
        let session = kv_engine::engine::Session { database, ..Default::default() };
        let mut out = pdpix::Output::new(heap.clone());
        engine.execute(command, &request, session, now, &mut out);
        assert_ne!(out.take().unwrap().to_vec()[0], b'-');
    }
    drop(redis);
    let expected = contents(&engine, now);
    let file = engine.save().unwrap().to_vec();
    assert_eq!(check(&file), Ok(true));
    let theirs = Redis::start_with(Some(&file), &[]).expect("the redis-server that was there just now");
    assert_eq!(told_by(&mut theirs.connect()), expected);
    // And redis-check-rdb finds nothing wrong, if it is there.
    let dir = std::env::temp_dir().join(format!("kv-rdb-{}.rdb", std::process::id()));
    std::fs::write(&dir, &file).unwrap();
    let checked = std::process::Command::new("redis-check-rdb").arg(&dir).output();
    let _ = std::fs::remove_file(&dir);
    if let Ok(checked) = checked {
        let says = String::from_utf8_lossy(&checked.stdout).into_owned();
        assert!(checked.status.success() && says.contains("Checksum OK"), "{says}");
    }
}

#[test]
fn what_kv_does_not_have_is_refused_by_name() {
    let Some(redis) = redis(&[]) else { return };
    let mut peer = redis.connect();
    peer.ask(&words("SET first 1"));
    peer.ask(&words("XADD events * field value"));
    peer.ask(&words("SAVE"));
    let refused = check(&redis.saved()).unwrap_err();
    assert_eq!(refused.to_string(), "key 'events' is a stream, a type that kv does not have");
    peer.ask(&words("DEL events"));
    let library = "#!lua name=lib\nredis.register_function('f', function() return 1 end)";
    let loaded = peer.ask(&[b"FUNCTION".to_vec(), b"LOAD".to_vec(), library.into()]).expect("a reply");
    assert_eq!(loaded.bytes(), b"lib");
    peer.ask(&words("SAVE"));
    let refused = check(&redis.saved()).unwrap_err();
    assert!(refused.to_string().starts_with("it holds functions"), "{refused}");
    peer.ask(&words("FUNCTION FLUSH"));
    peer.ask(&words("SAVE"));
    assert_eq!(check(&redis.saved()), Ok(true));
}

/// The forms that older versions wrote, which no server of today does: made by hand.
#[test]
fn files_of_older_versions_are_loaded() {
    let mut file = b"REDIS0003".to_vec();
    let text = |file: &mut Vec<u8>, text: &[u8]| {
        file.push(text.len() as u8);
        file.extend_from_slice(text);
    };
    // In seconds, a sorted set with scores as text, a zipmap, a ziplist of each kind of element.
    file.extend([0xFE, 0, 0xFD, 0xFF, 0xFF, 0xFF, 0x7F, 3]);
    text(&mut file, b"z");
    file.push(3);
    text(&mut file, b"low");
    file.push(255);
    text(&mut file, b"high");
    file.push(254);
    text(&mut file, b"mid");
    text(&mut file, b"1.5");
    file.push(9);
    text(&mut file, b"map");
    text(&mut file, b"\x02\x01a\x01\x001\x02bc\x03\x02xyz??\xff");
    let entries: &[u8] =
        b"\x00\x02hi\x04\xf1\x02\xfd\x02\xfe\x80\x03\xc0\x00\x80\x04\xf0\x00\x00\x80\x05\xd0\x00\x00\x00\x80\x06\xe0\
        \x00\x00\x00\x00\x00\x00\x00\x80\x0a\x40\x01!\xff";
    for (kind, name) in [(10, &b"list"[..]), (14, b"quick")] {
        file.push(kind);
        text(&mut file, name);
        if kind == 14 {
            file.push(1);
        }
        let mut packed = ((10 + entries.len()) as u32).to_le_bytes().to_vec();
        packed.extend([0, 0, 0, 0, 9, 0]);
        packed.extend(entries);
        text(&mut file, &packed);
    }
    file.push(0xFF);
    let heap = heap();
    let mut engine = engine(&heap);
    load(&mut engine, &file, 5).unwrap();
    let found = contents(&engine, WallTime::from_nanos(1));
    let value = |key: &[u8]| found[&(0, key.to_vec())].clone();
    assert!(value(b"z").ends_with("Some(2147483647000)"), "{}", value(b"z"));
    assert!(value(b"z").contains("\"low fff0000000000000\", \"mid 3ff8000000000000\", \"high 7ff0000000000000\""));
    assert_eq!(value(b"map"), "hash [\"a=1\", \"bc=xyz\"] None");
    let elements =
        "[\"hi\", \"0\", \"12\", \"-128\", \"-32768\", \"-8388608\", \"-2147483648\", \"-9223372036854775808\", \"!\"]";
    assert_eq!(value(b"list"), format!("list {elements} None"));
    assert_eq!(value(b"quick"), value(b"list"));
}

#[test]
fn damage_is_found() {
    let heap = heap();
    let mut engine = engine(&heap);
    for line in ["SET a some-text", "RPUSH l 1 2 3", "HSET h a b", "ZADD z 1 a", "SADD s x y"] {
        let args = words(line);
        let request = kv_engine::resp::Request::of(args.iter().map(Vec::as_slice), &heap).unwrap();
        let command = kv_engine::command::find(&request).unwrap();
        let mut out = pdpix::Output::new(heap.clone());
        engine.execute(command, &request, Default::default(), WallTime::from_nanos(1), &mut out);
    }
    let file = engine.save().unwrap().to_vec();
    assert_eq!(check(&file), Ok(true));
    for len in 0..file.len() {
        assert_eq!(check(&file[..len]), Err(RdbError::Truncated), "{len} of {} bytes", file.len());
    }
    for at in 0..file.len() {
        let mut changed = file.clone();
        changed[at] ^= 0x10;
        // All but a checksum of zero, which says that there is none.
        assert!(check(&changed).is_err(), "byte {at} was changed");
    }
    assert_eq!(check(b"REDIS0011"), Err(RdbError::Version(11)));
    assert_eq!(check(b"nonsense!"), Err(RdbError::NotRdb));
}

#[test]
fn a_length_is_no_reason_to_allocate() {
    let heap = Heap::alone(8 << 20).expect("memory for a heap");
    // A string, a list, a set, compressed bytes: of enormous length, and nothing behind it.
    let huge = [0x81, 0, 0, 0, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF];
    for (kind, before) in [(0, &[][..]), (1, &[]), (2, &[]), (4, &[]), (5, &[]), (18, &[]), (0, &[0xC3, 1])] {
        let mut file = b"REDIS0010".to_vec();
        file.extend([kind, 1, b'k']);
        file.extend(before);
        file.extend(huge);
        file.extend([b'x'; 100]);
        let mut engine = engine(&heap);
        let mut reader = Reader::new();
        reader.feed(&file);
        reader.finish();
        let loaded = engine.load(&mut reader, |_| true, None, usize::MAX);
        assert!(matches!(loaded, Err(RdbError::Truncated | RdbError::Corrupt { .. })), "{kind}: {loaded:?}");
    }
    assert!(heap.stats().pinned < 1 << 20);
}
