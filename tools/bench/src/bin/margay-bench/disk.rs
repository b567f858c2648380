//! One log beside fio: records of 4 KiB with their header, io_uring, O_DIRECT, the same flushes, files that were written
//! whole before, in the same directory and in turn. `MARGAY_TEST_DISK_DIR` says where; the default is the working directory.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, anyhow, ensure};
use libos_posix::block::{DiskEngine, Durable};
use margay_bench::disk::{LogRun, RECORD, append_in_memory, log_on_disk, log_read_back};
use margay_bench::journal::{HOPS, chase_on_disk};
use margay_bench::sampling::median;

use crate::child::installed;
use crate::{result, skip, spdk};

/// Short, and in turn: on a shared machine a round may be interrupted, but not most of them; and not the best one.
const ROUNDS: usize = 9;
const SIZE: u64 = 128 << 20;

/// Bytes that are read back.
const READ_LEN: u64 = 256 << 20;

pub fn run() -> Result<()> {
    result("log_append_memory_64", append_in_memory(), "ns");
    let directory = std::env::var_os("MARGAY_TEST_DISK_DIR").map_or_else(|| PathBuf::from("."), PathBuf::from);
    let fio = installed("fio");
    if fio.is_none() {
        skip("log_fio", "fio is not installed (Debian: fio)");
    }
    for (name, depth, count, durable) in [
        ("log_depth_32", 32, 20_000, Durable::Auto),
        ("log_depth_32_dsync", 32, 20_000, Durable::Dsync),
        ("log_depth_1", 1, 2_000, Durable::Auto),
        ("log_depth_1_dsync", 1, 2_000, Durable::Dsync),
    ] {
        let log = LogRun { depth, count, size: SIZE, durable, engine: DiskEngine::Auto, spins: false };
        let (mut ours, mut theirs, mut p50, mut p99) = (Vec::new(), Vec::new(), Vec::new(), Vec::new());
        for _ in 0..ROUNDS {
            let figures = log_on_disk(&directory.join("margay-bench.log"), log).map_err(|why| anyhow!(why))?;
            ours.push(figures.rate);
            p50.push(figures.p50_us);
            p99.push(figures.p99_us);
            if let Some(fio) = &fio {
                theirs.push(fio_rate(fio, &directory, log)?);
            }
        }
        let best = |rates: &[f64]| rates.iter().copied().fold(f64::NAN, f64::max);
        let best_of_fio = best(&ours) / best(&theirs);
        result(&format!("{name}_best"), best(&ours), "records/s");
        let (ours, theirs) = (median(ours), median(theirs));
        result(&format!("{name}_rate"), ours, "records/s");
        result(&format!("{name}_p50"), median(p50), "us");
        result(&format!("{name}_p99"), median(p99), "us");
        if fio.is_some() {
            result(&name.replace("log_", "log_fio_"), theirs, "writes/s");
            result(&format!("{name}_of_fio"), ours / theirs, "x");
            result(&format!("{name}_best_of_fio"), best_of_fio, "x");
        }
    }
    read(&directory, fio.as_deref())?;
    let (mut chases, mut pops) = (Vec::new(), Vec::new());
    for _ in 0..ROUNDS {
        let both = chase_on_disk(&directory.join("margay-bench.log")).map_err(|why| anyhow!(why))?;
        chases.push(both.0);
        pops.push(both.1);
    }
    result(&format!("log_chase_{HOPS}"), median(chases), "us");
    result(&format!("log_pops_{HOPS}"), median(pops), "us");
    spdk::run()
}

/// Recovery, and all records by pops, beside what fio reads in order.
fn read(directory: &Path, fio: Option<&Path>) -> Result<()> {
    let (mut recovered, mut popped, mut theirs) = (Vec::new(), Vec::new(), Vec::new());
    for _ in 0..ROUNDS {
        let path = directory.join("margay-bench.log");
        let figures = log_read_back(&path, READ_LEN / RECORD as u64).map_err(|why| anyhow!(why))?;
        recovered.push(figures.recovered / 1e6);
        popped.push(figures.popped / 1e6);
        if let Some(fio) = fio {
            theirs.push(fio_read(fio, directory)?);
        }
    }
    let (recovered, popped) = (median(recovered), median(popped));
    result("log_recovery", recovered, "MB/s");
    result("log_read", popped, "MB/s");
    if fio.is_some() {
        let theirs = median(theirs);
        result("log_fio_read", theirs, "MB/s");
        result("log_recovery_of_fio", recovered / theirs, "x");
        result("log_read_of_fio", popped / theirs, "x");
    }
    Ok(())
}

/// Megabytes a second that fio reads in order, 1 MiB at a time, four of them under way.
fn fio_read(fio: &Path, directory: &Path) -> Result<f64> {
    let file = directory.join("margay-bench.fio");
    let command = |more: &[&str]| {
        let mut command = Command::new(fio);
        command.args(["--name=log", "--direct=1", "--ioengine=io_uring", "--minimal", "--bs=1m", "--iodepth=4"]);
        command.args([format!("--filename={}", file.display()), format!("--size={READ_LEN}")]).args(more);
        command
    };
    let laid = command(&["--rw=write", "--overwrite=1", "--end_fsync=1"]).output()?;
    ensure!(laid.status.success(), "fio cannot write {}: {laid:?}", file.display());
    let output = command(&["--rw=read"]).output();
    let _ = std::fs::remove_file(&file);
    let output = output?;
    ensure!(output.status.success(), "fio failed: {output:?}");
    // The terse form, version 3: fields 5 to 8 are KiB read, KiB/s, reads/s, and milliseconds.
    let text = String::from_utf8(output.stdout)?;
    let rate = text.trim().split(';').nth(6).with_context(|| format!("fio said {text}"))?;
    Ok(rate.parse::<f64>().context("a number of fio's")? * 1024.0 / 1e6)
}

/// Writes a second that fio gets, its flushes among them.
fn fio_rate(fio: &Path, directory: &Path, log: LogRun) -> Result<f64> {
    let file = directory.join("margay-bench.fio");
    let flush = match log.durable {
        // As many records share a flush as are under way.
        Durable::Auto | Durable::Fdatasync => format!("--fdatasync={}", log.depth),
        Durable::Dsync => "--sync=dsync".into(),
    };
    let command = |more: &[&str]| {
        let mut command = Command::new(fio);
        command.args(["--name=log", "--rw=write", "--direct=1", "--ioengine=io_uring", "--minimal", "--overwrite=1"]);
        command.args([format!("--filename={}", file.display()), format!("--size={}", log.size)]).args(more);
        command
    };
    // The file is written whole first, and that is not measured.
    let laid = command(&["--bs=1m", "--iodepth=8", "--end_fsync=1"]).output()?;
    ensure!(laid.status.success(), "fio cannot write {}: {laid:?}", file.display());
    let (block, depth) = (format!("--bs={RECORD}"), format!("--iodepth={}", log.depth));
    let bytes = format!("--io_size={}", log.count * RECORD as u64);
    let output = command(&[&block, &depth, &bytes, &flush]).output();
    let _ = std::fs::remove_file(&file);
    let output = output?;
    ensure!(output.status.success(), "fio failed: {output:?}");
    let text = String::from_utf8(output.stdout)?;
    // The terse form, version 3: fields 46 to 49 are KiB written, KiB/s, writes/s, and milliseconds.
    let fields: Vec<&str> = text.trim().split(';').collect();
    let field = |index: usize| -> Result<f64> {
        fields.get(index).with_context(|| format!("fio said {text}"))?.parse().context("a number of fio's")
    };
    let (written, millis) = (field(46)?, field(49)?);
    ensure!(millis > 0.0, "fio said {text}");
    Ok(written * 1024.0 / RECORD as f64 / (millis / 1e3))
}
