//! One connection: all its state, and what a segment does to it, in the order of RFC 9293 §3.10.7.
//!
//! Always (RFC 9293 §3.3.1): `snd_una` ≤ `snd_nxt`; new data stops at `snd_una + snd_wnd`, which may shrink. The send queue
//! begins at `snd_una`, and an acknowledgement is the only thing that frees what is in it.
//! Bounds: the send budget and the receive budget, in bytes pinned; records of a window's segments.
//! Pure: `now` comes with the [`Cx`]. Not here: what is sent, and how (`send.rs`); embryos of passive opens (`listener.rs`).

use std::net::IpAddr;
use std::time::Duration;

use pdpix::{Buf, Endpoint, Error, Instant};

use super::TcpSettings;
use super::isn::timestamp_clock;
use super::receive::Receive;
use super::recovery::{Ack, Recovery, Timer};
use super::rtt::RttEstimator;
use super::segment::{Heard, Segment};
use super::send_queue::SendQueue;
use super::seq::SeqNumber;
use super::state::{Event, State, next};
use crate::ip::{Ip, Path};
use crate::wire::{Ecn, Flags, IPV4_LEN, IPV6_LEN, TCP_LEN, Timestamps};

/// What a connection needs of the stack, lent for one call.
pub(crate) struct Cx<'a> {
    pub(crate) ip: &'a mut Ip,
    pub(crate) settings: &'a TcpSettings,
    pub(crate) now: Instant,
}

/// Both ends of a connection.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Ends {
    pub(crate) local: Endpoint,
    pub(crate) remote: Endpoint,
}

/// What both sides agreed on in their SYNs.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub(crate) struct Agreed {
    /// The largest segment that the peer takes, without options.
    pub(crate) peer_mss: u32,
    /// The shifts of the peer's windows and of ours (RFC 7323 §2).
    pub(crate) scales: Option<(u8, u8)>,
    pub(crate) sack: bool,
    /// The last timestamp of the peer.
    pub(crate) stamp: Option<u32>,
    pub(crate) ecn: bool,
}

/// RFC 7323 §4.3.
#[derive(Clone, Copy, Debug)]
struct Stamps {
    /// Added to our clock of milliseconds, so that nobody can tell for how long we have been up.
    offset: u32,
    /// TS.Recent, and when it was set.
    recent: u32,
    recent_at: Instant,
    /// Last.ACK.sent.
    last_ack: SeqNumber,
}

/// RFC 7323 §5.5: a timestamp that was not refreshed for so long says nothing (24 days).
const STAMP_LIFE: Duration = Duration::from_secs(24 * 86_400);
/// RFC 5961 §7, and Linux's limit for one connection.
pub(crate) const CHALLENGE_GAP: Duration = Duration::from_millis(500);
/// RFC 9293 §3.7.1, for a peer that says nothing.
const PEER_MSS_V4: u32 = 536;
const PEER_MSS_V6: u32 = 1220;
/// RFC 2923 §2.1, RFC 4821 §7.2: after so many timeouts of one segment the path is taken for one that swallows long ones.
const BLACK_HOLE_TIMEOUTS: u8 = 2;
const BLACK_HOLE_MSS: u32 = 512;
/// After so long it is asked again whether the path carries long segments; each time it does not, after twice as long.
const BLACK_HOLE_PATIENCE: Duration = Duration::from_secs(10);
/// RFC 1122 §4.2.3.6; Linux asks nine times.
const KEEP_ALIVE_PROBES: u8 = 9;
const KEEP_ALIVE_GAP: Duration = Duration::from_secs(75);

/// How far our side of the stream has ended.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Fin {
    Open,
    /// It ends after what is queued.
    Asked,
    Sent,
    Acked,
}

/// See the module's head.
#[derive(Debug)]
pub(crate) struct Tcb {
    pub(crate) ends: Ends,
    pub(crate) path: Path,
    pub(crate) state: State,

    pub(crate) iss: SeqNumber,
    pub(crate) snd_una: SeqNumber,
    pub(crate) snd_nxt: SeqNumber,
    pub(crate) snd_wnd: u32,
    snd_wl1: SeqNumber,
    snd_wl2: SeqNumber,
    /// The largest window that the peer ever announced.
    pub(crate) snd_wnd_max: u32,
    pub(crate) queue: SendQueue,
    pub(crate) fin: Fin,
    /// Bytes of text in a segment, with the usual options.
    pub(crate) mss: u32,
    pub(crate) agreed: Agreed,
    pub(crate) recovery: Recovery,
    pub(crate) receive: Receive,
    stamps: Option<Stamps>,

    /// A segment came with congestion experienced: said with every acknowledgement, until the peer has heard.
    pub(crate) echoes_congestion: bool,
    /// The window was reduced for what the peer echoed: said with the next new data.
    pub(crate) says_reduced: bool,

    pub(crate) no_delay: bool,
    pub(crate) keep_alive: Option<Duration>,
    keep_alive_probes: u8,
    heard_at: Instant,
    pub(crate) sent_at: Instant,
    challenged_at: Option<Instant>,
    /// The SYN, or SYN and ACK, is sent again then; so often it was.
    pub(crate) syn_at: Option<Instant>,
    pub(crate) syn_sent_at: Instant,
    pub(crate) syn_count: u8,
    /// The peer's window is asked for then (RFC 9293 §3.8.6.1).
    pub(crate) persist: Option<(Instant, u8)>,
    /// The end of the connection's life: TIME-WAIT, or a FIN-WAIT-2 that nobody holds, or lingering.
    pub(crate) until: Option<Instant>,
    /// Nobody will read any more.
    pub(crate) deaf: bool,
    /// Shorter segments than the path's are used until then (RFC 4821).
    long_again_at: Option<Instant>,
    long_again_tries: u8,
    /// How it ended.
    pub(crate) error: Option<Error>,
    /// What a router said of the way (RFC 1122 §4.2.3.9): the reason, if it comes to nothing.
    pub(crate) soft_error: Option<Error>,
}

/// The first of both, if there are any.
#[inline(always)]
fn earlier(one: Option<Instant>, other: Option<Instant>) -> Option<Instant> {
    match (one, other) {
        (Some(one), Some(other)) => Some(one.min(other)),
        (one, other) => one.or(other),
    }
}

/// What is to become of a connection after a segment.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Fate {
    Lives,
    /// Its state is `Closed`: it is to be deleted, and `error` says why, if it failed.
    Over,
}

// Making.
impl Tcb {
    /// A connection that is about to send its SYN.
    pub(crate) fn opening(ends: Ends, path: Path, iss: SeqNumber, stamp_offset: u32, cx: &mut Cx<'_>) -> Tcb {
        let settings = cx.settings;
        let mut tcb = Tcb::new(ends, path, iss, cx);
        tcb.state = State::SynSent;
        tcb.syn_at = Some(cx.now);
        tcb.stamps = settings.timestamps.then_some(Stamps {
            offset: stamp_offset,
            recent: 0,
            recent_at: cx.now,
            last_ack: SeqNumber::default(),
        });
        tcb.agreed.sack = settings.sack;
        tcb.agreed.ecn = settings.asks_for_ecn();
        tcb
    }

    /// A connection whose handshake a listener has finished.
    #[allow(clippy::too_many_arguments, reason = "what an embryo knows")]
    pub(crate) fn accepted(
        ends: Ends,
        path: Path,
        (iss, irs): (SeqNumber, SeqNumber),
        agreed: Agreed,
        stamp_offset: u32,
        window: u32,
        (rtt, syn_count): (Option<Duration>, u8),
        cx: &mut Cx<'_>,
    ) -> Tcb {
        let mut tcb = Tcb::new(ends, path, iss, cx);
        tcb.agreed = agreed;
        tcb.stamps =
            agreed.stamp.map(|recent| Stamps { offset: stamp_offset, recent, recent_at: cx.now, last_ack: irs.add(1) });
        tcb.syn_count = syn_count;
        tcb.snd_una = iss.add(1);
        tcb.snd_nxt = tcb.snd_una;
        (tcb.snd_wl1, tcb.snd_wl2) = (irs, tcb.snd_una);
        (tcb.snd_wnd, tcb.snd_wnd_max) = (window, window);
        tcb.begin(irs, rtt, cx);
        tcb.receive.announce_unscaled(); // as the SYN, ACK did
        tcb.state = State::Estab;
        tcb
    }

    fn new(ends: Ends, path: Path, iss: SeqNumber, cx: &mut Cx<'_>) -> Tcb {
        let settings = cx.settings;
        let rtt = RttEstimator::new(settings.rto_bounds());
        Tcb {
            ends,
            path,
            state: State::Closed,
            iss,
            snd_una: iss,
            snd_nxt: iss,
            snd_wnd: 0,
            snd_wl1: SeqNumber::default(),
            snd_wl2: iss,
            snd_wnd_max: 0,
            queue: SendQueue::new(),
            fin: Fin::Open,
            mss: PEER_MSS_V4,
            agreed: Agreed::default(),
            recovery: Recovery::new(iss.add(1), PEER_MSS_V4, false, settings.congestion, rtt),
            receive: Receive::new(SeqNumber::default(), 0, settings.receive_budget, settings.receive_budget_max),
            stamps: None,
            echoes_congestion: false,
            says_reduced: false,
            no_delay: true,
            keep_alive: None,
            keep_alive_probes: 0,
            heard_at: cx.now,
            sent_at: cx.now,
            challenged_at: None,
            syn_at: None,
            syn_sent_at: cx.now,
            syn_count: 0,
            persist: None,
            until: None,
            deaf: false,
            long_again_at: None,
            long_again_tries: 0,
            error: None,
            soft_error: None,
        }
    }

    /// Both SYNs are known: what depends on them is made. A budget that the user has set stays.
    fn begin(&mut self, irs: SeqNumber, rtt: Option<Duration>, cx: &mut Cx<'_>) {
        let settings = cx.settings;
        self.mss = self.mss_of_path(cx);
        let mut estimator = RttEstimator::new(settings.rto_bounds());
        if let Some(rtt) = rtt {
            estimator.sample(rtt.as_nanos() as u64, 1, cx.now);
        } else if self.syn_count > 1 {
            estimator.on_handshake_timed_out();
        }
        let kind = if self.agreed.ecn { settings.congestion } else { settings.congestion.without_ecn() };
        self.recovery = Recovery::new(self.iss.add(1), self.mss, self.agreed.sack, kind, estimator);
        let scale = self.agreed.scales.map_or(0, |(_, ours)| ours);
        self.receive.begin(irs.add(1), scale);
        (self.heard_at, self.sent_at) = (cx.now, cx.now);
    }

    /// The most text of a segment that the peer takes and the path carries.
    pub(crate) fn mss_of_path(&mut self, cx: &mut Cx<'_>) -> u32 {
        let (header, least) = match self.ends.remote.ip() {
            IpAddr::V4(_) => (IPV4_LEN, PEER_MSS_V4),
            IpAddr::V6(_) => (IPV6_LEN, PEER_MSS_V6),
        };
        let path = cx.ip.mtu(&mut self.path).saturating_sub(header + TCP_LEN) as u32;
        let peer = if self.agreed.peer_mss == 0 { least } else { self.agreed.peer_mss };
        let options = if self.stamps.is_some() { 12 } else { 0 };
        // RFC 6691 §3: what the peer announced is without options, and these are in every segment.
        path.min(peer).max(64) - options
    }

    /// The path carries less than was thought.
    pub(crate) fn on_path_mtu(&mut self, cx: &mut Cx<'_>) {
        let mss = self.mss_of_path(cx);
        if mss < self.mss {
            self.mss = mss;
            self.recovery.set_mss(mss);
        }
    }
}

// Asking.
impl Tcb {
    /// Bytes that are queued and were never sent.
    #[inline]
    pub(crate) fn unsent(&self) -> u32 {
        (self.queue.len() as u32).saturating_sub(self.snd_nxt.since(self.snd_una))
    }

    /// Our timestamps with a segment that goes out now.
    #[inline]
    pub(crate) fn stamps_now(&self, now: Instant) -> Option<Timestamps> {
        self.stamps.map(|stamps| Timestamps { value: self.stamp_value(&stamps, now), echo: stamps.recent })
    }

    #[inline]
    fn stamp_value(&self, stamps: &Stamps, now: Instant) -> u32 {
        stamps.offset.wrapping_add(timestamp_clock(now))
    }

    /// Our clock of timestamps.
    pub(crate) fn stamp_clock(&self, now: Instant) -> u32 {
        self.stamps.map_or(0, |stamps| self.stamp_value(&stamps, now))
    }

    /// What is added to the clock of timestamps.
    pub(crate) fn stamp_offset(&self) -> u32 {
        self.stamps.map_or(0, |stamps| stamps.offset)
    }

    /// An acknowledgement of everything so far has gone out.
    #[inline]
    pub(crate) fn note_acked(&mut self) {
        if let Some(stamps) = &mut self.stamps {
            stamps.last_ack = self.receive.nxt;
        }
    }

    /// When something is to be done by itself.
    #[inline]
    pub(crate) fn deadline(&self) -> Option<Instant> {
        let timer = self.recovery.timer().map(|(_, at)| at);
        let persist = self.persist.map(|(at, _)| at);
        let rare = earlier(earlier(persist, self.syn_at), earlier(self.until, self.keep_alive_at()));
        earlier(earlier(timer, self.receive.due_at()), rare)
    }

    fn keep_alive_at(&self) -> Option<Instant> {
        let idle = self.keep_alive?;
        // Also half-closed, when all that is left is to listen.
        let states = matches!(self.state, State::Estab | State::CloseWait | State::FinWait2);
        let runs = states && self.recovery.board.is_empty();
        let gap = KEEP_ALIVE_GAP.min(idle);
        runs.then(|| self.heard_at + idle + gap * u32::from(self.keep_alive_probes))
    }

    #[inline]
    fn advance(&mut self, event: Event) {
        match next(self.state, event) {
            Some(state) => self.state = state,
            None => debug_assert!(false, "no arrow for {event:?} from {:?}", self.state),
        }
    }

    fn die(&mut self, error: Option<Error>) -> Fate {
        self.state = State::Closed;
        self.error = self.error.or(error);
        Fate::Over
    }
}

// Segments.
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
        // With nothing in flight, too, the peer may tell of what it got twice.
        if una != self.snd_nxt || !blocks.is_empty() {
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

// The user.
impl Tcb {
    /// Our side of the stream ends after what is queued.
    pub(crate) fn finish(&mut self) {
        if self.fin == Fin::Open {
            self.fin = Fin::Asked;
            self.advance(Event::Close);
        }
    }

    /// Nobody reads any more, and what is queued is to be sent before `until`. Text that comes from now on is answered with
    /// a reset; so is, at once, what was not read (RFC 2525 §2.17).
    pub(crate) fn close(&mut self, linger: Duration, cx: &mut Cx<'_>) -> Fate {
        let unread = self.receive.abandon();
        let opening = matches!(self.state, State::SynSent);
        if opening || unread || linger.is_zero() && self.state != State::TimeWait {
            return self.abort(Error::Canceled, cx);
        }
        self.deaf = true;
        self.keep_alive = None;
        self.finish();
        match self.state {
            State::TimeWait => {}
            State::FinWait2 => self.until = Some(cx.now + cx.settings.fin_wait),
            _ => self.until = Some(cx.now + linger),
        }
        Fate::Lives
    }

    /// RFC 9293 §3.10.5.
    pub(crate) fn abort(&mut self, error: Error, cx: &mut Cx<'_>) -> Fate {
        if matches!(self.state, State::SynRcvd | State::Estab | State::FinWait1 | State::FinWait2 | State::CloseWait) {
            self.send_reset(cx);
        }
        self.die(Some(error))
    }

    /// A router, or the peer's host, says that something is wrong. In the handshake it is final; later it may pass (RFC 1122
    /// §4.2.3.9, RFC 5461 §4). Whoever calls has looked whether the number is one of ours in flight (RFC 5927 §4.1).
    pub(crate) fn on_unreachable(&mut self, error: Error, is_hard: bool) -> Fate {
        self.soft_error = Some(error);
        match self.state {
            State::SynSent if is_hard => self.die(Some(error)),
            _ => Fate::Lives,
        }
    }
}

// Time.
impl Tcb {
    /// What is due by now.
    pub(crate) fn on_time(&mut self, cx: &mut Cx<'_>) -> Fate {
        let now = cx.now;
        let is_due = |at: Option<Instant>| at.is_some_and(|at| at <= now);
        if is_due(self.until) {
            return match self.state {
                State::TimeWait => {
                    self.advance(Event::Timeout);
                    Fate::Over
                }
                State::FinWait2 => self.die(None),
                _ => self.abort(Error::TimedOut, cx),
            };
        }
        if is_due(self.syn_at) && self.on_syn_timer(cx) == Fate::Over {
            return Fate::Over;
        }
        if is_due(self.keep_alive_at()) {
            if self.keep_alive_probes >= KEEP_ALIVE_PROBES {
                return self.abort(self.soft_error.unwrap_or(Error::TimedOut), cx);
            }
            self.keep_alive_probes += 1;
            self.send_probe(cx);
        }
        if is_due(self.receive.due_at()) {
            self.receive.set_due();
        }
        if is_due(self.persist.map(|(at, _)| at)) {
            self.ask_for_window(cx);
        }
        match self.recovery.timer() {
            Some((timer, at)) if at <= cx.now => self.on_recovery_timer(timer, cx),
            _ => Fate::Lives,
        }
    }

    fn on_syn_timer(&mut self, cx: &mut Cx<'_>) -> Fate {
        if self.syn_count > cx.settings.syn_retries {
            return self.die(Some(self.soft_error.unwrap_or(Error::TimedOut)));
        }
        self.send_syn(cx);
        Fate::Lives
    }

    fn on_recovery_timer(&mut self, timer: Timer, cx: &mut Cx<'_>) -> Fate {
        match timer {
            Timer::Reorder => self.recovery.on_reorder_timer(self.snd_nxt, cx.now),
            Timer::Probe => self.probe_tail(cx),
            Timer::Timeout => {
                if self.recovery.timeouts() >= cx.settings.retries {
                    return self.die(Some(self.soft_error.unwrap_or(Error::TimedOut)));
                }
                cx.ip.counters.tcp_timeouts += 1;
                // A window that is closed says nothing of congestion.
                self.recovery.on_timeout(self.snd_una, self.snd_nxt, cx.now, self.snd_wnd > 0);
                self.suspect_black_hole(cx);
            }
        }
        Fate::Lives
    }

    /// RFC 4821 §7.7: long segments vanish, and nobody says why. Shorter ones are tried; in a while long ones again, as it
    /// may have been something else.
    fn suspect_black_hole(&mut self, cx: &mut Cx<'_>) {
        let long = self.recovery.board.first_len() > BLACK_HOLE_MSS;
        let ignored = cfg!(margay_planted_bug = "black_hole_ignored");
        if self.recovery.timeouts() >= BLACK_HOLE_TIMEOUTS && long && self.snd_wnd > 0 && !ignored {
            cx.ip.counters.tcp_black_holes += 1;
            self.mss = (self.mss / 2).max(BLACK_HOLE_MSS);
            self.recovery.set_mss(self.mss);
            self.long_again_tries = self.long_again_tries.saturating_add(1);
            let patience = BLACK_HOLE_PATIENCE * (1 << self.long_again_tries.min(6));
            self.long_again_at = Some(cx.now + patience);
        }
    }

    /// Whether shorter segments than the path's are used.
    #[inline]
    pub(crate) fn has_long_again(&self) -> bool {
        self.long_again_at.is_some()
    }

    /// Long segments are tried again.
    pub(crate) fn try_long_again(&mut self, cx: &mut Cx<'_>) {
        if self.long_again_at.is_some_and(|at| at <= cx.now) {
            self.long_again_at = None;
            self.mss = self.mss_of_path(cx);
            self.recovery.set_mss(self.mss);
        }
    }

    /// What must hold between two calls.
    pub(crate) fn check(&self) {
        assert!(self.snd_una.le(self.snd_nxt), "acknowledged beyond what was sent");
        let sent = self.snd_nxt.since(self.snd_una);
        let fin = u32::from(self.fin == Fin::Sent);
        assert!(
            sent as usize <= self.queue.len() + fin as usize || !self.state.is_synchronized(),
            "sent what is not there"
        );
        if self.state.is_synchronized() {
            self.recovery.check(self.snd_una, self.snd_nxt);
        }
        self.receive.check();
    }
}
