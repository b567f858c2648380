//! The four rings of an AF_XDP socket: memory shared with the kernel, one writer and one reader each
//! (Documentation/networking/af_xdp.rst).
//!
//! Always: an index of the kernel's is read once, and checked: a ring never holds more than its size. Entries are written
//! before our index is published (release), and read after the kernel's was seen (acquire). What an entry says is checked
//! by whoever takes it.

use std::ptr::NonNull;
use std::sync::atomic::{AtomicU32, Ordering};

use super::mapping::Mapping;

/// What both kinds of ring have.
struct Ring<T> {
    producer: NonNull<u32>,
    consumer: NonNull<u32>,
    flags: NonNull<u32>,
    entries: NonNull<T>,
    /// A power of two.
    size: u32,
    /// Keeps the addresses valid.
    _mapping: Mapping,
}

impl<T: Copy> Ring<T> {
    /// # Panics
    /// If the offsets do not lie in the mapping.
    fn new(mapping: Mapping, offsets: &libc::xdp_ring_offset, size: u32) -> Ring<T> {
        assert!(size.is_power_of_two(), "a ring of {size} entries");
        Ring {
            producer: mapping.at(offsets.producer as usize, 1),
            consumer: mapping.at(offsets.consumer as usize, 1),
            flags: mapping.at(offsets.flags as usize, 1),
            entries: mapping.at(offsets.desc as usize, size as usize),
            size,
            _mapping: mapping,
        }
    }

    fn word(&self, at: NonNull<u32>) -> &AtomicU32 {
        // SAFETY: `at` is one of the three words of this ring: aligned and inside the mapping, which lives as long as
        // `self`. The kernel accesses them as words, and we as atomics only.
        unsafe { AtomicU32::from_ptr(at.as_ptr()) }
    }

    fn entry(&self, index: u32) -> NonNull<T> {
        // SAFETY: the mask keeps it below `size`, and so many entries lie inside the mapping.
        unsafe { self.entries.add((index & (self.size - 1)) as usize) }
    }
}

/// A ring that we write: what to fill, what to send.
pub(crate) struct ProducerRing<T> {
    ring: Ring<T>,
    /// Where the next entry goes.
    head: u32,
    /// What the kernel can see.
    published: u32,
}

impl<T: Copy> ProducerRing<T> {
    pub(crate) fn new(mapping: Mapping, offsets: &libc::xdp_ring_offset, size: u32) -> ProducerRing<T> {
        ProducerRing { ring: Ring::new(mapping, offsets, size), head: 0, published: 0 }
    }

    /// Entries that the kernel has not taken yet, those not published included. Nonsense counts as a full ring.
    pub(crate) fn waiting(&self) -> u32 {
        // Acquire: the kernel has read an entry before it lets us overwrite it.
        let consumer = self.ring.word(self.ring.consumer).load(Ordering::Acquire);
        self.head.wrapping_sub(consumer).min(self.ring.size)
    }

    /// Entries that can be written.
    pub(crate) fn room(&self) -> u32 {
        self.ring.size - self.waiting()
    }

    /// Writes an entry. The kernel sees it after [`ProducerRing::publish`].
    ///
    /// # Panics
    /// If there is no room.
    pub(crate) fn write(&mut self, entry: T) {
        debug_assert!(self.room() > 0, "an entry without room for it");
        // SAFETY: an entry inside the mapping, which the kernel does not read before the index passes it.
        unsafe { self.ring.entry(self.head).write(entry) };
        self.head = self.head.wrapping_add(1);
    }

    /// Lets the kernel see what was written. Says whether there was something.
    pub(crate) fn publish(&mut self) -> bool {
        let has_new = self.head != self.published;
        if has_new {
            // Release: the entries are written before.
            self.ring.word(self.ring.producer).store(self.head, Ordering::Release);
            self.published = self.head;
        }
        has_new
    }

    /// Whether the kernel wants a call to look at the ring.
    pub(crate) fn wants_wakeup(&self) -> bool {
        self.ring.word(self.ring.flags).load(Ordering::Relaxed) & libc::XDP_RING_NEED_WAKEUP != 0
    }
}

/// A ring that we read: what was received, what was sent.
pub(crate) struct ConsumerRing<T> {
    ring: Ring<T>,
    /// The next entry to be read.
    tail: u32,
    /// Entries that are known to be there.
    known: u32,
    /// What the kernel may overwrite.
    released: u32,
}

impl<T: Copy> ConsumerRing<T> {
    pub(crate) fn new(mapping: Mapping, offsets: &libc::xdp_ring_offset, size: u32) -> ConsumerRing<T> {
        ConsumerRing { ring: Ring::new(mapping, offsets, size), tail: 0, known: 0, released: 0 }
    }

    /// The next entry, if there is one. The kernel may overwrite it after [`ConsumerRing::release`].
    #[inline]
    pub(crate) fn read(&mut self) -> Option<T> {
        if self.known == 0 {
            // Acquire: the entries were written before.
            let producer = self.ring.word(self.ring.producer).load(Ordering::Acquire);
            let count = producer.wrapping_sub(self.tail);
            if count == 0 || count > self.ring.size {
                return None; // nothing, or nonsense
            }
            self.known = count;
        }
        // SAFETY: an entry inside the mapping, which the kernel has written and does not touch before we release it.
        // Any bytes are a `T`: integers.
        let entry = unsafe { self.ring.entry(self.tail).read() };
        self.tail = self.tail.wrapping_add(1);
        self.known -= 1;
        Some(entry)
    }

    /// Gives what was read back to the kernel.
    pub(crate) fn release(&mut self) {
        if self.tail != self.released {
            // Release: after our reads.
            self.ring.word(self.ring.consumer).store(self.tail, Ordering::Release);
            self.released = self.tail;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const OFFSETS: libc::xdp_ring_offset = libc::xdp_ring_offset { producer: 0, consumer: 64, desc: 128, flags: 68 };
    const SIZE: u32 = 8;

    /// Our side's mapping, and the kernel's of the same memory.
    fn mappings() -> (Mapping, Mapping) {
        let file = rustix::fs::memfd_create("ring", rustix::fs::MemfdFlags::CLOEXEC).unwrap();
        rustix::fs::ftruncate(&file, 4096).unwrap();
        (Mapping::new(&file, 4096, 0).unwrap(), Mapping::new(&file, 4096, 0).unwrap())
    }

    fn set(kernel: &Mapping, offset: u64, value: u32) {
        // SAFETY: aligned and inside the mapping; accessed as an atomic by both sides.
        unsafe { AtomicU32::from_ptr(kernel.at::<u32>(offset as usize, 1).as_ptr()) }.store(value, Ordering::Release);
    }

    #[test]
    fn what_is_written_is_seen_after_it_is_published_and_wraps() {
        let (ours, kernel) = mappings();
        let mut ring = ProducerRing::<u64>::new(ours, &OFFSETS, SIZE);
        for round in 0..100_u32 {
            assert_eq!(ring.room(), SIZE);
            (0..SIZE).for_each(|i| ring.write(u64::from(round * SIZE + i)));
            assert_eq!((ring.room(), ring.waiting()), (0, SIZE));
            assert!(ring.publish() && !ring.publish());
            for i in 0..SIZE {
                // SAFETY: an entry inside the mapping, which the ring does not write before it is consumed.
                let entry = unsafe { kernel.at::<u64>(128 + 8 * i as usize, 1).read() };
                assert_eq!(entry, u64::from(round * SIZE + i));
            }
            set(&kernel, OFFSETS.consumer, (round + 1) * SIZE);
        }
    }

    #[test]
    fn indexes_that_make_no_sense_are_a_full_or_an_empty_ring() {
        let (ours, kernel) = mappings();
        let mut producer = ProducerRing::<u64>::new(ours, &OFFSETS, SIZE);
        producer.write(1);
        for nonsense in [2, SIZE, u32::MAX / 2, u32::MAX - SIZE] {
            set(&kernel, OFFSETS.consumer, nonsense);
            assert_eq!((producer.room(), producer.waiting()), (0, SIZE), "{nonsense}");
        }
        let (ours, kernel) = mappings();
        let mut consumer = ConsumerRing::<u64>::new(ours, &OFFSETS, SIZE);
        for nonsense in [SIZE + 1, u32::MAX / 2, u32::MAX] {
            set(&kernel, OFFSETS.producer, nonsense);
            assert_eq!(consumer.read(), None, "{nonsense}");
        }
        set(&kernel, OFFSETS.producer, SIZE);
        assert_eq!((0..=SIZE).filter_map(|_| consumer.read()).count(), SIZE as usize);
    }

    #[test]
    fn the_kernel_says_whether_it_wants_a_call() {
        let (ours, kernel) = mappings();
        let ring = ProducerRing::<u64>::new(ours, &OFFSETS, SIZE);
        assert!(!ring.wants_wakeup());
        set(&kernel, OFFSETS.flags, libc::XDP_RING_NEED_WAKEUP);
        assert!(ring.wants_wakeup());
    }
}
