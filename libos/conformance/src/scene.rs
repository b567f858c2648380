//! A case's view of its subject: what cases do again and again, with a limit to every wait, and the books before and after.

use std::time::Duration;

use pdpix::{Endpoint, Error, QToken, Qd, SocketKind};

use crate::flow::Flow;
use crate::subject::{Arrival, Books, Can, End, Ended, Queue, Side, Subject, Token};

/// Nothing in a case takes so long, unless it is stuck. On the subject's clock.
pub const LIMIT: Duration = Duration::from_secs(30);

/// A subject, with what it had in use when the case began.
pub struct Scene<'a> {
    /// The subject.
    pub s: &'a mut dyn Subject,
    /// The test's name in its program, for a case that starts the program again.
    pub test: &'a str,
    before: [Books; 3],
    killed: [bool; 3],
}

/// Why a case has nothing to say about a subject.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Skip(pub String);

/// What a case comes to, if it does not panic.
pub type Verdict = Result<(), Skip>;

/// The two ends of a connection.
#[derive(Clone, Copy, Debug)]
pub struct Pair {
    /// The client's.
    pub client: Queue,
    /// The server's.
    pub server: Queue,
}

impl<'a> Scene<'a> {
    /// Opens the books.
    pub fn new(s: &'a mut dyn Subject, test: &'a str) -> Scene<'a> {
        s.settle();
        let before = Side::ALL.map(|side| s.books(side));
        Scene { s, test, before, killed: [false; 3] }
    }

    /// Skips the case, if the subject has not what it is about.
    ///
    /// # Errors
    /// The skip.
    pub fn needs(&self, has: impl FnOnce(Can) -> bool, what: &str) -> Verdict {
        if has(self.s.can()) { Ok(()) } else { Err(Skip(format!("this subject has no {what}"))) }
    }

    /// Everything is closed: whatever was in use is given back, soon. This is the end of every case.
    pub fn check_returned(&mut self) {
        let start = self.s.now();
        loop {
            let now = Side::ALL.map(|side| self.s.books(side));
            let wrong = Side::ALL.into_iter().find(|&Side(i)| {
                let before = if self.killed[i] { Books::default() } else { self.before[i] };
                if self.killed[i] {
                    return now[i].pinned > 0;
                }
                // What the device keeps of what was sent last was there before, or is now.
                let pinned =
                    if now[i].pinned.abs_diff(before.pinned) <= self.s.kept() { before.pinned } else { now[i].pinned };
                Books { pinned, ..now[i] } != before
            });
            match wrong {
                None => return,
                // What was closed towards a peer that died lingers, where nobody answers for the dead.
                Some(Side(i)) if self.s.now().since(start) > LIMIT * 3 => {
                    panic!("side {i} had {:?} in use, and at the end {:?}", self.before[i], now[i]);
                }
                Some(_) => self.s.settle(),
            }
        }
    }

    /// What a side has in use beyond what it had at first.
    pub fn in_use(&self, side: Side) -> Books {
        let (now, before) = (self.s.books(side), self.before[side.0]);
        Books {
            pinned: now.pinned.saturating_sub(before.pinned),
            borrowed: now.borrowed - before.borrowed,
            tokens: now.tokens - before.tokens,
            queues: now.queues - before.queues,
            zombies: now.zombies - before.zombies,
        }
    }

    /// The side dies.
    pub fn kill(&mut self, side: Side) {
        self.s.kill(side);
        self.killed[side.0] = true;
    }

    /// Lets everybody go on until `done`, and fails after [`LIMIT`].
    pub fn until(&mut self, what: &str, mut done: impl FnMut(&mut dyn Subject) -> bool) {
        let start = self.s.now();
        while !done(self.s) {
            assert!(self.s.now().since(start) < LIMIT, "waited {LIMIT:?} in vain: {what}");
            self.s.turn();
        }
    }

    /// Pumps flows until all are done. Fails when none has moved for [`LIMIT`].
    pub fn run(&mut self, flows: &mut [&mut dyn Flow]) {
        let mut moved_at = self.s.now();
        while !flows.iter().all(|flow| flow.is_done()) {
            let mut moved = false;
            for flow in flows.iter_mut().filter(|flow| !flow.is_done()) {
                moved |= flow.pump(self.s);
            }
            let now = self.s.now();
            if moved {
                moved_at = now;
            } else if now.since(moved_at) > LIMIT {
                let progress: Vec<String> = flows.iter().map(|flow| flow.progress()).collect();
                panic!("nothing has moved for {LIMIT:?}: {}", progress.join("; "));
            }
            self.s.turn();
        }
    }
}

// Waiting.
impl Scene<'_> {
    /// Waits for the end of an operation.
    pub fn end(&mut self, t: Token) -> End {
        match self.s.wait(t, Some(LIMIT)) {
            Ok(end) => end,
            Err(error) => panic!("waiting for {t:?}: {error}"),
        }
    }

    /// Waits for the success of an operation.
    pub fn done(&mut self, t: Token) -> Ended {
        let end = self.end(t);
        end.result.unwrap_or_else(|error| panic!("{t:?} on {:?} failed: {error}", end.qd))
    }

    /// Waits for the failure of an operation.
    pub fn fails(&mut self, t: Token) -> Error {
        match self.end(t).result {
            Err(error) => error,
            Ok(ended) => panic!("{t:?} was to fail, and gave {ended:?}"),
        }
    }

    /// Whether an operation is still pending after everybody has settled.
    pub fn stays_pending(&mut self, t: Token) -> bool {
        self.s.settle();
        match self.s.wait(t, Some(Duration::ZERO)) {
            Err(Error::TimedOut) => true,
            Ok(_) => false,
            Err(error) => panic!("looking at {t:?}: {error}"),
        }
    }

    /// What a pop brought.
    pub fn arrival(&mut self, t: Token) -> Arrival {
        match self.done(t) {
            Ended::Popped(arrival) => arrival,
            other => panic!("a pop gave {other:?}"),
        }
    }

    /// Waits for an accept.
    pub fn accepted(&mut self, t: Token) -> (Queue, Endpoint) {
        match self.done(t) {
            Ended::Accepted(qd, peer) => (Queue { side: t.side, qd }, peer),
            other => panic!("an accept gave {other:?}"),
        }
    }
}

// Connections.
impl Scene<'_> {
    /// An endpoint of a side, at any port.
    pub fn any_port(&self, side: Side) -> Endpoint {
        Endpoint::new(self.s.address(side, false).expect("every side has an IPv4 address"), 0)
    }

    /// A stream queue.
    pub fn stream(&mut self, side: Side) -> Queue {
        self.s.socket(side, SocketKind::Stream).expect("a stream queue")
    }

    /// A listener at any port of a side.
    pub fn listener(&mut self, side: Side) -> (Queue, Endpoint) {
        let at = self.any_port(side);
        self.listener_at(side, at)
    }

    /// A listener.
    pub fn listener_at(&mut self, side: Side, at: Endpoint) -> (Queue, Endpoint) {
        let listener = self.stream(side);
        let at = self.s.bind(listener, at).expect("a free port");
        self.s.listen(listener, 128).expect("it is bound");
        (listener, at)
    }

    /// A connection of the client to the server.
    pub fn pair(&mut self) -> Pair {
        let (listener, at) = self.listener(Side::SERVER);
        let pair = self.pair_at(listener, at);
        self.s.close(listener).expect("it is open");
        pair
    }

    /// A connection of the client to a listener.
    pub fn pair_at(&mut self, listener: Queue, at: Endpoint) -> Pair {
        let client = self.stream(Side::CLIENT);
        let connect = self.s.connect(client, at).expect("a new stream");
        let accept = self.s.accept(listener).expect("it listens");
        assert_eq!(self.done(connect), Ended::Connected);
        let (server, _) = self.accepted(accept);
        Pair { client, server }
    }

    /// Closes queues.
    pub fn close(&mut self, queues: &[Queue]) {
        for &q in queues {
            self.s.close(q).expect("it is open");
        }
    }

    /// Closes both ends of a connection in an orderly way: each finishes, and sees the other's end.
    pub fn part(&mut self, pair: Pair) {
        for q in [pair.client, pair.server] {
            self.s.finish(q).expect("it is connected, and not finished");
        }
        for q in [pair.client, pair.server] {
            assert_eq!(self.receive(q, 1), b"", "nothing but the end is left");
        }
        self.close(&[pair.client, pair.server]);
    }
}

// Data.
impl Scene<'_> {
    /// Pushes, and waits for it.
    pub fn send(&mut self, q: Queue, bytes: &[u8]) {
        let token = self.s.push(q, &[bytes], None).expect("an open queue");
        assert_eq!(self.done(token), Ended::Pushed);
    }

    /// Pops until so many bytes are there, or the stream ends.
    pub fn receive(&mut self, q: Queue, len: usize) -> Vec<u8> {
        let mut all = Vec::new();
        while all.len() < len {
            let token = self.s.pop(q, len - all.len()).expect("an open queue");
            let arrival = self.arrival(token);
            if arrival.bytes.is_empty() {
                break;
            }
            all.extend(arrival.bytes);
        }
        all
    }

    /// Sends bytes there, and takes them out.
    pub fn carry(&mut self, from: Queue, to: Queue, bytes: &[u8]) {
        self.send(from, bytes);
        assert_eq!(self.receive(to, bytes.len()), bytes);
    }

    /// Both ways.
    pub fn echo(&mut self, pair: Pair, bytes: &[u8]) {
        self.carry(pair.client, pair.server, bytes);
        self.carry(pair.server, pair.client, bytes);
    }
}

/// A descriptor that was never given out.
pub const NO_QUEUE: Qd = Qd::from_raw(0x7654_3210);

/// A token of another core.
pub fn foreign(of: QToken) -> QToken {
    QToken::new(of.core() ^ 0x55, of.index() as u32, of.generation())
}
