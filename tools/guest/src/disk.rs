//! A disk in memory, with a power switch. Clones are the same one.
//!
//! What a cut leaves is the rule of [`Medium`]. Requests come in one at a time and each ends before the next begins, so what is
//! loose at a cut is what no flush has covered. When the power is off, nothing is done any more, and nobody is answered.

use std::sync::{Arc, Mutex, MutexGuard};

use libos_conformance::block::{Content, Medium};

/// What a disk is asked to do. Offsets and lengths are bytes, within the disk, and whole sectors.
#[derive(Clone, Debug)]
pub enum Request {
    /// Read so many bytes.
    Read {
        /// From where.
        offset: usize,
        /// How many.
        len: usize,
    },
    /// Write; `forced` makes it durable before it ends.
    Write {
        /// To where.
        offset: usize,
        /// What.
        content: Content,
        /// Forced unit access.
        forced: bool,
    },
    /// Make durable what was written.
    Flush,
}

/// The disk.
#[derive(Clone)]
pub struct Disk(Arc<Mutex<State>>);

type Watch = Box<dyn FnMut(u64, &mut Medium) + Send>;

struct State {
    medium: Medium,
    requests: u64,
    forced: u64,
    has_power: bool,
    watch: Option<Watch>,
}

impl Disk {
    /// A disk with this on it. What cuts leave is drawn from the seed.
    pub fn new(image: Vec<u8>, seed: u64) -> Disk {
        let medium = Medium::new(image, seed);
        Disk(Arc::new(Mutex::new(State { medium, requests: 0, forced: 0, has_power: true, watch: None })))
    }

    fn state(&self) -> MutexGuard<'_, State> {
        // A watcher that panicked was a test's; the bytes are as they were.
        self.0.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
    }

    /// Its size in bytes.
    pub fn size(&self) -> usize {
        self.state().medium.size()
    }

    /// Calls this before each request is done, with how many were done before. Nothing is done meanwhile, so what is learnt
    /// there is the state of one moment.
    pub fn watch(&self, watch: impl FnMut(u64, &mut Medium) + Send + 'static) {
        self.state().watch = Some(Box::new(watch));
    }

    /// Calls nobody any more.
    pub fn unwatch(&self) {
        self.state().watch = None;
    }

    /// Requests done, and flushes among them.
    pub fn counts(&self) -> (u64, u64) {
        let state = self.state();
        (state.requests, state.medium.flushes())
    }

    /// Writes with forced unit access.
    pub fn forced(&self) -> u64 {
        self.state().forced
    }

    /// Does one. What was read; `None` when there is no power.
    pub fn serve(&self, request: Request) -> Option<Vec<u8>> {
        let state = &mut *self.state();
        if !state.has_power {
            return None;
        }
        if let Some(watch) = &mut state.watch {
            watch(state.requests, &mut state.medium);
        }
        state.requests += 1;
        let mut read = Vec::new();
        match request {
            Request::Read { offset, len } => {
                read.resize(len, 0);
                state.medium.read(offset, &mut read);
            }
            Request::Write { offset, content, forced } => {
                state.forced += u64::from(forced);
                let number = state.medium.begin_write(offset, content);
                if forced { state.medium.end_forced_write(number) } else { state.medium.end_write(number) }
            }
            Request::Flush => {
                let covered = state.medium.ended();
                state.medium.flush(&covered);
            }
        }
        Some(read)
    }

    /// The disk lies from now on, or is honest again: a flush does nothing, and says that it did.
    pub fn ignore_flushes(&self, ignores: bool) {
        self.state().medium.ignore_flushes(ignores);
    }

    /// The power goes: what is found on the disk when it is back.
    pub fn cut(&self) -> Vec<u8> {
        let state = &mut *self.state();
        state.has_power = false;
        state.medium.cut()
    }

    /// What was written, durable or not: what is found on a disk that was never without power.
    pub fn seen(&self) -> Vec<u8> {
        self.state().medium.seen()
    }
}
