//! Received bytes in order, in as little memory as they are worth: what waits for a pop, and each range of reassembly.
//!
//! Always: what is pinned is at most about twice the bytes held, whatever the segments were. A segment that is less than
//! half of its chunk, or short, is copied (counted, as [`Buf::keep`] does) to the end of the last buffer; those buffers
//! double in size up to [`TAIL_SIZE_MAX`], so that few bytes pin little and many bytes lie in few pieces. A longer
//! segment stays where it was received, and its chunk is charged to the application.
//! Bounds: none here; the receive window is. No memory of its own while one buffer waits.

use libos_mem::{CopyPath, KEEP_COPY_MAX};
use pdpix::{Buf, BufMut, Exhausted, Heap, Sga};

use super::buf_deque::BufDeque;

/// The largest buffer that short segments are put together in.
const TAIL_SIZE_MAX: usize = 4096;

/// Bytes in order.
#[derive(Debug, Default)]
pub(crate) struct ReceiveQueue {
    bufs: BufDeque,
    /// The end, while short segments may be put behind it.
    tail: Option<BufMut>,
    len: u32,
    /// By `bufs`.
    pinned: u32,
}

impl ReceiveQueue {
    /// Nothing received.
    pub(crate) const fn new() -> ReceiveQueue {
        ReceiveQueue { bufs: BufDeque::new(), tail: None, len: 0, pinned: 0 }
    }

    /// Bytes in it.
    #[inline]
    pub(crate) fn len(&self) -> usize {
        self.len as usize
    }

    /// Whether there is nothing in it.
    #[inline]
    pub(crate) fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Bytes that it keeps from being reused.
    #[inline]
    pub(crate) fn pinned(&self) -> usize {
        self.pinned as usize + self.tail.as_ref().map_or(0, BufMut::pinned)
    }

    /// Appends.
    ///
    /// # Errors
    /// [`Exhausted`]: it has to be copied, and there is no room. Nothing has changed.
    pub(crate) fn push(&mut self, buf: Buf) -> Result<(), Exhausted> {
        if is_small(&buf) {
            return self.put(&buf, &buf.heap());
        }
        let buf = buf.keep()?;
        self.close_tail();
        self.push_kept(buf);
        Ok(())
    }

    /// Puts bytes in front of all others.
    ///
    /// # Errors
    /// [`Exhausted`]: they have to be copied, and there is no room. Nothing has changed.
    pub(crate) fn push_front(&mut self, buf: Buf) -> Result<(), Exhausted> {
        self.put_back(buf.keep()?);
        Ok(())
    }

    /// Appends all of `more`, moving what has fewer buffers.
    pub(crate) fn append(&mut self, mut more: ReceiveQueue) {
        self.close_tail();
        if self.bufs.len() < more.bufs.len() {
            more.len += self.len;
            more.pinned += self.pinned;
            while let Some(buf) = self.bufs.pop_back() {
                more.bufs.push_front(buf);
            }
            *self = more;
        } else {
            while let Some(buf) = more.bufs.pop_front() {
                self.push_kept(buf);
            }
            self.len += more.tail.as_ref().map_or(0, BufMut::len) as u32;
            self.tail = more.tail;
        }
    }

    /// Takes the first buffer.
    #[inline]
    pub(crate) fn pop_front(&mut self) -> Option<Buf> {
        if self.bufs.is_empty() {
            self.close_tail();
        }
        let buf = self.bufs.pop_front()?;
        self.len -= buf.len() as u32;
        self.pinned -= buf.pinned() as u32;
        Some(buf)
    }

    /// Takes the first bytes, at most `len_max`; fewer, but some, when the heap has no room for a list of many buffers.
    pub(crate) fn pop(&mut self, len_max: usize) -> Sga {
        let mut sga = Sga::new();
        let mut left = len_max;
        while left > 0
            && let Some(mut buf) = self.pop_front()
        {
            if buf.len() > left {
                let part = buf.split_to(left);
                self.put_back(buf);
                buf = part;
            }
            left -= buf.len();
            if let Err(buf) = sga.push(buf) {
                self.put_back(buf);
                break;
            }
        }
        sga
    }

    /// Takes the first bytes as far as they lie in one buffer, at most `len_max`.
    pub(crate) fn pop_piece(&mut self, len_max: usize) -> Sga {
        let Some(mut buf) = self.pop_front() else { return Sga::new() };
        if buf.len() > len_max {
            let part = buf.split_to(len_max);
            self.put_back(buf);
            buf = part;
        }
        Sga::from(buf)
    }

    /// Undoes taking it from the front, which needs no room.
    pub(crate) fn put_back(&mut self, buf: Buf) {
        self.len += buf.len() as u32;
        self.pinned += buf.pinned() as u32;
        self.bufs.push_front(buf);
    }

    /// Copies `bytes` behind the others.
    fn put(&mut self, bytes: &[u8], heap: &Heap) -> Result<(), Exhausted> {
        let room = self.tail.as_ref().map_or(0, BufMut::room);
        let (fits, rest) = bytes.split_at(bytes.len().min(room));
        let next = if rest.is_empty() { None } else { Some(self.next_tail(rest, heap)?) };
        if let Some(tail) = &mut self.tail {
            tail.put(fits);
        }
        self.len += fits.len() as u32;
        if next.is_some() {
            self.close_tail();
            self.len += rest.len() as u32;
            self.tail = next;
        }
        heap.count_copied(CopyPath::Keep, bytes.len());
        Ok(())
    }

    fn next_tail(&self, bytes: &[u8], heap: &Heap) -> Result<BufMut, Exhausted> {
        let doubled = self.tail.as_ref().map_or(0, |tail| tail.pinned() * 2).min(TAIL_SIZE_MAX);
        let mut next = heap.alloc(doubled.max(bytes.len()))?;
        next.put(bytes);
        Ok(next)
    }

    /// Nothing more is put behind the last buffer.
    fn close_tail(&mut self) {
        if let Some(tail) = self.tail.take() {
            self.len -= tail.len() as u32;
            self.push_kept(tail.freeze());
        }
    }

    #[inline]
    fn push_kept(&mut self, buf: Buf) {
        self.len += buf.len() as u32;
        self.pinned += buf.pinned() as u32;
        self.bufs.push_back(buf);
    }
}

/// Whether its bytes are rather copied than its chunk pinned.
#[inline]
pub(crate) fn is_small(buf: &Buf) -> bool {
    buf.len() <= KEEP_COPY_MAX || buf.len() * 2 < buf.pinned()
}

#[cfg(test)]
mod tests {
    use quickcheck::quickcheck;

    use super::*;

    /// A segment as it is received: at the end of a frame of 2 KiB.
    fn segment(heap: &Heap, bytes: &[u8]) -> Buf {
        let mut frame = heap.alloc_for(pdpix::Purpose::Receive, 2048).unwrap();
        frame.put(&[0xee; 54]);
        frame.put(bytes);
        frame.freeze().slice(54..)
    }

    fn check(queue: &ReceiveQueue, expected: &[u8]) {
        assert_eq!((queue.len(), queue.is_empty()), (expected.len(), expected.is_empty()));
        assert_eq!(queue.pinned as usize, queue.bufs.iter().map(Buf::pinned).sum::<usize>());
        let tail = queue.tail.as_deref().unwrap_or_default();
        assert!(queue.bufs.iter().flat_map(|buf| buf.iter()).chain(tail).eq(expected));
        assert!(!queue.is_empty() || queue.pinned() + queue.bufs.list_bytes() == 0, "empty, and holds memory");
    }

    quickcheck! {
        fn behaves_as_bytes(ops: Vec<(u8, u16, u8)>) -> bool {
            // Each size of chunk takes a span of its own.
            let heap = Heap::alone(64 << 20).unwrap();
            let (mut queue, mut model) = (ReceiveQueue::new(), Vec::new());
            for (op, size, byte) in ops {
                let size = if op & 64 != 0 { size % 8 } else { size % 1900 } as usize + 1;
                let bytes = vec![byte; size];
                match op % 6 {
                    0 | 1 => {
                        queue.push(segment(&heap, &bytes)).unwrap();
                        model.extend(bytes);
                    }
                    2 => {
                        queue.push_front(segment(&heap, &bytes)).unwrap();
                        model.splice(..0, bytes);
                    }
                    3 => {
                        let mut more = ReceiveQueue::new();
                        for part in bytes.chunks(100 + size / (1 + op as usize % 8)) {
                            more.push(segment(&heap, part)).unwrap();
                        }
                        queue.append(more);
                        model.extend(bytes);
                    }
                    4 => {
                        let popped = queue.pop(size);
                        assert_eq!(popped.len(), size.min(model.len()));
                        assert!(popped.to_vec().into_iter().eq(model.drain(..popped.len())));
                    }
                    _ => {
                        let popped = queue.pop_front();
                        assert_eq!(popped.is_some(), !model.is_empty());
                        let popped = popped.map_or(Vec::new(), |buf| buf.to_vec());
                        assert!(model.drain(..popped.len()).eq(popped));
                    }
                }
                check(&queue, &model);
            }
            drop(queue);
            heap.stats().pinned == 0
        }
    }

    #[test]
    fn segments_of_one_byte_pin_little_and_lie_in_few_pieces() {
        let heap = Heap::alone(4 << 20).unwrap();
        let mut queue = ReceiveQueue::new();
        for count in 1..=10_000 {
            queue.push(segment(&heap, b"x")).unwrap();
            assert!(queue.pinned() <= 3 * count + 32, "{} pinned for {count}", queue.pinned());
        }
        assert_eq!(heap.stats().pinned, queue.pinned(), "no frame is held");
        assert_eq!(heap.copied().on(CopyPath::Keep), 10_000);
        assert!(queue.pop(10_000).segments().len() <= 10);
    }

    #[test]
    fn whole_frames_stay_where_they_are() {
        let heap = Heap::alone(4 << 20).unwrap();
        let mut queue = ReceiveQueue::new();
        let one = segment(&heap, &[1; 1448]);
        let at = one.as_ptr();
        queue.push(one).unwrap();
        assert_eq!(queue.pop(1448).segments()[0].as_ptr(), at);
        assert_eq!(heap.copied().total(), 0);
    }

    #[test]
    fn a_push_without_room_changes_nothing() {
        let heap = Heap::alone(1 << 20).unwrap();
        let mut queue = ReceiveQueue::new();
        queue.push(segment(&heap, &[1; 40])).unwrap();
        let large = segment(&heap, &[2; 300]);
        let mut hoard = Vec::new();
        for size in [1 << 17].into_iter().chain((0..300).rev().map(|i| 1 + i * 32)) {
            while let Ok(taken) = heap.alloc(size) {
                hoard.push(taken);
            }
        }
        assert_eq!(queue.push(large.clone()), Err(Exhausted));
        assert_eq!(queue.push_front(large), Err(Exhausted));
        check(&queue, &[1; 40]);
    }
}
