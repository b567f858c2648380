//! The library OS of the calling thread, and how every call enters it.
//!
//! Always: a panic of ours does not unwind into C; it leaves the thread without a library OS, and every later call gives
//! ENOTRECOVERABLE. A call from inside of another one, as from a signal handler, gives EBUSY. When the thread ends (or the
//! process, by `exit`), its queues are closed, and what was pushed is sent, within [`LEAVE_MAX`]; but not if a signal
//! handler ends it in the middle of a call, as then nothing is known of the state.

use std::cell::RefCell;
use std::collections::{BTreeSet, VecDeque};
use std::ffi::c_int;
use std::mem::ManuallyDrop;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::ptr;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use libos_boot::{BackendKind, core_here};
use libos_runtime::{Core, LibOs};
use pdpix::{Completion, Qd};

use crate::configuration::{Configuration, StreamDefaults};
use crate::errno::Errno;
use crate::held::Held;
use crate::here::{self, Here};
use crate::wakers::Waker;

/// How long the end of a thread goes on sending what was pushed.
const LEAVE_MAX: Duration = Duration::from_secs(2);

/// A thread that has called `demi_init`.
pub(crate) struct Thread {
    pub(crate) libos: LibOs,
    pub(crate) held: ManuallyDrop<Held>,
    pub(crate) stream_defaults: StreamDefaults,
    /// Queues of `demi_queue`, `demi_open` and `demi_creat`, whose pops give an element or a record whole.
    pub(crate) whole_queues: BTreeSet<Qd>,
    /// Completions that were redeemed and found no room among the held buffers, or no memory to be laid into one piece.
    /// Oldest first.
    pub(crate) unfit: VecDeque<Completion>,
    pub(crate) waker: Waker,
    core: ManuallyDrop<Core>,
    _claim: Option<Claim>,
}

impl Thread {
    /// One pass of the core, whatever it brings.
    pub(crate) fn pass(&self) {
        self.core.step();
    }

    fn open(configuration: &Configuration) -> Result<Thread, (Errno, String)> {
        let claim = match &configuration.interface {
            None => None,
            Some(name) => Some(Claim::take(name).ok_or_else(|| {
                (Errno::new(libc::EBUSY), format!("another thread of this process has the interface {name}"))
            })?),
        };
        if configuration.settings.network.backend == BackendKind::Dpdk {
            outlive_pipes();
        }
        let launched = core_here(&configuration.settings).map_err(|error| (errno_of(&error), error.to_string()))?;
        let libos = launched.core.libos().clone();
        Ok(Thread {
            waker: Waker::new(libos.interrupter()),
            libos,
            held: ManuallyDrop::new(Held::new()),
            stream_defaults: configuration.stream_defaults,
            whole_queues: BTreeSet::new(),
            unfit: VecDeque::new(),
            core: ManuallyDrop::new(launched.core),
            _claim: claim,
        })
    }
}

/// Sees to it that a peer which goes does not end the program: DPDK's virtio-user writes to a socket that its vhost has
/// closed, which raises SIGPIPE. A program that has said what it wants of that signal keeps it; for others it does nothing
/// from now on. (A handler, and not SIG_IGN, which programs that this one executes would inherit.)
fn outlive_pipes() {
    extern "C" fn nothing(_: c_int) {}
    // SAFETY: zero-filled memory is a value of it.
    let mut present: libc::sigaction = unsafe { std::mem::zeroed() };
    // SAFETY: it is told where to write.
    let asked = unsafe { libc::sigaction(libc::SIGPIPE, ptr::null(), &mut present) };
    if asked == 0 && present.sa_sigaction == libc::SIG_DFL {
        let nothing: extern "C" fn(c_int) = nothing;
        (present.sa_sigaction, present.sa_flags) = (nothing as libc::sighandler_t, libc::SA_RESTART);
        // SAFETY: a handler that does nothing may run at any time.
        unsafe { libc::sigaction(libc::SIGPIPE, &present, ptr::null_mut()) };
    }
}

fn errno_of(error: &libos_boot::LaunchError) -> Errno {
    match error {
        libos_boot::LaunchError::Memory(_) => Errno::new(libc::ENOMEM),
        libos_boot::LaunchError::Os(error) => Errno::new(error.raw_os_error().unwrap_or(libc::EIO)),
        _ => Errno::new(libc::ENODEV),
    }
}

impl Drop for Thread {
    fn drop(&mut self) {
        self.core.leave(LEAVE_MAX);
        // SAFETY: neither is used after this, the one time that it is dropped.
        let (held, core) = unsafe { (ManuallyDrop::take(&mut self.held), ManuallyDrop::take(&mut self.core)) };
        held.abandon();
        drop(core);
    }
}

/// An interface of which this process has one library OS: two on one wire would answer for each other.
struct Claim(String);

static CLAIMED: Mutex<BTreeSet<String>> = Mutex::new(BTreeSet::new());

impl Claim {
    fn take(name: &str) -> Option<Claim> {
        let is_new = CLAIMED.lock().unwrap_or_else(PoisonError::into_inner).insert(name.into());
        is_new.then(|| Claim(name.into()))
    }
}

impl Drop for Claim {
    fn drop(&mut self) {
        CLAIMED.lock().unwrap_or_else(PoisonError::into_inner).remove(&self.0);
    }
}

/// What a thread has.
#[derive(Default)]
enum Seat {
    #[default]
    Empty,
    Taken(Box<Thread>),
    /// We panicked there.
    Broken,
}

/// A seat that is given up in order at the end of its thread, or, in the middle of a call, not at all.
struct Place(RefCell<ManuallyDrop<Seat>>);

impl Drop for Place {
    fn drop(&mut self) {
        if let Ok(mut seat) = self.0.try_borrow_mut() {
            let was_here = here::replace(ptr::null_mut());
            let seat = std::mem::replace(&mut **seat, Seat::Empty);
            match seat {
                Seat::Taken(thread) if was_here.is_null() => std::mem::forget(thread),
                seat => give_up(seat),
            }
        }
    }
}

/// Ends a thread's library OS. A panic on the way leaves what is left.
fn give_up(seat: Seat) {
    let _ = catch_unwind(AssertUnwindSafe(|| drop(seat)));
}

thread_local! {
    static PLACE: Place = const { Place(RefCell::new(ManuallyDrop::new(Seat::Empty))) };
}

/// Runs a call on this thread's library OS.
#[inline(always)]
pub(crate) fn enter(call: impl FnOnce(&mut Thread) -> Result<(), Errno>) -> c_int {
    let here = Here::find();
    let thread = here.take();
    if thread.is_null() {
        return refusal();
    }
    // SAFETY: it is the thread in `PLACE`, which has it in `here` while nobody else has it; it was taken from there.
    let ran = catch_unwind(AssertUnwindSafe(|| call(unsafe { &mut *thread })));
    match ran {
        Ok(result) => {
            here.put(thread);
            result.map_or_else(Errno::get, |()| 0)
        }
        // What a panic leaves half done is given up as a whole.
        Err(_) => break_seat(),
    }
}

/// Tries what mostly is all that a call has to do. Says whether it did it; if not, nothing has changed, and the call is to
/// [`enter`]. What neither panics nor calls anything takes no frame of the stack that would have to be made and undone: so
/// `attempt` does neither.
#[inline(always)]
pub(crate) fn at_once(attempt: impl FnOnce(&mut Thread) -> bool) -> bool {
    let here = Here::find();
    let thread = here.take();
    if thread.is_null() {
        return false;
    }
    // SAFETY: as in `enter`.
    let is_done = attempt(unsafe { &mut *thread });
    here.put(thread);
    is_done
}

/// Why there is no library OS to be called.
#[cold]
fn refusal() -> c_int {
    let looked = PLACE.try_with(|place| match place.0.try_borrow().as_deref().map(|seat| &**seat) {
        Ok(Seat::Empty) => libc::ENOSYS,
        Ok(Seat::Broken) => libc::ENOTRECOVERABLE,
        Ok(Seat::Taken(_)) | Err(_) => libc::EBUSY,
    });
    looked.unwrap_or(libc::ENOSYS)
}

/// Changes who sits there, between two calls.
fn at_seat(change: impl FnOnce(&mut Seat) -> Result<(), Errno>) -> c_int {
    let ran = catch_unwind(AssertUnwindSafe(|| {
        let entered = PLACE.try_with(|place| {
            let Ok(mut seat) = place.0.try_borrow_mut() else { return Err(Errno::new(libc::EBUSY)) };
            let was_here = here::replace(ptr::null_mut());
            if matches!(**seat, Seat::Taken(_)) && was_here.is_null() {
                return Err(Errno::new(libc::EBUSY));
            }
            let changed = change(&mut seat);
            if let Seat::Taken(thread) = &mut **seat {
                here::replace(&raw mut **thread);
            }
            changed
        });
        entered.unwrap_or(Err(Errno::new(libc::ENOSYS)))
    }));
    match ran {
        Ok(result) => result.map_or_else(Errno::get, |()| 0),
        Err(_) => break_seat(),
    }
}

#[cold]
fn break_seat() -> c_int {
    let _ = PLACE.try_with(|place| {
        if let Ok(mut seat) = place.0.try_borrow_mut() {
            here::replace(ptr::null_mut());
            std::mem::forget(std::mem::replace(&mut **seat, Seat::Broken));
        }
    });
    libc::ENOTRECOVERABLE
}

/// Makes this thread's library OS.
pub(crate) fn init() -> c_int {
    open(Configuration::load)
}

fn open(configuration: impl FnOnce() -> Result<Configuration, String>) -> c_int {
    at_seat(|seat| {
        match seat {
            Seat::Empty => {}
            Seat::Taken(_) => return Err(Errno::new(libc::EEXIST)),
            Seat::Broken => return Err(Errno::new(libc::ENOTRECOVERABLE)),
        }
        let opened = configuration().map_err(|why| (Errno::INVALID, why)).and_then(|c| Thread::open(&c));
        match opened {
            Ok(thread) => *seat = Seat::Taken(Box::new(thread)),
            Err((errno, why)) => {
                // An errno says little of a configuration; this is the one thing that we print.
                eprintln!("demi_init: {why}");
                return Err(errno);
            }
        }
        Ok(())
    })
}

/// A library OS that is on no thread: for tests that step several in one.
#[derive(Default)]
pub struct Parked(Seat);

impl Parked {
    /// One in an environment of these variables, or why there is none.
    ///
    /// # Errors
    /// The errno that `demi_init` gives, and a sentence.
    pub fn open(variables: &[(String, String)]) -> Result<Parked, (c_int, String)> {
        let configuration = Configuration::from(variables.to_vec()).map_err(|why| (libc::EINVAL, why))?;
        let thread = Thread::open(&configuration).map_err(|(errno, why)| (errno.get(), why))?;
        Ok(Parked(Seat::Taken(Box::new(thread))))
    }

    /// Exchanges the calling thread's library OS for this one.
    pub fn exchange(&mut self) {
        at_seat(|seat| {
            std::mem::swap(seat, &mut self.0);
            Ok(())
        });
    }
}

/// What the calling thread has in use, for tests.
#[derive(Clone, Copy, Default, Debug)]
pub struct InUse {
    /// Bytes of whole chunks of its heap.
    pub pinned: usize,
    /// Operations between submission and redemption.
    pub tokens: usize,
    /// Queues that are not closed.
    pub queues: usize,
    /// Closed queues whose buffers a device still holds.
    pub zombies: usize,
    /// Buffers that the program holds.
    pub held: usize,
}

/// See [`InUse`]; all zero, if the thread has no library OS.
pub fn in_use() -> InUse {
    let mut in_use = InUse::default();
    enter(|thread| {
        let libos = &thread.libos;
        libos.heap().exchange_returns();
        in_use = InUse {
            pinned: libos.heap().stats().pinned,
            tokens: libos.tokens_in_use(),
            queues: libos.queues_in_use(),
            zombies: libos.zombies(),
            held: thread.held.count(),
        };
        Ok(())
    });
    in_use
}

/// The calling thread's library OS ends, as at the end of the thread. What its heap has still pinned then.
pub fn leave() -> usize {
    let mut pinned = 0;
    at_seat(|seat| {
        if let Seat::Taken(thread) = std::mem::replace(seat, Seat::Empty) {
            let heap = thread.libos.heap().clone();
            drop(thread);
            heap.exchange_returns();
            pinned = heap.stats().pinned;
        }
        Ok(())
    });
    pinned
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_panic_becomes_an_errno_and_the_thread_is_given_up() {
        std::thread::spawn(|| {
            assert_eq!(enter(|_| Ok(())), libc::ENOSYS, "before demi_init");
            assert_eq!(init(), 0);
            assert_eq!(init(), libc::EEXIST);
            assert_eq!(enter(|_| panic!("a fault of ours, in a test")), libc::ENOTRECOVERABLE);
            assert_eq!(enter(|_| Ok(())), libc::ENOTRECOVERABLE);
            assert_eq!(init(), libc::ENOTRECOVERABLE);
        })
        .join()
        .unwrap();
    }

    #[test]
    fn a_call_inside_of_a_call_is_refused() {
        std::thread::spawn(|| {
            assert_eq!(init(), 0);
            let mut inner = 0;
            assert_eq!(enter(|_| (inner = enter(|_| Ok(())), Ok(())).1), 0);
            assert_eq!(inner, libc::EBUSY);
        })
        .join()
        .unwrap();
    }
}
