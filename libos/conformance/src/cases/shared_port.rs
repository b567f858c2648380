//! One port on two cores: both get connections, and each works.

use pdpix::{Endpoint, Error, SocketKind, SocketOption};

use crate::scene::{Pair, Scene, Verdict};
use crate::subject::{Ended, Queue, Side};

const CORES: [Side; 2] = [Side::SERVER, Side::SECOND];

/// A queue of each core, bound to one endpoint.
fn bind_both(scene: &mut Scene, kind: SocketKind) -> ([Queue; 2], Endpoint) {
    let mut at = scene.any_port(Side::SERVER);
    let queues = CORES.map(|side| {
        let q = scene.s.socket(side, kind).expect("a queue");
        scene.s.set_option(q, SocketOption::Shared(true)).expect("it is not bound");
        at = scene.s.bind(q, at).expect("the port is free, or shared");
        q
    });
    (queues, at)
}

pub fn two_cores_share_a_port_and_both_get_connections(scene: &mut Scene) -> Verdict {
    scene.needs(|can| can.cores_share, "two cores at one address")?;
    let (listeners, at) = bind_both(scene, SocketKind::Stream);
    for listener in listeners {
        assert_eq!(scene.s.local(listener), Ok(at));
        scene.s.listen(listener, 128).expect("it is bound");
    }
    let mut accepts = listeners.map(|listener| scene.s.accept(listener).expect("it listens"));
    let mut pairs: [Vec<Pair>; 2] = [Vec::new(), Vec::new()];
    for i in 0..200 {
        if i >= 16 && pairs.iter().all(|of| of.len() >= 3) {
            break;
        }
        let client = scene.stream(Side::CLIENT);
        let connect = scene.s.connect(client, at).expect("a new stream");
        assert_eq!(scene.done(connect), Ended::Connected);
        let mut taken = None;
        scene.until("one of the cores accepts it", |s| {
            for core in 0..2 {
                if let Some(end) = s.poll(accepts[core]).expect("a token that is held") {
                    let Ok(Ended::Accepted(qd, peer)) = end.result else { panic!("an accept gave {end:?}") };
                    assert_eq!(Ok(peer), s.local(client));
                    accepts[core] = s.accept(listeners[core]).expect("it listens");
                    taken = Some((core, Pair { client, server: Queue { side: CORES[core], qd } }));
                }
            }
            taken.is_some()
        });
        let (core, pair) = taken.expect("accepted");
        pairs[core].push(pair);
    }
    let counts = pairs.each_ref().map(Vec::len);
    assert!(counts.iter().all(|&count| count >= 3), "they are spread: {counts:?}");
    for (i, pair) in pairs.iter().flatten().enumerate() {
        scene.echo(*pair, &[i as u8; 300]);
    }
    // One core stops listening: the other gets all that come.
    scene.close(&[listeners[0]]);
    assert_eq!(scene.fails(accepts[0]), Error::Canceled);
    scene.s.settle();
    for _ in 0..8 {
        let client = scene.stream(Side::CLIENT);
        let connect = scene.s.connect(client, at).expect("a new stream");
        assert_eq!(scene.done(connect), Ended::Connected);
        let (server, _) = scene.accepted(accepts[1]);
        accepts[1] = scene.s.accept(listeners[1]).expect("it listens");
        scene.part(Pair { client, server });
    }
    pairs.into_iter().flatten().for_each(|pair| scene.part(pair));
    scene.close(&[listeners[1]]);
    assert_eq!(scene.fails(accepts[1]), Error::Canceled);
    Ok(())
}

pub fn two_cores_share_a_port_for_datagrams(scene: &mut Scene) -> Verdict {
    scene.needs(|can| can.cores_share, "two cores at one address")?;
    scene.needs(|can| can.datagrams, "datagrams")?;
    let (queues, at) = bind_both(scene, SocketKind::Datagram);
    let mut pops = queues.map(|q| scene.s.pop(q, 100).expect("a bound queue"));
    let mut counts = [0; 2];
    for i in 0..200u8 {
        if i >= 16 && counts.iter().all(|&count| count >= 3) {
            break;
        }
        let client = scene.s.socket(Side::CLIENT, SocketKind::Datagram).expect("a datagram queue");
        let connect = scene.s.connect(client, at).expect("a datagram queue");
        assert_eq!(scene.done(connect), Ended::Connected);
        // All datagrams of one sender go to one core.
        let mut core = None;
        for round in 0..3 {
            scene.send(client, &[i, round]);
            let mut taken = None;
            scene.until("one of the cores gets it", |s| {
                for core in 0..2 {
                    if let Some(end) = s.poll(pops[core]).expect("a token that is held") {
                        let Ok(Ended::Popped(arrival)) = end.result else { panic!("a pop gave {end:?}") };
                        assert_eq!(arrival.bytes, [i, round]);
                        pops[core] = s.pop(queues[core], 100).expect("a bound queue");
                        taken = Some(core);
                    }
                }
                taken.is_some()
            });
            assert!(core.is_none() || core == taken, "a sender stays with one core");
            core = taken;
        }
        counts[core.expect("three were sent")] += 1;
        scene.close(&[client]);
    }
    assert!(counts.iter().all(|&count| count >= 3), "they are spread: {counts:?}");
    scene.close(&queues);
    for pop in pops {
        assert_eq!(scene.fails(pop), Error::Canceled);
    }
    Ok(())
}

pub fn connections_between_cores_outlive_their_listener(scene: &mut Scene) -> Verdict {
    scene.needs(|can| can.cores_share, "two cores at one address")?;
    let (listener, at) = scene.listener(Side::SERVER);
    let mut pairs = Vec::new();
    for _ in 0..12 {
        let client = scene.stream(Side::SECOND);
        let connect = scene.s.connect(client, at).expect("a new stream");
        let accept = scene.s.accept(listener).expect("it listens");
        assert_eq!(scene.done(connect), Ended::Connected);
        let (server, _) = scene.accepted(accept);
        pairs.push(Pair { client, server });
    }
    scene.close(&[listener]);
    for (i, pair) in pairs.iter().enumerate() {
        scene.echo(*pair, &[i as u8; 5000]);
    }
    pairs.into_iter().for_each(|pair| scene.part(pair));
    Ok(())
}
