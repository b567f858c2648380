//! Loss recovery of a connection: what is lost, what may be sent now, and when to look again.
//!
//! Always: at most one timer runs: to look again for what is late (RACK), to probe the tail (TLP), or the retransmission
//! timeout; it runs exactly while something is in flight. The window shrinks at most once per window of data.
//! Sources: RFC 8985 (RACK-TLP), RFC 6675 (selective acknowledgements), RFC 6582 (NewReno, for peers without them), RFC
//! 6298 (timeouts), RFC 6937 (proportional rate reduction), RFC 3522 and 4015 (Eifel: undoing what was a mistake), RFC 2018
//! §8 (peers that take back what they said). Pure: `now` is an argument. Not here: what is sent (`send.rs`).

use std::time::Duration;

use pdpix::Instant;

use super::congestion::{Acked, CongestionControl, CongestionKind, Controller};
use super::isn::timestamp_clock;
use super::prr::{Delivered as Arrived, Prr};
use super::rack::Rack;
use super::rtt::RttEstimator;
use super::scoreboard::{Delivered, Scoreboard};
use super::seq::SeqNumber;

mod long;
mod plain;

/// RFC 5681 §3.2, RFC 8985 §6.2: so many segments beyond a hole make it a loss.
const DUPLICATES: u32 = 3;
/// RFC 8985 §7.2 lets the peer delay its acknowledgement by so much, in nanoseconds.
const ACK_DELAY_MAX: u64 = 200_000_000;
/// A probe of the tail is not sent earlier: processes share processors here, and a millisecond is nothing to them.
const PROBE_MIN: u64 = 10_000_000;

/// What a timer of a connection says when it fires.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Timer {
    /// RFC 8985 §6.3: what was late may be lost now.
    Reorder,
    /// RFC 8985 §7.2: the tail is probed.
    Probe,
    /// RFC 6298 §5: the retransmission timeout.
    Timeout,
}

/// What goes on (RFC 5681's states; Linux has the same).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Phase {
    Open,
    /// A loss was detected; it is over when `point` is acknowledged.
    Recovery(SeqNumber),
    /// After a timeout, until `point` is acknowledged.
    Loss(SeqNumber),
}

/// What an acknowledgement says, and when.
#[derive(Debug)]
pub(crate) struct Ack<'a> {
    pub(crate) una: SeqNumber,
    pub(crate) ack: SeqNumber,
    pub(crate) nxt: SeqNumber,
    /// Blocks beyond it; the first may be a duplicate's (RFC 2883).
    pub(crate) blocks: &'a [(u32, u32)],
    /// The peer's echo of our timestamp, and our clock of them.
    pub(crate) echo: Option<u32>,
    pub(crate) stamp: u32,
    /// RFC 5681 §2's duplicate acknowledgement.
    pub(crate) is_duplicate: bool,
    /// The peer echoes congestion (RFC 3168 §6.1.3).
    pub(crate) ece: bool,
    pub(crate) now: Instant,
}

impl Ack<'_> {
    /// Whether it was caused by what was sent then or later (RFC 7323 §4.1).
    fn echoes(&self, sent: Instant) -> bool {
        let stamp = self.stamp.wrapping_sub(timestamp_clock(self.now).wrapping_sub(timestamp_clock(sent)));
        self.echo.is_some_and(|echo| echo.wrapping_sub(stamp) as i32 >= 0)
    }
}

/// See the module's head.
#[derive(Debug)]
pub(crate) struct Recovery {
    pub(crate) board: Scoreboard,
    pub(crate) congestion: Controller,
    pub(crate) rtt: RttEstimator,
    mss: u32,
    /// The peer acknowledges selectively.
    sack: bool,
    phase: Phase,
    prr: Option<Prr>,
    /// What may be in flight while in recovery.
    recovery_window: u32,
    /// Duplicates in a row, from a peer that does not acknowledge selectively.
    duplicates: u32,
    /// Where the last recovery ended, until something beyond it is acknowledged.
    recovered_to: Option<SeqNumber>,
    /// So many segments were sent again in it.
    resent: u32,
    rack: Rack,
    probe: Option<TailProbe>,
    timer: Option<(Timer, Instant)>,
    /// The timeout is counted from here (RFC 6298 §5.1-5.3).
    timeout_from: Instant,
    /// Timeouts in a row.
    timeouts: u8,
    undo: Option<Undo>,
    /// The window shrank for congestion that the peer echoed; not again before this is acknowledged.
    echoed: Option<SeqNumber>,
    /// The window was full when this was the next to be sent.
    limited: SeqNumber,
}

/// RFC 8985 §7.3: a probe of the tail that is not judged yet.
#[derive(Debug)]
struct TailProbe {
    end: SeqNumber,
    again: bool,
}

/// What tells that a recovery was a mistake (RFC 3522 §3.2).
#[derive(Clone, Copy, Debug)]
struct Undo {
    /// Our clock of timestamps when the first segment was sent again. `None`: that was judged already, and what is sent again
    /// later in this recovery tells nothing.
    stamp: Option<u32>,
}

/// What came of an acknowledgement.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub(crate) struct Recovered {
    /// The window shrank because of what the peer echoed: it is to be told (CWR).
    pub(crate) reduced: bool,
}

impl Recovery {
    /// Nothing in flight; `una` is sent next, in segments of `mss`.
    pub(crate) fn new(una: SeqNumber, mss: u32, sack: bool, kind: CongestionKind, rtt: RttEstimator) -> Recovery {
        Recovery {
            board: Scoreboard::new(una),
            congestion: Controller::new(kind, mss),
            rtt,
            mss,
            sack,
            phase: Phase::Open,
            prr: None,
            recovery_window: 0,
            duplicates: 0,
            recovered_to: None,
            resent: 0,
            rack: Rack::new(una),
            probe: None,
            timer: None,
            timeout_from: Instant::ZERO,
            timeouts: 0,
            undo: None,
            echoed: None,
            limited: una,
        }
    }

    /// Bytes in flight (RFC 6675 §3, `pipe`; for a peer without selective acknowledgements each duplicate is a segment
    /// that has arrived, RFC 5681 §3.2).
    #[inline]
    pub(crate) fn in_flight(&self) -> u32 {
        self.board.in_flight().saturating_sub(self.duplicates * self.mss)
    }

    /// How many bytes may be sent now.
    #[inline]
    pub(crate) fn room(&self) -> u32 {
        let window = match self.phase {
            Phase::Recovery(_) => self.recovery_window,
            _ => self.congestion.cwnd(),
        };
        window.saturating_sub(self.in_flight())
    }

    /// More would have been sent if the window had allowed it (RFC 9438 §5.8: only then does the window grow).
    #[inline]
    pub(crate) fn note_limited(&mut self, nxt: SeqNumber) {
        self.limited = nxt;
    }

    /// The retransmission timeout.
    pub(crate) fn rto(&self) -> Duration {
        Duration::from_nanos(self.rtt.rto())
    }

    /// The smoothed round trip; zero if nobody has seen one.
    fn round_trip(&self) -> Duration {
        Duration::from_nanos(self.round_trip_nanos())
    }

    /// The same in nanoseconds.
    #[inline]
    pub(crate) fn round_trip_nanos(&self) -> u64 {
        self.rtt.srtt().unwrap_or(0)
    }

    fn min_rtt(&self) -> Duration {
        Duration::from_nanos(self.rtt.min_rtt().unwrap_or(0))
    }

    /// Timeouts in a row.
    pub(crate) fn timeouts(&self) -> u8 {
        self.timeouts
    }

    /// The peer is there, though it acknowledges nothing: it has no room.
    pub(crate) fn forgive_timeouts(&mut self) {
        self.timeouts = 0;
    }

    /// The first segment is sent again, for no fault of the path: it was refused for want of room.
    pub(crate) fn repeat_first(&mut self) {
        self.board.mark_first_lost();
    }

    /// The largest segment from now on; longer ones that are in flight were lost on the way (RFC 1191 §6.4).
    pub(crate) fn set_mss(&mut self, mss: u32) {
        self.mss = mss;
        self.congestion.set_mss(mss);
        self.board.mark_longer_lost(mss);
    }
}

// Sending.
impl Recovery {
    /// The next `len` bytes went out for the first time.
    #[inline]
    pub(crate) fn on_send(&mut self, len: u32, now: Instant) {
        if self.board.is_empty() {
            self.timeout_from = now;
        }
        self.board.on_send(len, now);
        if let Some(prr) = &mut self.prr {
            prr.on_sent(len);
        }
        self.set_timer(now);
    }

    /// A lost record, or its first `len` bytes, went out again.
    pub(crate) fn on_resend(&mut self, from: SeqNumber, len: u32, stamp: u32, now: Instant) {
        self.undo.get_or_insert(Undo { stamp: Some(stamp) });
        self.resent = self.resent.saturating_add(1);
        self.board.on_resend(from, len, now);
        if let Some(prr) = &mut self.prr {
            prr.on_sent(len);
        }
        if self.timer.is_none() {
            self.timeout_from = now;
        }
        self.set_timer(now);
    }
}

// Acknowledgements.
impl Recovery {
    /// Takes in what an acknowledgement says. `ack` is not beyond `nxt`.
    pub(crate) fn on_ack(&mut self, ack: &Ack<'_>) -> Recovered {
        let before = self.in_flight();
        let was_limited = self.limited.gt(ack.una) || before.saturating_add(self.mss) > self.congestion.cwnd();
        let advanced = ack.ack.gt(ack.una);
        let (told_twice, mut delivered, sample) = self.update_board(ack);
        if let Some(sample) = sample {
            let expected = before.div_ceil(2 * self.mss.max(1));
            self.rtt.sample(sample.as_nanos() as u64, expected, ack.now);
        }
        if advanced {
            delivered -= self.forget_duplicates(delivered);
            self.recovered_to = self.recovered_to.filter(|to| ack.ack.le(*to));
            self.timeouts = 0;
            self.timeout_from = ack.now;
            self.undo_if_mistaken(ack);
        } else if ack.is_duplicate && !self.sack && !self.board.is_empty() {
            // RFC 9937 §6.2: each is taken for a segment that has arrived.
            self.duplicates += 1;
            delivered += self.mss;
        }
        if told_twice {
            self.rack.widen(ack.ack, ack.nxt);
        }
        let repaired = self.judge_probe(ack, told_twice, before);
        let lost_before = self.board.lost();
        self.detect(ack.now);
        let is_safe = advanced && self.board.lost() <= lost_before;
        let mut recovered = Recovered::default();
        let was_recovery = matches!(self.phase, Phase::Recovery(_));
        self.change_phase(ack, before, delivered, is_safe);
        if ack.ece && self.echoed.is_none_or(|until| ack.ack.gt(until)) {
            self.echoed = Some(ack.nxt);
            if self.phase == Phase::Open {
                self.congestion.on_ecn(before);
            }
            recovered.reduced = true;
        }
        if advanced {
            self.congestion.on_ack(&Acked {
                bytes: ack.ack.since(ack.una),
                now: ack.now,
                rtt: sample.map(|sample| sample.as_nanos() as u64),
                srtt: self.rtt.srtt().unwrap_or(0),
                // RFC 6582 §3.2, step 3: what ends a recovery sets the window to ssthresh, and does not let it grow.
                cwnd_limited: was_limited && !was_recovery && !repaired,
                ece: ack.ece,
                snd_una: ack.ack,
                snd_nxt: ack.nxt,
            });
        }
        self.set_timer(ack.now);
        recovered
    }

    /// Marks what has arrived. Gives whether the peer told of a duplicate, how many bytes are new, and a sample of the round
    /// trip: from the segment that was sent last, of those that were sent once (Karn's algorithm, RFC 6298 §3), or whose last
    /// sending the echo tells of: so the timeout falls back, although every segment had to be sent twice.
    fn update_board(&mut self, ack: &Ack<'_>) -> (bool, u32, Option<Duration>) {
        let min_rtt = self.rtt.min_rtt().unwrap_or(0);
        let rack = &mut self.rack;
        let (mut delivered, mut sent): (u32, Option<Instant>) = (0, None);
        let mut fills_hole = false;
        let mut each = |d: Delivered| {
            delivered += d.len;
            if !d.again || ack.echoes(d.at) {
                sent = sent.max(Some(d.at));
            } else {
                fills_hole = true;
            }
            rack.on_delivered(d, ack.now, min_rtt);
        };
        if ack.ack.gt(ack.una) {
            self.board.ack_to(ack.ack, &mut each);
        }
        if fills_hole {
            // What was sent once lay beyond the hole, and may have waited there for long.
            sent = None;
        }
        let mut each = |d: Delivered| {
            delivered += d.len;
            if !d.again || ack.echoes(d.at) {
                sent = sent.max(Some(d.at));
            }
            rack.on_delivered(d, ack.now, min_rtt);
        };
        let mut told_twice = false;
        for (i, &(left, right)) in ack.blocks.iter().enumerate() {
            let (left, right) = (SeqNumber::new(left), SeqNumber::new(right));
            // RFC 2883 §4: the first block is a duplicate's if it is acknowledged, or inside the second one.
            let outer = ack.blocks.get(1).map(|&(l, r)| (SeqNumber::new(l), SeqNumber::new(r)));
            let inside = outer.is_some_and(|(l, r)| l.le(left) && right.le(r));
            if i == 0 && (right.le(ack.ack) || inside) {
                told_twice = true;
            } else if self.sack && left.lt(right) && ack.ack.lt(left) && right.le(ack.nxt) {
                self.board.sack(left, right, &mut each);
            }
        }
        (told_twice, delivered, sent.map(|sent| ack.now.since(sent)))
    }

    /// An acknowledgement of `acked` bytes covers the segments that duplicates had told of. In a recovery one of them is the
    /// one that was missing, and the others may lie beyond the next hole (RFC 6582 §3.2, step 3: what it acknowledges is
    /// taken off the window, and no more). Gives how many of the bytes had been counted.
    fn forget_duplicates(&mut self, acked: u32) -> u32 {
        let covered = match self.phase {
            Phase::Recovery(_) => (acked / self.mss.max(1)).saturating_sub(1).min(self.duplicates),
            _ => self.duplicates,
        };
        self.duplicates -= covered;
        (covered * self.mss).min(acked)
    }

    /// RFC 3522 §3.2: the acknowledgement was caused by the first sending, so what followed was a mistake.
    fn undo_if_mistaken(&mut self, ack: &Ack<'_>) {
        if self.phase == Phase::Open {
            self.undo = None;
            return;
        }
        let stamp = self.undo.as_mut().and_then(|undo| undo.stamp.take());
        if let (Some(stamp), Some(echo)) = (stamp, ack.echo)
            && (echo.wrapping_sub(stamp) as i32) < 0
        {
            self.congestion.undo();
            self.board.forgive();
            (self.phase, self.prr, self.undo) = (Phase::Open, None, None);
        }
    }

    /// RFC 8985 §7.4.2. Says whether the probe repaired a loss.
    fn judge_probe(&mut self, ack: &Ack<'_>, told_twice: bool, before: u32) -> bool {
        let Some(probe) = &self.probe else { return false };
        if ack.ack.lt(probe.end) {
            return false;
        }
        let repaired = probe.again && !told_twice && ack.ack.gt(probe.end);
        let both_arrived = !probe.again || told_twice || ack.is_duplicate && ack.blocks.is_empty();
        if repaired {
            // The probe repaired a loss that nobody saw: the window shrinks as for any other.
            self.congestion.on_loss(before);
            self.congestion.on_recovery_exit();
        }
        if repaired || both_arrived {
            self.probe = None;
        }
        repaired
    }

    /// RFC 8985 §6.2, step 5; RFC 6582 §3.2 for a peer without selective acknowledgements.
    fn detect(&mut self, now: Instant) {
        self.rack.look_again = None;
        if !self.sack {
            // RFC 6582 §3.2, step 2: what was sent again in the last recovery may cause duplicates, too; but not more than
            // there were (§4 has other ways to tell).
            let caused = if self.recovered_to.is_some() { self.resent } else { 0 };
            if self.duplicates >= DUPLICATES + caused && self.phase == Phase::Open {
                self.board.mark_first_lost();
            }
            return;
        }
        if self.board.sacked() == 0 && !self.board.has_again() {
            return;
        }
        let patience = Duration::from_nanos(self.rack.rtt) + self.reordering_window();
        let detected = self.board.detect(self.rack.at, self.rack.end, |sent| {
            let at = sent + patience;
            (at > now).then_some(at)
        });
        self.rack.look_again = detected.look_again;
    }

    /// RFC 8985 §6.2, step 4.
    fn reordering_window(&self) -> Duration {
        if !self.rack.reordering && (self.phase != Phase::Open || self.board.sacked_count() >= DUPLICATES) {
            return Duration::ZERO;
        }
        let quarter = self.min_rtt() / 4;
        (quarter * u32::from(self.rack.widening)).min(self.round_trip())
    }

    fn change_phase(&mut self, ack: &Ack<'_>, before: u32, delivered: u32, is_safe: bool) {
        match self.phase {
            Phase::Open => {
                if self.board.lost() > 0 {
                    self.enter_recovery(ack.nxt, before);
                    self.slide(delivered, is_safe);
                }
            }
            Phase::Recovery(point) if ack.ack.ge(point) => {
                self.congestion.on_recovery_exit();
                self.open();
            }
            Phase::Recovery(_) => {
                // RFC 6582 §3.2, step 3: an acknowledgement of a part says that the next segment is lost, too.
                if !self.sack && ack.ack.gt(ack.una) {
                    self.board.mark_first_lost();
                }
                self.slide(delivered, is_safe);
            }
            Phase::Loss(point) => {
                // What an acknowledgement of a part leaves is under way again, or counts as lost still: it says nothing.
                if ack.ack.ge(point) {
                    self.open();
                }
            }
        }
    }

    fn enter_recovery(&mut self, nxt: SeqNumber, before: u32) {
        self.phase = Phase::Recovery(nxt);
        self.resent = 0;
        self.undo = None;
        self.probe = None;
        self.congestion.on_loss(before);
        self.prr = Some(Prr::new(self.congestion.ssthresh(), before));
    }

    /// RFC 9937 §6.2: as much leaves as has arrived, in the proportion of the new window to the old one.
    fn slide(&mut self, delivered: u32, is_safe: bool) {
        let in_flight = self.in_flight();
        if let Some(prr) = &mut self.prr {
            self.recovery_window = prr.on_ack(Arrived { bytes: delivered, in_flight, is_safe }, self.mss);
        }
    }

    fn open(&mut self) {
        if let Phase::Recovery(point) | Phase::Loss(point) = self.phase {
            self.recovered_to = Some(point);
        }
        self.phase = Phase::Open;
        (self.undo, self.prr) = (None, None);
        self.duplicates = 0;
        self.rack.on_recovery_end();
    }
}

// Timers.
impl Recovery {
    /// The timer that runs, and when it fires.
    #[inline]
    pub(crate) fn timer(&self) -> Option<(Timer, Instant)> {
        self.timer
    }

    #[inline]
    fn set_timer(&mut self, now: Instant) {
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

    /// Nothing was sent for long (RFC 5681 §4.1): the window is what a new connection would have.
    pub(crate) fn on_idle(&mut self) {
        self.congestion.on_idle();
    }

    /// What must hold.
    pub(crate) fn check(&self, una: SeqNumber, nxt: SeqNumber) {
        self.board.check(una, nxt);
        assert_eq!(self.timer.is_some(), !self.board.is_empty(), "a timer runs exactly while something is in flight");
    }
}
