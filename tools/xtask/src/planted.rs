//! `cargo xtask planted`: plants each bug of docs/testing.md, and sees that the test which is to catch it does.
//!
//! A bug lies in the source behind `cfg(margay_planted_bug = "...")`, where the right thing is left out. That a test passes
//! without the bug is what `cargo xtask test` shows.

use anyhow::Result;

use crate::command::{self, Show, cargo};
use crate::report::{self, Ended, Part};
use crate::skips;
use crate::workspace::Metadata;

struct Planted {
    bug: &'static str,
    /// Beside the bug's own.
    flags: &'static str,
    /// After `cargo test`: the one test that is to fail.
    words: &'static str,
}

const BUGS: [Planted; 24] = [
    Planted {
        bug: "lost_wakeup",
        flags: "--cfg loom",
        words: "-p libos-runtime --lib --release loom_a_ring_is_never_missed_by_a_core_that_goes_to_sleep",
    },
    Planted {
        bug: "no_second_look",
        flags: "",
        words: "-p libos-runtime --test cores a_sleeping_core_is_woken_by_each_message",
    },
    Planted {
        bug: "release_at_completion",
        flags: "",
        words: "-p libos-posix --test conformance uring_suite::what_was_accepted_is_sent_as_it_was",
    },
    Planted {
        bug: "pop_loses_on_cancel",
        flags: "",
        words: "-p libos-runtime --test networks data_of_a_token_that_was_dropped_comes_first",
    },
    Planted {
        bug: "pop_loses_on_cancel",
        flags: "",
        words: "-p libos-sim --test worlds sweep_a_pop_that_is_dropped_at_any_moment_loses_nothing",
    },
    Planted {
        bug: "stale_read",
        flags: "",
        words: "-p cluster-tests --test simulated sweep_the_cache_is_linearizable_on_two_cores",
    },
    Planted {
        bug: "lost_update",
        flags: "",
        words: "-p cluster-tests --test simulated sweep_the_cache_is_linearizable_on_one_core",
    },
    Planted { bug: "no_reneging_check", flags: "", words: "-p libos-net --test scripts -- --exact sack_reneging" },
    Planted { bug: "rto_never_backs_off", flags: "", words: "-p libos-net --test scripts -- --exact rto_doubles" },
    Planted {
        bug: "window_update_lost",
        flags: "",
        words: "-p libos-net --test scripts -- --exact silly_window_receiver",
    },
    Planted {
        bug: "isn_constant",
        flags: "",
        words: "-p libos-net --lib other_ends_and_other_secrets_begin_elsewhere",
    },
    Planted { bug: "time_wait_short", flags: "", words: "-p libos-net --test scripts -- --exact close_active" },
    Planted { bug: "wrap_off_by_one", flags: "", words: "-p libos-net --test scripts -- --exact wrap_theirs" },
    Planted { bug: "black_hole_ignored", flags: "", words: "-p libos-net --test scripts -- --exact mtu_black_hole" },
    Planted { bug: "freed_before_ack", flags: "", words: "-p libos-net --test scripts -- --exact rto_restarts" },
    Planted {
        bug: "acknowledge_before_flush",
        flags: "",
        words: "-p libos-journal --test sweep sweep_power_cuts_and_kills_lose_nothing_that_was_acknowledged",
    },
    Planted {
        bug: "crc_without_payload",
        flags: "",
        words: "-p libos-journal --test sweep sweep_power_cuts_and_kills_lose_nothing_that_was_acknowledged",
    },
    Planted {
        bug: "skip_the_epoch",
        flags: "",
        words: "-p libos-journal --test sweep sweep_power_cuts_and_kills_lose_nothing_that_was_acknowledged",
    },
    Planted {
        bug: "reuse_before_truncate_is_durable",
        flags: "",
        words: "-p libos-journal --test sweep sweep_a_full_device_reuses_nothing_too_early",
    },
    Planted {
        bug: "ignore_a_flush_error",
        flags: "",
        words: "-p libos-journal --test sweep sweep_errors_of_the_disk_fail_the_log_and_lose_nothing_that_was_acknowledged",
    },
    Planted {
        bug: "answer_before_flush",
        flags: "",
        words: "-p cluster-tests --test simulated sweep_the_durable_cache_is_linearizable_over_restarts_on_two_cores",
    },
    Planted {
        bug: "read_before_flush",
        flags: "",
        words: "-p cluster-tests --test simulated sweep_the_durable_cache_is_linearizable_over_restarts_on_one_core",
    },
    Planted {
        bug: "read_before_flush",
        flags: "",
        words: "-p cluster-tests --test simulated sweep_the_durable_cache_is_linearizable_over_restarts_and_our_tcp_on_one_core",
    },
    Planted {
        bug: "joint_part_counts",
        flags: "",
        words: "-p kv-server --test durable sweep_always_on_two_cores_survives_power_cuts",
    },
];

/// A sweep must come upon a bug within so many.
const SEEDS: &str = "500";

pub fn run() -> Result<bool> {
    let target = Metadata::load()?.target_folder.join("planted");
    let mut parts = Vec::new();
    for planted in &BUGS {
        parts.push(Part::run(planted.bug, || {
            let mut command = cargo("test --locked");
            command.arg("--target-dir").arg(&target).args(planted.words.split_whitespace());
            let flags = format!("{} --cfg margay_planted_bug=\"{}\"", planted.flags, planted.bug);
            command.env("RUSTFLAGS", flags.trim()).env("RUST_BACKTRACE", "0").env("MARGAY_SEEDS", SEEDS);
            let ran = command::run(&mut command, Show::All)?;
            Ok(match () {
                () if is_caught(&ran.output) => Ended::passed(),
                () if !ran.skips.is_empty() => Ended { skips: ran.skips, ..Ended::skipped(planted.bug, "") },
                () => Ended::failed("the test did not fail, or something else did"),
            })
        }));
    }
    let skipped: Vec<skips::Skip> = parts.iter().flat_map(|part| part.ended.skips.clone()).collect();
    let all_listed = skips::report(&skipped)?;
    print!("{}", report::table(&parts));
    Ok(all_listed && !parts.iter().any(Part::has_failed))
}

/// Whether the one test ran, and failed.
fn is_caught(output: &str) -> bool {
    output.contains("test result: FAILED. 0 passed; 1 failed")
}

#[cfg(test)]
mod tests {
    use super::is_caught;

    #[test]
    fn only_a_test_that_fails_catches_a_bug() {
        assert!(is_caught("test result: FAILED. 0 passed; 1 failed; 0 ignored"));
        assert!(!is_caught("test result: ok. 1 passed; 0 failed; 0 ignored"));
        assert!(!is_caught("test result: ok. 0 passed; 0 failed; 0 ignored"));
        assert!(!is_caught("error: could not compile"));
    }
}
