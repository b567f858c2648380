//! Who has which port of a host.

use std::collections::BTreeMap;
use std::net::IpAddr;

use pdpix::{Endpoint, Error, SocketKind};

use crate::fabric::socket::SocketId;

struct Holder {
    id: SocketId,
    ip: IpAddr,
    shared: bool,
    listens: bool,
}

pub(crate) struct Ports {
    /// By kind and port; few hold one port.
    holders: BTreeMap<(bool, u16), Vec<Holder>>,
    of: BTreeMap<u64, (bool, u16)>,
    next: u16,
}

/// Ports that are given when any will do.
const EPHEMERAL: std::ops::RangeInclusive<u16> = 20_000..=60_000;

fn is_datagram(kind: SocketKind) -> bool {
    kind == SocketKind::Datagram
}

impl Ports {
    pub(crate) fn new(first: u16) -> Ports {
        Ports { holders: BTreeMap::new(), of: BTreeMap::new(), next: first }
    }

    pub(crate) fn clear(&mut self) {
        self.holders.clear();
        self.of.clear();
    }

    /// Gives `id` a port: this one, or any for zero.
    pub(crate) fn bind(
        &mut self,
        id: SocketId,
        kind: SocketKind,
        at: Endpoint,
        shared: bool,
    ) -> Result<Endpoint, Error> {
        let port = if at.port() == 0 { self.any(kind)? } else { at.port() };
        let key = (is_datagram(kind), port);
        let holders = self.holders.entry(key).or_default();
        let same = |ip: IpAddr| {
            ip.is_ipv4() == at.ip().is_ipv4() && (ip == at.ip() || ip.is_unspecified() || at.ip().is_unspecified())
        };
        if holders.iter().any(|holder| same(holder.ip) && !(holder.shared && shared)) {
            return Err(Error::AddressInUse);
        }
        holders.push(Holder { id, ip: at.ip(), shared, listens: false });
        self.of.insert(id.serial, key);
        Ok(Endpoint::new(at.ip(), port))
    }

    fn any(&mut self, kind: SocketKind) -> Result<u16, Error> {
        for _ in EPHEMERAL {
            self.next = if self.next >= *EPHEMERAL.end() { *EPHEMERAL.start() } else { self.next + 1 };
            if self.holders.get(&(is_datagram(kind), self.next)).is_none_or(Vec::is_empty) {
                return Ok(self.next);
            }
        }
        Err(Error::AddressInUse)
    }

    pub(crate) fn unbind(&mut self, id: SocketId) {
        let Some(key) = self.of.remove(&id.serial) else { return };
        if let Some(holders) = self.holders.get_mut(&key) {
            holders.retain(|holder| holder.id != id);
        }
    }

    pub(crate) fn listen(&mut self, id: SocketId) {
        let holders = self.of.get(&id.serial).and_then(|key| self.holders.get_mut(key));
        holders.into_iter().flatten().filter(|holder| holder.id == id).for_each(|holder| holder.listens = true);
    }

    /// Who gets what comes for `to`, of those who share it: the same for one sender always.
    pub(crate) fn find(&self, kind: SocketKind, to: Endpoint, from: Endpoint) -> Option<SocketId> {
        let holders = self.holders.get(&(is_datagram(kind), to.port()))?;
        let fits = |holder: &&Holder| {
            (holder.ip == to.ip() || holder.ip.is_unspecified() && holder.ip.is_ipv4() == to.is_ipv4())
                && (holder.listens || kind == SocketKind::Datagram)
        };
        let fitting: Vec<&Holder> = holders.iter().filter(fits).collect();
        // Receive-side scaling, with a plain hash: ports that follow each other are spread well.
        let flow = u32::from(from.port()).wrapping_mul(0x9e37_79b1) >> 16;
        let chosen = fitting.len().checked_sub(1).map(|last| flow as usize % (last + 1))?;
        Some(fitting[chosen].id)
    }
}
