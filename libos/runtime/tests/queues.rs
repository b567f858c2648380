//! Memory queues, tokens and waits, as their users see them.

mod support;

use std::rc::Rc;
use std::time::Duration;

use libos_runtime::LibOs;
use pdpix::{Error, Outcome, QToken, Qd, Sga, SocketKind, SocketOption};

fn sga(libos: &LibOs, bytes: &[u8]) -> Sga {
    Sga::copy(libos.heap(), bytes).unwrap()
}

fn pop(libos: &LibOs, qd: Qd) -> Vec<u8> {
    let qt = libos.pop(qd, 1000).unwrap();
    libos.wait(qt, None).unwrap().popped().unwrap().sga.to_vec()
}

fn push(libos: &LibOs, qd: Qd, bytes: &[u8]) {
    let qt = libos.push(qd, sga(libos, bytes)).unwrap();
    libos.wait(qt, None).unwrap().done().unwrap();
}

#[test]
fn one_push_is_one_pop_in_order() {
    let (core, _) = support::core();
    let libos = core.libos();
    let qd = libos.queue().unwrap();
    for bytes in [&b"one"[..], b"two", b"three"] {
        push(libos, qd, bytes);
    }
    assert_eq!(pop(libos, qd), b"one");
    let qt = libos.pop(qd, 2).unwrap();
    let popped = libos.wait(qt, None).unwrap().popped().unwrap();
    assert_eq!((popped.sga.to_vec(), popped.cut), (b"tw".to_vec(), true), "longer than asked for: cut, and flagged");
    drop(popped);
    assert_eq!(pop(libos, qd), b"three");
    libos.close(qd).unwrap();
    assert_eq!((libos.tokens_in_use(), libos.heap().stats().pinned), (0, 0));
}

#[test]
fn a_larger_budget_lets_waiting_pushes_in() {
    let (core, _) = support::core();
    let libos = core.libos();
    let qd = libos.queue().unwrap();
    assert_eq!(libos.set_option(qd, SocketOption::SendBudget(0)).unwrap_err(), Error::InvalidArgument);
    libos.set_option(qd, SocketOption::SendBudget(100)).unwrap();
    let tokens = [(); 4].map(|()| libos.push(qd, sga(libos, &[1; 50])).unwrap());
    libos.set_option(qd, SocketOption::SendBudget(300)).unwrap();
    let ended = tokens.map(|qt| libos.try_redeem(qt).unwrap().is_some());
    assert_eq!(ended, [true, true, true, false], "114 bytes each");
}

#[test]
fn all_tokens_are_judged_before_the_wait() {
    let (core, _) = support::core();
    let libos = core.libos();
    let qd = libos.queue().unwrap();
    let pop = libos.pop(qd, 10).unwrap();
    let foreign = QToken::new(9, 0, pop.generation());
    assert_eq!(
        libos.wait_all(&[pop, foreign], None).unwrap_err(),
        Error::BadToken,
        "and it does not wait for the first"
    );
}

#[test]
fn each_misuse_has_its_error() {
    let (core, _) = support::core();
    let libos = core.libos();
    let qd = libos.queue().unwrap();
    let nowhere = Qd::new(77, 3);
    let refused = |result: Result<QToken, Error>| result.unwrap_err();
    assert_eq!(refused(libos.push(qd, Sga::new())), Error::InvalidArgument);
    assert_eq!(refused(libos.pop(qd, 0)), Error::InvalidArgument);
    assert_eq!(refused(libos.push(nowhere, Sga::new())), Error::BadDescriptor);
    assert_eq!(refused(libos.push(nowhere, sga(libos, b"x"))), Error::BadDescriptor);
    assert_eq!(refused(libos.pop(nowhere, 0)), Error::BadDescriptor);
    assert_eq!(refused(libos.accept(qd)), Error::NotSupported);
    assert_eq!(refused(libos.connect(qd, "10.0.0.1:1".parse().unwrap())), Error::NotSupported);
    assert_eq!(libos.listen(qd, 5).unwrap_err(), Error::NotSupported);
    assert_eq!(libos.set_option(qd, SocketOption::NoDelay(true)).unwrap_err(), Error::NotSupported);
    assert_eq!(libos.socket(SocketKind::Stream, None).unwrap_err(), Error::NotFound, "there is no network");
    assert_eq!(libos.wait_any(&[], None).unwrap_err(), Error::InvalidArgument);
    assert_eq!(libos.wait_all(&[], None).unwrap_err(), Error::InvalidArgument);
    let qt = libos.pop(qd, 10).unwrap();
    assert_eq!(libos.wait_all(&[qt, qt], None).unwrap_err(), Error::InvalidArgument);
    let foreign = QToken::from_raw(qt.raw() | 7 << 56);
    assert_eq!(libos.wait(foreign, None).unwrap_err(), Error::BadToken);
    assert_eq!(libos.cancel(foreign).unwrap_err(), Error::BadToken);
    libos.close(qd).unwrap();
    assert_eq!(libos.close(qd).unwrap_err(), Error::BadDescriptor, "for the second time");
    assert_eq!(libos.wait(qt, None).unwrap().done().unwrap_err(), Error::Canceled, "the queue was closed");
    assert_eq!(libos.wait(qt, None).unwrap_err(), Error::StaleToken);
    assert_eq!(libos.cancel(qt).unwrap_err(), Error::StaleToken);
    assert_eq!(libos.queues_in_use(), 0);
}

#[test]
fn a_closed_descriptor_is_not_the_next_queue() {
    let (core, _) = support::core();
    let libos = core.libos();
    let mut seen = Vec::new();
    for _ in 0..300 {
        let qd = libos.queue().unwrap();
        assert!(!seen.contains(&qd));
        libos.close(qd).unwrap();
        seen.push(qd);
    }
    assert!(seen.iter().all(|&qd| libos.finish(qd) == Err(Error::BadDescriptor)));
}

#[test]
fn pushes_beyond_the_budget_wait_for_room() {
    let (core, _) = support::core();
    let libos = core.libos();
    let qd = libos.queue().unwrap();
    libos.set_option(qd, SocketOption::SendBudget(1000)).unwrap();
    let pushes: Vec<QToken> = (0..10).map(|i| libos.push(qd, sga(libos, &[i; 500])).unwrap()).collect();
    let complete = |libos: &LibOs| pushes.iter().filter(|&&qt| !matches!(libos.try_redeem(qt), Ok(None))).count();
    assert_eq!(complete(libos), 2, "the second filled the budget");
    for i in 0..10 {
        assert_eq!(pop(libos, qd), [i; 500], "in order, whether they waited or not");
    }
    assert_eq!(complete(libos), 10);
}

#[test]
fn finish_is_the_end_after_what_was_pushed() {
    let (core, _) = support::core();
    let libos = core.libos();
    let qd = libos.queue().unwrap();
    push(libos, qd, b"last");
    libos.finish(qd).unwrap();
    assert_eq!(libos.finish(qd).unwrap_err(), Error::BrokenPipe);
    assert_eq!(libos.push(qd, sga(libos, b"x")).unwrap_err(), Error::BrokenPipe);
    assert_eq!(pop(libos, qd), b"last");
    assert_eq!(pop(libos, qd), b"", "the end, once");
    assert_eq!(libos.pop(qd, 10).unwrap_err(), Error::EndOfStream);
    // Pops that wait already are ended too: one gets the end.
    let qd = libos.queue().unwrap();
    let waiting = [libos.pop(qd, 10).unwrap(), libos.pop(qd, 10).unwrap()];
    libos.finish(qd).unwrap();
    let ends = libos.wait_all(&waiting, None).unwrap();
    let ends: Vec<_> = ends.into_iter().map(|c| c.popped().map(|p| p.sga.len())).collect();
    assert_eq!(ends, [Ok(0), Err(Error::EndOfStream)]);
}

#[test]
fn a_wait_that_times_out_leaves_its_token() {
    let (core, clock) = support::core();
    let libos = core.libos().clone();
    let qd = libos.queue().unwrap();
    let qt = libos.pop(qd, 10).unwrap();
    assert_eq!(libos.wait(qt, Some(Duration::ZERO)).unwrap_err(), Error::TimedOut);
    assert_eq!(libos.wait(qt, None).unwrap_err(), Error::WouldDeadlock, "nothing is left that could complete it");
    let other = libos.clone();
    libos.spawn(async move {
        other.sleep(Duration::from_micros(10)).await;
        let qt = other.push(qd, Sga::copy(other.heap(), b"late").unwrap()).unwrap();
        other.redeem(qt).await.unwrap();
    });
    core.step();
    clock.advance(20_000);
    assert_eq!(libos.wait(qt, Some(Duration::from_secs(1))).unwrap().popped().unwrap().sga.to_vec(), b"late");
}

#[test]
fn waiting_for_any_and_for_all() {
    let (core, _) = support::core();
    let libos = core.libos();
    let queues = [libos.queue().unwrap(), libos.queue().unwrap()];
    let pops: Vec<QToken> = queues.iter().map(|&qd| libos.pop(qd, 10).unwrap()).collect();
    push(libos, queues[1], b"second");
    let (at, completion) = libos.wait_any(&pops, None).unwrap();
    assert_eq!((at, completion.qt, completion.qd), (1, pops[1], queues[1]));
    assert_eq!(libos.wait_any(&pops, None).unwrap_err(), Error::StaleToken, "one of them is spent");
    let rest = [pops[0], libos.pop(queues[1], 10).unwrap()];
    push(libos, queues[0], b"first");
    assert_eq!(libos.wait_all(&rest, Some(Duration::ZERO)).unwrap_err(), Error::TimedOut);
    push(libos, queues[1], b"third");
    let all = libos.wait_all(&rest, None).unwrap();
    let all: Vec<_> = all.into_iter().map(|c| c.popped().unwrap().sga.to_vec()).collect();
    assert_eq!(all, [b"first".to_vec(), b"third".to_vec()]);
}

#[test]
fn wait_inside_a_coroutine_would_deadlock_and_a_second_waiter_is_refused() {
    let (core, _) = support::core();
    let libos = core.libos().clone();
    let qd = libos.queue().unwrap();
    let qt = libos.pop(qd, 10).unwrap();
    let inner = libos.clone();
    let first = libos.spawn(async move {
        assert_eq!(inner.wait(qt, None).unwrap_err(), Error::WouldDeadlock);
        assert_eq!(inner.wait_any(&[qt], None).unwrap_err(), Error::WouldDeadlock);
        assert_eq!(inner.wait_all(&[qt], None).unwrap_err(), Error::WouldDeadlock);
        inner.redeem(qt).await
    });
    let inner = libos.clone();
    let second = libos.spawn(async move { inner.redeem(qt).await.map(|_| ()) });
    core.step();
    assert_eq!(second.take().unwrap(), Err(Error::TokenBusy));
    assert_eq!(libos.wait(qt, Some(Duration::ZERO)).unwrap_err(), Error::TokenBusy);
    push(&libos, qd, b"x");
    core.step();
    assert_eq!(first.take().unwrap().unwrap().popped().unwrap().sga.to_vec(), b"x", "the first waiter has it");
}

#[test]
fn one_completion_wakes_one_waiter() {
    let (core, _) = support::core();
    let libos = core.libos().clone();
    let qd = libos.queue().unwrap();
    let woken: Rc<std::cell::Cell<usize>> = Rc::default();
    let waiters: Vec<_> = (0..5)
        .map(|_| {
            let (libos, woken) = (libos.clone(), woken.clone());
            core.libos().spawn(async move {
                let qt = libos.pop(qd, 10).unwrap();
                libos.redeem(qt).await.unwrap().popped().unwrap();
                woken.set(woken.get() + 1);
            })
        })
        .collect();
    core.step();
    let before = libos.counters().switches;
    push(&libos, qd, b"x");
    core.step();
    assert_eq!((woken.get(), libos.counters().switches - before), (1, 1), "one coroutine ran, and got it");
    assert!(waiters[0].has_ended(), "the one that has waited longest");
}

#[test]
fn a_shortened_generation_wraps_under_load() {
    let ports = libos_runtime::mesh(1, libos_runtime::MeshKind::Stepped).unwrap().pop().unwrap();
    let parts = libos_runtime::CoreParts {
        generation_bits: 2,
        idle: libos_runtime::IdlePolicy::Stepped,
        ..libos_runtime::CoreParts::new(support::heap(), Box::new(support::HandClock::default()), ports)
    };
    let core = libos_runtime::Core::new(parts);
    let libos = core.libos();
    let qd = libos.queue().unwrap();
    for i in 0..2000u32 {
        push(libos, qd, &i.to_le_bytes());
        assert_eq!(pop(libos, qd), i.to_le_bytes());
    }
    assert_eq!(libos.tokens_in_use(), 0);
}

#[test]
fn cancel_in_each_state() {
    let (core, _) = support::core();
    let libos = core.libos();
    let qd = libos.queue().unwrap();
    // Pending: it ends `Canceled`, and is redeemed as any other.
    let qt = libos.pop(qd, 10).unwrap();
    libos.cancel(qt).unwrap();
    assert_eq!(libos.wait(qt, None).unwrap().popped().unwrap_err(), Error::Canceled);
    // Complete: too late, the result stands.
    push(libos, qd, b"kept");
    let qt = libos.pop(qd, 10).unwrap();
    libos.cancel(qt).unwrap();
    assert_eq!(libos.wait(qt, None).unwrap().popped().unwrap().sga.to_vec(), b"kept");
    // A push that waits for room is not made.
    libos.set_option(qd, SocketOption::SendBudget(1)).unwrap();
    push(libos, qd, b"fills it");
    let qt = libos.push(qd, sga(libos, b"never")).unwrap();
    libos.cancel(qt).unwrap();
    assert!(matches!(libos.wait(qt, None).unwrap().result, Err(Error::Canceled)));
    assert_eq!(pop(libos, qd), b"fills it");
    assert!(matches!(libos.pop(qd, 10).map(|qt| libos.try_redeem(qt)), Ok(Ok(None))), "and nothing behind it");
}

#[test]
fn what_a_dropped_pop_had_received_goes_to_the_next_in_order() {
    let (core, _) = support::core();
    let libos = core.libos();
    let qd = libos.queue().unwrap();
    push(libos, qd, b"one");
    push(libos, qd, b"two");
    let first = libos.pop(qd, 10).unwrap();
    drop(libos.redeem(first)); // complete, and nobody looked
    assert_eq!((pop(libos, qd), pop(libos, qd)), (b"one".to_vec(), b"two".to_vec()));
    assert_eq!(libos.counters().returned, 1);
    // Somebody waits already.
    let (a, b) = (libos.pop(qd, 10).unwrap(), libos.pop(qd, 10).unwrap());
    push(libos, qd, b"three");
    drop(libos.redeem(a));
    assert_eq!(libos.wait(b, None).unwrap().popped().unwrap().sga.to_vec(), b"three");
    assert_eq!(libos.tokens_in_use(), 0);
}

#[test]
fn a_dropped_pop_that_waits_takes_nothing() {
    let (core, _) = support::core();
    let libos = core.libos();
    let qd = libos.queue().unwrap();
    drop(libos.redeem(libos.pop(qd, 10).unwrap()));
    push(libos, qd, b"x");
    assert_eq!(pop(libos, qd), b"x");
    assert_eq!(libos.tokens_in_use(), 0);
}

#[test]
fn dropping_the_core_ends_coroutines_and_returns_every_buffer() {
    let (core, _) = support::core();
    let libos = core.libos().clone();
    let heap = libos.heap().clone();
    let qd = libos.queue().unwrap();
    push(&libos, qd, &[7; 5000]);
    let held = Rc::new(());
    let (inner, theirs) = (libos.clone(), held.clone());
    libos.spawn(async move {
        let _held = theirs;
        inner.pop(qd, 10).unwrap();
        std::future::pending::<()>().await;
    });
    core.step();
    drop(libos);
    drop(core);
    assert_eq!(Rc::strong_count(&held), 1);
    assert_eq!(heap.stats().pinned, 0);
}

#[test]
fn timeouts_and_sleeps_follow_the_clock() {
    let (core, clock) = support::core();
    let libos = core.libos().clone();
    let qd = libos.queue().unwrap();
    let inner = libos.clone();
    let task = libos.spawn(async move {
        let qt = inner.pop(qd, 10).unwrap();
        let timed_out = inner.timeout(Duration::from_millis(1), inner.redeem(qt)).await.map(|_| ());
        let qt = inner.pop(qd, 10).unwrap();
        let in_time = inner.timeout(Duration::from_millis(1), inner.redeem(qt)).await;
        (timed_out, in_time.unwrap().unwrap().popped().unwrap().sga.to_vec())
    });
    let step = core.step();
    assert!(step.deadline.unwrap() <= core.libos().now() + Duration::from_micros(1002));
    clock.advance(2_000_000);
    core.step();
    push(&libos, qd, b"in time");
    core.step();
    assert_eq!(task.take().unwrap(), (Err(Error::TimedOut), b"in time".to_vec()));
    assert_eq!(core.step().deadline, None, "no timer is left");
}

#[test]
fn an_aborted_coroutine_drops_what_it_holds_and_says_so() {
    let (core, _) = support::core();
    let libos = core.libos().clone();
    let qd = libos.queue().unwrap();
    let inner = libos.clone();
    let victim = Rc::new(libos.spawn(async move {
        let qt = inner.pop(qd, 10).unwrap();
        inner.redeem(qt).await.unwrap();
    }));
    core.step();
    assert_eq!(libos.tokens_in_use(), 1);
    victim.abort();
    victim.abort();
    assert_eq!(libos.tokens_in_use(), 0, "its pop was cancelled");
    let victim = Rc::into_inner(victim).unwrap();
    let waiting = libos.spawn(victim);
    core.step();
    assert_eq!(waiting.take().unwrap(), Err(Error::Canceled));
}

#[test]
fn outcomes_are_told_apart() {
    let (core, _) = support::core();
    let libos = core.libos();
    let qd = libos.queue().unwrap();
    let qt = libos.push(qd, sga(libos, b"x")).unwrap();
    let completion = libos.wait(qt, None).unwrap();
    assert!(matches!(completion.result, Ok(Outcome::Pushed)));
    assert_eq!(completion.popped().unwrap_err(), Error::InvalidArgument);
    assert_eq!(format!("{libos:?}"), "LibOs(core 0, 1 queues, 0 tokens)");
}
