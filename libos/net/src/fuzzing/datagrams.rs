//! UDP, driven by events: calls of the contract, datagrams that arrive, vanish or are wrong, and errors about them.
//!
//! What holds is said in `host.rs`; besides, what is popped was sent by whom it is said to be from.

use std::net::IpAddr;

use pdpix::{Endpoint, Network, Op, Sga, SocketKind, SocketOption};
use zerocopy::IntoBytes;

use super::forge::{self, Header};
use super::host::{A, B, Pair, Setup, address, endpoint, mac};
use super::{Script, pause};
use crate::wire::{Protocol, UDP_LEN, UdpHeader};
use crate::{Offloads, TcpSettings};

const PORTS: [u16; 3] = [53, 69, 514];
/// Events of a script; what follows is not looked at.
const EVENTS_MAX: usize = 1000;

pub(super) fn run(bytes: &[u8]) {
    let mut script = Script::new(bytes);
    let with = script.byte();
    let setup = Setup {
        tcp: TcpSettings::default(),
        mtu: if with & 1 == 0 { 1500 } else { 1280 },
        offloads: Offloads { gathers: if with & 2 == 0 { 16 } else { 1 }, ..Offloads::NONE },
        room: if with & 4 == 0 { 64 } else { 1 },
        send_budget: if with & 8 == 0 { 1 << 20 } else { 2048 },
    };
    let mut pair = Pair::new(&setup);
    let mut sent: [Vec<Vec<u8>>; 2] = Default::default();
    for _ in 0..EVENTS_MAX {
        if script.is_over() {
            break;
        }
        event(&mut pair, &mut script, &mut sent);
        pair.step();
        compare(&mut pair, &sent);
    }
    pair.finish();
}

/// What was popped, with what was sent to whoever popped it.
fn compare(pair: &mut Pair, sent: &[Vec<Vec<u8>>; 2]) {
    for side in [A, B] {
        for popped in pair.hosts[side].datagrams.drain(..) {
            let bytes = popped.sga.to_vec();
            let is_of = |whole: &Vec<u8>| if popped.cut { whole.starts_with(&bytes) } else { *whole == bytes };
            // To itself, too.
            assert!(sent.iter().flatten().any(is_of), "a datagram of {bytes:02x?} that nobody sent");
        }
    }
}

fn event(pair: &mut Pair, script: &mut Script<'_>, sent: &mut [Vec<Vec<u8>>; 2]) {
    let (byte, what) = (script.byte(), script.byte());
    let side = usize::from(byte >> 7);
    let (is_v6, port) = (what & 0x80 != 0, PORTS[usize::from(what >> 4) % PORTS.len()]);
    let honest = pair.honest;
    let host = &mut pair.hosts[side];
    let index = host.chosen(what);
    match (byte & 0xf, index) {
        (0, _) => pair.now += pause(what),
        (1 | 2, _) => (0..=what % 8).for_each(|_| _ = pair.deliver(side)),
        (3, _) => _ = pair.wires[side].pop_front(),
        (4, _) => pair.set_room(side, if what & 1 == 0 { usize::MAX } else { usize::from(what >> 1) % 3 }),
        (5, _) => forge_datagram(pair, side, what, script, sent),
        (6, _) => forge_error(pair, side, what, script),
        (7, _) | (_, None) => {
            if let Some(h) = host.open(SocketKind::Datagram) {
                let any: IpAddr = if is_v6 { [0u16; 8].into() } else { [0u8; 4].into() };
                let at = if what & 1 != 0 { any } else { address(side, is_v6) };
                _ = host.net.bind(h, Endpoint::new(at, if what & 2 != 0 { 0 } else { port }));
            }
        }
        (8, Some(index)) => _ = host.submit(index, Op::Connect(endpoint(1 - side, is_v6, port)), honest),
        (9 | 10, Some(index)) => {
            let content = vec![what ^ byte; [1, 9, 500, 1452, 1453, 3000][usize::from(what >> 1) % 6]];
            let Ok(sga) = Sga::copy(&host.heap, &content) else { return };
            let to = endpoint(if what & 1 == 0 { 1 - side } else { side }, is_v6, port);
            sent[side].push(content);
            let what = if byte & 0x20 == 0 { Op::PushTo(sga, to) } else { Op::Push(sga) };
            host.submit(index, what, honest);
        }
        (11 | 12, Some(index)) => {
            _ = host.submit(index, Op::Pop { len_max: if what & 0x40 == 0 { usize::MAX } else { 5 } }, honest);
        }
        (13, _) => host.cancel(what),
        (14, Some(index)) => host.close(index),
        (_, Some(index)) => {
            let option = match what & 0x30 {
                0 => SocketOption::Shared(true),
                0x10 => SocketOption::SendBudget(1 << (8 + (what & 7))),
                _ => SocketOption::ReceiveBudget(1 << (8 + (what & 7))),
            };
            _ = host.net.set_option(host.queues[index].h, option);
        }
    }
}

/// A datagram to `to` from the other host, its length or its checksum wrong, perhaps.
fn forge_datagram(pair: &mut Pair, to: usize, what: u8, script: &mut Script<'_>, sent: &mut [Vec<Vec<u8>>; 2]) {
    let is_v6 = what & 0x80 != 0;
    let ip = Header::new(address(1 - to, is_v6), address(to, is_v6), Protocol::UDP);
    let data = script.string();
    let right = (UDP_LEN + data.len()) as u16;
    let len = if what & 1 == 0 { right } else { right.wrapping_sub(script.word()) };
    let header = UdpHeader {
        source: script.word().into(),
        destination: script.choose(&[PORTS[0], PORTS[1], PORTS[2], 0]).into(),
        len: len.into(),
        checksum: 0.into(),
    };
    let mut payload = [header.as_bytes(), data].concat();
    if what & 2 == 0 {
        forge::seal(&ip, &mut payload, 6);
    }
    // As much of it as its length says.
    if let Some(content) = payload.get(UDP_LEN..len.into()) {
        sent[1 - to].push(content.to_vec());
    }
    let frame = forge::ip(mac(to), mac(1 - to), ip, &payload);
    pair.honest = false;
    pair.arrive(to, &frame, what & 4 != 0);
}

/// An error about something that `to` has sent.
fn forge_error(pair: &mut Pair, to: usize, what: u8, script: &mut Script<'_>) {
    let Some(frame) = pair.seen[to].get(usize::from(what & 7)) else { return };
    let is_v6 = frame[12..14] == [0x86, 0xdd];
    let kind = match is_v6 {
        true => script.choose(&[(1, 4), (1, 0), (2, 0), (3, 0)]),
        false => script.choose(&[(3, 3), (3, 1), (3, 4), (11, 0)]),
    };
    let protocol = if is_v6 { Protocol::ICMPV6 } else { Protocol::ICMP };
    let header = Header::new(address(1 - to, is_v6), address(to, is_v6), protocol);
    let frame = forge::icmp_error(mac(to), mac(1 - to), header, kind, script.word().into(), forge::quoted(frame));
    pair.arrive(to, &frame, true);
}
