//! The program as its users see it: over kernel sockets, until it is told to stop.

use std::io::{BufRead, BufReader, Write};
use std::net::TcpStream;
use std::process::{Child, ChildStdout, Command, Stdio};

/// A tally, killed when the test is over.
struct Program(Child);

impl Drop for Program {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn start() -> (Program, BufReader<ChildStdout>, TcpStream) {
    let mut command = Command::new(env!("CARGO_BIN_EXE_tally"));
    command.arg("127.0.0.1:0").env("MARGAY_MEMORY_SIZE", "16MiB").stdout(Stdio::piped());
    let mut program = Program(command.spawn().unwrap());
    let mut output = BufReader::new(program.0.stdout.take().unwrap());
    let mut line = String::new();
    output.read_line(&mut line).unwrap();
    let at = line.trim().strip_prefix("listening on ").unwrap();
    (program, output, TcpStream::connect(at).unwrap())
}

#[test]
fn words_sent_over_tcp_are_counted() {
    let (_program, _output, mut stream) = start();
    stream.write_all(b"plum\npear\nplum\n").unwrap();
    let lines = BufReader::new(stream).lines().take(3).map(Result::unwrap);
    assert_eq!(lines.collect::<Vec<_>>(), ["1", "1", "2"]);
}

#[test]
fn a_signal_ends_it_in_order() {
    let (mut program, _output, mut stream) = start();
    stream.write_all(b"plum\n").unwrap();
    let mut answers = BufReader::new(stream);
    let mut line = String::new();
    answers.read_line(&mut line).unwrap();
    let kill = format!("kill -TERM {}", program.0.id());
    assert!(Command::new("sh").args(["-c", &kill]).status().unwrap().success());
    assert_eq!(answers.read_line(&mut line).unwrap(), 0, "the connection is closed, and not reset");
    assert_eq!(program.0.wait().unwrap().code(), Some(0));
}
