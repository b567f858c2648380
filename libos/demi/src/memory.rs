//! Memory that can be pushed: the calls of `demi/sga.h`.

use std::ffi::{c_int, c_void};
use std::ptr;

use libc::{sockaddr, socklen_t};
use pdpix::{Buf, Error};

use crate::abi::{NO_ADDRESS, SgArray, SgaSeg};
use crate::address;
use crate::errno::Errno;
use crate::thread::{Thread, enter};

/// `demi_sgaalloc(3)`.
#[unsafe(no_mangle)]
pub extern "C" fn demi_sgaalloc(size: usize) -> SgArray {
    let (mut name, mut at) = (ptr::null_mut(), ptr::null_mut());
    let errno = enter(|thread| {
        let buf;
        (buf, at) = thread.memory(size)?;
        name = thread.held.take(buf).map_err(|_| Error::NoBuffers)?;
        Ok(())
    });
    if errno != 0 {
        return SgArray::NULL;
    }
    SgArray { sga_buf: name, numsegs: 1, segs: [SgaSeg { buf: at, len: size as u32 }], addr: NO_ADDRESS }
}

/// `demi_sgafree(3)`.
///
/// # Safety
/// `sga` is null, or an array.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn demi_sgafree(sga: *mut SgArray) -> c_int {
    if sga.is_null() {
        return libc::EINVAL;
    }
    enter(|thread| {
        // SAFETY: not null, and so readable by the caller's promise. (It is packed: any address is aligned.)
        let name = unsafe { (*sga).sga_buf };
        thread.held.release(name)
    })
}

/// `demi_getsender(3)`: who sent a popped datagram, of any family.
///
/// # Safety
/// `sga` is null, or an array; the others are as for `demi_getpeername`.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn demi_getsender(sga: *const SgArray, addr: *mut sockaddr, addrlen: *mut socklen_t) -> c_int {
    if sga.is_null() {
        return libc::EINVAL;
    }
    enter(|thread| {
        // SAFETY: not null, and so readable by the caller's promise.
        let SgArray { sga_buf, addr: from, .. } = unsafe { *sga };
        let from = match (thread.held.sender(sga_buf), address::of_v4(from)) {
            (Some(from), _) | (None, Some(from)) => from,
            (None, None) => return Err(Errno::new(libc::ENODATA)),
        };
        // SAFETY: by the caller's promise.
        unsafe { address::write(from, addr, addrlen) }
    })
}

/// `demi_malloc(3)`: memory of the heap, any part of which can be pushed.
#[unsafe(no_mangle)]
pub extern "C" fn demi_malloc(size: usize) -> *mut c_void {
    let mut memory = ptr::null_mut();
    enter(|thread| {
        let (buf, at) = thread.memory(size)?;
        thread.held.allocate(buf, at);
        memory = at;
        Ok(())
    });
    memory
}

/// `demi_free(3)`: gives it back. What is being pushed is kept until then.
#[unsafe(no_mangle)]
pub extern "C" fn demi_free(memory: *mut c_void) -> c_int {
    if memory.is_null() {
        return 0;
    }
    enter(|thread| thread.held.free(memory))
}

impl Thread {
    /// Memory that the program may write to, and where it begins.
    fn memory(&self, size: usize) -> Result<(Buf, *mut c_void), Errno> {
        if size == 0 || size > u32::MAX as usize {
            return Err(Errno::INVALID);
        }
        let mut memory = self.libos.alloc(size)?;
        let at = memory.as_mut_ptr().cast();
        // SAFETY: it has room for `size` bytes. They are of a mapping of the kernel's, so each has some value; what the
        // program makes of them, and when, is its own affair: nothing of ours looks but between two of its calls.
        unsafe { memory.set_len(size) };
        Ok((memory.freeze(), at))
    }
}
