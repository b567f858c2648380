//! The calls of scripts, and how they end.

use std::collections::VecDeque;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use pdpix::{Endpoint, Error, Handle, Network, Op, OpId, Outcome, Sga, SocketKind, SocketOption, Submitted};

use super::super::packet::{stream, stream_byte};
use super::{OUR_PORT, PEER_PORT, Queue, Result, Stage, number, seconds, switch};

/// How a call ends if a line does not say.
pub(super) fn default_end(verb: &str) -> &'static str {
    match verb {
        "accept" | "accepted" => "accepted",
        "connect" => "waits",
        "connected" => "connected",
        "push" | "push_to" | "pushed" => "pushed",
        _ => "done",
    }
}

// Calls.
impl Stage {
    fn queue(&mut self, name: &str) -> Result<&mut Queue> {
        self.queues.get_mut(name).ok_or_else(|| format!("there is no queue {name}"))
    }

    fn insert(&mut self, name: &str, handle: Handle) {
        self.queues.insert(name.into(), Queue { handle, pushed: 0, popped: 0, waiting: VecDeque::new() });
    }

    fn open(&mut self, name: &str, kind: SocketKind) -> Result<Handle> {
        let handle = self.net.open(kind).map_err(|e| format!("{e:?}"))?;
        self.insert(name, handle);
        Ok(handle)
    }

    /// A call. Gives how it ended: what came, `waits`, or the name of the error.
    pub(super) fn call(&mut self, name: &str, words: &[String]) -> Result<String> {
        let words: Vec<&str> = words.iter().map(String::as_str).collect();
        match words[..] {
            ["listen"] => self.listen(128),
            ["listen", backlog] => self.listen(number(backlog)),
            ["accept"] => self.begin("listener", "accepted", Op::Accept, name),
            ["accepted"] => self.end("listener", "accepted", name),
            ["socket"] => self.open(name, SocketKind::Stream).map(|_| "done".into()),
            ["connect"] => {
                if !self.queues.contains_key(name) {
                    self.open(name, SocketKind::Stream)?;
                }
                self.begin(name, "connected", Op::Connect(Endpoint::new(self.peer(), PEER_PORT)), name)
            }
            ["connected"] => self.end(name, "connected", name),
            ["push", len] => self.push(name, number(len)),
            ["pushed"] => self.end(name, "pushed", name),
            ["pop", len] => self.begin(name, "popped", Op::Pop { len_max: number(len) }, name),
            ["popped"] => self.end(name, "popped", name),
            ["finish"] => {
                let h = self.queue(name)?.handle;
                Ok(told(self.net.finish(h)))
            }
            ["close"] => {
                let h = self.queue(name)?.handle;
                self.net.close(h);
                self.queues.remove(name);
                Ok("done".into())
            }
            ["cancel"] => {
                let queue = self.queue(name)?;
                let (h, op) = (queue.handle, queue.waiting.front().map(|(_, op)| *op));
                self.net.cancel(h, op.ok_or("nothing waits")?);
                Ok("done".into())
            }
            ["option", option, value] => self.set_option(name, option, value),
            ["udp"] => {
                let h = self.open(name, SocketKind::Datagram)?;
                let bound = self.net.bind(h, Endpoint::new(self.anywhere(), OUR_PORT));
                Ok(told(bound.map(|_| ())))
            }
            ["push_to", len] => {
                let sga = Sga::copy(&self.heap, &stream(0, number(len))).map_err(|_| "no memory")?;
                self.begin(name, "pushed", Op::PushTo(sga, Endpoint::new(self.peer(), PEER_PORT)), name)
            }
            ["hold"] => {
                self.held = true;
                Ok("done".into())
            }
            ["release"] => {
                self.held = false;
                Ok("done".into())
            }
            ["quiet"] => Ok("done".into()),
            ["count", counter] => {
                let value = self.net.counters().iter().find(|(name, _)| *name == counter);
                Ok(value.ok_or_else(|| format!("there is no counter {counter}"))?.1.to_string())
            }
            ["zombies"] => Ok(self.net.zombies().to_string()),
            ["pinned"] => {
                self.ended.clear();
                Ok(self.heap.stats().pinned.to_string())
            }
            _ => Err(format!("there is no call {words:?}")),
        }
    }

    /// Any address of ours.
    fn anywhere(&self) -> IpAddr {
        if self.is_v6 { Ipv6Addr::UNSPECIFIED.into() } else { Ipv4Addr::UNSPECIFIED.into() }
    }

    fn listen(&mut self, backlog: u32) -> Result<String> {
        let h = self.open("listener", SocketKind::Stream)?;
        let bound = self.net.bind(h, Endpoint::new(self.anywhere(), OUR_PORT));
        Ok(told(bound.and_then(|_| self.net.listen(h, backlog))))
    }

    fn set_option(&mut self, name: &str, option: &str, value: &str) -> Result<String> {
        let option = match option {
            "no_delay" => SocketOption::NoDelay(switch(value)),
            "keep_alive" => SocketOption::KeepAlive(Some(seconds(value))),
            "linger" => SocketOption::Linger(seconds(value)),
            "send_budget" => SocketOption::SendBudget(number(value)),
            "receive_budget" => SocketOption::ReceiveBudget(number(value)),
            other => return Err(format!("there is no option {other}")),
        };
        let h = self.queue(name)?.handle;
        Ok(told(self.net.set_option(h, option)))
    }

    fn push(&mut self, name: &str, len: u64) -> Result<String> {
        let from = self.queue(name)?.pushed;
        self.queue(name)?.pushed += len;
        let sga = Sga::copy(&self.heap, &stream(from, len)).map_err(|_| "no memory")?;
        self.begin(name, "pushed", Op::Push(sga), name)
    }

    fn begin(&mut self, name: &str, word: &'static str, what: Op, into: &str) -> Result<String> {
        self.next_op += 1;
        let op = OpId(self.next_op);
        let h = self.queue(name)?.handle;
        match self.net.submit(h, op, what) {
            Err(refused) => return Ok(format!("{refused:?}")),
            Ok(Submitted::Done(result)) => self.ended.push((op, result)),
            Ok(Submitted::Pending) => {}
        }
        self.queue(name)?.waiting.push_back((word, op));
        self.end(name, word, into)
    }

    /// How the first of such operations of a queue ended.
    fn end(&mut self, name: &str, word: &'static str, into: &str) -> Result<String> {
        let queue = self.queue(name)?;
        let place = queue.waiting.iter().position(|(other, _)| *other == word).ok_or("no such operation was begun")?;
        let op = queue.waiting[place].1;
        let Some(i) = self.ended.iter().position(|(ended, _)| *ended == op) else { return Ok("waits".into()) };
        self.queue(name)?.waiting.remove(place);
        let (_, result) = self.ended.remove(i);
        Ok(match result {
            Err(error) => format!("{error:?}"),
            Ok(Outcome::Connected) => "connected".into(),
            Ok(Outcome::Pushed) => "pushed".into(),
            Ok(Outcome::Accepted { queue, .. }) => {
                self.insert(into, queue);
                "accepted".into()
            }
            Ok(Outcome::Popped(popped)) => self.popped(name, &popped.sga.to_vec())?,
            Ok(other) => format!("{other:?}"),
        })
    }

    fn popped(&mut self, name: &str, text: &[u8]) -> Result<String> {
        let from = self.queue(name)?.popped;
        if text.iter().zip(from..).any(|(byte, place)| *byte != stream_byte(place)) {
            return Err("what was popped is not what the peer sent".into());
        }
        self.queue(name)?.popped += text.len() as u64;
        Ok(if text.is_empty() { "end".into() } else { text.len().to_string() })
    }
}

fn told(result: std::result::Result<(), Error>) -> String {
    match result {
        Ok(()) => "done".into(),
        Err(error) => format!("{error:?}"),
    }
}
