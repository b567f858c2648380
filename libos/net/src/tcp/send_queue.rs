//! The bytes of a connection that were pushed and are not acknowledged, in the buffers in which they were pushed.
//!
//! Offsets count from the first byte that is not acknowledged (snd_una). An acknowledgement is the only thing that frees
//! ([`SendQueue::free`]); a retransmission is a second [`SendQueue::slice`] of the same memory.
//!
//! Always: `len` is the sum of the buffers' lengths, `pinned` that of their chunks (two buffers of one chunk count it
//! twice, as [`Sga::pinned`] does). Cost: two places are remembered, one of the furthest slice and one of the last slice
//! before that, so sending in order and retransmitting in order are O(1) each however many buffers there are; else it is
//! the number of buffers between the nearest remembered place and the one asked for. No memory of its own while at most
//! one buffer waits. Bounds: none here; who pushes checks `pinned` against the queue's budget first.

use pdpix::{Buf, BufMut, Exhausted, Heap, Sga};

use super::buf_deque::BufDeque;

/// Bytes to be sent, and sent again.
#[derive(Debug, Default)]
pub(crate) struct SendQueue {
    bufs: BufDeque,
    len: usize,
    pinned: usize,
    /// Where the slice that reached furthest ended: new data.
    furthest: Place,
    /// Where the last slice before that ended: retransmissions.
    again: Place,
}

/// A buffer, by its number and the offset of its first byte.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
struct Place {
    index: usize,
    start: usize,
}

impl SendQueue {
    /// Nothing to be sent.
    pub(crate) const fn new() -> SendQueue {
        const FRONT: Place = Place { index: 0, start: 0 };
        SendQueue { bufs: BufDeque::new(), len: 0, pinned: 0, furthest: FRONT, again: FRONT }
    }

    /// Bytes in it.
    #[inline]
    pub(crate) fn len(&self) -> usize {
        self.len
    }

    /// Bytes that it keeps from being reused.
    #[inline]
    pub(crate) fn pinned(&self) -> usize {
        self.pinned
    }

    /// Appends.
    #[inline]
    pub(crate) fn push(&mut self, sga: Sga) {
        for buf in sga {
            self.len += buf.len();
            self.pinned += buf.pinned();
            self.bufs.push_back(buf);
        }
    }

    /// `len` bytes from `offset` on, where they lie.
    ///
    /// # Errors
    /// [`Exhausted`]: they lie in several buffers, and the heap has no room for their list.
    ///
    /// # Panics
    /// If there are not as many.
    #[inline]
    pub(crate) fn slice(&mut self, offset: usize, len: usize) -> Result<Sga, Exhausted> {
        assert!(offset + len <= self.len, "a slice beyond the end");
        if let Some((place, buf)) = self.new_data(offset, len) {
            let from = offset - place.start;
            let piece = buf.slice(from..from + len);
            self.furthest = place;
            return Ok(Sga::from(piece));
        }
        self.gather(offset, len)
    }

    /// The buffer in which `len` bytes from `offset` on lie, if they are what mostly is asked for: new data, in the buffer in
    /// which the last slice ended, or at the start of the next one.
    #[inline(always)]
    fn new_data(&self, offset: usize, len: usize) -> Option<(Place, &Buf)> {
        let mut place = self.furthest;
        let mut buf = self.bufs.get(place.index)?;
        if place.start + buf.len() == offset {
            place = Place { index: place.index + 1, start: offset };
            buf = self.bufs.get(place.index)?;
        }
        (offset >= place.start && offset + len <= place.start + buf.len()).then_some((place, buf))
    }

    /// A slice from anywhere, of any number of buffers.
    #[inline(never)]
    fn gather(&mut self, offset: usize, len: usize) -> Result<Sga, Exhausted> {
        let mut sga = Sga::new();
        self.walk(offset, len, |buf, from, to| sga.push(buf.slice(from..to)).map_err(|_| Exhausted))?;
        Ok(sga)
    }

    /// In how many buffers the `len` bytes from `offset` on lie.
    ///
    /// # Panics
    /// If there are not as many.
    pub(crate) fn pieces(&mut self, offset: usize, len: usize) -> usize {
        assert!(offset + len <= self.len, "a range beyond the end");
        let mut count = 0;
        let counted: Result<(), Exhausted> = self.walk(offset, len, |_, _, _| {
            count += 1;
            Ok(())
        });
        debug_assert!(counted.is_ok());
        count
    }

    /// How many of the `len` bytes from `offset` on lie in the first `pieces` of their buffers.
    ///
    /// # Panics
    /// If there are not as many bytes.
    pub(crate) fn reach(&mut self, offset: usize, len: usize, pieces: usize) -> usize {
        assert!(offset + len <= self.len, "a range beyond the end");
        let (mut count, mut reach) = (0, 0);
        let _: Result<(), ()> = self.walk(offset, len, |_, from, to| {
            if count == pieces {
                return Err(());
            }
            (count, reach) = (count + 1, reach + to - from);
            Ok(())
        });
        reach
    }

    /// Appends `len` bytes from `offset` on to `into`: for a frame in one piece. The caller counts the copy.
    ///
    /// # Panics
    /// If there are not as many, or `into` has no room for them.
    #[inline]
    pub(crate) fn copy(&mut self, offset: usize, into: &mut BufMut, len: usize) {
        assert!(offset + len <= self.len, "a copy from beyond the end");
        assert!(len <= into.room(), "a copy of {len} bytes into a room of {}", into.room());
        if let Some((place, buf)) = self.new_data(offset, len) {
            let from = offset - place.start;
            into.put(&buf[from..from + len]);
            self.furthest = place;
            return;
        }
        self.copy_pieces(offset, into, len);
    }

    /// The same from anywhere, of any number of buffers.
    #[inline(never)]
    fn copy_pieces(&mut self, offset: usize, into: &mut BufMut, len: usize) {
        let copied: Result<(), Exhausted> = self.walk(offset, len, |buf, from, to| {
            into.put(&buf[from..to]);
            Ok(())
        });
        debug_assert!(copied.is_ok());
    }

    /// Frees the first `count` bytes: they are acknowledged.
    ///
    /// # Panics
    /// If there are not as many.
    #[inline]
    pub(crate) fn free(&mut self, count: usize) {
        assert!(count <= self.len, "more is acknowledged than was pushed");
        if count == self.len {
            self.bufs.clear();
            (self.len, self.pinned) = (0, 0);
            (self.furthest, self.again) = (Place::default(), Place::default());
            return;
        }
        self.free_part(count);
    }

    #[inline(never)]
    fn free_part(&mut self, count: usize) {
        let (mut left, mut freed) = (count, 0);
        while left > 0 {
            let Some(front) = self.bufs.front_mut() else { break };
            if front.len() > left {
                front.advance(left);
                break;
            }
            left -= front.len();
            self.pinned -= front.pinned();
            freed += 1;
            drop(self.bufs.pop_front());
        }
        self.len -= count;
        self.furthest.shift(freed, count);
        self.again.shift(freed, count);
    }

    /// A planted bug (docs/testing.md): what was sent is freed, and somebody else writes where it lay.
    pub(crate) fn free_early(&mut self, heap: &Heap) {
        for _ in 0..self.bufs.len() {
            let Some(front) = self.bufs.pop_front() else { break };
            let reused = heap.copy(&vec![0; front.len()]).unwrap_or(front);
            self.bufs.push_back(reused);
        }
        self.pinned = self.bufs.iter().map(Buf::pinned).sum();
    }

    /// Visits the pieces of `offset..offset + len`, and remembers where it ended.
    #[inline]
    fn walk<E>(
        &mut self,
        offset: usize,
        len: usize,
        mut visit: impl FnMut(&Buf, usize, usize) -> Result<(), E>,
    ) -> Result<(), E> {
        if len == 0 {
            return Ok(());
        }
        let mut place = self.find(offset);
        let (mut from, mut left) = (offset - place.start, len);
        while let Some(buf) = self.bufs.get(place.index) {
            let to = (from + left).min(buf.len());
            visit(buf, from, to)?;
            left -= to - from;
            if left == 0 {
                break;
            }
            place = Place { index: place.index + 1, start: place.start + buf.len() };
            from = 0;
        }
        debug_assert!(left == 0, "the buffers are shorter than their length");
        self.remember(place);
        Ok(())
    }

    #[inline]
    fn remember(&mut self, place: Place) {
        if place.start >= self.furthest.start {
            self.furthest = place;
        } else {
            self.again = place;
        }
    }

    /// The buffer that holds the byte at `offset`, from the nearest place that is known.
    #[inline]
    fn find(&self, offset: usize) -> Place {
        // New data mostly.
        let mut place = if offset >= self.furthest.start { self.furthest } else { self.nearest(offset) };
        while place.start > offset {
            place.index -= 1;
            place.start -= self.bufs.get(place.index).map_or(place.start, Buf::len);
        }
        while let Some(buf) = self.bufs.get(place.index)
            && place.start + buf.len() <= offset
        {
            place = Place { index: place.index + 1, start: place.start + buf.len() };
        }
        place
    }

    fn nearest(&self, offset: usize) -> Place {
        let known = [self.furthest, self.again, Place::default()];
        known.into_iter().min_by_key(|place| place.start.abs_diff(offset)).unwrap_or_default()
    }

    /// What must hold between calls.
    #[cfg(test)]
    pub(crate) fn check(&self) {
        assert_eq!(self.len, self.bufs.iter().map(Buf::len).sum::<usize>());
        assert_eq!(self.pinned, self.bufs.iter().map(Buf::pinned).sum::<usize>());
        for place in [self.furthest, self.again] {
            assert_eq!(place.start, self.bufs.iter().take(place.index).map(Buf::len).sum::<usize>());
        }
        assert!(self.len() > 0 || self.bufs.list_bytes() == 0, "empty, and holds memory");
    }
}

impl Place {
    /// `bufs` buffers and `bytes` bytes, some of them of the next buffer, are gone at the front.
    #[inline]
    fn shift(&mut self, bufs: usize, bytes: usize) {
        *self = match self.index.checked_sub(bufs) {
            // The first buffer begins at zero, however much of it is left.
            None | Some(0) => Place::default(),
            Some(index) => Place { index, start: self.start - bytes },
        };
    }
}

#[cfg(test)]
mod tests {
    use pdpix::Heap;
    use quickcheck::quickcheck;

    use super::*;

    fn sga(heap: &Heap, parts: &[Vec<u8>]) -> Sga {
        let mut sga = Sga::new();
        parts.iter().for_each(|part| sga.push(heap.copy(part).unwrap()).unwrap());
        sga
    }

    quickcheck! {
        /// Against a `Vec<u8>`: any pushes, slices, copies and acknowledgements.
        fn behaves_as_bytes(ops: Vec<(u8, usize, usize, Vec<Vec<u8>>)>) -> bool {
            let heap = Heap::alone(64 << 20).unwrap();
            let (mut queue, mut model) = (SendQueue::new(), Vec::new());
            for (op, offset, len, parts) in ops {
                let offset = offset % (model.len() + 1);
                let len = len % (model.len() - offset + 1);
                match op % 5 {
                    0 | 1 => {
                        queue.push(sga(&heap, &parts));
                        model.extend(parts.concat());
                    }
                    2 => {
                        let slice = queue.slice(offset, len).unwrap();
                        assert_eq!(slice.to_vec(), model[offset..offset + len]);
                        assert_eq!(queue.pieces(offset, len), slice.segments().len());
                        let pieces = parts.len();
                        let reach: usize = slice.segments().iter().take(pieces).map(|piece| piece.len()).sum();
                        assert_eq!(queue.reach(offset, len, pieces), reach);
                    }
                    3 => {
                        let mut into = heap.alloc(len + 2).unwrap();
                        into.put(b"hd");
                        queue.copy(offset, &mut into, len);
                        assert_eq!(into[2..], model[offset..offset + len]);
                    }
                    _ => {
                        queue.free(len);
                        model.drain(..len);
                    }
                }
                assert_eq!(queue.len(), model.len());
                queue.check();
            }
            drop(queue);
            heap.stats().pinned == 0
        }
    }

    /// Counts the steps that `find` takes, by asking how far each place is from those remembered.
    fn steps(queue: &SendQueue, offset: usize) -> usize {
        let target = queue.find(offset).index;
        queue.nearest(offset).index.abs_diff(target)
    }

    #[test]
    fn sending_and_sending_again_in_order_never_walk_far() {
        let heap = Heap::alone(64 << 20).unwrap();
        let (mut queue, one) = (SendQueue::new(), heap.copy(&[7; 100]).unwrap());
        (0..50_000).for_each(|_| queue.push(Sga::from(one.clone())));
        let segment = 1448;
        for offset in (0..queue.len() - segment).step_by(segment) {
            assert!(steps(&queue, offset) <= 1);
            queue.slice(offset, segment).unwrap();
            // Meanwhile what was sent before is sent again, in order, half as fast.
            let lost = offset / 2 / segment * segment;
            assert!(steps(&queue, lost) <= segment / 100 + 2, "{} steps", steps(&queue, lost));
            queue.slice(lost, segment).unwrap();
        }
        queue.free(3_000_007);
        queue.check();
        assert!(steps(&queue, queue.furthest.start) == 0, "places move along");
    }

    #[test]
    fn what_is_sent_again_lies_where_it_was_pushed() {
        let heap = Heap::alone(1 << 20).unwrap();
        let buf = heap.copy(&[1; 3000]).unwrap();
        let at = buf.as_ptr();
        let mut queue = SendQueue::new();
        queue.push(Sga::from(buf));
        assert_eq!(queue.slice(1000, 1000).unwrap().segments()[0].as_ptr(), at.wrapping_add(1000));
        queue.free(500);
        assert_eq!(queue.slice(500, 1000).unwrap().segments()[0].as_ptr(), at.wrapping_add(1000));
        assert_eq!(heap.copied().total(), 0);
    }

    #[test]
    fn a_slice_in_flight_outlives_its_acknowledgement() {
        let heap = Heap::alone(1 << 20).unwrap();
        let mut queue = SendQueue::new();
        queue.push(Sga::copy(&heap, b"still with the device").unwrap());
        let in_flight = queue.slice(0, queue.len()).unwrap();
        queue.free(queue.len());
        assert_eq!((queue.pinned(), in_flight.to_vec()), (0, b"still with the device".to_vec()));
    }
}
