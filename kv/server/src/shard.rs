//! The shard actor: its state, and which event goes where.

use std::collections::VecDeque;
use std::rc::Rc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use framework::pdpix::{Endpoint, Heap, Instant, Output, Rng, Seed};
use framework::{Actor, ActorId, Address, Closed, Event, OnEnd, Outbox, SessionId, SessionSettings};
use kv_engine::command::{Flags, find};
use kv_engine::config::Config;
use kv_engine::connection::Connection;
use kv_engine::engine::{Engine, Limits};
use kv_engine::refusal::ErrorCounts;
use kv_engine::resp::Request;
use slab::Slab;

use crate::ServerArgs;
use crate::client::{Client, Clients, Pending};
use crate::codec::{Gate, Resp};
use crate::housekeeping::{Rates, TICK};
use crate::peer::{Letter, Letters, Message, Peer, Told};
use crate::persistence::{Persistence, TIMER_COMMIT, TIMER_CONSIDER, TIMER_LOAD, TIMER_SAVE};
use crate::task::{Hold, Task};

/// Names of timers.
pub(crate) const TIMER_TICK: u64 = 0;
pub(crate) const TIMER_RETRY: u64 = 1;
pub(crate) const TIMER_UNPAUSE: u64 = 2;
/// With the number of a task.
pub(crate) const TIMER_TASK: u64 = 1 << 32;

/// After this time a message that found no room is sent again.
const RETRY: Duration = Duration::from_micros(100);

/// One span in so many is kept from data. (The heap's own reserves are among these.)
const SPANS_PER_SPAN_LEFT: usize = 4;

/// One core's keys and connections.
///
/// Owns both. Is sent to by its sessions and by the shards of other cores; never waits for one of them. Restart: none, it
/// ends the service.
pub struct Shard {
    pub(crate) index: usize,
    pub(crate) shards: usize,
    pub(crate) args: ServerArgs,
    /// The shards by core, as far as they are up.
    pub(crate) peers: Vec<Option<Address<Shard>>>,
    pub(crate) listens_at: Option<Endpoint>,
    pub(crate) engine: Engine,
    pub(crate) config: Config,
    /// Bytes of the heap that the service itself needs: no data.
    pinned_at_start: usize,
    /// Spans of the heap that are kept from data.
    spans_left: usize,
    /// What the engine may do, which follows from both.
    pub(crate) limits: Limits,
    /// There is a password.
    pub(crate) locked: bool,
    pub(crate) gate: Rc<Gate>,
    pub(crate) clients: Clients,
    /// Connections there were, for their numbers.
    pub(crate) accepted: u64,
    /// The same, and connections turned away, since CONFIG RESETSTAT.
    pub(crate) accepted_counted: u64,
    pub(crate) rejected: u64,
    /// Commands carried out here and not by this engine alone.
    pub(crate) commands: u64,
    pub(crate) errors: ErrorCounts,
    pub(crate) persistence: Persistence,
    pub(crate) hold: Hold,
    pub(crate) tasks: Slab<Task>,
    pub(crate) pause: Option<Pause>,
    /// Those who wait for the end of it.
    pub(crate) paused: Vec<SessionId>,
    letters: Vec<Letters>,
    /// What found no room, to be sent again.
    refused: VecDeque<(usize, Letter)>,
    /// The service is being stopped.
    pub(crate) stopping: bool,
    pub(crate) started: Option<Instant>,
    pub(crate) rates: Rates,
    /// Where replies for other cores are written.
    pub(crate) scratch: Output,
}

/// CLIENT PAUSE.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Pause {
    /// Milliseconds since 1970.
    pub until: u64,
    pub writes_only: bool,
}

impl Pause {
    /// Whether a request has to wait for the end of it.
    #[cold]
    pub(crate) fn concerns(self, request: &Request, out: &Outbox<'_, Shard>) -> bool {
        let writes = || find(request).is_ok_and(|command| command.flags.contains(Flags::WRITE));
        (!self.writes_only || writes()) && out.wall().as_millis() < self.until
    }
}

/// What the shard of a core is called.
pub(crate) fn name_of(core: usize) -> String {
    format!("kv.{core}")
}

impl Shard {
    pub(crate) fn new((index, shards): (usize, usize), args: ServerArgs, heap: Heap, seed: Seed, rng: Rng) -> Shard {
        let scratch = Output::new(heap.clone());
        let gate = Gate::new(seed.set());
        let config = args.config.clone();
        let spans_left = heap.stats().spans / SPANS_PER_SPAN_LEFT;
        let persistence = Persistence::new(&args);
        let mut shard = Shard {
            index,
            shards,
            args,
            peers: vec![None; shards],
            listens_at: None,
            engine: Engine::new((index, shards), heap, seed, rng),
            config,
            pinned_at_start: 0,
            spans_left,
            limits: Limits::default(),
            locked: false,
            gate,
            clients: Clients::default(),
            accepted: 0,
            accepted_counted: 0,
            commands: 0,
            rejected: 0,
            errors: ErrorCounts::default(),
            persistence,
            hold: Hold::default(),
            tasks: Slab::new(),
            pause: None,
            paused: Vec::new(),
            letters: (0..shards).map(|_| Letters::default()).collect(),
            refused: VecDeque::new(),
            stopping: false,
            started: None,
            rates: Rates::default(),
            scratch,
        };
        shard.configured();
        shard
    }

    /// The configuration has changed: tells those who keep what follows from it.
    pub(crate) fn configured(&mut self) {
        self.locked = self.config.password().is_some();
        self.limits = self.limits_now();
        self.engine.set_limits(self.limits);
        self.gate.configure(self.config.bulk_len_max(), self.locked);
    }

    /// What the engine may do. `maxmemory` is shared by the cores; and whatever it says, data leaves room to answer with, or
    /// nobody could delete anything.
    fn limits_now(&self) -> Limits {
        let limits = self.config.limits();
        let memory = limits.memory.map(|bytes| bytes / self.shards + self.pinned_at_start);
        Limits { memory, spans_left: self.spans_left, ..limits }
    }

    /// Tells the shard of another core something: it hears it behind all that it was told before.
    pub(crate) fn tell(&mut self, shard: usize, peer: Peer, out: &mut Outbox<'_, Shard>) {
        let number = self.letters[shard].number_next();
        self.send_letter(shard, Letter { from: self.index as u8, number, peer }, out);
    }

    fn send_letter(&mut self, shard: usize, letter: Letter, out: &mut Outbox<'_, Shard>) {
        match self.peers[shard] {
            Some(address) => out.send(address, Message(Told::Peer(letter))),
            None => self.send_later(shard, letter, out),
        }
    }

    fn on_letter(&mut self, Letter { from, number, peer }: Letter, out: &mut Outbox<'_, Shard>) {
        let from = usize::from(from);
        let mut next = self.letters[from].arrive(number, peer);
        while let Some(peer) = next {
            self.on_peer(peer, out);
            next = self.letters[from].next();
        }
    }

    /// Tells the shards of all other cores something, which says perhaps whose it is.
    pub(crate) fn tell_others(&mut self, what: impl Fn(usize) -> Peer, out: &mut Outbox<'_, Shard>) {
        for shard in 0..self.shards {
            if shard != self.index {
                self.tell(shard, what(self.index), out);
            }
        }
    }

    #[cold]
    fn send_later(&mut self, shard: usize, letter: Letter, out: &mut Outbox<'_, Shard>) {
        if self.refused.is_empty() {
            out.set_timer(RETRY, TIMER_RETRY);
        }
        self.refused.push_back((shard, letter));
    }

    fn on_up(&mut self, id: ActorId, out: &mut Outbox<'_, Shard>) {
        self.peers[usize::from(id.core())] = Some(id.typed());
        if self.peers.iter().all(Option::is_some) && self.listens_at.is_none() {
            let settings = SessionSettings {
                on_end: OnEnd::Tell,
                shared: self.shards > 1,
                keep_alive: self.config.keepalive_seconds().map(|seconds| Duration::from_secs(seconds as u64)),
                ..SessionSettings::default()
            };
            let gate = self.gate.clone();
            out.listen(self.args.listen, settings, move || Resp::new(gate.clone()), Message::request);
        }
    }

    fn on_opened(&mut self, id: SessionId, peer: Endpoint, out: &mut Outbox<'_, Shard>) {
        let Some(session) = out.session::<Resp>(id) else { return };
        if self.args.clients.fetch_add(1, Ordering::Relaxed) >= self.config.clients_max() {
            self.args.clients.fetch_sub(1, Ordering::Relaxed);
            self.rejected += 1;
            if let Some(mut output) = out.output(session) {
                output.put(b"-ERR max number of clients reached\r\n");
            }
            return out.close(id);
        }
        self.accepted += 1;
        self.accepted_counted += 1;
        let number = self.accepted * self.shards as u64 + self.index as u64 - self.shards as u64 + 1;
        let connection = Connection::new(number, &self.config);
        self.clients.insert(Client::new(session, connection, peer, out.now()));
    }

    fn on_closed(&mut self, id: SessionId, _why: Closed) {
        if self.clients.remove(id).is_some() {
            self.paused.retain(|&paused| paused != id);
            self.args.clients.fetch_sub(1, Ordering::Relaxed);
            self.gate.forget(id);
        }
    }

    /// The peer sends no more: it gets what it has asked for, and then it is over.
    fn on_finished(&mut self, id: SessionId, out: &mut Outbox<'_, Shard>) {
        if let Some(client) = self.clients.get_mut(id) {
            client.finished = true;
            if !client.busy {
                out.close(id);
            }
        }
    }

    fn on_stopping(&mut self, out: &mut Outbox<'_, Shard>) {
        self.stopping = true;
        self.stop_saving(out);
        self.write_at_the_end(out);
        self.unpause_clients(out);
        // Their sessions wait for the answers that are still to come.
        for client in self.clients.iter_mut().filter(|client| client.busy) {
            client.held_back = true;
            out.pause(client.session.id());
        }
    }

    fn on_timer(&mut self, name: u64, out: &mut Outbox<'_, Shard>) {
        match name {
            TIMER_TICK => self.tick(out),
            TIMER_RETRY => {
                for (shard, letter) in std::mem::take(&mut self.refused) {
                    self.send_letter(shard, letter, out);
                }
            }
            TIMER_COMMIT => self.on_commit_timer(out),
            TIMER_SAVE => {
                self.on_save_timer(out);
                self.try_note(out);
            }
            TIMER_LOAD => self.load_file(out),
            TIMER_CONSIDER => self.consider_saving(out),
            name if name >= TIMER_TASK => self.on_task_timer((name ^ TIMER_TASK) as u32, out),
            _ => self.end_pause(out),
        }
    }

    /// The end of a pause, unless it was made longer.
    fn end_pause(&mut self, out: &mut Outbox<'_, Shard>) {
        match self.pause {
            Some(pause) if pause.until > out.wall().as_millis() => self.set_unpause_timer(out),
            Some(_) => self.unpause_clients(out),
            None => {}
        }
    }

    pub(crate) fn set_unpause_timer(&self, out: &mut Outbox<'_, Shard>) {
        if let Some(pause) = self.pause {
            let left = pause.until.saturating_sub(out.wall().as_millis());
            out.set_timer(Duration::from_millis(left), TIMER_UNPAUSE);
        }
    }
}

impl Actor for Shard {
    type Message = Message;

    #[inline]
    fn handle(&mut self, event: Event<Message>, out: &mut Outbox<'_, Shard>) {
        match event {
            Event::Message(Message(Told::Request(session, incoming))) => {
                self.perform(session, Pending::from(incoming), out);
            }
            Event::Message(Message(Told::Peer(letter))) => self.on_letter(letter, out),
            Event::Opened { session, peer } => self.on_opened(session, peer, out),
            Event::Closed { session, why } => self.on_closed(session, why),
            Event::PeerFinished(session) => self.on_finished(session, out),
            Event::Started => {
                self.started = Some(out.now());
                out.set_timer(TICK, TIMER_TICK);
                (0..self.shards).for_each(|core| out.watch(&name_of(core)));
                self.begin_recovery(out);
            }
            Event::Up(id) => self.on_up(id, out),
            Event::Timer(name) => self.on_timer(name, out),
            Event::Refused(refused) => {
                let shard = usize::from(refused.to.core());
                if let Ok(Message(Told::Peer(letter))) = refused.take() {
                    self.send_later(shard, letter, out);
                }
            }
            Event::Listening { at, .. } => {
                self.listens_at = Some(at);
                self.pinned_at_start = out.heap().stats().pinned;
                self.configured();
                (self.args.on_listening)(Ok(at));
            }
            Event::ListenFailed { error, .. } => {
                (self.args.on_listening)(Err(error));
                out.stop_service(1);
            }
            Event::Stopping => self.on_stopping(out),
            Event::Durable { log, ticket, result } => self.on_durable(log, ticket, result, out),
            Event::Record { record, .. } => self.on_log_record(record, out),
            Event::LogReady { log, first, next } => self.on_log_ready(log, first, next, out),
            Event::LogFailed { log, error, damage } => self.on_log_failed(log, error, damage, out),
            Event::Read { log, ticket, result } => self.on_log_read(log, ticket, result, out),
            // The service ends with any of them.
            Event::Down(_) => {}
            _ => {}
        }
        self.after_event(out);
    }
}

impl Shard {
    /// What has come waits for what came before it.
    #[cold]
    pub(crate) fn line_up(&mut self, id: SessionId, pending: Pending, out: &mut Outbox<'_, Shard>) {
        let Some(client) = self.clients.get_mut(id) else { return };
        client.queue.push_back(pending);
        if client.is_full() {
            client.held_back = true;
            out.pause(id);
        }
    }
}
