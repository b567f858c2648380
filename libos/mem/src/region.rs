//! Memory that somebody else may write while we look: a remote writer, a device, a C program.
//!
//! It is never a `&[u8]`: its owner reads and writes it by words, each atomically and relaxed, so a race is a mixture
//! of old and new words and never undefined behaviour. A whole object is consistent only if a version in it says so
//! (FaRM, SOSP'15 §4: versions a cache line).

use std::sync::atomic::{AtomicU64, Ordering};

use crate::Exhausted;
use crate::buf::Buf;

const WORD: usize = size_of::<u64>();

/// Shared, word-wise accessed memory. Clones refer to the same memory; the last one frees it.
#[derive(Clone)]
pub struct Region(Buf);

impl Region {
    /// # Safety
    /// The memory is `memory`'s alone (no `Buf` shows it), initialised, word-aligned and of whole words.
    pub(crate) unsafe fn new(memory: Buf) -> Region {
        debug_assert!((memory.start().as_ptr() as usize).is_multiple_of(WORD) && memory.len().is_multiple_of(WORD));
        Region(memory)
    }

    /// Bytes, a multiple of 8.
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// Whether it has no words.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// First address, for registration with a device.
    pub fn as_ptr(&self) -> *const u8 {
        self.0.start().as_ptr()
    }

    /// Copies out the bytes from `offset` on, word by word.
    ///
    /// # Panics
    /// If they do not lie inside.
    pub fn read(&self, offset: usize, into: &mut [u8]) {
        self.check(offset, into.len());
        for (word, at, part) in pieces(offset, into.len()) {
            let bytes = self.word(word).load(Ordering::Relaxed).to_ne_bytes();
            into[at..at + part.len()].copy_from_slice(&bytes[part]);
        }
    }

    /// Copies `from` in at `offset`, word by word. A word that is only partly written keeps its other bytes, even if
    /// somebody else writes those at the same time.
    ///
    /// # Panics
    /// If it does not fit.
    pub fn write(&self, offset: usize, from: &[u8]) {
        self.check(offset, from.len());
        for (word, at, part) in pieces(offset, from.len()) {
            let cell = self.word(word);
            let new = &from[at..at + part.len()];
            if part.len() == WORD {
                cell.store(u64::from_ne_bytes(new.try_into().expect("a whole word")), Ordering::Relaxed);
                continue;
            }
            let merge = |old: u64| {
                let mut bytes = old.to_ne_bytes();
                bytes[part.clone()].copy_from_slice(new);
                Some(u64::from_ne_bytes(bytes))
            };
            let _ = cell.fetch_update(Ordering::Relaxed, Ordering::Relaxed, merge);
        }
    }

    /// The word at `offset`. Acquire: what its writer wrote before a Release is seen.
    ///
    /// # Panics
    /// As all below: if `offset` is not a multiple of 8 or not inside.
    pub fn load(&self, offset: usize) -> u64 {
        self.at(offset).load(Ordering::Acquire)
    }

    /// Writes the word at `offset`. Release.
    pub fn store(&self, offset: usize, value: u64) {
        self.at(offset).store(value, Ordering::Release);
    }

    /// Writes `desired` if the word is `expected`; gives what it was.
    pub fn compare_swap(&self, offset: usize, expected: u64, desired: u64) -> u64 {
        match self.at(offset).compare_exchange(expected, desired, Ordering::AcqRel, Ordering::Acquire) {
            Ok(old) | Err(old) => old,
        }
    }

    /// Adds, wrapping; gives what it was.
    pub fn fetch_add(&self, offset: usize, add: u64) -> u64 {
        self.at(offset).fetch_add(add, Ordering::AcqRel)
    }

    /// A copy of `len` bytes from `offset` on, as they were when each word was read.
    ///
    /// # Errors
    /// [`Exhausted`].
    ///
    /// # Panics
    /// If they do not lie inside.
    pub fn snapshot(&self, offset: usize, len: usize) -> Result<Buf, Exhausted> {
        self.check(offset, len);
        let mut copy = self.0.heap().alloc(len)?;
        copy.resize(len, 0);
        self.read(offset, &mut copy);
        Ok(copy.freeze())
    }

    fn at(&self, offset: usize) -> &AtomicU64 {
        assert!(offset.is_multiple_of(WORD), "offset {offset} is not that of a word");
        self.check(offset, WORD);
        self.word(offset / WORD)
    }

    fn check(&self, offset: usize, len: usize) {
        let inside = offset.checked_add(len).is_some_and(|end| end <= self.len());
        assert!(inside, "{len} bytes at {offset} in a region of {}", self.len());
    }

    fn word(&self, index: usize) -> &AtomicU64 {
        debug_assert!(index * WORD < self.len());
        // SAFETY: inside the region and aligned (`new`); the memory is initialised, lives while this reference does,
        // and is accessed through atomics only: the `Buf` inside is never read as a slice.
        unsafe { self.0.start().cast::<AtomicU64>().add(index).as_ref() }
    }
}

impl std::fmt::Debug for Region {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Region({} B)", self.len())
    }
}

/// Splits `len` bytes at `offset` by words: (number of the word, place in the caller's bytes, range inside the word).
fn pieces(offset: usize, len: usize) -> impl Iterator<Item = (usize, usize, std::ops::Range<usize>)> {
    let mut done = 0;
    std::iter::from_fn(move || {
        let from = (offset + done) % WORD;
        let count = (WORD - from).min(len - done);
        let piece = ((offset + done) / WORD, done, from..from + count);
        done += count;
        (count > 0).then_some(piece)
    })
}

#[cfg(all(test, not(loom)))]
mod tests {
    use crate::heap::tests::heap;

    #[test]
    fn reads_give_what_was_written_at_any_offset() {
        let region = heap().alloc(64).unwrap().export();
        assert_eq!(region.len(), 64);
        for offset in 0..40 {
            for len in 0..24 {
                let bytes: Vec<u8> = (0..len).map(|i| (i + offset + 1) as u8).collect();
                region.write(offset, &bytes);
                let mut back = vec![0; len];
                region.read(offset, &mut back);
                assert_eq!(back, bytes, "{len} at {offset}");
                assert_eq!(&region.snapshot(offset, len).unwrap()[..], bytes);
            }
        }
    }

    #[test]
    fn a_partial_write_leaves_its_neighbours() {
        let region = heap().alloc(16).unwrap().export();
        region.store(0, u64::from_ne_bytes([1; 8]));
        region.write(3, &[9, 9]);
        let mut all = [0; 8];
        region.read(0, &mut all);
        assert_eq!(all, [1, 1, 1, 9, 9, 1, 1, 1]);
    }

    #[test]
    fn atomics_do_what_they_say() {
        let region = heap().alloc(32).unwrap().export();
        assert_eq!(region.fetch_add(8, 5), 0);
        assert_eq!(region.compare_swap(8, 4, 9), 5);
        assert_eq!(region.compare_swap(8, 5, 9), 5);
        assert_eq!(region.load(8), 9);
    }

    #[test]
    fn an_odd_rest_of_a_chunk_is_exported_from_its_next_word() {
        let heap = heap();
        let mut buf = heap.alloc(64).unwrap();
        buf.put(&[1; 13]);
        let front = buf.split_to(13);
        let region = buf.export();
        assert_eq!((region.as_ptr() as usize % 8, region.len()), (0, 48));
        region.write(0, &[7; 48]);
        assert_eq!(&front[..], [1; 13], "the other part of the chunk is untouched");
    }

    #[test]
    #[should_panic(expected = "in a region of")]
    fn beyond_the_end_is_a_bug_of_ours() {
        heap().alloc(32).unwrap().export().read(30, &mut [0; 4]);
    }

    #[test]
    fn the_last_clone_frees() {
        let heap = heap();
        let region = heap.alloc(4000).unwrap().export();
        let second = region.clone();
        drop(region);
        assert!(heap.stats().pinned >= 4000);
        drop(second);
        assert_eq!(heap.stats().pinned, 0);
    }
}
