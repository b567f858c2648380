//! Memory queues: one push is one pop, in order, without a device.
//!
//! Always: elements wait or poppers wait, never both; pushes wait only while the elements cost more than the budget.
//! Bound: the budget counts what elements cost, not only what they pin: a queue of many tiny elements is full too.

use std::collections::VecDeque;

use pdpix::{Error, Heap, OpId, Popped, Sga};

use crate::carried::CarriedSga;
use crate::mesh::QueueAddress;

/// What an element costs beside its bytes.
const ELEMENT_COST: usize = 64;
const BUDGET: usize = 1 << 20;

/// What an element of `len` bytes costs. The same on both sides of an attached queue, which is why it does not look at
/// what is pinned: the far side pins other chunks.
#[inline(always)]
pub(crate) fn cost(len: usize) -> usize {
    len.saturating_add(ELEMENT_COST)
}

#[derive(Debug)]
struct Element {
    sga: Sga,
    cost: usize,
    /// The attached end on another core that pushed it, and wants its credit back.
    from: Option<QueueAddress>,
    /// Instead of `sga`: there was no memory for it here. It lands when it is popped.
    carried: Option<Box<CarriedSga>>,
}

#[derive(Debug)]
pub(crate) struct MemoryQueue {
    elements: VecDeque<Element>,
    cost: usize,
    budget: usize,
    pops: VecDeque<(OpId, usize)>,
    pushes: VecDeque<(OpId, Sga)>,
    /// Nothing is pushed any more.
    finished: bool,
    /// The end was popped.
    ended: bool,
}

/// What a push came to.
#[derive(Debug)]
pub(crate) enum Pushed {
    /// It is in the queue.
    Queued,
    /// It went to a waiting pop.
    Handed(OpId, Popped),
    /// It waits for room.
    Waits,
}

/// An element that was taken out.
#[derive(Debug)]
pub(crate) struct Taken {
    pub(crate) popped: Popped,
    /// The attached end that pushed it gets so much credit back.
    pub(crate) credit: Option<(QueueAddress, usize)>,
}

/// The end of a pop that waited.
pub(crate) type PopEnd = (OpId, Result<Popped, Error>);

impl MemoryQueue {
    pub(crate) fn new() -> MemoryQueue {
        MemoryQueue {
            elements: VecDeque::new(),
            cost: 0,
            budget: BUDGET,
            pops: VecDeque::new(),
            pushes: VecDeque::new(),
            finished: false,
            ended: false,
        }
    }

    /// Sets the budget; gives the pushes that fit into it now.
    pub(crate) fn set_budget(&mut self, budget: usize) -> Vec<OpId> {
        self.budget = budget;
        self.accept_waiting()
    }

    pub(crate) fn budget(&self) -> usize {
        self.budget
    }

    /// Pushes `len` bytes, if that is all there is to do: the queue is open, has room, and nobody waits for it.
    #[inline]
    pub(crate) fn push_at_once(&mut self, sga: Sga, len: usize) -> Result<(), Sga> {
        if self.finished || self.cost >= self.budget || !self.pops.is_empty() {
            return Err(sga);
        }
        let cost = cost(len);
        self.enqueue(Element { sga, cost, from: None, carried: None });
        Ok(())
    }

    pub(crate) fn push(&mut self, op: OpId, sga: Sga) -> Result<Pushed, Error> {
        if self.finished {
            return Err(Error::BrokenPipe);
        }
        if let Some((pop, len_max)) = self.pops.pop_front() {
            return Ok(Pushed::Handed(pop, cut(sga, len_max)));
        }
        let len = sga.len();
        match self.push_at_once(sga, len) {
            Ok(()) => Ok(Pushed::Queued),
            Err(sga) => {
                self.pushes.push_back((op, sga));
                Ok(Pushed::Waits)
            }
        }
    }

    /// An element from an attached end, which has paid for it with its credit. Gives the pop that waited, if one did: it
    /// is to be answered by [`MemoryQueue::take`] now.
    pub(crate) fn push_carried(
        &mut self,
        carried: CarriedSga,
        from: QueueAddress,
        heap: &Heap,
    ) -> Result<Option<(OpId, usize)>, Error> {
        if self.finished {
            return Err(Error::BrokenPipe);
        }
        let cost = cost(carried.len());
        let (sga, carried) = match carried.land(heap) {
            Ok(sga) => (sga, None),
            Err(carried) => (Sga::new(), Some(Box::new(carried))),
        };
        self.enqueue(Element { sga, cost, from: Some(from), carried });
        Ok(self.pops.pop_front())
    }

    #[inline]
    fn enqueue(&mut self, element: Element) {
        self.cost += element.cost;
        self.elements.push_back(element);
    }

    /// Takes the first element, if that is all there is to do: it is from this core, fits, and no push waits for room.
    #[inline]
    pub(crate) fn take_at_once(&mut self, len_max: usize) -> Option<Sga> {
        let first = self.elements.front()?;
        if first.from.is_some() || !self.pushes.is_empty() || first.cost > cost(len_max) {
            return None;
        }
        let Some(Element { sga, cost, carried: None, .. }) = self.elements.pop_front() else {
            unreachable!("what is carried comes from another core")
        };
        self.cost -= cost;
        Some(sga)
    }

    /// Takes the first element, or at the end of a finished queue the end. `None`: there is nothing, and the pop may
    /// wait ([`MemoryQueue::wait`]).
    pub(crate) fn take(&mut self, len_max: usize, heap: &Heap) -> Result<Option<Taken>, Error> {
        let Some(Element { mut sga, cost, from, carried }) = self.elements.pop_front() else {
            return self.take_end();
        };
        if let Some(carried) = carried {
            match carried.land(heap) {
                Ok(landed) => sga = landed,
                Err(carried) => {
                    self.elements.push_front(Element { sga, cost, from, carried: Some(Box::new(carried)) });
                    return Err(Error::NoBuffers);
                }
            }
        }
        self.cost -= cost;
        let credit = from.map(|from| (from, cost));
        Ok(Some(Taken { popped: cut(sga, len_max), credit }))
    }

    fn take_end(&mut self) -> Result<Option<Taken>, Error> {
        if self.ended {
            return Err(Error::EndOfStream);
        }
        if !self.finished {
            return Ok(None);
        }
        self.ended = true;
        Ok(Some(Taken { popped: Popped::stream(Sga::new()), credit: None }))
    }

    /// A pop waits for the next element.
    pub(crate) fn wait(&mut self, op: OpId, len_max: usize) {
        self.pops.push_back((op, len_max));
    }

    /// Takes in the pushes that wait, as far as there is room.
    #[cold]
    pub(crate) fn accept_waiting(&mut self) -> Vec<OpId> {
        let mut accepted = Vec::new();
        while self.cost < self.budget
            && let Some((op, sga)) = self.pushes.pop_front()
        {
            let cost = cost(sga.len());
            self.enqueue(Element { sga, cost, from: None, carried: None });
            accepted.push(op);
        }
        accepted
    }

    /// Whether this operation waited and does no longer.
    pub(crate) fn cancel(&mut self, op: OpId) -> bool {
        let before = self.pops.len() + self.pushes.len();
        self.pops.retain(|(pop, _)| *pop != op);
        self.pushes.retain(|(push, _)| *push != op);
        before != self.pops.len() + self.pushes.len()
    }

    /// Ends it, after what is in it. The first of the waiting pops gets the end, the others are after it.
    pub(crate) fn finish(&mut self) -> Result<Vec<PopEnd>, Error> {
        if self.finished {
            return Err(Error::BrokenPipe);
        }
        self.finished = true;
        let ends = std::mem::take(&mut self.pops).into_iter().map(|(op, _)| {
            let first = !std::mem::replace(&mut self.ended, true);
            (op, if first { Ok(Popped::stream(Sga::new())) } else { Err(Error::EndOfStream) })
        });
        Ok(ends.collect())
    }

    /// Everything that waits, to be cancelled; the queue is gone.
    pub(crate) fn close(self) -> (Vec<OpId>, Vec<QueueAddress>) {
        let ops = self.pops.into_iter().map(|(op, _)| op).chain(self.pushes.into_iter().map(|(op, _)| op));
        (ops.collect(), self.elements.into_iter().filter_map(|element| element.from).collect())
    }
}

/// A message for a pop that wants at most `len_max` bytes: longer ones are cut, and flagged.
pub(crate) fn cut(mut sga: Sga, len_max: usize) -> Popped {
    if sga.len() <= len_max {
        return Popped::stream(sga);
    }
    let mut kept = Sga::new();
    let mut left = len_max;
    while left > 0 {
        let mut buf = sga.pop_front().expect("there are more bytes than are kept");
        buf.truncate(buf.len().min(left));
        left -= buf.len();
        // The list only has to grow when it did so before, in the same heap; if it cannot now, more is cut.
        if kept.push(buf).is_err() {
            break;
        }
    }
    Popped { sga: kept, from: None, cut: true }
}
