//! Long segments: several segments' text behind one header, which the device cuts up (TSO, GSO).
//!
//! Always: a long segment is what as many segments would have been that went out at the same time. The scoreboard has each
//! of them by itself, so that a part of a long segment can be lost, acknowledged selectively, and sent again. Only new data
//! goes out so. What differs between devices is kept out: the segment with CWR goes by itself (RFC 3168 §6.1.2: it is said
//! once), and so does a short last one that has room for selective acknowledgements; and there are devices that refuse to cut
//! into small pieces.
//! How long it may be follows Linux's `tcp_tso_autosize` in spirit: what the path takes in about a millisecond, so that a long
//! segment is no burst that a queue on the way has not room for; as much as fits where a round trip is short.

use super::congestion::CongestionControl;
use super::tcb::{Cx, Fin, Tcb};
use crate::wire::{IPV6_LEN, TCP_LEN, TCP_OPTIONS_MAX};

/// What fits into an IP packet beside the longest headers.
const LONG_MAX: u32 = u16::MAX as u32 - (IPV6_LEN + TCP_LEN + TCP_OPTIONS_MAX) as u32;
/// What is copied into one piece at most, for a device that gathers fewer pieces than there are.
const LINEAR_MAX: u32 = 16 << 10;
/// The least text of a segment that is cut off a long one: Intel's XL710 (DPDK's i40e) drops what is to be cut into less.
const CUT_MIN: u32 = 256;
/// Nanoseconds of sending that a long segment may hold.
const BURST_NANOS: u64 = 1_000_000;

impl Tcb {
    /// How much of the `unsent` bytes goes out at once, if one full segment may and the device cuts up: whole segments; behind
    /// them the short last one, where it would go out now, too. `window` and `room` are what the peer and the path take.
    #[inline(never)]
    pub(super) fn long_len(&mut self, unsent: u32, window: u32, room: u32, cx: &Cx<'_>) -> u32 {
        let mss = self.mss;
        let Some(cut_max) = cx.ip.cuts_up(&self.path).filter(|_| !self.says_reduced && mss >= CUT_MIN) else {
            return mss;
        };
        let most = cut_max.min(LONG_MAX).min(self.burst()).min(window).min(room);
        if most <= mss {
            return mss;
        }
        // RFC 9293 §3.7.4 (Nagle): the short one waits, as the others are under way.
        let tells = self.agreed.sack && self.receive.has_blocks();
        let takes_tail = (self.no_delay || self.fin == Fin::Asked) && !tells;
        let len = if unsent <= most && takes_tail { unsent } else { most.min(unsent) };
        let len = if len < unsent || !takes_tail { len - len % mss } else { len };
        self.gathered(len, cx).max(mss)
    }

    /// As much of `len` bytes as goes out in so many pieces as the device gathers; else what is worth a copy.
    fn gathered(&mut self, len: u32, cx: &Cx<'_>) -> u32 {
        let offset = self.snd_nxt.since(self.snd_una) as usize;
        let reach = self.queue.reach(offset, len as usize, cx.ip.gathers_max().saturating_sub(1)) as u32;
        if reach >= len {
            return len;
        }
        let whole = reach - reach % self.mss;
        if whole > self.mss { whole } else { len.min(LINEAR_MAX - LINEAR_MAX % self.mss) }
    }

    /// Counts a long segment as what it is cut into. Gives the text of each.
    #[inline(never)]
    pub(super) fn count_long(&self, text: usize, cx: &mut Cx<'_>) -> u16 {
        cx.ip.counters.tcp_long_segments += 1;
        cx.ip.counters.tcp_segments_sent += text.div_ceil(self.mss as usize) as u64 - 1;
        self.mss as u16
    }

    /// What is no burst on this path: at least two segments, at most half a window.
    fn burst(&self) -> u32 {
        let recovery = &self.recovery;
        let cwnd = recovery.congestion.cwnd();
        let at_rate = (u64::from(cwnd) * BURST_NANOS).checked_div(recovery.round_trip_nanos()).unwrap_or(0);
        // Half as much for each half of a millisecond that the way is longer.
        let near = LONG_MAX >> (recovery.rtt.min_rtt().unwrap_or(u64::MAX) >> 19).min(31);
        let burst = u32::try_from(at_rate).unwrap_or(u32::MAX).saturating_add(near);
        burst.max(2 * self.mss).min(cwnd / 2)
    }
}
