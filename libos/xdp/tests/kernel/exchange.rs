//! Streams in both directions between our host and the kernel's sockets, several at once.

use std::io::{Read, Write};
use std::net::{Shutdown, SocketAddr, TcpStream};
use std::os::fd::AsRawFd;
use std::thread::JoinHandle;
use std::time::Duration;

use pdpix::{Handle, Network, Op, OpId, Outcome, Sga};

use super::{Host, Lab, Pattern, connect, ours};

/// Which of the two we are.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Role {
    Client,
    Server,
}

/// A connection, and what is to go over it.
#[derive(Clone, Copy, Debug)]
pub struct Meeting {
    pub role: Role,
    pub is_v6: bool,
    /// Bytes from us to the kernel.
    pub there: u64,
    /// Bytes from the kernel to us, at the same time.
    pub back: u64,
}

impl Meeting {
    pub fn new(role: Role, there: u64, back: u64) -> Meeting {
        Meeting { role, is_v6: false, there, back }
    }

    pub fn v6(self) -> Meeting {
        Meeting { is_v6: true, ..self }
    }

    fn seeds(&self) -> (u64, u64) {
        (self.there * 2 + 1, self.back * 2 + 2)
    }
}

/// Our side of a meeting: pushes all, finishes, and pops until the stream ends.
pub struct Exchange {
    pub h: Handle,
    there: Pattern,
    back: Pattern,
    push: Option<OpId>,
    pop: Option<OpId>,
    is_finished: bool,
    has_ended: bool,
}

const PIECE: usize = 64 << 10;

impl Exchange {
    pub fn new(h: Handle, meeting: &Meeting) -> Exchange {
        let (there, back) = meeting.seeds();
        Exchange {
            h,
            there: Pattern::new(meeting.there, there),
            back: Pattern::new(meeting.back, back),
            push: None,
            pop: None,
            is_finished: false,
            has_ended: false,
        }
    }

    /// Does what can be done. Says whether everything is.
    pub fn advance(&mut self, host: &mut Host) -> bool {
        self.send(host);
        self.receive(host);
        self.is_finished && self.has_ended
    }

    /// Pushes what may be pushed, and finishes after the last of it.
    pub fn send(&mut self, host: &mut Host) {
        while !self.is_finished {
            if let Some(op) = self.push {
                let Some(result) = host.take(op) else { return };
                result.expect("a push");
                self.push = None;
            }
            if self.there.is_over() {
                host.net.finish(self.h).unwrap();
                self.is_finished = true;
                return;
            }
            let Ok(sga) = Sga::copy(&host.heap, &self.there.take(PIECE)) else { panic!("no memory for a push") };
            self.push = Some(host.begin(self.h, Op::Push(sga)).unwrap());
        }
    }

    fn receive(&mut self, host: &mut Host) {
        while !self.has_ended {
            let op = *self.pop.get_or_insert_with(|| host.begin(self.h, Op::Pop { len_max: 1 << 20 }).unwrap());
            let Some(result) = host.take(op) else { return };
            self.pop = None;
            let Outcome::Popped(popped) = result.expect("a pop") else { panic!("a pop gave something else") };
            self.has_ended = popped.sga.is_empty();
            popped.sga.segments().iter().for_each(|segment| self.back.check(segment));
        }
        assert!(self.back.is_over(), "the stream ended after {} of {} bytes", self.back.done, self.back.len);
    }

    /// Bytes that were pushed, the last piece of them perhaps not taken yet.
    pub fn pushed(&self) -> u64 {
        self.there.done
    }

    fn progress(&self) -> String {
        let Exchange { there, back, is_finished, has_ended, .. } = self;
        format!(
            "{} of {} pushed, finished {is_finished}; {} of {} popped, ended {has_ended}",
            there.done, there.len, back.done, back.len
        )
    }
}

/// What the kernel says that a connection agreed on.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Agreed {
    pub timestamps: bool,
    pub sack: bool,
    pub window_scaling: bool,
    pub ecn: bool,
}

impl Agreed {
    fn of(stream: &TcpStream) -> Agreed {
        let mut info = [0_u8; 8];
        let mut len = info.len() as libc::socklen_t;
        // SAFETY: the descriptor is open, and the kernel writes at most `len` bytes into `info`.
        let result = unsafe {
            libc::getsockopt(stream.as_raw_fd(), libc::IPPROTO_TCP, libc::TCP_INFO, info.as_mut_ptr().cast(), &mut len)
        };
        assert_eq!((result, len), (0, 8));
        // tcpi_options of struct tcp_info (linux/tcp.h).
        let has = |bit: u8| info[5] & bit != 0;
        Agreed { timestamps: has(1), sack: has(2), window_scaling: has(4), ecn: has(8) }
    }
}

/// The kernel's side of a meeting, by a thread that writes and one that reads. The socket is given back: what waits in one
/// that is closed the kernel soon gives up.
pub fn exchange_kernel(stream: TcpStream, meeting: &Meeting, limit: Duration) -> (Agreed, TcpStream) {
    exchange_kernel_when(stream, meeting, limit, || ())
}

/// The same; what reads does so when `may_read` has returned.
pub fn exchange_kernel_when(
    stream: TcpStream,
    meeting: &Meeting,
    limit: Duration,
    may_read: impl FnOnce(),
) -> (Agreed, TcpStream) {
    let agreed = Agreed::of(&stream);
    let (there, back) = meeting.seeds();
    let (mut there, mut back) = (Pattern::new(meeting.there, there), Pattern::new(meeting.back, back));
    stream.set_read_timeout(Some(limit)).unwrap();
    stream.set_write_timeout(Some(limit)).unwrap();
    std::thread::scope(|scope| {
        scope.spawn(|| {
            while !back.is_over() {
                (&stream).write_all(&back.take(PIECE)).expect("the kernel's write");
            }
            stream.shutdown(Shutdown::Write).expect("the kernel's shutdown");
        });
        may_read();
        let mut bytes = vec![0; PIECE];
        loop {
            let len = (&stream).read(&mut bytes).expect("the kernel's read");
            if len == 0 {
                break;
            }
            there.check(&bytes[..len]);
        }
        assert!(there.is_over(), "the kernel saw an end after {} of {} bytes", there.done, there.len);
    });
    (agreed, stream)
}

/// Lets all of them happen at once, checks every byte, and closes. Says what each agreed on.
pub fn carry(lab: &Lab, host: &mut Host, meetings: &[Meeting], limit: Duration) -> Vec<Agreed> {
    let mut kernels_threads = Vec::new();
    let mut listeners = Vec::new();
    let mut under_way = Vec::new();
    for &meeting in meetings {
        let (thread, op, h) = match meeting.role {
            Role::Client => {
                let listener = lab.listener(meeting.is_v6);
                let port = listener.local_addr().unwrap().port();
                let thread = lab.meanwhile(move || exchange_kernel(listener.accept().unwrap().0, &meeting, limit));
                let h = host.socket(pdpix::SocketKind::Stream);
                let op = host.begin(h, Op::Connect(SocketAddr::new(lab.kernels(meeting.is_v6), port))).unwrap();
                (thread, op, Some(h))
            }
            Role::Server => {
                let (listener, at) = host.listen(SocketAddr::new(ours(meeting.is_v6), 0));
                let thread =
                    lab.meanwhile(move || exchange_kernel(connect(at).expect("the kernel's connect"), &meeting, limit));
                listeners.push(listener);
                (thread, host.begin(listener, Op::Accept).unwrap(), None)
            }
        };
        kernels_threads.push(thread);
        under_way.push((meeting, op, h, None));
    }
    let done = host.run(limit, |host| {
        let mut all = true;
        for (meeting, op, h, exchange) in &mut under_way {
            if exchange.is_none() {
                match host.take(*op) {
                    None => {}
                    Some(Ok(Outcome::Connected)) => *exchange = Some(Exchange::new(h.unwrap(), meeting)),
                    Some(Ok(Outcome::Accepted { queue, .. })) => *exchange = Some(Exchange::new(queue, meeting)),
                    Some(other) => panic!("{meeting:?} began with {other:?}"),
                }
            }
            all &= exchange.as_mut().is_some_and(|exchange| exchange.advance(host));
        }
        (all && kernels_threads.iter().all(JoinHandle::is_finished)).then_some(())
    });
    let broken = kernels_threads.iter().any(JoinHandle::is_finished) && done.is_none();
    if done.is_none() {
        for (meeting, _, _, exchange) in &under_way {
            eprintln!("{meeting:?}: {:?}", exchange.as_ref().map(Exchange::progress));
        }
        panic!("not done within {limit:?} (a kernel's thread has ended: {broken}): {:?}", host.busy_counters());
    }
    let join = |thread: JoinHandle<_>| thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic));
    let (agreed, streams): (Vec<Agreed>, Vec<TcpStream>) = kernels_threads.into_iter().map(join).unzip();
    drop(streams);
    under_way.iter().flat_map(|(_, _, _, exchange)| exchange).for_each(|exchange| host.net.close(exchange.h));
    listeners.into_iter().for_each(|listener| host.net.close(listener));
    agreed
}
