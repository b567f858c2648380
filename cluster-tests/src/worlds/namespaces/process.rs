//! Processes in namespaces: the server, clients, and the tools of iproute2.

use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdout, Command, ExitStatus, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::mpsc;
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use pdpix::Endpoint;
use rustix::process::{Pid, Signal, kill_process};

use super::client::{ClientOrder, monotonic_now};
use super::network::{Network, address};
use crate::history::{Datum, Event, Kind};
use crate::worlds::{Means, Stage, World};

/// A quarter of it is written before there is a snapshot: so there are some in a run.
const DISK_SIZE: &str = "storage.size=2MiB";

/// How long a server has to listen.
const START: Duration = Duration::from_secs(10);

/// Runs a tool to its end.
///
/// # Errors
/// What it complains of.
pub fn tool(name: &str, words: &[&str]) -> Result<()> {
    output_of(name, words).map(drop)
}

/// The same; gives what it printed.
pub fn output_of(name: &str, words: &[&str]) -> Result<String> {
    let output = Command::new(name).args(words).stdin(Stdio::null()).output().with_context(|| name.to_string())?;
    let complaint = String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.success(), "{name} {}: {}", words.join(" "), complaint.trim());
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

/// A process of `margay` in a node's namespace. Killed when dropped, and when this thread ends.
pub struct NodeProcess {
    child: Child,
}

impl NodeProcess {
    fn start(network: &Network, node: usize, means: &Means, words: &[&str]) -> Result<(NodeProcess, ChildStdout)> {
        let mut command = Command::new("ip");
        command.args(["netns", "exec", network.namespace(node), "setpriv", "--pdeathsig", "KILL"]);
        command.arg(&means.margay).args(words).stdin(Stdio::null()).stdout(Stdio::piped());
        for (name, _) in std::env::vars().filter(|(name, _)| name.starts_with("MARGAY_")) {
            command.env_remove(name);
        }
        let mut child = command.spawn().with_context(|| format!("{}", means.margay.display()))?;
        let stdout = child.stdout.take().context("its output")?;
        Ok((NodeProcess { child }, stdout))
    }

    /// It stands still.
    ///
    /// # Errors
    /// If it is no more.
    pub fn pause(&self) -> Result<()> {
        self.signal(Signal::STOP)
    }

    /// It goes on.
    ///
    /// # Errors
    /// If it is no more.
    pub fn resume(&self) -> Result<()> {
        self.signal(Signal::CONT)
    }

    /// It is asked to end.
    ///
    /// # Errors
    /// If it is no more.
    pub fn stop(&self) -> Result<()> {
        self.signal(Signal::TERM)
    }

    fn signal(&self, signal: Signal) -> Result<()> {
        let pid = Pid::from_raw(self.child.id() as i32).context("a process has a number")?;
        kill_process(pid, signal).with_context(|| format!("{signal:?}"))
    }

    /// How it ends, if it does so within this time.
    fn wait(&mut self, longest: Duration) -> Result<Option<ExitStatus>> {
        let until = Instant::now() + longest;
        loop {
            match self.child.try_wait()? {
                None if Instant::now() < until => thread::sleep(Duration::from_millis(5)),
                ended => return Ok(ended),
            }
        }
    }

    fn kill(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Drop for NodeProcess {
    fn drop(&mut self) {
        self.kill();
    }
}

/// A folder for what a server keeps. It goes with this, or with the next one to be made, if this process was killed.
pub struct Disk(PathBuf);

/// Names of such folders: the number of the process that made it follows.
const DISKS: &str = "margay-disk-";

impl Disk {
    /// A new one.
    ///
    /// # Errors
    /// If it cannot be made.
    pub fn new() -> Result<Disk> {
        static MADE: AtomicU32 = AtomicU32::new(0);
        remove_disks_of(|maker| !Path::new(&format!("/proc/{maker}")).exists());
        let name = format!("{DISKS}{}-{}", std::process::id(), MADE.fetch_add(1, Ordering::Relaxed));
        let path = std::env::temp_dir().join(name);
        std::fs::create_dir(&path).with_context(|| path.display().to_string())?;
        Ok(Disk(path))
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

/// Removes all that this process has made.
pub fn remove_own_disks() {
    remove_disks_of(|maker| maker == std::process::id());
}

fn remove_disks_of(is_theirs: impl Fn(u32) -> bool) {
    let Ok(entries) = std::fs::read_dir(std::env::temp_dir()) else { return };
    for entry in entries.flatten() {
        let name = entry.file_name();
        let maker = name.to_str().and_then(|name| name.strip_prefix(DISKS)?.split_once('-')?.0.parse().ok());
        if maker.is_some_and(&is_theirs) {
            let _ = std::fs::remove_dir_all(entry.path());
        }
    }
}

/// A running `margay kv`.
pub struct ServerProcess {
    /// The process.
    pub node: NodeProcess,
    /// Where it listens.
    pub at: Endpoint,
}

impl ServerProcess {
    /// Starts one, and waits until it listens; with what it has kept, if it keeps anything.
    ///
    /// # Errors
    /// If it does not.
    pub fn start(
        network: &Network,
        node: usize,
        means: &Means,
        world: &World,
        disk: Option<&Disk>,
    ) -> Result<ServerProcess> {
        let (at, cores) = (address(node), world.cores.to_string());
        let (listen, own) = (at.to_string(), format!("{}/24", at.ip()));
        let mut words = vec!["kv", "--listen", &listen, "--cores", &cores];
        match world.stage {
            Stage::Wire => words.extend(["--backend", "packet", "--interface", "eth0", "--address", &own]),
            _ => words.extend(["--backend", "epoll"]),
        }
        let dir = disk.map(|disk| disk.0.display().to_string());
        if let Some(dir) = &dir {
            words.extend(["--dir", dir, "--durability", "always", "--set", DISK_SIZE]);
        }
        let settings = ["--set", "memory.size=64MiB", "--set", "cores.pin=false"];
        let (node, stdout) = NodeProcess::start(network, node, means, &[&words[..], &settings].concat())?;
        let (sender, first_line) = mpsc::channel();
        thread::spawn(move || {
            let mut line = String::new();
            let _ = sender.send(BufReader::new(stdout).read_line(&mut line).map(|_| line));
        });
        let line = first_line.recv_timeout(START).context("the server says nothing")??;
        ensure!(line.trim() == format!("listening on {at}"), "the server says {line:?}");
        Ok(ServerProcess { node, at })
    }

    /// How it has ended, if it has.
    ///
    /// # Errors
    /// If the system does not say.
    pub fn ended(&mut self) -> Result<Option<ExitStatus>> {
        self.node.wait(Duration::ZERO)
    }
}

/// A running `margay test-client`, and its notes.
pub struct ClientProcess {
    /// The process.
    pub node: NodeProcess,
    notes: Option<JoinHandle<Result<Vec<Event>>>>,
}

impl ClientProcess {
    /// Starts one.
    ///
    /// # Errors
    /// If it cannot be started.
    pub fn start(network: &Network, node: usize, means: &Means, order: &ClientOrder) -> Result<ClientProcess> {
        let order = serde_json::to_string(order)?;
        let (node, stdout) = NodeProcess::start(network, node, means, &["test-client", &order])?;
        let notes = Some(thread::spawn(move || read_notes(BufReader::new(stdout))));
        Ok(ClientProcess { node, notes })
    }

    /// Waits for its end. Whether it has come to one within this time.
    ///
    /// # Errors
    /// If that was not a good end.
    pub fn wait(&mut self, longest: Duration) -> Result<bool> {
        let Some(status) = self.node.wait(longest)? else { return Ok(false) };
        ensure!(status.success(), "a client has failed: {status}");
        Ok(true)
    }

    /// Its notes; if it still runs, it is killed in the middle of anything. What it had begun and not ended ends unknown.
    ///
    /// # Errors
    /// If they cannot be read.
    pub fn into_notes(mut self) -> Result<Vec<Event>> {
        self.node.kill();
        let reader = self.notes.take().context("notes are taken once")?;
        let mut notes = reader.join().map_err(|_| anyhow::anyhow!("the reader of notes has panicked"))??;
        if let Some(last) = notes.last().filter(|event| event.kind == Kind::Invoke).cloned() {
            let value = (last.value.0, Datum::Nil);
            notes.push(Event { kind: Kind::Info, value, time: monotonic_now(), ..last });
        }
        Ok(notes)
    }
}

fn read_notes(notes: impl BufRead) -> Result<Vec<Event>> {
    let mut events = Vec::new();
    for line in notes.lines() {
        let line = line.context("the notes of a client")?;
        events.push(serde_json::from_str(&line).with_context(|| format!("a client notes {line:?}"))?);
    }
    Ok(events)
}
