//! Growth and reduction, against figures worked out from the RFCs' formulas.

use std::time::Duration;

use quickcheck::{Arbitrary, Gen, quickcheck};

use super::*;

const MSS: u32 = 1000;
const KINDS: [CongestionKind; 3] = [CongestionKind::NewReno, CongestionKind::Cubic, CongestionKind::Dctcp];

/// A sender whose every window is acknowledged after one round trip, segment by segment.
#[derive(Clone)]
struct Path {
    controller: Controller,
    now: Instant,
    una: SeqNumber,
    nxt: SeqNumber,
    rtt: Duration,
}

impl Path {
    fn new(kind: CongestionKind, rtt: Duration) -> Path {
        let start = SeqNumber::new(u32::MAX - 5000);
        Path { controller: Controller::new(kind, MSS), now: Instant::ZERO, una: start, nxt: start, rtt }
    }

    /// In congestion avoidance after one loss at a window of `segments`.
    fn after_loss(kind: CongestionKind, rtt: Duration, segments: u32) -> Path {
        let mut path = Path::new(kind, rtt);
        path.controller.window_mut().set(segments * MSS);
        path.controller.on_loss(segments * MSS);
        path.controller.on_recovery_exit();
        path
    }

    fn segments(&self) -> f64 {
        f64::from(self.controller.cwnd()) / f64::from(MSS)
    }

    /// One round trip; the first `marked` segments are marked.
    fn round_marked(&mut self, marked: u32) {
        let count = self.controller.cwnd() / MSS;
        self.nxt = self.una.add(count * MSS);
        let gap = self.rtt / count;
        for i in 0..count {
            self.now += gap;
            self.una = self.una.add(MSS);
            let rtt = self.rtt.as_nanos() as u64;
            // Each acknowledgement sends at once what it allows.
            let nxt = self.una.add(self.controller.cwnd());
            self.nxt = self.nxt.max(nxt);
            self.controller.on_ack(&Acked {
                bytes: MSS,
                now: self.now,
                rtt: Some(rtt),
                srtt: rtt,
                cwnd_limited: true,
                ece: i < marked,
                snd_una: self.una,
                snd_nxt: self.nxt,
            });
        }
    }

    fn round(&mut self) {
        self.round_marked(0);
    }
}

fn ms(count: u64) -> Duration {
    Duration::from_millis(count)
}

#[test]
fn the_initial_window_is_that_of_rfc_6928() {
    // min(10 * MSS, max(2 * MSS, 14600)).
    let windows = [536, 1000, 1460, 8960].map(initial_window);
    assert_eq!(windows, [5360, 10_000, 14_600, 17_920]);
}

#[test]
fn slow_start_doubles_each_round_trip() {
    for kind in KINDS {
        let mut path = Path::new(kind, ms(50));
        let windows: Vec<f64> = (0..4).map(|_| (path.segments(), path.round()).0).collect();
        assert_eq!(windows, [10.0, 20.0, 40.0, 80.0], "{kind:?}");
    }
}

#[test]
fn new_reno_halves_and_then_grows_a_segment_a_round_trip() {
    let mut path = Path::after_loss(CongestionKind::NewReno, ms(50), 100);
    let windows: Vec<f64> = (0..5).map(|_| (path.segments(), path.round()).0).collect();
    assert_eq!(windows, [50.0, 51.0, 52.0, 53.0, 54.0]);
    assert_eq!(path.controller.ssthresh(), 50 * MSS);
}

#[test]
fn a_stretch_acknowledgement_grows_new_reno_by_one_segment_and_cubic_by_eight() {
    for (kind, growth) in [(CongestionKind::NewReno, 1), (CongestionKind::Cubic, 8)] {
        let mut path = Path::new(kind, ms(50));
        path.controller.on_ack(&ack(&path, 10 * MSS, true, false));
        assert_eq!(path.controller.cwnd(), (10 + growth) * MSS, "{kind:?}");
    }
}

fn ack(path: &Path, bytes: u32, cwnd_limited: bool, ece: bool) -> Acked {
    let rtt = path.rtt.as_nanos() as u64;
    let (now, snd_una, snd_nxt) = (path.now, path.una, path.nxt);
    Acked { bytes, now, rtt: Some(rtt), srtt: rtt, cwnd_limited, ece, snd_una, snd_nxt }
}

#[test]
fn a_time_out_leaves_one_segment_and_the_same_again_keeps_ssthresh() {
    for (kind, left) in [(CongestionKind::NewReno, 50), (CongestionKind::Cubic, 70), (CongestionKind::Dctcp, 50)] {
        let mut path = Path::new(kind, ms(50));
        path.controller.window_mut().set(100 * MSS);
        path.controller.on_timeout(100 * MSS);
        assert_eq!((path.controller.cwnd(), path.controller.ssthresh()), (MSS, left * MSS), "{kind:?}");
        path.controller.on_timeout(100 * MSS);
        path.controller.on_timeout(MSS);
        assert_eq!((path.controller.cwnd(), path.controller.ssthresh()), (MSS, left * MSS), "{kind:?}");
        (0..7).for_each(|_| path.round());
        let slack = if kind == CongestionKind::Cubic { 3.0 } else { 1.0 };
        assert!((path.segments() - f64::from(left)).abs() <= slack, "slow start to ssthresh: {}", path.segments());
        // Something was acknowledged in between: this is a new one.
        path.controller.on_timeout(20 * MSS);
        assert_eq!(path.controller.ssthresh(), left / 5 * MSS, "{kind:?}");
    }
}

#[test]
fn what_was_no_loss_is_undone() {
    for kind in KINDS {
        let mut path = Path::after_loss(kind, ms(50), 100);
        (0..30).for_each(|_| path.round());
        let before = path.controller.clone();
        path.controller.on_loss(before.cwnd());
        assert!(path.controller.cwnd() < before.cwnd());
        path.controller.undo();
        assert_eq!((path.controller.cwnd(), path.controller.ssthresh()), (before.cwnd(), before.ssthresh()));
        path.controller.on_timeout(before.cwnd());
        path.controller.on_timeout(before.cwnd());
        path.controller.undo();
        assert_eq!((path.controller.cwnd(), path.controller.ssthresh()), (before.cwnd(), before.ssthresh()));
        // And it goes on as if nothing had been.
        let mut other = Path { controller: before, ..path.clone() };
        path.round();
        other.round();
        let expected = other.controller.cwnd();
        assert!(path.controller.cwnd().abs_diff(expected) <= MSS, "{kind:?}");
        path.controller.on_recovery_exit();
        let cwnd = path.controller.cwnd();
        path.controller.undo();
        assert_eq!(path.controller.cwnd(), cwnd, "undone once only");
        path.controller.on_loss(cwnd);
        path.controller.on_recovery_exit();
        path.controller.on_ecn(cwnd);
        let cwnd = path.controller.cwnd();
        path.controller.undo();
        assert_eq!(path.controller.cwnd(), cwnd, "a mark is never undone");
    }
}

#[test]
fn the_window_stays_when_it_is_not_the_limit_in_recovery_and_when_marked() {
    for kind in KINDS {
        for slow_start in [true, false] {
            let mut path = if slow_start { Path::new(kind, ms(50)) } else { Path::after_loss(kind, ms(50), 100) };
            let cwnd = path.controller.cwnd();
            for _ in 0..500 {
                path.now += ms(10);
                path.controller.on_ack(&ack(&path, MSS, false, false));
                path.controller.on_ack(&ack(&path, MSS, true, true));
            }
            assert_eq!(path.controller.cwnd(), cwnd, "{kind:?}");
            path.controller.on_loss(cwnd);
            let reduced = path.controller.cwnd();
            (0..500).for_each(|_| path.controller.on_ack(&ack(&path, MSS, true, false)));
            assert_eq!(path.controller.cwnd(), reduced, "{kind:?}");
        }
    }
}

#[test]
fn idleness_restarts_with_the_initial_window_and_remembers_the_old_one() {
    for kind in KINDS {
        let mut path = Path::after_loss(kind, ms(50), 200);
        path.controller.window_mut().set(400 * MSS);
        path.controller.on_idle();
        assert_eq!(path.controller.cwnd(), 10 * MSS, "{kind:?}");
        assert_eq!(path.controller.ssthresh(), 300 * MSS, "three quarters, though it was less after the loss");
        assert!(path.controller.is_in_slow_start());
        path.controller.window_mut().set(3 * MSS);
        path.controller.on_idle();
        assert_eq!(path.controller.cwnd(), 3 * MSS, "it does not grow by waiting");
    }
}

/// W_cubic in segments, in the formula of RFC 9438 §4.2.
fn w_cubic(t: f64, w_max: f64, cwnd: f64) -> f64 {
    let k = ((w_max - cwnd) / 0.4).cbrt();
    0.4 * (t - k).powi(3) + w_max
}

#[test]
fn cubic_follows_its_curve_concave_and_convex() {
    let mut path = Path::after_loss(CongestionKind::Cubic, ms(200), 1000);
    assert_eq!(path.segments(), 700.0);
    // K is the cube root of 300 / 0.4: 9.086 s.
    for round in 1..=90 {
        path.round();
        let t = f64::from(round) * 0.2;
        // Growth aims at where the curve will be one round trip later, and arrives there one round trip later.
        let (low, high) = (w_cubic(t - 0.2, 1000.0, 700.0), w_cubic(t + 0.2, 1000.0, 700.0));
        let cwnd = path.segments();
        assert!((low - 1.0..=high + 1.0).contains(&cwnd), "after {t} s: {cwnd}, not in {low}..{high}");
    }
    assert!(path.segments() > 1200.0, "well into the convex region: {}", path.segments());
}

#[test]
fn cubic_is_no_slower_than_reno_where_round_trips_are_short() {
    // 10 ms: in a second W_cubic(1) = 0.4 * (1 - 4.217)^3 + 100 = 86.7, but Reno's average is faster.
    let mut path = Path::after_loss(CongestionKind::Cubic, ms(10), 100);
    // From 70 by 9/17 a round trip to the 100 of before takes 57 of them, then it is 1 a round trip.
    (0..57).for_each(|_| path.round());
    assert!((path.segments() - 100.0).abs() < 1.5, "{}", path.segments());
    (0..43).for_each(|_| path.round());
    assert!((path.segments() - 143.0).abs() < 2.0, "{}", path.segments());
}

#[test]
fn an_acknowledgement_of_many_windows_is_one_round_trip_to_cubic() {
    let mut path = Path::after_loss(CongestionKind::Cubic, ms(10), 20);
    path.controller.on_timeout(4 * MSS);
    (0..2).for_each(|_| path.round());
    let before = path.segments();
    assert!(!path.controller.is_in_slow_start() && before < 5.0);
    // All that had been sent before the time-out.
    path.controller.on_ack(&ack(&path, 1000 * MSS, true, false));
    assert!(path.segments() <= before + 1.0, "{} from {before}", path.segments());
    path.round();
    assert!(path.segments() <= before + 3.0, "nor later: {} from {before}", path.segments());
}

#[test]
fn cubic_makes_room_when_its_window_shrinks() {
    let mut path = Path::after_loss(CongestionKind::Cubic, ms(100), 1000);
    // At 800, below the 1000 of before: W_max = 800 * 0.85 = 680, and 560 remain: K is the cube root of 120 / 0.4.
    path.controller.window_mut().set(800 * MSS);
    path.controller.on_loss(800 * MSS);
    path.controller.on_recovery_exit();
    assert_eq!(path.segments(), 560.0);
    let rounds = (300f64.cbrt() * 10.0) as usize;
    (0..rounds).for_each(|_| path.round());
    assert!((path.segments() - 680.0).abs() < 2.0, "the plateau: {}", path.segments());
}

#[test]
fn time_in_which_cubic_had_nothing_to_send_does_not_count() {
    let mut path = Path::after_loss(CongestionKind::Cubic, ms(100), 1000);
    (0..10).for_each(|_| path.round());
    let mut idle = path.clone();
    for _ in 0..600 {
        idle.now += ms(100);
        idle.controller.on_ack(&ack(&idle, MSS, false, false));
    }
    path.round();
    idle.round();
    assert!(path.controller.cwnd().abs_diff(idle.controller.cwnd()) <= MSS);
}

#[test]
fn cubic_after_a_time_out_begins_on_a_plateau_of_its_own() {
    let mut path = Path::after_loss(CongestionKind::Cubic, ms(200), 1000);
    path.controller.on_timeout(700 * MSS);
    (0..9).for_each(|_| path.round());
    let start = path.segments();
    assert!((485.0..495.0).contains(&start), "{start}");
    // K = 0 and W_max = 490: after 5 s it is 490 + 0.4 * 125 = 540; with W_max = 1000 it would be 970.
    (0..25).for_each(|_| path.round());
    assert!((530.0..560.0).contains(&path.segments()), "{}", path.segments());
}

fn slow_start_of(path: &Path) -> slow_start::SlowStart {
    match &path.controller {
        Controller::Cubic(cubic) => cubic.slow_start(),
        _ => panic!("not CUBIC"),
    }
}

#[test]
fn hystart_slows_down_when_round_trips_grow_and_ends_after_five_rounds() {
    let mut path = Path::new(CongestionKind::Cubic, ms(40));
    (0..2).for_each(|_| path.round());
    assert_eq!(path.segments(), 40.0);
    // The threshold is 40 / 8 = 5 ms: 44 ms are no reason, 46 are.
    path.rtt = ms(44);
    path.round();
    assert!(!slow_start_of(&path).is_conservative());
    path.rtt = ms(50);
    path.round();
    assert!(slow_start_of(&path).is_conservative());
    let before = path.segments();
    path.round();
    let growth = path.segments() / before;
    assert!((1.2..1.3).contains(&growth), "a quarter of the growth: {growth}");
    let mut rounds = 0;
    while !slow_start_of(&path).is_over() {
        path.round();
        rounds += 1;
    }
    assert!(rounds <= 4, "{rounds}");
    assert!(!path.controller.is_in_slow_start() && path.controller.ssthresh() < CWND_MAX);
}

#[test]
fn hystart_resumes_when_the_queue_was_a_false_alarm() {
    let mut path = Path::new(CongestionKind::Cubic, ms(40));
    path.round();
    path.rtt = ms(60);
    path.round();
    path.round();
    assert!(slow_start_of(&path).is_conservative());
    path.rtt = ms(41);
    path.round();
    path.round();
    assert!(!slow_start_of(&path).is_conservative() && path.controller.is_in_slow_start());
    let before = path.segments();
    path.round();
    assert!((path.segments() - 2.0 * before).abs() <= 1.0, "{} from {before}", path.segments());
}

#[test]
fn dctcp_averages_marks_and_reduces_by_half_of_that() {
    let mut path = Path::after_loss(CongestionKind::Dctcp, ms(1), 200);
    let alpha = |path: &Path| match &path.controller {
        Controller::Dctcp(dctcp) => dctcp.alpha(),
        _ => panic!("not DCTCP"),
    };
    assert_eq!(alpha(&path), 1.0);
    // Nothing marked: alpha is 15/16 of itself each window.
    (0..100).for_each(|_| path.round());
    assert!((alpha(&path) - (15.0f64 / 16.0).powi(100)).abs() < 0.01, "{}", alpha(&path));
    // A quarter marked: it goes to a quarter.
    for _ in 0..100 {
        path.round_marked(path.controller.cwnd() / MSS / 4);
    }
    assert!((alpha(&path) - 0.25).abs() < 0.01, "{}", alpha(&path));
    let before = path.segments();
    path.controller.on_ecn(path.controller.cwnd());
    let left = path.segments() / before;
    assert!((left - (1.0 - 0.125)).abs() < 0.01, "cwnd * (1 - alpha / 2): {left}");
    path.controller.on_loss(path.controller.cwnd());
    assert!((path.segments() / before - left / 2.0).abs() < 0.01, "a loss halves");
    // Nothing marked for long: it reaches zero, and no mark costs anything.
    path.controller.on_recovery_exit();
    (0..400).for_each(|_| path.round());
    assert_eq!(alpha(&path), 0.0);
}

#[derive(Clone, Copy, Debug)]
enum Event {
    Ack { bytes: u16, later_us: u32, rtt_us: u32, limited: bool, ece: bool },
    Loss(u32),
    RecoveryExit,
    Timeout(u32),
    Ecn(u32),
    Undo,
    Idle,
    Mss(u16),
}

impl Arbitrary for Event {
    fn arbitrary(g: &mut Gen) -> Event {
        let flight = u32::arbitrary(g) >> (u32::arbitrary(g) % 32);
        match u8::arbitrary(g) % 16 {
            0 => Event::Loss(flight),
            1 => Event::RecoveryExit,
            2 => Event::Timeout(flight),
            3 => Event::Ecn(flight),
            4 => Event::Undo,
            5 => Event::Idle,
            6 => Event::Mss(u16::arbitrary(g).max(1)),
            _ => Event::Ack {
                bytes: u16::arbitrary(g),
                later_us: u32::arbitrary(g) >> (u32::arbitrary(g) % 32),
                rtt_us: u32::arbitrary(g) >> (u32::arbitrary(g) % 32),
                limited: u8::arbitrary(g) % 4 > 0,
                ece: u8::arbitrary(g) % 4 == 0,
            },
        }
    }
}

quickcheck! {
    /// Whatever happens: at least a segment, at least two after a loss, and not beyond the limit; the same each time.
    fn the_window_stays_in_its_bounds(mss: u16, events: Vec<Event>) -> bool {
        for kind in KINDS {
            let mut first = Controller::new(kind, u32::from(mss).max(1));
            run(&mut first, &events);
            let mut again = Controller::new(kind, u32::from(mss).max(1));
            run(&mut again, &events);
            assert_eq!((first.cwnd(), first.ssthresh()), (again.cwnd(), again.ssthresh()));
        }
        true
    }
}

fn run(controller: &mut Controller, events: &[Event]) {
    let (mut now, mut una) = (Instant::ZERO, SeqNumber::new(0));
    for event in events {
        let before = controller.cwnd();
        match *event {
            Event::Ack { bytes, later_us, rtt_us, limited, ece } => {
                now += Duration::from_micros(later_us.into());
                una = una.add(bytes.into());
                let rtt = u64::from(rtt_us) * 1000 + 1;
                controller.on_ack(&Acked {
                    bytes: bytes.into(),
                    now,
                    rtt: Some(rtt),
                    srtt: rtt,
                    cwnd_limited: limited,
                    ece,
                    snd_una: una,
                    snd_nxt: una.add(before),
                });
                assert!(controller.cwnd() >= before, "an acknowledgement never shrinks it");
                let growth = controller.cwnd() - before;
                assert!(growth <= before.max(u32::from(bytes)) + controller.window().mss, "{growth} from {before}");
            }
            Event::Loss(flight) => controller.on_loss(flight),
            Event::RecoveryExit => controller.on_recovery_exit(),
            Event::Timeout(flight) => controller.on_timeout(flight),
            Event::Ecn(flight) => controller.on_ecn(flight),
            Event::Undo => controller.undo(),
            Event::Idle => controller.on_idle(),
            Event::Mss(mss) => controller.set_mss(mss.into()),
        }
        let mss = controller.window().mss;
        assert!((mss..=CWND_MAX).contains(&controller.cwnd()), "{event:?}");
        assert!(controller.ssthresh() <= CWND_MAX);
        if let Event::Loss(_) | Event::Ecn(_) = event {
            assert!(controller.cwnd() >= 2 * mss);
        }
    }
}

#[test]
fn windows_at_the_limit_stay_there() {
    for kind in KINDS {
        let mut path = Path::after_loss(kind, ms(10), 1);
        path.controller.window_mut().set(CWND_MAX - 1);
        for _ in 0..10 {
            path.now += ms(1000);
            path.controller.on_ack(&ack(&path, CWND_MAX, true, false));
            assert!(path.controller.cwnd() <= CWND_MAX);
        }
        assert_eq!(path.controller.cwnd(), CWND_MAX, "{kind:?}");
    }
}
