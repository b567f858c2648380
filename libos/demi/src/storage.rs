//! Storage queues, which are logs: the calls that open them, and move and cut what a pop and a push do not.
//!
//! `demi_lseek` and `demi_truncate` are control calls, as in the paper (SOSP'21, table 2): they give their errno when they
//! have ended, and the library OS goes on meanwhile, as in a wait. `demi_seek_to` and `demi_truncate_to` begin the same
//! and give a token.

use std::ffi::{CStr, c_char, c_int};

use libc::{mode_t, off_t};
use pdpix::{OpenMode, QToken, Qd};

use crate::abi::Damage;
use crate::control::queue;
use crate::data::begin;
use crate::errno::Errno;
use crate::thread::{Thread, enter};

/// What every log is anyway, or cannot be told from outside.
const ALWAYS_SO: c_int = libc::O_APPEND
    | libc::O_CLOEXEC
    | libc::O_DIRECT
    | libc::O_DSYNC
    | libc::O_LARGEFILE
    | libc::O_NOCTTY
    | libc::O_NOFOLLOW
    | libc::O_NONBLOCK
    | libc::O_SYNC;

/// What `open(2)`'s flags ask for.
///
/// # Errors
/// EINVAL: flags that a log has not.
fn open_mode(flags: c_int) -> Result<OpenMode, Errno> {
    const NEW: c_int = libc::O_CREAT | libc::O_EXCL;
    let access = flags & libc::O_ACCMODE;
    match (access, flags & !libc::O_ACCMODE & !ALWAYS_SO) {
        (libc::O_RDONLY, 0) => Ok(OpenMode::ReadOnly),
        (libc::O_RDWR | libc::O_WRONLY, 0) => Ok(OpenMode::Existing),
        (libc::O_RDWR | libc::O_WRONLY, libc::O_CREAT) => Ok(OpenMode::ExistingOrNew),
        (libc::O_RDWR | libc::O_WRONLY, NEW) => Ok(OpenMode::New),
        _ => Err(Errno::INVALID),
    }
}

/// Opens a log, and tells its queue.
///
/// # Safety
/// `qd_out` is null, or can be written to; `pathname` is null, or a string.
unsafe fn open(qd_out: *mut c_int, pathname: *const c_char, mode: Result<OpenMode, Errno>) -> c_int {
    if qd_out.is_null() || pathname.is_null() {
        return libc::EINVAL;
    }
    enter(|thread| {
        // SAFETY: not null, and so a string by the caller's promise.
        let name = unsafe { CStr::from_ptr(pathname) }.to_str().map_err(|_| Errno::INVALID)?;
        let qd = thread.libos.open(name, mode?, None)?;
        thread.whole_queues.insert(qd);
        // SAFETY: not null, and so writable by the caller's promise.
        unsafe { qd_out.write_unaligned(qd.raw() as c_int) };
        Ok(())
    })
}

/// `demi_open(3)`.
///
/// # Safety
/// `qd_out` is null, or can be written to; `pathname` is null, or a string.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn demi_open(qd_out: *mut c_int, pathname: *const c_char, flags: c_int) -> c_int {
    // SAFETY: by the caller's promise.
    unsafe { open(qd_out, pathname, open_mode(flags)) }
}

/// `demi_creat(3)`. Logs have no permissions of their own: `mode` says nothing.
///
/// # Safety
/// As [`demi_open`].
#[unsafe(no_mangle)]
pub unsafe extern "C" fn demi_creat(qd_out: *mut c_int, pathname: *const c_char, _mode: mode_t) -> c_int {
    // SAFETY: by the caller's promise.
    unsafe { open(qd_out, pathname, Ok(OpenMode::New)) }
}

impl Thread {
    /// Waits for a seek or a truncation: where it went.
    ///
    /// # Errors
    /// Its own; EINTR: the thread was woken, and it may or may not have been done.
    fn sequence_of(&mut self, qt: QToken) -> Result<u64, Errno> {
        match self.libos.wait(qt, None) {
            Ok(completion) => Ok(completion.sequence()?),
            Err(error) => {
                drop(self.libos.redeem(qt));
                Err(error.into())
            }
        }
    }

    fn seek(&mut self, qd: Qd, sequence: u64) -> Result<u64, Errno> {
        let qt = self.libos.seek(qd, sequence)?;
        self.sequence_of(qt)
    }
}

/// `demi_lseek(3)`: the cursor goes before a record. Offsets are numbers of records.
#[unsafe(no_mangle)]
pub extern "C" fn demi_lseek(qd: c_int, offset: off_t, whence: c_int) -> c_int {
    enter(|thread| {
        let qd = queue(qd);
        match (whence, u64::try_from(offset)) {
            (libc::SEEK_SET, Ok(sequence)) => _ = thread.seek(qd, sequence)?,
            (libc::SEEK_END, _) if offset <= 0 => {
                let end = thread.seek(qd, u64::MAX)?;
                if offset != 0 {
                    thread.seek(qd, end.saturating_sub(offset.unsigned_abs()))?;
                }
            }
            // SEEK_CUR: pops are begun long before they end, so where the cursor is cannot be said.
            _ => return Err(Errno::INVALID),
        }
        Ok(())
    })
}

/// `demi_truncate(3)`: frees all records before this one.
#[unsafe(no_mangle)]
pub extern "C" fn demi_truncate(qd: c_int, sequence: off_t) -> c_int {
    enter(|thread| {
        let sequence = u64::try_from(sequence).map_err(|_| Errno::INVALID)?;
        let qt = thread.libos.truncate(queue(qd), sequence)?;
        thread.sequence_of(qt).map(drop)
    })
}

/// `demi_seek_to(3)`: begins to put the cursor before a record.
///
/// # Safety
/// `qt_out` is null, or can be written to.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn demi_seek_to(qt_out: *mut u64, qd: c_int, sequence: u64) -> c_int {
    // SAFETY: by the caller's promise.
    unsafe { begin(qt_out, |thread| Ok(thread.libos.seek(queue(qd), sequence)?)) }
}

/// `demi_truncate_to(3)`: begins to free all records before this one.
///
/// # Safety
/// `qt_out` is null, or can be written to.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn demi_truncate_to(qt_out: *mut u64, qd: c_int, sequence: u64) -> c_int {
    // SAFETY: by the caller's promise.
    unsafe { begin(qt_out, |thread| Ok(thread.libos.truncate(queue(qd), sequence)?)) }
}

/// `demi_getdamage(3)`: what an operation that failed with EBADMSG has met.
///
/// # Safety
/// `damage_out` is null, or can be written to.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn demi_getdamage(qd: c_int, damage_out: *mut Damage) -> c_int {
    if damage_out.is_null() {
        return libc::EINVAL;
    }
    enter(|thread| {
        let damage = thread.libos.damage(queue(qd))?.ok_or(Errno::new(libc::ENODATA))?;
        let pdpix::storage::Damage { offset, sequence, lost } = damage;
        // SAFETY: not null, and so writable by the caller's promise.
        unsafe { damage_out.write_unaligned(Damage { offset, sequence, lost }) };
        Ok(())
    })
}

#[cfg(test)]
mod tests {
    use libc::{O_APPEND, O_CREAT, O_EXCL, O_RDONLY, O_RDWR, O_TRUNC, O_WRONLY};

    use super::*;

    #[test]
    fn flags_are_those_of_open() {
        let expected = [
            (O_RDONLY, Some(OpenMode::ReadOnly)),
            (O_RDWR, Some(OpenMode::Existing)),
            (O_WRONLY | O_APPEND, Some(OpenMode::Existing)),
            (O_RDWR | O_CREAT, Some(OpenMode::ExistingOrNew)),
            (O_RDWR | O_CREAT | O_EXCL, Some(OpenMode::New)),
            (O_RDONLY | O_CREAT, None),
            (O_RDWR | O_TRUNC, None),
            (O_RDWR | O_EXCL, None),
            (O_WRONLY | O_RDWR, None),
            (-1, None),
        ];
        for (flags, mode) in expected {
            assert_eq!(open_mode(flags).ok(), mode, "{flags:o}");
        }
    }
}
