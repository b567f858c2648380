//! What `demi_init` is told by its environment: LIBOS, CONFIG_PATH, and the variables of our own configuration.
//!
//! Later ones win: Demikernel's file (YAML) or ours (TOML), the variables that Demikernel reads besides its file, our own
//! variables (`MARGAY_*`), LIBOS.

use std::path::Path;
use std::time::Duration;

use libos_boot::{BackendKind, Settings};
use libos_runtime::LibOs;
use pdpix::{Qd, SocketOption};

use crate::errno::Errno;
use crate::yaml::Yaml;

/// See the module's head.
pub(crate) struct Configuration {
    pub(crate) settings: Settings,
    pub(crate) stream_defaults: StreamDefaults,
    /// The interface, if it is ours alone.
    pub(crate) interface: Option<String>,
}

/// The options that every stream queue begins with, where the file says so.
#[derive(Clone, Copy, Default, PartialEq, Eq, Debug)]
pub(crate) struct StreamDefaults {
    pub(crate) keep_alive: Option<Duration>,
    pub(crate) linger: Option<Duration>,
    pub(crate) no_delay: Option<bool>,
}

impl StreamDefaults {
    /// Sets them on a new queue.
    ///
    /// # Errors
    /// Those of `LibOs::set_option`.
    #[inline]
    pub(crate) fn set(&self, libos: &LibOs, qd: Qd) -> Result<(), Errno> {
        let options = [
            self.keep_alive.map(|time| SocketOption::KeepAlive(Some(time))),
            self.linger.map(SocketOption::Linger),
            self.no_delay.map(SocketOption::NoDelay),
        ];
        options.into_iter().flatten().try_for_each(|option| libos.set_option(qd, option)).map_err(Errno::from)
    }
}

/// Which of our backends a library OS of Demikernel's is, and whether its pushes are complete when acknowledged.
fn backend(libos: &str) -> (&str, bool) {
    match libos {
        "catnap" => ("auto", false),
        "catpowder" => ("packet", true),
        "catnip" => ("dpdk", true),
        own => (own, false),
    }
}

impl Configuration {
    /// Of this process.
    ///
    /// # Errors
    /// A sentence.
    pub(crate) fn load() -> Result<Configuration, String> {
        // What is no Unicode is no variable of ours.
        let all = std::env::vars_os().filter_map(|(n, v)| Some((n.into_string().ok()?, v.into_string().ok()?)));
        Configuration::from(all.collect())
    }

    /// In an environment of these variables.
    ///
    /// # Errors
    /// A sentence.
    pub(crate) fn from(environment: Vec<(String, String)>) -> Result<Configuration, String> {
        let variable = |name: &str| environment.iter().find(|(n, _)| n == name).map(|(_, value)| value.as_str());
        let path = variable("CONFIG_PATH").filter(|path| !path.is_empty()).map(Path::new);
        let (mut flags, mut stream_defaults, mut toml) = (Vec::new(), StreamDefaults::default(), None);
        match path {
            Some(path) if path.extension().is_some_and(|extension| extension == "toml") => toml = Some(path),
            Some(path) => {
                let text =
                    std::fs::read_to_string(path).map_err(|e| format!("CONFIG_PATH: {}: {e}", path.display()))?;
                let yaml = Yaml::parse(&text).map_err(|why| format!("CONFIG_PATH: {}: {why}", path.display()))?;
                (flags, stream_defaults) = (yaml.settings(), yaml.stream_defaults()?);
            }
            None => {}
        }
        flags.extend(crate::yaml::settings_of_variables(variable));
        // An array has one segment; what lies in several would have to be copied.
        flags.push(("frames.pop_in_one_piece".into(), "true".into()));
        // Ours are read by `Settings::load`, which gives flags the last word.
        flags.retain(|(key, _)| variable(&format!("MARGAY_{}", key.to_uppercase().replace('.', "_"))).is_none());
        if let Some(libos) = variable("LIBOS") {
            let name = libos.to_lowercase();
            let (backend, acknowledged) = backend(&name);
            flags.push(("network.backend".into(), backend.into()));
            if acknowledged && variable("MARGAY_FRAMES_PUSH_COMPLETE").is_none() {
                flags.push(("frames.push_complete".into(), "acknowledged".into()));
            }
        }
        let settings = Settings::load(toml, environment.iter().cloned(), &flags).map_err(|error| error.to_string())?;
        let has_frames = settings.network.backend.has_frames();
        let is_dpdk = settings.network.backend == BackendKind::Dpdk;
        let name = if is_dpdk { &settings.dpdk.port } else { &settings.frames.interface };
        let interface = has_frames.then(|| name.clone()).filter(|name| !name.is_empty());
        Ok(Configuration { settings, stream_defaults, interface })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const FILE: &str = "
demikernel:
  local_ipv4_addr: 10.0.0.7
  local_link_addr: \"02:00:00:00:00:07\"
raw_socket:
  linux_interface_name: \"veth7\"
dpdk:
  eal_init: [\"\", \"-c\", \"0xff\"]
tcp_socket_options:
  keepalive:
    enabled: true
    time_millis: 5000
    interval: 1000
  linger:
    enabled: true
    time_seconds: 0
  nodelay: false
storage:
  device: memory
  size: 2MiB
  discard: true
inetstack_config:
  mtu: 1400
  mss: 1360
  arp_request_retries: 5
";

    fn load(file: Option<(&str, &str)>, variables: &[(&str, &str)]) -> Result<Configuration, String> {
        let mut all: Vec<(String, String)> = variables.iter().map(|(n, v)| (n.to_string(), v.to_string())).collect();
        let path = file.map(|(text, extension)| {
            let name =
                format!("demi-configuration-{}-{:?}.{extension}", std::process::id(), std::thread::current().id());
            let path = std::env::temp_dir().join(name);
            std::fs::write(&path, text).unwrap();
            all.push(("CONFIG_PATH".into(), path.to_str().unwrap().into()));
            path
        });
        let loaded = Configuration::from(all);
        path.into_iter().for_each(|path| std::fs::remove_file(path).unwrap());
        loaded
    }

    #[test]
    fn a_file_of_demikernel_is_understood() {
        let Configuration { settings, stream_defaults, interface } =
            load(Some((FILE, "yaml")), &[("LIBOS", "Catpowder")]).unwrap();
        let frames = &settings.frames;
        assert_eq!(settings.network.backend, BackendKind::Packet);
        assert_eq!((&*frames.interface, &*frames.address), ("veth7", "10.0.0.7/0"));
        assert_eq!((&*frames.mac, frames.mtu, &*frames.push_complete), ("02:00:00:00:00:07", 1400, "acknowledged"));
        let storage = &settings.storage;
        let device = storage.device.as_deref().and_then(|device| device.to_str());
        assert_eq!((device, storage.size(), storage.discard), (Some("memory"), 2 << 20, true));
        let expected = StreamDefaults { keep_alive: Some(Duration::from_secs(5)), linger: None, no_delay: Some(false) };
        assert_eq!((stream_defaults, interface.as_deref()), (expected, Some("veth7")));
    }

    #[test]
    fn catnip_is_dpdk() {
        let file = FILE.replace("\"0xff\"", "\"0xff\", \"--vdev=net_ring7\"");
        let Configuration { settings, interface, .. } = load(Some((&file, "yaml")), &[("LIBOS", "catnip")]).unwrap();
        assert_eq!((settings.network.backend, &*settings.dpdk.port), (BackendKind::Dpdk, "net_ring7"));
        assert_eq!((&*settings.frames.push_complete, interface.as_deref()), ("acknowledged", Some("net_ring7")));
    }

    #[test]
    fn later_sources_win() {
        let variables = [
            ("LIBOS", "packet"),
            ("LOCAL_IPV4_ADDR", "10.0.0.8"),
            ("MARGAY_FRAMES_MTU", "1280"),
            ("MARGAY_NETWORK_BACKEND", "epoll"),
        ];
        let settings = load(Some((FILE, "yaml")), &variables).unwrap().settings;
        assert_eq!((&*settings.frames.address, settings.frames.mtu), ("10.0.0.8/0", 1280));
        assert_eq!((settings.network.backend, &*settings.frames.push_complete), (BackendKind::Packet, "accepted"));
    }

    #[test]
    fn our_own_file_is_one_by_its_name() {
        let toml = "[network]\nbackend = \"io_uring\"\n[memory]\nsize = \"8MiB\"\n";
        let settings = load(Some((toml, "toml")), &[]).unwrap().settings;
        assert_eq!((settings.network.backend, settings.heap_size()), (BackendKind::IoUring, 8 << 20));
        let settings = load(Some((toml, "toml")), &[("LIBOS", "catnap")]).unwrap().settings;
        assert_eq!(settings.network.backend, BackendKind::Auto);
    }

    #[test]
    fn what_makes_no_sense_is_said() {
        let why = |file: Option<(&str, &str)>, variables: &[(&str, &str)]| load(file, variables).err().unwrap();
        assert!(why(None, &[("LIBOS", "catfish")]).contains("catfish"));
        assert!(why(None, &[("CONFIG_PATH", "/nonexistent/config.yaml")]).contains("/nonexistent/config.yaml"));
        assert!(why(Some(("a: [", "yaml")), &[]).contains("CONFIG_PATH"));
        assert!(why(None, &[("MARGAY_MEMORY_SISE", "1")]).contains("memory.size"));
        assert!(why(Some(("storage:\n  dyr: /tmp", "yaml")), &[]).contains("storage.dyr"));
        let keep_alive = "tcp_socket_options:\n  keepalive:\n    enabled: true\n    time_millis: soon\n";
        assert!(why(Some((keep_alive, "yaml")), &[]).contains("time_millis"));
    }
}
