//! Bindings to logs: what an actor appends is told to be durable, what it wrote before is replayed to it when it starts.
//!
//! A binding has two coroutines. One waits for the appends under way, oldest first. The other has the log's cursor: it
//! replays, then reads and truncates as it is asked to, one after the other, so that no reading is overtaken by a
//! truncation.
//!
//! Always: an append is answered by one [`Event::Durable`], after the handler that made it has returned, or by nothing if
//! the actor has died since; it may be durable then all the same. An append is not answered well before the device says
//! so. If the actor restarts it opens its log again, and what was durable is replayed.

use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::future::Future;
use std::pin::Pin;
use std::rc::Rc;
use std::task::Poll;
use std::time::Duration;

use libos_runtime::{CoroutineId, LibOs, Redeem};
use pdpix::{Error, OpenMode, QToken, Qd, Sga};

use crate::actor::{Actor, ActorId, Event, Ticket};
use crate::cell::{ActorCell, AnyCell};
use crate::system::System;
use crate::turn::Turn;

/// Names a log that an actor is bound to.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Debug)]
pub struct LogId(pub(crate) u32);

/// How a log is bound.
#[derive(Clone, Debug)]
pub struct LogSettings {
    /// The storage that it is on; `None`: the first one.
    pub storage: Option<String>,
    /// Whether it must exist.
    pub mode: OpenMode,
    /// Its records come as events before [`Event::LogReady`].
    pub replay: bool,
    /// The longest record that is read whole.
    pub len_max: usize,
    /// How long what is appended may be held back before it is written, and again before that is flushed; see
    /// [`Outbox::hurry_log`](crate::Outbox::hurry_log).
    pub patience: Duration,
}

impl Default for LogSettings {
    fn default() -> LogSettings {
        LogSettings {
            storage: None,
            mode: OpenMode::ExistingOrNew,
            replay: true,
            len_max: usize::MAX,
            patience: Duration::ZERO,
        }
    }
}

/// A record of a log.
#[derive(Debug)]
pub struct Record {
    /// Its number, from 1.
    pub sequence: u64,
    /// Its bytes.
    pub data: Sga,
    /// It is longer than is read whole.
    pub cut: bool,
}

/// What an actor wants of a log.
pub(crate) enum LogAct {
    Append(Sga),
    Read { from: u64, records_max: usize, bytes_max: usize },
    Truncate(u64),
    Hurry,
}

/// A binding, as its actor and its coroutines share it.
pub(crate) struct Log {
    pub(crate) id: LogId,
    owner: ActorId,
    qd: Qd,
    /// Appends under way, oldest first.
    appends: RefCell<VecDeque<(Ticket, Redeem)>>,
    waits_for_appends: Cell<Option<CoroutineId>>,
    /// Readings and truncations that wait for their turn.
    asked: RefCell<VecDeque<(Ticket, LogAct)>>,
    has_cursor: Cell<Option<CoroutineId>>,
}

impl Log {
    fn append(&self, system: &System, ticket: Ticket, data: Sga) -> Result<(), Error> {
        let libos = system.libos();
        let redeem = libos.redeem(libos.push(self.qd, data)?);
        self.appends.borrow_mut().push_back((ticket, redeem));
        self.waits_for_appends.get().into_iter().for_each(|coroutine| libos.wake(coroutine));
        Ok(())
    }

    /// Whether something was appended that is not known to be durable.
    pub(crate) fn is_appending(&self) -> bool {
        !self.appends.borrow().is_empty()
    }

    fn ask(&self, system: &System, ticket: Ticket, what: LogAct) {
        self.asked.borrow_mut().push_back((ticket, what));
        self.has_cursor.get().into_iter().for_each(|coroutine| system.libos().wake(coroutine));
    }

    /// The end of the oldest append.
    async fn next_durable(&self) -> (Ticket, Result<u64, Error>) {
        let ended = std::future::poll_fn(|cx| match self.appends.borrow_mut().front_mut() {
            Some((_, redeem)) => Pin::new(redeem).poll(cx),
            None => Poll::Pending,
        });
        let result = ended.await.and_then(|completion| completion.sequence());
        let (ticket, _) = self.appends.borrow_mut().pop_front().expect("it has just ended");
        (ticket, result)
    }

    async fn next_asked(&self) -> (Ticket, LogAct) {
        std::future::poll_fn(|_| match self.asked.borrow_mut().pop_front() {
            Some(asked) => Poll::Ready(asked),
            None => Poll::Pending,
        })
        .await
    }
}

/// Opens a log for an actor, and begins to replay it.
pub(crate) fn open<A: Actor>(system: &System, cell: Rc<ActorCell<A>>, id: LogId, name: &str, settings: LogSettings) {
    let qd = match system.libos().open(name, settings.mode, settings.storage.as_deref()) {
        Ok(qd) => qd,
        Err(error) => return cell.dispatch(system, Event::LogFailed { log: id, error, damage: None }),
    };
    if settings.patience > Duration::ZERO {
        let _ = system.libos().set_patience(qd, settings.patience); // it was just opened
    }
    let log = Rc::new(Log {
        id,
        owner: cell.id(),
        qd,
        appends: RefCell::default(),
        waits_for_appends: Cell::new(None),
        asked: RefCell::default(),
        has_cursor: Cell::new(None),
    });
    // Where it ends now: what is appended from here on is not replayed.
    let end = system.libos().seek(qd, u64::MAX);
    system.add_log(log.clone());
    let (theirs, told, owner) = (system.clone(), cell.clone(), log.clone());
    let durable = system.libos().spawn(async move {
        owner.waits_for_appends.set(theirs.libos().running());
        let mut turn = Turn::default();
        loop {
            let (ticket, result) = owner.next_durable().await;
            told.log_ended();
            told.dispatch(&theirs, Event::Durable { log: id, ticket, result });
            if turn.is_over() {
                theirs.libos().yield_now().await;
            }
        }
    });
    let (theirs, told) = (system.clone(), cell.clone());
    let cursor = system.libos().spawn(async move {
        log.has_cursor.set(theirs.libos().running());
        let unbind = Unbind { system: theirs.clone(), log };
        let cursor = Cursor { libos: theirs.libos(), qd, len_max: settings.len_max };
        match cursor.replay(&theirs, &told, id, end, settings.replay).await {
            Ok((first, next)) => told.dispatch(&theirs, Event::LogReady { log: id, first, next }),
            Err(error) => {
                let damage = theirs.libos().damage(qd).ok().flatten();
                told.dispatch(&theirs, Event::LogFailed { log: id, error, damage });
            }
        }
        loop {
            let (ticket, what) = unbind.log.next_asked().await;
            let event = match what {
                LogAct::Read { from, records_max, bytes_max } => {
                    let result = cursor.read(from, records_max, bytes_max).await;
                    Event::Read { log: id, ticket, result }
                }
                LogAct::Truncate(before) => {
                    let truncated = cursor.ended(theirs.libos().truncate(qd, before)).await;
                    Event::Truncated { log: id, ticket, result: truncated }
                }
                LogAct::Append(_) | LogAct::Hurry => continue,
            };
            told.log_ended();
            told.dispatch(&theirs, event);
        }
    });
    cell.own_log(id, [durable, cursor]);
}

/// Where a log is read.
struct Cursor<'a> {
    libos: &'a LibOs,
    qd: Qd,
    len_max: usize,
}

impl Cursor<'_> {
    /// The number that an operation ends with.
    async fn ended(&self, begun: Result<QToken, Error>) -> Result<u64, Error> {
        self.libos.redeem(begun?).await?.sequence()
    }

    /// The next record; `None` at the end of what is durable.
    async fn pop(&self, sequence: u64) -> Result<Option<Record>, Error> {
        let popped = self.libos.redeem(self.libos.pop(self.qd, self.len_max)?).await?.popped()?;
        let record = Record { sequence, data: popped.sga, cut: popped.cut };
        Ok((!record.data.is_empty()).then_some(record))
    }

    /// Tells of all records that were there when it was opened. Gives the first that is left, and the next to be.
    async fn replay<A: Actor>(
        &self,
        system: &System,
        cell: &Rc<ActorCell<A>>,
        log: LogId,
        end: Result<QToken, Error>,
        tell: bool,
    ) -> Result<(u64, u64), Error> {
        let end = self.ended(end).await?;
        // Damage behind the last record that can be read would otherwise be met by the first append only.
        if self.libos.damage(self.qd)?.is_some() {
            return Err(Error::Corrupt);
        }
        let first = self.ended(self.libos.seek(self.qd, 0)).await?;
        let (mut next, mut turn) = (first, Turn::default());
        while tell && next < end {
            let Some(record) = self.pop(next).await? else { break };
            next += 1;
            cell.dispatch(system, Event::Record { log, record });
            if turn.is_over() {
                self.libos.yield_now().await;
            }
        }
        Ok((first, end))
    }

    async fn read(&self, from: u64, records_max: usize, bytes_max: usize) -> Result<Vec<Record>, Error> {
        let mut next = self.ended(self.libos.seek(self.qd, from)).await?;
        let (mut records, mut bytes) = (Vec::new(), 0);
        while records.len() < records_max && bytes < bytes_max {
            let Some(record) = self.pop(next).await? else { break };
            (next, bytes) = (next + 1, bytes + record.data.len());
            records.push(record);
        }
        Ok(records)
    }
}

struct Unbind {
    system: System,
    log: Rc<Log>,
}

impl Drop for Unbind {
    fn drop(&mut self) {
        self.system.remove_log(self.log.id);
        let _ = self.system.libos().close(self.log.qd);
    }
}

impl System {
    /// Does what an actor of this core wants of a log of its own.
    pub(crate) fn act_on_log<A: Actor>(&self, cell: &Rc<ActorCell<A>>, id: LogId, ticket: Ticket, what: LogAct) {
        let log = self.log(id).filter(|log| log.owner == cell.id());
        match (log, what) {
            (None, LogAct::Hurry) => {}
            (Some(log), LogAct::Hurry) => _ = self.libos().hurry(log.qd), // it is open as long as it is bound
            (None, what) => {
                let error = Error::BadDescriptor;
                cell.dispatch(
                    self,
                    match what {
                        LogAct::Append(_) => Event::Durable { log: id, ticket, result: Err(error) },
                        LogAct::Read { .. } => Event::Read { log: id, ticket, result: Err(error) },
                        LogAct::Truncate(_) | LogAct::Hurry => Event::Truncated { log: id, ticket, result: Err(error) },
                    },
                );
            }
            (Some(log), LogAct::Append(data)) => match log.append(self, ticket, data) {
                Ok(()) => cell.logging.set(cell.logging.get() + 1),
                Err(error) => cell.dispatch(self, Event::Durable { log: id, ticket, result: Err(error) }),
            },
            (Some(log), what) => {
                cell.logging.set(cell.logging.get() + 1);
                log.ask(self, ticket, what);
            }
        }
    }
}
