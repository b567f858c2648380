//! All `unsafe` of this crate: memory that the kernel writes into, and the ring.

use std::io;
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, RawFd};
use std::ptr::NonNull;

use io_uring::types::BufRingEntry;
use io_uring::{IoUring, squeue};
use pdpix::{BufMut, Sga};
use rustix::net::{RecvFlags, SocketAddrAny};

/// Receives into the spare room of `buf`, at most `len_max` bytes. Gives how many there were: of a datagram, before it
/// was cut.
pub(crate) fn recv(fd: BorrowedFd<'_>, buf: &mut BufMut, len_max: usize) -> rustix::io::Result<usize> {
    let room = buf.room().min(len_max);
    let (_, received) = rustix::net::recv(fd, &mut buf.spare()[..room], RecvFlags::DONTWAIT)?;
    // SAFETY: the kernel initialised as many bytes behind `len` as it says, and not more than there is room for.
    unsafe { buf.set_len(buf.len() + received.min(room)) };
    Ok(received)
}

/// The same for a datagram, with its sender. What is longer than `len_max` is cut, and its true length given.
pub(crate) fn recv_from(
    fd: BorrowedFd<'_>,
    buf: &mut BufMut,
    len_max: usize,
) -> rustix::io::Result<(usize, Option<SocketAddrAny>)> {
    let room = buf.room().min(len_max);
    let flags = RecvFlags::DONTWAIT | RecvFlags::TRUNC;
    let (_, received, from) = rustix::net::recvfrom(fd, &mut buf.spare()[..room], flags)?;
    // SAFETY: as in `recv`.
    unsafe { buf.set_len(buf.len() + received.min(room)) };
    Ok((received, from))
}

/// What an epoll instance has to tell, without waiting. Nothing after an error, which can only be EINTR: the next call
/// will see what there is.
///
/// By the C library's `epoll_wait`: rustix calls `epoll_pwait` with the register of `sigsetsize` as it was. Without a
/// mask the kernel does not read it, but valgrind reports it, in whatever program that uses this.
pub(crate) fn epoll_ready<'a>(
    epoll: BorrowedFd<'_>,
    events: &'a mut [MaybeUninit<libc::epoll_event>],
) -> &'a [libc::epoll_event] {
    // SAFETY: there is room for as many events as the kernel may write.
    let count = unsafe { libc::epoll_wait(epoll.as_raw_fd(), events.as_mut_ptr().cast(), events.len() as i32, 0) };
    // SAFETY: the kernel initialised as many as it says, and not more than there is room for.
    unsafe { std::slice::from_raw_parts(events.as_ptr().cast(), count.max(0) as usize) }
}

/// A descriptor that is known to be open: it belongs to a socket that the caller holds.
pub(crate) fn borrow(fd: &impl AsFd) -> RawFd {
    fd.as_fd().as_raw_fd()
}

/// Takes ownership of a descriptor that a completion gave.
pub(crate) fn own(fd: RawFd) -> std::os::fd::OwnedFd {
    use std::os::fd::FromRawFd;
    // SAFETY: an accept's completion gives a new descriptor, to whoever takes the completion; each is taken once.
    unsafe { std::os::fd::OwnedFd::from_raw_fd(fd) }
}

/// Queues an entry; submits first if the queue is full.
///
/// # Safety
/// What the entry points to (buffers, message headers) stays valid and unmoved as its opcode demands: message headers
/// until submitted, buffers until the operation's last completion.
pub(crate) unsafe fn queue(ring: &mut IoUring, entry: &squeue::Entry) {
    loop {
        // SAFETY: the caller's promise.
        if unsafe { ring.submission().push(entry) }.is_ok() {
            return;
        }
        // Full: let the kernel take what is there. EBUSY (completions must be taken first) cannot last, as the kernel
        // keeps completions that do not fit.
        let _ = ring.submit();
    }
}

/// Buffers that the kernel takes from when data arrives. A ring in page-aligned memory, shared with the kernel; buffer
/// number `i` is always offered in place `i`, and is taken in the order of the ring.
pub(crate) struct ProvidedBuffers {
    ring: NonNull<BufRingEntry>,
    layout: std::alloc::Layout,
    offered: Box<[Option<BufMut>]>,
    tail: u16,
    group: u16,
}

impl ProvidedBuffers {
    /// Registers an empty ring of `count` places (a power of two).
    pub(crate) fn register(ring: &IoUring, group: u16, count: u16) -> io::Result<ProvidedBuffers> {
        let size = count as usize * size_of::<BufRingEntry>();
        let layout = std::alloc::Layout::from_size_align(size, 4096).map_err(io::Error::other)?;
        // SAFETY: the size is not zero.
        let memory = NonNull::new(unsafe { std::alloc::alloc_zeroed(layout) }).ok_or(io::ErrorKind::OutOfMemory)?;
        let buffers = ProvidedBuffers {
            ring: memory.cast(),
            layout,
            offered: (0..count).map(|_| None).collect(),
            tail: 0,
            group,
        };
        // SAFETY: the memory lives until `drop`, and the owner (`Uring`) drops the io_uring before this.
        unsafe { ring.submitter().register_buf_ring_with_flags(memory.as_ptr() as u64, count, group, 0)? };
        Ok(buffers)
    }

    pub(crate) fn group(&self) -> u16 {
        self.group
    }

    /// The number that the next buffer offered will have, if its place is free.
    pub(crate) fn next(&self) -> Option<u16> {
        let id = self.tail as usize % self.offered.len();
        self.offered[id].is_none().then_some(id as u16)
    }

    /// Offers a buffer, in place [`ProvidedBuffers::next`]. The kernel sees it after [`ProvidedBuffers::publish`].
    pub(crate) fn offer(&mut self, mut buf: BufMut) {
        let id = self.tail as usize % self.offered.len();
        let spare = buf.spare();
        // SAFETY: inside the ring's memory. The kernel does not read this entry before the tail passes it.
        let entry = unsafe { &mut *self.ring.as_ptr().add(id) };
        entry.set_addr(spare.as_mut_ptr() as u64);
        entry.set_len(spare.len() as u32);
        entry.set_bid(id as u16);
        self.offered[id] = Some(buf);
        self.tail = self.tail.wrapping_add(1);
    }

    /// Lets the kernel see what was offered.
    pub(crate) fn publish(&self) {
        use std::sync::atomic::{AtomicU16, Ordering};
        // SAFETY: the ring begins with an initialised entry, as it is zero-filled.
        let tail = unsafe { BufRingEntry::tail(self.ring.as_ptr()) };
        // SAFETY: aligned, inside the ring's memory, and only ever accessed as an atomic: by the kernel as one.
        // Release: the entries are written before.
        unsafe { AtomicU16::from_ptr(tail.cast_mut()) }.store(self.tail, Ordering::Release);
    }

    /// Takes back buffer `id`, of which the kernel filled `len` bytes.
    pub(crate) fn take(&mut self, id: u16, len: usize) -> Option<BufMut> {
        let mut buf = self.offered.get_mut(id as usize)?.take()?;
        let len = len.min(buf.capacity());
        // SAFETY: the completion says that the kernel wrote `len` bytes at the buffer's start.
        unsafe { buf.set_len(len) };
        Some(buf)
    }
}

impl ProvidedBuffers {
    /// Gives up the buffers for good: the kernel may still write to them.
    pub(crate) fn leak(&mut self) {
        self.offered.iter_mut().for_each(|offered| std::mem::forget(offered.take()));
    }
}

impl Drop for ProvidedBuffers {
    fn drop(&mut self) {
        // SAFETY: allocated with this layout in `register`; the kernel's ring, which referred to it, is gone (see there).
        unsafe { std::alloc::dealloc(self.ring.as_ptr().cast(), self.layout) };
    }
}

/// A message header over the buffers of an array, at an address that does not change.
pub(crate) struct Message {
    /// Held until the kernel has let go.
    sga: Sga,
    parts: Box<Parts>,
}

type Parts = (libc::msghdr, [libc::iovec; Message::SEGMENTS_MAX]);

impl Message {
    pub(crate) const SEGMENTS_MAX: usize = 64;

    /// Over the first segments of `sga`, at most `SEGMENTS_MAX`.
    pub(crate) fn new(sga: Sga) -> Message {
        // SAFETY: all-zero is an empty header and an empty vector: null pointers and lengths.
        let mut parts: Box<Parts> = Box::new(unsafe { std::mem::zeroed() });
        let count = sga.segments().len().min(Message::SEGMENTS_MAX);
        for (iovec, segment) in parts.1.iter_mut().zip(sga.segments()) {
            *iovec = libc::iovec { iov_base: segment.as_ptr().cast_mut().cast(), iov_len: segment.len() };
        }
        parts.0.msg_iov = parts.1.as_mut_ptr();
        parts.0.msg_iovlen = count;
        Message { sga, parts }
    }

    /// For a submission entry. Valid as long as this is.
    pub(crate) fn header(&self) -> *const libc::msghdr {
        &raw const self.parts.0
    }

    pub(crate) fn sga(&self) -> &Sga {
        &self.sga
    }
}
