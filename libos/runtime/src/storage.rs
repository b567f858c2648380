//! Storage queues: logs of the core's storages, by descriptor. A push appends and ends when the record is durable, with
//! its number; a pop reads at the cursor; a pop of length zero says that there is nothing more so far.

use std::time::Duration;

use pdpix::chase::{Program, REGISTERS};
use pdpix::{Error, Handle, LogOp, OpId, OpenMode, Outcome, QToken, Qd, Submitted, storage::Damage};

use crate::counters::count;
use crate::libos::LibOs;
use crate::queue::Kind;
use crate::token::{OpKind, OpResult};
use crate::trace::Event;

impl LibOs {
    /// Opens the log `name` of the storage called `on`, or of the first one. Recovery goes on behind it: the first
    /// operation ends when it is over, with its error if it failed.
    ///
    /// # Errors
    /// `NotFound` (no such storage, or none at all), and those of [`Storage::open`](pdpix::Storage::open).
    pub fn open(&self, name: &str, mode: OpenMode, on: Option<&str>) -> Result<Qd, Error> {
        let mut storages = self.0.storages.borrow_mut();
        let index = match on {
            Some(on) => storages.iter().position(|named| named.name == on),
            None => (!storages.is_empty()).then_some(0),
        };
        let index = index.ok_or(Error::NotFound)?;
        let handle = storages[index].storage.open(name, mode)?;
        drop(storages);
        let added = self.0.queues.borrow_mut().add(Kind::Log { storage: index as u8, handle });
        match added {
            Ok(qd) => self.note(Event::OpenLog, u64::from(qd.raw()), index as u64),
            Err(_) => self.0.storages.borrow_mut()[index].storage.close(handle),
        }
        added
    }

    /// Makes the log `name`, which must not exist, on the storage called `on`, or on the first one.
    ///
    /// # Errors
    /// As [`LibOs::open`].
    pub fn create(&self, name: &str, on: Option<&str>) -> Result<Qd, Error> {
        self.open(name, OpenMode::New, on)
    }

    /// Puts the cursor of a log before the record `sequence`, or the first that is left, or the end: its end says where
    /// ([`Outcome::Sought`]).
    ///
    /// # Errors
    /// `BadDescriptor`, `NotSupported` (not a log), `NoBuffers` (no token), and those of
    /// [`Storage::submit`](pdpix::Storage::submit).
    pub fn seek(&self, qd: Qd, sequence: u64) -> Result<QToken, Error> {
        self.forget_returned(qd);
        self.submit_to_log(qd, OpKind::Seek, sequence as usize, LogOp::Seek(sequence))
    }

    /// Frees all records of a log before `sequence`; it ends when that is durable ([`Outcome::Truncated`]).
    ///
    /// # Errors
    /// As [`LibOs::seek`].
    pub fn truncate(&self, qd: Qd, sequence: u64) -> Result<QToken, Error> {
        self.submit_to_log(qd, OpKind::Truncate, sequence as usize, LogOp::Truncate(sequence))
    }

    /// Follows references from record to record of a log, by a program that runs where the reads come back; its end brings the
    /// record that the program took ([`Outcome::Popped`]). The cursor stays where it is.
    ///
    /// # Errors
    /// As [`LibOs::seek`]; `NotSupported` also if the log is not yet recovered: nothing was read from it yet.
    pub fn chase(&self, qd: Qd, start: u64, program: &Program, registers: [u64; REGISTERS]) -> Result<QToken, Error> {
        let what = LogOp::Chase { start, program: program.clone(), registers };
        self.submit_to_log(qd, OpKind::Chase, start as usize, what)
    }

    /// What damage the log has met: asked when an operation has ended `Corrupt`.
    ///
    /// # Errors
    /// `BadDescriptor`, `NotSupported` (not a log).
    pub fn damage(&self, qd: Qd) -> Result<Option<Damage>, Error> {
        let (storage, handle) = self.log(qd)?;
        Ok(self.0.storages.borrow()[storage as usize].storage.damage(handle))
    }

    /// How long what is appended to a log may be held back, so that the device has less to do; zero: not at all.
    ///
    /// # Errors
    /// As [`LibOs::damage`].
    pub fn set_patience(&self, qd: Qd, patience: Duration) -> Result<(), Error> {
        let (storage, handle) = self.log(qd)?;
        self.0.storages.borrow_mut()[storage as usize].storage.set_patience(handle, patience);
        Ok(())
    }

    /// What was appended to a log so far is made durable now, whatever its patience.
    ///
    /// # Errors
    /// As [`LibOs::damage`].
    pub fn hurry(&self, qd: Qd) -> Result<(), Error> {
        let (storage, handle) = self.log(qd)?;
        self.0.storages.borrow_mut()[storage as usize].storage.hurry(handle);
        Ok(())
    }

    /// What each storage has done, by its name.
    pub fn storage_counters(&self) -> Vec<(String, Vec<(&'static str, u64)>)> {
        self.0.storages.borrow().iter().map(|named| (named.name.clone(), named.storage.counters())).collect()
    }

    pub(crate) fn submit_to_log(&self, qd: Qd, kind: OpKind, len: usize, what: LogOp) -> Result<QToken, Error> {
        let (storage, handle) = self.log(qd)?;
        let qt = self.0.tokens.borrow_mut().next()?;
        let submitted = self.0.storages.borrow_mut()[storage as usize].storage.submit(handle, OpId(qt.raw()), what)?;
        match submitted {
            Submitted::Pending => {
                let issued = self.issue(qd, kind, len)?;
                debug_assert_eq!(issued, qt, "submit issued a token");
                Ok(issued)
            }
            Submitted::Done(result) => {
                count(&self.0.counters.completed_at_once);
                self.issue_ended(qd, kind, len, of_log(result))
            }
        }
    }

    /// An operation of a storage has ended.
    pub(crate) fn complete_from_storage(&self, op: OpId, result: Result<Outcome<Handle>, Error>) {
        count(&self.0.counters.completed_later);
        self.complete(op, of_log(result));
    }

    fn log(&self, qd: Qd) -> Result<(u8, Handle), Error> {
        match self.0.queues.borrow_mut().get(qd)?.kind {
            Kind::Log { storage, handle } => Ok((storage, handle)),
            _ => Err(Error::NotSupported),
        }
    }
}

/// The end of an operation on a log, as its user sees it: a log accepts no queues.
pub(crate) fn of_log(result: Result<Outcome<Handle>, Error>) -> OpResult {
    Ok(match result? {
        Outcome::Appended { sequence } => Outcome::Appended { sequence },
        Outcome::Popped(popped) => Outcome::Popped(popped),
        Outcome::Sought { sequence } => Outcome::Sought { sequence },
        Outcome::Truncated { sequence } => Outcome::Truncated { sequence },
        _ => return Err(Error::NotSupported),
    })
}
