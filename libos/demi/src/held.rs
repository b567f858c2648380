//! The buffers that the program holds: those of `demi_sgaalloc` and of pops, by name, and those of `demi_malloc`, by
//! address.
//!
//! Always: a buffer is counted here once while the program holds it, so a device or a push that still needs it keeps it
//! alive when it is freed. A name (`sga_buf`) is the thread's number, a generation and an index, and no address: a wild
//! one, one that was freed, and one of another thread are refused. Each place has the name of its buffer, so that one
//! comparison tells. Index 0 is the empty buffer, which an end of stream has; it may be freed and costs nothing.

use std::collections::BTreeMap;
use std::ffi::c_void;
use std::sync::atomic::{AtomicU64, Ordering};

use pdpix::{Buf, Endpoint};

use crate::abi::{NO_ADDRESS, SgArray, SgaSeg};
use crate::errno::Errno;

const INDEX_BITS: u32 = 24;
const THREAD_BITS: u32 = 15;
const INDEX_MASK: u64 = (1 << INDEX_BITS) - 1;
/// Counted above index and thread, in 24 bits.
const GENERATION: u64 = 1 << (INDEX_BITS + THREAD_BITS);
/// No name has this bit: a generation that gets here begins anew.
const IS_FREE: u64 = 1 << 63;
const NIL: u32 = 0;

struct Slot {
    buf: Option<Buf>,
    /// The name of `buf`. Of a free place: that of the next buffer that it will have, with `IS_FREE`, and for its own index
    /// that of the next free place; so no index leads to a place of the same name that is free.
    name: u64,
}

/// See the module's head.
pub(crate) struct Held {
    /// The thread's number, in its place in a name.
    thread: u64,
    /// The first is never used.
    slots: Vec<Slot>,
    free: u32,
    allocations: BTreeMap<usize, Buf>,
    /// Who sent a datagram, by its buffer's name, where an array has no room for that.
    senders: BTreeMap<usize, Endpoint>,
}

static THREADS: AtomicU64 = AtomicU64::new(0);

fn array(sga_buf: *mut c_void, buf: *mut c_void, len: u32) -> SgArray {
    SgArray { sga_buf, numsegs: 1, segs: [SgaSeg { buf, len }], addr: NO_ADDRESS }
}

/// A place that is free.
pub(crate) struct Room<'a> {
    index: u32,
    slot: &'a mut Slot,
    free: &'a mut u32,
}

impl Room<'_> {
    /// The program holds `buf` from now on, under this name.
    #[inline(always)]
    pub(crate) fn take(self, buf: Buf) -> *mut c_void {
        let Room { index, slot, free } = self;
        let next = slot.name & INDEX_MASK;
        *free = next as u32;
        slot.name = (slot.name ^ IS_FREE ^ next) | u64::from(index);
        // Nothing is there that would have to be dropped.
        std::mem::forget(slot.buf.replace(buf));
        std::ptr::without_provenance_mut(slot.name as usize)
    }
}

/// Where the segment of an empty array is.
static NOTHING: u8 = 0;

impl Held {
    pub(crate) fn new() -> Held {
        // Numbers come again after 2^15 threads; a name of the first is unlikely to be around by then.
        let number = THREADS.fetch_add(1, Ordering::Relaxed) % ((1 << THREAD_BITS) - 1) + 1;
        let thread = number << INDEX_BITS;
        let never = Slot { buf: None, name: u64::MAX };
        Held { thread, slots: vec![never], free: NIL, allocations: BTreeMap::new(), senders: BTreeMap::new() }
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
        match self.room() {
            Some(room) => Ok(room.take(buf)),
            None => Err(buf),
        }
    }

    /// Whether so many more can be held for sure.
    pub(crate) fn has_room_for(&self, count: usize) -> bool {
        (self.slots.len() + count) as u64 <= INDEX_MASK
    }

    /// A place for a buffer, without making one.
    #[inline(always)]
    pub(crate) fn room(&mut self) -> Option<Room<'_>> {
        if self.free == NIL {
            return None;
        }
        Some(Room { index: self.free, slot: self.slots.get_mut(self.free as usize)?, free: &mut self.free })
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
        self.slots.push(Slot { buf: None, name: IS_FREE | self.thread });
        self.free = index as u32;
        true
    }

    /// The buffer that a name means.
    #[inline(always)]
    fn named(&self, name: *mut c_void) -> Option<&Buf> {
        let name = name as u64;
        let slot = self.slots.get((name & INDEX_MASK) as usize)?;
        if slot.name == name { slot.buf.as_ref() } else { None }
    }

    /// The program gives a buffer back.
    ///
    /// # Errors
    /// EINVAL: it does not hold it.
    #[inline(always)]
    pub(crate) fn release(&mut self, name: *mut c_void) -> Result<(), Errno> {
        let named = name as u64;
        let index = named & INDEX_MASK;
        let Some(slot) = self.slots.get_mut(index as usize) else { return Err(Errno::INVALID) };
        if slot.name != named {
            return if named == self.thread { Ok(()) } else { Err(Errno::INVALID) };
        }
        slot.name = (named - index + u64::from(self.free) + GENERATION) | IS_FREE;
        self.free = index as u32;
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
        if let Some(whole) = self.named(name)
            && (at, len) == (whole.as_ptr() as usize, whole.len())
            && len > 0
        {
            return Ok(whole.clone());
        }
        self.some_part(name, at, len)
    }

    /// The same of what is not a whole buffer, or is to be refused.
    #[inline(never)]
    fn some_part(&self, name: *mut c_void, at: usize, len: usize) -> Result<Buf, Errno> {
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
        part.advance(offset);
        part.truncate(len);
        Ok(part)
    }

    /// The memory of `demi_malloc` that is at an address, if any is.
    #[cold]
    fn allocation(&self, at: usize) -> Option<&Buf> {
        self.allocations.range(..=at).next_back().map(|(_, buf)| buf)
    }

    /// How many buffers the program holds, for tests.
    pub(crate) fn count(&self) -> usize {
        self.slots.iter().filter(|slot| slot.buf.is_some()).count() + self.allocations.len()
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
    fn generations_begin_anew() {
        let (mut held, heap) = held();
        let first = hold(&mut held, &heap, b"first").sga_buf;
        assert_eq!(held.release(first), Ok(()));
        held.slots[1].name |= IS_FREE - GENERATION; // its last generation
        let last = hold(&mut held, &heap, b"last").sga_buf;
        assert_eq!(last as u64 & (IS_FREE - GENERATION), IS_FREE - GENERATION);
        assert_eq!(held.release(last), Ok(()));
        let again = hold(&mut held, &heap, b"again");
        assert_eq!({ again.sga_buf }, first, "the first generation of the same place and thread");
        assert_eq!(&held.part(again.sga_buf, again.segs[0]).unwrap()[..], b"again");
        assert_eq!((held.release(last), held.release(first)), (Err(Errno::INVALID), Ok(())));
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
        let free = hold(&mut held, &heap, b"freed");
        assert_eq!(held.release(free.sga_buf), Ok(()));
        for name in held.slots.iter().map(|slot| slot.name).filter(|name| name & IS_FREE != 0).collect::<Vec<_>>() {
            assert_eq!(held.release(std::ptr::without_provenance_mut(name as usize)), Err(Errno::INVALID), "{name:x}");
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
