//! What packets lead to: segments of connections, and what the network says of what we sent.

use pdpix::Completions;

use super::{Flow, Stack};
use crate::ip::{Notice, NoticeKind, Packet};
use crate::tcp::{FlowKey, Malformed, Segment, SeqNumber, State};
use crate::wire::Protocol;

impl Stack {
    #[inline]
    pub(super) fn on_tcp(&mut self, packet: Packet, done: &mut Completions) {
        if packet.group {
            self.ip.counters.tcp_to_group += 1; // RFC 9293 §3.9.2.3, MUST-57
            return;
        }
        let segment = match Segment::parse(packet) {
            Ok(segment) => segment,
            Err(malformed) => return self.count_malformed(malformed),
        };
        self.ip.counters.tcp_segments_received += 1;
        let local = (segment.destination, segment.destination_port);
        let remote = (segment.source, segment.source_port);
        match self.flows.get(&FlowKey::new(local, remote)) {
            Some(&Flow::Socket(i)) => {
                if let Some(fate) = self.with_tcb(i, |tcb, cx| tcb.on_segment(segment, cx)) {
                    self.after(i, fate, done);
                }
            }
            Some(&Flow::Embryo(i)) => self.on_embryo_segment(i, segment, done),
            Some(&Flow::TimeWait(i)) => self.on_time_wait_segment(i, segment, done),
            None => self.on_strange_segment(segment, done),
        }
    }

    #[cold]
    fn count_malformed(&mut self, malformed: Malformed) {
        let counters = &mut self.ip.counters;
        match malformed {
            Malformed::Length => counters.tcp_malformed += 1,
            Malformed::Checksum => counters.tcp_checksum += 1,
            Malformed::Options => counters.tcp_options += 1,
        }
    }

    /// An ICMP error, or a neighbour that does not answer.
    #[cold]
    pub(super) fn on_notice(&mut self, notice: Notice, done: &mut Completions) {
        match notice.protocol {
            Protocol::TCP => self.on_tcp_notice(notice, done),
            Protocol::UDP => self.on_udp_notice(notice, done),
            _ => {}
        }
    }

    fn on_tcp_notice(&mut self, notice: Notice, done: &mut Completions) {
        let key = FlowKey::new((notice.source, notice.ports.0), (notice.destination, notice.ports.1));
        let Some(&Flow::Socket(i)) = self.flows.get(&key) else { return };
        // RFC 5927 §4.1: of what is in flight. Who is not on the path would have to guess it.
        let is_ours = |una: SeqNumber, nxt: SeqNumber| {
            notice.sequence.is_some_and(|seq| SeqNumber::new(seq).within(una, nxt.since(una).max(1)))
        };
        let Some(true) = self.with_tcb(i, |tcb, _| is_ours(tcb.snd_una, tcb.snd_nxt)) else {
            self.ip.counters.icmp_not_ours += 1;
            return;
        };
        let fate = match notice.kind {
            NoticeKind::TooBig { mtu } => {
                let now = self.now;
                self.ip.learn_mtu(notice.destination, mtu, now);
                self.with_tcb(i, |tcb, cx| tcb.on_path_mtu(cx));
                return self.mark_dirty(i);
            }
            // RFC 5461 §4.1: these pass, unless there is nothing yet that could be kept.
            kind => self.with_tcb(i, |tcb, _| tcb.on_unreachable(kind.error(), tcb.state == State::SynSent)),
        };
        if let Some(fate) = fate {
            self.after(i, fate, done);
        }
    }
}
