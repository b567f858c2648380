//! The data of one shard as it was at one moment, written while it goes on changing: without a second process, and
//! without stopping.
//!
//! A cursor walks over all keys and writes some at a time. A key that is about to change before the cursor has come to it
//! is written first, as it still is; what is added is left out. Each entry notes the number of the last snapshot that has
//! done with it, so there is no list of what was written ahead, and the walk may meet entries in whatever order.
//! A collection is written in parts; if it is about to change in the middle, the rest of it is written at once. A database
//! that is flushed is kept until it is written.
//!
//! Always: what is written is the data at the moment of [`Engine::begin_snapshot`], key for key.
//! Bounds: a step writes about as many elements as it is given, and no more than `STEP_BYTES` and a value. What waits to be taken out grows by the keys that change:
//! each counts once, so by the size of the data at most; whoever takes nothing out asks for no step either
//! ([`Engine::snapshot_waiting`]). Strings go out from where they lie: what is overwritten meanwhile lives on until then.
//! The form is an RDB file (version 10), which redis-server loads too.
//!
//! Source: the idea of copying on write, per key, as Redis's fork has it per page.

use pdpix::{Exhausted, Sga, WallTime};

use crate::blob::Blob;
use crate::engine::{DATABASES, Engine};
use crate::keyspace::{Database, Entry, Key};
use crate::object::Object;
use crate::rdb::{Item, Position, RdbError, Reader, Writer, put_value};
use crate::table::{Item as _, Table};

/// A snapshot that is being written.
#[derive(Debug)]
pub(crate) struct Snapshot {
    number: u16,
    writer: Writer,
    /// What was written ahead while a collection is only half written.
    aside: Writer,
    /// Which database (as they were numbered at first) the cursor is in, and how far.
    database: u8,
    position: Option<u64>,
    part: Option<Part>,
    /// Databases that were flushed, as they were numbered.
    flushed: Vec<(u8, Table<Entry>)>,
    is_walked: bool,
    /// What is where the cursor is is long: one at a time is looked at.
    is_heavy: bool,
    written_ahead: u64,
    waiting_max: usize,
}

/// A collection that is half written.
#[derive(Debug)]
struct Part {
    was: u8,
    name: Blob,
    hash: u64,
    position: Position,
}

/// How far a snapshot is.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct SnapshotProgress {
    /// Everything is written; [`Engine::end_snapshot`] gives the rest.
    pub is_written: bool,
    /// Keys that were written because they were about to change.
    pub written_ahead: u64,
    /// Bytes that wait to be taken out.
    pub waiting: usize,
    /// The most that ever waited.
    pub waiting_max: usize,
}

impl Snapshot {
    /// An entry is about to change or go.
    pub fn keep(&mut self, was: u8, entry: &Entry) {
        let is_part = |part: &Part| part.was == was && part.hash == entry.hash() && *part.name == *entry.key();
        if self.part.as_ref().is_some_and(is_part) {
            return self.write_rest(&entry.object);
        }
        if entry.saved.replace(self.number) == self.number {
            return;
        }
        self.written_ahead += 1;
        let writer = if self.part.is_some() { &mut self.aside } else { &mut self.writer };
        writer.key(was, entry);
        self.note_waiting();
    }

    fn waiting(&self) -> usize {
        self.writer.waiting() + self.aside.waiting()
    }

    fn note_waiting(&mut self) {
        self.waiting_max = self.waiting_max.max(self.waiting());
    }

    /// Writes what is left of the half-written collection.
    fn write_rest(&mut self, object: &Object) {
        if let Some(part) = self.part.take() {
            put_value(self.writer.out(), object, part.position, usize::MAX);
            self.end_part();
        }
    }

    fn end_part(&mut self) {
        if self.writer.append(&mut self.aside).is_err() {
            self.writer.out().fail();
        }
        self.note_waiting();
    }

    /// The same, wherever it is.
    pub fn finish_part(&mut self, databases: &[Database]) {
        let Some(part) = &self.part else { return };
        let database = databases.iter().find(|database| database.was == part.was);
        if let Some(entry) = database.and_then(|database| database.entries().find(part.hash, &part.name)) {
            self.write_rest(&entry.object);
        }
    }

    /// Takes a database that was flushed.
    pub fn take_table(&mut self, was: u8, table: Table<Entry>) {
        if !table.is_empty() {
            self.flushed.push((was, table));
        }
    }

    /// Goes on with the half-written collection, and says how many elements that were.
    fn continue_part(&mut self, databases: &[Database], budget: usize) -> usize {
        let Some(part) = &mut self.part else { return 0 };
        let database = databases.iter().find(|database| database.was == part.was);
        let entry = database.and_then(|database| database.entries().find(part.hash, &part.name));
        let Some(entry) = entry else {
            debug_assert!(false, "a half-written value went without a word");
            self.writer.out().fail();
            self.part = None;
            return budget;
        };
        let before = self.writer.waiting();
        let budget = budget.min(if self.is_heavy { 1 } else { STEP_KEYS });
        match put_value(self.writer.out(), &entry.object, part.position, budget) {
            Some(next) => part.position = next,
            None => {
                self.part = None;
                self.end_part();
            }
        }
        self.is_heavy = self.writer.waiting() - before > STEP_BYTES / STEP_KEYS * budget;
        budget
    }

    /// Writes what is next of the databases, about so many elements, and says how many it were.
    fn walk(&mut self, databases: &[Database], budget: usize) -> usize {
        let Some(database) = databases.iter().find(|database| database.was == self.database) else { return 0 };
        let from = match self.position {
            Some(position) => position,
            None => {
                if !database.entries().is_empty() {
                    self.writer.announce(self.database, database.entries().len(), database.expiring());
                }
                0
            }
        };
        let before = self.waiting();
        let keys = if self.is_heavy { 1 } else { STEP_KEYS };
        let mut done = 0;
        let Snapshot { writer, aside, part, number, database: was, .. } = self;
        // An entry at a time, as one may be large; those at one place come together.
        let mut large: Vec<&Entry> = Vec::new();
        let next = database.entries().walk(from, budget.clamp(1, keys), |entry| {
            if entry.saved.replace(*number) == *number {
                return;
            }
            let weight = entry.object.weight();
            if weight > PART_LEN {
                large.push(entry);
                return;
            }
            writer.key(*was, entry);
            done += weight.max(1);
        });
        // At most one may be half written; the others, which lie beside it by chance, are written whole.
        for entry in large {
            if part.is_none() {
                writer.begin_key(*was, entry);
                let position = put_value(writer.out(), &entry.object, Position::Start, STEP_KEYS);
                let (name, hash) = (entry.name().clone(), entry.hash());
                *part = position.map(|position| Part { was: *was, name, hash, position });
                done += STEP_KEYS;
            } else {
                aside.key(*was, entry);
                done += entry.object.weight();
            }
        }
        match next {
            Some(next) => self.position = Some(next),
            None => {
                (self.database, self.position) = (self.database + 1, None);
                done += 1;
            }
        }
        self.is_heavy = self.waiting() - before > STEP_BYTES / STEP_KEYS * keys;
        self.note_waiting();
        done.max(1)
    }
}

/// A collection of more elements is written in parts.
const PART_LEN: usize = 512;
/// Keys, and elements of a collection that is written in parts, that are looked at in one go.
const STEP_KEYS: usize = 32;
/// A step is over when it has written so many bytes.
const STEP_BYTES: usize = 64 << 10;

impl Engine {
    /// Begins a snapshot: the data as it is now. The file says this of itself. A snapshot that was being written is given
    /// up.
    pub fn begin_snapshot<'a>(&mut self, aux: impl IntoIterator<Item = (&'a str, &'a str)>) {
        self.abort_snapshot();
        // Zero says that there is none.
        self.snapshot_number = self.snapshot_number.checked_add(1).unwrap_or(1);
        let number = self.snapshot_number;
        for (index, database) in self.databases.iter_mut().enumerate() {
            (database.snapshot, database.was) = (number, index as u8);
        }
        let heap = self.tools.heap.clone();
        self.snapshot = Some(Box::new(Snapshot {
            number,
            writer: Writer::new(heap.clone(), aux),
            aside: Writer::aside(heap),
            database: 0,
            position: None,
            part: None,
            flushed: Vec::new(),
            is_walked: false,
            is_heavy: false,
            written_ahead: 0,
            waiting_max: 0,
        }));
    }

    /// Whether one is being written.
    pub fn is_in_snapshot(&self) -> bool {
        self.snapshot.is_some()
    }

    /// Bytes that wait to be taken out.
    pub fn snapshot_waiting(&self) -> usize {
        self.snapshot.as_ref().map_or(0, |snapshot| snapshot.waiting())
    }

    /// Goes on with it: writes about `budget` elements, or fewer if they are long.
    pub fn snapshot_step(&mut self, budget: usize) -> SnapshotProgress {
        let Engine { snapshot: Some(snapshot), databases, garbage, .. } = self else {
            return SnapshotProgress::default();
        };
        let (mut done, enough) = (0, snapshot.waiting() + STEP_BYTES);
        while done < budget && snapshot.waiting() < enough && !snapshot.is_walked {
            if snapshot.part.is_some() {
                done += snapshot.continue_part(&**databases, budget - done);
            } else if usize::from(snapshot.database) < DATABASES {
                done += snapshot.walk(&**databases, budget - done);
            } else if let Some((was, mut table)) = snapshot.flushed.pop() {
                for entry in table.take_some().into_iter().flatten() {
                    if entry.saved.replace(snapshot.number) != snapshot.number {
                        snapshot.writer.key(was, &entry);
                    }
                    done += entry.object.weight();
                    garbage.take(entry.object);
                }
                if !table.is_empty() {
                    snapshot.flushed.push((was, table));
                }
                snapshot.note_waiting();
            } else {
                snapshot.is_walked = true;
            }
        }
        SnapshotProgress {
            is_written: snapshot.is_walked,
            written_ahead: snapshot.written_ahead,
            waiting: snapshot.waiting(),
            waiting_max: snapshot.waiting_max,
        }
    }

    /// Takes out what was written.
    ///
    /// # Errors
    /// [`Exhausted`]: there was no memory for something. The snapshot is given up.
    pub fn take_snapshot(&mut self) -> Result<Sga, Exhausted> {
        let taken = self.snapshot.as_mut().map_or(Ok(Sga::new()), |snapshot| snapshot.writer.take());
        if taken.is_err() {
            self.abort_snapshot();
        }
        taken
    }

    /// Takes out the rest, when everything is written; the snapshot is over.
    ///
    /// # Errors
    /// [`Exhausted`].
    pub fn end_snapshot(&mut self) -> Result<Sga, Exhausted> {
        self.databases.iter_mut().for_each(|database| database.snapshot = 0);
        match self.snapshot.take() {
            Some(snapshot) if snapshot.is_walked => snapshot.writer.finish(),
            _ => Err(Exhausted),
        }
    }

    /// Gives it up.
    pub fn abort_snapshot(&mut self) {
        self.databases.iter_mut().for_each(|database| database.snapshot = 0);
        if let Some(snapshot) = self.snapshot.take() {
            snapshot.flushed.into_iter().for_each(|(_, table)| self.garbage.take_table(table));
        }
    }

    /// All keys at once, as an RDB file. For tests and tools: nothing else is done meanwhile.
    ///
    /// # Errors
    /// [`Exhausted`].
    pub fn save(&mut self) -> Result<Sga, Exhausted> {
        self.begin_snapshot([]);
        while !self.snapshot_step(usize::MAX >> 1).is_written {}
        self.end_snapshot()
    }

    /// Makes the data anew from what a snapshot says of it. What has expired goes with it or not, as nobody can tell.
    ///
    /// # Errors
    /// [`RdbError`]: there is not enough memory for a second copy of the data. Nothing has changed.
    pub fn reload(&mut self) -> Result<(), RdbError> {
        self.abort_snapshot();
        let file = self.save().map_err(|Exhausted| RdbError::Exhausted)?;
        let before: Vec<Table<Entry>> = self.databases.iter_mut().map(Database::take_all).collect();
        let mut reader = Reader::new();
        file.segments().iter().for_each(|buf| reader.feed(buf));
        reader.finish();
        let loaded = self.load(&mut reader, |_| true, None, usize::MAX);
        if loaded.is_err() {
            (0..DATABASES).for_each(|database| _ = self.flush(database));
            for (database, table) in self.databases.iter_mut().zip(before) {
                table.into_items().for_each(|entry| database.insert(entry));
            }
            return loaded.map(drop);
        }
        before.into_iter().for_each(|table| self.garbage.take_table(table));
        Ok(())
    }

    /// Loads the keys that come next in a file, about `budget` of them, if they are `mine`; whether more bytes are needed or
    /// it is over. A key that is there already is replaced. With a time it is somebody else's file: what has expired by then
    /// is left out, and what goes beyond the limits is refused. Without one it is a snapshot of ours, and what was allowed
    /// when it was written is allowed now.
    ///
    /// # Errors
    /// [`RdbError`]. What was loaded stays.
    pub fn load(
        &mut self,
        reader: &mut Reader,
        mut mine: impl FnMut(&[u8]) -> bool,
        now: Option<WallTime>,
        budget: usize,
    ) -> Result<bool, RdbError> {
        let limits = self.tools.limits;
        if now.is_none() {
            self.tools.limits = limits.lifted();
        }
        let loaded = self.load_items(reader, &mut mine, now, budget);
        self.tools.limits = limits;
        loaded
    }

    fn load_items(
        &mut self,
        reader: &mut Reader,
        mut mine: impl FnMut(&[u8]) -> bool,
        now: Option<WallTime>,
        budget: usize,
    ) -> Result<bool, RdbError> {
        for _ in 0..budget {
            let Some(item) = reader.next(&mut mine, Some(&self.tools))? else { return Ok(true) };
            self.load_item(item, now).map_err(|Exhausted| RdbError::Exhausted)?;
        }
        Ok(false)
    }

    fn load_item(&mut self, item: Item, now: Option<WallTime>) -> Result<(), Exhausted> {
        let Item { database, key, object: Some(object), expires, idle_seconds } = item else { return Ok(()) };
        let millis = now.map_or(0, WallTime::as_millis);
        if now.is_some() && expires.is_some_and(|expires| expires < millis) {
            return Ok(());
        }
        if self.tools.limits.spans_left > 0 && self.is_over_limit() {
            return Err(Exhausted);
        }
        let hash = self.key(&key).hash;
        let at = crate::engine::At { database: usize::from(database), now: 0 };
        self.delete(at, &Key { bytes: &key, hash });
        let looked_at = millis.saturating_sub(idle_seconds.unwrap_or(0).saturating_mul(1000));
        let entry = Entry::new(Blob::copy(&key, &self.tools.heap)?, hash, object, looked_at);
        self.database_mut(at).insert_expiring(entry, expires);
        Ok(())
    }
}
