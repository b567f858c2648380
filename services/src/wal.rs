//! A log as a service: append, read a range, follow its end, truncate; over our RPC.
//!
//! What a client may rely on:
//! - [`Answer::Appended`] means that the record is durable, under that number. Records are numbered without gaps, in the
//!   order in which they became durable.
//! - [`Answer::Failed`] with `NoSpace`, `Overflow`, `NoBuffers` or `ReadOnly` means that nothing was written. With `Io` the log
//!   has failed for good, and nobody knows about this record until the service is started again.
//! - An append that is repeated under its key (`Retry::Safely`) is written once, as long as the service is not restarted in
//!   between; after a restart it may be there twice.
//!
//! Bounds: [`OPEN_MAX`] calls at a time, of which those that follow wait without any cost but their place;
//! [`READ_BYTES_MAX`] in an answer. Payloads are copied between the session and the log: records of a replicated log go
//! by zero-copy layouts (`txn`), not by this.

use std::time::Duration;

use framework::pdpix::{Endpoint, Error, Instant, Map, Seed, Sga};
use framework::rpc::{Heard, Server, ServerCodec, ServerSettings, ToServer};
use framework::{
    Actor, Address, Event, LogId, LogSettings, Outbox, Policy, Record, Session, SessionSettings, System, Ticket,
    carry_nowhere,
};
use serde::{Deserialize, Serialize};

/// What a client asks.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub enum Request {
    /// Adds a record.
    Append(Vec<u8>),
    /// Records from this number on, or from the first that is left.
    Read {
        /// The first.
        from: u64,
        /// How many, at most.
        count: u32,
    },
    /// The same; if there are none so far, it waits until there are, or until shortly before the call's deadline.
    Follow {
        /// The first.
        from: u64,
        /// How many, at most.
        count: u32,
    },
    /// Frees all records before this number.
    Truncate(u64),
    /// What there is.
    Extent,
}

/// What it is answered.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub enum Answer {
    /// The record is durable, and has this number.
    Appended(u64),
    /// Records, with their numbers; none at the end.
    Records(Vec<(u64, Vec<u8>)>),
    /// The first record that is left.
    Truncated(u64),
    /// The first record that is left, and the number of the next.
    Extent {
        /// First.
        first: u64,
        /// Next.
        next: u64,
    },
    /// An errno of Linux: see [`Error::from_errno`].
    Failed(i32),
}

impl Answer {
    fn failed(error: Error) -> Answer {
        Answer::Failed(error.errno())
    }
}

/// Calls of one client conversation.
pub type Caller = framework::rpc::Caller<Request, Answer>;

/// Calls that are taken and not answered.
pub const OPEN_MAX: usize = 4096;
/// Bytes of records after which an answer has no more of them.
pub const READ_BYTES_MAX: usize = 1 << 20;
/// Who follows is answered so long before the deadline, at most.
const MARGIN: Duration = Duration::from_millis(50);
const FOLLOW_TIMER: u64 = 1;

/// What a log service is to do.
#[derive(Clone, Debug)]
pub struct WalArgs {
    /// Where it listens, once the log is recovered.
    pub listen: Endpoint,
    /// Which log.
    pub log: String,
    /// How it is opened.
    pub settings: LogSettings,
    /// Told, once, where it listens in fact, or why it does not.
    pub on_listening: fn(Result<Endpoint, Error>),
    /// Told why the log cannot be opened.
    pub on_failed: fn(LogFailed),
}

/// Why a log could not be opened.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct LogFailed {
    /// Why.
    pub error: Error,
    /// What is lost, if it is damaged.
    pub damage: Option<framework::pdpix::storage::Damage>,
}

/// Starts a log service on this core.
pub fn run(system: &System, args: WalArgs) -> Address<Wal> {
    let seed = system.libos().seed().clone();
    system.spawn(Some("wal"), Policy::ESSENTIAL, move || Wal::new(args.clone(), &seed))
}

type Codec = ServerCodec<Request, Answer>;

/// Owns nothing but what is open: the log has the rest. Sent to by its sessions. Restart: the sessions are reset, calls
/// without answers are unknown to their callers, and the log is opened again.
pub struct Wal {
    args: WalArgs,
    server: Server<Request, Answer>,
    log: Option<LogId>,
    first: u64,
    next: u64,
    /// Calls that the log works on, by ticket.
    under_way: Map<Ticket, u64>,
    following: Vec<Following>,
    has_timer: bool,
}

struct Following {
    call: u64,
    from: u64,
    count: u32,
    until: Instant,
}

/// A frame of a client's.
#[derive(Debug)]
pub struct Said(Session<Codec>, ToServer<Request>);

carry_nowhere!(Said);

impl Wal {
    fn new(args: WalArgs, seed: &Seed) -> Wal {
        let settings = ServerSettings { open_max: OPEN_MAX, ..ServerSettings::default() };
        Wal {
            args,
            server: Server::new(settings, seed),
            log: None,
            first: 1,
            next: 1,
            under_way: seed.map(),
            following: Vec::new(),
            has_timer: false,
        }
    }

    fn execute(&mut self, call: u64, body: Request, deadline: Instant, out: &mut Outbox<'_, Wal>) {
        let Some(log) = self.log else { return self.finish(call, Answer::failed(Error::NotFound), out) };
        let ticket = match body {
            Request::Append(bytes) => match Sga::copy(out.heap(), &bytes) {
                Ok(_) if bytes.is_empty() => {
                    return self.finish(call, Answer::failed(Error::InvalidArgument), out);
                }
                Ok(record) => out.append(log, record),
                Err(_) => return self.finish(call, Answer::failed(Error::NoBuffers), out),
            },
            Request::Read { from, count } => out.read_log(log, from, count as usize, READ_BYTES_MAX),
            Request::Follow { from, count } if from < self.next => {
                out.read_log(log, from, count as usize, READ_BYTES_MAX)
            }
            Request::Follow { from, count } => {
                let until = deadline - MARGIN;
                self.following.push(Following { call, from, count, until });
                return self.set_timer(out);
            }
            Request::Truncate(before) => out.truncate_log(log, before),
            Request::Extent => {
                let extent = Answer::Extent { first: self.first, next: self.next };
                return self.finish(call, extent, out);
            }
        };
        self.under_way.insert(ticket, call);
    }

    fn finish(&mut self, call: u64, answer: Answer, out: &mut Outbox<'_, Wal>) {
        self.server.finish(call, Ok(answer), out);
    }

    fn ended(&mut self, ticket: Ticket, answer: Answer, out: &mut Outbox<'_, Wal>) {
        if let Some(call) = self.under_way.remove(&ticket) {
            self.finish(call, answer, out);
        }
    }

    /// Those who wait for what is there now.
    fn serve_followers(&mut self, out: &mut Outbox<'_, Wal>) {
        let (next, Some(log)) = (self.next, self.log) else { return };
        for Following { call, from, count, .. } in self.following.extract_if(.., |following| following.from < next) {
            self.under_way.insert(out.read_log(log, from, count as usize, READ_BYTES_MAX), call);
        }
    }

    fn end_followers(&mut self, late: impl Fn(&Following) -> bool, out: &mut Outbox<'_, Wal>) {
        let ended: Vec<_> = self.following.extract_if(.., |following| late(following)).collect();
        ended.into_iter().for_each(|following| self.finish(following.call, Answer::Records(Vec::new()), out));
    }

    fn set_timer(&mut self, out: &mut Outbox<'_, Wal>) {
        if !self.following.is_empty() && !std::mem::replace(&mut self.has_timer, true) {
            out.set_timer(MARGIN / 2, FOLLOW_TIMER);
        }
    }
}

fn records(read: Vec<Record>) -> Answer {
    Answer::Records(read.into_iter().map(|record| (record.sequence, record.data.to_vec())).collect())
}

impl Actor for Wal {
    type Message = Said;

    fn handle(&mut self, event: Event<Said>, out: &mut Outbox<'_, Self>) {
        let failed = Answer::failed;
        match event {
            Event::Started => {
                let settings = LogSettings { replay: false, ..self.args.settings.clone() };
                self.log = Some(out.open_log(&self.args.log, settings));
            }
            Event::LogReady { first, next, .. } => {
                (self.first, self.next) = (first, next);
                out.listen(self.args.listen, SessionSettings::default(), Codec::new, Said);
            }
            Event::LogFailed { error, damage, .. } => {
                (self.args.on_failed)(LogFailed { error, damage });
                out.stop_service(1);
            }
            Event::Listening { at, .. } => (self.args.on_listening)(Ok(at)),
            Event::ListenFailed { error, .. } => {
                (self.args.on_listening)(Err(error));
                out.stop_service(1);
            }
            Event::Message(Said(session, frame)) => match self.server.hear(session, frame, out) {
                Heard::Execute(call) => {
                    let number = call.number();
                    self.execute(number, call.body, call.deadline, out);
                }
                Heard::Cancelled(call) => self.end_followers(|following| following.call == call, out),
                Heard::Nothing => {}
            },
            Event::Durable { ticket, result, .. } => {
                if let Ok(sequence) = result {
                    self.next = self.next.max(sequence + 1);
                }
                self.ended(ticket, result.map_or_else(failed, Answer::Appended), out);
                self.serve_followers(out);
            }
            Event::Read { ticket, result, .. } => self.ended(ticket, result.map_or_else(failed, records), out),
            Event::Truncated { ticket, result, .. } => {
                self.first = result.unwrap_or(self.first);
                self.ended(ticket, result.map_or_else(failed, Answer::Truncated), out);
            }
            Event::Timer(FOLLOW_TIMER) => {
                let now = out.now();
                self.has_timer = false;
                self.end_followers(|following| following.until <= now, out);
                self.set_timer(out);
            }
            Event::Closed { session, .. } => {
                let orphans = self.server.closed(session);
                self.end_followers(|following| orphans.contains(&following.call), out);
            }
            Event::Stopping => self.end_followers(|_| true, out),
            _ => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use framework::pdpix::{Input, Output};
    use framework::rpc::{CallId, ClientCodec, ToClient};
    use framework::{Codec as _, Harness, SessionId};

    use super::*;

    type Theirs = ClientCodec<Request, Answer>;

    struct Served {
        harness: Harness<Wal>,
        session: SessionId,
        log: LogId,
        calls: u64,
    }

    impl Served {
        fn new() -> Served {
            let listen: Endpoint = "10.0.0.1:7".parse().unwrap();
            let args = WalArgs {
                listen,
                log: "log".into(),
                settings: LogSettings::default(),
                on_listening: |_| {},
                on_failed: |_| {},
            };
            let mut harness = Harness::new(Wal::new(args, &Seed::new(1)), 1);
            harness.start();
            assert_eq!(harness.listens_at(), [], "it listens, and the log is not ready");
            let log = harness.logs()[0].0;
            harness.event(Event::LogReady { log, first: 3, next: 10 });
            let session = harness.accept(listen, "10.0.0.2:99".parse().unwrap());
            Served { harness, session, log, calls: 0 }
        }

        fn ask(&mut self, body: Request) {
            self.calls += 1;
            let mut output = Output::new(self.harness.heap().clone());
            let call = ToServer::Call { id: CallId(self.calls), key: None, timeout_us: 1_000_000, body };
            Theirs::encode(call, &mut output);
            self.harness.receive(self.session, &output.take().unwrap().to_vec()).unwrap();
        }

        fn answers(&mut self) -> Vec<(u64, Answer)> {
            let (bytes, heap) = (self.harness.written(self.session), self.harness.heap().clone());
            let mut input = Input::new();
            input.push(Sga::copy(&heap, &bytes).unwrap());
            let answers = std::iter::from_fn(|| Theirs::new().decode(&mut input, &heap).unwrap());
            let answers = answers.map(|answer| match answer {
                ToClient::Answer(CallId(id), answer) => (id, answer),
                ToClient::Refusal(..) => panic!("{answer:?}"),
            });
            answers.collect()
        }

        fn record(&self, sequence: u64, bytes: &[u8]) -> Record {
            Record { sequence, data: Sga::copy(self.harness.heap(), bytes).unwrap(), cut: false }
        }
    }

    #[test]
    fn an_append_is_answered_when_it_is_durable_and_not_before() {
        let mut served = Served::new();
        served.ask(Request::Append(b"one".to_vec()));
        served.ask(Request::Append(b"two".to_vec()));
        assert_eq!(served.answers(), []);
        let (log, first, data) = served.harness.take_appended().unwrap();
        assert_eq!(data.to_vec(), b"one");
        let (_, second, _) = served.harness.take_appended().unwrap();
        served.harness.event(Event::Durable { log, ticket: first, result: Ok(10) });
        assert_eq!(served.answers(), [(1, Answer::Appended(10))]);
        served.harness.event(Event::Durable { log, ticket: second, result: Err(Error::Io) });
        assert_eq!(served.answers(), [(2, Answer::Failed(5))]);
        served.ask(Request::Extent);
        assert_eq!(served.answers(), [(3, Answer::Extent { first: 3, next: 11 })]);
        served.ask(Request::Append(Vec::new()));
        assert_eq!(served.answers(), [(4, Answer::failed(Error::InvalidArgument))]);
        assert!(served.harness.take_appended().is_none());
    }

    #[test]
    fn who_follows_waits_for_a_record_or_for_the_end_of_its_time() {
        let mut served = Served::new();
        served.ask(Request::Follow { from: 9, count: 5 });
        let (log, ticket, from, count) = served.harness.take_log_read().expect("record 9 is there");
        assert_eq!((from, count), (9, 5));
        let read = vec![served.record(9, b"nine")];
        served.harness.event(Event::Read { log, ticket, result: Ok(read) });
        assert_eq!(served.answers(), [(1, Answer::Records(vec![(9, b"nine".to_vec())]))]);

        served.ask(Request::Follow { from: 10, count: 5 });
        served.ask(Request::Append(b"ten".to_vec()));
        assert!(served.harness.take_log_read().is_none());
        let (log, ticket, _) = served.harness.take_appended().unwrap();
        served.harness.event(Event::Durable { log, ticket, result: Ok(10) });
        assert_eq!(served.answers(), [(3, Answer::Appended(10))]);
        let (_, _, from, _) = served.harness.take_log_read().expect("who follows is served");
        assert_eq!(from, 10);

        served.ask(Request::Follow { from: 11, count: 5 });
        served.harness.advance(Duration::from_millis(900));
        assert_eq!(served.answers(), []);
        served.harness.advance(Duration::from_millis(99));
        assert_eq!(served.answers(), [(4, Answer::Records(Vec::new()))], "before the caller gives it up");
    }

    #[test]
    fn reading_and_truncating_are_the_logs_business() {
        let mut served = Served::new();
        served.ask(Request::Read { from: 4, count: 2 });
        served.ask(Request::Truncate(6));
        let log = served.log;
        let (_, read, ..) = served.harness.take_log_read().unwrap();
        let (_, truncate, before) = served.harness.take_truncated().unwrap();
        assert_eq!(before, 6);
        served.harness.event(Event::Read { log, ticket: read, result: Err(Error::Corrupt) });
        served.harness.event(Event::Truncated { log, ticket: truncate, result: Ok(6) });
        assert_eq!(served.answers(), [(1, Answer::failed(Error::Corrupt)), (2, Answer::Truncated(6))]);
        served.ask(Request::Extent);
        assert_eq!(served.answers(), [(3, Answer::Extent { first: 6, next: 10 })]);
    }

    #[test]
    fn a_log_that_cannot_be_opened_stops_the_service() {
        let mut served = Served::new();
        served.harness.event(Event::LogFailed { log: served.log, error: Error::Corrupt, damage: None });
        assert_eq!(served.harness.stopped(), (false, Some(1)));
    }
}
