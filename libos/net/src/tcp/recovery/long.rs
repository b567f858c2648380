//! What is kept of a long segment, which the device cuts up: as much as of the segments that it is cut into.

use pdpix::Instant;

use super::Recovery;

impl Recovery {
    /// The next `len` bytes, the FIN's one of them if `fin`, went out as one segment that the device cuts up: what is kept of
    /// it is what of as many segments would be.
    pub(crate) fn on_send_long(&mut self, len: u32, fin: u32, now: Instant) {
        if self.board.is_empty() {
            self.timeout_from = now;
        }
        let mut left = len;
        while left > self.mss + fin {
            self.board.on_send(self.mss, now);
            left -= self.mss;
        }
        self.board.on_send(left, now);
        if let Some(prr) = &mut self.prr {
            prr.on_sent(len);
        }
        self.set_timer(now);
    }
}
