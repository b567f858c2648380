//! Bindings to queues of messages: datagrams, and memory queues. Each message that is popped goes to the actor.
//!
//! A datagram that the device does not take at once waits; beyond `WAITING_MAX` the newest is dropped and counted, as
//! anywhere on its way.

use std::cell::RefCell;
use std::future::Future;
use std::pin::Pin;
use std::rc::Rc;
use std::time::Duration;

use libos_runtime::{LibOs, Redeem};
use pdpix::{Endpoint, Error, Qd, Sga, SocketKind, SocketOption};

use crate::actor::{Actor, ActorId, Address, BindingId, Event};
use crate::cell::{ActorCell, AnyCell};
use crate::system::System;
use crate::turn::Turn;

/// How a datagram binding behaves.
#[derive(Clone, Debug)]
pub struct DatagramSettings {
    /// The network that it is on; `None`: the first one.
    pub network: Option<String>,
    /// The longest datagram that is taken whole.
    pub len_max: usize,
    /// Several cores bind the same endpoint.
    pub shared: bool,
}

impl Default for DatagramSettings {
    fn default() -> DatagramSettings {
        DatagramSettings { network: None, len_max: 65_535, shared: false }
    }
}

/// A datagram that has come.
#[derive(Debug)]
pub struct Datagram {
    /// Through which binding.
    pub binding: BindingId,
    /// From whom.
    pub from: Endpoint,
    /// What.
    pub data: Sga,
    /// It was longer than is taken.
    pub cut: bool,
}

/// Datagrams that may wait for the device.
const WAITING_MAX: usize = 1024;

/// A datagram binding, as its actor and its coroutine share it.
pub(crate) struct Port {
    pub(crate) id: BindingId,
    pub(crate) owner: ActorId,
    qd: Qd,
    waiting: RefCell<Vec<Redeem>>,
}

impl Port {
    /// Sends, or drops.
    pub(crate) fn send(&self, system: &System, to: Endpoint, data: Sga) {
        let libos = system.libos();
        let sent = libos.push_to(self.qd, data, to).and_then(|qt| Ok((qt, libos.try_redeem(qt)?)));
        match sent {
            Ok((_, Some(_))) => {} // what became of it, nobody promised
            Ok((qt, None)) if self.waiting.borrow().len() < WAITING_MAX => {
                self.waiting.borrow_mut().push(libos.redeem(qt));
                system.wake_port(self.id);
            }
            Ok((qt, None)) => {
                drop(libos.redeem(qt));
                system.count_lost();
            }
            Err(_) => system.count_lost(),
        }
    }
}

/// Binds a datagram queue for an actor.
pub(crate) fn bind<A: Actor>(
    system: &System,
    cell: Rc<ActorCell<A>>,
    id: BindingId,
    at: Endpoint,
    settings: DatagramSettings,
    wrap: fn(Datagram) -> A::Message,
) {
    let bound = open(system.libos(), at, &settings);
    let (qd, at) = match bound {
        Ok(bound) => bound,
        Err(error) => return cell.dispatch(system, Event::ListenFailed { binding: id, error }),
    };
    let port = Rc::new(Port { id, owner: cell.id(), qd, waiting: RefCell::default() });
    let (theirs, pumped, owner) = (system.clone(), cell.clone(), port.clone());
    let pump = system.libos().spawn(async move {
        let _closed_with_us = Unbind { system: theirs.clone(), port: owner.clone() };
        theirs.add_port(owner.clone(), theirs.libos().running());
        let (mut pop, mut turn) = (None::<Redeem>, Turn::default());
        loop {
            if pop.is_none() {
                match theirs.libos().pop(owner.qd, settings.len_max) {
                    Ok(qt) => pop = Some(theirs.libos().redeem(qt)),
                    Err(_) => theirs.libos().sleep(Duration::from_millis(1)).await, // no memory, no token
                }
            }
            let Some(popping) = pop.as_mut() else { continue };
            let popped = std::future::poll_fn(|cx| {
                // Those that the device has taken by now are done with.
                owner.waiting.borrow_mut().retain_mut(|waiting| Pin::new(waiting).poll(cx).is_pending());
                Pin::new(&mut *popping).poll(cx)
            });
            let popped = popped.await.and_then(|completion| completion.popped());
            pop = None;
            match popped {
                Ok(popped) => {
                    let Some(from) = popped.from else { continue };
                    let datagram = Datagram { binding: owner.id, from, data: popped.sga, cut: popped.cut };
                    pumped.dispatch(&theirs, Event::Message(wrap(datagram)));
                    if turn.is_over() {
                        theirs.libos().yield_now().await;
                    }
                }
                Err(Error::Canceled | Error::BadDescriptor) => return,
                Err(_) => theirs.count_lost(), // what an earlier datagram came to
            }
        }
    });
    cell.bindings().borrow_mut().push((id, pump));
    cell.dispatch(system, Event::Listening { binding: id, at });
}

fn open(libos: &LibOs, at: Endpoint, settings: &DatagramSettings) -> Result<(Qd, Endpoint), Error> {
    let qd = libos.socket(SocketKind::Datagram, settings.network.as_deref())?;
    let bound = libos.set_option(qd, SocketOption::Shared(settings.shared)).and_then(|()| libos.bind(qd, at));
    if bound.is_err() {
        let _ = libos.close(qd);
    }
    Ok((qd, bound?))
}

struct Unbind {
    system: System,
    port: Rc<Port>,
}

impl Drop for Unbind {
    fn drop(&mut self) {
        self.system.remove_port(self.port.id);
        self.port.waiting.borrow_mut().clear();
        let _ = self.system.libos().close(self.port.qd);
    }
}

impl System {
    /// Ties a memory queue of this core to an actor of it: each element becomes a message, until the queue is closed or
    /// ended, or the actor is gone.
    pub fn bind_queue<A: Actor>(&self, to: Address<A>, qd: Qd, wrap: fn(Sga) -> A::Message) {
        let system = self.clone();
        self.libos().spawn(async move {
            let mut turn = Turn::default();
            loop {
                let popped = match system.libos().pop(qd, usize::MAX) {
                    Ok(qt) => system.libos().redeem(qt).await.and_then(|completion| completion.popped()),
                    Err(error) => Err(error),
                };
                match popped {
                    Ok(popped) if popped.sga.is_empty() => return,
                    Ok(popped) => {
                        let Some(cell) = system.typed_cell::<A>(to.id()) else { return };
                        cell.dispatch(&system, Event::Message(wrap(popped.sga)));
                        if turn.is_over() {
                            system.libos().yield_now().await;
                        }
                    }
                    Err(Error::NoBuffers) => system.libos().sleep(Duration::from_millis(1)).await,
                    Err(_) => return,
                }
            }
        });
    }
}
