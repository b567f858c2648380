//! A segment that has arrived, taken apart.

use std::net::IpAddr;

use pdpix::Buf;
use zerocopy::FromBytes;

use super::seq::SeqNumber;
use crate::ip::Packet;
use crate::wire::{Checksum, Ecn, Flags, Protocol, TCP_LEN, TcpHeader, TcpOptions, Timestamps, pseudo_header};

/// Why a segment could not be read.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Malformed {
    /// Shorter than its header, or a header that is no header.
    Length,
    /// The sum over it is wrong.
    Checksum,
    /// A length among the options is.
    Options,
}

/// What a segment says, but for its text and what is rare: by this header prediction judges it.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Heard {
    pub(crate) seq: SeqNumber,
    pub(crate) ack: SeqNumber,
    pub(crate) flags: Flags,
    /// As it stands in the header, not scaled.
    pub(crate) window: u16,
    pub(crate) timestamps: Option<Timestamps>,
    /// Bytes of text.
    pub(crate) text_len: u32,
}

impl Heard {
    /// From a header, and what follows it.
    #[inline(always)]
    pub(crate) fn new(header: &TcpHeader, timestamps: Option<Timestamps>, text_len: u32) -> Heard {
        Heard {
            seq: SeqNumber::new(header.sequence.get()),
            ack: SeqNumber::new(header.acknowledgment.get()),
            flags: header.flags,
            window: header.window.get(),
            timestamps,
            text_len,
        }
    }
}

/// A segment: its header, and what it carries.
#[derive(Debug)]
pub(crate) struct Segment {
    pub(crate) source: IpAddr,
    pub(crate) destination: IpAddr,
    pub(crate) source_port: u16,
    pub(crate) destination_port: u16,
    pub(crate) seq: SeqNumber,
    pub(crate) ack: SeqNumber,
    pub(crate) flags: Flags,
    /// As it stands in the header, not scaled.
    pub(crate) window: u16,
    pub(crate) options: TcpOptions,
    pub(crate) ecn: Ecn,
    /// The text: a slice of the frame.
    pub(crate) data: Buf,
}

impl Segment {
    /// Reads and checks a packet's segment. The urgent pointer is not read: urgent data is data (RFC 6093 §6).
    #[inline]
    pub(crate) fn parse(packet: Packet) -> Result<Segment, Malformed> {
        let bytes = packet.data();
        let (header, rest) = TcpHeader::ref_from_prefix(bytes).map_err(|_| Malformed::Length)?;
        let header_len = header.header_len();
        let options = rest.get(..header_len.checked_sub(TCP_LEN).ok_or(Malformed::Length)?).ok_or(Malformed::Length)?;
        if !packet.verified && !is_right(&packet) {
            return Err(Malformed::Checksum);
        }
        let options = match options {
            [] => TcpOptions::default(),
            options => TcpOptions::parse(options).ok_or(Malformed::Options)?,
        };
        let header = *header;
        let (source, destination, ecn) = (packet.source, packet.destination, packet.ecn);
        let mut data = packet.into_data();
        data.advance(header_len);
        Ok(Segment {
            source,
            destination,
            source_port: header.source.get(),
            destination_port: header.destination.get(),
            seq: SeqNumber::new(header.sequence.get()),
            ack: SeqNumber::new(header.acknowledgment.get()),
            flags: header.flags,
            window: header.window.get(),
            options,
            ecn,
            data,
        })
    }

    /// What it says, but for its text and what is rare.
    #[inline]
    pub(crate) fn heard(&self) -> Heard {
        let (flags, window, timestamps) = (self.flags, self.window, self.options.timestamps);
        Heard { seq: self.seq, ack: self.ack, flags, window, timestamps, text_len: self.data.len() as u32 }
    }

    /// SEG.LEN: what it takes of the sequence space.
    #[inline]
    pub(crate) fn len(&self) -> u32 {
        self.data.len() as u32 + u32::from(self.flags.has(Flags::SYN)) + u32::from(self.flags.has(Flags::FIN))
    }
}

/// RFC 9293 §3.1: the checksum over pseudo header, header and text.
#[inline]
fn is_right(packet: &Packet) -> bool {
    let pseudo: Checksum = pseudo_header(packet.source, packet.destination, Protocol::TCP, packet.data().len());
    pseudo.add(packet.data()).is_right()
}
