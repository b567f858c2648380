//! Receive side of a connection: what has arrived in order, how much more may come, and when to say so.
//!
//! Always: `rcv_nxt` ≤ `rcv_adv`, and `rcv_adv`, the right edge of the window that the peer was told, never moves left (RFC
//! 9293 §3.8.6). What lies inside it is taken: a slow reader closes the window, and nothing is dropped.
//! Bounds: the budget, in bytes pinned. A slice that is less than half of its chunk is copied to others of its kind once a
//! second one waits (counted), so a sender of one-byte segments pins what it sends, twice.
//! Sources: RFC 9293 §3.8.6.2.2 (silly windows), RFC 1122 §4.2.3.2 (delayed acknowledgements), RFC 2018 §4 (blocks), RFC
//! 2883 (duplicates). The budget grows as dynamic right-sizing says (Fisk and Feng 2001).


use std::time::Duration;

use pdpix::{Buf, BufMut, Heap, Instant, Sga};

use super::buf_deque::BufDeque;
use super::reassembly::Reassembly;
use super::seq::SeqNumber;
use crate::wire::SackBlocks;
use libos_mem::CopyPath;

/// RFC 1122 §4.2.3.2 allows half a second; Linux waits for 40 ms.
pub(crate) const DELAY: Duration = Duration::from_millis(40);
/// So many segments of a new connection, and after each disturbance, are acknowledged at once, so that the sender's window
/// can grow.
const QUICK: u8 = 16;
/// Pinned by one coalescing buffer.
const COALESCE_SIZE: usize = 4096;

/// See the module's head.
#[derive(Debug)]
pub(crate) struct Receive {
    /// RCV.NXT.
    pub(crate) nxt: SeqNumber,
    /// Behind what the peer was told that it may send.
    adv: SeqNumber,
    /// The shift of the windows that we announce.
    scale: u8,
    /// What was not popped yet. Mostly there is one buffer, or none.
    arrived: BufDeque,
    len: usize,
    pinned: usize,
    /// Small segments that wait are copied together here: behind all of `arrived`.
    small: Option<BufMut>,
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
    /// Segments' worth of bytes that nobody has been told of.
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
            arrived: BufDeque::new(),
            len: 0,
            pinned: 0,
            small: None,
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
        (self.nxt, self.adv, self.scale) = (nxt, nxt, scale);
    }

    /// The budget is this from now on, and does not grow.
    pub(crate) fn set_budget(&mut self, budget: usize) {
        (self.budget, self.budget_max) = (budget, budget);
    }

    /// Bytes pinned.
    pub(crate) fn pinned(&self) -> usize {
        self.pinned + self.beyond.as_ref().map_or(0, |beyond| beyond.pinned())
    }

    /// Bytes that a pop would get.
    #[inline]
    pub(crate) fn len(&self) -> usize {
        self.len
    }

    /// Whether everything up to the peer's FIN has arrived.
    #[inline]
    pub(crate) fn has_ended(&self) -> bool {
        self.fin.is_some_and(|fin| self.nxt == fin.add(1))
    }
}

// What comes in.
impl Receive {
    /// The next bytes of the stream: `data` begins at RCV.NXT and ends inside the window.
    #[inline]
    pub(crate) fn take_next(&mut self, data: Buf, heap: &Heap) {
        self.nxt = self.nxt.add(data.len() as u32);
        self.unacked += data.len() as u32;
        self.append(data, heap);
    }

    #[inline]
    fn append(&mut self, data: Buf, heap: &Heap) {
        let (len, pinned) = (data.len(), data.pinned());
        if len >= 512 {
            self.density = ((len * 256 / pinned.max(1)) as u16).clamp(16, 255);
        }
        self.len += len;
        if self.arrived.is_empty() && self.small.is_none() || len * 2 >= pinned {
            self.end_small();
            self.pinned += pinned;
            self.arrived.push_back(data);
        } else {
            self.append_small(data, heap);
        }
    }

    /// A slice that keeps more than twice its length alive does not wait as it is, behind others.
    #[cold]
    fn append_small(&mut self, data: Buf, heap: &Heap) {
        if self.small.as_ref().is_none_or(|small| small.room() < data.len()) {
            self.end_small();
            match heap.alloc(COALESCE_SIZE.max(data.len())) {
                Ok(small) => {
                    self.pinned += small.pinned();
                    self.small = Some(small);
                }
                // Better pinned than lost: the peer was told that there is room.
                Err(_) => {
                    self.pinned += data.pinned();
                    return self.arrived.push_back(data);
                }
            }
        }
        if let Some(small) = &mut self.small {
            heap.count_copied(CopyPath::Keep, data.len());
            small.put(&data);
        }
    }

    fn end_small(&mut self) {
        if let Some(small) = self.small.take() {
            self.arrived.push_back(small.freeze());
        }
    }

    /// Bytes beyond a hole. Whoever sent them is told at once (RFC 5681 §4.2).
    pub(crate) fn take_beyond(&mut self, seq: SeqNumber, data: Buf, heap: &Heap) {
        self.beyond.get_or_insert_default().insert(self.nxt, seq, data, heap);
        self.disturbed();
    }

    /// What lies beyond the hole that was just filled.
    pub(crate) fn take_ready(&mut self, heap: &Heap) {
        let Some(mut beyond) = self.beyond.take() else { return };
        while let Some(data) = beyond.take_ready(self.nxt) {
            self.take_next(data, heap);
        }
        if !beyond.is_empty() {
            self.beyond = Some(beyond);
        }
        // RFC 5681 §4.2: what fills a hole, or a part of one, is acknowledged at once.
        self.disturbed();
    }

    /// Whether something waits beyond a hole.
    #[inline]
    pub(crate) fn has_hole(&self) -> bool {
        self.beyond.is_some()
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
    /// At most `len_max` bytes, in order. Nothing if there are none.
    #[inline]
    pub(crate) fn pop(&mut self, len_max: usize, now: Instant, rtt: Duration) -> Sga {
        let mut sga = Sga::new();
        let mut left = len_max;
        while left > 0 {
            if self.arrived.is_empty() {
                self.end_small();
            }
            let Some(mut first) = self.arrived.pop_front() else { break };
            if first.len() > left {
                if sga.push(first.slice(..left)).is_ok() {
                    first.advance(left);
                    left = 0;
                }
                self.arrived.push_front(first);
                break;
            }
            let (len, pinned) = (first.len(), first.pinned());
            if let Err(first) = sga.push(first) {
                self.arrived.push_front(first); // no memory for a longer list: what there is, is enough for now
                break;
            }
            left -= len;
            self.pinned -= pinned;
        }
        let popped = len_max - left;
        self.len -= popped;
        self.popped += popped;
        self.right_size(now, rtt);
        sga
    }

    /// Grows the budget to twice what the user takes in a round trip, so that the sender is never held up by us.
    #[inline]
    fn right_size(&mut self, now: Instant, rtt: Duration) {
        if self.budget >= self.budget_max || now.since(self.popped_since) < rtt {
            return;
        }
        let wanted = self.popped * 2 * 256 / usize::from(self.density);
        self.budget = self.budget.max(wanted).min(self.budget_max);
        (self.popped, self.popped_since) = (0, now);
    }

    /// Drops what was not popped; there will be no pop any more. Says whether there was anything.
    pub(crate) fn abandon(&mut self) -> bool {
        let was_there = self.len > 0;
        self.arrived = BufDeque::new();
        (self.small, self.beyond) = (None, None);
        (self.len, self.pinned) = (0, 0);
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

    /// RFC 9293 §3.8.6.2.2: the window opens by a segment, or half of the budget, or not at all.
    fn opened(&self, mss: u32) -> Option<SeqNumber> {
        let edge = self.edge();
        let least = mss.min((self.budget / 2) as u32);
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
    #[inline]
    pub(crate) fn on_popped(&mut self, mss: u32) {
        // As long as it has half of the budget to go on with, the next acknowledgement is soon enough.
        if (self.window() as usize) < self.budget / 2
            && let Some(edge) = self.opened(mss)
            && edge.since(self.adv) >= (2 * mss).min((self.budget / 2) as u32)
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
        let small = self.small.as_ref().map_or(0, |small| small.len());
        assert_eq!(self.len, self.arrived.iter().map(Buf::len).sum::<usize>() + small, "bytes that wait");
        let small = self.small.as_ref().map_or(0, |small| small.pinned());
        assert_eq!(self.pinned, self.arrived.iter().map(Buf::pinned).sum::<usize>() + small, "bytes pinned");
    }
}
