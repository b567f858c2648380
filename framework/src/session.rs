//! Sessions: a stream, its codec, and the actor that it belongs to.
//!
//! Each session is a coroutine: it pops, decodes, hands messages to its actor, and pushes what was written. What is
//! written to a session by whomever gathers in its output, and goes out as one push.
//!
//! Always: one push is under way at a time, so what is written meanwhile goes out together. The session stops popping
//! while it is paused, or while its peer has not taken [`SessionSettings::output_max`] bytes; a peer that takes nothing
//! for [`SessionSettings::stall`] is given up. `Closed` is the last event, and comes exactly once for each `Opened`.

mod next;
mod opening;
mod table;

use std::future::Future;
use std::marker::PhantomData;
use std::pin::Pin;
use std::rc::Rc;
use std::task::Poll;
use std::time::Duration;

use libos_runtime::{Begun, LibOs, Redeem, Sleep};
use pdpix::{Completion, Endpoint, Error, Input, Instant, Outcome, Qd, Sga, SocketOption};

use crate::actor::{Actor, ActorId, Event};
use crate::cell::{ActorCell, AnyCell};
use crate::codec::{Codec, CodecError};
use crate::system::System;
use crate::turn::Turn;
use next::{Next, Want};
use opening::CloseOnDrop;

pub(crate) use opening::{connect, listen};
pub(crate) use table::{Close, Entry, SessionTable};

/// Names a session of this core.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Debug)]
pub struct SessionId {
    index: u32,
    generation: u32,
}

impl SessionId {
    /// A number that differs from that of every other session of this core for a long time.
    pub fn number(self) -> u64 {
        u64::from(self.generation) << 32 | u64::from(self.index)
    }
}

/// A session, where it is known which codec it has.
pub struct Session<C> {
    id: SessionId,
    codec: PhantomData<fn(C)>,
}

impl<C> Session<C> {
    pub(crate) fn new(id: SessionId) -> Session<C> {
        Session { id, codec: PhantomData }
    }

    /// Without its codec.
    pub fn id(self) -> SessionId {
        self.id
    }
}

impl<C> Clone for Session<C> {
    fn clone(&self) -> Session<C> {
        *self
    }
}

impl<C> Copy for Session<C> {}

impl<C> PartialEq for Session<C> {
    fn eq(&self, other: &Session<C>) -> bool {
        self.id == other.id
    }
}

impl<C> Eq for Session<C> {}

impl<C> std::fmt::Debug for Session<C> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Session({}.{})", self.id.index, self.id.generation)
    }
}

/// Why a session is over.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Closed {
    /// The peer finished.
    ByPeer,
    /// The actor closed it, or the service stopped.
    ByUs,
    /// The network failed it: it could not be made, or was reset.
    Failed(Error),
    /// The codec could make nothing of the bytes.
    Codec(CodecError),
    /// The peer took nothing for too long.
    Stalled,
    /// Nothing came for too long.
    Idle,
    /// What was to be written did not fit into memory: the stream would have had a hole.
    NoMemory,
}

/// What to do when the peer has finished its direction.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum OnEnd {
    /// Send what is written, and close.
    #[default]
    Close,
    /// Tell the actor, which closes when it has written all its answers.
    Tell,
}

/// How a session behaves.
#[derive(Clone, Debug)]
pub struct SessionSettings {
    /// The network that it is on; `None`: the first one.
    pub network: Option<String>,
    /// Bytes that may be written and not yet taken by the queue; beyond that no more is popped.
    pub output_max: usize,
    /// A peer that takes nothing of what is written for so long is given up.
    pub stall: Duration,
    /// A session on which nothing comes for so long is closed.
    pub idle: Option<Duration>,
    /// What to do when the peer has finished.
    pub on_end: OnEnd,
    /// The most bytes of one pop.
    pub pop_max: usize,
    /// Connections that may wait to be accepted.
    pub backlog: u32,
    /// Several cores listen at the same endpoint.
    pub shared: bool,
    /// Ask an idle peer after this time whether it is still there.
    pub keep_alive: Option<Duration>,
}

impl Default for SessionSettings {
    fn default() -> SessionSettings {
        SessionSettings {
            network: None,
            output_max: 16 << 20,
            stall: Duration::from_secs(60),
            idle: None,
            on_end: OnEnd::Close,
            pop_max: 64 * 1024,
            backlog: 511,
            shared: false,
            keep_alive: None,
        }
    }
}

/// What a session's coroutine has to know.
pub(crate) struct Serving<A: Actor, C: Codec> {
    system: System,
    cell: Rc<ActorCell<A>>,
    /// The incarnation that it belongs to.
    owner: ActorId,
    id: SessionId,
    codec: C,
    wrap: fn(Session<C>, C::In) -> A::Message,
    settings: SessionSettings,
}

impl<A: Actor, C: Codec> Serving<A, C> {
    pub(crate) fn new(
        system: &System,
        cell: &Rc<ActorCell<A>>,
        id: SessionId,
        codec: C,
        wrap: fn(Session<C>, C::In) -> A::Message,
        settings: SessionSettings,
    ) -> Serving<A, C> {
        cell.own_session(id);
        let (system, cell, owner) = (system.clone(), Rc::clone(cell), cell.id());
        Serving { system, cell, owner, id, codec, wrap, settings }
    }

    /// Tells the actor, if it is still the one that the session belongs to.
    #[inline(always)]
    fn tell(&self, event: Event<A::Message>) {
        if self.cell.id() == self.owner {
            self.cell.dispatch(&self.system, event);
        }
    }
}

/// The session is over: its last event.
fn over<A: Actor, C: Codec>(serving: Serving<A, C>, why: Closed) {
    serving.system.sessions().borrow_mut().remove(serving.id);
    if serving.cell.id() == serving.owner {
        serving.cell.forget_session(serving.id);
    }
    serving.tell(Event::Closed { session: serving.id, why });
}

/// The coroutine of a session.
async fn serve<A: Actor, C: Codec>(mut serving: Serving<A, C>, qd: Qd, peer: Endpoint) {
    let libos = serving.system.libos().clone();
    let closing = CloseOnDrop { libos: libos.clone(), qd };
    let Some(entry) = serving.system.sessions().borrow().get(serving.id).cloned() else { return };
    entry.coroutine.set(libos.running());
    if serving.settings.keep_alive.is_some() {
        let _ = libos.set_option(qd, SocketOption::KeepAlive(serving.settings.keep_alive));
    }
    serving.system.count_session();
    serving.codec.opened(serving.id);
    serving.tell(Event::Opened { session: serving.id, peer });
    let (Ok(why) | Err(why)) = Conversation::new(libos.clone(), qd, entry.clone()).converse(&mut serving).await;
    let given_up = entry.close.get() == Close::Now;
    if given_up || !matches!(why, Closed::ByPeer | Closed::ByUs | Closed::Idle) {
        // Not an orderly end: the peer is to know.
        let _ = libos.set_option(qd, SocketOption::Linger(Duration::ZERO));
    }
    drop(closing);
    over(serving, why);
}

/// When the service stops, so many passes without anything from the queue are the end of what has arrived.
const QUIET_TURNS: u32 = 3;

/// The most bytes of one push. What is longer goes in pieces, so that a peer that takes it slowly is known from one that
/// takes nothing: a push ends when all of it was taken.
const PUSH_MAX: usize = 1 << 20;

/// The state of a session's coroutine between its waits.
struct Conversation {
    libos: LibOs,
    qd: Qd,
    entry: Rc<Entry>,
    input: Input,
    pop: Option<Redeem>,
    push: Option<Redeem>,
    /// What is to be pushed before anything that was written since.
    rest: Sga,
    /// The peer has finished, and the actor was told, if it wants to be.
    finished: bool,
    /// Since when the peer has taken nothing.
    pushing_since: Instant,
    /// No memory to decode with: tried again after a while.
    starved: bool,
    /// As much is written as may be: what has come waits until the peer has taken some of it.
    full: bool,
    /// Passes since the service stops in which nothing came.
    quiet_turns: u32,
}

impl Conversation {
    fn new(libos: LibOs, qd: Qd, entry: Rc<Entry>) -> Conversation {
        let now = libos.now();
        entry.heard.set(now);
        Conversation {
            libos,
            qd,
            entry,
            input: Input::new(),
            pop: None,
            push: None,
            rest: Sga::new(),
            finished: false,
            pushing_since: now,
            starved: false,
            full: false,
            quiet_turns: 0,
        }
    }

    /// Runs the session to its end.
    async fn converse<A: Actor, C: Codec>(&mut self, serving: &mut Serving<A, C>) -> Result<Closed, Closed> {
        let mut turn = Turn::default();
        loop {
            self.decode(serving)?;
            if !self.rest.is_empty() {
                self.send_rest(&serving.system)?;
            }
            if self.rest.is_empty() {
                self.send(&serving.system)?;
            }
            match self.wants(serving) {
                Want::End => return Ok(if self.finished { Closed::ByPeer } else { Closed::ByUs }),
                Want::Again => continue,
                Want::Turn => {
                    self.libos.yield_now().await;
                    continue;
                }
                Want::Pop if self.pop.is_none() => {
                    if self.begin_pop(serving)? {
                        if turn.is_over() {
                            self.libos.yield_now().await;
                        }
                        continue;
                    }
                }
                Want::Pop | Want::Wait => {}
            }
            if self.push.is_none() && serving.settings.idle.is_none() && !self.starved {
                if (Next { pop: &mut self.pop, woken: false }).await {
                    self.take_popped(serving)?;
                }
            } else {
                self.wait_long(serving).await?;
            }
        }
    }

    /// Hands everything that is whole to the actor.
    #[inline]
    fn decode<A: Actor, C: Codec>(&mut self, serving: &mut Serving<A, C>) -> Result<(), Closed> {
        (self.starved, self.full) = (false, false);
        while !(self.input.is_empty() && !serving.codec.has_unread() || self.entry.paused.get()) {
            // Little that comes in may ask for much that goes out.
            if self.entry.output.borrow().len() > serving.settings.output_max {
                self.full = true;
                break;
            }
            match serving.codec.decode(&mut self.input, self.libos.heap()) {
                Ok(Some(item)) => serving.tell(Event::Message((serving.wrap)(Session::new(serving.id), item))),
                Ok(None) => break,
                Err(CodecError::NoMemory) => {
                    self.starved = true;
                    break;
                }
                Err(error) => return Err(Closed::Codec(error)),
            }
        }
        Ok(())
    }

    /// Pushes what was written, if nothing is being pushed.
    #[inline]
    fn send(&mut self, system: &System) -> Result<(), Closed> {
        if self.push.is_some() || self.entry.held.get() {
            return Ok(());
        }
        let written = {
            let mut output = self.entry.output.borrow_mut();
            if output.is_empty() && !output.has_failed() {
                return Ok(());
            }
            output.take().map_err(|_| Closed::NoMemory)?
        };
        match written.len() {
            0 => Ok(()),
            1..=PUSH_MAX => self.push(written, system),
            _ => {
                self.rest = written;
                self.send_rest(system)
            }
        }
    }

    /// Pushes the next piece of something long, and the one after it if that was taken at once.
    #[cold]
    fn send_rest(&mut self, system: &System) -> Result<(), Closed> {
        while self.push.is_none() && !self.rest.is_empty() {
            let count = self.rest.len().min(PUSH_MAX);
            // Without memory for a list of its buffers the piece is the whole.
            let piece = self.rest.split_to(count).unwrap_or_else(|_| std::mem::take(&mut self.rest));
            self.push(piece, system)?;
        }
        Ok(())
    }

    #[inline]
    fn push(&mut self, written: Sga, system: &System) -> Result<(), Closed> {
        system.count_sent(written.len());
        match self.libos.begin_push(self.qd, written) {
            Ok(Begun::Done(Ok(_))) => Ok(()),
            Ok(Begun::Pending(qt)) => {
                self.push = Some(self.libos.redeem(qt));
                self.pushing_since = self.libos.now();
                Ok(())
            }
            Ok(Begun::Done(Err(error))) | Err(error) => Err(Closed::Failed(error)),
        }
    }

    /// Whether more is to be popped.
    #[inline]
    fn wants<A: Actor, C: Codec>(&mut self, serving: &Serving<A, C>) -> Want {
        let written = self.entry.output.borrow().len();
        if self.entry.close.get() == Close::No && !self.entry.paused.get() {
            if self.full {
                return if written > serving.settings.output_max { Want::Wait } else { Want::Again };
            }
            if !(self.finished || serving.system.is_draining()) {
                return if written > serving.settings.output_max { Want::Wait } else { Want::Pop };
            }
        }
        self.wants_at_the_end(serving, written == 0 && self.push.is_none() && self.rest.is_empty())
    }

    #[cold]
    fn wants_at_the_end<A: Actor, C: Codec>(&mut self, serving: &Serving<A, C>, idle: bool) -> Want {
        // An actor that has mail may find something of this session's in it, and answer; as when a record is durable.
        let over = if serving.cell.expects() { Want::Turn } else { Want::End };
        match self.entry.close.get() {
            Close::Now => Want::End,
            Close::Flushed if idle => Want::End,
            Close::No if self.entry.paused.get() => Want::Wait,
            Close::No if self.finished && serving.settings.on_end == OnEnd::Close && idle => over,
            Close::No if serving.system.is_draining() && !self.finished => {
                self.drain(serving.settings.pop_max, if idle { over } else { Want::Wait })
            }
            Close::No | Close::Flushed => Want::Wait,
        }
    }

    /// The service stops: what has arrived is answered, and then it is over.
    fn drain(&mut self, pop_max: usize, quiet: Want) -> Want {
        self.pop = None; // what it had goes back to the queue
        let popped = match self.libos.begin_pop(self.qd, pop_max) {
            Ok(Begun::Done(Ok(Outcome::Popped(popped)))) => Some(popped),
            Ok(Begun::Pending(qt)) => match self.libos.try_redeem(qt) {
                Ok(Some(completion)) => completion.popped().ok(),
                _ => {
                    drop(self.libos.redeem(qt));
                    None
                }
            },
            _ => None,
        };
        match popped {
            Some(popped) if !popped.sga.is_empty() => {
                self.quiet_turns = 0;
                self.input.push(popped.sga);
                Want::Again
            }
            // What has arrived may not be known to the queue before its device was looked at.
            _ if matches!(quiet, Want::End) && self.quiet_turns < QUIET_TURNS => {
                self.quiet_turns += 1;
                Want::Turn
            }
            _ => quiet,
        }
    }

    /// Pops. True if something came at once.
    #[inline]
    fn begin_pop<A: Actor, C: Codec>(&mut self, serving: &Serving<A, C>) -> Result<bool, Closed> {
        match self.libos.begin_pop(self.qd, serving.settings.pop_max) {
            Ok(Begun::Done(Ok(Outcome::Popped(popped)))) => {
                self.popped(popped.sga, serving);
                Ok(true)
            }
            Ok(Begun::Pending(qt)) => {
                self.pop = Some(self.libos.redeem(qt));
                Ok(false)
            }
            Ok(Begun::Done(Err(error))) | Err(error) => Err(Closed::Failed(error)),
            Ok(Begun::Done(Ok(_))) => Err(Closed::Failed(Error::InvalidArgument)),
        }
    }

    /// The pop has ended.
    #[inline]
    fn take_popped<A: Actor, C: Codec>(&mut self, serving: &Serving<A, C>) -> Result<(), Closed> {
        let Some(mut pop) = self.pop.take() else { return Ok(()) };
        match pop.take() {
            Ok(Completion { result: Ok(Outcome::Popped(popped)), .. }) => self.popped(popped.sga, serving),
            Ok(Completion { result: Err(error), .. }) | Err(error) => return Err(Closed::Failed(error)),
            Ok(_) => return Err(Closed::Failed(Error::InvalidArgument)),
        }
        Ok(())
    }

    #[inline]
    fn popped<A: Actor, C: Codec>(&mut self, sga: Sga, serving: &Serving<A, C>) {
        self.entry.heard.set(self.libos.now());
        if sga.is_empty() {
            self.finished = true;
            if serving.settings.on_end == OnEnd::Tell {
                serving.tell(Event::PeerFinished(serving.id));
            }
        } else {
            serving.system.count_received(sga.len());
            self.input.push(sga);
        }
    }

    /// Until something came, something was pushed, someone wrote or wants an end, or it took too long.
    async fn wait_long<A: Actor, C: Codec>(&mut self, serving: &Serving<A, C>) -> Result<(), Closed> {
        let stalls = self.push.as_ref().map(|_| self.pushing_since + serving.settings.stall);
        let idles = serving.settings.idle.filter(|_| !self.finished).map(|idle| self.entry.heard.get() + idle);
        let retries = self.starved.then(|| self.libos.now() + Duration::from_millis(1));
        let deadline = [stalls, idles, retries].into_iter().flatten().min();
        let mut sleep: Option<Sleep> = deadline.map(|deadline| self.libos.sleep_until(deadline));
        let (mut next, push) = (Next { pop: &mut self.pop, woken: false }, &mut self.push);
        let waited = std::future::poll_fn(|cx| {
            if let Some(pushing) = push.as_mut()
                && let Poll::Ready(pushed) = Pin::new(pushing).poll(cx)
            {
                *push = None;
                return Poll::Ready(match pushed.and_then(Completion::done) {
                    Ok(()) => Waited::Next(false),
                    Err(error) => Waited::Failed(error),
                });
            }
            if let Some(sleeping) = sleep.as_mut()
                && Pin::new(sleeping).poll(cx).is_ready()
            {
                return Poll::Ready(Waited::Late);
            }
            Pin::new(&mut next).poll(cx).map(Waited::Next)
        })
        .await;
        match waited {
            Waited::Next(true) => self.take_popped(serving),
            Waited::Next(false) => Ok(()),
            Waited::Failed(error) => Err(Closed::Failed(error)),
            Waited::Late => {
                let now = self.libos.now();
                let past = |deadline: Option<Instant>| deadline.is_some_and(|deadline| now >= deadline);
                match () {
                    () if past(stalls) && self.push.is_some() => Err(Closed::Stalled),
                    () if past(idles) => Err(Closed::Idle),
                    () => Ok(()),
                }
            }
        }
    }
}

/// What a long wait came to.
enum Waited {
    Next(bool),
    Failed(Error),
    Late,
}
