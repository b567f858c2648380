//! Our network stack over DPDK's ports, beside raw frames over the same: two processes, each on a processor of its own, and
//! each with a DPDK environment of its own. What is compared runs in turn.
//!
//! `margay-bench dpdk` starts `margay-bench dpdk-end ROLE DEVICE MTU` twice for each figure: who answers first, then who
//! asks, which prints its figure. Without huge pages memif's zero-copy is skipped. Then the cache over memif (`kv.rs`).

mod kv;

use std::collections::VecDeque;
use std::io::{BufRead, BufReader, Read};
use std::net::{IpAddr, Ipv4Addr};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::mpsc;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow, bail, ensure};
use libos_dpdk::{Eal, EalSettings, Port, PortSettings, Queue, ring_pair};
use libos_mem::{Heap, Plan, Reserves, Source};
use libos_net::wire::Mac;
use libos_net::{Cidr, Device, Frame, IpSettings, NetNetwork, NetSettings};
use libos_runtime::{Core, CoreParts, IdlePolicy, KernelClock, LibOs, MeshKind, mesh};
use margay_bench::sampling::{Pinned, median};
use pdpix::{Buf, Endpoint, Error, Network, Sga, SocketKind};

use crate::instructions::Callgrind;
use crate::{result, skip};

const ROUNDS: usize = 5;
const WARM_UP: usize = 5_000;
const TRIPS: usize = 50_000;
const TEXT: usize = 64;
const PORT: u16 = 7777;
const IN_FLIGHT: usize = 32;
const STREAM: Duration = Duration::from_millis(700);
const PIECE: usize = 64 << 10;
const PATIENCE: Duration = Duration::from_secs(20);
const OURS: [Ipv4Addr; 2] = [Ipv4Addr::new(10, 78, 0, 1), Ipv4Addr::new(10, 78, 0, 2)];
const MACS: [Mac; 2] = [Mac([2, 0, 0, 0, 0x7a, 1]), Mac([2, 0, 0, 0, 0x7a, 2])];
const HEAP_SIZE: usize = 128 << 20;

/// What is asked of a link, and in what unit.
const ROLES: [(&str, &str); 6] =
    [("raw", "us"), ("udp", "us"), ("tcp", "us"), ("flight", "M/s"), ("raw_stream", "Gbit/s"), ("stream", "Gbit/s")];

/// Links: a name, the devices of who answers and who asks, and the longest packet.
fn links(socket: &str) -> Vec<(&'static str, [String; 2], usize)> {
    let memif = |role: &str| format!("net_memif0,role={role},socket={socket},socket-abstract=no");
    let virtio = [format!("net_vhost0,iface={socket}"), format!("net_virtio_user0,path={socket},queue_size=1024")];
    let [vhost, user] = virtio.clone();
    vec![
        ("virtio", virtio.clone(), 1500),
        // vhost takes long segments whole.
        ("virtio_tso", [vhost + ",tso=1", user], 1500),
        ("memif", [memif("server"), memif("client")], 1500),
        ("memif_zc", [memif("server"), memif("client") + ",zero-copy=yes"], 1500),
        ("virtio_jumbo", virtio, 9000),
    ]
}

pub fn run() -> Result<()> {
    let folder = std::env::temp_dir().join(format!("margay-bench-{}", std::process::id()));
    std::fs::create_dir_all(&folder)?;
    let socket = folder.join("socket");
    let links = links(&socket.display().to_string());
    let load = std::fs::read_to_string("/proc/loadavg").unwrap_or_default();
    println!("load before: {}", load.trim());
    for (link, devices, mtu) in &links {
        let name = |role: &str| format!("dpdk_{link}_{role}");
        let roles = || ROLES.iter().filter(|(role, _)| *mtu == 1500 || role.contains("stream"));
        let mut figures: Vec<Result<Vec<f64>>> = roles().map(|_| Ok(Vec::new())).collect();
        for _ in 0..ROUNDS {
            for ((role, _), figures) in roles().zip(&mut figures) {
                let Ok(all) = figures else { continue };
                let _ = std::fs::remove_file(&socket);
                match one(role, devices, *mtu, &socket) {
                    Ok(figure) => all.push(figure),
                    Err(error) => *figures = Err(error),
                }
            }
        }
        for ((role, unit), figures) in roles().zip(figures) {
            match figures {
                Ok(figures) => {
                    let all: Vec<String> = figures.iter().map(|figure| format!("{figure:.2}")).collect();
                    println!("{}: {}", name(role), all.join(" "));
                    result(&name(role), median(figures), unit);
                }
                Err(error) => skip(&name(role), &format!("{error:#}").replace('\n', " ")),
            }
        }
    }
    let _ = std::fs::remove_dir_all(folder);
    serves()
}

/// The cache alone.
pub fn serves() -> Result<()> {
    kv::run()
}

/// One figure, of two processes.
fn one(role: &str, devices: &[String; 2], mtu: usize, socket: &Path) -> Result<f64> {
    let me = std::env::current_exe()?;
    let start = |end: &str, device: &str| -> Result<Ending> {
        let mut command = Command::new(&me);
        command.args(["dpdk-end", end, role, device, &mtu.to_string()]);
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        Ok(Ending(command.spawn()?))
    };
    let mut answers = start("answer", &devices[0])?;
    let begun = Instant::now();
    while !socket.exists() {
        if answers.0.try_wait()?.is_some() || begun.elapsed() > PATIENCE {
            bail!("who answers does not start: {}", answers.said());
        }
        std::thread::sleep(Duration::from_millis(5));
    }
    let mut asks = start("ask", &devices[1])?;
    let mut line = String::new();
    BufReader::new(asks.0.stdout.as_mut().context("its output")?).read_line(&mut line)?;
    line.trim().parse().map_err(|_| anyhow!("{}{}", line.trim(), asks.said()))
}

/// A child, killed when dropped.
struct Ending(Child);

impl Ending {
    fn said(&mut self) -> String {
        let _ = self.0.kill();
        let mut text = String::new();
        if let Some(errors) = &mut self.0.stderr {
            let _ = errors.read_to_string(&mut text);
        }
        text.trim().to_string()
    }
}

impl Drop for Ending {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

// An end of a link, in a process of its own.

/// `dpdk-end answer|ask ROLE DEVICE MTU`
pub fn end(which: &str, role: &str, device: &str, mtu: &str) -> Result<()> {
    let end = usize::from(which == "ask");
    // Who is not killed by its parent ends by itself.
    std::thread::spawn(|| {
        std::thread::sleep(PATIENCE * 2);
        std::process::exit(3);
    });
    let eal = Eal::start(&EalSettings { memory: HEAP_SIZE, ..EalSettings::default() })?;
    let plan = Plan { heaps: 1, heap_size: HEAP_SIZE, reserves: Reserves::usual(HEAP_SIZE), source: Source::External };
    let reservation = eal.reserve(plan)?;
    let settings =
        PortSettings { mac: Some(MACS[end]), mtu: Some(mtu.parse()?), ring_size: 1024, ..PortSettings::new(device) };
    let port = Port::open(eal, settings, &reservation)?;
    let heap = reservation.heap(0).context("the only heap")?;
    let _pinned = Pinned::to(end);
    let queue = port.queue(0, heap.clone())?;
    let begun = Instant::now();
    while !port.is_up() {
        ensure!(begun.elapsed() < PATIENCE, "there is no link");
        std::thread::sleep(Duration::from_millis(1));
    }
    let mtu = queue.link().mtu;
    match (role, end) {
        ("raw" | "raw_stream", 0) => answer_raw(queue, &heap, role == "raw"),
        ("raw", _) => say(ask_raw(queue, &heap)?),
        ("raw_stream", _) => say(fill_raw(queue, &heap, mtu)?),
        (role, 0) => answer(queue, heap, role),
        (role, _) => say(ask(queue, heap, role, &port)?),
    }
}

fn say(figure: f64) -> Result<()> {
    println!("{figure}");
    Ok(())
}

const RAW_HEADER: [u8; 14] = [0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 2, 0, 0, 0, 0x7a, 9, 0x88, 0xb5];

/// The clock of the devices: they look at the link by it.
struct Clock(Instant);

impl Clock {
    fn now(&self) -> pdpix::Instant {
        pdpix::Instant::from_nanos(self.0.elapsed().as_nanos() as u64 + 1)
    }
}

fn transmit(queue: &mut Queue, now: pdpix::Instant, header: Buf) -> bool {
    let mut frames = VecDeque::from([Frame { header, payload: Sga::new(), checksum: None, segment_size: 0 }]);
    queue.transmit(now, &mut frames);
    queue.flush(now);
    frames.is_empty()
}

/// Gives back each frame, or drinks them up and says now and then how many it has had.
fn answer_raw(mut queue: Queue, heap: &Heap, gives_back: bool) -> Result<()> {
    let (clock, mut received, mut count) = (Clock(Instant::now()), VecDeque::new(), 0u64);
    let mut now = clock.now();
    for pass in 0u64.. {
        if pass.is_multiple_of(256) {
            now = clock.now(); // the port has to look at its link, and not more
        }
        queue.receive(now, &mut received, 64).map_err(|error| anyhow!("{error:?}"))?;
        for frame in received.drain(..) {
            if frame.buf.get(12..14) != Some(&RAW_HEADER[12..]) {
                continue;
            }
            if gives_back {
                transmit(&mut queue, now, frame.buf);
                continue;
            }
            count += 1;
            if frame.buf.len() == 64 {
                let mut told = heap.alloc(64)?;
                told.put(&RAW_HEADER);
                told.put(&count.to_be_bytes());
                told.resize(64, 0);
                transmit(&mut queue, now, told.freeze());
            }
        }
    }
    Ok(())
}

fn ask_raw(mut queue: Queue, heap: &Heap) -> Result<f64> {
    let (clock, mut received) = (Clock(Instant::now()), VecDeque::new());
    // As long as a datagram with 64 bytes of text.
    let mut bytes = [&RAW_HEADER[..], &[0; 28 + TEXT]].concat();
    let len = bytes.len();
    let mut times = Vec::new();
    for number in 0..(WARM_UP + TRIPS) as u64 {
        bytes[len - 8..].copy_from_slice(&number.to_be_bytes());
        let now = clock.now();
        let begun = Instant::now();
        transmit(&mut queue, now, heap.copy(&bytes)?);
        'answer: loop {
            queue.receive(now, &mut received, 64).map_err(|error| anyhow!("{error:?}"))?;
            let taken = begun.elapsed();
            for frame in received.drain(..) {
                if frame.buf.ends_with(&bytes[len - 8..]) {
                    times.push(taken.as_secs_f64() * 1e6);
                    break 'answer;
                }
            }
            if taken > Duration::from_millis(200) {
                ensure!(times.is_empty(), "a frame was lost");
                break; // who answers has not looked yet
            }
        }
    }
    Ok(median(times.into_iter().skip(WARM_UP)))
}

/// Frames as long as they may be, without end; who drinks them says how many it has had.
fn fill_raw(mut queue: Queue, heap: &Heap, mtu: usize) -> Result<f64> {
    let (clock, mut received, mut waiting) = (Clock(Instant::now()), VecDeque::new(), VecDeque::new());
    let mut long = heap.alloc(mtu + 14)?;
    long.put(&RAW_HEADER);
    long.resize(mtu + 14, 7);
    let long = long.freeze();
    let short = heap.copy(&[&RAW_HEADER[..], &[0; 50]].concat())?;
    let frame = |header: &Buf| Frame { header: header.clone(), payload: Sga::new(), checksum: None, segment_size: 0 };
    let (mut first, mut last) = (None, None);
    let begun = Instant::now();
    while begun.elapsed() < STREAM + Duration::from_millis(300) {
        let now = clock.now();
        while waiting.len() < 32 {
            waiting.push_back(frame(&long));
        }
        queue.transmit(now, &mut waiting);
        // A question now and then.
        let mut question = VecDeque::from([frame(&short)]);
        queue.transmit(now, &mut question);
        queue.flush(now);
        queue.receive(now, &mut received, 64).map_err(|error| anyhow!("{error:?}"))?;
        for told in received.drain(..).filter(|told| told.buf.len() == 64) {
            let count = u64::from_be_bytes(told.buf[14..22].try_into()?);
            if begun.elapsed() > Duration::from_millis(300) {
                first.get_or_insert((Instant::now(), count));
                last = Some((Instant::now(), count));
            }
        }
    }
    let ((from, had), (to, has)) = (first.context("nothing is told")?, last.context("nothing is told")?);
    // Of 33 frames one is a short question.
    let bytes = (has - had) as f64 * (32.0 * (mtu + 14) as f64 + 64.0) / 33.0;
    Ok(bytes * 8.0 / (to - from).as_nanos() as f64)
}

fn core(queue: Queue, heap: Heap, end: usize) -> Result<Core> {
    let addresses = vec![Cidr::new(OURS[end].into(), 24).context("a prefix")?];
    let settings = NetSettings {
        ip: IpSettings { addresses, ..IpSettings::default() },
        secret: [end as u8 + 1; 16],
        seed: end as u64,
        ..NetSettings::default()
    };
    let network = NetNetwork::new(Box::new(queue), heap.clone(), settings);
    let ports = mesh(1, MeshKind::Stepped)?.remove(0);
    Ok(Core::new(CoreParts {
        idle: IdlePolicy::Spin,
        networks: vec![("net".into(), Box::new(network) as Box<dyn Network>)],
        ..CoreParts::new(heap, Box::new(KernelClock), ports)
    }))
}

fn kind_of(role: &str) -> SocketKind {
    if role == "udp" { SocketKind::Datagram } else { SocketKind::Stream }
}

fn answer(queue: Queue, heap: Heap, role: &str) -> Result<()> {
    let core = core(queue, heap, 0)?;
    let (libos, kind, is_stream) = (core.libos().clone(), kind_of(role), role == "stream");
    core.libos().spawn(async move { _ = echo(&libos, kind, is_stream).await });
    core.run();
    Ok(())
}

/// Gives back whatever comes; of a stream nothing but a word for each mebibyte.
async fn echo(libos: &LibOs, kind: SocketKind, is_stream: bool) -> Result<(), Error> {
    let qd = libos.socket(kind, None)?;
    libos.bind(qd, Endpoint::new(OURS[0].into(), PORT))?;
    if kind == SocketKind::Datagram {
        loop {
            let popped = libos.redeem(libos.pop(qd, 2048)?).await?.popped()?;
            let push = libos.push_to(qd, popped.sga, popped.from.ok_or(Error::NotConnected)?)?;
            libos.redeem(push).await?.done()?;
        }
    }
    libos.listen(qd, 1)?;
    let (qd, _) = libos.redeem(libos.accept(qd)?).await?.accepted()?;
    let (mut had, mut told) = (0u64, 0u64);
    loop {
        let popped = libos.redeem(libos.pop(qd, PIECE)?).await?.popped()?;
        if !is_stream {
            libos.redeem(libos.push(qd, popped.sga)?).await?.done()?;
            continue;
        }
        had += popped.sga.len() as u64;
        if had - told >= 1 << 20 {
            told = had;
            let word = Sga::copy(libos.heap(), &had.to_be_bytes())?;
            libos.redeem(libos.push(qd, word)?).await?.done()?;
        }
    }
}

fn ask(queue: Queue, heap: Heap, role: &str, _: &Arc<Port>) -> Result<f64> {
    let core = core(queue, heap, 1)?;
    let (libos, role) = (core.libos().clone(), role.to_string());
    let (tell, told) = mpsc::channel();
    core.libos().spawn(async move {
        let all = asked(&libos, &role);
        let outcome = libos.timeout(PATIENCE, all).await.unwrap_or(Err(Error::TimedOut));
        let _ = tell.send(outcome); // who asked has given up
        libos.stop(); // whatever else there is to push
    });
    core.run();
    told.try_recv().context("it does not end")?.map_err(|error| anyhow!("{error:?}"))
}

async fn asked(libos: &LibOs, role: &str) -> Result<f64, Error> {
    let qd = libos.socket(kind_of(role), None)?;
    let to: IpAddr = OURS[0].into();
    libos.redeem(libos.connect(qd, Endpoint::new(to, PORT))?).await?.done()?;
    match role {
        "flight" => in_flight(libos, qd).await,
        "stream" => stream(libos, qd).await,
        _ => {
            let mut times = Vec::with_capacity(WARM_UP + TRIPS);
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
            Ok(median(times.into_iter().skip(WARM_UP)))
        }
    }
}

/// Millions of messages of 64 bytes a second on one connection, of which 32 are under way, each pushed by itself.
async fn in_flight(libos: &LibOs, qd: pdpix::Qd) -> Result<f64, Error> {
    let (mut sent, mut got) = (0, 0);
    let begun = Instant::now();
    while begun.elapsed() < STREAM {
        while sent - got / TEXT < IN_FLIGHT {
            let sga = Sga::copy(libos.heap(), &[7; TEXT])?;
            libos.redeem(libos.push(qd, sga)?).await?.done()?;
            sent += 1;
        }
        got += libos.redeem(libos.pop(qd, PIECE)?).await?.popped()?.sga.len();
    }
    Ok((got / TEXT) as f64 / begun.elapsed().as_micros() as f64)
}

/// Gbit/s of a stream, as who takes it says.
async fn stream(libos: &LibOs, qd: pdpix::Qd) -> Result<f64, Error> {
    let mut memory = libos.heap().alloc(PIECE)?;
    memory.resize(PIECE, 7);
    let piece = memory.freeze();
    let filler = libos.clone();
    libos.spawn(async move {
        while let Ok(push) = filler.push(qd, Sga::from(piece.clone())) {
            if filler.redeem(push).await.and_then(|end| end.done()).is_err() {
                return;
            }
        }
    });
    let (mut first, mut word) = (None, Vec::new());
    let begun = Instant::now();
    loop {
        word.extend(libos.redeem(libos.pop(qd, 4096)?).await?.popped()?.sga.to_vec());
        let whole = word.len() / 8 * 8;
        let Some(last) = word[..whole].chunks_exact(8).next_back() else { continue };
        let had = u64::from_be_bytes(last.try_into().map_err(|_| Error::InvalidArgument)?);
        word.drain(..whole);
        if begun.elapsed() < Duration::from_millis(300) {
            continue;
        }
        let (from, before) = *first.get_or_insert((Instant::now(), had));
        if from.elapsed() > STREAM {
            return Ok((had - before) as f64 * 8.0 / from.elapsed().as_nanos() as f64);
        }
    }
}

// Instructions, of both ends in one thread, over two ports that rings join.

/// Serves `count` echoes; or with `idle` looks as often whether there is anything. What callgrind runs.
pub fn kernel(name: &str, count: u64) -> Result<()> {
    let arguments = ["--no-huge", "--no-shconf", "-m", "256"].map(String::from).to_vec();
    let eal = Eal::start(&EalSettings { arguments, ..EalSettings::default() })?;
    ring_pair(eal, ["kernel0", "kernel1"], 1024)?;
    let end = |end: usize| -> Result<Core> {
        let heap_size = 32 << 20;
        let plan = Plan { heaps: 1, heap_size, reserves: Reserves::usual(heap_size), source: Source::External };
        let reservation = eal.reserve(plan)?;
        let settings = PortSettings { mac: Some(MACS[end]), ..PortSettings::new(&format!("net_ring_kernel{end}")) };
        let port = Port::open(eal, settings, &reservation)?;
        let heap = reservation.heap(0).context("the only heap")?;
        core(port.queue(0, heap.clone())?, heap, end)
    };
    let (server, client) = (end(0)?, end(1)?);
    let kind = kind_of(name);
    let libos = server.libos().clone();
    server.libos().spawn(async move { _ = echo(&libos, kind, false).await });
    if name == "idle" {
        (0..count).for_each(|_| dpdk_serves(&server));
        return Ok(());
    }
    let (libos, (tell, told)) = (client.libos().clone(), mpsc::channel());
    client.libos().spawn(async move { _ = tell.send(echoes(&libos, kind, count).await) });
    loop {
        client.step();
        dpdk_serves(&server);
        if let Ok(ended) = told.try_recv() {
            return ended.map_err(|error| anyhow!("{error:?}"));
        }
    }
}

/// A pass of the server's. By this name what is counted is known.
#[inline(never)]
fn dpdk_serves(server: &Core) {
    server.step();
}

async fn echoes(libos: &LibOs, kind: SocketKind, count: u64) -> Result<(), Error> {
    let qd = libos.socket(kind, None)?;
    libos.redeem(libos.connect(qd, Endpoint::new(OURS[0].into(), PORT))?).await?.done()?;
    for _ in 0..count {
        let sga = Sga::copy(libos.heap(), &[7; TEXT])?;
        libos.redeem(libos.push(qd, sga)?).await?.done()?;
        libos.redeem(libos.pop(qd, 2048)?).await?.popped()?;
    }
    Ok(())
}

/// Instructions of the server's side for each echo, and for a look that finds nothing.
pub fn instructions() -> Result<()> {
    let names = ["tcp", "udp", "idle"];
    let Some(callgrind) = Callgrind::find()? else {
        names.iter().for_each(|name| skip(&format!("dpdk_instructions_{name}"), "valgrind is not installed"));
        return Ok(());
    };
    for name in names {
        let each = callgrind.each_inside("dpdk_serves", &format!("dpdk_{name}"));
        match each {
            Ok(each) => result(&format!("dpdk_instructions_{name}"), each, "instructions"),
            Err(error) => skip(&format!("dpdk_instructions_{name}"), &format!("{error:#}")),
        }
    }
    Ok(())
}
