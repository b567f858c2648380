//! The receive ring of a packet socket, version 2 (packet_mmap.rst): slots of one size, each with a status word that says
//! whose it is. The kernel fills the slots in turn; we give each back when its frame has been copied.
//!
//! Always: a slot is read only while its status says that it is ours (acquire), and given back after (release). Lengths
//! and offsets in it are checked against the slot.

use std::ptr::NonNull;
use std::sync::atomic::{AtomicU32, Ordering};

use libc::{TP_STATUS_KERNEL, TP_STATUS_USER, tpacket2_hdr};
use rustix::fd::AsFd;
use rustix::io::Errno;

use super::mapping::Mapping;

/// How the ring is cut.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Geometry {
    /// Bytes of a slot: a power of two, from 2048 to 64 KiB.
    pub(crate) slot_size: usize,
    /// How many: a power of two.
    pub(crate) slots: usize,
}

/// Bytes of the blocks that the kernel takes slots from.
const BLOCK_SIZE: usize = 64 * 1024;

impl Geometry {
    pub(crate) fn request(&self) -> libc::tpacket_req {
        let block_size = BLOCK_SIZE.min(self.slots * self.slot_size);
        libc::tpacket_req {
            tp_block_size: block_size as u32,
            tp_block_nr: (self.slots * self.slot_size / block_size) as u32,
            tp_frame_size: self.slot_size as u32,
            tp_frame_nr: self.slots as u32,
        }
    }
}

/// A frame in its slot.
pub(crate) struct Slot<'a> {
    /// TP_STATUS_*.
    pub(crate) status: u32,
    /// Its length on the wire.
    pub(crate) len: usize,
    /// What of it is here.
    pub(crate) bytes: &'a [u8],
    /// What lies before it: the virtio header, where that was asked for.
    pub(crate) before: &'a [u8],
}

pub(crate) struct PacketRing {
    mapping: Mapping,
    geometry: Geometry,
    /// The slot that is filled next.
    next: usize,
}

impl PacketRing {
    /// Maps the ring of a socket, which was asked for as `geometry` says.
    pub(crate) fn map(socket: impl AsFd, geometry: Geometry) -> Result<PacketRing, Errno> {
        let mapping = Mapping::new(socket, geometry.slot_size * geometry.slots, 0)?;
        Ok(PacketRing { mapping, geometry, next: 0 })
    }

    fn header(&self) -> NonNull<tpacket2_hdr> {
        debug_assert!(self.next < self.geometry.slots);
        self.mapping.at(self.next * self.geometry.slot_size, 1)
    }

    fn status(&self) -> &AtomicU32 {
        // SAFETY: the first word of a slot, aligned and mapped as long as `self` lives; the kernel accesses it as a word,
        // and we as an atomic only.
        unsafe { AtomicU32::from_ptr(&raw mut (*self.header().as_ptr()).tp_status) }
    }

    /// The frame in the next slot, if there is one. [`PacketRing::release`] gives the slot back.
    pub(crate) fn peek(&self) -> Option<Slot<'_>> {
        // Acquire: what the kernel wrote before it gave the slot to us.
        let status = self.status().load(Ordering::Acquire);
        if status & TP_STATUS_USER == 0 {
            return None;
        }
        // SAFETY: a slot that is ours has a header, which the kernel does not touch any more.
        let header = unsafe { self.header().read() };
        let (start, snap_len) = (usize::from(header.tp_mac), header.tp_snaplen as usize);
        let is_inside = start >= size_of::<tpacket2_hdr>() && start + snap_len <= self.geometry.slot_size;
        // Nonsense is a frame of which nothing is here.
        let (start, snap_len) = if is_inside { (start, snap_len) } else { (size_of::<tpacket2_hdr>(), 0) };
        let slot = self.mapping.at::<u8>(self.next * self.geometry.slot_size, self.geometry.slot_size);
        // SAFETY: inside the slot, as was checked; the kernel does not write to it before we give it back, for which
        // `release` needs `&mut self`.
        let slot = unsafe { std::slice::from_raw_parts(slot.as_ptr(), start + snap_len) };
        Some(Slot { status, len: header.tp_len as usize, bytes: &slot[start..], before: &slot[..start] })
    }

    /// Gives the slot that [`PacketRing::peek`] showed back to the kernel.
    pub(crate) fn release(&mut self) {
        // Release: after our reads of it.
        self.status().store(TP_STATUS_KERNEL, Ordering::Release);
        self.next = (self.next + 1) % self.geometry.slots;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_slot_is_taken_in_turn_and_never_read_beyond_its_end() {
        let geometry = Geometry { slot_size: 2048, slots: 16 };
        let file = rustix::fs::memfd_create("slots", rustix::fs::MemfdFlags::CLOEXEC).unwrap();
        rustix::fs::ftruncate(&file, 16 * 2048).unwrap();
        let kernel = Mapping::new(&file, 16 * 2048, 0).unwrap();
        let mut ring = PacketRing::map(&file, geometry).unwrap();
        let fill = |slot: usize, start: u16, snap_len: u32| {
            let header = kernel.at::<tpacket2_hdr>(slot * 2048, 1);
            // SAFETY: inside the mapping; nobody reads it meanwhile. Zeros are a header.
            unsafe {
                let mut written: tpacket2_hdr = std::mem::zeroed();
                (written.tp_status, written.tp_len, written.tp_snaplen) = (TP_STATUS_USER, 100, snap_len);
                written.tp_mac = start;
                header.write(written);
            }
        };
        assert!(ring.peek().is_none());
        for round in 0..40 {
            let slot = round % 16;
            let (start, snap_len, seen) = match round % 5 {
                0 => (80, 100, 100),
                1 => (80, 1968, 1968),
                2 => (80, 1969, 0),
                3 => (0, 100, 0),
                _ => (u16::MAX, u32::MAX, 0),
            };
            fill(slot, start, snap_len);
            let frame = ring.peek().expect("the slot is ours");
            assert_eq!((frame.len, frame.bytes.len()), (100, seen), "round {round}");
            ring.release();
            assert!(ring.peek().is_none(), "it was given back");
        }
    }
}
