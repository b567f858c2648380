//! UDP (RFC 768, RFC 1122 §4.1, RFC 8200 §8.1): the state of a socket, and datagrams in and out.
//!
//! Always: of what has arrived and who waits at most one is not empty; what has arrived pins at most the receive budget
//! (one datagram may exceed it); past it the newest is dropped and counted. A datagram is sent in one packet or not at all:
//! IP does not fragment here, so one longer than the path's MTU leaves is `MessageSize`.
//! Which socket a datagram is for, and ports, are the stack's (`check` tells the ports, `DatagramSocket` does the rest).

use std::collections::VecDeque;
use std::net::IpAddr;

use libos_mem::{CopyPath, PUSH_COPY_MAX};
use pdpix::{Buf, Done, Endpoint, Error, Instant, OpId, Outcome, Popped, Sga, SocketOptions, Submitted};
use zerocopy::byteorder::network_endian::U16;
use zerocopy::{FromBytes, IntoBytes};

use crate::Counters;
use crate::device::ChecksumAt;
use crate::ip::{Ip, NoticeKind, Packet, Path, Unreachable};
use crate::wire::{ETHERNET_LEN, Ecn, Protocol, UDP_LEN, UdpHeader, pseudo_header};

/// The longest datagram of either family: what a packet's length fields leave (a loopback path has such an MTU).
const PACKET_LEN_MAX: usize = 65_535;
/// Where the checksum is in the header.
const CHECKSUM_AT: u16 = 6;

/// The header of a datagram that was found right.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Checked {
    /// The sender's.
    pub source_port: u16,
    /// Ours.
    pub destination_port: u16,
    /// Of header and data.
    pub len: u16,
}

/// What is wrong with a datagram.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Wrong {
    Length,
    Checksum,
}

/// Checks a datagram, and says to whom it goes. Counts it if it is wrong.
#[inline]
pub(crate) fn check(packet: &Packet, counters: &mut Counters) -> Option<Checked> {
    match read(packet.data(), (packet.source, packet.destination), packet.verified) {
        Ok(checked) => return Some(checked),
        Err(Wrong::Length) => counters.udp_malformed += 1,
        Err(Wrong::Checksum) => counters.udp_checksum += 1,
    }
    None
}

/// The header of a datagram between these addresses; `verified`: its checksum is known to be right.
///
/// # Errors
/// What is wrong with it.
#[inline(always)]
pub(crate) fn read(data: &[u8], (source, destination): (IpAddr, IpAddr), verified: bool) -> Result<Checked, Wrong> {
    let (header, _) = UdpHeader::ref_from_prefix(data).map_err(|_| Wrong::Length)?;
    let len = header.len.get();
    if usize::from(len) < UDP_LEN || usize::from(len) > data.len() || header.destination.get() == 0 {
        return Err(Wrong::Length);
    }
    let is_right = match header.checksum.get() {
        // RFC 768: none was made. RFC 8200 §8.1: there has to be one.
        0 => source.is_ipv4() || verified,
        _ if verified => true,
        _ => pseudo_header(source, destination, Protocol::UDP, len.into()).add(&data[..usize::from(len)]).is_right(),
    };
    if !is_right {
        return Err(Wrong::Checksum);
    }
    Ok(Checked { source_port: header.source.get(), destination_port: header.destination.get(), len })
}

/// Nobody is at the port: the sender is told (RFC 1122 §4.1.3.1).
pub(crate) fn refuse(ip: &mut Ip, packet: &Packet, now: Instant) {
    ip.counters.udp_no_port += 1;
    ip.send_unreachable(packet, Unreachable::Port, now);
}

/// A datagram that nobody has popped yet.
#[derive(Debug)]
struct Arrived {
    from: Endpoint,
    data: Buf,
    pinned: usize,
}

impl Arrived {
    fn popped(self, len_max: usize) -> Outcome<pdpix::Handle> {
        popped(self.from, self.data, len_max)
    }
}

/// What a pop gets: the datagram, cut to what it takes.
#[inline]
pub(crate) fn popped(from: Endpoint, mut data: Buf, len_max: usize) -> Outcome<pdpix::Handle> {
    let cut = data.len() > len_max;
    if cut {
        data.truncate(len_max);
    }
    Outcome::Popped(Popped { sga: Sga::from(data), from: Some(from), cut })
}

/// One socket.
#[derive(Debug, Default)]
pub(crate) struct DatagramSocket {
    /// `None`: not bound yet.
    pub local: Option<Endpoint>,
    /// The default peer, and then the only one that is heard.
    pub peer: Option<Endpoint>,
    pub options: SocketOptions,
    arrived: VecDeque<Arrived>,
    arrived_pinned: usize,
    waiting: VecDeque<(OpId, usize)>,
    /// What the network said about a datagram of ours: the next operation is told.
    error: Option<Error>,
    /// The way to whom we sent last.
    path: Option<Path>,
}

impl DatagramSocket {
    /// Not bound.
    pub(crate) fn new() -> DatagramSocket {
        DatagramSocket::default()
    }

    /// Sets, or takes away, the default peer. What others sent before is dropped.
    pub(crate) fn connect(&mut self, peer: Option<Endpoint>) {
        (self.peer, self.path, self.error) = (peer, None, None);
        if let Some(peer) = peer {
            self.arrived.retain(|arrived| arrived.from == peer);
            self.arrived_pinned = self.arrived.iter().map(|arrived| arrived.pinned).sum();
        }
    }

    /// A datagram for this socket, which `check` found right.
    #[inline]
    pub(crate) fn on_datagram(&mut self, packet: Packet, header: Checked, counters: &mut Counters) -> Option<Done> {
        let from = Endpoint::new(packet.source, header.source_port);
        if self.peer.is_some_and(|peer| peer != from) {
            counters.udp_stranger += 1;
            return None;
        }
        let mut data = packet.into_data();
        data.truncate(header.len.into());
        data.advance(UDP_LEN);
        if let Some((op, len_max)) = self.waiting.pop_front() {
            return Some(Done { op, result: Ok(popped(from, data, len_max)) });
        }
        self.keep(from, data, counters);
        None
    }

    /// The pop that waits for a datagram from `from` to `to`, if that is for this socket.
    #[inline]
    pub(crate) fn take_waiting(&mut self, from: Endpoint, to: IpAddr) -> Option<(OpId, usize)> {
        let local = self.local?.ip();
        let is_bound_there = local == to || local.is_unspecified() && local.is_ipv4() == to.is_ipv4();
        if !is_bound_there || self.peer.is_some_and(|peer| peer != from) {
            return None;
        }
        self.waiting.pop_front()
    }

    /// Nobody waits for it. What pins much more than it is, is copied; what is kept is the application's share of memory.
    fn keep(&mut self, from: Endpoint, data: Buf, counters: &mut Counters) {
        let is_full = |pinned| !self.arrived.is_empty() && self.arrived_pinned + pinned > self.options.receive_budget;
        // A copy is not made for nothing: it pins at least its length.
        let kept = if is_full(data.len()) { None } else { data.keep().ok() };
        match kept.map(|data| Arrived { from, pinned: data.pinned(), data }) {
            Some(arrived) if !is_full(arrived.pinned) => {
                self.arrived_pinned += arrived.pinned;
                self.arrived.push_back(arrived);
            }
            _ => counters.udp_over_budget += 1,
        }
    }

    /// The next datagram.
    ///
    /// # Errors
    /// `InvalidArgument`: not bound, or of nothing.
    #[inline]
    pub(crate) fn pop(&mut self, op: OpId, len_max: usize) -> Result<Submitted, Error> {
        if len_max == 0 || self.local.is_none() {
            return Err(Error::InvalidArgument);
        }
        if let Some(error) = self.error.take() {
            return Ok(Submitted::Done(Err(error)));
        }
        let Some(arrived) = self.arrived.pop_front() else {
            self.waiting.push_back((op, len_max));
            return Ok(Submitted::Pending);
        };
        self.arrived_pinned -= arrived.pinned;
        Ok(Submitted::Done(Ok(arrived.popped(len_max))))
    }

    /// Sends a datagram, to the default peer if `to` is `None`. The socket is bound. What is wrong on the way there is the
    /// operation's result.
    ///
    /// # Errors
    /// `InvalidArgument` (empty; not bound; port 0), `NotConnected` (nobody to send to), `AddressFamily`, `MessageSize`
    /// (longer than a packet on this path), `NoBuffers` (of memory, or of room in the device's queue).
    #[inline]
    pub(crate) fn push(
        &mut self,
        ip: &mut Ip,
        payload: Sga,
        to: Option<Endpoint>,
        now: Instant,
    ) -> Result<Submitted, Error> {
        let to = to.or(self.peer).ok_or(Error::NotConnected)?;
        let local = self.local.ok_or(Error::InvalidArgument)?;
        if payload.is_empty() || to.port() == 0 {
            return Err(Error::InvalidArgument);
        }
        if local.is_ipv4() != to.is_ipv4() {
            return Err(Error::AddressFamily);
        }
        let len = UDP_LEN + payload.len();
        if len > PACKET_LEN_MAX {
            return Err(Error::MessageSize);
        }
        if self.error.is_some() {
            return Ok(Submitted::Done(Err(self.error.take().expect("checked"))));
        }
        if !ip.has_room() {
            return Err(Error::NoBuffers);
        }
        if self.path.as_ref().is_none_or(|path| path.destination() != to.ip()) {
            match path_to(ip, local.ip(), to.ip()) {
                Ok(path) => self.path = Some(path),
                Err(error) => return Ok(Submitted::Done(Err(error))),
            }
        }
        let path = self.path.as_mut().expect("just looked up");
        match send(ip, path, (local.port(), to.port()), payload, len, now) {
            Ok(()) => Ok(Submitted::PUSHED),
            Err(error @ (Error::MessageSize | Error::NoBuffers)) => Err(error),
            Err(error) => {
                self.path = None;
                Ok(Submitted::Done(Err(error)))
            }
        }
    }

    /// The network says that a datagram to `peer` did not arrive. Only a connected socket wants to know (RFC 1122
    /// §4.1.3.3 leaves it to the interface; who sends to many could not tell which one it was). `TooBig` is the stack's.
    pub(crate) fn on_notice(&mut self, peer: Endpoint, kind: NoticeKind) -> Option<Done> {
        if self.peer != Some(peer) {
            return None;
        }
        if let Some((op, _)) = self.waiting.pop_front() {
            return Some(Done { op, result: Err(kind.error()) });
        }
        self.error = Some(kind.error());
        None
    }

    /// Takes a waiting pop off. Says whether it waited.
    pub(crate) fn cancel(&mut self, op: OpId) -> bool {
        let before = self.waiting.len();
        self.waiting.retain(|&(waiting, _)| waiting != op);
        before != self.waiting.len()
    }

    /// Drops what has arrived; the pops that waited are to end `Canceled`.
    pub(crate) fn close(&mut self) -> impl Iterator<Item = OpId> + use<> {
        self.arrived.clear();
        self.arrived_pinned = 0;
        std::mem::take(&mut self.waiting).into_iter().map(|(op, _)| op)
    }

    /// Bytes pinned by what has arrived.
    #[cfg(test)]
    pub(crate) fn arrived_pinned(&self) -> usize {
        self.arrived_pinned
    }

    /// What holds after every step.
    #[cfg(test)]
    fn check(&self) {
        assert!(self.arrived.is_empty() || self.waiting.is_empty(), "somebody waits for what is there");
        assert_eq!(self.arrived_pinned, self.arrived.iter().map(|arrived| arrived.data.pinned()).sum::<usize>());
        assert!(self.arrived.len() <= 1 || self.arrived_pinned <= self.options.receive_budget, "over the budget");
    }
}

#[cold]
fn path_to(ip: &mut Ip, local: IpAddr, to: IpAddr) -> Result<Path, Error> {
    let source = if local.is_unspecified() { ip.source_for(to)? } else { local };
    ip.path(source, to)
}

/// One datagram, of `len` bytes with its header.
#[inline]
fn send(
    ip: &mut Ip,
    path: &mut Path,
    (source, destination): (u16, u16),
    payload: Sga,
    len: usize,
    now: Instant,
) -> Result<(), Error> {
    let start = path.head_len();
    if start - ETHERNET_LEN + len > ip.mtu(path) {
        return Err(Error::MessageSize);
    }
    // What is short is copied: cheaper than one more piece. So is what the device cannot gather.
    let is_linear = len - UDP_LEN <= PUSH_COPY_MAX || !ip.gathers(1 + payload.segments().len());
    let head_len = if is_linear { len } else { UDP_LEN };
    let mut memory = ip.begin(path, Protocol::UDP, Ecn::NotCapable, len, head_len)?;
    let pseudo = path.pseudo_header(Protocol::UDP, len);
    let mut header = UdpHeader {
        source: source.into(),
        destination: destination.into(),
        len: U16::new(len as u16),
        checksum: pseudo.partial().into(),
    };
    let at = if ip.fills_checksums(path) {
        Some(ChecksumAt { start: start as u16, field: CHECKSUM_AT })
    } else {
        header.checksum = U16::ZERO;
        let sum = match payload.segments() {
            [one] => pseudo.add(header.as_bytes()).add(one),
            many => pseudo.add(header.as_bytes()).add_pieces(many.iter().map(|piece| &**piece)),
        };
        let sum = sum.finish();
        // RFC 768: zero would say that there is none.
        header.checksum = if sum == 0 { 0xffff } else { sum }.into();
        None
    };
    memory.put(header.as_bytes());
    let payload = if is_linear {
        ip.heap().count_copied(CopyPath::Push, len - UDP_LEN);
        payload.segments().iter().for_each(|piece| _ = memory.put(piece));
        Sga::new()
    } else {
        payload
    };
    ip.send(path, memory, payload, at, 0, now);
    Ok(())
}

#[cfg(test)]
mod tests;
