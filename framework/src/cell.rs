//! An actor in its place: the value, its mailbox, its open questions, its bindings; and what happens when it panics.
//!
//! Always: events are handled one at a time. What comes from a session or another core is handled at once, after what
//! waits in the mailbox: so a flood from outside cannot fill it. What comes from another actor of the core waits there
//! until that one's handler has returned. Bounds: `MAILBOX_MAX` messages, `ASKS_MAX` open questions (whose answers always
//! fit).

use std::any::Any;
use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::rc::Rc;

use libos_runtime::{Coroutine, TimerKey};
use pdpix::Rng;
use slab::Slab;

use crate::actor::{Actor, ActorId, Answer, AskError, BindingId, Event, Ticket};
use crate::effects::{Effects, Notice};
use crate::log::LogId;
use crate::outbox::{Ground, Outbox};
use crate::session::SessionId;
use crate::supervise::{Policy, Record};
use crate::system::System;

/// Messages that wait for an actor. Beyond that they are refused.
pub(crate) const MAILBOX_MAX: usize = 1024;
/// Questions of one actor that are not answered yet.
pub(crate) const ASKS_MAX: usize = 4096;

/// A question that is not answered yet.
pub(crate) struct Ask {
    generation: u32,
    /// Whom it was put to: if that one dies, this is answered.
    pub(crate) to: ActorId,
    pub(crate) timer: Option<TimerKey>,
    /// Answers it with an error.
    pub(crate) fail: fn(&System, ActorId, Ticket, AskError),
}

/// What an event is handled with.
struct Living<A> {
    /// The present incarnation.
    actor: Option<A>,
    /// Its chance, which goes on with the next one.
    rng: Rng,
}

/// An actor in its place.
pub(crate) struct ActorCell<A: Actor> {
    id: Cell<ActorId>,
    pub(crate) name: Option<String>,
    policy: Policy,
    living: RefCell<Living<A>>,
    factory: RefCell<Box<dyn FnMut() -> A>>,
    mailbox: RefCell<VecDeque<Event<A::Message>>>,
    /// It stands in the list of those with mail.
    queued: Cell<bool>,
    asks: RefCell<Slab<Ask>>,
    asks_asked: Cell<u32>,
    record: RefCell<Record>,
    sessions: RefCell<Vec<SessionId>>,
    bindings: RefCell<Vec<(BindingId, Coroutine<()>)>>,
    /// Unlike those, they go on while the service is being stopped: what is to be durable is answered.
    logs: RefCell<Vec<(LogId, [Coroutine<()>; 2])>>,
    /// What it wants of its logs and was not told the end of: its sessions may still be answered.
    pub(crate) logging: Cell<usize>,
}

/// What the system does with cells of any kind.
pub(crate) trait AnyCell {
    /// To be looked at as what it is.
    fn into_any(self: Rc<Self>) -> Rc<dyn Any>;
    /// A message from elsewhere: `message` is an `Option` of what this actor understands, and is taken out of it.
    ///
    /// # Errors
    /// The mailbox is full, or this actor understands nothing of the kind.
    fn deliver(self: Rc<Self>, system: &System, message: &mut dyn Any) -> Result<(), AskError>;
    fn id(&self) -> ActorId;
    fn name(&self) -> Option<&str>;
    fn policy(&self) -> Policy;
    /// Handles up to `count` events of the mailbox. Whether some are left.
    fn run(self: Rc<Self>, system: &System, count: usize) -> bool;
    /// Puts an event at the end of the mailbox, which has always room for it.
    fn notice(&self, notice: Notice);
    /// Takes back the last message that was sent to it.
    fn unsend(&self);
    /// Marks it as standing in the list of those with mail. Whether it already was.
    fn set_queued(&self, queued: bool) -> bool;
    /// Makes a new incarnation.
    fn start(self: Rc<Self>, system: &System, id: ActorId);
    /// The incarnation is over. Everything that it had is given up; how many messages were lost.
    fn end(&self, system: &System) -> usize;
    /// Whether there is an incarnation.
    fn is_alive(&self) -> bool;
    /// Someone died: questions put to it are answered.
    fn fail_asks_to(&self, system: &System, dead: ActorId);
    /// Answers one of its own questions with an error.
    fn fail_ask(&self, system: &System, ticket: Ticket, why: AskError);
    fn record(&self) -> &RefCell<Record>;
    fn forget_session(&self, session: SessionId);
    /// What pops its listeners and datagram bindings.
    fn bindings(&self) -> &RefCell<Vec<(BindingId, Coroutine<()>)>>;
}

impl<A: Actor> ActorCell<A> {
    pub(crate) fn new(
        id: ActorId,
        name: Option<String>,
        policy: Policy,
        factory: Box<dyn FnMut() -> A>,
        rng: Rng,
    ) -> ActorCell<A> {
        ActorCell {
            id: Cell::new(id),
            name,
            policy,
            living: RefCell::new(Living { actor: None, rng }),
            factory: RefCell::new(factory),
            mailbox: RefCell::default(),
            queued: Cell::new(false),
            asks: RefCell::default(),
            asks_asked: Cell::new(0),
            record: RefCell::default(),
            sessions: RefCell::default(),
            bindings: RefCell::default(),
            logs: RefCell::default(),
            logging: Cell::new(0),
        }
    }

    /// Something for it that always has room: handled now, after what waits in the mailbox. While another event is just
    /// being worked off, it goes there itself.
    #[inline]
    pub(crate) fn dispatch(self: &Rc<Self>, system: &System, event: Event<A::Message>) {
        if system.is_handling() {
            self.mailbox.borrow_mut().push_back(event);
            return system.enqueue(self.clone());
        }
        if self.has_mail() {
            self.catch_up(system);
        }
        self.handle(system, event);
    }

    /// Handles what waits now. What that makes it tell itself waits for its turn.
    #[cold]
    fn catch_up(self: &Rc<Self>, system: &System) {
        let waiting = self.mailbox.borrow().len();
        for _ in 0..waiting {
            let Some(event) = self.mailbox.borrow_mut().pop_front() else { return };
            self.handle(system, event);
        }
    }

    /// Whether something may still come to it by itself: what it has asked its logs for.
    pub(crate) fn expects(&self) -> bool {
        self.logging.get() > 0 || self.has_mail()
    }

    /// Whether something waits to be handled.
    pub(crate) fn has_mail(&self) -> bool {
        !self.mailbox.borrow().is_empty()
    }

    /// A message of another actor of this core.
    ///
    /// # Errors
    /// The message back: the mailbox is full.
    pub(crate) fn send(&self, message: A::Message) -> Result<(), A::Message> {
        let mut mailbox = self.mailbox.borrow_mut();
        if mailbox.len() >= MAILBOX_MAX {
            return Err(message);
        }
        mailbox.push_back(Event::Message(message));
        Ok(())
    }

    /// Runs the handler. What it wanted done is done when it has returned; nothing of it, if it panicked.
    #[inline]
    fn handle(self: &Rc<Self>, system: &System, event: Event<A::Message>) {
        let mut effects = system.take_effects();
        let returned = {
            let Living { actor, rng } = &mut *self.living.borrow_mut();
            let Some(actor) = actor else {
                system.count_lost();
                return system.put_effects(effects);
            };
            let ground = Ground::System { system, cell: self };
            let mut out = Outbox::new(self.id.get(), system.libos().now(), &mut effects, rng, ground);
            catch_unwind(AssertUnwindSafe(|| actor.handle(event, &mut out)))
        };
        system.count_handled();
        match returned {
            Ok(()) => {
                system.apply(self.id.get(), &mut effects);
                if !effects.logged.is_empty() {
                    let acts = effects.logged.drain(..);
                    acts.for_each(|(log, ticket, what)| system.act_on_log(self, log, ticket, what));
                }
                system.put_effects(effects);
            }
            Err(_) => {
                self.undo(system, &mut effects);
                system.put_effects(effects);
                system.on_panic(self.clone());
            }
        }
    }

    #[cold]
    fn undo(&self, system: &System, effects: &mut Effects) {
        for ticket in effects.asked.drain(..) {
            self.close_ask(system, ticket);
        }
        system.undo(effects);
    }

    /// Opens a question. `None`: too many are open.
    pub(crate) fn open_ask(
        &self,
        to: ActorId,
        timer: Option<TimerKey>,
        fail: fn(&System, ActorId, Ticket, AskError),
    ) -> Option<Ticket> {
        let mut asks = self.asks.borrow_mut();
        if asks.len() >= ASKS_MAX {
            return None;
        }
        let generation = self.asks_asked.get();
        self.asks_asked.set(generation.wrapping_add(1));
        let index = asks.insert(Ask { generation, to, timer, fail });
        Some(Ticket(u64::from(generation) << 32 | index as u64))
    }

    pub(crate) fn set_ask_timer(&self, ticket: Ticket, timer: TimerKey) {
        if let Some(ask) = self.asks.borrow_mut().get_mut(ticket.0 as u32 as usize) {
            ask.timer = Some(timer);
        }
    }

    /// The question is answered, or will not be. `None`: it was before.
    fn close_ask(&self, system: &System, ticket: Ticket) -> Option<Ask> {
        let mut asks = self.asks.borrow_mut();
        let (index, generation) = (ticket.0 as u32 as usize, (ticket.0 >> 32) as u32);
        if asks.get(index).is_none_or(|ask| ask.generation != generation) {
            return None;
        }
        let ask = asks.remove(index);
        if let Some(timer) = ask.timer {
            system.cancel_timer(timer);
        }
        Some(ask)
    }

    /// An answer has come.
    pub(crate) fn answered<T>(self: &Rc<Self>, system: &System, ticket: Ticket, result: Result<T, AskError>)
    where
        A::Message: From<Answer<T>>,
    {
        if self.close_ask(system, ticket).is_some() {
            self.dispatch(system, Event::Message(Answer { ticket, result }.into()));
        } else {
            system.count_lost(); // too late
        }
    }

    /// A question that was never opened is answered.
    pub(crate) fn refused<T>(self: &Rc<Self>, system: &System, ticket: Ticket)
    where
        A::Message: From<Answer<T>>,
    {
        self.dispatch(system, Event::Message(Answer { ticket, result: Err(AskError::Busy) }.into()));
    }

    pub(crate) fn unbind(&self, binding: BindingId) {
        let gone = self.bindings.borrow_mut().extract_if(.., |(id, _)| *id == binding).collect::<Vec<_>>();
        gone.into_iter().for_each(|(_, pump)| pump.abort());
    }

    pub(crate) fn own_log(&self, log: LogId, pumps: [Coroutine<()>; 2]) {
        self.logs.borrow_mut().push((log, pumps));
    }

    /// It is about to be told the end of something that it wanted of a log.
    pub(crate) fn log_ended(&self) {
        self.logging.set(self.logging.get().saturating_sub(1));
    }

    pub(crate) fn close_log(&self, log: LogId) {
        let gone = self.logs.borrow_mut().extract_if(.., |(id, _)| *id == log).collect::<Vec<_>>();
        gone.into_iter().flat_map(|(_, pumps)| pumps).for_each(|pump| pump.abort());
        if self.logs.borrow().is_empty() {
            self.logging.set(0);
        }
    }

    pub(crate) fn own_session(&self, session: SessionId) {
        self.sessions.borrow_mut().push(session);
    }
}

impl<A: Actor> AnyCell for ActorCell<A> {
    fn into_any(self: Rc<Self>) -> Rc<dyn Any> {
        self
    }

    #[inline]
    fn deliver(self: Rc<Self>, system: &System, message: &mut dyn Any) -> Result<(), AskError> {
        let message = message.downcast_mut::<Option<A::Message>>().ok_or(AskError::Down)?;
        if self.mailbox.borrow().len() >= MAILBOX_MAX {
            return Err(AskError::Busy);
        }
        if let Some(message) = message.take() {
            self.dispatch(system, Event::Message(message));
        }
        Ok(())
    }

    fn id(&self) -> ActorId {
        self.id.get()
    }

    fn name(&self) -> Option<&str> {
        self.name.as_deref()
    }

    fn policy(&self) -> Policy {
        self.policy
    }

    fn run(self: Rc<Self>, system: &System, count: usize) -> bool {
        for _ in 0..count {
            let Some(event) = self.mailbox.borrow_mut().pop_front() else { return false };
            self.handle(system, event);
        }
        !self.mailbox.borrow().is_empty()
    }

    fn notice(&self, notice: Notice) {
        self.mailbox.borrow_mut().push_back(notice.into_event());
    }

    fn unsend(&self) {
        self.mailbox.borrow_mut().pop_back();
    }

    fn set_queued(&self, queued: bool) -> bool {
        self.queued.replace(queued)
    }

    fn start(self: Rc<Self>, system: &System, id: ActorId) {
        self.id.set(id);
        let actor = (self.factory.borrow_mut())();
        self.living.borrow_mut().actor = Some(actor);
        self.dispatch(system, Event::Started);
    }

    fn end(&self, system: &System) -> usize {
        let actor = self.living.borrow_mut().actor.take();
        drop(actor);
        let lost = std::mem::take(&mut *self.mailbox.borrow_mut());
        let asks = std::mem::take(&mut *self.asks.borrow_mut());
        asks.into_iter().filter_map(|(_, ask)| ask.timer).for_each(|timer| system.cancel_timer(timer));
        for (_, pump) in std::mem::take(&mut *self.bindings.borrow_mut()) {
            pump.abort();
        }
        let logs = std::mem::take(&mut *self.logs.borrow_mut());
        logs.into_iter().flat_map(|(_, pumps)| pumps).for_each(|pump| pump.abort());
        self.logging.set(0);
        for session in std::mem::take(&mut *self.sessions.borrow_mut()) {
            system.abort_session(session);
        }
        lost.len()
    }

    fn is_alive(&self) -> bool {
        self.living.try_borrow().is_ok_and(|living| living.actor.is_some())
    }

    fn fail_asks_to(&self, system: &System, dead: ActorId) {
        let asks = self.asks.borrow();
        let failed = asks.iter().filter(|(_, ask)| ask.to == dead);
        let failed: Vec<_> =
            failed.map(|(index, ask)| (Ticket(u64::from(ask.generation) << 32 | index as u64), ask.fail)).collect();
        drop(asks);
        failed.into_iter().for_each(|(ticket, fail)| fail(system, self.id.get(), ticket, AskError::Down));
    }

    fn fail_ask(&self, system: &System, ticket: Ticket, why: AskError) {
        let (index, generation) = (ticket.0 as u32 as usize, (ticket.0 >> 32) as u32);
        let fail = self.asks.borrow().get(index).filter(|ask| ask.generation == generation).map(|ask| ask.fail);
        if let Some(fail) = fail {
            fail(system, self.id.get(), ticket, why);
        }
    }

    fn record(&self) -> &RefCell<Record> {
        &self.record
    }

    fn forget_session(&self, session: SessionId) {
        self.sessions.borrow_mut().retain(|&own| own != session);
    }

    fn bindings(&self) -> &RefCell<Vec<(BindingId, Coroutine<()>)>> {
        &self.bindings
    }
}
