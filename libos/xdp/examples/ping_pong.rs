//! Round trips of raw frames between two devices of ours, or between one and a kernel socket: what the devices themselves
//! cost. Each end spins on a core of its own.
//!
//! ping_pong NAMESPACE INTERFACE NAMESPACE INTERFACE xsk|packet xsk|packet|udp [skb] [busy] [gather] [ring=N] [pieces=N] [len=N] [count=N]
//!
//! With `udp` the other end is a spinning kernel socket at 10.77.0.2:7777, and we play 10.77.0.9.

use std::collections::VecDeque;
use std::net::UdpSocket;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use libos_mem::{Heap, Plan, Reservation, Reserves, Source};
use libos_net::wire::{Checksum, EtherType, EthernetHeader, Ipv4Header, Mac, Protocol, UdpHeader};
use libos_net::{Device, Frame};
use libos_xdp::{BusyPoll, PacketSettings, PacketSocket, ProgramMode, Xsk, XskSettings};
use pdpix::Sga;
use zerocopy::IntoBytes;

const NOW: pdpix::Instant = pdpix::Instant::ZERO;

struct Options {
    words: Vec<String>,
}

impl Options {
    fn has(&self, word: &str) -> bool {
        self.words.iter().any(|other| other == word)
    }

    fn number(&self, name: &str, usual: usize) -> usize {
        let text = self.words.iter().find_map(|word| word.strip_prefix(name)?.strip_prefix('='));
        text.map_or(usual, |text| text.parse().expect("a number"))
    }
}

fn main() {
    let words: Vec<String> = std::env::args().skip(1).collect();
    assert!(words.len() >= 6, "namespaces, interfaces and kinds of both ends");
    let options = Arc::new(Options { words: words[6..].to_vec() });
    let is_over = Arc::new(AtomicBool::new(false));
    let (namespace, interface, kind) = (words[2].clone(), words[3].clone(), words[5].clone());
    let (others, over) = (options.clone(), is_over.clone());
    let (tell, told) = std::sync::mpsc::channel();
    let echo = std::thread::spawn(move || {
        enter(&namespace, 1);
        if kind == "udp" {
            tell.send(mac_of(&interface)).unwrap();
            return echo_udp(&over);
        }
        let heap = heap();
        let mut device = open(&kind, &interface, "10.77.0.2", &heap, &others);
        tell.send(Mac::BROADCAST).unwrap();
        echo_frames(&mut *device, &over);
    });
    let peer = told.recv().unwrap();
    enter(&words[0], 0);
    let heap = heap();
    let mut device = open(&words[4], &words[1], "10.77.0.9", &heap, &options);
    std::thread::sleep(Duration::from_millis(200));
    let mut times = ping(&mut *device, &heap, peer, &options);
    is_over.store(true, Ordering::Relaxed);
    echo.join().unwrap();
    times.sort_unstable();
    let at = |part: usize| times[times.len() * part / 1000] as f64 / 1000.0;
    println!(
        "{} - {} {:?}: p50 {:.2} us, p99 {:.2}, p99.9 {:.2}, {} round trips",
        words[4],
        words[5],
        &words[6..],
        at(500),
        at(990),
        at(999),
        times.len()
    );
    let counters = device.counters().into_iter().filter(|(_, count)| *count > 0);
    println!("  {:?}", counters.collect::<Vec<_>>());
}

fn heap() -> Heap {
    let heap_size = 16 << 20;
    let plan = Plan { heaps: 1, heap_size, reserves: Reserves::usual(heap_size), source: Source::Ordinary };
    Reservation::new(plan).unwrap().heap(0).unwrap()
}

fn open(kind: &str, interface: &str, address: &str, heap: &Heap, options: &Options) -> Box<dyn Device> {
    if kind == "packet" {
        return Box::new(PacketSocket::open(PacketSettings::new(interface), heap.clone()).unwrap());
    }
    let mut settings = XskSettings::new(interface, &[address.parse().unwrap()]);
    settings.program_mode = if options.has("skb") { ProgramMode::Skb } else { ProgramMode::Driver };
    settings.busy_poll = options.has("busy").then_some(BusyPoll { micros: 20, budget: 64 });
    settings.ring_size = options.number("ring", 1024) as u32;
    settings.gathers = if options.has("gather") { 8 } else { 1 };
    Box::new(Xsk::open(settings, heap.clone()).unwrap())
}

fn echo_frames(device: &mut dyn Device, is_over: &AtomicBool) {
    let (mut received, mut frames) = (VecDeque::new(), VecDeque::new());
    while !is_over.load(Ordering::Relaxed) {
        device.receive(NOW, &mut received, 64).unwrap();
        for frame in received.drain(..) {
            // Sent back from where it was received; the pinger looks at the number in it only. Its address is the pinger's by
            // the source, which it takes for its own.
            let mut bytes = frame.buf.try_mut().expect("nobody else has it");
            bytes[26..30].copy_from_slice(&[10, 77, 0, 2]);
            bytes[30..34].copy_from_slice(&[10, 77, 0, 9]);
            frames.push_back(Frame { header: bytes.freeze(), payload: Sga::new(), checksum: None, segment_size: 0 });
        }
        if !frames.is_empty() {
            device.transmit(NOW, &mut frames);
            device.flush(NOW);
        }
    }
}

fn echo_udp(is_over: &AtomicBool) {
    let socket = UdpSocket::bind("10.77.0.2:7777").unwrap();
    socket.set_nonblocking(true).unwrap();
    let mut bytes = [0; 2048];
    while !is_over.load(Ordering::Relaxed) {
        if let Ok((len, from)) = socket.recv_from(&mut bytes) {
            let _ = socket.send_to(&bytes[..len], from);
        }
    }
}

fn ping(device: &mut dyn Device, heap: &Heap, peer: Mac, options: &Options) -> Vec<u64> {
    let (count, len, pieces) =
        (options.number("count", 50_000), options.number("len", 18), options.number("pieces", 1));
    let (mut received, mut frames) = (VecDeque::new(), VecDeque::new());
    let mut times = Vec::with_capacity(count);
    let mut lost = 0;
    for number in 0..count as u64 {
        let mut payload = vec![0; len.max(8)];
        payload[..8].copy_from_slice(&number.to_be_bytes());
        let whole = frame(peer, &payload);
        let header = heap.copy(if pieces > 1 { &whole[..42] } else { &whole }).unwrap();
        let mut rest = Sga::new();
        if pieces > 1 {
            whole[42..].chunks(len.div_ceil(pieces - 1)).for_each(|part| rest.push(heap.copy(part).unwrap()).unwrap());
        }
        let start = Instant::now();
        frames.push_back(Frame { header, payload: rest, checksum: None, segment_size: 0 });
        device.transmit(NOW, &mut frames);
        device.flush(NOW);
        for polls in 1.. {
            device.receive(NOW, &mut received, 64).unwrap();
            if received.is_empty() && polls % 1024 != 0 {
                continue; // a look at the clock costs as much as a poll
            }
            let elapsed = start.elapsed();
            if received.drain(..).any(|frame| frame.buf.get(42..50) == Some(&number.to_be_bytes())) {
                times.push(elapsed.as_nanos() as u64);
                break;
            }
            if elapsed > Duration::from_millis(100) {
                lost += 1;
                assert!(lost < 20, "nothing comes back: {:?}", device.counters());
                break;
            }
        }
    }
    times
}

fn frame(peer: Mac, payload: &[u8]) -> Vec<u8> {
    let source = Mac([2, 0, 0, 0, 0, 9]);
    let ethernet = EthernetHeader { destination: peer, source, ethertype: EtherType::IPV4 };
    let mut ip = Ipv4Header {
        version_ihl: 0x45,
        traffic_class: 0,
        total_len: (28 + payload.len() as u16).into(),
        identification: 0.into(),
        flags_fragment: 0.into(),
        ttl: 64,
        protocol: Protocol::UDP,
        checksum: 0.into(),
        source: [10, 77, 0, 9],
        destination: [10, 77, 0, 2],
    };
    ip.checksum = Checksum::new().add(ip.as_bytes()).finish().into();
    let udp = UdpHeader {
        source: 7000.into(),
        destination: 7777.into(),
        len: (8 + payload.len() as u16).into(),
        checksum: 0.into(),
    };
    [ethernet.as_bytes(), ip.as_bytes(), udp.as_bytes(), payload].concat()
}

fn mac_of(interface: &str) -> Mac {
    let text = std::process::Command::new("ip").args(["-o", "link", "show", "dev", interface]).output().unwrap();
    let text = String::from_utf8(text.stdout).unwrap();
    let mac = text.split("link/ether ").nth(1).and_then(|rest| rest.split(' ').next()).expect("an Ethernet interface");
    mac.parse().unwrap()
}

/// Into a network namespace, and onto a processor.
fn enter(namespace: &str, processor: usize) {
    use rustix::thread::{CpuSet, LinkNameSpaceType, move_into_link_name_space, sched_setaffinity};
    let file = std::fs::File::open(format!("/var/run/netns/{namespace}")).unwrap();
    move_into_link_name_space(std::os::fd::AsFd::as_fd(&file), Some(LinkNameSpaceType::Network)).unwrap();
    let mut set = CpuSet::new();
    set.set(processor);
    sched_setaffinity(None, &set).unwrap();
}
