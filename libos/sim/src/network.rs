//! The network of one simulated core: [`Network`] over the fabric that all cores of a world share.

use std::cell::{RefCell, RefMut};
use std::rc::Rc;

use pdpix::{
    Completions, Endpoint, Error, Handle, Instant, Network, Op, OpId, OptionName, SocketKind, SocketOption, Submitted,
    Wake, WakeOn,
};

use crate::fabric::Fabric;

/// A core's view of the world's network. Streams and datagrams over IPv4 and IPv6; no messages (RDMA).
pub struct SimNetwork {
    fabric: Rc<RefCell<Fabric>>,
    core: usize,
    incarnation: u64,
}

impl SimNetwork {
    pub(crate) fn new(fabric: Rc<RefCell<Fabric>>, core: usize, incarnation: u64) -> SimNetwork {
        SimNetwork { fabric, core, incarnation }
    }

    /// The fabric, unless this core's host has crashed: then whatever is still called while it goes down does nothing.
    fn running(&self) -> Result<RefMut<'_, Fabric>, Error> {
        let fabric = self.fabric.borrow_mut();
        if fabric.is_running(self.core, self.incarnation) { Ok(fabric) } else { Err(Error::NetworkDown) }
    }
}

impl Network for SimNetwork {
    fn open(&mut self, kind: SocketKind) -> Result<Handle, Error> {
        self.running()?.open(self.core, kind)
    }

    fn set_option(&mut self, h: Handle, option: SocketOption) -> Result<(), Error> {
        self.running()?.set_option(self.core, h, option)
    }

    fn option(&self, h: Handle, name: OptionName) -> Result<SocketOption, Error> {
        self.running()?.option(self.core, h, name)
    }

    fn bind(&mut self, h: Handle, at: Endpoint) -> Result<Endpoint, Error> {
        self.running()?.bind(self.core, h, at)
    }

    fn listen(&mut self, h: Handle, backlog: u32) -> Result<(), Error> {
        self.running()?.listen(self.core, h, backlog)
    }

    fn local(&self, h: Handle) -> Result<Endpoint, Error> {
        self.running()?.local(self.core, h)
    }

    fn peer(&self, h: Handle) -> Result<Endpoint, Error> {
        self.running()?.peer(self.core, h)
    }

    fn submit(&mut self, h: Handle, op: OpId, what: Op) -> Result<Submitted, Error> {
        self.running()?.submit(self.core, h, op, what)
    }

    fn cancel(&mut self, h: Handle, op: OpId) {
        if let Ok(mut fabric) = self.running() {
            fabric.cancel(self.core, h, op);
        }
    }

    fn finish(&mut self, h: Handle) -> Result<(), Error> {
        self.running()?.finish(self.core, h)
    }

    fn close(&mut self, h: Handle) {
        if let Ok(mut fabric) = self.running() {
            let id = fabric.at(self.core, h).id;
            fabric.close(id);
        }
    }

    fn poll(&mut self, _: Instant, done: &mut Completions) {
        let Ok(mut fabric) = self.running() else { return };
        while done.room() > 0
            && let Some((op, result)) = fabric.next_end(self.core)
        {
            done.push(op, result);
        }
    }

    fn flush(&mut self, _: Instant) {}

    fn arm(&mut self, _: Instant) -> Wake {
        let has_ends = self.running().is_ok_and(|fabric| fabric.has_ends(self.core));
        Wake { deadline: None, on: if has_ends { WakeOn::Now } else { WakeOn::Nothing } }
    }

    fn zombies(&self) -> usize {
        self.running().map_or(0, |fabric| fabric.zombies(self.core))
    }
}

impl Drop for SimNetwork {
    /// The core's process has ended: its system closes what is left.
    fn drop(&mut self) {
        if let Ok(mut fabric) = self.running() {
            fabric.end_core(self.core);
        }
    }
}
