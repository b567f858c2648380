//! Waiting without a list, and waits that another thread ends.

mod support;

use std::time::Duration;

use libos_mem::Heap;
use libos_runtime::{Core, CoreParts, KernelClock, LibOs, MeshKind, mesh};
use pdpix::{Error, Outcome, QToken, Qd, Sga};

fn push(libos: &LibOs, qd: Qd, byte: u8) -> QToken {
    libos.push(qd, Sga::copy(libos.heap(), &[byte]).unwrap()).unwrap()
}

fn popped(libos: &LibOs) -> (QToken, Vec<u8>) {
    let completion = libos.wait_next(libos.deadline_after(Some(Duration::ZERO))).unwrap();
    (completion.qt, completion.popped().unwrap().sga.to_vec())
}

#[test]
fn what_has_been_complete_for_longest_comes_first() {
    let (core, _) = support::core();
    let libos = core.libos();
    let queues = [(); 3].map(|()| libos.queue().unwrap());
    let pops = queues.map(|qd| libos.pop(qd, 10).unwrap());
    for i in [2, 0] {
        let qt = push(libos, queues[i], i as u8);
        libos.wait(qt, None).unwrap().done().unwrap();
    }
    // Those that were complete before anybody asked, in the order of their operations; then as they come.
    assert_eq!(popped(libos), (pops[0], vec![0]));
    let (first, second) = (push(libos, queues[0], 7), push(libos, queues[1], 1));
    assert_eq!(popped(libos), (pops[2], vec![2]));
    let next = libos.wait_next(None).unwrap();
    assert!(next.qt == first && matches!(next.result, Ok(Outcome::Pushed)));
    // One that is redeemed by name is not told again.
    libos.wait(second, None).unwrap().done().unwrap();
    assert_eq!(popped(libos), (pops[1], vec![1]));
    assert_eq!(libos.wait_next(libos.deadline_after(Some(Duration::ZERO))).unwrap_err(), Error::TimedOut);
    assert_eq!(libos.tokens_in_use(), 0);
}

#[test]
fn a_pending_token_that_is_there_twice_is_busy_and_stays_valid() {
    let (core, _) = support::core();
    let libos = core.libos();
    let qd = libos.queue().unwrap();
    let pops = [(); 2].map(|()| libos.pop(qd, 10).unwrap());
    let twice = [pops[0], pops[1], pops[0]];
    assert_eq!(libos.wait_any(&twice, Some(Duration::ZERO)).unwrap_err(), Error::TokenBusy);
    let qt = push(libos, qd, 3);
    libos.wait(qt, None).unwrap().done().unwrap();
    assert_eq!(libos.wait_any(&twice, None).unwrap().0, 0, "one that is complete has no waiter");
}

#[test]
fn the_list_does_not_grow_with_what_is_redeemed_by_name() {
    let (core, _) = support::core();
    let libos = core.libos();
    let qd = libos.queue().unwrap();
    let _ = libos.wait_next(libos.deadline_after(Some(Duration::ZERO)));
    for round in 0..10_000_u32 {
        let qt = push(libos, qd, round as u8);
        libos.wait(qt, None).unwrap().done().unwrap();
        let pop = libos.pop(qd, 10).unwrap();
        assert_eq!(libos.wait(pop, None).unwrap().popped().unwrap().sga.to_vec(), [round as u8]);
    }
    assert_eq!(libos.wait_next(libos.deadline_after(Some(Duration::ZERO))).unwrap_err(), Error::TimedOut);
}

#[test]
fn a_thread_that_sleeps_is_interrupted_and_its_token_stays_valid() {
    let (tell, told) = std::sync::mpsc::channel();
    let thread = std::thread::spawn(move || {
        let heap = Heap::alone(8 << 20).unwrap();
        let ports = mesh(1, MeshKind::Threads).unwrap().remove(0);
        let core = Core::new(CoreParts::new(heap, Box::new(KernelClock), ports));
        let libos = core.libos();
        let qd = libos.queue().unwrap();
        let pop = libos.pop(qd, 10).unwrap();
        tell.send(libos.interrupter()).unwrap();
        assert_eq!(libos.wait(pop, None).unwrap_err(), Error::Interrupted);
        assert_eq!(libos.wait_all(&[pop], Some(Duration::ZERO)).unwrap_err(), Error::TimedOut, "once");
        libos.interrupter().interrupt();
        libos.interrupter().interrupt();
        assert_eq!(libos.wait_next(None).unwrap_err(), Error::Interrupted, "before it waits");
        assert_eq!(libos.wait_next(libos.deadline_after(Some(Duration::ZERO))).unwrap_err(), Error::TimedOut);
        let qt = push(libos, qd, 5);
        libos.wait(qt, None).unwrap().done().unwrap();
        assert_eq!(libos.wait(pop, None).unwrap().popped().unwrap().sga.to_vec(), [5]);
    });
    let interrupter = told.recv().unwrap();
    // Long enough for it to fall asleep.
    std::thread::sleep(Duration::from_millis(50));
    interrupter.interrupt();
    thread.join().unwrap();
}
