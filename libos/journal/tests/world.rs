//! Logs through a library OS, on hosts of a simulated world that crash, are killed, and boot again.

use std::cell::RefCell;
use std::rc::Rc;
use std::time::Duration;

use libos_journal::{Format, Settings as StoreSettings, Store};
use libos_runtime::LibOs;
use libos_sim::{DiskSettings, HostId, NetKind, Settings, World, sweep};
use pdpix::{Error, OpenMode, Qd, Sga};

/// What the writer knows; it outlives its host.
#[derive(Default)]
struct Known {
    /// By number: what was last pushed under it.
    pushed: Vec<Vec<u8>>,
    acknowledged: u64,
    lives: u64,
    verified: u64,
}

async fn push(libos: &LibOs, qd: Qd, bytes: &[u8]) -> Result<u64, Error> {
    libos.redeem(libos.push(qd, Sga::copy(libos.heap(), bytes)?)?).await?.sequence()
}

async fn pop(libos: &LibOs, qd: Qd) -> Result<Vec<u8>, Error> {
    Ok(libos.redeem(libos.pop(qd, 1 << 20)?).await?.popped()?.sga.to_vec())
}

/// Reads everything that is there, compares it with what is known, and goes on appending for ever.
async fn live(libos: LibOs, known: Rc<RefCell<Known>>) -> Result<(), Error> {
    let qd = libos.open("log", OpenMode::ExistingOrNew, None)?;
    let end = libos.redeem(libos.seek(qd, u64::MAX)?).await?.sequence()?;
    assert_eq!(libos.redeem(libos.seek(qd, 0)?).await?.sequence(), Ok(1));
    let acknowledged = known.borrow().acknowledged;
    assert!(end > acknowledged, "{acknowledged} was acknowledged, and the log ends before {end}");
    for number in 1..end {
        let record = pop(&libos, qd).await?;
        assert!(record == known.borrow().pushed[number as usize - 1], "record {number} is another");
    }
    assert_eq!(pop(&libos, qd).await?, b"");
    {
        let mut known = known.borrow_mut();
        known.pushed.truncate(end as usize - 1);
        (known.acknowledged, known.verified, known.lives) = (end - 1, known.verified + end - 1, known.lives + 1);
    }
    let mut rng = libos.fork_rng();
    // Several at a time, as clients are.
    loop {
        let mut tokens = Vec::new();
        for _ in 0..rng.range(1..=8) {
            let mut bytes = vec![0; rng.range(1..=3000) as usize];
            rng.fill(&mut bytes);
            known.borrow_mut().pushed.push(bytes.clone());
            tokens.push(libos.push(qd, Sga::copy(libos.heap(), &bytes)?)?);
        }
        for qt in tokens {
            let sequence = libos.redeem(qt).await?.sequence()?;
            assert_eq!(sequence, known.borrow().acknowledged + 1);
            known.borrow_mut().acknowledged = sequence;
        }
        libos.sleep(Duration::from_micros(rng.below(500))).await;
    }
}

fn add_host(world: &mut World, known: &Rc<RefCell<Known>>) -> HostId {
    let theirs = known.clone();
    let make = |attached: libos_sim::AttachedDisks| {
        let settings = StoreSettings { format: Some(Format::new(9)), ..StoreSettings::default() };
        attached.disks[0].change(|disk| disk.geometry.forces = attached.seed & 1 == 1);
        let store = Store::new(Box::new(attached.disks[0].device()), attached.heap, settings);
        vec![("disk".to_string(), Box::new(store) as Box<dyn pdpix::Storage>)]
    };
    let disks = vec![DiskSettings::new(8 << 20)];
    world.add_host_with_disks(NetKind::Messages, disks, Box::new(make), "writer", 1, move |libos| {
        let (libos, known) = (libos.clone(), theirs.clone());
        libos.clone().spawn(async move {
            if let Err(error) = live(libos, known).await {
                panic!("the log fails without a fault: {error}");
            }
        });
    })
}

#[test]
fn sweep_a_log_outlives_crashes_and_kills_of_its_host() {
    sweep!(Settings::default(), |world: &mut World| {
        let known = Rc::new(RefCell::new(Known::default()));
        let host = add_host(world, &known);
        let mut rng = world.fork_rng();
        for _ in 0..12 {
            world.run_for(Duration::from_micros(rng.range(1_000..=30_000)));
            if rng.chance(0.7) {
                world.crash(host);
            } else {
                world.kill(host);
            }
            world.restart(host);
        }
        world.run_for(Duration::from_millis(50));
        world.crash(host);
        let known = known.borrow();
        assert!(known.lives >= 5 && known.verified > 100, "{} lives, {} records", known.lives, known.verified);
        assert!(world.disk(host, 0).counters().power_cuts > 0);
    });
}

#[test]
fn sweep_a_quiet_host_is_quiet() {
    sweep!(Settings::default(), |world: &mut World| {
        let known = Rc::new(RefCell::new(Known::default()));
        let make = |attached: libos_sim::AttachedDisks| {
            let settings = StoreSettings { format: Some(Format::new(9)), ..StoreSettings::default() };
            let store = Store::new(Box::new(attached.disks[0].device()), attached.heap, settings);
            vec![("disk".to_string(), Box::new(store) as Box<dyn pdpix::Storage>)]
        };
        let disks = vec![DiskSettings::new(8 << 20)];
        let host = world.add_host_with_disks(NetKind::Messages, disks, Box::new(make), "idle", 1, |_| {});
        let theirs = known.clone();
        world.spawn(host.core(0), "one record", async move |libos| {
            let qd = libos.create("log", None).unwrap();
            theirs.borrow_mut().acknowledged = push(&libos, qd, b"one").await.unwrap();
            libos.close(qd).unwrap();
        });
        world.run();
        assert_eq!(known.borrow().acknowledged, 1);
        world.settle(Duration::from_millis(500));
        let before = world.disk(host, 0).counters();
        world.run_for(Duration::from_secs(10));
        assert_eq!(world.disk(host, 0).counters(), before, "nothing is written by a store that nobody uses");
    });
}
