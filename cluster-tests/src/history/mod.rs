//! Histories: what clients asked, what they were answered, and when; and what befell the world meanwhile.
//!
//! The order of the events is an order of real time: if one operation had ended before another began, its last event stands
//! before the first of the other. The checkers rest on this and on nothing else of `time`.
//!
//! docs/histories.md has the format of files. [`History::read`] takes any text, and says what is wrong with it and where;
//! [`History::check`] says whether the clients behaved.

mod file;
mod form;
mod recorder;

use std::fmt;

use serde::{Deserialize, Serialize};

pub use file::ReadError;
pub use form::FormError;
pub use recorder::{Recorder, merge};

/// The first line of a file: what makes this history again.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub struct Header {
    /// The version of the sources, as git tells it.
    pub revision: String,
    /// What everything was drawn from.
    pub seed: u64,
    /// The world, and what was chosen for it.
    pub configuration: serde_json::Map<String, serde_json::Value>,
}

/// Who does something.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Serialize, Deserialize)]
#[serde(untagged)]
pub enum Process {
    /// A client, one operation after the other. A number whose operation has come to an unknown end is not used again.
    Client(u64),
    /// What brings faults.
    Nemesis(Nemesis),
}

/// `"nemesis"`
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Nemesis {
    /// The only one.
    Nemesis,
}

impl Process {
    /// What brings faults.
    pub const NEMESIS: Process = Process::Nemesis(Nemesis::Nemesis);
}

impl fmt::Display for Process {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Process::Client(number) => f.pad(&number.to_string()),
            Process::Nemesis(_) => f.pad("nemesis"),
        }
    }
}

/// What an event tells of its operation.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Kind {
    /// It begins.
    Invoke,
    /// It has happened, with this result.
    Ok,
    /// It has not happened, and never will.
    Fail,
    /// Nobody knows: it may have happened at any time since it began, may yet happen, or never.
    Info,
}

/// An argument or a result.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Default, Serialize, Deserialize)]
#[serde(untagged)]
pub enum Datum {
    /// None; of a read: the key is not there.
    #[default]
    Nil,
    /// A number.
    Integer(i64),
    /// A string.
    Text(String),
}

impl fmt::Display for Datum {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Datum::Nil => f.write_str("nil"),
            Datum::Integer(number) => write!(f, "{number}"),
            Datum::Text(text) => write!(f, "{text:?}"),
        }
    }
}

impl From<&str> for Datum {
    fn from(text: &str) -> Datum {
        Datum::Text(text.to_string())
    }
}

impl From<i64> for Datum {
    fn from(number: i64) -> Datum {
        Datum::Integer(number)
    }
}

/// One line of a history.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Event {
    /// Its place, from 0.
    pub index: u64,
    /// Whose.
    pub process: Process,
    /// Which.
    #[serde(rename = "type")]
    pub kind: Kind,
    /// The operation: for the cache, a command in small letters; for the nemesis, a fault.
    pub f: String,
    /// The key, and the argument (`invoke`) or the result (`ok`). For the nemesis: where, and how much.
    pub value: (String, Datum),
    /// Nanoseconds of the client's monotonic clock; of the simulator's.
    pub time: u64,
}

/// What happened in one run.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct History {
    /// What makes it again.
    pub header: Header,
    /// In the order of real time.
    pub events: Vec<Event>,
}

/// An operation, from its invocation to its end.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Operation {
    /// Whose.
    pub process: Process,
    /// What.
    pub f: String,
    /// On which key.
    pub key: String,
    /// With what.
    pub argument: Datum,
    /// How it ended. [`Kind::Info`] if it did not.
    pub end: Kind,
    /// What came of it, if it ended well.
    pub result: Datum,
    /// The index and the time of its first event.
    pub invoked: (u64, u64),
    /// The index and the time of its last event, if there is one.
    pub ended: Option<(u64, u64)>,
}

impl History {
    /// The operations of the clients, in the order of their invocations. (Of a history that is well formed.)
    pub fn operations(&self) -> Vec<Operation> {
        self.pair(|process| matches!(process, Process::Client(_)))
    }

    /// The faults, as operations of the nemesis.
    pub fn faults(&self) -> Vec<Operation> {
        self.pair(|process| process == Process::NEMESIS)
    }

    fn pair(&self, of: impl Fn(Process) -> bool) -> Vec<Operation> {
        let mut operations: Vec<Operation> = Vec::new();
        for event in self.events.iter().filter(|event| of(event.process)) {
            let at = (event.index, event.time);
            let (key, datum) = event.value.clone();
            if event.kind == Kind::Invoke {
                operations.push(Operation {
                    process: event.process,
                    f: event.f.clone(),
                    key,
                    argument: datum,
                    end: Kind::Info,
                    result: Datum::Nil,
                    invoked: at,
                    ended: None,
                });
                continue;
            }
            let ends = |open: &&mut Operation| {
                open.process == event.process && open.ended.is_none() && open.f == event.f && open.key == key
            };
            if let Some(open) = operations.iter_mut().rev().find(ends) {
                (open.end, open.result, open.ended) = (event.kind, datum, Some(at));
            }
        }
        operations
    }
}

impl fmt::Display for Operation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Operation { process, key, argument, .. } = self;
        write!(f, "{process:>5}  {} {key}", self.f)?;
        if *argument != Datum::Nil {
            write!(f, " {argument}")?;
        }
        match self.end {
            Kind::Ok => write!(f, " -> {}", self.result)?,
            Kind::Fail => f.write_str(" -> failed")?,
            _ => f.write_str(" -> ?")?,
        }
        match self.ended {
            Some((last, _)) => write!(f, "  (events {} to {last})", self.invoked.0),
            None => write!(f, "  (event {}, no end)", self.invoked.0),
        }
    }
}
