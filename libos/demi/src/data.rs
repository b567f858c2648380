//! Operations: the calls of `demi/libos.h` that give a token.

use std::ffi::c_int;

use libc::{sockaddr, socklen_t};
use pdpix::{Error, QToken, Sga};

use crate::abi::{SgArray, SgaSeg};
use crate::address;
use crate::control::queue;
use crate::errno::Errno;
use crate::thread::{Thread, enter};

/// The most bytes of a stream that one pop gives. No datagram is longer.
const POP_MAX: usize = 64 << 10;
/// An element of a memory queue, or a record of a log, is given whole.
const ELEMENT_MAX: usize = u32::MAX as usize;

/// Runs what begins an operation, and tells its token.
///
/// # Safety
/// `qt_out` is null, or can be written to.
#[inline(always)]
pub(crate) unsafe fn begin(qt_out: *mut u64, operation: impl FnOnce(&mut Thread) -> Result<QToken, Errno>) -> c_int {
    if qt_out.is_null() {
        return libc::EINVAL;
    }
    enter(|thread| {
        let qt = operation(thread)?;
        // SAFETY: not null, and so writable by the caller's promise.
        unsafe { qt_out.write_unaligned(qt.raw()) };
        Ok(())
    })
}

/// The message of an array.
///
/// # Errors
/// EINVAL: a null pointer, or not exactly one segment, and as [`crate::held::Held::part`].
///
/// # Safety
/// `sga` is null, or an array.
#[inline(always)]
unsafe fn message(thread: &Thread, sga: *const SgArray) -> Result<Sga, Errno> {
    if sga.is_null() {
        return Err(Errno::INVALID);
    }
    // SAFETY: not null, and so readable by the caller's promise. (It is packed: any address is aligned.)
    let SgArray { sga_buf, numsegs, segs: [seg], .. } = unsafe { *sga };
    if numsegs != 1 {
        return Err(Errno::INVALID);
    }
    match thread.held.part(sga_buf, seg) {
        Ok(part) => Ok(Sga::from(part)),
        Err(_) if { seg.len } == 0 => Ok(Sga::new()), // which is refused, after the queue
        Err(refused) => Err(refused),
    }
}

/// `demi_push(3)`.
///
/// # Safety
/// `qt_out` is null, or can be written to; `sga` is null, or an array.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn demi_push(qt_out: *mut u64, qd: c_int, sga: *const SgArray) -> c_int {
    // SAFETY: by the caller's promise.
    unsafe {
        begin(qt_out, |thread| {
            let sga = message(thread, sga)?;
            Ok(thread.libos.push(queue(qd), sga)?)
        })
    }
}

/// `demi_pushto(3)`.
///
/// # Safety
/// As [`demi_push`]; `dest_addr` is null, or `size` bytes can be read there.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn demi_pushto(
    qt_out: *mut u64,
    sockqd: c_int,
    sga: *const SgArray,
    dest_addr: *const sockaddr,
    size: socklen_t,
) -> c_int {
    // SAFETY: by the caller's promise.
    unsafe {
        begin(qt_out, |thread| {
            let to = address::read(dest_addr, size)?;
            let sga = message(thread, sga)?;
            Ok(thread.libos.push_to(queue(sockqd), sga, to)?)
        })
    }
}

/// `demi_pushv(3)`: several segments of memory of `demi_malloc` as one message.
///
/// # Safety
/// `qt_out` is null, or can be written to; `segs` is null, or `num_segs` segments can be read there.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn demi_pushv(qt_out: *mut u64, qd: c_int, segs: *const SgaSeg, num_segs: c_int) -> c_int {
    // SAFETY: by the caller's promise.
    unsafe {
        begin(qt_out, |thread| {
            if segs.is_null() || num_segs < 1 {
                return Err(Errno::INVALID);
            }
            let segs = std::slice::from_raw_parts(segs, num_segs as usize);
            let mut sga = Sga::with_room(segs.len(), thread.libos.heap()).map_err(Error::from)?;
            for &seg in segs {
                let part = thread.held.part(std::ptr::null_mut(), seg)?;
                sga.push(part).map_err(|_| Error::NoBuffers)?;
            }
            Ok(thread.libos.push(queue(qd), sga)?)
        })
    }
}

/// `demi_pop(3)`.
///
/// # Safety
/// `qt_out` is null, or can be written to.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn demi_pop(qt_out: *mut u64, qd: c_int) -> c_int {
    // SAFETY: by the caller's promise.
    unsafe {
        begin(qt_out, |thread| {
            let qd = queue(qd);
            let is_whole = !thread.whole_queues.is_empty() && thread.whole_queues.contains(&qd);
            Ok(thread.libos.pop(qd, if is_whole { ELEMENT_MAX } else { POP_MAX })?)
        })
    }
}

/// `demi_pop_max(3)`: a pop of at most `size` bytes.
///
/// # Safety
/// `qt_out` is null, or can be written to.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn demi_pop_max(qt_out: *mut u64, qd: c_int, size: usize) -> c_int {
    // SAFETY: by the caller's promise.
    unsafe { begin(qt_out, |thread| Ok(thread.libos.pop(queue(qd), size.min(ELEMENT_MAX))?)) }
}

/// `demi_accept(3)`.
///
/// # Safety
/// `qt_out` is null, or can be written to.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn demi_accept(qt_out: *mut u64, sockqd: c_int) -> c_int {
    // SAFETY: by the caller's promise.
    unsafe { begin(qt_out, |thread| Ok(thread.libos.accept(queue(sockqd))?)) }
}

/// `demi_connect(3)`.
///
/// # Safety
/// `qt_out` is null, or can be written to; `addr` is null, or `size` bytes can be read there.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn demi_connect(
    qt_out: *mut u64,
    sockqd: c_int,
    addr: *const sockaddr,
    size: socklen_t,
) -> c_int {
    // SAFETY: by the caller's promise.
    unsafe {
        begin(qt_out, |thread| {
            let to = address::read(addr, size)?;
            Ok(thread.libos.connect(queue(sockqd), to)?)
        })
    }
}

/// `demi_cancel(3)`: asks for the end of an operation.
#[unsafe(no_mangle)]
pub extern "C" fn demi_cancel(qt: u64) -> c_int {
    let qt = QToken::from_raw(qt);
    enter(|thread| match thread.unfit.iter().any(|completion| completion.qt == qt) {
        true => Ok(()), // complete, and keeps its result
        false => Ok(thread.libos.cancel(qt)?),
    })
}
