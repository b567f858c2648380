//! Passive opens, and the ends of connections that nobody holds: RFC 9293 §3.10.7.2 (LISTEN), §3.10.7.4 (SYN-RECEIVED,
//! TIME-WAIT), RFC 4987 (floods), RFC 6191 (a SYN in TIME-WAIT), RFC 1337 (its hazards).

use std::net::IpAddr;
use std::time::Duration;

use pdpix::{Completions, Endpoint, Handle, Instant, Outcome, SocketKind};

use super::socket::{Role, Socket};
use super::{Flow, Stack, Timed};
use crate::ip::Path;
use crate::tcp::{
    Agreed, CHALLENGE_GAP, CookieOptions, Embryo, Ends, FlowKey, Segment, State, Tcb, TimeWait, cookie,
    initial_sequence, own_mss, timestamp_clock, timestamp_offset,
};
use crate::wire::{Flags, TcpOptions, Timestamps};

/// Cookies are looked for so long after the last one was sent: as long as one is good.
const COOKIES_FOR: Duration = Duration::from_secs(120);

impl Stack {
    /// Who listens at this endpoint: an exact address before any address.
    fn listener_at(&self, ip: IpAddr, port: u16) -> Option<u32> {
        let all = self.listeners.get(&port)?;
        let bound = |i: &&u32| self.sockets[**i as usize].bound.map(|bound| bound.ip());
        let exact = all.iter().find(|i| bound(i) == Some(ip));
        let any =
            || all.iter().find(|i| bound(i).is_some_and(|at| at.is_unspecified() && at.is_ipv4() == ip.is_ipv4()));
        exact.or_else(any).copied()
    }

    /// A segment of no connection (RFC 9293 §3.10.7.1 and §3.10.7.2).
    #[cold]
    pub(super) fn on_strange_segment(&mut self, segment: Segment, done: &mut Completions) {
        let listener = self.listener_at(segment.destination, segment.destination_port);
        let flags = segment.flags;
        match listener {
            Some(i) if flags.has(Flags::SYN) && !flags.any(Flags::ACK.with(Flags::RST)) => self.on_syn(i, &segment),
            Some(i) if self.is_cookie(i, &segment) => self.on_cookie(i, segment, done),
            // Who has a port changes while connections live: another core may know this one.
            _ if self.passes_on.is_some() => self.passes_on = Some(true),
            _ if flags.has(Flags::RST) => {}
            // RFC 9293 §3.10.7.2, fourth: what is none of these is dropped, and not answered.
            Some(_) if !flags.has(Flags::ACK) => self.ip.counters.tcp_no_connection += 1,
            _ => {
                self.ip.counters.tcp_no_connection += 1;
                self.cx().reset_for(&segment);
            }
        }
    }

    fn on_syn(&mut self, i: u32, segment: &Segment) {
        let Role::Listening(listener) = &self.sockets[i as usize].role else { return };
        if listener.ready.len() >= listener.backlog || self.sockets.len() >= self.settings.connections_max {
            // The peer tries again; if the queue is shorter then, nothing was lost.
            self.ip.counters.tcp_backlog_full += 1;
            return;
        }
        let flooded = listener.embryos >= self.settings.embryos_max;
        let ends = Ends {
            local: Endpoint::new(segment.destination, segment.destination_port),
            remote: Endpoint::new(segment.source, segment.source_port),
        };
        let Ok(path) = self.ip.path(segment.destination, segment.source) else { return };
        let agreed = self.agree(segment);
        if flooded {
            return self.send_cookie(i, ends, path, agreed, segment);
        }
        let key = FlowKey::of(&ends);
        let number = self.embryos.insert(Embryo {
            listener: Handle(i),
            iss: initial_sequence(&self.secret, ends.local, ends.remote, self.now),
            stamp_offset: timestamp_offset(&self.secret, ends.local.ip(), ends.remote.ip()),
            ends,
            path,
            irs: segment.seq,
            agreed,
            count: 0,
            sent_at: self.now,
            timer: None,
        }) as u32;
        self.flows.insert(key, Flow::Embryo(number));
        if let Role::Listening(listener) = &mut self.sockets[i as usize].role {
            listener.embryos += 1;
        }
        self.send_syn_ack(number);
    }

    /// What a SYN offers, of what we take part in.
    fn agree(&self, segment: &Segment) -> Agreed {
        let (options, settings) = (&segment.options, &self.settings);
        let ours = settings.window_scale();
        Agreed {
            peer_mss: options.mss.map_or(0, u32::from),
            scales: options.window_scale.filter(|_| settings.window_scaling).map(|theirs| (theirs, ours)),
            sack: options.sack_permitted && settings.sack,
            stamp: options.timestamps.filter(|_| settings.timestamps).map(|stamps| stamps.value),
            ecn: segment.flags.has(Flags::ECE.with(Flags::CWR)),
        }
    }

    /// The options and flags of a SYN, ACK.
    fn syn_ack(&mut self, path: &mut Path, agreed: &Agreed, stamp_value: u32) -> (Flags, u16, TcpOptions) {
        let flags = Flags::SYN.with(Flags::ACK);
        let flags = if agreed.ecn { flags.with(Flags::ECE) } else { flags };
        let window = (self.settings.receive_budget / 2).min(0xffff) as u16;
        let options = TcpOptions {
            mss: Some(own_mss(path, &mut self.cx())),
            window_scale: agreed.scales.map(|(_, ours)| ours),
            sack_permitted: agreed.sack,
            timestamps: agreed.stamp.map(|echo| Timestamps { value: stamp_value, echo }),
            ..TcpOptions::default()
        };
        (flags, window, options)
    }

    fn stamp_value(&self, offset: u32) -> u32 {
        offset.wrapping_add(timestamp_clock(self.now))
    }

    fn send_syn_ack(&mut self, number: u32) {
        let embryo = &mut self.embryos[number as usize];
        embryo.count += 1;
        embryo.sent_at = self.now;
        let (mut path, agreed, ends) = (embryo.path.clone(), embryo.agreed, embryo.ends);
        let (iss, irs, offset) = (embryo.iss, embryo.irs, embryo.stamp_offset);
        let deadline = self.now + self.settings.syn_timeout * (1 << (embryo.count - 1).min(6));
        let stamp = self.stamp_value(offset);
        let (flags, window, options) = self.syn_ack(&mut path, &agreed, stamp);
        let ports = (ends.local.port(), ends.remote.port());
        self.cx().send_bare(&mut path, ports, (iss, irs.add(1)), flags, window, &options);
        let timer = self.wheel.insert(deadline, Timed::Embryo(number));
        if let Some(old) = self.embryos[number as usize].timer.replace(timer) {
            self.wheel.cancel(old);
        }
    }

    pub(super) fn on_embryo_timer(&mut self, number: u32) {
        let embryo = &mut self.embryos[number as usize];
        embryo.timer = None;
        if embryo.count > self.settings.syn_retries {
            self.ip.counters.tcp_embryos_given_up += 1;
            return self.drop_embryo(number);
        }
        self.send_syn_ack(number);
    }

    fn take_embryo(&mut self, number: u32) -> Embryo {
        let embryo = self.embryos.remove(number as usize);
        if let Some(timer) = embryo.timer {
            self.wheel.cancel(timer);
        }
        embryo
    }

    fn drop_embryo(&mut self, number: u32) {
        let embryo = self.take_embryo(number);
        self.flows.remove(&embryo.key());
        if let Some(Role::Listening(listener)) = self.sockets.get_mut(embryo.listener.0 as usize).map(|s| &mut s.role) {
            listener.embryos -= 1;
        }
    }

    /// All embryos of a listener that is closed: their peers are told.
    pub(super) fn drop_embryos_of(&mut self, i: u32) {
        let of = |(number, embryo): (usize, &Embryo)| (embryo.listener == Handle(i)).then_some(number as u32);
        let numbers: Vec<u32> = self.embryos.iter().filter_map(of).collect();
        for number in numbers {
            let embryo = &self.embryos[number as usize];
            let (mut path, ends, seq, ack) = (embryo.path.clone(), embryo.ends, embryo.iss.add(1), embryo.irs.add(1));
            let ports = (ends.local.port(), ends.remote.port());
            let flags = Flags::RST.with(Flags::ACK);
            self.cx().send_bare(&mut path, ports, (seq, ack), flags, 0, &TcpOptions::default());
            self.drop_embryo(number);
        }
    }

    /// RFC 9293 §3.10.7.4, SYN-RECEIVED.
    #[cold]
    pub(super) fn on_embryo_segment(&mut self, number: u32, segment: Segment, done: &mut Completions) {
        let embryo = &self.embryos[number as usize];
        let (flags, window) = (segment.flags, (self.settings.receive_budget / 2).min(0xffff) as u32);
        if flags.has(Flags::RST) {
            // RFC 5961 §3.2: exactly the next one. Another one in the window is answered with our SYN, ACK, from which the
            // peer can tell as well as from an acknowledgement; not too often (§7).
            if segment.seq == embryo.irs.add(1) {
                self.ip.counters.tcp_resets_received += 1;
                self.drop_embryo(number);
            } else if segment.seq.within(embryo.irs.add(1), window) && self.now.since(embryo.sent_at) >= CHALLENGE_GAP {
                self.ip.counters.tcp_challenges += 1;
                self.send_syn_ack_again(number);
            }
            return;
        }
        if flags.has(Flags::SYN) {
            // The same one again: our answer was lost. (Another one is answered as well: RFC 5961 §4.2.)
            return self.send_syn_ack_again(number);
        }
        if !flags.has(Flags::ACK) {
            return;
        }
        if segment.ack != embryo.iss.add(1) {
            return self.cx().reset_for(&segment);
        }
        let begins_in_window = segment.seq.within(embryo.irs.add(1), window);
        let is_old = match (embryo.agreed.stamp, segment.options.timestamps) {
            (Some(recent), Some(theirs)) => (theirs.value.wrapping_sub(recent) as i32) < 0,
            _ => false,
        };
        if !begins_in_window || is_old {
            self.ip.counters.tcp_outside_window += 1;
            return;
        }
        let listener = embryo.listener;
        if !self.has_room_for(listener) {
            self.ip.counters.tcp_backlog_full += 1;
            return;
        }
        let rtt = (embryo.count == 1).then(|| self.now.since(embryo.sent_at));
        let embryo = self.take_embryo(number);
        if let Role::Listening(listener) = &mut self.sockets[listener.0 as usize].role {
            listener.embryos -= 1;
        }
        self.establish(embryo, rtt, segment, done);
    }

    fn send_syn_ack_again(&mut self, number: u32) {
        let embryo = &mut self.embryos[number as usize];
        embryo.count = embryo.count.saturating_sub(1); // the peer asks: it is no retry of ours
        self.send_syn_ack(number);
        self.embryos[number as usize].count = self.embryos[number as usize].count.max(2); // and no sample of the round trip
    }

    fn has_room_for(&self, listener: Handle) -> bool {
        let Some(Role::Listening(listener)) = self.sockets.get(listener.0 as usize).map(|s| &s.role) else {
            return false;
        };
        listener.ready.len() < listener.backlog && self.sockets.len() < self.settings.connections_max
    }

    /// The handshake is over: a queue of its own, which waits for its accept.
    fn establish(&mut self, embryo: Embryo, rtt: Option<Duration>, segment: Segment, done: &mut Completions) {
        let Embryo { listener, ends, path, iss, irs, agreed, stamp_offset, count, .. } = embryo;
        let shift = agreed.scales.map_or(0, |(theirs, _)| theirs);
        let window = u32::from(segment.window) << shift;
        let mut socket = Socket::new(SocketKind::Stream);
        let (options, is_set) = {
            let of = &self.sockets[listener.0 as usize];
            (of.options, of.budget_is_set)
        };
        (socket.options, socket.budget_is_set) = (options, is_set);
        let mut tcb = Tcb::accepted(ends, path, (iss, irs), agreed, stamp_offset, window, (rtt, count), &mut self.cx());
        (tcb.no_delay, tcb.keep_alive) = (options.no_delay, options.keep_alive);
        if is_set {
            tcb.receive.set_budget(options.receive_budget);
        }
        socket.role = Role::Connected(Box::new(tcb));
        let i = self.sockets.insert(socket) as u32;
        self.flows.insert(FlowKey::of(&ends), Flow::Socket(i));
        if let Role::Listening(listener) = &mut self.sockets[listener.0 as usize].role {
            listener.ready.push_back(Handle(i));
        }
        if let Some(fate) = self.with_tcb(i, |tcb, cx| tcb.on_segment(segment, cx)) {
            self.after(i, fate, done);
        }
        self.serve_accepts(listener.0, done);
    }

    /// Accepts that wait get what is ready.
    pub(super) fn serve_accepts(&mut self, i: u32, done: &mut Completions) {
        loop {
            let socket = &mut self.sockets[i as usize];
            let Some(&(op, _)) = socket.waiting.front() else { return };
            let Some(accepted) = Self::next_ready(socket) else { return };
            socket.waiting.pop_front();
            let result = self.accepted(accepted);
            self.complete(op, Ok(result), done);
        }
    }

    pub(super) fn next_ready(socket: &mut Socket) -> Option<Handle> {
        if let Role::Listening(listener) = &mut socket.role { listener.ready.pop_front() } else { None }
    }

    pub(super) fn accepted(&mut self, queue: Handle) -> Outcome<Handle> {
        let tcb = self.sockets[queue.0 as usize].tcb().expect("a queue that waits for its accept has a connection");
        Outcome::Accepted { queue, peer: tcb.ends.remote }
    }
}

// Cookies.
impl Stack {
    /// Whether a segment brings back a cookie that was sent for this listener.
    fn is_cookie(&mut self, i: u32, segment: &Segment) -> bool {
        let Role::Listening(listener) = &self.sockets[i as usize].role else { return false };
        let may_be = listener.cookie_at.is_some_and(|at| self.now.since(at) <= COOKIES_FOR);
        let plain = segment.flags.has(Flags::ACK) && !segment.flags.any(Flags::SYN.with(Flags::RST));
        if !may_be || !plain {
            return false;
        }
        let is_right = self.open_cookie(segment).is_some();
        self.ip.counters.tcp_cookies_wrong += u64::from(!is_right);
        is_right
    }

    fn open_cookie(&self, segment: &Segment) -> Option<cookie::Opened> {
        let local = Endpoint::new(segment.destination, segment.destination_port);
        let remote = Endpoint::new(segment.source, segment.source_port);
        let (iss, irs) = (segment.ack.sub(1), segment.seq.sub(1));
        let echo = segment.options.timestamps.map(|stamps| stamps.echo);
        cookie::open(&self.secret, local, remote, irs, iss, echo, self.now)
    }

    fn send_cookie(&mut self, i: u32, ends: Ends, mut path: Path, agreed: Agreed, segment: &Segment) {
        if let Role::Listening(listener) = &mut self.sockets[i as usize].role {
            listener.cookie_at = Some(self.now);
        }
        self.ip.counters.tcp_cookies_sent += 1;
        let stamp = self.stamp_value(timestamp_offset(&self.secret, ends.local.ip(), ends.remote.ip()));
        let carried = CookieOptions {
            window_scale: agreed.scales.map(|(theirs, _)| theirs),
            sack_permitted: agreed.sack,
            ecn: agreed.ecn,
        };
        let carried = agreed.stamp.map(|_| carried);
        let mss = agreed.peer_mss as u16;
        let iss = cookie::bake(&self.secret, ends.local, ends.remote, segment.seq, mss, carried, self.now);
        let stamp = carried.map_or(stamp, |carried| carried.write(stamp));
        // Without timestamps there is nowhere to keep what is agreed on.
        let plain = Agreed { peer_mss: agreed.peer_mss, ..Agreed::default() };
        let agreed = if carried.is_some() { agreed } else { plain };
        let (flags, window, options) = self.syn_ack(&mut path, &agreed, stamp);
        let ports = (ends.local.port(), ends.remote.port());
        self.cx().send_bare(&mut path, ports, (iss, segment.seq.add(1)), flags, window, &options);
    }

    fn on_cookie(&mut self, i: u32, segment: Segment, done: &mut Completions) {
        let ends = Ends {
            local: Endpoint::new(segment.destination, segment.destination_port),
            remote: Endpoint::new(segment.source, segment.source_port),
        };
        let (iss, irs) = (segment.ack.sub(1), segment.seq.sub(1));
        let Some(opened) = self.open_cookie(&segment) else { return };
        let stamps = segment.options.timestamps;
        let Ok(path) = self.ip.path(ends.local.ip(), ends.remote.ip()) else { return };
        if !self.has_room_for(Handle(i)) {
            self.ip.counters.tcp_backlog_full += 1;
            return;
        }
        self.ip.counters.tcp_cookies_good += 1;
        let stamp_offset = timestamp_offset(&self.secret, ends.local.ip(), ends.remote.ip());
        let agreed = Agreed {
            peer_mss: opened.mss.into(),
            scales: opened.options.window_scale.map(|theirs| (theirs, self.settings.window_scale())),
            sack: opened.options.sack_permitted,
            stamp: stamps.map(|stamps| stamps.value),
            ecn: opened.options.ecn,
        };
        let (listener, sent_at) = (Handle(i), self.now);
        let embryo = Embryo { listener, ends, path, iss, irs, agreed, stamp_offset, count: 1, sent_at, timer: None };
        self.establish(embryo, None, segment, done);
    }
}

// TIME-WAIT.
impl Stack {
    /// A connection is in TIME-WAIT: what is needed to answer for it is kept, and the rest goes; or, while somebody holds its
    /// queue, is over but for what was not popped yet.
    pub(super) fn retire(&mut self, i: u32) {
        let now = self.now;
        let socket = &mut self.sockets[i as usize];
        let Some(tcb) = socket.tcb() else { return };
        let ends = tcb.ends;
        let wait = TimeWait {
            ends,
            snd_nxt: tcb.snd_nxt,
            rcv_nxt: tcb.receive.nxt,
            stamps: tcb.stamps_now(now).map(|stamps| (stamps.echo, tcb.stamp_offset())),
            until: tcb.until.unwrap_or(now),
            timer: None,
        };
        tcb.state = State::Closed;
        self.flows.remove(&FlowKey::of(&ends));
        self.disarm(i);
        self.release_if_closed(i);
        if self.time_waits.len() >= self.settings.time_waits_max {
            self.ip.counters.tcp_time_waits_dropped += 1;
            return;
        }
        let until = wait.until;
        let number = self.time_waits.insert(wait) as u32;
        self.flows.insert(FlowKey::of(&ends), Flow::TimeWait(number));
        self.arm_time_wait(number, until);
    }

    fn arm_time_wait(&mut self, number: u32, until: Instant) {
        let timer = self.wheel.insert(until, Timed::TimeWait(number));
        self.time_waits[number as usize].timer = Some(timer);
    }

    pub(super) fn on_time_wait_timer(&mut self, number: u32) {
        let wait = &mut self.time_waits[number as usize];
        wait.timer = None;
        if wait.until > self.now {
            let until = wait.until;
            self.arm_time_wait(number, until);
        } else {
            self.end_time_wait(number);
        }
    }

    fn end_time_wait(&mut self, number: u32) {
        let wait = self.time_waits.remove(number as usize);
        if let Some(timer) = wait.timer {
            self.wheel.cancel(timer);
        }
        self.flows.remove(&FlowKey::of(&wait.ends));
    }

    #[cold]
    pub(super) fn on_time_wait_segment(&mut self, number: u32, segment: Segment, done: &mut Completions) {
        let wait = &self.time_waits[number as usize];
        // RFC 1337 §3: a reset does not end it.
        if segment.flags.has(Flags::RST) {
            return;
        }
        if segment.flags.has(Flags::SYN) && !segment.flags.has(Flags::ACK) {
            // RFC 6191 §2: a later connection says so by its timestamp, or by its number.
            let later = match (wait.stamps, segment.options.timestamps) {
                (Some((recent, _)), Some(theirs)) if theirs.value != recent => {
                    (theirs.value.wrapping_sub(recent) as i32) > 0
                }
                _ => segment.seq.gt(wait.rcv_nxt),
            };
            if later {
                self.end_time_wait(number);
                return self.on_strange_segment(segment, done);
            }
        }
        // RFC 9293 §3.10.7.4, eighth: what came again is acknowledged again, and the wait begins anew.
        let (ends, seq, ack, stamps) = (wait.ends, wait.snd_nxt, wait.rcv_nxt, wait.stamps);
        if segment.flags.has(Flags::FIN) {
            self.time_waits[number as usize].until = self.now + self.settings.time_wait;
        }
        if segment.len() == 0 {
            return;
        }
        let Ok(mut path) = self.ip.path(ends.local.ip(), ends.remote.ip()) else { return };
        let timestamps = stamps.map(|(echo, offset)| Timestamps { value: self.stamp_value(offset), echo });
        let options = TcpOptions { timestamps, ..TcpOptions::default() };
        let ports = (ends.local.port(), ends.remote.port());
        self.cx().send_bare(&mut path, ports, (seq, ack), Flags::ACK, 0, &options);
    }
}
