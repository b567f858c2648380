//! What goes to the device at the end of a pass, and how it becomes durable: one flush for all that waits, or a forced write
//! where there is nothing that could share one.

use crate::log::{Log, Outgoing, State};
use crate::store::Store;
use crate::transfers::Transfer;

/// So many flushes may begin while a batch is open.
const PASSED_OVER_MAX: u32 = 2;
/// So many forced writes may be under way, and bytes in them. Kernels lay the flushes behind them together; of more bytes, one
/// flush for all is faster.
const FORCED_MAX: usize = 4;
const FORCED_BYTES_MAX: u64 = 64 << 10;

impl Store {
    /// What was written is to be flushed, unless its log is patient: then when that is over, or when it is much.
    fn look_for_flush(&mut self) {
        let (submitted, now) = (self.io.flushes_submitted, self.now);
        let is_due = |log: &Log| log.flush_is_due_at(submitted).is_some_and(|at| at <= now);
        let much = self.shared.settings.budget as u64 / 2;
        self.io.flush_wanted |= self.io.needs_flush && self.io.uncovered >= much || self.logs.iter().any(is_due);
    }

    /// Whether a page may be forced now, and so need not wait: nothing waits for a flush but descriptors, and few others are
    /// forced at the moment.
    fn forces(&self) -> bool {
        let batches = || self.logs.iter().flat_map(|log| &log.batches);
        let bytes = |log: &Log| if log.batches.is_empty() { 0 } else { log.tail - log.committed_position };
        self.io.forces
            && self.io.uncovered == 0
            && batches().all(|batch| batch.forced)
            && batches().count() < FORCED_MAX
            && self.logs.iter().map(bytes).sum::<u64>() < FORCED_BYTES_MAX
    }

    /// Whether it is one write that somebody waits for, and nothing else: a flush behind it would be for it alone.
    fn forces_what_goes_out(&self) -> bool {
        let count: usize = self.logs.iter().map(|log| log.outbox.len()).sum();
        let waits = |log: &Log| !log.outbox.is_empty() && log.patience_left().is_zero();
        count == 1 && !self.is_crowded && self.logs.iter().any(waits)
    }

    /// Sends what is to be sent, at the end of a pass.
    pub(crate) fn write_out(&mut self) {
        self.look_for_flush();
        let is_clear = self.forces();
        let is_committing = self.io.is_committing() && !is_clear;
        let delay = self.shared.settings.commit_delay;
        for index in 0..self.logs.len() {
            let log = &mut self.logs[index];
            if log.state != State::Ready {
                continue;
            }
            // What comes while a commit is under way shares the next one; beside a log that always has more to commit, one of
            // the next.
            if let Some(opened) = log.opened_at
                && (!is_committing || log.passed_over >= PASSED_OVER_MAX)
                && self.now >= opened + delay.max(log.patience_left())
            {
                log.close(None, &mut self.shared);
            }
        }
        let forced = is_clear && self.forces_what_goes_out();
        // Pages that are full while another commit is under way: who comes so thick shares flushes.
        self.is_crowded = is_committing && self.logs.iter().any(|log| !log.outbox.is_empty())
            || self.is_crowded && (is_committing || self.logs.iter().all(|log| log.outbox.is_empty()));
        for index in 0..self.logs.len() {
            if self.logs[index].state != State::Ready {
                self.look_for_failure(index);
                continue;
            }
            if forced && !self.logs[index].outbox.is_empty() {
                self.shared.counters.forced += 1;
                // It was closed just now.
                self.logs[index].batches.back_mut().expect("what goes out is a batch").forced = true;
            }
            let patient = !self.logs[index].patience_left().is_zero();
            while let Some(Outgoing { batch, offset, sga }) = self.logs[index].outbox.pop_front() {
                let len = sga.len() as u64;
                self.io.write(Transfer::Batch { log: index as u32, batch, len, forced, patient }, offset, sga);
            }
            self.keep_descriptor(index);
            self.look_for_failure(index);
        }
        self.prepare();
        if self.io.flush_if_due() {
            self.logs.iter_mut().filter(|log| log.opened_at.is_some()).for_each(|log| log.passed_over += 1);
        }
    }
}
