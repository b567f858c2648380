//! A disk driven by io_uring.
//!
//! The memory that is read into and written from is registered with the ring piece by piece, when a piece is first used:
//! a reservation may be larger than what the system lets us keep in memory, and a log uses a small part of it, again and
//! again. What cannot be registered goes by its address, which costs the kernel a look-up of its pages each time.
//!
//! The ring belongs to the thread that made it; how it wakes a core that sleeps is as in `crate::uring`.

use std::io;
use std::ops::Range;
use std::os::fd::{AsRawFd, OwnedFd};
use std::ptr::NonNull;
use std::sync::atomic::{Ordering, fence};

use io_uring::types::{Fd, FsyncFlags};
use io_uring::{IoUring, opcode, squeue};
use pdpix::block::{BlockDone, BlockOp, Geometry};
use pdpix::{BlockDevice, Error, Heap, Instant, OpId, Wake, WakeOn};
use slab::Slab;

use super::ffi::{self, Vector};
use super::open::Disk;
use super::threaded::refusal;
use super::transfer::{Kind, Next, Transfer};

/// Whether the core is woken. Who arms polls once more before it sleeps, and sleeps whatever that poll brings, if it is not
/// what it waits for: so that look leaves the disk armed.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Armed {
    No,
    /// The last look is still to come.
    Fresh,
    Looked,
}

/// A disk with a ring.
pub(super) struct UringDisk {
    ring: IoUring,
    disk: Disk,
    transfers: Slab<Transfer>,
    registered: Registered,
    /// Readable when the ring has something, while armed.
    event: OwnedFd,
    armed: Armed,
}

impl UringDisk {
    /// The disk comes back with the reason why io_uring cannot have it.
    pub(super) fn new(disk: Disk, heap: &Heap, registered_max: usize) -> Result<UringDisk, (io::Error, Disk)> {
        let made = (|| {
            let ring = IoUring::builder()
                .dontfork()
                .setup_single_issuer()
                .setup_defer_taskrun()
                .setup_taskrun_flag()
                .setup_submit_all()
                .build(disk.depth.next_power_of_two() as u32)?;
            use rustix::event::{EventfdFlags, eventfd};
            let event = eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)?;
            ring.submitter().register_eventfd(event.as_raw_fd())?;
            Ok((ring, event))
        })();
        let (mut ring, event) = match made {
            Ok(made) => made,
            Err(why) => return Err((why, disk)),
        };
        ring.completion().disable_eventfd();
        let registered = Registered::new(&ring, heap, registered_max);
        Ok(UringDisk { ring, disk, transfers: Slab::new(), registered, event, armed: Armed::No })
    }

    fn queue(&mut self, index: usize) {
        let entry = self.entry(index).user_data(index as u64);
        while !ffi::queue(&mut self.ring, &entry) {
            let _ = self.ring.submit();
        }
    }

    /// What asks for the rest of a transfer.
    fn entry(&mut self, index: usize) -> squeue::Entry {
        let fd = Fd(self.disk.fd.as_raw_fd());
        let transfer = &mut self.transfers[index];
        let vector = Vector::of(transfer);
        let offset = transfer.offset + transfer.done;
        let flags = if self.disk.dsync || transfer.forced { libc::RWF_DSYNC } else { 0 };
        match (&transfer.kind, vector.one()) {
            (Kind::Flush, _) => opcode::Fsync::new(fd).flags(FsyncFlags::DATASYNC).build(),
            (Kind::Discard, _) => opcode::Fallocate::new(fd, transfer.len).offset(offset).mode(ffi::PUNCH_HOLE).build(),
            (Kind::Read(_), Some((start, len))) => match self.registered.index_of(&self.ring, start, len) {
                Some(buffer) => opcode::ReadFixed::new(fd, start, len as u32, buffer).offset(offset).build(),
                None => opcode::Read::new(fd, start, len as u32).offset(offset).build(),
            },
            (Kind::Write(_), Some((start, len))) => match self.registered.index_of(&self.ring, start, len) {
                Some(buffer) => {
                    opcode::WriteFixed::new(fd, start, len as u32, buffer).offset(offset).rw_flags(flags).build()
                }
                None => opcode::Write::new(fd, start, len as u32).offset(offset).rw_flags(flags).build(),
            },
            (Kind::Read(_), None) => {
                let vector = transfer.vector.insert(vector);
                opcode::Readv::new(fd, vector.as_ptr(), vector.len() as u32).offset(offset).build()
            }
            (Kind::Write(_), None) => {
                let vector = transfer.vector.insert(vector);
                let write = opcode::Writev::new(fd, vector.as_ptr(), vector.len() as u32);
                write.offset(offset).rw_flags(flags).build()
            }
        }
    }

    #[cold]
    fn disarm(&mut self) {
        self.armed = Armed::No;
        self.ring.completion().disable_eventfd();
        let _ = rustix::io::read(&self.event, &mut [0u8; 8]);
    }

    fn enter(&mut self) {
        let submission = self.ring.submission();
        if !submission.is_empty() || submission.taskrun() || submission.cq_overflow() {
            drop(submission);
            // EBUSY, EINTR, EAGAIN: tried again with the next poll.
            let _ = self.ring.submit();
        }
    }

    /// Takes at most `room` ends off the ring, and asks for the rest of what was done in part.
    fn take(&mut self, room: usize, done: &mut Vec<BlockDone>) {
        let mut given = 0;
        while given < room {
            let Some(cqe) = self.ring.completion().next() else { break };
            let (index, result) = (cqe.user_data() as usize, cqe.result());
            match self.transfers[index].on_result(result) {
                Next::Again => self.queue(index),
                Next::Done(result) => {
                    done.push(self.transfers.remove(index).end(result));
                    given += 1;
                }
            }
        }
    }
}

impl BlockDevice for UringDisk {
    fn geometry(&self) -> Geometry {
        self.disk.geometry
    }

    fn unwritten(&self) -> Vec<Range<u64>> {
        self.disk.unwritten.clone()
    }

    fn submit(&mut self, op: OpId, what: BlockOp) -> Result<(), (Error, BlockOp)> {
        if let Err(error) = refusal(&self.disk.geometry, self.disk.read_only, &what) {
            return Err((error, what));
        }
        if self.transfers.len() >= self.disk.depth {
            return Err((Error::NoBuffers, what));
        }
        let index = self.transfers.insert(Transfer::new(op, what, &self.disk.geometry));
        self.queue(index);
        Ok(())
    }

    fn poll(&mut self, _: Instant, room: usize, done: &mut Vec<BlockDone>) {
        match self.armed {
            Armed::No => {}
            Armed::Fresh => self.armed = Armed::Looked,
            Armed::Looked => self.disarm(),
        }
        if !self.transfers.is_empty() {
            self.enter();
            self.take(room, done);
        }
    }

    fn flush_submissions(&mut self, _: Instant) {
        if !self.transfers.is_empty() {
            self.enter();
        }
    }

    fn arm(&mut self, _: Instant) -> Wake {
        self.enter();
        if std::mem::replace(&mut self.armed, Armed::Fresh) != Armed::No {
            let _ = rustix::io::read(&self.event, &mut [0u8; 8]);
        }
        self.ring.completion().enable_eventfd();
        // The kernel writes what it has and then looks whether we want the event; we say so and then look.
        fence(Ordering::SeqCst);
        let left = !self.ring.submission().is_empty(); // the kernel had no memory for them
        let some = left || !self.ring.completion().is_empty() || self.ring.submission().taskrun();
        let on = if some { WakeOn::Now } else { WakeOn::Descriptor(self.event.as_raw_fd()) };
        Wake { deadline: None, on }
    }
}

impl Drop for UringDisk {
    /// The kernel must have let go of every buffer before they are: a disk's operations all end, sooner or later.
    fn drop(&mut self) {
        let mut ended = Vec::new();
        while !self.transfers.is_empty() {
            self.take(usize::MAX, &mut ended);
            ended.clear();
            if !self.transfers.is_empty() && self.ring.submit_and_wait(1).is_err() {
                std::thread::yield_now(); // EINTR, EBUSY
            }
        }
    }
}

/// Which pieces of the heap's reservation the ring knows.
struct Registered {
    /// Keeps the reservation.
    _heap: Heap,
    base: NonNull<u8>,
    /// Bytes of a piece.
    piece: usize,
    size: usize,
    pieces: Vec<bool>,
    /// Bytes that may still be.
    left: usize,
}

/// The longest table of a ring (IORING_MAX_REG_BUFFERS), and the longest buffer in it.
const PIECES_MAX: usize = 1 << 14;
const PIECE_MAX: usize = 1 << 30;
/// As long as the longest chunk of a size class at least.
const PIECE_MIN: usize = 256 << 10;

impl Registered {
    fn new(ring: &IoUring, heap: &Heap, max: usize) -> Registered {
        let (base, size) = (heap.reservation().base(), heap.reservation().size());
        let piece = size.div_ceil(PIECES_MAX).next_power_of_two().max(PIECE_MIN);
        let count = size.div_ceil(piece);
        let possible =
            max >= piece && piece <= PIECE_MAX && ring.submitter().register_buffers_sparse(count as u32).is_ok();
        let pieces = if possible { vec![false; count] } else { Vec::new() };
        Registered { _heap: heap.clone(), base, piece, size, pieces, left: max }
    }

    /// The table's index of the piece that these bytes lie in; registers it if it is new.
    fn index_of(&mut self, ring: &IoUring, start: *mut u8, len: usize) -> Option<u16> {
        let offset = (start as usize).wrapping_sub(self.base.as_ptr() as usize);
        let index = offset / self.piece;
        let known = *self.pieces.get(index)?; // nothing is registered, or it is of another heap
        if (offset + len - 1) / self.piece != index || offset + len > self.size {
            return None;
        }
        if !known && !self.register(ring, index) {
            return None;
        }
        Some(index as u16)
    }

    #[cold]
    fn register(&mut self, ring: &IoUring, index: usize) -> bool {
        if self.left < self.piece {
            return false;
        }
        let len = self.piece.min(self.size - index * self.piece);
        let start = NonNull::new(self.base.as_ptr().wrapping_add(index * self.piece)).expect("inside the reservation");
        self.pieces[index] = ffi::register(ring, index as u32, start, len).is_ok();
        // Refused once (RLIMIT_MEMLOCK), it would be refused each time.
        self.left = if self.pieces[index] { self.left - self.piece } else { 0 };
        self.pieces[index]
    }
}
