//! How a port is stopped and started while cores may be about to use it.

use std::os::fd::OwnedFd;

use libos_mem::{Plan, Reserves, Source};
use rustix::net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType};

use super::*;
use crate::EalSettings;

const HEAP_SIZE: usize = 32 << 20;

/// A memif client, and a server of ours that says nothing. `None`, with a word why: there is no DPDK to be had.
fn client_and_server() -> Option<(Queue, OwnedFd)> {
    let skip = |why: String| println!("SKIP dpdk/port: {why}");
    let path = std::env::temp_dir().join(format!("margay-dpdk-{}xport", std::process::id()));
    let _ = std::fs::remove_file(&path);
    let flags = SocketFlags::NONBLOCK | SocketFlags::CLOEXEC;
    let server = rustix::net::socket_with(AddressFamily::UNIX, SocketType::SEQPACKET, flags, None).unwrap();
    rustix::net::bind(&server, &SocketAddrUnix::new(&path).unwrap()).unwrap();
    rustix::net::listen(&server, 1).unwrap();
    let eal = Eal::start(&EalSettings { memory: 2 * HEAP_SIZE, ..EalSettings::default() })
        .map_err(|why| skip(why.to_string()))
        .ok()?;
    let plan = Plan { heaps: 1, heap_size: HEAP_SIZE, reserves: Reserves::usual(HEAP_SIZE), source: Source::External };
    let reservation = eal.reserve(plan).unwrap();
    let device = format!("net_memif{}p,role=client,socket={},socket-abstract=no", std::process::id(), path.display());
    let port = Port::open(eal, PortSettings::new(&device), &reservation).unwrap();
    let queue = port.queue(0, reservation.heap(0).unwrap()).unwrap();
    Some((queue, server))
}

/// Whether somebody connects, in this time.
fn is_called(server: &OwnedFd, within: Duration) -> bool {
    let end = Instant::now() + within;
    while Instant::now() < end {
        if rustix::net::accept(server).is_ok() {
            return true; // and let go of
        }
        std::thread::sleep(Duration::from_millis(5));
    }
    false
}

#[test]
fn a_driver_that_a_core_is_in_is_not_started_again() {
    let Some((queue, server)) = client_and_server() else { return };
    let port = queue.port().clone();
    assert!(is_called(&server, Duration::from_secs(5)), "the first search");
    assert!(port.is_started() && port.carrier() == Carrier::Never);
    let is_let_in = port.enter(0);
    port.leave(0);
    assert!(!is_let_in, "there are no rings while there is no link");
    // A core that has found the link there, and lost the processor, and the link.
    port.busy[0].store(true, Ordering::SeqCst);
    port.search().again_at = Some(Instant::now());
    std::thread::scope(|scope| {
        let pausing = scope.spawn(gate::pause);
        let is_early = is_called(&server, Duration::from_millis(500));
        port.leave(0);
        pausing.join().unwrap();
        assert!(!is_early, "it was stopped and started under that core");
    });
    assert!(is_called(&server, Duration::from_secs(5)), "it is started again as soon as the core is out");
}
