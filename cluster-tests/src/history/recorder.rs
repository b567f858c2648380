//! How events become a history: noted one after the other by whoever sees all of them, or merged from several clients' notes.

use super::{Datum, Event, Kind, Process};

/// Notes events in the order in which they happen, and says who may still do something.
#[derive(Default, Debug)]
pub struct Recorder {
    events: Vec<Event>,
    processes: u64,
}

impl Recorder {
    /// A number that no process has had.
    pub fn new_process(&mut self) -> Process {
        self.processes += 1;
        Process::Client(self.processes - 1)
    }

    /// Notes an event.
    pub fn note(&mut self, process: Process, kind: Kind, f: &str, value: (String, Datum), time: u64) {
        let index = self.events.len() as u64;
        self.events.push(Event { index, process, kind, f: f.to_string(), value, time });
    }

    /// A client is gone, and with it whatever its process had begun: that ends unknown.
    pub fn lose(&mut self, process: Process, time: u64) {
        let last = self.events.iter().rev().find(|event| event.process == process);
        if let Some(Event { kind: Kind::Invoke, f, value: (key, _), .. }) = last {
            let (f, key) = (f.clone(), key.clone());
            self.note(process, Kind::Info, &f, (key, Datum::Nil), time);
        }
    }

    /// What was noted so far.
    pub fn events(&self) -> &[Event] {
        &self.events
    }

    /// All that was noted.
    pub fn into_events(self) -> Vec<Event> {
        self.events
    }
}

/// One history of the notes of several clients, each in its own order, whose clocks are the same one. At one and the same
/// time beginnings stand before ends: what may have been concurrent counts as concurrent.
pub fn merge(notes: Vec<Vec<Event>>) -> Vec<Event> {
    let mut events: Vec<Event> = Vec::with_capacity(notes.iter().map(Vec::len).sum());
    let mut notes: Vec<_> = notes.into_iter().map(|note| note.into_iter().peekable()).collect();
    loop {
        let next = notes.iter_mut().enumerate().filter_map(|(i, note)| {
            let event = note.peek()?;
            Some(((event.time, event.kind != Kind::Invoke), i))
        });
        let Some((_, i)) = next.min() else { return events };
        let event = notes[i].next().expect("it was just seen");
        events.push(Event { index: events.len() as u64, ..event });
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::history::History;

    #[test]
    fn a_lost_client_leaves_no_operation_open() {
        let mut recorder = Recorder::default();
        let (lost, idle) = (recorder.new_process(), recorder.new_process());
        assert_ne!(lost, idle);
        recorder.note(idle, Kind::Invoke, "get", ("k".into(), Datum::Nil), 1);
        recorder.note(lost, Kind::Invoke, "set", ("k".into(), "v".into()), 2);
        recorder.note(idle, Kind::Ok, "get", ("k".into(), Datum::Nil), 3);
        recorder.lose(lost, 4);
        recorder.lose(idle, 5);
        let history = History { events: recorder.into_events(), ..History::default() };
        assert_eq!(history.check(), Ok(()));
        assert_eq!(history.events.len(), 4, "only what was open ends");
        assert_eq!((history.events[3].process, history.events[3].kind), (lost, Kind::Info));
    }

    #[test]
    fn notes_are_merged_by_time_and_what_may_be_concurrent_is() {
        let event = |process, kind, time| Event {
            index: 0,
            process: Process::Client(process),
            kind,
            f: "get".into(),
            value: ("k".into(), Datum::Nil),
            time,
        };
        let one = vec![event(1, Kind::Invoke, 10), event(1, Kind::Ok, 20), event(1, Kind::Invoke, 20)];
        let other = vec![event(2, Kind::Invoke, 20), event(2, Kind::Ok, 30)];
        let merged = merge(vec![one, other]);
        let order: Vec<(Process, Kind)> = merged.iter().map(|event| (event.process, event.kind)).collect();
        let (one, other) = (Process::Client(1), Process::Client(2));
        let wanted =
            [(one, Kind::Invoke), (other, Kind::Invoke), (one, Kind::Ok), (one, Kind::Invoke), (other, Kind::Ok)];
        assert_eq!(order, wanted);
        assert_eq!(History { events: merged, ..History::default() }.check(), Ok(()));
    }
}
