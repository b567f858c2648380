//! Loans and return lists under every interleaving that the memory model allows.
//! `RUSTFLAGS="--cfg loom" cargo test -p libos-mem --test loom --release`
#![cfg(loom)]

use libos_mem::{Heap, Plan, Reservation, Reserves, SPAN_SIZE, Source};
use loom::thread;

fn reservation(heaps: usize) -> Reservation {
    let plan = Plan { heaps, heap_size: 4 * SPAN_SIZE, reserves: Reserves::NONE, source: Source::Ordinary };
    Reservation::new(plan).unwrap()
}

fn lend(heap: &Heap, byte: u8) -> libos_mem::Loan {
    heap.copy(&[byte; 40]).unwrap().lend().unwrap()
}

/// A borrower counts, slices and gives back while the owner looks for what came home.
#[test]
fn a_loan_comes_home_whole() {
    loom::model(|| {
        let reservation = reservation(2);
        let owner = reservation.heap(0).unwrap();
        let loan = lend(&owner, 7);
        let theirs = reservation.clone();
        let borrower = thread::spawn(move || {
            let heap = theirs.heap(1).unwrap();
            let buf = loan.accept(&heap);
            let part = buf.slice(10..);
            drop(buf);
            assert_eq!(part[29], 7);
            drop(part);
            heap.exchange_returns();
        });
        owner.exchange_returns();
        borrower.join().unwrap();
        owner.exchange_returns();
        assert_eq!(owner.stats().pinned, 0);
    });
}

/// Two borrowers push onto one return list while its owner takes all.
#[test]
fn two_cores_return_to_one() {
    loom::model(|| {
        let reservation = reservation(3);
        let owner = reservation.heap(0).unwrap();
        let borrowers: Vec<_> = (1..3)
            .map(|index| {
                let (loan, theirs) = (lend(&owner, index as u8), reservation.clone());
                thread::spawn(move || {
                    let heap = theirs.heap(index).unwrap();
                    drop(loan.accept(&heap));
                    heap.exchange_returns();
                })
            })
            .collect();
        owner.exchange_returns();
        borrowers.into_iter().for_each(|b| b.join().unwrap());
        owner.exchange_returns();
        assert_eq!(owner.stats().pinned, 0);
    });
}

/// A loan that nobody accepts goes home from whichever thread drops it.
#[test]
fn an_unaccepted_loan_goes_home() {
    loom::model(|| {
        let reservation = reservation(1);
        let owner = reservation.heap(0).unwrap();
        let (one, two) = (lend(&owner, 1), lend(&owner, 2));
        let other = thread::spawn(move || drop(one));
        drop(two);
        owner.exchange_returns();
        other.join().unwrap();
        owner.exchange_returns();
        assert_eq!(owner.stats().pinned, 0);
    });
}
