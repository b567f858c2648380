//! Lists: a deque of nodes, each a pack of short elements or one long element in a buffer of its own.
//!
//! Always: no node is empty; a pack holds at most `NODE_SIZE_MAX` bytes; elements above `PACKED_LEN_MAX` are never
//! in a pack, so they are stored and sent without a copy. So pushing and popping at the ends is O(1), and reaching an
//! element walks nodes, not elements.

use std::collections::VecDeque;
use std::ops::Range;

use libos_mem::PUSH_COPY_MAX;
use pdpix::{Buf, Exhausted, Heap};

use crate::blob::Stored;
use crate::pack::Pack;
use crate::resp::Request;

/// Bytes in a pack before a new node begins.
const NODE_SIZE_MAX: usize = 4096;

/// The longest element that is packed: what would be copied when it is sent anyway.
const PACKED_LEN_MAX: usize = PUSH_COPY_MAX;

/// An end of a list.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum End {
    /// The head.
    Left,
    /// The tail.
    Right,
}

/// An element to be stored.
#[derive(Clone, Debug)]
pub enum Piece<'a> {
    /// Few enough bytes to be packed.
    Short(&'a [u8]),
    /// More, in the buffer that is kept.
    Long(Buf),
}

impl<'a> Piece<'a> {
    /// Argument `index` of a request.
    ///
    /// # Errors
    /// [`Exhausted`]: a long one could not be kept.
    pub fn of_arg(request: &'a Request, index: usize) -> Result<Piece<'a>, Exhausted> {
        let arg = request.arg(index);
        if arg.len() <= PACKED_LEN_MAX {
            return Ok(Piece::Short(arg));
        }
        Ok(Piece::Long(request.buf(index).keep()?))
    }

    /// A whole buffer.
    ///
    /// # Errors
    /// [`Exhausted`]: a long one could not be kept.
    pub fn of_buf(buf: &'a Buf) -> Result<Piece<'a>, Exhausted> {
        if buf.len() <= PACKED_LEN_MAX {
            return Ok(Piece::Short(buf));
        }
        Ok(Piece::Long(buf.clone().keep()?))
    }

    fn into_node(self, size: usize, heap: &Heap) -> Result<Node, Exhausted> {
        match self {
            Piece::Long(buf) => Ok(Node::Long(buf)),
            Piece::Short(bytes) => {
                let mut pack = Pack::new(size.max(Pack::size_of(bytes.len())), heap)?;
                pack.push(bytes);
                Ok(Node::Pack(pack))
            }
        }
    }
}

#[derive(Debug)]
enum Node {
    Pack(Pack),
    Long(Buf),
}

impl Node {
    fn count(&self) -> usize {
        match self {
            Node::Pack(pack) => pack.count(),
            Node::Long(_) => 1,
        }
    }

    fn get(&self, index: usize) -> Option<Stored<'_>> {
        match self {
            Node::Pack(pack) => pack.place_of(index).map(|place| Stored::Packed(pack.get(place))),
            Node::Long(buf) => Some(Stored::Buf(buf)),
        }
    }

    /// The pack, if it has room for `size` bytes more.
    fn room_for(&mut self, size: usize) -> Option<&mut Pack> {
        match self {
            Node::Pack(pack) if pack.size() + size <= NODE_SIZE_MAX => Some(pack),
            _ => None,
        }
    }

    fn iter(&self, skip: usize) -> impl Iterator<Item = Stored<'_>> {
        let (pack, long) = match self {
            Node::Pack(pack) => (Some(pack), None),
            Node::Long(buf) => (None, Some(Stored::Buf(buf)).filter(|_| skip == 0)),
        };
        let packed = pack.into_iter().flat_map(move |pack| {
            let place = pack.place_of(skip).unwrap_or(pack.end());
            pack.iter_from(place).map(|(_, bytes)| Stored::Packed(bytes))
        });
        packed.chain(long)
    }

    /// Backwards, beginning before element number `end`.
    fn iter_back(&self, end: usize) -> impl Iterator<Item = Stored<'_>> {
        let (pack, long) = match self {
            Node::Pack(pack) => (Some(pack), None),
            Node::Long(buf) => (None, Some(Stored::Buf(buf)).filter(|_| end > 0)),
        };
        let packed = pack.into_iter().flat_map(move |pack| {
            let place = pack.place_of(end).unwrap_or(pack.end());
            pack.iter_back_from(place).map(|(_, bytes)| Stored::Packed(bytes))
        });
        packed.chain(long)
    }

    fn try_clone(&self, heap: &Heap) -> Result<Node, Exhausted> {
        Ok(match self {
            Node::Pack(pack) => Node::Pack(pack.try_clone(heap)?),
            Node::Long(buf) => Node::Long(buf.clone()),
        })
    }
}

/// A list of strings.
#[derive(Default, Debug)]
pub struct List {
    nodes: VecDeque<Node>,
    len: usize,
}

impl List {
    /// Elements in it.
    pub fn len(&self) -> usize {
        self.len
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Adds an element at an end.
    ///
    /// # Errors
    /// [`Exhausted`]; nothing has changed.
    pub fn push(&mut self, end: End, piece: Piece<'_>, heap: &Heap) -> Result<(), Exhausted> {
        let node = match end {
            End::Left => self.nodes.front_mut(),
            End::Right => self.nodes.back_mut(),
        };
        if let Piece::Short(bytes) = piece
            && let Some(pack) = node.and_then(|node| node.room_for(Pack::size_of(bytes.len())))
        {
            let size = Pack::size_of(bytes.len());
            match end {
                End::Left => {
                    pack.reserve_front(size, heap)?;
                    pack.push_front(bytes);
                }
                End::Right => {
                    pack.reserve(size, heap)?;
                    pack.push(bytes);
                }
            }
        } else {
            // A first node is as small as its element; a list that has more than one is likely to grow.
            let size = if self.nodes.is_empty() { 0 } else { NODE_SIZE_MAX / 4 };
            let node = piece.into_node(size, heap)?;
            match end {
                End::Left => self.nodes.push_front(node),
                End::Right => self.nodes.push_back(node),
            }
        }
        self.len += 1;
        Ok(())
    }

    /// The element at an end.
    pub fn peek(&self, end: End) -> Option<Stored<'_>> {
        match end {
            End::Left => self.nodes.front()?.get(0),
            End::Right => self.nodes.back().and_then(|node| node.get(node.count() - 1)),
        }
    }

    /// Takes out `count` elements at an end.
    pub fn drop_some(&mut self, end: End, count: usize, heap: &Heap) {
        let count = count.min(self.len);
        match end {
            End::Left => self.remove(0..count, heap),
            End::Right => self.remove(self.len - count..self.len, heap),
        }
    }

    /// The element number `index`.
    pub fn get(&self, index: usize) -> Option<Stored<'_>> {
        let (node, within) = self.seek(index)?;
        self.nodes[node].get(within)
    }

    /// The elements from number `index` on.
    pub fn iter_from(&self, index: usize) -> impl Iterator<Item = Stored<'_>> {
        let (first, skip) = self.seek(index).unwrap_or((self.nodes.len(), 0));
        let nodes = self.nodes.range(first.min(self.nodes.len())..).enumerate();
        nodes.flat_map(move |(n, node)| node.iter(if n == 0 { skip } else { 0 }))
    }

    /// The elements before number `end`, the last one first.
    pub fn iter_back_from(&self, end: usize) -> impl Iterator<Item = Stored<'_>> {
        let (last, within) = match end.min(self.len).checked_sub(1).and_then(|last| self.seek(last)) {
            Some((node, within)) => (node + 1, within + 1),
            None => (0, 0),
        };
        let nodes = self.nodes.range(..last).rev().enumerate();
        nodes.flat_map(move |(n, node)| node.iter_back(if n == 0 { within } else { node.count() }))
    }

    /// Inserts an element before number `index`, or behind the last one.
    ///
    /// # Errors
    /// [`Exhausted`]; nothing has changed.
    pub fn insert(&mut self, index: usize, piece: Piece<'_>, heap: &Heap) -> Result<(), Exhausted> {
        if index == 0 {
            return self.push(End::Left, piece, heap);
        }
        let Some((n, within)) = self.seek(index) else { return self.push(End::Right, piece, heap) };
        if let Piece::Short(bytes) = piece {
            let size = Pack::size_of(bytes.len());
            if let Some(pack) = self.nodes[n].room_for(size) {
                pack.reserve(size, heap)?;
                let place = pack.place_of(within).unwrap_or(pack.end());
                pack.insert(place, bytes);
                self.len += 1;
                return Ok(());
            }
            if within == 0
                && let Some(pack) = self.nodes[n - 1].room_for(size)
            {
                pack.reserve(size, heap)?;
                pack.push(bytes);
                self.len += 1;
                return Ok(());
            }
        }
        let node = piece.into_node(0, heap)?;
        if within == 0 {
            self.nodes.insert(n, node);
        } else {
            let rest = self.split(n, within, heap)?;
            self.nodes.insert(n + 1, rest);
            self.nodes.insert(n + 1, node);
        }
        self.len += 1;
        Ok(())
    }

    /// Takes the elements from number `within` on out of node `n`, as a node of their own.
    fn split(&mut self, n: usize, within: usize, heap: &Heap) -> Result<Node, Exhausted> {
        let Node::Pack(pack) = &mut self.nodes[n] else { unreachable!("a long element is not split") };
        let place = pack.place_of(within).unwrap_or(pack.end());
        let mut rest = Pack::new(pack.size() - place, heap)?;
        pack.iter_from(place).for_each(|(_, bytes)| rest.push(bytes));
        pack.remove_many(place, rest.count());
        Ok(Node::Pack(rest))
    }

    /// Replaces element number `index`. False if there is none.
    ///
    /// # Errors
    /// [`Exhausted`]; nothing has changed.
    pub fn set(&mut self, index: usize, piece: Piece<'_>, heap: &Heap) -> Result<bool, Exhausted> {
        let Some((n, within)) = self.seek(index) else { return Ok(false) };
        if let (Node::Pack(pack), Piece::Short(bytes)) = (&mut self.nodes[n], &piece) {
            let place = pack.place_of(within).unwrap_or(pack.end());
            let more = Pack::size_of(bytes.len()).saturating_sub(pack.next(place) - place);
            if pack.size() + more <= NODE_SIZE_MAX {
                pack.reserve(more, heap)?;
                pack.replace(place, bytes);
                return Ok(true);
            }
        }
        self.insert(index, piece, heap)?;
        self.remove(index + 1..index + 2, heap);
        Ok(true)
    }

    /// Takes out the elements of these numbers, which exist.
    pub fn remove(&mut self, range: Range<usize>, heap: &Heap) {
        let mut left = range.len();
        let Some((mut n, mut within)) = self.seek(range.start) else { return };
        self.len -= left;
        while left > 0 {
            let count = self.nodes[n].count();
            let here = left.min(count - within);
            if here == count {
                // Whole nodes, as many as there are, at once: in the middle of a deque each would move the others.
                let mut whole = n + 1;
                left -= count;
                while let Some(node) = self.nodes.get(whole).filter(|node| node.count() <= left) {
                    left -= node.count();
                    whole += 1;
                }
                self.nodes.drain(n..whole);
                continue;
            }
            if let Node::Pack(pack) = &mut self.nodes[n] {
                let place = pack.place_of(within).unwrap_or(pack.end());
                pack.remove_many(place, here);
                pack.shrink(heap);
            }
            left -= here;
            (n, within) = (n + 1, 0);
        }
        self.join(n, heap);
        self.join(n.wrapping_sub(1), heap);
    }

    /// Takes out up to `count` elements that are `bytes`, from one end on, and says how many.
    pub fn remove_equal(&mut self, bytes: &[u8], count: usize, from: End, heap: &Heap) -> usize {
        let (mut removed, mut n) = (0, 0);
        let nodes = self.nodes.len();
        while removed < count && n < nodes {
            let index = if from == End::Left { n } else { nodes - 1 - n };
            removed += match &mut self.nodes[index] {
                Node::Pack(pack) => remove_equal_of(pack, bytes, count - removed, from),
                Node::Long(buf) if **buf == *bytes => {
                    *buf = buf.slice(..0); // a mark, taken out below
                    1
                }
                Node::Long(_) => 0,
            };
            n += 1;
        }
        if removed > 0 {
            self.len -= removed;
            self.nodes.retain(|node| match node {
                Node::Pack(pack) => !pack.is_empty(),
                Node::Long(buf) => !buf.is_empty(),
            });
            let mut n = 0;
            while n < self.nodes.len() {
                if let Node::Pack(pack) = &mut self.nodes[n] {
                    pack.shrink(heap);
                }
                if !self.join(n, heap) {
                    n += 1;
                }
            }
        }
        removed
    }

    /// Joins node `n` with the next one if both together are small.
    fn join(&mut self, n: usize, heap: &Heap) -> bool {
        let (Some(Node::Pack(one)), Some(Node::Pack(other))) = (self.nodes.get(n), self.nodes.get(n.wrapping_add(1)))
        else {
            return false;
        };
        let size = other.size();
        if one.size() + size > NODE_SIZE_MAX / 2 {
            return false;
        }
        let Some(Node::Pack(one)) = self.nodes.get_mut(n) else { return false };
        if one.reserve(size, heap).is_err() {
            return false; // no memory: they stay apart
        }
        let Some(Node::Pack(other)) = self.nodes.remove(n + 1) else { return false };
        if let Some(Node::Pack(one)) = self.nodes.get_mut(n) {
            other.iter().for_each(|bytes| one.push(bytes));
        }
        true
    }

    /// The node of element number `index`, and its number there; from the nearer end.
    fn seek(&self, index: usize) -> Option<(usize, usize)> {
        if index >= self.len {
            return None;
        }
        if index < self.len / 2 {
            let mut before = 0;
            for (n, node) in self.nodes.iter().enumerate() {
                if index < before + node.count() {
                    return Some((n, index - before));
                }
                before += node.count();
            }
        } else {
            let mut before = self.len;
            for (n, node) in self.nodes.iter().enumerate().rev() {
                before -= node.count();
                if index >= before {
                    return Some((n, index - before));
                }
            }
        }
        None
    }

    /// A copy of its own. Long elements are shared.
    ///
    /// # Errors
    /// [`Exhausted`].
    pub fn try_clone(&self, heap: &Heap) -> Result<List, Exhausted> {
        let nodes = self.nodes.iter().map(|node| node.try_clone(heap)).collect::<Result<_, _>>()?;
        Ok(List { nodes, len: self.len })
    }

    /// Takes out a node of elements, for a list that is given up piece by piece. False if it is empty.
    pub fn free_some(&mut self) -> bool {
        self.len = 0;
        self.nodes.pop_back().is_some()
    }

    /// Asserts what always holds.
    #[cfg(test)]
    fn check(&self) {
        assert_eq!(self.len, self.nodes.iter().map(Node::count).sum::<usize>());
        for node in &self.nodes {
            assert!(node.count() > 0, "an empty node");
            match node {
                Node::Pack(pack) => assert!(pack.size() <= NODE_SIZE_MAX),
                Node::Long(buf) => assert!(buf.len() > PACKED_LEN_MAX),
            }
        }
    }
}

fn remove_equal_of(pack: &mut Pack, bytes: &[u8], count: usize, from: End) -> usize {
    let mut removed = 0;
    let mut place = if from == End::Left { 0 } else { pack.end() };
    while removed < count {
        let found = match from {
            End::Left => pack.iter_from(place).find(|(_, element)| *element == bytes),
            End::Right => pack.iter_back_from(place).find(|(_, element)| *element == bytes),
        };
        let Some((at, _)) = found else { break };
        pack.remove(at);
        removed += 1;
        place = at;
    }
    removed
}

#[cfg(test)]
mod tests {
    use quickcheck::quickcheck;

    use super::*;
    use crate::resp::tests::heap;

    fn to_vec(element: Stored<'_>) -> Vec<u8> {
        element.with(<[u8]>::to_vec)
    }

    fn contents(list: &List) -> VecDeque<Vec<u8>> {
        list.iter_from(0).map(to_vec).collect()
    }

    quickcheck! {
        /// Against a deque, with elements of all lengths, so that nodes split, join, come and go.
        fn behaves_as_a_sequence(ops: Vec<(u8, u16, u8, u8)>) -> bool {
            let heap = heap();
            let mut list = List::default();
            let mut model: VecDeque<Vec<u8>> = VecDeque::new();
            for (op, at, len, times) in ops {
                let len = match len { 0..150 => usize::from(len) / 10, 150..230 => usize::from(len) * 3, _ => 2000 };
                let bytes = vec![at as u8 % 4; len];
                let buf = heap.copy(&bytes).unwrap();
                let piece = Piece::of_buf(&buf).unwrap();
                let index = usize::from(at) % (model.len() + 1);
                match op % 10 {
                    0 | 1 => for _ in 0..times % 40 {
                        list.push(End::Left, piece.clone(), &heap).unwrap();
                        model.push_front(bytes.clone());
                    },
                    2 | 3 => for _ in 0..times % 40 {
                        list.push(End::Right, piece.clone(), &heap).unwrap();
                        model.push_back(bytes.clone());
                    },
                    4 | 5 => {
                        list.insert(index, piece, &heap).unwrap();
                        model.insert(index, bytes);
                    }
                    6 => {
                        assert_eq!(list.set(index, piece, &heap).unwrap(), index < model.len());
                        if let Some(element) = model.get_mut(index) {
                            *element = bytes;
                        }
                    }
                    7 => {
                        let count = usize::from(times).min(model.len() - index);
                        list.remove(index..index + count, &heap);
                        model.drain(index..index + count);
                    }
                    8 => {
                        let (end, count) = (if at % 2 == 0 { End::Left } else { End::Right }, usize::from(times % 5));
                        let mut expected = 0;
                        for _ in 0..count {
                            let found = match end {
                                End::Left => model.iter().position(|element| *element == bytes),
                                End::Right => model.iter().rposition(|element| *element == bytes),
                            };
                            let Some(found) = found else { break };
                            model.remove(found);
                            expected += 1;
                        }
                        assert_eq!(list.remove_equal(&bytes, count, end, &heap), expected);
                    }
                    _ => {
                        let end = if at % 2 == 0 { End::Left } else { End::Right };
                        let expected = if end == End::Left { model.front() } else { model.back() };
                        assert_eq!(list.peek(end).map(to_vec), expected.cloned());
                        list.drop_some(end, 1, &heap);
                        if end == End::Left { model.pop_front() } else { model.pop_back() };
                    }
                }
                list.check();
                assert_eq!(contents(&list), model);
                let index = index.min(model.len());
                assert_eq!(list.get(index).map(to_vec), model.get(index).cloned());
                assert!(list.iter_from(index).map(to_vec).eq(model.range(index..).cloned()));
                let back = list.iter_back_from(index).map(to_vec);
                assert!(back.eq(model.range(..index).rev().cloned()));
            }
            let copy = list.try_clone(&heap).unwrap();
            assert_eq!(contents(&copy), model);
            drop((copy, list));
            heap.stats().pinned == 0
        }
    }

    #[test]
    fn a_queue_keeps_to_few_nodes() {
        let heap = heap();
        let mut list = List::default();
        for round in 0..10_000 {
            list.push(End::Right, Piece::Short(b"0123456789"), &heap).unwrap();
            if round >= 100 {
                list.drop_some(End::Left, 1, &heap);
            }
        }
        list.check();
        assert!(list.nodes.len() <= 3, "{}", list.nodes.len());
        assert!(heap.stats().pinned <= 3 * 4096);
    }
}
