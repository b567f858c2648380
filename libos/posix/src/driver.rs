//! What the two forms do differently: how a socket that would block is waited for, and who reads and writes it then.

use std::os::fd::RawFd;

use pdpix::{Error, Handle};

use crate::socket::Socket;
use crate::sockets::Table;

/// The waiting half of a network of kernel sockets.
pub trait Driver: Sized + 'static {
    /// What it keeps for each socket.
    type State: Default;

    /// The socket has a role now (it listens, is connected or being connected, or bound and a datagram socket): from
    /// now on it may become interesting. May be called again.
    ///
    /// # Errors
    /// The system's.
    fn watch(&mut self, h: Handle, socket: &mut Socket<Self>) -> Result<(), Error>;

    /// Whether a read from the socket by direct call is in order: it will not block, and nothing that arrived before is on
    /// another way.
    fn may_read(&self, socket: &Socket<Self>) -> bool;

    /// A pop or accept waits: see to it that data or connections, when they come, make the socket ready.
    fn want_read(&mut self, h: Handle, socket: &mut Socket<Self>);

    /// Whether a push of so many bytes is better left to the driver than tried directly.
    fn prefers_send(&self, socket: &Socket<Self>, len: usize) -> bool;

    /// Something is unsent, or a connect is under way: send it, or make the socket ready when that is possible.
    fn want_write(&mut self, h: Handle, socket: &mut Socket<Self>);

    /// Whether bytes are on their way that must arrive before others are sent directly.
    fn is_sending(&self, socket: &Socket<Self>) -> bool;

    /// Whether the kernel still holds memory of what was sent.
    fn is_held(&self, socket: &Socket<Self>) -> bool;

    /// The socket is to be closed: stop everything. True if nothing of it is left with the kernel; else the socket
    /// becomes ready each time something ends, and this is asked again.
    fn unwatch(&mut self, h: Handle, socket: &mut Socket<Self>) -> bool;

    /// Takes in what the kernel has, and makes sockets ready.
    fn poll(&mut self, table: &mut Table<Self>);

    /// Gives the kernel everything that was asked for, and the descriptor that wakes us.
    fn arm(&mut self) -> RawFd;

    /// Whether something was taken in since and waits for a poll.
    fn has_events(&mut self) -> bool;
}
