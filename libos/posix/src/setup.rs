//! Kernel sockets on the control path: made, of the right family, bound, set, and reset.

use std::os::fd::OwnedFd;

use pdpix::{Endpoint, Error, SocketKind};
use rustix::io::Errno;
use rustix::net::{AddressFamily, SocketFlags, SocketType, ipproto, sockopt};

use crate::driver::Driver;
use crate::socket::{Role, Socket, error};

pub(crate) fn new_socket(family: AddressFamily, kind: SocketKind) -> Result<OwnedFd, Error> {
    let (socket_type, protocol) = match kind {
        SocketKind::Stream => (SocketType::STREAM, ipproto::TCP),
        SocketKind::Datagram => (SocketType::DGRAM, ipproto::UDP),
        SocketKind::Message => return Err(Error::NotSupported),
    };
    let flags = SocketFlags::NONBLOCK | SocketFlags::CLOEXEC;
    rustix::net::socket_with(family, socket_type, flags, Some(protocol)).map_err(error)
}

/// Ends a connection as one that is broken, at once: what is unsent is gone, also from under operations of the driver.
pub(crate) fn reset(fd: &OwnedFd) {
    let _ = sockopt::set_socket_linger(fd, Some(std::time::Duration::ZERO));
    let _ = rustix::net::connect_unspec(fd);
}

/// Binds, so that a server can be started again while its old connections are still there or in TIME-WAIT, and yet a port
/// that somebody has is refused. SO_REUSEADDR alone would let two sockets have a port as long as neither listens.
pub(crate) fn bind<D: Driver>(socket: &Socket<D>, at: Endpoint) -> rustix::io::Result<()> {
    match rustix::net::bind(&socket.fd, &at) {
        Err(Errno::ADDRINUSE) if socket.is_stream() => {
            sockopt::set_socket_reuseaddr(&socket.fd, true)?;
            let bound = rustix::net::bind(&socket.fd, &at);
            sockopt::set_socket_reuseaddr(&socket.fd, false)?;
            bound
        }
        bound => bound,
    }
}

/// A socket is made for IPv4. The first IPv6 address that it is used with exchanges it for one of that family.
pub(crate) fn make_family<D: Driver>(socket: &mut Socket<D>, address: Endpoint) -> Result<(), Error> {
    let is_ipv6 = match rustix::net::getsockname(&socket.fd) {
        Ok(name) => name.address_family() == AddressFamily::INET6,
        Err(errno) => return Err(error(errno)),
    };
    if address.is_ipv6() != is_ipv6 {
        if socket.role != Role::Fresh {
            return Err(Error::AddressFamily);
        }
        let family = if address.is_ipv6() { AddressFamily::INET6 } else { AddressFamily::INET };
        socket.fd = new_socket(family, socket.kind)?;
    }
    apply_options(socket).map_err(error)
}

pub(crate) fn apply_options<D: Driver>(socket: &Socket<D>) -> rustix::io::Result<()> {
    let (fd, options) = (&socket.fd, &socket.options);
    if socket.role == Role::Fresh {
        sockopt::set_socket_reuseport(fd, options.shared)?;
    }
    if socket.is_stream() {
        sockopt::set_tcp_nodelay(fd, options.no_delay)?;
        sockopt::set_socket_keepalive(fd, options.keep_alive.is_some())?;
        if let Some(idle) = options.keep_alive {
            let idle = idle.max(std::time::Duration::from_secs(1));
            sockopt::set_tcp_keepidle(fd, idle)?;
            // Three probes in the time of one idle period, as Redis does it.
            sockopt::set_tcp_keepintvl(fd, (idle / 3).max(std::time::Duration::from_secs(1)))?;
            sockopt::set_tcp_keepcnt(fd, 3)?;
        }
    }
    Ok(())
}
