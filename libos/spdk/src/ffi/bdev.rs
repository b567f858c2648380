//! SPDK's block layer: its subsystems, and a channel of a core's to one of its devices.
//!
//! What SPDK calls a thread is a list of things to do, which some thread of ours does. One does all that belongs to no
//! core, and rests while no device is open; each channel has one of its own, polled by its core, until that gives it up.

use std::cell::Cell;
use std::ffi::{CStr, CString, c_char, c_int, c_void};
use std::ptr::{NonNull, null, null_mut};
use std::rc::Rc;
use std::sync::{Condvar, Mutex, OnceLock, PoisonError, mpsc};
use std::time::{Duration, Instant};

use pdpix::Error;
use pdpix::block::Geometry;
use spdk_sys::*;

use super::given_up::{AllGivenUp, Served};
use super::slots::{Ended, Slots, on_bdev_end};
use super::{DmaMemory, Gone, be_nobodys};
use crate::cache::{cache_of, forgets_flushes};
use crate::error::says;
use crate::transfer::{Kind, Transfer};

/// The subsystems, started and configured; until the process ends.
pub(crate) struct Subsystems {
    library: &'static BdevLibrary,
    /// Devices that are open.
    open: Mutex<usize>,
    changed: Condvar,
    given_up: AllGivenUp,
}

/// Starting and configuring takes no longer.
const START_MAX: Duration = Duration::from_secs(30);
/// Between two looks of the thread that belongs to no core.
const REST: Duration = Duration::from_millis(1);

impl Subsystems {
    /// Starts them with this configuration, in SPDK's JSON; or gives those that are there: then it changes nothing.
    pub(crate) fn start(spdk: &'static Spdk, configuration: &str) -> Result<&'static Subsystems, String> {
        static STARTED: OnceLock<Result<Subsystems, String>> = OnceLock::new();
        let begin = || {
            let library = load_bdev(spdk).map_err(|error| error.to_string())?;
            let (report, reported) = mpsc::channel();
            let configuration = configuration.to_string();
            let serve = move || {
                be_nobodys();
                let result = bring_up(library, &configuration);
                let thread = result.as_ref().map(|thread| *thread).ok();
                let _ = report.send(result.map(|_| ()));
                if let Some(thread) = thread {
                    serve(library, thread);
                }
            };
            std::thread::Builder::new().name("spdk".into()).spawn(serve).map_err(|error| error.to_string())?;
            let result = reported.recv().unwrap_or_else(|_| Err("its thread has ended".into()));
            result.map(|()| Subsystems {
                library,
                open: Mutex::new(0),
                changed: Condvar::new(),
                given_up: AllGivenUp::default(),
            })
        };
        let started = STARTED.get_or_init(begin).as_ref().map_err(Clone::clone)?;
        let _ = SERVED.set(started);
        Ok(started)
    }

    fn count(&self, change: impl FnOnce(&mut usize)) {
        change(&mut self.open.lock().unwrap_or_else(PoisonError::into_inner));
        self.changed.notify_all();
    }

    fn wait_until_open(&self) {
        let mut open = self.open.lock().unwrap_or_else(PoisonError::into_inner);
        while *open == 0 {
            open = self.changed.wait(open).unwrap_or_else(PoisonError::into_inner);
        }
    }
}

/// What the thread below serves, once it is known.
static SERVED: OnceLock<&'static Subsystems> = OnceLock::new();

unsafe extern "C" fn note(rc: c_int, argument: *mut c_void) {
    // SAFETY: a cell of `bring_up`'s, which waits for this.
    unsafe { &*argument.cast_const().cast::<Cell<Option<c_int>>>() }.set(Some(rc));
}

/// A pointer that its thread keeps.
#[derive(Clone, Copy)]
struct SpdkThread(NonNull<spdk_thread>);

fn bring_up(library: &'static BdevLibrary, configuration: &str) -> Result<SpdkThread, String> {
    let functions = &library.functions;
    // SAFETY: once, after the environment was started.
    let rc = unsafe { (functions.spdk_thread_lib_init)(null_mut(), 0) };
    if rc != 0 {
        return Err(says(rc));
    }
    // SAFETY: a text that is copied.
    let thread = NonNull::new(unsafe { (functions.spdk_thread_create)(c"margay".as_ptr(), null()) });
    let thread = thread.ok_or("SPDK makes no thread")?;
    // SAFETY: on this thread, which keeps it.
    unsafe { (functions.spdk_set_thread)(thread.as_ptr()) };
    let step = |what: &str, begin: &dyn Fn(*mut c_void)| {
        let done = Cell::new(None);
        begin(std::ptr::from_ref(&done).cast_mut().cast());
        let begun = Instant::now();
        while done.get().is_none() {
            // SAFETY: this thread's.
            unsafe { (functions.spdk_thread_poll)(thread.as_ptr(), 0, 0) };
            if begun.elapsed() > START_MAX {
                // The cell is still named by what has not called back: this thread never returns from here.
                return Err(format!("{what} does not end"));
            }
        }
        match done.get() {
            Some(0) | None => Ok(()),
            Some(rc) => Err(format!("{what}: {}", says(rc))),
        }
    };
    // Twice, as SPDK's own programs do: what must come before the subsystems is taken the first time, the rest the second.
    // SAFETY: texts are copied; `note` gets the cell back.
    unsafe { (functions.spdk_rpc_set_state)(SPDK_RPC_STARTUP) };
    let load = |cell| unsafe {
        // SAFETY: as above.
        (functions.spdk_subsystem_load_config)(
            configuration.as_ptr().cast_mut().cast(),
            configuration.len() as isize,
            note,
            cell,
            true,
        );
    };
    step("its configuration", &load)?;
    // SAFETY: as above.
    step("starting the block layer", &|cell| unsafe { (functions.spdk_subsystem_init)(note, cell) })?;
    // SAFETY: it sets a number.
    unsafe { (functions.spdk_rpc_set_state)(SPDK_RPC_RUNTIME) };
    step("its configuration", &load)?;
    Ok(SpdkThread(thread))
}

/// Does what belongs to no core, or not any more, for ever.
fn serve(library: &'static BdevLibrary, thread: SpdkThread) {
    let mut given_up = Served::default();
    loop {
        // Polling what nobody uses would keep a processor awake, and be in the way when the process ends.
        if let Some(served) = SERVED.get() {
            served.wait_until_open();
            if given_up.poll(&served.given_up) {
                // SAFETY: this thread's.
                unsafe { (library.functions.spdk_set_thread)(thread.0.as_ptr()) };
            }
        }
        // SAFETY: this thread's.
        let worked = unsafe { (library.functions.spdk_thread_poll)(thread.0.as_ptr(), 0, 0) };
        if worked <= 0 {
            std::thread::sleep(REST);
        }
    }
}

/// A device that is open.
struct Counted(&'static Subsystems);

impl Counted {
    fn new(subsystems: &'static Subsystems) -> Counted {
        subsystems.count(|open| *open += 1);
        Counted(subsystems)
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        self.0.count(|open| *open -= 1);
    }
}

/// A core's channel to a device.
pub(crate) struct BdevQueue {
    subsystems: &'static Subsystems,
    thread: NonNull<spdk_thread>,
    descriptor: *mut spdk_bdev_desc,
    channel: *mut spdk_io_channel,
    slots: Slots,
    removed: Rc<Cell<bool>>,
    read_only: bool,
    /// Until its core gives it up.
    counted: Option<Counted>,
}

unsafe extern "C" fn on_event(event: c_int, _: *mut spdk_bdev, argument: *mut c_void) {
    if event == SPDK_BDEV_EVENT_REMOVE {
        // SAFETY: the cell of the queue, which is there as long as the descriptor is.
        unsafe { &*argument.cast_const().cast::<Cell<bool>>() }.set(true);
    }
}

unsafe extern "C" fn on_end(io: *mut spdk_bdev_io, is_good: bool, argument: *mut c_void) {
    if let Some(served) = SERVED.get() {
        // SAFETY: the operation has ended, and SPDK wants it back.
        unsafe { (served.library.functions.spdk_bdev_free_io)(io) };
    }
    on_bdev_end(argument, is_good);
}

impl BdevQueue {
    pub(crate) fn new(
        subsystems: &'static Subsystems,
        name: &str,
        depth: usize,
        ended: &Rc<Ended>,
        read_only: bool,
    ) -> Result<BdevQueue, String> {
        let functions = &subsystems.library.functions;
        let name = CString::new(name).map_err(|_| "it has a NUL in its name".to_string())?;
        // SAFETY: the library is initialised; a text that is copied.
        let thread = unsafe { (functions.spdk_thread_create)(c"core".as_ptr(), null()) };
        let thread = NonNull::new(thread).ok_or("SPDK makes no thread")?;
        let removed = Rc::new(Cell::new(false));
        let counted = Some(Counted::new(subsystems));
        // From here on dropping it puts all away.
        let mut queue = BdevQueue {
            subsystems,
            thread,
            descriptor: null_mut(),
            channel: null_mut(),
            slots: Slots::new(depth, ended),
            removed,
            read_only,
            counted,
        };
        let argument = Rc::as_ptr(&queue.removed).cast_mut().cast();
        queue.enter();
        // SAFETY: on the thread that was just entered; the cell lives until the descriptor is closed.
        let rc = unsafe {
            (functions.spdk_bdev_open_ext)(name.as_ptr(), !read_only, on_event, argument, &raw mut queue.descriptor)
        };
        if rc != 0 {
            queue.descriptor = null_mut();
            return Err(format!("it cannot be opened: {}", says(rc)));
        }
        if !read_only {
            subsystems.given_up.wait_for_writes(queue.address())?;
        }
        // SAFETY: opened on this thread.
        queue.channel = unsafe { (functions.spdk_bdev_get_io_channel)(queue.descriptor) };
        if queue.channel.is_null() { Err("it gives no channel".into()) } else { Ok(queue) }
    }

    /// SPDK's calls want to know on which of its threads they are.
    fn enter(&self) {
        // SAFETY: it sets a variable of this thread of ours.
        unsafe { (self.subsystems.library.functions.spdk_set_thread)(self.thread.as_ptr()) };
    }

    fn bdev(&self) -> *mut spdk_bdev {
        // SAFETY: opened.
        unsafe { (self.subsystems.library.functions.spdk_bdev_desc_get_bdev)(self.descriptor) }
    }

    /// The device, as long as it is open.
    pub(super) fn address(&self) -> usize {
        self.bdev().addr()
    }

    /// Operations that it has slots for.
    pub(super) fn depth(&self) -> usize {
        self.slots.len()
    }

    /// What kind of device it is.
    pub(crate) fn name(&self) -> String {
        // SAFETY: opened; a text that stays as long as the device.
        text(unsafe { (self.subsystems.library.functions.spdk_bdev_get_product_name)(self.bdev()) })
    }

    /// A device of this process, by its name, that has a cache and does not flush it. Which one lies on which SPDK does not
    /// say: so all are looked at.
    fn unflushed(&self) -> Result<Option<String>, String> {
        let functions = &self.subsystems.library.functions;
        let mut search = Search { functions, found: None };
        self.enter();
        // SAFETY: on a thread of SPDK's, which opens each, calls `look` with what it is given here, and closes it.
        let rc = unsafe { (functions.spdk_for_each_bdev)((&raw mut search).cast(), look) };
        if rc == 0 {
            Ok(search.found)
        } else {
            Err(format!("the devices of this process cannot be seen: {}", says(rc)))
        }
    }

    pub(crate) fn geometry(&self) -> Result<Geometry, String> {
        let (functions, bdev) = (&self.subsystems.library.functions, self.bdev());
        // SAFETY: opened.
        let (block_size, block_count, metadata, unit, align, says_cache, unmap) = unsafe {
            (
                (functions.spdk_bdev_get_block_size)(bdev),
                (functions.spdk_bdev_get_num_blocks)(bdev),
                (functions.spdk_bdev_get_md_size)(bdev),
                (functions.spdk_bdev_get_write_unit_size)(bdev),
                (functions.spdk_bdev_get_buf_align)(bdev),
                (functions.spdk_bdev_has_write_cache)(bdev),
                (functions.spdk_bdev_io_type_supported)(bdev, SPDK_BDEV_IO_TYPE_UNMAP),
            )
        };
        if metadata > 0 {
            return Err(format!("its blocks carry {metadata} B of metadata: have it without"));
        }
        if unit > 1 {
            return Err(format!("it writes {unit} blocks at a time, and a log writes single ones"));
        }
        if !(512..=65_536).contains(&block_size) || !block_size.is_power_of_two() || block_count == 0 {
            return Err(format!("{block_count} blocks of {block_size} B are nothing to keep logs on"));
        }
        let is_volatile = self
            .unflushed()
            .and_then(|unflushed| cache_of(&self.name(), says_cache, self.can_flush(), unflushed.as_deref()));
        let volatile_cache = match is_volatile {
            Ok(is_volatile) => is_volatile,
            // Nothing that is written could be lost.
            Err(_) if self.read_only => false,
            Err(why) => return Err(why),
        };
        Ok(Geometry {
            block_size,
            block_count,
            // Its write unit is the shortest write; what is atomic at a power cut it does not say.
            write_unit: 1,
            transfer_max: TRANSFER_MAX / block_size,
            align: align.clamp(1, 4096) as u32,
            gathers: if align <= 1 { GATHERS } else { 1 },
            volatile_cache,
            forces: false,
            discards: unmap,
        })
    }

    /// Begins it. It stays where it is until its index was ended.
    pub(crate) fn begin(&mut self, index: usize, transfer: &mut Transfer) -> Result<(), Error> {
        if self.channel.is_null() || self.removed.get() {
            return Err(Error::Io);
        }
        let (functions, slot) = (&self.subsystems.library.functions, self.slots.slot(index));
        let (lba, count, argument) = (transfer.lba, transfer.block_count, slot.argument());
        self.enter();
        // SAFETY: a slot is used again after its end was taken.
        let segments = unsafe { slot.fill(transfer) };
        let (vector, vectors) = (segments.as_mut_ptr(), segments.len() as c_int);
        // SAFETY: memory and vector are the transfer's and the slot's, which stay until the slot has ended; the channel is
        // this thread's, and open.
        let rc = unsafe {
            match &transfer.kind {
                Kind::Read(_) => (functions.spdk_bdev_readv_blocks)(
                    self.descriptor,
                    self.channel,
                    vector,
                    vectors,
                    lba,
                    count,
                    on_end,
                    argument,
                ),
                Kind::Write(_) => (functions.spdk_bdev_writev_blocks)(
                    self.descriptor,
                    self.channel,
                    vector,
                    vectors,
                    lba,
                    count,
                    on_end,
                    argument,
                ),
                Kind::Flush => {
                    (functions.spdk_bdev_flush_blocks)(self.descriptor, self.channel, lba, count, on_end, argument)
                }
                Kind::Discard => {
                    (functions.spdk_bdev_unmap_blocks)(self.descriptor, self.channel, lba, count, on_end, argument)
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

    /// Whether the device can be told to flush; one that has no cache may not know what that is.
    pub(crate) fn can_flush(&self) -> bool {
        // SAFETY: opened.
        unsafe { (self.subsystems.library.functions.spdk_bdev_io_type_supported)(self.bdev(), SPDK_BDEV_IO_TYPE_FLUSH) }
    }

    /// Reads blocks into memory of SPDK's.
    pub(crate) fn begin_read(&mut self, index: usize, memory: &DmaMemory, lba: u64, block_count: u32) -> bool {
        self.enter();
        let (functions, slot) = (&self.subsystems.library.functions, self.slots.slot(index));
        // SAFETY: a slot that is free.
        let vector = unsafe { slot.one(memory.base().as_ptr(), memory.len()) };
        // SAFETY: the memory is the caller's until the slot has ended.
        let rc = unsafe {
            (functions.spdk_bdev_readv_blocks)(
                self.descriptor,
                self.channel,
                vector,
                1,
                lba,
                u64::from(block_count),
                on_end,
                slot.argument(),
            )
        };
        rc == 0
    }

    /// Does what its core's part of SPDK has to do. An error: it was removed, and nothing is under way in it.
    pub(crate) fn process(&mut self) -> Result<(), Gone> {
        // SAFETY: this thread's.
        unsafe { (self.subsystems.library.functions.spdk_thread_poll)(self.thread.as_ptr(), 0, 0) };
        if self.removed.get() { Err(Gone) } else { Ok(()) }
    }

    /// Leaves it to the thread that belongs to no core. So many operations are under way in it; where they end, `ended`,
    /// is for nobody else. `may_write`: some of them write.
    pub(crate) fn give_up(mut self, ended: Rc<Ended>, under_way: usize, may_write: bool) {
        let (subsystems, counted) = (self.subsystems, self.counted.take());
        // SAFETY: it sets a variable of this thread of ours, which is on that thread of SPDK's no more.
        unsafe { (subsystems.library.functions.spdk_set_thread)(null_mut()) };
        subsystems.given_up.add(self, ended, under_way, may_write);
        drop(counted);
    }

    /// Gives the channel and the device back. Nothing is under way.
    pub(crate) fn close(&mut self) {
        self.enter();
        let functions = &self.subsystems.library.functions;
        let channel = std::mem::replace(&mut self.channel, null_mut());
        if !channel.is_null() {
            // SAFETY: got from SPDK on this thread; taken, so this runs once.
            unsafe { (functions.spdk_put_io_channel)(channel) };
        }
        let descriptor = std::mem::replace(&mut self.descriptor, null_mut());
        if !descriptor.is_null() {
            // SAFETY: as above.
            unsafe { (functions.spdk_bdev_close)(descriptor) };
        }
    }

    /// Closes it, and ends its thread of SPDK's, which is polled for that until it [`has_ended`](BdevQueue::has_ended).
    pub(super) fn end(&mut self) {
        self.close();
        // SAFETY: on that thread, which `close` has entered. A second time it does nothing.
        unsafe { (self.subsystems.library.functions.spdk_thread_exit)(self.thread.as_ptr()) };
    }

    pub(super) fn has_ended(&self) -> bool {
        // SAFETY: made by `new`, and destroyed by `drop` only.
        unsafe { (self.subsystems.library.functions.spdk_thread_is_exited)(self.thread.as_ptr()) }
    }
}

impl Drop for BdevQueue {
    fn drop(&mut self) {
        self.end();
        let begun = Instant::now();
        while !self.has_ended() && begun.elapsed() < EXIT_MAX {
            let _ = self.process();
        }
        let functions = &self.subsystems.library.functions;
        // SAFETY: made by `new`; it has ended. One that does not end stays: what it waits for may still name it.
        unsafe {
            if self.has_ended() {
                (functions.spdk_thread_destroy)(self.thread.as_ptr());
            }
            (functions.spdk_set_thread)(null_mut());
        }
    }
}

/// A text of a device's.
fn text(name: *const c_char) -> String {
    // SAFETY: of a device that is open; it ends with a NUL.
    unsafe { CStr::from_ptr(name) }.to_string_lossy().into_owned()
}

/// For a device that does not flush its cache.
struct Search<'a> {
    functions: &'a BdevFunctions,
    found: Option<String>,
}

unsafe extern "C" fn look(argument: *mut c_void, bdev: *mut spdk_bdev) -> c_int {
    // SAFETY: the one of `unflushed`, which nobody else has while it waits for this.
    let search = unsafe { &mut *argument.cast::<Search>() };
    // SAFETY: it is open while we look.
    let (product, says_cache) = unsafe {
        ((search.functions.spdk_bdev_get_product_name)(bdev), (search.functions.spdk_bdev_has_write_cache)(bdev))
    };
    if search.found.is_none() && forgets_flushes(&text(product), says_cache) {
        // SAFETY: as above.
        search.found = Some(text(unsafe { (search.functions.spdk_bdev_get_name)(bdev) }));
    }
    0
}

/// SPDK's own limit for a thread to end is five seconds.
const EXIT_MAX: Duration = Duration::from_secs(6);
/// Bytes of one transfer; the block layer divides it for its modules.
const TRANSFER_MAX: u32 = 1 << 20;
/// Segments of one write.
const GATHERS: u16 = 32;
