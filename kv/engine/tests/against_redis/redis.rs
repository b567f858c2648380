//! A redis-server of our own, on a socket that nobody else knows, gone when it is dropped.

use std::io::{ErrorKind, Read, Write};
use std::net::Shutdown;
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use super::resp::{self, Reply};

pub struct Redis {
    child: Child,
    dir: PathBuf,
}

impl Redis {
    /// `None`: there is none on this machine, or not of the version that we answer like.
    pub fn start() -> Option<Redis> {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let version = Command::new("redis-server").arg("--version").output().ok()?;
        if !String::from_utf8_lossy(&version.stdout).contains("v=7.0.") {
            return None;
        }
        let number = COUNT.fetch_add(1, Ordering::Relaxed);
        let dir = std::env::temp_dir().join(format!("kv-engine-redis-{}-{number}", std::process::id()));
        std::fs::create_dir_all(&dir).expect("a directory for redis-server");
        let child = Command::new("redis-server")
            .args(["--port", "0", "--unixsocket", "socket", "--save", "", "--appendonly", "no", "--dir", "."])
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

    pub fn connect(&self) -> Peer {
        let stream = UnixStream::connect(self.dir.join("socket")).expect("redis-server to listen");
        stream.set_read_timeout(Some(Duration::from_secs(10))).expect("a timeout");
        Peer { stream, received: Vec::new() }
    }
}

impl Drop for Redis {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
        let _ = std::fs::remove_dir_all(&self.dir);
    }
}

/// A connection to it.
pub struct Peer {
    stream: UnixStream,
    received: Vec<u8>,
}

impl Peer {
    pub fn send(&mut self, bytes: &[u8]) {
        // If it has closed the connection there will be no reply.
        let _ = self.stream.write_all(bytes);
    }

    /// Whether it is still there; what it has sent is put aside.
    pub fn reply(&mut self) -> Option<Reply> {
        loop {
            if let Some((reply, rest)) = resp::read(&self.received) {
                let used = self.received.len() - rest.len();
                self.received.drain(..used);
                return Some(reply);
            }
            let mut chunk = [0; 65536];
            match self.stream.read(&mut chunk) {
                Ok(0) => return None,
                Ok(len) => self.received.extend(&chunk[..len]),
                Err(error) if error.kind() == ErrorKind::ConnectionReset => return None,
                Err(error) => panic!("no reply from redis-server: {error}"),
            }
        }
    }

    /// Sends these bytes and nothing more; all that it answers.
    pub fn talk(mut self, bytes: &[u8]) -> Vec<u8> {
        // It may have closed already.
        let _ = self.stream.write_all(bytes);
        let _ = self.stream.shutdown(Shutdown::Write);
        let mut all = Vec::new();
        match self.stream.read_to_end(&mut all) {
            Ok(_) => {}
            Err(error) if error.kind() == ErrorKind::ConnectionReset => {}
            Err(error) => panic!("no reply from redis-server: {error}"),
        }
        all
    }
}
