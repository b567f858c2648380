//! The socket files of servers that are gone, in the way of the next.
//!
//! A server that was killed leaves its socket in the file system, where another cannot make its own. It is removed, if it is
//! nobody's: no socket is bound to it, in whatever network namespace, whether it listens or not. Of our own servers one at a
//! time looks and makes its socket: the folder is locked meanwhile.

use std::fs::{File, TryLockError};
use std::os::unix::fs::FileTypeExt as _;
use std::path::Path;
use std::time::Duration;

use rustix::io::Errno;
use rustix::net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType, connect, socket_with};

/// How often the folder's lock is tried for.
const LOCK_TRIES: u32 = 100;
const TRY_INTERVAL: Duration = Duration::from_millis(20);

/// Removes the socket at this path, if it is nobody's. What it gives is kept until the new one is there.
pub(crate) fn remove(path: &Path) -> Option<File> {
    if !is_socket(path) {
        return None;
    }
    let folder = lock(path.parent()?)?;
    if is_socket(path) && is_nobodys(path) {
        let _ = std::fs::remove_file(path);
    }
    Some(folder)
}

/// Not what a link names: whoever made that wants it.
fn is_socket(path: &Path) -> bool {
    std::fs::symlink_metadata(path).is_ok_and(|file| file.file_type().is_socket())
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

/// Whether no socket is bound to this file. Nobody hears that it was asked: memif's server (DPDK 22.11) that accepts somebody
/// who is gone before it greets aborts its process. So it is asked with a socket of another type, one without connections:
/// the kernel finds who is bound to the file, compares the types, and says EPROTOTYPE before it looks for a place in a queue.
fn is_nobodys(path: &Path) -> bool {
    let (Ok(address), Ok(socket)) =
        (SocketAddrUnix::new(path), socket_with(AddressFamily::UNIX, SocketType::DGRAM, SocketFlags::CLOEXEC, None))
    else {
        return false;
    };
    connect(&socket, &address) == Err(Errno::CONNREFUSED)
}

#[cfg(test)]
mod tests {
    use std::os::fd::OwnedFd;

    use rustix::net::{accept, bind, listen};

    use super::*;

    /// A folder that goes with the test.
    struct Folder(std::path::PathBuf);

    impl Folder {
        fn make(name: &str) -> Folder {
            let path = std::env::temp_dir().join(format!("margay-dpdk-{}x{name}", std::process::id()));
            std::fs::create_dir_all(&path).unwrap();
            Folder(path)
        }
    }

    impl Drop for Folder {
        fn drop(&mut self) {
            let _ = std::fs::remove_dir_all(&self.0);
        }
    }

    fn bound(path: &Path, kind: SocketType) -> OwnedFd {
        let flags = SocketFlags::NONBLOCK | SocketFlags::CLOEXEC;
        let socket = socket_with(AddressFamily::UNIX, kind, flags, None).unwrap();
        bind(&socket, &SocketAddrUnix::new(path).unwrap()).unwrap();
        socket
    }

    #[test]
    fn a_socket_stays_while_it_is_somebodys_who_hears_nothing() {
        let folder = Folder::make("kinds");
        for kind in [SocketType::SEQPACKET, SocketType::STREAM, SocketType::DGRAM] {
            let path = folder.0.join("socket");
            let socket = bound(&path, kind);
            assert!(remove(&path).is_some() && path.exists(), "{kind:?}, which does not listen yet");
            if kind != SocketType::DGRAM {
                listen(&socket, 1).unwrap();
                assert!(remove(&path).is_some() && path.exists(), "{kind:?}, which listens");
                assert_eq!(accept(&socket).err(), Some(Errno::AGAIN), "nobody has connected to {kind:?}");
            }
            drop(socket);
            assert!(remove(&path).is_some() && !path.exists(), "{kind:?}, which is gone");
        }
    }

    #[test]
    fn what_is_no_socket_is_left_alone() {
        let folder = Folder::make("files");
        let [file, socket, link] = ["file", "socket", "link"].map(|name| folder.0.join(name));
        std::fs::write(&file, "").unwrap();
        drop(bound(&socket, SocketType::SEQPACKET));
        std::os::unix::fs::symlink(&socket, &link).unwrap();
        for path in [&file, &link, &folder.0.join("nothing")] {
            assert!(remove(path).is_none(), "{path:?}");
        }
        assert!(file.exists() && link.exists(), "they are there");
    }

    #[test]
    fn of_two_who_look_one_waits_for_the_other() {
        let folder = Folder::make("lock");
        let path = folder.0.join("socket");
        drop(bound(&path, SocketType::SEQPACKET));
        let first = remove(&path).unwrap();
        let mine = bound(&path, SocketType::SEQPACKET);
        std::thread::scope(|scope| {
            let second = scope.spawn(|| remove(&path));
            std::thread::sleep(3 * TRY_INTERVAL);
            assert!(!second.is_finished(), "it waits until the new one is there");
            drop(first);
            assert!(second.join().unwrap().is_some() && path.exists(), "and finds it");
        });
        drop(mine);
    }
}
