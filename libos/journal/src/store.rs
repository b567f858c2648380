//! The logs of one device: a [`Storage`] over a [`BlockDevice`].
//!
//! - `mount.rs` finds out what is on the device, or formats it; `recovery.rs` brings a log to life; `cursor.rs` serves pops,
//!   seeks and truncations; `committing.rs` sends what is to be durable; here are the contract and what comes back from the
//!   device.
//!
//! Always: one flush of ours is under way at a time, and it covers what had come back when it was submitted; writes that are
//! few may be forced instead. What a failed flush, or forced write, was to make durable is never taken for durable again: all
//! logs of the store have failed. Another write that failed fails its log. Nothing is reused before what freed it is durable.
//!
//! Bounds: `budget` bytes of each log are not durable; `waiting_max` appends stand in line.

use std::collections::VecDeque;
use std::time::Duration;

use pdpix::storage::Damage;
use pdpix::{
    BlockDevice, BlockDone, BufMut, Completions, Error, Handle, Heap, Instant, LogOp, OpId, OpenMode, Outcome, Sga,
    Storage, Submitted, Wake, WakeOn,
};
use slab::Slab;

use crate::chase::Chase;
use crate::cursor::{Cursor, CursorOp};
use crate::format::NAME_MAX;
use crate::log::{Counters, Log, Shared, Stage, State, Waiting};
use crate::mount::Mount;
use crate::preparing::Preparing;
use crate::reader::Reader;
use crate::settings::Settings;
use crate::transfers::{Io, Transfer};

/// The most that comes back from the device at one poll.
const BURST: usize = 256;
/// How long a log that has no memory waits before it looks again.
const STARVED_DELAY: Duration = Duration::from_millis(1);
/// The most handles.
const HANDLES_MAX: usize = 1 << 16;

/// An operation that has ended.
struct End {
    op: OpId,
    /// The handle that counts it.
    handle: u32,
    result: Result<Outcome<Handle>, Error>,
}

/// All logs on one block device.
pub struct Store {
    pub(crate) io: Io,
    pub(crate) shared: Shared,
    pub(crate) mount: Mount,
    pub(crate) logs: Vec<Log>,
    pub(crate) handles: Slab<Cursor>,
    pub(crate) chases: Slab<Chase>,
    pub(crate) preparing: Preparing,
    ends: VecDeque<End>,
    /// While the last commit was under way, more went out.
    pub(crate) is_crowded: bool,
    pub(crate) now: Instant,
    came_back: Vec<BlockDone>,
}

impl Shared {
    /// Extents that no log has.
    pub(crate) fn free_extents(&self) -> usize {
        self.pool.len() + self.fresh.len()
    }

    pub(crate) fn reader(&self) -> Reader {
        let chunk = (self.settings.read_ahead as u64).min(self.transfer_max);
        let chunk = 1 << chunk.max(512).ilog2();
        Reader::new(self.layout.unit, chunk, 4 * chunk)
    }

    /// Memory that a read fills whole. `None`: there is none now.
    pub(crate) fn read_memory(&self, len: u64) -> Option<BufMut> {
        let memory = self.heap.alloc_aligned(len as usize, self.align.max(512)).ok()?;
        (memory.capacity() as u64 == len).then_some(memory)
    }
}

impl Store {
    /// Takes a device. What is on it is found out as it is polled; `heap` is the core's, for pages and for what is read.
    pub fn new(device: Box<dyn BlockDevice>, heap: Heap, settings: Settings) -> Store {
        let geometry = device.geometry();
        let io = Io::new(device);
        let mut store = Store {
            io,
            shared: Shared::new(geometry, heap, settings),
            mount: Mount::begin(),
            logs: Vec::new(),
            handles: Slab::new(),
            chases: Slab::new(),
            preparing: Preparing::default(),
            ends: VecDeque::new(),
            is_crowded: false,
            now: Instant::ZERO,
            came_back: Vec::new(),
        };
        store.start_mount();
        store
    }

    /// What it has done.
    pub fn store_counters(&self) -> Counters {
        self.shared.counters
    }

    /// An operation has ended; its handle counts it until it is told.
    pub(crate) fn end(&mut self, op: OpId, handle: u32, result: Result<Outcome<Handle>, Error>) {
        self.ends.push_back(End { op, handle, result });
    }

    /// What must hold at all times; for tests and the simulator.
    pub fn check(&self) {
        if self.mount == Mount::Ready {
            self.logs.iter().for_each(|log| log.check(&self.shared.layout));
            let owned: usize = self.logs.iter().map(|log| log.descriptor.extents.len()).sum();
            assert!(
                owned + self.shared.free_extents() <= self.shared.layout.extent_count as usize,
                "an extent is twice there"
            );
        }
    }
}

// Failure.
impl Store {
    /// The log has failed for good.
    pub(crate) fn fail_log(&mut self, index: usize, why: Error) {
        let log = &mut self.logs[index];
        log.state = State::Failed(why);
        log.drop_pages();
        let mut ended = log.take_unended();
        if let Some(update) = log.update.take() {
            ended.extend(update.truncated.into_iter().map(|(op, handle, _)| (op, handle)));
        }
        log.is_dirty = false;
        ended.extend(log.truncating.drain(..).map(|(op, handle, _)| (op, handle)));
        ended.extend(log.locating.drain(..).map(|(op, handle, _)| (op, handle)));
        ended.into_iter().for_each(|(op, handle)| self.end(op, handle, Err(why)));
        for handle in self.handles_of(index) {
            self.fail_cursor(handle, why);
        }
        // Each sees that its log has failed.
        let chases: Vec<u32> = self.chases.iter().map(|(key, _)| key as u32).collect();
        chases.into_iter().for_each(|key| self.go_on_with_chase(key));
    }

    /// Everything has failed for good.
    pub(crate) fn fail(&mut self, why: Error) {
        self.mount = Mount::Failed(why);
        for index in 0..self.logs.len() {
            if !matches!(self.logs[index].state, State::Failed(_)) {
                self.fail_log(index, why);
            }
        }
        let unnamed: Vec<u32> =
            self.handles.iter().filter(|(_, c)| c.log.is_none()).map(|(key, _)| key as u32).collect();
        unnamed.into_iter().for_each(|handle| self.fail_cursor(handle, why));
    }

    pub(crate) fn handles_of(&self, index: usize) -> Vec<u32> {
        self.handles.iter().filter(|(_, cursor)| cursor.log == Some(index)).map(|(key, _)| key as u32).collect()
    }
}

// What comes back from the device.
impl Store {
    fn take_in(&mut self) {
        self.io.retry();
        let mut came_back = std::mem::take(&mut self.came_back);
        came_back.append(&mut self.io.refused);
        self.io.device.poll(self.now, BURST, &mut came_back);
        for done in came_back.drain(..) {
            self.on_done(done);
        }
        self.came_back = came_back;
    }

    fn on_done(&mut self, done: BlockDone) {
        let BlockDone { op, result, read } = done;
        let Some(transfer) = self.io.transfers.try_remove(op.0 as usize) else { return };
        match transfer {
            Transfer::Mount(step) => {
                self.io.writes_in_flight -= usize::from(self.mount.writes());
                self.on_mount(step, result, read);
            }
            Transfer::Batch { log, batch, len, forced, patient } => {
                self.io.writes_in_flight -= usize::from(!patient);
                self.io.forced_in_flight -= usize::from(forced);
                match result {
                    Ok(()) => {
                        let covered_by = if forced { 0 } else { self.io.next_flush() };
                        self.io.uncovered += if forced { 0 } else { len };
                        self.logs[log as usize].on_written(batch, covered_by, self.now);
                        self.commit(log as usize);
                    }
                    // It may be the flush in it that has failed.
                    Err(error) if forced => self.fail(error),
                    Err(error) => self.fail_log(log as usize, error),
                }
            }
            Transfer::Descriptor { log } => {
                self.io.writes_in_flight -= 1;
                match result {
                    Ok(()) => {
                        let covered_by = self.io.want_flush();
                        if let Some(update) = &mut self.logs[log as usize].update {
                            update.stage = Stage::ToFlush(covered_by);
                        }
                        self.go_on_with_update(log as usize);
                    }
                    Err(error) => self.fail_log(log as usize, error),
                }
            }
            Transfer::Flush => self.on_flushed(result),
            Transfer::Discard { extent } => {
                // Whether it worked or not: nobody needs what is there.
                self.shared.pool.push_back(extent);
            }
            Transfer::Zeros { len } => self.on_zeros(len, result),
            Transfer::Cursor { handle, fetch } => {
                if let Some(cursor) = self.handles.get_mut(handle as usize) {
                    cursor.reader.on_data(fetch, result, read);
                    self.serve(handle);
                }
            }
            Transfer::Chase { key, fetch } => {
                if let Some(chase) = self.chases.get_mut(key as usize) {
                    chase.reader().on_data(fetch, result, read);
                    self.go_on_with_chase(key);
                }
            }
            Transfer::Locator { log, fetch } => {
                self.logs[log as usize].locator.on_data(fetch, result, read);
                self.go_on(log as usize);
            }
        }
    }

    fn on_flushed(&mut self, result: Result<(), Error>) {
        self.shared.counters.flushes += 1;
        self.io.flushes_done += 1;
        // A device that cannot be written to has nothing to flush.
        let is_settled = self.mount == Mount::Settling && matches!(result, Err(Error::ReadOnly | Error::NotSupported));
        if let Err(error) = result
            && !is_settled
            && !cfg!(margay_planted_bug = "ignore_a_flush_error")
        {
            // Nothing is known of what it was to make durable, and a second one would say nothing about it.
            return self.fail(error);
        }
        if self.mount != Mount::Ready {
            return self.on_mount(u32::MAX, Ok(()), None);
        }
        for index in 0..self.logs.len() {
            self.commit(index);
            self.go_on_with_update(index);
        }
    }

    /// Ends the appends that are durable now.
    fn commit(&mut self, index: usize) {
        let log = &mut self.logs[index];
        if log.state != State::Ready {
            return;
        }
        let ends = &mut self.ends;
        let became = log.commit(self.io.flushes_done, self.now, |op, handle, sequence| {
            ends.push_back(End { op, handle, result: Ok(Outcome::Appended { sequence }) });
        });
        if became {
            self.place_waiting(index);
        }
    }
}

// Appending.
impl Store {
    fn append(&mut self, h: Handle, op: OpId, mut sga: Sga) -> Result<Submitted, Error> {
        let cursor = self.handles.get_mut(h.0 as usize).ok_or(Error::BadDescriptor)?;
        if sga.is_empty() {
            return Err(Error::InvalidArgument);
        }
        if !cursor.is_writable {
            return Err(Error::ReadOnly);
        }
        let Some(index) = cursor.log else {
            return cursor.stand_in_line(CursorOp::Append { op, sga }, self.shared.settings.waiting_max);
        };
        let log = &mut self.logs[index];
        match log.state {
            State::Failed(why) => return Err(why),
            _ if log.damage.is_some() => return Err(Error::Corrupt),
            _ if sga.len() as u64 > self.shared.layout.payload_max() => return Err(Error::Overflow),
            _ => {}
        }
        if log.waiting.len() >= self.shared.settings.waiting_max {
            return Err(Error::NoBuffers);
        }
        if log.state == State::Ready {
            log.reserve(sga.len(), &mut self.shared)?;
        }
        cursor.outstanding += 1;
        if !(log.is_open() && log.place(op, h.0, &mut sga, &mut self.shared, self.now)) {
            log.waiting.push_back(Waiting { op, handle: h.0, sga });
            self.keep_descriptor(index);
        }
        self.look_for_failure(index);
        Ok(Submitted::Pending)
    }

    /// Places what stood in line, as far as there is room.
    pub(crate) fn place_waiting(&mut self, index: usize) {
        let log = &mut self.logs[index];
        if log.state != State::Ready {
            return;
        }
        log.is_starved = false;
        while let Some(mut first) = log.waiting.pop_front() {
            if !log.place(first.op, first.handle, &mut first.sga, &mut self.shared, self.now) {
                log.waiting.push_front(first);
                break;
            }
        }
        self.look_for_failure(index);
    }

    /// The log is ready: what came meanwhile gets its space, or is told that there is none.
    pub(crate) fn admit_waiting(&mut self, index: usize) {
        let waiting = std::mem::take(&mut self.logs[index].waiting);
        for one in waiting {
            let log = &mut self.logs[index];
            let admitted = match log.damage {
                Some(_) => Err(Error::Corrupt),
                None if one.sga.len() as u64 > self.shared.layout.payload_max() => Err(Error::Overflow),
                None => log.reserve(one.sga.len(), &mut self.shared),
            };
            match admitted {
                Ok(()) => log.waiting.push_back(one),
                Err(error) => self.end(one.op, one.handle, Err(error)),
            }
        }
        self.place_waiting(index);
    }

    pub(crate) fn look_for_failure(&mut self, index: usize) {
        if let State::Failed(why) = self.logs[index].state
            && std::mem::take(&mut self.logs[index].is_broken)
        {
            self.fail_log(index, why);
        }
    }
}

impl std::fmt::Debug for Store {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Io { writes_in_flight, flush_wanted, flushes_submitted, flushes_done, backlog, transfers, .. } = &self.io;
        let mut shown = f.debug_struct("Store");
        shown.field("mount", &self.mount).field("free", &self.shared.free_extents());
        shown.field("transfers", &transfers.len()).field("writes", writes_in_flight).field("backlog", &backlog.len());
        shown.field("flushes", &(flush_wanted, flushes_submitted, flushes_done)).field("logs", &self.logs).finish()
    }
}

impl Storage for Store {
    fn open(&mut self, name: &str, mode: OpenMode) -> Result<Handle, Error> {
        if name.is_empty() || name.len() > NAME_MAX {
            return Err(Error::InvalidArgument);
        }
        if let Mount::Failed(why) = self.mount {
            return Err(why);
        }
        if self.handles.len() >= HANDLES_MAX {
            return Err(Error::TooManyQueues);
        }
        let log = match self.mount {
            Mount::Ready => Some(self.resolve(name, mode)?),
            _ => None,
        };
        let key = self.handles.insert(Cursor::new(name, mode, log, self.shared.reader()));
        if let Some(index) = log {
            self.wake_log(index, mode);
        }
        Ok(Handle(key as u32))
    }

    fn submit(&mut self, h: Handle, op: OpId, what: LogOp) -> Result<Submitted, Error> {
        match what {
            LogOp::Append(sga) => self.append(h, op, sga),
            LogOp::Read { len_max: 0 } => Err(Error::InvalidArgument),
            LogOp::Read { len_max } => self.submit_to_cursor(h, CursorOp::Read { op, len_max }),
            LogOp::Seek(target) => self.submit_to_cursor(h, CursorOp::Seek { op, target, begun: false }),
            LogOp::Chase { start, program, registers } => self.chase(h.0, op, start, program, registers),
            LogOp::Truncate(target) => self.submit_to_cursor(h, CursorOp::Truncate { op, target }),
        }
    }

    fn cancel(&mut self, h: Handle, op: OpId) {
        self.cancel_chases(h.0, Some(op));
        if let Some(cursor) = self.handles.get_mut(h.0 as usize) {
            let before = cursor.ops.len();
            cursor.ops.retain(|waiting| waiting.op() != op);
            let mut was_there = before != cursor.ops.len();
            if let Some(index) = cursor.log
                && let Some(at) = self.logs[index].waiting.iter().position(|waiting| waiting.op == op)
            {
                self.logs[index].waiting.remove(at);
                was_there = true;
            }
            if was_there {
                self.end(op, h.0, Err(Error::Canceled));
                self.serve(h.0);
            }
        }
    }

    fn close(&mut self, h: Handle) {
        let Some(cursor) = self.handles.get_mut(h.0 as usize) else { return };
        cursor.is_closed = true;
        if let Some(index) = cursor.log {
            self.logs[index].hurry();
        }
        cursor.reader.rest();
        self.cancel_chases(h.0, None);
        let Some(cursor) = self.handles.get_mut(h.0 as usize) else { return };
        // What was appended stays in line, though the log is not yet known.
        let (appends, others) = std::mem::take(&mut cursor.ops).into_iter().partition(CursorOp::is_append);
        cursor.ops = appends;
        let others: VecDeque<CursorOp> = others;
        others.into_iter().for_each(|waiting| self.end(waiting.op(), h.0, Err(Error::Canceled)));
        self.bury(h.0);
    }

    fn set_patience(&mut self, h: Handle, patience: Duration) {
        let Some(cursor) = self.handles.get_mut(h.0 as usize) else { return };
        cursor.patience = Some(patience);
        if let Some(index) = cursor.log {
            self.logs[index].patience = patience;
        }
    }

    fn hurry(&mut self, h: Handle) {
        if let Some(index) = self.handles.get(h.0 as usize).and_then(|cursor| cursor.log) {
            self.logs[index].hurry();
        }
    }

    fn damage(&self, h: Handle) -> Option<Damage> {
        let index = self.handles.get(h.0 as usize)?.log?;
        self.logs[index].damage.or(self.handles[h.0 as usize].damage)
    }

    fn poll(&mut self, now: Instant, done: &mut Completions) {
        self.now = now;
        self.take_in();
        for index in 0..self.logs.len() {
            if self.logs[index].wants_memory() {
                self.place_waiting(index);
                self.go_on(index);
                self.go_on_with_update(index);
            }
            if self.logs[index].is_unmarked() && now >= self.logs[index].committed_at + self.shared.settings.mark_delay
            {
                self.logs[index].mark();
            }
        }
        while done.room() > 0
            && let Some(End { op, handle, result }) = self.ends.pop_front()
        {
            done.push(op, result);
            if let Some(cursor) = self.handles.get_mut(handle as usize) {
                cursor.outstanding -= 1;
                if cursor.is_closed {
                    self.bury(handle);
                }
            }
        }
    }

    fn flush(&mut self, now: Instant) {
        self.now = now;
        self.io.retry();
        self.write_out();
        self.io.device.flush_submissions(now);
    }

    fn arm(&mut self, now: Instant) -> Wake {
        let mut wake = self.io.device.arm(now);
        let settings = &self.shared.settings;
        let held = self
            .logs
            .iter()
            .filter_map(|log| log.opened_at.map(|opened| opened + settings.commit_delay.max(log.patience_left())));
        let unflushed = self.logs.iter().filter_map(|log| log.flush_is_due_at(self.io.flushes_submitted));
        let unmarked = self.logs.iter().filter(|log| log.is_unmarked());
        let due = held
            .chain(unflushed)
            .filter(|_| !self.io.is_committing())
            .chain(unmarked.map(|log| log.committed_at + settings.mark_delay));
        wake.deadline = wake.deadline.into_iter().chain(due).min();
        if self.logs.iter().any(Log::wants_memory) {
            // Nobody says when there is memory again.
            let again = now + STARVED_DELAY;
            wake.deadline = Some(wake.deadline.map_or(again, |deadline| deadline.min(again)));
        }
        if !self.ends.is_empty() || !self.io.refused.is_empty() {
            wake.on = WakeOn::Now;
        }
        wake
    }

    fn zombies(&self) -> usize {
        self.handles.iter().filter(|(_, cursor)| cursor.is_closed).count()
    }

    fn counters(&self) -> Vec<(&'static str, u64)> {
        let Counters {
            records,
            bytes,
            bytes_copied,
            bytes_gathered,
            bytes_padding,
            batches,
            flushes,
            forced,
            descriptors,
            discards,
        } = self.shared.counters;
        vec![
            ("records", records),
            ("bytes", bytes),
            ("bytes_copied", bytes_copied),
            ("bytes_gathered", bytes_gathered),
            ("bytes_padding", bytes_padding),
            ("batches", batches),
            ("flushes", flushes),
            ("forced", forced),
            ("descriptors", descriptors),
            ("discards", discards),
        ]
    }
}
