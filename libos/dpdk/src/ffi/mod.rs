//! All `unsafe` of this crate: the calls into libdpdk, and who owns what it gave.

mod control;
mod interrupts;
mod receive;
mod send;

use std::ffi::{CStr, CString, c_char, c_void};
use std::ptr::NonNull;

use dpdk_sys as sys;
use libos_mem::{Plan, Reservation, ReserveError};

pub(crate) use control::{About, Configuration, PortId};
pub(crate) use interrupts::{Connection, are_readable, connections, on_interrupt, unix_sockets_at};
pub(crate) use receive::{HEADROOM, Receiver, Taken};
pub(crate) use send::{PIECES_MAX, Sender};

/// The most frames that a driver is asked for, or handed, in one call.
pub(crate) const BURST: usize = sys::MARGAY_BURST_MAX as usize;

/// What an error number means, of those that DPDK returns negated.
fn says(error: i32) -> String {
    // SAFETY: it returns a text that lives until this thread's next call.
    unsafe { CStr::from_ptr(sys::rte_strerror(error.abs())) }.to_string_lossy().into_owned()
}

/// What the last call that gave nothing said.
fn last_error() -> String {
    // SAFETY: it reads a variable of this thread.
    says(unsafe { sys::margay_errno() })
}

fn text(from: &str) -> Result<CString, String> {
    CString::new(from).map_err(|_| format!("{from:?} has a NUL in it"))
}

pub(crate) fn version() -> String {
    // SAFETY: a text that is never freed.
    unsafe { CStr::from_ptr(sys::rte_version()) }.to_string_lossy().into_owned()
}

/// Starts the environment. The calling thread is what DPDK takes for its main one; it keeps its processors.
pub(crate) fn start_eal(arguments: &[String]) -> Result<(), String> {
    // It keeps pointers to its arguments, and moves them about.
    let texts = arguments.iter().map(|argument| text(argument)).collect::<Result<Vec<_>, _>>()?;
    let pointers: &'static mut [*mut c_char] =
        texts.into_iter().map(CString::into_raw).chain([std::ptr::null_mut()]).collect::<Vec<_>>().leak();
    let processors = rustix::thread::sched_getaffinity(None);
    // SAFETY: as many texts as said, which live for ever; called once (`Eal::start`).
    let used = unsafe { sys::rte_eal_init(arguments.len() as i32, pointers.as_mut_ptr()) };
    if let Ok(processors) = processors {
        let _ = rustix::thread::sched_setaffinity(None, &processors);
    }
    if used < 0 {
        return Err(last_error());
    }
    // SAFETY: it reads a variable.
    if unsafe { sys::rte_eal_iova_mode() } != sys::rte_iova_mode_RTE_IOVA_VA {
        return Err(
            "devices address memory physically here, and we give them virtual addresses (--iova-mode=va)".into()
        );
    }
    Ok(())
}

/// The processors that this process may use, as a list for `--lcores`.
pub(crate) fn processors() -> Result<String, String> {
    let allowed = rustix::thread::sched_getaffinity(None).map_err(|errno| errno.to_string())?;
    let numbers = (0..rustix::thread::CpuSet::MAX_CPU).filter(|&cpu| allowed.is_set(cpu)).map(|cpu| cpu.to_string());
    Ok(numbers.collect::<Vec<_>>().join(","))
}

/// A name that no other of this process has; DPDK's are short.
fn unique(what: &str) -> CString {
    use std::sync::atomic::{AtomicU32, Ordering};
    static COUNT: AtomicU32 = AtomicU32::new(0);
    CString::new(format!("margay_{what}_{}", COUNT.fetch_add(1, Ordering::Relaxed))).expect("without a NUL")
}

/// A piece of DPDK's memory, given back when dropped.
pub(crate) struct Zone {
    zone: NonNull<sys::rte_memzone>,
    base: NonNull<u8>,
    size: usize,
}

// SAFETY: it is memory with one owner; DPDK's calls about it take a lock of their own.
unsafe impl Send for Zone {}
// SAFETY: as above; nothing is done with a shared reference.
unsafe impl Sync for Zone {}

impl Zone {
    /// One of `size` bytes at a multiple of `align`.
    pub(crate) fn reserve(size: usize, align: usize) -> Result<Zone, String> {
        let (name, align) = (unique("heap"), align as u32);
        // SAFETY: the name is copied; the environment is started (`Eal` is the proof that the caller has).
        let zone = unsafe { sys::rte_memzone_reserve_aligned(name.as_ptr(), size, sys::SOCKET_ID_ANY, 0, align) };
        let zone = NonNull::new(zone.cast_mut()).ok_or_else(last_error)?;
        // SAFETY: just given.
        let base = unsafe { sys::margay_memzone_address(zone.as_ptr()) } as *mut u8;
        Ok(Zone { zone, base: NonNull::new(base).ok_or("it has no address")?, size })
    }
}

impl Drop for Zone {
    fn drop(&mut self) {
        // SAFETY: given by `reserve`, the only constructor; `drop` runs once; the reservation that it was is not used by
        // anything any more (`Reservation::over_external`).
        unsafe { sys::rte_memzone_free(self.zone.as_ptr()) };
    }
}

/// Our reservation, over a piece of DPDK's memory.
pub(crate) fn reservation(plan: Plan, zone: Zone) -> Result<Reservation, ReserveError> {
    let (base, size) = (zone.base, zone.size);
    // SAFETY: mapped memory, readable and writable and filled by the kernel, that is this zone's alone until it is dropped.
    unsafe { Reservation::over_external(plan, base, size, Box::new(zone)) }
}

/// Whether this is memory of DPDK's.
pub(crate) fn is_ours(at: NonNull<u8>) -> bool {
    // SAFETY: it looks the address up, and reads nothing there.
    !unsafe { sys::rte_mem_virt2memseg_list(at.as_ptr().cast::<c_void>()) }.is_null()
}

pub(crate) fn ring_pair(names: [&str; 2], size: u32) -> Result<(), String> {
    let (one, other) = (text(names[0])?, text(names[1])?);
    let mut ports = [0; 2];
    // SAFETY: names that are copied, and room for two numbers.
    match unsafe { sys::margay_ring_pair(one.as_ptr(), other.as_ptr(), size, ports.as_mut_ptr()) } {
        0 => Ok(()),
        error => Err(says(error)),
    }
}

/// A thread that is registered has caches of its own in DPDK's pools; until dropped.
pub(crate) struct Registered(bool);

impl Registered {
    /// The calling thread. If it is registered already, or cannot be, it works all the same, with atomics.
    pub(crate) fn this_thread() -> Registered {
        // SAFETY: the environment is started.
        Registered(unsafe { sys::margay_register_thread() } == 1)
    }
}

impl Drop for Registered {
    fn drop(&mut self) {
        if self.0 {
            // SAFETY: registered by `this_thread`, and what holds this is not Send.
            unsafe { sys::rte_thread_unregister() };
        }
    }
}
