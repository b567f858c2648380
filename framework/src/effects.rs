//! What one event makes its actor do, kept until the handler has returned: applied whole, or dropped whole.
//!
//! Most of it is done at once where nobody can see it before the handler has returned (a message stands in a mailbox, a
//! reply in a session's output), and noted here to be undone if the handler panics.

use std::any::Any;
use std::rc::Rc;

use libos_runtime::{Deliver, Parcel, TimerKey};
use pdpix::{Endpoint, Sga};

use crate::actor::{ActorId, AskError, BindingId, Event, Refused, ReplyTo, Ticket};
use crate::carry::Carry;
use crate::cell::AnyCell;
use crate::log::{LogAct, LogId};
use crate::session::Entry;
use crate::system::System;

/// Something to be done when the handler has returned.
pub(crate) type Act = Box<dyn FnOnce(&System)>;

/// One core has one, and uses it again for each event.
#[derive(Default)]
pub(crate) struct Effects {
    /// For other cores. Answers are never refused.
    pub(crate) remote: Vec<Remote>,
    /// Mailboxes of this core that were sent to, once a message.
    pub(crate) mail: Vec<Rc<dyn AnyCell>>,
    /// What could not be sent.
    pub(crate) refused: Vec<Refused>,
    /// Sessions that were written to. Each has a mark of how it was before.
    pub(crate) written: Vec<Rc<Entry>>,
    /// Questions that were asked.
    pub(crate) asked: Vec<Ticket>,
    /// Through which binding, to whom, what.
    pub(crate) datagrams: Vec<(BindingId, Endpoint, Sga)>,
    /// Logs to be opened, before anything is done to them.
    pub(crate) opened: Vec<Act>,
    /// To be done to logs of the actor's own, in order.
    pub(crate) logged: Vec<(LogId, Ticket, LogAct)>,
    pub(crate) timers_set: Vec<TimerKey>,
    pub(crate) timers_cancelled: Vec<TimerKey>,
    /// Answers for actors of this core.
    pub(crate) answers: Vec<Act>,
    /// Everything that is rare.
    pub(crate) control: Vec<Act>,
    /// There is more than what was written to sessions.
    pub(crate) more: bool,
}

pub(crate) struct Remote {
    pub(crate) core: u8,
    pub(crate) parcel: Parcel,
    pub(crate) unasked: bool,
}

/// A message on its way to another core.
pub(crate) struct RemoteMail<M: Carry> {
    pub(crate) to: ActorId,
    pub(crate) from: ActorId,
    /// It is a question: if it cannot be delivered, that is its answer.
    pub(crate) ticket: Option<Ticket>,
    pub(crate) carried: M::Carried,
}

/// An answer on its way to another core.
pub(crate) struct RemoteAnswer<T: Carry> {
    pub(crate) to: ReplyTo<T>,
    pub(crate) carried: Result<T::Carried, AskError>,
}

/// A message that found no room, on its way back.
struct RemoteRefusal<M: Carry> {
    to: ActorId,
    refused_by: ActorId,
    why: AskError,
    ticket: Option<Ticket>,
    carried: M::Carried,
}

/// What a parcel is delivered to when it could not be sent: it goes back to its sender, on this core.
pub(crate) struct Bounce(pub(crate) System);

/// Something that has arrived and could not land, for want of memory. Tried again in each pass, in order.
pub(crate) trait Arrival {
    /// Itself back, if there is still no memory.
    fn arrive(self: Box<Self>, system: &System) -> Option<Box<dyn Arrival>>;
}

/// Arrives now, or waits behind what waits already.
fn arrive<T: Arrival + 'static>(arrival: T, to: &dyn Any) {
    let Some(system) = to.downcast_ref::<System>() else { return };
    let waiting = system.arrivals_wait();
    let rest = if waiting { Some(Box::new(arrival) as Box<dyn Arrival>) } else { Box::new(arrival).arrive(system) };
    if let Some(rest) = rest {
        system.arrive_later(rest);
    }
}

impl<M: Carry> Deliver for RemoteMail<M> {
    fn deliver(self, to: &dyn Any) {
        if let Some(Bounce(system)) = to.downcast_ref::<Bounce>() {
            let RemoteMail { to, from, ticket, carried } = self;
            // It was made here: what was lent comes back as it was.
            match (ticket, M::land(carried, system.libos().heap())) {
                (Some(ticket), _) => system.fail_ask(from, ticket, AskError::Busy),
                (None, Ok(message)) => system.tell_refused(from, Refused::new(to, message)),
                (None, Err(_)) => system.count_lost(),
            }
            return;
        }
        arrive(self, to);
    }
}

impl<M: Carry> Arrival for RemoteMail<M> {
    fn arrive(self: Box<Self>, system: &System) -> Option<Box<dyn Arrival>> {
        let RemoteMail { to, from, ticket, carried } = *self;
        let message = match M::land(carried, system.libos().heap()) {
            Ok(message) => message,
            Err(carried) => return Some(Box::new(RemoteMail::<M> { to, from, ticket, carried })),
        };
        if let Err((message, why)) = system.deliver(to, message) {
            // Back to where it came from. Carried again, it needs no more memory than it did before; if even that
            // fails, a question is still answered.
            match message.carry() {
                Ok(carried) => {
                    let refusal = RemoteRefusal::<M> { to: from, refused_by: to, why, ticket, carried };
                    system.answer_core(from.core, Parcel::delivering(refusal));
                }
                Err(_) => system.count_lost(),
            }
        }
        None
    }
}

impl<M: Carry> Deliver for RemoteRefusal<M> {
    fn deliver(self, to: &dyn Any) {
        arrive(self, to);
    }
}

impl<M: Carry> Arrival for RemoteRefusal<M> {
    fn arrive(self: Box<Self>, system: &System) -> Option<Box<dyn Arrival>> {
        if let Some(ticket) = self.ticket {
            system.fail_ask(self.to, ticket, self.why);
            return None;
        }
        let RemoteRefusal { to, refused_by, why, ticket, carried } = *self;
        match M::land(carried, system.libos().heap()) {
            Ok(message) => system.tell_refused(to, Refused::new(refused_by, message)),
            Err(carried) => return Some(Box::new(RemoteRefusal::<M> { to, refused_by, why, ticket, carried })),
        }
        None
    }
}

impl<T: Carry> Deliver for RemoteAnswer<T> {
    fn deliver(self, to: &dyn Any) {
        arrive(self, to);
    }
}

impl<T: Carry> Arrival for RemoteAnswer<T> {
    fn arrive(self: Box<Self>, system: &System) -> Option<Box<dyn Arrival>> {
        let RemoteAnswer { to, carried } = *self;
        let result = match carried {
            Err(error) => Err(error),
            Ok(carried) => match T::land(carried, system.libos().heap()) {
                Ok(value) => Ok(value),
                Err(carried) => return Some(Box::new(RemoteAnswer { to, carried: Ok(carried) })),
            },
        };
        (to.deliver)(system, to.asker, to.ticket, result);
        None
    }
}

/// News for every core.
pub(crate) enum News {
    Up {
        name: String,
        id: ActorId,
    },
    Down {
        id: ActorId,
    },
    /// A core has no sessions left.
    Drained,
    Stop {
        code: i32,
    },
}

impl Deliver for News {
    fn deliver(self, to: &dyn Any) {
        if let Some(system) = to.downcast_ref::<System>() {
            system.on_news(self);
        }
    }
}

/// An event that every kind of actor understands.
pub(crate) enum Notice {
    Up(ActorId),
    Down(ActorId),
    Timer(u64),
    Refused(Refused),
    Stopping,
}

impl Notice {
    pub(crate) fn into_event<M>(self) -> Event<M> {
        match self {
            Notice::Up(id) => Event::Up(id),
            Notice::Down(id) => Event::Down(id),
            Notice::Timer(name) => Event::Timer(name),
            Notice::Refused(refused) => Event::Refused(refused),
            Notice::Stopping => Event::Stopping,
        }
    }
}
