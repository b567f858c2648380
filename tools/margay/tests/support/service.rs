//! A child process of the tests that serves, and is always ended.

use std::io::{BufRead, BufReader};
use std::process::{Child, Command, Stdio};

/// A `margay` service on a port of its own.
pub struct Service {
    child: Child,
    /// Where it listens.
    pub at: String,
}

impl Service {
    /// Starts `margay` with these arguments, listening on any port of the loopback.
    pub fn start(arguments: &[&str]) -> Service {
        let mut child = Command::new(env!("CARGO_BIN_EXE_margay"))
            .args(arguments)
            .args(["--listen", "127.0.0.1:0", "--set", "memory.size=64MiB", "--set", "cores.pin=false"])
            .stdout(Stdio::piped())
            .spawn()
            .expect("margay starts");
        let mut line = String::new();
        BufReader::new(child.stdout.take().expect("piped")).read_line(&mut line).expect("it says where it listens");
        let at = line.trim().strip_prefix("listening on ").map(str::to_owned);
        let Some(at) = at else {
            let _ = child.kill();
            panic!("it said `{line}`");
        };
        Service { child, at }
    }

    /// Ends it, as a crash would.
    pub fn kill(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Drop for Service {
    fn drop(&mut self) {
        self.kill();
    }
}
