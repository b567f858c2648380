//! What a SET copies on its way from a frame to the disk, on one core: our own TCP, the cache under `always`, and its journal.
//!
//! Counted are the heap's bytes copied, by path (`CopyPath`): `Push` is the copy into the log's page, which computes its CRC as
//! it goes; `Coalesce` puts a value together that came in several frames, so that it can be stored in one piece; `Keep` takes a
//! value out of a frame that it would pin and fill by less than half.

mod support;

use std::cell::Cell;
use std::rc::Rc;

use framework::System;
use framework::pdpix::{CopyPath, Geometry, Storage};
use kv_server::{Durability, ServerArgs};
use libos_journal::memory::{Contents, MemoryDevice};
use libos_journal::{Format, Settings as StoreSettings, Store};
use libos_sim::{Attached, AttachedDisks, HostId, Interface, NetKind, Plug, Settings, SwitchId, World};
use support::*;

const VALUE: usize = 4096;
const SETS: u64 = 50;

/// An interface of so long frames.
fn frames(switch: SwitchId, mtu: usize) -> NetKind {
    NetKind::frames(Interface { mtu, ..Interface::plugged(Plug::Switch(switch)) }, Attached::stack)
}

/// A server of one core, with a disk in memory that takes so many pieces in a transfer: one, as with O_DIRECT; or some, as
/// through the page cache.
fn add_server(world: &mut World, net: NetKind, gathers: u16) -> HostId {
    let mut args = ServerArgs::new("0.0.0.0:6379".parse().unwrap());
    (args.durability, args.has_storage) = (Durability::Always, true);
    args.on_trouble = |why| panic!("{why}");
    let contents = Contents::new(16 << 20);
    let geometry = Geometry {
        block_size: 512,
        block_count: (16 << 20) / 512,
        write_unit: 8,
        transfer_max: 256,
        align: 4096,
        gathers,
        volatile_cache: true,
        forces: false,
        discards: true,
    };
    let storages = Box::new(move |attached: AttachedDisks| {
        let device = MemoryDevice::with_geometry(contents.clone(), geometry);
        let settings = StoreSettings { format: Some(Format::new(7)), ..StoreSettings::default() };
        let store = Store::new(Box::new(device), attached.heap, settings);
        vec![("disk".to_owned(), Box::new(store) as Box<dyn Storage>)]
    });
    world.add_host_with_disks(net, Vec::new(), storages, "server", 1, move |libos| {
        kv_server::run(&System::new(libos), args.clone());
    })
}

/// Bytes copied for each SET of 4 KiB, by path.
fn copied_by_a_set(mtu: usize, gathers: u16) -> [u64; CopyPath::ALL.len()] {
    let mut world = World::new(1, Settings::default());
    let switch = world.add_switch();
    let server = add_server(&mut world, frames(switch, mtu), gathers);
    let (to, heap) = (world.endpoint(server, PORT), world.libos(server.core(0)).heap().clone());
    let client = world.add_host_on(frames(switch, mtu), "client", 1, |_| {});
    let found = Rc::new(Cell::new(None));
    let place = found.clone();
    world.spawn(client.core(0), "client", move |libos| {
        let done = System::new(&libos).task(move |task| async move {
            let mut kv = connected(&task, to).await;
            let value = vec![b'v'; VALUE];
            while kv.call(&[b"SET", b"key", &value]).await.unwrap().as_bytes() != Some(b"OK") {
                task.sleep(std::time::Duration::from_millis(1)).await;
            }
            let before = heap.copied();
            for number in 0..SETS {
                let key = format!("key:{number}");
                kv.call(&[b"SET", key.as_bytes(), &value]).await.unwrap();
            }
            let copied = heap.copied().since(before);
            place.set(Some(CopyPath::ALL.map(|path| copied.on(path) / SETS)));
        });
        async move { done.await.unwrap() }
    });
    world.run_until("it is written", |_| found.get().is_some());
    let found = found.get().unwrap();
    println!("MTU {mtu}, {gathers} pieces: {:?}", CopyPath::ALL.iter().zip(found).collect::<Vec<_>>());
    world.crash(server);
    world.crash(client);
    found
}

/// Keys, names of commands and what is around a record: short, and copied.
const AROUND: u64 = 64;

/// How often the value itself was copied: into the log's page, and on any other way.
fn copies(mtu: usize, gathers: u16) -> (u64, u64) {
    let copied = copied_by_a_set(mtu, gathers);
    let times = |bytes: u64| {
        assert!(bytes % VALUE as u64 <= AROUND, "{bytes} bytes are no whole values");
        bytes / VALUE as u64
    };
    let on = |path: CopyPath| times(copied[CopyPath::ALL.iter().position(|&one| one == path).unwrap()]);
    let others = CopyPath::ALL.into_iter().filter(|&path| path != CopyPath::Push);
    (on(CopyPath::Push), others.map(on).sum())
}

/// O_DIRECT, simulated disks.
#[test]
fn a_value_in_one_frame_is_copied_once_to_a_device_that_takes_one_piece() {
    assert_eq!(copies(9000, 1), (1, 0));
}

/// The page cache, memory.
#[test]
fn a_value_in_one_frame_is_not_copied_to_a_device_that_gathers() {
    assert_eq!(copies(9000, 16), (0, 0));
    assert_eq!(copies(9000, u16::MAX), (0, 0));
}

/// As frames of 1500 bytes bring 4 KiB in three, they are put together, to be stored.
#[test]
fn a_value_in_several_frames_is_put_together_once_besides() {
    assert_eq!(copies(1500, 16), (0, 1));
    assert_eq!(copies(1500, 1), (1, 1));
}
