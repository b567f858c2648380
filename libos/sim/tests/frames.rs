//! The network of frames keeps its promises: order, rate, loss and faults are as they were said, cards hold what they have
//! not read, and one seed is one course of events.

mod talker;
mod topology;

use std::collections::BTreeSet;

use libos_net::wire::Mac;
use libos_net::{LineSettings, Offloads};
use libos_sim::{HostId, Interface, Plug, Settings, World, sweep};
use pdpix::{Error, Rng};
use talker::{Talk, Unsent, add};
use topology::{MS, US, faulty, pick, random_line, random_switches};

/// A line that does nothing to frames, and takes a little.
fn plain() -> LineSettings {
    LineSettings::with_latency(US * 10)
}

/// An interface over plain lines.
fn plain_interface(plug: Plug) -> Interface {
    Interface { out: plain(), back: plain(), ..Interface::plugged(plug) }
}

/// Hosts in one switch.
fn lan(world: &mut World, count: usize, change: impl Fn(&mut Interface)) -> Vec<(HostId, Talk)> {
    let switch = world.add_switch();
    let host = |i| {
        let mut interface = plain_interface(Plug::Switch(switch));
        change(&mut interface);
        add(world, &format!("host {i}"), interface)
    };
    (0..count).map(host).collect()
}

fn world(seed: u64) -> World {
    World::new(seed, Settings { heap_size: 8 << 20, ..Settings::default() })
}

/// Everybody says something to everybody, so that the switches know where everybody is.
fn introduce(world: &mut World, hosts: &[(HostId, Talk)]) {
    hosts.iter().for_each(|(_, talk)| talk.send(Mac::BROADCAST, 60, 1, world));
    world.run_for(MS * 10);
    hosts.iter().for_each(|(_, talk)| talk.borrow_mut().received.clear());
}

#[test]
fn a_frame_reaches_whom_it_is_for_and_a_broadcast_everybody_else() {
    let mut world = world(1);
    let hosts = lan(&mut world, 4, |_| {});
    let (a, to_b) = (&hosts[0], world.mac(hosts[1].0));
    a.1.send(to_b, 100, 1, &mut world);
    world.run_for(MS);
    let counts = |hosts: &[(HostId, Talk)]| hosts.iter().map(|(_, talk)| talk.received()).collect::<Vec<_>>();
    assert_eq!(counts(&hosts), [0, 1, 0, 0]);
    // The switch did not know where b is; the cards of c and d did not want it.
    assert_eq!(world.interface_counters(hosts[2].0).rx_not_ours, 1);
    a.1.send(Mac::BROADCAST, 100, 1, &mut world);
    world.run_for(MS);
    assert_eq!(counts(&hosts), [0, 2, 1, 1]);
    // b has spoken: now the switch knows.
    hosts[1].1.send(world.mac(a.0), 100, 1, &mut world);
    world.run_for(MS);
    a.1.send(to_b, 1514, 1, &mut world);
    world.run_for(MS);
    assert_eq!(counts(&hosts), [1, 3, 1, 1]);
    assert_eq!(world.interface_counters(hosts[2].0).rx_not_ours, 1);
    assert!(hosts.iter().all(|(_, talk)| talk.is_intact()));
    drop(hosts);
    world.end();
}

#[test]
fn two_hosts_on_a_cable_need_no_switch() {
    let mut world = world(1);
    let hosts = [0, 1].map(|i| add(&mut world, &format!("host {i}"), plain_interface(Plug::Open)));
    world.join(hosts[0].0, hosts[1].0, [plain(), LineSettings::with_latency(MS * 5)]);
    let to = hosts.each_ref().map(|(id, _)| world.mac(*id));
    hosts[0].1.send(to[1], 60, 10, &mut world);
    hosts[1].1.send(to[0], 60, 10, &mut world);
    world.run_for(MS);
    assert_eq!((hosts[0].1.received(), hosts[1].1.received()), (0, 10));
    world.run_for(MS * 5);
    assert_eq!((hosts[0].1.received(), hosts[1].1.received()), (10, 10));
    world.end();
}

#[test]
#[should_panic(expected = "a loop of switches")]
fn a_loop_of_switches_is_refused() {
    let mut world = world(1);
    let [a, b, c] = [(); 3].map(|()| world.add_switch());
    world.join_switches(a, b, [plain(), plain()]);
    world.join_switches(b, c, [plain(), plain()]);
    world.join_switches(c, a, [plain(), plain()]);
}

#[test]
fn the_rate_of_a_line_is_the_rate_of_what_arrives() {
    let mut world = world(2);
    let hosts = lan(&mut world, 2, |interface| {
        interface.out.bandwidth = Some(100_000_000);
        interface.out.queue_bytes = 1 << 20;
    });
    let to = world.mac(hosts[1].0);
    // 500 frames of 1500 bytes at 100 Mbit/s are 60 ms.
    hosts[0].1.send(to, 1500, 500, &mut world);
    world.run_for(MS * 100);
    let talk = hosts[1].1.borrow();
    let took = talk.received.last().unwrap().at - talk.received[0].at;
    assert_eq!(talk.received.len(), 500);
    assert!(took > US * 59_800 && took < US * 60_100, "{took:?}");
}

#[test]
fn what_the_queue_has_no_room_for_is_lost_at_its_tail() {
    let mut world = world(2);
    let hosts = lan(&mut world, 2, |interface| {
        interface.back.bandwidth = Some(10_000_000);
        interface.back.queue_frames = 20;
    });
    let to = world.mac(hosts[1].0);
    hosts[0].1.send(to, 1000, 100, &mut world);
    world.run_for(MS * 100);
    let lost = world.line_counters(world.line_to(hosts[1].0)).queue_full;
    let arrived = hosts[1].1.received();
    assert_eq!(arrived as u64 + lost, 100);
    assert!((20..=30).contains(&arrived), "{arrived}");
}

#[test]
fn partitions_black_holes_and_dead_lines_stop_what_they_say_until_they_are_healed() {
    let mut world = world(3);
    let hosts = lan(&mut world, 3, |_| {});
    introduce(&mut world, &hosts);
    let [a, b, c] = [0, 1, 2].map(|i: usize| hosts[i].0);
    let round = |world: &mut World, len: usize| {
        for (id, talk) in &hosts {
            talk.borrow_mut().received.clear();
            let others: Vec<Mac> =
                [a, b, c].iter().filter(|&other| other != id).map(|&other| world.mac(other)).collect();
            others.into_iter().for_each(|mac| talk.send(mac, len, 10, world));
        }
        world.run_for(MS * 5);
        let from = |talk: &Talk, other: HostId| {
            talk.borrow().received.iter().filter(|got| got.from == world.mac(other)).count()
        };
        [(0, b), (0, c), (1, a), (1, c), (2, a), (2, b)].map(|(to, from_whom)| from(&hosts[to].1, from_whom))
    };
    assert_eq!(round(&mut world, 100), [10; 6]);
    world.partition_one_way(a, b);
    assert_eq!(round(&mut world, 100), [10, 10, 0, 10, 10, 10]);
    assert_eq!(world.interface_counters(b).rx_cut, 10);
    world.partition(a, c);
    assert_eq!(round(&mut world, 100), [10, 0, 0, 10, 0, 10]);
    world.heal(a, c);
    world.heal(a, b);
    assert_eq!(round(&mut world, 100), [10; 6]);

    world.change_line(world.line_from(b), |line| line.frame_len_max = Some(1000));
    assert_eq!(round(&mut world, 1000), [10; 6]);
    assert_eq!(round(&mut world, 1001), [0, 10, 10, 10, 10, 0]);
    world.change_line(world.line_to(c), |line| line.down = true);
    assert_eq!(round(&mut world, 100), [10, 10, 10, 10, 0, 0]);
    world.change_line(world.line_from(a), |line| line.corruption = 1.0);
    world.run_for(MS);
    world.pause(a);
    world.heal_all();
    assert_eq!(round(&mut world, 1500), [10; 6]);
    assert!(hosts.iter().all(|(_, talk)| talk.is_intact()));
}

#[test]
fn a_host_that_pauses_finds_what_its_ring_could_hold() {
    let mut world = world(4);
    let hosts = lan(&mut world, 2, |interface| interface.receive_ring = 32);
    introduce(&mut world, &hosts);
    let to = world.mac(hosts[1].0);
    world.pause(hosts[1].0);
    hosts[0].1.send(to, 100, 50, &mut world);
    world.run_for(MS * 50);
    assert_eq!(hosts[1].1.received(), 0, "nobody was there to look");
    assert_eq!(world.interface_counters(hosts[1].0).rx_overrun, 18);
    world.resume(hosts[1].0);
    world.run_for(MS);
    let numbers: Vec<u32> = hosts[1].1.borrow().received.iter().map(|got| got.number).collect();
    assert_eq!(numbers.len(), 32);
    assert!(numbers.windows(2).all(|pair| pair[1] == pair[0] + 1), "the first that came, in order");
    assert!(hosts[1].1.borrow().received.iter().all(|got| got.at >= MS * 50), "time has passed meanwhile");
    drop(hosts);
    world.end();
}

#[test]
fn a_host_that_crashes_loses_what_its_card_had_not_read_and_hears_again_after_it_has_booted() {
    let mut world = world(5);
    let slow = US * 100;
    let hosts = lan(&mut world, 2, |interface| interface.read = slow..=slow);
    introduce(&mut world, &hosts);
    let [a, b] = [0, 1].map(|i: usize| hosts[i].0);
    let (to_a, to_b) = (world.mac(a), world.mac(b));
    hosts[0].1.send(to_b, 100, 5, &mut world);
    world.run_for(US * 50);
    assert_eq!(hosts[0].1.borrow().in_flight, 5);
    world.crash(a);
    hosts[1].1.send(to_a, 100, 3, &mut world);
    world.run_for(MS);
    assert_eq!((hosts[1].1.received(), world.interface_counters(a).rx_down), (0, 3));
    world.restart(a);
    hosts[1].1.send(to_a, 100, 4, &mut world);
    world.run_for(MS);
    assert_eq!(hosts[0].1.received(), 4);
    drop(hosts);
    world.end();
}

#[test]
fn a_card_that_is_pulled_out_says_so_once_and_swallows() {
    let mut world = world(6);
    let hosts = lan(&mut world, 2, |_| {});
    introduce(&mut world, &hosts);
    let [a, b] = [0, 1].map(|i: usize| hosts[i].0);
    world.unplug(a);
    hosts[0].1.send(world.mac(b), 100, 3, &mut world);
    hosts[1].1.send(world.mac(a), 100, 2, &mut world);
    world.run_for(MS);
    assert_eq!(hosts[0].1.borrow().faults, [Error::NetworkDown]);
    let counters = world.interface_counters(a);
    assert_eq!((counters.tx_down, counters.rx_down, hosts[1].1.received()), (3, 2, 0));
    world.crash(a);
    world.restart(a);
    hosts[1].1.send(world.mac(a), 100, 2, &mut world);
    world.run_for(MS);
    assert_eq!(hosts[0].1.received(), 2);
    drop(hosts);
    world.end();
}

#[test]
fn a_card_holds_its_buffers_until_it_has_read_them_and_a_full_ring_loses_nothing() {
    let mut world = world(7);
    let hosts = lan(&mut world, 2, |interface| {
        interface.transmit_ring = 8;
        interface.read = US * 20..=US * 30;
    });
    introduce(&mut world, &hosts);
    let a = hosts[0].0;
    hosts[0].1.send(world.mac(hosts[1].0), 1000, 100, &mut world);
    let pinned = |world: &World| world.libos(a.core(0)).heap().stats().pinned;
    world.run_for(US * 5);
    // They were all made, and nothing has been read.
    assert!(pinned(&world) >= 100 * 1000, "{}", pinned(&world));
    assert_eq!(hosts[0].1.borrow().in_flight, 8);
    world.run_for(MS * 50);
    assert_eq!((hosts[1].1.received(), pinned(&world)), (100, 0));
    let counters = world.interface_counters(a);
    assert!(counters.tx_full > 5 && counters.tx_frames == 101, "{counters:?}");
}

#[test]
fn a_core_without_memory_loses_frames_and_goes_on() {
    let mut world = World::new(8, Settings { heap_size: 2 << 20, ..Settings::default() });
    let hosts = lan(&mut world, 2, |_| {});
    introduce(&mut world, &hosts);
    let b = hosts[1].0;
    hosts[1].1.borrow_mut().keeps = true;
    for _ in 0..30 {
        hosts[0].1.send(world.mac(b), 1500, 100, &mut world);
        world.run_for(MS * 5);
    }
    let counters = world.interface_counters(b);
    let arrived = hosts[1].1.received() as u64;
    assert!(counters.rx_no_memory > 1000 && arrived > 100, "{counters:?}");
    assert_eq!(counters.rx_no_memory + arrived, 3000);
    hosts[1].1.borrow_mut().forget();
    hosts[0].1.send(world.mac(b), 1500, 100, &mut world);
    world.run_for(MS * 5);
    assert_eq!(hosts[1].1.received(), 100);
}

#[test]
fn a_card_that_vouches_for_checksums_vouches_for_nothing_that_was_harmed() {
    let mut world = world(9);
    let offloads = Offloads { checksums: true, verifies: true, gathers: 4, ..Offloads::NONE };
    let hosts = lan(&mut world, 2, |interface| interface.offloads = offloads);
    introduce(&mut world, &hosts);
    let [a, b] = [0, 1].map(|i: usize| hosts[i].0);
    world.change_line(world.line_from(a), |line| line.corruption = 0.5);
    hosts[0].1.send_as(Unsent { udp: true, ..Unsent::new(world.mac(b), 600, 200) }, &mut world);
    world.run_for(MS * 5);
    let talk = hosts[1].1.borrow();
    let intact = talk.received.iter().filter(|got| got.intact && got.verified).count();
    let harmed = talk.received.iter().filter(|got| !got.intact).count();
    assert!(intact > 60 && harmed > 60, "{intact} and {harmed}");
    assert!(talk.received.iter().all(|got| got.intact || !got.verified), "it vouched for what was harmed");
}

#[test]
#[should_panic(expected = "for a card that gathers 1")]
fn a_frame_in_pieces_for_a_card_that_cannot_gather_is_found() {
    let mut world = world(10);
    let hosts = lan(&mut world, 2, |interface| interface.offloads = Offloads::NONE);
    hosts[0].1.send(Mac::BROADCAST, 100, 1, &mut world);
    world.run_for(MS);
}

/// Hosts in a tree of switches, over lines of any kind, with room for what the sweeps send.
fn random_tree(world: &mut World, rng: &mut Rng) -> Vec<(HostId, Talk)> {
    let line = |rng: &mut Rng| LineSettings { mark_above: None, ..random_line(rng, 1000, 10_000) };
    let switches = random_switches(world, rng, line);
    let host = |i| {
        let plug = Plug::Switch(*pick(&switches, rng));
        let interface = Interface { out: line(rng), back: line(rng), ..Interface::plugged(plug) };
        add(world, &format!("host {i}"), interface)
    };
    (0..5).map(host).collect()
}

/// Everybody sends to everybody, frames of any length, over some time.
fn talk_all_round(world: &mut World, hosts: &[(HostId, Talk)], rng: &mut Rng) {
    for _ in 0..10 {
        for (_, talk) in hosts {
            let to = world.mac(hosts[rng.below(hosts.len() as u64) as usize].0);
            let (len, count) = (rng.range(40..=1514) as usize, rng.range(1..=20) as u32);
            talk.send(to, len, count, world);
        }
        world.run_for(US * rng.range(0..=3000) as u32);
    }
    world.settle(MS * 50);
}

/// What a receiver has of each sender, as the numbers that the sender gave.
fn streams(hosts: &[(HostId, Talk)], world: &World) -> Vec<(Vec<u32>, Vec<u32>)> {
    let mut all = Vec::new();
    for (to, receiver) in hosts {
        for (from, sender) in hosts {
            let (to, from) = (world.mac(*to), world.mac(*from));
            let (receiver, sender) = (receiver.borrow(), sender.borrow());
            let sent = sender.sent.iter().filter(|sent| sent.0 == to && to != from).map(|sent| sent.1).collect();
            let got = receiver.received.iter().filter(|got| got.from == from && got.intact);
            all.push((sent, got.map(|got| got.number).collect()));
        }
    }
    all
}

#[test]
fn sweep_without_faults_every_frame_arrives_once_and_in_order() {
    sweep!(Settings::default(), |world: &mut World| {
        let mut rng = world.fork_rng();
        let hosts = random_tree(world, &mut rng);
        talk_all_round(world, &hosts, &mut rng);
        for (sent, got) in streams(&hosts, world) {
            assert_eq!(sent, got);
        }
        assert!(hosts.iter().all(|(_, talk)| talk.is_intact()));
    });
}

#[test]
fn sweep_with_faults_nothing_is_made_up_and_after_they_are_healed_everything_arrives() {
    sweep!(Settings::default(), |world: &mut World| {
        let mut rng = world.fork_rng();
        let hosts = random_tree(world, &mut rng);
        let strays = rng.chance(0.5);
        for id in world.lines() {
            let settings = faulty(world.line(id), &mut rng, strays);
            world.set_line(id, settings);
        }
        let any = |rng: &mut Rng| hosts[rng.below(hosts.len() as u64) as usize].0;
        for _ in 0..4 {
            match rng.below(4) {
                0 => world.partition_one_way(any(&mut rng), any(&mut rng)),
                1 => world.pause(any(&mut rng)),
                2 => {
                    let id = any(&mut rng);
                    world.crash(id);
                    world.restart(id);
                }
                _ => {}
            }
            talk_all_round(world, &hosts, &mut rng);
        }
        for (sent, got) in streams(&hosts, world) {
            let (sent, once): (BTreeSet<u32>, BTreeSet<u32>) =
                (sent.into_iter().collect(), got.iter().copied().collect());
            assert!(once.is_subset(&sent), "something arrived that nobody sent");
            assert!(strays || got.is_sorted(), "something overtook");
        }
        world.heal_all();
        world.settle(MS * 50);
        introduce(world, &hosts);
        hosts.iter().for_each(|(_, talk)| talk.forget_all());
        talk_all_round(world, &hosts, &mut rng);
        for (sent, got) in streams(&hosts, world) {
            assert_eq!(sent, got);
        }
    });
}

#[test]
fn one_seed_is_one_course_of_frames() {
    let run = |seed: u64| {
        let mut world = World::new(seed, Settings { keep_trace: true, heap_size: 8 << 20, ..Settings::default() });
        let mut rng = world.fork_rng();
        let hosts = random_tree(&mut world, &mut rng);
        for id in world.lines() {
            let settings = faulty(world.line(id), &mut rng, true);
            world.set_line(id, settings);
        }
        talk_all_round(&mut world, &hosts, &mut rng);
        (world.trace(usize::MAX), world.fingerprint())
    };
    let (trace, fingerprint) = run(0x5eed);
    assert!(trace.lines().filter(|line| line.contains(" frame ")).count() > 100, "something did arrive");
    assert_eq!((&trace, fingerprint), (&run(0x5eed).0, run(0x5eed).1));
    assert_ne!(fingerprint, run(0x5eee).1);
}
