//! CUBIC (RFC 9438): the window is a cubic function of the time since the last reduction, flat where that happened.
//!
//! W_cubic(t) = C * (t - K)^3 + W_max, in segments and seconds; we keep bytes and nanoseconds. K is found with an integer
//! cube root, and the rest needs only `f64`'s four operations, which are exact to the last bit everywhere: a run is the
//! same on every machine.
//! Slow start is HyStart++ (§4.10). The time in which the window was not what limited the sender does not count (§4.2).

use pdpix::Instant;

use super::slow_start::SlowStart;
use super::{Acked, CongestionControl, Window};

/// RFC 9438 §5: C, in segments per second cubed.
const C: f64 = 0.4;
/// §4.6: what is left of the window after a loss, in tenths.
const BETA_TENTHS: u32 = 7;
/// §4.3: 3 * (1 - beta) / (1 + beta), so that the average window is that of Reno.
const ALPHA: f64 = 9.0 / 17.0;

#[derive(Clone, Debug)]
pub(crate) struct Cubic {
    window: Window,
    slow_start: SlowStart,
    /// The part of a byte that `cwnd` does not show.
    fraction: f64,
    curve: Curve,
    /// As it was before the last loss or time-out.
    before: Curve,
}

/// Where on the cubic function the window is.
#[derive(Clone, Copy, PartialEq, Debug)]
struct Curve {
    /// The window before the last reduction, or less if it shrinks (§4.7); zero: unknown.
    w_max: f64,
    /// The window before the last reduction.
    cwnd_prior: f64,
    /// The current stage of congestion avoidance, if it has begun.
    stage: Option<Stage>,
}

#[derive(Clone, Copy, PartialEq, Debug)]
struct Stage {
    /// t = 0.
    start: Instant,
    /// The last acknowledgement.
    last: Instant,
    /// When the plateau is reached, in nanoseconds after `start`.
    k: u64,
    /// The plateau.
    origin: f64,
    /// What Reno's window would be (§4.3).
    w_est: f64,
}

impl Cubic {
    pub(super) fn new(mss: u32) -> Cubic {
        let curve = Curve { w_max: 0.0, cwnd_prior: 0.0, stage: None };
        Cubic { window: Window::new(mss), slow_start: SlowStart::new(), fraction: 0.0, curve, before: curve }
    }

    /// Congestion avoidance: §4.2 to §4.5.
    fn avoid(&mut self, acked: &Acked, may_grow: bool) {
        let (cwnd, mss) = (f64::from(self.window.cwnd) + self.fraction, f64::from(self.window.mss));
        let curve = &mut self.curve;
        let stage = curve.stage.get_or_insert_with(|| {
            // §4.8 and §4.10: after slow start that no loss ended, or a time-out, nothing is known of the plateau but
            // where we are; nor if we are beyond it.
            curve.w_max = curve.w_max.max(cwnd);
            curve.cwnd_prior = if curve.cwnd_prior > 0.0 { curve.cwnd_prior } else { cwnd };
            let k = time_to_plateau((curve.w_max - cwnd) as u64, self.window.mss);
            Stage { start: acked.now, last: acked.now, k, origin: curve.w_max, w_est: cwnd }
        });
        let last = std::mem::replace(&mut stage.last, acked.now);
        if !may_grow {
            stage.start += acked.now.since(last);
            return;
        }
        let t = acked.now.as_nanos().saturating_sub(stage.start.as_nanos());
        // What is more than a window was sent in a larger one, before a reduction: it is no more than one round trip.
        let acked_part = (f64::from(acked.bytes) / cwnd).min(1.0);
        // §4.3: once it is as large as before the reduction, Reno's slope is 1.
        let alpha = if stage.w_est < curve.cwnd_prior { ALPHA } else { 1.0 };
        stage.w_est += alpha * mss * acked_part;
        let cubic = if stage.at(t, mss) < stage.w_est {
            cwnd
        } else {
            // §4.4, §4.5: towards where the curve will be after one round trip, but not faster than half a window.
            let target = stage.at(t.saturating_add(acked.srtt), mss).clamp(cwnd, 1.5 * cwnd);
            cwnd + (target - cwnd) * acked_part
        };
        let grown = cubic.max(stage.w_est);
        let whole = grown.min(f64::from(super::CWND_MAX));
        self.window.set(whole as u32);
        self.fraction = whole - f64::from(whole as u32);
    }

    /// §4.6, §4.7: notes where the reduction came, and gives what is left.
    fn leave_plateau(&mut self, flight: u32) -> u32 {
        self.before = self.curve;
        let cwnd = f64::from(self.window.cwnd);
        // Fast convergence: if the window is smaller than the last time, others have come, and get more room.
        let w_max = if cwnd < self.curve.w_max { cwnd * 0.85 } else { cwnd };
        self.curve = Curve { w_max, cwnd_prior: cwnd, stage: None };
        self.slow_start.end();
        self.fraction = 0.0;
        (u64::from(flight) * u64::from(BETA_TENTHS) / 10) as u32
    }
}

impl Stage {
    /// W_cubic(t), in bytes; `t` in nanoseconds.
    #[inline]
    fn at(&self, t: u64, mss: f64) -> f64 {
        let seconds = (t as f64 - self.k as f64) * 1e-9;
        C * mss * seconds * seconds * seconds + self.origin
    }
}

impl CongestionControl for Cubic {
    #[inline]
    fn window(&self) -> &Window {
        &self.window
    }

    #[inline]
    fn window_mut(&mut self) -> &mut Window {
        &mut self.window
    }

    fn on_ack(&mut self, acked: &Acked) {
        let may_grow = self.window.may_grow(acked);
        if self.window.recovering {
            return;
        }
        let mut left = *acked;
        if self.window.is_in_slow_start() {
            left.bytes = self.slow_start.on_ack(&mut self.window, acked, may_grow);
            if self.window.is_in_slow_start() {
                return;
            }
        }
        self.avoid(&left, may_grow);
    }

    fn on_loss(&mut self, flight: u32) {
        let target = self.leave_plateau(flight);
        self.window.on_loss(target);
    }

    fn on_timeout(&mut self, flight: u32) {
        let troubled = self.window.recovering || self.window.timed_out;
        let before = if troubled { self.before } else { self.curve };
        let mut target = 0;
        if !self.window.timed_out {
            target = self.leave_plateau(flight);
            // §4.8: the next stage begins on a plateau of its own.
            self.curve.w_max = 0.0;
        }
        self.before = before;
        self.window.on_timeout(target);
    }

    fn on_ecn(&mut self, flight: u32) {
        let target = self.leave_plateau(flight);
        self.window.on_mark(target);
    }

    /// §4.9.
    fn undo(&mut self) {
        if self.window.undo() {
            self.curve = self.before;
        }
    }

    fn on_idle(&mut self) {
        self.window.restart();
        self.curve.stage = None;
        self.fraction = 0.0;
    }
}

#[cfg(test)]
impl Cubic {
    pub(super) fn slow_start(&self) -> SlowStart {
        self.slow_start
    }
}

/// K of RFC 9438 §4.2, figure 2, in nanoseconds: the cube root of (W_max - cwnd) / C.
fn time_to_plateau(missing_bytes: u64, mss: u32) -> u64 {
    // 1/C = 2.5; a second cubed is 10^27 nanoseconds cubed.
    const NS3_PER_SEGMENT: u128 = 2_500_000_000_000_000_000_000_000_000;
    cube_root(u128::from(missing_bytes) * NS3_PER_SEGMENT / u128::from(mss.max(1)))
}

/// The largest number whose cube is not more than `n`, by Newton's method from above.
fn cube_root(n: u128) -> u64 {
    if n == 0 {
        return 0;
    }
    let mut root: u128 = 1 << (128 - n.leading_zeros()).div_ceil(3);
    loop {
        let next = (2 * root + n / (root * root)) / 3;
        if next >= root {
            return root as u64;
        }
        root = next;
    }
}

#[cfg(test)]
mod tests {
    use quickcheck::quickcheck;

    use super::*;

    quickcheck! {
        fn cube_roots_are_right(high: u64, low: u64, shift: u8) -> bool {
            let n = (u128::from(high) << 64 | u128::from(low)) >> (2 + shift % 126);
            let root = u128::from(cube_root(n));
            root.pow(3) <= n && n < (root + 1).pow(3)
        }
    }

    #[test]
    fn the_plateau_comes_when_the_rfc_says() {
        // 30 segments missing: the cube root of 75 is 4.217163 s.
        assert_eq!(time_to_plateau(30 * 1000, 1000) / 1000, 4_217_163);
        assert_eq!(time_to_plateau(0, 1000), 0);
        assert!(time_to_plateau(u64::from(super::super::CWND_MAX), 1) > 0, "no overflow");
    }
}
