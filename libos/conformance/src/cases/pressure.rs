//! A peer that does not read: everything is bounded, nothing is lost, and others go on.

use std::time::Duration;

use pdpix::{Error, SocketOption};

use crate::cases::ends::fill;
use crate::flow::{Flow, Reader, Writer};
use crate::pattern::Pattern;
use crate::scene::{Scene, Verdict};
use crate::subject::{Ended, Side};

const PUSH: usize = 64 * 1024;

pub fn a_peer_that_does_not_read_makes_pushes_wait_in_bounded_memory(scene: &mut Scene) -> Verdict {
    const SEND_BUDGET: usize = 512 << 10;
    const RECEIVE_BUDGET: usize = 256 << 10;
    let (pair, other) = (scene.pair(), scene.pair());
    scene.s.set_option(pair.client, SocketOption::SendBudget(SEND_BUDGET)).expect("a stream");
    scene.s.set_option(pair.server, SocketOption::ReceiveBudget(RECEIVE_BUDGET)).expect("a stream");
    let pattern = Pattern::of(3);
    // A first pop that is served, so that a backend that reads ahead has begun to.
    let pop = scene.s.pop(pair.server, 8).expect("it is connected");
    scene.send(pair.client, &pattern.bytes(0, 8));
    let first = scene.arrival(pop).bytes;
    let mut popped = first.len() as u64;
    assert_eq!(pattern.check(0, &first), Ok(()));
    let rest = scene.receive(pair.server, 8 - first.len());
    popped += rest.len() as u64;
    let stream = Pattern::of(4);
    let (accepted, waits) = fill(scene, pair.client, stream, PUSH);
    // The budget is exceeded by at most the push that filled it, and what the device keeps; the one that waits is the user's.
    let sent = SEND_BUDGET + 2 * PUSH + scene.s.kept();
    let sender = scene.in_use(Side::CLIENT).pinned;
    assert!(sender <= sent, "{sender} bytes are pinned by the sender, {sent} are allowed");
    let receiver = scene.in_use(Side::SERVER).pinned;
    let bound = RECEIVE_BUDGET + scene.s.can().receive_ahead;
    assert!(receiver <= bound, "{receiver} bytes are pinned by the receiver, {bound} are allowed");
    assert!(accepted >= SEND_BUDGET as u64 / 2, "{accepted} bytes are less than the budget");
    // Nothing of this hinders another connection.
    for round in 0..20 {
        scene.echo(other, &Pattern::of(round).bytes(0, 10_000));
    }
    scene.s.settle();
    assert!(scene.in_use(Side::CLIENT).pinned <= sent);
    assert_eq!(popped, 8);
    // It reads again: everything arrives.
    let mut reader = Reader::of(pair.server, stream, accepted + PUSH as u64, 100_000, 2);
    scene.run(&mut [&mut reader]);
    assert_eq!(scene.done(waits), Ended::Pushed);
    scene.echo(pair, b"and it goes on");
    scene.part(pair);
    scene.part(other);
    Ok(())
}

pub fn waiting_pushes_go_in_order_as_room_comes(scene: &mut Scene) -> Verdict {
    let pair = scene.pair();
    scene.s.set_option(pair.client, SocketOption::SendBudget(100_000)).expect("a stream");
    let pattern = Pattern::of(11);
    let total = 48 << 20;
    // Hundreds of pushes wait at a time.
    let mut writer = Writer::new(pair.client, pattern, total, 30_000, 400).in_segments(2);
    scene.until("pushes wait", |s| !writer.pump(s));
    assert!(writer.pending() > 10, "{}", writer.progress());
    let mut reader = Reader::of(pair.server, pattern, total, 40_000, 1);
    scene.run(&mut [&mut writer, &mut reader]);
    scene.part(pair);
    Ok(())
}

pub fn a_larger_budget_lets_waiting_pushes_in(scene: &mut Scene) -> Verdict {
    let pair = scene.pair();
    scene.s.set_option(pair.client, SocketOption::SendBudget(100_000)).expect("a stream");
    let pattern = Pattern::of(12);
    let (accepted, waits) = fill(scene, pair.client, pattern, PUSH);
    scene.s.set_option(pair.client, SocketOption::SendBudget(1 << 20)).expect("a stream");
    assert_eq!(scene.done(waits), Ended::Pushed, "nobody has read, and there is room now");
    let mut reader = Reader::of(pair.server, pattern, accepted + PUSH as u64, 1 << 20, 1);
    scene.run(&mut [&mut reader]);
    scene.part(pair);
    Ok(())
}

pub fn a_small_receive_budget_loses_nothing(scene: &mut Scene) -> Verdict {
    let pair = scene.pair();
    scene.s.set_option(pair.server, SocketOption::ReceiveBudget(4096)).expect("a stream");
    let pattern = Pattern::of(13);
    let total = 2 << 20;
    let mut writer = Writer::new(pair.client, pattern, total, 20_000, 8);
    let mut reader = Reader::of(pair.server, pattern, total, 7_000, 3);
    scene.run(&mut [&mut writer, &mut reader]);
    scene.part(pair);
    Ok(())
}

/// A push is complete long before the device is done with its buffers. Memory that was given back too soon would be
/// somebody else's by then. (Catches the planted bug `release_at_completion` in io_uring's zero-copy sends.)
pub fn what_was_accepted_is_sent_as_it_was(scene: &mut Scene) -> Verdict {
    // Long enough to be sent without a copy.
    const PUSH: usize = 512 << 10;
    let (pair, other) = (scene.pair(), scene.pair());
    for q in [pair.client, other.client] {
        scene.s.set_option(q, SocketOption::SendBudget(8 << 20)).expect("a stream");
    }
    let (ours, theirs) = (Pattern::of(14), Pattern::of(15));
    let (accepted, waits) = fill(scene, pair.client, ours, PUSH);
    // Others fill what memory there is with something else.
    let (_, other_waits) = fill(scene, other.client, theirs, PUSH);
    scene.s.settle();
    let mut reader = Reader::of(pair.server, ours, accepted + PUSH as u64, 200_000, 1);
    scene.run(&mut [&mut reader]);
    assert_eq!(scene.done(waits), Ended::Pushed);
    scene.s.cancel(other_waits).expect("a token that is held");
    assert_eq!(scene.fails(other_waits), Error::Canceled);
    scene.part(pair);
    scene.s.set_option(other.client, SocketOption::Linger(Duration::ZERO)).expect("a stream");
    scene.close(&[other.client, other.server]);
    Ok(())
}
