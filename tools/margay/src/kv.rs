//! `margay kv`

use std::fs;

use anyhow::Context;
use clap::Args;
use framework::pdpix::Endpoint;
use kv_server::{ProcessFacts, ServerArgs};

use crate::core_args::{CoreArguments, Transport, listen_at, say_listening, serve};

#[derive(Args)]
pub struct Arguments {
    /// Where to listen [default: port 6379 of 127.0.0.1, or of --address]
    #[arg(long, value_name = "ADDR:PORT")]
    listen: Option<Endpoint>,
    /// Sets a parameter of Redis's, such as `maxmemory=1gb` or `requirepass=SECRET`; may be given several times.
    #[arg(long, value_name = "NAME=VALUE")]
    option: Vec<String>,
    #[command(flatten)]
    cores: CoreArguments,
}

pub fn run(arguments: Arguments) -> anyhow::Result<i32> {
    let listen = listen_at(arguments.listen, 6379, Transport::Tcp, &arguments.cores)?;
    let mut args = ServerArgs::new(listen);
    args.facts = process_facts;
    args.run_id = run_id();
    for option in &arguments.option {
        let (name, value) = option.split_once('=').with_context(|| format!("`--option {option}` is not NAME=VALUE"))?;
        args.config.set_at_start(name.trim(), value.trim()).map_err(|error| {
            anyhow::anyhow!(
                "`--option {option}`: {}",
                String::from_utf8_lossy(&error.text()).trim_start_matches("ERR ")
            )
        })?;
    }
    serve(&arguments.cores, move |system, _| {
        let mut args = args.clone();
        args.on_listening = if system.libos().core() == 0 { say_listening } else { |_| {} };
        kv_server::run(system, args);
    })
}

/// Forty digits that no other run has.
fn run_id() -> String {
    use std::hash::{BuildHasher, RandomState};
    let digits = |n: u8| format!("{:016x}", RandomState::new().hash_one(n));
    (digits(0) + &digits(1) + &digits(2))[..40].to_owned()
}

/// What the system knows of this process; zero where it does not say.
fn process_facts() -> ProcessFacts {
    let read = |path: &str| fs::read_to_string(path).unwrap_or_default();
    let page = rustix::param::page_size() as u64;
    let ticks = rustix::param::clock_ticks_per_second().max(1) as f64;
    let statm = read("/proc/self/statm");
    let rss = statm.split(' ').nth(1).and_then(|pages| pages.parse::<u64>().ok()).unwrap_or(0) * page;
    // The name of the program, in brackets, may hold anything.
    let stat = read("/proc/self/stat");
    let fields: Vec<&str> = stat.rsplit(')').next().unwrap_or_default().split_whitespace().collect();
    let seconds = |index: usize| fields.get(index).and_then(|ticks| ticks.parse::<f64>().ok()).unwrap_or(0.0) / ticks;
    let memory = read("/proc/meminfo");
    let memory = memory.split_whitespace().nth(1).and_then(|kib| kib.parse::<u64>().ok()).unwrap_or(0) * 1024;
    let uname = rustix::system::uname();
    let text = |part: &std::ffi::CStr| part.to_string_lossy().into_owned();
    ProcessFacts {
        process_id: std::process::id(),
        os: format!("{} {} {}", text(uname.sysname()), text(uname.release()), text(uname.machine())),
        executable: std::env::current_exe().map_or_else(|_| String::new(), |path| path.display().to_string()),
        config_file: String::new(),
        rss,
        memory,
        cpu_user: seconds(11),
        cpu_sys: seconds(12),
    }
}
