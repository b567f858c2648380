//! Two ports of this process with a link between them, of every kind that DPDK has in software.

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use libos_conformance::namespace::{enter_new_namespace, ip, make_bridge, make_veth};
use libos_dpdk::{Eal, EalSettings, OpenError, Port, PortSettings, ring_pair};
use libos_mem::{Plan, Reservation, Reserves, Source};
use libos_net::wire::Mac;

/// Why there is no link, as a line for whoever reads the test's output.
pub type Opened<T> = Result<T, String>;

/// The two ends' addresses.
pub const MACS: [Mac; 2] = [Mac([2, 0, 0, 0, 0x79, 1]), Mac([2, 0, 0, 0, 0x79, 2])];

/// The interfaces of the kernel's, where there are some.
const ENDS: [&str; 2] = ["client0", "server0"];
const TAPS: [&str; 2] = ["client-tap", "server-tap"];

/// Kinds of links.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[allow(dead_code, reason = "not every test has every kind")]
pub enum Kind {
    /// Two ports joined by rings.
    Ring,
    /// memif, copying: the server at the first end.
    Memif,
    /// The same, and the client does not copy.
    MemifZeroCopy,
    /// virtio-user at the first end, vhost at the second.
    Virtio,
    /// virtio-user at the second end, vhost at the first.
    Vhost,
    /// The same, and vhost takes long TCP segments.
    VhostLong,
    /// AF_PACKET at both ends of a veth pair.
    AfPacket,
    /// AF_XDP at both ends of a veth pair.
    AfXdp,
    /// TAP interfaces, with a bridge of the kernel's between them.
    Tap,
}

/// DPDK, for all tests of this process.
pub fn eal() -> Opened<Eal> {
    libos_dpdk::is_built().map_err(str::to_string)?;
    Eal::start(&EalSettings { memory: 640 << 20, ..EalSettings::default() }).map_err(|error| error.to_string())
}

/// What the driver puts before the names of ports that are joined by rings.
const RING: &str = "net_ring_";

/// Whether no other test comes into this process.
fn is_alone() -> bool {
    std::env::var("NEXTEST_EXECUTION_MODE").is_ok_and(|mode| mode == "process-per-test")
        || std::env::args().any(|argument| argument == "--exact")
}

/// What this machine has not is a reason to skip; anything else is a fault.
pub fn opened<T>(result: Result<T, OpenError>) -> Opened<T> {
    match result {
        Ok(it) => Ok(it),
        Err(OpenError::Unsupported(why)) => Err(why),
        Err(error) => panic!("{error}"),
    }
}

#[allow(dead_code, reason = "not every test wants one")]
pub fn reserve(heaps: usize, heap_size: usize) -> Opened<Reservation> {
    opened(eal()?.reserve(Plan { heaps, heap_size, reserves: Reserves::usual(heap_size), source: Source::External }))
}

/// A link that is made, with no port on it yet.
pub struct Wire {
    kind: Kind,
    name: String,
    folder: PathBuf,
    queues: usize,
}

impl Wire {
    pub fn make(kind: Kind, queues: usize) -> Opened<Wire> {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        if kind == Kind::MemifZeroCopy && !is_alone() {
            return Err(
                "its driver closes DPDK's memory: it takes a process for each test (cargo nextest, or --exact)".into(),
            );
        }
        let eal = eal()?;
        remove_stale();
        let number = COUNT.fetch_add(1, Ordering::Relaxed);
        let name = format!("{}x{number}", std::process::id());
        let folder = std::env::temp_dir().join(format!("margay-dpdk-{name}"));
        std::fs::create_dir_all(&folder).map_err(|error| error.to_string())?;
        let wire = Wire { kind, name, folder, queues };
        match kind {
            Kind::Ring => {
                let names = [0, 1].map(|end| wire.device(end).split_off(RING.len()));
                opened(ring_pair(eal, [&names[0], &names[1]], 1024))?;
            }
            Kind::AfPacket | Kind::AfXdp => {
                enter_new_namespace()?;
                make_veth(ENDS, MACS, queues)?;
            }
            Kind::Tap => {
                enter_new_namespace()?;
                if !std::path::Path::new("/dev/net/tun").exists() {
                    return Err("there is no /dev/net/tun".into());
                }
                make_bridge("bridge0")?;
            }
            _ => {}
        }
        Ok(wire)
    }

    /// The device at one end, as DPDK spells it.
    fn device(&self, end: usize) -> String {
        let Wire { kind, name, folder, queues } = self;
        let socket = folder.join("socket");
        let socket = socket.display();
        // Two names of one socket: the driver takes one name in one role only.
        let other = folder.join(".").join("socket");
        let other = other.display();
        match (kind, end) {
            (Kind::Ring, end) => format!("{RING}{name}{}", ["a", "b"][end]),
            (Kind::Memif, 1) => format!("net_memif{name}c,role=client,socket={socket},socket-abstract=no"),
            (Kind::MemifZeroCopy, 1) => {
                format!("net_memif{name}c,role=client,socket={socket},socket-abstract=no,zero-copy=yes")
            }
            (Kind::Memif | Kind::MemifZeroCopy, _) => {
                format!("net_memif{name}s,role=server,socket={other},socket-abstract=no")
            }
            (Kind::Virtio, 0) | (Kind::Vhost | Kind::VhostLong, 1) => {
                format!("net_virtio_user{name},path={socket},queues={queues},queue_size=1024,mac={}", MACS[end])
            }
            (Kind::Virtio | Kind::Vhost, _) => format!("net_vhost{name},iface={socket},queues={queues}"),
            (Kind::VhostLong, _) => format!("net_vhost{name},iface={socket},queues={queues},tso=1"),
            (Kind::AfPacket, end) => format!("net_af_packet{name}{end},iface={}", ENDS[end]),
            (Kind::AfXdp, end) => format!("net_af_xdp{name}{end},iface={},busy_budget=0", ENDS[end]),
            (Kind::Tap, end) => format!("net_tap{name}{end},iface={},mac={}", TAPS[end], MACS[end]),
        }
    }

    /// Which end has to be there first: the one that listens.
    #[allow(dead_code, reason = "as above")]
    pub fn first(&self) -> usize {
        usize::from(self.kind == Kind::Virtio)
    }

    pub fn open(&self, end: usize, reservation: &Reservation) -> Opened<Arc<Port>> {
        let has_own = matches!(self.kind, Kind::AfPacket | Kind::AfXdp | Kind::Tap);
        let settings = PortSettings {
            queues: self.queues,
            mac: (!has_own).then_some(MACS[end]),
            ..PortSettings::new(&self.device(end))
        };
        let port = opened(Port::open(eal()?, settings, reservation))?;
        if self.kind == Kind::Tap {
            ip(&format!("link set {} master bridge0\nlink set {} up\n", TAPS[end], TAPS[end]))?;
        }
        Ok(port)
    }
}

/// Removes the folders of processes that are gone: those of this one are used until its ports are closed.
fn remove_stale() {
    for entry in std::fs::read_dir(std::env::temp_dir()).into_iter().flatten().flatten() {
        let name = entry.file_name().to_string_lossy().into_owned();
        let owner = name.strip_prefix("margay-dpdk-").and_then(|rest| rest.split('x').next()?.parse::<u32>().ok());
        if owner.is_some_and(|pid| !std::path::Path::new(&format!("/proc/{pid}")).exists()) {
            let _ = std::fs::remove_dir_all(entry.path());
        }
    }
}

/// Until both ends say that there is a link.
#[allow(dead_code, reason = "as above")]
pub fn wait_until_up(ports: &[&Arc<Port>]) {
    let end = Instant::now() + Duration::from_secs(10);
    while !ports.iter().all(|port| port.is_up()) {
        assert!(Instant::now() < end, "no link after ten seconds: {ports:?}");
        std::thread::sleep(Duration::from_millis(1));
    }
}
