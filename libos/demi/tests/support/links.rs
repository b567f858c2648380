//! Links between a client and a server, each test's in a network namespace of its own, which is gone with its thread.

use std::io::Write as _;
use std::net::{Ipv4Addr, Ipv6Addr};
use std::process::{Command, Stdio};

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

/// Moves this thread into a network namespace of its own.
fn enter_new_namespace() -> Result<(), String> {
    if !rustix::process::geteuid().is_root() {
        return Err("network namespaces take root".into());
    }
    // SAFETY: a network namespace is no resource that other code of this process relies on.
    let entered = unsafe { rustix::thread::unshare_unsafe(rustix::thread::UnshareFlags::NEWNET) };
    entered.map_err(|errno| format!("network namespaces cannot be made here: {errno}"))?;
    // The kernel has nothing to say on our links.
    for kind in ["all", "default"] {
        let _ = std::fs::write(format!("/proc/sys/net/ipv6/conf/{kind}/disable_ipv6"), "1");
    }
    Ok(())
}

/// Commands of `ip`, in the namespace of this thread.
fn ip(commands: &str) -> Result<(), String> {
    let mut command = Command::new("ip");
    command.args(["-batch", "-"]).stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::piped());
    let mut child = command.spawn().map_err(|_| "there is no ip in the path (Debian: iproute2)")?;
    child.stdin.take().expect("piped").write_all(commands.as_bytes()).expect("it reads them");
    let output = child.wait_with_output().expect("our child");
    let said = String::from_utf8_lossy(&output.stderr);
    if output.status.success() { Ok(()) } else { Err(format!("ip fails: {}", said.trim())) }
}

/// A pair of interfaces.
pub fn veth() -> Result<Ends, String> {
    enter_new_namespace()?;
    let ends = Ends::new();
    let [client, server] = &ends.names;
    let link = format!("link add name {client} address {} type veth peer name {server} address {}\n", MACS[0], MACS[1]);
    ip(&format!("{link}link set {client} up\nlink set {server} up\n"))?;
    Ok(ends)
}

/// A bridge, which two interfaces will join.
#[allow(dead_code, reason = "not every test has one")]
pub fn bridge() -> Result<Ends, String> {
    enter_new_namespace()?;
    ip("link add bridge0 type bridge forward_delay 0 mcast_snooping 0\nlink set bridge0 up\n")?;
    Ok(Ends::new())
}

/// An interface that has come into being joins the bridge.
#[allow(dead_code, reason = "not every test has one")]
pub fn join_bridge(name: &str) -> Result<(), String> {
    ip(&format!("link set {name} master bridge0\n"))
}
