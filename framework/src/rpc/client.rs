//! The calling side, for an actor: one connection, kept up; calls with deadlines.
//!
//! The actor hands on what happens to it (`opened`, `closed`, `heard`, `timer`), and gets calls that have ended. It must
//! not use the timer's name for anything else.
//!
//! Always: each call ends once. Without a connection calls wait for one, as long as their deadlines allow.

use std::collections::VecDeque;
use std::time::Duration;

use pdpix::{Endpoint, Instant};
use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::actor::{Actor, TimerId};
use crate::outbox::Outbox;
use crate::rpc::{CallError, CallId, ClientCodec, Key, ToClient, ToServer};
use crate::session::{Session, SessionId, SessionSettings};

/// Whether a call may be sent again.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Retry {
    /// Once only: if the connection is lost, its fate is unknown.
    Never,
    /// Under a key, by which the server executes it at most once.
    Safely,
}

/// How a client behaves.
#[derive(Clone, Debug)]
pub struct ClientSettings {
    /// Where the server is.
    pub server: Endpoint,
    /// Calls that have not ended. Beyond that they end at once.
    pub open_max: usize,
    /// The first pause before connecting again; doubled up to a hundred times that.
    pub pause: Duration,
    /// The name of the timer that the actor hands on.
    pub timer: u64,
    /// How the session behaves.
    pub session: SessionSettings,
}

/// A call that has ended.
pub type Ended<A> = (CallId, Result<A, CallError>);

struct Open<Q> {
    id: CallId,
    key: Option<Key>,
    deadline: Instant,
    body: Q,
    /// It was sent over the present connection.
    sent: bool,
}

/// Makes the actor's message of what the server says.
pub type Wrap<T, Q, A> = fn(Session<ClientCodec<Q, A>>, ToClient<A>) -> <T as Actor>::Message;

/// The calls of an actor, over one connection.
pub struct Client<T: Actor, Q: 'static, A: 'static> {
    settings: ClientSettings,
    wrap: Wrap<T, Q, A>,
    /// Drawn when the first call is made.
    name: Option<u64>,
    session: Option<Session<ClientCodec<Q, A>>>,
    connected: bool,
    failures: u32,
    connect_at: Option<Instant>,
    calls: u64,
    open: VecDeque<Open<Q>>,
    timer: Option<(Instant, TimerId)>,
}

impl<T, Q, A> Client<T, Q, A>
where
    T: Actor,
    Q: Serialize + Clone + 'static,
    A: DeserializeOwned + 'static,
{
    /// Not connected: it connects for the first call.
    pub fn new(settings: ClientSettings, wrap: Wrap<T, Q, A>) -> Client<T, Q, A> {
        Client {
            settings,
            wrap,
            name: None,
            session: None,
            connected: false,
            failures: 0,
            connect_at: None,
            calls: 0,
            open: VecDeque::new(),
            timer: None,
        }
    }

    /// Begins a call. It ends by one of the other methods, within `timeout`.
    ///
    /// # Errors
    /// [`CallError::TooMany`].
    pub fn call(
        &mut self,
        body: Q,
        timeout: Duration,
        retry: Retry,
        out: &mut Outbox<'_, T>,
    ) -> Result<CallId, CallError> {
        if self.open.len() >= self.settings.open_max {
            return Err(CallError::TooMany);
        }
        self.calls += 1;
        let client = *self.name.get_or_insert_with(|| out.rng().next_u64());
        let key = (retry == Retry::Safely).then_some(Key { client, call: self.calls });
        let id = CallId(self.calls);
        self.open.push_back(Open { id, key, deadline: out.now() + timeout, body, sent: false });
        if self.session.is_none() && self.connect_at.is_none() {
            self.connect(out);
        }
        self.send(out);
        self.set_timer(out);
        Ok(id)
    }

    /// Gives a call up: it ends here and now, and the server is told. `None` if it has ended.
    pub fn cancel(&mut self, id: CallId, out: &mut Outbox<'_, T>) -> Option<Ended<A>> {
        let at = self.open.iter().position(|open| open.id == id)?;
        let open = self.open.remove(at)?;
        if let Some(session) = self.session
            && open.sent
        {
            out.write(session, ToServer::Cancel(id));
        }
        Some((id, Err(CallError::Cancelled)))
    }

    /// A session was opened. Whether it is this client's.
    pub fn opened(&mut self, session: SessionId, out: &mut Outbox<'_, T>) -> bool {
        if self.session.is_none_or(|own| own.id() != session) {
            return false;
        }
        (self.connected, self.failures) = (true, 0);
        self.send(out);
        true
    }

    /// A session is over. `None` if it is not this client's; else the calls that end with it.
    pub fn closed(&mut self, session: SessionId, out: &mut Outbox<'_, T>) -> Option<Vec<Ended<A>>> {
        if self.session.is_none_or(|own| own.id() != session) {
            return None;
        }
        (self.session, self.connected) = (None, false);
        let mut ended = Vec::new();
        self.open.retain_mut(|open| {
            let lost = open.sent && open.key.is_none();
            open.sent = false;
            if lost {
                ended.push((open.id, Err(CallError::Unknown)));
            }
            !lost
        });
        self.failures += 1;
        let pause = self.settings.pause * 2u32.saturating_pow(self.failures - 1).min(100);
        // Chance, so that not all clients of a server that comes back come at once.
        let jitter = Duration::from_nanos(out.rng().below(pause.as_nanos().max(1) as u64));
        self.connect_at = Some(out.now() + pause / 2 + jitter / 2);
        self.set_timer(out);
        Some(ended)
    }

    /// The server says something. The call that ends with it.
    pub fn heard(
        &mut self,
        session: Session<ClientCodec<Q, A>>,
        frame: ToClient<A>,
        out: &mut Outbox<'_, T>,
    ) -> Option<Ended<A>> {
        if self.session != Some(session) {
            return None;
        }
        let (id, result) = match frame {
            ToClient::Answer(id, answer) => (id, Ok(answer)),
            ToClient::Refusal(id, why) => (id, Err(CallError::Refused(why))),
        };
        let at = self.open.iter().position(|open| open.id == id)?;
        self.open.remove(at);
        self.set_timer(out);
        Some((id, result))
    }

    /// The timer fired. The calls whose time is over.
    pub fn timer(&mut self, out: &mut Outbox<'_, T>) -> Vec<Ended<A>> {
        self.timer = None;
        let now = out.now();
        let mut ended = Vec::new();
        let session = self.session;
        self.open.retain(|open| {
            let late = now >= open.deadline;
            if late {
                ended.push((open.id, Err(CallError::TimedOut)));
                if let Some(session) = session
                    && open.sent
                {
                    out.write(session, ToServer::Cancel(open.id));
                }
            }
            !late
        });
        if self.connect_at.is_some_and(|at| now >= at) {
            self.connect_at = None;
            if !self.open.is_empty() {
                self.connect(out);
            }
        }
        self.set_timer(out);
        ended
    }

    /// Calls that have not ended.
    pub fn open(&self) -> usize {
        self.open.len()
    }

    fn connect(&mut self, out: &mut Outbox<'_, T>) {
        let settings = self.settings.session.clone();
        self.session = Some(out.connect(self.settings.server, settings, ClientCodec::new(), self.wrap));
    }

    fn send(&mut self, out: &mut Outbox<'_, T>) {
        let (Some(session), true) = (self.session, self.connected) else { return };
        let now = out.now();
        for open in self.open.iter_mut().filter(|open| !open.sent && open.deadline > now) {
            open.sent = true;
            let timeout_us = open.deadline.since(now).as_micros() as u64;
            out.write(session, ToServer::Call { id: open.id, key: open.key, timeout_us, body: open.body.clone() });
        }
    }

    /// The next deadline, or the next attempt to connect.
    fn set_timer(&mut self, out: &mut Outbox<'_, T>) {
        let next = self.open.iter().map(|open| open.deadline).chain(self.connect_at).min();
        match (next, self.timer) {
            (Some(next), Some((set, _))) if set <= next => {}
            (Some(next), old) => {
                old.into_iter().for_each(|(_, timer)| out.cancel_timer(timer));
                let after = next.since(out.now());
                self.timer = Some((next, out.set_timer(after, self.settings.timer)));
            }
            (None, Some((_, timer))) => {
                out.cancel_timer(timer);
                self.timer = None;
            }
            (None, None) => {}
        }
    }
}
