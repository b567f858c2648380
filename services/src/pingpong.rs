//! Measures round trips: sends a message to an echo, waits for it, and sends the next.

use std::cell::RefCell;
use std::rc::Rc;

use framework::pdpix::{Endpoint, Error, Instant, Sga};
use framework::{
    Actor, Address, Closed, Event, Outbox, Policy, Raw, Session, SessionId, SessionSettings, System, carry_nowhere,
};
use hdrhistogram::Histogram;

/// What to measure.
#[derive(Clone, Debug)]
pub struct PingArgs {
    /// Where the echo is.
    pub connect: Endpoint,
    /// Bytes in each message.
    pub size: usize,
    /// Round trips that are not counted, first.
    pub warm_up: u64,
    /// Round trips that are.
    pub count: u64,
}

/// What was measured, once it is over.
pub type PingResult = Result<Histogram<u64>, Error>;

/// Starts to measure; the result is in the second part when the actor has stopped the service.
pub fn run(system: &System, args: PingArgs) -> (Address<Pinger>, Rc<RefCell<Option<PingResult>>>) {
    let result: Rc<RefCell<Option<PingResult>>> = Rc::default();
    let theirs = result.clone();
    let address = system.spawn(Some("pinger"), Policy::NEVER, move || Pinger::new(args.clone(), theirs.clone()));
    (address, result)
}

/// Owns the histogram. Sent to by its session. No restart: a measurement with a gap is none.
pub struct Pinger {
    args: PingArgs,
    result: Rc<RefCell<Option<PingResult>>>,
    histogram: Histogram<u64>,
    session: Option<Session<Raw>>,
    sent_at: Instant,
    /// Bytes of the present answer that are missing.
    missing: usize,
    done: u64,
}

/// What comes back.
#[derive(Debug)]
pub struct Came(Sga);

carry_nowhere!(Came);

impl Pinger {
    fn new(args: PingArgs, result: Rc<RefCell<Option<PingResult>>>) -> Pinger {
        // Up to a minute, to three digits.
        let histogram = Histogram::new_with_bounds(1, 60_000_000_000, 3).expect("bounds of a histogram");
        Pinger { args, result, histogram, session: None, sent_at: Instant::ZERO, missing: 0, done: 0 }
    }

    fn ping(&mut self, out: &mut Outbox<'_, Pinger>) {
        let Some(session) = self.session else { return };
        let Ok(mut message) = out.heap().alloc(self.args.size) else { return self.end(Err(Error::NoBuffers), out) };
        message.resize(self.args.size, 0x55);
        self.missing = self.args.size;
        self.sent_at = out.now();
        out.write(session, Sga::from(message.freeze()));
    }

    fn pong(&mut self, len: usize, out: &mut Outbox<'_, Pinger>) {
        self.missing = self.missing.saturating_sub(len);
        if self.missing > 0 {
            return;
        }
        self.done += 1;
        if self.done > self.args.warm_up {
            self.histogram.saturating_record(out.now().since(self.sent_at).as_nanos() as u64);
        }
        if self.done == self.args.warm_up + self.args.count {
            let histogram = self.histogram.clone();
            return self.end(Ok(histogram), out);
        }
        self.ping(out);
    }

    fn end(&mut self, result: PingResult, out: &mut Outbox<'_, Pinger>) {
        self.result.borrow_mut().get_or_insert(result);
        self.session = None;
        out.stop_service(0);
    }

    fn is_mine(&self, id: SessionId) -> bool {
        self.session.is_some_and(|session| session.id() == id)
    }
}

impl Actor for Pinger {
    type Message = Came;

    fn handle(&mut self, event: Event<Came>, out: &mut Outbox<'_, Self>) {
        match event {
            Event::Started => {
                self.session =
                    Some(out.connect(self.args.connect, SessionSettings::default(), Raw, |_, bytes| Came(bytes)));
            }
            Event::Opened { .. } => self.ping(out),
            Event::Message(Came(bytes)) => self.pong(bytes.len(), out),
            Event::Closed { session, why } if self.is_mine(session) => {
                let error = match why {
                    Closed::Failed(error) => error,
                    _ => Error::ConnectionReset,
                };
                self.end(Err(error), out);
            }
            _ => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use framework::Harness;

    use super::*;

    #[test]
    fn round_trips_are_measured_after_the_warm_up_and_pieces_make_a_whole() {
        let result = Rc::new(RefCell::new(None));
        let args = PingArgs { connect: "10.0.0.1:7".parse().unwrap(), size: 100, warm_up: 1, count: 3 };
        let mut harness = Harness::new(Pinger::new(args, result.clone()), 1);
        harness.start();
        let (session, server) = harness.take_connecting().unwrap();
        harness.opened(session, server);
        for _ in 0..4 {
            let bytes = harness.written(session);
            assert_eq!(bytes.len(), 100);
            harness.advance(Duration::from_micros(10));
            harness.receive(session, &bytes[..60]).unwrap();
            assert_eq!(harness.written(session), [], "the answer is not whole");
            harness.receive(session, &bytes[60..]).unwrap();
        }
        let histogram = result.borrow_mut().take().unwrap().unwrap();
        assert_eq!((histogram.len(), histogram.value_at_quantile(0.5) / 1000), (3, 10));
        assert_eq!(harness.stopped(), (false, Some(0)));
    }

    #[test]
    fn a_lost_connection_is_the_result() {
        let result = Rc::new(RefCell::new(None));
        let args = PingArgs { connect: "10.0.0.1:7".parse().unwrap(), size: 1, warm_up: 0, count: 1 };
        let mut harness = Harness::new(Pinger::new(args, result.clone()), 1);
        harness.start();
        let (session, _) = harness.take_connecting().unwrap();
        harness.close(session, Closed::Failed(Error::ConnectionRefused));
        assert!(matches!(result.borrow_mut().take(), Some(Err(Error::ConnectionRefused))));
    }
}
