//! The control path: making, naming, setting and closing queues.

use pdpix::{Endpoint, Error, Handle, Network, OptionName, Outcome, Qd, SocketKind, SocketOption};

use crate::libos::LibOs;
use crate::memory_queue::MemoryQueue;
use crate::mesh::{Attached, CoreMessage, QueueAddress};
use crate::queue::{Kind, Queue};
use crate::trace::Event;

impl LibOs {
    /// A queue of this kind on the network called `on`, or on the first one.
    ///
    /// # Errors
    /// `NotFound` (no such network, or none at all), and those of [`Network::open`].
    pub fn socket(&self, kind: SocketKind, on: Option<&str>) -> Result<Qd, Error> {
        let mut networks = self.0.networks.borrow_mut();
        let index = match on {
            Some(name) => networks.iter().position(|n| n.name == name),
            None => (!networks.is_empty()).then_some(0),
        };
        let index = index.ok_or(Error::NotFound)?;
        let handle = networks[index].network.open(kind)?;
        drop(networks);
        self.add_socket(index as u8, handle, kind)
    }

    pub(crate) fn add_socket(&self, network: u8, handle: Handle, socket: SocketKind) -> Result<Qd, Error> {
        let added = self.0.queues.borrow_mut().add(Kind::Socket { network, handle, socket });
        match added {
            Ok(qd) => self.note(Event::Open, u64::from(qd.raw()), socket as u64),
            Err(_) => self.0.networks.borrow_mut()[network as usize].network.close(handle),
        }
        added
    }

    /// A memory queue of this core: a channel. Its budget is that of [`SocketOption::SendBudget`].
    ///
    /// # Errors
    /// `TooManyQueues`.
    pub fn queue(&self) -> Result<Qd, Error> {
        self.0.queues.borrow_mut().add(Kind::Memory(Box::new(MemoryQueue::new())))
    }

    /// Where the memory queue `qd` is, to be told to other cores of this host.
    ///
    /// # Errors
    /// `BadDescriptor`, `NotSupported` (not a memory queue).
    pub fn address_of(&self, qd: Qd) -> Result<QueueAddress, Error> {
        match &self.0.queues.borrow_mut().get(qd)?.kind {
            Kind::Memory(_) => Ok(QueueAddress { core: self.core(), qd }),
            _ => Err(Error::NotSupported),
        }
    }

    /// A queue whose pushes go to the memory queue at `address`, on whichever core that is. A push is complete when it
    /// is on its way; pushes beyond `budget` wait for the other side to pop.
    ///
    /// # Errors
    /// `TooManyQueues`, `AddressNotAvailable` (no such core).
    pub fn attach(&self, address: QueueAddress, budget: usize) -> Result<Qd, Error> {
        if address.core as usize >= self.cores() {
            return Err(Error::AddressNotAvailable);
        }
        self.0.queues.borrow_mut().add(Kind::Attached(Box::new(Attached::new(address, budget))))
    }

    /// See [`Network::bind`].
    ///
    /// # Errors
    /// `BadDescriptor`, `NotSupported` (not a socket), and those of [`Network::bind`].
    pub fn bind(&self, qd: Qd, at: Endpoint) -> Result<Endpoint, Error> {
        self.on_network(qd, |network, handle| network.bind(handle, at))
    }

    /// See [`Network::listen`].
    ///
    /// # Errors
    /// As [`LibOs::bind`], with those of [`Network::listen`].
    pub fn listen(&self, qd: Qd, backlog: u32) -> Result<(), Error> {
        self.on_network(qd, |network, handle| network.listen(handle, backlog))
    }

    /// Changes a property. Of a memory queue only the send budget can be changed.
    ///
    /// # Errors
    /// As [`LibOs::bind`], with those of [`Network::set_option`].
    pub fn set_option(&self, qd: Qd, option: SocketOption) -> Result<(), Error> {
        let mut queues = self.0.queues.borrow_mut();
        if let Kind::Memory(queue) = &mut queues.get(qd)?.kind {
            let accepted = match option {
                SocketOption::SendBudget(0) => return Err(Error::InvalidArgument),
                SocketOption::SendBudget(budget) => queue.set_budget(budget),
                _ => return Err(Error::NotSupported),
            };
            drop(queues);
            self.pay_back(accepted, None);
            return Ok(());
        }
        drop(queues);
        self.on_network(qd, |network, handle| network.set_option(handle, option))
    }

    /// Asks for a property.
    ///
    /// # Errors
    /// As [`LibOs::set_option`].
    pub fn option(&self, qd: Qd, name: OptionName) -> Result<SocketOption, Error> {
        if let Kind::Memory(queue) = &self.0.queues.borrow_mut().get(qd)?.kind {
            return match name {
                OptionName::SendBudget => Ok(SocketOption::SendBudget(queue.budget())),
                _ => Err(Error::NotSupported),
            };
        }
        self.on_network(qd, |network, handle| network.option(handle, name))
    }

    /// The local endpoint.
    ///
    /// # Errors
    /// As [`LibOs::bind`], with those of [`Network::local`].
    pub fn local(&self, qd: Qd) -> Result<Endpoint, Error> {
        self.on_network(qd, |network, handle| network.local(handle))
    }

    /// The peer's endpoint.
    ///
    /// # Errors
    /// As [`LibOs::bind`], with those of [`Network::peer`].
    pub fn peer(&self, qd: Qd) -> Result<Endpoint, Error> {
        self.on_network(qd, |network, handle| network.peer(handle))
    }

    /// Ends our direction, after what was pushed: the peer's pop of length zero.
    ///
    /// # Errors
    /// `BadDescriptor`, `NotSupported`, and those of [`Network::finish`].
    pub fn finish(&self, qd: Qd) -> Result<(), Error> {
        let mut queues = self.0.queues.borrow_mut();
        match &mut queues.get(qd)?.kind {
            Kind::Memory(queue) => {
                let ends = queue.finish()?;
                drop(queues);
                ends.into_iter().for_each(|(op, end)| self.complete(op, end.map(Outcome::Popped)));
                Ok(())
            }
            Kind::Attached(_) | Kind::Log { .. } => Err(Error::NotSupported),
            &mut Kind::Socket { network, handle, .. } => {
                self.0.networks.borrow_mut()[network as usize].network.finish(handle)
            }
        }
    }

    /// Gives the queue up: what is pending ends `Canceled`, what was pushed to a socket is still sent, and what was pushed to
    /// a log is written and ends as it does.
    ///
    /// # Errors
    /// `BadDescriptor`, also for the second time.
    pub fn close(&self, qd: Qd) -> Result<(), Error> {
        let Queue { kind, returned } = self.0.queues.borrow_mut().remove(qd)?;
        self.note(Event::Close, u64::from(qd.raw()), 0);
        match kind {
            Kind::Socket { network, handle, .. } => {
                self.0.networks.borrow_mut()[network as usize].network.close(handle);
            }
            Kind::Log { storage, handle } => {
                self.0.storages.borrow_mut()[storage as usize].storage.close(handle);
            }
            Kind::Memory(queue) => {
                let (ops, attached) = queue.close();
                ops.into_iter().for_each(|op| self.complete(op, Err(Error::Canceled)));
                attached.into_iter().for_each(|from| self.tell(from.core, CoreMessage::Closed { to: from.qd }));
            }
            Kind::Attached(attached) => {
                attached.waiting.into_iter().for_each(|(op, _)| self.complete(op, Err(Error::Canceled)));
            }
        }
        if let Some(returned) = returned {
            self.close_returned(*returned);
        }
        Ok(())
    }

    fn on_network<R>(
        &self,
        qd: Qd,
        call: impl FnOnce(&mut dyn Network, Handle) -> Result<R, Error>,
    ) -> Result<R, Error> {
        let Kind::Socket { network, handle, .. } = self.0.queues.borrow_mut().get(qd)?.kind else {
            return Err(Error::NotSupported);
        };
        call(&mut *self.0.networks.borrow_mut()[network as usize].network, handle)
    }
}
