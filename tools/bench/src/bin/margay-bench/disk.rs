//! One log beside fio: records of 4 KiB with their header, io_uring, O_DIRECT, the same flushes, files that were written
//! whole before, in the same directory and in turn. `MARGAY_TEST_DISK_DIR` says where; the default is the working directory.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, anyhow, ensure};
use libos_posix::block::{DiskEngine, Durable};
use margay_bench::disk::{LogRun, RECORD, append_in_memory, log_on_disk};
use margay_bench::sampling::median;

use crate::child::installed;
use crate::{result, skip};

/// Short, and in turn: on a shared machine a round may be interrupted, but not most of them; and not the best one.
const ROUNDS: usize = 9;
const SIZE: u64 = 128 << 20;

pub fn run() -> Result<()> {
    result("log_append_memory_64", append_in_memory(), "ns");
    let directory = std::env::var_os("MARGAY_TEST_DISK_DIR").map_or_else(|| PathBuf::from("."), PathBuf::from);
    let fio = installed("fio");
    if fio.is_none() {
        skip("log_beside_fio", "fio is not installed (Debian: fio)");
    }
    for (name, depth, count, durable) in [
        ("log_depth_32", 32, 20_000, Durable::Fdatasync),
        ("log_depth_32_dsync", 32, 20_000, Durable::Dsync),
        ("log_depth_1", 1, 2_000, Durable::Fdatasync),
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
            result(&format!("{name}_fio_rate"), theirs, "writes/s");
            result(&format!("{name}_of_fio"), ours / theirs, "x");
            result(&format!("{name}_best_of_fio"), best_of_fio, "x");
        }
    }
    Ok(())
}

/// Writes a second that fio gets, its flushes among them.
fn fio_rate(fio: &Path, directory: &Path, log: LogRun) -> Result<f64> {
    let file = directory.join("margay-bench.fio");
    let flush = match log.durable {
        // As many records share a flush as are under way.
        Durable::Fdatasync => format!("--fdatasync={}", log.depth),
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
