//! The token table: one slot for each operation between its submission and the redemption of its token.
//!
//! Always: a slot's life is Free → Pending → Complete → Free, or, when its token is given up before the end, Pending →
//! Abandoned → Free. It becomes free only after its operation has ended: a backend's late answer never meets another
//! operation. Slots are reused first-in first-out, so a stale token is told apart for as long as possible. A completion
//! wakes the one waiter. Bound: 2^20 slots.

use std::collections::VecDeque;
use std::task::Waker;

use pdpix::{Completion, Error, Generation, OpId, Outcome, QToken, Qd};

use crate::scheduler::Place;

/// What an operation is, as far as its end is handled differently.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum OpKind {
    Accept,
    Connect,
    Push,
    Pop,
    Seek,
    Truncate,
    Chase,
}

/// Who is to be told.
#[derive(Debug)]
pub(crate) enum Waiter {
    None,
    /// A blocking `wait`, which looks by itself.
    Caller,
    /// A coroutine of this core.
    Coroutine(Place),
    /// Something between a coroutine and us, which has a waker of its own.
    Foreign(Waker),
}

/// The result of an operation, as users see it.
pub(crate) type OpResult = Result<Outcome<Qd>, Error>;

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum State {
    Free,
    Pending,
    /// `result` is there.
    Complete,
    /// Nobody will redeem it.
    Abandoned,
}

#[derive(Debug)]
struct Slot {
    /// The token of the present use, or of the next one if the slot is free.
    token: QToken,
    state: State,
    kind: OpKind,
    /// Its user asked for its end.
    cancel_asked: bool,
    qd: Qd,
    /// Of a pop: how much it wants, as far as 32 bits can say.
    len_max: u32,
    /// Which operation of the core this is, to tell older from younger.
    sequence: u64,
    /// Of a free slot: the next one.
    next_free: u32,
    waiter: Waiter,
    result: Option<OpResult>,
}

impl Slot {
    /// It is free, and will be known by the next token. Its result is gone or on its way.
    #[inline(always)]
    fn vacate(&mut self, generation_bits: u32) {
        (self.state, self.next_free) = (State::Free, NIL);
        self.token = self.token.next_use(generation_bits);
    }
}

#[inline(always)]
fn short(len_max: usize) -> u32 {
    len_max.min(u32::MAX as usize) as u32
}

// A place in the table is found by a shift.
const _: () = assert!(size_of::<Slot>() == 128);

const NIL: u32 = u32::MAX;
const SLOTS_MAX: usize = 1 << QToken::INDEX_BITS;
const SLOTS_FIRST: usize = 64;

pub(crate) struct TokenTable {
    core: u8,
    generation_bits: u32,
    slots: Vec<Slot>,
    free_first: u32,
    free_last: u32,
    used: usize,
    sequence: u64,
    /// Tokens that became complete and had no waiter, oldest first, once somebody has asked for them. Some may be redeemed.
    collected: Option<VecDeque<QToken>>,
}

/// How an operation's end found its slot.
#[derive(Debug)]
pub(crate) enum Ended {
    /// The token is complete; its waiter, if any, is to be woken.
    Complete(Waiter),
    /// Its token was given up, and this is left of it. Boxed, as this is rare.
    Abandoned(Box<OpResult>),
}

impl TokenTable {
    /// `generation_bits` is [`Generation::BITS`], or fewer, to see it wrap.
    pub(crate) fn new(core: u8, generation_bits: u32) -> TokenTable {
        TokenTable {
            core,
            generation_bits,
            slots: Vec::new(),
            free_first: NIL,
            free_last: NIL,
            used: 0,
            sequence: 0,
            collected: None,
        }
    }

    /// The token that the next operation will have, if it needs one: what is over at once needs none.
    #[inline(always)]
    pub(crate) fn next(&mut self) -> Result<QToken, Error> {
        if self.free_first == NIL {
            self.grow()?;
        }
        Ok(self.slots[self.free_first as usize].token)
    }

    /// A token for a new operation, pending.
    #[inline]
    pub(crate) fn issue(&mut self, qd: Qd, kind: OpKind, len_max: usize) -> Result<QToken, Error> {
        self.sequence += 1;
        let sequence = self.sequence;
        let slot = self.take_free()?;
        slot.state = State::Pending;
        slot.cancel_asked = false;
        (slot.qd, slot.kind, slot.len_max, slot.sequence) = (qd, kind, short(len_max), sequence);
        Ok(slot.token)
    }

    /// A token for an operation that is over already.
    #[inline(always)]
    pub(crate) fn issue_ended(
        &mut self,
        qd: Qd,
        kind: OpKind,
        len_max: usize,
        result: OpResult,
    ) -> Result<QToken, Error> {
        // What a push had is never given to another: its place in the order is of no interest.
        let ordered = matches!(kind, OpKind::Pop | OpKind::Accept);
        self.sequence += u64::from(ordered);
        let sequence = self.sequence;
        let slot = self.take_free()?;
        (slot.qd, slot.kind) = (qd, kind);
        if ordered {
            (slot.len_max, slot.sequence) = (short(len_max), sequence);
        }
        slot.result = Some(result);
        slot.state = State::Complete;
        let qt = slot.token;
        if self.collected.is_some() {
            self.collect(qt);
        }
        Ok(qt)
    }

    /// From now on tokens that become complete are listed; those that are by now come first.
    #[cold]
    fn begin_collecting(&mut self) {
        let mut complete: Vec<&Slot> = self.slots.iter().filter(|slot| slot.state == State::Complete).collect();
        complete.sort_unstable_by_key(|slot| slot.sequence);
        self.collected = Some(complete.into_iter().map(|slot| slot.token).collect());
    }

    #[cold]
    fn collect(&mut self, qt: QToken) {
        let Some(mut collected) = self.collected.take() else { return };
        if collected.len() > 64 + 2 * self.used {
            // Its user redeems by name, too: what is redeemed goes.
            collected.retain(|&qt| self.is_complete(qt).unwrap_or(false));
        }
        collected.push_back(qt);
        self.collected = Some(collected);
    }

    /// Takes the token that has been complete for longest, of those that nobody waits for.
    pub(crate) fn take_collected(&mut self) -> Option<QToken> {
        if self.collected.is_none() {
            self.begin_collecting();
        }
        while let Some(qt) = self.collected.as_mut()?.pop_front() {
            if self.is_complete(qt).unwrap_or(false) {
                return Some(qt);
            }
        }
        None
    }

    /// Whether a token is listed, perhaps one that is redeemed by now.
    pub(crate) fn has_collected(&self) -> bool {
        self.collected.as_ref().is_some_and(|collected| !collected.is_empty())
    }

    /// Sees to it that the next token can be issued.
    #[inline(always)]
    pub(crate) fn reserve(&mut self) -> Result<(), Error> {
        if self.free_first == NIL { self.grow() } else { Ok(()) }
    }

    #[inline(always)]
    fn take_free(&mut self) -> Result<&mut Slot, Error> {
        if self.free_first == NIL {
            self.grow()?;
        }
        let slot = &mut self.slots[self.free_first as usize];
        self.free_first = slot.next_free;
        self.used += 1;
        debug_assert!(slot.state == State::Free, "a slot in the list of free ones is in use");
        assert!(slot.result.is_none(), "a free slot holds nothing");
        Ok(slot)
    }

    #[cold]
    fn grow(&mut self) -> Result<(), Error> {
        let (from, to) = (self.slots.len(), (self.slots.len() * 2).clamp(SLOTS_FIRST, SLOTS_MAX));
        if from == to {
            return Err(Error::NoBuffers);
        }
        self.slots.extend((from..to).map(|index| Slot {
            token: QToken::new(self.core, index as u32, Generation::ZERO),
            state: State::Free,
            kind: OpKind::Push,
            cancel_asked: false,
            qd: Qd::from_raw(0),
            len_max: 0,
            sequence: 0,
            next_free: if index + 1 < to { index as u32 + 1 } else { NIL },
            waiter: Waiter::None,
            result: None,
        }));
        (self.free_first, self.free_last) = (from as u32, to as u32 - 1);
        Ok(())
    }

    /// Puts a slot at the end of the list of free ones.
    #[inline(always)]
    fn free(&mut self, index: usize) -> &mut Slot {
        self.link(index);
        let bits = self.generation_bits;
        let slot = &mut self.slots[index];
        slot.vacate(bits);
        slot
    }

    /// The list of free ones goes on with this one.
    #[inline(always)]
    fn link(&mut self, index: usize) {
        match self.slots.get_mut(self.free_last as usize) {
            Some(last) if self.free_first != NIL => last.next_free = index as u32,
            _ => self.free_first = index as u32,
        }
        self.free_last = index as u32;
        self.used -= 1;
    }

    /// The slot of a token that somebody holds.
    #[inline(always)]
    fn check(&mut self, qt: QToken) -> Result<&mut Slot, Error> {
        let core = self.core;
        match self.slots.get_mut(qt.index()) {
            Some(slot) if slot.token == qt && matches!(slot.state, State::Pending | State::Complete) => Ok(slot),
            Some(_) if qt.core() == core => Err(Error::StaleToken),
            _ => Err(Error::BadToken),
        }
    }

    /// The slot of an operation that a backend has.
    #[inline(always)]
    fn of(&self, op: OpId) -> &Slot {
        let qt = QToken::from_raw(op.0);
        let slot = &self.slots[qt.index()];
        assert!(slot.token == qt, "a backend ended {qt:?} twice, or one that it was not given");
        slot
    }

    /// The operation has ended.
    #[inline]
    pub(crate) fn end(&mut self, op: OpId, result: OpResult) -> Ended {
        let qt = QToken::from_raw(op.0);
        let slot = &mut self.slots[qt.index()];
        assert!(slot.token == qt, "a backend ended {qt:?} twice, or one that it was not given");
        match slot.state {
            State::Pending => {
                assert!(slot.result.is_none(), "an operation has one result");
                slot.result = Some(result);
                slot.state = State::Complete;
                let waiter = std::mem::replace(&mut slot.waiter, Waiter::None);
                if self.collected.is_some() && matches!(waiter, Waiter::None) {
                    self.collect(qt);
                }
                Ended::Complete(waiter)
            }
            State::Abandoned => {
                self.free(qt.index());
                Ended::Abandoned(Box::new(result))
            }
            State::Complete | State::Free => panic!("a backend ended {qt:?} twice"),
        }
    }

    /// Redeems a token if its operation has ended; `None` if it is pending.
    #[inline(always)]
    pub(crate) fn look(&mut self, qt: QToken) -> Result<Option<Completion>, Error> {
        if self.is_complete(qt)? { Ok(Some(self.redeem(qt))) } else { Ok(None) }
    }

    /// Redeems a token that [`TokenTable::is_complete`]. Apart from the look, so that the result is moved once, from the
    /// slot to where the caller wants it.
    #[inline(always)]
    pub(crate) fn redeem(&mut self, qt: QToken) -> Completion {
        // Nobody can be given the slot before the result is out of it.
        let slot = self.free(qt.index());
        Completion { qt, qd: slot.qd, result: slot.result.take().expect("a complete operation has a result") }
    }

    /// The place of a token, if its operation has ended.
    #[inline(always)]
    pub(crate) fn place_of_complete(&self, qt: QToken) -> Option<usize> {
        let slot = self.slots.get(qt.index())?;
        (slot.token == qt && slot.state == State::Complete).then_some(qt.index())
    }

    /// The queue and the result at such a place.
    #[inline(always)]
    pub(crate) fn complete_at(&mut self, index: usize) -> Option<(Qd, &mut OpResult)> {
        let slot = self.slots.get_mut(index)?;
        Some((slot.qd, slot.result.as_mut()?))
    }

    /// Redeems the token at such a place. What is left of its result is forgotten.
    #[inline(always)]
    pub(crate) fn redeem_at(&mut self, index: usize) {
        let bits = self.generation_bits;
        let Some(slot) = self.slots.get_mut(index) else { return };
        std::mem::forget(slot.result.take());
        slot.vacate(bits);
        self.link(index);
    }

    /// Which of these tokens is the first that is complete, if any is.
    ///
    /// # Errors
    /// One of them is none that could be waited for.
    pub(crate) fn first_complete(&mut self, tokens: &[QToken]) -> Result<Option<usize>, Error> {
        let mut first = None;
        for (i, &qt) in tokens.iter().enumerate() {
            if self.is_complete(qt)? && first.is_none() {
                first = Some(i);
            }
        }
        Ok(first)
    }

    /// Whether a token can be waited for, and whether it is complete.
    #[inline(always)]
    pub(crate) fn is_complete(&mut self, qt: QToken) -> Result<bool, Error> {
        match self.slots.get(qt.index()) {
            Some(slot) if slot.token == qt && slot.state == State::Complete => Ok(true),
            _ => self.check(qt).map(|_| false),
        }
    }

    /// Registers the waiter of a pending token. The same one may register again.
    pub(crate) fn wait(&mut self, qt: QToken, waiter: Waiter) -> Result<(), Error> {
        let slot = self.check(qt)?;
        match (&slot.waiter, &waiter) {
            (Waiter::None, _) => {}
            (Waiter::Coroutine(old), Waiter::Coroutine(new)) if old == new => return Ok(()),
            (Waiter::Foreign(old), Waiter::Foreign(new)) if old.will_wake(new) => return Ok(()),
            _ => return Err(Error::TokenBusy),
        }
        slot.waiter = waiter;
        Ok(())
    }

    /// Registers the waiter of a pending token, or finds it complete. `again`: it is the present waiter that asks.
    #[inline(always)]
    pub(crate) fn wait_if_pending(&mut self, qt: QToken, waiter: Waiter, again: bool) -> Result<bool, Error> {
        let slot = self.check(qt)?;
        if slot.state == State::Complete {
            return Ok(true);
        }
        if !again && !matches!(slot.waiter, Waiter::None) {
            return Err(Error::TokenBusy);
        }
        slot.waiter = waiter;
        Ok(false)
    }

    /// Takes the waiter's name off a token: it waits no longer.
    pub(crate) fn unwait(&mut self, qt: QToken) {
        if let Ok(slot) = self.check(qt) {
            slot.waiter = Waiter::None;
        }
    }

    /// Which queue a token's operation is on.
    pub(crate) fn queue_of(&mut self, qt: QToken) -> Result<Qd, Error> {
        Ok(self.check(qt)?.qd)
    }

    /// Nobody will redeem the token. Gives its completion, if it is complete already.
    pub(crate) fn abandon(&mut self, qt: QToken) -> Result<Option<Completion>, Error> {
        let looked = self.look(qt)?;
        if looked.is_none() {
            let slot = self.check(qt)?;
            slot.state = State::Abandoned;
            slot.waiter = Waiter::None;
        }
        Ok(looked)
    }

    /// Its user asks for the end of a pending operation. False if it has ended already.
    pub(crate) fn ask_cancel(&mut self, qt: QToken) -> Result<bool, Error> {
        let slot = self.check(qt)?;
        slot.cancel_asked = true;
        Ok(slot.state == State::Pending)
    }

    /// Whether the user of `op` asked for its end.
    pub(crate) fn is_cancel_asked(&self, op: OpId) -> bool {
        self.of(op).cancel_asked
    }

    /// Whether the token of `op` was given up.
    pub(crate) fn is_abandoned(&self, op: OpId) -> bool {
        self.of(op).state == State::Abandoned
    }

    /// Which operation of the core `op` is: younger ones have larger numbers.
    pub(crate) fn sequence_of(&self, op: OpId) -> u64 {
        self.of(op).sequence
    }

    /// The result of a complete operation, to be exchanged for another.
    pub(crate) fn result_of(&mut self, qt: QToken) -> &mut OpResult {
        self.slots[qt.index()].result.as_mut().expect("a complete operation has a result")
    }

    /// How much the pop `op` wants.
    pub(crate) fn len_max(&self, op: OpId) -> usize {
        self.of(op).len_max as usize
    }

    /// What the operation `op` is, and on which queue, though its token may have been given up.
    pub(crate) fn of_op(&self, op: OpId) -> (Qd, OpKind) {
        let slot = self.of(op);
        (slot.qd, slot.kind)
    }

    /// The operations of `kind` that are pending on `qd`, with tokens that somebody holds.
    pub(crate) fn pending_on(&self, qd: Qd, kind: OpKind) -> Vec<OpId> {
        let pending = self.slots.iter().filter(|s| s.state == State::Pending && s.qd == qd && s.kind == kind);
        pending.map(|s| OpId(s.token.raw())).collect()
    }

    /// The tokens of `kind` on `qd` that are complete and not redeemed, younger than `sequence`, oldest first.
    pub(crate) fn complete_after(&self, sequence: u64, qd: Qd, kind: OpKind) -> Vec<QToken> {
        let complete = self.slots.iter().filter(|s| s.state == State::Complete && s.qd == qd && s.kind == kind);
        let mut younger: Vec<&Slot> = complete.filter(|s| s.sequence > sequence).collect();
        younger.sort_unstable_by_key(|s| s.sequence);
        younger.into_iter().map(|s| s.token).collect()
    }

    /// Slots in use.
    pub(crate) fn used(&self) -> usize {
        self.used
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;

    const QD: Qd = Qd::from_raw(5);

    fn issue(table: &mut TokenTable) -> QToken {
        table.issue(QD, OpKind::Push, 0).unwrap()
    }

    fn end(table: &mut TokenTable, qt: QToken) -> Ended {
        table.end(OpId(qt.raw()), Ok(Outcome::Pushed))
    }

    #[test]
    fn a_redeemed_token_is_stale_and_a_foreign_one_bad() {
        let mut table = TokenTable::new(3, Generation::BITS);
        let qt = issue(&mut table);
        assert!(matches!(table.look(qt), Ok(None)));
        assert!(matches!(end(&mut table, qt), Ended::Complete(Waiter::None)));
        assert!(matches!(table.look(qt), Ok(Some(Completion { qd: QD, result: Ok(Outcome::Pushed), .. }))));
        assert_eq!(table.look(qt).unwrap_err(), Error::StaleToken);
        let foreign = QToken::new(4, qt.index() as u32, qt.generation());
        assert_eq!(table.look(foreign).unwrap_err(), Error::BadToken);
        assert_eq!(table.look(QToken::new(3, 9999, Generation::ZERO)).unwrap_err(), Error::BadToken);
        assert_eq!(table.used(), 0);
    }

    #[test]
    fn slots_are_reused_first_in_first_out() {
        let mut table = TokenTable::new(0, Generation::BITS);
        let mut order = Vec::new();
        for _ in 0..2 * SLOTS_FIRST {
            let qt = issue(&mut table);
            order.push(qt.index());
            end(&mut table, qt);
            table.look(qt).unwrap();
        }
        assert_eq!(order[..SLOTS_FIRST], order[SLOTS_FIRST..]);
        assert_eq!(order[..SLOTS_FIRST], (0..SLOTS_FIRST).collect::<Vec<_>>());
    }

    /// With two bits a slot's token comes again after four uses; until then every old one is told apart.
    #[test]
    fn a_shortened_generation_wraps_and_stale_tokens_are_told_apart_until_then() {
        let mut table = TokenTable::new(0, 2);
        let mut of_slot_zero = Vec::new();
        for _ in 0..5 * SLOTS_FIRST {
            let qt = issue(&mut table);
            if qt.index() == 0 {
                for &old in of_slot_zero.iter().rev().take(3) {
                    assert_eq!(table.look(old).unwrap_err(), Error::StaleToken);
                }
                of_slot_zero.push(qt);
            }
            end(&mut table, qt);
            table.look(qt).unwrap();
        }
        assert_eq!(of_slot_zero[0], of_slot_zero[4], "it wrapped");
        assert_ne!(of_slot_zero[0], of_slot_zero[3]);
    }

    #[test]
    fn one_waiter_a_token() {
        let mut table = TokenTable::new(0, Generation::BITS);
        let qt = issue(&mut table);
        table.wait(qt, Waiter::Coroutine(Place(1))).unwrap();
        table.wait(qt, Waiter::Coroutine(Place(1))).unwrap();
        assert_eq!(table.wait(qt, Waiter::Coroutine(Place(2))), Err(Error::TokenBusy));
        assert_eq!(table.wait(qt, Waiter::Caller), Err(Error::TokenBusy));
        assert!(matches!(end(&mut table, qt), Ended::Complete(Waiter::Coroutine(Place(1)))));
    }

    #[test]
    fn an_abandoned_slot_is_not_reused_before_its_operation_ends() {
        let mut table = TokenTable::new(0, Generation::BITS);
        let qt = issue(&mut table);
        assert!(table.abandon(qt).unwrap().is_none());
        assert_eq!((table.used(), table.look(qt).unwrap_err()), (1, Error::StaleToken));
        assert!(matches!(end(&mut table, qt), Ended::Abandoned(result) if matches!(*result, Ok(Outcome::Pushed))));
        assert_eq!(table.used(), 0);
    }

    #[test]
    #[should_panic(expected = "ended")]
    fn a_second_end_is_a_backends_bug() {
        let mut table = TokenTable::new(0, Generation::BITS);
        let qt = issue(&mut table);
        end(&mut table, qt);
        end(&mut table, qt);
    }

    #[test]
    fn the_table_is_bounded() {
        let mut table = TokenTable::new(0, Generation::BITS);
        for _ in 0..SLOTS_MAX {
            issue(&mut table);
        }
        assert_eq!(table.issue(QD, OpKind::Push, 0), Err(Error::NoBuffers));
    }
}
