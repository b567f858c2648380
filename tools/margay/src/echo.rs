//! `margay echo`

use clap::Args;
use framework::pdpix::Endpoint;
use services::echo::{self, EchoArgs};

use crate::core_args::{CoreArguments, check_free, say_listening, serve};

#[derive(Args)]
pub struct Arguments {
    /// Where to listen.
    #[arg(long, default_value = "127.0.0.1:7007", value_name = "ADDR:PORT")]
    listen: Endpoint,
    #[command(flatten)]
    cores: CoreArguments,
}

pub fn run(arguments: Arguments) -> anyhow::Result<i32> {
    let listen = arguments.listen;
    check_free(listen)?;
    serve(&arguments.cores, move |system, _| {
        let first = system.libos().core() == 0;
        let on_listening = if first { say_listening } else { |_| {} };
        echo::run(system, EchoArgs { listen, on_listening });
    })
}
