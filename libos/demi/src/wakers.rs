//! Waking a thread that waits, from another one.

use std::collections::BTreeMap;
use std::ffi::c_int;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError, TryLockError};

use libos_runtime::Interrupter;

use crate::errno::Errno;
use crate::thread::enter;

static WAKERS: Mutex<BTreeMap<u64, Interrupter>> = Mutex::new(BTreeMap::new());
static NEXT: AtomicU64 = AtomicU64::new(1);

/// So often `demi_wake` looks for the list. Whoever has it has it for the length of a look.
const TRIES: u32 = 10_000;

/// The name of a thread, as long as it has a library OS.
pub(crate) struct Waker(u64);

impl Waker {
    pub(crate) fn new(interrupter: Interrupter) -> Waker {
        let name = NEXT.fetch_add(1, Ordering::Relaxed);
        WAKERS.lock().unwrap_or_else(PoisonError::into_inner).insert(name, interrupter);
        Waker(name)
    }
}

impl Drop for Waker {
    fn drop(&mut self) {
        WAKERS.lock().unwrap_or_else(PoisonError::into_inner).remove(&self.0);
    }
}

/// `demi_waker(3)`: the name of the calling thread, for [`demi_wake`].
///
/// # Safety
/// `waker_out` is null, or can be written to.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn demi_waker(waker_out: *mut u64) -> c_int {
    if waker_out.is_null() {
        return libc::EINVAL;
    }
    enter(|thread| {
        // SAFETY: not null, and so writable by the caller's promise.
        unsafe { waker_out.write_unaligned(thread.waker.0) };
        Ok(())
    })
}

/// `demi_wake(3)`: ends the wait of another thread. Needs no library OS of the calling one.
#[unsafe(no_mangle)]
pub extern "C" fn demi_wake(waker: u64) -> c_int {
    let woken = catch_unwind(AssertUnwindSafe(|| wake(waker)));
    match woken {
        Ok(Ok(())) => 0,
        Ok(Err(errno)) => errno.get(),
        Err(_) => libc::ENOTRECOVERABLE,
    }
}

fn wake(name: u64) -> Result<(), Errno> {
    // Not `lock`: a signal handler may have interrupted whoever has it.
    for _ in 0..TRIES {
        let wakers = match WAKERS.try_lock() {
            Ok(wakers) => wakers,
            Err(TryLockError::Poisoned(wakers)) => wakers.into_inner(),
            Err(TryLockError::WouldBlock) => {
                std::thread::yield_now();
                continue;
            }
        };
        return wakers.get(&name).map(Interrupter::interrupt).ok_or(Errno::new(libc::ESRCH));
    }
    Err(Errno::new(libc::EAGAIN))
}
