//! `margay relay`

use clap::Args;
use framework::pdpix::Endpoint;
use services::relay::{self, RelayArgs};

use crate::core_args::{CoreArguments, Transport, listen_at, say_listening, serve};

#[derive(Args)]
pub struct Arguments {
    /// Where clients send their datagrams to [default: port 7008 of 127.0.0.1, or of --address]
    #[arg(long, value_name = "ADDR:PORT")]
    listen: Option<Endpoint>,
    /// Where they go.
    #[arg(long, value_name = "ADDR:PORT")]
    target: Endpoint,
    #[command(flatten)]
    cores: CoreArguments,
}

pub fn run(arguments: Arguments) -> anyhow::Result<i32> {
    let Arguments { listen, target, cores } = arguments;
    let listen = listen_at(listen, 7008, Transport::Udp, &cores)?;
    serve(&cores, move |system, _| {
        let first = system.libos().core() == 0;
        let on_listening = if first { say_listening } else { |_| {} };
        relay::run(system, RelayArgs { listen, target, on_listening });
    })
}
