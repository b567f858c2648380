//! What a shard is told: by its connections, and by the shards of other cores.

use std::collections::BTreeMap;

use framework::pdpix::{Error, Heap};
use framework::runtime::CarriedBuf;
use framework::{Carry, Session};
use kv_engine::engine::Session as Speaker;
use kv_engine::log::Joint;
use kv_engine::resp::Request;
use kv_engine::shard::{Answer, Part};

use crate::codec::{Incoming, Resp};
use crate::persistence::{Found, Room};
use crate::survey::{Finding, Question};

/// What a shard is told.
#[derive(Debug)]
pub struct Message(pub(crate) Told);

#[derive(Debug)]
pub(crate) enum Told {
    Request(Session<Resp>, Incoming),
    Peer(Letter),
}

/// What one shard says to another. What finds no room comes back and is sent again, when later ones may have arrived: so
/// they are numbered, and read in that order.
#[derive(Debug)]
pub struct Letter {
    pub(crate) from: u8,
    pub(crate) number: u32,
    pub(crate) peer: Peer,
}

/// The letters between this shard and another one.
#[derive(Default, Debug)]
pub(crate) struct Letters {
    sent: u32,
    read: u32,
    /// Those that have overtaken others.
    early: BTreeMap<u32, Peer>,
}

impl Letters {
    /// The number of the next one to be sent.
    pub fn number_next(&mut self) -> u32 {
        self.sent = self.sent.wrapping_add(1);
        self.sent
    }

    /// One has arrived; gives it back if it is its turn.
    #[inline]
    pub fn arrive(&mut self, number: u32, peer: Peer) -> Option<Peer> {
        if number == self.read.wrapping_add(1) {
            self.read = number;
            return Some(peer);
        }
        self.early.insert(number, peer);
        None
    }

    /// The next one of those that have waited for one before them.
    #[inline]
    pub fn next(&mut self) -> Option<Peer> {
        if self.early.is_empty() {
            return None;
        }
        let peer = self.early.remove(&self.read.wrapping_add(1))?;
        self.read = self.read.wrapping_add(1);
        Some(peer)
    }
}

impl Message {
    #[inline]
    pub(crate) fn request(session: Session<Resp>, incoming: Incoming) -> Message {
        Message(Told::Request(session, incoming))
    }
}

/// Requests stay on their core; what shards say to each other travels as it is.
impl Carry for Message {
    type Carried = Letter;

    fn carry(self) -> Result<Letter, Message> {
        match self.0 {
            Told::Peer(letter) => Ok(letter),
            request => Err(Message(request)),
        }
    }

    fn land(letter: Letter, _: &Heap) -> Result<Message, Letter> {
        Ok(Message(Told::Peer(letter)))
    }
}

/// Who wants a shard for itself: a task of a core.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Claim {
    pub(crate) core: u8,
    pub(crate) task: u32,
}

/// What is known of a shard's log. Others tell of it, too, so word of it may be older than what was heard before.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct LogState {
    pub(crate) of: u8,
    /// Counts up with each change.
    pub(crate) version: u32,
    /// Why it cannot be written to.
    pub(crate) error: Option<Error>,
}

/// A log that cannot be written to.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Failure {
    pub(crate) of: u8,
    pub(crate) version: u32,
    pub(crate) error: Error,
}

impl From<Failure> for LogState {
    fn from(Failure { of, version, error }: Failure) -> LogState {
        LogState { of, version, error: Some(error) }
    }
}

/// What shards say to each other. Buffers are landed where they are used, so that want of memory there is an answer.
#[derive(Debug)]
pub enum Peer {
    /// To carry out requests of one client, in this order, all of them on keys of the receiver.
    Run(Box<Run>),
    /// The replies to that, one behind the other; `None` if there was no memory for them.
    Ran {
        task: u32,
        replies: Option<Vec<CarriedBuf>>,
    },
    /// To do nothing for others until [`Peer::Release`]; answered by [`Peer::Held`] when it is so.
    Hold(Claim),
    Held {
        task: u32,
        /// What the sender knows of logs that cannot be written to: whoever had it before may have met one.
        failure: Option<Failure>,
    },
    Release(Claim),
    /// A part of a command over several shards, and what came of it.
    Part {
        claim: Claim,
        index: u32,
        part: Box<Part<CarriedBuf>>,
    },
    Answered {
        task: u32,
        index: u32,
        answer: Box<Answer<CarriedBuf>>,
    },
    /// What concerns all cores, and what each of them answers.
    Ask {
        claim: Claim,
        question: Box<Question>,
    },
    Found {
        task: u32,
        finding: Box<Finding>,
    },
    /// Who holds the receiver is done with it: to write down what that has changed (with a name, if it may have changed
    /// something), and to answer by [`Peer::Logged`] when it, and all that was seen, is durable, if that is asked for.
    Log {
        claim: Claim,
        joint: Option<Box<Joint>>,
        answer: bool,
    },
    Logged {
        task: u32,
        /// Why it could not be made durable; or why it does not count though it is: it follows something that was lost.
        failure: Option<Failure>,
    },
    /// Whether a shard's log can be written to.
    LogState(LogState),
    /// How much room a shard's disk has left.
    Room {
        of: u8,
        room: Room,
    },
    /// What the sender has found on its disk.
    Recovers {
        core: u8,
        found: Box<Found>,
    },
    /// The sender has come to this joint record.
    Reached {
        joint: u64,
    },
    /// The sender's log is at its end.
    Ended {
        core: u8,
    },
    /// The sender has written its part of a snapshot, or could not.
    Saved {
        generation: u64,
        is_fine: bool,
    },
    /// All have; or it is given up.
    Complete {
        generation: u64,
        is_fine: bool,
    },
}

/// Requests for another shard.
#[derive(Debug)]
pub struct Run {
    pub(crate) claim: Claim,
    pub(crate) speaker: Speaker,
    pub(crate) requests: Vec<Request<CarriedBuf>>,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn letters_are_read_in_the_order_in_which_they_were_written() {
        let (mut mine, mut theirs) = (Letters::default(), Letters::default());
        for letters in [&mut mine, &mut theirs] {
            (letters.sent, letters.read) = (u32::MAX - 2, u32::MAX - 2);
        }
        let numbers: Vec<u32> = (0..6).map(|_| mine.number_next()).collect();
        let mut read = Vec::new();
        for place in [1, 2, 0, 5, 4, 3] {
            let mut next = theirs.arrive(numbers[place], Peer::Reached { joint: place as u64 });
            while let Some(peer) = next {
                let Peer::Reached { joint } = peer else { unreachable!("only these were written") };
                read.push(joint);
                next = theirs.next();
            }
        }
        assert_eq!(read, [0, 1, 2, 3, 4, 5]);
    }
}
