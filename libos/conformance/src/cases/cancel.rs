//! Cancel in each state, and tokens given up: what was received is never lost, what was not sent is never sent.

use std::collections::VecDeque;

use pdpix::{Error, Rng};

use crate::cases::ends::fill;
use crate::flow::{Flow, Reader, Writer};
use crate::pattern::Pattern;
use crate::scene::{LIMIT, Pair, Scene, Verdict};
use crate::subject::{Ended, Queue, Side, Subject, Token};

pub fn a_pop_that_waits_is_cancelled_and_takes_nothing(scene: &mut Scene) -> Verdict {
    let pair = scene.pair();
    let pops = [(); 3].map(|()| scene.s.pop(pair.server, 100).expect("it is connected"));
    assert!(scene.stays_pending(pops[1]));
    scene.s.cancel(pops[0]).expect("a token that is held");
    scene.s.cancel(pops[2]).expect("a token that is held");
    assert_eq!(scene.fails(pops[0]), Error::Canceled);
    assert_eq!(scene.fails(pops[2]), Error::Canceled);
    scene.send(pair.client, b"for the second");
    let arrival = scene.arrival(pops[1]);
    let rest = scene.receive(pair.server, 14 - arrival.bytes.len());
    assert_eq!([arrival.bytes, rest].concat(), b"for the second");
    scene.part(pair);
    Ok(())
}

pub fn a_complete_operation_keeps_its_result_though_it_is_cancelled(scene: &mut Scene) -> Verdict {
    let (listener, at) = scene.listener(Side::SERVER);
    let accept = scene.s.accept(listener).expect("it listens");
    let client = scene.stream(Side::CLIENT);
    let connect = scene.s.connect(client, at).expect("a new stream");
    scene.s.settle();
    for token in [accept, connect] {
        scene.s.cancel(token).expect("a token that is held");
    }
    assert_eq!(scene.done(connect), Ended::Connected);
    let (server, _) = scene.accepted(accept);
    let pop = scene.s.pop(server, 100).expect("it is connected");
    let push = scene.s.push(client, &[b"kept"], None).expect("it is connected");
    scene.s.settle();
    for token in [pop, push] {
        scene.s.cancel(token).expect("a token that is held");
    }
    assert_eq!(scene.done(push), Ended::Pushed);
    let arrival = scene.arrival(pop);
    let rest = scene.receive(server, 4 - arrival.bytes.len());
    assert_eq!([arrival.bytes, rest].concat(), b"kept");
    scene.part(Pair { client, server });
    scene.close(&[listener]);
    Ok(())
}

pub fn a_cancelled_accept_leaves_the_connection_to_the_next(scene: &mut Scene) -> Verdict {
    let (listener, at) = scene.listener(Side::SERVER);
    let accept = scene.s.accept(listener).expect("it listens");
    assert!(scene.stays_pending(accept));
    scene.s.cancel(accept).expect("a token that is held");
    assert_eq!(scene.fails(accept), Error::Canceled);
    let pair = scene.pair_at(listener, at);
    scene.echo(pair, b"for the next accept");
    scene.part(pair);
    scene.close(&[listener]);
    Ok(())
}

pub fn a_cancelled_connect_is_given_up(scene: &mut Scene) -> Verdict {
    let (listener, at) = scene.listener(Side::SERVER);
    let accept = scene.s.accept(listener).expect("it listens");
    let client = scene.stream(Side::CLIENT);
    let connect = scene.s.connect(client, at).expect("a new stream");
    scene.s.cancel(connect).expect("a token that is held");
    match scene.end(connect).result {
        Err(Error::Canceled) => {
            assert_eq!(scene.s.connect(client, at), Err(Error::InvalidArgument), "good for close only");
            assert_eq!(scene.s.push(client, &[b"x"], None), Err(Error::NotConnected));
        }
        Ok(Ended::Connected) => {} // it was first
        other => panic!("a cancelled connect gave {other:?}"),
    }
    scene.close(&[client]);
    // The listener may have seen it come, and go.
    let next = scene.stream(Side::CLIENT);
    let connect = scene.s.connect(next, at).expect("a new stream");
    assert_eq!(scene.done(connect), Ended::Connected);
    let ours = scene.s.local(next);
    let mut accept = accept;
    loop {
        let (server, peer) = scene.accepted(accept);
        if Ok(peer) == ours {
            scene.part(Pair { client: next, server });
            break;
        }
        scene.close(&[server]);
        accept = scene.s.accept(listener).expect("it listens");
    }
    scene.close(&[listener]);
    Ok(())
}

pub fn a_push_that_waits_is_cancelled_and_nothing_of_it_is_sent(scene: &mut Scene) -> Verdict {
    let pair = scene.pair();
    let pattern = Pattern::of(21);
    let (accepted, waits) = fill(scene, pair.client, pattern, 100_000);
    let second = scene.s.push(pair.client, &[b"never sent"], None).expect("an open queue");
    let third = scene.s.push(pair.client, &[&pattern.bytes(accepted, 1000)], None).expect("an open queue");
    for token in [second, waits] {
        scene.s.cancel(token).expect("a token that is held");
        assert_eq!(scene.fails(token), Error::Canceled);
    }
    let mut reader = Reader::of(pair.server, pattern, accepted + 1000, 1 << 20, 1);
    scene.run(&mut [&mut reader]);
    assert_eq!(scene.done(third), Ended::Pushed);
    scene.part(pair);
    Ok(())
}

pub fn what_a_given_up_pop_had_goes_to_the_next(scene: &mut Scene) -> Verdict {
    scene.needs(|can| can.give_up, "way to give a token up")?;
    let pair = scene.pair();
    let pattern = Pattern::of(22);
    let first = scene.s.pop(pair.server, 100).expect("it is connected");
    scene.send(pair.client, &pattern.bytes(0, 100));
    scene.s.settle();
    scene.s.give_up(first);
    assert_eq!(scene.s.wait(first, None), Err(Error::StaleToken), "nobody holds it any more");
    // It is cut where the pop ends.
    assert_eq!(pattern.check(0, &scene.receive(pair.server, 30)), Ok(()));
    assert_eq!(pattern.check(30, &scene.receive(pair.server, 70)), Ok(()));
    scene.part(pair);
    Ok(())
}

pub fn a_pop_that_waits_gets_what_a_given_up_one_had(scene: &mut Scene) -> Verdict {
    scene.needs(|can| can.give_up, "way to give a token up")?;
    let pair = scene.pair();
    let pattern = Pattern::of(23);
    let pops = [(); 3].map(|()| scene.s.pop(pair.server, 100).expect("it is connected"));
    scene.send(pair.client, &pattern.bytes(0, 10));
    scene.s.settle();
    // The first is complete, the others are pending (a device may have cut it, and then they are not).
    scene.s.give_up(pops[0]);
    let mut got = 0;
    for pop in &pops[1..] {
        if got < 10 {
            let arrival = scene.arrival(*pop);
            assert_eq!(pattern.check(got, &arrival.bytes), Ok(()));
            got += arrival.bytes.len() as u64;
        } else {
            assert!(scene.stays_pending(*pop), "there is nothing for it");
            scene.s.cancel(*pop).expect("a token that is held");
            assert_eq!(scene.fails(*pop), Error::Canceled);
        }
    }
    assert_eq!(pattern.check(got, &scene.receive(pair.server, 10 - got as usize)), Ok(()));
    scene.part(pair);
    Ok(())
}

/// The younger of two complete pops is what is left of them: it gives the bytes of the older first.
pub fn what_given_up_pops_had_stays_in_order(scene: &mut Scene) -> Verdict {
    scene.needs(|can| can.give_up, "way to give a token up")?;
    // In every order of giving up all but one of three complete pops.
    for (kept, given_up) in [(2, [0, 1]), (2, [1, 0]), (1, [0, 2]), (1, [2, 0]), (0, [1, 2]), (0, [2, 1])] {
        let pair = scene.pair();
        let pattern = Pattern::of(24);
        let pops = [(); 3].map(|()| scene.s.pop(pair.server, 4).expect("it is connected"));
        scene.send(pair.client, &pattern.bytes(0, 12));
        scene.s.settle();
        for i in given_up {
            scene.s.give_up(pops[i]);
        }
        let arrival = scene.arrival(pops[kept]);
        assert_eq!(pattern.check(0, &arrival.bytes), Ok(()), "kept {kept}, given up {given_up:?}");
        let mut got = arrival.bytes.len() as u64;
        while got < 12 {
            let next = scene.receive(pair.server, 1);
            assert_eq!(pattern.check(got, &next), Ok(()), "kept {kept}, given up {given_up:?}");
            got += 1;
        }
        scene.part(pair);
    }
    Ok(())
}

pub fn a_connection_whose_accept_was_given_up_goes_to_the_next(scene: &mut Scene) -> Verdict {
    scene.needs(|can| can.give_up, "way to give a token up")?;
    let (listener, at) = scene.listener(Side::SERVER);
    for waits_already in [false, true] {
        let accept = scene.s.accept(listener).expect("it listens");
        let waiting = waits_already.then(|| scene.s.accept(listener).expect("it listens"));
        let client = scene.stream(Side::CLIENT);
        let connect = scene.s.connect(client, at).expect("a new stream");
        assert_eq!(scene.done(connect), Ended::Connected);
        scene.s.settle();
        scene.s.give_up(accept);
        let next = waiting.unwrap_or_else(|| scene.s.accept(listener).expect("it listens"));
        let (server, peer) = scene.accepted(next);
        assert_eq!(Ok(peer), scene.s.local(client));
        scene.part(Pair { client, server });
    }
    // One that nobody accepts after all goes with its listener.
    let accept = scene.s.accept(listener).expect("it listens");
    let client = scene.stream(Side::CLIENT);
    let connect = scene.s.connect(client, at).expect("a new stream");
    assert_eq!(scene.done(connect), Ended::Connected);
    scene.s.settle();
    scene.s.give_up(accept);
    scene.close(&[listener, client]);
    Ok(())
}

pub fn given_up_pushes_that_were_accepted_arrive(scene: &mut Scene) -> Verdict {
    scene.needs(|can| can.give_up, "way to give a token up")?;
    let pair = scene.pair();
    let pattern = Pattern::of(25);
    for i in 0..10 {
        let push = scene.s.push(pair.client, &[&pattern.bytes(i * 1000, 1000)], None).expect("an open queue");
        scene.s.settle();
        scene.s.give_up(push);
    }
    assert_eq!(pattern.check(0, &scene.receive(pair.server, 10_000)), Ok(()));
    scene.part(pair);
    Ok(())
}

/// A reader that changes its mind: pops, redeems, cancels and gives up at random, while the stream goes on. It redeems in
/// the order in which it popped, and then the bytes are in order and whole, whatever was given up in between.
struct Fickle {
    q: Queue,
    pattern: Pattern,
    popped: u64,
    pops: VecDeque<Token>,
    given_up: u64,
    rng: Rng,
}

impl Fickle {
    fn act(&mut self, s: &mut dyn Subject) {
        match self.rng.below(10) {
            0..=3 if self.pops.len() < 6 => {
                let len_max = 1 + self.rng.below(3000) as usize;
                self.pops.push_back(s.pop(self.q, len_max).expect("the stream goes on"));
            }
            4..=6 => self.redeem(s),
            7..=8 if !self.pops.is_empty() => {
                let i = self.rng.below(self.pops.len() as u64) as usize;
                let token = self.pops.remove(i).expect("inside");
                s.give_up(token);
                self.given_up += 1;
            }
            9 if !self.pops.is_empty() && self.rng.chance(0.3) => {
                let i = self.rng.below(self.pops.len() as u64) as usize;
                s.cancel(self.pops[i]).expect("a token that is held");
            }
            _ => {}
        }
    }

    /// Takes what the oldest pop brought, if it is there.
    fn redeem(&mut self, s: &mut dyn Subject) {
        let Some(&token) = self.pops.front() else { return };
        let Some(end) = s.poll(token).expect("a token that is held") else { return };
        self.pops.pop_front();
        match end.result {
            Ok(Ended::Popped(arrival)) => {
                assert!(!arrival.bytes.is_empty(), "nobody finished");
                if let Err(at) = self.pattern.check(self.popped, &arrival.bytes) {
                    panic!("lost or out of order: byte {at}, after {} were given up", self.given_up);
                }
                self.popped += arrival.bytes.len() as u64;
            }
            Err(Error::Canceled) => {}
            other => panic!("a pop gave {other:?}"),
        }
    }
}

pub fn giving_up_at_random_loses_and_reorders_nothing(scene: &mut Scene) -> Verdict {
    scene.needs(|can| can.give_up, "way to give a token up")?;
    for seed in 0..6 {
        let pair = scene.pair();
        let pattern = Pattern::of(30 + seed);
        let mut rng = Rng::new(seed);
        let mut reader =
            Fickle { q: pair.server, pattern, popped: 0, pops: VecDeque::new(), given_up: 0, rng: rng.fork() };
        let mut writer = Writer::new(pair.client, pattern, 0, 700, 20);
        for _ in 0..5000 {
            // Now and then a little is pushed, so that pops sometimes wait and sometimes find much.
            if rng.chance(0.2) && writer.pushed() < reader.popped + 50_000 {
                writer.extend(writer.pushed() + 1 + rng.below(2500));
            }
            writer.pump(scene.s);
            reader.act(scene.s);
            if rng.chance(0.5) {
                scene.s.turn();
            }
        }
        assert!(reader.given_up > 100, "{} were given up", reader.given_up);
        // The rest.
        let total = writer.pushed();
        scene.run(&mut [&mut writer]);
        let start = scene.s.now();
        while reader.popped < total {
            assert!(scene.s.now().since(start) < LIMIT, "{} of {total} bytes came", reader.popped);
            if reader.pops.is_empty() {
                reader.pops.push_back(scene.s.pop(pair.server, 4000).expect("the stream goes on"));
            }
            reader.redeem(scene.s);
            scene.s.turn();
        }
        for token in reader.pops {
            scene.s.give_up(token);
        }
        scene.s.settle();
        scene.part(pair);
    }
    Ok(())
}
