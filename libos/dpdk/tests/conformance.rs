//! Our own stack passes the behaviour suite over DPDK's ports: the client's core has one end of a link, and the two cores of
//! the server the other. On most ports the first of them has the one queue, and the second sends and receives through it.

mod ports;

use std::collections::VecDeque;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::rc::Rc;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use libos_conformance::{Addresses, Can, End, LIMIT, Made, Memory, RealTime, Seat, Side, Subject, suite};
use libos_dpdk::{Port, Queue};
use libos_mem::Heap;
use libos_net::{Cidr, Crossing, Device, Frame, Host, IpSettings, Link, NetNetwork, NetSettings, Offloads, Received};
use pdpix::{Endpoint, Error, Instant, Network, SocketKind, WakeOn};
use ports::{Kind, Opened, Wire, eal, wait_until_up};

const IPV4: [Ipv4Addr; 2] = [Ipv4Addr::new(10, 79, 0, 1), Ipv4Addr::new(10, 79, 0, 2)];
const IPV6: [Ipv6Addr; 2] = [Ipv6Addr::new(0xfd79, 0, 0, 0, 0, 0, 0, 1), Ipv6Addr::new(0xfd79, 0, 0, 0, 0, 0, 0, 2)];
/// On the link, and nobody's.
const NOBODY: Ipv4Addr = Ipv4Addr::new(10, 79, 0, 99);
/// All of it is there, used or not.
const HEAP_SIZE: usize = 96 << 20;

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

/// The ports of a subject. Dropped after its cores.
struct Ends {
    wire: Wire,
    queues: usize,
    ports: [Option<Arc<Port>>; 2],
    alone: Alone,
}

/// DPDK's interrupt thread may take what it heard of a descriptor for a word of another that has its number now: ports of
/// one process are not opened while others are closed. So there is one subject at a time.
type Alone = Rc<MutexGuard<'static, ()>>;

fn alone() -> Alone {
    static ONE: Mutex<()> = Mutex::new(());
    Rc::new(ONE.lock().unwrap_or_else(PoisonError::into_inner))
}

/// A device of such a subject.
struct Only<D> {
    device: D,
    _alone: Alone,
}

impl<D: Device> Device for Only<D> {
    fn link(&self) -> Link {
        self.device.link()
    }

    fn receive(&mut self, now: Instant, into: &mut VecDeque<Received>, room: usize) -> Result<(), Error> {
        self.device.receive(now, into, room)
    }

    fn transmit(&mut self, now: Instant, frames: &mut VecDeque<Frame>) {
        self.device.transmit(now, frames);
    }

    fn flush(&mut self, now: Instant) {
        self.device.flush(now);
    }

    fn arm(&mut self, now: Instant) -> WakeOn {
        self.device.arm(now)
    }

    fn in_flight(&self) -> usize {
        self.device.in_flight()
    }
}

impl Ends {
    /// The device of a core. `None`: it sends through the first one's.
    fn open(&mut self, side: Side, heap: &Heap) -> Opened<Option<Box<dyn Device>>> {
        let end = usize::from(side != Side::CLIENT);
        let port = match self.ports[end].clone() {
            Some(port) => port,
            None => self.ports[end].insert(self.wire.open(end, heap.reservation())?).clone(),
        };
        let queue = |queue| port.queue(queue, heap.clone()).map_err(|error| error.to_string());
        let _alone = self.alone.clone();
        Ok(match (side, self.queues) {
            (Side::CLIENT, 2) => Some(Box::new(Only { device: Spread([queue(0)?, queue(1)?]), _alone })),
            (Side::SECOND, 1) => None,
            (Side::SECOND, _) => Some(Box::new(Only { device: queue(1)?, _alone })),
            _ => Some(Box::new(Only { device: queue(0)?, _alone })),
        })
    }
}

fn subject(kind: Kind, queues: usize) -> Made {
    let alone = alone();
    let mut ends = Ends { wire: Wire::make(kind, queues)?, queues, ports: [None, None], alone };
    let mut server = Server { host: Host::new(2, [9; 16], 9), link: None };
    let mut reason = None;
    let addresses = Addresses {
        ipv4: IPV4.map(IpAddr::V4),
        ipv6: Some(IPV6.map(IpAddr::V6)),
        nobody: Some(Endpoint::new(NOBODY.into(), 9)),
    };
    let eal = eal()?;
    let memory = Memory {
        heap_size: HEAP_SIZE,
        // A few frames of the longest kind, each of pieces of its own, on drivers that are asked to give back early.
        kept: match kind {
            Kind::Virtio | Kind::Vhost => 5 * queues * 4096,
            Kind::VhostLong => 5 * queues * (128 << 10),
            _ => 0,
        },
        reserve: |plan| eal.reserve(plan).map_err(|_| Error::NoBuffers),
    };
    let made = RealTime::hosts_in(CAN, addresses, memory, |seat| match ends.open(seat.side, seat.heap) {
        Ok(device) => Ok(network(seat, device, &mut server)),
        Err(why) => {
            reason = Some(why);
            Err(Error::NetworkDown)
        }
    });
    let mut cores = made.map_err(|error| reason.unwrap_or_else(|| error.to_string()))?;
    wait_until_up(&ends.ports.iter().flatten().collect::<Vec<_>>());
    introduce(&mut cores);
    Ok(Box::new(cores))
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
    let settings = settings(side);
    if side == Side::CLIENT {
        return Box::new(NetNetwork::new(device.expect("the client has one"), heap.clone(), settings));
    }
    let sends_through = device.is_none().then_some(0);
    let device = device.unwrap_or_else(|| Box::new(NoDevice(server.link.expect("the first core has one"))));
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

/// What sends through another core's device.
struct NoDevice(Link);

impl Device for NoDevice {
    fn link(&self) -> Link {
        // Frames are handed over whole.
        Link { offloads: Offloads::NONE, ..self.0 }
    }

    fn receive(&mut self, _: Instant, _: &mut VecDeque<Received>, _: usize) -> Result<(), Error> {
        Ok(())
    }

    fn transmit(&mut self, _: Instant, _: &mut VecDeque<Frame>) {}

    fn flush(&mut self, _: Instant) {}

    fn arm(&mut self, _: Instant) -> WakeOn {
        WakeOn::Nothing
    }

    fn in_flight(&self) -> usize {
        0
    }
}

/// Sends each flow by one of two queues, as a card at the other end would receive it: what one end of a link of virtio's
/// sends by a queue the other receives by the same one.
struct Spread([Queue; 2]);

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

suite!(dpdk_ring_suite, || subject(Kind::Ring, 1));
suite!(dpdk_memif_suite, || subject(Kind::Memif, 1));
suite!(dpdk_memif_zero_copy_suite, || subject(Kind::MemifZeroCopy, 1));
suite!(dpdk_virtio_suite, || subject(Kind::Vhost, 1));
suite!(dpdk_virtio_long_suite, || subject(Kind::VhostLong, 1));
suite!(dpdk_virtio_queues_suite, || subject(Kind::Vhost, 2));
suite!(dpdk_af_packet_suite, || subject(Kind::AfPacket, 1));

/// The cases with something on the wire. In the others nothing comes near the driver, and making these two ports and closing
/// them takes the kernel half a second.
macro_rules! on_the_wire {
    ({ $make:expr }) => {};
    ({ $make:expr } misuse { $($case:ident)* } $($rest:tt)*) => { on_the_wire!({ $make } $($rest)*); };
    ({ $make:expr } waits { $($case:ident)* } $($rest:tt)*) => { on_the_wire!({ $make } $($rest)*); };
    ({ $make:expr } memory_queues { $($case:ident)* } $($rest:tt)*) => { on_the_wire!({ $make } $($rest)*); };
    ({ $make:expr } $group:ident { $($case:ident)* } $($rest:tt)*) => {
        libos_conformance::tests!({ $make } $group { $($case)* });
        on_the_wire!({ $make } $($rest)*);
    };
}

macro_rules! suite_on_the_wire {
    ($name:ident, $make:expr) => {
        mod $name {
            use super::*;
            libos_conformance::with_cases!(on_the_wire { $make });
        }
    };
}

suite_on_the_wire!(dpdk_af_xdp_suite, || subject(Kind::AfXdp, 1));
suite_on_the_wire!(dpdk_tap_suite, || subject(Kind::Tap, 1));
