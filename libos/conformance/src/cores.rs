//! The subject over `libos_runtime::Core`s that are stepped in one thread.
//!
//! What steps them is a [`Stage`]: [`RealTime`](crate::RealTime) for a backend over a real device, the simulator's world
//! for the simulated network. Calls go straight to the cores' [`LibOs`]; waits let the stage go on in between.

use std::cell::RefCell;
use std::net::IpAddr;
use std::rc::Rc;
use std::time::Duration;

use libos_mem::Heap;
use libos_runtime::{LibOs, QueueAddress};
use pdpix::{Completion, Endpoint, Error, Instant, OptionName, Outcome, Popped, QToken, Sga, SocketKind, SocketOption};

use crate::subject::{Arrival, Books, Can, End, Ended, Queue, Side, Subject, Token};

/// What steps the cores of [`Cores`], and what it knows of them.
pub trait Stage {
    /// What the backend can do.
    fn can(&self) -> Can;
    /// See [`Subject::address`].
    fn address(&self, side: Side, ipv6: bool) -> Option<IpAddr>;
    /// See [`Subject::nobody`].
    fn nobody(&self) -> Option<Endpoint>;
    /// See [`Subject::kept`].
    fn kept(&self) -> usize {
        0
    }
    /// Something was called on the LibOs of `side` from outside: it may have work.
    fn called(&mut self, side: Side);
    /// Steps cores, or lets time pass if none has work, but not beyond `until`.
    fn turn(&mut self, until: Instant);
    /// The time.
    fn now(&self) -> Instant;
    /// See [`Subject::settle`].
    fn settle(&mut self);
    /// Drops the core of `side`. No handle of its LibOs is left but the stage's own.
    fn kill(&mut self, side: Side);
}

/// Several cores as a subject.
pub struct Cores {
    sides: Vec<Option<LibOs>>,
    heaps: Vec<Heap>,
    stage: Box<dyn Stage>,
}

/// A call that does nothing is made again after so long at the latest: a bound for stages whose time can jump.
const TURN_MAX: Duration = Duration::from_millis(1);

impl Cores {
    /// The cores of the client, and of the server's first and second side, in this order, and what steps them.
    pub fn new(sides: [LibOs; 3], stage: impl Stage + 'static) -> Cores {
        let heaps = sides.iter().map(|libos| libos.heap().clone()).collect();
        Cores { sides: sides.into_iter().map(Some).collect(), heaps, stage: Box::new(stage) }
    }

    fn libos(&self, side: Side) -> &LibOs {
        self.sides[side.0].as_ref().expect("a side that was killed is not called")
    }

    fn call<R>(&mut self, side: Side, call: impl FnOnce(&LibOs) -> R) -> R {
        let result = call(self.libos(side));
        self.stage.called(side);
        result
    }

    fn submit(&mut self, q: Queue, call: impl FnOnce(&LibOs) -> Result<QToken, Error>) -> Result<Token, Error> {
        self.call(q.side, call).map(|qt| Token { side: q.side, qt })
    }

    /// Lets the stage go on until `look` finds something, or `timeout` has passed.
    fn until<R>(
        &mut self,
        side: Side,
        timeout: Option<Duration>,
        mut look: impl FnMut(&LibOs) -> Result<R, Error>,
    ) -> Result<R, Error> {
        let deadline = timeout.map_or(Instant::NEVER, |timeout| self.stage.now() + timeout);
        loop {
            match self.call(side, &mut look) {
                Err(Error::TimedOut) if self.stage.now() < deadline => {}
                other => return other,
            }
            self.stage.turn(deadline.min(self.stage.now() + TURN_MAX));
        }
    }
}

/// One buffer a segment.
fn gather(libos: &LibOs, segments: &[&[u8]]) -> Result<Sga, Error> {
    let mut sga = Sga::with_room(segments.len(), libos.heap())?;
    for segment in segments {
        sga.push(libos.heap().copy(segment)?).map_err(|_| Error::NoBuffers)?;
    }
    Ok(sga)
}

fn plain(completion: Completion) -> End {
    let result = completion.result.map(|outcome| match outcome {
        Outcome::Pushed => Ended::Pushed,
        Outcome::Popped(Popped { sga, from, cut }) => Ended::Popped(Arrival { bytes: sga.to_vec(), from, cut }),
        Outcome::Accepted { queue, peer } => Ended::Accepted(queue, peer),
        Outcome::Connected => Ended::Connected,
        other => panic!("a network gave {other:?}"),
    });
    End { qd: completion.qd, result }
}

impl Subject for Cores {
    fn can(&self) -> Can {
        self.stage.can()
    }

    fn address(&self, side: Side, ipv6: bool) -> Option<IpAddr> {
        self.stage.address(side, ipv6)
    }

    fn nobody(&self) -> Option<Endpoint> {
        self.stage.nobody()
    }

    fn socket(&mut self, side: Side, kind: SocketKind) -> Result<Queue, Error> {
        self.call(side, |libos| libos.socket(kind, None)).map(|qd| Queue { side, qd })
    }

    fn queue(&mut self, side: Side) -> Result<Queue, Error> {
        self.call(side, LibOs::queue).map(|qd| Queue { side, qd })
    }

    fn attach(&mut self, side: Side, to: Queue, budget: usize) -> Result<Queue, Error> {
        let address: QueueAddress = self.libos(to.side).address_of(to.qd)?;
        self.call(side, |libos| libos.attach(address, budget)).map(|qd| Queue { side, qd })
    }

    fn bind(&mut self, q: Queue, at: Endpoint) -> Result<Endpoint, Error> {
        self.call(q.side, |libos| libos.bind(q.qd, at))
    }

    fn listen(&mut self, q: Queue, backlog: u32) -> Result<(), Error> {
        self.call(q.side, |libos| libos.listen(q.qd, backlog))
    }

    fn set_option(&mut self, q: Queue, option: SocketOption) -> Result<(), Error> {
        self.call(q.side, |libos| libos.set_option(q.qd, option))
    }

    fn option(&mut self, q: Queue, name: OptionName) -> Result<SocketOption, Error> {
        self.libos(q.side).option(q.qd, name)
    }

    fn local(&mut self, q: Queue) -> Result<Endpoint, Error> {
        self.libos(q.side).local(q.qd)
    }

    fn peer(&mut self, q: Queue) -> Result<Endpoint, Error> {
        self.libos(q.side).peer(q.qd)
    }

    fn finish(&mut self, q: Queue) -> Result<(), Error> {
        self.call(q.side, |libos| libos.finish(q.qd))
    }

    fn close(&mut self, q: Queue) -> Result<(), Error> {
        self.call(q.side, |libos| libos.close(q.qd))
    }

    fn accept(&mut self, q: Queue) -> Result<Token, Error> {
        self.submit(q, |libos| libos.accept(q.qd))
    }

    fn connect(&mut self, q: Queue, to: Endpoint) -> Result<Token, Error> {
        self.submit(q, |libos| libos.connect(q.qd, to))
    }

    fn push(&mut self, q: Queue, segments: &[&[u8]], to: Option<Endpoint>) -> Result<Token, Error> {
        self.submit(q, |libos| {
            let sga = gather(libos, segments)?;
            match to {
                None => libos.push(q.qd, sga),
                Some(to) => libos.push_to(q.qd, sga, to),
            }
        })
    }

    fn pop(&mut self, q: Queue, len_max: usize) -> Result<Token, Error> {
        self.submit(q, |libos| libos.pop(q.qd, len_max))
    }

    fn wait(&mut self, t: Token, timeout: Option<Duration>) -> Result<End, Error> {
        self.wait_any(t.side, &[t.qt], timeout).map(|(_, end)| end)
    }

    fn wait_any(&mut self, side: Side, tokens: &[QToken], timeout: Option<Duration>) -> Result<(usize, End), Error> {
        // The runtime's own wait judges the tokens; after that it is enough to look.
        let first = self.call(side, |libos| libos.wait_any(tokens, Some(Duration::ZERO)));
        let (i, completion) = match first {
            Err(Error::TimedOut) => self.until(side, timeout, |libos| {
                for (i, &qt) in tokens.iter().enumerate() {
                    if let Some(completion) = libos.try_redeem(qt)? {
                        return Ok((i, completion));
                    }
                }
                Err(Error::TimedOut)
            })?,
            other => other?,
        };
        Ok((i, plain(completion)))
    }

    fn wait_all(&mut self, side: Side, tokens: &[QToken], timeout: Option<Duration>) -> Result<Vec<End>, Error> {
        let all = self.until(side, timeout, |libos| libos.wait_all(tokens, Some(Duration::ZERO)))?;
        Ok(all.into_iter().map(plain).collect())
    }

    fn poll(&mut self, t: Token) -> Result<Option<End>, Error> {
        Ok(self.libos(t.side).try_redeem(t.qt)?.map(plain))
    }

    fn cancel(&mut self, t: Token) -> Result<(), Error> {
        self.call(t.side, |libos| libos.cancel(t.qt))
    }

    fn give_up(&mut self, t: Token) {
        self.call(t.side, |libos| drop(libos.redeem(t.qt)));
    }

    fn contend(&mut self, t: Token) -> Error {
        let told = Rc::new(RefCell::new(None));
        self.call(t.side, |libos| {
            let (theirs, note) = (libos.redeem(t.qt), told.clone());
            libos.spawn(async move { *note.borrow_mut() = Some(theirs.await.map(|_| ())) });
            // This waiter is the first; its pass lets the coroutine try to be the second.
            let first = libos.wait(t.qt, Some(Duration::ZERO)).map(|_| ());
            assert_eq!(first, Err(Error::TimedOut), "a case contends for a token that stays pending");
        });
        let told = told.borrow_mut().take().expect("the coroutine ran, and was not let wait");
        told.expect_err("two waiters, and one end")
    }

    fn wait_inside(&mut self, t: Token) -> Error {
        self.call(t.side, |libos| {
            let inner = libos.clone();
            let waited = libos.spawn(async move { inner.wait(t.qt, Some(Duration::ZERO)).map(|_| ()) });
            let first = libos.wait(t.qt, Some(Duration::ZERO)).map(|_| ());
            assert_eq!(first, Err(Error::TimedOut), "a case waits inside for a token that stays pending");
            waited.take().expect("a wait inside a coroutine does not block").expect_err("it cannot be complete")
        })
    }

    fn turn(&mut self) {
        self.stage.turn(self.stage.now() + TURN_MAX);
    }

    fn now(&self) -> Instant {
        self.stage.now()
    }

    fn settle(&mut self) {
        self.stage.settle();
    }

    fn books(&self, side: Side) -> Books {
        let heap = &self.heaps[side.0];
        heap.exchange_returns();
        let stats = heap.stats();
        let books = Books { pinned: stats.pinned, borrowed: stats.borrowed, ..Books::default() };
        match &self.sides[side.0] {
            None => books,
            Some(libos) => Books {
                tokens: libos.tokens_in_use(),
                queues: libos.queues_in_use(),
                zombies: libos.zombies(),
                ..books
            },
        }
    }

    fn kept(&self) -> usize {
        self.stage.kept()
    }

    fn kill(&mut self, side: Side) {
        self.sides[side.0] = None;
        self.stage.kill(side);
    }
}
