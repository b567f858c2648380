//! Copying or referring? Both, at many sizes: for a push into a kernel socket, for a frame in memory, for `keep`, and for
//! the way to another core. The size from which on referring is cheaper is what the thresholds in `libos/mem/src/copied.rs`
//! and `libos/runtime/src/carried.rs` follow.

use std::cell::Cell;
use std::hint::black_box;
use std::io::{IoSlice, Read, Write};
use std::os::unix::net::UnixStream;
use std::rc::Rc;
use std::thread;

use anyhow::{Context, Result};
use libos_mem::{Buf, Heap, Loan, Reservation};
use libos_runtime::{CARRIED_INLINE_MAX, CarriedBuf, Core, IdlePolicy, MeshKind, Ports, mesh};
use margay_bench::local::{core, reservation};
use margay_bench::sampling::{Pinned, lower_quartile, median, nanos_each};

use crate::{result, skip};

const SIZES: [usize; 10] = [64, 128, 256, 512, 1 << 10, 2 << 10, 4 << 10, 8 << 10, 16 << 10, 32 << 10];
const BATCHES: usize = 60;

/// A size, and nanoseconds of both.
struct Pair {
    size: usize,
    copy: f64,
    refer: f64,
}

pub fn run() -> Result<()> {
    let heap = reservation(1).heap(0).context("a heap")?;
    tell("push", &push(&heap)?);
    tell("frame", &frame(&heap)?);
    keep(&heap)?;
    if thread::available_parallelism()?.get() < 2 {
        skip("threshold_cross_core", "there is one processor");
        return Ok(());
    }
    tell("cross_core", &cross_core()?);
    Ok(())
}

fn tell(name: &str, pairs: &[Pair]) {
    for Pair { size, copy, refer } in pairs {
        result(&format!("threshold_{name}_copy_{size}"), *copy, "ns");
        result(&format!("threshold_{name}_refer_{size}"), *refer, "ns");
    }
    // The largest at which copying is still cheaper.
    let last = pairs.iter().take_while(|pair| pair.copy <= pair.refer).last();
    result(&format!("threshold_{name}"), last.map_or(0.0, |pair| pair.size as f64), "B");
}

/// Runs both in turn, batch by batch.
fn compare(size: usize, count: u64, mut copy: impl FnMut(), mut refer: impl FnMut()) -> Pair {
    let (mut copies, mut refers) = (Vec::new(), Vec::new());
    for _ in 0..BATCHES {
        copies.push(nanos_each(count, || (0..count).for_each(|_| copy())));
        refers.push(nanos_each(count, || (0..count).for_each(|_| refer())));
    }
    Pair { size, copy: median(copies), refer: median(refers) }
}

/// A head and a payload into a kernel socket: as one piece that both are copied to, or as two.
fn push(heap: &Heap) -> Result<Vec<Pair>> {
    const HEAD: [u8; 16] = [1; 16];
    let (mut ours, theirs) = UnixStream::pair()?;
    let mut sink = vec![0; 64 << 10];
    let mut pairs = Vec::new();
    for size in SIZES {
        let (payload, head) = (heap.copy(&vec![7; size])?, heap.copy(&HEAD)?);
        let mut written = theirs.try_clone()?;
        let whole = size + HEAD.len();
        // Failures are kept: a closure that is measured returns nothing.
        let failed = Cell::new(false);
        let drain = |ours: &mut UnixStream, sink: &mut [u8]| failed.set(failed.get() | ours.read_exact(sink).is_err());
        let mut copier = (ours.try_clone()?, sink.clone());
        let copy = || {
            let Ok(mut piece) = heap.alloc(whole) else { return failed.set(true) };
            piece.put(&HEAD);
            piece.put(&payload);
            let piece = piece.freeze();
            failed.set(failed.get() | written.write(&piece).ok().is_none_or(|count| count != whole));
            drain(&mut copier.0, &mut copier.1[..whole]);
        };
        let mut written = theirs.try_clone()?;
        let refer = || {
            let (head, payload) = (head.clone(), payload.clone());
            let pieces = [IoSlice::new(&head), IoSlice::new(&payload)];
            failed.set(failed.get() | written.write_vectored(&pieces).ok().is_none_or(|count| count != whole));
            drain(&mut ours, &mut sink[..whole]);
        };
        pairs.push(compare(size, 100, copy, refer));
        anyhow::ensure!(!failed.get(), "a socket of this process failed");
    }
    Ok(pairs)
}

/// A payload for a frame that lies in memory: copied behind its head, or counted.
fn frame(heap: &Heap) -> Result<Vec<Pair>> {
    let mut frame = heap.alloc(64 << 10)?;
    SIZES
        .iter()
        .map(|&size| {
            let payload = heap.copy(&vec![7; size])?;
            let copy = || {
                frame.truncate(0);
                frame.put(black_box(&payload));
                black_box(&frame);
            };
            let refer = || drop(black_box(black_box(&payload).clone()));
            Ok(compare(size, 500, copy, refer))
        })
        .collect()
}

/// What a copy to keep costs by its size. A reference is always cheaper for the processor; it is dear in memory. Up to the
/// size told a copy costs at most twice what the smallest does.
fn keep(heap: &Heap) -> Result<()> {
    let mut costs = Vec::new();
    for size in SIZES {
        let payload = heap.copy(&vec![7; size])?;
        let copy = || drop(black_box(heap.copy(black_box(&payload))));
        let refer = || drop(black_box(black_box(&payload).clone()));
        let pair = compare(size, 500, copy, refer);
        result(&format!("threshold_keep_copy_{size}"), pair.copy, "ns");
        result(&format!("threshold_keep_refer_{size}"), pair.refer, "ns");
        costs.push(pair);
    }
    let cheap = costs.iter().take_while(|pair| pair.copy <= costs[0].copy * 2.0).last();
    result("threshold_keep", cheap.map_or(0.0, |pair| pair.size as f64), "B");
    Ok(())
}

const CROSS_SIZES: [usize; 10] = [16, 64, CARRIED_INLINE_MAX, 128, 256, 512, 1 << 10, 2 << 10, 4 << 10, 16 << 10];
const CROSS_BATCHES: usize = 200;
/// Messages of a batch: fewer than fit under way, so that nobody waits for room; and bytes, so that a batch is over before
/// it is interrupted.
const MESSAGES_MAX: u64 = 200;
const BATCH_BYTES: u64 = 128 << 10;
const END: u64 = u64::MAX;

/// A payload that is made on one core and read on another: by value (in the message, or in a box where it does not fit),
/// or lent.
fn cross_core() -> Result<Vec<Pair>> {
    let reservation = reservation(2);
    let mut ports = mesh(2, MeshKind::Threads)?;
    let (theirs, ours) = (ports.pop().context("ports")?, ports.pop().context("ports")?);
    let memory = reservation.clone();
    let other = thread::spawn(move || {
        let _pinned = Pinned::to(1);
        read_all(&memory, theirs);
    });
    let _pinned = Pinned::to(0);
    let core = core(reservation.heap(0).context("a heap")?, ours, IdlePolicy::Spin);
    let acknowledged = Rc::new(Cell::new(0));
    let sees = acknowledged.clone();
    core.libos().on_core_message(Box::new(move |_, parcel| sees.set(parcel.take::<u64>().unwrap_or_default())));
    let mut mark = 0;
    let mut pairs = Vec::new();
    for size in CROSS_SIZES {
        let messages = (BATCH_BYTES / size as u64).clamp(8, MESSAGES_MAX);
        let mut batch = |send: &dyn Fn(&Core, Buf) -> bool| {
            mark += 1;
            nanos_each(messages, || {
                for index in 0..messages {
                    while !send(&core, payload(&core, size, index as u8)) {
                        core.step();
                    }
                }
                send_until_taken(&core, mark);
                while acknowledged.get() != mark {
                    core.step();
                }
            })
        };
        let (mut copies, mut refers) = (Vec::new(), Vec::new());
        for _ in 0..CROSS_BATCHES {
            copies.push(batch(&by_value));
            refers.push(batch(&by_loan));
        }
        pairs.push(Pair { size, copy: lower_quartile(copies), refer: lower_quartile(refers) });
    }
    send_until_taken(&core, END);
    while !other.is_finished() {
        core.step();
    }
    core.libos().heap().exchange_returns();
    anyhow::ensure!(other.join().is_ok(), "the other core panicked");
    Ok(pairs)
}

fn payload(core: &Core, size: usize, byte: u8) -> Buf {
    loop {
        if let Ok(mut bytes) = core.libos().heap().alloc(size) {
            bytes.resize(size, byte);
            return bytes.freeze();
        }
        core.step(); // what was lent comes home
    }
}

fn by_value(core: &Core, buf: Buf) -> bool {
    if buf.len() > CARRIED_INLINE_MAX {
        return core.libos().send_core::<Box<[u8]>>(1, (*buf).into()).is_ok();
    }
    CarriedBuf::new(buf).is_ok_and(|carried| core.libos().send_core(1, carried).is_ok())
}

fn by_loan(core: &Core, buf: Buf) -> bool {
    buf.lend().is_ok_and(|loan| core.libos().send_core(1, loan).is_ok())
}

fn send_until_taken(core: &Core, mark: u64) {
    while core.libos().send_core(1, mark).is_err() {
        core.step();
    }
}

/// The other core: takes every payload into its own heap, reads all of it, and says when a mark comes.
fn read_all(memory: &Reservation, ports: Ports) {
    let core = core(memory.heap(1).expect("the second"), ports, IdlePolicy::Spin);
    let (libos, ended) = (core.libos().clone(), Rc::new(Cell::new(false)));
    let ends = ended.clone();
    let read = |bytes: &[u8]| _ = black_box(bytes.iter().map(|&byte| u64::from(byte)).sum::<u64>());
    core.libos().on_core_message(Box::new(move |from, parcel| {
        let parcel = match parcel.take::<Loan>() {
            Ok(loan) => return read(&loan.accept(libos.heap())),
            Err(parcel) => parcel,
        };
        let parcel = match parcel.take::<CarriedBuf>() {
            Ok(carried) => return carried.land(libos.heap()).iter().for_each(|buf| read(buf)),
            Err(parcel) => parcel,
        };
        let parcel = match parcel.take::<Box<[u8]>>() {
            Ok(bytes) => return libos.heap().copy(&bytes).iter().for_each(|buf| read(buf)),
            Err(parcel) => parcel,
        };
        match parcel.take::<u64>() {
            Ok(END) => ends.set(true),
            Ok(mark) => libos.answer_core(from, mark),
            Err(_) => {}
        }
    }));
    while !ended.get() {
        core.step();
    }
    // What it borrowed goes home before its heap does.
    core.libos().heap().exchange_returns();
}
