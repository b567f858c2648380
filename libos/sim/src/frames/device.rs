//! What a core has of an interface, as a [`Device`].

use std::cell::{RefCell, RefMut};
use std::collections::VecDeque;
use std::rc::Rc;

use libos_mem::Heap;
use libos_net::{Device, Frame, Link, Received};
use pdpix::{Error, Instant, WakeOn};

use super::{Event, FrameNet};

/// A core's end of its host's interface. The network has a time of its own, the world's; that of the calls is not used.
///
/// It is dropped when the process of its core ends; what it was given is still sent. When its host crashes, it is dead.
pub struct SimDevice {
    net: Rc<RefCell<FrameNet>>,
    port: usize,
    queue: usize,
    incarnation: u64,
}

impl SimDevice {
    /// The end of one core, whose memory is received into.
    pub(crate) fn new(net: &Rc<RefCell<FrameNet>>, port: usize, queue: usize, heap: Heap) -> SimDevice {
        let incarnation = net.borrow_mut().ports[port].start(queue, heap);
        SimDevice { net: net.clone(), port, queue, incarnation }
    }

    /// The network, unless this core's host has crashed: then whatever is still called while it goes down does nothing.
    fn running(&self) -> Option<RefMut<'_, FrameNet>> {
        let net = self.net.borrow_mut();
        net.ports[self.port].is_running(self.queue, self.incarnation).then_some(net)
    }
}

impl Device for SimDevice {
    fn link(&self) -> Link {
        self.net.borrow().ports[self.port].link()
    }

    fn receive(&mut self, _: Instant, into: &mut VecDeque<Received>, room: usize) -> Result<(), Error> {
        let Some(mut net) = self.running() else { return Ok(()) };
        let port = &mut net.ports[self.port];
        port.receive(self.queue, into, room);
        if port.take_news(self.queue) { Err(Error::NetworkDown) } else { Ok(()) }
    }

    fn transmit(&mut self, _: Instant, frames: &mut VecDeque<Frame>) {
        let Some(mut net) = self.running() else { return frames.clear() };
        let net = &mut *net;
        if let Some(read) = net.ports[self.port].transmit(net.now, self.queue, frames, &mut net.rng) {
            net.schedule(read, Event::Read(self.port));
        }
    }

    fn flush(&mut self, _: Instant) {}

    fn arm(&mut self, _: Instant) -> WakeOn {
        let has_arrived = self.running().is_some_and(|net| net.ports[self.port].has_arrived(self.queue));
        if has_arrived { WakeOn::Now } else { WakeOn::Nothing }
    }

    fn in_flight(&self) -> usize {
        self.running().map_or(0, |net| net.ports[self.port].unread())
    }

    fn counters(&self) -> Vec<(&'static str, u64)> {
        self.net.borrow().ports[self.port].counters.named().to_vec()
    }
}

impl Drop for SimDevice {
    fn drop(&mut self) {
        if let Some(mut net) = self.running() {
            net.ports[self.port].stop(self.queue);
        }
    }
}
