//! The calling side, for an `async fn`: one call at a time over one connection, repeated under its key when that is lost.

use std::marker::PhantomData;
use std::time::Duration;

use pdpix::{Endpoint, Input, Instant, Output};
use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::codec::Codec;
use crate::rpc::{CallError, CallId, ClientCodec, Key, Retry, ToClient, ToServer};
use crate::task::{Stream, Task};

/// Calls of one conversation.
pub struct Caller<Q, A> {
    task: Task,
    server: Endpoint,
    name: u64,
    calls: u64,
    connection: Option<(Stream, Input)>,
    kind: PhantomData<fn(Q) -> A>,
}

/// The pause before a lost connection is made again.
const PAUSE: Duration = Duration::from_millis(1);

impl<Q: Serialize + Clone + 'static, A: DeserializeOwned + 'static> Caller<Q, A> {
    /// Not connected: it connects for the first call.
    pub fn new(task: &Task, server: Endpoint) -> Caller<Q, A> {
        let name = task.below(u64::MAX);
        Caller { task: task.clone(), server, name, calls: 0, connection: None, kind: PhantomData }
    }

    /// Calls, and waits for the answer.
    ///
    /// # Errors
    /// [`CallError`].
    pub async fn call(&mut self, body: Q, timeout: Duration, retry: Retry) -> Result<A, CallError> {
        self.calls += 1;
        let id = CallId(self.calls);
        let key = (retry == Retry::Safely).then_some(Key { client: self.name, call: self.calls });
        let deadline = self.task.now() + timeout;
        let task = self.task.clone();
        let attempts = self.attempts(id, key, deadline, body);
        match task.timeout(timeout, attempts).await {
            Ok(result) => result,
            Err(_) => {
                // An answer that comes later would be taken for that of the next call's connection.
                self.connection = None;
                Err(CallError::TimedOut)
            }
        }
    }

    async fn attempts(&mut self, id: CallId, key: Option<Key>, deadline: Instant, body: Q) -> Result<A, CallError> {
        loop {
            if self.connection.is_none() {
                match self.task.connect(self.server, None).await {
                    Ok(stream) => self.connection = Some((stream, Input::new())),
                    Err(_) => {
                        self.task.sleep(PAUSE).await;
                        continue;
                    }
                }
            }
            let timeout_us = deadline.since(self.task.now()).as_micros() as u64;
            let frame = ToServer::Call { id, key, timeout_us, body: body.clone() };
            match self.exchange(id, frame).await {
                Some(result) => return result,
                None => {
                    self.connection = None;
                    if key.is_none() {
                        return Err(CallError::Unknown);
                    }
                    self.task.sleep(PAUSE).await;
                }
            }
        }
    }

    /// Sends a frame and waits for its answer. `None`: the connection is lost.
    async fn exchange(&mut self, id: CallId, frame: ToServer<Q>) -> Option<Result<A, CallError>> {
        let heap = self.task.libos().heap().clone();
        let (stream, input) = self.connection.as_mut()?;
        let mut output = Output::new(heap.clone());
        ClientCodec::<Q, A>::encode(frame, &mut output);
        stream.push(output.take().ok()?).await.ok()?;
        loop {
            while let Some(frame) = ClientCodec::<Q, A>::new().decode(input, &heap).ok()? {
                match frame {
                    ToClient::Answer(of, answer) if of == id => return Some(Ok(answer)),
                    ToClient::Refusal(of, why) if of == id => return Some(Err(CallError::Refused(why))),
                    _ => {} // of a call that was given up
                }
            }
            let sga = stream.pop(64 * 1024).await.ok()?;
            if sga.is_empty() {
                return None;
            }
            input.push(sga);
        }
    }
}
