//! The library OS of one core, as its users see it: the calls of PDPIX.
//!
//! `LibOs` is a handle, cheap to clone, that stays on its core. `Core` (in `core.rs`) owns the state and runs the loop.
//! No call blocks but `wait*`, and those run the loop meanwhile. The calls stand by what they are about: `control.rs`,
//! `operations.rs`, `wait.rs`, `future.rs`, `neighbours.rs`; here is what a core knows of itself.

use std::cell::{Cell, RefCell};
use std::rc::Rc;

use libos_mem::{BufMut, Heap};
use pdpix::{Completions, Error, Instant, Network, Qd, Rng, Seed, Storage, WallTime, Wheel};

use crate::clock::Clock;
use crate::counters::{CounterReading, Counters};
use crate::idle::{Idle, IdlePolicy};
use crate::mesh::Ports;
use crate::parcel::Parcel;
use crate::queue::QueueTable;
use crate::scheduler::Scheduler;
use crate::sync::{Arc, AtomicBool};
use crate::token::{TokenTable, Waiter};
use crate::trace::{Event, Trace};

/// What to do with messages from other cores that are not the runtime's own.
pub type CoreReceiver = Box<dyn FnMut(u8, Parcel)>;

pub(crate) struct NamedNetwork {
    pub(crate) name: String,
    pub(crate) network: Box<dyn Network>,
}

pub(crate) struct NamedStorage {
    pub(crate) name: String,
    pub(crate) storage: Box<dyn Storage>,
}

pub(crate) struct Inner {
    pub(crate) heap: Heap,
    pub(crate) clock: Box<dyn Clock>,
    pub(crate) now: Cell<Instant>,
    /// Read when first asked for in a pass.
    pub(crate) wall: Cell<Option<WallTime>>,
    /// A pass is under way: nobody may wait.
    pub(crate) in_pass: Cell<bool>,
    pub(crate) core: u8,
    pub(crate) cores: usize,
    pub(crate) scheduler: Scheduler,
    pub(crate) tokens: RefCell<TokenTable>,
    pub(crate) queues: RefCell<QueueTable>,
    pub(crate) networks: RefCell<Vec<NamedNetwork>>,
    pub(crate) storages: RefCell<Vec<NamedStorage>>,
    /// The list that networks and storages fill.
    pub(crate) completions: RefCell<Completions>,
    pub(crate) timers: RefCell<Wheel<Waiter>>,
    pub(crate) ports: RefCell<Ports>,
    /// Attached queues with pushes that found the ring full.
    pub(crate) stalled: RefCell<Vec<Qd>>,
    pub(crate) receiver: RefCell<Option<CoreReceiver>>,
    /// Queues that have returned results, or wait for them (`returned.rs`).
    pub(crate) returned: Cell<usize>,
    /// A token that a blocking `wait` waits for has ended.
    pub(crate) caller_woken: Cell<bool>,
    pub(crate) stop: Cell<bool>,
    /// Another thread wants the present or next wait to end (`interrupt.rs`).
    pub(crate) interrupted: Arc<AtomicBool>,
    pub(crate) burst: Cell<usize>,
    pub(crate) idle_policy: IdlePolicy,
    pub(crate) idle: Idle,
    pub(crate) rng: RefCell<Rng>,
    pub(crate) seed: Seed,
    pub(crate) counters: Counters,
    pub(crate) trace: Trace,
}

/// The library OS of the calling core. Clones are the same.
#[derive(Clone)]
pub struct LibOs(pub(crate) Rc<Inner>);

// Memory, time, chance, and what a core knows of itself.
impl LibOs {
    /// Memory for `capacity` bytes that devices can reach.
    ///
    /// # Errors
    /// `NoBuffers`.
    pub fn alloc(&self, capacity: usize) -> Result<BufMut, Error> {
        Ok(self.0.heap.alloc(capacity)?)
    }

    /// The core's heap.
    pub fn heap(&self) -> &Heap {
        &self.0.heap
    }

    /// The number of this core.
    #[inline]
    pub fn core(&self) -> u8 {
        self.0.core
    }

    /// How many cores the host has.
    #[inline]
    pub fn cores(&self) -> usize {
        self.0.cores
    }

    /// The time of the present pass.
    #[inline]
    pub fn now(&self) -> Instant {
        self.0.now.get()
    }

    /// The time of day, of the present pass.
    #[inline]
    pub fn wall(&self) -> WallTime {
        self.0.wall.get().unwrap_or_else(|| {
            let wall = self.0.clock.wall();
            self.0.wall.set(Some(wall));
            wall
        })
    }

    /// The core's generator of random numbers, forked: the result is the caller's own.
    pub fn fork_rng(&self) -> Rng {
        self.0.rng.borrow_mut().fork()
    }

    /// The seed of this core's maps.
    pub fn seed(&self) -> &Seed {
        &self.0.seed
    }

    /// The counters.
    pub fn counters(&self) -> CounterReading {
        self.0.counters.switches.set(self.0.scheduler.switches.get());
        self.0.counters.read()
    }

    /// The trace ring.
    pub fn trace(&self) -> &Trace {
        &self.0.trace
    }

    /// Notes an event of the application's in the trace ring.
    pub fn mark(&self, first: u64, second: u64) {
        self.note(Event::Mark, first, second);
    }

    #[inline(always)]
    pub(crate) fn note(&self, event: Event, first: u64, second: u64) {
        self.0.trace.note(self.0.now.get(), event, first, second);
    }

    /// Makes `Core::run` return after this pass.
    pub fn stop(&self) {
        self.0.stop.set(true);
    }
}

impl std::fmt::Debug for LibOs {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "LibOs(core {}, {} queues, {} tokens)", self.core(), self.queues_in_use(), self.tokens_in_use())
    }
}
