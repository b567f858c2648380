//! Devices of SPDK's block layer that lie on others: what is known of the caches below them.

mod nvmf;

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant as Time};

use libos_runtime::{Clock, KernelClock};
use libos_spdk::{DiskSettings, Env, OpenError, Opened, SpdkDisk, Target, open};
use nvmf::{NQN, Nvmf, POOLS};
use pdpix::block::BlockOp;
use pdpix::{BlockDevice, Error, Heap, OpId, Sga};

/// Memory as a device.
fn malloc(name: &str, mib: u32) -> String {
    let blocks = mib * 2048;
    format!(r#"{{"method":"bdev_malloc_create","params":{{"name":"{name}","num_blocks":{blocks},"block_size":512}}}}"#)
}

fn raid(name: &str, level: &str, bases: &str, strip: u32) -> String {
    format!(
        r#"{{"method":"bdev_raid_create","params":{{"name":"{name}","raid_level":"{level}","strip_size_kb":{strip},"base_bdevs":[{bases}]}}}}"#
    )
}

/// A target's controller, whose namespaces are Nn1, Nn2, and so on. It is waited for when it is gone.
fn attach(port: u16) -> String {
    format!(
        r#"{{"method":"bdev_nvme_attach_controller","params":{{"name":"N","trtype":"TCP","adrfam":"IPv4","traddr":"127.0.0.1","trsvcid":"{port}","subnqn":"{NQN}","ctrlr_loss_timeout_sec":-1,"reconnect_delay_sec":1}}}}"#
    )
}

/// A configuration of the block layer, of these calls.
fn bdevs(calls: &[String]) -> String {
    format!(
        r#"{{"subsystems":[{{"subsystem":"iobuf","config":[{POOLS}]}},{{"subsystem":"bdev","config":[{}]}}]}}"#,
        calls.join(",")
    )
}

/// RAIDs of both kinds, a logical volume, a file, and nothing at all.
fn configuration(file: &str) -> String {
    bdevs(&[
        malloc("A", 8),
        malloc("B", 8),
        malloc("C", 8),
        malloc("D", 8),
        malloc("Store", 64),
        raid("Striped", "0", r#""A","B""#, 64),
        raid("Mirrored", "1", r#""C","D""#, 0),
        r#"{"method":"bdev_lvol_create_lvstore","params":{"bdev_name":"Store","lvs_name":"lvs","cluster_sz":1048576}}"#
            .into(),
        r#"{"method":"bdev_lvol_create","params":{"lvs_name":"lvs","lvol_name":"volume","size_in_mib":8}}"#.into(),
        format!(r#"{{"method":"bdev_aio_create","params":{{"name":"File","filename":"{file}","block_size":512}}}}"#),
        r#"{"method":"bdev_null_create","params":{"name":"Null","num_blocks":16384,"block_size":512}}"#.into(),
    ])
}

struct Layers {
    env: Env,
    heap: Heap,
    configuration: String,
    file: PathBuf,
}

impl Layers {
    fn new() -> Result<Layers, String> {
        let env = nvmf::env()?;
        let file = PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join(format!("layers-{}.disk", std::process::id()));
        std::fs::File::create(&file).unwrap().set_len(8 << 20).unwrap();
        let configuration = configuration(file.to_str().unwrap());
        Ok(Layers { env, heap: nvmf::heap(env), configuration, file })
    }

    fn open(&self, name: &str, read_only: bool) -> Result<Opened, OpenError> {
        self.open_with(name, DiskSettings { read_only, ..DiskSettings::default() })
    }

    fn open_with(&self, name: &str, settings: DiskSettings) -> Result<Opened, OpenError> {
        let settings = DiskSettings { configuration: self.configuration.clone(), ..settings };
        open(self.env, &Target::parse(&format!("bdev:{name}"), 0).unwrap(), &settings, &self.heap)
    }
}

impl Drop for Layers {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(&self.file);
    }
}

#[test]
fn what_lies_on_other_devices_is_flushed_or_refused() {
    let layers = match Layers::new() {
        Err(why) => return println!("SKIP spdk_layers: {why}"),
        Ok(layers) => layers,
    };
    // A RAID says that it has no cache, whatever is below it.
    for name in ["Striped", "File"] {
        let mut device = layers.open(name, false).unwrap().device;
        assert!(device.geometry().volatile_cache, "{name} is believed to have no cache");
        device.submit(OpId(1), BlockOp::Flush).unwrap();
        let mut done = Vec::new();
        while done.is_empty() {
            device.poll(KernelClock.now(), 1, &mut done);
        }
        assert_eq!(done[0].result, Ok(()), "{name}");
    }
    for (name, product) in [("Mirrored", "Raid Volume"), ("lvs/volume", "Logical Volume")] {
        let why = layers.open(name, false).err().expect("it cannot be flushed, and was taken").to_string();
        assert!(why.contains(product) && why.contains("flush"), "{why}");
        // To be read it is good enough.
        assert!(layers.open(name, true).is_ok(), "{name}");
    }
}

#[test]
fn what_lies_on_a_cache_that_nobody_flushes_is_refused() {
    let (env, target) = match nvmf::env().and_then(|env| Ok((env, Nvmf::start()?))) {
        Err(why) => return println!("SKIP spdk_layers_cache: {why}"),
        Ok(both) => both,
    };
    // SPDK's target says that it has a cache; and the block layer ends a flush of it without sending it.
    let lying = [
        r#"{"method":"bdev_passthru_create","params":{"base_bdev_name":"Nn1","name":"Through"}}"#.into(),
        r#"{"method":"bdev_split_create","params":{"base_bdev":"Nn2","split_count":2}}"#.into(),
        r#"{"method":"bdev_delay_create","params":{"base_bdev_name":"Nn3","name":"Slow","avg_read_latency":0,"p99_read_latency":0,"avg_write_latency":0,"p99_write_latency":0}}"#
            .into(),
        raid("Striped", "0", r#""Nn4","Nn5""#, 64),
        raid("Joined", "concat", r#""Nn6","Nn7""#, 64),
    ];
    let others = [malloc("Memory", 8), malloc("A", 8), malloc("B", 8), raid("Other", "0", r#""A","B""#, 64)];
    let configuration = bdevs(&[vec![attach(target.port)], lying.to_vec(), others.to_vec()].concat());
    let heap = nvmf::heap(env);
    let open = |name: &str, read_only| {
        let settings = DiskSettings { configuration: configuration.clone(), read_only, ..DiskSettings::default() };
        open(env, &Target::parse(&format!("bdev:{name}"), 0).unwrap(), &settings, &heap)
    };
    let products = [
        ("Through", "passthru"),
        ("Nn2p0", "Split Disk"),
        ("Slow", "delay"),
        ("Striped", "Raid Volume"),
        ("Joined", "Raid Volume"),
        // That this one lies on memory only cannot be told from the others.
        ("Other", "Raid Volume"),
    ];
    let taken: Vec<_> = products.iter().filter(|(name, _)| open(name, false).is_ok()).collect();
    assert!(taken.is_empty(), "{taken:?} were taken");
    for (name, product) in products {
        let why = open(name, false).err().expect("it was refused before").to_string();
        assert!(why.contains(product) && why.contains("does not flush the cache of Nn"), "{name}: {why}");
        assert!(open(name, true).is_ok(), "{name} to be read");
    }
    let why = open("Nn8", false).err().expect("it cannot be flushed, and was taken").to_string();
    assert!(why.contains("its controller has a cache"), "{why}");
    // What lies on nothing is as it was.
    open("Memory", false).unwrap();
}

#[test]
fn a_device_that_says_success_and_reads_nothing_is_found_out() {
    let layers = match Layers::new() {
        Err(why) => return println!("SKIP spdk_layers: {why}"),
        Ok(layers) => layers,
    };
    // SPDK's null device leaves the memory as it was: as an IOMMU that is too narrow does.
    assert!(matches!(layers.open("Null", false), Err(OpenError::WrongData(_))));
}

#[test]
fn what_somebody_else_writes_to_can_be_read() {
    let layers = match Layers::new() {
        Err(why) => return println!("SKIP spdk_layers: {why}"),
        Ok(layers) => layers,
    };
    // A part of a RAID is the RAID's.
    let why = layers.open("A", false).err().expect("the RAID has it").to_string();
    assert!(why.contains("cannot be opened"), "{why}");
    assert!(layers.open("A", true).is_ok());
}

/// How a read ends, and after how long.
fn read(disk: &mut SpdkDisk, heap: &Heap, number: u64) -> (Result<(), Error>, Duration) {
    let into = heap.alloc_aligned(512, 512).unwrap();
    end_of(disk, OpId(number), BlockOp::Read { lba: number % 1000, into })
}

fn end_of(disk: &mut SpdkDisk, op: OpId, what: BlockOp) -> (Result<(), Error>, Duration) {
    let (begun, mut done) = (Time::now(), Vec::new());
    disk.submit(op, what).unwrap();
    while done.is_empty() {
        disk.poll(KernelClock.now(), 1, &mut done);
    }
    (done.pop().unwrap().result, begun.elapsed())
}

/// A controller of the block layer's, over TCP; two cores have a namespace of it each, and one has nothing to do. When the
/// target is gone, the block layer resets the controller, for which it asks both, until there is one again.
#[test]
fn a_core_that_is_idle_does_not_hold_up_the_others() {
    let (env, mut target) = match nvmf::env().and_then(|env| Ok((env, Nvmf::start()?))) {
        Err(why) => return println!("SKIP spdk_layers_idle: {why}"),
        Ok(both) => both,
    };
    let configuration = bdevs(&[attach(target.port)]);
    // Only to be read: SPDK's target says that it has a cache, and the block layer would not flush it.
    let settings = DiskSettings { configuration, timeout: Duration::from_secs(20), read_only: true, discard: true };
    let why = open(
        env,
        &Target::parse("bdev:Nn3", 0).unwrap(),
        &DiskSettings { read_only: false, ..settings.clone() },
        &nvmf::heap(env),
    );
    assert!(why.err().expect("it cannot be flushed, and was taken").to_string().contains("its controller has a cache"));
    let stop = Arc::new(AtomicBool::new(false));
    let idle = std::thread::spawn({
        let (settings, stop) = (settings.clone(), stop.clone());
        move || {
            let heap = nvmf::heap(env);
            let mut disk = open(env, &Target::parse("bdev:Nn2", 1).unwrap(), &settings, &heap).unwrap().device;
            // As a core that sleeps: it polls when it said that it would, and not else.
            let mut due = None;
            while !stop.load(Ordering::SeqCst) {
                std::thread::sleep(Duration::from_millis(10));
                let now = KernelClock.now();
                if due.is_some_and(|due| now >= due) {
                    disk.poll(now, 16, &mut Vec::new());
                }
                due = due.filter(|due| now < *due).or(disk.arm(now).deadline);
            }
        }
    });
    let heap = nvmf::heap(env);
    let mut disk = open(env, &Target::parse("bdev:Nn1", 0).unwrap(), &settings, &heap).unwrap().device;
    assert!((0..200).all(|number| read(&mut disk, &heap, number).0 == Ok(())));
    target.kill();
    target.restart();
    let (result, took) = read(&mut disk, &heap, 200);
    assert_eq!(result, Ok(()), "after {took:?}: it waited for the core that is idle");
    stop.store(true, Ordering::SeqCst);
    idle.join().unwrap();
    println!("a read after {took:?}");
}

/// The same controller, and devices that were given up on it: their cores poll them no more, and the block layer asks them
/// all the same.
#[test]
fn a_device_that_was_given_up_does_not_hold_up_the_others() {
    let (env, mut target) = match nvmf::env().and_then(|env| Ok((env, Nvmf::start()?))) {
        Err(why) => return println!("SKIP spdk_layers_given_up: {why}"),
        Ok(both) => both,
    };
    let heap = nvmf::heap(env);
    // What was given up keeps its share of the pools until it has ended, so these are larger.
    let pools = POOLS.replace(r#""large_pool_count":64"#, r#""large_pool_count":256"#);
    let configuration = bdevs(&[attach(target.port)]).replace(POOLS, &pools);
    assert!(configuration.contains("256"));
    let open = |name: &str, timeout| {
        let settings =
            DiskSettings { configuration: configuration.clone(), timeout, read_only: true, ..DiskSettings::default() };
        open(env, &Target::parse(&format!("bdev:{name}"), 0).unwrap(), &settings, &heap)
    };
    let mut disk = open("Nn1", Duration::from_secs(20)).unwrap().device;
    // Of this one nothing is left that a core could poll.
    let why = open("Nn2", Duration::from_nanos(1)).err().expect("nothing answers in a nanosecond").to_string();
    assert!(why.contains("does not answer"), "{why}");
    assert!((0..200).all(|number| read(&mut disk, &heap, number).0 == Ok(())));
    target.kill();
    target.restart();
    let (result, took) = read(&mut disk, &heap, 200);
    assert_eq!(result, Ok(()), "after {took:?}: it waited for the one that was given up when it was opened");
    // And this one is given up with a read under way that does not end before there is another target.
    let mut late = open("Nn3", Duration::from_secs(2)).unwrap().device;
    target.freeze();
    assert_eq!(read(&mut late, &heap, 0).0, Err(Error::Io));
    target.kill();
    target.restart();
    let (result, took) = read(&mut disk, &heap, 201);
    assert_eq!(result, Ok(()), "after {took:?}: it waited for the one that was given up with a read under way");
    // Whoever opens that again has it as before.
    let mut again = open("Nn3", Duration::from_secs(20)).unwrap().device;
    assert_eq!(read(&mut again, &heap, 0).0, Ok(()));
    assert_eq!(read(&mut late, &heap, 1).0, Err(Error::Io));
}

/// A namespace is taken away from the controller, and comes again: which it can when the first is gone to the last.
#[test]
fn a_device_that_was_given_up_can_be_removed() {
    let (env, target) = match nvmf::env().and_then(|env| Ok((env, Nvmf::start()?))) {
        Err(why) => return println!("SKIP spdk_layers_removed: {why}"),
        Ok(both) => both,
    };
    let heap = nvmf::heap(env);
    let configuration = bdevs(&[attach(target.port)]);
    let open = |name: &str, timeout| {
        let settings =
            DiskSettings { configuration: configuration.clone(), timeout, read_only: true, ..DiskSettings::default() };
        open(env, &Target::parse(&format!("bdev:{name}"), 0).unwrap(), &settings, &heap)
    };
    let long = Duration::from_secs(20);
    let _disk = open("Nn1", long).unwrap();
    let why = open("Nn2", Duration::from_nanos(1)).err().expect("nothing answers in a nanosecond").to_string();
    assert!(why.contains("does not answer"), "{why}");
    target.call("nvmf_subsystem_remove_ns", &format!(r#"{{"nqn":"{NQN}","nsid":2}}"#));
    // When it is gone to the last is not seen from here. And it is not opened meanwhile: v24.09 takes two locks in one order
    // when it removes a namespace, and in the other when it gives a channel to one.
    std::thread::sleep(Duration::from_secs(2));
    assert!(open("Nn2", long).is_err(), "it was not removed");
    target.call("nvmf_subsystem_add_ns", &format!(r#"{{"nqn":"{NQN}","namespace":{{"nsid":2,"bdev_name":"M2"}}}}"#));
    std::thread::sleep(Duration::from_secs(2));
    let mut again = open("Nn2", long).unwrap().device;
    assert_eq!(read(&mut again, &heap, 0).0, Ok(()));
}

/// A write that was given up may be done late, by a retry in the block layer or by the device: over what whoever opened it
/// again has written.
#[test]
fn what_may_still_be_written_is_not_opened_again_for_writing() {
    let env = match nvmf::env() {
        Err(why) => return println!("SKIP spdk_layers_late_write: {why}"),
        Ok(env) => env,
    };
    let heap = nvmf::heap(env);
    // Of the write's six seconds the core waits for one.
    let configuration = bdevs(&[
        malloc("Base", 8),
        malloc("Other", 8),
        r#"{"method":"bdev_delay_create","params":{"base_bdev_name":"Base","name":"Slow","avg_read_latency":0,"p99_read_latency":0,"avg_write_latency":6000000,"p99_write_latency":6000000}}"#
            .into(),
    ]);
    let open = |name: &str, read_only| {
        let (configuration, timeout) = (configuration.clone(), Duration::from_secs(1));
        let settings = DiskSettings { configuration, timeout, read_only, ..DiskSettings::default() };
        open(env, &Target::parse(&format!("bdev:{name}"), 0).unwrap(), &settings, &heap)
    };
    let mut disk = open("Slow", false).unwrap().device;
    let mut block = heap.alloc_aligned(512, 512).unwrap();
    block.resize(512, 7);
    let write = BlockOp::Write { lba: 3, from: Sga::from(block.freeze()), forced: false };
    let begun = Time::now();
    assert_eq!(end_of(&mut disk, OpId(1), write).0, Err(Error::Io));
    drop(disk);
    let why = open("Slow", false).err().expect("it may still be written").to_string();
    assert!(why.contains("may still be written") && begun.elapsed() < Duration::from_secs(6), "{why}");
    assert!(open("Slow", true).is_ok() && open("Other", false).is_ok());
    // Once it has ended, it is as any other.
    let opened = loop {
        match open("Slow", false) {
            Err(why) => assert!(begun.elapsed() < Duration::from_secs(20), "{why}"),
            Ok(opened) => break opened,
        }
    };
    assert!(begun.elapsed() >= Duration::from_secs(6), "it was opened after {:?}", begun.elapsed());
    assert_eq!(read(&mut { opened.device }, &heap, 3).0, Ok(()));
}

#[test]
fn what_is_truncated_is_given_back_only_if_that_is_wanted() {
    let layers = match Layers::new() {
        Err(why) => return println!("SKIP spdk_layers: {why}"),
        Ok(layers) => layers,
    };
    for discard in [true, false] {
        let opened = layers.open_with("Striped", DiskSettings { discard, ..DiskSettings::default() });
        let mut device = opened.unwrap().device;
        assert_eq!(device.geometry().discards, discard);
        let refused = device.submit(OpId(1), BlockOp::Discard { lba: 0, block_count: 8 }).err().map(|(error, _)| error);
        assert_eq!(refused, (!discard).then_some(Error::NotSupported));
    }
}
