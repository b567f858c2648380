//! Frames over every port that this machine has: what one end sends the other receives, byte for byte, from where it lay;
//! what was copied is counted; and all memory comes back.

mod ports;

use std::collections::VecDeque;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant as Clock};

use libos_dpdk::{Port, PortSettings, Queue};
use libos_mem::{Buf, Heap};
use libos_net::{Device, Frame, Received};
use pdpix::{Instant, Sga};
use ports::{Kind, Opened, Wire, eal, opened, reserve, wait_until_up};

const HEAP_SIZE: usize = 64 << 20;
const LIMIT: Duration = Duration::from_secs(60);

/// What is sent: reproducible, and different in every frame.
fn bytes(seed: u32, len: usize) -> Vec<u8> {
    let mut state = u64::from(seed).wrapping_mul(0x9e37_79b9_7f4a_7c15) + 1;
    (0..len)
        .map(|_| {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            (state >> 56) as u8
        })
        .collect()
}

/// A port with its queue, and the heap that its frames lie in.
struct End {
    queue: Option<Queue>,
    heap: Heap,
    now: Clock,
}

impl End {
    fn queue(&mut self) -> &mut Queue {
        self.queue.as_mut().expect("not closed yet")
    }

    fn now(&self) -> Instant {
        Instant::from_nanos(self.now.elapsed().as_nanos() as u64)
    }

    fn send(&mut self, frames: &mut VecDeque<Frame>) {
        let now = self.now();
        self.queue().transmit(now, frames);
        self.queue().flush(now);
    }

    fn receive(&mut self) -> VecDeque<Received> {
        let (now, mut into) = (self.now(), VecDeque::new());
        self.queue().receive(now, &mut into, 64).expect("the link is there");
        self.queue().flush(now);
        into
    }

    fn counter(&mut self, name: &str) -> u64 {
        self.queue().counters().into_iter().find(|(known, _)| *known == name).expect("a counter").1
    }
}

/// Ports of one process are not opened while others are closed (docs/dpdk.md).
static ONE: Mutex<()> = Mutex::new(());

fn ends(kind: Kind) -> Opened<(Wire, [End; 2])> {
    let wire = Wire::make(kind, 1)?;
    let first = wire.first();
    let mut ends = Vec::new();
    let mut ports = Vec::new();
    for end in [first, 1 - first] {
        let reservation = reserve(1, HEAP_SIZE)?;
        let port = wire.open(end, &reservation)?;
        let heap = reservation.heap(0).expect("the first");
        let queue = port.queue(0, heap.clone()).expect("its queue");
        ends.push(End { queue: Some(queue), heap, now: Clock::now() });
        ports.push(port);
    }
    wait_until_up(&ports.iter().collect::<Vec<_>>());
    let [a, b] = ends.try_into().unwrap_or_else(|_| unreachable!());
    let mut ends = if first == 0 { [a, b] } else { [b, a] };
    // Both have looked.
    ends.iter_mut().for_each(|end| _ = end.receive());
    Ok((wire, ends))
}

const HEADER_LEN: usize = 14 + 20 + 20;

/// A frame that every wire carries: of an Ethernet type that nobody answers, with its number, a header and a payload
/// that lies at an odd address of the heap.
fn frame(heap: &Heap, gathers: bool, number: u32, len: usize) -> Frame {
    let mut header = vec![0; HEADER_LEN];
    header[..6].copy_from_slice(&[0xff; 6]);
    header[6..12].copy_from_slice(&[2, 0, 0, 0, 0x79, 9]);
    header[12..14].copy_from_slice(&[0x88, 0xb5]);
    header[14..18].copy_from_slice(&number.to_be_bytes());
    header[18..22].copy_from_slice(&(len as u32).to_be_bytes());
    let data = bytes(number, len);
    if !gathers {
        let whole = heap.copy(&[&header[..], &data].concat()).unwrap();
        return Frame { header: whole, payload: Sga::new(), checksum: None, segment_size: 0 };
    }
    let odd = 1 + number as usize % 7;
    let mut payload = heap.copy(&[&vec![0xee; odd][..], &data].concat()).unwrap();
    payload.advance(odd);
    // Now and then in two pieces.
    let mut pieces = Sga::new();
    if len > 1 && number.is_multiple_of(3) {
        pieces.push(payload.split_to(len / 2)).unwrap();
    }
    pieces.push(payload).unwrap();
    Frame { header: heap.copy(&header).unwrap(), payload: pieces, checksum: None, segment_size: 0 }
}

/// The number of a frame of ours, if it is right.
fn check(buf: &Buf) -> Option<u32> {
    if buf.get(12..14)? != [0x88, 0xb5] {
        return None; // the kernel's
    }
    let word = |at: usize| u32::from_be_bytes(buf[at..at + 4].try_into().unwrap());
    let (number, len) = (word(14), word(18) as usize);
    assert!(buf[HEADER_LEN..][..len] == bytes(number, len), "frame {number} of {len} bytes is wrong");
    Some(number)
}

/// So many frames each way, in bursts; all of them arrive, in order, and right.
fn exchange(kind: Kind, count: u32) -> Opened<()> {
    let _one = ONE.lock().unwrap_or_else(PoisonError::into_inner);
    let (_wire, mut ends) = ends(kind)?;
    let lens = |number: u32| 8 + (number as usize * 131) % (1500 - 40 - 8);
    for from in [0, 1] {
        let to = 1 - from;
        let (mut sent, mut received) = (0, 0);
        let mut waiting = VecDeque::new();
        let gathers = ends[from].queue().link().offloads.gathers > 1;
        let start = Clock::now();
        while received < count {
            assert!(
                start.elapsed() < LIMIT,
                "{kind:?}: {received} of {count}: {:?}, {:?}",
                ends[0].queue,
                ends[1].queue
            );
            // Not more under way than every kernel keeps.
            while waiting.len() < 16 && sent < count && sent < received + 128 {
                waiting.push_back(frame(&ends[from].heap, gathers, sent, lens(sent)));
                sent += 1;
            }
            ends[from].send(&mut waiting);
            for Received { buf, .. } in ends[to].receive() {
                if let Some(number) = check(&buf) {
                    assert_eq!(number, received, "in order");
                    received += 1;
                }
            }
            drop(ends[from].receive());
        }
        assert!(ends[from].counter("tx_frames") >= count.into());
        // Only short frames are copied.
        let short: usize = (0..count).map(|i| HEADER_LEN + lens(i)).filter(|&len| len <= 256).sum();
        assert_eq!(ends[from].counter("tx_copied_bytes"), short as u64, "{kind:?}: all others from where they lie");
        let copied = ends[to].counter("rx_copied_bytes");
        // Frames from another core's memory, and those that lie where the kernel put them, are copied; no others.
        let is_copying = matches!(kind, Kind::Ring | Kind::AfXdp);
        assert_eq!(copied > 0, is_copying, "{kind:?} copied {copied} bytes");
    }
    ends.iter_mut().for_each(|end| assert_eq!(end.counter("buried"), 0));
    // What was received is dropped, and what was sent is back when both ports are closed.
    ends.iter_mut().for_each(|end| drop(end.queue.take()));
    for end in &ends {
        assert_eq!(end.heap.stats().pinned, 0, "{kind:?}: all memory comes back");
    }
    Ok(())
}

/// Takes what the second end has, in order from `received` on.
fn take(ends: &mut [End; 2], received: &mut u32) -> Vec<Buf> {
    let mut taken = Vec::new();
    for Received { buf, .. } in ends[1].receive() {
        if let Some(number) = check(&buf) {
            assert_eq!(number, *received, "in order, and none is lost");
            *received += 1;
            taken.push(buf);
        }
    }
    taken
}

const MANY: u32 = 6_000;

/// More than the ring takes while nobody looks at the other end, and more than the other end has memory for: it waits, and
/// nothing is lost.
fn pressed(kind: Kind) -> Opened<()> {
    let _one = ONE.lock().unwrap_or_else(PoisonError::into_inner);
    let (_wire, mut ends) = ends(kind)?;
    let mut waiting: VecDeque<Frame> = (0..MANY).map(|number| frame(&ends[0].heap, true, number, 1000)).collect();
    ends[0].send(&mut waiting);
    assert!(!waiting.is_empty() && ends[0].counter("tx_busy") > 0, "{kind:?}: the ring refuses");
    assert_eq!(ends[0].counter("tx_dropped"), 0);
    // Only the reserve for receiving is left at the other end, and what arrives is held.
    let mut hoard = Vec::new();
    while let Ok(chunk) = ends[1].heap.alloc(64 << 10) {
        hoard.push(chunk);
    }
    let (mut received, mut held, start) = (0, Vec::new(), Clock::now());
    while ends[1].counter("rx_no_memory") == 0 {
        assert!(start.elapsed() < LIMIT && received < MANY, "{kind:?}: {received} are held, and there is memory still");
        held.extend(take(&mut ends, &mut received));
        ends[0].send(&mut waiting);
    }
    drop((hoard, held));
    while received < MANY {
        assert!(start.elapsed() < LIMIT, "{kind:?}: {received} of {MANY}: {:?}, {:?}", ends[0].queue, ends[1].queue);
        drop(take(&mut ends, &mut received));
        ends[0].send(&mut waiting);
    }
    drop(waiting);
    ends.iter_mut().for_each(|end| drop(end.queue.take()));
    assert!(ends.iter().all(|end| end.heap.stats().pinned == 0), "{kind:?}: all memory comes back");
    Ok(())
}

/// A port that has no other end.
fn lone(device: &str) -> Opened<End> {
    let reservation = reserve(1, HEAP_SIZE)?;
    let port = opened(Port::open(eal()?, PortSettings::new(device), &reservation))?;
    let heap = reservation.heap(0).expect("the first");
    let queue = port.queue(0, heap.clone()).expect("its queue");
    wait_until_up(&[&port]);
    let mut end = End { queue: Some(queue), heap, now: Clock::now() };
    assert!(end.receive().is_empty(), "it only looks for the link");
    Ok(end)
}

/// The null port takes all that it is sent, and brings as much as anybody wants: frames of one length.
fn null() -> Opened<()> {
    const LEN: usize = 96;
    let _one = ONE.lock().unwrap_or_else(PoisonError::into_inner);
    let mut end = lone(&format!("net_null{},size={LEN}", std::process::id()))?;
    let (gathers, start) = (end.queue().link().offloads.gathers > 1, Clock::now());
    let (mut sent, mut waiting, mut received) = (0, VecDeque::new(), 0);
    let before = end.counter("rx_frames");
    while sent < MANY || !waiting.is_empty() || received < MANY as usize {
        assert!(start.elapsed() < LIMIT, "{sent} sent, {received} received: {:?}", end.queue);
        while waiting.len() < 16 && sent < MANY {
            waiting.push_back(frame(&end.heap, gathers, sent, 1000));
            sent += 1;
        }
        end.send(&mut waiting);
        let frames = end.receive();
        assert!(frames.iter().all(|frame| frame.buf.len() == LEN));
        received += frames.len();
    }
    assert_eq!((end.counter("tx_frames"), end.counter("tx_dropped")), (MANY.into(), 0));
    assert_eq!(end.counter("rx_frames") - before, received as u64);
    drop(end.queue.take());
    assert_eq!(end.heap.stats().pinned, 0, "all memory comes back");
    Ok(())
}

/// The packets of a file as libpcap writes it on this machine, or the file of them.
mod capture {
    const HEADER: [u32; 6] = [0xa1b2_c3d4, 4 << 16 | 2, 0, 0, 65_535, 1];

    pub fn of<'a>(packets: impl Iterator<Item = &'a [u8]>) -> Vec<u8> {
        let words = |words: &[u32]| words.iter().flat_map(|word| word.to_ne_bytes()).collect::<Vec<u8>>();
        let record = |packet: &[u8]| [&words(&[0, 0, packet.len() as u32, packet.len() as u32]), packet].concat();
        words(&HEADER).into_iter().chain(packets.flat_map(record)).collect()
    }

    pub fn packets(file: &[u8]) -> Vec<Vec<u8>> {
        let (header, mut rest) = file.split_at(24);
        // With micro- or with nanoseconds.
        let magic = u32::from_ne_bytes(header[..4].try_into().unwrap());
        assert!([HEADER[0], 0xa1b2_3c4d].contains(&magic), "a file of this machine's: {magic:x}");
        let mut packets = Vec::new();
        while let Some((record, data)) = rest.split_at_checked(16) {
            let word = |at: usize| u32::from_ne_bytes(record[at..at + 4].try_into().unwrap());
            assert_eq!(word(8), word(12), "none is cut");
            let (packet, behind) = data.split_at(word(8) as usize);
            packets.push(packet.to_vec());
            rest = behind;
        }
        packets
    }
}

/// A file is replayed, frame by frame; and what is sent is in another file, byte for byte.
fn pcap() -> Opened<()> {
    const COUNT: u32 = 2_000;
    let _one = ONE.lock().unwrap_or_else(PoisonError::into_inner);
    let folder = std::env::temp_dir().join(format!("margay-dpdk-{}xpcap", std::process::id()));
    std::fs::create_dir_all(&folder).map_err(|error| error.to_string())?;
    let (from, to) = (folder.join("from.pcap"), folder.join("to.pcap"));
    let replayed: Vec<Vec<u8>> = (0..COUNT).map(|number| bytes(number, 60 + number as usize * 131 % 1440)).collect();
    std::fs::write(&from, capture::of(replayed.iter().map(|packet| &packet[..]))).unwrap();
    let name = std::process::id();
    let device = format!("net_pcap{name},rx_pcap={},tx_pcap={}", from.display(), to.display());
    let mut end = lone(&device)?;
    let (mut received, start) = (0, Clock::now());
    while received < replayed.len() {
        assert!(start.elapsed() < LIMIT, "{received} of {COUNT}: {:?}", end.queue);
        for Received { buf, .. } in end.receive() {
            assert!(buf[..] == replayed[received][..], "frame {received}");
            received += 1;
        }
    }
    assert!(end.receive().is_empty(), "and no more");
    let gathers = end.queue().link().offloads.gathers > 1;
    let mut expected = Vec::new();
    for number in 0..COUNT {
        let frame = frame(&end.heap, gathers, number, 8 + number as usize * 131 % 1400);
        expected.push([&frame.header[..], &frame.payload.to_vec()].concat());
        let mut waiting = VecDeque::from([frame]);
        while !waiting.is_empty() {
            assert!(start.elapsed() < LIMIT, "{number} of {COUNT}: {:?}", end.queue);
            end.send(&mut waiting);
        }
    }
    assert_eq!((end.counter("tx_frames"), end.counter("tx_dropped")), (COUNT.into(), 0));
    drop(end.queue.take());
    assert_eq!(end.heap.stats().pinned, 0, "all memory comes back");
    assert!(capture::packets(&std::fs::read(&to).unwrap()) == expected, "the file has what was sent");
    std::fs::remove_dir_all(folder).map_err(|error| error.to_string())
}

/// A TCP segment of so many bytes, to be cut up into those of 1448; its payload lies in pieces, with a few bytes of it beside
/// the headers if `inline`.
fn long_segment(heap: &Heap, number: u32, len: usize, inline: bool) -> (Frame, Vec<u8>) {
    let data = bytes(number, len);
    let mut header = vec![0xff; 6];
    header.extend([2, 0, 0, 0, 0x79, 9, 8, 0, 0x45, 0]);
    header.extend((52 + len as u16).to_be_bytes());
    header.extend([0, 0, 0x40, 0, 64, 6, 0, 0, 10, 79, 0, 1, 10, 79, 0, 2]);
    let sum = libos_net::wire::Checksum::new().add(&header[14..]).finish();
    header[24..26].copy_from_slice(&sum.to_be_bytes());
    header.extend([0, 7, 0, 9, 0, 0, 0, 1, 0, 0, 0, 1, 0x80, 0x18, 1, 0]);
    let [from, to] = [[10, 79, 0, 1], [10, 79, 0, 2]].map(std::net::IpAddr::from);
    let pseudo = libos_net::wire::pseudo_header(from, to, libos_net::wire::Protocol::TCP, 32 + len).partial();
    header.extend(pseudo.to_be_bytes());
    header.extend([0, 0, 1, 1, 8, 10, 1, 2, 3, 4, 5, 6, 7, 8]);
    let expected = [&header[..], &data].concat();
    let at = if inline { len.min(100) } else { 0 };
    header.extend(&data[..at]);
    let mut pieces = Sga::new();
    data[at..].chunks(20_000).for_each(|piece| pieces.push(heap.copy(piece).unwrap()).unwrap());
    let checksum = Some(libos_net::ChecksumAt { start: 34, field: 16 });
    (Frame { header: heap.copy(&header).unwrap(), payload: pieces, checksum, segment_size: 1448 }, expected)
}

/// Where both sides of virtio have agreed on it, long segments arrive whole, in pieces of the driver's that are put together;
/// where they have not, it is not offered.
fn long_segments() -> Opened<()> {
    let _one = ONE.lock().unwrap_or_else(PoisonError::into_inner);
    for kind in [Kind::Virtio, Kind::Vhost, Kind::Memif, Kind::Ring] {
        let (_wire, mut ends) = ends(kind)?;
        let offered = ends.each_mut().map(|end| end.queue().link().offloads.segments);
        assert_eq!(offered, [None, None], "{kind:?}: nobody has agreed on it");
    }
    let (_wire, mut ends) = ends(Kind::VhostLong)?;
    let most = ends[1].queue().link().offloads.segments.expect("both sides have agreed on it");
    assert_eq!(ends[0].queue().link().offloads.segments, None, "vhost does not send long segments");
    for (number, len) in [3_000, 1_449, 20_000, 40_000, most, 65_000].into_iter().enumerate() {
        let (frame, expected) = long_segment(&ends[1].heap, number as u32, len, number % 2 == 1);
        let (mut waiting, start) = (VecDeque::from([frame]), Clock::now());
        let received = loop {
            assert!(start.elapsed() < LIMIT, "{len} bytes: {:?} {:?}", ends[0].queue, ends[1].queue);
            ends[1].send(&mut waiting);
            if let Some(received) = ends[0].receive().pop_front() {
                break received;
            }
        };
        // The sum is not filled in, or it is: the frame has not left this host.
        let (mut got, mut wanted) = (received.buf.to_vec(), expected);
        [&mut got, &mut wanted].into_iter().for_each(|bytes| bytes[50..52].fill(0));
        assert!(got == wanted, "{len} bytes");
        assert!(received.verified, "{len} bytes");
    }
    Ok(())
}

/// As many of the longest as come in one burst, longer ones than ours: the driver has buffers for all of them. Else it would
/// drop the last.
fn long_burst() -> Opened<()> {
    const COUNT: u32 = 40;
    const MOST: usize = 65_535 - 52;
    let _one = ONE.lock().unwrap_or_else(PoisonError::into_inner);
    let (_wire, mut ends) = ends(Kind::VhostLong)?;
    let (mut waiting, expected): (VecDeque<Frame>, Vec<Vec<u8>>) =
        (0..COUNT).map(|number| long_segment(&ends[1].heap, number, MOST, false)).unzip();
    ends[1].send(&mut waiting);
    assert!(waiting.is_empty(), "the ring has room for all of them: {:?}", ends[1].queue);
    let (mut received, start) = (0, Clock::now());
    while received < COUNT as usize {
        assert!(start.elapsed() < LIMIT, "{received} of {COUNT} have come: {:?}", ends[0].queue);
        for Received { buf, .. } in ends[0].receive() {
            assert!(buf[HEADER_LEN..] == expected[received][HEADER_LEN..], "frame {received} is another");
            received += 1;
        }
    }
    Ok(())
}

#[test]
fn the_longest_segments_come_in_a_burst() {
    with("the_longest_segments_come_in_a_burst", long_burst());
}

#[test]
fn long_segments_go_whole_where_both_sides_agree() {
    with("long_segments_go_whole_where_both_sides_agree", long_segments());
}

#[test]
fn null_takes_all_and_brings_as_much() {
    with("null", null());
}

#[test]
fn pcap_replays_a_file_and_writes_another() {
    with("pcap", pcap());
}

#[test]
fn a_full_ring_and_a_full_heap_lose_nothing() {
    for kind in [Kind::Memif, Kind::Vhost, Kind::Virtio] {
        with("a_full_ring_and_a_full_heap_lose_nothing", pressed(kind));
    }
}

fn with(test: &str, result: Opened<()>) {
    if let Err(why) = result {
        println!("SKIP dpdk/{test}: {why}");
    }
}

macro_rules! exchanges {
    ($($name:ident: $kind:expr, $count:expr;)*) => {
        $(#[test]
        fn $name() {
            with(stringify!($name), exchange($kind, $count));
        })*
    };
}

exchanges! {
    ring: Kind::Ring, 20_000;
    memif: Kind::Memif, 20_000;
    memif_zero_copy: Kind::MemifZeroCopy, 20_000;
    virtio_user: Kind::Virtio, 20_000;
    vhost_long: Kind::VhostLong, 20_000;
    vhost: Kind::Vhost, 20_000;
    af_packet: Kind::AfPacket, 5_000;
    af_xdp: Kind::AfXdp, 5_000;
    tap: Kind::Tap, 5_000;
}
