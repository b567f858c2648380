//! DPDK from the settings: its environment, our reservation in its memory, and the port.

use std::sync::Arc;

use libos_dpdk::{Eal, EalSettings, Port, PortSettings};
use libos_mem::{Plan, Reservation};
use libos_net::wire::Mac;
use serde::Deserialize;

use crate::settings::Settings;

/// What the backend `dpdk` is told, beside addresses and the like (`[frames]`).
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(default)]
pub struct DpdkSettings {
    /// The device, as DPDK spells it: `0000:03:00.0`, or `net_memif0,role=client,socket=/run/x.sock,socket-abstract=no`.
    pub port: String,
    /// Arguments for DPDK's environment, with spaces in between: `--no-huge -m 512`.
    pub eal: String,
    /// Queues of the port; 0: one a core, if the port spreads flows over its queues, else one.
    pub queues: usize,
    /// Milliseconds that a link may be down before all sockets hear of it; 0: a second.
    pub down_after_ms: u64,
}

impl DpdkSettings {
    fn port_settings(&self, cores: usize, mac: Option<Mac>, mtu: usize) -> PortSettings {
        let usual = PortSettings::new(&self.port);
        PortSettings {
            queues: if self.queues > 0 { self.queues.min(cores) } else { cores },
            only_if_it_spreads: self.queues == 0,
            mac,
            mtu: (mtu > 0).then_some(mtu),
            down_after_ms: if self.down_after_ms > 0 { self.down_after_ms } else { usual.down_after_ms },
            ..usual
        }
    }

    /// Starts DPDK's environment, or gives the one that there is.
    fn start(&self, memory: usize, storage: Option<&str>) -> Result<Eal, String> {
        let mut arguments: Vec<String> = self.eal.split_whitespace().map(str::to_string).collect();
        let is_card = PortSettings::new(&self.port).is_card();
        if let Some(address) = storage.filter(|_| !is_card && !self.eal.contains("-a")) {
            // No other device on the bus is any business of ours.
            arguments.extend(["-a".into(), address.into()]);
        }
        let settings = EalSettings { arguments, memory, pci: is_card || storage.is_some() };
        Eal::start(&settings).map_err(|error| error.to_string())
    }
}

/// All heaps, in DPDK's memory: before anything else uses it.
pub(crate) fn reserve(settings: &Settings, plan: Plan) -> Result<Reservation, String> {
    libos_dpdk::is_built().map_err(str::to_string)?;
    let eal = settings.dpdk.start(plan.heap_size * plan.heaps, None)?;
    eal.reserve(plan).map_err(|error| error.to_string())
}

/// The same for storage of SPDK's, which takes more memory, and may be on the PCI bus at this address.
pub(crate) fn reserve_for_storage(
    settings: &Settings,
    address: Option<&str>,
    memory: usize,
    plan: Plan,
) -> Result<Reservation, String> {
    let eal = settings.dpdk.start(memory, address)?;
    eal.reserve(plan).map_err(|error| error.to_string())
}

/// The port, which the cores open queues of.
pub(crate) fn open(
    settings: &DpdkSettings,
    cores: usize,
    mac: Option<Mac>,
    mtu: usize,
    reservation: &Reservation,
) -> Result<Arc<Port>, String> {
    if settings.port.is_empty() {
        return Err("it needs to be told a port (--port net_memif0,role=client,… or --port 0000:03:00.0)".into());
    }
    let eal = settings.start(reservation.size(), None)?;
    Port::open(eal, settings.port_settings(cores, mac, mtu), reservation).map_err(|error| error.to_string())
}
