//! A file as it goes out, piece by piece.
//!
//! Values are written in Redis's plain forms (strings, integers, lists, sets, hashes, sorted sets with binary scores),
//! which every version since 5.0 reads and packs again by its own limits. Long strings go out from where they lie.

use pdpix::{Exhausted, Heap, Output, Sga};

use super::{CHECKSUM, VERSION, kind, opcode};
use crate::blob::Stored;
use crate::data::set::Set;
use crate::keyspace::Entry;
use crate::object::Object;

/// Writes a file. What was written is taken out ([`Writer::take`]) as often as one likes, and covered by the checksum then.
pub struct Writer {
    out: Output,
    checksum: crc::Digest<'static, u64, crc::Table<16>>,
    database: Option<u8>,
    len: u64,
}

impl std::fmt::Debug for Writer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Writer({} B)", self.len)
    }
}

impl Writer {
    /// A file that says this of itself.
    pub fn new<'a>(heap: Heap, aux: impl IntoIterator<Item = (&'a str, &'a str)>) -> Writer {
        let mut out = Output::new(heap);
        out.put(format!("REDIS{VERSION:04}").as_bytes());
        for (name, says) in aux {
            out.put(&[opcode::AUX]);
            put_text(&mut out, name.as_bytes());
            put_text(&mut out, says.as_bytes());
        }
        Writer { out, checksum: CHECKSUM.digest(), database: None, len: 0 }
    }

    /// Bytes that wait to be taken out.
    pub fn waiting(&self) -> usize {
        self.out.len()
    }

    /// Bytes of the heap that they pin.
    pub fn pinned(&self) -> usize {
        self.out.pinned()
    }

    /// Bytes that were taken out.
    pub fn len(&self) -> u64 {
        self.len
    }

    /// Whether none were.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Where a value is written, after [`Writer::begin_key`].
    pub(crate) fn out(&mut self) -> &mut Output {
        &mut self.out
    }

    /// How many keys a database has, for those who read it.
    pub(crate) fn announce(&mut self, database: u8, keys: usize, expiring: usize) {
        self.select(database);
        self.out.put(&[opcode::RESIZE]);
        put_length(&mut self.out, keys as u64);
        put_length(&mut self.out, expiring as u64);
    }

    fn select(&mut self, database: u8) {
        if self.database.replace(database) != Some(database) {
            self.out.put(&[opcode::SELECT, database]);
        }
    }

    /// All of a key that stands before its value. The value follows at once.
    pub(crate) fn begin_key(&mut self, database: u8, entry: &Entry) {
        self.select(database);
        put_key(&mut self.out, entry);
    }

    /// A whole key.
    pub(crate) fn key(&mut self, database: u8, entry: &Entry) {
        self.begin_key(database, entry);
        put_value(&mut self.out, &entry.object, Position::Start, usize::MAX);
    }

    /// What another has written, which has selected its databases itself.
    pub(crate) fn append(&mut self, other: &mut Writer) -> Result<(), Exhausted> {
        if other.out.is_empty() {
            return Ok(());
        }
        self.database = std::mem::take(&mut other.database);
        other.out.take()?.into_iter().for_each(|buf| self.out.put_buf(buf));
        Ok(())
    }

    /// Takes out what was written.
    ///
    /// # Errors
    /// [`Exhausted`]: something is missing. There is no use in going on.
    pub fn take(&mut self) -> Result<Sga, Exhausted> {
        let taken = self.out.take()?;
        taken.segments().iter().for_each(|buf| self.checksum.update(buf));
        self.len += taken.len() as u64;
        Ok(taken)
    }

    /// Takes out what was written, and the end.
    ///
    /// # Errors
    /// [`Exhausted`].
    pub fn finish(mut self) -> Result<Sga, Exhausted> {
        self.out.put(&[opcode::END]);
        let mut taken = self.take()?;
        self.out.put(&self.checksum.clone().finalize().to_le_bytes());
        let end = self.out.take()?;
        taken.append(end).map_err(|_| Exhausted)?;
        Ok(taken)
    }
}

/// A writer without a head, for keys that are appended to another's.
impl Writer {
    pub(crate) fn aside(heap: Heap) -> Writer {
        Writer { out: Output::new(heap), checksum: CHECKSUM.digest(), database: None, len: 0 }
    }
}

/// Up to where a value is written.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Position {
    Start,
    /// The next element of a list, or the next rank.
    Index(usize),
    /// Where a walk goes on.
    Walk(u64),
}

fn put_key(out: &mut Output, entry: &Entry) {
    if let Some(expires) = entry.expires() {
        out.put(&[opcode::EXPIRES_MS]);
        out.put(&expires.to_le_bytes());
    }
    out.put(&[match &entry.object {
        Object::Integer(_) | Object::Text(_) => kind::STRING,
        Object::List(_) => kind::LIST,
        Object::Set(_) => kind::SET,
        Object::Hash(_) => kind::HASH,
        Object::Zset(_) => kind::ZSET_2,
    }]);
    put_text(out, entry.name());
}

/// Writes an entry's expiry, type, key and value: all that a log has to say of it.
pub(crate) fn put_entry(out: &mut Output, entry: &Entry) {
    put_key(out, entry);
    put_value(out, &entry.object, Position::Start, usize::MAX);
}

/// Goes on with a value from there, about so many elements. `None`: that was all. In between it must not change.
pub(crate) fn put_value(out: &mut Output, object: &Object, from: Position, budget: usize) -> Option<Position> {
    if from == Position::Start && !matches!(object, Object::Integer(_) | Object::Text(_)) {
        put_length(out, object.weight() as u64);
    }
    let index = if let Position::Index(index) = from { index } else { 0 };
    let walk = if let Position::Walk(walk) = from { walk } else { 0 };
    let end = index.saturating_add(budget);
    let indexed = |len: usize| (end < len).then_some(Position::Index(end));
    match object {
        Object::Integer(value) => put_integer(out, *value),
        Object::Text(text) => put_string(out, Stored::Blob(text)),
        Object::List(list) => {
            list.iter_from(index).take(budget).for_each(|element| put_string(out, element));
            return indexed(list.len());
        }
        Object::Zset(zset) => {
            for (name, score) in zset.iter_from(index).take(budget) {
                put_string(out, name);
                out.put(&score.to_le_bytes());
            }
            return indexed(zset.len());
        }
        Object::Set(set) => {
            if let Set::Integers(integers) = &**set {
                integers.iter().for_each(|value| put_integer(out, value));
                return None;
            }
            return set.walk(walk, budget, |name| put_string(out, name)).map(Position::Walk);
        }
        Object::Hash(hash) => {
            let put = |name: Stored<'_>, value: Stored<'_>| {
                put_string(out, name);
                put_string(out, value);
            };
            return hash.walk(walk, budget, put).map(Position::Walk);
        }
    }
    None
}

fn put_string(out: &mut Output, string: Stored<'_>) {
    match string {
        Stored::Integer(value) => put_integer(out, value),
        other => {
            put_length(out, other.with(<[u8]>::len) as u64);
            other.put_to(out);
        }
    }
}

fn put_text(out: &mut Output, text: &[u8]) {
    put_length(out, text.len() as u64);
    out.put(text);
}

/// A string that is an integer: in its shortest form.
fn put_integer(out: &mut Output, value: i64) {
    if let Ok(value) = i8::try_from(value) {
        out.put(&[0xC0, value.to_le_bytes()[0]]);
    } else if let Ok(value) = i16::try_from(value) {
        let [low, high] = value.to_le_bytes();
        out.put(&[0xC1, low, high]);
    } else if let Ok(value) = i32::try_from(value) {
        out.put(&[0xC2]);
        out.put(&value.to_le_bytes());
    } else {
        put_text(out, &crate::number::IntegerText::new(value));
    }
}

pub(crate) fn put_length(out: &mut Output, length: u64) {
    if length < 1 << 6 {
        out.put(&[length as u8]);
    } else if length < 1 << 14 {
        out.put(&[0x40 | (length >> 8) as u8, length as u8]);
    } else if let Ok(length) = u32::try_from(length) {
        out.put(&[0x80]);
        out.put(&length.to_be_bytes());
    } else {
        out.put(&[0x81]);
        out.put(&length.to_be_bytes());
    }
}
