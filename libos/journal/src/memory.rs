//! A block device in memory: for tests, and for logs that need not outlive the process.
//!
//! What is written is there at once, and durable as far as memory is: it has no volatile cache. Its contents can be held
//! beside it ([`MemoryDevice::contents`]), to be given to the next device, as a disk is to the next process.

use std::cell::{Ref, RefCell};
use std::collections::VecDeque;
use std::rc::Rc;

use pdpix::{BlockDevice, BlockDone, BlockOp, Error, Geometry, Instant, OpId, Wake, WakeOn};

/// The bytes of a device. Clones are the same.
#[derive(Clone, Debug)]
pub struct Contents(Rc<RefCell<Vec<u8>>>);

impl Contents {
    /// So many bytes, all zero.
    pub fn new(size: usize) -> Contents {
        Contents(Rc::new(RefCell::new(vec![0; size])))
    }

    /// These bytes.
    pub fn of(bytes: Vec<u8>) -> Contents {
        Contents(Rc::new(RefCell::new(bytes)))
    }

    /// What they are now.
    pub fn bytes(&self) -> Ref<'_, Vec<u8>> {
        self.0.borrow()
    }

    /// Changes them behind the device's back.
    pub fn change(&self, change: impl FnOnce(&mut Vec<u8>)) {
        change(&mut self.0.borrow_mut());
    }
}

/// See the head of the module.
pub struct MemoryDevice {
    contents: Contents,
    geometry: Geometry,
    done: VecDeque<BlockDone>,
}

impl MemoryDevice {
    /// A device of 512-byte blocks over these bytes. It gathers.
    pub fn new(contents: Contents) -> MemoryDevice {
        let geometry = Geometry {
            block_size: 512,
            block_count: contents.bytes().len() as u64 / 512,
            write_unit: 1,
            transfer_max: u32::MAX,
            align: 1,
            gathers: 1024,
            volatile_cache: false,
            forces: false,
            discards: true,
        };
        MemoryDevice::with_geometry(contents, geometry)
    }

    /// A device that is like this, whether its bytes need that or not.
    ///
    /// # Panics
    /// If there are not as many bytes.
    pub fn with_geometry(contents: Contents, geometry: Geometry) -> MemoryDevice {
        let size = geometry.block_size as u64 * geometry.block_count;
        assert!(size <= contents.bytes().len() as u64, "a device of {size} bytes over fewer");
        MemoryDevice { contents, geometry, done: VecDeque::new() }
    }

    /// Its bytes.
    pub fn contents(&self) -> Contents {
        self.contents.clone()
    }

    fn range(&self, lba: u64, len: usize) -> Result<std::ops::Range<usize>, Error> {
        let Geometry { block_size, block_count, transfer_max, .. } = self.geometry;
        let blocks = len as u64 / block_size as u64;
        let is_whole = (len as u64).is_multiple_of(block_size as u64) && blocks > 0 && blocks <= transfer_max as u64;
        match lba.checked_add(blocks) {
            Some(end) if is_whole && end <= block_count => {
                let start = lba as usize * block_size as usize;
                Ok(start..start + len)
            }
            _ => Err(Error::InvalidArgument),
        }
    }
}

impl BlockDevice for MemoryDevice {
    fn geometry(&self) -> Geometry {
        self.geometry
    }

    fn submit(&mut self, op: OpId, what: BlockOp) -> Result<(), (Error, BlockOp)> {
        let mut read = None;
        match what {
            BlockOp::Read { lba, mut into } => match self.range(lba, into.capacity()) {
                Err(error) => return Err((error, BlockOp::Read { lba, into })),
                Ok(range) => {
                    into.truncate(0);
                    into.put(&self.contents.0.borrow()[range]);
                    read = Some(into);
                }
            },
            BlockOp::Write { forced: true, .. } if !self.geometry.forces => return Err((Error::NotSupported, what)),
            BlockOp::Write { lba, from, forced } => match self.range(lba, from.len()) {
                Ok(range) if from.segments().len() <= self.geometry.gathers as usize => {
                    from.copy_to(0, &mut self.contents.0.borrow_mut()[range]);
                }
                _ => return Err((Error::InvalidArgument, BlockOp::Write { lba, from, forced })),
            },
            BlockOp::Flush => {}
            BlockOp::Discard { lba, block_count } => {
                match lba.checked_add(block_count) {
                    Some(end) if end <= self.geometry.block_count => {}
                    _ => return Err((Error::InvalidArgument, BlockOp::Discard { lba, block_count })),
                }
                let block_size = self.geometry.block_size as u64;
                let range = (lba * block_size) as usize..((lba + block_count) * block_size) as usize;
                self.contents.0.borrow_mut()[range].fill(0);
            }
        }
        self.done.push_back(BlockDone { op, result: Ok(()), read });
        Ok(())
    }

    fn poll(&mut self, _: Instant, room: usize, done: &mut Vec<BlockDone>) {
        done.extend(self.done.drain(..room.min(self.done.len())));
    }

    fn flush_submissions(&mut self, _: Instant) {}

    fn arm(&mut self, _: Instant) -> Wake {
        Wake { deadline: None, on: if self.done.is_empty() { WakeOn::Nothing } else { WakeOn::Now } }
    }
}
