use pdpix::Heap;
use quickcheck::{Arbitrary, Gen, quickcheck};

use super::*;

const MAC: Mac = Mac([2, 0, 0, 0, 0, 1]);
const OTHER: Mac = Mac([2, 0, 0, 0, 0, 2]);

fn table(capacity: usize) -> (Neighbours, Heap, Rng) {
    (Neighbours::new(capacity, &Seed::new(1)), Heap::alone(4 << 20).unwrap(), Rng::new(1))
}

fn ip(last: u8) -> IpAddr {
    IpAddr::from([10, 0, 0, last])
}

fn at(millis: u64) -> Instant {
    Instant::from_nanos(millis * 1_000_000)
}

fn packet(heap: &Heap, id: u8) -> Parked {
    let mut header = heap.alloc(64).unwrap();
    header.put(&[id; 14]);
    Parked { header, payload: Sga::new(), checksum: None, segment_size: 0 }
}

/// RFC 4861 Appendix C and §7.3.
#[test]
fn arrows_match_the_rfc() {
    let states = [State::None, State::Incomplete, State::Reachable, State::Stale, State::Delay, State::Probe];
    let events = {
        use Event::*;
        [Send, Timeout, Answer, Heard, Moved, Doubted, Confirmed]
    };
    let mut drawn = String::new();
    for state in states {
        for event in events {
            if let Some(next) = next(state, event) {
                drawn += &format!("{state:?} --{event:?}--> {next:?}\n");
            }
        }
    }
    assert_eq!(drawn, include_str!("neighbour.arrows"));
}

#[test]
fn three_questions_without_an_answer_and_it_failed() {
    let (mut table, heap, _) = table(4);
    let Sent::Waits(Some(ask), false) = table.send(ip(1), packet(&heap, 1), at(0)) else { panic!() };
    assert_eq!(ask, Ask { address: ip(1), to: None });
    assert!(matches!(table.send(ip(1), packet(&heap, 2), at(10)), Sent::Waits(None, false)), "it is asked already");
    for seconds in 1..=2 {
        assert!(table.on_time(at(seconds * 1000 - 1)).is_none());
        let Some(Due::Ask(ask)) = table.on_time(at(seconds * 1000)) else { panic!("{seconds}") };
        assert_eq!(ask.to, None);
        table.check();
    }
    let Some(Due::Failed(parked)) = table.on_time(at(3000)) else { panic!() };
    assert_eq!((table.find(ip(1)), parked.len(), table.len(), table.deadline()), (None, 2, 0, None));
}

#[test]
fn an_answer_releases_what_waited_the_newest_of_it() {
    let (mut table, heap, mut rng) = table(4);
    let mut overflows = 0;
    for id in 0..PARKED_MAX as u8 + 3 {
        let Sent::Waits(_, overflow) = table.send(ip(1), packet(&heap, id), at(0)) else { panic!() };
        overflows += usize::from(overflow);
    }
    let learned = table.hear(ip(1), MAC, Event::Answer, false, at(5), &mut rng);
    let ids: Vec<u8> = learned.released.iter().map(|packet| packet.header[0]).collect();
    assert_eq!((learned.changed, overflows, ids), (true, 3, (3..PARKED_MAX as u8 + 3).collect()));
    assert_eq!(table.find(ip(1)), Some((0, MAC)));
    assert!(table.is_settled(0, at(6)) && table.deadline().is_none());
    table.check();
}

#[test]
fn it_ages_is_probed_alone_first_and_confirmed_by_transports() {
    let (mut table, heap, mut rng) = table(4);
    table.send(ip(1), packet(&heap, 0), at(0));
    table.hear(ip(1), MAC, Event::Answer, false, at(0), &mut rng);
    assert_eq!(table.state(ip(1), at(14_999)), State::Reachable);
    table.confirm(0, ip(1), at(14_999), &mut rng);
    assert_eq!(table.state(ip(1), at(29_998)), State::Reachable, "at least 15 s more");
    assert_eq!(table.state(ip(1), at(60_000)), State::Stale, "at most 45 s");
    assert!(!table.is_settled(0, at(60_000)) && table.deadline().is_none());
    assert!(matches!(table.send(ip(1), packet(&heap, 0), at(60_000)), Sent::To(MAC, _)), "it is used meanwhile");
    assert_eq!((table.state(ip(1), at(60_001)), table.deadline()), (State::Delay, Some(at(65_000))));
    assert!(table.is_settled(0, at(60_002)), "what is sent meanwhile goes at once");
    table.confirm(0, ip(1), at(61_000), &mut rng);
    assert_eq!((table.state(ip(1), at(61_000)), table.deadline()), (State::Reachable, None));
    // Again, and nobody confirms it.
    assert_eq!(table.state(ip(1), at(120_000)), State::Stale);
    table.send(ip(1), packet(&heap, 0), at(120_000));
    for second in [125, 126, 127] {
        let Some(Due::Ask(ask)) = table.on_time(at(second * 1000)) else { panic!("{second}") };
        assert_eq!(ask.to, Some(MAC));
        assert!(matches!(table.send(ip(1), packet(&heap, 0), at(second * 1000)), Sent::To(MAC, _)));
        table.check();
    }
    assert!(matches!(table.on_time(at(128_000)), Some(Due::Failed(parked)) if parked.is_empty()));
    assert_eq!(table.find(ip(1)), None);
}

#[test]
fn a_suspect_is_asked_when_it_is_used_next() {
    let (mut table, heap, mut rng) = table(4);
    table.send(ip(1), packet(&heap, 0), at(0));
    table.suspect(0, ip(1), at(1)); // it is asked already
    assert_eq!((table.state(ip(1), at(1)), table.deadline()), (State::Incomplete, Some(at(1000))));
    table.hear(ip(1), MAC, Event::Answer, false, at(2), &mut rng);
    table.suspect(0, ip(2), at(3));
    assert_eq!(table.state(ip(1), at(3)), State::Reachable, "the place is another neighbour's");
    table.suspect(0, ip(1), at(3));
    assert_eq!((table.state(ip(1), at(3)), table.deadline()), (State::Stale, None), "nobody uses it");
    assert!(matches!(table.send(ip(1), packet(&heap, 1), at(4)), Sent::To(MAC, _)), "it is used meanwhile");
    assert_eq!((table.state(ip(1), at(4)), table.deadline()), (State::Delay, Some(at(5004))));
    table.suspect(0, ip(1), at(5)); // it is doubted already
    assert_eq!(table.deadline(), Some(at(5004)));
    table.check();
}

#[test]
fn who_moved_is_believed_but_not_proved() {
    let (mut table, heap, mut rng) = table(4);
    table.send(ip(1), packet(&heap, 0), at(0));
    table.hear(ip(1), MAC, Event::Answer, false, at(0), &mut rng);
    let same = table.hear(ip(1), MAC, Event::Heard, false, at(1), &mut rng);
    assert_eq!((same.changed, table.state(ip(1), at(1))), (false, State::Reachable));
    let doubted = table.hear(ip(1), OTHER, Event::Doubted, false, at(1), &mut rng);
    assert_eq!((doubted.changed, table.state(ip(1), at(1)), table.find(ip(1))), (false, State::Stale, Some((0, MAC))));
    let moved = table.hear(ip(1), OTHER, Event::Heard, false, at(1), &mut rng);
    assert_eq!((moved.changed, table.state(ip(1), at(1)), table.find(ip(1))), (true, State::Stale, Some((0, OTHER))));
    let stranger = table.hear(ip(2), MAC, Event::Heard, false, at(1), &mut rng);
    assert_eq!((stranger.changed, table.find(ip(2))), (false, None), "strangers only if they are welcome");
}

#[test]
fn a_flood_of_strangers_evicts_strangers() {
    let (mut table, heap, mut rng) = table(8);
    table.routers = vec![ip(100)];
    for used in [1, 2, 100] {
        table.send(ip(used), packet(&heap, 0), at(0));
        table.hear(ip(used), MAC, Event::Answer, false, at(0), &mut rng);
    }
    for stranger in 3..=99 {
        if stranger % 2 == 0 {
            table.hear(ip(stranger), OTHER, Event::Heard, true, at(10), &mut rng);
        } else {
            table.send(ip(stranger), packet(&heap, 0), at(10));
        }
        table.check();
    }
    assert!([1, 2, 100].iter().all(|&used| table.find(ip(used)).is_some()));
    assert_eq!((table.len(), table.evicted), (8, 97 - 5));
    // When all are in use, a new one is refused; the router stays even when it was not used for long.
    let (mut table, heap, mut rng) = self::table(2);
    table.routers = vec![ip(100)];
    for used in [1, 100] {
        table.send(ip(used), packet(&heap, 0), at(0));
        table.hear(ip(used), MAC, Event::Answer, false, at(0), &mut rng);
    }
    assert!(matches!(table.send(ip(3), packet(&heap, 0), at(29_000)), Sent::Full));
    assert!(matches!(table.send(ip(3), packet(&heap, 0), at(31_000)), Sent::Waits(Some(_), _)));
    assert!(table.find(ip(100)).is_some() && table.find(ip(1)).is_none());
    table.check();
}

#[derive(Clone, Debug)]
enum Step {
    Send(u8),
    Hear(u8, bool, u8, bool),
    Confirm(u8),
    Wait(u16),
}

impl Arbitrary for Step {
    fn arbitrary(g: &mut Gen) -> Step {
        let who = u8::arbitrary(g) % 12;
        match u8::arbitrary(g) % 8 {
            0..=2 => Step::Send(who),
            3..=4 => Step::Hear(who, bool::arbitrary(g), u8::arbitrary(g) % 3, bool::arbitrary(g)),
            5 => Step::Confirm(who),
            _ => Step::Wait(u16::arbitrary(g)),
        }
    }
}

quickcheck! {
    /// Whatever happens: the books agree, and every packet is sent, waits, or is dropped and told.
    fn packets_are_not_lost_in_silence(steps: Vec<Step>) -> bool {
        let (mut table, heap, mut rng) = table(6);
        let (mut now, mut given, mut out) = (at(0), 0, 0);
        for step in steps {
            match step {
                Step::Send(who) => {
                    given += 1;
                    match table.send(ip(who), packet(&heap, who), now) {
                        Sent::Waits(_, overflows) => out += usize::from(overflows),
                        Sent::To(..) | Sent::Full => out += 1,
                    }
                }
                Step::Hear(who, first, event, welcome) => {
                    let event = [Event::Answer, Event::Heard, Event::Doubted][usize::from(event)];
                    // As the callers do: only a known one is doubted, only one that was asked answers.
                    let mac = if first { MAC } else { OTHER };
                    let event = match event {
                        Event::Doubted if !table.mac_differs(ip(who), mac) => Event::Heard,
                        Event::Answer if !table.is_asked(ip(who)) => Event::Heard,
                        event => event,
                    };
                    out += table.hear(ip(who), mac, event, welcome, now, &mut rng).released.len();
                }
                Step::Confirm(who) => {
                    let slot = table.find(ip(who)).map_or(99, |(slot, _)| slot);
                    table.confirm(slot, ip(who), now, &mut rng);
                }
                Step::Wait(millis) => {
                    now += Duration::from_millis(millis.into());
                    while let Some(due) = table.on_time(now) {
                        if let Due::Failed(parked) = due {
                            out += parked.len();
                        }
                    }
                }
            }
            table.check();
        }
        let waits: usize = table.slots.iter().map(|neighbour| neighbour.parked.len()).sum();
        given == out + waits + table.evicted_parked as usize
    }
}
