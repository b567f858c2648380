//! A deque of `Buf`s with one of them inside: what waits in most connections at most times needs no memory of its own.
//!
//! Always: the one inside is the first. Empty, it holds no memory: 100,000 idle connections cost their own size only.

use std::collections::VecDeque;

use pdpix::Buf;

/// An ordered list of buffers.
#[derive(Debug, Default)]
pub(crate) struct BufDeque {
    first: Option<Buf>,
    rest: VecDeque<Buf>,
}

impl BufDeque {
    /// The empty one.
    pub(crate) const fn new() -> BufDeque {
        BufDeque { first: None, rest: VecDeque::new() }
    }

    /// How many buffers there are.
    #[inline]
    pub(crate) fn len(&self) -> usize {
        usize::from(self.first.is_some()) + self.rest.len()
    }

    /// Whether there is none.
    #[inline]
    pub(crate) fn is_empty(&self) -> bool {
        self.first.is_none()
    }

    /// A buffer by its place.
    #[inline]
    pub(crate) fn get(&self, index: usize) -> Option<&Buf> {
        match index.checked_sub(1) {
            None => self.first.as_ref(),
            Some(index) => self.rest.get(index),
        }
    }

    /// The first, to be shortened.
    #[inline]
    pub(crate) fn front_mut(&mut self) -> Option<&mut Buf> {
        self.first.as_mut()
    }

    /// Appends one.
    #[inline]
    pub(crate) fn push_back(&mut self, buf: Buf) {
        match self.first {
            None => self.first = Some(buf),
            Some(_) => self.rest.push_back(buf),
        }
    }

    /// Puts one before all others.
    #[inline]
    pub(crate) fn push_front(&mut self, buf: Buf) {
        if let Some(second) = self.first.replace(buf) {
            self.rest.push_front(second);
        }
    }

    /// Takes the first.
    #[inline]
    pub(crate) fn pop_front(&mut self) -> Option<Buf> {
        let next = self.rest.pop_front();
        if next.is_none() && self.rest.capacity() > 0 {
            self.rest = VecDeque::new();
        }
        std::mem::replace(&mut self.first, next)
    }

    /// Takes the last.
    #[inline]
    pub(crate) fn pop_back(&mut self) -> Option<Buf> {
        self.rest.pop_back().or_else(|| self.first.take())
    }

    /// Drops all of them.
    #[inline]
    pub(crate) fn clear(&mut self) {
        self.first = None;
        if self.rest.capacity() > 0 {
            self.rest = VecDeque::new();
        }
    }

    /// All of them, in order.
    pub(crate) fn iter(&self) -> impl Iterator<Item = &Buf> {
        self.first.iter().chain(&self.rest)
    }

    /// Bytes of memory that it holds for its own list.
    #[cfg(test)]
    pub(crate) fn list_bytes(&self) -> usize {
        self.rest.capacity() * size_of::<Buf>()
    }
}

#[cfg(test)]
mod tests {
    use pdpix::Heap;
    use quickcheck::quickcheck;

    use super::*;

    quickcheck! {
        fn behaves_as_a_deque(ops: Vec<u8>) -> bool {
            let heap = Heap::alone(1 << 20).unwrap();
            let (mut deque, mut model) = (BufDeque::new(), VecDeque::new());
            for op in ops {
                match op % 5 {
                    0 | 1 => {
                        deque.push_back(heap.copy(&[op]).unwrap());
                        model.push_back(op);
                    }
                    2 => {
                        deque.push_front(heap.copy(&[op]).unwrap());
                        model.push_front(op);
                    }
                    3 => assert_eq!(deque.pop_front().map(|buf| buf[0]), model.pop_front()),
                    _ => assert_eq!(deque.pop_back().map(|buf| buf[0]), model.pop_back()),
                }
                assert!(deque.iter().map(|buf| buf[0]).eq(model.iter().copied()));
                assert!((0..model.len() + 1).all(|i| deque.get(i).map(|buf| buf[0]) == model.get(i).copied()));
                assert_eq!((deque.len(), deque.is_empty()), (model.len(), model.is_empty()));
            }
            drop(deque);
            heap.stats().pinned == 0
        }
    }

    #[test]
    fn empty_it_holds_no_memory() {
        let heap = Heap::alone(1 << 20).unwrap();
        let mut deque = BufDeque::new();
        deque.push_back(heap.copy(b"one").unwrap());
        assert_eq!(deque.list_bytes(), 0, "one lies inside");
        (0..100).for_each(|_| deque.push_back(heap.copy(b"more").unwrap()));
        assert!(deque.list_bytes() > 0);
        while deque.pop_front().is_some() {}
        assert_eq!(deque.list_bytes(), 0);
    }
}
