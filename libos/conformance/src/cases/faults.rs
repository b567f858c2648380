//! What goes wrong: nobody listens, the peer resets, the peer dies, the user closes in the middle.

use std::time::Duration;

use pdpix::{Error, SocketOption};

use crate::cases::ends::fill;
use crate::pattern::Pattern;
use crate::scene::{Pair, Scene, Verdict};
use crate::subject::{Ended, Queue, Side};

/// Closes so that the peer is told that the connection is broken.
fn reset(scene: &mut Scene, q: Queue) {
    scene.s.set_option(q, SocketOption::Linger(Duration::ZERO)).expect("a stream");
    scene.close(&[q]);
}

/// Every operation ends with the fault, the first time and every other time.
fn check_is_sticky(scene: &mut Scene, q: Queue, fault: Error) {
    for _ in 0..3 {
        let pop = scene.s.pop(q, 100).expect("the caller did nothing wrong");
        assert_eq!(scene.fails(pop), fault, "a pop");
        let push = scene.s.push(q, &[b"into the void"], None).expect("the caller did nothing wrong");
        assert_eq!(scene.fails(push), fault, "a push");
    }
}

pub fn a_reset_is_told_to_the_pop_that_waits_and_to_all_after_it(scene: &mut Scene) -> Verdict {
    let pair = scene.pair();
    let pop = scene.s.pop(pair.client, 100).expect("it is connected");
    assert!(scene.stays_pending(pop));
    reset(scene, pair.server);
    assert_eq!(scene.fails(pop), Error::ConnectionReset);
    check_is_sticky(scene, pair.client, Error::ConnectionReset);
    scene.close(&[pair.client]);
    Ok(())
}

pub fn a_reset_is_told_to_every_operation_that_waits(scene: &mut Scene) -> Verdict {
    let pair = scene.pair();
    let pops = [(); 3].map(|()| scene.s.pop(pair.client, 100).expect("it is connected"));
    let (_, push) = fill(scene, pair.client, Pattern::of(1), 100_000);
    let second = scene.s.push(pair.client, &[b"behind it"], None).expect("an open queue");
    // There is unread data, so this is a reset with or without linger.
    scene.close(&[pair.server]);
    for pop in pops {
        assert_eq!(scene.fails(pop), Error::ConnectionReset, "a pop");
    }
    assert_eq!(scene.fails(push), Error::ConnectionReset, "a push");
    assert_eq!(scene.fails(second), Error::ConnectionReset, "the push behind it");
    check_is_sticky(scene, pair.client, Error::ConnectionReset);
    scene.close(&[pair.client]);
    Ok(())
}

pub fn what_arrived_before_a_reset_is_delivered_first(scene: &mut Scene) -> Verdict {
    scene.needs(|can| can.keeps_what_arrived, "data from before a reset")?;
    let pair = scene.pair();
    scene.send(pair.server, b"before it broke");
    scene.s.settle();
    reset(scene, pair.server);
    scene.s.settle();
    assert_eq!(scene.receive(pair.client, 15), b"before it broke");
    check_is_sticky(scene, pair.client, Error::ConnectionReset);
    scene.close(&[pair.client]);
    Ok(())
}

pub fn close_with_unread_data_resets(scene: &mut Scene) -> Verdict {
    // What is unread lies at the device, or, as a pop waited before, with the backend.
    for popped_before in [false, true] {
        let pair = scene.pair();
        if popped_before {
            let pop = scene.s.pop(pair.server, 5).expect("it is connected");
            scene.send(pair.client, b"first");
            assert_eq!(scene.arrival(pop).bytes.first(), Some(&b'f'));
        }
        scene.send(pair.client, b"unread");
        scene.s.settle();
        scene.close(&[pair.server]);
        let pop = scene.s.pop(pair.client, 10).expect("it is connected");
        assert_eq!(scene.fails(pop), Error::ConnectionReset, "popped before: {popped_before}");
        scene.close(&[pair.client]);
    }
    Ok(())
}

pub fn pushes_to_one_who_has_closed_end_in_a_reset(scene: &mut Scene) -> Verdict {
    let pair = scene.pair();
    scene.close(&[pair.server]);
    assert_eq!(scene.receive(pair.client, 1), b"", "an orderly end");
    // The first may still be accepted: what comes of it is the next operation's result.
    let mut refused = None;
    scene.until("a push fails", |s| {
        let push = s.push(pair.client, &[b"anybody there?"], None).expect("the caller did nothing wrong");
        s.settle();
        let end = s.wait(push, Some(Duration::from_secs(5))).expect("it ends");
        refused = end.result.err();
        refused.is_some()
    });
    assert_eq!(refused, Some(Error::ConnectionReset));
    scene.close(&[pair.client]);
    Ok(())
}

pub fn a_refused_connection_says_so_and_is_good_for_close_only(scene: &mut Scene) -> Verdict {
    // The port is taken, and nobody listens there.
    let taken = scene.stream(Side::SERVER);
    let any = scene.any_port(Side::SERVER);
    let at = scene.s.bind(taken, any).expect("a free port");
    let client = scene.stream(Side::CLIENT);
    let connect = scene.s.connect(client, at).expect("a new stream");
    assert_eq!(scene.fails(connect), Error::ConnectionRefused);
    assert_eq!(scene.s.push(client, &[b"x"], None), Err(Error::NotConnected));
    assert_eq!(scene.s.pop(client, 10), Err(Error::NotConnected));
    assert_eq!(scene.s.peer(client), Err(Error::NotConnected));
    assert_eq!(scene.s.connect(client, at), Err(Error::InvalidArgument));
    scene.close(&[client, taken]);
    Ok(())
}

pub fn a_connect_to_nobody_fails_or_waits_until_it_is_cancelled(scene: &mut Scene) -> Verdict {
    let Some(nobody) = scene.s.nobody() else {
        return Err(crate::scene::Skip("this subject has no address without anybody".into()));
    };
    let client = scene.stream(Side::CLIENT);
    let connect = scene.s.connect(client, nobody).expect("a new stream");
    if scene.stays_pending(connect) {
        scene.s.cancel(connect).expect("a token that is held");
        assert_eq!(scene.fails(connect), Error::Canceled);
    }
    let second = scene.stream(Side::CLIENT);
    let connect = scene.s.connect(second, nobody).expect("a new stream");
    match scene.s.wait(connect, Some(crate::scene::LIMIT)) {
        Ok(end) => {
            let error = end.result.expect_err("nobody is there");
            assert!(
                matches!(error, Error::HostUnreachable | Error::NetworkUnreachable | Error::TimedOut),
                "nobody there is {error:?}"
            );
        }
        Err(error) => {
            assert_eq!(error, Error::TimedOut);
            scene.s.cancel(connect).expect("a token that is held");
            assert_eq!(scene.fails(connect), Error::Canceled);
        }
    }
    scene.close(&[client, second]);
    Ok(())
}

pub fn close_cancels_what_waits(scene: &mut Scene) -> Verdict {
    let pair = scene.pair();
    let pops = [(); 2].map(|()| scene.s.pop(pair.server, 10).expect("it is connected"));
    let (listener, at) = scene.listener(Side::SERVER);
    let accepts = [(); 2].map(|()| scene.s.accept(listener).expect("it listens"));
    scene.s.settle();
    scene.close(&[pair.server, listener]);
    for token in pops.into_iter().chain(accepts) {
        assert_eq!(scene.fails(token), Error::Canceled);
    }
    // A connect in the middle: it is given up, unless it was there first.
    let (listener, at) = {
        let _gone = at;
        scene.listener(Side::SERVER)
    };
    let client = scene.stream(Side::CLIENT);
    let connect = scene.s.connect(client, at).expect("a new stream");
    scene.close(&[client]);
    let end = scene.end(connect);
    assert!(matches!(end.result, Err(Error::Canceled) | Ok(Ended::Connected)), "{end:?}");
    scene.s.settle();
    scene.close(&[listener, pair.client]);
    Ok(())
}

pub fn closing_a_listener_resets_what_nobody_accepted(scene: &mut Scene) -> Verdict {
    // With an accept that was served before, a backend may have taken connections in ahead.
    for served_before in [false, true] {
        let (listener, at) = scene.listener(Side::SERVER);
        let served = served_before.then(|| {
            let pair = scene.pair_at(listener, at);
            let accept = scene.s.accept(listener).expect("it listens");
            let more = scene.stream(Side::CLIENT);
            let connect = scene.s.connect(more, at).expect("a new stream");
            assert_eq!(scene.done(connect), Ended::Connected);
            let (server, _) = scene.accepted(accept);
            [pair, Pair { client: more, server }]
        });
        let client = scene.stream(Side::CLIENT);
        let connect = scene.s.connect(client, at).expect("a new stream");
        assert_eq!(scene.done(connect), Ended::Connected, "the backlog takes it");
        scene.s.settle();
        scene.close(&[listener]);
        let pop = scene.s.pop(client, 10).expect("it is connected");
        assert_eq!(scene.fails(pop), Error::ConnectionReset, "served before: {served_before}");
        scene.close(&[client]);
        served.into_iter().flatten().for_each(|pair| scene.part(pair));
    }
    Ok(())
}

pub fn a_peer_that_dies_in_the_middle_is_seen(scene: &mut Scene) -> Verdict {
    scene.needs(|can| can.kill, "way to die")?;
    let pair = scene.pair();
    let other = scene.pair();
    let (there, back) = (Pattern::of(1), Pattern::of(2));
    let (accepted, waits) = fill(scene, pair.client, there, 100_000);
    let (_, stuck) = fill(scene, pair.server, back, 100_000);
    let idle = scene.s.pop(other.server, 10).expect("it is connected");
    let _ = waits; // dies with its core
    scene.kill(Side::CLIENT);
    // A connection with data on its way is broken; what was read before is what was sent.
    let broken = scene.fails(stuck);
    assert!(broken == Error::ConnectionReset || scene.s.link_dies() && broken == Error::NetworkDown, "{broken:?}");
    let mut popped = 0;
    let fault = loop {
        let pop = scene.s.pop(pair.server, 1 << 20).expect("an open queue");
        match scene.end(pop).result {
            Ok(Ended::Popped(arrival)) if !arrival.bytes.is_empty() => {
                assert_eq!(there.check(popped, &arrival.bytes), Ok(()));
                popped += arrival.bytes.len() as u64;
            }
            Err(fault) => break fault,
            other => panic!("a pop from one who died gave {other:?}"),
        }
    };
    assert_eq!(fault, broken);
    assert!(popped <= accepted + 100_000);
    check_is_sticky(scene, pair.server, broken);
    // An idle one ends, in order or by reset: whoever waits is told.
    let end = scene.end(idle);
    assert!(
        match &end.result {
            Ok(Ended::Popped(arrival)) => arrival.bytes.is_empty(),
            Err(error) => *error == broken,
            _ => false,
        },
        "{end:?}"
    );
    // The server goes on.
    let (listener, at) = scene.listener(Side::SERVER);
    let client = scene.stream(if scene.s.can().cores_share { Side::SECOND } else { Side::SERVER });
    let connect = scene.s.connect(client, at).expect("a new stream");
    let accept = scene.s.accept(listener).expect("it listens");
    assert_eq!(scene.done(connect), Ended::Connected);
    let (server, _) = scene.accepted(accept);
    scene.echo(Pair { client, server }, b"the living");
    scene.part(Pair { client, server });
    scene.close(&[listener, pair.server, other.server]);
    Ok(())
}
