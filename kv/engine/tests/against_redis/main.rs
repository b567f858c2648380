//! Generated commands, run against a redis-server 7.0 of our own and against the engine, reply for reply.
//!
//! One connection, one, two and three shards, both versions of the protocol. What Redis leaves to chance is judged by
//! what it may be: the SCAN family by what a whole walk returns, SPOP and its like by membership, times to live by
//! ranges, INFO, CLIENT and COMMAND by their fields. A failure prints the seed, the line that replays it, and the
//! shortest sequence that still fails. Without redis-server it is skipped, and says so.
//!
//! `MARGAY_SEED` chooses the first case, `MARGAY_LONG=1` runs for minutes.

mod fields;
mod scripts;

use std::time::{Duration, Instant};

use kv_differential::case::{self, CASE_LEN, commands_of, first_difference};
use kv_differential::{Args, InProcess, Pair, Redis};

fn redis() -> Option<Redis> {
    let redis = Redis::start();
    if redis.is_none() {
        println!("SKIP against_redis: no redis-server of version 7.0");
    }
    redis
}

#[test]
fn every_reply_is_redis_s() {
    let Some(redis) = redis() else { return };
    let first = case::first_seed();
    let deadline = Instant::now() + Duration::from_secs(if case::is_long() { 300 } else { 12 });
    let keep_going = std::env::var("MARGAY_ALL").is_ok();
    let mut cases = 0;
    while Instant::now() < deadline {
        let seed = first + cases;
        let shards = 1 + (seed % 3) as usize;
        let run = |commands: &[Args]| first_difference(commands, Pair::new(&redis, InProcess::new(shards)));
        let commands = commands_of(seed);
        if let Some(found) = run(&commands) {
            let replay = format!("MARGAY_SEED={seed:#x} cargo test -p kv-engine --test against_redis every_reply");
            let report =
                format!("case {seed:#x} with {shards} shards: {}", case::report(commands, found, &replay, run));
            assert!(keep_going, "{report}");
            println!("{report}\n");
        }
        cases += 1;
    }
    println!("{cases} cases of {CASE_LEN} commands, from MARGAY_SEED={first:#x}");
}
