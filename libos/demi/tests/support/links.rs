//! Links between a client and a server, each test's in a network namespace of its own, which is gone with its thread.

use std::net::{Ipv4Addr, Ipv6Addr};

use libos_conformance::namespace::{enter_new_namespace, ip, make_bridge, make_veth};

/// The client's and the server's.
pub const MACS: [&str; 2] = ["02:00:00:00:0d:01", "02:00:00:00:0d:02"];
pub const IPV4: [Ipv4Addr; 2] = [Ipv4Addr::new(10, 79, 0, 1), Ipv4Addr::new(10, 79, 0, 2)];
#[allow(dead_code, reason = "not every test has them")]
pub const IPV6: [Ipv6Addr; 2] =
    [Ipv6Addr::new(0xfd79, 0, 0, 0, 0, 0, 0, 1), Ipv6Addr::new(0xfd79, 0, 0, 0, 0, 0, 0, 2)];
/// On the link, and nobody's.
#[allow(dead_code, reason = "not every test asks for it")]
pub const NOBODY: Ipv4Addr = Ipv4Addr::new(10, 79, 0, 99);

/// The interfaces of the client and of the server. In one process their names are taken once.
pub struct Ends {
    pub names: [String; 2],
}

impl Ends {
    fn new() -> Ends {
        use std::sync::atomic::{AtomicU32, Ordering};
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        Ends { names: ["client", "server"].map(|end| format!("{end}{number}")) }
    }
}

/// A pair of interfaces.
pub fn veth() -> Result<Ends, String> {
    enter_new_namespace()?;
    let ends = Ends::new();
    let [client, server] = &ends.names;
    make_veth([client, server], MACS, 1)?;
    Ok(ends)
}

/// A bridge, which two interfaces will join.
#[allow(dead_code, reason = "not every test has one")]
pub fn bridge() -> Result<Ends, String> {
    enter_new_namespace()?;
    make_bridge("bridge0")?;
    Ok(Ends::new())
}

/// An interface that has come into being joins the bridge.
#[allow(dead_code, reason = "not every test has one")]
pub fn join_bridge(name: &str) -> Result<(), String> {
    ip(&format!("link set {name} master bridge0\n"))
}
