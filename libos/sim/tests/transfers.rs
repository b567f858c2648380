//! TCP over the network of frames: whatever befalls the lines and the hosts, what arrives is what was sent, nothing is left
//! over, and when everything is healed no connection is stuck.

mod topology;
mod transfer;

use std::cell::RefCell;
use std::rc::Rc;
use std::time::Duration;

use libos_net::{Cidr, Device, IpSettings, LineSettings, NetNetwork, NetSettings, Offloads, Pcap};
use libos_sim::{Attached, HostId, Interface, NetKind, Plug, Settings, SimDevice, SwitchId, World, sweep};
use pdpix::{Endpoint, Error, Network, Rng, WallTime};
use topology::{MS, faulty, pick, random_line, random_switches};
use transfer::{PORT, Served, Transfer, check_nothing_is_left, serve, transfer};

const SEC: Duration = Duration::from_secs(1);
/// Longer than anything takes when nothing is wrong any more: two retransmissions at their slowest, and TIME-WAIT.
const CALM: Duration = Duration::from_secs(300);

/// The stack, as a host has it.
fn stack(attached: Attached) -> Box<dyn Network> {
    let Attached { device, heap, core, addresses, seed, host_seed, .. } = attached;
    let lens = addresses.map(|address| if address.is_ipv4() { 24 } else { 64 });
    let own = addresses.into_iter().zip(lens).map(|(address, len)| Cidr::new(address, len).unwrap()).collect();
    let mut secret = [0; 16];
    Rng::new(host_seed).fill(&mut secret);
    let ip = IpSettings { addresses: own, answers: core.index == 0, ..IpSettings::default() };
    let settings = NetSettings { ip, secret, seed, ..NetSettings::default() };
    Box::new(NetNetwork::new(captured(device, &format!("{}", addresses[0])), heap, settings))
}

/// With `MARGAY_PCAP=folder` what each host sends and receives is written there, for Wireshark: together with `MARGAY_SEED`,
/// so that it is of one world. A host that boots again begins a new file.
fn captured(device: SimDevice, name: &str) -> Box<dyn Device> {
    let Ok(folder) = std::env::var("MARGAY_PCAP") else { return Box::new(device) };
    let named = |i: u32| std::path::Path::new(&folder).join(format!("{name}-{i}.pcapng"));
    let path = (0..).map(named).find(|path| !path.exists()).expect("there are names enough");
    let file = std::fs::File::create(path).expect("the folder that MARGAY_PCAP names is there");
    Box::new(Pcap::new(device, file, 0, WallTime::default()))
}

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
            let net = NetKind::frames(interface, stack);
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
