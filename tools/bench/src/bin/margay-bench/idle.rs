//! A cache that has nothing to do: what it takes, and how fast it is there again.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use margay_bench::sampling::median;
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

use crate::child::Server;
use crate::{redis, result, skip};

const CONNECTIONS: u64 = 10_000;

/// Growth of the server's memory, per connection that has said something once and then nothing.
pub fn connections() -> Result<()> {
    let limit = getrlimit(Resource::Nofile);
    // The servers inherit it.
    let raised = Rlimit { current: limit.maximum, ..limit };
    setrlimit(Resource::Nofile, raised).context("cannot raise the limit of open files")?;
    if limit.maximum.is_some_and(|most| most < CONNECTIONS + 100) {
        skip("idle_connection_rss", "a process may not have 10,000 open files");
        return Ok(());
    }
    for (name, backend) in [("idle_connection_rss", "epoll"), ("idle_connection_rss_io_uring", "io_uring")] {
        match Server::margay(&format!("kv --backend {backend} --set memory.size=1GiB")) {
            Ok(server) => result(name, growth(&server)?, "B"),
            Err(error) => skip(name, &format!("{error:#}")),
        }
    }
    match redis::start()? {
        Some(server) => result("idle_connection_rss_redis", growth(&server)?, "B"),
        None => skip("idle_connection_rss_redis", "redis-server is not installed"),
    }
    Ok(())
}

fn growth(server: &Server) -> Result<f64> {
    ping(&mut TcpStream::connect(server.at)?)?;
    let before = server.rss()?;
    let mut streams = Vec::with_capacity(CONNECTIONS as usize);
    for index in 0..CONNECTIONS {
        let mut stream = TcpStream::connect(server.at).with_context(|| format!("connection {index}"))?;
        ping(&mut stream).with_context(|| format!("connection {index}"))?;
        streams.push(stream);
    }
    thread::sleep(Duration::from_millis(300));
    Ok((server.rss()? - before) / CONNECTIONS as f64)
}

fn ping(stream: &mut TcpStream) -> Result<()> {
    stream.set_read_timeout(Some(Duration::from_secs(10)))?;
    stream.write_all(b"PING\r\n")?;
    let mut pong = [0; 7];
    stream.read_exact(&mut pong)?;
    anyhow::ensure!(&pong == b"+PONG\r\n", "no PONG");
    Ok(())
}

const IDLE: Duration = Duration::from_secs(5);
const REQUESTS: usize = 150;
const EVERY: Duration = Duration::from_millis(20);

/// The share of a processor that an idle cache takes, and the round trip of a request that wakes it.
pub fn cpu() -> Result<()> {
    let mut servers = Vec::new();
    for backend in ["epoll", "io_uring"] {
        match Server::margay(&format!("kv --backend {backend} --set memory.size=64MiB")) {
            Ok(server) => servers.push((backend, server)),
            Err(error) => skip(&format!("idle_cpu_{backend}"), &format!("{error:#}")),
        }
    }
    match redis::start()? {
        Some(server) => servers.push(("redis", server)),
        None => skip("idle_cpu_redis", "redis-server is not installed"),
    }
    thread::sleep(Duration::from_millis(200));
    let before: Vec<f64> = servers.iter().map(|(_, server)| server.cpu_ns()).collect::<Result<_>>()?;
    let start = Instant::now();
    thread::sleep(IDLE);
    let elapsed = start.elapsed().as_nanos() as f64;
    for ((name, server), before) in servers.iter().zip(before) {
        result(&format!("idle_cpu_{name}"), (server.cpu_ns()? - before) / elapsed * 100.0, "%");
    }
    for (name, server) in &servers {
        result(&format!("idle_wake_{name}"), wake(server.at)?, "us");
    }
    Ok(())
}

fn wake(at: SocketAddr) -> Result<f64> {
    let mut stream = TcpStream::connect(at)?;
    stream.set_nodelay(true)?;
    let mut trips = Vec::with_capacity(REQUESTS);
    for _ in 0..REQUESTS {
        thread::sleep(EVERY);
        let start = Instant::now();
        ping(&mut stream)?;
        trips.push(start.elapsed().as_nanos() as f64 / 1e3);
    }
    Ok(median(trips))
}
