//! Spans: 256 KiB of chunks of one size, and beside each, outside of device memory, its meta block.
//!
//! A meta block is a header and one counter word a chunk. The word of a chunk in use holds its count of references (and
//! whether it is kept); the word of a free chunk holds the index of the next free one: the free list costs no memory,
//! and neither it nor the counts can be reached by a device or by a stray write into a buffer.
//!
//! Meta blocks are aligned to their stride, so a counter's address alone leads to its header, its index and its chunk.
//! Everything here is touched by the owning core only, but for `SpanHeader::heap` and `base`, which other threads read
//! while they hold a chunk of the span, and which do not change while any chunk is in use.

use std::cell::Cell;
use std::ptr::NonNull;

use crate::class::size_of_class;
use crate::heap::HeapState;
use crate::heap::Purpose;

/// Bytes in a span: the unit in which a heap hands memory to its size classes, and of reserves.
pub const SPAN_SIZE: usize = 256 * 1024;

/// Distance between two meta blocks.
pub(crate) const META_STRIDE: usize = 32 * 1024;

const HEADER_SIZE: usize = size_of::<SpanHeader>();
const COUNTERS_MAX: usize = (META_STRIDE - HEADER_SIZE) / size_of::<u32>();

/// End of a free list.
pub(crate) const NONE: u32 = u32::MAX;

/// What a span is used for. Zero-filled memory is a span that was never used.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(u8)]
pub(crate) enum Use {
    /// Belongs to no class.
    Free = 0,
    /// Its class allocates from it now.
    Current,
    /// Has free chunks; waits in its class's list.
    Listed,
    /// All chunks in use; in no list. The first free puts it into the list.
    Full,
    /// First span of a single chunk that takes whole spans.
    Run,
}

#[repr(C, align(128))]
pub(crate) struct SpanHeader {
    pub(crate) heap: Cell<*const HeapState>,
    pub(crate) base: Cell<*mut u8>,
    pub(crate) chunk_size: Cell<usize>,
    /// How many chunks; those at `bump` and above were never handed out.
    pub(crate) capacity: Cell<u32>,
    pub(crate) bump: Cell<u32>,
    /// First of the free list, or `NONE`.
    pub(crate) free: Cell<u32>,
    pub(crate) used: Cell<u32>,
    pub(crate) span_use: Cell<Use>,
    pub(crate) class: Cell<u8>,
    pub(crate) purpose: Cell<Purpose>,
    /// Its place in the list of its class.
    pub(crate) previous: Cell<Option<Span>>,
    pub(crate) next: Cell<Option<Span>>,
}

const _: () = assert!(HEADER_SIZE == 128);
const _: () = assert!(META_STRIDE.is_power_of_two() && SPAN_SIZE.is_power_of_two());

/// A span, named by its meta block. The pointer's provenance is the whole meta mapping.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Span(NonNull<SpanHeader>);

impl Span {
    /// Span number `index` of the reservation whose meta blocks begin at `meta`.
    ///
    /// # Safety
    /// `meta` is the start of a reservation's meta mapping, and `index` is one of its spans. The mapping outlives the
    /// result.
    pub(crate) unsafe fn at(meta: NonNull<u8>, index: usize) -> Span {
        // SAFETY: in bounds by the caller's promise.
        Span(unsafe { meta.add(index * META_STRIDE) }.cast())
    }

    /// The span whose meta block `counter` lies in.
    ///
    /// # Safety
    /// `counter` came from [`Span::counter`], so it has the provenance of the meta mapping.
    #[inline(always)]
    pub(crate) unsafe fn of(counter: NonNull<u32>) -> Span {
        let offset = counter.as_ptr() as usize % META_STRIDE;
        // SAFETY: the meta block starts `offset` bytes before, inside the same mapping.
        Span(unsafe { counter.byte_sub(offset) }.cast())
    }

    #[inline(always)]
    pub(crate) fn header(&self) -> &SpanHeader {
        // SAFETY: a `Span` is made for an existing meta block (see `at`, `of`), which outlives every heap and buffer
        // that could hold one. All fields are `Cell`s of types for which zero-filled memory is a value.
        unsafe { self.0.as_ref() }
    }

    /// The counter word of chunk `index`.
    #[inline(always)]
    pub(crate) fn counter(self, index: u32) -> NonNull<u32> {
        debug_assert!((index as usize) < COUNTERS_MAX);
        // SAFETY: within this meta block, as `index` is below COUNTERS_MAX.
        unsafe { self.0.byte_add(HEADER_SIZE + index as usize * size_of::<u32>()) }.cast()
    }

    /// The chunk whose counter word `counter` is.
    #[inline(always)]
    pub(crate) fn index_of(self, counter: NonNull<u32>) -> u32 {
        let offset = counter.as_ptr() as usize - self.0.as_ptr() as usize;
        ((offset - HEADER_SIZE) / size_of::<u32>()) as u32
    }

    /// Start of chunk `index`.
    #[inline(always)]
    pub(crate) fn chunk(self, index: u32) -> NonNull<u8> {
        let header = self.header();
        debug_assert!(index < header.capacity.get());
        // SAFETY: `base` is the start of the span's data and `index` one of its chunks, so the sum lies inside.
        unsafe { NonNull::new_unchecked(header.base.get().add(index as usize * header.chunk_size.get())) }
    }

    /// Makes this a span of `class` for `purpose`, all chunks free.
    pub(crate) fn begin_class(self, heap: *const HeapState, base: *mut u8, class: usize, purpose: Purpose) {
        let size = size_of_class(class);
        self.begin(heap, base, size, (SPAN_SIZE / size).min(COUNTERS_MAX) as u32, purpose);
        self.header().class.set(class as u8);
        self.header().span_use.set(Use::Current);
    }

    /// Makes this the first of `span_count` spans that are one chunk, which is in use from now on.
    pub(crate) fn begin_run(self, heap: *const HeapState, base: *mut u8, span_count: usize, purpose: Purpose) {
        self.begin(heap, base, span_count * SPAN_SIZE, 1, purpose);
        self.header().bump.set(1);
        self.header().used.set(1);
        self.header().span_use.set(Use::Run);
    }

    fn begin(self, heap: *const HeapState, base: *mut u8, chunk_size: usize, capacity: u32, purpose: Purpose) {
        let header = self.header();
        debug_assert_eq!(header.span_use.get(), Use::Free);
        header.heap.set(heap);
        header.base.set(base);
        header.chunk_size.set(chunk_size);
        header.capacity.set(capacity);
        header.bump.set(0);
        header.free.set(NONE);
        header.used.set(0);
        header.purpose.set(purpose);
        header.previous.set(None);
        header.next.set(None);
    }

    /// Takes a free chunk and gives its counter word, whose value is now stale.
    #[inline(always)]
    pub(crate) fn take(self) -> Option<NonNull<u32>> {
        let header = self.header();
        let free = header.free.get();
        let counter = if free != NONE {
            let counter = self.counter(free);
            // SAFETY: the word of a free chunk holds the next free index; only this core touches it.
            header.free.set(unsafe { counter.read() });
            counter
        } else {
            let bump = header.bump.get();
            if bump == header.capacity.get() {
                return None;
            }
            header.bump.set(bump + 1);
            self.counter(bump)
        };
        header.used.set(header.used.get() + 1);
        Some(counter)
    }

    /// Whether there is a free chunk.
    pub(crate) fn has_room(self) -> bool {
        self.header().used.get() < self.header().capacity.get()
    }

    /// Gives back the chunk of `counter`. Returns how many are still in use.
    #[inline(always)]
    pub(crate) fn give(self, counter: NonNull<u32>) -> u32 {
        let header = self.header();
        // SAFETY: the chunk is free from now on, so its word is a link of the free list; only this core touches it.
        unsafe { counter.write(header.free.get()) };
        header.free.set(self.index_of(counter));
        let used = header.used.get() - 1;
        header.used.set(used);
        used
    }
}

/// Which spans of one heap are free: a bit each.
pub(crate) struct SpanMap {
    words: Box<[Cell<u64>]>,
    free_count: Cell<usize>,
    /// No word before this one has a free bit.
    hint: Cell<usize>,
}

impl SpanMap {
    pub(crate) fn all_free(count: usize) -> SpanMap {
        let words = (0..count.div_ceil(64)).map(|word| {
            let bits = (count - word * 64).min(64);
            Cell::new(if bits == 64 { u64::MAX } else { (1 << bits) - 1 })
        });
        SpanMap { words: words.collect(), free_count: Cell::new(count), hint: Cell::new(0) }
    }

    pub(crate) fn free_count(&self) -> usize {
        self.free_count.get()
    }

    /// Takes `count` neighbouring spans, first fit. `None` if there is no such run.
    pub(crate) fn take(&self, count: usize) -> Option<usize> {
        let mut run = 0;
        let mut word = self.hint.get();
        let mut hint = None;
        while word < self.words.len() {
            let bits = self.words[word].get();
            if bits == 0 {
                run = 0;
                word += 1;
                continue;
            }
            hint.get_or_insert(word);
            for bit in 0..64 {
                run = if bits >> bit & 1 == 1 { run + 1 } else { 0 };
                if run == count {
                    let first = word * 64 + bit + 1 - count;
                    (first..first + count).for_each(|span| self.flip(span));
                    self.free_count.set(self.free_count.get() - count);
                    self.hint.set(hint.unwrap_or(word));
                    return Some(first);
                }
            }
            word += 1;
        }
        None
    }

    pub(crate) fn give(&self, first: usize, count: usize) {
        for span in first..first + count {
            debug_assert!(self.words[span / 64].get() >> (span % 64) & 1 == 0, "span {span} given back twice");
            self.flip(span);
        }
        self.free_count.set(self.free_count.get() + count);
        self.hint.set(self.hint.get().min(first / 64));
    }

    fn flip(&self, span: usize) {
        let word = &self.words[span / 64];
        word.set(word.get() ^ 1 << (span % 64));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn spans_are_taken_first_fit_and_runs_are_neighbours() {
        let map = SpanMap::all_free(130);
        assert_eq!((map.take(1), map.take(1), map.take(3)), (Some(0), Some(1), Some(2)));
        map.give(1, 1);
        assert_eq!(map.take(2), Some(5), "the hole at 1 is too short");
        assert_eq!(map.take(1), Some(1));
        assert_eq!(map.take(64), Some(7), "a run across words");
        assert_eq!(map.take(60), None, "only 59 are left");
        assert_eq!((map.take(59), map.free_count()), (Some(71), 0));
        assert_eq!(map.take(1), None);
        map.give(0, 130);
        assert_eq!((map.take(130), map.free_count()), (Some(0), 0));
    }
}
