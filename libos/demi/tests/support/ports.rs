//! Links between two ports of DPDK's in this process. Without huge pages, so that it runs everywhere.

use std::path::PathBuf;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

use libos_dpdk::{Eal, EalSettings, OpenError, ring_pair};

use super::links;

/// For all library OSes that a case has at a time.
pub const EAL: &str = "--no-huge --no-shconf -m 512";

/// DPDK's interrupt thread may take what it heard of a descriptor for a word of another that has its number now: ports of
/// one process are not opened while others are closed. So there is one subject at a time.
pub struct Alone {
    folder: PathBuf,
    _one: MutexGuard<'static, ()>,
}

impl Drop for Alone {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.folder);
    }
}

/// The devices of the client and of the server, as DPDK spells them.
pub struct Ports {
    pub devices: [String; 2],
    /// Who is there first: sides.
    pub order: [usize; 3],
    /// Bytes that the drivers keep of what was sent last, or to nobody.
    pub kept: usize,
    /// What the client sent last goes with its port, if the server has not taken it; and here nobody but the client runs while
    /// it leaves.
    pub link_dies: bool,
    pub alone: Alone,
}

/// A folder for the sockets of a link, and its number.
fn link() -> Result<(Alone, String), String> {
    static ONE: Mutex<()> = Mutex::new(());
    static COUNT: AtomicU32 = AtomicU32::new(0);
    let one = ONE.lock().unwrap_or_else(PoisonError::into_inner);
    if let Some((_, Some(why))) = libos_boot::backends().into_iter().find(|(kind, _)| kind.name() == "dpdk") {
        return Err(why);
    }
    let name = format!("{}x{}", std::process::id(), COUNT.fetch_add(1, Ordering::Relaxed));
    let folder = std::env::temp_dir().join(format!("demi-ports-{name}"));
    std::fs::create_dir_all(&folder).map_err(|error| error.to_string())?;
    Ok((Alone { folder, _one: one }, name))
}

/// memif, copying: the server's side listens.
pub fn memif() -> Result<Ports, String> {
    let (alone, name) = link()?;
    // Two names of one socket: the driver takes one name in one role only.
    let (socket, other) = (alone.folder.join("socket"), alone.folder.join(".").join("socket"));
    let client = format!("net_memif{name}c,role=client,socket={},socket-abstract=no", socket.display());
    let server = format!("net_memif{name}s,role=server,socket={},socket-abstract=no", other.display());
    Ok(Ports { devices: [client, server], order: [1, 0, 2], kept: 0, link_dies: false, alone })
}

/// vhost at one end, which listens and so is there first, and virtio-user at the side `user`.
pub fn virtio(user: usize) -> Result<Ports, String> {
    let (alone, name) = link()?;
    let socket = alone.folder.join("socket");
    let devices = [0, 1].map(|side| match side == user {
        true => format!("net_virtio_user{name},path={},queue_size=1024,mac={}", socket.display(), links::MACS[side]),
        false => format!("net_vhost{name},iface={}", socket.display()),
    });
    // Of the longest frames, in pieces of their own (docs/dpdk.md).
    Ok(Ports { devices, order: [1 - user, user, 2], kept: 5 * 4096, link_dies: user == 0, alone })
}

/// Two ports that rings join. Whoever opens one finds it by its name: no string of DPDK's makes such a pair.
pub fn ring() -> Result<Ports, String> {
    let (alone, name) = link()?;
    let arguments = EAL.split(' ').map(String::from).collect();
    let eal = Eal::start(&EalSettings { arguments, ..EalSettings::default() }).map_err(|error| error.to_string())?;
    let names = ["c", "s"].map(|end| format!("{name}{end}"));
    match ring_pair(eal, [&names[0], &names[1]], 1024) {
        Ok(()) => {}
        Err(OpenError::Unsupported(why)) => return Err(why),
        Err(error) => panic!("{error}"),
    }
    // What the driver puts before the names of such ports.
    let devices = names.map(|name| format!("net_ring_{name}"));
    // A frame or two that were sent to one who is dead: they lie in its ring for ever.
    Ok(Ports { devices, order: [0, 1, 2], kept: 4096, link_dies: false, alone })
}
