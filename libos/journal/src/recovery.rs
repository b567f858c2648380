//! Bringing a log to life: where does it end, is anything durable lost, and a new epoch.
//!
//! 1. *Scan*: every record from the mark on is read and checked, up to the first place where no next record is.
//! 2. *Probe*: behind that place each write unit is looked at, as far as anything can have been under way. A record of this
//!    log which says that a later record was durable proves damage: then the log can be read up to there, and not be
//!    appended to. Without such proof this is a torn tail, which nobody was promised, and it is cut.
//! 3. *Raise*: the new epoch, and the end as the new mark, are made durable before anything else is written; so whatever
//!    lies behind the cut is told from what will be written there. The flush makes durable, too, what was read from a
//!    device's cache.

use pdpix::{Error, OpenMode, storage::Damage};

use crate::log::State;
use crate::reader::{Ground, Probe, Read};
use crate::store::Store;
use crate::transfers::Transfer;

impl Store {
    /// A log was opened.
    pub(crate) fn wake_log(&mut self, index: usize, mode: OpenMode) {
        let writes = mode != OpenMode::ReadOnly;
        let log = &mut self.logs[index];
        let becomes_writable = writes && !log.is_writable;
        log.is_writable |= writes;
        match log.state {
            // A new one: there is nothing to be found.
            State::Known if log.descriptor.generation == 0 => self.raise(index),
            State::Known => {
                let descriptor = &log.descriptor;
                let (position, sequence) = (descriptor.mark_position, descriptor.mark_sequence);
                log.locator.go_far(position, sequence, descriptor.mark_epoch);
                log.state = State::Scanning;
                self.go_on(index);
            }
            State::Ready if becomes_writable => self.raise(index),
            _ => {}
        }
    }

    /// What a log's own reader has brought.
    pub(crate) fn go_on(&mut self, index: usize) {
        match self.logs[index].state {
            State::Scanning => self.scan(index),
            State::Probing => self.probe(index),
            State::Ready => self.locate(index),
            State::Known | State::Raising | State::Failed(_) => {}
        }
    }

    fn recovery_ground(&self, index: usize) -> Ground {
        let log = &self.logs[index];
        Ground::new(log.descriptor.log, &self.shared.layout, log.extents_end(&self.shared.layout))
    }

    fn scan(&mut self, index: usize) {
        let ground = self.recovery_ground(index);
        let extent_size = self.shared.layout.extent_size;
        loop {
            let log = &mut self.logs[index];
            match log.locator.step(&ground) {
                Read::Record(found) => log.note_record(found.header.sequence, found.position, extent_size),
                Read::NeedData => return self.fetch_for_log(index, &ground),
                Read::Failed(Error::NoBuffers) => {
                    log.is_starved = true;
                    return;
                }
                Read::Failed(error) => return self.fail_log(index, error),
                Read::End => {
                    let (position, next) = (log.locator.position, log.locator.expected);
                    log.end_at(position, next, &self.shared.layout);
                    return self.on_end_found(index);
                }
                Read::Invalid { position } => {
                    let next = log.locator.expected;
                    log.end_at(position, next, &self.shared.layout);
                    log.state = State::Probing;
                    log.cut_at = position;
                    log.claimed = 0;
                    let from = position.next_multiple_of(ground.unit);
                    log.locator.go_far(from, next, 0);
                    return self.probe(index);
                }
            }
        }
    }

    fn probe(&mut self, index: usize) {
        let log = &mut self.logs[index];
        let window = log.descriptor.window.max(self.shared.layout.extent_size);
        let mut ground = Ground::new(log.descriptor.log, &self.shared.layout, log.extents_end(&self.shared.layout));
        ground.limit = ground.limit.min((log.cut_at + window).next_multiple_of(ground.unit));
        loop {
            let log = &mut self.logs[index];
            match log.locator.probe(&ground) {
                Probe::Claim(committed) => log.claimed = log.claimed.max(committed),
                Probe::NeedData => return self.fetch_for_log(index, &ground),
                Probe::Failed(Error::NoBuffers) => {
                    log.is_starved = true;
                    return;
                }
                Probe::Failed(error) => return self.fail_log(index, error),
                Probe::End => break,
            }
        }
        let log = &mut self.logs[index];
        if log.claimed >= log.next_sequence {
            let offset = log.offset(log.cut_at, &self.shared.layout).unwrap_or(0);
            let lost = log.claimed + 1 - log.next_sequence;
            log.damage = Some(Damage { offset, sequence: log.next_sequence, lost });
        }
        self.on_end_found(index);
    }

    fn on_end_found(&mut self, index: usize) {
        let log = &mut self.logs[index];
        let (sequence, position) = (log.descriptor.first_sequence, log.descriptor.first_position);
        log.locator.go(position, sequence, 0);
        log.locator.rest();
        if log.is_writable && log.damage.is_none() {
            self.raise(index);
        } else {
            self.on_ready(index);
        }
    }

    fn raise(&mut self, index: usize) {
        let log = &mut self.logs[index];
        if log.damage.is_some() {
            return;
        }
        log.state = State::Raising;
        log.raise_epoch();
        self.keep_descriptor(index);
    }

    /// A descriptor of the log is durable, and it waited for that.
    pub(crate) fn on_raised(&mut self, index: usize) {
        // A change that was under way before the epoch was raised does not count.
        if !self.logs[index].is_dirty {
            self.on_ready(index);
        }
    }

    fn on_ready(&mut self, index: usize) {
        let now = self.now;
        let log = &mut self.logs[index];
        log.state = State::Ready;
        log.committed_at = now;
        self.admit_waiting(index);
        self.handles_of(index).into_iter().for_each(|handle| self.serve(handle));
    }

    /// Sends the fetches that a log's own reader wants.
    pub(crate) fn fetch_for_log(&mut self, index: usize, ground: &Ground) {
        while let Some(fetch) = self.logs[index].locator.next_fetch(ground) {
            let offset = self.logs[index].offset(fetch.position, &self.shared.layout);
            match (offset, self.shared.read_memory(fetch.len)) {
                (Some(offset), Some(into)) => {
                    self.io.read(Transfer::Locator { log: index as u32, fetch }, offset, into);
                }
                (None, _) => {
                    self.logs[index].locator.refuse(fetch, Error::Corrupt);
                    return self.fail_log(index, Error::Corrupt);
                }
                (_, None) => {
                    self.logs[index].locator.refuse(fetch, Error::NoBuffers);
                    self.logs[index].is_starved = true;
                }
            }
        }
    }
}
