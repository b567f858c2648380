//! Reads a store from the outside: offline, and without changing anything. For `margay journal`, for tests, and for whoever
//! wants to know what is left on a broken disk.
//!
//! It shares the byte forms ([`format`](crate::format)) with the store, and none of the machinery: what both find is
//! compared by the tests. Where the store stops at damage, this goes on behind it, and says what is lost in between.

use pdpix::Error;

use crate::checksum::sum;
use crate::format::{Descriptor, HEADER_LEN, Layout, RECORD_ALIGN, RecordHeader, RecordKind, SUPERBLOCK_LEN};

/// Where bytes come from: a file, a disk, an image in memory.
pub trait ReadAt {
    /// How many there are.
    fn size(&self) -> u64;

    /// Fills `into` from `offset` on.
    ///
    /// # Errors
    /// `Io`; `InvalidArgument` (beyond the end).
    fn read_at(&mut self, offset: u64, into: &mut [u8]) -> Result<(), Error>;
}

impl ReadAt for &[u8] {
    fn size(&self) -> u64 {
        self.len() as u64
    }

    fn read_at(&mut self, offset: u64, into: &mut [u8]) -> Result<(), Error> {
        let start = usize::try_from(offset).map_err(|_| Error::InvalidArgument)?;
        let end = start.checked_add(into.len()).ok_or(Error::InvalidArgument)?;
        into.copy_from_slice(self.get(start..end).ok_or(Error::InvalidArgument)?);
        Ok(())
    }
}

/// What became of a structure that is there twice.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Copy {
    /// All zero.
    Blank,
    /// It is right.
    Good,
    /// It is not.
    Bad,
}

/// What is on a device.
#[derive(Clone, Debug)]
pub struct Inspection {
    /// Where everything is.
    pub layout: Layout,
    /// The superblocks.
    pub superblocks: [Copy; 2],
    /// The logs.
    pub logs: Vec<LogInfo>,
    /// Places of the table of which no copy can be read: a log each.
    pub lost_slots: Vec<u32>,
    /// Extents that no log has.
    pub free_extents: u32,
}

/// A log, as its descriptor says.
#[derive(Clone, Debug)]
pub struct LogInfo {
    /// The copy that counts.
    pub descriptor: Descriptor,
    /// Both copies.
    pub copies: [Copy; 2],
}

/// A record, as it lies there.
#[derive(Clone, Copy, Debug)]
pub struct RecordInfo<'a> {
    /// What its header says.
    pub header: RecordHeader,
    /// Where it is on the device.
    pub offset: u64,
    /// What was appended.
    pub payload: &'a [u8],
}

/// Records that were durable and cannot be read.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Loss {
    /// Where on the device the first of them should be.
    pub offset: u64,
    /// The first one.
    pub sequence: u64,
    /// How many; where nothing can be read behind them, at least so many.
    pub count: u64,
}

/// What a log's records come to.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Verdict {
    /// Records that are right, and their bytes.
    pub records: u64,
    /// See there.
    pub bytes: u64,
    /// The first record that is kept.
    pub first: u64,
    /// The record behind the last one that is right.
    pub next: u64,
    /// Where on the device the log goes on; `None` where it takes a new extent.
    pub end_offset: Option<u64>,
    /// What is lost, in order. Empty: everything is there that is known to have been durable.
    pub lost: Vec<Loss>,
}

/// Reads superblocks and descriptors.
///
/// # Errors
/// `NotFound` (a blank device), `Corrupt` (no store, or both superblocks are damaged), `NotSupported` (of another version),
/// and the source's.
pub fn inspect(source: &mut dyn ReadAt) -> Result<Inspection, Error> {
    let (first, first_copy, is_blank) = superblock(source, 0)?;
    let places = match &first {
        Ok(layout) => vec![layout.superblocks()[1]],
        // How large a superblock's place is says the unit, which is not known: try each.
        Err(_) => (12..=20).filter_map(|bits| (source.size() >> bits << bits).checked_sub(1 << bits)).collect(),
    };
    let mut second = (Err(Error::Corrupt), Copy::Bad);
    for place in places {
        let (layout, copy, _) = superblock(source, place)?;
        if layout.is_ok() {
            second = (layout, copy);
            break;
        }
    }
    let superblocks = [first_copy, second.1];
    let layout = match (first, second.0) {
        (Ok(layout), _) | (Err(_), Ok(layout)) => layout,
        (Err(_), Err(_)) if is_blank => return Err(Error::NotFound),
        (Err(error), Err(_)) => return Err(error),
    };
    if layout.device_size > source.size() {
        return Err(Error::Corrupt);
    }
    let mut found = Inspection { layout, superblocks, logs: Vec::new(), lost_slots: Vec::new(), free_extents: 0 };
    let mut bytes = vec![0; layout.descriptor_size as usize];
    for slot in 0..layout.logs_max {
        let mut copies = [Copy::Blank; 2];
        let mut best: Option<Descriptor> = None;
        for copy in 0..2 {
            source.read_at(layout.descriptor(slot, copy), &mut bytes)?;
            copies[copy as usize] = match Descriptor::decode(&bytes, slot, &layout) {
                Ok(None) => Copy::Blank,
                Err(_) => Copy::Bad,
                Ok(Some(descriptor)) => {
                    if best.as_ref().is_none_or(|best| descriptor.generation > best.generation) {
                        best = Some(descriptor);
                    }
                    Copy::Good
                }
            };
        }
        match best {
            Some(descriptor) => found.logs.push(LogInfo { descriptor, copies }),
            None if copies == [Copy::Bad; 2] => found.lost_slots.push(slot),
            None => {}
        }
    }
    let used: usize = found.logs.iter().map(|log| log.descriptor.extents.len()).sum();
    found.free_extents = layout.extent_count.saturating_sub(used as u32);
    Ok(found)
}

fn superblock(source: &mut dyn ReadAt, offset: u64) -> Result<(Result<Layout, Error>, Copy, bool), Error> {
    let mut bytes = [0; SUPERBLOCK_LEN];
    if offset + SUPERBLOCK_LEN as u64 > source.size() {
        return Ok((Err(Error::Corrupt), Copy::Bad, false));
    }
    source.read_at(offset, &mut bytes)?;
    let is_blank = bytes.iter().all(|&byte| byte == 0);
    let layout = Layout::decode(&bytes);
    let copy = match &layout {
        Ok(_) => Copy::Good,
        Err(_) if is_blank => Copy::Blank,
        Err(_) => Copy::Bad,
    };
    Ok((layout, copy, is_blank))
}

/// Reads all records of a log, gives each to `see`, and says what is lost.
///
/// # Errors
/// The source's.
pub fn read_log(
    source: &mut dyn ReadAt,
    layout: &Layout,
    log: &Descriptor,
    mut see: impl FnMut(RecordInfo<'_>),
) -> Result<Verdict, Error> {
    let mut scan = Scan {
        layout,
        seed: layout.checksum_seed(),
        log,
        end: (log.extents_base + log.extents.len() as u64) * layout.extent_size,
        extent: Vec::new(),
        loaded: None,
    };
    let mut verdict = Verdict { first: log.first_sequence, ..Verdict::default() };
    let (mut position, mut expected, mut epoch) = (log.first_position, log.first_sequence, 0);
    loop {
        // From the mark on nothing older counts, though what is before it may be lost.
        if expected >= log.mark_sequence {
            position = position.max(log.mark_position);
            epoch = log.mark_epoch.max(epoch);
        }
        match scan.next(source, position, expected, epoch)? {
            Next::Record(at, header, range) => {
                let payload = &scan.extent[range];
                see(RecordInfo { header, offset: offset(layout, log, at), payload });
                (verdict.records, verdict.bytes) = (verdict.records + 1, verdict.bytes + payload.len() as u64);
                (position, expected, epoch) = (at + header.stride(), expected + 1, header.epoch);
            }
            Next::None(at) => {
                let Some((found, next)) = scan.beyond(source, at, expected, epoch)? else {
                    verdict.next = expected;
                    let end = at.next_multiple_of(layout.unit);
                    verdict.end_offset = (end < scan.end).then(|| offset(layout, log, end));
                    return Ok(verdict);
                };
                verdict.lost.push(Loss { offset: offset(layout, log, at), sequence: expected, count: next - expected });
                match found {
                    Some(found) => (position, expected) = (found, next),
                    None => {
                        verdict.next = expected;
                        return Ok(verdict);
                    }
                }
            }
        }
    }
}

fn offset(layout: &Layout, log: &Descriptor, position: u64) -> u64 {
    let ordinal = (position / layout.extent_size).saturating_sub(log.extents_base) as usize;
    log.extents.get(ordinal).map_or(0, |extent| layout.extent(extent.number) + position % layout.extent_size)
}

enum Next {
    /// A record at this position, and its payload's place in the extent.
    Record(u64, RecordHeader, std::ops::Range<usize>),
    /// None, from this position on.
    None(u64),
}

struct Scan<'a> {
    layout: &'a Layout,
    seed: u32,
    log: &'a Descriptor,
    end: u64,
    extent: Vec<u8>,
    loaded: Option<u64>,
}

impl Scan<'_> {
    /// Sees to it that the extent of a position is in memory.
    fn load(&mut self, source: &mut dyn ReadAt, position: u64) -> Result<(), Error> {
        let ordinal = position / self.layout.extent_size;
        if self.loaded != Some(ordinal) {
            self.loaded = None;
            self.extent.resize(self.layout.extent_size as usize, 0);
            let extent = self.log.extents[(ordinal - self.log.extents_base) as usize];
            source.read_at(self.layout.extent(extent.number), &mut self.extent)?;
            self.loaded = Some(ordinal);
        }
        Ok(())
    }

    /// A record of this log at a position, if there is one.
    fn record(&self, position: u64) -> Option<(RecordHeader, std::ops::Range<usize>)> {
        let at = (position % self.layout.extent_size) as usize;
        let header = self.extent.get(at..at + HEADER_LEN)?.try_into().ok()?;
        let (header, crc, right) = RecordHeader::decode(header, self.seed)?;
        let range = at + HEADER_LEN..at + HEADER_LEN + header.len as usize;
        let payload = self.extent.get(range.clone())?;
        (header.log == self.log.log && sum(crc, payload) == right).then_some((header, range))
    }

    fn next(&mut self, source: &mut dyn ReadAt, mut position: u64, expected: u64, epoch: u32) -> Result<Next, Error> {
        let mut none_at = None;
        while position < self.end {
            self.load(source, position)?;
            let rest = self.layout.extent_size - position % self.layout.extent_size;
            if rest < HEADER_LEN as u64 {
                position += rest;
                continue;
            }
            match self.record(position) {
                Some((header, range)) if header.sequence == expected && header.epoch >= epoch => {
                    if header.kind == RecordKind::Data {
                        return Ok(Next::Record(position, header, range));
                    }
                    position += rest;
                }
                // Padding, or what was cut off: the next unit may go on.
                _ => {
                    let at = (position % self.layout.extent_size) as usize;
                    if self.extent[at..at + RECORD_ALIGN as usize] != [0; RECORD_ALIGN as usize] {
                        none_at = none_at.or(Some(position));
                    }
                    let next = position.next_multiple_of(self.layout.unit);
                    if next == position {
                        break;
                    }
                    position = next;
                }
            }
        }
        Ok(Next::None(none_at.unwrap_or(position)))
    }

    /// Whether `expected` was durable, though it is not at `position`: where the log can be read again, and with which
    /// record; or nowhere, and the record behind the last that is known to have been durable.
    fn beyond(
        &mut self,
        source: &mut dyn ReadAt,
        position: u64,
        expected: u64,
        epoch: u32,
    ) -> Result<Option<(Option<u64>, u64)>, Error> {
        let mut claimed = self.log.mark_sequence - 1;
        let mut found: Option<(u64, u64)> = None;
        let mut at = position.next_multiple_of(self.layout.unit);
        let window = (position + self.log.window.max(self.layout.extent_size)).max(self.log.mark_position);
        while at < self.end && (at < window || claimed >= expected) {
            self.load(source, at)?;
            if let Some((header, _)) = self.record(at)
                && header.sequence > expected
                && header.sequence > header.committed
                && header.kind == RecordKind::Data
                && header.epoch >= epoch
            {
                claimed = claimed.max(header.committed);
                found = found.or(Some((at, header.sequence)));
            }
            if claimed >= expected && found.is_some() {
                break;
            }
            at += self.layout.unit;
        }
        if claimed < expected {
            return Ok(None);
        }
        Ok(Some(match found {
            Some((at, sequence)) => (Some(at), sequence),
            None if self.log.mark_sequence > expected => (Some(self.log.mark_position), self.log.mark_sequence),
            None => (None, claimed + 1),
        }))
    }
}
