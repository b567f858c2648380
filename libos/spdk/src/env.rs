//! SPDK's environment, once a process.

use std::path::{Path, PathBuf};
use std::sync::OnceLock;

use libos_mem::{Plan, Reservation, SPAN_SIZE};
use spdk_sys::Spdk;

use crate::error::OpenError;
use crate::ffi::{self, DmaMemory};

/// How it is started.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct EnvSettings {
    /// The directory of SPDK's libraries; `None`: where the linker looks.
    pub library: Option<PathBuf>,
    /// DPDK's environment was started in this process already, and SPDK is to run on it.
    pub on_our_dpdk: bool,
    /// If SPDK starts DPDK itself: bytes that our reservation will take; its own needs are added.
    pub memory: usize,
    /// If SPDK starts DPDK itself: whether devices on the PCI bus are looked for.
    pub pci: bool,
}

/// SPDK's environment, started. There is one in a process, until it ends.
#[derive(Clone, Copy, Debug)]
pub struct Env {
    pub(crate) spdk: &'static Spdk,
}

/// What SPDK takes beside our reservation: queues, requests, pools.
const OVERHEAD: usize = 128 << 20;

/// Loads SPDK's libraries, and says what they are. DPDK's drivers are made visible with them, so this comes before
/// DPDK's environment is started.
///
/// # Errors
/// [`OpenError::Load`]: why there is none for us.
pub fn is_installed(library: Option<&Path>) -> Result<String, OpenError> {
    ffi::remember_processors();
    let spdk = spdk_sys::load(library)?;
    Ok(format!("SPDK {} on {}", spdk.release.name, spdk.dpdk))
}

impl Env {
    /// Starts it, or gives the one that is there: then what is asked for now changes nothing.
    ///
    /// # Errors
    /// [`OpenError`]. It cannot be tried again in this process.
    pub fn start(settings: &EnvSettings) -> Result<Env, OpenError> {
        static STARTED: OnceLock<Result<Env, OpenError>> = OnceLock::new();
        STARTED.get_or_init(|| Env::begin(settings)).clone()
    }

    fn begin(settings: &EnvSettings) -> Result<Env, OpenError> {
        ffi::remember_processors();
        let spdk = spdk_sys::load(settings.library.as_deref())?;
        let started = if settings.on_our_dpdk {
            ffi::post_init(spdk, !spdk.has_huge_pages())
        } else {
            let needed = settings.memory + OVERHEAD;
            let huge = free_huge_pages() >= needed && has_huge_file_system();
            ffi::start(spdk, (needed >> 20) as i32, huge, settings.pci)
        };
        // SPDK refuses versions of DPDK that it was not tried with, and says EINVAL.
        let refused = |why| OpenError::Refused {
            what: format!("SPDK {} does not start on {}", spdk.release.name, spdk.dpdk),
            why,
        };
        started.map(|()| Env { spdk }).map_err(refused)
    }

    /// What it is: "SPDK v24.09 on DPDK 22.11.11".
    pub fn version(&self) -> String {
        format!("SPDK {} on {}", self.spdk.release.name, self.spdk.dpdk)
    }

    /// A reservation in its memory, which its devices reach.
    ///
    /// # Errors
    /// [`OpenError`]: the plan makes no sense, or there is not so much memory.
    pub fn reserve(&self, plan: Plan) -> Result<Reservation, OpenError> {
        let size = plan.heap_size.next_multiple_of(SPAN_SIZE).saturating_mul(plan.heaps);
        let refused =
            |why: String| OpenError::Refused { what: format!("reserving {} MiB of SPDK's memory", size >> 20), why };
        let memory = DmaMemory::new(self.spdk, size, SPAN_SIZE)
            .ok_or_else(|| refused("there is not so much: have smaller heaps (memory.size)".into()))?;
        ffi::reservation(plan, memory).map_err(|error| refused(error.to_string()))
    }
}

/// Whether DPDK could have them: it wants files in a file system of huge pages.
fn has_huge_file_system() -> bool {
    let mounts = std::fs::read_to_string("/proc/mounts").unwrap_or_default();
    huge_file_systems(&mounts).any(ffi::is_writable)
}

/// Where they are mounted, in the form of /proc/mounts.
fn huge_file_systems(mounts: &str) -> impl Iterator<Item = &str> {
    mounts.lines().filter_map(|line| {
        let mut words = line.split(' ').skip(1);
        let (at, kind) = (words.next()?, words.next()?);
        (kind == "hugetlbfs").then_some(at)
    })
}

/// Bytes in huge pages of the usual size that nobody has.
fn free_huge_pages() -> usize {
    let text = std::fs::read_to_string("/proc/meminfo").unwrap_or_default();
    let value = |name: &str| {
        let line = text.lines().find_map(|line| line.strip_prefix(name))?;
        line.split_whitespace().next()?.parse::<usize>().ok()
    };
    value("HugePages_Free:").unwrap_or(0) * value("Hugepagesize:").unwrap_or(0) * 1024
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn huge_pages_want_a_file_system() {
        let mounts = "proc /proc proc rw 0 0\nhugetlbfs /dev/hugepages hugetlbfs rw,pagesize=2M 0 0\n\
                      hugetlbfs /tmp tmpfs rw 0 0\n";
        assert_eq!(huge_file_systems(mounts).collect::<Vec<_>>(), ["/dev/hugepages"]);
        assert!(ffi::is_writable(&std::env::temp_dir().display().to_string()));
        assert!(!ffi::is_writable("/nowhere"));
    }
}
