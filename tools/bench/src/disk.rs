//! What a log takes: on a disk, with many appends under way or one, through the calls of a core; and without any device.

use std::cell::{Cell, RefCell};
use std::path::Path;
use std::rc::Rc;
use std::time::{Duration, Instant};

use libos_journal::{Format, Settings, Store};
use libos_mem::Heap;
use libos_posix::block::{DiskEngine, DiskSettings, Durable, MemoryDisk, open_disk};
use libos_runtime::{Core, CoreParts, IdlePolicy, KernelClock, MeshKind, Patience, mesh};
use pdpix::{BlockDevice, Completions, Handle, LogOp, OpId, OpenMode, Sga, Storage, Submitted};

/// Bytes of a record with its header.
pub const RECORD: usize = 4096;
/// Bytes of a record's header (docs/journal-format.md).
const HEADER: usize = 32;

/// How a log on a disk is measured.
#[derive(Clone, Copy, Debug)]
pub struct LogRun {
    /// Appends under way.
    pub depth: usize,
    /// Appends in all.
    pub count: u64,
    /// Bytes of the file.
    pub size: u64,
    /// How a write becomes durable.
    pub durable: Durable,
    /// io_uring, or a thread.
    pub engine: DiskEngine,
    /// The core never sleeps.
    pub spins: bool,
}

/// What came of it.
#[derive(Clone, Debug)]
pub struct LogFigures {
    /// Records a second.
    pub rate: f64,
    /// Microseconds from push to durable: the median, and the hundredth that is longest.
    pub p50_us: f64,
    /// See there.
    pub p99_us: f64,
}

/// Appends records to a new log in the file `path`, which is written whole before.
///
/// # Errors
/// The disk's, or the log's.
pub fn log_on_disk(path: &Path, run: LogRun) -> Result<LogFigures, String> {
    let figures = append_on_disk(path, run);
    let _ = std::fs::remove_file(path);
    figures
}

/// A core with a store on the file `path`, and its heap.
fn core_on(settings: &DiskSettings, spins: bool) -> Result<(Core, Heap), String> {
    let heap = Heap::alone(256 << 20).map_err(|error| error.to_string())?;
    let opened = open_disk(settings, &heap).map_err(|error| error.to_string())?;
    Ok((core_over(opened.device, &heap, spins)?, heap))
}

/// A core with a store on this device.
fn core_over(device: Box<dyn BlockDevice>, heap: &Heap, spins: bool) -> Result<Core, String> {
    let store = Store::new(device, heap.clone(), Settings { format: Some(Format::new(1)), ..Settings::default() });
    let ports = mesh(1, MeshKind::Threads).map_err(|error| error.to_string())?.remove(0);
    let storages: Vec<(String, Box<dyn Storage>)> = vec![("disk".into(), Box::new(store))];
    let idle = if spins { IdlePolicy::Spin } else { IdlePolicy::Adaptive(Patience::default()) };
    Ok(Core::new(CoreParts { storages, idle, ..CoreParts::new(heap.clone(), Box::new(KernelClock), ports) }))
}

fn append_on_disk(path: &Path, run: LogRun) -> Result<LogFigures, String> {
    let _ = std::fs::remove_file(path);
    let settings = DiskSettings {
        size: Some(run.size),
        prepare: true,
        durable: run.durable,
        engine: run.engine,
        ..DiskSettings::new(path)
    };
    let (core, heap) = core_on(&settings, run.spins)?;
    append(core, &heap, run.depth, run.count)
}

/// Appends so many records to a new log on this device, `depth` of them under way; the core never sleeps. What is on the device
/// is lost.
///
/// # Errors
/// The device's, or the log's.
pub fn log_on_device(
    device: Box<dyn BlockDevice>,
    heap: &Heap,
    depth: usize,
    count: u64,
) -> Result<LogFigures, String> {
    append(core_over(device, heap, true)?, heap, depth, count)
}

fn append(core: Core, heap: &Heap, depth: usize, count: u64) -> Result<LogFigures, String> {
    let libos = core.libos().clone();
    let qd = libos.create("log", None).map_err(|error| error.to_string())?;
    let mut record = heap.alloc(RECORD).map_err(|error| error.to_string())?;
    record.resize(RECORD - HEADER, 0x5a);
    let record = record.freeze();

    let (left, done, failed) = (Rc::new(Cell::new(count)), Rc::new(Cell::new(0)), Rc::new(Cell::new(None)));
    let nanos = Rc::new(RefCell::new(Vec::with_capacity(count as usize)));
    let begun = Rc::new(Cell::new(Instant::now()));
    for _ in 0..depth {
        let (libos, record) = (libos.clone(), record.clone());
        let (left, done, failed, nanos, begun) =
            (left.clone(), done.clone(), failed.clone(), nanos.clone(), begun.clone());
        core.libos().spawn(async move {
            // The log is made and open when the first operation on it ends.
            if let Ok(qt) = libos.seek(qd, 0) {
                let _ = libos.redeem(qt).await;
            }
            if nanos.borrow().is_empty() {
                begun.set(Instant::now());
            }
            while left.get() > 0 {
                left.set(left.get() - 1);
                let start = Instant::now();
                let pushed = match libos.push(qd, Sga::from(record.clone())) {
                    Ok(qt) => libos.redeem(qt).await.and_then(|completion| completion.sequence()),
                    Err(error) => Err(error),
                };
                if let Err(error) = pushed {
                    failed.set(Some(error));
                    libos.stop();
                }
                nanos.borrow_mut().push(start.elapsed().as_nanos() as f64);
                done.set(done.get() + 1);
            }
            if done.get() == count {
                libos.stop();
            }
        });
    }
    core.run();
    let elapsed = begun.get().elapsed();
    drop(core);
    if let Some(error) = failed.get() {
        return Err(error.to_string());
    }
    let mut nanos = nanos.take();
    nanos.sort_by(f64::total_cmp);
    let at = |quantile: f64| nanos[(nanos.len() as f64 * quantile) as usize] / 1e3;
    Ok(LogFigures { rate: count as f64 / elapsed.as_secs_f64(), p50_us: at(0.5), p99_us: at(0.99) })
}

/// How fast a log comes back, in bytes a second.
#[derive(Clone, Copy, Debug)]
pub struct ReadFigures {
    /// Recovery: from opening the log to the end of its first operation, its flushes among them.
    pub recovered: f64,
    /// All records by pops, in order.
    pub popped: f64,
}

/// Writes `count` records into a new log, ends before it has noted that they are durable, and opens it again.
///
/// # Errors
/// The disk's, or the log's; or other records than were written.
pub fn log_read_back(path: &Path, count: u64) -> Result<ReadFigures, String> {
    let size = count * RECORD as u64 * 5 / 4 + (16 << 20);
    let run = LogRun { depth: 256, count, size, durable: Durable::Fdatasync, engine: DiskEngine::Auto, spins: false };
    let figures = append_on_disk(path, run).and_then(|_| read_back(path, count));
    let _ = std::fs::remove_file(path);
    figures
}

fn read_back(path: &Path, count: u64) -> Result<ReadFigures, String> {
    let (core, _) = core_on(&DiskSettings::new(path), false)?;
    let begun = Instant::now();
    let libos = core.libos().clone();
    let qd = libos.open("log", OpenMode::ExistingOrNew, None).map_err(|error| error.to_string())?;
    let told = Rc::new(RefCell::new(Err("it did not end".to_owned())));
    let (bytes, tell) = ((count * RECORD as u64) as f64, told.clone());
    core.libos().spawn(async move {
        let read = async {
            libos.redeem(libos.seek(qd, 0)?).await?;
            let recovered = bytes / begun.elapsed().as_secs_f64();
            let (begun, mut records) = (Instant::now(), 0);
            loop {
                let record = libos.redeem(libos.pop(qd, usize::MAX)?).await?.popped()?.sga;
                if record.is_empty() {
                    break Ok((records, ReadFigures { recovered, popped: bytes / begun.elapsed().as_secs_f64() }));
                }
                records += u64::from(record.len() == RECORD - HEADER);
            }
        };
        *tell.borrow_mut() = match read.await {
            Ok((records, figures)) if records == count => Ok(figures),
            Ok((records, _)) => Err(format!("{records} records of {count} came back")),
            Err(error) => Err(pdpix::Error::to_string(&error)),
        };
        libos.stop();
    });
    core.run();
    drop(core);
    told.replace(Err(String::new()))
}

/// Nanoseconds that an append of 64 B takes, in memory: from `submit` to its `Done`, 64 at a time.
///
/// # Panics
/// If the log refuses.
pub fn append_in_memory() -> f64 {
    const BATCH: u64 = 64;
    let heap = Heap::alone(64 << 20).expect("memory");
    let settings = Settings { format: Some(Format::new(1)), ..Settings::default() };
    let mut store = Store::new(Box::new(MemoryDisk::new(64 << 20).device()), heap.clone(), settings);
    let log = store.open("log", OpenMode::New).expect("a new log");
    let record = heap.copy(&[7; 64]).expect("memory");
    let mut now = pdpix::Instant::from_nanos(1);
    let (mut next, mut done, mut batches) = (0, Completions::new(), Vec::new());
    for batch in 0..4000u64 {
        let start = Instant::now();
        let begun = next;
        for _ in 0..BATCH {
            next += 1;
            match store.submit(log, OpId(next), LogOp::Append(Sga::from(record.clone()))) {
                Ok(Submitted::Pending) => {}
                other => panic!("{other:?}"),
            }
        }
        let mut ended = begun;
        while ended < next {
            now += Duration::from_micros(1);
            store.flush(now);
            done.set_room(256);
            store.poll(now, &mut done);
            while let Some(end) = done.pop() {
                assert!(end.result.is_ok(), "{:?}", end.result);
                ended += 1;
            }
        }
        batches.push(start.elapsed().as_nanos() as f64 / BATCH as f64);
        if batch % 500 == 499 {
            free(&mut store, log, &mut next, now, &mut done);
        }
    }
    crate::sampling::median(batches.split_off(100))
}

/// Frees what was appended.
fn free(store: &mut Store, log: Handle, next: &mut u64, mut now: pdpix::Instant, done: &mut Completions) {
    *next += 1;
    let op = OpId(*next);
    let last = *next - 1;
    // Truncations were counted among the operations; the log's own numbers are behind.
    let before = (last - last / (500 * 64)).saturating_sub(64);
    if let Ok(Submitted::Pending) = store.submit(log, op, LogOp::Truncate(before.max(1))) {
        for _ in 0..1000 {
            now += Duration::from_micros(1);
            store.flush(now);
            done.set_room(256);
            store.poll(now, done);
            if std::iter::from_fn(|| done.pop()).any(|end| end.op == op) {
                return;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_written_is_read_back() {
        let path = std::env::temp_dir().join(format!("log-back-{}", std::process::id()));
        let figures = log_read_back(&path, 3000).unwrap();
        assert!(figures.recovered > 0.0 && figures.popped > 0.0, "{figures:?}");
        assert!(!path.exists());
    }

    /// Cores that sleep are woken for each append, or this does not end.
    #[test]
    fn a_log_on_a_disk_takes_all_records_however_it_is_driven() {
        for (index, (engine, durable, depth)) in [
            (DiskEngine::Auto, Durable::Fdatasync, 32),
            (DiskEngine::Auto, Durable::Dsync, 32),
            (DiskEngine::Auto, Durable::Fdatasync, 1),
            (DiskEngine::Threaded, Durable::Fdatasync, 32),
        ]
        .into_iter()
        .enumerate()
        {
            let path = std::env::temp_dir().join(format!("log-{}-{index}", std::process::id()));
            let run = LogRun { depth, count: 2000, size: 32 << 20, durable, engine, spins: false };
            let figures = log_on_disk(&path, run).unwrap();
            assert!(figures.rate > 0.0 && figures.p50_us > 0.0 && figures.p50_us <= figures.p99_us, "{figures:?}");
            assert!(!path.exists());
        }
    }
}
