//! NVMe controllers and their queue pairs.

use std::ffi::{CString, c_void};
use std::ptr::{NonNull, null_mut};
use std::rc::Rc;
use std::sync::Arc;

use pdpix::Error;
use pdpix::block::Geometry;
use spdk_sys::*;

use super::slots::{Ended, Slots, next_segment, on_nvme_end, reset_segments};
use super::{DmaMemory, Gone};
use crate::transfer::{Kind, Transfer};

/// An attached controller; detached when dropped.
pub(crate) struct Attached {
    spdk: &'static Spdk,
    controller: NonNull<spdk_nvme_ctrlr>,
    pub(crate) is_pci: bool,
}

// SAFETY: SPDK's calls about a controller take its lock (nvme.h: all but those on queue pairs may be called from any
// thread); it is detached when nothing else has it.
unsafe impl Send for Attached {}
// SAFETY: as above.
unsafe impl Sync for Attached {}

/// Segments of one write, as our slots' lists are made for.
const SEGMENTS_MAX: u16 = 64;

impl Attached {
    /// Blocks until it is attached, or cannot be.
    pub(crate) fn new(spdk: &'static Spdk, transport_id: &str) -> Result<Attached, String> {
        let text = CString::new(transport_id).map_err(|_| "it has a NUL in its name".to_string())?;
        // SAFETY: all zeros are a value of it, as SPDK wants it before it is parsed.
        let mut id: spdk_nvme_transport_id = unsafe { std::mem::zeroed() };
        // SAFETY: a structure to fill, and a text.
        if unsafe { (spdk.functions.spdk_nvme_transport_id_parse)(&raw mut id, text.as_ptr()) } != 0 {
            return Err(format!("SPDK cannot read `{transport_id}`"));
        }
        // SAFETY: plain data.
        let mut options: spdk_nvme_ctrlr_opts = unsafe { std::mem::zeroed() };
        let size = size_of::<spdk_nvme_ctrlr_opts>();
        // SAFETY: SPDK fills what fits into so many bytes.
        unsafe { (spdk.functions.spdk_nvme_ctrlr_get_default_ctrlr_opts)(&raw mut options, size) };
        if options.opts_size != size {
            return Err(format!("SPDK takes options of {} B, and we have {size}", options.opts_size));
        }
        // What takes longer to answer while it is being attached is not there.
        (options.admin_timeout_ms, options.fabrics_connect_timeout_us) = (ATTACH_MS, u64::from(ATTACH_MS) * 1000);
        options.keep_alive_timeout_ms = KEEP_ALIVE_MS;
        // Each failed read would be printed; we report them.
        options.disable_error_logging = true;
        // SAFETY: both were filled in; the options say how long they are.
        let controller = unsafe { (spdk.functions.spdk_nvme_connect)(&raw const id, &raw const options, size) };
        let controller = NonNull::new(controller).ok_or("SPDK cannot attach it: it said why on standard error")?;
        Ok(Attached { spdk, controller, is_pci: id.trtype == SPDK_NVME_TRANSPORT_PCIE })
    }

    /// Administration: keep-alives, events. An error: it is gone.
    pub(crate) fn process_admin(&self) -> Result<(), Gone> {
        let process = self.spdk.functions.spdk_nvme_ctrlr_process_admin_completions;
        // SAFETY: attached.
        if unsafe { process(self.controller.as_ptr()) } < 0 { Err(Gone) } else { Ok(()) }
    }

    /// Has SPDK look which controllers were taken from the bus; it marks them, and their queues say so.
    pub(crate) fn look_for_removed(&self) {
        unsafe extern "C" fn none(
            _: *mut c_void,
            _: *const spdk_nvme_transport_id,
            _: *mut spdk_nvme_ctrlr_opts,
        ) -> bool {
            false
        }
        unsafe extern "C" fn gone(_: *mut c_void, _: *mut spdk_nvme_ctrlr) {}
        // SAFETY: plain data: any controller on the bus.
        let mut id: spdk_nvme_transport_id = unsafe { std::mem::zeroed() };
        id.trtype = SPDK_NVME_TRANSPORT_PCIE;
        // SAFETY: as `Attached::new` does.
        unsafe { (self.spdk.functions.spdk_nvme_transport_id_parse)(&raw mut id, c"trtype:PCIe".as_ptr()) };
        // SAFETY: callbacks that touch nothing.
        unsafe { (self.spdk.functions.spdk_nvme_probe)(&raw const id, null_mut(), Some(none), None, Some(gone)) };
    }

    /// Nothing is expected of it any more: what would wait for its answers fails at once.
    pub(crate) fn fail(&self) {
        // SAFETY: attached.
        unsafe { (self.spdk.functions.spdk_nvme_ctrlr_fail)(self.controller.as_ptr()) };
    }

    /// Model and serial number.
    pub(crate) fn name(&self) -> String {
        // SAFETY: attached; 4096 bytes, as long as it is.
        let data = unsafe {
            std::slice::from_raw_parts((self.spdk.functions.spdk_nvme_ctrlr_get_data)(self.controller.as_ptr()), 4096)
        };
        let text = |range: std::ops::Range<usize>| String::from_utf8_lossy(&data[range]).trim().to_string();
        format!("{} {}", text(CTRLR_DATA_MN..CTRLR_DATA_MN + 40), text(CTRLR_DATA_SN..CTRLR_DATA_SN + 20))
    }

    /// The active namespaces.
    pub(crate) fn namespaces(&self) -> Vec<u32> {
        let next = self.spdk.functions.spdk_nvme_ctrlr_get_next_active_ns;
        // SAFETY: attached.
        let first = unsafe { (self.spdk.functions.spdk_nvme_ctrlr_get_first_active_ns)(self.controller.as_ptr()) };
        let after = |&at: &u32| {
            Some(unsafe {
                // SAFETY: as above.
                next(self.controller.as_ptr(), at)
            })
        };
        std::iter::successors(Some(first), after).take_while(|&number| number != 0).collect()
    }
}

/// Milliseconds that it may take to answer while it is attached.
const ATTACH_MS: u32 = 10_000;
/// After so long without a word from us a target may forget us; the control thread sends one in time.
const KEEP_ALIVE_MS: u32 = 10_000;

impl Drop for Attached {
    fn drop(&mut self) {
        // SAFETY: given by `new`, the only constructor; `drop` runs once; queue pairs hold the controller, so there is none.
        unsafe { (self.spdk.functions.spdk_nvme_detach)(self.controller.as_ptr()) };
    }
}

/// A queue pair of a core's, on one namespace.
pub(crate) struct NvmeQueue {
    spdk: &'static Spdk,
    qpair: *mut spdk_nvme_qpair,
    namespace: NonNull<spdk_nvme_ns>,
    slots: Slots,
    /// Last: freed after the queue pair.
    pub(crate) attached: Arc<Attached>,
}

impl NvmeQueue {
    pub(crate) fn new(
        attached: Arc<Attached>,
        namespace: u32,
        depth: usize,
        ended: &Rc<Ended>,
    ) -> Result<NvmeQueue, String> {
        let (spdk, controller) = (attached.spdk, attached.controller.as_ptr());
        // SAFETY: attached; a number that it does not know gives none.
        let found = unsafe { (spdk.functions.spdk_nvme_ctrlr_get_ns)(controller, namespace) };
        // SAFETY: it was just given.
        let found =
            NonNull::new(found).filter(|found| unsafe { (spdk.functions.spdk_nvme_ns_is_active)(found.as_ptr()) });
        let found = found.ok_or_else(|| format!("it has no namespace {namespace}, but {:?}", attached.namespaces()))?;
        // SAFETY: plain data.
        let mut options: spdk_nvme_io_qpair_opts = unsafe { std::mem::zeroed() };
        let size = size_of::<spdk_nvme_io_qpair_opts>();
        // SAFETY: SPDK fills what fits into so many bytes.
        unsafe { (spdk.functions.spdk_nvme_ctrlr_get_default_io_qpair_opts)(controller, &raw mut options, size) };
        // The queue is as long as the controller lets it be; SPDK holds back what is beyond that. One operation may become
        // several commands.
        options.io_queue_requests = options.io_queue_requests.max(depth as u32 * 4);
        // SAFETY: attached, and options that were filled in.
        let qpair = unsafe { (spdk.functions.spdk_nvme_ctrlr_alloc_io_qpair)(controller, &raw const options, size) };
        if qpair.is_null() {
            return Err("it gives no queue pair: it has no more, or none for this core".into());
        }
        Ok(NvmeQueue { spdk, qpair, namespace: found, slots: Slots::new(depth, ended), attached })
    }

    pub(crate) fn geometry(&self) -> Result<Geometry, String> {
        let (functions, namespace) = (&self.spdk.functions, self.namespace.as_ptr());
        let controller = self.attached.controller.as_ptr();
        // SAFETY: an active namespace of an attached controller.
        let (block_size, block_count, transfer, flags, metadata) = unsafe {
            (
                (functions.spdk_nvme_ns_get_sector_size)(namespace),
                (functions.spdk_nvme_ns_get_num_sectors)(namespace),
                (functions.spdk_nvme_ns_get_max_io_xfer_size)(namespace),
                (functions.spdk_nvme_ns_get_flags)(namespace),
                (functions.spdk_nvme_ns_get_md_size)(namespace),
            )
        };
        if metadata > 0 || flags & SPDK_NVME_NS_EXTENDED_LBA_SUPPORTED != 0 {
            return Err(format!("its blocks carry {metadata} B of metadata: format it without"));
        }
        if !(512..=65_536).contains(&block_size) || !block_size.is_power_of_two() || block_count == 0 {
            return Err(format!("{block_count} blocks of {block_size} B are nothing to keep logs on"));
        }
        // SAFETY: as above.
        let (sges, controller_flags) = unsafe {
            ((functions.spdk_nvme_ctrlr_get_max_sges)(controller), (functions.spdk_nvme_ctrlr_get_flags)(controller))
        };
        let gathers_anything = controller_flags
            & (SPDK_NVME_CTRLR_SGL_SUPPORTED | SPDK_NVME_CTRLR_SGL_REQUIRES_DWORD_ALIGNMENT)
            == SPDK_NVME_CTRLR_SGL_SUPPORTED;
        Ok(Geometry {
            block_size,
            block_count,
            // What it writes whole when power fails may be much longer (AWUPF, NVM command set specification §2.1.4): that
            // is a promise, which a log does not need, and no wish to be written so.
            write_unit: 1,
            transfer_max: (transfer / block_size).max(1),
            // NVMe base specification §4.1.1: a PRP entry's offset is a multiple of 4; lists of segments take any address.
            align: if gathers_anything { 1 } else { 4 },
            // Without lists, SPDK would want each segment but the first and the last to be whole pages.
            gathers: if gathers_anything { sges.clamp(1, SEGMENTS_MAX) } else { 1 },
            volatile_cache: flags & SPDK_NVME_NS_FLUSH_SUPPORTED != 0,
            forces: false,
            discards: flags & SPDK_NVME_NS_DEALLOCATE_SUPPORTED != 0,
        })
    }

    /// Begins it. It stays where it is until its index was ended.
    pub(crate) fn begin(&mut self, index: usize, transfer: &mut Transfer) -> Result<(), Error> {
        let (functions, namespace, slot) = (&self.spdk.functions, self.namespace.as_ptr(), self.slots.slot(index));
        let (lba, count, argument) = (transfer.lba, transfer.block_count as u32, slot.argument());
        // SAFETY: a slot is used again after its end was taken.
        let segments = unsafe { slot.fill(transfer) };
        let (first, is_one) = (segments.first().map_or(null_mut(), |it| it.iov_base), segments.len() == 1);
        let (read, write) = (functions.spdk_nvme_ns_cmd_read, functions.spdk_nvme_ns_cmd_write);
        // SAFETY: the memory is the transfer's, which stays in its table until the slot has ended or the queue pair is
        // freed; a read's is nobody else's; the queue pair is not freed (`is_open`), and this is its thread.
        let rc = unsafe {
            match &transfer.kind {
                _ if self.qpair.is_null() => -libc::ENXIO,
                Kind::Read(_) => read(namespace, self.qpair, first, lba, count, on_nvme_end, argument, 0),
                Kind::Write(_) if is_one => write(namespace, self.qpair, first, lba, count, on_nvme_end, argument, 0),
                Kind::Write(_) => (functions.spdk_nvme_ns_cmd_writev)(
                    namespace,
                    self.qpair,
                    lba,
                    count,
                    on_nvme_end,
                    argument,
                    0,
                    reset_segments,
                    next_segment,
                ),
                Kind::Flush => (functions.spdk_nvme_ns_cmd_flush)(namespace, self.qpair, on_nvme_end, argument),
                Kind::Discard => {
                    let ranges = slot.fill_ranges(lba, transfer.block_count);
                    (functions.spdk_nvme_ns_cmd_dataset_management)(
                        namespace,
                        self.qpair,
                        SPDK_NVME_DSM_ATTR_DEALLOCATE,
                        ranges.as_ptr(),
                        ranges.len() as u16,
                        on_nvme_end,
                        argument,
                    )
                }
            }
        };
        match rc {
            0 => Ok(()),
            rc if rc == -libc::ENOMEM => Err(Error::NoBuffers),
            rc if rc == -libc::EINVAL => Err(Error::InvalidArgument),
            _ => Err(Error::Io),
        }
    }

    /// Reads blocks into memory of SPDK's.
    pub(crate) fn begin_read(&mut self, index: usize, memory: &DmaMemory, lba: u64, block_count: u32) -> bool {
        let (read, argument) = (self.spdk.functions.spdk_nvme_ns_cmd_read, self.slots.slot(index).argument());
        let base = memory.base().as_ptr().cast();
        // SAFETY: the memory is the caller's until the slot has ended.
        unsafe { read(self.namespace.as_ptr(), self.qpair, base, lba, block_count, on_nvme_end, argument, 0) == 0 }
    }

    /// Takes in at most `max` ends.
    pub(crate) fn process(&mut self, max: u32) -> Result<(), Gone> {
        if self.qpair.is_null() {
            return Err(Gone);
        }
        // SAFETY: the queue pair is not freed, and this is its thread.
        let rc = unsafe { (self.spdk.functions.spdk_nvme_qpair_process_completions)(self.qpair, max) };
        if rc < 0 { Err(Gone) } else { Ok(()) }
    }

    /// Frees the queue pair: what was under way ends, not well.
    pub(crate) fn close(&mut self) {
        let qpair = std::mem::replace(&mut self.qpair, null_mut());
        if !qpair.is_null() {
            // SAFETY: given by `new`; the pointer is taken, so this runs once; on its thread, and outside of its callbacks.
            unsafe { (self.spdk.functions.spdk_nvme_ctrlr_free_io_qpair)(qpair) };
        }
    }
}

impl Drop for NvmeQueue {
    fn drop(&mut self) {
        self.close();
    }
}
