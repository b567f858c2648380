//! Steps one actor without any library OS: events in, effects out, time and chance by hand.
//!
//! ```
//! # use framework::{Actor, Event, Harness, Outbox, carry_as_it_is};
//! # struct Counter(u32);
//! # #[derive(Debug)] enum Count { Up }
//! # carry_as_it_is!(Count);
//! # impl Actor for Counter {
//! #     type Message = Count;
//! #     fn handle(&mut self, event: Event<Count>, _: &mut Outbox<'_, Self>) {
//! #         if let Event::Message(Count::Up) = event { self.0 += 1; }
//! #     }
//! # }
//! let mut harness = Harness::new(Counter(0), 7);
//! harness.message(Count::Up);
//! assert_eq!(harness.actor().0, 1);
//! ```

use std::any::Any;
use std::cell::RefCell;
use std::collections::VecDeque;
use std::time::Duration;

use libos_runtime::{TimerKey, Wheel};
use pdpix::{Endpoint, Heap, Input, Instant, Rng, Sga, WallTime};

use crate::actor::{Actor, ActorId, Address, Answer, AskError, BindingId, Event, ReplyTo, Ticket};
use crate::codec::{Codec, CodecError};
use crate::effects::Effects;
use crate::log::{LogAct, LogId, LogSettings};
use crate::message_queue::Datagram;
use crate::outbox::{Ground, Outbox};
use crate::session::{Closed, Session, SessionId, SessionTable};
use crate::system::System;

/// A message that the actor sent.
pub struct Sent {
    /// To whom.
    pub to: ActorId,
    message: Box<dyn Any>,
}

impl Sent {
    /// The message, if it is an `M`.
    pub fn take<M: 'static>(self) -> Option<M> {
        self.message.downcast().ok().map(|message| *message)
    }
}

/// A question that the actor asked, to be answered by [`Harness::answer`].
pub struct Asked {
    /// Whom.
    pub to: ActorId,
    /// Its ticket.
    pub ticket: Ticket,
    /// How long it waits.
    pub timeout: Option<Duration>,
    message: Box<dyn Any>,
}

impl Asked {
    /// The message, if it is an `M`.
    pub fn take<M: 'static>(self) -> Option<M> {
        self.message.downcast().ok().map(|message| *message)
    }
}

/// Decodes what a session received, as far as it is whole.
type Decode<M> = Box<dyn FnMut(SessionId, &mut Input, &Heap) -> Result<Option<M>, CodecError>>;
/// Makes the decoder of a new session of a listener.
type MakeDecode<M> = Box<dyn FnMut() -> Decode<M>>;
/// Opens a session in the table, with the listener's codec.
type AddSession = fn(&mut SessionTable, ActorId) -> SessionId;

/// Makes the actor's message of a datagram.
type WrapDatagram<A> = fn(Datagram) -> <A as Actor>::Message;

/// What an outbox writes to when there is no system under it.
pub(crate) struct Recorder<A: Actor> {
    heap: Heap,
    wall: WallTime,
    cores: usize,
    me: ActorId,
    sent: VecDeque<Sent>,
    asked: VecDeque<Asked>,
    replied: VecDeque<(Ticket, Box<dyn Any>)>,
    asks: u64,
    timers: Wheel<u64>,
    sessions: RefCell<SessionTable>,
    decoders: Vec<(SessionId, Input, Decode<A::Message>)>,
    listeners: Vec<(BindingId, Endpoint, AddSession, MakeDecode<A::Message>)>,
    datagram_bindings: Vec<(BindingId, Endpoint, WrapDatagram<A>)>,
    datagrams: VecDeque<(BindingId, Endpoint, Sga)>,
    logs: Vec<(LogId, String, LogSettings)>,
    appended: VecDeque<(LogId, Ticket, Sga)>,
    logs_read: VecDeque<(LogId, Ticket, u64, usize)>,
    truncated: VecDeque<(LogId, Ticket, u64)>,
    bindings: u32,
    connecting: VecDeque<(SessionId, Endpoint)>,
    closed: VecDeque<(SessionId, bool)>,
    paused: Vec<SessionId>,
    spawned: VecDeque<Option<String>>,
    watched: Vec<String>,
    stopped: bool,
    service_stopped: Option<i32>,
}

impl<A: Actor> Recorder<A> {
    pub(crate) fn wall(&self) -> WallTime {
        self.wall
    }

    pub(crate) fn heap(&self) -> &Heap {
        &self.heap
    }

    pub(crate) fn cores(&self) -> usize {
        self.cores
    }

    pub(crate) fn sessions(&self) -> &RefCell<SessionTable> {
        &self.sessions
    }

    pub(crate) fn sent<M: 'static>(&mut self, to: ActorId, message: M) {
        self.sent.push_back(Sent { to, message: Box::new(message) });
    }

    pub(crate) fn ask<M: 'static, T: 'static>(
        &mut self,
        to: ActorId,
        timeout: Option<Duration>,
        make: impl FnOnce(ReplyTo<T>) -> M,
    ) -> Ticket {
        self.asks += 1;
        let ticket = Ticket(self.asks);
        let message = Box::new(make(ReplyTo { asker: self.me, ticket, deliver: deliver_nowhere::<T> }));
        self.asked.push_back(Asked { to, ticket, timeout, message });
        ticket
    }

    pub(crate) fn replied<T: 'static>(&mut self, to: ReplyTo<T>, value: T) {
        self.replied.push_back((to.ticket, Box::new(value)));
    }

    pub(crate) fn set_timer(&mut self, deadline: Instant, name: u64) -> TimerKey {
        self.timers.insert(deadline, name)
    }

    pub(crate) fn cancel_timer(&mut self, key: TimerKey) {
        self.timers.cancel(key);
    }

    pub(crate) fn listen<C: Codec>(
        &mut self,
        at: Endpoint,
        mut codec: impl FnMut() -> C + 'static,
        wrap: fn(Session<C>, C::In) -> A::Message,
    ) -> BindingId {
        let binding = self.new_binding();
        let make = Box::new(move || decoder::<A, C>(codec(), wrap));
        self.listeners.push((binding, at, SessionTable::add::<C>, make));
        binding
    }

    pub(crate) fn connect<C: Codec>(
        &mut self,
        to: Endpoint,
        codec: C,
        wrap: fn(Session<C>, C::In) -> A::Message,
    ) -> Session<C> {
        let id = self.sessions.borrow_mut().add::<C>(self.me);
        self.decoders.push((id, Input::new(), decoder::<A, C>(codec, wrap)));
        self.connecting.push_back((id, to));
        Session::new(id)
    }

    fn new_binding(&mut self) -> BindingId {
        self.bindings += 1;
        BindingId(self.bindings)
    }

    pub(crate) fn bind_datagrams(&mut self, at: Endpoint, wrap: fn(Datagram) -> A::Message) -> BindingId {
        let binding = self.new_binding();
        self.datagram_bindings.push((binding, at, wrap));
        binding
    }

    pub(crate) fn sent_datagram(&mut self, through: BindingId, to: Endpoint, data: Sga) {
        self.datagrams.push_back((through, to, data));
    }

    pub(crate) fn unbound(&mut self, binding: BindingId) {
        self.listeners.retain(|(id, ..)| *id != binding);
        self.datagram_bindings.retain(|(id, ..)| *id != binding);
    }

    pub(crate) fn open_log(&mut self, name: &str, settings: LogSettings) -> LogId {
        let id = LogId(self.new_binding().0);
        self.logs.push((id, name.to_owned(), settings));
        id
    }

    pub(crate) fn act_on_log(&mut self, log: LogId, what: LogAct) -> Ticket {
        self.asks += 1;
        let ticket = Ticket(1 << 63 | self.asks);
        match what {
            LogAct::Append(data) => self.appended.push_back((log, ticket, data)),
            LogAct::Read { from, records_max, .. } => self.logs_read.push_back((log, ticket, from, records_max)),
            LogAct::Hurry => {}
            LogAct::Truncate(before) => self.truncated.push_back((log, ticket, before)),
        }
        ticket
    }

    pub(crate) fn log_closed(&mut self, log: LogId) {
        self.logs.retain(|(id, ..)| *id != log);
    }

    pub(crate) fn close(&mut self, session: SessionId, abort: bool) {
        self.closed.push_back((session, abort));
    }

    pub(crate) fn pause(&mut self, session: SessionId, paused: bool) {
        self.sessions.borrow().pause(session, paused);
        self.paused.retain(|&other| other != session);
        if paused {
            self.paused.push(session);
        }
    }

    pub(crate) fn spawned<B: Actor>(&mut self, name: Option<&str>) -> Address<B> {
        self.spawned.push_back(name.map(str::to_owned));
        ActorId { core: self.me.core, slot: self.me.slot + self.spawned.len() as u32, generation: 0 }.typed()
    }

    pub(crate) fn stopped(&mut self) {
        self.stopped = true;
    }

    pub(crate) fn service_stopped(&mut self, code: i32) {
        self.service_stopped = Some(code);
    }

    pub(crate) fn watched(&mut self, name: String) {
        self.watched.push(name);
    }
}

fn decoder<A: Actor, C: Codec>(mut codec: C, wrap: fn(Session<C>, C::In) -> A::Message) -> Decode<A::Message> {
    let mut opened = false;
    Box::new(move |id, input, heap| {
        if !std::mem::replace(&mut opened, true) {
            codec.opened(id);
        }
        Ok(codec.decode(input, heap)?.map(|item| wrap(Session::new(id), item)))
    })
}

fn deliver_nowhere<T>(_: &System, _: ActorId, _: Ticket, _: Result<T, AskError>) {}

/// An actor on its own: what happens to it and what it does are in the test's hands.
pub struct Harness<A: Actor> {
    actor: A,
    now: Instant,
    rng: Rng,
    effects: Effects,
    recorder: Recorder<A>,
}

impl<A: Actor> Harness<A> {
    /// An actor that has not been started; all its chance is from `seed`.
    pub fn new(actor: A, seed: u64) -> Harness<A> {
        let heap = test_heap();
        let me = ActorId { core: 0, slot: 0, generation: 0 };
        let recorder = Recorder {
            wall: WallTime::from_nanos(1_700_000_000_000_000_000),
            cores: 1,
            me,
            sent: VecDeque::new(),
            asked: VecDeque::new(),
            replied: VecDeque::new(),
            asks: 0,
            timers: Wheel::default(),
            sessions: RefCell::new(SessionTable::new(heap.clone())),
            decoders: Vec::new(),
            listeners: Vec::new(),
            datagram_bindings: Vec::new(),
            datagrams: VecDeque::new(),
            logs: Vec::new(),
            appended: VecDeque::new(),
            logs_read: VecDeque::new(),
            truncated: VecDeque::new(),
            bindings: 0,
            connecting: VecDeque::new(),
            closed: VecDeque::new(),
            paused: Vec::new(),
            spawned: VecDeque::new(),
            watched: Vec::new(),
            stopped: false,
            service_stopped: None,
            heap,
        };
        Harness { actor, now: Instant::ZERO, rng: Rng::new(seed), effects: Effects::default(), recorder }
    }

    /// The actor, to be looked at.
    pub fn actor(&self) -> &A {
        &self.actor
    }

    /// The heap that its sessions use.
    pub fn heap(&self) -> &Heap {
        &self.recorder.heap
    }

    /// Lets something happen to it.
    pub fn event(&mut self, event: Event<A::Message>) {
        let ground = Ground::Harness(&mut self.recorder);
        let me = ActorId { core: 0, slot: 0, generation: 0 };
        let mut out = Outbox::new(me, self.now, &mut self.effects, &mut self.rng, ground);
        self.actor.handle(event, &mut out);
        self.effects.written.drain(..).for_each(|entry| entry.keep_written());
    }

    /// Starts it.
    pub fn start(&mut self) {
        self.event(Event::Started);
    }

    /// Gives it a message.
    pub fn message(&mut self, message: A::Message) {
        self.event(Event::Message(message));
    }

    /// Lets time pass; timers fire on the way, in order.
    pub fn advance(&mut self, duration: Duration) {
        let end = self.now + duration;
        loop {
            let next = self.recorder.timers.next_deadline().filter(|&next| next <= end);
            self.now = self.now.max(next.unwrap_or(end));
            match self.recorder.timers.pop(self.now) {
                Some(name) => self.event(Event::Timer(name)),
                None if next.is_none() => break,
                None => {}
            }
        }
    }

    /// The time.
    pub fn now(&self) -> Instant {
        self.now
    }

    /// The next message that it sent.
    pub fn take_sent(&mut self) -> Option<Sent> {
        self.recorder.sent.pop_front()
    }

    /// The next question that it asked.
    pub fn take_asked(&mut self) -> Option<Asked> {
        self.recorder.asked.pop_front()
    }

    /// Answers a question.
    pub fn answer<T>(&mut self, ticket: Ticket, result: Result<T, AskError>)
    where
        A::Message: From<Answer<T>>,
    {
        self.message(Answer { ticket, result }.into());
    }

    /// A question for it: the address of the answer, which [`Harness::take_reply`] gives under the same ticket.
    pub fn reply_to<T: 'static>(&mut self) -> (Ticket, ReplyTo<T>) {
        self.recorder.asks += 1;
        let ticket = Ticket(self.recorder.asks);
        (ticket, ReplyTo { asker: self.recorder.me, ticket, deliver: deliver_nowhere::<T> })
    }

    /// The next answer that it gave.
    pub fn take_reply<T: 'static>(&mut self) -> Option<(Ticket, T)> {
        let (ticket, value) = self.recorder.replied.pop_front()?;
        value.downcast().ok().map(|value| (ticket, *value))
    }

    /// Where it listens.
    pub fn listens_at(&self) -> Vec<Endpoint> {
        self.recorder.listeners.iter().map(|(_, at, ..)| *at).collect()
    }

    /// Its datagram bindings.
    pub fn datagram_bindings(&self) -> Vec<(BindingId, Endpoint)> {
        self.recorder.datagram_bindings.iter().map(|(id, at, _)| (*id, *at)).collect()
    }

    /// A datagram comes through a binding.
    ///
    /// # Panics
    /// If there is no such binding.
    pub fn datagram(&mut self, through: BindingId, from: Endpoint, bytes: &[u8]) {
        let binding = self.recorder.datagram_bindings.iter().find(|(id, ..)| *id == through);
        let (_, _, wrap) = *binding.expect("it is bound");
        let data = Sga::copy(&self.recorder.heap, bytes).expect("memory for a datagram");
        self.message(wrap(Datagram { binding: through, from, data, cut: false }));
    }

    /// The next datagram that it sent.
    pub fn take_datagram(&mut self) -> Option<(BindingId, Endpoint, Sga)> {
        self.recorder.datagrams.pop_front()
    }

    /// The logs that it has open, by name. Their events ([`Event::LogReady`], [`Event::Durable`] and so on) are the test's.
    pub fn logs(&self) -> &[(LogId, String, LogSettings)] {
        &self.recorder.logs
    }

    /// The next record that it appended.
    pub fn take_appended(&mut self) -> Option<(LogId, Ticket, Sga)> {
        self.recorder.appended.pop_front()
    }

    /// The next reading that it asked for: from which record on, and how many at most.
    pub fn take_log_read(&mut self) -> Option<(LogId, Ticket, u64, usize)> {
        self.recorder.logs_read.pop_front()
    }

    /// The next truncation that it asked for: the first record to be left.
    pub fn take_truncated(&mut self) -> Option<(LogId, Ticket, u64)> {
        self.recorder.truncated.pop_front()
    }

    /// Where it wants to connect to: the sessions wait for [`Harness::opened`].
    pub fn take_connecting(&mut self) -> Option<(SessionId, Endpoint)> {
        self.recorder.connecting.pop_front()
    }

    /// A connection that it asked for is made.
    pub fn opened(&mut self, session: SessionId, peer: Endpoint) {
        self.event(Event::Opened { session, peer });
    }

    /// Somebody connects to its listener at `at`.
    ///
    /// # Panics
    /// If it does not listen there.
    pub fn accept(&mut self, at: Endpoint, peer: Endpoint) -> SessionId {
        let listener = self.recorder.listeners.iter_mut().find(|(_, listens, ..)| *listens == at);
        let (_, _, add, make) = listener.expect("it listens there");
        let decode = make();
        let id = add(&mut self.recorder.sessions.borrow_mut(), self.recorder.me);
        self.recorder.decoders.push((id, Input::new(), decode));
        self.event(Event::Opened { session: id, peer });
        id
    }

    /// Bytes arrive on a session; what is whole becomes messages, unless the session is paused.
    ///
    /// # Errors
    /// The codec's.
    ///
    /// # Panics
    /// If there is no such session.
    pub fn receive(&mut self, session: SessionId, bytes: &[u8]) -> Result<(), CodecError> {
        let heap = self.recorder.heap.clone();
        let at = self.recorder.decoders.iter().position(|(id, ..)| *id == session).expect("the session is open");
        if !bytes.is_empty() {
            let sga = Sga::copy(&heap, bytes).map_err(|_| CodecError::NoMemory)?;
            self.recorder.decoders[at].1.push(sga);
        }
        while !self.recorder.paused.contains(&session) {
            let (id, input, decode) = &mut self.recorder.decoders[at];
            match decode(*id, input, &heap)? {
                Some(message) => self.message(message),
                None => break,
            }
        }
        Ok(())
    }

    /// What it wrote to a session since the last time.
    pub fn written(&mut self, session: SessionId) -> Vec<u8> {
        let sessions = self.recorder.sessions.borrow();
        let written = sessions.get(session).and_then(|entry| entry.output.borrow_mut().take().ok());
        written.map_or_else(Vec::new, |sga| sga.to_vec())
    }

    /// The session is over.
    pub fn close(&mut self, session: SessionId, why: Closed) {
        self.recorder.decoders.retain(|(id, ..)| *id != session);
        self.recorder.sessions.borrow_mut().remove(session);
        self.event(Event::Closed { session, why });
    }

    /// The next session that it closed, and whether it was given up at once.
    pub fn take_closed(&mut self) -> Option<(SessionId, bool)> {
        self.recorder.closed.pop_front()
    }

    /// Whether it paused a session.
    pub fn is_paused(&self, session: SessionId) -> bool {
        self.recorder.paused.contains(&session)
    }

    /// The next actor that it started, by name.
    pub fn take_spawned(&mut self) -> Option<Option<String>> {
        self.recorder.spawned.pop_front()
    }

    /// Names that it watches.
    pub fn watched(&self) -> &[String] {
        &self.recorder.watched
    }

    /// Whether it stopped itself, and with which code it stopped the service.
    pub fn stopped(&self) -> (bool, Option<i32>) {
        (self.recorder.stopped, self.recorder.service_stopped)
    }

    /// Sets the time of day.
    pub fn set_wall(&mut self, wall: WallTime) {
        self.recorder.wall = wall;
    }
}

/// A heap of 8 MiB of its own.
pub(crate) fn test_heap() -> Heap {
    Heap::alone(8 << 20).expect("memory for a harness")
}
