//! What RACK remembers (RFC 8985 §5.2): the segment that was sent last of those that have arrived, and how far segments
//! overtake each other on this path. Whatever was sent before it, and has not arrived in time, is lost; that is judged in
//! `recovery.rs`.

use pdpix::Instant;

use super::scoreboard::Delivered;
use super::seq::SeqNumber;

/// RFC 8985 §6.2, step 4: a wider window for reordering is kept for so many recoveries.
const PERSIST: u8 = 16;

/// See the module's head.
#[derive(Debug)]
pub(super) struct Rack {
    /// The segment that was sent last of those that have arrived.
    pub(super) at: Instant,
    pub(super) end: SeqNumber,
    /// How long it took, in nanoseconds.
    pub(super) rtt: u64,
    /// The highest byte that has arrived.
    highest: SeqNumber,
    /// Segments were seen to overtake each other.
    pub(super) reordering: bool,
    /// The peer told of duplicates; not again before this is acknowledged.
    duplicates_until: Option<SeqNumber>,
    /// How many quarters of a round trip the window for reordering has.
    pub(super) widening: u8,
    persist: u8,
    /// What is late then, is lost.
    pub(super) look_again: Option<Instant>,
}

impl Rack {
    /// Nothing has arrived; `una` is sent next.
    pub(super) fn new(una: SeqNumber) -> Rack {
        Rack {
            at: Instant::ZERO,
            end: una,
            rtt: 0,
            highest: una,
            reordering: false,
            duplicates_until: None,
            widening: 1,
            persist: 0,
            look_again: None,
        }
    }

    /// RFC 8985 §6.2, steps 2 and 3. Gives the round trip, as `min_rtt` is in nanoseconds.
    #[inline]
    pub(super) fn on_delivered(&mut self, d: Delivered, now: Instant, min_rtt: u64) -> u64 {
        let rtt = now.as_nanos().saturating_sub(d.at.as_nanos());
        // Of what was sent again, nobody knows which sending arrived; sooner than ever before, it was the first.
        let is_known = !d.again || rtt >= min_rtt;
        if is_known && (d.at > self.at || d.at == self.at && d.end.gt(self.end)) {
            (self.at, self.end, self.rtt) = (d.at, d.end, rtt);
        }
        if d.end.gt(self.highest) {
            self.highest = d.end;
        } else if d.end.lt(self.highest) && !d.again {
            self.reordering = true;
        }
        rtt
    }

    /// RFC 8985 §6.2, step 4: the peer got something twice, so we had waited for too short a time. Once a window of data.
    pub(super) fn widen(&mut self, ack: SeqNumber, nxt: SeqNumber) {
        if self.duplicates_until.is_none_or(|until| ack.ge(until)) {
            self.duplicates_until = Some(nxt);
            self.widening = self.widening.saturating_add(1);
            self.persist = PERSIST;
        }
    }

    /// A recovery is over.
    pub(super) fn on_recovery_end(&mut self) {
        self.persist = self.persist.saturating_sub(1);
        if self.persist == 0 {
            self.widening = 1;
        }
    }
}
