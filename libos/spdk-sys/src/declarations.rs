//! Structures, constants and functions, in SPDK's own words.

#![allow(non_camel_case_types, reason = "SPDK's names")]

use std::ffi::{c_char, c_int, c_void};

macro_rules! opaque {
    ($($(#[$doc:meta])* $name:ident)*) => {
        $(
            $(#[$doc])*
            #[repr(C)]
            #[derive(Debug)]
            pub struct $name {
                _nothing: [u8; 0],
                _pinned: std::marker::PhantomData<(*mut u8, std::marker::PhantomPinned)>,
            }
        )*
    };
}

opaque! {
    /// A controller.
    spdk_nvme_ctrlr
    /// A namespace of a controller.
    spdk_nvme_ns
    /// A queue pair.
    spdk_nvme_qpair
    /// A device of the block layer.
    spdk_bdev
    /// An opened one.
    spdk_bdev_desc
    /// An operation on one.
    spdk_bdev_io
    /// A thread's way to a device.
    spdk_io_channel
    /// What SPDK calls a thread: a list of things to do, which some thread of ours does.
    spdk_thread
}

/// How the environment is started.
#[repr(C)]
#[derive(Debug)]
#[allow(missing_docs, reason = "SPDK's fields")]
pub struct spdk_env_opts {
    pub name: *const c_char,
    pub core_mask: *const c_char,
    pub lcore_map: *const c_char,
    pub shm_id: c_int,
    pub mem_channel: c_int,
    pub main_core: c_int,
    pub mem_size: c_int,
    pub no_pci: bool,
    pub hugepage_single_segments: bool,
    pub unlink_hugepage: bool,
    pub no_huge: bool,
    pub reserved: u32,
    pub num_pci_addr: usize,
    pub hugedir: *const c_char,
    pub pci_blocked: *mut c_void,
    pub pci_allowed: *mut c_void,
    pub iova_mode: *const c_char,
    pub base_virtaddr: u64,
    pub env_context: *mut c_void,
    pub vf_token: *const c_char,
    /// From v24.09 on; before, the structure ends here, and nobody looks.
    pub opts_size: usize,
    pub enforce_numa: bool,
    pub reserved2: [u8; 7],
}

/// Where a controller is.
#[repr(C)]
#[derive(Debug)]
#[allow(missing_docs, reason = "SPDK's fields")]
pub struct spdk_nvme_transport_id {
    pub trstring: [c_char; 33],
    pub trtype: c_int,
    pub adrfam: c_int,
    pub traddr: [c_char; 257],
    pub trsvcid: [c_char; 33],
    pub subnqn: [c_char; 224],
    pub priority: c_int,
}

/// How a controller is attached. It must be whole: of a shorter one SPDK (v24.09) takes what it says and leaves the rest of
/// its own copy as it was on the stack.
#[repr(C)]
#[derive(Debug)]
#[allow(missing_docs, reason = "SPDK's fields")]
pub struct spdk_nvme_ctrlr_opts {
    pub num_io_queues: u32,
    pub use_cmb_sqs: bool,
    pub no_shn_notification: bool,
    pub reserved6: [u8; 2],
    pub arb_mechanism: c_int,
    pub arbitration_burst: u8,
    pub low_priority_weight: u8,
    pub medium_priority_weight: u8,
    pub high_priority_weight: u8,
    pub keep_alive_timeout_ms: u32,
    pub transport_retry_count: u8,
    pub reserved21: [u8; 3],
    pub io_queue_size: u32,
    pub hostnqn: [c_char; 224],
    pub io_queue_requests: u32,
    pub src_addr: [c_char; 257],
    pub src_svcid: [c_char; 33],
    pub host_id: [u8; 8],
    pub extended_host_id: [u8; 16],
    pub reserved570: [u8; 2],
    pub command_set: c_int,
    pub admin_timeout_ms: u32,
    pub header_digest: bool,
    pub data_digest: bool,
    pub disable_error_logging: bool,
    pub transport_ack_timeout: u8,
    pub admin_queue_size: u16,
    pub reserved586: [u8; 6],
    pub opts_size: usize,
    pub fabrics_connect_timeout_us: u64,
    /// What later fields take; SPDK fills it in.
    pub rest: [u64; 31],
}

/// How a queue pair is made: the beginning of SPDK's structure.
#[repr(C)]
#[derive(Debug)]
#[allow(missing_docs, reason = "SPDK's fields")]
pub struct spdk_nvme_io_qpair_opts {
    pub qprio: c_int,
    pub io_queue_size: u32,
    pub io_queue_requests: u32,
    pub delay_cmd_submit: bool,
    pub reserved13: [u8; 3],
}

/// A completion (NVMe base specification, figure "Completion Queue Entry").
#[repr(C)]
#[derive(Debug, Clone, Copy)]
#[allow(missing_docs, reason = "SPDK's fields")]
pub struct spdk_nvme_cpl {
    pub cdw0: u32,
    pub cdw1: u32,
    pub sqhd: u16,
    pub sqid: u16,
    pub cid: u16,
    /// With the phase in bit 0.
    pub status_raw: u16,
}

impl spdk_nvme_cpl {
    /// What `spdk_nvme_cpl_is_error` is: status code or its type are not zero. Retry hints and "more" are no errors.
    pub fn is_error(&self) -> bool {
        self.status_raw >> 1 & 0x7ff != 0
    }
}

/// A range to deallocate.
#[repr(C)]
#[derive(Debug, Clone, Copy, Default)]
#[allow(missing_docs, reason = "SPDK's fields")]
pub struct spdk_nvme_dsm_range {
    pub attributes: u32,
    pub length: u32,
    pub starting_lba: u64,
}

/// Offsets in what a controller says of itself (Identify Controller): serial number, 20 characters.
pub const CTRLR_DATA_SN: usize = 4;
/// Model, 40 characters.
pub const CTRLR_DATA_MN: usize = 24;

/// A namespace can deallocate.
pub const SPDK_NVME_NS_DEALLOCATE_SUPPORTED: u32 = 1 << 0;
/// A namespace has a volatile cache.
pub const SPDK_NVME_NS_FLUSH_SUPPORTED: u32 = 1 << 1;
/// Metadata lies between the blocks.
pub const SPDK_NVME_NS_EXTENDED_LBA_SUPPORTED: u32 = 1 << 5;
/// A controller gathers.
pub const SPDK_NVME_CTRLR_SGL_SUPPORTED: u64 = 1 << 0;
/// It gathers only what is aligned to 4 bytes.
pub const SPDK_NVME_CTRLR_SGL_REQUIRES_DWORD_ALIGNMENT: u64 = 1 << 4;
/// Deallocate.
pub const SPDK_NVME_DSM_ATTR_DEALLOCATE: u32 = 4;
/// On the PCI bus.
pub const SPDK_NVME_TRANSPORT_PCIE: c_int = 256;
/// Over TCP.
pub const SPDK_NVME_TRANSPORT_TCP: c_int = 3;
/// Memory for a device.
pub const SPDK_MALLOC_DMA: u32 = 1;
/// On whichever node.
pub const SPDK_ENV_NUMA_ID_ANY: c_int = -1;
/// Errors are printed, and nothing else.
pub const SPDK_LOG_ERROR: c_int = 0;
/// Nothing is.
pub const SPDK_LOG_DISABLED: c_int = -1;
/// What a device of the block layer may be able to do: deallocate.
pub const SPDK_BDEV_IO_TYPE_UNMAP: c_int = 3;
/// Flush.
pub const SPDK_BDEV_IO_TYPE_FLUSH: c_int = 4;
/// It is gone.
pub const SPDK_BDEV_EVENT_REMOVE: c_int = 0;
/// Configuration that comes before subsystems are started.
pub const SPDK_RPC_STARTUP: u32 = 1;
/// And after.
pub const SPDK_RPC_RUNTIME: u32 = 2;

/// An operation has ended.
pub type spdk_nvme_cmd_cb = unsafe extern "C" fn(*mut c_void, *const spdk_nvme_cpl);
/// Begin the list of segments again, so many bytes from its start.
pub type spdk_nvme_req_reset_sgl_cb = unsafe extern "C" fn(*mut c_void, u32);
/// The next segment.
pub type spdk_nvme_req_next_sge_cb = unsafe extern "C" fn(*mut c_void, *mut *mut c_void, *mut u32) -> c_int;
/// A controller was found: whether to attach it.
pub type spdk_nvme_probe_cb =
    unsafe extern "C" fn(*mut c_void, *const spdk_nvme_transport_id, *mut spdk_nvme_ctrlr_opts) -> bool;
/// One was attached.
pub type spdk_nvme_attach_cb =
    unsafe extern "C" fn(*mut c_void, *const spdk_nvme_transport_id, *mut spdk_nvme_ctrlr, *const spdk_nvme_ctrlr_opts);
/// One is gone.
pub type spdk_nvme_remove_cb = unsafe extern "C" fn(*mut c_void, *mut spdk_nvme_ctrlr);
/// An operation of the block layer has ended.
pub type spdk_bdev_io_completion_cb = unsafe extern "C" fn(*mut spdk_bdev_io, bool, *mut c_void);
/// Something happened to a device of the block layer.
pub type spdk_bdev_event_cb_t = unsafe extern "C" fn(c_int, *mut spdk_bdev, *mut c_void);
/// A device of the block layer, one after the other; what is not 0 ends it.
pub type spdk_for_each_bdev_fn = unsafe extern "C" fn(*mut c_void, *mut spdk_bdev) -> c_int;
/// Subsystems are started, or not.
pub type spdk_subsystem_init_fn = unsafe extern "C" fn(c_int, *mut c_void);

macro_rules! functions {
    ($(#[$doc:meta])* $interface:ident { $($name:ident($($argument:ty),* $(,)?) $(-> $result:ty)?;)* }) => {
        $(#[$doc])*
        #[derive(Debug)]
        #[allow(missing_docs, reason = "SPDK's functions")]
        pub struct $interface {
            $(pub $name: unsafe extern "C" fn($($argument),*) $(-> $result)?,)*
        }

        impl $interface {
            /// Looks each up. `find` gives the address of a name.
            ///
            /// # Safety
            /// `find` gives functions of these types.
            pub(crate) unsafe fn find<E>(mut find: impl FnMut(&'static str) -> Result<*mut c_void, E>) -> Result<$interface, E> {
                Ok($interface {
                    // SAFETY: it is a function of this type (the caller's word), and not null.
                    $($name: unsafe {
                        std::mem::transmute::<*mut c_void, unsafe extern "C" fn($($argument),*) $(-> $result)?>(find(stringify!($name))?)
                    },)*
                })
            }
        }
    };
}

functions! {
    /// The environment, and NVMe.
    Functions {
        spdk_log_set_print_level(c_int);
        spdk_env_opts_init(*mut spdk_env_opts);
        spdk_env_init(*const spdk_env_opts) -> c_int;
        spdk_env_dpdk_post_init(bool) -> c_int;
        spdk_zmalloc(usize, usize, *mut u64, c_int, u32) -> *mut c_void;
        spdk_free(*mut c_void);
        spdk_nvme_transport_id_parse(*mut spdk_nvme_transport_id, *const c_char) -> c_int;
        spdk_nvme_ctrlr_get_default_ctrlr_opts(*mut spdk_nvme_ctrlr_opts, usize);
        spdk_nvme_connect(*const spdk_nvme_transport_id, *const spdk_nvme_ctrlr_opts, usize) -> *mut spdk_nvme_ctrlr;
        spdk_nvme_probe(
            *const spdk_nvme_transport_id,
            *mut c_void,
            Option<spdk_nvme_probe_cb>,
            Option<spdk_nvme_attach_cb>,
            Option<spdk_nvme_remove_cb>,
        ) -> c_int;
        spdk_nvme_detach(*mut spdk_nvme_ctrlr) -> c_int;
        spdk_nvme_ctrlr_fail(*mut spdk_nvme_ctrlr);
        spdk_nvme_ctrlr_is_failed(*mut spdk_nvme_ctrlr) -> bool;
        spdk_nvme_ctrlr_process_admin_completions(*mut spdk_nvme_ctrlr) -> i32;
        spdk_nvme_ctrlr_get_flags(*mut spdk_nvme_ctrlr) -> u64;
        spdk_nvme_ctrlr_get_max_sges(*const spdk_nvme_ctrlr) -> u16;
        spdk_nvme_ctrlr_get_data(*mut spdk_nvme_ctrlr) -> *const u8;
        spdk_nvme_ctrlr_get_ns(*mut spdk_nvme_ctrlr, u32) -> *mut spdk_nvme_ns;
        spdk_nvme_ctrlr_get_first_active_ns(*mut spdk_nvme_ctrlr) -> u32;
        spdk_nvme_ctrlr_get_next_active_ns(*mut spdk_nvme_ctrlr, u32) -> u32;
        spdk_nvme_ctrlr_get_default_io_qpair_opts(*mut spdk_nvme_ctrlr, *mut spdk_nvme_io_qpair_opts, usize);
        spdk_nvme_ctrlr_alloc_io_qpair(*mut spdk_nvme_ctrlr, *const spdk_nvme_io_qpair_opts, usize) -> *mut spdk_nvme_qpair;
        spdk_nvme_ctrlr_free_io_qpair(*mut spdk_nvme_qpair) -> c_int;
        spdk_nvme_qpair_process_completions(*mut spdk_nvme_qpair, u32) -> i32;
        spdk_nvme_ns_is_active(*mut spdk_nvme_ns) -> bool;
        spdk_nvme_ns_get_sector_size(*mut spdk_nvme_ns) -> u32;
        spdk_nvme_ns_get_md_size(*mut spdk_nvme_ns) -> u32;
        spdk_nvme_ns_get_num_sectors(*mut spdk_nvme_ns) -> u64;
        spdk_nvme_ns_get_max_io_xfer_size(*mut spdk_nvme_ns) -> u32;
        spdk_nvme_ns_get_flags(*mut spdk_nvme_ns) -> u32;
        spdk_nvme_ns_cmd_read(
            *mut spdk_nvme_ns, *mut spdk_nvme_qpair, *mut c_void, u64, u32, spdk_nvme_cmd_cb, *mut c_void, u32,
        ) -> c_int;
        spdk_nvme_ns_cmd_write(
            *mut spdk_nvme_ns, *mut spdk_nvme_qpair, *mut c_void, u64, u32, spdk_nvme_cmd_cb, *mut c_void, u32,
        ) -> c_int;
        spdk_nvme_ns_cmd_writev(
            *mut spdk_nvme_ns, *mut spdk_nvme_qpair, u64, u32, spdk_nvme_cmd_cb, *mut c_void, u32,
            spdk_nvme_req_reset_sgl_cb, spdk_nvme_req_next_sge_cb,
        ) -> c_int;
        spdk_nvme_ns_cmd_flush(*mut spdk_nvme_ns, *mut spdk_nvme_qpair, spdk_nvme_cmd_cb, *mut c_void) -> c_int;
        spdk_nvme_ns_cmd_dataset_management(
            *mut spdk_nvme_ns, *mut spdk_nvme_qpair, u32, *const spdk_nvme_dsm_range, u16, spdk_nvme_cmd_cb, *mut c_void,
        ) -> c_int;
    }
}

functions! {
    /// The block layer, with its threads.
    BdevFunctions {
        spdk_thread_lib_init(*mut c_void, usize) -> c_int;
        spdk_thread_create(*const c_char, *const c_void) -> *mut spdk_thread;
        spdk_set_thread(*mut spdk_thread);
        spdk_thread_poll(*mut spdk_thread, u32, u64) -> c_int;
        spdk_thread_exit(*mut spdk_thread) -> c_int;
        spdk_thread_is_exited(*mut spdk_thread) -> bool;
        spdk_thread_destroy(*mut spdk_thread);
        spdk_rpc_set_state(u32);
        spdk_subsystem_init(spdk_subsystem_init_fn, *mut c_void);
        spdk_subsystem_load_config(*mut c_void, isize, spdk_subsystem_init_fn, *mut c_void, bool);
        spdk_bdev_open_ext(*const c_char, bool, spdk_bdev_event_cb_t, *mut c_void, *mut *mut spdk_bdev_desc) -> c_int;
        spdk_bdev_close(*mut spdk_bdev_desc);
        spdk_bdev_desc_get_bdev(*mut spdk_bdev_desc) -> *mut spdk_bdev;
        spdk_bdev_get_io_channel(*mut spdk_bdev_desc) -> *mut spdk_io_channel;
        spdk_put_io_channel(*mut spdk_io_channel);
        spdk_for_each_bdev(*mut c_void, spdk_for_each_bdev_fn) -> c_int;
        spdk_bdev_get_name(*const spdk_bdev) -> *const c_char;
        spdk_bdev_get_product_name(*const spdk_bdev) -> *const c_char;
        spdk_bdev_get_block_size(*const spdk_bdev) -> u32;
        spdk_bdev_get_num_blocks(*const spdk_bdev) -> u64;
        spdk_bdev_get_md_size(*const spdk_bdev) -> u32;
        spdk_bdev_get_write_unit_size(*const spdk_bdev) -> u32;
        spdk_bdev_get_buf_align(*const spdk_bdev) -> usize;
        spdk_bdev_has_write_cache(*const spdk_bdev) -> bool;
        spdk_bdev_io_type_supported(*mut spdk_bdev, c_int) -> bool;
        spdk_bdev_readv_blocks(
            *mut spdk_bdev_desc, *mut spdk_io_channel, *mut libc::iovec, c_int, u64, u64,
            spdk_bdev_io_completion_cb, *mut c_void,
        ) -> c_int;
        spdk_bdev_writev_blocks(
            *mut spdk_bdev_desc, *mut spdk_io_channel, *mut libc::iovec, c_int, u64, u64,
            spdk_bdev_io_completion_cb, *mut c_void,
        ) -> c_int;
        spdk_bdev_flush_blocks(
            *mut spdk_bdev_desc, *mut spdk_io_channel, u64, u64, spdk_bdev_io_completion_cb, *mut c_void,
        ) -> c_int;
        spdk_bdev_unmap_blocks(
            *mut spdk_bdev_desc, *mut spdk_io_channel, u64, u64, spdk_bdev_io_completion_cb, *mut c_void,
        ) -> c_int;
        spdk_bdev_free_io(*mut spdk_bdev_io);
    }
}
