//! Starting: memory, threads, processors, networks, storages; and stopping in order.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, Barrier, mpsc};
use std::thread;

use libos_mem::{Heap, Plan, Reservation, ReserveError, Reserves, Source};
use libos_runtime::{BufRings, Core, CoreParts, KernelClock, MeshKind, Ports, Stopper, Trace, buf_rings, mesh};
use pdpix::block::Geometry;
use rustix::thread::CpuSet;
use signal_hook::consts::{SIGINT, SIGTERM};
use signal_hook::iterator::Signals;

use crate::network::{BackendKind, Networks};
use crate::settings::Settings;
use crate::spdk;

/// Why a service could not be started.
#[derive(Debug, thiserror::Error)]
pub enum LaunchError {
    /// No memory.
    #[error(transparent)]
    Memory(#[from] ReserveError),
    /// More cores that spin than there are processors.
    #[error("{asked} cores are to spin, and this process may use {there} processors: ask for fewer, or for `adaptive`")]
    TooManyToSpin {
        /// Cores.
        asked: usize,
        /// Processors.
        there: usize,
    },
    /// The network.
    #[error("cannot open the {0} network: {1}")]
    Network(&'static str, String),
    /// The storage.
    #[error("cannot open the storage: {0}")]
    Storage(String),
    /// The system.
    #[error("cannot start: {0}")]
    Os(#[from] std::io::Error),
}

/// A core that was launched, on its own thread, with its place among the others.
pub struct Launched {
    /// The core.
    pub core: Core,
    /// How many there are.
    pub cores: usize,
    /// What to tell the person who started this, once.
    pub notices: Vec<String>,
    /// Which backend carries its network.
    pub network: String,
    /// How its storage is reached (`io_uring, O_DIRECT`); `None`: it has none.
    pub storage: Option<String>,
    /// What its storage lies on: how many bytes there are, and of how many it writes at least.
    pub geometry: Option<Geometry>,
}

/// What each thread needs to begin.
pub(crate) struct Kit {
    pub(crate) heap_index: usize,
    pub(crate) ports: Ports,
    pub(crate) rings: BufRings,
    pub(crate) processor: Option<usize>,
    pub(crate) notices: Vec<String>,
}

/// Starts a thread per core and runs `service` on each until it returns; gives the largest of the codes returned. The
/// first SIGINT or SIGTERM stops the cores in order, the second ends the process.
///
/// # Errors
/// [`LaunchError`]; then no service has run, or all were stopped.
pub fn launch(
    settings: &Settings,
    service: impl Fn(Launched) -> i32 + Send + Sync + 'static,
) -> Result<i32, LaunchError> {
    let cores = settings.cores.count;
    // Before any service runs: whoever hears of it may stop it at once.
    let signals = Signals::new([SIGINT, SIGTERM])?;
    let mut notices = Vec::new();
    let processors = choose_processors(settings, &mut notices)?;
    let reservation = reserve(settings, &mut notices)?;
    let network_name = settings.network.backend.name();
    let networks = Networks::open(settings, &reservation).map_err(|why| LaunchError::Network(network_name, why))?;
    notices.extend(networks.notices().iter().cloned());
    let networks = Arc::new(networks);
    // If the program's allocator is our heap, cores allocate from it. One launch in a process can have that.
    let _ = reservation.clone().make_global();
    let (service, barrier) = (Arc::new(service), Arc::new(Barrier::new(cores)));
    let (ready, readies) = mpsc::channel::<Result<Stopper, LaunchError>>();
    let mut threads = Vec::new();
    let mesh = mesh(cores, MeshKind::Threads)?;
    let rings = buf_rings(&mesh);
    for ((ports, rings), processor) in mesh.into_iter().zip(rings).zip(processors) {
        let index = ports.core() as usize;
        let kit = Kit {
            heap_index: index,
            ports,
            rings,
            processor,
            notices: if index == 0 { notices.clone() } else { Vec::new() },
        };
        let (settings, reservation, networks) = (settings.clone(), reservation.clone(), networks.clone());
        let (service, barrier, ready) = (service.clone(), barrier.clone(), ready.clone());
        let thread = thread::Builder::new().name(format!("core-{index}"));
        threads.push(
            thread.spawn(move || run_core(kit, &settings, &reservation, &networks, &*service, &barrier, &ready))?,
        );
    }
    drop(ready);
    // All are up, or all stop.
    let (mut stoppers, mut failed) = (Vec::new(), None);
    for ready in &readies {
        match ready {
            Ok(stopper) => stoppers.push(stopper),
            Err(error) => failed = Some(error),
        }
        if stoppers.len() + usize::from(failed.is_some()) == cores {
            break;
        }
    }
    if let Some(error) = failed {
        stoppers.iter().for_each(Stopper::stop);
        threads.into_iter().for_each(|thread| _ = thread.join());
        return Err(error);
    }
    let signals = stop_on_signals(signals, stoppers)?;
    let codes: Vec<i32> = threads.into_iter().map(|thread| thread.join().unwrap_or(70)).collect();
    signals.close();
    Ok(codes.into_iter().max().unwrap_or(0))
}

fn run_core(
    kit: Kit,
    settings: &Settings,
    reservation: &Reservation,
    networks: &Networks,
    service: &(impl Fn(Launched) -> i32 + ?Sized),
    barrier: &Barrier,
    ready: &mpsc::Sender<Result<Stopper, LaunchError>>,
) -> i32 {
    if let Some(processor) = kit.processor {
        let mut set = CpuSet::new();
        set.set(processor);
        let _ = rustix::thread::sched_setaffinity(None, &set); // a wish: the service runs without it
    }
    let heap = reservation.heap(kit.heap_index).expect("each core takes its own heap");
    let _entered = heap.enter();
    let code = match make_core(kit, settings, networks, &heap) {
        Ok(launched) => {
            let _ = ready.send(Ok(launched.core.stopper()));
            // A handler's panic never comes here; any other leaves a core in an unknown state, and its peers waiting.
            catch_unwind(AssertUnwindSafe(|| service(launched))).unwrap_or_else(|_| std::process::abort())
        }
        Err(error) => {
            let _ = ready.send(Err(error));
            1
        }
    };
    // What was lent comes home before anybody's heap goes: first all are done, then all give back, then all take in.
    for _ in 0..2 {
        barrier.wait();
        heap.exchange_returns();
    }
    barrier.wait();
    code
}

pub(crate) fn make_core(
    mut kit: Kit,
    settings: &Settings,
    networks: &Networks,
    heap: &Heap,
) -> Result<Launched, LaunchError> {
    let seed = settings.seed.unwrap_or_else(random_seed).wrapping_add(kit.heap_index as u64);
    let network = networks.make(settings, kit.heap_index, seed, heap, kit.rings);
    let (name, network) = network.map_err(|why| LaunchError::Network(settings.network.backend.name(), why))?;
    let opened = settings.storage.open(settings, kit.heap_index, random_number(), heap);
    let opened = opened.map_err(LaunchError::Storage)?;
    let (mut storages, mut storage, mut geometry) = (Vec::new(), None, None);
    if let Some(opened) = opened {
        storages.push((opened.name, opened.storage));
        (storage, geometry) = (Some(opened.how), Some(opened.geometry));
        // The other cores' are the same.
        kit.notices.extend(opened.notices.into_iter().filter(|_| kit.heap_index == 0));
    }
    let trace = match &settings.trace.dir {
        None => Trace::off(),
        Some(dir) => {
            std::fs::create_dir_all(dir)?;
            let (core, entries) = (kit.ports.core(), settings.trace.entries.unwrap_or(65_536));
            Trace::in_file(&dir.join(format!("core-{core}.trace")), core, entries)?
        }
    };
    let cores = kit.ports.cores();
    let parts = CoreParts {
        networks: vec![(name.clone(), network)],
        storages,
        idle: settings.idle_policy(),
        seed,
        trace,
        ..CoreParts::new(heap.clone(), Box::new(KernelClock), kit.ports)
    };
    Ok(Launched { core: Core::new(parts), cores, notices: kit.notices, network: name, storage, geometry })
}

/// A seed that nobody can guess: from the addresses and the time that std's hasher is seeded with, which is the system's
/// randomness.
fn random_seed() -> u64 {
    use std::hash::{BuildHasher, Hasher};
    std::collections::hash_map::RandomState::new().build_hasher().finish()
}

/// A number that no other store has.
fn random_number() -> u128 {
    u128::from(random_seed()) << 64 | u128::from(random_seed())
}

pub(crate) fn reserve(settings: &Settings, notices: &mut Vec<String>) -> Result<Reservation, ReserveError> {
    let heap_size = settings.heap_size();
    let plan = |source| Plan { heaps: settings.cores.count, heap_size, reserves: Reserves::usual(heap_size), source };
    if let Some(device) = spdk::device(settings) {
        let reserved = spdk::reserve(settings, device, plan(Source::External));
        return reserved.map_err(|why| ReserveError::Os(Source::External, std::io::Error::other(why)));
    }
    if settings.network.backend == BackendKind::Dpdk {
        let reserved = crate::dpdk::reserve(settings, plan(Source::External));
        return reserved.map_err(|why| ReserveError::Os(Source::External, std::io::Error::other(why)));
    }
    match settings.memory.source.as_str() {
        "huge" => Reservation::new(plan(Source::Huge)),
        "memfd" => Reservation::new(plan(Source::Memfd)),
        "ordinary" => Reservation::new(plan(Source::Ordinary)),
        _ => {
            // Only if they are there for the whole of it: huge pages that are taken are gone for everybody else.
            if let Ok(reservation) = Reservation::new(plan(Source::Huge)) {
                notices.push("memory is in huge pages".into());
                return Ok(reservation);
            }
            Reservation::new(plan(Source::Ordinary))
        }
    }
}

/// A processor for each core, of those that this process may use; none if there are not enough.
fn choose_processors(settings: &Settings, notices: &mut Vec<String>) -> Result<Vec<Option<usize>>, LaunchError> {
    let cores = settings.cores.count;
    let allowed = rustix::thread::sched_getaffinity(None).map_err(std::io::Error::from)?;
    let allowed: Vec<usize> = (0..CpuSet::MAX_CPU).filter(|&cpu| allowed.is_set(cpu)).collect();
    if cores > allowed.len() {
        if settings.idle.policy == "spin" {
            return Err(LaunchError::TooManyToSpin { asked: cores, there: allowed.len() });
        }
        notices.push(format!("{cores} cores share {} processors, and are not pinned", allowed.len()));
        return Ok(vec![None; cores]);
    }
    Ok((0..cores).map(|core| settings.cores.pin.then(|| allowed[core])).collect())
}

fn stop_on_signals(mut signals: Signals, stoppers: Vec<Stopper>) -> Result<signal_hook::iterator::Handle, LaunchError> {
    let handle = signals.handle();
    thread::Builder::new().name("signals".into()).spawn(move || {
        for (count, _) in signals.forever().enumerate() {
            if count > 0 {
                std::process::exit(130); // in a hurry
            }
            stoppers.iter().for_each(Stopper::stop);
        }
    })?;
    Ok(handle)
}
