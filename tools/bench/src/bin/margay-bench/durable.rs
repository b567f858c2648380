//! What durability costs: SET with `always` beside redis-server with `appendfsync always` on the same disk, the processor
//! time of `everysec` beside `none`, and what a snapshot does to the latency of those who go on.
//!
//! The snapshot is of `SNAPSHOT_MIB`, written again and again while it is measured.

use std::collections::BTreeMap;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use margay_bench::sampling::median;

use crate::child::{Scratch, Server, free_address, installed, tethered};
use crate::redis::{self, Benchmark, CONNECTIONS};
use crate::{result, skip};

const ROUNDS: usize = 3;

/// Pipelines, and how many operations of each are measured.
const PIPELINES: [(usize, u64); 2] = [(1, 60_000), (16, 500_000)];

/// Data of the snapshot: so many values of 1 KiB.
const SNAPSHOT_MIB: u64 = 1024;

/// Operations, and samples of a round of them.
const GETS: u64 = 400_000;

pub fn run() -> Result<()> {
    let Some(benchmark) = Benchmark::find() else {
        skip("durable", "redis-benchmark is not installed (redis-tools)");
        return Ok(());
    };
    let scratch = Scratch::new()?;
    let folder = |name: &str| scratch.0.join(name).display().to_string();
    let ours = |name: &str, how: &str, gib: u32| {
        let common = format!("--set memory.size={gib}GiB --set cores.pin=false --set storage.size={}GiB", 2 * gib);
        let server = Server::margay(&format!("kv --dir {} --durability {how} --cores 1 {common}", folder(name)))?;
        loaded(server.at)?;
        anyhow::Ok(server)
    };
    let mut servers = vec![("always", ours("always", "always", 1)?)];
    match installed("redis-server") {
        Some(program) => {
            let at = free_address()?;
            let dir = folder("redis");
            std::fs::create_dir_all(&dir)?;
            let mut command = tethered(&program);
            command.args(redis::arguments(at)).args(["--appendonly", "yes", "--appendfsync", "always", "--dir", &dir]);
            servers.push(("redis", Server::at(at, &mut command)?));
        }
        None => skip("durable_redis", "redis-server is not installed"),
    }
    servers.push(("everysec", ours("everysec", "everysec", 1)?));
    servers.push(("none", ours("none", "none", 1)?));
    let mut figures: BTreeMap<String, (&str, Vec<f64>)> = BTreeMap::new();
    for _ in 0..ROUNDS {
        for (pipeline, count) in PIPELINES {
            for (name, server) in &servers {
                let before = server.cpu_ns()?;
                let measured = benchmark.run(server.at, "set", pipeline, count)?;
                let cpu = (server.cpu_ns()? - before) / count as f64;
                let mut note = |suffix: &str, unit, value| {
                    let name = format!("durable_{name}_set_p{pipeline}{suffix}");
                    figures.entry(name).or_insert((unit, Vec::new())).1.push(value);
                };
                note("", "ops/s", measured.rate);
                note("_p50", "us", measured.p50_us);
                note("_cpu", "ns/op", cpu);
                note("_client_cpu", "%", measured.client_cpu * 100.0);
            }
        }
    }
    let figures: BTreeMap<String, (&str, f64)> =
        figures.into_iter().map(|(name, (unit, values))| (name, (unit, median(values)))).collect();
    for (name, (unit, value)) in &figures {
        result(name, *value, unit);
    }
    for (pipeline, _) in PIPELINES {
        let cpu = |name: &str| figures.get(&format!("durable_{name}_set_p{pipeline}_cpu")).map(|(_, value)| *value);
        if let (Some(everysec), Some(none)) = (cpu("everysec"), cpu("none")) {
            result(&format!("durable_everysec_of_none_set_p{pipeline}_cpu"), everysec / none, "x");
        }
    }
    drop(servers);
    snapshot(&ours("snapshot", "everysec", 3)?)
}

/// GETs and SETs of [`CONNECTIONS`] clients, without and with a snapshot being written all the time.
fn snapshot(server: &Server) -> Result<()> {
    fill(server.at)?;
    let (mut quiet, mut saving) = (Vec::new(), Vec::new());
    let before = number(server.at, "rdb_saves")?;
    for _ in 0..ROUNDS {
        quiet.push(latencies(server.at)?);
        let over = AtomicBool::new(false);
        let measured = thread::scope(|scope| {
            let saver = scope.spawn(|| -> Result<()> {
                while !over.load(Ordering::Relaxed) {
                    ask(server.at, "BGSAVE")?;
                    thread::sleep(Duration::from_millis(5));
                }
                Ok(())
            });
            let measured = latencies(server.at);
            over.store(true, Ordering::Relaxed);
            saver.join().map_err(|_| anyhow::anyhow!("the saver panicked"))??;
            measured
        })?;
        saving.push(measured);
    }
    let saves = number(server.at, "rdb_saves")? - before;
    if saves == 0 {
        bail!("no snapshot was written while it was measured");
    }
    result("durable_snapshot_size", SNAPSHOT_MIB as f64, "MiB");
    result("durable_snapshots_written", saves as f64, "");
    result("durable_snapshot_waiting_max", number(server.at, "current_cow_peak")? as f64 / 1048576.0, "MiB");
    let of = |all: &[(f64, f64)], which: fn(&(f64, f64)) -> f64| median(all.iter().map(which).collect::<Vec<f64>>());
    let moved = of(&saving, |both| both.0) / of(&quiet, |both| both.0);
    result("durable_p50_saving_to_quiet", moved, "x");
    for (name, all) in [("quiet", &quiet), ("saving", &saving)] {
        result(&format!("durable_p50_{name}"), of(all, |both| both.0), "us");
        result(&format!("durable_p99_{name}"), of(all, |both| both.1), "us");
    }
    Ok(())
}

/// The p50 and the p99, in microseconds, of requests of [`CONNECTIONS`] clients, one in ten a write.
fn latencies(at: SocketAddr) -> Result<(f64, f64)> {
    let mut streams = Vec::new();
    for _ in 0..CONNECTIONS {
        let stream = TcpStream::connect(at)?;
        stream.set_nodelay(true)?;
        streams.push((stream, Instant::now()));
    }
    let (mut random, mut times, mut bytes) = (1u64, Vec::new(), [0; 4096]);
    let mut request = || {
        random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        let key = (random >> 33) % (SNAPSHOT_MIB * 1024);
        match random >> 60 {
            0 => format!("SET key:{key} {}\r\n", "y".repeat(900)),
            _ => format!("EXISTS key:{key}\r\n"),
        }
    };
    while times.len() < GETS as usize {
        for (stream, sent) in &mut streams {
            *sent = Instant::now();
            stream.write_all(request().as_bytes())?;
        }
        for (stream, sent) in &mut streams {
            if stream.read(&mut bytes)? == 0 {
                bail!("a connection was closed");
            }
            times.push(sent.elapsed().as_secs_f64() * 1e6);
        }
    }
    times.sort_by(f64::total_cmp);
    Ok((times[times.len() / 2], times[times.len() * 99 / 100]))
}

/// Fills it with values of 1 KiB.
fn fill(at: SocketAddr) -> Result<()> {
    let mut stream = TcpStream::connect(at)?;
    let mut bytes = [0; 65_536];
    let value = "x".repeat(1000);
    for first in (0..SNAPSHOT_MIB * 1024).step_by(64) {
        let batch: String = (first..first + 64).map(|key| format!("SET key:{key} {value}\r\n")).collect();
        stream.write_all(batch.as_bytes())?;
        let mut got = 0;
        while got < 64 * "+OK\r\n".len() {
            match stream.read(&mut bytes)? {
                0 => bail!("a connection was closed"),
                len if bytes[0] == b'-' => bail!("{}", String::from_utf8_lossy(&bytes[..len])),
                len => got += len,
            }
        }
    }
    Ok(())
}

fn ask(at: SocketAddr, line: &str) -> Result<String> {
    let mut stream = TcpStream::connect(at)?;
    write!(stream, "{line}\r\nQUIT\r\n")?;
    let mut text = String::new();
    stream.read_to_string(&mut text)?;
    Ok(text)
}

fn number(at: SocketAddr, field: &str) -> Result<u64> {
    let info = ask(at, "INFO persistence")?;
    let line = info.lines().find_map(|line| line.strip_prefix(field)?.strip_prefix(':'));
    line.and_then(|text| text.trim().parse().ok()).with_context(|| format!("{field} in INFO"))
}

/// Until it has its data.
fn loaded(at: SocketAddr) -> Result<()> {
    static TRIES: AtomicU64 = AtomicU64::new(0);
    while !ask(at, "PING")?.starts_with("+PONG") {
        if TRIES.fetch_add(1, Ordering::Relaxed) > 2000 {
            bail!("it loads for ever");
        }
        thread::sleep(Duration::from_millis(10));
    }
    Ok(())
}
