//! AF_XDP: frames of one queue of an interface, in memory shared with the kernel or the card.
//!
//! The whole reservation is the UMEM, one for all sockets of a port. Receiving: the fill ring holds chunks of receive memory
//! of this core's heap; a frame received *is* that chunk, and another one takes its place. Sending: a frame in one piece of
//! our memory is sent from where it lies, and held until the completion ring gives it back; what lies in several pieces is
//! put together in header memory first, counted (docs/xdp.md has the figures of both ways).
//!
//! Always: a chunk that the kernel may write to is in `filled`, and nowhere else; a piece that it may read from is in
//! `sent`. What the rings say is checked against both. Bounds: the size of the rings.
//!
//! Source: Documentation/networking/af_xdp.rst. Not here: frames received in several chunks; so the MTU is at most
//! [`MTU_MAX`].

use std::collections::VecDeque;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::sync::Arc;
use std::time::Duration;

use libos_mem::{Buf, BufMut, CopyPath, Heap, Purpose};
use libos_net::wire::ETHERNET_LEN;
use libos_net::{Device, Frame, Link, Offloads, Received};
use pdpix::{Error, Instant, WakeOn};
use rustix::io::Errno;

use crate::OpenError;
use crate::copies::Copies;
use crate::counters::Counters;
use crate::ffi;
use crate::ffi::xsk::{self, Rings};
use crate::partial;
use crate::port::{Port, XskSettings};

/// What the kernel keeps before each frame that it writes (XDP_PACKET_HEADROOM).
const HEADROOM: usize = 256;

/// Room for a VLAN tag.
const TAG_LEN: usize = 4;

/// The longest IP packet: a chunk is at most a page.
pub const MTU_MAX: usize = 4096 - HEADROOM - ETHERNET_LEN - TAG_LEN;

/// Bytes of a chunk for this MTU: 2 KiB or 4 KiB.
pub(crate) fn chunk_size(mtu: usize) -> Option<usize> {
    [2048, 4096].into_iter().find(|size| HEADROOM + ETHERNET_LEN + TAG_LEN + mtu <= *size)
}

/// Pages of the kernel's: in zero-copy mode a piece may not cross one.
const PAGE_SIZE: usize = 4096;

/// Calls that one `flush` makes for frames that the kernel takes in portions.
const KICKS_MAX: usize = 64;

/// How often the kernel's counters are read, and a silent socket looks whether its interface is there still.
const LOOK_INTERVAL: Duration = Duration::from_millis(50);

/// An AF_XDP socket on one queue of an interface.
pub struct Xsk {
    /// Closed before the memory below goes.
    socket: Option<Arc<OwnedFd>>,
    port: Arc<Port>,
    queue: u32,
    rings: Rings,
    /// Where our addresses are the kernel's as well.
    copies: Option<Copies>,
    filled: Filled,
    /// What the kernel may read from, in the order of the transmit ring. `None`: it has come back before those before it.
    sent: VecDeque<Option<Sent>>,
    /// Of these, those that have not come back.
    in_flight: usize,
    ring_size: u32,
    heap: Heap,
    link: Link,
    is_zero_copy: bool,
    polls_busily: bool,
    is_down: bool,
    /// The interface is there, and not up.
    is_link_down: bool,
    /// It was not up, and nothing has come since.
    was_down: bool,
    is_busy: bool,
    is_short_of_memory: bool,
    look_at: Instant,
    counters: Counters,
    /// What the kernel had counted at the last look.
    rx_bad: u64,
}

struct Sent {
    address: u64,
    _held: Buf,
}

impl Xsk {
    /// Opens queue 0 of an interface for one core alone.
    ///
    /// # Errors
    /// [`OpenError`]: mostly rights (docs/privileges.md), a missing program, or an interface that is taken.
    pub fn open(settings: XskSettings, heap: Heap) -> Result<Xsk, OpenError> {
        let port = Port::open(settings, heap.reservation())?;
        port.queue(0, heap)
    }

    pub(crate) fn over(
        socket: Arc<OwnedFd>,
        rings: Rings,
        copies: Option<Copies>,
        port: Arc<Port>,
        queue: u32,
        heap: Heap,
    ) -> Result<Xsk, OpenError> {
        let settings = port.settings();
        let is_zero_copy = xsk::is_zero_copy(&socket).unwrap_or(false);
        let offloads = Offloads {
            verifies: port.partial_checksums(),
            checksums: false,
            segments: None,
            gathers: settings.gathers.max(1),
            external: true,
        };
        let chunk_size = port.chunk_size();
        let mut xsk = Xsk {
            link: Link { mac: settings.mac.map_or_else(|| port.interface().mac(), Ok)?, mtu: port.mtu(), offloads },
            filled: Filled::new(&heap, chunk_size),
            socket: Some(socket),
            rings,
            copies,
            sent: VecDeque::with_capacity(settings.ring_size as usize),
            in_flight: 0,
            ring_size: settings.ring_size,
            polls_busily: settings.busy_poll.is_some(),
            queue,
            heap,
            is_zero_copy,
            is_down: false,
            is_link_down: false,
            was_down: false,
            is_busy: false,
            is_short_of_memory: false,
            look_at: Instant::ZERO,
            counters: Counters::default(),
            rx_bad: 0,
            port,
        };
        xsk.refill();
        if xsk.filled.count == 0 {
            return Err(OpenError::BadSettings("the heap has no receive memory for an AF_XDP socket".into()));
        }
        Ok(xsk)
    }

    /// Whether the card reads and writes our memory itself.
    pub fn is_zero_copy(&self) -> bool {
        self.is_zero_copy
    }

    /// The port that its queue belongs to.
    pub fn port(&self) -> &Arc<Port> {
        &self.port
    }

    fn socket(&self) -> &OwnedFd {
        self.socket.as_ref().expect("taken by drop only")
    }

    /// The address of a byte of the reservation in the UMEM.
    fn address_of(&self, at: *const u8) -> u64 {
        (at as usize - self.heap.reservation().base().as_ptr() as usize) as u64
    }

    /// Puts chunks into the fill ring until it is as full as it shall be.
    fn refill(&mut self) {
        while self.filled.count < self.ring_size as usize && self.rings.fill.room() > 0 {
            let Some(chunk) = self.filled.allocate(&self.heap) else {
                self.counters.rx_no_memory += 1;
                self.is_short_of_memory = self.filled.count == 0;
                break;
            };
            let address = self.address_of(chunk.as_ptr());
            self.filled.put(address, chunk);
            self.rings.fill.write(address);
        }
        self.rings.fill.publish();
    }

    /// The frame that a descriptor speaks of, if it speaks of a chunk that we had given.
    fn take(&mut self, desc: libc::xdp_desc) -> Option<Received> {
        // Unaligned chunks: where the chunk begins, and in the upper 16 bits how far into it the frame does.
        let (base, offset) = (desc.addr & ((1 << 48) - 1), (desc.addr >> 48) as usize);
        let chunk = self.filled.take(base)?;
        if desc.options & libc::XDP_PKT_CONTD != 0 {
            return None; // one of several pieces, which we have not asked for
        }
        let buf = xsk::received(chunk, offset, desc.len as usize)?;
        let verified = self.link.offloads.verifies && partial::is_left_out(&buf);
        (buf.len() >= ETHERNET_LEN).then_some(Received { buf, verified })
    }

    /// Takes what is in the receive ring, and says how many descriptors that were.
    fn take_received(&mut self, into: &mut VecDeque<Received>, room: usize) -> usize {
        let mut taken = 0;
        while taken < room {
            let Some(desc) = self.rings.rx.read() else { break };
            taken += 1;
            match self.take(desc) {
                Some(received) => {
                    self.counters.rx_frames += 1;
                    into.push_back(received);
                }
                None => self.counters.rx_bad_descriptors += 1,
            }
        }
        self.rings.rx.release();
        taken
    }

    /// Whether a piece can be sent from where it lies.
    fn is_sendable(&self, piece: &Buf) -> bool {
        let reservation = self.heap.reservation();
        let crosses_page = piece.as_ptr() as usize % PAGE_SIZE + piece.len() > PAGE_SIZE;
        !piece.is_empty()
            && piece.len() <= self.port.chunk_size()
            && reservation.contains(piece.as_ptr())
            && !(self.is_zero_copy && crosses_page)
    }

    fn is_gathered(&self, frame: &Frame) -> bool {
        if frame.payload.is_empty() {
            return self.is_sendable(&frame.header);
        }
        let count = frame.pieces().filter(|piece| !piece.is_empty()).count();
        count <= self.link.offloads.gathers && frame.pieces().all(|piece| piece.is_empty() || self.is_sendable(piece))
    }

    /// Writes a frame into the transmit ring. The frame back: there is no room, or no memory to put it together in.
    fn transmit_one(&mut self, mut frame: Frame) -> Result<(), Frame> {
        if frame.len() > self.link.mtu + ETHERNET_LEN + TAG_LEN {
            debug_assert!(false, "a frame of {} bytes", frame.len());
            self.counters.tx_dropped += 1;
            return Ok(());
        }
        if !self.is_gathered(&frame) {
            frame = self.linearise(frame)?;
        }
        if frame.payload.is_empty() {
            if self.room() == 0 {
                return Err(frame);
            }
            self.write(frame.header, 0);
        } else {
            self.write_pieces(frame)?;
        }
        self.counters.tx_frames += 1;
        Ok(())
    }

    fn write_pieces(&mut self, frame: Frame) -> Result<(), Frame> {
        let mut left = frame.pieces().filter(|piece| !piece.is_empty()).count();
        if self.room() < left {
            return Err(frame);
        }
        for piece in std::iter::once(frame.header).chain(frame.payload).filter(|piece| !piece.is_empty()) {
            left -= 1;
            self.write(piece, if left > 0 { libc::XDP_PKT_CONTD } else { 0 });
        }
        Ok(())
    }

    fn write(&mut self, piece: Buf, options: u32) {
        let address = self.address_of(piece.as_ptr());
        self.rings.tx.write(libc::xdp_desc { addr: address, len: piece.len() as u32, options });
        self.sent.push_back(Some(Sent { address, _held: piece }));
        self.in_flight += 1;
    }

    /// Descriptors that can be written: what comes back must fit into the completion ring, too.
    fn room(&self) -> usize {
        (self.rings.tx.room() as usize).min((self.ring_size as usize).saturating_sub(self.in_flight))
    }

    fn linearise(&mut self, frame: Frame) -> Result<Frame, Frame> {
        let len = frame.len();
        // A chunk of a power of two lies within a page.
        let size = len.next_power_of_two();
        let Ok(mut whole) = self.heap.alloc_for(Purpose::Header, size) else { return Err(frame) };
        frame.pieces().for_each(|piece| {
            whole.put(piece);
        });
        self.heap.count_copied(CopyPath::Push, len);
        self.counters.tx_copied_bytes += len as u64;
        let whole = whole.freeze();
        if !self.is_sendable(&whole) {
            return Err(frame); // no chunk of that size was left, and the larger one crosses a page
        }
        Ok(Frame { header: whole, payload: pdpix::Sga::new(), ..frame })
    }

    /// Takes back what the kernel is done with.
    fn reap(&mut self) {
        while let Some(address) = self.rings.completion.read() {
            let is_it = |sent: &Option<Sent>| sent.as_ref().is_some_and(|sent| sent.address == address);
            match self.sent.front() {
                Some(oldest) if is_it(oldest) => drop(self.sent.pop_front()),
                _ => match self.sent.iter().position(is_it) {
                    Some(at) => self.sent[at] = None,
                    None => {
                        self.counters.tx_bad_completions += 1;
                        continue;
                    }
                },
            }
            self.in_flight -= 1;
            while let Some(None) = self.sent.front() {
                self.sent.pop_front();
            }
        }
        if self.sent.len() > 2 * self.ring_size as usize {
            self.sent.retain(Option::is_some); // the oldest does not come back
        }
        self.rings.completion.release();
    }

    /// Reads the kernel's counters, and whether the interface has gone.
    fn look(&mut self, now: Instant) -> bool {
        if now < self.look_at {
            return false;
        }
        self.look_at = now + LOOK_INTERVAL;
        if let Ok(seen) = xsk::statistics(self.socket()) {
            self.counters.rx_dropped = seen.rx_dropped + seen.rx_ring_full + seen.rx_fill_ring_empty_descs;
            self.counters.tx_bad_descriptors = seen.tx_invalid_descs;
            self.rx_bad = seen.rx_invalid_descs;
        }
        self.was_down |= self.is_link_down || ffi::take_socket_error(self.socket()).is_some();
        self.was_down && !self.port.interface().exists()
    }

    /// The interface has gone. It was closed before its name went (`unregister_netdevice`: no more is received), and the
    /// kernel unbinds the socket from it: our memory is not touched any more, but perhaps by a card.
    fn let_go(&mut self) {
        self.is_down = true;
        if self.is_zero_copy {
            self.bury();
        }
        self.sent.clear();
        self.in_flight = 0;
        self.filled.clear();
    }

    /// Never frees what the card may still touch.
    fn bury(&mut self) {
        self.counters.buried += (self.in_flight + self.filled.count) as u64;
        self.sent.drain(..).for_each(std::mem::forget);
        self.filled.bury();
    }
}

impl Device for Xsk {
    fn link(&self) -> Link {
        self.link
    }

    fn receive(&mut self, now: Instant, into: &mut VecDeque<Received>, room: usize) -> Result<(), Error> {
        if self.is_down {
            return Ok(());
        }
        self.is_short_of_memory = false;
        let before = into.len();
        if let Some(copies) = &mut self.copies {
            copies.receive(now, into, room);
        }
        let room = room - (into.len() - before);
        let mut taken = self.take_received(into, room);
        if taken == 0 && (self.polls_busily || self.rings.fill.wants_wakeup()) {
            let _ = xsk::kick_receive(self.socket());
            taken = self.take_received(into, room);
        }
        if taken > 0 {
            self.was_down = false;
            self.refill();
        } else if self.look(now) {
            self.let_go();
            return Err(Error::NetworkDown);
        } else if self.filled.count < self.ring_size as usize / 2 {
            self.refill(); // there was no memory before
        }
        Ok(())
    }

    fn transmit(&mut self, _: Instant, frames: &mut VecDeque<Frame>) {
        self.is_busy = false;
        if self.is_down {
            self.counters.tx_dropped += frames.len() as u64;
            return frames.clear();
        }
        if self.room() < frames.len() {
            self.reap();
        }
        while let Some(frame) = frames.pop_front() {
            if let Err(frame) = self.transmit_one(frame) {
                if self.is_link_down {
                    self.counters.tx_dropped += 1;
                    continue;
                }
                self.counters.tx_busy += 1;
                self.is_busy = true;
                return frames.push_front(frame);
            }
        }
    }

    fn flush(&mut self, _: Instant) {
        if self.is_down {
            return;
        }
        self.rings.tx.publish();
        for _ in 0..KICKS_MAX {
            let waiting = self.rings.tx.waiting();
            if waiting == 0 || !self.rings.tx.wants_wakeup() {
                break;
            }
            self.counters.tx_calls += 1;
            let kicked = xsk::kick_transmit(self.socket());
            self.is_link_down = kicked == Err(Errno::NETDOWN);
            match kicked {
                Ok(()) => {}
                // It takes a portion at a time, and says so.
                Err(Errno::AGAIN | Errno::BUSY | Errno::NOBUFS | Errno::INTR) if self.rings.tx.waiting() < waiting => {}
                Err(_) => break,
            }
        }
        if self.in_flight > 0 {
            self.reap();
        }
    }

    fn arm(&mut self, _: Instant) -> WakeOn {
        self.look_at = Instant::ZERO;
        if self.is_down {
            WakeOn::Nothing
        } else if self.is_short_of_memory || self.is_busy || self.was_down || self.in_flight > 0 {
            WakeOn::Nap
        } else {
            let own = || self.socket().as_fd().as_raw_fd();
            WakeOn::Descriptor(self.copies.as_ref().map_or_else(own, Copies::wakes_on))
        }
    }

    fn in_flight(&self) -> usize {
        self.in_flight
    }

    fn counters(&self) -> Vec<(&'static str, u64)> {
        self.counters.list()
    }
}

impl Drop for Xsk {
    fn drop(&mut self) {
        let Some(socket) = self.socket.take() else { return };
        self.port.close_queue(self.queue, socket);
        // In copy mode the kernel has stopped when the last descriptor is closed, and has copies of what it sends.
        // A card may go on for a while; and where somebody else opened the socket, he may hold it still.
        if self.is_zero_copy || self.port.is_granted() {
            self.bury();
        }
    }
}

impl std::fmt::Debug for Xsk {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Xsk({} queue {}, {:?})", self.port.interface().name(), self.queue, self.link)
    }
}

/// The chunks of this core's heap that the kernel may write to, by their place.
struct Filled {
    /// One place for each chunk that the heap could have.
    chunks: Box<[Option<BufMut>]>,
    /// Where in the UMEM the heap begins.
    start: u64,
    chunk_size: usize,
    count: usize,
}

impl Filled {
    fn new(heap: &Heap, chunk_size: usize) -> Filled {
        let reservation = heap.reservation();
        let heap_size = reservation.size() / reservation.heap_count();
        Filled {
            chunks: (0..heap_size / chunk_size).map(|_| None).collect(),
            start: (heap.index() * heap_size) as u64,
            chunk_size,
            count: 0,
        }
    }

    /// A chunk that begins at a multiple of its size, so that its place is its own, and it crosses no page.
    fn allocate(&self, heap: &Heap) -> Option<BufMut> {
        let chunk = heap.alloc_for(Purpose::Receive, self.chunk_size).ok()?;
        let offset = chunk.as_ptr() as usize - heap.reservation().base().as_ptr() as usize;
        offset.is_multiple_of(self.chunk_size).then_some(chunk)
    }

    fn place(&self, address: u64) -> Option<usize> {
        let offset = address.checked_sub(self.start)? as usize;
        offset.is_multiple_of(self.chunk_size).then_some(offset / self.chunk_size)
    }

    fn put(&mut self, address: u64, chunk: BufMut) {
        let place = self.place(address).expect("allocated at such a place");
        debug_assert!(self.chunks[place].is_none(), "the heap gave a chunk twice");
        self.chunks[place] = Some(chunk);
        self.count += 1;
    }

    /// Takes the chunk at this address back, if it was given.
    fn take(&mut self, address: u64) -> Option<BufMut> {
        let place = self.place(address)?;
        let chunk = self.chunks.get_mut(place)?.take()?;
        self.count -= 1;
        Some(chunk)
    }

    fn clear(&mut self) {
        self.chunks.iter_mut().for_each(|chunk| *chunk = None);
        self.count = 0;
    }

    fn bury(&mut self) {
        self.chunks.iter_mut().filter_map(Option::take).for_each(std::mem::forget);
        self.count = 0;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn chunks_are_as_large_as_the_mtu_takes() {
        assert_eq!(chunk_size(1500), Some(2048));
        assert_eq!((chunk_size(1774), chunk_size(1775)), (Some(2048), Some(4096)));
        assert_eq!((chunk_size(MTU_MAX), chunk_size(MTU_MAX + 1)), (Some(4096), None));
    }

    #[test]
    fn only_what_was_given_comes_back() {
        let heap = Heap::alone(4 << 20).unwrap();
        let mut filled = Filled::new(&heap, 2048);
        let chunk = filled.allocate(&heap).unwrap();
        let address = (chunk.as_ptr() as usize - heap.reservation().base().as_ptr() as usize) as u64;
        filled.put(address, chunk);
        for nonsense in [address + 1, address + 2048, 1 << 40, u64::MAX] {
            assert!(filled.take(nonsense).is_none(), "{nonsense:#x}");
        }
        assert!(filled.take(address).is_some());
        assert!(filled.take(address).is_none(), "twice");
        assert_eq!(filled.count, 0);
    }

    #[test]
    fn a_frame_lies_inside_its_chunk_or_is_none() {
        let heap = Heap::alone(4 << 20).unwrap();
        let chunk = || heap.alloc_for(Purpose::Receive, 2048).unwrap();
        assert_eq!(xsk::received(chunk(), 256, 60).map(|buf| buf.len()), Some(60));
        assert_eq!(xsk::received(chunk(), 256, 1792).map(|buf| buf.len()), Some(1792));
        assert!(xsk::received(chunk(), 256, 1793).is_none());
        assert!(xsk::received(chunk(), usize::MAX, 2).is_none());
    }
}
