//! Channels of the block layer that their cores gave up, as something in them does not end.
//!
//! Before a controller is reset, or a device removed, the block layer asks every thread of SPDK's that has a channel, and
//! waits for all. So each channel is polled on until what was under way in it has ended, and is put away then: by the
//! thread that belongs to no core, as the core may have nothing left to poll. It does so while any device is open: else
//! there is nobody to be held up.
//!
//! What is polled may also be tried again, and done late. So a device that may still be written to in this way is not
//! opened for writing.

use std::rc::Rc;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use super::bdev::BdevQueue;
use super::slots::Ended;

/// All of a process's.
#[derive(Default)]
pub(super) struct AllGivenUp {
    /// Those that the thread has not taken yet.
    arrived: Mutex<Vec<GivenUp>>,
    /// Devices that may still be written to, by their addresses; each is open, in one of those above.
    written: Mutex<Vec<usize>>,
}

/// One of them.
struct GivenUp {
    queue: BdevQueue,
    /// What ended since.
    ended: Rc<Ended>,
    under_way: usize,
    /// The device that it may still write to.
    writes_to: Option<usize>,
    is_closing: bool,
}

// SAFETY: no reference to anything in it is left elsewhere: `ended` is the queue's slots' and this one's (`AllGivenUp::add`
// counts them), `removed` the queue's alone. SPDK's threads may be polled by any thread, one at a time; its core polls
// it no more, and what moves it is a mutex.
unsafe impl Send for GivenUp {}

/// How long opening waits for late writes.
const LATE_MAX: Duration = Duration::from_secs(1);

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl AllGivenUp {
    /// From a core. `ended` is what the queue's slots have, and nobody else; so many have not ended.
    pub(super) fn add(&self, queue: BdevQueue, ended: Rc<Ended>, under_way: usize, may_write: bool) {
        assert_eq!(Rc::strong_count(&ended), queue.depth() + 1, "somebody else reads what ends");
        let writes_to = may_write.then(|| queue.address());
        lock(&self.written).extend(writes_to);
        lock(&self.arrived).push(GivenUp { queue, ended, under_way, writes_to, is_closing: false });
    }

    /// Waits until nothing is written to the device at this address that its opener does not know of.
    pub(super) fn wait_for_writes(&self, address: usize) -> Result<(), String> {
        let begun = Instant::now();
        while lock(&self.written).contains(&address) {
            if begun.elapsed() > LATE_MAX {
                return Err(
                    "it was given up, and may still be written to by what was under way: it can be opened for \
                            writing when that has ended"
                        .into(),
                );
            }
            std::thread::sleep(Duration::from_millis(1));
        }
        Ok(())
    }

    fn forget(&self, address: usize) {
        let mut written = lock(&self.written);
        if let Some(at) = written.iter().position(|it| *it == address) {
            written.swap_remove(at);
        }
    }
}

/// Those that the thread which belongs to no core has taken.
#[derive(Default)]
pub(super) struct Served(Vec<GivenUp>);

impl Served {
    /// Polls each once. Whether there were any: then a thread of theirs is SPDK's current one.
    pub(super) fn poll(&mut self, all: &AllGivenUp) -> bool {
        self.0.append(&mut lock(&all.arrived));
        let is_any = !self.0.is_empty();
        self.0.retain_mut(|it| !it.is_over(all));
        is_any
    }
}

impl GivenUp {
    /// Polls it; once nothing is left of it, dropping it takes no time.
    fn is_over(&mut self, all: &AllGivenUp) -> bool {
        // That it was removed, too, changes nothing.
        let _ = self.queue.process();
        if !self.is_closing && self.ended.len() == self.under_way {
            // Before it is closed: after that, another device may have its address.
            if let Some(address) = self.writes_to.take() {
                all.forget(address);
            }
            self.queue.end();
            self.is_closing = true;
        }
        self.is_closing && self.queue.has_ended()
    }
}
