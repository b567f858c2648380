//! The actors of one core: where they are, what waits for them, their timers, names and sessions.

mod bindings;
mod drain;

use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::future::Future;
use std::rc::Rc;
use std::task::Poll;
use std::time::Duration;

use libos_runtime::{Core, CoroutineId, LibOs, Parcel, TimerKey, Wheel};
use pdpix::{Instant, Rng};

use crate::actor::{Actor, ActorId, Address, AskError, BindingId, Refused, Ticket};
use crate::cell::{ActorCell, AnyCell};
use crate::codec::Codec;
use crate::effects::{Arrival, Bounce, Effects, News, Notice};
use crate::log::Log;
use crate::message_queue::Port;
use crate::registry::Registry;
use crate::session::{Entry, SessionId, SessionTable};
use crate::supervise::{Policy, Verdict};
use crate::task::{TASK_SLOT, TaskAsks};

/// Events that one actor handles before the next one gets its turn.
const EVENTS_A_TURN: usize = 64;

/// The actors of one core. Clones are the same.
#[derive(Clone)]
pub struct System(Rc<Inner>);

/// A place for an actor.
#[derive(Default)]
struct Slot {
    generation: u32,
    cell: Option<Rc<dyn AnyCell>>,
}

pub(crate) enum TimerEntry {
    Timer { actor: ActorId, name: u64 },
    Ask { asker: ActorId, ticket: Ticket },
    Restart { slot: u32 },
}

/// What a system has counted.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct SystemStats {
    /// Events handled.
    pub handled: u64,
    /// Messages and answers that reached nobody, or came too late.
    pub lost: u64,
    /// Messages that came back to their senders.
    pub refused: u64,
    /// Handlers that panicked.
    pub panics: u64,
    /// Sessions opened so far, and open now.
    pub sessions_opened: u64,
    /// Open now.
    pub sessions: usize,
    /// Accepts that failed for want of descriptors or memory.
    pub accept_failures: u64,
    /// Bytes that sessions have received.
    pub bytes_received: u64,
    /// Bytes that sessions have handed over to be sent.
    pub bytes_sent: u64,
    /// Actors there are.
    pub actors: usize,
}

#[derive(Default)]
struct Counters {
    handled: Cell<u64>,
    lost: Cell<u64>,
    refused: Cell<u64>,
    panics: Cell<u64>,
    sessions: Cell<u64>,
    accept_failures: Cell<u64>,
    bytes_received: Cell<u64>,
    bytes_sent: Cell<u64>,
}

struct Inner {
    libos: LibOs,
    slots: RefCell<Vec<Slot>>,
    sessions: RefCell<SessionTable>,
    /// Taken while an event is handled.
    effects: Cell<Option<Box<Effects>>>,
    handling: Cell<bool>,
    /// Actors with mail, in turn.
    mail: RefCell<VecDeque<Rc<dyn AnyCell>>>,
    arrivals: RefCell<VecDeque<Box<dyn Arrival>>>,
    task_asks: RefCell<TaskAsks>,
    timers: RefCell<Wheel<TimerEntry>>,
    /// The coroutine that works off mail and timers, and when it will look at these again by itself.
    dispatcher: Cell<Option<CoroutineId>>,
    looks_at: Cell<Instant>,
    registry: RefCell<Registry>,
    bindings: Cell<u32>,
    /// Datagram bindings, with the coroutines that pop them.
    ports: RefCell<Vec<(Rc<Port>, Option<CoroutineId>)>>,
    logs: RefCell<Vec<Rc<Log>>>,
    log_tickets: Cell<u64>,
    rng: RefCell<Rng>,
    counters: Counters,
    stopping: Cell<Option<i32>>,
    /// Sessions answer what has arrived, and end.
    draining: Cell<bool>,
    /// Cores, this one included, that have no sessions left and will get none.
    drained: Cell<usize>,
}

impl System {
    /// The system of this core. One each.
    pub fn new(libos: &LibOs) -> System {
        let system = System(Rc::new(Inner {
            libos: libos.clone(),
            slots: RefCell::default(),
            sessions: RefCell::new(SessionTable::new(libos.heap().clone())),
            effects: Cell::new(Some(Box::default())),
            handling: Cell::new(false),
            mail: RefCell::default(),
            arrivals: RefCell::default(),
            task_asks: RefCell::default(),
            timers: RefCell::new(Wheel::new(libos.now())),
            dispatcher: Cell::new(None),
            looks_at: Cell::new(Instant::NEVER),
            registry: RefCell::new(Registry::new(libos.seed())),
            bindings: Cell::new(0),
            ports: RefCell::default(),
            logs: RefCell::default(),
            log_tickets: Cell::new(0),
            rng: RefCell::new(libos.fork_rng()),
            counters: Counters::default(),
            stopping: Cell::new(None),
            draining: Cell::new(false),
            drained: Cell::new(0),
        }));
        let theirs = system.clone();
        libos.on_core_message(Box::new(move |_, parcel| {
            if parcel.deliver(&theirs).is_err() {
                theirs.count_lost();
            }
        }));
        let theirs = system.clone();
        libos.spawn(async move { theirs.dispatch().await });
        system
    }

    /// The library OS of this core.
    #[inline]
    pub fn libos(&self) -> &LibOs {
        &self.0.libos
    }

    /// Starts an actor. `factory` makes each incarnation; others may find it by `name`.
    pub fn spawn<A: Actor>(
        &self,
        name: Option<&str>,
        policy: Policy,
        factory: impl FnMut() -> A + 'static,
    ) -> Address<A> {
        let address = self.place::<A>(name, policy, Box::new(factory));
        self.start(address.id());
        address
    }

    /// Who stands for `name`, as far as this core knows.
    pub fn find(&self, name: &str) -> Option<ActorId> {
        self.0.registry.borrow().find(name)
    }

    /// Sends a message from outside of any actor.
    ///
    /// # Errors
    /// The message back: no room, or nobody. For an actor of another core only what is known at once.
    pub fn send<A: Actor>(&self, to: Address<A>, message: A::Message) -> Result<(), A::Message> {
        use crate::Carry;
        let id = to.id();
        if id.core != self.0.libos.core() {
            let carried = message.carry()?;
            let from = ActorId { core: self.0.libos.core(), slot: TASK_SLOT, generation: 0 };
            let mail = crate::effects::RemoteMail::<A::Message> { to: id, from, ticket: None, carried };
            let parcel = Parcel::delivering(mail);
            if let Err(parcel) = self.0.libos.send_parcel(id.core, parcel, true) {
                // There is nobody to tell: it is counted.
                drop(parcel);
                self.count_lost();
            }
            return Ok(());
        }
        match self.typed_cell::<A>(id) {
            Some(cell) => {
                cell.send(message)?;
                self.enqueue(cell);
                Ok(())
            }
            None => Err(message),
        }
    }

    /// Runs the core until the service is stopped, then lets it answer what is in flight, for at most `grace`. Gives the
    /// code that the service was stopped with.
    pub fn run(&self, core: &Core, grace: Duration) -> i32 {
        core.run();
        let system = self.clone();
        self.libos().spawn(async move {
            system.drain(grace).await;
            system.libos().stop();
        });
        core.run();
        self.0.stopping.get().unwrap_or(0)
    }

    /// What was counted.
    pub fn stats(&self) -> SystemStats {
        let counters = &self.0.counters;
        SystemStats {
            handled: counters.handled.get(),
            lost: counters.lost.get(),
            refused: counters.refused.get(),
            panics: counters.panics.get(),
            sessions_opened: counters.sessions.get(),
            sessions: self.0.sessions.borrow().len(),
            accept_failures: counters.accept_failures.get(),
            bytes_received: counters.bytes_received.get(),
            bytes_sent: counters.bytes_sent.get(),
            actors: self.cells().len(),
        }
    }

    /// Bytes that sessions have written and not yet pushed.
    pub fn written(&self) -> usize {
        self.0.sessions.borrow().written()
    }

    /// Open sessions of one actor.
    pub fn sessions_of(&self, owner: ActorId) -> usize {
        self.0.sessions.borrow().owned_by(owner)
    }

    fn cells(&self) -> Vec<Rc<dyn AnyCell>> {
        self.0.slots.borrow().iter().filter_map(|slot| slot.cell.clone()).filter(|cell| cell.is_alive()).collect()
    }
}

// Places and lives.
impl System {
    /// Makes a place for an actor, which is not started yet.
    pub(crate) fn place<A: Actor>(
        &self,
        name: Option<&str>,
        policy: Policy,
        factory: Box<dyn FnMut() -> A>,
    ) -> Address<A> {
        let mut slots = self.0.slots.borrow_mut();
        let index = slots.iter().position(|slot| slot.cell.is_none()).unwrap_or_else(|| {
            slots.push(Slot::default());
            slots.len() - 1
        });
        let id = ActorId { core: self.0.libos.core(), slot: index as u32, generation: slots[index].generation };
        let rng = self.0.rng.borrow_mut().fork();
        slots[index].cell = Some(Rc::new(ActorCell::new(id, name.map(str::to_owned), policy, factory, rng)));
        id.typed()
    }

    /// Starts the incarnation that `id` names.
    pub(crate) fn start(&self, id: ActorId) {
        let Some(cell) = self.cell(id) else { return };
        if let Some(name) = cell.name() {
            self.tell_all(|| News::Up { name: name.to_owned(), id });
        }
        cell.start(self, id);
    }

    /// The actor that `id` names, if that is its present incarnation.
    #[inline]
    pub(crate) fn cell(&self, id: ActorId) -> Option<Rc<dyn AnyCell>> {
        let slots = self.0.slots.borrow();
        let slot = slots.get(id.slot as usize).filter(|slot| slot.generation == id.generation)?;
        slot.cell.clone()
    }

    /// The same, as what it is. `None` also if it is something else.
    #[inline]
    pub(crate) fn typed_cell<A: Actor>(&self, id: ActorId) -> Option<Rc<ActorCell<A>>> {
        self.cell(id)?.into_any().downcast().ok()
    }

    /// A handler has panicked: its actor is gone, and perhaps comes back.
    #[cold]
    pub(crate) fn on_panic(&self, cell: Rc<dyn AnyCell>) {
        self.0.counters.panics.set(self.0.counters.panics.get() + 1);
        let slot = cell.id().slot;
        let verdict = cell.record().borrow_mut().judge(&cell.policy(), self.libos().now());
        self.end(&cell);
        match verdict {
            Verdict::Restart { after } => {
                self.set_timer(self.libos().now() + after, TimerEntry::Restart { slot });
            }
            Verdict::StayDown => self.0.slots.borrow_mut()[slot as usize].cell = None,
            Verdict::StopService => {
                self.0.slots.borrow_mut()[slot as usize].cell = None;
                self.stop_service(70); // EX_SOFTWARE
            }
        }
    }

    /// Ends an actor for good.
    pub(crate) fn stop_actor(&self, id: ActorId) {
        if let Some(cell) = self.cell(id) {
            self.end(&cell);
            self.0.slots.borrow_mut()[id.slot as usize].cell = None;
        }
    }

    /// Ends an incarnation: its name and address are nobody's from now on.
    fn end(&self, cell: &Rc<dyn AnyCell>) {
        let id = cell.id();
        self.0.slots.borrow_mut()[id.slot as usize].generation += 1;
        let lost = cell.end(self);
        self.0.counters.lost.set(self.0.counters.lost.get() + lost as u64);
        self.tell_all(|| News::Down { id });
    }

    fn restart(&self, slot: u32) {
        let (cell, id) = {
            let slots = self.0.slots.borrow();
            let Some(Slot { generation, cell: Some(cell) }) = slots.get(slot as usize) else { return };
            (cell.clone(), ActorId { core: self.0.libos.core(), slot, generation: *generation })
        };
        if let Some(name) = cell.name() {
            self.tell_all(|| News::Up { name: name.to_owned(), id });
        }
        cell.start(self, id);
    }

    /// Tells every core, this one included.
    fn tell_all(&self, news: impl Fn() -> News) {
        for core in 0..self.0.libos.cores() as u8 {
            if core == self.0.libos.core() {
                self.on_news(news());
            } else {
                self.answer_core(core, Parcel::delivering(news()));
            }
        }
    }

    pub(crate) fn on_news(&self, news: News) {
        match news {
            News::Up { name, id } => {
                let told = self.0.registry.borrow_mut().up(name, id);
                told.into_iter().for_each(|watcher| self.notify(watcher, Notice::Up(id)));
            }
            News::Down { id } => {
                let told = self.0.registry.borrow_mut().down(id);
                told.into_iter().for_each(|watcher| self.notify(watcher, Notice::Down(id)));
                self.cells().into_iter().for_each(|cell| cell.fail_asks_to(self, id));
                self.0.task_asks.borrow_mut().fail_all_to(id);
            }
            News::Drained => self.0.drained.set(self.0.drained.get() + 1),
            News::Stop { code } => {
                self.0.stopping.set(Some(code));
                self.libos().stop();
            }
        }
    }

    pub(crate) fn stop_service(&self, code: i32) {
        self.tell_all(|| News::Stop { code });
    }

    pub(crate) fn watch(&self, name: String, watcher: ActorId) {
        let there = self.0.registry.borrow().find(&name);
        self.0.registry.borrow_mut().watch(name, watcher);
        if let Some(id) = there {
            self.notify(watcher, Notice::Up(id));
        }
    }

    fn notify(&self, to: ActorId, notice: Notice) {
        match self.cell(to) {
            Some(cell) => {
                cell.notice(notice);
                self.enqueue(cell);
            }
            None => self.count_lost(),
        }
    }

    pub(crate) fn new_binding(&self) -> BindingId {
        self.0.bindings.set(self.0.bindings.get() + 1);
        BindingId(self.0.bindings.get())
    }
}

// Events and what they make to be done.
impl System {
    #[inline]
    pub(crate) fn take_effects(&self) -> Box<Effects> {
        self.0.handling.set(true);
        self.0.effects.take().unwrap_or_default()
    }

    #[inline]
    pub(crate) fn put_effects(&self, effects: Box<Effects>) {
        self.0.effects.set(Some(effects));
        self.0.handling.set(false);
    }

    /// Whether an event is being handled, or worked off.
    #[inline]
    pub(crate) fn is_handling(&self) -> bool {
        self.0.handling.get()
    }

    /// Does what the handler wanted done. It has returned.
    #[inline]
    pub(crate) fn apply(&self, me: ActorId, effects: &mut Effects) {
        while let Some(entry) = effects.written.pop() {
            entry.keep_written();
            self.wake_session(&entry);
        }
        if std::mem::take(&mut effects.more) {
            self.apply_more(me, effects);
        }
    }

    fn apply_more(&self, me: ActorId, effects: &mut Effects) {
        effects.opened.drain(..).for_each(|open| open(self));
        for cell in effects.mail.drain(..) {
            self.enqueue(cell);
        }
        for remote in effects.remote.drain(..) {
            if let Err(parcel) = self.0.libos.send_parcel(remote.core, remote.parcel, remote.unasked) {
                let _ = parcel.deliver(&Bounce(self.clone()));
            }
        }
        for (binding, to, data) in effects.datagrams.drain(..) {
            self.send_datagram(me, binding, to, data);
        }
        for timer in effects.timers_cancelled.drain(..) {
            self.cancel_timer(timer);
        }
        effects.timers_set.clear();
        effects.asked.clear();
        effects.refused.drain(..).for_each(|refused| self.tell_refused(me, refused));
        let (answers, control) = (std::mem::take(&mut effects.answers), std::mem::take(&mut effects.control));
        answers.into_iter().for_each(|answer| answer(self));
        control.into_iter().for_each(|act| act(self));
    }

    /// The handler has panicked: nothing of what it did is to be seen.
    #[cold]
    pub(crate) fn undo(&self, effects: &mut Effects) {
        effects.written.drain(..).for_each(|entry| entry.forget_written());
        effects.mail.drain(..).rev().for_each(|cell| cell.unsend());
        effects.timers_set.drain(..).for_each(|timer| self.cancel_timer(timer));
        *effects = Effects::default();
    }

    /// Puts an actor into the list of those with mail.
    #[inline]
    pub(crate) fn enqueue(&self, cell: Rc<dyn AnyCell>) {
        if !cell.set_queued(true) {
            self.0.mail.borrow_mut().push_back(cell);
            self.wake_dispatcher();
        }
    }

    #[inline]
    fn wake_dispatcher(&self) {
        if let Some(dispatcher) = self.0.dispatcher.get() {
            self.0.libos.wake(dispatcher);
        }
    }

    /// A message for an actor of this core, from another one.
    ///
    /// # Errors
    /// The message back, and why.
    #[inline]
    pub(crate) fn deliver<M: crate::Carry>(&self, to: ActorId, message: M) -> Result<(), (M, AskError)> {
        let Some(cell) = self.cell(to) else { return Err((message, AskError::Down)) };
        let mut message = Some(message);
        let delivered = cell.deliver(self, &mut message);
        match message {
            None => Ok(()),
            Some(message) => Err((message, delivered.err().unwrap_or(AskError::Down))),
        }
    }

    pub(crate) fn tell_refused(&self, to: ActorId, refused: Refused) {
        self.0.counters.refused.set(self.0.counters.refused.get() + 1);
        self.notify(to, Notice::Refused(refused));
    }

    pub(crate) fn fail_ask(&self, asker: ActorId, ticket: Ticket, why: AskError) {
        if asker.slot == TASK_SLOT {
            self.0.task_asks.borrow_mut().fail(ticket, why);
        } else if let Some(cell) = self.cell(asker) {
            cell.fail_ask(self, ticket, why);
        }
    }

    pub(crate) fn task_asks(&self) -> &RefCell<TaskAsks> {
        &self.0.task_asks
    }

    pub(crate) fn answer_core(&self, core: u8, parcel: Parcel) {
        let _ = self.0.libos.send_parcel(core, parcel, false);
    }

    pub(crate) fn arrivals_wait(&self) -> bool {
        !self.0.arrivals.borrow().is_empty()
    }

    pub(crate) fn arrive_later(&self, arrival: Box<dyn Arrival>) {
        self.0.arrivals.borrow_mut().push_back(arrival);
        self.wake_dispatcher();
    }

    /// The coroutine that works off mail and timers.
    async fn dispatch(&self) {
        self.0.dispatcher.set(self.libos().running());
        loop {
            let late = self.retry_arrivals();
            self.run_mail();
            self.fire_timers();
            if !self.0.mail.borrow().is_empty() {
                self.libos().yield_now().await;
                continue;
            }
            let mut next = self.0.timers.borrow().next_deadline().unwrap_or(Instant::NEVER);
            if late {
                next = next.min(self.libos().now() + Duration::from_micros(100));
            }
            self.0.looks_at.set(next);
            let mut sleep = std::pin::pin!(self.libos().sleep_until(next));
            let mut first = true;
            std::future::poll_fn(|cx| {
                let woken = !std::mem::take(&mut first);
                if sleep.as_mut().poll(cx).is_ready() || woken { Poll::Ready(()) } else { Poll::Pending }
            })
            .await;
        }
    }

    fn run_mail(&self) {
        let waiting = self.0.mail.borrow().len();
        for _ in 0..waiting {
            let Some(cell) = self.0.mail.borrow_mut().pop_front() else { break };
            cell.set_queued(false);
            if cell.clone().run(self, EVENTS_A_TURN) {
                self.enqueue(cell);
            }
        }
    }

    fn fire_timers(&self) {
        let now = self.libos().now();
        loop {
            let fired = self.0.timers.borrow_mut().pop(now);
            match fired {
                None => break,
                Some(TimerEntry::Timer { actor, name }) => self.notify(actor, Notice::Timer(name)),
                Some(TimerEntry::Ask { asker, ticket }) => self.fail_ask(asker, ticket, AskError::TimedOut),
                Some(TimerEntry::Restart { slot }) => self.restart(slot),
            }
        }
    }

    /// Whether some have still no memory to land in.
    fn retry_arrivals(&self) -> bool {
        loop {
            let Some(arrival) = self.0.arrivals.borrow_mut().pop_front() else { return false };
            if let Some(rest) = arrival.arrive(self) {
                self.0.arrivals.borrow_mut().push_front(rest);
                return true;
            }
        }
    }

    pub(crate) fn set_timer(&self, deadline: Instant, entry: TimerEntry) -> TimerKey {
        let key = self.0.timers.borrow_mut().insert(deadline, entry);
        if deadline < self.0.looks_at.get() {
            self.wake_dispatcher();
        }
        key
    }

    pub(crate) fn cancel_timer(&self, key: TimerKey) {
        self.0.timers.borrow_mut().cancel(key);
    }
}

// Sessions.
impl System {
    #[inline]
    pub(crate) fn sessions(&self) -> &RefCell<SessionTable> {
        &self.0.sessions
    }

    pub(crate) fn is_draining(&self) -> bool {
        self.0.draining.get()
    }

    pub(crate) fn new_session<C: Codec>(&self, owner: ActorId) -> SessionId {
        self.0.sessions.borrow_mut().add::<C>(owner)
    }

    /// Something was written: its coroutine pushes it, unless it is the one that runs, which will anyway.
    #[inline]
    fn wake_session(&self, entry: &Entry) {
        if let Some(coroutine) = entry.coroutine.get()
            && self.0.libos.running() != Some(coroutine)
        {
            self.0.libos.wake(coroutine);
        }
    }

    pub(crate) fn resume_session(&self, session: SessionId) {
        let entry = self.0.sessions.borrow().get(session).cloned();
        if let Some(entry) = entry.filter(|entry| entry.is_open()) {
            entry.paused.set(false);
            self.wake_session(&entry);
        }
    }

    pub(crate) fn close_session(&self, session: SessionId) {
        let coroutine = self.0.sessions.borrow().close(session, true);
        coroutine.into_iter().for_each(|coroutine| self.libos().wake(coroutine));
    }

    pub(crate) fn abort_session(&self, session: SessionId) {
        let coroutine = self.0.sessions.borrow().close(session, false);
        coroutine.into_iter().for_each(|coroutine| self.libos().wake(coroutine));
    }

    pub(crate) fn count_session(&self) {
        self.0.counters.sessions.set(self.0.counters.sessions.get() + 1);
    }

    pub(crate) fn count_accept_failure(&self) {
        self.0.counters.accept_failures.set(self.0.counters.accept_failures.get() + 1);
    }

    #[inline]
    pub(crate) fn count_handled(&self) {
        self.0.counters.handled.set(self.0.counters.handled.get() + 1);
    }

    #[inline]
    pub(crate) fn count_received(&self, bytes: usize) {
        self.0.counters.bytes_received.set(self.0.counters.bytes_received.get() + bytes as u64);
    }

    #[inline]
    pub(crate) fn count_sent(&self, bytes: usize) {
        self.0.counters.bytes_sent.set(self.0.counters.bytes_sent.get() + bytes as u64);
    }

    pub(crate) fn count_lost(&self) {
        self.0.counters.lost.set(self.0.counters.lost.get() + 1);
    }
}

impl std::fmt::Debug for System {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "System(core {}, {:?})", self.libos().core(), self.stats())
    }
}
