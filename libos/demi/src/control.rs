//! Making, naming and closing queues: the calls of `demi/libos.h` that begin no operation.

use std::ffi::c_int;

use libc::{sockaddr, socklen_t};
use pdpix::{Qd, SocketKind};

use crate::abi::Args;
use crate::address;
use crate::errno::Errno;
use crate::thread::{enter, init};

/// The queue that C names so. A negative number is none.
#[inline]
pub(crate) fn queue(qd: c_int) -> Qd {
    Qd::from_raw(qd as u32)
}

/// `demi_init(3)`: a library OS for the calling thread. Nothing in `args` changes it.
#[unsafe(no_mangle)]
pub extern "C" fn demi_init(_args: *const Args) -> c_int {
    init()
}

/// `demi_socket(3)`.
///
/// # Safety
/// `sockqd_out` is null, or can be written to.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn demi_socket(sockqd_out: *mut c_int, domain: c_int, kind: c_int, protocol: c_int) -> c_int {
    if sockqd_out.is_null() {
        return libc::EINVAL;
    }
    enter(|thread| {
        let kind = socket_kind(domain, kind, protocol)?;
        let qd = thread.libos.socket(kind, None)?;
        if kind == SocketKind::Stream
            && let Err(refused) = thread.stream_defaults.set(&thread.libos, qd)
        {
            let _ = thread.libos.close(qd);
            return Err(refused);
        }
        // SAFETY: not null, and so writable by the caller's promise.
        unsafe { sockqd_out.write_unaligned(qd.raw() as c_int) };
        Ok(())
    })
}

fn socket_kind(domain: c_int, kind: c_int, protocol: c_int) -> Result<SocketKind, Errno> {
    if ![libc::AF_INET, libc::AF_INET6].contains(&domain) {
        return Err(Errno::new(libc::EAFNOSUPPORT));
    }
    // All queues are what these ask for.
    match (kind & !(libc::SOCK_NONBLOCK | libc::SOCK_CLOEXEC), protocol) {
        (libc::SOCK_STREAM, 0 | libc::IPPROTO_TCP) => Ok(SocketKind::Stream),
        (libc::SOCK_DGRAM, 0 | libc::IPPROTO_UDP) => Ok(SocketKind::Datagram),
        (libc::SOCK_STREAM | libc::SOCK_DGRAM, _) => Err(Errno::new(libc::EPROTONOSUPPORT)),
        _ => Err(Errno::new(libc::ESOCKTNOSUPPORT)),
    }
}

/// `demi_queue(3)`: a queue in memory.
///
/// # Safety
/// `qd_out` is null, or can be written to.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn demi_queue(qd_out: *mut c_int) -> c_int {
    if qd_out.is_null() {
        return libc::EINVAL;
    }
    enter(|thread| {
        let qd = thread.libos.queue()?;
        thread.whole_queues.insert(qd);
        // SAFETY: not null, and so writable by the caller's promise.
        unsafe { qd_out.write_unaligned(qd.raw() as c_int) };
        Ok(())
    })
}

/// `demi_bind(3)`.
///
/// # Safety
/// `addr` is null, or `size` bytes can be read there.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn demi_bind(sockqd: c_int, addr: *const sockaddr, size: socklen_t) -> c_int {
    enter(|thread| {
        // SAFETY: by the caller's promise.
        let at = unsafe { address::read(addr, size)? };
        thread.libos.bind(queue(sockqd), at)?;
        Ok(())
    })
}

/// `demi_listen(3)`.
#[unsafe(no_mangle)]
pub extern "C" fn demi_listen(sockqd: c_int, backlog: c_int) -> c_int {
    enter(|thread| {
        if backlog < 1 {
            return Err(Errno::INVALID);
        }
        Ok(thread.libos.listen(queue(sockqd), backlog as u32)?)
    })
}

/// `demi_finish(3)`: ends our direction.
#[unsafe(no_mangle)]
pub extern "C" fn demi_finish(qd: c_int) -> c_int {
    enter(|thread| Ok(thread.libos.finish(queue(qd))?))
}

/// `demi_close(3)`.
#[unsafe(no_mangle)]
pub extern "C" fn demi_close(qd: c_int) -> c_int {
    enter(|thread| {
        let qd = queue(qd);
        thread.libos.close(qd)?;
        thread.whole_queues.remove(&qd);
        Ok(())
    })
}

/// `demi_getsockname(3)`.
///
/// # Safety
/// Each pointer is null, or can be written to: `addrlen` as a `socklen_t`, `addr` for as many bytes as it says.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn demi_getsockname(qd: c_int, addr: *mut sockaddr, addrlen: *mut socklen_t) -> c_int {
    enter(|thread| {
        // SAFETY: by the caller's promise.
        unsafe { address::room(addr, addrlen)? };
        let local = thread.libos.local(queue(qd))?;
        // SAFETY: by the caller's promise.
        unsafe { address::write(local, addr, addrlen) }
    })
}

/// `demi_getpeername(3)`.
///
/// # Safety
/// As [`demi_getsockname`].
#[unsafe(no_mangle)]
pub unsafe extern "C" fn demi_getpeername(qd: c_int, addr: *mut sockaddr, addrlen: *mut socklen_t) -> c_int {
    enter(|thread| {
        // SAFETY: by the caller's promise.
        unsafe { address::room(addr, addrlen)? };
        let peer = thread.libos.peer(queue(qd))?;
        // SAFETY: by the caller's promise.
        unsafe { address::write(peer, addr, addrlen) }
    })
}
