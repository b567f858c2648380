//! The machine of TCP, driven by events: calls of the contract, frames that arrive, vanish, overtake or come twice, segments
//! and errors forged near a connection's variables, and time.
//!
//! What holds is said in `host.rs`.

use std::net::IpAddr;
use std::time::Duration;

use pdpix::{Endpoint, Network, Op, SocketKind, SocketOption};
use zerocopy::byteorder::network_endian::{U16, U32};
use zerocopy::{FromBytes, IntoBytes};

use super::forge::{self, Header};
use super::host::{Pair, Setup, address, endpoint, mac};
use super::{Script, pause};
use crate::wire::{
    ETHERNET_LEN, Flags, IPV4_LEN, IPV6_LEN, Ipv4Header, Ipv6Header, Protocol, TCP_LEN, TcpHeader, TcpOptions,
    Timestamps,
};
use crate::{CongestionKind, Offloads, TcpSettings};

/// Where somebody may listen.
const PORTS: [u16; 2] = [7, 9];
/// Events of a script; what follows is not looked at.
const EVENTS_MAX: usize = 1000;
/// What a number is wrong by.
const OFF_BY: [i64; 20] = [
    0,
    0,
    0,
    0,
    1,
    -1,
    2,
    -10,
    100,
    -536,
    1448,
    -1448,
    14_480,
    -14_480,
    0xffff,
    -0xffff,
    1 << 20,
    1 << 30,
    (1 << 31) - 1,
    1 << 31,
];

pub(super) fn run(bytes: &[u8]) {
    play(bytes).finish();
}

fn play(bytes: &[u8]) -> Pair {
    let mut script = Script::new(bytes);
    let mut pair = Pair::new(&setup(&mut script));
    for _ in 0..EVENTS_MAX {
        if script.is_over() {
            break;
        }
        event(&mut pair, &mut script);
        pair.step();
    }
    pair
}

fn setup(script: &mut Script<'_>) -> Setup {
    let (with, sizes) = (script.byte(), script.byte());
    let offers = |bit: u8| with & bit == 0;
    let kinds = [CongestionKind::Cubic, CongestionKind::NewReno, CongestionKind::Dctcp, CongestionKind::Cubic];
    let tcp = TcpSettings {
        sack: offers(1),
        timestamps: offers(2),
        window_scaling: offers(4),
        ecn: !offers(8),
        congestion: kinds[usize::from(with >> 4 & 3)],
        embryos_max: if offers(0x40) { 8 } else { 1 },
        receive_budget: if sizes & 1 == 0 { 64 << 10 } else { 4 << 10 },
        receive_budget_max: if sizes & 2 == 0 { 1 << 20 } else { 64 << 10 },
        syn_retries: 3,
        retries: if sizes & 4 == 0 { 15 } else { 3 },
        time_waits_max: 2,
        connections_max: 16,
        ..TcpSettings::default()
    };
    let mtu = [1500, 1280, 9000, 1500][usize::from(sizes >> 3 & 3)];
    let offloads = match sizes >> 5 & 3 {
        0 => Offloads { gathers: 16, ..Offloads::NONE },
        1 => Offloads::NONE,
        2 => Offloads { checksums: true, gathers: 16, ..Offloads::NONE },
        _ => Offloads { checksums: true, segments: Some(32 << 10), gathers: 16, ..Offloads::NONE },
    };
    let send_budget = if sizes & 0x80 == 0 { 1 << 20 } else { 4096 };
    Setup { tcp, mtu, offloads, room: if offers(0x80) { 64 } else { 1 }, send_budget }
}

fn event(pair: &mut Pair, script: &mut Script<'_>) {
    let (byte, what) = (script.byte(), script.byte());
    let side = usize::from(byte >> 7);
    match byte & 0x1f {
        0 => pair.now += pause(what),
        1 => pair.pass(pause(what)),
        2..8 => (0..=what % 16).for_each(|_| _ = pair.deliver(side)),
        8 => (0..=what % 4).for_each(|_| _ = pair.wires[side].pop_front()),
        9 => overtake(pair, side, what),
        10 => pair.set_room(side, if what & 1 == 0 { usize::MAX } else { usize::from(what >> 1) % 4 }),
        11 => corrupt(pair, side, what, script),
        12..16 => forge_segment(pair, side, what, script),
        16 => forge_error(pair, side, what, script),
        _ => call(pair, side, byte & 0x1f, what),
    }
}

/// The first frame becomes the last, or comes twice.
fn overtake(pair: &mut Pair, side: usize, what: u8) {
    let wire = &mut pair.wires[side];
    let Some(frame) = wire.pop_front() else { return };
    if what & 1 != 0 {
        wire.push_front(frame.clone());
    }
    wire.insert((usize::from(what >> 1) + 1).min(wire.len()), frame);
}

/// Whoever checks sums sees it. (Several wrong bits may add up, so what follows is not believed.)
fn corrupt(pair: &mut Pair, side: usize, what: u8, script: &mut Script<'_>) {
    if let Some(frame) = pair.wires[side].front_mut()
        && !frame.is_empty()
    {
        let place = usize::from(what) % frame.len();
        frame[place] ^= script.byte() | 1;
        pair.honest = false;
    }
}

fn call(pair: &mut Pair, side: usize, which: u8, what: u8) {
    let (honest, is_v6, port) = (pair.honest, what & 2 != 0, PORTS[usize::from(what & 1)]);
    let host = &mut pair.hosts[side];
    let Some(index) = host.chosen(what) else {
        // Something to begin with.
        return if which & 1 == 0 { listen(pair, side, what) } else { connect(pair, side, what) };
    };
    match which {
        17 | 18 => connect(pair, side, what),
        19 => listen(pair, side, what),
        20 => _ = host.submit(index, Op::Accept, honest),
        21 | 22 => {
            let len = [1, 10, 100, 1000, 1448, 3000, 8000, 20_000][usize::from(what >> 5)];
            host.push(index, len, honest);
        }
        23 | 24 => {
            let len_max = [usize::MAX, 1, 100, 5000][usize::from(what >> 6)];
            host.submit(index, Op::Pop { len_max }, honest);
        }
        25 => _ = host.net.finish(host.queues[index].h),
        26 | 27 => host.close(index),
        28 => host.cancel(what),
        29 | 30 => {
            let option = match what >> 4 {
                0 | 1 => SocketOption::NoDelay(what & 0x10 != 0),
                2 | 3 => SocketOption::KeepAlive((what & 0x10 != 0).then_some(Duration::from_secs(10))),
                4..7 => SocketOption::Linger(pause(what)),
                7..11 => SocketOption::ReceiveBudget(1 << (8 + (what & 15))),
                11..15 => SocketOption::SendBudget(1 << (8 + (what & 15))),
                _ => SocketOption::Shared(true),
            };
            _ = host.net.set_option(host.queues[index].h, option);
        }
        // On whatever queue: mostly refused.
        _ => {
            host.submit(index, Op::Connect(endpoint(1 - side, is_v6, port)), honest);
        }
    }
}

/// A new queue that listens.
fn listen(pair: &mut Pair, side: usize, what: u8) {
    let host = &mut pair.hosts[side];
    let Some(h) = host.open(SocketKind::Stream) else { return };
    let any: IpAddr = if what & 2 != 0 { [0u16; 8].into() } else { [0u8; 4].into() };
    if host.net.bind(h, Endpoint::new(any, PORTS[usize::from(what & 1)])).is_ok() {
        _ = host.net.listen(h, u32::from(what >> 2 & 3));
    }
}

/// A new queue that connects: to the other host, or to its own.
fn connect(pair: &mut Pair, side: usize, what: u8) {
    let (honest, is_v6, port) = (pair.honest, what & 2 != 0, PORTS[usize::from(what & 1)]);
    let to = if what & 0xc0 == 0xc0 { side } else { 1 - side };
    let host = &mut pair.hosts[side];
    let Some(h) = host.open(SocketKind::Stream) else { return };
    if what & 4 != 0 {
        // From a port of its own: both ends may open at the same time, or one connection may follow another.
        _ = host.net.bind(h, endpoint(side, is_v6, port));
    }
    let last = host.queues.len() - 1;
    host.submit(last, Op::Connect(endpoint(to, is_v6, port)), honest);
}

/// What a frame of ours with a segment in it says.
struct Seen {
    is_v6: bool,
    header: TcpHeader,
    options: TcpOptions,
    /// SEG.LEN.
    len: u32,
}

fn segment(frame: &[u8]) -> Option<Seen> {
    let packet = frame.get(ETHERNET_LEN..)?;
    let is_v6 = frame[12..14] == [0x86, 0xdd];
    let (protocol, head_len) = match is_v6 {
        true => (Ipv6Header::ref_from_prefix(packet).ok()?.0.next_header, IPV6_LEN),
        false => (Ipv4Header::ref_from_prefix(packet).ok()?.0.protocol, IPV4_LEN),
    };
    if protocol != Protocol::TCP {
        return None;
    }
    let bytes = packet.get(head_len..)?;
    let (header, rest) = TcpHeader::ref_from_prefix(bytes).ok()?;
    let options_len = header.header_len().checked_sub(TCP_LEN)?;
    let options = TcpOptions::parse(rest.get(..options_len)?)?;
    let marks = header.flags.has(Flags::SYN) as u32 + header.flags.has(Flags::FIN) as u32;
    Some(Seen { is_v6, header: *header, options, len: (rest.len() - options_len) as u32 + marks })
}

fn off(number: u32, script: &mut Script<'_>) -> u32 {
    number.wrapping_add(script.choose(&OFF_BY) as u32)
}

/// A segment to `to`, as an answer to one that it sent, or nearly.
fn forge_segment(pair: &mut Pair, to: usize, what: u8, script: &mut Script<'_>) {
    let all: Vec<Seen> = pair.seen[to].iter().filter_map(|frame| segment(frame)).collect();
    if all.is_empty() {
        return;
    }
    let base = &all[usize::from(what & 7) % all.len()];
    let flags = script.choose(&[
        Flags::ACK,
        Flags::ACK.with(Flags::PSH),
        Flags::SYN.with(Flags::ACK),
        Flags::FIN.with(Flags::ACK),
        Flags::RST,
        Flags::RST.with(Flags::ACK),
        Flags::SYN,
        Flags::ACK.with(Flags::ECE),
        Flags::ACK.with(Flags::CWR),
        Flags(0),
        Flags(0xff),
        Flags::ACK.with(Flags::URG),
    ]);
    let ours = base.header.sequence.get().wrapping_add(base.len);
    let theirs = base.header.acknowledgment.get();
    let mut header = TcpHeader {
        source: base.header.destination,
        destination: base.header.source,
        sequence: U32::new(off(theirs, script)),
        acknowledgment: U32::new(off(ours, script)),
        data_offset: 0,
        flags,
        window: U16::new(script.choose(&[0xffff, 0, 1, 100, 1448, 0x4000, 0x8000, 64])),
        checksum: U16::ZERO,
        urgent: U16::ZERO,
    };
    let how = script.byte();
    let mut options = TcpOptions::default();
    if let Some(stamps) = base.options.timestamps {
        let (value, echo) = (stamps.echo, stamps.value);
        options.timestamps = match how & 3 {
            0 | 1 => Some(Timestamps { value, echo }),
            2 => Some(Timestamps { value: off(value, script), echo: off(echo, script) }),
            _ => None,
        };
    }
    for _ in 0..how >> 2 & 3 {
        let left = off(base.header.sequence.get(), script);
        options.sack.push((left, off(left, script)));
    }
    if flags.has(Flags::SYN) {
        options.mss = (how & 0x10 != 0).then(|| script.word());
        options.window_scale = (how & 0x20 != 0).then(|| script.byte());
        options.sack_permitted = how & 0x40 != 0;
    }
    // At most 12 and 28 bytes, or 12 and 12: they fit. Wrong ones are another target's, but for these.
    let mut written = [0; 80];
    let written_len = options.write(&mut written).min(40);
    header.data_offset = ((TCP_LEN + written_len) as u8 / 4) << 4;
    if how & 0x80 != 0 && what & 8 != 0 {
        header.data_offset = script.byte();
    }
    let text_len = [0, 0, 1, 5, 536, 1400, 1448, 1000][usize::from(what >> 4 & 7)];
    let mut ip = Header::new(address(1 - to, base.is_v6), address(to, base.is_v6), Protocol::TCP);
    ip.traffic_class = if what & 0x80 != 0 { script.byte() & 3 } else { 0 };
    let payload = [header.as_bytes(), &written[..written_len], &vec![0x5a; text_len]].concat();
    let frame = forge::ip(mac(to), mac(1 - to), ip, &payload);
    pair.honest = false;
    pair.arrive(to, &frame, true);
}

/// An error about something that `to` has sent.
fn forge_error(pair: &mut Pair, to: usize, what: u8, script: &mut Script<'_>) {
    let Some(frame) = pair.seen[to].get(usize::from(what & 7)) else { return };
    let is_v6 = frame[12..14] == [0x86, 0xdd];
    let kind = match is_v6 {
        true => script.choose(&[(1, 0), (1, 4), (2, 0), (3, 0), (4, 0), (1, 1)]),
        false => script.choose(&[(3, 0), (3, 1), (3, 3), (3, 4), (11, 0), (12, 0)]),
    };
    let protocol = if is_v6 { Protocol::ICMPV6 } else { Protocol::ICMP };
    let header = Header::new(address(1 - to, is_v6), address(to, is_v6), protocol);
    let word = u32::from(script.word());
    let mut quote = forge::quoted(frame).to_vec();
    if what & 8 != 0
        && let Some(byte) = quote.get_mut(usize::from(script.byte()))
    {
        *byte ^= script.byte();
    }
    let frame = forge::icmp_error(mac(to), mac(1 - to), header, kind, word, &quote);
    pair.honest = false;
    pair.arrive(to, &frame, true);
}

#[cfg(test)]
mod tests {
    use super::super::host::{A, B};
    use super::*;

    const B_SIDE: u8 = 0x80;
    const CARRY: [u8; 6] = [2, 15, 2 | B_SIDE, 15, 1, 5];

    /// A connection from A to B, and a push of 3,000 bytes that arrives.
    fn connection() -> Vec<u8> {
        let open = [0, 0, 0, 8, 20 | B_SIDE, 0x0c, 17, 0];
        [&open[..], &CARRY.repeat(3), &[20 | B_SIDE, 0, 21, 0xa0], &CARRY.repeat(3)].concat()
    }

    #[test]
    fn a_script_connects_and_transfers() {
        let script = [connection(), vec![23 | B_SIDE, 1, 23 | B_SIDE, 1]].concat();
        let pair = play(&script);
        let popped: Vec<u64> = pair.hosts[B].queues.iter().map(|queue| queue.popped).collect();
        assert_eq!(popped, [0, 3000], "the listener, and what it accepted");
        pair.finish();
    }

    #[test]
    fn a_script_forges_segments() {
        // A reset that is exactly right, and one from outside of the window.
        for (off_by, resets) in [(0, 1), (18, 0)] {
            let script = [connection(), vec![12, 0, 4, off_by, 0, 0, 0, 0]].concat();
            let pair = play(&script);
            assert!(!pair.honest);
            assert_eq!(
                pair.hosts[A].net.counters().tcp_resets_received,
                resets,
                "off by {}",
                OFF_BY[usize::from(off_by)]
            );
            pair.finish();
        }
    }

    /// RFC 7323 §2.2: a peer that scales its windows though nobody offered it.
    #[test]
    fn a_window_scale_that_was_not_offered_is_not_believed() {
        // Nobody listens, and nobody hears of it: the SYN is lost.
        let connect = [&[4, 0, 0, 8, 17, 0, 2, 15][..], &CARRY, &[8, 0]].concat();
        // A SYN, ACK with a shift of 14, and a window of 100 bytes after it.
        let forged = [12, 0, 2, 0, 0, 3, 0x20, 14, 12, 0, 0, 0, 0, 3, 0];
        let mut pair = play(&[&connect[..], &forged].concat());
        pair.hosts[A].push(0, 20_000, true);
        pair.seen[A].clear();
        pair.step();
        let sent: u32 = pair.seen[A].iter().filter_map(|frame| segment(frame)).map(|segment| segment.len).sum();
        assert_eq!(sent, 100, "what the window holds");
        pair.finish();
    }

    #[test]
    #[should_panic(expected = "not what was pushed")]
    fn a_forged_byte_would_be_seen() {
        // The same as A's next text, but for what is in it.
        let script = [connection(), vec![23 | B_SIDE, 1, 12 | B_SIDE, 0x30, 1, 0, 0, 0, 0, 0]].concat();
        let mut pair = play(&script);
        pair.honest = true; // as if nobody had forged anything
        pair.hosts[B].submit(1, Op::Pop { len_max: 100 }, true);
    }
}
