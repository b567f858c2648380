//! Histories as files: JSON Lines, a header and then an event a line.

use std::io::{self, BufRead, Write};

use super::{Event, Header, History};

/// What is wrong with a file.
#[derive(Debug, thiserror::Error)]
pub enum ReadError {
    /// It cannot be read.
    #[error("line {line}: {error}")]
    Io {
        /// From 1.
        line: usize,
        /// Why.
        error: io::Error,
    },
    /// A line is not what stands there in a history.
    #[error("line {line} is no {what}: {error}")]
    Malformed {
        /// From 1.
        line: usize,
        /// What it should be.
        what: &'static str,
        /// Why it is not.
        error: serde_json::Error,
    },
    /// There is not even a header.
    #[error("line 1: the file is empty, a history begins with a header")]
    Empty,
}

impl ReadError {
    /// The line that is wrong, from 1.
    pub fn line(&self) -> usize {
        match self {
            ReadError::Io { line, .. } | ReadError::Malformed { line, .. } => *line,
            ReadError::Empty => 1,
        }
    }
}

impl History {
    /// Writes all of it.
    ///
    /// # Errors
    /// Those of `out`.
    pub fn write(&self, out: &mut impl Write) -> io::Result<()> {
        serde_json::to_writer(&mut *out, &self.header)?;
        out.write_all(b"\n")?;
        for event in &self.events {
            serde_json::to_writer(&mut *out, event)?;
            out.write_all(b"\n")?;
        }
        out.flush()
    }

    /// Reads all of it. That it is well formed is asked separately: [`History::check`].
    ///
    /// # Errors
    /// [`ReadError`], with the line.
    pub fn read(input: impl BufRead) -> Result<History, ReadError> {
        let mut lines = input.lines().enumerate().map(|(index, line)| (index + 1, line));
        let (line, first) = lines.next().ok_or(ReadError::Empty)?;
        let header: Header = parse(line, "header", first)?;
        let events = lines.map(|(line, text)| parse(line, "event", text));
        Ok(History { header, events: events.collect::<Result<Vec<Event>, _>>()? })
    }
}

fn parse<T: serde::de::DeserializeOwned>(
    line: usize,
    what: &'static str,
    text: io::Result<String>,
) -> Result<T, ReadError> {
    let text = text.map_err(|error| ReadError::Io { line, error })?;
    serde_json::from_str(&text).map_err(|error| ReadError::Malformed { line, what, error })
}

#[cfg(test)]
mod tests {
    use quickcheck::{Arbitrary, Gen, quickcheck};

    use super::*;
    use crate::history::{Datum, Kind, Process};

    impl Arbitrary for Datum {
        fn arbitrary(g: &mut Gen) -> Datum {
            match u8::arbitrary(g) % 3 {
                0 => Datum::Nil,
                1 => Datum::Integer(i64::arbitrary(g)),
                _ => Datum::Text(String::arbitrary(g)),
            }
        }
    }

    impl Arbitrary for Event {
        fn arbitrary(g: &mut Gen) -> Event {
            let process = if bool::arbitrary(g) { Process::Client(u64::arbitrary(g)) } else { Process::NEMESIS };
            Event {
                index: u64::arbitrary(g),
                process,
                kind: *g.choose(&[Kind::Invoke, Kind::Ok, Kind::Fail, Kind::Info]).expect("some"),
                f: String::arbitrary(g),
                value: (String::arbitrary(g), Datum::arbitrary(g)),
                time: u64::arbitrary(g),
            }
        }
    }

    quickcheck! {
        fn what_was_written_is_read(events: Vec<Event>, revision: String, seed: u64, world: String) -> bool {
            let configuration = [("world".to_string(), world.into())].into_iter().collect();
            let history = History { header: Header { revision, seed, configuration }, events };
            let mut file = Vec::new();
            history.write(&mut file).unwrap();
            assert_eq!(file.iter().filter(|&&byte| byte == b'\n').count(), history.events.len() + 1, "a line each");
            History::read(&file[..]).unwrap() == history
        }

        fn no_bytes_make_the_reader_panic(bytes: Vec<u8>, at: usize, byte: u8) -> bool {
            let mut file = SAMPLE.as_bytes().to_vec();
            let at = at % file.len();
            file[at] = byte;
            let _ = (History::read(&bytes[..]), History::read(&file[..]).map(|history| history.check()));
            true
        }
    }

    const SAMPLE: &str = r#"{"revision":"e23d19c","seed":42,"configuration":{"world":"sim-calm"}}
{"index":0,"process":3,"type":"invoke","f":"set","value":["n0","17"],"time":1000}
{"index":1,"process":"nemesis","type":"invoke","f":"pause","value":["server",null],"time":1500}
{"index":2,"process":3,"type":"info","f":"set","value":["n0",null],"time":900000}
"#;

    #[test]
    fn the_format_is_the_documented_one() {
        let history = History::read(SAMPLE.as_bytes()).unwrap();
        assert_eq!((history.header.seed, history.header.configuration["world"].as_str()), (42, Some("sim-calm")));
        assert_eq!(history.events[0].value, ("n0".into(), "17".into()));
        assert_eq!((history.events[1].process, history.events[2].kind), (Process::NEMESIS, Kind::Info));
        let mut file = Vec::new();
        history.write(&mut file).unwrap();
        assert_eq!(String::from_utf8(file).unwrap(), SAMPLE);
    }

    #[test]
    fn what_is_no_history_is_told_with_its_line() {
        let wrong = |from: &str, to: &str| History::read(SAMPLE.replace(from, to).as_bytes()).unwrap_err();
        assert_eq!(History::read(&b""[..]).unwrap_err().line(), 1);
        assert_eq!(wrong("\"seed\":42", "\"seed\":\"x\"").line(), 1);
        assert_eq!(wrong("\"info\"", "\"maybe\"").line(), 4);
        assert_eq!(wrong("\"time\":1500", "\"time\":-1").line(), 3);
        assert_eq!(wrong("\"nemesis\"", "\"somebody\"").line(), 3);
        assert_eq!(wrong("\"time\":900000}\n", "").line(), 4, "a last line that was cut");
        assert!(wrong("\"info\"", "\"maybe\"").to_string().starts_with("line 4 is no event: "));
    }
}
