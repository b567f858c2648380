//! GET and SET of 64 B at pipeline 1 from 50 connections: our cache over memif, asked by `margay load` over memif, beside
//! redis-server over loopback, asked by `margay load` over kernel sockets and by redis-benchmark.
//!
//! Every server has the first processor, and its client the second. The contestants run in turn, each with a server that is
//! started for it: one that spins would take the processor from the others. Redis is given the better of its two clients.
//! What this machine has not is found out before, and skipped; whatever fails then is an error.

use std::collections::BTreeMap;
use std::path::Path;

use anyhow::{Context, Result, bail, ensure};
use margay_bench::sampling::{Pinned, median};

use super::ROUNDS;
use crate::child::{Scratch, Server, installed, sibling, tethered};
use crate::redis::{self, Benchmark, CONNECTIONS};
use crate::{result, skip};

/// What is asked, by redis-benchmark's names.
const TESTS: [&str; 2] = ["get", "set"];
/// Operations of redis-benchmark: about a second.
const OPERATIONS: u64 = 150_000;
/// What `margay load` asks for, and how it has to answer.
const LOAD: &str = "--rate max --pipeline 1 --size 64 --keys 10000 --warm-up 500ms --duration 1s --idle spin";
/// What ours and theirs take where they talk over memif.
const MEMORY: &str = "--set memory.size=128MiB";

/// One run.
#[derive(Clone, Copy, Debug)]
struct Rate {
    /// Operations a second.
    rate: f64,
    /// Microseconds.
    p50: f64,
    /// Nanoseconds of the server's processor for each operation; of one that spins, that is all of it.
    cpu: f64,
}

/// Who is measured.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Contestant {
    /// Our cache over memif.
    Memif,
    /// Redis, asked by our client.
    Redis,
    /// Redis, asked by its own.
    RedisBenchmark,
    /// Our cache over kernel sockets: what of the difference is memif's.
    Loopback,
}

impl Contestant {
    /// Programs that are to be installed for it.
    fn takes(self) -> &'static [&'static str] {
        match self {
            Contestant::Memif | Contestant::Loopback => &[],
            Contestant::Redis => &["redis-server"],
            Contestant::RedisBenchmark => &["redis-server", "redis-benchmark"],
        }
    }
}

const CONTESTANTS: [(&str, Contestant); 4] = [
    ("memif", Contestant::Memif),
    ("redis", Contestant::Redis),
    ("redis_by_redis_benchmark", Contestant::RedisBenchmark),
    ("loopback", Contestant::Loopback),
];

pub fn run() -> Result<()> {
    if std::thread::available_parallelism().map_or(1, usize::from) < 2 {
        skip("dpdk_kv", "a server and its client want a processor each");
        return Ok(());
    }
    if let Err(why) = libos_dpdk::is_built() {
        skip("dpdk_kv", why);
        return Ok(());
    }
    let scratch = Scratch::new()?;
    let load = std::fs::read_to_string("/proc/loadavg").unwrap_or_default();
    println!("load before: {}", load.trim());
    let mut contestants = Vec::new();
    for (name, contestant) in CONTESTANTS {
        match contestant.takes().iter().find(|program| installed(program).is_none()) {
            Some(program) => {
                TESTS.iter().for_each(|test| skip(&named(test, name), &format!("{program} is not installed")));
            }
            None => contestants.push((name, contestant)),
        }
    }
    let figures = measure(&contestants, |contestant, test| one(contestant, test, &scratch.0))?;
    let of = |name: &str, what: fn(&Rate) -> f64| figures.get(name).map(|rates| median(rates.iter().map(what)));
    for (name, rates) in &figures {
        let all: Vec<String> = rates.iter().map(|it| format!("{:.0}", it.rate)).collect();
        println!("{name}: {}", all.join(" "));
        result(name, median(rates.iter().map(|it| it.rate)), "ops/s");
        result(&format!("{name}_p50"), median(rates.iter().map(|it| it.p50)), "us");
        result(&format!("{name}_cpu"), median(rates.iter().map(|it| it.cpu)), "ns/op");
    }
    for test in TESTS {
        let name = |who| named(test, who);
        let clients = ["redis", "redis_by_redis_benchmark"].map(name);
        let rate = clients.iter().filter_map(|name| of(name, |it| it.rate)).reduce(f64::max);
        let p50 = clients.iter().filter_map(|name| of(name, |it| it.p50)).reduce(f64::min);
        let ours = (of(&name("memif"), |it| it.rate), of(&name("memif"), |it| it.p50));
        if let (Some(rate), Some(p50), (Some(our_rate), Some(our_p50))) = (rate, p50, ours) {
            result(&format!("dpdk_kv_{test}_memif_of_redis"), our_rate / rate, "x");
            result(&format!("dpdk_kv_{test}_redis_p50_of_memif"), p50 / our_p50, "x");
        }
    }
    Ok(())
}

/// What a figure is called.
fn named(test: &str, who: &str) -> String {
    format!("dpdk_kv_{test}_{who}")
}

/// All rounds, by name.
fn measure(
    contestants: &[(&str, Contestant)],
    mut one: impl FnMut(Contestant, &str) -> Result<Rate>,
) -> Result<BTreeMap<String, Vec<Rate>>> {
    let mut figures: BTreeMap<String, Vec<Rate>> = BTreeMap::new();
    for _ in 0..ROUNDS {
        for test in TESTS {
            for &(name, contestant) in contestants {
                let name = named(test, name);
                let rate = one(contestant, test).with_context(|| name.clone())?;
                figures.entry(name).or_default().push(rate);
            }
        }
    }
    Ok(figures)
}

/// Starts the server on the first processor, and asks it from the second.
fn one(contestant: Contestant, test: &str, folder: &Path) -> Result<Rate> {
    let socket = folder.join("kv.sock");
    let _ = std::fs::remove_file(&socket);
    let memif = |role: &str, address: u8| {
        let port = format!("net_memif0,role={role},socket={},socket-abstract=no", socket.display());
        format!("--backend dpdk --port {port} --address 10.78.0.{address}/24 {MEMORY}")
    };
    let server = {
        let _first = Pinned::to(0);
        match contestant {
            Contestant::Memif => {
                let mut command = tethered(&sibling("margay")?);
                command.arg("kv").args(memif("server", 1).split_whitespace());
                Server::that_says_where(&mut command)
            }
            Contestant::Loopback => Server::margay(&format!("kv --backend epoll --cores 1 {MEMORY}")),
            Contestant::Redis | Contestant::RedisBenchmark => redis::start()?.context("redis-server is gone"),
        }?
    };
    let _second = Pinned::to(1);
    let before = server.cpu_ns()?;
    let (rate, p50, operations) = match contestant {
        Contestant::RedisBenchmark => {
            let benchmark = Benchmark::find().context("redis-benchmark is gone")?;
            let measured = benchmark.run(server.at, test, 1, OPERATIONS)?;
            (measured.rate, measured.p50_us, OPERATIONS as f64)
        }
        Contestant::Memif => load(&format!("--connect 10.78.0.1:6379 {}", memif("client", 2)), test, folder)?,
        _ => load(&format!("--connect {} --backend epoll", server.at), test, folder)?,
    };
    Ok(Rate { rate, p50, cpu: (server.cpu_ns()? - before) / operations })
}

/// `margay load`: operations a second, the p50 in microseconds, and how many there were in all, those that fill the keys and
/// warm up included, as far as it says.
fn load(words: &str, test: &str, folder: &Path) -> Result<(f64, f64, f64)> {
    let file = folder.join("load.json");
    let reads = if test == "get" { "1" } else { "0" };
    let mut command = tethered(&sibling("margay")?);
    command.arg("load").args(words.split_whitespace()).args(LOAD.split_whitespace());
    command.args(["--connections", &CONNECTIONS.to_string(), "--reads", reads]).arg("--json").arg(&file);
    let output = command.output()?;
    if !output.status.success() {
        bail!("margay load fails: {}", String::from_utf8_lossy(&output.stderr));
    }
    read_report(&std::fs::read_to_string(&file)?)
}

fn read_report(text: &str) -> Result<(f64, f64, f64)> {
    let report: serde_json::Value = serde_json::from_str(text)?;
    let number =
        |at: &str| report.pointer(at).and_then(serde_json::Value::as_f64).with_context(|| format!("{at} in {text}"));
    let errors = report.get("errors").and_then(|errors| errors.as_object()).context("errors")?;
    ensure!(errors.is_empty(), "not all were answered: {errors:?}");
    ensure!(number("/missing")? == 0.0, "GETs found nothing");
    let rate = number("/rate_achieved")?;
    // It warms up for half as long as it measures.
    Ok((rate, number("/latency_ns/p50")? / 1e3, rate * number("/seconds")? * 1.5))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_fails_is_an_error_and_not_a_skip() {
        let rate = Rate { rate: 1.0, p50: 1.0, cpu: 1.0 };
        let figures = measure(&CONTESTANTS, |_, _| Ok(rate)).unwrap();
        assert_eq!((figures.len(), figures["dpdk_kv_set_redis"].len()), (8, ROUNDS));
        let mut count = 0;
        let failed = measure(&CONTESTANTS, |contestant, test| {
            count += 1;
            ensure!(count < 10 || contestant != Contestant::Loopback || test != "set", "GETs found nothing");
            Ok(rate)
        });
        assert_eq!(format!("{:#}", failed.unwrap_err()), "dpdk_kv_set_loopback: GETs found nothing");
    }

    #[test]
    fn a_report_with_errors_is_no_figure() {
        let report = |errors: &str, missing: u32| {
            format!(
                "{{\"rate_achieved\": 1000.0, \"seconds\": 2.0, \"errors\": {errors}, \"missing\": {missing}, \
                 \"latency_ns\": {{\"p50\": 5000}}}}"
            )
        };
        assert_eq!(read_report(&report("{}", 0)).unwrap(), (1000.0, 5.0, 3000.0));
        assert!(read_report(&report("{\"no answer\": 1}", 0)).is_err());
        assert!(read_report(&report("{}", 7)).is_err());
        assert!(read_report("{}").is_err());
    }
}
