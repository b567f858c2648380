//! DPDK's environment, once a process: its start, and our reservation in its memory.

use std::sync::{Mutex, OnceLock, PoisonError};

use libos_mem::{Plan, Reservation, SPAN_SIZE};

use crate::{EalSettings, OpenError, ffi};

/// DPDK's environment, started. There is one in a process, until it ends.
#[derive(Clone, Copy, Debug)]
pub struct Eal(());

/// Rings, pools and what drivers take, beside our reservation.
const OVERHEAD: usize = 96 << 20;

/// Started, and whether its memory is one file of huge pages; or what it said.
static STARTED: OnceLock<Result<bool, String>> = OnceLock::new();

impl Eal {
    /// Starts it, or gives the one that is there: then what is asked for now changes nothing.
    ///
    /// # Errors
    /// [`OpenError::Refused`], with what it said. It cannot be tried again in this process.
    pub fn start(settings: &EalSettings) -> Result<Eal, OpenError> {
        let started = STARTED.get_or_init(|| {
            let arguments = arguments(settings)?;
            let is_one_file = arguments.iter().any(|argument| argument.starts_with("--single-file"));
            let started = ffi::start_eal(&arguments).map(|()| is_one_file);
            started.map_err(|why| format!("{why}, with `{}`", arguments.join(" ")))
        });
        let refused = |why: &String| OpenError::Refused { what: "DPDK does not start".into(), why: why.clone() };
        started.as_ref().map(|_| Eal(())).map_err(refused)
    }

    /// Whether its memory is one file of huge pages: what a peer can map.
    pub(crate) fn is_one_file(self) -> bool {
        matches!(STARTED.get(), Some(Ok(true)))
    }

    /// The library's version, such as "DPDK 22.11.11".
    pub fn version() -> String {
        ffi::version()
    }

    /// A reservation in its memory, given back when nothing uses it any more. Before any port is opened: some drivers keep
    /// the environment from growing.
    ///
    /// # Errors
    /// [`OpenError`]: the plan makes no sense, or there is not so much memory (`-m`, `vm.nr_hugepages`).
    pub fn reserve(&self, plan: Plan) -> Result<Reservation, OpenError> {
        let size = plan.heap_size.next_multiple_of(SPAN_SIZE).saturating_mul(plan.heaps);
        let zone = ffi::Zone::reserve(size, SPAN_SIZE).map_err(|why| OpenError::Refused {
            what: format!("reserving {} MiB of DPDK's memory", size >> 20),
            why: format!("{why}: give it more (-m), or have smaller heaps (memory.size)"),
        })?;
        ffi::reservation(plan, zone).map_err(|error| OpenError::BadSettings(error.to_string()))
    }
}

/// Two ports of this process, joined by rings, by name. What one sends the other receives, as it is.
///
/// # Errors
/// [`OpenError`]: not in this build, or the names are taken.
pub fn ring_pair(_: Eal, names: [&str; 2], size: u32) -> Result<(), OpenError> {
    if !dpdk_sys::HAS_RING_PAIRS {
        return Err(OpenError::Unsupported("librte_net_ring was not found when this was built".into()));
    }
    static ONE_AT_A_TIME: Mutex<()> = Mutex::new(());
    let _one = ONE_AT_A_TIME.lock().unwrap_or_else(PoisonError::into_inner);
    ffi::ring_pair(names, size)
        .map_err(|why| OpenError::Refused { what: format!("joining {} and {}", names[0], names[1]), why })
}

/// Whether somebody has said how memory is to be had.
fn is_about_memory(argument: &str) -> bool {
    let names =
        ["-m", "--no-huge", "--in-memory", "--huge", "--socket-mem", "--legacy-mem", "--single-file", "--socket-limit"];
    names.iter().any(|name| argument.starts_with(name))
}

fn arguments(settings: &EalSettings) -> Result<Vec<String>, String> {
    let mut arguments: Vec<String> = ["margay", "--no-telemetry"].map(String::from).into();
    let has = |name: &str| settings.arguments.iter().any(|argument| argument.starts_with(name));
    if !has("--iova-mode") {
        arguments.push("--iova-mode=va".into());
    }
    if !has("--log-level") {
        // What is wrong, and not what is so.
        arguments.push("--log-level=*:error".into());
    }
    if !settings.pci && !has("--no-pci") && !has("-a") && !has("--allow") {
        arguments.push("--no-pci".into());
    }
    if !has("-l") && !has("-c") && !has("--lcores") {
        arguments.push(format!("--lcores=0@({})", ffi::processors()?));
    }
    if !settings.arguments.iter().any(|argument| is_about_memory(argument)) {
        let needed = settings.memory + OVERHEAD;
        if free_huge_pages() >= needed {
            arguments.extend(["--in-memory", "--single-file-segments"].map(String::from));
        } else {
            // Nothing in the file system that another process of ours would find in its way.
            arguments.extend(["--no-huge", "--no-shconf"].map(String::from));
        }
        arguments.extend(["-m".into(), needed.div_ceil(1 << 20).to_string()]);
    }
    arguments.extend(settings.arguments.iter().cloned());
    Ok(arguments)
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
    fn what_somebody_says_about_memory_replaces_ours() {
        let settings = |arguments: &[&str]| EalSettings {
            arguments: arguments.iter().map(|it| it.to_string()).collect(),
            memory: 64 << 20,
            pci: false,
        };
        let ours = arguments(&settings(&[])).unwrap();
        assert!(ours.iter().any(|it| it == "-m") && ours.iter().any(|it| it == "--no-pci"), "{ours:?}");
        let theirs = arguments(&settings(&["--no-huge", "-m", "77"])).unwrap();
        assert_eq!(theirs.iter().filter(|it| *it == "-m").count(), 1, "{theirs:?}");
        assert!(!theirs.iter().any(|it| it == "--in-memory"), "{theirs:?}");
    }
}
