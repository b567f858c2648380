//! What is under way on the device: operations by what they are for, those that it had no room for, and flushes.

use std::collections::VecDeque;

use pdpix::{BlockDevice, BlockDone, BlockOp, BufMut, Error, OpId, Sga};
use slab::Slab;

use crate::reader::Fetch;

/// A flush is not held back for other writes once so many bytes wait for it.
const UNCOVERED_MAX: u64 = 1 << 20;

/// What an operation of the device is for.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Transfer {
    /// A step of the mount.
    Mount(u32),
    /// A part of a batch.
    Batch {
        log: u32,
        batch: u64,
        len: u64,
        /// It is durable when it is written.
        forced: bool,
        /// Nobody waits for it.
        patient: bool,
    },
    /// A copy of a log's descriptor.
    Descriptor {
        log: u32,
    },
    Flush,
    /// The extent is free when it is over.
    Discard {
        extent: u32,
    },
    /// Of an extent that no log has: so many.
    Zeros {
        len: u64,
    },
    /// For a handle's reader.
    Cursor {
        handle: u32,
        fetch: Fetch,
    },
    /// For a chase.
    Chase {
        key: u32,
        fetch: Fetch,
    },
    /// For a log's own reader: recovery, or who looks for the place of a truncation.
    Locator {
        log: u32,
        fetch: Fetch,
    },
}

/// The device, and what is under way on it.
pub(crate) struct Io {
    pub(crate) device: Box<dyn BlockDevice>,
    pub(crate) transfers: Slab<Transfer>,
    /// What the device had no room for.
    pub(crate) backlog: VecDeque<(OpId, BlockOp)>,
    /// What it refused, as if it had ended.
    pub(crate) refused: Vec<BlockDone>,
    pub(crate) block_size: u64,
    pub(crate) needs_flush: bool,
    /// A write may be forced.
    pub(crate) forces: bool,
    pub(crate) discards: bool,
    pub(crate) flushes_submitted: u64,
    pub(crate) flushes_done: u64,
    pub(crate) flush_wanted: bool,
    /// Bytes written, and not covered by a flush that was submitted.
    pub(crate) uncovered: u64,
    /// Those that somebody waits for, and so for the flush behind them.
    pub(crate) writes_in_flight: usize,
    /// Those of them that are forced: no flush is for them.
    pub(crate) forced_in_flight: usize,
}

impl Io {
    pub(crate) fn new(device: Box<dyn BlockDevice>) -> Io {
        let geometry = device.geometry();
        Io {
            device,
            transfers: Slab::new(),
            backlog: VecDeque::new(),
            refused: Vec::new(),
            block_size: geometry.block_size as u64,
            needs_flush: geometry.volatile_cache,
            forces: geometry.volatile_cache && geometry.forces,
            discards: geometry.discards,
            flushes_submitted: 0,
            flushes_done: 0,
            flush_wanted: false,
            uncovered: 0,
            writes_in_flight: 0,
            forced_in_flight: 0,
        }
    }

    pub(crate) fn submit(&mut self, transfer: Transfer, what: BlockOp) {
        let is_awaited = !matches!(transfer, Transfer::Zeros { .. } | Transfer::Batch { patient: true, .. });
        self.writes_in_flight += usize::from(matches!(what, BlockOp::Write { .. }) && is_awaited);
        self.forced_in_flight += usize::from(matches!(what, BlockOp::Write { forced: true, .. }));
        let op = OpId(self.transfers.insert(transfer) as u64);
        if self.backlog.is_empty() {
            self.hand_over(op, what);
        } else {
            self.backlog.push_back((op, what));
        }
    }

    fn hand_over(&mut self, op: OpId, what: BlockOp) {
        match self.device.submit(op, what) {
            Ok(()) => {}
            Err((Error::NoBuffers, what)) => self.backlog.push_front((op, what)),
            Err((error, what)) => {
                let read = if let BlockOp::Read { into, .. } = what { Some(into) } else { None };
                self.refused.push(BlockDone { op, result: Err(error), read });
            }
        }
    }

    /// Tries again what the device had no room for.
    pub(crate) fn retry(&mut self) {
        for _ in 0..self.backlog.len() {
            let before = self.backlog.len();
            let Some((op, what)) = self.backlog.pop_front() else { return };
            self.hand_over(op, what);
            if self.backlog.len() == before {
                return;
            }
        }
    }

    pub(crate) fn write(&mut self, transfer: Transfer, offset: u64, from: Sga) {
        let forced = matches!(transfer, Transfer::Batch { forced: true, .. });
        self.submit(transfer, BlockOp::Write { lba: offset / self.block_size, from, forced });
    }

    pub(crate) fn read(&mut self, transfer: Transfer, offset: u64, into: BufMut) {
        self.submit(transfer, BlockOp::Read { lba: offset / self.block_size, into });
    }

    /// A write has come back that is to be flushed soon: the number of the flush that will cover it; 0, if none is needed.
    pub(crate) fn want_flush(&mut self) -> u64 {
        let next = self.next_flush();
        self.flush_wanted |= next > 0;
        next
    }

    /// The same, where the flush may be held back.
    pub(crate) fn next_flush(&self) -> u64 {
        if !self.needs_flush || cfg!(margay_planted_bug = "acknowledge_before_flush") {
            return 0;
        }
        self.flushes_submitted + 1
    }

    pub(crate) fn flushes_done(&self) -> u64 {
        self.flushes_done
    }

    /// Whether a batch waits for its flush, or for the writes before it.
    pub(crate) fn is_committing(&self) -> bool {
        self.needs_flush
            && (self.flushes_submitted > self.flushes_done || self.flush_wanted || self.writes_in_flight > 0)
    }

    pub(crate) fn flush_if_due(&mut self) -> bool {
        let is_due = self.flush_wanted
            && self.flushes_submitted == self.flushes_done
            && (self.writes_in_flight == self.forced_in_flight || self.uncovered >= UNCOVERED_MAX);
        if is_due {
            self.flush_wanted = false;
            self.uncovered = 0;
            self.flushes_submitted += 1;
            self.submit(Transfer::Flush, BlockOp::Flush);
        }
        is_due
    }
}
