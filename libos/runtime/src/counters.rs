//! What a core has done, in numbers. Read by `margay kv`'s INFO, by tests, and by tools over a service's own port.

use std::cell::Cell;

macro_rules! counters {
    ($($(#[$doc:meta])* $name:ident,)*) => {
        /// The counters of one core, running.
        #[derive(Default)]
        pub(crate) struct Counters { $(pub(crate) $name: Cell<u64>,)* }

        /// A reading of a core's counters.
        #[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
        pub struct CounterReading { $($(#[$doc])* pub $name: u64,)* }

        impl Counters {
            pub(crate) fn read(&self) -> CounterReading {
                CounterReading { $($name: self.$name.get(),)* }
            }
        }

        impl CounterReading {
            /// Every counter, with its name.
            pub fn all(&self) -> Vec<(&'static str, u64)> {
                vec![$((stringify!($name), self.$name),)*]
            }
        }
    };
}

counters! {
    /// Passes of the loop.
    passes,
    /// Passes that found something to do.
    busy_passes,
    /// Coroutines resumed.
    switches,
    /// Pushes accepted.
    pushes,
    /// Pops accepted.
    pops,
    /// Operations that ended in `submit`.
    completed_at_once,
    /// Operations that ended in `poll`.
    completed_later,
    /// Results that came back to their queue because nobody held the token.
    returned,
    /// Messages sent to other cores.
    core_sends,
    /// Messages from other cores.
    core_receives,
    /// Naps of a few microseconds, to let work gather.
    naps,
    /// Sleeps until something happens.
    sleeps,
}

/// Adds one.
#[inline(always)]
pub(crate) fn count(counter: &Cell<u64>) {
    counter.set(counter.get() + 1);
}

/// Adds several.
#[inline(always)]
pub(crate) fn count_many(counter: &Cell<u64>, many: usize) {
    counter.set(counter.get() + many as u64);
}
