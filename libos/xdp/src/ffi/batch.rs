//! Many frames in one system call: `sendmmsg` over the pieces where they lie.

use std::os::fd::{AsFd, AsRawFd};

use libos_net::Frame;
use rustix::io::Errno;

use super::check;
use crate::vnet::VnetHeader;

/// Frames in one call.
pub(crate) const FRAMES_MAX: usize = 64;
/// Pieces of one frame.
pub(crate) const PIECES_MAX: usize = 32;

/// The memory of one call, kept for the next.
pub(crate) struct Batch {
    messages: Box<[libc::mmsghdr; FRAMES_MAX]>,
    iovecs: Box<[[libc::iovec; PIECES_MAX + 1]; FRAMES_MAX]>,
    headers: Box<[VnetHeader; FRAMES_MAX]>,
}

impl Batch {
    pub(crate) fn new() -> Batch {
        // SAFETY: zeros are a value of each: null pointers, lengths and integers of zero.
        unsafe {
            Batch {
                messages: Box::new(std::mem::zeroed()),
                iovecs: Box::new(std::mem::zeroed()),
                headers: Box::new(std::mem::zeroed()),
            }
        }
    }

    /// Sends the first frames, each with a virtio header before it if `is_vnet`. Gives how many went; the error is the
    /// first one's. The kernel has copied them when this returns.
    ///
    /// A frame has at most [`PIECES_MAX`] pieces.
    pub(crate) fn send<'a>(
        &mut self,
        socket: impl AsFd,
        frames: impl Iterator<Item = &'a Frame>,
        is_vnet: bool,
    ) -> Result<usize, Errno> {
        let mut count = 0;
        for frame in frames.take(FRAMES_MAX) {
            let iovecs = &mut self.iovecs[count];
            let mut used = 0;
            if is_vnet {
                let header = &mut self.headers[count];
                *header = VnetHeader::for_frame(frame);
                iovecs[0] = libc::iovec { iov_base: (&raw mut *header).cast(), iov_len: size_of::<VnetHeader>() };
                used = 1;
            }
            for piece in frame.pieces().take(PIECES_MAX) {
                iovecs[used] = libc::iovec { iov_base: piece.as_ptr().cast_mut().cast(), iov_len: piece.len() };
                used += 1;
            }
            let message = &mut self.messages[count].msg_hdr;
            message.msg_iov = iovecs.as_mut_ptr();
            message.msg_iovlen = used;
            count += 1;
        }
        // SAFETY: the first `count` headers name vectors and headers that live in `self`, and pieces that `frames` lends
        // for the call; the kernel reads them, and keeps nothing of them after it.
        let sent = check(unsafe {
            libc::sendmmsg(
                socket.as_fd().as_raw_fd(),
                self.messages.as_mut_ptr(),
                count as u32,
                libc::MSG_DONTWAIT | libc::MSG_NOSIGNAL,
            )
        })?;
        Ok(sent as usize)
    }
}
