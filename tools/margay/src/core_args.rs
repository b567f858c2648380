//! What every service of `margay` can be told about its cores; and how one is launched.

use std::path::PathBuf;
use std::time::Duration;

use clap::{Args, ValueEnum};
use framework::System;
use framework::pdpix::{Endpoint, Error};
use libos_boot::{Launched, Settings, launch};

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
        flag("idle.policy", self.idle.and_then(|idle| Some(idle.to_possible_value()?.get_name().into())));
        Ok(Settings::load(self.config.as_deref(), std::env::vars(), &flags)?)
    }
}

/// How long a service that is stopped has to answer what is in flight.
const GRACE: Duration = Duration::from_secs(5);

/// Launches a service: `start` puts its actors onto each core.
pub fn serve(
    arguments: &CoreArguments,
    start: impl Fn(&System, &Launched) + Send + Sync + 'static,
) -> anyhow::Result<i32> {
    let settings = arguments.settings()?;
    Ok(launch(&settings, move |launched| {
        launched.notices.iter().for_each(|notice| eprintln!("margay: {notice}"));
        let system = System::new(launched.core.libos());
        start(&system, &launched);
        system.run(&launched.core, GRACE)
    })?)
}

/// Refuses an address where something else listens. The cores of a service share theirs, and so the kernel would let
/// another service in that shares it, too: each would get a part of the clients.
pub fn check_free(listen: Endpoint) -> anyhow::Result<()> {
    match std::net::TcpListener::bind((listen.ip(), listen.port())) {
        Err(error) if error.kind() == std::io::ErrorKind::AddrInUse => {
            anyhow::bail!("something listens at {listen} already: choose another port, or stop it")
        }
        // Whatever else is wrong with it is told when it is listened at.
        _ => Ok(()),
    }
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
