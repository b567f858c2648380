//! A disk driven by one thread of its own, for systems that forbid io_uring.
//!
//! Operations are done one after the other, in the order that they came. We considered to do them on the core itself: a
//! flush would stop its network for milliseconds, and its connections time out behind a slow disk. The price is two
//! thread switches an operation.

use std::io;
use std::ops::Range;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering, fence};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::thread::JoinHandle;

use pdpix::block::{BlockDone, BlockOp, Geometry};
use pdpix::{BlockDevice, Error, Instant, OpId, Wake, WakeOn};
use slab::Slab;

use super::ffi::Job;
use super::open::Disk;
use super::transfer::{Next, Transfer};
use super::uring::Armed;

/// A disk with a thread.
pub(super) struct ThreadedDisk {
    geometry: Geometry,
    read_only: bool,
    unwritten: Vec<Range<u64>>,
    dsync: bool,
    depth: usize,
    transfers: Slab<Transfer>,
    jobs: Option<Sender<Job>>,
    answers: Receiver<(usize, i32)>,
    /// Taken from the thread and not yet worked on.
    taken: Option<(usize, i32)>,
    bell: Arc<Bell>,
    armed: Armed,
    thread: Option<JoinHandle<()>>,
}

/// How the thread wakes a core that sleeps.
struct Bell {
    event: OwnedFd,
    armed: AtomicBool,
}

impl ThreadedDisk {
    pub(super) fn new(disk: Disk) -> io::Result<ThreadedDisk> {
        use rustix::event::{EventfdFlags, eventfd};
        let event = eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)?;
        let bell = Arc::new(Bell { event, armed: AtomicBool::new(false) });
        let (jobs, to_do) = channel::<Job>();
        let (answer, answers) = channel();
        let (fd, rung) = (disk.fd, bell.clone());
        let thread = std::thread::Builder::new().name("disk".into()).spawn(move || {
            for job in to_do {
                let answered = answer.send((job.index, job.run(fd.as_fd())));
                // The core says that it will sleep and then looks; we answer and then look whether it sleeps.
                fence(Ordering::SeqCst);
                if rung.armed.load(Ordering::Relaxed) {
                    let _ = rustix::io::write(&rung.event, &1u64.to_ne_bytes());
                }
                if answered.is_err() {
                    return;
                }
            }
        })?;
        Ok(ThreadedDisk {
            geometry: disk.geometry,
            read_only: disk.read_only,
            unwritten: disk.unwritten,
            dsync: disk.dsync,
            depth: disk.depth,
            transfers: Slab::new(),
            jobs: Some(jobs),
            answers,
            taken: None,
            bell,
            armed: Armed::No,
            thread: Some(thread),
        })
    }

    fn start(&mut self, index: usize) {
        let flags = if self.dsync || self.transfers[index].forced { libc::RWF_DSYNC } else { 0 };
        let job = Job::new(index, &mut self.transfers[index], flags);
        // The thread ends when the sender is gone, and not before.
        let _ = self.jobs.as_ref().map(|jobs| jobs.send(job));
    }

    fn next_answer(&mut self) -> Option<(usize, i32)> {
        self.taken.take().or_else(|| self.answers.try_recv().ok())
    }
}

impl BlockDevice for ThreadedDisk {
    fn geometry(&self) -> Geometry {
        self.geometry
    }

    fn unwritten(&self) -> Vec<Range<u64>> {
        self.unwritten.clone()
    }

    fn submit(&mut self, op: OpId, what: BlockOp) -> Result<(), (Error, BlockOp)> {
        if let Err(error) = refusal(&self.geometry, self.read_only, &what) {
            return Err((error, what));
        }
        if self.transfers.len() >= self.depth {
            return Err((Error::NoBuffers, what));
        }
        let index = self.transfers.insert(Transfer::new(op, what, &self.geometry));
        self.start(index);
        Ok(())
    }

    fn poll(&mut self, _: Instant, room: usize, done: &mut Vec<BlockDone>) {
        match self.armed {
            Armed::No => {}
            Armed::Fresh => self.armed = Armed::Looked,
            Armed::Looked => {
                self.armed = Armed::No;
                self.bell.armed.store(false, Ordering::Relaxed);
            }
        }
        let mut given = 0;
        while given < room
            && let Some((index, result)) = self.next_answer()
        {
            match self.transfers[index].on_result(result) {
                Next::Again => self.start(index),
                Next::Done(result) => {
                    done.push(self.transfers.remove(index).end(result));
                    given += 1;
                }
            }
        }
    }

    fn flush_submissions(&mut self, _: Instant) {}

    fn arm(&mut self, _: Instant) -> Wake {
        // From before, or from a thread that was late: what it was about is looked for below.
        let _ = rustix::io::read(&self.bell.event, &mut [0u8; 8]);
        if self.transfers.is_empty() {
            return Wake { deadline: None, on: WakeOn::Descriptor(self.bell.event.as_raw_fd()) };
        }
        self.armed = Armed::Fresh;
        self.bell.armed.store(true, Ordering::Relaxed);
        fence(Ordering::SeqCst);
        self.taken = self.next_answer();
        let on = if self.taken.is_some() { WakeOn::Now } else { WakeOn::Descriptor(self.bell.event.as_raw_fd()) };
        Wake { deadline: None, on }
    }
}

impl Drop for ThreadedDisk {
    /// What was begun is done before its memory goes.
    fn drop(&mut self) {
        self.jobs = None;
        let _ = self.thread.take().map(JoinHandle::join);
    }
}

/// Why an operation is refused by a disk, whatever drives it.
pub(super) fn refusal(geometry: &Geometry, read_only: bool, what: &BlockOp) -> Result<(), Error> {
    geometry.check(what)?;
    match what {
        BlockOp::Write { .. } | BlockOp::Discard { .. } if read_only => Err(Error::ReadOnly),
        BlockOp::Discard { .. } if !geometry.discards => Err(Error::NotSupported),
        _ => Ok(()),
    }
}
