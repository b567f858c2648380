//! Connect and accept, endpoints, and the order in which those who wait are served.

use pdpix::{Endpoint, Error, SocketKind};

use crate::pattern::Pattern;
use crate::scene::{Pair, Scene, Verdict};
use crate::subject::{Ended, Queue, Side};

pub fn a_connection_carries_bytes_both_ways(scene: &mut Scene) -> Verdict {
    let pair = scene.pair();
    for len in [1, 7, 64, 1000, 4096, 10_000] {
        scene.echo(pair, &Pattern::of(len).bytes(0, len as usize));
    }
    scene.part(pair);
    Ok(())
}

pub fn ipv6_works_as_ipv4_does(scene: &mut Scene) -> Verdict {
    scene.needs(|can| can.ipv6, "IPv6")?;
    let ip = scene.s.address(Side::SERVER, true).expect("a subject with IPv6 has an address");
    let (listener, at) = scene.listener_at(Side::SERVER, Endpoint::new(ip, 0));
    assert!(at.is_ipv6() && at.port() != 0);
    let pair = scene.pair_at(listener, at);
    assert_eq!(scene.s.peer(pair.client), Ok(at));
    assert!(scene.s.peer(pair.server).expect("it is connected").is_ipv6());
    scene.echo(pair, b"over IPv6");
    scene.part(pair);
    scene.close(&[listener]);
    Ok(())
}

pub fn both_ends_know_both_endpoints(scene: &mut Scene) -> Verdict {
    let (listener, at) = scene.listener(Side::SERVER);
    assert_eq!(Some(at.ip()), scene.s.address(Side::SERVER, false));
    assert_ne!(at.port(), 0, "bind says which port it chose");
    assert_eq!(scene.s.local(listener), Ok(at));
    assert_eq!(scene.s.peer(listener), Err(Error::NotConnected));
    let client = scene.stream(Side::CLIENT);
    assert_eq!(scene.s.local(client), Err(Error::InvalidArgument), "it has none yet");
    assert_eq!(scene.s.peer(client), Err(Error::NotConnected));
    let any = scene.any_port(Side::CLIENT);
    let bound = scene.s.bind(client, any).expect("a free port");
    let connect = scene.s.connect(client, at).expect("it is bound and not connected");
    let accept = scene.s.accept(listener).expect("it listens");
    assert_eq!(scene.done(connect), Ended::Connected);
    let (server, peer) = scene.accepted(accept);
    assert_eq!((scene.s.local(client), scene.s.peer(client)), (Ok(bound), Ok(at)));
    assert_eq!((scene.s.local(server), scene.s.peer(server)), (Ok(at), Ok(bound)));
    assert_eq!(peer, bound, "the accept says who connected");
    scene.close(&[listener]);
    scene.part(Pair { client, server });
    Ok(())
}

pub fn connections_of_one_listener_are_apart(scene: &mut Scene) -> Verdict {
    let (listener, at) = scene.listener(Side::SERVER);
    let pairs: Vec<Pair> = (0..20).map(|_| scene.pair_at(listener, at)).collect();
    let bytes = |i: usize| Pattern::of(i as u64).bytes(0, 100 + 50 * i);
    for (i, pair) in pairs.iter().enumerate() {
        scene.send(pair.client, &bytes(i));
        scene.send(pair.server, &bytes(100 + i));
    }
    for (i, pair) in pairs.iter().enumerate().rev() {
        assert_eq!(scene.receive(pair.server, bytes(i).len()), bytes(i));
        assert_eq!(scene.receive(pair.client, bytes(100 + i).len()), bytes(100 + i));
    }
    pairs.into_iter().for_each(|pair| scene.part(pair));
    scene.close(&[listener]);
    Ok(())
}

pub fn accepts_that_wait_are_served_in_order(scene: &mut Scene) -> Verdict {
    let (listener, at) = scene.listener(Side::SERVER);
    let accepts = [(); 4].map(|()| scene.s.accept(listener).expect("it listens"));
    assert!(scene.stays_pending(accepts[0]), "nobody has connected");
    for accept in accepts {
        let client = scene.stream(Side::CLIENT);
        let connect = scene.s.connect(client, at).expect("a new stream");
        assert_eq!(scene.done(connect), Ended::Connected);
        // The connection of this client goes to this accept, and to none after it.
        let (server, peer) = scene.accepted(accept);
        assert_eq!(Ok(peer), scene.s.local(client));
        scene.part(Pair { client, server });
    }
    scene.close(&[listener]);
    Ok(())
}

pub fn pops_that_wait_are_served_in_order(scene: &mut Scene) -> Verdict {
    let pair = scene.pair();
    let pops = [(); 5].map(|()| scene.s.pop(pair.server, 10).expect("it is connected"));
    assert!(scene.stays_pending(pops[0]), "nothing was pushed");
    let pattern = Pattern::of(1);
    let mut popped = 0;
    // Each push wakes the oldest pop. It never brings more than was asked for.
    for (i, pop) in pops.into_iter().enumerate() {
        scene.send(pair.client, &pattern.bytes(10 * i as u64, 10));
        let arrival = scene.arrival(pop);
        assert!((1..=10).contains(&arrival.bytes.len()));
        assert_eq!(pattern.check(popped, &arrival.bytes), Ok(()), "pop {i} has the next bytes");
        popped += arrival.bytes.len() as u64;
    }
    let rest = scene.receive(pair.server, 50 - popped as usize);
    assert_eq!(pattern.check(popped, &rest), Ok(()));
    scene.part(pair);
    Ok(())
}

pub fn a_connection_waits_for_its_accept_with_its_data(scene: &mut Scene) -> Verdict {
    let (listener, at) = scene.listener(Side::SERVER);
    let clients: Vec<Queue> = (0..3u8)
        .map(|i| {
            let client = scene.stream(Side::CLIENT);
            let connect = scene.s.connect(client, at).expect("a new stream");
            assert_eq!(scene.done(connect), Ended::Connected, "the backlog takes it");
            scene.send(client, &[i; 10]);
            client
        })
        .collect();
    scene.s.settle();
    for _ in 0..3 {
        let accept = scene.s.accept(listener).expect("it listens");
        let (server, peer) = scene.accepted(accept);
        let i = clients.iter().position(|&client| scene.s.local(client) == Ok(peer)).expect("one of the clients");
        assert_eq!(scene.receive(server, 10), [i as u8; 10]);
        scene.part(Pair { client: clients[i], server });
    }
    scene.close(&[listener]);
    Ok(())
}

pub fn a_port_can_be_listened_on_again(scene: &mut Scene) -> Verdict {
    let (listener, at) = scene.listener(Side::SERVER);
    let pair = scene.pair_at(listener, at);
    scene.close(&[listener, pair.server]);
    scene.s.settle();
    let (again, same) = scene.listener_at(Side::SERVER, at);
    assert_eq!(same, at);
    let second = scene.pair_at(again, at);
    scene.echo(second, b"again");
    scene.part(second);
    scene.close(&[again, pair.client]);
    Ok(())
}

pub fn a_core_connects_to_itself_and_to_its_neighbour(scene: &mut Scene) -> Verdict {
    scene.needs(|can| can.cores_share, "two cores at one address")?;
    for (from, to) in [(Side::SERVER, Side::SERVER), (Side::SECOND, Side::SERVER), (Side::CLIENT, Side::CLIENT)] {
        let (listener, at) = scene.listener(to);
        let client = scene.stream(from);
        let connect = scene.s.connect(client, at).expect("a new stream");
        let accept = scene.s.accept(listener).expect("it listens");
        assert_eq!(scene.done(connect), Ended::Connected);
        let (server, _) = scene.accepted(accept);
        let pair = Pair { client, server };
        scene.echo(pair, &Pattern::of(9).bytes(0, 5000));
        scene.part(pair);
        scene.close(&[listener]);
    }
    Ok(())
}

pub fn options_are_kept(scene: &mut Scene) -> Verdict {
    use std::time::Duration;

    use pdpix::{OptionName, SocketOption};
    let defaults = [
        (OptionName::NoDelay, SocketOption::NoDelay(true)),
        (OptionName::KeepAlive, SocketOption::KeepAlive(None)),
        (OptionName::Linger, SocketOption::Linger(Duration::from_secs(60))),
        (OptionName::Shared, SocketOption::Shared(false)),
        (OptionName::SendBudget, SocketOption::SendBudget(1 << 20)),
        (OptionName::ReceiveBudget, SocketOption::ReceiveBudget(1 << 20)),
    ];
    let set = [
        (OptionName::NoDelay, SocketOption::NoDelay(false)),
        (OptionName::KeepAlive, SocketOption::KeepAlive(Some(Duration::from_secs(7)))),
        (OptionName::Linger, SocketOption::Linger(Duration::from_secs(3))),
        (OptionName::Shared, SocketOption::Shared(true)),
        (OptionName::SendBudget, SocketOption::SendBudget(12_345)),
        (OptionName::ReceiveBudget, SocketOption::ReceiveBudget(54_321)),
    ];
    let q = scene.s.socket(Side::SERVER, SocketKind::Stream).expect("a stream queue");
    for (name, default) in defaults {
        assert_eq!(scene.s.option(q, name), Ok(default));
    }
    for (name, value) in set {
        assert_eq!(scene.s.set_option(q, value), Ok(()));
        assert_eq!(scene.s.option(q, name), Ok(value));
    }
    let pair = scene.pair();
    let (name, value) = set[4];
    assert_eq!(scene.s.set_option(pair.server, value), Ok(()), "also while connected");
    assert_eq!(scene.s.option(pair.server, name), Ok(value));
    scene.part(pair);
    scene.close(&[q]);
    Ok(())
}
