//! What SPDK is given to name an operation, and the list of those that ended.
//!
//! A slot stays at its address as long as its queue; SPDK's callbacks see it by a shared reference, and so do we: what
//! changes in it is in cells. Callbacks run within calls that we make, on the queue's one thread. They do not panic: an
//! `extern "C"` function that did would end the process.

use std::cell::{Cell, RefCell, UnsafeCell};
use std::collections::VecDeque;
use std::ffi::{c_int, c_void};
use std::rc::Rc;

use spdk_sys::{spdk_nvme_cpl, spdk_nvme_dsm_range};

use crate::transfer::{Kind, Transfer};

/// Indexes of operations that ended, and whether well.
#[derive(Default)]
pub(crate) struct Ended(RefCell<VecDeque<(usize, bool)>>);

impl Ended {
    pub(crate) fn push(&self, index: usize, is_good: bool) {
        self.0.borrow_mut().push_back((index, is_good));
    }

    pub(crate) fn pop(&self) -> Option<(usize, bool)> {
        self.0.borrow_mut().pop_front()
    }

    pub(crate) fn len(&self) -> usize {
        self.0.borrow().len()
    }

    /// All of them.
    pub(crate) fn take(&self) -> Ended {
        Ended(RefCell::new(self.0.take()))
    }

    pub(crate) fn holds(&self, index: usize) -> bool {
        self.0.borrow().iter().any(|(ended, _)| *ended == index)
    }
}

/// One operation, as SPDK sees it.
pub(super) struct Slot {
    ended: Rc<Ended>,
    index: usize,
    /// Where its bytes lie. Written before the operation is submitted, and read until it ends.
    segments: UnsafeCell<Vec<libc::iovec>>,
    /// The segment that comes next, and how far into it.
    at: Cell<(usize, usize)>,
    /// What is deallocated.
    ranges: UnsafeCell<Vec<spdk_nvme_dsm_range>>,
}

/// They stay where they are.
pub(super) struct Slots(Box<[Slot]>);

impl Slots {
    pub(super) fn new(count: usize, ended: &Rc<Ended>) -> Slots {
        let slot = |index| Slot {
            ended: ended.clone(),
            index,
            segments: UnsafeCell::default(),
            at: Cell::new((0, 0)),
            ranges: UnsafeCell::default(),
        };
        Slots((0..count).map(slot).collect())
    }

    pub(super) fn len(&self) -> usize {
        self.0.len()
    }

    pub(super) fn slot(&self, index: usize) -> &Slot {
        &self.0[index]
    }
}

impl Slot {
    pub(super) fn argument(&self) -> *mut c_void {
        std::ptr::from_ref(self).cast_mut().cast()
    }

    /// Where a transfer's bytes lie; it holds them until its end was taken.
    ///
    /// # Safety
    /// No operation of this slot is under way.
    #[allow(clippy::mut_from_ref, reason = "of a cell; nobody else has it while no operation is under way")]
    pub(super) unsafe fn fill(&self, transfer: &mut Transfer) -> &mut [libc::iovec] {
        // SAFETY: nobody else has it: no operation is under way (the caller's word), and we are in one call at a time.
        let segments = unsafe { &mut *self.segments.get() };
        segments.clear();
        self.at.set((0, 0));
        let segment = |base: *mut u8, len| libc::iovec { iov_base: base.cast(), iov_len: len };
        match &mut transfer.kind {
            Kind::Read(into) => {
                let spare = into.spare();
                segments.push(segment(spare.as_mut_ptr().cast(), spare.len()));
            }
            Kind::Write(from) => {
                segments.extend(from.segments().iter().map(|it| segment(it.as_ptr().cast_mut(), it.len())))
            }
            Kind::Flush | Kind::Discard => {}
        }
        segments
    }

    /// A list of one piece of memory.
    ///
    /// # Safety
    /// As [`fill`](Slot::fill).
    pub(super) unsafe fn one(&self, base: *mut u8, len: usize) -> *mut libc::iovec {
        // SAFETY: as in `fill`.
        let segments = unsafe { &mut *self.segments.get() };
        segments.clear();
        segments.push(libc::iovec { iov_base: base.cast(), iov_len: len });
        segments.as_mut_ptr()
    }

    /// What is deallocated, in ranges of 32 bits.
    ///
    /// # Safety
    /// As [`fill`](Slot::fill).
    pub(super) unsafe fn fill_ranges(&self, mut lba: u64, mut block_count: u64) -> &[spdk_nvme_dsm_range] {
        // SAFETY: as in `fill`.
        let ranges = unsafe { &mut *self.ranges.get() };
        ranges.clear();
        while block_count > 0 {
            let length = block_count.min(u64::from(u32::MAX));
            ranges.push(spdk_nvme_dsm_range { attributes: 0, length: length as u32, starting_lba: lba });
            (lba, block_count) = (lba + length, block_count - length);
        }
        ranges
    }
}

/// The slot that an argument of a callback is.
///
/// # Safety
/// It came from [`Slot::argument`], of a queue that is not dropped: queues are freed before their slots are.
unsafe fn slot<'a>(argument: *mut c_void) -> &'a Slot {
    // SAFETY: the caller's word.
    unsafe { &*argument.cast_const().cast::<Slot>() }
}

pub(super) unsafe extern "C" fn on_nvme_end(argument: *mut c_void, completion: *const spdk_nvme_cpl) {
    // SAFETY: SPDK gives what we gave, once, and a completion.
    let (slot, completion) = unsafe { (slot(argument), &*completion) };
    slot.ended.push(slot.index, !completion.is_error());
}

pub(super) fn on_bdev_end(argument: *mut c_void, is_good: bool) {
    // SAFETY: as above.
    let slot = unsafe { slot(argument) };
    slot.ended.push(slot.index, is_good);
}

/// Begins the list again, so many bytes from its start.
pub(super) unsafe extern "C" fn reset_segments(argument: *mut c_void, offset: u32) {
    // SAFETY: SPDK gives what we gave; the segments do not change while it asks.
    let (slot, segments) = unsafe { (slot(argument), &*slot(argument).segments.get()) };
    let mut offset = offset as usize;
    for (index, segment) in segments.iter().enumerate() {
        if offset < segment.iov_len {
            return slot.at.set((index, offset));
        }
        offset -= segment.iov_len;
    }
    slot.at.set((segments.len(), 0));
}

/// The next segment, or the rest of it.
pub(super) unsafe extern "C" fn next_segment(
    argument: *mut c_void,
    address: *mut *mut c_void,
    length: *mut u32,
) -> c_int {
    // SAFETY: as above.
    let (slot, segments) = unsafe { (slot(argument), &*slot(argument).segments.get()) };
    let (index, offset) = slot.at.get();
    let Some(segment) = segments.get(index) else { return -libc::EINVAL };
    slot.at.set((index + 1, 0));
    // SAFETY: SPDK's variables.
    unsafe {
        *address = segment.iov_base.cast::<u8>().wrapping_add(offset).cast();
        *length = (segment.iov_len - offset) as u32;
    }
    0
}
