//! All `unsafe` of this crate: options and requests that carry structs, memory that the kernel writes into or shares
//! with us.
//!
//! - [`control`]: requests about interfaces.
//! - [`batch`]: many frames in one system call.
//! - [`packet_ring`]: what a packet socket received, in memory shared with the kernel.
//! - [`xsk`], [`xsk_ring`]: AF_XDP sockets and their rings.

pub(crate) mod batch;
pub(crate) mod control;
pub(crate) mod mapping;
pub(crate) mod packet_ring;
pub(crate) mod xsk;
pub(crate) mod xsk_ring;

use std::ffi::c_int;
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, AsRawFd};

use libos_mem::BufMut;
use rustix::io::Errno;
use rustix::net::RecvFlags;

/// What the kernel said, as the error that `rustix` gives elsewhere.
fn check(result: c_int) -> Result<c_int, Errno> {
    if result < 0 { Err(last_errno()) } else { Ok(result) }
}

fn last_errno() -> Errno {
    Errno::from_raw_os_error(std::io::Error::last_os_error().raw_os_error().unwrap_or(libc::EIO))
}

/// Types of plain data: any bytes are a value, and the kernel is given no pointer by them that it keeps.
///
/// # Safety
/// As said.
pub(crate) unsafe trait Plain: Copy {}

// SAFETY: integers, and structs of integers without pointers.
unsafe impl Plain for c_int {}
// SAFETY: as above.
unsafe impl Plain for u32 {}
// SAFETY: as above.
unsafe impl Plain for libc::tpacket_req {}
// SAFETY: as above.
unsafe impl Plain for libc::tpacket_stats {}
// SAFETY: as above.
unsafe impl Plain for libc::packet_mreq {}

/// Sets a socket option.
pub(crate) fn set_option<T: Plain>(fd: impl AsFd, level: c_int, name: c_int, value: T) -> Result<(), Errno> {
    // SAFETY: the kernel reads as many bytes as `value` has, which lives across the call.
    check(unsafe {
        libc::setsockopt(fd.as_fd().as_raw_fd(), level, name, (&raw const value).cast(), size_of::<T>() as u32)
    })?;
    Ok(())
}

/// Reads a socket option that is a `T`.
pub(crate) fn get_option<T: Plain>(fd: impl AsFd, level: c_int, name: c_int) -> Result<T, Errno> {
    let mut value = MaybeUninit::<T>::zeroed();
    let mut len = size_of::<T>() as u32;
    // SAFETY: the kernel writes at most `len` bytes, as many as `value` has. What it does not write is zero, and any bytes
    // are a `T`.
    unsafe {
        check(libc::getsockopt(fd.as_fd().as_raw_fd(), level, name, value.as_mut_ptr().cast(), &mut len))?;
        Ok(value.assume_init())
    }
}

/// Takes the error that a socket has kept for whoever asks next: what happened to its interface.
pub(crate) fn take_socket_error(fd: impl AsFd) -> Option<Errno> {
    match get_option::<c_int>(fd, libc::SOL_SOCKET, libc::SO_ERROR) {
        Ok(0) => None,
        Ok(code) => Some(Errno::from_raw_os_error(code)),
        Err(errno) => Some(errno),
    }
}

/// Reads one frame behind what is in `buf`, and gives its length.
pub(crate) fn read(fd: impl AsFd, buf: &mut BufMut) -> Result<usize, Errno> {
    let (filled, _) = rustix::io::read(fd, buf.spare())?;
    let count = filled.len();
    // SAFETY: the kernel initialised `count` bytes behind `len`, and there was room for them.
    unsafe { buf.set_len(buf.len() + count) };
    Ok(count)
}

/// Receives one frame behind what is in `buf`, and gives its length before it was cut, if it was.
pub(crate) fn receive(fd: impl AsFd, buf: &mut BufMut) -> Result<usize, Errno> {
    let ((filled, _), len) = rustix::net::recv(fd, buf.spare(), RecvFlags::DONTWAIT | RecvFlags::TRUNC)?;
    let count = filled.len();
    // SAFETY: as in `read`.
    unsafe { buf.set_len(buf.len() + count) };
    Ok(len)
}

/// Binds a packet socket to an interface, for frames of `protocol` (in network order).
pub(crate) fn bind_packet(fd: impl AsFd, index: u32, protocol: u16) -> Result<(), Errno> {
    let address = libc::sockaddr_ll {
        sll_family: libc::AF_PACKET as u16,
        sll_protocol: protocol,
        sll_ifindex: index as i32,
        sll_hatype: 0,
        sll_pkttype: 0,
        sll_halen: 0,
        sll_addr: [0; 8],
    };
    let len = size_of_val(&address) as u32;
    // SAFETY: the kernel reads `len` bytes, as many as `address` has.
    check(unsafe { libc::bind(fd.as_fd().as_raw_fd(), (&raw const address).cast(), len) })?;
    Ok(())
}

/// Calls something with a descriptor that a device gave as [`WakeOn::Descriptor`](pdpix::WakeOn): it stays open as long as
/// the device, which whoever calls this holds.
pub(crate) fn with_descriptor<R>(fd: std::os::fd::RawFd, call: impl FnOnce(std::os::fd::BorrowedFd<'_>) -> R) -> R {
    // SAFETY: a descriptor of a device that the caller holds, by the contract of `WakeOn`; it is used during the call only.
    call(unsafe { std::os::fd::BorrowedFd::borrow_raw(fd) })
}
