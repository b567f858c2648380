//! One log on SPDK's devices: memory of its block layer, and NVMe over TCP to its own target on the loopback interface, beside
//! what its own program, spdk_nvme_perf, writes there. That one sends no flushes, and the log one for each commit.
//!
//! `MARGAY_SPDK_LIBRARY` is the directory of SPDK's libraries; its programs are in `../bin`. With two processors the target has
//! one, and who is measured the other.

use std::net::{TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow, ensure};
use libos_mem::{Heap, Plan, Reserves, Source};
use libos_spdk::{DiskSettings, Env, EnvSettings, Target, open};
use margay_bench::disk::{LogFigures, RECORD, log_on_device};
use margay_bench::sampling::median;

use crate::child::tethered;
use crate::{result, skip};

const ROUNDS: usize = 5;
/// Blocks of 512 B of each device: 128 MiB.
const BLOCKS: u64 = 262_144;
const NQN: &str = "nqn.2016-06.io.spdk:margay-bench";
const POOLS: &str = r#"{"method":"iobuf_set_options","params":{"small_pool_count":1024,"large_pool_count":64}}"#;

pub fn run() -> Result<()> {
    let Some(library) = std::env::var_os("MARGAY_SPDK_LIBRARY").map(PathBuf::from) else {
        skip("log_spdk", "MARGAY_SPDK_LIBRARY names no SPDK");
        return Ok(());
    };
    let heap_size = 128 << 20;
    let settings =
        EnvSettings { library: Some(library.clone()), memory: heap_size + (384 << 20), ..EnvSettings::default() };
    let env = match Env::start(&settings) {
        Ok(env) => env,
        Err(why) => {
            skip("log_spdk", &why.to_string());
            return Ok(());
        }
    };
    let plan = Plan { heaps: 1, heap_size, reserves: Reserves::usual(heap_size), source: Source::External };
    let heap = env.reserve(plan)?.heap(0).context("a heap")?;
    append("log_spdk_malloc", env, &Target::parse("bdev:Log", 0)?, &heap, 20_000)?;
    let Some(target) = Tcp::start(&library)? else {
        skip("log_spdk_tcp", "there is no nvmf_tgt beside SPDK's libraries");
        return Ok(());
    };
    // As spdk_nvme_perf is: the target spins on the first processor.
    let all = rustix::thread::sched_getaffinity(None)?;
    if all.is_set(1) {
        let mut second = rustix::thread::CpuSet::new();
        second.set(1);
        rustix::thread::sched_setaffinity(None, &second)?;
    }
    append("log_spdk_tcp", env, &target.device()?, &heap, 5000)?;
    rustix::thread::sched_setaffinity(None, &all)?;
    let perf = library.join("../bin/spdk_nvme_perf");
    if !perf.exists() {
        skip("log_spdk_perf", "there is no spdk_nvme_perf beside SPDK's libraries");
        return Ok(());
    }
    for depth in [32, 1] {
        let rates: Result<Vec<f64>> = (0..ROUNDS).map(|_| target.perf(&perf, &library, depth)).collect();
        result(&format!("log_spdk_perf_depth_{depth}"), median(rates?), "writes/s");
    }
    Ok(())
}

/// A new log each time, so that the device is opened anew, too.
fn append(name: &str, env: Env, target: &Target, heap: &Heap, count: u64) -> Result<()> {
    let configuration = format!(
        r#"{{"subsystems":[{{"subsystem":"iobuf","config":[{POOLS}]}},{{"subsystem":"bdev","config":[{}]}}]}}"#,
        malloc("Log")
    );
    let settings = DiskSettings { configuration, discard: false, ..DiskSettings::default() };
    for (depth, count) in [(32, count), (1, count / 4)] {
        let mut figures: Vec<LogFigures> = Vec::new();
        for _ in 0..ROUNDS {
            let mut device = open(env, target, &settings, heap)?.device;
            wipe(&mut device, heap)?;
            figures.push(log_on_device(Box::new(device), heap, depth, count).map_err(|why| anyhow!(why))?);
        }
        let of = |what: fn(&LogFigures) -> f64| median(figures.iter().map(what));
        result(&format!("{name}_depth_{depth}_rate"), of(|it| it.rate), "records/s");
        result(&format!("{name}_depth_{depth}_p50"), of(|it| it.p50_us), "us");
        result(&format!("{name}_depth_{depth}_p99"), of(|it| it.p99_us), "us");
    }
    Ok(())
}

/// Zeros where a store begins, and where its second superblock is, at the end.
fn wipe(device: &mut dyn pdpix::BlockDevice, heap: &Heap) -> Result<()> {
    use libos_runtime::{Clock, KernelClock};
    use pdpix::block::BlockOp;
    let mut done = Vec::new();
    let (geometry, len) = (device.geometry(), 64 << 10);
    let blocks = len as u64 / u64::from(geometry.block_size);
    for lba in (0..32).map(|number| number * blocks).chain([geometry.block_count - blocks]) {
        let mut zeros = heap.alloc_aligned(len, 4096)?;
        zeros.resize(len, 0);
        let op = BlockOp::Write { lba, from: pdpix::Sga::from(zeros.freeze()), forced: false };
        device.submit(pdpix::OpId(lba), op).map_err(|(error, _)| anyhow!(error.text()))?;
        while done.is_empty() {
            device.flush_submissions(KernelClock.now());
            device.poll(KernelClock.now(), 1, &mut done);
        }
        ensure!(done.pop().is_some_and(|done| done.result.is_ok()), "it cannot be written");
    }
    Ok(())
}

fn malloc(name: &str) -> String {
    format!(r#"{{"method":"bdev_malloc_create","params":{{"name":"{name}","num_blocks":{BLOCKS},"block_size":512}}}}"#)
}

/// SPDK's target, with one namespace in its memory; ended when dropped.
struct Tcp {
    child: Child,
    port: u16,
    folder: PathBuf,
}

impl Tcp {
    fn start(library: &Path) -> Result<Option<Tcp>> {
        let program = library.join("../bin/nvmf_tgt");
        if !program.exists() {
            return Ok(None);
        }
        let folder = std::env::temp_dir().join(format!("margay-bench-nvmf-{}", std::process::id()));
        std::fs::create_dir_all(&folder)?;
        let port = TcpListener::bind("127.0.0.1:0")?.local_addr()?.port();
        let configuration = format!(
            r#"{{"subsystems":[{{"subsystem":"iobuf","config":[{POOLS}]}},{{"subsystem":"bdev","config":[{}]}},{{"subsystem":"nvmf","config":[
            {{"method":"nvmf_create_transport","params":{{"trtype":"TCP","num_shared_buffers":255,"buf_cache_size":32}}}},
            {{"method":"nvmf_create_subsystem","params":{{"nqn":"{NQN}","allow_any_host":true,"serial_number":"MARGAY"}}}},
            {{"method":"nvmf_subsystem_add_ns","params":{{"nqn":"{NQN}","namespace":{{"nsid":1,"bdev_name":"Far"}}}}}},
            {{"method":"nvmf_subsystem_add_listener","params":{{"nqn":"{NQN}","listen_address":{{"trtype":"TCP","adrfam":"IPv4","traddr":"127.0.0.1","trsvcid":"{port}"}}}}}}]}}]}}"#,
            malloc("Far")
        );
        std::fs::write(folder.join("target.json"), configuration)?;
        let mut command = tethered(&program);
        command.args(["--no-huge", "-s", "512", "--no-pci", "-m", "[0]", "--disable-cpumask-locks"]);
        command.arg("-r").arg(folder.join("rpc")).arg("--json").arg(folder.join("target.json"));
        command.env("LD_LIBRARY_PATH", library).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        let mut target = Tcp { child: command.spawn()?, port, folder };
        let begun = Instant::now();
        while TcpStream::connect(("127.0.0.1", port)).is_err() {
            let status = target.child.try_wait()?;
            ensure!(
                status.is_none() && begun.elapsed() < Duration::from_secs(60),
                "nvmf_tgt does not listen: {status:?}"
            );
            std::thread::sleep(Duration::from_millis(50));
        }
        Ok(Some(target))
    }

    fn device(&self) -> Result<Target> {
        Ok(Target::parse(&format!("tcp://127.0.0.1:{}/{NQN}", self.port), 0)?)
    }

    /// Writes a second of SPDK's own program.
    fn perf(&self, program: &Path, library: &Path, depth: usize) -> Result<f64> {
        let id = format!("trtype:TCP adrfam:IPv4 traddr:127.0.0.1 trsvcid:{} subnqn:{NQN}", self.port);
        let mut command = tethered(program);
        command.args(["--no-huge", "-s", "256", "-c", "[1]", "-w", "write", "-t", "2", "-r", &id]);
        command.args(["-q", &depth.to_string(), "-o", &RECORD.to_string()]);
        let output = command.env("LD_LIBRARY_PATH", library).stdin(Stdio::null()).output()?;
        let text = String::from_utf8_lossy(&output.stdout);
        ensure!(output.status.success(), "spdk_nvme_perf failed: {}", String::from_utf8_lossy(&output.stderr));
        // Its table ends with `Total : IOPS MiB/s average min max`.
        let total = text.lines().find_map(|line| line.trim().strip_prefix("Total")).context("no total of perf's")?;
        let rate = total.trim_start_matches([' ', ':']).split_whitespace().next().context("no rate of perf's")?;
        rate.parse().with_context(|| format!("perf said {total}"))
    }
}

impl Drop for Tcp {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
        let _ = std::fs::remove_dir_all(&self.folder);
    }
}
