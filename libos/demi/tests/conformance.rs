//! The behaviour suite through the C interface: over kernel sockets in both forms, and over AF_PACKET, TAP and AF_XDP; and
//! the suite of storage queues, over a file and over a file that is read through the page cache by a thread.

mod support;

use libos_conformance::{Made, storage_suite, suite};
use support::logs::Seated;
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

storage_suite!(demi_logs, || Seated::on_a_file(&[]));
storage_suite!(demi_logs_by_a_thread, || Seated::on_a_file(&[
    ("MARGAY_STORAGE_ENGINE", "thread"),
    ("MARGAY_STORAGE_DIRECT", "false"),
]));
