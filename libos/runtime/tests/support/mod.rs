//! What the runtime's tests share: a core without devices, a clock that is set by hand, and a network that does what it is
//! told.

#![allow(dead_code, reason = "each test file uses a part")]

use std::cell::{Cell, RefCell};
use std::collections::{HashMap, VecDeque};
use std::rc::Rc;

use libos_mem::{Heap, Plan, Reservation, Reserves, SPAN_SIZE, Source};
use libos_runtime::{Clock, Core, CoreParts, IdlePolicy, MeshKind, mesh};
use pdpix::{
    Completions, Endpoint, Error, Handle, Instant, Network, Op, OpId, OptionName, Outcome, Popped, Sga, SocketKind,
    SocketOption, Submitted, Wake, WakeOn, WallTime,
};

/// A clock that stands still until it is moved.
#[derive(Clone, Default)]
pub struct HandClock(Rc<Cell<u64>>);

impl HandClock {
    pub fn advance(&self, nanos: u64) {
        self.0.set(self.0.get() + nanos);
    }
}

impl Clock for HandClock {
    fn now(&self) -> Instant {
        Instant::from_nanos(self.0.get())
    }

    fn wall(&self) -> WallTime {
        WallTime::from_nanos(self.0.get())
    }
}

pub fn reservation(heaps: usize) -> Reservation {
    let plan = Plan { heaps, heap_size: 16 * SPAN_SIZE, reserves: Reserves::NONE, source: Source::Ordinary };
    Reservation::new(plan).unwrap()
}

pub fn heap() -> Heap {
    reservation(1).heap(0).unwrap()
}

/// A core that is stepped, with these networks.
pub fn core_with(networks: Vec<(String, Box<dyn Network>)>) -> (Core, HandClock) {
    let clock = HandClock::default();
    let ports = mesh(1, MeshKind::Stepped).unwrap().pop().unwrap();
    let parts =
        CoreParts { networks, idle: IdlePolicy::Stepped, ..CoreParts::new(heap(), Box::new(clock.clone()), ports) };
    (Core::new(parts), clock)
}

pub fn core() -> (Core, HandClock) {
    core_with(Vec::new())
}

/// What a test sees of a [`Scripted`] network, and tells it.
#[derive(Default)]
pub struct Script {
    /// Operations that are pending, oldest first.
    pub pending: VecDeque<(Handle, OpId, &'static str)>,
    /// Ends to be given by the next poll.
    pub ends: VecDeque<(OpId, Result<Outcome<Handle>, Error>)>,
    /// What was asked for.
    pub log: Vec<String>,
    /// Pops of this handle end at once with these.
    pub at_once: HashMap<Handle, VecDeque<Sga>>,
    pub next_handle: u32,
    /// It says that it cannot say when there is something.
    pub naps: bool,
    /// It says so from the second time on that it is asked, and after that ends what is pending.
    pub naps_later: bool,
    /// How often it was asked.
    pub arms: usize,
}

/// A network in which everything stays pending until the test says otherwise; a cancel ends the operation by the next
/// poll.
#[derive(Clone, Default)]
pub struct Scripted(pub Rc<RefCell<Script>>);

impl Scripted {
    pub fn boxed(&self) -> Vec<(String, Box<dyn Network>)> {
        vec![("scripted".into(), Box::new(self.clone()))]
    }

    /// Ends the oldest pending operation.
    pub fn end_first(&self, result: Result<Outcome<Handle>, Error>) {
        let mut script = self.0.borrow_mut();
        let (_, op, _) = script.pending.pop_front().expect("something is pending");
        script.ends.push_back((op, result));
    }

    /// Ends the oldest pending pop with data.
    pub fn arrive(&self, sga: Sga) {
        let mut script = self.0.borrow_mut();
        let at = script.pending.iter().position(|(_, _, what)| *what == "pop").expect("a pop is pending");
        let (_, op, _) = script.pending.remove(at).expect("found");
        script.ends.push_back((op, Ok(Outcome::Popped(Popped::stream(sga)))));
    }

    pub fn pending(&self) -> usize {
        self.0.borrow().pending.len()
    }
}

impl Network for Scripted {
    fn open(&mut self, kind: SocketKind) -> Result<Handle, Error> {
        if kind == SocketKind::Message {
            return Err(Error::NotSupported);
        }
        let mut script = self.0.borrow_mut();
        script.next_handle += 1;
        Ok(Handle(script.next_handle))
    }

    fn set_option(&mut self, _: Handle, _: SocketOption) -> Result<(), Error> {
        Ok(())
    }

    fn option(&self, _: Handle, _: OptionName) -> Result<SocketOption, Error> {
        Err(Error::NotSupported)
    }

    fn bind(&mut self, _: Handle, at: Endpoint) -> Result<Endpoint, Error> {
        Ok(at)
    }

    fn listen(&mut self, _: Handle, _: u32) -> Result<(), Error> {
        Ok(())
    }

    fn local(&self, _: Handle) -> Result<Endpoint, Error> {
        Err(Error::InvalidArgument)
    }

    fn peer(&self, _: Handle) -> Result<Endpoint, Error> {
        Err(Error::NotConnected)
    }

    fn submit(&mut self, h: Handle, op: OpId, what: Op) -> Result<Submitted, Error> {
        let mut script = self.0.borrow_mut();
        let what = match what {
            Op::Accept => "accept",
            Op::Connect(_) => "connect",
            Op::Push(_) | Op::PushTo(..) => "push",
            Op::Pop { len_max } => {
                if let Some(sga) = script.at_once.get_mut(&h).and_then(VecDeque::pop_front) {
                    script.log.push(format!("at once {len_max}"));
                    return Ok(Submitted::Done(Ok(Outcome::Popped(Popped::stream(sga)))));
                }
                "pop"
            }
        };
        script.pending.push_back((h, op, what));
        Ok(Submitted::Pending)
    }

    fn cancel(&mut self, _: Handle, op: OpId) {
        let mut script = self.0.borrow_mut();
        script.log.push("cancel".into());
        if let Some(at) = script.pending.iter().position(|(_, pending, _)| *pending == op) {
            script.pending.remove(at);
            script.ends.push_back((op, Err(Error::Canceled)));
        }
    }

    fn finish(&mut self, _: Handle) -> Result<(), Error> {
        Ok(())
    }

    fn close(&mut self, h: Handle) {
        let mut script = self.0.borrow_mut();
        script.log.push(format!("close {}", h.0));
        let (closed, open): (VecDeque<_>, VecDeque<_>) = script.pending.drain(..).partition(|(of, ..)| *of == h);
        script.pending = open;
        script.ends.extend(closed.into_iter().map(|(_, op, _)| (op, Err(Error::Canceled))));
    }

    fn poll(&mut self, _: Instant, done: &mut Completions) {
        let mut script = self.0.borrow_mut();
        if script.naps_later && script.arms > 1 {
            let pending = std::mem::take(&mut script.pending);
            script.ends.extend(pending.into_iter().map(|(_, op, _)| (op, Ok(Outcome::Pushed))));
        }
        while done.room() > 0
            && let Some((op, result)) = script.ends.pop_front()
        {
            done.push(op, result);
        }
    }

    fn flush(&mut self, _: Instant) {}

    fn arm(&mut self, _: Instant) -> Wake {
        let mut script = self.0.borrow_mut();
        script.arms += 1;
        let naps = script.naps || script.naps_later && script.arms > 1;
        let on = match (script.ends.is_empty(), naps) {
            (false, _) => WakeOn::Now,
            (true, true) => WakeOn::Nap,
            (true, false) => WakeOn::Nothing,
        };
        Wake { deadline: None, on }
    }

    fn zombies(&self) -> usize {
        0
    }
}
