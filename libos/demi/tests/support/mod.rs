//! The subject over the functions of the C interface. Three library OSes take turns on one thread.

mod addresses;
pub mod links;
pub mod logs;
pub mod ports;

use std::cell::RefCell;
use std::ffi::c_int;
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use addresses::{address, to_c};
use demikernel::*;
use libc::{socklen_t, timespec};
use libos_conformance::{Addresses, Arrival, Books, Can, End, Ended, LIMIT, Made, Queue, Side, Subject, Token};
use libos_runtime::{Clock as _, KernelClock};
use pdpix::{Endpoint, Error, Instant, OptionName, QToken, Qd, SocketKind, SocketOption};

const NOW: timespec = timespec { tv_sec: 0, tv_nsec: 0 };
/// After so many turns of one wait, it rests.
const IDLE_TURNS: u32 = 100;
const REST: Duration = Duration::from_micros(50);
const QUIET: Duration = Duration::from_millis(15);

/// A library OS, and what it waits for when it is only to go on.
struct Seat {
    parked: Parked,
    /// The token of a pop that never ends.
    never: u64,
}

/// See the module's head.
pub struct Abi {
    /// Empty, once they are dead.
    seats: [Option<RefCell<Seat>>; 3],
    pinned_at_death: [usize; 3],
    can: Can,
    addresses: Addresses,
    kept: usize,
    link_dies: bool,
    /// Held as long as the seats are.
    _alone: Option<ports::Alone>,
}

fn error(errno: c_int) -> Error {
    Error::from_errno(errno)
}

fn checked(errno: c_int) -> Result<(), Error> {
    if errno == 0 { Ok(()) } else { Err(error(errno)) }
}

fn nothing_yet() -> QResult {
    // SAFETY: zero-filled memory is a value of it.
    unsafe { std::mem::zeroed() }
}

fn c(qd: Qd) -> c_int {
    qd.raw() as c_int
}

fn q(qd: c_int) -> Qd {
    Qd::from_raw(qd as u32)
}

/// Frees an array, as a program would.
fn free(mut sga: SgArray) {
    // SAFETY: it is there.
    assert_eq!(unsafe { demi_sgafree(&mut sga) }, 0, "a buffer that the program holds");
}

/// A result in the words of the suite. What a pop brought is copied, and freed.
fn end(result: QResult) -> End {
    let QResult { opcode, qd, ret, value, .. } = result;
    let ended = match opcode {
        1 => Ok(Ended::Pushed),
        2 => {
            // SAFETY: the opcode says what it is.
            let sga = unsafe { value.sga };
            let segment = sga.segs[0];
            // SAFETY: as many bytes are there until they are freed.
            let bytes = unsafe { std::slice::from_raw_parts(segment.buf.cast::<u8>(), segment.len as usize) }.to_vec();
            // SAFETY: all is there.
            let from = address(|addr, size| unsafe { demi_getsender(&sga, addr, size) }).ok();
            free(sga);
            assert!(ret == 0 || ret == i64::from(libc::EMSGSIZE));
            Ok(Ended::Popped(Arrival { bytes, from, cut: ret != 0 }))
        }
        3 => {
            // SAFETY: the opcode says what it is.
            let ares = unsafe { value.ares };
            // SAFETY: all is there.
            let peer = address(|addr, size| unsafe { demi_getpeername(ares.qd, addr, size) });
            let sin = ares.addr;
            let v4 = SocketAddr::from((u32::from_be(sin.sin_addr.s_addr).to_be_bytes(), u16::from_be(sin.sin_port)));
            if i32::from(sin.sin_family) == libc::AF_INET {
                assert!(peer.is_err() || peer == Ok(v4), "{peer:?} is told to be {v4}");
            }
            Ok(Ended::Accepted(q(ares.qd), peer.unwrap_or(v4)))
        }
        4 => Ok(Ended::Connected),
        6 => Err(error(ret as c_int)),
        other => panic!("opcode {other}"),
    };
    End { qd: q(qd), result: ended }
}

impl Abi {
    /// Everybody on kernel sockets.
    pub fn on_loopback(libos: &str) -> Made {
        let can = Can {
            datagrams: true,
            ipv6: true,
            memory_queues: true,
            give_up: false,
            contend: false,
            cores_share: true,
            kill: true,
            second_process: true,
            keeps_what_arrived: false,
            datagram_max: 65_507,
            receive_ahead: 256 * 4096 + 64 * 1024,
        };
        let variables = [(); 3].map(|()| vec![("LIBOS".to_string(), libos.to_string())]);
        Ok(Box::new(Abi::make(can, Addresses::loopback(), variables, |_| Ok(()))?))
    }

    /// The client and the server each at an end of a link, under our own stack.
    pub fn on_a_link(libos: &str, ends: links::Ends) -> Made {
        Abi::on_a_link_that_comes(libos, ends, |_| Ok(()))
    }

    /// The client and the server each at a port of DPDK's, in the order in which they are there.
    pub fn on_ports(ports: ports::Ports) -> Made {
        let end = |i: usize| {
            let mut variables = Abi::variables_of_an_end("catnip", i);
            let own = [("PORT", ports.devices[i].clone()), ("EAL", ports::EAL.into())];
            variables.extend(own.map(|(key, value)| (format!("MARGAY_DPDK_{key}"), value)));
            // As over the other links; LIBOS=catnip would have pushes wait for acknowledgements.
            variables.push(("MARGAY_FRAMES_PUSH_COMPLETE".into(), "accepted".into()));
            variables
        };
        let order = ports.order.map(Side);
        let ends = [end(0), end(1), Abi::idle_variables()];
        let mut subject = Abi::make_in(order, Abi::CAN_ON_A_LINK, Abi::addresses_on_a_link(), ends, |_| Ok(()))?;
        subject.kept = ports.kept;
        subject.link_dies = ports.link_dies;
        subject._alone = Some(ports.alone);
        subject.settle();
        subject.introduce();
        Ok(Box::new(subject))
    }

    /// The same, where each end comes into being by being opened, and is then to be put to use.
    pub fn on_a_link_that_comes(libos: &str, ends: links::Ends, join: impl Fn(&str) -> Result<(), String>) -> Made {
        let end = |i: usize| {
            let mut variables = Abi::variables_of_an_end(libos, i);
            variables.push(("MARGAY_FRAMES_INTERFACE".into(), ends.names[i].clone()));
            variables
        };
        let variables = [end(0), end(1), Abi::idle_variables()];
        let mut subject = Abi::make(Abi::CAN_ON_A_LINK, Abi::addresses_on_a_link(), variables, |side| {
            ends.names.get(side.0).map_or(Ok(()), |name| join(name))
        })?;
        subject.introduce();
        Ok(Box::new(subject))
    }

    const CAN_ON_A_LINK: Can = Can {
        datagrams: true,
        ipv6: true,
        memory_queues: true,
        give_up: false,
        contend: false,
        // A thread has all of an interface.
        cores_share: false,
        kill: true,
        second_process: false,
        keeps_what_arrived: true,
        datagram_max: 1500 - 20 - 8,
        receive_ahead: 2 * 65_536,
    };

    fn addresses_on_a_link() -> Addresses {
        Addresses {
            ipv4: links::IPV4.map(IpAddr::V4),
            ipv6: Some(links::IPV6.map(IpAddr::V6)),
            nobody: Some(Endpoint::new(links::NOBODY.into(), 9)),
        }
    }

    fn variables_of_an_end(libos: &str, i: usize) -> Vec<(String, String)> {
        let variables = [
            ("LIBOS", libos.into()),
            ("MARGAY_FRAMES_ADDRESS", format!("{}/24,{}/64", links::IPV4[i], links::IPV6[i])),
            ("MARGAY_FRAMES_MAC", links::MACS[i].into()),
            ("MARGAY_MEMORY_SIZE", "64MiB".into()),
        ];
        variables.map(|(name, value)| (name.to_string(), value)).into()
    }

    /// The server's second core has nothing to do on a link.
    fn idle_variables() -> Vec<(String, String)> {
        [("LIBOS", "epoll"), ("MARGAY_MEMORY_SIZE", "64MiB")].map(|(n, v)| (n.to_string(), v.to_string())).into()
    }

    fn make(
        can: Can,
        addresses: Addresses,
        variables: [Vec<(String, String)>; 3],
        join: impl Fn(Side) -> Result<(), String>,
    ) -> Result<Abi, String> {
        Abi::make_in(Side::ALL, can, addresses, variables, join)
    }

    /// The same, in another order.
    fn make_in(
        order: [Side; 3],
        can: Can,
        addresses: Addresses,
        variables: [Vec<(String, String)>; 3],
        join: impl Fn(Side) -> Result<(), String>,
    ) -> Result<Abi, String> {
        let mut seats = [None, None, None];
        for side in order {
            let mut parked = Parked::open(&variables[side.0]).map_err(|(_, why)| why)?;
            join(side)?;
            let (mut queue, mut never) = (0, 0);
            parked.exchange();
            // SAFETY: both are there.
            let made = unsafe { (demi_queue(&mut queue), demi_pop(&mut never, queue)) };
            parked.exchange();
            assert_eq!(made, (0, 0));
            seats[side.0] = Some(RefCell::new(Seat { parked, never }));
        }
        Ok(Abi { seats, pinned_at_death: [0; 3], can, addresses, kept: 0, link_dies: false, _alone: None })
    }

    /// The two hosts have heard of each other: only a few packets wait for somebody who is not known yet.
    fn introduce(&mut self) {
        for (side, host) in [(Side::CLIENT, 1), (Side::SERVER, 0)] {
            for ip in [IpAddr::V4(links::IPV4[host]), IpAddr::V6(links::IPV6[host])] {
                let q = self.socket(side, SocketKind::Stream).unwrap();
                let connect = self.connect(q, Endpoint::new(ip, 1)).unwrap();
                let end = self.wait(connect, Some(LIMIT)).expect("the link works");
                assert!(matches!(end, End { result: Err(Error::ConnectionRefused), .. }), "{side:?} to {ip}: {end:?}");
                self.close(q).unwrap();
            }
        }
    }

    /// Calls something on the library OS of a side.
    fn on<R>(&self, side: Side, call: impl FnOnce(u64) -> R) -> R {
        let mut seat = self.seats[side.0].as_ref().expect("a side that was killed is not called").borrow_mut();
        let never = seat.never;
        seat.parked.exchange();
        let result = call(never);
        seat.parked.exchange();
        result
    }

    fn token(&self, side: Side, call: impl FnOnce(&mut u64) -> c_int) -> Result<Token, Error> {
        let mut qt = 0;
        checked(self.on(side, |_| call(&mut qt)))?;
        Ok(Token { side, qt: QToken::from_raw(qt) })
    }

    fn pass(&self, side: Side) {
        let mut result = nothing_yet();
        // SAFETY: both are there.
        let errno = self.on(side, |never| unsafe { demi_wait(&mut result, never, &NOW) });
        assert_eq!(errno, libc::ETIMEDOUT);
    }

    /// Lets all go on until `look` gives another errno than that the time is over.
    fn until(&mut self, timeout: Option<Duration>, mut look: impl FnMut(&Abi) -> c_int) -> Result<(), Error> {
        let deadline = timeout.map_or(Instant::NEVER, |timeout| self.now() + timeout);
        let mut turns = 0;
        loop {
            match look(self) {
                libc::ETIMEDOUT if self.now() < deadline => {}
                errno => return checked(errno),
            }
            self.turn();
            turns += 1;
            if turns > IDLE_TURNS {
                std::thread::sleep(REST);
            }
        }
    }
}

impl Subject for Abi {
    fn can(&self) -> Can {
        Can { ipv6: self.addresses.ipv6.is_some(), ..self.can }
    }

    fn address(&self, side: Side, ipv6: bool) -> Option<IpAddr> {
        let host = usize::from(side != Side::CLIENT);
        if ipv6 { self.addresses.ipv6.map(|both| both[host]) } else { Some(self.addresses.ipv4[host]) }
    }

    fn nobody(&self) -> Option<Endpoint> {
        self.addresses.nobody
    }

    fn socket(&mut self, side: Side, kind: SocketKind) -> Result<Queue, Error> {
        let kind = match kind {
            SocketKind::Stream => libc::SOCK_STREAM,
            SocketKind::Datagram => libc::SOCK_DGRAM,
            SocketKind::Message => return Err(Error::NotSupported),
        };
        let mut qd = -1;
        // SAFETY: it is there.
        checked(self.on(side, |_| unsafe { demi_socket(&mut qd, libc::AF_INET, kind, 0) }))?;
        Ok(Queue { side, qd: q(qd) })
    }

    fn queue(&mut self, side: Side) -> Result<Queue, Error> {
        let mut qd = -1;
        // SAFETY: it is there.
        checked(self.on(side, |_| unsafe { demi_queue(&mut qd) }))?;
        Ok(Queue { side, qd: q(qd) })
    }

    fn attach(&mut self, _: Side, to: Queue, _: usize) -> Result<Queue, Error> {
        self.option(to, OptionName::SendBudget)?;
        Err(Error::NotSupported) // there is no such call
    }

    fn bind(&mut self, q: Queue, at: Endpoint) -> Result<Endpoint, Error> {
        let (addr, size) = to_c(at);
        // SAFETY: all is there.
        checked(self.on(q.side, |_| unsafe { demi_bind(c(q.qd), (&raw const addr).cast(), size) }))?;
        self.local(q)
    }

    fn listen(&mut self, q: Queue, backlog: u32) -> Result<(), Error> {
        checked(self.on(q.side, |_| demi_listen(c(q.qd), backlog as c_int)))
    }

    fn set_option(&mut self, q: Queue, option: SocketOption) -> Result<(), Error> {
        let (level, name, value) =
            match option {
                SocketOption::Linger(time) => {
                    // C has whole seconds.
                    let l_linger = time.as_millis().div_ceil(1000) as c_int;
                    let is_default = time == Duration::from_secs(60);
                    let value = libc::linger { l_onoff: c_int::from(!is_default), l_linger };
                    let (at, size) = ((&raw const value).cast(), size_of_val(&value) as socklen_t);
                    // SAFETY: all is there.
                    return checked(self.on(q.side, |_| unsafe {
                        demi_setsockopt(c(q.qd), libc::SOL_SOCKET, libc::SO_LINGER, at, size)
                    }));
                }
                SocketOption::NoDelay(on) => (libc::IPPROTO_TCP, libc::TCP_NODELAY, c_int::from(on)),
                SocketOption::KeepAlive(None) => (libc::SOL_SOCKET, libc::SO_KEEPALIVE, 0),
                SocketOption::KeepAlive(Some(time)) => (libc::IPPROTO_TCP, libc::TCP_KEEPIDLE, time.as_secs() as c_int),
                SocketOption::Shared(on) => (libc::SOL_SOCKET, libc::SO_REUSEPORT, c_int::from(on)),
                SocketOption::SendBudget(bytes) => (libc::SOL_SOCKET, libc::SO_SNDBUF, bytes as c_int),
                SocketOption::ReceiveBudget(bytes) => (libc::SOL_SOCKET, libc::SO_RCVBUF, bytes as c_int),
            };
        let (at, size) = ((&raw const value).cast(), size_of_val(&value) as socklen_t);
        // SAFETY: all is there.
        checked(self.on(q.side, |_| unsafe { demi_setsockopt(c(q.qd), level, name, at, size) }))
    }

    fn option(&mut self, q: Queue, name: OptionName) -> Result<SocketOption, Error> {
        let asked =
            |level: c_int, name: c_int| {
                let (mut value, mut size) = ([0 as c_int; 2], size_of::<[c_int; 2]>() as socklen_t);
                // SAFETY: all is there.
                checked(self.on(q.side, |_| unsafe {
                    demi_getsockopt(c(q.qd), level, name, (&raw mut value).cast(), &mut size)
                }))?;
                Ok::<_, Error>(value)
            };
        Ok(match name {
            OptionName::Linger => match asked(libc::SOL_SOCKET, libc::SO_LINGER)? {
                [0, _] => SocketOption::Linger(Duration::from_secs(60)),
                [_, seconds] => SocketOption::Linger(Duration::from_secs(seconds as u64)),
            },
            OptionName::NoDelay => SocketOption::NoDelay(asked(libc::IPPROTO_TCP, libc::TCP_NODELAY)?[0] != 0),
            OptionName::KeepAlive => {
                let is_on = asked(libc::SOL_SOCKET, libc::SO_KEEPALIVE)?[0] != 0;
                let seconds = asked(libc::IPPROTO_TCP, libc::TCP_KEEPIDLE)?[0] as u64;
                SocketOption::KeepAlive(is_on.then_some(Duration::from_secs(seconds)))
            }
            OptionName::Shared => SocketOption::Shared(asked(libc::SOL_SOCKET, libc::SO_REUSEPORT)?[0] != 0),
            OptionName::SendBudget => SocketOption::SendBudget(asked(libc::SOL_SOCKET, libc::SO_SNDBUF)?[0] as usize),
            OptionName::ReceiveBudget => {
                SocketOption::ReceiveBudget(asked(libc::SOL_SOCKET, libc::SO_RCVBUF)?[0] as usize)
            }
        })
    }

    fn local(&mut self, q: Queue) -> Result<Endpoint, Error> {
        // SAFETY: all is there.
        self.on(q.side, |_| address(|addr, size| unsafe { demi_getsockname(c(q.qd), addr, size) }))
    }

    fn peer(&mut self, q: Queue) -> Result<Endpoint, Error> {
        // SAFETY: all is there.
        self.on(q.side, |_| address(|addr, size| unsafe { demi_getpeername(c(q.qd), addr, size) }))
    }

    fn finish(&mut self, q: Queue) -> Result<(), Error> {
        checked(self.on(q.side, |_| demi_finish(c(q.qd))))
    }

    fn close(&mut self, q: Queue) -> Result<(), Error> {
        checked(self.on(q.side, |_| demi_close(c(q.qd))))
    }

    fn accept(&mut self, q: Queue) -> Result<Token, Error> {
        // SAFETY: it is there.
        self.token(q.side, |qt| unsafe { demi_accept(qt, c(q.qd)) })
    }

    fn connect(&mut self, q: Queue, to: Endpoint) -> Result<Token, Error> {
        let (addr, size) = to_c(to);
        // SAFETY: all is there.
        self.token(q.side, |qt| unsafe { demi_connect(qt, c(q.qd), (&raw const addr).cast(), size) })
    }

    fn push(&mut self, q: Queue, segments: &[&[u8]], to: Option<Endpoint>) -> Result<Token, Error> {
        if let ([_, _, ..], None) = (segments, to) {
            return self.token(q.side, |qt| push_segments(qt, q.qd, segments));
        }
        let bytes = segments.concat();
        self.token(q.side, |qt| {
            let mut sga = demi_sgaalloc(bytes.len().max(1));
            if sga.sga_buf.is_null() {
                return libc::ENOBUFS;
            }
            sga.segs[0].len = bytes.len() as u32;
            // SAFETY: as many bytes were asked for.
            unsafe { { sga.segs[0] }.buf.cast::<u8>().copy_from_nonoverlapping(bytes.as_ptr(), bytes.len()) };
            let errno = match to.map(to_c) {
                // SAFETY: all is there.
                None => unsafe { demi_push(qt, c(q.qd), &sga) },
                // SAFETY: all is there.
                Some((addr, size)) => unsafe { demi_pushto(qt, c(q.qd), &sga, (&raw const addr).cast(), size) },
            };
            // It may be freed right after.
            free(sga);
            errno
        })
    }

    fn pop(&mut self, q: Queue, len_max: usize) -> Result<Token, Error> {
        // SAFETY: it is there.
        self.token(q.side, |qt| unsafe { demi_pop_max(qt, c(q.qd), len_max) })
    }

    fn wait(&mut self, t: Token, timeout: Option<Duration>) -> Result<End, Error> {
        let mut told = None;
        self.until(timeout, |abi| {
            abi.on(t.side, |_| {
                let mut result = nothing_yet();
                // SAFETY: both are there.
                let errno = unsafe { demi_wait(&mut result, t.qt.raw(), &NOW) };
                told = (errno == 0).then(|| end(result));
                errno
            })
        })?;
        Ok(told.expect("it was told"))
    }

    fn wait_any(&mut self, side: Side, tokens: &[QToken], timeout: Option<Duration>) -> Result<(usize, End), Error> {
        let raw: Vec<u64> = tokens.iter().map(|qt| qt.raw()).collect();
        let mut told = None;
        self.until(timeout, |abi| {
            abi.on(side, |_| {
                let (mut result, mut place) = (nothing_yet(), -1);
                // SAFETY: all are there.
                let errno = unsafe { demi_wait_any(&mut result, &mut place, raw.as_ptr(), raw.len() as c_int, &NOW) };
                told = (errno == 0).then(|| (place as usize, end(result)));
                errno
            })
        })?;
        Ok(told.expect("it was told"))
    }

    fn wait_all(&mut self, side: Side, tokens: &[QToken], timeout: Option<Duration>) -> Result<Vec<End>, Error> {
        let raw: Vec<u64> = tokens.iter().map(|qt| qt.raw()).collect();
        let mut told = None;
        self.until(timeout, |abi| {
            abi.on(side, |_| {
                let mut results = vec![nothing_yet(); raw.len()];
                // SAFETY: all are there.
                let errno = unsafe { demi_wait_all(results.as_mut_ptr(), raw.as_ptr(), raw.len() as c_int, &NOW) };
                told = (errno == 0).then(|| results.into_iter().map(end).collect());
                errno
            })
        })?;
        Ok(told.expect("they were told"))
    }

    fn poll(&mut self, t: Token) -> Result<Option<End>, Error> {
        self.on(t.side, |_| {
            let mut result = nothing_yet();
            // SAFETY: both are there.
            match unsafe { demi_wait(&mut result, t.qt.raw(), &NOW) } {
                0 => Ok(Some(end(result))),
                libc::ETIMEDOUT => Ok(None),
                errno => Err(error(errno)),
            }
        })
    }

    fn cancel(&mut self, t: Token) -> Result<(), Error> {
        checked(self.on(t.side, |_| demi_cancel(t.qt.raw())))
    }

    fn give_up(&mut self, _: Token) {
        unreachable!("in C a token cannot be given up");
    }

    fn contend(&mut self, _: Token) -> Error {
        unreachable!("in C there are no coroutines");
    }

    fn wait_inside(&mut self, _: Token) -> Error {
        unreachable!("in C there are no coroutines");
    }

    fn turn(&mut self) {
        for side in Side::ALL {
            if self.seats[side.0].is_some() {
                self.pass(side);
            }
        }
    }

    fn now(&self) -> Instant {
        KernelClock.now()
    }

    fn settle(&mut self) {
        let start = self.now();
        let mut turns = 0;
        // Whether anything moved cannot be asked in C.
        while turns < 64 || self.now().since(start) < QUIET {
            self.turn();
            turns += 1;
            std::thread::sleep(REST);
        }
    }

    fn books(&self, side: Side) -> Books {
        if self.seats[side.0].is_none() {
            return Books { pinned: self.pinned_at_death[side.0], ..Books::default() };
        }
        let InUse { pinned, tokens, queues, zombies, held } = self.on(side, |_| in_use());
        assert_eq!(held, 0, "the program holds nothing between two calls of the suite");
        Books { pinned, borrowed: 0, tokens, queues, zombies }
    }

    fn kept(&self) -> usize {
        self.kept
    }

    fn link_dies(&self) -> bool {
        self.link_dies
    }

    fn kill(&mut self, side: Side) {
        let mut seat = self.seats[side.0].take().expect("it lives").into_inner();
        seat.parked.exchange();
        self.pinned_at_death[side.0] = leave();
        seat.parked.exchange();
    }
}

/// Pushes several segments of memory of the heap, which is freed right after.
fn push_segments(qt: &mut u64, qd: Qd, segments: &[&[u8]]) -> c_int {
    let mut allocated = Vec::new();
    for segment in segments.iter().filter(|segment| !segment.is_empty()) {
        let buf = demi_malloc(segment.len());
        if buf.is_null() {
            break;
        }
        // SAFETY: as many bytes were asked for.
        unsafe { buf.cast::<u8>().copy_from_nonoverlapping(segment.as_ptr(), segment.len()) };
        allocated.push(SgaSeg { buf, len: segment.len() as u32 });
    }
    let is_complete = allocated.len() == segments.iter().filter(|segment| !segment.is_empty()).count();
    let errno = if is_complete {
        // SAFETY: all is there.
        unsafe { demi_pushv(qt, c(qd), allocated.as_ptr(), allocated.len() as c_int) }
    } else {
        libc::ENOBUFS
    };
    allocated.into_iter().for_each(|segment| assert_eq!(demi_free(segment.buf), 0));
    errno
}
