//! AF_XDP: which frames come to us and which the kernel keeps, and that nothing of ours stays on an interface.

mod link;

use std::collections::{BTreeMap, VecDeque};
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, TcpListener, TcpStream, UdpSocket};
use std::process::{Command, Stdio};
use std::thread::JoinHandle;
use std::time::Duration;

use libos_mem::{Plan, Reservation, Reserves, Source};
use libos_net::{Device, Frame};
use libos_xdp::{OpenError, Port, PortRange, Share, Transport, Xsk, XskSettings};
use link::*;
use pdpix::Sga;

/// A link where AF_XDP can be had; else it is said what is missing.
fn link(test: &str) -> Option<Link> {
    if let Err(why) = libos_xdp::is_built() {
        return skip_af_xdp(test, why);
    }
    let link = Link::veth(test)?;
    enter(&link.near);
    match Xsk::open(XskSettings::new("near0", &[OURS.into()]), heap()) {
        Err(OpenError::Unsupported(why)) => skip_af_xdp(test, &why),
        xsk => xsk.map(|_| Some(link)).unwrap(),
    }
}

/// The kernel's near side has this address, and a server that echoes on TCP port 2222 of it.
fn kernels_server(link: &Link, address: Ipv4Addr) -> JoinHandle<()> {
    ip(&format!("-n {} addr add {address}/24 dev near0", link.near));
    let listener = TcpListener::bind((address, 2222)).unwrap();
    std::thread::spawn(move || {
        let (mut stream, _) = listener.accept().unwrap();
        let mut bytes = [0; 5];
        stream.read_exact(&mut bytes).unwrap();
        stream.write_all(&bytes).unwrap();
    })
}

/// A client of that server, and of our port 7.
fn clients(link: &Link, server: Ipv4Addr) -> (JoinHandle<()>, JoinHandle<usize>) {
    let far = link.far.clone();
    let tcp = std::thread::spawn(move || {
        enter(&far);
        let mut stream = TcpStream::connect((server, 2222)).unwrap();
        stream.set_read_timeout(Some(Duration::from_secs(5))).unwrap();
        stream.write_all(b"hello").unwrap();
        let mut bytes = [0; 5];
        stream.read_exact(&mut bytes).unwrap();
        assert_eq!(&bytes, b"hello");
    });
    (tcp, link.ask(5, Duration::ZERO))
}

#[test]
fn the_kernel_keeps_what_is_not_for_our_address() {
    on_a_thread(|| {
        let Some(link) = link("the_kernel_keeps_what_is_not_for_our_address") else { return };
        let heap = heap();
        let mut xsk = Xsk::open(XskSettings::new("near0", &[OURS.into()]), heap.clone()).unwrap();
        let theirs = Ipv4Addr::new(10, 77, 0, 3);
        let server = kernels_server(&link, theirs);
        let (tcp, ours) = clients(&link, theirs);
        serve(&mut xsk, &heap, |frame| {
            if let Some(frame) = frame {
                let bytes = &frame.buf;
                let for_them = bytes[30..34] == theirs.octets() || bytes[38..42] == theirs.octets();
                assert!(!for_them, "a frame of the kernel's: {bytes:?}");
            }
            tcp.is_finished() && ours.is_finished()
        });
        tcp.join().expect("the kernel's connection");
        assert_eq!(ours.join().unwrap(), 5);
        server.join().unwrap();
    });
}

#[test]
fn a_port_of_a_shared_address_is_ours_and_the_rest_the_kernels() {
    on_a_thread(|| {
        let Some(link) = link("a_port_of_a_shared_address_is_ours_and_the_rest_the_kernels") else { return };
        let heap = heap();
        let ours_alone = vec![PortRange { transport: Transport::Udp, first: 7, last: 7 }];
        let settings = XskSettings { share: Share::Ports(ours_alone), ..XskSettings::new("near0", &[OURS.into()]) };
        let mut xsk = Xsk::open(settings, heap.clone()).unwrap();
        let server = kernels_server(&link, OURS);
        let (tcp, ours) = clients(&link, OURS);
        let mut kinds = BTreeMap::new();
        serve(&mut xsk, &heap, |frame| {
            if let Some(frame) = frame {
                let kind = datagram_of(&frame.buf).map_or(0, |(_, port, _)| port);
                *kinds.entry(kind).or_insert(0) += 1;
            }
            tcp.is_finished() && ours.is_finished()
        });
        tcp.join().expect("the kernel's connection, to the same address");
        assert_eq!(ours.join().unwrap(), 5);
        server.join().unwrap();
        assert_eq!(kinds, BTreeMap::from([(7, 5)]), "questions to our port, and nothing else");

        // Who asks for a neighbour gets the answer, though the kernel gets it, too.
        let mut frames = VecDeque::from([who_has(&heap)]);
        xsk.transmit(now(), &mut frames);
        xsk.flush(now());
        let mut answer = None;
        let end = now() + Duration::from_secs(5);
        while answer.is_none() && now() < end {
            let mut received = VecDeque::new();
            xsk.receive(now(), &mut received, 64).unwrap();
            answer = received.pop_front();
        }
        let answer = answer.expect("no answer to ARP").buf;
        assert_eq!((&answer[20..22], &answer[22..28]), (&[0, 2][..], &KERNEL_MAC.0[..]));
    });
}

#[test]
fn errors_about_what_we_sent_are_copied() {
    on_a_thread(|| {
        let Some(link) = link("errors_about_what_we_sent_are_copied") else { return };
        let heap = heap();
        ip(&format!("-n {} addr add {OURS}/24 dev near0", link.near));
        let share = Share::Ports(vec![PortRange { transport: Transport::Udp, first: 7, last: 7 }]);
        let settings = XskSettings { share, ..XskSettings::new("near0", &[OURS.into()]) };
        let mut xsk = Xsk::open(settings, heap.clone()).unwrap();
        let mut frames = VecDeque::from([datagram(&heap, 7, 9, &[b"nobody listens there"])]);
        xsk.transmit(now(), &mut frames);
        let mut received = VecDeque::new();
        let end = now() + Duration::from_secs(5);
        // The kernel asks for our neighbourhood first, and gets its answer from itself.
        while received.is_empty() {
            assert!(now() < end, "nothing was copied");
            xsk.flush(now());
            xsk.receive(now(), &mut received, 64).unwrap();
        }
        let error = &received[0].buf;
        assert_eq!((error[23], error[34], error[35]), (1, 3, 3), "ICMP, unreachable, port");
        assert_eq!(error[26..30], KERNELS.octets());
    });
}

#[test]
fn ipv6_is_steered_too() {
    on_a_thread(|| {
        let Some(link) = link("ipv6_is_steered_too") else { return };
        let heap = heap();
        let mut xsk = Xsk::open(XskSettings::new("near0", &[OURS_V6.into()]), heap.clone()).unwrap();
        let theirs: Ipv6Addr = "fd77::3".parse().unwrap();
        ip(&format!("-n {} addr add {theirs}/64 dev near0 nodad", link.near));
        let listener = TcpListener::bind((theirs, 2222)).unwrap();
        let far = link.far.clone();
        let client = std::thread::spawn(move || {
            enter(&far);
            // The kernel's neighbour is found, and its connection made; ours is asked for.
            TcpStream::connect_timeout(&(theirs, 2222).into(), Duration::from_secs(5)).unwrap();
            UdpSocket::bind((KERNELS_V6, 0)).unwrap().send_to(b"hello", (OURS_V6, 7)).unwrap();
        });
        let mut solicitations = 0;
        let end = now() + Duration::from_secs(5);
        serve(&mut xsk, &heap, |frame| {
            if let Some(frame) = frame {
                // A solicitation (135) that asks for our address, and nothing else.
                assert_eq!((frame.buf[20], frame.buf[54]), (58, 135), "{:?}", frame.buf);
                assert_eq!(frame.buf[62..78], OURS_V6.octets());
                solicitations += 1;
            }
            solicitations > 0 && client.is_finished() || now() >= end
        });
        client.join().expect("the kernel's connection");
        assert!(solicitations > 0, "nobody asked for us");
        drop(listener);
    });
}

/// An ARP request for the kernel's address.
fn who_has(heap: &libos_mem::Heap) -> Frame {
    let mut bytes = vec![0xff; 6];
    bytes.extend(OUR_MAC.0);
    bytes.extend([8, 6, 0, 1, 8, 0, 6, 4, 0, 1]);
    bytes.extend(OUR_MAC.0);
    bytes.extend(OURS.octets());
    bytes.extend([0; 6]);
    bytes.extend(KERNELS.octets());
    Frame { header: heap.copy(&bytes).unwrap(), payload: Sga::new(), checksum: None, segment_size: 0 }
}

/// Whether the near interface has an XDP program.
fn has_program(link: &Link) -> bool {
    let shown = Command::new("ip").args(["-n", &link.near, "link", "show", "dev", "near0"]).output().unwrap();
    String::from_utf8_lossy(&shown.stdout).contains("prog/xdp")
}

#[test]
fn the_program_goes_with_its_owner_and_is_his_alone() {
    on_a_thread(|| {
        let Some(link) = link("the_program_goes_with_its_owner_and_is_his_alone") else { return };
        assert!(!has_program(&link), "left by an owner who was dropped");
        let first = Xsk::open(XskSettings::new("near0", &[OURS.into()]), heap()).unwrap();
        assert!(has_program(&link));
        let second = Xsk::open(XskSettings::new("near0", &[OURS.into()]), heap()).unwrap_err();
        assert!(matches!(&second, OpenError::BadSettings(why) if why.contains("another process")), "{second}");
        drop(first);
        assert!(!has_program(&link));
    });
}

/// Set for a process that is this program again: the namespace in which it is to open a socket.
const OWNER: &str = "MARGAY_TEST_OWNER";

/// Not a test by itself: what the killed process runs.
#[test]
fn owner() {
    let Ok(namespace) = std::env::var(OWNER) else { return };
    enter(&namespace);
    let xsk = Xsk::open(XskSettings::new("near0", &[OURS.into()]), heap());
    println!("\nopened {:?}", xsk.as_ref().map(drop));
    std::io::stdout().flush().unwrap();
    std::thread::sleep(Duration::from_secs(60));
}

#[test]
fn a_killed_owner_leaves_nothing() {
    on_a_thread(|| {
        let Some(link) = link("a_killed_owner_leaves_nothing") else { return };
        let mut owner = Command::new(std::env::current_exe().unwrap());
        owner.args(["--exact", "owner", "--nocapture", "--test-threads=1"]).env(OWNER, &link.near);
        let mut owner = owner.stdout(Stdio::piped()).stderr(Stdio::null()).spawn().unwrap();
        let mut lines = BufReader::new(owner.stdout.take().unwrap()).lines();
        let said = lines.find_map(|line| line.unwrap().strip_prefix("opened ").map(str::to_owned));
        assert_eq!(said.as_deref(), Some("Ok(())"));
        assert!(has_program(&link));
        owner.kill().unwrap(); // SIGKILL
        owner.wait().unwrap();
        let end = now() + Duration::from_secs(5);
        while has_program(&link) {
            assert!(now() < end, "the program outlives its owner");
            std::thread::sleep(Duration::from_millis(10));
        }
        Xsk::open(XskSettings::new("near0", &[OURS.into()]), heap()).unwrap();
    });
}

/// Puts a program on the interface that nobody owns, as kernels without BPF links leave it, through bpftool.
#[cfg(has_program)]
fn leave(link: &Link, object: &[u8], name: &str, mode: &str) -> bool {
    let mut loaded = aya::Ebpf::load(object).unwrap();
    let program: &mut aya::programs::Xdp = loaded.program_mut(name).unwrap().try_into().unwrap();
    program.load().unwrap();
    let id = program.info().unwrap().id().to_string();
    let mut bpftool = Command::new("ip");
    bpftool.args(["netns", "exec", &link.near, "bpftool", "net", "attach", mode, "id", &id, "dev", "near0"]);
    bpftool.status().is_ok_and(|status| status.success())
}

#[cfg(has_program)]
#[test]
fn a_program_that_was_left_is_removed_if_it_is_ours() {
    const OURS_LEFT: &[u8] = aya::include_bytes_aligned!(concat!(env!("OUT_DIR"), "/steer.bpf.o"));
    on_a_thread(|| {
        let test = "a_program_that_was_left_is_removed_if_it_is_ours";
        for mode in ["xdpdrv", "xdpgeneric"] {
            let Some(link) = link(test) else { return };
            if !leave(&link, OURS_LEFT, "margay_steer", mode) {
                return skip_af_xdp(test, "there is no bpftool (Debian: bpftool)").unwrap_or(());
            }
            assert!(has_program(&link));
            let heap = heap();
            let mut xsk = Xsk::open(XskSettings::new("near0", &[OURS.into()]), heap.clone()).unwrap();
            let client = link.ask(3, Duration::ZERO);
            serve(&mut xsk, &heap, |_| client.is_finished());
            assert_eq!(client.join().unwrap(), 3);
            drop(xsk);
            assert!(!has_program(&link));

            let object = std::env::temp_dir().join(format!("margay-foreign-{}.o", std::process::id()));
            let clang = std::env::var("CLANG").unwrap_or_else(|_| "clang".into());
            let mut compile = Command::new(clang);
            compile
                .args(["-O2", "-g", "-target", "bpf", "-x", "c", "-c", "-", "-o"])
                .arg(&object)
                .stdin(Stdio::piped());
            let mut compile = compile.spawn().unwrap();
            let source = b"__attribute__((section(\"xdp\"), used)) int foreign(void *frame) { return 2; }";
            compile.stdin.take().unwrap().write_all(source).unwrap();
            assert!(compile.wait().unwrap().success());
            let foreign = std::fs::read(&object).unwrap();
            std::fs::remove_file(&object).unwrap();
            assert!(leave(&link, &foreign, "foreign", mode));
            let refused = Xsk::open(XskSettings::new("near0", &[OURS.into()]), heap).unwrap_err();
            assert!(matches!(&refused, OpenError::BadSettings(why) if why.contains("foreign")), "{refused}");
            assert!(has_program(&link), "what is not ours stays");
        }
    });
}

#[test]
fn two_queues_share_one_memory() {
    on_a_thread(|| {
        let Some(link) = link("two_queues_share_one_memory") else { return };
        ip(&format!("-n {} link del near0", link.near));
        let (near, far) = (&link.near, &link.far);
        ip(&format!(
            "link add near0 netns {near} address {OUR_MAC} numrxqueues 2 numtxqueues 2 type veth peer name far0 netns {far} address {KERNEL_MAC} numrxqueues 2 numtxqueues 2"
        ));
        ip(&format!("-n {near} link set near0 up"));
        ip(&format!("-n {far} addr add {KERNELS}/24 dev far0"));
        ip(&format!("-n {far} link set far0 up"));
        let heap_size = 8 << 20;
        let plan = Plan { heaps: 2, heap_size, reserves: Reserves::usual(heap_size), source: Source::Ordinary };
        let reservation = Reservation::new(plan).unwrap();
        let heaps = [0, 1].map(|index| reservation.heap(index).unwrap());
        let addresses: [IpAddr; 1] = [OURS.into()];
        let settings = XskSettings { ring_size: 256, ..XskSettings::new("near0", &addresses) };
        let port = Port::open(settings, &reservation).unwrap();
        let mut queues = [0, 1].map(|queue| port.queue(queue, heaps[queue as usize].clone()).unwrap());
        assert!(port.queue(0, heaps[0].clone()).is_err(), "somebody has it");

        let far = link.far.clone();
        let client = std::thread::spawn(move || {
            enter(&far);
            let sockets: Vec<UdpSocket> = (0..32).map(|_| UdpSocket::bind((KERNELS, 0)).unwrap()).collect();
            let mut answers = 0;
            for socket in sockets.iter().cycle().take(320) {
                socket.set_read_timeout(Some(Duration::from_secs(5))).unwrap();
                socket.send_to(b"to either queue", (OURS, 7)).unwrap();
                answers += usize::from(socket.recv(&mut [0; 64]).is_ok());
            }
            answers
        });
        while !client.is_finished() {
            for (queue, heap) in queues.iter_mut().zip(&heaps) {
                let mut once = false;
                serve(queue, heap, |frame| frame.is_none() && std::mem::replace(&mut once, true));
            }
        }
        assert_eq!(client.join().unwrap(), 320);
        let received: Vec<u64> = queues.iter().map(|queue| counter(queue, "rx_frames")).collect();
        assert!(received.iter().all(|&count| count >= 10), "both queues are used: {received:?}");
        // The second lives on when the first, whose memory it shares, has gone.
        let [first, mut second] = queues;
        drop(first);
        heaps[0].reclaim();
        assert_eq!(heaps[0].stats().pinned, 0);
        let mut frames = VecDeque::from([datagram(&heaps[1], 1, 2, &[b"still here"])]);
        second.transmit(now(), &mut frames);
        second.flush(now());
        drain(&mut second);
        // And the first can be opened again.
        let first = port.queue(0, heaps[0].clone()).unwrap();
        drop((first, second));
        heaps.iter().for_each(libos_mem::Heap::reclaim);
        assert_eq!((heaps[0].stats().pinned, heaps[1].stats().pinned), (0, 0));
        drop(port);
        assert!(!has_program(&link));
    });
}
