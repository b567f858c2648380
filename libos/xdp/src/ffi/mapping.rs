//! A mapping that is shared with the kernel.

use std::os::fd::AsFd;
use std::ptr::NonNull;

use rustix::io::Errno;
use rustix::mm::{MapFlags, ProtFlags, mmap, munmap};

/// Memory of a socket, mapped. Unmapped when dropped; it stays valid when the socket is closed before.
pub(crate) struct Mapping {
    start: NonNull<u8>,
    len: usize,
}

impl Mapping {
    /// `len` bytes of what `fd` has at `offset`.
    pub(crate) fn new(fd: impl AsFd, len: usize, offset: u64) -> Result<Mapping, Errno> {
        let access = ProtFlags::READ | ProtFlags::WRITE;
        // SAFETY: a new mapping at an address of the kernel's choice touches nothing that exists.
        let start = unsafe {
            mmap(std::ptr::null_mut(), len, access, MapFlags::SHARED | MapFlags::POPULATE, fd.as_fd(), offset)?
        };
        Ok(Mapping { start: NonNull::new(start.cast()).ok_or(Errno::FAULT)?, len })
    }

    /// The address of `count` values of `T` at `offset`, all of them inside.
    ///
    /// # Panics
    /// If they are not, or not aligned: what the kernel said about its rings makes no sense.
    pub(crate) fn at<T>(&self, offset: usize, count: usize) -> NonNull<T> {
        let end = size_of::<T>().checked_mul(count).and_then(|size| size.checked_add(offset));
        assert!(end.is_some_and(|end| end <= self.len), "beyond the end of the mapping");
        // SAFETY: inside the mapping, as was checked.
        let at = unsafe { self.start.add(offset) }.cast::<T>();
        assert!(at.is_aligned(), "not aligned in the mapping");
        at
    }
}

impl Drop for Mapping {
    fn drop(&mut self) {
        // SAFETY: what mmap gave, once; whoever has addresses into it holds this as well.
        let unmapped = unsafe { munmap(self.start.as_ptr().cast(), self.len) };
        debug_assert!(unmapped.is_ok());
    }
}
