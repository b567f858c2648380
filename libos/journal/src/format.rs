//! What lies on the device, byte by byte: superblock, descriptors, record headers. docs/journal-format.md is its document.
//!
//! All numbers are little-endian. Everything that is read is checked: a checksum that is right says that we wrote it, not
//! that it makes sense, so lengths and places are compared with the device before they are used.

use crc32c::{crc32c, crc32c_append};
use pdpix::{Error, Geometry};

use crate::settings::Format;

/// The version of everything here.
pub const VERSION: u32 = 1;
/// The first bytes of a superblock.
pub const MAGIC: [u8; 8] = *b"MARGAYJ\n";
/// The first bytes of a descriptor, after its checksum.
pub const MAGIC_DESCRIPTOR: [u8; 4] = *b"MJLG";
/// Bytes of a superblock that mean something; the rest of its block is zero.
pub const SUPERBLOCK_LEN: usize = 128;
/// Bytes of a descriptor before its list of extents.
pub const DESCRIPTOR_LEN: usize = 256;
/// Bytes of an extent in that list.
pub const ENTRY_LEN: usize = 12;
/// Bytes of a record's header.
pub const HEADER_LEN: usize = 32;
/// Records begin at multiples of this.
pub const RECORD_ALIGN: u64 = 8;
/// The longest name of a log, in bytes.
pub const NAME_MAX: usize = 128;

/// The largest unit that a device may have.
const UNIT_MAX: u64 = 1 << 20;
const META_MIN: u64 = 4096;
const EXTENT_MIN: u64 = 64 << 10;
/// The least number of extents that is worth formatting.
const EXTENTS_MIN: u64 = 4;
/// The most that a descriptor can name.
const EXTENTS_MAX: u64 = 4096;
/// The most logs of a store.
const LOGS_MAX: u32 = 1 << 16;
/// The longest payload that a header can name.
const PAYLOAD_MAX: u64 = (1 << 28) - 1;

/// Where everything is: what the superblock says.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Layout {
    /// Tells this store from all others.
    pub store_id: u128,
    /// Bytes that are written all or not at all; batches of records are padded to it.
    pub unit: u64,
    /// Bytes of the device.
    pub device_size: u64,
    /// Bytes of an extent.
    pub extent_size: u64,
    /// How many there are.
    pub extent_count: u32,
    /// How many logs there can be.
    pub logs_max: u32,
    /// Bytes of a copy of a descriptor: a power of two.
    pub descriptor_size: u64,
    /// Where the descriptors begin.
    pub table_offset: u64,
    /// Where the extents begin.
    pub extents_offset: u64,
}

impl Layout {
    /// How a device is to be formatted.
    ///
    /// # Errors
    /// `NoSpace` (the device is too small), `InvalidArgument` (an extent size that is no power of two, or below the write
    /// unit), `NotSupported` (a write unit that is no power of two).
    pub fn plan(geometry: Geometry, format: Format) -> Result<Layout, Error> {
        let unit = unit_of(geometry)?;
        let meta = meta_of(unit);
        let device_size = geometry.block_count.saturating_mul(geometry.block_size as u64) / meta * meta;
        let usual = (device_size / 256).max(1).next_power_of_two().max(EXTENT_MIN).max(unit);
        let extent_size = format.extent_size.unwrap_or(usual);
        if !extent_size.is_power_of_two() || extent_size < meta || !(1..=LOGS_MAX).contains(&format.logs_max) {
            return Err(Error::InvalidArgument);
        }
        let most = device_size / extent_size;
        if most > EXTENTS_MAX {
            return Err(Error::InvalidArgument);
        }
        let descriptor_size = (DESCRIPTOR_LEN as u64 + most * ENTRY_LEN as u64).next_power_of_two().max(meta);
        let extents_offset = meta + 2 * format.logs_max as u64 * descriptor_size;
        let extent_count = device_size.saturating_sub(extents_offset + meta) / extent_size;
        if extent_count < EXTENTS_MIN {
            return Err(Error::NoSpace);
        }
        Ok(Layout {
            store_id: format.store_id,
            unit,
            device_size,
            extent_size,
            extent_count: extent_count as u32,
            logs_max: format.logs_max,
            descriptor_size,
            table_offset: meta,
            extents_offset,
        })
    }

    /// Bytes of a superblock's place.
    pub fn meta(&self) -> u64 {
        meta_of(self.unit)
    }

    /// Where the two superblocks are.
    pub fn superblocks(&self) -> [u64; 2] {
        [0, self.device_size - self.meta()]
    }

    /// Where a copy (0 or 1) of a descriptor is.
    pub fn descriptor(&self, slot: u32, copy: u32) -> u64 {
        self.table_offset + (2 * slot as u64 + copy as u64) * self.descriptor_size
    }

    /// Where an extent is.
    pub fn extent(&self, number: u32) -> u64 {
        self.extents_offset + number as u64 * self.extent_size
    }

    /// The longest payload of a record.
    pub fn payload_max(&self) -> u64 {
        (self.extent_size - HEADER_LEN as u64).min(PAYLOAD_MAX)
    }

    /// What every checksum but the superblock's begins with: nothing of another store is ever taken for ours.
    pub fn checksum_seed(&self) -> u32 {
        crc32c(&self.store_id.to_le_bytes())
    }

    /// The superblock's bytes.
    pub fn encode(&self) -> [u8; SUPERBLOCK_LEN] {
        let mut bytes = [0; SUPERBLOCK_LEN];
        let mut at = Fields(&mut bytes, 0);
        at.put(&MAGIC);
        at.put(&VERSION.to_le_bytes());
        at.put(&(self.unit as u32).to_le_bytes());
        at.put(&self.store_id.to_le_bytes());
        at.put(&self.device_size.to_le_bytes());
        at.put(&self.extent_size.to_le_bytes());
        at.put(&self.extent_count.to_le_bytes());
        at.put(&self.logs_max.to_le_bytes());
        at.put(&self.descriptor_size.to_le_bytes());
        at.put(&self.table_offset.to_le_bytes());
        at.put(&self.extents_offset.to_le_bytes());
        let crc = crc32c(&bytes[..SUPERBLOCK_LEN - 4]);
        bytes[SUPERBLOCK_LEN - 4..].copy_from_slice(&crc.to_le_bytes());
        bytes
    }

    /// Reads a superblock.
    ///
    /// # Errors
    /// `Corrupt` (not one, or damaged), `NotSupported` (of another version).
    pub fn decode(bytes: &[u8]) -> Result<Layout, Error> {
        let bytes = bytes.get(..SUPERBLOCK_LEN).ok_or(Error::Corrupt)?;
        let (body, crc) = bytes.split_at(SUPERBLOCK_LEN - 4);
        if body[..8] != MAGIC || crc32c(body).to_le_bytes() != crc {
            return Err(Error::Corrupt);
        }
        if u32_at(body, 8) != VERSION {
            return Err(Error::NotSupported);
        }
        let layout = Layout {
            unit: u32_at(body, 12) as u64,
            store_id: u128::from_le_bytes(body[16..32].try_into().expect("16 bytes")),
            device_size: u64_at(body, 32),
            extent_size: u64_at(body, 40),
            extent_count: u32_at(body, 48),
            logs_max: u32_at(body, 52),
            descriptor_size: u64_at(body, 56),
            table_offset: u64_at(body, 64),
            extents_offset: u64_at(body, 72),
        };
        layout.check().map(|()| layout)
    }

    /// Whether what it says can be.
    fn check(&self) -> Result<(), Error> {
        let powers = [self.unit, self.extent_size, self.descriptor_size].iter().all(|size| size.is_power_of_two());
        let (table, extents) = (
            (2 * self.logs_max as u64).checked_mul(self.descriptor_size),
            (self.extent_count as u64).checked_mul(self.extent_size),
        );
        let (Some(table), Some(extents), true) = (table, extents, powers) else { return Err(Error::Corrupt) };
        let ends = (self.table_offset.checked_add(table), self.extents_offset.checked_add(extents));
        let (Some(table_end), Some(extents_end)) = ends else { return Err(Error::Corrupt) };
        let fits = self.table_offset >= self.meta()
            && table_end <= self.extents_offset
            && extents_end <= self.device_size.saturating_sub(self.meta())
            && self.extent_size >= self.meta()
            && self.descriptor_size >= self.meta()
            && self.descriptor_size >= DESCRIPTOR_LEN as u64 + self.extent_count as u64 * ENTRY_LEN as u64
            && (1..=LOGS_MAX).contains(&self.logs_max)
            && self.extent_count as u64 <= EXTENTS_MAX
            && self.unit <= UNIT_MAX
            && [self.table_offset, self.extents_offset, self.device_size].iter().all(|at| at.is_multiple_of(self.unit));
        if fits { Ok(()) } else { Err(Error::Corrupt) }
    }

    /// Whether it can be used on this device.
    ///
    /// # Errors
    /// `NotSupported` (the device writes larger units than those of the store, or takes less at once than one), `Corrupt` (the
    /// device is smaller).
    pub fn check_device(&self, geometry: Geometry) -> Result<(), Error> {
        let unit = unit_of(geometry)?;
        let transfer_max = (geometry.transfer_max as u64).saturating_mul(geometry.block_size as u64);
        if unit > self.unit || transfer_max < self.unit {
            return Err(Error::NotSupported);
        }
        let size = geometry.block_count.saturating_mul(geometry.block_size as u64);
        if size < self.device_size { Err(Error::Corrupt) } else { Ok(()) }
    }
}

/// The write unit of a device, in bytes.
pub fn unit_of(geometry: Geometry) -> Result<u64, Error> {
    let unit = geometry.block_size as u64 * geometry.write_unit.max(1) as u64;
    if unit.is_power_of_two() && (512..=UNIT_MAX).contains(&unit) { Ok(unit) } else { Err(Error::NotSupported) }
}

/// Bytes of a superblock's place, for a write unit.
pub fn meta_of(unit: u64) -> u64 {
    unit.max(META_MIN)
}

/// What is known of a log without reading its records.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Descriptor {
    /// Its place in the table.
    pub slot: u32,
    /// Its number: never used again on this store.
    pub log: u32,
    /// How often the descriptor was written; the larger one of the two copies counts.
    pub generation: u64,
    /// Raised by each recovery.
    pub epoch: u32,
    /// No record from the mark on is of an older epoch.
    pub mark_epoch: u32,
    /// What it is opened by.
    pub name: String,
    /// The first record that is kept, and its position in the log.
    pub first_sequence: u64,
    /// See there.
    pub first_position: u64,
    /// All records before this one are durable; it is, or will be, at `mark_position`.
    pub mark_sequence: u64,
    /// See there.
    pub mark_position: u64,
    /// What may lie unflushed beyond the last durable record, in bytes, at most.
    pub window: u64,
    /// The number within the log (position / extent size) of the first extent listed.
    pub extents_base: u64,
    /// Its extents, in order.
    pub extents: Vec<Extent>,
}

/// An extent of a log.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Extent {
    /// Which one of the device.
    pub number: u32,
    /// The first record in it; 0: not known yet.
    pub first_sequence: u64,
}

impl Descriptor {
    /// Its bytes, `descriptor_size` of them.
    pub fn encode(&self, layout: &Layout) -> Vec<u8> {
        let mut bytes = vec![0; layout.descriptor_size as usize];
        let mut at = Fields(&mut bytes, 4);
        at.put(&MAGIC_DESCRIPTOR);
        at.put(&self.slot.to_le_bytes());
        at.put(&self.log.to_le_bytes());
        at.put(&self.generation.to_le_bytes());
        at.put(&self.epoch.to_le_bytes());
        at.put(&self.mark_epoch.to_le_bytes());
        at.put(&self.first_sequence.to_le_bytes());
        at.put(&self.first_position.to_le_bytes());
        at.put(&self.mark_sequence.to_le_bytes());
        at.put(&self.mark_position.to_le_bytes());
        at.put(&self.window.to_le_bytes());
        at.put(&self.extents_base.to_le_bytes());
        at.put(&(self.extents.len() as u32).to_le_bytes());
        at.put(&(self.name.len() as u32).to_le_bytes());
        at.put(self.name.as_bytes());
        let mut at = Fields(&mut bytes, DESCRIPTOR_LEN);
        for extent in &self.extents {
            at.put(&extent.number.to_le_bytes());
            at.put(&extent.first_sequence.to_le_bytes());
        }
        let end = at.1;
        let crc = crc32c_append(layout.checksum_seed(), &bytes[4..end]);
        bytes[..4].copy_from_slice(&crc.to_le_bytes());
        bytes
    }

    /// Reads a copy of the descriptor at `slot`. `None`: there has never been one.
    ///
    /// # Errors
    /// `Corrupt`.
    pub fn decode(bytes: &[u8], slot: u32, layout: &Layout) -> Result<Option<Descriptor>, Error> {
        if bytes.iter().all(|&byte| byte == 0) {
            return Ok(None);
        }
        if bytes.len() < DESCRIPTOR_LEN || bytes[4..8] != MAGIC_DESCRIPTOR {
            return Err(Error::Corrupt);
        }
        let (extent_count, name_len) = (u32_at(bytes, 80) as usize, u32_at(bytes, 84) as usize);
        let end = extent_count.checked_mul(ENTRY_LEN).map_or(usize::MAX, |len| len.saturating_add(DESCRIPTOR_LEN));
        if end > bytes.len() || name_len > NAME_MAX {
            return Err(Error::Corrupt);
        }
        let crc = crc32c_append(layout.checksum_seed(), &bytes[4..end]);
        if crc != u32_at(bytes, 0) {
            return Err(Error::Corrupt);
        }
        let entries = bytes[DESCRIPTOR_LEN..end].chunks_exact(ENTRY_LEN);
        let descriptor = Descriptor {
            slot: u32_at(bytes, 8),
            log: u32_at(bytes, 12),
            generation: u64_at(bytes, 16),
            epoch: u32_at(bytes, 24),
            mark_epoch: u32_at(bytes, 28),
            first_sequence: u64_at(bytes, 32),
            first_position: u64_at(bytes, 40),
            mark_sequence: u64_at(bytes, 48),
            mark_position: u64_at(bytes, 56),
            window: u64_at(bytes, 64),
            extents_base: u64_at(bytes, 72),
            name: String::from_utf8(bytes[88..88 + name_len].to_vec()).map_err(|_| Error::Corrupt)?,
            extents: entries.map(|e| Extent { number: u32_at(e, 0), first_sequence: u64_at(e, 4) }).collect(),
        };
        if descriptor.slot == slot && descriptor.makes_sense(layout) && descriptor.has_far_to_go() {
            Ok(Some(descriptor))
        } else {
            Err(Error::Corrupt)
        }
    }

    /// Whether what it says can be.
    pub(crate) fn makes_sense(&self, layout: &Layout) -> bool {
        let size = layout.extent_size;
        let Some(start) = self.extents_base.checked_mul(size) else { return false };
        let Some(end) = start.checked_add(self.extents.len() as u64 * size) else { return false };
        self.extents.iter().all(|extent| extent.number < layout.extent_count)
            && (start..=end).contains(&self.first_position)
            && (self.first_position..=end).contains(&self.mark_position)
            && (1..=self.mark_sequence).contains(&self.first_sequence)
            && self.mark_position.is_multiple_of(layout.unit)
            && self.first_position.is_multiple_of(RECORD_ALIGN)
            && self.mark_epoch <= self.epoch
            && self.epoch < u32::MAX / 2
            && [end, self.mark_sequence, self.generation, self.window].iter().all(|&number| number < u64::MAX / 4)
    }

    /// Whether its numbers are so small that no use of the log brings them to where [`Descriptor::makes_sense`] ends.
    fn has_far_to_go(&self) -> bool {
        let far = [self.extents_base, self.first_position, self.mark_sequence, self.generation, self.window];
        self.epoch < u32::MAX / 4 && self.log < u32::MAX / 4 && far.iter().all(|&number| number < u64::MAX / 8)
    }
}

/// What a record is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum RecordKind {
    /// Somebody's.
    Data = 1,
    /// The log goes on in its next extent. Its sequence number is that of the next record.
    Skip = 2,
}

/// The first bytes of a record.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct RecordHeader {
    /// What it is.
    pub kind: RecordKind,
    /// Bytes of payload behind the header.
    pub len: u32,
    /// Its number.
    pub sequence: u64,
    /// The log's epoch when it was written.
    pub epoch: u32,
    /// The log's number.
    pub log: u32,
    /// The last record that was durable when this one was written: proof that it was.
    pub committed: u64,
}

impl RecordHeader {
    /// Its bytes, with a checksum of zero, and what the checksum of the payload goes on from.
    #[inline]
    pub fn encode(&self, seed: u32) -> ([u8; HEADER_LEN], u32) {
        let mut bytes = [0; HEADER_LEN];
        bytes[4..8].copy_from_slice(&(self.len | (self.kind as u32) << 28).to_le_bytes());
        bytes[8..16].copy_from_slice(&self.sequence.to_le_bytes());
        bytes[16..20].copy_from_slice(&self.epoch.to_le_bytes());
        bytes[20..24].copy_from_slice(&self.log.to_le_bytes());
        bytes[24..32].copy_from_slice(&self.committed.to_le_bytes());
        let crc = crc32c_append(seed, &bytes[4..]);
        (bytes, crc)
    }

    /// Reads a header, without a look at its checksum: that, what the checksum of the payload goes on from, and what the
    /// checksum should be.
    #[inline]
    pub fn decode(bytes: &[u8; HEADER_LEN], seed: u32) -> Option<(RecordHeader, u32, u32)> {
        let word = u32_at(bytes, 4);
        let kind = match word >> 28 {
            1 => RecordKind::Data,
            2 if word << 4 == 0 => RecordKind::Skip,
            _ => return None,
        };
        let header = RecordHeader {
            kind,
            len: word & PAYLOAD_MAX as u32,
            sequence: u64_at(bytes, 8),
            epoch: u32_at(bytes, 16),
            log: u32_at(bytes, 20),
            committed: u64_at(bytes, 24),
        };
        Some((header, crc32c_append(seed, &bytes[4..]), u32_at(bytes, 0)))
    }

    /// Bytes from the start of this record to where the next may begin.
    pub fn stride(&self) -> u64 {
        stride(self.len as usize)
    }
}

/// Bytes of a record with so much payload, to where the next may begin.
#[inline]
pub fn stride(len: usize) -> u64 {
    (HEADER_LEN as u64 + len as u64).next_multiple_of(RECORD_ALIGN)
}

struct Fields<'a>(&'a mut [u8], usize);

impl Fields<'_> {
    fn put(&mut self, bytes: &[u8]) {
        self.0[self.1..self.1 + bytes.len()].copy_from_slice(bytes);
        self.1 += bytes.len();
    }
}

#[inline]
fn u32_at(bytes: &[u8], at: usize) -> u32 {
    u32::from_le_bytes(bytes[at..at + 4].try_into().expect("four bytes"))
}

#[inline]
fn u64_at(bytes: &[u8], at: usize) -> u64 {
    u64::from_le_bytes(bytes[at..at + 8].try_into().expect("eight bytes"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn geometry(size: u64) -> Geometry {
        Geometry {
            block_size: 512,
            block_count: size / 512,
            write_unit: 1,
            transfer_max: 256,
            align: 512,
            gathers: 1,
            volatile_cache: true,
            forces: false,
            discards: false,
        }
    }

    fn descriptor() -> Descriptor {
        Descriptor {
            slot: 3,
            log: 9,
            generation: 77,
            epoch: 5,
            mark_epoch: 4,
            name: "orders".into(),
            first_sequence: 10,
            first_position: 3 * 65536 + 8,
            mark_sequence: 12,
            mark_position: 4 * 65536,
            window: 1 << 20,
            extents_base: 3,
            extents: vec![Extent { number: 4, first_sequence: 9 }, Extent { number: 0, first_sequence: 0 }],
        }
    }

    #[test]
    fn a_superblock_is_read_back_and_any_flipped_bit_is_seen() {
        let layout = Layout::plan(geometry(16 << 20), Format::new(7)).unwrap();
        let bytes = layout.encode();
        assert_eq!(Layout::decode(&bytes), Ok(layout));
        for bit in 0..bytes.len() * 8 {
            let mut bad = bytes;
            bad[bit / 8] ^= 1 << (bit % 8);
            assert!(Layout::decode(&bad).is_err(), "bit {bit}");
        }
    }

    #[test]
    fn a_descriptor_is_read_back_and_any_flipped_bit_is_seen() {
        let layout = Layout::plan(geometry(16 << 20), Format::new(7)).unwrap();
        let bytes = descriptor().encode(&layout);
        assert_eq!(Descriptor::decode(&bytes, 3, &layout), Ok(Some(descriptor())));
        assert_eq!(Descriptor::decode(&bytes, 2, &layout), Err(Error::Corrupt), "of another slot");
        let other = Layout { store_id: 8, ..layout };
        assert_eq!(Descriptor::decode(&bytes, 3, &other), Err(Error::Corrupt), "of another store");
        for bit in 0..(DESCRIPTOR_LEN + 2 * ENTRY_LEN) * 8 {
            let mut bad = bytes.clone();
            bad[bit / 8] ^= 1 << (bit % 8);
            assert!(Descriptor::decode(&bad, 3, &layout).is_err(), "bit {bit}");
        }
    }

    #[test]
    fn what_nobody_would_write_is_refused_though_its_checksum_is_right() {
        let layout = Layout::plan(geometry(16 << 20), Format::new(7)).unwrap();
        let descriptor = descriptor();
        let hostile = [
            Descriptor { epoch: u32::MAX / 2 - 1, ..descriptor.clone() },
            Descriptor { generation: u64::MAX / 4 - 1, ..descriptor.clone() },
            Descriptor { mark_sequence: u64::MAX / 4 - 1, ..descriptor.clone() },
            Descriptor { log: u32::MAX, ..descriptor.clone() },
            Descriptor { window: u64::MAX / 4 - 1, ..descriptor.clone() },
            Descriptor { first_sequence: 0, ..descriptor.clone() },
        ];
        for hostile in hostile {
            let read = Descriptor::decode(&hostile.encode(&layout), 3, &layout);
            assert_eq!(read, Err(Error::Corrupt), "{hostile:?}");
        }
        let hostile = [
            Layout { logs_max: 0, ..layout },
            Layout { logs_max: LOGS_MAX + 1, ..layout },
            Layout { descriptor_size: 4096, extent_count: 4000, extent_size: 4096, ..layout },
            Layout { unit: 0, ..layout },
        ];
        for hostile in hostile {
            assert_eq!(Layout::decode(&hostile.encode()), Err(Error::Corrupt), "{hostile:?}");
        }
    }

    #[test]
    fn devices_are_cut_into_a_sensible_number_of_extents() {
        for size in [2 << 20, 16 << 20, 1 << 30, 10 << 30, 1u64 << 40] {
            let layout = Layout::plan(geometry(size), Format::new(1)).unwrap();
            assert!((8..=256).contains(&layout.extent_count), "{layout:?}");
            assert_eq!(layout.check(), Ok(()));
        }
        assert_eq!(Layout::plan(geometry(256 << 10), Format::new(1)), Err(Error::NoSpace));
    }

    #[test]
    fn a_header_is_read_back() {
        let header =
            RecordHeader { kind: RecordKind::Data, len: 1000, sequence: 1 << 40, epoch: 3, log: 2, committed: 17 };
        let (bytes, crc) = header.encode(99);
        assert_eq!(RecordHeader::decode(&bytes, 99), Some((header, crc, 0)));
        assert_eq!(RecordHeader::decode(&[0; HEADER_LEN], 99), None);
    }
}
