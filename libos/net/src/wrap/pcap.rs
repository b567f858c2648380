//! A device that writes down what goes through another one, in a form that Wireshark and tcpdump open: pcapng with
//! nanoseconds, and the direction of each frame.
//!
//! Always: frames go through as if nobody looked. When the writer fails, nothing more is written (a block may be torn,
//! and readers stop there), and every frame after that is counted as missed. A frame to be sent is written as the device
//! takes it: with offloads its checksum is not filled in yet, and a long segment not cut up.
//!
//! Source: "PCAP Next Generation (pcapng) Capture File Format", draft-ietf-opsawg-pcapng, §4.1 to §4.3.

use std::collections::VecDeque;
use std::io::Write;

use pdpix::{Error, Instant, WakeOn, WallTime};

use crate::device::{Device, Frame, Link, Received};
use crate::wire::Mac;

const SECTION_HEADER: u32 = 0x0a0d_0d0a;
const INTERFACE: u32 = 1;
const ENHANCED_PACKET: u32 = 6;

const BYTE_ORDER: u32 = 0x1a2b_3c4d;
const LINKTYPE_ETHERNET: u16 = 1;

const OPTION_END: u16 = 0;
const OPTION_MAC: u16 = 6;
const OPTION_RESOLUTION: u16 = 9;
const OPTION_FLAGS: u16 = 2;

/// The direction, in the flags of a packet (§4.3.1).
const INBOUND: u32 = 1;
const OUTBOUND: u32 = 2;

/// Writes down what goes through a device.
pub struct Pcap<D, W: Write> {
    device: D,
    writer: W,
    snap_len: usize,
    /// The time of day at the start of the clock.
    zero: WallTime,
    /// Blocks of this burst, which are written in one call.
    blocks: Vec<u8>,
    /// Where each of them ends.
    ends: Vec<usize>,
    written: u64,
    missed: u64,
    has_failed: bool,
}

impl<D: Device, W: Write> Pcap<D, W> {
    /// Writes the first `snap_len` bytes of each frame that goes through `device`. `zero` is the time of day at
    /// [`Instant::ZERO`], so that the file says when it was.
    pub fn new(device: D, writer: W, snap_len: u32, zero: WallTime) -> Pcap<D, W> {
        let mac = device.link().mac;
        let snap_len = if snap_len == 0 { u32::MAX } else { snap_len };
        let mut pcap = Pcap {
            device,
            writer,
            snap_len: snap_len as usize,
            zero,
            blocks: Vec::new(),
            ends: Vec::new(),
            written: 0,
            missed: 0,
            has_failed: false,
        };
        pcap.begin(mac, snap_len);
        pcap.write();
        pcap
    }

    /// Whether the writer has failed: from then on, nothing was written.
    pub fn has_failed(&self) -> bool {
        self.has_failed
    }

    /// The head of the file: one section, one interface.
    fn begin(&mut self, mac: Mac, snap_len: u32) {
        self.block(SECTION_HEADER, |out| {
            out.extend(BYTE_ORDER.to_le_bytes());
            out.extend([1, 0, 0, 0]); // version 1.0
            out.extend(u64::MAX.to_le_bytes()); // as long as it gets
        });
        self.block(INTERFACE, |out| {
            out.extend(LINKTYPE_ETHERNET.to_le_bytes());
            out.extend([0, 0]);
            out.extend(snap_len.to_le_bytes());
            option(out, OPTION_MAC, &mac.0);
            option(out, OPTION_RESOLUTION, &[9]); // ten to the minus ninth of a second
            option(out, OPTION_END, &[]);
        });
        self.ends.clear();
    }

    /// A block: its type, its length before and after.
    fn block(&mut self, kind: u32, body: impl FnOnce(&mut Vec<u8>)) {
        let start = self.blocks.len();
        self.blocks.extend(kind.to_le_bytes());
        self.blocks.extend([0; 4]);
        body(&mut self.blocks);
        let len = (self.blocks.len() - start + 4) as u32;
        self.blocks[start + 4..start + 8].copy_from_slice(&len.to_le_bytes());
        self.blocks.extend(len.to_le_bytes());
        self.ends.push(self.blocks.len());
    }

    fn packet<'a>(&mut self, now: Instant, direction: u32, len: usize, pieces: impl Iterator<Item = &'a [u8]>) {
        if self.has_failed {
            return;
        }
        let nanos = self.zero.as_nanos().saturating_add(now.as_nanos());
        let captured = len.min(self.snap_len);
        self.block(ENHANCED_PACKET, |out| {
            let words = [0, (nanos >> 32) as u32, nanos as u32, captured as u32, len as u32];
            words.into_iter().for_each(|word| out.extend(word.to_le_bytes()));
            let mut left = captured;
            for piece in pieces {
                let part = piece.len().min(left);
                out.extend_from_slice(&piece[..part]);
                left -= part;
            }
            pad(out, captured);
            option(out, OPTION_FLAGS, &direction.to_le_bytes());
            option(out, OPTION_END, &[]);
        });
    }

    /// Hands the blocks of a burst, of `frames` frames, to the writer.
    fn write_frames(&mut self, frames: usize) {
        let before = self.has_failed;
        self.write();
        let to = if before || self.has_failed { &mut self.missed } else { &mut self.written };
        *to += frames as u64;
    }

    fn write(&mut self) {
        if !self.has_failed && !self.blocks.is_empty() {
            self.has_failed = self.writer.write_all(&self.blocks).is_err();
        }
        self.blocks.clear();
        self.ends.clear();
    }
}

/// An option: its code, its length, its value, up to the next word.
fn option(out: &mut Vec<u8>, code: u16, value: &[u8]) {
    out.extend(code.to_le_bytes());
    out.extend((value.len() as u16).to_le_bytes());
    out.extend(value);
    pad(out, value.len());
}

fn pad(out: &mut Vec<u8>, len: usize) {
    out.resize(out.len() + len.next_multiple_of(4) - len, 0);
}

impl<D: Device, W: Write> Device for Pcap<D, W> {
    fn link(&self) -> Link {
        self.device.link()
    }

    fn receive(&mut self, now: Instant, into: &mut VecDeque<Received>, room: usize) -> Result<(), Error> {
        let before = into.len();
        let result = self.device.receive(now, into, room);
        for received in into.range(before..) {
            self.packet(now, INBOUND, received.buf.len(), std::iter::once(&received.buf[..]));
        }
        self.write_frames(into.len() - before);
        result
    }

    fn transmit(&mut self, now: Instant, frames: &mut VecDeque<Frame>) {
        // What is taken is gone afterwards; so all are noted, and the notes of those that were left are dropped.
        for frame in frames.iter() {
            self.packet(now, OUTBOUND, frame.len(), frame.pieces().map(|piece| &piece[..]));
        }
        let before = frames.len();
        self.device.transmit(now, frames);
        let taken = before - frames.len();
        let end = taken.checked_sub(1).and_then(|last| self.ends.get(last).copied());
        self.blocks.truncate(end.unwrap_or(0));
        self.write_frames(taken);
    }

    fn flush(&mut self, now: Instant) {
        self.device.flush(now);
    }

    fn arm(&mut self, now: Instant) -> WakeOn {
        self.device.arm(now)
    }

    fn deadline(&self) -> Option<Instant> {
        self.device.deadline()
    }

    fn in_flight(&self) -> usize {
        self.device.in_flight()
    }

    fn counters(&self) -> Vec<(&'static str, u64)> {
        let mut counters = self.device.counters();
        counters.extend([("pcap_written", self.written), ("pcap_missed", self.missed)]);
        counters
    }
}

impl<D, W: Write> Drop for Pcap<D, W> {
    fn drop(&mut self) {
        // Nobody is left who could be told that it failed.
        let _ = self.writer.flush();
    }
}

#[cfg(test)]
mod tests {
    use std::io;
    use std::time::Duration;

    use super::*;
    use crate::wrap::fake::Fake;

    /// What a file says of a packet: its time, its direction, its length, and what was captured.
    #[derive(PartialEq, Debug)]
    struct Packet {
        nanos: u64,
        flags: u32,
        len: usize,
        bytes: Vec<u8>,
    }

    fn word(bytes: &[u8], at: usize) -> u32 {
        u32::from_le_bytes(bytes[at..at + 4].try_into().unwrap())
    }

    /// Reads a file as the draft describes it, and checks its frame of blocks.
    fn read(mut bytes: &[u8]) -> Vec<Packet> {
        let mut packets = Vec::new();
        let mut kinds = Vec::new();
        while !bytes.is_empty() {
            let (kind, len) = (word(bytes, 0), word(bytes, 4) as usize);
            assert_eq!((len % 4, word(bytes, len - 4) as usize), (0, len), "a block's two lengths");
            let body = &bytes[8..len - 4];
            match kind {
                SECTION_HEADER => assert_eq!((word(body, 0), word(body, 4)), (BYTE_ORDER, 1)),
                INTERFACE => {
                    let resolution = body.windows(5).any(|option| option == [9, 0, 1, 0, 9]);
                    assert!(body[..2] == [1, 0] && resolution, "Ethernet, in nanoseconds");
                }
                _ => {
                    let captured = word(body, 12) as usize;
                    let options = &body[20 + captured.next_multiple_of(4)..];
                    assert_eq!((options[..4].to_vec(), options.len()), (vec![2, 0, 4, 0], 12));
                    packets.push(Packet {
                        nanos: u64::from(word(body, 4)) << 32 | u64::from(word(body, 8)),
                        flags: word(options, 4),
                        len: word(body, 16) as usize,
                        bytes: body[20..20 + captured].to_vec(),
                    });
                }
            }
            kinds.push(kind);
            bytes = &bytes[len..];
        }
        assert_eq!(kinds[..2], [SECTION_HEADER, INTERFACE]);
        packets
    }

    const ZERO: WallTime = WallTime::from_nanos(1_900_000_000_000_000_000);

    /// A frame in, three to be sent of which two are taken, and one more.
    fn scene(file: &mut Vec<u8>, snap_len: u32) -> Vec<(&'static str, u64)> {
        let mut fake = Fake::new();
        fake.arrive(&[7; 61]);
        fake.room = 2;
        let mut pcap = Pcap::new(fake, file, snap_len, ZERO);
        let now = Instant::from_nanos(1_000_000_123);
        pcap.receive(now, &mut VecDeque::new(), 8).unwrap();
        let mut frames: VecDeque<Frame> = [62, 63, 64].map(|len| pcap.device.frame(&vec![len as u8; len])).into();
        pcap.transmit(now + Duration::from_nanos(1), &mut frames);
        assert_eq!(frames.len(), 1);
        pcap.transmit(now, &mut frames);
        pcap.device.room = 1;
        pcap.transmit(now + Duration::from_nanos(2), &mut frames);
        assert_eq!(pcap.device.sent.len(), 3);
        pcap.counters()
    }

    #[test]
    fn what_is_written_can_be_read_back() {
        let mut file = Vec::new();
        let counters = scene(&mut file, 0);
        assert_eq!(counters, [("fake", 1), ("pcap_written", 4), ("pcap_missed", 0)]);
        let packet = |flags, after: u64, len: usize, byte: u8| Packet {
            nanos: ZERO.as_nanos() + 1_000_000_123 + after,
            flags,
            len,
            bytes: vec![byte; len],
        };
        let expected = [packet(1, 0, 61, 7), packet(2, 1, 62, 62), packet(2, 1, 63, 63), packet(2, 2, 64, 64)];
        assert_eq!(read(&file), expected);
    }

    #[test]
    fn only_so_much_of_a_frame_is_written_as_was_asked_for() {
        let mut file = Vec::new();
        scene(&mut file, 21);
        let lens: Vec<_> = read(&file).iter().map(|packet| (packet.bytes.len(), packet.len)).collect();
        assert_eq!(lens, [(21, 61), (21, 62), (21, 63), (21, 64)]);
    }

    /// Takes so many bytes and then fails.
    struct Full(usize);

    impl Write for Full {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            let count = bytes.len().min(self.0);
            self.0 -= count;
            if count == 0 { Err(io::ErrorKind::StorageFull.into()) } else { Ok(count) }
        }

        fn flush(&mut self) -> io::Result<()> {
            Err(io::ErrorKind::StorageFull.into())
        }
    }

    #[test]
    fn a_writer_that_fails_does_not_harm_the_device() {
        for room in [0, 200, 300] {
            let mut fake = Fake::new();
            (0..6).for_each(|i| fake.arrive(&[i; 60]));
            let mut pcap = Pcap::new(fake, Full(room), 0, ZERO);
            let mut into = VecDeque::new();
            while into.len() < 6 {
                pcap.receive(Instant::ZERO, &mut into, 1).unwrap();
            }
            let mut frames: VecDeque<Frame> = [pcap.device.frame(&[1; 60])].into();
            pcap.transmit(Instant::ZERO, &mut frames);
            assert_eq!((frames.len(), pcap.device.sent.len()), (0, 1));
            assert!(pcap.has_failed());
            let counters = pcap.counters();
            let of = |name| counters.iter().find(|counter| counter.0 == name).unwrap().1;
            assert_eq!(of("pcap_written") + of("pcap_missed"), 7, "{counters:?}");
            assert!(of("pcap_missed") >= 5, "{counters:?}");
        }
    }
}
