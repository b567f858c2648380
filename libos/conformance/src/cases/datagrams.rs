//! Datagrams: each arrives whole or not at all, with its sender.
//!
//! On every subject a datagram between its own sides arrives unless a budget is full: those that lose, double or reorder
//! are told not to by whoever runs the suite.

use std::time::Duration;

use pdpix::{Endpoint, Error, SocketKind, SocketOption};

use crate::pattern::Pattern;
use crate::scene::{Scene, Verdict};
use crate::subject::{Arrival, Ended, Queue, Side};

fn datagram(scene: &mut Scene, side: Side) -> (Queue, Endpoint) {
    let q = scene.s.socket(side, SocketKind::Datagram).expect("a datagram queue");
    let any = scene.any_port(side);
    let at = scene.s.bind(q, any).expect("a free port");
    (q, at)
}

fn send_to(scene: &mut Scene, q: Queue, bytes: &[u8], to: Endpoint) {
    let push = scene.s.push(q, &[bytes], Some(to)).expect("a bound queue");
    assert_eq!(scene.done(push), Ended::Pushed);
}

fn next(scene: &mut Scene, q: Queue, len_max: usize) -> Arrival {
    let pop = scene.s.pop(q, len_max).expect("a bound queue");
    scene.arrival(pop)
}

pub fn a_datagram_arrives_whole_with_its_sender(scene: &mut Scene) -> Verdict {
    scene.needs(|can| can.datagrams, "datagrams")?;
    let (server, at) = datagram(scene, Side::SERVER);
    let (client, from) = datagram(scene, Side::CLIENT);
    assert_eq!((scene.s.local(client), scene.s.local(server)), (Ok(from), Ok(at)));
    assert_eq!(scene.s.peer(client), Err(Error::NotConnected));
    let max = scene.s.can().datagram_max as u64;
    for len in [1, 100, 1472, 9000].into_iter().filter(|&len| len <= max) {
        let bytes = Pattern::of(len).bytes(0, len as usize);
        send_to(scene, client, &bytes, at);
        assert_eq!(next(scene, server, 10_000), Arrival { bytes: bytes.clone(), from: Some(from), cut: false });
        send_to(scene, server, &bytes, from);
        assert_eq!(next(scene, client, 10_000), Arrival { bytes, from: Some(at), cut: false });
    }
    scene.close(&[client, server]);
    Ok(())
}

pub fn boundaries_are_kept(scene: &mut Scene) -> Verdict {
    scene.needs(|can| can.datagrams, "datagrams")?;
    let (server, at) = datagram(scene, Side::SERVER);
    let (client, from) = datagram(scene, Side::CLIENT);
    for i in 1..=20u8 {
        let bytes = vec![i; usize::from(i)];
        let (front, back) = bytes.split_at(bytes.len() / 2);
        let segments: Vec<&[u8]> = [front, back].into_iter().filter(|s| !s.is_empty()).collect();
        let push = scene.s.push(client, &segments, Some(at)).expect("a bound queue");
        assert_eq!(scene.done(push), Ended::Pushed);
    }
    for i in 1..=20u8 {
        let expected = Arrival { bytes: vec![i; usize::from(i)], from: Some(from), cut: false };
        assert_eq!(next(scene, server, 1000), expected);
    }
    scene.close(&[client, server]);
    Ok(())
}

pub fn pops_of_datagrams_that_wait_are_served_in_order(scene: &mut Scene) -> Verdict {
    scene.needs(|can| can.datagrams, "datagrams")?;
    let (server, at) = datagram(scene, Side::SERVER);
    let (client, _) = datagram(scene, Side::CLIENT);
    let pops = [(); 4].map(|()| scene.s.pop(server, 100).expect("a bound queue"));
    assert!(scene.stays_pending(pops[0]));
    for i in 0..4u8 {
        send_to(scene, client, &[i; 3], at);
    }
    for (i, pop) in pops.into_iter().enumerate() {
        assert_eq!(scene.arrival(pop).bytes, [i as u8; 3]);
    }
    scene.close(&[client, server]);
    Ok(())
}

pub fn a_longer_datagram_is_cut_and_flagged(scene: &mut Scene) -> Verdict {
    scene.needs(|can| can.datagrams, "datagrams")?;
    let (server, at) = datagram(scene, Side::SERVER);
    let (client, from) = datagram(scene, Side::CLIENT);
    for waits in [false, true] {
        let pop = waits.then(|| scene.s.pop(server, 4).expect("a bound queue"));
        send_to(scene, client, b"too long", at);
        send_to(scene, client, b"fits", at);
        let pop = pop.unwrap_or_else(|| scene.s.pop(server, 4).expect("a bound queue"));
        assert_eq!(scene.arrival(pop), Arrival { bytes: b"too ".to_vec(), from: Some(from), cut: true });
        assert_eq!(next(scene, server, 4), Arrival { bytes: b"fits".to_vec(), from: Some(from), cut: false });
    }
    scene.close(&[client, server]);
    Ok(())
}

pub fn the_longest_datagram_passes_and_a_longer_one_is_refused(scene: &mut Scene) -> Verdict {
    scene.needs(|can| can.datagrams, "datagrams")?;
    let (server, at) = datagram(scene, Side::SERVER);
    let (client, from) = datagram(scene, Side::CLIENT);
    let max = scene.s.can().datagram_max;
    let bytes = Pattern::of(1).bytes(0, max + 1);
    assert_eq!(scene.s.push(client, &[&bytes], Some(at)), Err(Error::MessageSize));
    send_to(scene, client, &bytes[..max], at);
    assert_eq!(next(scene, server, 1 << 17), Arrival { bytes: bytes[..max].to_vec(), from: Some(from), cut: false });
    scene.close(&[client, server]);
    Ok(())
}

pub fn empty_and_unaddressed_datagrams_are_refused(scene: &mut Scene) -> Verdict {
    scene.needs(|can| can.datagrams, "datagrams")?;
    let (client, at) = datagram(scene, Side::CLIENT);
    assert_eq!(scene.s.push(client, &[], Some(at)), Err(Error::InvalidArgument));
    assert_eq!(scene.s.push(client, &[b""], Some(at)), Err(Error::InvalidArgument));
    assert_eq!(scene.s.push(client, &[b"to whom?"], None), Err(Error::NotConnected));
    assert_eq!(scene.s.pop(client, 0), Err(Error::InvalidArgument));
    scene.close(&[client]);
    Ok(())
}

pub fn a_default_peer_is_pushed_to_and_the_only_one_heard(scene: &mut Scene) -> Verdict {
    scene.needs(|can| can.datagrams, "datagrams")?;
    let (server, at) = datagram(scene, Side::SERVER);
    let (other, _) = datagram(scene, Side::SERVER);
    let (client, from) = datagram(scene, Side::CLIENT);
    let connect = scene.s.connect(client, at).expect("a datagram queue may have a default peer");
    assert_eq!(scene.done(connect), Ended::Connected);
    assert_eq!((scene.s.local(client), scene.s.peer(client)), (Ok(from), Ok(at)));
    scene.send(client, b"to the default");
    assert_eq!(next(scene, server, 100), Arrival { bytes: b"to the default".to_vec(), from: Some(from), cut: false });
    send_to(scene, other, b"a stranger's", from);
    scene.s.settle();
    send_to(scene, server, b"the peer's", from);
    assert_eq!(next(scene, client, 100).bytes, b"the peer's");
    // And another one later.
    let (second, there) = datagram(scene, Side::SERVER);
    let connect = scene.s.connect(client, there).expect("a default peer may be exchanged");
    assert_eq!(scene.done(connect), Ended::Connected);
    scene.send(client, b"to the second");
    assert_eq!(next(scene, second, 100).bytes, b"to the second");
    scene.close(&[client, server, other, second]);
    Ok(())
}

pub fn an_unbound_queue_gets_an_address_when_it_is_pushed_to_or_connected(scene: &mut Scene) -> Verdict {
    scene.needs(|can| can.datagrams, "datagrams")?;
    let mut families = vec![false];
    families.extend(scene.s.can().ipv6.then_some(true));
    for ipv6 in families {
        let server = scene.s.socket(Side::SERVER, SocketKind::Datagram).expect("a datagram queue");
        let ip = scene.s.address(Side::SERVER, ipv6).expect("of this family");
        let at = scene.s.bind(server, Endpoint::new(ip, 0)).expect("a free port");
        for connected in [false, true] {
            let client = scene.s.socket(Side::CLIENT, SocketKind::Datagram).expect("a datagram queue");
            assert_eq!(scene.s.local(client), Err(Error::InvalidArgument), "it has none yet");
            assert_eq!(scene.s.pop(client, 10), Err(Error::InvalidArgument), "nobody could send to it");
            if connected {
                let connect = scene.s.connect(client, at).expect("a datagram queue");
                assert_eq!(scene.done(connect), Ended::Connected);
                scene.send(client, b"who am I?");
            } else {
                send_to(scene, client, b"who am I?", at);
            }
            let question = next(scene, server, 100);
            let from = question.from.expect("a datagram has a sender");
            assert_eq!(question.bytes, b"who am I?");
            assert_eq!(scene.s.local(client).map(|local| local.port()), Ok(from.port()));
            send_to(scene, server, b"you know", from);
            assert_eq!(next(scene, client, 100), Arrival { bytes: b"you know".to_vec(), from: Some(at), cut: false });
            scene.close(&[client]);
        }
        scene.close(&[server]);
    }
    Ok(())
}

pub fn a_port_where_nobody_is_is_told_once_and_the_queue_goes_on(scene: &mut Scene) -> Verdict {
    scene.needs(|can| can.datagrams, "datagrams")?;
    for waits in [false, true] {
        let (gone, nobody) = datagram(scene, Side::SERVER);
        scene.close(&[gone]);
        scene.s.settle();
        let (client, from) = datagram(scene, Side::CLIENT);
        let connect = scene.s.connect(client, nobody).expect("a default peer");
        assert_eq!(scene.done(connect), Ended::Connected);
        let pop = waits.then(|| scene.s.pop(client, 10).expect("a bound queue"));
        scene.send(client, b"anybody?");
        scene.s.settle();
        let pop = pop.unwrap_or_else(|| scene.s.pop(client, 10).expect("a bound queue"));
        assert_eq!(scene.fails(pop), Error::ConnectionRefused, "waits: {waits}");
        // It was told; somebody comes; all is well.
        let back = scene.s.socket(Side::SERVER, SocketKind::Datagram).expect("a datagram queue");
        assert_eq!(scene.s.bind(back, nobody), Ok(nobody));
        scene.send(client, b"now?");
        assert_eq!(next(scene, back, 10).bytes, b"now?");
        send_to(scene, back, b"yes", from);
        assert_eq!(next(scene, client, 10).bytes, b"yes");
        scene.close(&[client, back]);
    }
    Ok(())
}

pub fn past_the_receive_budget_the_newest_are_dropped(scene: &mut Scene) -> Verdict {
    scene.needs(|can| can.datagrams, "datagrams")?;
    const BUDGET: usize = 64 << 10;
    const SENT: u32 = 5000;
    let (server, at) = datagram(scene, Side::SERVER);
    let (client, _) = datagram(scene, Side::CLIENT);
    scene.s.set_option(server, SocketOption::ReceiveBudget(BUDGET)).expect("a datagram queue");
    let message = |i: u32| {
        let mut bytes = Pattern::of(u64::from(i)).bytes(0, 1000);
        bytes[..4].copy_from_slice(&i.to_le_bytes());
        bytes
    };
    for i in 0..SENT {
        send_to(scene, client, &message(i), at);
    }
    scene.s.settle();
    let pinned = scene.in_use(Side::SERVER).pinned;
    let bound = BUDGET + scene.s.can().receive_ahead;
    assert!(pinned <= bound, "{pinned} bytes are pinned by the receiver, {bound} are allowed");
    // The first ones are there, in order, without a gap; then nothing.
    let mut arrived = 0;
    loop {
        let pop = scene.s.pop(server, 2000).expect("a bound queue");
        let Ok(end) = scene.s.wait(pop, Some(Duration::from_millis(10))) else {
            scene.s.cancel(pop).expect("a token that is held");
            assert_eq!(scene.fails(pop), Error::Canceled);
            break;
        };
        let Ok(Ended::Popped(arrival)) = end.result else { panic!("a pop gave {end:?}") };
        assert_eq!(arrival.bytes, message(arrived));
        arrived += 1;
    }
    assert!(arrived > 10 && arrived < SENT, "{arrived} of {SENT} arrived");
    send_to(scene, client, &message(SENT), at);
    assert_eq!(next(scene, server, 2000).bytes, message(SENT), "there is room again");
    scene.close(&[client, server]);
    Ok(())
}

pub fn a_pop_of_datagrams_can_be_cancelled_or_given_up(scene: &mut Scene) -> Verdict {
    scene.needs(|can| can.datagrams && can.give_up, "datagrams whose tokens can be given up")?;
    let (server, at) = datagram(scene, Side::SERVER);
    let (client, from) = datagram(scene, Side::CLIENT);
    let pops = [(); 3].map(|()| scene.s.pop(server, 100).expect("a bound queue"));
    assert!(scene.stays_pending(pops[0]));
    scene.s.cancel(pops[0]).expect("a token that is held");
    assert_eq!(scene.fails(pops[0]), Error::Canceled);
    send_to(scene, client, b"one", at);
    scene.s.settle();
    scene.s.give_up(pops[1]);
    let arrival = scene.arrival(pops[2]);
    assert_eq!(arrival, Arrival { bytes: b"one".to_vec(), from: Some(from), cut: false });
    // One that returned is cut as any other.
    let pop = scene.s.pop(server, 100).expect("a bound queue");
    send_to(scene, client, b"two and three", at);
    scene.s.settle();
    scene.s.give_up(pop);
    assert_eq!(next(scene, server, 3), Arrival { bytes: b"two".to_vec(), from: Some(from), cut: true });
    scene.close(&[client, server]);
    Ok(())
}

pub fn close_of_a_datagram_queue_cancels_its_pops(scene: &mut Scene) -> Verdict {
    scene.needs(|can| can.datagrams, "datagrams")?;
    let (server, at) = datagram(scene, Side::SERVER);
    let (client, _) = datagram(scene, Side::CLIENT);
    let pops = [(); 2].map(|()| scene.s.pop(server, 100).expect("a bound queue"));
    scene.close(&[server]);
    for pop in pops {
        assert_eq!(scene.fails(pop), Error::Canceled);
    }
    // What was pushed to one who is gone, is gone.
    send_to(scene, client, b"x", at);
    scene.s.settle();
    scene.close(&[client]);
    Ok(())
}
