//! Atomics, from std or from loom: `RUSTFLAGS="--cfg loom" cargo test -p libos-mem --test loom --release`.

#[cfg(loom)]
pub(crate) use loom::{
    cell::UnsafeCell,
    sync::atomic::{AtomicPtr, Ordering},
};

#[cfg(not(loom))]
pub(crate) use std::sync::atomic::{AtomicPtr, Ordering};

/// loom's `UnsafeCell` watches each access and reports a race; std's has no such interface, so this gives it one.
#[cfg(not(loom))]
pub(crate) struct UnsafeCell<T>(std::cell::UnsafeCell<T>);

#[cfg(not(loom))]
impl<T> UnsafeCell<T> {
    pub(crate) fn new(value: T) -> UnsafeCell<T> {
        UnsafeCell(std::cell::UnsafeCell::new(value))
    }

    #[inline(always)]
    pub(crate) fn with_mut<R>(&self, f: impl FnOnce(*mut T) -> R) -> R {
        f(self.0.get())
    }
}
