//! The keys of one database: a table of entries, and the exact order in which they expire.
//!
//! Always: the index holds `(expires, hash)` for each entry that expires, and nothing else. An entry has expired when
//! the time is past its `expires`; until it is taken out, by whoever looks for it or by [`Database::expire_some`], it
//! takes memory and is there for nobody.

use std::cell::Cell;
use std::collections::BTreeSet;

use crate::blob::Blob;
use crate::object::Object;
use crate::table::{Item, Place, Table};

/// `expires` of an entry that does not.
pub const NEVER: u64 = u64::MAX;

/// A key, its value, and what is known about both.
#[derive(Debug)]
pub struct Entry {
    key: Blob,
    /// The value.
    pub object: Object,
    hash: u64,
    /// Milliseconds since 1970, or [`NEVER`]. Set with [`Database::set_expiry`].
    expires: u64,
    /// When it was last looked at, by [`access_time`]. Readers set it too.
    pub accessed: Cell<u32>,
    /// A string that was built in place, which OBJECT ENCODING calls `raw` whatever its length.
    pub built: bool,
    /// The last snapshot that need not look at it any more: its number ([`Database::snapshot`]).
    pub(crate) saved: Cell<u16>,
}

const _: () = assert!(size_of::<Entry>() == 72);

/// A key as a command names it.
#[derive(Clone, Copy, Debug)]
pub struct Key<'a> {
    /// Its bytes.
    pub bytes: &'a [u8],
    /// Their hash under the engine's seed.
    pub hash: u64,
}

/// The unit of access times: 1,024 ms, near enough to the second that OBJECT IDLETIME speaks of.
#[inline]
pub fn access_time(now: u64) -> u32 {
    (now >> 10) as u32
}

impl Entry {
    /// A key with a value that does not expire.
    pub fn new(key: Blob, hash: u64, object: Object, now: u64) -> Entry {
        Entry {
            key,
            object,
            hash,
            expires: NEVER,
            accessed: Cell::new(access_time(now)),
            built: false,
            saved: Cell::new(0),
        }
    }

    /// The key.
    pub fn name(&self) -> &Blob {
        &self.key
    }

    /// The same, to expire then: in milliseconds since 1970, or [`NEVER`]. For an entry that is in no database yet.
    pub(crate) fn expiring(self, expires: u64) -> Entry {
        Entry { expires, ..self }
    }

    /// The same value under another key.
    pub(crate) fn renamed(self, key: Blob, hash: u64) -> Entry {
        Entry { key, hash, ..self }
    }

    /// When it expires, in milliseconds since 1970, if it does.
    pub fn expires(&self) -> Option<u64> {
        (self.expires != NEVER).then_some(self.expires)
    }

    #[inline]
    pub(crate) fn has_expired(&self, now: u64) -> bool {
        self.expires < now
    }
}

impl Item for Entry {
    #[inline]
    fn hash(&self) -> u64 {
        self.hash
    }

    #[inline]
    fn key(&self) -> &[u8] {
        &self.key
    }
}

/// The keys of one database.
#[derive(Default, Debug)]
pub struct Database {
    entries: Table<Entry>,
    expiry: BTreeSet<(u64, u64)>,
    /// The number of the snapshot that is being written, or zero: what is added meanwhile is none of its business.
    pub(crate) snapshot: u16,
    /// Which database it was when that snapshot was begun.
    pub(crate) was: u8,
}

impl Database {
    /// The entries, to be read.
    #[inline]
    pub fn entries(&self) -> &Table<Entry> {
        &self.entries
    }

    /// How many entries will expire.
    pub fn expiring(&self) -> usize {
        self.expiry.len()
    }

    /// Where the entry of `key` lies, expired or not.
    #[inline]
    pub fn locate(&self, key: &Key<'_>) -> Option<Place> {
        self.entries.locate(key.hash, key.bytes)
    }

    /// The entry at a place, to be changed in anything but its key.
    #[inline]
    pub fn at_mut(&mut self, place: Place) -> &mut Entry {
        &mut self.entries[place]
    }

    /// Adds an entry whose key is not there.
    pub fn insert(&mut self, entry: Entry) {
        if entry.expires != NEVER {
            self.expiry.insert((entry.expires, entry.hash));
        }
        entry.saved.set(self.snapshot);
        self.entries.insert(entry);
    }

    /// The same, with an expiry.
    pub fn insert_expiring(&mut self, mut entry: Entry, expires: Option<u64>) {
        entry.expires = expires.unwrap_or(NEVER);
        self.insert(entry);
    }

    /// How many entries have not expired.
    pub fn live_len(&self, now: u64) -> usize {
        self.entries.len() - self.expiry.range(..(now, 0)).count()
    }

    /// Takes an entry out.
    pub fn remove_at(&mut self, place: Place) -> Option<Entry> {
        let entry = self.entries.remove_at(place)?;
        self.forget_expiry(entry.expires, entry.hash);
        Some(entry)
    }

    /// Says when the entry at `place` expires: in milliseconds since 1970, or [`NEVER`].
    pub fn set_expiry(&mut self, place: Place, expires: u64) {
        let entry = &mut self.entries[place];
        let (old, hash) = (std::mem::replace(&mut entry.expires, expires), entry.hash);
        if old != expires {
            self.forget_expiry(old, hash);
            if expires != NEVER {
                self.expiry.insert((expires, hash));
            }
        }
    }

    /// Takes out of the index what no entry has any more. (Two keys may share a hash and an expiry.)
    fn forget_expiry(&mut self, expires: u64, hash: u64) {
        if expires != NEVER && self.entries.locate_by(hash, |entry| entry.expires == expires).is_none() {
            self.expiry.remove(&(expires, hash));
        }
    }

    /// The earliest time at which an entry expires, in milliseconds since 1970.
    pub fn next_expiry(&self) -> Option<u64> {
        self.expiry.first().map(|&(expires, _)| expires)
    }

    /// Takes out up to `budget` entries that have expired, the earliest first, and says how many.
    pub fn expire_some(&mut self, now: u64, budget: usize, mut take: impl FnMut(Entry)) -> usize {
        for done in 0..budget {
            let Some(&(expires, hash)) = self.expiry.first().filter(|(expires, _)| *expires < now) else { return done };
            let place = self.entries.locate_by(hash, |entry| entry.expires == expires);
            let removed = place.and_then(|place| self.remove_at(place));
            take(removed.expect("the expiry index names entries that are there"));
        }
        budget
    }

    /// Takes out everything.
    pub fn take_all(&mut self) -> Table<Entry> {
        self.expiry.clear();
        std::mem::take(&mut self.entries)
    }

    /// Asserts what always holds.
    #[cfg(test)]
    pub fn check(&self) {
        self.entries.check();
        let expected: BTreeSet<_> =
            self.entries.iter().filter_map(|entry| entry.expires().map(|at| (at, entry.hash))).collect();
        assert_eq!(self.expiry, expected);
    }
}
