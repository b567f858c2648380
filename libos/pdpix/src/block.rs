//! The contract of a block device: what a log is written to. docs/contract.md §4 has the reasons.
//!
//! There is no cancel: no device can be relied on to forget an operation. There is no order between operations in
//! flight; `Flush` covers the writes whose `Done` came before it was submitted.

use std::ops::Range;

use libos_mem::BufMut;

use crate::error::Error;
use crate::network::{OpId, Wake};
use crate::sga::Sga;
use crate::time::Instant;

/// What a device is like.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Geometry {
    /// Bytes in a block: the unit of `lba` and of lengths.
    pub block_size: u32,
    /// Blocks on the device.
    pub block_count: u64,
    /// Blocks that are written all or not at all when power fails. At least one.
    pub write_unit: u32,
    /// The longest transfer, in blocks.
    pub transfer_max: u32,
    /// Buffers must start at a multiple of this.
    pub align: u32,
    /// How many segments of any length and alignment a write may have; 1: one aligned buffer.
    pub gathers: u16,
    /// Writes are durable only after a flush.
    pub volatile_cache: bool,
    /// A write may be forced, for no more than what it and a flush behind it cost.
    pub forces: bool,
    /// `Discard` frees space.
    pub discards: bool,
}

impl Geometry {
    /// Bytes on the device.
    pub fn size(&self) -> u64 {
        self.block_count * u64::from(self.block_size)
    }

    /// Whether an operation is one for this device: what each device asks before it does anything.
    ///
    /// # Errors
    /// `InvalidArgument`: nothing at all or no whole blocks, outside the device, longer than a transfer can be, a buffer
    /// that is not aligned or a read's that is not empty, more segments than the device gathers. `NotSupported`: a write is
    /// forced, and the device cannot do that.
    pub fn check(&self, op: &BlockOp) -> Result<(), Error> {
        if matches!(op, BlockOp::Write { forced: true, .. }) && !self.forces {
            return Err(Error::NotSupported);
        }
        let fits = match op {
            BlockOp::Flush => true,
            BlockOp::Discard { lba, block_count } => *block_count > 0 && self.holds(*lba, *block_count),
            BlockOp::Read { lba, into } => {
                into.is_empty() && self.is_aligned(into.as_ptr()) && self.is_transfer(*lba, into.capacity())
            }
            BlockOp::Write { lba, from, .. } => {
                let segments = from.segments();
                segments.len() <= usize::from(self.gathers.max(1))
                    && (self.gathers > 1 || segments.iter().all(|segment| self.is_aligned(segment.as_ptr())))
                    && self.is_transfer(*lba, from.len())
            }
        };
        if fits { Ok(()) } else { Err(Error::InvalidArgument) }
    }

    fn is_aligned(&self, at: *const u8) -> bool {
        (at as usize).is_multiple_of(self.align.max(1) as usize)
    }

    fn is_transfer(&self, lba: u64, len: usize) -> bool {
        let block_size = self.block_size as usize;
        let block_count = (len / block_size) as u64;
        len.is_multiple_of(block_size)
            && (1..=u64::from(self.transfer_max)).contains(&block_count)
            && self.holds(lba, block_count)
    }

    fn holds(&self, lba: u64, block_count: u64) -> bool {
        lba.checked_add(block_count).is_some_and(|end| end <= self.block_count)
    }
}

/// An operation on a device.
#[derive(Debug)]
pub enum BlockOp {
    /// Fills `into`, which is empty, to its capacity, a whole number of blocks.
    Read {
        /// First block.
        lba: u64,
        /// Given back by the `Done`, whatever came of it.
        into: BufMut,
    },
    /// Writes a whole number of blocks.
    Write {
        /// First block.
        lba: u64,
        /// The device's until it can no longer read it.
        from: Sga,
        /// It is durable when it is done, and says nothing of other writes. One that fails may have failed as a flush does:
        /// of the writes that no flush has covered, any part may be lost.
        forced: bool,
    },
    /// Makes earlier writes durable.
    Flush,
    /// Says that nobody needs these blocks.
    Discard {
        /// First block.
        lba: u64,
        /// How many.
        block_count: u64,
    },
}

/// The end of an operation on a device.
#[derive(Debug)]
pub struct BlockDone {
    /// Which.
    pub op: OpId,
    /// What came of it.
    pub result: Result<(), Error>,
    /// A read's memory.
    pub read: Option<BufMut>,
}

/// A device under one `LibOs`. Dropping it waits until no transfer is under way.
pub trait BlockDevice {
    /// What it is like. Does not change.
    fn geometry(&self) -> Geometry;

    /// Blocks that nobody had written when it was opened, so that the first write to each takes longer than others: what a
    /// file system has set aside for a file. Empty, if there are none or it is not known.
    fn unwritten(&self) -> Vec<Range<u64>> {
        Vec::new()
    }

    /// Begins an operation; exactly one `BlockDone` follows.
    ///
    /// # Errors
    /// Refused without effect: `InvalidArgument` (outside the device, alignment, too many segments), `NotSupported`,
    /// `NoBuffers` (the submission queue is full), `ReadOnly`. The operation comes back.
    fn submit(&mut self, op: OpId, what: BlockOp) -> Result<(), (Error, BlockOp)>;

    /// Gives at most `room` ends.
    fn poll(&mut self, now: Instant, room: usize, done: &mut Vec<BlockDone>);

    /// Rings the doorbell for what was submitted.
    fn flush_submissions(&mut self, now: Instant);

    /// Asks to be woken, once.
    fn arm(&mut self, now: Instant) -> Wake;
}
