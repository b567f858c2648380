//! The outbox: the only way for an actor to act, and to know of time and chance.
//!
//! Everything takes effect when the handler has returned.

use std::cell::RefMut;
use std::rc::Rc;
use std::time::Duration;

use libos_runtime::Parcel;
use pdpix::{Endpoint, Heap, Instant, Output, Rng, Sga, WallTime};

use crate::actor::{Actor, ActorId, Address, Answer, AskError, BindingId, Refused, ReplyTo, Ticket, TimerId};
use crate::carry::Carry;
use crate::cell::ActorCell;
use crate::codec::Codec;
use crate::effects::{Effects, Remote, RemoteAnswer, RemoteMail};
use crate::harness::Recorder;
use crate::log::{self, LogAct, LogId, LogSettings};
use crate::message_queue::{self, Datagram, DatagramSettings};
use crate::session::{self, Serving, Session, SessionId, SessionSettings};
use crate::supervise::Policy;
use crate::system::{System, TimerEntry};

/// What an event's handler wants done.
pub struct Outbox<'a, A: Actor> {
    me: ActorId,
    now: Instant,
    effects: &'a mut Effects,
    rng: &'a mut Rng,
    ground: Ground<'a, A>,
}

/// What is under the actor: a core, or a test.
pub(crate) enum Ground<'a, A: Actor> {
    System { system: &'a System, cell: &'a Rc<ActorCell<A>> },
    Harness(&'a mut Recorder<A>),
}

impl<'a, A: Actor> Outbox<'a, A> {
    pub(crate) fn new(
        me: ActorId,
        now: Instant,
        effects: &'a mut Effects,
        rng: &'a mut Rng,
        ground: Ground<'a, A>,
    ) -> Outbox<'a, A> {
        Outbox { me, now, effects, rng, ground }
    }

    /// For all that is more than writing to a session.
    fn effects(&mut self) -> &mut Effects {
        self.effects.more = true;
        self.effects
    }

    /// The actor's own address.
    pub fn me(&self) -> Address<A> {
        self.me.typed()
    }

    /// Monotonic time: the same for the whole event.
    #[inline]
    pub fn now(&self) -> Instant {
        self.now
    }

    /// The time of day.
    #[inline]
    pub fn wall(&self) -> WallTime {
        match &self.ground {
            Ground::System { system, .. } => system.libos().wall(),
            Ground::Harness(recorder) => recorder.wall(),
        }
    }

    /// Chance: the actor's own generator.
    pub fn rng(&mut self) -> &mut Rng {
        self.rng
    }

    /// The core's heap.
    pub fn heap(&self) -> &Heap {
        match &self.ground {
            Ground::System { system, .. } => system.libos().heap(),
            Ground::Harness(recorder) => recorder.heap(),
        }
    }

    /// How many cores the host has.
    pub fn cores(&self) -> usize {
        match &self.ground {
            Ground::System { system, .. } => system.libos().cores(),
            Ground::Harness(recorder) => recorder.cores(),
        }
    }

    /// What the system of this core has counted; `None` without a system.
    pub fn system(&self) -> Option<&System> {
        match &self.ground {
            Ground::System { system, .. } => Some(system),
            Ground::Harness(_) => None,
        }
    }

    /// Sends a message. If there is no room for it, or nobody, it comes back as [`Event::Refused`](crate::Event).
    pub fn send<B: Actor>(&mut self, to: Address<B>, message: B::Message) {
        self.post(to, message, None);
    }

    /// Asks a question: `make` puts the address of its answer into a message. The answer comes as a message of this
    /// actor's; for certain, and once: from the other actor, or as an error.
    pub fn ask<B: Actor, T: Carry>(
        &mut self,
        to: Address<B>,
        timeout: Option<Duration>,
        make: impl FnOnce(ReplyTo<T>) -> B::Message,
    ) -> Ticket
    where
        A::Message: From<Answer<T>>,
    {
        let (system, cell) = match &mut self.ground {
            Ground::Harness(recorder) => return recorder.ask(to.id(), timeout, make),
            Ground::System { system, cell } => (*system, *cell),
        };
        let Some(ticket) = cell.open_ask(to.id(), None, fail_answer::<A, T>) else {
            // Too many are open. This one never is; it is answered as any other.
            let (ticket, me) = (Ticket(u64::MAX), self.me);
            self.effects().answers.push(Box::new(move |system| {
                if let Some(cell) = system.typed_cell::<A>(me) {
                    cell.refused::<T>(system, ticket);
                }
            }));
            return ticket;
        };
        if let Some(timeout) = timeout {
            let timer = system.set_timer(self.now + timeout, TimerEntry::Ask { asker: self.me, ticket });
            cell.set_ask_timer(ticket, timer);
        }
        self.effects().asked.push(ticket);
        let reply = ReplyTo { asker: self.me, ticket, deliver: deliver_answer::<A, T> };
        self.post(to, make(reply), Some(ticket));
        ticket
    }

    fn post<B: Actor>(&mut self, to: Address<B>, message: B::Message, ticket: Option<Ticket>) {
        let to = to.id();
        let system = match &mut self.ground {
            Ground::Harness(recorder) => return recorder.sent(to, message),
            Ground::System { system, .. } => *system,
        };
        if to.core != self.me.core {
            match message.carry() {
                Ok(carried) => {
                    let mail = RemoteMail::<B::Message> { to, from: self.me, ticket, carried };
                    self.effects().remote.push(Remote {
                        core: to.core,
                        parcel: Parcel::delivering(mail),
                        unasked: true,
                    });
                }
                Err(message) => self.refuse(to, message, ticket, AskError::Busy),
            }
            return;
        }
        match system.typed_cell::<B>(to) {
            Some(cell) => match cell.send(message) {
                Ok(()) => self.effects().mail.push(cell),
                Err(message) => self.refuse(to, message, ticket, AskError::Busy),
            },
            None => self.refuse(to, message, ticket, AskError::Down),
        }
    }

    #[cold]
    fn refuse<M: 'static>(&mut self, to: ActorId, message: M, ticket: Option<Ticket>, why: AskError) {
        match ticket {
            None => self.effects().refused.push(Refused::new(to, message)),
            Some(ticket) => {
                let me = self.me;
                self.effects().answers.push(Box::new(move |system| system.fail_ask(me, ticket, why)));
            }
        }
    }

    /// Answers a question.
    pub fn reply<T: Carry>(&mut self, to: ReplyTo<T>, value: T) {
        match &mut self.ground {
            Ground::Harness(recorder) => recorder.replied(to, value),
            Ground::System { .. } if to.asker.core == self.me.core => {
                self.effects()
                    .answers
                    .push(Box::new(move |system| (to.deliver)(system, to.asker, to.ticket, Ok(value))));
            }
            Ground::System { .. } => {
                let core = to.asker.core;
                let carried = value.carry().map_err(|_| AskError::Busy);
                let parcel = Parcel::delivering(RemoteAnswer { to, carried });
                self.effects().remote.push(Remote { core, parcel, unasked: false });
            }
        }
    }

    /// After `after`, [`Event::Timer`](crate::Event) with this name.
    pub fn set_timer(&mut self, after: Duration, name: u64) -> TimerId {
        let deadline = self.now + after;
        TimerId(match &mut self.ground {
            Ground::Harness(recorder) => recorder.set_timer(deadline, name),
            Ground::System { system, .. } => {
                let key = system.set_timer(deadline, TimerEntry::Timer { actor: self.me, name });
                self.effects().timers_set.push(key);
                key
            }
        })
    }

    /// Takes a timer back. One that has fired may already be in the mailbox.
    pub fn cancel_timer(&mut self, timer: TimerId) {
        match &mut self.ground {
            Ground::Harness(recorder) => recorder.cancel_timer(timer.0),
            Ground::System { .. } => self.effects().timers_cancelled.push(timer.0),
        }
    }

    /// Listens at an endpoint: each connection becomes a session, and what its codec makes of the bytes a message, by
    /// `wrap`. Answered by `Listening` or `ListenFailed`.
    pub fn listen<C: Codec>(
        &mut self,
        at: Endpoint,
        settings: SessionSettings,
        codec: impl FnMut() -> C + 'static,
        wrap: fn(Session<C>, C::In) -> A::Message,
    ) -> BindingId {
        match &mut self.ground {
            Ground::Harness(recorder) => recorder.listen(at, codec, wrap),
            Ground::System { system, cell } => {
                let (binding, cell) = (system.new_binding(), Rc::clone(cell));
                self.effects().control.push(Box::new(move |system| {
                    session::listen(system, cell, binding, at, settings, codec, wrap);
                }));
                binding
            }
        }
    }

    /// Connects to an endpoint. Answered by `Opened`, or by `Closed` if that failed. What is written before is sent then.
    pub fn connect<C: Codec>(
        &mut self,
        to: Endpoint,
        settings: SessionSettings,
        codec: C,
        wrap: fn(Session<C>, C::In) -> A::Message,
    ) -> Session<C> {
        match &mut self.ground {
            Ground::Harness(recorder) => recorder.connect(to, codec, wrap),
            Ground::System { system, cell } => {
                let id = system.new_session::<C>(self.me);
                let serving = Serving::new(system, cell, id, codec, wrap, settings);
                self.effects().control.push(Box::new(move |system| session::connect(system, serving, to)));
                Session::new(id)
            }
        }
    }

    /// Binds a datagram queue: each datagram becomes a message, by `wrap`. Answered by `Listening` or `ListenFailed`.
    pub fn bind_datagrams(
        &mut self,
        at: Endpoint,
        settings: DatagramSettings,
        wrap: fn(Datagram) -> A::Message,
    ) -> BindingId {
        match &mut self.ground {
            Ground::Harness(recorder) => recorder.bind_datagrams(at, wrap),
            Ground::System { system, cell } => {
                let (binding, cell) = (system.new_binding(), Rc::clone(cell));
                self.effects().control.push(Box::new(move |system| {
                    message_queue::bind(system, cell, binding, at, settings, wrap);
                }));
                binding
            }
        }
    }

    /// Sends a datagram through a binding of this actor's. It may be lost, as any.
    pub fn send_datagram(&mut self, through: BindingId, to: Endpoint, data: Sga) {
        match &mut self.ground {
            Ground::Harness(recorder) => recorder.sent_datagram(through, to, data),
            Ground::System { .. } => self.effects().datagrams.push((through, to, data)),
        }
    }

    /// Gives up a listener or a datagram binding. Sessions that it has accepted go on.
    pub fn unbind(&mut self, binding: BindingId) {
        match &mut self.ground {
            Ground::Harness(recorder) => recorder.unbound(binding),
            Ground::System { cell, .. } => {
                let cell = Rc::clone(cell);
                self.effects().control.push(Box::new(move |_| cell.unbind(binding)));
            }
        }
    }

    /// Opens a log. Its records come as [`Event::Record`](crate::Event), then `LogReady`; or `LogFailed`. It may be appended
    /// to at once.
    pub fn open_log(&mut self, name: &str, settings: LogSettings) -> LogId {
        match &mut self.ground {
            Ground::Harness(recorder) => recorder.open_log(name, settings),
            Ground::System { system, cell } => {
                let (id, cell, name) = (LogId(system.new_binding().0), Rc::clone(cell), name.to_owned());
                // Before anything that is done to it in this event.
                self.effects().opened.push(Box::new(move |system| log::open(system, cell, id, &name, settings)));
                id
            }
        }
    }

    /// Appends a record: answered by [`Event::Durable`](crate::Event) with this ticket. Appends of one actor are numbered
    /// in their order.
    #[inline]
    pub fn append(&mut self, log: LogId, record: impl Into<Sga>) -> Ticket {
        self.act_on_log(log, LogAct::Append(record.into()))
    }

    /// Reads the records from number `from` on, or from the first that is left: not more than `records_max`, and none after
    /// `bytes_max` bytes. Answered by [`Event::Read`](crate::Event).
    pub fn read_log(&mut self, log: LogId, from: u64, records_max: usize, bytes_max: usize) -> Ticket {
        self.act_on_log(log, LogAct::Read { from, records_max, bytes_max })
    }

    /// Frees all records before number `before`. Answered by [`Event::Truncated`](crate::Event) when that is durable.
    pub fn truncate_log(&mut self, log: LogId, before: u64) -> Ticket {
        self.act_on_log(log, LogAct::Truncate(before))
    }

    /// What was appended so far is made durable now, whatever patience the log was opened with.
    pub fn hurry_log(&mut self, log: LogId) {
        self.act_on_log(log, LogAct::Hurry);
    }

    /// Gives a log up. What was appended becomes durable, and is not told any more.
    pub fn close_log(&mut self, log: LogId) {
        match &mut self.ground {
            Ground::Harness(recorder) => recorder.log_closed(log),
            Ground::System { cell, .. } => {
                let cell = Rc::clone(cell);
                self.effects().control.push(Box::new(move |_| cell.close_log(log)));
            }
        }
    }

    #[inline]
    fn act_on_log(&mut self, log: LogId, what: LogAct) -> Ticket {
        match &mut self.ground {
            Ground::Harness(recorder) => recorder.act_on_log(log, what),
            Ground::System { system, .. } => {
                let ticket = system.new_log_ticket();
                self.effects().logged.push((log, ticket, what));
                ticket
            }
        }
    }

    /// Writes a message to a session. False if it is over.
    #[inline]
    pub fn write<C: Codec>(&mut self, session: Session<C>, item: C::Out) -> bool {
        match self.output(session) {
            Some(mut output) => {
                C::encode(item, &mut output);
                true
            }
            None => false,
        }
    }

    /// The output of a session, to be written to directly. `None` if it is over.
    #[inline]
    pub fn output<C: Codec>(&mut self, session: Session<C>) -> Option<RefMut<'_, Output>> {
        let id = session.id();
        if self.effects.written.last().is_none_or(|last| last.id != id) {
            let sessions = match &self.ground {
                Ground::System { system, .. } => system.sessions(),
                Ground::Harness(recorder) => recorder.sessions(),
            };
            let entry = Rc::clone(sessions.borrow().get(id).filter(|entry| entry.is_open())?);
            entry.set_mark();
            self.effects.written.push(entry);
        }
        self.effects.written.last().map(|entry| entry.output.borrow_mut())
    }

    /// Closes a session: after what was written.
    pub fn close(&mut self, session: SessionId) {
        match &mut self.ground {
            Ground::Harness(recorder) => recorder.close(session, false),
            Ground::System { .. } => {
                self.effects().control.push(Box::new(move |system| system.close_session(session)));
            }
        }
    }

    /// Gives a session up at once: the peer sees a reset.
    pub fn abort(&mut self, session: SessionId) {
        match &mut self.ground {
            Ground::Harness(recorder) => recorder.close(session, true),
            Ground::System { .. } => {
                self.effects().control.push(Box::new(move |system| system.abort_session(session)));
            }
        }
    }

    /// Takes no more messages from a session until [`Outbox::resume`]: what has arrived waits, and then the peer does.
    #[inline]
    pub fn pause(&mut self, session: SessionId) {
        match &mut self.ground {
            Ground::Harness(recorder) => recorder.pause(session, true),
            // At once, since the next message is about to be decoded; a pause is harmless if the handler panics.
            Ground::System { system, .. } => system.sessions().borrow().pause(session, true),
        }
    }

    /// Goes on with a session.
    #[inline]
    pub fn resume(&mut self, session: SessionId) {
        match &mut self.ground {
            Ground::Harness(recorder) => recorder.pause(session, false),
            Ground::System { system, .. } => system.resume_session(session),
        }
    }

    /// Sends nothing more to a session until [`Outbox::release`]: what is written to it gathers, in its order, what this
    /// handler has written included. Its messages come as ever.
    #[inline]
    pub fn hold(&mut self, session: SessionId) {
        let sessions = match &self.ground {
            Ground::Harness(recorder) => recorder.sessions(),
            // At once, since the session is about to push; harmless if the handler panics, as its owner then ends.
            Ground::System { system, .. } => system.sessions(),
        };
        sessions.borrow().hold(session, true);
    }

    /// Sends what has gathered for a session that was held.
    #[inline]
    pub fn release(&mut self, session: SessionId) {
        match &self.ground {
            Ground::Harness(recorder) => _ = recorder.sessions().borrow().hold(session, false),
            Ground::System { system, .. } => {
                let coroutine = system.sessions().borrow().hold(session, false);
                coroutine.into_iter().for_each(|coroutine| system.libos().wake(coroutine));
            }
        }
    }

    /// The session, if it is one with this codec and not over.
    pub fn session<C: Codec>(&self, id: SessionId) -> Option<Session<C>> {
        let sessions = match &self.ground {
            Ground::System { system, .. } => system.sessions(),
            Ground::Harness(recorder) => recorder.sessions(),
        };
        sessions.borrow().has_codec::<C>(id).then(|| Session::new(id))
    }

    /// When bytes last came on a session, be they a whole message or not. `None` if it is over.
    pub fn heard(&self, id: SessionId) -> Option<Instant> {
        let sessions = match &self.ground {
            Ground::System { system, .. } => system.sessions(),
            Ground::Harness(recorder) => recorder.sessions(),
        };
        sessions.borrow().heard(id)
    }

    /// Starts another actor on this core.
    pub fn spawn<B: Actor>(
        &mut self,
        name: Option<&str>,
        policy: Policy,
        factory: impl FnMut() -> B + 'static,
    ) -> Address<B> {
        match &mut self.ground {
            Ground::Harness(recorder) => recorder.spawned(name),
            Ground::System { system, .. } => {
                let address = system.place::<B>(name, policy, Box::new(factory));
                self.effects().control.push(Box::new(move |system| system.start(address.id())));
                address
            }
        }
    }

    /// Ends this actor, for good.
    pub fn stop(&mut self) {
        let me = self.me;
        match &mut self.ground {
            Ground::Harness(recorder) => recorder.stopped(),
            Ground::System { .. } => self.effects().control.push(Box::new(move |system| system.stop_actor(me))),
        }
    }

    /// Stops the service, all cores of it: what is in flight is answered first.
    pub fn stop_service(&mut self, code: i32) {
        match &mut self.ground {
            Ground::Harness(recorder) => recorder.service_stopped(code),
            Ground::System { .. } => self.effects().control.push(Box::new(move |system| system.stop_service(code))),
        }
    }

    /// Wants to be told when an actor of this name, on any core, comes up or goes down: `Up` follows at once if it is
    /// there.
    pub fn watch(&mut self, name: &str) {
        let (me, name) = (self.me, name.to_owned());
        match &mut self.ground {
            Ground::Harness(recorder) => recorder.watched(name),
            Ground::System { .. } => self.effects().control.push(Box::new(move |system| system.watch(name, me))),
        }
    }
}

/// What a [`ReplyTo`] calls on the asker's core.
pub(crate) fn deliver_answer<A: Actor, T: 'static>(
    system: &System,
    asker: ActorId,
    ticket: Ticket,
    result: Result<T, AskError>,
) where
    A::Message: From<Answer<T>>,
{
    match system.typed_cell::<A>(asker) {
        Some(cell) => cell.answered(system, ticket, result),
        None => system.count_lost(),
    }
}

fn fail_answer<A: Actor, T: 'static>(system: &System, asker: ActorId, ticket: Ticket, why: AskError)
where
    A::Message: From<Answer<T>>,
{
    deliver_answer::<A, T>(system, asker, ticket, Err(why));
}
