//! The cache under faults, in the simulator: whatever happens, what its clients see is linearizable.

use std::collections::BTreeMap;

use cluster_tests::check::Verdict;
use cluster_tests::history::{Kind, Operation, Process};
use cluster_tests::worlds::{Run, WORLDS, World, simulated};
use libos_net::LineCounters;
use libos_sim::{World as Simulation, sweep};

fn world(name: &str) -> &'static World {
    World::find(name).unwrap_or_else(|| panic!("there is no world {name}"))
}

#[track_caller]
fn assert_passed(run: &Run) {
    assert_eq!(run.stuck, None);
    assert!(run.verdict == Verdict::Valid, "{}", run.verdict);
    let answered = run.history.operations().iter().filter(|operation| operation.end == Kind::Ok).count();
    // Where a disk is full, most is refused until the server starts again.
    let is_refused = run.history.operations().iter().any(|operation| operation.end == Kind::Fail);
    assert!(answered > if is_refused { 10 } else { 50 }, "only {answered} operations were answered");
}

#[test]
fn sweep_the_cache_is_linearizable_on_one_core() {
    let world = world("sim-all-1");
    sweep!(simulated::settings(world), |simulation: &mut Simulation| {
        assert_passed(&simulated::play(world, simulation).judge());
    });
}

#[test]
fn sweep_the_cache_is_linearizable_on_two_cores() {
    let world = world("sim-all-2");
    sweep!(simulated::settings(world), |simulation: &mut Simulation| {
        assert_passed(&simulated::play(world, simulation).judge());
    });
}

#[test]
fn sweep_the_cache_is_linearizable_over_our_tcp_on_one_core() {
    let world = world("tcp-all-1");
    sweep!(simulated::settings(world), |simulation: &mut Simulation| {
        assert_passed(&simulated::play(world, simulation).judge());
    });
}

#[test]
fn sweep_the_cache_is_linearizable_over_our_tcp_on_two_cores() {
    let world = world("tcp-all-2");
    sweep!(simulated::settings(world), |simulation: &mut Simulation| {
        assert_passed(&simulated::play(world, simulation).judge());
    });
}

#[test]
fn sweep_the_durable_cache_is_linearizable_over_restarts_on_one_core() {
    let world = world("sim-durable-1");
    sweep!(simulated::settings(world), |simulation: &mut Simulation| {
        assert_passed(&simulated::play(world, simulation).judge());
    });
}

#[test]
fn sweep_the_durable_cache_is_linearizable_over_restarts_on_two_cores() {
    let world = world("sim-durable-2");
    sweep!(simulated::settings(world), |simulation: &mut Simulation| {
        assert_passed(&simulated::play(world, simulation).judge());
    });
}

#[test]
fn sweep_the_durable_cache_is_linearizable_over_restarts_on_three_cores() {
    let world = world("sim-durable-3");
    sweep!(simulated::settings(world), |simulation: &mut Simulation| {
        assert_passed(&simulated::play(world, simulation).judge());
    });
}

#[test]
fn sweep_the_durable_cache_loses_nothing_acknowledged_where_disks_are_full_on_three_cores() {
    let world = world("sim-full-3");
    sweep!(simulated::settings(world), |simulation: &mut Simulation| {
        assert_passed(&simulated::play(world, simulation).judge());
    });
}

#[test]
fn sweep_the_durable_cache_is_linearizable_over_restarts_and_our_tcp_on_one_core() {
    let world = world("tcp-durable-1");
    sweep!(simulated::settings(world), |simulation: &mut Simulation| {
        assert_passed(&simulated::play(world, simulation).judge());
    });
}

#[test]
fn sweep_the_durable_cache_is_linearizable_over_restarts_and_our_tcp_on_two_cores() {
    let world = world("tcp-durable-2");
    sweep!(simulated::settings(world), |simulation: &mut Simulation| {
        assert_passed(&simulated::play(world, simulation).judge());
    });
}

/// A run in which nothing happened would pass, too.
#[test]
fn the_runs_have_in_them_what_they_are_for() {
    assert_has_in_it("sim-all-2");
    assert_has_in_it("tcp-all-2");
}

#[test]
fn the_durable_runs_have_in_them_what_they_are_for() {
    for name in ["sim-durable-2", "tcp-durable-2"] {
        let counts = counts_of(name);
        let count =
            |what: &str| counts.iter().filter(|(name, _)| name.starts_with(what)).map(|(_, n)| n).sum::<usize>();
        assert!(count("Ok") > 5_000 && count("Info") > 200, "{counts:?}");
        for (fault, least) in
            [("power server", 60), ("kill server", 30), ("cut", 3), ("pause", 3), ("kill client", 3), ("loss", 3)]
        {
            assert!(count(fault) > least, "{fault}: {counts:?}");
        }
    }
}

/// Disks are full while something is written, and writes are refused and taken again.
#[test]
fn the_runs_with_full_disks_have_in_them_what_they_are_for() {
    let counts = counts_of("sim-full-3");
    let count = |what: &str| counts.iter().filter(|(name, _)| name.starts_with(what)).map(|(_, n)| n).sum::<usize>();
    assert!(count("Ok") > 3_000 && count("Info") > 200 && count("Fail") > 500, "{counts:?}");
    for (fault, least) in [("full disk", 60), ("power server", 20), ("kill server", 10), ("kill client", 10)] {
        assert!(count(fault) > least, "{fault}: {counts:?}");
    }
}

/// How often operations ended in which way, and faults of which kind there were, in thirty runs.
#[track_caller]
fn counts_of(name: &str) -> BTreeMap<String, usize> {
    let mut counts = BTreeMap::<String, usize>::new();
    for seed in 1..=30 {
        let run = simulated::run(world(name), seed).judge();
        assert_passed(&run);
        let ends = run.history.operations().into_iter().map(|operation| format!("{:?}", operation.end));
        let faults = run.history.faults().into_iter().map(|fault| format!("{} {}", fault.f, fault.key));
        ends.chain(faults).for_each(|what| *counts.entry(what).or_default() += 1);
    }
    counts
}

#[track_caller]
fn assert_has_in_it(name: &str) {
    let counts = counts_of(name);
    let count = |what: &str| counts.iter().filter(|(name, _)| name.starts_with(what)).map(|(_, n)| n).sum::<usize>();
    assert!(count("Ok") > 5_000 && count("Info") > 200 && count("Fail") == 0, "{counts:?}");
    for fault in ["cut", "pause client", "pause server", "kill client", "kill server", "loss"] {
        assert!(count(fault) > 3, "{fault}: {counts:?}");
    }
}

/// The worlds of our own TCP are over wires, and the wires are bad.
#[test]
fn frames_are_carried_lost_and_overtaken_where_there_are_some() {
    let world = world("tcp-loss");
    let mut simulation = Simulation::new(7, simulated::settings(world));
    assert_passed(&simulated::play(world, &mut simulation).judge());
    let lines = simulation.lines();
    let sum = |of: fn(LineCounters) -> u64| -> u64 { lines.iter().map(|&id| of(simulation.line_counters(id))).sum() };
    assert!(sum(|line| line.delivered) > 1_000, "{}", sum(|line| line.delivered));
    let bad =
        [sum(|line| line.lost), sum(|line| line.strayed), sum(|line| line.duplicated), sum(|line| line.corrupted)];
    assert!(bad.iter().all(|&count| count > 5), "{bad:?}");
    simulation.end();
}

/// What was acknowledged and lost is seen by whoever reads last.
#[test]
fn after_the_heal_every_key_is_read_once_more() {
    let world = world("sim-all-2");
    for seed in (1..=20).filter(|&seed| !world.schedule(seed).kills_server) {
        let history = simulated::run(world, seed).history;
        let events = || history.events.iter();
        let last_change = events().filter(|event| event.f != "get").map(|event| event.index).max();
        let read = |key: &str| {
            let is_read =
                |operation: &Operation| operation.f == "get" && operation.key == key && operation.end == Kind::Ok;
            history.operations().iter().any(|operation| is_read(operation) && Some(operation.invoked.0) > last_change)
        };
        assert!(["n0", "n1", "t0", "t1"].into_iter().all(read), "seed {seed}");
        // An event of the nemesis is no `get`, so the heal is among the last changes.
        assert!(events().any(|event| event.process == Process::NEMESIS), "seed {seed} has no faults");
    }
}

#[test]
fn a_run_can_be_made_again() {
    for name in ["sim-all-2", "tcp-all-2"] {
        let runs = || simulated::run(world(name), 77).history;
        assert_eq!(runs(), runs(), "{name}");
    }
}

/// Each world with some seeds of its own: the sweeps above are of those with all faults.
#[test]
fn every_world_passes() {
    for world in WORLDS.iter().filter(|world| !world.stage.has_processes()) {
        (101..=105).for_each(|seed| assert_passed(&simulated::run(world, seed).judge()));
    }
}
