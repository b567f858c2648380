//! What is to be opened, as people write it.
//!
//! ```text
//! 0000:03:00.0                                   an NVMe controller on the PCI bus, its first namespace
//! 0000:03:00.0,ns=2                              another namespace
//! tcp://10.0.0.5:4420/nqn.2016-06.io.spdk:cnode1 one over TCP; an IPv6 address in brackets
//! bdev:Malloc0                                   a device of SPDK's block layer, from its configuration
//! ```

use crate::OpenError;

/// Where a device is.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Place {
    /// An NVMe controller on the PCI bus.
    Pci {
        /// Its address, such as `0000:03:00.0`.
        address: String,
    },
    /// An NVMe controller over TCP.
    Tcp {
        /// An IP address.
        host: String,
        /// A port; 4420 is usual.
        port: u16,
        /// The subsystem's name.
        nqn: String,
    },
    /// A device of SPDK's block layer.
    Bdev {
        /// Its name.
        name: String,
    },
}

/// A device.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Target {
    /// Where it is.
    pub place: Place,
    /// Which namespace of a controller; `None`: its first.
    pub namespace: Option<u32>,
}

impl Target {
    /// Reads one. `core` is put for `{core}`, so that each core may have a device of its own.
    ///
    /// # Errors
    /// [`OpenError::BadName`], with what would do.
    pub fn parse(text: &str, core: usize) -> Result<Target, OpenError> {
        let text = text.replace("{core}", &core.to_string()).replace("{core+1}", &(core + 1).to_string());
        let (place, namespace) = match text.rsplit_once(",ns=") {
            None => (text.as_str(), None),
            Some((place, number)) => {
                let number = number.parse().ok().filter(|&number| number > 0);
                (place, Some(number.ok_or_else(|| bad(&text, "namespaces are numbered from 1"))?))
            }
        };
        let place = if let Some(name) = place.strip_prefix("bdev:") {
            if namespace.is_some() || name.is_empty() {
                return Err(bad(&text, "a device of the block layer has a name, and no namespaces"));
            }
            Place::Bdev { name: name.into() }
        } else if let Some(rest) = place.strip_prefix("tcp://") {
            tcp(rest).ok_or_else(|| bad(&text, "it is written tcp://10.0.0.5:4420/nqn.2016-06.io.spdk:cnode1"))?
        } else if is_pci(place) {
            Place::Pci { address: place.to_ascii_lowercase() }
        } else {
            return Err(bad(&text, "it is 0000:03:00.0, tcp://HOST:PORT/NQN or bdev:NAME"));
        };
        Ok(Target { place, namespace })
    }

    /// Whether it is on the PCI bus, so that the environment must look there.
    pub fn is_pci(&self) -> bool {
        matches!(self.place, Place::Pci { .. })
    }

    /// The PCI address, if it has one.
    pub fn pci_address(&self) -> Option<&str> {
        match &self.place {
            Place::Pci { address } => Some(address),
            _ => None,
        }
    }

    /// As SPDK spells it (`spdk_nvme_transport_id_parse`); nothing for what is no controller.
    pub(crate) fn transport_id(&self) -> Option<String> {
        match &self.place {
            Place::Pci { address } => Some(format!("trtype:PCIe traddr:{address}")),
            Place::Tcp { host, port, nqn } => {
                let family = if host.contains(':') { "IPv6" } else { "IPv4" };
                Some(format!("trtype:TCP adrfam:{family} traddr:{host} trsvcid:{port} subnqn:{nqn}"))
            }
            Place::Bdev { .. } => None,
        }
    }
}

impl std::fmt::Display for Target {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match &self.place {
            Place::Pci { address } => write!(f, "{address}")?,
            Place::Tcp { host, port, nqn } if host.contains(':') => write!(f, "tcp://[{host}]:{port}/{nqn}")?,
            Place::Tcp { host, port, nqn } => write!(f, "tcp://{host}:{port}/{nqn}")?,
            Place::Bdev { name } => write!(f, "bdev:{name}")?,
        }
        self.namespace.map_or(Ok(()), |namespace| write!(f, ",ns={namespace}"))
    }
}

fn bad(text: &str, why: &str) -> OpenError {
    OpenError::BadName(format!("`spdk:{text}` is no device: {why}"))
}

fn tcp(rest: &str) -> Option<Place> {
    let (at, nqn) = rest.split_once('/')?;
    let (host, port) = at.rsplit_once(':')?;
    let host = host.strip_prefix('[').and_then(|host| host.strip_suffix(']')).unwrap_or(host);
    // Names would be looked up by SPDK each time that it connects, on the core.
    host.parse::<std::net::IpAddr>().ok()?;
    // NVMe base specification §4.7: at most 223 bytes. Spaces separate words for SPDK.
    let is_name = (1..=223).contains(&nqn.len()) && !nqn.contains(char::is_whitespace);
    is_name.then_some(Place::Tcp { host: host.into(), port: port.parse().ok()?, nqn: nqn.into() })
}

/// Domain, bus, device and function: `0000:03:00.0`.
fn is_pci(text: &str) -> bool {
    let Some((rest, function)) = text.split_once('.') else { return false };
    let parts: Vec<&str> = rest.split(':').collect();
    let is_hex = |part: &str, len: usize| part.len() == len && part.bytes().all(|byte| byte.is_ascii_hexdigit());
    matches!(parts[..], [domain, bus, device] if is_hex(domain, 4) && is_hex(bus, 2) && is_hex(device, 2))
        && is_hex(function, 1)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &str) -> Result<Target, String> {
        Target::parse(text, 3).map_err(|error| error.to_string())
    }

    #[test]
    fn devices_are_read_as_people_write_them() {
        let pci = parse("0000:0A:00.0,ns=2").unwrap();
        assert_eq!((pci.place, pci.namespace), (Place::Pci { address: "0000:0a:00.0".into() }, Some(2)));
        let tcp = parse("tcp://[fe80::1]:4420/nqn.2016-06.io.spdk:cnode1").unwrap();
        let place = Place::Tcp { host: "fe80::1".into(), port: 4420, nqn: "nqn.2016-06.io.spdk:cnode1".into() };
        assert_eq!((tcp.place.clone(), tcp.namespace), (place, None));
        assert_eq!(tcp.to_string(), "tcp://[fe80::1]:4420/nqn.2016-06.io.spdk:cnode1");
        assert!(tcp.transport_id().unwrap().contains("adrfam:IPv6 traddr:fe80::1 trsvcid:4420"));
        assert_eq!(parse("bdev:Log{core}").unwrap().place, Place::Bdev { name: "Log3".into() });
        assert_eq!(parse("0000:01:00.0,ns={core+1}").unwrap().namespace, Some(4));
    }

    #[test]
    fn what_is_no_device_is_refused_with_what_would_do() {
        for text in [
            "",
            "nvme0",
            "03:00.0",
            "0000:03:00",
            "0000:03:00.0,ns=0",
            "0000:03:00.0,ns=x",
            "tcp://host:4420/nqn",
            "tcp://10.0.0.5/nqn",
            "tcp://10.0.0.5:4420/",
            "tcp://10.0.0.5:99999/nqn",
            "tcp://10.0.0.5:1/a b",
            "bdev:",
            "bdev:X,ns=1",
        ] {
            let error = parse(text).unwrap_err();
            assert!(error.starts_with(&format!("`spdk:{text}` is no device: ")), "{error}");
        }
    }
}
