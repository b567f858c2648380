//! A client of the cache that asks, one call after the other, and notes what it was answered. The same on simulated hosts
//! and in a process of its own: where its notes go, and what time it is, it is told.

use std::ops::RangeInclusive;
use std::time::Duration;

use framework::Task;
use kv_client::Client;
use pdpix::{Endpoint, Rng};

use crate::history::{Datum, Kind, Process};
use crate::workload::{Request, Workload};

/// Where notes go.
pub trait Notes {
    /// A number that no process has had, for whatever this client does next.
    fn new_process(&self) -> Process;
    /// Notes an event, at this moment.
    fn note(&self, process: Process, kind: Kind, f: &str, value: (String, Datum));
    /// Whether the client should end, with what it is doing done.
    fn is_over(&self) -> bool;
}

/// How a client is.
#[derive(Clone, Debug)]
pub struct Manner {
    /// Where the cache is.
    pub server: Endpoint,
    /// How long it waits for an answer, or a connection.
    pub patience: Duration,
    /// How long it waits before the next call.
    pub pause: RangeInclusive<Duration>,
}

/// A client and its connection, if it has one.
struct Caller<N> {
    task: Task,
    manner: Manner,
    notes: N,
    connection: Option<Client>,
    process: Process,
}

/// Asks until it is over.
pub async fn converse(task: Task, manner: Manner, mut workload: Workload, notes: impl Notes) {
    let mut caller = Caller::new(task, manner, notes);
    while !caller.notes.is_over() {
        if caller.connect().await {
            caller.call(&workload.next_request()).await;
        }
        caller.rest().await;
    }
}

/// Reads all the keys, each until it is read: the last of a history.
pub async fn read_all(task: Task, manner: Manner, keys: Vec<String>, notes: impl Notes) {
    let mut caller = Caller::new(task, manner, notes);
    for key in &keys {
        while !caller.notes.is_over() {
            if caller.connect().await && caller.call(&Request::get(key)).await {
                break;
            }
            caller.rest().await;
        }
    }
}

impl<N: Notes> Caller<N> {
    fn new(task: Task, manner: Manner, notes: N) -> Caller<N> {
        let process = notes.new_process();
        Caller { task, manner, notes, connection: None, process }
    }

    async fn rest(&self) {
        let (least, most) = (self.manner.pause.start().as_nanos() as u64, self.manner.pause.end().as_nanos() as u64);
        self.task.sleep(Duration::from_nanos(least + self.task.below(most - least + 1))).await;
    }

    /// Whether there is a connection now.
    async fn connect(&mut self) -> bool {
        if self.connection.is_none() {
            let connected = Client::connect_within(&self.task, self.manner.server, self.manner.patience);
            self.connection = connected.await.ok();
        }
        self.connection.is_some()
    }

    /// Calls, and notes how it ended. Whether it ended well.
    async fn call(&mut self, request: &Request) -> bool {
        let Some(connection) = &mut self.connection else { return false };
        let Request { f, key, argument, .. } = request;
        self.notes.note(self.process, Kind::Invoke, f, (key.clone(), argument.clone()));
        let answered = self.task.timeout(self.manner.patience, connection.call(&request.words())).await;
        let is_late = answered.is_err();
        if let Ok(Ok(reply)) = &answered {
            let (kind, result) = request.outcome(reply);
            self.notes.note(self.process, kind, f, (key.clone(), result));
            return kind == Kind::Ok;
        }
        self.notes.note(self.process, Kind::Info, f, (key.clone(), Datum::Nil));
        self.process = self.notes.new_process();
        // Who only lost patience may ask on, behind what is still under way.
        if !is_late || self.task.below(2) == 0 {
            self.connection = None;
        }
        false
    }
}

/// The generator of a client: a function of the run's seed and of which client it is.
pub fn rng_of(seed: u64, writer: u64) -> Rng {
    Rng::new(seed ^ writer.wrapping_add(1).wrapping_mul(0x9E37_79B9_7F4A_7C15))
}
