//! Snapshots: begun on all shards while all are held, so that they are of one moment; written by each for itself; whole
//! when all are. Then the logs are cut off behind them.

mod asking;

use std::time::Duration;

use framework::pdpix::{Error, Sga};
use framework::{LogId, Outbox, Ticket};
use kv_engine::refusal::Refusal;

use super::notes::SavedNote;
use super::{Note, PIECE, TIMER_CONSIDER, TIMER_SAVE};
use crate::peer::Peer;
use crate::shard::Shard;

/// Elements that are written in one go, with whatever the clients do: as many as commands were carried out since the one
/// before, within these bounds. An element costs about a sixth of what a command does that comes alone, and as much as one of
/// many that come together: a snapshot takes its share of the core, and a request waits for one step at most.
const STEP_MIN: usize = 8;
const STEP_MAX: usize = 100;
/// While nobody asks for anything, a step is twice as long as the one before it, up to so many.
const STEP_IDLE_MAX: usize = 400;
/// While clients ask for something a core writes so many bytes a second of it: more than a log usually grows by, and little
/// of what a core and a disk can do.
const RATE: u64 = 96 << 20;
/// Bytes of a piece, and how many pieces may be under way. Their log is patient: fewer than it flushes of its own accord would
/// wait for its patience each time.
const BATCH: usize = PIECE;
const PIECES_MAX: usize = 56;
/// The log is made short by a snapshot when it is as long as the last one, and at least so long.
pub(super) const LOG_LEN_MIN: u64 = 64 << 20;

/// What was loaded from a file is tried to be kept so often.
const IMPORT_TRIES_MAX: u32 = 30;

/// How a snapshot was asked for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Way {
    /// BGSAVE, or nobody has.
    Behind,
    /// BGREWRITEAOF.
    Rewrite,
    /// SAVE.
    Wait,
    /// SHUTDOWN.
    Shutdown,
}

/// A snapshot that this shard writes.
#[derive(Debug)]
pub(crate) struct Saving {
    generation: u64,
    leader: usize,
    /// SHUTDOWN waits for it.
    is_for_the_end: bool,
    /// Which log of snapshots it comes into.
    place: usize,
    /// The first record that is not in it, and a piece of the log that is not behind it: the nearest, if that is known.
    next: u64,
    from: u64,
    is_from_known: bool,
    pieces: Vec<Ticket>,
    /// What was taken out and is not on its way yet.
    unsent: Sga,
    first: Option<u64>,
    last: u64,
    /// All of it was taken out.
    is_written: bool,
    /// It could not be written, and its leader was told so.
    has_failed: bool,
    is_timer_set: bool,
    /// How long the last step was, the commands up to then, and how long it rests after that.
    step: usize,
    commands: u64,
    pause: Duration,
    note: Option<Ticket>,
    noted: u64,
    pub(super) len: u64,
    /// Bytes of the log when it was begun, and the space that they take.
    log_len: u64,
    log_space: u64,
    started: framework::pdpix::Instant,
    changes: u64,
}

impl Saving {
    /// How long it has been under way.
    pub fn seconds(&self, now: framework::pdpix::Instant) -> u64 {
        now.since(self.started).as_secs()
    }

    /// Nothing is left to be written but the note that says so.
    fn is_to_be_noted(&self) -> bool {
        self.is_written && !self.has_failed && self.unsent.is_empty() && self.pieces.is_empty() && self.note.is_none()
    }
}

/// A snapshot of all shards that this one leads.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Lead {
    generation: u64,
    left: usize,
    is_fine: bool,
    /// The task that waits for its end.
    task: Option<u32>,
    way: Way,
}

// Writing it.
impl Shard {
    /// Begins, at this moment.
    pub(crate) fn begin_snapshot(
        &mut self,
        generation: u64,
        (leader, is_for_the_end): (usize, bool),
        out: &mut Outbox<'_, Shard>,
    ) -> Result<(), Refusal> {
        debug_assert!(generation > self.persistence.generation, "the numbers of snapshots go up");
        self.persistence.generation = generation;
        if self.persistence.saving.is_some() || self.persistence.is_loading && !self.persistence.is_importing {
            return Err(Refusal::SavingAlready);
        }
        self.commit_before_hold(out);
        self.hurry_log(out); // the snapshot waits until it is known where the log goes on behind it
        let next = self.persistence.appended + 1;
        let created = (out.wall().as_millis() / 1000).to_string();
        self.engine.begin_snapshot([("redis-ver", kv_engine::info::REDIS_VERSION), ("ctime", created.as_str())]);
        self.persistence.saving = Some(Box::new(Saving {
            generation,
            leader,
            is_for_the_end,
            place: 1 - self.persistence.kept,
            next,
            from: self.persistence.durable_sequence + 1,
            is_from_known: false,
            pieces: Vec::new(),
            unsent: Sga::new(),
            first: None,
            last: 0,
            is_written: false,
            has_failed: false,
            is_timer_set: false,
            step: STEP_MIN,
            commands: 0,
            pause: Duration::ZERO,
            note: None,
            noted: 0,
            len: 0,
            log_len: std::mem::take(&mut self.persistence.told.log_size),
            log_space: self.persistence.log_space,
            started: out.now(),
            changes: self.engine.stats().changes,
        }));
        self.note_cut();
        self.set_save_timer(Duration::ZERO, out);
        Ok(())
    }

    fn set_save_timer(&mut self, after: Duration, out: &mut Outbox<'_, Shard>) {
        if let Some(saving) = &mut self.persistence.saving
            && !std::mem::replace(&mut saving.is_timer_set, true)
        {
            out.set_timer(after, TIMER_SAVE);
        }
    }

    /// Notes where the log goes on behind the snapshot, once that is known.
    pub(crate) fn note_cut(&mut self) {
        let (durable, sequence) = (self.persistence.durable, self.persistence.durable_sequence);
        if let Some(saving) = &mut self.persistence.saving
            && !saving.is_from_known
            && durable >= saving.next - 1
        {
            saving.is_from_known = true;
            if durable == saving.next - 1 {
                saving.from = sequence + 1;
            }
        }
    }

    pub(crate) fn on_save_timer(&mut self, out: &mut Outbox<'_, Shard>) {
        if let Some(saving) = &mut self.persistence.saving {
            saving.is_timer_set = false;
            self.save_on(out);
        }
    }

    /// Writes some of it, if the disk has kept up.
    fn save_on(&mut self, out: &mut Outbox<'_, Shard>) {
        let Some(saving) = &self.persistence.saving else { return };
        if saving.has_failed || saving.is_timer_set || saving.pieces.len() >= PIECES_MAX {
            return;
        }
        if saving.unsent.is_empty() && !saving.is_written && !self.take_some(out) {
            return;
        }
        let (Some(logs), Some(saving)) = (self.persistence.logs, &mut self.persistence.saving) else { return };
        while saving.pieces.len() < PIECES_MAX && !saving.unsent.is_empty() {
            let len = saving.unsent.len().min(PIECE);
            let Ok(piece) = saving.unsent.split_to(len) else { return self.fail_saving(out) };
            saving.pieces.push(out.append(logs.snapshots[saving.place], piece));
        }
        if saving.is_written && saving.unsent.is_empty() {
            out.hurry_log(logs.snapshots[saving.place]);
        }
        if !saving.is_written && saving.pieces.len() < PIECES_MAX {
            let pause = saving.pause;
            self.set_save_timer(pause, out);
        }
    }

    /// Takes out what the engine writes next, once it is worth it. Whether there is some.
    fn take_some(&mut self, out: &mut Outbox<'_, Shard>) -> bool {
        let commands = self.commands + self.engine.stats().commands;
        // Where the log has grown long, or there is little room for it, the snapshot is what is wanted most.
        let is_urgent = self.persistence.is_log_long(self.args.log_len_max) || self.persistence.is_short_of_room();
        let Some(saving) = &mut self.persistence.saving else { return false };
        let since = commands - std::mem::replace(&mut saving.commands, commands).min(commands);
        saving.step = match since {
            0 => (saving.step * 2).min(STEP_IDLE_MAX),
            since => (since as usize).clamp(STEP_MIN, STEP_MAX),
        };
        let progress = self.engine.snapshot_step(saving.step);
        if !progress.is_written && progress.waiting < BATCH {
            self.set_save_timer(Duration::ZERO, out);
            return false;
        }
        let told = &mut self.persistence.told;
        (told.save_waiting_max, told.saved_ahead) = (progress.waiting_max as u64, progress.written_ahead);
        let taken = if progress.is_written { self.engine.end_snapshot() } else { self.engine.take_snapshot() };
        let (Ok(data), Some(saving)) = (taken, &mut self.persistence.saving) else {
            self.fail_saving(out);
            return false;
        };
        let may_rest = since > 0 && !is_urgent && !saving.is_for_the_end;
        saving.pause = Duration::from_nanos(if may_rest { data.len() as u64 * 1_000_000_000 / RATE } else { 0 });
        saving.is_written = progress.is_written;
        saving.len += data.len() as u64;
        saving.unsent = data;
        let len = saving.len;
        if self.persistence.is_importing && self.persistence.is_too_long_for_two(len) {
            self.give_up(
                "the file was loaded, and takes so much of the disk that no second snapshot fits beside the first: \
                 storage.size should be about four times the data of a core",
                out,
            );
            return false;
        }
        if self.persistence.is_over_room() {
            self.fail_saving(out);
            return false;
        }
        true
    }

    /// A piece, or the note behind them, is durable, or is not.
    pub(crate) fn on_saved_piece(
        &mut self,
        log: LogId,
        ticket: Ticket,
        result: Result<u64, Error>,
        out: &mut Outbox<'_, Shard>,
    ) {
        let Some(logs) = self.persistence.logs else { return };
        if log == logs.notes && self.on_voided(ticket, result, out) {
            return;
        }
        let place = logs.snapshots.iter().position(|snapshots| *snapshots == log);
        let is_known = |saving: &Saving| saving.note == Some(ticket) || saving.pieces.contains(&ticket);
        if let (Some(place), Ok(sequence)) = (place, result) {
            self.persistence.snapshot_ends[place] = sequence + 1;
            if !self.persistence.saving.as_deref().is_some_and(is_known) {
                // Of one that was given up while this was on its way.
                out.truncate_log(log, sequence + 1);
            }
        }
        let Some(saving) = &mut self.persistence.saving else { return };
        if saving.note == Some(ticket) {
            match result {
                Ok(sequence) => {
                    saving.noted = sequence;
                    let (generation, leader) = (saving.generation, saving.leader);
                    self.tell_saved(generation, leader, true, out);
                }
                Err(_) => self.fail_saving(out),
            }
            return;
        }
        let Some(index) = saving.pieces.iter().position(|piece| *piece == ticket) else { return };
        saving.pieces.remove(index);
        match result {
            Ok(sequence) => {
                saving.first.get_or_insert(sequence);
                saving.last = saving.last.max(sequence);
                if saving.is_to_be_noted() {
                    self.note_snapshot(out);
                } else {
                    self.save_on(out);
                }
            }
            Err(_) => self.fail_saving(out),
        }
    }

    /// All pieces are durable: says so, durably.
    fn note_snapshot(&mut self, out: &mut Outbox<'_, Shard>) {
        let (Some(logs), Some(saving)) = (self.persistence.logs, &mut self.persistence.saving) else { return };
        // The log is behind. With one that has failed it will never be known.
        if !saving.is_from_known && self.persistence.failed.is_none() {
            return self.set_note_timer(out);
        }
        let note = Note::Saved(SavedNote {
            cores: self.shards as u16,
            place: saving.place as u8,
            generation: saving.generation,
            first: saving.first.unwrap_or(1),
            last: saving.last,
            next: saving.next,
            from: saving.from,
        });
        match out.heap().copy(&note.write()) {
            Ok(data) => saving.note = Some(out.append(logs.notes, Sga::from(data))),
            Err(_) => self.fail_saving(out),
        }
    }

    fn set_note_timer(&mut self, out: &mut Outbox<'_, Shard>) {
        self.set_save_timer(Duration::from_millis(1), out);
    }

    /// The timer of one that is written and not noted.
    pub(crate) fn try_note(&mut self, out: &mut Outbox<'_, Shard>) {
        if self.persistence.saving.as_ref().is_some_and(|saving| saving.is_to_be_noted()) {
            self.note_snapshot(out);
        }
    }

    /// It cannot be written: nothing of it is noted from now on, and its leader is told, once.
    #[cold]
    fn fail_saving(&mut self, out: &mut Outbox<'_, Shard>) {
        self.engine.abort_snapshot();
        let Some(saving) = &mut self.persistence.saving else { return };
        if std::mem::replace(&mut saving.has_failed, true) {
            return;
        }
        saving.pieces.clear();
        saving.unsent = Sga::new();
        saving.note = None;
        let (generation, leader, place) = (saving.generation, saving.leader, saving.place);
        self.empty(place, out);
        self.tell_saved(generation, leader, false, out);
    }

    /// Frees what a log of snapshots has. (What is still on its way there is freed when it is over.)
    fn empty(&mut self, place: usize, out: &mut Outbox<'_, Shard>) {
        let Some(logs) = self.persistence.logs else { return };
        let end = self.persistence.snapshot_ends[place];
        if end > 1 {
            out.truncate_log(logs.snapshots[place], end);
        }
    }

    /// The service is being stopped, which is not to wait for a snapshot; unless it is stopped when that is whole. One that is
    /// being noted stays: others may learn that it is whole here, and cut off what is before it.
    pub(crate) fn stop_saving(&mut self, out: &mut Outbox<'_, Shard>) {
        if self.persistence.saving.as_ref().is_some_and(|saving| !saving.is_for_the_end && saving.note.is_none()) {
            self.fail_saving(out);
        }
    }

    /// When it has begun: what lies beside the snapshot that was loaded came to nothing.
    pub(crate) fn forget_unfinished(&mut self, kept: Option<usize>, out: &mut Outbox<'_, Shard>) {
        self.persistence.kept = kept.unwrap_or(1);
        if !self.persistence.is_read_only {
            (0..2).filter(|&place| Some(place) != kept).for_each(|place| self.empty(place, out));
        }
        self.look_at_room(out);
    }

    fn tell_saved(&mut self, generation: u64, leader: usize, is_fine: bool, out: &mut Outbox<'_, Shard>) {
        if leader == self.index {
            self.on_saved(generation, is_fine, out);
        } else {
            self.tell(leader, Peer::Saved { generation, is_fine }, out);
        }
    }

    /// It is over, on all shards: whole, and what was before it is not needed any more; or given up.
    pub(crate) fn on_complete(&mut self, generation: u64, is_fine: bool, out: &mut Outbox<'_, Shard>) {
        if self.persistence.saving.as_ref().is_none_or(|saving| saving.generation != generation) {
            return;
        }
        let (Some(saving), Some(logs)) = (self.persistence.saving.take(), self.persistence.logs) else { return };
        debug_assert!(!is_fine || !saving.has_failed, "nobody says that it is whole of what was given up");
        let told = &mut self.persistence.told;
        told.save_failed = !is_fine;
        if self.persistence.is_importing && is_fine {
            (self.persistence.is_importing, self.persistence.is_loading) = (false, false);
        } else if self.persistence.is_importing {
            // Another shard had not come so far, or there is no room.
            self.persistence.import_tries += 1;
            if self.persistence.import_tries > IMPORT_TRIES_MAX {
                return self.give_up("the file was loaded, and could not be kept: is there room for it?", out);
            }
        }
        if !is_fine {
            self.engine.abort_snapshot();
            self.empty(saving.place, out);
            self.persistence.told.log_size += saving.log_len;
            self.persistence.try_again = Some(out.now() + Duration::from_secs(5));
            return;
        }
        told.saves += 1;
        told.save_seconds = Some(out.now().since(saving.started).as_secs());
        self.persistence.try_again = None;
        self.persistence.saved_len = saving.len;
        self.persistence.changes_saved = saving.changes;
        self.persistence.last_save = Some(out.wall().as_millis() / 1000);
        if saving.from > 1 {
            out.truncate_log(logs.commands, saving.from);
        }
        self.empty(self.persistence.kept, out);
        self.persistence.kept = saving.place;
        self.persistence.log_space -= saving.log_space.min(self.persistence.log_space);
        out.truncate_log(logs.notes, saving.noted);
        self.look_at_room(out);
        self.mend_log(saving.next, out);
    }

    pub(crate) fn set_consider_timer(&mut self, out: &mut Outbox<'_, Shard>) {
        if !std::mem::replace(&mut self.persistence.is_considering, true) {
            out.set_timer(Duration::ZERO, TIMER_CONSIDER);
        }
    }

    /// Now and then: whether the log should be made short, or a failed one be tried again.
    pub(crate) fn consider_saving(&mut self, out: &mut Outbox<'_, Shard>) {
        self.persistence.is_considering = false;
        let persistence = &self.persistence;
        if persistence.is_importing {
            // Again and again, as the others may not have come so far.
            if self.index == 0 && persistence.saving.is_none() && !persistence.is_asked {
                self.persistence.is_asked = true;
                self.begin_saving(None, Way::Behind, out);
            }
            return;
        }
        if !persistence.has_storage
            || persistence.is_read_only
            || persistence.is_loading
            || persistence.saving.is_some()
            || persistence.is_asked
            || self.stopping
        {
            return;
        }
        let is_long = persistence.is_log_long(self.args.log_len_max);
        let is_time = persistence.try_again.is_none_or(|at| at <= out.now());
        if is_time && (is_long || persistence.failed.is_some() || persistence.is_short_of_room()) {
            self.persistence.is_asked = true;
            self.begin_saving(None, Way::Behind, out);
        }
    }
}
