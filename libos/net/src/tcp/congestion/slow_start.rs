//! Slow start that ends before it overflows the path: HyStart++ (RFC 9406).
//!
//! When round trips grow longer while the window doubles, a queue is building up. Growth is then a quarter of what it was
//! for five rounds ("conservative slow start"), in which shorter round trips show that it was a false alarm; else slow
//! start is over. Only for the first slow start of a connection (§4.3); later ones end at what was learnt.

use super::{Acked, Window};
use crate::tcp::seq::SeqNumber;

// RFC 9406 §4.3, with its names.
const MIN_RTT_THRESH: u64 = 4_000_000;
const MAX_RTT_THRESH: u64 = 16_000_000;
const MIN_RTT_DIVISOR: u64 = 8;
const N_RTT_SAMPLE: u8 = 8;
const CSS_GROWTH_DIVISOR: u32 = 4;
const CSS_ROUNDS: u8 = 5;
/// We do not pace: an acknowledgement of many segments may not send more than these in one burst.
const L: u32 = 8;

/// What the first slow start knows.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct SlowStart {
    /// The round ends when this is acknowledged. `None`: the first has not begun.
    window_end: Option<SeqNumber>,
    current_round_min_rtt: u64,
    last_round_min_rtt: u64,
    rtt_sample_count: u8,
    phase: Phase,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Phase {
    Standard,
    Conservative { baseline_min_rtt: u64, rounds: u8 },
    Over,
}

const INFINITE: u64 = u64::MAX;

impl SlowStart {
    pub(super) fn new() -> SlowStart {
        SlowStart {
            window_end: None,
            current_round_min_rtt: INFINITE,
            last_round_min_rtt: INFINITE,
            rtt_sample_count: 0,
            phase: Phase::Standard,
        }
    }

    /// A loss, a mark or a time-out: what follows is ordinary slow start.
    pub(super) fn end(&mut self) {
        self.phase = Phase::Over;
    }

    /// Watches the round trips, and lets `window` grow if it may. Gives what is left to avoidance.
    pub(super) fn on_ack(&mut self, window: &mut Window, acked: &Acked, may_grow: bool) -> u32 {
        if self.phase == Phase::Over {
            return if may_grow { window.slow_start(acked.bytes, 1) } else { 0 };
        }
        if self.window_end.is_none_or(|end| acked.snd_una.ge(end)) {
            self.begin_round(acked.snd_nxt);
        }
        if self.phase == Phase::Over {
            // The rounds of conservative slow start are over (§4.2): avoidance begins here.
            window.ssthresh = window.cwnd;
            return acked.bytes;
        }
        let divisor = if self.phase == Phase::Standard { 1 } else { CSS_GROWTH_DIVISOR };
        let left =
            if may_grow { window.slow_start(acked.bytes.min(window.mss.saturating_mul(L)) / divisor, L) } else { 0 };
        if let Some(rtt) = acked.rtt {
            self.on_sample(rtt);
        }
        left
    }

    fn begin_round(&mut self, snd_nxt: SeqNumber) {
        let first = self.window_end.is_none();
        self.window_end = Some(snd_nxt);
        if first {
            return;
        }
        self.last_round_min_rtt = self.current_round_min_rtt;
        self.current_round_min_rtt = INFINITE;
        self.rtt_sample_count = 0;
        if let Phase::Conservative { rounds, .. } = &mut self.phase {
            // The round in which it began counts, too.
            *rounds += 1;
            if *rounds >= CSS_ROUNDS {
                self.phase = Phase::Over;
            }
        }
    }

    fn on_sample(&mut self, rtt: u64) {
        self.current_round_min_rtt = self.current_round_min_rtt.min(rtt);
        self.rtt_sample_count = self.rtt_sample_count.saturating_add(1);
        if self.rtt_sample_count < N_RTT_SAMPLE {
            return;
        }
        match self.phase {
            Phase::Standard if self.last_round_min_rtt != INFINITE => {
                let thresh = (self.last_round_min_rtt / MIN_RTT_DIVISOR).clamp(MIN_RTT_THRESH, MAX_RTT_THRESH);
                if self.current_round_min_rtt >= self.last_round_min_rtt.saturating_add(thresh) {
                    self.phase = Phase::Conservative { baseline_min_rtt: self.current_round_min_rtt, rounds: 0 };
                }
            }
            Phase::Conservative { baseline_min_rtt, .. } if self.current_round_min_rtt < baseline_min_rtt => {
                self.phase = Phase::Standard;
            }
            _ => {}
        }
    }

    #[cfg(test)]
    pub(super) fn is_conservative(&self) -> bool {
        matches!(self.phase, Phase::Conservative { .. })
    }

    #[cfg(test)]
    pub(super) fn is_over(&self) -> bool {
        self.phase == Phase::Over
    }
}
