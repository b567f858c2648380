//! Benchmark programs: `margay-bench NAME`. Each prints its figures as lines `RESULT name value unit`, and `SKIP name:
//! reason` for what this machine cannot show.
//!
//! What is compared runs in turn, A B A B, and a figure is the median of its rounds. Servers are child processes on free
//! ports, which end with this program however it ends.

#![forbid(unsafe_code)]

mod child;
mod demi;
mod disk;
mod dpdk;
mod durable;
mod echo;
mod idle;
mod instructions;
mod kv;
mod redis;
mod spdk;
mod stack;
mod thresholds;
mod wire;

use std::process::ExitCode;

use anyhow::{Result, bail};
use instructions::Callgrind;
use margay_bench::{hop, journal, local, simulated};

/// Measures, and prints.
type Program = fn() -> Result<()>;

/// Everything that can be run, and what it says.
const PROGRAMS: [(&str, &str, Program); 19] = [
    ("alloc", "alloc and free: our heap, mimalloc, the system's", alloc),
    ("thresholds", "copying or referring: for push, keep and other cores", thresholds::run),
    ("coroutine", "a coroutine switch, beside an indirect call", coroutine),
    ("memory_queue", "push, pop and two waits on a memory queue", memory_queue),
    ("journal", "appends to a log, without a device", append),
    ("hop", "a message from core to core, beside cache lines", core_hop),
    ("echo", "TCP echo of 64 B, beside echoes in C", echo::run),
    ("kv", "GET and SET, beside redis-server", kv::run),
    ("kv_instructions", "user-space instructions per GET and SET, beside redis-server", instructions::kv),
    ("stack", "our network stack: pops and pushes of 64 B", stack::run),
    ("net", "our network stack over a veth pair, beside raw frames and the kernel (as root)", wire::run),
    ("durable", "SET with --durability always, beside redis-server; what a snapshot costs", durable::run),
    ("disk", "one log, records of 4 KiB, beside fio on such a file; on SPDK's devices", disk::run),
    ("demi", "64 B there and back through the C interface, beside the same in Rust", demi::run),
    (
        "dpdk",
        "our network stack over DPDK's ports beside raw frames, and (`dpdk kv`) kv beside redis-server",
        dpdk::run,
    ),
    ("dpdk_instructions", "instructions of an echo over DPDK's rings, server side", dpdk::instructions),
    ("simulator", "TCP packets and messages through the simulator", simulator),
    ("idle_connections", "memory of 10,000 idle connections", idle::connections),
    ("idle_cpu", "what an idle cache takes, and how fast it wakes", idle::cpu),
];

fn main() -> ExitCode {
    let words: Vec<String> = std::env::args().skip(1).collect();
    let words: Vec<&str> = words.iter().map(String::as_str).collect();
    match run(&words) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("margay-bench: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(words: &[&str]) -> Result<()> {
    match words {
        ["dpdk", "kv"] => dpdk::serves(),
        ["kernel", name, count] => instructions::kernel(name, count.parse()?),
        ["dpdk-end", which, role, device, mtu] => dpdk::end(which, role, device, mtu),
        ["all"] => PROGRAMS.iter().try_for_each(|(_, _, program)| program()),
        [name] if PROGRAMS.iter().any(|(known, ..)| known == name) => {
            PROGRAMS.iter().filter(|(known, ..)| known == name).try_for_each(|(_, _, program)| program())
        }
        _ => {
            let list: Vec<String> = PROGRAMS.iter().map(|(name, what, _)| format!("  {name:<18} {what}")).collect();
            bail!("say which, or `all`:\n{}", list.join("\n"))
        }
    }
}

/// Prints a figure.
pub fn result(name: &str, value: f64, unit: &str) {
    println!("RESULT {name} {value:.3} {unit}");
}

/// Says why there is none.
pub fn skip(name: &str, reason: &str) {
    println!("SKIP {name}: {reason}");
}

fn alloc() -> Result<()> {
    for size in [64, 1 << 10, 4 << 10, 64 << 10] {
        let (pair, burst) = local::alloc(size);
        result(&format!("alloc_{size}"), pair, "ns");
        result(&format!("alloc_burst_{size}"), burst, "ns");
        let (pair, burst) = local::global_alloc(size);
        result(&format!("alloc_{size}_system"), pair, "ns");
        result(&format!("alloc_burst_{size}_system"), burst, "ns");
    }
    print!("{}", child::output(&child::sibling("margay-bench-mimalloc")?, &[])?);
    Ok(())
}

fn coroutine() -> Result<()> {
    let figures = local::coroutine_switch();
    result("coroutine_switch", figures.switch, "ns");
    result("coroutine_wake", figures.wake, "ns");
    result("coroutine_yield", figures.yielded, "ns");
    result("indirect_call", figures.call, "ns");
    let Some(callgrind) = Callgrind::find()? else {
        skip("coroutine_switch_instructions", "valgrind is not installed");
        skip("indirect_call_instructions", "valgrind is not installed");
        return Ok(());
    };
    // A coroutine is woken before each switch: what that takes alone is taken off.
    let [both, wake, yielded, call] = ["switch", "wake", "yield", "call"].map(|kernel| callgrind.each(kernel));
    let wake = wake?;
    result("coroutine_switch_instructions", both? - wake, "instructions");
    result("coroutine_wake_instructions", wake, "instructions");
    result("coroutine_yield_instructions", yielded?, "instructions");
    result("indirect_call_instructions", call?, "instructions");
    Ok(())
}

fn memory_queue() -> Result<()> {
    result("memory_queue", local::memory_queue(), "ns");
    match Callgrind::find()? {
        Some(callgrind) => result("memory_queue_instructions", callgrind.each("memory_queue")?, "instructions"),
        None => skip("memory_queue_instructions", "valgrind is not installed"),
    }
    Ok(())
}

fn append() -> Result<()> {
    for len in [64, 1024, 4064] {
        let (append, push) = journal::append(len);
        result(&format!("journal_append_{len}"), append, "ns");
        result(&format!("journal_push_{len}"), push, "ns");
    }
    let (chase, pops) = journal::chase();
    result("journal_chase_8", chase, "us");
    result("journal_pops_8", pops, "us");
    match Callgrind::find()? {
        Some(callgrind) => result("journal_append_64_instructions", callgrind.each("journal_append")?, "instructions"),
        None => skip("journal_append_64_instructions", "valgrind is not installed"),
    }
    Ok(())
}

fn core_hop() -> Result<()> {
    match hop::hop() {
        Some((hop, half)) => {
            result("hop", hop, "ns");
            result("two_lines_half", half, "ns");
        }
        None => skip("hop", "there is one processor"),
    }
    Ok(())
}

fn simulator() -> Result<()> {
    result("simulator_tcp_packets", simulated::tcp_packets(), "packets/s");
    result("simulator_messages", simulated::messages(), "messages/s");
    Ok(())
}
