//! Send side of a connection: which segment goes out next, and how it is written.
//!
//! Order: what was lost, oldest first; new data, as far as the window, the peer's window and Nagle allow; the FIN behind the
//! last of it; and an acknowledgement, if none of these carried it. What a device cuts up is in `long.rs`.
//! Sources: RFC 9293 §3.8 (windows, silly windows, Nagle), RFC 5681 §3.1 (windows), RFC 3168 §6.1 (congestion notification),
//! RFC 8985 §7.3 (probes of the tail).

use std::time::Duration;

use libos_mem::{CopyPath, PUSH_COPY_MAX};
use pdpix::{Error, Sga};
use zerocopy::{Immutable, IntoBytes};

use super::segment::Segment;
use super::seq::SeqNumber;
use super::state::State;
use super::tcb::{Cx, Fin, Tcb};
use crate::device::ChecksumAt;
use crate::ip::Path;
use crate::wire::{
    Checksum, Ecn, Flags, Protocol, SACK_BLOCKS_MAX, STAMPS_LEN, TCP_LEN, TCP_OPTIONS_MAX, TcpHeader, TcpOptions,
    Timestamps,
};

/// Frames that may wait for the device: beyond that connections wait, and not their frames.
pub(crate) const OUTBOUND_MAX: usize = 1024;
/// RFC 9293 §3.8.6.1: the window is asked for after a timeout, later after twice as long, up to this.
const PERSIST_MAX: Duration = Duration::from_secs(60);

/// Whether everything that could be sent was.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Output {
    Done,
    /// The device's queue is full, or there is no memory: call again.
    Blocked,
}

/// A header to be written.
struct Header<'a> {
    ports: (u16, u16),
    seq: SeqNumber,
    ack: SeqNumber,
    flags: Flags,
    window: u16,
    options: Options<'a>,
}

/// The options of a header: mostly timestamps and no more, which need no list.
#[derive(Clone, Copy)]
enum Options<'a> {
    None,
    Stamps(Timestamps),
    Listed(&'a TcpOptions),
}

impl Options<'_> {
    #[inline(always)]
    fn len(self) -> usize {
        match self {
            Options::None => 0,
            Options::Stamps(_) => STAMPS_LEN,
            Options::Listed(options) => options.len(),
        }
    }
}

/// A header with timestamps as it goes out.
#[derive(IntoBytes, Immutable)]
#[repr(C)]
struct Stamped {
    fixed: TcpHeader,
    stamps: [u8; STAMPS_LEN],
}

impl Tcb {
    /// Sends what may be sent now.
    #[inline]
    pub(crate) fn output(&mut self, cx: &mut Cx<'_>) -> Output {
        if !self.state.is_synchronized() {
            // The first SYN goes out here, and not with the call, which may come long after the last poll.
            if self.syn_at.is_some_and(|at| at <= cx.now) {
                self.send_syn(cx);
            } else if self.state == State::SynRcvd && self.receive.is_due() {
                self.send_ack(cx);
            }
            return Output::Done;
        }
        self.receive.settle();
        let ended = loop {
            if cx.ip.outbound().len() >= OUTBOUND_MAX {
                return Output::Blocked;
            }
            let sent = if self.recovery.board.lost() > 0 { self.resend_lost(cx) } else { self.send_next(cx) };
            match sent {
                Ok(true) => {}
                Ok(false) => break Output::Done,
                // There is no memory for text: an acknowledgement has its own.
                Err(_) => break Output::Blocked,
            }
        };
        if self.receive.is_due() {
            self.send_ack(cx);
        }
        ended
    }

    /// The oldest lost segment, if the window has room for it.
    #[cold]
    fn resend_lost(&mut self, cx: &mut Cx<'_>) -> Result<bool, Error> {
        let Some((from, len)) = self.recovery.board.next_lost() else { return Ok(false) };
        // Beyond a window that has shrunk only the first is sent, as a question (RFC 9293 §3.8.6).
        let edge = self.snd_una.add(self.snd_wnd);
        if from != self.snd_una && from.add(len).gt(edge) {
            return Ok(false);
        }
        let len = len.min(self.mss);
        if self.recovery.room() < len && self.recovery.in_flight() > 0 {
            return Ok(false);
        }
        self.resend(from, len, cx)?;
        Ok(true)
    }

    fn resend(&mut self, from: SeqNumber, len: u32, cx: &mut Cx<'_>) -> Result<(), Error> {
        let offset = from.since(self.snd_una);
        let text = len.min((self.queue.len() as u32).saturating_sub(offset));
        let flags = if text < len { Flags::ACK.with(Flags::FIN) } else { Flags::ACK };
        // RFC 3168 §6.1.5: what is sent again is not marked.
        self.emit(from, flags, offset, text, Ecn::NotCapable, cx)?;
        cx.ip.counters.tcp_segments_resent += 1;
        self.sent_at = cx.now;
        let stamp = self.stamp_clock(cx.now);
        self.recovery.on_resend(from, len, stamp, cx.now);
        Ok(())
    }

    /// New data, or the FIN.
    #[inline]
    fn send_next(&mut self, cx: &mut Cx<'_>) -> Result<bool, Error> {
        let unsent = self.unsent();
        let fin_is_next = self.fin == Fin::Asked;
        if unsent == 0 && !fin_is_next {
            return Ok(false);
        }
        if self.has_long_again() {
            self.try_long_again(cx);
        }
        let in_flight = self.snd_nxt.since(self.snd_una);
        // In numbers: this is asked of each segment, and a `Duration` is made by a division.
        let idle = cx.now.as_nanos().saturating_sub(self.sent_at.as_nanos());
        if in_flight == 0 && self.recovery.rtt.rto() < idle {
            self.recovery.on_idle();
        }
        let window = self.snd_wnd.saturating_sub(in_flight);
        let len = unsent.min(self.mss).min(window);
        if len < unsent && !self.is_worth_it(len) || unsent == 0 && window == 0 && in_flight > 0 {
            self.wait_for_window(cx);
            return Ok(false);
        }
        let is_last = len == unsent;
        // RFC 9293 §3.7.4 (Nagle): one short segment under way.
        if is_last && len < self.mss && !self.no_delay && in_flight > 0 && !fin_is_next {
            return Ok(false);
        }
        let room = self.recovery.room();
        if room < len && self.recovery.in_flight() > 0 {
            self.recovery.note_limited(self.snd_nxt);
            return Ok(false);
        }
        if len == self.mss && !is_last {
            let long = self.long_len(unsent, window, room, cx);
            // If there is no memory for its list of pieces, there may be for one segment.
            if long > len && self.send_new(long, long == unsent, false, cx).is_ok() {
                return Ok(true);
            }
        }
        self.send_new(len, is_last, false, cx)?;
        Ok(true)
    }

    /// RFC 9293 §3.8.6.2.1: a segment that the window makes short is sent if it is half of what the peer ever had room for;
    /// else when the time to ask has come (`wait_for_window`).
    fn is_worth_it(&self, len: u32) -> bool {
        len > 0 && (len >= self.mss || len * 2 >= self.snd_wnd_max)
    }

    fn send_new(&mut self, len: u32, is_last: bool, is_window_probe: bool, cx: &mut Cx<'_>) -> Result<(), Error> {
        let fin = is_last && self.fin == Fin::Asked;
        let mut flags = Flags::ACK;
        if is_last && len > 0 {
            flags = flags.with(Flags::PSH);
        }
        if fin {
            flags = flags.with(Flags::FIN);
        }
        let mut ecn = Ecn::NotCapable;
        if self.agreed.ecn && len > 0 && !is_window_probe {
            ecn = Ecn::Capable0;
            if self.says_reduced {
                flags = flags.with(Flags::CWR);
            }
        }
        self.emit(self.snd_nxt, flags, self.snd_nxt.since(self.snd_una), len, ecn, cx)?;
        if flags.has(Flags::CWR) {
            self.says_reduced = false;
        }
        if fin {
            self.fin = Fin::Sent;
        }
        let taken = len + u32::from(fin);
        self.snd_nxt = self.snd_nxt.add(taken);
        self.sent_at = cx.now;
        self.persist = None;
        if len > self.mss {
            self.recovery.on_send_long(taken, u32::from(fin), cx.now);
        } else {
            self.recovery.on_send(taken, cx.now);
        }
        if cfg!(margay_planted_bug = "freed_before_ack") && self.unsent() == 0 {
            self.queue.free_early(cx.ip.heap());
        }
        Ok(())
    }

    /// Nothing in flight will bring an acknowledgement: somebody has to ask whether there is room.
    fn wait_for_window(&mut self, cx: &mut Cx<'_>) {
        if self.recovery.board.is_empty() && self.persist.is_none() {
            self.persist = Some((cx.now + self.recovery.rto(), 0));
        }
    }

    /// RFC 9293 §3.8.6.1: one byte beyond the window, or what little fits. What becomes of it is the timeout's to see.
    pub(crate) fn ask_for_window(&mut self, cx: &mut Cx<'_>) {
        let Some((_, count)) = self.persist else { return };
        cx.ip.counters.tcp_window_probes += 1;
        let len = self.unsent().min(self.snd_wnd.clamp(1, self.mss));
        let is_last = len == self.unsent();
        // RFC 3168 §6.1.6: without a word of congestion.
        if self.send_new(len, is_last, true, cx).is_err() {
            let pause = (self.recovery.rto() * (1 << count.min(10))).min(PERSIST_MAX);
            self.persist = Some((cx.now + pause, count.saturating_add(1)));
        }
    }

    /// RFC 8985 §7.3: new data if there is any and the peer has room for it, else the last segment once more.
    pub(crate) fn probe_tail(&mut self, cx: &mut Cx<'_>) {
        cx.ip.counters.tcp_tail_probes += 1;
        let in_flight = self.snd_nxt.since(self.snd_una);
        let len = self.unsent().min(self.mss);
        if len > 0 && self.snd_wnd.saturating_sub(in_flight) >= len {
            let is_last = len == self.unsent();
            if self.send_new(len, is_last, false, cx).is_ok() {
                return self.recovery.on_probe(self.snd_nxt, false, cx.now);
            }
        }
        if let Some((from, len)) = self.recovery.board.last()
            && self.resend(from, len.min(self.mss), cx).is_ok()
        {
            return self.recovery.on_probe(self.snd_nxt, true, cx.now);
        }
        self.recovery.on_probe(self.snd_nxt, false, cx.now);
    }

    /// An acknowledgement by itself.
    pub(crate) fn send_ack(&mut self, cx: &mut Cx<'_>) {
        // If it cannot be sent, the peer asks again.
        if self.emit(self.snd_nxt, Flags::ACK, 0, 0, Ecn::NotCapable, cx).is_ok() {
            cx.ip.counters.tcp_acks_sent += 1;
        }
    }

    /// RFC 9293 §3.8.4: a segment that nobody can take for news, and that has to be answered.
    pub(crate) fn send_probe(&mut self, cx: &mut Cx<'_>) {
        _ = self.emit(self.snd_nxt.sub(1), Flags::ACK, 0, 0, Ecn::NotCapable, cx);
    }

    /// RFC 9293 §3.10.5: the peer is told that the connection is gone.
    pub(crate) fn send_reset(&mut self, cx: &mut Cx<'_>) {
        cx.ip.counters.tcp_resets_sent += 1;
        _ = self.emit(self.snd_nxt, Flags::RST.with(Flags::ACK), 0, 0, Ecn::NotCapable, cx);
    }

    /// Our SYN, or SYN and ACK when both opened at once; again later, after twice as long each time.
    pub(crate) fn send_syn(&mut self, cx: &mut Cx<'_>) {
        let answers = self.state == State::SynRcvd;
        let mut flags = if answers { Flags::SYN.with(Flags::ACK) } else { Flags::SYN };
        // RFC 3168 §6.1.1.1: not with the second try; somebody on the way may not like it.
        if self.agreed.ecn && self.syn_count == 0 {
            flags = flags.with(Flags::ECE);
            if !answers {
                flags = flags.with(Flags::CWR);
            }
        }
        let options = TcpOptions {
            mss: Some(own_mss(&mut self.path, cx)),
            window_scale: (!answers || self.agreed.scales.is_some())
                .then(|| cx.settings.window_scale())
                .filter(|_| cx.settings.window_scaling),
            sack_permitted: self.agreed.sack,
            timestamps: self.stamps_now(cx.now),
            ..TcpOptions::default()
        };
        let window = if answers { self.receive.announce_unscaled() } else { self.receive.first_window() };
        let ack = if answers { self.receive.nxt } else { SeqNumber::default() };
        let ports = (self.ends.local.port(), self.ends.remote.port());
        let header = Header { ports, seq: self.iss, ack, flags, window, options: Options::Listed(&options) };
        _ = write_bare(&mut self.path, &header, cx);
        (self.snd_nxt, self.syn_sent_at) = (self.iss.add(1), cx.now);
        // RFC 6298 §2.1 and §5.5.
        self.syn_at = Some(cx.now + cx.settings.syn_timeout * (1 << self.syn_count.min(6)));
        self.syn_count += 1;
    }

    /// Writes a segment: `text` bytes of the send queue, from `offset` on; a long one, if that is more than a segment has
    /// (`long.rs`). Every one acknowledges.
    #[inline]
    fn emit(
        &mut self,
        seq: SeqNumber,
        mut flags: Flags,
        offset: u32,
        text: u32,
        ecn: Ecn,
        cx: &mut Cx<'_>,
    ) -> Result<(), Error> {
        let timestamps = self.stamps_now(cx.now);
        let mut text = text as usize;
        let (mut listed, mut owes) = (None, false);
        if self.receive.has_blocks() {
            listed = self.with_blocks(timestamps, text);
            owes = self.agreed.sack && listed.is_none() && self.receive.is_due();
        }
        let options = match (&listed, timestamps) {
            (Some(listed), _) => Options::Listed(listed),
            (None, Some(stamps)) => Options::Stamps(stamps),
            (None, None) => Options::None,
        };
        if self.echoes_congestion {
            flags = flags.with(Flags::ECE);
        }
        let options_len = options.len();
        text = text.min(self.queue.len().saturating_sub(offset as usize));
        let header_len = TCP_LEN + options_len;
        let pieces = if text <= PUSH_COPY_MAX { 0 } else { self.queue.pieces(offset as usize, text) };
        let linear = pieces == 0 || !cx.ip.gathers(1 + pieces);
        let head_len = if linear { header_len + text } else { header_len };
        let payload =
            if linear { Sga::new() } else { self.queue.slice(offset as usize, text).map_err(|_| Error::NoBuffers)? };
        let mut memory = cx.ip.begin(&mut self.path, Protocol::TCP, ecn, header_len + text, head_len)?;
        let start = memory.len();
        let window = self.receive.announce(self.mss);
        if owes {
            self.receive.set_due();
        }
        let ports = (self.ends.local.port(), self.ends.remote.port());
        let header = Header { ports, seq, ack: self.receive.nxt, flags, window, options };
        put_header(&mut memory, &header);
        if linear && text > 0 {
            self.queue.copy(offset as usize, &mut memory, text);
            cx.ip.heap().count_copied(CopyPath::Push, text);
        }
        let checksum = finish(&mut memory, start, &payload, &self.path, cx);
        cx.ip.counters.tcp_segments_sent += 1;
        let segment_size = if text > self.mss as usize { self.count_long(text, cx) } else { 0 };
        cx.ip.send(&mut self.path, memory, payload, checksum, segment_size, cx.now);
        self.note_acked();
        Ok(())
    }
}

impl Tcb {
    /// Options that tell of what lies beyond holes, in a segment with `text` bytes.
    #[cold]
    fn with_blocks(&mut self, timestamps: Option<Timestamps>, text: usize) -> Option<TcpOptions> {
        let fits = if timestamps.is_some() { SACK_BLOCKS_MAX - 1 } else { SACK_BLOCKS_MAX };
        // Text that fills the segment leaves no room for them (RFC 6691 §3); if they are due, an acknowledgement follows.
        if !self.agreed.sack || text + 8 * fits + 4 > self.mss as usize {
            return None;
        }
        Some(TcpOptions { timestamps, sack: self.receive.blocks(fits), ..TcpOptions::default() })
    }
}

impl Cx<'_> {
    /// RFC 9293 §3.5.2: who sends to a connection that is not there is told so.
    pub(crate) fn reset_for(&mut self, segment: &Segment) {
        if segment.flags.has(Flags::RST) {
            return;
        }
        let (seq, ack, flags) = if segment.flags.has(Flags::ACK) {
            (segment.ack, SeqNumber::default(), Flags::RST)
        } else {
            (SeqNumber::default(), segment.seq.add(segment.len()), Flags::RST.with(Flags::ACK))
        };
        let Ok(mut path) = self.ip.path(segment.destination, segment.source) else { return };
        let ports = (segment.destination_port, segment.source_port);
        self.ip.counters.tcp_resets_sent += 1;
        _ = write_bare(&mut path, &Header { ports, seq, ack, flags, window: 0, options: Options::None }, self);
    }

    /// A segment without text, of no connection yet or any more.
    #[allow(clippy::too_many_arguments, reason = "a header has as many fields")]
    pub(crate) fn send_bare(
        &mut self,
        path: &mut Path,
        ports: (u16, u16),
        (seq, ack): (SeqNumber, SeqNumber),
        flags: Flags,
        window: u16,
        options: &TcpOptions,
    ) {
        // If there is no memory, it is as if it had been lost.
        _ = write_bare(path, &Header { ports, seq, ack, flags, window, options: Options::Listed(options) }, self);
    }
}

/// The largest segment that we take: what the link carries, without options (RFC 9293 §3.7.1, RFC 6691).
pub(crate) fn own_mss(path: &mut Path, cx: &mut Cx<'_>) -> u16 {
    let header = path.head_len() - crate::wire::ETHERNET_LEN + TCP_LEN;
    let mtu = if path.is_looped() { cx.ip.mtu(path) } else { cx.ip.interface_mtu() };
    u16::try_from(mtu.saturating_sub(header)).unwrap_or(u16::MAX)
}

fn write_bare(path: &mut Path, header: &Header<'_>, cx: &mut Cx<'_>) -> Result<(), Error> {
    let len = TCP_LEN + header.options.len();
    let mut memory = cx.ip.begin(path, Protocol::TCP, Ecn::NotCapable, len, len)?;
    let start = memory.len();
    put_header(&mut memory, header);
    let checksum = finish(&mut memory, start, &Sga::new(), path, cx);
    cx.ip.send(path, memory, Sga::new(), checksum, 0, cx.now);
    Ok(())
}

#[inline]
fn put_header(memory: &mut pdpix::BufMut, header: &Header<'_>) {
    let options_len = header.options.len();
    let fixed = TcpHeader {
        source: header.ports.0.into(),
        destination: header.ports.1.into(),
        sequence: header.seq.get().into(),
        acknowledgment: header.ack.get().into(),
        data_offset: (((TCP_LEN + options_len) / 4) << 4) as u8,
        flags: header.flags,
        window: header.window.into(),
        checksum: 0.into(),
        urgent: 0.into(),
    };
    match header.options {
        Options::None => _ = memory.put(fixed.as_bytes()),
        Options::Stamps(stamps) => _ = memory.put(Stamped { fixed, stamps: stamps.option() }.as_bytes()),
        Options::Listed(options) => {
            let mut bytes = [0; TCP_OPTIONS_MAX];
            let len = options.write(&mut bytes);
            memory.put(fixed.as_bytes());
            memory.put(&bytes[..len]);
        }
    }
}

/// Where the checksum is in a TCP header.
const CHECKSUM_FIELD: usize = 16;

/// Fills the checksum in, or tells the device where to.
#[inline]
fn finish(memory: &mut pdpix::BufMut, start: usize, payload: &Sga, path: &Path, cx: &mut Cx<'_>) -> Option<ChecksumAt> {
    let len = memory.len() - start + payload.len();
    let pseudo = path.pseudo_header(Protocol::TCP, len);
    let (value, offload) = if cx.ip.fills_checksums(path) {
        let at = ChecksumAt { start: start as u16, field: CHECKSUM_FIELD as u16 };
        (pseudo.partial(), Some(at))
    } else {
        (sum(pseudo, &memory[start..], payload).finish(), None)
    };
    memory[start + CHECKSUM_FIELD..start + CHECKSUM_FIELD + 2].copy_from_slice(&value.to_be_bytes());
    offload
}

#[inline]
fn sum(pseudo: Checksum, head: &[u8], payload: &Sga) -> Checksum {
    match payload.segments() {
        [] => pseudo.add(head),
        // A header's length is a multiple of four.
        [one] => pseudo.add(head).add(one),
        many => pseudo.add(head).add_pieces(many.iter().map(|piece| &piece[..])),
    }
}
