//! The internet layer as a fuzzer sees it: bytes in, nothing believed.

use std::net::IpAddr;
use std::time::Duration;

use pdpix::{Heap, Instant, Rng, Seed, Sga};

use super::{Inbound, Ip, IpLimits, IpSettings, NoticeKind, Unreachable};
use crate::Counters;
use crate::device::{Link, Offloads, Received};
use crate::udp;
use crate::wire::{Ecn, Mac, Protocol};

/// A host (192.0.2.1, 2001:db8::1, 02:00:00:00:00:0a) for fuzzing and tests.
pub struct FuzzedHost {
    ip: Ip,
    now: Instant,
}

impl Default for FuzzedHost {
    fn default() -> FuzzedHost {
        FuzzedHost::new(IpLimits::default())
    }
}

impl FuzzedHost {
    /// With these bounds.
    pub fn new(limits: IpLimits) -> FuzzedHost {
        let addresses = ["192.0.2.1/24", "2001:db8::1/64"].map(|text| text.parse().expect("a network"));
        let settings = IpSettings { addresses: addresses.into(), limits, ..IpSettings::default() };
        let link = Link { mac: Mac([2, 0, 0, 0, 0, 0xa]), mtu: 1500, offloads: Offloads::NONE };
        let heap = Heap::alone(8 << 20).expect("memory for a small heap");
        let mut ip = Ip::new(settings, link, heap, Seed::new(1), Rng::new(1));
        let now = Instant::from_nanos(1);
        ip.on_time(now);
        FuzzedHost { ip, now }
    }

    /// Takes a frame in, and answers what a host without listeners answers. `verified`: as a device that checks sums. Gives
    /// what a transport got to see.
    pub fn receive(&mut self, frame: &[u8], verified: bool) -> Option<Vec<u8>> {
        let buf = self.ip.heap().copy(frame).ok()?;
        match self.ip.receive(Received { buf, verified }, self.now) {
            Inbound::Udp(packet) => {
                if udp::check(&packet, &mut self.ip.counters).is_some() {
                    udp::refuse(&mut self.ip, &packet, self.now);
                }
                Some(packet.data().to_vec())
            }
            Inbound::Tcp(packet) => {
                self.ip.send_unreachable(&packet, Unreachable::Port, self.now);
                Some(packet.data().to_vec())
            }
            Inbound::Notice(notice) => {
                assert!(self.ip.is_own(notice.source), "about a packet of ours");
                if let NoticeKind::TooBig { mtu } = notice.kind {
                    self.ip.learn_mtu(notice.destination, mtu, self.now);
                }
                None
            }
            Inbound::Taken => None,
        }
    }

    /// Sends a datagram without a header, which is nothing to this layer. `confirmed`: it is known to have arrived (RFC 4861
    /// §7.3.1). False: it cannot be sent.
    pub fn send(&mut self, to: IpAddr, content: &[u8], confirmed: bool) -> bool {
        let Ok(source) = self.ip.source_for(to) else { return false };
        let Ok(mut path) = self.ip.path(source, to) else { return false };
        let begun = self.ip.begin(&mut path, Protocol::UDP, Ecn::NotCapable, content.len(), content.len());
        let Ok(mut packet) = begun else { return false };
        packet.put(content);
        self.ip.send(&mut path, packet, Sga::new(), None, 0, self.now);
        if confirmed {
            self.ip.confirm(&path, self.now);
        }
        true
    }

    /// Lets time pass.
    pub fn wait(&mut self, time: Duration) {
        self.now += time;
        for notice in self.ip.on_time(self.now) {
            assert!(self.ip.is_own(notice.source), "about a packet of ours");
        }
    }

    /// Lets time pass until nothing waits for anything.
    pub fn settle(&mut self) -> Vec<Vec<u8>> {
        let mut sent = Vec::new();
        for _ in 0..200 {
            self.wait(Duration::from_secs(4));
            sent.append(&mut self.sent());
        }
        sent
    }

    /// Takes what is to be sent, as bytes; what goes to ourselves arrives.
    pub fn sent(&mut self) -> Vec<Vec<u8>> {
        while let Some(frame) = self.ip.take_looped() {
            self.ip.receive_looped(frame, self.now);
        }
        self.ip.outbound().drain(..).map(|frame| frame.to_vec()).collect()
    }

    /// What was counted.
    pub fn counters(&self) -> Counters {
        self.ip.counters
    }

    /// What must hold between calls.
    ///
    /// # Panics
    /// If it does not.
    pub fn check(&self) {
        self.ip.neighbours.check();
    }

    /// Bytes of the heap in use: none, when everything was given up.
    pub fn pinned(&self) -> usize {
        self.ip.heap().stats().pinned
    }
}
