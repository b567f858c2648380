//! Batches, medians, and threads in their places.

use std::time::Instant;

use rustix::thread::{CpuSet, sched_getaffinity, sched_setaffinity};

/// The middle one; of none, nothing that is a number.
pub fn median(values: impl IntoIterator<Item = f64>) -> f64 {
    let mut values: Vec<f64> = values.into_iter().collect();
    values.sort_by(f64::total_cmp);
    values.get(values.len() / 2).copied().unwrap_or(f64::NAN)
}

/// The value that a quarter is below: for what needs two processors at once, where on a shared machine most batches may
/// be interrupted.
pub fn lower_quartile(values: impl IntoIterator<Item = f64>) -> f64 {
    let mut values: Vec<f64> = values.into_iter().collect();
    values.sort_by(f64::total_cmp);
    values.get(values.len() / 4).copied().unwrap_or(f64::NAN)
}

/// Nanoseconds of one of `count` things that `run` does, in one batch.
pub fn nanos_each(count: u64, run: impl FnOnce()) -> f64 {
    let start = Instant::now();
    run();
    start.elapsed().as_nanos() as f64 / count as f64
}

/// Nanoseconds of one call: the median of `batches` batches of `count` calls, after as many to warm up as a tenth.
pub fn nanos_per_call(batches: usize, count: u64, mut call: impl FnMut()) -> f64 {
    let mut batch = || nanos_each(count, || (0..count).for_each(|_| call()));
    (0..batches / 10 + 1).for_each(|_| _ = batch());
    median((0..batches).map(|_| batch()))
}

/// Keeps the thread that made it on one processor until it is dropped.
pub struct Pinned(Option<CpuSet>);

impl Pinned {
    /// On the `index`-th of the processors that this process may use; anywhere if there are not as many.
    pub fn to(index: usize) -> Pinned {
        let Ok(before) = sched_getaffinity(None) else { return Pinned(None) };
        let mut allowed = (0..CpuSet::MAX_CPU).filter(|&cpu| before.is_set(cpu));
        let mut one = CpuSet::new();
        match allowed.nth(index) {
            Some(cpu) => one.set(cpu),
            None => return Pinned(None),
        }
        Pinned(sched_setaffinity(None, &one).is_ok().then_some(before))
    }
}

impl Pinned {
    /// On the last of the processors that this process may use.
    pub fn to_last() -> Pinned {
        Pinned::to(std::thread::available_parallelism().map_or(1, usize::from) - 1)
    }
}

impl Drop for Pinned {
    fn drop(&mut self) {
        if let Some(before) = &self.0 {
            let _ = sched_setaffinity(None, before); // it was allowed before
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn medians_are_middles_and_of_nothing_is_none() {
        assert_eq!(median([3.0, 1.0, 2.0]), 2.0);
        assert_eq!(lower_quartile([4.0, 3.0, 1.0, 2.0]), 2.0);
        assert!(median([]).is_nan());
    }

    #[test]
    fn a_batch_is_divided_among_its_calls() {
        let mut calls = 0;
        let nanos = nanos_per_call(10, 5, || calls += 1);
        assert_eq!(calls, (10 + 2) * 5);
        assert!(nanos >= 0.0);
    }

    #[test]
    fn a_thread_is_let_go_again() {
        let before = sched_getaffinity(None).unwrap();
        let pinned = Pinned::to(0);
        assert_eq!(sched_getaffinity(None).unwrap().count(), 1);
        drop(pinned);
        assert_eq!(sched_getaffinity(None).unwrap().count(), before.count());
        drop(Pinned::to(1_000));
        assert_eq!(sched_getaffinity(None).unwrap().count(), before.count());
    }
}
