//! Cores that really sleep: two threads, each with a core that lies down as soon as it has nothing to do.
//!
//! The rest of the suite polls all the time, and so would not notice a backend that fails to wake its core: whose `arm`
//! forgets a descriptor, or loses what came between the last poll and the sleep.

use std::net::IpAddr;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::time::Duration;

use libos_mem::{Heap, Plan, Reservation, Reserves, Source};
use libos_runtime::{Core, CoreParts, IdlePolicy, KernelClock, LibOs, MeshKind, Patience, mesh};
use pdpix::{Endpoint, Error, Network, Outcome, QToken, Rng, Sga, SocketKind};

use crate::pattern::Pattern;
use crate::subject::Side;

/// Makes a network for the heap of a core, in the core's thread.
pub type MakeNetwork = fn(&Heap) -> Result<Box<dyn Network>, Error>;

/// The same, told whose core it is for.
pub trait MakeSide: Fn(Side, &Heap) -> Result<Box<dyn Network>, Error> + Copy + Send + 'static {}

impl<F: Fn(Side, &Heap) -> Result<Box<dyn Network>, Error> + Copy + Send + 'static> MakeSide for F {}

/// Nobody waits longer than a fraction of this, unless a wake-up was lost.
const LOST: Duration = Duration::from_secs(10);
const ROUNDS: u64 = 200;
const SLEEPY: IdlePolicy = IdlePolicy::Adaptive(Patience { spin: Duration::ZERO, gather: Duration::ZERO });

/// A core of this thread.
struct Sleeper {
    core: Core,
    rng: Rng,
}

impl Sleeper {
    fn new(make: impl MakeSide, side: Side, seed: u64) -> Result<Sleeper, Error> {
        let heap_size = 64 << 20;
        let plan = Plan { heaps: 1, heap_size, reserves: Reserves::usual(heap_size), source: Source::Ordinary };
        let heap = Reservation::new(plan).map_err(|_| Error::NoBuffers)?.heap(0).expect("taken once");
        let ports = mesh(1, MeshKind::Threads).map_err(|_| Error::NoBuffers)?.remove(0);
        let networks = vec![("default".to_string(), make(side, &heap)?)];
        let parts = CoreParts { networks, idle: SLEEPY, ..CoreParts::new(heap, Box::new(KernelClock), ports) };
        Ok(Sleeper { core: Core::new(parts), rng: Rng::new(seed) })
    }

    fn libos(&self) -> &LibOs {
        self.core.libos()
    }

    /// Lets the other side fall asleep, or not quite.
    fn dawdle(&mut self) {
        std::thread::sleep(Duration::from_micros(1 << self.rng.below(12)));
    }

    /// Waits, and fails if that took so long that only its end can have woken us.
    fn wait(&self, what: &str, qt: QToken) -> Result<Outcome<pdpix::Qd>, Error> {
        let start = std::time::Instant::now();
        let completion = self.libos().wait(qt, Some(LOST));
        assert!(completion.is_ok() && start.elapsed() < LOST / 2, "a wake-up for {what} was lost");
        completion.and_then(|completion| completion.result)
    }

    fn send(&self, qd: pdpix::Qd, bytes: &[u8]) {
        let sga = Sga::copy(self.libos().heap(), bytes).expect("memory");
        let qt = self.libos().push(qd, sga).expect("an open queue");
        self.wait("a push", qt).expect("it is connected");
    }

    /// Takes in so many bytes.
    fn receive(&self, qd: pdpix::Qd, len: usize) -> Vec<u8> {
        let mut all = Vec::new();
        while all.len() < len {
            let qt = self.libos().pop(qd, len - all.len()).expect("an open queue");
            match self.wait("data", qt) {
                Ok(Outcome::Popped(popped)) if !popped.sga.is_empty() => all.extend(popped.sga.to_vec()),
                other => panic!("a pop gave {other:?}"),
            }
        }
        all
    }

    fn expect_end(&self, qd: pdpix::Qd) {
        let qt = self.libos().pop(qd, 1).expect("an open queue");
        match self.wait("the end", qt) {
            Ok(Outcome::Popped(popped)) => assert!(popped.sga.is_empty()),
            other => panic!("a pop gave {other:?}"),
        }
    }

    /// Everything that was in use is given back, without anybody else doing anything.
    fn end(self) {
        let start = std::time::Instant::now();
        while self.libos().zombies() > 0 {
            assert!(start.elapsed() < LOST, "a closed queue is still there");
            self.core.step();
        }
        assert_eq!((self.libos().tokens_in_use(), self.libos().queues_in_use()), (0, 0));
        assert!(self.libos().counters().sleeps > 0, "it never slept: this shows nothing");
    }
}

/// A core that sleeps is woken for a connection, for data, for room to push, for the end, and for a datagram. Each thread
/// makes its own network. Gives `Err` with what `make` says, if there is none on this machine.
///
/// # Errors
/// What `make` gives.
///
/// # Panics
/// If a wake-up is lost.
pub fn a_sleeping_core_is_woken_for_everything(make: MakeNetwork, ip: IpAddr) -> Result<(), Error> {
    hosts_that_sleep_are_woken_for_everything(move |_, heap: &Heap| make(heap), [ip; 2])
}

/// The same between the client's host and the server's, whose addresses these are.
///
/// # Errors
/// What `make` gives.
///
/// # Panics
/// If a wake-up is lost.
pub fn hosts_that_sleep_are_woken_for_everything(make: impl MakeSide, ips: [IpAddr; 2]) -> Result<(), Error> {
    Sleeper::new(make, Side::SERVER, 0).map(drop)?;
    let (tell, told) = channel::<Endpoint>();
    let me = Sleeper::new(make, Side::CLIENT, 2)?;
    let server = std::thread::spawn(move || {
        server(Sleeper::new(make, Side::SERVER, 1).expect("as before"), ips[1], &tell);
    });
    client(me, ips[0], &told);
    server.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic));
    Ok(())
}

/// More than fits on the way to one who does not read.
const MUCH: usize = 24 << 20;
const PIECE: usize = 1 << 20;

fn server(mut me: Sleeper, ip: IpAddr, tell: &Sender<Endpoint>) {
    let libos = me.libos().clone();
    let listener = libos.socket(SocketKind::Stream, None).expect("a queue");
    let at = libos.bind(listener, Endpoint::new(ip, 0)).expect("a free port");
    libos.listen(listener, 16).expect("it is bound");
    tell.send(at).expect("the client listens");
    let datagrams = libos.socket(SocketKind::Datagram, None).expect("a queue");
    let at = libos.bind(datagrams, Endpoint::new(ip, 0)).expect("a free port");
    tell.send(at).expect("the client listens");
    for round in 0..ROUNDS {
        let qt = libos.accept(listener).expect("it listens");
        let (qd, _) = match me.wait("a connection", qt) {
            Ok(Outcome::Accepted { queue, peer }) => (queue, peer),
            other => panic!("an accept gave {other:?}"),
        };
        let message = me.receive(qd, 100);
        me.dawdle();
        me.send(qd, &message);
        me.expect_end(qd);
        libos.close(qd).expect("it is open");
        let qt = libos.pop(datagrams, 100).expect("a bound queue");
        let Ok(Outcome::Popped(popped)) = me.wait("a datagram", qt) else { panic!("a pop failed") };
        assert_eq!(popped.sga.to_vec(), round.to_le_bytes());
        me.dawdle();
        let qt = libos.push_to(datagrams, popped.sga, popped.from.expect("its sender")).expect("a bound queue");
        me.wait("a push", qt).expect("it is handed over");
    }
    // Now one that reads late: the client sleeps until there is room.
    let qt = libos.accept(listener).expect("it listens");
    let Ok(Outcome::Accepted { queue: qd, .. }) = me.wait("a connection", qt) else { panic!("an accept failed") };
    for piece in 0..MUCH / PIECE {
        me.dawdle();
        assert_eq!(Pattern::of(1).check((piece * PIECE) as u64, &me.receive(qd, PIECE)), Ok(()));
    }
    me.expect_end(qd);
    [qd, listener, datagrams].into_iter().for_each(|qd| libos.close(qd).expect("it is open"));
    drop(libos);
    me.end();
}

fn client(mut me: Sleeper, ip: IpAddr, told: &Receiver<Endpoint>) {
    let libos = me.libos().clone();
    let to = told.recv().expect("the server tells");
    let datagrams_to = told.recv().expect("the server tells");
    let datagrams = libos.socket(SocketKind::Datagram, None).expect("a queue");
    libos.bind(datagrams, Endpoint::new(ip, 0)).expect("a free port");
    let connect = |me: &Sleeper| {
        let qd = libos.socket(SocketKind::Stream, None).expect("a queue");
        let qt = libos.connect(qd, to).expect("a new stream");
        me.wait("a connect", qt).expect("the server listens");
        qd
    };
    for round in 0..ROUNDS {
        me.dawdle();
        let qd = connect(&me);
        me.dawdle();
        let message = Pattern::of(round).bytes(0, 100);
        me.send(qd, &message);
        assert_eq!(me.receive(qd, 100), message);
        me.dawdle();
        libos.finish(qd).expect("it is connected");
        libos.close(qd).expect("it is open");
        me.dawdle();
        let sga = Sga::copy(libos.heap(), &round.to_le_bytes()).expect("memory");
        let qt = libos.push_to(datagrams, sga, datagrams_to).expect("a bound queue");
        me.wait("a push", qt).expect("it is handed over");
        let qt = libos.pop(datagrams, 100).expect("a bound queue");
        let Ok(Outcome::Popped(popped)) = me.wait("a datagram", qt) else { panic!("a pop failed") };
        assert_eq!(popped.sga.to_vec(), round.to_le_bytes());
    }
    let qd = connect(&me);
    for piece in 0..MUCH / PIECE {
        me.send(qd, &Pattern::of(1).bytes((piece * PIECE) as u64, PIECE));
    }
    libos.finish(qd).expect("it is connected");
    me.expect_end(qd);
    [qd, datagrams].into_iter().for_each(|qd| libos.close(qd).expect("it is open"));
    drop(libos);
    me.end();
}

/// The part of the suite that needs cores which sleep: `suite_asleep!(name, make, address)`, where `make` is a
/// [`MakeNetwork`] and both sides are at `address`.
#[macro_export]
macro_rules! suite_asleep {
    ($name:ident, $make:expr, $ip:expr) => {
        mod $name {
            #[allow(unused_imports, reason = "what `make` may name")]
            use super::*;

            #[test]
            fn a_sleeping_core_is_woken_for_everything() {
                if let Err(error) = $crate::sleeping::a_sleeping_core_is_woken_for_everything($make, $ip) {
                    $crate::say(&format!(
                        "SKIP {}::a_sleeping_core_is_woken_for_everything: {error}",
                        stringify!($name)
                    ));
                }
            }
        }
    };
}
