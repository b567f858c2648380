//! Why a call is refused, as C wants to hear it.

use std::ffi::c_int;
use std::num::NonZero;

use pdpix::Error;

/// An errno, which is not zero: so a result without a value is what C gets, in one register.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Errno(NonZero<c_int>);

impl Errno {
    pub(crate) const INVALID: Errno = Errno::new(libc::EINVAL);
    /// Memory that is not the program's to hand over.
    pub(crate) const FAULT: Errno = Errno::new(libc::EFAULT);

    #[inline(always)]
    pub(crate) const fn new(errno: c_int) -> Errno {
        match NonZero::new(errno) {
            Some(errno) => Errno(errno),
            None => Errno(NonZero::new(libc::EIO).expect("it is not zero")),
        }
    }

    /// As C has it.
    #[inline(always)]
    pub(crate) const fn get(self) -> c_int {
        self.0.get()
    }
}

impl From<Error> for Errno {
    #[inline]
    fn from(error: Error) -> Errno {
        Errno::new(error.errno())
    }
}
