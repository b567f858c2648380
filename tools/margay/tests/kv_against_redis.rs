//! `margay kv` over real sockets beside a real redis-server: generated commands, reply for reply.
//!
//! One and two cores, epoll and io_uring, RESP2 and RESP3; one command after the other, many at once, and eight
//! connections at a time. A failure prints the seed, the shortest sequence that still fails, and the line that replays
//! it. Without redis-server it is skipped, and says so. `MARGAY_SEED` chooses the first case, `MARGAY_LONG=1` runs for
//! minutes.

mod kv_process;

use std::collections::BTreeMap;
use std::thread;
use std::time::{Duration, Instant};

use kv_differential::case::{self, CASE_LEN, commands_of, first_difference, first_seed, is_long, looks};
use kv_differential::compare::leaves_to_chance;
use kv_differential::generate::{self, words};
use kv_differential::scripts::{SCRIPTS, broken, is_cut, long_scripts, without_ids};
use kv_differential::{Args, Pair, Redis};
use pdpix::Rng;

use kv_process::{Form, Kv};

fn redis() -> Option<Redis> {
    let redis = Redis::start();
    if redis.is_none() {
        println!("SKIP kv_against_redis: no redis-server of version 7.0");
    }
    redis
}

/// A server of each form that this machine has.
fn servers() -> Vec<Kv> {
    Form::available("kv_against_redis").iter().map(|form| Kv::start(form, &[])).collect()
}

/// Runs cases on the servers in turn, for this time or for minutes.
fn run_cases(name: &str, seconds: u64, servers: &[Kv], mut check: impl FnMut(u64, &Kv, &str)) {
    let first = first_seed();
    let deadline = Instant::now() + Duration::from_secs(if is_long() { seconds * 20 } else { seconds });
    let mut cases = 0;
    // Each server at least once.
    while Instant::now() < deadline || cases < servers.len() as u64 {
        let seed = first + cases;
        let kv = &servers[(seed % servers.len() as u64) as usize];
        let replay = format!("MARGAY_SEED={seed:#x} cargo test -p margay --test kv_against_redis {name}");
        check(seed, kv, &replay);
        cases += 1;
    }
    println!("{name}: {cases} cases, from MARGAY_SEED={first:#x}");
}

#[test]
fn every_reply_is_redis_s() {
    let Some(redis) = redis() else { return };
    let servers = servers();
    run_cases("every_reply", 6, &servers, |seed, kv, replay| {
        let run = |commands: &[Args]| first_difference(commands, Pair::new(&redis, kv.connect()));
        let mut commands = commands_of(seed);
        commands.retain(|args| !is_up_to_the_clock(args));
        if let Some(found) = run(&commands) {
            panic!("case {seed:#x}, {:?}: {}", kv.form, case::report(commands, found, replay, run));
        }
    });
    servers.into_iter().for_each(Kv::stop);
}

/// Runs commands in batches of these sizes, in turn.
fn difference_of_batches(commands: &[Args], seed: u64, mut pair: Pair<'_>) -> Option<(usize, String)> {
    let mut rng = Rng::new(seed);
    let mut start = 0;
    while start < commands.len() {
        let end = (start + 1 + rng.below(100) as usize).min(commands.len());
        if let Some((index, difference)) = pair.difference_of_batch(&commands[start..end]) {
            return Some((start + index, difference));
        }
        start = end;
    }
    None
}

#[test]
fn many_at_once_are_answered_in_their_order() {
    let Some(redis) = redis() else { return };
    let servers = servers();
    run_cases("many_at_once", 5, &servers, |seed, kv, replay| {
        let mut commands = commands_of(seed);
        commands.retain(|args| !leaves_to_chance(args) && !is_up_to_the_clock(args));
        let run = |commands: &[Args]| difference_of_batches(commands, seed, Pair::new(&redis, kv.connect()));
        if let Some(found) = run(&commands) {
            panic!("case {seed:#x}, {:?}: {}", kv.form, case::report(commands, found, replay, run));
        }
    });
    servers.into_iter().for_each(Kv::stop);
}

/// Whether a command sets a time to live that is over while a case runs, on a machine that may be busy: then it is chance
/// which server still sees the value. Or compares it with one that may have been set in the same millisecond, or before.
fn is_up_to_the_clock(args: &[Vec<u8>]) -> bool {
    let names: [&[u8]; 6] = [b"expire", b"pexpire", b"setex", b"psetex", b"set", b"getex"];
    let is_soon = |arg: &Vec<u8>| {
        std::str::from_utf8(arg).is_ok_and(|arg| arg.parse::<u32>().is_ok_and(|time| (1..60_000).contains(&time)))
    };
    let compares = |arg: &Vec<u8>| arg.eq_ignore_ascii_case(b"GT") || arg.eq_ignore_ascii_case(b"LT");
    let is_relative = names[..2].contains(&args[0].to_ascii_lowercase().as_slice());
    names.contains(&args[0].to_ascii_lowercase().as_slice()) && args.iter().skip(2).any(is_soon)
        || is_relative && args.iter().skip(3).any(compares)
}

/// Whether a command concerns its own database and its own connection alone.
fn stays_at_home(args: &[Vec<u8>]) -> bool {
    let names: [&[u8]; 8] = [b"flushall", b"swapdb", b"select", b"move", b"config", b"client", b"reset", b"quit"];
    let word = |word: &[u8]| args.iter().any(|arg| arg.eq_ignore_ascii_case(word));
    let leaves = word(b"copy") && word(b"db") || names.contains(&args[0].to_ascii_lowercase().as_slice());
    !leaves
}

/// One of several connections: a database of its own, in commands one by one and in batches.
fn run_in_database(database: u64, seed: u64, mut pair: Pair<'_>) -> Option<String> {
    let mut rng = Rng::new(seed * 16 + database);
    let (theirs, ours) = pair.both(&words(&format!("SELECT {database}")));
    if theirs != ours {
        return Some(format!("SELECT {database}: {theirs:?}, ours {ours:?}"));
    }
    for _ in 0..3 {
        let commands = |rng: &mut Rng, count| -> Vec<Args> {
            (0..count)
                .map(|_| generate::command(rng))
                .filter(|args| stays_at_home(args) && !is_up_to_the_clock(args))
                .collect()
        };
        for args in commands(&mut rng, 40) {
            if let Some(difference) = pair.difference(&args) {
                return Some(difference);
            }
        }
        let mut batch = commands(&mut rng, 60);
        batch.retain(|args| !leaves_to_chance(args));
        if let Some((_, difference)) = pair.difference_of_batch(&batch) {
            return Some(difference);
        }
    }
    looks().iter().find_map(|look| pair.difference(look))
}

#[test]
fn eight_connections_at_a_time_do_not_disturb_each_other() {
    let Some(redis) = redis() else { return };
    let servers = servers();
    run_cases("eight_connections", 5, &servers, |seed, kv, replay| {
        drop(Pair::new(&redis, kv.connect()));
        let difference = thread::scope(|scope| {
            let one = |database| {
                let redis = &redis;
                scope.spawn(move || run_in_database(database, seed, Pair::beside(redis, kv.connect())))
            };
            let threads: Vec<_> = (0..8).map(one).collect();
            threads.into_iter().map(|thread| thread.join().expect("a thread")).fold(None, Option::or)
        });
        if let Some(difference) = difference {
            panic!("case {seed:#x}, {:?}, on one of eight connections: {difference}\nreplay: {replay}", kv.form);
        }
    });
    servers.into_iter().for_each(Kv::stop);
}

/// Eight connections write keys of their own prefixes, many in one command and so over both shards; then all keys are
/// read back and compared with Redis's, to whom the same was said.
#[test]
fn what_eight_connections_have_written_is_all_there() {
    let Some(redis) = redis() else { return };
    let seed = first_seed();
    for kv in servers() {
        drop(Pair::new(&redis, kv.connect()));
        thread::scope(|scope| {
            for number in 0..8 {
                let (redis, kv) = (&redis, &kv);
                scope.spawn(move || {
                    let mut rng = Rng::new(seed + number);
                    let key = |rng: &mut Rng| format!("c{number}:{}", rng.below(200));
                    let commands: Vec<Args> = (0..1500)
                        .map(|n| {
                            let (a, b, c) = (key(&mut rng), key(&mut rng), key(&mut rng));
                            words(&match rng.below(6) {
                                0 => format!("MSET {a} {n} {b} {n} {c} x{n}"),
                                1 => format!("DEL {a} {b}"),
                                2 => format!("RENAME {a} {b}"),
                                3 => format!("COPY {a} {b} REPLACE"),
                                4 => format!("INCR {a}"),
                                _ => format!("APPEND {a} {n}"),
                            })
                        })
                        .collect();
                    let mut pair = Pair::beside(redis, kv.connect());
                    for batch in commands.chunks(100) {
                        if let Some((_, difference)) = pair.difference_of_batch(batch) {
                            panic!("MARGAY_SEED={seed:#x}: {:?}: {difference}", kv.form);
                        }
                    }
                });
            }
        });
        let mut pair = Pair::beside(&redis, kv.connect());
        let (theirs, ours) = pair.both(&words("KEYS *"));
        let names = |reply: kv_differential::Reply| -> BTreeMap<Vec<u8>, ()> {
            reply.items().iter().map(|name| (name.bytes().to_vec(), ())).collect()
        };
        let (theirs, ours) = (names(theirs.expect("names")), names(ours.expect("names")));
        assert!(theirs.len() > 300, "only {} keys", theirs.len());
        assert_eq!(ours, theirs, "MARGAY_SEED={seed:#x}: {:?}", kv.form);
        let gets: Vec<Args> = theirs.into_keys().map(|name| vec![b"GET".to_vec(), name]).collect();
        let difference = pair.difference_of_batch(&gets);
        assert_eq!(difference, None, "MARGAY_SEED={seed:#x}: {:?}", kv.form);
        kv.stop();
    }
}

/// What a client sends that ends its direction then, byte for byte. Not what depends on how it was cut on its way.
#[test]
fn every_byte_of_a_connection_is_redis_s() {
    let Some(redis) = redis() else { return };
    let first = first_seed();
    let generated: Vec<Vec<u8>> = (0..if is_long() { 5000 } else { 300 }).map(|n| broken(first + n)).collect();
    let long = long_scripts();
    let long = long.iter().filter(|script| !script.starts_with(b"ECHO"));
    let scripts: Vec<&[u8]> =
        SCRIPTS.iter().copied().chain(long.map(Vec::as_slice)).chain(generated.iter().map(Vec::as_slice)).collect();
    for kv in servers() {
        for script in scripts.iter().filter(|script| !is_cut(script)) {
            let clean = b"AUTH secret\r\nCONFIG SET requirepass ''\r\nFLUSHALL\r\n";
            redis.connect().talk(clean);
            kv.connect().talk(clean);
            let (theirs, ours) = (redis.connect().talk(script), kv.connect().talk(script));
            assert!(
                ours == theirs || without_ids(&ours) == without_ids(&theirs),
                "{:?}: {}\n  redis: {}\n  ours:  {}",
                kv.form,
                script[..script.len().min(1000)].escape_ascii(),
                theirs[..theirs.len().min(1000)].escape_ascii(),
                ours[..ours.len().min(1000)].escape_ascii(),
            );
        }
        kv.stop();
    }
    println!("{} connections to each, {CASE_LEN} commands a case", scripts.len());
}
