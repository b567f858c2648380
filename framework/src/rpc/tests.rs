use std::time::Duration;

use pdpix::{Input, Output, Seed, Sga};

use super::*;
use crate::actor::{Actor, Event};
use crate::codec::Codec;
use crate::harness::Harness;
use crate::outbox::Outbox;
use crate::session::{Closed, Session, SessionId, SessionSettings};

/// Doubles numbers, one at a time, when it is told to.
struct Doubler {
    server: Server<u32, u32>,
    taken: Vec<Call<u32>>,
    executed: Vec<u32>,
    cancelled: usize,
}

enum Said {
    Frame(Session<ServerCodec<u32, u32>>, ToServer<u32>),
    Work,
}

crate::carry_nowhere!(Said);

impl Actor for Doubler {
    type Message = Said;

    fn handle(&mut self, event: Event<Said>, out: &mut Outbox<'_, Self>) {
        match event {
            Event::Started => {
                let at = "10.0.0.1:7".parse().expect("an endpoint");
                out.listen(at, SessionSettings::default(), ServerCodec::new, Said::Frame);
            }
            Event::Message(Said::Frame(session, frame)) => match self.server.hear(session, frame, out) {
                Heard::Execute(call) => self.taken.push(call),
                Heard::Cancelled(_) => self.cancelled += 1,
                Heard::Nothing => {}
            },
            Event::Message(Said::Work) => {
                let call = self.taken.remove(0);
                let result = if out.now() > call.deadline { Err(Refusal::Expired) } else { Ok(call.body * 2) };
                if result.is_ok() {
                    self.executed.push(call.body);
                }
                self.server.finish(call.number(), result, out);
            }
            Event::Closed { session, .. } => _ = self.server.closed(session),
            _ => {}
        }
    }
}

struct Serving(Harness<Doubler>);

impl Serving {
    fn new(settings: ServerSettings) -> Serving {
        let server = Server::new(settings, &Seed::new(1));
        let mut harness = Harness::new(Doubler { server, taken: Vec::new(), executed: Vec::new(), cancelled: 0 }, 1);
        harness.start();
        Serving(harness)
    }

    fn session(&mut self) -> SessionId {
        self.0.accept("10.0.0.1:7".parse().unwrap(), "10.0.0.2:99".parse().unwrap())
    }

    fn say(&mut self, session: SessionId, frame: ToServer<u32>) {
        let mut output = Output::new(self.0.heap().clone());
        ClientCodec::<u32, u32>::encode(frame, &mut output);
        self.0.receive(session, &output.take().unwrap().to_vec()).unwrap();
    }

    fn call(&mut self, session: SessionId, id: u64, key: Option<u64>, body: u32) {
        let key = key.map(|call| Key { client: 5, call });
        self.say(session, ToServer::Call { id: CallId(id), key, timeout_us: 1000, body });
    }

    fn heard(&mut self, session: SessionId) -> Vec<ToClient<u32>> {
        let (bytes, heap) = (self.0.written(session), self.0.heap().clone());
        let mut input = Input::new();
        input.push(Sga::copy(&heap, &bytes).unwrap());
        std::iter::from_fn(|| ClientCodec::<u32, u32>::new().decode(&mut input, &heap).unwrap()).collect()
    }
}

#[test]
fn a_call_is_executed_and_answered() {
    let mut serving = Serving::new(ServerSettings::default());
    let session = serving.session();
    serving.call(session, 1, None, 21);
    assert_eq!(serving.heard(session), []);
    serving.0.message(Said::Work);
    assert_eq!(serving.heard(session), [ToClient::Answer(CallId(1), 42)]);
    assert_eq!(serving.0.actor().server.open(), 0);
}

#[test]
fn a_repeated_key_is_executed_once_whether_it_runs_or_is_done() {
    let mut serving = Serving::new(ServerSettings::default());
    let (first, second) = (serving.session(), serving.session());
    serving.call(first, 1, Some(9), 4);
    serving.0.close(first, Closed::ByPeer);
    serving.call(second, 1, Some(9), 4); // while it runs
    serving.0.message(Said::Work);
    assert_eq!(serving.heard(second), [ToClient::Answer(CallId(1), 8)], "the answer goes where it was asked last");
    serving.call(second, 2, Some(9), 4); // when it is done
    assert_eq!(serving.heard(second), [ToClient::Answer(CallId(2), 8)]);
    assert_eq!(serving.0.actor().executed, [4]);
}

#[test]
fn memory_of_keys_is_bounded_in_number_and_time() {
    let settings = ServerSettings { remembered_max: 2, remember: Duration::from_secs(1), ..ServerSettings::default() };
    let mut serving = Serving::new(settings);
    let session = serving.session();
    for key in 0..3 {
        serving.call(session, key, Some(key), 1);
        serving.0.message(Said::Work);
    }
    serving.call(session, 10, Some(2), 1);
    assert_eq!(serving.0.actor().executed.len(), 3, "the last is remembered");
    serving.call(session, 11, Some(0), 1);
    assert_eq!(serving.0.actor().taken.len(), 1, "the first is not");
    serving.0.message(Said::Work);
    serving.0.advance(Duration::from_secs(2));
    serving.call(session, 12, Some(2), 1);
    assert_eq!(serving.0.actor().taken.len(), 1, "after its time it is forgotten");
}

#[test]
fn load_is_shed_and_late_calls_are_not_begun() {
    let mut serving = Serving::new(ServerSettings { open_max: 2, ..ServerSettings::default() });
    let session = serving.session();
    (0..3).for_each(|id| serving.call(session, id, None, 1));
    assert_eq!(serving.heard(session), [ToClient::Refusal(CallId(2), Refusal::Overloaded)]);
    serving.0.advance(Duration::from_millis(5));
    serving.0.message(Said::Work);
    assert_eq!(serving.heard(session), [ToClient::Refusal(CallId(0), Refusal::Expired)]);
    serving.say(session, ToServer::Call { id: CallId(7), key: None, timeout_us: 0, body: 1 });
    assert_eq!(serving.heard(session), [ToClient::Refusal(CallId(7), Refusal::Expired)]);
    assert_eq!(serving.0.actor().executed, []);
}

#[test]
fn a_cancelled_call_is_told_and_says_so_at_its_end() {
    let mut serving = Serving::new(ServerSettings::default());
    let session = serving.session();
    serving.call(session, 3, None, 1);
    serving.say(session, ToServer::Cancel(CallId(3)));
    serving.say(session, ToServer::Cancel(CallId(99)));
    assert_eq!(serving.0.actor().cancelled, 1);
    serving.0.message(Said::Work);
    assert_eq!(serving.heard(session), [ToClient::Refusal(CallId(3), Refusal::Cancelled)]);
}

/// Makes a call for each message that it gets, and keeps what came of it.
struct Asking {
    client: Client<Asking, u32, u32>,
    ended: Vec<Ended<u32>>,
}

enum Told {
    Frame(Session<ClientCodec<u32, u32>>, ToClient<u32>),
    Call(u32, Retry),
    Cancel(CallId),
}

crate::carry_nowhere!(Told);

impl Actor for Asking {
    type Message = Told;

    fn handle(&mut self, event: Event<Told>, out: &mut Outbox<'_, Self>) {
        match event {
            Event::Message(Told::Call(body, retry)) => {
                if let Err(error) = self.client.call(body, Duration::from_millis(10), retry, out) {
                    self.ended.push((CallId(0), Err(error)));
                }
            }
            Event::Message(Told::Cancel(id)) => self.ended.extend(self.client.cancel(id, out)),
            Event::Message(Told::Frame(session, frame)) => self.ended.extend(self.client.heard(session, frame, out)),
            Event::Opened { session, .. } => assert!(self.client.opened(session, out)),
            Event::Closed { session, .. } => self.ended.extend(self.client.closed(session, out).unwrap()),
            Event::Timer(77) => self.ended.extend(self.client.timer(out)),
            _ => {}
        }
    }
}

fn asking() -> Harness<Asking> {
    let settings = ClientSettings {
        server: "10.0.0.1:7".parse().unwrap(),
        open_max: 3,
        pause: Duration::from_millis(1),
        timer: 77,
        session: SessionSettings::default(),
    };
    Harness::new(Asking { client: Client::new(settings, Told::Frame), ended: Vec::new() }, 5)
}

fn said(harness: &mut Harness<Asking>, session: SessionId) -> Vec<ToServer<u32>> {
    let (bytes, heap) = (harness.written(session), harness.heap().clone());
    let mut input = Input::new();
    input.push(Sga::copy(&heap, &bytes).unwrap());
    std::iter::from_fn(|| ServerCodec::<u32, u32>::new().decode(&mut input, &heap).unwrap()).collect()
}

fn answer(harness: &mut Harness<Asking>, session: SessionId, frame: ToClient<u32>) {
    let mut output = Output::new(harness.heap().clone());
    ServerCodec::<u32, u32>::encode(frame, &mut output);
    harness.receive(session, &output.take().unwrap().to_vec()).unwrap();
}

fn connect(harness: &mut Harness<Asking>) -> SessionId {
    let (session, server) = harness.take_connecting().expect("it connects");
    harness.opened(session, server);
    session
}

#[test]
fn a_client_connects_calls_and_takes_answers_in_any_order() {
    let mut harness = asking();
    harness.message(Told::Call(1, Retry::Never));
    harness.message(Told::Call(2, Retry::Safely));
    let session = connect(&mut harness);
    let calls = said(&mut harness, session);
    assert!(matches!(calls[0], ToServer::Call { id: CallId(1), key: None, body: 1, .. }));
    assert!(matches!(calls[1], ToServer::Call { id: CallId(2), key: Some(_), body: 2, .. }));
    answer(&mut harness, session, ToClient::Answer(CallId(2), 20));
    answer(&mut harness, session, ToClient::Refusal(CallId(1), Refusal::Overloaded));
    answer(&mut harness, session, ToClient::Answer(CallId(2), 21)); // for the second time
    let refused = CallError::Refused(Refusal::Overloaded);
    assert_eq!(harness.actor().ended, [(CallId(2), Ok(20)), (CallId(1), Err(refused))]);
}

#[test]
fn a_lost_connection_ends_what_may_not_be_repeated_and_repeats_the_rest() {
    let mut harness = asking();
    harness.message(Told::Call(1, Retry::Never));
    harness.message(Told::Call(2, Retry::Safely));
    let first = connect(&mut harness);
    let key = |call: &ToServer<u32>| match call {
        ToServer::Call { key, .. } => *key,
        ToServer::Cancel(_) => None,
    };
    let before = key(&said(&mut harness, first)[1]);
    harness.close(first, Closed::Failed(pdpix::Error::ConnectionReset));
    assert_eq!(harness.actor().ended, [(CallId(1), Err(CallError::Unknown))]);
    assert!(harness.take_connecting().is_none(), "not at once");
    harness.advance(Duration::from_millis(2));
    let second = connect(&mut harness);
    let calls = said(&mut harness, second);
    assert_eq!((calls.len(), key(&calls[0])), (1, before), "the same key");
    answer(&mut harness, second, ToClient::Answer(CallId(2), 4));
    assert_eq!(harness.actor().ended[1], (CallId(2), Ok(4)));
}

#[test]
fn calls_end_by_their_deadlines_connected_or_not() {
    let mut harness = asking();
    harness.message(Told::Call(1, Retry::Safely));
    let (session, server) = harness.take_connecting().unwrap();
    harness.advance(Duration::from_millis(11));
    assert_eq!(harness.actor().ended, [(CallId(1), Err(CallError::TimedOut))]);
    harness.opened(session, server);
    harness.message(Told::Call(2, Retry::Never));
    said(&mut harness, session);
    harness.advance(Duration::from_millis(11));
    assert_eq!(harness.actor().ended[1], (CallId(2), Err(CallError::TimedOut)));
    assert_eq!(said(&mut harness, session), [ToServer::Cancel(CallId(2))], "the server is told");
    answer(&mut harness, session, ToClient::Answer(CallId(2), 4));
    assert_eq!(harness.actor().ended.len(), 2, "too late");
}

#[test]
fn open_calls_are_bounded_and_may_be_cancelled() {
    let mut harness = asking();
    (0..4).for_each(|body| harness.message(Told::Call(body, Retry::Never)));
    assert_eq!(harness.actor().ended, [(CallId(0), Err(CallError::TooMany))]);
    harness.message(Told::Cancel(CallId(2)));
    harness.message(Told::Cancel(CallId(2)));
    assert_eq!(harness.actor().ended[1..], [(CallId(2), Err(CallError::Cancelled))]);
    assert_eq!(harness.actor().client.open(), 2);
}
