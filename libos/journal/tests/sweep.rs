//! Many seeds of log workloads on simulated disks, against a model: the list of what was acknowledged.
//!
//! After every cut of the power, every kill and every fault: each record that was acknowledged is there, as it was written,
//! with its number; nothing is there that was not appended; what a truncation freed is gone only if somebody asked for it.
//! `MARGAY_SEEDS=N` sweeps more, `MARGAY_SEED=0x...` one.

mod rig;

use std::collections::BTreeMap;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::time::Duration;

use libos_journal::inspect::{inspect, read_log};
use libos_journal::{Format, Settings};
use libos_sim::{DiskSettings, SimDisk};
use pdpix::{Error, Handle, LogOp, OpId, OpenMode, Outcome, Rng, Sga, Storage};
use rig::{Rig, heap};

const SEEDS: u64 = 500;

/// What is known of a log without looking at the disk.
#[derive(Default)]
struct Model {
    /// Every record that was accepted, by its number.
    records: BTreeMap<u64, Vec<u8>>,
    next: u64,
    acknowledged: u64,
    /// A truncation to here was acknowledged; one to there was asked for.
    first: u64,
    first_asked: u64,
}

enum Asked {
    Append(u64),
    Truncate,
}

struct Run {
    rng: Rng,
    disk: SimDisk,
    rig: Rig,
    settings: Settings,
    logs: Vec<Model>,
    handles: Vec<Option<Handle>>,
    under_way: BTreeMap<u64, (usize, Asked)>,
    /// Every record of this run has this length, so that old places are met exactly.
    fixed: Option<usize>,
    /// Operations may fail: the store is not what is under test then, but what it says.
    faults: bool,
    failed: bool,
}

impl Run {
    fn new(seed: u64, faults: bool) -> Run {
        let mut rng = Rng::new(seed);
        let size = [1 << 20, 2 << 20, 4 << 20][rng.below(3) as usize];
        Run::on(size, rng, seed, faults)
    }

    fn on(size: u64, mut rng: Rng, seed: u64, faults: bool) -> Run {
        let mut disk = DiskSettings::new(size);
        disk.geometry.write_unit = [1, 1, 8][rng.below(3) as usize];
        disk.geometry.gathers = [1, 1, 16][rng.below(3) as usize];
        disk.geometry.discards = rng.chance(0.5);
        disk.geometry.volatile_cache = rng.chance(0.9);
        disk.geometry.forces = rng.chance(0.5);
        disk.depth = [4, 64][rng.below(2) as usize];
        disk.fresh = rng.chance(0.5);
        disk.slow = if rng.chance(0.3) { 0.05 } else { 0.0 };
        let format = Format { store_id: seed as u128 + 1, extent_size: Some(64 << 10), logs_max: 4 };
        let settings = Settings {
            format: Some(format),
            commit_delay: Duration::from_micros([0, 0, 200][rng.below(3) as usize]),
            budget: [16 << 10, 256 << 10][rng.below(2) as usize],
            waiting_max: 64,
            write_max: [4 << 10, 32 << 10][rng.below(2) as usize],
            read_ahead: [4 << 10, 32 << 10][rng.below(2) as usize],
            mark_delay: Duration::from_millis([1, 100][rng.below(2) as usize]),
        };
        let fixed = rng.chance(0.5).then(|| [100, 400, 480, 4000][rng.below(4) as usize]);
        let disk = SimDisk::new(disk, rng.fork());
        let rig = Rig::over(Box::new(disk.device()), settings.clone());
        let logs: Vec<Model> =
            (0..1 + rng.below(3)).map(|_| Model { next: 1, first: 1, first_asked: 1, ..Model::default() }).collect();
        let handles = vec![None; logs.len()];
        let mut run =
            Run { rng, disk, rig, settings, logs, handles, under_way: BTreeMap::new(), fixed, faults, failed: false };
        run.open();
        // Each is there for good before anything befalls it.
        for log in 0..run.logs.len() {
            let h = run.handles[log].unwrap();
            assert_eq!(run.seek(h, 0), Ok(1));
        }
        run
    }

    fn name(log: usize) -> String {
        format!("log {log}")
    }

    fn open(&mut self) {
        for log in 0..self.logs.len() {
            let h = self.rig.open(&Run::name(log), OpenMode::ExistingOrNew).unwrap();
            // Some of them wait for nothing, for a while.
            self.rig.store.set_patience(h, Duration::from_micros([0, 0, 300, 20_000][self.rng.below(4) as usize]));
            self.handles[log] = Some(h);
        }
    }

    /// One pass, or time up to the next thing that happens.
    fn turn(&mut self) {
        self.rig.turn();
        self.take_ends();
        let wake = self.rig.arm();
        if wake.on == pdpix::WakeOn::Nothing {
            let next = wake.deadline.map_or(Duration::from_millis(1), |at| at.since(self.rig.now));
            self.rig.now += next.clamp(Duration::from_micros(1), Duration::from_millis(1));
        }
    }

    fn take_ends(&mut self) {
        let ops: Vec<u64> = self.under_way.keys().copied().collect();
        for op in ops {
            let Some(result) = self.rig.ended(OpId(op)) else { continue };
            let (log, asked) = self.under_way.remove(&op).expect("it is under way");
            let model = &mut self.logs[log];
            match (asked, result) {
                (Asked::Append(expected), Ok(Outcome::Appended { sequence })) => {
                    assert_eq!(sequence, expected, "log {log}: numbers are given in order");
                    assert_eq!(sequence, model.acknowledged + 1, "log {log}: acknowledged in order");
                    model.acknowledged = sequence;
                }
                (Asked::Truncate, Ok(Outcome::Truncated { sequence })) => {
                    assert!(sequence <= model.first_asked, "log {log}: truncated to {sequence}");
                    model.first = model.first.max(sequence);
                }
                (_, Err(error)) => {
                    assert!(self.faults, "log {log}: {error} without any fault");
                    self.failed = true;
                }
                (_, other) => panic!("{other:?}"),
            }
        }
    }

    fn bytes(&mut self, log: usize, sequence: u64) -> Vec<u8> {
        let len = match self.fixed {
            Some(len) => len,
            None if self.rng.chance(0.1) => self.rng.range(2000..=20_000) as usize,
            None => self.rng.range(1..=1500) as usize,
        };
        // Another one each time, though the number is the same after a crash.
        let salt = self.rng.next_u64();
        let mut bytes = vec![0; len];
        Rng::new(salt ^ sequence ^ (log as u64) << 32).fill(&mut bytes);
        bytes
    }

    fn append(&mut self, log: usize) {
        let sequence = self.logs[log].next;
        let bytes = self.bytes(log, sequence);
        let sga = Sga::copy(&self.rig.heap, &bytes).unwrap();
        match self.rig.submit(self.handles[log].unwrap(), LogOp::Append(sga)) {
            Ok(op) => {
                self.logs[log].records.insert(sequence, bytes);
                self.logs[log].next += 1;
                self.under_way.insert(op.0, (log, Asked::Append(sequence)));
            }
            Err(Error::NoSpace | Error::NoBuffers) => {
                let upto = self.rng.range(self.logs[log].first..=self.logs[log].acknowledged + 1);
                self.truncate(log, upto);
            }
            Err(error) => {
                assert!(self.faults, "log {log}: {error} without any fault");
                self.failed = true;
            }
        }
    }

    fn truncate(&mut self, log: usize, upto: u64) {
        let model = &mut self.logs[log];
        match self.rig.submit(self.handles[log].unwrap(), LogOp::Truncate(upto)) {
            Ok(op) => {
                model.first_asked = model.first_asked.max(upto);
                self.under_way.insert(op.0, (log, Asked::Truncate));
            }
            Err(error) => {
                assert!(self.faults, "log {log}: {error} without any fault");
                self.failed = true;
            }
        }
    }

    /// An operation on a cursor, waited for.
    fn cursor(&mut self, h: Handle, what: LogOp) -> Result<Outcome<Handle>, Error> {
        let op = self.rig.submit(h, what)?;
        for _ in 0..200_000 {
            if let Some(result) = self.rig.ended(op) {
                return result;
            }
            self.turn();
        }
        panic!("a read does not end");
    }

    fn seek(&mut self, h: Handle, to: u64) -> Result<u64, Error> {
        match self.cursor(h, LogOp::Seek(to))? {
            Outcome::Sought { sequence } => Ok(sequence),
            other => panic!("{other:?}"),
        }
    }

    fn read(&mut self, h: Handle) -> Result<Vec<u8>, Error> {
        match self.cursor(h, LogOp::Read { len_max: usize::MAX })? {
            Outcome::Popped(popped) => Ok(popped.sga.to_vec()),
            other => panic!("{other:?}"),
        }
    }

    /// Reads a few records somewhere, while others write.
    fn look(&mut self, log: usize) {
        let h = self.handles[log].unwrap();
        let to = self.rng.range(0..=self.logs[log].acknowledged + 2);
        let Ok(mut at) = self.seek(h, to) else { return assert!(self.faults) };
        for _ in 0..self.rng.below(20) {
            match self.read(h) {
                Ok(record) if record.is_empty() => return,
                Ok(record) => {
                    assert_eq!(Some(&record), self.logs[log].records.get(&at), "log {log}: record {at}");
                    at += 1;
                }
                Err(Error::NotFound) => {
                    return assert!(self.logs[log].first_asked > at, "log {log}: nobody truncated {at}");
                }
                Err(_) => return assert!(self.faults),
            }
        }
    }

    fn step(&mut self) {
        let log = self.rng.below(self.logs.len() as u64) as usize;
        match self.rng.below(100) {
            0..=54 => (0..=self.rng.below(4)).for_each(|_| self.append(log)),
            55..=57 if self.logs[log].acknowledged > 0 => {
                let upto = self.rng.range(self.logs[log].first..=self.logs[log].acknowledged + 1);
                self.truncate(log, upto);
            }
            58..=59 => self.look(log),
            60 => self.rig.store.hurry(self.handles[log].unwrap()),
            61..=62 => (0..self.rng.below(200)).for_each(|_| self.turn()),
            _ => (0..self.rng.below(6)).for_each(|_| self.turn()),
        }
        if self.failed {
            self.restart();
        }
    }

    /// The process dies, or the machine; then everything is looked at.
    fn restart(&mut self) {
        self.rig = Rig::over(Box::new(NoDevice), self.settings.clone());
        if self.rng.chance(0.7) {
            self.disk.cut_power();
        }
        self.under_way.clear();
        self.failed = false;
        let faults = std::mem::take(&mut self.faults);
        self.disk.change(|disk| {
            (disk.flush_errors, disk.write_errors, disk.read_errors, disk.full) = (0.0, 0.0, 0.0, 0.0);
        });
        let outside = self.rng.chance(0.3).then(|| self.look_from_outside());
        self.rig = Rig::over(Box::new(self.disk.device()), self.settings.clone());
        self.open();
        (0..self.logs.len()).for_each(|log| self.verify(log));
        let inside: Vec<(u64, u64)> = self.logs.iter().map(|model| (model.first, model.next)).collect();
        assert!(outside.is_none_or(|outside| outside == inside), "the inspector and the store agree on what there is");
        self.faults = faults;
    }

    /// The first record of each log and the one behind its last, as the inspector finds them.
    fn look_from_outside(&self) -> Vec<(u64, u64)> {
        let contents = self.disk.contents();
        let mut bytes = &contents[..];
        let found = inspect(&mut bytes).unwrap();
        let mut of = |log: usize| {
            let info = found.logs.iter().find(|info| info.descriptor.name == Run::name(log)).expect("it is there");
            let verdict = read_log(&mut bytes, &found.layout, &info.descriptor, |_| {}).unwrap();
            assert_eq!(verdict.lost, [], "log {log}");
            (verdict.first, verdict.next)
        };
        (0..self.logs.len()).map(&mut of).collect()
    }

    fn verify(&mut self, log: usize) {
        let h = self.handles[log].unwrap();
        let first = self.seek(h, 0).unwrap_or_else(|error| panic!("log {log}: {error} {:?}", self.rig.store));
        let end = self.seek(h, u64::MAX).unwrap();
        let model = &self.logs[log];
        assert!(
            (model.first..=model.first_asked).contains(&first),
            "log {log}: begins at {first}, not {}",
            model.first
        );
        assert!(
            end > model.acknowledged,
            "log {log}: {} was acknowledged, and it ends before {end}",
            model.acknowledged
        );
        assert!(end <= model.next, "log {log}: it ends before {end}, and {} was next", model.next);
        assert_eq!(self.seek(h, 0), Ok(first));
        for sequence in first..end {
            let record = self.read(h).unwrap_or_else(|error| panic!("log {log}: record {sequence}: {error}"));
            let right = self.logs[log].records.get(&sequence) == Some(&record);
            assert!(right, "log {log}: record {sequence} is another");
        }
        assert_eq!(self.read(h), Ok(Vec::new()), "log {log}: the end");
        let model = &mut self.logs[log];
        (model.acknowledged, model.next, model.first, model.first_asked) = (end - 1, end, first, first);
        model.records.retain(|&sequence, _| (first..end).contains(&sequence));
    }

    fn settle(&mut self) {
        for _ in 0..100_000 {
            if self.under_way.is_empty() {
                return;
            }
            self.turn();
        }
        panic!("{} operations do not end: {:?}", self.under_way.len(), self.rig.store);
    }
}

/// Stands for the disk while nobody uses it.
struct NoDevice;

impl pdpix::BlockDevice for NoDevice {
    fn geometry(&self) -> pdpix::Geometry {
        DiskSettings::new(0).geometry
    }
    fn submit(&mut self, _: OpId, what: pdpix::BlockOp) -> Result<(), (Error, pdpix::BlockOp)> {
        Err((Error::Io, what))
    }
    fn poll(&mut self, _: pdpix::Instant, _: usize, _: &mut Vec<pdpix::BlockDone>) {}
    fn flush_submissions(&mut self, _: pdpix::Instant) {}
    fn arm(&mut self, _: pdpix::Instant) -> pdpix::Wake {
        pdpix::Wake { deadline: None, on: pdpix::WakeOn::Nothing }
    }
}

fn sweep(test: &str, seeds: u64, body: impl Fn(u64)) {
    let variable = |name: &str| std::env::var(name).ok();
    let one = variable("MARGAY_SEED").map(|seed| {
        let hex = seed.strip_prefix("0x").map(|hex| u64::from_str_radix(hex, 16));
        hex.unwrap_or_else(|| seed.parse()).expect("MARGAY_SEED is a number")
    });
    let count = variable("MARGAY_SEEDS").map_or(seeds, |count| count.parse().expect("MARGAY_SEEDS is a number"));
    let all = one.map_or(1..count + 1, |seed| seed..seed + 1);
    for seed in all {
        if let Err(panic) = catch_unwind(AssertUnwindSafe(|| body(seed))) {
            eprintln!("to make this again: MARGAY_SEED={seed:#x} cargo test -p libos-journal --test sweep {test}");
            resume_unwind(panic);
        }
    }
}

#[test]
fn sweep_power_cuts_and_kills_lose_nothing_that_was_acknowledged() {
    sweep("sweep_power_cuts_and_kills_lose_nothing_that_was_acknowledged", SEEDS, |seed| {
        let mut run = Run::new(seed, false);
        let mut cuts = 0;
        for _ in 0..run.rng.range(100..=300) {
            run.step();
            if run.rng.chance(0.03) {
                run.restart();
                cuts += 1;
            }
        }
        run.settle();
        run.restart();
        assert_eq!(run.disk.counters().errors, 0);
        assert!(cuts < 100);
    });
}

#[test]
fn sweep_errors_of_the_disk_fail_the_log_and_lose_nothing_that_was_acknowledged() {
    sweep("sweep_errors_of_the_disk_fail_the_log_and_lose_nothing_that_was_acknowledged", SEEDS, |seed| {
        let mut run = Run::new(seed, true);
        for _ in 0..run.rng.range(100..=300) {
            let what = run.rng.below(5);
            run.disk.change(|disk| {
                (disk.flush_errors, disk.write_errors, disk.read_errors, disk.full) = (0.0, 0.0, 0.0, 0.0);
                match what {
                    0 => disk.flush_errors = 0.05,
                    1 => disk.write_errors = 0.02,
                    2 => disk.read_errors = 0.02,
                    3 => disk.full = 0.02,
                    _ => {}
                }
            });
            run.step();
            if run.failed || run.rng.chance(0.03) {
                run.restart();
            }
        }
    });
}

/// A device of seven extents, of which the logs want more than there are: what one gives up another takes at once.
#[test]
fn sweep_a_full_device_reuses_nothing_too_early() {
    sweep("sweep_a_full_device_reuses_nothing_too_early", SEEDS, |seed| {
        let size = 4096 + 4 * 2 * 4096 + 7 * 65536 + 4096;
        let mut run = Run::on(size, Rng::new(seed), seed, false);
        run.fixed = Some([3000, 8000, 15_000][run.rng.below(3) as usize]);
        for _ in 0..run.rng.range(100..=400) {
            let log = run.rng.below(run.logs.len() as u64) as usize;
            (0..=run.rng.below(6)).for_each(|_| run.append(log));
            if run.rng.chance(0.2) {
                let upto = run.logs[log].acknowledged + 1 - run.rng.below(2).min(run.logs[log].acknowledged);
                run.truncate(log, upto.max(run.logs[log].first));
            }
            (0..run.rng.below(12)).for_each(|_| run.turn());
            if run.rng.chance(0.04) {
                run.restart();
            }
        }
        run.settle();
        run.restart();
    });
}

/// One place that rots, or one write that goes elsewhere, when everything else is in order: whatever is read is right, or an
/// error; nothing that was acknowledged is missing in silence.
#[test]
fn sweep_damage_is_told_and_never_read() {
    let told = std::cell::Cell::new(0);
    sweep("sweep_damage_is_told_and_never_read", SEEDS, |seed| {
        let mut run = Run::new(seed, false);
        (0..run.rng.range(50..=150)).for_each(|_| run.step());
        run.settle();
        let size = run.disk.contents().len() as u64;
        let misdirects = run.rng.chance(0.5);
        if misdirects {
            run.faults = true;
            run.disk.change(|disk| disk.misdirected = 1.0);
            let log = run.rng.below(run.logs.len() as u64) as usize;
            run.append(log);
            while run.disk.counters().misdirected == 0 {
                run.turn();
            }
            run.disk.change(|disk| disk.misdirected = 0.0);
            run.settle();
        }
        // Quiet for so long that the end is noted.
        let until = run.rig.now + Duration::from_millis(300);
        while run.rig.now < until {
            run.turn();
        }
        if !misdirects {
            let at = run.rng.below(size / 512) * 512;
            let (len, fill) = (512 << run.rng.below(4), run.rng.next_u64() as u8);
            run.disk.damage(at, |bytes| bytes.iter_mut().take(len).for_each(|byte| *byte ^= fill | 1));
        }
        run.rig = Rig::over(Box::new(NoDevice), run.settings.clone());
        run.disk.cut_power();
        run.under_way.clear();
        let contents = run.disk.contents();
        let inspected = inspect(&mut &contents[..]);
        run.rig = Rig::over(Box::new(run.disk.device()), run.settings.clone());
        run.faults = true;
        for log in 0..run.logs.len() {
            let h = run.rig.open(&Run::name(log), OpenMode::Existing);
            match h.and_then(|h| Ok((h, run.seek(h, 0)?, run.seek(h, u64::MAX)?))) {
                Err(Error::Corrupt) => told.set(told.get() + 1),
                Err(error) => panic!("log {log}: {error}"),
                Ok((h, first, end)) => {
                    assert_eq!(run.seek(h, 0), Ok(first));
                    for sequence in first..end {
                        match run.read(h) {
                            Err(Error::Corrupt) => {
                                let damage = run.rig.store.damage(h).expect("it knows where");
                                assert_eq!(damage.sequence, sequence);
                                assert!(damage.offset < size);
                                let found = inspected.as_ref().unwrap();
                                let is_it = |name: &str| name == Run::name(log);
                                let info = found.logs.iter().find(|info| is_it(&info.descriptor.name)).unwrap();
                                let records = &run.logs[log].records;
                                let verdict = read_log(&mut &contents[..], &found.layout, &info.descriptor, |record| {
                                    assert_eq!(
                                        Some(record.payload),
                                        records.get(&record.header.sequence).map(|r| &r[..])
                                    );
                                });
                                let lost = verdict.unwrap().lost;
                                assert_eq!(lost.first().map(|loss| loss.sequence), Some(sequence), "{lost:?}");
                                told.set(told.get() + 1);
                                break;
                            }
                            read => assert_eq!(
                                read.as_ref(),
                                Ok(&run.logs[log].records[&sequence]),
                                "log {log}: {sequence}"
                            ),
                        }
                    }
                    let model = &run.logs[log];
                    let read = run.rig.store.damage(h);
                    assert!(first <= model.first_asked);
                    assert!(end > model.acknowledged || read.is_some(), "log {log}: lost {end}.. in silence");
                }
            }
        }
    });
    assert!(told.get() > 0 || std::env::var("MARGAY_SEED").is_ok(), "no damage was met at all");
}

#[test]
fn a_seed_is_one_course_of_events() {
    let image = |seed| {
        let mut run = Run::new(seed, false);
        (0..200).for_each(|_| run.step());
        (run.disk.contents(), run.disk.counters(), run.rig.now)
    };
    assert!(image(5) == image(5));
    assert!(image(5) != image(6));
    let _ = heap();
}
