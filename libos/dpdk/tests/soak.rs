//! Echoes without end over memif, between two cores on threads of their own: what is in use at the end is what was in use at
//! the start, and nothing was lost.
//!
//! 300,000 echoes, or `MARGAY_ECHOES` of them. Nine in ten are messages of 64 B on TCP connections with many under way, each
//! tenth is a datagram. Every connection carries so many and is closed, and the next is made. Each answer is compared with what
//! was asked.

mod ports;

use std::cell::RefCell;
use std::collections::VecDeque;
use std::io::Write as _;
use std::rc::Rc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, mpsc};
use std::time::Duration;

use libos_dpdk::{Port, Queue};
use libos_mem::{Heap, HeapStats};
use libos_net::{Cidr, Device, Frame, IpSettings, Link, NetNetwork, NetSettings, Received};
use libos_runtime::{Core, CoreParts, IdlePolicy, KernelClock, LibOs, MeshKind, Patience, mesh};
use pdpix::{Endpoint, Error, Instant, Network, Qd, Sga, SocketKind, WakeOn};
use ports::{Kind, Wire, reserve};

const HEAP_SIZE: usize = 64 << 20;
const ADDRESSES: [[u8; 4]; 2] = [[10, 80, 0, 1], [10, 80, 0, 2]];
const PORT: u16 = 7;
const SIZE: usize = 64;
/// At a time, and messages under way on each.
const CONNECTIONS: usize = 16;
const IN_FLIGHT: u64 = 64;
/// Echoes of a connection, before it is closed and the next is made.
const OF_A_CONNECTION: u64 = 250_000;
const DATAGRAMS_IN_FLIGHT: u64 = 16;
/// What is done before it is counted what is in use: each has been made once that is kept.
const WARM_UP: u64 = 100_000;
/// How long connections that are closed may go on: TIME-WAIT is the longest of it.
const QUIET_MAX: Duration = Duration::from_secs(150);
/// How long an echo may take, on a machine that has other things to do.
const PATIENCE: Duration = Duration::from_secs(20);

/// What a core has in use, and what its device has lost.
#[derive(Clone, Debug)]
struct Books {
    heap: HeapStats,
    tokens: usize,
    queues: usize,
    zombies: usize,
    in_flight: usize,
    lost: Vec<(&'static str, u64)>,
}

/// Spans of 256 that may be held beyond those at the start: a frame received leaves its buffer another chunk, and so the
/// buffers of the ring, all of them in use as before, end up in as many spans as there were at the busiest moment.
const SPANS_SCATTERED: usize = 32;

impl Books {
    /// Whether the same is in use, and no more is lost.
    fn balance(&self, before: &Books) -> bool {
        let heap = HeapStats { free_spans: before.heap.free_spans, ..self.heap };
        let counts = |it: &Books| (it.tokens, it.queues, it.zombies, it.in_flight, it.lost.clone());
        heap == before.heap
            && counts(self) == counts(before)
            && self.heap.free_spans.abs_diff(before.heap.free_spans) <= SPANS_SCATTERED
    }
}

/// A queue that is looked at beside the stack that has it.
#[derive(Clone)]
struct Shared(Rc<RefCell<Queue>>);

impl Device for Shared {
    fn link(&self) -> Link {
        self.0.borrow().link()
    }

    fn receive(&mut self, now: Instant, into: &mut VecDeque<Received>, room: usize) -> Result<(), Error> {
        self.0.borrow_mut().receive(now, into, room)
    }

    fn transmit(&mut self, now: Instant, frames: &mut VecDeque<Frame>) {
        self.0.borrow_mut().transmit(now, frames);
    }

    fn flush(&mut self, now: Instant) {
        self.0.borrow_mut().flush(now);
    }

    fn arm(&mut self, now: Instant) -> WakeOn {
        self.0.borrow_mut().arm(now)
    }

    fn in_flight(&self) -> usize {
        self.0.borrow().in_flight()
    }
}

impl Shared {
    fn books(&self, libos: &LibOs) -> Books {
        libos.heap().exchange_returns();
        let counts = |name: &&(&'static str, u64)| {
            ["rx_malformed", "tx_refused", "tx_dropped", "link_down", "buried"].contains(&name.0)
        };
        Books {
            heap: libos.heap().stats(),
            tokens: libos.tokens_in_use(),
            queues: libos.queues_in_use(),
            zombies: libos.zombies(),
            in_flight: self.in_flight(),
            lost: self.0.borrow().counters().iter().filter(counts).copied().collect(),
        }
    }

    fn counter(&self, name: &str) -> u64 {
        self.0.borrow().counters().into_iter().find(|(known, _)| *known == name).expect("a counter").1
    }
}

/// Echoes of each kind.
struct Load {
    messages: u64,
    datagrams: u64,
}

impl Load {
    fn of(echoes: u64) -> Load {
        Load { messages: echoes - echoes / 10, datagrams: echoes / 10 }
    }
}

/// What both cores know of the other.
#[derive(Default)]
struct Stage {
    /// Nobody asks: what is in use may be counted.
    is_quiet: AtomicBool,
    echoed: AtomicU64,
}

fn core(port: &Arc<Port>, heap: Heap, end: usize) -> (Core, Shared) {
    let queue = Shared(Rc::new(RefCell::new(port.queue(0, heap.clone()).expect("its queue"))));
    let settings = NetSettings {
        ip: IpSettings {
            addresses: vec![Cidr::new(ADDRESSES[end].into(), 24).expect("a prefix")],
            ..IpSettings::default()
        },
        secret: [end as u8 + 1; 16],
        seed: end as u64,
        ..NetSettings::default()
    };
    let network = NetNetwork::new(Box::new(queue.clone()), heap.clone(), settings);
    let parts = CoreParts {
        idle: IdlePolicy::Adaptive(Patience::default()),
        networks: vec![("net".into(), Box::new(network) as Box<dyn Network>)],
        ..CoreParts::new(heap, Box::new(KernelClock), mesh(1, MeshKind::Stepped).expect("a core alone").remove(0))
    };
    (Core::new(parts), queue)
}

// Who answers.

async fn answer(libos: &LibOs) -> Result<(), Error> {
    let listener = libos.socket(SocketKind::Stream, None)?;
    libos.bind(listener, Endpoint::new(ADDRESSES[0].into(), PORT))?;
    libos.listen(listener, CONNECTIONS as u32)?;
    let datagrams = libos.socket(SocketKind::Datagram, None)?;
    libos.bind(datagrams, Endpoint::new(ADDRESSES[0].into(), PORT))?;
    let mine = libos.clone();
    libos.spawn(async move { answer_datagrams(&mine, datagrams).await.expect("datagrams are answered") });
    loop {
        let (qd, _) = libos.redeem(libos.accept(listener)?).await?.accepted()?;
        let mine = libos.clone();
        libos.spawn(async move { answer_messages(&mine, qd).await.expect("messages are answered") });
    }
}

async fn answer_messages(libos: &LibOs, qd: Qd) -> Result<(), Error> {
    loop {
        let popped = libos.redeem(libos.pop(qd, 64 << 10)?).await?.popped()?;
        if popped.sga.is_empty() {
            return libos.close(qd);
        }
        libos.redeem(libos.push(qd, popped.sga)?).await?.done()?;
    }
}

async fn answer_datagrams(libos: &LibOs, qd: Qd) -> Result<(), Error> {
    loop {
        let popped = libos.redeem(libos.pop(qd, 2048)?).await?.popped()?;
        let push = libos.push_to(qd, popped.sga, popped.from.ok_or(Error::NotConnected)?)?;
        libos.redeem(push).await?.done()?;
    }
}

// Who asks.

/// A message: its number and whose it is, so that no two are alike.
fn message(who: u64, number: u64) -> [u8; SIZE] {
    let mut bytes = [0; SIZE];
    let words = bytes.chunks_exact_mut(8).zip(0u64..);
    words.for_each(|(word, at)| word.copy_from_slice(&(number ^ who.rotate_left(48) ^ at << 40).to_le_bytes()));
    bytes
}

/// So many messages on connections of one after the other.
async fn ask_messages(libos: &LibOs, who: u64, mut count: u64, stage: &Stage) -> Result<(), Error> {
    while count > 0 {
        let now = count.min(OF_A_CONNECTION);
        count -= now;
        let qd = libos.socket(SocketKind::Stream, None)?;
        let connect = libos.connect(qd, Endpoint::new(ADDRESSES[0].into(), PORT))?;
        libos.timeout(PATIENCE, libos.redeem(connect)).await??.done()?;
        let (mut sent, mut got, mut part) = (0, 0, Vec::with_capacity(64 << 10));
        while got < now {
            while sent < now && sent - got < IN_FLIGHT {
                let sga = Sga::copy(libos.heap(), &message(who, sent))?;
                libos.redeem(libos.push(qd, sga)?).await?.done()?;
                sent += 1;
            }
            let popped = libos.timeout(PATIENCE, libos.redeem(libos.pop(qd, 64 << 10)?)).await??.popped()?;
            assert!(!popped.sga.is_empty(), "connection {who} ended after {got} echoes");
            part.extend_from_slice(&popped.sga.to_vec());
            for echo in part.chunks_exact(SIZE) {
                assert_eq!(echo, message(who, got), "connection {who}, echo {got}");
                got += 1;
            }
            part.drain(..part.len() / SIZE * SIZE);
        }
        stage.echoed.fetch_add(got, Ordering::Relaxed);
        libos.close(qd)?;
    }
    Ok(())
}

async fn ask_datagrams(libos: &LibOs, count: u64, stage: &Stage) -> Result<(), Error> {
    let qd = libos.socket(SocketKind::Datagram, None)?;
    libos.bind(qd, Endpoint::new(ADDRESSES[1].into(), PORT))?;
    let (mut sent, mut got) = (0, 0);
    while got < count {
        while sent < count && sent - got < DATAGRAMS_IN_FLIGHT {
            let sga = Sga::copy(libos.heap(), &message(u64::MAX, sent))?;
            let push = libos.push_to(qd, sga, Endpoint::new(ADDRESSES[0].into(), PORT))?;
            libos.redeem(push).await?.done()?;
            sent += 1;
        }
        let popped = libos.timeout(PATIENCE, libos.redeem(libos.pop(qd, 2048)?)).await??.popped()?;
        assert_eq!(popped.sga.to_vec(), message(u64::MAX, got), "datagram {got}");
        got += 1;
    }
    stage.echoed.fetch_add(got, Ordering::Relaxed);
    libos.close(qd)
}

async fn ask(libos: &LibOs, load: Load, stage: &Arc<Stage>) {
    let mut all = Vec::new();
    for who in 0..CONNECTIONS as u64 {
        let of_this = load.messages / CONNECTIONS as u64 + u64::from(who < load.messages % CONNECTIONS as u64);
        let (mine, stage) = (libos.clone(), stage.clone());
        all.push(libos.spawn(async move { ask_messages(&mine, who, of_this, &stage).await }));
    }
    ask_datagrams(libos, load.datagrams, stage).await.expect("datagrams come back");
    for one in all {
        one.await.expect("it is not given up").expect("messages come back");
    }
}

/// Once nothing goes on: no queue but those `queues`, nothing with the driver, and no more in use than `before`.
async fn quiet(libos: &LibOs, device: &Shared, queues: usize, before: Option<&Books>) -> Books {
    let begun = std::time::Instant::now();
    loop {
        libos.sleep(Duration::from_millis(50)).await;
        let books = device.books(libos);
        let is_over = books.queues == queues && books.zombies == 0 && books.in_flight == 0;
        if is_over && before.is_none_or(|before| books.balance(before)) || begun.elapsed() > QUIET_MAX {
            return books;
        }
    }
}

/// Kibibytes of this process that are in memory, huge pages included.
fn resident() -> u64 {
    let text = std::fs::read_to_string("/proc/self/status").expect("Linux");
    let value = |name: &str| {
        let line = text.lines().find_map(|line| line.strip_prefix(name))?;
        line.split_whitespace().next()?.parse::<u64>().ok()
    };
    value("VmRSS:").unwrap_or(0) + value("HugetlbPages:").unwrap_or(0)
}

/// What an end found: what was in use before and after.
type Found = (Books, Books);

/// An end on this thread, until it is stopped; `life` is what its core does.
fn run_end<F: Future<Output = Found> + 'static>(
    port: &Arc<Port>,
    heap: Heap,
    end: usize,
    life: impl FnOnce(LibOs, Shared) -> F,
) -> Found {
    let (core, device) = core(port, heap, end);
    let (tell, told) = mpsc::channel();
    let (libos, life) = (core.libos().clone(), life(core.libos().clone(), device));
    core.libos().spawn(async move {
        tell.send(life.await).expect("it is waited for");
        libos.stop();
    });
    core.run();
    told.try_recv().expect("it came to its end")
}

#[test]
fn a_soak_of_echoes_over_memif_gives_everything_back() {
    let echoes = std::env::var("MARGAY_ECHOES").map_or(300_000, |text| text.parse().expect("a number"));
    let stage = Arc::new(Stage::default());
    let wire = match Wire::make(Kind::Memif, 1) {
        Ok(wire) => Arc::new(wire),
        Err(why) => return println!("SKIP dpdk/a_soak_of_echoes_over_memif_gives_everything_back: {why}"),
    };
    let begun = std::time::Instant::now();
    let (ports, heaps): (Vec<_>, Vec<_>) = (0..2)
        .map(|end| {
            let reservation = reserve(1, HEAP_SIZE).expect("memory");
            (wire.open(end, &reservation).expect("a port"), reservation)
        })
        .unzip();
    let [answers, asks] = [0, 1].map(|end| {
        let (port, reservation, stage) = (ports[end].clone(), heaps[end].clone(), stage.clone());
        std::thread::spawn(move || {
            let heap = reservation.heap(0).expect("the first");
            let theirs = port.clone();
            match end {
                0 => run_end(&port, heap, 0, |libos, device| answering(libos, device, stage)),
                _ => run_end(&port, heap, 1, |libos, device| asking(libos, device, stage, theirs, echoes)),
            }
        })
    });
    // Who asks hears of it if the other has given up.
    let ends = [("who asks", asks), ("who answers", answers)];
    for (who, thread) in ends {
        let (before, after) = thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic));
        assert!(after.balance(&before), "{who}: in use before {echoes} echoes: {before:?}; after them: {after:?}");
        say(&format!("{who}: at the start {before:?}; at the end {after:?}"));
    }
    assert_eq!(stage.echoed.load(Ordering::Relaxed), WARM_UP + echoes);
    say(&format!("{echoes} echoes over memif in {:.0} s", begun.elapsed().as_secs_f64()));
}

async fn answering(libos: LibOs, device: Shared, stage: Arc<Stage>) -> Found {
    let mine = libos.clone();
    libos.spawn(async move { answer(&mine).await.expect("it listens") });
    // The listener and the datagrams' queue.
    let quiet_again = async |before: Option<&Books>| {
        while !stage.is_quiet.load(Ordering::Acquire) {
            libos.sleep(Duration::from_millis(10)).await;
        }
        let books = quiet(&libos, &device, 2, before).await;
        stage.is_quiet.store(false, Ordering::Release);
        books
    };
    let before = quiet_again(None).await;
    let after = quiet_again(Some(&before)).await;
    assert!(device.counter("rx_frames") > 0);
    (before, after)
}

async fn asking(libos: LibOs, device: Shared, stage: Arc<Stage>, port: Arc<Port>, echoes: u64) -> Found {
    let quiet_now = async |before: Option<&Books>| {
        let books = quiet(&libos, &device, 0, before).await;
        stage.is_quiet.store(true, Ordering::Release);
        let begun = std::time::Instant::now();
        while stage.is_quiet.load(Ordering::Acquire) {
            assert!(begun.elapsed() < QUIET_MAX + PATIENCE, "the other end does not count");
            libos.sleep(Duration::from_millis(10)).await;
        }
        books
    };
    while !port.is_up() {
        libos.sleep(Duration::from_millis(10)).await;
    }
    // Only a few packets wait for somebody who is not known yet.
    ask_messages(&libos, 0, 1, &stage).await.expect("the first message comes back");
    ask(&libos, Load::of(WARM_UP - 1), &stage).await;
    let before = quiet_now(None).await;
    let (resident_before, begun) = (resident(), std::time::Instant::now());
    ask(&libos, Load::of(echoes), &stage).await;
    let rate = echoes as f64 / begun.elapsed().as_secs_f64();
    say(&format!("{echoes} echoes at {rate:.0} a second"));
    let after = quiet_now(Some(&before)).await;
    let grown = resident().saturating_sub(resident_before);
    // The allocator's own, and the harness's.
    assert!(grown < 8 << 10, "the process has grown by {grown} KiB over {echoes} echoes");
    say(&format!("the process has grown by {grown} KiB"));
    (before, after)
}

/// Past the capture of the test's output.
fn say(line: &str) {
    let _ = writeln!(std::io::stderr(), "{line}");
}
