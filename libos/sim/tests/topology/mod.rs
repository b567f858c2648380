//! Trees of switches and lines of any kind, drawn by chance.

use std::time::Duration;

use libos_net::{LineSettings, Loss};
use libos_sim::{SwitchId, World};
use pdpix::Rng;

pub const MS: Duration = Duration::from_millis(1);
pub const US: Duration = Duration::from_micros(1);

/// One to four switches in a tree.
pub fn random_switches(world: &mut World, rng: &mut Rng, line: impl Fn(&mut Rng) -> LineSettings) -> Vec<SwitchId> {
    let switches: Vec<SwitchId> = (0..rng.range(1..=4)).map(|_| world.add_switch()).collect();
    for (i, &switch) in switches.iter().enumerate().skip(1) {
        let other = *pick(&switches[..i], rng);
        let settings = [line(rng), line(rng)];
        world.join_switches(switch, other, settings);
    }
    switches
}

pub fn pick<'a, T>(from: &'a [T], rng: &mut Rng) -> &'a T {
    &from[rng.below(from.len() as u64) as usize]
}

/// Without faults; what waits is `queue_frames` at most.
pub fn random_line(rng: &mut Rng, latency_max_us: u64, queue_frames: usize) -> LineSettings {
    let from = US * rng.range(1..=latency_max_us) as u32;
    LineSettings {
        latency: from..=from + US * rng.range(0..=300) as u32,
        bandwidth: rng.chance(0.7).then(|| rng.range(50_000_000..=10_000_000_000)),
        queue_frames,
        mark_above: rng.chance(0.3).then_some(30_000),
        ..LineSettings::default()
    }
}

/// The same line with faults: each kind in some.
pub fn faulty(settings: LineSettings, rng: &mut Rng, strays: bool) -> LineSettings {
    let loss = match rng.below(3) {
        0 => Loss::None,
        1 => Loss::Each(0.1),
        _ => Loss::Bursts { begins: 0.02, ends: 0.2, inside: 0.8, outside: 0.0 },
    };
    let mut sometimes = |chance: f64, probability: f64| if rng.chance(chance) { probability } else { 0.0 };
    LineSettings {
        loss,
        duplication: sometimes(0.5, 0.05),
        strays: if strays { 0.1 } else { 0.0 },
        stray_by: US..=MS,
        corruption: sometimes(0.3, 0.05),
        truncation: sometimes(0.3, 0.05),
        down: sometimes(0.05, 1.0) > 0.0,
        frame_len_max: (sometimes(0.1, 1.0) > 0.0).then_some(700),
        ..settings
    }
}
