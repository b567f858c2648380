//! Packets of a script, and as bytes.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr};

use libos_net::wire::{Checksum, Flags, Protocol, SackBlocks, Timestamps, pseudo_header};

pub const OUR_IP: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 1);
pub const PEER_IP: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 2);
pub const OUR_MAC: [u8; 6] = [2, 0, 0, 0, 0, 1];
pub const PEER_MAC: [u8; 6] = [2, 0, 0, 0, 0, 2];

/// Options that a line names. `None`: not compared.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Options {
    pub mss: Option<u16>,
    pub scale: Option<u8>,
    pub sack_permitted: bool,
    /// Value and echo; nothing for any.
    pub stamps: Option<(Option<u32>, Echo)>,
    pub sack: Vec<(u32, u32)>,
    /// There may be others.
    pub open: bool,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Echo {
    Any,
    /// Of the last timestamp that we sent.
    Last,
    Is(u32),
}

/// A TCP segment, numbers relative.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Segment {
    pub port: u16,
    /// The two bits of the IP header.
    pub ecn: Option<u8>,
    pub flags: Flags,
    pub seq: u32,
    pub len: u32,
    pub ack: Option<u32>,
    pub win: Option<u16>,
    pub urgent: Option<u16>,
    pub options: Option<Options>,
}

#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Packet {
    Tcp(Segment),
    Udp {
        port: u16,
        len: u32,
    },
    /// An error about a TCP segment that we sent, or a datagram.
    Icmp {
        kind: u8,
        code: u8,
        mtu: u16,
        about: About,
    },
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum About {
    Tcp { port: u16, seq: u32 },
    Udp { port: u16 },
}

/// The byte at a place of a stream: of ours and of the peer's.
pub fn stream_byte(place: u64) -> u8 {
    (place.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 56) as u8
}

/// `len` bytes of it.
pub fn stream(from: u64, len: u64) -> Vec<u8> {
    (from..from + len).map(stream_byte).collect()
}

fn frame(protocol: Protocol, ecn: u8, payload: &[u8]) -> Vec<u8> {
    let mut ip = vec![0x45, ecn, 0, 0, 0, 1, 0x40, 0, 64, protocol.0, 0, 0];
    ip.extend(PEER_IP.octets());
    ip.extend(OUR_IP.octets());
    ip[2..4].copy_from_slice(&(20 + payload.len() as u16).to_be_bytes());
    let sum = Checksum::new().add(&ip).finish();
    ip[10..12].copy_from_slice(&sum.to_be_bytes());
    [&OUR_MAC[..], &PEER_MAC, &[8, 0], &ip, payload].concat()
}

fn fill_sum(mut payload: Vec<u8>, protocol: Protocol, field: usize) -> Vec<u8> {
    let pseudo = pseudo_header(IpAddr::V4(PEER_IP), IpAddr::V4(OUR_IP), protocol, payload.len());
    let sum = pseudo.add(&payload).finish();
    payload[field..field + 2].copy_from_slice(&sum.to_be_bytes());
    payload
}

/// A segment with absolute numbers, as it is in a frame.
#[derive(Clone, Debug)]
pub struct Raw {
    pub ports: (u16, u16),
    pub ecn: u8,
    pub seq: u32,
    pub ack: u32,
    pub flags: Flags,
    pub win: u16,
    pub urgent: u16,
    pub options: libos_net::wire::TcpOptions,
    pub text: Vec<u8>,
}

impl Raw {
    pub fn to_frame(&self) -> Vec<u8> {
        let mut options = [0; 40];
        let len = self.options.write(&mut options);
        let mut tcp = Vec::new();
        tcp.extend(self.ports.0.to_be_bytes());
        tcp.extend(self.ports.1.to_be_bytes());
        tcp.extend(self.seq.to_be_bytes());
        tcp.extend(self.ack.to_be_bytes());
        tcp.extend([(((20 + len) / 4) << 4) as u8, self.flags.0]);
        tcp.extend(self.win.to_be_bytes());
        tcp.extend([0, 0]);
        tcp.extend(self.urgent.to_be_bytes());
        tcp.extend(&options[..len]);
        tcp.extend(&self.text);
        frame(Protocol::TCP, self.ecn, &fill_sum(tcp, Protocol::TCP, 16))
    }
}

pub fn udp_frame(ports: (u16, u16), len: u32) -> Vec<u8> {
    let mut udp = Vec::new();
    udp.extend(ports.0.to_be_bytes());
    udp.extend(ports.1.to_be_bytes());
    udp.extend((8 + len as u16).to_be_bytes());
    udp.extend([0, 0]);
    udp.extend(stream(0, len.into()));
    frame(Protocol::UDP, 0, &fill_sum(udp, Protocol::UDP, 6))
}

/// An ICMP error about a packet that we are said to have sent: its IP header and the first eight bytes behind it.
pub fn icmp_frame(kind: u8, code: u8, mtu: u16, protocol: Protocol, ports: (u16, u16), word: u32) -> Vec<u8> {
    let mut quoted = vec![0x45, 0, 5, 0xdc, 0, 1, 0x40, 0, 63, protocol.0, 0, 0];
    quoted.extend(OUR_IP.octets());
    quoted.extend(PEER_IP.octets());
    let sum = Checksum::new().add(&quoted).finish();
    quoted[10..12].copy_from_slice(&sum.to_be_bytes());
    quoted.extend(ports.0.to_be_bytes());
    quoted.extend(ports.1.to_be_bytes());
    quoted.extend(word.to_be_bytes());
    let mut icmp = vec![kind, code, 0, 0, 0, 0];
    icmp.extend(mtu.to_be_bytes());
    icmp.extend(quoted);
    let sum = Checksum::new().add(&icmp).finish();
    icmp[2..4].copy_from_slice(&sum.to_be_bytes());
    frame(Protocol::ICMP, 0, &icmp)
}

/// What we sent.
#[derive(Clone, Debug)]
pub enum Sent {
    Tcp(Raw),
    Udp { ports: (u16, u16), text: Vec<u8> },
    Icmp { kind: u8, code: u8 },
    Arp { request: bool, target: [u8; 4] },
    Other,
}

/// Takes a frame of ours apart, and checks its sums.
pub fn read(frame: &[u8]) -> Result<Sent, String> {
    match frame.get(12..14) {
        Some([8, 6]) => {
            let target = frame[38..42].try_into().map_err(|_| "a short ARP packet")?;
            return Ok(Sent::Arp { request: frame[21] == 1, target });
        }
        Some([8, 0]) => {}
        _ => return Ok(Sent::Other),
    }
    let ip = &frame[14..];
    let total = usize::from(u16::from_be_bytes([ip[2], ip[3]]));
    if ip[0] != 0x45 || total > ip.len() || !Checksum::new().add(&ip[..20]).is_right() {
        return Err("our IP header is wrong".into());
    }
    if ip[6] & 0x40 == 0 {
        return Err("may be fragmented".into()); // RFC 1191 §2: path MTU discovery
    }
    let payload = &ip[20..total];
    let word = |at: usize| u32::from_be_bytes(payload[at..at + 4].try_into().unwrap());
    let half = |at: usize| u16::from_be_bytes(payload[at..at + 2].try_into().unwrap());
    let pseudo = |protocol| pseudo_header(IpAddr::V4(OUR_IP), IpAddr::V4(PEER_IP), protocol, payload.len());
    match ip[9] {
        6 => {
            if !pseudo(Protocol::TCP).add(payload).is_right() {
                return Err("our TCP checksum is wrong".into());
            }
            let header = usize::from(payload[12] >> 4) * 4;
            let options = libos_net::wire::TcpOptions::parse(&payload[20..header]).ok_or("our options are wrong")?;
            Ok(Sent::Tcp(Raw {
                ports: (half(0), half(2)),
                ecn: ip[1] & 3,
                seq: word(4),
                ack: word(8),
                flags: Flags(payload[13]),
                win: half(14),
                urgent: half(18),
                options,
                text: payload[header..].to_vec(),
            }))
        }
        17 if !pseudo(Protocol::UDP).add(payload).is_right() => Err("our UDP checksum is wrong".into()),
        17 => Ok(Sent::Udp { ports: (half(0), half(2)), text: payload[8..].to_vec() }),
        1 => Ok(Sent::Icmp { kind: payload[0], code: payload[1] }),
        _ => Ok(Sent::Other),
    }
}

/// Options with relative numbers, for people.
pub fn describe_options(
    mss: Option<u16>,
    scale: Option<u8>,
    permitted: bool,
    stamps: Option<Timestamps>,
    sack: &SackBlocks,
) -> String {
    let mut all = Vec::new();
    all.extend(mss.map(|mss| format!("mss {mss}")));
    all.extend(permitted.then(|| "sackOK".to_string()));
    all.extend(stamps.map(|stamps| format!("TS val {} ecr {}", stamps.value, stamps.echo)));
    all.extend(scale.map(|scale| format!("wscale {scale}")));
    if !sack.is_empty() {
        let blocks: Vec<String> = sack.iter().map(|(left, right)| format!("{left}:{right}")).collect();
        all.push(format!("sack {}", blocks.join(" ")));
    }
    if all.is_empty() { String::new() } else { format!(" <{}>", all.join(",")) }
}

impl fmt::Display for Raw {
    /// As tcpdump writes it, or nearly.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let end = self.seq.wrapping_add(self.text.len() as u32);
        match self.ecn {
            3 => write!(f, "[ce] ")?,
            2 => write!(f, "[ect0] ")?,
            1 => write!(f, "[ect1] ")?,
            _ => {}
        }
        write!(f, "{:?} {}:{}({})", self.flags, self.seq, end, self.text.len())?;
        if self.flags.has(Flags::ACK) {
            write!(f, " ack {}", self.ack)?;
        }
        let o = &self.options;
        write!(
            f,
            " win {}{}",
            self.win,
            describe_options(o.mss, o.window_scale, o.sack_permitted, o.timestamps, &o.sack)
        )
    }
}
