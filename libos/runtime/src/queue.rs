//! The queue table: what a descriptor stands for.
//!
//! Always: a descriptor's generation is that of its place's present queue, or it is refused (EBADF). Places are reused
//! first-in first-out. Bound: 2^20 queues.

use std::collections::VecDeque;

use pdpix::{Error, Handle, Qd, SocketKind};

use crate::memory_queue::MemoryQueue;
use crate::mesh::Attached;
use crate::returned::Returned;

/// What a queue is.
#[derive(Debug)]
pub(crate) enum Kind {
    /// A handle of a network.
    Socket { network: u8, handle: Handle, socket: SocketKind },
    /// A handle of a storage: a log, with a cursor.
    Log { storage: u8, handle: Handle },
    /// In memory, on this core.
    Memory(Box<MemoryQueue>),
    /// The sending end of a memory queue of another core.
    Attached(Box<Attached>),
}

#[derive(Debug)]
pub(crate) struct Queue {
    pub(crate) kind: Kind,
    pub(crate) returned: Option<Box<Returned>>,
}

#[derive(Default)]
pub(crate) struct QueueTable {
    places: Vec<Place>,
    free: VecDeque<u32>,
}

struct Place {
    generation: u32,
    queue: Option<Queue>,
}

const QUEUES_MAX: usize = 1 << Qd::INDEX_BITS;
const PLACES_FIRST: usize = 64;

impl QueueTable {
    pub(crate) fn add(&mut self, kind: Kind) -> Result<Qd, Error> {
        if self.free.is_empty() {
            let (from, to) = (self.places.len(), (self.places.len() * 2).clamp(PLACES_FIRST, QUEUES_MAX));
            self.places.extend((from..to).map(|_| Place { generation: 0, queue: None }));
            self.free.extend(from as u32..to as u32);
        }
        let index = self.free.pop_front().ok_or(Error::TooManyQueues)?;
        let place = &mut self.places[index as usize];
        place.queue = Some(Queue { kind, returned: None });
        Ok(Qd::new(index, place.generation))
    }

    #[inline]
    pub(crate) fn get(&mut self, qd: Qd) -> Result<&mut Queue, Error> {
        let place = self.places.get_mut(qd.index()).ok_or(Error::BadDescriptor)?;
        match &mut place.queue {
            Some(queue) if Qd::new(qd.index() as u32, place.generation) == qd => Ok(queue),
            _ => Err(Error::BadDescriptor),
        }
    }

    pub(crate) fn remove(&mut self, qd: Qd) -> Result<Queue, Error> {
        self.get(qd)?;
        let place = &mut self.places[qd.index()];
        place.generation = place.generation.wrapping_add(1);
        self.free.push_back(qd.index() as u32);
        place.queue.take().ok_or(Error::BadDescriptor)
    }

    /// All queues there are.
    pub(crate) fn all(&self) -> Vec<Qd> {
        let places = self.places.iter().enumerate().filter(|(_, place)| place.queue.is_some());
        places.map(|(index, place)| Qd::new(index as u32, place.generation)).collect()
    }

    pub(crate) fn len(&self) -> usize {
        self.places.len() - self.free.len()
    }
}
