//! How records are put into pages, and pages become batches.
//!
//! A record is copied into the open page, and summed by the way; or its header alone is, and its payload goes by reference,
//! where it is long and the device gathers. A batch is what the page has when it is closed: pieces of pages, and payloads.

use libos_mem::{CopyPath, PUSH_COPY_MAX};
use pdpix::{Error, Instant, OpId, Sga};

use crate::checksum::{copy_summed, sum};
use crate::format::{HEADER_LEN, Layout, RecordHeader, RecordKind, stride};
use crate::log::{Batch, Log, Outgoing, Pending, Shared, State};
use crate::reader::extent_end;

/// Places of the sparse index; beyond that every second one is forgotten.
const INDEX_MAX: usize = 16 << 10;
/// Pieces of a batch that goes by reference: its list is made before the first, so that none is refused later.
const PIECES_MAX: usize = 64;

impl Log {
    /// Whether an append may be placed at once, or has to stand in line.
    pub(crate) fn is_open(&self) -> bool {
        self.state == State::Ready && self.waiting.is_empty()
    }

    /// Puts a record into the open page. False: it has to wait.
    pub(crate) fn place(&mut self, op: OpId, handle: u32, sga: &mut Sga, shared: &mut Shared, now: Instant) -> bool {
        let (size, len) = (shared.layout.extent_size, sga.len());
        let need = stride(len);
        while !self.is_broken {
            let open = self.open_len();
            let at = self.tail + open;
            let end = if open == 0 { extent_end(at, size) } else { extent_end(at - 1, size) };
            if at + need > end {
                // Not in this extent.
                if open == 0 && end - at == size {
                    return false; // longer than an extent: refused before
                }
                if self.persisted_end < end || !self.skip(end - at, shared) {
                    return false;
                }
                self.close(Some(end), shared);
                continue;
            }
            if at + need > self.persisted_end {
                return false;
            }
            if at + need - self.committed_position > shared.settings.budget as u64 && at > self.committed_position {
                return false;
            }
            if open > 0 && open + need > shared.settings.write_max as u64 {
                self.close(None, shared);
                continue;
            }
            let by_reference = self.goes_by_reference(sga, open + need, shared);
            if by_reference && !self.make_list(shared) {
                self.is_starved = true;
                return false;
            }
            let in_page = if by_reference { HEADER_LEN as u64 } else { need };
            if !self.has_room(in_page, shared) {
                if self.open_len() > 0 && !self.gathers(shared) {
                    self.close(None, shared);
                    continue;
                }
                if !self.turn_page(in_page, shared) {
                    self.is_starved = true;
                    return false;
                }
            }
            self.put_record(op, handle, sga, by_reference, shared);
            self.opened_at.get_or_insert(now);
            return true;
        }
        false
    }

    /// A part of a batch is lost: memory was short where none may be. The store tells whoever waits (`look_for_failure`).
    fn break_down(&mut self) {
        self.state = State::Failed(Error::NoBuffers);
        self.is_broken = true;
    }

    /// Bytes in the open batch.
    #[inline]
    pub(crate) fn open_len(&self) -> u64 {
        self.pieces_len + self.page.as_ref().map_or(0, |page| page.len() as u64)
    }

    /// Whether the open batch goes on in another page.
    fn gathers(&self, shared: &Shared) -> bool {
        let pieces = self.pieces.segments().len();
        pieces > 0 && pieces + 3 < shared.gathers.min(PIECES_MAX)
    }

    fn goes_by_reference(&self, sga: &Sga, batch_len: u64, shared: &Shared) -> bool {
        let pieces = self.pieces.segments().len() + sga.segments().len() + 3;
        sga.len() > PUSH_COPY_MAX && pieces < shared.gathers.min(PIECES_MAX) && batch_len <= shared.transfer_max
    }

    /// Sees to it that the batch has a list for its pieces.
    fn make_list(&mut self, shared: &Shared) -> bool {
        if self.pieces.is_empty() {
            let Ok(list) = Sga::with_room(shared.gathers.min(PIECES_MAX), &shared.heap) else { return false };
            self.pieces = list;
        }
        true
    }

    /// Whether so many bytes fit into the page, with what it takes to end the batch.
    #[inline]
    fn has_room(&self, len: u64, shared: &Shared) -> bool {
        self.page.as_ref().is_some_and(|page| page.room() as u64 >= len + shared.layout.unit)
    }

    /// A new page with room for so many bytes. What the old one had becomes a piece.
    fn turn_page(&mut self, len: u64, shared: &Shared) -> bool {
        let size = (len + shared.layout.unit).max(shared.settings.write_max as u64) as usize;
        let align = shared.align.max(shared.layout.unit as usize);
        let least = (len + shared.layout.unit).next_multiple_of(shared.layout.unit) as usize;
        let usual = shared.heap.alloc_aligned(size, align);
        let Ok(page) = usual.or_else(|_| shared.heap.alloc_aligned(least, align)) else { return false };
        if !self.end_piece() {
            return false;
        }
        self.page = Some(page);
        true
    }

    /// What the page has becomes a piece of the batch.
    fn end_piece(&mut self) -> bool {
        let Some(page) = &mut self.page else { return true };
        let len = page.len();
        if len == 0 {
            return true;
        }
        let piece = page.split_to(len);
        self.pieces_len += len as u64;
        self.pieces.push(piece).is_ok()
    }

    fn header(&self, kind: RecordKind, len: usize) -> RecordHeader {
        RecordHeader {
            kind,
            len: len as u32,
            sequence: self.next_sequence,
            epoch: self.descriptor.epoch,
            log: self.descriptor.log,
            committed: self.committed_sequence,
        }
    }

    fn put_record(&mut self, op: OpId, handle: u32, sga: &mut Sga, by_reference: bool, shared: &mut Shared) {
        let len = sga.len();
        let position = self.tail + self.open_len();
        let (header, mut crc) = self.header(RecordKind::Data, len).encode(shared.seed);
        let page = self.page.as_mut().expect("a page with room");
        let at = page.len();
        page.put(&header);
        if by_reference {
            crc = sga.segments().iter().fold(crc, |crc, segment| sum(crc, segment));
            page[at..at + 4].copy_from_slice(&crc.to_le_bytes());
            self.gather(std::mem::take(sga), shared);
        } else {
            crc = sga.segments().iter().fold(crc, |crc, segment| copy_summed(page, segment, crc));
            page[at..at + 4].copy_from_slice(&crc.to_le_bytes());
            let padded = page.len() + (stride(len) as usize - HEADER_LEN - len);
            page.resize(padded, 0);
            shared.counters.bytes_copied += len as u64;
            shared.heap.count_copied(CopyPath::Push, len);
            // Nobody else needs it: its memory is free for the next one.
            drop(std::mem::take(sga));
        }
        self.note_place(position, shared.layout.extent_size);
        self.pending.push_back(Pending { op, handle, sequence: self.next_sequence });
        self.next_sequence += 1;
        shared.counters.records += 1;
        shared.counters.bytes += len as u64;
    }

    /// The payload goes by reference, behind the header in the page.
    fn gather(&mut self, sga: Sga, shared: &mut Shared) {
        let len = sga.len();
        shared.counters.bytes_gathered += len as u64;
        let mut ended = self.end_piece();
        for segment in sga {
            self.pieces_len += segment.len() as u64;
            ended &= self.pieces.push(segment).is_ok();
        }
        if !ended {
            // A list that could not grow has lost a part of the batch.
            self.break_down();
        }
        if let Some(page) = &mut self.page {
            page.resize(page.len() + (stride(len) as usize - HEADER_LEN - len), 0);
        }
    }

    /// Says, in the page, that the log goes on in the next extent.
    fn skip(&mut self, rest: u64, shared: &mut Shared) -> bool {
        if rest < HEADER_LEN as u64 {
            return true;
        }
        // A page is of whole units, so there is room for the padding.
        let fits = self.page.as_ref().is_some_and(|page| page.room() >= HEADER_LEN);
        if !fits && !self.turn_page(HEADER_LEN as u64, shared) {
            self.is_starved = true;
            return false;
        }
        let (mut header, crc) = self.header(RecordKind::Skip, 0).encode(shared.seed);
        header[..4].copy_from_slice(&crc.to_le_bytes());
        self.page.as_mut().expect("a page with room").put(&header);
        true
    }

    /// Notes where a record is, now and then, and in which extent it is the first.
    #[inline]
    fn note_place(&mut self, position: u64, extent_size: u64) {
        self.note_record(self.next_sequence, position, extent_size);
    }

    /// The same for a record that recovery has found.
    #[inline]
    pub(crate) fn note_record(&mut self, sequence: u64, position: u64, extent_size: u64) {
        if position.is_multiple_of(extent_size) {
            let ordinal = (position / extent_size - self.descriptor.extents_base) as usize;
            self.descriptor.extents[ordinal].first_sequence = sequence;
        }
        if self.index.last().is_none_or(|&(_, last)| position >= last + self.index_grain) {
            self.index.push((sequence, position));
            if self.index.len() > INDEX_MAX {
                let mut at = 0;
                self.index.retain(|_| (at += 1, at % 2 == 1).1);
                self.index_grain *= 2;
            }
        }
    }

    /// The last place before or at a record that is known: its number, and its position.
    pub(crate) fn nearest(&self, sequence: u64, layout: &Layout) -> (u64, u64) {
        let descriptor = &self.descriptor;
        let mut best = (descriptor.first_sequence, descriptor.first_position);
        for (i, extent) in descriptor.extents.iter().enumerate() {
            if extent.first_sequence > best.0 && extent.first_sequence <= sequence {
                best = (extent.first_sequence, (descriptor.extents_base + i as u64) * layout.extent_size);
            }
        }
        let upto = self.index.partition_point(|&(at, _)| at <= sequence);
        match upto.checked_sub(1).map(|i| self.index[i]) {
            Some(place) if place.0 > best.0 => place,
            _ => best,
        }
    }

    /// The open batch is complete: it goes to the outbox, and the next one begins behind it, or at `next`.
    pub(crate) fn close(&mut self, next: Option<u64>, shared: &mut Shared) {
        self.opened_at = None;
        self.passed_over = 0;
        let len = self.open_len();
        if len == 0 {
            self.tail = next.unwrap_or(self.tail);
            return;
        }
        let padded = len.next_multiple_of(shared.layout.unit);
        shared.counters.bytes_padding += padded - len;
        shared.counters.batches += 1;
        if let Some(page) = &mut self.page {
            page.resize(page.len() + (padded - len) as usize, 0);
        }
        if !self.end_piece() || self.pieces.len() as u64 != padded {
            self.break_down();
            return;
        }
        let sga = std::mem::take(&mut self.pieces);
        self.pieces_len = 0;
        let start = self.tail;
        self.tail = next.unwrap_or(start + padded);
        let number = self.first_batch + self.batches.len() as u64;
        let left = self.put_out(number, start, sga, shared);
        let last_sequence = self.next_sequence - 1;
        self.batches.push_back(Batch {
            next: self.tail,
            last_sequence,
            left,
            forced: false,
            covered_by: 0,
            written_at: Instant::ZERO,
        });
        // Pages begin at units; where a unit is less than what the device wants, each batch has its own.
        if self.page.as_ref().is_some_and(|page| page.room() < 2 * shared.layout.unit as usize)
            || shared.align as u64 > shared.layout.unit
        {
            self.page = None;
        }
    }

    /// Puts the writes of a batch into the outbox, no longer than the device takes them; says how many there are.
    fn put_out(&mut self, batch: u64, start: u64, mut sga: Sga, shared: &Shared) -> u32 {
        let mut offset = self.offset(start, &shared.layout).expect("a batch lies in an extent of its log");
        let mut count = 0;
        while !sga.is_empty() {
            let len = (sga.len() as u64).min(shared.transfer_max);
            // One transfer is the rule. What is longer is a record in a page of its own: one buffer, whose parts need no list.
            let part = if len == sga.len() as u64 { Ok(std::mem::take(&mut sga)) } else { sga.split_to(len as usize) };
            let Ok(part) = part else {
                self.break_down();
                return count;
            };
            self.outbox.push_back(Outgoing { batch, offset, sga: part });
            offset += len;
            count += 1;
        }
        count
    }
}
