//! `margay`: services, load, and looks inside.

#![forbid(unsafe_code)]

mod bench;
mod core_args;
mod devices;
mod echo;
mod grant;
mod journal;
mod kv;
mod load;
mod network_watch;
mod pingpong;
mod relay;
mod test;
mod trace;
mod wal;

use std::process::ExitCode;

use clap::{Parser, Subcommand};

/// Microsecond services: actors on kernel sockets, written once for every device.
#[derive(Parser)]
#[command(version, about, long_about = None, max_term_width = 100)]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

/// What a core allocates comes from its own heap: it is counted there with all else, and bounded.
#[global_allocator]
static HEAP: libos_mem::GlobalHeap = libos_mem::GlobalHeap;

#[derive(Subcommand)]
enum Command {
    /// A cache that Redis's clients use.
    Kv(kv::Arguments),
    /// A service that gives back what it gets.
    Echo(echo::Arguments),
    /// A service that forwards datagrams to a target, and its answers back.
    Relay(relay::Arguments),
    /// A log that is durable when it says so; and its client.
    Wal(wal::Arguments),
    /// Asks a service at a given rate, and says how long its answers take.
    Load(load::Arguments),
    /// Measures round trips to an echo.
    Pingpong(pingpong::Arguments),
    /// Measures what this machine gives, in about ten seconds.
    Bench(bench::Arguments),
    /// Runs a cluster, breaks it, and says whether what its clients saw was right.
    Test(test::Arguments),
    /// A client of `margay test` in a process of its own.
    #[command(hide = true)]
    TestClient(test::ClientArguments),
    /// Prints what a service noted in its trace rings (`--set trace.dir=DIR`).
    Trace(trace::Arguments),
    /// Looks at a device of logs, offline and read-only.
    Journal(journal::Arguments),
    /// Lists what this machine offers to run on, and why the rest is not to be had.
    Devices(devices::Arguments),
    /// Opens what takes rights, for a service that has none.
    Grant(grant::Arguments),
}

fn main() -> ExitCode {
    let result = match Arguments::parse().command {
        Command::Kv(arguments) => kv::run(arguments),
        Command::Echo(arguments) => echo::run(arguments),
        Command::Relay(arguments) => relay::run(arguments),
        Command::Wal(arguments) => wal::run(arguments),
        Command::Load(arguments) => load::run(arguments),
        Command::Pingpong(arguments) => pingpong::run(arguments),
        Command::Bench(arguments) => bench::run(arguments),
        Command::Test(arguments) => test::run(arguments),
        Command::TestClient(arguments) => test::run_client(arguments),
        Command::Trace(arguments) => trace::run(arguments),
        Command::Journal(arguments) => journal::run(arguments),
        Command::Devices(arguments) => devices::run(arguments),
        Command::Grant(arguments) => grant::run(arguments),
    };
    match result {
        Ok(code) => ExitCode::from(u8::try_from(code).unwrap_or(1)),
        Err(error) => {
            eprintln!("margay: {error:#}");
            ExitCode::FAILURE
        }
    }
}
