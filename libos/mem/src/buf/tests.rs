use super::*;
use crate::heap::tests::heap;

fn buf(heap: &Heap, bytes: &[u8]) -> Buf {
    heap.copy(bytes).unwrap()
}

#[test]
fn slices_share_the_chunk_and_the_last_one_frees_it() {
    let heap = heap();
    let whole = buf(&heap, b"0123456789");
    let pinned = heap.stats().pinned;
    let (middle, empty) = (whole.slice(3..=6), whole.slice(10..));
    let mut rest = whole.clone();
    let front = rest.split_to(4);
    assert_eq!(heap.stats().pinned, pinned, "no memory was taken");
    assert_eq!(
        (&middle[..], &empty[..], &front[..], &rest[..]),
        (&b"3456"[..], &b""[..], &b"0123"[..], &b"456789"[..])
    );
    drop((whole, middle, front, rest));
    assert_eq!(heap.stats().pinned, pinned, "the empty slice still pins it");
    drop(empty);
    assert_eq!(heap.stats().pinned, 0);
}

#[test]
fn a_buffer_is_writable_again_when_it_is_the_only_one() {
    let heap = heap();
    let mut first = buf(&heap, b"abc");
    first.advance(1);
    let second = first.clone();
    let first = first.try_mut().expect_err("shared");
    drop(second);
    let mut only = first.try_mut().expect("unique");
    only[0] = b'X';
    assert_eq!(only.put(b"tail"), 4, "up to the end of the chunk");
    assert_eq!(&only.freeze()[..], b"Xctail");
}

#[test]
fn a_split_leaves_the_rest_writable() {
    let heap = heap();
    let mut buf = heap.alloc(64).unwrap();
    assert_eq!(buf.put(&[1; 10]), 10);
    let front = buf.split_to(10);
    assert_eq!((buf.len(), buf.capacity()), (0, 54));
    assert_eq!(buf.put(&[2; 60]), 54, "as much as fits");
    assert_eq!(buf.room(), 0);
    assert_eq!(front.iter().chain(&buf[..]).filter(|&&b| b == 1).count(), 10);
    drop(buf);
    assert_eq!(front.try_mut().expect("the other part is gone").capacity(), 64);
}

#[test]
fn keep_copies_little_slices_of_large_chunks_only() {
    let heap = heap();
    let mut large = heap.alloc(16_384).unwrap();
    large.resize(16_384, 7);
    let large = large.freeze();
    let small = large.slice(..64).keep().unwrap();
    assert_eq!((small.pinned(), heap.copied().on(CopyPath::Keep)), (64, 64));
    let most = large.slice(..8192).keep().unwrap();
    assert_eq!((most.pinned(), heap.copied().on(CopyPath::Keep)), (16_384, 64), "half of its chunk is not copied");
    let short = buf(&heap, b"short, but its chunk is as small as a chunk can be");
    assert_eq!(short.clone().keep().unwrap().as_ptr(), short.as_ptr(), "copying would gain nothing");
}

#[test]
fn what_a_device_wrote_is_taken_by_length() {
    let heap = heap();
    let mut buf = heap.alloc(100).unwrap();
    buf.spare()[..5].iter_mut().zip(b"bytes").for_each(|(to, &from)| _ = to.write(from));
    // SAFETY: five bytes were just written.
    unsafe { buf.set_len(5) };
    assert_eq!(&buf[..], b"bytes");
    buf.truncate(2);
    assert_eq!(format!("{buf:?}"), "BufMut(2 B \"by\")");
}

#[test]
#[should_panic(expected = "advance by 4")]
fn beyond_the_end_is_a_bug_of_ours() {
    buf(&heap(), b"abc").advance(4);
}

#[test]
#[cfg(debug_assertions)]
fn freed_memory_is_overwritten_in_debug_builds() {
    let heap = heap();
    let one = buf(&heap, b"secret");
    let at = one.start;
    drop(one);
    // SAFETY: the span is still mapped, and no other buffer exists.
    assert_eq!(unsafe { at.read() }, 0xDB);
}
