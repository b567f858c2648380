//! What a host says when it comes up: announcements of its IPv4 addresses (RFC 5227 §2.3), detection of duplicates of its
//! IPv6 addresses (RFC 4862 §5.4), a search for routers (RFC 4861 §6.3.7). Nobody waits for any of it: addresses are used
//! at once, as RFC 4429 does, and a duplicate is counted.

use std::net::{Ipv4Addr, Ipv6Addr};
use std::time::Duration;

use pdpix::Instant;

use super::Ip;

/// RFC 5227 §1.1: ANNOUNCE_NUM and ANNOUNCE_INTERVAL.
const ANNOUNCEMENTS: u8 = 2;
const ANNOUNCE_INTERVAL: Duration = Duration::from_secs(2);
/// RFC 4861 §10: RetransTimer, after which no answer is a good one.
const DETECTION: Duration = Duration::from_secs(1);
/// RFC 4861 §10: MAX_RTR_SOLICITATIONS and their interval.
const ROUTER_SOLICITATIONS: u8 = 3;
const ROUTER_SOLICITATION_INTERVAL: Duration = Duration::from_secs(4);

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Task {
    /// So many times.
    Announce(Ipv4Addr, u8),
    Detect(Ipv6Addr),
    /// It is ours now.
    Settle(Ipv6Addr),
    SolicitRouters(u8),
    /// The router that announced itself is none any more.
    ForgetRouter,
}

/// What is to be done when.
pub(crate) struct Startup {
    tasks: Vec<(Instant, Task)>,
    begun: bool,
    /// The earliest of them.
    next: Option<Instant>,
}

impl Startup {
    pub(crate) fn new() -> Startup {
        Startup { tasks: Vec::new(), begun: false, next: Some(Instant::ZERO) }
    }

    pub(crate) fn deadline(&self) -> Option<Instant> {
        self.next
    }

    /// Whether it is not yet certain that an address is ours alone.
    pub(crate) fn is_tentative(&self, address: Ipv6Addr) -> bool {
        self.tasks.iter().any(|&(_, task)| task == Task::Settle(address))
    }

    /// The router is one until then.
    pub(crate) fn router_until(&mut self, at: Instant) {
        self.tasks.retain(|(_, task)| *task != Task::ForgetRouter);
        self.add(at, Task::ForgetRouter);
    }

    fn add(&mut self, at: Instant, task: Task) {
        self.tasks.push((at, task));
        self.next = self.tasks.iter().map(|&(at, _)| at).min();
    }

    fn take_due(&mut self, now: Instant) -> Option<Task> {
        let index = self.tasks.iter().position(|&(at, _)| at <= now)?;
        let (_, task) = self.tasks.remove(index);
        self.next = self.tasks.iter().map(|&(at, _)| at).min();
        Some(task)
    }
}

impl Ip {
    pub(super) fn on_startup_time(&mut self, now: Instant) {
        if !self.startup.begun {
            self.begin_startup(now);
        }
        while let Some(task) = self.startup.take_due(now) {
            self.run(task, now);
        }
    }

    fn begin_startup(&mut self, now: Instant) {
        (self.startup.begun, self.startup.next) = (true, None);
        if !self.settings.answers {
            return; // another core speaks for this host
        }
        for address in self.interface.ipv4() {
            self.startup.add(now, Task::Announce(address, ANNOUNCEMENTS));
        }
        for address in self.interface.ipv6() {
            self.startup.add(now, Task::Detect(address));
        }
        if !self.interface.gateways().any(|gateway| gateway.is_ipv6()) {
            self.startup.add(now, Task::SolicitRouters(ROUTER_SOLICITATIONS));
        }
    }

    fn run(&mut self, task: Task, now: Instant) {
        match task {
            Task::Announce(address, times) => {
                self.announce_arp(address);
                if times > 1 {
                    self.startup.add(now + ANNOUNCE_INTERVAL, Task::Announce(address, times - 1));
                }
            }
            Task::Detect(address) => {
                self.detect(address);
                self.startup.add(now + DETECTION, Task::Settle(address));
            }
            Task::Settle(_) => {}
            Task::SolicitRouters(_) if self.interface.announced().is_some() => {}
            Task::SolicitRouters(times) => {
                self.solicit_routers();
                if times > 1 {
                    self.startup.add(now + ROUTER_SOLICITATION_INTERVAL, Task::SolicitRouters(times - 1));
                }
            }
            Task::ForgetRouter => {
                if self.interface.set_announced(None) {
                    self.neighbours.routers = self.interface.gateways().collect();
                    self.new_epoch();
                }
            }
        }
    }
}
