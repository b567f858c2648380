//! An operation that is under way on a disk: what it holds, how far it is, and how it ends.

use pdpix::block::{BlockDone, BlockOp, Geometry};
use pdpix::{BufMut, Error, OpId, Sga};

use super::ffi::{self, Vector};

/// What is done.
pub(super) enum Kind {
    Read(BufMut),
    Write(Sga),
    Flush,
    Discard,
}

/// One operation.
pub(super) struct Transfer {
    pub(super) op: OpId,
    pub(super) kind: Kind,
    /// Where it begins, in bytes.
    pub(super) offset: u64,
    /// Bytes of it, and how many of them are over: the kernel may do a part.
    pub(super) len: u64,
    pub(super) done: u64,
    /// It is to be durable when it is done.
    pub(super) forced: bool,
    /// How often it was interrupted.
    interrupted: u8,
    /// What the kernel reads while it works: where the buffers lie.
    pub(super) vector: Option<Vector>,
}

/// What is to be done when the kernel has answered.
pub(super) enum Next {
    /// It is over.
    Done(Result<(), Error>),
    /// The rest has to be asked for.
    Again,
}

/// Gives up after so many interruptions without an answer.
const INTERRUPTED_MAX: u8 = 100;

impl Transfer {
    /// Of an operation that was checked.
    pub(super) fn new(op: OpId, what: BlockOp, geometry: &Geometry) -> Transfer {
        let block_size = u64::from(geometry.block_size);
        let is_forced = matches!(what, BlockOp::Write { forced: true, .. });
        let (kind, lba, len) = match what {
            BlockOp::Read { lba, into } => {
                let len = into.capacity() as u64;
                (Kind::Read(into), lba, len)
            }
            BlockOp::Write { lba, from, .. } => {
                let len = from.len() as u64;
                (Kind::Write(from), lba, len)
            }
            BlockOp::Flush => (Kind::Flush, 0, 0),
            BlockOp::Discard { lba, block_count } => (Kind::Discard, lba, block_count * block_size),
        };
        Transfer { op, kind, offset: lba * block_size, len, done: 0, forced: is_forced, interrupted: 0, vector: None }
    }

    /// Takes the kernel's answer in: bytes, or an errno below zero.
    pub(super) fn on_result(&mut self, result: i32) -> Next {
        match result {
            0.. if matches!(self.kind, Kind::Flush | Kind::Discard) => Next::Done(Ok(())),
            // Nothing is there, or nothing goes in, and no reason is given: the file is shorter than it was.
            0 => Next::Done(Err(Error::Io)),
            1.. => {
                self.done += result as u64;
                self.interrupted = 0;
                if self.done < self.len { Next::Again } else { Next::Done(Ok(())) }
            }
            _ if matches!(-result, libc::EINTR | libc::EAGAIN) && self.interrupted < INTERRUPTED_MAX => {
                self.interrupted += 1;
                Next::Again
            }
            _ => Next::Done(Err(error(-result))),
        }
    }

    /// Its end. A read that succeeded has its bytes.
    pub(super) fn end(self, result: Result<(), Error>) -> BlockDone {
        let read = match self.kind {
            Kind::Read(mut into) => {
                if result.is_ok() {
                    ffi::filled(&mut into);
                }
                Some(into)
            }
            _ => None,
        };
        BlockDone { op: self.op, result, read }
    }
}

/// What an errno of a disk means: the medium's doing, unless it is one of those that have a reason of their own.
pub(super) fn error(errno: i32) -> Error {
    match errno {
        libc::ENOSPC | libc::EDQUOT | libc::EFBIG => Error::NoSpace,
        libc::EROFS => Error::ReadOnly,
        libc::ENOENT => Error::NotFound,
        libc::EEXIST => Error::AlreadyExists,
        libc::EACCES | libc::EPERM => Error::PermissionDenied,
        libc::ENOMEM => Error::NoBuffers,
        libc::EOPNOTSUPP => Error::NotSupported,
        _ => Error::Io,
    }
}
