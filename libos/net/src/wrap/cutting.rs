//! A device that cuts long TCP segments up for one that does not: segmentation offload in software, as the kernel has it
//! (GSO). What the device below fills in by itself (checksums) is left to it.
//!
//! Always: the device below sees no frame that its link does not carry, and as many pieces as it gathers. Payloads are
//! referenced where they lie, unless the device below takes one piece only: then each part is put together by a counted
//! copy. A part for which there is no memory is lost, and counted.
//! Bounds: no frame is taken while [`READY_MAX`] wait for the device below.

use std::collections::VecDeque;

use libos_mem::{CopyPath, Heap, Purpose};
use pdpix::{Buf, Error, Instant, Sga, WakeOn};

use crate::cut::Cut;
use crate::device::{ChecksumAt, Device, Frame, Link, Offloads, Received};
use crate::ip::HEADER_MEMORY_MAX;
use crate::wire::{Checksum, Flags};

/// Frames that the device below has not taken; beyond that, no more are taken from above.
const READY_MAX: usize = 64;
/// Where the checksum is in a UDP header.
const UDP_FIELD: u16 = 6;
/// The longest payload that is taken to be cut up.
const SEGMENTED_MAX: usize = 64 << 10;

/// Cuts long segments up.
pub struct Cutting<D> {
    device: D,
    heap: Heap,
    /// The device below.
    below: Link,
    ready: VecDeque<Frame>,
    cut: u64,
    parts: u64,
    no_memory: u64,
}

impl<D: Device> Cutting<D> {
    /// Cuts up what goes to `device`; headers come from `heap`.
    pub fn new(device: D, heap: Heap) -> Cutting<D> {
        let below = device.link();
        Cutting { device, heap, below, ready: VecDeque::new(), cut: 0, parts: 0, no_memory: 0 }
    }

    fn take(&mut self, frame: Frame) {
        if frame.segment_size == 0 {
            return match self.summed(frame) {
                Some(frame) => self.ready.push_back(frame),
                None => self.no_memory += 1,
            };
        }
        let whole = frame.header.clone();
        let Some(cut) = Cut::new(&whole, frame.len(), frame.segment_size.into()) else {
            debug_assert!(false, "a frame to be cut up that is no TCP segment");
            return;
        };
        debug_assert!(!cut.flags().has(Flags::CWR), "devices differ in what they make of it");
        self.cut += 1;
        let inline = frame.header.slice(cut.head_len()..);
        let mut payload = frame.payload;
        let mut left = if inline.is_empty() { std::mem::take(&mut payload) } else { Sga::from(inline) };
        debug_assert!(payload.is_empty(), "a payload in two places");
        for part in 0..cut.parts() {
            let len = cut.payload(part).len();
            let text = left.split_to(len);
            if text.is_err() {
                left.advance(len); // a split that fails changes nothing, and the next part is not this one
            }
            let made = text.ok().and_then(|text| self.part(&cut, part, text));
            match made {
                Some(frame) => {
                    self.parts += 1;
                    self.ready.push_back(frame);
                }
                None => self.no_memory += 1,
            }
        }
    }

    /// One part, as the device below takes it.
    fn part(&self, cut: &Cut<'_>, part: usize, payload: Sga) -> Option<Frame> {
        let is_linear = payload.segments().len() >= self.below.offloads.gathers;
        let (purpose, len) =
            if is_linear { (Purpose::App, cut.head_len() + payload.len()) } else { (Purpose::Header, cut.head_len()) };
        let mut header = self.heap.alloc_for(purpose, len).ok()?;
        header.resize(cut.head_len(), 0);
        let at = cut.write_head(part, &mut header);
        let payload = if is_linear {
            self.heap.count_copied(CopyPath::Coalesce, payload.len());
            payload.segments().iter().for_each(|piece| _ = header.put(piece));
            Sga::new()
        } else {
            payload
        };
        if self.below.offloads.checksums {
            return Some(Frame { header: header.freeze(), payload, checksum: Some(at), segment_size: 0 });
        }
        fill(&mut header, &payload, at);
        Some(Frame { header: header.freeze(), payload, checksum: None, segment_size: 0 })
    }

    /// A frame with its checksum, if the device below does not fill it in.
    fn summed(&self, frame: Frame) -> Option<Frame> {
        let Some(at) = frame.checksum.filter(|_| !self.below.offloads.checksums) else { return Some(frame) };
        let len = frame.header.len();
        let purpose = if len <= HEADER_MEMORY_MAX { Purpose::Header } else { Purpose::App };
        let mut header = self.heap.alloc_for(purpose, len).ok()?;
        self.heap.count_copied(CopyPath::Coalesce, len);
        header.put(&frame.header);
        fill(&mut header, &frame.payload, at);
        Some(Frame { header: header.freeze(), checksum: None, ..frame })
    }
}

/// Completes a checksum of which only the pseudo header is there.
fn fill(header: &mut [u8], payload: &Sga, at: ChecksumAt) {
    let (start, field) = (usize::from(at.start), usize::from(at.start + at.field));
    let pieces = std::iter::once(&header[start..]).chain(payload.segments().iter().map(Buf::as_ref));
    let sum = Checksum::new().add_pieces(pieces).finish();
    // RFC 768, of UDP: zero says that there is none, and all ones are the same number.
    let sum = if sum == 0 && at.field == UDP_FIELD { 0xffff } else { sum };
    header[field..field + 2].copy_from_slice(&sum.to_be_bytes());
}

impl<D: Device> Device for Cutting<D> {
    fn link(&self) -> Link {
        let offloads = Offloads { checksums: true, segments: Some(SEGMENTED_MAX), ..self.below.offloads };
        Link { offloads, ..self.below }
    }

    fn receive(&mut self, now: Instant, into: &mut VecDeque<Received>, room: usize) -> Result<(), Error> {
        self.device.receive(now, into, room)
    }

    fn transmit(&mut self, now: Instant, frames: &mut VecDeque<Frame>) {
        loop {
            while self.ready.len() < READY_MAX
                && let Some(frame) = frames.pop_front()
            {
                self.take(frame);
            }
            let before = self.ready.len();
            if before > 0 {
                self.device.transmit(now, &mut self.ready);
            }
            if frames.is_empty() || self.ready.len() >= before.min(READY_MAX) {
                return;
            }
        }
    }

    fn flush(&mut self, now: Instant) {
        if !self.ready.is_empty() {
            self.device.transmit(now, &mut self.ready);
        }
        self.device.flush(now);
    }

    fn arm(&mut self, now: Instant) -> WakeOn {
        match self.device.arm(now) {
            WakeOn::Now => WakeOn::Now,
            // Above, nobody sees what waits here.
            _ if !self.ready.is_empty() => WakeOn::Nap,
            wake => wake,
        }
    }

    fn deadline(&self) -> Option<Instant> {
        self.device.deadline()
    }

    fn in_flight(&self) -> usize {
        self.device.in_flight() + self.ready.len()
    }

    fn counters(&self) -> Vec<(&'static str, u64)> {
        let mut counters = self.device.counters();
        counters.extend([
            ("cutting_frames", self.cut),
            ("cutting_parts", self.parts),
            ("cutting_no_memory", self.no_memory),
        ]);
        counters
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wire::TcpHeader;
    use crate::wrap::fake::Fake;
    use libos_mem::{Plan, Reservation, Reserves, Source};
    use zerocopy::FromBytes;

    const HEAD_LEN: usize = 54;

    /// A fake device that does nothing by itself.
    fn plain(gathers: usize) -> Fake {
        let mut fake = Fake::new();
        fake.offloads = Offloads { gathers, ..Offloads::NONE };
        fake
    }

    /// A long segment of IPv4 from pieces of 700 bytes, or in one piece.
    fn long(heap: &Heap, payload: &[u8], is_linear: bool) -> Frame {
        let flags = Flags::ACK.with(Flags::PSH).with(Flags::FIN).0;
        let mut head = vec![2, 0, 0, 0, 0, 2, 2, 0, 0, 0, 0, 1, 8, 0];
        head.extend([0x45, 0, 0, 0, 0, 0, 0x40, 0, 64, 6, 0, 0, 10, 0, 0, 1, 10, 0, 0, 2]);
        head.extend([0, 7, 0, 9, 0, 0, 0, 5, 0, 0, 0, 1, 0x50, flags, 1, 0, 0, 0, 0, 0]);
        let checksum = Some(ChecksumAt { start: 34, field: 16 });
        let mut pieces = Sga::new();
        if is_linear {
            head.extend(payload);
        } else {
            payload.chunks(700).for_each(|piece| pieces.push(heap.copy(piece).unwrap()).unwrap());
        }
        Frame { header: heap.copy(&head).unwrap(), payload: pieces, checksum, segment_size: 1000 }
    }

    fn is_right(bytes: &[u8]) -> bool {
        let [source, destination] = [[10, 0, 0, 1], [10, 0, 0, 2]].map(std::net::IpAddr::from);
        crate::wire::pseudo_header(source, destination, crate::wire::Protocol::TCP, bytes.len() - 34)
            .add(&bytes[34..])
            .is_right()
    }

    #[test]
    fn a_long_segment_goes_out_as_frames_that_the_link_carries() {
        let payload: Vec<u8> = (0..=255).cycle().take(3500).collect();
        for (gathers, is_linear) in [(8, false), (8, true), (1, true), (2, false)] {
            let mut cutting = Cutting::new(plain(gathers), Heap::alone(8 << 20).unwrap());
            let heap = cutting.heap.clone();
            let mut frames = VecDeque::from([long(&heap, &payload, is_linear)]);
            cutting.transmit(Instant::ZERO, &mut frames);
            assert!(frames.is_empty());
            let sent = std::mem::take(&mut cutting.device.sent);
            assert_eq!(sent.iter().map(|frame| frame.len() - HEAD_LEN).collect::<Vec<_>>(), [1000, 1000, 1000, 500]);
            let mut whole = Vec::<u8>::new();
            for (i, frame) in sent.iter().enumerate() {
                assert!(is_right(frame), "part {i}, {gathers} pieces");
                let (header, text) = TcpHeader::ref_from_prefix(&frame[34..]).unwrap();
                assert_eq!(header.sequence.get(), 5 + 1000 * i as u32);
                assert_eq!(header.flags.has(Flags::PSH.with(Flags::FIN)), i == 3);
                whole.extend(text);
            }
            assert_eq!(whole, payload);
            // Nothing but what goes into one piece is copied.
            let copied = heap.copied().total();
            let expected = if gathers == 1 {
                3500
            } else if gathers == 2 {
                3000
            } else {
                0
            };
            assert_eq!((copied, heap.stats().pinned), (expected, 0), "{gathers} {is_linear}");
            assert!(cutting.counters().contains(&("cutting_parts", 4)));
        }
    }

    #[test]
    fn checksums_are_filled_in_by_who_can() {
        for below in [false, true] {
            let mut fake = plain(8);
            fake.offloads.checksums = below;
            let mut cutting = Cutting::new(fake, Heap::alone(8 << 20).unwrap());
            assert!(cutting.link().offloads.checksums && cutting.link().offloads.segments.is_some());
            let short = Frame { segment_size: 0, ..long(&cutting.heap, b"odd", false) };
            let field = |frame: &[u8]| [frame[50], frame[51]];
            cutting.transmit(Instant::ZERO, &mut VecDeque::from([short]));
            assert_eq!(field(&cutting.device.sent[0]) == [0, 0], below, "a frame that is not cut up");
            cutting.transmit(Instant::ZERO, &mut VecDeque::from([long(&cutting.heap, &[7; 1500], false)]));
            assert_eq!(is_right(&cutting.device.sent[1]), !below, "the sum of the pseudo header, for the device below");
        }
    }

    /// What there is no memory for is lost, and nothing else is changed by it.
    #[test]
    fn without_memory_parts_are_lost_and_no_byte_moves() {
        let payload: Vec<u8> = (0..=255).cycle().take(4000).collect();
        let reserves = Reserves { header_spans: 2, ..Reserves::NONE };
        let plan = Plan { heaps: 1, heap_size: 4 << 20, reserves, source: Source::Ordinary };
        let heap = Reservation::new(plan).unwrap().heap(0).unwrap();
        let mut cutting = Cutting::new(plain(8), heap.clone());
        // The second part lies in two pieces, so that it needs a list; the others in one each.
        let mut frame = long(&heap, &[], false);
        for piece in [&payload[..1500], &payload[1500..]] {
            frame.payload.push(heap.copy(piece).unwrap()).unwrap();
        }
        let short = Frame { segment_size: 0, ..long(&heap, b"short", true) };
        let mut hoard = Vec::new();
        for size in [256 << 10, 16 << 10, 1 << 10, 64, 1] {
            hoard.extend(std::iter::from_fn(|| heap.alloc(size).ok()));
        }
        cutting.transmit(Instant::ZERO, &mut VecDeque::from([frame, short]));
        let sent = std::mem::take(&mut cutting.device.sent);
        assert!(cutting.counters().contains(&("cutting_no_memory", 1)), "{:?}", cutting.counters());
        assert_eq!(sent.len(), 4, "three parts, and the short one, whose header has memory of its own");
        for frame in &sent[..3] {
            let (header, text) = TcpHeader::ref_from_prefix(&frame[34..]).unwrap();
            let at = header.sequence.get() as usize - 5;
            assert!(is_right(frame) && text == &payload[at..at + 1000], "what is at {at}");
        }
        assert_ne!(sent[3][50..52], [0, 0], "it is summed");
    }

    #[test]
    fn a_device_without_room_loses_nothing() {
        let mut fake = plain(8);
        fake.room = 3;
        let mut cutting = Cutting::new(fake, Heap::alone(8 << 20).unwrap());
        let mut frames: VecDeque<Frame> = (0..40).map(|_| long(&cutting.heap, &[7; 4000], false)).collect();
        cutting.transmit(Instant::ZERO, &mut frames);
        let taken = 40 - frames.len();
        assert_eq!((cutting.device.sent.len(), cutting.in_flight()), (3, taken * 4 - 3));
        assert!(cutting.ready.len() < READY_MAX + 4, "bounded: {}", cutting.ready.len());
        assert_eq!(cutting.arm(Instant::ZERO), WakeOn::Nap, "nobody above sees what waits here");
        cutting.device.room = usize::MAX;
        cutting.flush(Instant::ZERO);
        cutting.transmit(Instant::ZERO, &mut frames);
        assert_eq!((cutting.device.sent.len(), frames.len(), cutting.in_flight()), (160, 0, 0));
        assert_eq!(cutting.heap.stats().pinned, 0);
    }
}
