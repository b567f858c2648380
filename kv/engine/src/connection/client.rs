//! Connections as CLIENT LIST shows them and CLIENT KILL finds them.

use super::Connection;
use crate::resp::{Protocol, Reply};

/// What only the server knows of a connection.
#[derive(Clone, Default, Debug)]
pub struct ClientFacts {
    /// Where the client is.
    pub address: String,
    /// Where it came to.
    pub local_address: String,
    /// The queue that it talks over.
    pub queue: u64,
    /// Since when it is connected.
    pub age_seconds: u64,
    /// Since when it has said nothing.
    pub idle_seconds: u64,
    /// Bytes received and not understood yet.
    pub input_len: usize,
    /// Bytes written and not sent yet.
    pub output_len: usize,
    /// Bytes of the heap that it pins.
    pub pinned: usize,
}

/// What kinds of clients there are to Redis. Ours are all normal.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum ClientKind {
    /// An ordinary client.
    Normal,
    /// A replica.
    Replica,
    /// Our master.
    Master,
    /// One that has subscribed.
    PubSub,
}

impl ClientKind {
    pub(crate) fn named(name: &[u8]) -> Option<ClientKind> {
        let kinds = [
            ("normal", ClientKind::Normal),
            ("slave", ClientKind::Replica),
            ("replica", ClientKind::Replica),
            ("pubsub", ClientKind::PubSub),
            ("master", ClientKind::Master),
        ];
        kinds.into_iter().find(|(word, _)| name.eq_ignore_ascii_case(word.as_bytes())).map(|(_, kind)| kind)
    }
}

/// Which connections are meant. What is not given does not matter.
#[derive(Clone, PartialEq, Eq, Default, Debug)]
pub struct ClientFilter {
    /// One of these numbers.
    pub ids: Option<Vec<i64>>,
    /// From there.
    pub address: Option<Vec<u8>>,
    /// To there.
    pub local_address: Option<Vec<u8>>,
    /// Of this kind.
    pub kind: Option<ClientKind>,
    /// Not this one.
    pub not_id: Option<u64>,
}

impl ClientFilter {
    /// Whether a connection is meant.
    pub fn matches(&self, connection: &Connection, facts: &ClientFacts) -> bool {
        self.ids.as_ref().is_none_or(|ids| ids.contains(&(connection.id as i64)))
            && self.address.as_ref().is_none_or(|address| *address == facts.address.as_bytes())
            && self.local_address.as_ref().is_none_or(|address| *address == facts.local_address.as_bytes())
            && self.kind.is_none_or(|kind| kind == ClientKind::Normal)
            && self.not_id != Some(connection.id)
    }
}

/// How CLIENT KILL was asked, and so how it is answered.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum KillForm {
    /// By nothing but an address.
    Address,
    /// By filters.
    Filters,
}

impl KillForm {
    /// Answers how many connections were closed.
    pub fn put(self, count: usize, reply: &mut Reply<'_>) {
        match self {
            KillForm::Filters => reply.count(count),
            KillForm::Address if count > 0 => reply.ok(),
            KillForm::Address => reply.error(b"ERR No such client"),
        }
    }
}

impl Connection {
    /// Its line in CLIENT LIST, without the line feed.
    pub fn describe(&self, facts: &ClientFacts) -> String {
        let ClientFacts { address, local_address, queue, age_seconds, idle_seconds, input_len, output_len, pinned } =
            facts;
        let name = String::from_utf8_lossy(&self.name);
        let flags = match (self.is_closing(), self.no_evict) {
            (false, false) => "N",
            (true, false) => "c",
            (false, true) => "e",
            (true, true) => "ce",
        };
        let protocol = match self.session.protocol {
            Protocol::Resp2 => 2,
            Protocol::Resp3 => 3,
        };
        format!(
            "id={} addr={address} laddr={local_address} fd={queue} name={name} age={age_seconds} idle={idle_seconds} \
             flags={flags} db={} sub=0 psub=0 ssub=0 multi=-1 qbuf={input_len} qbuf-free=0 argv-mem=0 multi-mem=0 rbs=0 \
             rbp=0 obl={output_len} oll=0 omem=0 tot-mem={pinned} events=r cmd={} user=default redir=-1 resp={protocol}",
            self.id, self.session.database, self.last_command,
        )
    }
}
