//! One shard's keys, and how commands are carried out on them.

use pdpix::{Heap, Output, Rng, Seed, WallTime};

use crate::blob::Blob;
use crate::command::{Call, Command};
use crate::keyspace::{Database, Entry, Key, access_time};
use crate::object::Object;
use crate::resp::{Protocol, Reply, Request};
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
pub struct At {
    pub(crate) database: usize,
    /// Milliseconds since 1970.
    pub(crate) now: u64,
}

/// One shard's keys. Pure: time is an argument, chance comes from a seed, memory from one heap.
pub struct Engine {
    pub(crate) heap: Heap,
    seed: Seed,
    pub(crate) rng: Rng,
    databases: Box<[Database; DATABASES]>,
    stats: EngineStats,
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
}

impl Engine {
    /// An empty engine.
    pub fn new(heap: Heap, seed: Seed, rng: Rng) -> Engine {
        let databases = Box::new(std::array::from_fn(|_| Database::default()));
        Engine { heap, seed, rng, databases, stats: EngineStats::default() }
    }

    /// Carries out a command whose keys are all here, and writes its reply.
    pub fn execute(
        &mut self,
        command: &'static Command,
        request: &Request,
        session: Session,
        now: WallTime,
        out: &mut Output,
    ) {
        self.stats.commands += 1;
        let at = At { database: usize::from(session.database), now: now.as_millis() };
        let mut call = Call { engine: self, request, at, reply: Reply::new(out, session.protocol) };
        if let Err(refusal) = (command.run)(&mut call) {
            let mut text = Vec::new();
            refusal.put(command, request, &mut text);
            call.reply.error(&text);
        }
    }

    /// A key with its hash.
    #[inline]
    pub(crate) fn key<'a>(&self, bytes: &'a [u8]) -> Key<'a> {
        Key { bytes, hash: hash_of(&self.seed, bytes) }
    }

    #[inline]
    pub(crate) fn database(&mut self, at: At) -> &mut Database {
        &mut self.databases[at.database % DATABASES]
    }

    /// Where the entry of `key` lies, if it is there and has not expired.
    #[inline]
    pub(crate) fn locate(&mut self, at: At, key: &Key<'_>) -> Option<Place> {
        let database = self.database(at);
        let place = database.locate(key)?;
        if database.at_mut(place).has_expired(at.now) {
            self.expire(at, place);
            return None;
        }
        Some(place)
    }

    #[cold]
    fn expire(&mut self, at: At, place: Place) {
        self.database(at).remove_at(place);
        self.stats.expired += 1;
    }

    /// The entry of `key`, for a command that may change it.
    #[inline]
    pub(crate) fn find(&mut self, at: At, key: &Key<'_>) -> Option<&mut Entry> {
        let place = self.locate(at, key)?;
        let entry = self.database(at).at_mut(place);
        entry.accessed.set(access_time(at.now));
        Some(entry)
    }

    /// The entry of `key`, for a command that only reads it: counted. An expired one is as good as gone, and left to be
    /// taken out by those who may change things.
    #[inline]
    pub(crate) fn read(&mut self, at: At, key: &Key<'_>) -> Option<&Entry> {
        match self.databases[at.database % DATABASES].entries().find(key.hash, key.bytes) {
            Some(entry) if !entry.has_expired(at.now) => {
                self.stats.hits += 1;
                entry.accessed.set(access_time(at.now));
                Some(entry)
            }
            _ => {
                self.stats.misses += 1;
                None
            }
        }
    }

    /// Adds a key that is not there.
    pub(crate) fn add(&mut self, at: At, key: Blob, hash: u64, object: Object) {
        self.database(at).insert(Entry::new(key, hash, object, at.now));
    }
}
