//! Our network stack over a veth pair, end to end, beside raw frames and beside the kernel's. Two network namespaces of this
//! run; each end spins on a processor of its own. What is compared runs in turn.
//!
//! The kernel's ends are 10.77.0.1 and 10.77.0.2, without offloads: TCP has to be cut into segments of 1448 bytes by either.
//! Ours are 10.77.0.11 and 10.77.0.12, over AF_XDP (native mode, copying, on a veth) or AF_PACKET.

mod lossy;
mod raw;
mod streams;

use std::collections::VecDeque;
use std::fs::File;
use std::io::{Read, Write};
use std::net::{IpAddr, Ipv4Addr, TcpListener, TcpStream, UdpSocket};
use std::os::fd::AsFd;
use std::process::Command;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow, ensure};
use libos_mem::{Heap, Plan, Reservation, Reserves, Source};
use libos_net::wire::Mac;
use libos_net::{Cidr, Device, Frame, IpSettings, NetNetwork, NetSettings};
use libos_runtime::{Core, CoreParts, IdlePolicy, KernelClock, LibOs, MeshKind, Stopper, mesh};
use libos_xdp::{PacketSettings, PacketSocket, Xsk, XskSettings};
use margay_bench::sampling::{Pinned, median};
use pdpix::{Endpoint, Network, Sga, SocketKind};
use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};

use raw::datagram;
use streams::stream;

use crate::child::installed;
use crate::{result, skip};

const ROUNDS: usize = 5;
const WARM_UP: usize = 1_000;
const TRIPS: usize = 5_000;
const TEXT: usize = 64;
const PORT: u16 = 7777;
/// Nothing takes as long.
const PATIENCE: Duration = Duration::from_secs(10);

/// What is measured: a name, and how. In turn, so that a slow minute of the machine does not fall on one alone.
type Subject = (&'static str, fn(&Link) -> Result<f64>);

const TRIPS_OF: [Subject; 7] = [
    ("net_echo_raw_xsk", |link| raw(link, false)),
    ("net_echo_udp_xsk", |link| ours(link, SocketKind::Datagram)),
    ("net_echo_tcp_xsk", |link| ours(link, SocketKind::Stream)),
    ("net_echo_tcp_kernel", kernel_tcp),
    ("net_echo_udp_kernel", kernel_udp),
    ("net_echo_raw_xsk_to_kernel", |link| raw(link, true)),
    ("net_echo_udp_xsk_to_kernel", ours_to_kernel),
];

const STREAMS: [Subject; 9] = [
    ("net_stream_kernel", |link| stream(link, Through::Kernel, Through::Kernel)),
    ("net_stream_xsk_to_kernel", |link| stream(link, Through::Xsk(true), Through::Kernel)),
    ("net_stream_kernel_to_xsk", |link| stream(link, Through::Kernel, Through::Xsk(true))),
    ("net_stream_kernel_to_xsk_always_64", |link| stream(link, Through::Kernel, Through::Xsk(false))),
    ("net_stream_packet_to_kernel", |link| stream(link, Through::Packet(false), Through::Kernel)),
    ("net_stream_kernel_to_packet", |link| stream(link, Through::Kernel, Through::Packet(false))),
    ("net_stream_packet_offload_to_kernel", |link| stream(link, Through::Packet(true), Through::Kernel)),
    ("net_stream_kernel_to_packet_offload", |link| stream(link, Through::Kernel, Through::Packet(true))),
    ("net_stream_xsk", |link| stream(link, Through::Xsk(true), Through::Xsk(true))),
];

pub fn run() -> Result<()> {
    let names = TRIPS_OF.iter().chain(&STREAMS).map(|(name, _)| *name);
    let link = match Link::new() {
        Ok(link) => link,
        Err(error) => {
            names.for_each(|name| skip(name, &format!("no network of its own: {error:#}")));
            return Ok(());
        }
    };
    measure(&link, &TRIPS_OF, "us");
    measure(&link, &STREAMS, "Gbit/s");
    drop(link); // its names are wanted again
    lossy::run();
    Ok(())
}

fn measure(link: &Link, subjects: &[Subject], unit: &str) {
    let mut figures: Vec<Result<Vec<f64>>> = subjects.iter().map(|_| Ok(Vec::new())).collect();
    for _ in 0..ROUNDS {
        for ((_, subject), figures) in subjects.iter().zip(&mut figures) {
            let Ok(all) = figures else { continue };
            match subject(link) {
                Ok(figure) => all.push(figure),
                Err(error) => *figures = Err(error),
            }
        }
    }
    for ((name, _), figures) in subjects.iter().zip(figures) {
        match figures {
            Ok(figures) => {
                let figure = median(figures);
                result(name, figure, unit);
                // It stands in two rows: beside its floor, and beside its peer.
                if *name == "net_echo_tcp_xsk" {
                    result("net_echo_tcp_xsk_again", figure, unit);
                }
            }
            Err(error) => skip(name, &format!("{error:#}")),
        }
    }
}

/// Two namespaces, and a veth pair between them; gone when it is dropped.
struct Link {
    ends: [End; 2],
}

/// One end of it.
struct End {
    namespace: String,
    interface: String,
    processor: usize,
    /// The kernel's address, and ours.
    kernel: Ipv4Addr,
    ours: Ipv4Addr,
}

impl Link {
    /// A veth pair straight from one end to the other.
    fn new() -> Result<Link> {
        Link::made(|[a, b]| a.veth(&b.namespace, &b.interface))
    }

    /// Two ends, with interfaces that `join` makes.
    fn made(join: impl FnOnce([&End; 2]) -> Result<()>) -> Result<Link> {
        let id = std::process::id();
        let end = |i: usize| End {
            namespace: format!("mgbench{id}{}", ["a", "b"][i]),
            interface: format!("mgb{i}"),
            processor: i,
            kernel: Ipv4Addr::new(10, 77, 0, 1 + i as u8),
            ours: Ipv4Addr::new(10, 77, 0, 11 + i as u8),
        };
        let link = Link { ends: [end(0), end(1)] };
        let [a, b] = &link.ends;
        for end in [a, b] {
            ip(&["netns", "add", &end.namespace])?;
        }
        join([a, b])?;
        for end in [a, b] {
            let of = ["-n", end.namespace.as_str()];
            let address = format!("{}/24", end.kernel);
            ip(&[&of[..], &["addr", "add", &address, "dev", &end.interface]].concat())?;
            ip(&[&of[..], &["link", "set", &end.interface, "up"]].concat())?;
            let mut off = Command::new(installed("ip").context("ip is not installed")?);
            off.args(["netns", "exec", &end.namespace, "ethtool", "-K", &end.interface]);
            off.args(["tx", "off", "tso", "off", "gso", "off", "gro", "off"]);
            ensure!(off.output()?.status.success(), "ethtool refuses");
        }
        Ok(link)
    }

    fn a(&self) -> &End {
        &self.ends[0]
    }

    fn b(&self) -> &End {
        &self.ends[1]
    }
}

impl Drop for Link {
    fn drop(&mut self) {
        for end in &self.ends {
            let _ = ip(&["netns", "delete", &end.namespace]); // it may not have been made
        }
    }
}

fn ip(words: &[&str]) -> Result<()> {
    let output = Command::new(installed("ip").context("ip is not installed")?).args(words).output()?;
    ensure!(output.status.success(), "ip {}: {}", words.join(" "), String::from_utf8_lossy(&output.stderr).trim());
    Ok(())
}

impl End {
    /// Makes its interface, with the other end of it there.
    fn veth(&self, namespace: &str, name: &str) -> Result<()> {
        let peer = ["peer", "name", name, "netns", namespace];
        let queues = ["numrxqueues", "1", "numtxqueues", "1"];
        let this = ["-n", &self.namespace, "link", "add", &self.interface];
        ip(&[&this[..], &queues, &["type", "veth"], &peer, &queues].concat())
    }

    /// Runs something in a thread of this namespace, on this end's processor.
    fn run<'s, R: Send + 's>(
        &'s self,
        scope: &'s thread::Scope<'s, '_>,
        what: impl FnOnce() -> Result<R> + Send + 's,
    ) -> thread::ScopedJoinHandle<'s, Result<R>> {
        scope.spawn(move || {
            let file = File::open(format!("/var/run/netns/{}", self.namespace))?;
            move_into_link_name_space(file.as_fd(), Some(LinkNameSpaceType::Network))?;
            let _pinned = Pinned::to(self.processor);
            what()
        })
    }

    fn mac(&self) -> Result<Mac> {
        let mut command = Command::new(installed("ip").context("ip is not installed")?);
        let output = command.args(["-n", &self.namespace, "-o", "link", "show", "dev", &self.interface]).output()?;
        let text = String::from_utf8(output.stdout)?;
        let mac = text.split("link/ether ").nth(1).and_then(|rest| rest.split(' ').next()).context("no Ethernet")?;
        mac.parse().map_err(|_| anyhow!("`{mac}`"))
    }

    fn xsk(&self, heap: &Heap) -> Result<Xsk> {
        Ok(Xsk::open(XskSettings::new(&self.interface, &[self.ours.into()]), heap.clone())?)
    }

    /// A core with our stack.
    fn core(&self, through: Through) -> Result<Core> {
        let heap = heap()?;
        let device: Box<dyn Device> = match through {
            Through::Packet(offload) => {
                let settings = PacketSettings { offload, ..PacketSettings::new(&self.interface) };
                Box::new(PacketSocket::open(settings, heap.clone())?)
            }
            _ => Box::new(self.xsk(&heap)?),
        };
        let addresses = vec![Cidr::new(self.ours.into(), 24).context("a prefix")?];
        let settings = NetSettings {
            ip: IpSettings { addresses, ..IpSettings::default() },
            secret: [self.processor as u8 + 1; 16],
            seed: self.processor as u64,
            adaptive_batching: through != Through::Xsk(false),
            ..NetSettings::default()
        };
        let network = NetNetwork::new(device, heap.clone(), settings);
        let ports = mesh(1, MeshKind::Stepped)?.remove(0);
        Ok(Core::new(CoreParts {
            idle: IdlePolicy::Spin,
            networks: vec![("net".into(), Box::new(network) as Box<dyn Network>)],
            ..CoreParts::new(heap, Box::new(KernelClock), ports)
        }))
    }
}

fn heap() -> Result<Heap> {
    let heap_size = 64 << 20;
    let plan = Plan { heaps: 1, heap_size, reserves: Reserves::usual(heap_size), source: Source::Ordinary };
    Reservation::new(plan)?.heap(0).context("the only heap")
}

/// How an end reaches the wire.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Through {
    Kernel,
    /// Our stack; whether bursts adapt.
    Xsk(bool),
    /// Our stack; whether the kernel cuts its long segments up, as it does with its own.
    Packet(bool),
}

/// The middle of the round trips, in microseconds, without the first ones.
fn p50(mut trip: impl FnMut() -> Result<Duration>) -> Result<f64> {
    (0..WARM_UP).try_for_each(|_| trip().map(drop))?;
    let times: Vec<f64> = (0..TRIPS).map(|_| Ok(trip()?.as_secs_f64() * 1e6)).collect::<Result<_>>()?;
    Ok(median(times))
}

/// A server and a client, each at its end. The server says that it is there, with what stops it if it is a core, and else is
/// told whether it is over.
fn both<R: Send>(
    link: &Link,
    server: impl FnOnce(&AtomicBool, mpsc::Sender<Option<Stopper>>) -> Result<()> + Send,
    client: impl FnOnce() -> Result<R> + Send,
) -> Result<R> {
    let (is_over, (tell, told)) = (&AtomicBool::new(false), mpsc::channel());
    thread::scope(|scope| {
        let serves = link.b().run(scope, move || server(is_over, tell));
        let got = match told.recv_timeout(PATIENCE) {
            Ok(stopper) => {
                let got = link.a().run(scope, client).join();
                stopper.inspect(Stopper::stop);
                got.map_err(|_| anyhow!("the client panicked"))?
            }
            Err(_) => Err(anyhow!("the other end does not start")),
        };
        is_over.store(true, Ordering::Relaxed);
        serves.join().map_err(|_| anyhow!("the server panicked"))??;
        got
    })
}

// Raw frames, and the kernel.

/// Frames between two AF_XDP sockets, with nothing of a stack; or to a kernel's socket and back.
fn raw(link: &Link, to_kernel: bool) -> Result<f64> {
    let to = if to_kernel { link.b().mac()? } else { Mac::BROADCAST };
    let client = || {
        let heap = heap()?;
        let mut device = link.a().xsk(&heap)?;
        let destination = if to_kernel { link.b().kernel } else { link.b().ours };
        let mut bytes = datagram(link.a().mac()?, to, link.a().ours, destination);
        let (mut received, mut number) = (VecDeque::new(), 0u64);
        thread::sleep(Duration::from_millis(100));
        p50(|| {
            number += 1;
            let len = bytes.len();
            bytes[len - 8..].copy_from_slice(&number.to_be_bytes());
            let begun = Instant::now();
            transmit(&mut device, heap.copy(&bytes)?);
            loop {
                device.receive(pdpix::Instant::ZERO, &mut received, 64).map_err(|error| anyhow!("{error:?}"))?;
                let taken = begun.elapsed();
                if received.drain(..).any(|frame| frame.buf.len() == len && frame.buf[len - 8..] == bytes[len - 8..]) {
                    return Ok(taken);
                }
                ensure!(taken < PATIENCE, "a frame does not come back");
            }
        })
    };
    if to_kernel {
        return neighbours_known(link)
            .and_then(|()| both(link, |over, tell| echo_udp(link.b().kernel, over, tell), client));
    }
    both(link, |over, tell| echo_frames(link.b(), over, tell), client)
}

/// The kernel sends to our address without asking for it: nothing answers there when frames are raw.
fn neighbours_known(link: &Link) -> Result<()> {
    let (b, mac, ours) = (link.b(), link.a().mac()?, link.a().ours.to_string());
    ip(&["-n", &b.namespace, "neigh", "replace", &ours, "lladdr", &mac.to_string(), "dev", &b.interface])
}

fn transmit(device: &mut Xsk, header: pdpix::Buf) {
    let mut frames = VecDeque::from([Frame { header, payload: Sga::new(), checksum: None, segment_size: 0 }]);
    device.transmit(pdpix::Instant::ZERO, &mut frames);
    device.flush(pdpix::Instant::ZERO);
}

fn echo_frames(end: &End, is_over: &AtomicBool, tell: mpsc::Sender<Option<Stopper>>) -> Result<()> {
    let heap = heap()?;
    let mut device = end.xsk(&heap)?;
    tell.send(None)?;
    let mut received = VecDeque::new();
    while !is_over.load(Ordering::Relaxed) {
        device.receive(pdpix::Instant::ZERO, &mut received, 64).map_err(|error| anyhow!("{error:?}"))?;
        for frame in received.drain(..) {
            // From where it was received, to who has sent it: the addresses change places.
            let Ok(mut bytes) = frame.buf.try_mut() else { continue };
            let (from, to) = bytes[26..34].split_at_mut(4);
            from.swap_with_slice(to);
            bytes[..6].fill(0xff);
            transmit(&mut device, bytes.freeze());
        }
    }
    Ok(())
}

fn echo_udp(at: Ipv4Addr, is_over: &AtomicBool, tell: mpsc::Sender<Option<Stopper>>) -> Result<()> {
    let socket = UdpSocket::bind((at, PORT))?;
    socket.set_nonblocking(true)?;
    tell.send(None)?;
    let mut bytes = [0; 2048];
    while !is_over.load(Ordering::Relaxed) {
        if let Ok((len, from)) = socket.recv_from(&mut bytes) {
            socket.send_to(&bytes[..len], from)?;
        }
    }
    Ok(())
}

fn kernel_udp(link: &Link) -> Result<f64> {
    let client = || {
        let socket = UdpSocket::bind((link.a().kernel, 0))?;
        socket.connect((link.b().kernel, PORT))?;
        socket.set_nonblocking(true)?;
        let mut bytes = [7; TEXT];
        p50(|| {
            let begun = Instant::now();
            socket.send(&bytes)?;
            while socket.recv(&mut bytes).is_err() {
                ensure!(begun.elapsed() < PATIENCE, "a datagram does not come back");
            }
            Ok(begun.elapsed())
        })
    };
    both(link, |over, tell| echo_udp(link.b().kernel, over, tell), client)
}

fn kernel_tcp(link: &Link) -> Result<f64> {
    let server = |is_over: &AtomicBool, tell: mpsc::Sender<Option<Stopper>>| {
        let listener = TcpListener::bind((link.b().kernel, PORT))?;
        tell.send(None)?;
        let (mut stream, _) = listener.accept()?;
        stream.set_nodelay(true)?;
        stream.set_nonblocking(true)?;
        let mut bytes = [0; 2048];
        while !is_over.load(Ordering::Relaxed) {
            match stream.read(&mut bytes) {
                Ok(0) => break,
                Ok(len) => stream.write_all(&bytes[..len])?,
                Err(_) => {}
            }
        }
        Ok(())
    };
    both(link, server, || {
        let mut stream = TcpStream::connect((link.b().kernel, PORT))?;
        stream.set_nodelay(true)?;
        stream.set_nonblocking(true)?;
        let mut bytes = [7; TEXT];
        p50(|| {
            let begun = Instant::now();
            stream.write_all(&bytes)?;
            let mut got = 0;
            while got < TEXT {
                got += stream.read(&mut bytes[got..]).unwrap_or(0);
                ensure!(begun.elapsed() < PATIENCE, "nothing comes back");
            }
            Ok(begun.elapsed())
        })
    })
}

// Ours.

/// Round trips between two stacks of ours, over AF_XDP.
fn ours(link: &Link, kind: SocketKind) -> Result<f64> {
    let server = |_: &AtomicBool, tell: mpsc::Sender<Option<Stopper>>| {
        let core = link.b().core(Through::Xsk(true))?;
        let (libos, at) = (core.libos().clone(), Endpoint::new(link.b().ours.into(), PORT));
        core.libos().spawn(async move { _ = echo(&libos, kind, at).await });
        tell.send(Some(core.stopper()))?;
        core.run();
        Ok(())
    };
    both(link, server, || trips(link, kind, link.b().ours.into()))
}

fn ours_to_kernel(link: &Link) -> Result<f64> {
    let server = |over: &AtomicBool, tell| echo_udp(link.b().kernel, over, tell);
    both(link, server, || trips(link, SocketKind::Datagram, link.b().kernel.into()))
}

/// Gives back whatever comes.
async fn echo(libos: &LibOs, kind: SocketKind, at: Endpoint) -> Result<(), pdpix::Error> {
    let qd = libos.socket(kind, None)?;
    libos.bind(qd, at)?;
    if kind == SocketKind::Datagram {
        loop {
            let popped = libos.redeem(libos.pop(qd, 2048)?).await?.popped()?;
            let push = libos.push_to(qd, popped.sga, popped.from.ok_or(pdpix::Error::NotConnected)?)?;
            libos.redeem(push).await?.done()?;
        }
    }
    libos.listen(qd, 1)?;
    let (qd, _) = libos.redeem(libos.accept(qd)?).await?.accepted()?;
    loop {
        let popped = libos.redeem(libos.pop(qd, 2048)?).await?.popped()?;
        libos.redeem(libos.push(qd, popped.sga)?).await?.done()?;
    }
}

/// Round trips from our stack at the first end.
fn trips(link: &Link, kind: SocketKind, to: IpAddr) -> Result<f64> {
    let core = link.a().core(Through::Xsk(true))?;
    let libos = core.libos().clone();
    let to = Endpoint::new(to, PORT);
    let (tell, told) = mpsc::channel();
    core.libos().spawn(async move {
        let mut times = Vec::with_capacity(WARM_UP + TRIPS);
        let all = exchange(&libos, kind, to, &mut times);
        let outcome = libos.timeout(PATIENCE, all).await.unwrap_or(Err(pdpix::Error::TimedOut));
        let _ = tell.send(outcome.map(|()| times)); // who asked has given up
    });
    core.run();
    let times = told.try_recv().context("the exchange does not end")?.map_err(|error| anyhow!("{error:?}"))?;
    Ok(median(times.into_iter().skip(WARM_UP)))
}

async fn exchange(libos: &LibOs, kind: SocketKind, to: Endpoint, times: &mut Vec<f64>) -> Result<(), pdpix::Error> {
    let qd = libos.socket(kind, None)?;
    libos.redeem(libos.connect(qd, to)?).await?.done()?;
    for _ in 0..WARM_UP + TRIPS {
        let sga = Sga::copy(libos.heap(), &[7; TEXT])?;
        let begun = Instant::now();
        libos.redeem(libos.push(qd, sga)?).await?.done()?;
        let mut got = 0;
        while got < TEXT {
            got += libos.redeem(libos.pop(qd, 2048)?).await?.popped()?.sga.len();
        }
        times.push(begun.elapsed().as_secs_f64() * 1e6);
    }
    Ok(())
}
