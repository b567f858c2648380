//! `margay pingpong`

use anyhow::bail;
use clap::Args;
use framework::System;
use framework::pdpix::Endpoint;
use libos_boot::launch;
use services::pingpong::{self, PingArgs};

use crate::core_args::CoreArguments;

#[derive(Args)]
pub struct Arguments {
    /// Where an echo is (`margay echo`).
    #[arg(long, default_value = "127.0.0.1:7007", value_name = "ADDR:PORT")]
    connect: Endpoint,
    /// Bytes in each message.
    #[arg(long, default_value_t = 64)]
    size: usize,
    /// Round trips.
    #[arg(long, default_value_t = 100_000)]
    count: u64,
    #[command(flatten)]
    cores: CoreArguments,
}

pub fn run(arguments: Arguments) -> anyhow::Result<i32> {
    let Arguments { connect, size, count, cores } = arguments;
    if size == 0 || count == 0 {
        bail!("a message has at least one byte, and a measurement one round trip");
    }
    let settings = cores.client_settings()?;
    Ok(launch(&settings, move |launched| {
        let system = System::new(launched.core.libos());
        let args = PingArgs { connect, size, warm_up: count / 10, count };
        let (_, result) = pingpong::run(&system, args);
        system.run(&launched.core, std::time::Duration::ZERO);
        match result.borrow_mut().take() {
            Some(Ok(histogram)) => {
                let at = |quantile| histogram.value_at_quantile(quantile) as f64 / 1000.0;
                println!(
                    "{count} round trips of {size} B to {connect}: p50 {:.2} us, p99 {:.2} us, p99.9 {:.2} us, max {:.2} us",
                    at(0.5),
                    at(0.99),
                    at(0.999),
                    at(1.0)
                );
                0
            }
            Some(Err(error)) => {
                eprintln!("margay: {connect}: {error}");
                1
            }
            None => 130, // interrupted
        }
    })?)
}
