//! A host of a world, and what its cores are attached to.

use std::net::IpAddr;
use std::path::Path;

use libos_mem::Heap;
use libos_net::{Cidr, Crossing, Device, IpSettings, NetNetwork, NetSettings, Pcap};
use libos_runtime::{Core, Coroutine, LibOs};
use pdpix::{Instant, Network, Rng, Storage, WallTime};

use super::CoreId;
use crate::clock::HostClock;
use crate::disk::SimDisk;
use crate::frames::{Interface, SimDevice};

/// What a host's cores have for a network.
pub enum NetKind {
    /// Messages directly at the contract ([`SimNetwork`](crate::SimNetwork)).
    Messages,
    /// Whatever the closure makes of an interface that moves frames: for each core, when the host boots.
    Frames(Box<Interface>, MakeNetwork),
}

impl NetKind {
    /// An interface, and what makes a network of it.
    pub fn frames(interface: Interface, make: impl FnMut(Attached) -> Box<dyn Network> + 'static) -> NetKind {
        NetKind::Frames(Box::new(interface), Box::new(make))
    }
}

/// Makes the network of one core.
pub type MakeNetwork = Box<dyn FnMut(Attached) -> Box<dyn Network>>;

/// What the network of a core is made of.
pub struct Attached {
    /// Its end of the host's interface. All frames that arrive come to the first core; every core can send.
    pub device: SimDevice,
    /// Its memory.
    pub heap: Heap,
    /// Which core it is.
    pub core: CoreId,
    /// How many the host has.
    pub cores: usize,
    /// The host's addresses, IPv4 and IPv6; all hosts are neighbours, in a network of 24 and of 64 bits.
    pub addresses: [IpAddr; 2],
    /// Chance, for this core alone; and one number that all cores of the host have, another one after each boot.
    pub seed: u64,
    /// See [`Attached::seed`].
    pub host_seed: u64,
    /// The way to the host's other cores, if it has any.
    pub crossing: Option<Crossing>,
}

impl Attached {
    /// Our own stack, for [`NetKind::frames`].
    ///
    /// With `MARGAY_PCAP=folder` what each host sends and receives is written there, for Wireshark: together with
    /// `MARGAY_SEED`, so that it is of one world. A host that boots again begins a new file.
    pub fn stack(self) -> Box<dyn Network> {
        let Attached { device, heap, core, addresses, seed, host_seed, crossing, .. } = self;
        let own = addresses.map(|at| Cidr::new(at, if at.is_ipv4() { 24 } else { 64 }).expect("a prefix that fits"));
        let mut secret = [0; 16];
        Rng::new(host_seed).fill(&mut secret);
        let ip = IpSettings { addresses: own.to_vec(), answers: core.index == 0, ..IpSettings::default() };
        let settings = NetSettings { ip, secret, seed, ..NetSettings::default() };
        let device = captured(device, addresses[0]);
        Box::new(match crossing {
            Some(crossing) => NetNetwork::sharing(device, heap, settings, crossing),
            None => NetNetwork::new(device, heap, settings),
        })
    }
}

fn captured(device: SimDevice, host: IpAddr) -> Box<dyn Device> {
    let Ok(folder) = std::env::var("MARGAY_PCAP") else { return Box::new(device) };
    let named = |i: u32| Path::new(&folder).join(format!("{host}-{i}.pcapng"));
    let path = (0..).map(named).find(|path| !path.exists()).expect("there are names enough");
    let file = std::fs::File::create(path).expect("the folder that MARGAY_PCAP names is there");
    Box::new(Pcap::new(device, file, 0, WallTime::default()))
}

/// Makes the storages of one core: for each core, when the host boots.
pub type MakeStorages = Box<dyn FnMut(AttachedDisks) -> Vec<(String, Box<dyn Storage>)>>;

/// What the storages of a core are made of.
pub struct AttachedDisks {
    /// The disks of the host. One core uses one; who uses which is the closure's to say.
    pub disks: Vec<SimDisk>,
    /// The core's memory.
    pub heap: Heap,
    /// Which core it is.
    pub core: CoreId,
    /// Chance, for this core alone; another one after each boot.
    pub seed: u64,
}

pub(super) type Boot = Box<dyn FnMut(&LibOs)>;

pub(super) struct Host {
    pub(super) name: String,
    pub(super) clock: HostClock,
    pub(super) cores: Vec<HostCore>,
    pub(super) net: HostNet,
    pub(super) disks: Vec<SimDisk>,
    pub(super) storages: MakeStorages,
    /// No core of it is stepped.
    pub(super) is_paused: bool,
    pub(super) boot: Boot,
}

pub(super) enum HostNet {
    Messages,
    /// The number of its interface.
    Frames(usize, MakeNetwork),
}

pub(super) struct HostCore {
    /// Its number in the world.
    pub(super) number: usize,
    pub(super) core: Option<Core>,
    pub(super) heap: Option<Heap>,
    /// It has something to do now; or at this time of the world.
    pub(super) due: bool,
    pub(super) deadline: Option<Instant>,
}

pub(super) struct Task {
    pub(super) name: String,
    pub(super) at: CoreId,
    pub(super) coroutine: Coroutine<()>,
}
