//! One log: its extents, the page that is being filled, the batches that are under way, and what is durable of it.
//!
//! A log is a line of bytes, and a *position* a place in it, which is never used again. Extents carry it piece by piece.
//! Records are put into the open page; a page that goes to the device is a *batch*: it begins at a write unit, is padded to
//! one, and stays in its extent. Batches become durable in their order, whatever the order in which the device writes.
//!
//! Always: `first_position <= committed_position <= tail`, and all of these but the first are write units.
//! Nothing is put where the descriptor on the device does not yet name the extent. What was accepted has its space.

use std::collections::VecDeque;
use std::time::Duration;

use pdpix::storage::Damage;
use pdpix::{BufMut, Error, Heap, Instant, OpId, Sga};

use crate::format::{Descriptor, Extent, Layout, stride};
use crate::reader::{Ground, Reader, extent_end};
use crate::settings::Settings;

/// A place of the sparse index is noted every so many bytes.
const INDEX_GRAIN: u64 = 16 << 10;

/// What all logs of a store share.
pub(crate) struct Shared {
    pub(crate) layout: Layout,
    /// What every checksum begins with.
    pub(crate) seed: u32,
    pub(crate) settings: Settings,
    pub(crate) heap: Heap,
    /// Segments of any length and alignment that a write may have; 1: one aligned buffer.
    pub(crate) gathers: usize,
    pub(crate) align: usize,
    /// Bytes of the longest transfer.
    pub(crate) transfer_max: u64,
    /// Extents that no log has; and those that nobody has written so far, which logs get last.
    pub(crate) pool: VecDeque<u32>,
    pub(crate) fresh: VecDeque<u32>,
    /// A log that is not patient has grown.
    pub(crate) wants_ready: bool,
    /// Some log's descriptor is lost: its extents are not known, and so none is given away.
    pub(crate) is_frozen: bool,
    pub(crate) counters: Counters,
}

/// What a store has done. Bytes copied are the heap's to count (`CopyPath::Push`).
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
#[allow(missing_docs, reason = "the names say it")]
pub struct Counters {
    pub records: u64,
    pub bytes: u64,
    pub bytes_copied: u64,
    pub bytes_gathered: u64,
    pub bytes_padding: u64,
    pub batches: u64,
    pub flushes: u64,
    pub forced: u64,
    pub descriptors: u64,
    pub discards: u64,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum State {
    /// Its descriptor was read.
    Known,
    /// Its records are being read, from the mark on.
    Scanning,
    /// The end was found; is there proof that more was durable?
    Probing,
    /// Its new epoch is being written.
    Raising,
    Ready,
    Failed(Error),
}

/// An append in a page or a batch.
#[derive(Debug)]
pub(crate) struct Pending {
    pub(crate) op: OpId,
    pub(crate) handle: u32,
    pub(crate) sequence: u64,
}

/// An append that waits for room.
#[derive(Debug)]
pub(crate) struct Waiting {
    pub(crate) op: OpId,
    pub(crate) handle: u32,
    pub(crate) sga: Sga,
}

#[derive(Debug)]
pub(crate) struct Batch {
    /// Where the next one begins.
    pub(crate) next: u64,
    pub(crate) last_sequence: u64,
    /// Writes that have not come back.
    pub(crate) left: u32,
    /// It is durable when it is written.
    pub(crate) forced: bool,
    /// Once they are all back: the flush that covers them, and since when.
    pub(crate) covered_by: u64,
    pub(crate) written_at: Instant,
}

/// A write that is to be submitted.
#[derive(Debug)]
pub(crate) struct Outgoing {
    pub(crate) batch: u64,
    /// On the device.
    pub(crate) offset: u64,
    pub(crate) sga: Sga,
}

/// A change of the descriptor that is under way: one copy, a flush, the other copy, a flush.
#[derive(Debug)]
pub(crate) struct Update {
    pub(crate) descriptor: Descriptor,
    pub(crate) bytes: Vec<u8>,
    /// 0 or 1: how many copies are there.
    pub(crate) copies: u32,
    pub(crate) stage: Stage,
    /// Extents that are free when it is durable.
    pub(crate) freed: Vec<u32>,
    pub(crate) truncated: Vec<(OpId, u32, u64)>,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Stage {
    ToWrite,
    Writing,
    /// The flush that covers it.
    ToFlush(u64),
}

pub(crate) struct Log {
    pub(crate) state: State,
    /// As it is to be on the device.
    pub(crate) descriptor: Descriptor,
    /// Up to here the descriptor on the device names the extents.
    pub(crate) persisted_end: u64,
    /// Which copy of the descriptor is right: the other one is written first.
    pub(crate) good_copy: u32,
    pub(crate) is_dirty: bool,
    pub(crate) update: Option<Update>,
    pub(crate) freeing: Vec<u32>,
    pub(crate) truncating: Vec<(OpId, u32, u64)>,
    /// Truncations that look for their record.
    pub(crate) locating: VecDeque<(OpId, u32, u64)>,
    pub(crate) locator: Reader,
    pub(crate) is_writable: bool,
    pub(crate) next_sequence: u64,
    pub(crate) committed_sequence: u64,
    pub(crate) committed_position: u64,
    /// Where the open batch begins.
    pub(crate) tail: u64,
    /// Where everything accepted fits, however it is padded.
    reserved: u64,
    pub(crate) page: Option<BufMut>,
    /// What the open batch has before the page's own bytes.
    pub(crate) pieces: Sga,
    pub(crate) pieces_len: u64,
    /// When the open batch got its first record.
    pub(crate) opened_at: Option<Instant>,
    pub(crate) batches: VecDeque<Batch>,
    pub(crate) first_batch: u64,
    pub(crate) outbox: VecDeque<Outgoing>,
    pub(crate) pending: VecDeque<Pending>,
    pub(crate) waiting: VecDeque<Waiting>,
    /// Memory was short when something was to be placed.
    pub(crate) is_starved: bool,
    /// Flushes that have begun since the batch was opened.
    pub(crate) passed_over: u32,
    /// It has failed while records were placed, and nobody was told.
    pub(crate) is_broken: bool,
    pub(crate) committed_at: Instant,
    /// How long a page may be held back, and then its flush; and up to which record nothing is.
    pub(crate) patience: Duration,
    hurries_to: u64,
    pub(crate) index: Vec<(u64, u64)>,
    pub(crate) index_grain: u64,
    pub(crate) damage: Option<Damage>,
    /// The end that recovery found: proof is looked for from here on.
    pub(crate) cut_at: u64,
    pub(crate) claimed: u64,
}

impl std::fmt::Debug for Log {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let mut shown = f.debug_struct("Log");
        shown.field("name", &self.descriptor.name).field("state", &self.state).field("epoch", &self.descriptor.epoch);
        shown
            .field("next", &self.next_sequence)
            .field("committed", &(self.committed_sequence, self.committed_position));
        shown.field("tail", &self.tail).field("open", &self.open_len()).field("opened_at", &self.opened_at);
        shown.field("extents_end", &self.persisted_end).field("extents", &self.descriptor.extents.len());
        shown.field("batches", &self.batches).field("outbox", &self.outbox.len()).field("waiting", &self.waiting.len());
        shown.field("update", &self.update.as_ref().map(|update| update.stage)).field("is_dirty", &self.is_dirty);
        shown.field("locating", &self.locating).field("is_starved", &self.is_starved).finish()
    }
}

impl Log {
    /// Something waits for memory: a record that is to be placed, or a descriptor that is to be written.
    pub(crate) fn wants_memory(&self) -> bool {
        self.is_starved || self.update.as_ref().is_some_and(|update| update.stage == Stage::ToWrite)
    }

    pub(crate) fn new(descriptor: Descriptor, good_copy: u32, shared: &Shared) -> Log {
        let size = shared.layout.extent_size;
        let persisted_end = (descriptor.extents_base + descriptor.extents.len() as u64) * size;
        let (sequence, position) = (descriptor.mark_sequence, descriptor.mark_position);
        Log {
            state: State::Known,
            descriptor,
            persisted_end,
            good_copy,
            is_dirty: false,
            update: None,
            freeing: Vec::new(),
            truncating: Vec::new(),
            locating: VecDeque::new(),
            locator: shared.reader(),
            is_writable: false,
            next_sequence: sequence,
            committed_sequence: sequence - 1,
            committed_position: position,
            tail: position,
            reserved: position,
            page: None,
            pieces: Sga::new(),
            pieces_len: 0,
            opened_at: None,
            batches: VecDeque::new(),
            first_batch: 0,
            outbox: VecDeque::new(),
            pending: VecDeque::new(),
            waiting: VecDeque::new(),
            is_starved: false,
            is_broken: false,
            passed_over: 0,
            committed_at: Instant::ZERO,
            patience: Duration::ZERO,
            hurries_to: 0,
            index: Vec::new(),
            index_grain: INDEX_GRAIN,
            damage: None,
            cut_at: 0,
            claimed: 0,
        }
    }

    pub(crate) fn extents_end(&self, layout: &Layout) -> u64 {
        (self.descriptor.extents_base + self.descriptor.extents.len() as u64) * layout.extent_size
    }

    /// Where a position is on the device. `None`: its extent was freed.
    pub(crate) fn offset(&self, position: u64, layout: &Layout) -> Option<u64> {
        let ordinal = (position / layout.extent_size).checked_sub(self.descriptor.extents_base)?;
        let extent = self.descriptor.extents.get(ordinal as usize)?;
        Some(layout.extent(extent.number) + position % layout.extent_size)
    }

    /// What may be read: everything durable.
    pub(crate) fn ground(&self, layout: &Layout) -> Ground {
        Ground::new(self.descriptor.log, layout, self.committed_position)
    }

    /// Recovery has found the end: the log goes on in the next unit.
    pub(crate) fn end_at(&mut self, position: u64, next_sequence: u64, layout: &Layout) {
        let position = position.next_multiple_of(layout.unit);
        self.next_sequence = next_sequence;
        self.committed_sequence = next_sequence - 1;
        (self.committed_position, self.tail, self.reserved) = (position, position, position);
    }

    /// Nothing older is to be taken for a record from here on.
    pub(crate) fn raise_epoch(&mut self) {
        self.descriptor.epoch += 1;
        self.mark();
    }

    /// Recovery is to begin here from now on.
    pub(crate) fn mark(&mut self) {
        self.descriptor.mark_epoch = self.descriptor.epoch;
        self.descriptor.mark_sequence = self.committed_sequence + 1;
        self.descriptor.mark_position = self.committed_position;
        self.is_dirty = true;
    }

    /// Whether more is durable than the mark says, and nothing is under way.
    pub(crate) fn is_unmarked(&self) -> bool {
        self.state == State::Ready
            && self.is_writable
            && self.descriptor.mark_sequence != self.committed_sequence + 1
            && self.pending.is_empty()
            && self.waiting.is_empty()
            && self.update.is_none()
            && !self.is_dirty
    }

    /// Appends that have not ended.
    pub(crate) fn take_unended(&mut self) -> Vec<(OpId, u32)> {
        let pending = self.pending.drain(..).map(|pending| (pending.op, pending.handle));
        let mut all: Vec<_> = pending.collect();
        all.extend(self.waiting.drain(..).map(|waiting| (waiting.op, waiting.handle)));
        all
    }

    /// Lets go of everything that was to be written.
    pub(crate) fn drop_pages(&mut self) {
        self.page = None;
        self.pieces = Sga::new();
        self.pieces_len = 0;
        self.opened_at = None;
        self.outbox.clear();
        self.batches.clear();
    }
}

// Space.
impl Log {
    /// Sees to it that a record of so much payload has its space, wherever padding will put it.
    ///
    /// # Errors
    /// `NoSpace`.
    #[inline]
    pub(crate) fn reserve(&mut self, len: usize, shared: &mut Shared) -> Result<(), Error> {
        let (size, unit) = (shared.layout.extent_size, shared.layout.unit);
        // With nothing in line, everything that was accepted has its place.
        let placed = (self.tail + self.open_len()).next_multiple_of(unit);
        let from = if self.waiting.is_empty() { placed } else { self.reserved };
        let end = (from + stride(len)).next_multiple_of(unit);
        let start = if end > extent_end(from, size) { from.next_multiple_of(size) } else { from };
        let end = (start + stride(len)).next_multiple_of(unit);
        let missing = end.saturating_sub(self.extents_end(&shared.layout));
        if missing > 0 {
            self.grow(missing.div_ceil(size) as usize, shared)?;
        } else if self.extents_end(&shared.layout) - end < size / 2 && shared.free_extents() > 1 {
            // Before it is needed, as its descriptor takes two flushes.
            let _ = self.grow(1, shared);
        }
        self.reserved = end;
        Ok(())
    }

    #[cold]
    pub(crate) fn grow(&mut self, count: usize, shared: &mut Shared) -> Result<(), Error> {
        if shared.is_frozen || shared.free_extents() < count {
            return Err(Error::NoSpace);
        }
        // Who is patient does not need what was prepared for others.
        let is_patient = self.patience > Duration::ZERO;
        shared.wants_ready |= !is_patient;
        let Shared { pool, fresh, .. } = shared;
        let (first, then) = if is_patient { (fresh, pool) } else { (pool, fresh) };
        let of_first = count.min(first.len());
        let taken = first
            .drain(..of_first)
            .chain(then.drain(..count - of_first))
            .map(|number| Extent { number, first_sequence: 0 });
        self.descriptor.extents.extend(taken);
        self.is_dirty = true;
        Ok(())
    }

    /// The first record kept is this one: whole extents before it are to be freed.
    pub(crate) fn cut_front(&mut self, sequence: u64, position: u64, shared: &mut Shared) {
        let descriptor = &mut self.descriptor;
        (descriptor.first_sequence, descriptor.first_position) = (sequence, position);
        // The mark may be before a skip that the record is behind.
        if descriptor.mark_sequence < sequence || descriptor.mark_position < position {
            self.mark();
        }
        let base = position / shared.layout.extent_size;
        let count = (base - self.descriptor.extents_base) as usize;
        let freed = self.descriptor.extents.drain(..count).map(|extent| extent.number);
        if cfg!(margay_planted_bug = "reuse_before_truncate_is_durable") {
            shared.pool.extend(freed);
        } else {
            self.freeing.extend(freed);
        }
        self.descriptor.extents_base = base;
        self.index.retain(|&(at, _)| at >= sequence);
        self.is_dirty = true;
    }

    /// The descriptor on the device is this one.
    pub(crate) fn on_persisted(&mut self, descriptor: &Descriptor, layout: &Layout) {
        self.persisted_end = (descriptor.extents_base + descriptor.extents.len() as u64) * layout.extent_size;
    }
}

// Durability.
impl Log {
    /// A write of a batch has come back, and the flush that is submitted next covers it.
    pub(crate) fn on_written(&mut self, number: u64, covered_by: u64, now: Instant) {
        let Some(batch) = number.checked_sub(self.first_batch).and_then(|i| self.batches.get_mut(i as usize)) else {
            return;
        };
        batch.left -= 1;
        if batch.left == 0 {
            (batch.covered_by, batch.written_at) = (covered_by, now);
        }
    }

    /// How long anything of it may be held back now.
    pub(crate) fn patience_left(&self) -> Duration {
        // Appends that wait for what is durable have waited already.
        if self.committed_sequence < self.hurries_to || !self.waiting.is_empty() {
            Duration::ZERO
        } else {
            self.patience
        }
    }

    /// What was appended so far is not held back.
    pub(crate) fn hurry(&mut self) {
        self.hurries_to = self.next_sequence - 1 + self.waiting.len() as u64;
    }

    /// When what was written is to be flushed, if that waits for a flush that comes after so many.
    pub(crate) fn flush_is_due_at(&self, flushes_submitted: u64) -> Option<Instant> {
        let first = self.batches.iter().take_while(|batch| batch.left == 0);
        let first = first.into_iter().find(|batch| batch.covered_by > flushes_submitted)?;
        Some(first.written_at + self.patience_left())
    }

    /// So many flushes are done (`u64::MAX`: the device needs none). Whether anything became durable.
    pub(crate) fn commit(&mut self, flushes: u64, now: Instant, mut end: impl FnMut(OpId, u32, u64)) -> bool {
        // A batch may be of a skip alone: it makes room, and ends nothing.
        let before = self.committed_position;
        while let Some(batch) = self.batches.front()
            && batch.left == 0
            && batch.covered_by <= flushes
        {
            (self.committed_sequence, self.committed_position) = (batch.last_sequence, batch.next);
            self.batches.pop_front();
            self.first_batch += 1;
        }
        while let Some(pending) = self.pending.front()
            && pending.sequence <= self.committed_sequence
        {
            end(pending.op, pending.handle, pending.sequence);
            self.pending.pop_front();
        }
        if before != self.committed_position {
            self.committed_at = now;
        }
        before != self.committed_position
    }

    /// What must hold at all times.
    pub(crate) fn check(&self, layout: &Layout) {
        let descriptor = &self.descriptor;
        assert!(descriptor.first_position <= self.committed_position, "{:?}", descriptor);
        assert!(self.committed_position <= self.tail);
        assert!(self.tail + self.open_len() <= self.extents_end(layout), "placed outside of its extents");
        assert!(self.tail.is_multiple_of(layout.unit) && self.committed_position.is_multiple_of(layout.unit));
        assert!(self.committed_sequence < self.next_sequence);
        assert!(self.pending.len() as u64 <= self.next_sequence - 1 - self.committed_sequence);
    }
}
