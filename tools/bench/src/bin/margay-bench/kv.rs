//! GET and SET by redis-benchmark: ours beside redis-server, in turn.
//!
//! None is pinned: with the client on the same machine, the kernel places all of them by the same rules.

use std::collections::BTreeMap;

use anyhow::Result;
use margay_bench::sampling::median;

use crate::child::Server;
use crate::redis::{self, Benchmark};
use crate::{result, skip};

const ROUNDS: usize = 3;

/// Pipelines, and how many operations take about half a second.
const PIPELINES: [(usize, u64); 3] = [(1, 60_000), (16, 500_000), (64, 1_000_000)];

const OURS: [(&str, &str); 4] = [
    ("epoll", "--backend epoll --cores 1"),
    ("io_uring", "--backend io_uring --cores 1"),
    ("epoll_2cores", "--backend epoll --cores 2"),
    ("io_uring_2cores", "--backend io_uring --cores 2"),
];

pub fn run() -> Result<()> {
    let Some(benchmark) = Benchmark::find() else {
        skip("kv", "redis-benchmark is not installed (redis-tools)");
        return Ok(());
    };
    let mut servers = Vec::new();
    for (name, words) in OURS {
        match Server::margay(&format!("kv {words} --set memory.size=256MiB --set cores.pin=false")) {
            Ok(server) => servers.push((name, server)),
            Err(error) => skip(&format!("kv_{name}"), &format!("{error:#}")),
        }
    }
    match redis::start()? {
        Some(server) => servers.push(("redis", server)),
        None => skip("kv_redis", "redis-server is not installed"),
    }
    let mut figures: BTreeMap<String, (&str, Vec<f64>)> = BTreeMap::new();
    for _ in 0..ROUNDS {
        for (pipeline, count) in PIPELINES {
            for test in ["set", "get"] {
                for (name, server) in &servers {
                    let before = server.cpu_ns()?;
                    let measured = benchmark.run(server.at, test, pipeline, count)?;
                    let cpu = (server.cpu_ns()? - before) / count as f64;
                    let name = format!("kv_{test}_p{pipeline}_{name}");
                    let mut note = |suffix: &str, unit, value| {
                        figures.entry(format!("{name}{suffix}")).or_insert((unit, Vec::new())).1.push(value);
                    };
                    note("", "ops/s", measured.rate);
                    note("_p50", "us", measured.p50_us);
                    note("_cpu", "ns/op", cpu);
                    note("_client_cpu", "%", measured.client_cpu * 100.0);
                }
            }
        }
    }
    for (name, (unit, values)) in figures {
        result(&name, median(values), unit);
    }
    Ok(())
}
