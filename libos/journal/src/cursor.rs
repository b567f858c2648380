//! Handles: a cursor each, and the operations that stand in line for it. Truncations look for their record in the log's own
//! reader, one after the other, and leave the cursors where they are.

use std::collections::VecDeque;
use std::time::Duration;

use pdpix::storage::Damage;
use pdpix::{Error, Handle, LogOp, OpId, OpenMode, Outcome, Popped, Sga, Storage, Submitted};

use crate::log::State;
use crate::reader::{Ground, Read, Reader};
use crate::store::Store;
use crate::transfers::Transfer;

#[derive(Debug)]
pub(crate) enum CursorOp {
    Read {
        op: OpId,
        len_max: usize,
    },
    Seek {
        op: OpId,
        target: u64,
        /// The cursor is on its way.
        begun: bool,
    },
    /// Goes to the log when that is ready.
    Truncate {
        op: OpId,
        target: u64,
    },
    /// Came before it was known which log it is for.
    Append {
        op: OpId,
        sga: Sga,
    },
}

impl CursorOp {
    pub(crate) fn op(&self) -> OpId {
        match self {
            CursorOp::Read { op, .. }
            | CursorOp::Seek { op, .. }
            | CursorOp::Truncate { op, .. }
            | CursorOp::Append { op, .. } => *op,
        }
    }

    pub(crate) fn is_append(&self) -> bool {
        matches!(self, CursorOp::Append { .. })
    }
}

#[derive(Debug)]
pub(crate) struct Cursor {
    pub(crate) name: String,
    pub(crate) mode: OpenMode,
    pub(crate) is_writable: bool,
    /// `None`: it is not yet known.
    pub(crate) log: Option<usize>,
    failed: Option<Error>,
    pub(crate) is_closed: bool,
    /// Operations whose ends were not told.
    pub(crate) outstanding: usize,
    pub(crate) ops: VecDeque<CursorOp>,
    /// Where it is, and what was read ahead.
    pub(crate) reader: Reader,
    is_placed: bool,
    /// What its log is told when it is known which it is.
    pub(crate) patience: Option<Duration>,
    /// What this cursor has met.
    pub(crate) damage: Option<Damage>,
}

/// The most reads and seeks that stand in line.
const OPS_MAX: usize = 1 << 16;

impl Cursor {
    pub(crate) fn new(name: &str, mode: OpenMode, log: Option<usize>, reader: Reader) -> Cursor {
        Cursor {
            name: name.to_string(),
            mode,
            is_writable: mode != OpenMode::ReadOnly,
            log,
            failed: None,
            is_closed: false,
            outstanding: 0,
            ops: VecDeque::new(),
            reader,
            is_placed: false,
            patience: None,
            damage: None,
        }
    }

    pub(crate) fn stand_in_line(&mut self, op: CursorOp, most: usize) -> Result<Submitted, Error> {
        if let Some(failed) = self.failed {
            return Err(failed);
        }
        if self.ops.len() >= most {
            return Err(Error::NoBuffers);
        }
        self.outstanding += 1;
        self.ops.push_back(op);
        Ok(Submitted::Pending)
    }
}

/// What became of the first in line.
enum Served {
    /// It has ended.
    Ended(Result<Outcome<Handle>, Error>),
    /// It has gone elsewhere.
    Moved,
    Waits,
}

impl Store {
    pub(crate) fn submit_to_cursor(&mut self, h: Handle, what: CursorOp) -> Result<Submitted, Error> {
        let cursor = self.handles.get_mut(h.0 as usize).ok_or(Error::BadDescriptor)?;
        if matches!(what, CursorOp::Truncate { .. }) && !cursor.is_writable {
            return Err(Error::ReadOnly);
        }
        if let Some(State::Failed(why)) = cursor.log.map(|index| self.logs[index].state) {
            return Err(why);
        }
        let is_first = cursor.ops.is_empty();
        cursor.stand_in_line(what, OPS_MAX)?;
        if !is_first {
            return Ok(Submitted::Pending);
        }
        // The usual pop is of what was read ahead: it is over at once.
        match self.serve_first(h.0) {
            Served::Ended(result) => {
                let cursor = &mut self.handles[h.0 as usize];
                cursor.ops.pop_front();
                cursor.outstanding -= 1;
                Ok(Submitted::Done(result))
            }
            Served::Moved => {
                self.handles[h.0 as usize].ops.pop_front();
                Ok(Submitted::Pending)
            }
            Served::Waits => Ok(Submitted::Pending),
        }
    }

    /// An operation that came before it was known which log it is for.
    pub(crate) fn resubmit(&mut self, handle: u32, what: CursorOp) {
        let op = what.op();
        self.handles[handle as usize].outstanding -= 1;
        let h = Handle(handle);
        let submitted = match what {
            CursorOp::Append { op, sga } => self.submit(h, op, LogOp::Append(sga)),
            other => self.submit_to_cursor(h, other),
        };
        let result = match submitted {
            Ok(Submitted::Pending) => return,
            Ok(Submitted::Done(result)) => result,
            Err(error) => Err(error),
        };
        self.handles[handle as usize].outstanding += 1;
        self.end(op, handle, result);
    }

    /// Serves those in line, as far as what they need is here.
    pub(crate) fn serve(&mut self, handle: u32) {
        while self.handles.get(handle as usize).is_some_and(|cursor| !cursor.ops.is_empty() && !cursor.is_closed) {
            let served = self.serve_first(handle);
            if matches!(served, Served::Waits) {
                return;
            }
            let Some(first) = self.handles[handle as usize].ops.pop_front() else { return };
            if let Served::Ended(result) = served {
                self.end(first.op(), handle, result);
            }
        }
        self.bury(handle);
    }

    fn serve_first(&mut self, handle: u32) -> Served {
        if self.waits_for_zombies(handle) {
            return Served::Waits;
        }
        let cursor = &mut self.handles[handle as usize];
        let Some(index) = cursor.log else { return Served::Waits };
        let log = &mut self.logs[index];
        match log.state {
            State::Ready => {}
            State::Failed(why) => return Served::Ended(Err(why)),
            _ => return Served::Waits,
        }
        let first_left = (log.descriptor.first_sequence, log.descriptor.first_position);
        let was_overtaken = cursor.is_placed && cursor.reader.expected < first_left.0;
        if was_overtaken && matches!(cursor.ops.front(), Some(CursorOp::Read { .. })) {
            return Served::Ended(Err(Error::NotFound));
        }
        // It may also stand at the end of an extent that is gone, before the record that is the first now.
        if !cursor.is_placed || was_overtaken || cursor.reader.position < first_left.1 {
            cursor.is_placed = true;
            cursor.reader.go(first_left.1, first_left.0, 0);
        }
        match cursor.ops.front_mut() {
            None | Some(CursorOp::Append { .. }) => Served::Waits,
            Some(&mut CursorOp::Truncate { op, target }) => {
                log.locating.push_back((op, handle, target));
                self.locate(index);
                Served::Moved
            }
            Some(&mut CursorOp::Read { len_max, .. }) => self.serve_read(handle, index, len_max),
            Some(CursorOp::Seek { target, begun, .. }) => {
                let (committed, layout) = (log.committed_sequence, &self.shared.layout);
                let wanted = (*target).clamp(first_left.0, committed + 1);
                if wanted == committed + 1 {
                    cursor.reader.go(log.committed_position, wanted, 0);
                } else if !std::mem::replace(begun, true) {
                    let (sequence, position) = log.nearest(wanted, layout);
                    // From where it stands, if that is nearer.
                    let here = cursor.reader.expected;
                    if !(sequence..=wanted).contains(&here) {
                        cursor.reader.go(position, sequence, 0);
                    }
                }
                self.serve_seek(handle, index, wanted)
            }
        }
    }

    fn serve_read(&mut self, handle: u32, index: usize, len_max: usize) -> Served {
        let (log, cursor) = (&self.logs[index], &mut self.handles[handle as usize]);
        if cursor.reader.expected > log.committed_sequence {
            if let Some(damage) = log.damage
                && damage.sequence == cursor.reader.expected
            {
                return Served::Ended(Err(Error::Corrupt));
            }
            return Served::Ended(Ok(Outcome::Popped(Popped::stream(Sga::new()))));
        }
        match self.read_on(handle, index) {
            Err(served) => served,
            Ok(mut payload) => {
                let cut = payload.len() > len_max;
                if cut {
                    match payload.split_to(len_max) {
                        Ok(front) => payload = front,
                        Err(error) => return Served::Ended(Err(error.into())),
                    }
                }
                Served::Ended(Ok(Outcome::Popped(Popped { sga: payload, from: None, cut })))
            }
        }
    }

    fn serve_seek(&mut self, handle: u32, index: usize, wanted: u64) -> Served {
        loop {
            let at = self.handles[handle as usize].reader.expected;
            if at >= wanted {
                return Served::Ended(Ok(Outcome::Sought { sequence: at }));
            }
            if let Err(served) = self.read_on(handle, index) {
                return served;
            }
        }
    }

    /// The payload of the next record of a cursor.
    fn read_on(&mut self, handle: u32, index: usize) -> Result<Sga, Served> {
        let ground = self.logs[index].ground(&self.shared.layout);
        loop {
            let cursor = &mut self.handles[handle as usize];
            let read = cursor.reader.step(&ground);
            match read {
                Read::Record(found) => return Ok(found.payload),
                Read::NeedData => {
                    self.fetch_for_cursor(handle, index, &ground);
                    // Without memory it has failed already; the next step says so.
                    if self.handles[handle as usize].reader.in_flight > 0 {
                        return Err(Served::Waits);
                    }
                }
                Read::Failed(error) => return Err(Served::Ended(Err(error))),
                Read::End | Read::Invalid { .. } => {
                    let position =
                        if let Read::Invalid { position } = read { position } else { cursor.reader.position };
                    let sequence = cursor.reader.expected;
                    let offset = self.logs[index].offset(position, &self.shared.layout).unwrap_or(0);
                    cursor.damage = Some(Damage { offset, sequence, lost: 1 });
                    return Err(Served::Ended(Err(Error::Corrupt)));
                }
            }
        }
    }

    fn fetch_for_cursor(&mut self, handle: u32, index: usize, ground: &Ground) {
        while let Some(fetch) = self.handles[handle as usize].reader.next_fetch(ground) {
            let offset = self.logs[index].offset(fetch.position, &self.shared.layout);
            match (offset, self.shared.read_memory(fetch.len)) {
                (Some(offset), Some(into)) => self.io.read(Transfer::Cursor { handle, fetch }, offset, into),
                (None, _) => self.handles[handle as usize].reader.refuse(fetch, Error::Corrupt),
                (_, None) => self.handles[handle as usize].reader.refuse(fetch, Error::NoBuffers),
            }
        }
    }

    /// Goes on with the truncation that is first in line.
    pub(crate) fn locate(&mut self, index: usize) {
        loop {
            let log = &mut self.logs[index];
            let Some(&(op, handle, target)) = log.locating.front() else { return };
            let (first, committed) = (log.descriptor.first_sequence, log.committed_sequence);
            let found = if target > committed + 1 {
                Err(Error::InvalidArgument)
            } else if target <= first {
                Ok(None)
            } else if target == committed + 1 {
                Ok(Some(log.committed_position))
            } else {
                match self.find(index, target) {
                    None => return,
                    Some(found) => found.map(Some),
                }
            };
            let log = &mut self.logs[index];
            log.locating.pop_front();
            log.locator.rest();
            match found {
                Err(error) => self.end(op, handle, Err(error)),
                Ok(None) if log.update.is_none() && !log.is_dirty => {
                    self.end(op, handle, Ok(Outcome::Truncated { sequence: first }));
                }
                // Behind those that are under way: what they free is to be durable, too.
                Ok(None) => {
                    log.truncating.push((op, handle, first));
                    log.is_dirty = true;
                    self.keep_descriptor(index);
                }
                Ok(Some(position)) => {
                    log.cut_front(target, position, &mut self.shared);
                    log.truncating.push((op, handle, target));
                    self.keep_descriptor(index);
                }
            }
        }
    }

    /// The position of a durable record. `None`: a fetch has to come back first.
    fn find(&mut self, index: usize, target: u64) -> Option<Result<u64, Error>> {
        let ground = self.logs[index].ground(&self.shared.layout);
        let (sequence, position) = self.logs[index].nearest(target, &self.shared.layout);
        let log = &mut self.logs[index];
        let is_left = log.locator.position >= log.descriptor.first_position;
        if !is_left || !(sequence..=target).contains(&log.locator.expected) {
            log.locator.go(position, sequence, 0);
        }
        loop {
            let log = &mut self.logs[index];
            if log.locator.expected == target {
                return Some(Ok(log.locator.position));
            }
            match log.locator.step(&ground) {
                Read::Record(_) => {}
                Read::NeedData => {
                    self.fetch_for_log(index, &ground);
                    if self.logs[index].locator.in_flight > 0 {
                        return None;
                    }
                }
                Read::Failed(error) => return Some(Err(error)),
                Read::End | Read::Invalid { .. } => return Some(Err(Error::Corrupt)),
            }
        }
    }

    /// The log of a handle has failed, or there is none.
    pub(crate) fn fail_cursor(&mut self, handle: u32, why: Error) {
        let cursor = &mut self.handles[handle as usize];
        cursor.failed = Some(why);
        let ops = std::mem::take(&mut cursor.ops);
        ops.into_iter().for_each(|waiting| self.end(waiting.op(), handle, Err(why)));
    }

    /// A handle that was closed is let go when nothing of it is under way.
    pub(crate) fn bury(&mut self, handle: u32) {
        if let Some(cursor) = self.handles.get(handle as usize)
            && cursor.is_closed
            && cursor.outstanding == 0
            && cursor.reader.in_flight == 0
        {
            let buried = self.handles.remove(handle as usize);
            let others = buried.log.map(|index| self.handles_of(index)).unwrap_or_default();
            others.into_iter().for_each(|other| self.serve(other));
        }
    }

    /// Who opens a log again and asks where it ends finds all that was appended before: what closed handles of the log have
    /// under way ends first, unless the log has failed.
    fn waits_for_zombies(&self, handle: u32) -> bool {
        let cursor = &self.handles[handle as usize];
        let asks = matches!(cursor.ops.front(), Some(CursorOp::Seek { target: u64::MAX, begun: false, .. }));
        asks && cursor.log.is_some_and(|index| {
            let is_zombie = |other: &Cursor| other.log == Some(index) && other.is_closed;
            self.logs[index].state == State::Ready && self.handles.iter().any(|(_, other)| is_zombie(other))
        })
    }
}
