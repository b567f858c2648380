//! `margay echo`

use clap::Args;
use framework::pdpix::Endpoint;
use services::echo::{self, EchoArgs};

use crate::core_args::{CoreArguments, Transport, listen_at, say_listening, serve};

#[derive(Args)]
pub struct Arguments {
    /// Where to listen [default: port 7007 of 127.0.0.1, or of --address]
    #[arg(long, value_name = "ADDR:PORT")]
    listen: Option<Endpoint>,
    #[command(flatten)]
    cores: CoreArguments,
}

pub fn run(arguments: Arguments) -> anyhow::Result<i32> {
    let listen = listen_at(arguments.listen, 7007, Transport::Tcp, &arguments.cores)?;
    serve(&arguments.cores, move |system, _| {
        let first = system.libos().core() == 0;
        let on_listening = if first { say_listening } else { |_| {} };
        echo::run(system, EchoArgs { listen, on_listening });
    })
}
