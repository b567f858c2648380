//! Our own stack passes the behaviour suite over real devices: AF_PACKET, TAP and AF_XDP.
//!
//! Each test is in a network namespace of its own, which it makes of its thread and which is gone with it. There the
//! client's core has one end of a link, and the two cores of the server the other: over AF_PACKET and TAP the first of them
//! has the device and the second sends through it; over AF_XDP each has a queue.

use std::collections::VecDeque;
use std::fs::File;
use std::io::BufWriter;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::sync::Arc;

use libos_conformance::namespace::{enter_new_namespace, ip, make_bridge, make_veth};
use libos_conformance::sleeping::hosts_that_sleep_are_woken_for_everything;
use libos_conformance::{Addresses, Can, End, LIMIT, Made, RealTime, Seat, Side, Subject, say, suite};
use libos_mem::Heap;
use libos_net::wire::Mac;
use libos_net::{
    Cidr, Crossing, Device, Frame, Host, IpSettings, Link, NetNetwork, NetSettings, NoDevice, Pcap, Received,
};
use libos_xdp::{OpenError, PacketSettings, PacketSocket, Port, Tap, TapSettings, Xsk, XskSettings};
use pdpix::{Endpoint, Error, Instant, Network, SocketKind, WakeOn, WallTime};

/// The client's and the server's.
const MACS: [Mac; 2] = [Mac([2, 0, 0, 0, 0x78, 1]), Mac([2, 0, 0, 0, 0x78, 2])];
const IPV4: [Ipv4Addr; 2] = [Ipv4Addr::new(10, 78, 0, 1), Ipv4Addr::new(10, 78, 0, 2)];
const IPV6: [Ipv6Addr; 2] = [Ipv6Addr::new(0xfd78, 0, 0, 0, 0, 0, 0, 1), Ipv6Addr::new(0xfd78, 0, 0, 0, 0, 0, 0, 2)];
/// On the link, and nobody's.
const NOBODY: Ipv4Addr = Ipv4Addr::new(10, 78, 0, 99);
/// The ends of a veth pair.
const ENDS: [&str; 2] = ["client0", "server0"];

const CAN: Can = Can {
    datagrams: true,
    ipv6: true,
    memory_queues: true,
    give_up: true,
    contend: true,
    cores_share: true,
    kill: true,
    // Another process would need an end of the link of its own.
    second_process: false,
    keeps_what_arrived: true,
    // What fits into one packet: we send no fragments.
    datagram_max: 1500 - 20 - 8,
    receive_ahead: 2 * 65_536,
};

/// Why there is no device, as a line for whoever reads the test's output.
type Opened<T> = Result<T, String>;

/// What opens the devices of the cores.
trait Devices: Default {
    /// Bytes of each core's heap.
    const HEAP_SIZE: usize = 256 << 20;

    /// Makes the link in the namespace of this thread.
    fn make_link() -> Opened<()>;

    /// The device of a core. `None`: it sends through the first one's.
    fn open(&mut self, side: Side, heap: &Heap) -> Opened<Option<Box<dyn Device>>>;
}

fn subject<D: Devices>() -> Made {
    enter_new_namespace()?;
    D::make_link()?;
    let mut devices = D::default();
    let mut server = Server { host: Host::new(2, [9; 16], 9), link: None };
    let mut reason = None;
    let addresses = Addresses {
        ipv4: IPV4.map(IpAddr::V4),
        ipv6: Some(IPV6.map(IpAddr::V6)),
        nobody: Some(Endpoint::new(NOBODY.into(), 9)),
    };
    let made = RealTime::hosts(CAN, addresses, D::HEAP_SIZE, |seat| match devices.open(seat.side, seat.heap) {
        Ok(device) => Ok(network(seat, device, &mut server)),
        Err(why) => {
            reason = Some(why);
            Err(Error::NetworkDown)
        }
    });
    let mut cores = made.map_err(|error| reason.unwrap_or_else(|| error.to_string()))?;
    introduce(&mut cores);
    Ok(Box::new(cores))
}

/// Cores that really sleep, each in a thread of its own in the namespace of this one, are woken by their devices.
fn asleep<D: Devices>(test: &str) {
    let make = |side: Side, heap: &Heap| {
        let device = D::default().open(side, heap).map_err(|_| Error::NetworkDown)?.expect("each has one");
        Ok(Box::new(NetNetwork::new(device, heap.clone(), settings(side))) as Box<dyn Network>)
    };
    let can_be_had = || {
        enter_new_namespace()?;
        D::make_link()?;
        let heap = Heap::alone(D::HEAP_SIZE).expect("memory");
        D::default().open(Side::SERVER, &heap).map(drop)
    };
    match can_be_had() {
        Ok(()) => hosts_that_sleep_are_woken_for_everything(make, IPV4.map(IpAddr::V4)).expect("it could be had"),
        Err(why) => say(&format!("SKIP {test}: {why}")),
    }
}

/// What the server's cores share.
struct Server {
    host: Arc<Host>,
    /// What the first one's device is.
    link: Option<Link>,
}

/// The stack of a core, as boot puts it together.
fn network(seat: Seat<'_>, device: Option<Box<dyn Device>>, server: &mut Server) -> Box<dyn Network> {
    let Seat { side, heap, rings } = seat;
    let device = device.map(|device| captured(device, side));
    let settings = settings(side);
    if side == Side::CLIENT {
        return Box::new(NetNetwork::new(device.expect("the client has one"), heap.clone(), settings));
    }
    let sends_through = device.is_none().then_some(0);
    let device = device.unwrap_or_else(|| Box::new(NoDevice::new(server.link.expect("the first core has one"))));
    server.link.get_or_insert(device.link());
    let crossing = Crossing { host: server.host.clone(), conduit: rings.with_heap(heap.clone()), sends_through };
    Box::new(NetNetwork::sharing(device, heap.clone(), settings, crossing))
}

fn settings(side: Side) -> NetSettings {
    let host = usize::from(side != Side::CLIENT);
    let own = [Cidr::new(IPV4[host].into(), 24), Cidr::new(IPV6[host].into(), 64)];
    let ip = IpSettings {
        addresses: own.into_iter().flatten().collect(),
        answers: side != Side::SECOND,
        ..IpSettings::default()
    };
    NetSettings { ip, secret: [host as u8; 16], seed: side.0 as u64, ..NetSettings::default() }
}

/// With `MARGAY_PCAP=folder` what each core's device sends and receives is written there, for Wireshark.
fn captured(device: Box<dyn Device>, side: Side) -> Box<dyn Device> {
    let Ok(folder) = std::env::var("MARGAY_PCAP") else { return device };
    let file = File::create(format!("{folder}/conformance-{}.pcapng", side.0)).expect("the folder is there");
    Box::new(Pcap::new(device, BufWriter::new(file), 128, WallTime::default()))
}

/// Each core has heard of the other host's addresses: only a few packets wait for somebody who is not known yet.
fn introduce(s: &mut dyn Subject) {
    for (side, host) in [(Side::CLIENT, 1), (Side::SERVER, 0), (Side::SECOND, 0)] {
        for ip in [IpAddr::V4(IPV4[host]), IpAddr::V6(IPV6[host])] {
            let q = s.socket(side, SocketKind::Stream).unwrap();
            let connect = s.connect(q, Endpoint::new(ip, 1)).unwrap();
            let end = s.wait(connect, Some(LIMIT)).expect("the link works");
            assert!(matches!(end, End { result: Err(Error::ConnectionRefused), .. }), "{side:?} to {ip}: {end:?}");
            s.close(q).unwrap();
        }
    }
}

/// What this machine has not is a reason to skip; anything else is a fault.
fn opened<T>(result: Result<T, OpenError>) -> Opened<T> {
    match result {
        Ok(it) => Ok(it),
        Err(OpenError::Unsupported(why)) => Err(why),
        Err(error) => panic!("{error}"),
    }
}

// AF_PACKET.

/// A packet socket on each end of a veth pair.
#[derive(Default)]
struct Packet;

impl Devices for Packet {
    fn make_link() -> Opened<()> {
        make_veth(ENDS, MACS, 1)
    }

    fn open(&mut self, side: Side, heap: &Heap) -> Opened<Option<Box<dyn Device>>> {
        if side == Side::SECOND {
            return Ok(None);
        }
        opened(PacketSocket::open(PacketSettings::new(ENDS[side.0]), heap.clone())).map(|it| Some(Box::new(it) as _))
    }
}

// TAP.

/// A TAP interface each, and a bridge of the kernel's between them.
#[derive(Default)]
struct Taps;

const TAPS: [&str; 2] = ["client-tap", "server-tap"];

impl Devices for Taps {
    fn make_link() -> Opened<()> {
        make_bridge("bridge0")
    }

    fn open(&mut self, side: Side, heap: &Heap) -> Opened<Option<Box<dyn Device>>> {
        if side == Side::SECOND {
            return Ok(None);
        }
        let name = TAPS[side.0];
        let settings = TapSettings { name: name.into(), mac: Some(MACS[side.0]), ..TapSettings::default() };
        let tap = opened(Tap::open(settings, heap.clone()))?;
        ip(&format!("link set {name} master bridge0\n"))?;
        Ok(Some(Box::new(tap)))
    }
}

// AF_XDP.

/// Two queues on each end of a veth pair: the client has both of its end, the server's cores one each.
#[derive(Default)]
struct Queues([Option<Arc<Port>>; 2]);

impl Devices for Queues {
    // All of it is pinned.
    const HEAP_SIZE: usize = 64 << 20;

    fn make_link() -> Opened<()> {
        libos_xdp::is_built()?;
        make_veth(ENDS, MACS, 2)
    }

    fn open(&mut self, side: Side, heap: &Heap) -> Opened<Option<Box<dyn Device>>> {
        let host = usize::from(side != Side::CLIENT);
        let port = match self.0[host].clone() {
            Some(port) => port,
            None => {
                let settings = XskSettings::new(ENDS[host], &[IPV4[host].into(), IPV6[host].into()]);
                let port = opened(Port::open(settings, heap.reservation()))?;
                self.0[host].insert(port).clone()
            }
        };
        let queue = |queue| opened(port.queue(queue, heap.clone()));
        Ok(Some(match side {
            Side::CLIENT => Box::new(Spread([queue(0)?, queue(1)?])),
            Side::SERVER => Box::new(queue(0)?),
            _ => Box::new(queue(1)?),
        }))
    }
}

/// Sends each flow by one of two queues, as a card at the other end would receive it: in veth, what one end sends by a
/// queue the other receives by the same one.
struct Spread([Xsk; 2]);

impl Spread {
    fn queue_of(frame: &Frame) -> usize {
        // The ports, where IPv4 has no options.
        let ports = frame.header.get(34..38).unwrap_or_default();
        usize::from(ports.iter().fold(0, |sum, byte| sum ^ byte) & 1)
    }
}

impl Device for Spread {
    fn link(&self) -> Link {
        self.0[0].link()
    }

    fn receive(&mut self, now: Instant, into: &mut VecDeque<Received>, room: usize) -> Result<(), Error> {
        let before = into.len();
        self.0[0].receive(now, into, room)?;
        let left = room - (into.len() - before);
        self.0[1].receive(now, into, left)
    }

    fn transmit(&mut self, now: Instant, frames: &mut VecDeque<Frame>) {
        let (mut by_queue, mut left) = ([VecDeque::new(), VecDeque::new()], VecDeque::new());
        frames.drain(..).for_each(|frame| by_queue[Spread::queue_of(&frame)].push_back(frame));
        for (queue, mut frames) in self.0.iter_mut().zip(by_queue) {
            queue.transmit(now, &mut frames);
            left.append(&mut frames);
        }
        *frames = left;
    }

    fn flush(&mut self, now: Instant) {
        self.0.iter_mut().for_each(|queue| queue.flush(now));
    }

    fn arm(&mut self, _: Instant) -> WakeOn {
        WakeOn::Nap
    }

    fn in_flight(&self) -> usize {
        self.0.iter().map(Device::in_flight).sum()
    }
}

/// One queue on each end, of a core alone.
#[derive(Default)]
struct Queue;

impl Devices for Queue {
    fn make_link() -> Opened<()> {
        libos_xdp::is_built()?;
        make_veth(ENDS, MACS, 1)
    }

    fn open(&mut self, side: Side, heap: &Heap) -> Opened<Option<Box<dyn Device>>> {
        let host = usize::from(side != Side::CLIENT);
        let settings = XskSettings::new(ENDS[host], &[IPV4[host].into(), IPV6[host].into()]);
        opened(Xsk::open(settings, heap.clone())).map(|xsk| Some(Box::new(xsk) as _))
    }
}

suite!(packet_suite, subject::<Packet>);
suite!(tap_suite, subject::<Taps>);
suite!(af_xdp_suite, subject::<Queues>);

#[test]
fn packet_asleep() {
    asleep::<Packet>("packet_asleep");
}

#[test]
fn tap_asleep() {
    asleep::<Taps>("tap_asleep");
}

#[test]
fn af_xdp_asleep() {
    asleep::<Queue>("af_xdp_asleep");
}
