//! The short way of most segments: IPv4, of a connection, the next in order, with nothing that is out of the ordinary (Van
//! Jacobson's header prediction); and of datagrams, of either family, for which a pop waits. What comes is judged where it
//! lies; its text moves once, into that pop.
//!
//! Always: what this way does, the long way does as well; a segment about which anything is special, or wrong, goes there,
//! and is counted there.

use std::ops::Range;

use pdpix::{Completions, Endpoint, OpId, Outcome, Popped, Sga};
use zerocopy::{FromBytes, Immutable, KnownLayout, Unaligned};

use super::socket::Role;
use super::{Flow, Stack};
use crate::device::Received;
use crate::ip::{Ip, PlainV4};
use crate::tcp::{Cx, Fate, FlowKey, Heard};
use crate::udp;
use crate::wire::{
    Checksum, ETHERNET_LEN, Ecn, IPV4_LEN, Protocol, TCP_LEN, TcpHeader, TcpOptions, UDP_LEN, pseudo_header,
};

/// Where the segment begins.
const SEGMENT_AT: usize = ETHERNET_LEN + IPV4_LEN;
/// A header with two NOPs and the timestamps (RFC 7323, appendix A).
const STAMPED_LEN: usize = TCP_LEN + 12;

/// A segment in its frame.
#[derive(FromBytes, KnownLayout, Immutable, Unaligned)]
#[repr(C)]
struct PlainTcp {
    packet: PlainV4,
    tcp: TcpHeader,
}

impl Stack {
    /// Takes a frame in that carries the segment that its connection expects. Gives back any other, as it is.
    #[inline]
    pub(crate) fn receive_predicted(&mut self, frame: Received, done: &mut Completions) -> Result<(), Received> {
        let Received { buf: mut text, verified } = frame;
        let Stack { ip, settings, now, sockets, ended, flows, dirty, .. } = self;
        let Some((segment, heard)) = read(&text, verified, ip) else { return Err(Received { buf: text, verified }) };
        let (len, text_at) = (heard.text_len as usize, SEGMENT_AT + segment.tcp.header_len());
        let owner = match flows.get(&segment.key()) {
            Some(&Flow::Socket(i)) => Some(i),
            _ => None,
        };
        let Some((i, socket)) = owner.and_then(|i| Some((i, sockets.get_mut(i as usize)?))) else {
            return Err(Received { buf: text, verified });
        };
        let Role::Connected(tcb) = &mut socket.role else { return Err(Received { buf: text, verified }) };
        if !tcb.expects(&heard) || !verified && !segment.is_right(&text) {
            return Err(Received { buf: text, verified });
        }
        ip.counters.tcp_segments_received += 1;
        tcb.take_expected(&heard, &mut Cx { ip, settings, now: *now });
        let mut waits = !socket.pushes.is_empty() || !socket.unacknowledged.is_empty();
        if len > 0 {
            text.advance(text_at);
            text.truncate(len);
            match socket.waiting.front() {
                Some(&(op, len_max))
                    if len <= len_max && tcb.receive.hands_over() && done.room() > 0 && ended.is_empty() =>
                {
                    socket.waiting.pop_front();
                    tcb.receive.hand_over(&text, *now, tcb.recovery.round_trip_nanos());
                    tcb.receive.on_popped(tcb.mss);
                    done.push(op, Ok(Outcome::Popped(Popped::stream(Sga::from(text)))));
                }
                taker => {
                    waits |= taker.is_some();
                    if !tcb.receive.take_next(text) {
                        ip.counters.tcp_no_memory += 1;
                    }
                }
            }
            tcb.receive.on_text(tcb.mss, *now);
        }
        if !socket.dirty {
            socket.dirty = true;
            dirty.push_back(i);
        }
        if waits {
            self.after(i, Fate::Lives, done);
        }
        Ok(())
    }
}

impl Stack {
    /// The same of a datagram, of either family: right, alone at its port, and a pop waits for it.
    #[inline]
    pub(crate) fn receive_predicted_datagram(
        &mut self,
        frame: Received,
        done: &mut Completions,
    ) -> Result<(), Received> {
        let taken = self.take_datagram(&frame, done.room() > 0);
        let Some((op, len_max, from, data)) = taken else { return Err(frame) };
        let mut text = frame.buf;
        text.truncate(data.end);
        text.advance(data.start);
        done.push(op, Ok(udp::popped(from, text, len_max)));
        Ok(())
    }

    /// The pop that a frame's datagram ends: its name and how much it takes; who sent it, and where its text is.
    #[inline(always)]
    fn take_datagram(&mut self, frame: &Received, has_room: bool) -> Option<(OpId, usize, Endpoint, Range<usize>)> {
        let packet = self.ip.plain(&frame.buf, frame.verified)?;
        if packet.protocol != Protocol::UDP || !has_room || !self.ended.is_empty() {
            return None;
        }
        let ends = (packet.source, packet.destination);
        let header = udp::read(&frame.buf[packet.start..packet.end], ends, frame.verified).ok()?;
        let &[i] = &self.datagrams.get(&header.destination_port)?[..] else { return None };
        let Role::Datagram(datagrams) = &mut self.sockets.get_mut(i as usize)?.role else { return None };
        let from = Endpoint::new(packet.source, header.source_port);
        let (op, len_max) = datagrams.take_waiting(from, packet.destination)?;
        Some((op, len_max, from, packet.start + UDP_LEN..packet.start + usize::from(header.len)))
    }
}

/// The segment in a frame, if there is nothing special about its packet and its options.
#[inline(always)]
fn read<'a>(frame: &'a [u8], verified: bool, ip: &Ip) -> Option<(&'a PlainTcp, Heard)> {
    let (segment, rest) = PlainTcp::ref_from_prefix(frame).ok()?;
    let header = &segment.packet.ip;
    if header.protocol != Protocol::TCP
        || Ecn::from_bits(header.traffic_class) == Ecn::Congested
        || !ip.is_plain_v4(&segment.packet, frame.len(), verified)
    {
        return None;
    }
    let timestamps = match segment.tcp.header_len() {
        TCP_LEN => None,
        STAMPED_LEN => Some(TcpOptions::parse_timestamps_only(rest.first_chunk()?)?),
        _ => return None,
    };
    let text_len = u32::from(header.total_len.get()).checked_sub((IPV4_LEN + segment.tcp.header_len()) as u32)?;
    Some((segment, Heard::new(&segment.tcp, timestamps, text_len)))
}

impl PlainTcp {
    #[inline(always)]
    fn key(&self) -> FlowKey {
        let ip = &self.packet.ip;
        let (local, remote) = (u32::from_be_bytes(ip.destination), u32::from_be_bytes(ip.source));
        FlowKey::v4(local, remote, self.tcp.destination.get(), self.tcp.source.get())
    }

    /// RFC 9293 §3.1: the checksum over pseudo header, header and text.
    #[inline]
    fn is_right(&self, frame: &[u8]) -> bool {
        let ip = &self.packet.ip;
        let segment = &frame[SEGMENT_AT..ETHERNET_LEN + usize::from(ip.total_len.get())];
        let pseudo: Checksum = pseudo_header(ip.source.into(), ip.destination.into(), Protocol::TCP, segment.len());
        pseudo.add(segment).is_right()
    }
}
