//! A disk: sectors, a cache that forgets when the power goes, and every fault that a disk has, all from its seed.
//!
//! What is written lies in the cache until a flush that was submitted after its end; before that, a cut of the power keeps
//! any part of it, in write units, in any order. A transfer takes its time, and overtakes others. Beyond that a disk may
//! fail, be slow or full, write elsewhere, or rot: as its settings say, or as a test does by hand.
//!
//! The disk is what stays; a [`SimBlockDevice`] is its use by one process. When that ends, what it had submitted is in the
//! cache, as in a machine whose process was killed.

use std::cell::RefCell;
use std::collections::VecDeque;
use std::ops::{Range, RangeInclusive};
use std::rc::Rc;
use std::time::Duration;

use pdpix::{BlockDevice, BlockDone, BlockOp, BufMut, Error, Geometry, Instant, OpId, Rng, Sga, Wake, WakeOn};

use crate::trace::WorldTrace;

/// The nature of a disk. Probabilities are from 0 to 1, each time that something is done.
#[derive(Clone, Debug)]
pub struct DiskSettings {
    /// What it says of itself.
    pub geometry: Geometry,
    /// How long a transfer takes.
    pub latency: RangeInclusive<Duration>,
    /// How long a flush takes.
    pub flush_latency: RangeInclusive<Duration>,
    /// A transfer takes up to [`DiskSettings::stall`] longer.
    pub slow: f64,
    /// See [`DiskSettings::slow`].
    pub stall: Duration,
    /// It says of all its blocks that nobody has written them: whoever prepares them may, where nobody else does.
    pub fresh: bool,
    /// Operations that it holds; it refuses more with `NoBuffers`.
    pub depth: usize,
    /// A read fails.
    pub read_errors: f64,
    /// A write fails, and none or a part of it is there.
    pub write_errors: f64,
    /// A flush fails, and what it was to make durable is in nobody's cache any more: any part of it may be lost.
    pub flush_errors: f64,
    /// A write fails for lack of space, as where blocks are given out when they are first written.
    pub full: f64,
    /// A write goes elsewhere, and says that all is well.
    pub misdirected: f64,
    /// A unit that is read has rotted before.
    pub rot: f64,
}

impl DiskSettings {
    /// A disk of so many bytes, in blocks of 512, with a cache, and without faults but those of a power cut.
    pub fn new(size: u64) -> DiskSettings {
        let micros = |from, to| Duration::from_micros(from)..=Duration::from_micros(to);
        DiskSettings {
            geometry: Geometry {
                block_size: 512,
                block_count: size / 512,
                write_unit: 1,
                transfer_max: 256,
                align: 512,
                gathers: 1,
                volatile_cache: true,
                forces: false,
                discards: true,
            },
            latency: micros(10, 120),
            flush_latency: micros(50, 500),
            slow: 0.0,
            fresh: false,
            stall: Duration::from_millis(20),
            depth: 64,
            read_errors: 0.0,
            write_errors: 0.0,
            flush_errors: 0.0,
            full: 0.0,
            misdirected: 0.0,
            rot: 0.0,
        }
    }
}

/// What a disk has done.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
#[allow(missing_docs, reason = "the names say it")]
pub struct DiskCounters {
    pub reads: u64,
    pub writes: u64,
    pub flushes: u64,
    pub discards: u64,
    pub power_cuts: u64,
    pub forced: u64,
    pub units_lost: u64,
    pub units_kept: u64,
    pub errors: u64,
    pub misdirected: u64,
    pub rotted: u64,
}

/// A disk. Clones are the same.
#[derive(Clone)]
pub struct SimDisk(Rc<RefCell<Disk>>);

struct Disk {
    settings: DiskSettings,
    rng: Rng,
    /// What a read gives.
    current: Vec<u8>,
    /// What stays when the power goes.
    platter: Vec<u8>,
    /// Ended, and not covered by a flush; by their end.
    cache: VecDeque<Cached>,
    /// Writes that have ended so far.
    ended: u64,
    counters: DiskCounters,
    trace: Option<Rc<RefCell<WorldTrace>>>,
    /// A process uses it.
    in_use: bool,
}

struct Cached {
    number: u64,
    offset: usize,
    bytes: Vec<u8>,
    /// On the platter, in truth; in line behind older ones that may lie below it.
    forced: bool,
}

impl SimDisk {
    /// A disk, all zero, whose chance is this.
    pub fn new(settings: DiskSettings, rng: Rng) -> SimDisk {
        let size = (settings.geometry.block_count * settings.geometry.block_size as u64) as usize;
        SimDisk(Rc::new(RefCell::new(Disk {
            settings,
            rng,
            current: vec![0; size],
            platter: vec![0; size],
            cache: VecDeque::new(),
            ended: 0,
            counters: DiskCounters::default(),
            trace: None,
            in_use: false,
        })))
    }

    pub(crate) fn trace_to(&self, trace: Rc<RefCell<WorldTrace>>) {
        self.0.borrow_mut().trace = Some(trace);
    }

    /// Its use by a process.
    ///
    /// # Panics
    /// If another one uses it.
    pub fn device(&self) -> SimBlockDevice {
        let mut disk = self.0.borrow_mut();
        assert!(!std::mem::replace(&mut disk.in_use, true), "two processes use one disk");
        SimBlockDevice { disk: self.0.clone(), now: Instant::ZERO, under_way: Vec::new() }
    }

    /// The power goes: of what no flush covers, any part stays, in write units.
    ///
    /// # Panics
    /// If a process still uses it.
    pub fn cut_power(&self) {
        let mut disk = self.0.borrow_mut();
        assert!(!disk.in_use, "the process dies first");
        disk.counters.power_cuts += 1;
        disk.lose_cache();
        disk.note("power cut", 0, 0);
    }

    /// Another nature from now on. Its size stays.
    pub fn change(&self, change: impl FnOnce(&mut DiskSettings)) {
        change(&mut self.0.borrow_mut().settings);
    }

    /// Changes what lies on it, behind everybody's back: on the platter and in what is read.
    pub fn damage(&self, offset: u64, change: impl FnOnce(&mut [u8])) {
        let mut disk = self.0.borrow_mut();
        let offset = offset as usize;
        change(&mut disk.platter[offset..]);
        let Disk { platter, current, .. } = &mut *disk;
        current[offset..].copy_from_slice(&platter[offset..]);
    }

    /// What a read would give.
    pub fn contents(&self) -> Vec<u8> {
        self.0.borrow().current.clone()
    }

    /// Bytes that no flush covers.
    pub fn unflushed(&self) -> usize {
        self.0.borrow().cache.iter().filter(|cached| !cached.forced).map(|cached| cached.bytes.len()).sum()
    }

    /// What it has done.
    pub fn counters(&self) -> DiskCounters {
        self.0.borrow().counters
    }
}

impl Disk {
    fn unit(&self) -> usize {
        self.settings.geometry.block_size as usize * self.settings.geometry.write_unit as usize
    }

    fn note(&self, what: &'static str, first: u64, second: u64) {
        if let Some(trace) = &self.trace {
            trace.borrow_mut().note(Instant::ZERO, usize::MAX, what, first, second);
        }
    }

    fn draw(&mut self, range: &RangeInclusive<Duration>) -> Duration {
        Duration::from_nanos(self.rng.range(range.start().as_nanos() as u64..=range.end().as_nanos() as u64))
    }

    fn latency(&mut self, of: &BlockOp) -> Duration {
        let range = match of {
            BlockOp::Flush => self.settings.flush_latency.clone(),
            _ => self.settings.latency.clone(),
        };
        let mut latency = self.draw(&range);
        if matches!(of, BlockOp::Write { forced: true, .. }) {
            latency += self.draw(&self.settings.flush_latency.clone());
        }
        if self.rng.chance(self.settings.slow) {
            latency += self.draw(&(Duration::ZERO..=self.settings.stall));
        }
        latency
    }

    /// A write arrives in the cache.
    fn store(&mut self, offset: usize, bytes: Vec<u8>) {
        self.current[offset..offset + bytes.len()].copy_from_slice(&bytes);
        self.ended += 1;
        if self.settings.geometry.volatile_cache {
            self.cache.push_back(Cached { number: self.ended, offset, bytes, forced: false });
        } else {
            self.platter[offset..offset + bytes.len()].copy_from_slice(&bytes);
        }
    }

    /// Everything that had ended then is durable.
    fn make_durable(&mut self, ended: u64) {
        while let Some(cached) = self.cache.front()
            && cached.number <= ended
        {
            let Cached { offset, bytes, .. } = self.cache.pop_front().expect("just seen");
            self.platter[offset..offset + bytes.len()].copy_from_slice(&bytes);
        }
    }

    /// Any part of the cache is kept, and the rest is gone.
    fn lose_cache(&mut self) {
        let unit = self.unit();
        for Cached { offset, bytes, forced, .. } in std::mem::take(&mut self.cache) {
            // All, nothing, or units of it.
            let kept = if forced { 1.0 } else { [1.0, 0.0, 0.5, 0.5][self.rng.below(4) as usize] };
            for (i, part) in bytes.chunks(unit).enumerate() {
                if self.rng.chance(kept) {
                    self.counters.units_kept += 1;
                    let at = offset + i * unit;
                    self.platter[at..at + part.len()].copy_from_slice(part);
                } else {
                    self.counters.units_lost += 1;
                }
            }
        }
        self.current.copy_from_slice(&self.platter);
    }

    fn fails(&mut self, probability: f64) -> bool {
        let fails = self.rng.chance(probability);
        self.counters.errors += u64::from(fails);
        fails
    }

    fn read(&mut self, offset: usize, into: &mut BufMut) -> Result<(), Error> {
        self.counters.reads += 1;
        if self.fails(self.settings.read_errors) {
            return Err(Error::Io);
        }
        let len = into.capacity();
        if self.rng.chance(self.settings.rot) {
            let at = offset + self.rng.below(len as u64) as usize;
            let bit = 1 << self.rng.below(8);
            self.counters.rotted += 1;
            self.current[at] ^= bit;
            self.platter[at] ^= bit;
        }
        into.truncate(0);
        into.put(&self.current[offset..offset + len]);
        Ok(())
    }

    fn write(&mut self, offset: usize, bytes: Vec<u8>) -> Result<(), Error> {
        self.counters.writes += 1;
        if self.fails(self.settings.full) {
            return Err(Error::NoSpace);
        }
        if self.fails(self.settings.write_errors) {
            let unit = self.unit();
            let upto = self.rng.below((bytes.len() / unit) as u64 + 1) as usize * unit;
            if upto > 0 {
                self.store(offset, bytes[..upto].to_vec());
            }
            return Err(Error::Io);
        }
        let mut at = offset;
        if self.rng.chance(self.settings.misdirected) {
            let units = (self.current.len() - bytes.len()) / self.unit();
            at = self.rng.below(units as u64 + 1) as usize * self.unit();
            self.counters.misdirected += 1;
        }
        self.store(at, bytes);
        Ok(())
    }

    /// The write that ended last is durable.
    fn force(&mut self) -> Result<(), Error> {
        self.counters.forced += 1;
        if self.fails(self.settings.flush_errors) {
            self.lose_cache();
            return Err(Error::Io);
        }
        if let Some(last) = self.cache.back_mut() {
            last.forced = true;
        }
        Ok(())
    }

    fn flush(&mut self, covered: u64) -> Result<(), Error> {
        self.counters.flushes += 1;
        if self.fails(self.settings.flush_errors) {
            // As a kernel does: what could not be written is clean from now on, and gone.
            self.lose_cache();
            return Err(Error::Io);
        }
        self.make_durable(covered);
        Ok(())
    }
}

/// A process's use of a [`SimDisk`].
pub struct SimBlockDevice {
    disk: Rc<RefCell<Disk>>,
    now: Instant,
    under_way: Vec<UnderWay>,
}

struct UnderWay {
    op: OpId,
    ends: Instant,
    what: What,
}

enum What {
    Read {
        offset: usize,
        into: BufMut,
    },
    /// The bytes are taken when it ends: what changes meanwhile is a bug of the writer's.
    Write {
        offset: usize,
        from: Sga,
        forced: bool,
    },
    /// Covers the writes that had ended when it was submitted.
    Flush {
        covered: u64,
    },
    Discard {
        offset: usize,
        len: usize,
    },
}

impl SimBlockDevice {
    fn place(&self, lba: u64, len: usize) -> Option<usize> {
        let Geometry { block_size, block_count, transfer_max, .. } = self.disk.borrow().settings.geometry;
        let blocks = len as u64 / block_size as u64;
        let fits = (len as u64).is_multiple_of(block_size as u64) && (1..=transfer_max as u64).contains(&blocks);
        (fits && lba.checked_add(blocks)? <= block_count).then_some(lba as usize * block_size as usize)
    }

    fn is_aligned(&self, from: &Sga) -> bool {
        let geometry = self.disk.borrow().settings.geometry;
        let aligned = |buf: &pdpix::Buf| (buf.as_ptr() as usize).is_multiple_of(geometry.align as usize);
        from.segments().len() <= geometry.gathers as usize
            && (geometry.gathers > 1 || from.segments().iter().all(aligned))
    }

    fn check(&self, what: BlockOp) -> Result<What, (Error, BlockOp)> {
        match what {
            BlockOp::Read { lba, into } => match self.place(lba, into.capacity()) {
                Some(offset) => Ok(What::Read { offset, into }),
                None => Err((Error::InvalidArgument, BlockOp::Read { lba, into })),
            },
            BlockOp::Write { forced: true, .. } if !self.disk.borrow().settings.geometry.forces => {
                Err((Error::NotSupported, what))
            }
            BlockOp::Write { lba, from, forced } => match self.place(lba, from.len()) {
                Some(offset) if self.is_aligned(&from) => Ok(What::Write { offset, from, forced }),
                _ => Err((Error::InvalidArgument, BlockOp::Write { lba, from, forced })),
            },
            BlockOp::Flush => Ok(What::Flush { covered: self.disk.borrow().ended }),
            BlockOp::Discard { lba, block_count } => {
                let geometry = self.disk.borrow().settings.geometry;
                match lba.checked_add(block_count) {
                    Some(end) if end <= geometry.block_count => Ok(What::Discard {
                        offset: lba as usize * geometry.block_size as usize,
                        len: block_count as usize * geometry.block_size as usize,
                    }),
                    _ => Err((Error::InvalidArgument, BlockOp::Discard { lba, block_count })),
                }
            }
        }
    }

    fn perform(&mut self, UnderWay { op, what, .. }: UnderWay) -> BlockDone {
        let mut disk = self.disk.borrow_mut();
        let (result, read) = match what {
            What::Read { offset, mut into } => {
                disk.note("disk read", offset as u64, into.capacity() as u64);
                (disk.read(offset, &mut into), Some(into))
            }
            What::Write { offset, from, forced } => {
                disk.note("disk write", offset as u64, from.len() as u64);
                let written = disk.write(offset, from.to_vec());
                (if forced { written.and_then(|()| disk.force()) } else { written }, None)
            }
            What::Flush { covered } => {
                disk.note("disk flush", covered, 0);
                (disk.flush(covered), None)
            }
            What::Discard { offset, len } => {
                disk.note("disk discard", offset as u64, len as u64);
                disk.counters.discards += 1;
                let fill = disk.rng.next_u64() as u8;
                disk.store(offset, vec![fill; len]);
                (Ok(()), None)
            }
        };
        BlockDone { op, result, read }
    }
}

impl BlockDevice for SimBlockDevice {
    fn geometry(&self) -> Geometry {
        self.disk.borrow().settings.geometry
    }

    fn unwritten(&self) -> Vec<Range<u64>> {
        let disk = self.disk.borrow();
        let all = disk.settings.fresh.then_some(0..disk.settings.geometry.block_count);
        all.into_iter().collect()
    }

    fn submit(&mut self, op: OpId, what: BlockOp) -> Result<(), (Error, BlockOp)> {
        if self.under_way.len() >= self.disk.borrow().settings.depth {
            return Err((Error::NoBuffers, what));
        }
        if let Err(error) = self.geometry().check(&what) {
            return Err((error, what));
        }
        let latency = self.disk.borrow_mut().latency(&what);
        let what = self.check(what)?;
        self.under_way.push(UnderWay { op, ends: self.now + latency, what });
        Ok(())
    }

    fn poll(&mut self, now: Instant, room: usize, done: &mut Vec<BlockDone>) {
        self.now = now;
        for _ in 0..room {
            let first = self.under_way.iter().enumerate().min_by_key(|(_, under_way)| under_way.ends);
            match first {
                Some((at, under_way)) if under_way.ends <= now => {
                    let ended = self.under_way.remove(at);
                    done.push(self.perform(ended));
                }
                _ => return,
            }
        }
    }

    fn flush_submissions(&mut self, now: Instant) {
        self.now = now;
    }

    fn arm(&mut self, _: Instant) -> Wake {
        let deadline = self.under_way.iter().map(|under_way| under_way.ends).min();
        Wake { deadline, on: WakeOn::Nothing }
    }
}

impl Drop for SimBlockDevice {
    /// What was submitted is carried out, in some order; nobody is told. A flush that was under way may not have begun.
    fn drop(&mut self) {
        let mut left = std::mem::take(&mut self.under_way);
        left.sort_by_key(|under_way| under_way.ends);
        for under_way in left {
            if !matches!(under_way.what, What::Flush { .. }) {
                let _ = self.perform(under_way);
            }
        }
        self.disk.borrow_mut().in_use = false;
    }
}
