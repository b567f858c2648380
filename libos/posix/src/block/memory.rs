//! Memory as a block device: it forgets when the process ends. For tests, and to measure what is above a device.

use std::cell::RefCell;
use std::collections::VecDeque;
use std::rc::Rc;

use pdpix::block::{BlockDone, BlockOp, Geometry};
use pdpix::{BlockDevice, Error, Instant, OpId, Wake, WakeOn};

use super::threaded::refusal;

const BLOCK_SIZE: u32 = 512;
/// Operations whose end was not taken.
const DEPTH: usize = 1024;

/// What is on a disk of memory. Clones are the same disk: one device after the other may be opened over it.
#[derive(Clone, Debug)]
pub struct MemoryDisk(Rc<RefCell<Vec<u8>>>);

impl MemoryDisk {
    /// Zeros, of so many bytes, cut to whole blocks.
    pub fn new(size: usize) -> MemoryDisk {
        MemoryDisk::from(vec![0; size])
    }

    /// The device over it.
    pub fn device(&self) -> MemoryBlock {
        let size = self.0.borrow().len();
        let geometry = Geometry {
            block_size: BLOCK_SIZE,
            block_count: size as u64 / u64::from(BLOCK_SIZE),
            write_unit: 1,
            transfer_max: 2048,
            align: 1,
            gathers: u16::MAX,
            volatile_cache: false,
            forces: false,
            discards: true,
        };
        MemoryBlock { disk: self.clone(), geometry, ended: VecDeque::new() }
    }

    /// A copy of what is on it.
    pub fn image(&self) -> Vec<u8> {
        self.0.borrow().clone()
    }
}

impl From<Vec<u8>> for MemoryDisk {
    fn from(image: Vec<u8>) -> MemoryDisk {
        MemoryDisk(Rc::new(RefCell::new(image)))
    }
}

/// A device over a [`MemoryDisk`]. Everything is done when it is submitted; a flush is nothing.
#[derive(Debug)]
pub struct MemoryBlock {
    disk: MemoryDisk,
    geometry: Geometry,
    ended: VecDeque<BlockDone>,
}

impl BlockDevice for MemoryBlock {
    fn geometry(&self) -> Geometry {
        self.geometry
    }

    fn submit(&mut self, op: OpId, what: BlockOp) -> Result<(), (Error, BlockOp)> {
        if let Err(error) = refusal(&self.geometry, false, &what) {
            return Err((error, what));
        }
        if self.ended.len() >= DEPTH {
            return Err((Error::NoBuffers, what));
        }
        let bytes = &mut *self.disk.0.borrow_mut();
        let at = |lba: u64| lba as usize * BLOCK_SIZE as usize;
        let mut read = None;
        match what {
            BlockOp::Read { lba, mut into } => {
                let len = into.capacity();
                into.put(&bytes[at(lba)..][..len]);
                read = Some(into);
            }
            BlockOp::Write { lba, from, .. } => {
                let len = from.len();
                from.copy_to(0, &mut bytes[at(lba)..][..len]);
            }
            BlockOp::Flush => {}
            BlockOp::Discard { lba, block_count } => bytes[at(lba)..at(lba + block_count)].fill(0),
        }
        self.ended.push_back(BlockDone { op, result: Ok(()), read });
        Ok(())
    }

    fn poll(&mut self, _: Instant, room: usize, done: &mut Vec<BlockDone>) {
        let count = room.min(self.ended.len());
        done.extend(self.ended.drain(..count));
    }

    fn flush_submissions(&mut self, _: Instant) {}

    fn arm(&mut self, _: Instant) -> Wake {
        Wake { deadline: None, on: if self.ended.is_empty() { WakeOn::Nothing } else { WakeOn::Now } }
    }
}
