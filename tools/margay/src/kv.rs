//! `margay kv`

mod progress;

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::Context;
use clap::{Args, ValueEnum};
use framework::pdpix::Endpoint;
use kv_engine::rdb::Reader;
use kv_server::{Load, ProcessFacts, ServerArgs};

use crate::core_args::{CoreArguments, Transport, listen_at, say_listening, serve};

#[derive(Args)]
pub struct Arguments {
    /// Where to listen [default: port 6379 of 127.0.0.1, or of --address]
    #[arg(long, value_name = "ADDR:PORT")]
    listen: Option<Endpoint>,
    /// Sets a parameter of Redis's, such as `maxmemory=1gb` or `requirepass=SECRET`; may be given several times.
    #[arg(long, value_name = "NAME=VALUE")]
    option: Vec<String>,
    /// When writes are answered: at once and never kept; at once, and kept within a second; when they are durable
    /// [default: everysec with --dir, else none]
    #[arg(long, value_enum)]
    durability: Option<Durability>,
    /// A directory for the log and the snapshots. A dump.rdb of Redis's in it is loaded if there is nothing else.
    #[arg(long, value_name = "PATH")]
    dir: Option<PathBuf>,
    /// Loads an RDB file of Redis's, or of a core of ours, where there is no data yet; may be given several times.
    #[arg(long, value_name = "FILE")]
    load: Vec<PathBuf>,
    #[command(flatten)]
    cores: CoreArguments,
}

/// What is promised of a write that was answered.
#[derive(Clone, Copy, PartialEq, Eq, Debug, ValueEnum)]
pub enum Durability {
    /// Nothing: SAVE and BGSAVE write snapshots, if there is a directory.
    None,
    /// At most the last second is lost.
    Everysec,
    /// It is durable.
    Always,
}

pub fn run(mut arguments: Arguments) -> anyhow::Result<i32> {
    if let Some(dir) = &arguments.dir {
        // What is said later counts, so that `--set storage.size` still does.
        arguments.cores.set.insert(0, format!("storage.dir={}", dir.display()));
    }
    let listen = listen_at(arguments.listen, 6379, Transport::Tcp, &arguments.cores)?;
    let mut args = ServerArgs::new(listen);
    args.facts = process_facts;
    args.run_id = run_id();
    keep(&arguments, &mut args)?;
    for option in &arguments.option {
        let (name, value) = option.split_once('=').with_context(|| format!("`--option {option}` is not NAME=VALUE"))?;
        args.config.set_at_start(name.trim(), value.trim()).map_err(|error| {
            anyhow::anyhow!(
                "`--option {option}`: {}",
                String::from_utf8_lossy(&error.text()).trim_start_matches("ERR ")
            )
        })?;
    }
    serve(&arguments.cores, move |system, launched| {
        let mut args = args.clone();
        if let Some(disk) = launched.geometry {
            (args.storage_len, args.log_len_max) = (disk.size(), disk.size() / 4);
            args.storage_unit = u64::from(disk.block_size) * u64::from(disk.write_unit);
        }
        args.on_listening = if system.libos().core() == 0 { say_listening } else { |_| {} };
        kv_server::run(system, args);
    })
}

/// What is kept, where, and what is loaded.
fn keep(arguments: &Arguments, args: &mut ServerArgs) -> anyhow::Result<()> {
    let storage = arguments.cores.settings()?.storage;
    args.has_storage = storage.dir.is_some() || storage.device.is_some();
    let asked = arguments.durability.unwrap_or(if args.has_storage { Durability::Everysec } else { Durability::None });
    anyhow::ensure!(
        args.has_storage || asked == Durability::None,
        "--durability {} needs a place for the log: give a directory with --dir",
        asked.to_possible_value().map_or_else(String::new, |value| value.get_name().to_owned())
    );
    let (durability, only, sync) = match asked {
        Durability::None => (kv_server::Durability::None, "no", "everysec"),
        Durability::Everysec => (kv_server::Durability::EverySecond, "yes", "everysec"),
        Durability::Always => (kv_server::Durability::Always, "yes", "always"),
    };
    args.durability = durability;
    args.is_read_only = storage.read_only;
    let dir = storage.dir.as_ref().map_or_else(|| ".".into(), |dir| dir.display().to_string());
    for (name, value) in [("appendonly", only), ("appendfsync", sync), ("dir", dir.as_str())] {
        let _ = args.config.set_at_start(name, value);
    }
    let beside = storage.dir.map(|dir| dir.join("dump.rdb")).filter(|file| file.exists());
    args.load_is_asked_for = !arguments.load.is_empty();
    let files = if args.load_is_asked_for { arguments.load.clone() } else { beside.into_iter().collect() };
    if !files.is_empty() {
        files.iter().try_for_each(|file| check_rdb(file))?;
        args.load = Some(Load::new(move |index| match files.get(index) {
            Some(file) => Ok(Some(Box::new(fs::File::open(file)?))),
            None => Ok(None),
        }));
    }
    args.on_trouble = |why| eprintln!("margay: {why}");
    args.on_progress = progress::show;
    Ok(())
}

/// Refuses a file that cannot be loaded before anything of it is.
fn check_rdb(path: &Path) -> anyhow::Result<()> {
    use std::io::Read;
    let mut file = fs::File::open(path).with_context(|| format!("cannot read {}", path.display()))?;
    let (mut reader, mut bytes) = (Reader::new(), vec![0; 1 << 20]);
    loop {
        let len = file.read(&mut bytes).with_context(|| format!("cannot read {}", path.display()))?;
        reader.feed(&bytes[..len]);
        if len == 0 {
            reader.finish();
        }
        let checked = reader.check().map_err(|error| anyhow::anyhow!("{}: {error}", path.display()))?;
        if checked || len == 0 {
            return Ok(());
        }
    }
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
