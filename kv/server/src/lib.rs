//! The cache as a service: one shard actor a core, spoken to by Redis's protocol.
//!
//! A [`Shard`] owns the keys that hash to its core ([`kv_engine::shard::shard_of`]) and the connections that were accepted
//! there. What a connection asks for is answered at once if it concerns its own core; else the shards concerned are told,
//! by messages ([`Message`]), and the connection's further requests wait meanwhile. A command over several shards holds them
//! in ascending order, so it is atomic, and two such commands never wait for each other.
//!
//! Always: the replies of a connection come in the order of its requests, and so are its requests carried out. A message
//! between shards that finds no room is sent again. A handler that panics ends the service: a cache that has lost a shard
//! would answer with half its keys.
//!
//! Not here: protocol, commands and values (kv/engine, which knows no sockets); replication (later).

#![forbid(unsafe_code)]

mod client;
mod codec;
mod housekeeping;
mod peer;
mod perform;
mod persistence;
mod report;
mod shard;
mod survey;
mod task;

use std::sync::Arc;
use std::sync::atomic::AtomicUsize;
use std::time::Duration;

use framework::pdpix::{Endpoint, Error};
use framework::{Address, Policy, System};
use kv_engine::config::Config;

pub use codec::{Incoming, Resp};
pub use peer::Message;
pub use persistence::{Durability, Progress};
pub use report::ProcessFacts;
pub use shard::Shard;

/// What a cache is to do. The same for all its cores: make one and clone it.
#[derive(Clone, Debug)]
pub struct ServerArgs {
    /// Where it listens.
    pub listen: Endpoint,
    /// Redis's parameters.
    pub config: Config,
    /// Told by each core, once: where it listens in fact, or why it does not.
    pub on_listening: fn(Result<Endpoint, Error>),
    /// Told by INFO of the process around it.
    pub facts: fn() -> ProcessFacts,
    /// Forty digits that name this run of the service.
    pub run_id: String,
    /// When writes are answered. Anything but `None` needs a storage.
    pub durability: Durability,
    /// Each core has a storage: snapshots can be written, and what was kept is loaded.
    pub has_storage: bool,
    /// It can be read, and is not changed: writes are refused.
    pub is_read_only: bool,
    /// A log of more bytes is made short by a snapshot: there must be room for one beside it.
    pub log_len_max: u64,
    /// Bytes of each core's storage: what lets data grow is refused before it is full.
    pub storage_len: u64,
    /// Bytes that the storage writes at least: what a record takes is a multiple of it.
    pub storage_unit: u64,
    /// Files of Redis's kind to be loaded if there is no data: opened by each core for itself.
    pub load: Option<Load>,
    /// Somebody has asked for that, and is to hear if there is data.
    pub load_is_asked_for: bool,
    /// Told why the service ends of itself.
    pub on_trouble: fn(&str),
    /// Told by each core how far it is with loading.
    pub on_progress: fn(Progress),
    /// Connections of all cores.
    clients: Arc<AtomicUsize>,
}

/// A file that is read from its beginning.
type File = Box<dyn std::io::Read + Send>;

/// Opens files, one after the other.
#[derive(Clone)]
pub struct Load(Arc<dyn Fn(usize) -> std::io::Result<Option<File>> + Send + Sync>);

impl Load {
    /// With whatever opens the file of this number; `None`: there are no more.
    pub fn new(open: impl Fn(usize) -> std::io::Result<Option<File>> + Send + Sync + 'static) -> Load {
        Load(Arc::new(open))
    }

    pub(crate) fn open(&self, index: usize) -> std::io::Result<Option<File>> {
        (self.0)(index)
    }
}

impl std::fmt::Debug for Load {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Load")
    }
}

impl ServerArgs {
    /// A cache at this endpoint, all else as it is by default.
    pub fn new(listen: Endpoint) -> ServerArgs {
        let mut config = Config::default();
        let _ = config.set_at_start("port", &listen.port().to_string());
        let _ = config.set_at_start("bind", &listen.ip().to_string());
        ServerArgs {
            listen,
            config,
            on_listening: |_| {},
            facts: ProcessFacts::default,
            run_id: "0".repeat(40),
            durability: Durability::None,
            has_storage: false,
            is_read_only: false,
            log_len_max: u64::MAX,
            storage_len: u64::MAX,
            storage_unit: 512,
            load: None,
            load_is_asked_for: false,
            on_trouble: |_| {},
            on_progress: |_| {},
            clients: Arc::new(AtomicUsize::new(0)),
        }
    }
}

/// Starts this core's shard. Each core of the host runs one; they listen when all are up.
pub fn run(system: &System, args: ServerArgs) -> Address<Shard> {
    let libos = system.libos();
    let (index, shards) = (usize::from(libos.core()), libos.cores());
    let (heap, seed) = (libos.heap().clone(), libos.seed().clone());
    let policy = Policy { restarts_max: 0, within: Duration::ZERO, pause: Duration::ZERO, essential: true };
    let rng = libos.fork_rng();
    system.spawn(Some(&shard::name_of(index)), policy, move || {
        Shard::new((index, shards), args.clone(), heap.clone(), seed.clone(), rng.clone())
    })
}
