//! The power of a whole machine goes: `margay kv` in a guest under QEMU, with its log on an NVMe disk that a server of ours
//! keeps. With `always` everything that was acknowledged is there, with `everysec` all but the last second, and never a value
//! that nobody has written. Disks and kernels that do not flush are caught.
//!
//! While clients write, the disk's state is taken at seeded moments, between any two of its requests: what was flushed, and a
//! part of the rest by lot, torn at sectors. Each is recovered on this machine, and compared with what clients had been told by
//! that moment. At the end of each life the cut is one of the machine itself: QEMU is killed, and another guest starts from
//! what is left. `MARGAY_SEED` chooses moments and what is left, `MARGAY_CUTS=N` how many cuts there are.

mod kv_process;

use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, sync_channel};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::{Duration, Instant};

use kv_differential::generate::words;
use kv_differential::{Peer, Subject, Target, case};
use kv_process::numbers::{self, CLIENTS, Expected, Noted, Past, Writers};
use kv_process::{Form, Kv, run};
use margay_guest::disk::Disk;
use margay_guest::machine::{Machine, Plan};
use margay_guest::nbd::Server;
use pdpix::Rng;

const DISK: usize = 16 << 20;
const PORT: u16 = 6379;
const LIMIT: Duration = Duration::from_secs(120);

/// A file of our own, gone when it is dropped.
struct Place(PathBuf);

impl Place {
    fn name(name: &str) -> PathBuf {
        static NUMBER: AtomicU64 = AtomicU64::new(0);
        let number = NUMBER.fetch_add(1, Ordering::Relaxed);
        std::env::temp_dir().join(format!("margay-cut-{name}-{}-{number}", std::process::id()))
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(&self.0);
    }
}

/// What a test runs.
#[derive(Clone, Copy)]
struct Case<'a> {
    durability: &'static str,
    may_lose: Duration,
    /// What is done in the guest before the service starts.
    before: &'static str,
    /// Where its log is.
    place: &'a str,
    /// From when the service is up.
    disk_ignores_flushes: bool,
}

const ALWAYS: Case<'static> = Case {
    durability: "always",
    may_lose: Duration::ZERO,
    before: "",
    place: "--set storage.device=/dev/nvme0n1",
    disk_ignores_flushes: false,
};

/// A guest in which `margay kv` runs over this disk.
struct Rig {
    disk: Disk,
    _server: Server,
    machine: Machine,
    address: SocketAddr,
}

impl Rig {
    fn boot(mut plan: Plan, image: Vec<u8>, seed: u64, case: &Case<'_>) -> Rig {
        let disk = Disk::new(image, seed);
        let server = Server::start(Place::name("disk"), disk.clone()).expect("a server");
        if case.place.contains("sda") || case.before.contains("sda") {
            plan.scsi(&server.uri());
        } else {
            plan.nvme(&server.uri());
        }
        plan.forward(PORT).program(env!("CARGO_BIN_EXE_margay"));
        let script = format!(
            "{}\nexec margay kv --listen 0.0.0.0:{PORT} --backend epoll --cores 1 --durability {} \
             --set memory.size=96MiB {}",
            case.before, case.durability, case.place
        );
        let mut machine = plan.start(&script).expect("a machine");
        machine.await_line("listening on", LIMIT).expect("the service starts");
        let address = machine.address(PORT);
        await_loaded(address);
        disk.ignore_flushes(case.disk_ignores_flushes);
        Rig { disk, _server: server, machine, address }
    }
}

fn connect(to: SocketAddr) -> Peer {
    Peer::connect(&Target::Tcp(to))
}

/// Until it answers as one that has its data.
fn await_loaded(to: SocketAddr) {
    let deadline = Instant::now() + Duration::from_secs(30);
    while connect(to).ask(&words("PING")).is_none_or(|reply| reply.bytes() != b"PONG") {
        assert!(Instant::now() < deadline, "it loads for ever");
        thread::sleep(Duration::from_millis(10));
    }
}

/// The disk at one moment, and what was known then.
struct Cut {
    image: Vec<u8>,
    expected: Vec<Expected>,
    /// Requests that the disk had done.
    at: u64,
}

/// Of each client. A second is one of a machine that runs: while this one gives the guest no processor, its timers do not end.
fn expected(noted: &[Noted], now: Instant, case: &Case<'_>) -> Vec<Expected> {
    let mut may_lose = case.may_lose;
    if !may_lose.is_zero() {
        let recent = |&&(_, when): &&(u64, Instant)| when + Duration::from_secs(3) > now;
        let last = noted.iter().flat_map(|noted| noted.acknowledged.iter().rev().take_while(recent));
        let mut times: Vec<Instant> = last.map(|(_, when)| *when).chain([now]).collect();
        times.sort();
        may_lose += times.windows(2).map(|pair| pair[1] - pair[0]).max().unwrap_or_default();
    }
    noted.iter().map(|noted| noted.expected(now, may_lose)).collect()
}

/// Takes the disk's state again and again, whenever the one before it has been looked at.
fn take_cuts(
    disk: &Disk,
    books: Arc<Mutex<Vec<Noted>>>,
    case: Case<'_>,
    seed: u64,
) -> (Receiver<Cut>, Arc<AtomicBool>) {
    let (to, cuts) = sync_channel(1);
    let case = Case { place: "", ..case };
    let wanted = Arc::new(AtomicBool::new(true));
    let mut rng = Rng::new(seed);
    let mut next = None;
    disk.watch({
        let wanted = wanted.clone();
        move |done, medium| {
            if !wanted.load(Ordering::SeqCst) {
                next = None;
                return;
            }
            if done < *next.get_or_insert_with(|| done + rng.below(200)) {
                return;
            }
            // What is acknowledged was flushed before now, and what is on the disk was sent before now.
            let noted = books.lock().expect("the books");
            let now = Instant::now();
            let expected = expected(&noted, now, &case);
            drop(noted);
            wanted.store(false, Ordering::SeqCst);
            let _ = to.try_send(Cut { image: medium.cut(), expected, at: done });
        }
    });
    (cuts, wanted)
}

/// What is there of each client's numbers.
///
/// # Errors
/// A sentence: what is wrong.
fn check(to: SocketAddr, expected: &[Expected]) -> Result<[Past; CLIENTS], String> {
    let mut there: [Past; CLIENTS] = Default::default();
    let mut peer = connect(to);
    for index in 0..CLIENTS {
        let found = numbers::check(&mut peer, index, &expected[index]);
        let found = found.map_err(|why| format!("client {index}: {why}"))?;
        there[index] = expected[index].past.clone().then(found);
    }
    Ok(there)
}

/// Recovers what a cut has left on this machine.
///
/// # Errors
/// A sentence: it cannot be recovered, or something is missing.
fn recover(cut: &Cut) -> Result<(), String> {
    let file = Place(Place::name("image"));
    std::fs::write(&file.0, &cut.image).expect("a file");
    let path = file.0.to_str().expect("a path that is text");
    let mut verify = std::process::Command::new(env!("CARGO_BIN_EXE_margay"));
    let (code, says, errors) = run(verify.args(["journal", "verify", path]), Duration::from_secs(20));
    if code != Some(0) {
        return Err(format!("journal verify ends with {code:?}: {says}{errors}"));
    }
    let device = format!("storage.device={path}");
    let size = format!("storage.size={}MiB", DISK >> 20);
    let arguments = ["--durability", "always", "--set", &device, "--set", &size, "--set", "memory.size=96MiB"];
    let kv = Kv::start(&Form { backend: "epoll", cores: 1 }, &arguments);
    await_loaded(kv.address);
    check(kv.address, &cut.expected).map(|_| ())
}

const FORCED: &str = "--set storage.device=/dev/sda --set storage.flush=dsync --set storage.discard=true";

/// What came of a life.
struct Life {
    /// The disk after the machine has lost its power.
    image: Vec<u8>,
    expected: Vec<Expected>,
    acknowledged: usize,
    requests: u64,
    flushes: u64,
}

/// Clients write, and the disk is looked at so many times; then the power goes.
///
/// # Errors
/// Which cut, and what was wrong after it.
fn live(
    rig: Rig,
    state: &[Past; CLIENTS],
    cuts: usize,
    seed: u64,
    case: &Case<'_>,
    mut look: impl FnMut(Cut) -> Result<(), String>,
) -> Result<Life, String> {
    let mut rng = Rng::new(seed);
    let writers = Writers::start(state, rig.address);
    let (taken, wanted) = take_cuts(&rig.disk, writers.books(), *case, rng.next_u64());
    for number in 0..cuts {
        if rng.chance(0.2) {
            connect(rig.address).ask(&words("BGSAVE"));
        }
        let cut = match taken.recv_timeout(LIMIT) {
            Ok(cut) => cut,
            Err(RecvTimeoutError::Timeout | RecvTimeoutError::Disconnected) => {
                panic!("the disk is not asked for anything: {}", rig.machine.console())
            }
        };
        let at = cut.at;
        look(cut).map_err(|why| format!("cut {number}, after {at} requests to the disk: {why}"))?;
        wanted.store(true, Ordering::SeqCst);
    }
    rig.disk.unwatch();
    thread::sleep(Duration::from_millis(rng.below(300)));
    let gone = Instant::now();
    let image = rig.disk.cut();
    rig.machine.kill();
    let noted = writers.join();
    let (requests, flushes) = rig.disk.counts();
    Ok(Life {
        image,
        expected: expected(&noted, gone, case),
        acknowledged: noted.iter().map(|noted| noted.acknowledged.len()).sum(),
        requests,
        flushes,
    })
}

/// Two lives and a look, with as many cuts in all; the disk goes from guest to guest.
///
/// # Errors
/// Which cut, and what was wrong after it.
fn lose_power(plan: &Plan, cuts: usize, seed: u64, case: &Case<'_>) -> Result<(), String> {
    println!("MARGAY_SEED={seed:#x}");
    let begun = Instant::now();
    let mut rng = Rng::new(seed);
    let (mut image, mut state, mut life_before) = (vec![0; DISK], <[Past; CLIENTS]>::default(), None::<Life>);
    let (mut acknowledged, mut flushes, mut requests) = (0, 0, 0);
    for life in 0..3 {
        // The second one on a SCSI disk, with forced writes and with discards.
        let place = if life == 1 { FORCED } else { case.place };
        let rig = Rig::boot(plan.clone(), image, rng.next_u64(), &Case { place, ..*case });
        if let Some(before) = &life_before {
            state = check(rig.address, &before.expected)
                .map_err(|why| format!("guest {life}, after a cut of the machine before it: {why}"))?;
        }
        if life == 2 {
            break;
        }
        let this = live(rig, &state, (cuts - life).div_ceil(2) - 1, rng.next_u64(), case, |cut| recover(&cut))?;
        (acknowledged, flushes, requests) =
            (acknowledged + this.acknowledged, flushes + this.flushes, requests + this.requests);
        image = this.image.clone();
        life_before = Some(this);
    }
    assert!(acknowledged > cuts * CLIENTS, "{acknowledged} writes");
    let (durability, took) = (case.durability, begun.elapsed().as_secs());
    println!(
        "{durability}: {cuts} cuts, {acknowledged} acknowledged, {requests} requests to the disk with {flushes} flushes, {took} s"
    );
    Ok(())
}

fn cuts() -> usize {
    std::env::var("MARGAY_CUTS").ok().and_then(|cuts| cuts.parse().ok()).unwrap_or(12)
}

/// A machine, if there can be one.
fn plan(test: &str) -> Option<Plan> {
    Plan::new().map_err(|why| println!("SKIP power_cut_{test}: {why:#}")).ok()
}

#[test]
fn what_was_acknowledged_is_there_after_a_power_cut() {
    let Some(plan) = plan("always") else { return };
    lose_power(&plan, cuts(), case::first_seed(), &ALWAYS).unwrap_or_else(|why| panic!("{why}"));
}

#[test]
fn with_everysec_a_power_cut_costs_a_second_at_most() {
    let Some(plan) = plan("everysec") else { return };
    let everysec = Case { durability: "everysec", may_lose: Duration::from_secs(1), ..ALWAYS };
    lose_power(&plan, cuts(), case::first_seed() + 1, &everysec).unwrap_or_else(|why| panic!("{why}"));
}

/// A disk with a new ext4 on it, or `None`, and it was said.
fn file_system(bytes: u64) -> Option<Vec<u8>> {
    let file = Place(Place::name("ext4"));
    std::fs::File::create(&file.0).and_then(|file| file.set_len(bytes)).expect("a file");
    let path = std::env::var("PATH").unwrap_or_default() + ":/usr/sbin:/sbin";
    let mut make = std::process::Command::new("mke2fs");
    let made = make.env("PATH", path).args(["-q", "-F", "-t", "ext4"]).arg(&file.0).status();
    if !made.is_ok_and(|status| status.success()) {
        println!("SKIP power_cut_file_system: there is no mke2fs");
        return None;
    }
    Some(std::fs::read(&file.0).expect("a file"))
}

/// The log is a file on ext4. What cuts left is looked at in one guest, which has each of them as a disk.
#[test]
fn on_a_file_system_what_was_acknowledged_is_there_after_a_power_cut() {
    const LOOKS: usize = 4;
    let (Some(mut plan), Some(image)) = (plan("file_system"), file_system(40 << 20)) else { return };
    plan.module("crc32c_generic").module("ext4");
    let case = Case {
        before: "mount -t ext4 /dev/sda /mnt || exit 1",
        place: "--dir /mnt --set storage.size=16MiB",
        ..ALWAYS
    };
    for round in 0..cuts().div_ceil(12) as u64 {
        let seed = case::first_seed() + round;
        println!("MARGAY_SEED={seed:#x}");
        let rig = Rig::boot(plan.clone(), image.clone(), seed, &case);
        let mut looks = Vec::new();
        let life = live(rig, &Default::default(), LOOKS, seed, &case, |cut| {
            thread::sleep(Duration::from_millis(300));
            looks.push((cut.image, cut.expected));
            Ok(())
        });
        let life = life.expect("nothing is looked at yet");
        looks.push((life.image, life.expected));
        // One service after the other starts in the guest, each over its own disk.
        let mut plan = plan.clone();
        plan.program(env!("CARGO_BIN_EXE_margay")).memory_mib = 1024;
        let mut script = String::new();
        let mut servers = Vec::new();
        for (number, (image, _)) in looks.iter_mut().enumerate() {
            let port = PORT + number as u16;
            let disk = Disk::new(std::mem::take(image), seed);
            servers.push(Server::start(Place::name("disk"), disk).expect("a server"));
            plan.nvme(&servers[number].uri()).forward(port);
            script.push_str(&format!(
                "mkdir /mnt/{number}; mount -t ext4 /dev/nvme{number}n1 /mnt/{number} || exit 1
                margay kv --listen 0.0.0.0:{port} --backend epoll --cores 1 --durability always \
                    --set memory.size=96MiB --dir /mnt/{number} --set storage.size=16MiB &\n"
            ));
        }
        let mut machine = plan.start(&(script + "wait")).expect("a machine");
        for _ in &looks {
            machine.await_line("listening on", LIMIT).expect("the service starts");
        }
        for (number, (_, expected)) in looks.iter().enumerate() {
            let address = machine.address(PORT + number as u16);
            await_loaded(address);
            check(address, expected).unwrap_or_else(|why| panic!("seed {seed:#x}, cut {number}: {why}"));
        }
        let acknowledged = life.acknowledged;
        assert!(acknowledged > LOOKS * CLIENTS, "{acknowledged} writes");
        println!("ext4: {} cuts, {acknowledged} acknowledged, {} flushes", looks.len(), life.flushes);
    }
}

/// The disk says that it flushed, and did not.
#[test]
fn a_disk_that_ignores_flushes_is_caught() {
    let Some(plan) = plan("lying_disk") else { return };
    let case = Case { disk_ignores_flushes: true, ..ALWAYS };
    let caught = lose_power(&plan, 12, case::first_seed(), &case).expect_err("nothing was lost");
    println!("caught: {caught}");
    assert!(caught.contains("acknowledged") || caught.contains("journal verify"), "{caught}");
}

/// The guest's kernel is told that the disk has no cache, so it leaves flushes out, whoever asks for them.
#[test]
fn a_machine_that_leaves_flushes_out_is_caught() {
    let Some(plan) = plan("lying_kernel") else { return };
    let case = Case { before: "echo 'write through' > /sys/block/nvme0n1/queue/write_cache", ..ALWAYS };
    let caught = lose_power(&plan, 12, case::first_seed(), &case).expect_err("nothing was lost");
    println!("caught: {caught}");
    assert!(caught.contains("acknowledged") || caught.contains("journal verify"), "{caught}");
}
