//! Opening a file or a disk: found or made, its space taken, locked, and with the best way in and out that there is.

use std::fs::File;
use std::io::{self, Write};
use std::ops::Range;
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::time::Duration;

use pdpix::block::Geometry;
use pdpix::{BlockDevice, Error, Heap};
use rustix::fs::{AtFlags, FallocateFlags, FileType, FlockOperation, Mode, OFlags, StatxFlags};
use rustix::io::Errno;

use super::threaded::ThreadedDisk;
use super::uring::UringDisk;

/// What moves the bytes.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum DiskEngine {
    /// io_uring where it is allowed, else a thread.
    #[default]
    Auto,
    /// io_uring, or nothing.
    Uring,
    /// One thread a device, with preadv, pwritev and fdatasync, one after the other: the core itself never waits for
    /// the disk. For systems that forbid io_uring.
    Threaded,
}

/// How a write becomes durable.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum Durable {
    /// By the flush that follows it; one that is alone may be forced instead, where the kernel makes that a write and a flush.
    #[default]
    Auto,
    /// By the flush that follows it: fdatasync, which has the disk empty its cache.
    Fdatasync,
    /// By itself, before it is done: RWF_DSYNC, which the kernel makes a forced-unit-access write where the disk has that
    /// and the blocks were written before, and a write with a flush else. A flush is then nothing.
    Dsync,
}

/// Which disk, and how.
#[derive(Clone, Debug)]
pub struct DiskSettings {
    /// A file, or a block device.
    pub path: PathBuf,
    /// Bytes that a file is to have at least: it is made, or made longer. `None`: what is there.
    pub size: Option<u64>,
    /// What moves the bytes.
    pub engine: DiskEngine,
    /// Past the page cache, where the file system can.
    pub direct: bool,
    /// How a write becomes durable.
    pub durable: Durable,
    /// Give space back to the file system, or tell the disk, when blocks are discarded. Without it a file keeps what it
    /// took at the start, so that no write can ever meet a full file system.
    pub discard: bool,
    /// Write zeros once to what is new, so that later writes find their blocks made: a file system has to log the first
    /// write to each. Takes as long as writing the file does.
    pub prepare: bool,
    /// For reading only.
    pub read_only: bool,
    /// Operations under way at once.
    pub depth: u32,
    /// Bytes of the heap that may be registered with io_uring, so that the kernel need not look them up each time. They
    /// stay in memory. Counted against RLIMIT_MEMLOCK for those without privileges.
    pub registered_max: usize,
}

impl DiskSettings {
    /// The usual ones.
    pub fn new(path: impl Into<PathBuf>) -> DiskSettings {
        DiskSettings {
            path: path.into(),
            size: None,
            engine: DiskEngine::Auto,
            direct: true,
            durable: Durable::Auto,
            discard: false,
            prepare: false,
            read_only: false,
            depth: 128,
            registered_max: 256 << 20,
        }
    }
}

/// Why a disk could not be opened.
#[derive(Debug)]
pub enum DiskError {
    /// A system call said no.
    Os {
        /// The file or disk.
        path: PathBuf,
        /// What was tried.
        doing: &'static str,
        /// What came of it.
        why: io::Error,
    },
    /// Another process has it.
    Busy(PathBuf),
    /// Neither a file nor a block device.
    NotADisk(PathBuf),
    /// Too short to hold a single block, or no size was given for a new file.
    TooSmall(PathBuf),
    /// Longer than a file of this process may be (RLIMIT_FSIZE, in bytes).
    Limit(PathBuf, u64),
}

impl DiskError {
    /// As the error of a call.
    pub fn error(&self) -> Error {
        match self {
            DiskError::Os { why, .. } => super::transfer::error(why.raw_os_error().unwrap_or(libc::EIO)),
            DiskError::Busy(_) => Error::AddressInUse,
            DiskError::NotADisk(_) | DiskError::TooSmall(_) => Error::InvalidArgument,
            DiskError::Limit(..) => Error::NoSpace,
        }
    }
}

impl std::fmt::Display for DiskError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            DiskError::Os { path, doing, why } => write!(f, "cannot {doing} {}: {why}", path.display()),
            DiskError::Busy(path) => write!(f, "another process uses {}, or it is mounted", path.display()),
            DiskError::NotADisk(path) => write!(f, "{} is neither a file nor a block device", path.display()),
            DiskError::TooSmall(path) => write!(f, "{} is empty, and no size was given", path.display()),
            DiskError::Limit(path, limit) => {
                let path = path.display();
                write!(f, "{path} would be longer than this process may make a file ({limit} bytes: ulimit -f)")
            }
        }
    }
}

impl std::error::Error for DiskError {}

/// A disk, and how it was opened.
pub struct OpenedDisk {
    /// Itself.
    pub device: Box<dyn BlockDevice>,
    /// The file was made just now.
    pub created: bool,
    /// Writes are refused: it was asked for, or the file system is read only.
    pub read_only: bool,
    /// How it is driven: `io_uring, O_DIRECT`.
    pub how: String,
    /// What to tell whoever started this: what it had to do without.
    pub notices: Vec<String>,
}

impl std::fmt::Debug for OpenedDisk {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "OpenedDisk({}, {:?})", self.how, self.device.geometry())
    }
}

/// What both engines are made from.
pub(super) struct Disk {
    pub(super) fd: OwnedFd,
    pub(super) geometry: Geometry,
    pub(super) read_only: bool,
    /// Blocks that nobody has written.
    pub(super) unwritten: Vec<Range<u64>>,
    /// Each write is to be durable when it is done.
    pub(super) dsync: bool,
    pub(super) depth: usize,
}

const TRANSFER_MAX: u32 = 1 << 20;
/// The unit where the file system does not say: every disk since 1956 has at most that.
const BLOCK_SIZE: u32 = 512;
/// Segments of one gathered write.
const GATHERS: u16 = super::ffi::SEGMENTS_MAX as u16;

/// Opens a file or a disk; makes a file that is not there, if a size is given.
///
/// `heap` is the one whose buffers will be read into and written from.
///
/// # Errors
/// [`DiskError`]. A file that could not be given its space is removed again if it was new.
pub fn open_disk(settings: &DiskSettings, heap: &Heap) -> Result<OpenedDisk, DiskError> {
    let mut notices = Vec::new();
    let path = settings.path.as_path();
    let Opened { fd, created, read_only } = open_locked(settings, &mut notices)?;
    let opened = if read_only { Ok(false) } else { take_space(&fd, settings) };
    let opened = opened.and_then(|grown| Ok((grown, size_of(&fd, path)?)));
    let (grown, size) = opened.inspect_err(|_| {
        if created {
            let _ = std::fs::remove_file(path); // an empty file would look like a log that was lost
        }
    })?;
    // Also where whoever made the file died before that.
    if created || grown {
        sync_directory(path)?;
    }
    let direct = if settings.direct { make_direct(&fd, path, &mut notices) } else { None };
    if is_tmpfs(&fd) {
        notices.push(format!("{} is in memory (tmpfs): nothing in it outlives the machine", path.display()));
    }
    // Through the page cache an error of a page is told to who syncs first: of several at a time each would take it for the other's.
    let may_force = settings.durable == Durable::Auto && !read_only && direct.is_some();
    let (block_size, align) = direct.unwrap_or((BLOCK_SIZE, 1));
    let geometry = Geometry {
        block_size,
        block_count: size / u64::from(block_size),
        write_unit: 1,
        transfer_max: TRANSFER_MAX / block_size,
        align,
        gathers: if direct.is_some() { 1 } else { GATHERS },
        volatile_cache: settings.durable != Durable::Dsync,
        forces: may_force && kernel_flushes(&fd),
        discards: settings.discard,
    };
    if geometry.block_count == 0 {
        return Err(DiskError::TooSmall(path.into()));
    }
    let unwritten = if read_only { Vec::new() } else { holes(&fd, size, u64::from(block_size)) };
    let disk = Disk {
        fd,
        geometry,
        read_only,
        unwritten,
        dsync: settings.durable == Durable::Dsync,
        depth: settings.depth.clamp(1, 4096) as usize,
    };
    let way = if direct.is_some() { "O_DIRECT" } else { "through the page cache" };
    let (device, engine) = start(disk, settings, heap, &mut notices)?;
    Ok(OpenedDisk { device, created, read_only, how: format!("{engine}, {way}"), notices })
}

fn start(
    disk: Disk,
    settings: &DiskSettings,
    heap: &Heap,
    notices: &mut Vec<String>,
) -> Result<(Box<dyn BlockDevice>, &'static str), DiskError> {
    let path = &settings.path;
    let failed = |doing| move |why| DiskError::Os { path: path.clone(), doing, why };
    if settings.engine == DiskEngine::Threaded {
        return Ok((Box::new(ThreadedDisk::new(disk).map_err(failed("start a thread for"))?), "a thread"));
    }
    match UringDisk::new(disk, heap, settings.registered_max) {
        Ok(disk) => Ok((Box::new(disk), "io_uring")),
        Err((why, _)) if settings.engine == DiskEngine::Uring => Err(failed("use io_uring for")(why)),
        Err((why, disk)) => {
            notices.push(format!("io_uring is not to be had ({why}): {} is driven by a thread", path.display()));
            Ok((Box::new(ThreadedDisk::new(disk).map_err(failed("start a thread for"))?), "a thread"))
        }
    }
}

/// A file or a disk that is open.
struct Opened {
    fd: OwnedFd,
    /// It was made, and nobody else can have it.
    created: bool,
    /// It can only be read.
    read_only: bool,
}

/// Found or made, and ours. Whoever makes a file removes it if its space is not to be had, and somebody else may have opened it
/// before: so what is locked must still be what the path names.
fn open_locked(settings: &DiskSettings, notices: &mut Vec<String>) -> Result<Opened, DiskError> {
    let path = settings.path.as_path();
    loop {
        let opened = open_file(settings, notices, OPEN_TRIES)?;
        lock(&opened.fd, path, opened.read_only)?;
        let os = |errno: Errno| DiskError::Os { path: path.into(), doing: "look at", why: errno.into() };
        let ours = rustix::fs::fstat(&opened.fd).map_err(os)?;
        match rustix::fs::stat(path) {
            Ok(named) if (named.st_dev, named.st_ino) == (ours.st_dev, ours.st_ino) => return Ok(opened),
            Ok(_) | Err(Errno::NOENT) => {}
            Err(errno) => return Err(os(errno)),
        }
    }
}

fn open_file(settings: &DiskSettings, notices: &mut Vec<String>, tries: u32) -> Result<Opened, DiskError> {
    let path = settings.path.as_path();
    let os = |doing| move |errno: Errno| DiskError::Os { path: path.into(), doing, why: errno.into() };
    let open = |flags| rustix::fs::open(path, flags | OFlags::CLOEXEC | unused_only(path), Mode::from_raw_mode(0o640));
    if settings.read_only {
        return Ok(Opened { fd: open_to_read(path).map_err(os("open"))?, created: false, read_only: true });
    }
    match patiently(|| open(OFlags::RDWR)) {
        Ok(fd) => Ok(Opened { fd, created: false, read_only: false }),
        Err(Errno::BUSY) => Err(DiskError::Busy(path.into())),
        Err(Errno::NOENT) if settings.size.is_some() => match open(OFlags::RDWR | OFlags::CREATE | OFlags::EXCL) {
            Ok(fd) => Ok(Opened { fd, created: true, read_only: false }),
            // Nothing is made through a link.
            Err(Errno::EXIST) if path.is_symlink() => Err(DiskError::Os {
                path: path.into(),
                doing: "create",
                why: io::Error::new(io::ErrorKind::NotFound, "it is a link to what is not there"),
            }),
            // Somebody else was faster.
            Err(Errno::EXIST) if tries > 1 => open_file(settings, notices, tries - 1),
            Err(errno) => Err(os("create")(errno)),
        },
        Err(Errno::ROFS) => {
            let fd = open_to_read(path).map_err(os("open"))?;
            notices.push(format!("{} is on a read-only file system: it can only be read", path.display()));
            Ok(Opened { fd, created: false, read_only: true })
        }
        Err(errno) => Err(os("open")(errno)),
    }
}

/// How often a file may be made, or removed, by others between two looks at it.
const OPEN_TRIES: u32 = 100;

/// How long a process that was killed may still have the disk: what it has under way must end first.
const LOCK_PATIENCE: Duration = Duration::from_secs(3);

/// A disk is opened exclusively: the kernel refuses one that is mounted, or part of something else, with EBUSY. Of a file it
/// asks nothing (O_EXCL would be about making it).
fn unused_only(path: &Path) -> OFlags {
    let is_disk = rustix::fs::stat(path).is_ok_and(|stat| FileType::from_raw_mode(stat.st_mode).is_block_device());
    if is_disk { OFlags::EXCL } else { OFlags::empty() }
}

/// Others may read a disk with us, and a mounted one may be looked at.
fn open_to_read(path: &Path) -> Result<OwnedFd, Errno> {
    rustix::fs::open(path, OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty())
}

/// Opens a disk that a dead process may still have for a moment.
fn patiently(mut open: impl FnMut() -> Result<OwnedFd, Errno>) -> Result<OwnedFd, Errno> {
    let begun = std::time::Instant::now();
    loop {
        match open() {
            Err(Errno::BUSY) if begun.elapsed() < LOCK_PATIENCE => std::thread::sleep(Duration::from_millis(5)),
            opened => return opened,
        }
    }
}

/// Two writers of one log would each overwrite what the other one has acknowledged. The lock of a process that was killed
/// goes when its last operation has ended, which is after the process is gone: so it also keeps us from reading while a
/// dead process's writes are on their way.
fn lock(fd: &OwnedFd, path: &Path, read_only: bool) -> Result<(), DiskError> {
    let how = if read_only { FlockOperation::NonBlockingLockShared } else { FlockOperation::NonBlockingLockExclusive };
    let begun = std::time::Instant::now();
    loop {
        match rustix::fs::flock(fd, how) {
            Err(Errno::WOULDBLOCK) if begun.elapsed() < LOCK_PATIENCE => std::thread::sleep(Duration::from_millis(5)),
            Err(Errno::WOULDBLOCK) => return Err(DiskError::Busy(path.into())),
            // A file system without locks: whoever uses it must know what he does.
            _ => return Ok(()),
        }
    }
}

/// Takes what a file is to have now, so that no later write can find the file system full; says whether the file has become
/// longer. A file of full length may have holes: one that was copied, or whose blocks were given back. They are filled, if
/// blocks are not to be given back again.
fn take_space(fd: &OwnedFd, settings: &DiskSettings) -> Result<bool, DiskError> {
    let path = settings.path.as_path();
    let os = |doing| move |why: io::Error| DiskError::Os { path: path.into(), doing, why };
    let stat = rustix::fs::fstat(fd).map_err(|errno| os("look at")(errno.into()))?;
    let there = stat.st_size as u64;
    let is_file = FileType::from_raw_mode(stat.st_mode).is_file();
    let Some(size) = settings.size.filter(|_| is_file).map(|size| size.max(there)) else { return Ok(false) };
    if size == there && settings.discard {
        return Ok(false);
    }
    // The kernel would send SIGXFSZ, which ends a process that does not expect it.
    if let Some(limit) = rustix::process::getrlimit(rustix::process::Resource::Fsize).current.filter(|l| size > *l) {
        return Err(DiskError::Limit(path.into(), limit));
    }
    let allocated = match rustix::fs::fallocate(fd, FallocateFlags::empty(), 0, size) {
        Ok(()) => true,
        Err(Errno::OPNOTSUPP) if size == there => return Ok(false),
        Err(Errno::OPNOTSUPP) => false,
        Err(errno) => return Err(os("take the space for")(errno.into())),
    };
    // What a log begins with is wanted at once; what follows is for whoever uses it (`BlockDevice::unwritten`).
    let first = if settings.prepare || !allocated { size } else { (size / 16).min(PREPARED_MAX) };
    if there < first && (settings.prepare || !allocated || !settings.discard) {
        let file = File::from(fd.try_clone().map_err(os("open"))?);
        write_zeros(&file, there, first).map_err(os("write the space of"))?;
    }
    let grown = there < size;
    if grown {
        rustix::fs::fsync(fd).map_err(|errno| os("flush")(errno.into()))?;
    }
    Ok(grown)
}

/// Zeros are written to so much of a new file when it is made.
const PREPARED_MAX: u64 = 32 << 20;
/// The most pieces that are told apart.
const HOLES_MAX: usize = 1024;

/// Blocks of a file that nobody has written: what is set aside and was never written counts as a hole. A disk has none.
fn holes(fd: &OwnedFd, size: u64, block_size: u64) -> Vec<Range<u64>> {
    use rustix::fs::{SeekFrom, seek};
    let (mut found, mut at) = (Vec::new(), 0);
    while at < size && found.len() < HOLES_MAX {
        let Ok(start) = seek(fd, SeekFrom::Hole(at)) else { break };
        // None behind it: the hole reaches to the end.
        let end = seek(fd, SeekFrom::Data(start)).unwrap_or(size);
        if start < end {
            found.push(start / block_size..end.div_ceil(block_size));
        }
        at = end.max(at + 1);
    }
    found
}

fn write_zeros(mut file: &File, from: u64, to: u64) -> io::Result<()> {
    use std::io::Seek;
    let zeros = vec![0u8; 1 << 20];
    let mut at = file.seek(io::SeekFrom::Start(from))?;
    while at < to {
        let len = zeros.len().min((to - at) as usize);
        file.write_all(&zeros[..len])?;
        at += len as u64;
    }
    Ok(())
}

/// Whether the kernel adds a flush to a write with RWF_DSYNC, as the disk has no writes that it forces itself. (There are disks
/// that say that they have, and do not force them: QEMU's NVMe, 7.2.) If that is not known, no.
fn kernel_flushes(fd: &OwnedFd) -> bool {
    let Ok(stat) = rustix::fs::fstat(fd) else { return false };
    let is_disk = FileType::from_raw_mode(stat.st_mode).is_block_device();
    let number = if is_disk { stat.st_rdev } else { stat.st_dev };
    let disk = PathBuf::from(format!("/sys/dev/block/{}:{}", rustix::fs::major(number), rustix::fs::minor(number)));
    // A partition has no queue of its own.
    let said = ["queue/fua", "../queue/fua"].iter().find_map(|file| std::fs::read_to_string(disk.join(file)).ok());
    said.is_some_and(|said| said.trim() == "0")
}

/// The name of a new file is durable when its directory is.
fn sync_directory(path: &Path) -> Result<(), DiskError> {
    let directory = path.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let synced = File::open(directory).and_then(|directory| directory.sync_all());
    synced.map_err(|why| DiskError::Os { path: directory.into(), doing: "flush the directory", why })
}

fn size_of(fd: &OwnedFd, path: &Path) -> Result<u64, DiskError> {
    let os = |errno: Errno| DiskError::Os { path: path.into(), doing: "look at", why: errno.into() };
    let kind = FileType::from_raw_mode(rustix::fs::fstat(fd).map_err(os)?.st_mode);
    if !kind.is_file() && !kind.is_block_device() {
        return Err(DiskError::NotADisk(path.into()));
    }
    rustix::fs::seek(fd, rustix::fs::SeekFrom::End(0)).map_err(os)
}

/// Turns O_DIRECT on; gives the unit of offsets, and of addresses. `None`: it is refused here, and that was said.
fn make_direct(fd: &OwnedFd, path: &Path, notices: &mut Vec<String>) -> Option<(u32, u32)> {
    /// linux/stat.h: STATX_DIOALIGN, since 6.1.
    const DIOALIGN: StatxFlags = StatxFlags::from_bits_retain(0x2000);
    let stat = rustix::fs::statx(fd, "", AtFlags::EMPTY_PATH, DIOALIGN).ok()?;
    let (align, block_size) = (stat.stx_dio_mem_align, stat.stx_dio_offset_align);
    let flags = rustix::fs::fcntl_getfl(fd).ok()?;
    let known = stat.stx_mask & DIOALIGN.bits() != 0 && block_size != 0;
    if known && rustix::fs::fcntl_setfl(fd, flags | OFlags::DIRECT).is_ok() {
        // Not less than a sector: the unit that a disk tears at.
        return Some((block_size.max(BLOCK_SIZE), align.max(1)));
    }
    notices
        .push(format!("{} cannot be written past the page cache (O_DIRECT): it is written through it", path.display()));
    None
}

/// Whether that is a file in memory; a disk's node in /dev lies there, and the disk does not.
fn is_tmpfs(fd: impl AsFd) -> bool {
    let is_file = rustix::fs::fstat(&fd).is_ok_and(|stat| FileType::from_raw_mode(stat.st_mode).is_file());
    is_file && rustix::fs::fstatfs(fd).is_ok_and(|stat| stat.f_type == libc::TMPFS_MAGIC)
}
