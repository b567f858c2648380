//! `Buf`, a counted immutable slice of a chunk, and `BufMut`, the unique writable one.
//!
//! Always: while a chunk has a `BufMut`, that part of the chunk has no `Buf`; so what a `Buf` shows does not change. A
//! count is touched by one core only (`Buf` is not `Send`; `loan.rs` says how one travels).
//! A buffer is 24 bytes; a clone is one increment, without looking at anything else.

use std::mem::{ManuallyDrop, MaybeUninit};
use std::ops::{Bound, Deref, DerefMut, RangeBounds};
use std::ptr::{self, NonNull};

use crate::copied::{CopyPath, KEEP_COPY_MAX};
use crate::heap::{COUNT_MASK, Heap, HeapState};
use crate::loan::LoanRecord;
use crate::span::Span;
use crate::{Exhausted, Region};

/// What kind of counter a buffer's reference is counted in.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(u32)]
pub(crate) enum Holder {
    /// The chunk's own word in its span's meta block: this core cut the chunk.
    Chunk = 0,
    /// The count of a [`LoanRecord`]: the chunk is borrowed.
    Record = 1,
}

/// A counted, immutable slice of memory that devices can read.
pub struct Buf {
    start: NonNull<u8>,
    counter: NonNull<u32>,
    len: u32,
    holder: Holder,
}

const _: () = assert!(size_of::<Buf>() == 24 && size_of::<Option<Buf>>() == 24);

impl Buf {
    /// # Safety
    /// `start..start + len` are initialised bytes of the chunk that `counter` (of kind `holder`) counts, which nobody
    /// writes to; the reference is the caller's, and is the result's from now on.
    pub(crate) unsafe fn from_parts(start: NonNull<u8>, len: u32, counter: NonNull<u32>, holder: Holder) -> Buf {
        Buf { start, counter, len, holder }
    }

    /// The first byte, without making a slice of what follows.
    #[inline(always)]
    pub(crate) fn start(&self) -> NonNull<u8> {
        self.start
    }

    pub(crate) fn parts(&self) -> (NonNull<u8>, u32, NonNull<u32>, Holder) {
        (self.start, self.len, self.counter, self.holder)
    }

    /// # Safety
    /// `start` is the start of a chunk of `heap` with a count of one, the caller's; `len` bytes of it are initialised.
    pub(crate) unsafe fn from_allocation(heap: &HeapState, start: NonNull<u8>, len: usize) -> Buf {
        Buf { start, counter: heap.counter_of(start), len: len as u32, holder: Holder::Chunk }
    }

    /// Bytes in the slice.
    #[inline]
    pub fn len(&self) -> usize {
        self.len as usize
    }

    /// Whether the slice is empty. It pins its chunk nevertheless.
    #[inline]
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Bytes that this reference keeps from being reused: the whole chunk. Limits count these.
    pub fn pinned(&self) -> usize {
        let (mut counter, mut holder) = (self.counter, self.holder);
        while holder == Holder::Record {
            // SAFETY: the record is this core's while it has references, and this is one.
            (counter, holder) = unsafe { LoanRecord::lent(counter) };
        }
        // SAFETY: a chunk's counter, whose span does not change while the chunk is in use. If the chunk is another
        // core's, only fields are read that were written before the loan.
        unsafe { Span::of(counter) }.header().chunk_size.get()
    }

    /// A part of the slice, sharing the chunk.
    ///
    /// # Panics
    /// If the range does not lie inside, as slices do.
    #[inline]
    pub fn slice(&self, range: impl RangeBounds<usize>) -> Buf {
        let mut part = self.clone();
        let end = match range.end_bound() {
            Bound::Included(&end) => end + 1,
            Bound::Excluded(&end) => end,
            Bound::Unbounded => self.len(),
        };
        let start = match range.start_bound() {
            Bound::Included(&start) => start,
            Bound::Excluded(&start) => start + 1,
            Bound::Unbounded => 0,
        };
        assert!(start <= end, "slice starts at {start} and ends at {end}");
        part.truncate(end);
        part.advance(start);
        part
    }

    /// Takes the first `at` bytes off, as a slice of their own.
    ///
    /// # Panics
    /// If `at` is beyond the end.
    #[inline]
    pub fn split_to(&mut self, at: usize) -> Buf {
        let mut front = self.clone();
        front.truncate(at);
        self.advance(at);
        front
    }

    /// Forgets the first `count` bytes.
    ///
    /// # Panics
    /// If there are not as many.
    #[inline]
    pub fn advance(&mut self, count: usize) {
        assert!(count <= self.len(), "advance by {count} in {} bytes", self.len);
        // SAFETY: still inside the slice, or at its end.
        self.start = unsafe { self.start.add(count) };
        self.len -= count as u32;
    }

    /// Keeps the first `len` bytes.
    ///
    /// # Panics
    /// If there are not as many.
    #[inline]
    pub fn truncate(&mut self, len: usize) {
        assert!(len <= self.len(), "truncate to {len} of {} bytes", self.len);
        self.len = len as u32;
    }

    /// The writable form, if this is the only reference and the chunk is this core's own.
    ///
    /// # Errors
    /// The buffer back, if it is shared or borrowed.
    pub fn try_mut(self) -> Result<BufMut, Buf> {
        // SAFETY: the count is this core's to read.
        if self.holder == Holder::Record || unsafe { self.counter.read() } & COUNT_MASK != 1 {
            return Err(self);
        }
        let buf = ManuallyDrop::new(self);
        // With the only reference gone from `buf`, everything up to the end of the chunk is nobody else's.
        // SAFETY: a chunk's counter.
        let span = unsafe { Span::of(buf.counter) };
        let chunk = span.chunk(span.index_of(buf.counter));
        let offset = buf.start.as_ptr() as usize - chunk.as_ptr() as usize;
        let capacity = capacity_of(span) - offset;
        Ok(BufMut { start: buf.start, counter: buf.counter, len: buf.len, capacity: capacity as u32 })
    }

    /// The same bytes, fit to be held for long: a slice that is less than half of its chunk, or short, is copied
    /// (counted), so that what is pinned is at most twice what is held; a received chunk is charged to the application.
    ///
    /// # Errors
    /// [`Exhausted`]: no room for the copy, or for the charge (reserves come first).
    pub fn keep(self) -> Result<Buf, Exhausted> {
        let pinned = self.pinned();
        // A copy is only worth it if its chunk is smaller than the one that it lets go.
        if (self.len() <= KEEP_COPY_MAX || self.len() * 2 < pinned)
            && crate::class::size_of_class(crate::class::class_of(self.len().min(crate::CHUNK_SIZE_MAX))) < pinned
        {
            return self.copied(CopyPath::Keep);
        }
        match self.charge() {
            Ok(()) => Ok(self),
            Err(Exhausted) => self.copied(CopyPath::Keep),
        }
    }

    /// A copy in this core's heap, counted on `path`.
    pub(crate) fn copied(&self, path: CopyPath) -> Result<Buf, Exhausted> {
        let heap = self.heap();
        let copy = heap.copy(self)?;
        heap.count_copied(path, self.len());
        Ok(copy)
    }

    /// Charges the chunk to the application. A borrowed one was charged by its owner when it was lent.
    pub(crate) fn charge(&self) -> Result<(), Exhausted> {
        if self.holder == Holder::Record {
            return Ok(());
        }
        // SAFETY: a chunk's counter, and the heap of a chunk in use is alive and this core's.
        let span = unsafe { Span::of(self.counter) };
        // SAFETY: as above.
        unsafe { &*span.header().heap.get() }.charge_kept(span, self.counter)
    }

    /// The heap of the core that this reference belongs to: its owner's, or its borrower's.
    pub fn heap(&self) -> Heap {
        let state = match self.holder {
            // SAFETY: a chunk's counter.
            Holder::Chunk => unsafe { Span::of(self.counter) }.header().heap.get(),
            // SAFETY: the record is this core's while it has references.
            Holder::Record => unsafe { LoanRecord::borrower(self.counter) },
        };
        // SAFETY: a heap is alive while it has chunks in use or borrowed buffers, and this core owns it.
        unsafe { Heap::from_state(state) }
    }
}

impl Clone for Buf {
    #[inline]
    fn clone(&self) -> Buf {
        // SAFETY: the count is this core's, and at least one.
        unsafe { add_reference(self.counter) };
        Buf { ..*self.shallow() }
    }
}

impl Buf {
    /// The fields again, without a reference: to be paired with one.
    #[inline(always)]
    fn shallow(&self) -> ManuallyDrop<Buf> {
        ManuallyDrop::new(Buf { start: self.start, counter: self.counter, len: self.len, holder: self.holder })
    }
}

impl Drop for Buf {
    #[inline]
    fn drop(&mut self) {
        // SAFETY: this reference is counted, and gone now.
        unsafe { drop_reference(self.counter, self.holder) };
    }
}

impl Deref for Buf {
    type Target = [u8];

    #[inline(always)]
    fn deref(&self) -> &[u8] {
        // SAFETY: initialised bytes that nobody writes to while this reference exists.
        unsafe { std::slice::from_raw_parts(self.start.as_ptr(), self.len as usize) }
    }
}

impl AsRef<[u8]> for Buf {
    fn as_ref(&self) -> &[u8] {
        self
    }
}

impl PartialEq for Buf {
    fn eq(&self, other: &Buf) -> bool {
        **self == **other
    }
}

impl Eq for Buf {}

impl std::fmt::Debug for Buf {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        show("Buf", self, f)
    }
}

/// A unique, writable piece of memory that devices can write into. Its first `len` bytes are initialised.
pub struct BufMut {
    start: NonNull<u8>,
    counter: NonNull<u32>,
    len: u32,
    capacity: u32,
}

impl BufMut {
    /// # Safety
    /// `counter` is the word of a chunk whose one reference is the caller's, and is the result's from now on.
    pub(crate) unsafe fn from_chunk(counter: NonNull<u32>) -> BufMut {
        // SAFETY: a chunk's counter, by the caller's promise.
        let span = unsafe { Span::of(counter) };
        BufMut { start: span.chunk(span.index_of(counter)), counter, len: 0, capacity: capacity_of(span) as u32 }
    }

    /// Bytes that fit, at least what was asked for.
    #[inline]
    pub fn capacity(&self) -> usize {
        self.capacity as usize
    }

    /// Bytes that are there.
    #[inline]
    pub fn len(&self) -> usize {
        self.len as usize
    }

    /// Whether nothing was written yet.
    #[inline]
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Bytes that still fit.
    #[inline]
    pub fn room(&self) -> usize {
        (self.capacity - self.len) as usize
    }

    /// Bytes of the chunk, all of which this keeps from being reused.
    pub fn pinned(&self) -> usize {
        // SAFETY: a chunk's counter, whose span does not change while the chunk is in use.
        unsafe { Span::of(self.counter) }.header().chunk_size.get()
    }

    /// Appends as much of `bytes` as fits, and says how much that was.
    #[inline]
    pub fn put(&mut self, bytes: &[u8]) -> usize {
        if bytes.len() > self.room() {
            return self.put_part(bytes);
        }
        // Apart from what does not fit, as the length is often known where this is called: it is moved without a call then.
        // SAFETY: `bytes` fits behind `len`; the memory is ours alone, so `bytes` is elsewhere.
        unsafe { ptr::copy_nonoverlapping(bytes.as_ptr(), self.start.as_ptr().add(self.len()), bytes.len()) };
        self.len += bytes.len() as u32;
        bytes.len()
    }

    #[cold]
    fn put_part(&mut self, bytes: &[u8]) -> usize {
        let room = self.room();
        self.put(&bytes[..room])
    }

    /// Appends `fill` or truncates, so that `len` bytes are there.
    ///
    /// # Panics
    /// If that is beyond the capacity.
    pub fn resize(&mut self, len: usize, fill: u8) {
        assert!(len <= self.capacity(), "resize to {len} in a capacity of {}", self.capacity);
        if len > self.len() {
            // SAFETY: within the capacity; the memory is ours alone.
            unsafe { self.start.as_ptr().add(self.len()).write_bytes(fill, len - self.len()) };
        }
        self.len = len as u32;
    }

    /// Keeps the first `len` bytes, if there are more.
    #[inline]
    pub fn truncate(&mut self, len: usize) {
        self.len = self.len.min(len.min(u32::MAX as usize) as u32);
    }

    /// What is not yet initialised.
    #[inline]
    pub fn spare(&mut self) -> &mut [MaybeUninit<u8>] {
        let room = self.room();
        // SAFETY: the memory behind `len` is ours alone, and nothing is assumed of its content.
        unsafe { std::slice::from_raw_parts_mut(self.start.as_ptr().add(self.len()).cast(), room) }
    }

    /// Says that the first `len` bytes are there, because a device wrote them.
    ///
    /// # Safety
    /// They are initialised, and `len` is at most the capacity.
    #[inline]
    pub unsafe fn set_len(&mut self, len: usize) {
        debug_assert!(len <= self.capacity());
        self.len = len as u32;
    }

    /// Takes the first `at` bytes off, finished; the rest of the memory stays writable. Both share the chunk.
    ///
    /// # Panics
    /// If `at` bytes are not there.
    #[inline]
    pub fn split_to(&mut self, at: usize) -> Buf {
        assert!(at <= self.len(), "split at {at} of {} bytes", self.len);
        // SAFETY: the count is this core's, and at least one.
        unsafe { add_reference(self.counter) };
        let front = Buf { start: self.start, counter: self.counter, len: at as u32, holder: Holder::Chunk };
        // SAFETY: inside the chunk, or at its end.
        self.start = unsafe { self.start.add(at) };
        self.len -= at as u32;
        self.capacity -= at as u32;
        front
    }

    /// The finished, immutable form.
    #[inline]
    pub fn freeze(self) -> Buf {
        let done = ManuallyDrop::new(self);
        Buf { start: done.start, counter: done.counter, len: done.len, holder: Holder::Chunk }
    }

    /// Turns it into memory that somebody else may write: zero-filled to its capacity, in whole words.
    pub fn export(mut self) -> Region {
        let words = self.start.as_ptr().align_offset(8).min(self.capacity());
        if words > 0 {
            // A split left an odd start; the region begins at the next word.
            self.resize(words.max(self.len()), 0);
            drop(self.split_to(words));
        }
        self.resize(self.capacity() & !7, 0);
        // SAFETY: the memory is this buffer's alone, initialised, and begins at a word.
        unsafe { Region::new(self.freeze()) }
    }
}

impl Drop for BufMut {
    #[inline]
    fn drop(&mut self) {
        // SAFETY: this reference is counted, and gone now.
        unsafe { drop_reference(self.counter, Holder::Chunk) };
    }
}

impl Deref for BufMut {
    type Target = [u8];

    #[inline(always)]
    fn deref(&self) -> &[u8] {
        // SAFETY: the first `len` bytes are initialised.
        unsafe { std::slice::from_raw_parts(self.start.as_ptr(), self.len as usize) }
    }
}

impl DerefMut for BufMut {
    #[inline(always)]
    fn deref_mut(&mut self) -> &mut [u8] {
        // SAFETY: the first `len` bytes are initialised, and the memory is ours alone.
        unsafe { std::slice::from_raw_parts_mut(self.start.as_ptr(), self.len as usize) }
    }
}

impl std::fmt::Debug for BufMut {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        show("BufMut", self, f)
    }
}

fn show(name: &str, bytes: &[u8], f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
    const SHOWN_MAX: usize = 48;
    let shown = &bytes[..bytes.len().min(SHOWN_MAX)];
    let more = if bytes.len() > SHOWN_MAX { ".." } else { "" };
    write!(f, "{name}({} B \"{}{more}\")", bytes.len(), shown.escape_ascii())
}

/// A `Buf`'s length has 32 bits; a chunk never exceeds that (`take_run` refuses).
#[inline(always)]
fn capacity_of(span: Span) -> usize {
    span.header().chunk_size.get()
}

/// Start of the chunk whose counter word `counter` is.
pub(crate) fn chunk_of(counter: NonNull<u32>) -> NonNull<u8> {
    // SAFETY: callers have it from `HeapState::take`.
    let span = unsafe { Span::of(counter) };
    span.chunk(span.index_of(counter))
}

/// # Safety
/// `counter` counts references of the calling core, one of which is the caller's.
#[inline(always)]
unsafe fn add_reference(counter: NonNull<u32>) {
    // SAFETY: by the caller's promise nobody else touches it.
    unsafe {
        let word = counter.read();
        if word & COUNT_MASK == COUNT_MASK {
            std::process::abort(); // as Rc does: two thousand million references were leaked
        }
        counter.write(word + 1);
    }
}

/// # Safety
/// `counter`, of kind `holder`, counts references of the calling core; one of them is the caller's, and is gone now.
#[inline(always)]
pub(crate) unsafe fn drop_reference(counter: NonNull<u32>, holder: Holder) {
    // SAFETY: as above.
    let word = unsafe { counter.read() };
    if word & COUNT_MASK != 1 {
        // SAFETY: as above.
        unsafe { counter.write(word - 1) };
        return;
    }
    match holder {
        // SAFETY: this was the last reference to a chunk of this core's.
        Holder::Chunk => unsafe { HeapState::free(counter) },
        // SAFETY: this was the last reference of this core's to a chunk that it borrowed.
        Holder::Record => unsafe { LoanRecord::give_back(counter) },
    }
}

/// Frees a chunk with a count of one, whose start is `start`.
///
/// # Safety
/// `start` is the start of such a chunk of a heap of the calling core; nobody uses it any more.
pub(crate) unsafe fn free_allocation(heap: *const HeapState, start: NonNull<u8>) {
    // SAFETY: by the caller's promise.
    unsafe { HeapState::free((*heap).counter_of(start)) };
}

#[cfg(all(test, not(loom)))]
mod tests;
