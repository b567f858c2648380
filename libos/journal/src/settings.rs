//! What a store is told when it is put on a device.

use std::time::Duration;

/// How a store behaves. Nothing of this is on the device.
#[derive(Clone, Debug)]
pub struct Settings {
    /// A blank device (all zero where a store would begin) is formatted so; without it, a blank device is `NotFound`.
    pub format: Option<Format>,
    /// How long a flush may be held back, so that more records share it. Zero: it is sent as soon as something waits for
    /// it and no other is under way, which is right where a flush takes longer than appends need to come together.
    pub commit_delay: Duration,
    /// Bytes of records that are accepted and not yet durable. Appends beyond that wait, uncopied.
    pub budget: usize,
    /// How many appends may wait. Beyond that they are refused with `NoBuffers`.
    pub waiting_max: usize,
    /// The longest write, in bytes: a power of two.
    pub write_max: usize,
    /// How much a log that is read takes in at once, in bytes: a power of two.
    pub read_ahead: usize,
    /// When nothing was appended for so long, the place up to which everything is durable is noted, so that recovery begins
    /// there, and knows damage before it for what it is.
    pub mark_delay: Duration,
}

/// How a device is formatted.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Format {
    /// Chance: tells this store from all others, and its records from those of a store that was here before.
    pub store_id: u128,
    /// Bytes in an extent, a power of two; a record is not longer than one. `None`: by the size of the device.
    pub extent_size: Option<u64>,
    /// The most logs.
    pub logs_max: u32,
}

impl Default for Settings {
    fn default() -> Settings {
        Settings {
            format: None,
            commit_delay: Duration::ZERO,
            budget: 4 << 20,
            waiting_max: 4096,
            write_max: 128 << 10,
            read_ahead: 256 << 10,
            mark_delay: Duration::from_millis(100),
        }
    }
}

impl Format {
    /// The usual form, for a store of this number.
    pub fn new(store_id: u128) -> Format {
        Format { store_id, extent_size: None, logs_max: 16 }
    }
}
