//! Memory that devices can reach: one reservation a process, one heap a core, and counted buffers cut from it.
//!
//! - [`Reservation`]: the address range, where its memory comes from ([`Source`]), and its division into heaps.
//! - [`Heap`]: size-class slabs of one core. Allocation and free on the owning core take no atomic.
//! - [`Buf`], [`BufMut`]: a counted immutable slice, and the unique writable one. Push takes `Buf`s, so nobody can write
//!   to memory that is in flight, and nobody can free it.
//! - [`Loan`]: how a `Buf` travels to another core without that core ever touching the owner's count.
//! - [`Region`]: memory that somebody else may write; never a `&[u8]`.
//! - [`BufList`]: a short list of `Buf`s, the body of a scatter-gather array.
//! - [`GlobalHeap`]: the heap as the program's `#[global_allocator]`.
//!
//! Always: exhaustion is the value [`Exhausted`], never a panic. Accounting is by bytes pinned (whole chunks), not by
//! payload. A heap's state, its counts and its lists are touched by its own core only; the one exception is the return
//! list, which other cores push to (`returns.rs`).
//!
//! Sources: Demikernel (SOSP'21) §5.3 (the heap and its use-after-free protection); mimalloc (free lists sharded by page).
//! Not here: NUMA nodes (one reservation stands for one node), registration with devices (each backend's own).

mod buf;
mod class;
mod copied;
mod global;
mod heap;
mod list;
mod loan;
mod region;
mod reservation;
mod returns;
mod span;
mod sync;

pub use buf::{Buf, BufMut};
pub use class::CHUNK_SIZE_MAX;
pub use copied::{Copied, CopyPath, KEEP_COPY_MAX, PUSH_COPY_MAX};
pub use global::{Entered, GlobalHeap};
pub use heap::{Heap, HeapStats, Purpose, Reserves};
pub use list::BufList;
pub use loan::Loan;
pub use region::Region;
pub use reservation::{Plan, Reservation, ReserveError, Source};
pub use span::SPAN_SIZE;

/// The heap has no memory left for this request: ENOBUFS at the API. Nothing was changed.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Exhausted;

impl std::fmt::Display for Exhausted {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("the core's heap is exhausted")
    }
}

impl std::error::Error for Exhausted {}
