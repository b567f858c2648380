//! A client as a process of its own: `margay test-client ORDER`. It notes what it sees as lines of a history on its output.

use std::cell::Cell;
use std::io::Write;
use std::time::Duration;

use anyhow::{Context, Result};
use framework::System;
use libos_boot::{Settings, launch};
use pdpix::Endpoint;
use rustix::time::{ClockId, clock_gettime};
use serde::{Deserialize, Serialize};

use crate::client::{Manner, Notes, converse, read_all, rng_of};
use crate::history::{Datum, Event, Kind, Process};
use crate::workload::Workload;
use crate::worlds::World;

/// What a client is to do.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct ClientOrder {
    server: String,
    seed: u64,
    /// Which of all clients of the run it is.
    writer: u64,
    task: Task,
    /// When it ends, on the monotonic clock.
    over_at: u64,
    patience_ns: u64,
    pause_min_ns: u64,
    pause_max_ns: u64,
}

/// What it does.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Task {
    /// Asks until it is over.
    Converse {
        /// About these.
        keys: Vec<String>,
    },
    /// Reads each key once.
    ReadAll {
        /// These.
        keys: Vec<String>,
    },
}

/// A client has so many numbers for its processes.
const PROCESSES_PER_CLIENT: u64 = 10_000;

impl ClientOrder {
    /// For a client of this world.
    pub fn new(world: &World, server: Endpoint, seed: u64, writer: u64, task: Task, over_at: u64) -> ClientOrder {
        let Manner { patience, pause, .. } = world.manner(server);
        let nanos = |duration: &Duration| duration.as_nanos() as u64;
        ClientOrder {
            server: server.to_string(),
            seed,
            writer,
            task,
            over_at,
            patience_ns: nanos(&patience),
            pause_min_ns: nanos(pause.start()),
            pause_max_ns: nanos(pause.end()),
        }
    }

    fn manner(&self) -> Result<Manner> {
        let server = self.server.parse().ok().with_context(|| format!("`{}` is no endpoint", self.server))?;
        let pause = Duration::from_nanos(self.pause_min_ns)..=Duration::from_nanos(self.pause_max_ns);
        Ok(Manner { server, patience: Duration::from_nanos(self.patience_ns), pause })
    }
}

/// Nanoseconds of the clock that all processes of a machine share, and that is never set.
pub fn monotonic_now() -> u64 {
    let now = clock_gettime(ClockId::Monotonic);
    now.tv_sec as u64 * 1_000_000_000 + now.tv_nsec as u64
}

/// Notes on the standard output, a line at a time: what is written is there even if the process is killed.
struct PrintedNotes {
    next_process: Cell<u64>,
    over_at: u64,
}

impl Notes for PrintedNotes {
    fn new_process(&self) -> Process {
        Process::Client(self.next_process.replace(self.next_process.get() + 1))
    }

    fn note(&self, process: Process, kind: Kind, f: &str, value: (String, Datum)) {
        // The clock is read here: the core's own time is that of its pass, and an answer may be younger.
        let event = Event { index: 0, process, kind, f: f.to_string(), value, time: monotonic_now() };
        let mut line = serde_json::to_vec(&event).expect("an event can be written");
        line.push(b'\n');
        // Who reads this is gone only if all is over.
        let _ = std::io::stdout().lock().write_all(&line);
    }

    fn is_over(&self) -> bool {
        monotonic_now() >= self.over_at
    }
}

/// Runs a client to its end.
///
/// # Errors
/// If the order is none, or a core cannot be started.
pub fn run(order: &str) -> Result<i32> {
    let order: ClientOrder = serde_json::from_str(order).context("the order")?;
    order.manner()?;
    let flags = [("memory.size", "16MiB"), ("cores.pin", "false"), ("network.backend", "epoll")];
    let flags = flags.map(|(key, value)| (key.to_string(), value.to_string()));
    let settings = Settings::load(None, std::iter::empty(), &flags)?;
    Ok(launch(&settings, move |launched| {
        let system = System::new(launched.core.libos());
        let order = order.clone();
        let _goes_on = system.task(|task| async move {
            let libos = task.libos().clone();
            let manner = order.manner().expect("it was looked at before");
            let next_process = Cell::new(order.writer * PROCESSES_PER_CLIENT);
            let notes = PrintedNotes { next_process, over_at: order.over_at };
            match order.task {
                Task::Converse { keys } => {
                    let workload = Workload::new(rng_of(order.seed, order.writer), keys, order.writer);
                    converse(task, manner, workload, notes).await;
                }
                Task::ReadAll { keys } => read_all(task, manner, keys, notes).await,
            }
            libos.stop();
        });
        system.run(&launched.core, Duration::ZERO)
    })?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_order_arrives_as_it_was_given() {
        let world = World::find("ns-calm").expect("it is there");
        let task = Task::ReadAll { keys: vec!["n0".into()] };
        let order = ClientOrder::new(world, "10.77.0.1:6379".parse().expect("an endpoint"), 7, 2, task, 99);
        let sent = serde_json::to_string(&order).expect("it can be written");
        assert_eq!(serde_json::from_str::<ClientOrder>(&sent).expect("it can be read"), order);
        let expected = world.manner(order.manner().expect("it is one").server);
        assert_eq!(order.manner().expect("it is one").pause, expected.pause);
    }
}
