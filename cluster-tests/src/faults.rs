//! What befalls a world, and when: a schedule drawn from the seed.
//!
//! Always: every fault has an end, and at the end of the schedule all is healed; or the last of all is that the server, which
//! keeps nothing, is killed. A server that keeps its data dies at any time, and comes back. Faults overlap, but not two on the same thing: one cut of the network at a time, one loss, and of a node one.

use std::fmt;
use std::time::Duration;

use pdpix::Rng;

/// A machine of the world.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Node {
    /// The service.
    Server,
    /// A client.
    Client(usize),
}

/// What can befall a world.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Kind {
    /// Links carry nothing.
    Cut,
    /// Nodes stand still.
    Pause,
    /// Clients are killed, in the middle of anything.
    Kill,
    /// What is sent gets lost, some of it.
    Loss,
    /// The server is killed at the end. It forgets everything, so the history ends there.
    KillServer,
    /// The server dies, and comes back with what is on its disk.
    Crash,
    /// A disk has no room for a while.
    Full,
}

impl Kind {
    /// All that befalls a server that keeps nothing.
    pub const ALL: &[Kind] = &[Kind::Cut, Kind::Pause, Kind::Kill, Kind::Loss, Kind::KillServer];
    /// All that befalls one that keeps its data: mostly that it dies.
    pub const WITH_CRASHES: &[Kind] =
        &[Kind::Crash, Kind::Cut, Kind::Crash, Kind::Pause, Kind::Crash, Kind::Kill, Kind::Crash, Kind::Loss];
    /// What befalls one whose disks have no room now and then.
    pub const WITH_FULL_DISKS: &[Kind] = &[Kind::Crash, Kind::Full, Kind::Crash, Kind::Kill, Kind::Crash, Kind::Full];
}

/// A fault.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Fault {
    /// Nothing passes from these clients to the server, and from the server to these. The same clients in both: a
    /// partition. One list empty: a one-way one. Different lists: an asymmetric one.
    Cut {
        /// Clients that the server does not hear.
        to_server: Vec<usize>,
        /// Clients that do not hear the server.
        from_server: Vec<usize>,
    },
    /// It stands still, and later goes on as if nothing had been.
    Pause(Node),
    /// It is killed, and later started anew.
    Kill(usize),
    /// The server dies, and is started anew with what is on its disk.
    Crash(Death),
    /// The disk of this core takes nothing more. That is over when the server is started anew, at the latest.
    Full(usize),
    /// So many of a hundred frames to and from the server are lost. Where there are no frames but streams, connections
    /// break instead.
    Loss(u64),
}

/// How a server dies.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Death {
    /// Its process is killed: what it has handed to its disk is there.
    Kill,
    /// Its machine loses the power: of what no flush covers, any part is there. Between processes it is a kill, as the
    /// machine is ours.
    Power,
    /// It is asked to end; when the time is over its machine loses the power, or, between processes, it is killed.
    Stop,
}

/// A fault and its time.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Window {
    /// Since the beginning of the run.
    pub begin: Duration,
    /// Later than that.
    pub end: Duration,
    /// What happens between them.
    pub fault: Fault,
}

/// A fault that begins or ends.
#[derive(Clone, Copy, Debug)]
pub struct Change<'a> {
    /// Since the beginning of the run.
    pub at: Duration,
    /// Or it ends.
    pub begins: bool,
    /// Which.
    pub fault: &'a Fault,
}

/// All faults of a run.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Schedule {
    /// In the order of their beginnings.
    pub windows: Vec<Window>,
    /// When all is healed, or the server killed.
    pub length: Duration,
    /// The run ends with the death of the server, and not with a heal.
    pub kills_server: bool,
}

/// What a schedule is drawn for.
#[derive(Clone, Copy, Debug)]
pub struct Extent<'a> {
    /// What may happen.
    pub kinds: &'a [Kind],
    /// To how many clients.
    pub clients: usize,
    /// And cores of the server, each with a disk.
    pub cores: usize,
    /// Until when.
    pub length: Duration,
    /// The longest that a fault lasts.
    pub longest: Duration,
}

/// So many faults are tried for, on average, in the time of the longest.
const TRIES_PER_LONGEST: u32 = 3;

/// A server is dead for so much shorter a time than other faults last.
const DEAD_SHORTER: u32 = 6;

impl Schedule {
    /// A schedule, which is a function of the generator.
    pub fn draw(rng: &mut Rng, extent: Extent<'_>) -> Schedule {
        let Extent { kinds, length, longest, .. } = extent;
        let kills_server = kinds.contains(&Kind::KillServer) && rng.chance(0.25);
        let kinds: Vec<Kind> = kinds.iter().copied().filter(|&kind| kind != Kind::KillServer).collect();
        let mut windows: Vec<Window> = Vec::new();
        let mut begin = Duration::ZERO;
        while !kinds.is_empty() {
            begin += part(rng, longest * 2 / TRIES_PER_LONGEST);
            let mut end = begin + longest / 20 + part(rng, longest * 19 / 20);
            if end >= length {
                break;
            }
            let kind = kinds[rng.below(kinds.len() as u64) as usize];
            if kind == Kind::Crash {
                // While it is dead nothing is learnt of it.
                end = begin + (end - begin) / DEAD_SHORTER;
            }
            let fault = Fault::draw(rng, kind, extent);
            if windows.iter().all(|window| window.end < begin || !window.fault.excludes(&fault)) {
                windows.push(Window { begin, end, fault });
            }
        }
        Schedule { windows, length, kills_server }
    }

    /// What changes, in order. Where several do at once, ends come first.
    pub fn changes(&self) -> Vec<Change<'_>> {
        let mut changes: Vec<Change<'_>> = Vec::with_capacity(2 * self.windows.len());
        for Window { begin, end, fault } in &self.windows {
            changes.push(Change { at: *begin, begins: true, fault });
            changes.push(Change { at: *end, begins: false, fault });
        }
        changes.sort_by_key(|change| (change.at, change.begins));
        changes
    }
}

/// Any part of a time.
fn part(rng: &mut Rng, of: Duration) -> Duration {
    Duration::from_nanos(rng.range(1..=of.as_nanos() as u64))
}

/// Some of the clients, at least one.
fn some(rng: &mut Rng, clients: usize) -> Vec<usize> {
    let chosen: Vec<usize> = (0..clients).filter(|_| rng.chance(0.5)).collect();
    if chosen.is_empty() { vec![rng.below(clients as u64) as usize] } else { chosen }
}

impl Death {
    /// Mostly the worst of them.
    pub fn draw(rng: &mut Rng) -> Death {
        match rng.below(10) {
            0..6 => Death::Power,
            6..8 => Death::Stop,
            _ => Death::Kill,
        }
    }
}

impl Fault {
    fn draw(rng: &mut Rng, kind: Kind, Extent { clients, cores, .. }: Extent<'_>) -> Fault {
        let client = rng.below(clients as u64) as usize;
        match kind {
            Kind::Cut => {
                let (to_server, from_server) = match rng.below(4) {
                    0 => (some(rng, clients), Vec::new()),
                    1 => (Vec::new(), some(rng, clients)),
                    2 => (some(rng, clients), some(rng, clients)),
                    _ => {
                        let both = some(rng, clients);
                        (both.clone(), both)
                    }
                };
                Fault::Cut { to_server, from_server }
            }
            Kind::Pause if rng.chance(0.5) => Fault::Pause(Node::Server),
            Kind::Pause => Fault::Pause(Node::Client(client)),
            Kind::Kill | Kind::KillServer => Fault::Kill(client),
            Kind::Crash => Fault::Crash(Death::draw(rng)),
            Kind::Full => Fault::Full(rng.below(cores as u64) as usize),
            Kind::Loss => Fault::Loss(rng.range(1..=30)),
        }
    }

    /// Whether both cannot be at one time.
    fn excludes(&self, other: &Fault) -> bool {
        match (self, other) {
            (Fault::Cut { .. }, Fault::Cut { .. }) | (Fault::Loss(_), Fault::Loss(_)) => true,
            (Fault::Full(core), Fault::Full(other)) => core == other,
            _ => self.node().is_some() && self.node() == other.node(),
        }
    }

    fn node(&self) -> Option<Node> {
        match self {
            Fault::Pause(node) => Some(*node),
            Fault::Kill(client) => Some(Node::Client(*client)),
            Fault::Crash(_) => Some(Node::Server),
            Fault::Cut { .. } | Fault::Loss(_) | Fault::Full(_) => None,
        }
    }

    /// What a history calls it.
    pub fn name(&self) -> &'static str {
        match self {
            Fault::Cut { .. } => "cut",
            Fault::Pause(_) => "pause",
            Fault::Kill(_) | Fault::Crash(Death::Kill) => "kill",
            Fault::Crash(Death::Power) => "power",
            Fault::Crash(Death::Stop) => "stop",
            Fault::Loss(_) => "loss",
            Fault::Full(_) => "full",
        }
    }

    /// What it is done to.
    pub fn place(&self) -> String {
        match self {
            Fault::Cut { to_server, from_server } if to_server == from_server => {
                format!("clients {} | server", list(to_server))
            }
            Fault::Cut { to_server, from_server } => {
                let cut = |clients: &[usize], way| {
                    (!clients.is_empty()).then(|| format!("clients {} {way} server", list(clients)))
                };
                let parts = [cut(to_server, "-x->"), cut(from_server, "<-x-")];
                parts.into_iter().flatten().collect::<Vec<_>>().join(", ")
            }
            Fault::Pause(node) => node.to_string(),
            Fault::Kill(client) => Node::Client(*client).to_string(),
            Fault::Crash(_) => Node::Server.to_string(),
            Fault::Loss(percent) => format!("server, {percent} %"),
            Fault::Full(core) => format!("disk {core}"),
        }
    }
}

fn list(clients: &[usize]) -> String {
    clients.iter().map(usize::to_string).collect::<Vec<_>>().join(" ")
}

impl fmt::Display for Node {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Node::Server => f.write_str("server"),
            Node::Client(index) => write!(f, "client {index}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn draw(seed: u64, kinds: &[Kind]) -> Schedule {
        let (length, longest) = (Duration::from_millis(400), Duration::from_millis(40));
        Schedule::draw(&mut Rng::new(seed), Extent { kinds, clients: 4, cores: 2, length, longest })
    }

    #[test]
    fn a_seed_is_a_schedule() {
        assert_eq!(draw(3, Kind::ALL), draw(3, Kind::ALL));
        assert_ne!(draw(3, Kind::ALL), draw(4, Kind::ALL));
        assert_eq!(draw(3, &[]).windows, []);
    }

    #[test]
    fn faults_end_and_none_is_brought_twice_at_once() {
        for schedule in (0..200).map(|seed| draw(seed, Kind::ALL)) {
            assert!(schedule.windows.len() > 3, "{schedule:?}");
            for (i, window) in schedule.windows.iter().enumerate() {
                assert!(window.begin < window.end && window.end < schedule.length, "{window:?}");
                let together = schedule.windows[..i].iter().filter(|before| before.end >= window.begin);
                together.for_each(|before| assert!(!before.fault.excludes(&window.fault), "{before:?} {window:?}"));
            }
            let changes = schedule.changes();
            assert!(changes.windows(2).all(|pair| pair[0].at <= pair[1].at));
            assert_eq!(changes.iter().filter(|change| change.begins).count(), schedule.windows.len());
        }
    }

    #[test]
    fn all_that_is_asked_for_comes_and_nothing_else() {
        let names = |kinds: &[Kind]| {
            let all = (0..50).flat_map(|seed| draw(seed, kinds).windows);
            let mut names: Vec<&str> = all.map(|window| window.fault.name()).collect();
            names.sort_unstable();
            names.dedup();
            names
        };
        assert_eq!(names(Kind::ALL), ["cut", "kill", "loss", "pause"]);
        assert_eq!(names(&[Kind::Cut]), ["cut"]);
        assert_eq!(names(&[Kind::Crash]), ["kill", "power", "stop"]);
        assert_eq!(names(Kind::WITH_CRASHES), ["cut", "kill", "loss", "pause", "power", "stop"]);
        assert_eq!(names(Kind::WITH_FULL_DISKS), ["full", "kill", "power", "stop"]);
        let killed = (0..100).filter(|&seed| draw(seed, Kind::ALL).kills_server).count();
        assert!((10..40).contains(&killed), "{killed} of 100");
        let ways = |seeds: std::ops::Range<u64>| seeds.flat_map(|seed| draw(seed, &[Kind::Cut]).windows);
        let is = |test: fn(&[usize], &[usize]) -> bool| {
            ways(0..50).any(
                |window| matches!(&window.fault, Fault::Cut { to_server, from_server } if test(to_server, from_server)),
            )
        };
        assert!(is(|to, from| to == from) && is(|to, _| to.is_empty()) && is(|_, from| from.is_empty()));
        assert!(is(|to, from| to != from && !to.is_empty() && !from.is_empty()), "an asymmetric one");
    }
}
