//! What a conversation asks of one shard, and what that one answers. `B` is what bytes lie in: a [`Buf`] of this core, or
//! whatever carries one to another.

use pdpix::{Buf, WallTime};

use super::package::Package;
use crate::engine::Session;
use crate::resp::Request;

/// A part of a conversation, for one shard.
#[derive(Debug)]
pub enum Part<B = Buf> {
    /// A whole command on keys of this shard.
    Run {
        /// The command.
        request: Request<B>,
        /// In which database, and how to answer.
        session: Session,
        /// It is all that a client has asked for ([`Plan::Shard`](super::Plan::Shard), sent from another core): counted as
        /// a command. What a conversation asks is counted by whoever leads it.
        whole: bool,
    },
    /// The values of keys.
    Fetch {
        /// Of these.
        keys: Vec<Wanted<B>>,
    },
    /// To get everything ready for these changes, so that they cannot fail, but not to make them yet.
    Stage {
        /// In this order.
        changes: Vec<Change<B>>,
        /// The command may need memory: it is refused when `maxmemory` is reached.
        bounded: bool,
    },
    /// To make the changes that were made ready.
    Commit,
    /// To forget them.
    Abort,
}

/// A key that is asked for.
#[derive(Debug)]
pub struct Wanted<B = Buf> {
    /// Where.
    pub database: u8,
    /// The key.
    pub key: B,
    /// What of it.
    pub want: Want,
    /// It counts as a read, hit or miss.
    pub counts: bool,
}

/// What is asked for of a key.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum Want {
    /// Whether it is there.
    Presence,
    /// Its value if that is a string, or else whether it is there.
    Text,
    /// Its value.
    Value,
}

/// A change of one key.
#[derive(Debug)]
pub enum Change<B = Buf> {
    /// The key gets this value; whatever it had goes.
    Put {
        /// Where.
        database: u8,
        /// The key.
        key: B,
        /// The value.
        package: Package<B>,
    },
    /// The key goes.
    Delete {
        /// Where.
        database: u8,
        /// The key.
        key: B,
    },
}

/// What a shard answers to a part.
#[derive(Debug)]
pub enum Answer<B = Buf> {
    /// To [`Part::Run`]: the reply, as it would be sent.
    Reply(Vec<B>),
    /// To [`Part::Fetch`]: for each key its value, if it has one.
    Fetched(Vec<Option<Package<B>>>),
    /// To [`Part::Stage`], [`Part::Commit`], [`Part::Abort`].
    Done,
    /// To any: there is no memory for it. Nothing was changed.
    Exhausted,
}

impl<B> Part<B> {
    /// The same part in other buffers, for its way to another core. What was mapped already is dropped on an error.
    ///
    /// # Errors
    /// The first that `map` gives.
    pub fn try_map_bufs<C, E>(self, mut map: impl FnMut(B) -> Result<C, E>) -> Result<Part<C>, E>
    where
        B: std::ops::Deref<Target = [u8]>,
    {
        Ok(match self {
            Part::Run { request, session, whole } => Part::Run { request: request.try_map_bufs(map)?, session, whole },
            Part::Fetch { keys } => {
                let keys = keys.into_iter().map(|Wanted { database, key, want, counts }| {
                    Ok(Wanted { database, key: map(key)?, want, counts })
                });
                Part::Fetch { keys: keys.collect::<Result<_, E>>()? }
            }
            Part::Stage { changes, bounded } => {
                let changes = changes.into_iter().map(|change| change.try_map_bufs(&mut map));
                Part::Stage { changes: changes.collect::<Result<_, E>>()?, bounded }
            }
            Part::Commit => Part::Commit,
            Part::Abort => Part::Abort,
        })
    }
}

impl<B> Change<B> {
    /// The key that changes.
    pub fn key(&self) -> &B {
        match self {
            Change::Put { key, .. } | Change::Delete { key, .. } => key,
        }
    }

    fn try_map_bufs<C, E>(self, map: &mut impl FnMut(B) -> Result<C, E>) -> Result<Change<C>, E> {
        Ok(match self {
            Change::Put { database, key, package } => {
                Change::Put { database, key: map(key)?, package: package.try_map_buf(map)? }
            }
            Change::Delete { database, key } => Change::Delete { database, key: map(key)? },
        })
    }
}

impl<B> Answer<B> {
    /// The same answer in other buffers, for its way back. What was mapped already is dropped on an error.
    ///
    /// # Errors
    /// The first that `map` gives.
    pub fn try_map_bufs<C, E>(self, mut map: impl FnMut(B) -> Result<C, E>) -> Result<Answer<C>, E> {
        Ok(match self {
            Answer::Reply(bufs) => Answer::Reply(bufs.into_iter().map(map).collect::<Result<_, E>>()?),
            Answer::Fetched(packages) => {
                let packages = packages.into_iter();
                let packages = packages.map(|package| package.map(|package| package.try_map_buf(&mut map)).transpose());
                Answer::Fetched(packages.collect::<Result<_, E>>()?)
            }
            Answer::Done => Answer::Done,
            Answer::Exhausted => Answer::Exhausted,
        })
    }
}

mod on_engine {
    use pdpix::{Exhausted, Output};

    use super::*;
    use crate::blob::Blob;
    use crate::command::{Spread, find};
    use crate::engine::{At, Engine};
    use crate::keyspace::Entry;
    use crate::resp::Reply;

    /// A change that cannot fail any more.
    #[derive(Debug)]
    pub(crate) struct Staged {
        database: u8,
        key: Blob,
        hash: u64,
        /// What the key becomes; `None`: it goes.
        entry: Option<Entry>,
    }

    impl Engine {
        /// Does this shard's part in a conversation.
        pub fn carry_out(&mut self, part: Part<Buf>, now: WallTime) -> Answer<Buf> {
            let done = match part {
                Part::Run { request, session, whole } => self.run(&request, session, whole, now),
                Part::Fetch { keys } => self.fetch(&keys, now),
                Part::Stage { changes, bounded } => self.stage(changes, bounded, now),
                Part::Commit => {
                    self.commit(now);
                    Ok(Answer::Done)
                }
                Part::Abort => {
                    self.staged.clear();
                    Ok(Answer::Done)
                }
            };
            done.unwrap_or(Answer::Exhausted)
        }

        fn run(
            &mut self,
            request: &Request,
            session: Session,
            whole: bool,
            now: WallTime,
        ) -> Result<Answer<Buf>, Exhausted> {
            let mut out = Output::new(self.tools.heap.clone());
            // Memory for a short reply comes first: what was carried out must be answered.
            let mark = out.mark();
            out.put(b"?");
            if out.has_failed() {
                return Err(Exhausted);
            }
            out.rollback(mark);
            let counted = (!whole).then(|| (self.stats, std::mem::take(&mut self.errors)));
            let mut reads = true;
            match find(request) {
                Ok(command) => {
                    self.execute(command, request, session, now, &mut out);
                    // What is asked on the way to a SMOVE or LMOVE is no read of the client's.
                    reads = command.spread != Spread::Values;
                }
                Err(refusal) => Reply::new(&mut out, session.protocol).error(&refusal.text(None, request)),
            }
            // One command of a client is one command, however many parts it has.
            if let Some((stats, errors)) = counted {
                (self.stats.commands, self.errors) = (stats.commands, errors);
                if !reads {
                    (self.stats.hits, self.stats.misses) = (stats.hits, stats.misses);
                }
            }
            Ok(Answer::Reply(out.take()?.segments().to_vec()))
        }

        fn fetch(&mut self, keys: &[Wanted], now: WallTime) -> Result<Answer<Buf>, Exhausted> {
            let heap = self.tools.heap.clone();
            let mut packages = Vec::with_capacity(keys.len());
            for Wanted { database, key, want, counts } in keys {
                let at = At { database: usize::from(*database), now: now.as_millis() };
                let key = self.key(key);
                let entry = if *counts { self.read(at, &key) } else { self.find(at, &key).map(|entry| &*entry) };
                packages.push(entry.map(|entry| Package::of(entry, *want, &heap)).transpose()?);
            }
            Ok(Answer::Fetched(packages))
        }

        fn stage(&mut self, changes: Vec<Change<Buf>>, bounded: bool, now: WallTime) -> Result<Answer<Buf>, Exhausted> {
            debug_assert!(self.staged.is_empty(), "held for two conversations");
            // What was deleted counts until it is freed.
            while bounded && self.is_over_limit() {
                if !self.garbage.free_some() {
                    return Err(Exhausted);
                }
            }
            let mut staged = Vec::with_capacity(changes.len());
            for change in changes {
                let (database, key, package) = match change {
                    Change::Put { database, key, package } => (database, key, Some(package)),
                    Change::Delete { database, key } => (database, key, None),
                };
                let hash = self.key(&key).hash;
                let key = Blob::keep(&key, || key.clone(), &self.tools.heap)?;
                let entry = package.map(|package| package.unpack(key.clone(), hash, &self.tools, now.as_millis()));
                staged.push(Staged { database, key, hash, entry: entry.transpose()? });
            }
            self.staged = staged;
            Ok(Answer::Done)
        }

        fn commit(&mut self, now: WallTime) {
            for Staged { database, key, hash, entry } in std::mem::take(&mut self.staged) {
                let at = At { database: usize::from(database), now: now.as_millis() };
                self.delete(at, &crate::keyspace::Key { bytes: &key, hash });
                self.note_key(at, &key, entry.as_ref());
                if let Some(entry) = entry {
                    self.database_mut(at).insert(entry);
                }
                self.stats.changes += 1;
            }
        }
    }
}

pub(crate) use on_engine::Staged;
