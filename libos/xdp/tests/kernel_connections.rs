//! The life of connections between our stack and the Linux kernel's: how they begin, wait, are refused, and end.

mod kernel;
mod link;

use std::io::{ErrorKind, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::mpsc::channel;
use std::time::Duration;

use kernel::*;
use libos_net::{LineSettings, NetSettings};
use pdpix::{Error, Handle, Network, Op, Outcome, SocketKind, SocketOption};

const TIME_WAIT: u8 = 6;

/// A lab with a wire that takes so long each way, or with none.
fn lab(test: &str, latency_ms: Option<u64>) -> Option<(Lab, Host)> {
    let line = |ms| LineSettings::with_latency(Duration::from_millis(ms));
    let wire = latency_ms.map(|ms| [line(ms), line(ms)]);
    let mut net = NetSettings::default();
    net.tcp.time_wait = Duration::from_secs(1);
    Lab::open(test, Setup { wire, net, ..Setup::default() })
}

/// A connection that we open: our queue, and the kernel's socket.
fn connected(lab: &Lab, host: &mut Host, is_v6: bool) -> (Handle, TcpStream) {
    let listener = lab.listener(is_v6);
    let h = host.connect(listener.local_addr().unwrap()).unwrap();
    let (stream, _) = listener.accept().unwrap();
    stream.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
    stream.set_write_timeout(Some(Duration::from_secs(20))).unwrap();
    (h, stream)
}

fn read_all(mut stream: &TcpStream) -> std::io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    stream.read_to_end(&mut bytes).map(|_| bytes)
}

/// Waits for what a thread of the kernel's side does, while we live on.
fn join<T>(host: &mut Host, thread: std::thread::JoinHandle<T>) -> T {
    host.until("the kernel's side", |_| thread.is_finished().then_some(()));
    thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
}

#[test]
fn either_side_may_finish_and_still_receive() {
    on_a_thread(|| {
        let Some((lab, mut host)) = lab("half_close", None) else { return };
        for is_v6 in [false, true] {
            // We finish first: what the kernel sends after that arrives.
            let (h, mut stream) = connected(&lab, &mut host, is_v6);
            host.push(h, b"the question").unwrap();
            host.net.finish(h).unwrap();
            assert_eq!(host.push(h, b"more"), Err(Error::BrokenPipe));
            let thread = lab.meanwhile(move || {
                let question = read_all(&stream).unwrap();
                std::thread::sleep(Duration::from_millis(300));
                stream.write_all(&vec![7; 300_000]).unwrap();
                question
            });
            assert_eq!(host.pop_all(h, usize::MAX).unwrap(), vec![7; 300_000]);
            assert_eq!(join(&mut host, thread), b"the question");
            host.net.close(h);

            // The kernel finishes first.
            let (h, mut stream) = connected(&lab, &mut host, is_v6);
            stream.write_all(b"the question").unwrap();
            stream.shutdown(Shutdown::Write).unwrap();
            assert_eq!(host.pop_all(h, usize::MAX).unwrap(), b"the question");
            host.live(Duration::from_millis(300));
            let thread = lab.meanwhile(move || read_all(&stream).unwrap());
            host.push(h, &[9; 300_000]).unwrap();
            host.net.finish(h).unwrap();
            assert_eq!(join(&mut host, thread), vec![9; 300_000]);
            host.net.close(h);
        }
        assert_eq!(host.counters().tcp_resets_sent + host.counters().tcp_resets_received, 0);
        host.end();
    });
}

#[test]
fn both_finish_at_once() {
    on_a_thread(|| {
        let Some((lab, mut host)) = lab("simultaneous_close", Some(30)) else { return };
        let (h, stream) = connected(&lab, &mut host, false);
        host.live(Duration::from_millis(100));
        host.net.finish(h).unwrap();
        host.step();
        stream.shutdown(Shutdown::Write).unwrap();
        assert_eq!(host.pop_all(h, 1).unwrap(), b"");
        let thread = lab.meanwhile(move || read_all(&stream).unwrap());
        assert_eq!(join(&mut host, thread), b"");
        host.live(Duration::from_millis(100));
        // Who was answered by a FIN before its own was acknowledged goes through CLOSING to TIME-WAIT: the kernel's side too.
        assert_eq!(lab.kernels_states(), [TIME_WAIT]);
        host.net.close(h);
        assert_eq!((host.counters().tcp_resets_sent, host.counters().tcp_timeouts), (0, 0));
        host.end();
    });
}

#[test]
fn both_open_at_once() {
    on_a_thread(|| {
        let Some((lab, mut host)) = lab("simultaneous_open", Some(50)) else { return };
        // Neighbours are known, so that the SYNs are under way at once.
        let (h, stream) = connected(&lab, &mut host, false);
        drop(stream);
        host.net.close(h);
        let (from, to) = (SocketAddr::new(lab.kernels(false), 7001), SocketAddr::new(ours(false), 7002));
        let (ready, is_ready) = channel();
        let thread = lab.meanwhile(move || {
            use rustix::net::{AddressFamily, SocketType, bind, connect, socket};
            let socket = socket(AddressFamily::INET, SocketType::STREAM, None).unwrap();
            bind(&socket, &from).unwrap();
            ready.send(()).unwrap();
            connect(&socket, &to).expect("the kernel's connect");
            let mut stream = TcpStream::from(socket);
            stream.write_all(b"from the kernel").unwrap();
            stream.shutdown(Shutdown::Write).unwrap();
            read_all(&stream).unwrap()
        });
        let h = host.socket(SocketKind::Stream);
        host.net.bind(h, to).unwrap();
        is_ready.recv().unwrap();
        let op = host.begin(h, Op::Connect(from)).unwrap();
        host.step();
        assert!(matches!(host.wait(op), Ok(Outcome::Connected)));
        host.push(h, b"from us").unwrap();
        host.net.finish(h).unwrap();
        assert_eq!(host.pop_all(h, 100).unwrap(), b"from the kernel");
        assert_eq!(join(&mut host, thread), b"from us");
        assert_eq!(host.counters().tcp_resets_sent + host.counters().tcp_resets_received, 0);
        host.net.close(h);
        host.end();
    });
}

#[test]
fn a_reset_ends_the_others_operations() {
    on_a_thread(|| {
        let Some((lab, mut host)) = lab("resets", None) else { return };
        for is_v6 in [false, true] {
            // The kernel resets: a pop that waits ends so, and a push after it.
            let (h, stream) = connected(&lab, &mut host, is_v6);
            rustix::net::sockopt::set_socket_linger(&stream, Some(Duration::ZERO)).unwrap();
            let op = host.begin(h, Op::Pop { len_max: 100 }).unwrap();
            host.live(Duration::from_millis(20));
            drop(stream);
            assert_eq!(host.wait(op).unwrap_err(), Error::ConnectionReset);
            assert!(host.push(h, b"too late").is_err());
            host.net.close(h);

            // We reset.
            let (h, mut stream) = connected(&lab, &mut host, is_v6);
            host.net.set_option(h, SocketOption::Linger(Duration::ZERO)).unwrap();
            host.net.close(h);
            host.live(Duration::from_millis(20));
            let error = stream.read(&mut [0; 10]).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::ConnectionReset);

            // We close with text that nobody read: RFC 9293 §3.10.4 has no word, RFC 2525 §2.17 wants a reset.
            let (h, mut stream) = connected(&lab, &mut host, is_v6);
            stream.write_all(b"never read").unwrap();
            host.live(Duration::from_millis(20));
            host.net.close(h);
            host.live(Duration::from_millis(20));
            let end = stream.read(&mut [0; 10]).map_err(|error| error.kind());
            assert!(matches!(end, Err(ErrorKind::ConnectionReset)), "{end:?}");
        }
        host.end();
    });
}

#[test]
fn nobody_listens() {
    on_a_thread(|| {
        let Some((lab, mut host)) = lab("refused", None) else { return };
        for is_v6 in [false, true] {
            let [free, to] = [lab.kernels(is_v6), ours(is_v6)].map(|ip| SocketAddr::new(ip, 4711));
            assert_eq!(host.connect(free), Err(Error::ConnectionRefused));
            let thread = lab.meanwhile(move || TcpStream::connect(to).map_err(|error| error.kind()).err());
            assert_eq!(join(&mut host, thread), Some(ErrorKind::ConnectionRefused));
        }
        host.end();
    });
}

#[test]
fn a_silent_peer_is_asked_and_a_dead_one_is_given_up() {
    on_a_thread(|| {
        let Some((lab, mut host)) = lab("keep_alive", Some(1)) else { return };
        // We ask, and on the other connection the kernel.
        let (ours, stream) = connected(&lab, &mut host, false);
        host.net.set_option(ours, SocketOption::KeepAlive(Some(Duration::from_millis(300)))).unwrap();
        let (other, asking) = connected(&lab, &mut host, false);
        let second = Duration::from_secs(1);
        rustix::net::sockopt::set_socket_keepalive(&asking, true).unwrap();
        rustix::net::sockopt::set_tcp_keepidle(&asking, second).unwrap();
        rustix::net::sockopt::set_tcp_keepintvl(&asking, second).unwrap();
        rustix::net::sockopt::set_tcp_keepcnt(&asking, 2).unwrap();
        asking.set_read_timeout(None).unwrap();
        host.live(Duration::from_millis(100));
        let before = lab.wire().counters();
        let pop = host.begin(ours, Op::Pop { len_max: 10 }).unwrap();
        host.live(Duration::from_millis(3500));
        assert!(host.take(pop).is_none(), "it lives");
        let [there, back] = lab.wire().counters();
        // Ten questions of ours and their answers, three of the kernel's and theirs.
        let (there, back) = (there.pushed - before[0].pushed, back.pushed - before[1].pushed);
        assert!((8..40).contains(&there) && (8..40).contains(&back), "{there} there, {back} back");
        // The wire is cut.
        let down = LineSettings { down: true, ..LineSettings::default() };
        lab.wire().set([down.clone(), down]);
        let thread = lab.meanwhile(move || (&asking).read(&mut [0; 10]).map_err(|error| error.raw_os_error()));
        assert_eq!(host.wait(pop).unwrap_err(), Error::TimedOut);
        assert_eq!(join(&mut host, thread), Err(Some(libc::ETIMEDOUT)));
        [ours, other].into_iter().for_each(|h| host.net.close(h));
        drop(stream);
    });
}

#[test]
fn nobody_reads_for_ten_seconds() {
    on_a_thread(|| {
        let Some((lab, mut host)) = lab("zero_window", None) else { return };
        let len = 6 << 20;
        let meeting = Meeting::new(Role::Client, len, len);
        let (h, stream) = connected(&lab, &mut host, false);
        let mut ours = Exchange::new(h, &meeting);
        stream.set_write_timeout(None).unwrap();
        // The kernel writes, and reads nothing; we push, and pop nothing.
        let (go, may_go) = channel();
        let thread = lab.meanwhile(move || {
            exchange_kernel_when(stream, &meeting, Duration::from_secs(30), move || may_go.recv().unwrap())
        });
        let end = std::time::Instant::now() + Duration::from_secs(10);
        let is_blocked = host.run(Duration::from_secs(10), |host| {
            ours.send(host);
            (std::time::Instant::now() > end).then_some(())
        });
        assert!(is_blocked.is_none() || ours.pushed() < len, "a window that never closed");
        let counters = host.counters();
        let asked = counters.tcp_window_probes + counters.tcp_timeouts;
        assert!((4..40).contains(&asked), "asked {asked} times for room: {:?}", host.busy_counters());
        assert!(ours.pushed() < len, "all of it is in buffers, and no window closed");
        go.send(()).unwrap();
        host.until("the rest", |host| ours.advance(host).then_some(()));
        join(&mut host, thread);
        assert_eq!(host.counters().tcp_resets_sent + host.counters().tcp_resets_received, 0);
        host.net.close(h);
        host.end();
    });
}

/// Both ends are short of room, and the reader takes a byte at a time for a while: no silly windows.
#[test]
fn a_reader_of_single_bytes_is_not_fed_with_single_bytes() {
    on_a_thread(|| {
        let Some((lab, mut host)) = lab("slow_reader", None) else { return };
        let (h, stream) = connected(&lab, &mut host, false);
        rustix::net::sockopt::set_socket_recv_buffer_size(&stream, 4096).unwrap();
        let len = 400 << 10;
        let thread = lab.meanwhile(move || {
            let mut bytes = vec![0; 700];
            let mut read = 0;
            loop {
                match (&stream).read(&mut bytes).unwrap() {
                    0 => return read,
                    some => read += some,
                }
            }
        });
        let meeting = Meeting::new(Role::Client, len, 0);
        let mut ours = Exchange::new(h, &meeting);
        host.until("all of it", |host| {
            ours.send(host);
            thread.is_finished().then_some(())
        });
        assert_eq!(thread.join().unwrap(), len as usize);
        let sent = host.counters().tcp_segments_sent;
        assert!(sent < len / 200, "{sent} segments for {len} bytes");
        host.net.close(h);
        host.end();
    });
}

#[test]
fn a_connection_that_nobody_accepts_is_there_all_the_same() {
    on_a_thread(|| {
        let Some((lab, mut host)) = lab("backlog", None) else { return };
        let listener: TcpListener = lab.listener(false);
        let h = host.connect(listener.local_addr().unwrap()).unwrap();
        host.push(h, b"sent before the accept").unwrap();
        host.net.finish(h).unwrap();
        host.live(Duration::from_millis(50));
        let (stream, _) = listener.accept().unwrap();
        assert_eq!(read_all(&stream).unwrap(), b"sent before the accept");
        drop(stream);
        // And the other way around.
        let (listener, at) = host.listen(SocketAddr::new(ours(false), 0));
        let thread = lab.meanwhile(move || {
            let mut stream = TcpStream::connect(at).unwrap();
            stream.write_all(b"sent before the accept").unwrap();
            stream.shutdown(Shutdown::Write).unwrap();
            read_all(&stream).unwrap()
        });
        host.live(Duration::from_millis(50));
        let accepted = host.accept(listener);
        assert_eq!(host.pop_all(accepted, 100).unwrap(), b"sent before the accept");
        [h, accepted, listener].into_iter().for_each(|h| host.net.close(h));
        assert_eq!(join(&mut host, thread), b"");
        host.end();
    });
}

/// A socket of the kernel's that begins at this port, as soon as the connection before it is over there.
fn connect_from(from: SocketAddr, to: SocketAddr) -> TcpStream {
    use rustix::net::{AddressFamily, SocketType, bind, connect, socket, sockopt};
    loop {
        let socket = socket(AddressFamily::INET, SocketType::STREAM, None).unwrap();
        sockopt::set_socket_reuseaddr(&socket, true).unwrap();
        bind(&socket, &from).unwrap();
        match connect(&socket, &to) {
            Ok(()) => return TcpStream::from(socket),
            // Our acknowledgement of its FIN is under way.
            Err(rustix::io::Errno::ADDRNOTAVAIL) => std::thread::sleep(Duration::from_millis(1)),
            Err(errno) => panic!("the kernel's connect: {errno}"),
        }
    }
}

#[test]
fn the_same_ports_again_and_again() {
    on_a_thread(|| {
        let Some((lab, mut host)) = lab("same_ports", None) else { return };
        let start = std::time::Instant::now();
        let rounds = 30;
        // We finish first, so TIME-WAIT is ours: a SYN to it begins anew (RFC 9293 §3.10.7.4, RFC 6191).
        let (listener, at) = host.listen(SocketAddr::new(ours(false), 0));
        let from = SocketAddr::new(lab.kernels(false), 7003);
        let thread = lab.meanwhile(move || {
            for round in 0..rounds {
                let mut stream = connect_from(from, at);
                assert_eq!(read_all(&stream).unwrap(), [round; 5]);
                stream.write_all(&[round; 7]).unwrap();
            }
        });
        for round in 0..rounds {
            let h = host.accept(listener);
            host.push(h, &[round; 5]).unwrap();
            host.net.finish(h).unwrap();
            assert_eq!(host.pop_all(h, usize::MAX).unwrap(), [round; 7]);
            host.net.close(h);
        }
        join(&mut host, thread);
        // The kernel finishes first: TIME-WAIT is there, and we come again.
        let theirs = lab.listener(false);
        let to = theirs.local_addr().unwrap();
        let thread = lab.meanwhile(move || {
            for round in 0..rounds {
                let (mut stream, _) = theirs.accept().unwrap();
                stream.write_all(&[round; 5]).unwrap();
                stream.shutdown(Shutdown::Write).unwrap();
                assert_eq!(read_all(&stream).unwrap(), [round; 7]);
            }
        });
        for round in 0..rounds {
            let h = host.socket(SocketKind::Stream);
            host.net.bind(h, SocketAddr::new(ours(false), 7004)).unwrap();
            let op = host.begin(h, Op::Connect(to)).unwrap();
            host.wait(op).unwrap();
            assert_eq!(host.pop_all(h, usize::MAX).unwrap(), [round; 5]);
            host.push(h, &[round; 7]).unwrap();
            host.net.finish(h).unwrap();
            host.net.close(h);
            host.until("the last acknowledgement", |host| (host.net.zombies() == 0).then_some(()));
        }
        join(&mut host, thread);
        assert!(start.elapsed() < Duration::from_secs(15), "a SYN had to be sent again: {:?}", start.elapsed());
        host.net.close(listener);
        host.end();
    });
}

#[test]
fn two_hundred_connections_at_once() {
    on_a_thread(|| {
        let Some((lab, mut host)) = lab("many", Some(2)) else { return };
        let meeting = |i: u64| {
            let role = if i.is_multiple_of(2) { Role::Client } else { Role::Server };
            Meeting { is_v6: i % 4 > 1, ..Meeting::new(role, i * 100, 20_000 - i * 100) }
        };
        let meetings: Vec<Meeting> = (0..200).map(meeting).collect();
        carry(&lab, &mut host, &meetings, Duration::from_secs(40));
        host.end();
    });
}
