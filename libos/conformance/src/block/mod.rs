//! The suite of block devices: what docs/contract.md §4 promises, as the log on top sees it.
//!
//! ```ignore
//! libos_conformance::block_suite!(memory, || Ok(BlockSubject::new(heap, reopen)));
//! ```
//!
//! [`Bench`] drives one device: it names operations, waits as a core does (poll, arm, sleep), and keeps the books.
//! [`Recorder`] is a device that knows what a power cut may leave of it, [`Medium`] the rule behind it.

mod bench;
#[allow(missing_docs, reason = "a case is named by the fact that it states")]
pub mod cases;
mod medium;
mod recorder;

pub use bench::{Bench, BlockSubject};
pub use medium::{Content, Medium, SECTOR};
pub use recorder::{Recorder, RecorderSettings};

use crate::run::say;

/// A subject, or why this machine has none of its kind.
pub type MadeBlock = Result<BlockSubject, String>;

/// Runs one case, from a test in the module `module`.
///
/// # Panics
/// If the fact does not hold, or memory was not given back.
pub fn run_block(module: &str, name: &str, case: fn(&mut Bench), make: impl FnOnce() -> MadeBlock) {
    let path = module.split_once("::").map_or(module, |(_, path)| path);
    match make() {
        Err(reason) => say(&format!("SKIP {path}::{name}: {reason}")),
        Ok(subject) => {
            let mut bench = Bench::new(subject);
            case(&mut bench);
            bench.check_returned();
        }
    }
}

/// A test of each case, in a module of this name: `block_suite!(name, make)`, where `make()` gives a [`MadeBlock`].
#[macro_export]
macro_rules! block_suite {
    ($name:ident, $make:expr) => {
        mod $name {
            #[allow(unused_imports, reason = "what `make` may name")]
            use super::*;
            $crate::block_cases! { $make,
                the_geometry_makes_sense
                what_was_written_is_read
                what_is_no_operation_of_this_device_is_refused_and_comes_back
                every_operation_ends_once_though_many_are_under_way
                poll_gives_no_more_than_there_is_room_for
                a_full_queue_refuses_and_goes_on
                it_wakes_also_when_something_came_with_the_last_look
                what_was_flushed_is_there_when_it_is_opened_again
                a_write_is_forced_or_refused
                dropping_it_waits_for_what_is_under_way
                discarding_touches_nothing_else
                a_write_may_lie_in_as_many_segments_as_it_says
                the_first_and_the_last_block_are_blocks
                a_transfer_may_be_as_long_as_it_says
            }
        }
    };
}

/// The same for what only devices that can be broken can be asked: see [`BlockSubject::broken_by`].
#[macro_export]
macro_rules! block_suite_broken {
    ($name:ident, $make:expr) => {
        mod $name {
            #[allow(unused_imports, reason = "what `make` may name")]
            use super::*;
            $crate::block_cases! { $make, a_read_that_fails_gives_its_memory_back }
        }
    };
}

#[doc(hidden)]
#[macro_export]
macro_rules! block_cases {
    ($make:expr, $($case:ident)*) => {
        $(
            #[test]
            fn $case() {
                $crate::block::run_block(module_path!(), stringify!($case), $crate::block::cases::$case, $make);
            }
        )*
    };
}
