//! A link that a test makes: our end in one network namespace, the kernel's in another, or both ends of a TAP interface.

#![allow(dead_code, reason = "each test program uses a part of it")]

use std::collections::VecDeque;
use std::io::Write;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, UdpSocket};
use std::process::{Command, Stdio};
use std::sync::Once;
use std::sync::atomic::{AtomicU32, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use libos_mem::{Heap, Plan, Reservation, Reserves, Source};
use libos_net::wire::{Checksum, EtherType, EthernetHeader, Ipv4Header, Mac, Protocol, UdpHeader};
use libos_net::{Device, Frame, Received};
use pdpix::{Buf, Instant, Sga};
use zerocopy::{FromBytes, IntoBytes};

pub const OUR_MAC: Mac = Mac([2, 0, 0, 0, 0x77, 1]);
pub const KERNEL_MAC: Mac = Mac([2, 0, 0, 0, 0x77, 2]);
pub const OURS: Ipv4Addr = Ipv4Addr::new(10, 77, 0, 1);
pub const KERNELS: Ipv4Addr = Ipv4Addr::new(10, 77, 0, 2);
pub const OURS_V6: Ipv6Addr = Ipv6Addr::new(0xfd77, 0, 0, 0, 0, 0, 0, 1);
pub const KERNELS_V6: Ipv6Addr = Ipv6Addr::new(0xfd77, 0, 0, 0, 0, 0, 0, 2);

/// Two network namespaces; `near` is where our devices are opened. Gone when dropped.
pub struct Link {
    pub near: String,
    pub far: String,
}

impl Link {
    /// A veth pair: `near0` with our address on the link and no IP of the kernel's; `far0` with the kernel's. `None`, and
    /// said: this process may not, or there is no iproute2.
    pub fn veth(test: &str) -> Option<Link> {
        let link = Link::namespaces(test)?;
        let (near, far) = (&link.near, &link.far);
        ip(&format!(
            "link add near0 netns {near} address {OUR_MAC} type veth peer name far0 netns {far} address {KERNEL_MAC}"
        ));
        ip(&format!("-n {near} link set near0 up"));
        ip(&format!("-n {far} addr add {KERNELS}/24 dev far0"));
        ip(&format!("-n {far} addr add {KERNELS_V6}/64 dev far0 nodad"));
        ip(&format!("-n {far} link set far0 up"));
        Some(link)
    }

    /// One namespace for both ends of a TAP interface.
    pub fn one(test: &str) -> Option<Link> {
        let mut link = Link::namespaces(test)?;
        ip(&format!("netns del {}", link.far));
        link.far = link.near.clone();
        Some(link)
    }

    /// Two namespaces with nothing in them but loopback.
    pub fn namespaces(test: &str) -> Option<Link> {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        static STALE: Once = Once::new();
        if !rustix::process::geteuid().is_root() {
            return skip(test, "network namespaces take root");
        }
        if !try_ip("-V") {
            return skip(test, "there is no ip in the path (Debian: iproute2)");
        }
        STALE.call_once(remove_stale);
        let number = COUNT.fetch_add(1, Ordering::Relaxed);
        let name = |end| format!("mxdp-{}-{number}-{end}", std::process::id());
        let link = Link { near: name("near"), far: name("far") };
        if !try_ip(&format!("netns add {}", link.near)) {
            return skip(test, "network namespaces cannot be made here");
        }
        ip(&format!("netns add {}", link.far));
        for namespace in [&link.near, &link.far] {
            ip(&format!("-n {namespace} link set lo up"));
        }
        Some(link)
    }

    /// Starts a client of the kernel's that asks our port 7 `count` times, `pause` between, and gives how often it was
    /// answered.
    pub fn ask(&self, count: usize, pause: Duration) -> JoinHandle<usize> {
        let far = self.far.clone();
        std::thread::spawn(move || {
            enter(&far);
            let socket = UdpSocket::bind((KERNELS, 0)).unwrap();
            socket.set_read_timeout(Some(Duration::from_secs(5))).unwrap();
            let mut bytes = [0; 2048];
            let mut ask = |index: usize| {
                std::thread::sleep(pause);
                let question = vec![index as u8; 10 + index];
                socket.send_to(&question, (OURS, 7)).ok()?;
                let len = socket.recv(&mut bytes).ok()?;
                (bytes[..len] == question).then_some(())
            };
            (0..count).filter_map(&mut ask).count()
        })
    }
}

impl Drop for Link {
    fn drop(&mut self) {
        try_ip(&format!("netns del {}", self.near));
        if self.far != self.near {
            try_ip(&format!("netns del {}", self.far));
        }
    }
}

/// Removes the namespaces of tests that were killed.
fn remove_stale() {
    for entry in std::fs::read_dir("/var/run/netns").into_iter().flatten().flatten() {
        let name = entry.file_name().to_string_lossy().into_owned();
        let owner = name.strip_prefix("mxdp-").and_then(|rest| rest.split('-').next()?.parse::<u32>().ok());
        if owner.is_some_and(|pid| !std::path::Path::new(&format!("/proc/{pid}")).exists()) {
            try_ip(&format!("netns del {name}"));
        }
    }
}

/// Says that a test is not done, past the capture of its output.
pub fn skip<T>(test: &str, reason: &str) -> Option<T> {
    let _ = writeln!(std::io::stderr(), "SKIP xdp/{test}: {reason}");
    None
}

/// The same, for want of AF_XDP alone.
pub fn skip_af_xdp<T>(test: &str, reason: &str) -> Option<T> {
    let _ = writeln!(std::io::stderr(), "SKIP af_xdp/{test}: {reason}");
    None
}

pub fn ip(words: &str) {
    assert!(try_ip(words), "ip {words}");
}

pub fn try_ip(words: &str) -> bool {
    let mut command = Command::new("ip");
    command.args(words.split(' ')).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    command.status().is_ok_and(|status| status.success())
}

/// Moves the calling thread into a network namespace.
pub fn enter(namespace: &str) {
    use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};
    let file = std::fs::File::open(format!("/var/run/netns/{namespace}")).unwrap();
    move_into_link_name_space(std::os::fd::AsFd::as_fd(&file), Some(LinkNameSpaceType::Network)).unwrap();
}

/// Runs a test's body on a thread of its own, which may enter namespaces; with a limit, so that nothing hangs.
pub fn on_a_thread(body: impl FnOnce() + Send + 'static) {
    on_a_thread_for(Duration::from_secs(60), body);
}

/// As [`on_a_thread`], with a limit of its own.
pub fn on_a_thread_for(limit: Duration, body: impl FnOnce() + Send + 'static) {
    let (done, is_done) = std::sync::mpsc::channel();
    let thread = std::thread::spawn(move || {
        body();
        let _ = done.send(());
    });
    let waited = is_done.recv_timeout(limit);
    if waited != Err(std::sync::mpsc::RecvTimeoutError::Timeout) {
        return thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic));
    }
    panic!("the test hangs");
}

/// A heap of 16 MiB with the usual reserves.
pub fn heap() -> Heap {
    let heap_size = 16 << 20;
    let plan = Plan { heaps: 1, heap_size, reserves: Reserves::usual(heap_size), source: Source::Ordinary };
    Reservation::new(plan).unwrap().heap(0).unwrap()
}

/// Time since the first call.
pub fn now() -> Instant {
    static START: std::sync::OnceLock<std::time::Instant> = std::sync::OnceLock::new();
    Instant::from_nanos(START.get_or_init(std::time::Instant::now).elapsed().as_nanos() as u64 + 1)
}

pub fn counter(device: &dyn Device, name: &str) -> u64 {
    device.counters().into_iter().find(|(other, _)| *other == name).unwrap_or_else(|| panic!("no counter {name}")).1
}

/// A datagram of ours to the kernel, headers in one piece and the payload in `pieces`.
pub fn datagram(heap: &Heap, from: u16, to: u16, pieces: &[&[u8]]) -> Frame {
    let payload_len: usize = pieces.iter().map(|piece| piece.len()).sum();
    let mut header = Vec::new();
    header.extend(ethernet(EtherType::IPV4));
    let mut ip = ipv4(Protocol::UDP, 8 + payload_len, OURS, KERNELS);
    ip.checksum = Checksum::new().add(ip.as_bytes()).finish().into();
    header.extend(ip.as_bytes());
    let udp = UdpHeader {
        source: from.into(),
        destination: to.into(),
        len: (8 + payload_len as u16).into(),
        checksum: 0.into(),
    };
    header.extend(udp.as_bytes());
    let mut payload = Sga::new();
    for piece in pieces {
        payload.push(heap.copy(piece).unwrap()).unwrap();
    }
    Frame { header: heap.copy(&header).unwrap(), payload, checksum: None, segment_size: 0 }
}

fn ethernet(ethertype: EtherType) -> Vec<u8> {
    EthernetHeader { destination: KERNEL_MAC, source: OUR_MAC, ethertype }.as_bytes().to_vec()
}

fn ipv4(protocol: Protocol, len: usize, source: Ipv4Addr, destination: Ipv4Addr) -> Ipv4Header {
    Ipv4Header {
        version_ihl: 0x45,
        traffic_class: 0,
        total_len: (20 + len as u16).into(),
        identification: 0.into(),
        flags_fragment: Ipv4Header::DONT_FRAGMENT.into(),
        ttl: 64,
        protocol,
        checksum: 0.into(),
        source: source.octets(),
        destination: destination.octets(),
    }
}

/// Address and port of a datagram's destination, and its payload.
pub fn datagram_of(frame: &[u8]) -> Option<(IpAddr, u16, &[u8])> {
    let (ethernet, rest) = EthernetHeader::ref_from_prefix(frame).ok()?;
    let (ip, rest) = Ipv4Header::ref_from_prefix(rest).ok()?;
    let is_udp = ethernet.ethertype == EtherType::IPV4 && ip.protocol == Protocol::UDP;
    let (udp, payload) = UdpHeader::ref_from_prefix(rest).ok().filter(|_| is_udp)?;
    let payload = payload.get(..usize::from(udp.len.get()) - 8)?;
    Some((Ipv4Addr::from(ip.destination).into(), udp.destination.get(), payload))
}

/// What answers on our side of the link: ARP requests for `OURS`, and datagrams to its port 7 (RFC 862).
pub fn answer(heap: &Heap, received: &Buf) -> Option<Frame> {
    let mut bytes = received.to_vec();
    let to_ours = |at: &[u8]| at == OURS.octets();
    match [bytes[12], bytes[13]] {
        // RFC 826: a request (1) for our address.
        [0x08, 0x06] if bytes[21] == 1 && to_ours(&bytes[38..42]) => {
            let asker: Vec<u8> = bytes[22..32].to_vec();
            bytes[21] = 2;
            bytes[22..28].copy_from_slice(&OUR_MAC.0);
            bytes[28..32].copy_from_slice(&OURS.octets());
            bytes[32..42].copy_from_slice(&asker);
        }
        [0x08, 0x00] if bytes[23] == 17 && bytes[36..38] == [0, 7] && to_ours(&bytes[30..34]) => {
            let back = [&bytes[30..34], &bytes[26..30], &bytes[36..38], &bytes[34..36]].concat();
            bytes[26..38].copy_from_slice(&back);
            bytes[40..42].fill(0); // no checksum
        }
        _ => return None,
    }
    bytes[0..6].copy_from_slice(&received[6..12]);
    bytes[6..12].copy_from_slice(&OUR_MAC.0);
    Some(Frame { header: heap.copy(&bytes).unwrap(), payload: Sga::new(), checksum: None, segment_size: 0 })
}

/// Receives and answers until `until` says that it is enough, which is shown every frame.
pub fn serve(device: &mut dyn Device, heap: &Heap, mut until: impl FnMut(Option<&Received>) -> bool) {
    let (mut received, mut frames) = (VecDeque::new(), VecDeque::new());
    loop {
        device.receive(now(), &mut received, 64).unwrap();
        for frame in received.drain(..) {
            frames.extend(answer(heap, &frame.buf));
            if until(Some(&frame)) {
                return;
            }
        }
        device.transmit(now(), &mut frames);
        device.flush(now());
        if until(None) {
            return;
        }
    }
}

/// Waits until the device has let go of everything.
pub fn drain(device: &mut dyn Device) {
    for _ in 0..2000 {
        if device.in_flight() == 0 {
            return;
        }
        device.flush(now());
        std::thread::sleep(Duration::from_millis(1));
    }
    panic!("{} frames are in flight for ever: {:?}", device.in_flight(), device.counters());
}
