//! Where bytes are copied, how many, and below which length copying beats counting.
//!
//! Each threshold is fixed by a benchmark of its own, `cargo xtask bench`; docs/benchmarks.md has the figures.

use std::cell::Cell;

/// A push of at most this many bytes is copied into a backend's own frame or page rather than referenced.
pub const PUSH_COPY_MAX: usize = 1024;

/// [`Buf::keep`](crate::Buf::keep) copies a slice of at most this many bytes even when it is most of its chunk.
pub const KEEP_COPY_MAX: usize = 256;

/// The places where payload bytes may be copied. Each has a counter, and tests assert them.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(usize)]
pub enum CopyPath {
    /// Into a frame, page or linear buffer of a backend.
    Push,
    /// By `keep`: a slice that would have pinned too much.
    Keep,
    /// By value to another core, or because a loan could not be made.
    Loan,
    /// From a device's memory into ours (the copy by the kernel in `recv` is not ours and not counted).
    Receive,
    /// Pieces put together because someone needed them contiguous.
    Coalesce,
    /// From a `Vec` that was not of our heap.
    Adopt,
}

impl CopyPath {
    /// Every path, in the order of their counters.
    pub const ALL: [CopyPath; 6] =
        [CopyPath::Push, CopyPath::Keep, CopyPath::Loan, CopyPath::Receive, CopyPath::Coalesce, CopyPath::Adopt];
}

/// Bytes copied by one core, per path, since the heap was made.
#[derive(Default)]
pub(crate) struct CopyCounters([Cell<u64>; CopyPath::ALL.len()]);

impl CopyCounters {
    #[inline]
    pub(crate) fn add(&self, path: CopyPath, bytes: usize) {
        let counter = &self.0[path as usize];
        counter.set(counter.get() + bytes as u64);
    }

    pub(crate) fn read(&self) -> Copied {
        Copied(std::array::from_fn(|path| self.0[path].get()))
    }
}

/// A reading of the counters of bytes copied.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Copied([u64; CopyPath::ALL.len()]);

impl Copied {
    /// Bytes copied on `path`.
    pub fn on(&self, path: CopyPath) -> u64 {
        self.0[path as usize]
    }

    /// Bytes copied on all paths.
    pub fn total(&self) -> u64 {
        self.0.iter().sum()
    }

    /// What was copied since `earlier`.
    pub fn since(&self, earlier: Copied) -> Copied {
        Copied(std::array::from_fn(|path| self.0[path] - earlier.0[path]))
    }
}
