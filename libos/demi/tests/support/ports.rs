//! Links between two ports of DPDK's in this process. Without huge pages, so that it runs everywhere.

use std::path::PathBuf;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

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
    /// Bytes that the drivers keep of what was sent last.
    pub kept: usize,
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
    Ok(Ports { devices: [client, server], order: [1, 0, 2], kept: 0, alone })
}

/// vhost at the client's side, which listens, and virtio-user at the server's.
pub fn virtio() -> Result<Ports, String> {
    let (alone, name) = link()?;
    let socket = alone.folder.join("socket");
    let client = format!("net_vhost{name},iface={}", socket.display());
    let server = format!("net_virtio_user{name},path={},queue_size=1024,mac={}", socket.display(), links::MACS[1]);
    // Of the longest frames, in pieces of their own (docs/dpdk.md).
    Ok(Ports { devices: [client, server], order: [0, 1, 2], kept: 5 * 4096, alone })
}
