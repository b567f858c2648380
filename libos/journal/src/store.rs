//! The logs of one device.

use pdpix::storage::Damage;
use pdpix::{
    BlockDevice, Completions, Error, Handle, Heap, Instant, LogOp, OpId, OpenMode, Storage, Submitted, Wake, WakeOn,
};

use crate::settings::Settings;

/// All logs on one block device: a [`Storage`].
pub struct Store {
    _device: Box<dyn BlockDevice>,
    _heap: Heap,
    _settings: Settings,
}

impl Store {
    /// Takes a device. What is on it is found out as it is polled; `heap` is the core's, for pages and for what is read.
    pub fn new(device: Box<dyn BlockDevice>, heap: Heap, settings: Settings) -> Store {
        Store { _device: device, _heap: heap, _settings: settings }
    }
}

impl Storage for Store {
    fn open(&mut self, _: &str, _: OpenMode) -> Result<Handle, Error> {
        Err(Error::NotSupported)
    }

    fn submit(&mut self, _: Handle, _: OpId, _: LogOp) -> Result<Submitted, Error> {
        Err(Error::NotSupported)
    }

    fn cancel(&mut self, _: Handle, _: OpId) {}

    fn close(&mut self, _: Handle) {}

    fn damage(&self, _: Handle) -> Option<Damage> {
        None
    }

    fn poll(&mut self, _: Instant, _: &mut Completions) {}

    fn flush(&mut self, _: Instant) {}

    fn arm(&mut self, _: Instant) -> Wake {
        Wake { deadline: None, on: WakeOn::Nothing }
    }

    fn zombies(&self) -> usize {
        0
    }
}
