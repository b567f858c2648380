//! One shard's keys, and how commands are carried out on them.
//!
//! Always: a command that answers with an error has changed nothing. An expired key is gone for every command, whether
//! it was taken out yet or not.
//! Bounds: no command frees more than a few hundred elements; the rest is left to [`Engine::free_some`].

use pdpix::{Exhausted, Heap, Output, Rng, Seed, WallTime};

use crate::blob::Blob;
use crate::command::{Call, Command, Flags, Run};
use crate::data::hash::PackLimits;
use crate::garbage::Garbage;
use crate::keyspace::{Database, Entry, Key, access_time};
use crate::log::Log;
use crate::object::{Object, Stores};
use crate::refusal::{ErrorCounts, Refusal};
use crate::resp::{Protocol, Reply, Request};
use crate::shard::Staged;
use crate::snapshot::Snapshot;
use crate::table::{Place, hash_of};

/// How many databases there are.
pub const DATABASES: usize = 16;

/// What of a connection matters to its commands.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Session {
    /// The selected database.
    pub database: u8,
    /// How it wants its replies.
    pub protocol: Protocol,
}

/// Which database, and when.
#[derive(Clone, Copy, Debug)]
pub(crate) struct At {
    pub database: usize,
    /// Milliseconds since 1970.
    pub now: u64,
}

/// Sizes that decide how values are kept. CONFIG SET changes them.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// `set-max-intset-entries`
    pub set_integers: usize,
    /// `hash-max-listpack-entries`, `hash-max-listpack-value`
    pub hash: PackLimits,
    /// `zset-max-listpack-entries`, `zset-max-listpack-value`
    pub zset: PackLimits,
    /// `proto-max-bulk-len`: the longest string.
    pub bulk_len: usize,
    /// `maxmemory`: bytes of the core's heap above which nothing may grow, if there is such a bound.
    pub memory: Option<usize>,
    /// Free spans of the core's heap below which nothing may grow: there must be room for what is not data.
    pub spans_left: usize,
}

impl Default for Limits {
    fn default() -> Limits {
        let pack = |entries| PackLimits { entries, value: 64 };
        Limits { set_integers: 512, hash: pack(512), zset: pack(128), bulk_len: 512 << 20, memory: None, spans_left: 0 }
    }
}

impl Limits {
    /// For what is done again or loaded again: what was allowed then is allowed now.
    pub(crate) fn lifted(self) -> Limits {
        Limits { bulk_len: usize::MAX, memory: None, spans_left: 0, ..self }
    }
}

/// What commands need besides the keys.
pub(crate) struct Tools {
    pub heap: Heap,
    pub seed: Seed,
    pub rng: Rng,
    pub limits: Limits,
}

/// What an engine has counted since it was made, or since CONFIG RESETSTAT.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct EngineStats {
    /// Commands carried out.
    pub commands: u64,
    /// Reads that found their key.
    pub hits: u64,
    /// Reads that did not.
    pub misses: u64,
    /// Keys that went because their time had come.
    pub expired: u64,
    /// Keys and elements changed. Not reset.
    pub changes: u64,
}

/// How many keys a database has.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct DatabaseSize {
    /// All.
    pub keys: usize,
    /// Of these, those that will expire.
    pub expiring: usize,
}

/// One shard's keys. Pure: time is an argument, chance comes from a seed, memory from one heap.
pub struct Engine {
    pub(crate) databases: Box<[Database; DATABASES]>,
    pub(crate) tools: Tools,
    pub(crate) garbage: Garbage,
    pub(crate) stats: EngineStats,
    pub(crate) errors: ErrorCounts,
    /// Which of how many shards this is: SCAN's cursors say so.
    pub(crate) shard: (usize, usize),
    /// What a conversation has made ready.
    pub(crate) staged: Vec<Staged>,
    /// The snapshot that is being written.
    pub(crate) snapshot: Option<Box<Snapshot>>,
    /// The number of the last one.
    pub(crate) snapshot_number: u16,
    /// What was changed and is not in a log yet, if one is kept.
    pub(crate) log: Option<Box<Log>>,
    /// Which key (by its hash) was counted last, in which millisecond, and from which number.
    #[cfg(margay_planted_bug = "lost_update")]
    pub(crate) counted: (u64, u64, i64),
}

impl Engine {
    /// An empty engine: shard `index` of `count`.
    pub fn new((index, count): (usize, usize), heap: Heap, seed: Seed, rng: Rng) -> Engine {
        Engine {
            databases: Box::new(std::array::from_fn(|_| Database::default())),
            tools: Tools { heap, seed, rng, limits: Limits::default() },
            garbage: Garbage::default(),
            stats: EngineStats::default(),
            errors: ErrorCounts::default(),
            shard: (index, count),
            staged: Vec::new(),
            snapshot: None,
            snapshot_number: 0,
            log: None,
            #[cfg(margay_planted_bug = "lost_update")]
            counted: (0, 0, 0),
        }
    }

    /// Changes the sizes that decide how values are kept from now on.
    pub fn set_limits(&mut self, limits: Limits) {
        self.tools.limits = limits;
    }

    /// What was counted.
    pub fn stats(&self) -> EngineStats {
        self.stats
    }

    /// The errors that it has answered with.
    pub fn errors(&self) -> &ErrorCounts {
        &self.errors
    }

    /// Forgets what was counted.
    pub fn reset_stats(&mut self) {
        self.stats = EngineStats { changes: self.stats.changes, ..EngineStats::default() };
        self.errors = ErrorCounts::default();
    }

    /// How many keys database `index` has.
    pub fn size(&self, index: usize) -> DatabaseSize {
        let database = &self.databases[index % DATABASES];
        DatabaseSize { keys: database.entries().len(), expiring: database.expiring() }
    }

    /// Carries out a command whose keys are all here, and writes its reply. (A command of the connection is answered by
    /// [`Connection`](crate::connection::Connection) and does nothing here.)
    pub fn execute(
        &mut self,
        command: &'static Command,
        request: &Request,
        session: Session,
        now: WallTime,
        out: &mut Output,
    ) {
        let Run::Shard(run) = command.run else { return };
        self.stats.commands += 1;
        let at = At { database: usize::from(session.database), now: now.as_millis() };
        let changes = self.stats.changes;
        let done = if self.may_grow_by(command) {
            run(&mut Call { engine: self, request, at, reply: Reply::new(out, session.protocol) })
        } else {
            Err(Refusal::OutOfMemory)
        };
        if let Err(refusal) = done {
            self.refuse(refusal, run, command, request, (session, at), out);
        }
        if self.log.is_some() && self.stats.changes != changes {
            self.note_command(request, at);
        }
    }

    #[cold]
    fn refuse(
        &mut self,
        mut refusal: Refusal,
        run: fn(&mut Call<'_>) -> Result<(), Refusal>,
        command: &'static Command,
        request: &Request,
        (session, at): (Session, At),
        out: &mut Output,
    ) {
        let mut reply = Reply::new(out, session.protocol);
        // What was deleted counts until it is freed; with that gone there may be room. Nothing was changed and nothing
        // written, so the command may simply be tried again.
        while refusal == Refusal::OutOfMemory && self.garbage.free_some() {
            while self.garbage.free_some() {}
            if !self.may_grow_by(command) {
                break;
            }
            match run(&mut Call { engine: self, request, at, reply: Reply::new(reply.out(), session.protocol) }) {
                Ok(()) => return,
                Err(again) => refusal = again,
            }
        }
        let text = refusal.text(Some(command), request);
        self.errors.count(&text);
        reply.error(&text);
    }

    #[inline]
    fn may_grow_by(&self, command: &Command) -> bool {
        !(command.flags.contains(Flags::DENYOOM) && self.is_over_limit())
    }

    pub(crate) fn is_over_limit(&self) -> bool {
        let Limits { memory, spans_left, .. } = self.tools.limits;
        let heap = &self.tools.heap;
        let is_short = || heap.stats().free_spans < spans_left;
        memory.is_some_and(|max| heap.stats().pinned > max)
            || is_short() && {
                heap.reclaim();
                is_short()
            }
    }

    /// When the next key expires.
    pub fn next_expiry(&self) -> Option<WallTime> {
        let next = self.databases.iter().filter_map(Database::next_expiry).min()?;
        // A key is there during the whole millisecond in which it expires.
        Some(WallTime::from_nanos(next.saturating_add(1).saturating_mul(1_000_000)))
    }

    /// Takes out up to `budget` keys whose time has come, and says how many.
    pub fn expire_some(&mut self, now: WallTime, budget: usize) -> usize {
        let mut done = 0;
        for database in self.databases.iter_mut() {
            let was = database.was;
            done += database.expire_some(now.as_millis(), budget - done, |entry| {
                if let Some(snapshot) = &mut self.snapshot {
                    snapshot.keep(was, &entry);
                }
                self.garbage.take(entry.object);
            });
        }
        self.stats.expired += done as u64;
        done
    }

    /// Frees a part of what was deleted, some hundreds of elements. False if there was nothing to free. To be called when
    /// there is nothing better to do.
    pub fn free_some(&mut self) -> bool {
        self.garbage.free_some()
    }

    /// A key with its hash.
    #[inline]
    pub(crate) fn key<'a>(&self, bytes: &'a [u8]) -> Key<'a> {
        Key { bytes, hash: hash_of(&self.tools.seed, bytes) }
    }

    #[inline]
    pub(crate) fn database(&self, at: At) -> &Database {
        &self.databases[at.database % DATABASES]
    }

    #[inline]
    pub(crate) fn database_mut(&mut self, at: At) -> &mut Database {
        &mut self.databases[at.database % DATABASES]
    }

    /// Exchanges two databases.
    pub(crate) fn swap(&mut self, one: usize, other: usize) {
        if let Some(snapshot) = &mut self.snapshot {
            snapshot.finish_part(&*self.databases);
        }
        self.databases.swap(one % DATABASES, other % DATABASES);
    }

    /// Takes all keys out of a database, and says how many.
    pub(crate) fn flush(&mut self, database: usize) -> usize {
        if let Some(snapshot) = &mut self.snapshot {
            snapshot.finish_part(&*self.databases);
        }
        let database = &mut self.databases[database % DATABASES];
        let (entries, was) = (database.take_all(), database.was);
        let count = entries.len();
        match &mut self.snapshot {
            Some(snapshot) => snapshot.take_table(was, entries),
            None => self.garbage.take_table(entries),
        }
        count
    }

    /// Any key that has not expired.
    pub(crate) fn random_key(&mut self, at: At) -> Option<&Entry> {
        loop {
            let place = self.databases[at.database % DATABASES].entries().random(&mut self.tools.rng)?;
            if !self.database(at).entries()[place].has_expired(at.now) {
                return Some(&self.database(at).entries()[place]);
            }
            self.expire(at, place);
        }
    }

    /// Where the entry of `key` lies, if it is there and has not expired.
    #[inline]
    pub(crate) fn locate(&mut self, at: At, key: &Key<'_>) -> Option<Place> {
        let database = self.database_mut(at);
        let place = database.locate(key)?;
        if database.at_mut(place).has_expired(at.now) {
            self.expire(at, place);
            return None;
        }
        if self.snapshot.is_some() {
            self.keep(at, place);
        }
        Some(place)
    }

    /// An entry is about to change: the snapshot that is being written needs it as it is.
    #[cold]
    fn keep(&mut self, at: At, place: Place) {
        let Engine { snapshot: Some(snapshot), databases, .. } = self else { return };
        let database = &databases[at.database % DATABASES];
        if let Some(entry) = database.entries().at(place) {
            snapshot.keep(database.was, entry);
        }
    }

    #[cold]
    fn expire(&mut self, at: At, place: Place) {
        self.keep(at, place);
        if let Some(entry) = self.database_mut(at).remove_at(place) {
            self.garbage.take(entry.object);
        }
        self.stats.expired += 1;
    }

    /// The entry of `key`, for a command that may change it.
    #[inline]
    pub(crate) fn find(&mut self, at: At, key: &Key<'_>) -> Option<&mut Entry> {
        let place = self.locate(at, key)?;
        let entry = self.database_mut(at).at_mut(place);
        entry.accessed.set(access_time(at.now));
        Some(entry)
    }

    /// The entry of `key`, for a command that only reads it: counted. An expired one is as good as gone, and left to be
    /// taken out by those who may change things.
    #[inline]
    pub(crate) fn read(&mut self, at: At, key: &Key<'_>) -> Option<&Entry> {
        let entry = self.peek(at, key)?;
        entry.accessed.set(access_time(at.now));
        Some(entry)
    }

    /// The same for a command that is no access, such as TTL.
    #[inline]
    pub(crate) fn peek(&mut self, at: At, key: &Key<'_>) -> Option<&Entry> {
        match self.databases[at.database % DATABASES].entries().find(key.hash, key.bytes) {
            Some(entry) if !entry.has_expired(at.now) => {
                self.stats.hits += 1;
                Some(entry)
            }
            _ => {
                self.stats.misses += 1;
                None
            }
        }
    }

    /// The value of `key`, if it has one, to be changed; it must be of the type meant.
    pub(crate) fn find_as<T: Stores>(
        &mut self,
        at: At,
        key: &Key<'_>,
    ) -> Result<Option<(&mut T, &mut Tools)>, Refusal> {
        let Some(place) = self.locate(at, key) else { return Ok(None) };
        let Engine { databases, tools, .. } = self;
        let entry = databases[at.database % DATABASES].at_mut(place);
        entry.accessed.set(access_time(at.now));
        T::view_mut(&mut entry.object).map(|value| Some((value, tools))).ok_or(Refusal::WrongType)
    }

    /// The value of `key`, if it has one, to be read; it must be of the type meant.
    pub(crate) fn read_as<T: Stores>(&mut self, at: At, key: &Key<'_>) -> Result<Option<(&T, &mut Tools)>, Refusal> {
        let Engine { databases, tools, stats, .. } = self;
        match databases[at.database % DATABASES].entries().find(key.hash, key.bytes) {
            Some(entry) if !entry.has_expired(at.now) => {
                stats.hits += 1;
                entry.accessed.set(access_time(at.now));
                T::view(&entry.object).map(|value| Some((value, tools))).ok_or(Refusal::WrongType)
            }
            _ => {
                stats.misses += 1;
                Ok(None)
            }
        }
    }

    /// Changes the value of `key`; if it has none, a new one, which becomes its value. `change` fails as a whole or not at
    /// all, and leaves at least one element.
    pub(crate) fn change<T: Stores, R>(
        &mut self,
        at: At,
        key: &Key<'_>,
        name: impl FnOnce(&Heap) -> Result<Blob, Exhausted>,
        new: impl FnOnce(&Tools) -> Result<T, Exhausted>,
        change: impl FnOnce(&mut T, &mut Tools) -> Result<R, Refusal>,
    ) -> Result<R, Refusal> {
        if let Some((value, tools)) = self.find_as::<T>(at, key)? {
            return change(value, tools);
        }
        let mut value = new(&self.tools)?;
        let result = change(&mut value, &mut self.tools)?;
        let name = name(&self.tools.heap)?;
        self.add(at, name, key.hash, value.into_object());
        Ok(result)
    }

    /// Adds a key that is not there.
    pub(crate) fn add(&mut self, at: At, key: Blob, hash: u64, object: Object) {
        self.database_mut(at).insert(Entry::new(key, hash, object, at.now));
    }

    /// Takes out a key that has not expired.
    pub(crate) fn remove(&mut self, at: At, key: &Key<'_>) -> Option<Entry> {
        let place = self.locate(at, key)?;
        self.database_mut(at).remove_at(place)
    }

    /// Deletes a key. False if it was not there.
    pub(crate) fn delete(&mut self, at: At, key: &Key<'_>) -> bool {
        let removed = self.remove(at, key);
        let was_there = removed.is_some();
        if let Some(entry) = removed {
            self.garbage.take(entry.object);
        }
        was_there
    }
}

impl std::fmt::Debug for Engine {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let keys: usize = self.databases.iter().map(|database| database.entries().len()).sum();
        write!(f, "Engine({} of {}, {keys} keys)", self.shard.0, self.shard.1)
    }
}
