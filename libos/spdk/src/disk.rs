//! The device: what is under way, what ended, and when to give it up.

use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use pdpix::block::{BlockDone, BlockOp, Geometry};
use pdpix::{BlockDevice, Error, Heap, Instant, OpId, Wake, WakeOn};

use crate::controller::Controller;
use crate::env::Env;
use crate::error::OpenError;
use crate::ffi::{BdevQueue, DmaMemory, Ended, Gone, NvmeQueue, Subsystems};
use crate::target::{Place, Target};
use crate::transfer::{Kind, Transfer};

/// Operations that may be under way.
const DEPTH: usize = 128;
/// How long the block layer may wait for a core that sleeps.
const ATTENTION: Duration = Duration::from_millis(100);

/// An opened device.
pub struct Opened {
    /// The device.
    pub device: SpdkDisk,
    /// What it is, for people.
    pub how: String,
}

/// How a device is used.
#[derive(Clone, Debug)]
pub struct DiskSettings {
    /// SPDK's configuration of its block layer, in JSON. The first that is used counts for the process.
    pub configuration: String,
    /// How long an operation may be under way before the device is given up.
    pub timeout: Duration,
    /// Nothing is changed on it.
    pub read_only: bool,
    /// The device is told which blocks nobody needs, if it wants to know.
    pub discard: bool,
}

impl Default for DiskSettings {
    fn default() -> DiskSettings {
        let configuration = r#"{"subsystems":[]}"#.into();
        DiskSettings { configuration, timeout: Duration::from_secs(10), read_only: false, discard: true }
    }
}

/// Opens a device for the calling thread, which alone may use it.
///
/// # Errors
/// [`OpenError`]: it is not there, or SPDK does not give it, or it does not reach the heap.
pub fn open(env: Env, target: &Target, settings: &DiskSettings, heap: &Heap) -> Result<Opened, OpenError> {
    let refused = |why| OpenError::Refused { what: format!("opening spdk:{target}"), why };
    let ended = Rc::new(Ended::default());
    let (queue, name) = match (&target.place, target.transport_id()) {
        (Place::Bdev { name }, _) => {
            let subsystems = Subsystems::start(env.spdk, &settings.configuration).map_err(refused)?;
            let queue = BdevQueue::new(subsystems, name, DEPTH, &ended, settings.read_only).map_err(refused)?;
            let product = queue.name();
            (Queue::Bdev(queue), product)
        }
        (_, transport_id) => {
            let controller = Controller::get(env.spdk, &transport_id.unwrap_or_default()).map_err(refused)?;
            let attached = controller.attached().clone();
            let namespaces = attached.namespaces();
            let first = || namespaces.first().copied().ok_or_else(|| refused("it has no namespace".into()));
            let namespace = target.namespace.map_or_else(first, Ok)?;
            let name = format!("{}, namespace {namespace}", attached.name());
            let queue = NvmeQueue::new(attached, namespace, DEPTH, &ended).map_err(refused)?;
            (Queue::Nvme(queue, controller), name)
        }
    };
    let mut geometry = queue.geometry().map_err(refused)?;
    geometry.discards &= settings.discard;
    let can_flush = queue.can_flush();
    let how = format!("{}: {name}", env.version());
    let mut device = SpdkDisk {
        queue,
        ended,
        heap: heap.clone(),
        geometry,
        can_flush,
        transfers: (0..DEPTH).map(|_| None).collect(),
        free: (0..DEPTH).rev().collect(),
        timeout: settings.timeout,
        read_only: settings.read_only,
        polled: None,
        watched: Duration::ZERO,
        looked: None,
        is_submitted: false,
        state: State::Alive,
    };
    device.read_back(env, target)?;
    Ok(Opened { device, how })
}

/// What moves the blocks.
enum Queue {
    /// Its controller's thread is there as long as a queue is.
    Nvme(NvmeQueue, #[allow(dead_code, reason = "it is kept")] Arc<Controller>),
    Bdev(BdevQueue),
    /// What did not answer, and could not be taken back: it is somewhere else, as the device may still use it.
    Lost,
}

impl Queue {
    fn geometry(&self) -> Result<Geometry, String> {
        match self {
            Queue::Nvme(queue, _) => queue.geometry(),
            Queue::Bdev(queue) => queue.geometry(),
            Queue::Lost => Err("it is lost".into()),
        }
    }

    fn can_flush(&self) -> bool {
        match self {
            // Where there is no cache, flushing it is nothing; every controller knows the command if there is one.
            Queue::Nvme(queue, _) => queue.geometry().is_ok_and(|geometry| geometry.volatile_cache),
            Queue::Bdev(queue) => queue.can_flush(),
            Queue::Lost => false,
        }
    }

    fn begin(&mut self, index: usize, transfer: &mut Transfer) -> Result<(), Error> {
        match self {
            Queue::Nvme(queue, _) => queue.begin(index, transfer),
            Queue::Bdev(queue) => queue.begin(index, transfer),
            Queue::Lost => Err(Error::Io),
        }
    }

    fn begin_read(&mut self, index: usize, memory: &DmaMemory, lba: u64) -> bool {
        match self {
            Queue::Nvme(queue, _) => queue.begin_read(index, memory, lba, 1),
            Queue::Bdev(queue) => queue.begin_read(index, memory, lba, 1),
            Queue::Lost => false,
        }
    }

    fn process(&mut self, max: usize) -> Result<(), Gone> {
        match self {
            Queue::Nvme(queue, _) => queue.process(max as u32),
            Queue::Bdev(queue) => queue.process(),
            Queue::Lost => Err(Gone),
        }
    }
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum State {
    Alive,
    /// All that comes ends with EIO.
    Failed,
    /// The same; and what was under way may still be touched by the device.
    Haunted,
}

/// A device of SPDK's, behind the contract of block devices.
pub struct SpdkDisk {
    /// First: its queue pair is freed before the transfers are.
    queue: Queue,
    ended: Rc<Ended>,
    heap: Heap,
    geometry: Geometry,
    can_flush: bool,
    /// By their slot.
    transfers: Vec<Option<Transfer>>,
    free: Vec<usize>,
    timeout: Duration,
    read_only: bool,
    /// When it was polled last.
    polled: Option<Instant>,
    /// How long it has been polled: of the time between two polls only a part counts, so that a core that was stopped does not
    /// take what it has not looked at for late.
    watched: Duration,
    /// When it was last looked for what takes too long, in that time.
    looked: Option<Duration>,
    /// Something was submitted since the last poll.
    is_submitted: bool,
    state: State,
}

/// Each block of a heap's that is read at the start has these before, so that one which nothing was written to is known.
const STALE: u8 = 0xa5;

impl SpdkDisk {
    fn under_way(&self) -> usize {
        DEPTH - self.free.len()
    }

    /// One block is read into memory of the heap and into SPDK's own, and compared: with an IOMMU that is too narrow every
    /// call succeeds and the bytes go elsewhere.
    fn read_back(&mut self, env: Env, target: &Target) -> Result<(), OpenError> {
        let refused = |why: &str| OpenError::Refused { what: format!("reading from spdk:{target}"), why: why.into() };
        let size = self.geometry.block_size as usize;
        let memory = DmaMemory::new(env.spdk, size, 4096).ok_or_else(|| refused("SPDK has no memory left"))?;
        // The slot that `begin_read` takes is not one of the free ones meanwhile.
        let index = self.free.pop().ok_or_else(|| refused("no slot"))?;
        if !self.queue.begin_read(index, &memory, 0) {
            return Err(refused("it takes no command"));
        }
        let begun = std::time::Instant::now();
        let is_read = loop {
            if self.queue.process(1).is_err() || begun.elapsed() > self.timeout {
                self.fail(begun.elapsed() > self.timeout);
                if !self.ended.holds(index) {
                    std::mem::forget(memory);
                }
                return Err(refused("it does not answer"));
            }
            match self.ended.pop() {
                Some((_, is_good)) => break is_good,
                None => std::thread::yield_now(),
            }
        };
        self.free.push(index);
        if !is_read {
            return Err(refused("the first block cannot be read"));
        }
        let mut into = self.heap.alloc_aligned(size, size).map_err(|_| refused("the heap has no room for a block"))?;
        into.resize(size, STALE);
        into.truncate(0);
        let blocks = (into.capacity() / size) as u64;
        if blocks != 1 {
            return Err(refused("the heap has no chunk of one block"));
        }
        self.submit(OpId(0), BlockOp::Read { lba: 0, into }).map_err(|(error, _)| refused(error.text()))?;
        let mut done = Vec::new();
        while done.is_empty() {
            let _ = self.process(1);
            self.give(1, &mut done);
            if begun.elapsed() > self.timeout * 2 {
                self.fail(true);
            }
        }
        match done.pop().map(|done| (done.result, done.read)) {
            Some((Ok(()), Some(read))) if read[..] == memory.bytes()[..] => Ok(()),
            Some((Err(_), _)) => Err(refused("it cannot reach our memory")),
            _ => Err(OpenError::WrongData(target.to_string())),
        }
    }

    /// Polls the queue for at most so many ends.
    fn process(&mut self, max: usize) -> Result<(), Gone> {
        if self.state != State::Alive || max == 0 {
            return Ok(());
        }
        self.is_submitted = false;
        self.queue.process(max).inspect_err(|_| self.fail(false))
    }

    /// It is gone, or (`is_late`) does not answer.
    #[cold]
    fn fail(&mut self, is_late: bool) {
        if self.state != State::Alive {
            return;
        }
        self.state = State::Failed;
        match &mut self.queue {
            // A controller on the bus may write into our memory for as long as it is enabled, and only a reset, which is felt by
            // every other core's queue, would end that. So its queue pair stays, with the lists that it reads; and the
            // controller serves others as before.
            Queue::Nvme(queue, _) if queue.attached.is_pci => self.state = State::Haunted,
            // Over TCP the connection is closed, and nothing comes from it.
            Queue::Nvme(queue, _) => {
                queue.attached.fail();
                queue.close();
            }
            Queue::Bdev(_) if !is_late => self.drain(),
            // The block layer has no way to take operations from it.
            Queue::Bdev(_) | Queue::Lost => self.state = State::Haunted,
        }
        if self.state == State::Haunted {
            self.abandon();
        }
        for index in 0..DEPTH {
            if self.transfers[index].is_some() && !self.ended.holds(index) {
                self.ended.push(index, false);
            }
        }
    }

    /// Leaves the queue with what is under way in it. Its controller is not detached; threads that serve nothing else end.
    fn abandon(&mut self) {
        // One that was begun when the device was opened is in a slot, and no transfer.
        let under_way = self.under_way() - self.ended.len();
        let may_write = self.transfers.iter().enumerate().any(|(index, transfer)| {
            let writes = transfer.as_ref().is_some_and(|it| matches!(it.kind, Kind::Write(_) | Kind::Discard));
            writes && !self.ended.holds(index)
        });
        match std::mem::replace(&mut self.queue, Queue::Lost) {
            // Nothing of it is freed, and nobody polls it.
            Queue::Nvme(queue, _) => std::mem::forget(queue),
            Queue::Bdev(queue) => {
                // Its indexes are used again here: what ends there late is kept apart.
                let before = Rc::new(self.ended.take());
                queue.give_up(std::mem::replace(&mut self.ended, before), under_way, may_write);
            }
            Queue::Lost => {}
        }
    }

    /// Waits for what the block layer ends by itself when a device was removed.
    fn drain(&mut self) {
        let begun = std::time::Instant::now();
        while self.ended.len() < self.under_way() {
            if begun.elapsed() > self.timeout {
                self.state = State::Haunted;
                return;
            }
            let _ = self.queue.process(DEPTH);
        }
        if let Queue::Bdev(queue) = &mut self.queue {
            // Only then is the removal complete.
            queue.close();
        }
    }

    /// The block layer asks each core that has a channel, also one with nothing under way: a controller that is being reset
    /// waits for all of them, and so does the removal of a device.
    fn serve_others(&mut self) {
        match (&mut self.queue, self.state) {
            (Queue::Bdev(_), State::Alive) => _ = self.process(DEPTH),
            (Queue::Bdev(queue), _) => _ = queue.process(),
            _ => {}
        }
    }

    /// What has been under way too long: the device does not answer.
    fn look_for_late(&mut self, now: Instant) {
        let (step, polled) = (self.timeout / 16, self.polled.replace(now).unwrap_or(now));
        self.watched += now.since(polled).min(step);
        let due = self.looked.is_none_or(|looked| self.watched - looked >= step);
        if !due || self.state != State::Alive {
            return;
        }
        self.looked = Some(self.watched);
        if self.is_any_late() {
            // There may have been no room for its end.
            let _ = self.process(DEPTH);
            if self.is_any_late() {
                self.fail(true);
            }
        }
    }

    fn is_any_late(&mut self) -> bool {
        let (watched, timeout, ended) = (self.watched, self.timeout, &self.ended);
        let under_way = self.transfers.iter_mut().enumerate().filter_map(|(index, it)| Some((index, it.as_mut()?)));
        let mut is_any_late = false;
        for (index, transfer) in under_way {
            is_any_late |= watched - *transfer.begun.get_or_insert(watched) > timeout && !ended.holds(index);
        }
        is_any_late
    }

    /// Gives at most so many ends.
    fn give(&mut self, room: usize, done: &mut Vec<BlockDone>) {
        for _ in 0..room {
            let Some((index, is_good)) = self.ended.pop() else { break };
            // Nothing ends twice; if it did, the second word would be for nobody.
            let Some(transfer) = self.transfers[index].take() else { continue };
            self.free.push(index);
            let is_ours_again = is_good || self.state != State::Haunted;
            done.push(if is_ours_again { transfer.end(is_good) } else { transfer.end_and_bury(&self.heap) });
        }
    }
}

impl BlockDevice for SpdkDisk {
    fn geometry(&self) -> Geometry {
        self.geometry
    }

    fn submit(&mut self, op: OpId, what: BlockOp) -> Result<(), (Error, BlockOp)> {
        if let Err(error) = self.geometry.check(&what) {
            return Err((error, what));
        }
        match what {
            BlockOp::Write { .. } | BlockOp::Discard { .. } if self.read_only => return Err((Error::ReadOnly, what)),
            BlockOp::Discard { .. } if !self.geometry.discards => return Err((Error::NotSupported, what)),
            _ => {}
        }
        let Some(index) = self.free.pop() else { return Err((Error::NoBuffers, what)) };
        let mut transfer = Transfer::new(op, what, &self.geometry);
        if self.state != State::Alive {
            self.transfers[index] = Some(transfer);
            self.ended.push(index, false);
            return Ok(());
        }
        if matches!(transfer.kind, Kind::Flush) && !self.can_flush {
            self.transfers[index] = Some(transfer);
            self.ended.push(index, true);
            return Ok(());
        }
        match self.queue.begin(index, &mut transfer) {
            Ok(()) => self.is_submitted = true,
            // It has failed, and is found out by the next poll.
            Err(Error::Io) => self.ended.push(index, false),
            Err(error) => {
                self.free.push(index);
                return Err((error, transfer.back()));
            }
        }
        self.transfers[index] = Some(transfer);
        Ok(())
    }

    fn poll(&mut self, now: Instant, room: usize, done: &mut Vec<BlockDone>) {
        if self.under_way() == 0 {
            return self.serve_others();
        }
        // A loss is told by what ends.
        let _ = self.process(room.saturating_sub(self.ended.len()));
        let before = done.len();
        self.give(room, done);
        self.look_for_late(now);
        self.give(room - (done.len() - before), done);
    }

    /// Commands of a controller on the bus are there when they are submitted; over TCP they are sent here.
    fn flush_submissions(&mut self, _: Instant) {
        if self.is_submitted {
            let _ = self.process(1);
        }
    }

    fn arm(&mut self, now: Instant) -> Wake {
        let on = match (self.under_way(), self.ended.len()) {
            (0, _) => WakeOn::Nothing,
            (_, 0) => WakeOn::Nap,
            _ => WakeOn::Now,
        };
        let deadline = matches!(self.queue, Queue::Bdev(_)).then(|| now + ATTENTION);
        Wake { deadline, on }
    }
}

impl Drop for SpdkDisk {
    /// What was begun is done before its memory goes.
    fn drop(&mut self) {
        let begun = std::time::Instant::now();
        let mut done = Vec::new();
        while self.transfers.iter().any(Option::is_some) {
            let _ = self.process(DEPTH);
            self.give(DEPTH, &mut done);
            if done.is_empty() && begun.elapsed() > self.timeout {
                self.fail(true);
            }
            done.clear();
        }
    }
}

impl std::fmt::Debug for SpdkDisk {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "SpdkDisk({:?}, {:?}, {} under way)", self.geometry, self.state, self.under_way())
    }
}
