//! The configuration: what may be set, what it is if nothing is, and where it comes from.
//!
//! Later sources win: the file, the environment (`MARGAY_MEMORY_SIZE=1GiB` for `memory.size`), and `key=value` pairs from
//! flags. Every source has the same keys; one that nobody knows is refused.

use std::path::{Path, PathBuf};
use std::time::Duration;

use libos_runtime::{IdlePolicy, Patience};
use serde::Deserialize;
use toml::{Table, Value};

use crate::dpdk::DpdkSettings;
use crate::frames::FrameSettings;
use crate::keys;
use crate::network::BackendKind;
use crate::spdk::{self, SpdkSettings};
use crate::storage::StorageSettings;

/// Why a configuration is not one.
#[derive(Debug, thiserror::Error)]
pub enum SettingsError {
    /// The file cannot be read.
    #[error("cannot read {0}: {1}")]
    Read(PathBuf, std::io::Error),
    /// The file is not TOML.
    #[error("{0} is not TOML: {1}")]
    Parse(PathBuf, String),
    /// A key that nobody knows.
    #[error("{place}: there is no key `{key}`{}", nearest.map(|n| format!("; did you mean `{n}`?")).unwrap_or_default())]
    UnknownKey {
        /// Where it was found.
        place: String,
        /// The key.
        key: String,
        /// The known key that looks most like it.
        nearest: Option<&'static str>,
    },
    /// A value that makes no sense.
    #[error("`{key}`: {why}")]
    BadValue {
        /// Its key.
        key: String,
        /// Why.
        why: String,
    },
}

/// All of it.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub struct Settings {
    /// Which cores.
    pub cores: CoreSettings,
    /// What memory.
    pub memory: MemorySettings,
    /// The default network.
    pub network: NetworkSettings,
    /// Our own stack, where the backend moves frames.
    pub frames: FrameSettings,
    /// Where logs are.
    pub storage: StorageSettings,
    /// DPDK's port, if that is what moves frames.
    pub dpdk: DpdkSettings,
    /// SPDK, if logs are on a device of its.
    pub spdk: SpdkSettings,
    /// What a core does when there is nothing to do.
    pub idle: IdleSettings,
    /// What is kept of what happened.
    pub trace: TraceSettings,
    /// All chance of a run; drawn by lot if it is not set.
    pub seed: Option<u64>,
}

/// `[cores]`
#[derive(Clone, Debug, Deserialize)]
#[serde(default)]
pub struct CoreSettings {
    /// How many.
    pub count: usize,
    /// Bind each to a processor of its own, if there are as many.
    pub pin: bool,
}

impl Default for CoreSettings {
    fn default() -> CoreSettings {
        CoreSettings { count: 1, pin: true }
    }
}

/// `[memory]`
#[derive(Clone, Debug, Deserialize)]
#[serde(default)]
pub struct MemorySettings {
    /// Bytes of each core's heap ("1GiB"), or "auto": half of the machine's memory, divided among the cores, at most 16
    /// GiB each; only what is used takes memory. With AF_XDP, DPDK and SPDK all of it is there from the start, and "auto" is 512,
    /// 256 and 256 MiB.
    pub size: String,
    /// "ordinary", "huge", "memfd", or "auto": huge pages where enough are free, else ordinary ones. With DPDK and SPDK the
    /// memory is DPDK's, whatever this says.
    pub source: String,
}

/// Of a core, with AF_XDP.
const XDP_HEAP_SIZE: usize = 512 << 20;
/// Of a core, with DPDK or SPDK.
const DPDK_HEAP_SIZE: usize = 256 << 20;

impl Default for MemorySettings {
    fn default() -> MemorySettings {
        MemorySettings { size: "auto".into(), source: "auto".into() }
    }
}

/// `[network]`
#[derive(Clone, Debug, Deserialize)]
#[serde(default)]
pub struct NetworkSettings {
    /// Which backend.
    pub backend: BackendKind,
    /// io_uring: buffers provided for receiving, a power of two.
    pub buffers: u16,
    /// io_uring: bytes in each.
    pub buffer_size: String,
    /// io_uring: pushes from this length on are sent without a copy by the kernel; "never".
    pub zero_copy_min: String,
}

impl Default for NetworkSettings {
    fn default() -> NetworkSettings {
        NetworkSettings {
            backend: BackendKind::Auto,
            buffers: 256,
            buffer_size: "4KiB".into(),
            zero_copy_min: "256KiB".into(),
        }
    }
}

/// `[idle]`
#[derive(Clone, Debug, Deserialize)]
#[serde(default)]
pub struct IdleSettings {
    /// "adaptive" or "spin".
    pub policy: String,
    /// Adaptive: microseconds without work before it sleeps.
    pub spin_us: u64,
    /// Adaptive: microseconds of each nap when work comes in batches; 0: never nap.
    pub gather_us: u64,
}

impl Default for IdleSettings {
    fn default() -> IdleSettings {
        let Patience { spin, gather } = Patience::default();
        IdleSettings {
            policy: "adaptive".into(),
            spin_us: spin.as_micros() as u64,
            gather_us: gather.as_micros() as u64,
        }
    }
}

/// `[trace]`
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub struct TraceSettings {
    /// Where each core keeps its trace ring: a file a core, `core-N.trace`. None: nowhere.
    pub dir: Option<PathBuf>,
    /// Events in each ring.
    pub entries: Option<usize>,
}

impl Settings {
    /// Reads `file`, if there is one, then the variables of `environment` that begin with `MARGAY_`, then `flags`
    /// (key, value).
    ///
    /// # Errors
    /// [`SettingsError`].
    pub fn load(
        file: Option<&Path>,
        environment: impl Iterator<Item = (String, String)>,
        flags: &[(String, String)],
    ) -> Result<Settings, SettingsError> {
        let mut table = Table::new();
        if let Some(path) = file {
            let text = std::fs::read_to_string(path).map_err(|e| SettingsError::Read(path.into(), e))?;
            table = text.parse().map_err(|e: toml::de::Error| SettingsError::Parse(path.into(), e.message().into()))?;
            keys::check_table(&path.display().to_string(), &table)?;
        }
        let mut variables: Vec<_> = environment.filter(|(name, _)| name.starts_with("MARGAY_")).collect();
        variables.sort_unstable();
        for (name, value) in variables {
            // Variables of tools and tests begin like this too; they have lists of their own.
            if let Some(key) = keys::of_variable(&name)? {
                set(&mut table, key, &value);
            }
        }
        for (key, value) in flags {
            set(&mut table, keys::check("the command line", key)?, value);
        }
        Value::Table(table).try_into().map_err(bad_value).and_then(Settings::checked)
    }

    fn checked(self) -> Result<Settings, SettingsError> {
        let bad = |key: &str, why: String| Err(SettingsError::BadValue { key: key.into(), why });
        if !(1..=255).contains(&self.cores.count) {
            return bad("cores.count", format!("{} is not between 1 and 255", self.cores.count));
        }
        if self.memory.size != "auto" {
            let size = self.bytes("memory.size", &self.memory.size)?;
            if size < 4 << 20 {
                return bad("memory.size", format!("a core needs at least 4MiB, not {}", self.memory.size));
            }
        }
        if !["auto", "ordinary", "huge", "memfd"].contains(&self.memory.source.as_str()) {
            return bad("memory.source", format!("`{}` is not auto, ordinary, huge or memfd", self.memory.source));
        }
        if !["adaptive", "spin"].contains(&self.idle.policy.as_str()) {
            return bad("idle.policy", format!("`{}` is not adaptive or spin", self.idle.policy));
        }
        if !self.network.buffers.is_power_of_two() || self.network.buffers > 32_768 {
            return bad("network.buffers", format!("{} is not a power of two up to 32768", self.network.buffers));
        }
        let size = self.bytes("network.buffer_size", &self.network.buffer_size)?;
        if !(256..=131_072).contains(&size) {
            return bad("network.buffer_size", format!("{size} is not between 256 and 128KiB"));
        }
        self.zero_copy_min()?;
        self.frames.parse()?;
        self.storage.check(self.cores.count)?;
        spdk::check(&self)?;
        Ok(self)
    }

    fn bytes(&self, key: &str, text: &str) -> Result<usize, SettingsError> {
        parse_bytes(text).ok_or_else(|| SettingsError::BadValue {
            key: key.into(),
            why: format!("`{text}` is not a number of bytes, such as 65536, 64KiB, 512MiB or 2GiB"),
        })
    }

    /// From which length on pushes are sent without a copy.
    ///
    /// # Errors
    /// The text is neither a size nor "never".
    pub(crate) fn zero_copy_min(&self) -> Result<Option<usize>, SettingsError> {
        match self.network.zero_copy_min.as_str() {
            "never" => Ok(None),
            text => self.bytes("network.zero_copy_min", text).map(Some),
        }
    }

    /// Bytes in each provided buffer.
    pub(crate) fn buffer_size(&self) -> usize {
        parse_bytes(&self.network.buffer_size).unwrap_or(4096)
    }

    /// Bytes of each core's heap.
    pub fn heap_size(&self) -> usize {
        match parse_bytes(&self.memory.size) {
            Some(size) => size,
            // All of it is pinned when the device is opened, whether it is used or not.
            None if self.network.backend == BackendKind::Xdp => XDP_HEAP_SIZE,
            None if self.network.backend == BackendKind::Dpdk || spdk::device(self).is_some() => DPDK_HEAP_SIZE,
            None => {
                let info = rustix::system::sysinfo();
                let total = info.totalram as usize * info.mem_unit.max(1) as usize;
                (total / 2 / self.cores.count).clamp(64 << 20, 16 << 30)
            }
        }
    }

    /// What a core does when there is nothing to do.
    pub fn idle_policy(&self) -> IdlePolicy {
        match self.idle.policy.as_str() {
            "spin" => IdlePolicy::Spin,
            _ => IdlePolicy::Adaptive(Patience {
                spin: Duration::from_micros(self.idle.spin_us),
                gather: Duration::from_micros(self.idle.gather_us),
            }),
        }
    }
}

/// The message of a value of the wrong type, without the line that belongs to no file.
fn bad_value(error: toml::de::Error) -> SettingsError {
    let text = error.message().to_string();
    SettingsError::BadValue { key: "configuration".into(), why: text }
}

fn set(table: &mut Table, key: &str, text: &str) {
    // As TOML would read it; what it would not, such as `1GiB`, is a string.
    let value = format!("v = {text}").parse::<Table>().ok().and_then(|mut table| table.remove("v"));
    let value = value.filter(|value| !matches!(value, Value::Array(_) | Value::Table(_) | Value::Datetime(_)));
    let value = value.unwrap_or_else(|| Value::String(text.into()));
    match key.split_once('.') {
        None => _ = table.insert(key.into(), value),
        Some((section, key)) => {
            let section = table.entry(section).or_insert_with(|| Value::Table(Table::new()));
            if let Value::Table(section) = section {
                section.insert(key.into(), value);
            }
        }
    }
}

/// "64KiB", "1 GiB", "4096".
pub(crate) fn parse_bytes(text: &str) -> Option<usize> {
    let text = text.trim();
    let digits = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
    let number: usize = text[..digits].parse().ok()?;
    let shift = match text[digits..].trim().to_ascii_lowercase().as_str() {
        "" | "b" => 0,
        "k" | "kb" | "kib" => 10,
        "m" | "mb" | "mib" => 20,
        "g" | "gb" | "gib" => 30,
        _ => return None,
    };
    number.checked_mul(1 << shift)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn load(
        file: Option<&str>,
        environment: &[(&str, &str)],
        flags: &[(&str, &str)],
    ) -> Result<Settings, SettingsError> {
        let own =
            |pairs: &[(&str, &str)]| pairs.iter().map(|(k, v)| (k.to_string(), v.to_string())).collect::<Vec<_>>();
        let path = file.map(|text| {
            let path = std::env::temp_dir().join(format!("margay-settings-{}-{}", std::process::id(), text.len()));
            std::fs::write(&path, text).unwrap();
            path
        });
        let settings = Settings::load(path.as_deref(), own(environment).into_iter(), &own(flags));
        path.into_iter().for_each(|path| std::fs::remove_file(path).unwrap());
        settings
    }

    #[test]
    fn later_sources_win() {
        let file = "seed = 5\n[cores]\ncount = 2\n[memory]\nsize = \"8MiB\"\n[idle]\npolicy = \"spin\"\n";
        let settings = load(
            Some(file),
            &[("MARGAY_CORES_COUNT", "3"), ("MARGAY_MEMORY_SIZE", "16MiB"), ("PATH", "/bin")],
            &[("memory.size", "32MiB"), ("network.backend", "epoll")],
        )
        .unwrap();
        assert_eq!((settings.cores.count, settings.heap_size(), settings.seed), (3, 32 << 20, Some(5)));
        assert_eq!((settings.idle_policy(), settings.network.backend), (IdlePolicy::Spin, BackendKind::Epoll));
    }

    #[test]
    fn an_unknown_key_is_refused_with_the_nearest_one() {
        let text = |result: Result<Settings, SettingsError>| result.unwrap_err().to_string();
        let file = text(load(Some("[cores]\ncuont = 2\n"), &[], &[]));
        assert!(file.ends_with("there is no key `cores.cuont`; did you mean `cores.count`?"), "{file}");
        let environment = text(load(None, &[("MARGAY_MEMORY_SISE", "1")], &[]));
        assert!(environment.contains("MARGAY_MEMORY_SISE") && environment.contains("`memory.size`"), "{environment}");
        let flag = text(load(None, &[], &[("idle.spin", "1")]));
        assert!(flag.contains("did you mean `idle.spin_us`?"), "{flag}");
        let nothing_like_it = text(load(None, &[], &[("completely.different.thing", "1")]));
        assert!(!nothing_like_it.contains("did you mean"), "{nothing_like_it}");
        assert!(text(load(Some("[kores]\n"), &[], &[])).contains("did you mean `cores"));
    }

    #[test]
    fn senseless_values_are_refused_by_name() {
        for (key, value) in [
            ("cores.count", "0"),
            ("cores.count", "256"),
            ("cores.count", "many"),
            ("memory.size", "big"),
            ("memory.size", "1KiB"),
            ("memory.source", "cloud"),
            ("idle.policy", "sleepy"),
            ("network.backend", "carrier-pigeon"),
            ("network.buffers", "100"),
            ("network.buffer_size", "1"),
            ("network.zero_copy_min", "sometimes"),
            ("storage.size", "1KiB"),
            ("storage.engine", "steam"),
            ("storage.flush", "never"),
            ("storage.device", "spdk:nvme0"),
            ("spdk.timeout_ms", "0"),
        ] {
            let error = load(None, &[], &[(key, value)]).unwrap_err();
            assert!(matches!(error, SettingsError::BadValue { .. }), "{key}={value}: {error}");
        }
        assert!(matches!(load(Some("= ="), &[], &[]), Err(SettingsError::Parse(..))));
        let missing = Settings::load(Some(Path::new("/nonexistent/margay.toml")), std::iter::empty(), &[]);
        assert!(missing.unwrap_err().to_string().contains("/nonexistent/margay.toml"));
    }

    #[test]
    fn sizes_are_read_as_people_write_them() {
        let cases = [("4096", 4096), ("64KiB", 65_536), ("1 GiB", 1 << 30), ("2m", 2 << 20)];
        cases.iter().for_each(|(text, bytes)| assert_eq!(parse_bytes(text), Some(*bytes), "{text}"));
        ["", "KiB", "1.5GiB", "-1", "1TiB"].iter().for_each(|text| assert_eq!(parse_bytes(text), None, "{text}"));
        assert!(Settings::default().heap_size() >= 64 << 20);
    }
}
