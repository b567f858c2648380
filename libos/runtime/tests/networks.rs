//! The runtime's side of the contract of networks, against one that does what it is told.

mod support;

use std::time::Duration;

use libos_runtime::{Core, CoreParts, KernelClock, LibOs, MeshKind, mesh};
use pdpix::{Error, Handle, Outcome, Popped, QToken, Qd, Sga, SocketKind};
use support::Scripted;

fn connected() -> (Core, Scripted, Qd) {
    let scripted = Scripted::default();
    let (core, _) = support::core_with(scripted.boxed());
    let qd = core.libos().socket(SocketKind::Stream, None).unwrap();
    (core, scripted, qd)
}

fn sga(libos: &LibOs, bytes: &[u8]) -> Sga {
    Sga::copy(libos.heap(), bytes).unwrap()
}

fn redeem(libos: &LibOs, qt: QToken) -> Vec<u8> {
    libos.wait(qt, Some(Duration::ZERO)).unwrap().popped().unwrap().sga.to_vec()
}

#[test]
fn networks_are_chosen_by_name() {
    let (first, second) = (Scripted::default(), Scripted::default());
    let mut networks = first.boxed();
    networks.push(("other".into(), Box::new(second.clone())));
    let (core, _) = support::core_with(networks);
    let libos = core.libos();
    libos.socket(SocketKind::Stream, None).unwrap();
    libos.socket(SocketKind::Datagram, Some("other")).unwrap();
    assert_eq!((first.0.borrow().next_handle, second.0.borrow().next_handle), (1, 1));
    assert_eq!(libos.socket(SocketKind::Stream, Some("none")).unwrap_err(), Error::NotFound);
    assert_eq!(libos.socket(SocketKind::Message, None).unwrap_err(), Error::NotSupported);
    assert_eq!(libos.queues_in_use(), 2);
}

#[test]
fn a_result_may_come_at_once_or_later_and_looks_the_same() {
    let (core, scripted, qd) = connected();
    let libos = core.libos();
    scripted.0.borrow_mut().at_once.entry(Handle(1)).or_default().push_back(sga(libos, b"now"));
    let now = libos.pop(qd, 10).unwrap();
    let later = libos.pop(qd, 10).unwrap();
    assert_eq!(redeem(libos, now), b"now");
    assert!(libos.try_redeem(later).unwrap().is_none());
    scripted.arrive(sga(libos, b"later"));
    assert_eq!(redeem(libos, later), b"later");
    let counters = libos.counters();
    assert_eq!((counters.completed_at_once, counters.completed_later, counters.pops), (1, 1, 2));
}

#[test]
fn a_stepped_core_looks_again_after_a_nap_if_a_network_cannot_wake_it() {
    let (core, scripted, _) = connected();
    assert_eq!(core.step().deadline, None);
    scripted.0.borrow_mut().naps = true;
    let naps: Vec<Duration> = (0..8).map(|_| core.step().deadline.unwrap().since(core.libos().now())).collect();
    assert!(naps[0] > Duration::ZERO && naps.is_sorted(), "{naps:?}");
    assert!(*naps.last().unwrap() <= Duration::from_millis(1), "{naps:?}");
}

/// It found nothing when the core looked once more before its sleep, but sent something: now it cannot wake the core.
#[test]
fn a_network_that_cannot_wake_a_core_any_more_when_that_lies_down_is_looked_at_after_a_nap() {
    let scripted = Scripted::default();
    scripted.0.borrow_mut().naps_later = true;
    let ports = mesh(1, MeshKind::Threads).unwrap().remove(0);
    let parts = CoreParts::new(support::heap(), Box::new(KernelClock), ports);
    let core = Core::new(CoreParts { networks: scripted.boxed(), ..parts });
    let libos = core.libos();
    let qd = libos.socket(SocketKind::Stream, None).unwrap();
    let push = libos.push(qd, sga(libos, b"sent")).unwrap();
    let completion = libos.wait(push, Some(Duration::from_secs(2))).expect("the core looks again");
    completion.done().unwrap();
    assert!(scripted.0.borrow().arms > 1, "it was asked again before the core slept");
}

/// Catches the planted bug `pop_loses_on_cancel`.
#[test]
fn data_of_a_token_that_was_dropped_comes_first() {
    let (core, scripted, qd) = connected();
    let libos = core.libos();
    let dropped = libos.pop(qd, 10).unwrap();
    scripted.arrive(sga(libos, b"first"));
    core.step();
    drop(libos.redeem(dropped));
    let next = libos.pop(qd, 3).unwrap();
    assert_eq!(redeem(libos, next), b"fir", "a stream is cut where the pop ends, and nothing is lost");
    let next = libos.pop(qd, 10).unwrap();
    assert_eq!(redeem(libos, next), b"st");
    assert_eq!(scripted.pending(), 0, "the backend was not asked");
}

#[test]
fn data_that_arrives_in_the_race_with_a_drop_is_not_lost() {
    let (core, scripted, qd) = connected();
    let libos = core.libos();
    let dropped = libos.pop(qd, 10).unwrap();
    // The backend has completed it, and the runtime does not know yet: the cancel comes too late.
    scripted.arrive(sga(libos, b"raced"));
    drop(libos.redeem(dropped));
    assert_eq!(libos.tokens_in_use(), 1, "its slot is in use until its end has come");
    core.step();
    let next = libos.pop(qd, 10).unwrap();
    assert_eq!(redeem(libos, next), b"raced");
    assert_eq!(libos.tokens_in_use(), 0);
}

#[test]
fn a_pop_that_waits_gets_what_a_dropped_one_had() {
    let (core, scripted, qd) = connected();
    let libos = core.libos();
    let tokens = [(); 3].map(|()| libos.pop(qd, 10).unwrap());
    scripted.arrive(sga(libos, b"one"));
    core.step();
    drop(libos.redeem(tokens[0]));
    // The others are taken back from the backend, and before the second's end is in, more data is: it goes behind.
    assert_eq!(scripted.pending(), 0, "both were cancelled there");
    let second = pdpix::OpId(tokens[1].raw());
    for (op, result) in &mut scripted.0.borrow_mut().ends {
        if *op == second {
            *result = Ok(Outcome::Popped(Popped::stream(sga(libos, b"two"))));
        }
    }
    assert_eq!(redeem(libos, tokens[1]), b"one");
    assert_eq!(redeem(libos, tokens[2]), b"two");
    assert_eq!(libos.tokens_in_use(), 0);
}

#[test]
fn what_given_up_tokens_had_passes_through_those_that_are_complete() {
    let (core, scripted, qd) = connected();
    let libos = core.libos();
    let tokens = [(); 3].map(|()| libos.pop(qd, 3).unwrap());
    for bytes in [b"one", b"two", b"six"] {
        scripted.arrive(sga(libos, bytes));
        core.step();
        core.step();
    }
    drop(libos.redeem(tokens[0]));
    assert_eq!(redeem(libos, tokens[1]), b"one");
    assert_eq!(redeem(libos, tokens[2]), b"two");
    let next = libos.pop(qd, 10).unwrap();
    assert_eq!(redeem(libos, next), b"six");
}

#[test]
fn a_cancelled_pop_stays_cancelled_though_something_returned() {
    let (core, scripted, qd) = connected();
    let libos = core.libos();
    let (a, b) = (libos.pop(qd, 10).unwrap(), libos.pop(qd, 10).unwrap());
    scripted.arrive(sga(libos, b"data"));
    core.step();
    libos.cancel(b).unwrap();
    drop(libos.redeem(a));
    core.step();
    assert_eq!(libos.wait(b, Some(Duration::ZERO)).unwrap().popped().unwrap_err(), Error::Canceled);
    let next = libos.pop(qd, 10).unwrap();
    assert_eq!(redeem(libos, next), b"data");
}

#[test]
fn a_connection_that_nobody_took_goes_to_the_next_accept() {
    let (core, scripted, listener) = connected();
    let libos = core.libos();
    let peer = "10.0.0.9:99".parse().unwrap();
    let dropped = libos.accept(listener).unwrap();
    scripted.end_first(Ok(Outcome::Accepted { queue: Handle(50), peer }));
    core.step();
    drop(libos.redeem(dropped));
    let waits = libos.accept(listener).unwrap();
    let (qd, from) = libos.wait(waits, Some(Duration::ZERO)).unwrap().accepted().unwrap();
    assert_eq!((from, libos.queues_in_use()), (peer, 2));
    libos.close(qd).unwrap();
    assert!(scripted.0.borrow().log.contains(&"close 50".to_string()));
    // One that returned is closed with its listener.
    let dropped = libos.accept(listener).unwrap();
    scripted.end_first(Ok(Outcome::Accepted { queue: Handle(51), peer }));
    core.step();
    drop(libos.redeem(dropped));
    libos.close(listener).unwrap();
    assert!(scripted.0.borrow().log.contains(&"close 51".to_string()));
    assert_eq!(libos.queues_in_use(), 0);
}

#[test]
fn an_accept_that_ends_after_its_listener_was_closed_leaves_nothing() {
    let (core, scripted, listener) = connected();
    let libos = core.libos();
    let qt = libos.accept(listener).unwrap();
    let (_, op, _) = scripted.0.borrow_mut().pending.pop_front().unwrap();
    libos.close(listener).unwrap();
    let peer = "10.0.0.9:99".parse().unwrap();
    scripted.0.borrow_mut().ends.push_back((op, Ok(Outcome::Accepted { queue: Handle(60), peer })));
    drop(libos.redeem(qt));
    core.step();
    assert_eq!((libos.queues_in_use(), libos.tokens_in_use()), (0, 0));
    assert!(scripted.0.borrow().log.contains(&"close 60".to_string()));
}

#[test]
fn close_cancels_what_is_pending_and_tokens_stay_redeemable() {
    let (core, _, qd) = connected();
    let libos = core.libos();
    let tokens = [libos.pop(qd, 10).unwrap(), libos.push(qd, sga(libos, b"x")).unwrap()];
    libos.close(qd).unwrap();
    for completion in libos.wait_all(&tokens, None).unwrap() {
        assert_eq!((completion.qd, completion.result.unwrap_err()), (qd, Error::Canceled));
    }
    assert_eq!(libos.pop(qd, 10).unwrap_err(), Error::BadDescriptor);
}

#[test]
fn a_full_burst_is_followed_by_a_larger_one() {
    let (core, scripted, qd) = connected();
    let libos = core.libos();
    let tokens: Vec<QToken> = (0..100).map(|_| libos.pop(qd, 10).unwrap()).collect();
    (0..100).for_each(|i| scripted.arrive(sga(libos, &[i])));
    let mut left = Vec::new();
    while !scripted.0.borrow().ends.is_empty() {
        left.push(scripted.0.borrow().ends.len());
        core.step();
    }
    assert_eq!(left, [100, 99, 97, 93, 85, 69, 37], "1, 2, 4, ...");
    for (i, qt) in tokens.into_iter().enumerate() {
        assert_eq!(redeem(libos, qt), [i as u8]);
    }
}
