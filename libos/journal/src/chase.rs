//! Chases: dependent reads by a small verified program ([`pdpix::chase`]), resubmitted where the reads come back.
//!
//! A chase has a reader of its own; cursors do not move. Bound: `CHASES_MAX` at a time.

use pdpix::chase::{Next, Program, REGISTERS};
use pdpix::storage::Damage;
use pdpix::{Error, Handle, OpId, Outcome, Popped, Sga, Submitted};

use crate::log::State;
use crate::reader::{Read, Reader};
use crate::store::Store;
use crate::transfers::Transfer;

/// The most chases at a time.
const CHASES_MAX: usize = 1024;

#[derive(Debug)]
pub(crate) struct Chase {
    /// `None`: it has ended, and waits for what it had asked the device for.
    op: Option<OpId>,
    pub(crate) handle: u32,
    log: usize,
    reader: Reader,
    /// The record that is looked for.
    wanted: u64,
    is_on_its_way: bool,
    program: Program,
    registers: [u64; REGISTERS],
    steps_left: u32,
}

impl Store {
    /// Begins a chase on a log that is ready.
    pub(crate) fn chase(
        &mut self,
        handle: u32,
        op: OpId,
        start: u64,
        program: Program,
        registers: [u64; REGISTERS],
    ) -> Result<Submitted, Error> {
        let cursor = self.handles.get_mut(handle as usize).ok_or(Error::BadDescriptor)?;
        let Some(log) = cursor.log else { return Err(Error::NotSupported) };
        match self.logs[log].state {
            State::Ready => {}
            State::Failed(why) => return Err(why),
            // Its user opens a log, and waits for a first seek or pop, before it looks things up in it.
            _ => return Err(Error::NotSupported),
        }
        if self.chases.len() >= CHASES_MAX {
            return Err(Error::NoBuffers);
        }
        cursor.outstanding += 1;
        let chase = Chase {
            op: Some(op),
            handle,
            log,
            reader: self.shared.reader(),
            wanted: start,
            is_on_its_way: false,
            steps_left: program.steps_max(),
            program,
            registers,
        };
        let key = self.chases.insert(chase) as u32;
        self.go_on_with_chase(key);
        Ok(Submitted::Pending)
    }

    /// As far as what it needs is here.
    pub(crate) fn go_on_with_chase(&mut self, key: u32) {
        while self.chases.get(key as usize).is_some_and(|chase| chase.op.is_some()) {
            match self.step_chase(key) {
                None => return,
                Some(Ok(None)) => {}
                Some(Ok(Some(found))) => self.end_chase(key, Ok(Outcome::Popped(Popped::stream(found)))),
                Some(Err(error)) => self.end_chase(key, Err(error)),
            }
        }
        self.bury_chase(key);
    }

    /// The next record of a chase: `None` if it has to be fetched, nothing if it leads on.
    fn step_chase(&mut self, key: u32) -> Option<Result<Option<Sga>, Error>> {
        let chase = &mut self.chases[key as usize];
        let log = &self.logs[chase.log];
        if let State::Failed(why) = log.state {
            return Some(Err(why));
        }
        if !(log.descriptor.first_sequence..=log.committed_sequence).contains(&chase.wanted) {
            return Some(Err(Error::NotFound));
        }
        if !chase.is_on_its_way || chase.reader.position < log.descriptor.first_position {
            chase.is_on_its_way = true;
            let (sequence, position) = log.nearest(chase.wanted, &self.shared.layout);
            chase.reader.go(position, sequence, 0);
        }
        let ground = log.ground(&self.shared.layout);
        match chase.reader.step(&ground) {
            Read::Record(found) if found.header.sequence < chase.wanted => Some(Ok(None)),
            Read::Record(found) => Some(chase.run(found.payload)),
            Read::NeedData => {
                self.fetch_for_chase(key);
                (self.chases[key as usize].reader.in_flight == 0).then_some(Ok(None))
            }
            Read::Failed(error) => Some(Err(error)),
            Read::End | Read::Invalid { .. } => {
                let offset = log.offset(chase.reader.position, &self.shared.layout).unwrap_or(0);
                let damage = Damage { offset, sequence: chase.reader.expected, lost: 1 };
                let handle = chase.handle as usize;
                if let Some(cursor) = self.handles.get_mut(handle) {
                    cursor.damage = Some(damage);
                }
                Some(Err(Error::Corrupt))
            }
        }
    }

    fn fetch_for_chase(&mut self, key: u32) {
        let chase = &mut self.chases[key as usize];
        let log = &self.logs[chase.log];
        let ground = log.ground(&self.shared.layout);
        while let Some(fetch) = chase.reader.next_fetch(&ground) {
            match (log.offset(fetch.position, &self.shared.layout), self.shared.read_memory(fetch.len)) {
                (Some(offset), Some(into)) => self.io.read(Transfer::Chase { key, fetch }, offset, into),
                (None, _) => chase.reader.refuse(fetch, Error::NotFound),
                (_, None) => chase.reader.refuse(fetch, Error::NoBuffers),
            }
        }
    }

    fn end_chase(&mut self, key: u32, result: Result<Outcome<Handle>, Error>) {
        let chase = &mut self.chases[key as usize];
        if let Some(op) = chase.op.take() {
            let handle = chase.handle;
            self.end(op, handle, result);
        }
    }

    /// Those of a handle, or the one of an operation, are given up.
    pub(crate) fn cancel_chases(&mut self, handle: u32, only: Option<OpId>) {
        let is_meant = |chase: &Chase| chase.handle == handle && only.is_none_or(|op| chase.op == Some(op));
        let meant: Vec<u32> =
            self.chases.iter().filter(|(_, chase)| is_meant(chase)).map(|(key, _)| key as u32).collect();
        for key in meant {
            self.end_chase(key, Err(Error::Canceled));
            self.bury_chase(key);
        }
    }

    fn bury_chase(&mut self, key: u32) {
        if self.chases.get(key as usize).is_some_and(|chase| chase.op.is_none() && chase.reader.in_flight == 0) {
            self.chases.remove(key as usize);
        }
    }
}

impl Chase {
    pub(crate) fn reader(&mut self) -> &mut Reader {
        &mut self.reader
    }

    /// Runs the program on the record that was looked for.
    fn run(&mut self, payload: Sga) -> Result<Option<Sga>, Error> {
        self.steps_left -= 1;
        let len = payload.len();
        let load = |offset: usize, into: &mut [u8]| payload.copy_to(offset, into) == into.len();
        match self.program.run(&mut self.registers, self.wanted, len, load)? {
            Next::Take => Ok(Some(payload)),
            Next::Follow(_) if self.steps_left == 0 => Err(Error::Overflow),
            Next::Follow(sequence) => {
                (self.wanted, self.is_on_its_way) = (sequence, false);
                Ok(None)
            }
        }
    }
}
