//! Misuse: every error of docs/contract.md and DESIGN §2 that a caller can earn, before any effect.

use std::net::IpAddr;
use std::time::Duration;

use pdpix::{Endpoint, Error, Generation, OptionName, QToken, Qd, SocketKind, SocketOption};

use crate::scene::{NO_QUEUE, Scene, Verdict, foreign};
use crate::subject::{Queue, Side, Token};

/// Every call on a queue that does not exist.
fn check_is_no_queue(scene: &mut Scene, q: Queue, what: &str) {
    let at = scene.any_port(q.side);
    let s = &mut *scene.s;
    let bad = Err(Error::BadDescriptor);
    assert_eq!(s.bind(q, at).map(|_| ()), bad, "bind of {what}");
    assert_eq!(s.listen(q, 1), bad, "listen of {what}");
    assert_eq!(s.set_option(q, SocketOption::NoDelay(true)), bad, "set_option of {what}");
    assert_eq!(s.option(q, OptionName::SendBudget).map(|_| ()), bad, "option of {what}");
    assert_eq!(s.local(q).map(|_| ()), bad, "local of {what}");
    assert_eq!(s.peer(q).map(|_| ()), bad, "peer of {what}");
    assert_eq!(s.finish(q), bad, "finish of {what}");
    assert_eq!(s.accept(q).map(|_| ()), bad, "accept of {what}");
    assert_eq!(s.connect(q, at).map(|_| ()), bad, "connect of {what}");
    assert_eq!(s.push(q, &[b"x"], None).map(|_| ()), bad, "push of {what}");
    assert_eq!(s.push(q, &[], None).map(|_| ()), bad, "an empty push of {what}");
    assert_eq!(s.push(q, &[b"x"], Some(at)).map(|_| ()), bad, "push_to of {what}");
    assert_eq!(s.pop(q, 10).map(|_| ()), bad, "pop of {what}");
    assert_eq!(s.pop(q, 0).map(|_| ()), bad, "an empty pop of {what}");
    assert_eq!(s.close(q), bad, "close of {what}");
}

pub fn a_descriptor_that_is_not_open_is_refused(scene: &mut Scene) -> Verdict {
    let side = Side::SERVER;
    check_is_no_queue(scene, Queue { side, qd: NO_QUEUE }, "a descriptor that was never given");
    let q = scene.stream(side);
    scene.close(&[q]);
    check_is_no_queue(scene, q, "a closed descriptor");
    // Its place is taken by others, and it still is not theirs.
    let others: Vec<Queue> = (0..100).map(|_| scene.stream(side)).collect();
    check_is_no_queue(scene, q, "a closed descriptor whose place is taken");
    scene.close(&others);
    let flipped = Qd::from_raw(others[0].qd.raw() ^ 1 << 31);
    check_is_no_queue(scene, Queue { side, qd: flipped }, "a negative descriptor");
    Ok(())
}

pub fn a_token_that_was_not_issued_is_refused(scene: &mut Scene) -> Verdict {
    let pair = scene.pair();
    let pop = scene.s.pop(pair.server, 10).expect("it is connected");
    let core = pop.qt.core();
    let never = QToken::new(core, (1 << QToken::INDEX_BITS) - 1, Generation::ZERO);
    for (qt, what) in [(foreign(pop.qt), "another core's"), (never, "a slot that was never used")] {
        let token = Token { side: Side::SERVER, qt };
        assert_eq!(scene.s.wait(token, None), Err(Error::BadToken), "{what}");
        assert_eq!(scene.s.cancel(token), Err(Error::BadToken), "{what}");
    }
    // Another side's token, where the two cores have one number, is none of ours.
    scene.s.cancel(pop).expect("a token that is held");
    assert_eq!(scene.fails(pop), Error::Canceled);
    assert_eq!(scene.s.wait(pop, None), Err(Error::StaleToken));
    scene.part(pair);
    Ok(())
}

pub fn empty_pushes_and_pops_are_refused(scene: &mut Scene) -> Verdict {
    let pair = scene.pair();
    assert_eq!(scene.s.push(pair.client, &[], None), Err(Error::InvalidArgument));
    assert_eq!(scene.s.push(pair.client, &[b""], None), Err(Error::InvalidArgument));
    assert_eq!(scene.s.push(pair.client, &[b"", b""], None), Err(Error::InvalidArgument));
    assert_eq!(scene.s.pop(pair.client, 0), Err(Error::InvalidArgument));
    let to = scene.any_port(Side::SERVER);
    assert_eq!(scene.s.push(pair.client, &[b"x"], Some(to)), Err(Error::NotSupported), "push_to on a stream");
    scene.echo(pair, b"no harm done");
    scene.part(pair);
    Ok(())
}

pub fn a_listener_is_not_a_connection(scene: &mut Scene) -> Verdict {
    let (listener, at) = scene.listener(Side::SERVER);
    let s = &mut *scene.s;
    assert_eq!(s.push(listener, &[b"x"], None), Err(Error::NotSupported));
    assert_eq!(s.pop(listener, 10), Err(Error::NotSupported));
    assert_eq!(s.connect(listener, at), Err(Error::NotSupported));
    assert_eq!(s.finish(listener), Err(Error::NotSupported));
    assert_eq!(s.listen(listener, 10), Err(Error::InvalidArgument), "it listens already");
    assert_eq!(s.bind(listener, at), Err(Error::InvalidArgument), "it is bound already");
    let pair = scene.pair_at(listener, at);
    assert_eq!(scene.s.accept(pair.server), Err(Error::InvalidArgument), "and a connection is not a listener");
    assert_eq!(scene.s.listen(pair.client, 10), Err(Error::InvalidArgument));
    assert_eq!(scene.s.connect(pair.client, at), Err(Error::AlreadyConnected));
    assert_eq!(scene.s.connect(pair.server, at), Err(Error::AlreadyConnected));
    scene.part(pair);
    scene.close(&[listener]);
    Ok(())
}

pub fn a_queue_must_be_bound_to_listen_and_connected_to_push(scene: &mut Scene) -> Verdict {
    let q = scene.stream(Side::SERVER);
    let any = scene.any_port(Side::SERVER);
    for bound in [false, true] {
        let s = &mut *scene.s;
        if bound {
            let at = s.bind(q, any).expect("a free port");
            assert_eq!(s.bind(q, at), Err(Error::InvalidArgument), "bound already");
            assert_eq!(s.bind(q, any), Err(Error::InvalidArgument), "bound already");
        } else {
            assert_eq!(s.listen(q, 10), Err(Error::InvalidArgument), "not bound");
        }
        assert_eq!(s.push(q, &[b"x"], None), Err(Error::NotConnected));
        assert_eq!(s.pop(q, 10), Err(Error::NotConnected));
        assert_eq!(s.accept(q), Err(Error::InvalidArgument));
        assert_eq!(s.finish(q), Err(Error::NotConnected));
        assert_eq!(s.peer(q), Err(Error::NotConnected));
    }
    scene.close(&[q]);
    Ok(())
}

pub fn endpoints_that_are_foreign_or_taken_are_refused(scene: &mut Scene) -> Verdict {
    let (listener, at) = scene.listener(Side::SERVER);
    let mut kinds = vec![SocketKind::Stream];
    kinds.extend(scene.s.can().datagrams.then_some(SocketKind::Datagram));
    for kind in kinds {
        let q = scene.s.socket(Side::SERVER, kind).expect("a queue");
        // TEST-NET-3 (RFC 5737) is nobody's.
        let foreign = Endpoint::new(IpAddr::from([203, 0, 113, 77]), 0);
        assert_eq!(scene.s.bind(q, foreign), Err(Error::AddressNotAvailable));
        if kind == SocketKind::Stream {
            assert_eq!(scene.s.bind(q, at), Err(Error::AddressInUse));
        }
        let any = scene.any_port(Side::SERVER);
        let mine = scene.s.bind(q, any).expect("a refused bind leaves no trace");
        let second = scene.s.socket(Side::SERVER, kind).expect("a queue");
        assert_eq!(scene.s.bind(second, mine), Err(Error::AddressInUse));
        // Only if both say so is it shared.
        assert_eq!(scene.s.set_option(second, SocketOption::Shared(true)), Ok(()));
        assert_eq!(scene.s.bind(second, mine), Err(Error::AddressInUse));
        scene.close(&[q, second]);
    }
    scene.close(&[listener]);
    Ok(())
}

pub fn what_a_kind_of_queue_has_not_is_refused(scene: &mut Scene) -> Verdict {
    let side = Side::CLIENT;
    assert_eq!(scene.s.socket(side, SocketKind::Message), Err(Error::NotSupported), "no such network here");
    let stream = scene.stream(side);
    for option in [SocketOption::SendBudget(0), SocketOption::ReceiveBudget(0)] {
        assert_eq!(scene.s.set_option(stream, option), Err(Error::InvalidArgument));
    }
    let any = scene.any_port(side);
    scene.s.bind(stream, any).expect("a free port");
    assert_eq!(scene.s.set_option(stream, SocketOption::Shared(true)), Err(Error::InvalidArgument), "too late");
    scene.close(&[stream]);
    if scene.s.can().datagrams {
        let datagram = scene.s.socket(side, SocketKind::Datagram).expect("a datagram queue");
        let options =
            [SocketOption::NoDelay(true), SocketOption::KeepAlive(None), SocketOption::Linger(Duration::ZERO)];
        for option in options {
            assert_eq!(scene.s.set_option(datagram, option), Err(Error::NotSupported), "{option:?}");
        }
        for name in [OptionName::NoDelay, OptionName::KeepAlive, OptionName::Linger] {
            assert_eq!(scene.s.option(datagram, name), Err(Error::NotSupported), "{name:?}");
        }
        for option in [SocketOption::SendBudget(0), SocketOption::ReceiveBudget(0)] {
            assert_eq!(scene.s.set_option(datagram, option), Err(Error::InvalidArgument));
        }
        scene.s.bind(datagram, any).expect("a free port");
        assert_eq!(scene.s.listen(datagram, 1), Err(Error::NotSupported));
        assert_eq!(scene.s.accept(datagram), Err(Error::InvalidArgument));
        assert_eq!(scene.s.finish(datagram), Err(Error::NotSupported));
        scene.close(&[datagram]);
    }
    Ok(())
}
