//! The heap as the allocator of a whole program: this test binary's.

use std::thread;

use libos_mem::{CopyPath, GlobalHeap, Plan, Reservation, Reserves, Source};

#[global_allocator]
static HEAP: GlobalHeap = GlobalHeap;

/// One test, since a process has one global reservation.
#[test]
fn vectors_become_buffers_without_a_copy() {
    let plan = Plan { heaps: 2, heap_size: 8 << 20, reserves: Reserves::usual(8 << 20), source: Source::Ordinary };
    let reservation = Reservation::new(plan).unwrap();
    reservation.clone().make_global().expect("the first");
    assert!(reservation.clone().make_global().is_err(), "there is one already");
    let heap = reservation.heap(0).unwrap();
    let before = vec![1u8; 500];

    let entered = heap.enter();
    let mut vec = Vec::new();
    for i in 0..10_000u32 {
        vec.push(i as u8); // grows through several classes
    }
    let at = vec.as_ptr();
    assert!(reservation.contains(at));
    let buf = heap.adopt(vec).unwrap();
    assert_eq!((buf.as_ptr(), buf.len(), buf[9_999]), (at, 10_000, 9_999u32 as u8));
    assert_eq!(heap.copied().on(CopyPath::Adopt), 0);
    assert_eq!(heap.adopt(before).unwrap().len(), 500);
    assert_eq!(heap.copied().on(CopyPath::Adopt), 500, "what was allocated outside is copied");
    drop(buf);

    // Aligned, large and zero-sized requests, and a request beyond the heap.
    #[repr(align(4096))]
    struct Page([u8; 4096]);
    let page = Box::new(Page([9; 4096]));
    assert_eq!((&raw const *page as usize % 4096, page.0[4095]), (0, 9));
    let mut large = vec![7u8; 1 << 20];
    large.shrink_to(1000);
    assert!(reservation.contains(large.as_ptr()) && large.iter().all(|&b| b == 7));
    let huge = vec![1u8; 64 << 20];
    assert!(!reservation.contains(huge.as_ptr()), "the system serves what the heap cannot");
    drop((page, large, huge));

    // Another thread frees, and another core's heap adopts by copy.
    let mine: Vec<Vec<u8>> = (0..100).map(|i| vec![i as u8; 200]).collect();
    let pinned = heap.stats().pinned;
    let theirs = reservation.clone();
    thread::spawn(move || {
        let heap = theirs.heap(1).unwrap();
        let _entered = heap.enter();
        let buf = heap.adopt(mine[3].clone()).unwrap();
        assert_eq!(heap.copied().on(CopyPath::Adopt), 0);
        let foreign = mine.into_iter().next().unwrap();
        let copy = heap.adopt(foreign).unwrap();
        assert_eq!((heap.copied().on(CopyPath::Adopt), &copy[..], &buf[..]), (200, &[0; 200][..], &[3; 200][..]));
    })
    .join()
    .unwrap();
    heap.exchange_returns();
    assert!(heap.stats().pinned < pinned - 100 * 200 + 8192, "what the other thread freed came home");
    drop(entered);
    assert!(!reservation.contains(vec![0u8; 100].as_ptr()), "not entered: the system's");
}
