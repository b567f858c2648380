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
        let text = |section: &str, key: &str| match &self.0[section][key] {
            yaml_rust2::Yaml::String(text) => Some(text.clone()),
            yaml_rust2::Yaml::Integer(number) => Some(number.to_string()),
            _ => None,
        };
        let found = KEYS.iter().filter_map(|(ours, section, theirs)| Some((*ours, text(section, theirs)?)));
        found.map(|(ours, value)| (ours.to_string(), value_of_ours(ours, &value))).collect()
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
