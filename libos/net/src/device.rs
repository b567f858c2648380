//! The contract of what moves frames: a queue of a network card, an AF_XDP socket, a TAP interface, a simulated wire.
//!
//! Frames are not operations: they have no names, they cannot be cancelled, and their loss is normal. Bursts, not single
//! frames, cross this edge: one dynamic call a burst.
//!
//! Ownership: a frame given to [`Device::transmit`] is the device's until the hardware can no longer touch it; it holds the
//! frame's buffers for so long, and drops them then. When the device vanishes, `receive` says `NetworkDown` once,
//! `transmit` swallows (a link that is down drops), and buffers that the hardware may still touch are never freed.
//! docs/contract.md §3 walks this through the backends.

use std::collections::VecDeque;

use pdpix::{Buf, Error, Instant, Sga, WakeOn};

use crate::wire::Mac;

/// What a device is and can do. Stated once, negotiated and never demanded: what it cannot do is done here.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Link {
    /// Its address.
    pub mac: Mac,
    /// The longest IP packet that fits into a frame, in bytes: the frame without its Ethernet header of 14.
    pub mtu: usize,
    /// What it does by itself.
    pub offloads: Offloads,
}

/// What a device does by itself.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Offloads {
    /// It checks the checksums of what it receives, and says so per frame ([`Received::verified`]).
    pub verifies: bool,
    /// It fills in transport checksums ([`Frame::checksum`]).
    pub checksums: bool,
    /// It cuts TCP segments up ([`Frame::segment_size`]); the longest payload of one frame then. Implies `checksums`.
    pub segments: Option<usize>,
    /// In how many pieces a frame may lie, its header included. 1: it is put together by a counted copy before.
    pub gathers: usize,
    /// It can send from our reservation. If not, it copies by itself, and counts.
    pub external: bool,
}

impl Offloads {
    /// Nothing, and frames in one piece.
    pub const NONE: Offloads =
        Offloads { verifies: false, checksums: false, segments: None, gathers: 1, external: true };
}

/// A frame that has arrived.
#[derive(Debug)]
pub struct Received {
    /// From the first byte of the Ethernet header. Padding at the end is possible.
    pub buf: Buf,
    /// IP and transport checksums were found right by the device (or cannot be wrong: it never left this host).
    pub verified: bool,
}

/// Where the device is to fill in a checksum: that of RFC 1071 over everything from `start` to the end of the frame. The
/// field holds the sum of the pseudo header, not complemented.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct ChecksumAt {
    /// First byte that it covers, from the start of the frame.
    pub start: u16,
    /// Where the field is, from `start`.
    pub field: u16,
}

/// A frame to be sent: its headers, and its payload where it lies.
#[derive(Debug)]
pub struct Frame {
    /// Ethernet, IP and transport headers; in a frame of one piece the payload as well.
    pub header: Buf,
    /// What follows.
    pub payload: Sga,
    /// What the device has to fill in. `None`: nothing is missing.
    pub checksum: Option<ChecksumAt>,
    /// The payload of one segment, if this is a TCP segment that the device has to cut up; else zero.
    pub segment_size: u16,
}

impl Frame {
    /// Bytes in it.
    pub fn len(&self) -> usize {
        self.header.len() + self.payload.len()
    }

    /// Never.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Its pieces, in order.
    pub fn pieces(&self) -> impl Iterator<Item = &Buf> {
        std::iter::once(&self.header).chain(self.payload.segments())
    }

    /// All bytes, for tests and tools.
    pub fn to_vec(&self) -> Vec<u8> {
        self.pieces().flat_map(|piece| piece.iter().copied()).collect()
    }
}

/// Moves bursts of frames.
pub trait Device {
    /// What it is. Does not change.
    fn link(&self) -> Link;

    /// Appends what has arrived, at most `room` frames.
    ///
    /// # Errors
    /// `NetworkDown`, once: the device is gone, and nothing will ever come. `NetworkUnreachable`, once each time: the other
    /// end of the link has been gone for so long that whoever is connected should hear of it; it may come back.
    fn receive(&mut self, now: Instant, into: &mut VecDeque<Received>, room: usize) -> Result<(), Error>;

    /// Takes from the front as many frames as it has room for, and leaves the rest.
    fn transmit(&mut self, now: Instant, frames: &mut VecDeque<Frame>);

    /// Rings the doorbell for what was transmitted, and takes back what the hardware is done with. Once a burst.
    fn flush(&mut self, now: Instant);

    /// Asks to be woken, once, when there is something to receive or room to transmit again.
    fn arm(&mut self, now: Instant) -> WakeOn;

    /// When it has to be polled by itself, other than for frames (a wrapper that delays frames). Mostly never.
    fn deadline(&self) -> Option<Instant> {
        None
    }

    /// Frames that the hardware may still touch. Zero when everything is sent and taken back.
    fn in_flight(&self) -> usize;

    /// What it counted, by name: `rx_frames`, `tx_frames`, `rx_dropped`, `tx_copied_bytes` and what else it has.
    fn counters(&self) -> Vec<(&'static str, u64)> {
        Vec::new()
    }
}

impl Device for Box<dyn Device> {
    fn link(&self) -> Link {
        (**self).link()
    }

    fn receive(&mut self, now: Instant, into: &mut VecDeque<Received>, room: usize) -> Result<(), Error> {
        (**self).receive(now, into, room)
    }

    fn transmit(&mut self, now: Instant, frames: &mut VecDeque<Frame>) {
        (**self).transmit(now, frames);
    }

    fn flush(&mut self, now: Instant) {
        (**self).flush(now);
    }

    fn arm(&mut self, now: Instant) -> WakeOn {
        (**self).arm(now)
    }

    fn deadline(&self) -> Option<Instant> {
        (**self).deadline()
    }

    fn in_flight(&self) -> usize {
        (**self).in_flight()
    }

    fn counters(&self) -> Vec<(&'static str, u64)> {
        (**self).counters()
    }
}

/// The device of a core that has none: what it sends goes through another core's ([`Crossing::sends_through`]).
///
/// [`Crossing::sends_through`]: crate::Crossing::sends_through
pub struct NoDevice(Link);

impl NoDevice {
    /// Beside a device with this link. Frames are handed over whole, so nothing is left to do for that device.
    pub fn new(link: Link) -> NoDevice {
        NoDevice(Link { offloads: Offloads::NONE, ..link })
    }
}

impl Device for NoDevice {
    fn link(&self) -> Link {
        self.0
    }

    fn receive(&mut self, _: Instant, _: &mut VecDeque<Received>, _: usize) -> Result<(), Error> {
        Ok(())
    }

    fn transmit(&mut self, _: Instant, _: &mut VecDeque<Frame>) {}

    fn flush(&mut self, _: Instant) {}

    fn arm(&mut self, _: Instant) -> WakeOn {
        WakeOn::Nothing
    }

    fn in_flight(&self) -> usize {
        0
    }
}
