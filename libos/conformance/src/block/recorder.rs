//! A device in memory that knows what a power cut may leave of it: [`Medium`] behind the contract of block devices.
//!
//! Operations end in any order. So a log that acknowledges what it has not flushed is found out, as is one that takes the
//! order of writes for granted, or takes a write for indivisible.

use std::cell::RefCell;
use std::collections::VecDeque;
use std::rc::Rc;

use pdpix::block::{BlockDone, BlockOp, Geometry};
use pdpix::{BlockDevice, Error, Instant, OpId, Sga, Wake, WakeOn};

use super::medium::{Content, Medium, SECTOR};

const DEPTH: usize = 256;

/// What kind of disk.
#[derive(Clone, Copy, Debug)]
pub struct RecorderSettings {
    /// Its size in bytes.
    pub size: usize,
    /// Its chance: the order in which operations end, and what a cut leaves.
    pub seed: u64,
    /// The power goes when so many operations have been submitted. From then on none ends.
    pub cut_after: Option<u64>,
    /// A write may be forced.
    pub forces: bool,
    /// A disk that lies: it says that it flushed, or forced a write, and did not. For tests of tests.
    pub ignores_flush: bool,
}

/// A disk. Clones are the same one.
#[derive(Clone, Debug)]
pub struct Recorder(Rc<RefCell<State>>);

#[derive(Debug)]
struct State {
    settings: RecorderSettings,
    medium: Medium,
    submitted: u64,
}

impl Recorder {
    /// A disk of zeros.
    pub fn new(settings: RecorderSettings) -> Recorder {
        Recorder::over(vec![0; settings.size], settings)
    }

    /// A disk with something on it: what a cut left.
    pub fn over(image: Vec<u8>, settings: RecorderSettings) -> Recorder {
        let mut medium = Medium::new(image, settings.seed);
        medium.ignore_flushes(settings.ignores_flush);
        let state = State { settings, medium, submitted: 0 };
        Recorder(Rc::new(RefCell::new(state)))
    }

    /// The device over it.
    pub fn device(&self) -> Box<dyn BlockDevice> {
        Box::new(Device { disk: self.clone(), pending: VecDeque::new() })
    }

    /// Whether the power is gone.
    pub fn is_cut(&self) -> bool {
        self.0.borrow().is_cut()
    }

    /// Operations submitted so far, and flushes among them that were done.
    pub fn counts(&self) -> (u64, u64) {
        let state = self.0.borrow();
        (state.submitted, state.medium.flushes())
    }

    /// What may be found after the power went now: another draw each time.
    pub fn cut(&self) -> Vec<u8> {
        self.0.borrow_mut().medium.cut()
    }

    /// What reads see: what is found when the process ends and the machine goes on.
    pub fn seen(&self) -> Vec<u8> {
        self.0.borrow().medium.seen()
    }
}

impl State {
    fn is_cut(&self) -> bool {
        self.settings.cut_after.is_some_and(|count| self.submitted >= count)
    }
}

struct Device {
    disk: Recorder,
    pending: VecDeque<Pending>,
}

struct Pending {
    /// Of a write: its number on the medium.
    number: u64,
    op: OpId,
    what: BlockOp,
    /// Of a flush: the writes that had ended when it was submitted.
    covered: Vec<u64>,
}

const BLOCK_SIZE: u32 = SECTOR as u32;

impl BlockDevice for Device {
    fn geometry(&self) -> Geometry {
        Geometry {
            block_size: BLOCK_SIZE,
            block_count: (self.disk.0.borrow().medium.size() / SECTOR) as u64,
            write_unit: 1,
            transfer_max: 2048,
            align: 1,
            gathers: 64,
            volatile_cache: true,
            forces: self.disk.0.borrow().settings.forces,
            discards: false,
        }
    }

    fn submit(&mut self, op: OpId, what: BlockOp) -> Result<(), (Error, BlockOp)> {
        if let Err(error) = self.geometry().check(&what) {
            return Err((error, what));
        }
        if matches!(what, BlockOp::Discard { .. }) {
            return Err((Error::NotSupported, what));
        }
        if self.pending.len() >= DEPTH {
            return Err((Error::NoBuffers, what));
        }
        let state = &mut *self.disk.0.borrow_mut();
        if state.is_cut() {
            // The machine has no power: nothing reaches the disk, and nobody learns of it.
            self.pending.push_back(Pending { number: u64::MAX, op, what, covered: Vec::new() });
            return Ok(());
        }
        state.submitted += 1;
        let number = match &what {
            BlockOp::Write { lba, from, .. } => state.medium.begin_write(*lba as usize * SECTOR, bytes(from)),
            _ => 0,
        };
        let covered = if matches!(what, BlockOp::Flush) { state.medium.ended() } else { Vec::new() };
        self.pending.push_back(Pending { number, op, what, covered });
        Ok(())
    }

    fn poll(&mut self, _: Instant, room: usize, done: &mut Vec<BlockDone>) {
        let state = &mut *self.disk.0.borrow_mut();
        if state.is_cut() {
            return;
        }
        // Some of them, in any order.
        let count =
            if self.pending.is_empty() { 0 } else { 1 + state.medium.rng().below(self.pending.len() as u64) as usize };
        for _ in 0..count.min(room) {
            let place = state.medium.rng().below(self.pending.len() as u64) as usize;
            let Some(pending) = self.pending.remove(place) else { break };
            let mut read = None;
            match pending.what {
                BlockOp::Read { lba, mut into } => {
                    let mut bytes = vec![0; into.capacity()];
                    state.medium.read(lba as usize * SECTOR, &mut bytes);
                    into.put(&bytes);
                    read = Some(into);
                }
                BlockOp::Write { forced: true, .. } => state.medium.end_forced_write(pending.number),
                BlockOp::Write { .. } => state.medium.end_write(pending.number),
                BlockOp::Flush => state.medium.flush(&pending.covered),
                BlockOp::Discard { .. } => {}
            }
            done.push(BlockDone { op: pending.op, result: Ok(()), read });
        }
    }

    fn flush_submissions(&mut self, _: Instant) {}

    fn arm(&mut self, _: Instant) -> Wake {
        let some = !self.pending.is_empty() && !self.disk.is_cut();
        Wake { deadline: None, on: if some { WakeOn::Now } else { WakeOn::Nothing } }
    }
}

fn bytes(from: &Sga) -> Content {
    let mut bytes = vec![0; from.len()];
    from.copy_to(0, &mut bytes);
    Content::Bytes(bytes)
}

impl Drop for Device {
    /// What was submitted is done, unless the power is gone.
    fn drop(&mut self) {
        let state = &mut *self.disk.0.borrow_mut();
        if !state.is_cut() {
            for pending in self.pending.drain(..) {
                if matches!(pending.what, BlockOp::Write { .. }) {
                    state.medium.end_write(pending.number);
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use libos_mem::Heap;

    use super::*;
    use crate::block::{Bench, BlockSubject};
    use crate::{Pattern, block_suite};

    const SETTINGS: RecorderSettings =
        RecorderSettings { size: 8 << 20, seed: 7, cut_after: None, forces: true, ignores_flush: false };

    fn subject(disk: &Recorder) -> BlockSubject {
        let disk = disk.clone();
        BlockSubject::new(Heap::alone(32 << 20).unwrap(), move |_| disk.device())
    }

    block_suite!(recorder, || Ok(subject(&Recorder::new(SETTINGS))));

    fn has(image: &[u8], version: u64, lba: usize) -> bool {
        Pattern::of(version).check((lba * SECTOR) as u64, &image[lba * SECTOR..(lba + 1) * SECTOR]).is_ok()
    }

    /// Version 1 flushed, version 2 only written, over the same 64 blocks in writes of 8.
    fn two_versions(disk: &Recorder) {
        let mut bench = Bench::new(subject(disk));
        for version in 1..=2 {
            for lba in (0..64).step_by(8) {
                let from = bench.blocks(Pattern::of(version), lba, 8);
                bench.do_it(BlockOp::Write { lba, from, forced: false });
            }
            if version == 1 {
                bench.do_it(BlockOp::Flush);
            }
        }
    }

    #[test]
    fn a_cut_keeps_what_was_flushed_and_a_part_of_the_rest() {
        let disk = Recorder::new(SETTINGS);
        two_versions(&disk);
        let (mut torn, mut old, mut new) = (0, 0, 0);
        for _ in 0..50 {
            let image = disk.cut();
            for write in 0..8 {
                let kept = (0..8).filter(|i| has(&image, 2, write * 8 + i)).count();
                assert!((0..8).all(|i| has(&image, 1, write * 8 + i) || has(&image, 2, write * 8 + i)));
                match kept {
                    0 => old += 1,
                    8 => new += 1,
                    _ => torn += 1,
                }
            }
        }
        assert!(torn > 40 && old > 40 && new > 40, "{torn} torn, {old} lost, {new} kept of 400");
    }

    #[test]
    fn a_disk_that_ignores_flushes_loses_what_was_flushed() {
        let disk = Recorder::new(RecorderSettings { ignores_flush: true, ..SETTINGS });
        two_versions(&disk);
        let lost =
            (0..50).any(|_| (0..64).any(|lba| disk.cut()[lba * SECTOR..][..SECTOR].iter().all(|byte| *byte == 0)));
        assert!(lost, "nothing was lost in 50 cuts");
    }

    #[test]
    fn nothing_ends_after_the_cut() {
        let disk = Recorder::new(RecorderSettings { cut_after: Some(3), ..SETTINGS });
        let mut bench = Bench::new(subject(&disk));
        for lba in 0..2 {
            let from = bench.blocks(Pattern::of(1), lba, 1);
            bench.do_it(BlockOp::Write { lba, from, forced: false });
        }
        let from = bench.blocks(Pattern::of(1), 2, 1);
        bench.begin(BlockOp::Write { lba: 2, from, forced: false });
        assert!(disk.is_cut());
        assert_eq!(bench.poll(8), 0);
    }
}
