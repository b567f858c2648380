//! The simulated network passes the behaviour suite, gentle and rough; and so does our own stack over simulated frames.

use std::net::IpAddr;
use std::time::Duration;

use libos_conformance::{Can, Cores, Made, Side, Stage, suite};
use libos_net::LineSettings;
use libos_sim::{Attached, CoreId, HostId, Interface, NetKind, Plug, Settings, World};
use pdpix::{Endpoint, Error, Instant, SocketKind};

/// A world with the client's host and the server's.
struct Simulated {
    world: World,
    hosts: [HostId; 2],
    can: Can,
}

/// What both networks can.
const CAN: Can = Can {
    datagrams: true,
    ipv6: true,
    memory_queues: true,
    give_up: true,
    contend: true,
    cores_share: true,
    kill: true,
    second_process: false,
    keeps_what_arrived: true,
    datagram_max: 65_507,
    receive_ahead: 2 * 65_536,
};

/// Longer than anything takes that is not a time-out.
const QUIET: Duration = Duration::from_millis(20);

impl Simulated {
    fn core(&self, side: Side) -> CoreId {
        [self.hosts[0].core(0), self.hosts[1].core(0), self.hosts[1].core(1)][side.0]
    }
}

impl Stage for Simulated {
    fn can(&self) -> Can {
        self.can
    }

    fn address(&self, side: Side, ipv6: bool) -> Option<IpAddr> {
        let host = self.core(side).host;
        Some(if ipv6 { self.world.address_v6(host) } else { self.world.address(host) })
    }

    fn nobody(&self) -> Option<Endpoint> {
        "10.9.9.9:9".parse().ok()
    }

    fn called(&mut self, side: Side) {
        self.world.wake(self.core(side));
    }

    fn turn(&mut self, until: Instant) {
        // With nothing to come, time still passes for who waits.
        if self.world.turn(until) == libos_sim::Turn::Idle {
            self.world.run_for(until.since(self.world.now()));
        }
    }

    fn now(&self) -> Instant {
        self.world.now()
    }

    fn settle(&mut self) {
        self.world.settle(QUIET);
        // Whoever waits for a timer of the stack's waits in vain if no time passes.
        self.world.run_for(QUIET);
    }

    fn kill(&mut self, side: Side) {
        self.world.end_core(self.core(side));
    }
}

fn subject(settings: Settings) -> Made {
    let mut world = World::new(7, Settings { heap_size: 256 << 20, passes_max: u64::MAX, ..settings });
    let hosts = [world.add_host("client", 1, |_| {}), world.add_host("server", 2, |_| {})];
    let simulated = Simulated { world, hosts, can: CAN };
    let sides = Side::ALL.map(|side| simulated.world.libos(simulated.core(side)));
    Ok(Box::new(Cores::new(sides, simulated)))
}

/// Our stack over frames, in one switch. The server's cores share a card that does not steer: so far, only the first one
/// has a network of its own.
fn over_frames(line: &LineSettings) -> Made {
    let mut world = World::new(7, Settings { heap_size: 256 << 20, passes_max: u64::MAX, ..Settings::default() });
    let switch = world.add_switch();
    let net = || {
        let plug = Plug::Switch(switch);
        // Nothing is lost, however much comes at once.
        let rings = Interface { receive_ring: 1 << 16, ..Interface::plugged(plug) };
        NetKind::frames(Interface { out: line.clone(), back: line.clone(), ..rings }, Attached::stack)
    };
    let hosts = [world.add_host_on(net(), "client", 1, |_| {}), world.add_host_on(net(), "server", 2, |_| {})];
    introduce(&mut world, hosts);
    // A datagram goes in one packet; and its sender knows the way, else only the last few would wait for it.
    let can = Can { datagram_max: 1500 - 20 - 8, ..CAN };
    let simulated = Simulated { world, hosts, can };
    let sides = Side::ALL.map(|side| simulated.world.libos(simulated.core(side)));
    Ok(Box::new(Cores::new(sides, simulated)))
}

/// Each has heard of the other's addresses.
fn introduce(world: &mut World, hosts: [HostId; 2]) {
    for (from, to) in [(hosts[0], hosts[1]), (hosts[1], hosts[0])] {
        for ip in [world.address(to), world.address_v6(to)] {
            world.spawn(from.core(0), "an introduction", async move |libos| {
                let qd = libos.socket(SocketKind::Stream, None).unwrap();
                let refused = libos.redeem(libos.connect(qd, Endpoint::new(ip, 1)).unwrap()).await.unwrap().done();
                assert_eq!(refused, Err(Error::ConnectionRefused));
                libos.close(qd).unwrap();
            });
        }
    }
    world.run();
}

fn plain_frames() -> Made {
    over_frames(&LineSettings::with_latency(Duration::from_micros(20)))
}

/// Nothing is late, nothing is short.
fn gentle() -> Made {
    subject(Settings { short_pops: 0.0, late: 0.0, stalls: 0.0, ..Settings::default() })
}

fn rough() -> Made {
    subject(Settings { short_pops: 0.5, late: 0.5, stalls: 0.1, ..Settings::default() })
}

suite!(gentle_suite, gentle);
suite!(rough_suite, rough);
suite!(frames_suite, plain_frames);
