//! Whole conversations on one connection, byte for byte: inline commands, broken protocol, and what is answered before
//! the connection is closed.

use std::time::{Duration, Instant};

use kv_differential::case::{first_seed, is_long};
use kv_differential::scripts::{SCRIPTS, SHORT_OF_MEMORY, broken, is_cut, long_scripts, without_ids};
use kv_differential::{InProcess, Redis, Subject};

use super::redis;

fn check(script: &[u8], redis: &Redis, ours: &mut InProcess, pieces: &[usize]) {
    let mut run = |piece: usize| {
        ours.forget_configuration();
        ours.reconnect();
        ours.talk(b"FLUSHALL\r\n", usize::MAX);
        ours.reconnect();
        ours.talk(script, piece)
    };
    let ours: Vec<Vec<u8>> = pieces.iter().map(|&piece| run(piece)).collect();
    redis.connect().talk(b"AUTH secret\r\nCONFIG SET requirepass ''\r\nFLUSHALL\r\n");
    let theirs = redis.connect().talk(script);
    for (ours, piece) in ours.iter().zip(pieces) {
        assert!(
            *ours == theirs || without_ids(ours) == without_ids(&theirs),
            "{}\nin pieces of {piece}\n  redis: {}\n  ours:  {}",
            script[..script.len().min(1000)].escape_ascii(),
            theirs[..theirs.len().min(1000)].escape_ascii(),
            ours[..ours.len().min(1000)].escape_ascii(),
        );
    }
}

#[test]
fn every_byte_of_a_connection_is_redis_s() {
    let Some(redis) = redis() else { return };
    let mut ours = InProcess::new(2);
    for script in SCRIPTS {
        check(script, &redis, &mut ours, if is_cut(script) { &[usize::MAX] } else { &[usize::MAX, 1, 7] });
    }
    for shards in 1..4 {
        check(SHORT_OF_MEMORY, &redis, &mut InProcess::new(shards), &[usize::MAX]);
    }
    for script in long_scripts() {
        // Whether a line is too long is seen when it has not ended with what was read at once: 16 KiB in Redis.
        let is_inline = script.starts_with(b"ECHO");
        check(&script, &redis, &mut ours, if is_inline { &[16 * 1024] } else { &[usize::MAX, 16 * 1024, 1000] });
    }
}

#[test]
fn broken_protocol_is_answered_as_redis_does() {
    let Some(redis) = redis() else { return };
    let first = first_seed();
    let deadline = Instant::now() + Duration::from_secs(if is_long() { 60 } else { 3 });
    let mut ours = InProcess::new(1);
    let mut cases = 0;
    while Instant::now() < deadline {
        let seed = first + cases;
        // Printed only if it fails.
        println!("replay: MARGAY_SEED={seed:#x} cargo test -p kv-engine --test against_redis broken_protocol");
        check(&broken(seed), &redis, &mut ours, &[usize::MAX, 1 + (seed % 9) as usize]);
        cases += 1;
    }
    println!("{cases} connections, from MARGAY_SEED={first:#x}");
}
