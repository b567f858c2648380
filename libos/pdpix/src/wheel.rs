//! A hierarchical timing wheel: insert, cancel and expire in O(1), whatever the number of timers.
//!
//! Time is cut into ticks of 1,024 ns. Level 0 has a slot for each of the next 64 ticks, level 1 for each of the next 64
//! groups of 64, and so on; a timer lies at the level of the highest digit (base 64) in which its tick differs from
//! now's, and moves down when its group begins. So a timer fires at most a tick late, and never early.
//!
//! Always: timers of one tick fire in the order in which they came to its slot; the wheel is a function of what was
//! called. Pure. Source: Varghese and Lauck (SOSP'87), scheme 7.

use crate::time::Instant;

const TICK_BITS: u32 = 10;
const SLOT_BITS: u32 = 6;
const SLOTS: usize = 1 << SLOT_BITS;
/// The largest tick is 2^54, the digit after 64^9.
const LEVELS: usize = 10;
const NIL: u32 = u32::MAX;

/// Names a timer, until it fires or is cancelled.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct TimerKey {
    index: u32,
    generation: u32,
}

/// Timers, each with a value that comes out when it fires.
#[derive(Debug)]
pub struct Wheel<T> {
    /// The tick up to which everything has fired.
    tick: u64,
    levels: [Level; LEVELS],
    entries: Vec<Entry<T>>,
    free: u32,
    len: usize,
    /// Fired and not yet taken, in order: a list of its own.
    due: List,
    /// Nothing fires before this tick.
    next: u64,
}

#[derive(Clone, Copy, Debug)]
struct Level {
    occupied: u64,
    slots: [List; SLOTS],
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
struct List {
    first: u32,
    last: u32,
}

impl List {
    const EMPTY: List = List { first: NIL, last: NIL };
}

#[derive(Debug)]
struct Entry<T> {
    generation: u32,
    previous: u32,
    next: u32,
    /// Where it lies: level * 64 + slot, or `DUE`, or `FREE`.
    place: u16,
    tick: u64,
    value: Option<T>,
}

// 100,000 connections with a timer each: 3.2 MB.
const _: () = assert!(size_of::<Entry<u32>>() == 32);

const DUE: u16 = u16::MAX;
const FREE: u16 = u16::MAX - 1;

impl<T> Default for Wheel<T> {
    fn default() -> Wheel<T> {
        Wheel::new(Instant::ZERO)
    }
}

impl<T> Wheel<T> {
    /// No timers; the time is `now`.
    pub fn new(now: Instant) -> Wheel<T> {
        Wheel {
            tick: now.as_nanos() >> TICK_BITS,
            levels: [Level { occupied: 0, slots: [List::EMPTY; SLOTS] }; LEVELS],
            entries: Vec::new(),
            free: NIL,
            len: 0,
            due: List::EMPTY,
            next: u64::MAX,
        }
    }

    /// How many timers there are.
    pub fn len(&self) -> usize {
        self.len
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Adds a timer. One whose deadline has passed fires at the next [`Wheel::pop`].
    pub fn insert(&mut self, deadline: Instant, value: T) -> TimerKey {
        let tick = deadline.as_nanos().div_ceil(1 << TICK_BITS);
        let index = match self.free {
            NIL => {
                self.entries.push(Entry { generation: 0, previous: NIL, next: NIL, place: FREE, tick, value: None });
                (self.entries.len() - 1) as u32
            }
            index => {
                self.free = self.entries[index as usize].next;
                index
            }
        };
        let entry = &mut self.entries[index as usize];
        (entry.tick, entry.value) = (tick, Some(value));
        let generation = entry.generation;
        self.len += 1;
        self.next = self.next.min(tick);
        self.place(index);
        TimerKey { index, generation }
    }

    /// Takes a timer away. `None` if it has fired or was cancelled.
    pub fn cancel(&mut self, key: TimerKey) -> Option<T> {
        let entry = self.entries.get(key.index as usize)?;
        if entry.generation != key.generation || entry.place == FREE {
            return None;
        }
        self.unlink(key.index);
        self.release(key.index)
    }

    /// Whether [`Wheel::pop`] may have something: cheap, to be asked often.
    #[inline]
    pub fn is_due(&self, now: Instant) -> bool {
        self.next <= now.as_nanos() >> TICK_BITS || self.due.first != NIL
    }

    /// Takes a timer that has fired by `now`; to be called until it gives `None`. `now` does not go backwards.
    pub fn pop(&mut self, now: Instant) -> Option<T> {
        if self.due.first == NIL {
            if !self.is_due(now) {
                return None;
            }
            self.advance(now.as_nanos() >> TICK_BITS);
            self.next = self.next_slot().map_or(u64::MAX, |(_, _, tick)| tick);
        }
        let index = self.due.first;
        if index == NIL {
            return None;
        }
        self.unlink(index);
        self.release(index)
    }

    /// When to call `pop` next: not later than the first deadline's tick. It may be earlier than any timer fires.
    pub fn next_deadline(&self) -> Option<Instant> {
        if self.due.first != NIL {
            return Some(Instant::from_nanos(self.tick << TICK_BITS));
        }
        // After a cancellation `next` may be earlier than all that are left; a `pop` then makes it right.
        (self.len > 0).then(|| Instant::from_nanos(self.next.saturating_mul(1 << TICK_BITS)))
    }

    /// The earliest occupied slot: its level, number and first tick.
    fn next_slot(&self) -> Option<(usize, usize, u64)> {
        // A timer at a higher level is later than all at lower levels: its tick differs from now's in a higher digit.
        (0..LEVELS).find_map(|level| {
            let occupied = self.levels[level].occupied;
            if occupied == 0 {
                return None;
            }
            // All occupied slots are ahead of now's digit, as what is behind has fired.
            let slot = occupied.trailing_zeros() as usize;
            let shift = SLOT_BITS * level as u32;
            let group = self.tick.checked_shr(shift + SLOT_BITS).unwrap_or(0).checked_shl(SLOT_BITS).unwrap_or(0);
            Some((level, slot, (group | slot as u64).checked_shl(shift).unwrap_or(u64::MAX)))
        })
    }

    fn advance(&mut self, to: u64) {
        while let Some((level, slot, tick)) = self.next_slot() {
            if tick > to {
                break;
            }
            self.tick = tick;
            let list = std::mem::replace(&mut self.levels[level].slots[slot], List::EMPTY);
            self.levels[level].occupied &= !(1 << slot);
            let mut index = list.first;
            while index != NIL {
                let next = self.entries[index as usize].next;
                self.place(index);
                index = next;
            }
            if self.due.first != NIL {
                return; // one tick at a time: the caller takes these first
            }
        }
        self.tick = self.tick.max(to);
    }

    /// Links an entry into the slot of its tick, or into `due`.
    fn place(&mut self, index: u32) {
        let tick = self.entries[index as usize].tick;
        let place = if tick <= self.tick {
            DUE
        } else {
            let level = (63 - (tick ^ self.tick).leading_zeros()) / SLOT_BITS;
            let slot = (tick >> (level * SLOT_BITS)) as usize % SLOTS;
            self.levels[level as usize].occupied |= 1 << slot;
            (level as usize * SLOTS + slot) as u16
        };
        let last = self.list(place).last;
        let entry = &mut self.entries[index as usize];
        (entry.place, entry.previous, entry.next) = (place, last, NIL);
        match last {
            NIL => self.list(place).first = index,
            _ => self.entries[last as usize].next = index,
        }
        self.list(place).last = index;
    }

    fn unlink(&mut self, index: u32) {
        let Entry { previous, next, place, .. } = self.entries[index as usize];
        match previous {
            NIL => self.list(place).first = next,
            _ => self.entries[previous as usize].next = next,
        }
        match next {
            NIL => self.list(place).last = previous,
            _ => self.entries[next as usize].previous = previous,
        }
        if place != DUE && self.list(place).first == NIL {
            self.levels[place as usize / SLOTS].occupied &= !(1 << (place as usize % SLOTS));
        }
    }

    fn release(&mut self, index: u32) -> Option<T> {
        let free = std::mem::replace(&mut self.free, index);
        let entry = &mut self.entries[index as usize];
        entry.generation = entry.generation.wrapping_add(1);
        (entry.place, entry.next) = (FREE, free);
        self.len -= 1;
        entry.value.take()
    }

    fn list(&mut self, place: u16) -> &mut List {
        match place {
            DUE => &mut self.due,
            _ => &mut self.levels[place as usize / SLOTS].slots[place as usize % SLOTS],
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use quickcheck::quickcheck;

    use super::*;

    const TICK: u64 = 1 << TICK_BITS;

    quickcheck! {
        /// Against a sorted list: any timers, cancellations and steps of time, near and far.
        fn fires_what_is_due_and_nothing_else(start: u64, ops: Vec<(u8, u64, u8)>) -> bool {
            let mut now = Instant::from_nanos(start >> 8);
            let mut wheel = Wheel::new(now);
            let mut model: Vec<(Instant, usize, TimerKey)> = Vec::new();
            for (id, (op, amount, shift)) in ops.into_iter().enumerate() {
                let delta = Duration::from_nanos(amount >> (8 + shift % 56));
                match op % 4 {
                    0 | 1 => {
                        let key = wheel.insert(now + delta, id);
                        model.push((now + delta, id, key));
                    }
                    2 if !model.is_empty() => {
                        let (_, id, key) = model.swap_remove(amount as usize % model.len());
                        assert_eq!(wheel.cancel(key), Some(id));
                        assert_eq!(wheel.cancel(key), None);
                    }
                    _ => {
                        now += delta;
                        let mut fired = Vec::new();
                        while let Some(id) = wheel.pop(now) {
                            fired.push(id);
                        }
                        fired.sort_unstable();
                        let ticks = now.as_nanos() >> TICK_BITS;
                        let due = |deadline: &Instant| deadline.as_nanos().div_ceil(TICK) <= ticks;
                        let mut expected: Vec<usize> = model.iter().filter(|(d, ..)| due(d)).map(|t| t.1).collect();
                        expected.sort_unstable();
                        assert_eq!(fired, expected);
                        model.retain(|(d, ..)| !due(d));
                    }
                }
                assert_eq!(wheel.len(), model.len());
                let first = model.iter().map(|(d, ..)| d.as_nanos().div_ceil(TICK).saturating_mul(TICK)).min();
                match (wheel.next_deadline(), first) {
                    (Some(next), Some(first)) => assert!(next.as_nanos() <= first.max(now.as_nanos())),
                    (next, first) => assert_eq!((next.is_some(), first.is_some()), (false, false)),
                }
            }
            true
        }
    }

    #[test]
    fn waking_at_each_deadline_given_fires_in_time_and_soon_enough() {
        let mut wheel = Wheel::new(Instant::ZERO);
        wheel.insert(Instant::from_nanos(3_600_000_000_000), "hour");
        wheel.insert(Instant::from_nanos(1_500), "soon");
        let (mut wakes, mut fired) = (0, Vec::new());
        while let Some(at) = wheel.next_deadline() {
            wakes += 1;
            while let Some(name) = wheel.pop(at) {
                fired.push((name, at.as_nanos()));
            }
        }
        assert_eq!(fired[0], ("soon", 2048));
        assert!(fired[1].0 == "hour" && fired[1].1 - 3_600_000_000_000 < TICK);
        assert!(wakes <= 2 + LEVELS, "{wakes} wakes for two timers");
    }

    #[test]
    fn a_deadline_given_is_not_given_again_at_that_time() {
        let mut wheel = Wheel::new(Instant::ZERO);
        let key = wheel.insert(Instant::from_nanos(5_000), "early");
        wheel.insert(Instant::from_nanos(9_000_000_000), "late");
        wheel.cancel(key);
        for _ in 0..3 * LEVELS {
            let Some(at) = wheel.next_deadline() else { return };
            assert!(wheel.is_due(at));
            let fired = wheel.pop(at);
            assert!(
                fired.is_some() || wheel.next_deadline() > Some(at),
                "woken for nothing at {at:?}, again and again"
            );
        }
        panic!("too many wakes");
    }

    #[test]
    fn timers_of_one_tick_fire_in_order() {
        let mut wheel = Wheel::new(Instant::ZERO);
        for i in 0..10 {
            wheel.insert(Instant::from_nanos(5000), i);
        }
        let fired: Vec<_> = std::iter::from_fn(|| wheel.pop(Instant::from_nanos(6000))).collect();
        assert_eq!(fired, (0..10).collect::<Vec<_>>());
    }

    #[test]
    fn a_deadline_that_never_comes_is_kept() {
        let mut wheel = Wheel::new(Instant::ZERO);
        let key = wheel.insert(Instant::NEVER, ());
        assert_eq!(wheel.pop(Instant::from_nanos(1 << 60)), None);
        assert!(wheel.next_deadline().is_some());
        assert_eq!(wheel.cancel(key), Some(()));
        assert_eq!(wheel.next_deadline(), None);
    }
}
