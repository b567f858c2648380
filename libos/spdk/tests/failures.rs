//! A device that goes, or does not answer: EIO for everything, and in time.

mod nvmf;

use std::time::{Duration, Instant as Time};

use libos_runtime::{Clock, KernelClock};
use libos_spdk::{DiskSettings, SpdkDisk, open};
use nvmf::Nvmf;
use pdpix::block::{BlockDone, BlockOp};
use pdpix::{BlockDevice, Error, Heap, OpId, Sga, WakeOn};

const TIMEOUT: Duration = Duration::from_secs(2);

fn settings() -> DiskSettings {
    DiskSettings { timeout: TIMEOUT, ..DiskSettings::default() }
}

fn write(heap: &Heap, lba: u64) -> BlockOp {
    let mut block = heap.alloc_aligned(512, 512).unwrap();
    block.resize(512, lba as u8);
    BlockOp::Write { lba, from: Sga::from(block.freeze()), forced: false }
}

fn read(heap: &Heap, lba: u64) -> BlockOp {
    BlockOp::Read { lba, into: heap.alloc_aligned(512, 512).unwrap() }
}

/// Keeps `depth` operations under way until one fails; then ends all. Gives how many had succeeded, and all ends since.
fn use_until_it_fails(disk: &mut SpdkDisk, heap: &Heap, mut on_round: impl FnMut(u64)) -> (u64, Vec<BlockDone>) {
    let (mut next, mut good, mut failed, mut done) = (0u64, 0, Vec::new(), Vec::new());
    let mut under_way = 0;
    let begun = Time::now();
    loop {
        while under_way < 32 && failed.is_empty() {
            let lba = next % 1000;
            let what = if next % 2 == 0 { write(heap, lba) } else { read(heap, lba) };
            disk.submit(OpId(next), what).unwrap();
            (next, under_way) = (next + 1, under_way + 1);
        }
        disk.flush_submissions(KernelClock.now());
        disk.poll(KernelClock.now(), 16, &mut done);
        for end in done.drain(..) {
            under_way -= 1;
            if end.result.is_ok() { good += 1 } else { failed.push(end) }
        }
        on_round(good);
        if under_way == 0 && !failed.is_empty() {
            return (good, failed);
        }
        assert!(begun.elapsed() < Duration::from_secs(40), "{under_way} are still under way: {disk:?}");
    }
}

fn check_failed(disk: &mut SpdkDisk, heap: &Heap, ends: &[BlockDone]) {
    assert!(ends.iter().all(|end| end.result == Err(Error::Io)), "{ends:?}");
    assert!(ends.iter().filter_map(|end| end.read.as_ref()).all(|read| read.is_empty() && read.capacity() == 512));
    // And so does all that comes later, at once; with nothing under way there is nothing to be woken for.
    for (number, what) in [write(heap, 1), read(heap, 2), BlockOp::Flush].into_iter().enumerate() {
        disk.submit(OpId(1 << 40 | number as u64), what).unwrap();
    }
    let mut done = Vec::new();
    disk.poll(KernelClock.now(), 16, &mut done);
    assert_eq!(done.iter().map(|end| end.result).collect::<Vec<_>>(), [Err(Error::Io); 3]);
    assert_eq!(disk.arm(KernelClock.now()).on, WakeOn::Nothing);
}

#[test]
fn a_target_that_is_killed_is_an_error_at_once() {
    let (env, mut target) = match nvmf::env().and_then(|env| Ok((env, Nvmf::start()?))) {
        Err(why) => return println!("SKIP spdk_killed: {why}"),
        Ok(both) => both,
    };
    let heap = nvmf::heap(env);
    let before = heap.stats().pinned;
    let mut disk = open(env, &target.target(1), &settings(), &heap).unwrap().device;
    let mut killed = None;
    let (good, ends) = use_until_it_fails(&mut disk, &heap, |good| {
        if good > 500 && killed.is_none() {
            target.kill();
            killed = Some(Time::now());
        }
    });
    let took = killed.expect("it failed before it was killed").elapsed();
    assert!(good > 500 && took < TIMEOUT, "{good} were good, and it took {took:?}");
    check_failed(&mut disk, &heap, &ends);
    drop((disk, ends));
    assert_eq!(heap.stats().pinned, before, "memory was kept");
    println!("{good} good, EIO {took:?} after the kill");
}

#[test]
fn a_target_that_does_not_answer_is_an_error_in_time() {
    let (env, target) = match nvmf::env().and_then(|env| Ok((env, Nvmf::start()?))) {
        Err(why) => return println!("SKIP spdk_frozen: {why}"),
        Ok(both) => both,
    };
    let heap = nvmf::heap(env);
    let mut disk = open(env, &target.target(1), &settings(), &heap).unwrap().device;
    let mut frozen = None;
    let (_, ends) = use_until_it_fails(&mut disk, &heap, |good| {
        if good > 500 && frozen.is_none() {
            target.freeze();
            frozen = Some(Time::now());
        }
    });
    let took = frozen.expect("it failed before it was frozen").elapsed();
    assert!(took >= TIMEOUT / 2 && took < TIMEOUT * 2, "it took {took:?}");
    check_failed(&mut disk, &heap, &ends);
    let begun = Time::now();
    drop(disk);
    assert!(begun.elapsed() < TIMEOUT * 2, "dropping it took {:?}", begun.elapsed());
    println!("EIO after {took:?}; closed in {:?}", begun.elapsed());
}

#[test]
fn a_core_that_was_stopped_does_not_give_its_device_up() {
    let (env, target) = match nvmf::env().and_then(|env| Ok((env, Nvmf::start()?))) {
        Err(why) => return println!("SKIP spdk_stopped: {why}"),
        Ok(both) => both,
    };
    let heap = nvmf::heap(env);
    let mut disk = open(env, &target.target(1), &settings(), &heap).unwrap().device;
    let (begun, mut done) = (KernelClock.now(), Vec::new());
    for number in 0..8 {
        disk.submit(OpId(number), if number % 2 == 0 { write(&heap, number) } else { read(&heap, number) }).unwrap();
    }
    // They were seen under way, and then the core, or the machine, stood still for an hour; the target has answered meanwhile.
    disk.flush_submissions(begun);
    disk.poll(begun, 0, &mut done);
    std::thread::sleep(Duration::from_millis(200));
    let later = begun + Duration::from_secs(3600);
    let waited = Time::now();
    while done.len() < 8 {
        disk.poll(later, 1, &mut done);
        assert!(waited.elapsed() < 5 * TIMEOUT, "{disk:?}");
    }
    assert!(done.iter().all(|end| end.result == Ok(())), "{done:?}");
}

#[test]
fn what_is_not_there_is_refused_with_a_sentence() {
    let (env, target) = match nvmf::env().and_then(|env| Ok((env, Nvmf::start()?))) {
        Err(why) => return println!("SKIP spdk_refusals: {why}"),
        Ok(both) => both,
    };
    let heap = nvmf::heap(env);
    let refused = |target| open(env, &target, &settings(), &heap).err().expect("it is not there").to_string();
    let namespace = refused(target.target(99));
    assert!(namespace.contains("it has no namespace 99"), "{namespace}");
    let nobody = refused(libos_spdk::Target::parse("tcp://127.0.0.1:1/nqn.2016-06.io.spdk:none", 0).unwrap());
    assert!(nobody.contains("tcp://127.0.0.1:1/") && nobody.contains("cannot attach"), "{nobody}");
    // And the one that is there is opened all the same.
    assert!(open(env, &target.target(2), &settings(), &heap).is_ok());
}

#[test]
fn memory_that_the_device_does_not_reach_is_found_out() {
    let Ok(address) = std::env::var("MARGAY_TEST_SPDK_PCI") else {
        return println!("SKIP spdk_pci_memory: MARGAY_TEST_SPDK_PCI names no NVMe controller");
    };
    let env = nvmf::env().unwrap();
    let target = libos_spdk::Target::parse(&address, 0).unwrap();
    // Ordinary pages, which nobody has told SPDK of.
    let foreign = Heap::alone(16 << 20).unwrap();
    let refused = open(env, &target, &settings(), &foreign).err().expect("it is refused").to_string();
    assert!(refused.contains("it cannot reach our memory"), "{refused}");
    // And with memory of SPDK's it is opened.
    assert!(open(env, &target, &settings(), &nvmf::heap(env)).is_ok());
}

#[test]
fn a_queue_that_is_given_up_leaves_the_others_of_its_controller() {
    let Ok(address) = std::env::var("MARGAY_TEST_SPDK_PCI") else {
        return println!("SKIP spdk_pci_queues: MARGAY_TEST_SPDK_PCI names no NVMe controller");
    };
    let env = nvmf::env().unwrap();
    let target = libos_spdk::Target::parse(&address, 0).unwrap();
    let heap = nvmf::heap(env);
    let mut disk = open(env, &target, &settings(), &heap).unwrap().device;
    // Each of these gives up its queue with a read under way, which the controller ends into memory that stays.
    for _ in 0..3 {
        let hurried = DiskSettings { timeout: Duration::from_nanos(1), ..settings() };
        let refused = open(env, &target, &hurried, &heap).err().expect("nothing answers in a nanosecond").to_string();
        assert!(refused.contains("does not answer"), "{refused}");
        for number in 0..200 {
            disk.submit(OpId(number), if number % 2 == 0 { write(&heap, number) } else { read(&heap, number) })
                .unwrap();
            let (mut done, begun) = (Vec::new(), Time::now());
            while done.is_empty() {
                disk.flush_submissions(KernelClock.now());
                disk.poll(KernelClock.now(), 1, &mut done);
                assert!(begun.elapsed() < 2 * TIMEOUT, "{disk:?}");
            }
            assert_eq!(done[0].result, Ok(()), "operation {number}");
        }
    }
    // And who comes later gets one as well.
    assert!(open(env, &target, &settings(), &heap).is_ok());
}
