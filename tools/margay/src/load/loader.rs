//! The actor that asks: one a core, with its part of the connections and of the rate.
//!
//! Connect; fill the keys; warm up; measure; wait for the last answers. A request's latency counts from when it was due,
//! not from when it could be sent: a service that stalls is charged for all that had to wait (no coordinated omission).
//! In the closed loop a request is due when it is sent.
//!
//! Time is that of the core's pass, so a figure may be too small by what one pass takes.

use std::collections::{HashMap, VecDeque};
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use framework::pdpix::{Buf, Endpoint, Instant};
use framework::{Actor, Closed, Event, Outbox, Session, SessionId, SessionSettings, carry_nowhere};

use super::progress::Progress;
use super::schedule::{Arrivals, Schedule};
use super::tally::{Tally, count};
use super::wire::{NUMBER_LEN, Protocol, Reply, Request, Wire};

/// What a core is to do.
#[derive(Clone, Debug)]
pub struct Plan {
    /// Where the service is.
    pub connect: Endpoint,
    /// What it speaks.
    pub protocol: Protocol,
    /// How fast.
    pub pace: Pace,
    /// Connections of this core.
    pub connections: usize,
    /// Bytes in each message or value.
    pub size: usize,
    /// Keys of all cores.
    pub keys: u64,
    /// The share of GETs.
    pub reads: f64,
    /// Keys to be set first: from the first on, each so-many-th; `None`: none.
    pub fill: Option<(u64, usize)>,
    /// How long nothing is counted.
    pub warm_up: Duration,
    /// How long it is measured.
    pub duration: Duration,
}

/// How fast.
#[derive(Clone, Copy, Debug)]
pub enum Pace {
    /// Open loop: this many a second on this core.
    Rate(f64, Arrivals),
    /// Closed loop: as many in flight on each connection.
    Closed(usize),
}

/// What the cores share.
#[derive(Debug, Default)]
pub struct Shared {
    /// Cores that are not done.
    pub running: AtomicUsize,
    /// Answers so far.
    pub answered: AtomicU64,
    /// What each core has counted.
    pub tallies: Mutex<Vec<Tally>>,
}

/// Requests that one core may have in flight. Beyond it what is due is an error.
const IN_FLIGHT_MAX: usize = 1 << 20;
/// Bytes that these may be.
const IN_FLIGHT_BYTES_MAX: usize = 256 << 20;
/// Arrivals that are sent before others get their turn.
const ARRIVALS_A_TURN: usize = 1024;
/// SETs in flight on a connection while the keys are filled.
const FILL_PIPELINE: usize = 32;
/// How long the first connection may take, and an answer while the keys are set.
const BEGIN_TIMEOUT: Duration = Duration::from_secs(5);
/// How long a lost connection is left alone.
const RECONNECT_AFTER: Duration = Duration::from_millis(100);
/// How long the last answers are waited for.
const DRAIN: Duration = Duration::from_secs(2);
const HOUSEKEEPING: Duration = Duration::from_millis(20);

const ARRIVAL: u64 = 0;
const HOUSEKEEP: u64 = 1;

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Phase {
    Connecting,
    Filling,
    /// Requests are due; those from `from` on count.
    Asking {
        from: Instant,
        until: Instant,
    },
    /// The last answers are waited for.
    Draining {
        from: Instant,
        until: Instant,
    },
    Over,
}

#[derive(Default)]
struct Connection {
    session: Option<Session<Wire>>,
    is_open: bool,
    lost_at: Option<Instant>,
    /// Requests without an answer yet, oldest first.
    waiting: VecDeque<Asked>,
}

struct Asked {
    due: Instant,
    number: u64,
    counted: bool,
}

/// Owns the connections and the counts of its core. Sent to by its sessions. No restart: a measurement with a gap is none.
pub struct Loader {
    plan: Plan,
    shared: Arc<Shared>,
    progress: Option<Progress>,
    phase: Phase,
    started: Instant,
    /// When the last answer came, while the keys are set; since when the last answers are waited for.
    heard: Instant,
    connections: Vec<Connection>,
    places: HashMap<SessionId, u32>,
    open: usize,
    turn: usize,
    in_flight: usize,
    in_flight_max: usize,
    /// Of these, those that count.
    counted_in_flight: u64,
    schedule: Option<Schedule>,
    /// The next key to be set first.
    fill_next: u64,
    number: u64,
    filler: Option<Buf>,
    tally: Tally,
    /// Answers that `shared` does not know of yet.
    answered: u64,
}

/// What comes back.
#[derive(Debug)]
pub struct Came(u32, Reply);

carry_nowhere!(Came);

impl Loader {
    /// One that has not begun. `progress` is shown by one core.
    pub fn new(plan: Plan, shared: Arc<Shared>, progress: Option<Progress>) -> Loader {
        let connections = (0..plan.connections).map(|_| Connection::default()).collect();
        let in_flight_max = (IN_FLIGHT_BYTES_MAX / (plan.size + 64)).clamp(1, IN_FLIGHT_MAX);
        let fill_next = plan.fill.map_or(u64::MAX, |(first, _)| first);
        Loader {
            plan,
            shared,
            progress,
            phase: Phase::Connecting,
            started: Instant::ZERO,
            heard: Instant::ZERO,
            connections,
            places: HashMap::new(),
            open: 0,
            turn: 0,
            in_flight: 0,
            in_flight_max,
            counted_in_flight: 0,
            schedule: None,
            fill_next,
            number: 0,
            filler: None,
            tally: Tally::default(),
            answered: 0,
        }
    }

    fn start(&mut self, out: &mut Outbox<'_, Loader>) {
        self.started = out.now();
        let filler = match self.plan.protocol {
            Protocol::Resp => self.plan.size,
            Protocol::Echo => self.plan.size.saturating_sub(NUMBER_LEN),
        };
        if filler > 0 {
            match out.heap().alloc(filler) {
                Ok(mut bytes) => {
                    bytes.resize(filler, b'm');
                    self.filler = Some(bytes.freeze());
                }
                Err(_) => return self.give_up("no memory for a message", out),
            }
        }
        (0..self.connections.len()).for_each(|place| self.connect(place, out));
        out.set_timer(HOUSEKEEPING, HOUSEKEEP);
    }

    fn connect(&mut self, place: usize, out: &mut Outbox<'_, Loader>) {
        // What is due is sent, however little the service takes: the bound is on what is in flight.
        let settings = SessionSettings { output_max: usize::MAX, ..SessionSettings::default() };
        let wire = Wire::new(place as u32, self.plan.protocol, self.plan.size);
        let session = out.connect(self.plan.connect, settings, wire, |_, (place, reply)| Came(place, reply));
        self.places.insert(session.id(), place as u32);
        self.connections[place].session = Some(session);
        self.connections[place].lost_at = None;
    }

    fn on_opened(&mut self, session: SessionId, out: &mut Outbox<'_, Loader>) {
        let Some(&place) = self.places.get(&session) else { return };
        self.connections[place as usize].is_open = true;
        self.open += 1;
        match self.phase {
            Phase::Connecting if self.open == self.connections.len() => self.fill(out),
            Phase::Filling => self.fill_more(place as usize, out),
            Phase::Asking { .. } => self.ask_again(place as usize, out),
            _ => {}
        }
    }

    fn on_closed(&mut self, session: SessionId, why: Closed, out: &mut Outbox<'_, Loader>) {
        let Some(place) = self.places.remove(&session) else { return };
        let kind = kind_of(why);
        let connection = &mut self.connections[place as usize];
        connection.session = None;
        connection.lost_at = Some(out.now());
        let was_open = std::mem::take(&mut connection.is_open);
        let lost = std::mem::take(&mut connection.waiting);
        self.in_flight -= lost.len();
        let counted = lost.iter().filter(|asked| asked.counted).count() as u64;
        self.counted_in_flight -= counted;
        count(&mut self.tally.errors, &kind, counted);
        if was_open {
            self.open -= 1;
        }
        if self.phase != Phase::Over && (counted == 0 || !was_open) {
            count(&mut self.tally.aside, &format!("connections: {kind}"), 1);
        }
        // Nobody is there at all: no use in waiting.
        let all_lost = self.connections.iter().all(|connection| connection.session.is_none());
        if all_lost && matches!(self.phase, Phase::Connecting | Phase::Filling) {
            self.give_up(&kind, out);
        }
    }

    /// Could not begin.
    fn give_up(&mut self, why: &str, out: &mut Outbox<'_, Loader>) {
        if self.tally.aside.is_empty() {
            count(&mut self.tally.aside, why, 1);
        }
        self.tally.cut_short = true;
        self.end(out);
    }

    fn fill(&mut self, out: &mut Outbox<'_, Loader>) {
        (self.phase, self.heard) = (Phase::Filling, out.now());
        (0..self.connections.len()).for_each(|place| self.fill_more(place, out));
        self.check_filled(out);
    }

    fn fill_more(&mut self, place: usize, out: &mut Outbox<'_, Loader>) {
        let Some((_, step)) = self.plan.fill else { return };
        let connection = &mut self.connections[place];
        let Some(session) = connection.session.filter(|_| connection.is_open) else { return };
        while self.fill_next < self.plan.keys && connection.waiting.len() < FILL_PIPELINE {
            if !out.write(session, Request::Set(self.fill_next, self.filler.clone())) {
                return;
            }
            connection.waiting.push_back(Asked { due: out.now(), number: 0, counted: false });
            self.in_flight += 1;
            self.fill_next += step as u64;
        }
    }

    fn check_filled(&mut self, out: &mut Outbox<'_, Loader>) {
        if self.fill_next < self.plan.keys || self.in_flight > 0 {
            return;
        }
        let from = out.now() + self.plan.warm_up;
        self.phase = Phase::Asking { from, until: from + self.plan.duration };
        match self.plan.pace {
            Pace::Rate(rate, arrivals) => {
                self.schedule = Some(Schedule::new(arrivals, rate, out.now(), out.rng()));
                self.on_arrivals(out);
            }
            Pace::Closed(_) => (0..self.connections.len()).for_each(|place| self.ask_again(place, out)),
        }
    }

    /// Sends everything that is due.
    fn on_arrivals(&mut self, out: &mut Outbox<'_, Loader>) {
        let (Phase::Asking { until, .. }, Some(mut schedule)) = (self.phase, self.schedule.take()) else { return };
        for _ in 0..ARRIVALS_A_TURN {
            let due = schedule.next();
            if due > out.now() || due >= until {
                break;
            }
            self.arrive(due, out);
            schedule.step(out.rng());
        }
        if schedule.next() < until {
            out.set_timer(schedule.next().since(out.now()), ARRIVAL);
        }
        self.schedule = Some(schedule);
    }

    /// A request is due: it goes to the next connection that is open.
    fn arrive(&mut self, due: Instant, out: &mut Outbox<'_, Loader>) {
        let refusal = if self.open == 0 {
            Some("not connected")
        } else if self.in_flight >= self.in_flight_max {
            Some("not sent: too many are in flight")
        } else {
            None
        };
        if let Some(kind) = refusal {
            return self.count_unsent(due, kind);
        }
        for _ in 0..self.connections.len() {
            let place = self.turn;
            self.turn = (self.turn + 1) % self.connections.len();
            if self.connections[place].is_open {
                return self.ask(place, due, out);
            }
        }
    }

    fn count_unsent(&mut self, due: Instant, kind: &str) {
        if self.counts(due) {
            self.tally.asked += 1;
            count(&mut self.tally.errors, kind, 1);
        }
    }

    fn counts(&self, due: Instant) -> bool {
        matches!(self.phase, Phase::Asking { from, until } if due >= from && due < until)
    }

    fn ask(&mut self, place: usize, due: Instant, out: &mut Outbox<'_, Loader>) {
        self.number += 1;
        let number = self.number;
        let request = match self.plan.protocol {
            Protocol::Echo => Request::Echo { number, size: self.plan.size, filler: self.filler.clone() },
            Protocol::Resp => {
                let key = out.rng().below(self.plan.keys);
                let is_read = out.rng().chance(self.plan.reads);
                if is_read { Request::Get(key) } else { Request::Set(key, self.filler.clone()) }
            }
        };
        let Some(session) = self.connections[place].session else { return };
        if !out.write(session, request) {
            return self.count_unsent(due, "not connected");
        }
        let counted = self.counts(due);
        if counted {
            self.tally.asked += 1;
            self.counted_in_flight += 1;
            self.tally.lag.saturating_record(out.now().since(due).as_nanos() as u64);
        }
        self.connections[place].waiting.push_back(Asked { due, number, counted });
        self.in_flight += 1;
    }

    /// Closed loop: as many as may be in flight.
    fn ask_again(&mut self, place: usize, out: &mut Outbox<'_, Loader>) {
        let (Pace::Closed(pipeline), Phase::Asking { until, .. }) = (self.plan.pace, self.phase) else { return };
        while out.now() < until && self.connections[place].is_open && self.connections[place].waiting.len() < pipeline {
            let before = self.in_flight;
            self.ask(place, out.now(), out);
            if self.in_flight == before {
                break; // it is closing
            }
        }
    }

    fn on_reply(&mut self, place: u32, reply: Reply, out: &mut Outbox<'_, Loader>) {
        let place = place as usize;
        let Some(asked) = self.connections[place].waiting.pop_front() else {
            return count(&mut self.tally.aside, "an answer that nothing was asked for", 1);
        };
        self.in_flight -= 1;
        if let Phase::Asking { from, until } | Phase::Draining { from, until } = self.phase
            && (from..until).contains(&out.now())
        {
            self.tally.in_window += 1;
        }
        self.answered += 1;
        self.judge(&asked, reply, out.now());
        match self.phase {
            Phase::Filling => {
                self.heard = out.now();
                self.fill_more(place, out);
                self.check_filled(out);
            }
            Phase::Asking { .. } => self.ask_again(place, out),
            _ => {}
        }
    }

    fn judge(&mut self, asked: &Asked, reply: Reply, now: Instant) {
        let mask = if self.plan.size < NUMBER_LEN { (1 << (self.plan.size * 8)) - 1 } else { u64::MAX };
        let wrong = match reply {
            Reply::Found => {
                self.tally.found += u64::from(asked.counted);
                None
            }
            Reply::Missing => {
                self.tally.missing += u64::from(asked.counted);
                None
            }
            Reply::Done => None,
            Reply::Echoed(number) if number == asked.number & mask => None,
            Reply::Echoed(_) => Some("other bytes came back".to_owned()),
            Reply::Refused(text) => Some(format!("refused: {text}")),
            Reply::Strange => Some("an answer of another type".to_owned()),
        };
        let kinds = if asked.counted { &mut self.tally.errors } else { &mut self.tally.aside };
        if let Some(kind) = &wrong {
            count(kinds, kind, 1);
        }
        if asked.counted {
            self.counted_in_flight -= 1;
            if wrong.is_none() {
                self.tally.answered += 1;
                self.tally.latency.saturating_record(now.since(asked.due).as_nanos() as u64);
            }
        }
    }

    fn housekeep(&mut self, out: &mut Outbox<'_, Loader>) {
        let now = out.now();
        self.shared.answered.fetch_add(std::mem::take(&mut self.answered), Ordering::Relaxed);
        match self.phase {
            Phase::Connecting if now.since(self.started) >= BEGIN_TIMEOUT => {
                if self.open == 0 {
                    return self.give_up("no connection in time", out);
                }
                self.fill(out); // with those there are
            }
            Phase::Filling if now.since(self.heard) >= BEGIN_TIMEOUT => {
                return self.give_up("no answer while the keys were set", out);
            }
            // What was due is still sent, if this client is late.
            Phase::Asking { from, until } if now >= until && (!self.is_behind(until) || now >= until + DRAIN) => {
                self.give_up_rest(until, out);
                (self.phase, self.heard) = (Phase::Draining { from, until }, now);
            }
            Phase::Draining { .. } if self.counted_in_flight == 0 || now >= self.heard + DRAIN => {
                count(&mut self.tally.errors, "no answer", self.counted_in_flight);
                self.counted_in_flight = 0;
                self.tally.measured = self.plan.duration;
                return self.end(out);
            }
            Phase::Over => return,
            _ => {}
        }
        self.reconnect(out);
        if let (Some(progress), Phase::Asking { from, until }) = (&mut self.progress, self.phase) {
            let start = Instant::from_nanos(from.as_nanos() - self.plan.warm_up.as_nanos() as u64);
            let (gone, whole) = (now.since(start), until.since(start));
            progress.show(gone, whole, self.shared.answered.load(Ordering::Relaxed));
        }
        out.set_timer(HOUSEKEEPING, HOUSEKEEP);
    }

    /// Whether something is due that was not sent.
    fn is_behind(&self, until: Instant) -> bool {
        self.schedule.as_ref().is_some_and(|schedule| schedule.next() < until)
    }

    /// What was due, and is not sent any more.
    fn give_up_rest(&mut self, until: Instant, out: &mut Outbox<'_, Loader>) {
        let Some(mut schedule) = self.schedule.take() else { return };
        while schedule.next() < until {
            self.count_unsent(schedule.next(), "not sent: this client is too slow");
            schedule.step(out.rng());
        }
    }

    fn reconnect(&mut self, out: &mut Outbox<'_, Loader>) {
        if !matches!(self.phase, Phase::Asking { .. } | Phase::Filling) || self.open == self.connections.len() {
            return;
        }
        for place in 0..self.connections.len() {
            let connection = &self.connections[place];
            let is_due = connection.lost_at.is_some_and(|lost| out.now().since(lost) >= RECONNECT_AFTER);
            if connection.session.is_none() && is_due {
                self.tally.reconnects += 1;
                self.connect(place, out);
            }
        }
    }

    /// The service was interrupted: what was counted so far is told.
    fn on_stopping(&mut self, out: &mut Outbox<'_, Loader>) {
        if let Phase::Asking { from, until } | Phase::Draining { from, until } = self.phase {
            self.tally.measured = out.now().min(until).since(from);
        }
        count(&mut self.tally.errors, "interrupted", self.counted_in_flight);
        self.counted_in_flight = 0;
        self.tally.cut_short = true;
        self.end(out);
    }

    fn end(&mut self, out: &mut Outbox<'_, Loader>) {
        if self.phase == Phase::Over {
            return;
        }
        self.phase = Phase::Over;
        if let Some(progress) = &mut self.progress {
            progress.clear();
        }
        for connection in &self.connections {
            connection.session.iter().for_each(|session| out.close(session.id()));
        }
        let tally = std::mem::take(&mut self.tally);
        self.shared.tallies.lock().unwrap_or_else(|poisoned| poisoned.into_inner()).push(tally);
        // The last one turns off the light.
        if self.shared.running.fetch_sub(1, Ordering::AcqRel) == 1 {
            out.stop_service(0);
        }
    }
}

fn kind_of(why: Closed) -> String {
    match why {
        Closed::ByPeer => "closed by the service".into(),
        Closed::ByUs => "closed by us".into(),
        Closed::Failed(error) => error.to_string(),
        Closed::Codec(error) => format!("not understood: {error:?}"),
        Closed::Stalled | Closed::Idle => "the service takes nothing".into(),
        Closed::NoMemory => "no memory here".into(),
    }
}

impl Actor for Loader {
    type Message = Came;

    fn handle(&mut self, event: Event<Came>, out: &mut Outbox<'_, Self>) {
        if self.phase == Phase::Over {
            return;
        }
        match event {
            Event::Started => self.start(out),
            Event::Opened { session, .. } => self.on_opened(session, out),
            Event::Message(Came(place, reply)) => self.on_reply(place, reply, out),
            Event::Closed { session, why } => self.on_closed(session, why, out),
            Event::Timer(ARRIVAL) => self.on_arrivals(out),
            Event::Timer(HOUSEKEEP) => self.housekeep(out),
            Event::Stopping => self.on_stopping(out),
            _ => {}
        }
    }
}

#[cfg(test)]
#[path = "loader_tests.rs"]
mod tests;
