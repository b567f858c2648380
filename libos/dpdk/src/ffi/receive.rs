//! A receive queue: its pool of buffers, which are chunks of our heap, and the frames that come in them.
//!
//! Always: buffer `i` of the pool lies in chunk `i` of `filled`, which nobody else has. When a frame is taken out, the chunk
//! becomes the frame's `Buf`, and the buffer gets a fresh chunk before it goes back to the pool. What a driver brings
//! otherwise (buffers of another pool, chains, what it has attached itself) is copied. What was handed over and not taken is
//! given back by `drop_arrived`, which is called before the port is closed.

use std::ptr::NonNull;

use dpdk_sys as sys;
use libos_mem::{Buf, BufMut, CopyPath, Heap, Purpose};
use libos_net::wire::ETHERNET_LEN;

use super::control::{About, PortId};
use super::{last_error, says, unique};

/// Bytes that every driver leaves before a frame (RTE_PKTMBUF_HEADROOM).
pub(crate) const HEADROOM: usize = 128;

/// A burst that the driver has handed over, as far as it is not taken yet.
struct Arrived {
    frames: Box<[sys::margay_received; sys::MARGAY_BURST_MAX as usize]>,
    /// Those from `next` up to `end` are ours to take, or to give back.
    next: u16,
    end: u16,
}

impl Arrived {
    fn new() -> Arrived {
        const NOTHING: sys::margay_received =
            sys::margay_received { mbuf: std::ptr::null_mut(), data: std::ptr::null(), len: 0, slot: 0, marks: 0 };
        Arrived { frames: Box::new([NOTHING; sys::MARGAY_BURST_MAX as usize]), next: 0, end: 0 }
    }
}

/// What became of a frame.
pub(crate) enum Taken {
    /// It lies where the driver wrote it.
    InPlace(Buf),
    /// It was copied.
    Copied(Buf),
    /// There is no memory; it waits.
    NoMemory,
    /// It is too short to be a frame, and was given back.
    Malformed,
}

/// A receive queue of a port, set up. The port is closed before it is dropped.
pub(crate) struct Receiver {
    port: u16,
    queue: u16,
    pool: NonNull<sys::rte_mempool>,
    buffers: u32,
    /// Chunk `i` is buffer `i`'s. Empty: the pool has memory of its own, and everything is copied.
    filled: Vec<Option<BufMut>>,
    chunk_size: usize,
    heap: Heap,
    arrived: Arrived,
}

impl Receiver {
    /// A queue of `ring` descriptors, with a pool of `buffers` buffers of `chunk_size` bytes in `heap`.
    pub(crate) fn set_up(
        port: PortId,
        queue: u16,
        ring: u16,
        about: &About,
        heap: &Heap,
        (buffers, chunk_size, is_plain): (usize, usize, bool),
    ) -> Result<Receiver, String> {
        let chunk = || heap.alloc_for(Purpose::Receive, chunk_size).map(Some);
        let filled: Vec<Option<BufMut>> =
            if is_plain { Ok(Vec::new()) } else { (0..buffers).map(|_| chunk()).collect() }.map_err(|_| {
                format!("the heap has no receive memory for {buffers} buffers of {chunk_size} bytes (memory.size)")
            })?;
        let addresses: Vec<_> = filled.iter().flatten().map(|chunk| chunk.as_ptr().cast_mut().cast()).collect();
        let (name, count, room) = (unique("rx"), buffers as u32, chunk_size as u16);
        // SAFETY: as many addresses as buffers, each of `chunk_size` bytes that are ours.
        let pool = unsafe {
            if is_plain {
                sys::margay_plain_pool(name.as_ptr(), count, room, about.socket)
            } else {
                sys::margay_rx_pool(name.as_ptr(), count, room, about.socket, addresses.as_ptr())
            }
        };
        let pool = NonNull::new(pool).ok_or_else(|| format!("a pool of buffers: {}", last_error()))?;
        let receiver = Receiver {
            port: port.0,
            queue,
            pool,
            buffers: count,
            filled,
            chunk_size,
            heap: heap.clone(),
            arrived: Arrived::new(),
        };
        // SAFETY: a port that is configured and not started; the pool lives until it is closed.
        let error = unsafe {
            sys::rte_eth_rx_queue_setup(port.0, queue, ring, about.socket as u32, std::ptr::null(), pool.as_ptr())
        };
        if error != 0 {
            return Err(format!("a queue to receive by: {}", says(error)));
        }
        Ok(receiver)
    }

    /// Whether frames were handed over that nobody has taken yet.
    #[inline]
    pub(crate) fn has_arrived(&self) -> bool {
        self.arrived.next < self.arrived.end
    }

    /// Asks the driver for a burst. Nothing is left of the one before.
    #[inline]
    pub(crate) fn burst(&mut self) {
        debug_assert!(!self.has_arrived(), "what was handed over would be lost");
        let frames = &mut *self.arrived.frames;
        // SAFETY: a queue of a started port that is this core's alone, and room for a burst.
        let count = unsafe {
            let room = frames.len() as u16;
            sys::margay_rx_burst(self.port, self.queue, self.pool.as_ptr(), frames.as_mut_ptr(), room)
        };
        (self.arrived.next, self.arrived.end) = (0, count);
    }

    /// Makes a buffer of ours of the next frame that has arrived, and says whether the driver has verified it.
    #[inline]
    pub(crate) fn take(&mut self) -> (Taken, bool) {
        let frame = self.arrived.frames[usize::from(self.arrived.next)];
        let is_verified = frame.marks & sys::MARGAY_RX_VERIFIED != 0;
        let taken = if (frame.len as usize) < ETHERNET_LEN {
            // SAFETY: ours since the driver handed it over, and taken from the burst below.
            unsafe { sys::margay_free(frame.mbuf) };
            Taken::Malformed
        } else if let Some(buf) = self.in_place(&frame) {
            Taken::InPlace(buf)
        } else {
            self.copy(&frame)
        };
        self.arrived.next += u16::from(!matches!(taken, Taken::NoMemory));
        (taken, is_verified)
    }

    /// Where the driver wrote it, if that is a chunk of ours, and there is a fresh one for the driver.
    #[inline]
    fn in_place(&mut self, frame: &sys::margay_received) -> Option<Buf> {
        let filled = self.filled.get_mut(frame.slot as usize)?;
        let fresh = self.heap.alloc_for(Purpose::Receive, self.chunk_size).ok()?;
        take_chunk(filled, frame, fresh)
    }

    fn copy(&self, frame: &sys::margay_received) -> Taken {
        let len = frame.len as usize;
        let Ok(mut buf) = self.heap.alloc_for(Purpose::Receive, len) else { return Taken::NoMemory };
        // SAFETY: the frame has `len` bytes in all, and there is room for as many, which are filled then. It is ours, and
        // gets out of the burst in `take`.
        unsafe {
            sys::margay_rx_copy(frame.mbuf, buf.spare().as_mut_ptr().cast());
            buf.set_len(len);
        }
        self.heap.count_copied(CopyPath::Receive, len);
        Taken::Copied(buf.freeze())
    }

    /// Gives back what nobody has taken.
    pub(crate) fn drop_arrived(&mut self) {
        for frame in &self.arrived.frames[usize::from(self.arrived.next)..usize::from(self.arrived.end)] {
            // SAFETY: ours since the driver handed it over, and taken by nobody.
            unsafe { sys::margay_free(frame.mbuf) };
        }
        (self.arrived.next, self.arrived.end) = (0, 0);
    }

    /// The port is closed. Frees the pool and its chunks, but for what somebody has still: that is left for ever, and
    /// counted. `loses`: the driver forgets what it had when it is closed, and touches none of it.
    pub(crate) fn close(mut self, loses: bool) -> usize {
        // SAFETY: a pool of ours.
        let there = unsafe { sys::rte_mempool_avail_count(self.pool.as_ptr()) };
        let out = self.buffers.saturating_sub(there) as usize;
        if out > 0 && !loses {
            std::mem::take(&mut self.filled).into_iter().for_each(std::mem::forget);
            return out;
        }
        // SAFETY: nobody touches its buffers any more, and the port that it was for is closed.
        unsafe { sys::rte_mempool_free(self.pool.as_ptr()) };
        0
    }
}

/// The chunk that the frame lies in, as a buffer of the frame's length; the driver's buffer gets `fresh` instead. `None`: it
/// lies elsewhere.
#[inline]
fn take_chunk(filled: &mut Option<BufMut>, frame: &sys::margay_received, fresh: BufMut) -> Option<Buf> {
    let (len, chunk) = (frame.len as usize, filled.as_ref()?);
    let offset = (frame.data as usize).checked_sub(chunk.as_ptr() as usize)?;
    if offset.checked_add(len)? > chunk.capacity() {
        return None;
    }
    let address = fresh.as_ptr().cast_mut().cast();
    let mut chunk = filled.replace(fresh)?;
    // SAFETY: the buffer is this chunk's and the frame's alone (`slot`), and gets one of the same size; it goes back to its
    // pool, so the frame gets out of the burst (`Receiver::take`).
    unsafe { sys::margay_rx_replace(frame.mbuf, address) };
    // SAFETY: within the capacity (above); the driver wrote the frame, and what is before it was there when it was mapped.
    unsafe { chunk.set_len(offset + len) };
    let mut buf = chunk.freeze();
    buf.advance(offset);
    Some(buf)
}
