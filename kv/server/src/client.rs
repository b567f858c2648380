//! The connections of a core.

use std::collections::VecDeque;

use framework::pdpix::{Endpoint, Instant};
use framework::{Session, SessionId};
use kv_engine::connection::{ClientFacts, Connection};
use kv_engine::resp::{Request, RequestError};

use crate::codec::{Incoming, Resp};

/// So many requests may wait for the one before them; then no more are taken from the connection, until few are left.
const QUEUE_MAX: usize = 64;
const QUEUE_FEW: usize = 16;

/// A request that waits for those before it.
#[derive(Debug)]
pub(crate) enum Pending {
    Request(Box<Request>),
    /// There will be no more: it was no request.
    Malformed(RequestError),
    /// There was no memory for it, here or on its way to its shard: answered so, in its turn.
    NoMemory,
}

impl From<Incoming> for Pending {
    fn from(incoming: Incoming) -> Pending {
        match incoming {
            Ok(request) => Pending::Request(request),
            Err(RequestError::Exhausted) => Pending::NoMemory,
            Err(error) => Pending::Malformed(error),
        }
    }
}

/// A connection.
#[derive(Debug)]
pub(crate) struct Client {
    pub session: Session<Resp>,
    pub connection: Connection,
    /// A request is being answered elsewhere, or waits for a shard that is held, or for the end of a pause.
    pub busy: bool,
    pub queue: VecDeque<Pending>,
    /// Its session is paused: enough wait.
    pub held_back: bool,
    /// The peer will send no more.
    pub finished: bool,
    /// The record that must be durable before all of its answers may be sent; whether they are held, and whether it is
    /// paused for that.
    pub answered_by: u64,
    pub is_held: bool,
    pub is_slowed: bool,
    pub peer: Endpoint,
    pub since: Instant,
    pub heard: Instant,
}

impl Client {
    pub fn new(session: Session<Resp>, connection: Connection, peer: Endpoint, now: Instant) -> Client {
        let (since, heard) = (now, now);
        let queue = VecDeque::new();
        Client {
            session,
            connection,
            busy: false,
            queue,
            held_back: false,
            finished: false,
            answered_by: 0,
            is_held: false,
            is_slowed: false,
            peer,
            since,
            heard,
        }
    }

    /// Whether so many requests wait that no more should come.
    pub fn is_full(&self) -> bool {
        self.queue.len() >= QUEUE_MAX && !self.held_back
    }

    /// Whether more may come again.
    pub fn has_room_again(&self) -> bool {
        self.held_back && self.queue.len() <= QUEUE_FEW
    }

    pub fn facts(&self, local: Option<Endpoint>, now: Instant) -> ClientFacts {
        ClientFacts {
            address: self.peer.to_string(),
            local_address: local.map_or_else(String::new, |local| local.to_string()),
            queue: self.session.id().number() & u64::from(u32::MAX),
            age_seconds: now.since(self.since).as_secs(),
            idle_seconds: now.since(self.heard).as_secs(),
            ..ClientFacts::default()
        }
    }
}

/// All connections of a core, by their sessions.
#[derive(Default, Debug)]
pub(crate) struct Clients {
    by_index: Vec<Option<Box<Client>>>,
    count: usize,
}

impl Clients {
    #[inline]
    pub fn get_mut(&mut self, id: SessionId) -> Option<&mut Client> {
        let client = self.by_index.get_mut(index_of(id))?.as_deref_mut()?;
        (client.session.id() == id).then_some(client)
    }

    pub fn peek(&self, id: SessionId) -> Option<&Client> {
        self.by_index.get(index_of(id))?.as_deref().filter(|client| client.session.id() == id)
    }

    pub fn insert(&mut self, client: Client) {
        let index = index_of(client.session.id());
        if self.by_index.len() <= index {
            self.by_index.resize_with(index + 1, || None);
        }
        self.by_index[index] = Some(Box::new(client));
        self.count += 1;
    }

    pub fn remove(&mut self, id: SessionId) -> Option<Box<Client>> {
        self.get_mut(id)?;
        self.count -= 1;
        self.by_index[index_of(id)].take()
    }

    pub fn len(&self) -> usize {
        self.count
    }

    pub fn iter(&self) -> impl Iterator<Item = &Client> {
        self.by_index.iter().filter_map(|client| client.as_deref())
    }

    pub fn iter_mut(&mut self) -> impl Iterator<Item = &mut Client> {
        self.by_index.iter_mut().filter_map(|client| client.as_deref_mut())
    }
}

fn index_of(id: SessionId) -> usize {
    (id.number() & u64::from(u32::MAX)) as usize
}
