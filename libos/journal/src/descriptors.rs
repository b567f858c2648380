//! Changing a log's descriptor: the copy that is not known to be right, a flush, the other copy, a flush; then what depends on
//! the change is done.

use pdpix::{BlockOp, Outcome, Sga};

use crate::log::{Log, Shared, Stage, State, Update};
use crate::store::Store;
use crate::transfers::Transfer;

impl Store {
    /// Begins to write a log's descriptor, if it has changed and is not being written.
    pub(crate) fn keep_descriptor(&mut self, index: usize) {
        let log = &mut self.logs[index];
        if !log.is_dirty || log.update.is_some() || matches!(log.state, State::Failed(_)) {
            return;
        }
        log.begin_update(&self.shared);
        self.go_on_with_update(index);
    }

    /// The next step of the change of a log's descriptor.
    pub(crate) fn go_on_with_update(&mut self, index: usize) {
        loop {
            let log = &mut self.logs[index];
            let Some(update) = &mut log.update else { return };
            match update.stage {
                Stage::Writing => return,
                Stage::ToWrite => {
                    // The right copy is the last to be written.
                    let copy = if update.copies == 0 { 1 - log.good_copy } else { log.good_copy };
                    let offset = self.shared.layout.descriptor(update.descriptor.slot, copy);
                    let align = self.shared.align.max(512);
                    let Ok(mut page) = self.shared.heap.alloc_aligned(update.bytes.len(), align) else {
                        return; // it stays to be written: `Log::wants_memory`
                    };
                    page.put(&update.bytes);
                    update.stage = Stage::Writing;
                    self.shared.counters.descriptors += 1;
                    self.io.write(Transfer::Descriptor { log: index as u32 }, offset, Sga::from(page.freeze()));
                    return;
                }
                Stage::ToFlush(covered_by) if covered_by > self.io.flushes_done() => return,
                Stage::ToFlush(_) => {
                    update.copies += 1;
                    update.stage = Stage::ToWrite;
                    if update.copies == 2 {
                        self.on_persisted(index);
                        self.keep_descriptor_later(index);
                        return;
                    }
                }
            }
        }
    }

    /// A second change may have come meanwhile.
    fn keep_descriptor_later(&mut self, index: usize) {
        let log = &mut self.logs[index];
        if log.is_dirty && log.update.is_none() && !matches!(log.state, State::Failed(_)) {
            log.begin_update(&self.shared);
            // Written by the next pass's `write_out`, which finds it to be written.
            self.go_on_with_update(index);
        }
    }

    /// The descriptor is durable, in both copies.
    fn on_persisted(&mut self, index: usize) {
        let log = &mut self.logs[index];
        let Some(update) = log.update.take() else { return };
        log.on_persisted(&update.descriptor, &self.shared.layout);
        for extent in update.freed {
            self.free(extent);
        }
        for (op, handle, sequence) in update.truncated {
            self.end(op, handle, Ok(Outcome::Truncated { sequence }));
        }
        if self.logs[index].state == State::Raising {
            self.on_raised(index);
        }
        self.place_waiting(index);
    }

    fn free(&mut self, extent: u32) {
        if !self.io.discards {
            return self.shared.pool.push_back(extent);
        }
        self.shared.counters.discards += 1;
        let lba = self.shared.layout.extent(extent) / self.io.block_size;
        let block_count = self.shared.layout.extent_size / self.io.block_size;
        self.io.submit(Transfer::Discard { extent }, BlockOp::Discard { lba, block_count });
    }
}

impl Log {
    /// What is to be on the device is put together, and belongs to the change from now on.
    pub(crate) fn begin_update(&mut self, shared: &Shared) {
        self.descriptor.generation += 1;
        let settings = &shared.settings;
        let window = (settings.budget + settings.write_max) as u64 + 2 * shared.layout.extent_size;
        self.descriptor.window = self.descriptor.window.max(window);
        assert!(
            self.descriptor.makes_sense(&shared.layout),
            "a descriptor that nobody would read: {:?}",
            self.descriptor
        );
        self.is_dirty = false;
        self.update = Some(Update {
            descriptor: self.descriptor.clone(),
            bytes: self.descriptor.encode(&shared.layout),
            copies: 0,
            stage: Stage::ToWrite,
            freed: std::mem::take(&mut self.freeing),
            truncated: std::mem::take(&mut self.truncating),
        });
    }
}
