//! DPDK's interrupt thread, and the sockets that it serves.

use std::ffi::{CStr, OsStr, c_void};
use std::os::fd::{AsRawFd, BorrowedFd, OwnedFd, RawFd};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use dpdk_sys as sys;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;
use rustix::net::{SocketAddrAny, SocketAddrUnix};

use super::says;

/// Has `call` called on DPDK's interrupt thread whenever `fd` is readable. Both are for ever.
pub(crate) fn on_interrupt(fd: &OwnedFd, call: extern "C" fn(*mut c_void)) -> Result<(), String> {
    // SAFETY: a descriptor that is never closed (`Gate`), and a function that takes no argument.
    match unsafe { sys::margay_on_interrupt(fd.as_raw_fd(), Some(call)) } {
        0 => Ok(()),
        error => Err(says(error)),
    }
}

/// The sockets of this process that have to do with the one at this path: that listens there, or is connected with it.
pub(crate) fn unix_sockets_at(path: &Path) -> Vec<RawFd> {
    let Ok(entries) = std::fs::read_dir("/proc/self/fd") else { return Vec::new() };
    let numbers = entries.flatten().filter_map(|entry| entry.file_name().to_str()?.parse::<RawFd>().ok());
    // As the file that it is, however it is written; or in the namespace without files, with zeros behind it.
    let is_path = |at: &CStr| {
        let at = Path::new(OsStr::from_bytes(at.to_bytes()));
        at == path || std::fs::canonicalize(at).is_ok_and(|at| std::fs::canonicalize(path).is_ok_and(|path| at == path))
    };
    let is_name = |name: &[u8]| {
        name.strip_prefix(path.as_os_str().as_bytes()).is_some_and(|rest| rest.iter().all(|&byte| byte == 0))
    };
    let is_there = |address: Result<SocketAddrAny, Errno>| {
        let unix = address.ok().and_then(|address| SocketAddrUnix::try_from(address).ok());
        unix.is_some_and(|unix| unix.path().is_some_and(|at| is_path(&at)) || unix.abstract_name().is_some_and(is_name))
    };
    let belongs = |&number: &RawFd| {
        // SAFETY: a number of ours a moment ago; of what is not there, or no socket, the calls say so.
        let fd = unsafe { BorrowedFd::borrow_raw(number) };
        is_there(rustix::net::getsockname(fd))
            || is_there(rustix::net::getpeername(fd).and_then(|peer| peer.ok_or(Errno::NOTCONN)))
    };
    numbers.filter(belongs).collect()
}

/// Whether there is anything to be read from one of them, or its other end is gone.
pub(crate) fn are_readable(numbers: &[RawFd]) -> bool {
    // SAFETY: DPDK's, open while its port is; what has been closed is told as such.
    let fd = |&number| unsafe { BorrowedFd::borrow_raw(number) };
    let mut fds: Vec<PollFd<'_>> =
        numbers.iter().map(|number| PollFd::from_borrowed_fd(fd(number), PollFlags::IN | PollFlags::RDHUP)).collect();
    poll(&mut fds, Some(&Timespec::default())).is_ok_and(|count| count > 0)
}
