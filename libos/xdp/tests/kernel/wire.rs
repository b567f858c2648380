//! A lossy wire between our device and the kernel: a thread with a packet socket on the other end of our veth pair, and a
//! TAP interface in the kernel's namespace.

use std::os::fd::BorrowedFd;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::Duration;

use libos_mem::Heap;
use libos_net::{Bridge, Device, LineCounters, LineSettings};
use libos_xdp::{PacketSettings, PacketSocket, Tap};
use pdpix::{Instant, Rng, WakeOn};
use rustix::event::{PollFd, PollFlags, Timespec, poll};

use super::{inside, kernels_tap, sysctl};
use crate::link::*;

/// Our hand on the thread that is the wire. It ends with this.
pub struct Wire {
    stop: Arc<AtomicBool>,
    natures: Sender<[LineSettings; 2]>,
    counters: Arc<Mutex<[LineCounters; 2]>>,
    thread: Option<JoinHandle<()>>,
}

impl Wire {
    /// `near0` for our device, the wire, and `far0` with the kernel's addresses in the far namespace.
    pub fn between(test: &str, lines: [LineSettings; 2], seed: u64) -> Option<(Link, Wire)> {
        let link = Link::namespaces(test)?;
        let near = &link.near;
        sysctl(near, "ipv6/conf/default/disable_ipv6", "1");
        ip(&format!("-n {near} link add near0 address {OUR_MAC} type veth peer name wire0"));
        ip(&format!("-n {near} link set near0 up"));
        ip(&format!("-n {near} link set wire0 up"));
        // Else detection of duplicate addresses would meet the wire's faults.
        sysctl(&link.far, "ipv6/conf/default/accept_dad", "0");
        let (stop, counters) = (Arc::new(AtomicBool::new(false)), Arc::new(Mutex::new(Default::default())));
        let (natures, changes) = channel();
        let (is_up, up) = channel();
        let thread = {
            let (near, far) = (link.near.clone(), link.far.clone());
            let (stop, counters) = (stop.clone(), counters.clone());
            std::thread::spawn(move || {
                let heap = Heap::alone(64 << 20).unwrap();
                let bridge = Bridge::new(ends(&near, &far, &heap), lines, &mut Rng::new(seed));
                is_up.send(()).unwrap();
                run(bridge, &stop, &changes, &counters);
            })
        };
        up.recv().expect("a wire");
        Some((link, Wire { stop, natures, counters, thread: Some(thread) }))
    }

    /// Changes its nature, from us to the kernel and back, within some milliseconds.
    pub fn set(&self, lines: [LineSettings; 2]) {
        self.natures.send(lines).unwrap();
        std::thread::sleep(TURN_MAX * 2);
    }

    /// What it has done, some milliseconds ago.
    pub fn counters(&self) -> [LineCounters; 2] {
        *self.counters.lock().unwrap()
    }
}

impl Drop for Wire {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        let ended = self.thread.take().map(JoinHandle::join);
        if !std::thread::panicking() {
            assert!(matches!(ended, Some(Ok(()))), "the wire broke");
        }
    }
}

/// Within this time it sees what it is told.
const TURN_MAX: Duration = Duration::from_millis(5);

fn ends(near: &str, far: &str, heap: &Heap) -> [Box<dyn Device>; 2] {
    enter(near);
    let settings = PacketSettings { promiscuous: true, ..PacketSettings::new("wire0") };
    let ours = PacketSocket::open(settings, heap.clone()).unwrap();
    enter(far);
    let kernels = Tap::open(kernels_tap(), heap.clone()).unwrap();
    [Box::new(ours), Box::new(kernels)]
}

fn run(
    mut bridge: Bridge,
    stop: &AtomicBool,
    changes: &Receiver<[LineSettings; 2]>,
    counters: &Mutex<[LineCounters; 2]>,
) {
    while !stop.load(Ordering::Relaxed) {
        if let Some(lines) = changes.try_iter().last() {
            lines.into_iter().enumerate().for_each(|(line, settings)| bridge.set(line, settings));
        }
        while bridge.poll(now()).unwrap() > 0 {}
        *counters.lock().unwrap() = bridge.counters();
        let wakes = bridge.arm(now());
        if bridge.poll(now()).unwrap() == 0 {
            sleep(&wakes, bridge.deadline());
        }
    }
}

/// Sleeps until a descriptor of these is readable, or it is time.
pub fn sleep(wakes: &[WakeOn], deadline: Option<Instant>) {
    let mut limit = deadline.map_or(TURN_MAX, |at| at.since(now())).min(TURN_MAX);
    let mut fds = Vec::new();
    for wake in wakes {
        match wake {
            WakeOn::Now => return,
            WakeOn::Nap => limit = limit.min(Duration::from_micros(50)),
            WakeOn::Nothing => {}
            WakeOn::Descriptor(fd) => {
                // SAFETY: the device that it belongs to is open as long as its owner, who called us, lives.
                let fd = unsafe { BorrowedFd::borrow_raw(*fd) };
                fds.push(PollFd::from_borrowed_fd(fd, PollFlags::IN));
            }
        }
    }
    let limit = Timespec { tv_sec: 0, tv_nsec: i64::from(limit.subsec_nanos()) };
    let _ = poll(&mut fds, Some(&limit));
}
