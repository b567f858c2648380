//! How a shard comes by its data when it begins: the newest snapshot that every shard has, and the log behind it; or a file
//! of Redis's, if there is nothing.
//!
//! Shards recover at the same time. At a joint record each waits until all that it names have come to theirs; a shard whose
//! log ends without it has lost it, and then it does not count on any, and neither does what follows it (which nobody was
//! told of, see the parent's head). What does not count is noted, durably, before anything else is written.

mod file;
mod found;

use std::collections::BTreeMap;
use std::io::Read;

use framework::pdpix::storage::Damage;
use framework::pdpix::{Buf, Error};
use framework::{LogId, Outbox, Record, Ticket};
use kv_engine::log::{Assembly, LogError, RecordHead, head_of, in_one};
use kv_engine::rdb::Reader;
use kv_engine::shard::shard_of;

use super::notes::SavedNote;
use super::{Note, space_of};
use crate::peer::Peer;
use crate::shard::Shard;

pub use found::Found;

/// Records, and bytes of them, that are taken in at once.
const RECORDS: usize = 256;
const BYTES: usize = 1 << 20;

/// How far a shard is with loading.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Progress {
    /// Which.
    pub shard: usize,
    /// Bytes read so far.
    pub bytes: u64,
    /// Keys that it has.
    pub keys: u64,
    /// How many keys the file has that it reads, if that says so.
    pub keys_expected: u64,
    /// It has all.
    pub is_over: bool,
}

/// Where a shard is.
pub(crate) struct Recovery {
    notes: Vec<(u64, Note)>,
    ready: usize,
    /// First and next piece of the log of commands, and of those of snapshots.
    commands: (u64, u64),
    snapshots: [(u64, u64); 2],
    found: Vec<Option<Found>>,
    stage: Stage,
    reader: Reader,
    reading: Option<Ticket>,
    /// The next piece to be read.
    next: u64,
    saved: Option<SavedNote>,
    assembly: Assembly,
    /// The piece behind the last one that counts.
    counted: u64,
    /// Pieces that were read and not looked at.
    backlog: std::collections::VecDeque<Record>,
    /// The last record that was done again.
    last: u64,
    joint: Option<(u64, RecordHead, Buf)>,
    /// How many other shards have come to a joint record.
    reached: BTreeMap<u64, usize>,
    ended: Vec<bool>,
    has_ended: bool,
    /// Notes on their way: that this shard was made, and what does not count.
    making: Option<Ticket>,
    voiding: Option<Ticket>,
    file: Option<Box<dyn Read + Send>>,
    /// How many were opened.
    files: usize,
    bytes: u64,
}

impl std::fmt::Debug for Recovery {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Recovery({:?}, record {})", self.stage, self.last)
    }
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Stage {
    Notes,
    Snapshot,
    Commands,
    /// All own is done; others are not.
    Waiting,
    File,
}

impl Recovery {
    pub fn new(shards: usize) -> Recovery {
        Recovery {
            notes: Vec::new(),
            ready: 0,
            commands: (1, 1),
            snapshots: [(1, 1); 2],
            found: vec![None; shards],
            stage: Stage::Notes,
            reader: Reader::new(),
            reading: None,
            next: 1,
            saved: None,
            assembly: Assembly::default(),
            counted: 0,
            backlog: std::collections::VecDeque::new(),
            last: 0,
            joint: None,
            reached: BTreeMap::new(),
            ended: vec![false; shards],
            has_ended: false,
            making: None,
            voiding: None,
            file: None,
            files: 0,
            bytes: 0,
        }
    }

    fn voids(&self) -> impl Iterator<Item = (u64, u64)> {
        self.notes.iter().filter_map(|(_, note)| match *note {
            Note::Void { from, to } => Some((from, to)),
            _ => None,
        })
    }

    fn saved_notes(&self) -> impl Iterator<Item = SavedNote> {
        self.notes.iter().filter_map(|(_, note)| match note {
            Note::Saved(saved) => Some(*saved),
            _ => None,
        })
    }

    /// Those whose pieces are there. One that was given up may have its note, where that was on its way then; and so has one
    /// that came to nothing because of another shard.
    fn whole(&self) -> impl Iterator<Item = SavedNote> {
        self.saved_notes().filter(|saved| {
            let (first, next) = self.snapshots[usize::from(saved.place)];
            first <= saved.first && saved.last < next
        })
    }
}

// The logs.
impl Shard {
    /// Begins, if there is anything to load.
    pub(crate) fn begin_recovery(&mut self, out: &mut Outbox<'_, Shard>) {
        if !self.persistence.has_storage && self.args.load.is_none() {
            return;
        }
        self.persistence.is_loading = true;
        self.persistence.recovery = Some(Box::new(Recovery::new(self.shards)));
        if self.persistence.has_storage {
            self.open_logs(out);
        } else {
            let nothing =
                Found { generations: Vec::new(), newest: 0, was_complete: false, has_commands: false, is_new: false };
            self.tell_found(nothing, out);
        }
    }

    /// It cannot go on: says why, and ends the service.
    #[cold]
    pub(crate) fn give_up(&mut self, why: &str, out: &mut Outbox<'_, Shard>) {
        self.persistence.recovery = None;
        (self.args.on_trouble)(why);
        out.stop_service(1);
    }

    pub(crate) fn on_log_failed(
        &mut self,
        log: LogId,
        error: Error,
        damage: Option<Damage>,
        out: &mut Outbox<'_, Shard>,
    ) {
        let Some(logs) = self.persistence.logs else { return };
        if ![logs.commands, logs.notes].contains(&log) && !logs.snapshots.contains(&log) {
            return;
        }
        let name = match log {
            log if log == logs.commands => "commands",
            log if logs.snapshots.contains(&log) => "snapshots",
            _ => "notes",
        };
        let lost = damage.map_or_else(String::new, |damage| {
            format!("; at byte {} record {} is lost, and at least {} more", damage.offset, damage.sequence, damage.lost)
        });
        let way_out = match error {
            Error::ReadOnly => " (with --set storage.read_only=true what is there is served)",
            _ => "",
        };
        self.give_up(
            &format!("the log of {name} of core {} cannot be opened: {error}{lost}{way_out}", self.index),
            out,
        );
    }

    pub(crate) fn on_log_record(&mut self, record: Record, out: &mut Outbox<'_, Shard>) {
        let Some(recovery) = &mut self.persistence.recovery else { return };
        match Note::read(&record.data.to_vec()) {
            Some(note) => recovery.notes.push((record.sequence, note)),
            None => self.give_up("a note is of no known kind: the data was written by a newer version", out),
        }
    }

    pub(crate) fn on_log_ready(&mut self, log: LogId, first: u64, next: u64, out: &mut Outbox<'_, Shard>) {
        let (Some(logs), Some(recovery)) = (self.persistence.logs, &mut self.persistence.recovery) else { return };
        recovery.ready += 1;
        if log == logs.commands {
            recovery.commands = (first, next);
        }
        if let Some(place) = logs.snapshots.iter().position(|snapshots| *snapshots == log) {
            self.persistence.snapshot_ends[place] = next;
            recovery.snapshots[place] = (first, next);
        }
        if recovery.ready < 4 {
            return;
        }
        let made_for = recovery.notes.iter().rev().find_map(|(_, note)| match note {
            Note::Made { cores } | Note::Saved(SavedNote { cores, .. }) => Some(usize::from(*cores)),
            Note::Void { .. } => None,
        });
        if let Some(cores) = made_for
            && cores != self.shards
        {
            return self.give_up(
                &format!(
                    "the data was written with {cores} cores, and this is started with {}: give --cores {cores}; or \
                     move it: end it with SHUTDOWN SAVE, write `margay journal dump core-N.log --log kv.snapshots \
                     --raw` of each of its {cores} cores to a file, and give each file to a new directory with --load",
                    self.shards
                ),
                out,
            );
        }
        let generations = recovery.whole().map(|saved| saved.generation).collect();
        let newest = recovery.saved_notes().map(|saved| saved.generation).max().unwrap_or(0);
        let was_complete = matches!(recovery.notes.first(), Some((_, Note::Saved(_))));
        let has_commands = recovery.commands.1 > 1;
        self.tell_found(Found { generations, newest, was_complete, has_commands, is_new: made_for.is_none() }, out);
    }

    fn read_on(&mut self, out: &mut Outbox<'_, Shard>) {
        let (Some(logs), Some(recovery)) = (self.persistence.logs, &mut self.persistence.recovery) else { return };
        let log = match recovery.saved {
            Some(saved) if recovery.stage == Stage::Snapshot => logs.snapshots[usize::from(saved.place)],
            _ => logs.commands,
        };
        recovery.reading = Some(out.read_log(log, recovery.next, RECORDS, BYTES));
        let progress = Progress {
            shard: self.index,
            bytes: recovery.bytes,
            keys: (0..kv_engine::engine::DATABASES).map(|index| self.engine.size(index).keys as u64).sum(),
            keys_expected: recovery.reader.announced(),
            is_over: false,
        };
        (self.args.on_progress)(progress);
    }

    pub(crate) fn on_log_read(
        &mut self,
        log: LogId,
        ticket: Ticket,
        result: Result<Vec<Record>, Error>,
        out: &mut Outbox<'_, Shard>,
    ) {
        let Some(recovery) = &mut self.persistence.recovery else { return };
        if recovery.reading.take_if(|reading| *reading == ticket).is_none() {
            return;
        }
        let records = match result {
            Ok(records) => records,
            Err(error) => return self.on_log_failed(log, error, None, out),
        };
        if let Some(last) = records.last() {
            recovery.next = last.sequence + 1;
        }
        let bytes = records.iter().map(|record| record.data.len() as u64).sum::<u64>();
        recovery.bytes += bytes;
        // What is on the disk already counts for whether a snapshot is due.
        match recovery.stage {
            Stage::Snapshot => self.persistence.saved_len += bytes,
            Stage::Commands => {
                self.persistence.told.log_size += bytes;
                let unit = self.args.storage_unit;
                let space = records.iter().map(|record| space_of(record.data.len(), unit)).sum::<u64>();
                self.persistence.log_space += space;
            }
            _ => {}
        }
        match recovery.stage {
            Stage::Snapshot => self.load_snapshot(records, out),
            Stage::Commands if records.is_empty() => self.end_commands(out),
            Stage::Commands => {
                recovery.backlog.extend(records);
                self.replay_on(out);
            }
            _ => {}
        }
    }

    fn load_snapshot(&mut self, records: Vec<Record>, out: &mut Outbox<'_, Shard>) {
        let Some(recovery) = &mut self.persistence.recovery else { return };
        let Some(saved) = recovery.saved else { return };
        let is_empty = records.is_empty();
        for record in records.iter().filter(|record| record.sequence <= saved.last) {
            record.data.segments().iter().for_each(|buf| recovery.reader.feed(buf));
        }
        let is_all = recovery.next > saved.last || is_empty;
        if is_all {
            recovery.reader.finish();
        }
        let (index, shards) = (self.index, self.shards);
        let loaded = self.engine.load(&mut recovery.reader, |key| shard_of(key, shards) == index, None, usize::MAX);
        if let Err(error) = loaded {
            return self.give_up(&format!("the snapshot of core {index} cannot be loaded: {error}"), out);
        }
        if is_all {
            debug_assert!(recovery.reader.is_over(), "a snapshot that was whole");
            return self.begin_commands(out);
        }
        self.read_on(out);
    }

    fn begin_commands(&mut self, out: &mut Outbox<'_, Shard>) {
        self.persistence.told.keys_loaded = self.keys();
        let Some(recovery) = &mut self.persistence.recovery else { return };
        recovery.stage = Stage::Commands;
        let from = recovery.saved.map_or(1, |saved| saved.from);
        let (first, _) = recovery.commands;
        if first > from {
            let me = self.index;
            return self.give_up(&format!("pieces {from} to {} of the log of core {me} are missing", first - 1), out);
        }
        (recovery.next, recovery.counted) = (from, from);
        self.read_on(out);
    }

    pub(crate) fn keys(&self) -> u64 {
        (0..kv_engine::engine::DATABASES).map(|index| self.engine.size(index).keys as u64).sum()
    }

    /// Does again what was read, up to a joint record that others have not come to.
    fn replay_on(&mut self, out: &mut Outbox<'_, Shard>) {
        loop {
            let Some(recovery) = &mut self.persistence.recovery else { return };
            if recovery.joint.is_some() || recovery.stage != Stage::Commands {
                return;
            }
            let Some(piece) = recovery.backlog.pop_front() else { return self.read_on(out) };
            let sequence = piece.sequence;
            if recovery.voids().any(|(from, to)| (from..to).contains(&sequence)) {
                recovery.assembly.forget();
                recovery.counted = sequence + 1;
                continue;
            }
            let whole = match recovery.assembly.take(piece.data) {
                Ok(Some(whole)) => whole,
                Ok(None) => continue,
                Err(error) => return self.give_up_log(&error, out),
            };
            let Ok(whole) = in_one(whole, out.heap()) else { return self.give_up_log(&LogError::Exhausted, out) };
            let head = match head_of(&whole) {
                Ok(head) => head,
                Err(error) => return self.give_up_log(&error, out),
            };
            // What is in the snapshot already may stand before what is not.
            if head.number <= recovery.last {
                recovery.counted = sequence + 1;
                continue;
            }
            if head.number > recovery.last + 1 {
                // The one before it was refused, and this one was on its way already: nobody was told of it.
                return self.void(out);
            }
            let me = self.index;
            let Some(joint) =
                head.joint.clone().filter(|joint| joint.shards.iter().any(|&shard| usize::from(shard) != me))
            else {
                self.replay(&whole, sequence, out);
                continue;
            };
            recovery.joint = Some((sequence, head, whole));
            for &shard in joint.shards.iter().filter(|&&shard| usize::from(shard) != me) {
                self.tell(usize::from(shard), Peer::Reached { joint: joint.id }, out);
            }
            self.try_joint(out);
        }
    }

    #[cold]
    fn give_up_log(&mut self, error: &LogError, out: &mut Outbox<'_, Shard>) {
        self.give_up(&format!("the log of core {} cannot be done again: {error}", self.index), out);
    }

    /// Does again what a record says, whose last piece is this one.
    fn replay(&mut self, record: &[u8], sequence: u64, out: &mut Outbox<'_, Shard>) {
        let Some(recovery) = &mut self.persistence.recovery else { return };
        match self.engine.replay(record, recovery.last) {
            Ok(time) => {
                recovery.last += 1;
                recovery.counted = sequence + 1;
                time.into_iter().for_each(|time| self.set_time(time));
            }
            Err(error) => self.give_up_log(&error, out),
        }
    }

    pub(crate) fn on_reached(&mut self, joint: u64, out: &mut Outbox<'_, Shard>) {
        let Some(recovery) = &mut self.persistence.recovery else { return };
        *recovery.reached.entry(joint).or_default() += 1;
        if recovery.joint.is_some() {
            self.try_joint(out);
            self.replay_on(out);
        }
    }

    pub(crate) fn on_ended(&mut self, shard: usize, out: &mut Outbox<'_, Shard>) {
        let Some(recovery) = &mut self.persistence.recovery else { return };
        recovery.ended[shard] = true;
        if recovery.joint.is_some() {
            self.try_joint(out);
            self.replay_on(out);
        }
        self.end_if_all_have(out);
    }

    /// Goes over a joint record if all have come to it; ends before it if one never will.
    fn try_joint(&mut self, out: &mut Outbox<'_, Shard>) {
        let me = self.index;
        let Some(recovery) = &mut self.persistence.recovery else { return };
        let Some((sequence, head, record)) = recovery.joint.take() else { return };
        let Some(joint) = &head.joint else { return };
        let others = joint.shards.iter().filter(|&&shard| usize::from(shard) != me).count();
        if recovery.reached.get(&joint.id).copied().unwrap_or(0) == others {
            recovery.reached.remove(&joint.id);
            return self.replay(&record, sequence, out);
        }
        let is_over = |&shard: &u16| usize::from(shard) != me && recovery.ended.get(usize::from(shard)) != Some(&false);
        #[cfg(margay_planted_bug = "joint_part_counts")]
        if joint.shards.iter().any(is_over) {
            return self.replay(&record, sequence, out);
        }
        if joint.shards.iter().any(is_over) {
            // Those who have come to it have said so before they ended; one has not.
            return self.void(out);
        }
        recovery.joint = Some((sequence, head, record));
    }

    /// The log ends. What stands there of a record that is not whole does not count.
    fn end_commands(&mut self, out: &mut Outbox<'_, Shard>) {
        let Some(recovery) = &self.persistence.recovery else { return };
        if recovery.counted < recovery.commands.1 { self.void(out) } else { self.end_own(out) }
    }

    /// Nothing counts behind what was counted so far.
    fn void(&mut self, out: &mut Outbox<'_, Shard>) {
        let (Some(logs), Some(recovery)) = (self.persistence.logs, &mut self.persistence.recovery) else { return };
        recovery.assembly.forget();
        recovery.backlog.clear();
        recovery.stage = Stage::Waiting;
        if self.persistence.is_read_only {
            return self.end_own(out); // nothing is written behind it
        }
        let note = Note::Void { from: recovery.counted, to: recovery.commands.1 };
        match out.heap().copy(&note.write()) {
            Ok(data) => recovery.voiding = Some(out.append(logs.notes, data)),
            Err(_) => self.give_up("there is not enough memory for a note", out),
        }
    }

    /// Whether an append was that of a recovery.
    pub(crate) fn on_voided(
        &mut self,
        ticket: Ticket,
        result: Result<u64, Error>,
        out: &mut Outbox<'_, Shard>,
    ) -> bool {
        let Some(recovery) = &mut self.persistence.recovery else { return false };
        let is_made = recovery.making.take_if(|making| *making == ticket).is_some();
        if !is_made && recovery.voiding.take_if(|voiding| *voiding == ticket).is_none() {
            return false;
        }
        match result {
            Ok(_) if is_made => self.begin_loading(out),
            Ok(_) => self.end_own(out),
            Err(error) => self.give_up(&format!("a note cannot be written: {error}"), out),
        }
        true
    }

    fn end_own(&mut self, out: &mut Outbox<'_, Shard>) {
        let Some(recovery) = &mut self.persistence.recovery else { return };
        recovery.stage = Stage::Waiting;
        if std::mem::replace(&mut recovery.has_ended, true) {
            return;
        }
        let (last, end) = (recovery.last, recovery.commands.1);
        recovery.ended[self.index] = true;
        (self.persistence.appended, self.persistence.durable) = (last, last);
        self.persistence.durable_sequence = end - 1;
        self.tell_others(|me| Peer::Ended { core: me as u8 }, out);
        self.end_if_all_have(out);
    }

    fn end_if_all_have(&mut self, out: &mut Outbox<'_, Shard>) {
        let Some(recovery) = &self.persistence.recovery else { return };
        if recovery.has_ended && recovery.ended.iter().all(|&ended| ended) {
            self.end_recovery(out);
        }
    }

    fn end_recovery(&mut self, out: &mut Outbox<'_, Shard>) {
        let Some(recovery) = self.persistence.recovery.take() else { return };
        self.persistence.is_loading = false;
        self.engine.reset_stats();
        self.persistence.changes_saved = self.engine.stats().changes;
        self.persistence.last_save = Some(out.wall().as_millis() / 1000);
        if self.persistence.has_storage && self.persistence.durability != super::Durability::None {
            self.engine.keep_log(recovery.last + 1);
        }
        // Unlike those of the runs before, unless the clock was set back; and then it only has to differ from what is left.
        self.persistence.next_joint =
            (self.index as u64) << 56 | (self.time(out).as_millis() << 14) & 0x00FF_FFFF_FFFF_FFFF;
        self.forget_unfinished(recovery.saved.map(|saved| usize::from(saved.place)), out);
        let keys = self.keys();
        let progress = Progress { shard: self.index, bytes: recovery.bytes, keys, keys_expected: 0, is_over: true };
        (self.args.on_progress)(progress);
        // What came from a file is made durable as a whole; until then nothing is written, so that it could be loaded again.
        if recovery.stage == Stage::File && self.persistence.has_storage {
            (self.persistence.is_loading, self.persistence.is_importing) = (true, true);
            self.consider_saving(out);
        }
    }
}
