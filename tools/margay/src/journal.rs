//! `margay journal`: what is on a device of logs, offline and read-only.

use std::fs::File;
use std::io::{BufWriter, ErrorKind, Write, stdout};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use anyhow::{Context, bail};
use clap::{Args, Subcommand};
use libos_journal::inspect::{Copy, Inspection, LogInfo, ReadAt, RecordInfo, Verdict, inspect, read_log};
use pdpix::Error;

#[derive(Args)]
pub struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Prints how the device is divided, and which logs are on it.
    Inspect {
        /// A file or a disk.
        file: PathBuf,
    },
    /// Reads every record of every log, and says what is lost. Fails if something is.
    Verify {
        /// A file or a disk.
        file: PathBuf,
        /// Only this log, or those whose names go on with a dot.
        #[arg(long, value_name = "NAME")]
        log: Option<String>,
    },
    /// Prints the records of a log, one a line: number, epoch, place, length, bytes.
    Dump {
        /// A file or a disk.
        file: PathBuf,
        /// Which log, or the only one with records of those whose names go on with a dot. Without it the only one there is.
        #[arg(long, value_name = "NAME")]
        log: Option<String>,
        /// The first record.
        #[arg(long, value_name = "N", default_value_t = 0)]
        from: u64,
        /// How many.
        #[arg(long, value_name = "N", default_value_t = u64::MAX)]
        count: u64,
        /// The payloads alone, as they are.
        #[arg(long)]
        raw: bool,
    },
}

pub fn run(arguments: Arguments) -> anyhow::Result<i32> {
    let mut out = BufWriter::new(stdout().lock());
    let code = match arguments.command {
        Command::Inspect { file } => show(&file, &mut out),
        Command::Verify { file, log } => verify(&file, log.as_deref(), &mut out),
        Command::Dump { file, log, from, count, raw } => dump(&file, log.as_deref(), from, count, raw, &mut out),
    };
    // Whoever reads us may have seen enough.
    match code.and_then(|code| Ok(out.flush().map(|()| code)?)) {
        Err(error) if error.downcast_ref::<std::io::Error>().is_some_and(|e| e.kind() == ErrorKind::BrokenPipe) => {
            Ok(0)
        }
        other => other,
    }
}

/// A file or a block device, opened for reading.
struct Source {
    file: File,
    size: u64,
}

impl ReadAt for Source {
    fn size(&self) -> u64 {
        self.size
    }

    fn read_at(&mut self, offset: u64, into: &mut [u8]) -> Result<(), Error> {
        self.file.read_exact_at(into, offset).map_err(|error| match error.kind() {
            ErrorKind::UnexpectedEof => Error::InvalidArgument,
            _ => Error::from_errno(error.raw_os_error().unwrap_or(5)),
        })
    }
}

fn open(path: &Path) -> anyhow::Result<(Source, Inspection)> {
    use std::io::{Seek, SeekFrom};
    let mut file = File::open(path).with_context(|| format!("cannot open {}", path.display()))?;
    // A disk has no length of its own; its end can be sought.
    let size = file.seek(SeekFrom::End(0)).with_context(|| format!("cannot seek in {}", path.display()))?;
    let mut source = Source { file, size };
    let found = inspect(&mut source).map_err(|error| match error {
        Error::NotFound => anyhow::anyhow!("{} is blank: there is no journal on it", path.display()),
        Error::Corrupt => anyhow::anyhow!("{} holds no journal, or both superblocks are damaged", path.display()),
        Error::NotSupported => anyhow::anyhow!("{} is a journal of another version", path.display()),
        error => anyhow::anyhow!("cannot read {}: {error}", path.display()),
    })?;
    Ok((source, found))
}

const fn word(copy: Copy) -> &'static str {
    match copy {
        Copy::Blank => "blank",
        Copy::Good => "good",
        Copy::Bad => "damaged",
    }
}

fn show(path: &Path, out: &mut dyn Write) -> anyhow::Result<i32> {
    let (_, found) = open(path)?;
    let layout = &found.layout;
    writeln!(out, "store          {:032x}", layout.store_id)?;
    writeln!(out, "superblocks    {}, {}", word(found.superblocks[0]), word(found.superblocks[1]))?;
    writeln!(out, "size           {} bytes", layout.device_size)?;
    writeln!(out, "write unit     {} bytes", layout.unit)?;
    writeln!(
        out,
        "extents        {} of {} bytes, {} free",
        layout.extent_count, layout.extent_size, found.free_extents
    )?;
    writeln!(out, "longest record {} bytes", layout.payload_max())?;
    writeln!(out, "logs           {} of {}", found.logs.len() + found.lost_slots.len(), layout.logs_max)?;
    for LogInfo { descriptor, copies } in &found.logs {
        writeln!(out, "\nlog {} ({:?})", descriptor.log, descriptor.name)?;
        writeln!(out, "  descriptor   generation {}: {}, {}", descriptor.generation, word(copies[0]), word(copies[1]))?;
        writeln!(out, "  epoch        {}", descriptor.epoch)?;
        writeln!(out, "  first record {} at position {}", descriptor.first_sequence, descriptor.first_position)?;
        writeln!(out, "  mark         {} at position {}", descriptor.mark_sequence, descriptor.mark_position)?;
        let numbers: Vec<String> = descriptor.extents.iter().map(|extent| extent.number.to_string()).collect();
        writeln!(out, "  extents      {} from {}: {}", numbers.len(), descriptor.extents_base, numbers.join(" "))?;
    }
    for slot in &found.lost_slots {
        writeln!(out, "\nthe log in place {slot} of the table is lost: both copies of its descriptor are damaged")?;
    }
    Ok(i32::from(!found.lost_slots.is_empty()))
}

/// The logs that are meant: by name, or by what several names have before a dot (`kv.snapshots` of `kv.snapshots.0`).
fn chosen<'a>(found: &'a Inspection, name: Option<&str>) -> anyhow::Result<Vec<&'a LogInfo>> {
    let is_meant = |log: &&LogInfo| {
        let rest = name.map(|name| log.descriptor.name.strip_prefix(name));
        rest.is_none_or(|rest| rest.is_some_and(|rest| rest.is_empty() || rest.starts_with('.')))
    };
    let logs: Vec<&LogInfo> = found.logs.iter().filter(is_meant).collect();
    match (logs.is_empty(), name) {
        (true, Some(name)) => bail!("there is no log {name:?}"),
        _ => Ok(logs),
    }
}

fn verify(path: &Path, name: Option<&str>, out: &mut dyn Write) -> anyhow::Result<i32> {
    let (mut source, found) = open(path)?;
    let mut is_whole = found.lost_slots.is_empty();
    if let [_, Copy::Bad] | [Copy::Bad, _] = found.superblocks {
        writeln!(out, "one superblock is damaged; the other one is good")?;
    }
    for slot in &found.lost_slots {
        writeln!(out, "the log in place {slot} of the table is lost: both copies of its descriptor are damaged")?;
    }
    for log in chosen(&found, name)? {
        let verdict = read_log(&mut source, &found.layout, &log.descriptor, |_| {})?;
        is_whole &= verdict.lost.is_empty();
        say(&log.descriptor.name, &verdict, out)?;
    }
    Ok(i32::from(!is_whole))
}

fn say(name: &str, verdict: &Verdict, out: &mut dyn Write) -> anyhow::Result<()> {
    let Verdict { records, bytes, first, next, lost, .. } = verdict;
    write!(out, "{name:?}: {records} records, {bytes} bytes, {first} up to {next}: ")?;
    if lost.is_empty() {
        return Ok(writeln!(out, "all is there")?);
    }
    writeln!(out, "DAMAGED")?;
    for loss in lost {
        let last = loss.sequence + loss.count - 1;
        writeln!(out, "  records {} to {last} are lost, at byte {} of the device", loss.sequence, loss.offset)?;
    }
    Ok(())
}

fn dump(path: &Path, name: Option<&str>, from: u64, count: u64, raw: bool, out: &mut dyn Write) -> anyhow::Result<i32> {
    let (mut source, found) = open(path)?;
    let mut logs = chosen(&found, name)?;
    if logs.len() > 1 && name.is_some() {
        // Of those that are meant, the one that has something.
        let mut has_something = |log: &LogInfo| -> anyhow::Result<bool> {
            let verdict = read_log(&mut source, &found.layout, &log.descriptor, |_| {})?;
            Ok(verdict.records > 0 || !verdict.lost.is_empty())
        };
        let mut left = Vec::new();
        for log in logs {
            if has_something(log)? {
                left.push(log);
            }
        }
        logs = left;
    }
    let [log] = logs[..] else { bail!("there are {} logs: say which with --log", logs.len()) };
    let mut written = Ok(());
    let verdict = read_log(&mut source, &found.layout, &log.descriptor, |record| {
        let sequence = record.header.sequence;
        if sequence >= from && sequence - from < count && written.is_ok() {
            written = print(&record, raw, out);
        }
    })?;
    written?;
    for loss in &verdict.lost {
        eprintln!("records {} to {} are lost", loss.sequence, loss.sequence + loss.count - 1);
    }
    Ok(i32::from(!verdict.lost.is_empty()))
}

fn print(record: &RecordInfo<'_>, raw: bool, out: &mut dyn Write) -> std::io::Result<()> {
    if raw {
        return out.write_all(record.payload);
    }
    let header = &record.header;
    writeln!(
        out,
        "{} {} {} {} {}",
        header.sequence,
        header.epoch,
        record.offset,
        record.payload.len(),
        record.payload.escape_ascii()
    )
}
