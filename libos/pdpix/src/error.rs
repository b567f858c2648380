//! The one error type of contracts and calls: small, `Copy`, with one errno each.

/// Why a call was refused, or how an operation failed.
///
/// Refusals (the caller's doing, or lack of resources) come as the call's own `Err`, before any effect. Faults of peer
/// and device come as the operation's result.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
#[non_exhaustive]
pub enum Error {
    /// No such queue, or it was closed.
    BadDescriptor,
    /// The token was never issued by this core.
    BadToken,
    /// The token was issued, and redeemed or given up since.
    StaleToken,
    /// The token has a waiter already.
    TokenBusy,
    /// A wait from inside a coroutine or handler: nobody could complete what it waits for.
    WouldDeadlock,
    /// An argument that means nothing: an empty push, a length of zero, an empty list, a queue in the wrong state.
    InvalidArgument,
    /// This kind of queue has no such call.
    NotSupported,
    /// The stream is not connected.
    NotConnected,
    /// The stream is connected already, or being connected.
    AlreadyConnected,
    /// Our direction was finished, or the peer's end is closed for what we push.
    BrokenPipe,
    /// A pop after the pop of length zero that said that the peer had finished.
    EndOfStream,
    /// Longer than a message of this queue can be.
    MessageSize,
    /// No memory for it, or no slot; to be tried again when something was freed.
    NoBuffers,
    /// All queue descriptors are in use.
    TooManyQueues,
    /// The operation was cancelled, or its queue closed.
    Canceled,
    /// A deadline passed: the caller's in `wait`, or the peer's.
    TimedOut,
    /// A wait was ended from another thread; its tokens stay valid.
    Interrupted,
    /// Nothing listens there.
    ConnectionRefused,
    /// The peer, or the stack on its behalf, gave the connection up.
    ConnectionReset,
    /// Given up on this side before it was established.
    ConnectionAborted,
    /// Somebody has this endpoint.
    AddressInUse,
    /// Not an address of this host.
    AddressNotAvailable,
    /// An address of a family that this network has not.
    AddressFamily,
    /// No way to that host.
    HostUnreachable,
    /// No way to that network.
    NetworkUnreachable,
    /// The device or its network is gone.
    NetworkDown,
    /// The operating system forbids it.
    PermissionDenied,
    /// The device failed.
    Io,
    /// The device has no space left.
    NoSpace,
    /// What was read is damaged.
    Corrupt,
    /// Opened for reading only.
    ReadOnly,
    /// Beyond what a log or region can hold.
    Overflow,
    /// No such log, network or name.
    NotFound,
    /// There is one already.
    AlreadyExists,
}

impl Error {
    /// Every error, once.
    pub const ALL: [Error; 34] = {
        use Error::*;
        [
            BadDescriptor,
            BadToken,
            StaleToken,
            TokenBusy,
            WouldDeadlock,
            InvalidArgument,
            NotSupported,
            NotConnected,
            AlreadyConnected,
            BrokenPipe,
            EndOfStream,
            MessageSize,
            NoBuffers,
            TooManyQueues,
            Canceled,
            TimedOut,
            Interrupted,
            ConnectionRefused,
            ConnectionReset,
            ConnectionAborted,
            AddressInUse,
            AddressNotAvailable,
            AddressFamily,
            HostUnreachable,
            NetworkUnreachable,
            NetworkDown,
            PermissionDenied,
            Io,
            NoSpace,
            Corrupt,
            ReadOnly,
            Overflow,
            NotFound,
            AlreadyExists,
        ]
    };

    /// Its number on Linux (asm-generic/errno.h), the same on every architecture that we run on. No two are alike.
    pub const fn errno(self) -> i32 {
        match self {
            Error::PermissionDenied => 1,     // EPERM
            Error::NotFound => 2,             // ENOENT
            Error::Interrupted => 4,          // EINTR
            Error::Io => 5,                   // EIO
            Error::BadDescriptor => 9,        // EBADF
            Error::TokenBusy => 16,           // EBUSY
            Error::AlreadyExists => 17,       // EEXIST
            Error::InvalidArgument => 22,     // EINVAL
            Error::TooManyQueues => 24,       // EMFILE
            Error::NoSpace => 28,             // ENOSPC
            Error::ReadOnly => 30,            // EROFS
            Error::BrokenPipe => 32,          // EPIPE
            Error::WouldDeadlock => 35,       // EDEADLK
            Error::BadToken => 53,            // EBADR: invalid request descriptor
            Error::EndOfStream => 61,         // ENODATA
            Error::Corrupt => 74,             // EBADMSG
            Error::Overflow => 75,            // EOVERFLOW
            Error::MessageSize => 90,         // EMSGSIZE
            Error::NotSupported => 95,        // EOPNOTSUPP
            Error::AddressFamily => 97,       // EAFNOSUPPORT
            Error::AddressInUse => 98,        // EADDRINUSE
            Error::AddressNotAvailable => 99, // EADDRNOTAVAIL
            Error::NetworkDown => 100,        // ENETDOWN
            Error::NetworkUnreachable => 101, // ENETUNREACH
            Error::ConnectionAborted => 103,  // ECONNABORTED
            Error::ConnectionReset => 104,    // ECONNRESET
            Error::NoBuffers => 105,          // ENOBUFS
            Error::AlreadyConnected => 106,   // EISCONN
            Error::NotConnected => 107,       // ENOTCONN
            Error::TimedOut => 110,           // ETIMEDOUT
            Error::ConnectionRefused => 111,  // ECONNREFUSED
            Error::HostUnreachable => 113,    // EHOSTUNREACH
            Error::StaleToken => 116,         // ESTALE
            Error::Canceled => 125,           // ECANCELED
        }
    }

    /// The error that a system call's errno means to us. What has no name of its own here is [`Error::Io`].
    pub const fn from_errno(errno: i32) -> Error {
        let mut i = 0;
        while i < Error::ALL.len() {
            if Error::ALL[i].errno() == errno {
                return Error::ALL[i];
            }
            i += 1;
        }
        match errno {
            12 => Error::NoBuffers,         // ENOMEM
            13 => Error::PermissionDenied,  // EACCES
            19 => Error::NetworkDown,       // ENODEV
            23 => Error::TooManyQueues,     // ENFILE
            64 => Error::HostUnreachable,   // ENONET
            71 => Error::ConnectionAborted, // EPROTO
            108 => Error::BrokenPipe,       // ESHUTDOWN
            112 => Error::HostUnreachable,  // EHOSTDOWN
            114 => Error::AlreadyConnected, // EALREADY
            _ => Error::Io,
        }
    }

    /// What it says to a person.
    pub const fn text(self) -> &'static str {
        match self {
            Error::BadDescriptor => "no such queue",
            Error::BadToken => "no such token",
            Error::StaleToken => "the token was redeemed already",
            Error::TokenBusy => "another waiter has the token",
            Error::WouldDeadlock => "waiting inside a coroutine would never end",
            Error::InvalidArgument => "invalid argument",
            Error::NotSupported => "not supported by this queue",
            Error::NotConnected => "not connected",
            Error::AlreadyConnected => "connected already",
            Error::BrokenPipe => "this direction of the stream is closed",
            Error::EndOfStream => "after the end of the stream",
            Error::MessageSize => "the message is too long",
            Error::NoBuffers => "out of buffers",
            Error::TooManyQueues => "too many queues",
            Error::Canceled => "cancelled",
            Error::TimedOut => "timed out",
            Error::Interrupted => "the wait was interrupted",
            Error::ConnectionRefused => "connection refused",
            Error::ConnectionReset => "connection reset by peer",
            Error::ConnectionAborted => "connection aborted",
            Error::AddressInUse => "address in use",
            Error::AddressNotAvailable => "address not available",
            Error::AddressFamily => "address family not supported",
            Error::HostUnreachable => "host unreachable",
            Error::NetworkUnreachable => "network unreachable",
            Error::NetworkDown => "network down",
            Error::PermissionDenied => "permission denied",
            Error::Io => "input/output error",
            Error::NoSpace => "no space left",
            Error::Corrupt => "damaged data",
            Error::ReadOnly => "read only",
            Error::Overflow => "too large",
            Error::NotFound => "not found",
            Error::AlreadyExists => "exists already",
        }
    }
}

impl std::fmt::Display for Error {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.text())
    }
}

impl std::error::Error for Error {}

impl From<libos_mem::Exhausted> for Error {
    fn from(_: libos_mem::Exhausted) -> Error {
        Error::NoBuffers
    }
}

const _: () = assert!(size_of::<Error>() == 1);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_error_has_one_errno_and_one_text() {
        for (i, error) in Error::ALL.into_iter().enumerate() {
            assert_eq!(error as usize, Error::ALL.iter().position(|&e| e == error).unwrap(), "listed once, in order");
            assert_eq!(Error::from_errno(error.errno()), error);
            assert!((1..134).contains(&error.errno()));
            assert!(
                Error::ALL[..i].iter().all(|e| e.errno() != error.errno() && e.text() != error.text()),
                "{error:?}"
            );
        }
    }

    #[test]
    fn foreign_errnos_have_a_meaning() {
        assert_eq!(Error::from_errno(13), Error::PermissionDenied);
        assert_eq!(Error::from_errno(9999), Error::Io);
    }
}
