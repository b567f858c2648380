//! Keeps DPDK's interrupt thread from unmapping what we poll.
//!
//! When its peer goes, memif's driver unmaps the rings on DPDK's interrupt thread, whether or not a core is reading them: in
//! DPDK 22.11 that is a crash. From outside it can be closed nevertheless. While such a port has a link, the interrupt thread
//! is held in a callback of ours, which is called for a descriptor that is always readable. When there is something for it to
//! do (the port's control socket is readable) or a second has passed, no core is let into such a driver any more, those inside
//! come out, the thread goes round twice (once to fetch what is ready, once to serve it), and is held again.
//!
//! Always: the thread runs, or cores are in calls to such drivers; never both. And none is in one that is stopped and started
//! to look for its peer again. Bounds: a pause is a few switches of threads.

use std::ffi::c_void;
use std::os::fd::OwnedFd;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Condvar, Mutex, MutexGuard, OnceLock, PoisonError, Weak};

use rustix::event::{EventfdFlags, eventfd};

use crate::ffi;
use crate::port::Port;

/// No core is let into the drivers that are guarded.
static IS_PAUSED: AtomicBool = AtomicBool::new(false);
static GATE: Gate =
    Gate { state: Mutex::new(State { holders: 0, is_held: false, wanted: 0, done: 0 }), changed: Condvar::new() };
/// Readable while the thread is to be held.
static SIGNAL: OnceLock<Result<OwnedFd, String>> = OnceLock::new();
static GUARDED: Mutex<Vec<Weak<Port>>> = Mutex::new(Vec::new());
static ONE_PAUSE: Mutex<()> = Mutex::new(());

struct Gate {
    state: Mutex<State>,
    changed: Condvar,
}

struct State {
    /// Who wants the thread held.
    holders: usize,
    is_held: bool,
    /// Rounds that it is to make, and has begun.
    wanted: u64,
    done: u64,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// On the interrupt thread.
extern "C" fn pass(_: *mut c_void) {
    let mut state = lock(&GATE.state);
    state.is_held = true;
    GATE.changed.notify_all();
    while state.holders > 0 && state.wanted == state.done {
        state = GATE.changed.wait(state).unwrap_or_else(PoisonError::into_inner);
    }
    state.done = state.wanted;
    state.is_held = false;
}

/// Waits until it is held, or nobody wants that any more.
fn wait_until_held(mut state: MutexGuard<'_, State>) {
    while state.holders > 0 && !(state.is_held && state.wanted == state.done) {
        state = GATE.changed.wait(state).unwrap_or_else(PoisonError::into_inner);
    }
}

/// From now on the interrupt thread is held, until as many times [`release`]d.
pub(crate) fn hold() -> Result<(), String> {
    let signal = SIGNAL.get_or_init(|| {
        let fd = eventfd(0, EventfdFlags::NONBLOCK | EventfdFlags::CLOEXEC).map_err(|errno| errno.to_string())?;
        ffi::on_interrupt(&fd, pass)?;
        Ok(fd)
    });
    let signal = signal.as_ref().map_err(Clone::clone)?;
    let mut state = lock(&GATE.state);
    state.holders += 1;
    if state.holders == 1 {
        rustix::io::write(signal, &1u64.to_ne_bytes()).map_err(|errno| errno.to_string())?;
    }
    wait_until_held(state);
    Ok(())
}

/// One holder less.
pub(crate) fn release() {
    let mut state = lock(&GATE.state);
    state.holders -= 1;
    if state.holders == 0 {
        if let Some(Ok(signal)) = SIGNAL.get() {
            let _ = rustix::io::read(signal, &mut [0; 8]);
        }
        GATE.changed.notify_all();
    }
}

/// Twice round; it is held before and after. If nobody holds it, it goes round by itself.
fn let_round() {
    for _ in 0..2 {
        let mut state = lock(&GATE.state);
        if state.holders == 0 {
            return;
        }
        state.wanted += 1;
        GATE.changed.notify_all();
        wait_until_held(state);
    }
}

/// Does something to a guarded driver that its interrupt thread must know nothing of, while no core is in one: the thread
/// has served what it had heard of, and is held meanwhile. Called by [`Port::look_guarded`] only, so within a pause.
///
/// # Errors
/// The thread cannot be held.
pub(crate) fn while_held<R>(change: impl FnOnce() -> R) -> Result<R, String> {
    hold()?;
    let_round();
    let result = change();
    release();
    Ok(result)
}

/// Whether calls to guarded drivers are to be left alone for now.
#[inline]
pub(crate) fn is_paused() -> bool {
    IS_PAUSED.load(Ordering::SeqCst)
}

/// The port has a driver that unmaps what is polled.
pub(crate) fn guard(port: Weak<Port>) {
    let mut guarded = lock(&GUARDED);
    guarded.retain(|port| port.strong_count() > 0);
    guarded.push(port);
}

/// Lets the interrupt thread do its work, if it is held, while no core is in a guarded driver; then looks which links are
/// there. The calling thread is in none.
pub(crate) fn pause() {
    // Dropped after the lock: with the last count of a port it is closed, and that pauses, too.
    let ports: Vec<_> = lock(&GUARDED).iter().filter_map(Weak::upgrade).collect();
    let _one = lock(&ONE_PAUSE);
    // Whether it is held or not: a port whose link was lost is stopped and started, and a core may be on its way in still.
    IS_PAUSED.store(true, Ordering::SeqCst);
    ports.iter().for_each(|port| port.wait_until_idle());
    let_round();
    ports.iter().for_each(|port| port.look_guarded());
    IS_PAUSED.store(false, Ordering::SeqCst);
}
