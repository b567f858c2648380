//! IP, ICMP and UDP of ours and the Linux kernel's: echoes, errors, neighbours, routers, and how long packets may be.

mod kernel;
mod link;

use std::io::ErrorKind;
use std::net::{SocketAddr, UdpSocket};
use std::process::Command;
use std::thread::JoinHandle;
use std::time::Duration;

use kernel::*;
use libos_net::LineSettings;
use pdpix::{Error, Network, Op, SocketKind};
use rustix::net::{AddressFamily, RecvFlags, SendFlags, SocketType, ipproto};

fn join<T>(host: &mut Host, thread: JoinHandle<T>) -> T {
    host.until("the kernel's side", |_| thread.is_finished().then_some(()));
    thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
}

/// A UDP socket of the kernel's, with its answers within five seconds.
fn kernels_socket(lab: &Lab, is_v6: bool) -> UdpSocket {
    let at = lab.kernels(is_v6);
    let socket = lab.kernel(move || UdpSocket::bind((at, 0)).unwrap());
    socket.set_read_timeout(Some(Duration::from_secs(5))).unwrap();
    socket
}

#[test]
fn datagrams_are_echoed_both_ways() {
    on_a_thread(|| {
        let Some((lab, mut host)) = Lab::open("datagrams", Setup::default()) else { return };
        for is_v6 in [false, true] {
            let longest = if is_v6 { 1452 } else { 1472 };
            let theirs = kernels_socket(&lab, is_v6);
            let to = theirs.local_addr().unwrap();
            let h = host.socket(SocketKind::Datagram);
            let at = host.net.bind(h, SocketAddr::new(ours(is_v6), 0)).unwrap();
            for len in [1, 100, longest] {
                // The kernel asks, and we answer.
                let question: Vec<u8> = (0..len).map(|i| i as u8).collect();
                theirs.send_to(&question, at).unwrap();
                let popped = host.pop(h).unwrap();
                assert_eq!((popped.from, popped.sga.to_vec()), (Some(to), question.clone()));
                host.push_to(h, &question, to).unwrap();
                host.step();
                let mut answer = vec![0; 2000];
                assert_eq!(theirs.recv_from(&mut answer).unwrap(), (len, at));
                assert_eq!(answer[..len], question);
            }
            // In fragments we only receive.
            let long: Vec<u8> = (0..20_000).map(|i| (i / 3) as u8).collect();
            theirs.send_to(&long, at).unwrap();
            assert_eq!(host.pop(h).unwrap().sga.to_vec(), long);
            assert_eq!(host.push_to(h, &long, to), Err(Error::MessageSize));
            host.net.close(h);
        }
        assert_eq!(host.counters().fragment_reassembled, 2);
        host.end();
    });
}

#[test]
fn a_port_where_nobody_is() {
    on_a_thread(|| {
        let Some((lab, mut host)) = Lab::open("port_unreachable", Setup::default()) else { return };
        for is_v6 in [false, true] {
            // The kernel is told.
            let theirs = kernels_socket(&lab, is_v6);
            theirs.connect((ours(is_v6), 4711)).unwrap();
            theirs.send(b"is anybody there?").unwrap();
            let thread = lab.meanwhile(move || theirs.recv(&mut [0; 10]).map_err(|error| error.kind()));
            assert_eq!(join(&mut host, thread), Err(ErrorKind::ConnectionRefused));
            // And so are we.
            let free = SocketAddr::new(lab.kernels(is_v6), 4711);
            let h = host.socket(SocketKind::Datagram);
            let op = host.begin(h, Op::Connect(free)).unwrap();
            host.wait(op).unwrap();
            host.push(h, b"is anybody there?").unwrap();
            assert_eq!(host.pop(h).unwrap_err(), Error::ConnectionRefused);
            host.net.close(h);
        }
        host.end();
    });
}

/// Asks for an echo as ping does. Gives what came back, beyond the header of ICMP.
fn ping(to: SocketAddr, payload: &[u8]) -> Vec<u8> {
    let (family, protocol, kind, answer, ip_len) = match to {
        SocketAddr::V4(_) => (AddressFamily::INET, ipproto::ICMP, 8, 0, 20),
        SocketAddr::V6(_) => (AddressFamily::INET6, ipproto::ICMPV6, 128, 129, 0),
    };
    let socket = rustix::net::socket(family, SocketType::RAW, Some(protocol)).unwrap();
    rustix::net::sockopt::set_socket_timeout(
        &socket,
        rustix::net::sockopt::Timeout::Recv,
        Some(Duration::from_secs(5)),
    )
    .unwrap();
    rustix::net::connect(&socket, &to).unwrap();
    let mut request = vec![kind, 0, 0, 0, 0x12, 0x34, 0, 1];
    request.extend(payload);
    if to.is_ipv4() {
        let sum = libos_net::wire::Checksum::new().add(&request).finish();
        request[2..4].copy_from_slice(&sum.to_be_bytes());
    }
    rustix::net::send(&socket, &request, SendFlags::empty()).unwrap();
    loop {
        let mut bytes = vec![0; 4096];
        let (len, _) = rustix::net::recv(&socket, &mut bytes[..], RecvFlags::empty()).expect("no answer to a ping");
        let message = &bytes[ip_len..len];
        if message[0] == answer && message[4..8] == request[4..8] {
            return message[8..].to_vec();
        }
    }
}

#[test]
fn pings_are_answered() {
    on_a_thread(|| {
        let Some((lab, mut host)) = Lab::open("ping", Setup::default()) else { return };
        for is_v6 in [false, true] {
            for len in [0, 56, 1400, 1472 - 20 * usize::from(is_v6)] {
                let payload: Vec<u8> = (0..len).map(|i| i as u8 ^ 0x5a).collect();
                let (to, sent) = (SocketAddr::new(ours(is_v6), 0), payload.clone());
                let thread = lab.meanwhile(move || ping(to, &sent));
                assert_eq!(join(&mut host, thread), payload);
            }
        }
        assert_eq!(host.counters().icmp_echoes, 8);
        host.end();
    });
}

/// What the kernel knows of us as a neighbour: `REACHABLE`, `STALE` and so on.
fn kernels_neighbour(lab: &Lab, is_v6: bool) -> String {
    let shown = Command::new("ip")
        .args(["-n", &lab.link.far, "neigh", "show", "to", &ours(is_v6).to_string()])
        .output()
        .unwrap();
    String::from_utf8(shown.stdout).unwrap().trim().to_string()
}

#[test]
fn the_kernel_asks_again_for_a_neighbour_and_finds_us() {
    on_a_thread(|| {
        // Half a second after a confirmation the entry is old; a second after its next use the kernel asks.
        let setup = Setup { kind: Kind::Tap { offload: false }, ..Setup::default() };
        let Some((lab, mut host)) = Lab::open("neighbours_age", setup) else { return };
        for family in ["ipv4", "ipv6"] {
            for (key, value) in
                [("base_reachable_time_ms", "500"), ("delay_first_probe_time", "1"), ("gc_stale_time", "1")]
            {
                sysctl(&lab.link.far, &format!("{family}/neigh/far0/{key}"), value);
            }
        }
        let sockets = [false, true].map(|is_v6| {
            let h = host.socket(SocketKind::Datagram);
            let at = host.net.bind(h, SocketAddr::new(ours(is_v6), 0)).unwrap();
            (h, at, kernels_socket(&lab, is_v6))
        });
        let mut states: [Vec<String>; 2] = Default::default();
        for round in 0..50_u8 {
            for (is_v6, (h, at, theirs)) in sockets.iter().enumerate() {
                // Nothing goes back: only answers of ARP and NDP tell the kernel that we are there.
                theirs.send_to(&[round], at).unwrap();
                assert_eq!(host.pop(*h).unwrap().sga.to_vec(), [round]);
                let state = kernels_neighbour(&lab, is_v6 == 1);
                assert!(state.contains(&OUR_MAC.to_string()), "{state}");
                let word = state.rsplit(' ').next().unwrap().to_string();
                if states[is_v6].last() != Some(&word) {
                    states[is_v6].push(word);
                }
            }
            host.live(Duration::from_millis(80));
        }
        for states in &states {
            let confirmed = states.iter().filter(|state| *state == "REACHABLE").count();
            assert!(confirmed >= 2 && states.iter().all(|state| state != "FAILED"), "{states:?}");
        }
        host.end();
    });
}

#[test]
fn a_neighbour_that_moves_is_found_at_its_new_address() {
    let notices = if is_long() { vec!["1", "0"] } else { vec!["1"] };
    on_a_thread_for(Duration::from_secs(120), move || {
        for notice in notices {
            let Some((lab, mut host)) = Lab::open("moved", Setup::default()) else { return };
            let far = &lab.link.far;
            sysctl(far, "ipv4/conf/far0/arp_notify", notice);
            sysctl(far, "ipv6/conf/far0/ndisc_notify", notice);
            let far = far.clone();
            for is_v6 in [false, true] {
                carry(&lab, &mut host, &[Meeting::new(Role::Client, 1000, 1000)], Duration::from_secs(10));
                let listener = lab.listener(is_v6);
                let h = host.connect(listener.local_addr().unwrap()).unwrap();
                let (mut stream, _) = listener.accept().unwrap();
                host.push(h, b"before").unwrap();
                host.live(Duration::from_millis(20));
                let mac = format!("02:00:00:00:99:0{}", 1 + u8::from(is_v6));
                ip(&format!("-n {far} link set far0 address {mac}"));
                if notice == "1" {
                    // The kernel tells when an interface comes up.
                    ip(&format!("-n {far} link set far0 down"));
                    ip(&format!("-n {far} link set far0 up"));
                    let _ = try_ip(&format!("-n {far} addr add {KERNELS_V6}/64 dev far0 nodad"));
                }
                host.live(Duration::from_millis(100));
                host.push(h, b" and after").unwrap();
                host.net.finish(h).unwrap();
                let thread = lab.meanwhile(move || {
                    let mut all = Vec::new();
                    std::io::Read::read_to_end(&mut stream, &mut all).map(|_| all)
                });
                assert_eq!(join(&mut host, thread).unwrap(), b"before and after");
                host.net.close(h);
            }
            host.end();
        }
    });
}

/// Meetings with something long each way.
fn long_both_ways() -> Vec<Meeting> {
    let mut meetings = Vec::new();
    for role in [Role::Client, Role::Server] {
        let one = Meeting::new(role, 300_000, 300_000);
        meetings.extend([one, one.v6()]);
    }
    meetings
}

#[test]
fn links_of_many_mtus() {
    on_a_thread(|| {
        for mtu in [576, 700, 1280, 1499, 1514, 9000] {
            let setup = Setup { mtu: Some(mtu), seed: mtu as u64, ..Setup::default() };
            let Some((lab, mut host)) = Lab::open("mtu", setup) else { return };
            // A link of IPv6 carries 1280 bytes at least.
            let meetings = long_both_ways().into_iter().filter(|meeting| !meeting.is_v6 || mtu >= 1280);
            carry(&lab, &mut host, &meetings.collect::<Vec<_>>(), Duration::from_secs(20));
            let counters = host.counters();
            assert_eq!(
                (counters.tcp_black_holes, counters.icmp_errors_in),
                (0, 0),
                "{mtu}: {:?}",
                host.busy_counters()
            );
            host.end();
        }
    });
}

#[test]
fn a_router_says_how_long_packets_may_be() {
    on_a_thread(|| {
        for mtu in [1400, 1280] {
            let setup = Setup { router: Some(mtu), ..Setup::default() };
            let Some((lab, mut host)) = Lab::open("path_mtu", setup) else { return };
            carry(&lab, &mut host, &long_both_ways(), Duration::from_secs(20));
            let counters = host.counters();
            assert!(counters.icmp_errors_in >= 2, "{:?}", host.busy_counters());
            assert_eq!(counters.tcp_black_holes, 0, "it was told, and need not guess");
            host.end();
        }
    });
}

#[test]
fn a_router_that_says_nothing_swallows_long_packets() {
    on_a_thread(|| {
        let line = LineSettings {
            frame_len_max: Some(1300),
            latency: Duration::from_millis(1)..=Duration::from_millis(1),
            ..LineSettings::default()
        };
        let setup = Setup {
            wire: Some([line.clone(), line]),
            sysctls: vec![("ipv4/tcp_mtu_probing", "1")],
            ..Setup::default()
        };
        let Some((lab, mut host)) = Lab::open("black_hole", setup) else { return };
        carry(&lab, &mut host, &long_both_ways(), Duration::from_secs(40));
        let [there, back] = lab.wire().counters();
        assert!(there.too_long > 0 && back.too_long > 0, "{there:?} {back:?}");
        assert!(host.counters().tcp_black_holes > 0);
        host.end();
    });
}
