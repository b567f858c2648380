//! From core to core: a message through the rings, beside what the cache lines alone take.

use std::cell::Cell;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;

use libos_runtime::{Core, IdlePolicy, MeshKind, mesh};

use crate::local::{core, reservation};
use crate::sampling::{Pinned, lower_quartile, nanos_each};

/// Round trips in a batch, and batches of a sample.
const TRIPS: u64 = 100;
const BATCHES: usize = 20;
const SAMPLES: usize = 20;

/// The value that ends the other core.
const END: u64 = u64::MAX;

#[derive(Default)]
#[repr(align(128))]
struct Line(AtomicU64);

/// Nanoseconds of one hop between two cores, and of half a round trip of two cache lines. `None`: there is one processor.
///
/// The other thread does both: it answers the lines while its core rests, so both are measured in turn in the same places.
pub fn hop() -> Option<(f64, f64)> {
    if thread::available_parallelism().map_or(1, usize::from) < 2 {
        return None;
    }
    let reservation = reservation(2);
    let mut ports = mesh(2, MeshKind::Threads).ok()?;
    let (theirs, ours) = (ports.pop()?, ports.pop()?);
    let lines = Arc::new([Line::default(), Line::default()]);
    let (other_lines, other_memory) = (lines.clone(), reservation.clone());
    let other = thread::spawn(move || {
        let _pinned = Pinned::to(1);
        answer(&core(other_memory.heap(1).expect("the second"), theirs, IdlePolicy::Spin), &other_lines);
    });
    let _pinned = Pinned::to(0);
    let core = core(reservation.heap(0)?, ours, IdlePolicy::Spin);
    let came = Rc::new(Cell::new(0));
    let sees = came.clone();
    core.libos().on_core_message(Box::new(move |_, parcel| sees.set(parcel.take::<u64>().unwrap_or_default())));
    let trip = |value: u64| {
        core.libos().send_core(1, value).expect("one at a time fits");
        while came.get() != value {
            core.step();
        }
    };
    let (mut hops, mut halves, mut value) = (Vec::new(), Vec::new(), 0);
    for _ in 0..SAMPLES {
        for _ in 0..BATCHES {
            let first = value + 1;
            value += TRIPS;
            hops.push(nanos_each(TRIPS, || (first..=value).for_each(trip)) / 2.0);
        }
        // Zero: it looks at the lines now, until they say so, too.
        core.libos().send_core(1, 0u64).expect("one at a time fits");
        core.step();
        for _ in 0..BATCHES {
            let first = value + 1;
            value += TRIPS;
            halves.push(nanos_each(TRIPS, || (first..=value).for_each(|value| bounce(&lines, value))) / 2.0);
        }
        bounce(&lines, END);
        lines[1].0.store(0, Ordering::Release);
        trip(value + 1);
        value += 1;
    }
    core.libos().send_core(1, END).expect("one at a time fits");
    while !other.is_finished() {
        core.step();
    }
    other.join().ok()?;
    Some((lower_quartile(hops), lower_quartile(halves)))
}

fn bounce(lines: &[Line; 2], value: u64) {
    lines[0].0.store(value, Ordering::Release);
    while lines[1].0.load(Ordering::Acquire) != value {
        std::hint::spin_loop();
    }
}

/// Sends back what comes, until the end.
fn answer(core: &Core, lines: &[Line; 2]) {
    let (libos, told) = (core.libos().clone(), Rc::new(Cell::new(None)));
    let tells = told.clone();
    core.libos().on_core_message(Box::new(move |from, parcel| match parcel.take::<u64>() {
        Ok(what @ (0 | END)) => tells.set(Some(what)),
        Ok(value) => libos.send_core(from, value).expect("one at a time fits"),
        Err(_) => {}
    }));
    while told.get() != Some(END) {
        core.step();
        if told.get() == Some(0) {
            told.set(None);
            answer_lines(lines);
        }
    }
}

fn answer_lines(lines: &[Line; 2]) {
    let mut last = 0;
    while last != END {
        let value = lines[0].0.load(Ordering::Acquire);
        if value != last && value != 0 {
            lines[1].0.store(value, Ordering::Release);
            last = value;
        }
        std::hint::spin_loop();
    }
    lines[0].0.store(0, Ordering::Release);
}

#[cfg(test)]
mod tests {
    #[test]
    fn a_hop_takes_longer_than_nothing() {
        if let Some((hop, half)) = super::hop() {
            assert!(hop > 0.0 && half > 0.0, "{hop} {half}");
        }
    }
}
