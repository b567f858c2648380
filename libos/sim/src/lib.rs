//! A deterministic world: a virtual clock, hosts of several cores, a seeded network, and faults. No threads, no time, no
//! randomness but the seed's: a run is a function of its seed, and any run can be made again.
//!
//! - [`World`]: hosts, each of several `libos_runtime::Core`s, stepped in one thread. [`Settings`]: its nature.
//! - [`SimNetwork`]: messages directly at the [`Network`](pdpix::Network) contract. Streams are cut at seeded places, pops
//!   come short, windows close, completions come late and in any order between queues; hosts are apart for a while, in
//!   one or both directions, connections break, hosts crash and boot again.
//! - [`SimDevice`]: frames, under whatever is made of them ([`NetKind`]): hosts have interfaces, in switches or joined to each
//!   other, over lines with every fault that [`libos_net::Line`] knows; cards with rings, that read and write memory at
//!   seeded times. Hosts pause, crash and boot again.
//! - [`SimDisk`]: sectors, a cache that a power cut loses in any part, and all faults of disks, under whatever storages are
//!   made of them ([`World::add_host_with_disks`]). Crashes and restarts of its host leave it.
//! - [`sweep!`]: a test's body over many seeds. A failure prints the one command that makes it again:
//!   `MARGAY_SEED=0x... cargo test -p CRATE TEST`.
//!
//! ```
//! use libos_sim::{Settings, sweep};
//! use pdpix::{Outcome, Sga, SocketKind};
//!
//! # fn main() {
//! sweep!(Settings::default(), |world| {
//!     let server = world.add_host("server", 1, |libos| {
//!         let (libos, theirs) = (libos.clone(), libos.clone());
//!         libos.spawn(async move {
//!             let listener = theirs.socket(SocketKind::Stream, None).unwrap();
//!             theirs.bind(listener, "0.0.0.0:7".parse().unwrap()).unwrap();
//!             theirs.listen(listener, 16).unwrap();
//!             let (qd, _) = theirs.redeem(theirs.accept(listener).unwrap()).await.unwrap().accepted().unwrap();
//!             loop {
//!                 let popped = theirs.redeem(theirs.pop(qd, 100).unwrap()).await.unwrap().popped().unwrap();
//!                 if popped.sga.is_empty() {
//!                     break;
//!                 }
//!                 theirs.redeem(theirs.push(qd, popped.sga).unwrap()).await.unwrap().done().unwrap();
//!             }
//!         });
//!     });
//!     let client = world.add_host("client", 1, |_| {});
//!     let to = world.endpoint(server, 7);
//!     world.spawn(client.core(0), "client", async move |libos| {
//!         let qd = libos.socket(SocketKind::Stream, None).unwrap();
//!         libos.redeem(libos.connect(qd, to).unwrap()).await.unwrap().done().unwrap();
//!         let hello = Sga::copy(libos.heap(), b"hello").unwrap();
//!         libos.redeem(libos.push(qd, hello).unwrap()).await.unwrap().done().unwrap();
//!         let mut back = Vec::new();
//!         while back.len() < 5 {
//!             let popped = libos.redeem(libos.pop(qd, 100).unwrap()).await.unwrap().popped().unwrap();
//!             back.extend(popped.sga.to_vec()); // it may come in pieces
//!         }
//!         assert_eq!(back, b"hello");
//!     });
//!     world.partition(server, client);
//!     world.run_for(std::time::Duration::from_millis(100));
//!     world.heal(server, client);
//!     world.run();
//! });
//! # }
//! ```
//!
//! To run a `framework::System` on a core, make it in the boot closure of [`World::add_host`].

#![forbid(unsafe_code)]

mod clock;
mod disk;
mod fabric;
mod frames;
mod network;
mod settings;
mod sweep;
mod trace;
mod world;

pub use disk::{DiskCounters, DiskSettings, SimBlockDevice, SimDisk};
pub use frames::{Interface, LineId, Plug, PortCounters, SimDevice, SwitchId};
pub use network::SimNetwork;
pub use settings::Settings;
#[doc(hidden)]
pub use sweep::{Place, run_sweep};
pub use world::{Attached, AttachedDisks, CoreId, HostId, MakeNetwork, MakeStorages, NetKind, Turn, World};
