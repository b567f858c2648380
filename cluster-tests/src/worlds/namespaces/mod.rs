//! A cache and its clients as processes, each in a network namespace of its own.
//!
//! The server is `margay kv`, over kernel sockets or over our own TCP; a client is `margay test-client` ([`client`]). A hub, which is one more namespace, joins them
//! ([`network`]); nothing of it lies in the namespace of whoever runs this. [`wire`] is what brings faults to frames.
//!
//! Everything that is made goes again: at the end, on an error and on a panic by `Drop`; on a signal by [`remove_own`], which
//! is the program's to call; the processes die with the thread that started them, whatever ends it; and namespaces that a
//! run has left because it was killed are removed by the next one.

pub mod client;
mod network;
mod process;
pub mod wire;

use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use pdpix::Endpoint;

use self::client::{ClientOrder, Task, monotonic_now};
use self::network::Network;
use self::process::{ClientProcess, Disk, NodeProcess, ServerProcess};
use super::{Means, Played, Stage as StageKind, Tempo, World};
use crate::faults::{Death, Fault, Node};
use crate::history::{Datum, Event, History, Kind, Process, merge};

/// What this machine lacks, if it lacks anything. It makes a small network, to see.
pub fn is_missing(stage: StageKind) -> Option<String> {
    if !rustix::process::geteuid().is_root() {
        return Some("network namespaces are made by root".into());
    }
    let probe = network::missing_program(stage).map(|program| format!("there is no `{program}` in the path"));
    probe.or_else(|| {
        Network::new(1, stage, 0).err().map(|error| format!("no network of namespaces can be made here: {error:#}"))
    })
}

/// Removes all that this process has made: for one that is to end at once.
pub fn remove_own() {
    network::remove_own();
    process::remove_own_disks();
}

/// Makes a run.
///
/// # Errors
/// If the network cannot be made, or a process does not do what it should.
pub fn run(world: &World, seed: u64, means: &Means) -> Result<Played> {
    let network = Network::new(world.clients + 1, world.stage, seed).context("the network")?;
    let disk = world.is_durable.then(Disk::new).transpose().context("a folder for the server's data")?;
    let server = ServerProcess::start(&network, SERVER, means, world, disk.as_ref())?;
    let mut stage = Stage::new(world, seed, means, network, (disk, server));
    let stuck = stage.play()?;
    let notes = std::mem::take(&mut stage.notes);
    Ok(Played { history: History { header: world.header(seed), events: merge(notes) }, stuck })
}

/// The server is the first node of the network, and a client the one behind its index.
const SERVER: usize = 0;

fn node_of(node: Node) -> usize {
    match node {
        Node::Server => SERVER,
        Node::Client(index) => index + 1,
    }
}

struct Stage<'a> {
    world: &'a World,
    seed: u64,
    means: &'a Means,
    tempo: Tempo,
    // Processes end before the network that they are in.
    clients: Vec<Option<ClientProcess>>,
    server: Option<ServerProcess>,
    /// What the server keeps; gone when it is.
    disk: Option<Disk>,
    network: Network,
    server_at: Endpoint,
    /// What was noted by those who have ended, each for itself; first what befell the world.
    notes: Vec<Vec<Event>>,
    /// When all is healed, on the clock that all processes of this machine share.
    over_at: u64,
    writers: u64,
}

impl<'a> Stage<'a> {
    fn new(
        world: &'a World,
        seed: u64,
        means: &'a Means,
        network: Network,
        (disk, server): (Option<Disk>, ServerProcess),
    ) -> Stage<'a> {
        let (tempo, server_at) = (world.tempo(), server.at);
        let over_at = monotonic_now() + tempo.length.as_nanos() as u64;
        let (notes, clients) = (vec![Vec::new()], (0..world.clients).map(|_| None).collect());
        let server = Some(server);
        Stage { world, seed, means, tempo, clients, server, disk, network, server_at, notes, over_at, writers: 0 }
    }

    /// Runs the world to its end; says what was left undone.
    fn play(&mut self) -> Result<Option<String>> {
        let schedule = self.world.schedule(self.seed);
        for index in 0..self.world.clients {
            self.start_client(index)?;
        }
        let begun = self.over_at - self.tempo.length.as_nanos() as u64;
        for change in schedule.changes() {
            sleep_until(begun + change.at.as_nanos() as u64);
            let kind = if change.begins { Kind::Invoke } else { Kind::Ok };
            let place = change.fault.place();
            // It is noted before it is there, and after it is gone.
            if change.begins {
                self.note_fault(kind, change.fault.name(), &place);
                self.begin(change.fault).with_context(|| format!("{} {place}", change.fault.name()))?;
            } else {
                self.end(change.fault).with_context(|| format!("the end of {} {place}", change.fault.name()))?;
                self.note_fault(kind, change.fault.name(), &place);
            }
        }
        sleep_until(self.over_at);
        let crashed = self.server.as_mut().map(ServerProcess::ended).transpose()?.flatten();
        if schedule.kills_server {
            self.note_fault(Kind::Invoke, "kill", "server");
            self.server = None;
        }
        if self.world.is_durable && crashed.is_none() {
            let fault = Fault::Crash(Death::Kill);
            self.note_fault(Kind::Invoke, fault.name(), &fault.place());
            self.begin(&fault)?;
            self.end(&fault).context("the server's last restart")?;
            self.note_fault(Kind::Ok, fault.name(), &fault.place());
        }
        for index in 0..self.world.clients {
            if !self.end_client(index, self.tempo.settling)? {
                return Ok(Some(format!("client {index} did not end after the heal")));
            }
        }
        match crashed {
            Some(status) => Ok(Some(format!("the server has ended by itself: {status}"))),
            None if self.server.is_none() => Ok(None),
            None => self.read_all(),
        }
    }

    fn start_client(&mut self, index: usize) -> Result<()> {
        let task = Task::Converse { keys: self.world.keys() };
        let client = self.start(node_of(Node::Client(index)), task, self.over_at)?;
        self.clients[index] = Some(client);
        Ok(())
    }

    fn start(&mut self, node: usize, task: Task, over_at: u64) -> Result<ClientProcess> {
        let order = ClientOrder::new(self.world, self.server_at, self.seed, self.writers, task, over_at);
        self.writers += 1;
        ClientProcess::start(&self.network, node, self.means, &order)
    }

    /// Waits for a client, and takes its notes. Whether it ended by itself.
    fn end_client(&mut self, index: usize, longest: Duration) -> Result<bool> {
        let Some(mut client) = self.clients[index].take() else { return Ok(true) };
        let ended = client.wait(longest)?;
        self.notes.push(client.into_notes()?);
        Ok(ended)
    }

    /// Reads what was left in the end.
    fn read_all(&mut self) -> Result<Option<String>> {
        let longest = self.tempo.settling;
        let over_at = monotonic_now() + longest.as_nanos() as u64;
        let task = Task::ReadAll { keys: self.world.keys() };
        let mut reader = self.start(node_of(Node::Client(0)), task, over_at)?;
        reader.wait(longest * 2)?;
        let notes = reader.into_notes()?;
        let read = notes.iter().filter(|event| event.kind == Kind::Ok).count();
        self.notes.push(notes);
        let is_whole = read >= self.world.keys().len();
        Ok((!is_whole).then(|| "the final reads did not end after the heal".into()))
    }

    fn begin(&mut self, fault: &Fault) -> Result<()> {
        match fault {
            Fault::Cut { to_server, from_server } => self.network.cut(&links(to_server, from_server)),
            Fault::Loss(percent) => self.network.lose(*percent),
            Fault::Full(_) => anyhow::bail!("the disks of processes have room"),
            Fault::Pause(node) => self.process(*node).map_or(Ok(()), NodeProcess::pause),
            Fault::Kill(index) => {
                if let Some(client) = self.clients[*index].take() {
                    self.notes.push(client.into_notes()?);
                }
                Ok(())
            }
            // If it has ended by itself, that is what there is to say.
            Fault::Crash(_) => match self.server.as_mut().map(ServerProcess::ended).transpose()?.flatten() {
                Some(status) => bail!("the server has ended by itself: {status}"),
                None if *fault == Fault::Crash(Death::Stop) => {
                    self.server.as_ref().map_or(Ok(()), |server| server.node.stop())
                }
                None => {
                    self.server = None;
                    Ok(())
                }
            },
        }
    }

    fn end(&mut self, fault: &Fault) -> Result<()> {
        match fault {
            Fault::Cut { .. } => self.network.cut(&[]),
            Fault::Loss(_) => self.network.lose(0),
            Fault::Full(_) => Ok(()),
            Fault::Pause(node) => self.process(*node).map_or(Ok(()), NodeProcess::resume),
            Fault::Kill(index) => self.start_client(*index),
            Fault::Crash(_) => {
                // One that was asked to end has done so, and all was well; or it is killed.
                if let Some(status) = self.server.as_mut().map(ServerProcess::ended).transpose()?.flatten() {
                    ensure!(status.success(), "the server was asked to end, and did so with {status}");
                }
                self.server = None;
                let server = ServerProcess::start(&self.network, SERVER, self.means, self.world, self.disk.as_ref())?;
                self.server = Some(server);
                Ok(())
            }
        }
    }

    /// A node's process, if it runs.
    fn process(&self, node: Node) -> Option<&NodeProcess> {
        match node {
            Node::Server => self.server.as_ref().map(|server| &server.node),
            Node::Client(index) => self.clients[index].as_ref().map(|client| &client.node),
        }
    }

    fn note_fault(&mut self, kind: Kind, f: &str, place: &str) {
        let (f, value) = (f.to_string(), (place.to_string(), Datum::Nil));
        self.notes[0].push(Event { index: 0, process: Process::NEMESIS, kind, f, value, time: monotonic_now() });
    }
}

/// The links, from a node to a node, that a cut of these clients cuts.
fn links(to_server: &[usize], from_server: &[usize]) -> Vec<(usize, usize)> {
    let node = |&index: &usize| node_of(Node::Client(index));
    let there = to_server.iter().map(|index| (node(index), SERVER));
    there.chain(from_server.iter().map(|index| (SERVER, node(index)))).collect()
}

fn sleep_until(at: u64) {
    std::thread::sleep(Duration::from_nanos(at.saturating_sub(monotonic_now())));
}
