//! An operation that is under way: what it holds, and how it ends.

use std::time::Duration;

use pdpix::block::{BlockDone, BlockOp, Geometry};
use pdpix::{BufMut, Error, Heap, OpId, Sga};

use crate::ffi;

/// As a page: enough for any device.
const ALIGN: usize = 4096;

/// What is done.
pub(crate) enum Kind {
    Read(BufMut),
    Write(Sga),
    Flush,
    Discard,
}

/// One operation.
pub(crate) struct Transfer {
    pub(crate) op: OpId,
    pub(crate) kind: Kind,
    pub(crate) lba: u64,
    pub(crate) block_count: u64,
    /// When it was first seen under way, in the time that its device was polled for.
    pub(crate) begun: Option<Duration>,
}

impl Transfer {
    /// Of an operation that was checked.
    pub(crate) fn new(op: OpId, what: BlockOp, geometry: &Geometry) -> Transfer {
        let blocks = |len: usize| len as u64 / u64::from(geometry.block_size);
        let (kind, lba, block_count) = match what {
            BlockOp::Read { lba, into } => {
                let count = blocks(into.capacity());
                (Kind::Read(into), lba, count)
            }
            BlockOp::Write { lba, from, .. } => {
                let count = blocks(from.len());
                (Kind::Write(from), lba, count)
            }
            // All of it: a device of the block layer is told a range.
            BlockOp::Flush => (Kind::Flush, 0, geometry.block_count),
            BlockOp::Discard { lba, block_count } => (Kind::Discard, lba, block_count),
        };
        Transfer { op, kind, lba, block_count, begun: None }
    }

    /// What was asked for.
    pub(crate) fn back(self) -> BlockOp {
        let (lba, block_count) = (self.lba, self.block_count);
        match self.kind {
            Kind::Read(into) => BlockOp::Read { lba, into },
            Kind::Write(from) => BlockOp::Write { lba, from, forced: false },
            Kind::Flush => BlockOp::Flush,
            Kind::Discard => BlockOp::Discard { lba, block_count },
        }
    }

    /// Its end. A read that succeeded has its bytes.
    pub(crate) fn end(self, is_good: bool) -> BlockDone {
        let read = match self.kind {
            Kind::Read(mut into) => {
                if is_good {
                    ffi::filled(&mut into);
                }
                Some(into)
            }
            _ => None,
        };
        BlockDone { op: self.op, result: if is_good { Ok(()) } else { Err(Error::Io) }, read }
    }

    /// Its end, where the device may still touch its memory: the memory stays lost, and a read gets other.
    pub(crate) fn end_and_bury(self, heap: &Heap) -> BlockDone {
        let read = match self.kind {
            Kind::Read(into) => {
                let other = heap.alloc_aligned(into.capacity(), ALIGN).ok();
                std::mem::forget(into);
                other
            }
            Kind::Write(from) => {
                std::mem::forget(from);
                None
            }
            Kind::Flush | Kind::Discard => None,
        };
        BlockDone { op: self.op, result: Err(Error::Io), read }
    }
}
