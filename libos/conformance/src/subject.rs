//! What the suite asks of a subject: the calls of PDPIX for numbered sides, and a look at its books.
//!
//! Nothing here names a type of the runtime: completions are plain data, so the C ABI and a process at the other end of a
//! pipe can be subjects too. [`Cores`](crate::Cores) is the subject over `libos_runtime::Core`s.

use std::net::IpAddr;
use std::time::Duration;

use pdpix::{Endpoint, Error, OptionName, QToken, Qd, SocketKind, SocketOption};

/// A core of the subject. A client's host has one core; a server's has two, which can share a port.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Side(pub usize);

impl Side {
    /// The client's core.
    pub const CLIENT: Side = Side(0);
    /// The server's first core.
    pub const SERVER: Side = Side(1);
    /// The server's second core.
    pub const SECOND: Side = Side(2);
    /// All of them.
    pub const ALL: [Side; 3] = [Side::CLIENT, Side::SERVER, Side::SECOND];
}

/// A queue of a side.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Queue {
    /// Whose.
    pub side: Side,
    /// Its descriptor there.
    pub qd: Qd,
}

/// A token of a side.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Token {
    /// Who is asked about it: the side that issued it, unless a case means to do wrong.
    pub side: Side,
    /// The token.
    pub qt: QToken,
}

/// A redeemed token.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct End {
    /// The queue of the operation.
    pub qd: Qd,
    /// What came of it.
    pub result: Result<Ended, Error>,
}

/// How an operation succeeded.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Ended {
    /// A push.
    Pushed,
    /// A pop.
    Popped(Arrival),
    /// An accept: the new queue, and who connected.
    Accepted(Qd, Endpoint),
    /// A connect.
    Connected,
}

/// What a pop brought.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Arrival {
    /// The bytes; on a stream, none at its end.
    pub bytes: Vec<u8>,
    /// Who sent them, on a datagram queue.
    pub from: Option<Endpoint>,
    /// It was longer than what was asked for.
    pub cut: bool,
}

/// What a side has in use.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Books {
    /// Bytes of whole chunks of its heap, by whomever.
    pub pinned: usize,
    /// Buffers that it borrowed from other cores.
    pub borrowed: usize,
    /// Operations between submission and redemption.
    pub tokens: usize,
    /// Queues that are not closed.
    pub queues: usize,
    /// Closed queues whose buffers a device still holds.
    pub zombies: usize,
}

/// What a kind of subject can do at all. Cases about the rest print `SKIP name: reason`.
#[derive(Clone, Copy, Debug)]
pub struct Can {
    /// Datagram queues.
    pub datagrams: bool,
    /// IPv6 addresses.
    pub ipv6: bool,
    /// Memory queues, also between the two cores of the server.
    pub memory_queues: bool,
    /// A token can be given up (in C it cannot).
    pub give_up: bool,
    /// Two waiters for one token, and a wait from inside a coroutine, can be expressed.
    pub contend: bool,
    /// Both cores of the server have its addresses: each can listen at one port, and they reach each other by the network.
    pub cores_share: bool,
    /// A side can be made to die ([`Subject::kill`]).
    pub kill: bool,
    /// Another process of the test program, with a client of its own, reaches the server's addresses.
    pub second_process: bool,
    /// A peer that is gone is told of what had arrived before its reset (the kernel's sockets forget it).
    pub keeps_what_arrived: bool,
    /// The longest datagram.
    pub datagram_max: usize,
    /// Bytes that may be pinned on the receiving side beyond the receive budget, because they were on their way when it
    /// was reached.
    pub receive_ahead: usize,
}

/// What the suite is run on.
///
/// Every call returns at once but `wait*`, `turn` and `settle`, which let all sides go on. A call names its side by its
/// queue or token. Errors are PDPIX's; a subject that has only errnos converts them with [`Error::from_errno`].
#[allow(clippy::missing_errors_doc, reason = "each call's errors are those of the call of the same name in PDPIX")]
pub trait Subject {
    /// What this kind can do.
    fn can(&self) -> Can;

    /// The address of a side, of a family. `None`: it has none of that family.
    fn address(&self, side: Side, ipv6: bool) -> Option<IpAddr>;

    /// An address and port where nobody will ever answer, and nobody says so soon. `None`: there is none.
    fn nobody(&self) -> Option<Endpoint>;

    /// A new queue.
    fn socket(&mut self, side: Side, kind: SocketKind) -> Result<Queue, Error>;
    /// A memory queue.
    fn queue(&mut self, side: Side) -> Result<Queue, Error>;
    /// The pushing end, on `side`, of a memory queue of another core of the same host.
    fn attach(&mut self, side: Side, to: Queue, budget: usize) -> Result<Queue, Error>;
    /// Binds.
    fn bind(&mut self, q: Queue, at: Endpoint) -> Result<Endpoint, Error>;
    /// Listens.
    fn listen(&mut self, q: Queue, backlog: u32) -> Result<(), Error>;
    /// Sets a property.
    fn set_option(&mut self, q: Queue, option: SocketOption) -> Result<(), Error>;
    /// Asks for a property.
    fn option(&mut self, q: Queue, name: OptionName) -> Result<SocketOption, Error>;
    /// The local endpoint.
    fn local(&mut self, q: Queue) -> Result<Endpoint, Error>;
    /// The peer's endpoint.
    fn peer(&mut self, q: Queue) -> Result<Endpoint, Error>;
    /// Ends our direction.
    fn finish(&mut self, q: Queue) -> Result<(), Error>;
    /// Closes.
    fn close(&mut self, q: Queue) -> Result<(), Error>;

    /// Accepts.
    fn accept(&mut self, q: Queue) -> Result<Token, Error>;
    /// Connects.
    fn connect(&mut self, q: Queue, to: Endpoint) -> Result<Token, Error>;
    /// Pushes one message that lies in these segments, each in a buffer of its own; to an address if one is given.
    fn push(&mut self, q: Queue, segments: &[&[u8]], to: Option<Endpoint>) -> Result<Token, Error>;
    /// Pops.
    fn pop(&mut self, q: Queue, len_max: usize) -> Result<Token, Error>;

    /// Waits for a token: for ever without `timeout`.
    fn wait(&mut self, t: Token, timeout: Option<Duration>) -> Result<End, Error>;
    /// Waits for one of several tokens of a side.
    fn wait_any(&mut self, side: Side, tokens: &[QToken], timeout: Option<Duration>) -> Result<(usize, End), Error>;
    /// Waits for all of several tokens of a side.
    fn wait_all(&mut self, side: Side, tokens: &[QToken], timeout: Option<Duration>) -> Result<Vec<End>, Error>;
    /// Redeems a token if it is complete, without letting anybody go on.
    fn poll(&mut self, t: Token) -> Result<Option<End>, Error>;
    /// Asks for the end of an operation.
    fn cancel(&mut self, t: Token) -> Result<(), Error>;
    /// Gives a token up: drops its future.
    fn give_up(&mut self, t: Token);
    /// Waits for a token while a coroutine waits for it as well: what the second waiter is told.
    fn contend(&mut self, t: Token) -> Error;
    /// Waits for a token from inside a coroutine: what it is told.
    fn wait_inside(&mut self, t: Token) -> Error;

    /// Lets every side go on once; may rest a little if there is nothing to do.
    fn turn(&mut self);
    /// Time, on the clock of the waits.
    fn now(&self) -> pdpix::Instant;
    /// Runs until nothing moves any more: what was pushed before has arrived, as far as it can.
    fn settle(&mut self);
    /// What a side has in use.
    fn books(&self, side: Side) -> Books;
    /// Bytes of each side's memory that a device may keep of what it sent last, for as long as nothing else is sent.
    fn kept(&self) -> usize {
        0
    }
    /// Whether the link of who dies goes as well, with what was sent last and nobody had taken yet: then what the others are
    /// told may be that.
    fn link_dies(&self) -> bool {
        false
    }
    /// The side dies, in the middle of everything. Its queues and tokens are gone; its memory is not asked for again, and
    /// its books can still be read.
    fn kill(&mut self, side: Side);
}
