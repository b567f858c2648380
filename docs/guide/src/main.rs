//! Runs a tally over kernel sockets: `tally [ADDR:PORT]`.

#![forbid(unsafe_code)]

// guide: main
use std::error::Error;
use std::process::ExitCode;
use std::time::Duration;

use framework::System;
use libos_boot::{Settings, launch};
use tally::TallyArgs;

fn main() -> Result<ExitCode, Box<dyn Error>> {
    let listen = std::env::args().nth(1).unwrap_or_else(|| "127.0.0.1:7009".into()).parse()?;
    let on_listening = |result| match result {
        Ok(at) => println!("listening on {at}"),
        Err(error) => eprintln!("cannot listen: {error}"),
    };
    let settings = Settings::load(None, std::env::vars(), &[])?;
    let code = launch(&settings, move |launched| {
        let system = System::new(launched.core.libos());
        tally::run(&system, TallyArgs { listen, on_listening });
        system.run(&launched.core, Duration::from_secs(5))
    })?;
    Ok(ExitCode::from(u8::try_from(code).unwrap_or(1)))
}
// guide: end
