//! Finding out what is on the device, and formatting one that is blank.
//!
//! First a flush: what a process before this one had written and not flushed may be in the device's cache, where it can be
//! read, and is not durable; nothing is to be built on it. That is so on a device, too, which makes our own writes durable by
//! themselves. Then both superblocks are read, then every descriptor in both copies. A format writes in such an order that
//! one which was cut short is either blank still, or complete.

use std::collections::VecDeque;

use pdpix::{BlockOp, BufMut, Error, Geometry, Heap, OpenMode, Sga};

use crate::format::{Descriptor, Layout, meta_of, unit_of};
use crate::log::{Counters, Log, Shared, State};
use crate::settings::{Format, Settings};
use crate::store::Store;
use crate::transfers::Transfer;

/// How much is looked at before a device is taken for blank, beside the places of its superblocks.
const LOOK_LEN: u64 = 64 << 10;

/// How far it is known what is on the device.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Mount {
    /// What is read from now on is durable, when this flush is over.
    Settling,
    /// Both superblocks are being read.
    Superblocks {
        left: u32,
        found: [Found; 2],
    },
    /// Both are blank; is there anything where the first descriptors would be?
    Looking(Format),
    /// What is written, step by step.
    Writing(VecDeque<Step>),
    /// The descriptors are being read.
    Table {
        left: u32,
        found: Vec<Copy>,
    },
    Ready,
    Failed(Error),
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Found {
    Unread,
    Blank,
    Bad(Error),
    Good(Layout),
}

#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Step {
    Zero(u64, u64),
    Superblock(u64),
    Flush,
}

/// A copy of a descriptor, as it was found.
pub(crate) type Copy = Result<Option<Descriptor>, Error>;

impl Mount {
    pub(crate) fn begin() -> Mount {
        Mount::Settling
    }

    /// Whether the step that is under way writes.
    pub(crate) fn writes(&self) -> bool {
        matches!(self, Mount::Writing(steps) if !matches!(steps.front(), Some(Step::Flush) | None))
    }
}

impl Shared {
    pub(crate) fn new(geometry: Geometry, heap: Heap, settings: Settings) -> Shared {
        // What is right of this is known when the superblock is.
        let unit = unit_of(geometry).unwrap_or(512);
        let layout = Layout {
            store_id: 0,
            unit,
            device_size: geometry.block_count.saturating_mul(geometry.block_size as u64),
            extent_size: meta_of(unit),
            extent_count: 0,
            logs_max: 0,
            descriptor_size: meta_of(unit),
            table_offset: 0,
            extents_offset: 0,
        };
        Shared {
            layout,
            seed: 0,
            settings,
            heap,
            gathers: geometry.gathers as usize,
            align: (geometry.align as usize).max(1).next_power_of_two(),
            transfer_max: (geometry.transfer_max as u64).saturating_mul(geometry.block_size as u64),
            pool: VecDeque::new(),
            fresh: VecDeque::new(),
            wants_ready: false,
            is_frozen: false,
            counters: Counters::default(),
        }
    }
}

impl Store {
    pub(crate) fn start_mount(&mut self) {
        self.io.flush_wanted = true;
    }

    fn read_superblocks(&mut self) {
        self.mount = Mount::Superblocks { left: 2, found: [Found::Unread; 2] };
        let geometry = self.io.device.geometry();
        let meta = match unit_of(geometry).map(meta_of) {
            Ok(meta) if self.shared.transfer_max >= meta && self.shared.layout.device_size >= 2 * meta => meta,
            Ok(_) => return self.fail(Error::NoSpace),
            Err(error) => return self.fail(error),
        };
        let last = self.shared.layout.device_size / meta * meta - meta;
        for (copy, offset) in [0, last].into_iter().enumerate() {
            let Some(into) = self.shared.read_memory(meta) else { return self.fail(Error::NoBuffers) };
            self.io.read(Transfer::Mount(copy as u32), offset, into);
        }
    }

    /// A step of the mount has come back. Flushes of it are steps, too (`u32::MAX`).
    pub(crate) fn on_mount(&mut self, step: u32, result: Result<(), Error>, read: Option<BufMut>) {
        match &mut self.mount {
            Mount::Settling => self.read_superblocks(),
            Mount::Superblocks { left, found } => {
                *left -= 1;
                found[step as usize] = match (&result, &read) {
                    (Ok(()), Some(read)) => look(read),
                    (Ok(()), None) => Found::Bad(Error::Io),
                    (Err(error), _) => Found::Bad(*error),
                };
                if *left == 0 {
                    let found = *found;
                    self.on_superblocks(found);
                }
            }
            Mount::Looking(format) => match (result, read) {
                (Ok(()), Some(read)) => {
                    let format = *format;
                    self.on_looked(format, &read);
                }
                (Ok(()), None) => self.fail(Error::Io),
                (Err(error), _) => self.fail(error),
            },
            Mount::Writing(steps) => {
                if let Err(error) = result {
                    return self.fail(error);
                }
                steps.pop_front();
                self.write_step();
            }
            Mount::Table { left, found } => {
                *left -= 1;
                found[step as usize] = match (result, read) {
                    (Ok(()), Some(read)) => Descriptor::decode(&read, step / 2, &self.shared.layout),
                    (Ok(()), None) => Err(Error::Io),
                    (Err(error), _) => Err(error),
                };
                if *left == 0 {
                    let found = std::mem::take(found);
                    self.on_table(found);
                }
            }
            Mount::Ready | Mount::Failed(_) => {}
        }
    }

    fn on_superblocks(&mut self, found: [Found; 2]) {
        let geometry = self.io.device.geometry();
        let good = found.iter().find_map(|found| if let Found::Good(layout) = found { Some(*layout) } else { None });
        match (good, found) {
            (Some(layout), _) => {
                if let Err(error) = layout.check_device(geometry) {
                    return self.fail(error);
                }
                self.use_layout(layout);
                self.read_table();
            }
            (None, [Found::Blank, _]) => match self.shared.settings.format {
                None => self.fail(Error::NotFound),
                Some(format) => self.look_behind(format),
            },
            (None, [Found::Bad(error), _]) => self.fail(error),
            (None, _) => self.fail(Error::Corrupt),
        }
    }

    /// A store that has lost its superblocks still has descriptors: it is not to be formatted. (The second superblock is not
    /// where it is looked for if the device has grown, and a cut at the wrong place can take the first.)
    fn look_behind(&mut self, format: Format) {
        let geometry = self.io.device.geometry();
        let meta = self.shared.layout.meta();
        let most = self.shared.transfer_max.min(self.shared.layout.device_size - meta).min(LOOK_LEN);
        let len = 1 << most.ilog2();
        if let Err(error) = Layout::plan(geometry, format) {
            return self.fail(error);
        }
        let Some(into) = self.shared.read_memory(len) else { return self.fail(Error::NoBuffers) };
        self.mount = Mount::Looking(format);
        self.io.read(Transfer::Mount(0), meta, into);
    }

    fn on_looked(&mut self, format: Format, read: &[u8]) {
        if read.iter().any(|&byte| byte != 0) {
            return self.fail(Error::Corrupt);
        }
        match Layout::plan(self.io.device.geometry(), format) {
            Ok(layout) => self.format(layout),
            Err(error) => self.fail(error),
        }
    }

    fn use_layout(&mut self, layout: Layout) {
        self.shared.layout = layout;
        self.shared.seed = layout.checksum_seed();
        // A transfer is of whole units, so that batches are cut between them.
        self.shared.transfer_max = self.shared.transfer_max / layout.unit * layout.unit;
        let write_max = &mut self.shared.settings.write_max;
        *write_max = (*write_max).min(self.shared.transfer_max as usize).max(layout.unit as usize);
    }

    /// The table is blank before a superblock says that there is one; the first superblock is the last to be written.
    fn format(&mut self, layout: Layout) {
        self.use_layout(layout);
        let mut steps = VecDeque::new();
        let piece = self.shared.transfer_max.min(64 << 10);
        let mut at = layout.table_offset;
        while at < layout.extents_offset {
            let len = piece.min(layout.extents_offset - at);
            steps.push_back(Step::Zero(at, len));
            at += len;
        }
        let [first, second] = layout.superblocks();
        steps.extend([Step::Flush, Step::Superblock(second), Step::Flush, Step::Superblock(first), Step::Flush]);
        self.mount = Mount::Writing(steps);
        self.write_step();
    }

    fn write_step(&mut self) {
        let Mount::Writing(steps) = &mut self.mount else { return };
        let (offset, len, bytes) = match steps.front() {
            None => return self.read_table(),
            Some(Step::Flush) => {
                // A device that needs none has done it.
                if self.io.want_flush() == 0 {
                    steps.pop_front();
                    self.write_step();
                }
                return;
            }
            Some(&Step::Zero(offset, len)) => (offset, len, None),
            Some(&Step::Superblock(offset)) => (offset, self.shared.layout.meta(), Some(self.shared.layout.encode())),
        };
        let Ok(mut page) = self.shared.heap.alloc_aligned(len as usize, self.shared.align.max(512)) else {
            return self.fail(Error::NoBuffers);
        };
        bytes.iter().for_each(|bytes| _ = page.put(bytes));
        page.resize(len as usize, 0);
        self.io.write(Transfer::Mount(0), offset, Sga::from(page.freeze()));
    }

    fn read_table(&mut self) {
        let layout = self.shared.layout;
        if layout.descriptor_size > self.shared.transfer_max {
            return self.fail(Error::NotSupported);
        }
        let left = 2 * layout.logs_max;
        self.mount = Mount::Table { left, found: vec![Ok(None); left as usize] };
        for step in 0..left {
            let Some(into) = self.shared.read_memory(layout.descriptor_size) else {
                return self.fail(Error::NoBuffers);
            };
            let offset = layout.descriptor(step / 2, step % 2);
            let lba = offset / self.io.block_size;
            self.io.submit(Transfer::Mount(step), BlockOp::Read { lba, into });
        }
    }

    fn on_table(&mut self, found: Vec<Copy>) {
        let layout = self.shared.layout;
        let mut owners: Vec<Option<usize>> = vec![None; layout.extent_count as usize];
        for copies in found.chunks_exact(2) {
            let (descriptor, good_copy) = match (&copies[0], &copies[1]) {
                (Ok(Some(a)), Ok(Some(b))) if b.generation > a.generation => (b, 1),
                (Ok(Some(a)), _) => (a, 0),
                (_, Ok(Some(b))) => (b, 1),
                // Never used; or the first copy of a new log was cut short.
                (Ok(None), _) | (_, Ok(None)) => continue,
                // The device would not say; that is no damage.
                (Err(error), Err(_)) | (Err(_), Err(error)) if *error != Error::Corrupt => return self.fail(*error),
                (Err(_), Err(_)) => {
                    self.shared.is_frozen = true;
                    continue;
                }
            };
            let index = self.logs.len();
            let mut log = Log::new(descriptor.clone(), good_copy, &self.shared);
            for extent in &descriptor.extents {
                let owner = &mut owners[extent.number as usize];
                if owner.is_some() {
                    log.state = State::Failed(Error::Corrupt);
                    self.shared.is_frozen = true;
                }
                *owner = Some(index);
            }
            self.logs.push(log);
        }
        let free = owners.iter().enumerate().filter(|(_, owner)| owner.is_none());
        self.shared.pool = free.map(|(number, _)| number as u32).collect();
        self.find_fresh();
        self.mount = Mount::Ready;
        self.name_handles();
    }

    /// Whoever has opened a log before it was known which there are.
    fn name_handles(&mut self) {
        let waiting: Vec<usize> = self.handles.iter().map(|(key, _)| key).collect();
        for key in waiting {
            let cursor = &self.handles[key];
            let (name, mode) = (cursor.name.clone(), cursor.mode);
            match self.resolve(&name, mode) {
                Err(error) => self.fail_cursor(key as u32, error),
                Ok(index) => {
                    let cursor = &mut self.handles[key];
                    cursor.log = Some(index);
                    if let Some(patience) = cursor.patience {
                        self.logs[index].patience = patience;
                    }
                    // An append that came early stands in line there, in the order in which it came.
                    let ops = std::mem::take(&mut cursor.ops);
                    self.wake_log(index, mode);
                    ops.into_iter().for_each(|op| self.resubmit(key as u32, op));
                }
            }
        }
    }

    /// Which log is meant. A new one is made.
    pub(crate) fn resolve(&mut self, name: &str, mode: OpenMode) -> Result<usize, Error> {
        let there = self.logs.iter().position(|log| log.descriptor.name == name);
        match (there, mode) {
            (Some(_), OpenMode::New) => Err(Error::AlreadyExists),
            (Some(index), _) => match self.logs[index].state {
                State::Failed(why) => Err(why),
                _ => Ok(index),
            },
            // It may be the one whose descriptor is lost.
            (None, _) if self.shared.is_frozen => Err(Error::Corrupt),
            (None, OpenMode::Existing | OpenMode::ReadOnly) => Err(Error::NotFound),
            (None, OpenMode::New | OpenMode::ExistingOrNew) => self.make(name),
        }
    }

    fn make(&mut self, name: &str) -> Result<usize, Error> {
        let is_used = |slot: u32| self.logs.iter().any(|log| log.descriptor.slot == slot);
        let slot = (0..self.shared.layout.logs_max).find(|&slot| !is_used(slot)).ok_or(Error::NoSpace)?;
        let number = self.logs.iter().map(|log| log.descriptor.log).max().unwrap_or(0) + 1;
        let descriptor = Descriptor {
            slot,
            log: number,
            generation: 0,
            epoch: 0,
            mark_epoch: 0,
            name: name.to_string(),
            first_sequence: 1,
            first_position: 0,
            mark_sequence: 1,
            mark_position: 0,
            window: 0,
            extents_base: 0,
            extents: Vec::new(),
        };
        let mut log = Log::new(descriptor, 1, &self.shared);
        log.grow(1, &mut self.shared)?;
        self.logs.push(log);
        Ok(self.logs.len() - 1)
    }
}

fn look(bytes: &[u8]) -> Found {
    match Layout::decode(bytes) {
        Ok(layout) => Found::Good(layout),
        Err(_) if bytes.iter().all(|&byte| byte == 0) => Found::Blank,
        Err(error) => Found::Bad(error),
    }
}
