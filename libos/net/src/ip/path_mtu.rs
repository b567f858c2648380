//! How long packets to a destination may be (RFC 1191, RFC 8201), learned from routers that transports believed.
//!
//! Always: a known MTU is lower than the link's and at least the floor of its family. It is forgotten after ten minutes
//! (RFC 1191 §6.3, RFC 8201 §5.3), and then tried anew. At most `capacity` destinations; the oldest goes first.

use std::collections::VecDeque;
use std::net::IpAddr;
use std::time::Duration;

use pdpix::{Instant, Map, Seed};

/// RFC 8201 §4.
const MTU_MIN_V6: usize = 1280;
/// RFC 1191 §3 has 68, which lets a liar make us send forty packets for one; Linux has 552 too.
const MTU_MIN_V4: usize = 552;
const FORGOTTEN_AFTER: Duration = Duration::from_secs(600);
/// RFC 1191 §7.1: where MTUs usually lie.
const PLATEAUS: [usize; 10] = [65_535, 32_000, 17_914, 8166, 4352, 2002, 1492, 1006, 576, 552];

pub(crate) struct PathMtus {
    known: Map<IpAddr, (u16, Instant)>,
    /// By age. An entry that was learned anew is in here again; the older mention does not count.
    order: VecDeque<(Instant, IpAddr)>,
    capacity: usize,
}

impl PathMtus {
    pub(crate) fn new(capacity: usize, seed: &Seed) -> PathMtus {
        PathMtus { known: seed.map(), order: VecDeque::new(), capacity: capacity.max(1) }
    }

    /// No more than the link's.
    pub(crate) fn get(&self, destination: IpAddr) -> usize {
        if self.known.is_empty() {
            return usize::MAX;
        }
        self.known.get(&destination).map_or(usize::MAX, |&(mtu, _)| mtu.into())
    }

    /// A router says that `mtu` is the longest that passes. Says whether that is news: only less than `current` is
    /// (RFC 8201 §4: an increase is not believed).
    pub(crate) fn learn(&mut self, destination: IpAddr, mtu: usize, current: usize, now: Instant) -> bool {
        let floor = if destination.is_ipv4() { MTU_MIN_V4 } else { MTU_MIN_V6 };
        let mtu = mtu.max(floor);
        if mtu >= current {
            return false;
        }
        // Both bounds together: each mention in `order` belongs to one learning.
        while self.order.len() >= self.capacity {
            self.forget_oldest();
        }
        self.known.insert(destination, (mtu as u16, now));
        self.order.push_back((now, destination));
        true
    }

    pub(crate) fn deadline(&self) -> Option<Instant> {
        self.order.front().map(|&(learned, _)| learned + FORGOTTEN_AFTER)
    }

    /// Forgets what is old, and says whether there was any.
    pub(crate) fn on_time(&mut self, now: Instant) -> bool {
        let before = self.known.len();
        while self.deadline().is_some_and(|at| at <= now) {
            self.forget_oldest();
        }
        self.known.len() != before
    }

    fn forget_oldest(&mut self) {
        let Some((learned, destination)) = self.order.pop_front() else { return };
        if self.known.get(&destination).is_some_and(|&(_, at)| at == learned) {
            self.known.remove(&destination);
        }
    }

    #[cfg(test)]
    pub(crate) fn len(&self) -> usize {
        self.known.len()
    }
}

/// What to try when a router did not say (RFC 1191 §5): the next plateau below the length of what was too long.
pub(crate) fn plateau_below(len: usize) -> usize {
    PLATEAUS.into_iter().find(|&plateau| plateau < len).unwrap_or(MTU_MIN_V4)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ip(last: u8) -> IpAddr {
        IpAddr::from([192, 0, 2, last])
    }

    fn at(seconds: u64) -> Instant {
        Instant::from_nanos(seconds * 1_000_000_000)
    }

    #[test]
    fn what_is_learned_is_lower_above_the_floor_and_ages() {
        let mut mtus = PathMtus::new(16, &Seed::new(1));
        assert!(mtus.learn(ip(1), 1400, 1500, at(0)));
        assert!(!mtus.learn(ip(1), 1450, 1400, at(1)), "an increase is not believed");
        assert!(mtus.learn(ip(2), 68, 1500, at(2)));
        assert!(mtus.learn("2001:db8::1".parse().unwrap(), 600, 1500, at(3)));
        assert_eq!((mtus.get(ip(1)), mtus.get(ip(2)), mtus.get(ip(3))), (1400, 552, usize::MAX));
        assert_eq!(mtus.get("2001:db8::1".parse().unwrap()), 1280);
        // Learned anew: its ten minutes begin again.
        assert!(mtus.learn(ip(1), 1300, 1400, at(300)));
        assert_eq!(mtus.deadline(), Some(at(600)));
        assert!(!mtus.on_time(at(600)), "the older mention was overtaken");
        assert!(mtus.on_time(at(603)));
        assert_eq!((mtus.get(ip(1)), mtus.get(ip(2))), (1300, usize::MAX));
        assert!(mtus.on_time(at(900)));
        assert_eq!((mtus.len(), mtus.deadline()), (0, None));
    }

    #[test]
    fn a_full_table_forgets_the_oldest() {
        let mut mtus = PathMtus::new(2, &Seed::new(1));
        for last in 1..=3 {
            assert!(mtus.learn(ip(last), 1000, 1500, at(last.into())));
        }
        assert_eq!([1, 2, 3].map(|last| mtus.get(ip(last))), [usize::MAX, 1000, 1000]);
    }

    #[test]
    fn plateaus_are_those_of_the_rfc() {
        for (len, below) in [(1500, 1492), (1492, 1006), (9000, 8166), (600, 576), (552, 552), (100, 552)] {
            assert_eq!(plateau_below(len), below, "{len}");
        }
    }
}
