//! Why a call is refused, as C wants to hear it.

use std::ffi::c_int;

use pdpix::Error;

/// A positive errno.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Errno(pub(crate) c_int);

impl Errno {
    pub(crate) const INVALID: Errno = Errno(libc::EINVAL);
    /// Memory that is not the program's to hand over.
    pub(crate) const FAULT: Errno = Errno(libc::EFAULT);
}

impl From<Error> for Errno {
    #[inline]
    fn from(error: Error) -> Errno {
        Errno(error.errno())
    }
}
