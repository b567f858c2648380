//! What DPDK and its ports are told.

use libos_net::wire::Mac;

/// How DPDK's environment (EAL) is started.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct EalSettings {
    /// Its arguments, after ours. With one about memory (`--no-huge`, `-m`, `--in-memory`, `--huge-dir`…) none of ours about
    /// memory are given.
    pub arguments: Vec<String>,
    /// Bytes that our reservation will take; pools and rings are added to it.
    pub memory: usize,
    /// Whether cards on the PCI bus are looked for. Software ports do not need it.
    pub pci: bool,
}

/// What port to open, and how.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct PortSettings {
    /// A device as DPDK spells it: `0000:03:00.0`, `net_memif0,role=client,…`, or the name of a port that is there.
    pub device: String,
    /// Queues in each direction, at most as many as it has.
    pub queues: usize,
    /// More than one queue only if the port spreads flows over its queues by itself: other ones bring what their other end
    /// sends by the queue of the same number.
    pub only_if_it_spreads: bool,
    /// Our address on the link. By default the port's; another takes promiscuous mode where the port cannot change its own.
    pub mac: Option<Mac>,
    /// The longest IP packet; `None`: 1500.
    pub mtu: Option<usize>,
    /// Descriptors of each receive and of each transmit queue, as far as the driver lets choose.
    pub ring_size: u16,
    /// Whether checksums are left to the port, if it can do them.
    pub offload: bool,
    /// Milliseconds that the link may be down, after it was up, before this is an error.
    pub down_after_ms: u64,
}

impl PortSettings {
    /// The usual ones for this device: one queue, rings of 512.
    pub fn new(device: &str) -> PortSettings {
        PortSettings {
            device: device.into(),
            queues: 1,
            only_if_it_spreads: false,
            mac: None,
            mtu: None,
            ring_size: 512,
            offload: true,
            down_after_ms: 1000,
        }
    }

    /// The device's name, without what it is told.
    pub fn name(&self) -> &str {
        self.device.split(',').next().unwrap_or_default()
    }

    /// What the device is told by this name.
    pub fn argument(&self, name: &str) -> Option<&str> {
        self.device
            .split(',')
            .skip(1)
            .filter_map(|pair| pair.split_once('='))
            .find(|(key, _)| *key == name)
            .map(|it| it.1)
    }

    /// Whether it is a card, and no port made of software.
    pub fn is_card(&self) -> bool {
        self.name().contains(':')
    }
}

#[cfg(has_dpdk)]
impl PortSettings {
    /// The socket over which memif's two sides greet each other: a path, or a name without a file.
    pub(crate) fn control_socket(&self) -> Option<&str> {
        const USUAL: &str = "/run/memif.sock";
        self.name().starts_with("net_memif").then(|| self.argument("socket").unwrap_or(USUAL))
    }

    /// Whether it is memif's server, by either of its names.
    pub(crate) fn is_memif_server(&self) -> bool {
        self.name().starts_with("net_memif") && matches!(self.argument("role"), Some("server" | "master"))
    }

    /// The file that memif's server makes of its socket, if it is to make one.
    pub(crate) fn socket_file(&self) -> Option<&str> {
        self.control_socket().filter(|_| self.is_memif_server() && self.argument("socket-abstract") == Some("no"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn devices_are_read_as_dpdk_spells_them() {
        let memif = PortSettings::new("net_memif0,role=client,socket=/run/x.sock,zero-copy=yes");
        assert_eq!(
            (memif.name(), memif.argument("role"), memif.argument("rsize")),
            ("net_memif0", Some("client"), None)
        );
        assert!(!memif.is_card() && PortSettings::new("0000:03:00.0").is_card());
    }

    #[cfg(has_dpdk)]
    #[test]
    fn memif_has_its_own_ideas_of_sockets() {
        let memif = PortSettings::new("net_memif0,role=client,socket=/run/x.sock,zero-copy=yes");
        assert_eq!(memif.control_socket(), Some("/run/x.sock"));
        assert_eq!(PortSettings::new("net_memif1").control_socket(), Some("/run/memif.sock"));
        let file = |device: &str| PortSettings::new(device).socket_file().map(str::to_string);
        assert_eq!(
            file("net_memif0,role=master,socket=/run/y.sock,socket-abstract=no").as_deref(),
            Some("/run/y.sock")
        );
        assert_eq!(file("net_memif0,role=server,socket=/run/y.sock"), None, "by default it has a name without a file");
        assert_eq!(file("net_memif0,role=client,socket-abstract=no"), None);
    }
}
