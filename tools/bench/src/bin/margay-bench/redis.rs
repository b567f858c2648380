//! Redis: the server that ours is compared with, and the client that measures both.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::Command;
use std::time::Instant;

use anyhow::{Context, Result, ensure};

use crate::child::{Server, children_seconds, free_address, installed, tethered};

/// Keys, all equally often; and bytes of a value.
const KEYS: &str = "10000";
const SIZE: &str = "64";
pub const CONNECTIONS: usize = 50;

/// A redis-server that keeps nothing on disk, as words behind `program`.
pub fn arguments(at: SocketAddr) -> Vec<String> {
    let words =
        format!("--bind {} --port {} --appendonly no --protected-mode no --loglevel warning", at.ip(), at.port());
    let mut words: Vec<String> = words.split(' ').map(str::to_owned).collect();
    words.extend(["--save".into(), String::new()]);
    words
}

/// Starts one. `None`: it is not installed.
pub fn start() -> Result<Option<Server>> {
    let Some(program) = installed("redis-server") else { return Ok(None) };
    let at = free_address()?;
    Server::at(at, tethered(&program).args(arguments(at)).current_dir(std::env::temp_dir())).map(Some)
}

/// What redis-benchmark tells of a run.
#[derive(Clone, Copy, Debug)]
pub struct Measured {
    /// Operations a second.
    pub rate: f64,
    /// Microseconds.
    pub p50_us: f64,
    /// The share of a processor that the client has used.
    pub client_cpu: f64,
}

/// redis-benchmark, if it is installed.
pub struct Benchmark(PathBuf);

impl Benchmark {
    pub fn find() -> Option<Benchmark> {
        installed("redis-benchmark").map(Benchmark)
    }

    /// `count` operations, `get` or `set`, with `pipeline` of them in flight on each connection.
    pub fn run(&self, at: SocketAddr, test: &str, pipeline: usize, count: u64) -> Result<Measured> {
        let before = children_seconds()?;
        let start = Instant::now();
        let output = Command::new(&self.0)
            .args(["-h", &at.ip().to_string(), "-p", &at.port().to_string()])
            .args(["-t", test, "-c", &CONNECTIONS.to_string(), "-d", SIZE, "-r", KEYS])
            .args(["-P", &pipeline.to_string(), "-n", &count.to_string(), "--csv"])
            .output()?;
        let seconds = start.elapsed().as_secs_f64();
        let text = String::from_utf8_lossy(&output.stdout);
        ensure!(output.status.success(), "redis-benchmark fails: {}", String::from_utf8_lossy(&output.stderr));
        let (rate, p50_us) = read_csv(&text).with_context(|| format!("redis-benchmark said `{text}`"))?;
        Ok(Measured { rate, p50_us, client_cpu: (children_seconds()? - before) / seconds })
    }
}

/// Operations a second, and the p50 in microseconds.
fn read_csv(text: &str) -> Option<(f64, f64)> {
    let mut lines = text.lines().filter(|line| line.starts_with('"'));
    let cells = |line: &str| line.split(',').map(|cell| cell.trim_matches('"').to_owned()).collect::<Vec<_>>();
    let (names, values) = (cells(lines.next()?), cells(lines.next()?));
    let of = |name: &str| values.get(names.iter().position(|known| known == name)?)?.parse::<f64>().ok();
    Some((of("rps")?, of("p50_latency_ms")? * 1e3))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn figures_are_found_by_their_names() {
        let text = "\"test\",\"rps\",\"avg_latency_ms\",\"min_latency_ms\",\"p50_latency_ms\"\n\
                    \"GET\",\"50000.00\",\"0.512\",\"0.100\",\"0.500\"\n";
        assert_eq!(read_csv(text), Some((50_000.0, 500.0)));
        assert_eq!(read_csv("\"test\",\"rps\"\n\"GET\",\"1\"\n"), None);
        assert_eq!(read_csv(""), None);
    }
}
