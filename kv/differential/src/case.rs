//! A case: a sequence of commands from a seed, what differs first when it is run, and the shortest that still differs.

use std::time::{Duration, Instant};

use pdpix::Rng;

use crate::compare::{Pair, shown};
use crate::generate::{self, Args, words};

/// Commands in one case, without those that set it up and look at what was left.
pub const CASE_LEN: usize = 250;

/// Whether `MARGAY_LONG=1` asks for minutes instead of seconds.
pub fn is_long() -> bool {
    std::env::var("MARGAY_LONG").is_ok_and(|long| long == "1")
}

/// The seed of the first case: `MARGAY_SEED`, decimal or with `0x`, or the same as always.
pub fn first_seed() -> u64 {
    let Ok(seed) = std::env::var("MARGAY_SEED") else { return 0x5eed };
    let digits = seed.strip_prefix("0x");
    digits.map_or_else(|| seed.parse(), |digits| u64::from_str_radix(digits, 16)).expect("MARGAY_SEED: a number")
}

/// What shows the values that a case has left behind.
pub fn looks() -> Vec<Args> {
    let mut commands = vec![words("KEYS *")];
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

/// The commands of a case: those that set it up, those that it is about, and those that look at what was left.
pub fn commands_of(seed: u64) -> Vec<Args> {
    let mut rng = Rng::new(seed);
    let mut commands = vec![words(if rng.chance(0.5) { "HELLO 2" } else { "HELLO 3" })];
    commands.extend((0..CASE_LEN).map(|_| generate::command(&mut rng)));
    commands.push(words("SELECT 0"));
    commands.extend(looks());
    commands
}

/// Runs commands one by one. Which is the first whose replies differ, and how.
pub fn first_difference(commands: &[Args], mut pair: Pair<'_>) -> Option<(usize, String)> {
    commands.iter().enumerate().find_map(|(index, args)| Some((index, pair.difference(args)?)))
}

/// The shortest sequence found within 20 s that still differs, and how. `run` runs one as [`first_difference`] does.
pub fn shrink(
    mut commands: Vec<Args>,
    mut found: (usize, String),
    run: impl Fn(&[Args]) -> Option<(usize, String)>,
) -> (Vec<Args>, String) {
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
            match run(&fewer) {
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

/// A report of a case that differs: the shortest sequence, what differs, and the line that replays it.
pub fn report(
    commands: Vec<Args>,
    found: (usize, String),
    replay: &str,
    run: impl Fn(&[Args]) -> Option<(usize, String)>,
) -> String {
    let (shortest, difference) = shrink(commands, found, run);
    let lines: Vec<String> = shortest.iter().map(|args| shown(args)).collect();
    format!("{difference}\nafter\n  {}\nreplay: {replay}", lines.join("\n  "))
}
