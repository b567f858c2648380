//! The rows of the table in docs/benchmarks.md: what is measured, what stands beside it, and what it is to reach.
//!
//! The programs are in tools/bench, a subcommand each. What they measure together they measure in turn, so the floor and
//! the peer of a row are of the same minutes.

use super::Benchmark;
use super::Target::{self, AtLeast, AtLeastPeer, AtMost, AtMostPeer, BeyondFloor, Shown, TimesFloor};

/// A row with neither floor nor peer, that is only shown.
const fn row(
    name: &'static str,
    what: &'static str,
    unit: &'static str,
    command: &'static [&'static str],
) -> Benchmark {
    Benchmark { name, what, unit, floor: None, peer: None, target: Shown, command }
}

/// A program of tools/bench.
macro_rules! program {
    ($name:literal) => {
        &["cargo", "run", "--quiet", "--release", "--package", "margay-bench", "--bin", "margay-bench", "--", $name]
    };
}

const COROUTINE: &[&str] = program!("coroutine");
const MEMORY_QUEUE: &[&str] = program!("memory_queue");
const HOP: &[&str] = program!("hop");
const ALLOC: &[&str] = program!("alloc");
const THRESHOLDS: &[&str] = program!("thresholds");
const ECHO: &[&str] = program!("echo");
const KV: &[&str] = program!("kv");
const KV_INSTRUCTIONS: &[&str] = program!("kv_instructions");
const IDLE_CONNECTIONS: &[&str] = program!("idle_connections");
const IDLE_CPU: &[&str] = program!("idle_cpu");
const SIMULATOR: &[&str] = program!("simulator");
const STACK: &[&str] = program!("stack");
const DEMI: &[&str] = program!("demi");
const NET: &[&str] = program!("net");
const DISK: &[&str] = program!("disk");
const DURABLE: &[&str] = program!("durable");

/// All of them, in the order of the table.
pub const BENCHMARKS: &[Benchmark] = &[
    Benchmark {
        floor: Some("indirect_call"),
        target: BeyondFloor(6.0),
        ..row("coroutine_switch", "coroutine switch, beside an indirect call", "ns", COROUTINE)
    },
    Benchmark {
        floor: Some("indirect_call_instructions"),
        target: BeyondFloor(25.0),
        ..row("coroutine_switch_instructions", "the same in instructions", "instructions", COROUTINE)
    },
    row("coroutine_wake", "making a coroutine runnable", "ns", COROUTINE),
    row("coroutine_yield", "both, by `yield_now`", "ns", COROUTINE),
    Benchmark {
        target: AtMost(60.0),
        ..row("memory_queue", "push, pop and two waits on a memory queue", "ns", MEMORY_QUEUE)
    },
    row("memory_queue_instructions", "the same in instructions", "instructions", MEMORY_QUEUE),
    Benchmark {
        floor: Some("two_lines_half"),
        target: TimesFloor(1.5),
        ..row("hop", "core to core, one hop, beside half a round trip of two cache lines", "ns", HOP)
    },
    alloc("alloc_64", "alloc and free of 64 B, beside mimalloc", "alloc_64_mimalloc"),
    alloc("alloc_1024", "of 1 KiB", "alloc_1024_mimalloc"),
    alloc("alloc_4096", "of 4 KiB", "alloc_4096_mimalloc"),
    alloc("alloc_65536", "of 64 KiB", "alloc_65536_mimalloc"),
    beside("alloc_burst_64", "64 at a time of 64 B, each, beside the system's", "alloc_burst_64_system"),
    beside("alloc_burst_4096", "64 at a time of 4 KiB, each, beside the system's", "alloc_burst_4096_system"),
    row("threshold_push", "copying is cheaper up to: push into a kernel socket", "B", THRESHOLDS),
    row("threshold_frame", "a frame in memory", "B", THRESHOLDS),
    row("threshold_keep", "`keep` (at most twice the smallest copy)", "B", THRESHOLDS),
    row("threshold_cross_core", "to another core", "B", THRESHOLDS),
    echo_spin("echo_spin_epoll", "TCP echo of 64 B, spin, epoll, beside a polling echo in C"),
    echo_spin("echo_spin_io_uring", "the same with io_uring"),
    echo_adaptive("echo_adaptive_epoll", "TCP echo of 64 B, adaptive, epoll, beside an epoll echo in C"),
    echo_adaptive("echo_adaptive_io_uring", "the same with io_uring"),
    kv("kv_get_p1_epoll", "kv GET at pipeline 1, epoll, beside Redis", "kv_get_p1_redis", 1.3),
    kv("kv_get_p1_io_uring", "the same with io_uring", "kv_get_p1_redis", 1.3),
    kv("kv_set_p1_epoll", "SET at pipeline 1, epoll", "kv_set_p1_redis", 1.3),
    kv("kv_set_p1_io_uring", "the same with io_uring", "kv_set_p1_redis", 1.3),
    kv("kv_get_p16_epoll", "GET at pipeline 16, epoll", "kv_get_p16_redis", 2.0),
    kv("kv_get_p16_io_uring", "the same with io_uring", "kv_get_p16_redis", 2.0),
    kv("kv_set_p16_epoll", "SET at pipeline 16, epoll", "kv_set_p16_redis", 2.0),
    kv("kv_set_p16_io_uring", "the same with io_uring", "kv_set_p16_redis", 2.0),
    kv("kv_get_p64_epoll", "GET at pipeline 64, epoll", "kv_get_p64_redis", 2.0),
    kv("kv_get_p64_io_uring", "the same with io_uring", "kv_get_p64_redis", 2.0),
    kv("kv_set_p64_epoll", "SET at pipeline 64, epoll", "kv_set_p64_redis", 2.0),
    kv("kv_set_p64_io_uring", "the same with io_uring", "kv_set_p64_redis", 2.0),
    kv_cpu("kv_get_p1_epoll_cpu", "processor time of the server, GET at pipeline 1, epoll", "kv_get_p1_redis_cpu"),
    kv_cpu("kv_set_p1_epoll_cpu", "SET at pipeline 1, epoll", "kv_set_p1_redis_cpu"),
    kv_cpu("kv_get_p16_epoll_cpu", "GET at pipeline 16, epoll", "kv_get_p16_redis_cpu"),
    kv_cpu("kv_set_p16_epoll_cpu", "SET at pipeline 16, epoll", "kv_set_p16_redis_cpu"),
    kv_cpu("kv_get_p64_epoll_cpu", "GET at pipeline 64, epoll", "kv_get_p64_redis_cpu"),
    kv_cpu("kv_set_p64_epoll_cpu", "SET at pipeline 64, epoll", "kv_set_p64_redis_cpu"),
    kv_p50("kv_get_p1_epoll_p50", "p50, GET at pipeline 1, epoll", "kv_get_p1_redis_p50"),
    kv_p50("kv_get_p16_epoll_p50", "GET at pipeline 16, epoll", "kv_get_p16_redis_p50"),
    kv_p50("kv_get_p64_epoll_p50", "GET at pipeline 64, epoll", "kv_get_p64_redis_p50"),
    row("kv_get_p1_epoll_client_cpu", "how busy the client was, GET at pipeline 1", "%", KV),
    row("kv_get_p16_epoll_client_cpu", "at pipeline 16", "%", KV),
    row("kv_get_p64_epoll_client_cpu", "at pipeline 64", "%", KV),
    two_cores("kv_get_p16_epoll_2cores", "two cores, GET at pipeline 16, epoll, beside one", "kv_get_p16_epoll"),
    two_cores("kv_get_p64_epoll_2cores", "at pipeline 64", "kv_get_p64_epoll"),
    kv_instructions(
        "kv_instructions_get_p1_ours",
        "instructions per GET at pipeline 1",
        "kv_instructions_get_p1_redis",
    ),
    kv_instructions("kv_instructions_set_p1_ours", "per SET", "kv_instructions_set_p1_redis"),
    kv_instructions("kv_instructions_get_p16_ours", "per GET at pipeline 16", "kv_instructions_get_p16_redis"),
    kv_instructions("kv_instructions_set_p16_ours", "per SET at pipeline 16", "kv_instructions_set_p16_redis"),
    Benchmark {
        peer: Some("idle_connection_rss_redis"),
        target: AtMost(4096.0),
        ..row("idle_connection_rss", "memory of an idle connection, of 10,000", "B", IDLE_CONNECTIONS)
    },
    Benchmark {
        peer: Some("idle_cpu_redis"),
        target: AtMost(2.0),
        ..row("idle_cpu_epoll", "processor time of an idle cache, epoll", "%", IDLE_CPU)
    },
    Benchmark {
        peer: Some("idle_cpu_redis"),
        target: AtMost(2.0),
        ..row("idle_cpu_io_uring", "the same with io_uring", "%", IDLE_CPU)
    },
    Benchmark {
        peer: Some("idle_wake_redis"),
        target: AtMost(100.0),
        ..row("idle_wake_epoll", "round trip of a request that wakes it, p50, epoll", "us", IDLE_CPU)
    },
    Benchmark {
        peer: Some("idle_wake_redis"),
        target: AtMost(100.0),
        ..row("idle_wake_io_uring", "the same with io_uring", "us", IDLE_CPU)
    },
    stack("net_tcp_pop", "in-order TCP segment, from the frame to a runnable coroutine", "ns", AtMost(53.0)),
    stack("net_tcp_pop_instructions", "the same in instructions", "instructions", AtMost(250.0)),
    stack("net_tcp_pop_summed", "with the checksum in software", "ns", Shown),
    stack("net_tcp_pop_summed_instructions", "the same in instructions", "instructions", Shown),
    stack("net_udp_pop", "datagram, from the frame to a runnable coroutine", "ns", AtMost(60.0)),
    stack("net_udp_pop_instructions", "the same in instructions", "instructions", Shown),
    stack("net_tcp_push", "push of a segment, to the frame in the device's queue", "ns", AtMost(75.0)),
    stack("net_tcp_push_instructions", "the same in instructions", "instructions", Shown),
    stack("net_tcp_push_summed", "with the checksum in software", "ns", Shown),
    stack("net_tcp_push_summed_instructions", "the same in instructions", "instructions", Shown),
    stack("net_udp_push", "push of a datagram", "ns", AtMost(60.0)),
    stack("net_udp_push_instructions", "the same in instructions", "instructions", Shown),
    stack("net_tcp_ack", "taking in an acknowledgement", "ns", Shown),
    stack("net_tcp_ack_instructions", "the same in instructions", "instructions", Shown),
    over_wire(
        "net_echo_udp_xsk",
        "UDP echo of 64 B, ours to ours over AF_XDP, beside raw frames",
        "net_echo_raw_xsk",
        1.3,
    ),
    through_c("demi_tcp_c", "64 B there and back through the C interface, kernel TCP over epoll", "demi_tcp_rust"),
    through_c("demi_udp_c", "the same with kernel UDP", "demi_udp_rust"),
    through_c(
        "demi_dpdk_tcp_c",
        "echo of 64 B over DPDK's rings through the C interface, server side, TCP",
        "demi_dpdk_tcp_rust",
    ),
    through_c("demi_dpdk_udp_c", "the same with UDP", "demi_dpdk_udp_rust"),
    over_wire("net_echo_tcp_xsk", "TCP echo of 64 B", "net_echo_raw_xsk", 1.5),
    Benchmark {
        peer: Some("net_echo_tcp_kernel"),
        target: AtMostPeer(1.0 / 1.8),
        ..row("net_echo_tcp_xsk_again", "the same, beside a spinning kernel TCP over the same veth", "us", NET)
    },
    over_wire(
        "net_echo_udp_xsk_to_kernel",
        "UDP echo, ours to a spinning kernel socket, beside raw frames to it",
        "net_echo_raw_xsk_to_kernel",
        1.15,
    ),
    stream(
        "net_stream_xsk_to_kernel",
        "one stream over AF_XDP, ours to the kernel, beside kernel to kernel without TSO",
    ),
    stream("net_stream_kernel_to_xsk", "the kernel to ours"),
    stream("net_stream_packet_to_kernel", "over AF_PACKET, ours to the kernel"),
    stream("net_stream_kernel_to_packet", "the kernel to ours"),
    stream("net_stream_packet_offload_to_kernel", "over AF_PACKET with `offload`, ours to the kernel"),
    stream("net_stream_kernel_to_packet_offload", "the kernel to ours"),
    Benchmark {
        peer: Some("net_stream_kernel_to_xsk"),
        ..row(
            "net_stream_kernel_to_xsk_always_64",
            "over AF_XDP, with bursts of 64 always, beside adaptive",
            "Gbit/s",
            NET,
        )
    },
    Benchmark { peer: Some("net_stream_kernel"), ..row("net_stream_xsk", "ours to ours over AF_XDP", "Gbit/s", NET) },
    lossy(
        "net_lossy_to_kernel",
        "one stream at 100 Mbit/s, 10 ms and 1 % loss, ours to the kernel, beside Linux CUBIC",
    ),
    lossy("net_lossy_from_kernel", "the same, the kernel to ours"),
    lossy("simulator_lossy", "the same in the simulator, ours to ours"),
    Benchmark {
        target: AtLeast(200_000.0),
        ..row("simulator_tcp_packets", "TCP packets of our stack through the simulator", "packets/s", SIMULATOR)
    },
    Benchmark {
        target: AtLeast(1_000_000.0),
        ..row("simulator_messages", "messages of 64 B directly at the contract through it", "messages/s", SIMULATOR)
    },
    Benchmark { target: AtMost(150.0), ..row("log_append_memory_64", "append of 64 B, no device", "ns", DISK) },
    log(
        "log_depth_32_rate",
        "one log, records of 4 KiB, 32 under way, beside fio with fdatasync",
        "log_fio_depth_32",
        0.9,
    ),
    log("log_depth_32_dsync_rate", "the same with RWF_DSYNC", "log_fio_depth_32_dsync", 0.9),
    log("log_depth_1_rate", "one under way", "log_fio_depth_1", 1.0 / 1.1),
    log("log_depth_1_dsync_rate", "the same with RWF_DSYNC", "log_fio_depth_1_dsync", 1.0 / 1.1),
    row("log_depth_32_p50", "from push to durable, p50, 32 under way", "us", DISK),
    row("log_depth_1_p50", "one under way", "us", DISK),
    log_read("log_recovery", "recovery of a log of 256 MiB, beside fio's reads"),
    log_read("log_read", "its records by pops"),
    Benchmark {
        peer: Some("log_pops_8"),
        ..row("log_chase_8", "eight dependent reads by one chase, beside seeks and pops", "us", DISK)
    },
    row("log_spdk_malloc_depth_32_rate", "a log on memory of SPDK's block layer, 32 under way", "records/s", DISK),
    row("log_spdk_malloc_depth_1_p50", "one under way, from push to durable, p50", "us", DISK),
    Benchmark {
        peer: Some("log_spdk_perf_depth_32"),
        ..row("log_spdk_tcp_depth_32_rate", "over NVMe/TCP on loopback, beside spdk_nvme_perf", "records/s", DISK)
    },
    Benchmark {
        peer: Some("log_spdk_perf_depth_1"),
        ..row("log_spdk_tcp_depth_1_rate", "one under way", "records/s", DISK)
    },
    durable(
        "durable_always_set_p1",
        "kv SET, every write durable, pipeline 1, beside Redis",
        "durable_redis_set_p1",
        1.3,
    ),
    durable("durable_always_set_p16", "at pipeline 16", "durable_redis_set_p16", 2.0),
    Benchmark {
        peer: Some("durable_redis_set_p1_p50"),
        target: AtMostPeer(1.0),
        ..row("durable_always_set_p1_p50", "its p50, pipeline 1", "us", DURABLE)
    },
    Benchmark {
        peer: Some("durable_redis_set_p16_p50"),
        target: AtMostPeer(1.0),
        ..row("durable_always_set_p16_p50", "at pipeline 16", "us", DURABLE)
    },
    Benchmark {
        peer: Some("durable_none_set_p16_cpu"),
        target: AtMostPeer(1.05),
        ..row("durable_everysec_set_p16_cpu", "processor time of SET, `everysec` beside `none`", "ns/op", DURABLE)
    },
    Benchmark {
        peer: Some("durable_p50_quiet"),
        target: AtMostPeer(1.2),
        ..row("durable_p50_saving", "p50 while a snapshot of 1 GiB is written, beside without", "us", DURABLE)
    },
    Benchmark { peer: Some("durable_p99_quiet"), ..row("durable_p99_saving", "the p99", "us", DURABLE) },
];

const fn log(name: &'static str, what: &'static str, peer: &'static str, times: f64) -> Benchmark {
    Benchmark { peer: Some(peer), target: AtLeastPeer(times), ..row(name, what, "records/s", DISK) }
}

const fn log_read(name: &'static str, what: &'static str) -> Benchmark {
    Benchmark { peer: Some("log_fio_read"), target: AtLeastPeer(0.8), ..row(name, what, "MB/s", DISK) }
}

const fn durable(name: &'static str, what: &'static str, peer: &'static str, times: f64) -> Benchmark {
    Benchmark { peer: Some(peer), target: AtLeastPeer(times), ..row(name, what, "ops/s", DURABLE) }
}

const fn lossy(name: &'static str, what: &'static str) -> Benchmark {
    Benchmark { peer: Some("net_lossy_kernel"), target: AtLeastPeer(1.0), ..row(name, what, "Mbit/s", NET) }
}

const fn alloc(name: &'static str, what: &'static str, peer: &'static str) -> Benchmark {
    Benchmark { target: AtMost(10.0), ..beside(name, what, peer) }
}

const fn beside(name: &'static str, what: &'static str, peer: &'static str) -> Benchmark {
    Benchmark { peer: Some(peer), ..row(name, what, "ns", ALLOC) }
}

const fn echo_spin(name: &'static str, what: &'static str) -> Benchmark {
    Benchmark { floor: Some("echo_c_busy"), target: TimesFloor(1.15), ..row(name, what, "us", ECHO) }
}

const fn echo_adaptive(name: &'static str, what: &'static str) -> Benchmark {
    Benchmark { peer: Some("echo_c_epoll"), target: AtMostPeer(1.0), ..row(name, what, "us", ECHO) }
}

const fn kv(name: &'static str, what: &'static str, peer: &'static str, times: f64) -> Benchmark {
    Benchmark { peer: Some(peer), target: AtLeastPeer(times), ..row(name, what, "ops/s", KV) }
}

const fn kv_cpu(name: &'static str, what: &'static str, peer: &'static str) -> Benchmark {
    Benchmark { peer: Some(peer), ..row(name, what, "ns/op", KV) }
}

const fn kv_p50(name: &'static str, what: &'static str, peer: &'static str) -> Benchmark {
    Benchmark { peer: Some(peer), ..row(name, what, "us", KV) }
}

const fn stack(name: &'static str, what: &'static str, unit: &'static str, target: Target) -> Benchmark {
    Benchmark { target, ..row(name, what, unit, STACK) }
}

const fn through_c(name: &'static str, what: &'static str, peer: &'static str) -> Benchmark {
    Benchmark { peer: Some(peer), target: AtMostPeer(1.05), ..row(name, what, "instructions", DEMI) }
}

const fn over_wire(name: &'static str, what: &'static str, floor: &'static str, times: f64) -> Benchmark {
    Benchmark { floor: Some(floor), target: TimesFloor(times), ..row(name, what, "us", NET) }
}

const fn stream(name: &'static str, what: &'static str) -> Benchmark {
    Benchmark { peer: Some("net_stream_kernel"), target: AtLeastPeer(1.0), ..row(name, what, "Gbit/s", NET) }
}

/// COST: beside the best of one core.
const fn two_cores(name: &'static str, what: &'static str, one: &'static str) -> Benchmark {
    Benchmark { peer: Some(one), ..row(name, what, "ops/s", KV) }
}

const fn kv_instructions(name: &'static str, what: &'static str, peer: &'static str) -> Benchmark {
    Benchmark { peer: Some(peer), target: AtMostPeer(1.0 / 3.0), ..row(name, what, "instructions", KV_INSTRUCTIONS) }
}
