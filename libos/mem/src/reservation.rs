//! The process's reservation: one contiguous range of addresses, cut into heaps of whole spans.
//!
//! Always: the range and its meta blocks (one a span, `span.rs`) live until the last heap, buffer and handle are gone.
//! A heap is taken by one core; taking it twice is refused until it has come back whole.
//! Nothing is pinned or touched here: pages are committed by use, unless the source commits them.

use std::alloc::Layout;
use std::any::Any;
use std::ptr::NonNull;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use crate::heap::{Heap, Reserves};
use crate::span::{META_STRIDE, SPAN_SIZE};

/// Where the reservation's memory comes from.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum Source {
    /// Anonymous pages, committed when touched.
    #[default]
    Ordinary,
    /// Huge pages of 2 MiB (`vm.nr_hugepages`); refused where there are not enough.
    Huge,
    /// A memfd, so that another process or a device's helper can map it.
    Memfd,
    /// What somebody else has reserved, such as DPDK's environment: only for [`Reservation::over_external`].
    External,
}

/// What to reserve.
#[derive(Clone, Copy, Debug)]
pub struct Plan {
    /// One for each core.
    pub heaps: usize,
    /// Bytes of each heap; rounded up to whole spans.
    pub heap_size: usize,
    /// What in each heap is set aside for receiving and for headers.
    pub reserves: Reserves,
    /// Where the memory comes from.
    pub source: Source,
}

/// Why a reservation could not be made.
#[derive(Debug)]
pub enum ReserveError {
    /// No heaps, no bytes, reserves beyond a quarter of the heap each, or more heaps than [`Plan`] can name (255).
    BadPlan(&'static str),
    /// The operating system refused, for this source.
    Os(Source, std::io::Error),
}

impl std::fmt::Display for ReserveError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            ReserveError::BadPlan(why) => write!(f, "cannot reserve memory: {why}"),
            ReserveError::Os(Source::Huge, error) => {
                write!(f, "cannot reserve huge pages ({error}); raise vm.nr_hugepages or choose ordinary memory")
            }
            ReserveError::Os(source, error) => write!(f, "cannot reserve memory ({source:?}): {error}"),
        }
    }
}

impl std::error::Error for ReserveError {}

/// A range of DMA-capable addresses, cut into one heap a core. Cheap to clone; clones are the same reservation.
#[derive(Clone)]
pub struct Reservation(Arc<Inner>);

impl std::fmt::Debug for Reservation {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Reservation({} heaps, {} B at {:p})", self.heap_count(), self.size(), self.base())
    }
}

pub(crate) struct Inner {
    base: NonNull<u8>,
    meta: NonNull<u8>,
    size: usize,
    spans_per_heap: usize,
    reserves: Reserves,
    taken: Box<[AtomicBool]>,
    /// Frees the two mappings, in whatever way their source wants. Last, so that it is dropped last.
    _mappings: (Mapping, Mapping),
}

// SAFETY: the addresses are fixed at construction. What lies behind them is divided among heaps, each of which is
// touched by its owner only (`heap.rs`); `taken` is atomic.
unsafe impl Send for Inner {}
// SAFETY: as above.
unsafe impl Sync for Inner {}

impl Reservation {
    /// Reserves `plan.heaps * plan.heap_size` bytes, and bookkeeping of an eighth of that in addresses (a fiftieth in
    /// touched pages).
    ///
    /// # Errors
    /// [`ReserveError`]: the plan makes no sense, or the system refuses.
    pub fn new(plan: Plan) -> Result<Reservation, ReserveError> {
        let size = check(&plan)?;
        if plan.source == Source::External {
            return Err(ReserveError::BadPlan("somebody else's memory is what somebody else has to give"));
        }
        let data = Mapping::new(plan.source, size, SPAN_SIZE).map_err(|e| ReserveError::Os(plan.source, e))?;
        Reservation::over(plan, data)
    }

    /// A reservation over memory that somebody else provides (EAL memory, when DPDK or SPDK is configured). `keeper` is
    /// dropped when nothing uses the memory any more.
    ///
    /// # Errors
    /// [`ReserveError`]: the plan makes no sense, does not fit into `len`, or `base` is not span-aligned.
    ///
    /// # Safety
    /// `base..base + len` is readable, writable, initialised memory that nothing else touches until `keeper` is dropped.
    pub unsafe fn over_external(
        plan: Plan,
        base: NonNull<u8>,
        len: usize,
        keeper: Box<dyn Any + Send + Sync>,
    ) -> Result<Reservation, ReserveError> {
        if check(&plan)? > len || !(base.as_ptr() as usize).is_multiple_of(SPAN_SIZE) {
            return Err(ReserveError::BadPlan("the memory provided is too small or not aligned to a span"));
        }
        Reservation::over(plan, Mapping { base, free: Free::Keeper(keeper) })
    }

    fn over(plan: Plan, data: Mapping) -> Result<Reservation, ReserveError> {
        let spans_per_heap = plan.heap_size.div_ceil(SPAN_SIZE);
        let spans = spans_per_heap * plan.heaps;
        let meta = Mapping::new(Source::Ordinary, spans * META_STRIDE, META_STRIDE)
            .map_err(|e| ReserveError::Os(Source::Ordinary, e))?;
        Ok(Reservation(Arc::new(Inner {
            base: data.base,
            meta: meta.base,
            size: spans * SPAN_SIZE,
            spans_per_heap,
            reserves: plan.reserves,
            taken: (0..plan.heaps).map(|_| AtomicBool::new(false)).collect(),
            _mappings: (data, meta),
        })))
    }

    /// Takes heap `index` for the calling core. `None` if there is no such heap, or it is taken.
    pub fn heap(&self, index: usize) -> Option<Heap> {
        let taken = self.0.taken.get(index)?;
        if taken.swap(true, Ordering::Acquire) {
            return None;
        }
        Some(Heap::new(self.clone(), index))
    }

    /// How many heaps there are.
    pub fn heap_count(&self) -> usize {
        self.0.taken.len()
    }

    /// First address; a backend registers `base..base + size` with its device once.
    pub fn base(&self) -> NonNull<u8> {
        self.0.base
    }

    /// Bytes in the reservation.
    pub fn size(&self) -> usize {
        self.0.size
    }

    /// Whether `at` lies inside.
    #[inline]
    pub fn contains(&self, at: *const u8) -> bool {
        (at as usize).wrapping_sub(self.0.base.as_ptr() as usize) < self.0.size
    }

    pub(crate) fn meta(&self) -> NonNull<u8> {
        self.0.meta
    }

    pub(crate) fn spans_per_heap(&self) -> usize {
        self.0.spans_per_heap
    }

    pub(crate) fn reserves(&self) -> Reserves {
        self.0.reserves
    }

    /// The heap came back whole: nothing of it is in use. Release, so that the next taker sees its memory as it is now.
    pub(crate) fn give_back(&self, index: usize) {
        self.0.taken[index].store(false, Ordering::Release);
    }
}

fn check(plan: &Plan) -> Result<usize, ReserveError> {
    let spans = plan.heap_size.div_ceil(SPAN_SIZE);
    if plan.heaps == 0 || plan.heaps > 255 {
        return Err(ReserveError::BadPlan("between 1 and 255 heaps"));
    }
    if spans < 4 {
        return Err(ReserveError::BadPlan("a heap is at least four spans (1 MiB)"));
    }
    let Reserves { app_spans, receive_spans, header_spans } = plan.reserves;
    if app_spans.max(receive_spans).max(header_spans) > spans / 4 {
        return Err(ReserveError::BadPlan("a reserve is at most a quarter of its heap"));
    }
    spans
        .checked_mul(SPAN_SIZE)
        .and_then(|heap| heap.checked_mul(plan.heaps))
        .filter(|&size| size < isize::MAX as usize / 2)
        .ok_or(ReserveError::BadPlan("more bytes than there are addresses"))
}

/// An owned range of addresses.
struct Mapping {
    base: NonNull<u8>,
    free: Free,
}

enum Free {
    #[cfg(not(any(miri, loom)))]
    Unmap { start: *mut std::ffi::c_void, len: usize },
    /// Miri and loom know the program's allocator better than mmap.
    #[cfg_attr(not(any(miri, loom)), allow(dead_code, reason = "only where there is no mmap"))]
    Dealloc(Layout),
    /// Held for its `Drop`.
    Keeper(#[allow(dead_code, reason = "held for its Drop")] Box<dyn Any + Send + Sync>),
}

impl Mapping {
    #[cfg(any(miri, loom))]
    fn new(_: Source, size: usize, align: usize) -> std::io::Result<Mapping> {
        let layout = Layout::from_size_align(size, align).expect("a size checked by the plan");
        // SAFETY: `size` is not zero: a plan has at least one heap of four spans.
        let base = NonNull::new(unsafe { std::alloc::alloc_zeroed(layout) }).ok_or(std::io::ErrorKind::OutOfMemory)?;
        Ok(Mapping { base, free: Free::Dealloc(layout) })
    }

    #[cfg(not(any(miri, loom)))]
    fn new(source: Source, size: usize, align: usize) -> std::io::Result<Mapping> {
        use rustix::fs::{MemfdFlags, ftruncate, memfd_create};
        use rustix::mm::{MapFlags, ProtFlags, mmap, mmap_anonymous};
        const HUGE: usize = 2 << 20;
        let align = if source == Source::Huge { align.max(HUGE) } else { align };
        // More than asked for, so that an aligned start lies inside. What is not touched costs nothing, but huge pages
        // are taken whole: they are aligned by the kernel to their own size, which is a multiple of ours.
        let len = if source == Source::Huge { size.next_multiple_of(HUGE) } else { size + align };
        let rw = ProtFlags::READ | ProtFlags::WRITE;
        // SAFETY: a new mapping at an address of the kernel's choice touches nothing that exists.
        let start = unsafe {
            match source {
                Source::Ordinary | Source::External => {
                    mmap_anonymous(std::ptr::null_mut(), len, rw, MapFlags::PRIVATE | MapFlags::NORESERVE)?
                }
                Source::Huge => mmap_anonymous(std::ptr::null_mut(), len, rw, MapFlags::PRIVATE | MapFlags::HUGETLB)?,
                Source::Memfd => {
                    let fd = memfd_create("margay", MemfdFlags::CLOEXEC)?;
                    ftruncate(&fd, len as u64)?;
                    mmap(std::ptr::null_mut(), len, rw, MapFlags::SHARED | MapFlags::NORESERVE, &fd, 0)?
                }
            }
        };
        let base = start.cast::<u8>().wrapping_add(start.cast::<u8>().align_offset(align));
        debug_assert!(base as usize + size <= start as usize + len, "alignment ran out of the mapping");
        let base = NonNull::new(base).expect("a mapping is never at address zero");
        Ok(Mapping { base, free: Free::Unmap { start, len } })
    }
}

impl Drop for Mapping {
    fn drop(&mut self) {
        match &self.free {
            #[cfg(not(any(miri, loom)))]
            Free::Unmap { start, len } => {
                // SAFETY: `start` and `len` are what mmap gave; the owner (`Inner`) is dropped when no heap, buffer or
                // handle refers to it, and `drop` runs once.
                let _ = unsafe { rustix::mm::munmap(*start, *len) };
            }
            // SAFETY: allocated with this layout in `Mapping::new`; `drop` runs once.
            Free::Dealloc(layout) => unsafe { std::alloc::dealloc(self.base.as_ptr(), *layout) },
            Free::Keeper(_) => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn plan(heaps: usize, heap_size: usize) -> Plan {
        Plan { heaps, heap_size, reserves: Reserves::NONE, source: Source::Ordinary }
    }

    #[test]
    fn a_senseless_plan_is_refused() {
        for bad in [plan(0, 1 << 24), plan(256, 1 << 24), plan(1, 0), plan(1, 3 * SPAN_SIZE), plan(2, usize::MAX / 2)] {
            assert!(matches!(Reservation::new(bad), Err(ReserveError::BadPlan(_))), "{bad:?}");
        }
        let greedy = Reserves { receive_spans: 2, ..Reserves::NONE };
        assert!(Reservation::new(Plan { reserves: greedy, ..plan(1, 4 * SPAN_SIZE) }).is_err());
        assert!(Reservation::new(Plan { source: Source::External, ..plan(1, 4 * SPAN_SIZE) }).is_err());
    }

    #[test]
    fn a_heap_is_taken_once_and_again_after_it_came_back() {
        let reservation = Reservation::new(plan(2, 4 * SPAN_SIZE)).unwrap();
        let first = reservation.heap(0).unwrap();
        assert!(reservation.heap(0).is_none(), "taken");
        assert!(reservation.heap(2).is_none(), "no such heap");
        let buf = first.alloc(100).unwrap();
        drop(first);
        assert!(reservation.heap(0).is_none(), "a buffer is still out");
        drop(buf);
        assert!(reservation.heap(0).is_some(), "back whole");
    }

    #[test]
    #[cfg(not(miri))]
    fn a_memfd_serves_as_well() {
        let reservation = Reservation::new(Plan { source: Source::Memfd, ..plan(1, 4 * SPAN_SIZE) }).unwrap();
        let heap = reservation.heap(0).unwrap();
        let mut buf = heap.alloc(1000).unwrap();
        assert_eq!(buf.put(&[7; 1000]), 1000);
        assert!(reservation.contains(buf.as_ptr()));
        assert_eq!(buf.freeze()[999], 7);
    }
}
