//! One stream through a lossy wire of ours in user space: 100 Mbit/s, 5 ms each way, one frame of a hundred lost. Not between
//! two stacks of ours: both would spin, and with two processors leave the wire none. The simulator has that.

use std::fs::File;
use std::os::fd::AsFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow};
use libos_net::{Bridge, Device, LineSettings};
use libos_xdp::{PacketSettings, PacketSocket};
use margay_bench::sampling::median;
use margay_bench::simulated;
use pdpix::Rng;
use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};

use super::streams::stream_for;
use super::{End, Link, Through, heap, ip};
use crate::{result, skip};

/// Which frames are lost is chance: a figure is the middle of so many, each of so long.
const ROUNDS: u64 = 5;
const STREAM: Duration = Duration::from_secs(6);
/// How long the wire sleeps when there is nothing to do.
const NAP: Duration = Duration::from_micros(50);

const SUBJECTS: [(&str, Through, Through); 3] = [
    ("net_lossy_kernel", Through::Kernel, Through::Kernel),
    ("net_lossy_to_kernel", Through::Packet(false), Through::Kernel),
    ("net_lossy_from_kernel", Through::Kernel, Through::Packet(false)),
];

pub fn run() {
    for (name, from, to) in SUBJECTS {
        // Two namespaces and a hub for each round: the wire's chance begins anew with its seed.
        let measured = |seed| -> Result<f64> {
            let wire = Wire::new(seed)?;
            Ok(stream_for(STREAM, &wire.link, from, to)? * 1e3)
        };
        match (1..=ROUNDS).map(measured).collect::<Result<Vec<f64>>>() {
            Ok(figures) => result(name, median(figures), "Mbit/s"),
            Err(error) => skip(name, &format!("{error:#}")),
        }
    }
    result("simulator_lossy", simulated::lossy_stream(), "Mbit/s");
}

/// Two ends, and between them a thread that is the wire, in a namespace of its own.
struct Wire {
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<Result<()>>>,
    hub: Hub,
    link: Link,
}

/// A namespace, as long as this lives.
struct Hub(String);

impl Drop for Hub {
    fn drop(&mut self) {
        let _ = ip(&["netns", "delete", &self.0]); // it may not have been made
    }
}

impl Wire {
    fn new(seed: u64) -> Result<Wire> {
        let hub = Hub(format!("mgbench{}hub", std::process::id()));
        ip(&["netns", "add", &hub.0])?;
        let join = |ends: [&End; 2]| ends.into_iter().try_for_each(|end| end.veth(&hub.0, &port_of(end)));
        let link = Link::made(join)?;
        let ports = link.ends.each_ref().map(port_of);
        for port in &ports {
            ip(&["-n", &hub.0, "link", "set", port, "up"])?;
        }
        let stop = Arc::new(AtomicBool::new(false));
        let (namespace, told) = (File::open(format!("/var/run/netns/{}", hub.0))?, stop.clone());
        let thread = thread::spawn(move || {
            move_into_link_name_space(namespace.as_fd(), Some(LinkNameSpaceType::Network))?;
            let heap = heap()?;
            let open = |port: &String| -> Result<Box<dyn Device>> {
                let settings = PacketSettings { promiscuous: true, ..PacketSettings::new(port) };
                Ok(Box::new(PacketSocket::open(settings, heap.clone())?))
            };
            let lines = [simulated::lossy_line(), simulated::lossy_line()];
            carry([open(&ports[0])?, open(&ports[1])?], lines, seed, &told)
        });
        Ok(Wire { stop, thread: Some(thread), hub, link })
    }
}

fn port_of(end: &End) -> String {
    format!("port-{}", end.interface)
}

fn carry(ends: [Box<dyn Device>; 2], lines: [LineSettings; 2], seed: u64, stop: &AtomicBool) -> Result<()> {
    let (mut bridge, begun) = (Bridge::new(ends, lines, &mut Rng::new(seed)), Instant::now());
    while !stop.load(Ordering::Relaxed) {
        let now = pdpix::Instant::from_nanos(begun.elapsed().as_nanos() as u64);
        if bridge.poll(now).map_err(|error| anyhow!("{error:?}")).context("the wire broke")? == 0 {
            thread::sleep(NAP);
        }
    }
    Ok(())
}

impl Drop for Wire {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        if let Some(Err(error)) = self.thread.take().and_then(|thread| thread.join().ok()) {
            eprintln!("margay-bench: {}: {error:#}", self.hub.0);
        }
    }
}
