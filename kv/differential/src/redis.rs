//! A redis-server of our own, on a socket that nobody else knows, gone when it is dropped.

use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use crate::peer::{Peer, Target};

/// A running redis-server.
#[derive(Debug)]
pub struct Redis {
    child: Child,
    dir: PathBuf,
}

impl Redis {
    /// `None`: there is none on this machine, or not of the version that we answer like.
    pub fn start() -> Option<Redis> {
        Redis::start_with(None, &[])
    }

    /// The same with further arguments, and with this RDB file as its data.
    ///
    /// # Panics
    /// If it does not start, as with a file that it cannot load.
    pub fn start_with(file: Option<&[u8]>, more: &[&str]) -> Option<Redis> {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let version = Command::new("redis-server").arg("--version").output().ok()?;
        if !String::from_utf8_lossy(&version.stdout).contains("v=7.0.") {
            return None;
        }
        let number = COUNT.fetch_add(1, Ordering::Relaxed);
        let dir = std::env::temp_dir().join(format!("kv-differential-{}-{number}", std::process::id()));
        std::fs::create_dir_all(&dir).expect("a directory for redis-server");
        if let Some(file) = file {
            std::fs::write(dir.join("dump.rdb"), file).expect("a file for redis-server");
        }
        let child = Command::new("redis-server")
            .args(["--port", "0", "--unixsocket", "socket", "--save", "", "--appendonly", "no", "--dir", "."])
            .args(more)
            .current_dir(&dir)
            .stdout(Stdio::null())
            .spawn()
            .expect("redis-server to start");
        let redis = Redis { child, dir };
        for _ in 0..500 {
            if UnixStream::connect(redis.dir.join("socket")).is_ok() {
                return Some(redis);
            }
            std::thread::sleep(Duration::from_millis(10));
        }
        panic!("redis-server does not listen");
    }

    /// Where it listens.
    pub fn target(&self) -> Target {
        Target::Unix(self.dir.join("socket"))
    }

    /// What it last saved.
    ///
    /// # Panics
    /// If it has saved nothing.
    pub fn saved(&self) -> Vec<u8> {
        std::fs::read(self.dir.join("dump.rdb")).expect("a file that redis-server has saved")
    }

    /// A new connection to it.
    pub fn connect(&self) -> Peer {
        Peer::connect(&self.target())
    }
}

impl Drop for Redis {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
        let _ = std::fs::remove_dir_all(&self.dir);
    }
}
