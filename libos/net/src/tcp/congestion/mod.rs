//! Congestion control: how much may be in flight, in bytes.
//!
//! Each algorithm answers the same events ([`CongestionControl`]); [`Controller`] is one of them, chosen by
//! [`CongestionKind`], without an allocation and without a table of methods.
//!
//! Always: `cwnd` is at least one segment, at least two after a loss, and at most [`CWND_MAX`]; it does not grow while it is
//! not what limits the sender (RFC 7661 §4.3), nor during recovery, nor for an acknowledgement with ECE (RFC 3168 §6.1.2).
//! What may be sent during recovery is not `cwnd`, but what [`Prr`](super::prr::Prr) says; `cwnd` is already where recovery
//! is to end.
//! The caller knows when a loss is a new one and when a window of data had its reaction: `on_loss` and `on_ecn` come at
//! most once for one window of data (RFC 6582 §3.2, RFC 3168 §6.1.2).
//! Sources: RFC 5681 (slow start, avoidance, time-outs, idleness), RFC 6928 (the initial window).

mod cubic;
mod dctcp;
mod new_reno;
mod slow_start;

use cubic::Cubic;
use dctcp::Dctcp;
use new_reno::NewReno;
use pdpix::Instant;

use super::seq::SeqNumber;

/// No window is larger than the largest that TCP can tell (RFC 7323 §2.3).
pub(crate) const CWND_MAX: u32 = 1 << 30;

/// Which algorithm a connection's congestion window follows.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default)]
pub enum CongestionKind {
    /// RFC 5681 and RFC 6582: one segment more every round trip, half after a loss.
    NewReno,
    /// RFC 9438, with HyStart++ (RFC 9406): what the Internet uses.
    #[default]
    Cubic,
    /// RFC 8257: for networks whose switches all mark early, and for no others. Needs ECN.
    Dctcp,
}

impl CongestionKind {
    /// What stands in for it where the peer takes no part in congestion notification (RFC 8257 §3.6).
    pub(crate) fn without_ecn(self) -> CongestionKind {
        if self == CongestionKind::Dctcp { CongestionKind::Cubic } else { self }
    }

    /// Whether each acknowledgement says exactly whether what it acknowledges was marked (RFC 8257 §3.2).
    pub(crate) fn echoes_exactly(self) -> bool {
        self == CongestionKind::Dctcp
    }
}

/// An acknowledgement of something new.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Acked {
    /// How much, cumulatively or selectively.
    pub(crate) bytes: u32,
    /// When.
    pub(crate) now: Instant,
    /// The round trip that it measures, in nanoseconds.
    pub(crate) rtt: Option<u64>,
    /// The smoothed round trip, in nanoseconds; zero while there is none.
    pub(crate) srtt: u64,
    /// `cwnd` was what kept more from being sent.
    pub(crate) cwnd_limited: bool,
    /// It says that packets were marked.
    pub(crate) ece: bool,
    /// What is acknowledged now.
    pub(crate) snd_una: SeqNumber,
    /// What was sent.
    pub(crate) snd_nxt: SeqNumber,
}

/// An algorithm. `flight` is the bytes that were sent and are not acknowledged, when the event came.
pub(crate) trait CongestionControl {
    /// The window that it moves.
    fn window(&self) -> &Window;

    /// The same.
    fn window_mut(&mut self) -> &mut Window;

    /// Something new was acknowledged.
    fn on_ack(&mut self, acked: &Acked);

    /// Data was lost, and recovery begins.
    fn on_loss(&mut self, flight: u32);

    /// The retransmission timer expired.
    fn on_timeout(&mut self, flight: u32);

    /// The network marked data instead of dropping it.
    fn on_ecn(&mut self, flight: u32);

    /// The last loss or time-out was none: as if it had not been.
    fn undo(&mut self);

    /// Nothing was sent for longer than a retransmission timeout.
    fn on_idle(&mut self) {
        self.window_mut().restart();
    }

    /// All that was outstanding when recovery began is acknowledged.
    fn on_recovery_exit(&mut self) {
        self.window_mut().recovering = false;
    }

    /// The path carries other segments now.
    fn set_mss(&mut self, mss: u32) {
        let window = self.window_mut();
        window.mss = mss;
        window.set(window.cwnd);
    }

    /// Bytes that may be in flight.
    #[inline]
    fn cwnd(&self) -> u32 {
        self.window().cwnd
    }

    /// Below it the window grows by what is acknowledged.
    #[inline]
    fn ssthresh(&self) -> u32 {
        self.window().ssthresh
    }

    /// Whether it does.
    #[inline]
    #[cfg(test)]
    fn is_in_slow_start(&self) -> bool {
        self.window().is_in_slow_start()
    }
}

/// One of the algorithms.
#[derive(Clone, Debug)]
pub(crate) enum Controller {
    NewReno(NewReno),
    Cubic(Cubic),
    Dctcp(Dctcp),
}

const _: () = assert!(size_of::<Controller>() <= 264);

impl Controller {
    /// For a connection that begins, with segments of `mss` bytes.
    pub(crate) fn new(kind: CongestionKind, mss: u32) -> Controller {
        match kind {
            CongestionKind::NewReno => Controller::NewReno(NewReno::new(mss)),
            CongestionKind::Cubic => Controller::Cubic(Cubic::new(mss)),
            CongestionKind::Dctcp => Controller::Dctcp(Dctcp::new(mss)),
        }
    }
}

macro_rules! each {
    ($controller:expr, $one:ident => $what:expr) => {
        match $controller {
            Controller::NewReno($one) => $what,
            Controller::Cubic($one) => $what,
            Controller::Dctcp($one) => $what,
        }
    };
}

impl CongestionControl for Controller {
    #[inline]
    fn window(&self) -> &Window {
        each!(self, one => one.window())
    }

    #[inline]
    fn window_mut(&mut self) -> &mut Window {
        each!(self, one => one.window_mut())
    }

    #[inline]
    fn on_ack(&mut self, acked: &Acked) {
        each!(self, one => one.on_ack(acked));
    }

    fn on_loss(&mut self, flight: u32) {
        each!(self, one => one.on_loss(flight));
    }

    fn on_timeout(&mut self, flight: u32) {
        each!(self, one => one.on_timeout(flight));
    }

    fn on_ecn(&mut self, flight: u32) {
        each!(self, one => one.on_ecn(flight));
    }

    fn undo(&mut self) {
        each!(self, one => one.undo());
    }

    fn on_idle(&mut self) {
        each!(self, one => one.on_idle());
    }
}

/// What all algorithms move: the two variables of RFC 5681, and the rules that they share.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Window {
    mss: u32,
    cwnd: u32,
    ssthresh: u32,
    /// Bytes acknowledged since the window last grew in congestion avoidance.
    counted: u32,
    recovering: bool,
    /// The timer has expired, and nothing new was acknowledged since.
    timed_out: bool,
    /// `cwnd` and `ssthresh` before the last loss or time-out.
    before: Option<(u32, u32)>,
}

impl Window {
    fn new(mss: u32) -> Window {
        debug_assert!(mss > 0);
        let cwnd = initial_window(mss);
        // RFC 5681 §3.1: arbitrarily high, so that the network finds it and not we.
        let ssthresh = CWND_MAX;
        Window { mss, cwnd, ssthresh, counted: 0, recovering: false, timed_out: false, before: None }
    }

    fn set(&mut self, cwnd: u32) {
        self.cwnd = cwnd.clamp(self.mss.min(CWND_MAX), CWND_MAX);
    }

    #[inline]
    fn is_in_slow_start(&self) -> bool {
        self.cwnd < self.ssthresh
    }

    /// Whether the window may grow for this acknowledgement. Takes note of the progress.
    #[inline]
    fn may_grow(&mut self, acked: &Acked) -> bool {
        self.timed_out = false;
        acked.cwnd_limited && !acked.ece && !self.recovering
    }

    /// Slow start: grows by what was acknowledged, and at most by `segments_max` segments (RFC 5681 §3.1, RFC 9406 §4.2);
    /// not beyond `ssthresh`. Gives what is left to avoidance.
    fn slow_start(&mut self, bytes: u32, segments_max: u32) -> u32 {
        let growth = bytes.min(self.mss.saturating_mul(segments_max));
        let used = growth.min(self.ssthresh.saturating_sub(self.cwnd));
        self.set(self.cwnd + used);
        growth - used
    }

    /// Congestion avoidance: one segment more for each window acknowledged (RFC 5681 §3.1, by counting bytes).
    fn avoid(&mut self, bytes: u32) {
        self.counted = self.counted.saturating_add(bytes);
        if self.counted >= self.cwnd {
            self.counted = (self.counted - self.cwnd).min(self.cwnd);
            self.set(self.cwnd + self.mss);
        }
    }

    /// Goes down to `target`, but not below two segments (RFC 5681 §3.1, equation 4), because of a loss.
    fn on_loss(&mut self, target: u32) {
        self.before = Some((self.cwnd, self.ssthresh));
        self.reduce(target);
        self.recovering = true;
    }

    /// The same because of a mark, which is never undone, nor is what was before it.
    fn on_mark(&mut self, target: u32) {
        self.before = None;
        self.reduce(target);
    }

    fn reduce(&mut self, target: u32) {
        self.ssthresh = target.clamp(self.mss.saturating_mul(2).min(CWND_MAX), CWND_MAX);
        self.set(self.ssthresh);
        self.counted = 0;
    }

    /// RFC 5681 §3.1: one segment, and slow start up to `target`; `ssthresh` stays if the same segment timed out again.
    fn on_timeout(&mut self, target: u32) {
        if !self.timed_out {
            if !self.recovering {
                self.before = Some((self.cwnd, self.ssthresh));
            }
            self.reduce(target);
        }
        self.set(self.mss);
        (self.recovering, self.timed_out) = (false, true);
    }

    /// The window as it was before the last loss or time-out, if it has not become larger since. False: there was none.
    fn undo(&mut self) -> bool {
        let Some((cwnd, ssthresh)) = self.before.take() else { return false };
        self.set(self.cwnd.max(cwnd));
        self.ssthresh = self.ssthresh.max(ssthresh);
        (self.recovering, self.timed_out) = (false, false);
        true
    }

    /// RFC 5681 §4.1: after idleness the initial window at most. As in RFC 2861 §3.1, what was learnt is not forgotten.
    fn restart(&mut self) {
        let restart = initial_window(self.mss);
        if self.cwnd > restart {
            self.ssthresh = self.ssthresh.max(self.cwnd / 4 * 3);
            self.set(restart);
        }
        self.counted = 0;
    }
}

/// RFC 6928 §2: ten segments, or as many bytes as ten of Ethernet's have.
fn initial_window(mss: u32) -> u32 {
    mss.saturating_mul(10).min(14600.max(mss.saturating_mul(2))).min(CWND_MAX)
}

#[cfg(test)]
mod tests;
