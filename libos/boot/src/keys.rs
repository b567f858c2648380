//! The keys of the configuration, and which one was meant.

use toml::{Table, Value};

use crate::settings::SettingsError;

/// Every key. A test compares them with what [`Settings`](crate::Settings) reads.
const KEYS: [&str; 42] = [
    "cores.count",
    "cores.pin",
    "memory.size",
    "memory.source",
    "network.backend",
    "network.buffers",
    "network.buffer_size",
    "network.zero_copy_min",
    "frames.interface",
    "frames.address",
    "frames.gateway",
    "frames.mac",
    "frames.mtu",
    "frames.offload",
    "frames.congestion",
    "frames.push_complete",
    "frames.pop_in_one_piece",
    "frames.busy_poll_us",
    "frames.pcap",
    "storage.dir",
    "storage.device",
    "storage.size",
    "storage.engine",
    "storage.direct",
    "storage.flush",
    "storage.discard",
    "storage.prepare",
    "storage.commit_delay_us",
    "storage.read_only",
    "dpdk.port",
    "dpdk.eal",
    "dpdk.queues",
    "dpdk.down_after_ms",
    "spdk.library",
    "spdk.config",
    "spdk.timeout_ms",
    "idle.policy",
    "idle.spin_us",
    "idle.gather_us",
    "trace.dir",
    "trace.entries",
    "seed",
];

/// Variables that begin as ours do, and belong to tests and tools.
const FOREIGN_VARIABLES: [&str; 3] = ["MARGAY_SEEDS", "MARGAY_LONG", "MARGAY_CONFORMANCE_CLIENT_OF"];

/// The known key that `key` is.
pub(crate) fn check(place: &str, key: &str) -> Result<&'static str, SettingsError> {
    KEYS.into_iter().find(|known| *known == key).ok_or_else(|| unknown(place, key))
}

/// The key that an environment variable stands for; `None` if it is not ours.
pub(crate) fn of_variable(name: &str) -> Result<Option<&'static str>, SettingsError> {
    let known = KEYS.into_iter().find(|key| name["MARGAY_".len()..] == key.to_uppercase().replace('.', "_"));
    if known.is_none() && !FOREIGN_VARIABLES.contains(&name) && !name.starts_with("MARGAY_TEST_") {
        let key = name["MARGAY_".len()..].to_lowercase().replacen('_', ".", 1);
        return Err(unknown(&format!("the environment variable {name}"), &key));
    }
    Ok(known)
}

/// Refuses the first unknown key of a file.
pub(crate) fn check_table(place: &str, table: &Table) -> Result<(), SettingsError> {
    for (key, value) in table {
        match value {
            Value::Table(section) => {
                if section.is_empty() && !KEYS.iter().any(|known| known.split('.').next() == Some(key)) {
                    return Err(unknown(place, key));
                }
                for inner in section.keys() {
                    check(place, &format!("{key}.{inner}"))?;
                }
            }
            _ => _ = check(place, key)?,
        }
    }
    Ok(())
}

fn unknown(place: &str, key: &str) -> SettingsError {
    let likeness = |known: &&str| strsim::jaro_winkler(known, key);
    let sections = KEYS.into_iter().filter_map(|known| known.split_once('.')).map(|(section, _)| section);
    let candidates = KEYS.into_iter().chain(sections.filter(|_| !key.contains('.')));
    let nearest = candidates.max_by(|a, b| likeness(a).total_cmp(&likeness(b))).filter(|k| likeness(k) > 0.75);
    SettingsError::UnknownKey { place: place.into(), key: key.into(), nearest }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Settings;

    #[test]
    fn every_key_is_read_and_has_a_variable() {
        for key in KEYS {
            let value = match key {
                "cores.pin" => "false",
                "cores.count" | "seed" | "trace.entries" | "idle.spin_us" | "idle.gather_us" => "7",
                "network.buffers" => "64",
                "dpdk.queues" | "dpdk.down_after_ms" | "spdk.timeout_ms" => "2",
                "network.backend" => "epoll",
                "idle.policy" => "spin",
                "memory.source" => "memfd",
                "trace.dir" | "storage.dir" | "storage.device" => "traces",
                "storage.size" => "64MiB",
                "storage.engine" => "thread",
                "storage.flush" => "dsync",
                "storage.direct" => "false",
                "storage.discard" | "storage.prepare" | "storage.read_only" => "true",
                "storage.commit_delay_us" => "50",
                "frames.offload" | "frames.pop_in_one_piece" => "true",
                "frames.mtu" | "frames.busy_poll_us" => "1400",
                "frames.address" => "10.0.0.2/24",
                "frames.gateway" => "10.0.0.1",
                "frames.mac" => "02:00:00:00:00:01",
                "frames.congestion" => "new_reno",
                "frames.push_complete" => "acknowledged",
                _ => "64KiB",
            };
            let value = if key == "memory.size" { "8MiB" } else { value };
            let flags = [(key.to_string(), value.to_string())];
            let settings = Settings::load(None, std::iter::empty(), &flags).unwrap_or_else(|e| panic!("{key}: {e}"));
            let changed = format!("{settings:?}") != format!("{:?}", Settings::default());
            assert!(changed, "setting {key} to {value} changes nothing");
            let variable = format!("MARGAY_{}", key.to_uppercase().replace('.', "_"));
            // `MARGAY_SEED` is also what replays a simulation; both mean the same.
            assert_eq!(of_variable(&variable).unwrap(), Some(key));
        }
        assert_eq!(of_variable("MARGAY_LONG").unwrap(), None);
    }
}
