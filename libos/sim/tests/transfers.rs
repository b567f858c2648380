//! TCP over the network of frames: whatever befalls the lines and the hosts, what arrives is what was sent, nothing is left
//! over, and when everything is healed no connection is stuck.

mod topology;
mod transfer;

use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::time::Duration;

use libos_net::{LineSettings, Loss, Offloads};
use libos_sim::{Attached, HostId, Interface, NetKind, Plug, Settings, SwitchId, World, sweep};
use pdpix::{Endpoint, Error, Rng, Sga, SocketKind, SocketOption};
use topology::{MS, faulty, pick, random_line, random_switches};
use transfer::{PORT, Served, Transfer, check_nothing_is_left, serve, transfer};

const SEC: Duration = Duration::from_secs(1);
/// Longer than anything takes when nothing is wrong any more: two retransmissions at their slowest, and TIME-WAIT.
const CALM: Duration = Duration::from_secs(300);

/// Hosts in a tree of switches, and the transfers among them.
struct Scene {
    hosts: Vec<HostId>,
    served: Rc<RefCell<Served>>,
    /// Transfers that have ended in order, and those that failed.
    whole: Rc<RefCell<Vec<Transfer>>>,
    failed: Rc<RefCell<Vec<(Transfer, Error)>>>,
    started: u32,
}

impl Scene {
    fn new(world: &mut World, hosts: usize, rng: &mut Rng) -> Scene {
        let switches = random_switches(world, rng, line);
        let served = Rc::new(RefCell::new(Served::default()));
        let hosts = (0..hosts).map(|i| {
            let (served, interface) = (served.clone(), interface(&switches, rng));
            let net = NetKind::frames(interface, Attached::stack);
            world.add_host_on(net, &format!("host {i}"), 1, move |libos| serve(libos, &served))
        });
        Scene { hosts: hosts.collect(), served, whole: Rc::default(), failed: Rc::default(), started: 0 }
    }

    /// From any host to any other one, over either family.
    fn start(&mut self, world: &mut World, len_max: u64, rng: &mut Rng) {
        let from = *pick(&self.hosts, rng);
        let others: Vec<HostId> = self.hosts.iter().copied().filter(|&host| host != from).collect();
        let to = *pick(&others, rng);
        let ip = if rng.chance(0.5) { world.address(to) } else { world.address_v6(to) };
        let to = Endpoint::new(ip, PORT);
        self.started += 1;
        let (what, seed) = (Transfer::draw(self.started, len_max, rng), rng.next_u64());
        let (whole, failed) = (self.whole.clone(), self.failed.clone());
        world.spawn(from.core(0), &format!("{what:?}"), async move |libos| {
            match transfer(libos, to, what, seed).await {
                Ok(()) => whole.borrow_mut().push(what),
                Err(error) => failed.borrow_mut().push((what, error)),
            }
        });
    }

    fn start_several(&mut self, world: &mut World, count: usize, len_max: u64, rng: &mut Rng) {
        for _ in 0..count {
            self.start(world, len_max, rng);
            world.run_for(MS * rng.below(30) as u32);
        }
    }

    /// Everything that was started ends, and everything that was held is given back.
    fn finish(&self, world: &mut World) {
        let start = world.now();
        world.run();
        assert!(world.now().since(start) < CALM, "it took {:?}", world.now().since(start));
        world.run_for(CALM);
        check_nothing_is_left(world, &self.hosts);
    }

    fn check_all_were_whole(&self) {
        assert_eq!(self.failed.borrow()[..], []);
        assert_eq!(self.whole.borrow().len(), self.started as usize);
        let served = self.served.borrow();
        assert_eq!((served.whole.len(), served.broken), (self.started as usize, 0));
    }
}

fn line(rng: &mut Rng) -> LineSettings {
    let queue_frames = rng.range(30..=1000) as usize;
    random_line(rng, 5000, queue_frames)
}

fn interface(switches: &[SwitchId], rng: &mut Rng) -> Interface {
    let checksums = rng.chance(0.5);
    let offloads = Offloads {
        verifies: rng.chance(0.5),
        checksums,
        segments: (checksums && rng.chance(0.5)).then_some(60_000),
        gathers: if rng.chance(0.3) { 1 } else { 16 },
        external: true,
    };
    Interface {
        out: line(rng),
        back: line(rng),
        offloads,
        mtu: *pick(&[1280, 1500, 1500, 9000], rng),
        receive_ring: *pick(&[32, 256, 1024], rng),
        transmit_ring: *pick(&[8, 64, 256], rng),
        ..Interface::plugged(Plug::Switch(*pick(switches, rng)))
    }
}

#[test]
fn sweep_every_transfer_matches_where_only_queues_overflow() {
    sweep!(Settings::default(), |world: &mut World| {
        let mut rng = world.fork_rng();
        let mut scene = Scene::new(world, 3, &mut rng);
        scene.start_several(world, 6, 1 << 18, &mut rng);
        scene.finish(world);
        scene.check_all_were_whole();
    });
}

#[test]
fn sweep_every_transfer_matches_through_faults_that_are_healed() {
    sweep!(Settings::default(), |world: &mut World| {
        let mut rng = world.fork_rng();
        let mut scene = Scene::new(world, 3, &mut rng);
        let strays = rng.chance(0.5);
        for _ in 0..3 {
            for id in world.lines() {
                let settings = faulty(world.line(id), &mut rng, strays);
                world.set_line(id, settings);
            }
            let paused = *pick(&scene.hosts, &mut rng);
            if rng.chance(0.3) {
                world.pause(paused);
            }
            if rng.chance(0.3) {
                world.partition_one_way(*pick(&scene.hosts, &mut rng), *pick(&scene.hosts, &mut rng));
            }
            scene.start_several(world, 2, 1 << 16, &mut rng);
            world.run_for(MS * rng.below(3000) as u32);
            world.resume(paused);
        }
        world.heal_all();
        scene.start(world, 1 << 16, &mut rng);
        scene.finish(world);
        scene.check_all_were_whole();
    });
}

#[test]
fn sweep_what_arrives_is_right_though_hosts_crash_and_later_transfers_are_whole() {
    sweep!(Settings::default(), |world: &mut World| {
        let mut rng = world.fork_rng();
        let mut scene = Scene::new(world, 3, &mut rng);
        for _ in 0..4 {
            scene.start_several(world, 3, 1 << 18, &mut rng);
            world.run_for(MS * rng.below(100) as u32);
            let crashed = *pick(&scene.hosts, &mut rng);
            world.crash(crashed);
            world.run_for(MS * rng.below(3000) as u32);
            world.restart(crashed);
        }
        world.heal_all();
        scene.finish(world);
        let before = scene.whole.borrow().len();
        scene.failed.borrow_mut().clear();
        scene.start_several(world, 4, 1 << 18, &mut rng);
        scene.finish(world);
        assert_eq!((scene.whole.borrow().len(), &scene.failed.borrow()[..]), (before + 4, &[][..]));
    });
}

/// The last segments of a connection are lost, on one side or on both: nobody waits longer than a few timeouts.
#[test]
fn a_fin_that_is_lost_is_sent_again_though_its_sender_has_closed() {
    for lossy in [[true, false], [false, true], [true, true]] {
        let mut world = World::new(1, Settings::default());
        let switch = world.add_switch();
        let ended = Rc::new(Cell::new(false));
        let net = || NetKind::frames(Interface::plugged(Plug::Switch(switch)), Attached::stack);
        let (note, release) = (ended.clone(), Rc::new(Cell::new(false)));
        let server = world.add_host_on(net(), "server", 1, move |libos| {
            let (theirs, ended) = (libos.clone(), note.clone());
            libos.spawn(async move {
                let listener = theirs.socket(SocketKind::Stream, None).unwrap();
                theirs.bind(listener, Endpoint::new([0; 4].into(), PORT)).unwrap();
                theirs.listen(listener, 64).unwrap();
                let (qd, _) = theirs.redeem(theirs.accept(listener).unwrap()).await.unwrap().accepted().unwrap();
                theirs.finish(qd).unwrap();
                let end = theirs.redeem(theirs.pop(qd, 1).unwrap()).await.unwrap().popped().unwrap();
                assert!(end.sga.is_empty());
                theirs.close(qd).unwrap();
                ended.set(true);
            });
        });
        let client = world.add_host_on(net(), "client", 1, |_| {});
        let (to, released) = (world.endpoint(server, PORT), release.clone());
        world.spawn(client.core(0), "a client", async move |libos| {
            let qd = libos.socket(SocketKind::Stream, None).unwrap();
            libos.redeem(libos.connect(qd, to).unwrap()).await.unwrap().done().unwrap();
            let end = libos.redeem(libos.pop(qd, 1).unwrap()).await.unwrap().popped().unwrap();
            assert!(end.sga.is_empty());
            while !released.get() {
                libos.sleep(MS).await;
            }
            libos.close(qd).unwrap();
        });
        world.run_for(MS * 50);
        let lines = [world.line_from(client), world.line_to(client)];
        let is_down = |world: &mut World, down: bool| {
            for (&line, _) in lines.iter().zip(lossy).filter(|(_, lossy)| *lossy) {
                world.change_line(line, |line| line.down = down);
            }
        };
        is_down(&mut world, true);
        release.set(true);
        world.run_for(MS * 500);
        is_down(&mut world, false);
        world.run_for(SEC * 5);
        assert!(ended.get(), "{lossy:?}: the server still waits for the end");
        world.run_for(CALM);
        let left = [(server, 1), (client, 0)].map(|(host, queues)| {
            let libos = world.libos(host.core(0));
            (libos.queues_in_use() - queues, libos.zombies(), libos.heap().stats().pinned)
        });
        assert_eq!(left, [(0, 0, 0); 2], "{lossy:?}");
    }
}

/// A client that sends for ever, and a server that counts, at the ends of a cable: what was counted so far.
fn stream(world: &mut World, line: &LineSettings) -> (HostId, Rc<Cell<u64>>) {
    let net = || NetKind::frames(Interface::plugged(Plug::Open), Attached::stack);
    let counted = Rc::new(Cell::new(0));
    let note = counted.clone();
    let server = world.add_host_on(net(), "server", 1, move |libos| {
        let (theirs, counted) = (libos.clone(), note.clone());
        libos.spawn(async move {
            let listener = theirs.socket(SocketKind::Stream, None).unwrap();
            theirs.bind(listener, Endpoint::new([0; 4].into(), PORT)).unwrap();
            theirs.listen(listener, 1).unwrap();
            let (qd, _) = theirs.redeem(theirs.accept(listener).unwrap()).await.unwrap().accepted().unwrap();
            loop {
                let popped = theirs.redeem(theirs.pop(qd, 1 << 16).unwrap()).await.unwrap().popped().unwrap();
                counted.set(counted.get() + popped.sga.len() as u64);
            }
        });
    });
    let client = world.add_host_on(net(), "client", 1, |_| {});
    world.join(client, server, [line.clone(), LineSettings { loss: Loss::None, ..line.clone() }]);
    let to = world.endpoint(server, PORT);
    world.spawn(client.core(0), "a stream", async move |libos| {
        let qd = libos.socket(SocketKind::Stream, None).unwrap();
        libos.redeem(libos.connect(qd, to).unwrap()).await.unwrap().done().unwrap();
        let bytes = libos.heap().copy(&[7; 60_000]).unwrap();
        loop {
            libos.redeem(libos.push(qd, Sga::from(bytes.clone())).unwrap()).await.unwrap().done().unwrap();
        }
    });
    (client, counted)
}

/// A hundred megabits a second and a round trip of ten milliseconds.
fn long_line(loss: Loss) -> LineSettings {
    LineSettings { bandwidth: Some(100_000_000), loss, ..LineSettings::with_latency(MS * 5) }
}

#[test]
fn a_stream_fills_its_line_and_gets_what_it_can_from_one_that_loses() {
    let rate = |loss: Loss| {
        let mut world = World::new(5, Settings::default());
        let (_, counted) = stream(&mut world, &long_line(loss));
        world.run_for(SEC * 30);
        counted.get() as f64 * 8.0 / 30.0 / 1e6
    };
    let [plain, lossy] = [rate(Loss::None), rate(Loss::Each(0.01))];
    println!("REPORT of 100 Mbit/s at 10 ms: {plain:.1} Mbit/s, and {lossy:.1} with one per cent of loss");
    // 100 Mbit/s of frames are 95.6 of text. Of a lossy line, M. Mathis et al. (1997) give a Reno sender 14 Mbit/s.
    assert!(plain > 92.0 && lossy > 12.0, "{plain} and {lossy} Mbit/s");
}

/// Seed 0x69e of the sweep through faults, as a plain scene: whatever was in flight is lost, and after that nothing is. One
/// timeout is enough to go on, and it was not: acknowledgements of segments sent again looked as if nothing had been lost.
#[test]
fn after_a_silence_one_timeout_is_enough_to_go_on() {
    let mut world = World::new(5, Settings::default());
    let (client, counted) = stream(&mut world, &long_line(Loss::None));
    world.run_for(SEC);
    let (line, before) = (world.line_from(client), counted.get());
    assert!(before > 5_000_000, "{before}");
    world.change_line(line, |line| line.down = true);
    world.run_for(SEC * 3);
    world.change_line(line, |line| line.down = false);
    // Timeouts of 0.2 s and more, each twice the one before: the next one comes within as long as the silence was.
    let start = world.now();
    world.run_until("it goes on", |world| counted.get() > before + 2_000_000 || world.now().since(start) > SEC * 60);
    let took = world.now().since(start);
    assert!(took < SEC * 5, "it took {took:?}");
}

/// A client has finished, and its peer dies before it has: nothing is left to be sent, so only the keep-alive can tell.
#[test]
fn who_has_finished_learns_that_the_other_side_is_dead() {
    let mut world = World::new(1, Settings::default());
    let switch = world.add_switch();
    let net = || NetKind::frames(Interface::plugged(Plug::Switch(switch)), Attached::stack);
    let server = world.add_host_on(net(), "server", 1, move |libos| {
        let theirs = libos.clone();
        libos.spawn(async move {
            let listener = theirs.socket(SocketKind::Stream, None).unwrap();
            theirs.bind(listener, Endpoint::new([0; 4].into(), PORT)).unwrap();
            theirs.listen(listener, 1).unwrap();
            theirs.redeem(theirs.accept(listener).unwrap()).await.unwrap().accepted().unwrap();
            theirs.sleep(SEC * 3600).await;
        });
    });
    let client = world.add_host_on(net(), "client", 1, |_| {});
    let to = world.endpoint(server, PORT);
    world.spawn(client.core(0), "who has finished", async move |libos| {
        let qd = libos.socket(SocketKind::Stream, None).unwrap();
        libos.set_option(qd, SocketOption::KeepAlive(Some(SEC * 5))).unwrap();
        libos.redeem(libos.connect(qd, to).unwrap()).await.unwrap().done().unwrap();
        libos.finish(qd).unwrap();
        let fault = libos.redeem(libos.pop(qd, 1).unwrap()).await.unwrap().popped().unwrap_err();
        assert!(matches!(fault, Error::TimedOut | Error::HostUnreachable), "{fault:?}");
        libos.close(qd).unwrap();
    });
    world.run_for(SEC);
    world.crash(server);
    world.run();
}
