//! How fast the simulator is: what passes through a world in a second of real time.

use std::cell::Cell;
use std::net::IpAddr;
use std::rc::Rc;
use std::time::{Duration, Instant};

use libos_net::{LineSettings, Loss};
use libos_runtime::LibOs;
use libos_sim::{Attached, HostId, Interface, NetKind, Plug, Settings, World};
use pdpix::{Endpoint, Qd, Sga, SocketKind};

use crate::sampling::median;

const PORT: u16 = 7;
/// Real time of one batch, and how many there are.
const BATCH: Duration = Duration::from_millis(300);
const BATCHES: usize = 7;
/// Virtual time of a stream over lossy lines, and before it is measured.
const LOSSY: Duration = Duration::from_secs(60);
const LOSSY_WARM_UP: Duration = Duration::from_secs(3);
/// Streams between the two hosts, with TCP.
const STREAMS: usize = 4;
/// Datagrams under way between two hosts.
const UNDER_WAY: usize = 64;

fn settings() -> Settings {
    Settings { heap_size: 64 << 20, passes_max: u64::MAX, ..Settings::default() }
}

/// TCP packets of our stack, over frames and a switch, each way counted: `STREAMS` streams that send all they can, 1460
/// bytes a segment, on lines of ten gigabits a second.
pub fn tcp_packets() -> f64 {
    let mut world = World::new(1, settings());
    let switch = world.add_switch();
    let line =
        LineSettings { bandwidth: Some(10_000_000_000), ..LineSettings::with_latency(Duration::from_micros(10)) };
    let net = || {
        let lines = Interface { out: line.clone(), back: line.clone(), ..Interface::plugged(Plug::Switch(switch)) };
        NetKind::frames(lines, Attached::stack)
    };
    let server = world.add_host_on(net(), "server", 1, |libos| drain(libos, &Rc::default()));
    let client = world.add_host_on(net(), "client", 1, |_| {});
    let to = world.endpoint(server, PORT);
    for _ in 0..STREAMS {
        world.spawn(client.core(0), "a stream", async move |libos| fill(&libos, to).await);
    }
    let counted = [server, client];
    let rate = rate(&mut world, |world| counted.iter().map(|&host| world.interface_counters(host).rx_frames).sum());
    // It stands in the middle of everything.
    std::mem::forget(world);
    rate
}

/// A line of 100 Mbit/s that takes 5 ms and loses one frame of a hundred.
pub fn lossy_line() -> LineSettings {
    LineSettings {
        bandwidth: Some(100_000_000),
        loss: Loss::Each(0.01),
        ..LineSettings::with_latency(Duration::from_millis(5))
    }
}

/// What one stream carries over two such lines, in Mbit/s of virtual time.
pub fn lossy_stream() -> f64 {
    let mut world = World::new(1, settings());
    let net = || NetKind::frames(Interface::plugged(Plug::Open), Attached::stack);
    let taken = Rc::new(Cell::new(0));
    let counted = taken.clone();
    let server = world.add_host_on(net(), "server", 1, move |libos| drain(libos, &counted));
    let client = world.add_host_on(net(), "client", 1, |_| {});
    world.join(client, server, [lossy_line(), lossy_line()]);
    let to = world.endpoint(server, PORT);
    world.spawn(client.core(0), "a stream", async move |libos| fill(&libos, to).await);
    world.run_for(LOSSY_WARM_UP);
    let before = taken.get();
    world.run_for(LOSSY);
    let rate = (taken.get() - before) as f64 * 8.0 / LOSSY.as_secs_f64() / 1e6;
    // It stands in the middle of everything.
    std::mem::forget(world);
    rate
}

/// Takes whatever comes on any connection, and counts its bytes.
fn drain(libos: &LibOs, taken: &Rc<Cell<usize>>) {
    let (theirs, taken) = (libos.clone(), taken.clone());
    libos.spawn(async move {
        let listener = theirs.socket(SocketKind::Stream, None).expect("a queue");
        theirs.bind(listener, any(PORT)).expect("a free port");
        theirs.listen(listener, 64).expect("it is bound");
        loop {
            let accepted = theirs.redeem(theirs.accept(listener).expect("it listens")).await;
            let (qd, _) = accepted.expect("a token of ours").accepted().expect("a connection");
            let (libos, taken) = (theirs.clone(), taken.clone());
            theirs.spawn(async move {
                loop {
                    match pop(&libos, qd).await {
                        0 => return,
                        len => taken.set(taken.get() + len),
                    }
                }
            });
        }
    });
}

async fn pop(libos: &LibOs, qd: Qd) -> usize {
    let popped = libos.redeem(libos.pop(qd, 1 << 16).expect("it is connected")).await.expect("a token of ours");
    popped.popped().map_or(0, |popped| popped.sga.len())
}

async fn fill(libos: &LibOs, to: Endpoint) {
    let qd = libos.socket(SocketKind::Stream, None).expect("a queue");
    libos.redeem(libos.connect(qd, to).expect("a new queue")).await.expect("a token").done().expect("it is reached");
    let bytes = libos.heap().copy(&[7; 64 * 1000]).expect("memory");
    loop {
        let push = libos.push(qd, Sga::from(bytes.clone())).expect("it is connected");
        libos.redeem(push).await.expect("a token of ours").done().expect("it is connected");
    }
}

/// Messages of 64 bytes directly at the contract: datagrams to and fro, `UNDER_WAY` at a time.
pub fn messages() -> f64 {
    let plain = Settings { short_pops: 0.0, late: 0.0, stalls: 0.0, ..settings() };
    let mut world = World::new(1, plain);
    let count = Rc::new(Cell::new(0));
    let note = count.clone();
    let hosts: Vec<HostId> = ["a", "b"].map(|name| world.add_host(name, 1, |_| {})).into();
    for (i, &host) in hosts.iter().enumerate() {
        let (to, count) = (world.endpoint(hosts[1 - i], PORT), note.clone());
        world.spawn(host.core(0), "a ball", async move |libos| {
            let qd = libos.socket(SocketKind::Datagram, None).expect("a queue");
            libos.bind(qd, any(PORT)).expect("a free port");
            if i == 0 {
                libos.sleep(Duration::from_millis(1)).await;
                for _ in 0..UNDER_WAY {
                    let ball = Sga::copy(libos.heap(), &[7; 64]).expect("memory");
                    libos
                        .redeem(libos.push_to(qd, ball, to).expect("bound"))
                        .await
                        .expect("a token")
                        .done()
                        .expect("sent");
                }
            }
            loop {
                let popped =
                    libos.redeem(libos.pop(qd, 64).expect("bound")).await.expect("a token").popped().expect("it");
                count.set(count.get() + 1);
                libos
                    .redeem(libos.push_to(qd, popped.sga, to).expect("bound"))
                    .await
                    .expect("a token")
                    .done()
                    .expect("sent");
            }
        });
    }
    let rate = rate(&mut world, |_| count.get());
    std::mem::forget(world);
    rate
}

fn any(port: u16) -> Endpoint {
    Endpoint::new(IpAddr::from([0; 4]), port)
}

/// How many a second, of real time.
fn rate(world: &mut World, count: impl Fn(&World) -> u64) -> f64 {
    let mut batch = || {
        let (start, before) = (Instant::now(), count(world));
        while start.elapsed() < BATCH {
            world.run_for(Duration::from_millis(1));
        }
        (count(world) - before) as f64 / start.elapsed().as_secs_f64()
    };
    batch();
    median((0..BATCHES).map(|_| batch()))
}
