//! What a line can carry: frames as devices take them and give them, and plain bytes.

use libos_mem::{Buf, Heap};
use pdpix::Sga;
use zerocopy::FromBytes;

use crate::device::{Frame, Received};
use crate::wire::{Checksum, ETHERNET_LEN, Ecn, EtherType, EthernetHeader, IPV4_LEN, IPV6_LEN};

/// A frame, in whatever form.
pub trait Carried: Sized {
    /// Bytes, from the Ethernet header on.
    fn frame_len(&self) -> usize;

    /// Its first bytes: at least the Ethernet and IP headers, where it has them.
    fn head(&self) -> &[u8];

    /// The same frame again. `None`: there is no memory for it.
    fn twin(&self) -> Option<Self>;

    /// The frame with other bytes, as `change` makes them. `None`: there is no memory for a copy.
    fn changed(self, change: impl FnOnce(&mut [u8])) -> Option<Self>;

    /// Its first `len` bytes, of which it has more. `None`: there is no memory for a copy.
    fn cut(self, len: usize) -> Option<Self>;
}

impl Carried for Vec<u8> {
    fn frame_len(&self) -> usize {
        self.len()
    }

    fn head(&self) -> &[u8] {
        self
    }

    fn twin(&self) -> Option<Vec<u8>> {
        Some(self.clone())
    }

    fn changed(mut self, change: impl FnOnce(&mut [u8])) -> Option<Vec<u8>> {
        change(&mut self);
        Some(self)
    }

    fn cut(mut self, len: usize) -> Option<Vec<u8>> {
        self.truncate(len);
        Some(self)
    }
}

impl Carried for Buf {
    fn frame_len(&self) -> usize {
        self.len()
    }

    fn head(&self) -> &[u8] {
        self
    }

    fn twin(&self) -> Option<Buf> {
        Some(self.clone())
    }

    /// Others may hold the same memory, so the change is made to a copy.
    fn changed(self, change: impl FnOnce(&mut [u8])) -> Option<Buf> {
        changed_copy(&self.heap(), std::iter::once(&self), self.len(), change)
    }

    fn cut(mut self, len: usize) -> Option<Buf> {
        self.truncate(len);
        Some(self)
    }
}

impl Carried for Received {
    fn frame_len(&self) -> usize {
        self.buf.len()
    }

    fn head(&self) -> &[u8] {
        &self.buf
    }

    fn twin(&self) -> Option<Received> {
        Some(Received { buf: self.buf.clone(), verified: self.verified })
    }

    fn changed(self, change: impl FnOnce(&mut [u8])) -> Option<Received> {
        Some(Received { buf: self.buf.changed(change)?, verified: false })
    }

    fn cut(self, len: usize) -> Option<Received> {
        Some(Received { buf: self.buf.cut(len)?, verified: false })
    }
}

impl Carried for Frame {
    fn frame_len(&self) -> usize {
        self.len()
    }

    fn head(&self) -> &[u8] {
        &self.header
    }

    fn twin(&self) -> Option<Frame> {
        let mut payload = Sga::with_room(self.payload.segments().len(), &self.header.heap()).ok()?;
        for segment in self.payload.segments() {
            payload.push(segment.clone()).ok()?;
        }
        Some(Frame { header: self.header.clone(), payload, ..*self })
    }

    fn changed(self, change: impl FnOnce(&mut [u8])) -> Option<Frame> {
        let header = changed_copy(&self.header.heap(), self.pieces(), self.len(), change)?;
        Some(Frame { header, payload: Sga::new(), ..self })
    }

    fn cut(self, len: usize) -> Option<Frame> {
        let header = changed_copy(&self.header.heap(), self.pieces(), self.len(), |_| {})?.cut(len)?;
        Some(Frame { header, payload: Sga::new(), ..self })
    }
}

/// A copy in one piece, changed.
fn changed_copy<'a>(
    heap: &Heap,
    pieces: impl Iterator<Item = &'a Buf>,
    len: usize,
    change: impl FnOnce(&mut [u8]),
) -> Option<Buf> {
    let mut copy = heap.alloc(len).ok()?;
    pieces.for_each(|piece| _ = copy.put(piece));
    change(&mut copy);
    Some(copy.freeze())
}

/// Whether the transport of this packet takes part in ECN, and it is not marked yet.
pub(super) fn can_be_marked(head: &[u8]) -> bool {
    traffic_class(head).is_some_and(|class| matches!(Ecn::from_bits(class), Ecn::Capable0 | Ecn::Capable1))
}

fn traffic_class(head: &[u8]) -> Option<u8> {
    let (ethernet, ip) = EthernetHeader::ref_from_prefix(head).ok()?;
    match ethernet.ethertype {
        EtherType::IPV4 if ip.len() >= IPV4_LEN => Some(ip[1]),
        EtherType::IPV6 if ip.len() >= IPV6_LEN => Some(ip[0] << 4 | ip[1] >> 4),
        _ => None,
    }
}

/// Says "congestion experienced" (RFC 3168 §5) in a packet that [`can_be_marked`].
pub(super) fn mark(bytes: &mut [u8]) {
    let ip = &mut bytes[ETHERNET_LEN..];
    if ip[0] >> 4 == 6 {
        ip[1] |= (Ecn::Congested as u8) << 4;
        return;
    }
    // RFC 1624: the new checksum from the old one and the word that changes.
    let before = u16::from_be_bytes([ip[0], ip[1]]);
    ip[1] |= Ecn::Congested as u8;
    let after = u16::from_be_bytes([ip[0], ip[1]]);
    let old = u16::from_be_bytes([ip[10], ip[11]]);
    let new = Checksum::new().add_u16(!old).add_u16(!before).add_u16(after).finish();
    ip[10..12].copy_from_slice(&new.to_be_bytes());
}
