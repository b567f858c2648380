//! The serving side: what is to be executed, what was already, and what is not worth beginning.
//!
//! Always: a key is executed at most once while it is remembered; of each call that was taken, `finish` is called once.
//! Bounds: [`ServerSettings::open_max`] calls at a time, [`ServerSettings::remembered_max`] answers; the oldest are
//! forgotten first.

use std::collections::VecDeque;
use std::time::Duration;

use pdpix::{Instant, Map, Seed};
use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::actor::Actor;
use crate::outbox::Outbox;
use crate::rpc::{CallId, Key, Refusal, ServerCodec, ToClient, ToServer};
use crate::session::{Session, SessionId};

/// How a server behaves.
#[derive(Clone, Copy, Debug)]
pub struct ServerSettings {
    /// Calls that are taken and not finished. Beyond that they are refused.
    pub open_max: usize,
    /// Answers that are remembered.
    pub remembered_max: usize,
    /// For how long: longer than any client goes on repeating.
    pub remember: Duration,
}

impl Default for ServerSettings {
    fn default() -> ServerSettings {
        ServerSettings { open_max: 1024, remembered_max: 65_536, remember: Duration::from_secs(120) }
    }
}

/// A call that was taken, to be given back to [`Server::finish`].
#[derive(Debug)]
pub struct Call<Q> {
    /// What to do.
    pub body: Q,
    /// Not worth doing after this.
    pub deadline: Instant,
    number: u64,
}

impl<Q> Call<Q> {
    /// Names the call until it is finished: for who keeps the body elsewhere.
    pub fn number(&self) -> u64 {
        self.number
    }
}

/// What a frame came to.
#[derive(Debug)]
pub enum Heard<Q> {
    /// Do this.
    Execute(Call<Q>),
    /// The caller of this call (its number) does not wait any more. It is finished nevertheless.
    Cancelled(u64),
    /// It was answered already, or there is nothing to do.
    Nothing,
}

struct Open<Q, A> {
    session: Session<ServerCodec<Q, A>>,
    id: CallId,
    key: Option<Key>,
    cancelled: bool,
}

enum Memory<A> {
    /// Being executed: the number of the call.
    Running(u64),
    Done(A),
}

/// The calls of an actor that serves.
pub struct Server<Q: 'static, A: 'static> {
    settings: ServerSettings,
    open: Map<u64, Open<Q, A>>,
    numbers: u64,
    keys: Map<Key, Memory<A>>,
    /// Keys in the order in which they were done, with the time.
    done: VecDeque<(Instant, Key)>,
}

impl<Q: DeserializeOwned + 'static, A: Serialize + Clone + 'static> Server<Q, A> {
    /// With no calls.
    pub fn new(settings: ServerSettings, seed: &Seed) -> Server<Q, A> {
        Server { settings, open: seed.map(), numbers: 0, keys: seed.map(), done: VecDeque::new() }
    }

    /// A frame has come.
    pub fn hear<T: Actor>(
        &mut self,
        session: Session<ServerCodec<Q, A>>,
        frame: ToServer<Q>,
        out: &mut Outbox<'_, T>,
    ) -> Heard<Q> {
        self.forget(out.now());
        match frame {
            ToServer::Call { id, key, timeout_us, body } => {
                let refuse = |out: &mut Outbox<'_, T>, why| {
                    out.write(session, ToClient::Refusal(id, why));
                    Heard::Nothing
                };
                match key.and_then(|key| self.keys.get(&key)) {
                    Some(Memory::Done(answer)) => {
                        out.write(session, ToClient::Answer(id, answer.clone()));
                        return Heard::Nothing;
                    }
                    Some(&Memory::Running(number)) => {
                        // Repeated over another connection: that is where the answer goes.
                        if let Some(open) = self.open.get_mut(&number) {
                            (open.session, open.id, open.cancelled) = (session, id, false);
                        }
                        return Heard::Nothing;
                    }
                    None if timeout_us == 0 => return refuse(out, Refusal::Expired),
                    None if self.open.len() >= self.settings.open_max => return refuse(out, Refusal::Overloaded),
                    None => {}
                }
                self.numbers += 1;
                let number = self.numbers;
                self.open.insert(number, Open { session, id, key, cancelled: false });
                if let Some(key) = key {
                    self.keys.insert(key, Memory::Running(number));
                }
                Heard::Execute(Call { body, deadline: out.now() + Duration::from_micros(timeout_us), number })
            }
            ToServer::Cancel(id) => {
                let open = self.open.iter_mut().find(|(_, open)| open.session == session && open.id == id);
                match open {
                    Some((&number, open)) => {
                        open.cancelled = true;
                        Heard::Cancelled(number)
                    }
                    None => Heard::Nothing,
                }
            }
        }
    }

    /// A call was executed (`Ok`), or not (`Err`): answers it, and remembers that if it has a key.
    pub fn finish<T: Actor>(&mut self, number: u64, result: Result<A, Refusal>, out: &mut Outbox<'_, T>) {
        let Some(Open { session, id, key, cancelled }) = self.open.remove(&number) else { return };
        if let Some(key) = key {
            match &result {
                Ok(answer) => {
                    self.keys.insert(key, Memory::Done(answer.clone()));
                    self.done.push_back((out.now(), key));
                }
                Err(_) => _ = self.keys.remove(&key),
            }
        }
        match result {
            _ if cancelled => out.write(session, ToClient::Refusal(id, Refusal::Cancelled)),
            Ok(answer) => out.write(session, ToClient::Answer(id, answer)),
            Err(why) => out.write(session, ToClient::Refusal(id, why)),
        };
    }

    /// A session is over. Its calls go on; their answers are remembered if they have keys, and go nowhere otherwise.
    /// The numbers of those without, which are of use to nobody now.
    pub fn closed(&mut self, session: SessionId) -> Vec<u64> {
        let orphans = self.open.iter().filter(|(_, open)| open.session.id() == session && open.key.is_none());
        let mut orphans: Vec<u64> = orphans.map(|(&number, _)| number).collect();
        orphans.sort_unstable();
        orphans
    }

    /// Calls that are taken and not finished.
    pub fn open(&self) -> usize {
        self.open.len()
    }

    fn forget(&mut self, now: Instant) {
        while let Some(&(done, key)) = self.done.front()
            && (self.done.len() > self.settings.remembered_max || now.since(done) > self.settings.remember)
        {
            self.done.pop_front();
            self.keys.remove(&key);
        }
    }
}
