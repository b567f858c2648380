//! Our stack over a simulated card.

use std::path::Path;

use libos_net::{Cidr, Device, IpSettings, NetNetwork, NetSettings, Pcap};
use libos_sim::{Attached, SimDevice};
use pdpix::{Network, Rng, WallTime};

/// The stack, as a host has it.
pub fn stack(attached: Attached) -> Box<dyn Network> {
    let Attached { device, heap, core, addresses, seed, host_seed, crossing, .. } = attached;
    let lens = addresses.map(|address| if address.is_ipv4() { 24 } else { 64 });
    let own = addresses.into_iter().zip(lens).map(|(address, len)| Cidr::new(address, len).unwrap()).collect();
    let mut secret = [0; 16];
    Rng::new(host_seed).fill(&mut secret);
    let ip = IpSettings { addresses: own, answers: core.index == 0, ..IpSettings::default() };
    let settings = NetSettings { ip, secret, seed, ..NetSettings::default() };
    let device = captured(device, &format!("{}", addresses[0]));
    Box::new(match crossing {
        Some(crossing) => NetNetwork::sharing(device, heap, settings, crossing),
        None => NetNetwork::new(device, heap, settings),
    })
}

/// With `MARGAY_PCAP=folder` what each host sends and receives is written there, for Wireshark: together with `MARGAY_SEED`,
/// so that it is of one world. A host that boots again begins a new file.
fn captured(device: SimDevice, name: &str) -> Box<dyn Device> {
    let Ok(folder) = std::env::var("MARGAY_PCAP") else { return Box::new(device) };
    let named = |i: u32| Path::new(&folder).join(format!("{name}-{i}.pcapng"));
    let path = (0..).map(named).find(|path| !path.exists()).expect("there are names enough");
    let file = std::fs::File::create(path).expect("the folder that MARGAY_PCAP names is there");
    Box::new(Pcap::new(device, file, 0, WallTime::default()))
}
