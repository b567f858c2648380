//! The simulated disk passes the suite of block devices.

use libos_conformance::block::BlockSubject;
use libos_conformance::{block_suite, block_suite_broken};
use libos_sim::{DiskSettings, SimDisk};
use pdpix::{Heap, Rng};

fn subject(settings: DiskSettings) -> BlockSubject {
    let disk = SimDisk::new(settings, Rng::new(0xd15c));
    let opened = disk.clone();
    let subject = BlockSubject::new(Heap::alone(64 << 20).unwrap(), move |_| Box::new(opened.device()));
    subject.broken_by(move || disk.change(|settings| settings.read_errors = 1.0))
}

block_suite!(sim_disk, || Ok(subject(DiskSettings::new(8 << 20))));
block_suite!(sim_disk_that_forces, || {
    let mut settings = DiskSettings::new(8 << 20);
    settings.geometry.forces = true;
    Ok(subject(settings))
});
block_suite_broken!(sim_disk_broken, || Ok(subject(DiskSettings::new(8 << 20))));
