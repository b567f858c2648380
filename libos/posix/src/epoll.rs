//! Waiting by epoll, edge-triggered: each socket is registered once, when it is made.

use std::mem::MaybeUninit;
use std::os::fd::{AsFd, AsRawFd, OwnedFd, RawFd};

use pdpix::{Error, Handle, Heap};
use rustix::event::epoll::{self, CreateFlags, EventData, EventFlags};

use crate::driver::Driver;
use crate::ffi;
use crate::socket::{Socket, error};
use crate::sockets::{KernelNetwork, Table};

/// Kernel sockets, waited for by epoll.
pub type EpollNetwork = KernelNetwork<Epoll>;

/// Events taken in by one call.
const EVENTS_MAX: usize = 128;

/// Waits by epoll.
pub struct Epoll {
    epoll: OwnedFd,
}

impl KernelNetwork<Epoll> {
    /// A network with memory from `heap`.
    ///
    /// # Errors
    /// The system's: no descriptor left.
    pub fn new(heap: Heap) -> Result<EpollNetwork, Error> {
        let epoll = epoll::create(CreateFlags::CLOEXEC).map_err(error)?;
        Ok(KernelNetwork::over(Epoll { epoll }, heap))
    }
}

impl Driver for Epoll {
    /// Whether it is registered.
    type State = bool;

    fn watch(&mut self, h: Handle, socket: &mut Socket<Epoll>) -> Result<(), Error> {
        if std::mem::replace(&mut socket.driver, true) {
            return Ok(());
        }
        let events = EventFlags::IN | EventFlags::OUT | EventFlags::RDHUP | EventFlags::ET;
        epoll::add(&self.epoll, &socket.fd, EventData::new_u64(u64::from(h.0)), events).map_err(error)
    }

    #[inline]
    fn may_read(&self, _: &Socket<Epoll>) -> bool {
        true
    }

    #[inline]
    fn want_read(&mut self, _: Handle, _: &mut Socket<Epoll>) {}

    #[inline]
    fn prefers_send(&self, _: &Socket<Epoll>, _: usize) -> bool {
        false
    }

    /// Sends until the kernel says that it would block: only then does it tell when there is room. A send that takes a
    /// part may have met another limit (of segments), and leftovers of an earlier one may have met none yet.
    #[inline]
    fn want_write(&mut self, _: Handle, socket: &mut Socket<Epoll>) {
        socket.send_unsent();
    }

    #[inline]
    fn is_sending(&self, _: &Socket<Epoll>) -> bool {
        false
    }

    #[inline]
    fn is_held(&self, _: &Socket<Epoll>) -> bool {
        false
    }

    fn unwatch(&mut self, _: Handle, socket: &mut Socket<Epoll>) -> bool {
        if std::mem::take(&mut socket.driver) {
            // Closing the last descriptor would do; but a process that was forked meanwhile may hold another.
            let _ = epoll::delete(&self.epoll, &socket.fd);
        }
        true
    }

    fn poll(&mut self, table: &mut Table<Epoll>) {
        let mut events = [const { MaybeUninit::uninit() }; EVENTS_MAX];
        for event in ffi::epoll_ready(self.epoll.as_fd(), &mut events) {
            let h = Handle(event.u64 as u32);
            let Some(socket) = table.sockets.get_mut(h.0 as usize) else { continue };
            let flags = EventFlags::from_bits_retain(event.events);
            if flags.intersects(EventFlags::IN | EventFlags::RDHUP | EventFlags::HUP | EventFlags::ERR) {
                socket.readable = true;
            }
            if flags.intersects(EventFlags::RDHUP | EventFlags::HUP | EventFlags::ERR) {
                socket.hung_up = true;
            }
            if flags.intersects(EventFlags::OUT | EventFlags::HUP | EventFlags::ERR) {
                socket.writable = true;
            }
            table.make_ready_if_awaited(h);
        }
    }

    fn arm(&mut self) -> RawFd {
        self.epoll.as_raw_fd()
    }

    fn has_events(&mut self) -> bool {
        false
    }
}
