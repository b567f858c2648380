//! Extents that were never written are filled with zeros before a log gets them, one after the other, a few ahead.
//!
//! A file system keeps what a file has and nobody has written apart, and notes each first write in a journal of its own: on
//! ext4 a flush behind one takes two to three times as long, and a write is handed to a thread. So the first write is made
//! when nobody waits for it. What PostgreSQL does with the segments of its log, for the same reason.
//!
//! Only logs that are not patient get them: the others write much at once, and nobody waits.
//!
//! Always: an extent that is being filled is nobody's. Whatever goes wrong, it is given to a log as it is: its bytes do not
//! matter.

use pdpix::{BlockOp, Buf, Error, Sga};

use crate::mount::Mount;
use crate::store::Store;
use crate::transfers::Transfer;

/// So many extents are kept ready.
const READY: usize = 2;
/// The last extents are left alone: one that is being filled would be missed.
const LEFT: usize = 8;
/// Bytes of a write.
const ZEROS: u64 = 256 << 10;

/// What is being filled.
#[derive(Default)]
pub(crate) struct Preparing {
    extent: Option<u32>,
    done: u64,
    is_under_way: bool,
    zeros: Option<Buf>,
    /// It went wrong, or there is nothing to be filled.
    pub(crate) is_over: bool,
}

impl Store {
    /// What the device says that nobody has written is given to logs last.
    pub(crate) fn find_fresh(&mut self) {
        let layout = self.shared.layout;
        let unwritten = if self.io.discards { Vec::new() } else { self.io.device.unwritten() };
        let block_size = self.io.block_size;
        let is_fresh = |extent: u32| {
            let (from, to) = (layout.extent(extent), layout.extent(extent) + layout.extent_size);
            unwritten.iter().any(|blocks| blocks.start * block_size < to && from < blocks.end * block_size)
        };
        let pool = std::mem::take(&mut self.shared.pool);
        (self.shared.fresh, self.shared.pool) = pool.into_iter().partition(|&extent| is_fresh(extent));
        self.preparing.is_over = self.shared.fresh.is_empty();
    }

    /// Goes on with it, at the end of a pass.
    #[inline]
    pub(crate) fn prepare(&mut self) {
        let Preparing { extent, is_under_way, is_over, .. } = &self.preparing;
        let is_due = !is_over
            && !is_under_way
            && (extent.is_some() || self.shared.wants_ready && self.shared.pool.len() < READY);
        if is_due && self.mount == Mount::Ready {
            self.fill();
        }
    }

    #[cold]
    fn fill(&mut self) {
        if self.preparing.extent.is_none() {
            self.preparing.is_over = self.shared.fresh.len() <= LEFT || self.shared.is_frozen;
            if self.preparing.is_over {
                return;
            }
            (self.preparing.extent, self.preparing.done) = (self.shared.fresh.pop_front(), 0);
        }
        let Some(extent) = self.preparing.extent else { return };
        let len = ZEROS.min(self.shared.transfer_max).min(self.shared.layout.extent_size);
        let Some(zeros) = self.zeros(len as usize) else { return }; // there is no memory now
        let rest = self.shared.layout.extent_size - self.preparing.done;
        let from = zeros.slice(..rest.min(len) as usize);
        self.preparing.is_under_way = true;
        let (offset, len) = (self.shared.layout.extent(extent) + self.preparing.done, from.len() as u64);
        let lba = offset / self.io.block_size;
        self.io.submit(Transfer::Zeros { len }, BlockOp::Write { lba, from: Sga::from(from), forced: false });
    }

    fn zeros(&mut self, len: usize) -> Option<Buf> {
        if self.preparing.zeros.is_none() {
            let mut zeros = self.shared.heap.alloc_aligned(len, self.shared.align.max(512)).ok()?;
            zeros.resize(len, 0);
            self.preparing.zeros = Some(zeros.freeze());
        }
        self.preparing.zeros.clone()
    }

    pub(crate) fn on_zeros(&mut self, len: u64, result: Result<(), Error>) {
        let preparing = &mut self.preparing;
        (preparing.is_under_way, preparing.is_over) = (false, result.is_err());
        preparing.done += len;
        if preparing.done >= self.shared.layout.extent_size || result.is_err() {
            self.shared.pool.extend(preparing.extent.take());
            preparing.zeros = None;
        }
    }
}
