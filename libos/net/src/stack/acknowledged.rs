//! Demikernel's rule of when a push on a stream is complete: when the peer has acknowledged all of it
//! (`TcpSettings::push_is_acknowledged`). Ours, which is the usual one, is that it is in the send budget.
//!
//! Always: `unacknowledged` is in the order of the pushes, and their bytes are the last ones of the send queue.

use pdpix::{Completions, Error, OpId, Outcome};

use super::Stack;
use super::socket::Socket;

impl Socket {
    /// A push of `len` bytes has been put into the send queue.
    pub(super) fn note_unacknowledged(&mut self, op: OpId, len: usize) {
        self.pushed += len as u64;
        self.unacknowledged.push_back((op, self.pushed));
    }

    /// Forgets them, in order.
    pub(super) fn take_unacknowledged(&mut self) -> impl Iterator<Item = OpId> + use<> {
        std::mem::take(&mut self.unacknowledged).into_iter().map(|(op, _)| op)
    }
}

impl Stack {
    /// Pushes whose last byte is acknowledged are complete.
    pub(super) fn serve_acknowledged(&mut self, i: u32, done: &mut Completions) {
        loop {
            let socket = &mut self.sockets[i as usize];
            let pushed = socket.pushed;
            let Some(tcb) = socket.tcb() else { return };
            let acknowledged = pushed - tcb.queue.len() as u64;
            match socket.unacknowledged.front() {
                Some(&(op, end)) if end <= acknowledged => {
                    socket.unacknowledged.pop_front();
                    self.complete(op, Ok(Outcome::Pushed), done);
                }
                _ => return,
            }
        }
    }

    /// The connection is over. One that ended in order has had everything acknowledged, our FIN with it.
    pub(super) fn conclude_unacknowledged(&mut self, i: u32, error: Option<Error>, done: &mut Completions) {
        for op in self.sockets[i as usize].take_unacknowledged() {
            self.complete(op, error.map_or(Ok(Outcome::Pushed), Err), done);
        }
    }
}
