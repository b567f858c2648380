//! What a shard is told: by its connections, and by the shards of other cores.

use framework::pdpix::{Error, Heap};
use framework::runtime::CarriedBuf;
use framework::{Carry, Session};
use kv_engine::engine::Session as Speaker;
use kv_engine::log::Joint;
use kv_engine::resp::Request;
use kv_engine::shard::{Answer, Part};

use crate::codec::{Incoming, Resp};
use crate::persistence::Found;
use crate::survey::{Finding, Question};

/// What a shard is told.
#[derive(Debug)]
pub struct Message(pub(crate) Told);

#[derive(Debug)]
pub(crate) enum Told {
    Request(Session<Resp>, Incoming),
    Peer(Peer),
}

impl Message {
    #[inline]
    pub(crate) fn request(session: Session<Resp>, incoming: Incoming) -> Message {
        Message(Told::Request(session, incoming))
    }
}

/// Requests stay on their core; what shards say to each other travels as it is.
impl Carry for Message {
    type Carried = Peer;

    fn carry(self) -> Result<Peer, Message> {
        match self.0 {
            Told::Peer(peer) => Ok(peer),
            request => Err(Message(request)),
        }
    }

    fn land(peer: Peer, _: &Heap) -> Result<Message, Peer> {
        Ok(Message(Told::Peer(peer)))
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
    pub(crate) version: u64,
    /// Why it cannot be written to.
    pub(crate) error: Option<Error>,
}

/// A log that cannot be written to.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Failure {
    pub(crate) of: u8,
    pub(crate) version: u64,
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
    /// Whether a shard's disk has so little room left that nothing may grow.
    Room {
        of: u8,
        is_short: bool,
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
