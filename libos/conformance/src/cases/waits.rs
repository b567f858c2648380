//! Waiting: for one, for any, for all; how long; and by whom.

use std::time::Duration;

use pdpix::Error;

use crate::scene::{Scene, Verdict};
use crate::subject::{Ended, Side};

const SHORT: Duration = Duration::from_millis(20);

pub fn a_wait_that_times_out_leaves_its_token_valid(scene: &mut Scene) -> Verdict {
    let pair = scene.pair();
    let pop = scene.s.pop(pair.server, 100).expect("it is connected");
    for timeout in [Duration::ZERO, SHORT] {
        let start = scene.s.now();
        assert_eq!(scene.s.wait(pop, Some(timeout)), Err(Error::TimedOut));
        assert!(scene.s.now().since(start) >= timeout);
    }
    assert_eq!(scene.s.wait_any(Side::SERVER, &[pop.qt], Some(SHORT)), Err(Error::TimedOut));
    assert_eq!(scene.s.wait_all(Side::SERVER, &[pop.qt], Some(SHORT)), Err(Error::TimedOut));
    scene.send(pair.client, b"!");
    assert_eq!(scene.arrival(pop).bytes, b"!");
    scene.part(pair);
    Ok(())
}

pub fn a_token_is_redeemed_once(scene: &mut Scene) -> Verdict {
    let pair = scene.pair();
    let push = scene.s.push(pair.client, &[b"once"], None).expect("it is connected");
    assert_eq!(scene.done(push), Ended::Pushed);
    for _ in 0..2 {
        assert_eq!(scene.s.wait(push, None), Err(Error::StaleToken));
        assert_eq!(scene.s.wait_any(Side::CLIENT, &[push.qt], None), Err(Error::StaleToken));
        assert_eq!(scene.s.wait_all(Side::CLIENT, &[push.qt], None), Err(Error::StaleToken));
        assert_eq!(scene.s.cancel(push), Err(Error::StaleToken));
    }
    assert_eq!(scene.receive(pair.server, 4), b"once");
    scene.part(pair);
    Ok(())
}

pub fn wait_any_gives_the_place_of_one_that_ended(scene: &mut Scene) -> Verdict {
    let (a, b) = (scene.pair(), scene.pair());
    let pops = [a, b].map(|pair| scene.s.pop(pair.server, 100).expect("it is connected"));
    let tokens = pops.map(|pop| pop.qt);
    scene.send(b.client, b"b");
    let (place, end) = scene.s.wait_any(Side::SERVER, &tokens, Some(crate::scene::LIMIT)).expect("one ends");
    assert_eq!((place, end.qd), (1, b.server.qd));
    scene.send(a.client, b"a");
    assert_eq!(scene.arrival(pops[0]).bytes, b"a", "the other stayed valid");
    // Of several that ended it gives one, and the others stay.
    let pops = [a, b].map(|pair| scene.s.pop(pair.server, 100).expect("it is connected"));
    let mut tokens = pops.map(|pop| pop.qt).to_vec();
    scene.send(a.client, b"a");
    scene.send(b.client, b"b");
    scene.s.settle();
    while !tokens.is_empty() {
        let (place, end) = scene.s.wait_any(Side::SERVER, &tokens, Some(crate::scene::LIMIT)).expect("all end");
        let of = pops.iter().position(|pop| pop.qt == tokens[place]).expect("one of them");
        let Ok(Ended::Popped(arrival)) = end.result else { panic!("{end:?}") };
        assert_eq!(arrival.bytes, [b"a", b"b"][of]);
        tokens.remove(place);
    }
    scene.part(a);
    scene.part(b);
    Ok(())
}

pub fn wait_all_gives_every_end_in_the_order_of_the_list(scene: &mut Scene) -> Verdict {
    let pairs = [scene.pair(), scene.pair(), scene.pair()];
    let pops = pairs.map(|pair| scene.s.pop(pair.server, 100).expect("it is connected"));
    let tokens = pops.map(|pop| pop.qt);
    scene.send(pairs[2].client, b"2");
    scene.send(pairs[0].client, b"0");
    scene.s.settle();
    assert_eq!(scene.s.wait_all(Side::SERVER, &tokens, Some(SHORT)), Err(Error::TimedOut), "all stay valid");
    scene.send(pairs[1].client, b"1");
    let ends = scene.s.wait_all(Side::SERVER, &tokens, Some(crate::scene::LIMIT)).expect("all end");
    for (i, end) in ends.into_iter().enumerate() {
        let Ok(Ended::Popped(arrival)) = end.result else { panic!("{end:?}") };
        assert_eq!((end.qd, arrival.bytes), (pairs[i].server.qd, [b'0' + i as u8].to_vec()));
    }
    pairs.into_iter().for_each(|pair| scene.part(pair));
    Ok(())
}

pub fn a_list_of_tokens_is_judged_before_the_wait(scene: &mut Scene) -> Verdict {
    let pair = scene.pair();
    let pop = scene.s.pop(pair.server, 100).expect("it is connected");
    let side = Side::SERVER;
    assert_eq!(scene.s.wait_any(side, &[], Some(SHORT)), Err(Error::InvalidArgument), "an empty list");
    assert_eq!(scene.s.wait_all(side, &[], Some(SHORT)), Err(Error::InvalidArgument), "an empty list");
    assert_eq!(scene.s.wait_all(side, &[pop.qt, pop.qt], Some(SHORT)), Err(Error::InvalidArgument), "a token twice");
    let foreign = crate::scene::foreign(pop.qt);
    assert_eq!(scene.s.wait_any(side, &[pop.qt, foreign], Some(SHORT)), Err(Error::BadToken));
    assert_eq!(scene.s.wait_all(side, &[pop.qt, foreign], Some(SHORT)), Err(Error::BadToken));
    scene.send(pair.client, b"still valid");
    let first = scene.arrival(pop).bytes;
    let rest = scene.receive(pair.server, 11 - first.len());
    assert_eq!([first, rest].concat(), b"still valid");
    scene.part(pair);
    Ok(())
}

pub fn a_second_waiter_is_told_that_the_token_is_busy(scene: &mut Scene) -> Verdict {
    scene.needs(|can| can.contend, "way to wait twice")?;
    let pair = scene.pair();
    let pop = scene.s.pop(pair.server, 100).expect("it is connected");
    assert_eq!(scene.s.contend(pop), Error::TokenBusy);
    scene.send(pair.client, b"1");
    assert_eq!(scene.arrival(pop).bytes, b"1", "the first waiter has it");
    scene.part(pair);
    Ok(())
}

pub fn a_wait_inside_a_coroutine_is_refused(scene: &mut Scene) -> Verdict {
    scene.needs(|can| can.contend, "way to wait inside a coroutine")?;
    let pair = scene.pair();
    let pop = scene.s.pop(pair.server, 100).expect("it is connected");
    assert_eq!(scene.s.wait_inside(pop), Error::WouldDeadlock);
    scene.send(pair.client, b"1");
    assert_eq!(scene.arrival(pop).bytes, b"1");
    scene.part(pair);
    Ok(())
}
