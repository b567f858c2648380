//! One device on the bench: operations by name, waiting as a core waits, and the books.

use std::collections::BTreeMap;
use std::time::Duration;

use libos_runtime::{Clock, KernelClock};
use pdpix::block::{BlockDone, BlockOp, Geometry};
use pdpix::{BlockDevice, BufMut, Error, Heap, Instant, OpId, Sga, WakeOn};

use crate::Pattern;

type Open = Box<dyn FnMut(&Heap) -> Box<dyn BlockDevice>>;

/// A device to be tried, with what it stands on.
pub struct BlockSubject {
    heap: Heap,
    open: Open,
    break_it: Option<Box<dyn FnMut()>>,
}

impl BlockSubject {
    /// `open` opens the same disk each time that it is called; the device before is dropped by then.
    pub fn new(heap: Heap, open: impl FnMut(&Heap) -> Box<dyn BlockDevice> + 'static) -> BlockSubject {
        BlockSubject { heap, open: Box::new(open), break_it: None }
    }

    /// `break_it` makes reads of the open device's last block fail from now on.
    #[must_use]
    pub fn broken_by(self, break_it: impl FnMut() + 'static) -> BlockSubject {
        BlockSubject { break_it: Some(Box::new(break_it)), ..self }
    }
}

/// A case's hands on a device.
pub struct Bench {
    subject: BlockSubject,
    device: Option<Box<dyn BlockDevice>>,
    geometry: Geometry,
    next: u64,
    /// Operations under way.
    waiting: BTreeMap<OpId, ()>,
    ended: BTreeMap<OpId, BlockDone>,
    /// How far a simulated device's time is ahead of the clock.
    ahead: Duration,
    pinned: usize,
}

/// No single operation of a test takes longer.
const LIMIT: Duration = Duration::from_secs(30);

impl Bench {
    /// Opens it.
    pub fn new(mut subject: BlockSubject) -> Bench {
        let pinned = subject.heap.stats().pinned;
        let device = (subject.open)(&subject.heap);
        let geometry = device.geometry();
        Bench {
            subject,
            device: Some(device),
            geometry,
            next: 0,
            waiting: BTreeMap::new(),
            ended: BTreeMap::new(),
            ahead: Duration::ZERO,
            pinned,
        }
    }

    /// What it says of itself.
    pub fn geometry(&self) -> Geometry {
        self.geometry
    }

    /// Bytes in so many blocks.
    pub fn bytes(&self, block_count: u64) -> usize {
        (block_count * u64::from(self.geometry.block_size)) as usize
    }

    fn device(&mut self) -> &mut dyn BlockDevice {
        self.device.as_deref_mut().expect("it is open")
    }

    /// The device's time.
    fn now(&self) -> Instant {
        KernelClock.now() + self.ahead
    }

    /// Memory for so many blocks, as the device wants it; its capacity may be more blocks.
    pub fn alloc(&self, block_count: u64) -> BufMut {
        let align = self.geometry.align.max(self.geometry.block_size) as usize;
        self.subject.heap.alloc_aligned(self.bytes(block_count), align).expect("the heap is large enough")
    }

    /// The heap.
    pub fn heap(&self) -> &Heap {
        &self.subject.heap
    }

    /// Blocks with the bytes of a pattern, as if they lay at `lba`.
    pub fn blocks(&self, pattern: Pattern, lba: u64, block_count: u64) -> Sga {
        let mut buf = self.alloc(block_count);
        buf.resize(self.bytes(block_count), 0);
        pattern.fill(lba * u64::from(self.geometry.block_size), &mut buf);
        Sga::from(buf.freeze())
    }

    /// Begins an operation.
    ///
    /// # Errors
    /// It was refused, and came back.
    pub fn submit(&mut self, what: BlockOp) -> Result<OpId, (Error, BlockOp)> {
        self.next += 1;
        let op = OpId(self.next);
        self.device().submit(op, what)?;
        self.waiting.insert(op, ());
        Ok(op)
    }

    /// Begins one that is not refused.
    pub fn begin(&mut self, what: BlockOp) -> OpId {
        self.submit(what).unwrap_or_else(|(error, op)| panic!("{op:?} was refused: {error}"))
    }

    /// Polls once with so much room, and says how many ended.
    pub fn poll(&mut self, room: usize) -> usize {
        let (now, mut done) = (self.now(), Vec::new());
        self.device().poll(now, room, &mut done);
        let count = done.len();
        assert!(count <= room, "{count} ends in a room of {room}");
        for done in done {
            assert!(self.waiting.remove(&done.op).is_some(), "{:?} ended, and was not under way", done.op);
            self.ended.insert(done.op, done);
        }
        count
    }

    /// Tells the device of what was submitted.
    pub fn ring(&mut self) {
        let now = self.now();
        self.device().flush_submissions(now);
    }

    /// Whether operations are under way.
    pub fn is_waiting(&self) -> bool {
        !self.waiting.is_empty()
    }

    /// Sleeps until the device wants to be polled. What ended just before that is taken.
    pub fn sleep(&mut self) {
        self.sleep_after(64);
    }

    /// The same, where the last look before sleeping has so much room.
    pub fn sleep_after(&mut self, room: usize) {
        let now = self.now();
        let wake = self.device().arm(now);
        // As a core does: what came before it was armed is seen here, and what comes later wakes. A log may have use for
        // what came, and wait for more all the same: then its core sleeps.
        self.poll(room);
        if !self.is_waiting() {
            return;
        }
        match wake.on {
            WakeOn::Now => {}
            WakeOn::Nap => std::thread::sleep(Duration::from_micros(20)),
            WakeOn::Descriptor(fd) => {
                libos_runtime::sleep_on(&[fd], Some(LIMIT));
                assert!(self.now().since(now) < LIMIT, "it did not wake us in {LIMIT:?}");
            }
            WakeOn::Nothing => {
                let deadline = wake.deadline.expect("operations are under way, and nothing would end them");
                self.ahead += deadline.since(now);
            }
        }
    }

    /// Until the operation has ended.
    pub fn wait(&mut self, op: OpId) -> BlockDone {
        let begun = KernelClock.now();
        loop {
            if let Some(done) = self.ended.remove(&op) {
                return done;
            }
            assert!(self.waiting.contains_key(&op), "{op:?} is not under way");
            assert!(KernelClock.now().since(begun) < LIMIT, "{op:?} does not end");
            self.ring();
            if self.poll(64) == 0 {
                self.sleep();
            }
        }
    }

    /// Until all have ended; gives their results.
    pub fn wait_all(&mut self) -> Vec<BlockDone> {
        while let Some((&op, ())) = self.waiting.first_key_value() {
            let done = self.wait(op);
            self.ended.insert(op, done);
        }
        std::mem::take(&mut self.ended).into_values().collect()
    }

    /// Does one, whatever comes of it.
    pub fn try_do(&mut self, what: BlockOp) -> BlockDone {
        let op = self.begin(what);
        self.wait(op)
    }

    /// Does one that succeeds.
    pub fn do_it(&mut self, what: BlockOp) -> Option<BufMut> {
        let done = self.try_do(what);
        assert_eq!(done.result, Ok(()), "{:?}", done.op);
        done.read
    }

    /// Reads so many blocks and compares them.
    pub fn expect(&mut self, pattern: Pattern, lba: u64, block_count: u64) {
        let (mut at, end) = (lba, lba + block_count);
        while at < end {
            // One block at a time: the memory for more may have room for more than there is on the device.
            let into = self.alloc(1);
            assert_eq!(into.capacity(), self.bytes(1), "a size class for one block");
            let read = self.do_it(BlockOp::Read { lba: at, into }).expect("a read gives its memory back");
            assert_eq!(read.len(), read.capacity(), "a read fills its memory");
            let checked = pattern.check(at * u64::from(self.geometry.block_size), &read);
            assert_eq!(checked, Ok(()), "block {at}");
            at += 1;
        }
    }

    /// Closes it, and opens the same disk again.
    pub fn reopen(&mut self) {
        self.close();
        self.device = Some((self.subject.open)(&self.subject.heap));
        assert_eq!(self.device().geometry(), self.geometry, "the same disk has another geometry");
    }

    /// Drops it. What was under way has no end any more.
    pub fn close(&mut self) {
        self.device = None;
        self.waiting.clear();
        self.ended.clear();
    }

    /// Makes reads of the last block fail.
    pub fn break_it(&mut self) {
        self.subject.break_it.as_mut().expect("a subject that can be broken")();
    }

    /// Nothing of the heap is held any more.
    ///
    /// # Panics
    /// If something is.
    pub fn check_returned(mut self) {
        self.close();
        assert_eq!(self.subject.heap.stats().pinned, self.pinned, "the device keeps memory though it is dropped");
    }
}

impl std::fmt::Debug for Bench {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Bench({:?}, {} under way)", self.geometry, self.waiting.len())
    }
}
