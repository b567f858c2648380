//! One connection: all its state. What a segment does to it is in `tcb/arrival.rs`, what time does in `tcb/time.rs`.
//!
//! Always (RFC 9293 §3.3.1): `snd_una` ≤ `snd_nxt`; new data stops at `snd_una + snd_wnd`, which may shrink. The send queue
//! begins at `snd_una`, and an acknowledgement is the only thing that frees what is in it.
//! Bounds: the send budget and the receive budget, in bytes pinned; records of a window's segments.
//! Pure: `now` comes with the [`Cx`]. Not here: what is sent, and how (`send.rs`); embryos of passive opens (`listener.rs`).

use std::net::IpAddr;
use std::time::Duration;

use pdpix::{Endpoint, Error, Instant};

use super::TcpSettings;
use super::isn::timestamp_clock;
use super::receive::Receive;
use super::recovery::Recovery;
use super::rtt::RttEstimator;
use super::send_queue::SendQueue;
use super::seq::SeqNumber;
use super::state::{Event, State, next};
use crate::ip::{Ip, Path, earlier};
use crate::wire::{IPV4_LEN, IPV6_LEN, TCP_LEN, Timestamps};

mod arrival;
mod time;

pub(crate) use arrival::CHALLENGE_GAP;

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

/// RFC 9293 §3.7.1, for a peer that says nothing.
const PEER_MSS_V4: u32 = 536;
const PEER_MSS_V6: u32 = 1220;
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

// For tests and the simulator.
impl Tcb {
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
