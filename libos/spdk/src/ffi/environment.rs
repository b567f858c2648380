//! The environment's calls, and memory of its.

use std::ffi::CString;
use std::ptr::{NonNull, null};
use std::sync::OnceLock;

use libos_mem::{Plan, Reservation, ReserveError};
use spdk_sys::{SPDK_ENV_NUMA_ID_ANY, SPDK_LOG_ERROR, SPDK_MALLOC_DMA, Spdk, spdk_env_opts};

use crate::error::says;

/// On a DPDK that was started already. `legacy`: with ordinary pages.
pub(crate) fn post_init(spdk: &Spdk, legacy: bool) -> Result<(), String> {
    // SAFETY: it sets a number.
    unsafe { (spdk.functions.spdk_log_set_print_level)(SPDK_LOG_ERROR) };
    // SAFETY: DPDK's environment was started (the caller's word), and this is called once (`Env::start`).
    match unsafe { (spdk.functions.spdk_env_dpdk_post_init)(legacy) } {
        0 => Ok(()),
        rc => Err(says(rc)),
    }
}

/// With a DPDK of its own, which gets so many MiB.
pub(crate) fn start(spdk: &Spdk, memory_mib: i32, huge: bool, pci: bool) -> Result<(), String> {
    // SAFETY: all zeros are a value of it.
    let mut options: spdk_env_opts = unsafe { std::mem::zeroed() };
    options.opts_size = size_of::<spdk_env_opts>();
    // SAFETY: a structure that says how long it is; releases that do not ask have shorter ones.
    unsafe { (spdk.functions.spdk_env_opts_init)(&raw mut options) };
    // SAFETY: it sets a number.
    unsafe { (spdk.functions.spdk_log_set_print_level)(SPDK_LOG_ERROR) };
    let processors = processors();
    let list: Vec<String> = processors.iter().map(usize::to_string).collect();
    // One "lcore", which may run wherever we may: the threads are ours. Kept for ever, as DPDK keeps its arguments.
    let text = |text: &str| CString::new(text).map(CString::into_raw).map_or(null(), <*mut _>::cast_const);
    options.name = text("margay");
    options.core_mask = null();
    options.lcore_map = text(&format!("0@({})", list.join(",")));
    options.env_context = text("--no-telemetry --log-level=*:error").cast_mut().cast();
    (options.mem_size, options.no_huge, options.no_pci) = (memory_mib, !huge, !pci);
    // SAFETY: a structure that was filled in, with texts that stay; called once (`Env::start`).
    let rc = unsafe { (spdk.functions.spdk_env_init)(&raw const options) };
    allow(&processors);
    if rc == 0 { Ok(()) } else { Err(says(rc)) }
}

/// Whether we may write to what is there.
pub(crate) fn is_writable(path: &str) -> bool {
    // SAFETY: it reads a text that ends with a NUL.
    CString::new(path).is_ok_and(|path| unsafe { libc::access(path.as_ptr(), libc::W_OK) } == 0)
}

/// The processors that this thread may use.
fn processors() -> Vec<usize> {
    // SAFETY: plain data.
    let mut set: libc::cpu_set_t = unsafe { std::mem::zeroed() };
    // SAFETY: it fills the set.
    unsafe { libc::sched_getaffinity(0, size_of::<libc::cpu_set_t>(), &raw mut set) };
    // SAFETY: within the set.
    (0..libc::CPU_SETSIZE as usize).filter(|&cpu| unsafe { libc::CPU_ISSET(cpu, &set) }).collect()
}

/// What the process may use, as it was when this was first asked: cores are bound to one of them each.
pub(crate) fn remember_processors() {
    PROCESSORS.get_or_init(processors);
}

static PROCESSORS: OnceLock<Vec<usize>> = OnceLock::new();

/// Makes of the calling thread one that no core has to share its processor with: a new thread has the processor of the core
/// that makes it, and its priority, which may be real-time.
pub(crate) fn be_nobodys() {
    if let Some(processors) = PROCESSORS.get() {
        allow(processors);
    }
    // SAFETY: plain data, which is read. Less is never forbidden.
    unsafe { libc::sched_setscheduler(0, libc::SCHED_OTHER, &libc::sched_param { sched_priority: 0 }) };
}

/// DPDK binds the thread that starts it; it gets back what it had.
fn allow(processors: &[usize]) {
    // SAFETY: plain data.
    let mut set: libc::cpu_set_t = unsafe { std::mem::zeroed() };
    for &cpu in processors {
        // SAFETY: a number that came from such a set.
        unsafe { libc::CPU_SET(cpu, &mut set) };
    }
    // SAFETY: it reads the set.
    unsafe { libc::sched_setaffinity(0, size_of::<libc::cpu_set_t>(), &raw const set) };
}

/// Memory of SPDK's, which its devices reach; given back when dropped.
pub(crate) struct DmaMemory {
    spdk: &'static Spdk,
    base: NonNull<u8>,
    size: usize,
}

// SAFETY: it is memory with one owner, and SPDK's calls about it take a lock of their own.
unsafe impl Send for DmaMemory {}
// SAFETY: as above; a shared reference gives a view of the bytes only.
unsafe impl Sync for DmaMemory {}

impl DmaMemory {
    /// Zeros. `None`: there is not so much.
    pub(crate) fn new(spdk: &'static Spdk, size: usize, align: usize) -> Option<DmaMemory> {
        let zmalloc = spdk.functions.spdk_zmalloc;
        // SAFETY: the environment is started (`Env` is the proof that the caller has).
        let base = unsafe { zmalloc(size, align, std::ptr::null_mut(), SPDK_ENV_NUMA_ID_ANY, SPDK_MALLOC_DMA) };
        Some(DmaMemory { spdk, base: NonNull::new(base.cast())?, size })
    }

    pub(crate) fn base(&self) -> NonNull<u8> {
        self.base
    }

    pub(crate) fn len(&self) -> usize {
        self.size
    }

    /// A copy of it, once no device writes to it.
    pub(crate) fn bytes(&self) -> Vec<u8> {
        // SAFETY: `size` initialised bytes; the caller's transfer to it has ended.
        unsafe { std::slice::from_raw_parts(self.base.as_ptr(), self.size) }.to_vec()
    }
}

impl Drop for DmaMemory {
    fn drop(&mut self) {
        // SAFETY: given by `new`, the only constructor; `drop` runs once, and nothing uses the memory any more.
        unsafe { (self.spdk.functions.spdk_free)(self.base.as_ptr().cast()) };
    }
}

/// Our reservation, over memory of SPDK's.
pub(crate) fn reservation(plan: Plan, memory: DmaMemory) -> Result<Reservation, ReserveError> {
    let (base, size) = (memory.base, memory.size);
    // SAFETY: zeroed memory, readable and writable, that is this value's alone until it is dropped.
    unsafe { Reservation::over_external(plan, base, size, Box::new(memory)) }
}
