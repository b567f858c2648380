//! Programs of others, and ours, as children: started on free ports, watched through /proc, and always ended: when their
//! [`Server`] is dropped, also by a panic, and by the kernel if this program is killed ([`tethered`]).

use std::fs;
use std::io::{BufRead, BufReader};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};

/// A server, ended when it is dropped.
pub struct Server {
    child: Child,
    /// Where it listens.
    pub at: SocketAddr,
}

const START_TIMEOUT: Duration = Duration::from_secs(20);

impl Server {
    /// Starts a program that prints `listening on ADDR:PORT`.
    pub fn that_says_where(command: &mut Command) -> Result<Server> {
        let mut child = command.stdout(Stdio::piped()).stderr(Stdio::null()).spawn().context(shown(command))?;
        let mut line = String::new();
        let said = child.stdout.take().map(|out| BufReader::new(out).read_line(&mut line));
        let at = line.trim().strip_prefix("listening on ").and_then(|at| at.parse().ok());
        match (said, at) {
            (Some(Ok(_)), Some(at)) => Ok(Server { child, at }),
            _ => {
                end(&mut child);
                bail!("{} does not say where it listens, but `{}`", shown(command), line.trim())
            }
        }
    }

    /// Starts a program that is told its port, and waits until it is there.
    pub fn at(at: SocketAddr, command: &mut Command) -> Result<Server> {
        let mut child = command.stdout(Stdio::null()).stderr(Stdio::null()).spawn().context(shown(command))?;
        let begun = Instant::now();
        while TcpStream::connect(at).is_err() {
            if child.try_wait()?.is_some() || begun.elapsed() > START_TIMEOUT {
                end(&mut child);
                bail!("{} does not listen at {at}", shown(command));
            }
            thread::sleep(Duration::from_millis(10));
        }
        Ok(Server { child, at })
    }

    /// `margay` with these arguments, on a port of its own.
    pub fn margay(arguments: &str) -> Result<Server> {
        Server::that_says_where(&mut margay(arguments)?)
    }

    /// Nanoseconds of processor time that it has used, user and system, all threads.
    pub fn cpu_ns(&self) -> Result<f64> {
        let mut total = 0.0;
        for task in fs::read_dir(format!("/proc/{}/task", self.child.id()))? {
            let Ok(text) = fs::read_to_string(task?.path().join("schedstat")) else { continue };
            total += text.split(' ').next().and_then(|nanos| nanos.parse::<f64>().ok()).unwrap_or(0.0);
        }
        ensure!(total > 0.0, "the kernel does not tell the time of a process (schedstat)");
        Ok(total)
    }

    /// Bytes of memory that it occupies.
    pub fn rss(&self) -> Result<f64> {
        let text = fs::read_to_string(format!("/proc/{}/statm", self.child.id()))?;
        let pages: f64 = text.split(' ').nth(1).context("statm")?.parse()?;
        Ok(pages * rustix::param::page_size() as f64)
    }

    /// Asks it to end, and waits until it has.
    pub fn stop(mut self) -> Result<()> {
        let pid = rustix::process::Pid::from_raw(self.child.id() as i32).context("a process id")?;
        rustix::process::kill_process(pid, rustix::process::Signal::TERM)?;
        let begun = Instant::now();
        while self.child.try_wait()?.is_none() {
            ensure!(begun.elapsed() < START_TIMEOUT, "{pid:?} does not stop");
            thread::sleep(Duration::from_millis(10));
        }
        Ok(())
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        end(&mut self.child);
    }
}

fn end(child: &mut Child) {
    let _ = child.kill(); // it may have ended
    let _ = child.wait();
}

fn shown(command: &Command) -> String {
    command.get_program().to_string_lossy().into_owned()
}

/// A command that runs `program`; its arguments are to be added. Where setpriv is installed, the kernel ends the program
/// with this one, even if this one is killed.
pub fn tethered(program: &Path) -> Command {
    match installed("setpriv") {
        Some(setpriv) => {
            let mut command = Command::new(setpriv);
            command.args(["--pdeathsig", "KILL", "--"]).arg(program);
            command
        }
        None => Command::new(program),
    }
}

/// A command for `margay SERVICE …` on any port.
pub fn margay(arguments: &str) -> Result<Command> {
    let mut command = tethered(&sibling("margay")?);
    command.args(arguments.split_whitespace()).args(["--listen", "127.0.0.1:0"]);
    Ok(command)
}

/// A program of this workspace, built like this one, and up to date if cargo runs this.
pub fn sibling(name: &str) -> Result<PathBuf> {
    let own = std::env::current_exe()?;
    let folder = own.parent().context("the folder of this program")?;
    let path = folder.join(name);
    if let Some(cargo) = std::env::var_os("CARGO") {
        let package = if name == "margay" { "margay" } else { "margay-bench" };
        let mut build = Command::new(cargo);
        build.args(["build", "--quiet", "--package", package]);
        build.env("CARGO_TARGET_DIR", folder.parent().context("the target folder")?);
        if folder.ends_with("release") {
            build.arg("--release");
        }
        ensure!(build.status()?.success(), "cannot build {name}");
    }
    ensure!(path.exists(), "there is no {}: build it first, or run this with cargo", path.display());
    Ok(path)
}

/// What a program prints.
pub fn output(program: &Path, arguments: &[&str]) -> Result<String> {
    let output = Command::new(program).args(arguments).output().with_context(|| program.display().to_string())?;
    ensure!(output.status.success(), "{} fails: {}", program.display(), String::from_utf8_lossy(&output.stderr));
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

/// Where a program of the system is.
pub fn installed(name: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH")?;
    std::env::split_paths(&path).map(|folder| folder.join(name)).find(|path| path.is_file())
}

/// An address of the loopback that was free a moment ago.
pub fn free_address() -> Result<SocketAddr> {
    Ok(TcpListener::bind("127.0.0.1:0")?.local_addr()?)
}

/// Processor seconds of all children that have ended, user and system.
pub fn children_seconds() -> Result<f64> {
    let stat = fs::read_to_string("/proc/self/stat")?;
    // The name of the program, in brackets, may hold anything.
    let fields: Vec<&str> = stat.rsplit(')').next().unwrap_or_default().split_whitespace().collect();
    let ticks: f64 =
        fields.get(13).context("cutime")?.parse::<f64>()? + fields.get(14).context("cstime")?.parse::<f64>()?;
    Ok(ticks / rustix::param::clock_ticks_per_second().max(1) as f64)
}

/// A folder for files of this run, removed when it is dropped.
pub struct Scratch(pub PathBuf);

impl Scratch {
    pub fn new() -> Result<Scratch> {
        let path = std::env::temp_dir().join(format!("margay-bench-{}", std::process::id()));
        fs::create_dir_all(&path)?;
        Ok(Scratch(path))
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_server_that_is_dropped_has_ended() {
        let script = "echo listening on 127.0.0.1:1; exec sleep 60";
        let server = Server::that_says_where(tethered(Path::new("/bin/sh")).args(["-c", script])).unwrap();
        let process = format!("/proc/{}", server.child.id());
        assert!(Path::new(&process).exists() && server.at.port() == 1);
        drop(server);
        assert!(!Path::new(&process).exists());
    }

    #[test]
    fn one_that_does_not_listen_is_an_error() {
        let mute = Server::that_says_where(tethered(Path::new("/bin/sh")).args(["-c", "echo hello"]));
        assert!(mute.is_err_and(|error| error.to_string().contains("`hello`")));
        let deaf = Server::at(free_address().unwrap(), tethered(Path::new("/bin/sh")).args(["-c", "exit 0"]));
        assert!(deaf.is_err());
    }
}
