//! A bounded ring from one core to another: one producer, one consumer, no locks.
//!
//! A slot is two cache lines: sequence number, kind, payload. The consumer sees that a slot is full by the number in the
//! slot itself, so that a message of up to 48 bytes costs one transfer of a line (FastForward, PPoPP'08). It never
//! writes to a slot; how far it has come it says on a line of its own, now and then, and the producer looks there only
//! when it thinks the ring is full.
//!
//! Always: `head <= tail <= head + capacity`; slot `i % capacity` holds message `i` if its number is `i + 1`.

use std::mem::MaybeUninit;

use crate::parcel::{Kind, Parcel, Payload};
use crate::sync::{Arc, AtomicU64, Ordering, UnsafeCell};

#[repr(align(128))]
struct Slot {
    /// One more than the number of the message inside; 0: none yet.
    sequence: AtomicU64,
    message: UnsafeCell<(MaybeUninit<&'static Kind>, Payload)>,
}

#[cfg(not(loom))]
const _: () = assert!(size_of::<Slot>() == 128);

#[repr(align(128))]
struct Progress(AtomicU64);

struct Shared {
    slots: Box<[Slot]>,
    /// Messages that the consumer has taken, as far as it has said.
    taken: Progress,
}

// SAFETY: a slot's message is written by the producer before it publishes the number, and read by the consumer after
// it has seen it; the producer writes again only after the consumer has said that it took it. Parcels are `Send`.
unsafe impl Send for Shared {}
// SAFETY: as above.
unsafe impl Sync for Shared {}

/// The producer's end.
pub struct RingSender {
    shared: Arc<Shared>,
    tail: u64,
    /// What the consumer was known to have taken.
    taken: u64,
}

/// The consumer's end.
pub struct RingReceiver {
    shared: Arc<Shared>,
    head: u64,
    /// What the producer was told.
    said: u64,
}

/// A ring of `capacity` messages, a power of two.
///
/// # Panics
/// If it is not.
pub fn ring(capacity: usize) -> (RingSender, RingReceiver) {
    assert!(capacity.is_power_of_two(), "a ring of {capacity} slots");
    let slot = || Slot {
        sequence: AtomicU64::new(0),
        message: UnsafeCell::new((MaybeUninit::uninit(), [MaybeUninit::uninit(); _])),
    };
    let shared =
        Arc::new(Shared { slots: (0..capacity).map(|_| slot()).collect(), taken: Progress(AtomicU64::new(0)) });
    (RingSender { shared: shared.clone(), tail: 0, taken: 0 }, RingReceiver { shared, head: 0, said: 0 })
}

impl RingSender {
    /// Sends.
    ///
    /// # Errors
    /// The parcel back, if the ring is full.
    #[inline]
    pub fn push(&mut self, parcel: Parcel) -> Result<(), Parcel> {
        if self.in_flight_at_most() == self.shared.slots.len() as u64 && self.in_flight() == self.shared.slots.len() {
            return Err(parcel);
        }
        let slot = &self.shared.slots[self.tail as usize & (self.shared.slots.len() - 1)];
        let (kind, parcel) = parcel.into_parts();
        // SAFETY: the slot is free: its last message was taken, as there is room. The consumer does not look at it
        // before the number is published. The parcel's parts are forgotten here and put together there.
        slot.message.with_mut(|message| unsafe {
            (*message).0.write(kind);
            let payload = (&raw mut (*message).1).cast::<MaybeUninit<u64>>();
            std::ptr::copy_nonoverlapping(parcel.payload(), payload, kind.words);
        });
        self.tail += 1;
        slot.sequence.store(self.tail, Ordering::Release);
        Ok(())
    }

    /// Messages that were sent and, as far as is known, not taken.
    pub fn in_flight(&mut self) -> usize {
        // Acquire: what the consumer read, it read before it said so.
        self.taken = self.shared.taken.0.load(Ordering::Acquire);
        self.in_flight_at_most() as usize
    }

    /// The same without looking: at least as many.
    #[inline]
    pub fn in_flight_at_most(&self) -> u64 {
        self.tail - self.taken
    }

    /// How many fit.
    pub fn capacity(&self) -> usize {
        self.shared.slots.len()
    }
}

impl RingReceiver {
    /// Takes the next message, if there is one.
    #[inline]
    pub fn pop(&mut self) -> Option<Parcel> {
        let slot = &self.shared.slots[self.head as usize & (self.shared.slots.len() - 1)];
        if slot.sequence.load(Ordering::Acquire) != self.head + 1 {
            return None;
        }
        // SAFETY: the number says that the slot holds message `head`, which the producer wrote before; it does not
        // write there again before `taken` says so. The parts are put together once, as `head` moves on.
        let parcel = slot.message.with(|message| unsafe {
            let payload = (&raw const (*message).1).cast::<MaybeUninit<u64>>();
            Parcel::from_parts((*message).0.assume_init(), payload)
        });
        self.head += 1;
        if (self.head - self.said) * 4 >= self.shared.slots.len() as u64 {
            self.publish();
        }
        Some(parcel)
    }

    /// Whether a message waits.
    #[inline]
    pub fn is_empty(&self) -> bool {
        let slot = &self.shared.slots[self.head as usize & (self.shared.slots.len() - 1)];
        slot.sequence.load(Ordering::Acquire) != self.head + 1
    }

    /// Tells the producer what was taken. Called once a burst.
    #[inline]
    pub fn publish(&mut self) {
        if self.said != self.head {
            self.said = self.head;
            self.shared.taken.0.store(self.head, Ordering::Release);
        }
    }
}

impl Drop for RingReceiver {
    fn drop(&mut self) {
        while self.pop().is_some() {}
        self.publish();
    }
}

impl Drop for Shared {
    /// Both ends are gone: drops what was sent after the receiver was dropped.
    fn drop(&mut self) {
        let taken = self.taken.0.load(Ordering::Relaxed);
        for slot in &self.slots {
            if slot.sequence.load(Ordering::Relaxed) > taken {
                // SAFETY: the slot holds a message that was sent and not taken; nobody else refers to the ring.
                slot.message.with(|message| unsafe {
                    let payload = (&raw const (*message).1).cast::<MaybeUninit<u64>>();
                    drop(Parcel::from_parts((*message).0.assume_init(), payload));
                });
            }
        }
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use std::collections::VecDeque;

    use quickcheck::quickcheck;

    use super::*;

    quickcheck! {
        fn is_a_bounded_queue(ops: Vec<bool>) -> bool {
            let (mut sender, mut receiver) = ring(8);
            let mut model = VecDeque::new();
            for (i, push) in ops.into_iter().enumerate() {
                if push {
                    let fits = sender.push(Parcel::new(i)).is_ok();
                    assert!(fits || model.len() >= 6, "it may only seem full by what was not said yet");
                    assert!(!fits || model.len() < 8);
                    if fits {
                        model.push_back(i);
                    }
                } else {
                    assert_eq!(receiver.is_empty(), model.is_empty());
                    assert_eq!(receiver.pop().map(|p| p.take::<usize>().unwrap()), model.pop_front());
                }
            }
            receiver.publish();
            sender.in_flight() == model.len()
        }
    }

    #[test]
    fn two_threads_pass_everything_in_order() {
        const COUNT: u64 = if cfg!(miri) { 500 } else { 1_000_000 };
        let (mut sender, mut receiver) = ring(64);
        let producer = std::thread::spawn(move || {
            for i in 0..COUNT {
                // Every other message is long enough for the second line.
                let mut parcel = if i % 2 == 0 { Parcel::new(i) } else { Parcel::new([i; 14]) };
                while let Err(back) = sender.push(parcel) {
                    parcel = back;
                    std::thread::yield_now();
                }
            }
        });
        for i in 0..COUNT {
            let parcel = loop {
                match receiver.pop() {
                    Some(parcel) => break parcel,
                    None => {
                        receiver.publish();
                        std::thread::yield_now();
                    }
                }
            };
            if i % 2 == 0 {
                assert_eq!(parcel.take::<u64>().unwrap(), i);
            } else {
                assert_eq!(parcel.take::<[u64; 14]>().unwrap(), [i; 14]);
            }
        }
        producer.join().unwrap();
    }

    #[test]
    fn what_was_not_taken_is_dropped_once() {
        let counted = Arc::new(());
        let (mut sender, receiver) = ring(4);
        for _ in 0..3 {
            sender.push(Parcel::new(counted.clone())).unwrap();
        }
        drop(receiver);
        assert_eq!(Arc::strong_count(&counted), 1);
        sender.push(Parcel::new(counted.clone())).unwrap();
        drop(sender);
        assert_eq!(Arc::strong_count(&counted), 1, "also what was sent to nobody");
    }
}

#[cfg(all(test, loom))]
mod loom_tests {
    use super::*;

    /// A ring smaller than what is sent through it: every slot is reused.
    #[test]
    fn loom_ring_passes_everything_in_order() {
        loom::model(|| {
            let (mut sender, mut receiver) = ring(2);
            let producer = loom::thread::spawn(move || {
                for i in 0..3u64 {
                    let mut parcel = Parcel::new(i);
                    while let Err(back) = sender.push(parcel) {
                        parcel = back;
                        loom::thread::yield_now();
                    }
                }
            });
            for i in 0..3u64 {
                let parcel = loop {
                    if let Some(parcel) = receiver.pop() {
                        break parcel;
                    }
                    loom::thread::yield_now();
                };
                receiver.publish();
                assert_eq!(parcel.take::<u64>().unwrap(), i);
            }
            producer.join().unwrap();
        });
    }
}
