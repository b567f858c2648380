//! Networks of our own stack: from settings to a device, and the stack over it.

use std::fs::File;
use std::io::BufWriter;
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Condvar, Mutex, PoisonError};

use libos_mem::{Heap, Reservation};
use libos_net::wire::Mac;
use libos_net::{
    CORES_MAX, Cidr, CongestionKind, Crossing, Device, Host, IpSettings, Link, NetNetwork, NetSettings, NoDevice, Pcap,
    TcpSettings,
};
use libos_runtime::{BufRings, Clock as _};
use libos_xdp::{BusyPoll, PacketSettings, PacketSocket, Port, Queues, Tap, TapSettings, Xsk, XskSettings};
use pdpix::{Network, WallTime};
use serde::Deserialize;

use crate::dpdk;
use crate::network::BackendKind;
use crate::settings::{Settings, SettingsError};

/// What the backends that move frames are told, beside the name of the interface.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(default)]
pub struct FrameSettings {
    /// The interface of the kernel's that carries frames.
    pub interface: String,
    /// Our addresses there, each with its prefix, with commas in between: "10.0.0.2/24,fd00::2/64".
    pub address: String,
    /// Routers, where packets go that are for no network of ours.
    pub gateway: String,
    /// Our address on the link. By default the device's.
    pub mac: String,
    /// The longest IP packet; 0: as the interface says.
    pub mtu: usize,
    /// Whether checksums are left out, and long segments travel whole: the other end is on this machine (tap, packet).
    pub offload: bool,
    /// "cubic", "new_reno" or "dctcp".
    pub congestion: String,
    /// When a push on a stream is complete: "accepted" into the send budget, or "acknowledged" by the peer, which is
    /// Demikernel's rule.
    pub push_complete: String,
    /// Microseconds that a call polls the device for us (xdp); 0: it does not.
    pub busy_poll_us: u32,
    /// Where each core writes its frames, for Wireshark: `core-N.pcap` in this folder.
    pub pcap: Option<PathBuf>,
}

impl Default for FrameSettings {
    fn default() -> FrameSettings {
        FrameSettings {
            interface: String::new(),
            address: String::new(),
            gateway: String::new(),
            mac: String::new(),
            mtu: 0,
            offload: false,
            congestion: "cubic".into(),
            push_complete: "accepted".into(),
            busy_poll_us: 0,
            pcap: None,
        }
    }
}

/// The same, understood.
#[derive(Clone, Debug)]
pub(crate) struct Parsed {
    addresses: Vec<Cidr>,
    gateways: Vec<IpAddr>,
    mac: Option<Mac>,
    congestion: CongestionKind,
    push_is_acknowledged: bool,
}

impl FrameSettings {
    /// What the texts say.
    ///
    /// # Errors
    /// The key whose value makes no sense, and why.
    pub(crate) fn parse(&self) -> Result<Parsed, SettingsError> {
        let bad = |key: &str, why: String| SettingsError::BadValue { key: format!("frames.{key}"), why };
        let list = |text: &str| {
            text.split(',').map(str::trim).filter(|part| !part.is_empty()).map(str::to_string).collect::<Vec<_>>()
        };
        let address = |text: String| {
            let why = format!("`{text}` is no address with a prefix, such as 10.0.0.2/24 or fd00::2/64");
            // Alone it would be a network of one address, in which nobody can be reached.
            text.parse::<Cidr>().ok().filter(|_| text.contains('/')).ok_or_else(|| bad("address", why))
        };
        let gateway = |text: String| {
            text.parse::<IpAddr>().map_err(|_| bad("gateway", format!("`{text}` is no address, such as 10.0.0.1")))
        };
        let mac = match self.mac.as_str() {
            "" => None,
            text => Some(text.parse().map_err(|why| bad("mac", format!("`{text}`: {why}")))?),
        };
        let congestion = match self.congestion.as_str() {
            "cubic" => CongestionKind::Cubic,
            "new_reno" => CongestionKind::NewReno,
            "dctcp" => CongestionKind::Dctcp,
            other => return Err(bad("congestion", format!("`{other}` is not cubic, new_reno or dctcp"))),
        };
        let push_is_acknowledged = match self.push_complete.as_str() {
            "accepted" => false,
            "acknowledged" => true,
            other => return Err(bad("push_complete", format!("`{other}` is not accepted or acknowledged"))),
        };
        Ok(Parsed {
            addresses: list(&self.address).into_iter().map(address).collect::<Result<_, _>>()?,
            gateways: list(&self.gateway).into_iter().map(gateway).collect::<Result<_, _>>()?,
            mac,
            congestion,
            push_is_acknowledged,
        })
    }
}

/// What all cores share of a device, opened before any of them runs.
pub(crate) struct Frames {
    kind: BackendKind,
    settings: FrameSettings,
    parsed: Parsed,
    cores: usize,
    port: Option<Arc<Port>>,
    dpdk: Option<Arc<libos_dpdk::Port>>,
    secret: [u8; 16],
    host: Arc<Host>,
    /// What the first core's device is, once it is tried: nothing, if it could not be opened.
    link: (Mutex<Option<Option<Link>>>, Condvar),
    pub(crate) notices: Vec<String>,
}

impl Frames {
    /// Opens what is to be opened once.
    ///
    /// # Errors
    /// A sentence for whoever started this.
    pub(crate) fn open(all: &Settings, reservation: &Reservation) -> Result<Frames, String> {
        let (kind, settings, cores) = (all.network.backend, &all.frames, all.cores.count);
        let parsed = settings.parse().map_err(|error| error.to_string())?;
        if settings.interface.is_empty() && kind != BackendKind::Dpdk {
            return Err("it needs to be told an interface (--interface IF)".into());
        }
        if parsed.addresses.is_empty() {
            return Err("it needs to be told an address with its prefix (--address 10.0.0.2/24)".into());
        }
        if cores > CORES_MAX {
            return Err(format!("its cores are at most {CORES_MAX}"));
        }
        let mut notices = Vec::new();
        let port = match kind {
            BackendKind::Xdp => {
                libos_xdp::is_built().map_err(str::to_string)?;
                let ips: Vec<IpAddr> = parsed.addresses.iter().map(Cidr::address).collect();
                let mut xsk = XskSettings::new(&settings.interface, &ips);
                xsk.mac = parsed.mac;
                if settings.busy_poll_us > 0 {
                    xsk.busy_poll = Some(BusyPoll { micros: settings.busy_poll_us, budget: 64 });
                }
                let port = Port::open(xsk, reservation).map_err(|error| error.to_string())?;
                notices.extend(port.notices().iter().cloned());
                Some(port)
            }
            _ => None,
        };
        let dpdk = match kind {
            BackendKind::Dpdk => Some(dpdk::open(&all.dpdk, cores, parsed.mac, settings.mtu, reservation)?),
            _ => None,
        };
        notices.extend(dpdk.iter().flat_map(|port| port.notices().iter().cloned()));
        let mut secret = [0; 16];
        rustix::rand::getrandom(&mut secret, rustix::rand::GetRandomFlags::empty()).map_err(|e| e.to_string())?;
        let host = Host::new(cores, secret, u64::from_le_bytes(secret[..8].try_into().unwrap_or_default()));
        Ok(Frames {
            kind,
            settings: settings.clone(),
            parsed,
            cores,
            port,
            dpdk,
            secret,
            host,
            link: Default::default(),
            notices,
        })
    }

    /// The network of one core.
    ///
    /// # Errors
    /// A sentence for whoever started this.
    pub(crate) fn network(
        &self,
        core: usize,
        seed: u64,
        heap: &Heap,
        rings: BufRings,
    ) -> Result<Box<dyn Network>, String> {
        let device = self.device(core, heap);
        if core == 0 {
            self.tell_link(device.as_ref().ok().and_then(|device| device.as_ref().map(|device| device.link())));
        }
        let (device, has_own): (Box<dyn Device>, bool) = match device? {
            Some(device) => (device, true),
            // The first core has all of the interface, and the others send through it.
            None => (Box::new(NoDevice::new(self.link()?)), false),
        };
        let device = match &self.settings.pcap {
            Some(folder) => with_pcap(device, folder, core)?,
            None => device,
        };
        let Parsed { congestion, push_is_acknowledged, .. } = self.parsed;
        let mut tcp = TcpSettings { congestion, push_is_acknowledged, ..TcpSettings::default() };
        // A connection's budget is a part of the heap, not all of it.
        tcp.receive_budget_max = tcp.receive_budget_max.min(heap.reservation().size() / self.cores / 8).max(64 << 10);
        tcp.receive_budget = tcp.receive_budget.min(tcp.receive_budget_max);
        let ip = IpSettings {
            addresses: self.parsed.addresses.clone(),
            gateways: self.parsed.gateways.clone(),
            mtu: (self.settings.mtu > 0).then_some(self.settings.mtu),
            answers: core == 0,
            ..IpSettings::default()
        };
        let settings = NetSettings { ip, tcp, secret: self.secret, seed, ..NetSettings::default() };
        if self.cores == 1 {
            return Ok(Box::new(NetNetwork::new(device, heap.clone(), settings)));
        }
        let crossing = Crossing {
            host: self.host.clone(),
            conduit: rings.with_heap(heap.clone()),
            sends_through: (!has_own).then_some(0),
        };
        Ok(Box::new(NetNetwork::sharing(device, heap.clone(), settings, crossing)))
    }

    fn tell_link(&self, link: Option<Link>) {
        let (told, opened) = &self.link;
        *told.lock().unwrap_or_else(PoisonError::into_inner) = Some(link);
        opened.notify_all();
    }

    /// What the first core's device is, for the others. They wait until it is open.
    fn link(&self) -> Result<Link, String> {
        let (link, opened) = &self.link;
        let mut link = link.lock().unwrap_or_else(PoisonError::into_inner);
        while link.is_none() {
            link = opened.wait(link).unwrap_or_else(PoisonError::into_inner);
        }
        Ok((*link).and_then(|link| link).ok_or("the first core could not open its device")?)
    }

    /// The device of a core; nothing, if it has none of its own.
    fn device(&self, core: usize, heap: &Heap) -> Result<Option<Box<dyn Device>>, String> {
        if let Some(port) = &self.port {
            return self.queues(port, core, heap);
        }
        if let Some(port) = &self.dpdk {
            let queue = (core < port.queues()).then(|| port.queue(core, heap.clone())).transpose();
            return queue.map(|queue| queue.map(|queue| Box::new(queue) as _)).map_err(|error| error.to_string());
        }
        if core > 0 {
            return Ok(None);
        }
        let (interface, heap, settings) = (self.settings.interface.clone(), heap.clone(), &self.settings);
        let (mac, offload) = (self.parsed.mac, settings.offload);
        let device: Result<Box<dyn Device>, libos_xdp::OpenError> = if self.kind == BackendKind::Tap {
            let tap = TapSettings { name: interface, mac, offload, ..TapSettings::default() };
            Tap::open(tap, heap).map(|tap| Box::new(tap) as _)
        } else {
            let usual = PacketSettings::new(&interface);
            let packet = PacketSettings { mac, offload, promiscuous: mac.is_some(), ..usual };
            PacketSocket::open(packet, heap).map(|socket| Box::new(socket) as _)
        };
        device.map(Some).map_err(|error| error.to_string())
    }

    /// A core's share of the interface's queues: every one of them has to be somebody's, or its frames are lost.
    fn queues(&self, port: &Arc<Port>, core: usize, heap: &Heap) -> Result<Option<Box<dyn Device>>, String> {
        let own = (core..receive_queues(&self.settings.interface)).step_by(self.cores);
        let open = |queue: usize| port.queue(queue as u32, heap.clone()).map_err(|error| error.to_string());
        let mut queues: Vec<Xsk> = own.map(open).collect::<Result<_, _>>()?;
        Ok(match queues.len() {
            0 => None,
            1 => queues.pop().map(|queue| Box::new(queue) as _),
            _ => Some(Box::new(Queues::new(queues).map_err(|error| error.to_string())?)),
        })
    }
}

/// How many queues an interface receives with.
fn receive_queues(interface: &str) -> usize {
    let folder = std::fs::read_dir(format!("/sys/class/net/{interface}/queues"));
    let names = folder.into_iter().flatten().flatten().map(|entry| entry.file_name());
    names.filter(|name| name.to_string_lossy().starts_with("rx-")).count().max(1)
}

fn with_pcap(device: Box<dyn Device>, folder: &Path, core: usize) -> Result<Box<dyn Device>, String> {
    let path = folder.join(format!("core-{core}.pcap"));
    let said = |error: std::io::Error| format!("cannot write {}: {error}", path.display());
    std::fs::create_dir_all(folder).map_err(said)?;
    let file = BufWriter::new(File::create(&path).map_err(said)?);
    let clock = libos_runtime::KernelClock;
    let zero = WallTime::from_nanos(clock.wall().as_nanos() - clock.now().as_nanos());
    Ok(Box::new(Pcap::new(device, file, 0, zero)))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn settings(change: impl FnOnce(&mut FrameSettings)) -> FrameSettings {
        let mut settings = FrameSettings { address: "10.0.0.2/24".into(), ..FrameSettings::default() };
        change(&mut settings);
        settings
    }

    #[test]
    fn lists_have_commas_and_may_have_blanks() {
        let parsed = settings(|to| to.address = " 10.0.0.2/24, fd00::2/64 ,".into()).parse().unwrap();
        let addresses: Vec<IpAddr> = parsed.addresses.iter().map(Cidr::address).collect();
        assert_eq!(addresses, ["10.0.0.2".parse::<IpAddr>().unwrap(), "fd00::2".parse().unwrap()]);
        assert!(parsed.gateways.is_empty() && parsed.mac.is_none());
    }

    #[test]
    fn what_makes_no_sense_is_refused_with_its_key() {
        let cases: [(&str, FrameSettings); 6] = [
            ("frames.address", settings(|to| to.address = "10.0.0.2".into())),
            ("frames.address", settings(|to| to.address = "10.0.0.2/33".into())),
            ("frames.gateway", settings(|to| to.gateway = "10.0.0.1/24".into())),
            ("frames.mac", settings(|to| to.mac = "02:00:00:00:00:+f".into())),
            ("frames.congestion", settings(|to| to.congestion = "vegas".into())),
            ("frames.address", settings(|to| to.address = "10.0.0.2/24 fd00::2/64".into())),
        ];
        for (expected, settings) in cases {
            let Err(SettingsError::BadValue { key, why }) = settings.parse() else { panic!("{settings:?}") };
            assert_eq!(key, expected);
            assert!(!why.is_empty());
        }
    }
}
