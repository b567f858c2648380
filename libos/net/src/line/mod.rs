//! One direction of a wire: what it does to the frames on it, and when they come out.
//!
//! A line has a rate and a queue before it, a latency with jitter, and faults: loss (each frame by itself, or in bursts),
//! duplication, frames that others overtake, corruption, truncation, a black hole for long frames; and it may be down.
//! Everything is drawn from one generator, so what happens is a function of the seed and of what is pushed when.
//!
//! Always: frames come out in the order in which they went in, but for those that go astray ([`LineSettings::strays`]);
//! jitter alone reorders nothing, as in a queue. What was pushed has come out, or is on the line, or is counted as lost
//! by a name. Bounds: the queue's, and [`LineSettings::frames_max`] on the line at once. The cost of a frame does not
//! depend on how many there are.
//!
//! The simulator's network is made of lines, and so are [`Bridge`](crate::Bridge) and [`Faults`](crate::Faults).
//! Sources: E. N. Gilbert, "Capacity of a Burst-Noise Channel" (1960), and E. O. Elliott (1963), for loss in bursts; RFC
//! 3168 §5 for marks. Not here: the gaps and preambles of Ethernet; the rate counts the bytes of frames.

mod carried;
mod settings;
#[cfg(test)]
mod tests;

use std::cmp::Ordering;
use std::collections::{BinaryHeap, VecDeque};
use std::ops::RangeInclusive;
use std::time::Duration;

use pdpix::{Instant, Rng};

pub use carried::Carried;
pub use settings::{LineSettings, Loss};

/// What a line has done, in frames.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
#[allow(missing_docs, reason = "the names say it")]
pub struct LineCounters {
    pub pushed: u64,
    pub delivered: u64,
    pub delivered_bytes: u64,
    /// Dropped: at random; the queue or the line was full; longer than the black hole lets through; the line was or went
    /// down; there was no memory to change or duplicate it.
    pub lost: u64,
    pub queue_full: u64,
    pub too_long: u64,
    pub down: u64,
    pub no_memory: u64,
    pub duplicated: u64,
    pub strayed: u64,
    pub corrupted: u64,
    pub truncated: u64,
    pub marked: u64,
}

impl LineCounters {
    /// By name.
    pub fn named(&self) -> [(&'static str, u64); 13] {
        [
            ("pushed", self.pushed),
            ("delivered", self.delivered),
            ("delivered_bytes", self.delivered_bytes),
            ("lost", self.lost),
            ("queue_full", self.queue_full),
            ("too_long", self.too_long),
            ("down", self.down),
            ("no_memory", self.no_memory),
            ("duplicated", self.duplicated),
            ("strayed", self.strayed),
            ("corrupted", self.corrupted),
            ("truncated", self.truncated),
            ("marked", self.marked),
        ]
    }

    /// Frames that went in and will never come out.
    pub fn dropped(&self) -> u64 {
        self.lost + self.queue_full + self.too_long + self.down + self.no_memory
    }
}

/// A frame that others may overtake. The earliest is the greatest, and of those the first.
struct Stray<F> {
    due: Instant,
    sequence: u64,
    frame: F,
}

impl<F> Ord for Stray<F> {
    fn cmp(&self, other: &Stray<F>) -> Ordering {
        (other.due, other.sequence).cmp(&(self.due, self.sequence))
    }
}

impl<F> PartialOrd for Stray<F> {
    fn partial_cmp(&self, other: &Stray<F>) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl<F> PartialEq for Stray<F> {
    fn eq(&self, other: &Stray<F>) -> bool {
        self.cmp(other).is_eq()
    }
}

impl<F> Eq for Stray<F> {}

/// One direction of a wire.
pub struct Line<F> {
    settings: LineSettings,
    rng: Rng,
    /// What waits to be sent: when its last bit will have been, and its length.
    queue: VecDeque<(Instant, usize)>,
    queued_bytes: usize,
    /// The last bit of everything is sent then; and what of a nanosecond was left over, in units of one over the rate.
    sent_by: Instant,
    remainder: u64,
    in_burst: bool,
    /// What is on the way, in order: the times do not decrease.
    on_way: VecDeque<(Instant, F)>,
    strays: BinaryHeap<Stray<F>>,
    sequence: u64,
    counters: LineCounters,
}

impl<F: Carried> Line<F> {
    /// An empty line.
    ///
    /// # Panics
    /// If the settings make no sense ([`LineSettings::check`]).
    pub fn new(settings: LineSettings, rng: Rng) -> Line<F> {
        settings.check();
        Line {
            settings,
            rng,
            queue: VecDeque::new(),
            queued_bytes: 0,
            sent_by: Instant::ZERO,
            remainder: 0,
            in_burst: false,
            on_way: VecDeque::new(),
            strays: BinaryHeap::new(),
            sequence: 0,
            counters: LineCounters::default(),
        }
    }

    /// A frame comes onto the line at this end.
    pub fn push(&mut self, now: Instant, frame: F) {
        self.counters.pushed += 1;
        if self.settings.down {
            self.counters.down += 1;
            return;
        }
        let Some(frame) = self.mark(now, frame) else { return };
        let Some(sent) = self.send(now, frame.frame_len()) else {
            self.counters.queue_full += 1;
            return;
        };
        // It takes its time on the line, whatever becomes of it.
        if let Some(frame) = self.damage(frame) {
            self.carry(sent, frame);
        }
        self.check();
    }

    /// Sets the mark of congestion, if the queue is long and the frame's transport takes part.
    fn mark(&mut self, now: Instant, frame: F) -> Option<F> {
        let Some(above) = self.settings.mark_above else { return Some(frame) };
        self.forget_sent(now);
        if self.queued_bytes <= above || !carried::can_be_marked(frame.head()) {
            return Some(frame);
        }
        let marked = frame.changed(carried::mark);
        self.count_change(marked.is_some(), |counters| &mut counters.marked);
        marked
    }

    /// Takes a place in the queue. Says when the last bit of the frame is sent, or that there is no room.
    fn send(&mut self, now: Instant, len: usize) -> Option<Instant> {
        if self.on_line() >= self.settings.frames_max {
            return None;
        }
        let Some(rate) = self.settings.bandwidth else { return Some(now) };
        self.forget_sent(now);
        // A frame that is longer than the queue can be sent as long as nothing waits.
        let (frames, bytes) = (self.queue.len(), self.queued_bytes);
        if frames > 0 && (frames >= self.settings.queue_frames || bytes + len > self.settings.queue_bytes) {
            return None;
        }
        if self.sent_by <= now {
            (self.sent_by, self.remainder) = (now, 0);
        }
        let takes = len as u64 * 8 * 1_000_000_000 + self.remainder;
        self.remainder = takes % rate;
        self.sent_by += Duration::from_nanos(takes / rate);
        self.queue.push_back((self.sent_by, len));
        self.queued_bytes += len;
        Some(self.sent_by)
    }

    fn forget_sent(&mut self, now: Instant) {
        while let Some(&(sent, len)) = self.queue.front()
            && sent <= now
        {
            self.queue.pop_front();
            self.queued_bytes -= len;
        }
    }

    /// What chance does to a frame. `None`: it is lost, and counted.
    fn damage(&mut self, frame: F) -> Option<F> {
        let mut frame = frame;
        if self.settings.frame_len_max.is_some_and(|max| frame.frame_len() > max) {
            self.counters.too_long += 1;
            return None;
        }
        if self.is_lost() {
            self.counters.lost += 1;
            return None;
        }
        if self.happens(self.settings.corruption) && frame.frame_len() > 0 {
            let at = self.rng.below(frame.frame_len() as u64) as usize;
            let flipped = 1 << self.rng.below(8);
            let changed = frame.changed(|bytes| bytes[at] ^= flipped);
            self.count_change(changed.is_some(), |counters| &mut counters.corrupted);
            frame = changed?;
        }
        if self.happens(self.settings.truncation) && frame.frame_len() > 0 {
            let len = self.rng.below(frame.frame_len() as u64) as usize;
            let cut = frame.cut(len);
            self.count_change(cut.is_some(), |counters| &mut counters.truncated);
            frame = cut?;
        }
        Some(frame)
    }

    fn is_lost(&mut self) -> bool {
        match self.settings.loss {
            Loss::None => false,
            Loss::Each(probability) => self.happens(probability),
            Loss::Bursts { begins, ends, inside, outside } => {
                let turns = self.happens(if self.in_burst { ends } else { begins });
                self.in_burst ^= turns;
                self.happens(if self.in_burst { inside } else { outside })
            }
        }
    }

    fn happens(&mut self, probability: f64) -> bool {
        probability > 0.0 && self.rng.chance(probability)
    }

    fn count_change(&mut self, done: bool, counter: impl FnOnce(&mut LineCounters) -> &mut u64) {
        *if done { counter(&mut self.counters) } else { &mut self.counters.no_memory } += 1;
    }

    /// Lets a frame travel, and perhaps its twin.
    fn carry(&mut self, sent: Instant, frame: F) {
        let twin = if self.happens(self.settings.duplication) { frame.twin() } else { None };
        self.carry_one(sent, frame);
        if let Some(twin) = twin {
            self.counters.duplicated += 1;
            self.carry_one(sent, twin);
        }
    }

    fn carry_one(&mut self, sent: Instant, frame: F) {
        let mut due = sent + self.draw(self.settings.latency.clone());
        if self.happens(self.settings.strays) {
            due += self.draw(self.settings.stray_by.clone());
            self.counters.strayed += 1;
            self.sequence += 1;
            self.strays.push(Stray { due, sequence: self.sequence, frame });
        } else {
            let last = self.on_way.back().map_or(Instant::ZERO, |last| last.0);
            self.on_way.push_back((due.max(last), frame));
        }
    }

    fn draw(&mut self, range: RangeInclusive<Duration>) -> Duration {
        let (from, to) = (range.start().as_nanos() as u64, range.end().as_nanos() as u64);
        Duration::from_nanos(if from == to { from } else { self.rng.range(from..=to) })
    }

    /// The next frame that comes out at the other end by `now`.
    pub fn pop(&mut self, now: Instant) -> Option<F> {
        let first = self.on_way.front().map_or(Instant::NEVER, |first| first.0);
        let is_stray = self.strays.peek().is_some_and(|stray| stray.due < first);
        if self.deadline().is_none_or(|due| due > now) {
            return None;
        }
        let frame = if is_stray { self.strays.pop()?.frame } else { self.on_way.pop_front()?.1 };
        self.counters.delivered += 1;
        self.counters.delivered_bytes += frame.frame_len() as u64;
        Some(frame)
    }

    /// When the next frame comes out.
    #[inline]
    pub fn deadline(&self) -> Option<Instant> {
        let first = self.on_way.front().map(|first| first.0);
        match self.strays.peek() {
            None => first,
            Some(stray) => Some(first.map_or(stray.due, |first| first.min(stray.due))),
        }
    }

    /// Frames on the line.
    pub fn on_line(&self) -> usize {
        self.on_way.len() + self.strays.len()
    }

    /// Its nature.
    pub fn settings(&self) -> &LineSettings {
        &self.settings
    }

    /// It is of another nature from now on. What is on it comes out as it would have; but a line that goes down loses it.
    ///
    /// # Panics
    /// If the settings make no sense.
    pub fn set(&mut self, settings: LineSettings) {
        settings.check();
        self.settings = settings;
        if self.settings.down {
            self.counters.down += self.on_line() as u64;
            self.on_way.clear();
            self.strays.clear();
            self.queue.clear();
            (self.queued_bytes, self.sent_by) = (0, Instant::ZERO);
        }
    }

    /// What it has done.
    pub fn counters(&self) -> LineCounters {
        self.counters
    }

    fn check(&self) {
        let LineCounters { pushed, duplicated, delivered, .. } = self.counters;
        debug_assert_eq!(
            pushed + duplicated,
            delivered + self.counters.dropped() + self.on_line() as u64,
            "a frame is on the line, or came out, or was dropped under a name"
        );
    }
}
