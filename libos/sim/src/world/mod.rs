//! The world: hosts, their cores, and the clock; who is stepped next.

mod faults;
mod host;

use std::cell::{Cell, RefCell};
use std::future::Future;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::rc::Rc;
use std::time::Duration;

use libos_mem::{Heap, Plan, Reservation, Reserves, Source};
use libos_net::Crossing;
use libos_net::LineSettings;
use libos_net::wire::Mac;
use libos_runtime::{Core, CoreParts, IdlePolicy, LibOs, MeshKind, buf_rings, mesh};
use pdpix::{Endpoint, Instant, Network, Rng};

use crate::clock::HostClock;
use crate::disk::{DiskSettings, SimDisk};
use crate::fabric::Fabric;
use crate::frames::{FrameNet, SimDevice, SwitchId};
use crate::network::SimNetwork;
use crate::settings::Settings;
use crate::trace::WorldTrace;
pub use host::{Attached, AttachedDisks, MakeNetwork, MakeStorages, NetKind};
use host::{Host, HostCore, HostNet, Task};

/// Names a host of a world.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub struct HostId(usize);

impl HostId {
    /// One of its cores.
    pub fn core(self, index: usize) -> CoreId {
        CoreId { host: self, index }
    }
}

/// Names a core of a world.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub struct CoreId {
    /// Whose.
    pub host: HostId,
    /// Which of them.
    pub index: usize,
}

/// Steps of every core before a world is quiet: what was lent is given back, and taken in.
const LAST_ROUNDS: usize = 2;

/// What [`World::turn`] did.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Turn {
    /// Some cores were stepped.
    Stepped,
    /// Time has passed.
    Waited,
    /// Nothing: nothing will ever happen by itself.
    Idle,
}

/// A deterministic world: everything that happens in it is a function of its seed, its settings, and what is called.
pub struct World {
    seed: u64,
    settings: Settings,
    clock: Rc<Cell<Instant>>,
    clocks_behind: Rc<Cell<Duration>>,
    trace: Rc<RefCell<WorldTrace>>,
    fabric: Rc<RefCell<Fabric>>,
    frames: Rc<RefCell<FrameNet>>,
    /// The order of steps, and the seeds of cores.
    rng: Rng,
    hosts: Vec<Host>,
    tasks: Vec<Task>,
    /// Cores by their number in the world.
    cores: Vec<CoreId>,
    /// Those that are stepped in this turn.
    due: Vec<CoreId>,
    passes: u64,
}

// Making.
impl World {
    /// A world without hosts.
    pub fn new(seed: u64, settings: Settings) -> World {
        let mut rng = Rng::new(seed);
        let trace = Rc::new(RefCell::new(WorldTrace::new(settings.keep_trace)));
        let fabric = Fabric::new(settings.clone(), rng.fork(), trace.clone());
        // Its chance is its own: what a world of messages does is no matter of what frames would.
        let frames = FrameNet::new(Rng::new(seed ^ u64::from_le_bytes(*b"ethernet")), trace.clone());
        World {
            seed,
            settings,
            clock: Rc::default(),
            clocks_behind: Rc::default(),
            trace,
            fabric: Rc::new(RefCell::new(fabric)),
            frames: Rc::new(RefCell::new(frames)),
            rng,
            hosts: Vec::new(),
            tasks: Vec::new(),
            cores: Vec::new(),
            due: Vec::new(),
            passes: 0,
        }
    }

    /// A host over messages, which boots at once: `boot` runs for each of its cores, now and after each restart, and starts
    /// there what is to run.
    ///
    /// # Panics
    /// If the system gives no memory.
    pub fn add_host(&mut self, name: &str, cores: usize, boot: impl FnMut(&LibOs) + 'static) -> HostId {
        self.add_host_on(NetKind::Messages, name, cores, boot)
    }

    /// A host over this kind of network; see [`World::add_host`].
    ///
    /// # Panics
    /// If the system gives no memory.
    pub fn add_host_on(
        &mut self,
        net: NetKind,
        name: &str,
        cores: usize,
        boot: impl FnMut(&LibOs) + 'static,
    ) -> HostId {
        self.add_host_with_disks(net, Vec::new(), Box::new(|_| Vec::new()), name, cores, boot)
    }

    /// A host with disks, and what makes storages of them for each of its cores, when it boots.
    ///
    /// # Panics
    /// If the system gives no memory.
    pub fn add_host_with_disks(
        &mut self,
        net: NetKind,
        disks: Vec<DiskSettings>,
        storages: MakeStorages,
        name: &str,
        cores: usize,
        boot: impl FnMut(&LibOs) + 'static,
    ) -> HostId {
        let id = HostId(self.hosts.len());
        let numbers: Vec<usize> = {
            let mut fabric = self.fabric.borrow_mut();
            let host = fabric.add_host([self.address(id), self.address_v6(id)]);
            (0..cores).map(|_| fabric.add_core(host)).collect()
        };
        self.cores.extend((0..cores).map(|index| id.core(index)));
        let net = match net {
            NetKind::Messages => HostNet::Messages,
            NetKind::Frames(interface, make) => {
                let port = self.frames.borrow_mut().add_port(id.0, self.mac(id), &numbers, *interface);
                HostNet::Frames(port, make)
            }
        };
        let of_number = |number| HostCore { number, core: None, heap: None, due: true, deadline: None };
        let cores = numbers.into_iter().map(of_number).collect();
        let origin = Duration::from_micros(self.rng.below(1 << 40));
        let clock = HostClock { world: self.clock.clone(), origin, behind: self.clocks_behind.clone() };
        // Its chance is its own, as that of frames is.
        let chance = |i: usize| Rng::new(self.seed ^ u64::from_le_bytes(*b"platters") ^ (id.0 << 8 | i) as u64);
        let disks = disks.into_iter().enumerate().map(|(i, settings)| SimDisk::new(settings, chance(i)));
        let disks: Vec<SimDisk> = disks.inspect(|disk| disk.trace_to(self.trace.clone())).collect();
        let (name, boot) = (name.to_string(), Box::new(boot));
        self.hosts.push(Host { name, clock, cores, net, disks, storages, is_paused: false, boot });
        self.boot(id);
        id
    }

    /// A switch, for interfaces of hosts and for other switches.
    pub fn add_switch(&mut self) -> SwitchId {
        self.frames.borrow_mut().add_switch()
    }

    /// A cable between two switches, of two lines: from the first to the second, and back.
    ///
    /// # Panics
    /// If there is a way between them already.
    pub fn join_switches(&mut self, a: SwitchId, b: SwitchId, settings: [LineSettings; 2]) {
        self.frames.borrow_mut().join_switches(a, b, settings);
    }

    /// A cable straight between two hosts whose interfaces are open ([`Plug::Open`](crate::Plug::Open)).
    ///
    /// # Panics
    /// If one of them is plugged in already.
    pub fn join(&mut self, a: HostId, b: HostId, settings: [LineSettings; 2]) {
        let (a, b) = (self.port(a), self.port(b));
        self.frames.borrow_mut().join_ports(a, b, settings);
    }

    fn boot(&mut self, id: HostId) {
        let heap_size = self.settings.heap_size;
        let addresses = [self.address(id), self.address_v6(id)];
        let host = &mut self.hosts[id.0];
        let cores = host.cores.len();
        let plan = Plan { heaps: cores, heap_size, reserves: Reserves::usual(heap_size), source: Source::Ordinary };
        let reservation = Reservation::new(plan).expect("memory for a simulated host");
        let ports = mesh(cores, MeshKind::Stepped).expect("stepped cores need nothing of the system");
        let host_seed = self.rng.clone().fork().fork().next_u64();
        let mut secret = [0; 16];
        Rng::new(host_seed).fill(&mut secret);
        let shared = (cores > 1).then(|| libos_net::Host::new(cores, secret, host_seed));
        let mut rings = buf_rings(&ports).into_iter();
        for (ports, (index, this)) in ports.into_iter().zip(host.cores.iter_mut().enumerate()) {
            let heap = reservation.heap(index).expect("each heap is taken once");
            let seed = self.rng.next_u64();
            let network: Box<dyn Network> = match &mut host.net {
                HostNet::Messages => {
                    let incarnation = self.fabric.borrow_mut().start_core(this.number, heap.clone());
                    Box::new(SimNetwork::new(self.fabric.clone(), this.number, incarnation))
                }
                HostNet::Frames(port, make) => make(Attached {
                    device: SimDevice::new(&self.frames, *port, index, heap.clone()),
                    heap: heap.clone(),
                    core: id.core(index),
                    cores,
                    addresses,
                    seed: Rng::new(seed).next_u64(),
                    host_seed,
                    crossing: rings.next().zip(shared.clone()).map(|(rings, host)| Crossing {
                        host,
                        conduit: rings.with_heap(heap.clone()),
                        sends_through: None,
                    }),
                }),
            };
            let storages = (host.storages)(AttachedDisks {
                disks: host.disks.clone(),
                heap: heap.clone(),
                core: id.core(index),
                seed: Rng::new(seed ^ 1).next_u64(),
            });
            let parts = CoreParts {
                networks: vec![("sim".to_string(), network)],
                storages,
                idle: IdlePolicy::Stepped,
                seed,
                ..CoreParts::new(heap.clone(), Box::new(host.clock.clone()), ports)
            };
            (this.core, this.heap) = (Some(Core::new(parts)), Some(heap));
            (this.due, this.deadline) = (true, None);
        }
        for this in &host.cores {
            let core = this.core.as_ref().expect("just made");
            (host.boot)(core.libos());
        }
    }

    /// Starts something on a core that [`World::run`] waits for. If its host crashes, it is gone.
    ///
    /// # Panics
    /// If the host is down.
    pub fn spawn<F: Future<Output = ()> + 'static>(&mut self, at: CoreId, name: &str, body: impl FnOnce(LibOs) -> F) {
        let libos = self.libos(at);
        let coroutine = libos.spawn(body(libos.clone()));
        self.tasks.push(Task { name: name.to_string(), at, coroutine });
        self.wake(at);
    }
}

// Looking.
impl World {
    /// What everything is a function of.
    pub fn seed(&self) -> u64 {
        self.seed
    }

    /// The time of the world. Each host's clock has another origin.
    pub fn now(&self) -> Instant {
        self.clock.get()
    }

    /// Sets the time of day back on all hosts, by so much beside the world's time; zero sets it right again.
    pub fn set_clocks_back(&mut self, by: Duration) {
        self.clocks_behind.set(by);
    }

    /// A generator for the test's own choices.
    pub fn fork_rng(&mut self) -> Rng {
        self.rng.fork()
    }

    /// A core's library OS. What is called on it from outside is to be followed by [`World::wake`].
    ///
    /// # Panics
    /// If the host is down.
    pub fn libos(&self, at: CoreId) -> LibOs {
        let this = &self.hosts[at.host.0].cores[at.index];
        this.core.as_ref().unwrap_or_else(|| panic!("{} is down", self.hosts[at.host.0].name)).libos().clone()
    }

    /// A host's address.
    pub fn address(&self, host: HostId) -> IpAddr {
        IpAddr::V4(Ipv4Addr::new(10, 0, 0, host.0 as u8 + 1))
    }

    /// Its IPv6 address.
    pub fn address_v6(&self, host: HostId) -> IpAddr {
        IpAddr::V6(Ipv6Addr::new(0xfd00, 0, 0, 0, 0, 0, 0, host.0 as u16 + 1))
    }

    /// A disk of a host.
    pub fn disk(&self, host: HostId, index: usize) -> SimDisk {
        self.hosts[host.0].disks[index].clone()
    }

    /// The address of its interface, where it has one. No two differ in less than four bits: a flipped one makes no host into
    /// another, which would teach switches lies.
    pub fn mac(&self, host: HostId) -> Mac {
        let number = host.0 as u8 + 1;
        Mac([2, 0, number, number, number, number])
    }

    /// A port of a host.
    pub fn endpoint(&self, host: HostId, port: u16) -> Endpoint {
        Endpoint::new(self.address(host), port)
    }

    /// Whether a host runs.
    pub fn is_up(&self, host: HostId) -> bool {
        self.hosts[host.0].cores.iter().any(|this| this.core.is_some())
    }

    /// The last lines of the trace: all, if the settings say that it is kept.
    pub fn trace(&self, last: usize) -> String {
        self.trace.borrow().lines(last)
    }

    /// A number that stands for everything that has happened: worlds that differ in anything differ in it.
    pub fn fingerprint(&self) -> u64 {
        self.trace.borrow().fingerprint()
    }
}

// Going on.
impl World {
    /// A core has something to do: something was called on its LibOs from outside.
    pub fn wake(&mut self, at: CoreId) {
        self.hosts[at.host.0].cores[at.index].due = true;
    }

    /// Steps the cores that have something to do, once each, in an order drawn by chance; if none has, lets time pass up
    /// to the next thing that happens, but not beyond `until`.
    pub fn turn(&mut self, until: Instant) -> Turn {
        self.run_events();
        let mut due = std::mem::take(&mut self.due);
        due.clear();
        due.extend(self.cores.iter().filter(|&&at| self.is_due(at)));
        if due.is_empty() {
            self.due = due;
            return self.wait(until);
        }
        for i in (1..due.len()).rev() {
            due.swap(i, self.rng.below(i as u64 + 1) as usize);
        }
        due.iter().for_each(|&at| self.step(at));
        self.due = due;
        self.set_now(self.now() + self.settings.pass);
        self.passes += 1;
        assert!(self.passes < self.settings.passes_max, "{} passes, and no end: {}", self.passes, self.who_waits());
        Turn::Stepped
    }

    fn set_now(&mut self, now: Instant) {
        self.clock.set(now);
        self.fabric.borrow_mut().now = now;
    }

    fn run_events(&mut self) {
        let now = self.now();
        let mut fabric = self.fabric.borrow_mut();
        fabric.run_events();
        let woken = std::mem::take(&mut fabric.woken);
        for this in self.hosts.iter_mut().flat_map(|host| &mut host.cores) {
            this.due |= this.deadline.is_some_and(|deadline| deadline <= now);
            this.due |= this.core.as_ref().is_some_and(Core::take_rung);
        }
        let mut frames = self.frames.borrow_mut();
        frames.run_events(now);
        for number in woken.into_iter().chain(frames.woken.drain(..)) {
            let at = self.cores[number];
            self.hosts[at.host.0].cores[at.index].due = true;
        }
    }

    fn is_due(&self, at: CoreId) -> bool {
        let host = &self.hosts[at.host.0];
        let this = &host.cores[at.index];
        this.due && this.core.is_some() && !host.is_paused
    }

    fn step(&mut self, at: CoreId) {
        let host = &mut self.hosts[at.host.0];
        let this = &mut host.cores[at.index];
        let Some(core) = &this.core else { return };
        self.fabric.borrow_mut().note(this.number, "step", 0, 0);
        let step = core.step();
        this.due = step.busy;
        this.deadline = step.deadline.map(|at| host.clock.to_world(at)).filter(|&at| at != Instant::NEVER);
        if step.busy {
            // It may have sent something to its neighbours.
            host.cores.iter_mut().for_each(|this| this.due = true);
        }
    }

    /// When the next thing happens by itself.
    fn next(&self) -> Option<Instant> {
        let cores = self.hosts.iter().filter(|host| !host.is_paused).flat_map(|host| &host.cores);
        let deadlines = cores.filter(|this| this.core.is_some()).filter_map(|this| this.deadline);
        deadlines.chain(self.fabric.borrow().next_event()).chain(self.frames.borrow().next_event()).min()
    }

    fn wait(&mut self, until: Instant) -> Turn {
        match self.next() {
            None => Turn::Idle,
            Some(next) => {
                let next = next.max(self.now() + Duration::from_nanos(1)).min(until.max(self.now()));
                self.set_now(next);
                Turn::Waited
            }
        }
    }

    /// Goes on for so long.
    pub fn run_for(&mut self, duration: Duration) {
        let until = self.now() + duration;
        while self.now() < until {
            if self.turn(until) == Turn::Idle {
                return self.set_now(until);
            }
        }
    }

    /// Goes on until `done`.
    ///
    /// # Panics
    /// If nothing can happen any more before that.
    pub fn run_until(&mut self, what: &str, mut done: impl FnMut(&World) -> bool) {
        while !done(self) {
            if self.turn(Instant::NEVER) == Turn::Idle {
                panic!("deadlock: nothing can happen any more, before {what}; {}", self.who_waits());
            }
        }
    }

    /// Goes on until everything that [`World::spawn`] started has ended.
    ///
    /// # Panics
    /// If nothing can happen any more and some wait.
    pub fn run(&mut self) {
        self.run_until("all tasks have ended", |world| world.tasks.iter().all(|task| task.coroutine.has_ended()));
        self.tasks.clear();
        self.check();
    }

    /// What must hold between any two turns.
    fn check(&self) {
        self.fabric.borrow().check();
        self.frames.borrow().check();
    }

    /// Goes on until nothing happens any more within `quiet`, but no longer than for ten times as long.
    pub fn settle(&mut self, quiet: Duration) {
        let end = self.now() + quiet * 10;
        let mut rounds = 0;
        while self.now() < end {
            self.run_events();
            let is_idle = !self.cores.iter().any(|&at| self.is_due(at));
            if is_idle && self.next().is_none_or(|next| next > self.now() + quiet) {
                if rounds == LAST_ROUNDS {
                    return self.check();
                }
                // What cores have borrowed from one another goes home when they are stepped.
                rounds += 1;
                self.hosts.iter_mut().flat_map(|host| &mut host.cores).for_each(|this| this.due = true);
            }
            self.turn(end);
        }
    }

    fn who_waits(&self) -> String {
        let waiting = self.tasks.iter().filter(|task| !task.coroutine.has_ended());
        let names: Vec<String> = waiting
            .map(|task| format!("{} on {}:{}", task.name, self.hosts[task.at.host.0].name, task.at.index))
            .collect();
        if names.is_empty() { "no task waits".into() } else { format!("these wait: {}", names.join(", ")) }
    }
}

// The end.
impl World {
    /// The end of the world: all cores are dropped.
    ///
    /// # Panics
    /// If a buffer was not given back. (Who holds one from outside has to drop it before.)
    pub fn end(mut self) {
        self.tasks.clear();
        self.check();
        let cores = || self.hosts.iter().flat_map(|host| &host.cores);
        let heaps: Vec<(usize, Heap)> = cores().filter_map(|this| Some((this.number, this.heap.clone()?))).collect();
        let hosts = std::mem::take(&mut self.hosts);
        drop(hosts);
        *self.fabric.borrow_mut() = Fabric::new(self.settings.clone(), Rng::new(0), self.trace.clone());
        self.frames.borrow_mut().clear();
        // What was lent comes home, perhaps over several cores.
        for _ in 0..2 {
            heaps.iter().for_each(|(_, heap)| heap.exchange_returns());
        }
        for (number, heap) in heaps {
            let stats = heap.stats();
            let left = (stats.pinned, stats.borrowed);
            assert_eq!(left, (0, 0), "core {number} has not given back all its memory, or what it borrowed");
        }
    }
}
