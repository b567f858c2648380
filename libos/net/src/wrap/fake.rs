//! A device for the tests of what goes around devices: it gives what it was told to, and keeps what it is given.

use std::collections::VecDeque;

use libos_mem::Heap;
use pdpix::{Error, Instant, Sga, WakeOn};

use crate::device::{ChecksumAt, Device, Frame, Link, Offloads, Received};
use crate::wire::Mac;

pub(crate) struct Fake {
    pub(crate) heap: Heap,
    pub(crate) arrived: VecDeque<Received>,
    pub(crate) sent: Vec<Vec<u8>>,
    /// Frames that it still takes.
    pub(crate) room: usize,
    pub(crate) gone: bool,
    pub(crate) offloads: Offloads,
}

impl Fake {
    pub(crate) fn new() -> Fake {
        let offloads = Offloads { verifies: true, checksums: true, segments: Some(65_000), gathers: 8, external: true };
        let heap = Heap::alone(8 << 20).unwrap();
        Fake { heap, arrived: VecDeque::new(), sent: Vec::new(), room: usize::MAX, gone: false, offloads }
    }

    pub(crate) fn arrive(&mut self, bytes: &[u8]) {
        self.arrived.push_back(Received { buf: self.heap.copy(bytes).unwrap(), verified: true });
    }

    /// A frame of these bytes: fourteen as the header, and the rest as a payload in pieces.
    pub(crate) fn frame(&self, bytes: &[u8]) -> Frame {
        let (header, payload) = bytes.split_at(14);
        let mut pieces = Sga::new();
        payload.chunks(30).for_each(|piece| pieces.push(self.heap.copy(piece).unwrap()).unwrap());
        let checksum = Some(ChecksumAt { start: 14, field: 0 });
        Frame { header: self.heap.copy(header).unwrap(), payload: pieces, checksum, segment_size: 0 }
    }
}

impl Device for Fake {
    fn link(&self) -> Link {
        Link { mac: Mac([2, 0, 0, 0, 0, 1]), mtu: 1500, offloads: self.offloads }
    }

    fn receive(&mut self, _: Instant, into: &mut VecDeque<Received>, room: usize) -> Result<(), Error> {
        if self.gone {
            return Err(Error::NetworkDown);
        }
        into.extend(self.arrived.drain(..room.min(self.arrived.len())));
        Ok(())
    }

    fn transmit(&mut self, _: Instant, frames: &mut VecDeque<Frame>) {
        let count = self.room.min(frames.len());
        self.room -= count;
        self.sent.extend(frames.drain(..count).map(|frame| frame.to_vec()));
    }

    fn flush(&mut self, _: Instant) {}

    fn arm(&mut self, _: Instant) -> WakeOn {
        if self.arrived.is_empty() { WakeOn::Nothing } else { WakeOn::Now }
    }

    fn in_flight(&self) -> usize {
        0
    }

    fn counters(&self) -> Vec<(&'static str, u64)> {
        vec![("fake", 1)]
    }
}
