//! SPDK's own target, as a process: NVMe over TCP on the loopback interface, over memory.

#![allow(dead_code, reason = "each test uses a part of it")]

use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::os::unix::net::UnixStream;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use libos_mem::{Plan, Reserves, Source};
use libos_spdk::{Env, EnvSettings, Target};
use pdpix::Heap;

/// SPDK's libraries, if somebody says where they are.
pub fn library() -> Option<PathBuf> {
    std::env::var_os("MARGAY_SPDK_LIBRARY").map(PathBuf::from)
}

/// SPDK in this process, or why there is none.
pub fn env() -> Result<Env, String> {
    // With a controller on the bus these tests run in a small guest, one after the other.
    let pci = std::env::var_os("MARGAY_TEST_SPDK_PCI").is_some();
    let memory = if pci { 64 << 20 } else { 640 << 20 };
    let settings = EnvSettings { library: library(), memory, pci, ..EnvSettings::default() };
    Env::start(&settings).map_err(|error| error.to_string())
}

/// A heap in SPDK's memory.
pub fn heap(env: Env) -> Heap {
    let plan = Plan { heaps: 1, heap_size: 32 << 20, reserves: Reserves::usual(32 << 20), source: Source::External };
    env.reserve(plan).unwrap().heap(0).unwrap()
}

/// Blocks of a namespace: 8 MiB.
pub const BLOCKS: u32 = 16_384;
/// One for each test that runs in a process.
const NAMESPACES: u32 = 24;
/// And one that says to write 2 MiB whole when power fails.
pub const ATOMIC: u32 = NAMESPACES + 1;
pub const NQN: &str = "nqn.2016-06.io.spdk:margay-test";

/// A target that runs.
pub struct Nvmf {
    child: Child,
    pub port: u16,
    folder: PathBuf,
}

impl Nvmf {
    /// Starts one, if there is a program to start.
    pub fn start() -> Result<Nvmf, String> {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let program = program().ok_or("there is no nvmf_tgt beside SPDK's libraries or in the path")?;
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let folder = PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join(format!("nvmf-{}-{number}", std::process::id()));
        std::fs::create_dir_all(&folder).unwrap();
        // Free now; nobody else is likely to take it in the second that the target needs.
        let port = TcpListener::bind("127.0.0.1:0").and_then(|it| it.local_addr()).unwrap().port();
        std::fs::write(folder.join("target.json"), configuration(port)).unwrap();
        let child = run(&program, &folder);
        let mut target = Nvmf { child, port, folder };
        target.wait_until_up();
        Ok(target)
    }

    /// Another one in its place, after it was killed.
    pub fn restart(&mut self) {
        self.child = run(&program().expect("it was there before"), &self.folder);
        self.wait_until_up();
    }

    fn wait_until_up(&mut self) {
        let begun = Instant::now();
        while TcpStream::connect(("127.0.0.1", self.port)).is_err() {
            let log = || std::fs::read_to_string(self.folder.join("log")).unwrap_or_default();
            if let Some(status) = self.child.try_wait().unwrap() {
                panic!("nvmf_tgt ended with {status}: {}", log());
            }
            assert!(begun.elapsed() < Duration::from_secs(60), "nvmf_tgt does not listen: {}", log());
            std::thread::sleep(Duration::from_millis(50));
        }
    }

    pub fn target(&self, namespace: u32) -> Target {
        Target::parse(&format!("tcp://127.0.0.1:{}/{NQN},ns={namespace}", self.port), 0).unwrap()
    }

    pub fn kill(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }

    /// Calls one of its methods, as scripts/rpc.py does.
    pub fn call(&self, method: &str, params: &str) {
        let mut stream = UnixStream::connect(self.folder.join("rpc")).unwrap();
        stream.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
        let call = format!(r#"{{"jsonrpc":"2.0","id":1,"method":"{method}","params":{params}}}"#);
        stream.write_all(call.as_bytes()).unwrap();
        let (mut answer, mut part) = (String::new(), [0; 4096]);
        while !answer.trim_end().ends_with('}') {
            let len = stream.read(&mut part).unwrap();
            assert!(len > 0, "{method}: {answer}");
            answer += std::str::from_utf8(&part[..len]).unwrap();
        }
        assert!(answer.contains("\"result\""), "{method}: {answer}");
    }

    /// It does not answer any more, and is there all the same.
    pub fn freeze(&self) {
        assert!(Command::new("kill").args(["-STOP", &self.child.id().to_string()]).status().unwrap().success());
    }
}

impl Drop for Nvmf {
    fn drop(&mut self) {
        self.kill();
        let _ = std::fs::remove_dir_all(&self.folder);
    }
}

fn run(program: &Path, folder: &Path) -> Child {
    let log = std::fs::File::create(folder.join("log")).unwrap();
    let mut command = Command::new(program);
    // Several may share a processor.
    command.args(["--no-huge", "-s", "512", "--no-pci", "-m", "[0]", "--disable-cpumask-locks"]);
    command.arg("-r").arg(folder.join("rpc")).arg("--json").arg(folder.join("target.json"));
    command.stdout(log.try_clone().unwrap()).stderr(log).stdin(Stdio::null());
    if let Some(library) = library() {
        command.env("LD_LIBRARY_PATH", library);
    }
    // SAFETY: one call of the system's between fork and exec.
    unsafe {
        command.pre_exec(|| {
            // Whoever kills a test kills its target, too.
            libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL);
            Ok(())
        });
    }
    command.spawn().unwrap()
}

fn program() -> Option<PathBuf> {
    let beside = library().into_iter().flat_map(|it| [it.join("../bin/nvmf_tgt"), it.join("nvmf_tgt")]);
    let path = std::env::var_os("PATH").unwrap_or_default();
    let in_path: Vec<PathBuf> = std::env::split_paths(&path).map(|folder| folder.join("nvmf_tgt")).collect();
    beside.chain(in_path).find(|path| path.exists())
}

fn configuration(port: u16) -> String {
    let disk = |number: u32| {
        let physical = if number == ATOMIC { 2 << 20 } else { 512 };
        format!(
            r#"{{"method":"bdev_malloc_create","params":{{"name":"M{number}","num_blocks":{BLOCKS},"block_size":512,"physical_block_size":{physical}}}}}"#
        )
    };
    let namespace = |number: u32| {
        format!(
            r#"{{"method":"nvmf_subsystem_add_ns","params":{{"nqn":"{NQN}","namespace":{{"nsid":{number},"bdev_name":"M{number}"}}}}}}"#
        )
    };
    let all = |what: &dyn Fn(u32) -> String| (1..=ATOMIC).map(what).collect::<Vec<_>>().join(",");
    format!(
        r#"{{"subsystems":[{{"subsystem":"iobuf","config":[{POOLS}]}},{{"subsystem":"bdev","config":[{}]}},
        {{"subsystem":"nvmf","config":[{{"method":"nvmf_create_transport","params":{{"trtype":"TCP","num_shared_buffers":63,"buf_cache_size":16}}}},
        {{"method":"nvmf_create_subsystem","params":{{"nqn":"{NQN}","allow_any_host":true,"serial_number":"MARGAY","max_namespaces":{ATOMIC}}}}},
        {},{{"method":"nvmf_subsystem_add_listener","params":{{"nqn":"{NQN}","listen_address":{{"trtype":"TCP","adrfam":"IPv4","traddr":"127.0.0.1","trsvcid":"{port}"}}}}}}]}}]}}"#,
        all(&disk),
        all(&namespace),
    )
}

/// Smaller pools than SPDK's usual ones, which take 200 MiB.
pub const POOLS: &str = r#"{"method":"iobuf_set_options","params":{"small_pool_count":1024,"large_pool_count":64}}"#;

/// One target for the tests of a process; each takes a namespace of its own.
pub fn shared() -> Result<Target, String> {
    static SHARED: OnceLock<Result<Nvmf, String>> = OnceLock::new();
    static NEXT: AtomicU32 = AtomicU32::new(1);
    let start = || {
        // It ends with the process: a thread that never ends holds it, and its death signal is that of the thread.
        let (give, given) = std::sync::mpsc::channel();
        std::thread::spawn(move || {
            let _ = give.send(Nvmf::start()); // a panic drops the sender
            loop {
                std::thread::park();
            }
        });
        given.recv().expect("nvmf_tgt is up")
    };
    let target = SHARED.get_or_init(start).as_ref().map_err(Clone::clone)?;
    let namespace = NEXT.fetch_add(1, Ordering::Relaxed);
    assert!(namespace <= NAMESPACES, "more tests than namespaces");
    Ok(target.target(namespace))
}
