//! Short strings packed one behind the other in one chunk of the heap: the small form of lists, hashes and sorted sets.
//!
//! An element is its length, its bytes, and its length again written backwards, so that a pack is walked from both ends.
//! A length below 128 is one byte: an element costs two bytes more than it holds. There may be room at both ends, so
//! that pushing and popping at either moves nothing most of the time.
//!
//! A place is a byte offset from the first element; it is good until the pack is changed before it.

use pdpix::{BufMut, Exhausted, Heap};

/// A sequence of short strings.
pub struct Pack {
    /// The elements are the bytes from `start` to its length.
    chunk: BufMut,
    start: u32,
    count: u32,
}

/// Where an element lies, or where the last one ends.
pub type Place = usize;

/// An element and where the next one lies.
struct Element<'a> {
    bytes: &'a [u8],
    next: Place,
}

impl Pack {
    /// An empty pack with room for `size` bytes ([`Pack::size_of`]).
    ///
    /// # Errors
    /// [`Exhausted`].
    pub fn new(size: usize, heap: &Heap) -> Result<Pack, Exhausted> {
        Ok(Pack { chunk: heap.alloc(size)?, start: 0, count: 0 })
    }

    /// What an element of `len` bytes takes.
    pub fn size_of(len: usize) -> usize {
        len + 2 * length_size(len)
    }

    /// Elements in it.
    pub fn count(&self) -> usize {
        self.count as usize
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.count == 0
    }

    /// Bytes of all elements with their lengths.
    pub fn size(&self) -> usize {
        self.chunk.len() - self.start as usize
    }

    /// Bytes of the heap that it pins.
    pub fn pinned(&self) -> usize {
        self.chunk.pinned()
    }

    /// Where the last element ends.
    pub fn end(&self) -> Place {
        self.size()
    }

    /// The element at `place`. Empty behind the last one.
    pub fn get(&self, place: Place) -> &[u8] {
        self.element(place).map_or(&[], |element| element.bytes)
    }

    /// The place of the element behind the one at `place`.
    pub fn next(&self, place: Place) -> Place {
        self.element(place).map_or(self.end(), |element| element.next)
    }

    /// The place of the element before `place`, if there is one.
    pub fn previous(&self, place: Place) -> Option<Place> {
        let before = self.bytes().get(..place).filter(|before| !before.is_empty())?;
        let (len, size) = read_length(before.iter().rev());
        place.checked_sub(len + 2 * size)
    }

    /// The place of element number `index`, from the nearer end.
    pub fn place_of(&self, index: usize) -> Option<Place> {
        let count = self.count();
        if index >= count {
            return None;
        }
        if index <= count / 2 {
            return Some((0..index).fold(0, |place, _| self.next(place)));
        }
        (index..count).try_fold(self.end(), |place, _| self.previous(place))
    }

    /// All elements from the one at `place` on, each with its place.
    pub fn iter_from(&self, mut place: Place) -> impl Iterator<Item = (Place, &[u8])> {
        std::iter::from_fn(move || {
            let element = self.element(place)?;
            let found = (place, element.bytes);
            place = element.next;
            Some(found)
        })
    }

    /// All elements.
    pub fn iter(&self) -> impl Iterator<Item = &[u8]> {
        self.iter_from(0).map(|(_, bytes)| bytes)
    }

    /// All elements before `place`, the last one first, each with its place.
    pub fn iter_back_from(&self, mut place: Place) -> impl Iterator<Item = (Place, &[u8])> {
        std::iter::from_fn(move || {
            place = self.previous(place)?;
            Some((place, self.get(place)))
        })
    }

    fn bytes(&self) -> &[u8] {
        &self.chunk[self.start as usize..]
    }

    fn element(&self, place: Place) -> Option<Element<'_>> {
        let rest = self.bytes().get(place..).filter(|rest| !rest.is_empty())?;
        let (len, size) = read_length(rest.iter());
        Some(Element { bytes: rest.get(size..size + len)?, next: place + len + 2 * size })
    }

    /// Makes room for `size` more bytes at the back.
    ///
    /// # Errors
    /// [`Exhausted`]; nothing has changed.
    pub fn reserve(&mut self, size: usize, heap: &Heap) -> Result<(), Exhausted> {
        if self.chunk.room() >= size {
            return Ok(());
        }
        if self.chunk.room() + self.start as usize >= size {
            let (start, used) = (self.start as usize, self.size());
            self.chunk.copy_within(start.., 0);
            self.chunk.truncate(used);
            self.start = 0;
            return Ok(());
        }
        self.rebuild((self.size() + size).max(self.size() * 3 / 2), 0, heap)
    }

    /// Makes room for `size` more bytes at the front.
    ///
    /// # Errors
    /// [`Exhausted`]; nothing has changed.
    pub fn reserve_front(&mut self, size: usize, heap: &Heap) -> Result<(), Exhausted> {
        if self.start as usize >= size {
            return Ok(());
        }
        let (start, used) = (self.start as usize, self.size());
        let room = self.chunk.room() + start;
        if room >= size {
            // All free room to the front: what is pushed there once is likely to be pushed there again.
            self.chunk.resize(room + used, 0);
            self.chunk.copy_within(start..start + used, room);
            self.start = room as u32;
            return Ok(());
        }
        self.rebuild((used + size).max(used * 3 / 2), size, heap)
    }

    /// Moves to a chunk for at least `capacity` bytes; all the room is put to the front if at least `front` must be there.
    fn rebuild(&mut self, capacity: usize, front: usize, heap: &Heap) -> Result<(), Exhausted> {
        let mut chunk = heap.alloc(capacity)?;
        if front > 0 {
            chunk.resize(chunk.capacity() - self.size(), 0);
        }
        let start = chunk.len() as u32;
        chunk.put(self.bytes());
        (self.chunk, self.start) = (chunk, start);
        Ok(())
    }

    /// Inserts an element at `place`. There is room for it.
    pub fn insert(&mut self, place: Place, element: &[u8]) {
        self.insert_room(place, Pack::size_of(element.len()));
        let at = self.start as usize + place;
        write_element(&mut self.chunk[at..], element);
        self.count += 1;
    }

    /// Appends an element. There is room for it at the back.
    pub fn push(&mut self, element: &[u8]) {
        self.insert(self.end(), element);
    }

    /// Puts an element before all others. There is room for it at the front.
    pub fn push_front(&mut self, element: &[u8]) {
        self.start -= Pack::size_of(element.len()) as u32;
        let at = self.start as usize;
        write_element(&mut self.chunk[at..], element);
        self.count += 1;
    }

    /// Opens a gap at `place`: what is behind moves back, or what is before moves forward.
    fn insert_room(&mut self, place: Place, size: usize) {
        let (start, room) = (self.start as usize, self.chunk.room());
        assert!(start + room >= size, "room was to be reserved");
        if room < size {
            if start < size {
                let used = self.size();
                self.chunk.copy_within(start.., 0);
                self.chunk.truncate(used);
                self.start = 0;
            } else {
                self.chunk.copy_within(start..start + place, start - size);
                self.start -= size as u32;
                return;
            }
        }
        let (at, end) = (self.start as usize + place, self.chunk.len());
        self.chunk.resize(end + size, 0);
        self.chunk.copy_within(at..end, at + size);
    }

    /// Takes out the element at `place`; the next one is there then.
    pub fn remove(&mut self, place: Place) {
        let next = self.next(place);
        self.remove_bytes(place, next);
        self.count -= 1;
    }

    /// Takes out `count` elements from the one at `place` on.
    pub fn remove_many(&mut self, place: Place, count: usize) {
        let end = (0..count).fold(place, |end, _| self.next(end));
        self.remove_bytes(place, end);
        self.count -= (count as u32).min(self.count);
    }

    fn remove_bytes(&mut self, from: Place, to: Place) {
        let start = self.start as usize;
        if from == 0 {
            self.start += to as u32;
            return;
        }
        let len = self.chunk.len();
        self.chunk.copy_within(start + to.., start + from);
        self.chunk.truncate(len - (to - from));
    }

    /// Replaces the element at `place`. There is room for what the new one takes more.
    pub fn replace(&mut self, place: Place, element: &[u8]) {
        let (old, new) = (self.next(place) - place, Pack::size_of(element.len()));
        if new > old {
            self.insert_room(place, new - old);
        } else if new < old {
            let (start, len) = (self.start as usize, self.chunk.len());
            self.chunk.copy_within(start + place + old.., start + place + new);
            self.chunk.truncate(len - (old - new));
        }
        let at = self.start as usize + place;
        write_element(&mut self.chunk[at..], element);
    }

    /// Gives memory back if less than a quarter of it is in use. If there is none to move to, it stays where it is.
    pub fn shrink(&mut self, heap: &Heap) {
        let (size, capacity) = (self.size(), self.chunk.capacity());
        if size * 4 < capacity && capacity > 64 {
            let _ = self.rebuild(size, 0, heap);
        }
    }

    /// A copy of its own.
    ///
    /// # Errors
    /// [`Exhausted`].
    pub fn try_clone(&self, heap: &Heap) -> Result<Pack, Exhausted> {
        let mut chunk = heap.alloc(self.size())?;
        chunk.put(self.bytes());
        Ok(Pack { chunk, start: 0, count: self.count })
    }
}

impl std::fmt::Debug for Pack {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Pack({} elements, {} B)", self.count, self.size())
    }
}

/// Bytes that a length takes: seven bits in each.
fn length_size(len: usize) -> usize {
    match len {
        0..0x80 => 1,
        0x80..0x4000 => 2,
        0x4000..0x20_0000 => 3,
        0x20_0000..0x1000_0000 => 4,
        _ => 5,
    }
}

/// A length and how many bytes it took: the low seven bits first, the top bit says that more follow.
fn read_length<'a>(bytes: impl Iterator<Item = &'a u8>) -> (usize, usize) {
    let (mut len, mut size) = (0, 0);
    for byte in bytes {
        len |= usize::from(byte & 0x7F) << (7 * size);
        size += 1;
        if byte & 0x80 == 0 {
            break;
        }
    }
    (len, size)
}

/// Writes an element to the beginning of `into`.
fn write_element(into: &mut [u8], element: &[u8]) {
    let (mut len, size) = (element.len(), length_size(element.len()));
    let total = element.len() + 2 * size;
    for at in 0..size {
        let more = if at + 1 < size { 0x80 } else { 0 };
        let byte = (len & 0x7F) as u8 | more;
        into[at] = byte;
        into[total - 1 - at] = byte;
        len >>= 7;
    }
    into[size..size + element.len()].copy_from_slice(element);
}

#[cfg(test)]
mod tests {
    use std::collections::VecDeque;

    use quickcheck::quickcheck;

    use super::*;
    use crate::resp::tests::heap;

    quickcheck! {
        /// Against a deque: pushes and pops at both ends, inserts, replacements, removals.
        fn behaves_as_a_sequence(ops: Vec<(u8, u16, u8)>) -> bool {
            let heap = heap();
            let mut pack = Pack::new(0, &heap).unwrap();
            let mut model: VecDeque<Vec<u8>> = VecDeque::new();
            for (op, len, byte) in ops {
                let element = vec![byte; usize::from(len) % if byte < 200 { 20 } else { 300 }];
                let size = Pack::size_of(element.len());
                let index = usize::from(len) % (model.len() + 1);
                match op % 8 {
                    0 | 1 => {
                        pack.reserve(size, &heap).unwrap();
                        pack.push(&element);
                        model.push_back(element);
                    }
                    2 | 3 => {
                        pack.reserve_front(size, &heap).unwrap();
                        pack.push_front(&element);
                        model.push_front(element);
                    }
                    4 => {
                        pack.reserve(size, &heap).unwrap();
                        let place = pack.place_of(index).unwrap_or(pack.end());
                        pack.insert(place, &element);
                        model.insert(index, element);
                    }
                    5 if index < model.len() => {
                        pack.reserve(size, &heap).unwrap();
                        if len % 2 == 0 {
                            pack.replace(pack.place_of(index).unwrap(), &element);
                        } else {
                            // What is reserved stays reserved when something is taken out, at whichever end.
                            pack.remove(pack.place_of(index).unwrap());
                            pack.insert(pack.place_of(index).unwrap_or(pack.end()), &element);
                        }
                        model[index] = element;
                    }
                    6 if index < model.len() => {
                        pack.remove(pack.place_of(index).unwrap());
                        model.remove(index);
                        pack.shrink(&heap);
                    }
                    7 if index < model.len() => {
                        let count = (model.len() - index).min(usize::from(byte) % 4);
                        pack.remove_many(pack.place_of(index).unwrap(), count);
                        model.drain(index..index + count);
                    }
                    _ => {}
                }
                assert!(pack.iter().eq(model.iter().map(Vec::as_slice)));
                assert!(pack.iter_back_from(pack.end()).map(|(_, e)| e).eq(model.iter().rev().map(Vec::as_slice)));
                assert_eq!((pack.count(), pack.place_of(model.len())), (model.len(), None));
                let copy = pack.try_clone(&heap).unwrap();
                assert!(copy.iter().eq(pack.iter()));
            }
            drop(pack);
            heap.stats().pinned == 0
        }
    }

    #[test]
    fn short_elements_cost_two_bytes_more() {
        assert_eq!([0, 1, 127, 128, 16_383, 16_384].map(Pack::size_of), [2, 3, 129, 132, 16_387, 16_390]);
        let heap = heap();
        let mut pack = Pack::new(64, &heap).unwrap();
        (0..16).for_each(|_| pack.push(b"ab"));
        assert_eq!((pack.size(), pack.pinned()), (64, 64));
    }

    #[test]
    fn pushing_to_the_front_seldom_moves_what_is_there() {
        let heap = heap();
        let mut pack = Pack::new(0, &heap).unwrap();
        let mut moves = 0;
        for _ in 0..1000 {
            let room = pack.start >= 12;
            moves += usize::from(!room);
            pack.reserve_front(12, &heap).unwrap();
            pack.push_front(b"0123456789");
        }
        assert!(moves < 40, "{moves}");
    }
}
