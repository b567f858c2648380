//! Memory queues, of one core and between two.

use std::collections::VecDeque;

use pdpix::{Error, SocketOption};

use crate::pattern::Pattern;
use crate::scene::{NO_QUEUE, Scene, Skip, Verdict};
use crate::subject::{Ended, Queue, Side, Token};

fn queue(scene: &mut Scene) -> Result<Queue, Skip> {
    scene.needs(|can| can.memory_queues, "memory queues")?;
    Ok(scene.s.queue(Side::SERVER).expect("a memory queue"))
}

fn push(scene: &mut Scene, q: Queue, bytes: &[u8]) -> Token {
    scene.s.push(q, &[bytes], None).expect("an open queue")
}

fn pop(scene: &mut Scene, q: Queue) -> Vec<u8> {
    let token = scene.s.pop(q, 1 << 20).expect("an open queue");
    let arrival = scene.arrival(token);
    assert!(!arrival.cut && arrival.from.is_none());
    arrival.bytes
}

pub fn one_push_is_one_pop_in_order(scene: &mut Scene) -> Verdict {
    let q = queue(scene)?;
    // Elements that wait for pops, and pops that wait for elements.
    for i in 0..50u8 {
        let token = push(scene, q, &vec![i; 1 + usize::from(i) * 40]);
        assert_eq!(scene.done(token), Ended::Pushed);
    }
    for i in 0..50u8 {
        assert_eq!(pop(scene, q), vec![i; 1 + usize::from(i) * 40]);
    }
    let pops: Vec<Token> = (0..20).map(|_| scene.s.pop(q, 100).expect("an open queue")).collect();
    assert!(scene.stays_pending(pops[0]));
    for i in 0..20u8 {
        let bytes = [i; 7];
        let token = scene.s.push(q, &[&bytes[..3], &bytes[3..]], None).expect("an open queue");
        assert_eq!(scene.done(token), Ended::Pushed);
    }
    for (i, token) in pops.into_iter().enumerate() {
        assert_eq!(scene.arrival(token).bytes, [i as u8; 7]);
    }
    scene.close(&[q]);
    Ok(())
}

pub fn a_million_messages_pass_a_memory_queue(scene: &mut Scene) -> Verdict {
    let q = queue(scene)?;
    let mut pushed = 0u64;
    let mut under_way = VecDeque::new();
    for i in 0..1_000_000u64 {
        while pushed < i + 100 && pushed < 1_000_000 {
            under_way.push_back(push(scene, q, &Pattern::of(pushed).bytes(0, 16)));
            pushed += 1;
        }
        let token = scene.s.pop(q, 16).expect("an open queue");
        let end = scene.s.poll(token).expect("a token that is held").expect("there are elements");
        let Ok(Ended::Popped(arrival)) = end.result else { panic!("a pop gave {end:?}") };
        assert_eq!(arrival.bytes, Pattern::of(i).bytes(0, 16), "message {i}");
        let first = under_way.pop_front().expect("as many as were pushed");
        let end = scene.s.poll(first).expect("a token that is held").expect("it was enqueued");
        assert_eq!(end.result, Ok(Ended::Pushed));
    }
    scene.close(&[q]);
    Ok(())
}

pub fn a_longer_element_is_cut_and_flagged(scene: &mut Scene) -> Verdict {
    let q = queue(scene)?;
    for waits in [false, true] {
        let waiting = waits.then(|| scene.s.pop(q, 4).expect("an open queue"));
        for bytes in [&b"too long"[..], b"fits"] {
            let token = push(scene, q, bytes);
            assert_eq!(scene.done(token), Ended::Pushed);
        }
        let token = waiting.unwrap_or_else(|| scene.s.pop(q, 4).expect("an open queue"));
        let arrival = scene.arrival(token);
        assert_eq!((&arrival.bytes[..], arrival.cut), (&b"too "[..], true));
        let token = scene.s.pop(q, 4).expect("an open queue");
        let arrival = scene.arrival(token);
        assert_eq!((&arrival.bytes[..], arrival.cut), (&b"fits"[..], false));
    }
    scene.close(&[q]);
    Ok(())
}

pub fn pushes_beyond_the_budget_wait_their_turn(scene: &mut Scene) -> Verdict {
    let q = queue(scene)?;
    assert_eq!(scene.s.set_option(q, SocketOption::SendBudget(0)), Err(Error::InvalidArgument));
    scene.s.set_option(q, SocketOption::SendBudget(10_000)).expect("a memory queue has a budget");
    let mut tokens: VecDeque<Token> = (0..60u8).map(|i| push(scene, q, &[i; 1000])).collect();
    scene.s.settle();
    let mut accepted = 0;
    while let Some(end) = scene.s.poll(tokens[0]).expect("a token that is held") {
        assert_eq!(end.result, Ok(Ended::Pushed));
        tokens.pop_front();
        accepted += 1;
    }
    assert!((8..=10).contains(&accepted), "{accepted} elements of 1,000 bytes and something each fit 10,000");
    // One in the middle is taken back. More room lets more in, and each pop the next one.
    let taken_back = tokens.remove(20).expect("it is there");
    scene.s.cancel(taken_back).expect("a token that is held");
    assert_eq!(scene.fails(taken_back), Error::Canceled);
    scene.s.set_option(q, SocketOption::SendBudget(20_000)).expect("a memory queue has a budget");
    for _ in 0..8 {
        let token = tokens.pop_front().expect("more than fit");
        assert_eq!(scene.done(token), Ended::Pushed);
    }
    for i in (0..60u8).filter(|&i| i != accepted + 20) {
        assert_eq!(pop(scene, q), [i; 1000]);
    }
    for token in tokens {
        assert_eq!(scene.done(token), Ended::Pushed);
    }
    scene.close(&[q]);
    Ok(())
}

pub fn a_finished_memory_queue_is_emptied_and_then_ends(scene: &mut Scene) -> Verdict {
    let q = queue(scene)?;
    let token = push(scene, q, b"last");
    assert_eq!(scene.done(token), Ended::Pushed);
    scene.s.finish(q).expect("it is open");
    assert_eq!(scene.s.finish(q), Err(Error::BrokenPipe));
    assert_eq!(scene.s.push(q, &[b"late"], None), Err(Error::BrokenPipe));
    assert_eq!(pop(scene, q), b"last");
    assert_eq!(pop(scene, q), b"", "the end");
    assert_eq!(scene.s.pop(q, 10), Err(Error::EndOfStream));
    scene.close(&[q]);
    // Pops that wait: one gets the end.
    let q = queue(scene)?;
    let pops = [(); 3].map(|()| scene.s.pop(q, 10).expect("an open queue"));
    scene.s.finish(q).expect("it is open");
    assert_eq!(scene.arrival(pops[0]).bytes, b"");
    assert_eq!([scene.fails(pops[1]), scene.fails(pops[2])], [Error::EndOfStream; 2]);
    scene.close(&[q]);
    // Pushes that wait come before the end.
    let q = queue(scene)?;
    scene.s.set_option(q, SocketOption::SendBudget(100)).expect("a memory queue has a budget");
    let tokens = [b"1", b"2", b"3"].map(|bytes| push(scene, q, bytes));
    assert!(scene.stays_pending(tokens[2]));
    scene.s.finish(q).expect("it is open");
    for expected in [&b"1"[..], b"2", b"3", b""] {
        assert_eq!(pop(scene, q), expected);
    }
    for token in tokens {
        assert_eq!(scene.done(token), Ended::Pushed);
    }
    scene.close(&[q]);
    Ok(())
}

pub fn closing_a_memory_queue_cancels_who_waits(scene: &mut Scene) -> Verdict {
    let q = queue(scene)?;
    let pops = [(); 2].map(|()| scene.s.pop(q, 10).expect("an open queue"));
    scene.close(&[q]);
    assert_eq!([scene.fails(pops[0]), scene.fails(pops[1])], [Error::Canceled; 2]);
    let q = queue(scene)?;
    scene.s.set_option(q, SocketOption::SendBudget(1)).expect("a memory queue has a budget");
    let tokens = [b"in", b"no", b"no"].map(|bytes| push(scene, q, bytes));
    assert_eq!(scene.done(tokens[0]), Ended::Pushed);
    assert!(scene.stays_pending(tokens[1]));
    scene.close(&[q]);
    assert_eq!([scene.fails(tokens[1]), scene.fails(tokens[2])], [Error::Canceled; 2]);
    assert_eq!(scene.s.pop(q, 10), Err(Error::BadDescriptor));
    Ok(())
}

pub fn a_pop_of_a_memory_queue_is_cancelled_or_given_up_without_loss(scene: &mut Scene) -> Verdict {
    let q = queue(scene)?;
    let pops = [(); 3].map(|()| scene.s.pop(q, 10).expect("an open queue"));
    scene.s.cancel(pops[0]).expect("a token that is held");
    assert_eq!(scene.fails(pops[0]), Error::Canceled);
    let token = push(scene, q, b"one");
    assert_eq!(scene.done(token), Ended::Pushed);
    if scene.s.can().give_up {
        // The second has it, the third waits.
        scene.s.give_up(pops[1]);
        assert_eq!(scene.arrival(pops[2]).bytes, b"one");
        let token = push(scene, q, b"two and more");
        assert_eq!(scene.done(token), Ended::Pushed);
        let given_up = scene.s.pop(q, 100).expect("an open queue");
        scene.s.give_up(given_up);
        let token = scene.s.pop(q, 3).expect("an open queue");
        let arrival = scene.arrival(token);
        assert_eq!((&arrival.bytes[..], arrival.cut), (&b"two"[..], true));
    } else {
        assert_eq!(scene.arrival(pops[1]).bytes, b"one");
        scene.s.cancel(pops[2]).expect("a token that is held");
        assert_eq!(scene.fails(pops[2]), Error::Canceled);
    }
    scene.close(&[q]);
    Ok(())
}

pub fn a_memory_queue_is_no_socket(scene: &mut Scene) -> Verdict {
    let q = queue(scene)?;
    let at = scene.any_port(Side::SERVER);
    let s = &mut *scene.s;
    assert_eq!(s.bind(q, at), Err(Error::NotSupported));
    assert_eq!(s.listen(q, 1), Err(Error::NotSupported));
    assert_eq!(s.accept(q), Err(Error::NotSupported));
    assert_eq!(s.connect(q, at), Err(Error::NotSupported));
    assert_eq!(s.push(q, &[b"x"], Some(at)), Err(Error::NotSupported));
    assert_eq!(s.push(q, &[], None), Err(Error::InvalidArgument));
    assert_eq!(s.pop(q, 0), Err(Error::InvalidArgument));
    assert_eq!(s.local(q), Err(Error::NotSupported));
    assert_eq!(s.peer(q), Err(Error::NotSupported));
    assert_eq!(s.set_option(q, SocketOption::NoDelay(true)), Err(Error::NotSupported));
    let none = Queue { side: Side::SERVER, qd: NO_QUEUE };
    assert_eq!(s.attach(Side::SERVER, none, 100), Err(Error::BadDescriptor));
    let stream = scene.stream(Side::SERVER);
    assert_eq!(scene.s.attach(Side::SERVER, stream, 100), Err(Error::NotSupported));
    scene.close(&[q, stream]);
    Ok(())
}

/// The pushing end of a queue, where there are such.
fn attach(scene: &mut Scene, from: Side, q: Queue, budget: usize) -> Result<Queue, Skip> {
    match scene.s.attach(from, q, budget) {
        Err(Error::NotSupported) => {
            scene.close(&[q]);
            Err(Skip("this subject has no memory queues between cores".into()))
        }
        attached => Ok(attached.expect("a core of the same host")),
    }
}

/// From another core of the host, and from its own.
pub fn an_attached_end_carries_everything_in_order(scene: &mut Scene) -> Verdict {
    for from in [Side::SECOND, Side::SERVER] {
        let q = queue(scene)?;
        let end = attach(scene, from, q, 10_000)?;
        assert_eq!(scene.s.pop(end, 10), Err(Error::NotSupported), "it only pushes");
        // Short ones travel by value, long ones as loans.
        let bytes = |i: u64| Pattern::of(i).bytes(0, [5, 60, 300, 3000, 20_000][i as usize % 5]);
        let mut tokens: VecDeque<Token> = VecDeque::new();
        for i in 0..100 {
            let whole = bytes(i);
            let segments: Vec<&[u8]> = whole.chunks(whole.len().div_ceil(1 + i as usize % 3)).collect();
            tokens.push_back(scene.s.push(end, &segments, None).expect("an open queue"));
        }
        assert!(scene.stays_pending(tokens[99]), "the credit is used up");
        for i in 0..100 {
            assert_eq!(pop(scene, q), bytes(i));
        }
        for token in tokens {
            assert_eq!(scene.done(token), Ended::Pushed);
        }
        scene.close(&[end, q]);
    }
    Ok(())
}

pub fn an_attached_end_is_told_that_its_queue_is_gone(scene: &mut Scene) -> Verdict {
    for from in [Side::SECOND, Side::SERVER] {
        let q = queue(scene)?;
        let end = attach(scene, from, q, 1000)?;
        let tokens = [(); 5].map(|()| push(scene, end, &[7; 900]));
        assert!(scene.stays_pending(tokens[4]));
        scene.close(&[q]);
        let mut failed = 0;
        for token in tokens {
            match scene.end(token).result {
                Ok(Ended::Pushed) => assert_eq!(failed, 0, "accepted before the queue was gone"),
                Err(Error::BrokenPipe) => failed += 1,
                other => panic!("a push to a queue that is gone gave {other:?}"),
            }
        }
        assert!(failed > 0);
        assert_eq!(scene.s.push(end, &[b"x"], None), Err(Error::BrokenPipe));
        scene.close(&[end]);
    }
    Ok(())
}

pub fn pushes_that_wait_at_an_attached_end_are_cancelled(scene: &mut Scene) -> Verdict {
    let q = queue(scene)?;
    let end = attach(scene, Side::SECOND, q, 1000)?;
    let tokens: Vec<Token> = (0..5).map(|i| push(scene, end, &[i; 900])).collect();
    assert!(scene.stays_pending(tokens[3]));
    scene.s.cancel(tokens[3]).expect("a token that is held");
    assert_eq!(scene.fails(tokens[3]), Error::Canceled);
    assert_eq!(pop(scene, q), [0; 900]);
    assert_eq!(pop(scene, q), [1; 900]);
    assert_eq!(pop(scene, q), [2; 900]);
    assert_eq!(pop(scene, q), [4; 900], "nothing of the cancelled one was sent");
    for i in [0, 1, 2, 4] {
        assert_eq!(scene.done(tokens[i]), Ended::Pushed);
    }
    // Those that wait when the end is closed are cancelled; what was sent arrives.
    let tokens: Vec<Token> = (0..5).map(|i| push(scene, end, &[i; 900])).collect();
    assert!(scene.stays_pending(tokens[4]));
    scene.close(&[end]);
    let mut sent = 0u8;
    for token in tokens {
        match scene.end(token).result {
            Ok(Ended::Pushed) => sent += 1,
            Err(error) => assert_eq!(error, Error::Canceled),
            other => panic!("{other:?}"),
        }
    }
    for i in 0..sent {
        assert_eq!(pop(scene, q), [i; 900]);
    }
    assert!((1..5).contains(&sent));
    scene.close(&[q]);
    Ok(())
}
