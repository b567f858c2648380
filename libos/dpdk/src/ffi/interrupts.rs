//! DPDK's interrupt thread, and the sockets that it serves.

use std::ffi::{CStr, OsStr, c_void};
use std::os::fd::{AsRawFd, BorrowedFd, OwnedFd, RawFd};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use dpdk_sys as sys;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;
use rustix::net::{SocketAddrAny, SocketAddrUnix, SocketType};

use super::says;

/// Has `call` called on DPDK's interrupt thread whenever `fd` is readable. Both are for ever.
pub(crate) fn on_interrupt(fd: &OwnedFd, call: extern "C" fn(*mut c_void)) -> Result<(), String> {
    // SAFETY: a descriptor that is never closed (`Gate`), and a function that takes no argument.
    match unsafe { sys::margay_on_interrupt(fd.as_raw_fd(), Some(call)) } {
        0 => Ok(()),
        error => Err(says(error)),
    }
}

/// The descriptors of this process.
fn descriptors() -> impl Iterator<Item = RawFd> {
    let entries = std::fs::read_dir("/proc/self/fd").into_iter().flatten().flatten();
    entries.filter_map(|entry| entry.file_name().to_str()?.parse::<RawFd>().ok())
}

/// Whether this is the socket at a path: as the file that it is, however it is written; or in the namespace without files,
/// with zeros behind it.
fn is_at(path: &Path, address: Result<SocketAddrAny, Errno>) -> bool {
    let is_path = |at: &CStr| {
        let at = Path::new(OsStr::from_bytes(at.to_bytes()));
        at == path || std::fs::canonicalize(at).is_ok_and(|at| std::fs::canonicalize(path).is_ok_and(|path| at == path))
    };
    let is_name = |name: &[u8]| {
        name.strip_prefix(path.as_os_str().as_bytes()).is_some_and(|rest| rest.iter().all(|&byte| byte == 0))
    };
    let unix = address.ok().and_then(|address| SocketAddrUnix::try_from(address).ok());
    unix.is_some_and(|unix| unix.path().is_some_and(|at| is_path(&at)) || unix.abstract_name().is_some_and(is_name))
}

fn own_address(number: RawFd) -> Result<SocketAddrAny, Errno> {
    // SAFETY: a number of ours a moment ago; of what is not there, or no socket, the call says so.
    rustix::net::getsockname(unsafe { BorrowedFd::borrow_raw(number) })
}

fn peer_address(number: RawFd) -> Result<SocketAddrAny, Errno> {
    // SAFETY: as above.
    rustix::net::getpeername(unsafe { BorrowedFd::borrow_raw(number) })?.ok_or(Errno::NOTCONN)
}

/// The sockets of this process that have to do with the one at this path: that listens there, or is connected with it.
pub(crate) fn unix_sockets_at(path: &Path) -> Vec<RawFd> {
    descriptors().filter(|&number| is_at(path, own_address(number)) || is_at(path, peer_address(number))).collect()
}

/// A socket of DPDK's that is connected, or was. Its number may be another's by now.
#[derive(PartialEq, Eq)]
pub(crate) struct Connection {
    number: RawFd,
    inode: u64,
}

impl Connection {
    fn of(number: RawFd) -> Option<Connection> {
        // SAFETY: as above.
        let file = rustix::fs::fstat(unsafe { BorrowedFd::borrow_raw(number) }).ok()?;
        Some(Connection { number, inode: file.st_ino })
    }

    /// Whether neither end has closed it.
    pub(crate) fn is_open(&self) -> bool {
        // SAFETY: as above; if it is another's by now, nothing is done to it.
        let fd = unsafe { BorrowedFd::borrow_raw(self.number) };
        let mut fds = [PollFd::from_borrowed_fd(fd, PollFlags::RDHUP)];
        let is_same = Connection::of(self.number).as_ref() == Some(self);
        is_same && poll(&mut fds, Some(&Timespec::default())) == Ok(0)
    }
}

/// Those of this process to sockets like memif's. Not by their path: where it was bound it may have had another, as in a
/// container.
pub(crate) fn connections() -> Vec<Connection> {
    // SAFETY: as above.
    let kind = |number| rustix::net::sockopt::socket_type(unsafe { BorrowedFd::borrow_raw(number) });
    // Who has connected has a peer with a name; who was accepted has not.
    let has_server = |number| {
        let peer = peer_address(number).ok().and_then(|peer| SocketAddrUnix::try_from(peer).ok());
        peer.is_some_and(|peer| peer.path().is_some() || peer.abstract_name().is_some())
    };
    let is_connected = |&number: &RawFd| kind(number) == Ok(SocketType::SEQPACKET) && has_server(number);
    descriptors().filter(is_connected).filter_map(Connection::of).collect()
}

/// Whether there is anything to be read from one of them, or its other end is gone.
pub(crate) fn are_readable(numbers: &[RawFd]) -> bool {
    // SAFETY: DPDK's, open while its port is; what has been closed is told as such.
    let fd = |&number| unsafe { BorrowedFd::borrow_raw(number) };
    let mut fds: Vec<PollFd<'_>> =
        numbers.iter().map(|number| PollFd::from_borrowed_fd(fd(number), PollFlags::IN | PollFlags::RDHUP)).collect();
    poll(&mut fds, Some(&Timespec::default())).is_ok_and(|count| count > 0)
}
