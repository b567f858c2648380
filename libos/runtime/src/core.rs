//! The loop of a core: poll a burst, run what became runnable, flush what that caused, perhaps rest.
//!
//! `Core` owns the state that `LibOs` handles refer to. Coroutines hold such handles, so it is `Core`'s drop that ends
//! them and breaks the circle.

use std::cell::{Cell, RefCell};
use std::os::fd::RawFd;
use std::rc::Rc;

use libos_mem::Heap;
use pdpix::{Completions, Done, Error, Generation, Instant, Network, Rng, Seed, Storage, Wake, WakeOn, Wheel};

use crate::clock::Clock;
use crate::counters::{Counters, count};
use crate::doorbell::Doorbell;
use crate::idle::{self, DESCRIPTORS_MAX, Idle, IdlePolicy, Rest};
use crate::libos::{Inner, LibOs, NamedNetwork, NamedStorage};
use crate::mesh::Ports;
use crate::queue::QueueTable;
use crate::scheduler::Scheduler;
use crate::sync::{Arc, AtomicBool, Ordering};
use crate::token::TokenTable;
use crate::trace::{Event, Trace};

/// The most operations that one poll ends.
const BURST_MAX: usize = 256;

/// What a core is made of.
pub struct CoreParts {
    /// Its memory.
    pub heap: Heap,
    /// Its clock.
    pub clock: Box<dyn Clock>,
    /// Its ends of the rings to the other cores; [`mesh`](crate::mesh()) of one for a core alone.
    pub ports: Ports,
    /// Named networks, the default one first.
    pub networks: Vec<(String, Box<dyn Network>)>,
    /// Named storages, the default one first.
    pub storages: Vec<(String, Box<dyn Storage>)>,
    /// What it does when there is nothing to do.
    pub idle: IdlePolicy,
    /// All its chance: random numbers, and the order of its maps.
    pub seed: u64,
    /// Its trace ring.
    pub trace: Trace,
    /// Bits of a token's generation: [`Generation::BITS`], or fewer, to see it wrap.
    pub generation_bits: u32,
}

impl CoreParts {
    /// Parts with the usual idle policy, without networks, storages and trace.
    pub fn new(heap: Heap, clock: Box<dyn Clock>, ports: Ports) -> CoreParts {
        CoreParts {
            heap,
            clock,
            ports,
            networks: Vec::new(),
            storages: Vec::new(),
            idle: IdlePolicy::default(),
            seed: 0,
            trace: Trace::off(),
            generation_bits: Generation::BITS,
        }
    }
}

/// One core's library OS, owned. Dropping it ends its coroutines and closes its queues.
pub struct Core {
    libos: LibOs,
    stopper: Stopper,
}

/// Stops a core from any thread, or from a signal handler's thread.
#[derive(Clone)]
pub struct Stopper {
    asked: Arc<AtomicBool>,
    doorbell: Arc<Doorbell>,
}

impl Stopper {
    /// Makes [`Core::run`] return soon.
    pub fn stop(&self) {
        self.asked.store(true, Ordering::Release);
        self.doorbell.ring();
    }
}

/// What a step came to, for those who drive a core themselves.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Step {
    /// Something was done, or is runnable: step again.
    pub busy: bool,
    /// Else not before this, unless a device has something.
    pub deadline: Option<Instant>,
}

impl Core {
    /// Puts a core together. It belongs to the calling thread.
    ///
    /// # Panics
    /// If there are more networks and storages than a core can sleep on (15).
    pub fn new(parts: CoreParts) -> Core {
        let devices = parts.networks.len() + parts.storages.len();
        assert!(devices < DESCRIPTORS_MAX, "too many networks and storages for one core");
        let doorbell = parts.ports.doorbell().clone();
        let now = parts.clock.now();
        let networks = parts.networks.into_iter().map(|(name, network)| NamedNetwork { name, network });
        let storages = parts.storages.into_iter().map(|(name, storage)| NamedStorage { name, storage });
        let inner = Inner {
            heap: parts.heap,
            now: Cell::new(now),
            wall: Cell::new(None),
            in_pass: Cell::new(false),
            clock: parts.clock,
            core: parts.ports.core(),
            cores: parts.ports.cores(),
            scheduler: Scheduler::new(doorbell.clone()),
            tokens: RefCell::new(TokenTable::new(parts.ports.core(), parts.generation_bits)),
            queues: RefCell::new(QueueTable::default()),
            networks: RefCell::new(networks.collect()),
            storages: RefCell::new(storages.collect()),
            completions: RefCell::new(Completions::new()),
            timers: RefCell::new(Wheel::new(now)),
            ports: RefCell::new(parts.ports),
            stalled: RefCell::default(),
            receiver: RefCell::default(),
            returned: Cell::new(0),
            caller_woken: Cell::new(false),
            stop: Cell::new(false),
            interrupted: Arc::new(AtomicBool::new(false)),
            burst: Cell::new(1),
            idle_policy: parts.idle,
            idle: Idle::default(),
            rng: RefCell::new(Rng::new(parts.seed)),
            seed: Seed::new(parts.seed),
            counters: Counters::default(),
            trace: parts.trace,
        };
        Core { libos: LibOs(Rc::new(inner)), stopper: Stopper { asked: Arc::new(AtomicBool::new(false)), doorbell } }
    }

    /// A handle to it.
    pub fn libos(&self) -> &LibOs {
        &self.libos
    }

    /// What stops [`Core::run`] from elsewhere.
    pub fn stopper(&self) -> Stopper {
        self.stopper.clone()
    }

    /// Runs until [`LibOs::stop`] or [`Stopper::stop`] is called, or no coroutine is left.
    pub fn run(&self) {
        if matches!(self.libos.0.idle_policy, IdlePolicy::Adaptive(_)) {
            // The default slack of 50 us would more than double a nap.
            let _ = rustix::thread::set_current_timer_slack(std::num::NonZeroU64::new(1));
        }
        let asked = || self.stopper.asked.load(Ordering::Acquire);
        while !self.libos.0.stop.get() && !asked() && self.libos.0.scheduler.count() > 0 {
            if self.libos.turn(None, || self.libos.0.stop.get() || asked()).is_err() {
                break; // stepped, and nothing to do
            }
        }
        self.libos.0.stop.set(false);
        self.stopper.asked.store(false, Ordering::Relaxed);
    }

    /// Whether [`Stopper::stop`] was called and `run` has not returned since.
    pub fn is_asked_to_stop(&self) -> bool {
        self.stopper.asked.load(Ordering::Acquire)
    }

    /// Whether somebody has given a stepped core work since the last time that this was asked.
    pub fn take_rung(&self) -> bool {
        self.stopper.doorbell.take_rung()
    }

    /// Does one pass.
    pub fn step(&self) -> Step {
        let busy = self.libos.pass();
        let inner = &self.libos.0;
        let deadline = inner.timers.borrow().next_deadline();
        let now = inner.now.get();
        let (mut busy, mut deadline) = (busy || inner.scheduler.has_ready() || self.libos.has_core_work(), deadline);
        if busy {
            // Who steps again at once need not be woken.
            return Step { busy, deadline };
        }
        inner.arm(now, |wake| {
            busy |= wake.on == WakeOn::Now;
            // One that cannot say is looked at after a nap.
            let nap = (wake.on == WakeOn::Nap).then(|| now + inner.idle.next_nap());
            deadline = earlier(earlier(deadline, wake.deadline), nap);
        });
        Step { busy, deadline }
    }
}

impl Drop for Core {
    fn drop(&mut self) {
        let inner = &self.libos.0;
        inner.scheduler.abort_all();
        // What receives messages may hold a handle.
        let receiver = inner.receiver.borrow_mut().take();
        drop(receiver);
        let open = inner.queues.borrow().all();
        open.into_iter().for_each(|qd| _ = self.libos.close(qd));
        // Devices are told to close; what they still had to send or write goes out as far as they take it now.
        inner.flush_devices(inner.clock.now());
        inner.ports.borrow_mut().flush();
        inner.networks.borrow_mut().clear();
        inner.storages.borrow_mut().clear();
        inner.heap.exchange_returns();
        // Whom it sent something since its last pass, a neighbour that sleeps, is to be woken for it.
        inner.ports.borrow_mut().flush();
    }
}

impl Inner {
    /// Rings every doorbell for what was submitted in this pass.
    #[inline]
    fn flush_devices(&self, now: Instant) {
        for named in self.networks.borrow_mut().iter_mut() {
            named.network.flush(now);
        }
        for named in self.storages.borrow_mut().iter_mut() {
            named.storage.flush(now);
        }
    }

    /// Asks every device to wake us, and tells how each will.
    fn arm(&self, now: Instant, mut tell: impl FnMut(Wake)) {
        self.networks.borrow_mut().iter_mut().for_each(|named| tell(named.network.arm(now)));
        self.storages.borrow_mut().iter_mut().for_each(|named| tell(named.storage.arm(now)));
    }
}

impl LibOs {
    /// One pass. Whether anything was done.
    #[inline]
    pub(crate) fn pass(&self) -> bool {
        let inner = &*self.0;
        let now = inner.clock.now();
        inner.now.set(now);
        inner.wall.set(None);
        inner.in_pass.set(true);
        inner.heap.exchange_returns();
        let messages = if inner.cores > 1 { self.take_core_messages(BURST_MAX) } else { 0 };
        let ended = self.poll_devices(now);
        let timers = if inner.timers.borrow_mut().is_due(now) { self.fire_timers(now) } else { 0 };
        let ran = inner.scheduler.run();
        inner.flush_devices(now);
        if inner.cores > 1 {
            if !inner.stalled.borrow().is_empty() {
                self.retry_stalled();
            }
            inner.ports.borrow_mut().flush();
        }
        inner.in_pass.set(false);
        count(&inner.counters.passes);
        let busy = messages + ended + timers + ran > 0;
        if busy {
            count(&inner.counters.busy_passes);
            self.note(Event::Pass, ended as u64, ran as u64);
            inner.idle.busy(ended + messages);
        }
        busy
    }

    #[cold]
    fn fire_timers(&self, now: Instant) -> usize {
        let mut fired = 0;
        loop {
            let waiter = self.0.timers.borrow_mut().pop(now);
            let Some(waiter) = waiter else { return fired };
            self.notify(waiter);
            fired += 1;
        }
    }

    /// Bursts grow only when there is a queue (adaptive batching, IX OSDI'14). A call of its own, so that a profile shows
    /// what it takes from frames to runnable coroutines.
    #[inline(never)]
    fn poll_devices(&self, now: Instant) -> usize {
        let inner = &*self.0;
        let mut ended = 0;
        let mut full = false;
        let networks = inner.networks.borrow().len();
        for index in 0..networks {
            {
                let mut completions = inner.completions.borrow_mut();
                completions.set_room(inner.burst.get());
                inner.networks.borrow_mut()[index].network.poll(now, &mut completions);
                full |= completions.room() == 0;
                ended += completions.len();
            }
            // With nothing borrowed: an end may wake somebody who begins something.
            while let Some(done) = self.next_end() {
                self.complete_from(index as u8, done.op, done.result);
            }
        }
        let storages = inner.storages.borrow().len();
        for index in 0..storages {
            {
                let mut completions = inner.completions.borrow_mut();
                completions.set_room(inner.burst.get());
                inner.storages.borrow_mut()[index].storage.poll(now, &mut completions);
                full |= completions.room() == 0;
                ended += completions.len();
            }
            while let Some(done) = self.next_end() {
                self.complete_from_storage(done.op, done.result);
            }
        }
        let burst = inner.burst.get();
        inner.burst.set(if full { (burst * 2).min(BURST_MAX) } else { (burst / 2).max(1) });
        ended
    }

    /// What a poll has ended and nobody has heard of yet.
    #[inline(always)]
    fn next_end(&self) -> Option<Done> {
        self.0.completions.borrow_mut().pop()
    }

    /// Whether other cores have sent something, or something waits to be sent to them.
    fn has_core_work(&self) -> bool {
        let ports = self.0.ports.borrow();
        ports.has_messages() || ports.has_overflow() || !self.0.stalled.borrow().is_empty()
    }

    /// One pass, and if it found nothing a rest: not beyond `deadline`, and not if `enough` says so.
    ///
    /// # Errors
    /// `WouldDeadlock`: the core is stepped by the simulator, and there is nothing to do.
    pub(crate) fn turn(&self, deadline: Option<Instant>, enough: impl Fn() -> bool) -> Result<(), Error> {
        if self.pass() || enough() || deadline.is_some_and(|deadline| self.now() >= deadline) {
            return Ok(());
        }
        let inner = &*self.0;
        match inner.idle_policy {
            IdlePolicy::Spin => std::hint::spin_loop(),
            IdlePolicy::Stepped => return Err(Error::WouldDeadlock),
            IdlePolicy::Adaptive(patience) => match inner.idle.rest(self.now(), patience) {
                Rest::Spin => std::hint::spin_loop(),
                Rest::Gather(nap) => {
                    count(&inner.counters.naps);
                    idle::sleep(&[], Some(nap));
                }
                Rest::Sleep => self.sleep_until_woken(deadline, enough),
            },
        }
        Ok(())
    }

    /// Arms every device, looks once more, and sleeps.
    #[cold]
    fn sleep_until_woken(&self, deadline: Option<Instant>, enough: impl Fn() -> bool) {
        let inner = &*self.0;
        let doorbell = inner.ports.borrow().doorbell().clone();
        doorbell.lie_down();
        let mut descriptors = [0 as RawFd; DESCRIPTORS_MAX];
        let mut count_of = 0;
        let mut ends = earlier(deadline, inner.timers.borrow().next_deadline());
        let (mut now_busy, mut nap) = (false, false);
        if let Some(descriptor) = doorbell.descriptor() {
            descriptors[count_of] = descriptor;
            count_of += 1;
        }
        inner.arm(inner.now.get(), |wake| {
            ends = earlier(ends, wake.deadline);
            match wake.on {
                WakeOn::Now => now_busy = true,
                WakeOn::Descriptor(descriptor) => {
                    descriptors[count_of] = descriptor;
                    count_of += 1;
                }
                WakeOn::Nap => nap = true,
                WakeOn::Nothing => {}
            }
        });
        // Once more, now that everybody would wake us: what came before that is seen here.
        let looks = !cfg!(margay_planted_bug = "no_second_look");
        if looks && (now_busy || self.pass() || inner.scheduler.has_ready() || self.has_core_work() || enough()) {
            doorbell.get_up();
            return;
        }
        // What came may have ended nothing, and left a deadline all the same: a segment to be acknowledged, a flush.
        ends = earlier(ends, inner.timers.borrow().next_deadline());
        inner.arm(inner.now.get(), |wake| {
            ends = earlier(ends, wake.deadline);
            now_busy |= wake.on == WakeOn::Now;
            // Nor may it be able to say any more when there is room again for what was sent meanwhile.
            nap |= wake.on == WakeOn::Nap;
        });
        if now_busy {
            doorbell.get_up();
            return;
        }
        let now = inner.clock.now();
        let mut timeout = ends.map(|ends| ends.since(now));
        if nap {
            let short = inner.idle.next_nap();
            timeout = Some(timeout.map_or(short, |timeout| timeout.min(short)));
        }
        count(&inner.counters.sleeps);
        self.note(Event::Sleep, timeout.map_or(0, |timeout| timeout.as_nanos() as u64), 0);
        idle::sleep(&descriptors[..count_of], timeout);
        doorbell.get_up();
        let woken = inner.clock.now();
        inner.now.set(woken);
        self.note(Event::WakeUp, woken.since(now).as_nanos() as u64, 0);
    }
}

fn earlier(a: Option<Instant>, b: Option<Instant>) -> Option<Instant> {
    match (a, b) {
        (Some(a), Some(b)) => Some(a.min(b)),
        (a, b) => a.or(b),
    }
}
