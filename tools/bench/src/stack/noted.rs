//! A stack as the network of a core, which notes when it is polled.

use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::time::Duration;

use libos_net::NetNetwork;
use pdpix::{Completions, Endpoint, Error, Handle, Instant, Network, Op, OpId, SocketKind, Submitted, Wake};

/// When a core began to poll its network, and when the first coroutine ran after that: all that were to be woken are then.
#[derive(Default)]
pub(super) struct Span {
    begun: Cell<Option<std::time::Instant>>,
    pub(super) taken: Cell<Duration>,
}

impl Span {
    pub(super) fn begin(&self) {
        self.begun.set(Some(std::time::Instant::now()));
    }

    pub(super) fn end(&self) {
        if let Some(begun) = self.begun.take() {
            self.taken.set(self.taken.get() + begun.elapsed());
        }
    }
}

/// The stack as a core's network, which notes when it is polled.
pub(super) struct Noted {
    pub(super) net: Rc<RefCell<NetNetwork>>,
    pub(super) span: Rc<Span>,
}

impl Network for Noted {
    fn open(&mut self, kind: SocketKind) -> Result<Handle, Error> {
        self.net.borrow_mut().open(kind)
    }

    fn set_option(&mut self, h: Handle, option: pdpix::SocketOption) -> Result<(), Error> {
        self.net.borrow_mut().set_option(h, option)
    }

    fn option(&self, h: Handle, name: pdpix::OptionName) -> Result<pdpix::SocketOption, Error> {
        self.net.borrow().option(h, name)
    }

    fn bind(&mut self, h: Handle, at: Endpoint) -> Result<Endpoint, Error> {
        self.net.borrow_mut().bind(h, at)
    }

    fn listen(&mut self, h: Handle, backlog: u32) -> Result<(), Error> {
        self.net.borrow_mut().listen(h, backlog)
    }

    fn local(&self, h: Handle) -> Result<Endpoint, Error> {
        self.net.borrow().local(h)
    }

    fn peer(&self, h: Handle) -> Result<Endpoint, Error> {
        self.net.borrow().peer(h)
    }

    fn submit(&mut self, h: Handle, op: OpId, what: Op) -> Result<Submitted, Error> {
        self.net.borrow_mut().submit(h, op, what)
    }

    fn cancel(&mut self, h: Handle, op: OpId) {
        self.net.borrow_mut().cancel(h, op);
    }

    fn finish(&mut self, h: Handle) -> Result<(), Error> {
        self.net.borrow_mut().finish(h)
    }

    fn close(&mut self, h: Handle) {
        self.net.borrow_mut().close(h);
    }

    fn poll(&mut self, now: Instant, done: &mut Completions) {
        self.span.begin();
        self.net.borrow_mut().poll(now, done);
    }

    fn flush(&mut self, now: Instant) {
        self.net.borrow_mut().flush(now);
    }

    fn arm(&mut self, now: Instant) -> Wake {
        self.net.borrow_mut().arm(now)
    }

    fn zombies(&self) -> usize {
        self.net.borrow().zombies()
    }
}
