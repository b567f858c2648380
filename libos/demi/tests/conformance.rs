//! The behaviour suite through the C interface: over kernel sockets in both forms, and over AF_PACKET, TAP and AF_XDP.

mod support;

use libos_conformance::{Made, suite};
use support::{Abi, links};

fn sockets(libos: &str) -> Made {
    Abi::on_loopback(libos)
}

fn packet() -> Made {
    let ends = links::veth()?;
    Abi::on_a_link("packet", ends)
}

fn taps() -> Made {
    let ends = links::bridge()?;
    Abi::on_a_link_that_comes("tap", ends, links::join_bridge)
}

fn af_xdp() -> Made {
    let ends = links::veth()?;
    Abi::on_a_link("xdp", ends)
}

suite!(demi_epoll, || sockets("epoll"));
suite!(demi_uring, || sockets("io_uring"));
suite!(demi_packet, packet);
suite!(demi_tap, taps);
suite!(demi_af_xdp, af_xdp);
