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
    /// Who does what the first key of a call is about, and who does what the second is.
    processes: [Process; 2],
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
        let processes = new_processes(&notes);
        Caller { task, manner, notes, connection: None, processes }
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
        // Each key is judged for itself: there, a call of two keys is an operation of each, over the same time.
        let (f, processes) = (request.f, self.processes);
        let note = |notes: &N, kind_and_datum: &dyn Fn(usize) -> (Kind, Datum)| {
            for (place, (key, process)) in request.keys().zip(processes).enumerate() {
                let (kind, datum) = kind_and_datum(place);
                notes.note(process, kind, f, (key.clone(), datum));
            }
        };
        note(&self.notes, &|_| (Kind::Invoke, request.argument.clone()));
        let answered = self.task.timeout(self.manner.patience, connection.call(&request.words())).await;
        let is_late = answered.is_err();
        if let Ok(Ok(reply)) = &answered {
            note(&self.notes, &|place| request.outcome(reply, place));
            return request.outcome(reply, 0).0 == Kind::Ok;
        }
        note(&self.notes, &|_| (Kind::Info, Datum::Nil));
        self.processes = new_processes(&self.notes);
        // Who only lost patience may ask on, behind what is still under way.
        if !is_late || self.task.below(2) == 0 {
            self.connection = None;
        }
        false
    }
}

/// The first comes last: if the client is lost, it is known by that one. (What the second has begun has no end then.)
fn new_processes(notes: &impl Notes) -> [Process; 2] {
    let second = notes.new_process();
    [notes.new_process(), second]
}

/// The generator of a client: a function of the run's seed and of which client it is.
pub fn rng_of(seed: u64, writer: u64) -> Rng {
    Rng::new(seed ^ writer.wrapping_add(1).wrapping_mul(0x9E37_79B9_7F4A_7C15))
}
