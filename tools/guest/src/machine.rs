//! A machine under QEMU, by emulation alone (TCG): a kernel of Debian's, a root file system in memory with what a test gives
//! it, and a script that runs there.
//!
//! Nothing of it is left when it is dropped. It takes some four seconds to start, and its clock is no measure of speed.
//! What the script writes comes line by line; how it ended is [`Ended::Script`]. Programs come with the shared libraries
//! that `ldd` names; whatever they open later must be given as a file.

use std::fs;
use std::io::{BufRead, BufReader};
use std::net::{SocketAddr, TcpListener};
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};

use crate::cpio::Archive;
use crate::kernel::Kernel;

const QEMU: &str = "qemu-system-x86_64";
const SHELL: &str = "busybox";

/// What a machine is made of.
#[derive(Clone, Debug)]
pub struct Plan {
    kernel: Kernel,
    modules: Vec<String>,
    programs: Vec<PathBuf>,
    files: Vec<(String, Vec<u8>)>,
    drives: Vec<(Bus, String)>,
    forwards: Vec<u16>,
    devices: Vec<String>,
    /// Processors.
    pub processors: usize,
    /// Memory in MiB.
    pub memory_mib: usize,
}

/// What a disk hangs on.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Bus {
    Nvme,
    Scsi,
}

/// How a guest ended.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Ended {
    /// The script did, with this code, and the machine was switched off.
    Script(i32),
    /// The machine did, without its script; the last lines of its console.
    Machine(String),
}

impl Plan {
    /// A machine with two processors, 512 MiB and no devices.
    ///
    /// # Errors
    /// A sentence: what is missing here (QEMU, busybox, a kernel of Debian's).
    pub fn new() -> Result<Plan> {
        for (program, package) in [(QEMU, "qemu-system-x86"), (SHELL, "busybox-static"), ("xz", "xz-utils")] {
            ensure!(find_program(program).is_some(), "there is no `{program}` in the path (Debian: {package})");
        }
        let kernel = Kernel::fetch().context("there is no kernel for a guest")?;
        Ok(Plan {
            kernel,
            modules: Vec::new(),
            programs: Vec::new(),
            files: Vec::new(),
            drives: Vec::new(),
            forwards: Vec::new(),
            devices: Vec::new(),
            processors: 2,
            memory_mib: 512,
        })
    }

    /// Loads a module of the kernel, after those that it depends on.
    pub fn module(&mut self, name: &str) -> &mut Plan {
        self.modules.push(name.into());
        self
    }

    /// Brings a program, to be called by its name in the script.
    pub fn program(&mut self, path: impl Into<PathBuf>) -> &mut Plan {
        self.programs.push(path.into());
        self
    }

    /// Brings a file.
    pub fn file(&mut self, path: &str, content: impl Into<Vec<u8>>) -> &mut Plan {
        self.files.push((path.into(), content.into()));
        self
    }

    /// An NVMe disk, `/dev/nvme0n1` and so on in the order of these calls. What is it: a file, or a URI that QEMU knows
    /// (`nbd+unix:///?socket=...`). It has a volatile cache, and the guest's flushes reach what is behind it.
    pub fn nvme(&mut self, what: &str) -> &mut Plan {
        self.drives.push((Bus::Nvme, what.into()));
        if self.count(Bus::Nvme) == 1 { self.module("nvme") } else { self }
    }

    /// A SCSI disk, `/dev/sda` and so on; if there are several, their order is not certain. It honours forced unit access
    /// (QEMU flushes behind such a write), which QEMU's NVMe takes for a plain write (seen in 7.2): file systems count on it, and
    /// `RWF_DSYNC` does.
    pub fn scsi(&mut self, what: &str) -> &mut Plan {
        self.drives.push((Bus::Scsi, what.into()));
        if self.count(Bus::Scsi) > 1 {
            return self;
        }
        self.devices.extend(["-device".into(), "virtio-scsi-pci,id=scsi".into()]);
        self.module("virtio_pci").module("virtio_scsi").module("sd_mod")
    }

    fn count(&self, bus: Bus) -> usize {
        self.drives.iter().filter(|(other, _)| *other == bus).count()
    }

    /// A network in which nothing is but this machine (10.0.2.15 on `eth0`) and whoever connects to a forwarded port:
    /// [`Machine::address`] says where on the loopback. May be called for several ports.
    pub fn forward(&mut self, port: u16) -> &mut Plan {
        if self.forwards.is_empty() {
            self.module("virtio_pci").module("virtio_net");
        }
        self.forwards.push(port);
        self
    }

    /// Any other words for QEMU, such as a `-netdev` and its `-device`.
    pub fn device(&mut self, words: &[&str]) -> &mut Plan {
        self.devices.extend(words.iter().map(|word| word.to_string()));
        self
    }

    /// Starts it. The script is one of busybox's shell.
    ///
    /// # Errors
    /// A file cannot be read, or QEMU does not start.
    pub fn start(&self, script: &str) -> Result<Machine> {
        let folder = Folder::new()?;
        fs::write(folder.0.join("initramfs"), self.root(script)?)?;
        // A port that is free now may be taken when QEMU comes to it.
        for attempt in 1.. {
            match self.start_once(&folder.0) {
                Ok((child, lines, addresses)) => {
                    return Ok(Machine { child, lines, addresses, folder, code: None, told: Vec::new() });
                }
                Err(why) if attempt == 5 || self.forwards.is_empty() => return Err(why),
                Err(_) => {}
            }
        }
        unreachable!("the fifth attempt is the last one")
    }

    fn root(&self, script: &str) -> Result<Vec<u8>> {
        let mut archive = Archive::new();
        for folder in ["dev", "proc", "sys", "tmp", "root", "run", "bin", "sbin", "usr/bin", "usr/sbin", "mnt"] {
            archive.folder(folder);
        }
        archive.program("/init", include_bytes!("init.sh"));
        let mut brought = Vec::new();
        let shell = find_program(SHELL).context(SHELL)?;
        add_program(&mut archive, &shell, "/bin/busybox", &mut brought)?;
        archive.link("/bin/sh", "busybox");
        for program in &self.programs {
            let name = program.file_name().context("a program without a name")?.to_string_lossy();
            add_program(&mut archive, program, &format!("/usr/local/bin/{name}"), &mut brought)?;
        }
        let mut list = String::new();
        for (name, content) in self.kernel.modules(&self.modules)? {
            archive.file(&format!("/modules/{name}.ko"), &content);
            list.push_str(&format!("{name}\n"));
        }
        archive.file("/modules/list", list.as_bytes());
        for (path, content) in &self.files {
            archive.file(path, content);
        }
        let network =
            if self.forwards.is_empty() { "" } else { "ip addr add 10.0.2.15/24 dev eth0; ip link set eth0 up\n" };
        let nvme = (0..self.count(Bus::Nvme)).map(|number| format!("nvme{number}n1"));
        let scsi = (0..self.count(Bus::Scsi)).map(|number| format!("sd{}", char::from(b'a' + number as u8)));
        let disks: String = nvme.chain(scsi).map(|name| AWAIT_DISK.replace("NAME", &name)).collect();
        archive.file("/run.sh", format!("{network}{disks}{script}\n").as_bytes());
        Ok(archive.finish())
    }

    fn start_once(&self, folder: &Path) -> Result<Started> {
        let path = |name: &str| folder.join(name).display().to_string();
        let socket = folder.join("output");
        let _ = fs::remove_file(&socket);
        let listener = UnixListener::bind(&socket)?;
        let mut qemu = Command::new(QEMU);
        qemu.args(["-nodefaults", "-no-user-config", "-display", "none", "-no-reboot", "-machine", "q35"]);
        qemu.args(["-accel", "tcg,thread=multi", "-cpu", "max"]);
        qemu.args(["-smp", &self.processors.to_string(), "-m", &self.memory_mib.to_string()]);
        qemu.arg("-kernel").arg(&self.kernel.image).args(["-initrd", &path("initramfs"), "-append", COMMAND_LINE]);
        qemu.args(["-serial", &format!("file:{}", path("console"))]);
        qemu.args(["-serial", &format!("unix:{}", path("output"))]);
        qemu.args(&self.devices);
        for (number, (bus, what)) in self.drives.iter().enumerate() {
            qemu.args(["-drive", &format!("if=none,id=disk{number},file={what},format=raw,cache=none,discard=unmap")]);
            let device = match bus {
                Bus::Nvme => format!("nvme,serial=margay{number},drive=disk{number}"),
                Bus::Scsi => format!("scsi-hd,bus=scsi.0,scsi-id={number},drive=disk{number},dpofua=on"),
            };
            qemu.args(["-device", &device]);
        }
        let mut addresses = Vec::new();
        let mut network = "user,id=net,restrict=on".to_string();
        for port in &self.forwards {
            let free = TcpListener::bind("127.0.0.1:0")?.local_addr()?;
            network.push_str(&format!(",hostfwd=tcp:{free}-10.0.2.15:{port}"));
            addresses.push((*port, free));
        }
        if !self.forwards.is_empty() {
            qemu.args(["-netdev", &network, "-device", "virtio-net-pci,netdev=net,romfile="]);
        }
        qemu.stdin(Stdio::null()).stdout(Stdio::null());
        qemu.stderr(fs::File::create(folder.join("qemu"))?);
        let mut child = qemu.spawn().context(QEMU)?;
        // It connects as soon as it has understood its arguments.
        listener.set_nonblocking(true)?;
        let deadline = Instant::now() + Duration::from_secs(20);
        let output = loop {
            match listener.accept() {
                Ok((output, _)) => break output,
                Err(_) if child.try_wait()?.is_none() && Instant::now() < deadline => {
                    std::thread::sleep(Duration::from_millis(5));
                }
                Err(_) => {
                    let _ = child.kill();
                    let _ = child.wait();
                    bail!("{QEMU}: {}", fs::read_to_string(folder.join("qemu")).unwrap_or_default().trim());
                }
            }
        };
        output.set_nonblocking(false)?;
        let (to, lines) = channel();
        std::thread::spawn(move || {
            for line in BufReader::new(output).split(b'\n').map_while(Result::ok) {
                let line = String::from_utf8_lossy(&line).trim_end_matches('\r').to_string();
                if to.send(line).is_err() {
                    break;
                }
            }
        });
        Ok((child, lines, addresses))
    }
}

/// A machine that has begun, what it writes, and where its ports are.
type Started = (Child, Receiver<String>, Vec<(u16, SocketAddr)>);

/// A disk is there a moment after its driver is.
const AWAIT_DISK: &str = "n=0; while [ ! -b /dev/NAME ] && [ $n -lt 500 ]; do usleep 10000; n=$((n+1)); done\n";

const COMMAND_LINE: &str = "console=ttyS0 quiet panic=-1 tsc=reliable no_timer_check mitigations=off audit=0 apparmor=0 \
                            cryptomgr.notests random.trust_cpu=on";

const ENDED: &str = "guest: the script ended with ";

/// A machine that runs; it is gone when this is dropped.
#[derive(Debug)]
pub struct Machine {
    child: Child,
    lines: Receiver<String>,
    addresses: Vec<(u16, SocketAddr)>,
    folder: Folder,
    code: Option<i32>,
    /// All lines so far.
    told: Vec<String>,
}

impl Machine {
    /// Where a port of the guest's is on this machine's loopback.
    ///
    /// # Panics
    /// If it is not forwarded.
    pub fn address(&self, port: u16) -> SocketAddr {
        let found = self.addresses.iter().find(|(guest, _)| *guest == port);
        found.unwrap_or_else(|| panic!("port {port} of the guest is not forwarded")).1
    }

    /// The next line that the script writes. `None`: it has ended, or none came in time.
    pub fn line(&mut self, limit: Duration) -> Option<String> {
        match self.lines.recv_timeout(limit) {
            Ok(line) => {
                if let Some(code) = line.strip_prefix(ENDED) {
                    self.code = code.parse().ok();
                    return None;
                }
                self.told.push(line.clone());
                Some(line)
            }
            Err(RecvTimeoutError::Timeout | RecvTimeoutError::Disconnected) => None,
        }
    }

    /// Waits for a line that begins so, and gives its rest.
    ///
    /// # Errors
    /// It does not come: what came instead.
    pub fn await_line(&mut self, start: &str, limit: Duration) -> Result<String> {
        let deadline = Instant::now() + limit;
        while let Some(line) = self.line(deadline.saturating_duration_since(Instant::now())) {
            if let Some(rest) = line.strip_prefix(start) {
                return Ok(rest.to_string());
            }
        }
        bail!(
            "the guest does not say `{start}`, it says:\n{}\nand its console:\n{}",
            self.told.join("\n"),
            self.console()
        )
    }

    /// Waits until it is switched off; all that the script wrote, and how it ended.
    ///
    /// # Errors
    /// That takes longer than this; then it is killed.
    pub fn wait(mut self, limit: Duration) -> Result<(Ended, Vec<String>)> {
        let deadline = Instant::now() + limit;
        loop {
            while self.line(Duration::from_millis(20)).is_some() {}
            if self.child.try_wait()?.is_some() {
                // What it wrote last may be still on its way here.
                while self.line(Duration::from_millis(200)).is_some() {}
                let ended = self.code.map_or_else(|| Ended::Machine(self.console()), Ended::Script);
                return Ok((ended, std::mem::take(&mut self.told)));
            }
            if Instant::now() > deadline {
                bail!("the guest takes longer than {limit:?}; it says:\n{}\n{}", self.told.join("\n"), self.console());
            }
        }
    }

    /// Ends it as a power cut does: at once. Its disk's power is the disk's.
    pub fn kill(mut self) {
        self.end();
    }

    /// The kernel's messages, and QEMU's.
    pub fn console(&self) -> String {
        let read = |name| fs::read(self.folder.0.join(name)).unwrap_or_default();
        let text = [read("console"), read("qemu")].concat();
        let text = String::from_utf8_lossy(&text).replace('\r', "");
        let lines: Vec<&str> = text.lines().collect();
        lines[lines.len().saturating_sub(100)..].join("\n")
    }

    fn end(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Drop for Machine {
    fn drop(&mut self) {
        self.end();
    }
}

/// A folder of our own, gone when it is dropped.
#[derive(Debug)]
struct Folder(PathBuf);

impl Folder {
    fn new() -> Result<Folder> {
        static NUMBER: AtomicU32 = AtomicU32::new(0);
        let number = NUMBER.fetch_add(1, Ordering::Relaxed);
        let path = std::env::temp_dir().join(format!("margay-guest-{}-{number}", std::process::id()));
        let _ = fs::remove_dir_all(&path);
        fs::create_dir_all(&path)?;
        Ok(Folder(path))
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

/// Where a program is, in the path or where only root looks.
fn find_program(name: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let folders = std::env::split_paths(&path).chain(["/usr/sbin".into(), "/sbin".into()]);
    folders.map(|folder| folder.join(name)).find(|path| path.is_file())
}

/// Adds a program and the libraries it is linked with, each once.
fn add_program(archive: &mut Archive, from: &Path, to: &str, brought: &mut Vec<String>) -> Result<()> {
    archive.program(to, &fs::read(from).with_context(|| from.display().to_string())?);
    let linked = Command::new("ldd").arg(from).output().context("ldd")?;
    // `libc.so.6 => /lib/x86_64-linux-gnu/libc.so.6 (0x...)`; the loader stands without an arrow. Nothing, if it is static.
    for word in String::from_utf8_lossy(&linked.stdout).split_whitespace().filter(|word| word.starts_with('/')) {
        if !brought.iter().any(|path| path == word) {
            archive.program(word, &fs::read(word).with_context(|| word.to_string())?);
            brought.push(word.into());
        }
    }
    Ok(())
}
