//! What a shard keeps on disk: a log of its changes, snapshots, and what is told of them.
//!
//! A shard has four logs on the core's storage: `kv.commands` (records of the engine, each in pieces of at most
//! `PIECE` bytes), `kv.snapshots.0` and `.1` (RDB files, in pieces: the last whole one in one of them, the next one comes
//! into the other, which is emptied if that fails), and `kv.notes` (which snapshot is whole, where it lies, and what of the
//! commands does not count). With `always` nothing is answered that is not durable: who reads what another has just
//! written waits for that one's flush, too. Answers gather in their sessions, which are held meanwhile (the framework's
//! `hold`); one append carries all that was written while the one before it was under way.
//!
//! Always: a record is appended after all before it, and nothing after a failed one: from then on writes are refused
//! (MISCONF) until a snapshot, which holds what the log has not, is durable. What was executed and could not be made
//! durable is never acknowledged: its connections end.
//! A command over several shards is a record on each of them (`Joint`); with `always` they stay held until all records are
//! durable. So a joint record that is missing elsewhere is followed by nothing that was acknowledged.
//!
//! Source: Redis's AOF and its `appendfsync`; group commit. docs/persistence.md has the formats and what is promised.

mod failure;
mod notes;
mod recovery;
mod room;
mod saving;
mod waitaof;

use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;

use framework::pdpix::{Error, Instant, OpenMode, Sga, WallTime};
use framework::runtime::CarriedBuf;
use framework::{LogId, LogSettings, Outbox, SessionId, Ticket};
use kv_engine::command::{Command, Flags};
use kv_engine::info;
use kv_engine::log::{Joint, pieces};
use kv_engine::refusal::Refusal;

use crate::ServerArgs;
use crate::peer::{Claim, Failure, LogState, Peer};
use crate::shard::Shard;
use crate::task::Waiting;

pub(crate) use notes::Note;
pub(crate) use recovery::Recovery;
pub use recovery::{Found, Progress};
pub use room::Room;
use room::space_of;
pub(crate) use saving::{Lead, Saving, Way};

/// Names of timers.
pub(crate) const TIMER_COMMIT: u64 = 16;
pub(crate) const TIMER_SAVE: u64 = 17;
pub(crate) const TIMER_LOAD: u64 = 18;
pub(crate) const TIMER_CONSIDER: u64 = 19;

/// When an answer is given to who has changed something.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum Durability {
    /// At once; no log is kept.
    #[default]
    None,
    /// At once; what is not older than a second may be lost.
    EverySecond,
    /// When it is durable.
    Always,
}

/// Bytes of a piece of a record: a journal takes at least so many.
pub(crate) const PIECE: usize = 60 << 10;
/// So many are under way at once: what a journal takes in before it is durable, and fewer than it lets wait.
const APPENDS_MAX: usize = 128;
/// When more wait for that, those who write wait too.
const UNSENT_MAX: usize = 256;

/// So long after the first change the log is written, without `always`: what is lost is at most that and a flush.
const SECOND: Duration = Duration::from_millis(500);
/// The longest that an append waits for those who were just answered.
const GATHER_MAX: Duration = Duration::from_micros(500);
/// How long the journal holds a page back that is not full, and then its flush, where nobody waits for it: flushes and
/// writes cost more than all else, so there are to be few. Twice that, and the time above, is less than a second.
const PATIENCE: Duration = Duration::from_millis(200);
const _: () = assert!(SECOND.as_millis() + 2 * PATIENCE.as_millis() < 1000);
/// A record is also ended when so many bytes wait: while they are still in the cache, and go as one piece.
const WAITING_MAX: usize = PIECE - (4 << 10);
/// The same with `always`.
const WAITING_MAX_ALWAYS: usize = 64 << 10;

/// What the logs of a shard are.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Logs {
    pub commands: LogId,
    pub snapshots: [LogId; 2],
    pub notes: LogId,
}

/// Who waits for something to be durable.
#[derive(Debug)]
pub(crate) enum Waiter {
    /// Replies for a client of another core.
    Ran { core: usize, task: u32, replies: Option<Vec<CarriedBuf>> },
    /// Whoever holds this shard, and whether it has written something.
    Logged(Claim, bool),
    /// Who has asked when all is durable (WAITAOF).
    Asked(Claim),
}

/// An append under way.
#[derive(Debug)]
struct Append {
    ticket: Ticket,
    record: u64,
    is_last: bool,
    len: usize,
    at: Instant,
}

/// Everything that a shard knows of its disk.
#[derive(Debug, Default)]
pub(crate) struct Persistence {
    pub durability: Durability,
    /// There is a storage.
    pub has_storage: bool,
    pub is_read_only: bool,
    pub logs: Option<Logs>,
    pub recovery: Option<Box<Recovery>>,
    /// What was loaded from a file of Redis's is not durable yet.
    pub is_importing: bool,
    pub import_tries: u32,
    /// Data is being loaded, here or elsewhere.
    pub is_loading: bool,
    appends: VecDeque<Append>,
    /// Pieces that wait until fewer are: each with its record, and whether it is that one's last.
    unsent: VecDeque<(Sga, u64, bool)>,
    /// Who waits, since the disk is behind.
    behind: VecDeque<Waiting>,
    /// The last record that was appended, and the last that is durable, with the number of its last piece in the log.
    pub appended: u64,
    pub durable: u64,
    /// Up to this record somebody waits.
    hurries_to: u64,
    pub durable_sequence: u64,
    is_timer_set: bool,
    /// With `always`: how many waited for the last flush or wait for the next, and until when the next append waits for
    /// as many. Those who were just answered mostly write again at once: without them each flush would carry half.
    gather: Option<(usize, Instant)>,
    /// How long an append takes, of late.
    flush_time: Duration,
    is_considering: bool,
    /// This shard has asked for a snapshot of its own accord, and it is not begun.
    is_asked: bool,
    /// Sessions that are held, each with the record that it waits for.
    held: VecDeque<(SessionId, u64)>,
    waiting: VecDeque<(u64, Waiter)>,
    /// Why this shard's log cannot be written to.
    pub failed: Option<Error>,
    log_version: u32,
    /// The last record that was given up since it failed. A snapshot without it is no substitute for the log.
    dropped: u64,
    /// What was last heard of that of each shard; and why that of any cannot: writes are refused.
    log_states: BTreeMap<u8, LogState>,
    pub refuses: Option<Error>,
    pub try_again: Option<Instant>,
    pub generation: u64,
    pub saving: Option<Box<Saving>>,
    pub lead: Option<Lead>,
    pub last_save: Option<u64>,
    /// Bytes of the last snapshot.
    pub saved_len: u64,
    /// Which log of snapshots has it, and the next piece of each.
    kept: usize,
    snapshot_ends: [u64; 2],
    /// The space that the log takes on the disk, about.
    log_space: u64,
    storage_len: u64,
    /// Shards whose disk has little room left.
    short_of_room: BTreeMap<u8, Room>,
    pub told: info::Persistence,
    /// The engine's changes when the last snapshot was begun.
    pub changes_saved: u64,
    /// Joint records are named from here on.
    pub next_joint: u64,
    /// No record is older than this.
    last_wall: WallTime,
}

impl Persistence {
    pub fn new(args: &ServerArgs) -> Persistence {
        let ServerArgs { durability, has_storage, is_read_only, .. } = *args;
        // What the journal needs for itself: descriptors, and extents that its logs have only begun.
        let storage_len = args.storage_len.saturating_sub((args.storage_len / 16).max(1 << 20));
        let refuses = is_read_only.then_some(Error::ReadOnly);
        let mut persistence =
            Persistence { durability, has_storage, is_read_only, refuses, storage_len, ..Persistence::default() };
        persistence.told.log_failed = is_read_only;
        persistence
    }

    /// Why a command is not carried out now.
    #[inline]
    pub fn refusal(&self, command: &Command) -> Option<Refusal> {
        if !self.is_loading && self.refuses.is_none() && self.short_of_room.is_empty() {
            return None;
        }
        if self.is_loading && !command.flags.contains(Flags::LOADING) {
            return Some(Refusal::Loading);
        }
        let short = self.refusal_for_room(command);
        self.refuses.filter(|_| command.flags.contains(Flags::WRITE)).or(short).map(Refusal::NotWritable)
    }

    /// Whether the log of a shard can be written to, as it says itself or another one does.
    pub fn on_log_state(&mut self, state: LogState) {
        let known = self.log_states.entry(state.of).or_insert(state);
        if known.version <= state.version {
            *known = state;
        }
        let read_only = self.is_read_only.then_some(Error::ReadOnly);
        self.refuses = self.failure().map(|failure| failure.error).or(read_only);
    }

    /// A log that cannot be written to, if there is one.
    pub fn failure(&self) -> Option<Failure> {
        let failures = self
            .log_states
            .values()
            .filter_map(|&LogState { of, version, error }| error.map(|error| Failure { of, version, error }));
        failures.into_iter().next()
    }

    /// So much waits to be written that more is not taken now.
    #[inline]
    pub fn is_behind(&self) -> bool {
        self.unsent.len() > UNSENT_MAX
    }

    /// To be carried out when the disk has caught up.
    pub fn line_up(&mut self, waiting: Waiting) {
        self.behind.push_back(waiting);
    }

    /// Bytes appended and not known to be durable.
    pub fn pending(&self) -> usize {
        self.appends.iter().map(|append| append.len).chain(self.unsent.iter().map(|(data, ..)| data.len())).sum()
    }

    pub fn is_always(&self) -> bool {
        self.durability == Durability::Always
    }
}

// Appending.
impl Shard {
    /// The time for what is written down: it never goes back.
    #[inline]
    pub(crate) fn time(&mut self, out: &Outbox<'_, Shard>) -> WallTime {
        let now = out.wall();
        if self.persistence.durability == Durability::None {
            return now;
        }
        self.persistence.last_wall = self.persistence.last_wall.max(now);
        self.persistence.last_wall
    }

    pub(crate) fn set_time(&mut self, millis: u64) {
        let at = WallTime::from_nanos(millis.saturating_mul(1_000_000));
        self.persistence.last_wall = self.persistence.last_wall.max(at);
    }

    /// The record that all that was changed so far is in, or will be.
    #[inline]
    fn mark(&self) -> u64 {
        if self.engine.log_waiting() > 0 { self.engine.next_record() } else { self.persistence.appended }
    }

    /// What may be answered at once: all that it may have seen is durable, or that is not asked for.
    #[inline]
    fn is_durable(&self, mark: u64) -> bool {
        #[cfg(margay_planted_bug = "answer_before_flush")]
        return true;
        #[cfg(not(margay_planted_bug = "answer_before_flush"))]
        return !self.persistence.is_always() || mark <= self.persistence.durable;
    }

    /// Something was carried out for a session: what it is answered waits until that is durable.
    #[inline]
    pub(crate) fn hold_answer(&mut self, id: SessionId, out: &mut Outbox<'_, Shard>) {
        if !self.persistence.is_always() {
            return;
        }
        let mark = self.mark();
        if self.is_durable(mark) {
            return;
        }
        let Some(client) = self.clients.get_mut(id) else { return };
        let before = std::mem::replace(&mut client.answered_by, mark);
        if !client.is_held {
            client.is_held = true;
            out.hold(id);
            self.persistence.held.push_back((id, mark));
        } else if before < mark && self.persistence.held.back().is_none_or(|&(last, _)| last != id) {
            self.persistence.held.push_back((id, mark));
        }
    }

    /// After each event: sees to it that what was changed is written.
    #[inline]
    pub(crate) fn after_event(&mut self, out: &mut Outbox<'_, Shard>) {
        let waiting = self.engine.log_waiting();
        if waiting == 0 {
            return;
        }
        self.schedule(waiting, out);
    }

    fn schedule(&mut self, waiting: usize, out: &mut Outbox<'_, Shard>) {
        let most = if self.persistence.is_always() { WAITING_MAX_ALWAYS } else { WAITING_MAX };
        if waiting > most || self.stopping {
            return self.commit(out);
        }
        if let Some((count, until)) = self.persistence.gather {
            let here = self.persistence.held.len() + self.persistence.waiting.len();
            if here >= count || out.now() >= until {
                self.persistence.gather = None;
                return self.commit(out);
            }
        }
        if self.persistence.is_timer_set || self.persistence.is_always() && !self.persistence.appends.is_empty() {
            return;
        }
        self.persistence.is_timer_set = true;
        // With `always`: when all that has arrived was carried out.
        let after = match self.persistence.gather {
            Some((_, until)) => until.since(out.now()),
            None if self.persistence.is_always() => Duration::ZERO,
            None => SECOND,
        };
        out.set_timer(after, TIMER_COMMIT);
    }

    pub(crate) fn on_commit_timer(&mut self, out: &mut Outbox<'_, Shard>) {
        self.persistence.is_timer_set = false;
        if self.persistence.is_always() && !self.persistence.appends.is_empty() {
            return; // what is under way first: its end brings us back
        }
        // It may be the timer of an append that did not wait for it.
        let waiting = self.engine.log_waiting();
        if self.persistence.gather.is_some_and(|(_, until)| until > out.now()) && waiting > 0 {
            return self.schedule(waiting, out);
        }
        self.persistence.gather = None;
        self.commit(out);
    }

    /// Appends what was changed as a record, unless it is a part of something that is not done.
    pub(crate) fn commit(&mut self, out: &mut Outbox<'_, Shard>) {
        if self.engine.log_waiting() > 0 && self.hold.is_free() {
            self.append_record(None, out);
        }
    }

    /// The same before a shard is held.
    pub(crate) fn commit_before_hold(&mut self, out: &mut Outbox<'_, Shard>) {
        if self.engine.log_waiting() > 0 {
            self.append_record(None, out);
        }
    }

    fn append_record(&mut self, joint: Option<&Joint>, out: &mut Outbox<'_, Shard>) {
        let record = self.engine.next_record();
        let taken = self.engine.take_record(joint);
        if self.persistence.logs.is_none() {
            return;
        }
        if self.persistence.failed.is_some() {
            // What could not be written down is in the next snapshot.
            self.persistence.appended = record;
            return self.give_up_waiting(out);
        }
        let Ok(Some(data)) = taken else {
            if taken.is_err() {
                self.persistence.appended = record;
                self.fail_log(Error::NoBuffers, out);
            }
            return;
        };
        self.persistence.appended = record;
        self.persistence.told.log_size += data.len() as u64;
        self.persistence.log_space += space_of(data.len(), self.args.storage_unit);
        self.look_at_room(out);
        if self.persistence.is_log_long(self.args.log_len_max) && self.persistence.saving.is_none() {
            // Soon, and not only when there is nothing better to do.
            self.set_consider_timer(out);
        }
        let Ok(mut pieces) = pieces(data, record, PIECE, out.heap()) else {
            return self.fail_log(Error::NoBuffers, out);
        };
        let last = pieces.pop_back();
        self.persistence.unsent.extend(pieces.into_iter().map(|piece| (piece, record, false)));
        self.persistence.unsent.extend(last.map(|last| (last, record, true)));
        self.send_on(out);
        if self.stopping {
            self.hurry_log(out);
        }
    }

    /// Somebody waits for what was appended so far.
    pub(crate) fn hurry_log(&mut self, out: &mut Outbox<'_, Shard>) {
        self.persistence.hurries_to = self.persistence.appended;
        self.hurry_on(out);
    }

    /// What was under way is in a hurry; what was not, when it is.
    fn hurry_on(&self, out: &mut Outbox<'_, Shard>) {
        if let Some(logs) = self.persistence.logs
            && self.persistence.durability == Durability::EverySecond
            && self.persistence.hurries_to > self.persistence.durable
        {
            out.hurry_log(logs.commands);
        }
    }

    /// Appends what waits, as far as there may be more under way.
    fn send_on(&mut self, out: &mut Outbox<'_, Shard>) {
        let Some(logs) = self.persistence.logs else { return };
        while self.persistence.appends.len() < APPENDS_MAX
            && let Some((data, record, is_last)) = self.persistence.unsent.pop_front()
        {
            let len = data.len();
            let ticket = out.append(logs.commands, data);
            self.persistence.appends.push_back(Append { ticket, record, is_last, len, at: out.now() });
        }
        self.hurry_on(out);
    }

    /// Those who have waited for the disk go on, as far as it keeps up.
    fn let_on(&mut self, out: &mut Outbox<'_, Shard>) {
        while !self.persistence.is_behind()
            && let Some(waiting) = self.persistence.behind.pop_front()
        {
            self.end_wait(waiting, out);
        }
    }

    /// The record of a command over several shards, as far as it concerns this one.
    pub(crate) fn append_joint(&mut self, joint: Option<&Joint>, out: &mut Outbox<'_, Shard>) {
        if joint.is_some() && self.engine.keeps_log() {
            self.append_record(joint, out);
        }
    }

    /// Whoever waits is told when all that was appended so far is durable: at once, if it is.
    pub(crate) fn when_durable(&mut self, waiter: Waiter, out: &mut Outbox<'_, Shard>) {
        let mark = self.mark();
        if mark <= self.persistence.durable || self.persistence.appended == mark && self.persistence.failed.is_some() {
            let is_fine = self.persistence.failed.is_none();
            return self.tell_waiter(waiter, is_fine, out);
        }
        self.persistence.waiting.push_back((mark, waiter));
    }

    /// The same, for what only needs that with `always`.
    pub(crate) fn when_answerable(&mut self, waiter: Waiter, out: &mut Outbox<'_, Shard>) {
        if self.is_durable(self.mark()) {
            let is_fine = self.persistence.failed.is_none() || !matches!(waiter, Waiter::Logged(_, true));
            return self.tell_waiter(waiter, is_fine, out);
        }
        self.persistence.waiting.push_back((self.mark(), waiter));
    }

    fn tell_waiter(&mut self, waiter: Waiter, is_fine: bool, out: &mut Outbox<'_, Shard>) {
        match waiter {
            Waiter::Ran { core, task, replies } => {
                self.tell(core, Peer::Ran { task, replies: replies.filter(|_| is_fine) }, out);
            }
            Waiter::Logged(Claim { core, task }, writes) => {
                // Where any log has failed, what was written here may follow something that is not whole: the next start would
                // leave it out, durable as it is.
                let failure = self.persistence.failure().filter(|_| writes || !is_fine);
                if usize::from(core) == self.index {
                    self.on_logged(task, failure, out);
                } else {
                    self.tell(usize::from(core), Peer::Logged { task, failure }, out);
                }
            }
            Waiter::Asked(Claim { core, task }) => self.answer_wait(core, task, is_fine, out),
        }
    }
}

// What has become of it.
impl Shard {
    pub(crate) fn on_durable(
        &mut self,
        log: LogId,
        ticket: Ticket,
        result: Result<u64, Error>,
        out: &mut Outbox<'_, Shard>,
    ) {
        let Some(logs) = self.persistence.logs else { return };
        if log != logs.commands {
            return self.on_saved_piece(log, ticket, result, out);
        }
        let Some(index) = self.persistence.appends.iter().position(|append| append.ticket == ticket) else { return };
        match result {
            Err(error) => self.fail_log(error, out),
            Ok(sequence) => {
                // They end in their order.
                for append in self.persistence.appends.drain(..=index) {
                    let took = out.now().since(append.at);
                    self.persistence.flush_time = (self.persistence.flush_time * 7 + took) / 8;
                    if append.is_last {
                        self.persistence.durable = append.record;
                    }
                }
                self.persistence.durable_sequence = sequence;
                self.send_on(out);
                self.on_progress(out);
                self.let_on(out);
            }
        }
    }

    fn on_progress(&mut self, out: &mut Outbox<'_, Shard>) {
        self.note_cut();
        let durable = self.persistence.durable;
        let count = self.persistence.held.len() + self.persistence.waiting.len();
        while let Some(&(id, mark)) = self.persistence.held.front()
            && mark <= durable
        {
            self.persistence.held.pop_front();
            self.release_answer(id, out);
        }
        while let Some(&(mark, _)) = self.persistence.waiting.front()
            && mark <= durable
        {
            if let Some((_, waiter)) = self.persistence.waiting.pop_front() {
                self.tell_waiter(waiter, true, out);
            }
        }
        if self.persistence.is_always() && self.persistence.appends.is_empty() {
            let patience = (self.persistence.flush_time / 2).min(GATHER_MAX);
            self.persistence.gather = Some((count, out.now() + patience));
        }
        let waiting = self.engine.log_waiting();
        if waiting > 0 {
            self.schedule(waiting, out);
        }
    }

    /// A session may be answered, unless it was answered something later meanwhile.
    pub(crate) fn release_answer(&mut self, id: SessionId, out: &mut Outbox<'_, Shard>) {
        let (durable, is_always) = (self.persistence.durable, self.persistence.is_always());
        let Some(client) = self.clients.get_mut(id) else { return };
        if client.answered_by > durable && is_always {
            // It asks on and on without waiting: it is to wait now, or it would never be answered.
            if !client.is_slowed {
                client.is_slowed = true;
                out.pause(id);
            }
            let by = client.answered_by;
            if self.persistence.held.back().is_none_or(|&(last, _)| last != id) {
                self.persistence.held.push_back((id, by));
            }
            return;
        }
        client.is_held = false;
        out.release(id);
        if std::mem::take(&mut client.is_slowed) && !client.held_back {
            out.resume(id);
        }
    }

    /// The service is being stopped: what waits is written.
    pub(crate) fn write_at_the_end(&mut self, out: &mut Outbox<'_, Shard>) {
        self.commit(out);
        self.hurry_log(out);
    }

    /// Opens the logs, if there are to be any, and begins to recover.
    pub(crate) fn open_logs(&mut self, out: &mut Outbox<'_, Shard>) {
        // What can only be read is served, and not changed.
        let mode = if self.persistence.is_read_only { OpenMode::ReadOnly } else { OpenMode::ExistingOrNew };
        let mut open = |name: &str, replay: bool, patience: Duration| {
            out.open_log(name, LogSettings { replay, mode, patience, ..LogSettings::default() })
        };
        let is_patient = self.persistence.durability == Durability::EverySecond;
        let notes = open("kv.notes", true, Duration::ZERO);
        let commands = open("kv.commands", false, if is_patient { PATIENCE } else { Duration::ZERO });
        let snapshots = ["kv.snapshots.0", "kv.snapshots.1"].map(|name| open(name, false, PATIENCE));
        self.persistence.logs = Some(Logs { commands, snapshots, notes });
    }
}
