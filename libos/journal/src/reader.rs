//! Reads the records of a log in order: for pops, for seeks, and for recovery.
//!
//! A reader fetches chunks of the log ahead of where it is; records are slices of them, and nothing is copied. Chunks are
//! powers of two at multiples of themselves, small after a jump and then growing: so they never leave an extent.
//!
//! Always: a record is given only if its checksum is right, it is of this log, its number is the next, and its epoch is not
//! older than that of the one before. What lies behind `limit` may be under way to the device, and is not looked at.

use std::collections::VecDeque;

use pdpix::{Buf, BufMut, Error, Sga};

use crate::checksum::sum;
use crate::format::{HEADER_LEN, Layout, RecordHeader, RecordKind};

/// The first chunk after a jump.
const CHUNK_FIRST: u64 = 16 << 10;

/// What a reader must know of its log.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Ground {
    pub(crate) log: u32,
    pub(crate) seed: u32,
    pub(crate) unit: u64,
    pub(crate) extent_size: u64,
    /// What may be read ends here: a multiple of the unit, within the log's extents.
    pub(crate) limit: u64,
}

impl Ground {
    pub(crate) fn new(log: u32, layout: &Layout, limit: u64) -> Ground {
        Ground { log, seed: layout.checksum_seed(), unit: layout.unit, extent_size: layout.extent_size, limit }
    }
}

/// A record that was found, and is right.
#[derive(Debug)]
pub(crate) struct Found {
    pub(crate) header: RecordHeader,
    /// Its place in the log.
    pub(crate) position: u64,
    pub(crate) payload: Sga,
}

/// What a step came to.
#[derive(Debug)]
pub(crate) enum Read {
    Record(Found),
    /// A fetch has to come back first, or be made.
    NeedData,
    /// At the limit.
    End,
    /// What is here is no next record, though the limit has not come: from here on the device does not hold what was
    /// written, or nothing was.
    Invalid {
        position: u64,
    },
    /// The device could not read, or there is no memory.
    Failed(Error),
}

/// What a probe came to.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Probe {
    /// A record says that this one was durable when it was written.
    Claim(u64),
    NeedData,
    End,
    Failed(Error),
}

#[derive(Debug)]
struct Chunk {
    start: u64,
    len: u64,
    /// Up to here it could be read when it was fetched.
    usable: u64,
    bytes: Option<Buf>,
}

/// Where a fetch is to read.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Fetch {
    pub(crate) position: u64,
    pub(crate) len: u64,
    /// To be given back with the data.
    pub(crate) round: u32,
}

#[derive(Debug)]
pub(crate) struct Reader {
    pub(crate) position: u64,
    /// The number of the record that is to be there.
    pub(crate) expected: u64,
    /// The epoch of the record before it.
    pub(crate) epoch: u32,
    chunks: VecDeque<Chunk>,
    /// Where the next fetch begins.
    fetch_at: u64,
    /// The size of the next chunk: doubled when one was passed.
    grown: u64,
    first: u64,
    chunk_max: u64,
    ahead: u64,
    /// Everything up to here is wanted at once.
    wanted: u64,
    round: u32,
    pub(crate) in_flight: usize,
    failed: Option<Error>,
}

impl Reader {
    /// A reader at the beginning. It fetches chunks of at most `chunk_max` bytes, and, when it reads on, up to `ahead` bytes
    /// beyond where it is.
    pub(crate) fn new(unit: u64, chunk_max: u64, ahead: u64) -> Reader {
        let chunk_max = chunk_max.max(unit);
        let first = CHUNK_FIRST.max(unit).min(chunk_max);
        Reader {
            position: 0,
            expected: 1,
            epoch: 0,
            chunks: VecDeque::new(),
            fetch_at: 0,
            grown: first,
            first,
            chunk_max,
            ahead,
            wanted: 0,
            round: 0,
            in_flight: 0,
            failed: None,
        }
    }

    /// Goes elsewhere. What is there already is kept if it is still of use.
    pub(crate) fn go(&mut self, position: u64, expected: u64, epoch: u32) {
        (self.position, self.expected, self.epoch) = (position, expected, epoch);
        let start = self.chunks.front().map_or(u64::MAX, |chunk| chunk.start);
        if !(start..self.fetch_at).contains(&position) {
            self.refetch();
        }
        self.drop_passed();
    }

    /// Goes there, to read a lot.
    pub(crate) fn go_far(&mut self, position: u64, expected: u64, epoch: u32) {
        self.refetch();
        (self.position, self.expected, self.epoch) = (position, expected, epoch);
        self.grown = self.chunk_max;
        self.fetch_at = position / self.grown * self.grown;
    }

    /// Forgets everything that was fetched, and begins again where it is.
    fn refetch(&mut self) {
        self.chunks.clear();
        self.grown = self.first;
        self.fetch_at = self.position / self.grown * self.grown;
        self.wanted = 0;
        self.round = self.round.wrapping_add(1);
        self.failed = None;
    }

    fn drop_passed(&mut self) {
        while self.chunks.front().is_some_and(|chunk| chunk.start + chunk.len <= self.position && chunk.bytes.is_some())
        {
            self.chunks.pop_front();
            self.grown = (self.grown * 2).min(self.chunk_max);
        }
    }

    /// Lets go of what was fetched: nobody reads for now.
    pub(crate) fn rest(&mut self) {
        self.refetch();
    }

    /// The next fetch that is due, if there is one.
    pub(crate) fn next_fetch(&mut self, ground: &Ground) -> Option<Fetch> {
        if self.chunks.is_empty() {
            // A chunk may be longer than an extent; what lies before this one may not be the log's any more.
            self.fetch_at = self.fetch_at.max(self.position / ground.extent_size * ground.extent_size);
        }
        // Who has just come here may want one record alone.
        let ahead =
            if self.grown == self.first && self.first < self.chunk_max { 1 } else { self.ahead.min(4 * self.grown) };
        let until = self.wanted.max(self.position + ahead).min(ground.limit);
        if self.fetch_at >= until || self.failed.is_some() {
            return None;
        }
        // As much as the place allows: its lowest bit; growing from fetch to fetch.
        let aligned = if self.fetch_at == 0 { u64::MAX } else { 1 << self.fetch_at.trailing_zeros() };
        let len = self.grown.min(aligned).min(ground.extent_size);
        let (position, usable) = (self.fetch_at, (self.fetch_at + len).min(ground.limit));
        self.chunks.push_back(Chunk { start: position, len, usable, bytes: None });
        self.fetch_at += len;
        self.in_flight += 1;
        Some(Fetch { position, len, round: self.round })
    }

    /// A fetch that could not be made.
    pub(crate) fn refuse(&mut self, fetch: Fetch, why: Error) {
        self.in_flight -= 1;
        if fetch.round == self.round {
            self.failed = Some(why);
        }
    }

    /// A fetch has come back.
    pub(crate) fn on_data(&mut self, fetch: Fetch, result: Result<(), Error>, read: Option<BufMut>) {
        self.in_flight -= 1;
        if fetch.round != self.round {
            return;
        }
        let Some(chunk) = self.chunks.iter_mut().find(|chunk| chunk.start == fetch.position) else { return };
        match (result, read) {
            (Ok(()), Some(read)) if read.len() as u64 >= chunk.len => chunk.bytes = Some(read.freeze()),
            (Ok(()), _) => self.failed = Some(Error::Io),
            (Err(error), _) => self.failed = Some(error),
        }
    }

    /// Takes the failure off, so that the next step tries again.
    fn take_failure(&mut self) -> Option<Error> {
        let failed = self.failed.take()?;
        self.refetch();
        Some(failed)
    }

    /// Whether `len` bytes from `from` on are here. If not they are asked for.
    fn has(&mut self, from: u64, len: u64, limit: u64) -> bool {
        let end = from + len;
        self.wanted = end;
        let (mut at, mut stale) = (from, false);
        for chunk in self.chunks.iter().filter(|chunk| chunk.start + chunk.len > from) {
            if chunk.start > at || at >= end {
                break;
            }
            if chunk.bytes.is_none() {
                return false;
            }
            if chunk.usable < end.min(chunk.start + chunk.len) && chunk.usable < limit {
                // Fetched while this part was still under way to the device.
                stale = true;
                break;
            }
            at = chunk.usable;
        }
        if at >= end {
            return true;
        }
        if stale || !self.chunks.is_empty() && at < self.fetch_at && self.chunks.iter().all(|c| c.bytes.is_some()) {
            self.refetch();
            self.wanted = end;
        }
        false
    }

    /// Copies what is here.
    fn copy(&self, from: u64, into: &mut [u8]) {
        let mut done = 0;
        for chunk in self.chunks.iter().filter(|chunk| chunk.start + chunk.len > from) {
            let Some(bytes) = &chunk.bytes else { return };
            let offset = (from + done as u64 - chunk.start) as usize;
            let count = (chunk.len as usize - offset).min(into.len() - done);
            into[done..done + count].copy_from_slice(&bytes[offset..offset + count]);
            done += count;
            if done == into.len() {
                return;
            }
        }
    }

    /// Slices of what is here.
    fn slices(&self, from: u64, len: u64) -> Result<Sga, Error> {
        let mut sga = Sga::new();
        let end = from + len;
        for chunk in self.chunks.iter().filter(|chunk| chunk.start + chunk.len > from && chunk.start < end) {
            let Some(bytes) = &chunk.bytes else { break };
            let start = from.max(chunk.start) - chunk.start;
            let stop = end.min(chunk.start + chunk.len) - chunk.start;
            sga.push(bytes.slice(start as usize..stop as usize)).map_err(|_| Error::NoBuffers)?;
        }
        Ok(sga)
    }

    /// The header at a position, if it is one of this log, with what its checksum is so far and what it should be.
    fn header(&self, position: u64, ground: &Ground) -> Option<(RecordHeader, u32, u32)> {
        let mut bytes = [0; HEADER_LEN];
        self.copy(position, &mut bytes);
        let decoded = RecordHeader::decode(&bytes, ground.seed)?;
        let end = position + HEADER_LEN as u64 + decoded.0.len as u64;
        let fits = end <= extent_end(position, ground.extent_size).min(ground.limit);
        (decoded.0.log == ground.log && fits).then_some(decoded)
    }

    /// The payload behind a header, if its checksum is right. `None`: it is not all here.
    fn payload(&mut self, position: u64, found: (RecordHeader, u32, u32), limit: u64) -> Option<Result<Sga, Error>> {
        let (header, crc, right) = found;
        let (from, len) = (position + HEADER_LEN as u64, header.len as u64);
        if !self.has(position, HEADER_LEN as u64 + len, limit) {
            return None;
        }
        Some(self.slices(from, len).and_then(|sga| {
            let crc = sga.segments().iter().fold(crc, |crc, segment| sum(crc, segment));
            if crc == right { Ok(sga) } else { Err(Error::Corrupt) }
        }))
    }

    /// The next record. It goes on to the one behind it.
    pub(crate) fn step(&mut self, ground: &Ground) -> Read {
        if let Some(failed) = self.take_failure() {
            return Read::Failed(failed);
        }
        let mut invalid = None;
        loop {
            self.drop_passed();
            if self.position >= ground.limit {
                return invalid.map_or(Read::End, |position| Read::Invalid { position });
            }
            let rest = extent_end(self.position, ground.extent_size) - self.position;
            let room = rest.min(ground.limit - self.position);
            if room < HEADER_LEN as u64 {
                self.position += room;
                continue;
            }
            if !self.has(self.position, HEADER_LEN as u64, ground.limit) {
                return Read::NeedData;
            }
            let position = self.position;
            if let Some(found) = self.header(position, ground)
                && found.0.sequence == self.expected
                && self.is_of_its_time(found.0.epoch)
            {
                match self.payload(position, found, ground.limit) {
                    None => return Read::NeedData,
                    Some(Ok(payload)) => {
                        let header = found.0;
                        self.epoch = header.epoch;
                        if header.kind == RecordKind::Skip {
                            self.position += rest;
                            invalid = None;
                            continue;
                        }
                        self.position += header.stride();
                        self.expected += 1;
                        return Read::Record(Found { header, position, payload });
                    }
                    Some(Err(Error::Corrupt)) => {}
                    Some(Err(error)) => return Read::Failed(error),
                }
            }
            // A batch ends with padding, and after a cut the log goes on in the next unit.
            invalid = invalid.or(Some(position));
            let next = position.next_multiple_of(ground.unit);
            if next == position {
                return Read::Invalid { position: invalid.unwrap_or(position) };
            }
            self.position = next;
        }
    }

    fn is_of_its_time(&self, epoch: u32) -> bool {
        epoch >= self.epoch || cfg!(margay_planted_bug = "skip_the_epoch")
    }

    /// Looks at every unit from here on for a record which proves that `expected` was durable.
    pub(crate) fn probe(&mut self, ground: &Ground) -> Probe {
        if let Some(failed) = self.take_failure() {
            return Probe::Failed(failed);
        }
        loop {
            self.drop_passed();
            if self.position >= ground.limit {
                return Probe::End;
            }
            if !self.has(self.position, HEADER_LEN as u64, ground.limit) {
                return Probe::NeedData;
            }
            let position = self.position;
            if let Some(found) = self.header(position, ground)
                && found.0.committed >= self.expected
                && found.0.sequence > found.0.committed
            {
                match self.payload(position, found, ground.limit) {
                    None => return Probe::NeedData,
                    Some(Ok(_)) => {
                        self.position += ground.unit;
                        return Probe::Claim(found.0.committed);
                    }
                    Some(Err(Error::Corrupt)) => {}
                    Some(Err(error)) => return Probe::Failed(error),
                }
            }
            self.position += ground.unit;
        }
    }
}

pub(crate) fn extent_end(position: u64, extent_size: u64) -> u64 {
    (position / extent_size + 1) * extent_size
}
