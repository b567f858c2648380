//! The short way of most segments out: a header with timestamps and no other option, and text that is short enough to lie
//! behind it. The header is put together as four words, and summed as they are: never read again from where they were
//! just written in smaller pieces.
//!
//! Always: the header is, byte for byte, the one that [`put_header`](super::put_header) writes (the test compares them).

use libos_mem::CopyPath;
use pdpix::{Error, Sga};
use zerocopy::IntoBytes;

use super::super::seq::SeqNumber;
use super::super::tcb::{Cx, Tcb};
use super::CHECKSUM_FIELD;
use crate::device::ChecksumAt;
use crate::wire::{Ecn, Flags, Protocol, STAMPS_LEN, TCP_LEN, Timestamps};

/// Bytes of the header.
const HEADER_LEN: usize = TCP_LEN + STAMPS_LEN;
/// Two NOPs before the option, its kind and its length (RFC 7323, appendix A).
const STAMPS_BEGIN: u32 = 0x0101_080a;

/// A header in network order: RFC 9293 §3.1's first five words and the option's three, two in each.
type Words = [u64; HEADER_LEN / 8];

impl Tcb {
    /// Writes a segment of `text` bytes, which are in the send queue from `offset` on.
    #[inline(always)]
    pub(super) fn emit_plain(
        &mut self,
        (seq, flags, stamps): (SeqNumber, Flags, Timestamps),
        (offset, text): (usize, usize),
        ecn: Ecn,
        cx: &mut Cx<'_>,
    ) -> Result<(), Error> {
        let len = HEADER_LEN + text;
        let mut memory = cx.ip.begin(&mut self.path, Protocol::TCP, ecn, len, len)?;
        let start = memory.len();
        let window = self.receive.announce(self.mss);
        let ports = (self.ends.local.port(), self.ends.remote.port());
        let words = words(ports, (seq, self.receive.nxt), flags, window, stamps);
        memory.put(words.as_bytes());
        if text > 0 {
            self.queue.copy(offset, &mut memory, text);
            cx.ip.heap().count_copied(CopyPath::Push, text);
        }
        let pseudo = self.path.pseudo_header(Protocol::TCP, len);
        let (sum, offload) = if cx.ip.fills_checksums(&self.path) {
            (pseudo.partial(), Some(ChecksumAt { start: start as u16, field: CHECKSUM_FIELD as u16 }))
        } else {
            let header = words.iter().fold(pseudo, |sum, &word| sum.add_word(word));
            (header.add(&memory[start + HEADER_LEN..]).finish(), None)
        };
        memory[start + CHECKSUM_FIELD..start + CHECKSUM_FIELD + 2].copy_from_slice(&sum.to_be_bytes());
        cx.ip.counters.tcp_segments_sent += 1;
        cx.ip.send(&mut self.path, memory, Sga::new(), offload, 0, cx.now);
        self.note_acked();
        Ok(())
    }
}

/// The header, its checksum zero.
#[inline(always)]
fn words(
    (source, destination): (u16, u16),
    (seq, ack): (SeqNumber, SeqNumber),
    flags: Flags,
    window: u16,
    stamps: Timestamps,
) -> Words {
    let ports = u32::from(source) << 16 | u32::from(destination);
    let fourth = (HEADER_LEN as u32 / 4) << 28 | u32::from(flags.0) << 16 | u32::from(window);
    [word(ports, seq.get()), word(ack.get(), fourth), word(0, STAMPS_BEGIN), word(stamps.value, stamps.echo)]
}

/// Two words of a header, as they lie in memory.
#[inline(always)]
const fn word(first: u32, second: u32) -> u64 {
    ((first as u64) << 32 | second as u64).to_be()
}

#[cfg(test)]
mod tests {
    use libos_mem::Heap;
    use quickcheck::quickcheck;

    use super::super::{Header, Options, put_header};
    use super::*;

    quickcheck! {
        fn the_header_is_that_of_the_long_way(
            ports: (u16, u16), numbers: (u32, u32), flags: u8, window: u16, stamps: (u32, u32)
        ) -> bool {
            let (seq, ack, flags) = (SeqNumber::new(numbers.0), SeqNumber::new(numbers.1), Flags(flags));
            let stamps = Timestamps { value: stamps.0, echo: stamps.1 };
            let mut memory = Heap::alone(1 << 20).unwrap().alloc(HEADER_LEN).unwrap();
            put_header(&mut memory, &Header { ports, seq, ack, flags, window, options: Options::Stamps(stamps) });
            words(ports, (seq, ack), flags, window, stamps).as_bytes() == &memory[..]
        }
    }
}
