//! The behaviour suite through the C interface: over kernel sockets in both forms, and over AF_PACKET, TAP, AF_XDP, and DPDK's
//! rings, memif and virtio (from either side). And the suite of storage queues, over a file, and over one in the page cache that a thread writes to.

mod support;

use libos_conformance::{Made, Side, storage_suite, suite};
use support::logs::Seated;
use support::{Abi, links, ports};

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

fn ring() -> Made {
    Abi::on_ports(ports::ring()?)
}

fn memif() -> Made {
    Abi::on_ports(ports::memif()?)
}

fn virtio(user: Side) -> Made {
    Abi::on_ports(ports::virtio(user.0)?)
}

suite!(demi_epoll, || sockets("epoll"));
suite!(demi_uring, || sockets("io_uring"));
suite!(demi_packet, packet);
suite!(demi_tap, taps);
suite!(demi_af_xdp, af_xdp);
suite!(demi_ring, ring);
suite!(demi_memif, memif);
suite!(demi_virtio, || virtio(Side::SERVER));
suite!(demi_virtio_client, || virtio(Side::CLIENT));

storage_suite!(demi_logs, || Seated::on_a_file(&[]));
storage_suite!(demi_logs_by_a_thread, || Seated::on_a_file(&[
    ("MARGAY_STORAGE_ENGINE", "thread"),
    ("MARGAY_STORAGE_DIRECT", "false"),
]));
