//! `margay relay`

use clap::Args;
use framework::pdpix::Endpoint;
use services::relay::{self, RelayArgs};

use crate::core_args::{CoreArguments, say_listening, serve};

#[derive(Args)]
pub struct Arguments {
    /// Where clients send their datagrams to.
    #[arg(long, default_value = "127.0.0.1:7008", value_name = "ADDR:PORT")]
    listen: Endpoint,
    /// Where they go.
    #[arg(long, value_name = "ADDR:PORT")]
    target: Endpoint,
    #[command(flatten)]
    cores: CoreArguments,
}

pub fn run(arguments: Arguments) -> anyhow::Result<i32> {
    let Arguments { listen, target, cores } = arguments;
    serve(&cores, move |system, _| {
        let first = system.libos().core() == 0;
        let on_listening = if first { say_listening } else { |_| {} };
        relay::run(system, RelayArgs { listen, target, on_listening });
    })
}
