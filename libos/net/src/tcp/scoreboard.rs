//! What is in flight: a record of each segment that was sent and is not acknowledged, in the order of the sequence space.
//!
//! Always: records lie end to end from `snd_una` to `snd_nxt`; `sacked` and `lost` are the sums of what is marked so, and
//! nothing is both. A record that is sent again is no longer lost, and its time is that of the last sending.
//! Bounds: a window's worth of records, since each is at least what one push left; an empty board holds no memory.
//! Sources: RFC 6675 §3 (the scoreboard), RFC 8985 §5.1 (what RACK keeps of a segment), RFC 2018 §8 (reneging).

use std::collections::VecDeque;

use pdpix::Instant;

use super::seq::SeqNumber;

/// One segment.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Sent {
    /// Behind its last byte; it begins where the one before it ends.
    end: SeqNumber,
    marks: u8,
    /// When it was last sent.
    at: Instant,
}

const SACKED: u8 = 1;
const LOST: u8 = 2;
/// It was sent more than once.
const AGAIN: u8 = 4;

const _: () = assert!(size_of::<Sent>() == 16);

/// A segment that has arrived, as its acknowledgement tells (RFC 8985 §6.2, step 1).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Delivered {
    pub(crate) end: SeqNumber,
    pub(crate) at: Instant,
    pub(crate) again: bool,
    /// Of it, what was not known to have arrived before.
    pub(crate) len: u32,
}

/// See the module's head.
#[derive(Debug, Default)]
pub(crate) struct Scoreboard {
    records: VecDeque<Sent>,
    /// Where the first record begins.
    una: SeqNumber,
    sacked: u32,
    sacked_count: u32,
    lost: u32,
    /// No record before this one is lost.
    lost_from: usize,
    /// Records that were sent again and are still in flight.
    again: u32,
}

impl Scoreboard {
    /// With nothing in flight, and `una` as the next to be sent.
    pub(crate) fn new(una: SeqNumber) -> Scoreboard {
        Scoreboard { una, ..Scoreboard::default() }
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.records.is_empty()
    }

    fn next(&self) -> SeqNumber {
        self.records.back().map_or(self.una, |last| last.end)
    }

    fn start(&self, i: usize) -> SeqNumber {
        if i == 0 { self.una } else { self.records[i - 1].end }
    }

    fn len(&self, i: usize) -> u32 {
        self.records[i].end.since(self.start(i))
    }

    /// Bytes that are neither acknowledged, nor known to have arrived, nor taken for lost: RFC 6675's `pipe`.
    #[inline]
    pub(crate) fn in_flight(&self) -> u32 {
        self.next().since(self.una) - self.sacked - self.lost
    }

    /// Bytes that have arrived beyond a hole.
    #[inline]
    pub(crate) fn sacked(&self) -> u32 {
        self.sacked
    }

    /// Segments that have arrived beyond a hole.
    pub(crate) fn sacked_count(&self) -> u32 {
        self.sacked_count
    }

    /// Bytes that are taken for lost, and were not sent again since.
    #[inline]
    pub(crate) fn lost(&self) -> u32 {
        self.lost
    }

    /// Whether something in flight was sent again.
    pub(crate) fn has_again(&self) -> bool {
        self.again > 0
    }

    /// The next `len` bytes were sent.
    #[inline]
    pub(crate) fn on_send(&mut self, len: u32, now: Instant) {
        let end = self.next().add(len);
        self.records.push_back(Sent { end, marks: 0, at: now });
    }

    /// Everything before `ack` has arrived: tells `each` of those segments that were not known to have.
    #[inline]
    pub(crate) fn ack_to(&mut self, ack: SeqNumber, mut each: impl FnMut(Delivered)) {
        while let Some(&first) = self.records.front() {
            let whole = first.end.le(ack);
            let end = if whole { first.end } else { ack };
            let len = end.since(self.una);
            if len == 0 {
                break;
            }
            self.una = end;
            if first.marks & SACKED != 0 {
                self.sacked -= len;
                self.sacked_count -= u32::from(whole);
            } else {
                if first.marks & LOST != 0 {
                    self.lost -= len;
                }
                each(Delivered { end, at: first.at, again: first.marks & AGAIN != 0, len });
            }
            if !whole {
                break;
            }
            self.again -= u32::from(first.marks & AGAIN != 0);
            self.records.pop_front();
            self.lost_from = self.lost_from.saturating_sub(1);
        }
        if self.records.is_empty() {
            self.una = ack;
            self.lost_from = 0;
            if self.records.capacity() > 64 {
                self.records = VecDeque::new();
            }
        }
    }

    /// Whether nothing in flight is marked: it was sent once each, in the order of time, and nothing is known of it.
    #[inline]
    pub(crate) fn is_plain(&self) -> bool {
        (self.sacked | self.lost | self.again) == 0
    }

    /// [`Scoreboard::ack_to`] while the board [is plain](Scoreboard::is_plain). Gives the newest of what has arrived.
    #[inline]
    pub(crate) fn ack_plain_to(&mut self, ack: SeqNumber) -> Option<Delivered> {
        debug_assert!(self.is_plain(), "something is marked");
        let mut newest = None;
        let una = self.una;
        while let Some(&first) = self.records.front() {
            let whole = first.end.le(ack);
            let end = if whole { first.end } else { ack };
            if whole {
                self.records.pop_front();
            } else if end == self.una {
                break;
            }
            self.una = end;
            newest = Some(Delivered { end, at: first.at, again: false, len: end.since(una) });
            if !whole {
                break;
            }
        }
        self.lost_from = 0;
        if self.records.is_empty() {
            self.una = ack;
            if self.records.capacity() > 64 {
                self.records = VecDeque::new();
            }
        }
        newest
    }

    /// The peer has what lies in `left..right`: tells `each` of those segments that were not known to have arrived. A
    /// segment that is covered in part counts as not covered (RFC 6675 §4, `Update`).
    pub(crate) fn sack(&mut self, left: SeqNumber, right: SeqNumber, mut each: impl FnMut(Delivered)) {
        let mut i = self.records.partition_point(|sent| sent.end.le(left));
        if i < self.records.len() && self.start(i).lt(left) {
            i += 1;
        }
        while i < self.records.len() && self.records[i].end.le(right) {
            let len = self.len(i);
            let sent = &mut self.records[i];
            if sent.marks & SACKED == 0 {
                if sent.marks & LOST != 0 {
                    self.lost -= len;
                }
                sent.marks = sent.marks & !LOST | SACKED;
                self.sacked += len;
                self.sacked_count += 1;
                each(Delivered { end: sent.end, at: sent.at, again: sent.marks & AGAIN != 0, len });
            }
            i += 1;
        }
    }

    /// RACK (RFC 8985 §6.2, step 5): marks as lost what `is_lost` says of its time and end, among what was sent before the
    /// segment of `newest` and `newest_end`. `is_lost` gives nothing for lost, or when it will be.
    pub(crate) fn detect(
        &mut self,
        newest: Instant,
        newest_end: SeqNumber,
        mut when: impl FnMut(Instant) -> Option<Instant>,
    ) -> Detected {
        let mut detected = Detected::default();
        for i in 0..self.records.len() {
            let sent = self.records[i];
            let before = sent.at < newest || sent.at == newest && sent.end.lt(newest_end);
            if !before && sent.marks & AGAIN == 0 {
                break; // what was sent once is in the order of time
            }
            if !before || sent.marks & (SACKED | LOST) != 0 {
                continue;
            }
            match when(sent.at) {
                None => {
                    self.mark_lost(i);
                    detected.lost = true;
                }
                Some(at) => detected.look_again = Some(detected.look_again.map_or(at, |other: Instant| other.max(at))),
            }
        }
        detected
    }

    fn mark_lost(&mut self, i: usize) {
        let len = self.len(i);
        let sent = &mut self.records[i];
        if sent.marks & (SACKED | LOST) == 0 {
            sent.marks |= LOST;
            self.lost += len;
            self.lost_from = self.lost_from.min(i);
        }
    }

    /// The first segment is lost (RFC 6582: three duplicates, or a partial acknowledgement).
    pub(crate) fn mark_first_lost(&mut self) {
        if !self.records.is_empty() {
            self.mark_lost(0);
        }
    }

    /// A retransmission timeout (RFC 8985 §6.3): the first segment is lost, and all that `is_lost` says of its time.
    pub(crate) fn mark_lost_on_timeout(&mut self, mut is_lost: impl FnMut(Instant) -> bool) {
        for i in 0..self.records.len() {
            if i == 0 || is_lost(self.records[i].at) {
                self.mark_lost(i);
            }
        }
    }

    /// The retransmissions that are under way count as lost no more than what was sent once: nothing is lost. For a
    /// recovery that turns out to have been a mistake.
    pub(crate) fn forgive(&mut self) {
        self.records.iter_mut().for_each(|sent| sent.marks &= !LOST);
        (self.lost, self.lost_from) = (0, 0);
    }

    /// Whether the peer has given up what it said it had: the first segment was acknowledged selectively, and is still not
    /// acknowledged (RFC 2018 §8).
    pub(crate) fn has_reneged(&self) -> bool {
        self.records.front().is_some_and(|first| first.marks & SACKED != 0)
    }

    /// Forgets what the peer said it had (RFC 2018 §8).
    pub(crate) fn forget_sacks(&mut self) {
        self.records.iter_mut().for_each(|sent| sent.marks &= !SACKED);
        (self.sacked, self.sacked_count) = (0, 0);
    }

    /// Segments longer than `len_max` are lost: they were too long for the path (RFC 1191 §6.4).
    pub(crate) fn mark_longer_lost(&mut self, len_max: u32) {
        for i in 0..self.records.len() {
            if self.len(i) > len_max {
                self.mark_lost(i);
            }
        }
    }

    /// The first lost segment: where it begins, and its length.
    pub(crate) fn next_lost(&mut self) -> Option<(SeqNumber, u32)> {
        if self.lost == 0 {
            return None;
        }
        let i = (self.lost_from..self.records.len()).find(|&i| self.records[i].marks & LOST != 0)?;
        self.lost_from = i;
        Some((self.start(i), self.len(i)))
    }

    /// The last segment, for a probe of the tail (RFC 8985 §7.3).
    pub(crate) fn last(&self) -> Option<(SeqNumber, u32)> {
        let last = self.records.len().checked_sub(1)?;
        Some((self.start(last), self.len(last)))
    }

    /// `len` bytes from `from` on, the start of a record, were sent again: the record is cut there if it is longer.
    pub(crate) fn on_resend(&mut self, from: SeqNumber, len: u32, now: Instant) {
        let i = self.records.partition_point(|sent| sent.end.le(from));
        let Some(&sent) = self.records.get(i) else { return };
        debug_assert!(self.start(i) == from, "only whole records are sent again");
        let rest = self.len(i).saturating_sub(len);
        if rest > 0 {
            // The rest stays what it was.
            self.records.insert(i, Sent { end: from.add(len), ..sent });
            self.again += u32::from(sent.marks & AGAIN != 0);
            self.sacked_count += u32::from(sent.marks & SACKED != 0);
        }
        let first = &mut self.records[i];
        if first.marks & LOST != 0 {
            self.lost -= len;
        }
        self.again += u32::from(first.marks & AGAIN == 0);
        first.marks = first.marks & !LOST | AGAIN;
        first.at = now;
    }

    /// The length of the first segment; zero, if there is none.
    pub(crate) fn first_len(&self) -> u32 {
        if self.is_empty() { 0 } else { self.len(0) }
    }

    /// Adds everything up again.
    pub(crate) fn check(&self, una: SeqNumber, nxt: SeqNumber) {
        assert!(self.una == una && self.next() == nxt, "records lie from snd_una to snd_nxt");
        let sum = |mark: u8| {
            let marked = (0..self.records.len()).filter(|&i| self.records[i].marks & mark != 0);
            marked.map(|i| self.len(i)).sum::<u32>()
        };
        assert_eq!((self.sacked, self.lost), (sum(SACKED), sum(LOST)), "sums of what is marked");
        assert!(self.records.iter().all(|sent| sent.marks & (SACKED | LOST) != SACKED | LOST), "marked as both");
        let again = self.records.iter().filter(|sent| sent.marks & AGAIN != 0).count();
        assert_eq!(self.again as usize, again, "records that were sent again");
        let first = self.records.iter().position(|sent| sent.marks & LOST != 0);
        assert!(first.is_none_or(|first| self.lost_from <= first), "a lost record lies before the first lost one");
    }
}

/// What [`Scoreboard::detect`] found.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub(crate) struct Detected {
    /// Something is lost that was not before.
    pub(crate) lost: bool,
    /// When to look again.
    pub(crate) look_again: Option<Instant>,
}

#[cfg(test)]
mod tests {
    use quickcheck::quickcheck;

    use super::*;

    const START: u32 = u32::MAX - 3_000;

    fn seq(offset: u32) -> SeqNumber {
        SeqNumber::new(START).add(offset)
    }

    /// Ten segments of 1,000 bytes, one every millisecond, across the wrap of the sequence space.
    fn board() -> Scoreboard {
        let mut board = Scoreboard::new(seq(0));
        (0..10).for_each(|i| board.on_send(1_000, Instant::from_nanos(i * 1_000_000)));
        board
    }

    #[test]
    fn holes_are_lost_and_sent_again() {
        let mut board = board();
        let mut delivered = Vec::new();
        board.sack(seq(2_000), seq(5_000), |d| delivered.push(d.end));
        assert_eq!(delivered, [seq(3_000), seq(4_000), seq(5_000)]);
        assert_eq!((board.sacked(), board.in_flight()), (3_000, 7_000));
        let newest = Instant::from_nanos(4_000_000);
        assert_eq!(board.detect(newest, seq(5_000), |_| None), Detected { lost: true, look_again: None });
        assert_eq!((board.lost(), board.in_flight()), (2_000, 5_000), "what was sent later is not judged");
        assert_eq!(board.next_lost(), Some((seq(0), 1_000)));
        board.on_resend(seq(0), 400, Instant::from_nanos(99));
        assert_eq!(board.next_lost(), Some((seq(400), 600)), "the rest of it");
        board.on_resend(seq(400), 600, Instant::from_nanos(99));
        assert_eq!(board.next_lost(), Some((seq(1_000), 1_000)));
        board.check(seq(0), seq(10_000));
        let mut again = Vec::new();
        board.ack_to(seq(5_000), |d| again.push((d.end, d.again, d.len)));
        assert_eq!(again, [(seq(400), true, 400), (seq(1_000), true, 600), (seq(2_000), false, 1_000)]);
        assert_eq!((board.sacked(), board.lost(), board.in_flight()), (0, 0, 5_000));
        board.check(seq(5_000), seq(10_000));
    }

    #[test]
    fn a_block_that_covers_a_part_covers_nothing() {
        let mut board = board();
        board.sack(seq(1_500), seq(2_999), |_| panic!("no whole segment lies in it"));
        assert_eq!(board.sacked(), 0);
    }

    #[test]
    fn a_peer_that_reneges_is_seen_and_its_word_forgotten() {
        let mut board = board();
        board.sack(seq(1_000), seq(3_000), |_| {});
        assert!(!board.has_reneged());
        board.ack_to(seq(1_000), |_| {});
        assert!(board.has_reneged(), "it has the next segment and does not acknowledge it");
        board.forget_sacks();
        assert_eq!((board.has_reneged(), board.in_flight()), (false, 9_000));
        board.check(seq(1_000), seq(10_000));
    }

    #[test]
    fn an_acknowledgement_may_end_inside_a_segment() {
        let mut board = board();
        let mut lens = Vec::new();
        board.ack_to(seq(1_300), |d| lens.push(d.len));
        assert_eq!((lens, board.in_flight()), (vec![1_000, 300], 8_700));
        board.check(seq(1_300), seq(10_000));
    }

    #[test]
    fn an_empty_board_gives_its_memory_back() {
        let mut board = Scoreboard::new(seq(0));
        (0..1_000).for_each(|_| board.on_send(10, Instant::ZERO));
        board.ack_to(seq(10_000), |_| {});
        assert_eq!((board.records.capacity(), board.in_flight()), (0, 0));
    }

    quickcheck! {
        /// Whatever happens in whatever order, the sums are those of the marks.
        fn the_books_are_right(ops: Vec<(u8, u16, u16)>) -> bool {
            let mut board = Scoreboard::new(seq(0));
            let (mut una, mut nxt, mut now) = (0u32, 0u32, 0u64);
            for (op, a, b) in ops {
                now += 1;
                let (a, b) = (u32::from(a) % 3_000, u32::from(b) % 3_000);
                let span = nxt - una;
                match op % 8 {
                    0 | 1 => {
                        board.on_send(a + 1, Instant::from_nanos(now));
                        nxt += a + 1;
                    }
                    2 if span > 0 => {
                        una += a % (span + 1);
                        board.ack_to(seq(una), |_| {});
                    }
                    3 if span > 0 => {
                        let left = una + a % span;
                        board.sack(seq(left), seq((left + b * 4).min(nxt)), |_| {});
                    }
                    4 => {
                        let newest = Instant::from_nanos(now.saturating_sub(u64::from(a % 8)));
                        let judge = |at: Instant| if at.as_nanos().is_multiple_of(3) { Some(newest) } else { None };
                        board.detect(newest, seq(nxt), judge);
                    }
                    5 => {
                        if let Some((from, len)) = board.next_lost() {
                            board.on_resend(from, (a % len.max(1)).max(1).min(len), Instant::from_nanos(now));
                        }
                    }
                    6 => board.mark_lost_on_timeout(|at| at.as_nanos().is_multiple_of(2)),
                    7 if board.has_reneged() => board.forget_sacks(),
                    7 => board.mark_longer_lost(a),
                    _ => {}
                }
                board.check(seq(una), seq(nxt));
            }
            true
        }
    }
}
