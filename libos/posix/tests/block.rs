//! The block devices pass the suite of block devices; and what files have besides.

use std::path::PathBuf;
use std::sync::atomic::{AtomicU32, Ordering};

use libos_conformance::block::{Bench, BlockSubject, MadeBlock};
use libos_conformance::{Pattern, block_suite, block_suite_broken};
use libos_posix::block::{DiskEngine, DiskError, DiskSettings, Durable, MemoryDisk, open_disk};
use pdpix::block::BlockOp;
use pdpix::{Error, Heap};

/// A directory that goes with the test.
struct Directory(PathBuf);

impl Directory {
    fn new() -> Directory {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        // Beside the test program, which is on a disk; /tmp may be memory.
        let path = PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join(format!("block-{}-{number}", std::process::id()));
        std::fs::create_dir_all(&path).unwrap();
        Directory(path)
    }

    fn settings(&self) -> DiskSettings {
        DiskSettings { size: Some(8 << 20), ..DiskSettings::new(self.0.join("disk")) }
    }
}

impl Drop for Directory {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

fn heap() -> Heap {
    Heap::alone(64 << 20).unwrap()
}

/// A file, opened as `change` says; the io_uring form is skipped where it is forbidden.
fn file(change: impl Fn(&mut DiskSettings)) -> MadeBlock {
    let (directory, heap) = (Directory::new(), heap());
    let mut settings = directory.settings();
    change(&mut settings);
    match open_disk(&settings, &heap) {
        Err(error) if settings.engine == DiskEngine::Uring && error.error() != Error::NoSpace => {
            return Err(error.to_string());
        }
        opened => drop(opened.unwrap()),
    }
    let path = settings.path.clone();
    let subject = BlockSubject::new(heap, move |heap| {
        let _ = &directory;
        open_disk(&settings, heap).unwrap().device
    });
    // The file is cut under the device: what lies behind its end cannot be read.
    Ok(subject.broken_by(move || std::fs::OpenOptions::new().write(true).open(&path).unwrap().set_len(512).unwrap()))
}

fn memory() -> MadeBlock {
    let disk = MemoryDisk::new(8 << 20);
    Ok(BlockSubject::new(heap(), move |_| Box::new(disk.device())))
}

fn uring_direct() -> MadeBlock {
    file(|settings| settings.engine = DiskEngine::Uring)
}

/// The same with nothing registered, each write durable by itself, and space given back.
fn uring_frugal() -> MadeBlock {
    file(|settings| {
        settings.engine = DiskEngine::Uring;
        (settings.registered_max, settings.durable, settings.discard) = (0, Durable::Dsync, true);
    })
}

fn uring_buffered() -> MadeBlock {
    file(|settings| (settings.engine, settings.direct) = (DiskEngine::Uring, false))
}

fn threaded_direct() -> MadeBlock {
    file(|settings| (settings.engine, settings.discard) = (DiskEngine::Threaded, true))
}

fn threaded_buffered() -> MadeBlock {
    file(|settings| {
        (settings.engine, settings.direct, settings.durable) = (DiskEngine::Threaded, false, Durable::Dsync)
    })
}

block_suite!(memory_block, memory);
block_suite!(uring_block_direct, uring_direct);
block_suite!(uring_block_frugal, uring_frugal);
block_suite!(uring_block_buffered, uring_buffered);
block_suite!(threaded_block_direct, threaded_direct);
block_suite!(threaded_block_buffered, threaded_buffered);
block_suite_broken!(uring_block_direct_broken, uring_direct);
block_suite_broken!(uring_block_buffered_broken, uring_buffered);
block_suite_broken!(threaded_block_direct_broken, threaded_direct);

#[test]
fn a_second_process_is_refused() {
    let (directory, heap) = (Directory::new(), heap());
    let first = open_disk(&directory.settings(), &heap).unwrap();
    assert!(first.created);
    // Locks belong to the opened file, so the same process will do.
    let second = open_disk(&directory.settings(), &heap).unwrap_err();
    assert!(matches!(second, DiskError::Busy(_)), "{second}");
    drop(first);
    assert!(!open_disk(&directory.settings(), &heap).unwrap().created);
}

#[test]
fn a_link_that_leads_nowhere_is_refused() {
    let (directory, heap) = (Directory::new(), heap());
    let settings = directory.settings();
    let beyond = directory.0.join("not there");
    std::os::unix::fs::symlink(&beyond, &settings.path).unwrap();
    let error = open_disk(&settings, &heap).unwrap_err();
    assert!(error.to_string().contains("it is a link to what is not there"), "{error}");
    assert!(!beyond.exists(), "something was made");
    // One that leads to a disk is as good as the disk.
    std::fs::write(&beyond, vec![0; 1 << 20]).unwrap();
    assert!(open_disk(&settings, &heap).is_ok());
}

#[test]
fn a_new_file_that_does_not_fit_is_refused_and_leaves_nothing() {
    let (directory, heap) = (Directory::new(), heap());
    let settings = DiskSettings { size: Some(1 << 50), ..directory.settings() };
    let error = open_disk(&settings, &heap).unwrap_err();
    // A file system's own limit, or no space: in both cases there is none for it.
    assert_eq!(error.error(), Error::NoSpace, "{error}");
    assert!(!settings.path.exists(), "an empty file was left");
}

#[test]
fn a_file_has_its_space_from_the_start() {
    use std::os::unix::fs::MetadataExt;
    let (directory, heap) = (Directory::new(), heap());
    for (name, prepare) in [("allocated", false), ("prepared", true)] {
        let settings = DiskSettings { path: directory.0.join(name), prepare, ..directory.settings() };
        let opened = open_disk(&settings, &heap).unwrap();
        let stat = std::fs::metadata(&settings.path).unwrap();
        assert_eq!((opened.device.geometry().size(), stat.len()), (8 << 20, 8 << 20), "{name}");
        assert!(stat.blocks() * 512 >= 8 << 20, "{name}: {} blocks", stat.blocks());
    }
}

/// What was written is said to be: also where blocks are to be given back later.
#[test]
fn a_prepared_file_has_nothing_that_nobody_has_written() {
    let (directory, heap) = (Directory::new(), heap());
    for (prepare, discard) in [(true, false), (true, true), (false, false), (false, true)] {
        let path = directory.0.join(format!("{prepare}-{discard}"));
        let opened = open_disk(&DiskSettings { path, prepare, discard, ..directory.settings() }, &heap).unwrap();
        assert_eq!(opened.device.unwritten().is_empty(), prepare, "prepare {prepare}, discard {discard}");
    }
}

/// A write is forced where the kernel adds the flush, and nowhere else.
#[test]
fn a_device_forces_writes_if_it_is_left_to_choose() {
    let (directory, heap) = (Directory::new(), heap());
    let forces = |durable| {
        let settings = DiskSettings { durable, ..directory.settings() };
        open_disk(&settings, &heap).unwrap().device.geometry().forces
    };
    assert!(!forces(Durable::Fdatasync) && !forces(Durable::Dsync));
    let cached = open_disk(&DiskSettings { direct: false, ..directory.settings() }, &heap).unwrap();
    assert!(!cached.device.geometry().forces, "through the page cache one flush at a time is under way");
    drop(cached);
    let of_the_disk = std::process::Command::new("sh")
        .args(["-c", "cd /sys/dev/block/$(stat -c '%Hd:%Ld' \"$0\") && cat queue/fua || cat ../queue/fua"])
        .arg(&directory.0)
        .output()
        .unwrap();
    assert_eq!(forces(Durable::Auto), of_the_disk.stdout == b"0\n", "{of_the_disk:?}");
}

#[test]
fn a_file_with_holes_is_filled_unless_it_is_to_have_some() {
    use std::os::unix::fs::MetadataExt;
    let (directory, heap) = (Directory::new(), heap());
    let settings = directory.settings();
    drop(open_disk(&settings, &heap).unwrap());
    let file = std::fs::OpenOptions::new().write(true).open(&settings.path).unwrap();
    file.set_len(0).unwrap();
    file.set_len(8 << 20).unwrap();
    let blocks = || std::fs::metadata(&settings.path).unwrap().blocks();
    drop(open_disk(&DiskSettings { discard: true, ..settings.clone() }, &heap).unwrap());
    assert_eq!(blocks(), 0);
    drop(open_disk(&settings, &heap).unwrap());
    assert!(blocks() * 512 >= 8 << 20, "{} blocks", blocks());
}

#[test]
fn a_file_that_its_maker_has_removed_is_not_used() {
    let (directory, heap) = (Directory::new(), heap());
    let settings = directory.settings();
    // It has made the file and has it, but not the space for it.
    let maker = std::fs::File::create(&settings.path).unwrap();
    maker.lock().unwrap();
    let second = std::thread::spawn({
        let settings = settings.clone();
        move || open_disk(&settings, &Heap::alone(64 << 20).unwrap()).unwrap().created
    });
    std::thread::sleep(std::time::Duration::from_millis(100));
    std::fs::remove_file(&settings.path).unwrap();
    drop(maker);
    assert!(second.join().unwrap(), "it has taken what nobody finds again");
    assert!(!open_disk(&settings, &heap).unwrap().created);
}

#[test]
fn a_file_is_made_longer_and_never_shorter() {
    let (directory, heap) = (Directory::new(), heap());
    let open = |size| open_disk(&DiskSettings { size, ..directory.settings() }, &heap).unwrap();
    assert_eq!(open(Some(1 << 20)).device.geometry().size(), 1 << 20);
    assert_eq!(open(Some(2 << 20)).device.geometry().size(), 2 << 20);
    assert_eq!(open(Some(1 << 20)).device.geometry().size(), 2 << 20);
    assert_eq!(open(None).device.geometry().size(), 2 << 20);
}

#[test]
fn what_is_there_for_reading_only_is_not_written() {
    let (directory, heap) = (Directory::new(), heap());
    drop(open_disk(&directory.settings(), &heap).unwrap());
    for engine in [DiskEngine::Auto, DiskEngine::Threaded] {
        let settings = DiskSettings { read_only: true, engine, ..directory.settings() };
        let opened = open_disk(&settings, &heap).unwrap();
        assert!(opened.read_only);
        let settings = settings.clone();
        drop(opened);
        let subject = BlockSubject::new(heap.clone(), move |heap| open_disk(&settings, heap).unwrap().device);
        let mut bench = Bench::new(subject);
        let from = bench.blocks(Pattern::of(1), 0, 1);
        let (error, _) = bench.submit(BlockOp::Write { lba: 0, from, forced: false }).unwrap_err();
        assert_eq!(error, Error::ReadOnly, "{engine:?}");
        let into = bench.alloc(1);
        let read = bench.do_it(BlockOp::Read { lba: 0, into }).unwrap();
        assert!(read.iter().all(|byte| *byte == 0));
    }
}

#[test]
fn what_is_no_disk_is_refused_with_a_sentence() {
    let (directory, heap) = (Directory::new(), heap());
    let error = |settings: &DiskSettings| open_disk(settings, &heap).unwrap_err().to_string();
    let null = error(&DiskSettings::new("/dev/null"));
    assert!(null.contains("neither a file nor a block device"), "{null}");
    let missing = error(&DiskSettings::new(directory.0.join("missing")));
    assert!(missing.contains("cannot open") && missing.contains("missing"), "{missing}");
    std::fs::write(directory.0.join("empty"), "").unwrap();
    let empty = error(&DiskSettings::new(directory.0.join("empty")));
    assert!(empty.contains("is empty"), "{empty}");
    assert!(open_disk(&DiskSettings::new(directory.0.join("empty")), &heap).is_err());
}

#[test]
fn a_file_in_memory_says_so() {
    let (heap, path) = (heap(), PathBuf::from(format!("/dev/shm/margay-block-{}", std::process::id())));
    let opened = open_disk(&DiskSettings { size: Some(1 << 20), ..DiskSettings::new(&path) }, &heap);
    let _ = std::fs::remove_file(&path);
    let notices = opened.unwrap().notices;
    assert!(notices.iter().any(|notice| notice.contains("tmpfs")), "{notices:?}");
}
