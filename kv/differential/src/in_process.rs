//! The engines of one server and one connection to it, driven as a server drives them, but by hand.

use std::time::{SystemTime, UNIX_EPOCH};

use kv_engine::config::Config;
use kv_engine::connection::{ClientFacts, Connection, Effect, Host, Persist};
use kv_engine::engine::Engine;
use kv_engine::info::Info;
use kv_engine::refusal::{ErrorCounts, Refusal};
use kv_engine::resp::{Reply, Request, RequestParser};
use kv_engine::shard::{Answer, Conversation, Part, Plan, Step, plan};
use libos_mem::{Plan as MemoryPlan, Purpose, Reservation, Reserves, Source};
use pdpix::{Buf, Exhausted, Heap, Input, Output, Rng, Seed, Sga, WallTime};

use crate::{Subject, resp};

/// The engines of a cache of several shards, and a connection to them.
pub struct InProcess {
    engines: Vec<Engine>,
    heaps: Vec<Heap>,
    config: Config,
    errors: ErrorCounts,
    connection: Connection,
    input: Input,
    parser: RequestParser,
    closed: bool,
    /// Answered, and not yet taken as a reply.
    answered: Vec<u8>,
}

impl InProcess {
    /// An empty cache.
    pub fn new(shards: usize) -> InProcess {
        let plan = MemoryPlan { heaps: shards, heap_size: 1 << 30, reserves: Reserves::NONE, source: Source::Ordinary };
        let reservation = Reservation::new(plan).expect("address space");
        let heaps: Vec<Heap> = (0..shards).map(|index| reservation.heap(index).expect("a heap")).collect();
        let engine = |index: usize| {
            Engine::new((index, shards), heaps[index].clone(), Seed::new(index as u64), Rng::new(index as u64))
        };
        let config = Config::default();
        InProcess {
            engines: (0..shards).map(engine).collect(),
            heaps: heaps.clone(),
            connection: Connection::new(1, &config),
            config,
            errors: ErrorCounts::default(),
            input: Input::new(),
            parser: RequestParser::new(),
            closed: false,
            answered: Vec::new(),
        }
    }

    /// All parameters as they were at first.
    pub fn forget_configuration(&mut self) {
        self.config = Config::default();
    }

    /// What is answered to these bytes, received in pieces of `piece`. Afterwards it may be closed.
    pub fn talk(&mut self, bytes: &[u8], piece: usize) -> Vec<u8> {
        let mut out = Output::new(self.heaps[0].clone());
        let mut request = Request::default();
        for part in bytes.chunks(piece) {
            let mut chunk = self.heaps[0].alloc_for(Purpose::Receive, part.len().max(1)).expect("memory");
            chunk.put(part);
            self.input.push(Sga::from(chunk.freeze()));
            while !self.closed {
                self.parser.set_authenticated(self.connection.is_authenticated());
                match self.parser.next(&mut self.input, &self.heaps[0], &mut request) {
                    Ok(true) => self.carry_out(&request, &mut out),
                    Ok(false) => break,
                    Err(error) => {
                        self.connection.on_broken_request(error, &mut out);
                        self.closed = self.connection.is_closing();
                    }
                }
            }
        }
        let answers = out.take().expect("memory").to_vec();
        if self.connection.is_cut() { Vec::new() } else { answers }
    }

    fn carry_out(&mut self, request: &Request, out: &mut Output) {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).expect("a time after 1970");
        let now = WallTime::from_nanos(now.as_nanos() as u64);
        let mark = out.mark();
        let mut host = Host { config: &self.config, now, errors: &mut self.errors };
        if let Some(command) = self.connection.admit(request, &mut host, out) {
            let session = self.connection.session();
            match plan(command, request, session, self.engines.len()) {
                Plan::Connection => {
                    let effect = self.connection.answer(command, request, &mut host, out);
                    self.bring_about(effect, out);
                }
                Plan::Shard(0) => self.engines[0].execute(command, request, session, now, out),
                Plan::Shard(other) => {
                    let part = Part::Run { request: request.clone(), session, whole: true };
                    if let Answer::Reply(bufs) = self.ask(other, part, now) {
                        bufs.into_iter().for_each(|buf| out.put_buf(buf));
                    }
                }
                Plan::Conversation(conversation) => self.converse(*conversation, now, out),
            }
            if self.connection.is_muted() {
                out.rollback(mark);
            }
        }
        self.closed |= self.connection.is_closing();
    }

    fn converse(&mut self, mut conversation: Conversation, now: WallTime, out: &mut Output) {
        assert!(conversation.hold().is_sorted(), "shards are held in ascending order");
        assert!(conversation.hold().len() > 1, "one shard needs no conversation");
        let mut step = conversation.start(out);
        while let Step::Ask(parts) = step {
            for (shard, _) in &parts {
                assert!(conversation.hold().contains(shard), "asked a shard that is not held");
            }
            let answers = parts.into_iter().map(|(shard, part)| self.ask(shard, part, now)).collect();
            step = conversation.step(answers, &self.config.limits(), now, out);
        }
    }

    /// As through messages: what goes to another shard lies in its heap.
    fn ask(&mut self, shard: usize, part: Part, now: WallTime) -> Answer {
        let to = |heap: &Heap| {
            let heap = heap.clone();
            move |buf: Buf| heap.copy(&buf)
        };
        let part: Result<Part, Exhausted> = part.try_map_bufs(to(&self.heaps[shard]));
        let answer = self.engines[shard].carry_out(part.expect("memory"), now);
        let answer: Result<Answer, Exhausted> = answer.try_map_bufs(to(&self.heaps[0]));
        answer.expect("memory")
    }

    /// Does what a server would.
    fn bring_about(&mut self, effect: Effect, out: &mut Output) {
        let mut reply = Reply::new(out, self.connection.session().protocol);
        match effect {
            Effect::Info(sections) => {
                let mut info = Info::default();
                for (index, database) in info.databases.iter_mut().enumerate() {
                    for engine in &self.engines {
                        database.keys += engine.size(index).keys;
                        database.expiring += engine.size(index).expiring;
                    }
                }
                info.keyspace_hits = self.engines.iter().map(|engine| engine.stats().hits).sum();
                info.keyspace_misses = self.engines.iter().map(|engine| engine.stats().misses).sum();
                info.put(&sections, &mut reply);
            }
            Effect::ListClients(filter) => {
                let facts = facts();
                let mut text = String::new();
                if filter.matches(&self.connection, &facts) {
                    text = self.connection.describe(&facts) + "\n";
                }
                reply.verbatim("txt", text.as_bytes());
            }
            Effect::KillClients(filter, form) => {
                let count = usize::from(filter.matches(&self.connection, &facts()));
                form.put(count, &mut reply);
                self.closed |= count > 0;
            }
            Effect::Configure(changes) => {
                self.config.apply(&changes);
                self.engines.iter_mut().for_each(|engine| engine.set_limits(self.config.limits()));
            }
            Effect::ResetStats => self.engines.iter_mut().for_each(Engine::reset_stats),
            Effect::Persist(Persist::Reload) => {
                self.engines.iter_mut().for_each(|engine| engine.reload().expect("memory"));
                reply.ok();
            }
            Effect::Persist(_) => reply.error(&Refusal::NoStorage.text(None, &Request::default())),
            Effect::None | Effect::Close | Effect::Pause { .. } | Effect::Unpause => {}
        }
    }
}

impl Subject for InProcess {
    fn send(&mut self, bytes: &[u8]) {
        let answers = self.talk(bytes, usize::MAX);
        self.answered.extend(answers);
    }

    fn reply(&mut self) -> Option<resp::Reply> {
        let Some((reply, rest)) = resp::read(&self.answered) else {
            assert!(self.closed, "no reply, and the connection is open");
            return None;
        };
        let used = self.answered.len() - rest.len();
        self.answered.drain(..used);
        Some(reply)
    }

    fn reconnect(&mut self) {
        self.connection = Connection::new(1, &self.config);
        self.input = Input::new();
        self.parser = RequestParser::new();
        self.closed = false;
        self.answered.clear();
    }
}

/// Where the client is: nowhere that a test would guess.
fn facts() -> ClientFacts {
    ClientFacts { address: "127.0.0.1:9".into(), local_address: "127.0.0.1:6379".into(), ..ClientFacts::default() }
}
