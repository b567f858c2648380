//! SPDK from the settings: its libraries, its environment, our reservation in the memory that its devices reach, and what a
//! core's storage is.

use std::path::PathBuf;
use std::time::Duration;

use libos_mem::{Heap, Plan, Reservation};
use libos_spdk::{DiskSettings, Env, EnvSettings, Opened, Target};
use serde::Deserialize;

use crate::settings::{Settings, SettingsError};

/// `[spdk]`: what SPDK is told, if `storage.device` begins with `spdk:`.
#[derive(Clone, Debug, Deserialize)]
#[serde(default)]
pub struct SpdkSettings {
    /// The directory of its libraries; None: where the linker looks.
    pub library: Option<PathBuf>,
    /// Its configuration, a JSON file, which makes devices of its block layer (`spdk:bdev:NAME`).
    pub config: Option<PathBuf>,
    /// Milliseconds that an operation may be under way. After that the device is given up, and its logs end with EIO.
    pub timeout_ms: u64,
}

impl Default for SpdkSettings {
    fn default() -> SpdkSettings {
        SpdkSettings { library: None, config: None, timeout_ms: 10_000 }
    }
}

/// What SPDK takes of DPDK's memory beside our heaps: queues, requests, and the block layer's pools.
const OVERHEAD: usize = 160 << 20;

/// The device that `storage.device` names, without `spdk:`, if it is one of SPDK's.
pub(crate) fn device(settings: &Settings) -> Option<&str> {
    settings.storage.device.as_ref()?.to_str()?.strip_prefix("spdk:")
}

/// Refuses what makes no sense.
pub(crate) fn check(settings: &Settings) -> Result<(), SettingsError> {
    let bad = |key: &str, why: String| Err(SettingsError::BadValue { key: key.into(), why });
    if settings.spdk.timeout_ms == 0 {
        return bad("spdk.timeout_ms", "0 gives a device no time at all".into());
    }
    let Some(text) = device(settings) else { return Ok(()) };
    let target = match Target::parse(text, 0) {
        Err(error) => return bad("storage.device", error.to_string()),
        Ok(target) => target,
    };
    let cores = settings.cores.count;
    if cores > 1 && Target::parse(text, 1).is_ok_and(|other| other == target) {
        let how = "write {core} or {core+1} where they differ: spdk:0000:03:00.0,ns={core+1}";
        return bad("storage.device", format!("{cores} cores cannot share one device: {how}"));
    }
    Ok(())
}

/// All heaps, in memory that SPDK's devices reach: before anything else uses it.
pub(crate) fn reserve(settings: &Settings, text: &str, plan: Plan) -> Result<Reservation, String> {
    let said = |error: libos_spdk::OpenError| error.to_string();
    let target = Target::parse(text, 0).map_err(said)?;
    // Before DPDK is started: what SPDK needs of it must be there then.
    libos_spdk::is_installed(settings.spdk.library.as_deref()).map_err(said)?;
    let memory = plan.heap_size * plan.heaps;
    if libos_dpdk::is_built().is_err() {
        let env = Env::start(&env_settings(settings, Some((memory + OVERHEAD, target.is_pci())))).map_err(said)?;
        return env.reserve(plan).map_err(said);
    }
    let reservation = crate::dpdk::reserve_for_storage(settings, target.pci_address(), memory + OVERHEAD, plan)?;
    Env::start(&env_settings(settings, None)).map_err(said)?;
    Ok(reservation)
}

/// `own`: SPDK starts DPDK itself, with so much memory, and looks at the PCI bus, or not.
fn env_settings(settings: &Settings, own: Option<(usize, bool)>) -> EnvSettings {
    let (memory, pci) = own.unwrap_or_default();
    EnvSettings { library: settings.spdk.library.clone(), on_our_dpdk: own.is_none(), memory, pci }
}

/// A core's device.
pub(crate) fn open(settings: &Settings, text: &str, core: usize, heap: &Heap) -> Result<Opened, String> {
    let said = |error: libos_spdk::OpenError| error.to_string();
    let target = Target::parse(text, core).map_err(said)?;
    // Started when the memory was reserved: this gives it.
    let env = Env::start(&env_settings(settings, None)).map_err(said)?;
    let read = |path: &PathBuf| {
        std::fs::read_to_string(path).map_err(|error| format!("cannot read {}: {error}", path.display()))
    };
    let usual = DiskSettings::default();
    let disk = DiskSettings {
        configuration: settings.spdk.config.as_ref().map_or(Ok(usual.configuration), read)?,
        timeout: Duration::from_millis(settings.spdk.timeout_ms),
        read_only: settings.storage.read_only,
        discard: settings.storage.discard,
    };
    libos_spdk::open(env, &target, &disk, heap).map_err(said)
}
