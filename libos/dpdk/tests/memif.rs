//! What memif's driver does beside carrying frames: how its client looks for a server, how a server comes by its socket, and
//! that small rings give back what they were sent.

#[allow(dead_code, reason = "links of one kind are made here, and by hand")]
mod ports;

use std::collections::VecDeque;
use std::fs;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, mpsc};
use std::time::{Duration, Instant as Clock};

use libos_dpdk::{OpenError, Port, PortSettings, Queue};
use libos_mem::Heap;
use libos_net::{Device, Frame, Received};
use pdpix::{Error, Instant, Sga};
use ports::{Opened, eal, opened, reserve, wait_until_up};
use rustix::io::Errno;
use rustix::net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType};

const HEAP_SIZE: usize = 32 << 20;
const LIMIT: Duration = Duration::from_secs(60);

/// Ports of one process are not opened while others are closed (docs/dpdk.md).
fn alone() -> MutexGuard<'static, ()> {
    static ONE: Mutex<()> = Mutex::new(());
    ONE.lock().unwrap_or_else(PoisonError::into_inner)
}

fn with(test: &str, result: Opened<()>) {
    if let Err(why) = result {
        println!("SKIP dpdk/{test}: {why}");
    }
}

/// A folder that goes with the test.
struct Folder(PathBuf);

impl Folder {
    fn make() -> Folder {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let number = COUNT.fetch_add(1, Ordering::Relaxed);
        let path = std::env::temp_dir().join(format!("margay-dpdk-{}xm{number}", std::process::id()));
        fs::create_dir_all(&path).expect("a folder");
        Folder(path)
    }

    fn socket(&self) -> PathBuf {
        self.0.join("socket")
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

/// A port of this process, of a name that no other has.
fn open(socket: &Path, arguments: &str) -> Opened<Result<(Arc<Port>, Heap), OpenError>> {
    static COUNT: AtomicU32 = AtomicU32::new(0);
    let reservation = reserve(1, HEAP_SIZE)?;
    let number = COUNT.fetch_add(1, Ordering::Relaxed);
    let device =
        format!("net_memif{}y{number},{arguments},socket={},socket-abstract=no", std::process::id(), socket.display());
    let port = match Port::open(eal()?, PortSettings::new(&device), &reservation) {
        Err(OpenError::Unsupported(why)) => return Err(why),
        other => other,
    };
    Ok(port.map(|port| (port, reservation.heap(0).expect("the first"))))
}

/// Of a socket that is no driver's.
fn unix_socket() -> OwnedFd {
    let flags = SocketFlags::NONBLOCK | SocketFlags::CLOEXEC;
    rustix::net::socket_with(AddressFamily::UNIX, SocketType::SEQPACKET, flags, None).expect("a socket")
}

fn address(path: &Path) -> SocketAddrUnix {
    SocketAddrUnix::new(path).expect("a path that is short enough")
}

/// A server that is there, and accepts nobody by itself.
fn silent_server(path: &Path) -> OwnedFd {
    let socket = unix_socket();
    rustix::net::bind(&socket, &address(path)).expect("the path is free");
    rustix::net::listen(&socket, 1).expect("bound");
    socket
}

/// Whose connection waits, if any does.
fn accepted(server: &OwnedFd) -> Option<OwnedFd> {
    match rustix::net::accept(server) {
        Ok(connection) => Some(connection),
        Err(Errno::AGAIN) => None,
        Err(errno) => panic!("accept: {errno}"),
    }
}

/// Does something that may hang; if it does, `rescue` ends that, and the test fails.
fn within(limit: Duration, what: &str, rescue: impl FnOnce() + Send, act: impl FnOnce()) {
    std::thread::scope(|scope| {
        let (done, is_done) = mpsc::channel();
        let guard = scope.spawn(move || {
            let has_hung = is_done.recv_timeout(limit).is_err();
            if has_hung {
                rescue();
            }
            has_hung
        });
        act();
        let _ = done.send(());
        assert!(!guard.join().expect("it only waits"), "{what} took more than {limit:?}");
    });
}

/// Looks for what the queue has, for a while.
fn look(queue: &mut Queue, clock: Clock, during: Duration, mut is_over: impl FnMut() -> bool) {
    let (start, mut into) = (Clock::now(), VecDeque::new());
    while start.elapsed() < during && !is_over() {
        let now = Instant::from_nanos(clock.elapsed().as_nanos() as u64);
        queue.receive(now, &mut into, 64).expect("a link that has not been there is no error");
        queue.flush(now);
        std::thread::sleep(Duration::from_millis(2));
    }
}

/// A client connects once, waits for whatever its server takes, and connects again when the server has let go of it. Each
/// connection that is given up takes a place in the server's queue for ever, and for a third the driver would wait in
/// `connect`.
fn unanswered() -> Opened<()> {
    let _alone = alone();
    let folder = Folder::make();
    // As in a container: where it was bound it had another name.
    let server = silent_server(&folder.0.join("inside"));
    fs::rename(folder.0.join("inside"), folder.socket()).expect("a folder of ours");
    let (port, heap) = opened(open(&folder.socket(), "role=client")?)?;
    let mut queue = port.queue(0, heap).expect("its queue");
    let clock = Clock::now();
    let rescue = || while accepted(&server).is_some() {};
    within(Duration::from_secs(8), "four seconds with a silent server", rescue, || {
        look(&mut queue, clock, Duration::from_secs(4), || false);
    });
    let first = accepted(&server).expect("the client is there");
    assert!(accepted(&server).is_none(), "and once only");
    drop(first);
    let mut second = None;
    look(&mut queue, clock, Duration::from_secs(10), || {
        second = accepted(&server);
        second.is_some()
    });
    assert!(second.is_some(), "it has come again");
    Ok(())
}

/// Who comes first waits for who comes later.
fn client_first() -> Opened<()> {
    let _alone = alone();
    let folder = Folder::make();
    let (client, heap) = opened(open(&folder.socket(), "role=client")?)?;
    let mut queue = client.queue(0, heap).expect("its queue");
    look(&mut queue, Clock::now(), Duration::from_millis(300), || false);
    let (server, server_heap) = opened(open(&folder.0.join(".").join("socket"), "role=server")?)?;
    let _queue = server.queue(0, server_heap).expect("its queue");
    wait_until_up(&[&server, &client]);
    Ok(())
}

/// A server that has no time is a server: its socket stays, whoever comes to be one as well hears so at once, and the first
/// hears nothing of that. Somebody who has connected and is gone would be the end of memif's.
fn busy_server(server: impl FnOnce(&Path) -> Opened<OwnedFd>) -> Opened<()> {
    let _alone = alone();
    let folder = Folder::make();
    let server = server(&folder.socket())?;
    let come_second = || {
        let rescue = || while accepted(&server).is_some() {};
        let mut outcome = None;
        within(Duration::from_secs(8), "opening a second server", rescue, || {
            outcome = Some(open(&folder.socket(), "role=server"));
        });
        let refused = outcome.expect("it has ended")?;
        assert!(matches!(refused, Err(OpenError::Refused { .. })), "{refused:?}");
        assert!(folder.socket().exists(), "the first one's socket is where it was");
        Opened::Ok(())
    };
    come_second()?;
    assert!(accepted(&server).is_none(), "nobody has connected");
    // As many as its queue takes.
    let waiting: Vec<OwnedFd> = std::iter::from_fn(|| {
        let socket = unix_socket();
        rustix::net::connect(&socket, &address(&folder.socket())).is_ok().then_some(socket)
    })
    .collect();
    assert!((1..8).contains(&waiting.len()), "{} wait", waiting.len());
    come_second()
}

/// A port without copies has no other before or after it.
fn has_this_process() -> Opened<()> {
    if std::env::var("NEXTEST_EXECUTION_MODE").is_ok_and(|mode| mode == "process-per-test")
        || std::env::args().any(|argument| argument == "--exact")
    {
        return Ok(());
    }
    Err("its driver closes DPDK's memory: it takes a process for itself (cargo nextest, or --exact)".into())
}

/// Who does not copy cannot connect again: a server that lets go of it before there is a link is the end of its network, as
/// one that does later. It waits for one that keeps it.
fn let_go() -> Opened<()> {
    let _alone = alone();
    has_this_process()?;
    let folder = Folder::make();
    let server = silent_server(&folder.socket());
    let (port, heap) = opened(open(&folder.socket(), "role=client,zero-copy=yes")?)?;
    let mut queue = port.queue(0, heap).expect("its queue");
    let clock = Clock::now();
    look(&mut queue, clock, Duration::from_secs(3), || false);
    drop(accepted(&server).expect("the client is there"));
    let (start, mut into) = (Clock::now(), VecDeque::new());
    let error = loop {
        if let Err(error) = queue.receive(Instant::from_nanos(clock.elapsed().as_nanos() as u64), &mut into, 64) {
            break error;
        }
        assert!(start.elapsed() < Duration::from_secs(10), "nobody is told");
        std::thread::sleep(Duration::from_millis(2));
    };
    assert_eq!(error, Error::NetworkDown);
    assert!(accepted(&server).is_none(), "it has not come again");
    Ok(())
}

/// A server in a network namespace of its own, as containers with a folder in common have them.
fn elsewhere(path: &Path) -> Opened<OwnedFd> {
    std::thread::scope(|scope| {
        let made = scope.spawn(|| {
            libos_conformance::namespace::enter_new_namespace()?;
            Ok(silent_server(path))
        });
        made.join().expect("it does not fail")
    })
}

/// Who comes to be a second server does no harm to the first, which would abort if it greeted somebody who is gone.
fn second_server() -> Opened<()> {
    let _alone = alone();
    let folder = Folder::make();
    let (_server, _) = opened(open(&folder.socket(), "role=server")?)?;
    for _ in 0..20 {
        let refused = open(&folder.0.join(".").join("socket"), "role=server")?;
        assert!(matches!(refused, Err(OpenError::Refused { .. })), "{refused:?}");
    }
    assert!(folder.socket().exists(), "the first one's socket is where it was");
    Ok(())
}

/// So is one that has taken the name, and does not listen yet.
fn early_server() -> Opened<()> {
    let _alone = alone();
    let folder = Folder::make();
    let server = unix_socket();
    rustix::net::bind(&server, &address(&folder.socket())).expect("the path is free");
    let refused = open(&folder.socket(), "role=server")?;
    assert!(matches!(refused, Err(OpenError::Refused { .. })), "{refused:?}");
    rustix::net::listen(&server, 1).expect("bound");
    let client = unix_socket();
    assert_eq!(rustix::net::connect(&client, &address(&folder.socket())), Ok(()), "the first one's socket is there");
    Ok(())
}

/// What a server has left that is gone is no hindrance, whatever its role is called; but only where the driver would make a
/// file of that name.
fn left_behind() -> Opened<()> {
    let _alone = alone();
    for role in ["server", "master"] {
        let folder = Folder::make();
        drop(silent_server(&folder.socket()));
        assert!(folder.socket().exists(), "it is left");
        let (_port, _) = opened(open(&folder.socket(), &format!("role={role}"))?)?;
        // Until it greets: see `second_server`.
        let client = unix_socket();
        assert_eq!(rustix::net::connect(&client, &address(&folder.socket())), Ok(()), "{role} listens");
        let (start, mut hello) = (Clock::now(), [0; 256]);
        while rustix::io::read(&client, &mut hello).is_err() {
            assert!(start.elapsed() < LIMIT, "{role} greets");
            std::thread::sleep(Duration::from_millis(1));
        }
    }
    let folder = Folder::make();
    drop(silent_server(&folder.socket()));
    let device = format!("net_memif{}z,role=server,socket={}", std::process::id(), folder.socket().display());
    let _port = opened(Port::open(eal()?, PortSettings::new(&device), &reserve(1, HEAP_SIZE)?))?;
    assert!(folder.socket().exists(), "a name without a file needs no file removed");
    Ok(())
}

const PIECE_LEN: usize = 500;

/// A frame of its own Ethernet type with its number: one that is copied, or one of three pieces.
fn frame(heap: &Heap, number: u32, is_short: bool) -> Frame {
    let mut header = vec![0; 60];
    header[..6].copy_from_slice(&[0xff; 6]);
    header[12..14].copy_from_slice(&[0x88, 0xb5]);
    header[14..18].copy_from_slice(&number.to_be_bytes());
    let mut payload = Sga::new();
    for _ in 0..if is_short { 0 } else { 2 } {
        payload.push(heap.copy(&[number as u8; PIECE_LEN]).unwrap()).unwrap();
    }
    Frame { header: heap.copy(&header).unwrap(), payload, checksum: None, segment_size: 0 }
}

/// A ring that is smaller than what PortSettings ask for, which this driver does not listen to, is never filled either: of
/// a frame in pieces that meets its end the first would never come back.
fn small_ring() -> Opened<()> {
    let _alone = alone();
    has_this_process()?;
    let folder = Folder::make();
    // Two names of one socket: the driver takes one name in one role only.
    let (server, server_heap) = opened(open(&folder.0.join(".").join("socket"), "role=server")?)?;
    let mut receiver = server.queue(0, server_heap).expect("its queue");
    let (client, heap) = opened(open(&folder.socket(), "role=client,zero-copy=yes,rsize=8")?)?;
    let mut sender = client.queue(0, heap.clone()).expect("its queue");
    wait_until_up(&[&server, &client]);
    let clock = Clock::now();
    for queue in [&mut sender, &mut receiver] {
        look(queue, clock, Duration::from_millis(50), || false);
    }
    let now = || Instant::from_nanos(clock.elapsed().as_nanos() as u64);
    // Of 256 places, 101 short ones leave no multiple of three.
    const SHORT: u32 = 101;
    const COUNT: u32 = 600;
    let mut waiting: VecDeque<Frame> = (0..COUNT).map(|number| frame(&heap, number, number < SHORT)).collect();
    for _ in 0..10 {
        sender.transmit(now(), &mut waiting);
        sender.flush(now());
    }
    assert!(waiting.len() as u32 > COUNT - 256, "nobody has looked at the other end: {} wait", waiting.len());
    let (mut received, mut into) = (0, VecDeque::new());
    while received < COUNT {
        assert!(clock.elapsed() < LIMIT, "{received} of {COUNT}: {sender:?}, {receiver:?}");
        sender.transmit(now(), &mut waiting);
        sender.flush(now());
        receiver.receive(now(), &mut into, 64).expect("the link is there");
        for Received { buf, .. } in into.drain(..) {
            if buf.get(12..14) != Some(&[0x88, 0xb5]) {
                continue; // nobody's of ours
            }
            let len = if received < SHORT { 60 } else { 60 + 2 * PIECE_LEN };
            assert_eq!((&buf[14..18], buf.len()), (&received.to_be_bytes()[..], len), "in order, and whole");
            assert!(buf[60..].iter().all(|&byte| byte == received as u8), "frame {received} is right");
            received += 1;
        }
    }
    assert!(waiting.is_empty());
    look(&mut sender, clock, Duration::from_secs(1), || false);
    assert_eq!(sender.in_flight(), 0, "all that was sent is back: {sender:?}");
    Ok(())
}

/// A ring that has no room for the longest of frames and what goes beside it is refused, in words.
fn tiny_ring() -> Opened<()> {
    let _alone = alone();
    let folder = Folder::make();
    let refused = open(&folder.socket(), "role=client,zero-copy=yes,rsize=4")?;
    let Err(OpenError::BadSettings(why)) = refused else { panic!("{refused:?}") };
    assert!(why.contains("rsize"), "{why}");
    Ok(())
}

#[test]
fn a_server_that_does_not_answer_holds_nobody_up() {
    with("a_server_that_does_not_answer_holds_nobody_up", unanswered());
}

#[test]
fn a_client_finds_the_server_that_comes_later() {
    with("a_client_finds_the_server_that_comes_later", client_first());
}

#[test]
fn a_server_without_time_keeps_its_socket() {
    with("a_server_without_time_keeps_its_socket", busy_server(|path| Ok(silent_server(path))));
}

#[test]
fn so_does_one_in_another_namespace() {
    with("so_does_one_in_another_namespace", busy_server(elsewhere));
}

#[test]
fn a_second_server_does_the_first_no_harm() {
    with("a_second_server_does_the_first_no_harm", second_server());
}

#[test]
fn a_server_that_does_not_listen_yet_keeps_its_socket() {
    with("a_server_that_does_not_listen_yet_keeps_its_socket", early_server());
}

#[test]
fn what_a_dead_server_left_is_no_hindrance() {
    with("what_a_dead_server_left_is_no_hindrance", left_behind());
}

#[test]
fn a_small_ring_without_copies_gives_everything_back() {
    with("a_small_ring_without_copies_gives_everything_back", small_ring());
}

#[test]
fn a_server_that_lets_go_at_once_is_the_end_of_a_client_without_copies() {
    with("a_server_that_lets_go_at_once_is_the_end_of_a_client_without_copies", let_go());
}

#[test]
fn a_ring_that_is_too_small_is_refused() {
    with("a_ring_that_is_too_small_is_refused", tiny_ring());
}
