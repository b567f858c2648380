//! Datagrams on their way: each arrives whole or not at all; perhaps twice, perhaps overtaken.

use std::time::Duration;

use pdpix::{Endpoint, Purpose, Sga, SocketKind};

use crate::fabric::socket::{Role, SocketId};
use crate::fabric::{Event, Fabric};

/// The longest: that of UDP over IPv4.
pub(crate) const DATAGRAM_MAX: usize = 65_507;

impl Fabric {
    /// Hands a datagram to the device.
    pub(crate) fn send_datagram(&mut self, from: SocketId, to: Endpoint, data: Sga) {
        let here = self.host(from);
        let Some(local) = self.get(from).and_then(|socket| socket.local) else { return };
        let source = self.source(here, local, to);
        let there = self.host_of(here, to.ip());
        let second = if self.rng.chance(self.settings.datagram_twice) { again(&data) } else { None };
        for data in std::iter::once(data).chain(second) {
            if self.rng.chance(self.settings.datagram_loss) {
                self.note(from.core, "datagram lost", data.len() as u64, 0);
                continue;
            }
            let overtaken = self.rng.chance(self.settings.datagram_overtaken);
            // In order unless it is overtaken: all take the same time.
            let range = if there == Some(here) { &self.settings.latency_own } else { &self.settings.latency };
            let (least, most) = (*range.start(), *range.end());
            let mut after = if overtaken { most + self.draw(&(Duration::ZERO..=most)) } else { least };
            after = after.max(Duration::from_nanos(1));
            self.schedule(after, Event::Datagram { from, source, to, data });
        }
    }

    /// The address that a peer at `to` sees.
    pub(crate) fn source(&self, host: usize, local: Endpoint, to: Endpoint) -> Endpoint {
        if !local.ip().is_unspecified() {
            return local;
        }
        let ip = if to.ip().is_loopback() { to.ip() } else { self.hosts[host].addresses[usize::from(to.is_ipv6())] };
        Endpoint::new(ip, local.port())
    }

    pub(crate) fn on_datagram(&mut self, from: SocketId, source: Endpoint, to: Endpoint, data: &Sga) {
        let here = self.host(from);
        let Some(there) = self.host_of(here, to.ip()) else { return };
        if !self.passes(here, there) {
            return self.note(from.core, "datagram lost", data.len() as u64, 1);
        }
        let Some(id) = self.hosts[there].ports.find(SocketKind::Datagram, to, source) else {
            let after = self.latency(there, here);
            if self.passes(there, here) {
                self.schedule(after, Event::Unreachable(from));
            }
            return;
        };
        let len = data.len();
        let heap = self.cores[id.core].heap.clone();
        let Some(socket) = self.get(id) else { return };
        let is_stranger = matches!(socket.role, Role::Connected(_)) && socket.peer != Some(source);
        let has_room = socket.arrived_pinned < socket.options.receive_budget;
        let buf = heap.and_then(|heap| heap.alloc_for(Purpose::Receive, len).ok()).filter(|_| has_room);
        let Some(mut buf) = buf.filter(|_| !is_stranger) else {
            return self.note(id.core, "datagram dropped", len as u64, u64::from(is_stranger));
        };
        data.segments().iter().for_each(|segment| _ = buf.put(segment));
        let buf = buf.freeze();
        socket.arrived_pinned += buf.pinned();
        socket.datagrams.push_back((source, buf));
        self.note(id.core, "datagram arrives", len as u64, u64::from(source.port()));
        self.serve_pops(id);
    }

    /// Nobody was there for an earlier datagram: the next operation is told.
    pub(crate) fn on_unreachable(&mut self, id: SocketId) {
        let Some(socket) = self.get(id) else { return };
        if matches!(socket.role, Role::Connected(_)) {
            socket.unreachable = true;
            self.serve_pops(id);
        }
    }
}

/// The same buffers once more.
fn again(data: &Sga) -> Option<Sga> {
    let mut sga = Sga::new();
    data.segments().iter().try_for_each(|segment| sga.push(segment.clone())).ok()?;
    Some(sga)
}
