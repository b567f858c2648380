//! What passes between the cores of a host: values of the application's, and the elements of attached queues.

use pdpix::{Error, Outcome, Qd};

use crate::counters::count;
use crate::libos::{CoreReceiver, LibOs};
use crate::memory_queue::Taken;
use crate::mesh::{CoreMessage, QueueAddress};
use crate::parcel::Parcel;
use crate::queue::{Kind, Queue};
use crate::trace::Event;

impl LibOs {
    /// Sends a value to another core of this host. It arrives in order.
    ///
    /// # Errors
    /// The value back: too much is under way to that core, or there is no such core.
    #[inline]
    pub fn send_core<T: Send + 'static>(&self, to: u8, value: T) -> Result<(), T> {
        let sent = self.0.ports.borrow_mut().send(to, Parcel::new(value));
        match sent {
            Ok(()) => {
                count(&self.0.counters.core_sends);
                self.note(Event::CoreSend, u64::from(to), 0);
                Ok(())
            }
            Err(parcel) => Err(parcel.take().unwrap_or_else(|_| unreachable!("the value that was put in"))),
        }
    }

    /// Sends a value that delivers itself, as [`LibOs::send_core`] does; `unasked` is false for an answer, which is never
    /// refused.
    ///
    /// # Errors
    /// The parcel back, as in [`LibOs::send_core`].
    #[inline]
    pub fn send_parcel(&self, to: u8, parcel: Parcel, unasked: bool) -> Result<(), Parcel> {
        count(&self.0.counters.core_sends);
        self.note(Event::CoreSend, u64::from(to), u64::from(!unasked));
        let mut ports = self.0.ports.borrow_mut();
        if unasked {
            return ports.send(to, parcel);
        }
        ports.answer(to, parcel);
        Ok(())
    }

    /// Sends an answer to another core: what it has asked for, and made room for by bounding its questions. Never refused.
    #[inline]
    pub fn answer_core<T: Send + 'static>(&self, to: u8, value: T) {
        count(&self.0.counters.core_sends);
        self.note(Event::CoreSend, u64::from(to), 1);
        self.0.ports.borrow_mut().answer(to, Parcel::new(value));
    }

    /// Sets what receives messages of other cores. It runs on this core, between passes, and may call everything.
    pub fn on_core_message(&self, receiver: CoreReceiver) {
        *self.0.receiver.borrow_mut() = Some(receiver);
    }

    /// Messages of other cores: what is the runtime's own is done, the rest goes to the receiver.
    #[cold]
    pub(crate) fn take_core_messages(&self, burst: usize) -> usize {
        let cores = self.0.cores;
        let mut taken = 0;
        for from in 0..cores {
            let mut from_this = 0;
            while from_this < burst {
                let Some(parcel) = self.0.ports.borrow_mut().receive(from) else { break };
                from_this += 1;
                match parcel.take::<CoreMessage>() {
                    Ok(message) => self.on_own_core_message(message),
                    Err(parcel) => {
                        // Taken out while it runs, as it may call `on_core_message`.
                        let receiver = self.0.receiver.borrow_mut().take();
                        if let Some(mut receiver) = receiver {
                            receiver(from as u8, parcel);
                            self.0.receiver.borrow_mut().get_or_insert(receiver);
                        }
                    }
                }
            }
            if from_this > 0 {
                self.note(Event::CoreReceive, from as u64, from_this as u64);
                crate::counters::count_many(&self.0.counters.core_receives, from_this);
            }
            taken += from_this;
        }
        taken
    }

    /// An answer of the runtime's own. There is no ring from a core to itself.
    pub(crate) fn tell(&self, core: u8, message: CoreMessage) {
        if core == self.core() {
            self.on_own_core_message(message);
        } else {
            self.answer_core(core, message);
        }
    }

    fn on_own_core_message(&self, message: CoreMessage) {
        match message {
            CoreMessage::Push { to, from, carried } => {
                let mut queues = self.0.queues.borrow_mut();
                let Ok(Queue { kind: Kind::Memory(memory), .. }) = queues.get(to) else {
                    drop(queues);
                    return self.tell(from.core, CoreMessage::Closed { to: from.qd });
                };
                let heap = &self.0.heap;
                let pushed = memory.push_carried(carried, from, heap);
                let waited = pushed.map(|pop| pop.map(|(op, len_max)| (op, memory.take(len_max, heap))));
                drop(queues);
                match waited {
                    Ok(None) => {}
                    Ok(Some((op, Ok(Some(Taken { popped, credit, .. }))))) => {
                        self.complete(op, Ok(Outcome::Popped(popped)));
                        self.pay_back(Vec::new(), credit);
                    }
                    Ok(Some((_, Ok(None)))) => unreachable!("an element was just added"),
                    Ok(Some((op, Err(error)))) => self.complete(op, Err(error)),
                    Err(_) => self.tell(from.core, CoreMessage::Closed { to: from.qd }),
                }
            }
            CoreMessage::Credit { to, cost } => {
                if let Ok(Queue { kind: Kind::Attached(attached), .. }) = self.0.queues.borrow_mut().get(to) {
                    attached.credit += cost as isize;
                }
                self.send_attached(to);
            }
            CoreMessage::Closed { to } => {
                let mut queues = self.0.queues.borrow_mut();
                let Ok(Queue { kind: Kind::Attached(attached), .. }) = queues.get(to) else { return };
                attached.closed = true;
                let waiting = std::mem::take(&mut attached.waiting);
                drop(queues);
                waiting.into_iter().for_each(|(op, _)| self.complete(op, Err(Error::BrokenPipe)));
            }
        }
    }

    /// Sends what waits in an attached queue, as far as credit and ring allow.
    pub(crate) fn send_attached(&self, qd: Qd) {
        loop {
            let mut queues = self.0.queues.borrow_mut();
            let Ok(Queue { kind: Kind::Attached(attached), .. }) = queues.get(qd) else { return };
            if !attached.can_pay() {
                return;
            }
            let Some((op, carried)) = attached.waiting.pop_front() else { return };
            let (len, to) = (carried.len(), attached.to);
            let from = QueueAddress { core: self.core(), qd };
            if to.core == self.core() {
                attached.pay(len);
                drop(queues);
                self.on_own_core_message(CoreMessage::Push { to: to.qd, from, carried });
            } else {
                match self.send_core(to.core, CoreMessage::Push { to: to.qd, from, carried }) {
                    Ok(()) => attached.pay(len),
                    Err(CoreMessage::Push { carried, .. }) => {
                        attached.waiting.push_front((op, carried));
                        return self.0.stalled.borrow_mut().push(qd);
                    }
                    Err(_) => unreachable!("the message that was put in"),
                }
                drop(queues);
            }
            self.complete(op, Ok(Outcome::Pushed));
        }
    }

    /// Tries again what found a ring full.
    pub(crate) fn retry_stalled(&self) {
        let stalled = std::mem::take(&mut *self.0.stalled.borrow_mut());
        stalled.into_iter().for_each(|qd| self.send_attached(qd));
    }
}
