//! Network namespaces, one a node and one that joins them: made, cut, and removed.
//!
//! All names begin with `margay-` and the number of the process that made them: so a later run knows which of them nobody
//! needs any more.

use std::path::Path;
use std::sync::atomic::{AtomicU32, Ordering};

use anyhow::{Context, Result};
use pdpix::Endpoint;
use rustix::process::{Pid, Signal, kill_process};

use super::SERVER;
use super::process::{output_of, tool};
use super::wire::{KernelWire, Port, Rules, SeededWire, Wire, last_byte_of_address};
use crate::worlds::Stage;

const PREFIX: &str = "margay-";

/// Programs that it takes.
const PROGRAMS: [&str; 2] = ["ip", "setpriv"];

/// The first of them that is not in the path.
pub fn missing_program(stage: Stage) -> Option<&'static str> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let of_stage = if stage == Stage::Wire { &["ethtool"][..] } else { &["tc"] };
    PROGRAMS
        .iter()
        .chain(of_stage)
        .copied()
        .find(|program| !std::env::split_paths(&path).any(|folder| folder.join(program).exists()))
}

/// A namespace, as long as this lives.
struct Namespace {
    name: String,
}

impl Namespace {
    fn new(name: String) -> Result<Namespace> {
        tool("ip", &["netns", "add", &name])?;
        Ok(Namespace { name })
    }
}

impl Drop for Namespace {
    fn drop(&mut self) {
        remove(&self.name);
    }
}

/// Removes a namespace, and ends whatever still runs in it.
fn remove(name: &str) {
    for pid in output_of("ip", &["netns", "pids", name]).unwrap_or_default().split_whitespace() {
        if let Some(pid) = pid.parse().ok().and_then(Pid::from_raw) {
            let _ = kill_process(pid, Signal::KILL);
        }
    }
    // If it is gone already, so much the better.
    let _ = tool("ip", &["netns", "del", name]);
}

/// Removes the namespaces whose makers are such, and ends what runs in them.
fn remove_of(is_meant: impl Fn(u32) -> bool) {
    let names = output_of("ip", &["netns", "list"]).unwrap_or_default();
    for name in names.lines().filter_map(|line| line.split_whitespace().next()) {
        let maker = name.strip_prefix(PREFIX).and_then(|rest| rest.split('-').next()?.parse().ok());
        if maker.is_some_and(&is_meant) {
            remove(name);
        }
    }
}

/// Removes all that this process has made: for one that is to end at once.
pub fn remove_own() {
    remove_of(|maker| maker == std::process::id());
}

/// Removes what processes have left that are no more.
fn sweep() {
    remove_of(|maker| !Path::new(&format!("/proc/{maker}")).exists());
}

/// Nodes that reach each other, each in a namespace of its own.
pub struct Network {
    wire: Box<dyn Wire>,
    ports: Vec<Port>,
    /// Links that are cut: from, to.
    cut: Vec<(usize, usize)>,
    loss_percent: u64,
    nodes: Vec<Namespace>,
    hub: Namespace,
}

impl Network {
    /// So many nodes, over the wire of this stage.
    ///
    /// # Errors
    /// If this machine cannot make it. What was made is removed.
    pub fn new(nodes: usize, stage: Stage, seed: u64) -> Result<Network> {
        static MADE: AtomicU32 = AtomicU32::new(0);
        sweep();
        let name = format!("{PREFIX}{}-{}", std::process::id(), MADE.fetch_add(1, Ordering::Relaxed));
        let hub = Namespace::new(format!("{name}-hub"))?;
        let wire: Box<dyn Wire> = match stage {
            Stage::Wire => Box::new(SeededWire::new(&hub.name, seed)?),
            _ => Box::new(KernelWire::new(&hub.name)?),
        };
        let (ports, cut) = (Vec::new(), Vec::new());
        let mut network = Network { wire, ports, cut, loss_percent: 0, nodes: Vec::new(), hub };
        (0..nodes).try_for_each(|node| network.add_node(&name, node, stage))?;
        Ok(network)
    }

    fn add_node(&mut self, name: &str, node: usize, stage: Stage) -> Result<()> {
        let (hub, device) = (&self.hub.name, format!("port{node}"));
        let namespace = Namespace::new(format!("{name}-{node}"))?;
        let (of, last) = (&namespace.name, last_byte_of_address(node));
        tool("ip", &["-n", hub, "link", "add", &device, "type", "veth", "peer", "name", "eth0", "netns", of])?;
        tool("ip", &["-n", of, "link", "set", "eth0", "address", &format!("02:00:00:00:00:{last:02x}"), "up"])?;
        if stage == Stage::Wire {
            // A wire in user space sees whole frames, and fills in nothing.
            tool("ip", &["netns", "exec", of, "ethtool", "-K", "eth0", "tx", "off"])?;
            tool("ip", &["-n", hub, "link", "set", &device, "up"])?;
        }
        // Where the server has its own TCP the kernel has no address.
        if stage != Stage::Wire || node != SERVER {
            tool("ip", &["-n", of, "addr", "add", &format!("{}/24", address(node).ip()), "dev", "eth0"])?;
        }
        tool("ip", &["-n", of, "link", "set", "lo", "up"])?;
        let port = Port { node, device };
        self.wire.join(&port).with_context(|| format!("joining {}", port.device))?;
        self.wire.set(&port, &Rules::default()).with_context(|| format!("the filter at {}", port.device))?;
        self.ports.push(port);
        self.nodes.push(namespace);
        Ok(())
    }

    /// The name of a node's namespace.
    pub fn namespace(&self, node: usize) -> &str {
        &self.nodes[node].name
    }

    /// Cuts these links, from a node to a node, and no others.
    ///
    /// # Errors
    /// If the wire cannot.
    pub fn cut(&mut self, links: &[(usize, usize)]) -> Result<()> {
        self.cut = links.to_vec();
        self.tell_wire()
    }

    /// Loses so many of a hundred frames, to every node.
    ///
    /// # Errors
    /// If the wire cannot.
    pub fn lose(&mut self, percent: u64) -> Result<()> {
        self.loss_percent = percent;
        self.tell_wire()
    }

    fn tell_wire(&mut self) -> Result<()> {
        for port in &self.ports {
            let blocked = self.cut.iter().filter(|(_, to)| *to == port.node).map(|&(from, _)| from).collect();
            self.wire.set(port, &Rules { blocked, loss_percent: self.loss_percent })?;
        }
        Ok(())
    }
}

/// Where a node is; the port is that of the service.
pub fn address(node: usize) -> Endpoint {
    Endpoint::new([10, 77, 0, last_byte_of_address(node)].into(), 6379)
}

#[cfg(test)]
mod tests {
    use std::fs::File;
    use std::net::{SocketAddr, UdpSocket};
    use std::os::fd::AsFd;
    use std::thread;
    use std::time::Duration;

    use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};

    use super::*;
    use crate::worlds::namespaces::is_missing;

    /// Fewer than a socket has room for.
    const SENT: usize = 200;

    /// A socket in a node's namespace, made by a thread that goes there.
    fn socket_in(network: &Network, node: usize) -> UdpSocket {
        let path = format!("/run/netns/{}", network.namespace(node));
        let made = thread::spawn(move || {
            let namespace = File::open(path).expect("a namespace has a file");
            move_into_link_name_space(namespace.as_fd(), Some(LinkNameSpaceType::Network)).expect("going there");
            UdpSocket::bind(SocketAddr::from(([0, 0, 0, 0], address(0).port()))).expect("a socket")
        });
        let socket = made.join().expect("a socket");
        socket.set_read_timeout(Some(Duration::from_millis(100))).expect("a time limit");
        socket
    }

    /// How many of the datagrams sent from one socket to another arrive: the first is that of the second node.
    fn arriving(sockets: &[UdpSocket], from: usize, to: usize) -> usize {
        let at = SocketAddr::new(address(to + 1).ip(), address(to + 1).port());
        for _ in 0..SENT {
            sockets[from].send_to(b"x", at).expect("it is sent");
            thread::sleep(Duration::from_micros(50));
        }
        (0..SENT).take_while(|_| sockets[to].recv(&mut [0; 8]).is_ok()).count()
    }

    #[test]
    fn links_are_cut_one_way_and_frames_are_lost_and_all_is_healed() {
        cuts_and_losses(Stage::Namespaces);
    }

    #[test]
    fn our_wire_cuts_and_loses_as_the_kernels_does() {
        cuts_and_losses(Stage::Wire);
    }

    fn cuts_and_losses(stage: Stage) {
        if let Some(reason) = is_missing(stage) {
            return println!("SKIP cluster_namespaces: {reason}");
        }
        // The server's node has no address of the kernel's in every stage.
        let mut network = Network::new(4, stage, 1).expect("a network");
        let sockets: Vec<UdpSocket> = (1..4).map(|node| socket_in(&network, node)).collect();
        let arriving = |from: usize, to: usize| arriving(&sockets, from, to);
        assert_eq!(arriving(0, 1), SENT);
        assert_eq!(arriving(1, 0), SENT);

        network.cut(&[(1, 2)]).expect("a cut");
        assert_eq!(arriving(0, 1), 0, "from the first to the second nothing passes");
        assert_eq!(arriving(1, 0), SENT, "back it does");
        assert_eq!(arriving(2, 1), SENT, "and from others");

        network.cut(&[]).expect("no cut");
        network.lose(50).expect("losses");
        let arrived = arriving(0, 1);
        assert!((SENT / 4..SENT * 3 / 4).contains(&arrived), "{arrived} of {SENT}");

        network.lose(0).expect("no losses");
        assert_eq!(arriving(0, 1), SENT);
        let names: Vec<String> = (0..4).map(|node| network.namespace(node).to_string()).collect();
        drop((sockets, network));
        let left = output_of("ip", &["netns", "list"]).expect("a list");
        assert!(names.iter().all(|name| !left.contains(name)), "{left}");
    }
}
