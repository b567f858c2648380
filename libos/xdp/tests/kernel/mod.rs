//! Our TCP, UDP and IP on a device, the Linux kernel's at the other end, and between them, if a test wants it, a wire of
//! ours that does what a seed says.
//!
//! The test's own thread is our host: it steps the stack with the real clock while it waits for something. The kernel's
//! sockets are used by threads that have entered its namespace.

#![allow(dead_code, unused_imports, reason = "each test program uses a part of it")]

mod exchange;
mod host;
mod pattern;
mod router;
mod wire;

use std::net::{IpAddr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::process::{Command, Stdio};
use std::time::Duration;

use libos_mem::Heap;
use libos_net::{Cidr, Device, LineSettings, NetSettings};
use libos_xdp::{PacketSettings, PacketSocket, Tap, TapSettings, Xsk, XskSettings};

pub use crate::link::*;
pub use exchange::{Agreed, Exchange, Meeting, Role, carry, exchange_kernel, exchange_kernel_when};
pub use host::Host;
pub use pattern::Pattern;
use router::{BEYOND, ROUTERS, Router};
pub use wire::Wire;

/// Whether the long forms are wanted (`cargo xtask soak kernel`).
pub fn is_long() -> bool {
    std::env::var_os("MARGAY_TEST_KERNEL").is_some_and(|word| word == "long")
}

/// Does a piece of work for each case, some at once, each on a thread of its own that may enter namespaces.
pub fn each<T: Send>(cases: Vec<T>, at_once: usize, work: impl Fn(T) + Sync) {
    let queue = std::sync::Mutex::new(cases.into_iter());
    std::thread::scope(|scope| {
        for _ in 0..at_once {
            scope.spawn(|| {
                loop {
                    let Some(case) = queue.lock().unwrap().next() else { break };
                    work(case);
                }
            });
        }
    });
}

/// What our host sends and receives frames with.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Kind {
    Packet { offload: bool },
    Tap { offload: bool },
    Xsk,
}

/// What a test starts from.
pub struct Setup {
    pub kind: Kind,
    /// From us to the kernel, and back. `None`: there is no wire of ours in between. Else `kind` is `Packet`.
    pub wire: Option<[LineSettings; 2]>,
    /// There is a router in between, and packets longer than this do not pass it: it says so. There is no wire then, and
    /// `kind` is `Packet`.
    pub router: Option<usize>,
    /// Of the link's two ends, if not the usual. `kind` is `Packet` then.
    pub mtu: Option<usize>,
    pub seed: u64,
    /// In the kernel's namespace, below `net/`.
    pub sysctls: Vec<(&'static str, &'static str)>,
    pub net: NetSettings,
}

impl Default for Setup {
    fn default() -> Setup {
        Setup {
            kind: Kind::Packet { offload: false },
            wire: None,
            router: None,
            mtu: None,
            seed: 1,
            sysctls: Vec::new(),
            net: NetSettings::default(),
        }
    }
}

/// A link with us at one end and the kernel at the other. Gone when dropped, after the host.
pub struct Lab {
    pub wire: Option<Wire>,
    router: Option<Router>,
    pub link: Link,
}

impl Lab {
    /// `None`, and said: this cannot be had here.
    pub fn open(test: &str, setup: Setup) -> Option<(Lab, Host)> {
        let test = format!("kernel_{test}");
        let heap = Heap::alone(128 << 20).unwrap();
        let mut router = None;
        let (link, wire) = match (&setup.wire, setup.kind) {
            (None, _) if setup.router.is_some() => {
                let (link, between) = Router::between(&test, setup.router?)?;
                router = Some(between);
                (link, None)
            }
            (Some(lines), Kind::Packet { offload }) => {
                let (link, wire) = Wire::between(&test, lines.clone(), setup.seed)?;
                if offload && !cut_before_the_wire(&link.near) {
                    return skip(
                        &test,
                        "there is no ethtool in the path, and the wire would carry long segments whole",
                    );
                }
                (link, Some(wire))
            }
            (Some(_), kind) => panic!("a wire at {kind:?}"),
            (None, Kind::Tap { .. }) => (Link::one(&test)?, None),
            (None, _) => (Link::veth(&test)?, None),
        };
        // Duplicate address detection takes a second.
        sysctl(&link.far, "ipv6/conf/default/accept_dad", "0");
        if setup.kind == Kind::Xsk && !fill_checksums(&link.far) {
            return skip(
                &test,
                "there is no ethtool in the path, and the kernel leaves checksums to its end of the link",
            );
        }
        for (key, value) in &setup.sysctls {
            sysctl(&link.far, key, value);
        }
        if let Some(mtu) = setup.mtu {
            ip(&format!("-n {} link set near0 mtu {mtu}", link.near));
            ip(&format!("-n {} link set far0 mtu {mtu}", link.far));
        }
        let device = open_device(&test, setup.kind, &link, &heap)?;
        let mut net = setup.net;
        let own = [Cidr::new(OURS.into(), 24), Cidr::new(OURS_V6.into(), 64)];
        net.ip.addresses.extend(own.into_iter().flatten());
        net.seed = setup.seed;
        net.secret = (u128::from(setup.seed) << 64 | u128::from(setup.seed)).to_le_bytes();
        if router.is_some() {
            net.ip.gateways.extend(ROUTERS);
        }
        let lab = Lab { wire, router, link };
        if setup.mtu.is_none_or(|mtu| mtu >= 1280) {
            lab.wait_for_address();
        }
        Some((lab, Host::new(&test, device, heap, net)))
    }

    /// The kernel makes an address of IPv6 usable some time after it was given.
    fn wait_for_address(&self) {
        let (at, end) = (self.kernels(true), now() + Duration::from_secs(10));
        self.kernel(|| {
            while let Err(error) = UdpSocket::bind((at, 0)) {
                assert!(now() < end, "{at}: {error}");
                std::thread::sleep(Duration::from_millis(5));
            }
        });
    }

    /// The kernel's address of this family.
    pub fn kernels(&self, is_v6: bool) -> IpAddr {
        let addresses = if self.router.is_some() { BEYOND } else { [KERNELS.into(), KERNELS_V6.into()] };
        addresses[usize::from(is_v6)]
    }

    /// A listener of the kernel's, at an address of this family.
    pub fn listener(&self, is_v6: bool) -> TcpListener {
        let at = self.kernels(is_v6);
        let listener = self.kernel(move || TcpListener::bind((at, 0)).unwrap());
        choose_cubic(&listener);
        listener
    }

    /// A connection of the kernel's to us.
    pub fn connect(&self, to: SocketAddr) -> std::io::Result<TcpStream> {
        self.kernel(move || connect(to))
    }

    /// Does something in the kernel's namespace, and waits for it.
    pub fn kernel<T: Send>(&self, what: impl FnOnce() -> T + Send) -> T {
        inside(&self.link.far, what)
    }

    /// Does something in the kernel's namespace meanwhile.
    pub fn meanwhile<T: Send + 'static>(
        &self,
        what: impl FnOnce() -> T + Send + 'static,
    ) -> std::thread::JoinHandle<T> {
        let far = self.link.far.clone();
        std::thread::spawn(move || {
            enter(&far);
            what()
        })
    }

    pub fn wire(&self) -> &Wire {
        self.wire.as_ref().expect("a wire between us and the kernel")
    }

    /// The states of the kernel's TCP sockets that have our host as a peer, as in /proc/net/tcp: 1 ESTABLISHED, 6
    /// TIME-WAIT, 8 CLOSE-WAIT, 0xb CLOSING.
    pub fn kernels_states(&self) -> Vec<u8> {
        let table = self.kernel(|| std::fs::read_to_string("/proc/thread-self/net/tcp").unwrap());
        let ours = format!("{:08X}:", u32::from_ne_bytes(OURS.octets()));
        let rows = table.lines().skip(1).map(|row| row.split_whitespace().collect::<Vec<_>>());
        rows.filter(|row| row[2].starts_with(&ours)).map(|row| u8::from_str_radix(row[3], 16).unwrap()).collect()
    }
}

fn open_device(test: &str, kind: Kind, link: &Link, heap: &Heap) -> Option<Box<dyn Device>> {
    Some(match kind {
        Kind::Packet { offload } => {
            enter(&link.near);
            let settings = PacketSettings { offload, ..PacketSettings::new("near0") };
            Box::new(PacketSocket::open(settings, heap.clone()).unwrap())
        }
        Kind::Tap { offload } => {
            enter(&link.far);
            Box::new(Tap::open(TapSettings { offload, ..kernels_tap() }, heap.clone()).unwrap())
        }
        Kind::Xsk => {
            enter(&link.near);
            if let Err(why) = libos_xdp::is_built() {
                return skip_af_xdp(test, why);
            }
            match Xsk::open(XskSettings::new("near0", &[OURS.into(), OURS_V6.into()]), heap.clone()) {
                Err(libos_xdp::OpenError::Unsupported(why)) => return skip_af_xdp(test, &why),
                xsk => Box::new(xsk.unwrap()),
            }
        }
    })
}

/// What our device leaves to the kernel is done before a frame is on the wire.
pub fn cut_before_the_wire(namespace: &str) -> bool {
    let words = ["netns", "exec", namespace, "ethtool", "-K", "near0", "tx", "off", "tso", "off", "gso", "off"];
    let status = Command::new("ip").args(words).stdout(Stdio::null()).stderr(Stdio::null()).status();
    status.is_ok_and(|status| status.success())
}

/// The kernel's end of a veth pair hands over frames as they would be on a real wire.
pub fn fill_checksums(namespace: &str) -> bool {
    let words = ["netns", "exec", namespace, "ethtool", "-K", "far0", "tx", "off"];
    let status = Command::new("ip").args(words).stdout(Stdio::null()).stderr(Stdio::null()).status();
    status.is_ok_and(|status| status.success())
}

/// Whatever the machine's default is. A namespace's own default can only be what the machine allows everybody.
fn choose_cubic(socket: impl std::os::fd::AsFd) {
    match rustix::net::sockopt::set_tcp_congestion(socket, "cubic") {
        Ok(()) | Err(rustix::io::Errno::NOENT) => {}
        Err(errno) => panic!("CUBIC: {errno}"),
    }
}

/// A connection of the kernel's, from a thread in its namespace.
pub fn connect(to: SocketAddr) -> std::io::Result<TcpStream> {
    use rustix::net::{AddressFamily, SocketFlags, SocketType, socket_with};
    let family = if to.is_ipv6() { AddressFamily::INET6 } else { AddressFamily::INET };
    let socket = socket_with(family, SocketType::STREAM, SocketFlags::CLOEXEC, None)?;
    choose_cubic(&socket);
    rustix::net::connect(&socket, &to)?;
    Ok(socket.into())
}

/// A TAP interface with the kernel's addresses.
pub fn kernels_tap() -> TapSettings {
    TapSettings {
        name: "far0".into(),
        mac: Some(OUR_MAC),
        kernel_addresses: vec![(KERNELS.into(), 24), (KERNELS_V6.into(), 64)],
        ..TapSettings::default()
    }
}

pub fn ours(is_v6: bool) -> IpAddr {
    if is_v6 { OURS_V6.into() } else { OURS.into() }
}

/// Does something on a thread in a namespace, and waits for it.
pub fn inside<T: Send>(namespace: &str, what: impl FnOnce() -> T + Send) -> T {
    std::thread::scope(|scope| {
        let thread = scope.spawn(|| {
            enter(namespace);
            what()
        });
        thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
    })
}

/// Sets a property of a namespace, by its path below /proc/sys/net.
pub fn sysctl(namespace: &str, key: &str, value: &str) {
    try_sysctl(namespace, key, value).unwrap_or_else(|error| panic!("{key} = {value}: {error}"));
}

/// The same, where not every kernel has it.
pub fn try_sysctl(namespace: &str, key: &str, value: &str) -> std::io::Result<()> {
    inside(namespace, || std::fs::write(format!("/proc/sys/net/{key}"), value))
}
