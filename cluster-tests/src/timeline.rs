//! A picture of a history (SVG): a lane a process, a bar an operation, in the colour of its end; faults as shades behind them;
//! the operation that cannot be explained is framed, and what is not about its key is pale. With such an operation only the
//! time around it is drawn.

use std::collections::BTreeMap;
use std::fmt::Write;

use crate::check::Violation;
use crate::history::{Datum, History, Kind, Operation, Process};

/// Of the names of the lanes.
const LEFT: f64 = 90.0;
const RIGHT: f64 = 30.0;
const HEAD: f64 = 40.0;
const LINE: f64 = 14.0;
const LANE: f64 = 24.0;
const AXIS: f64 = 30.0;
const BAR: f64 = 14.0;
/// The narrowest bar.
const BAR_WIDTH_MIN: f64 = 2.0;
/// An operation of usual length is so wide, if the whole does not become too wide.
const BAR_WIDTH_USUAL: f64 = 100.0;
const WIDTH_MIN: f64 = 900.0;
const WIDTH_MAX: f64 = 24_000.0;
/// What a letter takes in a bar.
const LETTER: f64 = 5.4;
const TICKS: u64 = 20;

const STYLE: &str = "text{font:9px monospace;fill:#222}.title{font-size:13px}.ok{fill:#8fc79a}.fail{fill:#c9c9c9}\
                     .info{fill:#f2b26b}.pale{opacity:.3}.fault{fill:#5577cc;opacity:.13}.lane{stroke:#e4e4e4}\
                     .tick{stroke:#ccc}.wrong{stroke:#d00000;stroke-width:2.5}.mark{fill:#d00000;font-weight:bold}";

/// Draws a history; with a violation, shows where it is.
pub fn svg(history: &History, violation: Option<&Violation>) -> String {
    Picture::new(history, violation).draw()
}

struct Picture<'a> {
    history: &'a History,
    violation: Option<&'a Violation>,
    operations: Vec<Operation>,
    faults: Vec<Operation>,
    /// Each process and its lane, from above.
    lanes: BTreeMap<Process, usize>,
    /// When the history begins.
    first: u64,
    /// The first and the last time that are shown.
    begin: u64,
    end: u64,
    width: f64,
}

impl<'a> Picture<'a> {
    fn new(history: &'a History, violation: Option<&'a Violation>) -> Picture<'a> {
        let (begin, end) = extent(history, violation);
        let is_shown =
            |operation: &Operation| operation.invoked.1 <= end && operation.ended.is_none_or(|(_, time)| time >= begin);
        let shown = |operations: Vec<Operation>| operations.into_iter().filter(is_shown).collect::<Vec<_>>();
        let (operations, faults) = (shown(history.operations()), shown(history.faults()));
        let mut lanes = BTreeMap::new();
        for operation in &operations {
            let next = lanes.len();
            lanes.entry(operation.process).or_insert(next);
        }
        let width = width(&operations, end - begin);
        let first = history.events.iter().map(|event| event.time).min().unwrap_or(0);
        Picture { history, violation, operations, faults, lanes, first, begin, end, width }
    }

    fn x(&self, time: u64) -> f64 {
        let time = time.clamp(self.begin, self.end);
        LEFT + (time - self.begin) as f64 / (self.end - self.begin).max(1) as f64 * self.width
    }

    /// From where to where, of what began and perhaps did not end.
    fn span(&self, operation: &Operation) -> (f64, f64) {
        let (from, to) = (self.x(operation.invoked.1), self.x(operation.ended.map_or(self.end, |(_, time)| time)));
        (from, (to - from).max(BAR_WIDTH_MIN))
    }

    /// Where the lanes begin: below the title and a line for each fault.
    fn top(&self) -> f64 {
        HEAD + LINE * self.faults.len() as f64
    }

    fn bottom(&self) -> f64 {
        self.top() + LANE * self.lanes.len() as f64
    }

    fn draw(&self) -> String {
        let (width, height) = (LEFT + self.width + RIGHT, self.bottom() + AXIS);
        let mut out = format!(
            "<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"{width:.0}\" height=\"{height:.0}\">\n\
             <style>{STYLE}</style>\n<rect width=\"100%\" height=\"100%\" fill=\"white\"/>\n"
        );
        let world = self.history.header.configuration.get("world").and_then(|name| name.as_str()).unwrap_or("history");
        let verdict = self.violation.map_or(String::new(), |violation| {
            format!(": key {} cannot be explained from event {} on", violation.key, violation.prefix)
        });
        let title = format!("{world}, seed {:#x}{verdict}", self.history.header.seed);
        text(&mut out, "title", 10.0, 20.0, &title);
        self.draw_faults(&mut out);
        self.draw_lanes(&mut out);
        self.draw_axis(&mut out);
        self.operations.iter().for_each(|operation| self.draw_operation(&mut out, operation));
        out + "</svg>\n"
    }

    fn draw_faults(&self, out: &mut String) {
        for (line, fault) in self.faults.iter().enumerate() {
            let (x, width) = self.span(fault);
            let (y, name) = (HEAD + LINE * line as f64, format!("{} {}", fault.f, fault.key));
            let height = self.bottom() - y;
            rect(out, "fault", (x, y, width, height), &name);
            text(out, "name", x + 2.0, y + 10.0, &name);
        }
    }

    fn draw_lanes(&self, out: &mut String) {
        for (process, &lane) in &self.lanes {
            let y = self.top() + LANE * lane as f64;
            let (from, to) = (LEFT, LEFT + self.width);
            let _ = writeln!(out, "<line class=\"lane\" x1=\"{from}\" y1=\"{y:.1}\" x2=\"{to:.1}\" y2=\"{y:.1}\"/>");
            text(out, "name", 10.0, y + 18.0, &format!("process {process}"));
        }
    }

    fn draw_axis(&self, out: &mut String) {
        let (top, bottom) = (self.top(), self.bottom());
        for tick in 0..=TICKS {
            let time = self.begin + (self.end - self.begin) / TICKS * tick;
            let x = self.x(time);
            let _ = writeln!(out, "<line class=\"tick\" x1=\"{x:.1}\" y1=\"{top}\" x2=\"{x:.1}\" y2=\"{bottom}\"/>");
            let millis = (time - self.first) as f64 / 1e6;
            text(out, "name", x, bottom + 14.0, &format!("{millis:.1} ms"));
        }
    }

    fn draw_operation(&self, out: &mut String, operation: &Operation) {
        let (x, width) = self.span(operation);
        let y = self.top() + LANE * self.lanes[&operation.process] as f64 + 8.0;
        let mut class = match operation.end {
            Kind::Ok => "ok",
            Kind::Fail => "fail",
            Kind::Invoke | Kind::Info => "info",
        }
        .to_string();
        match self.violation {
            Some(violation) if violation.operation == *operation => {
                class += " wrong";
                text(out, "mark", x, y - 2.0, "this cannot be explained");
            }
            Some(violation) if violation.key != operation.key => class += " pale",
            _ => {}
        }
        rect(out, &class, (x, y, width, BAR), &operation.to_string());
        let label = label(operation);
        if label.chars().count() as f64 * LETTER < width {
            text(out, "name", x + 2.0, y + 10.0, &label);
        }
    }
}

/// The time of all events; or of those that help to understand a violation, and a little more.
fn extent(history: &History, violation: Option<&Violation>) -> (u64, u64) {
    let times = || history.events.iter().map(|event| event.time);
    let (first, last) = (times().min().unwrap_or(0), times().max().unwrap_or(0));
    let Some(violation) = violation else { return (first, last) };
    let ended = violation.around.iter().filter_map(|near| Some((near.invoked.1, near.ended?.1, near.end)));
    let (mut begin, mut end) = (violation.operation.invoked.1, violation.operation.invoked.1);
    for (from, to, _) in ended.filter(|(_, _, kind)| *kind == Kind::Ok) {
        (begin, end) = (begin.min(from), end.max(to));
    }
    let margin = end.saturating_sub(begin) / 4;
    (begin.saturating_sub(margin).max(first), end.saturating_add(margin).min(last))
}

/// How wide the whole is, for the usual operation to be wide enough.
fn width(operations: &[Operation], length: u64) -> f64 {
    let lasted = |operation: &Operation| operation.ended.map(|(_, time)| time.saturating_sub(operation.invoked.1));
    let mut lengths: Vec<u64> = operations.iter().filter_map(lasted).collect();
    lengths.sort_unstable();
    let usual = lengths.get(lengths.len() / 2).copied().unwrap_or(0).max(1);
    (length as f64 / usual as f64 * BAR_WIDTH_USUAL).clamp(WIDTH_MIN, WIDTH_MAX)
}

/// What is written into a bar.
fn label(operation: &Operation) -> String {
    let short = |datum: &Datum| match datum {
        Datum::Nil => String::new(),
        Datum::Integer(number) => format!(" {number}"),
        Datum::Text(text) => format!(" {text}"),
    };
    let result = match operation.end {
        Kind::Ok if operation.result == Datum::Nil && operation.argument != Datum::Nil => String::new(),
        Kind::Ok if operation.result == Datum::Nil => " = nil".into(),
        Kind::Ok => format!(" ={}", short(&operation.result)),
        _ => String::new(),
    };
    format!("{} {}{}{result}", operation.f, operation.key, short(&operation.argument))
}

/// A box, and what is told of it when it is pointed at.
fn rect(out: &mut String, class: &str, (x, y, width, height): (f64, f64, f64, f64), told: &str) {
    let place = format!("x=\"{x:.1}\" y=\"{y:.1}\" width=\"{width:.1}\" height=\"{height:.1}\"");
    let _ = writeln!(out, "<rect class=\"{class}\" {place}><title>{}</title></rect>", escape(told));
}

fn text(out: &mut String, class: &str, x: f64, y: f64, text: &str) {
    let _ = writeln!(out, "<text class=\"{class}\" x=\"{x:.1}\" y=\"{y:.1}\">{}</text>", escape(text));
}

/// Text as XML has it. What XML cannot say at all is replaced.
fn escape(text: &str) -> String {
    let mut escaped = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '&' => escaped.push_str("&amp;"),
            '<' => escaped.push_str("&lt;"),
            '>' => escaped.push_str("&gt;"),
            '"' => escaped.push_str("&quot;"),
            '\t' | '\n' | '\r' => escaped.push(' '),
            '\0'..' ' | '\u{fffe}' | '\u{ffff}' => escaped.push(char::REPLACEMENT_CHARACTER),
            c => escaped.push(c),
        }
    }
    escaped
}

#[cfg(test)]
mod tests {
    use quickcheck::quickcheck;

    use super::*;
    use crate::check::linearizable::Budget;
    use crate::check::{Verdict, cache};
    use crate::history::{Event, Header};

    /// Parses a picture strictly; gives the classes of its boxes.
    fn boxes(svg: &str) -> Vec<String> {
        let document = roxmltree::Document::parse(svg).unwrap_or_else(|error| panic!("{error}: {svg}"));
        let width = document.root_element().attribute("width").and_then(|width| width.parse::<f64>().ok()).unwrap();
        let mut classes = Vec::new();
        for node in document.descendants().filter(|node| node.has_tag_name("rect")) {
            let Some(class) = node.attribute("class") else { continue };
            let number = |name: &str| node.attribute(name).and_then(|text| text.parse::<f64>().ok()).unwrap();
            let (x, wide) = (number("x"), number("width"));
            assert!(x >= LEFT && wide > 0.0 && x + wide <= width, "outside of the picture: {x} + {wide} of {width}");
            classes.push(class.to_string());
        }
        classes
    }

    fn event(index: u64, process: Process, kind: Kind, f: &str, value: (&str, Datum)) -> Event {
        let value = (value.0.to_string(), value.1);
        Event { index, process, kind, f: f.into(), value, time: 1_000_000 * index }
    }

    fn stale() -> History {
        let (one, two) = (Process::Client(1), Process::Client(2));
        let events = vec![
            event(0, one, Kind::Invoke, "set", ("k", "<a & \"b\">".into())),
            event(1, one, Kind::Ok, "set", ("k", Datum::Nil)),
            event(2, Process::NEMESIS, Kind::Invoke, "pause", ("server", Datum::Nil)),
            event(3, two, Kind::Invoke, "get", ("k", Datum::Nil)),
            event(4, two, Kind::Ok, "get", ("k", Datum::Nil)),
            event(5, one, Kind::Invoke, "set", ("other", "x".into())),
            event(6, one, Kind::Info, "set", ("other", Datum::Nil)),
            event(7, Process::NEMESIS, Kind::Ok, "pause", ("server", Datum::Nil)),
        ];
        History { header: Header::default(), events }
    }

    #[test]
    fn the_operation_that_is_wrong_is_marked() {
        let history = stale();
        let Verdict::Invalid(violation) = cache(&history, Budget::default()) else { panic!("it is wrong") };
        let svg = svg(&history, Some(&violation));
        assert_eq!(boxes(&svg), ["fault", "ok", "ok wrong", "info pale"]);
        assert!(svg.contains("this cannot be explained") && svg.contains("pause server"), "{svg}");
        assert!(svg.contains("&lt;a &amp; ") && !svg.contains("<a &"), "{svg}");
    }

    #[test]
    fn without_a_violation_nothing_is() {
        assert_eq!(boxes(&svg(&stale(), None)), ["fault", "ok", "ok", "info"]);
        assert_eq!(boxes(&svg(&History::default(), None)), [""; 0], "an empty history is an empty picture");
    }

    quickcheck! {
        fn any_history_is_a_picture(events: Vec<Event>) -> bool {
            let history = History { header: Header::default(), events };
            boxes(&svg(&history, None)).len() == history.operations().len() + history.faults().len()
        }
    }
}
