//! One stream from end to end.

use std::io::{Read, Write};
use std::net::{IpAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::mpsc;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Result, anyhow, ensure};
use libos_runtime::{LibOs, Stopper};
use pdpix::{Endpoint, Purpose, Qd, Sga, SocketKind};

use super::{End, Link, PATIENCE, PORT, Through, both};

/// How long it runs, once it has begun.
const STREAM: Duration = Duration::from_millis(700);
/// What it is pushed in.
const PIECE: usize = 64 << 10;

/// What one stream carries from the first end to the second, in Gbit/s.
pub fn stream(link: &Link, from: Through, to: Through) -> Result<f64> {
    stream_for(STREAM, link, from, to)
}

/// The same, of another length.
pub fn stream_for(how_long: Duration, link: &Link, from: Through, to: Through) -> Result<f64> {
    let taken = &Arc::new(AtomicU64::new(0));
    let at: IpAddr = if to == Through::Kernel { link.b().kernel.into() } else { link.b().ours.into() };
    let server = |is_over: &AtomicBool, tell: mpsc::Sender<Option<Stopper>>| match to {
        Through::Kernel => drain_kernel(link.b(), is_over, tell, taken),
        through => drain(link.b(), through, tell, taken),
    };
    both(link, server, || {
        let (is_over, (tell, told)) = (&AtomicBool::new(false), mpsc::channel::<Stopper>());
        let rate = thread::scope(|scope| {
            let fills = link.a().run(scope, move || match from {
                Through::Kernel => fill_kernel(at, is_over),
                through => fill(link.a(), through, at, &tell),
            });
            let rate = rate(taken, how_long);
            is_over.store(true, Ordering::Relaxed);
            told.try_iter().for_each(|stopper| stopper.stop());
            fills.join().map_err(|_| anyhow!("the sender panicked"))??;
            Ok::<f64, anyhow::Error>(rate)
        })?;
        ensure!(rate > 0.0, "nothing arrives");
        Ok(rate)
    })
}

fn rate(taken: &AtomicU64, how_long: Duration) -> f64 {
    let begun = Instant::now();
    while taken.load(Ordering::Relaxed) < 1 << 20 && begun.elapsed() < PATIENCE / 2 {
        thread::sleep(Duration::from_millis(5));
    }
    let (begun, before) = (Instant::now(), taken.load(Ordering::Relaxed));
    thread::sleep(how_long);
    (taken.load(Ordering::Relaxed) - before) as f64 * 8.0 / begun.elapsed().as_nanos() as f64
}

fn drain_kernel(end: &End, is_over: &AtomicBool, tell: mpsc::Sender<Option<Stopper>>, taken: &AtomicU64) -> Result<()> {
    let listener = TcpListener::bind((end.kernel, PORT))?;
    tell.send(None)?;
    let (mut stream, _) = listener.accept()?;
    stream.set_read_timeout(Some(Duration::from_millis(50)))?;
    let mut bytes = vec![0; PIECE];
    while !is_over.load(Ordering::Relaxed) {
        match stream.read(&mut bytes) {
            Ok(0) => break,
            Ok(len) => _ = taken.fetch_add(len as u64, Ordering::Relaxed),
            Err(_) => {}
        }
    }
    Ok(())
}

/// A core says that it is there before it listens.
fn connected(to: IpAddr) -> Result<TcpStream> {
    let begun = Instant::now();
    loop {
        match TcpStream::connect((to, PORT)) {
            Ok(stream) => return Ok(stream),
            Err(error) if begun.elapsed() > PATIENCE / 4 => return Err(error.into()),
            Err(_) => thread::sleep(Duration::from_millis(5)),
        }
    }
}

fn fill_kernel(to: IpAddr, is_over: &AtomicBool) -> Result<()> {
    let mut stream = connected(to)?;
    // As ours is: the system's default may be another one.
    rustix::net::sockopt::set_tcp_congestion(&stream, "cubic")?;
    stream.set_write_timeout(Some(Duration::from_millis(50)))?;
    let bytes = vec![7; PIECE];
    while !is_over.load(Ordering::Relaxed) {
        let _ = stream.write(&bytes); // it may be full
    }
    Ok(())
}

fn drain(end: &End, through: Through, tell: mpsc::Sender<Option<Stopper>>, taken: &Arc<AtomicU64>) -> Result<()> {
    let core = end.core(through)?;
    let (libos, at, taken) = (core.libos().clone(), Endpoint::new(end.ours.into(), PORT), taken.clone());
    core.libos().spawn(async move { _ = take_all(&libos, at, &taken).await });
    tell.send(Some(core.stopper()))?;
    core.run();
    Ok(())
}

async fn take_all(libos: &LibOs, at: Endpoint, taken: &AtomicU64) -> Result<(), pdpix::Error> {
    let listener = libos.socket(SocketKind::Stream, None)?;
    libos.bind(listener, at)?;
    libos.listen(listener, 1)?;
    let (qd, _) = libos.redeem(libos.accept(listener)?).await?.accepted()?;
    loop {
        let popped = libos.redeem(libos.pop(qd, PIECE)?).await?.popped()?;
        taken.fetch_add(popped.sga.len() as u64, Ordering::Relaxed);
    }
}

fn fill(end: &End, through: Through, to: IpAddr, tell: &mpsc::Sender<Stopper>) -> Result<()> {
    let core = end.core(through)?;
    let (libos, to) = (core.libos().clone(), Endpoint::new(to, PORT));
    core.libos().spawn(async move { _ = give_all(&libos, to).await });
    tell.send(core.stopper())?;
    core.run();
    Ok(())
}

async fn give_all(libos: &LibOs, to: Endpoint) -> Result<(), pdpix::Error> {
    let qd: Qd = libos.socket(SocketKind::Stream, None)?;
    libos.redeem(libos.connect(qd, to)?).await?.done()?;
    let mut memory = libos.heap().alloc_for(Purpose::App, PIECE)?;
    memory.put(&vec![7; PIECE]);
    let piece = memory.freeze();
    loop {
        libos.redeem(libos.push(qd, Sga::from(piece.clone()))?).await?.done()?;
    }
}
