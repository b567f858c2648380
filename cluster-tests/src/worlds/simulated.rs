//! A cache and its clients on hosts of the simulator, over messages or over frames. A run is a function of the world and the
//! seed.

use std::cell::{Cell, RefCell};
use std::mem::ManuallyDrop;
use std::rc::Rc;
use std::time::Duration;

use framework::System;
use kv_server::{Durability, ServerArgs};
use libos_journal::{Format, Settings as StoreSettings, Store};
use libos_net::{LineSettings, Loss};
use libos_runtime::LibOs;
use libos_sim::{
    Attached, AttachedDisks, DiskSettings, HostId, Interface, NetKind, Plug, Settings, SwitchId, Turn,
    World as Simulation,
};
use pdpix::{Instant, Rng, Storage};

use super::{Played, Stage as StageKind, World};
use crate::client::{self, Manner, Notes};
use crate::faults::{Death, Fault, Kind as FaultKind, Node};
use crate::history::{Datum, History, Kind, Process, Recorder};
use crate::workload::Workload;

const PORT: u16 = 6379;

/// The nature of the simulator's network in this world.
pub fn settings(world: &World) -> Settings {
    let resets = if world.faults.contains(&FaultKind::Loss) { 0.002 } else { 0.0 };
    // What was lost is sent again sooner than a client loses patience, at least at first.
    Settings { resets, retry: Duration::from_millis(3), ..Settings::default() }
}

/// Makes a run.
///
/// # Panics
/// If the service panics, or does not give its memory back.
pub fn run(world: &World, seed: u64) -> Played {
    // After a panic it stands in the middle of something: it is not even dropped.
    let mut simulation = ManuallyDrop::new(Simulation::new(seed, settings(world)));
    let played = play(world, &mut simulation);
    ManuallyDrop::into_inner(simulation).end();
    played
}

/// Makes a run in a world that was just made with [`settings`], such as that of a sweep.
pub fn play(world: &World, simulation: &mut Simulation) -> Played {
    let seed = simulation.seed();
    let mut stage = Stage::new(world, simulation);
    let stuck = stage.play(world, seed);
    let events = stage.shared.recorder.take().into_events();
    Played { history: History { header: world.header(seed), events }, stuck }
}

/// What the clients share with whoever runs the world.
#[derive(Default)]
struct Shared {
    recorder: RefCell<Recorder>,
    /// The world's time, in nanoseconds.
    now: Cell<u64>,
    over: Cell<bool>,
    /// The process that each client is at present; the last is the one that reads at the end.
    processes: RefCell<Vec<Option<Process>>>,
    /// How many clients run.
    running: Cell<usize>,
    /// How many clients there were, those that were killed included.
    writers: Cell<u64>,
}

/// The notes of one client.
struct ClientNotes {
    shared: Rc<Shared>,
    index: usize,
}

impl ClientNotes {
    /// For a client that runs from now on.
    fn new(shared: &Rc<Shared>, index: usize) -> ClientNotes {
        shared.running.set(shared.running.get() + 1);
        ClientNotes { shared: shared.clone(), index }
    }
}

impl Notes for ClientNotes {
    fn new_process(&self) -> Process {
        let process = self.shared.recorder.borrow_mut().new_process();
        self.shared.processes.borrow_mut()[self.index] = Some(process);
        process
    }

    fn note(&self, process: Process, kind: Kind, f: &str, value: (String, Datum)) {
        self.shared.note(process, kind, f, value);
    }

    fn is_over(&self) -> bool {
        self.shared.over.get()
    }
}

/// A client is gone: it has come to its end, or its host crashed.
impl Drop for ClientNotes {
    fn drop(&mut self) {
        self.shared.processes.borrow_mut()[self.index] = None;
        self.shared.running.set(self.shared.running.get() - 1);
    }
}

impl Shared {
    fn note(&self, process: Process, kind: Kind, f: &str, value: (String, Datum)) {
        self.recorder.borrow_mut().note(process, kind, f, value, self.now.get());
    }

    /// A client is gone, in the middle of anything.
    fn lose(&self, process: Option<Process>) {
        if let Some(process) = process {
            self.recorder.borrow_mut().lose(process, self.now.get());
        }
    }
}

/// What joins hosts, if there are frames.
#[derive(Clone)]
struct Wires {
    switch: SwitchId,
    /// Each of the lines between the switch and a host.
    line: LineSettings,
}

impl Wires {
    /// Where frames are lost, others are overtaken, doubled or damaged, all the time.
    fn new(world: &World, simulation: &mut Simulation) -> Wires {
        let mut line = LineSettings {
            latency: Duration::from_micros(10)..=Duration::from_micros(150),
            bandwidth: Some(1_000_000_000),
            ..LineSettings::default()
        };
        if world.faults.contains(&FaultKind::Loss) {
            line.strays = 0.01;
            line.stray_by = Duration::from_micros(100)..=Duration::from_millis(2);
            (line.duplication, line.corruption, line.truncation) = (0.005, 0.002, 0.001);
        }
        Wires { switch: simulation.add_switch(), line }
    }

    fn plug(&self) -> NetKind {
        let lines = Interface::plugged(Plug::Switch(self.switch));
        NetKind::frames(Interface { out: self.line.clone(), back: self.line.clone(), ..lines }, Attached::stack)
    }
}

/// How long the server may take to end; longer than it is given.
const GRACE: Duration = Duration::from_secs(5);
/// Bytes of a disk, one a core.
const DISK: u64 = 2 << 20;
/// With a log of more bytes than this a snapshot is written: some in each run.
const LOG_LEN_MAX: u64 = 4 << 10;

/// Slow disks, so that mostly something waits for a flush: as slow, for those who wait, as clients are in asking. What they
/// lose is what a cut of the power takes: they do not fail, as a cache whose disk has failed serves what it could not write
/// (docs/persistence.md), and so forgets it when it dies.
fn disks(world: &World) -> Vec<DiskSettings> {
    let slowest = world.tempo().pause_max / 2;
    let disk = DiskSettings {
        latency: Duration::from_micros(10)..=slowest / 5,
        flush_latency: Duration::from_micros(50)..=slowest,
        slow: 0.005,
        ..DiskSettings::new(DISK)
    };
    vec![disk; world.cores]
}

/// The storage of a core: a journal on the disk that is its own, if it has one.
fn storage(attached: AttachedDisks) -> Vec<(String, Box<dyn Storage>)> {
    let Some(disk) = attached.disks.get(attached.core.index) else { return Vec::new() };
    // Half of them can force a write.
    let forces = attached.seed >> (attached.core.index % 64) & 1 == 1;
    disk.change(|settings| settings.geometry.forces = forces);
    let format = Some(Format::new(u128::from(attached.seed)));
    let store =
        Store::new(Box::new(disk.device()), attached.heap, StoreSettings { format, ..StoreSettings::default() });
    vec![("disk".to_owned(), Box::new(store))]
}

/// The cores of the server that are up, so that it can be asked to end.
type Systems = Rc<RefCell<Vec<System>>>;

fn add_server(simulation: &mut Simulation, wires: Option<&Wires>, world: &World, systems: &Systems) -> HostId {
    let mut args = ServerArgs::new(pdpix::Endpoint::new([0, 0, 0, 0].into(), PORT));
    let mut disks_of_cores = Vec::new();
    if world.is_durable {
        (args.durability, args.has_storage) = (Durability::Always, true);
        (args.log_len_max, args.storage_len) = (LOG_LEN_MAX, DISK);
        // A disk without room may be met when it starts: it is started again after that.
        args.on_trouble = if world.writes_only { |_| {} } else { |why| panic!("{why}") };
        disks_of_cores = disks(world);
    }
    let net = wires.map_or(NetKind::Messages, Wires::plug);
    let systems = systems.clone();
    simulation.add_host_with_disks(net, disks_of_cores, Box::new(storage), "server", world.cores, move |libos| {
        let system = System::new(libos);
        kv_server::run(&system, args.clone());
        if args.has_storage {
            systems.borrow_mut().push(system);
        }
    })
}

fn add_host(
    simulation: &mut Simulation,
    wires: Option<&Wires>,
    name: &str,
    cores: usize,
    boot: impl FnMut(&LibOs) + 'static,
) -> HostId {
    simulation.add_host_on(wires.map_or(NetKind::Messages, Wires::plug), name, cores, boot)
}

struct Stage<'a> {
    simulation: &'a mut Simulation,
    shared: Rc<Shared>,
    wires: Option<Wires>,
    server: HostId,
    systems: Systems,
    clients: Vec<HostId>,
    manner: Manner,
    cores: usize,
    is_durable: bool,
}

impl<'a> Stage<'a> {
    fn new(world: &World, simulation: &'a mut Simulation) -> Stage<'a> {
        let wires = (world.stage == StageKind::Frames).then(|| Wires::new(world, simulation));
        let systems = Systems::default();
        let server = add_server(simulation, wires.as_ref(), world, &systems);
        let shared = Rc::new(Shared::default());
        shared.processes.borrow_mut().resize(world.clients + 1, None);
        let manner = world.manner(simulation.endpoint(server, PORT));
        let World { cores, is_durable, .. } = *world;
        let mut stage =
            Stage { simulation, shared, wires, server, systems, clients: Vec::new(), manner, cores, is_durable };
        (0..world.clients).for_each(|index| stage.add_client(world, index));
        stage
    }

    fn add_client(&mut self, world: &World, index: usize) {
        let keys = world.keys();
        let (shared, manner, seed) = (self.shared.clone(), self.manner.clone(), self.simulation.seed());
        let writes_only = world.writes_only;
        let host = add_host(self.simulation, self.wires.as_ref(), &format!("client {index}"), 1, move |libos| {
            let writer = shared.writers.replace(shared.writers.get() + 1);
            let workload = Workload::new(client::rng_of(seed, writer), keys.clone(), writer);
            let workload = if writes_only { workload.of_writes() } else { workload };
            let (manner, notes) = (manner.clone(), ClientNotes::new(&shared, index));
            let _goes_on = System::new(libos).task(|task| client::converse(task, manner, workload, notes));
        });
        self.clients.push(host);
    }

    /// Runs the world to its end; says what was left undone.
    fn play(&mut self, world: &World, seed: u64) -> Option<String> {
        let schedule = world.schedule(seed);
        for change in schedule.changes() {
            self.run_to(change.at);
            let kind = if change.begins { Kind::Invoke } else { Kind::Ok };
            self.note_fault(kind, change.fault);
            if change.begins { self.begin(change.fault) } else { self.end(change.fault) }
        }
        self.run_to(schedule.length);
        if schedule.kills_server {
            let what = || ("server".to_string(), Datum::Nil);
            self.shared.note(Process::NEMESIS, Kind::Invoke, "kill", what());
            self.simulation.crash(self.server);
        }
        if world.is_durable {
            self.crash_at_the_end(Death::draw(&mut Rng::new(seed)));
        }
        self.shared.over.set(true);
        if !self.run_while(world.tempo().settling, |shared| shared.running.get() > 0) {
            self.systems.take();
            return Some("the clients did not end after the heal".into());
        }
        let stuck = if schedule.kills_server { None } else { self.read_all(world) };
        self.systems.take();
        stuck
    }

    /// The last fault is that the server dies in the middle of all calls: so nothing that the final reads see is there
    /// because it was in memory.
    fn crash_at_the_end(&mut self, death: Death) {
        let fault = Fault::Crash(death);
        self.note_fault(Kind::Invoke, &fault);
        self.begin(&fault);
        self.run_to(self.simulation.now().since(Instant::ZERO) + Duration::from_millis(1));
        self.end(&fault);
        self.note_fault(Kind::Ok, &fault);
    }

    fn note_fault(&self, kind: Kind, fault: &Fault) {
        self.shared.note(Process::NEMESIS, kind, fault.name(), (fault.place(), Datum::Nil));
    }

    /// Reads what was left in the end.
    fn read_all(&mut self, world: &World) -> Option<String> {
        let (shared, manner, index) = (self.shared.clone(), self.manner.clone(), world.clients);
        let keys = world.keys();
        shared.over.set(false);
        add_host(self.simulation, self.wires.as_ref(), "reader", 1, move |libos| {
            let (manner, keys, notes) = (manner.clone(), keys.clone(), ClientNotes::new(&shared, index));
            let _goes_on = System::new(libos).task(|task| client::read_all(task, manner, keys, notes));
        });
        let ended = self.run_while(world.tempo().settling, |shared| shared.running.get() > 0);
        (!ended).then(|| "the final reads did not end after the heal".into())
    }

    fn begin(&mut self, fault: &Fault) {
        match fault {
            Fault::Cut { to_server, from_server } => {
                to_server.iter().for_each(|&i| self.simulation.partition_one_way(self.clients[i], self.server));
                from_server.iter().for_each(|&i| self.simulation.partition_one_way(self.server, self.clients[i]));
            }
            Fault::Pause(node) => self.simulation.pause(self.host(*node)),
            Fault::Kill(index) => {
                let process = self.shared.processes.borrow()[*index];
                self.simulation.crash(self.clients[*index]);
                self.shared.lose(process);
            }
            Fault::Crash(Death::Power) => {
                self.systems.take();
                self.simulation.crash(self.server);
            }
            Fault::Crash(Death::Kill) => {
                self.systems.take();
                self.simulation.kill(self.server);
            }
            Fault::Crash(Death::Stop) => self.stop(),
            Fault::Full(core) => self.simulation.disk(self.server, *core).change(|disk| disk.full = 1.0),
            Fault::Loss(percent) if self.wires.is_some() => self.lose(*percent),
            Fault::Loss(_) => {
                for &client in &self.clients {
                    self.simulation.break_connections(client, self.server);
                }
            }
        }
    }

    fn end(&mut self, fault: &Fault) {
        match fault {
            Fault::Cut { to_server, from_server } => {
                let cut = to_server.iter().chain(from_server);
                cut.for_each(|&i| self.simulation.heal(self.clients[i], self.server));
            }
            Fault::Pause(node) => self.simulation.resume(self.host(*node)),
            Fault::Kill(index) => self.simulation.restart(self.clients[*index]),
            Fault::Crash(death) => {
                if *death == Death::Stop {
                    self.simulation.crash(self.server);
                }
                // Without room for a note it would not start.
                (0..self.cores).for_each(|core| self.make_room(core));
                self.simulation.restart(self.server);
            }
            Fault::Full(core) => self.make_room(*core),
            Fault::Loss(_) if self.wires.is_some() => self.lose(0),
            Fault::Loss(_) => {}
        }
    }

    /// Asks the server to end, as SIGTERM does.
    fn stop(&mut self) {
        for (index, system) in self.systems.take().into_iter().enumerate() {
            self.simulation.spawn(self.server.core(index), "stop", move |_| async move {
                system.drain(GRACE).await;
            });
        }
    }

    fn make_room(&mut self, core: usize) {
        if self.is_durable {
            self.simulation.disk(self.server, core).change(|disk| disk.full = 0.0);
        }
    }

    /// Loses so many of a hundred frames from and to the server.
    fn lose(&mut self, percent: u64) {
        for line in [self.simulation.line_from(self.server), self.simulation.line_to(self.server)] {
            let loss = if percent == 0 { Loss::None } else { Loss::Each(percent as f64 / 100.0) };
            self.simulation.change_line(line, |line| line.loss = loss);
        }
    }

    fn host(&self, node: Node) -> HostId {
        match node {
            Node::Server => self.server,
            Node::Client(index) => self.clients[index],
        }
    }

    /// Goes on until this time of the world.
    fn run_to(&mut self, at: Duration) {
        let until = Instant::ZERO + at;
        while self.simulation.now() < until {
            if self.turn(until) == Turn::Idle {
                self.simulation.run_for(until.since(self.simulation.now()));
            }
        }
    }

    /// Goes on while it is so, for no longer than this. Whether it came to an end.
    fn run_while(&mut self, longest: Duration, goes_on: impl Fn(&Shared) -> bool) -> bool {
        let until = self.simulation.now() + longest;
        while goes_on(&self.shared) {
            if self.simulation.now() >= until || self.turn(until) == Turn::Idle {
                return false;
            }
        }
        true
    }

    fn turn(&mut self, until: Instant) -> Turn {
        self.shared.now.set(self.simulation.now().as_nanos());
        self.simulation.turn(until)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::check::Verdict;

    /// Runs in which no disk forgets anything would pass without a flush.
    #[test]
    fn power_is_cut_while_disks_have_something_to_lose_and_snapshots_are_written() {
        for name in ["sim-durable-2", "tcp-durable-2"] {
            let world = World::find(name).expect("it is there");
            let (mut cuts, mut lost, mut kept, mut snapshots) = (0, 0, 0, 0);
            for seed in 1..=10 {
                let mut simulation = Simulation::new(seed, settings(world));
                let mut stage = Stage::new(world, &mut simulation);
                assert_eq!(stage.play(world, seed), None);
                for disk in (0..world.cores).map(|core| stage.simulation.disk(stage.server, core)) {
                    let counters = disk.counters();
                    cuts += counters.power_cuts;
                    lost += counters.units_lost;
                    kept += counters.units_kept;
                    snapshots += usize::from(disk.contents().windows(9).any(|bytes| bytes == b"REDIS0010"));
                }
                simulation.end();
            }
            assert!(cuts > 40 && lost > 5 && kept > 5, "{name}: {cuts} cuts, {lost} units lost, {kept} kept");
            assert!(snapshots > 10, "{name}: {snapshots} of 20 disks have a snapshot");
        }
    }

    #[test]
    fn a_service_that_does_not_come_back_is_told() {
        let world = World::find("sim-calm").expect("it is there");
        let mut simulation = Simulation::new(1, settings(world));
        let mut stage = Stage::new(world, &mut simulation);
        stage.run_to(Duration::from_millis(20));
        stage.simulation.pause(stage.server);
        stage.shared.over.set(true);
        assert!(stage.run_while(Duration::from_secs(1), |shared| shared.running.get() > 0), "clients end all the same");
        assert_eq!(stage.read_all(world).as_deref(), Some("the final reads did not end after the heal"));
        let events = stage.shared.recorder.take().into_events();
        let history = History { header: world.header(1), events };
        let run = Played { history, stuck: Some("as above".into()) }.judge();
        assert_eq!(run.verdict, Verdict::Valid, "what was seen until then is right");
        assert!(!run.has_passed());
    }
}
