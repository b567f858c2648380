//! Commands that a task runs: what they print is shown, kept, and searched for skips.

use std::io::{BufRead, BufReader, Read};
use std::process::{Command, Stdio};
use std::sync::mpsc;
use std::thread;

use anyhow::{Context, Result};

use crate::skips::Skip;

/// A program of the workspace's: without the variables that `cargo run` has set for this task.
pub fn program(name: &str) -> Command {
    let mut command = Command::new(name);
    for (variable, _) in std::env::vars_os() {
        let text = variable.to_string_lossy();
        if text.starts_with("CARGO_PKG_") || text.starts_with("CARGO_MANIFEST_") {
            command.env_remove(variable);
        }
    }
    command
}

/// A call of cargo, from its words.
pub fn cargo(words: &str) -> Command {
    let mut command = program("cargo");
    command.args(words.split_whitespace());
    command
}

/// How a command looks in a shell.
pub fn shown(command: &Command) -> String {
    let set = command.get_envs().filter_map(|(key, value)| Some((key.to_string_lossy(), value?.to_string_lossy())));
    let set = set.map(|(key, value)| format!("{key}={} ", quoted(&value)));
    let words = std::iter::once(command.get_program()).chain(command.get_args());
    let words: Vec<String> = words.map(|word| quoted(&word.to_string_lossy())).collect();
    set.collect::<String>() + &words.join(" ")
}

fn quoted(word: &str) -> String {
    if word.contains([' ', '(', '"', '*', '&', '|']) { format!("'{word}'") } else { word.to_string() }
}

/// Which of its lines are shown while a command runs.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Show {
    All,
    /// Up to nextest's summary; what it then repeats of the tests that passed is only searched.
    UntilSummary,
    /// None: for tests, whose own output is searched for skips.
    #[cfg(test)]
    Nothing,
}

/// What a command came to.
pub struct Ran {
    pub success: bool,
    pub skips: Vec<Skip>,
    /// All that it printed.
    pub output: String,
}

/// Runs a command to its end.
pub fn run(command: &mut Command, show: Show) -> Result<Ran> {
    #[cfg(test)]
    if show == Show::Nothing {
        return run_to(command, show, |_| ());
    }
    println!("  $ {}", shown(command));
    run_to(command, show, |line| println!("{line}"))
}

fn run_to(command: &mut Command, show: Show, mut print: impl FnMut(&str)) -> Result<Ran> {
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().with_context(|| format!("{} cannot be run", shown(command)))?;
    let (lines, received) = mpsc::channel();
    let readers = [child.stdout.take().map(|out| read(out, &lines)), child.stderr.take().map(|err| read(err, &lines))];
    drop(lines);
    let (mut output, mut hidden) = (String::new(), false);
    for line in received {
        let is_status = is_status(&line);
        if !hidden || is_status {
            print(&line);
        }
        hidden |= show == Show::UntilSummary && line.trim_start().starts_with("Summary [");
        output.push_str(&line);
        output.push('\n');
    }
    for reader in readers.into_iter().flatten() {
        let _ = reader.join();
    }
    let success = child.wait()?.success();
    Ok(Ran { success, skips: crate::skips::find(&output), output })
}

/// A line of nextest's that says how a test ended badly, or an error of cargo's.
fn is_status(line: &str) -> bool {
    let line = line.trim_start();
    ["FAIL [", "TIMEOUT [", "ABORT [", "SIGABRT [", "SIGSEGV [", "LEAK [", "error:"].iter().any(|s| line.starts_with(s))
}

fn read(from: impl Read + Send + 'static, lines: &mpsc::Sender<String>) -> thread::JoinHandle<()> {
    let lines = lines.clone();
    thread::spawn(move || {
        let mut from = BufReader::new(from);
        let mut line = Vec::new();
        // Not `lines()`: a test may print what is not UTF-8.
        while from.read_until(b'\n', &mut line).is_ok_and(|count| count > 0) {
            let text = String::from_utf8_lossy(&line).trim_end_matches(['\n', '\r']).to_string();
            line.clear();
            if lines.send(text).is_err() {
                break;
            }
        }
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sh(script: &str) -> Command {
        let mut command = program("sh");
        command.args(["-c", script]);
        command
    }

    #[test]
    fn output_is_kept_whole_and_skips_are_found_in_both_streams() {
        let script = "echo one; echo 'SKIP a: no b' >&2; printf '\\377\\nSKIP c: no d'; exit 3";
        let mut printed = 0;
        let ran = run_to(&mut sh(script), Show::All, |_| printed += 1).unwrap();
        assert!(!ran.success && ran.output.contains("one\n") && printed == 4);
        let mut names: Vec<&str> = ran.skips.iter().map(|skip| skip.name.as_str()).collect();
        names.sort_unstable();
        assert_eq!(names, ["a", "c"]);
    }

    #[test]
    fn what_follows_the_summary_is_searched_and_only_failures_are_shown() {
        let script = "echo '  Summary [ 1s] 2 tests'; echo 'SKIP a: no b'; echo '  FAIL [ 1s] x y'; echo running";
        let mut printed = Vec::new();
        let ran = run_to(&mut sh(script), Show::UntilSummary, |line| printed.push(line.trim().to_string())).unwrap();
        assert_eq!(printed, ["Summary [ 1s] 2 tests", "FAIL [ 1s] x y"]);
        assert_eq!(ran.skips.len(), 1);
    }

    #[test]
    fn a_command_is_shown_as_one_would_type_it() {
        let mut command = cargo("test -p libos-mem");
        command.env("RUSTFLAGS", "--cfg loom").env_remove("HOME");
        assert_eq!(shown(&command), "RUSTFLAGS='--cfg loom' cargo test -p libos-mem");
    }

    #[test]
    fn a_program_that_is_not_there_is_an_error() {
        assert!(run(&mut program("no-such-program-here"), Show::All).is_err());
    }
}
