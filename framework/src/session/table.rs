//! The sessions of a core, and what each shares with those who write to it.

use std::any::TypeId;
use std::cell::{Cell, RefCell};
use std::rc::Rc;

use libos_runtime::CoroutineId;
use pdpix::{Heap, Instant, Output, OutputMark};
use slab::Slab;

use super::SessionId;
use crate::actor::ActorId;
use crate::codec::Codec;

/// All sessions of a core.
pub(crate) struct SessionTable {
    entries: Slab<Rc<Entry>>,
    generation: u32,
    heap: Heap,
}

/// A session, as its coroutine and those who write to it share it.
pub(crate) struct Entry {
    pub(crate) id: SessionId,
    owner: ActorId,
    codec: TypeId,
    pub(crate) output: RefCell<Output>,
    /// How the output was before the present event, if that has written to it.
    pub(crate) mark: Cell<Option<OutputMark>>,
    /// Its coroutine, once it runs.
    pub(crate) coroutine: Cell<Option<CoroutineId>>,
    pub(crate) paused: Cell<bool>,
    /// What is written waits until it is released.
    pub(super) held: Cell<bool>,
    pub(super) close: Cell<Close>,
    /// When something came last.
    pub(super) heard: Cell<Instant>,
}

#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub(crate) enum Close {
    No,
    /// When everything written is pushed.
    Flushed,
    Now,
}

impl Entry {
    /// An event is about to write to it.
    #[inline]
    pub(crate) fn set_mark(&self) {
        // One that has written to others meanwhile goes back to where it was at first.
        if self.mark.get().is_none() {
            self.mark.set(Some(self.output.borrow().mark()));
        }
    }

    /// What the event has written is to stay.
    #[inline]
    pub(crate) fn keep_written(&self) {
        self.mark.set(None);
    }

    /// What the event has written is to go.
    pub(crate) fn forget_written(&self) {
        if let Some(mark) = self.mark.take() {
            self.output.borrow_mut().rollback(mark);
        }
    }

    /// Whether it can be written to.
    pub(crate) fn is_open(&self) -> bool {
        self.close.get() == Close::No
    }
}

impl SessionTable {
    pub(crate) fn new(heap: Heap) -> SessionTable {
        SessionTable { entries: Slab::new(), generation: 0, heap }
    }

    pub(crate) fn add<C: Codec>(&mut self, owner: ActorId) -> SessionId {
        self.generation = self.generation.wrapping_add(1);
        let vacant = self.entries.vacant_entry();
        let id = SessionId { index: vacant.key() as u32, generation: self.generation };
        vacant.insert(Rc::new(Entry {
            id,
            owner,
            codec: TypeId::of::<C>(),
            output: RefCell::new(Output::new(self.heap.clone())),
            mark: Cell::default(),
            coroutine: Cell::new(None),
            paused: Cell::new(false),
            held: Cell::new(false),
            close: Cell::new(Close::No),
            heard: Cell::new(Instant::default()),
        }));
        id
    }

    #[inline]
    pub(crate) fn get(&self, id: SessionId) -> Option<&Rc<Entry>> {
        self.entries.get(id.index as usize).filter(|entry| entry.id == id)
    }

    pub(crate) fn has_codec<C: Codec>(&self, id: SessionId) -> bool {
        self.get(id).is_some_and(|entry| entry.codec == TypeId::of::<C>())
    }

    pub(crate) fn heard(&self, id: SessionId) -> Option<Instant> {
        self.get(id).map(|entry| entry.heard.get())
    }

    #[inline]
    pub(crate) fn pause(&self, id: SessionId, paused: bool) {
        if let Some(entry) = self.get(id) {
            entry.paused.set(paused);
        }
    }

    /// What is written to it is not pushed, or is again. Its coroutine, which may have something to push then.
    #[inline]
    pub(crate) fn hold(&self, id: SessionId, held: bool) -> Option<CoroutineId> {
        let entry = self.get(id)?;
        entry.held.set(held);
        entry.coroutine.get()
    }

    /// The session is to be closed, flushed or not. Its coroutine, to be woken.
    pub(crate) fn close(&self, id: SessionId, flush: bool) -> Option<CoroutineId> {
        let entry = self.get(id)?;
        entry.close.set(entry.close.get().max(if flush { Close::Flushed } else { Close::Now }));
        entry.paused.set(true); // no more messages from it
        entry.coroutine.get()
    }

    /// The coroutines of all sessions.
    pub(crate) fn coroutines(&self) -> Vec<CoroutineId> {
        self.entries.iter().filter_map(|(_, entry)| entry.coroutine.get()).collect()
    }

    pub(crate) fn len(&self) -> usize {
        self.entries.len()
    }

    /// Bytes written and not yet pushed, on all sessions.
    pub(crate) fn written(&self) -> usize {
        self.entries.iter().map(|(_, entry)| entry.output.borrow().len()).sum()
    }

    /// Sessions of one actor.
    pub(crate) fn owned_by(&self, owner: ActorId) -> usize {
        self.entries.iter().filter(|(_, entry)| entry.owner == owner).count()
    }

    pub(crate) fn remove(&mut self, id: SessionId) {
        if self.get(id).is_some() {
            self.entries.remove(id.index as usize);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::codec::Raw;
    use crate::harness::test_heap;

    #[test]
    fn a_session_goes_back_to_where_it_was_before_the_event() {
        let mut table = SessionTable::new(test_heap());
        let id = table.add::<Raw>(ActorId { core: 0, slot: 0, generation: 0 });
        let entry = table.get(id).expect("it was added");
        let write = |bytes: &[u8]| {
            entry.set_mark();
            entry.output.borrow_mut().put(bytes);
        };
        write(b"kept");
        entry.keep_written();
        // Written to a second time, after others: the first mark counts.
        write(b"lost");
        write(b"lost too");
        entry.forget_written();
        write(b" as well");
        entry.keep_written();
        entry.forget_written();
        assert_eq!(entry.output.borrow_mut().take().map(|sga| sga.to_vec()), Ok(b"kept as well".to_vec()));
    }
}
