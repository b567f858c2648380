//! UDP: which queue a datagram is for, and pushes that wait for the device.

use pdpix::{Completions, Endpoint, Error, OpId, Sga, Submitted};

use super::Stack;
use super::socket::{Push, Role};
use crate::host::Transport;
use crate::ip::{Notice, NoticeKind, Packet};
use crate::tcp::OUTBOUND_MAX;
use crate::udp;

/// The longest that any path carries (IPv4, RFC 768).
pub(super) const DATAGRAM_MAX: usize = 65_507;

impl Stack {
    #[inline]
    pub(super) fn on_udp(&mut self, packet: Packet, done: &mut Completions) {
        let Some(header) = udp::check(&packet, &mut self.ip.counters) else { return };
        let Some(i) = self.datagrams_at(&packet, header.destination_port, header.source_port) else {
            let local = (packet.destination, header.destination_port);
            // What came to every core is refused by the one that it would belong to.
            if self.host.core_of(Transport::Udp, local, (packet.source, header.source_port)) == self.core {
                let now = self.now;
                udp::refuse(&mut self.ip, &packet, now);
            }
            return;
        };
        let Role::Datagram(datagrams) = &mut self.sockets[i as usize].role else { return };
        if let Some(end) = datagrams.on_datagram(packet, header, &mut self.ip.counters) {
            self.complete(end.op, end.result, done);
        }
    }

    /// Whose it is: of those at the port the one whose peer sent it, then one with this address, then one with any. Of
    /// several that share it, always the same for one sender.
    #[inline]
    fn datagrams_at(&self, packet: &Packet, port: u16, source_port: u16) -> Option<u32> {
        let all = self.datagrams.get(&port)?;
        if let [one] = all[..] {
            return self.fits(one, packet, source_port).map(|_| one);
        }
        let of_sender = usize::from(source_port);
        let best = all.iter().filter_map(|&i| Some((self.fits(i, packet, source_port)?, i)));
        let best: smallvec::SmallVec<[(u8, u32); 4]> = best.collect();
        let rank = best.iter().map(|&(rank, _)| rank).max()?;
        let equals: smallvec::SmallVec<[u32; 4]> = best.iter().filter(|&&(r, _)| r == rank).map(|&(_, i)| i).collect();
        Some(equals[of_sender % equals.len()])
    }

    #[inline]
    fn fits(&self, i: u32, packet: &Packet, source_port: u16) -> Option<u8> {
        let Role::Datagram(datagrams) = &self.sockets[i as usize].role else { return None };
        let local = datagrams.local?.ip();
        if local.is_ipv4() != packet.destination.is_ipv4() || !local.is_unspecified() && local != packet.destination {
            // A group's datagrams come to who has any address.
            return None;
        }
        let from = Endpoint::new(packet.source, source_port);
        match datagrams.peer {
            Some(peer) if peer == from => Some(2),
            Some(_) => None,
            None => Some(u8::from(!local.is_unspecified())),
        }
    }

    /// Sends a datagram; or it waits, while the device's queue is full.
    #[inline]
    pub(super) fn push_datagram(
        &mut self,
        i: u32,
        op: OpId,
        sga: Sga,
        to: Option<Endpoint>,
    ) -> Result<Submitted, Error> {
        let socket = &mut self.sockets[i as usize];
        let Role::Datagram(datagrams) = &mut socket.role else { return Err(Error::NotConnected) };
        if self.ip.outbound().len() < OUTBOUND_MAX && socket.pushes.is_empty() {
            return datagrams.push(&mut self.ip, sga, to, self.now);
        }
        if to.or(datagrams.peer).is_none() {
            return Err(Error::NotConnected);
        }
        socket.pushes.push_back(Push { op, sga, to });
        self.mark_blocked(i);
        Ok(Submitted::Pending)
    }

    /// Pushes that wait are sent, as far as the device has room; those of streams are taken, as far as their budget has.
    pub(super) fn serve_blocked(&mut self, i: u32, done: &mut Completions) {
        let Some(socket) = self.sockets.get_mut(i as usize) else { return };
        if socket.tcb().is_some() {
            self.serve_reads(i, done);
            return self.serve_pushes(i, done);
        }
        while self.ip.outbound().len() < OUTBOUND_MAX {
            let socket = &mut self.sockets[i as usize];
            let Some(push) = socket.pushes.pop_front() else { return };
            let Role::Datagram(datagrams) = &mut socket.role else { return };
            let result = match datagrams.push(&mut self.ip, push.sga, push.to, self.now) {
                Ok(Submitted::Done(result)) => result,
                Ok(Submitted::Pending) => unreachable!("a datagram is sent or refused"),
                Err(error) => Err(error),
            };
            self.complete(push.op, result, done);
        }
        self.mark_blocked(i);
    }

    pub(super) fn on_udp_notice(&mut self, notice: Notice, done: &mut Completions) {
        let peer = Endpoint::new(notice.destination, notice.ports.1);
        // Nobody is at the port that it quotes: it is not about a datagram of ours (RFC 5927 §4).
        let Some(all) = self.datagrams.get(&notice.ports.0).cloned() else { return };
        if let NoticeKind::TooBig { mtu } = notice.kind {
            let now = self.now;
            return self.ip.learn_mtu(notice.destination, mtu, now);
        }
        for i in all {
            let Role::Datagram(datagrams) = &mut self.sockets[i as usize].role else { continue };
            if let Some(end) = datagrams.on_notice(peer, notice.kind) {
                self.complete(end.op, end.result, done);
            }
        }
    }
}
