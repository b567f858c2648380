//! Received bytes that lie beyond a hole, until it is filled.
//!
//! Always: ranges are in order, not empty, and do not touch; what came first stays (an overlap never replaces a byte);
//! what was accepted is never given up again (RFC 2018 §8 allows to; then the sender may not trust its scoreboard). So a
//! segment that would be one range too many is refused, as is one beyond the limit of bytes pinned, but never one that
//! begins at `rcv_nxt`: that is progress.
//! Bounds: [`RANGES_MAX`] ranges; their own size counts as pinned. Empty, it holds no memory.
//! Cost: O(log ranges) to find the place, and a move of at most half of the ranges' heads when one comes or goes.
//! Sources: RFC 9293 §3.10.7.4 (trimming), RFC 2018 §4 (which blocks are told), RFC 2883 §4 (what came twice).
//! Not here: the window (the caller cuts what lies beyond it) and FIN.

use std::collections::VecDeque;

use pdpix::Buf;
use smallvec::SmallVec;

use super::receive_queue::{ReceiveQueue, is_small};
use super::seq::SeqNumber;
use crate::wire::SACK_BLOCKS_MAX;

/// How many ranges one connection holds.
pub(crate) const RANGES_MAX: usize = 256;

/// A range, from its first number to the one behind it.
pub(crate) type Block = (SeqNumber, SeqNumber);

/// Ranges beyond a hole.
#[derive(Debug, Default)]
pub(crate) struct Reassembly {
    ranges: VecDeque<Range>,
    /// Of all ranges' data.
    pinned: usize,
    /// Counts changes, to know the latest.
    changes: u64,
}

#[derive(Debug)]
struct Range {
    start: SeqNumber,
    /// When it was changed last.
    changed: u64,
    data: ReceiveQueue,
}

impl Range {
    fn end(&self) -> SeqNumber {
        self.start.add(self.data.len() as u32)
    }

    fn block(&self) -> Block {
        (self.start, self.end())
    }
}

/// What became of a segment.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub(crate) struct Inserted {
    /// Bytes that are here now and were not before.
    pub(crate) new: usize,
    /// Bytes that were not taken, as there is no room.
    pub(crate) refused: usize,
    /// The first of its bytes that had come before, for a D-SACK.
    pub(crate) duplicate: Option<Block>,
}

impl Reassembly {
    /// Nothing received.
    #[cfg(test)]
    pub(crate) const fn new() -> Reassembly {
        Reassembly { ranges: VecDeque::new(), pinned: 0, changes: 0 }
    }

    /// Whether there is nothing beyond a hole: the usual case.
    #[inline]
    pub(crate) fn is_empty(&self) -> bool {
        self.ranges.is_empty()
    }

    /// Bytes that it keeps from being reused, its own ranges' included.
    #[inline]
    pub(crate) fn pinned(&self) -> usize {
        self.pinned + self.ranges.len() * size_of::<Range>()
    }

    /// Takes a segment, whose data begins at `start`, as far as it is new, and as `pinned_max` is not exceeded.
    pub(crate) fn insert(
        &mut self,
        rcv_nxt: SeqNumber,
        mut start: SeqNumber,
        mut buf: Buf,
        pinned_max: usize,
    ) -> Inserted {
        let mut inserted = Inserted::default();
        self.changes += 1;
        if start.lt(rcv_nxt) {
            inserted.skip(&mut start, &mut buf, rcv_nxt);
        }
        while !buf.is_empty() {
            let next = self.ranges.partition_point(|range| range.end().le(start));
            let gap = match self.ranges.get_mut(next) {
                Some(range) if range.start.le(start) => {
                    range.changed = self.changes;
                    let end = range.end();
                    inserted.skip(&mut start, &mut buf, end);
                    continue;
                }
                Some(range) => buf.len().min(range.start.since(start) as usize),
                None => buf.len(),
            };
            let piece = buf.split_to(gap);
            if self.accept(next, start, piece, start == rcv_nxt, pinned_max) {
                inserted.new += gap;
            } else {
                inserted.refused += gap;
            }
            start = start.add(gap as u32);
        }
        inserted
    }

    /// Takes the first bytes, if they begin at `rcv_nxt`, or before it (then as far as they are beyond). The caller adds
    /// their length to `rcv_nxt`, and asks again.
    #[inline]
    pub(crate) fn take_ready(&mut self, rcv_nxt: SeqNumber) -> Option<Buf> {
        loop {
            let range = self.ranges.front_mut().filter(|range| range.start.le(rcv_nxt))?;
            let before = range.data.pinned();
            let buf = range.data.pop_front();
            self.pinned -= before - range.data.pinned();
            let start = range.start;
            range.start = start.add(buf.as_ref().map_or(0, Buf::len) as u32);
            if range.data.is_empty() {
                self.remove(0);
            }
            let mut buf = buf?;
            buf.advance(buf.len().min(rcv_nxt.since(start) as usize));
            if !buf.is_empty() {
                return Some(buf);
            }
        }
    }

    /// Undoes the last [`Reassembly::take_ready`], whose bytes begin at `start`: they were told to the sender, who would send
    /// them again only after a time-out.
    pub(crate) fn put_back(&mut self, start: SeqNumber, buf: Buf) {
        let end = start.add(buf.len() as u32);
        debug_assert!(self.ranges.front().is_none_or(|range| range.start.ge(end)), "more than the last one");
        if self.ranges.front().is_none_or(|range| range.start != end) {
            self.ranges.push_front(Range { start, changed: self.changes, data: ReceiveQueue::new() });
        }
        let range = &mut self.ranges[0];
        let before = range.data.pinned();
        range.data.put_back(buf);
        range.start = start;
        self.pinned += range.data.pinned() - before;
    }

    /// What to tell the sender: at most four blocks, the one that changed last first (RFC 2018 §4).
    pub(crate) fn blocks(&self) -> SmallVec<[Block; SACK_BLOCKS_MAX]> {
        let mut latest: SmallVec<[&Range; SACK_BLOCKS_MAX]> = SmallVec::new();
        for range in &self.ranges {
            let place = latest.partition_point(|other| other.changed > range.changed);
            if place == SACK_BLOCKS_MAX {
                continue;
            }
            if latest.len() == SACK_BLOCKS_MAX {
                latest.pop();
            }
            latest.insert(place, range);
        }
        latest.into_iter().map(Range::block).collect()
    }

    /// Puts bytes that fill a part of the hole before range `next` in their place. False: there is no room for them.
    fn accept(&mut self, next: usize, start: SeqNumber, piece: Buf, is_next: bool, pinned_max: usize) -> bool {
        let cost = if is_small(&piece) { piece.len() } else { piece.pinned() };
        if !is_next && self.pinned() + cost > pinned_max {
            return false;
        }
        let end = start.add(piece.len() as u32);
        let touches_left = next > 0 && self.ranges[next - 1].end() == start;
        let touches_right = self.ranges.get(next).is_some_and(|range| range.start == end);
        let place = if touches_left { next - 1 } else { next };
        if !touches_left && !touches_right {
            if !is_next && self.ranges.len() >= RANGES_MAX {
                return false;
            }
            self.ranges.insert(next, Range { start, changed: 0, data: ReceiveQueue::new() });
        }
        let range = &mut self.ranges[place];
        let before = range.data.pinned();
        let done = if touches_right && !touches_left { range.data.push_front(piece) } else { range.data.push(piece) };
        self.pinned += range.data.pinned() - before;
        if done.is_err() {
            if range.data.is_empty() {
                self.remove(place);
            }
            return false;
        }
        range.start = range.start.min(start);
        range.changed = self.changes;
        if touches_left && touches_right {
            self.join(place);
        }
        true
    }

    /// An empty range goes; with the last one the memory of the list.
    fn remove(&mut self, place: usize) {
        self.ranges.remove(place);
        if self.ranges.is_empty() {
            self.ranges = VecDeque::new();
        }
    }

    /// Makes one range of this one and the next, which it touches now.
    fn join(&mut self, place: usize) {
        if let Some(right) = self.ranges.remove(place + 1) {
            self.ranges[place].data.append(right.data);
        }
    }

    /// What must hold between calls.
    #[cfg(test)]
    pub(crate) fn check(&self) {
        assert_eq!(self.pinned, self.ranges.iter().map(|range| range.data.pinned()).sum::<usize>());
        assert!(self.ranges.iter().all(|range| !range.data.is_empty()));
        let ends = self.ranges.iter().map(Range::end);
        assert!(ends.zip(self.ranges.iter().skip(1)).all(|(end, next)| end.lt(next.start)), "touch, or no order");
        assert!(self.ranges.len() <= RANGES_MAX + 1);
        assert!(!self.is_empty() || self.ranges.capacity() == 0, "empty, and holds memory");
    }
}

impl Inserted {
    /// Passes over what is there already, which ends at `end`.
    fn skip(&mut self, start: &mut SeqNumber, buf: &mut Buf, end: SeqNumber) {
        let count = buf.len().min(end.since(*start) as usize);
        let passed = start.add(count as u32);
        self.duplicate = self.duplicate.or(Some((*start, passed)));
        buf.advance(count);
        *start = passed;
    }
}

#[cfg(test)]
mod tests {
    use pdpix::Heap;
    use quickcheck::quickcheck;

    use super::*;

    const ANY: usize = usize::MAX;

    fn segment(heap: &Heap, bytes: &[u8]) -> Buf {
        let mut frame = heap.alloc_for(pdpix::Purpose::Receive, 2048).unwrap();
        frame.put(&[0xee; 54]);
        frame.put(bytes);
        frame.freeze().slice(54..)
    }

    /// Runs of bytes that are there, from the bytes by their offset.
    fn runs(base: SeqNumber, bytes: &[Option<u8>]) -> Vec<Block> {
        let mut runs: Vec<(usize, usize)> = Vec::new();
        for (at, _) in bytes.iter().enumerate().filter(|(_, byte)| byte.is_some()) {
            match runs.last_mut() {
                Some((_, end)) if *end == at => *end += 1,
                _ => runs.push((at, at + 1)),
            }
        }
        runs.into_iter().map(|(start, end)| (base.add(start as u32), base.add(end as u32))).collect()
    }

    quickcheck! {
        /// Against bytes by their offset: any segments, in any order, overlapping, across the wrap.
        fn behaves_as_bytes_by_offset(base: u32, ops: Vec<(u8, u16, u16)>) -> bool {
            let heap = Heap::alone(64 << 20).unwrap();
            let base = SeqNumber::new(base | 0xffff_f000);
            let mut reassembly = Reassembly::new();
            let mut model: Vec<Option<u8>> = vec![None; 1 << 14];
            let mut rcv_nxt = 0;
            for (op, offset, len) in ops {
                if op % 8 == 0 {
                    // The hole is filled, or begins to be: what is ready comes out.
                    let fill = len as usize % 100;
                    model[rcv_nxt..rcv_nxt + fill].fill(Some(0));
                    rcv_nxt += fill;
                    while let Some(buf) = reassembly.take_ready(base.add(rcv_nxt as u32)) {
                        // Nobody has room for it at first.
                        reassembly.put_back(base.add(rcv_nxt as u32), buf.clone());
                        reassembly.check();
                        assert_eq!(reassembly.take_ready(base.add(rcv_nxt as u32)).as_ref(), Some(&buf));
                        for byte in buf.iter() {
                            assert_eq!(model[rcv_nxt], Some(*byte), "at {rcv_nxt}");
                            rcv_nxt += 1;
                        }
                    }
                    assert!(model[rcv_nxt].is_none(), "more is ready");
                    if rcv_nxt > 1 << 13 { break }
                } else {
                    let from = rcv_nxt.saturating_sub(50) + offset as usize % 4000;
                    let len = if op & 64 == 0 { len % 5 } else { len % 1448 } as usize + 1;
                    let result = reassembly.insert(
                        base.add(rcv_nxt as u32), base.add(from as u32), segment(&heap, &vec![op; len]), ANY);
                    let there = |at: &usize| *at < rcv_nxt || model[*at].is_some();
                    let (start, end) = (from, from + len);
                    let twice = (start..end).find(there).map(|first| {
                        // A run of duplicates stops at the edge of a range.
                        let last = (first..end).take_while(there).last().unwrap() + 1;
                        (first, if first < rcv_nxt { last.min(rcv_nxt) } else { last })
                    });
                    let twice = twice.map(|(first, last)| (base.add(first as u32), base.add(last as u32)));
                    let new = (start..end).filter(|at| !there(at)).count();
                    assert_eq!(result, Inserted { new, refused: 0, duplicate: twice });
                    (start.max(rcv_nxt)..end).for_each(|at| _ = model[at].get_or_insert(op));
                    if end > rcv_nxt {
                        let first = reassembly.blocks()[0];
                        let last = base.add(end as u32 - 1);
                        assert!(first.0.le(last) && last.lt(first.1), "the latest segment is not in the first block");
                    }
                }
                let expected = runs(base.add(rcv_nxt as u32), &model[rcv_nxt..]);
                assert!(reassembly.ranges.iter().map(Range::block).eq(expected.iter().copied()));
                let blocks = reassembly.blocks();
                assert_eq!(blocks.len(), expected.len().min(4));
                assert!(blocks.iter().all(|block| expected.contains(block)));
                reassembly.check();
            }
            drop(reassembly);
            heap.stats().pinned == 0
        }
    }

    #[test]
    fn blocks_are_told_as_in_the_examples_of_the_rfc() {
        // RFC 2018 §7: segments of 500 bytes from 5000 on.
        let heap = Heap::alone(1 << 20).unwrap();
        let (mut reassembly, nxt) = (Reassembly::new(), SeqNumber::new(5500));
        let mut receive = |start: u32| {
            reassembly.insert(nxt, SeqNumber::new(start), segment(&heap, &[1; 500]), ANY);
            reassembly.blocks().iter().map(|(start, end)| (start.get(), end.get())).collect::<Vec<_>>()
        };
        // Case 3: 5500, 6500, 7500 and 8500 are lost.
        assert_eq!(receive(6000), [(6000, 6500)]);
        assert_eq!(receive(7000), [(7000, 7500), (6000, 6500)]);
        assert_eq!(receive(8000), [(8000, 8500), (7000, 7500), (6000, 6500)]);
        // The segment between two blocks: they become one, told first.
        assert_eq!(receive(6500), [(6000, 7500), (8000, 8500)]);
    }

    #[test]
    fn one_byte_segments_with_gaps_gain_nothing() {
        let heap = Heap::alone(4 << 20).unwrap();
        let (mut reassembly, nxt) = (Reassembly::new(), SeqNumber::new(u32::MAX - 100));
        let refused: usize =
            (0..10_000).map(|i| reassembly.insert(nxt, nxt.add(1 + 2 * i), segment(&heap, b"x"), ANY).refused).sum();
        assert_eq!(refused, 10_000 - RANGES_MAX);
        assert!(reassembly.pinned() <= RANGES_MAX * (32 + size_of::<Range>()), "{}", reassembly.pinned());
        reassembly.check();
        // The hole itself may always be filled.
        assert_eq!(reassembly.insert(nxt, nxt, segment(&heap, b"y"), 0).new, 1);
        assert_eq!(&reassembly.take_ready(nxt).unwrap()[..], b"y");
    }

    #[test]
    fn the_limit_of_bytes_pinned_holds() {
        let heap = Heap::alone(4 << 20).unwrap();
        let (mut reassembly, nxt) = (Reassembly::new(), SeqNumber::new(0));
        for i in 0..100 {
            reassembly.insert(nxt, nxt.add(1 + i * 1448), segment(&heap, &[1; 1448]), 64 << 10);
            assert!(reassembly.pinned() <= 64 << 10);
        }
        assert!(reassembly.pinned() > 60 << 10);
    }

    #[test]
    fn a_heap_without_room_refuses_and_keeps_what_it_has() {
        let heap = Heap::alone(1 << 20).unwrap();
        let (mut reassembly, nxt) = (Reassembly::new(), SeqNumber::new(0));
        reassembly.insert(nxt, nxt.add(10), segment(&heap, &[1; 40]), ANY);
        let late = segment(&heap, &[2; 200]);
        let mut hoard = Vec::new();
        for size in [1 << 17].into_iter().chain((0..300).rev().map(|i| 1 + i * 32)) {
            while let Ok(taken) = heap.alloc(size) {
                hoard.push(taken);
            }
        }
        assert_eq!(reassembly.insert(nxt, nxt.add(500), late, ANY).refused, 200);
        reassembly.check();
        assert_eq!(reassembly.blocks()[..], [(nxt.add(10), nxt.add(50))]);
    }
}
