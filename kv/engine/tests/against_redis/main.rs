//! Generated commands, run against a redis-server 7.0 of our own and against the engine, reply for reply.
//!
//! One connection, one, two and three shards, both versions of the protocol. What Redis leaves to chance is judged by
//! what it may be: the SCAN family by what a whole walk returns, SPOP and its like by membership, times to live by
//! ranges, INFO, CLIENT and COMMAND by their fields. A failure prints the seed, the line that replays it, and the
//! shortest sequence that still fails. Without redis-server it is skipped, and says so.
//!
//! `MARGAY_SEED` chooses the first case, `MARGAY_LONG=1` runs for minutes.

mod compare;
mod fields;
mod generate;
mod ours;
mod redis;
mod resp;
mod scripts;

use std::time::{Duration, Instant};

use pdpix::Rng;

use compare::Pair;
use generate::Args;
use ours::Ours;
use redis::Redis;

/// Commands in one case.
const CASE_LEN: usize = 250;

fn redis() -> Option<Redis> {
    let redis = Redis::start();
    if redis.is_none() {
        println!("SKIP against_redis: no redis-server of version 7.0");
    }
    redis
}

fn is_long() -> bool {
    std::env::var("MARGAY_LONG").is_ok_and(|long| long == "1")
}

fn first_seed() -> Option<u64> {
    let seed = std::env::var("MARGAY_SEED").ok()?;
    let digits = seed.strip_prefix("0x");
    Some(digits.map_or_else(|| seed.parse(), |digits| u64::from_str_radix(digits, 16)).expect("MARGAY_SEED: a number"))
}

/// The commands of a case: those that set it up, those that it is about, and those that look at what was left.
fn commands_of(seed: u64) -> Vec<Args> {
    let mut rng = Rng::new(seed);
    let words = |line: &str| line.split(' ').map(|word| word.as_bytes().to_vec()).collect::<Args>();
    let mut commands = vec![words(if rng.chance(0.5) { "HELLO 2" } else { "HELLO 3" })];
    commands.extend((0..CASE_LEN).map(|_| generate::command(&mut rng)));
    commands.push(words("SELECT 0"));
    commands.push(words("KEYS *"));
    for number in 0..4 {
        for look in ["GET s", "LRANGE l# 0 -1", "SMEMBERS t", "HGETALL h", "ZRANGE z# 0 -1 WITHSCORES", "ZCARD o"] {
            let look =
                if look.contains('#') { look.replace('#', &number.to_string()) } else { format!("{look}{number}") };
            let key = look.split(' ').nth(1).expect("a key").to_string();
            commands.push(words(&look));
            commands.push(words(&format!("PTTL {key}")));
            commands.push(words(&format!("OBJECT ENCODING {key}")));
        }
    }
    commands
}

/// What differs first when these commands are run, if anything.
fn first_difference(commands: &[Args], redis: &Redis, shards: usize) -> Option<(usize, String)> {
    let mut pair = Pair::new(redis, Ours::new(shards));
    commands.iter().enumerate().find_map(|(index, args)| Some((index, pair.difference(args)?)))
}

/// The shortest sequence found that still differs, and how.
fn shrink(mut commands: Vec<Args>, mut found: (usize, String), redis: &Redis, shards: usize) -> (Vec<Args>, String) {
    let deadline = Instant::now() + Duration::from_secs(20);
    commands.truncate(found.0 + 1);
    let mut size = commands.len() / 2;
    while size > 0 && Instant::now() < deadline {
        let mut start = 0;
        // The last one is where it shows.
        while start < commands.len() - 1 {
            let end = (start + size).min(commands.len() - 1);
            let mut fewer = commands.clone();
            fewer.drain(start..end);
            match first_difference(&fewer, redis, shards) {
                Some(difference) => {
                    commands = fewer;
                    commands.truncate(difference.0 + 1);
                    found = difference;
                }
                None => start = end,
            }
        }
        size /= 2;
    }
    (commands, found.1)
}

#[test]
fn every_reply_is_redis_s() {
    let Some(redis) = redis() else { return };
    let first = first_seed().unwrap_or(0x5eed);
    let deadline = Instant::now() + Duration::from_secs(if is_long() { 300 } else { 12 });
    let keep_going = std::env::var("MARGAY_ALL").is_ok();
    let mut cases = 0;
    while Instant::now() < deadline {
        let seed = first + cases;
        let shards = 1 + (seed % 3) as usize;
        let commands = commands_of(seed);
        if let Some(found) = first_difference(&commands, &redis, shards) {
            let (shortest, difference) = shrink(commands, found, &redis, shards);
            let lines: Vec<String> = shortest.iter().map(|args| compare::shown(args)).collect();
            let report = format!(
                "case {seed:#x} with {shards} shards: {difference}\nafter\n  {}\nreplay: MARGAY_SEED={seed:#x} cargo test -p \
                 kv-engine --test against_redis every_reply",
                lines.join("\n  ")
            );
            assert!(keep_going, "{report}");
            println!("{report}\n");
        }
        cases += 1;
    }
    println!("{cases} cases of {CASE_LEN} commands, from MARGAY_SEED={first:#x}");
}
