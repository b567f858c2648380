//! Waiting by io_uring: multishot accept, multishot receive into provided buffers, and sends.
//!
//! A socket on which somebody waits has a multishot receive: what arrives is in our memory when we look, and no system
//! call is made for it. When more has arrived than the receive budget allows, the receive is stopped, and the kernel's
//! window closes. Sends are tried directly first; what the socket does not take goes out through the ring, one operation
//! a socket at a time. A zero-copy send holds its buffers until the kernel's notification, which may come after the close.
//!
//! Sockets are blocking here, since the ring answers EAGAIN at once for those that are not; direct calls say DONTWAIT.
//! The ring belongs to the thread that made it (SINGLE_ISSUER, DEFER_TASKRUN): its completions are worked off when we
//! enter, which we do when it says that there is something. A core that sleeps is woken through an eventfd, which is
//! switched on for that time only. (Polling the ring's own descriptor does not wake with DEFER_TASKRUN: seen on 6.18.)

use std::os::fd::{AsRawFd, OwnedFd, RawFd};
use std::sync::atomic::{Ordering, fence};

use io_uring::types::{CancelBuilder, Fd};
use io_uring::{IoUring, cqueue, opcode, squeue};
use pdpix::{Error, Handle, Heap, Purpose};
use slab::Slab;

use crate::driver::Driver;
use crate::ffi::{self, Message, ProvidedBuffers};
use crate::setup::reset;
use crate::socket::{Role, Socket, error};
use crate::sockets::{KernelNetwork, Table};

/// Kernel sockets, waited for by io_uring.
pub type UringNetwork = KernelNetwork<Uring>;

/// How a ring is made.
#[derive(Clone, Copy, Debug)]
pub struct UringSettings {
    /// Buffers provided for receiving: a power of two. Each pins [`UringSettings::buffer_size`] bytes.
    pub buffers: u16,
    /// Bytes in each.
    pub buffer_size: usize,
    /// Pushes of at least so many bytes are sent without a copy by the kernel, where it can. `None`: never.
    pub zero_copy_min: Option<usize>,
}

impl Default for UringSettings {
    fn default() -> UringSettings {
        UringSettings { buffers: 256, buffer_size: 4096, zero_copy_min: Some(256 * 1024) }
    }
}

const ENTRIES: u32 = 256;
const COMPLETIONS: u32 = 4096;
const BUFFER_GROUP: u16 = 0;
/// Connections accepted ahead of their user.
const ACCEPTED_MAX: usize = 256;

/// What is under way for a socket.
#[derive(Default)]
pub struct UringState {
    /// A multishot receive or accept, or a poll: until its last completion.
    receiving: bool,
    accepting: bool,
    polling: bool,
    /// Its end was asked for.
    stopping: bool,
    /// A send whose result is not in.
    sending: bool,
    /// Sends whose memory the kernel holds.
    held: u32,
    /// The kernel copied what it was to send without a copy: do not ask again.
    no_zero_copy: bool,
}

/// What a completion is about: the top byte of its user data. Below it stands a handle, or the place of a send.
#[derive(Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
enum Kind {
    Receive = 1,
    Accept,
    Poll,
    Send,
    Cancel,
}

impl Kind {
    fn tag(self, index: usize) -> u64 {
        (self as u64) << 56 | index as u64
    }

    fn of(user_data: u64) -> Option<Kind> {
        [Kind::Receive, Kind::Accept, Kind::Poll, Kind::Send, Kind::Cancel]
            .into_iter()
            .find(|&kind| kind as u64 == user_data >> 56)
    }
}

struct Send {
    h: Handle,
    message: Message,
    pinned: usize,
    zero_copy: bool,
}

/// Waits by io_uring.
pub struct Uring {
    /// Dropped before the buffers, which the kernel may write to as long as it exists.
    ring: IoUring,
    buffers: ProvidedBuffers,
    /// Readable when the ring has something, while `armed`.
    event: OwnedFd,
    armed: bool,
    sends: Slab<Send>,
    /// Operations whose last completion is not in.
    in_flight: usize,
    settings: UringSettings,
    heap: Heap,
    /// Completions taken off the ring and not yet worked on.
    taken: Vec<(u64, i32, u32)>,
    /// Sockets whose receive ended for want of buffers.
    hungry: Vec<Handle>,
}

impl KernelNetwork<Uring> {
    /// A network with memory from `heap`.
    ///
    /// # Errors
    /// `NotSupported`: the kernel is older than 6.1 or has no io_uring. `PermissionDenied`: it is forbidden (many
    /// containers do). `NoBuffers`.
    pub fn new(heap: Heap, settings: UringSettings) -> Result<UringNetwork, Error> {
        Ok(KernelNetwork::over(Uring::new(heap.clone(), settings)?, heap))
    }
}

impl Uring {
    fn new(heap: Heap, settings: UringSettings) -> Result<Uring, Error> {
        let system = |error: std::io::Error| match error.raw_os_error() {
            // What a kernel without the feature says, or one without io_uring.
            Some(libc::EINVAL | libc::ENOSYS) => Error::NotSupported,
            Some(errno) => Error::from_errno(errno),
            None => Error::Io,
        };
        let ring = IoUring::builder()
            .dontfork()
            .setup_single_issuer()
            .setup_defer_taskrun()
            .setup_taskrun_flag()
            .setup_submit_all()
            .setup_cqsize(COMPLETIONS)
            .build(ENTRIES)
            .map_err(system)?;
        let buffers = ProvidedBuffers::register(&ring, BUFFER_GROUP, settings.buffers).map_err(system)?;
        use rustix::event::{EventfdFlags, eventfd};
        let event = eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK).map_err(error)?;
        ring.submitter().register_eventfd(event.as_raw_fd()).map_err(system)?;
        let mut uring = Uring {
            ring,
            buffers,
            event,
            armed: false,
            sends: Slab::new(),
            in_flight: 0,
            settings,
            heap,
            taken: Vec::with_capacity(COMPLETIONS as usize),
            hungry: Vec::new(),
        };
        uring.ring.completion().disable_eventfd();
        uring.provide();
        Ok(uring)
    }

    /// Offers fresh buffers in the place of those that were used. Whether all places are filled.
    fn provide(&mut self) -> bool {
        let mut offered = false;
        let full = loop {
            if self.buffers.next().is_none() {
                break true;
            }
            let Ok(buf) = self.heap.alloc_for(Purpose::Receive, self.settings.buffer_size) else { break false };
            self.buffers.offer(buf);
            offered = true;
        };
        if offered {
            self.buffers.publish();
        }
        full
    }

    #[cold]
    fn disarm(&mut self) {
        self.armed = false;
        self.ring.completion().disable_eventfd();
        let _ = rustix::io::read(&self.event, &mut [0u8; 8]);
    }

    fn queue(&mut self, entry: squeue::Entry, kind: Kind, index: usize) {
        let entry = entry.user_data(kind.tag(index));
        self.in_flight += 1;
        // SAFETY: receives write to provided buffers, which live as long as the ring; sends read from messages, which
        // stay in `sends` until their last completion; nothing else points anywhere.
        unsafe { ffi::queue(&mut self.ring, &entry) };
    }

    fn cancel(&mut self, kind: Kind, h: Handle) {
        let entry = opcode::AsyncCancel::new(kind.tag(h.0 as usize)).build();
        self.queue(entry, Kind::Cancel, 0);
    }

    /// Takes completions off the ring.
    fn take_completions(&mut self) {
        self.taken.extend(self.ring.completion().map(|cqe| (cqe.user_data(), cqe.result(), cqe.flags())));
    }

    /// Gives the kernel what is queued, and lets it work off what it has for us.
    fn enter(&mut self) {
        let submission = self.ring.submission();
        if !submission.is_empty() || submission.taskrun() || submission.cq_overflow() {
            drop(submission);
            // EBUSY, EINTR, EAGAIN: tried again with the next poll.
            let _ = self.ring.submit();
        }
    }

    fn on_receive(&mut self, table: &mut Table<Uring>, h: Handle, result: i32, flags: u32) {
        // Every buffer that the kernel used is taken, whoever wants it: with bundles several in a row.
        let mut left = result.max(0) as usize;
        let mut id = cqueue::buffer_select(flags);
        let socket = table.sockets.get_mut(h.0 as usize).expect("a socket stays until its operations have ended");
        while left > 0
            && let Some(next) = id
        {
            let len = left.min(self.settings.buffer_size);
            let Some(buf) = self.buffers.take(next, len) else { break };
            left -= len;
            id = Some((next + 1) % self.settings.buffers);
            if socket.closing.is_some() {
                socket.unread |= socket.is_stream();
            } else {
                let buf = buf.freeze();
                socket.arrived_pinned += buf.pinned();
                socket.arrived.push_back(buf);
            }
        }
        if !cqueue::more(flags) {
            (socket.driver.receiving, socket.driver.stopping) = (false, false);
        }
        match result {
            0 => socket.arrived_end = true,
            1.. => {
                let over = socket.arrived_pinned > socket.options.receive_budget;
                if over && socket.driver.receiving && !socket.driver.stopping {
                    socket.driver.stopping = true;
                    self.cancel(Kind::Receive, h);
                }
            }
            _ => match -result {
                libc::ECANCELED => socket.readable = true,
                libc::ENOBUFS => {
                    socket.readable = true;
                    self.hungry.push(h);
                }
                errno => socket.fail(Error::from_errno(errno)),
            },
        }
        table.make_ready(h);
    }

    fn on_accept(&mut self, table: &mut Table<Uring>, h: Handle, result: i32, flags: u32) {
        let fd = (result >= 0).then(|| ffi::own(result));
        let socket = table.sockets.get_mut(h.0 as usize).expect("a socket stays until its operations have ended");
        if !cqueue::more(flags) {
            (socket.driver.accepting, socket.driver.stopping) = (false, false);
        }
        match fd {
            Some(fd) if socket.closing.is_none() => {
                socket.accepted.push_back(fd);
                if socket.accepted.len() >= ACCEPTED_MAX && socket.driver.accepting && !socket.driver.stopping {
                    socket.driver.stopping = true;
                    self.cancel(Kind::Accept, h);
                }
            }
            Some(fd) => reset(&fd), // closed while it came
            None => match -result {
                libc::ECANCELED | libc::ECONNABORTED | libc::EINTR => {}
                errno => socket.accept_error = Some(Error::from_errno(errno)),
            },
        }
        table.make_ready(h);
    }

    fn on_poll(&mut self, table: &mut Table<Uring>, h: Handle, result: i32) {
        let socket = table.sockets.get_mut(h.0 as usize).expect("a socket stays until its operations have ended");
        socket.driver.polling = false;
        if result > 0 {
            let events = result as u32;
            socket.readable |= events & (libc::POLLIN | libc::POLLERR | libc::POLLHUP) as u32 != 0;
            socket.writable |= events & (libc::POLLOUT | libc::POLLERR | libc::POLLHUP) as u32 != 0;
        }
        table.make_ready(h);
    }

    fn on_send(&mut self, table: &mut Table<Uring>, index: usize, result: i32, flags: u32) {
        let h = self.sends[index].h;
        let socket = table.sockets.get_mut(h.0 as usize).expect("a socket stays until its operations have ended");
        if cqueue::notif(flags) {
            // The kernel has let go. What it says is whether it had to copy after all.
            if result as u32 & IORING_NOTIF_USAGE_ZC_COPIED != 0 {
                socket.driver.no_zero_copy = true;
            }
            let send = self.sends.remove(index);
            socket.driver.held -= 1;
            socket.unsent_pinned -= send.pinned;
            // A reset lets go of everything as well, and that is no room for the pushes that wait.
            if !socket.pushes.is_empty()
                && let Ok(Err(errno)) = rustix::net::sockopt::socket_error(&socket.fd)
            {
                socket.fail(error(errno));
            }
            return table.make_ready(h);
        }
        socket.driver.sending = false;
        let send = &self.sends[index];
        // What is left over goes before everything else that is unsent.
        let rest = match result {
            0.. if (result as usize) < send.message.sga().len() => Some(result as usize),
            0.. => None,
            // Not enough memory may be locked: by copy, then.
            _ if send.zero_copy && matches!(-result, libc::ENOMEM | libc::EOPNOTSUPP) => {
                socket.driver.no_zero_copy = true;
                Some(0)
            }
            _ if matches!(-result, libc::EINTR | libc::EAGAIN) => Some(0),
            _ if -result == libc::EPIPE => {
                socket.fail(Error::ConnectionReset);
                None
            }
            _ => {
                socket.fail(Error::from_errno(-result));
                None
            }
        };
        if let Some(sent) = rest
            && socket.fault.is_none()
        {
            let mut sga = pdpix::Sga::new();
            let whole = send.message.sga().segments().iter().all(|segment| sga.push(segment.clone()).is_ok());
            if whole {
                sga.advance(sent);
                socket.unsent_pinned += sga.pinned();
                socket.unsent.push_front(sga);
            } else {
                // A stream with a hole is no stream.
                socket.fail(Error::NoBuffers);
            }
        }
        if cfg!(margay_planted_bug = "release_at_completion") {
            self.sends[index].message = Message::new(pdpix::Sga::new());
        }
        if !cqueue::more(flags) {
            let send = self.sends.remove(index);
            socket.driver.held -= 1;
            socket.unsent_pinned -= send.pinned;
        }
        table.make_ready(h);
    }

    /// Sends the first of what is unsent.
    fn send(&mut self, h: Handle, socket: &mut Socket<Uring>) {
        let Some(sga) = socket.unsent.pop_front() else { return };
        let pinned = sga.pinned(); // counted in `unsent_pinned` until the kernel lets go
        let zero_copy = self.is_zero_copy(socket, sga.len());
        let message = Message::new(sga);
        let (fd, header) = (Fd(ffi::borrow(&socket.fd)), message.header());
        let flags = (libc::MSG_NOSIGNAL | libc::MSG_WAITALL) as u32;
        let entry = if zero_copy {
            opcode::SendMsgZc::new(fd, header).flags(flags).ioprio(IORING_SEND_ZC_REPORT_USAGE).build()
        } else {
            opcode::SendMsg::new(fd, header).flags(flags).build()
        };
        let index = self.sends.insert(Send { h, message, pinned, zero_copy });
        socket.driver.sending = true;
        socket.driver.held += 1;
        self.queue(entry, Kind::Send, index);
    }

    fn is_zero_copy(&self, socket: &Socket<Uring>, len: usize) -> bool {
        !socket.driver.no_zero_copy && self.settings.zero_copy_min.is_some_and(|min| len >= min)
    }
}

/// linux/io_uring.h; the `io-uring` crate does not export them.
const IORING_SEND_ZC_REPORT_USAGE: u16 = 1 << 3;
const IORING_NOTIF_USAGE_ZC_COPIED: u32 = 1 << 31;

impl Driver for Uring {
    type State = UringState;

    fn watch(&mut self, _: Handle, socket: &mut Socket<Uring>) -> Result<(), Error> {
        // A connect that is under way needs a socket that does not block; everything else one that does.
        let connecting = matches!(socket.role, Role::Connecting(_));
        rustix::io::ioctl_fionbio(&socket.fd, connecting).map_err(error)?;
        socket.readable = true;
        Ok(())
    }

    #[inline]
    fn may_read(&self, socket: &Socket<Uring>) -> bool {
        socket.role != Role::Listening && !socket.driver.receiving
    }

    #[inline]
    fn want_read(&mut self, h: Handle, socket: &mut Socket<Uring>) {
        let fd = Fd(ffi::borrow(&socket.fd));
        match (socket.role, socket.is_stream()) {
            (Role::Listening, _) if !socket.driver.accepting && socket.accepted.is_empty() => {
                socket.driver.accepting = true;
                self.queue(opcode::AcceptMulti::new(fd).flags(libc::SOCK_CLOEXEC).build(), Kind::Accept, h.0 as usize);
            }
            (Role::Connected, true) if !socket.driver.receiving && !socket.arrived_end && socket.fault.is_none() => {
                socket.driver.receiving = true;
                let entry = opcode::RecvMulti::new(fd, self.buffers.group()).build();
                self.queue(entry, Kind::Receive, h.0 as usize);
            }
            (_, false) if !socket.driver.polling && !socket.readable => {
                socket.driver.polling = true;
                let events = libc::POLLIN as u32;
                self.queue(opcode::PollAdd::new(fd, events).build(), Kind::Poll, h.0 as usize);
            }
            _ => {}
        }
    }

    #[inline]
    fn prefers_send(&self, socket: &Socket<Uring>, len: usize) -> bool {
        self.is_zero_copy(socket, len)
    }

    fn want_write(&mut self, h: Handle, socket: &mut Socket<Uring>) {
        let connecting = matches!(socket.role, Role::Connecting(_));
        if socket.is_stream() && !connecting {
            if !socket.driver.sending {
                socket.writable = true; // the ring waits for room, not we
                self.send(h, socket);
            }
            return;
        }
        if !socket.driver.polling {
            socket.driver.polling = true;
            // A datagram socket may be waited for in both directions by one poll.
            let events = if connecting { libc::POLLOUT } else { libc::POLLOUT | libc::POLLIN } as u32;
            let fd = Fd(ffi::borrow(&socket.fd));
            self.queue(opcode::PollAdd::new(fd, events).build(), Kind::Poll, h.0 as usize);
        }
    }

    #[inline]
    fn is_sending(&self, socket: &Socket<Uring>) -> bool {
        socket.driver.sending
    }

    #[inline]
    fn is_held(&self, socket: &Socket<Uring>) -> bool {
        socket.driver.held > 0
    }

    fn unwatch(&mut self, h: Handle, socket: &mut Socket<Uring>) -> bool {
        let state = &mut socket.driver;
        let under_way =
            [(state.receiving, Kind::Receive), (state.accepting, Kind::Accept), (state.polling, Kind::Poll)];
        if under_way.iter().any(|(on, _)| *on) && !state.stopping {
            state.stopping = true;
            under_way.iter().filter(|(on, _)| *on).for_each(|(_, kind)| self.cancel(*kind, h));
        }
        let state = &socket.driver;
        !(state.receiving || state.accepting || state.polling || state.sending || state.held > 0)
    }

    fn poll(&mut self, table: &mut Table<Uring>) {
        self.enter();
        self.take_completions();
        if self.taken.is_empty() && self.hungry.is_empty() {
            return; // still armed, if it was: this may be the look before the sleep
        }
        if self.armed {
            self.disarm();
        }
        let mut taken = std::mem::take(&mut self.taken);
        for (user_data, result, flags) in taken.drain(..) {
            if !cqueue::more(flags) {
                self.in_flight -= 1;
            }
            let index = user_data as usize & ((1 << 56) - 1);
            let h = Handle(index as u32);
            match Kind::of(user_data) {
                Some(Kind::Receive) => self.on_receive(table, h, result, flags),
                Some(Kind::Accept) => self.on_accept(table, h, result, flags),
                Some(Kind::Poll) => self.on_poll(table, h, result),
                Some(Kind::Send) => self.on_send(table, index, result, flags),
                Some(Kind::Cancel) | None => {}
            }
        }
        self.taken = taken;
        let full = self.provide();
        if full || !self.hungry.is_empty() {
            for h in std::mem::take(&mut self.hungry) {
                table.make_ready(h);
            }
        }
    }

    fn arm(&mut self) -> RawFd {
        self.enter();
        if std::mem::replace(&mut self.armed, true) {
            // Woken, and there was nothing for us in it.
            let _ = rustix::io::read(&self.event, &mut [0u8; 8]);
        }
        self.ring.completion().enable_eventfd();
        // The kernel writes what it has and then looks whether we want the event; we say so and then look (`has_events`,
        // called next): one of us sees the other.
        fence(Ordering::SeqCst);
        self.event.as_raw_fd()
    }

    fn has_events(&mut self) -> bool {
        !self.hungry.is_empty() || !self.ring.completion().is_empty() || self.ring.submission().taskrun()
    }
}

impl Drop for Uring {
    /// The kernel must have let go of every buffer before they are. Closing the ring alone would cancel what is under
    /// way at some later time.
    fn drop(&mut self) {
        for attempt in 0..100 {
            self.take_completions();
            for (_, _, flags) in self.taken.drain(..) {
                if !cqueue::more(flags) {
                    self.in_flight -= 1;
                }
            }
            if self.in_flight == 0 {
                return;
            }
            let _ = self.ring.submit();
            let _ = self.ring.submitter().register_sync_cancel(None, CancelBuilder::any());
            if attempt > 10 {
                std::thread::sleep(std::time::Duration::from_millis(1));
            }
        }
        // A zero-copy send to a peer that does not read, say. What the kernel holds is never reused.
        self.sends.drain().for_each(std::mem::forget);
        self.buffers.leak();
    }
}
