//! A transmit queue: frames made of pieces where they lie, and the table of what the driver has.
//!
//! Always: a piece that the driver may read is in `held`, and its entry of the table says whether it is back. The driver's
//! callback marks the entry, on whatever thread; this core frees it. What was built and refused by the ring is in `kept`, and
//! goes before anything else.

use std::collections::VecDeque;
use std::ptr::NonNull;
use std::sync::atomic::{AtomicU32, Ordering};

use dpdk_sys as sys;
use libos_mem::Buf;
use libos_net::{ChecksumAt, Frame};

use super::control::{About, Configuration, PortId};
use super::receive::HEADROOM;
use super::{last_error, unique};
use crate::driver::SendRoom;

/// The most pieces of a frame.
pub(crate) const PIECES_MAX: usize = sys::MARGAY_PIECES_MAX as usize;

/// A transmit queue of a port, set up. The port is closed before it is dropped.
pub(crate) struct Sender {
    port: u16,
    queue: u16,
    /// Buffers without data, for pieces that lie in our heap.
    pool: NonNull<sys::rte_mempool>,
    pool_size: u32,
    /// Buffers with room for a short frame.
    short: NonNull<sys::rte_mempool>,
    short_size: u32,
    table: NonNull<sys::margay_sent>,
    /// What entry `i` of the table holds for the driver.
    held: Vec<Option<Buf>>,
    /// Entries that are free.
    free: Vec<u32>,
    /// Those that are not, oldest first.
    out: VecDeque<u32>,
    kept: Vec<*mut sys::rte_mbuf>,
    prepares: bool,
    /// A driver that cuts segments up fills in the sums of IPv4 headers.
    sums_ip: bool,
    /// Looks at all of `out` are rare.
    until_sweep: u32,
}

/// Frames up to so long are copied into a buffer of the driver's: that is less work than to hold their pieces, and an idle
/// link, on which acknowledgements came last, holds nothing of the heap. Measured in docs/dpdk.md.
pub(crate) const SHORT_MAX: usize = 256;

/// Calls that reap without a look at all that is out.
const SWEEP_EVERY: u32 = 1024;

impl Sender {
    /// A queue of `ring` descriptors.
    pub(crate) fn set_up(
        port: PortId,
        queue: u16,
        ring: u16,
        about: &About,
        with: &Configuration,
        SendRoom { pieces, short }: SendRoom,
    ) -> Result<Sender, String> {
        let (name, buffers) = (unique("tx"), (pieces + 512) as u32);
        // SAFETY: the name is copied.
        let pool = unsafe { sys::margay_tx_pool(name.as_ptr(), buffers, about.socket) };
        let pool = NonNull::new(pool).ok_or_else(|| format!("a pool of buffers: {}", last_error()))?;
        let (name, count, room) = (unique("short"), short as u32, (HEADROOM + SHORT_MAX) as u16);
        // SAFETY: as above.
        let short = unsafe { sys::margay_plain_pool(name.as_ptr(), count, room, about.socket) };
        let short = NonNull::new(short).ok_or_else(|| format!("a pool of buffers: {}", last_error()))?;
        // SAFETY: it allocates.
        let table = NonNull::new(unsafe { sys::margay_sent_table(pieces as u32) }).ok_or("there is no memory")?;
        let sender = Sender {
            port: port.0,
            queue,
            pool,
            pool_size: buffers,
            short,
            short_size: count,
            table,
            held: (0..pieces).map(|_| None).collect(),
            free: (0..pieces as u32).rev().collect(),
            out: VecDeque::with_capacity(pieces),
            kept: Vec::with_capacity(sys::MARGAY_BURST_MAX as usize),
            prepares: with.offload && about.sums_when_sending,
            sums_ip: about.sums_ip,
            until_sweep: SWEEP_EVERY,
        };
        port.set_up_transmit(queue, ring, about, with)?;
        Ok(sender)
    }

    /// Builds the frame, if it is short, of a copy, and keeps it for the next burst. Gives its length; `None`: it is longer, or
    /// the pool is dry.
    #[inline]
    pub(crate) fn build_short(&mut self, frame: &Frame) -> Option<usize> {
        let mut len = frame.header.len();
        if len > SHORT_MAX {
            return None;
        }
        let header = sys::margay_piece { data: frame.header.as_ptr(), len: len as u32, entry: 0 };
        let offload = offload(frame, self.sums_ip);
        let built = if frame.payload.is_empty() {
            // SAFETY: one piece, which is copied.
            unsafe { sys::margay_build_copy(self.short.as_ptr(), &header, 1, offload) }
        } else {
            len += frame.payload.len();
            if len > SHORT_MAX {
                return None;
            }
            let mut pieces = [header; PIECES_MAX];
            let payload = frame.payload.segments();
            debug_assert!(payload.len() < PIECES_MAX, "more pieces than the port gathers");
            for (piece, described) in payload.iter().zip(&mut pieces[1..]) {
                *described = sys::margay_piece { data: piece.as_ptr(), len: piece.len() as u32, entry: 0 };
            }
            let count = 1 + payload.len().min(PIECES_MAX - 1);
            // SAFETY: `count` pieces, which are copied.
            unsafe { sys::margay_build_copy(self.short.as_ptr(), pieces.as_ptr(), count as u16, offload) }
        };
        if built.is_null() {
            return None;
        }
        self.kept.push(built);
        Some(len)
    }

    /// Builds the frame of its pieces where they lie, and keeps it for the next burst. Gives it back if all that a driver may
    /// hold is held.
    pub(crate) fn build(&mut self, frame: Frame) -> Result<(), Frame> {
        let mut pieces = [sys::margay_piece { data: std::ptr::null(), len: 0, entry: 0 }; PIECES_MAX];
        let first_free = self.free.len();
        if first_free < PIECES_MAX {
            return Err(frame);
        }
        let mut count = 0;
        for piece in frame.pieces().filter(|piece| !piece.is_empty()) {
            let entry = self.free[first_free - 1 - count];
            pieces[count] = sys::margay_piece { data: piece.as_ptr(), len: piece.len() as u32, entry };
            count += 1;
        }
        let offload = offload(&frame, self.sums_ip);
        // SAFETY: the entries are free and of this table; the pieces lie in our reservation, which is DPDK's memory
        // (`Port::open`), and are held below until they are back.
        let built = unsafe {
            sys::margay_build(self.pool.as_ptr(), self.table.as_ptr(), pieces.as_ptr(), count as u16, offload)
        };
        if built.is_null() {
            return Err(frame);
        }
        self.kept.push(built);
        let Frame { header, payload, .. } = frame;
        for (piece, described) in std::iter::once(header).chain(payload).filter(|piece| !piece.is_empty()).zip(&pieces)
        {
            self.held[described.entry as usize] = Some(piece);
            self.out.push_back(described.entry);
        }
        self.free.truncate(first_free - count);
        Ok(())
    }

    /// Hands what is kept to the ring, and says how many frames it took, and how many the driver cannot send: they are gone.
    #[inline]
    pub(crate) fn burst(&mut self) -> (usize, usize) {
        let (mut sent, mut bad) = (0, 0);
        while !self.kept.is_empty() {
            let frames = &mut self.kept;
            let count = frames.len().min(sys::MARGAY_BURST_MAX as usize) as u16;
            let mut refused = 0;
            // SAFETY: a queue of a started port that is this core's alone; frames built by us, which are the driver's from
            // now on as far as it takes them.
            let taken = unsafe {
                let prepares = self.prepares.into();
                sys::margay_tx_burst(self.port, self.queue, frames.as_mut_ptr(), count, prepares, &mut refused)
            };
            sent += usize::from(taken);
            bad += refused as usize;
            if usize::from(taken) == self.kept.len() {
                self.kept.clear();
                break;
            }
            self.kept.drain(..usize::from(taken));
            if taken < count && refused == 0 {
                break;
            }
        }
        (sent - bad, bad)
    }

    /// An empty burst, with which some drivers give back what they have sent.
    pub(crate) fn nudge(&mut self) {
        // SAFETY: as in `burst`; of no frames none is read.
        unsafe { sys::margay_tx_burst(self.port, self.queue, std::ptr::null_mut(), 0, 0, &mut 0) };
    }

    fn is_back(&self, entry: u32) -> bool {
        // SAFETY: an entry of the table; its mark is only ever touched as an atomic.
        let mark = unsafe { AtomicU32::from_ptr(&raw mut (*self.table.as_ptr().add(entry as usize)).is_back) };
        if mark.load(Ordering::Acquire) == 0 {
            return false;
        }
        mark.store(0, Ordering::Relaxed);
        true
    }

    /// Frees what is back. Mostly that is the oldest.
    #[inline]
    pub(crate) fn reap(&mut self) {
        while let Some(&oldest) = self.out.front()
            && self.is_back(oldest)
        {
            self.out.pop_front();
            self.release(oldest);
        }
        self.until_sweep -= 1;
        if self.until_sweep == 0 || self.free.len() < PIECES_MAX {
            self.sweep();
        }
    }

    /// Frees what is back, wherever it stands.
    #[cold]
    pub(crate) fn sweep(&mut self) {
        self.until_sweep = SWEEP_EVERY;
        for _ in 0..self.out.len() {
            let Some(entry) = self.out.pop_front() else { return };
            if self.is_back(entry) {
                self.release(entry);
            } else {
                self.out.push_back(entry);
            }
        }
    }

    fn release(&mut self, entry: u32) {
        self.held[entry as usize] = None;
        self.free.push(entry);
    }

    /// Pieces that the driver may still read.
    pub(crate) fn in_flight(&self) -> usize {
        self.out.len()
    }

    /// Frames that the ring has refused so far.
    pub(crate) fn kept(&self) -> usize {
        self.kept.len()
    }

    /// The port is closed, and its driver has forgotten what it had without a word: nobody reads it any more.
    pub(crate) fn forget(&mut self) {
        while let Some(entry) = self.out.pop_front() {
            self.is_back(entry);
            self.release(entry);
        }
    }

    /// Drops what was not sent.
    pub(crate) fn drop_kept(&mut self) -> usize {
        let count = self.kept.len();
        // SAFETY: built by us, and nobody else's yet.
        self.kept.drain(..).for_each(|frame| unsafe { sys::margay_free(frame) });
        self.sweep();
        count
    }

    /// The port is closed. Frees everything but what somebody may still read: that is left for ever, and counted.
    /// `loses`: the driver forgets what it had when it is closed, and touches none of it.
    pub(crate) fn close(mut self, loses: bool) -> usize {
        self.drop_kept();
        let is_whole = |pool: NonNull<_>, size| {
            // SAFETY: a pool of ours.
            unsafe { sys::rte_mempool_avail_count(pool.as_ptr()) >= size }
        };
        let are_whole = is_whole(self.pool, self.pool_size) && is_whole(self.short, self.short_size);
        if loses || self.out.is_empty() && are_whole {
            // SAFETY: the port that they were for is closed, so no callback can come.
            unsafe {
                sys::rte_mempool_free(self.pool.as_ptr());
                sys::rte_mempool_free(self.short.as_ptr());
                sys::margay_sent_table_free(self.table.as_ptr());
            }
            return 0;
        }
        let buried = self.out.len();
        self.out.drain(..).for_each(|entry| std::mem::forget(self.held[entry as usize].take()));
        buried
    }
}

/// What the device has to fill in.
#[inline]
fn offload(frame: &Frame, sums_ip: bool) -> sys::margay_offload {
    const NOTHING: sys::margay_offload =
        sys::margay_offload { l4_start: 0, segment_size: 0, l4_len: 0, is_tcp: 0, is_ipv6: 0, sums_ip: 0 };
    let Some(ChecksumAt { start, field }) = frame.checksum else { return NOTHING };
    const TCP_FIELD: u16 = 16;
    let is_ipv6 = frame.header.get(12..14) == Some(&[0x86, 0xdd][..]);
    let mut offload = sys::margay_offload {
        l4_start: start,
        is_tcp: (field == TCP_FIELD).into(),
        is_ipv6: is_ipv6.into(),
        ..NOTHING
    };
    if frame.segment_size > 0 {
        // The header's length in words of four bytes (RFC 9293 §3.1).
        let words = frame.header.get(usize::from(start) + 12).map_or(5, |byte| byte >> 4);
        (offload.segment_size, offload.l4_len, offload.sums_ip) = (frame.segment_size, 4 * words, sums_ip.into());
    }
    offload
}
