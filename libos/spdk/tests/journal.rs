//! A log on SPDK's devices, through the calls of a core: what was acknowledged is there when it is opened again, and a
//! device that goes fails the log.

mod nvmf;

use std::cell::{Cell, RefCell};
use std::rc::Rc;

use libos_journal::{Format, Settings, Store};
use libos_runtime::{Core, CoreParts, KernelClock, LibOs, MeshKind, mesh};
use libos_spdk::{DiskSettings, Env, Target, open};
use nvmf::Nvmf;
use pdpix::{BlockDevice, Error, Heap, OpenMode, Qd, Sga, Storage};

/// A core with a log on this device.
fn core(env: Env, target: &Target, heap: &Heap) -> (Core, Qd) {
    let device = open(env, target, &DiskSettings::default(), heap).unwrap().device;
    let settings = Settings { format: Some(Format::new(7)), ..Settings::default() };
    let store = Store::new(Box::new(device), heap.clone(), settings);
    let storages: Vec<(String, Box<dyn Storage>)> = vec![("disk".into(), Box::new(store))];
    let ports = mesh(1, MeshKind::Threads).unwrap().remove(0);
    let core = Core::new(CoreParts { storages, ..CoreParts::new(heap.clone(), Box::new(KernelClock), ports) });
    let qd = core.libos().open("log", OpenMode::ExistingOrNew, None).unwrap();
    (core, qd)
}

fn record(number: u64) -> Vec<u8> {
    let len = 1 + (number as usize * 97) % 6000;
    (0..len).map(|at| (number as usize * 31 + at) as u8).collect()
}

async fn append(libos: &LibOs, qd: Qd, number: u64) -> Result<u64, Error> {
    let sga = Sga::copy(libos.heap(), &record(number))?;
    libos.redeem(libos.push(qd, sga)?).await?.sequence()
}

/// Appends from several coroutines until so many are durable, or one fails; gives what was acknowledged, and the failure.
fn fill(core: Core, qd: Qd, until: u64, on_durable: impl FnMut(u64) + 'static) -> (Vec<(u64, u64)>, Option<Error>) {
    let (next, acknowledged, failed) =
        (Rc::new(Cell::new(0)), Rc::new(RefCell::new(Vec::new())), Rc::new(Cell::new(None)));
    let on_durable = Rc::new(RefCell::new(on_durable));
    for _ in 0..16 {
        let (libos, next, acknowledged, failed, on_durable) =
            (core.libos().clone(), next.clone(), acknowledged.clone(), failed.clone(), on_durable.clone());
        core.libos().spawn(async move {
            while next.get() < until && failed.get().is_none() {
                let number = next.get();
                next.set(number + 1);
                match append(&libos, qd, number).await {
                    Ok(sequence) => acknowledged.borrow_mut().push((sequence, number)),
                    Err(error) => failed.set(Some(error)),
                }
                let count = acknowledged.borrow().len() as u64;
                (on_durable.borrow_mut())(count);
            }
            if failed.get().is_some() || acknowledged.borrow().len() as u64 == until {
                libos.stop();
            }
        });
    }
    core.run();
    drop(core);
    (acknowledged.take(), failed.get())
}

#[test]
fn what_was_acknowledged_is_there_when_it_is_opened_again() {
    let (env, target) = match nvmf::env().and_then(|env| Ok((env, Nvmf::start()?))) {
        Err(why) => return println!("SKIP spdk_journal: {why}"),
        Ok(both) => both,
    };
    let (heap, target) = (nvmf::heap(env), target.target(1));
    let (core_, qd) = core(env, &target, &heap);
    let (mut acknowledged, failed) = fill(core_, qd, 300, |_| {});
    assert_eq!((acknowledged.len(), failed), (300, None));
    acknowledged.sort_unstable();
    let (core, qd) = core(env, &target, &heap);
    let read = Rc::new(RefCell::new(Vec::new()));
    let (libos, into) = (core.libos().clone(), read.clone());
    core.libos().spawn(async move {
        let qt = libos.seek(qd, 0).unwrap();
        let _ = libos.redeem(qt).await;
        while into.borrow().len() < 300 {
            let qt = libos.pop(qd, usize::MAX).unwrap();
            match libos.redeem(qt).await.and_then(|completion| completion.popped()) {
                Ok(popped) => into.borrow_mut().push(popped.sga.to_vec()),
                Err(error) => {
                    eprintln!("{error}");
                    break;
                }
            }
        }
        libos.stop();
    });
    core.run();
    let expected: Vec<Vec<u8>> = acknowledged.iter().map(|(_, number)| record(*number)).collect();
    assert_eq!(read.borrow().len(), 300);
    assert!(*read.borrow() == expected, "records differ");
}

#[test]
fn a_log_whose_device_goes_fails_with_eio() {
    let (env, mut nvmf) = match nvmf::env().and_then(|env| Ok((env, Nvmf::start()?))) {
        Err(why) => return println!("SKIP spdk_journal_eio: {why}"),
        Ok(both) => both,
    };
    let (heap, target) = (nvmf::heap(env), nvmf.target(2));
    let (core, qd) = core(env, &target, &heap);
    let (acknowledged, failed) = fill(core, qd, 100_000, move |count| {
        if count == 100 {
            nvmf.kill();
        }
    });
    assert!(acknowledged.len() >= 100, "{}", acknowledged.len());
    assert_eq!(failed, Some(Error::Io));
}

#[test]
fn what_a_controller_writes_whole_is_not_what_a_record_takes() {
    let (env, nvmf) = match nvmf::env().and_then(|env| Ok((env, Nvmf::start()?))) {
        Err(why) => return println!("SKIP spdk_journal_atomic: {why}"),
        Ok(both) => both,
    };
    let (heap, target) = (nvmf::heap(env), nvmf.target(nvmf::ATOMIC));
    let device = open(env, &target, &DiskSettings::default(), &heap).unwrap().device;
    assert_eq!((device.geometry().write_unit, device.geometry().block_size), (1, 512));
    drop(device);
    // Units of 2 MiB would be refused.
    let (core, qd) = core(env, &target, &heap);
    assert_eq!(fill(core, qd, 20, |_| {}).1, None);
}
