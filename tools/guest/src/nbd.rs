//! A server of the network block device protocol on a Unix socket: a [`Disk`] for QEMU and for any other client.
//!
//! Fixed newstyle negotiation, one export, simple replies; READ, WRITE, FLUSH, TRIM, WRITE_ZEROES, DISC, and FUA. What is
//! trimmed reads as zeros. Requests of a connection are done one after the other, in order.
//!
//! A client is not trusted: lengths are bounded before memory is taken, what is out of bounds is refused by an error, and a
//! client that does not speak the protocol is dropped. A client that goes away takes nothing with it but its request.
//! Bounds: [`CONNECTIONS_MAX`], [`TRANSFER_MAX`], [`OPTION_MAX`].
//!
//! Source: doc/proto.md of the NetworkBlockDevice project. Not here: TLS, structured replies, metadata, several exports.

use std::collections::BTreeMap;
use std::io::{self, BufReader, Read, Write};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};
use std::thread::JoinHandle;

use libos_conformance::block::{Content, SECTOR};

use crate::disk::{Disk, Request};

/// Clients at once.
pub const CONNECTIONS_MAX: usize = 16;
/// Bytes of one read or write: what a client may count on that was told nothing else.
pub const TRANSFER_MAX: usize = 32 << 20;
/// Bytes of an option of the negotiation; a name has at most 4096.
pub const OPTION_MAX: usize = 16 << 10;

const GREETING: &[u8; 8] = b"NBDMAGIC";
const OPTION: &[u8; 8] = b"IHAVEOPT";
const OPTION_REPLY: u64 = 0x0003_e889_0455_65a9;
const REQUEST: u32 = 0x2560_9513;
const SIMPLE_REPLY: u32 = 0x6744_6698;

/// Flags of the handshake, the same in both directions: fixed newstyle; no zeros behind an export.
const FIXED_NEWSTYLE: u16 = 1;
const NO_ZEROES: u16 = 2;

mod option {
    pub const EXPORT_NAME: u32 = 1;
    pub const ABORT: u32 = 2;
    pub const LIST: u32 = 3;
    pub const INFO: u32 = 6;
    pub const GO: u32 = 7;
}

mod reply {
    pub const ACK: u32 = 1;
    pub const SERVER: u32 = 2;
    pub const INFO: u32 = 3;
    pub const UNSUPPORTED: u32 = (1 << 31) + 1;
    pub const INVALID: u32 = (1 << 31) + 3;
    pub const TOO_BIG: u32 = (1 << 31) + 9;
}

/// What an INFO reply tells.
const INFO_EXPORT: u16 = 0;
const INFO_BLOCK_SIZE: u16 = 3;

mod command {
    pub const READ: u16 = 0;
    pub const WRITE: u16 = 1;
    pub const DISC: u16 = 2;
    pub const FLUSH: u16 = 3;
    pub const TRIM: u16 = 4;
    pub const WRITE_ZEROES: u16 = 6;
    /// Flag: the command is durable before it is answered.
    pub const FUA: u16 = 1;
    /// Flag: do not make a hole. There are none.
    pub const NO_HOLE: u16 = 2;
}

/// HAS_FLAGS, SEND_FLUSH, SEND_FUA, SEND_TRIM, SEND_WRITE_ZEROES; CAN_MULTI_CONN, as a flush covers all connections.
const TRANSMISSION_FLAGS: u16 = 1 | 1 << 2 | 1 << 3 | 1 << 5 | 1 << 6 | 1 << 8;

/// Errors of the protocol, which has its own numbers.
const EINVAL: u32 = 22;
const ENOSPC: u32 = 28;

/// A server; it ends when it is dropped, and its socket with it.
pub struct Server {
    path: PathBuf,
    shared: Arc<Shared>,
    accepts: Option<JoinHandle<()>>,
}

struct Shared {
    listener: UnixListener,
    disk: Disk,
    is_over: AtomicBool,
    /// Clients that broke the rules.
    dropped: AtomicU64,
    /// Those that are open, so that they can be ended.
    connections: Mutex<BTreeMap<u64, UnixStream>>,
}

impl Server {
    /// Serves the disk at a new socket of this path.
    ///
    /// # Errors
    /// The socket cannot be made.
    pub fn start(path: impl Into<PathBuf>, disk: Disk) -> io::Result<Server> {
        let path = path.into();
        let listener = UnixListener::bind(&path)?;
        let shared = Arc::new(Shared {
            listener,
            disk,
            is_over: AtomicBool::new(false),
            dropped: AtomicU64::new(0),
            connections: Mutex::new(BTreeMap::new()),
        });
        let accepts = std::thread::spawn({
            let shared = shared.clone();
            move || accept(&shared)
        });
        Ok(Server { path, shared, accepts: Some(accepts) })
    }

    /// Where it listens.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// As QEMU and libnbd name it.
    pub fn uri(&self) -> String {
        format!("nbd+unix:///?socket={}", self.path.display())
    }

    /// Clients that broke the rules, and were dropped for it.
    pub fn dropped(&self) -> u64 {
        self.shared.dropped.load(Ordering::SeqCst)
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.shared.is_over.store(true, Ordering::SeqCst);
        // Wakes the one that accepts, though nobody may be able to connect any more.
        let _ = rustix::net::shutdown(&self.shared.listener, rustix::net::Shutdown::Both);
        if let Some(accepts) = self.accepts.take() {
            let _ = accepts.join();
        }
        let _ = std::fs::remove_file(&self.path);
    }
}

fn accept(shared: &Arc<Shared>) {
    let mut running: Vec<JoinHandle<()>> = Vec::new();
    for number in 0.. {
        let Ok((stream, _)) = shared.listener.accept() else { break };
        if shared.is_over.load(Ordering::SeqCst) {
            break;
        }
        running.retain(|thread| !thread.is_finished());
        let Ok(to_end_it) = stream.try_clone() else { continue };
        if running.len() < CONNECTIONS_MAX {
            shared.open().insert(number, to_end_it);
            let shared = shared.clone();
            running.push(std::thread::spawn(move || shared.serve(number, stream)));
        } // else it is closed, unanswered
    }
    for stream in shared.open().values() {
        let _ = stream.shutdown(std::net::Shutdown::Both);
    }
    for thread in running {
        let _ = thread.join();
    }
}

impl Shared {
    fn open(&self) -> MutexGuard<'_, BTreeMap<u64, UnixStream>> {
        self.connections.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
    }

    fn serve(&self, number: u64, stream: UnixStream) {
        let ended = stream.try_clone().and_then(|from| Session::new(from, stream, &self.disk).run());
        if ended.is_err_and(|why| why.kind() == io::ErrorKind::InvalidData) {
            self.dropped.fetch_add(1, Ordering::SeqCst);
        }
        // The clone that is kept to stop it would keep the socket open.
        self.open().remove(&number);
    }
}

/// One client.
struct Session<'a> {
    from: BufReader<UnixStream>,
    to: UnixStream,
    disk: &'a Disk,
    size: usize,
}

fn broken(why: impl Into<String>) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, why.into())
}

impl<'a> Session<'a> {
    fn new(from: UnixStream, to: UnixStream, disk: &'a Disk) -> Session<'a> {
        Session { from: BufReader::with_capacity(64 << 10, from), to, size: disk.size(), disk }
    }

    fn run(&mut self) -> io::Result<()> {
        if self.negotiate()? {
            while self.request()? {}
        }
        Ok(())
    }

    fn take<const N: usize>(&mut self) -> io::Result<[u8; N]> {
        let mut bytes = [0; N];
        self.from.read_exact(&mut bytes)?;
        Ok(bytes)
    }

    fn take_u32(&mut self) -> io::Result<u32> {
        self.take().map(u32::from_be_bytes)
    }

    fn skip(&mut self, len: u64) -> io::Result<()> {
        let skipped = io::copy(&mut (&mut self.from).take(len), &mut io::sink())?;
        if skipped == len { Ok(()) } else { Err(io::ErrorKind::UnexpectedEof.into()) }
    }

    /// Whether requests follow.
    fn negotiate(&mut self) -> io::Result<bool> {
        let mut hello = [GREETING.as_slice(), OPTION].concat();
        hello.extend((FIXED_NEWSTYLE | NO_ZEROES).to_be_bytes());
        self.to.write_all(&hello)?;
        let flags = self.take_u32()?;
        if flags & !u32::from(FIXED_NEWSTYLE | NO_ZEROES) != 0 || flags & u32::from(FIXED_NEWSTYLE) == 0 {
            return Err(broken(format!("flags {flags:#x} of the client")));
        }
        let has_zeros = flags & u32::from(NO_ZEROES) == 0;
        loop {
            if self.take::<8>()? != *OPTION {
                return Err(broken("no option where one should be"));
            }
            let (name, len) = (self.take_u32()?, self.take_u32()? as usize);
            if len > OPTION_MAX {
                if name == option::EXPORT_NAME {
                    return Err(broken("a name beyond all measure")); // there is no way to refuse it
                }
                self.skip(len as u64)?;
                self.answer(name, reply::TOO_BIG, &[])?;
                continue;
            }
            let mut data = vec![0; len];
            self.from.read_exact(&mut data)?;
            match name {
                option::EXPORT_NAME => {
                    let mut export = self.export();
                    export.resize(export.len() + if has_zeros { 124 } else { 0 }, 0);
                    self.to.write_all(&export)?;
                    return Ok(true);
                }
                option::ABORT => {
                    self.answer(name, reply::ACK, &[])?;
                    return Ok(false);
                }
                option::LIST if data.is_empty() => {
                    self.answer(name, reply::SERVER, &0u32.to_be_bytes())?; // one export, whose name is empty
                    self.answer(name, reply::ACK, &[])?;
                }
                option::INFO | option::GO if is_info(&data) => {
                    self.answer(name, reply::INFO, &[&INFO_EXPORT.to_be_bytes(), self.export().as_slice()].concat())?;
                    let sizes = [SECTOR as u32, 4096, TRANSFER_MAX as u32].map(u32::to_be_bytes).concat();
                    self.answer(name, reply::INFO, &[&INFO_BLOCK_SIZE.to_be_bytes(), sizes.as_slice()].concat())?;
                    self.answer(name, reply::ACK, &[])?;
                    if name == option::GO {
                        return Ok(true);
                    }
                }
                option::LIST | option::INFO | option::GO => self.answer(name, reply::INVALID, &[])?,
                _ => self.answer(name, reply::UNSUPPORTED, &[])?,
            }
        }
    }

    /// Size and flags.
    fn export(&self) -> Vec<u8> {
        [(self.size as u64).to_be_bytes().as_slice(), &TRANSMISSION_FLAGS.to_be_bytes()].concat()
    }

    fn answer(&mut self, option: u32, kind: u32, data: &[u8]) -> io::Result<()> {
        let mut bytes = OPTION_REPLY.to_be_bytes().to_vec();
        for number in [option, kind, data.len() as u32] {
            bytes.extend(number.to_be_bytes());
        }
        bytes.extend(data);
        self.to.write_all(&bytes)
    }

    /// One request; whether there may be another.
    fn request(&mut self) -> io::Result<bool> {
        if self.take_u32()? != REQUEST {
            return Err(broken("no request where one should be"));
        }
        let (flags, kind) = (u16::from_be_bytes(self.take()?), u16::from_be_bytes(self.take()?));
        let cookie: [u8; 8] = self.take()?;
        let (offset, len) = (u64::from_be_bytes(self.take()?), self.take_u32()? as usize);
        let mut payload = Vec::new();
        if kind == command::WRITE {
            if len > TRANSFER_MAX {
                return Err(broken(format!("a write of {len} bytes")));
            }
            payload.resize(len, 0);
            self.from.read_exact(&mut payload)?;
        }
        if kind == command::DISC {
            return Ok(false);
        }
        let result = self.understand(flags, kind, offset, len, payload);
        let (error, read) = match result {
            Ok(request) => match self.disk.serve(request) {
                Some(read) => (0, read),
                None => return Ok(true), // there is no power to answer with
            },
            Err(error) => (error, Vec::new()),
        };
        let mut bytes = Vec::with_capacity(16 + read.len());
        bytes.extend(SIMPLE_REPLY.to_be_bytes());
        bytes.extend(error.to_be_bytes());
        bytes.extend(cookie);
        bytes.extend(read);
        self.to.write_all(&bytes)?;
        Ok(true)
    }

    /// What is asked for; or the error that says what is wrong with it.
    fn understand(&self, flags: u16, kind: u16, offset: u64, len: usize, payload: Vec<u8>) -> Result<Request, u32> {
        let known = match kind {
            command::WRITE_ZEROES => command::FUA | command::NO_HOLE,
            _ => command::FUA,
        };
        if flags & !known != 0 {
            return Err(EINVAL);
        }
        if kind == command::FLUSH {
            return if offset == 0 && len == 0 { Ok(Request::Flush) } else { Err(EINVAL) };
        }
        let writes = matches!(kind, command::WRITE | command::TRIM | command::WRITE_ZEROES);
        if !writes && kind != command::READ {
            return Err(EINVAL);
        }
        let end = usize::try_from(offset).ok().and_then(|offset| offset.checked_add(len));
        if end.is_none_or(|end| end > self.size) {
            return Err(if writes { ENOSPC } else { EINVAL });
        }
        let offset = offset as usize;
        if len == 0
            || !offset.is_multiple_of(SECTOR)
            || !len.is_multiple_of(SECTOR)
            || kind == command::READ && len > TRANSFER_MAX
        {
            return Err(EINVAL);
        }
        Ok(match kind {
            command::READ => Request::Read { offset, len },
            command::WRITE => {
                Request::Write { offset, content: Content::Bytes(payload), forced: flags & command::FUA != 0 }
            }
            _ => Request::Write { offset, content: Content::Zeros(len), forced: flags & command::FUA != 0 },
        })
    }
}

/// Whether these are the data of an INFO or GO: a name, which may be any, and a list of what is asked for.
fn is_info(data: &[u8]) -> bool {
    let Some((len, rest)) = data.split_first_chunk::<4>() else { return false };
    let Some(rest) = rest.get(u32::from_be_bytes(*len) as usize..) else { return false };
    let Some((count, rest)) = rest.split_first_chunk::<2>() else { return false };
    rest.len() == usize::from(u16::from_be_bytes(*count)) * 2
}
