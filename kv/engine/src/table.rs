//! A hash table that grows and shrinks without ever stopping for long, and that can be walked while it does.
//!
//! Extendible hashing: the top bits of an item's hash select a slot of the directory, the slot names a segment, and a
//! segment is a small table of its own. A full segment splits in two; a sparse one joins its buddy or gives memory back.
//! So no step takes longer than [`SEGMENT_LEN_MAX`] moves, but for doubling the directory (four bytes a segment).
//!
//! Always: all items of a segment of depth `d` agree in the top `d` bits of their hashes, which are its `prefix`, and the
//! `2^(depth - d)` slots with that prefix name it. A walk goes in the order of hashes, and a cursor is a place in that
//! order, not in the table: an item that is there during the whole walk is met exactly once, whatever is split or joined
//! meanwhile.
//!
//! Should hashes collide in their top bits, more than chance lets them, the directory stops doubling when it is
//! `SPARSENESS_MAX` times as long as there are segments; from then on the segment grows as an ordinary table does.
//!
//! Source: Fagin et al., Extendible Hashing (TODS 1979).

use std::hash::{BuildHasher, Hasher};

use hashbrown::HashTable;
use pdpix::{Rng, Seed};

/// Items that a segment holds before it splits: what 512 buckets hold.
pub const SEGMENT_LEN_MAX: usize = 448;

/// Two buddies join when they have at most this many items together.
const JOIN_LEN_MAX: usize = SEGMENT_LEN_MAX / 2;

/// How much longer than the list of segments the directory may be made.
const SPARSENESS_MAX: usize = 16;

/// Bits of a hash that a cursor holds. With eight more for the shard a cursor is below 2^53, which every client can hold.
pub const POSITION_BITS: u32 = 44;

/// What a table holds: something with a name and the name's hash.
pub trait Item {
    /// The hash that it was inserted with.
    fn hash(&self) -> u64;
    /// Its name.
    fn key(&self) -> &[u8];
}

/// Where an item lies, until the table is changed.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub struct Place {
    segment: u32,
    bucket: u32,
}

/// A table of items with names that differ.
#[derive(Clone)]
pub struct Table<T> {
    /// For each value of the top `depth` bits the index of a segment. Empty if there is none.
    directory: Vec<u32>,
    segments: Vec<Segment<T>>,
    depth: u32,
    /// How many segments are as deep as the directory.
    deepest: u32,
    /// At least the number of buckets of any segment.
    buckets_max: u32,
    len: usize,
}

#[derive(Clone)]
struct Segment<T> {
    items: HashTable<T>,
    prefix: u32,
    depth: u32,
}

/// The hash inside a segment: without the bits that all of a segment share, at the places that `HashTable` looks at.
#[inline(always)]
fn inner(hash: u64) -> u64 {
    hash.rotate_left(40)
}

/// The hash of a name under a seed.
#[inline]
pub fn hash_of(seed: &Seed, name: &[u8]) -> u64 {
    let mut hasher = seed.build_hasher();
    hasher.write(name);
    hasher.finish()
}

fn position(hash: u64) -> u64 {
    hash >> (64 - POSITION_BITS)
}

impl<T> Default for Table<T> {
    fn default() -> Table<T> {
        Table { directory: Vec::new(), segments: Vec::new(), depth: 0, deepest: 0, buckets_max: 0, len: 0 }
    }
}

impl<T: Item> Table<T> {
    /// Items in it.
    #[inline]
    pub fn len(&self) -> usize {
        self.len
    }

    /// Whether there are none.
    #[inline]
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Bytes of the table itself.
    pub fn allocated(&self) -> usize {
        self.directory.capacity() * size_of::<u32>()
            + self.segments.capacity() * size_of::<Segment<T>>()
            + self.segments.len() * self.buckets_max as usize * (size_of::<T>() + 1)
    }

    /// The slot of the directory for `hash`.
    #[inline(always)]
    fn slot(&self, hash: u64) -> usize {
        (hash >> 1 >> (63 - self.depth)) as usize
    }

    /// The item of this name.
    #[inline]
    pub fn find(&self, hash: u64, key: &[u8]) -> Option<&T> {
        let segment = &self.segments[*self.directory.get(self.slot(hash))? as usize];
        // The first with this hash is the one, but for a collision of 64 bits: so the search need not compare names.
        let found = segment.items.find(inner(hash), |item| item.hash() == hash)?;
        if found.key() == key {
            return Some(found);
        }
        segment.items.find(inner(hash), |item| item.hash() == hash && item.key() == key)
    }

    /// Where the item of this name lies.
    #[inline]
    pub fn locate(&self, hash: u64, key: &[u8]) -> Option<Place> {
        let place = self.locate_by(hash, |_| true)?; // as in `find`
        if self.at(place)?.key() == key {
            return Some(place);
        }
        self.locate_by(hash, |item| item.key() == key)
    }

    /// Where an item lies that has this hash and is the one meant.
    #[inline]
    pub fn locate_by(&self, hash: u64, mut is_it: impl FnMut(&T) -> bool) -> Option<Place> {
        let segment = *self.directory.get(self.slot(hash))?;
        let items = &self.segments[segment as usize].items;
        let bucket = items.find_bucket_index(inner(hash), |item| item.hash() == hash && is_it(item))?;
        Some(Place { segment, bucket: bucket as u32 })
    }

    /// The item at a place that was located.
    #[inline]
    pub fn at(&self, place: Place) -> Option<&T> {
        self.segments.get(place.segment as usize)?.items.get_bucket(place.bucket as usize)
    }

    /// The item at a place that was located, to be changed in what is neither its name nor its hash.
    #[inline]
    pub fn at_mut(&mut self, place: Place) -> Option<&mut T> {
        self.segments.get_mut(place.segment as usize)?.items.get_bucket_mut(place.bucket as usize)
    }

    /// Adds an item whose name is not there.
    pub fn insert(&mut self, item: T) {
        let hash = item.hash();
        debug_assert!(self.find(hash, item.key()).is_none(), "inserted twice");
        if self.segments.is_empty() {
            self.segments.push(Segment { items: HashTable::new(), prefix: 0, depth: 0 });
            self.directory.push(0);
            self.deepest = 1;
        }
        let segment = loop {
            let slot = self.slot(hash);
            let index = self.directory[slot] as usize;
            if self.segments[index].items.len() < SEGMENT_LEN_MAX || !self.split(index) {
                break &mut self.segments[index];
            }
        };
        segment.items.insert_unique(inner(hash), item, |item| inner(item.hash()));
        self.buckets_max = self.buckets_max.max(segment.items.num_buckets() as u32);
        self.len += 1;
    }

    /// Takes out the item of this name.
    pub fn remove(&mut self, hash: u64, key: &[u8]) -> Option<T> {
        let place = self.locate(hash, key)?;
        self.remove_at(place)
    }

    /// Takes out the item at a place that was located.
    pub fn remove_at(&mut self, place: Place) -> Option<T> {
        let index = place.segment as usize;
        let segment = self.segments.get_mut(index)?;
        let (item, _) = segment.items.get_bucket_entry(place.bucket as usize).ok()?.remove();
        self.len -= 1;
        if segment.items.len() * 4 < segment.items.capacity() {
            self.join_or_shrink(index);
        }
        Some(item)
    }

    /// Any item, each as likely as any other.
    pub fn random(&self, rng: &mut Rng) -> Option<Place> {
        if self.len == 0 {
            return None;
        }
        // A bucket of all that there could be; again if it is empty. Segments are at least a few per cent full.
        let single = self.segments.len() == 1;
        let buckets = if single { self.segments[0].items.num_buckets() } else { self.buckets_max as usize };
        let all = (self.segments.len() * buckets) as u64;
        loop {
            let chosen = rng.below(all) as usize;
            let place = Place { segment: (chosen / buckets) as u32, bucket: (chosen % buckets) as u32 };
            if (chosen % buckets) < self.segments[chosen / buckets].items.num_buckets() && self.at(place).is_some() {
                return Some(place);
            }
        }
    }

    /// All items, in no order that means anything.
    pub fn iter(&self) -> impl Iterator<Item = &T> {
        self.segments.iter().flat_map(|segment| segment.items.iter())
    }

    /// The places of all items, in no order that means anything.
    pub fn places(&self) -> impl Iterator<Item = Place> {
        self.segments.iter().enumerate().flat_map(|(index, segment)| {
            let place = move |bucket| Place { segment: index as u32, bucket: bucket as u32 };
            segment.items.iter_buckets().map(place)
        })
    }

    /// Takes out some items, at most a segment of them, of a table that is given up piece by piece. `None`: that was all.
    pub fn take_some(&mut self) -> Option<impl Iterator<Item = T> + use<T>> {
        let last = self.segments.pop()?;
        self.len -= last.items.len();
        self.directory.clear(); // from now on nothing is found any more
        Some(last.items.into_iter())
    }

    /// All items, of a table that is given up.
    pub fn into_items(self) -> impl Iterator<Item = T> {
        self.segments.into_iter().flat_map(|segment| segment.items)
    }

    /// Goes on with a walk at the position `from`: visits about `count` items, at least one if there is one left, and says
    /// where to go on. `None`: that was the end.
    pub fn walk<'a>(&'a self, from: u64, count: usize, mut visit: impl FnMut(&'a T)) -> Option<u64> {
        let (mut from, mut left) = (from, count.max(1));
        let mut found: Vec<(u64, &'a T)> = Vec::new();
        while from >> POSITION_BITS == 0 {
            let slot = self.slot(from << (64 - POSITION_BITS));
            let segment = &self.segments[*self.directory.get(slot)? as usize];
            found.clear();
            let ahead = segment.items.iter().map(|item| (position(item.hash()), item));
            found.extend(ahead.filter(|(position, _)| *position >= from));
            if found.len() > left {
                let (_, &mut (last, _), _) = found.select_nth_unstable_by_key(left - 1, |(position, _)| *position);
                // Items at one position cannot be told apart by a cursor: all of them are visited together.
                found.iter().filter(|(position, _)| *position <= last).for_each(|(_, item)| visit(item));
                return Some(last + 1).filter(|next| next >> POSITION_BITS == 0);
            }
            found.iter().for_each(|(_, item)| visit(item));
            left -= found.len();
            from = (u64::from(segment.prefix) + 1) << (POSITION_BITS - segment.depth);
            if left == 0 {
                break;
            }
        }
        Some(from).filter(|next| next >> POSITION_BITS == 0)
    }

    /// Splits a full segment. False if the directory would become too sparse.
    #[cold]
    fn split(&mut self, index: usize) -> bool {
        if self.segments[index].depth == self.depth && !self.double() {
            return false;
        }
        let upper_index = self.segments.len() as u32;
        let segment = &mut self.segments[index];
        segment.depth += 1;
        let (depth, prefix) = (segment.depth, segment.prefix << 1);
        segment.prefix = prefix;
        // Both are made anew, so that neither starts with the other's tombstones.
        let mut upper = HashTable::with_capacity(SEGMENT_LEN_MAX);
        for item in std::mem::replace(&mut segment.items, HashTable::with_capacity(SEGMENT_LEN_MAX)) {
            let hash = item.hash();
            let half = if hash >> (64 - depth) & 1 == 1 { &mut upper } else { &mut segment.items };
            half.insert_unique(inner(hash), item, |item| inner(item.hash()));
        }
        self.segments.push(Segment { items: upper, prefix: prefix | 1, depth });
        if depth == self.depth {
            self.deepest += 2;
        }
        self.point(upper_index);
        true
    }

    /// Doubles the directory: each slot becomes two.
    fn double(&mut self) -> bool {
        let limit = self.segments.len() * SPARSENESS_MAX;
        if self.directory.len() >= limit || self.depth == 32 {
            return false;
        }
        self.directory = self.directory.iter().flat_map(|&segment| [segment, segment]).collect();
        self.depth += 1;
        self.deepest = 0;
        true
    }

    /// Makes the slots of segment `index` name it.
    fn point(&mut self, index: u32) {
        let segment = &self.segments[index as usize];
        let shift = self.depth - segment.depth;
        let first = (segment.prefix as usize) << shift;
        self.directory[first..first + (1 << shift)].fill(index);
    }

    /// A segment has become sparse: joins it with its buddy, or gives some of its memory back.
    #[cold]
    fn join_or_shrink(&mut self, index: usize) {
        let segment = &self.segments[index];
        let (depth, prefix, len) = (segment.depth, segment.prefix, segment.items.len());
        if depth > 0 {
            let shift = self.depth - depth;
            let buddy = self.directory[((prefix ^ 1) as usize) << shift] as usize;
            if self.segments[buddy].depth == depth && self.segments[buddy].items.len() + len <= JOIN_LEN_MAX {
                return self.join(index, buddy);
            }
        }
        let items = &mut self.segments[index].items;
        items.shrink_to(len * 2, |item| inner(item.hash()));
        if self.len == 0 {
            *self = Table::default();
        }
    }

    fn join(&mut self, one: usize, other: usize) {
        let (kept, gone) = (one.min(other), one.max(other));
        let moved = std::mem::take(&mut self.segments[gone].items);
        let segment = &mut self.segments[kept];
        let depth = segment.depth;
        segment.items.reserve(moved.len(), |item| inner(item.hash()));
        for item in moved {
            let hash = item.hash();
            segment.items.insert_unique(inner(hash), item, |item| inner(item.hash()));
        }
        segment.depth -= 1;
        segment.prefix >>= 1;
        self.segments.swap_remove(gone);
        self.point(kept as u32);
        if gone < self.segments.len() {
            self.point(gone as u32); // the last one has moved to the free place
        }
        if depth == self.depth {
            self.deepest -= 2;
            while self.deepest == 0 {
                self.halve();
            }
        }
    }

    /// Halves the directory, as no segment needs its last bit.
    fn halve(&mut self) {
        self.directory = self.directory.iter().copied().step_by(2).collect();
        self.depth -= 1;
        self.deepest = self.segments.iter().filter(|segment| segment.depth == self.depth).count() as u32;
    }

    /// Asserts what always holds.
    #[cfg(test)]
    pub fn check(&self) {
        assert_eq!(self.len, self.segments.iter().map(|segment| segment.items.len()).sum::<usize>());
        assert_eq!(self.directory.len(), if self.segments.is_empty() { 0 } else { 1 << self.depth });
        for (slot, &index) in self.directory.iter().enumerate() {
            let segment = &self.segments[index as usize];
            assert_eq!(slot as u64 >> (self.depth - segment.depth), u64::from(segment.prefix), "slot {slot}");
        }
        for segment in &self.segments {
            assert!(segment.items.num_buckets() <= self.buckets_max as usize);
            for item in &segment.items {
                assert_eq!(item.hash() >> 1 >> (63 - segment.depth), u64::from(segment.prefix));
            }
        }
        let deepest = self.segments.iter().filter(|segment| segment.depth == self.depth).count();
        assert_eq!(self.deepest as usize, deepest);
        assert!(deepest > 0 || self.segments.is_empty(), "the directory is longer than needed");
    }
}

impl<T> std::ops::Index<Place> for Table<T>
where
    T: Item,
{
    type Output = T;

    #[inline]
    fn index(&self, place: Place) -> &T {
        self.at(place).expect("a place is used before the table changes")
    }
}

impl<T> std::ops::IndexMut<Place> for Table<T>
where
    T: Item,
{
    #[inline]
    fn index_mut(&mut self, place: Place) -> &mut T {
        self.at_mut(place).expect("a place is used before the table changes")
    }
}

impl<T> std::fmt::Debug for Table<T> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Table({} items in {} segments)", self.len, self.segments.len())
    }
}

#[cfg(test)]
mod tests;
