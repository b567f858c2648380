//! Demikernel's configuration file. Keys that say what our stack finds out or decides by itself are passed over, as
//! Demikernel passes over what it does not know; docs/demikernel.md has the list.

use std::time::Duration;

use yaml_rust2::YamlLoader;

use crate::configuration::StreamDefaults;

/// A file, read.
pub(crate) struct Yaml(yaml_rust2::Yaml);

/// Key of ours, section and key of Demikernel's. The last one in capitals is also a variable.
const KEYS: [(&str, &str, &str); 4] = [
    ("frames.address", "demikernel", "local_ipv4_addr"),
    ("frames.mac", "demikernel", "local_link_addr"),
    ("frames.interface", "raw_socket", "linux_interface_name"),
    ("frames.mtu", "inetstack_config", "mtu"),
];

/// In Demikernel's configuration an address has no prefix, and everybody is asked for on the link.
fn value_of_ours(key: &str, value: &str) -> String {
    if key == "frames.address" && !value.contains('/') { format!("{value}/0") } else { value.into() }
}

/// The variables that Demikernel reads besides its file.
pub(crate) fn settings_of_variables<'a>(variable: impl Fn(&str) -> Option<&'a str>) -> Vec<(String, String)> {
    let found = KEYS.iter().filter_map(|(ours, _, theirs)| Some((ours, variable(&theirs.to_uppercase())?)));
    found.map(|(ours, value)| (ours.to_string(), value_of_ours(ours, value))).collect()
}

/// Arguments for DPDK's environment, but for the program's name, as settings of ours. The first device is the port, which
/// is opened once the environment is there; on which processors threads run is the program's affair.
fn of_eal(arguments: &[&str]) -> Vec<(String, String)> {
    let (mut port, mut rest) = (None, Vec::new());
    let mut arguments = arguments.iter().copied();
    while let Some(argument) = arguments.next() {
        let (name, value) = argument.split_once('=').map_or((argument, None), |(name, value)| (name, Some(value)));
        match name {
            "-a" | "-w" | "--allow" | "--vdev" if port.is_none() => port = value.or_else(|| arguments.next()),
            "-c" | "-l" | "--lcores" => _ = value.or_else(|| arguments.next()),
            _ => rest.push(argument),
        }
    }
    let port = port.map(|port| {
        // A card may be named without its domain.
        let is_short = port.split(',').next().is_some_and(|name| name.matches(':').count() == 1);
        ("dpdk.port".to_string(), if is_short { format!("0000:{port}") } else { port.into() })
    });
    let eal = (!rest.is_empty()).then(|| ("dpdk.eal".to_string(), rest.join(" ")));
    port.into_iter().chain(eal).collect()
}

fn scalar(value: &yaml_rust2::Yaml) -> Option<String> {
    match value {
        yaml_rust2::Yaml::String(text) => Some(text.clone()),
        yaml_rust2::Yaml::Integer(number) => Some(number.to_string()),
        yaml_rust2::Yaml::Boolean(is_so) => Some(is_so.to_string()),
        _ => None,
    }
}

impl Yaml {
    /// # Errors
    /// A sentence.
    pub(crate) fn parse(text: &str) -> Result<Yaml, String> {
        let mut all = YamlLoader::load_from_str(text).map_err(|error| error.to_string())?;
        match all.len() {
            1 => Ok(Yaml(all.remove(0))),
            count => Err(format!("it has {count} documents, and should have one")),
        }
    }

    /// As keys and values of ours.
    pub(crate) fn settings(&self) -> Vec<(String, String)> {
        let found =
            KEYS.iter().filter_map(|(ours, section, theirs)| Some((*ours, scalar(&self.0[*section][*theirs])?)));
        let mut settings: Vec<(String, String)> =
            found.map(|(ours, value)| (ours.to_string(), value_of_ours(ours, &value))).collect();
        // Demikernel's file has no such section: its keys are ours.
        let storage = self.0["storage"].as_hash().into_iter().flatten();
        settings
            .extend(storage.filter_map(|(key, value)| Some((format!("storage.{}", key.as_str()?), scalar(value)?))));
        if let Some(arguments) = self.0["dpdk"]["eal_init"].as_vec() {
            let arguments: Vec<&str> = arguments.iter().filter_map(|argument| argument.as_str()).collect();
            settings.extend(of_eal(arguments.get(1..).unwrap_or_default()));
        }
        settings
    }

    /// What new stream queues begin with. A lingering of no time is Demikernel's usual setting, with which its `demi_close`
    /// resets nothing; so it is none here.
    ///
    /// # Errors
    /// A sentence: a number is none.
    pub(crate) fn stream_defaults(&self) -> Result<StreamDefaults, String> {
        let options = &self.0["tcp_socket_options"];
        let number = |section: &str, key: &str| {
            let section = &options[section];
            if section["enabled"].as_bool() != Some(true) {
                return Ok(None);
            }
            let number = section[key].as_i64().and_then(|number| u64::try_from(number).ok());
            number.map(Some).ok_or(format!("tcp_socket_options: {key} is not a number"))
        };
        let is_some_time = |time: &Duration| !time.is_zero();
        Ok(StreamDefaults {
            keep_alive: number("keepalive", "time_millis")?.map(Duration::from_millis).filter(is_some_time),
            linger: number("linger", "time_seconds")?.map(Duration::from_secs).filter(is_some_time),
            no_delay: options["nodelay"].as_bool(),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn arguments_for_dpdk_are_a_port_and_the_rest() {
        type Pairs<'a> = &'a [(&'a str, &'a str)];
        let cases: [(&[&str], Pairs); 4] = [
            (
                &["-c", "0xff", "-n", "4", "-a", "3b:00.1", "--proc-type=auto"],
                &[("dpdk.port", "0000:3b:00.1"), ("dpdk.eal", "-n 4 --proc-type=auto")],
            ),
            (
                &["--no-huge", "-m", "64", "--vdev=net_memif0,role=client,socket=/run/x.sock"],
                &[("dpdk.port", "net_memif0,role=client,socket=/run/x.sock"), ("dpdk.eal", "--no-huge -m 64")],
            ),
            (
                &["--vdev", "net_ring0", "--vdev", "net_ring1"],
                &[("dpdk.port", "net_ring0"), ("dpdk.eal", "--vdev net_ring1")],
            ),
            (&[], &[]),
        ];
        for (arguments, expected) in cases {
            let settings = of_eal(arguments);
            let settings: Vec<(&str, &str)> = settings.iter().map(|(key, value)| (&**key, &**value)).collect();
            assert_eq!(settings, expected, "{arguments:?}");
        }
    }
}
