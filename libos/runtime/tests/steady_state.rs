//! In the steady state no operation allocates: this binary's allocator counts.

mod support;

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use pdpix::Sga;

struct Counting;

static ALLOCATIONS: AtomicU64 = AtomicU64::new(0);

thread_local! {
    /// This thread is the core's: the test harness's own may allocate at any time, and does when it is scheduled late.
    static IS_COUNTED: Cell<bool> = const { Cell::new(false) };
}

// SAFETY: everything is left to the system's allocator.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        if IS_COUNTED.try_with(Cell::get).unwrap_or(false) {
            ALLOCATIONS.fetch_add(1, Ordering::Relaxed);
        }
        // SAFETY: the caller's promise.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, start: *mut u8, layout: Layout) {
        // SAFETY: the caller's promise.
        unsafe { System.dealloc(start, layout) }
    }
}

#[global_allocator]
static COUNTING: Counting = Counting;

/// One test: the counter is the process's.
#[test]
fn no_operation_allocates_in_the_steady_state() {
    IS_COUNTED.set(true);
    let (core, clock) = support::core();
    let libos = core.libos().clone();
    let (there, back) = (libos.queue().unwrap(), libos.queue().unwrap());
    // An echo between two coroutines over two memory queues, with a sleep in each round.
    let echo = libos.clone();
    libos.spawn(async move {
        loop {
            let qt = echo.pop(there, 100).unwrap();
            let popped = echo.redeem(qt).await.unwrap().popped().unwrap();
            let qt = echo.push(back, popped.sga).unwrap();
            echo.redeem(qt).await.unwrap().done().unwrap();
        }
    });
    let client = libos.clone();
    libos.spawn(async move {
        loop {
            let sga = Sga::copy(client.heap(), b"sixty-four bytes or so").unwrap();
            let qt = client.push(there, sga).unwrap();
            client.redeem(qt).await.unwrap().done().unwrap();
            let qt = client.pop(back, 100).unwrap();
            client.redeem(qt).await.unwrap().popped().unwrap();
            client.sleep(Duration::from_micros(3)).await;
        }
    });
    let rounds = |count: usize| {
        let before = ALLOCATIONS.load(Ordering::Relaxed);
        for _ in 0..count {
            clock.advance(5_000);
            core.step();
        }
        ALLOCATIONS.load(Ordering::Relaxed) - before
    };
    rounds(1000);
    let before = ALLOCATIONS.load(Ordering::Relaxed);
    drop(std::hint::black_box(Box::new(7u8)));
    assert_eq!(ALLOCATIONS.load(Ordering::Relaxed) - before, 1, "what is allocated here is seen");
    let pops = libos.counters().pops;
    assert_eq!(rounds(10_000), 0, "allocations");
    assert!(libos.counters().pops - pops >= 4_000, "the echo went on");
    // The same from outside, by `wait`.
    let qd = libos.queue().unwrap();
    let outside = |count: usize| {
        let before = ALLOCATIONS.load(Ordering::Relaxed);
        for _ in 0..count {
            let pop = libos.pop(qd, 100).unwrap();
            let push = libos.push(qd, Sga::copy(libos.heap(), b"x").unwrap()).unwrap();
            libos.wait(push, None).unwrap();
            libos.wait(pop, None).unwrap();
        }
        ALLOCATIONS.load(Ordering::Relaxed) - before
    };
    outside(100);
    assert_eq!(outside(10_000), 0, "allocations");
}
