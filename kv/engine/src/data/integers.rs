//! A small set of integers: sorted, each of two, four or eight bytes, as the widest of them needs.

use pdpix::{BufMut, Exhausted, Heap};

/// Integers in ascending order, without repetitions.
pub struct Integers {
    chunk: BufMut,
    width: Width,
}

/// Bytes of each integer.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
enum Width {
    Two = 2,
    Four = 4,
    Eight = 8,
}

impl Width {
    fn of(value: i64) -> Width {
        if i16::try_from(value).is_ok() {
            Width::Two
        } else if i32::try_from(value).is_ok() {
            Width::Four
        } else {
            Width::Eight
        }
    }
}

impl Integers {
    /// Without any.
    ///
    /// # Errors
    /// [`Exhausted`].
    pub fn new(heap: &Heap) -> Result<Integers, Exhausted> {
        Ok(Integers { chunk: heap.alloc(0)?, width: Width::Two })
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        self.chunk.len() / self.width as usize
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.chunk.is_empty()
    }

    /// Bytes of the heap that it pins.
    pub fn pinned(&self) -> usize {
        self.chunk.pinned()
    }

    /// Number `index`, in ascending order.
    pub fn get(&self, index: usize) -> Option<i64> {
        let at = index * self.width as usize;
        let rest = self.chunk.get(at..)?;
        Some(match self.width {
            Width::Two => i64::from(i16::from_le_bytes(*rest.first_chunk()?)),
            Width::Four => i64::from(i32::from_le_bytes(*rest.first_chunk()?)),
            Width::Eight => i64::from_le_bytes(*rest.first_chunk()?),
        })
    }

    /// All, in ascending order.
    pub fn iter(&self) -> impl Iterator<Item = i64> {
        (0..self.len()).filter_map(|index| self.get(index))
    }

    /// Where `value` is, or where it would have to be.
    fn search(&self, value: i64) -> Result<usize, usize> {
        let (mut low, mut high) = (0, self.len());
        while low < high {
            let middle = (low + high) / 2;
            match self.get(middle).map(|found| found.cmp(&value)) {
                Some(std::cmp::Ordering::Less) => low = middle + 1,
                Some(std::cmp::Ordering::Equal) => return Ok(middle),
                _ => high = middle,
            }
        }
        Err(low)
    }

    /// Whether it has `value`.
    pub fn contains(&self, value: i64) -> bool {
        self.search(value).is_ok()
    }

    /// Makes room for `count` more, as wide as any of `values`.
    ///
    /// # Errors
    /// [`Exhausted`]; nothing has changed.
    pub fn reserve(&mut self, count: usize, values: impl Iterator<Item = i64>, heap: &Heap) -> Result<(), Exhausted> {
        let width = values.map(Width::of).fold(self.width, Width::max);
        let size = (self.len() + count) * width as usize;
        if width == self.width && size <= self.chunk.capacity() {
            return Ok(());
        }
        let mut wider = Integers { chunk: heap.alloc(size)?, width };
        self.iter().for_each(|value| wider.append(value));
        *self = wider;
        Ok(())
    }

    fn append(&mut self, value: i64) {
        self.chunk.put(&value.to_le_bytes()[..self.width as usize]);
    }

    /// Adds `value`, for which there is room. False if it was there.
    pub fn insert(&mut self, value: i64) -> bool {
        let Err(index) = self.search(value) else { return false };
        let (width, len) = (self.width as usize, self.chunk.len());
        debug_assert!(Width::of(value) <= self.width, "room of another width was reserved");
        self.chunk.resize(len + width, 0);
        let at = index * width;
        self.chunk.copy_within(at..len, at + width);
        self.chunk[at..at + width].copy_from_slice(&value.to_le_bytes()[..width]);
        true
    }

    /// Takes out `value`. False if it was not there.
    pub fn remove(&mut self, value: i64) -> bool {
        let Ok(index) = self.search(value) else { return false };
        let (at, width, len) = (index * self.width as usize, self.width as usize, self.chunk.len());
        self.chunk.copy_within(at + width.., at);
        self.chunk.truncate(len - width);
        true
    }

    /// A copy of its own.
    ///
    /// # Errors
    /// [`Exhausted`].
    pub fn try_clone(&self, heap: &Heap) -> Result<Integers, Exhausted> {
        let mut chunk = heap.alloc(self.chunk.len())?;
        chunk.put(&self.chunk);
        Ok(Integers { chunk, width: self.width })
    }
}

impl std::fmt::Debug for Integers {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_set().entries(self.iter()).finish()
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use quickcheck::quickcheck;

    use super::*;
    use crate::resp::tests::heap;

    quickcheck! {
        fn behaves_as_a_sorted_set(ops: Vec<(bool, i64, u8)>) -> bool {
            let heap = heap();
            let mut set = Integers::new(&heap).unwrap();
            let mut model = BTreeSet::new();
            for (insert, value, shift) in ops {
                let value = value >> (shift % 64);
                if insert {
                    set.reserve(1, [value].into_iter(), &heap).unwrap();
                    assert_eq!(set.insert(value), model.insert(value));
                } else {
                    assert_eq!(set.remove(value), model.remove(&value));
                }
                assert_eq!(set.contains(value), insert);
                assert!(set.iter().eq(model.iter().copied()));
            }
            assert!(set.try_clone(&heap).unwrap().iter().eq(set.iter()));
            drop(set);
            heap.stats().pinned == 0
        }
    }

    #[test]
    fn as_wide_as_the_widest() {
        let heap = heap();
        let mut set = Integers::new(&heap).unwrap();
        for (value, size) in [(1, 2), (-32_768, 4), (32_768, 12), (i64::MIN, 32), (i64::MAX, 40)] {
            set.reserve(1, [value].into_iter(), &heap).unwrap();
            assert!(set.insert(value));
            assert_eq!(set.chunk.len(), size);
        }
        assert_eq!(set.iter().collect::<Vec<_>>(), [i64::MIN, -32_768, 1, 32_768, i64::MAX]);
    }
}
