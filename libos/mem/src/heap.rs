//! A core's heap: size classes over spans, one set of spans for each purpose, and reserves.
//!
//! Always: a chunk belongs to the heap that cut it, is counted in its span's meta block, and goes back to that span.
//! The free spans cover what the reserves still have to claim, so that receiving and acknowledging go on when the
//! application has taken everything else. `pinned` is the sum of the sizes of all chunks in use.
//!
//! Reserves are physical: spans are not shared between purposes, so a reserve cannot be lost to fragmentation by
//! others. A chunk that an application *keeps* (`Buf::keep`) is charged to the application from then on: it no longer
//! counts as what its purpose has claimed.
//!
//! Life: handles are counted, and the state outlives them while buffers, loans or borrowed buffers are out.

mod reserve;

use std::cell::Cell;
use std::mem::ManuallyDrop;
use std::ptr::NonNull;

use crate::buf::{Buf, BufMut};
use crate::class::{CHUNK_SIZE_MAX, CLASS_COUNT, class_aligned, class_of};
use crate::copied::{Copied, CopyCounters, CopyPath};
use crate::reservation::{Plan, Reservation, ReserveError, Source};
use crate::returns::{Outgoing, Returns};
use crate::span::{SPAN_SIZE, Span, SpanMap, Use};
use crate::{Exhausted, global};

pub use reserve::Reserves;

/// What memory is for. Each purpose has spans of its own, and may have a reserve.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(u8)]
pub enum Purpose {
    /// Applications: pushes, stored values, everything that an actor holds.
    App = 0,
    /// Receiving: what a device writes into.
    Receive,
    /// Headers and acknowledgements.
    Header,
}

impl Purpose {
    const ALL: [Purpose; 3] = [Purpose::App, Purpose::Receive, Purpose::Header];
}

/// A reading of a heap's books. Sizes in bytes of whole chunks.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct HeapStats {
    /// In use: by this core, lent to others, or handed to a device.
    pub pinned: usize,
    /// Of these, received chunks that the application keeps.
    pub kept: usize,
    /// Buffers that this core has borrowed from others.
    pub borrowed: usize,
    /// Not given to any class.
    pub free_spans: usize,
    /// All spans of the heap.
    pub spans: usize,
}

#[derive(Default)]
struct Bin {
    current: Cell<Option<Span>>,
    /// Head of the list of spans with free chunks.
    listed: Cell<Option<Span>>,
}

pub(crate) struct HeapState {
    bins: [[Bin; CLASS_COUNT]; Purpose::ALL.len()],
    pinned: Cell<usize>,
    /// Spans that each purpose holds, and bytes of them that the application keeps.
    held: [Cell<usize>; Purpose::ALL.len()],
    kept: [Cell<usize>; Purpose::ALL.len()],
    spans: SpanMap,
    handles: Cell<usize>,
    /// The pointer that everything refers to the state by. (One made from `&self` would not be allowed to free it.)
    me: Cell<*const HeapState>,
    pub(crate) borrowed: Cell<usize>,
    pub(crate) copied: CopyCounters,
    pub(crate) index: usize,
    reservation: Reservation,
    /// What other cores bring back. The one field that they touch.
    pub(crate) returns: Returns,
    pub(crate) outgoing: Outgoing,
}

/// The handle to a core's heap. Not `Send`: the core that took it is the core that uses it.
pub struct Heap(NonNull<HeapState>);

impl Heap {
    pub(crate) fn new(reservation: Reservation, index: usize) -> Heap {
        let state = HeapState {
            bins: std::array::from_fn(|_| std::array::from_fn(|_| Bin::default())),
            pinned: Cell::new(0),
            held: Default::default(),
            kept: Default::default(),
            spans: SpanMap::all_free(reservation.spans_per_heap()),
            handles: Cell::new(1),
            me: Cell::new(std::ptr::null()),
            borrowed: Cell::new(0),
            copied: CopyCounters::default(),
            index,
            returns: Returns::new(),
            outgoing: Outgoing::new(reservation.heap_count()),
            reservation,
        };
        let state = NonNull::from(Box::leak(Box::new(state)));
        // SAFETY: just allocated.
        unsafe { state.as_ref() }.me.set(state.as_ptr());
        Heap(state)
    }

    /// A heap of at least `size` bytes in a reservation of its own, without reserves: for tests and tools.
    ///
    /// # Errors
    /// [`ReserveError`]: the size makes no sense, or the system refuses.
    pub fn alone(size: usize) -> Result<Heap, ReserveError> {
        let plan = Plan { heaps: 1, heap_size: size, reserves: Reserves::NONE, source: Source::Ordinary };
        Ok(Reservation::new(plan)?.heap(0).expect("the first heap of a new reservation"))
    }

    /// Memory for `capacity` bytes, empty. For applications; see [`Heap::alloc_for`].
    ///
    /// # Errors
    /// [`Exhausted`].
    #[inline]
    pub fn alloc(&self, capacity: usize) -> Result<BufMut, Exhausted> {
        self.alloc_for(Purpose::App, capacity)
    }

    /// Memory for at least `capacity` bytes, empty, from the part of the heap that `purpose` may use. Aligned to 32.
    ///
    /// # Errors
    /// [`Exhausted`].
    #[inline]
    pub fn alloc_for(&self, purpose: Purpose, capacity: usize) -> Result<BufMut, Exhausted> {
        let counter = self.state().take(purpose, capacity)?;
        // SAFETY: `take` gave a chunk of at least `capacity` bytes with a count of one, which is ours.
        Ok(unsafe { BufMut::from_chunk(counter) })
    }

    /// Like [`Heap::alloc`], with the first byte at a multiple of `align` (a power of two up to 256 KiB), for devices
    /// that demand it.
    ///
    /// # Errors
    /// [`Exhausted`].
    pub fn alloc_aligned(&self, capacity: usize, align: usize) -> Result<BufMut, Exhausted> {
        if !align.is_power_of_two() || align > SPAN_SIZE {
            return Err(Exhausted);
        }
        let counter = self.state().take_aligned(Purpose::App, capacity, align)?;
        // SAFETY: as in `alloc_for`.
        Ok(unsafe { BufMut::from_chunk(counter) })
    }

    /// A buffer with a copy of `bytes`. The copy is the caller's to count.
    ///
    /// # Errors
    /// [`Exhausted`].
    pub fn copy(&self, bytes: &[u8]) -> Result<Buf, Exhausted> {
        let mut buf = self.alloc(bytes.len())?;
        buf.put(bytes);
        Ok(buf.freeze())
    }

    /// The paper's transparent heap: a `Vec` becomes a `Buf`, without a copy when this heap allocated it (as the
    /// program's [`GlobalHeap`](crate::GlobalHeap)), and by a counted copy otherwise.
    ///
    /// # Errors
    /// [`Exhausted`]: it had to be copied, and there is no room.
    pub fn adopt(&self, vec: Vec<u8>) -> Result<Buf, Exhausted> {
        if vec.capacity() > 0 && global::is_of(vec.as_ptr(), self.state()) {
            let vec = ManuallyDrop::new(vec);
            let start = NonNull::new(vec.as_ptr().cast_mut()).expect("a vector with capacity has an address");
            // SAFETY: `is_of` says that the vector's memory is a chunk of this heap; the vector, its only owner, is
            // forgotten; the heap counted the chunk once when it was allocated.
            return Ok(unsafe { Buf::from_allocation(self.state(), start, vec.len()) });
        }
        self.count_copied(CopyPath::Adopt, vec.len());
        self.copy(&vec)
    }

    /// Counts `bytes` as copied on `path`.
    #[inline]
    pub fn count_copied(&self, path: CopyPath, bytes: usize) {
        self.state().copied.add(path, bytes);
    }

    /// Bytes copied so far, per path.
    pub fn copied(&self) -> Copied {
        self.state().copied.read()
    }

    /// The books.
    pub fn stats(&self) -> HeapStats {
        let state = self.state();
        HeapStats {
            pinned: state.pinned.get(),
            kept: state.kept.iter().map(Cell::get).sum(),
            borrowed: state.borrowed.get(),
            free_spans: state.spans.free_count(),
            spans: state.reservation.spans_per_heap(),
        }
    }

    /// Takes in what other cores brought back, and sends home what this core is done with. Called once a burst.
    #[inline]
    pub fn exchange_returns(&self) {
        self.state().collect();
        self.state().outgoing.flush();
    }

    /// Takes in what came back from other cores, and frees the spans that size classes keep empty for their next
    /// allocation; done by itself when memory is short. For those who want to know how much is left.
    #[cold]
    pub fn reclaim(&self) {
        self.exchange_returns();
        self.state().release_idle();
    }

    /// Which of the reservation's heaps this is.
    pub fn index(&self) -> usize {
        self.state().index
    }

    /// The reservation it was cut from.
    pub fn reservation(&self) -> &Reservation {
        &self.state().reservation
    }

    #[inline(always)]
    pub(crate) fn state(&self) -> &HeapState {
        // SAFETY: the state lives while handles are counted, and this is one. Only the owning core has handles; other
        // cores touch `returns` alone, which is made for that.
        unsafe { self.0.as_ref() }
    }

    /// A handle to the heap of `state`.
    ///
    /// # Safety
    /// `state` is alive and the calling core owns it.
    pub(crate) unsafe fn from_state(state: *const HeapState) -> Heap {
        // SAFETY: alive by the caller's promise.
        let handles = unsafe { &(*state).handles };
        handles.set(handles.get() + 1);
        // SAFETY: a pointer to something alive is not null.
        Heap(unsafe { NonNull::new_unchecked(state.cast_mut()) })
    }
}

impl Clone for Heap {
    fn clone(&self) -> Heap {
        // SAFETY: `self` proves both.
        unsafe { Heap::from_state(self.0.as_ptr()) }
    }
}

impl Drop for Heap {
    fn drop(&mut self) {
        let state = self.state();
        if state.handles.get() == 1 {
            self.exchange_returns();
        }
        let state = self.0.as_ptr();
        // SAFETY: this handle was counted and is gone now; the state is not used below but by `retire`, which decides
        // whether anything else needs it.
        unsafe {
            (*state).handles.set((*state).handles.get() - 1);
            HeapState::retire(state);
        }
    }
}

impl std::fmt::Debug for Heap {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Heap({}, {:?})", self.index(), self.stats())
    }
}

/// The count of references in a counter word, and the mark of a kept chunk beside it.
pub(crate) const COUNT_MASK: u32 = KEPT - 1;
pub(crate) const KEPT: u32 = 1 << 31;

impl HeapState {
    /// A chunk of at least `len` bytes, with a count of one.
    #[inline]
    pub(crate) fn take(&self, purpose: Purpose, len: usize) -> Result<NonNull<u32>, Exhausted> {
        if len > CHUNK_SIZE_MAX {
            return self.take_run(purpose, len);
        }
        let class = class_of(len);
        self.take_class(purpose, class).or_else(|_| self.take_larger(purpose, class + 1))
    }

    /// A chunk that is larger than asked for, of a span that the purpose holds already: there is no other left.
    #[cold]
    fn take_larger(&self, purpose: Purpose, class: usize) -> Result<NonNull<u32>, Exhausted> {
        let has_room = |class: &usize| {
            let bin = &self.bins[purpose as usize][*class];
            bin.listed.get().is_some() || bin.current.get().is_some_and(|span| span.has_room())
        };
        let class = (class..CLASS_COUNT).find(has_room).ok_or(Exhausted)?;
        self.take_class(purpose, class)
    }

    pub(crate) fn take_aligned(&self, purpose: Purpose, len: usize, align: usize) -> Result<NonNull<u32>, Exhausted> {
        match class_aligned(len, align) {
            Some(class) => self.take_class(purpose, class),
            None => self.take_run(purpose, len),
        }
    }

    #[inline(always)]
    fn take_class(&self, purpose: Purpose, class: usize) -> Result<NonNull<u32>, Exhausted> {
        let bin = &self.bins[purpose as usize][class];
        if let Some(span) = bin.current.get()
            && let Some(counter) = span.take()
        {
            return Ok(self.hand_out(span, counter));
        }
        self.take_class_slowly(purpose, class)
    }

    #[inline(always)]
    fn hand_out(&self, span: Span, counter: NonNull<u32>) -> NonNull<u32> {
        // SAFETY: the word of a chunk that was just taken; only this core touches it.
        unsafe { counter.write(1) };
        self.pinned.set(self.pinned.get() + span.header().chunk_size.get());
        counter
    }

    #[cold]
    fn take_class_slowly(&self, purpose: Purpose, class: usize) -> Result<NonNull<u32>, Exhausted> {
        self.collect();
        let bin = &self.bins[purpose as usize][class];
        if let Some(span) = bin.current.get() {
            if let Some(counter) = span.take() {
                return Ok(self.hand_out(span, counter)); // something came back
            }
            span.header().span_use.set(Use::Full);
            bin.current.set(None);
        }
        let span = match bin.listed.get() {
            Some(span) => {
                self.unlist(bin, span);
                span.header().span_use.set(Use::Current);
                span
            }
            None => {
                let first = self.acquire(purpose, 1).or_else(|_| {
                    self.release_idle();
                    self.acquire(purpose, 1)
                })?;
                let span = self.span(first);
                span.begin_class(self.me(), self.data(first), class, purpose);
                span
            }
        };
        bin.current.set(Some(span));
        let counter = span.take().expect("a listed or new span has a free chunk");
        Ok(self.hand_out(span, counter))
    }

    #[cold]
    fn take_run(&self, purpose: Purpose, len: usize) -> Result<NonNull<u32>, Exhausted> {
        // A `Buf`'s length has 32 bits.
        if len > u32::MAX as usize - SPAN_SIZE {
            return Err(Exhausted);
        }
        let count = len.div_ceil(SPAN_SIZE);
        let first = self.acquire(purpose, count).or_else(|_| {
            self.collect();
            self.release_idle();
            self.acquire(purpose, count)
        })?;
        let span = self.span(first);
        span.begin_run(self.me(), self.data(first), count, purpose);
        Ok(self.hand_out(span, span.counter(0)))
    }

    /// The last reference to the chunk of `counter` is gone.
    ///
    /// # Safety
    /// `counter` is the word of a chunk in use of the calling core's heap, and nothing refers to the chunk any more.
    #[inline]
    pub(crate) unsafe fn free(counter: NonNull<u32>) {
        // SAFETY: a counter word of a live heap, by the caller's promise.
        let span = unsafe { Span::of(counter) };
        let header = span.header();
        // SAFETY: a heap with a chunk in use is alive.
        let heap = unsafe { &*header.heap.get() };
        let size = header.chunk_size.get();
        // SAFETY: the word of a chunk in use, touched by this core only.
        if unsafe { counter.read() } & KEPT != 0 {
            let kept = &heap.kept[header.purpose.get() as usize];
            kept.set(kept.get() - size);
        }
        #[cfg(debug_assertions)]
        // SAFETY: nothing refers to the chunk; whoever still reads it, a device or a bug, is meant to see this.
        unsafe {
            let chunk = span.chunk(span.index_of(counter));
            chunk.write_bytes(0xDB, size.min(4096));
        }
        heap.pinned.set(heap.pinned.get() - size);
        let used = span.give(counter);
        // What its class allocates from stays, even if it is empty: the next allocation takes it.
        if header.span_use.get() != Use::Current || (used == 0 && heap.handles.get() == 0) {
            // SAFETY: as above; nothing of `heap` is used after the call.
            unsafe { HeapState::tidy_span(header.heap.get(), span, used) };
        }
    }

    /// A chunk went back to a span that is empty now, or that its class does not allocate from.
    ///
    /// # Safety
    /// `heap` is alive and owned by the calling core, and not used after the call: it may be gone.
    #[cold]
    unsafe fn tidy_span(heap: *const HeapState, span: Span, used: u32) {
        // SAFETY: alive until `retire` below.
        let state = unsafe { &*heap };
        let header = span.header();
        let bin = &state.bins[header.purpose.get() as usize][header.class.get() as usize];
        match header.span_use.get() {
            Use::Run => state.release(span, header.chunk_size.get() / SPAN_SIZE),
            Use::Full if used > 0 => state.list(bin, span),
            Use::Full => state.release(span, 1),
            Use::Listed if used == 0 => {
                state.unlist(bin, span);
                state.release(span, 1);
            }
            Use::Listed | Use::Current => {}
            Use::Free => unreachable!("a chunk of a free span was in use"),
        }
        // SAFETY: the caller does not use it any more.
        unsafe { HeapState::retire(heap) };
    }

    /// Gives back the spans that their classes keep for the next allocation, and that are empty.
    #[cold]
    fn release_idle(&self) {
        for bin in self.bins.iter().flatten() {
            if let Some(span) = bin.current.get().filter(|span| span.header().used.get() == 0) {
                bin.current.set(None);
                self.release(span, 1);
            }
        }
    }

    fn release(&self, span: Span, count: usize) {
        let header = span.header();
        header.span_use.set(Use::Free);
        let held = &self.held[header.purpose.get() as usize];
        held.set(held.get() - count);
        let offset = header.base.get() as usize - self.data(0) as usize;
        self.spans.give(offset / SPAN_SIZE, count);
    }

    fn list(&self, bin: &Bin, span: Span) {
        let header = span.header();
        let head = bin.listed.get();
        header.span_use.set(Use::Listed);
        header.previous.set(None);
        header.next.set(head);
        if let Some(head) = head {
            head.header().previous.set(Some(span));
        }
        bin.listed.set(Some(span));
    }

    fn unlist(&self, bin: &Bin, span: Span) {
        let header = span.header();
        match header.previous.get() {
            Some(previous) => previous.header().next.set(header.next.get()),
            None => bin.listed.set(header.next.get()),
        }
        if let Some(next) = header.next.get() {
            next.header().previous.set(header.previous.get());
        }
    }

    #[inline(always)]
    pub(crate) fn me(&self) -> *const HeapState {
        self.me.get()
    }

    /// Takes in what other cores brought back.
    #[inline]
    pub(crate) fn collect(&self) {
        if !self.returns.is_empty() {
            self.returns.collect(self);
        }
    }

    /// The meta block of this heap's span number `index`.
    fn span(&self, index: usize) -> Span {
        debug_assert!(index < self.reservation.spans_per_heap());
        // SAFETY: the reservation has `spans_per_heap` spans for each heap, and `self.index` is one of its heaps.
        unsafe { Span::at(self.reservation.meta(), self.index * self.reservation.spans_per_heap() + index) }
    }

    /// The data of this heap's span number `index`.
    fn data(&self, index: usize) -> *mut u8 {
        let span = self.index * self.reservation.spans_per_heap() + index;
        // SAFETY: inside the reservation, as in `span`.
        unsafe { self.reservation.base().as_ptr().add(span * SPAN_SIZE) }
    }

    /// The chunk of this heap that starts at `start`.
    pub(crate) fn counter_of(&self, start: NonNull<u8>) -> NonNull<u32> {
        let offset = start.as_ptr() as usize - self.data(0) as usize;
        let span = self.span(offset / SPAN_SIZE);
        debug_assert_eq!(offset % SPAN_SIZE % span.header().chunk_size.get(), 0, "not the start of a chunk");
        span.counter((offset % SPAN_SIZE / span.header().chunk_size.get()) as u32)
    }

    /// Frees the state when nothing needs it: no handle, no chunk in use (lent ones are), nothing borrowed.
    ///
    /// # Safety
    /// `state` is alive and owned by the calling core; it may be gone afterwards.
    pub(crate) unsafe fn retire(state: *const HeapState) {
        // SAFETY: alive by the caller's promise.
        let heap = unsafe { &*state };
        if heap.handles.get() > 0 || heap.pinned.get() > 0 || heap.borrowed.get() > 0 {
            return;
        }
        heap.outgoing.flush();
        for span in heap.bins.iter().flatten().filter_map(|bin| bin.current.take()) {
            heap.release(span, 1);
        }
        debug_assert_eq!(heap.spans.free_count(), heap.reservation.spans_per_heap(), "an empty heap holds spans");
        let (reservation, index) = (heap.reservation.clone(), heap.index);
        // SAFETY: it was leaked from a Box in `Heap::new`; nothing refers to it, as was checked above.
        drop(unsafe { Box::from_raw(state.cast_mut()) });
        reservation.give_back(index);
    }
}

#[cfg(all(test, not(loom)))]
pub(crate) mod tests;
