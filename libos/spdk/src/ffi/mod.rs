//! All `unsafe` of this crate: the calls into SPDK, and the memory that its devices touch.

mod bdev;
mod environment;
mod given_up;
mod nvme;
mod slots;

pub(crate) use bdev::{BdevQueue, Subsystems};
pub(crate) use environment::{DmaMemory, be_nobodys, is_writable, post_init, remember_processors, reservation, start};
pub(crate) use nvme::{Attached, NvmeQueue};
pub(crate) use slots::Ended;

use pdpix::BufMut;

/// A device or its queue is gone: nothing more comes from it.
#[derive(Debug)]
pub(crate) struct Gone;

/// Says that a device has filled `into` to its capacity.
pub(crate) fn filled(into: &mut BufMut) {
    let capacity = into.capacity();
    // SAFETY: the device said that the read of that many bytes, from the start of the buffer, has succeeded.
    unsafe { into.set_len(capacity) };
}
