//! The end of a stream: half-close in both orders, what comes after it, and what close still sends.

use std::time::Duration;

use pdpix::{Error, SocketOption};

use crate::flow::{Reader, Writer};
use crate::pattern::Pattern;
use crate::scene::{Scene, Verdict};
use crate::subject::{Ended, Queue};

pub fn the_end_is_told_once_and_later_pops_are_refused(scene: &mut Scene) -> Verdict {
    let pair = scene.pair();
    scene.send(pair.client, b"last words");
    scene.s.finish(pair.client).expect("it is connected");
    assert_eq!(scene.receive(pair.server, 10), b"last words");
    assert_eq!(scene.receive(pair.server, 10), b"", "a pop of length zero");
    for _ in 0..3 {
        assert_eq!(scene.s.pop(pair.server, 10), Err(Error::EndOfStream));
    }
    scene.close(&[pair.client, pair.server]);
    Ok(())
}

pub fn of_the_pops_that_wait_one_gets_the_end(scene: &mut Scene) -> Verdict {
    let pair = scene.pair();
    let pops = [(); 3].map(|()| scene.s.pop(pair.server, 10).expect("it is connected"));
    assert!(scene.stays_pending(pops[0]));
    scene.s.finish(pair.client).expect("it is connected");
    let end = scene.arrival(pops[0]);
    assert!(end.bytes.is_empty() && !end.cut && end.from.is_none());
    for pop in &pops[1..] {
        assert_eq!(scene.fails(*pop), Error::EndOfStream);
    }
    scene.close(&[pair.client, pair.server]);
    Ok(())
}

pub fn after_finish_data_still_comes_from_the_other_side(scene: &mut Scene) -> Verdict {
    for server_first in [false, true] {
        let pair = scene.pair();
        let (first, second) = if server_first { (pair.server, pair.client) } else { (pair.client, pair.server) };
        scene.send(first, b"question");
        scene.s.finish(first).expect("it is connected");
        assert_eq!(scene.receive(second, 8), b"question");
        assert_eq!(scene.receive(second, 1), b"");
        let pattern = Pattern::of(u64::from(server_first));
        let mut writer = Writer::new(second, pattern, 300_000, 10_000, 4).then_finish();
        let mut reader = Reader::to_end(first, pattern, 50_000, 2);
        scene.run(&mut [&mut writer, &mut reader]);
        scene.close(&[second, first]);
    }
    Ok(())
}

pub fn after_finish_pushes_are_refused(scene: &mut Scene) -> Verdict {
    let pair = scene.pair();
    scene.s.finish(pair.client).expect("it is connected");
    assert_eq!(scene.s.push(pair.client, &[b"late"], None), Err(Error::BrokenPipe));
    assert_eq!(scene.s.finish(pair.client), Err(Error::BrokenPipe), "a second finish");
    assert_eq!(scene.receive(pair.server, 1), b"");
    assert_eq!(scene.s.push(pair.client, &[b"late"], None), Err(Error::BrokenPipe));
    scene.carry(pair.server, pair.client, b"the other way");
    scene.close(&[pair.client, pair.server]);
    Ok(())
}

/// More than every budget on the way, so that some pushes still wait when the end is asked for.
const MUCH: u64 = 40 << 20;

pub fn the_end_comes_after_everything_that_was_pushed(scene: &mut Scene) -> Verdict {
    let pair = scene.pair();
    let pattern = Pattern::of(5);
    let mut writer = Writer::new(pair.client, pattern, MUCH, 1 << 20, 40);
    scene.until("everything is pushed", |s| {
        crate::flow::Flow::pump(&mut writer, s);
        writer.pushed() == MUCH
    });
    assert!(writer.pending() > 0, "nobody reads, and {MUCH} bytes are more than fit anywhere");
    scene.s.finish(pair.client).expect("it is connected");
    assert_eq!(scene.s.push(pair.client, &[b"late"], None), Err(Error::BrokenPipe));
    let mut reader = Reader::to_end(pair.server, pattern, 1 << 20, 1);
    scene.run(&mut [&mut writer, &mut reader]);
    assert_eq!(reader.popped(), MUCH);
    scene.close(&[pair.client, pair.server]);
    Ok(())
}

pub fn close_still_sends_what_was_accepted(scene: &mut Scene) -> Verdict {
    for (finish, total) in [(false, 10), (true, 10), (false, 900_000), (true, 900_000)] {
        let pair = scene.pair();
        let pattern = Pattern::of(total);
        // Accepted at once or soon: it fits the budget.
        let mut writer = Writer::new(pair.client, pattern, total, 100_000, 10);
        scene.run(&mut [&mut writer]);
        if finish {
            scene.s.finish(pair.client).expect("it is connected");
        }
        scene.close(&[pair.client]);
        let mut reader = Reader::to_end(pair.server, pattern, 30_000, 2);
        scene.run(&mut [&mut reader]);
        assert_eq!(reader.popped(), total);
        scene.close(&[pair.server]);
    }
    Ok(())
}

/// Pushes until one stays pending. Gives the bytes that were accepted, and that push.
pub(crate) fn fill(scene: &mut Scene, q: Queue, pattern: Pattern, size: usize) -> (u64, crate::subject::Token) {
    let mut accepted = 0u64;
    loop {
        assert!(accepted < 256 << 20, "{accepted} bytes were accepted, and nobody reads them");
        let push = scene.s.push(q, &[&pattern.bytes(accepted, size)], None).expect("an open queue");
        match scene.s.wait(push, Some(Duration::from_millis(1))) {
            Ok(end) => assert_eq!(end.result, Ok(Ended::Pushed)),
            Err(Error::TimedOut) if scene.stays_pending(push) => return (accepted, push),
            Err(Error::TimedOut) => {}
            Err(error) => panic!("{error}"),
        }
        accepted += size as u64;
    }
}

pub fn close_cancels_pushes_that_wait_and_sends_none_of_their_bytes(scene: &mut Scene) -> Verdict {
    let pair = scene.pair();
    let pattern = Pattern::of(6);
    let (accepted, waits) = fill(scene, pair.client, pattern, 100_000);
    scene.close(&[pair.client]);
    assert_eq!(scene.fails(waits), Error::Canceled);
    let mut reader = Reader::to_end(pair.server, pattern, 1 << 20, 1);
    scene.run(&mut [&mut reader]);
    assert_eq!(reader.popped(), accepted, "what was accepted arrives whole, and nothing else");
    scene.close(&[pair.server]);
    Ok(())
}

pub fn close_lingers_no_longer_than_it_was_told(scene: &mut Scene) -> Verdict {
    let pair = scene.pair();
    scene.s.set_option(pair.client, SocketOption::Linger(Duration::from_millis(150))).expect("a stream");
    let pattern = Pattern::of(7);
    let (accepted, waits) = fill(scene, pair.client, pattern, 100_000);
    let start = scene.s.now();
    scene.close(&[pair.client]);
    assert_eq!(scene.fails(waits), Error::Canceled);
    let client = pair.client.side;
    assert!(scene.in_use(client).zombies > 0, "the peer has not taken it yet");
    scene.until("the end of the linger", |s| s.books(client).zombies == 0);
    let took = scene.s.now().since(start);
    assert!(took >= Duration::from_millis(150), "it gave up after {took:?}");
    // The peer is told that this is not everything.
    let mut popped = 0;
    loop {
        let token = scene.s.pop(pair.server, 1 << 20).expect("an open queue");
        match scene.end(token).result {
            Ok(Ended::Popped(arrival)) => {
                assert!(!arrival.bytes.is_empty(), "an orderly end after {popped} of {accepted} bytes");
                assert_eq!(pattern.check(popped, &arrival.bytes), Ok(()));
                popped += arrival.bytes.len() as u64;
            }
            Err(error) => break assert_eq!(error, Error::ConnectionReset),
            other => panic!("a pop gave {other:?}"),
        }
    }
    assert!(popped < accepted);
    scene.close(&[pair.server]);
    Ok(())
}
