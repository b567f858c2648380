//! Several cores: rings, queues between cores, and waking who sleeps.

mod support;

use std::thread;
use std::time::{Duration, Instant};

use libos_mem::Reservation;
use libos_runtime::{Core, CoreParts, IdlePolicy, KernelClock, MeshKind, Patience, Ports, QueueAddress, mesh};
use pdpix::{Error, Sga, SocketOption};

fn core(reservation: &Reservation, ports: Ports, idle: IdlePolicy) -> Core {
    let heap = reservation.heap(ports.core() as usize).unwrap();
    Core::new(CoreParts { idle, ..CoreParts::new(heap, Box::new(KernelClock), ports) })
}

/// Sleeps as soon as there is nothing to do.
const SLEEPY: IdlePolicy = IdlePolicy::Adaptive(Patience { spin: Duration::ZERO, gather: Duration::ZERO });

/// Two cores in one thread, stepped in turn.
fn stepped() -> (Core, Core) {
    let reservation = support::reservation(2);
    let mut ports = mesh(2, MeshKind::Stepped).unwrap();
    let second = core(&reservation, ports.pop().unwrap(), IdlePolicy::Stepped);
    let first = core(&reservation, ports.pop().unwrap(), IdlePolicy::Stepped);
    (first, second)
}

#[test]
fn values_arrive_in_order_and_too_many_come_back() {
    let (a, b) = stepped();
    let got = std::rc::Rc::new(std::cell::RefCell::new(Vec::new()));
    let theirs = got.clone();
    b.libos().on_core_message(Box::new(move |from, parcel| {
        assert_eq!(from, 0);
        theirs.borrow_mut().push(parcel.take::<usize>().unwrap());
    }));
    let sent = (0..10_000usize).take_while(|&i| a.libos().send_core(1, i).is_ok()).count();
    assert!((100..10_000).contains(&sent), "bounded: {sent}");
    assert_eq!(a.libos().send_core(1, 7usize), Err(7), "the value comes back");
    assert_eq!(a.libos().send_core(9, 7usize), Err(7), "no such core");
    while a.step().busy | b.step().busy {}
    assert_eq!(*got.borrow(), (0..sent).collect::<Vec<_>>());
    assert!(a.libos().send_core(1, 7usize).is_ok(), "there is room again");
}

#[test]
fn answers_are_never_refused() {
    let (a, b) = stepped();
    let got = std::rc::Rc::new(std::cell::Cell::new(0u64));
    let theirs = got.clone();
    b.libos().on_core_message(Box::new(move |_, parcel| {
        assert_eq!(parcel.take::<u64>().unwrap(), theirs.get());
        theirs.set(theirs.get() + 1);
    }));
    (0..5000u64).for_each(|i| a.libos().answer_core(1, i));
    while a.step().busy | b.step().busy {}
    assert_eq!(got.get(), 5000);
}

#[test]
fn an_attached_queue_carries_everything_and_waits_for_credit() {
    let (a, b) = stepped();
    let qd = b.libos().queue().unwrap();
    let address = b.libos().address_of(qd).unwrap();
    let end = a.libos().attach(address, 4000).unwrap();
    let pushes: Vec<_> = (0..20u8)
        .map(|i| a.libos().push(end, Sga::copy(a.libos().heap(), &vec![i; 10 + i as usize * 50]).unwrap()).unwrap())
        .collect();
    let complete = || pushes.iter().filter(|&&qt| !matches!(a.libos().try_redeem(qt), Ok(None))).count();
    while a.step().busy | b.step().busy {}
    let at_first = complete();
    assert!((5..20).contains(&at_first), "{at_first} fit the credit");
    for i in 0..20u8 {
        let qt = b.libos().pop(qd, 10_000).unwrap();
        while a.step().busy | b.step().busy {}
        let bytes = b.libos().try_redeem(qt).unwrap().unwrap().popped().unwrap().sga.to_vec();
        assert_eq!(bytes, vec![i; 10 + i as usize * 50]);
    }
    while a.step().busy | b.step().busy {}
    assert_eq!(complete(), 20);
    assert_eq!(a.libos().pop(end, 10).unwrap_err(), Error::NotSupported);
    // The owner goes: waiting pushes fail, later ones are refused.
    let stuck: Vec<_> =
        (0..10).map(|_| a.libos().push(end, Sga::copy(a.libos().heap(), &[1; 900]).unwrap()).unwrap()).collect();
    while a.step().busy | b.step().busy {}
    b.libos().close(qd).unwrap();
    while a.step().busy | b.step().busy {}
    assert!(matches!(a.libos().try_redeem(stuck[9]), Ok(Some(c)) if matches!(c.result, Err(Error::BrokenPipe))));
    assert_eq!(a.libos().push(end, Sga::copy(a.libos().heap(), b"x").unwrap()).unwrap_err(), Error::BrokenPipe);
    let heaps = [a.libos().heap().clone(), b.libos().heap().clone()];
    drop((a, b));
    heaps.iter().chain(&heaps).for_each(|heap| heap.exchange_returns());
    assert!(heaps.iter().all(|heap| heap.stats().pinned == 0 && heap.stats().borrowed == 0));
}

#[test]
fn a_queue_may_be_attached_on_its_own_core() {
    let (a, _b) = stepped();
    let qd = a.libos().queue().unwrap();
    let end = a.libos().attach(a.libos().address_of(qd).unwrap(), 1000).unwrap();
    let qt = a.libos().push(end, Sga::copy(a.libos().heap(), b"self").unwrap()).unwrap();
    a.libos().wait(qt, None).unwrap().done().unwrap();
    let qt = a.libos().pop(qd, 10).unwrap();
    assert_eq!(a.libos().wait(qt, None).unwrap().popped().unwrap().sga.to_vec(), b"self");
    // What was popped comes back as credit, though there is no ring from a core to itself; and so does the news of its end.
    let tokens = [(); 3].map(|()| a.libos().push(end, Sga::copy(a.libos().heap(), &[7; 900]).unwrap()).unwrap());
    for _ in 0..2 {
        let qt = a.libos().pop(qd, 1000).unwrap();
        assert_eq!(a.libos().wait(qt, None).unwrap().popped().unwrap().sga.to_vec(), [7; 900]);
    }
    assert!(a.libos().wait_all(&tokens, None).unwrap().into_iter().all(|completion| completion.done().is_ok()));
    a.libos().close(qd).unwrap();
    let late = a.libos().push(end, Sga::copy(a.libos().heap(), b"late").unwrap());
    assert_eq!(late.unwrap_err(), Error::BrokenPipe);
}

/// Catches the planted bug `no_second_look`: a core that lies down without a look at what came meanwhile.
#[test]
fn a_sleeping_core_is_woken_by_each_message() {
    const ROUNDS: u32 = 3000;
    let reservation = support::reservation(2);
    let mut ports = mesh(2, MeshKind::Threads).unwrap();
    let (theirs, mine) = (ports.pop().unwrap(), ports.pop().unwrap());
    let (tell, told) = std::sync::mpsc::channel::<QueueAddress>();
    let (answer, answered) = std::sync::mpsc::channel::<QueueAddress>();
    let reservation_there = reservation.clone();
    let other = thread::spawn(move || {
        let core = core(&reservation_there, theirs, SLEEPY);
        let libos = core.libos().clone();
        let qd = libos.queue().unwrap();
        tell.send(libos.address_of(qd).unwrap()).unwrap();
        let back = libos.attach(answered.recv().unwrap(), 1 << 20).unwrap();
        for _ in 0..ROUNDS {
            let qt = libos.pop(qd, 100).unwrap();
            let popped = libos.wait(qt, Some(Duration::from_secs(20))).expect("woken in time").popped().unwrap();
            let qt = libos.push(back, popped.sga).unwrap();
            libos.wait(qt, None).unwrap().done().unwrap();
        }
        while libos.heap().stats().borrowed > 0 {
            core.step();
        }
    });
    let core = core(&reservation, mine, SLEEPY);
    let libos = core.libos().clone();
    let qd = libos.queue().unwrap();
    answer.send(libos.address_of(qd).unwrap()).unwrap();
    let there = libos.attach(told.recv().unwrap(), 1 << 20).unwrap();
    for i in 0..ROUNDS {
        let push = libos.push(there, Sga::copy(libos.heap(), &i.to_le_bytes()).unwrap()).unwrap();
        libos.wait(push, None).unwrap().done().unwrap();
        let pop = libos.pop(qd, 100).unwrap();
        let popped = libos.wait(pop, Some(Duration::from_secs(20))).expect("woken in time").popped().unwrap();
        assert_eq!(popped.sga.to_vec(), i.to_le_bytes());
    }
    assert!(libos.counters().sleeps > 0, "it did sleep");
    other.join().unwrap();
}

#[test]
fn what_a_core_sent_before_it_ended_wakes_its_neighbour() {
    let reservation = support::reservation(2);
    let mut ports = mesh(2, MeshKind::Threads).unwrap();
    let (theirs, mine) = (ports.pop().unwrap(), ports.pop().unwrap());
    let core_here = core(&reservation, mine, SLEEPY);
    let libos = core_here.libos().clone();
    let qd = libos.queue().unwrap();
    let address = libos.address_of(qd).unwrap();
    let there = reservation.clone();
    let other = thread::spawn(move || {
        let core = core(&there, theirs, SLEEPY);
        let end = core.libos().attach(address, 1000).unwrap();
        thread::sleep(Duration::from_millis(50)); // the other sleeps now
        core.libos().push(end, Sga::copy(core.libos().heap(), b"my last").unwrap()).unwrap();
    });
    let qt = libos.pop(qd, 100).unwrap();
    let popped = libos.wait(qt, Some(Duration::from_secs(20))).expect("woken in time").popped().unwrap();
    assert_eq!(popped.sga.to_vec(), b"my last");
    other.join().unwrap();
}

#[test]
fn a_stopper_ends_a_sleeping_core() {
    let reservation = support::reservation(1);
    let (send, receive) = std::sync::mpsc::channel();
    let thread = thread::spawn(move || {
        let core = core(&reservation, mesh(1, MeshKind::Threads).unwrap().pop().unwrap(), SLEEPY);
        core.libos().spawn(std::future::pending::<()>());
        send.send(core.stopper()).unwrap();
        core.run();
        core.libos().counters().sleeps
    });
    let stopper = receive.recv().unwrap();
    thread::sleep(Duration::from_millis(50));
    stopper.stop();
    assert!(thread.join().unwrap() > 0);
}

#[test]
fn a_waker_from_another_thread_wakes_a_sleeping_core() {
    let reservation = support::reservation(1);
    let core = core(&reservation, mesh(1, MeshKind::Threads).unwrap().pop().unwrap(), SLEEPY);
    let start = Instant::now();
    let mut timer: Option<thread::JoinHandle<()>> = None;
    core.libos().spawn(std::future::poll_fn(move |cx| match &timer {
        None => {
            let waker = cx.waker().clone();
            timer = Some(thread::spawn(move || {
                thread::sleep(Duration::from_millis(20));
                waker.wake();
            }));
            std::task::Poll::Pending
        }
        Some(_) => std::task::Poll::Ready(()),
    }));
    core.run();
    assert!(start.elapsed() >= Duration::from_millis(20));
    assert!(core.libos().counters().passes < 20, "it slept meanwhile");
}

#[test]
fn budget_of_a_queue_is_its_own() {
    let (a, _b) = stepped();
    let qd = a.libos().queue().unwrap();
    a.libos().set_option(qd, SocketOption::SendBudget(77)).unwrap();
    assert_eq!(a.libos().option(qd, pdpix::OptionName::SendBudget), Ok(SocketOption::SendBudget(77)));
}
