//! Both ends of a byte stream as an application sees it: what has arrived and is not understood yet ([`Input`]), and what
//! is written and not pushed yet ([`Output`]). Codecs read the one and write the other.

use std::collections::VecDeque;

use libos_mem::{Buf, BufMut, CopyPath, Exhausted, Heap, PUSH_COPY_MAX, Purpose};

use crate::sga::Sga;

/// Bytes that have arrived, in the buffers that they arrived in.
#[derive(Default, Debug)]
pub struct Input {
    /// Mostly there is one buffer, or none: it does not go through the queue.
    first: Option<Buf>,
    more: VecDeque<Buf>,
    len: usize,
}

impl Input {
    /// With nothing in it.
    pub const fn new() -> Input {
        Input { first: None, more: VecDeque::new(), len: 0 }
    }

    /// Appends what a pop gave.
    #[inline]
    pub fn push(&mut self, mut sga: Sga) {
        if self.first.is_none()
            && let Some(buf) = sga.pop_front()
        {
            self.len += buf.len();
            self.first = Some(buf);
        }
        if !sga.is_empty() {
            self.push_more(sga);
        }
    }

    #[cold]
    fn push_more(&mut self, sga: Sga) {
        for buf in sga {
            self.len += buf.len();
            self.more.push_back(buf);
        }
    }

    /// Bytes in it.
    #[inline]
    pub fn len(&self) -> usize {
        self.len
    }

    /// Whether there are none.
    #[inline]
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Bytes that it keeps from being reused.
    pub fn pinned(&self) -> usize {
        self.bufs().map(Buf::pinned).sum()
    }

    fn bufs(&self) -> impl Iterator<Item = &Buf> {
        self.first.iter().chain(&self.more)
    }

    /// The first bytes, as many as lie in one buffer. Not empty unless the whole is.
    #[inline]
    pub fn front(&self) -> &[u8] {
        self.first.as_deref().unwrap_or(&[])
    }

    /// The first buffer is used up.
    #[inline]
    fn next_buf(&mut self) -> Option<Buf> {
        std::mem::replace(&mut self.first, self.more.pop_front())
    }

    /// Forgets the first `count` bytes.
    ///
    /// # Panics
    /// If there are not as many.
    #[inline]
    pub fn advance(&mut self, mut count: usize) {
        assert!(count <= self.len, "advance by {count} in {} bytes", self.len);
        self.len -= count;
        while count > 0 {
            let first = self.first.as_mut().expect("as many bytes as `len` says");
            if first.len() > count {
                return first.advance(count);
            }
            count -= first.len();
            self.next_buf();
        }
    }

    /// Takes the first `count` bytes as one buffer: a slice of what arrived if they lie in one, else a counted copy.
    ///
    /// # Errors
    /// [`Exhausted`], and nothing is taken.
    ///
    /// # Panics
    /// If there are not as many.
    #[inline]
    pub fn take(&mut self, count: usize, heap: &Heap) -> Result<Buf, Exhausted> {
        assert!(count <= self.len, "take {count} of {} bytes", self.len);
        match &mut self.first {
            Some(first) if first.len() > count => {
                self.len -= count;
                Ok(first.split_to(count))
            }
            Some(first) if first.len() == count => {
                self.len -= count;
                Ok(self.next_buf().expect("the first"))
            }
            _ => self.take_copy(count, heap),
        }
    }

    #[cold]
    fn take_copy(&mut self, count: usize, heap: &Heap) -> Result<Buf, Exhausted> {
        let mut whole = heap.alloc(count)?;
        heap.count_copied(CopyPath::Coalesce, count);
        self.move_to(&mut whole, count);
        Ok(whole.freeze())
    }

    /// Moves as many bytes into `into` as fit there, up to `count`, and says how many. The copy is the caller's to
    /// count.
    pub fn move_to(&mut self, into: &mut BufMut, count: usize) -> usize {
        let count = count.min(self.len).min(into.room());
        let mut left = count;
        for buf in self.bufs() {
            left -= into.put(&buf[..buf.len().min(left)]);
            if left == 0 {
                break;
            }
        }
        self.advance(count);
        count
    }

    /// Copies the bytes from `offset` on, without taking them, and says how many there were.
    pub fn peek(&self, mut offset: usize, into: &mut [u8]) -> usize {
        let mut done = 0;
        for buf in self.bufs() {
            if offset >= buf.len() {
                offset -= buf.len();
                continue;
            }
            let count = (buf.len() - offset).min(into.len() - done);
            into[done..done + count].copy_from_slice(&buf[offset..offset + count]);
            done += count;
            offset = 0;
            if done == into.len() {
                break;
            }
        }
        done
    }

    /// Where `byte` first stands, at `from` or later.
    pub fn find(&self, byte: u8, from: usize) -> Option<usize> {
        let mut before = 0;
        for buf in self.bufs() {
            let skip = from.saturating_sub(before).min(buf.len());
            if let Some(at) = buf[skip..].iter().position(|&b| b == byte) {
                return Some(before + skip + at);
            }
            before += buf.len();
        }
        None
    }

    /// Takes everything, or as many buffers as fit into one array.
    #[inline]
    pub fn take_all(&mut self) -> Sga {
        let Some(first) = self.next_buf() else { return Sga::new() };
        self.len -= first.len();
        let mut sga = Sga::from(first);
        while let Some(buf) = self.next_buf() {
            let len = buf.len();
            if let Err(buf) = sga.push(buf) {
                if let Some(second) = self.first.replace(buf) {
                    self.more.push_front(second);
                }
                break;
            }
            self.len -= len;
        }
        sga
    }

    /// Forgets everything.
    pub fn clear(&mut self) {
        self.first = None;
        self.more.clear();
        self.len = 0;
    }
}

const TAIL_SIZE_MIN: usize = 256;
const TAIL_SIZE_MAX: usize = 16 * 1024;
/// A tail of at most this size is kept from message to message.
const TAIL_KEPT_MAX: usize = 1024;

/// Bytes to be pushed: small ones copied together, large buffers by reference.
///
/// When the heap is exhausted it remembers that, and [`Output::take`] says so: a message with a hole is never sent.
pub struct Output {
    heap: Heap,
    done: Sga,
    /// The memory that small writes go to. Its first byte follows the last of `done`.
    tail: Option<BufMut>,
    len: usize,
    /// Of these, what is in buffers of others.
    referred: usize,
    /// How long the next tail should be: about as long as what was copied for the last message.
    tail_size: usize,
    failed: bool,
}

/// A place in an [`Output`], to go back to.
#[derive(Clone, Copy, Debug)]
pub struct OutputMark {
    segments: usize,
    tail_len: usize,
    len: usize,
    referred: usize,
    failed: bool,
}

impl Output {
    /// Empty, with memory from `heap`.
    pub fn new(heap: Heap) -> Output {
        Output { heap, done: Sga::new(), tail: None, len: 0, referred: 0, tail_size: TAIL_SIZE_MIN, failed: false }
    }

    /// Bytes written.
    #[inline]
    pub fn len(&self) -> usize {
        self.len
    }

    /// Whether nothing was written.
    #[inline]
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Bytes that it keeps from being reused.
    pub fn pinned(&self) -> usize {
        self.done.pinned() + self.tail.as_ref().map_or(0, BufMut::pinned)
    }

    /// The heap that it writes to.
    pub fn heap(&self) -> &Heap {
        &self.heap
    }

    /// Says that something could not be written: [`Output::take`] will fail.
    pub fn fail(&mut self) {
        self.failed = true;
    }

    /// Whether something could not be written: the heap was exhausted, or [`Output::fail`] was called.
    pub fn has_failed(&self) -> bool {
        self.failed
    }

    /// Appends a copy of `bytes`.
    #[inline]
    pub fn put(&mut self, bytes: &[u8]) {
        self.len += bytes.len();
        if let Some(tail) = &mut self.tail
            && tail.room() >= bytes.len()
        {
            tail.put(bytes);
            return;
        }
        self.put_slowly(bytes);
    }

    /// The next `len` bytes, zero until they are written over. `None`, and nothing is appended: they do not fit behind what
    /// was copied last.
    #[inline]
    pub fn put_zeros(&mut self, len: usize) -> Option<&mut [u8]> {
        let tail = self.tail.as_mut().filter(|tail| tail.room() >= len)?;
        let start = tail.len();
        tail.resize(start + len, 0);
        self.len += len;
        Some(&mut tail[start..])
    }

    #[cold]
    fn put_slowly(&mut self, mut bytes: &[u8]) {
        while !bytes.is_empty() && !self.failed {
            if let Some(tail) = &mut self.tail {
                bytes = &bytes[tail.put(bytes)..];
            }
            if !bytes.is_empty() {
                self.end_tail();
                let size = self.tail_size.max(bytes.len()).min(TAIL_SIZE_MAX);
                self.tail_size = (size * 2).min(TAIL_SIZE_MAX);
                // A short message is sent even if there is no memory for data: it may be the one that says so.
                let short = |exhausted| match bytes.len() {
                    ..=TAIL_SIZE_MIN => self.heap.alloc_for(Purpose::Header, TAIL_SIZE_MIN),
                    _ => Err(exhausted),
                };
                match self.heap.alloc(size).or_else(short) {
                    Ok(tail) => self.tail = Some(tail),
                    Err(Exhausted) => self.failed = true,
                }
            }
        }
    }

    /// Appends a buffer: by reference if it is long enough to be worth it, else by copy.
    #[inline]
    pub fn put_buf(&mut self, buf: Buf) {
        if buf.len() <= PUSH_COPY_MAX {
            self.heap.count_copied(CopyPath::Push, buf.len());
            return self.put(&buf);
        }
        self.len += buf.len();
        self.referred += buf.len();
        // What follows is written behind what was, in the same memory: a few bytes must not pin a chunk of their own.
        match &mut self.tail {
            Some(tail) if tail.is_empty() => {}
            Some(tail) => {
                let written = tail.len();
                let before = tail.split_to(written);
                self.segment(before);
            }
            None => {}
        }
        self.segment(buf);
    }

    fn end_tail(&mut self) {
        if let Some(tail) = self.tail.take().filter(|tail| !tail.is_empty()) {
            self.segment(tail.freeze());
        }
    }

    fn segment(&mut self, buf: Buf) {
        self.failed |= self.done.push(buf).is_err();
    }

    /// Remembers this place.
    #[inline]
    pub fn mark(&self) -> OutputMark {
        OutputMark {
            segments: self.done.segments().len(),
            tail_len: self.tail.as_ref().map_or(0, BufMut::len),
            len: self.len,
            referred: self.referred,
            failed: self.failed,
        }
    }

    /// Forgets what was written since `mark`, which was made since the last [`Output::take`].
    pub fn rollback(&mut self, mark: OutputMark) {
        if self.done.segments().len() == mark.segments {
            if let Some(tail) = &mut self.tail {
                tail.truncate(mark.tail_len);
            }
        } else {
            // What was the tail then is the first segment since.
            self.tail = None;
            self.done.truncate(mark.segments, mark.tail_len);
        }
        (self.len, self.referred, self.failed) = (mark.len, mark.referred, mark.failed);
    }

    /// Takes everything written, to be pushed. What is left of the memory for small writes serves the next message.
    ///
    /// # Errors
    /// [`Exhausted`]: something written is missing. Everything is forgotten.
    #[inline]
    pub fn take(&mut self) -> Result<Sga, Exhausted> {
        let len = std::mem::take(&mut self.len);
        if self.failed || !self.done.is_empty() {
            return self.take_many(len);
        }
        match &mut self.tail {
            // Not a large one: it would lie there as long as nothing is written.
            Some(tail) if tail.room() >= TAIL_SIZE_MIN / 2 && tail.pinned() <= TAIL_KEPT_MAX => {
                let written = tail.len();
                Ok(Sga::from(tail.split_to(written)))
            }
            _ => self.take_many(len),
        }
    }

    #[cold]
    fn take_many(&mut self, len: usize) -> Result<Sga, Exhausted> {
        // Room for a few messages such as this one.
        let copied = len - std::mem::take(&mut self.referred);
        self.tail_size = (copied * 4).next_power_of_two().clamp(TAIL_SIZE_MIN, TAIL_SIZE_MAX);
        self.end_tail();
        let sga = std::mem::take(&mut self.done);
        if std::mem::take(&mut self.failed) {
            return Err(Exhausted);
        }
        Ok(sga)
    }
}

impl std::fmt::Debug for Output {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Output({} B{})", self.len, if self.failed { ", failed" } else { "" })
    }
}

#[cfg(test)]
mod tests {
    use libos_mem::{Plan, Reservation, Reserves, Source};
    use quickcheck::quickcheck;

    use super::*;

    fn heap() -> Heap {
        let plan = Plan { heaps: 1, heap_size: 8 << 20, reserves: Reserves::NONE, source: Source::Ordinary };
        Reservation::new(plan).unwrap().heap(0).unwrap()
    }

    quickcheck! {
        /// Any cuts on the way in, any way of taking out: the bytes are the same.
        fn input_is_a_queue_of_bytes(parts: Vec<Vec<u8>>, ops: Vec<(u8, usize)>) -> bool {
            let heap = heap();
            let mut input = Input::new();
            for part in &parts {
                input.push(Sga::copy(&heap, part).unwrap());
            }
            let mut expected: VecDeque<u8> = parts.concat().into();
            for (op, n) in ops {
                let n = if expected.is_empty() { 0 } else { n % (expected.len() + 1) };
                let front: Vec<u8> = expected.iter().copied().take(n).collect();
                match op % 4 {
                    0 => {
                        let mut copy = vec![0; n];
                        assert_eq!(input.peek(0, &mut copy), n);
                        assert_eq!(copy, front);
                        let from = n / 2;
                        let found = expected.iter().skip(from).position(|&b| b == op).map(|at| at + from);
                        assert_eq!(input.find(op, from), found);
                        continue;
                    }
                    1 => input.advance(n),
                    2 if n == expected.len() => assert_eq!(input.take_all().to_vec(), front),
                    2 => assert_eq!(&input.take(n, &heap).unwrap()[..], front),
                    _ => {
                        let mut into = heap.alloc(n).unwrap();
                        assert_eq!(input.move_to(&mut into, n), n);
                        assert_eq!(&into[..], front);
                    }
                }
                expected.drain(..n);
                assert_eq!((input.len(), input.front().first()), (expected.len(), expected.front()));
            }
            input.clear();
            heap.stats().pinned == 0
        }

        /// Any mixture of small writes, large buffers, marks and rollbacks.
        fn output_is_what_was_written(ops: Vec<(u8, u16)>) -> bool {
            let heap = heap();
            let mut output = Output::new(heap.clone());
            let (mut expected, mut marks) = (Vec::new(), Vec::new());
            for (i, (op, len)) in ops.into_iter().enumerate() {
                let bytes = vec![i as u8; len as usize % 3000];
                match op % 6 {
                    0 | 1 => {
                        output.put(&bytes);
                        expected.extend(bytes);
                    }
                    2 => {
                        output.put_buf(heap.copy(&bytes).unwrap());
                        expected.extend(bytes);
                    }
                    3 => marks.push((output.mark(), expected.len())),
                    4 => if let Some((mark, len)) = marks.pop() {
                        output.rollback(mark);
                        expected.truncate(len);
                    },
                    _ => {
                        assert_eq!(output.take().unwrap().to_vec(), expected);
                        (expected, marks) = (Vec::new(), Vec::new());
                    }
                }
                assert_eq!(output.len(), expected.len());
            }
            output.take().unwrap().to_vec() == expected
        }
    }

    #[test]
    fn an_exhausted_heap_is_told_once_and_whole() {
        let heap = heap();
        let mut output = Output::new(heap.clone());
        output.put(b"before");
        let mut hoard = Vec::new();
        for size in [1 << 17].into_iter().chain((0..128).rev().map(|i| 1 + i * 32)) {
            while let Ok(taken) = heap.alloc(size) {
                hoard.push(taken);
            }
        }
        output.put(&[0; 5000]);
        assert!(output.has_failed());
        assert_eq!(output.take().unwrap_err(), Exhausted);
        drop(hoard);
        output.put(b"after");
        assert_eq!(output.take().unwrap().to_vec(), b"after");
    }

    #[test]
    fn large_buffers_are_not_copied() {
        let heap = heap();
        let mut output = Output::new(heap.clone());
        let large = heap.copy(&[1; 5000]).unwrap();
        let at = large.as_ptr();
        output.put(b"head");
        output.put_buf(large);
        output.put(b"end");
        let sga = output.take().unwrap();
        assert_eq!((sga.segments().len(), sga.segments()[1].as_ptr()), (3, at));
        assert_eq!(heap.copied().total(), 0);
    }
}
