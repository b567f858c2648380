//! `margay kv` as a process of its own, as a user runs it; gone when it is dropped.
// Each test program uses a part of it.
#![allow(dead_code)]

pub mod numbers;

use std::io::{BufRead, BufReader, Read};
use std::net::{SocketAddr, TcpStream};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use kv_differential::{Peer, Target};
use rustix::process::{Pid, Signal, kill_process};

pub const BACKENDS: [&str; 2] = ["epoll", "io_uring"];

/// What a server is started with.
#[derive(Clone, Debug)]
pub struct Form {
    pub backend: &'static str,
    pub cores: usize,
}

impl Form {
    /// Both backends, one and two cores.
    pub fn all() -> Vec<Form> {
        BACKENDS.into_iter().flat_map(|backend| [1, 2].map(|cores| Form { backend, cores })).collect()
    }

    /// Those of them that this machine has, told which it has not.
    pub fn available(test: &str) -> Vec<Form> {
        if let Err(reason) = has_io_uring() {
            println!("SKIP uring_{test}: {reason}");
            return Form::all().into_iter().filter(|form| form.backend == "epoll").collect();
        }
        Form::all()
    }
}

fn has_io_uring() -> Result<(), String> {
    // In a thread of its own: the kernel interrupts whoever had a ring, a little after it is gone.
    let backends = thread::spawn(libos_boot::backends).join().expect("the backends");
    let found = backends.into_iter().find(|(kind, _)| kind.name() == "io_uring");
    found.and_then(|(_, missing)| missing).map_or(Ok(()), Err)
}

/// A running `margay kv`.
#[derive(Debug)]
pub struct Kv {
    child: Child,
    pub address: SocketAddr,
    pub form: Form,
}

/// The command `margay kv`, with nothing of the environment that would configure it.
pub fn margay_kv() -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_margay"));
    command.arg("kv").stdin(Stdio::null());
    for (name, _) in std::env::vars().filter(|(name, _)| name.starts_with("MARGAY_")) {
        command.env_remove(name);
    }
    command
}

impl Kv {
    /// Starts one on a free port, and waits until it says where it listens.
    pub fn start(form: &Form, more: &[&str]) -> Kv {
        let mut command = margay_kv();
        command
            .args(["--listen", "127.0.0.1:0", "--backend", form.backend, "--cores", &form.cores.to_string()])
            .args(more)
            .stdout(Stdio::piped());
        let mut child = command.spawn().expect("margay to start");
        let mut line = String::new();
        BufReader::new(child.stdout.as_mut().expect("its output")).read_line(&mut line).expect("a line");
        let address = line.trim().strip_prefix("listening on ").and_then(|at| at.parse().ok());
        let Some(address) = address else {
            let _ = child.kill();
            panic!("margay kv {form:?} does not listen, it says {line:?}: {:?}", child.wait());
        };
        Kv { child, address, form: form.clone() }
    }

    pub fn target(&self) -> Target {
        Target::Tcp(self.address)
    }

    pub fn connect(&self) -> Peer {
        Peer::connect(&self.target())
    }

    /// A plain socket, with a time limit on what it reads.
    pub fn socket(&self) -> TcpStream {
        let stream = TcpStream::connect(self.address).expect("margay kv to listen");
        stream.set_nodelay(true).expect("no delay");
        stream.set_read_timeout(Some(Duration::from_secs(10))).expect("a time limit");
        stream
    }

    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    pub fn port(&self) -> String {
        self.address.port().to_string()
    }

    pub fn is_running(&mut self) -> bool {
        self.child.try_wait().expect("its state").is_none()
    }

    /// Resident memory, in bytes.
    pub fn rss(&self) -> u64 {
        let statm = std::fs::read_to_string(format!("/proc/{}/statm", self.pid())).expect("its memory");
        let pages: u64 = statm.split(' ').nth(1).and_then(|pages| pages.parse().ok()).expect("a number");
        pages * rustix::param::page_size() as u64
    }

    /// Processor time it has used.
    pub fn cpu_time(&self) -> Duration {
        let stat = std::fs::read_to_string(format!("/proc/{}/stat", self.pid())).expect("its times");
        let fields: Vec<&str> = stat.rsplit(')').next().expect("fields").split_whitespace().collect();
        let ticks: u64 = fields[11].parse::<u64>().expect("ticks") + fields[12].parse::<u64>().expect("ticks");
        Duration::from_secs_f64(ticks as f64 / rustix::param::clock_ticks_per_second() as f64)
    }

    pub fn signal(&self, signal: Signal) {
        let pid = Pid::from_raw(self.pid() as i32).expect("a process");
        kill_process(pid, signal).expect("it to be there");
    }

    pub fn terminate(&self) {
        self.signal(Signal::TERM);
    }

    /// How it ends, if it does so within this time.
    pub fn wait(&mut self, limit: Duration) -> Option<ExitStatus> {
        let deadline = Instant::now() + limit;
        loop {
            match self.child.try_wait().expect("its state") {
                None if Instant::now() < deadline => thread::sleep(Duration::from_millis(5)),
                ended => return ended,
            }
        }
    }

    /// Stops it as a user does; it must end well.
    pub fn stop(mut self) {
        assert!(self.is_running(), "{:?}: it has ended", self.form);
        self.terminate();
        let ended = self.wait(Duration::from_secs(10));
        assert_eq!(ended.and_then(|status| status.code()), Some(0), "{:?}: a stop", self.form);
    }
}

impl Drop for Kv {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Runs a program to its end, with a time limit: its code, its output, what it complains of.
pub fn run(command: &mut Command, limit: Duration) -> (Option<i32>, String, String) {
    let mut child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().expect("a program to start");
    let (mut stdout, mut stderr) = (child.stdout.take().expect("output"), child.stderr.take().expect("output"));
    let errors = thread::spawn(move || {
        let mut text = Vec::new();
        let _ = stderr.read_to_end(&mut text);
        String::from_utf8_lossy(&text).into_owned()
    });
    let output = thread::spawn(move || {
        let mut text = Vec::new();
        let _ = stdout.read_to_end(&mut text);
        String::from_utf8_lossy(&text).into_owned()
    });
    let deadline = Instant::now() + limit;
    let status = loop {
        match child.try_wait().expect("its state") {
            Some(status) => break Some(status),
            None if Instant::now() > deadline => {
                let _ = child.kill();
                let _ = child.wait();
                break None;
            }
            None => thread::sleep(Duration::from_millis(5)),
        }
    };
    let (output, errors) = (output.join().expect("output"), errors.join().expect("output"));
    let status = status.unwrap_or_else(|| panic!("{command:?} takes longer than {limit:?}: {output}{errors}"));
    (status.code(), output, errors)
}
