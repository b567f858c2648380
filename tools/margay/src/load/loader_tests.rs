use framework::Harness;
use framework::pdpix::Error;

use super::*;

const SERVICE: &str = "10.0.0.1:7";

fn plan(pace: Pace) -> Plan {
    Plan {
        connect: SERVICE.parse().unwrap(),
        protocol: Protocol::Echo,
        pace,
        connections: 1,
        size: 16,
        keys: 10,
        reads: 1.0,
        fill: None,
        warm_up: Duration::from_millis(10),
        duration: Duration::from_millis(100),
    }
}

/// A loader whose connections are open.
fn opened(plan: Plan) -> (Harness<Loader>, Arc<Shared>, Vec<SessionId>) {
    let shared = Arc::new(Shared::default());
    shared.running.store(1, Ordering::Relaxed);
    let mut harness = Harness::new(Loader::new(plan, shared.clone(), None), 1);
    harness.start();
    let mut sessions = Vec::new();
    while let Some((session, server)) = harness.take_connecting() {
        harness.opened(session, server);
        sessions.push(session);
    }
    (harness, shared, sessions)
}

fn tally(shared: &Shared) -> Tally {
    shared.tallies.lock().unwrap().pop().expect("it has ended")
}

#[test]
fn a_stall_is_charged_to_every_request_that_was_due_meanwhile() {
    let (mut harness, shared, sessions) = opened(plan(Pace::Rate(1000.0, Arrivals::Fixed)));
    // An echo that answers at once, and for 50 ms not at all.
    let mut held = Vec::new();
    for ms in 0..400 {
        held.extend(harness.written(sessions[0]));
        if !(40..90).contains(&ms) {
            let bytes = std::mem::take(&mut held);
            harness.receive(sessions[0], &bytes).unwrap();
        }
        harness.advance(Duration::from_millis(1));
    }
    let tally = tally(&shared);
    assert_eq!((tally.asked, tally.answered, tally.errors()), (100, 100, 0));
    let late = tally.latency.count_between(2_000_000, u64::MAX / 2);
    assert!((46..=52).contains(&late), "{late} waited");
    // To three digits, and the steps of a millisecond.
    assert!((48_000_000..=52_000_000).contains(&tally.latency.max()), "{}", tally.latency.max());
    assert_eq!(harness.stopped(), (false, Some(0)));
}

#[test]
fn a_closed_loop_keeps_as_many_in_flight_as_it_is_told() {
    let (mut harness, shared, sessions) = opened(plan(Pace::Closed(4)));
    let first = harness.written(sessions[0]);
    assert_eq!(first.len(), 4 * 16);
    harness.receive(sessions[0], &first[..16]).unwrap();
    let next = harness.written(sessions[0]);
    assert_eq!(next.len(), 16, "one for one");
    let mut bytes = [&first[16..], &next].concat();
    for _ in 0..400 {
        harness.advance(Duration::from_millis(1));
        harness.receive(sessions[0], &bytes).unwrap();
        bytes = harness.written(sessions[0]);
    }
    let tally = tally(&shared);
    assert!((380..=400).contains(&tally.asked), "{} in 100 ms", tally.asked);
    assert_eq!((tally.answered, tally.errors()), (tally.asked, 0));
    assert_eq!(tally.latency.max() / 1_000_000, 1);
}

#[test]
fn lost_connections_cost_their_requests_and_are_made_again() {
    let (mut harness, shared, sessions) = opened(plan(Pace::Rate(1000.0, Arrivals::Fixed)));
    harness.advance(Duration::from_millis(30));
    harness.close(sessions[0], Closed::Failed(Error::ConnectionReset));
    harness.advance(Duration::from_millis(500));
    let again = harness.take_connecting();
    harness.advance(Duration::from_secs(3));
    let tally = tally(&shared);
    assert!(again.is_none(), "the measured time was over before it was due");
    assert_eq!((tally.asked, tally.answered, tally.errors()), (100, 0, 100));
    assert!(tally.errors["not connected"] > 70 && tally.errors.len() == 2, "{:?}", tally.errors);
}

#[test]
fn other_bytes_than_were_sent_are_an_error() {
    let (mut harness, shared, sessions) = opened(plan(Pace::Closed(1)));
    harness.advance(Duration::from_millis(20));
    harness.written(sessions[0]);
    harness.receive(sessions[0], &[0; 16]).unwrap();
    let good = harness.written(sessions[0]);
    harness.receive(sessions[0], &good).unwrap();
    harness.advance(Duration::from_secs(3));
    let tally = tally(&shared);
    assert_eq!(tally.aside["other bytes came back"], 1, "it was asked while warming up");
    assert_eq!((tally.asked, tally.answered, tally.errors["no answer"]), (2, 1, 1));
}

#[test]
fn nobody_there_is_told_at_once() {
    let shared = Arc::new(Shared::default());
    shared.running.store(1, Ordering::Relaxed);
    let plan = Plan { connections: 2, ..plan(Pace::Closed(1)) };
    let mut harness = Harness::new(Loader::new(plan, shared.clone(), None), 1);
    harness.start();
    while let Some((session, _)) = harness.take_connecting() {
        harness.close(session, Closed::Failed(Error::ConnectionRefused));
    }
    let tally = tally(&shared);
    assert!(tally.cut_short && tally.asked == 0 && tally.aside.len() == 1, "{:?}", tally.aside);
    assert_eq!(harness.stopped(), (false, Some(0)));
}

#[test]
fn keys_are_set_before_they_are_asked_for() {
    let fill = Plan { protocol: Protocol::Resp, keys: 100, fill: Some((1, 2)), ..plan(Pace::Closed(1)) };
    let (mut harness, _, sessions) = opened(fill);
    let mut sets = 0;
    loop {
        let bytes = harness.written(sessions[0]);
        let now = bytes.windows(3).filter(|word| word == b"SET").count();
        if now == 0 {
            assert!(bytes.windows(3).any(|word| word == b"GET"), "then it asks");
            break;
        }
        assert!(now <= FILL_PIPELINE);
        sets += now;
        harness.receive(sessions[0], &b"+OK\r\n".repeat(now)).unwrap();
    }
    assert_eq!(sets, 50, "every second key is this core's");
}

#[test]
fn what_a_late_client_could_not_send_is_counted() {
    // A core that stands still from before the end until long after it, with more due than it sends in a turn.
    let (mut harness, shared, sessions) = opened(plan(Pace::Rate(1_000_000.0, Arrivals::Fixed)));
    harness.advance(Duration::from_millis(109));
    harness.advance(Duration::from_secs(10));
    let bytes = harness.written(sessions[0]);
    harness.receive(sessions[0], &bytes).unwrap();
    harness.advance(Duration::from_secs(3));
    let tally = tally(&shared);
    assert_eq!(tally.asked, 100_000, "all that was due");
    assert_eq!(tally.answered + tally.errors(), tally.asked, "{:?}", tally.errors);
}
