//! Finding SPDK's libraries and DPDK's, making them visible in the right order, and refusing those that do not fit.

use std::collections::BTreeSet;
use std::ffi::{CStr, c_char, c_void};
use std::path::{Path, PathBuf};
use std::sync::OnceLock;

use libloading::os::unix::{Library, RTLD_GLOBAL, RTLD_NOW};

use crate::declarations::{BdevFunctions, Functions};

/// Why SPDK is not to be had.
#[derive(Debug, Clone, thiserror::Error)]
pub enum LoadError {
    /// A library is missing, or one that it needs.
    #[error("there is no SPDK to load: {0}")]
    Missing(String),
    /// Its interface is not one that we have compared.
    #[error("this SPDK has {found}, and we know {known}")]
    Unknown {
        /// The library that says so.
        found: String,
        /// What would do.
        known: String,
    },
    /// It brings another DPDK along.
    #[error(
        "this SPDK brings {theirs} along, and this process has {ours}: one process can have one; build SPDK against {ours}"
    )]
    OtherDpdk {
        /// The version of the process's.
        ours: String,
        /// And of SPDK's.
        theirs: String,
    },
    /// A function is missing.
    #[error("this SPDK has no function {0}")]
    NoFunction(&'static str),
}

/// A release of SPDK, by the interface numbers (SO_VER) of its libraries.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Release {
    /// Its name.
    pub name: &'static str,
    /// Of libspdk_nvme.
    pub nvme: u32,
    /// Of libspdk_env_dpdk.
    pub env: u32,
}

/// The releases whose headers our declarations were compared with. A release that is not among them is refused: what has
/// moved in its structures would be found out by what it does to our memory.
pub const RELEASES: [Release; 6] = [
    Release { name: "v24.09", nvme: 14, env: 15 },
    Release { name: "v25.05", nvme: 15, env: 15 },
    Release { name: "v25.09", nvme: 16, env: 16 },
    Release { name: "v26.01", nvme: 17, env: 16 },
    Release { name: "v26.05", nvme: 18, env: 17 },
    Release { name: "v26.09-pre", nvme: 19, env: 17 },
];

/// SPDK's environment and NVMe driver, loaded. They stay until the process ends: they have threads and constructors.
#[derive(Debug)]
pub struct Spdk {
    /// What can be called.
    pub functions: Functions,
    /// Which release it is.
    pub release: Release,
    /// The DPDK that it runs on, such as "DPDK 22.11.11".
    pub dpdk: String,
    directory: Option<PathBuf>,
}

/// The block layer, loaded.
#[derive(Debug)]
pub struct BdevLibrary {
    /// What can be called.
    pub functions: BdevFunctions,
}

/// What SPDK's environment takes of DPDK, by the names of its libraries. The ring is how its pools are made.
const DPDK: [&str; 10] = [
    "librte_eal",
    "librte_kvargs",
    "librte_telemetry",
    "librte_ring",
    "librte_mempool",
    "librte_mempool_ring",
    "librte_rcu",
    "librte_mbuf",
    "librte_pci",
    "librte_bus_pci",
];
/// Interface numbers of DPDK's, newest first: 22.11 is 23, 25.11 is 26.
const DPDK_ABIS: [u32; 4] = [26, 25, 24, 23];

const CORE: [&str; 4] = ["libspdk_env_dpdk", "libspdk_log", "libspdk_sock_posix", "libspdk_nvme"];
const OPENSSL: [&str; 2] = ["libcrypto.so.3", "libssl.so.3"];
/// The block layer and the modules that a configuration may name.
const BDEV: [&str; 5] = ["libspdk_thread", "libspdk_bdev", "libspdk_init", "libspdk_event_bdev", "libspdk_event_sock"];
const BDEV_MODULES: [&str; 12] =
    ["malloc", "null", "aio", "uring", "nvme", "delay", "error", "split", "passthru", "raid", "lvol", "virtio"];

/// Loads it from this directory, or from where the linker looks. The first call decides for the process.
///
/// # Errors
/// [`LoadError`].
pub fn load(directory: Option<&Path>) -> Result<&'static Spdk, LoadError> {
    static LOADED: OnceLock<Result<Spdk, LoadError>> = OnceLock::new();
    LOADED.get_or_init(|| Spdk::load(directory)).as_ref().map_err(Clone::clone)
}

/// Loads the block layer of the same SPDK.
///
/// # Errors
/// [`LoadError`].
pub fn load_bdev(spdk: &'static Spdk) -> Result<&'static BdevLibrary, LoadError> {
    static LOADED: OnceLock<Result<BdevLibrary, LoadError>> = OnceLock::new();
    let load = || {
        let directory = spdk.directory.as_deref();
        let handles = BDEV.iter().map(|name| open(directory, name)).collect::<Result<Vec<_>, _>>()?;
        for module in BDEV_MODULES {
            // What is not installed cannot be configured, and SPDK says so.
            let _ = open(directory, &format!("libspdk_bdev_{module}"));
        }
        // SAFETY: the functions are of a release whose headers were compared (`Spdk::load`).
        Ok(BdevLibrary { functions: unsafe { BdevFunctions::find(|name| look_up(&handles, name)) }? })
    };
    LOADED.get_or_init(load).as_ref().map_err(Clone::clone)
}

impl Spdk {
    fn load(directory: Option<&Path>) -> Result<Spdk, LoadError> {
        make_dpdk_visible(directory)?;
        for name in OPENSSL {
            // SPDK's utilities use it without naming it, too; one that does without has no need of it.
            let _ = open_file(Path::new(name));
        }
        let ours = look_up(&[&Library::this()], "rte_version").ok();
        let handles = CORE.iter().map(|name| open(directory, name)).collect::<Result<Vec<_>, _>>()?;
        let address = look_up(&handles[..1], "spdk_env_init")?;
        let (env, nvme) = (number_of(address), number_of(look_up(&handles[3..], "spdk_nvme_connect")?));
        let release = release(nvme, env)?;
        // Symbols of the library itself, or of what it brings along. If it brings nothing, it takes the process's.
        let theirs = look_up(&handles[..1], "rte_version").ok().or(ours);
        let (ours, theirs) =
            (ours.ok_or(LoadError::NoFunction("rte_version"))?, theirs.ok_or(LoadError::NoFunction("rte_version"))?);
        let eals = eals();
        if ours != theirs || eals.len() > 1 {
            let theirs = if ours == theirs { format!("another DPDK ({})", names(&eals)) } else { version(theirs) };
            return Err(LoadError::OtherDpdk { ours: version(ours), theirs });
        }
        // SAFETY: the functions are of a release whose headers were compared.
        let functions = unsafe { Functions::find(|name| look_up(&handles, name)) }?;
        let directory = directory.map(Path::to_path_buf);
        Ok(Spdk { functions, release, dpdk: version(ours), directory })
    }
}

impl Spdk {
    /// Whether the DPDK that was started in this process has huge pages.
    pub fn has_huge_pages(&self) -> bool {
        let Ok(address) = look_up(&[&Library::this()], "rte_eal_has_hugepages") else { return false };
        // SAFETY: `int rte_eal_has_hugepages(void)` in every DPDK.
        let ask = unsafe { std::mem::transmute::<*mut c_void, unsafe extern "C" fn() -> i32>(address) };
        // SAFETY: it reads a variable.
        unsafe { ask() != 0 }
    }
}

/// SPDK's libraries name no DPDK, and DPDK's drivers are loaded where only DPDK sees them: both find what they need among
/// what is visible to all. Beside the libraries that the process has; if it has none, those that are installed.
fn make_dpdk_visible(directory: Option<&Path>) -> Result<(), LoadError> {
    let present = look_up(&[&Library::this()], "rte_version").ok().and_then(file_of);
    let (folder, abi) = match &present {
        Some(path) => (path.parent().map(Path::to_path_buf), abi_in(path)),
        None => (directory.map(Path::to_path_buf), None),
    };
    let abis: Vec<u32> = abi.map_or(DPDK_ABIS.into(), |abi| vec![abi]);
    let mut missing = String::new();
    for abi in abis {
        let open_all = || {
            DPDK.iter().map(|name| {
                let file = format!("{name}.so.{abi}");
                let beside = folder.as_ref().map(|folder| folder.join(&file)).filter(|path| path.exists());
                open_file(&beside.unwrap_or_else(|| file.into()))
            })
        };
        // All or none: the first that is missing ends it, before anything is there of another interface.
        match open_all().collect::<Result<Vec<_>, _>>() {
            Ok(_) => return Ok(()),
            Err(error) if missing.is_empty() => missing = error.to_string(),
            Err(_) => {}
        }
    }
    Err(LoadError::Missing(missing))
}

/// The number in `librte_eal.so.23` or `librte_eal.so.23.0`.
fn abi_in(path: &Path) -> Option<u32> {
    path.file_name()?.to_str()?.split_once(".so.")?.1.split('.').next()?.parse().ok()
}

/// A library by its name: its development link, or the only version of it in the directory.
fn open(directory: Option<&Path>, name: &str) -> Result<&'static Library, LoadError> {
    let link = format!("{name}.so");
    let Some(directory) = directory else { return open_file(Path::new(&link)) };
    let whole = directory.join(&link);
    if whole.exists() {
        return open_file(&whole);
    }
    let entries = std::fs::read_dir(directory)
        .map_err(|error| LoadError::Missing(format!("{}: {error}", directory.display())))?;
    let versions: BTreeSet<PathBuf> = entries
        .flatten()
        .filter(|entry| entry.file_name().to_string_lossy().starts_with(&format!("{link}.")))
        .map(|entry| entry.path())
        .collect();
    match versions.last() {
        Some(path) => open_file(path),
        None => Err(LoadError::Missing(format!("{} has no {link}", directory.display()))),
    }
}

/// It stays until the process ends: what its constructors added to lists is never taken off them.
fn open_file(path: &Path) -> Result<&'static Library, LoadError> {
    // SAFETY: the constructors of SPDK's and DPDK's libraries add themselves to lists of their own, and touch nothing of ours.
    let library = unsafe { Library::open(Some(path), RTLD_NOW | RTLD_GLOBAL) };
    library.map(|library| &*Box::leak(Box::new(library))).map_err(|error| LoadError::Missing(error.to_string()))
}

/// The address of a name in the first of these that has it. `Library::this` is all that is visible.
fn look_up(handles: &[&Library], name: &'static str) -> Result<*mut c_void, LoadError> {
    let found = handles.iter().find_map(|handle| {
        // SAFETY: an address, which is given its type elsewhere.
        let symbol = unsafe { handle.get::<*mut c_void>(name.as_bytes()) }.ok()?;
        Some(symbol.into_raw()).filter(|address| !address.is_null())
    });
    found.ok_or(LoadError::NoFunction(name))
}

/// The file that an address is of.
fn file_of(address: *mut c_void) -> Option<PathBuf> {
    // SAFETY: plain data; all zeros are a value of it.
    let mut info: libc::Dl_info = unsafe { std::mem::zeroed() };
    // SAFETY: it looks the address up, and fills the structure.
    if unsafe { libc::dladdr(address, &raw mut info) } == 0 || info.dli_fname.is_null() {
        return None;
    }
    // SAFETY: the name of a file that stays loaded.
    let name = unsafe { CStr::from_ptr(info.dli_fname) }.to_str().ok()?;
    Some(std::fs::canonicalize(name).unwrap_or_else(|_| name.into()))
}

/// The interface number of the library that an address is of: its file is named after it.
fn number_of(address: *mut c_void) -> Option<u32> {
    abi_in(&file_of(address)?)
}

fn release(nvme: Option<u32>, env: Option<u32>) -> Result<Release, LoadError> {
    let known = || RELEASES.map(|release| format!("{} ({}, {})", release.name, release.nvme, release.env)).join(", ");
    let number = |number: Option<u32>| number.map_or("?".into(), |number| number.to_string());
    RELEASES.into_iter().find(|release| (Some(release.nvme), Some(release.env)) == (nvme, env)).ok_or_else(|| {
        LoadError::Unknown {
            found: format!("libspdk_nvme.so.{} and libspdk_env_dpdk.so.{}", number(nvme), number(env)),
            known: known(),
        }
    })
}

/// What `rte_version`, at this address, says.
fn version(address: *mut c_void) -> String {
    // SAFETY: `const char *rte_version(void)` in every DPDK.
    let rte_version = unsafe { std::mem::transmute::<*mut c_void, unsafe extern "C" fn() -> *const c_char>(address) };
    // SAFETY: it returns a text that is never freed.
    unsafe { CStr::from_ptr(rte_version()) }.to_string_lossy().into_owned()
}

fn names(paths: &BTreeSet<PathBuf>) -> String {
    paths.iter().map(|path| path.display().to_string()).collect::<Vec<_>>().join(" and ")
}

/// The files of DPDK's environment in this process: one, if all is well.
fn eals() -> BTreeSet<PathBuf> {
    let maps = std::fs::read_to_string("/proc/self/maps").unwrap_or_default();
    let files = maps.lines().filter_map(|line| line.split_once('/')).map(|(_, path)| PathBuf::from(format!("/{path}")));
    files
        .filter(|path| path.file_name().is_some_and(|name| name.to_string_lossy().starts_with("librte_eal.so")))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_release_is_known_by_its_numbers() {
        assert_eq!(release(Some(14), Some(15)).unwrap().name, "v24.09");
        let error = release(Some(20), None).unwrap_err().to_string();
        assert!(error.contains("libspdk_nvme.so.20") && error.contains("v26.05 (18, 17)"), "{error}");
        assert!(release(Some(14), Some(14)).is_err(), "libraries of two releases");
    }

    #[test]
    fn the_number_is_in_the_name_of_the_file() {
        assert_eq!(abi_in(Path::new("/lib/librte_eal.so.23.0")), Some(23));
        assert_eq!(abi_in(Path::new("/lib/libspdk_nvme.so.14")), Some(14));
        assert_eq!(abi_in(Path::new("/lib/libspdk_nvme.so")), None);
        assert_eq!(abi_in(Path::new("/usr/bin/program")), None);
    }

    #[test]
    fn what_is_not_there_is_said_to_be_missing() {
        let error = open(Some(Path::new("/nonexistent")), "libspdk_nvme").unwrap_err().to_string();
        assert!(error.contains("there is no SPDK to load") && error.contains("/nonexistent"), "{error}");
    }
}
