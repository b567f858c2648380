//! DCTCP (RFC 8257): the window is reduced by as much as the network marks, not by half whenever it marks.
//!
//! `alpha` is the part of the bytes that were marked, averaged over windows with a gain of 1/16. Otherwise as Reno, and
//! that is also the answer to a loss (§3.4: marks are not losses, but losses are). The receiver's part, to echo each mark exactly
//! (§3.2), is not here.

use super::slow_start::SlowStart;
use super::{Acked, CongestionControl, Window};
use crate::tcp::seq::SeqNumber;

/// What `alpha` is counted in: 1 is all.
const ONE: u64 = 1 << 20;
/// §4.2: g.
const GAIN: u64 = 16;

#[derive(Clone, Debug)]
pub(crate) struct Dctcp {
    window: Window,
    slow_start: SlowStart,
    alpha: u64,
    /// Since the observed window began.
    bytes_acked: u64,
    bytes_marked: u64,
    /// When this is acknowledged it ends.
    window_end: Option<SeqNumber>,
}

impl Dctcp {
    pub(super) fn new(mss: u32) -> Dctcp {
        Dctcp {
            window: Window::new(mss),
            slow_start: SlowStart::new(),
            // §4.2: before anything is known the reaction is Reno's.
            alpha: ONE,
            bytes_acked: 0,
            bytes_marked: 0,
            window_end: None,
        }
    }

    /// §3.3, steps 1 to 8.
    fn observe(&mut self, acked: &Acked) {
        self.bytes_acked += u64::from(acked.bytes);
        self.bytes_marked += if acked.ece { u64::from(acked.bytes) } else { 0 };
        let end = *self.window_end.get_or_insert(acked.snd_nxt);
        if acked.snd_una.le(end) {
            return;
        }
        let marked = self.bytes_marked * ONE / self.bytes_acked.max(1);
        // Rounded up, so that it reaches zero.
        self.alpha = (self.alpha - self.alpha.div_ceil(GAIN) + marked / GAIN).min(ONE);
        (self.bytes_acked, self.bytes_marked) = (0, 0);
        self.window_end = Some(acked.snd_nxt);
    }
}

impl CongestionControl for Dctcp {
    #[inline]
    fn window(&self) -> &Window {
        &self.window
    }

    #[inline]
    fn window_mut(&mut self) -> &mut Window {
        &mut self.window
    }

    fn on_ack(&mut self, acked: &Acked) {
        self.observe(acked);
        let may_grow = self.window.may_grow(acked);
        if self.window.is_in_slow_start() {
            self.slow_start.on_ack(&mut self.window, acked, may_grow);
        } else if may_grow {
            self.window.avoid(acked.bytes);
        }
    }

    fn on_loss(&mut self, flight: u32) {
        self.slow_start.end();
        self.window.on_loss(flight / 2);
    }

    fn on_timeout(&mut self, flight: u32) {
        self.slow_start.end();
        self.window.on_timeout(flight / 2);
    }

    /// §3.3, step 9: cwnd * (1 - alpha / 2).
    fn on_ecn(&mut self, _flight: u32) {
        self.slow_start.end();
        let cwnd = u64::from(self.window.cwnd);
        self.window.on_mark((cwnd - cwnd * self.alpha / ONE / 2) as u32);
    }

    fn undo(&mut self) {
        self.window.undo();
    }
}

#[cfg(test)]
impl Dctcp {
    pub(super) fn alpha(&self) -> f64 {
        self.alpha as f64 / ONE as f64
    }
}
