//! Copies of what the kernel gets that is our business, too: where an address is ours and the kernel's, both look for
//! neighbours, and both are told what went wrong on the way.
//!
//! A packet socket behind a filter (`margay_copies` in `bpf/steer.bpf.c`): answers of ARP and of neighbour discovery, and
//! errors of ICMP. What asks is not copied: the kernel answers for both.

use std::collections::VecDeque;
use std::os::fd::{AsRawFd, OwnedFd, RawFd};

use libos_mem::Heap;
use libos_net::{Device, Received};
use pdpix::Instant;
use rustix::event::epoll;

use crate::OpenError;
use crate::interface::Interface;
use crate::packet::{PacketSettings, PacketSocket, open_socket};

/// The packet socket, and a descriptor that wakes for it and for the AF_XDP socket beside it.
pub(crate) struct Copies {
    socket: PacketSocket,
    either: OwnedFd,
}

/// They are few.
fn settings(interface: &Interface) -> PacketSettings {
    PacketSettings { ring_slots: 64, ..PacketSettings::new(interface.name()) }
}

impl Copies {
    /// Opens the packet socket; `filter` is put before it.
    pub(crate) fn open_descriptor(
        interface: &Interface,
        filter: impl FnOnce(&OwnedFd) -> Result<(), OpenError>,
    ) -> Result<OwnedFd, OpenError> {
        open_socket(&settings(interface), interface, filter)
    }

    /// Over that descriptor, beside `xsk`.
    pub(crate) fn over(fd: OwnedFd, xsk: &OwnedFd, interface: &Interface, heap: Heap) -> Result<Copies, OpenError> {
        let failed = |errno: rustix::io::Errno| OpenError::Os { what: "waiting for two sockets", source: errno.into() };
        let either = epoll::create(epoll::CreateFlags::CLOEXEC).map_err(failed)?;
        for fd in [&fd, xsk] {
            epoll::add(&either, fd, epoll::EventData::new_u64(0), epoll::EventFlags::IN).map_err(failed)?;
        }
        Ok(Copies { socket: PacketSocket::over(fd, settings(interface), heap)?, either })
    }

    /// Appends what there is. That the interface has gone is told by the socket beside it.
    pub(crate) fn receive(&mut self, now: Instant, into: &mut VecDeque<Received>, room: usize) {
        let _ = self.socket.receive(now, into, room);
    }

    pub(crate) fn wakes_on(&self) -> RawFd {
        self.either.as_raw_fd()
    }
}
