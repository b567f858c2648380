//! Worlds: where a cluster runs, what it is, and what may befall it. A world and a seed are a run.
//!
//! [`WORLDS`] are those that there are, by name. [`simulated`]: hosts of the simulator, under a virtual clock; a run is the
//! same whenever it is made again. [`namespaces`]: a process a node, each in a network namespace of its own, over the kernel's
//! network; the schedule of faults and the calls are made again by the seed, the races between them and which frames are lost
//! are not.

pub mod namespaces;
pub mod simulated;

use std::path::PathBuf;
use std::time::Duration;

use anyhow::Result;

use crate::check::linearizable::Budget;
use crate::check::{self, Verdict};
use crate::client::Manner;
use crate::faults::{Extent, Kind, Schedule};
use crate::history::{Header, History};
use pdpix::{Endpoint, Rng};

/// What a world is made of.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Stage {
    /// The simulator, and its network of messages.
    Simulated,
    /// The simulator, with our own TCP over frames that travel on simulated wires.
    Frames,
    /// Processes in network namespaces, over a bridge and the TCP of the kernel's.
    Namespaces,
    /// The same over a wire of ours, with a server that has our own TCP.
    Wire,
}

impl Stage {
    /// Whether it is made of processes, and not simulated.
    pub fn has_processes(self) -> bool {
        matches!(self, Stage::Namespaces | Stage::Wire)
    }
}

/// A world by its name.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct World {
    /// Its name.
    pub name: &'static str,
    /// What it is about.
    pub about: &'static str,
    /// What it is made of.
    pub stage: Stage,
    /// Of the server.
    pub cores: usize,
    /// How many ask at once.
    pub clients: usize,
    /// What may happen.
    pub faults: &'static [Kind],
    /// The server answers what is durable, and comes back with its data when it has died.
    pub is_durable: bool,
    /// Nobody only reads, until the end.
    pub writes_only: bool,
}

/// Five clients that ask a simulated cache; `..SIMULATED` with what is different.
const SIMULATED: World = World {
    name: "",
    about: "",
    stage: Stage::Simulated,
    cores: 2,
    clients: 5,
    faults: Kind::ALL,
    is_durable: false,
    writes_only: false,
};

/// The same with our own TCP, over a switch.
const FRAMES: World = World { stage: Stage::Frames, ..SIMULATED };

/// The same on the kernel's network, with three.
const NAMESPACES: World = World { stage: Stage::Namespaces, clients: 3, ..SIMULATED };

/// And over our own wire.
const WIRE: World = World { stage: Stage::Wire, ..NAMESPACES };

/// A server with disks, whose answers are durable, that dies and comes back.
const fn durable(world: World) -> World {
    World { faults: Kind::WITH_CRASHES, is_durable: true, ..world }
}

/// The same, with disks that have no room now and then. Nobody reads but at the end: a cache whose disk has failed serves what
/// it could not write, and forgets it when it dies (docs/persistence.md). What a write answers is durable all the same.
const fn full(world: World) -> World {
    World { faults: Kind::WITH_FULL_DISKS, writes_only: true, ..durable(world) }
}

const ABOUT_FULL: &str = "disks without room, and a server that dies; `always`: no acknowledged write is lost";

/// Of all durable worlds.
const ABOUT_DURABLE: &str = "all faults; `always`: the server dies, loses its power, and comes back with its data";

/// All there are.
pub const WORLDS: &[World] = &[
    World { name: "sim-calm", about: "no faults", faults: &[], ..SIMULATED },
    World { name: "sim-cuts", about: "partitions: whole, one-way, asymmetric", faults: &[Kind::Cut], ..SIMULATED },
    World { name: "sim-pauses", about: "server and clients stand still", faults: &[Kind::Pause], ..SIMULATED },
    World { name: "sim-kills", about: "clients killed in the middle", faults: &[Kind::Kill], ..SIMULATED },
    World { name: "sim-loss", about: "connections break", faults: &[Kind::Loss], ..SIMULATED },
    World { name: "sim-all-1", about: "all faults, one core", cores: 1, ..SIMULATED },
    World { name: "sim-all-2", about: "all faults, two cores", ..SIMULATED },
    World { name: "sim-durable-1", about: ABOUT_DURABLE, cores: 1, ..durable(SIMULATED) },
    World { name: "sim-durable-2", about: ABOUT_DURABLE, cores: 2, ..durable(SIMULATED) },
    World { name: "sim-durable-3", about: ABOUT_DURABLE, cores: 3, ..durable(SIMULATED) },
    World { name: "sim-full-2", about: ABOUT_FULL, cores: 2, ..full(SIMULATED) },
    World { name: "sim-full-3", about: ABOUT_FULL, cores: 3, ..full(SIMULATED) },
    World { name: "tcp-calm", about: "no faults", faults: &[], ..FRAMES },
    World { name: "tcp-cuts", about: "partitions: whole, one-way, asymmetric", faults: &[Kind::Cut], ..FRAMES },
    World { name: "tcp-pauses", about: "server and clients stand still", faults: &[Kind::Pause], ..FRAMES },
    World { name: "tcp-kills", about: "clients killed in the middle", faults: &[Kind::Kill], ..FRAMES },
    World { name: "tcp-loss", about: "frames are lost", faults: &[Kind::Loss], ..FRAMES },
    World { name: "tcp-all-1", about: "all faults, one core", cores: 1, ..FRAMES },
    World { name: "tcp-all-2", about: "all faults, two cores", ..FRAMES },
    World { name: "tcp-durable-1", about: ABOUT_DURABLE, cores: 1, ..durable(FRAMES) },
    World { name: "tcp-durable-2", about: ABOUT_DURABLE, cores: 2, ..durable(FRAMES) },
    World { name: "ns-calm", about: "no faults", faults: &[], ..NAMESPACES },
    World { name: "ns-cuts", about: "partitions: whole, one-way, asymmetric", faults: &[Kind::Cut], ..NAMESPACES },
    World { name: "ns-pauses", about: "server and clients stand still", faults: &[Kind::Pause], ..NAMESPACES },
    World { name: "ns-kills", about: "clients killed while frames are lost", faults: LOSSY_KILLS, ..NAMESPACES },
    World { name: "ns-loss", about: "frames are lost", faults: &[Kind::Loss], ..NAMESPACES },
    World { name: "ns-all-1", about: "all faults, one core", cores: 1, ..NAMESPACES },
    World { name: "ns-all-2", about: "all faults, two cores", ..NAMESPACES },
    World { name: "ns-durable-1", about: ABOUT_DURABLE, cores: 1, ..durable(NAMESPACES) },
    World { name: "ns-durable-2", about: ABOUT_DURABLE, cores: 2, ..durable(NAMESPACES) },
    World { name: "wire-calm", about: "no faults", faults: &[], ..WIRE },
    World { name: "wire-loss", about: "frames are lost", faults: &[Kind::Loss], ..WIRE },
    World { name: "wire-all-1", about: "all faults, one core", cores: 1, ..WIRE },
    World { name: "wire-all-2", about: "all faults, two cores", ..WIRE },
    World { name: "wire-durable-2", about: ABOUT_DURABLE, cores: 2, ..durable(WIRE) },
];

/// Between processes an answer comes so soon that a kill seldom meets a client that waits for one, but for losses.
const LOSSY_KILLS: &[Kind] = &[Kind::Kill, Kind::Loss];

/// How fast things go in a world. A patience is longer than an answer takes, and shorter than most faults.
#[derive(Clone, Copy, Debug)]
struct Tempo {
    /// Until the heal.
    length: Duration,
    /// The longest fault.
    longest: Duration,
    /// Of clients.
    patience: Duration,
    pause_min: Duration,
    pause_max: Duration,
    /// How long the final reads may take.
    settling: Duration,
}

/// Where a run finds what it needs of this machine.
#[derive(Clone, Debug)]
pub struct Means {
    /// The program `margay`, for worlds of processes.
    pub margay: PathBuf,
    /// The version of the sources, for the header of histories.
    pub revision: String,
}

/// What came of a run.
#[derive(Clone, Debug)]
pub struct Run {
    /// What the clients saw.
    pub history: History,
    /// What the checker says of that.
    pub verdict: Verdict,
    /// What the service did not do any more though all was healed.
    pub stuck: Option<String>,
}

impl Run {
    /// Whether all is as it must be.
    pub fn has_passed(&self) -> bool {
        self.verdict == Verdict::Valid && self.stuck.is_none()
    }
}

/// What a world of one stage gives back: what was seen, and what did not end.
#[derive(Clone, Debug)]
pub struct Played {
    /// What the clients saw.
    pub history: History,
    /// See [`Run::stuck`].
    pub stuck: Option<String>,
}

impl World {
    /// The world of this name.
    pub fn find(name: &str) -> Option<&'static World> {
        WORLDS.iter().find(|world| world.name == name)
    }

    /// What this machine lacks for it, if it lacks anything.
    pub fn is_missing(&self) -> Option<String> {
        match self.stage {
            Stage::Simulated | Stage::Frames => None,
            Stage::Namespaces | Stage::Wire => namespaces::is_missing(self.stage),
        }
    }

    /// Makes a run, and judges it.
    ///
    /// # Errors
    /// If the world cannot be made, or what is in it cannot be started.
    pub fn run(&self, seed: u64, means: &Means) -> Result<Run> {
        let mut played = match self.stage {
            Stage::Simulated | Stage::Frames => simulated::run(self, seed),
            Stage::Namespaces | Stage::Wire => namespaces::run(self, seed, means)?,
        };
        played.history.header.revision.clone_from(&means.revision);
        Ok(played.judge())
    }

    /// The keys that all clients share: few, so that they meet. Where the server dies there are more of them, or so many
    /// calls on one have an unknown end that the search through their orders has none; and most where nobody reads.
    fn keys(&self) -> Vec<String> {
        crate::workload::keys(match self {
            World { writes_only: true, .. } => 8,
            World { is_durable: true, .. } => 6,
            _ => 2,
        })
    }

    fn tempo(&self) -> Tempo {
        let millis = Duration::from_millis;
        match self.stage {
            // A server that begins reads its disk first, and waits for some flushes.
            Stage::Simulated => Tempo {
                length: millis(if self.is_durable { 400 } else { 150 }),
                longest: millis(if self.is_durable { 90 } else { 40 }),
                patience: millis(12),
                pause_min: Duration::from_micros(50),
                pause_max: millis(2),
                settling: millis(30_000),
            },
            // What was lost is sent again after a fifth of a second at the earliest.
            Stage::Frames => Tempo {
                length: millis(3_000),
                longest: millis(900),
                patience: millis(350),
                pause_min: millis(1),
                pause_max: millis(30),
                settling: millis(60_000),
            },
            Stage::Namespaces | Stage::Wire => Tempo {
                length: millis(4_000),
                longest: millis(1_200),
                patience: millis(400),
                pause_min: Duration::from_micros(100),
                pause_max: millis(4),
                settling: millis(15_000),
            },
        }
    }

    /// What befalls it with this seed.
    pub fn schedule(&self, seed: u64) -> Schedule {
        let Tempo { length, longest, .. } = self.tempo();
        let extent = Extent { kinds: self.faults, clients: self.clients, cores: self.cores, length, longest };
        Schedule::draw(&mut Rng::new(seed), extent)
    }

    fn manner(&self, server: Endpoint) -> Manner {
        let Tempo { patience, pause_min, pause_max, .. } = self.tempo();
        Manner { server, patience, pause: pause_min..=pause_max }
    }

    fn header(&self, seed: u64) -> Header {
        let configuration = serde_json::json!({
            "world": self.name,
            "service": "kv",
            "cores": self.cores,
            "clients": self.clients,
            "keys": self.keys(),
        });
        let serde_json::Value::Object(configuration) = configuration else { unreachable!("it is written as one") };
        Header { revision: String::new(), seed, configuration }
    }
}

impl Played {
    /// Judges what was seen.
    pub fn judge(self) -> Run {
        let verdict = check::cache(&self.history, Budget::default());
        Run { history: self.history, verdict, stuck: self.stuck }
    }
}
