//! Instructions of user space, counted by valgrind's callgrind: they repeat exactly, whatever else the machine does.
//!
//! A count is the difference of two runs that differ only in how often something is done: what starting and stopping
//! take is in both.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail, ensure};
use margay_bench::demi::Rounds;
use margay_bench::stack::{CONNECTIONS, Checksums, Pops, Pushes};
use margay_bench::{journal, local};
use pdpix::SocketKind;

use crate::child::{self, Scratch, Server, free_address, installed};
use crate::redis::{self, Benchmark};
use crate::{result, skip};

/// Does something of one core `count` times. What callgrind runs.
pub fn kernel(name: &str, count: u64) -> Result<()> {
    match name {
        "switch" | "wake" => {
            let switching = local::Switching::new();
            for _ in 0..count / switching.count() {
                switching.wake();
                if name == "switch" {
                    switching.run();
                }
            }
        }
        "yield" => _ = local::switch(&local::yielding(), count),
        "call" => local::call(&mut local::pollables(), count),
        "memory_queue" => {
            let mut rounds = local::Rounds::new();
            (0..count).for_each(|_| rounds.round());
        }
        "tcp_demi_rounds" | "udp_demi_rounds" => {
            let is_tcp = name.starts_with("tcp");
            let rounds = Rounds::new(if is_tcp { SocketKind::Stream } else { SocketKind::Datagram });
            (0..count).for_each(|_| rounds.round());
        }
        "journal_append" => {
            let mut appends = journal::Appends::new(64);
            (0..count / journal::BATCH).for_each(|_| appends.round());
        }

        _ => match name.strip_prefix("dpdk_") {
            Some(name) => return crate::dpdk::kernel(name, count),
            None => return stack_kernel(name, count),
        },
    }
    Ok(())
}

/// The same of the network stack, by the names of what is counted.
fn stack_kernel(name: &str, count: u64) -> Result<()> {
    let Some((kind, checksums)) = (match name.split('_').next() {
        Some("tcp") => Some((SocketKind::Stream, Checksums::Device)),
        Some("udp") => Some((SocketKind::Datagram, Checksums::Device)),
        Some("summed") => Some((SocketKind::Stream, Checksums::Software)),
        _ => None,
    }) else {
        bail!("there is no kernel `{name}`")
    };
    let rounds = count / CONNECTIONS as u64;
    if name.ends_with("pop") {
        let mut pops = Pops::new(kind, checksums);
        (0..rounds).for_each(|_| _ = pops.round());
    } else {
        let mut pushes = Pushes::new(kind, checksums);
        (0..rounds).for_each(|_| _ = pushes.round());
    }
    Ok(())
}

/// How often a kernel is run, in the two runs.
const KERNEL_COUNTS: [u64; 2] = [102_400, 307_200];

/// Operations of a run, and how many more a run has that counts them. Both fill the pipelines of all connections.
const FEW: u64 = 4_000;
const MORE: u64 = 12_000;

/// User-space instructions per GET and SET, of ours with the epoll backend and of redis-server.
pub fn kv() -> Result<()> {
    let (Some(callgrind), Some(benchmark)) = (Callgrind::find()?, Benchmark::find()) else {
        skip("kv_instructions", "valgrind or redis-benchmark is not installed");
        return Ok(());
    };
    let ours = child::sibling("margay")?;
    let start_ours = |callgrind: &Callgrind| {
        let mut command = callgrind.command(&ours);
        // It does not spin: how often would depend on the time that callgrind takes.
        let words = "kv --listen 127.0.0.1:0 --backend epoll --set memory.size=64MiB --set idle.spin_us=0";
        Server::that_says_where(command.args(words.split(' ')))
    };
    count_operations("ours", &callgrind, &benchmark, start_ours)?;
    let Some(theirs) = installed("redis-server") else {
        skip("kv_instructions_redis", "redis-server is not installed");
        return Ok(());
    };
    let start_redis = |callgrind: &Callgrind| {
        let at = free_address()?;
        let mut command = callgrind.command(&theirs);
        Server::at(at, command.args(redis::arguments(at)).current_dir(std::env::temp_dir()))
    };
    count_operations("redis", &callgrind, &benchmark, start_redis)
}

fn count_operations(
    name: &str,
    callgrind: &Callgrind,
    benchmark: &Benchmark,
    start: impl Fn(&Callgrind) -> Result<Server>,
) -> Result<()> {
    for pipeline in [1, 16] {
        let total = |sets: u64, gets: u64| -> Result<f64> {
            let server = start(callgrind)?;
            operate(benchmark, server.at, pipeline, sets, gets)?;
            server.stop()?;
            callgrind.total()
        };
        let few = total(FEW, FEW)?;
        let set = (total(FEW + MORE, FEW)? - few) / MORE as f64;
        let get = (total(FEW, FEW + MORE)? - few) / MORE as f64;
        result(&format!("kv_instructions_set_p{pipeline}_{name}"), set, "instructions");
        result(&format!("kv_instructions_get_p{pipeline}_{name}"), get, "instructions");
    }
    Ok(())
}

fn operate(benchmark: &Benchmark, at: SocketAddr, pipeline: usize, sets: u64, gets: u64) -> Result<()> {
    benchmark.run(at, "set", pipeline, sets)?;
    benchmark.run(at, "get", pipeline, gets)?;
    Ok(())
}

/// valgrind, and where it writes its counts.
pub struct Callgrind {
    valgrind: PathBuf,
    scratch: Scratch,
}

impl Callgrind {
    /// `None`: it is not installed.
    pub fn find() -> Result<Option<Callgrind>> {
        let Some(valgrind) = installed("valgrind") else { return Ok(None) };
        Ok(Some(Callgrind { valgrind, scratch: Scratch::new()? }))
    }

    fn file(&self) -> PathBuf {
        self.scratch.0.join("callgrind.out")
    }

    /// A command that runs `program` and counts; its arguments are to be added.
    fn command(&self, program: &Path) -> Command {
        self.command_with(&[], program)
    }

    fn command_with(&self, options: &[&str], program: &Path) -> Command {
        let mut command = child::tethered(&self.valgrind);
        let out = format!("--callgrind-out-file={}", self.file().display());
        command.args(["--tool=callgrind", &out]).args(options).arg(program);
        command
    }

    /// What a kernel of this program takes each time.
    pub fn each(&self, kernel: &str) -> Result<f64> {
        self.each_with(&[], kernel)
    }

    /// The same, of what happens inside of one function only.
    pub fn each_inside(&self, function: &str, kernel: &str) -> Result<f64> {
        self.each_with(&[&format!("--toggle-collect=*{function}*")], kernel)
    }

    /// What one more of `counts` takes `program`, which is told the count behind `arguments`; in functions of such names only,
    /// if `options` say so.
    pub fn each_of(
        &self,
        counts: [u64; 2],
        options: &[&str],
        program: &Path,
        arguments: &[&str],
        set: impl Fn(&mut Command),
    ) -> Result<f64> {
        let mut totals = [0.0; 2];
        for (total, count) in totals.iter_mut().zip(counts) {
            let mut command = self.command_with(options, program);
            set(command.args(arguments).arg(count.to_string()));
            ensure!(command.output()?.status.success(), "callgrind fails");
            *total = self.total()?;
        }
        Ok((totals[1] - totals[0]) / (counts[1] - counts[0]) as f64)
    }

    fn each_with(&self, options: &[&str], kernel: &str) -> Result<f64> {
        let mut totals = [0.0; 2];
        for (total, count) in totals.iter_mut().zip(KERNEL_COUNTS) {
            let mut command = self.command_with(options, &std::env::current_exe()?);
            command.args(["kernel", kernel, &count.to_string()]);
            ensure!(command.output()?.status.success(), "callgrind fails");
            *total = self.total()?;
        }
        Ok((totals[1] - totals[0]) / (KERNEL_COUNTS[1] - KERNEL_COUNTS[0]) as f64)
    }

    /// All instructions of the run that has just ended.
    fn total(&self) -> Result<f64> {
        let text = std::fs::read_to_string(self.file()).context("callgrind has left no counts")?;
        let total = |line: &str| line.strip_prefix("totals: ").or(line.strip_prefix("summary: "))?.trim().parse().ok();
        text.lines().find_map(total).context("callgrind's file has no total")
    }
}
