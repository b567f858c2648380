//! The storage of each core: a file of its own in a directory, a disk, or memory, with a log store on it.

use std::path::{Path, PathBuf};
use std::time::Duration;

use libos_journal::{Format, Settings as StoreSettings, Store};
use libos_mem::Heap;
use libos_posix::block::{DiskEngine, DiskSettings, Durable, MemoryDisk, open_disk};
use pdpix::block::Geometry;
use pdpix::{BlockDevice, Storage};
use serde::Deserialize;

use crate::settings::{Settings, SettingsError, parse_bytes};
use crate::spdk;

/// `[storage]`: where logs are. Without `dir` and `device` there is none.
#[derive(Clone, Debug, Deserialize)]
#[serde(default)]
pub struct StorageSettings {
    /// A directory, in which each core has a file, `core-N.log`.
    pub dir: Option<PathBuf>,
    /// Instead: one file or block device, for one core; "memory", which is forgotten when the service ends; or one of SPDK's,
    /// such as `spdk:0000:03:00.0` (docs/spdk.md).
    pub device: Option<PathBuf>,
    /// Bytes of each file, taken at once when it is made ("1GiB").
    pub size: String,
    /// "auto", "io_uring" or "thread": what moves the bytes.
    pub engine: String,
    /// Past the page cache, where the file system can.
    pub direct: bool,
    /// "fdatasync": a flush for all records that wait; "dsync": each write durable by itself; "auto": the former, and the
    /// latter for a write that is alone, where the kernel makes that a write and a flush.
    pub flush: String,
    /// Give the space of what is truncated back to the file system or the disk. A later write may then find it full.
    pub discard: bool,
    /// Write zeros to a new file, so that writes need not make its blocks later. Takes as long as writing it does.
    pub prepare: bool,
    /// Microseconds that a flush may be held back, so that more records share it.
    pub commit_delay_us: u64,
    /// Logs can be read, and nothing is changed.
    pub read_only: bool,
}

impl Default for StorageSettings {
    fn default() -> StorageSettings {
        StorageSettings {
            dir: None,
            device: None,
            size: "1GiB".into(),
            engine: "auto".into(),
            direct: true,
            flush: "auto".into(),
            discard: false,
            prepare: false,
            commit_delay_us: 0,
            read_only: false,
        }
    }
}

/// The name that a core's storage has.
const NAME: &str = "disk";

/// A store on less would hold nothing.
const SIZE_MIN: usize = 1 << 20;

impl StorageSettings {
    /// Refuses what makes no sense.
    pub(crate) fn check(&self, cores: usize) -> Result<(), SettingsError> {
        let bad = |key: &str, why: String| Err(SettingsError::BadValue { key: format!("storage.{key}"), why });
        match parse_bytes(&self.size) {
            Some(size) if size >= SIZE_MIN => {}
            _ => return bad("size", format!("`{}` is not a number of bytes of at least 1MiB", self.size)),
        }
        if !["auto", "io_uring", "thread"].contains(&self.engine.as_str()) {
            return bad("engine", format!("`{}` is not auto, io_uring or thread", self.engine));
        }
        if !["auto", "fdatasync", "dsync"].contains(&self.flush.as_str()) {
            return bad("flush", format!("`{}` is not auto, fdatasync or dsync", self.flush));
        }
        if self.dir.is_some() && self.device.is_some() {
            return bad("device", "`storage.dir` says already where the logs are".into());
        }
        if cores > 1 && self.device.as_ref().is_some_and(|device| !is_memory(device) && !is_spdk(device)) {
            return bad("device", format!("{cores} cores cannot share one disk: give a directory, `storage.dir`"));
        }
        Ok(())
    }

    /// The storage of a core, if there is any; what it is, and what to tell whoever started this.
    ///
    /// # Errors
    /// A sentence.
    pub(crate) fn open(
        &self,
        all: &Settings,
        core: usize,
        chance: u128,
        heap: &Heap,
    ) -> Result<Option<Opened>, String> {
        let cores = all.cores.count;
        let mut notices = Vec::new();
        let (device, how): (Box<dyn BlockDevice>, _) = match (&self.dir, &self.device) {
            (None, None) => return Ok(None),
            (_, Some(device)) if is_memory(device) => {
                notices.push("logs are in memory: they end with this process".into());
                (Box::new(MemoryDisk::new(self.size()).device()), "memory".into())
            }
            (None, Some(_)) if let Some(device) = spdk::device(all) => {
                let opened = spdk::open(all, device, core, heap)?;
                (Box::new(opened.device), opened.how)
            }
            (dir, device) => {
                let path = match (dir, device) {
                    (Some(dir), _) => self.file_in(dir, core, cores, &mut notices)?,
                    (_, device) => device.clone().unwrap_or_default(),
                };
                let opened = open_disk(&self.disk(path), heap).map_err(|error| error.to_string())?;
                notices.extend(opened.notices);
                (opened.device, opened.how)
            }
        };
        let settings = StoreSettings {
            format: (!self.read_only).then(|| Format::new(chance)),
            commit_delay: Duration::from_micros(self.commit_delay_us),
            ..StoreSettings::default()
        };
        let geometry = device.geometry();
        let store = Store::new(device, heap.clone(), settings);
        Ok(Some(Opened { name: NAME.into(), storage: Box::new(store), geometry, how, notices }))
    }

    fn file_in(&self, dir: &Path, core: usize, cores: usize, notices: &mut Vec<String>) -> Result<PathBuf, String> {
        if !self.read_only && !dir.is_dir() {
            std::fs::create_dir_all(dir).map_err(|error| format!("cannot make {}: {error}", dir.display()))?;
        }
        let file = |core: usize| dir.join(format!("core-{core}.log"));
        if core == 0 && file(cores).exists() {
            notices.push(format!("{} belongs to a core that is not there: it is left alone", file(cores).display()));
        }
        Ok(file(core))
    }

    /// Bytes of each file.
    pub fn size(&self) -> usize {
        parse_bytes(&self.size).unwrap_or(SIZE_MIN)
    }

    fn disk(&self, path: PathBuf) -> DiskSettings {
        DiskSettings {
            size: (!self.read_only).then(|| self.size() as u64),
            engine: match self.engine.as_str() {
                "io_uring" => DiskEngine::Uring,
                "thread" => DiskEngine::Threaded,
                _ => DiskEngine::Auto,
            },
            direct: self.direct,
            durable: match self.flush.as_str() {
                "dsync" => Durable::Dsync,
                "fdatasync" => Durable::Fdatasync,
                _ => Durable::Auto,
            },
            discard: self.discard,
            prepare: self.prepare,
            read_only: self.read_only,
            ..DiskSettings::new(path)
        }
    }
}

fn is_memory(device: &Path) -> bool {
    device.as_os_str() == "memory"
}

fn is_spdk(device: &Path) -> bool {
    device.to_str().is_some_and(|device| device.starts_with("spdk:"))
}

/// A core's storage.
pub(crate) struct Opened {
    pub(crate) name: String,
    pub(crate) storage: Box<dyn Storage>,
    pub(crate) geometry: Geometry,
    pub(crate) how: String,
    pub(crate) notices: Vec<String>,
}
