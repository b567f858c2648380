//! The internet layer as a fuzzer sees it: bytes in, nothing believed.

use std::time::Duration;

use pdpix::{Heap, Instant, Rng, Seed};

use super::{Inbound, Ip, IpSettings, Unreachable};
use crate::device::{Link, Offloads, Received};
use crate::udp;
use crate::wire::Mac;

/// A host (192.0.2.1, 2001:db8::1, 02:00:00:00:00:0a) for fuzzing and tests.
pub struct FuzzedHost {
    ip: Ip,
    now: Instant,
}

impl Default for FuzzedHost {
    fn default() -> FuzzedHost {
        let addresses = ["192.0.2.1/24", "2001:db8::1/64"].map(|text| text.parse().expect("a network"));
        let settings = IpSettings { addresses: addresses.into(), ..IpSettings::default() };
        let link = Link { mac: Mac([2, 0, 0, 0, 0, 0xa]), mtu: 1500, offloads: Offloads::NONE };
        let heap = Heap::alone(8 << 20).expect("memory for a small heap");
        let mut ip = Ip::new(settings, link, heap, Seed::new(1), Rng::new(1));
        let now = Instant::from_nanos(1);
        ip.on_time(now);
        FuzzedHost { ip, now }
    }
}

impl FuzzedHost {
    /// Takes a frame in, and answers what a host without listeners answers. `verified`: as a device that checks sums.
    pub fn receive(&mut self, frame: &[u8], verified: bool) {
        let Ok(buf) = self.ip.heap().copy(frame) else { return };
        match self.ip.receive(Received { buf, verified }, self.now) {
            Inbound::Udp(packet) => {
                if udp::check(&packet, &mut self.ip.counters).is_some() {
                    udp::refuse(&mut self.ip, &packet, self.now);
                }
            }
            Inbound::Tcp(packet) => self.ip.send_unreachable(&packet, Unreachable::Port, self.now),
            Inbound::Notice(notice) => assert!(self.ip.is_own(notice.source), "about a packet of ours"),
            Inbound::Taken => {}
        }
    }

    /// Lets time pass.
    pub fn wait(&mut self, time: Duration) {
        self.now += time;
        self.ip.on_time(self.now);
    }

    /// Takes what is to be sent, as bytes.
    pub fn sent(&mut self) -> Vec<Vec<u8>> {
        self.ip.outbound().drain(..).map(|frame| frame.to_vec()).collect()
    }

    /// Bytes of the heap in use: none, when everything was given up.
    pub fn pinned(&self) -> usize {
        self.ip.heap().stats().pinned
    }
}
