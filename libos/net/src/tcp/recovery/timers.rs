//! The one timer of a connection that has something in flight, and what is done when it fires.

use std::time::Duration;

use pdpix::Instant;

use super::super::congestion::CongestionControl;
use super::super::seq::SeqNumber;
use super::{Phase, Recovery, TailProbe, Timer};

/// RFC 8985 §7.2 lets the peer delay its acknowledgement by so much, in nanoseconds.
const ACK_DELAY_MAX: u64 = 200_000_000;
/// A probe of the tail is not sent earlier: processes share processors here, and a millisecond is nothing to them.
const PROBE_MIN: u64 = 10_000_000;

impl Recovery {
    /// The timer that runs, and when it fires.
    #[inline]
    pub(crate) fn timer(&self) -> Option<(Timer, Instant)> {
        self.timer
    }

    #[inline]
    pub(super) fn set_timer(&mut self, now: Instant) {
        if self.board.is_empty() {
            self.timer = None;
            return;
        }
        // In numbers: this is done for each segment, and a `Duration` is made by a division.
        let after = |at: Instant, nanos: u64| Instant::from_nanos(at.as_nanos().saturating_add(nanos));
        let timeout = (Timer::Timeout, after(self.timeout_from, self.rtt.rto()).max(now));
        self.timer = Some(match self.rack.look_again {
            Some(at) => (Timer::Reorder, at),
            None if self.may_probe() => {
                let at = after(now, self.probe_after());
                if at < timeout.1 { (Timer::Probe, at) } else { timeout }
            }
            None => timeout,
        });
    }

    /// RFC 8985 §7.2: in the open phase, nothing beyond a hole, one probe at a time.
    #[inline]
    fn may_probe(&self) -> bool {
        self.sack
            && self.phase == Phase::Open
            && self.probe.is_none()
            && self.board.sacked() == 0
            && self.rtt.srtt().is_some()
            && self.timeouts == 0
    }

    /// RFC 8985 §7.2: two round trips, and the delay of the peer's acknowledgement if only one segment is in flight.
    #[inline]
    fn probe_after(&self) -> u64 {
        let delay = if self.in_flight() <= self.mss { ACK_DELAY_MAX } else { 0 };
        (self.round_trip_nanos() * 2 + delay).max(PROBE_MIN)
    }

    /// The timer to look again has fired.
    pub(crate) fn on_reorder_timer(&mut self, nxt: SeqNumber, now: Instant) {
        let before = self.in_flight();
        self.detect(now);
        if self.phase == Phase::Open && self.board.lost() > 0 {
            self.enter_recovery(nxt, before);
        }
        if let Phase::Recovery(_) = self.phase {
            self.slide(0, false);
        }
        self.set_timer(now);
    }

    /// The tail is being probed, with what ends at `end`: new data, or the last segment once more.
    pub(crate) fn on_probe(&mut self, end: SeqNumber, again: bool, now: Instant) {
        self.probe = Some(TailProbe { end, again });
        // RFC 8985 §7.3: the timeout is counted from here.
        self.timeout_from = now;
        self.set_timer(now);
    }

    /// The retransmission timeout has fired (RFC 6298 §5.4-5.7, RFC 8985 §6.3).
    pub(crate) fn on_timeout(&mut self, una: SeqNumber, nxt: SeqNumber, now: Instant, reacts: bool) {
        if self.board.has_reneged() && !cfg!(margay_planted_bug = "no_reneging_check") {
            self.board.forget_sacks();
        }
        self.duplicates = 0;
        let patience = Duration::from_nanos(self.rack.rtt) + self.reordering_window();
        let sack = self.sack;
        // Without selective acknowledgements nothing tells what has arrived: all is sent again.
        self.board.mark_lost_on_timeout(|sent| !sack || sent + patience <= now);
        if reacts {
            // RFC 5681, equation 4: what was sent, and not only what may still be on its way.
            self.congestion.on_timeout(nxt.since(una));
        }
        if self.timeouts == 0 {
            self.undo = None;
        }
        if self.phase == Phase::Open {
            self.resent = 0;
        }
        self.phase = Phase::Loss(nxt);
        (self.probe, self.prr) = (None, None);
        self.rack.look_again = None;
        self.timeouts = self.timeouts.saturating_add(1);
        self.rtt.back_off();
        self.timeout_from = now;
        self.set_timer(now);
    }
}
