//! One kernel socket: what waits for it, what has arrived, what is unsent; and the direct calls.
//!
//! Always: pops wait only when nothing is there for them; bytes in `arrived` came before those still in the kernel; of a
//! stream, `unsent` goes out in order, and a push that waits in `pushes` has sent nothing. A fault stays: every operation
//! after it ends with it.

use std::collections::VecDeque;
use std::io::IoSlice;
use std::net::SocketAddr;
use std::os::fd::{AsFd, OwnedFd};

use pdpix::{Buf, Endpoint, Error, Heap, Instant, OpId, Popped, Purpose, Sga, SocketKind, SocketOptions};
use rustix::io::Errno;
use rustix::net::{SendAncillaryBuffer, SendFlags, SocketAddrAny, SocketFlags};

use crate::driver::Driver;
use crate::ffi;

/// What a socket has become.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Role {
    Fresh,
    Bound,
    Listening,
    Connecting(OpId),
    /// A connected stream, or a datagram socket with a default peer.
    Connected,
    /// A connect that failed or was given up: good for `close` only.
    Dead,
}

/// How far our direction of a stream is ended.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Finish {
    Open,
    /// When everything unsent is sent.
    Asked,
    Done,
}

/// A push that waits for room in the budget, or, on a datagram socket, for the device.
pub(crate) struct WaitingPush {
    pub(crate) op: OpId,
    pub(crate) sga: Sga,
    pub(crate) to: Option<Endpoint>,
}

/// A socket and all that is known of it.
pub struct Socket<D: Driver> {
    pub(crate) fd: OwnedFd,
    pub(crate) kind: SocketKind,
    pub(crate) role: Role,
    pub(crate) options: SocketOptions,
    /// The kernel may have something to read, or room to write, that it will not tell again.
    pub(crate) readable: bool,
    pub(crate) writable: bool,
    /// The peer has ended its direction, or worse: reading goes on until that was read.
    pub(crate) hung_up: bool,
    /// Read by the driver, and not popped.
    pub(crate) arrived: VecDeque<Buf>,
    pub(crate) arrived_pinned: usize,
    pub(crate) arrived_end: bool,
    /// It was closed, and the driver had read what nobody popped: the peer is to be told by a reset (RFC 1122 4.2.2.13), as
    /// the kernel does for what it holds itself.
    pub(crate) unread: bool,
    /// Accepted by the driver, and not by the user; and what went wrong after that.
    pub(crate) accepted: VecDeque<OwnedFd>,
    pub(crate) accept_error: Option<Error>,
    /// Pops, or a listener's accepts, with the length they want.
    pub(crate) waiting: VecDeque<(OpId, usize)>,
    pub(crate) unsent: VecDeque<Sga>,
    /// Bytes pinned by what is unsent, or with the driver.
    pub(crate) unsent_pinned: usize,
    pub(crate) pushes: VecDeque<WaitingPush>,
    pub(crate) finish: Finish,
    /// The pop of length zero was given.
    pub(crate) ended: bool,
    pub(crate) fault: Option<Error>,
    /// Closed by its user: until when it may linger.
    pub(crate) closing: Option<Instant>,
    /// It is in the list of sockets to be served.
    pub(crate) is_ready: bool,
    /// How much to read at once: grows with what arrives.
    read_size: usize,
    pub(crate) driver: D::State,
}

const READ_SIZE_MIN: usize = 4096;
const READ_SIZE_MAX: usize = 64 * 1024;
/// The longest datagram.
const DATAGRAM_MAX: usize = 65_535;
/// The most buffers of what arrived that one pop takes.
const POP_SEGMENTS_MAX: usize = 16;

/// What a read came to.
pub(crate) enum Read {
    Popped(Popped),
    Nothing,
    /// The heap has no memory to read into.
    Starved,
    Fault(Error),
}

/// What a direct send came to.
pub(crate) enum Sent {
    /// So many bytes.
    Some(usize),
    WouldBlock,
    Fault(Error),
}

impl<D: Driver> Socket<D> {
    pub(crate) fn new(fd: OwnedFd, kind: SocketKind, role: Role) -> Socket<D> {
        Socket {
            fd,
            kind,
            role,
            options: SocketOptions::default(),
            readable: false,
            writable: true,
            hung_up: false,
            arrived: VecDeque::new(),
            arrived_pinned: 0,
            arrived_end: false,
            unread: false,
            accepted: VecDeque::new(),
            accept_error: None,
            waiting: VecDeque::new(),
            unsent: VecDeque::new(),
            unsent_pinned: 0,
            pushes: VecDeque::new(),
            finish: Finish::Open,
            ended: false,
            fault: None,
            closing: None,
            is_ready: false,
            read_size: READ_SIZE_MIN,
            driver: D::State::default(),
        }
    }

    /// Whether something is to be sent, or ended.
    #[inline]
    pub(crate) fn has_writes(&self) -> bool {
        !self.unsent.is_empty() || !self.pushes.is_empty() || self.finish == Finish::Asked
    }

    /// Whether somebody waits, for more than to read.
    pub(crate) fn is_awaited(&self) -> bool {
        self.has_writes() || self.closing.is_some() || matches!(self.role, Role::Connecting(_))
    }

    /// Whether this is an end of a connection that exists.
    pub(crate) fn is_stream(&self) -> bool {
        self.kind == SocketKind::Stream
    }

    /// What there is for a pop of at most `len_max` bytes.
    #[inline]
    pub(crate) fn read(&mut self, len_max: usize, heap: &Heap, may_read: bool) -> Read {
        if !self.arrived.is_empty() {
            return self.read_arrived(len_max);
        }
        if let Some(fault) = self.fault {
            return Read::Fault(fault);
        }
        if self.arrived_end {
            self.ended = true;
            return Read::Popped(Popped::stream(Sga::new()));
        }
        if !may_read || !self.readable {
            return Read::Nothing;
        }
        match self.kind {
            SocketKind::Stream => self.read_stream(len_max, heap),
            _ => self.read_datagram(len_max, heap),
        }
    }

    fn read_arrived(&mut self, len_max: usize) -> Read {
        let mut sga = Sga::new();
        let mut left = len_max;
        while left > 0
            && sga.segments().len() < POP_SEGMENTS_MAX
            && let Some(mut buf) = self.arrived.pop_front()
        {
            if buf.len() > left {
                let front = buf.split_to(left);
                self.arrived.push_front(std::mem::replace(&mut buf, front));
            } else {
                self.arrived_pinned -= buf.pinned();
            }
            left -= buf.len();
            if let Err(buf) = sga.push(buf) {
                // No room for a longer list: what is in it is enough.
                self.arrived_pinned += buf.pinned();
                self.arrived.push_front(buf);
                break;
            }
        }
        Read::Popped(Popped::stream(sga))
    }

    #[inline]
    fn read_stream(&mut self, len_max: usize, heap: &Heap) -> Read {
        let size = self.read_size.min(len_max);
        let Ok(mut buf) = heap.alloc_for(Purpose::Receive, size) else { return Read::Starved };
        loop {
            return match ffi::recv(self.fd.as_fd(), &mut buf, size) {
                Ok(0) => {
                    self.ended = true;
                    Read::Popped(Popped::stream(Sga::new()))
                }
                Ok(received) => {
                    if received < size {
                        // Everything was read: the next arrival is told. (An end that came with it was told already.)
                        self.readable = self.hung_up;
                        if received < size / 4 {
                            self.read_size = (size / 2).max(READ_SIZE_MIN);
                        }
                    } else if size == self.read_size {
                        self.read_size = (size * 2).min(READ_SIZE_MAX);
                    }
                    Read::Popped(Popped::stream(Sga::from(buf.freeze())))
                }
                Err(Errno::INTR) => continue,
                Err(Errno::AGAIN) => {
                    self.readable = false;
                    Read::Nothing
                }
                Err(errno) => {
                    let fault = error(errno);
                    self.fault = Some(fault);
                    Read::Fault(fault)
                }
            };
        }
    }

    fn read_datagram(&mut self, len_max: usize, heap: &Heap) -> Read {
        let size = len_max.min(DATAGRAM_MAX);
        let Ok(mut buf) = heap.alloc_for(Purpose::Receive, size) else { return Read::Starved };
        loop {
            return match ffi::recv_from(self.fd.as_fd(), &mut buf, size) {
                Ok((received, from)) => {
                    let from = from.and_then(|from| endpoint(&from));
                    Read::Popped(Popped { sga: Sga::from(buf.freeze()), from, cut: received > size })
                }
                Err(Errno::INTR) => continue,
                Err(Errno::AGAIN) => {
                    self.readable = false;
                    Read::Nothing
                }
                // What an ICMP error said of an earlier datagram. It is told once, and the socket goes on.
                Err(errno) => Read::Fault(error(errno)),
            };
        }
    }

    /// The next connection, by direct call.
    pub(crate) fn accept(&mut self, may_read: bool) -> Result<Option<OwnedFd>, Error> {
        if let Some(fd) = self.accepted.pop_front() {
            return Ok(Some(fd));
        }
        if let Some(error) = self.accept_error.take() {
            return Err(error);
        }
        while may_read && self.readable {
            match rustix::net::accept_with(&self.fd, SocketFlags::NONBLOCK | SocketFlags::CLOEXEC) {
                Ok(fd) => return Ok(Some(fd)),
                Err(Errno::AGAIN) => self.readable = false,
                // Gone before it was accepted; or interrupted.
                Err(Errno::CONNABORTED | Errno::INTR | Errno::PROTO) => {}
                Err(errno) => return Err(error(errno)),
            }
        }
        Ok(None)
    }

    /// Sends by direct call.
    #[inline]
    pub(crate) fn send(&mut self, sga: &Sga, to: Option<Endpoint>) -> Sent {
        let flags = SendFlags::DONTWAIT | SendFlags::NOSIGNAL;
        loop {
            let sent = match (sga.segments(), to) {
                ([one], None) => rustix::net::send(&self.fd, one, flags),
                ([one], Some(to)) => rustix::net::sendto(&self.fd, one, flags, &to),
                (many, to) => {
                    let mut slices = [IoSlice::new(&[]); ffi::Message::SEGMENTS_MAX];
                    for (slice, segment) in slices.iter_mut().zip(many) {
                        *slice = IoSlice::new(segment);
                    }
                    let slices = &slices[..many.len().min(ffi::Message::SEGMENTS_MAX)];
                    let mut control = SendAncillaryBuffer::default();
                    match to {
                        None => rustix::net::sendmsg(&self.fd, slices, &mut control, flags),
                        Some(to) => rustix::net::sendmsg_addr(&self.fd, &to, slices, &mut control, flags),
                    }
                }
            };
            return match sent {
                Ok(sent) => Sent::Some(sent),
                Err(Errno::INTR) => continue,
                Err(Errno::AGAIN | Errno::NOBUFS) => {
                    self.writable = false;
                    Sent::WouldBlock
                }
                Err(errno) => Sent::Fault(error(errno)),
            };
        }
    }

    /// Sends by direct calls what is unsent, as far as the kernel takes it.
    pub(crate) fn send_unsent(&mut self) {
        while self.writable
            && let Some(mut sga) = self.unsent.pop_front()
        {
            let pinned = sga.pinned();
            match self.send(&sga, None) {
                Sent::Some(sent) if sent == sga.len() => self.unsent_pinned -= pinned,
                Sent::Some(sent) => {
                    sga.advance(sent);
                    self.unsent_pinned = self.unsent_pinned - pinned + sga.pinned();
                    self.unsent.push_front(sga);
                }
                Sent::WouldBlock => self.unsent.push_front(sga),
                Sent::Fault(fault) => {
                    self.unsent_pinned -= pinned;
                    self.fail(fault);
                }
            }
        }
    }

    /// The connection is lost: nothing more is sent.
    pub(crate) fn fail(&mut self, fault: Error) {
        self.fault.get_or_insert(fault);
        for sga in std::mem::take(&mut self.unsent) {
            self.unsent_pinned -= sga.pinned();
        }
    }

    /// Ends our direction, if that was asked for and everything is sent.
    pub(crate) fn finish_if_sent(&mut self, sending: bool) {
        if self.finish == Finish::Asked && self.unsent.is_empty() && self.pushes.is_empty() && !sending {
            self.finish = Finish::Done;
            if let Err(errno) = rustix::net::shutdown(&self.fd, rustix::net::Shutdown::Write) {
                self.fail(error(errno));
            }
        }
    }
}

/// What the kernel's error means. A write to a connection that was reset, after that was read, is EPIPE: the same to us.
pub(crate) fn error(errno: Errno) -> Error {
    match errno {
        Errno::PIPE => Error::ConnectionReset,
        errno => Error::from_errno(errno.raw_os_error()),
    }
}

pub(crate) fn endpoint(address: &SocketAddrAny) -> Option<Endpoint> {
    SocketAddr::try_from(address.clone()).ok()
}
