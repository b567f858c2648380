//! The world: hosts, their cores, and the clock; who is stepped next, and what befalls them.

use std::cell::{Cell, RefCell};
use std::future::Future;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::rc::Rc;
use std::time::Duration;

use libos_mem::{Heap, Plan, Reservation, Reserves, Source};
use libos_runtime::{Core, CoreParts, Coroutine, IdlePolicy, LibOs, MeshKind, mesh};
use pdpix::{Endpoint, Instant, Rng};

use crate::clock::HostClock;
use crate::fabric::Fabric;
use crate::network::SimNetwork;
use crate::settings::Settings;

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

type Boot = Box<dyn FnMut(&LibOs)>;

struct Host {
    name: String,
    clock: HostClock,
    cores: Vec<HostCore>,
    boot: Boot,
    /// It stands still.
    paused: bool,
}

struct HostCore {
    /// Its number in the world.
    number: usize,
    core: Option<Core>,
    heap: Option<Heap>,
    /// It has something to do now; or at this time of the world.
    due: bool,
    deadline: Option<Instant>,
}

struct Task {
    name: String,
    at: CoreId,
    coroutine: Coroutine<()>,
}

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
    fabric: Rc<RefCell<Fabric>>,
    /// The order of steps, and the seeds of cores.
    rng: Rng,
    hosts: Vec<Host>,
    tasks: Vec<Task>,
    passes: u64,
}

// Making.
impl World {
    /// A world without hosts.
    pub fn new(seed: u64, settings: Settings) -> World {
        let mut rng = Rng::new(seed);
        let fabric = Fabric::new(settings.clone(), rng.fork());
        World {
            seed,
            settings,
            clock: Rc::default(),
            fabric: Rc::new(RefCell::new(fabric)),
            rng,
            hosts: Vec::new(),
            tasks: Vec::new(),
            passes: 0,
        }
    }

    /// A host, which boots at once: `boot` runs for each of its cores, now and after each restart, and starts there what
    /// is to run.
    ///
    /// # Panics
    /// If the system gives no memory.
    pub fn add_host(&mut self, name: &str, cores: usize, boot: impl FnMut(&LibOs) + 'static) -> HostId {
        let number = self.hosts.len() as u8 + 1;
        let mut fabric = self.fabric.borrow_mut();
        let ipv6 = Ipv6Addr::new(0xfd00, 0, 0, 0, 0, 0, 0, u16::from(number));
        let host = fabric.add_host([IpAddr::V4(Ipv4Addr::new(10, 0, 0, number)), IpAddr::V6(ipv6)]);
        let cores = (0..cores).map(|_| HostCore {
            number: fabric.add_core(host),
            core: None,
            heap: None,
            due: true,
            deadline: None,
        });
        let cores = cores.collect();
        drop(fabric);
        let clock = HostClock { world: self.clock.clone(), origin: Duration::from_micros(self.rng.below(1 << 40)) };
        self.hosts.push(Host { name: name.to_string(), clock, cores, boot: Box::new(boot), paused: false });
        self.boot(HostId(host));
        HostId(host)
    }

    fn boot(&mut self, id: HostId) {
        let host = &mut self.hosts[id.0];
        let heap_size = self.settings.heap_size;
        let reserves = Reserves::usual(heap_size);
        let plan = Plan { heaps: host.cores.len(), heap_size, reserves, source: Source::Ordinary };
        let reservation = Reservation::new(plan).expect("memory for a simulated host");
        let ports = mesh(host.cores.len(), MeshKind::Stepped).expect("stepped cores need nothing of the system");
        for (ports, (index, this)) in ports.into_iter().zip(host.cores.iter_mut().enumerate()) {
            let heap = reservation.heap(index).expect("each heap is taken once");
            let incarnation = self.fabric.borrow_mut().start_core(this.number, heap.clone());
            let network = SimNetwork::new(self.fabric.clone(), this.number, incarnation);
            let parts = CoreParts {
                networks: vec![("sim".to_string(), Box::new(network))],
                idle: IdlePolicy::Stepped,
                seed: self.rng.next_u64(),
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
        self.fabric.borrow().trace.lines(last)
    }

    /// A number that stands for everything that has happened: worlds that differ in anything differ in it.
    pub fn fingerprint(&self) -> u64 {
        self.fabric.borrow().trace.fingerprint()
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
        let mut due: Vec<CoreId> = self.due().collect();
        if due.is_empty() {
            return self.wait(until);
        }
        for i in (1..due.len()).rev() {
            due.swap(i, self.rng.below(i as u64 + 1) as usize);
        }
        for at in due {
            self.step(at);
        }
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
            this.due |= woken.contains(&this.number) || this.deadline.is_some_and(|deadline| deadline <= now);
        }
    }

    fn due(&self) -> impl Iterator<Item = CoreId> {
        let of = |(host, this): (usize, &Host)| {
            let due = this.cores.iter().enumerate().filter(|(_, core)| core.due && core.core.is_some() && !this.paused);
            due.map(|(index, _)| HostId(host).core(index)).collect::<Vec<_>>()
        };
        self.hosts.iter().enumerate().flat_map(of)
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
        let running = self.hosts.iter().filter(|host| !host.paused);
        let deadlines = running.flat_map(|host| &host.cores).filter(|this| this.core.is_some());
        deadlines.filter_map(|this| this.deadline).chain(self.fabric.borrow().next_event()).min()
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
        self.fabric.borrow().check();
    }

    /// Goes on until nothing happens any more within `quiet`, but no longer than for ten times as long.
    pub fn settle(&mut self, quiet: Duration) {
        let end = self.now() + quiet * 10;
        while self.now() < end {
            self.run_events();
            if self.due().next().is_none() && self.next().is_none_or(|next| next > self.now() + quiet) {
                return self.fabric.borrow().check();
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

// What befalls them.
impl World {
    /// Nothing passes between two hosts any more, in either direction.
    pub fn partition(&mut self, a: HostId, b: HostId) {
        self.partition_one_way(a, b);
        self.partition_one_way(b, a);
    }

    /// Nothing that `from` sends reaches `to` any more.
    pub fn partition_one_way(&mut self, from: HostId, to: HostId) {
        self.note("partition", from, to);
        self.fabric.borrow_mut().set_cut(from.0, to.0, true);
    }

    /// Everything passes again between two hosts.
    pub fn heal(&mut self, a: HostId, b: HostId) {
        self.note("heal", a, b);
        [(a, b), (b, a)].into_iter().for_each(|(from, to)| self.fabric.borrow_mut().set_cut(from.0, to.0, false));
    }

    /// Breaks the connections between two hosts; says how many there were.
    pub fn break_connections(&mut self, a: HostId, b: HostId) -> usize {
        self.note("break connections", a, b);
        self.fabric.borrow_mut().reset_between(a.0, b.0)
    }

    /// A host stands still: its programs do nothing, its network goes on, time passes.
    pub fn pause(&mut self, id: HostId) {
        self.note("pause", id, id);
        self.hosts[id.0].paused = true;
    }

    /// A host that stood still goes on as if nothing had been.
    pub fn resume(&mut self, id: HostId) {
        self.note("resume", id, id);
        self.hosts[id.0].paused = false;
    }

    /// A host stops in the middle of everything: its peers are told nothing, its memory is gone.
    pub fn crash(&mut self, id: HostId) {
        self.fabric.borrow_mut().crash(id.0);
        self.hosts[id.0].paused = false;
        self.tasks.retain(|task| task.at.host != id);
        for this in &mut self.hosts[id.0].cores {
            (this.core, this.heap, this.due, this.deadline) = (None, None, false, None);
        }
    }

    /// A host that has crashed boots again, with nothing but what its boot closure has kept.
    ///
    /// # Panics
    /// If it is up.
    pub fn restart(&mut self, id: HostId) {
        assert!(!self.is_up(id), "{} is up", self.hosts[id.0].name);
        self.note("restart", id, id);
        self.boot(id);
    }

    /// The process of a core ends: what it had open is closed by its system, as far as that can be done in order.
    pub fn end_core(&mut self, at: CoreId) {
        self.tasks.retain(|task| task.at != at);
        let this = &mut self.hosts[at.host.0].cores[at.index];
        (this.core, this.due, this.deadline) = (None, false, None);
    }

    fn note(&self, what: &'static str, a: HostId, b: HostId) {
        self.fabric.borrow_mut().note(usize::MAX, what, a.0 as u64, b.0 as u64);
    }

    /// The end of the world: all cores are dropped.
    ///
    /// # Panics
    /// If a buffer was not given back. (Who holds one from outside has to drop it before.)
    pub fn end(mut self) {
        self.tasks.clear();
        self.fabric.borrow().check();
        let cores = || self.hosts.iter().flat_map(|host| &host.cores);
        let heaps: Vec<(usize, Heap)> = cores().filter_map(|this| Some((this.number, this.heap.clone()?))).collect();
        let hosts = std::mem::take(&mut self.hosts);
        drop(hosts);
        *self.fabric.borrow_mut() = Fabric::new(self.settings.clone(), Rng::new(0));
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
