//! What every service of `margay` can be told about its cores; and how one is launched.

use std::path::PathBuf;
use std::time::Duration;

use clap::{Args, ValueEnum};
use framework::pdpix::{Endpoint, Error};
use framework::{Policy, System};
use libos_boot::{Launched, Settings, launch};

use crate::network_watch::NetworkWatch;

/// About cores, memory and network.
#[derive(Args, Clone, Debug)]
pub struct CoreArguments {
    /// How many cores serve, each on a thread of its own.
    #[arg(long, value_name = "N")]
    pub cores: Option<usize>,
    /// A TOML file with further settings.
    #[arg(long, value_name = "FILE")]
    pub config: Option<PathBuf>,
    /// What carries the network.
    #[arg(long, value_enum)]
    pub backend: Option<Backend>,
    /// With xdp, packet and tap: the interface that carries frames.
    #[arg(long, value_name = "IF")]
    pub interface: Option<String>,
    /// With dpdk: the port, as DPDK spells it (0000:03:00.0, or net_memif0,role=client,socket=/run/x.sock).
    #[arg(long, value_name = "DEVICE")]
    pub port: Option<String>,
    /// With dpdk: arguments for DPDK's environment, such as "--no-huge -m 512".
    #[arg(long, value_name = "ARGUMENTS", allow_hyphen_values = true)]
    pub eal: Option<String>,
    /// With xdp, packet, tap and dpdk: our addresses, such as 10.0.0.2/24,fd00::2/64. The kernel must not have them.
    #[arg(long, value_name = "CIDR")]
    pub address: Option<String>,
    /// With xdp, packet, tap and dpdk: the router to other networks.
    #[arg(long, value_name = "IP")]
    pub gateway: Option<String>,
    /// What a core does when there is nothing to do.
    #[arg(long, value_enum)]
    pub idle: Option<Idle>,
    /// Sets any key of the configuration, such as `memory.size=2GiB`; may be given several times.
    #[arg(long = "set", value_name = "KEY=VALUE")]
    pub set: Vec<String>,
}

/// Backends.
#[derive(Clone, Copy, Debug, ValueEnum)]
pub enum Backend {
    /// The one that measures better, if it is there.
    Auto,
    /// Kernel sockets over io_uring.
    #[value(name = "io_uring")]
    IoUring,
    /// Kernel sockets over epoll.
    Epoll,
    /// Our own TCP over AF_XDP.
    Xdp,
    /// Our own TCP over AF_PACKET.
    Packet,
    /// Our own TCP over a TAP interface.
    Tap,
    /// Our own TCP over a DPDK port.
    Dpdk,
}

/// Idle policies.
#[derive(Clone, Copy, Debug, ValueEnum)]
pub enum Idle {
    /// Poll on for a while, then sleep.
    Adaptive,
    /// Poll for ever: the core is ours.
    Spin,
}

impl CoreArguments {
    /// The settings that file, environment and these make.
    pub fn settings(&self) -> anyhow::Result<Settings> {
        let mut flags = Vec::new();
        for pair in &self.set {
            let (key, value) =
                pair.split_once('=').ok_or_else(|| anyhow::anyhow!("`--set {pair}` is not KEY=VALUE"))?;
            flags.push((key.trim().to_string(), value.trim().to_string()));
        }
        let mut flag = |key: &str, value: Option<String>| flags.extend(value.map(|value| (key.to_string(), value)));
        flag("cores.count", self.cores.map(|cores| cores.to_string()));
        flag("network.backend", self.backend.and_then(|backend| Some(backend.to_possible_value()?.get_name().into())));
        flag("frames.interface", self.interface.clone());
        flag("dpdk.port", self.port.clone());
        flag("dpdk.eal", self.eal.clone());
        flag("frames.address", self.address.clone());
        flag("frames.gateway", self.gateway.clone());
        flag("idle.policy", self.idle.and_then(|idle| Some(idle.to_possible_value()?.get_name().into())));
        Ok(Settings::load(self.config.as_deref(), std::env::vars(), &flags)?)
    }

    /// The same for a client that measures. It is not bound to a processor unless that is asked for: it would be the
    /// one that a service of this machine is bound to. It spins, so that its own waking is not a part of what it
    /// measures, unless that would take the last processor from the service.
    pub fn client_settings(&self) -> anyhow::Result<Settings> {
        let mut settings = self.settings()?;
        let is_set = |key: &str| self.set.iter().any(|pair| pair.split('=').next().is_some_and(|k| k.trim() == key));
        if !is_set("cores.pin") {
            settings.cores.pin = false;
        }
        let processors = std::thread::available_parallelism().map_or(1, usize::from);
        if self.idle.is_none() && !is_set("idle.policy") && settings.cores.count < processors {
            settings.idle.policy = "spin".into();
        }
        Ok(settings)
    }
}

/// A time with its unit: `10s`, `500ms`, `100us`, `2m`.
pub fn parse_duration(text: &str) -> Result<Duration, String> {
    let digits = text.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(text.len());
    let seconds = match &text[digits..] {
        "us" => 1e-6,
        "ms" => 1e-3,
        "" | "s" => 1.0,
        "m" | "min" => 60.0,
        unit => return Err(format!("there is no unit `{unit}`: a time is such as 10s or 500ms")),
    };
    let number: f64 = text[..digits].parse().map_err(|_| "a time is such as 10s or 500ms".to_owned())?;
    Duration::try_from_secs_f64(number * seconds).map_err(|error| error.to_string())
}

/// How long a service that is stopped has to answer what is in flight.
const GRACE: Duration = Duration::from_secs(5);

/// Launches a service: `start` puts its actors onto each core.
pub fn serve(
    arguments: &CoreArguments,
    start: impl Fn(&System, &Launched) + Send + Sync + 'static,
) -> anyhow::Result<i32> {
    let settings = arguments.settings()?;
    let has_frames = settings.network.backend.has_frames();
    Ok(launch(&settings, move |launched| {
        launched.notices.iter().for_each(|notice| eprintln!("margay: {notice}"));
        let system = System::new(launched.core.libos());
        start(&system, &launched);
        if has_frames && system.libos().core() == 0 {
            let libos = system.libos().clone();
            system.spawn(None, Policy::NEVER, move || NetworkWatch(libos.clone()));
        }
        system.run(&launched.core, GRACE)
    })?)
}

/// Refuses an address where something else listens. The cores of a service share theirs, and so the kernel would let
/// another service in that shares it, too: each would get a part of the clients.
fn check_free(listen: Endpoint) -> anyhow::Result<()> {
    match std::net::TcpListener::bind((listen.ip(), listen.port())) {
        Err(error) if error.kind() == std::io::ErrorKind::AddrInUse => {
            anyhow::bail!("something listens at {listen} already: choose another port, or stop it")
        }
        // Whatever else is wrong with it is told when it is listened at.
        _ => Ok(()),
    }
}

/// What a service listens for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Transport {
    /// Connections.
    Tcp,
    /// Datagrams.
    Udp,
}

/// Where a service listens that was told no address: at any of its own, if it has a network of its own, else on this
/// machine only.
pub fn listen_at(
    told: Option<Endpoint>,
    port: u16,
    transport: Transport,
    cores: &CoreArguments,
) -> anyhow::Result<Endpoint> {
    let settings = cores.settings()?;
    let has_own = settings.network.backend.has_frames();
    let ip = if has_own { std::net::Ipv4Addr::UNSPECIFIED } else { std::net::Ipv4Addr::LOCALHOST };
    let listen = told.unwrap_or(Endpoint::new(ip.into(), port));
    if !has_own && transport == Transport::Tcp {
        check_free(listen)?;
    }
    Ok(listen)
}

/// Says where a service listens, or why it does not.
pub fn say_listening(result: Result<Endpoint, Error>) {
    match result {
        Ok(at) => println!("listening on {at}"),
        Err(Error::AddressInUse) => {
            eprintln!("margay: something listens there already: choose another port, or stop it")
        }
        Err(Error::AddressNotAvailable) => eprintln!("margay: this machine has no such address: choose one of its own"),
        Err(Error::PermissionDenied) => eprintln!("margay: not permitted: ports below 1024 belong to root"),
        Err(error) => eprintln!("margay: cannot listen: {error}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_have_units() {
        let cases = [("10s", 10_000), ("500ms", 500), ("2m", 120_000), ("1.5", 1_500), ("2000us", 2)];
        cases.iter().for_each(|(text, ms)| assert_eq!(parse_duration(text), Ok(Duration::from_millis(*ms)), "{text}"));
        ["", "s", "10 parsecs", "-1s", "1.2.3s"]
            .iter()
            .for_each(|text| assert!(parse_duration(text).is_err(), "{text}"));
    }
}
