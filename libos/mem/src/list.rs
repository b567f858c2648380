//! A list of `Buf`s: one inside, more in a chunk of the heap that the first one belongs to. No `malloc` on the way.
//!
//! One inside and not two, since lists travel by value through every call: 32 bytes are two moves of a vector register.

use std::mem::{ManuallyDrop, MaybeUninit};
use std::ops::Deref;
use std::ptr::NonNull;

use crate::Exhausted;
use crate::buf::{self, Buf, Holder};
use crate::heap::Purpose;

/// An ordered list of buffers: the body of a scatter-gather array. Elements leave at the front.
pub struct BufList {
    slots: Slots,
    /// The elements are `first..end` of the slots.
    first: u16,
    end: u16,
    /// Of the slots; `BufList::INSIDE` means that they are inside.
    capacity: u16,
}

union Slots {
    inside: ManuallyDrop<[MaybeUninit<Buf>; BufList::INSIDE]>,
    /// Counter word of the chunk, and its start.
    chunk: (NonNull<u32>, NonNull<Buf>),
}

const _: () = assert!(size_of::<BufList>() == 32);

impl BufList {
    /// How many elements fit without a chunk.
    pub const INSIDE: usize = 1;
    /// How many elements a list can have.
    pub const LEN_MAX: usize = 1 << 15;

    /// The empty list.
    #[inline]
    pub const fn new() -> BufList {
        let inside = ManuallyDrop::new([const { MaybeUninit::uninit() }; BufList::INSIDE]);
        BufList { slots: Slots { inside }, first: 0, end: 0, capacity: BufList::INSIDE as u16 }
    }

    /// Appends `buf`.
    ///
    /// # Errors
    /// `buf` back: the list has to grow, and the heap of its first element has no room; or it has [`BufList::LEN_MAX`]
    /// elements.
    #[inline]
    pub fn push(&mut self, buf: Buf) -> Result<(), Buf> {
        if self.end == self.capacity && !self.make_room(1, &buf) {
            return Err(buf);
        }
        // SAFETY: slot `end` exists and is empty.
        unsafe { self.slots_mut().add(self.end as usize).write(buf) };
        self.end += 1;
        Ok(())
    }

    /// Makes room for `count` more elements, the first of which is `next`.
    ///
    /// # Errors
    /// [`Exhausted`]; nothing has changed.
    pub fn reserve(&mut self, count: usize, next: &Buf) -> Result<(), Exhausted> {
        if self.end as usize + count <= self.capacity as usize || self.make_room(count, next) {
            return Ok(());
        }
        Err(Exhausted)
    }

    /// Takes the first.
    #[inline]
    pub fn pop_front(&mut self) -> Option<Buf> {
        if self.first == self.end {
            return None;
        }
        // SAFETY: slot `first` holds an element, which is the caller's from now on.
        let buf = unsafe { self.slots_mut().add(self.first as usize).read() };
        self.first += 1;
        if self.first == self.end {
            (self.first, self.end) = (0, 0);
        }
        Some(buf)
    }

    /// Takes the only element of a list that lies inside: such a list owns nothing any more.
    #[inline(always)]
    pub fn take_only(&mut self) -> Option<Buf> {
        if (self.first, self.end) != (0, 1) || self.capacity as usize > BufList::INSIDE {
            return None;
        }
        // SAFETY: the first slot is inside and holds an element, which is the caller's from now on.
        let buf = unsafe { (&raw mut self.slots).cast::<Buf>().read() };
        self.end = 0;
        Some(buf)
    }

    /// Keeps the first `count` elements, if there are more.
    pub fn truncate(&mut self, count: usize) {
        while self.deref().len() > count {
            self.end -= 1;
            // SAFETY: slot `end` held the last element, which is nobody's any more.
            drop(unsafe { self.slots_mut().add(self.end as usize).read() });
        }
    }

    /// The elements, to be changed.
    #[inline]
    pub fn as_mut_slice(&mut self) -> &mut [Buf] {
        let (first, count) = (self.first as usize, (self.end - self.first) as usize);
        // SAFETY: slots `first..end` hold elements.
        unsafe { std::slice::from_raw_parts_mut(self.slots_mut().add(first), count) }
    }

    #[cold]
    fn make_room(&mut self, more: usize, next: &Buf) -> bool {
        let (first, count) = (self.first as usize, (self.end - self.first) as usize);
        if first * 2 > self.capacity as usize && count + more <= self.capacity as usize {
            // More than half was taken off at the front: move up.
            let slots = self.slots_mut();
            // SAFETY: both ranges lie in the slots; elements are moved, not duplicated: the old places are empty now.
            unsafe { std::ptr::copy(slots.add(first), slots, count) };
            (self.first, self.end) = (0, count as u16);
            return true;
        }
        let heap = self.deref().first().unwrap_or(next).heap();
        let capacity = (self.capacity as usize * 4).max((count + more).next_power_of_two());
        if capacity > BufList::LEN_MAX {
            return false;
        }
        let Ok(counter) = heap.state().take(Purpose::App, capacity * size_of::<Buf>()) else {
            return false;
        };
        let chunk = buf::chunk_of(counter).cast::<Buf>();
        // SAFETY: the chunk holds `capacity` slots, more than `count`; the elements move there and their old places are given up.
        unsafe { std::ptr::copy_nonoverlapping(self.slots_mut().add(first), chunk.as_ptr(), count) };
        self.free_slots();
        self.slots = Slots { chunk: (counter, chunk) };
        self.capacity = capacity as u16;
        (self.first, self.end) = (0, count as u16);
        true
    }

    /// Gives back the chunk, if there is one. Its elements are moved or dropped already.
    fn free_slots(&mut self) {
        if self.capacity as usize > BufList::INSIDE {
            // SAFETY: beyond `BufList::INSIDE` the slots are a chunk, whose one reference is this.
            unsafe { buf::drop_reference(self.slots.chunk.0, Holder::Chunk) };
        }
    }

    #[inline(always)]
    fn slots_mut(&mut self) -> *mut Buf {
        if self.capacity as usize > BufList::INSIDE {
            // SAFETY: beyond `BufList::INSIDE` the slots are a chunk.
            unsafe { self.slots.chunk.1.as_ptr() }
        } else {
            (&raw mut self.slots).cast()
        }
    }
}

impl Deref for BufList {
    type Target = [Buf];

    #[inline(always)]
    fn deref(&self) -> &[Buf] {
        let slots: *const Buf = if self.capacity as usize > BufList::INSIDE {
            // SAFETY: beyond `BufList::INSIDE` the slots are a chunk.
            unsafe { self.slots.chunk.1.as_ptr() }
        } else {
            (&raw const self.slots).cast()
        };
        // SAFETY: slots `first..end` hold elements.
        unsafe { std::slice::from_raw_parts(slots.add(self.first as usize), (self.end - self.first) as usize) }
    }
}

impl Drop for BufList {
    #[inline]
    fn drop(&mut self) {
        if self.capacity as usize == BufList::INSIDE {
            if self.first != self.end {
                // SAFETY: the one slot inside holds an element, which is going with the list.
                unsafe { std::ptr::drop_in_place(self.slots_mut()) };
            }
        } else {
            self.drop_chunk();
        }
    }
}

impl BufList {
    #[cold]
    fn drop_chunk(&mut self) {
        // SAFETY: the elements are the list's, which is going.
        unsafe { std::ptr::drop_in_place(self.as_mut_slice()) };
        self.free_slots();
    }
}

impl From<Buf> for BufList {
    /// A list of one.
    #[inline]
    fn from(buf: Buf) -> BufList {
        let inside = ManuallyDrop::new([MaybeUninit::new(buf)]);
        BufList { slots: Slots { inside }, first: 0, end: 1, capacity: BufList::INSIDE as u16 }
    }
}

impl Default for BufList {
    fn default() -> BufList {
        BufList::new()
    }
}

impl Iterator for BufList {
    type Item = Buf;

    /// Takes the first: the list is its own draining iterator.
    fn next(&mut self) -> Option<Buf> {
        self.pop_front()
    }

    fn size_hint(&self) -> (usize, Option<usize>) {
        (self.deref().len(), Some(self.deref().len()))
    }
}

impl std::fmt::Debug for BufList {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_list().entries(self.deref()).finish()
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use std::collections::VecDeque;

    use quickcheck::quickcheck;

    use super::*;
    use crate::heap::tests::heap;

    quickcheck! {
        /// Against a `VecDeque`: any sequence of pushes, pops, truncations and reservations.
        fn behaves_as_a_queue(ops: Vec<u8>) -> bool {
            let heap = heap();
            let mut list = BufList::new();
            let mut model = VecDeque::new();
            for (i, op) in ops.iter().enumerate() {
                let byte = i as u8;
                match op % 4 {
                    0 | 1 => {
                        list.push(heap.copy(&[byte]).unwrap()).unwrap();
                        model.push_back(byte);
                    }
                    2 if *op > 128 => {
                        list.truncate(model.len() / 2);
                        model.truncate(model.len() / 2);
                    }
                    2 => list.reserve(*op as usize, &heap.copy(&[byte]).unwrap()).unwrap(),
                    _ => assert_eq!(list.pop_front().map(|b| b[0]), model.pop_front()),
                }
                assert!(list.iter().map(|b| b[0]).eq(model.iter().copied()));
            }
            drop(list);
            heap.stats().pinned == 0
        }
    }

    #[test]
    fn a_list_that_cannot_grow_gives_the_buffer_back() {
        let heap = heap();
        let mut list = BufList::new();
        let buf = heap.copy(b"x").unwrap();
        let mut hoard = Vec::new();
        for size in [1 << 17, 1 << 10, 64, 1] {
            while let Ok(taken) = heap.alloc(size) {
                hoard.push(taken);
            }
        }
        let mut refused = None;
        for _ in 0..1000 {
            if let Err(back) = list.push(buf.clone()) {
                refused = Some(back);
                break;
            }
        }
        assert_eq!(&refused.expect("the heap is full")[..], b"x");
        drop((list, hoard, buf));
        assert_eq!(heap.stats().pinned, 0);
    }
}
