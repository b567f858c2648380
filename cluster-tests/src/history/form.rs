//! Whether a history is one of clients that behave: each does one thing at a time, and nothing ends that has not begun.

use std::collections::BTreeMap;

use super::{Event, History, Kind, Process};

/// What no client does, and at which event.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
#[error("event {index} of process {process}: {what}")]
pub struct FormError {
    /// Its place in the list, from 0.
    pub index: usize,
    /// Whose.
    pub process: Process,
    /// What is wrong.
    pub what: &'static str,
}

/// What a process is about.
enum State<'a> {
    Idle,
    Busy(&'a Event),
    /// What it did last came to an unknown end.
    Retired,
}

impl History {
    /// Checks the form: places count up, time of a process does not go back, an end belongs to the operation that its
    /// process has begun, and nobody goes on after an unknown end. Faults may overlap.
    ///
    /// # Errors
    /// The first [`FormError`].
    pub fn check(&self) -> Result<(), FormError> {
        let mut states: BTreeMap<Process, (State<'_>, u64)> = BTreeMap::new();
        for (index, event) in self.events.iter().enumerate() {
            let wrong = |what| Err(FormError { index, process: event.process, what });
            if event.index != index as u64 {
                return wrong("its index is not its place");
            }
            let (state, time) = states.entry(event.process).or_insert((State::Idle, 0));
            if event.time < *time {
                return wrong("its time lies before that of the event before");
            }
            *time = event.time;
            if event.process == Process::NEMESIS {
                continue;
            }
            *state = match (&*state, event.kind) {
                (State::Retired, _) => return wrong("the process was retired by an unknown end"),
                (State::Idle, Kind::Invoke) => State::Busy(event),
                (State::Busy(_), Kind::Invoke) => return wrong("a second operation, while one is open"),
                (State::Idle, _) => return wrong("an end without a beginning"),
                (State::Busy(begun), _) if begun.f != event.f || begun.value.0 != event.value.0 => {
                    return wrong("the end of another operation");
                }
                (State::Busy(_), Kind::Info) => State::Retired,
                (State::Busy(_), _) => State::Idle,
            };
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::history::Datum;

    /// Events as words: process, type, operation, key.
    fn history(lines: &[&str]) -> History {
        let event = |(index, line): (usize, &&str)| {
            let words: Vec<&str> = line.split(' ').collect();
            let process = words[0].parse().map_or(Process::NEMESIS, Process::Client);
            let kind = serde_json::from_value(words[1].into()).unwrap();
            let value = (words[3].to_string(), Datum::Nil);
            Event { index: index as u64, process, kind, f: words[2].into(), value, time: 10 + index as u64 }
        };
        History { events: lines.iter().enumerate().map(event).collect(), ..History::default() }
    }

    fn wrong(lines: &[&str]) -> (usize, &'static str) {
        let error = history(lines).check().expect_err("this is not well formed");
        (error.index, error.what)
    }

    #[test]
    fn clients_that_behave_are_well_formed() {
        let fine = ["1 invoke get k", "2 invoke set k", "nemesis invoke pause server", "1 ok get k", "1 invoke get j"];
        assert_eq!(history(&fine).check(), Ok(()));
        let ends = ["1 invoke get k", "1 fail get k", "1 invoke set k", "1 info set k", "2 invoke get k", "2 ok get k"];
        assert_eq!(history(&ends).check(), Ok(()));
        let faults = ["nemesis invoke pause a", "nemesis invoke pause b", "nemesis ok pause a", "nemesis ok pause b"];
        assert_eq!(history(&faults).check(), Ok(()), "faults overlap");
    }

    #[test]
    fn what_no_client_does_is_found() {
        assert_eq!(wrong(&["1 ok get k"]), (0, "an end without a beginning"));
        assert_eq!(wrong(&["1 invoke get k", "1 ok get k", "1 ok get k"]), (2, "an end without a beginning"));
        assert_eq!(wrong(&["1 invoke get k", "1 invoke get k"]), (1, "a second operation, while one is open"));
        assert_eq!(wrong(&["1 invoke get k", "1 ok get j"]), (1, "the end of another operation"));
        assert_eq!(wrong(&["1 invoke get k", "1 ok set k"]), (1, "the end of another operation"));
        let reused = ["1 invoke set k", "1 info set k", "1 invoke get k"];
        assert_eq!(wrong(&reused), (2, "the process was retired by an unknown end"));
        let late = ["1 invoke set k", "1 info set k", "1 ok set k"];
        assert_eq!(wrong(&late), (2, "the process was retired by an unknown end"));
    }

    #[test]
    fn places_and_times_go_forward() {
        let mut moved = history(&["1 invoke get k", "1 ok get k"]);
        moved.events[1].time = 3;
        assert_eq!(moved.check().unwrap_err().what, "its time lies before that of the event before");
        let mut missing = history(&["1 invoke get k", "1 ok get k", "1 invoke get k"]);
        missing.events.remove(1);
        assert_eq!(missing.check().unwrap_err().index, 1);
    }
}
