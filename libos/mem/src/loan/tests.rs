use crate::heap::tests::heap;
use crate::{Buf, CopyPath, Heap, Plan, Reservation, Reserves, SPAN_SIZE, Source};

fn two() -> (Heap, Heap) {
    let plan = Plan { heaps: 2, heap_size: 8 * SPAN_SIZE, reserves: Reserves::NONE, source: Source::Ordinary };
    let reservation = Reservation::new(plan).unwrap();
    (reservation.heap(0).unwrap(), reservation.heap(1).unwrap())
}

fn settle(heaps: &[&Heap]) {
    for _ in heaps {
        heaps.iter().for_each(|heap| heap.exchange_returns());
    }
}

#[test]
fn a_loan_is_counted_by_its_borrower_and_comes_home_once() {
    let (owner, borrower) = two();
    let mine = owner.copy(b"shared, read-only").unwrap();
    let theirs = mine.clone().lend().unwrap().accept(&borrower);
    let second = theirs.slice(8..);
    assert_eq!((&second[..], borrower.stats().borrowed), (&b"read-only"[..], 1));
    assert_eq!(theirs.pinned(), mine.pinned());
    let mine = mine.try_mut().expect_err("the loan is a reference");
    drop(theirs);
    settle(&[&borrower, &owner]);
    let mine = mine.try_mut().expect_err("one borrowed slice is left");
    drop(second);
    assert_eq!(borrower.stats().borrowed, 0);
    settle(&[&borrower, &owner]);
    drop(mine.try_mut().expect("the only one again"));
    assert_eq!((owner.stats().pinned, borrower.stats().pinned), (0, 0));
}

#[test]
fn the_lender_need_not_keep_a_reference() {
    let (owner, borrower) = two();
    let theirs = owner.copy(b"moved").unwrap().lend().unwrap().accept(&borrower);
    assert!(owner.stats().pinned > 0);
    assert_eq!(&theirs[..], b"moved");
    drop(theirs);
    settle(&[&borrower, &owner]);
    assert_eq!(owner.stats().pinned, 0);
}

#[test]
fn a_loan_may_be_lent_on_dropped_or_come_back() {
    let (a, b) = two();
    let buf = a.copy(b"round trip").unwrap();
    let there = buf.clone().lend().unwrap().accept(&b);
    let back = there.clone().lend().unwrap();
    assert_eq!(&back[..], b"round trip");
    let back = back.accept(&a);
    assert_eq!(a.stats().borrowed, 1, "lent by b, which borrowed it from a");
    drop((there, back));
    settle(&[&a, &b, &a]);
    drop(buf.clone().lend().unwrap());
    let own = buf.clone().lend().unwrap().accept(&a);
    assert_eq!(a.stats().borrowed, 0, "accepted by its owner, it is an ordinary reference");
    drop(own);
    settle(&[&a, &b]);
    drop(buf.try_mut().expect("every loan is home"));
    assert_eq!((a.stats().pinned, b.stats().pinned), (0, 0));
}

#[test]
fn a_borrowed_slice_is_kept_without_a_copy_if_it_is_most_of_its_chunk() {
    let (owner, borrower) = two();
    let mut large = owner.alloc(4096).unwrap();
    large.resize(4096, 5);
    let theirs = large.freeze().lend().unwrap().accept(&borrower);
    let (most, little) = (theirs.slice(..4000).keep().unwrap(), theirs.slice(..300).keep().unwrap());
    drop(theirs);
    assert_eq!((borrower.copied().on(CopyPath::Keep), borrower.stats().pinned), (300, 320));
    drop((most, little));
    settle(&[&borrower, &owner]);
    assert_eq!((owner.stats().pinned, borrower.stats().pinned), (0, 0));
}

#[test]
fn a_borrower_may_go_before_what_it_borrowed() {
    let (owner, borrower) = two();
    let reservation = owner.reservation().clone();
    let theirs = owner.copy(b"outlives its heap's handle").unwrap().lend().unwrap().accept(&borrower);
    drop(borrower);
    drop(theirs);
    drop(owner);
    assert!(reservation.heap(0).is_some() && reservation.heap(1).is_some());
}

/// Whoever stops cores keeps their heaps' handles until all have stopped, and exchanges returns once more.
#[test]
#[cfg(not(miri))] // it leaks, as it says
fn what_comes_home_to_nobody_is_leaked_and_not_reused() {
    let (owner, borrower) = two();
    let reservation = owner.reservation().clone();
    let theirs = owner.copy(b"outlives its owner's handle").unwrap().lend().unwrap().accept(&borrower);
    drop(owner);
    assert_eq!(&theirs[..8], b"outlives");
    drop(theirs);
    drop(borrower);
    assert!(reservation.heap(0).is_none() && reservation.heap(1).is_some());
}

#[test]
fn threads_lend_to_each_other() {
    let rounds = if cfg!(miri) { 20 } else { 2000 };
    let (owner, borrower) = two();
    let reservation = owner.reservation().clone();
    drop(borrower);
    let (send, receive) = std::sync::mpsc::sync_channel(16);
    let thread = std::thread::spawn(move || {
        let heap = reservation.heap(1).unwrap();
        let mut held: Vec<Buf> = Vec::new();
        for loan in receive {
            let buf = crate::Loan::accept(loan, &heap);
            assert!(buf.iter().all(|&b| b == buf[0]));
            held.push(buf.slice(1..));
            if held.len() > 5 {
                held.remove(0);
            }
            heap.exchange_returns();
        }
    });
    for round in 0..rounds {
        let mut buf = owner.alloc(700).unwrap();
        buf.resize(700, round as u8);
        send.send(buf.freeze().lend().unwrap()).unwrap();
        owner.exchange_returns();
    }
    drop(send);
    thread.join().unwrap();
    owner.exchange_returns();
    assert_eq!(owner.stats().pinned, 0);
}

#[test]
fn a_full_heap_cannot_lend() {
    let heap = heap();
    let buf = heap.copy(b"x").unwrap();
    let mut hoard = Vec::new();
    for size in [1 << 17, 1 << 10, 64, 1] {
        while let Ok(taken) = heap.alloc(size) {
            hoard.push(taken);
        }
    }
    assert!(buf.lend().is_err());
}
