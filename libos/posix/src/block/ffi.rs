//! All `unsafe` of the disks: memory that the kernel reads and writes while an operation is under way.

use std::io;
use std::os::fd::{AsRawFd, BorrowedFd};
use std::ptr::NonNull;

use io_uring::{IoUring, squeue};
use pdpix::BufMut;

use super::transfer::{Kind, Transfer};

/// Segments of one gathered write.
pub(super) const SEGMENTS_MAX: usize = 64;

/// Says that the kernel has filled `into` to its capacity.
pub(super) fn filled(into: &mut BufMut) {
    let capacity = into.capacity();
    // SAFETY: the kernel's answers add up to the whole length (`Transfer::on_result`), from the start of the buffer.
    unsafe { into.set_len(capacity) };
}

/// Where the rest of a transfer lies, at an address that does not change.
pub(super) struct Vector(Vec<libc::iovec>);

impl Vector {
    /// Of what is not over. The addresses hold as long as the transfer's buffers do.
    pub(super) fn of(transfer: &mut Transfer) -> Vector {
        let mut skip = transfer.done as usize;
        let mut list = Vec::new();
        let mut add = |start: *mut u8, len: usize| {
            if skip >= len {
                skip -= len;
                return;
            }
            list.push(libc::iovec { iov_base: start.wrapping_add(skip).cast(), iov_len: len - skip });
            skip = 0;
        };
        match &mut transfer.kind {
            Kind::Read(into) => {
                let spare = into.spare();
                add(spare.as_mut_ptr().cast(), spare.len());
            }
            Kind::Write(from) => from.segments().iter().for_each(|s| add(s.as_ptr().cast_mut(), s.len())),
            Kind::Flush | Kind::Discard => {}
        }
        Vector(list)
    }

    /// The only piece, if it is one.
    pub(super) fn one(&self) -> Option<(*mut u8, usize)> {
        match self.0.as_slice() {
            [one] => Some((one.iov_base.cast(), one.iov_len)),
            _ => None,
        }
    }

    pub(super) fn as_ptr(&self) -> *const libc::iovec {
        self.0.as_ptr()
    }

    pub(super) fn len(&self) -> usize {
        self.0.len()
    }
}

/// Queues an entry. `false`: the queue is full.
pub(super) fn queue(ring: &mut IoUring, entry: &squeue::Entry) -> bool {
    // SAFETY: entries are made by `UringDisk::entry` from a transfer that stays in its table, with its buffers and its
    // vector, until its completion was taken; dropping the disk waits for that.
    unsafe { ring.submission().push(entry) }.is_ok()
}

/// Registers memory as buffer `index` of the ring's table.
pub(super) fn register(ring: &IoUring, index: u32, start: NonNull<u8>, len: usize) -> io::Result<()> {
    let iovec = libc::iovec { iov_base: start.as_ptr().cast(), iov_len: len };
    // SAFETY: the memory is a part of the heap's reservation, which the disk holds a handle of as long as the ring is.
    unsafe { ring.submitter().register_buffers_update(index, &[iovec], None) }
}

/// A part of a transfer as a thread of its own does it.
pub(super) struct Job {
    /// The transfer's place in its table.
    pub(super) index: usize,
    what: What,
}

enum What {
    Read { vector: Vector, offset: u64 },
    Write { vector: Vector, offset: u64, flags: i32 },
    Flush,
    Discard { offset: u64, len: u64 },
}

// SAFETY: the addresses in it are of buffers that the transfer holds; the transfer stays where it is until the job's answer
// was taken, and the thread touches them before it answers only. Writes are read from immutable buffers, reads go to one
// that nobody else can name.
unsafe impl Send for Job {}

impl Job {
    pub(super) fn new(index: usize, transfer: &mut Transfer, flags: i32) -> Job {
        let offset = transfer.offset + transfer.done;
        let what = match transfer.kind {
            Kind::Read(_) => What::Read { vector: Vector::of(transfer), offset },
            Kind::Write(_) => What::Write { vector: Vector::of(transfer), offset, flags },
            Kind::Flush => What::Flush,
            Kind::Discard => What::Discard { offset, len: transfer.len },
        };
        Job { index, what }
    }

    /// Does it, and gives what io_uring would.
    pub(super) fn run(&self, fd: BorrowedFd<'_>) -> i32 {
        let fd = fd.as_raw_fd();
        let result = match &self.what {
            // SAFETY: the vector's memory is valid, and ours (see `Send`).
            What::Read { vector, offset } => unsafe {
                libc::preadv(fd, vector.as_ptr(), vector.len() as libc::c_int, *offset as libc::off_t)
            },
            // SAFETY: as above.
            What::Write { vector, offset, flags } => unsafe {
                libc::pwritev2(fd, vector.as_ptr(), vector.len() as libc::c_int, *offset as libc::off_t, *flags)
            },
            // SAFETY: a descriptor that is open.
            What::Flush => unsafe { libc::fdatasync(fd) as isize },
            // SAFETY: as above.
            What::Discard { offset, len } => unsafe {
                libc::fallocate(fd, PUNCH_HOLE, *offset as libc::off_t, *len as libc::off_t) as isize
            },
        };
        if result < 0 { -io::Error::last_os_error().raw_os_error().unwrap_or(libc::EIO) } else { result as i32 }
    }
}

/// On a file it gives the space back; on a disk it is a discard that leaves zeros.
pub(super) const PUNCH_HOLE: i32 = libc::FALLOC_FL_PUNCH_HOLE | libc::FALLOC_FL_KEEP_SIZE;
