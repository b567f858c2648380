//! The stage over real devices: three cores in one thread, stepped in turn, in the kernel's time.

use std::net::{IpAddr, UdpSocket};
use std::time::Duration;

use libos_mem::{Heap, Plan, Reservation, Reserves, Source};
use libos_runtime::{BufRings, Clock, Core, CoreParts, KernelClock, MeshKind, buf_rings, mesh};
use pdpix::{Endpoint, Error, Instant, Network};

use crate::cores::{Cores, Stage};
use crate::subject::{Can, Side};

/// After so many turns without work, it rests.
const IDLE_TURNS: u32 = 200;
const REST: Duration = Duration::from_micros(50);
/// Nothing has moved for so long and so many turns: it has settled.
const QUIET: Duration = Duration::from_millis(10);
const QUIET_TURNS: u32 = 64;
/// It never settles.
const SETTLE_MAX: Duration = Duration::from_secs(10);
const HEAP_SIZE: usize = 256 << 20;

/// Cores over a real device.
pub struct RealTime {
    cores: [Option<Core>; 3],
    can: Can,
    addresses: Addresses,
    kept: usize,
    idle_turns: u32,
}

/// Where the sides of a real subject are.
#[derive(Clone, Copy, Debug)]
pub struct Addresses {
    /// The client's and the server's, IPv4.
    pub ipv4: [IpAddr; 2],
    /// The same, IPv6, if there is any.
    pub ipv6: Option<[IpAddr; 2]>,
    /// See [`Subject::nobody`](crate::Subject::nobody).
    pub nobody: Option<Endpoint>,
}

impl Addresses {
    /// Everybody on the loopback interface; IPv6 as far as the system has it.
    pub fn loopback() -> Addresses {
        let ipv4 = IpAddr::from([127, 0, 0, 1]);
        let ipv6 = IpAddr::from([0, 0, 0, 0, 0, 0, 0, 1]);
        let has_ipv6 = UdpSocket::bind((ipv6, 0)).is_ok();
        Addresses { ipv4: [ipv4; 2], ipv6: has_ipv6.then_some([ipv6; 2]), nobody: None }
    }
}

/// Where the cores' heaps are.
pub struct Memory<R> {
    /// Bytes of each.
    pub heap_size: usize,
    /// See [`Subject::kept`](crate::Subject::kept).
    pub kept: usize,
    /// Makes the reservation of a host.
    pub reserve: R,
}

/// The core that a network is for.
pub struct Seat<'a> {
    /// Which.
    pub side: Side,
    /// Its heap. Those of a host are of one reservation.
    pub heap: &'a Heap,
    /// Its ends of the rings to the other cores of its host.
    pub rings: BufRings,
}

impl RealTime {
    /// A subject whose networks are made by `network`, one for the heap of each core.
    ///
    /// # Errors
    /// What `network` says: why this machine has none.
    pub fn subject(
        can: Can,
        addresses: Addresses,
        mut network: impl FnMut(&Heap) -> Result<Box<dyn Network>, Error>,
    ) -> Result<Cores, Error> {
        RealTime::hosts(can, addresses, HEAP_SIZE, |seat| network(seat.heap))
    }

    /// The same for networks whose cores share something; each core has a heap of `heap_size` bytes. First the client's is
    /// made, then the server's, in order.
    ///
    /// # Errors
    /// What `network` says: why this machine has none.
    pub fn hosts(
        can: Can,
        addresses: Addresses,
        heap_size: usize,
        network: impl FnMut(Seat<'_>) -> Result<Box<dyn Network>, Error>,
    ) -> Result<Cores, Error> {
        let ordinary = |plan| Reservation::new(plan).map_err(|_| Error::NoBuffers);
        RealTime::hosts_in(can, addresses, Memory { heap_size, kept: 0, reserve: ordinary }, network)
    }

    /// The same in memory that `reserve` gives, for devices that want memory of their own.
    ///
    /// # Errors
    /// What `reserve` and `network` say.
    pub fn hosts_in(
        can: Can,
        addresses: Addresses,
        memory: Memory<impl FnMut(Plan) -> Result<Reservation, Error>>,
        mut network: impl FnMut(Seat<'_>) -> Result<Box<dyn Network>, Error>,
    ) -> Result<Cores, Error> {
        let Memory { heap_size, kept, mut reserve } = memory;
        let mut host = |sides: &[Side]| {
            let plan =
                Plan { heaps: sides.len(), heap_size, reserves: Reserves::usual(heap_size), source: Source::Ordinary };
            let reservation = reserve(plan)?;
            let mesh = mesh(sides.len(), MeshKind::Stepped).map_err(|_| Error::NoBuffers)?;
            let rings = buf_rings(&mesh);
            let seats = sides.iter().zip(mesh).zip(rings).enumerate();
            let cores = seats.map(|(i, ((&side, ports), rings))| {
                let heap = reservation.heap(i).expect("each heap is taken once");
                let networks = vec![("default".to_string(), network(Seat { side, heap: &heap, rings })?)];
                let parts = CoreParts { networks, ..CoreParts::new(heap, Box::new(KernelClock), ports) };
                Ok(Core::new(parts))
            });
            cores.collect::<Result<Vec<Core>, Error>>()
        };
        let mut cores = host(&[Side::CLIENT])?;
        cores.extend(host(&[Side::SERVER, Side::SECOND])?);
        let sides = Side::ALL.map(|side| cores[side.0].libos().clone());
        let mut cores = cores.into_iter();
        let cores = Side::ALL.map(|_| cores.next());
        Ok(Cores::new(sides, RealTime { cores, can, addresses, kept, idle_turns: 0 }))
    }

    fn step_all(&mut self) -> bool {
        let mut busy = false;
        for core in self.cores.iter().flatten() {
            busy |= core.step().busy;
        }
        busy
    }
}

impl Stage for RealTime {
    fn can(&self) -> Can {
        Can { ipv6: self.addresses.ipv6.is_some(), ..self.can }
    }

    fn address(&self, side: Side, ipv6: bool) -> Option<IpAddr> {
        let host = usize::from(side != Side::CLIENT);
        if ipv6 { self.addresses.ipv6.map(|both| both[host]) } else { Some(self.addresses.ipv4[host]) }
    }

    fn nobody(&self) -> Option<Endpoint> {
        self.addresses.nobody
    }

    fn kept(&self) -> usize {
        self.kept
    }

    fn called(&mut self, _: Side) {}

    fn turn(&mut self, _: Instant) {
        if self.step_all() {
            self.idle_turns = 0;
            return;
        }
        self.idle_turns += 1;
        if self.idle_turns > IDLE_TURNS {
            std::thread::sleep(REST);
        }
    }

    fn now(&self) -> Instant {
        KernelClock.now()
    }

    fn settle(&mut self) {
        let start = self.now();
        let (mut moved, mut idle_turns) = (start, 0);
        loop {
            let busy = self.step_all();
            let now = self.now();
            idle_turns += 1;
            if busy {
                (moved, idle_turns) = (now, 0);
            }
            // Where others have the processor, time passes without anybody having looked.
            let is_quiet = now.since(moved) > QUIET && idle_turns > QUIET_TURNS;
            if is_quiet || now.since(start) > SETTLE_MAX {
                return;
            }
            if idle_turns > 1 {
                // So that who carries frames in the kernel gets the processor.
                std::thread::sleep(REST);
            }
        }
    }

    fn kill(&mut self, side: Side) {
        self.cores[side.0] = None;
    }
}
