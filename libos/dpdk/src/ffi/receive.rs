//! A receive queue: its pool of buffers, which are chunks of our heap, and the frames that come in them.
//!
//! Always: buffer `i` of the pool lies in chunk `i` of `filled`, which nobody else has. When a frame is taken out, the chunk
//! becomes the frame's `Buf`, and the buffer gets a fresh chunk before it goes back to the pool. What a driver brings
//! otherwise (buffers of another pool, chains, what it has attached itself) is copied.

use std::collections::VecDeque;
use std::ptr::NonNull;

use dpdk_sys as sys;
use libos_mem::{Buf, BufMut, CopyPath, Heap, Purpose};

use super::control::{About, PortId};
use super::{last_error, says, unique};

/// Bytes that every driver leaves before a frame (RTE_PKTMBUF_HEADROOM).
pub(crate) const HEADROOM: usize = 128;

/// A frame that the driver has handed over, not looked at yet. Gives its buffers back if nobody takes it.
pub(crate) struct Arrived(sys::margay_received);

impl Arrived {
    pub(crate) fn len(&self) -> usize {
        self.0.len as usize
    }

    pub(crate) fn is_verified(&self) -> bool {
        self.0.marks & sys::MARGAY_RX_VERIFIED != 0
    }
}

impl Drop for Arrived {
    fn drop(&mut self) {
        // SAFETY: ours since the driver handed it over; `Receiver::take` forgets the ones that it has used.
        unsafe { sys::margay_free(self.0.mbuf) };
    }
}

/// What became of a frame.
pub(crate) enum Taken {
    /// It lies where the driver wrote it.
    InPlace(Buf),
    /// It was copied.
    Copied(Buf),
    /// There is no memory; it waits.
    NoMemory(Arrived),
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
        let receiver = Receiver { port: port.0, queue, pool, buffers: count, filled, chunk_size, heap: heap.clone() };
        // SAFETY: a port that is configured and not started; the pool lives until it is closed.
        let error = unsafe {
            sys::rte_eth_rx_queue_setup(port.0, queue, ring, about.socket as u32, std::ptr::null(), pool.as_ptr())
        };
        if error != 0 {
            return Err(format!("a queue to receive by: {}", says(error)));
        }
        Ok(receiver)
    }

    /// Appends a burst of what has arrived.
    #[inline]
    pub(crate) fn burst(&mut self, into: &mut VecDeque<Arrived>) {
        const NOTHING: sys::margay_received =
            sys::margay_received { mbuf: std::ptr::null_mut(), data: std::ptr::null(), len: 0, slot: 0, marks: 0 };
        let mut frames = [NOTHING; sys::MARGAY_BURST_MAX as usize];
        // SAFETY: a queue of a started port that is this core's alone, and room for a burst.
        let count = unsafe {
            let room = frames.len() as u16;
            sys::margay_rx_burst(self.port, self.queue, self.pool.as_ptr(), frames.as_mut_ptr(), room)
        };
        into.extend(frames[..usize::from(count)].iter().map(|frame| Arrived(*frame)));
    }

    /// Makes a buffer of ours of a frame.
    #[inline]
    pub(crate) fn take(&mut self, frame: Arrived) -> Taken {
        match self.filled.get_mut(frame.0.slot as usize) {
            Some(filled) => match self.heap.alloc_for(Purpose::Receive, self.chunk_size) {
                Ok(fresh) => match take_chunk(filled, frame, fresh) {
                    Ok(buf) => Taken::InPlace(buf),
                    Err(frame) => self.copy(frame),
                },
                Err(_) => self.copy(frame),
            },
            None => self.copy(frame),
        }
    }

    fn copy(&self, frame: Arrived) -> Taken {
        let len = frame.len();
        let Ok(mut buf) = self.heap.alloc_for(Purpose::Receive, len) else { return Taken::NoMemory(frame) };
        // SAFETY: the frame has `len` bytes in all, and there is room for as many, which are filled then.
        unsafe {
            sys::margay_rx_copy(frame.0.mbuf, buf.spare().as_mut_ptr().cast());
            buf.set_len(len);
        }
        self.heap.count_copied(CopyPath::Receive, len);
        Taken::Copied(buf.freeze())
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

/// The chunk that the frame lies in, as a buffer of the frame's length; the driver's buffer gets `fresh` instead.
#[inline]
fn take_chunk(filled: &mut Option<BufMut>, frame: Arrived, fresh: BufMut) -> Result<Buf, Arrived> {
    let inside = filled.as_ref().and_then(|chunk| {
        let offset = (frame.0.data as usize).checked_sub(chunk.as_ptr() as usize)?;
        (offset.checked_add(frame.len())? <= chunk.capacity()).then_some(offset)
    });
    let Some(offset) = inside else { return Err(frame) };
    let address = fresh.as_ptr().cast_mut().cast();
    let mut chunk = filled.replace(fresh).expect("just looked at");
    let end = offset + frame.len();
    // SAFETY: the buffer is this chunk's and the frame's alone (`slot`), and gets one of the same size; it goes back to its
    // pool, so the frame is forgotten.
    unsafe { sys::margay_rx_replace(frame.0.mbuf, address) };
    std::mem::forget(frame);
    // SAFETY: within the capacity (above); the driver wrote the frame, and what is before it was there when it was mapped.
    unsafe { chunk.set_len(end) };
    let mut buf = chunk.freeze();
    buf.advance(offset);
    Ok(buf)
}
