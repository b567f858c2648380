//! Both forms of kernel sockets pass the behaviour suite.

use std::net::{IpAddr, Ipv4Addr};

use libos_conformance::{Addresses, Can, Made, RealTime, suite, suite_asleep};
use libos_posix::{EpollNetwork, UringNetwork, UringSettings};
use pdpix::{Error, Heap, Network};

/// What the io_uring form may have under way when a receive budget is reached: the buffers that it provides, and one read.
const RECEIVE_AHEAD: usize = 256 * 4096 + 64 * 1024;

fn epoll(heap: &Heap) -> Result<Box<dyn Network>, Error> {
    Ok(Box::new(EpollNetwork::new(heap.clone())?))
}

fn uring(heap: &Heap) -> Result<Box<dyn Network>, Error> {
    Ok(Box::new(UringNetwork::new(heap.clone(), UringSettings::default())?))
}

/// The same where everything is rare: few and short buffers to receive into, and every send that can be is without a copy.
fn frugal(heap: &Heap) -> Result<Box<dyn Network>, Error> {
    let settings = UringSettings { buffers: 4, buffer_size: 512, zero_copy_min: Some(1) };
    Ok(Box::new(UringNetwork::new(heap.clone(), settings)?))
}

fn subject(network: fn(&Heap) -> Result<Box<dyn Network>, Error>) -> Made {
    let can = Can {
        datagrams: true,
        ipv6: true,
        memory_queues: true,
        give_up: true,
        contend: true,
        cores_share: true,
        kill: true,
        second_process: true,
        keeps_what_arrived: false,
        datagram_max: 65_507,
        receive_ahead: RECEIVE_AHEAD,
    };
    match RealTime::subject(can, Addresses::loopback(), network) {
        Ok(cores) => Ok(Box::new(cores)),
        Err(error) => Err(format!("the system gives no such network: {error}")),
    }
}

suite!(epoll_suite, || subject(epoll));
suite!(uring_suite, || subject(uring));
suite!(uring_frugal_suite, || subject(frugal));
suite_asleep!(epoll_asleep, epoll, IpAddr::V4(Ipv4Addr::LOCALHOST));
suite_asleep!(uring_asleep, uring, IpAddr::V4(Ipv4Addr::LOCALHOST));
suite_asleep!(uring_frugal_asleep, frugal, IpAddr::V4(Ipv4Addr::LOCALHOST));
