//! A client of the cache, or of any server that speaks RESP: a conversation over one connection, written as `async fn`s on
//! a [`framework::Task`].
//!
//! - [`Client::call`]: one request, one reply. [`Client::pipeline`]: many at once.
//! - [`Client::get`], [`Client::set`] and the like: the same with types.
//!
//! Values that come back are slices of what arrived; values that go out are copied if they are short, and sent from where
//! they lie otherwise.
//!
//! Always: a reply belongs to its request. A call that was given up (its future dropped) leaves its reply to be skipped by
//! the next one; if it was given up while it was sending, the connection is of no use any more, and says so.
//!
//! Not here: pools, retries, redirection; one-sided GETs (they come with RDMA).

#![forbid(unsafe_code)]

mod commands;

use std::collections::VecDeque;
use std::time::Duration;

use framework::pdpix::{Buf, Endpoint, Error, Input, Output, SocketOption};
use framework::{Stream, Task};
use kv_engine::resp::{ValueError, ValueParser};

pub use commands::SetOptions;
pub use kv_engine::resp::Value;

/// Why a call has no result.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum ClientError {
    /// The network failed the connection, or there is no memory.
    #[error(transparent)]
    Network(#[from] Error),
    /// The server has closed the connection.
    #[error("the server has closed the connection")]
    Closed,
    /// What came back was no reply.
    #[error("the server does not speak RESP")]
    Protocol,
    /// The server's answer is an error: its text.
    #[error("{0}")]
    Server(String),
    /// The server's answer is of another type than the command's.
    #[error("the server's answer is of an unexpected type")]
    Unexpected,
    /// A call was given up while it was sending: what the server understood is not known.
    #[error("an earlier call was given up while it was sending")]
    Broken,
}

/// How long a silent server is trusted to be there.
const KEEP_ALIVE: Duration = Duration::from_secs(60);
/// The most bytes of one pop.
const POP_MAX: usize = 64 * 1024;

/// A connection to a server.
pub struct Client {
    task: Task,
    stream: Stream,
    input: Input,
    parser: ValueParser,
    output: Output,
    /// Replies that are still to come to calls that were given up.
    unwanted: usize,
    /// A push is under way, or was given up.
    sending: bool,
    /// Messages that answer nothing (RESP3), oldest first.
    pushed: VecDeque<Value>,
}

/// The most messages that are kept for [`Client::take_pushed`]; beyond that the oldest go.
const PUSHED_MAX: usize = 1024;

impl Client {
    /// Connects on the network called `on`, or the first one.
    ///
    /// # Errors
    /// Those of the network.
    pub async fn connect(task: &Task, to: Endpoint, on: Option<&str>) -> Result<Client, ClientError> {
        let stream = task.connect(to, on).await?;
        let _ = task.libos().set_option(stream.qd(), SocketOption::KeepAlive(Some(KEEP_ALIVE)));
        let output = Output::new(task.libos().heap().clone());
        let (input, parser, pushed) = (Input::new(), ValueParser::new(), VecDeque::new());
        Ok(Client { task: task.clone(), stream, input, parser, output, unwanted: 0, sending: false, pushed })
    }

    /// The same, given up after `timeout`.
    ///
    /// # Errors
    /// Those of the network; `TimedOut`.
    pub async fn connect_within(task: &Task, to: Endpoint, timeout: Duration) -> Result<Client, ClientError> {
        task.timeout(timeout, Client::connect(task, to, None)).await?
    }

    /// Sends one request, and waits for its reply.
    ///
    /// # Errors
    /// [`ClientError`], but an error that the server answers is a reply ([`Value::Error`]).
    pub async fn call(&mut self, args: &[&[u8]]) -> Result<Value, ClientError> {
        self.write(args);
        self.flush(1).await?;
        self.skip_unwanted(1).await?;
        self.wanted_reply().await
    }

    /// Sends many requests at once, and waits for all their replies, in their order.
    ///
    /// # Errors
    /// As [`Client::call`].
    pub async fn pipeline(&mut self, requests: &[&[&[u8]]]) -> Result<Vec<Value>, ClientError> {
        requests.iter().for_each(|args| self.write(args));
        self.flush(requests.len()).await?;
        self.skip_unwanted(requests.len()).await?;
        let mut replies = Vec::with_capacity(requests.len());
        for _ in requests {
            replies.push(self.wanted_reply().await?);
        }
        Ok(replies)
    }

    /// Messages that the server has sent unasked, as far as they have been met on the way to replies.
    pub fn take_pushed(&mut self) -> Option<Value> {
        self.pushed.pop_front()
    }

    fn write(&mut self, args: &[&[u8]]) {
        put_len(&mut self.output, b'*', args.len());
        for arg in args {
            put_len(&mut self.output, b'$', arg.len());
            self.output.put(arg);
            self.output.put(b"\r\n");
        }
    }

    /// Hands over what is written: `count` requests, whose replies nobody wants until they are asked for.
    async fn flush(&mut self, count: usize) -> Result<(), ClientError> {
        if self.sending {
            return Err(ClientError::Broken);
        }
        let written = self.output.take().map_err(Error::from)?;
        if written.is_empty() {
            return Ok(());
        }
        self.sending = true;
        self.stream.push(written).await?;
        self.sending = false;
        self.unwanted += count;
        Ok(())
    }

    /// Takes the replies of calls that were given up, all but the last `count`, which are wanted.
    async fn skip_unwanted(&mut self, count: usize) -> Result<(), ClientError> {
        while self.unwanted > count {
            self.wanted_reply().await?;
        }
        Ok(())
    }

    /// The next reply.
    async fn wanted_reply(&mut self) -> Result<Value, ClientError> {
        loop {
            match self.parser.next(&mut self.input, self.task.libos().heap()) {
                Ok(Some(Value::Push(message))) => {
                    self.pushed.push_back(Value::Push(message));
                    if self.pushed.len() > PUSHED_MAX {
                        self.pushed.pop_front();
                    }
                    continue;
                }
                Ok(Some(value)) => {
                    self.unwanted -= 1;
                    return Ok(value);
                }
                Ok(None) => {}
                Err(ValueError::Exhausted) => return Err(Error::NoBuffers.into()),
                Err(_) => return Err(ClientError::Protocol),
            }
            let popped = self.stream.pop(POP_MAX).await?;
            if popped.is_empty() {
                return Err(ClientError::Closed);
            }
            self.input.push(popped);
        }
    }
}

impl std::fmt::Debug for Client {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Client({:?}, {} replies to skip)", self.stream.qd(), self.unwanted)
    }
}

/// A line that says a length.
fn put_len(output: &mut Output, kind: u8, len: usize) {
    output.put(format!("{}{len}\r\n", char::from(kind)).as_bytes());
}

/// The text of an error, or the value.
fn served(value: Value) -> Result<Value, ClientError> {
    match value {
        Value::Error(text) => Err(ClientError::Server(String::from_utf8_lossy(&text).into_owned())),
        value => Ok(value),
    }
}

/// A string, or nothing.
fn text(value: Value) -> Result<Option<Buf>, ClientError> {
    match served(value)? {
        Value::Bulk(buf) | Value::Simple(buf) | Value::Verbatim(_, buf) => Ok(Some(buf)),
        Value::Null => Ok(None),
        _ => Err(ClientError::Unexpected),
    }
}

fn integer(value: Value) -> Result<i64, ClientError> {
    match served(value)? {
        Value::Integer(value) => Ok(value),
        _ => Err(ClientError::Unexpected),
    }
}
