use quickcheck::quickcheck;

use super::*;

fn heap_of(spans: usize, reserves: Reserves) -> Heap {
    let plan = Plan { heaps: 1, heap_size: spans * SPAN_SIZE, reserves, source: Source::Ordinary };
    Reservation::new(plan).unwrap().heap(0).unwrap()
}

/// 16 spans, no reserves.
pub(crate) fn heap() -> Heap {
    heap_of(16, Reserves::NONE)
}

/// Takes all there is for `purpose`, largest pieces first.
fn take_all(heap: &Heap, purpose: Purpose) -> Vec<BufMut> {
    let mut taken = Vec::new();
    for size in [CHUNK_SIZE_MAX, 4096] {
        while let Ok(buf) = heap.alloc_for(purpose, size) {
            taken.push(buf);
        }
    }
    taken
}

#[test]
fn a_chunk_holds_what_was_asked_for_and_is_aligned() {
    let heap = heap();
    for len in [0, 1, 31, 32, 33, 64, 100, 1000, 4096, 5000, 65_536, 131_072, 131_073, 300_000, 1 << 20] {
        let buf = heap.alloc(len).unwrap();
        assert!(buf.capacity() >= len && buf.is_empty());
        assert_eq!(buf.as_ptr() as usize % 32, 0, "{len}");
    }
    for align in [64, 512, 4096, SPAN_SIZE] {
        let buf = heap.alloc_aligned(700, align).unwrap();
        assert_eq!(buf.as_ptr() as usize % align, 0, "{align}");
    }
    assert_eq!(heap.alloc_aligned(1, 3).err(), Some(Exhausted));
    assert_eq!(heap.stats().pinned, 0);
}

#[test]
fn exhaustion_is_a_value_and_ends_when_something_is_freed() {
    let heap = heap();
    let mut all = take_all(&heap, Purpose::App);
    assert_eq!(heap.alloc(1 << 20).err(), Some(Exhausted));
    assert_eq!(heap.alloc(64).err(), Some(Exhausted));
    assert_eq!(heap.alloc(usize::MAX).err(), Some(Exhausted));
    assert_eq!(heap.stats().pinned, 16 * SPAN_SIZE);
    all.pop();
    all.clear();
    assert!(heap.alloc(16 * SPAN_SIZE).is_ok(), "all spans are free again, those that classes allocated from as well");
}

#[test]
fn what_one_class_has_and_does_not_need_serves_the_others() {
    let heap = heap();
    // Each size leaves an empty span with its class; there are more classes than spans.
    for size in (0..CLASS_COUNT).map(crate::class::size_of_class) {
        assert!(heap.alloc(size).is_ok(), "{size}");
    }
    // And when there is no span left, a larger chunk does it.
    let large = take_all(&heap, Purpose::App);
    drop(large.into_iter().nth(3));
    let small: Vec<BufMut> = std::iter::from_fn(|| heap.alloc(100).ok()).collect();
    assert!(!small.is_empty(), "there is room for 128 KiB, and not for 100 bytes");
    assert!(small.iter().all(|buf| buf.capacity() >= 100));
}

#[test]
fn reserves_are_left_to_their_purpose() {
    let reserves = Reserves { app_spans: 4, receive_spans: 4, header_spans: 2 };
    let heap = heap_of(16, reserves);
    let app = take_all(&heap, Purpose::App);
    assert_eq!(heap.stats().free_spans, 6, "the application leaves both other reserves");
    let receive = take_all(&heap, Purpose::Receive);
    assert_eq!(heap.stats().free_spans, 2, "receiving takes its own and leaves the headers'");
    let header = take_all(&heap, Purpose::Header);
    assert_eq!(heap.stats().free_spans, 0);
    assert!(heap.alloc_for(Purpose::Header, 64).is_err());
    drop((app, receive, header));
    let receive = take_all(&heap, Purpose::Receive);
    let app = take_all(&heap, Purpose::App);
    assert!(app.iter().map(BufMut::pinned).sum::<usize>() >= 3 * SPAN_SIZE, "applications have a reserve as well");
    drop((receive, app));
    assert_eq!(heap.stats().pinned, 0);
}

#[test]
fn what_the_application_keeps_no_longer_counts_as_receive_memory() {
    let heap = heap_of(16, Reserves { app_spans: 0, receive_spans: 4, header_spans: 0 });
    let kept: Vec<Buf> = (0..8)
        .map(|_| {
            let mut buf = heap.alloc_for(Purpose::Receive, CHUNK_SIZE_MAX).unwrap();
            buf.resize(CHUNK_SIZE_MAX, 1);
            buf.freeze().keep().unwrap()
        })
        .collect();
    assert_eq!(heap.stats().kept, 4 * SPAN_SIZE);
    assert_eq!(heap.copied().total(), 0, "whole chunks are kept, not copied");
    let app = take_all(&heap, Purpose::App);
    assert_eq!(heap.stats().free_spans, 4, "the reserve is unclaimed again, though received chunks are in use");
    assert!(heap.alloc_for(Purpose::Receive, 4096).is_ok());
    drop((kept, app));
    assert_eq!(heap.stats(), HeapStats { free_spans: heap.stats().free_spans, spans: 16, ..HeapStats::default() });
}

#[test]
fn keeping_is_refused_when_the_reserve_would_suffer() {
    let heap = heap_of(16, Reserves { app_spans: 0, receive_spans: 4, header_spans: 0 });
    let mut buf = heap.alloc_for(Purpose::Receive, CHUNK_SIZE_MAX).unwrap();
    buf.resize(CHUNK_SIZE_MAX, 1);
    let received = buf.freeze();
    let hoard = take_all(&heap, Purpose::App);
    assert_eq!(received.clone().keep(), Err(Exhausted));
    drop(hoard);
    assert!(received.keep().is_ok());
}

#[test]
fn handles_may_go_before_buffers() {
    let heap = heap();
    let reservation = heap.reservation().clone();
    let buf = heap.copy(b"still here").unwrap();
    drop(heap);
    let second = buf.heap();
    assert_eq!(&buf[..], b"still here");
    drop(buf);
    drop(second);
    assert!(reservation.heap(0).is_some());
}

#[test]
fn a_foreign_vector_is_copied_and_counted() {
    let heap = heap();
    let buf = heap.adopt(vec![3; 1000]).unwrap();
    assert_eq!((&buf[..], heap.copied().on(CopyPath::Adopt)), (&[3; 1000][..], 1000));
    assert!(heap.adopt(Vec::new()).unwrap().is_empty());
}

quickcheck! {
    /// Any sequence of allocations and frees, of any sizes and purposes: chunks never overlap (each is filled with its
    /// own byte, and found unchanged when it goes), the books balance, and all spans come back.
    fn chunks_never_overlap(ops: Vec<(u16, u8, u8)>) -> bool {
        let heap = heap_of(64, Reserves::NONE);
        let mut live: Vec<(u8, BufMut)> = Vec::new();
        for (i, (len, shift, pick)) in ops.into_iter().enumerate() {
            let fill = i as u8;
            if pick % 3 == 0 && !live.is_empty() {
                let (fill, buf) = live.swap_remove(pick as usize % live.len());
                assert!(buf.iter().all(|&b| b == fill));
                continue;
            }
            let purpose = Purpose::ALL[pick as usize % 3];
            if let Ok(mut buf) = heap.alloc_for(purpose, (len as usize) << (shift % 5)) {
                let room = if cfg!(miri) { buf.room().min(64) } else { buf.room() };
                buf.resize(room, fill);
                live.push((fill, buf));
            }
            assert_eq!(heap.stats().pinned, live.iter().map(|(_, b)| b.pinned()).sum::<usize>());
        }
        for (fill, buf) in live.drain(..) {
            assert!(buf.iter().all(|&b| b == fill));
        }
        heap.stats().pinned == 0
    }
}
