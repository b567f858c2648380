//! Receive side of a connection: what has arrived in order, how much more may come, and when to say so.
//!
//! Always: `rcv_nxt` ≤ `rcv_adv`, and `rcv_adv`, the right edge of the window that the peer was told, never moves left (RFC
//! 9293 §3.8.6). What lies inside it is taken, unless there is no memory at all: a slow reader closes the window.
//! Bounds: the budget, in bytes pinned (`receive_queue.rs` says how little that is).
//! Sources: RFC 9293 §3.8.6.2.2 (silly windows), RFC 1122 §4.2.3.2 (delayed acknowledgements), RFC 2018 §4 (blocks), RFC
//! 2883 (duplicates). The budget grows as dynamic right-sizing says (Fisk and Feng 2001).

use std::time::Duration;

use pdpix::{Buf, Instant, Sga};

use super::reassembly::Reassembly;
use super::receive_queue::ReceiveQueue;
use super::seq::SeqNumber;
use crate::wire::SackBlocks;

/// RFC 1122 §4.2.3.2 allows half a second; Linux waits for 40 ms.
pub(crate) const DELAY: Duration = Duration::from_millis(40);
/// So many segments of a new connection, and after each disturbance, are acknowledged at once, so that the sender's window
/// can grow.
const QUICK: u8 = 16;

/// See the module's head.
#[derive(Debug)]
pub(crate) struct Receive {
    /// RCV.NXT.
    pub(crate) nxt: SeqNumber,
    /// Behind what the peer was told that it may send.
    adv: SeqNumber,
    /// The shift of the windows that we announce.
    scale: u8,
    /// What has just arrived and may be popped at once: as it came, however much it pins.
    fresh: Option<Buf>,
    /// What waits before it.
    queue: ReceiveQueue,
    beyond: Option<Box<Reassembly>>,
    /// Bytes pinned that may be.
    budget: usize,
    budget_max: usize,
    /// Of 256 bytes that a segment pins, so many are text.
    density: u16,
    /// Where the stream ends, once the peer has said.
    fin: Option<SeqNumber>,
    /// Popped since, for the growth of the budget.
    popped: usize,
    popped_since: Instant,

    /// An acknowledgement is to be sent with the next flush; or not later than then.
    due: bool,
    due_at: Option<Instant>,
    /// Bytes that nobody has been told of.
    unacked: u32,
    quick: u8,
    /// A segment that came twice (RFC 2883).
    duplicate: Option<(SeqNumber, SeqNumber)>,
}

impl Receive {
    /// The first byte will have the number `nxt`; windows are announced with this shift.
    pub(crate) fn new(nxt: SeqNumber, scale: u8, budget: usize, budget_max: usize) -> Receive {
        Receive {
            nxt,
            adv: nxt,
            scale,
            fresh: None,
            queue: ReceiveQueue::new(),
            beyond: None,
            budget,
            budget_max,
            density: 128,
            fin: None,
            popped: 0,
            popped_since: Instant::ZERO,
            due: false,
            due_at: None,
            unacked: 0,
            quick: QUICK,
            duplicate: None,
        }
    }

    /// RCV.WND: what the peer may still send, as it was told.
    #[inline]
    pub(crate) fn window(&self) -> u32 {
        self.adv.since(self.nxt)
    }

    /// The right edge of the window, as the peer was told.
    #[inline]
    pub(crate) fn edge_told(&self) -> SeqNumber {
        self.adv
    }

    /// Text was taken that nobody has acknowledged yet.
    pub(crate) fn has_unacked(&self) -> bool {
        self.unacked > 0
    }

    /// The peer's first number is known, and whether windows are scaled. Budgets stay.
    pub(crate) fn begin(&mut self, nxt: SeqNumber, scale: u8) {
        (self.nxt, self.scale) = (nxt, scale);
        self.adv = nxt.add(self.first_window().into());
    }

    /// The budget is this from now on, and does not grow.
    pub(crate) fn set_budget(&mut self, budget: usize) {
        (self.budget, self.budget_max) = (budget, budget);
    }

    /// Bytes pinned.
    pub(crate) fn pinned(&self) -> usize {
        let fresh = self.fresh.as_ref().map_or(0, Buf::pinned);
        fresh + self.queue.pinned() + self.beyond.as_ref().map_or(0, |beyond| beyond.pinned())
    }

    /// Whether a pop would get something.
    #[inline]
    pub(crate) fn has_text(&self) -> bool {
        self.fresh.is_some() || !self.queue.is_empty()
    }

    /// Whether everything up to the peer's FIN has arrived.
    #[inline]
    pub(crate) fn has_ended(&self) -> bool {
        self.fin.is_some_and(|fin| self.nxt == fin.add(1))
    }
}

// What comes in.
impl Receive {
    /// The next bytes of the stream: `data` begins at RCV.NXT and ends inside the window. False: there is no memory to keep
    /// it, and it has to come again.
    #[inline]
    pub(crate) fn take_next(&mut self, data: Buf) -> bool {
        let len = data.len() as u32;
        self.note_density(&data);
        if self.fresh.is_some() && !self.settle() {
            return false;
        }
        self.fresh = Some(data);
        self.nxt = self.nxt.add(len);
        self.unacked += len;
        true
    }

    #[inline(always)]
    fn note_density(&mut self, data: &Buf) {
        if data.len() >= 512 {
            self.density = ((data.len() * 256 / data.pinned().max(1)) as u16).clamp(16, 255);
        }
    }

    /// What was not popped at once is to wait, in as little memory as it is worth. False: there is none for that.
    #[inline]
    pub(crate) fn settle(&mut self) -> bool {
        match self.fresh.take() {
            None => true,
            Some(fresh) => {
                let again = fresh.clone();
                let taken = self.queue.push(fresh).is_ok();
                if !taken {
                    self.fresh = Some(again);
                }
                taken
            }
        }
    }

    /// Bytes beyond a hole. Whoever sent them is told at once (RFC 5681 §4.2).
    pub(crate) fn take_beyond(&mut self, seq: SeqNumber, data: Buf) {
        let pinned_max = self.budget.max(self.window() as usize * 2);
        let inserted = self.beyond.get_or_insert_default().insert(self.nxt, seq, data, pinned_max);
        if let Some(duplicate) = inserted.duplicate {
            self.duplicate = Some(duplicate);
        }
        if self.beyond.as_ref().is_some_and(|beyond| beyond.is_empty()) {
            self.beyond = None;
        }
        self.disturbed();
    }

    /// What lies beyond the hole that was just filled.
    pub(crate) fn take_ready(&mut self) {
        let Some(mut beyond) = self.beyond.take() else { return };
        while let Some(data) = beyond.take_ready(self.nxt) {
            if !self.take_next(data.clone()) {
                // It was acknowledged selectively: it stays.
                beyond.put_back(self.nxt, data);
                break;
            }
        }
        if !beyond.is_empty() {
            self.beyond = Some(beyond);
        }
        // RFC 5681 §4.2: what fills a hole, or a part of one, is acknowledged at once.
        self.disturbed();
    }

    /// Whether something waits beyond a hole: text, or the end.
    #[inline]
    pub(crate) fn has_hole(&self) -> bool {
        self.beyond.is_some() || self.fin.is_some()
    }

    /// The peer's stream ends at `fin`. It says so once: another place later is not believed.
    pub(crate) fn note_fin(&mut self, fin: SeqNumber) {
        if fin.ge(self.nxt) {
            self.fin.get_or_insert(fin);
        }
    }

    /// Takes the FIN, if everything before it has arrived.
    pub(crate) fn take_fin_if_next(&mut self) -> bool {
        if self.fin != Some(self.nxt) {
            return false;
        }
        self.nxt = self.nxt.add(1);
        self.adv = self.adv.max(self.nxt);
        self.beyond = None;
        self.due = true;
        true
    }

    /// These came already.
    pub(crate) fn note_duplicate(&mut self, from: SeqNumber, to: SeqNumber) {
        self.duplicate = Some((from, to));
        self.disturbed();
    }

    fn disturbed(&mut self) {
        self.quick = QUICK;
        self.due = true;
    }
}

// What goes out to the user.
impl Receive {
    /// At most `len_max` bytes, in order. Nothing if there are none. `rtt` is the round trip in nanoseconds, zero if nobody
    /// knows.
    #[inline]
    pub(crate) fn pop(&mut self, len_max: usize, in_one_piece: bool, now: Instant, rtt: u64) -> Sga {
        let sga = match &mut self.fresh {
            Some(fresh) if self.queue.is_empty() => {
                if fresh.len() > len_max {
                    Sga::from(fresh.split_to(len_max))
                } else {
                    self.fresh.take().map(Sga::from).unwrap_or_default()
                }
            }
            // What comes next where it lies, without what lies elsewhere.
            _ if in_one_piece => self.queue.pop_piece(len_max),
            _ => self.pop_queue(len_max),
        };
        self.note_popped(sga.len(), now, rtt);
        sga
    }

    /// Whether the next text can be popped as it comes: nothing waits before it.
    #[inline(always)]
    pub(crate) fn hands_over(&self) -> bool {
        self.fresh.is_none() && self.queue.is_empty()
    }

    /// The next `len` bytes of the stream go to a pop that waits, without lying here first.
    #[inline(always)]
    pub(crate) fn hand_over(&mut self, text: &Buf, now: Instant, rtt: u64) {
        let len = text.len();
        self.note_density(text);
        self.nxt = self.nxt.add(len as u32);
        self.unacked += len as u32;
        self.note_popped(len, now, rtt);
    }

    #[inline(always)]
    fn note_popped(&mut self, len: usize, now: Instant, rtt: u64) {
        self.popped += len;
        if self.budget < self.budget_max {
            self.right_size(now, rtt);
        }
    }

    #[cold]
    fn pop_queue(&mut self, len_max: usize) -> Sga {
        let mut sga = self.queue.pop(len_max);
        let left = len_max - sga.len();
        if self.queue.is_empty()
            && left > 0
            && let Some(mut fresh) = self.fresh.take()
        {
            let part = fresh.slice(..fresh.len().min(left));
            // Without memory for a longer list, what there is, is enough for now.
            if let Ok(()) = sga.push(part.clone()) {
                fresh.advance(part.len());
            }
            self.fresh = Some(fresh).filter(|fresh| !fresh.is_empty());
        }
        sga
    }

    /// Grows the budget to twice what the user takes in a round trip, so that the sender is never held up by us.
    #[inline(always)]
    fn right_size(&mut self, now: Instant, rtt: u64) {
        if now.as_nanos().saturating_sub(self.popped_since.as_nanos()) < rtt {
            return;
        }
        // The same as that twice of it, as it lies in memory, is more than the budget.
        if self.popped * 512 > self.budget * usize::from(self.density) {
            self.budget = (self.popped * 512 / usize::from(self.density)).min(self.budget_max);
        }
        (self.popped, self.popped_since) = (0, now);
    }

    /// Drops what was not popped; there will be no pop any more. Says whether there was anything.
    pub(crate) fn abandon(&mut self) -> bool {
        let was_there = self.has_text();
        (self.fresh, self.beyond) = (None, None);
        self.queue = ReceiveQueue::new();
        was_there
    }
}

// What the peer is told.
impl Receive {
    /// Where the window could end now.
    fn edge(&self) -> SeqNumber {
        let free = self.budget.saturating_sub(self.pinned());
        let window = free * usize::from(self.density) / 256;
        self.nxt.add(window.min(0xffff << self.scale) as u32)
    }

    /// Half of the window that there is if nothing waits. It is less than half of the budget: short segments pin more than
    /// they carry, and a window that had to open by more than it ever can would stay closed.
    fn half(&self) -> u32 {
        (self.budget * usize::from(self.density) / 512) as u32
    }

    /// RFC 9293 §3.8.6.2.2: the window opens by a segment, or half of what it can, or not at all.
    fn opened(&self, mss: u32) -> Option<SeqNumber> {
        let edge = self.edge();
        let least = mss.min(self.half());
        (edge.gt(self.adv) && edge.since(self.adv) >= least).then_some(edge)
    }

    /// An acknowledgement goes out: the window that it announces, as it stands in the header.
    #[inline]
    pub(crate) fn announce(&mut self, mss: u32) -> u16 {
        if let Some(edge) = self.opened(mss) {
            self.adv = edge;
        }
        (self.due, self.due_at, self.unacked) = (false, None, 0);
        let unit = (1u32 << self.scale) - 1;
        // Rounded up: down would take back what was promised.
        let field = ((self.window() + unit) >> self.scale).min(0xffff);
        self.adv = self.adv.max(self.nxt.add(field << self.scale));
        field as u16
    }

    /// The window of a SYN, whose sender knows nothing of the peer's numbers yet.
    pub(crate) fn first_window(&self) -> u16 {
        (self.budget * usize::from(self.density) / 256).min(0xffff) as u16
    }

    /// The same for a SYN, whose window is never scaled (RFC 7323 §2.2).
    pub(crate) fn announce_unscaled(&mut self) -> u16 {
        let window = self.edge().since(self.nxt).min(0xffff);
        self.adv = self.adv.max(self.nxt.add(window));
        (self.due, self.due_at, self.unacked) = (false, None, 0);
        window as u16
    }

    /// Text was taken: when is that said? At once after two segments' worth (RFC 5681 §4.2), else in a while.
    #[inline]
    pub(crate) fn on_text(&mut self, mss: u32, now: Instant) {
        if self.quick > 0 {
            self.quick -= 1;
            self.due = true;
        } else if self.unacked >= 2 * mss {
            self.due = true;
        } else if self.due_at.is_none() {
            self.due_at = Some(now + DELAY);
        }
    }

    /// The user took something: whether the peer should hear of the larger window.
    #[inline(always)]
    pub(crate) fn on_popped(&mut self, mss: u32) {
        // As long as it has half of that to go on with, the next acknowledgement is soon enough.
        let half = self.half();
        if self.window() < half
            && !cfg!(margay_planted_bug = "window_update_lost")
            && let Some(edge) = self.opened(mss)
            && edge.since(self.adv) >= (2 * mss).min(half)
        {
            self.due = true;
        }
    }

    /// The next flush sends an acknowledgement.
    #[inline]
    pub(crate) fn is_due(&self) -> bool {
        self.due
    }

    /// It has to.
    #[inline]
    pub(crate) fn set_due(&mut self) {
        self.due = true;
    }

    /// By then, an acknowledgement is to be sent.
    #[inline]
    pub(crate) fn due_at(&self) -> Option<Instant> {
        self.due_at
    }

    /// What to tell of what lies beyond holes, the duplicate first (RFC 2883 §4), at most `count` blocks.
    pub(crate) fn blocks(&mut self, count: usize) -> SackBlocks {
        let mut blocks = SackBlocks::new();
        if let Some((from, to)) = self.duplicate.take() {
            blocks.push((from.get(), to.get()));
        }
        if let Some(beyond) = &self.beyond {
            blocks.extend(beyond.blocks().into_iter().map(|(from, to)| (from.get(), to.get())));
        }
        blocks.truncate(count);
        blocks
    }

    /// Whether there is something to tell beyond the acknowledgement.
    #[inline]
    pub(crate) fn has_blocks(&self) -> bool {
        self.duplicate.is_some() || self.beyond.is_some()
    }

    /// What must hold.
    pub(crate) fn check(&self) {
        assert!(self.nxt.le(self.adv), "the window ends before what has arrived");
    }
}
