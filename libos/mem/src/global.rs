//! The heap as the program's `#[global_allocator]`: what a core allocates while it is entered comes from its heap, so
//! that `Heap::adopt` makes a `Buf` of a `Vec` without a copy (Demikernel §5.3, the transparent heap).
//!
//! The one thread-local of Margay's core crates is here: which heap the calling thread has entered. Threads that
//! entered none, and requests that a heap cannot serve, get the system's allocator. Memory may be freed by any thread:
//! another core's chunk goes home over its owner's return list.
//!
//! Only one reservation of a process can serve as the global one: an address must say at once whether it is ours.

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;
use std::ptr::{self, NonNull};
use std::sync::OnceLock;
use std::sync::atomic::{AtomicUsize, Ordering};

use crate::heap::{Heap, HeapState, Purpose};
use crate::reservation::Reservation;
use crate::span::{SPAN_SIZE, Span};

/// `#[global_allocator] static HEAP: GlobalHeap = GlobalHeap;`
pub struct GlobalHeap;

/// Keeps the global reservation for the rest of the process. Its range is beside it, to be read without a test.
static GLOBAL: OnceLock<Reservation> = OnceLock::new();
static BASE: AtomicUsize = AtomicUsize::new(0);
static SIZE: AtomicUsize = AtomicUsize::new(0);

thread_local! {
    static CURRENT: Cell<*const HeapState> = const { Cell::new(ptr::null()) };
}

impl Reservation {
    /// Makes this the reservation that [`GlobalHeap`] allocates from, for the rest of the process.
    ///
    /// # Errors
    /// Itself back, if there is one already.
    pub fn make_global(self) -> Result<(), Reservation> {
        let (base, size) = (self.base().as_ptr() as usize, self.size());
        GLOBAL.set(self)?;
        BASE.store(base, Ordering::Relaxed);
        SIZE.store(size, Ordering::Release);
        Ok(())
    }
}

impl Heap {
    /// From now on, and until the result is dropped, this thread allocates from this heap, if the program's allocator
    /// is [`GlobalHeap`] and the heap is of the global reservation. Else it does nothing.
    pub fn enter(&self) -> Entered {
        let ours = in_global(self.reservation().base().as_ptr());
        let heap = if ours { self.state().me() } else { ptr::null() };
        Entered { previous: CURRENT.replace(heap), _heap: self.clone() }
    }
}

/// While this lives, its thread allocates from the heap that it entered. Nests.
pub struct Entered {
    previous: *const HeapState,
    /// Alive as long as it is current.
    _heap: Heap,
}

impl Drop for Entered {
    fn drop(&mut self) {
        CURRENT.set(self.previous);
    }
}

#[inline(always)]
fn in_global(at: *const u8) -> bool {
    (at as usize).wrapping_sub(BASE.load(Ordering::Relaxed)) < SIZE.load(Ordering::Relaxed)
}

/// Whether `start` is the start of a chunk that `heap` allocated for this program's allocator.
pub(crate) fn is_of(start: *const u8, heap: &HeapState) -> bool {
    // SAFETY: inside the global reservation, so it is a chunk of some heap of it.
    in_global(start) && ptr::eq(unsafe { owner_of(start) }, heap)
}

/// # Safety
/// `start` lies in the global reservation, in a chunk that is in use.
unsafe fn owner_of(start: *const u8) -> *const HeapState {
    let reservation = GLOBAL.get().expect("an address is global only after a reservation is");
    let span = (start as usize - reservation.base().as_ptr() as usize) / SPAN_SIZE;
    // SAFETY: a span of the reservation. The first span of a chunk is the one that `start` lies in. Its `heap` does not
    // change while the chunk is in use.
    unsafe { Span::at(reservation.meta(), span) }.header().heap.get()
}

// SAFETY: chunks are disjoint, at least as long as asked for, and aligned as asked for (`class_aligned`; whole spans
// are aligned to spans). A chunk stays in use until `dealloc`. Nothing here unwinds: exhaustion falls back to `System`.
unsafe impl GlobalAlloc for GlobalHeap {
    #[inline]
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        let heap = CURRENT.try_with(Cell::get).unwrap_or(ptr::null());
        if heap.is_null() || layout.align() > SPAN_SIZE {
            // SAFETY: the caller's promise for this call is `System`'s.
            return unsafe { System.alloc(layout) };
        }
        // SAFETY: an entered heap is alive (`Entered` holds a handle), and this thread's.
        let heap = unsafe { &*heap };
        let taken = if layout.align() <= 32 {
            heap.take(Purpose::App, layout.size())
        } else {
            heap.take_aligned(Purpose::App, layout.size(), layout.align())
        };
        match taken {
            Ok(counter) => crate::buf::chunk_of(counter).as_ptr(),
            // SAFETY: as above.
            Err(_) => unsafe { System.alloc(layout) },
        }
    }

    #[inline]
    unsafe fn dealloc(&self, start: *mut u8, layout: Layout) {
        if !in_global(start) {
            // SAFETY: not one of ours, so it came from `System` with this layout.
            return unsafe { System.dealloc(start, layout) };
        }
        // SAFETY: `start` is the start of a chunk of ours in use, with a count of one, and the caller is done with it.
        // Its heap is alive, as it has a chunk in use.
        unsafe {
            let owner = owner_of(start);
            let start = NonNull::new_unchecked(start);
            if ptr::eq(owner, CURRENT.try_with(Cell::get).unwrap_or(ptr::null())) {
                crate::buf::free_allocation(owner, start);
            } else {
                (*owner).returns.push_chunk(start);
            }
        }
    }

    #[inline]
    unsafe fn realloc(&self, start: *mut u8, layout: Layout, new_size: usize) -> *mut u8 {
        if in_global(start) {
            // SAFETY: a chunk of ours in use: its span's header does not change.
            let room = unsafe { chunk_size(start) };
            if new_size <= room && new_size * 2 >= room {
                return start; // fits, and does not waste more than half
            }
        } else if CURRENT.try_with(Cell::get).unwrap_or(ptr::null()).is_null() {
            // SAFETY: the caller's promise for this call is `System`'s.
            return unsafe { System.realloc(start, layout, new_size) };
        }
        // SAFETY: `new_size` is not zero and does not overflow, by the caller's promise; both allocations are at least
        // as long as what is copied; the old one is the caller's to free.
        unsafe {
            let new = self.alloc(Layout::from_size_align_unchecked(new_size, layout.align()));
            if !new.is_null() {
                ptr::copy_nonoverlapping(start, new, layout.size().min(new_size));
                self.dealloc(start, layout);
            }
            new
        }
    }
}

/// # Safety
/// As for `owner_of`.
unsafe fn chunk_size(start: *const u8) -> usize {
    let reservation = GLOBAL.get().expect("an address is global only after a reservation is");
    let span = (start as usize - reservation.base().as_ptr() as usize) / SPAN_SIZE;
    // SAFETY: as in `owner_of`.
    unsafe { Span::at(reservation.meta(), span) }.header().chunk_size.get()
}
