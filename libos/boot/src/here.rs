//! A core on the calling thread: for programs that have threads of their own and no service, such as those in C.

use libos_runtime::{IdlePolicy, MeshKind, buf_rings, mesh};

use crate::launch::{Kit, LaunchError, Launched, make_core, reserve};
use crate::network::Networks;
use crate::settings::Settings;

/// A core with memory and networks of its own, which belongs to the calling thread; `cores` in the settings says nothing
/// here. Signals and processors are the caller's.
///
/// # Errors
/// [`LaunchError`].
pub fn core_here(settings: &Settings) -> Result<Launched, LaunchError> {
    let mut settings = settings.clone();
    settings.cores.count = 1;
    let mut notices = Vec::new();
    let reservation = reserve(&settings, &mut notices)?;
    let name = settings.network.backend.name();
    let networks = Networks::open(&settings, &reservation).map_err(|why| LaunchError::Network(name, why))?;
    notices.extend(networks.notices().iter().cloned());
    let mut mesh = mesh(1, MeshKind::Threads)?;
    let rings = buf_rings(&mesh).pop().expect("one core has one end");
    let ports = mesh.pop().expect("one core has one end");
    let heap = reservation.heap(0).expect("the first heap of a new reservation");
    if matches!(settings.idle_policy(), IdlePolicy::Adaptive(_)) {
        // The default slack of 50 us would more than double a nap.
        let _ = rustix::thread::set_current_timer_slack(std::num::NonZeroU64::new(1));
    }
    make_core(Kit { heap_index: 0, ports, rings, processor: None, notices }, &settings, &networks, &heap)
}
