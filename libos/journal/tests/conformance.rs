//! The suite of storage queues, over memory and over simulated disks.

use std::cell::Cell;
use std::rc::Rc;
use std::time::Duration;

use libos_conformance::storage::{LogSubject, Logs};
use libos_journal::memory::{Contents, MemoryDevice};
use libos_journal::{Format, Settings, Store};
use libos_mem::Heap;
use libos_runtime::{Clock, Core, CoreParts, IdlePolicy, MeshKind, mesh};
use libos_sim::{DiskSettings, SimDisk};
use pdpix::{BlockDevice, Instant, Rng, WallTime};

#[derive(Clone, Default)]
struct HandClock(Rc<Cell<u64>>);

impl Clock for HandClock {
    fn now(&self) -> Instant {
        Instant::from_nanos(self.0.get())
    }

    fn wall(&self) -> WallTime {
        WallTime::from_nanos(self.0.get())
    }
}

/// A core over a device that is made anew for each process.
struct Stepped<F> {
    core: Option<Core>,
    clock: HandClock,
    device: F,
}

impl<F: FnMut() -> Box<dyn BlockDevice>> Stepped<F> {
    fn new(device: F) -> Stepped<F> {
        let mut stepped = Stepped { core: None, clock: HandClock::default(), device };
        stepped.restart();
        stepped
    }
}

impl<F: FnMut() -> Box<dyn BlockDevice>> LogSubject for Stepped<F> {
    fn logs(&self) -> Box<dyn Logs> {
        Box::new(self.core.as_ref().expect("a process runs").libos().clone())
    }

    fn turn(&mut self) {
        let step = self.core.as_ref().expect("a process runs").step();
        if !step.busy {
            let next = step.deadline.map_or(1000, |at| at.as_nanos().saturating_sub(self.clock.0.get()));
            self.clock.0.set(self.clock.0.get() + next.clamp(1000, 1_000_000));
        }
    }

    fn restart(&mut self) {
        self.core = None;
        let heap = Heap::alone(64 << 20).unwrap();
        let settings = Settings { format: Some(Format::new(7)), ..Settings::default() };
        let store = Store::new((self.device)(), heap.clone(), settings);
        let ports = mesh(1, MeshKind::Stepped).unwrap().pop().unwrap();
        let parts = CoreParts {
            storages: vec![("disk".into(), Box::new(store))],
            idle: IdlePolicy::Stepped,
            ..CoreParts::new(heap, Box::new(self.clock.clone()), ports)
        };
        self.core = Some(Core::new(parts));
    }
}

fn memory() -> Stepped<impl FnMut() -> Box<dyn BlockDevice>> {
    let contents = Contents::new(16 << 20);
    Stepped::new(move || Box::new(MemoryDevice::new(contents.clone())) as Box<dyn BlockDevice>)
}

fn disk(change: impl FnOnce(&mut DiskSettings)) -> Stepped<impl FnMut() -> Box<dyn BlockDevice>> {
    let mut settings = DiskSettings::new(16 << 20);
    change(&mut settings);
    let disk = SimDisk::new(settings, Rng::new(1));
    Stepped::new(move || Box::new(disk.device()) as Box<dyn BlockDevice>)
}

libos_conformance::storage_suite!(memory_suite, memory);
libos_conformance::storage_suite!(disk_suite, || disk(|_| {}));
libos_conformance::storage_suite!(large_blocks_suite, || disk(|disk| {
    (disk.geometry.write_unit, disk.geometry.align, disk.geometry.gathers, disk.depth) = (8, 4096, 8, 4);
    (disk.slow, disk.stall) = (0.1, Duration::from_millis(5));
}));
