//! A connection to a server in another process.

use std::io::{ErrorKind, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpStream};
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::thread::JoinHandle;
use std::time::Duration;

use crate::Subject;
use crate::resp::{self, Reply};

/// A server that says nothing for so long is broken.
const PATIENCE: Duration = Duration::from_secs(10);
/// More than this is sent by a thread of its own, so that replies can be read meanwhile: a server may stop to read
/// while its replies are not taken.
const SENT_AT_ONCE_MAX: usize = 32 * 1024;

/// Where a server is.
#[derive(Clone, Debug)]
pub enum Target {
    /// A Unix socket.
    Unix(PathBuf),
    /// An address.
    Tcp(SocketAddr),
}

#[derive(Debug)]
enum Stream {
    Unix(UnixStream),
    Tcp(TcpStream),
}

impl Stream {
    fn open(target: &Target) -> std::io::Result<Stream> {
        Ok(match target {
            Target::Unix(path) => {
                let stream = UnixStream::connect(path)?;
                stream.set_read_timeout(Some(PATIENCE))?;
                Stream::Unix(stream)
            }
            Target::Tcp(address) => {
                let stream = TcpStream::connect(address)?;
                stream.set_nodelay(true)?;
                stream.set_read_timeout(Some(PATIENCE))?;
                Stream::Tcp(stream)
            }
        })
    }

    fn try_clone(&self) -> std::io::Result<Stream> {
        Ok(match self {
            Stream::Unix(stream) => Stream::Unix(stream.try_clone()?),
            Stream::Tcp(stream) => Stream::Tcp(stream.try_clone()?),
        })
    }

    fn shutdown(&self, how: Shutdown) -> std::io::Result<()> {
        match self {
            Stream::Unix(stream) => stream.shutdown(how),
            Stream::Tcp(stream) => stream.shutdown(how),
        }
    }

    fn write_all(&mut self, bytes: &[u8]) -> std::io::Result<()> {
        match self {
            Stream::Unix(stream) => stream.write_all(bytes),
            Stream::Tcp(stream) => stream.write_all(bytes),
        }
    }

    fn read(&mut self, chunk: &mut [u8]) -> std::io::Result<usize> {
        match self {
            Stream::Unix(stream) => stream.read(chunk),
            Stream::Tcp(stream) => stream.read(chunk),
        }
    }
}

/// A connection to a server: the plainest client.
#[derive(Debug)]
pub struct Peer {
    target: Target,
    stream: Stream,
    received: Vec<u8>,
    sender: Option<JoinHandle<()>>,
}

impl Peer {
    /// Panics if nobody listens there.
    pub fn connect(target: &Target) -> Peer {
        let stream = Stream::open(target).unwrap_or_else(|error| panic!("{target:?}: {error}"));
        Peer { target: target.clone(), stream, received: Vec::new(), sender: None }
    }

    fn end_sending(&mut self) {
        if let Some(sender) = self.sender.take() {
            sender.join().expect("the sender to end");
        }
    }

    /// One more read. Whether it is still there.
    fn receive(&mut self) -> bool {
        let mut chunk = [0; 65536];
        match self.stream.read(&mut chunk) {
            Ok(0) => false,
            Ok(len) => {
                self.received.extend(&chunk[..len]);
                true
            }
            Err(error) if error.kind() == ErrorKind::ConnectionReset => false,
            // A read with a time limit is not taken up again by the kernel.
            Err(error) if error.kind() == ErrorKind::Interrupted => true,
            Err(error) => panic!("no reply from {:?}: {error}", self.target),
        }
    }

    /// Sends these bytes and nothing more; all that is answered until the connection is closed.
    pub fn talk(mut self, bytes: &[u8]) -> Vec<u8> {
        let (mut stream, bytes) = (self.stream.try_clone().expect("a descriptor"), bytes.to_vec());
        self.sender = Some(std::thread::spawn(move || {
            let _ = stream.write_all(&bytes);
            let _ = stream.shutdown(Shutdown::Write);
        }));
        while self.receive() {}
        std::mem::take(&mut self.received)
    }
}

impl Subject for Peer {
    fn send(&mut self, bytes: &[u8]) {
        self.end_sending();
        // If the server has closed the connection there will be no reply, and that is seen.
        if bytes.len() <= SENT_AT_ONCE_MAX {
            let _ = self.stream.write_all(bytes);
            return;
        }
        let (mut stream, bytes) = (self.stream.try_clone().expect("a descriptor"), bytes.to_vec());
        self.sender = Some(std::thread::spawn(move || _ = stream.write_all(&bytes)));
    }

    fn reply(&mut self) -> Option<Reply> {
        loop {
            if let Some((reply, rest)) = resp::read(&self.received) {
                let used = self.received.len() - rest.len();
                self.received.drain(..used);
                return Some(reply);
            }
            if !self.receive() {
                return None;
            }
        }
    }

    fn reconnect(&mut self) {
        *self = Peer::connect(&self.target);
    }
}

impl Drop for Peer {
    fn drop(&mut self) {
        let _ = self.stream.shutdown(Shutdown::Both);
        self.end_sending();
    }
}
