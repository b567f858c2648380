//! Actors on several simulated hosts: what the framework promises, under cuts, short pops, partitions, lost connections,
//! crashes and restarts. Each test runs over a sweep of seeds.

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::rc::Rc;
use std::time::Duration;

use framework::pdpix::{Endpoint, Seed, Sga};
use framework::rpc::{
    CallError, CallId, Client, ClientCodec, ClientSettings, Heard, Retry, Server, ServerCodec, ServerSettings,
    ToClient, ToServer,
};
use framework::{
    Actor, ActorId, Address, Event, Framed, Outbox, Policy, Raw, Session, SessionId, SessionSettings, System,
    carry_as_it_is, carry_nowhere,
};
use libos_sim::{HostId, Settings, World, sweep};

const PORT: u16 = 7;

fn listen_at() -> Endpoint {
    Endpoint::new([0, 0, 0, 0].into(), PORT)
}

/// One that finds out when its peer crashes.
fn wary() -> SessionSettings {
    SessionSettings { keep_alive: Some(Duration::from_millis(300)), ..SessionSettings::default() }
}

/// Bytes that differ for each number.
fn payload(number: u32) -> Vec<u8> {
    (0..number * 37 % 5000).map(|i| (i ^ number) as u8).collect()
}

// An echo, and clients that ask it again and again.

struct Echo;

#[derive(Debug)]
struct Said(Session<Raw>, Sga);
carry_nowhere!(Said);

impl Actor for Echo {
    type Message = Said;

    fn handle(&mut self, event: Event<Said>, out: &mut Outbox<'_, Self>) {
        match event {
            Event::Started => _ = out.listen(listen_at(), wary(), || Raw, Said),
            Event::Message(Said(session, bytes)) => _ = out.write(session, bytes),
            Event::ListenFailed { error, .. } => panic!("cannot listen: {error}"),
            _ => {}
        }
    }
}

type Numbered = Framed<(u32, Vec<u8>), (u32, Vec<u8>)>;

/// Sends numbered messages one by one, each until it comes back.
struct Asker {
    server: Endpoint,
    next: u32,
    end: u32,
    session: Option<Session<Numbered>>,
    done: Rc<Cell<u32>>,
    lost: Rc<Cell<u32>>,
}

#[derive(Debug)]
struct Back(Session<Numbered>, (u32, Vec<u8>));
carry_nowhere!(Back);

impl Asker {
    fn connect(&mut self, out: &mut Outbox<'_, Asker>) {
        let session = out.connect(self.server, wary(), Numbered::new(), Back);
        out.write(session, (self.next, payload(self.next)));
        self.session = Some(session);
    }
}

impl Actor for Asker {
    type Message = Back;

    fn handle(&mut self, event: Event<Back>, out: &mut Outbox<'_, Self>) {
        match event {
            Event::Started | Event::Timer(_) => self.connect(out),
            Event::Message(Back(session, (number, bytes))) => {
                assert_eq!((Some(session), number), (self.session, self.next), "an echo of this connection's question");
                assert_eq!(bytes, payload(number));
                self.next += 1;
                self.done.set(self.next);
                if self.next < self.end {
                    out.write(session, (self.next, payload(self.next)));
                } else {
                    out.close(session.id());
                }
            }
            Event::Closed { .. } if self.next < self.end => {
                self.session = None;
                self.lost.set(self.lost.get() + 1);
                out.set_timer(Duration::from_millis(5), 0);
            }
            _ => {}
        }
    }
}

#[test]
fn sweep_an_echo_is_asked_by_two_hosts_through_everything() {
    const QUESTIONS: u32 = 60;
    let settings = Settings { resets: 0.0005, short_pops: 0.5, ..Settings::default() };
    let lost_at_all = Cell::new(0);
    sweep!(settings.clone(), |world: &mut World| {
        let server = world.add_host("server", 1, |libos| {
            System::new(libos).spawn(Some("echo"), Policy::ESSENTIAL, || Echo);
        });
        let to = world.endpoint(server, PORT);
        let (done, lost) = ([0; 2].map(|_| Rc::new(Cell::new(0))), Rc::new(Cell::new(0)));
        let clients: [HostId; 2] = [0, 1].map(|i| {
            let (done, lost) = (done[i].clone(), lost.clone());
            world.add_host("client", 1, move |libos| {
                let (done, lost) = (done.clone(), lost.clone());
                System::new(libos).spawn(None, Policy::NEVER, move || {
                    let (done, lost) = (done.clone(), lost.clone());
                    Asker { server: to, next: 0, end: QUESTIONS, session: None, done, lost }
                });
            })
        });
        let mut rng = world.fork_rng();
        let mut pause = |world: &mut World| world.run_for(Duration::from_micros(rng.below(20_000)));
        pause(world);
        world.partition(server, clients[0]);
        pause(world);
        world.partition_one_way(clients[1], server);
        pause(world);
        world.heal(server, clients[0]);
        world.heal(server, clients[1]);
        pause(world);
        world.crash(server);
        pause(world);
        world.restart(server);
        world.run_until("all questions are answered", |_| done.iter().all(|done| done.get() == QUESTIONS));
        lost_at_all.set(lost_at_all.get() + lost.get());
    });
    assert!(lost_at_all.get() > 0, "no connection was ever lost: this shows little");
}

// Supervision.

/// Counts; when it is told to, it does everything it can and then panics.
struct Bomb {
    incarnation: u32,
    log: Rc<RefCell<Vec<String>>>,
}

#[derive(Clone, Copy, Debug)]
enum Order {
    Say(u32),
    Explode { to: Address<Witness> },
}
carry_as_it_is!(Order);

/// Hears what the bomb says.
struct Witness {
    target: Option<ActorId>,
    log: Rc<RefCell<Vec<String>>>,
}

#[derive(Clone, Copy, Debug)]
enum Testimony {
    Heard(u32),
    Light,
    SendTo(ActorId, u32),
}
carry_as_it_is!(Testimony);

impl Actor for Bomb {
    type Message = Order;

    fn handle(&mut self, event: Event<Order>, out: &mut Outbox<'_, Self>) {
        match event {
            Event::Started => self.log.borrow_mut().push(format!("started {}", self.incarnation)),
            Event::Message(Order::Say(number)) => self.log.borrow_mut().push(format!("said {number}")),
            Event::Message(Order::Explode { to }) => {
                out.send(to, Testimony::Heard(666));
                out.set_timer(Duration::from_micros(10), 666);
                out.spawn(None, Policy::NEVER, || -> Echo { panic!("nobody starts what a panicked event spawned") });
                out.stop_service(1);
                panic!("as ordered");
            }
            Event::Timer(name) => self.log.borrow_mut().push(format!("timer {name}")),
            _ => {}
        }
    }
}

impl Actor for Witness {
    type Message = Testimony;

    fn handle(&mut self, event: Event<Testimony>, out: &mut Outbox<'_, Self>) {
        let mut log = self.log.borrow_mut();
        match event {
            Event::Started => out.watch("bomb"),
            Event::Up(id) => {
                log.push("up".into());
                self.target = Some(id);
            }
            Event::Down(id) => {
                assert_eq!(self.target.take(), Some(id));
                log.push("down".into());
            }
            Event::Message(Testimony::Heard(number)) => log.push(format!("heard {number}")),
            Event::Message(Testimony::Light) => {
                let bomb: Address<Bomb> = self.target.expect("it is up").typed();
                out.send(bomb, Order::Explode { to: out.me() });
            }
            Event::Message(Testimony::SendTo(id, number)) => out.send(id.typed::<Bomb>(), Order::Say(number)),
            Event::Refused(refused) => log.push(format!(
                "refused {:?}",
                refused
                    .take::<Order>()
                    .map(|order| match order {
                        Order::Say(number) => number,
                        Order::Explode { .. } => 0,
                    })
                    .expect("an order")
            )),
            _ => {}
        }
    }
}

/// The witness is on another core of the bomb's host, or on the same.
#[test]
fn sweep_a_handler_that_panics_is_restarted_by_policy_and_leaves_no_effect() {
    sweep!(Settings::default(), |world: &mut World| {
        for witness_core in [0u8, 1] {
            let log = Rc::new(RefCell::new(Vec::new()));
            let systems: Rc<RefCell<Vec<System>>> = Rc::default();
            let witness: Rc<Cell<Option<Address<Witness>>>> = Rc::default();
            let (theirs, kept, found) = (log.clone(), systems.clone(), witness.clone());
            let host = world.add_host("host", 2, move |libos| {
                let system = System::new(libos);
                kept.borrow_mut().push(system.clone());
                if libos.core() == 0 {
                    let (log, mut incarnation) = (theirs.clone(), 0);
                    let policy = Policy { restarts_max: 2, pause: Duration::from_millis(1), ..Policy::default() };
                    system.spawn(Some("bomb"), policy, move || {
                        incarnation += 1;
                        Bomb { incarnation, log: log.clone() }
                    });
                }
                if libos.core() == witness_core {
                    let log = theirs.clone();
                    let address = system.spawn(None, Policy::NEVER, move || Witness { target: None, log: log.clone() });
                    found.set(Some(address));
                }
            });
            let witness = witness.get().expect("it was spawned");
            let system = |core: u8| systems.borrow()[usize::from(core)].clone();
            let tell = |world: &mut World, what: Testimony| {
                system(witness_core).send(witness, what).expect("there is room");
                world.wake(host.core(usize::from(witness_core)));
                world.settle(Duration::from_millis(200));
                std::mem::take(&mut *log.borrow_mut())
            };
            world.settle(Duration::from_millis(1));
            let mut first = std::mem::take(&mut *log.borrow_mut());
            first.sort();
            assert_eq!(first, ["started 1", "up"]);
            let bomb = system(0).find("bomb").expect("it is up");
            assert_eq!(tell(world, Testimony::SendTo(bomb, 1)), ["said 1"]);
            for incarnation in [2, 3] {
                let mut log = tell(world, Testimony::Light);
                log.sort();
                // Neither heard nor a timer nor another actor nor the end of the service.
                assert_eq!(log, ["down".to_string(), format!("started {incarnation}"), "up".to_string()]);
                assert_eq!(tell(world, Testimony::SendTo(bomb, 2)), ["refused 2"], "that incarnation is dead");
                let next = system(0).find("bomb").expect("it is up again");
                assert_eq!(tell(world, Testimony::SendTo(next, 3)), ["said 3"]);
            }
            assert_eq!(tell(world, Testimony::Light), ["down"], "twice is enough: it stays down");
            assert_eq!(system(0).find("bomb"), None);
            assert_eq!(system(0).stats().panics, 3);
            assert!(system(0).stats().actors <= 1, "nothing was spawned by who panicked");
        }
    });
}

// Rpc.

/// Adds numbers up; remembers how often it was told each.
struct Adder {
    server: Server<u32, u64>,
    executed: Rc<RefCell<BTreeMap<u32, u32>>>,
    sum: u64,
}

#[derive(Debug)]
struct Asked(Session<ServerCodec<u32, u64>>, ToServer<u32>);
carry_nowhere!(Asked);

impl Actor for Adder {
    type Message = Asked;

    fn handle(&mut self, event: Event<Asked>, out: &mut Outbox<'_, Self>) {
        match event {
            Event::Started => _ = out.listen(listen_at(), wary(), ServerCodec::new, Asked),
            Event::Message(Asked(session, frame)) => {
                if let Heard::Execute(call) = self.server.hear(session, frame, out) {
                    *self.executed.borrow_mut().entry(call.body).or_default() += 1;
                    self.sum += u64::from(call.body);
                    self.server.finish(call.number(), Ok(self.sum), out);
                }
            }
            Event::Closed { session, .. } => _ = self.server.closed(session),
            _ => {}
        }
    }
}

/// What came of each call, by the number that was to be added.
type Results = Rc<RefCell<BTreeMap<u32, Result<u64, CallError>>>>;

/// Calls the adder, several calls at a time; every third may not be repeated.
struct Customer {
    client: Client<Customer, u32, u64>,
    numbers: std::ops::Range<u32>,
    calls: BTreeMap<CallId, u32>,
    results: Results,
}

#[derive(Debug)]
struct Told(Session<ClientCodec<u32, u64>>, ToClient<u64>);
carry_nowhere!(Told);

const TIMER: u64 = 1;

impl Customer {
    fn new(server: Endpoint, numbers: std::ops::Range<u32>, results: Results) -> Customer {
        let settings =
            ClientSettings { server, open_max: 10, pause: Duration::from_millis(1), timer: TIMER, session: wary() };
        Customer { client: Client::new(settings, Told), numbers, calls: BTreeMap::new(), results }
    }

    fn call_more(&mut self, out: &mut Outbox<'_, Customer>) {
        while self.calls.len() < 4
            && let Some(number) = self.numbers.next()
        {
            let retry = if number % 3 == 0 { Retry::Never } else { Retry::Safely };
            let id = self.client.call(number, Duration::from_secs(5), retry, out).expect("few are open");
            self.calls.insert(id, number);
        }
    }

    fn note(&mut self, ended: impl IntoIterator<Item = (CallId, Result<u64, CallError>)>) {
        for (id, result) in ended {
            let number = self.calls.remove(&id).expect("a call ends once");
            self.results.borrow_mut().insert(number, result);
        }
    }
}

impl Actor for Customer {
    type Message = Told;

    fn handle(&mut self, event: Event<Told>, out: &mut Outbox<'_, Self>) {
        match event {
            Event::Message(Told(session, frame)) => {
                let ended = self.client.heard(session, frame, out);
                self.note(ended);
            }
            Event::Opened { session, .. } => _ = self.client.opened(session, out),
            Event::Closed { session, .. } => {
                let ended = self.client.closed(session, out);
                self.note(ended.into_iter().flatten());
            }
            Event::Timer(TIMER) => {
                let ended = self.client.timer(out);
                self.note(ended);
            }
            _ => {}
        }
        self.call_more(out);
    }
}

#[test]
fn sweep_calls_are_executed_at_most_once_though_connections_are_lost() {
    const CALLS: u32 = 60;
    let repeated = Cell::new(0);
    sweep!(Settings { resets: 0.03, ..Settings::default() }, |world: &mut World| {
        let executed: Rc<RefCell<BTreeMap<u32, u32>>> = Rc::default();
        let theirs = executed.clone();
        let server = world.add_host("server", 1, move |libos| {
            let executed = theirs.clone();
            System::new(libos).spawn(None, Policy::ESSENTIAL, move || Adder {
                server: Server::new(ServerSettings::default(), &Seed::new(1)),
                executed: executed.clone(),
                sum: 0,
            });
        });
        let (to, results) = (world.endpoint(server, PORT), Results::default());
        let clients = [0, 1].map(|i| {
            let results = results.clone();
            world.add_host("client", 1, move |libos| {
                let (numbers, results) = (i * CALLS + 1..(i + 1) * CALLS + 1, results.clone());
                System::new(libos)
                    .spawn(None, Policy::NEVER, move || Customer::new(to, numbers.clone(), results.clone()));
            })
        });
        for client in clients {
            world.run_for(Duration::from_millis(3));
            repeated.set(repeated.get() + world.break_connections(client, server));
        }
        world.run_until("every call has ended", |_| results.borrow().len() == 2 * CALLS as usize);
        let executed = executed.borrow();
        assert!(executed.values().all(|&times| times == 1), "executed more than once: {executed:?}");
        let mut sums = Vec::new();
        for (number, result) in &*results.borrow() {
            match result {
                Ok(sum) => {
                    assert!(executed.contains_key(number), "{number} was answered, and never executed");
                    sums.push(*sum);
                }
                Err(CallError::Unknown) => assert_eq!(number % 3, 0, "{number} could have been repeated"),
                Err(error) => panic!("call {number}: {error}"),
            }
        }
        let answers = sums.len();
        sums.sort_unstable();
        sums.dedup();
        assert_eq!(sums.len(), answers, "each answer is another call's");
    });
    assert!(repeated.get() > 0, "no connection was lost in the middle: this shows little");
}

// Mailboxes.

type Numbers = Rc<RefCell<Vec<u32>>>;
type Sender = (System, Address<Producer>);

struct Consumer {
    got: Numbers,
}

impl Actor for Consumer {
    type Message = u32;

    fn handle(&mut self, event: Event<u32>, _: &mut Outbox<'_, Self>) {
        if let Event::Message(number) = event {
            self.got.borrow_mut().push(number);
        }
    }
}

/// Sends bursts of numbers, of which not all fit, to a consumer on any core.
struct Producer {
    to: Option<Address<Consumer>>,
    next: u32,
    refused: Numbers,
}

#[derive(Clone, Copy, Debug)]
struct Burst(u32);
carry_as_it_is!(Burst);

impl Actor for Producer {
    type Message = Burst;

    fn handle(&mut self, event: Event<Burst>, out: &mut Outbox<'_, Self>) {
        match event {
            Event::Started => out.watch("consumer"),
            Event::Up(id) => self.to = Some(id.typed()),
            Event::Message(Burst(count)) => {
                let to = self.to.expect("it is up");
                (self.next..self.next + count).for_each(|number| out.send(to, number));
                self.next += count;
            }
            Event::Refused(refused) => self.refused.borrow_mut().push(refused.take().expect("a number")),
            _ => {}
        }
    }
}

#[test]
fn sweep_a_full_mailbox_gives_messages_back_and_loses_none() {
    sweep!(Settings::default(), |world: &mut World| {
        for producer_core in [0u8, 1] {
            let (got, refused): (Numbers, Numbers) = Default::default();
            let producer: Rc<RefCell<Option<Sender>>> = Rc::default();
            let (their_got, their_refused, found) = (got.clone(), refused.clone(), producer.clone());
            let host = world.add_host("host", 2, move |libos| {
                let system = System::new(libos);
                if libos.core() == 0 {
                    let got = their_got.clone();
                    system.spawn(Some("consumer"), Policy::NEVER, move || Consumer { got: got.clone() });
                }
                if libos.core() == producer_core {
                    let refused = their_refused.clone();
                    let factory = move || Producer { to: None, next: 0, refused: refused.clone() };
                    let address = system.spawn(None, Policy::NEVER, factory);
                    *found.borrow_mut() = Some((system, address));
                }
            });
            world.settle(Duration::from_millis(1));
            let (system, address) = producer.take().expect("it was spawned");
            let mut rng = world.fork_rng();
            let mut total = 0;
            for _ in 0..6 {
                let count = 1 + rng.below(3000) as u32;
                // What came back to the producer may fill its own mailbox: then the order itself comes back.
                if system.send(address, Burst(count)).is_ok() {
                    total += count;
                }
                world.wake(host.core(usize::from(producer_core)));
                world.run_for(Duration::from_micros(rng.below(50)));
            }
            world.settle(Duration::from_millis(1));
            system.send(address, Burst(2000)).expect("everything is worked off");
            world.wake(host.core(usize::from(producer_core)));
            world.settle(Duration::from_millis(1));
            let (got, refused) = (got.borrow(), refused.borrow());
            assert!(got.is_sorted(), "those that arrive do so in order");
            assert!(!refused.is_empty(), "2,000 at once do not fit");
            let mut all: Vec<u32> = got.iter().chain(&*refused).copied().collect();
            all.sort_unstable();
            assert_eq!(all, (0..total + 2000).collect::<Vec<u32>>(), "each arrives once, or comes back once");
        }
    });
}

/// Sessions are told of their end once, whatever happens.
struct Counting {
    open: BTreeMap<SessionId, u32>,
    closed: Rc<Cell<u32>>,
}

impl Actor for Counting {
    type Message = Said;

    fn handle(&mut self, event: Event<Said>, out: &mut Outbox<'_, Self>) {
        match event {
            Event::Started => _ = out.listen(listen_at(), wary(), || Raw, Said),
            Event::Opened { session, .. } => assert_eq!(self.open.insert(session, 0), None, "opened twice"),
            Event::Message(Said(session, bytes)) => {
                *self.open.get_mut(&session.id()).expect("a message of an open session") += bytes.len() as u32;
                out.write(session, bytes);
            }
            Event::Closed { session, .. } => {
                assert!(self.open.remove(&session).is_some(), "closed twice, or never opened");
                self.closed.set(self.closed.get() + 1);
            }
            _ => {}
        }
    }
}

#[test]
fn sweep_each_session_opens_once_and_closes_once() {
    sweep!(Settings { resets: 0.01, ..Settings::default() }, |world: &mut World| {
        let closed = Rc::new(Cell::new(0));
        let theirs = closed.clone();
        let server = world.add_host("server", 1, move |libos| {
            let closed = theirs.clone();
            let factory = move || Counting { open: BTreeMap::new(), closed: closed.clone() };
            System::new(libos).spawn(None, Policy::NEVER, factory);
        });
        let to = world.endpoint(server, PORT);
        let (done, lost) = (Rc::new(Cell::new(0)), Rc::new(Cell::new(0)));
        let (theirs, their_lost) = (done.clone(), lost.clone());
        world.add_host("client", 1, move |libos| {
            let (done, lost) = (theirs.clone(), their_lost.clone());
            System::new(libos).spawn(None, Policy::NEVER, move || {
                let (done, lost) = (done.clone(), lost.clone());
                Asker { server: to, next: 0, end: 40, session: None, done, lost }
            });
        });
        world.run_until("all questions are answered", |_| done.get() == 40);
        world.settle(Duration::from_secs(1));
        // A connect that failed was never a session of the server's.
        assert!((1..=lost.get() + 1).contains(&closed.get()), "{} lost, {} closed", lost.get(), closed.get());
    });
}

// What comes faster than it is handled.
