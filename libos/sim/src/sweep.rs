//! Many worlds, one a seed; and the one command that makes a failed one again.

use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};

use crate::settings::Settings;
use crate::world::World;

/// Runs a test's body in one world a seed: `sweep!(settings, |world: &mut World| ...)`. At the end of each, all buffers
/// must be given back ([`World::end`]); and the first is run twice, and must come out the same.
///
/// The seeds are 1 to 10, or to N with `MARGAY_SEEDS=N`; `MARGAY_SEED=0x...` is one. When one fails, the command that
/// makes it again is printed. Call the test `sweep_...`, so that `cargo xtask seeds` finds it.
#[macro_export]
macro_rules! sweep {
    ($settings:expr, $body:expr) => {{
        // The name of something in the test says what the test is called.
        fn here() {}
        let place = $crate::Place { package: env!("CARGO_PKG_NAME"), path: ::std::any::type_name_of_val(&here) };
        $crate::run_sweep(place, &$settings, $body)
    }};
}

/// Which test it is.
#[doc(hidden)]
#[derive(Clone, Copy, Debug)]
pub struct Place {
    pub package: &'static str,
    pub path: &'static str,
}

impl Place {
    /// The test's name, as the test program knows it.
    fn test(&self) -> &'static str {
        let path = self.path.trim_end_matches("::here").trim_end_matches("::{{closure}}");
        path.split_once("::").map_or(path, |(_, test)| test)
    }

    /// Makes a failed run again.
    fn command(&self, seed: u64) -> String {
        format!("MARGAY_SEED={seed:#x} cargo test -p {} {}", self.package, self.test())
    }
}

const SEEDS: u64 = 10;

/// Which seeds the environment asks for.
fn seeds() -> Vec<u64> {
    let variable = |name: &str| std::env::var(name).ok();
    if let Some(seed) = variable("MARGAY_SEED") {
        let parsed = seed.strip_prefix("0x").map_or_else(|| seed.parse().ok(), |hex| u64::from_str_radix(hex, 16).ok());
        return vec![parsed.unwrap_or_else(|| panic!("MARGAY_SEED={seed} is not a number"))];
    }
    let count = variable("MARGAY_SEEDS").map_or(SEEDS, |count| count.parse().expect("MARGAY_SEEDS is a number"));
    (1..=count).collect()
}

#[doc(hidden)]
pub fn run_sweep(place: Place, settings: &Settings, body: impl Fn(&mut World)) {
    for (i, seed) in seeds().into_iter().enumerate() {
        let fingerprint = run_one(place, settings, seed, &body);
        if i == 0 {
            let again = run_one(place, settings, seed, &body);
            assert!(fingerprint == again, "one seed, two courses of events: {}", place.command(seed));
        }
    }
}

fn run_one(place: Place, settings: &Settings, seed: u64, body: &impl Fn(&mut World)) -> u64 {
    let mut world = World::new(seed, settings.clone());
    let run = catch_unwind(AssertUnwindSafe(|| body(&mut world)));
    let fingerprint = world.fingerprint();
    let ended = match run {
        Ok(()) => catch_unwind(AssertUnwindSafe(|| world.end())),
        Err(panic) => {
            eprintln!("the last that happened, at {:?}:\n{}", world.now(), world.trace(20));
            // It stands in the middle of something: not even its end can be trusted.
            std::mem::forget(world);
            Err(panic)
        }
    };
    if let Err(panic) = ended {
        eprintln!("to make this again: {}", place.command(seed));
        resume_unwind(panic);
    }
    fingerprint
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_command_names_the_package_and_the_test() {
        let place = Place { package: "txn-node", path: "txn_node::tests::backup_takes_over::here" };
        assert_eq!(place.command(0x5eed), "MARGAY_SEED=0x5eed cargo test -p txn-node tests::backup_takes_over");
    }
}
