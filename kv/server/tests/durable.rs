//! The cache on simulated disks, whose hosts lose their power in the middle of everything: what was acknowledged with
//! `always` is there when they boot again, commands over several shards are there whole or not at all, and nothing is there
//! that nobody has written. A cut leaves what was flushed and any part of the rest, torn at sectors.

mod support;

use std::cell::{Cell, RefCell};
use std::io::Cursor;
use std::rc::Rc;
use std::time::Duration;

use framework::pdpix::Endpoint;
use framework::{System, Task};
use kv_client::Value;
use kv_server::{Durability, Load, ServerArgs};
use libos_sim::{DiskSettings, HostId, NetKind, Settings, World, sweep};
use support::*;

/// A server with a disk for each core.
fn add_durable_server(world: &mut World, cores: usize, durability: Durability) -> HostId {
    add_loading_server(world, cores, durability, None)
}

/// The same, with files to be loaded where there is no data.
fn add_loading_server(world: &mut World, cores: usize, durability: Durability, load: Option<Load>) -> HostId {
    let mut args = ServerArgs::new("0.0.0.0:6379".parse().unwrap());
    (args.durability, args.has_storage) = (durability, true);
    (args.log_len_max, args.load) = (1 << 20, load);
    args.on_trouble = |why| panic!("{why}");
    let disks = (0..cores).map(|_| DiskSettings::new(8 << 20)).collect();
    world.add_host_with_disks(NetKind::Messages, disks, Box::new(journal), "server", cores, move |libos| {
        kv_server::run(&System::new(libos), args.clone());
    })
}

/// What a writer has sent and what was acknowledged, of keys that are written together.
#[derive(Default)]
struct Noted {
    sent: Cell<u64>,
    acknowledged: Cell<u64>,
    /// The same of a counter.
    added: Cell<u64>,
    added_for_certain: Cell<u64>,
}

/// Writes numbers to all shards at once, and adds to a counter, until the time is up.
async fn write(task: Task, to: Endpoint, noted: Rc<Noted>, over: Rc<Cell<bool>>) {
    while !over.get() {
        let mut kv = connected(&task, to).await;
        loop {
            if over.get() {
                return;
            }
            let number = noted.sent.get() + 1;
            noted.sent.set(number);
            let text = number.to_string();
            let mut args: Vec<&[u8]> = vec![b"MSET"];
            KEYS.iter().for_each(|key| args.extend([key, text.as_bytes()]));
            match task.timeout(Duration::from_millis(500), kv.call(&args)).await {
                Ok(Ok(Value::Simple(_) | Value::Bulk(_))) => noted.acknowledged.set(number),
                Ok(Ok(other)) if is_loading(&other) => {
                    task.sleep(Duration::from_millis(2)).await;
                    continue;
                }
                Ok(Ok(other)) => panic!("{other:?}"),
                _ => break,
            }
            noted.added.set(noted.added.get() + 1);
            match task.timeout(Duration::from_millis(500), kv.call(&[b"INCR", b"counter"])).await {
                Ok(Ok(Value::Integer(_))) => noted.added_for_certain.set(noted.added_for_certain.get() + 1),
                _ => break,
            }
            if task.below(20) == 0 {
                let _ = task.timeout(Duration::from_millis(500), kv.call(&[b"BGSAVE"])).await;
            }
        }
    }
}

/// One value, asked for as often as it takes.
async fn asked(task: &Task, to: Endpoint, args: &[&[u8]]) -> Value {
    let mut kv = connected(task, to).await;
    loop {
        let value = persist(task, &mut kv, to, args).await;
        if !is_loading(&value) {
            return value;
        }
        task.sleep(Duration::from_millis(2)).await;
    }
}

fn is_loading(value: &Value) -> bool {
    matches!(value, Value::Error(text) if text.starts_with(b"LOADING"))
}

fn number(value: &Value) -> u64 {
    match value {
        Value::Null => 0,
        value => std::str::from_utf8(bulk(value)).unwrap().parse().unwrap(),
    }
}

fn power_cuts(durability: Durability, cores: usize) {
    sweep!(Settings::default(), |world: &mut World| {
        let server = add_durable_server(world, cores, durability);
        let to = world.endpoint(server, PORT);
        let (noted, over) = (Rc::new(Noted::default()), Rc::new(Cell::new(false)));
        let (theirs, end) = (noted.clone(), over.clone());
        converse(world, "writer", move |task| write(task, to, theirs, end));
        for cut in 0..4u64 {
            let pause = 15_000 + (world.seed().wrapping_mul(0x9E37_79B9).wrapping_add(cut * 7919)) % 60_000;
            world.run_for(Duration::from_micros(pause));
            if cut % 2 == 0 {
                world.crash(server)
            } else {
                world.kill(server)
            }
            world.run_for(Duration::from_millis(3));
            let (acknowledged, certain) = (noted.acknowledged.get(), noted.added_for_certain.get());
            world.restart(server);
            let found = Rc::new(RefCell::new(None));
            let place = found.clone();
            converse(world, "reader", move |task| async move {
                let args: Vec<&[u8]> = std::iter::once(&b"MGET"[..]).chain(KEYS).chain([&b"counter"[..]]).collect();
                let values = asked(&task, to, &args).await;
                *place.borrow_mut() = Some(values.as_slice().unwrap().iter().map(number).collect::<Vec<_>>());
            });
            let mut turns = 0;
            while found.borrow().is_none() {
                world.run_for(Duration::from_millis(1));
                turns += 1;
                assert!(turns < 5000, "it does not come back");
            }
            let values = found.borrow_mut().take().unwrap();
            let (all, counter) = (&values[..KEYS.len()], values[KEYS.len()]);
            assert!(all.iter().all(|value| *value == all[0]), "cut {cut}: an MSET that is there in part: {values:?}");
            let newest = noted.sent.get();
            assert!(all[0] <= newest, "cut {cut}: {} is there, and {newest} is the last that was sent", all[0]);
            assert!(counter <= noted.added.get(), "cut {cut}: counted {counter} of {}", noted.added.get());
            if durability == Durability::Always {
                assert!(all[0] >= acknowledged, "cut {cut}: {} is there, {acknowledged} was acknowledged", all[0]);
                assert!(counter >= certain, "cut {cut}: counted {counter}, {certain} were acknowledged");
            }
        }
        over.set(true);
        assert!(noted.acknowledged.get() > 0, "nothing was written");
        world.run_for(Duration::from_secs(2));
        world.crash(server);
        world.run_for(Duration::from_secs(1));
    });
}

#[test]
fn sweep_always_on_one_core_survives_power_cuts() {
    power_cuts(Durability::Always, 1);
}

#[test]
fn sweep_always_on_two_cores_survives_power_cuts() {
    power_cuts(Durability::Always, 2);
}

#[test]
fn sweep_always_on_three_cores_survives_power_cuts() {
    power_cuts(Durability::Always, 3);
}

#[test]
fn sweep_everysec_is_whole_after_power_cuts() {
    power_cuts(Durability::EverySecond, 2);
}

/// Keys of an RDB file, and how many files there are.
const IMPORTED: usize = 300;
const FILES: usize = 2;

/// An RDB file with every second key, in Redis's own form: short strings, and no checksum.
fn rdb_file(index: usize) -> Vec<u8> {
    let mut file = b"REDIS0010\xfe\x00".to_vec();
    for number in (index..IMPORTED).step_by(FILES) {
        for text in [format!("key:{number}"), format!("value:{number}")] {
            if text.starts_with('k') {
                file.push(0);
            }
            file.push(text.len() as u8);
            file.extend(text.as_bytes());
        }
    }
    file.extend(b"\xff\0\0\0\0\0\0\0\0");
    file
}

/// Files are loaded where there is nothing; a cut in the middle of that, with snapshots on some disks and not on others, begins
/// it again; and once a write was answered, nothing is loaded any more.
fn imports(cores: usize) {
    sweep!(Settings::default(), |world: &mut World| {
        let load = Load::new(|index| Ok((index < FILES).then(|| Box::new(Cursor::new(rdb_file(index))) as Box<_>)));
        let server = add_loading_server(world, cores, Durability::Always, Some(load));
        let to = world.endpoint(server, PORT);
        let mut chance = framework::pdpix::Rng::new(world.seed());
        for _ in 0..5 {
            world.run_for(Duration::from_micros(chance.below(6_000)));
            world.crash(server);
            world.restart(server);
        }
        for round in 0..2u64 {
            let over = Rc::new(Cell::new(false));
            let end = over.clone();
            converse(world, "reader", move |task| async move {
                assert_eq!(asked(&task, to, &[b"DBSIZE"]).await, Value::Integer((IMPORTED - round as usize) as i64));
                for number in round as usize..IMPORTED {
                    let value = asked(&task, to, &[b"GET", format!("key:{number}").as_bytes()]).await;
                    assert_eq!(bulk(&value), format!("value:{number}").as_bytes());
                }
                assert_eq!(asked(&task, to, &[b"DEL", b"key:0"]).await, Value::Integer(1 - round as i64));
                end.set(true);
            });
            world.run_until("it is read", |_| over.get());
            world.crash(server);
            world.restart(server);
        }
        world.run_for(Duration::from_secs(1));
        world.crash(server);
        world.run_for(Duration::from_secs(1));
    });
}

#[test]
fn sweep_files_are_loaded_whole_whatever_cuts_the_loading_short_on_two_cores() {
    imports(2);
}

#[test]
fn sweep_files_are_loaded_whole_whatever_cuts_the_loading_short_on_three_cores() {
    imports(3);
}
