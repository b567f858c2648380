//! The socket files of servers that are gone, in the way of the next.
//!
//! A server that was killed leaves its socket in the file system, where another cannot make its own. It is removed, if it is
//! nobody's: not in the kernel's list of sockets that have names, and whoever connects is refused, again and again. (A socket
//! that has its name and does not listen yet refuses, too; and in another network namespace the list is another.) Of our own
//! servers one at a time looks and makes its socket: the folder is locked meanwhile.

use std::fs::{File, TryLockError};
use std::os::unix::fs::{FileTypeExt as _, MetadataExt as _};
use std::path::Path;
use std::time::Duration;

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;
use rustix::net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType, connect, socket_with};

const TRY_INTERVAL: Duration = Duration::from_millis(20);
/// How often a socket has to refuse.
const REFUSALS: u32 = 15;
/// How often the folder's lock is tried for.
const LOCK_TRIES: u32 = 100;
/// How long a server that has accepted may take to say hello.
const HELLO_MAX: Timespec = Timespec { tv_sec: 1, tv_nsec: 0 };

/// Removes the socket at this path, if it is nobody's. What it gives is kept until the new one is there.
pub(crate) fn remove(path: &Path) -> Option<File> {
    let before = identity(path)?;
    let folder = lock(path.parent()?)?;
    if identity(path) == Some(before) && !is_listed(before) && is_refused(path) && identity(path) == Some(before) {
        let _ = std::fs::remove_file(path);
    }
    Some(folder)
}

/// Which file the socket is, if it is one.
fn identity(path: &Path) -> Option<(u64, u64)> {
    let file = std::fs::symlink_metadata(path).ok().filter(|file| file.file_type().is_socket())?;
    Some((file.dev(), file.ino()))
}

fn lock(folder: &Path) -> Option<File> {
    let folder = File::open(if folder.as_os_str().is_empty() { Path::new(".") } else { folder }).ok()?;
    for _ in 0..LOCK_TRIES {
        match folder.try_lock() {
            Ok(()) => return Some(folder),
            Err(TryLockError::WouldBlock) => std::thread::sleep(TRY_INTERVAL),
            Err(TryLockError::Error(_)) => return None,
        }
    }
    None
}

/// Whether the kernel knows of a socket of this network namespace by this file's name.
fn is_listed(file: (u64, u64)) -> bool {
    let sockets = std::fs::read_to_string("/proc/net/unix").unwrap_or_default();
    let mut names = sockets.lines().filter_map(|line| Some(&line[line.find(" /")? + 1..]));
    names.any(|name| identity(Path::new(name)) == Some(file))
}

/// Whether nobody listens. Never waits for who does, but for its hello: memif's server (DPDK 22.11) that has accepted somebody
/// who is gone before that aborts its process.
fn is_refused(path: &Path) -> bool {
    let flags = SocketFlags::NONBLOCK | SocketFlags::CLOEXEC;
    for _ in 0..REFUSALS {
        let (Ok(address), Ok(socket)) =
            (SocketAddrUnix::new(path), socket_with(AddressFamily::UNIX, SocketType::SEQPACKET, flags, None))
        else {
            return false;
        };
        match connect(&socket, &address) {
            Err(Errno::CONNREFUSED) => std::thread::sleep(TRY_INTERVAL),
            Ok(()) => {
                let _ = poll(&mut [PollFd::new(&socket, PollFlags::IN)], Some(&HELLO_MAX));
                return false;
            }
            Err(_) => return false, // its queue is full, for one
        }
    }
    true
}
