//! Socket options, as `setsockopt(2)` has them.

use std::ffi::{c_int, c_void};
use std::mem::size_of;
use std::time::Duration;

use libc::{linger, socklen_t};
use pdpix::{OptionName, SocketOption, SocketOptions};

use crate::control::queue;
use crate::errno::Errno;
use crate::thread::{Thread, enter};

/// What Linux waits before it asks an idle peer, if nobody says otherwise (net.ipv4.tcp_keepalive_time).
const KEEP_ALIVE: Duration = Duration::from_secs(7200);

/// The options that there are. (SO_REUSEADDR is accepted: a port is free here as soon as its listener is closed.)
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Known {
    Linger,
    KeepAlive,
    KeepIdle,
    ReusePort,
    ReuseAddress,
    SendBuffer,
    ReceiveBuffer,
    NoDelay,
}

impl Known {
    fn of(level: c_int, name: c_int) -> Result<Known, Errno> {
        Ok(match (level, name) {
            (libc::SOL_SOCKET, libc::SO_LINGER) => Known::Linger,
            (libc::SOL_SOCKET, libc::SO_KEEPALIVE) => Known::KeepAlive,
            (libc::SOL_SOCKET, libc::SO_REUSEPORT) => Known::ReusePort,
            (libc::SOL_SOCKET, libc::SO_REUSEADDR) => Known::ReuseAddress,
            (libc::SOL_SOCKET, libc::SO_SNDBUF) => Known::SendBuffer,
            (libc::SOL_SOCKET, libc::SO_RCVBUF) => Known::ReceiveBuffer,
            (libc::IPPROTO_TCP, libc::TCP_NODELAY) => Known::NoDelay,
            (libc::IPPROTO_TCP, libc::TCP_KEEPIDLE) => Known::KeepIdle,
            (libc::SOL_SOCKET | libc::IPPROTO_TCP, _) => return Err(Errno::new(libc::ENOPROTOOPT)),
            _ => return Err(Errno::new(libc::ENOTSUP)),
        })
    }

    fn name(self) -> OptionName {
        match self {
            Known::Linger => OptionName::Linger,
            Known::KeepAlive | Known::KeepIdle => OptionName::KeepAlive,
            Known::ReusePort | Known::ReuseAddress => OptionName::Shared,
            Known::SendBuffer => OptionName::SendBudget,
            Known::ReceiveBuffer => OptionName::ReceiveBudget,
            Known::NoDelay => OptionName::NoDelay,
        }
    }

    fn size(self) -> usize {
        if self == Known::Linger { size_of::<linger>() } else { size_of::<c_int>() }
    }
}

/// A lingering that the program asked for; switched off, it is what ours is without being asked, of which this differs.
fn linger_of(seconds: c_int) -> Duration {
    let asked = Duration::from_secs(seconds as u64);
    if asked == SocketOptions::default().linger { asked + Duration::from_nanos(1) } else { asked }
}

/// `demi_setsockopt(3)`.
///
/// # Safety
/// `optval` is null, or `optlen` bytes can be read there.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn demi_setsockopt(
    qd: c_int,
    level: c_int,
    optname: c_int,
    optval: *const c_void,
    optlen: socklen_t,
) -> c_int {
    enter(|thread| {
        let known = Known::of(level, optname)?;
        if optval.is_null() || optlen as usize != known.size() {
            return Err(Errno::INVALID);
        }
        if known == Known::Linger {
            // SAFETY: as many bytes can be read, by the caller's promise.
            let linger { l_onoff, l_linger } = unsafe { optval.cast::<linger>().read_unaligned() };
            let time = match (l_onoff, l_linger) {
                (0, _) => SocketOptions::default().linger,
                (_, seconds @ 0..) => linger_of(seconds),
                _ => return Err(Errno::INVALID),
            };
            return Ok(thread.libos.set_option(queue(qd), SocketOption::Linger(time))?);
        }
        // SAFETY: as above.
        let value = unsafe { optval.cast::<c_int>().read_unaligned() };
        thread.set_number(qd, known, value)
    })
}

/// `demi_getsockopt(3)`.
///
/// # Safety
/// Each pointer is null, or can be written to: `optlen` as a `socklen_t`, `optval` for as many bytes as it says.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn demi_getsockopt(
    qd: c_int,
    level: c_int,
    optname: c_int,
    optval: *mut c_void,
    optlen: *mut socklen_t,
) -> c_int {
    enter(|thread| {
        let known = Known::of(level, optname)?;
        if optval.is_null() || optlen.is_null() {
            return Err(Errno::INVALID);
        }
        // SAFETY: not null, and so readable by the caller's promise.
        let room = unsafe { optlen.read_unaligned() } as usize;
        if room < known.size() || room > i32::MAX as usize {
            return Err(Errno::INVALID);
        }
        let value = thread.libos.option(queue(qd), known.name())?;
        // SAFETY: both can be written to, and there is room.
        unsafe {
            match value {
                SocketOption::Linger(time) => optval.cast::<linger>().write_unaligned(to_linger(time)),
                other => optval.cast::<c_int>().write_unaligned(to_number(known, other)),
            }
            optlen.write_unaligned(known.size() as socklen_t);
        }
        Ok(())
    })
}

fn to_linger(time: Duration) -> linger {
    if time == SocketOptions::default().linger {
        return linger { l_onoff: 0, l_linger: 0 };
    }
    linger { l_onoff: 1, l_linger: c_int::try_from(time.as_secs()).unwrap_or(c_int::MAX) }
}

fn to_number(known: Known, option: SocketOption) -> c_int {
    match option {
        SocketOption::NoDelay(on) | SocketOption::Shared(on) => c_int::from(on),
        SocketOption::KeepAlive(time) if known == Known::KeepIdle => {
            c_int::try_from(time.unwrap_or(KEEP_ALIVE).as_secs()).unwrap_or(c_int::MAX)
        }
        SocketOption::KeepAlive(time) => c_int::from(time.is_some()),
        SocketOption::SendBudget(bytes) | SocketOption::ReceiveBudget(bytes) => {
            c_int::try_from(bytes).unwrap_or(c_int::MAX)
        }
        SocketOption::Linger(_) => 0,
    }
}

impl Thread {
    fn set_number(&self, qd: c_int, known: Known, value: c_int) -> Result<(), Errno> {
        let positive = usize::try_from(value).ok().filter(|&value| value > 0).ok_or(Errno::INVALID);
        let option = match known {
            Known::NoDelay => SocketOption::NoDelay(value != 0),
            Known::ReusePort => SocketOption::Shared(value != 0),
            Known::KeepAlive if value == 0 => SocketOption::KeepAlive(None),
            // The time that was set stays.
            Known::KeepAlive => match self.libos.option(queue(qd), OptionName::KeepAlive)? {
                SocketOption::KeepAlive(Some(time)) => SocketOption::KeepAlive(Some(time)),
                _ => SocketOption::KeepAlive(Some(KEEP_ALIVE)),
            },
            Known::KeepIdle => SocketOption::KeepAlive(Some(Duration::from_secs(positive? as u64))),
            Known::SendBuffer => SocketOption::SendBudget(positive?),
            Known::ReceiveBuffer => SocketOption::ReceiveBudget(positive?),
            Known::Linger | Known::ReuseAddress => {
                // It is there, and nothing has to be done for it.
                self.libos.option(queue(qd), OptionName::SendBudget)?;
                return Ok(());
            }
        };
        Ok(self.libos.set_option(queue(qd), option)?)
    }
}
