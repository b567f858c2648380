//! What time does to a connection: retransmissions, probes, and its ends (RFC 9293 §3.8, RFC 4821 for black holes).

use std::time::Duration;

use pdpix::{Error, Instant};

use super::super::recovery::Timer;
use super::super::state::{Event, State};
use super::{Cx, Fate, Tcb};

/// RFC 2923 §2.1, RFC 4821 §7.2: after so many timeouts of one segment the path is taken for one that swallows long ones.
const BLACK_HOLE_TIMEOUTS: u8 = 2;
const BLACK_HOLE_MSS: u32 = 512;
/// After so long it is asked again whether the path carries long segments; each time it does not, after twice as long.
const BLACK_HOLE_PATIENCE: Duration = Duration::from_secs(10);
/// RFC 1122 §4.2.3.6; Linux asks nine times.
const KEEP_ALIVE_PROBES: u8 = 9;
impl Tcb {
    /// What is due by now.
    pub(crate) fn on_time(&mut self, cx: &mut Cx<'_>) -> Fate {
        let now = cx.now;
        let is_due = |at: Option<Instant>| at.is_some_and(|at| at <= now);
        if is_due(self.until) {
            return match self.state {
                State::TimeWait => {
                    self.advance(Event::Timeout);
                    Fate::Over
                }
                State::FinWait2 => self.die(None),
                _ => self.abort(Error::TimedOut, cx),
            };
        }
        if is_due(self.syn_at) && self.on_syn_timer(cx) == Fate::Over {
            return Fate::Over;
        }
        if is_due(self.keep_alive_at()) {
            if self.keep_alive_probes >= KEEP_ALIVE_PROBES {
                return self.abort(self.soft_error.unwrap_or(Error::TimedOut), cx);
            }
            self.keep_alive_probes += 1;
            self.send_probe(cx);
        }
        if is_due(self.receive.due_at()) {
            self.receive.set_due();
        }
        if is_due(self.persist.map(|(at, _)| at)) {
            self.ask_for_window(cx);
        }
        match self.recovery.timer() {
            Some((timer, at)) if at <= cx.now => self.on_recovery_timer(timer, cx),
            _ => Fate::Lives,
        }
    }

    fn on_syn_timer(&mut self, cx: &mut Cx<'_>) -> Fate {
        if self.syn_count > cx.settings.syn_retries {
            return self.die(Some(self.soft_error.unwrap_or(Error::TimedOut)));
        }
        self.send_syn(cx);
        Fate::Lives
    }

    fn on_recovery_timer(&mut self, timer: Timer, cx: &mut Cx<'_>) -> Fate {
        match timer {
            Timer::Reorder => self.recovery.on_reorder_timer(self.snd_nxt, cx.now),
            Timer::Probe => self.probe_tail(cx),
            Timer::Timeout => {
                if self.recovery.timeouts() >= cx.settings.retries {
                    return self.die(Some(self.soft_error.unwrap_or(Error::TimedOut)));
                }
                cx.ip.counters.tcp_timeouts += 1;
                // A window that is closed says nothing of congestion.
                self.recovery.on_timeout(self.snd_una, self.snd_nxt, cx.now, self.snd_wnd > 0);
                if self.recovery.timeouts() > 1 {
                    cx.ip.suspect(&self.path, cx.now);
                }
                self.suspect_black_hole(cx);
            }
        }
        Fate::Lives
    }

    /// RFC 4821 §7.7: long segments vanish, and nobody says why. Shorter ones are tried; in a while long ones again, as it
    /// may have been something else.
    fn suspect_black_hole(&mut self, cx: &mut Cx<'_>) {
        let long = self.recovery.board.first_len() > BLACK_HOLE_MSS;
        let ignored = cfg!(margay_planted_bug = "black_hole_ignored");
        if self.recovery.timeouts() >= BLACK_HOLE_TIMEOUTS && long && self.snd_wnd > 0 && !ignored {
            cx.ip.counters.tcp_black_holes += 1;
            self.mss = (self.mss / 2).max(BLACK_HOLE_MSS);
            self.recovery.set_mss(self.mss);
            self.long_again_tries = self.long_again_tries.saturating_add(1);
            let patience = BLACK_HOLE_PATIENCE * (1 << self.long_again_tries.min(6));
            self.long_again_at = Some(cx.now + patience);
        }
    }

    /// Whether shorter segments than the path's are used.
    #[inline]
    pub(crate) fn has_long_again(&self) -> bool {
        self.long_again_at.is_some()
    }

    /// Long segments are tried again.
    pub(crate) fn try_long_again(&mut self, cx: &mut Cx<'_>) {
        if self.long_again_at.is_some_and(|at| at <= cx.now) {
            self.long_again_at = None;
            self.mss = self.mss_of_path(cx);
            self.recovery.set_mss(self.mss);
        }
    }
}
