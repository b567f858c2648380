//! Tally: counts words. Whoever sends a line is told how often that line was sent since the last full minute.
//!
//! Bounds: `LINE_MAX` bytes a line, `WORDS_MAX` words a minute.

#![forbid(unsafe_code)]

// guide: imports
use std::time::Duration;

use framework::pdpix::{Endpoint, Error, Heap, Input, Map, Output, Seed};
use framework::{
    Actor, Address, Codec, CodecError, Event, Outbox, Policy, Session, SessionSettings, System, carry_nowhere,
};
// guide: codec
const LINE_MAX: usize = 1024;

/// Lines of text.
pub struct Lines;

impl Codec for Lines {
    type In = String;
    type Out = String;

    fn decode(&mut self, input: &mut Input, heap: &Heap) -> Result<Option<String>, CodecError> {
        let Some(end) = input.find(b'\n', 0) else {
            return if input.len() > LINE_MAX { Err(CodecError::TooLong) } else { Ok(None) };
        };
        if end > LINE_MAX {
            return Err(CodecError::TooLong);
        }
        let line = input.take(end + 1, heap).map_err(|_| CodecError::NoMemory)?;
        match std::str::from_utf8(&line) {
            Ok(text) => Ok(Some(text.trim_end().to_string())),
            Err(_) => Err(CodecError::Malformed("a line is not UTF-8")),
        }
    }

    fn encode(line: String, output: &mut Output) {
        output.put(line.as_bytes());
        output.put(b"\n");
    }
}
// guide: state
const WORDS_MAX: usize = 10_000;
const MINUTE: Duration = Duration::from_secs(60);
const NEW_MINUTE: u64 = 1;

/// Where to listen, and whom to tell of it.
#[derive(Clone, Debug)]
pub struct TallyArgs {
    /// Where.
    pub listen: Endpoint,
    /// Told, once, where it listens in fact, or why it does not.
    pub on_listening: fn(Result<Endpoint, Error>),
}

/// Owns the counts. Sent to by its sessions. A restart loses the counts of the minute.
pub struct Tally {
    args: TallyArgs,
    counts: Map<String, u64>,
}

/// A line that came in on a session.
#[derive(Debug)]
pub struct Heard(Session<Lines>, String);

carry_nowhere!(Heard);
// guide: actor
impl Actor for Tally {
    type Message = Heard;

    fn handle(&mut self, event: Event<Heard>, out: &mut Outbox<'_, Self>) {
        match event {
            Event::Started => {
                out.listen(self.args.listen, SessionSettings::default(), || Lines, Heard);
                out.set_timer(MINUTE, NEW_MINUTE);
            }
            Event::Message(Heard(session, word)) => {
                let answer = self.count(word);
                out.write(session, answer);
            }
            Event::Timer(NEW_MINUTE) => {
                self.counts.clear();
                out.set_timer(MINUTE, NEW_MINUTE);
            }
            Event::Listening { at, .. } => (self.args.on_listening)(Ok(at)),
            Event::ListenFailed { error, .. } => {
                (self.args.on_listening)(Err(error));
                out.stop_service(1);
            }
            _ => {}
        }
    }
}

impl Tally {
    /// With nothing counted.
    pub fn new(args: TallyArgs, seed: &Seed) -> Tally {
        Tally { args, counts: seed.map() }
    }

    fn count(&mut self, word: String) -> String {
        if self.counts.len() == WORDS_MAX && !self.counts.contains_key(&word) {
            return "too many words".into();
        }
        let count = self.counts.entry(word).or_insert(0);
        *count += 1;
        count.to_string()
    }
}
// guide: run
/// Starts a tally on this core.
pub fn run(system: &System, args: TallyArgs) -> Address<Tally> {
    let seed = system.libos().seed().clone();
    system.spawn(Some("tally"), Policy::ESSENTIAL, move || Tally::new(args.clone(), &seed))
}
// guide: tests
#[cfg(test)]
mod tests {
    use framework::Harness;

    use super::*;

    fn tally() -> (Harness<Tally>, Endpoint) {
        let listen = "10.0.0.1:7009".parse().unwrap();
        let args = TallyArgs { listen, on_listening: |_| {} };
        let mut harness = Harness::new(Tally::new(args, &Seed::new(1)), 1);
        harness.start();
        (harness, listen)
    }

    #[test]
    fn words_are_counted_over_all_sessions() {
        let (mut harness, listen) = tally();
        let first = harness.accept(listen, "10.0.0.2:1".parse().unwrap());
        let second = harness.accept(listen, "10.0.0.2:2".parse().unwrap());
        harness.receive(first, b"plum\npear\nplum\n").unwrap();
        harness.receive(second, b"plum\n").unwrap();
        assert_eq!((harness.written(first), harness.written(second)), (b"1\n1\n2\n".to_vec(), b"3\n".to_vec()));
    }

    #[test]
    fn a_line_may_come_in_pieces_and_not_be_endless() {
        let (mut harness, listen) = tally();
        let session = harness.accept(listen, "10.0.0.2:1".parse().unwrap());
        harness.receive(session, b"pl").unwrap();
        assert_eq!(harness.written(session), b"");
        harness.receive(session, b"um\n").unwrap();
        assert_eq!(harness.written(session), b"1\n");
        assert_eq!(harness.receive(session, &[b'x'; LINE_MAX + 1]), Err(CodecError::TooLong));
    }

    #[test]
    fn each_minute_begins_anew() {
        let (mut harness, listen) = tally();
        let session = harness.accept(listen, "10.0.0.2:1".parse().unwrap());
        harness.receive(session, b"plum\n").unwrap();
        harness.advance(MINUTE);
        harness.receive(session, b"plum\n").unwrap();
        assert_eq!(harness.written(session), b"1\n1\n");
    }
}
