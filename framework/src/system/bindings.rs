//! The logs and datagram queues that actors of a core are bound to.

use std::rc::Rc;

use libos_runtime::CoroutineId;
use pdpix::{Endpoint, Sga};

use crate::actor::{ActorId, BindingId, Ticket};
use crate::log::{Log, LogId};
use crate::message_queue::Port;
use crate::system::System;

impl System {
    pub(crate) fn add_log(&self, log: Rc<Log>) {
        self.0.logs.borrow_mut().push(log);
    }

    pub(crate) fn remove_log(&self, id: LogId) {
        self.0.logs.borrow_mut().retain(|log| log.id != id);
    }

    /// Whether there are logs, and whether something was appended to one that is not known to be durable.
    pub(crate) fn logs_state(&self) -> (bool, bool) {
        let logs = self.0.logs.borrow();
        (!logs.is_empty(), logs.iter().any(|log| log.is_appending()))
    }

    pub(crate) fn log(&self, id: LogId) -> Option<Rc<Log>> {
        self.0.logs.borrow().iter().find(|log| log.id == id).cloned()
    }

    /// Of another kind than those of questions.
    #[inline]
    pub(crate) fn new_log_ticket(&self) -> Ticket {
        let number = self.0.log_tickets.get() + 1;
        self.0.log_tickets.set(number);
        Ticket(1 << 63 | number)
    }

    pub(crate) fn add_port(&self, port: Rc<Port>, pump: Option<CoroutineId>) {
        self.0.ports.borrow_mut().push((port, pump));
    }

    pub(crate) fn remove_port(&self, id: BindingId) {
        self.0.ports.borrow_mut().retain(|(port, _)| port.id != id);
    }

    /// Its pump looks at what waits for the device.
    pub(crate) fn wake_port(&self, id: BindingId) {
        let pump = self.0.ports.borrow().iter().find(|(port, _)| port.id == id).and_then(|(_, pump)| *pump);
        pump.into_iter().for_each(|pump| self.libos().wake(pump));
    }

    /// Sends a datagram through a binding of `owner`'s.
    pub(crate) fn send_datagram(&self, owner: ActorId, id: BindingId, to: Endpoint, data: Sga) {
        let port = self.0.ports.borrow().iter().find(|(port, _)| port.id == id).map(|(port, _)| port.clone());
        match port.filter(|port| port.owner == owner) {
            Some(port) => port.send(self, to, data),
            None => self.count_lost(),
        }
    }
}
