//! A switch: it learns behind which of its sockets an address is, and sends frames there; those to groups, and to
//! addresses that it has not heard of, go everywhere but back.
//!
//! Bounds: [`ADDRESSES_MAX`] addresses; those beyond are not learned. It forgets none: an address that moves is learned
//! anew when it sends.

use libos_net::wire::Mac;
use pdpix::{Map, Seed};

const ADDRESSES_MAX: usize = 4096;

pub(super) struct Switch {
    /// The line out of each socket.
    sockets: Vec<usize>,
    behind: Map<Mac, usize>,
}

/// A socket without a cable.
const NO_LINE: usize = usize::MAX;

impl Switch {
    pub(super) fn new(seed: u64) -> Switch {
        Switch { sockets: Vec::new(), behind: Map::with_hasher(Seed::new(seed)) }
    }

    pub(super) fn add_socket(&mut self) -> usize {
        self.sockets.push(NO_LINE);
        self.sockets.len() - 1
    }

    pub(super) fn plug(&mut self, socket: usize, line: usize) {
        self.sockets[socket] = line;
    }

    pub(super) fn lines(&self) -> impl Iterator<Item = usize> {
        self.sockets.iter().copied()
    }

    pub(super) fn lines_but(&self, socket: usize) -> impl Iterator<Item = usize> {
        self.sockets.iter().enumerate().filter(move |(other, _)| *other != socket).map(|(_, line)| *line)
    }

    pub(super) fn line_of(&self, socket: usize) -> usize {
        self.sockets[socket]
    }

    /// This address is behind this socket.
    pub(super) fn learn(&mut self, mac: Mac, socket: usize) {
        if let Some(known) = self.behind.get_mut(&mac) {
            *known = socket;
        } else if mac.is_unicast() && self.behind.len() < ADDRESSES_MAX {
            self.behind.insert(mac, socket);
        }
    }

    /// Behind which socket it is. `None`: everywhere.
    pub(super) fn line_to(&self, mac: Mac) -> Option<usize> {
        if mac.is_group() { None } else { self.behind.get(&mac).copied() }
    }
}
