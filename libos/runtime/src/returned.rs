//! What nobody holds goes back to its queue: the results of pops and accepts whose tokens were given up.
//!
//! Always: what a queue gives reaches its pops in the order in which these were submitted, whatever is given up, and
//! when. While a pop that was given up is still with the backend, it may yet bring something that comes before all else;
//! so until its end is in, later pops are parked here. When something has returned, the pops that wait in the backend are
//! taken back (cancelled there, and parked here), and served again, oldest first, once all their ends are in.
//!
//! This is rare, and so it may look at every token; a queue on which nobody gives up costs one comparison.

use std::collections::VecDeque;

use pdpix::{Error, LogOp, Op, OpId, Outcome, Popped, QToken, Qd, SocketKind, Submitted};

use crate::counters::count;
use crate::libos::LibOs;
use crate::memory_queue::{self, Taken};
use crate::queue::{Kind, Queue};
use crate::storage::of_log;
use crate::token::{OpKind, OpResult};
use crate::trace::Event;

/// A queue's returned results, and who waits for them.
#[derive(Debug)]
pub(crate) struct Returned {
    /// Pops, or a listener's accepts.
    kind: OpKind,
    /// What came back, oldest first. Older than all that the backend still has, younger than what complete tokens hold.
    items: VecDeque<Outcome<Qd>>,
    /// Operations that the backend was asked to end, and has not ended yet.
    unsettled: usize,
    /// So many of those are of before a seek: what they bring is not what comes next.
    outdated: usize,
    /// Operations that wait here, oldest first.
    parked: VecDeque<Parked>,
}

#[derive(Debug)]
struct Parked {
    op: OpId,
    /// It was taken back, and its end is not in.
    in_backend: bool,
}

impl LibOs {
    /// A pending operation's token was given up.
    #[cold]
    pub(crate) fn give_up_pending(&self, qd: Qd, qt: QToken) {
        let op = OpId(qt.raw());
        let (_, kind) = self.0.tokens.borrow().of_op(op);
        let mut queues = self.0.queues.borrow_mut();
        if let OpKind::Pop | OpKind::Accept = kind
            && let Ok(queue @ Queue { kind: Kind::Socket { .. } | Kind::Log { .. }, .. }) = queues.get(qd)
        {
            let returned = self.returned(queue, kind);
            match returned.parked.iter().position(|parked| parked.op == op) {
                // Taken back already: it was counted then.
                Some(at) if returned.parked[at].in_backend => {
                    returned.parked.remove(at);
                    return;
                }
                Some(at) => {
                    returned.parked.remove(at);
                    drop(queues);
                    self.complete_here(op, Err(Error::Canceled));
                    return self.settle(qd);
                }
                None => returned.unsettled += 1,
            }
        }
        drop(queues);
        self.cancel_operation(qd, qt);
    }

    /// The token of an operation that is over was given up. What it brought belongs to the operations submitted after it:
    /// first to those that are over as well and not redeemed, each of which passes on its own.
    #[cold]
    pub(crate) fn give_back(&self, qd: Qd, sequence: u64, result: OpResult) {
        let kind = match &result {
            Ok(Outcome::Popped(_)) => OpKind::Pop,
            Ok(Outcome::Accepted { .. }) => OpKind::Accept,
            _ => return,
        };
        let Ok(outcome) = result else { return };
        if cfg!(margay_planted_bug = "pop_loses_on_cancel") {
            return self.discard(Ok(outcome));
        }
        let mut queues = self.0.queues.borrow_mut();
        let Ok(queue) = queues.get(qd) else {
            drop(queues);
            return self.discard(Ok(outcome));
        };
        count(&self.0.counters.returned);
        self.note(Event::Returned, u64::from(qd.raw()), len_of(&outcome) as u64);
        let datagrams = matches!(queue.kind, Kind::Socket { socket: SocketKind::Datagram, .. });
        // The rest of an element that was cut goes before what follows it.
        let mut passed = VecDeque::from([outcome]);
        let younger = self.0.tokens.borrow().complete_after(sequence, qd, kind);
        for qt in younger {
            let mut tokens = self.0.tokens.borrow_mut();
            let len_max = tokens.len_max(OpId(qt.raw()));
            let held = tokens.result_of(qt);
            match held {
                // Its user asked for that; or it is told once, and no place in an order.
                Err(Error::Canceled) => continue,
                Err(_) if datagrams => continue,
                _ => {}
            }
            match take(&mut passed, queue, len_max) {
                Ok(Some(first)) => {
                    // A fault that is passed over will be told to the next pop by the backend.
                    if let Ok(own) = std::mem::replace(held, Ok(first)) {
                        passed.push_back(own);
                    }
                }
                Ok(None) | Err(_) => break,
            }
        }
        let returned = self.returned(queue, kind);
        passed.into_iter().rev().for_each(|outcome| returned.items.push_front(outcome));
        drop(queues);
        self.take_back(qd);
        self.settle(qd);
    }

    /// An operation ends while some queue has returned results. `None`: it was not its user's end, and is dealt with.
    #[cold]
    pub(crate) fn intercept(&self, op: OpId, result: OpResult) -> Option<OpResult> {
        let (qd, kind) = self.0.tokens.borrow().of_op(op);
        let mut queues = self.0.queues.borrow_mut();
        let Ok(Queue { returned: Some(returned), .. }) = queues.get(qd) else { return Some(result) };
        if returned.kind != kind {
            return Some(result);
        }
        let abandoned = self.0.tokens.borrow().is_abandoned(op);
        if !abandoned {
            let parked = returned.parked.iter_mut().find(|parked| parked.op == op && parked.in_backend);
            let Some(parked) = parked else { return Some(result) };
            parked.in_backend = false;
        }
        returned.unsettled -= 1;
        let outdated = returned.outdated > 0;
        returned.outdated -= usize::from(outdated);
        // A fault will be told to the next operation by the backend.
        let brought = result.is_ok() && !outdated && !cfg!(margay_planted_bug = "pop_loses_on_cancel");
        if let Ok(outcome) = result
            && brought
        {
            count(&self.0.counters.returned);
            self.note(Event::Returned, u64::from(qd.raw()), len_of(&outcome) as u64);
            returned.items.push_back(outcome);
        }
        drop(queues);
        if abandoned {
            self.complete_here(op, Err(Error::Canceled));
        }
        if brought {
            self.take_back(qd);
        }
        self.settle(qd);
        None
    }

    /// A new operation on a queue with returned results: served from them, or parked behind others. `None`: it goes to
    /// the backend.
    #[cold]
    pub(crate) fn take_or_park(&self, qd: Qd, kind: OpKind, len_max: usize) -> Result<Option<QToken>, Error> {
        let mut queues = self.0.queues.borrow_mut();
        let queue = queues.get(qd)?;
        match &mut queue.returned {
            Some(returned) if returned.kind == kind => {
                if returned.unsettled > 0 || !returned.parked.is_empty() {
                    let qt = self.issue(qd, kind, len_max)?;
                    returned.parked.push_back(Parked { op: OpId(qt.raw()), in_backend: false });
                    return Ok(Some(qt));
                }
            }
            _ => return Ok(None),
        }
        self.0.tokens.borrow_mut().reserve()?;
        let Some(outcome) = self.take_item(queue, len_max)? else { return Ok(None) };
        drop(queues);
        let qt = self.issue_ended(qd, kind, len_max, Ok(outcome))?;
        self.settle(qd);
        Ok(Some(qt))
    }

    /// Whether a cancelled operation was parked: then it ends here, now or when its end in the backend is in.
    #[cold]
    pub(crate) fn cancel_parked(&self, qd: Qd, op: OpId) -> bool {
        let mut queues = self.0.queues.borrow_mut();
        let Ok(Queue { returned: Some(returned), .. }) = queues.get(qd) else { return false };
        let Some(at) = returned.parked.iter().position(|parked| parked.op == op) else { return false };
        if !returned.parked[at].in_backend {
            returned.parked.remove(at);
            drop(queues);
            self.complete_here(op, Err(Error::Canceled));
            self.settle(qd);
        }
        true
    }

    /// The queue is closed: what returned is gone, and those who are parked here are cancelled.
    #[cold]
    pub(crate) fn close_returned(&self, returned: Returned) {
        self.0.returned.set(self.0.returned.get() - 1);
        for parked in returned.parked.into_iter().filter(|parked| !parked.in_backend) {
            self.complete_here(parked.op, Err(Error::Canceled));
        }
        returned.items.into_iter().for_each(|outcome| self.discard(Ok(outcome)));
    }

    /// The cursor of a log is put elsewhere: what has returned, or will, is not what the next pop asks for.
    pub(crate) fn forget_returned(&self, qd: Qd) {
        if self.0.returned.get() == 0 {
            return;
        }
        if let Ok(Queue { kind: Kind::Log { .. }, returned: Some(returned) }) = self.0.queues.borrow_mut().get(qd) {
            returned.items.clear();
            returned.outdated = returned.unsettled;
        }
        self.settle(qd);
    }

    /// What nobody will ever take.
    #[cold]
    pub(crate) fn discard(&self, result: OpResult) {
        if let Ok(Outcome::Accepted { queue, .. }) = result {
            let _ = self.close(queue);
        }
    }

    /// The returned results of a queue, from now on.
    fn returned<'q>(&self, queue: &'q mut Queue, kind: OpKind) -> &'q mut Returned {
        if queue.returned.is_none() {
            self.0.returned.set(self.0.returned.get() + 1);
        }
        queue.returned.get_or_insert_with(|| {
            Box::new(Returned { kind, items: VecDeque::new(), unsettled: 0, outdated: 0, parked: VecDeque::new() })
        })
    }

    /// Asks the backend for all operations that wait there, to serve them with what has returned.
    fn take_back(&self, qd: Qd) {
        let mut queues = self.0.queues.borrow_mut();
        let Ok(Queue { kind: of, returned: Some(returned) }) = queues.get(qd) else { return };
        let tokens = self.0.tokens.borrow();
        let waiting = tokens.pending_on(qd, returned.kind);
        let mut asked = Vec::new();
        for op in waiting {
            if returned.parked.iter().any(|parked| parked.op == op) {
                continue;
            }
            let in_backend = match of {
                Kind::Socket { .. } | Kind::Log { .. } => {
                    asked.push(op);
                    returned.unsettled += 1;
                    true
                }
                Kind::Memory(memory) => {
                    memory.cancel(op);
                    false
                }
                Kind::Attached(_) => unreachable!("it neither pops nor accepts"),
            };
            returned.parked.push_back(Parked { op, in_backend });
        }
        returned.parked.make_contiguous().sort_by_key(|parked| tokens.sequence_of(parked.op));
        match *of {
            Kind::Socket { network, handle, .. } => {
                drop((tokens, queues));
                let networks = &mut self.0.networks.borrow_mut();
                asked.into_iter().for_each(|op| networks[network as usize].network.cancel(handle, op));
            }
            Kind::Log { storage, handle } => {
                drop((tokens, queues));
                let storages = &mut self.0.storages.borrow_mut();
                asked.into_iter().for_each(|op| storages[storage as usize].storage.cancel(handle, op));
            }
            Kind::Memory(_) | Kind::Attached(_) => {}
        }
    }

    /// If all ends are in, serves those who are parked: with what has returned, and then by the backend.
    fn settle(&self, qd: Qd) {
        loop {
            let mut queues = self.0.queues.borrow_mut();
            let Ok(queue) = queues.get(qd) else { return };
            let Some(returned) = &mut queue.returned else { return };
            if returned.unsettled > 0 {
                return;
            }
            let Some(Parked { op, .. }) = returned.parked.pop_front() else {
                if returned.items.is_empty() {
                    queue.returned = None;
                    self.0.returned.set(self.0.returned.get() - 1);
                }
                return;
            };
            let kind = returned.kind;
            let (cancelled, len_max) = {
                let tokens = self.0.tokens.borrow();
                (tokens.is_cancel_asked(op), tokens.len_max(op))
            };
            let taken = if cancelled { Err(Error::Canceled) } else { self.take_item(queue, len_max) };
            drop(queues);
            match taken {
                Ok(Some(outcome)) => self.complete_here(op, Ok(outcome)),
                Ok(None) => self.resubmit(qd, kind, op, len_max),
                Err(error) => self.complete_here(op, Err(error)),
            }
        }
    }

    /// Gives a parked operation to the backend, for the first time or again.
    fn resubmit(&self, qd: Qd, kind: OpKind, op: OpId, len_max: usize) {
        let mut queues = self.0.queues.borrow_mut();
        let Ok(queue) = queues.get(qd) else { return };
        match &mut queue.kind {
            Kind::Memory(memory) => match memory.take(len_max, &self.0.heap) {
                Ok(Some(Taken { popped, credit })) => {
                    let accepted = memory.accept_waiting();
                    drop(queues);
                    self.pay_back(accepted, credit);
                    self.complete_here(op, Ok(Outcome::Popped(popped)));
                }
                Ok(None) => memory.wait(op, len_max),
                Err(error) => {
                    drop(queues);
                    self.complete_here(op, Err(error));
                }
            },
            &mut Kind::Socket { network, handle, socket } => {
                drop(queues);
                let what = if kind == OpKind::Accept { Op::Accept } else { Op::Pop { len_max } };
                let submitted = self.0.networks.borrow_mut()[network as usize].network.submit(handle, op, what);
                match submitted {
                    Ok(Submitted::Pending) => {}
                    Ok(Submitted::Done(result)) => {
                        let result = self.adopt(network, socket, result);
                        self.complete_here(op, result);
                    }
                    Err(refused) => self.complete_here(op, Err(refused)),
                }
            }
            &mut Kind::Log { storage, handle } => {
                drop(queues);
                let what = LogOp::Read { len_max };
                let submitted = self.0.storages.borrow_mut()[storage as usize].storage.submit(handle, op, what);
                match submitted {
                    Ok(Submitted::Pending) => {}
                    Ok(Submitted::Done(result)) => self.complete_here(op, of_log(result)),
                    Err(refused) => self.complete_here(op, Err(refused)),
                }
            }
            Kind::Attached(_) => unreachable!("it neither pops nor accepts"),
        }
    }

    /// What has returned to a queue, for one operation.
    fn take_item(&self, queue: &mut Queue, len_max: usize) -> Result<Option<Outcome<Qd>>, Error> {
        let Some(mut returned) = queue.returned.take() else { return Ok(None) };
        let taken = take(&mut returned.items, queue, len_max);
        queue.returned = Some(returned);
        taken
    }
}

/// The first of `items`, for an operation that wants at most `len_max` bytes: of a stream the rest stays.
fn take(items: &mut VecDeque<Outcome<Qd>>, queue: &Queue, len_max: usize) -> Result<Option<Outcome<Qd>>, Error> {
    let is_stream = matches!(queue.kind, Kind::Socket { socket: SocketKind::Stream, .. });
    if let Some(Outcome::Popped(first)) = items.front_mut()
        && first.sga.len() > len_max
        && is_stream
    {
        return Ok(Some(Outcome::Popped(Popped::stream(first.sga.split_to(len_max)?))));
    }
    Ok(match items.pop_front() {
        Some(Outcome::Popped(popped)) if popped.sga.len() > len_max => {
            Some(Outcome::Popped(Popped { from: popped.from, ..memory_queue::cut(popped.sga, len_max) }))
        }
        other => other,
    })
}

fn len_of(outcome: &Outcome<Qd>) -> usize {
    if let Outcome::Popped(popped) = outcome { popped.sga.len() } else { 0 }
}
