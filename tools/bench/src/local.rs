//! What one core does by itself: coroutines, memory queues, memory.

use std::future::{Future, poll_fn};
use std::hint::black_box;
use std::pin::Pin;
use std::task::{Context, Poll, Waker};

use libos_mem::{Heap, Plan, Reservation, Reserves, Source};
use libos_runtime::{Core, CoreParts, CoroutineId, IdlePolicy, KernelClock, MeshKind, Ports, mesh};
use pdpix::Sga;

use crate::sampling::{median, nanos_each, nanos_per_call};

/// Coroutines that take turns: as many as make what a pass costs besides disappear.
const COROUTINES: usize = 1024;

/// Memory for some cores.
pub fn reservation(heaps: usize) -> Reservation {
    let plan = Plan { heaps, heap_size: 64 << 20, reserves: Reserves::NONE, source: Source::Ordinary };
    Reservation::new(plan).expect("64 MiB of address space for each core")
}

/// A core without any network.
pub fn core(heap: Heap, ports: Ports, idle: IdlePolicy) -> Core {
    Core::new(CoreParts { idle, ..CoreParts::new(heap, Box::new(KernelClock), ports) })
}

/// A core that is stepped by hand.
pub fn stepped_core() -> Core {
    let ports = mesh(1, MeshKind::Stepped).expect("no descriptors are needed").remove(0);
    core(reservation(1).heap(0).expect("the only core"), ports, IdlePolicy::Stepped)
}

/// A core with coroutines that do nothing, each time they are woken.
pub struct Switching {
    core: Core,
    ids: Vec<CoroutineId>,
}

impl Switching {
    /// All of them have run once.
    pub fn new() -> Switching {
        let core = stepped_core();
        let spawn = |index: usize| {
            let mut polled = index;
            let counts = poll_fn(move |_| -> Poll<()> {
                polled = polled.wrapping_add(1);
                black_box(polled);
                Poll::Pending
            });
            core.libos().spawn(counts).id()
        };
        let ids = (0..COROUTINES).map(spawn).collect();
        while core.step().busy {}
        Switching { core, ids }
    }

    /// Makes all of them runnable: sets a bit each.
    pub fn wake(&self) {
        let libos = self.core.libos();
        self.ids.iter().for_each(|&id| libos.wake(id));
    }

    /// Runs those that are.
    pub fn run(&self) {
        self.core.step();
    }

    /// How many there are.
    pub fn count(&self) -> u64 {
        self.ids.len() as u64
    }
}

impl Default for Switching {
    fn default() -> Switching {
        Switching::new()
    }
}

/// A core with coroutines that do nothing but give way, as an application writes it: a future of its own each time, and
/// each makes itself runnable again.
pub fn yielding() -> Core {
    let core = stepped_core();
    for _ in 0..COROUTINES {
        let libos = core.libos().clone();
        core.libos().spawn(async move {
            loop {
                libos.yield_now().await;
            }
        });
    }
    core
}

/// Switches this many times, about; says how many times exactly.
pub fn switch(core: &Core, count: u64) -> u64 {
    let before = core.libos().counters().switches;
    while core.libos().counters().switches - before < count {
        core.step();
    }
    core.libos().counters().switches - before
}

type Pollable = Pin<Box<dyn Future<Output = ()>>>;

/// As many futures as there are coroutines, that are never ready: to be polled directly.
pub fn pollables() -> Vec<Pollable> {
    let pollable = |index: usize| -> Pollable {
        let mut polled = index;
        Box::pin(poll_fn(move |_| {
            polled = polled.wrapping_add(1);
            black_box(polled);
            Poll::Pending
        }))
    };
    (0..COROUTINES).map(pollable).collect()
}

/// Polls `count` times, a multiple of how many there are, in turn: an indirect call each.
pub fn call(pollables: &mut [Pollable], count: u64) {
    let mut context = Context::from_waker(Waker::noop());
    for _ in 0..count / COROUTINES as u64 {
        for pollable in pollables.iter_mut() {
            let _ = black_box(pollable.as_mut().poll(&mut context));
        }
    }
}

/// Nanoseconds.
#[derive(Clone, Copy, Debug)]
pub struct SwitchFigures {
    /// From one runnable coroutine to the next.
    pub switch: f64,
    /// Making one runnable.
    pub wake: f64,
    /// Both, by `yield_now`.
    pub yielded: f64,
    /// The floor: an indirect call of a future that does the same.
    pub call: f64,
}

/// What switching takes.
pub fn coroutine_switch() -> SwitchFigures {
    let (switching, yielding, mut pollables) = (Switching::new(), yielding(), pollables());
    let mut figures = [const { Vec::new() }; 4];
    let each = switching.count();
    for _ in 0..1_000 {
        figures[1].push(nanos_each(each, || switching.wake()));
        figures[0].push(nanos_each(each, || switching.run()));
        let mut switched = 0;
        let nanos = nanos_each(1, || switched = switch(&yielding, each));
        figures[2].push(nanos / switched as f64);
        figures[3].push(nanos_each(each, || call(&mut pollables, each)));
    }
    let [switch, wake, yielded, call] = figures.map(median);
    SwitchFigures { switch, wake, yielded, call }
}

/// A memory queue, and what goes through it.
pub struct Rounds {
    core: Core,
    qd: pdpix::Qd,
    sga: Option<Sga>,
}

impl Rounds {
    /// With a message of 64 B.
    pub fn new() -> Rounds {
        let core = stepped_core();
        let qd = core.libos().queue().expect("a queue");
        let sga = Sga::copy(core.libos().heap(), &[7; 64]).expect("64 bytes");
        Rounds { core, qd, sga: Some(sga) }
    }

    /// Push, wait, pop, wait.
    #[inline]
    pub fn round(&mut self) {
        let libos = self.core.libos();
        let sga = self.sga.take().expect("it came back");
        let push = libos.push(self.qd, sga).expect("there is room");
        libos.wait(push, None).and_then(|done| done.done()).expect("pushed");
        let pop = libos.pop(self.qd, 4096).expect("there is something");
        self.sga = Some(libos.wait(pop, None).and_then(|done| done.popped()).expect("popped").sga);
    }
}

impl Default for Rounds {
    fn default() -> Rounds {
        Rounds::new()
    }
}

/// Nanoseconds of push, pop and the two waits on a memory queue.
pub fn memory_queue() -> f64 {
    let mut rounds = Rounds::new();
    nanos_per_call(200, 2_000, || rounds.round())
}

/// Nanoseconds of alloc and free of `size` bytes from a core's heap: one after the other; and 64 at a time, each.
pub fn alloc(size: usize) -> (f64, f64) {
    let heap = reservation(1).heap(0).expect("the only core");
    let pair = nanos_per_call(200, 1_000, || drop(black_box(heap.alloc(black_box(size)).expect("room"))));
    let mut held = Vec::with_capacity(64);
    let burst = nanos_per_call(200, 20, || {
        (0..64).for_each(|_| held.push(heap.alloc(black_box(size)).expect("room")));
        black_box(&mut held).clear();
    });
    (pair, burst / 64.0)
}

/// The same from the program's allocator, whichever it is.
pub fn global_alloc(size: usize) -> (f64, f64) {
    let pair = nanos_per_call(200, 1_000, || drop(black_box(Vec::<u8>::with_capacity(black_box(size)))));
    let mut held = Vec::with_capacity(64);
    let burst = nanos_per_call(200, 20, || {
        (0..64).for_each(|_| held.push(Vec::<u8>::with_capacity(black_box(size))));
        black_box(&mut held).clear();
    });
    (pair, burst / 64.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn coroutines_take_turns() {
        let core = yielding();
        let switched = switch(&core, 5_000);
        assert!((5_000..5_000 + COROUTINES as u64).contains(&switched), "{switched}");
        let switching = Switching::new();
        let before = switching.core.libos().counters().switches;
        switching.run();
        assert_eq!(switching.core.libos().counters().switches, before, "nobody was woken");
        switching.wake();
        switching.run();
        assert_eq!(switching.core.libos().counters().switches, before + switching.count());
    }

    #[test]
    fn a_message_goes_round() {
        let mut rounds = Rounds::new();
        (0..100).for_each(|_| rounds.round());
        assert_eq!(rounds.sga.map(|sga| sga.to_vec()), Some(vec![7; 64]));
        assert_eq!(rounds.core.libos().counters().pops, 100);
    }
}
