//! Ten thousand connections: each is used once, then all are idle, then all end.
//!
//! Over real devices the clients live in a second process, which is this test program again: descriptors are counted per
//! process. In the simulator both are here.

use std::collections::VecDeque;
use std::process::{Child, Command, Stdio};
use std::sync::{Mutex, PoisonError};

use pdpix::Endpoint;

use crate::flow::Flow;
use crate::run::say;
use crate::scene::{Scene, Skip, Verdict};
use crate::subject::{End, Ended, Queue, Side, Subject, Token};

const CONNECTIONS: usize = 10_000;
const MESSAGE: usize = 64;
/// Descriptors beside the connections.
const SPARE: u64 = 300;
/// Tells the second process to be the clients of the listener at this endpoint.
const CLIENT_OF: &str = "MARGAY_CONFORMANCE_CLIENT_OF";

/// One process's descriptors are enough for one of these at a time.
static ONE_AT_A_TIME: Mutex<()> = Mutex::new(());

pub fn ten_thousand_connections_come_work_and_go(scene: &mut Scene) -> Verdict {
    if !scene.s.can().second_process {
        return in_one_process(scene);
    }
    raise_descriptors()?;
    if let Ok(at) = std::env::var(CLIENT_OF) {
        let at = at.parse().expect("an endpoint");
        let mut clients = Clients::new(at);
        scene.run(&mut [&mut clients]);
        return Ok(());
    }
    let _alone = ONE_AT_A_TIME.lock().unwrap_or_else(PoisonError::into_inner);
    let rss = resident();
    let (listener, at) = scene.listener(Side::SERVER);
    let program = std::env::current_exe().expect("the test program");
    let child = Command::new(program)
        .args([scene.test, "--exact", "--nocapture"])
        .env(CLIENT_OF, at.to_string())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("a second process");
    let mut child = Watched(Some(child));
    let mut server = Server::new(listener);
    while !server.is_idle() {
        server.pump(scene.s);
        scene.s.turn();
        child.check();
    }
    report(scene, &[Side::SERVER], resident().saturating_sub(rss));
    server.is_ending = true;
    scene.run(&mut [&mut server]);
    scene.close(&[listener]);
    child.join();
    Ok(())
}

fn in_one_process(scene: &mut Scene) -> Verdict {
    let rss = resident();
    let (listener, at) = scene.listener(Side::SERVER);
    let mut server = Server::new(listener);
    let mut clients = Clients::new(at);
    scene.until("everybody is connected", |s| {
        server.pump(s);
        clients.pump(s);
        server.is_idle()
    });
    report(scene, &[Side::SERVER, Side::CLIENT], resident().saturating_sub(rss));
    server.is_ending = true;
    scene.run(&mut [&mut server, &mut clients]);
    scene.close(&[listener]);
    Ok(())
}

/// Says what an idle connection costs, and checks that its buffers are back.
fn report(scene: &mut Scene, sides: &[Side], rss: usize) {
    scene.s.settle();
    let pinned: usize = sides.iter().map(|&side| scene.in_use(side).pinned).sum();
    say(&format!(
        "REPORT {}: {CONNECTIONS} idle connections pin {pinned} B of heap; the process has grown by {} B each",
        scene.test,
        rss / CONNECTIONS
    ));
    assert!(pinned < 64 * CONNECTIONS, "an idle connection holds no buffers: {pinned} B are pinned");
}

/// Bytes of this process in memory.
fn resident() -> usize {
    let statm = std::fs::read_to_string("/proc/self/statm").unwrap_or_default();
    let pages = statm.split_whitespace().nth(1).and_then(|pages| pages.parse::<usize>().ok());
    pages.unwrap_or(0) * 4096
}

/// Raises the soft limit of descriptors to what is needed.
fn raise_descriptors() -> Verdict {
    use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
    let needed = CONNECTIONS as u64 + SPARE;
    let limit = getrlimit(Resource::Nofile);
    if limit.maximum.is_some_and(|maximum| maximum < needed) {
        return Err(Skip(format!("{needed} descriptors are needed, {:?} are allowed", limit.maximum)));
    }
    if limit.current.is_some_and(|current| current < needed) {
        setrlimit(Resource::Nofile, Rlimit { current: limit.maximum, ..limit }).expect("up to the hard limit");
    }
    Ok(())
}

/// The second process. Killed if this one gives up.
struct Watched(Option<Child>);

impl Watched {
    /// Fails if it has ended.
    fn check(&mut self) {
        let ended = self.0.as_mut().and_then(|child| child.try_wait().expect("our child"));
        if ended.is_some() {
            self.join();
            panic!("the second process has ended too soon");
        }
    }

    fn join(&mut self) {
        let Some(child) = self.0.take() else { return };
        let output = child.wait_with_output().expect("our child");
        let text = String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success() && text.contains("1 passed"), "the second process failed:\n{text}");
    }
}

impl Drop for Watched {
    fn drop(&mut self) {
        if let Some(child) = &mut self.0 {
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

fn message(number: usize) -> Vec<u8> {
    crate::pattern::Pattern::of(number as u64).bytes(0, MESSAGE)
}

/// What a connection waits for.
enum Waits {
    Connect,
    Push,
    /// For the rest of a message.
    Message(Vec<u8>),
    /// For the end.
    End,
}

/// Tokens looked at in one turn.
const LOOKS: usize = 64;

/// Connections that wait, in turn.
#[derive(Default)]
struct Waiting(VecDeque<(Token, Queue, usize, Waits)>);

impl Waiting {
    fn add(&mut self, token: Token, q: Queue, number: usize, waits: Waits) {
        self.0.push_back((token, q, number, waits));
    }

    /// The ends among the next few.
    fn look(&mut self, s: &mut dyn Subject) -> Vec<(End, Queue, usize, Waits)> {
        let mut ends = Vec::new();
        for _ in 0..self.0.len().min(LOOKS) {
            let (token, q, number, waits) = self.0.pop_front().expect("counted");
            match s.poll(token).expect("a token that is held") {
                Some(end) => ends.push((end, q, number, waits)),
                None => self.0.push_back((token, q, number, waits)),
            }
        }
        ends
    }
}

/// Adds what came to a message; says whether it is whole.
fn is_whole(end: End, got: &mut Vec<u8>) -> bool {
    let Ok(Ended::Popped(arrival)) = end.result else { panic!("a pop gave {end:?}") };
    assert!(!arrival.bytes.is_empty(), "the end came before the message");
    got.extend(arrival.bytes);
    got.len() == MESSAGE
}

fn check_end(end: &End) {
    assert!(matches!(&end.result, Ok(Ended::Popped(arrival)) if arrival.bytes.is_empty()), "not the end: {end:?}");
}

/// The server: gives each connection its message back, and waits for its end.
struct Server {
    listener: Queue,
    accepts: VecDeque<Token>,
    waiting: Waiting,
    accepted: usize,
    served: usize,
    ended: usize,
    /// Those that are idle, to be finished one by one.
    idle: Vec<Queue>,
    is_ending: bool,
}

impl Server {
    fn new(listener: Queue) -> Server {
        Server {
            listener,
            accepts: VecDeque::new(),
            waiting: Waiting::default(),
            accepted: 0,
            served: 0,
            ended: 0,
            idle: Vec::new(),
            is_ending: false,
        }
    }

    /// Every connection came and was served.
    fn is_idle(&self) -> bool {
        self.served == CONNECTIONS
    }

    fn pop(&mut self, s: &mut dyn Subject, q: Queue, number: usize, waits: Waits) {
        let want = if let Waits::Message(got) = &waits { MESSAGE - got.len() } else { 1 };
        let token = s.pop(q, want).expect("it is connected");
        self.waiting.add(token, q, number, waits);
    }

    fn accept(&mut self, s: &mut dyn Subject) -> bool {
        let mut moved = false;
        while self.accepts.len() < 16 && self.accepted + self.accepts.len() < CONNECTIONS {
            self.accepts.push_back(s.accept(self.listener).expect("it listens"));
        }
        while let Some(&token) = self.accepts.front() {
            let Some(end) = s.poll(token).expect("a token that is held") else { break };
            self.accepts.pop_front();
            let Ok(Ended::Accepted(qd, _)) = end.result else { panic!("an accept gave {end:?}") };
            let q = Queue { side: self.listener.side, qd };
            self.pop(s, q, self.accepted, Waits::Message(Vec::new()));
            self.accepted += 1;
            moved = true;
        }
        moved
    }
}

impl Flow for Server {
    fn pump(&mut self, s: &mut dyn Subject) -> bool {
        let mut moved = self.accept(s);
        for (end, q, number, waits) in self.waiting.look(s) {
            moved = true;
            match waits {
                Waits::Message(mut got) => {
                    if !is_whole(end, &mut got) {
                        self.pop(s, q, number, Waits::Message(got));
                        continue;
                    }
                    let token = s.push(q, &[&got], None).expect("it is connected");
                    self.waiting.add(token, q, number, Waits::Push);
                }
                Waits::Push => {
                    assert_eq!(end.result, Ok(Ended::Pushed));
                    self.served += 1;
                    self.idle.push(q);
                    self.pop(s, q, number, Waits::End);
                }
                Waits::End => {
                    check_end(&end);
                    s.close(q).expect("it is open");
                    self.ended += 1;
                }
                Waits::Connect => unreachable!("a server does not connect"),
            }
        }
        if self.is_ending {
            for q in self.idle.drain(self.idle.len().saturating_sub(LOOKS)..) {
                s.finish(q).expect("it is connected");
                moved = true;
            }
        }
        moved
    }

    fn is_done(&self) -> bool {
        self.ended == CONNECTIONS
    }

    fn progress(&self) -> String {
        format!("server: {} accepted, {} served, {} ended", self.accepted, self.served, self.ended)
    }
}

/// The clients: each sends a message, gets it back, waits for the end, and closes.
struct Clients {
    at: Endpoint,
    begun: usize,
    /// Connected or being connected, and not answered yet.
    busy: usize,
    answered: usize,
    ended: usize,
    waiting: Waiting,
}

/// Connections that are not answered yet, at most.
const BUSY_MAX: usize = 100;

impl Clients {
    fn new(at: Endpoint) -> Clients {
        Clients { at, begun: 0, busy: 0, answered: 0, ended: 0, waiting: Waiting::default() }
    }

    fn pop(&mut self, s: &mut dyn Subject, q: Queue, number: usize, waits: Waits) {
        let want = if let Waits::Message(got) = &waits { MESSAGE - got.len() } else { 1 };
        let token = s.pop(q, want).expect("it is connected");
        self.waiting.add(token, q, number, waits);
    }
}

impl Flow for Clients {
    fn pump(&mut self, s: &mut dyn Subject) -> bool {
        let mut moved = false;
        while self.busy < BUSY_MAX && self.begun < CONNECTIONS {
            let q = s.socket(Side::CLIENT, pdpix::SocketKind::Stream).expect("a stream queue");
            let token = s.connect(q, self.at).expect("a new stream");
            self.waiting.add(token, q, self.begun, Waits::Connect);
            self.begun += 1;
            self.busy += 1;
            moved = true;
        }
        for (end, q, number, waits) in self.waiting.look(s) {
            moved = true;
            match waits {
                Waits::Connect => {
                    assert_eq!(end.result, Ok(Ended::Connected), "connection {number}");
                    let token = s.push(q, &[&message(number)], None).expect("it is connected");
                    self.waiting.add(token, q, number, Waits::Push);
                }
                Waits::Push => {
                    assert_eq!(end.result, Ok(Ended::Pushed));
                    self.pop(s, q, number, Waits::Message(Vec::new()));
                }
                Waits::Message(mut got) => {
                    if !is_whole(end, &mut got) {
                        self.pop(s, q, number, Waits::Message(got));
                        continue;
                    }
                    assert_eq!(got, message(number), "the message of connection {number}");
                    self.busy -= 1;
                    self.answered += 1;
                    self.pop(s, q, number, Waits::End);
                }
                Waits::End => {
                    check_end(&end);
                    s.close(q).expect("it is open");
                    self.ended += 1;
                }
            }
        }
        moved
    }

    fn is_done(&self) -> bool {
        self.ended == CONNECTIONS
    }

    fn progress(&self) -> String {
        format!("clients: {} begun, {} answered, {} ended", self.begun, self.answered, self.ended)
    }
}
