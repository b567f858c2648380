//! The coroutines of one core. A waker is one bit; the next runnable one is found with `trailing_zeros`.
//!
//! Coroutines live in blocks of 64: a word of ready bits a block, and a bit a block in a summary above. What the runtime
//! wakes itself (a completed token, a timer) sets its bit directly, without an atomic. A `std::task::Waker`, which may
//! be called on any thread, sets a bit in a word of its own, which the core takes over when its doorbell was called.
//!
//! Always: a coroutine's bit is clear while it runs, unless it was woken again since; a bit without a coroutine is
//! ignored; each pass runs what was ready when it began, in order of place, so nobody starves.
//! Blocked coroutines cost nothing. Source: Demikernel (SOSP'21) §5.4.

use std::cell::{Cell, UnsafeCell};
use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll, RawWaker, RawWakerVTable, Waker};

use crate::doorbell::Doorbell;
use crate::sync::{Arc, AtomicU64, Ordering};

const BLOCK: usize = 64;

/// A coroutine's place. Used again after it ended: to wake a place is at worst a wake for nothing.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Place(pub(crate) u32);

type Coroutine = Pin<Box<dyn Future<Output = ()>>>;

/// The bits that wakers set, shared with them. Aligned, so that a pointer has room for the number of a bit.
#[repr(align(64))]
struct Woken {
    bits: AtomicU64,
    doorbell: Arc<Doorbell>,
}

/// 64 places.
struct Block {
    /// Which of them are runnable.
    ready: Cell<u64>,
    woken: Arc<Woken>,
    coroutines: [UnsafeCell<Option<Coroutine>>; BLOCK],
    /// The waker of each place, made once: what is polled there gets it by reference.
    wakers: [Waker; BLOCK],
}

pub(crate) struct Scheduler {
    /// Boxed, so that a block stays where it is when there are more. Grows only; see `block`.
    #[allow(clippy::vec_box, reason = "coroutines spawn others while their own block is in use")]
    blocks: UnsafeCell<Vec<Box<Block>>>,
    /// A bit for each block that has runnable ones, in words of 64.
    summary: UnsafeCell<Vec<Cell<u64>>>,
    /// Places without a coroutine.
    free: UnsafeCell<Vec<u32>>,
    count: Cell<usize>,
    /// The one that runs now, or `NOBODY`, and its waker.
    running: Cell<u32>,
    running_waker: Cell<*const Waker>,
    /// It was aborted while it ran: dropped when it returns.
    abort_running: Cell<bool>,
    doorbell: Arc<Doorbell>,
    pub(crate) switches: Cell<u64>,
}

const NOBODY: u32 = u32::MAX;

impl Scheduler {
    pub(crate) fn new(doorbell: Arc<Doorbell>) -> Scheduler {
        Scheduler {
            blocks: UnsafeCell::default(),
            summary: UnsafeCell::default(),
            free: UnsafeCell::default(),
            count: Cell::new(0),
            running: Cell::new(NOBODY),
            running_waker: Cell::new(std::ptr::null()),
            abort_running: Cell::new(false),
            doorbell,
            switches: Cell::new(0),
        }
    }

    /// Adds a coroutine, runnable.
    pub(crate) fn spawn(&self, coroutine: Coroutine) -> Place {
        // SAFETY: the list of free places is used here and in `release` only, and nothing is called meanwhile.
        let popped = unsafe { &mut *self.free.get() }.pop();
        let place = Place(popped.unwrap_or_else(|| self.add_block()));
        let (block, bit) = (self.block(place.0 as usize / BLOCK), place.0 as usize % BLOCK);
        // SAFETY: a free place is empty, so nothing is dropped, and nobody else refers to it.
        unsafe { *block.coroutines[bit].get() = Some(coroutine) };
        self.count.set(self.count.get() + 1);
        self.wake(place);
        place
    }

    /// Makes 64 more places, and gives one of them.
    #[cold]
    fn add_block(&self) -> u32 {
        let first = self.block_count() * BLOCK;
        let woken = Arc::new(Woken { bits: AtomicU64::new(0), doorbell: self.doorbell.clone() });
        let coroutines = std::array::from_fn(|_| UnsafeCell::new(None));
        let wakers = std::array::from_fn(|bit| waker(woken.clone(), bit));
        let block = Box::new(Block { ready: Cell::new(0), woken, coroutines, wakers });
        // SAFETY: references into these lists do not live across a call that could come here: blocks are boxed, and
        // words of the summary are read at once.
        unsafe {
            (*self.blocks.get()).push(block);
            if first.is_multiple_of(BLOCK * 64) {
                (*self.summary.get()).push(Cell::new(0));
            }
            (*self.free.get()).extend((first as u32 + 1..(first + BLOCK) as u32).rev());
        }
        first as u32
    }

    fn block_count(&self) -> usize {
        // SAFETY: read at once.
        unsafe { (*self.blocks.get()).len() }
    }

    #[inline(always)]
    fn block(&self, index: usize) -> &Block {
        // SAFETY: a block is boxed and is not dropped before the scheduler is: it stays valid while the list grows.
        unsafe { &(&(*self.blocks.get()))[index] }
    }

    #[inline(always)]
    fn summary(&self, index: usize) -> &Cell<u64> {
        // SAFETY: the list grows in `add_block` only, and callers use the word at once.
        unsafe { &(&(*self.summary.get()))[index] }
    }

    /// Makes a coroutine runnable.
    #[inline(always)]
    pub(crate) fn wake(&self, place: Place) {
        let (block, bit) = (place.0 as usize / BLOCK, place.0 as usize % BLOCK);
        self.wake_bits(block, 1 << bit);
    }

    #[inline(always)]
    fn wake_bits(&self, block: usize, bits: u64) {
        let ready = &self.block(block).ready;
        ready.set(ready.get() | bits);
        let summary = self.summary(block / 64);
        summary.set(summary.get() | 1 << (block % 64));
    }

    /// Ends a coroutine. One that runs now is dropped when it returns.
    pub(crate) fn abort(&self, place: Place) {
        if self.running.get() == place.0 {
            return self.abort_running.set(true);
        }
        self.release(place);
    }

    /// Ends all coroutines.
    pub(crate) fn abort_all(&self) {
        let mut place = 0;
        while place < self.block_count() * BLOCK {
            self.abort(Place(place as u32));
            place += 1;
        }
    }

    /// Empties a place. What was there is dropped last: it may call anything.
    #[cold]
    fn release(&self, place: Place) {
        let slot = &self.block(place.0 as usize / BLOCK).coroutines[place.0 as usize % BLOCK];
        // SAFETY: the coroutine is not being polled (`abort` and `resume` see to that), and nothing else refers to it.
        let coroutine = unsafe { (*slot.get()).take() };
        if coroutine.is_some() {
            // SAFETY: as in `spawn`.
            unsafe { (*self.free.get()).push(place.0) };
            self.count.set(self.count.get() - 1);
        }
        drop(coroutine);
    }

    /// How many coroutines there are.
    pub(crate) fn count(&self) -> usize {
        self.count.get()
    }

    /// The coroutine that runs now.
    #[inline(always)]
    pub(crate) fn running(&self) -> Option<Place> {
        let running = self.running.get();
        (running != NOBODY).then_some(Place(running))
    }

    /// The coroutine that runs now, if `waker` is its own and not that of something between us and it, such as a join
    /// of several futures, which must be told which of them is to be polled. (A copy of it is not recognised, and works
    /// as any waker does.)
    #[inline(always)]
    pub(crate) fn running_with(&self, waker: &Waker) -> Option<Place> {
        self.running().filter(|_| std::ptr::eq(waker, self.running_waker.get()))
    }

    /// Whether something is runnable.
    pub(crate) fn has_ready(&self) -> bool {
        self.doorbell.is_called() || (0..self.block_count().div_ceil(64)).any(|word| self.summary(word).get() != 0)
    }

    /// Runs each coroutine that is runnable now, once. Returns how many.
    #[inline]
    pub(crate) fn run(&self) -> usize {
        if self.doorbell.take_called() {
            self.take_woken();
        }
        let mut ran = 0;
        for word in 0..self.block_count().div_ceil(64) {
            let mut blocks = self.summary(word).take();
            while blocks != 0 {
                ran += self.run_block(word * 64 + blocks.trailing_zeros() as usize);
                blocks &= blocks - 1;
            }
        }
        self.running.set(NOBODY);
        self.switches.set(self.switches.get() + ran as u64);
        ran
    }

    fn run_block(&self, index: usize) -> usize {
        let block = self.block(index);
        let mut bits = block.ready.take();
        let mut ran = 0;
        let first = (index * BLOCK) as u32;
        while bits != 0 {
            let bit = bits.trailing_zeros();
            bits &= bits - 1;
            ran += 1;
            // SAFETY: `bit` is below 64. Read at once: what the coroutine does may empty other places, not this one.
            let Some(coroutine) = (unsafe { &mut *block.coroutines.get_unchecked(bit as usize).get() }) else {
                continue;
            };
            // SAFETY: the future is not moved: it is polled below, pinned again.
            let coroutine: *mut dyn Future<Output = ()> = unsafe { coroutine.as_mut().get_unchecked_mut() };
            // SAFETY: `bit` is below 64.
            let waker = unsafe { block.wakers.get_unchecked(bit as usize) };
            self.running.set(first + bit);
            self.running_waker.set(waker);
            // SAFETY: the future is in a pinned box, which stays where it is while it is polled: it leaves its place
            // in `release` only, which spares the one that runs. It is not polled twice at once, as `run` is not
            // called from inside a coroutine (`wait*` is refused there, and nothing else calls it).
            let poll = unsafe { Pin::new_unchecked(&mut *coroutine) }.poll(&mut Context::from_waker(waker));
            if poll.is_ready() || self.abort_running.get() {
                self.abort_running.set(false);
                self.running.set(NOBODY);
                self.release(Place(first + bit));
            }
        }
        ran
    }

    /// Takes over the bits that wakers have set.
    #[cold]
    fn take_woken(&self) {
        for index in 0..self.block_count() {
            // Acquire: what the waker's thread wrote before it woke us is seen by the coroutine.
            let bits = self.block(index).woken.bits.swap(0, Ordering::Acquire);
            if bits != 0 {
                self.wake_bits(index, bits);
            }
        }
    }
}

/// A waker's data: the address of its block's `Woken`, plus the number of its bit, which fits below the alignment.
static VTABLE: RawWakerVTable = RawWakerVTable::new(clone_waker, wake, wake_by_ref, drop_waker);

/// The waker of a place in the block of `woken`.
fn waker(woken: Arc<Woken>, bit: usize) -> Waker {
    let data = Arc::into_raw(woken).cast::<u8>().wrapping_add(bit).cast();
    // SAFETY: `data` is what `VTABLE` expects, with a count of its own.
    unsafe { Waker::new(data, &VTABLE) }
}

fn parts(data: *const ()) -> (*const Woken, u32) {
    let bit = data as usize % BLOCK;
    (data.wrapping_byte_sub(bit).cast(), bit as u32)
}

unsafe fn clone_waker(data: *const ()) -> RawWaker {
    let (woken, _) = parts(data);
    // SAFETY: a waker's data points into an `Arc` that lives: this waker counts, or the scheduler does.
    unsafe { Arc::increment_strong_count(woken) };
    RawWaker::new(data, &VTABLE)
}

unsafe fn wake(data: *const ()) {
    // SAFETY: the same promises; then the waker is used up.
    unsafe {
        wake_by_ref(data);
        drop_waker(data);
    }
}

unsafe fn wake_by_ref(data: *const ()) {
    let (woken, bit) = parts(data);
    // SAFETY: as in `clone_waker`.
    let woken = unsafe { &*woken };
    woken.bits.fetch_or(1 << bit, Ordering::Release);
    woken.doorbell.call();
}

unsafe fn drop_waker(data: *const ()) {
    let (woken, _) = parts(data);
    // SAFETY: as in `clone_waker`; this waker's count.
    unsafe { Arc::decrement_strong_count(woken) };
}

/// Gives way to the other runnable coroutines, once.
pub(crate) struct Yield<'a> {
    scheduler: &'a Scheduler,
    yielded: bool,
}

impl<'a> Yield<'a> {
    pub(crate) fn new(scheduler: &'a Scheduler) -> Yield<'a> {
        Yield { scheduler, yielded: false }
    }
}

impl Future for Yield<'_> {
    type Output = ();

    #[inline]
    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        if std::mem::replace(&mut self.yielded, true) {
            return Poll::Ready(());
        }
        match self.scheduler.running_with(cx.waker()) {
            Some(place) => self.scheduler.wake(place),
            None => cx.waker().wake_by_ref(),
        }
        Poll::Pending
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use std::cell::RefCell;
    use std::rc::Rc;

    use super::*;

    fn scheduler() -> Rc<Scheduler> {
        Rc::new(Scheduler::new(Doorbell::stepped()))
    }

    /// Notes its number each time it runs, `times` times.
    async fn noted(scheduler: Rc<Scheduler>, notes: Rc<RefCell<Vec<usize>>>, number: usize, times: usize) {
        for _ in 0..times {
            notes.borrow_mut().push(number);
            Yield::new(&scheduler).await;
        }
    }

    /// The place of the coroutine that runs.
    fn here(scheduler: &Scheduler) -> Place {
        Place(scheduler.running.get())
    }

    #[test]
    fn each_pass_runs_each_ready_one_once_in_order() {
        let (scheduler, notes) = (scheduler(), Rc::default());
        for number in 0..130 {
            scheduler.spawn(Box::pin(noted(scheduler.clone(), Rc::clone(&notes), number, 2)));
        }
        for pass in 0..2 {
            assert_eq!(scheduler.run(), 130);
            assert_eq!(notes.borrow()[pass * 130..], (0..130).collect::<Vec<_>>());
        }
        assert_eq!((scheduler.run(), scheduler.count()), (130, 0), "all end in the third pass");
        assert_eq!(scheduler.run(), 0, "nothing is ready");
    }

    #[test]
    fn a_waker_wakes_from_any_thread_and_may_outlive_its_coroutine() {
        let scheduler = scheduler();
        let seen: Rc<RefCell<Option<Waker>>> = Rc::default();
        let (keep, runs) = (seen.clone(), Rc::new(Cell::new(0)));
        let counted = runs.clone();
        let place = scheduler.spawn(Box::pin(std::future::poll_fn(move |cx| {
            counted.set(counted.get() + 1);
            *keep.borrow_mut() = Some(cx.waker().clone());
            Poll::Pending
        })));
        scheduler.run();
        assert!(!scheduler.has_ready());
        let waker = seen.borrow_mut().take().unwrap();
        let second = waker.clone();
        std::thread::spawn(move || waker.wake()).join().unwrap();
        assert!(scheduler.has_ready());
        assert_eq!((scheduler.run(), runs.get()), (1, 2));
        scheduler.abort(place);
        second.wake_by_ref();
        assert_eq!(scheduler.count(), 0);
        scheduler.run();
        assert_eq!(runs.get(), 2, "its place is empty");
        drop(scheduler);
        second.wake();
    }

    #[test]
    fn a_coroutine_may_spawn_and_abort_others_and_itself() {
        let scheduler = scheduler();
        let dropped = Rc::new(());
        let (inner, held) = (scheduler.clone(), dropped.clone());
        scheduler.spawn(Box::pin(async move {
            let held_too = held.clone();
            let child = inner.spawn(Box::pin(async move {
                let _held = held_too;
                std::future::pending::<()>().await;
            }));
            Yield::new(&inner).await;
            inner.abort(child);
            inner.abort(here(&inner));
            let _held = held;
            Yield::new(&inner).await;
            unreachable!("it was aborted when it last returned");
        }));
        for _ in 0..4 {
            scheduler.run();
        }
        assert_eq!((scheduler.count(), Rc::strong_count(&dropped)), (0, 1));
    }

    #[test]
    fn the_waker_of_something_between_is_told_apart() {
        let scheduler = scheduler();
        let inner = scheduler.clone();
        scheduler.spawn(Box::pin(std::future::poll_fn(move |cx| {
            assert_eq!(inner.running_with(cx.waker()), Some(here(&inner)));
            assert_eq!(inner.running_with(Waker::noop()), None);
            Poll::Ready(())
        })));
        assert_eq!(scheduler.run(), 1);
    }
}
