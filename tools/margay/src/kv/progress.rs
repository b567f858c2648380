//! How far loading is: a bar on the terminal, or a line a second where there is none.

use std::io::{IsTerminal, Write, stderr};
use std::sync::Mutex;
use std::time::{Duration, Instant};

use kv_server::Progress;

struct Shown {
    cores: Vec<Progress>,
    since: Instant,
    last: Instant,
}

static SHOWN: Mutex<Option<Shown>> = Mutex::new(None);

/// Loading that takes less is not worth a word.
const WORTH_SAYING: Duration = Duration::from_millis(500);
const WIDTH: u64 = 30;

/// Shows how far a core is, and with it the others.
pub fn show(progress: Progress) {
    let Ok(mut shown) = SHOWN.lock() else { return };
    let now = Instant::now();
    let shown = shown.get_or_insert_with(|| Shown { cores: Vec::new(), since: now, last: now });
    let core = progress.shard;
    if shown.cores.len() <= core {
        shown.cores.resize(core + 1, Progress::default());
    }
    // A core that says at the end how much it has read may be a late one.
    shown.cores[core] = progress;
    let is_over = shown.cores.iter().all(|core| core.is_over);
    let often = if stderr().is_terminal() { Duration::from_millis(100) } else { Duration::from_secs(1) };
    let is_worth_it = now - shown.since > WORTH_SAYING;
    if !is_worth_it || !is_over && now - shown.last < often {
        return;
    }
    shown.last = now;
    let sum = |of: fn(&Progress) -> u64| shown.cores.iter().map(of).sum::<u64>();
    let (bytes, keys, expected) =
        (sum(|core| core.bytes), sum(|core| core.keys), sum(|core| core.keys_expected.max(core.keys)));
    let text = line(bytes, keys, expected, is_over, now - shown.since);
    let mut out = stderr().lock();
    let _ = match stderr().is_terminal() {
        true => write!(out, "\r{text}{}", if is_over { "\n" } else { "" }),
        false => writeln!(out, "{text}"),
    };
}

fn line(bytes: u64, keys: u64, expected: u64, is_over: bool, took: Duration) -> String {
    let (mib, seconds) = (bytes >> 20, took.as_secs_f64());
    if is_over {
        return format!("margay: loaded {keys} keys from {mib} MiB in {seconds:.1} s{:40}", "");
    }
    let done = (keys * WIDTH).checked_div(expected).unwrap_or(0).min(WIDTH) as usize;
    let bar = format!("{}{}", "#".repeat(done), ".".repeat(WIDTH as usize - done));
    format!("margay: loading [{bar}] {keys} keys, {mib} MiB, {seconds:.0} s")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bar_is_as_long_as_what_is_done() {
        let half = line(3 << 20, 50, 100, false, Duration::from_secs(2));
        assert_eq!(half, "margay: loading [###############...............] 50 keys, 3 MiB, 2 s");
        assert!(line(0, 0, 0, false, Duration::ZERO).contains("[..............................] 0 keys"));
        assert!(
            line(1 << 20, 7, 7, true, Duration::from_secs(1)).starts_with("margay: loaded 7 keys from 1 MiB in 1.0 s")
        );
    }
}
