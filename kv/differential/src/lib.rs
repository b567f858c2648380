//! Margay's cache beside a real redis-server: generated commands to both, and a judge of the replies.
//!
//! A [`Subject`] is whatever answers RESP on one connection: the engines of the cache in this process ([`InProcess`]), or
//! a server at an address ([`Peer`]). [`Pair`] sends one command, or a batch at once, to a [`Redis`] of our own and to a
//! subject, and says how the replies differ, if they do more than they may. What Redis leaves to chance is judged by what
//! it may be: the SCAN family by what a whole walk returns, SPOP and its like by membership, times to live by ranges,
//! INFO, CLIENT and COMMAND by their shape.
//!
//! Always: a case is a function of its seed ([`case::commands_of`]); replies are read by a reader of its own ([`resp`]), so
//! that one mistake cannot hide in both. Not published: tests alone use it.

#![forbid(unsafe_code)]

pub mod case;
pub mod compare;
pub mod generate;
mod in_process;
mod peer;
mod redis;
pub mod resp;
pub mod scripts;

pub use compare::Pair;
pub use generate::Args;
pub use in_process::InProcess;
pub use peer::{Peer, Target};
pub use redis::Redis;
pub use resp::Reply;

/// One connection to something that answers as Redis does.
pub trait Subject {
    /// Sends these bytes; to a connection that is closed, nothing.
    fn send(&mut self, bytes: &[u8]);

    /// The next reply. `None`: the connection is closed.
    fn reply(&mut self) -> Option<Reply>;

    /// A new connection to the same data.
    fn reconnect(&mut self);

    /// Sends a command and awaits its reply.
    fn ask(&mut self, args: &[Vec<u8>]) -> Option<Reply> {
        self.send(&resp::write(args));
        self.reply()
    }

    /// Whether the connection is closed, as one can tell from outside: by asking.
    fn is_closed(&mut self) -> bool {
        self.ask(&generate::words("PING")).is_none()
    }
}
