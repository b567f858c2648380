//! What a segment does to a connection, in the order of RFC 9293 §3.10.7.

use std::time::Duration;

use pdpix::{Buf, Error, Instant};

use super::super::recovery::Ack;
use super::super::segment::{Heard, Segment};
use super::super::seq::SeqNumber;
use super::super::state::{Event, State};
use super::{Cx, Fate, Fin, Tcb};
use crate::wire::{Ecn, Flags};

/// RFC 7323 §5.5: a timestamp that was not refreshed for so long says nothing (24 days).
const STAMP_LIFE: Duration = Duration::from_secs(24 * 86_400);
/// RFC 5961 §7, and Linux's limit for one connection.
pub(crate) const CHALLENGE_GAP: Duration = Duration::from_millis(500);
impl Tcb {
    /// RFC 9293 §3.10.7.3 and §3.10.7.4.
    #[inline]
    pub(crate) fn on_segment(&mut self, segment: Segment, cx: &mut Cx<'_>) -> Fate {
        let is_plain = segment.options.sack.is_empty() && segment.ecn != Ecn::Congested;
        let heard = segment.heard();
        if is_plain && self.expects(&heard) {
            self.take_expected(&heard, cx);
            if !segment.data.is_empty() {
                if !self.receive.take_next(segment.data) {
                    cx.ip.counters.tcp_no_memory += 1;
                }
                self.receive.on_text(self.mss, cx.now);
            }
            return Fate::Lives;
        }
        match self.state {
            State::SynSent => self.on_segment_in_syn_sent(segment, cx),
            _ => self.on_segment_in_order(segment, cx),
        }
    }

    /// Van Jacobson's header prediction: the next text in order, or an acknowledgement, with nothing that is out of the
    /// ordinary. (The caller has seen that it acknowledges nothing selectively and has met no congestion.)
    #[inline(always)]
    pub(crate) fn expects(&self, heard: &Heard) -> bool {
        self.state == State::Estab
            && heard.seq == self.receive.nxt
            && heard.flags.0 & !Flags::PSH.0 == Flags::ACK.0
            && self.snd_una.le(heard.ack)
            && heard.ack.le(self.snd_nxt)
            && heard.text_len <= self.receive.window()
            && !self.receive.has_hole()
            && !self.echoes_congestion
            && !self.deaf
            && match (&self.stamps, heard.timestamps) {
                (Some(stamps), Some(theirs)) => theirs.value.wrapping_sub(stamps.recent) as i32 >= 0,
                (None, None) => true,
                _ => false,
            }
    }

    /// What an expected segment says. Its text is the caller's to give to `receive`.
    #[inline(always)]
    pub(crate) fn take_expected(&mut self, heard: &Heard, cx: &mut Cx<'_>) {
        (self.heard_at, self.keep_alive_probes) = (cx.now, 0);
        if let (Some(stamps), Some(theirs)) = (&mut self.stamps, heard.timestamps)
            && heard.seq.le(stamps.last_ack)
        {
            (stamps.recent, stamps.recent_at) = (theirs.value, cx.now);
        }
        if heard.ack != self.snd_una || heard.text_len == 0 || self.window_of(heard.window) != self.snd_wnd {
            self.take_ack(heard, &[], cx);
        }
    }

    /// SEG.WND, scaled (RFC 7323 §2.3).
    #[inline]
    fn window_of(&self, window: u16) -> u32 {
        let shift = self.agreed.scales.map_or(0, |(theirs, _)| theirs);
        u32::from(window) << shift
    }

    fn on_segment_in_order(&mut self, segment: Segment, cx: &mut Cx<'_>) -> Fate {
        // RFC 7323 §5.3, R1: protection against wrapped sequence numbers.
        if !segment.flags.has(Flags::RST) && !self.has_fresh_stamp(&segment, cx) {
            return Fate::Lives;
        }
        if self.state == State::SynRcvd && segment.flags.has(Flags::SYN.with(Flags::ACK)) {
            return self.on_crossed_syn_ack(&segment, cx);
        }
        // First, check the sequence number.
        if !self.is_acceptable(&segment) {
            return self.refuse(&segment, cx);
        }
        self.note_stamp(&segment, cx.now);
        // Second, the RST bit: RFC 5961 §3.2.
        if segment.flags.has(Flags::RST) {
            if segment.seq != self.receive.nxt {
                self.challenge(cx);
                return Fate::Lives;
            }
            cx.ip.counters.tcp_resets_received += 1;
            let refused = self.state == State::SynRcvd;
            return self.die(Some(if refused { Error::ConnectionRefused } else { Error::ConnectionReset }));
        }
        // Fourth, the SYN bit: RFC 5961 §4.2.
        if segment.flags.has(Flags::SYN) {
            self.challenge(cx);
            return Fate::Lives;
        }
        // Fifth, the ACK field.
        if !segment.flags.has(Flags::ACK) {
            return Fate::Lives;
        }
        (self.heard_at, self.keep_alive_probes) = (cx.now, 0);
        if self.state == State::SynRcvd {
            if !(self.snd_una.lt(segment.ack) && segment.ack.le(self.snd_nxt)) {
                cx.reset_for(&segment);
                return Fate::Lives;
            }
            self.establish(&segment);
            self.advance(Event::RcvAckOfSyn);
        }
        // RFC 5961 §5.2.
        let oldest = self.snd_una.sub(self.snd_wnd_max);
        if segment.ack.gt(self.snd_nxt) || segment.ack.lt(oldest) {
            self.challenge(cx);
            return Fate::Lives;
        }
        if segment.ack.ge(self.snd_una) {
            self.take_ack(&segment.heard(), &segment.options.sack, cx);
            if self.take_ack_of_fin(cx) == Fate::Over {
                return Fate::Over;
            }
        }
        self.take_congestion(&segment, cx);
        // Seventh, the text. (The urgent pointer is not looked at: RFC 6093 §6.)
        let fin = segment.flags.has(Flags::FIN).then(|| segment.seq.add(segment.data.len() as u32));
        let (seq, text) = self.trim(segment.seq, segment.data);
        if self.state.receives() {
            if !text.is_empty() && self.take_text(seq, text, cx) == Fate::Over {
                return Fate::Over;
            }
            // Eighth, the FIN bit. What lies beyond the window, it included, comes again.
            if let Some(fin) = fin.filter(|fin| fin.le(self.receive.edge_told())) {
                self.receive.note_fin(fin);
                if fin == segment.seq && fin.gt(self.receive.nxt) {
                    self.receive.set_due(); // beyond a hole, as text there (RFC 5681 §4.2)
                }
            }
            if self.receive.take_fin_if_next() {
                self.advance(Event::RcvFin);
                self.enter_time_wait(cx);
            }
        }
        Fate::Lives
    }

    /// RFC 9293 §3.10.7.3.
    fn on_segment_in_syn_sent(&mut self, segment: Segment, cx: &mut Cx<'_>) -> Fate {
        let has_ack = segment.flags.has(Flags::ACK);
        if has_ack && segment.ack != self.snd_nxt {
            if !segment.flags.has(Flags::RST) {
                cx.reset_for(&segment);
            }
            return Fate::Lives;
        }
        if segment.flags.has(Flags::RST) {
            if has_ack {
                cx.ip.counters.tcp_resets_received += 1;
                return self.die(Some(Error::ConnectionRefused));
            }
            return Fate::Lives;
        }
        if !segment.flags.has(Flags::SYN) {
            return Fate::Lives;
        }
        self.agree(&segment, cx);
        let rtt = (has_ack && self.syn_count == 1).then(|| cx.now.since(self.syn_sent_at));
        self.begin(segment.seq, rtt, cx);
        if has_ack {
            self.establish(&segment);
            self.advance(Event::RcvSynAck);
            // At once, and not with the first data: the peer waits for it.
            self.receive.set_due();
        } else {
            // Both opened at the same time (RFC 9293 §3.5, figure 7).
            self.advance(Event::RcvSyn);
            (self.syn_at, self.syn_count) = (Some(cx.now), 0);
        }
        Fate::Lives
    }

    /// Both opened at once, and the peer answers our SYN, as we answered its (RFC 9293 §3.5, figure 7). Its number is that of
    /// its SYN, which is outside of the window by now, and which our acknowledgement makes known as taken.
    #[cold]
    fn on_crossed_syn_ack(&mut self, segment: &Segment, cx: &mut Cx<'_>) -> Fate {
        self.receive.set_due();
        if segment.seq.add(1) == self.receive.nxt && segment.ack == self.snd_nxt {
            self.establish(segment);
            self.advance(Event::RcvAckOfSyn);
        }
        (self.heard_at, self.keep_alive_probes) = (cx.now, 0);
        Fate::Lives
    }

    /// What the peer's SYN says of what it can do.
    fn agree(&mut self, segment: &Segment, cx: &mut Cx<'_>) {
        let options = &segment.options;
        let ours = cx.settings.window_scale();
        self.agreed.peer_mss = options.mss.map_or(0, u32::from);
        // RFC 7323 §2.2: only if we offered it.
        self.agreed.scales = options.window_scale.filter(|_| cx.settings.window_scaling).map(|theirs| (theirs, ours));
        self.agreed.sack &= options.sack_permitted;
        // RFC 3168 §6.1.1: a SYN, ACK says so with ECE alone, a SYN with both.
        let both = Flags::ECE.with(Flags::CWR);
        let wanted = if segment.flags.has(Flags::ACK) { Flags::ECE.0 } else { both.0 };
        self.agreed.ecn &= segment.flags.0 & both.0 == wanted;
        match (&mut self.stamps, options.timestamps) {
            (Some(stamps), Some(theirs)) => {
                (stamps.recent, stamps.recent_at, stamps.last_ack) = (theirs.value, cx.now, segment.seq.add(1));
            }
            _ => self.stamps = None,
        }
        self.agreed.stamp = self.stamps.map(|stamps| stamps.recent);
    }

    /// The peer has acknowledged our SYN.
    fn establish(&mut self, segment: &Segment) {
        self.snd_una = self.iss.add(1);
        // A window in a SYN is not scaled (RFC 7323 §2.2).
        let is_syn = segment.flags.has(Flags::SYN);
        self.snd_wnd = if is_syn { u32::from(segment.window) } else { self.window_of(segment.window) };
        self.snd_wnd_max = self.snd_wnd;
        (self.snd_wl1, self.snd_wl2) = (segment.seq, segment.ack);
        self.syn_at = None;
    }

    /// RFC 7323 §5.3, R1, and §3.2. Answers what is not.
    fn has_fresh_stamp(&mut self, segment: &Segment, cx: &mut Cx<'_>) -> bool {
        let Some(stamps) = &self.stamps else { return true };
        let Some(theirs) = segment.options.timestamps else {
            cx.ip.counters.tcp_stamps_missing += 1;
            return false;
        };
        let is_old = (theirs.value.wrapping_sub(stamps.recent) as i32) < 0;
        if !is_old || cx.now.since(stamps.recent_at) > STAMP_LIFE {
            return true;
        }
        cx.ip.counters.tcp_stamps_old += 1;
        self.refuse(segment, cx);
        false
    }

    /// RFC 7323 §4.3.
    fn note_stamp(&mut self, segment: &Segment, now: Instant) {
        if let (Some(stamps), Some(theirs)) = (&mut self.stamps, segment.options.timestamps)
            && segment.seq.le(stamps.last_ack)
            && (theirs.value.wrapping_sub(stamps.recent) as i32 >= 0 || now.since(stamps.recent_at) > STAMP_LIFE)
        {
            (stamps.recent, stamps.recent_at) = (theirs.value, now);
        }
    }

    /// RFC 9293 §3.10.7.4, first: something of it lies in the window. With a window of nothing, what begins right there is
    /// still looked at, for its acknowledgement.
    fn is_acceptable(&self, segment: &Segment) -> bool {
        let window = self.receive.window().max(1);
        match segment.len() {
            0 => segment.seq.within(self.receive.nxt, window),
            len => segment.seq.add(len).gt(self.receive.nxt) && segment.seq.lt(self.receive.nxt.add(window)),
        }
    }

    /// A segment from outside of the window: it is told where we are (RFC 9293 §3.10.7.4, first).
    fn refuse(&mut self, segment: &Segment, cx: &mut Cx<'_>) -> Fate {
        cx.ip.counters.tcp_outside_window += 1;
        if segment.flags.has(Flags::RST) {
            return Fate::Lives;
        }
        if self.state == State::TimeWait {
            self.until = Some(cx.now + cx.settings.time_wait);
        }
        let end = segment.seq.add(segment.data.len() as u32);
        if !segment.data.is_empty() && end.le(self.receive.nxt) {
            cx.ip.counters.tcp_duplicate_bytes += segment.data.len() as u64;
            self.receive.note_duplicate(segment.seq, end);
        } else if segment.len() > 0 {
            self.receive.set_due();
        } else {
            self.challenge(cx); // bounded: two that have lost each other would answer one another for ever
        }
        Fate::Lives
    }

    /// RFC 5961 §3.2, §4.2, §5.2: an acknowledgement of where we are, which who is honest can answer. Not too many (§7).
    pub(crate) fn challenge(&mut self, cx: &mut Cx<'_>) {
        if self.challenged_at.is_none_or(|at| cx.now.since(at) >= CHALLENGE_GAP) {
            self.challenged_at = Some(cx.now);
            cx.ip.counters.tcp_challenges += 1;
            self.receive.set_due();
        }
    }

    /// The acknowledgement and the window of a segment whose ACK is not older than `snd_una`.
    fn take_ack(&mut self, heard: &Heard, blocks: &[(u32, u32)], cx: &mut Cx<'_>) {
        let (una, window, was_closed) = (self.snd_una, self.window_of(heard.window), self.snd_wnd == 0);
        let advanced = heard.ack.gt(una);
        // RFC 5681 §2.
        let is_duplicate = !advanced
            && heard.text_len == 0
            && !heard.flags.any(Flags::SYN.with(Flags::FIN))
            && window == self.snd_wnd
            && self.snd_nxt != una;
        if self.snd_wl1.lt(heard.seq) || self.snd_wl1 == heard.seq && self.snd_wl2.le(heard.ack) {
            (self.snd_wnd, self.snd_wl1, self.snd_wl2) = (window, heard.seq, heard.ack);
            self.snd_wnd_max = self.snd_wnd_max.max(window);
        }
        if advanced {
            let acked = heard.ack.since(una);
            let text = (acked as usize).min(self.queue.len());
            self.queue.free(text);
            if acked as usize > text {
                self.fin = Fin::Acked;
            }
            self.snd_una = heard.ack;
            cx.ip.confirm(&self.path, cx.now);
        }
        let is_plain = advanced && blocks.is_empty() && !heard.flags.has(Flags::ECE);
        if is_plain && self.recovery.is_plain() {
            self.recovery.on_plain_ack((una, heard.ack, self.snd_nxt), cx.now);
        } else if una != self.snd_nxt || !blocks.is_empty() {
            // With nothing in flight, too, the peer may tell of what it got twice.
            let ece = self.agreed.ecn && heard.flags.has(Flags::ECE);
            let echo = heard.timestamps.filter(|_| self.stamps.is_some()).map(|stamps| stamps.echo);
            let recovered = self.recovery.on_ack(&Ack {
                una,
                ack: heard.ack,
                nxt: self.snd_nxt,
                blocks,
                echo,
                stamp: self.stamp_clock(cx.now),
                is_duplicate,
                ece,
                now: cx.now,
            });
            self.says_reduced |= recovered.reduced;
        }
        if self.snd_wnd == 0 {
            // It is there, and has no room: it may take its time (RFC 9293 §3.8.6.1).
            self.recovery.forgive_timeouts();
        } else if was_closed {
            self.persist = None;
            // What asked for the window was refused by it.
            self.recovery.repeat_first();
        }
    }

    /// What the acknowledgement of our FIN leads to.
    fn take_ack_of_fin(&mut self, cx: &mut Cx<'_>) -> Fate {
        if self.fin != Fin::Acked || !matches!(self.state, State::FinWait1 | State::Closing | State::LastAck) {
            return Fate::Lives;
        }
        self.advance(Event::RcvAckOfFin);
        match self.state {
            State::Closed => return Fate::Over,
            State::FinWait2 if self.deaf => self.until = Some(cx.now + cx.settings.fin_wait),
            _ => self.enter_time_wait(cx),
        }
        Fate::Lives
    }

    fn enter_time_wait(&mut self, cx: &mut Cx<'_>) {
        if self.state == State::TimeWait {
            let short = if cfg!(margay_planted_bug = "time_wait_short") { 4 } else { 1 };
            self.until = Some(cx.now + cx.settings.time_wait / short);
        }
    }

    /// RFC 3168 §6.1.3; with DCTCP each acknowledgement says what it is about (RFC 8257 §3.2).
    fn take_congestion(&mut self, segment: &Segment, cx: &mut Cx<'_>) {
        if !self.agreed.ecn {
            return;
        }
        let congested = segment.ecn == Ecn::Congested;
        cx.ip.counters.tcp_congestion_experienced += u64::from(congested);
        if cx.settings.congestion.echoes_exactly() {
            if !segment.data.is_empty() && congested != self.echoes_congestion {
                if self.receive.has_unacked() {
                    self.send_ack(cx);
                }
                self.echoes_congestion = congested;
                self.receive.set_due();
            }
            return;
        }
        if segment.flags.has(Flags::CWR) {
            self.echoes_congestion = false;
        }
        self.echoes_congestion |= congested;
    }

    /// Cuts off what came before and what lies beyond the window.
    fn trim(&mut self, mut seq: SeqNumber, mut data: Buf) -> (SeqNumber, Buf) {
        let (nxt, end) = (self.receive.nxt, seq.add(data.len() as u32));
        if seq.lt(nxt) && !data.is_empty() {
            let before = (nxt.since(seq) as usize).min(data.len());
            self.receive.note_duplicate(seq, seq.add(before as u32));
            data.advance(before);
            seq = seq.add(before as u32);
        }
        let edge = self.receive.edge_told();
        if end.gt(edge) {
            data.truncate(data.len() - (end.since(edge) as usize).min(data.len()));
            self.receive.set_due();
        }
        (seq, data)
    }

    fn take_text(&mut self, seq: SeqNumber, text: Buf, cx: &mut Cx<'_>) -> Fate {
        if self.deaf {
            // Nobody will ever read it: RFC 1122 §4.2.2.13.
            self.send_reset(cx);
            return self.die(Some(Error::ConnectionReset));
        }
        if seq != self.receive.nxt {
            cx.ip.counters.tcp_out_of_order += 1;
            self.receive.take_beyond(seq, text);
            // At once, one for each: a peer without selective acknowledgements counts them (RFC 5681 §4.2).
            self.send_ack(cx);
            return Fate::Lives;
        }
        if !self.receive.take_next(text) {
            cx.ip.counters.tcp_no_memory += 1;
        }
        if self.receive.has_hole() {
            self.receive.take_ready();
        }
        self.receive.on_text(self.mss, cx.now);
        Fate::Lives
    }
}
