//! Every device, against the Linux kernel at the other end of its link: what each must do.

mod link;

use std::collections::VecDeque;
use std::net::UdpSocket;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use libos_mem::{CopyPath, Heap};
use libos_net::Device;
use libos_xdp::{OpenError, PacketSettings, PacketSocket, ProgramMode, Tap, TapSettings, Xsk, XskSettings};
use link::*;
use pdpix::{Error, WakeOn};

/// A kind of device.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Tap { offload: bool },
    Packet { offload: bool },
    Xsk { program: ProgramMode, gathers: usize },
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
            Kind::Xsk { program, gathers } => {
                if let Err(why) = libos_xdp::is_built() {
                    return skip_af_xdp(test, why);
                }
                let link = Link::veth(test)?;
                enter(&link.near);
                let settings = XskSettings::new("near0", &[OURS.into(), OURS_V6.into()]);
                let settings = XskSettings { program_mode: program, gathers, ..settings };
                match Xsk::open(settings, heap.clone()) {
                    Err(OpenError::Unsupported(why)) => skip_af_xdp(test, &why),
                    xsk => Some((link, Box::new(xsk.unwrap()))),
                }
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

const XSK: Kind = Kind::Xsk { program: ProgramMode::Auto, gathers: 1 };
const XSK_GATHER: Kind = Kind::Xsk { program: ProgramMode::Auto, gathers: 8 };
const XSK_SKB: Kind = Kind::Xsk { program: ProgramMode::Skb, gathers: 1 };

macro_rules! on_every_kind {
    ($($case:ident,)*) => {
        mod tap { $(#[test] fn $case() { super::run(super::Kind::Tap { offload: false }, concat!("tap::", stringify!($case)), super::$case) })* }
        mod tap_offload { $(#[test] fn $case() { super::run(super::Kind::Tap { offload: true }, concat!("tap_offload::", stringify!($case)), super::$case) })* }
        mod packet { $(#[test] fn $case() { super::run(super::Kind::Packet { offload: false }, concat!("packet::", stringify!($case)), super::$case) })* }
        mod xsk { $(#[test] fn $case() { super::run(super::XSK, concat!("xsk::", stringify!($case)), super::$case) })* }
        mod xsk_gather { $(#[test] fn $case() { super::run(super::XSK_GATHER, concat!("xsk_gather::", stringify!($case)), super::$case) })* }
        mod xsk_skb { $(#[test] fn $case() { super::run(super::XSK_SKB, concat!("xsk_skb::", stringify!($case)), super::$case) })* }
        mod packet_offload { $(#[test] fn $case() { super::run(super::Kind::Packet { offload: true }, concat!("packet_offload::", stringify!($case)), super::$case) })* }
    };
}

on_every_kind! {
    the_kernel_is_answered,
    thousands_arrive_and_nothing_is_kept,
    thousands_are_sent_and_nothing_is_kept,
    a_removed_interface_is_told_once,
    an_interface_that_is_down_and_then_removed_is_told_once,
    a_device_that_waits_is_woken,
    a_link_that_was_down_is_up_again,
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
    let client = link.ask(5, Duration::ZERO);
    serve(device, heap, |_| client.is_finished());
    assert_eq!(client.join().unwrap(), 5, "{:?}", device.counters());
    assert!(counter(device, "rx_frames") >= 6 && counter(device, "tx_frames") >= 6, "{:?}", device.counters());
}

/// Payload number `index`: its length and bytes follow from it.
fn payload(index: usize) -> Vec<u8> {
    let mut bytes = (index as u32).to_be_bytes().to_vec();
    bytes.resize(4 + index * 7 % 1400, index as u8);
    bytes
}

const COUNT: usize = 5000;

fn thousands_arrive_and_nothing_is_kept(kind: Kind, heap: &Heap, link: &Link, device: &mut dyn Device) {
    let got = Arc::new(AtomicUsize::new(0));
    let (far, progress) = (link.far.clone(), got.clone());
    let sender = std::thread::spawn(move || {
        enter(&far);
        let socket = UdpSocket::bind((KERNELS, 0)).unwrap();
        // One question first: while the kernel looks for its neighbour it keeps a few frames only.
        socket.send_to(b"are you there?", (OURS, 7)).unwrap();
        socket.recv(&mut [0; 64]).unwrap();
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
            // The kernel leaves checksums out where the link allows it, and the device says so.
            assert_eq!(frame.unwrap().verified, kind != Kind::Tap { offload: false }, "datagram {count}");
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
        // Few ahead: a datagram in pieces takes a page for each in the kernel's receive buffer.
        while next < COUNT && next < got.load(Ordering::Acquire) + 16 {
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

fn a_link_that_was_down_is_up_again(kind: Kind, heap: &Heap, link: &Link, device: &mut dyn Device) {
    let name = if matches!(kind, Kind::Tap { .. }) { "far0" } else { "near0" };
    for round in 0..2 {
        let client = link.ask(3, Duration::ZERO);
        serve(device, heap, |_| client.is_finished());
        assert_eq!(client.join().unwrap(), 3, "round {round}");
        ip(&format!("-n {} link set {name} down", link.near));
        let mut frames: VecDeque<_> = (0..10).map(|_| datagram(heap, 1, 2, &[b"lost"])).collect();
        let mut received = VecDeque::new();
        for _ in 0..100 {
            device.receive(now(), &mut received, 64).expect("it is down, and not gone");
            frames.extend((0..20).map(|_| datagram(heap, 1, 2, &[b"lost"])));
            device.transmit(now(), &mut frames);
            device.flush(now());
            std::thread::sleep(Duration::from_millis(1));
        }
        assert!(frames.is_empty(), "a link that is down drops");
        ip(&format!("-n {} link set {name} up", link.near));
    }
    serve(device, heap, {
        let mut passes = 0;
        move |_| (passes += 1, passes > 1000).1
    });
    drain(device);
}

fn an_interface_that_is_down_and_then_removed_is_told_once(
    kind: Kind,
    heap: &Heap,
    link: &Link,
    device: &mut dyn Device,
) {
    let name = if matches!(kind, Kind::Tap { .. }) { "far0" } else { "near0" };
    ip(&format!("-n {} link set {name} down", link.near));
    let mut received = VecDeque::new();
    let end = now() + Duration::from_millis(200);
    while now() < end {
        device.arm(now());
        device.receive(now(), &mut received, 64).expect("it is down, and not gone");
        std::thread::sleep(Duration::from_millis(1));
    }
    a_removed_interface_is_told_once(kind, heap, link, device);
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
    let client = link.ask(3, Duration::from_millis(200));
    let (mut received, mut frames, mut wakes) = (VecDeque::new(), VecDeque::new(), 0);
    loop {
        let wake = device.arm(now());
        device.receive(now(), &mut received, 64).unwrap();
        frames.extend(received.drain(..).filter_map(|frame| answer(heap, &frame.buf)));
        if !frames.is_empty() {
            device.transmit(now(), &mut frames);
            device.flush(now());
            continue;
        }
        if client.is_finished() {
            break;
        }
        let WakeOn::Descriptor(fd) = wake else { panic!("{wake:?}: nothing to sleep on") };
        // SAFETY: open as long as the device is.
        let fd = unsafe { BorrowedFd::borrow_raw(fd) };
        let limit = Timespec { tv_sec: 0, tv_nsec: 900_000_000 };
        wakes += poll(&mut [PollFd::from_borrowed_fd(fd, PollFlags::IN)], Some(&limit)).unwrap();
    }
    assert_eq!(client.join().unwrap(), 3);
    assert!((2..1000).contains(&wakes), "{wakes} wakes for a few frames");
}

/// A TCP segment of 20,000 bytes that is never cut up: from a socket that leaves that to the kernel, over veth.
fn long_segment(heap: &Heap) -> libos_net::Frame {
    let payload: Vec<u8> = (0..20_000).map(|i| (i / 7) as u8).collect();
    let mut header = vec![0; 54];
    header[0..6].copy_from_slice(&KERNEL_MAC.0);
    header[6..12].copy_from_slice(&OUR_MAC.0);
    header[12] = 8;
    header[14] = 0x45;
    header[16..18].copy_from_slice(&(40 + 20_000_u16).to_be_bytes());
    (header[22], header[23]) = (64, 6);
    header[26..30].copy_from_slice(&OURS.octets());
    header[30..34].copy_from_slice(&KERNELS.octets());
    let sum = libos_net::wire::Checksum::new().add(&header[14..34]).finish();
    header[24..26].copy_from_slice(&sum.to_be_bytes());
    header[46] = 5 << 4;
    libos_net::Frame {
        header: heap.copy(&header).unwrap(),
        payload: heap.copy(&payload).unwrap().into(),
        checksum: Some(libos_net::ChecksumAt { start: 34, field: 16 }),
        segment_size: 1448,
    }
}

#[test]
fn a_frame_longer_than_a_slot_arrives_whole() {
    on_a_thread(|| {
        let heap = heap();
        for offload in [false, true] {
            let Some(link) = Link::veth("a_frame_longer_than_a_slot_arrives_whole") else { return };
            enter(&link.near);
            let from = PacketSettings { offload: true, ..PacketSettings::new("near0") };
            let mut from = PacketSocket::open(from, heap.clone()).unwrap();
            enter(&link.far);
            let to = PacketSettings { offload, ..PacketSettings::new("far0") };
            let mut to = PacketSocket::open(to, heap.clone()).unwrap();
            let sent = long_segment(&heap).to_vec();
            let (mut frames, mut received) = (VecDeque::new(), VecDeque::new());
            for round in 1..=20 {
                frames.extend((0..3).map(|_| long_segment(&heap)));
                from.transmit(now(), &mut frames);
                let end = now() + Duration::from_secs(5);
                while received.iter().filter(|f: &&libos_net::Received| f.buf.len() == sent.len()).count() < 3 {
                    assert!(now() < end, "round {round}: {:?} {:?}", from.counters(), to.counters());
                    to.receive(now(), &mut received, 64).unwrap();
                }
                for frame in received.drain(..).filter(|frame| frame.buf.len() == sent.len()) {
                    assert!(frame.verified, "it never left this host");
                    assert!(frame.buf[..50] == sent[..50] && frame.buf[52..] == sent[52..], "but for the checksum");
                }
            }
            assert_eq!(counter(&to, "rx_too_long") + counter(&to, "rx_no_memory") + counter(&to, "rx_dropped"), 0);
        }
        heap.reclaim();
        assert_eq!(heap.stats().pinned, 0);
    });
}

#[test]
fn packet_sockets_of_a_group_share_the_frames_by_flow() {
    on_a_thread(|| {
        let Some(link) = Link::veth("packet_sockets_of_a_group_share_the_frames_by_flow") else { return };
        enter(&link.near);
        let heap = heap();
        let settings = PacketSettings { fanout: Some(7), ..PacketSettings::new("near0") };
        let mut sockets = [0, 1].map(|_| PacketSocket::open(settings.clone(), heap.clone()).unwrap());
        let far = link.far.clone();
        let client = std::thread::spawn(move || {
            enter(&far);
            let sockets: Vec<UdpSocket> = (0..32).map(|_| UdpSocket::bind((KERNELS, 0)).unwrap()).collect();
            let ask = |socket: &UdpSocket| {
                socket.set_read_timeout(Some(Duration::from_secs(5))).unwrap();
                socket.send_to(b"to either socket", (OURS, 7)).unwrap();
                socket.recv(&mut [0; 64]).is_ok()
            };
            sockets.iter().cycle().take(320).filter(|socket| ask(socket)).count()
        });
        let mut ports = [0, 1].map(|_| std::collections::BTreeSet::new());
        let mut questions = 0;
        while !client.is_finished() {
            for (socket, ports) in sockets.iter_mut().zip(&mut ports) {
                let mut once = false;
                serve(socket, &heap, |frame| {
                    if let Some(frame) =
                        frame.filter(|frame| datagram_of(&frame.buf).is_some_and(|(_, port, _)| port == 7))
                    {
                        ports.insert([frame.buf[34], frame.buf[35]]);
                        questions += 1;
                    }
                    frame.is_none() && std::mem::replace(&mut once, true)
                });
            }
        }
        assert_eq!((client.join().unwrap(), questions), (320, 320), "each frame comes to one of them");
        assert!(ports[0].is_disjoint(&ports[1]), "a flow stays where it is");
        assert!(ports.iter().all(|ports| ports.len() >= 4), "both have some: {ports:?}");
    });
}
