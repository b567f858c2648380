//! A command carried out away from its keys: their values are brought to an engine of its own, and what has become of
//! them is brought back.

use pdpix::{Buf, Exhausted, Heap, Output, Rng, Seed, WallTime};

use super::Package;
use super::part::{Change, Want, Wanted};
use crate::blob::Blob;
use crate::command::{Command, KeyFlags, keys_of};
use crate::engine::{At, DATABASES, Engine, Limits, Session};
use crate::number::parse_i64;
use crate::resp::Request;

/// Such a command.
#[derive(Debug)]
pub(super) struct Scratch {
    command: &'static Command,
    request: Request,
    session: Session,
    /// The keys, each but once, in the order in which they are named.
    keys: Vec<Key>,
}

#[derive(Debug)]
struct Key {
    database: u8,
    /// The argument.
    index: usize,
    want: Want,
    read: bool,
    written: bool,
}

impl Scratch {
    pub fn new(command: &'static Command, request: &Request, session: Session) -> Scratch {
        let mut keys: Vec<Key> = Vec::new();
        for (index, flags) in keys_of(command, request).unwrap_or_default() {
            let database = database_of(command, request, index).unwrap_or(session.database);
            let written = [KeyFlags::RW, KeyFlags::OW, KeyFlags::RM].into_iter().any(|flag| flags.contains(flag));
            // What is overwritten is not looked at.
            let want = if flags.contains(KeyFlags::OW) { Want::Presence } else { Want::Value };
            let same = |key: &&mut Key| key.database == database && request.arg(key.index) == request.arg(index);
            match keys.iter_mut().find(same) {
                Some(key) => {
                    key.want = key.want.max(want);
                    key.written |= written;
                    key.read |= !written;
                }
                None => keys.push(Key { database, index, want, read: !written, written }),
            }
        }
        Scratch { command, request: request.clone(), session, keys }
    }

    /// What is to be fetched: each key with how to ask for it.
    pub fn keys(&self) -> impl Iterator<Item = (&[u8], Wanted)> {
        self.keys.iter().map(|key| {
            let &Key { database, index, want, read, .. } = key;
            (self.request.arg(index), Wanted { database, key: self.request.buf(index), want, counts: read })
        })
    }

    /// Carries the command out on what `next` gives for each key. The reply, and what has changed.
    pub fn carry_out(
        self,
        mut next: impl FnMut(&[u8]) -> Option<Package>,
        limits: Limits,
        now: WallTime,
        heap: &Heap,
    ) -> Result<(Vec<Buf>, Vec<Change>), Exhausted> {
        let mut engine = Engine::new((0, 1), heap.clone(), Seed::new(0), Rng::new(0));
        engine.set_limits(Limits { memory: None, spans_left: 0, ..limits });
        for key in &self.keys {
            let bytes = self.request.arg(key.index);
            let Some(package) = next(bytes) else { continue };
            let hash = engine.key(bytes).hash;
            let name = Blob::keep(bytes, || self.request.buf(key.index), heap)?;
            let entry = package.unpack(name, hash, &engine.tools, now.as_millis())?;
            engine.database_mut(at(key.database, now)).insert(entry);
        }
        let mut out = Output::new(heap.clone());
        engine.execute(self.command, &self.request, self.session, now, &mut out);
        let reply = out.take()?.segments().to_vec();
        let mut changes = Vec::new();
        if engine.stats().changes > 0 {
            for key in self.keys.iter().filter(|key| key.written) {
                changes.push(self.change_of(key, &mut engine, now)?);
            }
        }
        Ok((reply, changes))
    }

    fn change_of(&self, key: &Key, engine: &mut Engine, now: WallTime) -> Result<Change, Exhausted> {
        let (database, name, heap) = (key.database, self.request.buf(key.index), engine.tools.heap.clone());
        let hashed = engine.key(&name);
        Ok(match engine.find(at(database, now), &hashed) {
            Some(entry) => {
                let package = Package::of(entry, Want::Value, &heap)?;
                Change::Put { database, key: name, package }
            }
            None => Change::Delete { database, key: name },
        })
    }
}

fn at(database: u8, now: WallTime) -> At {
    At { database: usize::from(database), now: now.as_millis() }
}

/// The database of a key that is not in the selected one: COPY's destination.
fn database_of(command: &Command, request: &Request, index: usize) -> Option<u8> {
    if command.name != "copy" || index != 2 {
        return None;
    }
    // The last one counts. What is no such option is refused when the command is carried out.
    let mut options = (3..request.len().saturating_sub(1)).rev();
    let option = options.find(|&index| request.arg(index).eq_ignore_ascii_case(b"db"))?;
    let database = parse_i64(request.arg(option + 1))?;
    u8::try_from(database).ok().filter(|&database| usize::from(database) < DATABASES)
}
