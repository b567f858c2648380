//! Links of the kernel's between a client and a server, each test's in a network namespace of its own, which is gone with its
//! thread.

use std::fmt::{Display, Write as _};
use std::io::Write as _;
use std::process::{Command, Stdio};

use rustix::thread::UnshareFlags;

/// Moves this thread into a network namespace of its own, in which the kernel speaks no IPv6.
///
/// # Errors
/// Why there can be none here, as a line for whoever reads the test's output.
#[allow(unsafe_code, reason = "the one call")]
pub fn enter_new_namespace() -> Result<(), String> {
    if !rustix::process::geteuid().is_root() {
        return Err("network namespaces take root".into());
    }
    // SAFETY: a network namespace is no resource that other code of this process relies on.
    let entered = unsafe { rustix::thread::unshare_unsafe(UnshareFlags::NEWNET) };
    entered.map_err(|errno| format!("network namespaces cannot be made here: {errno}"))?;
    // The kernel has nothing to say on our links.
    for kind in ["all", "default"] {
        let _ = std::fs::write(format!("/proc/sys/net/ipv6/conf/{kind}/disable_ipv6"), "1");
    }
    Ok(())
}

/// Carries out commands of `ip`, in the namespace of this thread.
///
/// # Errors
/// What `ip` says; or that there is none.
///
/// # Panics
/// If it ends before it has read them.
pub fn ip(commands: &str) -> Result<(), String> {
    let mut command = Command::new("ip");
    command.args(["-batch", "-"]).stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::piped());
    let mut child = command.spawn().map_err(|_| "there is no ip in the path (Debian: iproute2)")?;
    child.stdin.take().expect("piped").write_all(commands.as_bytes()).expect("it reads them");
    let output = child.wait_with_output().expect("our child");
    let said = String::from_utf8_lossy(&output.stderr);
    if output.status.success() { Ok(()) } else { Err(format!("ip fails: {}", said.trim())) }
}

/// Makes a pair of interfaces with these names and link-layer addresses, each with so many queues, and sets them up.
///
/// # Errors
/// As [`ip`].
pub fn make_veth(names: [&str; 2], macs: [impl Display; 2], queues: usize) -> Result<(), String> {
    let end = |i: usize| {
        let (name, mac) = (names[i], &macs[i]);
        format!("name {name} address {mac} numrxqueues {queues} numtxqueues {queues}")
    };
    let mut commands = format!("link add {} type veth peer {}\n", end(0), end(1));
    names.iter().for_each(|name| _ = writeln!(commands, "link set {name} up"));
    ip(&commands)
}

/// Makes a bridge with this name, which learns and forwards at once, and sets it up.
///
/// # Errors
/// As [`ip`].
pub fn make_bridge(name: &str) -> Result<(), String> {
    ip(&format!("link add {name} type bridge forward_delay 0 mcast_snooping 0\nlink set {name} up\n"))
}
