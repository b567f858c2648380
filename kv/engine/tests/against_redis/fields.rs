//! What servers say of themselves: INFO, CLIENT LIST, CONFIG and COMMAND, by their fields.

use std::collections::{BTreeMap, BTreeSet};

use kv_differential::compare::told;
use kv_differential::generate::words;
use kv_differential::{InProcess, Peer, Reply, Subject};

use super::redis;

fn both(line: &str, theirs: &mut Peer, ours: &mut InProcess) -> (Reply, Reply) {
    let args = words(line);
    (theirs.ask(&args).expect("a reply"), ours.ask(&args).expect("a reply"))
}

/// The names before a colon, by section.
fn info_fields(reply: &Reply) -> BTreeMap<String, BTreeSet<String>> {
    let (mut sections, mut current) = (BTreeMap::<_, BTreeSet<_>>::new(), String::new());
    for line in String::from_utf8_lossy(reply.bytes()).split("\r\n") {
        if let Some(title) = line.strip_prefix("# ") {
            current = title.to_string();
            sections.entry(current.clone()).or_default();
        } else if let Some((name, _)) = line.split_once(':') {
            // RESP3 has a format before the text.
            if name != "txt" {
                sections.entry(current.clone()).or_default().insert(name.to_string());
            }
        }
    }
    sections
}

#[test]
fn info_has_no_field_that_redis_has_not() {
    let Some(redis) = redis() else { return };
    let (mut theirs, mut ours) = (redis.connect(), InProcess::new(2));
    for line in
        ["INFO", "INFO all", "INFO everything", "INFO default", "INFO keyspace", "INFO server CLIENTS", "INFO nope"]
    {
        both("SET a 1", &mut theirs, &mut ours);
        let (theirs, ours) = both(line, &mut theirs, &mut ours);
        let (theirs, ours) = (info_fields(&theirs), info_fields(&ours));
        for (section, fields) in &ours {
            let known = theirs.get(section).unwrap_or_else(|| panic!("{line}: redis has no section {section}"));
            let strange: Vec<_> =
                fields.difference(known).filter(|name| !["margay_version", "cores"].contains(&name.as_str())).collect();
            assert!(strange.is_empty(), "{line}: {section}: {strange:?}");
        }
        let missing: Vec<_> = theirs.keys().filter(|section| !ours.contains_key(*section)).collect();
        assert!(
            missing.iter().all(|section| ["Commandstats", "Latencystats"].contains(&section.as_str())),
            "{line}: no {missing:?}"
        );
    }
}

/// Of each of these commands, run alone: how many keys it has found, and how many not.
const READS: &[&str] = &[
    "GET a",
    "GET no",
    "MGET a b c no",
    "EXISTS a b no",
    "TOUCH a no",
    "TYPE a",
    "TYPE no",
    "TTL a",
    "PTTL no",
    "STRLEN a",
    "GETRANGE a 0 1",
    "SET a 1",
    "SET a 2 GET",
    "SETNX a 1",
    "GETSET a 2",
    "GETEX a",
    "APPEND a x",
    "INCR n",
    "MSET a 1 b 2 n 1",
    "MSETNX a 1 zz 2",
    "LRANGE l 0 -1",
    "LLEN no",
    "LINDEX l 0",
    "LPOS l x",
    "RPUSH l x",
    "LPOP l",
    "SMEMBERS s",
    "SISMEMBER s 1",
    "SCARD no",
    "SUNION s t no",
    "SINTER s t",
    "SUNIONSTORE d s t",
    "SRANDMEMBER s",
    "SPOP s",
    "SADD s 9",
    "HGET h a",
    "HGETALL no",
    "HSET h b c",
    "HKEYS h",
    "ZRANGE z 0 -1",
    "ZSCORE z a",
    "ZADD z 3 c",
    "ZUNION 2 z s",
    "ZUNIONSTORE d 2 z no",
    "ZRANGESTORE d z 0 -1",
    "ZPOPMIN z",
    "ZCARD no",
    "RENAME b bb",
    "COPY a aa",
    "COPY no aa",
    "MOVE a 3",
    "EXPIRE a 100",
    "PERSIST n",
    "OBJECT ENCODING n",
    "OBJECT ENCODING no",
    "KEYS *",
    "RANDOMKEY",
    "SCAN 0",
    "SSCAN s 0",
    "DEL n no",
    "DBSIZE",
    "EXPIRETIME h",
    "HSCAN no 0",
    "SINTERCARD 2 s t",
    "ZRANDMEMBER no",
    "UNLINK h no",
    "SMOVE s t 1",
    "SMOVE s no2 2",
    "SMOVE no t 1",
    "LMOVE l l2 LEFT LEFT",
    "RPOPLPUSH l m",
    "LMOVE no l LEFT LEFT",
];

#[test]
fn hits_and_misses_are_counted_as_in_redis() {
    let Some(redis) = redis() else { return };
    for shards in 1..4 {
        let (mut theirs, mut ours) = (redis.connect(), InProcess::new(shards));
        for line in [
            "FLUSHALL",
            "MSET a 1 b 2 c 3 n 4",
            "RPUSH l x y z",
            "SADD s 1 2 3",
            "SADD t 2 3",
            "HSET h a b",
            "ZADD z 1 a 2 b",
        ] {
            both(line, &mut theirs, &mut ours);
        }
        for line in READS {
            both("CONFIG RESETSTAT", &mut theirs, &mut ours);
            both(line, &mut theirs, &mut ours);
            let (theirs, ours) = both("INFO stats", &mut theirs, &mut ours);
            let counted = |reply: &Reply| -> Vec<String> {
                let text = String::from_utf8_lossy(reply.bytes()).to_string();
                text.split("\r\n").filter(|field| field.starts_with("keyspace_")).map(str::to_string).collect()
            };
            assert_eq!(counted(&ours).len(), 2);
            assert_eq!(counted(&ours), counted(&theirs), "{line} on {shards} shards");
        }
    }
}

#[test]
fn clients_are_described_with_redis_s_fields() {
    let Some(redis) = redis() else { return };
    let (mut theirs, mut ours) = (redis.connect(), InProcess::new(1));
    both("CLIENT SETNAME me", &mut theirs, &mut ours);
    both("SELECT 3", &mut theirs, &mut ours);
    for line in ["CLIENT INFO", "CLIENT LIST", "CLIENT LIST TYPE normal"] {
        let (theirs, ours) = both(line, &mut theirs, &mut ours);
        let fields = |reply: &Reply| -> BTreeMap<String, String> {
            let text = String::from_utf8_lossy(reply.bytes()).trim_end().to_string();
            let pairs = text.split(' ').map(|field| field.split_once('=').expect("name=value"));
            pairs.map(|(name, value)| (name.to_string(), value.to_string())).collect()
        };
        let (theirs, ours) = (fields(&theirs), fields(&ours));
        assert_eq!(ours.keys().collect::<Vec<_>>(), theirs.keys().collect::<Vec<_>>(), "{line}");
        for name in ["name", "db", "cmd", "user", "multi", "redir", "sub", "resp", "events"] {
            assert_eq!(ours.get(name), theirs.get(name), "{line}: {name}");
        }
    }
}

#[test]
fn parameters_are_redis_s_and_begin_as_there() {
    let Some(redis) = redis() else { return };
    let (mut theirs, mut ours) = (redis.connect(), InProcess::new(1));
    let (theirs, ours) = both("CONFIG GET *", &mut theirs, &mut ours);
    let pairs = |reply: &Reply| -> BTreeMap<String, String> {
        let text = |reply: &Reply| String::from_utf8_lossy(reply.bytes()).to_string();
        reply.items().chunks(2).map(|pair| (text(&pair[0]), text(&pair[1]))).collect()
    };
    let (theirs, ours) = (pairs(&theirs), pairs(&ours));
    // What its command line, its directory or a difference that is meant (README) makes another.
    let own = [
        "bind",
        "dir",
        "logfile",
        "port",
        "unixsocket",
        "save",
        "appendonly",
        "protected-mode",
        "daemonize",
        "supervised",
    ];
    for (name, value) in ours {
        let known = theirs.get(&name).unwrap_or_else(|| panic!("redis has no parameter {name}"));
        assert!(own.contains(&name.as_str()) || value == *known, "{name}: {value}, in redis {known}");
    }
}

/// The description of one command, with what has no order sorted.
fn described(reply: &Reply) -> Reply {
    match reply {
        Reply::Many(kind, items) => {
            let mut items: Vec<Reply> = items.iter().map(described).collect();
            // A remark for people, in some.
            if items.first().is_some_and(|item| item.bytes() == b"notes") {
                items.drain(..2);
            }
            if items.iter().all(|item| matches!(item, Reply::Line(b'+', _))) {
                items.sort();
            }
            Reply::Many(*kind, items)
        }
        leaf => leaf.clone(),
    }
}

#[test]
fn commands_are_described_as_in_redis() {
    let Some(redis) = redis() else { return };
    for hello in ["HELLO 2", "HELLO 3"] {
        let (mut theirs, mut ours) = (redis.connect(), InProcess::new(1));
        both(hello, &mut theirs, &mut ours);
        let (_, list) = both("COMMAND LIST", &mut theirs, &mut ours);
        let (_, count) = both("COMMAND COUNT", &mut theirs, &mut ours);
        assert_eq!(count.integer(), Some(list.items().len() as i64));
        assert!(list.items().len() > 100, "only {} commands", list.items().len());
        for name in list.items() {
            let name = String::from_utf8_lossy(name.bytes()).to_string();
            // Redis has it from 7.2 on.
            if name == "waitaof" {
                continue;
            }
            let (theirs_info, ours_info) = both(&format!("COMMAND INFO {name}"), &mut theirs, &mut ours);
            let (mut theirs_info, mut ours_info) = (described(&theirs_info), described(&ours_info));
            let subcommands = (subcommands(&mut theirs_info), subcommands(&mut ours_info));
            assert_eq!(told(&ours_info), told(&theirs_info), "COMMAND INFO {name}");
            for (own, description) in subcommands.1 {
                assert_eq!(Some(told(&description)), subcommands.0.get(&own).map(told), "COMMAND INFO {own}");
            }
            let (theirs_docs, ours_docs) = both(&format!("COMMAND DOCS {name}"), &mut theirs, &mut ours);
            let (theirs_docs, ours_docs) = (docs(&theirs_docs), docs(&ours_docs));
            for field in ["since", "group", "doc_flags", "deprecated_since", "replaced_by"] {
                // Of DEBUG we have only the refusal.
                if name == "debug" {
                    continue;
                }
                assert_eq!(ours_docs.get(field), theirs_docs.get(field), "COMMAND DOCS {name}: {field}");
            }
        }
    }
}

/// Takes the subcommands out of a description.
fn subcommands(info: &mut Reply) -> BTreeMap<String, Reply> {
    let Reply::Many(_, infos) = info else { return BTreeMap::new() };
    let Some(Reply::Many(_, fields)) = infos.first_mut() else { return BTreeMap::new() };
    let Some(Reply::Many(_, subcommands)) = fields.last_mut() else { return BTreeMap::new() };
    let taken = std::mem::take(subcommands);
    taken.into_iter().map(|info| (String::from_utf8_lossy(info.items()[0].bytes()).to_string(), info)).collect()
}

/// The fields of COMMAND DOCS of one command.
fn docs(reply: &Reply) -> BTreeMap<String, Reply> {
    let fields = reply.items()[1].items().chunks(2);
    fields.map(|pair| (String::from_utf8_lossy(pair[0].bytes()).to_string(), pair[1].clone())).collect()
}
