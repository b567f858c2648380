//! Every device, against the Linux kernel at the other end of its link: what each must do.

mod link;

use std::collections::VecDeque;
use std::net::UdpSocket;
use std::process::Stdio;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use libos_mem::{CopyPath, Heap};
use libos_net::Device;
use libos_xdp::{PacketSettings, PacketSocket, Tap, TapSettings};
use link::*;
use pdpix::{Error, WakeOn};

/// A kind of device.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Tap { offload: bool },
    Packet { offload: bool },
}

impl Kind {
    /// A device on a link of its own, opened by this thread in its namespace.
    fn open(self, test: &str, heap: &Heap) -> Option<(Link, Box<dyn Device>)> {
        match self {
            Kind::Tap { offload } => {
                let link = Link::one(test)?;
                enter(&link.near);
                let settings = TapSettings {
                    name: "far0".into(),
                    mac: Some(OUR_MAC),
                    kernel_addresses: vec![(KERNELS.into(), 24), (KERNELS_V6.into(), 64)],
                    offload,
                    ..TapSettings::default()
                };
                let tap = Tap::open(settings, heap.clone()).unwrap();
                ip(&format!("link set far0 address {KERNEL_MAC}"));
                Some((link, Box::new(tap)))
            }
            Kind::Packet { offload } => {
                let link = Link::veth(test)?;
                enter(&link.near);
                let settings = PacketSettings { offload, ..PacketSettings::new("near0") };
                Some((link, Box::new(PacketSocket::open(settings, heap.clone()).unwrap())))
            }
        }
    }

    /// What takes the device's interface away.
    fn remove(self, link: &Link) {
        match self {
            Kind::Tap { .. } => ip(&format!("-n {} link del far0", link.near)),
            _ => ip(&format!("-n {} link del near0", link.near)),
        }
    }
}

macro_rules! on_every_kind {
    ($($case:ident,)*) => {
        mod tap { $(#[test] fn $case() { super::run(super::Kind::Tap { offload: false }, concat!("tap::", stringify!($case)), super::$case) })* }
        mod tap_offload { $(#[test] fn $case() { super::run(super::Kind::Tap { offload: true }, concat!("tap_offload::", stringify!($case)), super::$case) })* }
        mod packet { $(#[test] fn $case() { super::run(super::Kind::Packet { offload: false }, concat!("packet::", stringify!($case)), super::$case) })* }
        mod packet_offload { $(#[test] fn $case() { super::run(super::Kind::Packet { offload: true }, concat!("packet_offload::", stringify!($case)), super::$case) })* }
    };
}

on_every_kind! {
    the_kernel_is_answered,
    thousands_arrive_and_nothing_is_kept,
    thousands_are_sent_and_nothing_is_kept,
    a_removed_interface_is_told_once,
    a_device_that_waits_is_woken,
}

fn run(kind: Kind, test: &'static str, case: fn(Kind, &Heap, &Link, &mut dyn Device)) {
    on_a_thread(move || {
        let heap = heap();
        let Some((link, mut device)) = kind.open(test, &heap) else { return };
        case(kind, &heap, &link, &mut *device);
        drop(device);
        heap.reclaim();
        assert_eq!(heap.stats().pinned, 0, "the device kept memory: {:?}", heap.stats());
    });
}

fn the_kernel_is_answered(_: Kind, heap: &Heap, link: &Link, device: &mut dyn Device) {
    let mut ping = link.far_command(&format!("ping -c 5 -i 0.05 -W 5 {OURS}")).stdout(Stdio::null()).spawn().unwrap();
    let mut status = None;
    serve(device, heap, |_| {
        status = ping.try_wait().unwrap();
        status.is_some()
    });
    assert!(status.unwrap().success(), "ping got no answer: {:?}", device.counters());
    assert!(counter(device, "rx_frames") >= 6 && counter(device, "tx_frames") >= 6, "{:?}", device.counters());
}

/// Payload number `index`: its length and bytes follow from it.
fn payload(index: usize) -> Vec<u8> {
    let mut bytes = (index as u32).to_be_bytes().to_vec();
    bytes.resize(4 + index * 7 % 1400, index as u8);
    bytes
}

const COUNT: usize = 5000;

fn thousands_arrive_and_nothing_is_kept(_: Kind, heap: &Heap, link: &Link, device: &mut dyn Device) {
    let got = Arc::new(AtomicUsize::new(0));
    let (far, progress) = (link.far.clone(), got.clone());
    let sender = std::thread::spawn(move || {
        enter(&far);
        let socket = UdpSocket::bind((KERNELS, 0)).unwrap();
        for index in 0..COUNT {
            while index > progress.load(Ordering::Acquire) + 64 {
                std::thread::yield_now();
            }
            socket.send_to(&payload(index), (OURS, 7000)).unwrap();
        }
    });
    let mut held = VecDeque::new();
    serve(device, heap, |frame| {
        let count = got.load(Ordering::Relaxed);
        if let Some((_, 7000, bytes)) = frame.and_then(|frame| datagram_of(&frame.buf)) {
            assert_eq!(bytes, payload(count), "datagram {count}");
            // Some are held, as a stack does.
            held.push_back(frame.unwrap().buf.clone());
            held.truncate(100);
            got.store(count + 1, Ordering::Release);
        }
        got.load(Ordering::Relaxed) == COUNT
    });
    sender.join().unwrap();
    assert_eq!(counter(device, "rx_dropped") + counter(device, "rx_too_long") + counter(device, "rx_no_memory"), 0);
    assert_eq!(heap.copied().on(CopyPath::Receive), counter(device, "rx_copied_bytes"));
}

fn thousands_are_sent_and_nothing_is_kept(_: Kind, heap: &Heap, link: &Link, device: &mut dyn Device) {
    let got = Arc::new(AtomicUsize::new(0));
    let ready = Arc::new(AtomicBool::new(false));
    let (far, progress, is_ready) = (link.far.clone(), got.clone(), ready.clone());
    let receiver = std::thread::spawn(move || {
        enter(&far);
        let socket = UdpSocket::bind((KERNELS, 7001)).unwrap();
        socket.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
        is_ready.store(true, Ordering::Release);
        let mut bytes = [0; 2048];
        for index in 0..COUNT {
            let (len, from) = socket.recv_from(&mut bytes).unwrap_or_else(|e| panic!("datagram {index}: {e}"));
            assert_eq!((&bytes[..len], from), (&payload(index)[..], (OURS, 7000).into()), "datagram {index}");
            progress.store(index + 1, Ordering::Release);
        }
    });
    while !ready.load(Ordering::Acquire) {
        std::thread::yield_now();
    }
    let (mut frames, mut next) = (VecDeque::new(), 0);
    let mut received = VecDeque::new();
    while got.load(Ordering::Acquire) < COUNT && !receiver.is_finished() {
        while next < COUNT && next < got.load(Ordering::Acquire) + 64 {
            let bytes = payload(next);
            let (head, tail) = bytes.split_at(bytes.len() / 3);
            let pieces = device.link().offloads.gathers;
            frames.push_back(if pieces > 2 && next % 2 == 0 {
                datagram(heap, 7000, 7001, &[head, tail])
            } else if pieces > 1 {
                datagram(heap, 7000, 7001, &[&bytes])
            } else {
                one_piece(heap, &bytes)
            });
            next += 1;
        }
        device.transmit(now(), &mut frames);
        device.flush(now());
        device.receive(now(), &mut received, 64).unwrap();
        received.clear();
    }
    receiver.join().unwrap();
    drain(device);
    assert_eq!(counter(device, "tx_frames"), COUNT as u64);
    assert_eq!(counter(device, "tx_dropped"), 0);
}

fn one_piece(heap: &Heap, payload: &[u8]) -> libos_net::Frame {
    let frame = datagram(heap, 7000, 7001, &[payload]);
    libos_net::Frame { header: heap.copy(&frame.to_vec()).unwrap(), payload: pdpix::Sga::new(), ..frame }
}

fn a_removed_interface_is_told_once(kind: Kind, heap: &Heap, link: &Link, device: &mut dyn Device) {
    let mut frames: VecDeque<_> = (0..10).map(|_| datagram(heap, 1, 2, &[])).collect();
    device.transmit(now(), &mut frames);
    device.flush(now());
    kind.remove(link);
    let mut received = VecDeque::new();
    let mut told = 0;
    let end = now() + Duration::from_millis(500);
    while now() < end {
        match device.receive(now(), &mut received, 64) {
            Ok(()) => {}
            Err(error) => {
                assert_eq!(error, Error::NetworkDown);
                told += 1;
            }
        }
        frames.extend((0..3).map(|_| datagram(heap, 1, 2, &[])));
        device.transmit(now(), &mut frames);
        device.flush(now());
        if told > 0 {
            assert!(frames.is_empty(), "a device that is gone swallows what it is given");
        }
        std::thread::sleep(Duration::from_millis(1));
    }
    assert_eq!(told, 1);
    assert_eq!(device.arm(now()), WakeOn::Nothing);
    drain(device);
    drop(received);
}

fn a_device_that_waits_is_woken(_: Kind, heap: &Heap, link: &Link, device: &mut dyn Device) {
    use rustix::event::{PollFd, PollFlags, Timespec, poll};
    use std::os::fd::BorrowedFd;
    let mut ping = link.far_command(&format!("ping -c 2 -i 0.3 -W 5 {OURS}")).stdout(Stdio::null()).spawn().unwrap();
    let (mut received, mut frames, mut wakes) = (VecDeque::new(), VecDeque::new(), 0);
    let status = loop {
        let wake = device.arm(now());
        device.receive(now(), &mut received, 64).unwrap();
        frames.extend(received.drain(..).filter_map(|frame| answer(heap, &frame.buf)));
        if !frames.is_empty() {
            device.transmit(now(), &mut frames);
            device.flush(now());
            continue;
        }
        if let Some(status) = ping.try_wait().unwrap() {
            break status;
        }
        let WakeOn::Descriptor(fd) = wake else { panic!("{wake:?}: nothing to sleep on") };
        // SAFETY: open as long as the device is.
        let fd = unsafe { BorrowedFd::borrow_raw(fd) };
        let limit = Timespec { tv_sec: 0, tv_nsec: 900_000_000 };
        wakes += poll(&mut [PollFd::from_borrowed_fd(fd, PollFlags::IN)], Some(&limit)).unwrap();
    };
    assert!(status.success(), "ping got no answer");
    assert!((2..1000).contains(&wakes), "{wakes} wakes for a few frames");
}
