//! What the network stack takes by itself, for segments and datagrams of 64 B over 1,024 connections or sockets in turn.

use anyhow::Result;
use margay_bench::stack::{self, Checksums};
use pdpix::SocketKind;

use crate::instructions::Callgrind;
use crate::{result, skip};

/// The function of the runtime that gets from frames to runnable coroutines.
const FRAMES_TO_COROUTINES: &str = "poll_devices*";

/// What is counted in instructions: its name, its kernel, and the function in which it happens.
const COUNTED: [(&str, &str, &str); 7] = [
    ("net_tcp_pop", "tcp_pop", FRAMES_TO_COROUTINES),
    ("net_tcp_pop_summed", "summed_pop", FRAMES_TO_COROUTINES),
    ("net_udp_pop", "udp_pop", FRAMES_TO_COROUTINES),
    ("net_tcp_push", "tcp_push", "stack::measured"),
    ("net_tcp_push_summed", "summed_push", "stack::measured"),
    ("net_udp_push", "udp_push", "stack::measured"),
    ("net_tcp_ack", "tcp_push", "stack::acknowledged"),
];

pub fn run() -> Result<()> {
    let (tcp, udp) = (SocketKind::Stream, SocketKind::Datagram);
    result("net_tcp_pop", stack::pop(tcp, Checksums::Device), "ns");
    result("net_tcp_pop_summed", stack::pop(tcp, Checksums::Software), "ns");
    result("net_udp_pop", stack::pop(udp, Checksums::Device), "ns");
    let pushed = stack::push(tcp, Checksums::Device);
    result("net_tcp_push", pushed.push, "ns");
    result("net_tcp_push_summed", stack::push(tcp, Checksums::Software).push, "ns");
    result("net_udp_push", stack::push(udp, Checksums::Device).push, "ns");
    result("net_tcp_ack", pushed.ack, "ns");
    let callgrind = Callgrind::find()?;
    for (name, kernel, function) in COUNTED {
        let name = format!("{name}_instructions");
        match &callgrind {
            Some(callgrind) => result(&name, callgrind.each_inside(function, kernel)?, "instructions"),
            None => skip(&name, "valgrind is not installed"),
        }
    }
    Ok(())
}
