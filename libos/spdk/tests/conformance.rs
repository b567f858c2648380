//! SPDK's devices pass the suite of block devices: NVMe over TCP to SPDK's own target, and memory of its block layer.

mod nvmf;

use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Mutex, PoisonError};

use libos_conformance::block::{BlockSubject, MadeBlock};
use libos_conformance::{block_suite, block_suite_broken};
use libos_spdk::{DiskSettings, Env, Target, open};
use nvmf::{BLOCKS, Nvmf, POOLS, shared};

fn subject(env: Env, target: Target, configuration: String) -> BlockSubject {
    let settings = DiskSettings { configuration, ..DiskSettings::default() };
    let open = move |heap: &pdpix::Heap| open(env, &target, &settings, heap).unwrap().device;
    BlockSubject::new(nvmf::heap(env), move |heap| Box::new(open(heap)))
}

/// NVMe over TCP.
fn tcp() -> MadeBlock {
    let env = nvmf::env()?;
    Ok(subject(env, shared()?, String::new()))
}

/// The same, where reads fail as the target is killed.
fn tcp_killed() -> MadeBlock {
    let env = nvmf::env()?;
    let mut target = Nvmf::start()?;
    Ok(subject(env, target.target(1), String::new()).broken_by(move || target.kill()))
}

/// Memory as a device of SPDK's block layer.
fn bdev() -> MadeBlock {
    static NEXT: AtomicU32 = AtomicU32::new(0);
    let env = nvmf::env()?;
    let disk = |number: u32| {
        format!(
            r#"{{"method":"bdev_malloc_create","params":{{"name":"Disk{number}","num_blocks":{BLOCKS},"block_size":512}}}}"#
        )
    };
    let disks = (0..16).map(disk).collect::<Vec<_>>().join(",");
    let configuration = format!(
        r#"{{"subsystems":[{{"subsystem":"iobuf","config":[{POOLS}]}},{{"subsystem":"bdev","config":[{disks}]}}]}}"#
    );
    let number = NEXT.fetch_add(1, Ordering::Relaxed);
    Ok(subject(env, Target::parse(&format!("bdev:Disk{number}"), 0).unwrap(), configuration))
}

/// An NVMe controller on the PCI bus, which somebody names: what is on it is lost.
fn pci() -> MadeBlock {
    static ONE: Mutex<()> = Mutex::new(());
    let address = std::env::var("MARGAY_TEST_SPDK_PCI").map_err(|_| "MARGAY_TEST_SPDK_PCI names no NVMe controller")?;
    let env = nvmf::env()?;
    let target = Target::parse(&address, 0).unwrap();
    // There is one, for all tests.
    let one = ONE.lock().unwrap_or_else(PoisonError::into_inner);
    let open = move |heap: &pdpix::Heap| {
        let _ = &one;
        Box::new(open(env, &target, &DiskSettings::default(), heap).unwrap().device) as Box<dyn pdpix::BlockDevice>
    };
    Ok(BlockSubject::new(nvmf::heap(env), open))
}

block_suite!(spdk_pci, pci);
block_suite!(spdk_tcp, tcp);
block_suite!(spdk_bdev, bdev);
block_suite_broken!(spdk_tcp_killed, tcp_killed);
