//! What a shard writes down of each change, and how its data is made again from that.
//!
//! A record holds what was changed since the one before it, in the order in which it was done. A command is written down as
//! it was given, with the time at which it was carried out and its database: at that time, on that data, it does the same
//! again (an expiry in seconds from then on is the same moment, and a key that had expired has expired). What chance
//! decided is written down as what came of it (SPOP as SREM or DEL). What a command over several shards has done to this
//! one is written down key by key, in a record of its own that names all shards concerned ([`Joint`]): whoever recovers
//! takes it only if all of them have theirs.
//!
//! ```text
//! record   entry*  [id u64, shard u16 * count, count u8]  number u64, kind u8       numbers little-endian
//! kind     1 plain, 2 joint (with what is in brackets)
//! entry    1, milliseconds since 1970 u64             when what follows was done
//!          2, database u8                             where; 0 at the beginning of a record
//!          3, count, (length, bytes) * count          a command; lengths as RDB has them
//!          4, [252, milliseconds u64,] RDB type, key, value     the key has this value from now on
//!          5, length, bytes                           the key is gone
//!          6, length u32, bytes                       commands as clients sent them (RESP), one behind the other
//! piece    bytes of a record, index u32, count u32, number u64, 3      one of `count` of the record of this number
//! ```
//!
//! A record that is longer than what is appended at once goes in pieces ([`pieces()`]), each of which says whose it is and
//! which: any of them may be refused, and those behind it be durable. [`Assembly`] puts together what is whole, and only
//! that. The last byte tells a piece from a record; it is never a client's.
//!
//! Always: records of a shard are numbered from one on, without a gap. What stands behind a gap was written when a record
//! before it could not be, and was never acknowledged.
//! Source: Redis's append-only file, for what must be replaced by its effect. Not here: where records go ([`Engine`] gives
//! them out), and checksums (the journal has them).

mod pieces;

use std::ops::Range;

use pdpix::{Buf, Exhausted, Heap, Input, Output, Sga, WallTime};
use smallvec::SmallVec;

use crate::blob::Blob;
use crate::command::{Run, find};
use crate::engine::{At, DATABASES, Engine, Session};
use crate::keyspace::{Entry, Key};
use crate::rdb::{Bytes, Stop, build, put_entry, put_length};
use crate::resp::parser::same_place;
use crate::resp::{Request, RequestError, RequestParser};

pub use pieces::{Assembly, in_one, pieces};

mod tag {
    pub const TIME: u8 = 1;
    pub const DATABASE: u8 = 2;
    pub const COMMAND: u8 = 3;
    pub const PUT: u8 = 4;
    pub const DELETE: u8 = 5;
    pub const REQUESTS: u8 = 6;
    /// Of RDB: what stands before a type if the key expires.
    pub const EXPIRES: u8 = 252;
}

const PLAIN: u8 = 1;
const JOINT: u8 = 2;

/// What ends a record.
const RECORD_END_LEN: usize = 9;

/// Bytes of the longest command that is written down as it came: what is longer may go by reference.
const AS_IT_CAME_MAX: usize = 1024;
/// Bytes of what came in one piece that are written down at once, at most. A buffer is not held for longer.
const RUN_MAX: usize = 32 << 10;

/// What several shards have done together.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Joint {
    /// Unlike any other, ever.
    pub id: u64,
    /// Each of them has a record of it.
    pub shards: SmallVec<[u16; 4]>,
}

/// Which record, and what it is part of.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct RecordHead {
    /// The records of a shard are numbered from one on.
    pub number: u64,
    /// The command over several shards whose part it is.
    pub joint: Option<Joint>,
}

/// Why a record cannot be replayed.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum LogError {
    /// It is none.
    Corrupt(&'static str),
    /// It is not the one that comes next.
    Gap {
        /// The number that it should have.
        expected: u64,
        /// The one that it has.
        found: u64,
    },
    /// A command in it was refused, which it was not when it was written down.
    Refused(String),
    /// There is no memory.
    Exhausted,
}

impl std::fmt::Display for LogError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            LogError::Corrupt(why) => write!(f, "a record of the log is damaged: {why}"),
            LogError::Gap { expected, found } => write!(f, "record {expected} is missing: {found} comes instead"),
            LogError::Refused(why) => write!(f, "a command of the log was refused: {why}"),
            LogError::Exhausted => f.write_str("there is not enough memory for the log's data"),
        }
    }
}

impl std::error::Error for LogError {}

impl From<Stop> for LogError {
    fn from(stop: Stop) -> LogError {
        match stop {
            Stop::Short(_) => LogError::Corrupt("it ends too early"),
            Stop::Bad(why) => LogError::Corrupt(why),
            Stop::Exhausted => LogError::Exhausted,
        }
    }
}

/// The record that is being written.
#[derive(Debug)]
pub(crate) struct Log {
    out: Output,
    next: u64,
    /// What is known at this place of the record.
    time: Option<u64>,
    database: u8,
    /// The command that is being carried out has written down itself what came of it.
    is_said: bool,
    /// Commands that came one behind the other, at that time, and are to be copied together.
    run: Option<Requests>,
}

/// Commands as they came.
#[derive(Debug)]
struct Requests {
    buf: Buf,
    range: Range<usize>,
}

impl Log {
    fn new(heap: Heap, next: u64) -> Log {
        Log { out: Output::new(heap), next, time: None, database: 0, is_said: false, run: None }
    }

    /// Before an entry: when and where.
    #[inline]
    fn begin(&mut self, at: At) {
        self.end_run();
        if self.time.replace(at.now) != Some(at.now) {
            self.out.put(&[tag::TIME]);
            self.out.put(&at.now.to_le_bytes());
        }
        let database = at.database as u8;
        if self.database != database {
            self.database = database;
            self.out.put(&[tag::DATABASE, database]);
        }
    }

    /// Bytes written down, with those that are still to be copied.
    #[inline]
    fn len(&self) -> usize {
        self.out.len() + self.run.as_ref().map_or(0, |run| run.range.len())
    }

    #[inline]
    fn command(&mut self, request: &Request, at: At) {
        match request.as_it_came() {
            Some((buf, range)) if range.len() <= AS_IT_CAME_MAX => self.as_it_came(buf, range, at),
            _ => self.any_command(request, at),
        }
    }

    /// One that lies in a buffer as a client sent it: so do those behind it, mostly, and all of them are copied at once.
    #[inline]
    fn as_it_came(&mut self, buf: &Buf, range: Range<usize>, at: At) {
        if self.time == Some(at.now)
            && usize::from(self.database) == at.database
            && let Some(run) = &mut self.run
            && run.range.end == range.start
            && same_place(&run.buf, buf)
        {
            run.range.end = range.end;
        } else {
            self.begin(at);
            self.run = Some(Requests { buf: buf.clone(), range: range.clone() });
        }
        // A buffer that is read to its end is wanted back.
        if range.end == buf.len() || self.run.as_ref().is_some_and(|run| run.range.len() > RUN_MAX) {
            self.end_run();
        }
    }

    /// Copies what waits for that.
    fn end_run(&mut self) {
        if let Some(Requests { buf, range }) = self.run.take() {
            self.out.put(&[tag::REQUESTS]);
            self.out.put(&(range.len() as u32).to_le_bytes());
            self.out.put(&buf[range]);
        }
    }

    fn any_command(&mut self, request: &Request, at: At) {
        self.begin(at);
        self.out.put(&[tag::COMMAND]);
        put_length(&mut self.out, request.len() as u64);
        for index in 0..request.len() {
            let len = request.arg(index).len();
            put_length(&mut self.out, len as u64);
            // A long one by reference: it is written from where it lies.
            if len > libos_mem::PUSH_COPY_MAX {
                self.out.put_buf(request.buf(index));
            } else {
                self.out.put(request.arg(index));
            }
        }
    }
}

impl Engine {
    /// Begins to write down what is changed, in records numbered from `next` on.
    pub fn keep_log(&mut self, next: u64) {
        self.log = Some(Box::new(Log::new(self.tools.heap.clone(), next)));
    }

    /// Whether it does.
    pub fn keeps_log(&self) -> bool {
        self.log.is_some()
    }

    /// Bytes written down since the last record was taken.
    #[inline]
    pub fn log_waiting(&self) -> usize {
        self.log.as_ref().map_or(0, |log| log.len())
    }

    /// The number that the next record will have.
    pub fn next_record(&self) -> u64 {
        self.log.as_ref().map_or(0, |log| log.next)
    }

    /// Takes what was written down as a record. A joint one is one even if there is nothing in it.
    ///
    /// # Errors
    /// [`Exhausted`]: something that was changed could not be written down. The log is of no use any more.
    pub fn take_record(&mut self, joint: Option<&Joint>) -> Result<Option<Sga>, Exhausted> {
        let Some(log) = &mut self.log else { return Ok(None) };
        log.end_run();
        if log.out.is_empty() && joint.is_none() && !log.out.has_failed() {
            return Ok(None);
        }
        if let Some(Joint { id, shards }) = joint {
            log.out.put(&id.to_le_bytes());
            shards.iter().for_each(|shard| log.out.put(&shard.to_le_bytes()));
            log.out.put(&[shards.len() as u8]);
        }
        log.out.put(&log.next.to_le_bytes());
        log.out.put(&[if joint.is_some() { JOINT } else { PLAIN }]);
        (log.time, log.database) = (None, 0);
        log.next += 1;
        log.out.take().map(Some)
    }

    /// A command has changed something.
    pub(crate) fn note_command(&mut self, request: &Request, at: At) {
        if let Some(log) = &mut self.log
            && !std::mem::take(&mut log.is_said)
        {
            log.command(request, at);
        }
    }

    /// The same, where something else is to be written down.
    pub(crate) fn note_instead(&mut self, words: &[&[u8]], more: &[Blob], at: At) {
        let Some(log) = &mut self.log else { return };
        log.begin(at);
        log.out.put(&[tag::COMMAND]);
        put_length(&mut log.out, (words.len() + more.len()) as u64);
        for word in words.iter().copied().chain(more.iter().map(|blob| &**blob)) {
            put_length(&mut log.out, word.len() as u64);
            log.out.put(word);
        }
        log.is_said = true;
    }

    /// A key has a value, or is gone, from now on.
    pub(crate) fn note_key(&mut self, at: At, key: &[u8], entry: Option<&Entry>) {
        let Some(log) = &mut self.log else { return };
        log.begin(at);
        match entry {
            Some(entry) => {
                log.out.put(&[tag::PUT]);
                put_entry(&mut log.out, entry);
            }
            None => {
                log.out.put(&[tag::DELETE]);
                put_length(&mut log.out, key.len() as u64);
                log.out.put(key);
            }
        }
    }

    /// Does again what a record says. Where it is not the next one after `last`, it is refused. The time of the last
    /// change, in milliseconds since 1970, if it says one.
    ///
    /// # Errors
    /// [`LogError`]; a part of it may be done.
    pub fn replay(&mut self, record: &[u8], last: u64) -> Result<Option<u64>, LogError> {
        let (head, entries) = split(record)?;
        if head.number != last + 1 {
            return Err(LogError::Gap { expected: last + 1, found: head.number });
        }
        debug_assert!(self.log.is_none(), "what is replayed is written down already");
        // What was allowed then is allowed now.
        let limits = self.tools.limits;
        self.tools.limits = limits.lifted();
        let done = self.replay_entries(entries);
        self.tools.limits = limits;
        done
    }

    fn replay_entries(&mut self, entries: &[u8]) -> Result<Option<u64>, LogError> {
        let mut bytes = Bytes::new(entries);
        let (mut at, mut time) = (At { database: 0, now: 0 }, None);
        let mut out = Output::new(self.tools.heap.clone());
        while !bytes.is_at_end() {
            match bytes.byte()? {
                tag::TIME => {
                    at.now = u64::from_le_bytes(bytes.array()?);
                    time = Some(at.now);
                }
                tag::DATABASE => {
                    at.database = usize::from(bytes.byte()?);
                    if at.database >= DATABASES {
                        return Err(LogError::Corrupt("a database beyond the sixteenth"));
                    }
                }
                tag::COMMAND => {
                    let request = self.read_command(&mut bytes)?;
                    self.repeat(&request, at, &mut out)?;
                }
                tag::REQUESTS => {
                    let len = u32::from_le_bytes(bytes.array()?);
                    self.repeat_all(bytes.take(len as usize)?, at, &mut out)?;
                }
                tag::PUT => self.replay_put(&mut bytes, at)?,
                tag::DELETE => {
                    let name = bytes.text()?;
                    let key = Key { bytes: &name, hash: self.key(&name).hash };
                    self.delete(at, &key);
                }
                _ => return Err(LogError::Corrupt("an entry of no known kind")),
            }
        }
        Ok(time)
    }

    fn read_command(&self, bytes: &mut Bytes<'_>) -> Result<Request, LogError> {
        let mut args = Vec::new();
        for _ in 0..bytes.length()? {
            args.push(bytes.text()?);
        }
        if args.is_empty() {
            return Err(LogError::Corrupt("a command without a name"));
        }
        Request::of(args.iter().map(|arg| &**arg), &self.tools.heap).map_err(|Exhausted| LogError::Exhausted)
    }

    /// Does again what clients sent.
    fn repeat_all(&mut self, sent: &[u8], at: At, out: &mut Output) -> Result<(), LogError> {
        let heap = self.tools.heap.clone();
        let (mut input, mut parser, mut request) = (Input::new(), RequestParser::new(), Request::default());
        input.push(Sga::from(heap.copy(sent).map_err(|Exhausted| LogError::Exhausted)?));
        loop {
            match parser.next(&mut input, &heap, &mut request) {
                Ok(true) => self.repeat(&request, at, out)?,
                Ok(false) if parser.is_empty() && input.is_empty() => return Ok(()),
                Err(RequestError::Exhausted) => return Err(LogError::Exhausted),
                _ => return Err(LogError::Corrupt("what stands for commands is none")),
            }
        }
    }

    fn repeat(&mut self, request: &Request, at: At, out: &mut Output) -> Result<(), LogError> {
        let refused = |why: &[u8]| {
            let name = request.arg(0).escape_ascii();
            LogError::Refused(format!("{name}: {}", why.escape_ascii()))
        };
        let command = find(request).map_err(|refusal| refused(&refusal.text(None, request)))?;
        let Run::Shard(_) = command.run else { return Err(refused(b"it is none on keys")) };
        let mark = out.mark();
        let now = WallTime::from_nanos(at.now.saturating_mul(1_000_000));
        let errors = self.errors.total();
        let session = Session { database: at.database as u8, ..Session::default() };
        self.execute(command, request, session, now, out);
        let failed = self.errors.total() != errors;
        out.rollback(mark);
        if failed { Err(refused(b"with an error")) } else { Ok(()) }
    }

    fn replay_put(&mut self, bytes: &mut Bytes<'_>, at: At) -> Result<(), LogError> {
        let mut kind = bytes.byte()?;
        let mut expires = None;
        if kind == tag::EXPIRES {
            expires = Some(u64::from_le_bytes(bytes.array()?));
            kind = bytes.byte()?;
        }
        let name = bytes.text()?;
        let object = build(kind, bytes, &self.tools)?.ok_or(LogError::Corrupt("a value without elements"))?;
        let key = Key { bytes: &name, hash: self.key(&name).hash };
        self.delete(at, &key);
        let blob = Blob::copy(&name, &self.tools.heap).map_err(|Exhausted| LogError::Exhausted)?;
        let entry = Entry::new(blob, key.hash, object, at.now);
        self.database_mut(at).insert_expiring(entry, expires);
        Ok(())
    }
}

/// Which record this is.
///
/// # Errors
/// [`LogError::Corrupt`]: it is none.
pub fn head_of(record: &[u8]) -> Result<RecordHead, LogError> {
    split(record).map(|(head, _)| head)
}

fn split(record: &[u8]) -> Result<(RecordHead, &[u8]), LogError> {
    let short = LogError::Corrupt("it is too short");
    let (rest, &[kind]) = record.split_last_chunk::<1>().ok_or(short.clone())?;
    let (rest, number) = rest.split_last_chunk::<8>().ok_or(short.clone())?;
    let number = u64::from_le_bytes(*number);
    match kind {
        PLAIN => Ok((RecordHead { number, joint: None }, rest)),
        JOINT => {
            let (rest, &[count]) = rest.split_last_chunk::<1>().ok_or(short.clone())?;
            let at = rest.len().checked_sub(usize::from(count) * 2).ok_or(short.clone())?;
            let (rest, shards) = rest.split_at(at);
            let shards = shards.chunks_exact(2).map(|pair| u16::from_le_bytes([pair[0], pair[1]])).collect();
            let (rest, id) = rest.split_last_chunk::<8>().ok_or(short)?;
            let joint = Some(Joint { id: u64::from_le_bytes(*id), shards });
            Ok((RecordHead { number, joint }, rest))
        }
        _ => Err(LogError::Corrupt("a record of no known kind")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// It is bounded what is held, and what waits is counted.
    #[test]
    fn what_came_together_is_copied_before_it_is_much() {
        let heap = Heap::alone(4 << 20).unwrap();
        let one = b"*3\r\n$3\r\nSET\r\n$1\r\nk\r\n$3\r\nxyz\r\n";
        let count = 100_000 / one.len();
        let (mut parser, mut input, mut request) = (RequestParser::new(), Input::new(), Request::default());
        input.push(Sga::copy(&heap, &one.repeat(count)).unwrap());
        let (mut log, at) = (Log::new(heap.clone(), 1), At { database: 0, now: 7 });
        let mut last = 0;
        while parser.next(&mut input, &heap, &mut request).unwrap() {
            log.command(&request, at);
            assert!(log.len() >= last + one.len(), "{} bytes, and {last} before", log.len());
            assert!(log.run.as_ref().is_none_or(|run| run.range.len() <= RUN_MAX));
            last = log.len();
        }
        // The buffer was read to its end.
        assert!(log.run.is_none());
        assert!(log.out.len() > count * one.len() && log.out.len() < count * one.len() + 50);
    }

    /// Damage in what stands for commands is found, and none of it is waited for.
    #[test]
    fn commands_that_are_none_are_damage() {
        let heap = Heap::alone(4 << 20).unwrap();
        let whole = b"*3\r\n$3\r\nSET\r\n$1\r\nk\r\n$3\r\nxyz\r\n";
        for (sent, is_fine) in [(&whole[..], true), (&whole[..20], false), (b"*1\r\n$x", false), (b"SET k", false)] {
            let mut record = vec![tag::REQUESTS];
            record.extend((sent.len() as u32).to_le_bytes());
            record.extend_from_slice(sent);
            record.extend(1u64.to_le_bytes());
            record.push(PLAIN);
            let mut engine = Engine::new((0, 1), heap.clone(), pdpix::Seed::new(1), pdpix::Rng::new(1));
            assert_eq!(engine.replay(&record, 0).is_ok(), is_fine, "{}", sent.escape_ascii());
        }
    }
}
