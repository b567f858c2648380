//! One client's connection, as far as it can be known without sockets: what it has selected, said and proved, and the
//! commands that are answered where it lives.
//!
//! For each request, in the order sent: [`Connection::admit`] finds the command, or answers why there is none; then it
//! is either answered here ([`Connection::answer`]), or carried out by engines. What needs the world (other
//! connections, the books of all cores) comes back as an [`Effect`] for the server.

mod client;

pub use client::{ClientFacts, ClientFilter, ClientKind, KillForm};

use pdpix::{Output, WallTime};

use crate::command::{self, Command, Flags, Run};
use crate::config::{Change, Config};
use crate::engine::Session;
use crate::info::Section;
use crate::number::parse_i64;
use crate::refusal::{ErrorCounts, Refusal};
use crate::resp::{Protocol, Reply, Request, RequestError};

/// What is known of a connection.
#[derive(Debug)]
pub struct Connection {
    pub(crate) id: u64,
    pub(crate) session: Session,
    pub(crate) authenticated: bool,
    pub(crate) name: Vec<u8>,
    pub(crate) replies: Replies,
    pub(crate) no_evict: bool,
    last_command: &'static str,
    closing: bool,
    cut: bool,
}

/// Whether replies are sent (CLIENT REPLY).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Replies {
    On,
    Off,
    /// That of the next command is not.
    SkipNext,
    /// That of this one is not.
    Skip,
}

/// What a connection's commands need of the core that it lives on.
#[derive(Debug)]
pub struct Host<'a> {
    /// The configuration.
    pub config: &'a Config,
    /// The time.
    pub now: WallTime,
    /// Where errors are counted.
    pub errors: &'a mut ErrorCounts,
}

/// What a command asks of the server. The reply is written already unless the variant says otherwise.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Effect {
    /// Nothing.
    None,
    /// To close the connection when the reply is sent, and read nothing more from it.
    Close,
    /// To gather what INFO tells on all cores, and answer with [`Info::put`](crate::info::Info::put).
    Info(Vec<Section>),
    /// To make these changes of the configuration on all cores, before the next command.
    Configure(Vec<Change>),
    /// To forget on all cores what was counted.
    ResetStats,
    /// To answer with the lines ([`Connection::describe`]) of all connections that the filter matches, each ended by a line
    /// feed, as one verbatim `txt`.
    ListClients(ClientFilter),
    /// To close all connections that the filter matches, and answer with [`KillForm::put`] how many. If this one is among
    /// them, it is closed when the answer is sent.
    KillClients(ClientFilter, KillForm),
    /// To carry out no commands (or no writes) of any connection until then.
    Pause {
        /// Milliseconds since 1970.
        until: u64,
        /// Reads go on.
        writes_only: bool,
    },
    /// To end that.
    Unpause,
    /// Something about what is kept on disk; nothing is answered yet.
    Persist(Persist),
}

/// What is asked about what is kept on disk.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Persist {
    /// To write a snapshot, and to answer when it is durable.
    Save,
    /// To begin one.
    SaveBehind,
    /// The same, for the sake of the log, which is short afterwards.
    RewriteBehind,
    /// When the last one was written.
    LastSave,
    /// To end the service: with a snapshot, without, or as is the custom.
    Shutdown {
        /// Whether a snapshot was asked for, or none.
        save: Option<bool>,
    },
    /// To answer when what the client has written is durable.
    Wait {
        /// Here.
        local: bool,
        /// On so many others.
        replicas: u64,
        /// Or after this time; zero: never.
        timeout_ms: u64,
    },
    /// To make the data anew from what a snapshot says of it.
    Reload,
}

/// One command being answered by its connection.
pub(crate) struct Visit<'a> {
    pub connection: &'a mut Connection,
    pub config: &'a Config,
    pub now: WallTime,
    pub request: &'a Request,
    pub reply: Reply<'a>,
    pub effect: Effect,
    /// An error with a text of its own, to be answered instead.
    error: Option<Vec<u8>>,
}

impl<'a> Visit<'a> {
    /// Argument `index`.
    pub fn arg(&self, index: usize) -> &'a [u8] {
        self.request.arg(index)
    }

    /// Whether argument `index` is `word`, in whatever case.
    pub fn is_word(&self, index: usize, word: &str) -> bool {
        self.arg(index).eq_ignore_ascii_case(word.as_bytes())
    }

    /// Refuses the command, with a text that is made up on the spot.
    pub fn refuse(&mut self, text: &[u8]) {
        self.error = Some(text.to_vec());
    }

    /// Argument `index` as an integer.
    pub fn integer(&self, index: usize) -> Result<i64, Refusal> {
        parse_i64(self.arg(index)).ok_or(Refusal::NotInteger)
    }
}

impl Connection {
    /// A new connection. `id` is unlike that of any other, ever.
    pub fn new(id: u64, config: &Config) -> Connection {
        Connection {
            id,
            session: Session::default(),
            authenticated: config.password().is_none(),
            name: Vec::new(),
            replies: Replies::On,
            no_evict: false,
            last_command: "NULL",
            closing: false,
            cut: false,
        }
    }

    /// Its number.
    pub fn id(&self) -> u64 {
        self.id
    }

    /// What of it matters to commands.
    #[inline]
    pub fn session(&self) -> Session {
        self.session
    }

    /// Whether it has proved what it must; a parser wants to know.
    #[inline]
    pub fn is_authenticated(&self) -> bool {
        self.authenticated
    }

    /// Whether it is to be closed when all replies are sent; nothing more is read from it.
    pub fn is_closing(&self) -> bool {
        self.closing
    }

    /// It is to be closed (CLIENT KILL).
    pub fn close(&mut self) {
        self.closing = true;
    }

    /// Whether it is to be closed without sending even the replies that wait to be sent: the client is no friend.
    pub fn is_cut(&self) -> bool {
        self.cut
    }

    /// Whether the reply of the command that was admitted last is not to be sent.
    #[inline]
    pub fn is_muted(&self) -> bool {
        matches!(self.replies, Replies::Off | Replies::Skip)
    }

    /// Answers bytes that are no request; the connection is closed then. (Not for [`RequestError::Exhausted`] if it is to
    /// be tried again.)
    pub fn on_broken_request(&mut self, error: RequestError, out: &mut Output) {
        if self.replies == Replies::On {
            error.put(out);
        }
        self.closing = true;
    }

    /// Finds the command of a request. `None`: it was refused, and that was answered.
    #[inline]
    pub fn admit(&mut self, request: &Request, host: &mut Host<'_>, out: &mut Output) -> Option<&'static Command> {
        if self.replies != Replies::On {
            self.next_reply();
        }
        match command::find(request) {
            Ok(command) if self.authenticated || command.flags.contains(Flags::NO_AUTH) => {
                self.last_command = command.name;
                Some(command)
            }
            Ok(_) => self.refuse(Refusal::NoAuth, None, request, host, out),
            Err(refusal) => self.refuse_unknown(refusal, request, host, out),
        }
    }

    /// Answers a request that was admitted, and that is not carried out for this reason.
    #[cold]
    pub fn refuse_now(&mut self, refusal: Refusal, request: &Request, host: &mut Host<'_>, out: &mut Output) {
        self.refuse_with(&refusal.text(None, request), host, out);
    }

    /// Answers a request that there was no memory to read.
    #[cold]
    pub fn refuse_unread(&mut self, errors: &mut ErrorCounts, out: &mut Output) {
        self.next_reply();
        self.refuse_for_memory(errors, out);
    }

    /// Answers a request that was admitted, and that there was no memory to carry out.
    #[cold]
    pub fn refuse_for_memory(&mut self, errors: &mut ErrorCounts, out: &mut Output) {
        let text = Refusal::OutOfMemory.text(None, &Request::default());
        errors.count(&text);
        if !self.is_muted() {
            Reply::new(out, self.session.protocol).error(&text);
        }
    }

    /// What CLIENT REPLY SKIP says of the next request is said of this one now.
    #[cold]
    fn next_reply(&mut self) {
        self.replies = match self.replies {
            Replies::SkipNext => Replies::Skip,
            Replies::Skip => Replies::On,
            other => other,
        };
    }

    #[cold]
    fn refuse_unknown(
        &mut self,
        refusal: Refusal,
        request: &Request,
        host: &mut Host<'_>,
        out: &mut Output,
    ) -> Option<&'static Command> {
        let name = request.arg(0);
        if name.eq_ignore_ascii_case(b"post") || name.eq_ignore_ascii_case(b"host:") {
            // A browser was talked into sending us an HTTP request: not a word to it.
            (self.closing, self.cut) = (true, true);
            return None;
        }
        self.refuse(refusal, command::named(request), request, host, out)
    }

    #[cold]
    fn refuse(
        &mut self,
        refusal: Refusal,
        command: Option<&Command>,
        request: &Request,
        host: &mut Host<'_>,
        out: &mut Output,
    ) -> Option<&'static Command> {
        self.refuse_with(&refusal.text(command, request), host, out);
        None
    }

    fn refuse_with(&mut self, text: &[u8], host: &mut Host<'_>, out: &mut Output) {
        host.errors.count(text);
        if !self.is_muted() {
            Reply::new(out, self.session.protocol).error(text);
        }
    }

    /// Answers a command that is answered here ([`Plan::Connection`](crate::shard::Plan::Connection)).
    pub fn answer(
        &mut self,
        command: &'static Command,
        request: &Request,
        host: &mut Host<'_>,
        out: &mut Output,
    ) -> Effect {
        let Run::Connection(run) = command.run else { return Effect::None };
        let (mark, protocol) = (out.mark(), self.session.protocol);
        let reply = Reply::new(out, protocol);
        let (config, now) = (host.config, host.now);
        let mut visit = Visit { connection: self, config, now, request, reply, effect: Effect::None, error: None };
        let done = run(&mut visit);
        let Visit { effect, error, .. } = visit;
        let text = done.err().map(|refusal| refusal.text(Some(command), request)).or(error.map(Into::into));
        if text.is_some() || self.is_muted() {
            out.rollback(mark);
        }
        if let Some(text) = text {
            self.refuse_with(&text, host, out);
        }
        self.closing |= effect == Effect::Close;
        effect
    }

    /// Proves that the client knows the password. False if it does not.
    pub(crate) fn authenticate(&mut self, user: &[u8], password: &[u8], config: &Config) -> bool {
        // Compared whole, so that the time it takes says nothing about where they differ.
        let equal = |known: &[u8]| {
            let differing = known.iter().zip(password).fold(0, |found, (one, other)| found | (one ^ other));
            known.len() == password.len() && differing == 0
        };
        let right = user == b"default" && config.password().is_none_or(equal);
        self.authenticated |= right;
        right
    }

    /// Names the connection. False if the name has bytes that would break the lines of CLIENT LIST.
    pub(crate) fn set_name(&mut self, name: &[u8]) -> bool {
        let fine = name.iter().all(|byte| (b'!'..=b'~').contains(byte));
        if fine {
            self.name = name.to_vec();
        }
        fine
    }

    /// Puts it back into its first state (RESET).
    pub(crate) fn reset(&mut self, config: &Config) {
        self.session = Session::default();
        self.authenticated = config.password().is_none();
        self.name.clear();
        self.replies = Replies::On;
    }

    /// How it speaks from now on.
    pub(crate) fn set_protocol(&mut self, protocol: Protocol) {
        self.session.protocol = protocol;
    }
}
