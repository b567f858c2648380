//! The name of a connection in the tables: its two endpoints, as few words.

use std::hash::{Hash, Hasher};
use std::net::IpAddr;

use super::tcb::Ends;

/// Both endpoints. IPv4 and IPv6 do not meet: an IPv4 pair fills one word, and the other ones are zero, as they are for no
/// pair of IPv6 addresses that can talk.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct FlowKey {
    addresses: [u64; 4],
    ports: u32,
}

impl FlowKey {
    /// Ours first.
    #[inline]
    pub(crate) fn new(local: (IpAddr, u16), remote: (IpAddr, u16)) -> FlowKey {
        let addresses = match (local.0, remote.0) {
            (IpAddr::V4(here), IpAddr::V4(there)) => {
                return FlowKey::v4(here.to_bits(), there.to_bits(), local.1, remote.1);
            }
            (IpAddr::V6(local), IpAddr::V6(remote)) => {
                let (local, remote) = (local.to_bits(), remote.to_bits());
                [(local >> 64) as u64, local as u64, (remote >> 64) as u64, remote as u64]
            }
            _ => unreachable!("a connection is of one family"),
        };
        FlowKey { addresses, ports: u32::from(local.1) << 16 | u32::from(remote.1) }
    }

    /// The same of IPv4 addresses, as numbers.
    #[inline(always)]
    pub(crate) fn v4(local: u32, remote: u32, local_port: u16, remote_port: u16) -> FlowKey {
        let addresses = [u64::from(local) << 32 | u64::from(remote), 0, 0, 0];
        FlowKey { addresses, ports: u32::from(local_port) << 16 | u32::from(remote_port) }
    }

    pub(crate) fn of(ends: &Ends) -> FlowKey {
        FlowKey::new((ends.local.ip(), ends.local.port()), (ends.remote.ip(), ends.remote.port()))
    }
}

impl Hash for FlowKey {
    #[inline]
    fn hash<H: Hasher>(&self, hasher: &mut H) {
        let [a, b, c, d] = self.addresses;
        hasher.write_u64(a ^ u64::from(self.ports).rotate_left(48));
        if (b | c | d) != 0 {
            [b, c, d].into_iter().for_each(|word| hasher.write_u64(word));
        }
        hasher.write_u32(self.ports);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn directions_families_and_ports_are_apart() {
        let (a, b): (IpAddr, IpAddr) = ("10.0.0.1".parse().unwrap(), "10.0.0.2".parse().unwrap());
        let (c, d): (IpAddr, IpAddr) = ("fd00::1".parse().unwrap(), "fd00::2".parse().unwrap());
        let keys = [
            FlowKey::new((a, 1), (b, 2)),
            FlowKey::new((b, 1), (a, 2)),
            FlowKey::new((a, 2), (b, 1)),
            FlowKey::new((c, 1), (d, 2)),
            FlowKey::new((d, 1), (c, 2)),
        ];
        for (i, key) in keys.iter().enumerate() {
            assert!(keys[..i].iter().all(|other| other != key));
        }
    }
}
