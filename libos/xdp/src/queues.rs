//! Several queues of an interface as one device, for a core that has more than one of them.

use std::collections::VecDeque;
use std::os::fd::{AsRawFd, BorrowedFd, OwnedFd, RawFd};

use libos_net::{Device, Frame, Link, Received};
use pdpix::{Error, Instant, WakeOn};
use rustix::event::epoll;

use crate::OpenError;

/// Devices with the same link. What is received comes from all of them, in turn; what is sent goes out by the first.
pub struct Queues<D> {
    queues: Vec<D>,
    /// Readable when one of them is.
    any: OwnedFd,
    watched: Vec<RawFd>,
    /// Which is asked first.
    next: usize,
}

impl<D: Device> Queues<D> {
    /// These, of which there is at least one.
    ///
    /// # Errors
    /// [`OpenError::Os`]: no descriptor left.
    ///
    /// # Panics
    /// If there is none.
    pub fn new(queues: Vec<D>) -> Result<Queues<D>, OpenError> {
        assert!(!queues.is_empty(), "a device without queues");
        let any = epoll::create(epoll::CreateFlags::CLOEXEC);
        let any = any.map_err(|errno| OpenError::Os { what: "watching several queues", source: errno.into() })?;
        Ok(Queues { queues, any, watched: Vec::new(), next: 0 })
    }

    fn watch(&mut self, fd: RawFd) -> Result<(), rustix::io::Errno> {
        if self.watched.contains(&fd) {
            return Ok(());
        }
        let data = epoll::EventData::new_u64(fd as u64);
        crate::ffi::with_descriptor(fd, |fd: BorrowedFd<'_>| epoll::add(&self.any, fd, data, epoll::EventFlags::IN))?;
        self.watched.push(fd);
        Ok(())
    }
}

impl<D: Device> Device for Queues<D> {
    fn link(&self) -> Link {
        self.queues[0].link()
    }

    fn receive(&mut self, now: Instant, into: &mut VecDeque<Received>, room: usize) -> Result<(), Error> {
        let before = into.len();
        for _ in 0..self.queues.len() {
            let left = room - (into.len() - before);
            if left == 0 {
                break;
            }
            let queue = self.next;
            self.next = (self.next + 1) % self.queues.len();
            self.queues[queue].receive(now, into, left)?;
        }
        Ok(())
    }

    fn transmit(&mut self, now: Instant, frames: &mut VecDeque<Frame>) {
        self.queues[0].transmit(now, frames);
    }

    fn flush(&mut self, now: Instant) {
        self.queues.iter_mut().for_each(|queue| queue.flush(now));
    }

    fn arm(&mut self, now: Instant) -> WakeOn {
        let mut on = WakeOn::Nothing;
        for i in 0..self.queues.len() {
            match self.queues[i].arm(now) {
                WakeOn::Now => return WakeOn::Now,
                WakeOn::Nap => on = WakeOn::Nap,
                WakeOn::Nothing => {}
                WakeOn::Descriptor(fd) => match self.watch(fd) {
                    Ok(()) if on == WakeOn::Nothing => on = WakeOn::Descriptor(self.any.as_raw_fd()),
                    Ok(()) => {}
                    Err(_) => on = WakeOn::Nap,
                },
            }
        }
        on
    }

    fn deadline(&self) -> Option<Instant> {
        self.queues.iter().filter_map(Device::deadline).min()
    }

    fn in_flight(&self) -> usize {
        self.queues.iter().map(Device::in_flight).sum()
    }

    fn counters(&self) -> Vec<(&'static str, u64)> {
        let mut sums: Vec<(&'static str, u64)> = Vec::new();
        for (name, value) in self.queues.iter().flat_map(Device::counters) {
            match sums.iter_mut().find(|(known, _)| *known == name) {
                Some((_, sum)) => *sum += value,
                None => sums.push((name, value)),
            }
        }
        sums
    }
}
