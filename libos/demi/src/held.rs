//! The buffers that the program holds: those of `demi_sgaalloc` and of pops, by name, and those of `demi_malloc`, by
//! address.
//!
//! Always: a buffer is counted here once while the program holds it, so a device or a push that still needs it keeps it
//! alive when it is freed. A name (`sga_buf`) is the thread's number, a generation and an index, and no address: a wild
//! one, one that was freed, and one of another thread are refused. Index 0 is the empty buffer, which an end of stream
//! has; it may be freed and costs nothing.

use std::collections::BTreeMap;
use std::ffi::c_void;
use std::sync::atomic::{AtomicU64, Ordering};

use pdpix::{Buf, Endpoint};

use crate::abi::{NO_ADDRESS, SgArray, SgaSeg};
use crate::errno::Errno;

const INDEX_BITS: u32 = 24;
const GENERATION_BITS: u32 = 24;
const INDEX_MASK: u64 = (1 << INDEX_BITS) - 1;
const GENERATION_MASK: u32 = (1 << GENERATION_BITS) - 1;
const NIL: u32 = 0;

struct Slot {
    buf: Option<Buf>,
    generation: u32,
    /// Of a free slot: the next one.
    next: u32,
}

/// See the module's head.
pub(crate) struct Held {
    /// The thread's number, in its place in a name.
    thread: u64,
    /// The first is never used.
    slots: Vec<Slot>,
    free: u32,
    used: usize,
    allocations: BTreeMap<usize, Buf>,
    /// Who sent a datagram, by its buffer's name, where an array has no room for that.
    senders: BTreeMap<usize, Endpoint>,
}

static THREADS: AtomicU64 = AtomicU64::new(0);

fn array(sga_buf: *mut c_void, buf: *mut c_void, len: u32) -> SgArray {
    SgArray { sga_buf, numsegs: 1, segs: [SgaSeg { buf, len }], addr: NO_ADDRESS }
}

/// Where the segment of an empty array is.
static NOTHING: u8 = 0;

impl Held {
    pub(crate) fn new() -> Held {
        // Numbers come again after 2^15 threads; a name of the first is unlikely to be around by then.
        let number = THREADS.fetch_add(1, Ordering::Relaxed) % (1 << 15) + 1;
        let never = Slot { buf: None, generation: 0, next: NIL };
        let slots = vec![never];
        Held { thread: number << 48, slots, free: NIL, used: 0, allocations: BTreeMap::new(), senders: BTreeMap::new() }
    }

    /// The program holds `buf` from now on, under this name.
    ///
    /// # Errors
    /// The buffer back: it holds too many.
    #[inline(always)]
    pub(crate) fn take(&mut self, buf: Buf) -> Result<*mut c_void, Buf> {
        if self.free == NIL && !self.grow() {
            return Err(buf);
        }
        let index = self.free;
        let slot = &mut self.slots[index as usize];
        self.free = slot.next;
        slot.buf = Some(buf);
        self.used += 1;
        let name = u64::from(slot.generation) << INDEX_BITS | u64::from(index);
        Ok(std::ptr::without_provenance_mut((self.thread | name) as usize))
    }

    /// The array of the end of a stream.
    pub(crate) fn empty(&self) -> SgArray {
        array(std::ptr::without_provenance_mut(self.thread as usize), (&raw const NOTHING).cast_mut().cast(), 0)
    }

    #[cold]
    fn grow(&mut self) -> bool {
        let index = self.slots.len() as u64;
        if index > INDEX_MASK {
            return false;
        }
        self.slots.push(Slot { buf: None, generation: 0, next: NIL });
        self.free = index as u32;
        true
    }

    /// Whether another buffer has a place, without making one.
    #[inline(always)]
    pub(crate) fn has_room(&self) -> bool {
        self.free != NIL
    }

    /// The buffer that a name means.
    #[inline(always)]
    fn named(&self, name: *mut c_void) -> Option<&Buf> {
        let name = name as u64 ^ self.thread;
        let slot = self.slots.get((name & INDEX_MASK) as usize)?;
        slot.buf.as_ref().filter(|_| u64::from(slot.generation) == name >> INDEX_BITS)
    }

    /// The program gives a buffer back.
    ///
    /// # Errors
    /// EINVAL: it does not hold it.
    #[inline(always)]
    pub(crate) fn release(&mut self, name: *mut c_void) -> Result<(), Errno> {
        let within = name as u64 ^ self.thread;
        let index = within & INDEX_MASK;
        let Some(slot) = self.slots.get_mut(index as usize) else { return Err(Errno::INVALID) };
        if u64::from(slot.generation) != within >> INDEX_BITS || slot.buf.is_none() {
            return if within == 0 { Ok(()) } else { Err(Errno::INVALID) };
        }
        slot.generation = (slot.generation + 1) & GENERATION_MASK;
        slot.next = self.free;
        self.free = index as u32;
        self.used -= 1;
        slot.buf = None;
        if !self.senders.is_empty() {
            self.forget_sender(name);
        }
        Ok(())
    }

    #[cold]
    fn forget_sender(&mut self, name: *mut c_void) {
        self.senders.remove(&(name as usize));
    }

    /// Remembers who sent the datagram of this name, until it is freed.
    #[cold]
    pub(crate) fn set_sender(&mut self, name: *mut c_void, from: Endpoint) {
        self.senders.insert(name as usize, from);
    }

    /// Who did.
    pub(crate) fn sender(&self, name: *mut c_void) -> Option<Endpoint> {
        self.senders.get(&(name as usize)).copied()
    }

    /// The program has `buf`, which begins at `at`, as memory of `demi_malloc`.
    pub(crate) fn allocate(&mut self, buf: Buf, at: *mut c_void) {
        self.allocations.insert(at as usize, buf);
    }

    /// It gives it back.
    ///
    /// # Errors
    /// EINVAL: there is no such allocation.
    pub(crate) fn free(&mut self, at: *mut c_void) -> Result<(), Errno> {
        self.allocations.remove(&(at as usize)).map(drop).ok_or(Errno::INVALID)
    }

    /// What a segment shows, of the buffer of this name or, without one, of memory of `demi_malloc`.
    ///
    /// # Errors
    /// EINVAL: there is no such buffer, or nothing in the segment. EFAULT: it is outside.
    #[inline(always)]
    pub(crate) fn part(&self, name: *mut c_void, seg: SgaSeg) -> Result<Buf, Errno> {
        let (at, len) = (seg.buf as usize, seg.len as usize);
        if at == 0 || len == 0 {
            return Err(Errno::INVALID);
        }
        let whole = if name.is_null() {
            self.allocation(at).ok_or(Errno::FAULT)?
        } else {
            self.named(name).ok_or(Errno::INVALID)?
        };
        let offset = at.checked_sub(whole.as_ptr() as usize).ok_or(Errno::FAULT)?;
        if offset + len > whole.len() {
            return Err(Errno::FAULT);
        }
        let mut part = whole.clone();
        if len != part.len() {
            part.advance(offset);
            part.truncate(len);
        }
        Ok(part)
    }

    /// The memory of `demi_malloc` that is at an address, if any is.
    #[cold]
    fn allocation(&self, at: usize) -> Option<&Buf> {
        self.allocations.range(..=at).next_back().map(|(_, buf)| buf)
    }

    /// How many buffers the program holds.
    pub(crate) fn count(&self) -> usize {
        self.used + self.allocations.len()
    }

    /// The thread ends. What the program still holds stays where it is: others may be reading it.
    pub(crate) fn abandon(self) {
        let slots = self.slots.into_iter().filter_map(|slot| slot.buf);
        slots.chain(self.allocations.into_values()).for_each(std::mem::forget);
    }
}

#[cfg(test)]
mod tests {
    use libos_mem::Heap;

    use super::*;

    fn held() -> (Held, Heap) {
        (Held::new(), Heap::alone(4 << 20).unwrap())
    }

    fn hold(held: &mut Held, heap: &Heap, bytes: &[u8]) -> SgArray {
        let buf = heap.copy(bytes).unwrap();
        let at = buf.as_ptr().cast_mut().cast();
        let len = buf.len() as u32;
        array(held.take(buf).unwrap(), at, len)
    }

    #[test]
    fn a_name_is_good_until_it_is_freed_once() {
        let (mut held, heap) = held();
        let (one, other) = (hold(&mut held, &heap, b"one"), hold(&mut held, &heap, b"other"));
        assert_eq!(held.release(one.sga_buf), Ok(()));
        assert_eq!(held.release(one.sga_buf), Err(Errno::INVALID), "freed already");
        let next = hold(&mut held, &heap, b"next");
        assert_eq!(held.release(one.sga_buf), Err(Errno::INVALID), "its place is another's");
        assert_eq!(&held.part(next.sga_buf, next.segs[0]).unwrap()[..], b"next");
        assert_eq!((held.release(next.sga_buf), held.release(other.sga_buf)), (Ok(()), Ok(())));
        assert_eq!((held.count(), heap.stats().pinned), (0, 0));
    }

    #[test]
    fn wild_and_foreign_names_are_refused() {
        let (mut held, heap) = held();
        let mut theirs = Held::new();
        let foreign = hold(&mut theirs, &heap, b"theirs");
        let _own = hold(&mut held, &heap, b"own");
        for wild in [0_usize, 1, 0x1234_5678, usize::MAX, foreign.sga_buf as usize] {
            assert_eq!(held.release(std::ptr::without_provenance_mut(wild)), Err(Errno::INVALID), "{wild:x}");
        }
        assert_eq!(held.count(), 1);
        let empty = held.empty();
        assert_eq!((held.release(empty.sga_buf), { empty.segs[0] }.len), (Ok(()), 0));
    }

    #[test]
    fn a_segment_lies_inside_of_its_buffer() {
        let (mut held, heap) = held();
        let sga = hold(&mut held, &heap, b"0123456789");
        let seg = |offset: usize, len: u32| SgaSeg { buf: { sga.segs[0] }.buf.wrapping_byte_add(offset), len };
        assert_eq!(&held.part(sga.sga_buf, seg(3, 4)).unwrap()[..], b"3456");
        for (offset, len) in [(3, 8), (11, 1), (usize::MAX, 2), (0, u32::MAX)] {
            assert_eq!(held.part(sga.sga_buf, seg(offset, len)).unwrap_err(), Errno::FAULT, "{offset} {len}");
        }
        assert_eq!(held.part(sga.sga_buf, seg(0, 0)).unwrap_err(), Errno::INVALID);
        let none = std::ptr::null_mut();
        assert_eq!(held.part(none, seg(0, 10)).unwrap_err(), Errno::FAULT, "not of demi_malloc");
        let buf = heap.copy(b"abcdef").unwrap();
        let at: *mut c_void = buf.as_ptr().cast_mut().cast();
        held.allocate(buf, at);
        let inside = SgaSeg { buf: at.wrapping_byte_add(2), len: 3 };
        assert_eq!(&held.part(none, inside).unwrap()[..], b"cde");
        assert_eq!(held.part(none, SgaSeg { len: 5, ..inside }).unwrap_err(), Errno::FAULT);
        assert_eq!(held.free(at.wrapping_byte_add(1)), Err(Errno::INVALID));
        assert_eq!((held.free(at), held.free(at)), (Ok(()), Err(Errno::INVALID)));
    }
}
