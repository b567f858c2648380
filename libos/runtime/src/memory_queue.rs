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
pub(crate) fn cost(len: usize) -> usize {
    len + ELEMENT_COST
}

#[derive(Debug)]
struct Element {
    cost: usize,
    content: Content,
}

#[derive(Debug)]
enum Content {
    Here(Sga),
    /// From an attached end on another core, which wants its credit back. It lands when it is popped.
    Carried(CarriedSga, QueueAddress),
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

/// What a pop came to.
#[derive(Debug)]
pub(crate) enum PopAnswer {
    /// Here it is; and a push that waited is in the queue now, and credit goes back.
    Popped(Popped, Vec<OpId>, Option<(QueueAddress, usize)>),
    Waits,
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

    pub(crate) fn set_budget(&mut self, budget: usize) {
        self.budget = budget;
    }

    pub(crate) fn budget(&self) -> usize {
        self.budget
    }

    #[inline]
    pub(crate) fn push(&mut self, op: OpId, sga: Sga) -> Result<Pushed, Error> {
        if self.finished {
            return Err(Error::BrokenPipe);
        }
        if let Some((pop, len_max)) = self.pops.pop_front() {
            return Ok(Pushed::Handed(pop, cut(sga, len_max)));
        }
        if self.cost >= self.budget {
            self.pushes.push_back((op, sga));
            return Ok(Pushed::Waits);
        }
        self.enqueue(cost(sga.len()), Content::Here(sga));
        Ok(Pushed::Queued)
    }

    /// An element from an attached end, which has paid for it with its credit. `Err` if the queue is finished; else the
    /// waiting pop, if there is one, that is to be answered by [`MemoryQueue::pop`] now.
    pub(crate) fn push_carried(
        &mut self,
        carried: CarriedSga,
        from: QueueAddress,
    ) -> Result<Option<(OpId, usize)>, Error> {
        if self.finished {
            return Err(Error::BrokenPipe);
        }
        self.enqueue(cost(carried.len()), Content::Carried(carried, from));
        Ok(self.pops.pop_front())
    }

    #[inline]
    fn enqueue(&mut self, cost: usize, content: Content) {
        self.cost += cost;
        self.elements.push_back(Element { cost, content });
    }

    #[inline]
    pub(crate) fn pop(&mut self, op: OpId, len_max: usize, heap: &Heap) -> Result<PopAnswer, Error> {
        let Some(Element { content, cost }) = self.elements.pop_front() else {
            return self.pop_empty(op, len_max);
        };
        let (sga, credit) = match content {
            Content::Here(sga) => (sga, None),
            Content::Carried(carried, from) => match carried.land(heap) {
                Ok(sga) => (sga, Some((from, cost))),
                Err(carried) => {
                    self.elements.push_front(Element { cost, content: Content::Carried(carried, from) });
                    return Err(Error::NoBuffers);
                }
            },
        };
        self.cost -= cost;
        let accepted = if self.pushes.is_empty() { Vec::new() } else { self.accept_waiting() };
        Ok(PopAnswer::Popped(cut(sga, len_max), accepted, credit))
    }

    fn pop_empty(&mut self, op: OpId, len_max: usize) -> Result<PopAnswer, Error> {
        if self.ended {
            return Err(Error::EndOfStream);
        }
        if self.finished {
            self.ended = true;
            return Ok(PopAnswer::Popped(Popped::stream(Sga::new()), Vec::new(), None));
        }
        self.pops.push_back((op, len_max));
        Ok(PopAnswer::Waits)
    }

    #[cold]
    fn accept_waiting(&mut self) -> Vec<OpId> {
        let mut accepted = Vec::new();
        while self.cost < self.budget
            && let Some((op, sga)) = self.pushes.pop_front()
        {
            self.enqueue(cost(sga.len()), Content::Here(sga));
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
        let from = self.elements.into_iter().filter_map(|element| match element.content {
            Content::Carried(_, from) => Some(from),
            Content::Here(_) => None,
        });
        (ops.collect(), from.collect())
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
