//! NewReno: RFC 5681, with RFC 6582's recovery (when a loss is a new one is the caller's to know).
//!
//! Slow start grows by at most one segment an acknowledgement (RFC 5681 §3.1, equation 2).

use super::{Acked, CongestionControl, Window};

#[derive(Clone, Debug)]
pub(crate) struct NewReno {
    window: Window,
}

impl NewReno {
    pub(super) fn new(mss: u32) -> NewReno {
        NewReno { window: Window::new(mss) }
    }
}

impl CongestionControl for NewReno {
    #[inline]
    fn window(&self) -> &Window {
        &self.window
    }

    #[inline]
    fn window_mut(&mut self) -> &mut Window {
        &mut self.window
    }

    fn on_ack(&mut self, acked: &Acked) {
        if !self.window.may_grow(acked) {
            return;
        }
        if self.window.is_in_slow_start() {
            self.window.slow_start(acked.bytes, 1);
        } else {
            self.window.avoid(acked.bytes);
        }
    }

    fn on_loss(&mut self, flight: u32) {
        self.window.on_loss(flight / 2);
    }

    fn on_timeout(&mut self, flight: u32) {
        self.window.on_timeout(flight / 2);
    }

    /// RFC 3168 §6.1.2: as a loss, but that there is nothing to recover.
    fn on_ecn(&mut self, flight: u32) {
        self.window.on_mark(flight / 2);
    }

    fn undo(&mut self) {
        self.window.undo();
    }
}
