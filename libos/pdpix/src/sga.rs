//! The scatter-gather array: one message, or a piece of a stream, in as many buffers as it happens to lie in.

use libos_mem::{Buf, BufList, CopyPath, Exhausted, Heap};

/// An ordered list of buffers, owned by whoever holds it. Push hands it to the library OS; a completion hands it back.
///
/// One buffer lies inside; more take a chunk of the heap. None of them is empty, so `segments().len() == 0` means
/// `len() == 0`.
#[derive(Default, Debug)]
pub struct Sga(BufList);

impl Sga {
    /// The empty array.
    #[inline]
    pub const fn new() -> Sga {
        Sga(BufList::new())
    }

    /// A copy of `bytes` in one buffer of `heap`.
    ///
    /// # Errors
    /// [`Exhausted`].
    pub fn copy(heap: &Heap, bytes: &[u8]) -> Result<Sga, Exhausted> {
        Ok(Sga::from(heap.copy(bytes)?))
    }

    /// Appends a buffer. An empty one is dropped.
    ///
    /// # Errors
    /// The buffer back: the list has to grow, and its heap has no room.
    #[inline]
    pub fn push(&mut self, buf: Buf) -> Result<(), Buf> {
        if buf.is_empty() {
            return Ok(());
        }
        self.0.push(buf)
    }

    /// An empty array with room for `count` buffers of `heap`'s core.
    ///
    /// # Errors
    /// [`Exhausted`].
    pub fn with_room(count: usize, heap: &Heap) -> Result<Sga, Exhausted> {
        let mut sga = Sga::new();
        if count > BufList::INSIDE {
            sga.0.reserve(count, &heap.alloc(0)?.freeze())?;
        }
        Ok(sga)
    }

    /// Appends all buffers of `more`.
    ///
    /// # Errors
    /// `more` back, whole: the list has to grow, and its heap has no room.
    pub fn append(&mut self, more: Sga) -> Result<(), Sga> {
        let Some(next) = more.0.first() else { return Ok(()) };
        if self.0.reserve(more.0.len(), next).is_err() {
            return Err(more);
        }
        for buf in more {
            self.0.push(buf).expect("room was reserved");
        }
        Ok(())
    }

    /// Bytes in all buffers.
    #[inline]
    pub fn len(&self) -> usize {
        match self.segments() {
            [one] => one.len(),
            many => many.iter().map(Buf::len).sum(),
        }
    }

    /// Whether there are none.
    #[inline]
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// The buffers.
    #[inline]
    pub fn segments(&self) -> &[Buf] {
        &self.0
    }

    /// Bytes that it keeps from being reused: the sum over its buffers, though two may share a chunk.
    pub fn pinned(&self) -> usize {
        self.0.iter().map(Buf::pinned).sum()
    }

    /// Takes the first buffer off.
    #[inline]
    pub fn pop_front(&mut self) -> Option<Buf> {
        self.0.pop_front()
    }

    /// Takes the only buffer, where the array has no chunk besides: it owns nothing any more.
    #[inline(always)]
    pub fn take_only(&mut self) -> Option<Buf> {
        self.0.take_only()
    }

    /// Forgets the first `count` bytes.
    ///
    /// # Panics
    /// If there are not as many.
    pub fn advance(&mut self, mut count: usize) {
        while count > 0 {
            let first = self.0.as_mut_slice().first_mut().expect("advance beyond the end");
            if first.len() > count {
                return first.advance(count);
            }
            count -= first.len();
            self.0.pop_front();
        }
    }

    /// Keeps the first `segments` buffers, and of the next one the first `len` bytes.
    pub(crate) fn truncate(&mut self, segments: usize, len: usize) {
        self.0.truncate(if len > 0 { segments + 1 } else { segments });
        if len > 0 {
            self.0.as_mut_slice()[segments].truncate(len);
        }
    }

    /// Takes the first `at` bytes off, as an array of their own.
    ///
    /// # Errors
    /// [`Exhausted`]: the new array has many buffers and the heap no room for its list. Nothing has changed.
    ///
    /// # Panics
    /// If there are not as many.
    pub fn split_to(&mut self, mut at: usize) -> Result<Sga, Exhausted> {
        let mut front = Sga::new();
        let Some(next) = self.0.first() else {
            assert!(at == 0, "split beyond the end");
            return Ok(front);
        };
        let mut before = 0;
        let count = self.0.iter().take_while(|buf| (before < at, before += buf.len()).0).count();
        front.0.reserve(count, next)?;
        while at > 0 {
            let first = self.0.as_mut_slice().first_mut().expect("split beyond the end");
            let part = if first.len() > at { first.split_to(at) } else { self.0.pop_front().expect("the first") };
            at -= part.len();
            front.0.push(part).expect("room was reserved");
        }
        Ok(front)
    }

    /// Copies the bytes from `offset` on into `into`, and says how many there were.
    pub fn copy_to(&self, mut offset: usize, into: &mut [u8]) -> usize {
        let mut done = 0;
        for buf in self.segments() {
            if offset >= buf.len() {
                offset -= buf.len();
                continue;
            }
            let count = (buf.len() - offset).min(into.len() - done);
            into[done..done + count].copy_from_slice(&buf[offset..offset + count]);
            done += count;
            offset = 0;
        }
        done
    }

    /// One buffer with all the bytes: the only one as it is, several by a counted copy.
    ///
    /// # Errors
    /// [`Exhausted`].
    pub fn coalesce(mut self, heap: &Heap) -> Result<Buf, Exhausted> {
        if self.0.len() == 1 {
            return Ok(self.0.pop_front().expect("one buffer"));
        }
        let mut whole = heap.alloc(self.len())?;
        heap.count_copied(CopyPath::Coalesce, self.len());
        for buf in self.segments() {
            whole.put(buf);
        }
        Ok(whole.freeze())
    }

    /// All bytes, for tests and tools.
    pub fn to_vec(&self) -> Vec<u8> {
        self.segments().iter().flat_map(|buf| buf.iter().copied()).collect()
    }
}

impl From<Buf> for Sga {
    #[inline]
    fn from(buf: Buf) -> Sga {
        if buf.is_empty() { Sga::new() } else { Sga(BufList::from(buf)) }
    }
}

impl Iterator for Sga {
    type Item = Buf;

    /// Takes the first buffer off: the array is its own draining iterator.
    fn next(&mut self) -> Option<Buf> {
        self.pop_front()
    }
}

#[cfg(test)]
mod tests {
    use libos_mem::{Plan, Reservation, Reserves, Source};
    use quickcheck::quickcheck;

    use super::*;

    fn heap() -> Heap {
        let plan = Plan { heaps: 1, heap_size: 4 << 20, reserves: Reserves::NONE, source: Source::Ordinary };
        Reservation::new(plan).unwrap().heap(0).unwrap()
    }

    fn sga(heap: &Heap, parts: &[Vec<u8>]) -> Sga {
        let mut sga = Sga::new();
        parts.iter().for_each(|part| sga.push(heap.copy(part).unwrap()).unwrap());
        sga
    }

    quickcheck! {
        fn splitting_and_advancing_keep_the_bytes(parts: Vec<Vec<u8>>, cuts: Vec<usize>) -> bool {
            let heap = heap();
            let mut rest = sga(&heap, &parts);
            let mut expected = parts.concat();
            for (i, cut) in cuts.into_iter().enumerate() {
                let at = if expected.is_empty() { 0 } else { cut % (expected.len() + 1) };
                let front: Vec<u8> = expected.drain(..at).collect();
                if i % 2 == 0 {
                    assert_eq!(rest.split_to(at).unwrap().to_vec(), front);
                } else {
                    rest.advance(at);
                }
                assert_eq!((rest.len(), rest.to_vec()), (expected.len(), expected.clone()));
            }
            drop(rest);
            heap.stats().pinned == 0
        }

        fn copies_are_the_bytes(parts: Vec<Vec<u8>>, offset: usize, len: u8) -> bool {
            let heap = heap();
            let (sga, all) = (sga(&heap, &parts), parts.concat());
            let offset = offset % (all.len() + 1);
            let mut into = vec![0; len as usize];
            let count = sga.copy_to(offset, &mut into);
            count == into.len().min(all.len() - offset)
                && into[..count] == all[offset..offset + count]
                && sga.coalesce(&heap).unwrap()[..] == all[..]
        }
    }

    #[test]
    fn one_buffer_is_coalesced_without_a_copy() {
        let heap = heap();
        let buf = heap.copy(b"one").unwrap();
        let at = buf.as_ptr();
        assert_eq!(Sga::from(buf).coalesce(&heap).unwrap().as_ptr(), at);
        assert_eq!(heap.copied().total(), 0);
    }

    #[test]
    fn a_split_that_fails_loses_nothing() {
        let heap = heap();
        let mut rest = Sga::new();
        for byte in 0..100 {
            rest.push(heap.copy(&[byte; 40]).unwrap()).unwrap();
        }
        let before = rest.to_vec();
        let mut hoard = Vec::new();
        for size in [1 << 17].into_iter().chain((0..128).rev().map(|i| 1 + i * 32)) {
            while let Ok(taken) = heap.alloc(size) {
                hoard.push(taken);
            }
        }
        assert_eq!(rest.split_to(50 * 40 + 7).unwrap_err(), Exhausted);
        let after: Vec<u8> = rest.to_vec();
        assert_eq!(after, before);
    }
}
