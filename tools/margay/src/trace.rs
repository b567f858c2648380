//! `margay trace`: prints what the cores of a service have noted in their trace rings, joined in time.
//!
//! The files are those of `--set trace.dir=DIR`; they can be read while the service runs, and after it was killed.

use std::collections::HashSet;
use std::io::{BufWriter, ErrorKind, Write, stdout};
use std::path::{Path, PathBuf};

use anyhow::Context;
use clap::Args;
use framework::runtime::{Event, TraceEvent, read_trace};

#[derive(Args)]
pub struct Arguments {
    /// Trace rings, one a core; or directories with `core-N.trace` in them.
    #[arg(required = true, value_name = "FILE")]
    files: Vec<PathBuf>,
    /// Only what happened to this queue.
    #[arg(long, value_name = "QUEUE", value_parser = parse_number)]
    queue: Option<u64>,
    /// Only what happened to this operation.
    #[arg(long, value_name = "TOKEN", value_parser = parse_number)]
    token: Option<u64>,
    /// Only this core.
    #[arg(long, value_name = "N")]
    core: Option<u8>,
}

/// What the two numbers of an event are.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Part {
    Token,
    Queue,
    Errno,
    /// Some other number, by its name.
    Plain(&'static str),
    Nothing,
}

const fn parts(event: Event) -> (Part, Part) {
    use Part::{Errno, Nothing, Plain, Queue, Token};
    match event {
        Event::Empty => (Nothing, Nothing),
        Event::Push => (Token, Plain("len")),
        Event::Pop => (Token, Plain("len_max")),
        Event::Accept | Event::Connect => (Token, Queue),
        Event::Done => (Token, Errno),
        Event::Open => (Queue, Plain("kind")),
        Event::Close => (Queue, Nothing),
        Event::Cancel => (Token, Nothing),
        Event::Returned => (Queue, Plain("len")),
        Event::Spawn => (Plain("place"), Nothing),
        Event::CoreReceive => (Plain("from"), Plain("count")),
        Event::CoreSend => (Plain("to"), Nothing),
        Event::Sleep => (Plain("at_most_ns"), Nothing),
        Event::WakeUp => (Plain("slept_ns"), Nothing),
        Event::Pass => (Plain("ended"), Plain("ran")),
        Event::Mark => (Plain("first"), Plain("second")),
        Event::PushAtOnce => (Queue, Plain("len")),
        Event::PopAtOnce => (Queue, Plain("len_max")),
        Event::Chase | Event::Seek | Event::Truncate => (Token, Plain("sequence")),
        Event::OpenLog => (Queue, Plain("storage")),
    }
}

/// An event, and where it happened.
#[derive(Clone, Copy, Debug)]
struct Noted {
    core: u8,
    event: TraceEvent,
}

impl Noted {
    fn numbers(&self) -> [(Part, u64); 2] {
        let (first, second) = parts(self.event.event);
        [(first, self.event.first), (second, self.event.second)]
    }

    fn find(&self, part: Part) -> Option<u64> {
        self.numbers().into_iter().find(|(found, _)| *found == part).map(|(_, number)| number)
    }

    /// One line; `start` is the time of the first event of all.
    fn line(&self, start: u64) -> String {
        let micros = (self.event.at.as_nanos() - start) as f64 / 1e3;
        let cell = |name: &str, part| self.find(part).map_or(String::new(), |number| format!("{name} {number:#x}"));
        let mut line = format!(
            "{micros:>14.3}  core {:<3}  {:<12}  {:<24}  {:<14}",
            self.core,
            name(self.event.event),
            cell("token", Part::Token),
            cell("queue", Part::Queue),
        );
        for (part, number) in self.numbers() {
            match part {
                Part::Plain(name) => line += &format!("  {name} {number}"),
                Part::Errno if number != 0 => {
                    line += &format!("  {}", std::io::Error::from_raw_os_error(number as i32))
                }
                _ => {}
            }
        }
        line.trim_end().to_owned()
    }
}

/// `PushAtOnce` as `push_at_once`.
fn name(event: Event) -> String {
    let mut name = String::new();
    for letter in format!("{event:?}").chars() {
        if letter.is_uppercase() && !name.is_empty() {
            name.push('_');
        }
        name.extend(letter.to_lowercase());
    }
    name
}

pub fn run(arguments: Arguments) -> anyhow::Result<i32> {
    let mut all = Vec::new();
    for path in trace_files(&arguments.files)? {
        let bytes = std::fs::read(&path).with_context(|| format!("cannot read {}", path.display()))?;
        let (core, events) = read_trace(&bytes).with_context(|| path.display().to_string())?;
        all.extend(events.into_iter().map(|event| Noted { core, event }));
    }
    all.sort_by_key(|noted| (noted.event.at, noted.core, noted.event.number));
    let start = all.first().map_or(0, |noted| noted.event.at.as_nanos());
    let mut out = BufWriter::new(stdout().lock());
    let lines = arguments.choose(&all).into_iter().map(|noted| noted.line(start));
    let heading = format!("{:>14}  where     {:<12}  about", "us", "event");
    for line in std::iter::once(heading).chain(lines) {
        match writeln!(out, "{line}") {
            Err(error) if error.kind() == ErrorKind::BrokenPipe => return Ok(0), // `| head` has seen enough
            written => written?,
        }
    }
    match out.flush() {
        Err(error) if error.kind() != ErrorKind::BrokenPipe => Err(error.into()),
        _ => Ok(0),
    }
}

/// The files, and those in the directories.
fn trace_files(paths: &[PathBuf]) -> anyhow::Result<Vec<PathBuf>> {
    let mut files = Vec::new();
    for path in paths {
        if !path.is_dir() {
            files.push(path.clone());
            continue;
        }
        let entries = std::fs::read_dir(path).with_context(|| format!("cannot read {}", path.display()))?;
        let inside = entries.map(|entry| entry.map(|entry| entry.path())).collect::<Result<Vec<_>, _>>()?;
        let is_trace = |path: &Path| path.extension().is_some_and(|extension| extension == "trace");
        let mut inside: Vec<PathBuf> = inside.into_iter().filter(|path| is_trace(path)).collect();
        anyhow::ensure!(!inside.is_empty(), "there is no trace in {}", path.display());
        inside.sort();
        files.append(&mut inside);
    }
    Ok(files)
}

impl Arguments {
    /// The events that are asked for. An operation that named a queue when it began belongs to it when it ends, too.
    fn choose<'a>(&self, all: &'a [Noted]) -> Vec<&'a Noted> {
        let of_queue = |noted: &&Noted| self.queue.is_some() && noted.find(Part::Queue) == self.queue;
        let tokens: HashSet<u64> = all.iter().filter(of_queue).filter_map(|noted| noted.find(Part::Token)).collect();
        let is_about_queue =
            |noted: &&Noted| of_queue(noted) || noted.find(Part::Token).is_some_and(|token| tokens.contains(&token));
        all.iter()
            .filter(|noted| self.core.is_none_or(|core| noted.core == core))
            .filter(|noted| self.token.is_none() || noted.find(Part::Token) == self.token)
            .filter(|noted| self.queue.is_none() || is_about_queue(noted))
            .collect()
    }
}

/// A number as it is printed: `0x1f`, or decimal.
fn parse_number(text: &str) -> Result<u64, String> {
    let parsed = match text.strip_prefix("0x") {
        Some(digits) => u64::from_str_radix(digits, 16),
        None => text.parse(),
    };
    parsed.map_err(|_| "a number such as 31 or 0x1f".into())
}

#[cfg(test)]
mod tests {
    use framework::pdpix::Instant;

    use super::*;

    fn noted(core: u8, number: u64, event: Event, first: u64, second: u64) -> Noted {
        let at = Instant::from_nanos(1_000_000 + number * 1_500);
        Noted { core, event: TraceEvent { at, number, event, first, second } }
    }

    #[test]
    fn a_line_names_what_the_numbers_are() {
        let line = |event, first, second| {
            let line = noted(1, 2, event, first, second).line(1_000_000);
            line.split_whitespace().collect::<Vec<_>>().join(" ")
        };
        assert_eq!(line(Event::Push, 0x1f, 64), "3.000 core 1 push token 0x1f len 64");
        assert_eq!(line(Event::Accept, 5, 7), "3.000 core 1 accept token 0x5 queue 0x7");
        assert_eq!(line(Event::Done, 5, 0), "3.000 core 1 done token 0x5");
        assert!(line(Event::Done, 5, 104).contains("reset by peer"), "an errno is told in words");
        assert_eq!(line(Event::PushAtOnce, 7, 9), "3.000 core 1 push_at_once queue 0x7 len 9");
    }

    #[test]
    fn filters_keep_what_belongs_together() {
        let all = [
            noted(0, 0, Event::Accept, 100, 7),
            noted(0, 1, Event::PushAtOnce, 8, 64),
            noted(0, 2, Event::Done, 100, 0),
            noted(1, 3, Event::Done, 101, 0),
            noted(1, 4, Event::Close, 7, 0),
        ];
        let chosen = |queue, token, core| {
            let arguments = Arguments { files: Vec::new(), queue, token, core };
            arguments.choose(&all).iter().map(|noted| noted.event.number).collect::<Vec<_>>()
        };
        assert_eq!(chosen(None, None, None), [0, 1, 2, 3, 4]);
        assert_eq!(chosen(Some(7), None, None), [0, 2, 4], "the end of the accept as well");
        assert_eq!(chosen(None, Some(101), None), [3]);
        assert_eq!(chosen(Some(7), None, Some(1)), [4]);
    }
}
